//! Khala inside an application's own process, with no server: appends beside plain SQLite, and how soon a revocation closes
//! sockets.

use super::{Scale, append::raw};
use crate::comparison::{
    embedded::{self, Hints, Store, Task},
    workload::{Competitor, Headline, Role, Workload},
};

const DURABILITY: &str = "each update synced to disk (synchronous=FULL)";
const CLOSED: &str = "closed, p95";
const TOPICS: usize = 1_000;

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let seconds = scale.seconds;
    let appends = [
        ("append-embedded-1", 1, 1),
        ("append-embedded-64", 64, 1),
        ("append-embedded-1024", 1_024, 1),
        ("append-embedded-topics", 64, TOPICS),
    ];
    let mut workloads: Vec<_> = appends
        .map(|(name, tasks, topics)| Workload {
            name,
            title: format!("{tasks} tasks in one process that append to {topics} topics in turn"),
            unit: "an update that was stored",
            headline: Headline::Cost,
            notes: vec![format!(
                "The floor has transactions of {tasks} rows. `khala-embedded` is the handle that an application holds, \
                 `khala-store` the store below it, `khala-postgres` that of PostgreSQL, whose processor time counts. There is \
                 no server: cost is the processor time of the whole process, tasks included. What is stored is counted \
                 afterwards."
            )],
            competitors: competitors(tasks, topics, seconds),
        })
        .into();
    let open = scale.small;
    let revocations =
        [("revoke", open, 1), ("revoke-many", open, open / 10)].map(|(name, open, named)| Workload {
            name,
            title: format!("sessions revoked, each of which closes {named} of {open} connections"),
            unit: "a revocation whose connections are closed",
            headline: Headline::extra(CLOSED, "ms"),
            notes: vec![
                "From handing a revocation to a node, which syncs it first, until the last client that it names has read its \
                 close (4003). `khala` is one node; the others are two on one SQLite file, of which the clients are at the one \
                 that did not take the revocation: it hears of it through a fanout, through the store's own file, or, with every \
                 hint lost, by polling. Nodes and clients share a process. Clients that are not named stay, which is checked."
                    .to_owned(),
            ],
            competitors: [
                ("khala", Hints::Alone),
                ("khala-fanout", Hints::Fanout),
                ("khala-file", Hints::File),
                ("khala-polling", Hints::Polling),
            ]
            .map(|(name, hints)| {
                competitor(name, "WebSocket", seconds, Task::Revoke { hints, open, named })
            })
            .into(),
        });
    workloads.extend(revocations);
    workloads
}

fn competitors(tasks: usize, topics: usize, seconds: f64) -> Vec<Competitor> {
    let append = |name, store| append(name, store, tasks, topics, seconds);
    let mut competitors = vec![
        raw("rusqlite", tasks, seconds),
        append("khala-embedded", Store::Handle),
        append("khala-store", Store::Sqlite),
    ];
    if tasks == 64 {
        competitors.push(Competitor {
            durability: "each update synced to disk (synchronous_commit=on)",
            measure: Box::new(move |tools| embedded::append_to_postgres(tools, tasks, topics, seconds)),
            ..append("khala-postgres", Store::Sqlite)
        });
    }
    competitors
}

fn append(name: &'static str, store: Store, tasks: usize, topics: usize, seconds: f64) -> Competitor {
    competitor(name, "no server", seconds, Task::Append { store, tasks, topics })
}

fn competitor(name: &'static str, over: &'static str, seconds: f64, task: Task) -> Competitor {
    Competitor {
        name,
        role: Role::Khala,
        over,
        durability: DURABILITY,
        measure: Box::new(move |tools| embedded::run(tools, task.clone(), seconds)),
    }
}
