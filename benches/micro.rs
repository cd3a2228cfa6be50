//! The hot parts by time: the same functions that `instructions` counts, whose figures do not depend on who else uses the
//! machine. `append` and `page` measure what only time tells: group commit, and hand-offs between threads.

#[path = "parts/mod.rs"]
mod parts;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use khala_core::wire::Serializer;

use self::parts::{
    Ahead, Answered, AppendIn, CaughtUp, Decode, EncodePage, EncodeReply, HEARTBEAT, Hit, HotRead, JOIN,
    Moved, Page, Part as _, Raise, SqlitePage, all_parts,
};

macro_rules! timed {
    ($($name:ident: $part:ty = $new:expr;)*) => {
        fn micro(c: &mut Criterion) {
            let mut group = c.benchmark_group("micro");
            $(group.bench_function(stringify!($name), |bencher| {
                let mut part: $part = $new;
                bencher.iter_with_large_drop(|| part.run());
            });)*
            for updates in [200, 1_000] {
                group.bench_function(format!("sqlite_page_{updates}"), |bencher| {
                    let mut part = SqlitePage::new(updates);
                    bencher.iter_batched(|| (), |()| part.run(), BatchSize::SmallInput);
                });
            }
            group.finish();
        }
    };
}

all_parts!(timed);

criterion_group!(benches, micro);
criterion_main!(benches);
