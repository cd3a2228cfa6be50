//! The hot paths by time: the same functions that `instructions` counts, whose figures do not depend on what else the machine does.
//! What only a whole process tells, group commit and hand-offs between threads, is measured by the comparison.

#[path = "mod.rs"]
mod hot_paths;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use khala_core::wire::Serializer;

use self::hot_paths::{
    Ahead, Answered, AppendIn, CaughtUp, Decode, EncodePage, EncodeReply, HEARTBEAT, Hit, HotPath as _,
    HotRead, JOIN, Moved, Page, Raise, SqlitePage, all_hot_paths,
};

macro_rules! timed {
    ($($name:ident: $path:ty = $new:expr;)*) => {
        fn hot_paths_by_time(c: &mut Criterion) {
            let mut group = c.benchmark_group("hot_paths");
            $(group.bench_function(stringify!($name), |bencher| {
                let mut path: $path = $new;
                bencher.iter_with_large_drop(|| path.run());
            });)*
            for updates in [200, 1_000] {
                group.bench_function(format!("sqlite_page_{updates}"), |bencher| {
                    let mut path = SqlitePage::new(updates);
                    bencher.iter_batched(|| (), |()| path.run(), BatchSize::SmallInput);
                });
            }
            group.finish();
        }
    };
}

all_hot_paths!(timed);

criterion_group!(benches, hot_paths_by_time);
criterion_main!(benches);
