//! The hot paths by instructions, counted by valgrind's callgrind: repeatable to a few in a thousand on the noisiest
//! machine, for the same build. `scripts/instructions` installs what it needs and runs it.

#![expect(missing_docs, reason = "the benchmark's macros make modules and functions without any")]

#[path = "mod.rs"]
mod hot_paths;

use gungraun::{
    Callgrind, EntryPoint, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use khala_core::{journal::Replay, wire::Serializer};

use self::hot_paths::{
    Ahead, Answered, AppendIn, CaughtUp, Decode, EncodePage, EncodeReply, HEARTBEAT, Hit, HotPath, HotRead,
    JOIN, Moved, Page, Raise, SqlitePage, all_hot_paths,
};

macro_rules! counted {
    ($($name:ident: $path:ty = $new:expr;)*) => {
        $(
            #[library_benchmark]
            #[bench::once($new)]
            fn $name(mut path: $path) -> (<$path as HotPath>::Made, $path) {
                (path.run(), path)
            }
        )*

        library_benchmark_group!(name = here, benchmarks = [$($name),*]);
    };
}

all_hot_paths!(counted);

/// The store reads on threads of its own: what is counted is the function that does it there.
fn on_its_thread() -> LibraryBenchmarkConfig {
    let read = EntryPoint::Custom("khala_store_sqlite::read::page".to_owned());
    LibraryBenchmarkConfig::default().tool(Callgrind::default().entry_point(read)).clone()
}

// A first read of the connection: that it prepares the statements and opens the pages of the file is counted too.
#[library_benchmark(config = on_its_thread())]
#[bench::of_200(SqlitePage::new(200))]
#[bench::of_1000(SqlitePage::new(1_000))]
fn sqlite_page(mut path: SqlitePage) -> (Replay, SqlitePage) {
    (path.run(), path)
}

library_benchmark_group!(name = there, benchmarks = sqlite_page);

main!(library_benchmark_groups = [here, there]);
