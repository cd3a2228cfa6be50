//! The suite of `khala_benches::beside`, as small as it gets, without peers: that it works, and that nothing is lost.

use khala_benches::{
    beside::{self, Programs, Tools},
    crowd::{Failure, Program},
};

#[test]
fn every_row_works_with_floors_and_khala() -> Result<(), Failure> {
    let programs = Programs::new(
        env!("CARGO_BIN_EXE_khala-load"),
        env!("CARGO_BIN_EXE_khala-floor"),
        env!("CARGO_BIN_EXE_khala-alone"),
    );
    beside::tiny(&Tools::new(programs, Program::beside_this()?))
}
