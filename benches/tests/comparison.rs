//! The comparison, as small as it gets, with floors and Khala: that it works, and that nothing is lost.

use khala_benches::comparison::{self, Tools};
use khala_testing::{Failure, Program};

#[test]
fn every_workload_works_with_floors_and_khala() -> Result<(), Failure> {
    let own = env!("CARGO_BIN_EXE_khala-comparison").into();
    comparison::tiny(&Tools::new(own, Program::of_this_profile()?))
}
