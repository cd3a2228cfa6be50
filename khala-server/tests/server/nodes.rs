//! Several nodes on one PostgreSQL: real servers, each a process of its own.

use std::{path::Path, time::Duration};

use http::Method;
use khala_testing::{Cluster, Nats};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use crate::{
    binary::{KEY, Started, command, ended, refused},
    support::{LONG, Socket, closed, hear, join, say},
};

const ADMIN: &str = "an-admin-token-of-32-characters!";
const UPDATES: &str = "/v1/topics/t/updates";
const UPDATE: &str = r#"{"kind":"k","payload":1}"#;

/// The nodes of one database, which share a folder and so a development key. Each polls so seldom that only what is
/// announced is in time.
struct Nodes {
    folder: TempDir,
    url: String,
    more: Vec<(&'static str, String)>,
}

impl Nodes {
    fn on(url: String) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), url, more: Vec::new() }
    }

    /// In a fresh database of the cluster that all tests share.
    fn new() -> Self {
        Self::on(Cluster::shared().database())
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.more.push((name, value.into()));
        self
    }

    fn command(&self) -> Command {
        let mut command = command(self.folder.path());
        command.env("KHALA_DATABASE", &self.url).env("KHALA_SESSION__POLL_INTERVAL_SECONDS", "600");
        command.env("KHALA_AUTH__ADMIN_TOKEN", ADMIN).env("KHALA_SWEEP_INTERVAL_SECONDS", "none");
        command.envs(self.more.iter().map(|(name, value)| (name, value)));
        command
    }

    /// One that hears the others.
    async fn start(&self, name: &str) -> Started {
        let mut command = self.command();
        command.env("KHALA_NODE", name);
        let started = Started::with_key(command).await;
        hears(&started).await;
        started
    }

    fn sql(&self, statements: &str) -> String {
        Cluster::shared().sql(self.url.rsplit('/').next().unwrap(), statements)
    }
}

/// Waits until the server is ready, with nothing to note.
async fn hears(server: &Started) {
    until(async || {
        server.send(Method::GET, "/readyz", "", "").await == (200, r#"{"status":"ready"}"#.to_owned())
    })
    .await;
}

/// Waits until `done`, which something else brings about.
#[expect(clippy::future_not_send, reason = "a test waits in its own thread")]
async fn until(done: impl AsyncFn() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, wait).await.expect("it comes about in time");
}

async fn publish(server: &Started) -> Value {
    let (status, body) = server.send(Method::POST, UPDATES, &server.token, UPDATE).await;
    assert_eq!(status, 201, "{body}");
    serde_json::from_str(&body).unwrap()
}

async fn joined(server: &Started, topic: &str, payload: Value) -> Socket {
    let mut socket = server.connect().await.unwrap();
    let answer = join(&mut socket, topic, payload).await;
    assert_eq!(answer[4]["status"], "ok", "{answer}");
    socket
}

/// The seqs of the next batch.
async fn batch(socket: &mut Socket) -> Vec<u64> {
    loop {
        let frame = hear(socket).await;
        if frame[3] == "sync:head" {
            continue;
        }
        assert_eq!(frame[3], "sync:update_batch", "{frame}");
        return frame[4]["updates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|update| update["seq"].as_u64().unwrap())
            .collect();
    }
}

#[tokio::test]
async fn what_is_published_at_one_node_is_heard_at_the_other() {
    let nodes = Nodes::new();
    let (one, two) = (nodes.start("one").await, nodes.start("two").await);
    let mut socket = joined(&two, "t", json!({})).await;
    for seq in 1..=3 {
        assert_eq!(publish(&one).await["last"], seq);
        assert_eq!(batch(&mut socket).await, [seq]);
    }
    // What an application appends in its own transaction, in any language.
    let appended = nodes.sql("SELECT outcome, last_seq FROM khala.append('t', 'k', '{\"from\": \"sql\"}')");
    assert_eq!(appended, "written|4");
    let frame = hear(&mut socket).await;
    assert_eq!(frame[4]["updates"][0]["payload"], json!({"from": "sql"}), "{frame}");
    // On both the log is the same.
    for server in [&one, &two] {
        let (_, page) = server.send(Method::GET, UPDATES, &server.token, "").await;
        assert_eq!(serde_json::from_str::<Value>(&page).unwrap()["head"], 4, "{page}");
    }
    let (_, metrics) = two.send(Method::GET, "/metrics", "", "").await;
    for line in
        ["khala_fanout_connected{transport=\"postgres\"} 1", "khala_store_connections{state=\"idle\"}"]
    {
        assert!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
}

#[tokio::test]
async fn what_is_revoked_at_one_node_is_ended_at_the_other() {
    let nodes = Nodes::new();
    let (one, two) = (nodes.start("one").await, nodes.start("two").await);
    let mut socket = joined(&two, "t", json!({})).await;
    let path = "/internal/v1/khala/revocations";
    let (status, body) = one.send(Method::POST, path, ADMIN, r#"{"by":"sub","id":"dev"}"#).await;
    assert_eq!(status, 201, "{body}");
    let (_, reason) = timeout(Duration::from_secs(5), closed(&mut socket)).await.unwrap();
    assert!(reason.contains("revoked"), "{reason}");
    assert_eq!(two.connect().await.err(), Some(401));
}

/// The database is killed under two servers, and comes back.
#[tokio::test]
async fn without_its_database_a_node_waits_and_goes_on_by_itself() {
    let cluster = Cluster::start();
    let nodes = Nodes::on(cluster.database())
        .with("KHALA_SESSION__POLL_INTERVAL_SECONDS", "2")
        .with("KHALA_MINT__SECRET", "a-mint-secret-of-32-characters!!");
    let (one, two) = (nodes.start("one").await, nodes.start("two").await);
    let mut socket = joined(&two, "t", json!({})).await;
    publish(&one).await;
    assert_eq!(batch(&mut socket).await, [1]);

    cluster.kill();
    until(async || one.get("/readyz", "").await == 503).await;
    for server in [&one, &two] {
        let problem = server.answer(Method::GET, "/readyz", "", "").await.problem(503, "journal_unavailable");
        assert_eq!(problem["reasons"], json!(["the database cannot be reached, or does not answer"]));
        assert_eq!(server.get("/healthz", "").await, 200);
        assert_eq!(server.get("/metrics", "").await, 200);
    }
    // Whoever connects is let in by what the node knows to be revoked, and is told at the join.
    let mut newcomer = one.connect().await.unwrap();
    let refusal = join(&mut newcomer, "t", json!({})).await;
    assert_eq!(refusal[4]["response"]["code"], "unavailable", "{refusal}");
    let token = &one.token;
    // At once, for each is answered only when the pool of connections has given up.
    let asked = [
        (Method::POST, UPDATES, &**token, UPDATE),
        (Method::GET, UPDATES, token, ""),
        (Method::GET, "/v1/topics", token, ""),
        (Method::GET, "/v1/topics/t", token, ""),
        (Method::GET, "/v1/topics/t/snapshot", token, ""),
        (Method::GET, "/v1/topics/t/documents/d", token, ""),
        (Method::POST, "/internal/v1/khala/revocations", ADMIN, r#"{"by":"sub","id":"x"}"#),
        (Method::GET, "/internal/v1/khala/revocations", ADMIN, ""),
        (Method::GET, "/internal/v1/khala/retention", ADMIN, ""),
        (Method::POST, "/internal/v1/khala/retention", ADMIN, "{}"),
    ];
    let answered = asked.map(async |(method, path, token, body)| {
        (method.clone(), path, one.answer(method, path, token, body).await)
    });
    for (method, path, answer) in futures::future::join_all(answered).await {
        let problem = answer.problem(503, "unavailable");
        assert!(problem["retry_after_ms"].is_u64(), "{method} {path}: {answer:?}");
        assert!(answer.header("retry-after").parse::<u64>().is_ok(), "{method} {path}: {answer:?}");
        assert!(!answer.text.contains("127.0.0.1"), "{answer:?}");
    }
    // Without the store.
    let (status, body) =
        one.send(Method::POST, "/v1/token", "a-mint-secret-of-32-characters!!", r#"{"subject":"ada"}"#).await;
    assert_eq!(status, 200, "{body}");
    // What is joined stays so, and a join is told to come back.
    say(&mut socket, json!(["2", "2", "u", "phx_join", {}])).await;
    let refusal = loop {
        let frame = hear(&mut socket).await;
        if frame[3] == "phx_reply" {
            break frame;
        }
        assert_eq!(frame[3], "sync:head", "{frame}");
    };
    assert_eq!(
        (&refusal[4]["status"], &refusal[4]["response"]["code"]),
        (&json!("error"), &json!("unavailable"))
    );
    assert!(refusal[4]["response"]["retry_after_ms"].is_u64(), "{refusal}");
    say(&mut socket, json!([null, "3", "phoenix", "heartbeat", {}])).await;
    assert_eq!(hear(&mut socket).await[4]["status"], "ok");

    cluster.restart();
    for server in [&one, &two] {
        hears(server).await;
    }
    assert_eq!(publish(&one).await["last"], 2, "what was not acknowledged was not stored");
    assert_eq!(batch(&mut socket).await, [2]);
    say(&mut socket, json!(["4", "4", "u", "phx_join", {}])).await;
    assert_eq!(hear(&mut socket).await[4]["status"], "ok");
    let (_, metrics) = two.send(Method::GET, "/metrics", "", "").await;
    for line in [
        "khala_fanout_reconnects_total{transport=\"postgres\"} 1",
        "khala_store_failures_total{kind=\"unavailable\"}",
    ] {
        assert!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
}

/// The sweeps of whichever node leads; the other takes over when it is gone.
#[tokio::test]
async fn one_node_at_a_time_sweeps_and_the_other_takes_over() {
    let nodes = Nodes::new().with("KHALA_SWEEP_INTERVAL_SECONDS", "1");
    let (one, two) = (nodes.start("one").await, nodes.start("two").await);
    let sweepers = async |server: &Started| {
        let path = "/internal/v1/khala/retention?limit=50";
        let (status, body) = server.send(Method::GET, path, ADMIN, "").await;
        assert_eq!(status, 200, "{body}");
        let status: Value = serde_json::from_str(&body).unwrap();
        let records = status["records"].as_array().unwrap();
        records.iter().map(|record| record["node"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until(async || !sweepers(&two).await.is_empty()).await;
    one.signal("KILL").await;
    let before = sweepers(&two).await.len();
    until(async || sweepers(&two).await.iter().filter(|node| *node == "two").count() > before).await;
}

#[tokio::test]
async fn the_schema_is_migrated_and_checked() {
    let nodes = Nodes::new();
    let run = async |arguments: &[&str]| {
        let mut command = nodes.command();
        command.args(arguments);
        ended(command).await
    };
    let mut unprepared = nodes.command();
    unprepared
        .env("KHALA_AUTH__HS256_KEY", KEY)
        .env("KHALA_LISTEN", "127.0.0.1:0")
        .env("KHALA_POSTGRES__MIGRATE", "false");
    refused_at_last(ended(unprepared).await, &["khala-server migrate"]);

    let (code, output, log) = run(&["migrate", "--check"]).await;
    assert_eq!((code, log.as_str()), (Some(1), ""), "{output}");
    assert!(output.contains("khala-server migrate"), "{output}");
    for _ in 0..2 {
        let (code, output, log) = run(&["migrate"]).await;
        assert_eq!((code, log.as_str()), (Some(0), ""), "{output}");
    }
    assert_eq!(run(&["migrate", "--check"]).await, (Some(0), String::new(), String::new()));
    let started = nodes.start("one").await;
    publish(&started).await;

    nodes.sql("DROP INDEX khala.receipt_last; ALTER TABLE khala.topic ADD COLUMN mine text");
    let (code, output, _) = run(&["migrate", "--check"]).await;
    assert_eq!((code, output.lines().count()), (Some(1), 2), "{output}");
    let mut elsewhere = nodes.command();
    elsewhere.args(["migrate", "--check"]).env("KHALA_DATABASE", "postgres://ann:s3cret@127.0.0.1:1/none");
    let (code, output, log) = ended(elsewhere).await;
    assert_eq!((code, output.as_str()), (Some(2), ""), "{log}");
    assert!(log.contains("postgres://ann:***@127.0.0.1:1/none") && !log.contains("s3cret"), "{log}");
}

/// A refusal after the log has said something.
#[track_caller]
fn refused_at_last((code, _, log): (Option<i32>, String, String), named: &[&str]) {
    assert_eq!(code, Some(2), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("khala-server: the database "), "{log}");
    for name in named {
        assert!(last.contains(name), "{name} is not in: {log}");
    }
}

/// What docs/nodes.md says to grant is enough, and no more than it says.
#[tokio::test]
async fn servers_and_applications_need_what_the_page_grants_and_no_more() {
    let page = include_str!("../../../docs/nodes.md");
    let (_, grants) = page.split_once("```sql name:grants\n").unwrap();
    let grants = grants.split_once("```").unwrap().0;
    let owner = Nodes::new();
    let suffix = owner.url.rsplit('_').next().unwrap();
    let (server, application) = (format!("khala_server_{suffix}"), format!("khala_application_{suffix}"));
    let named = |text: &str| text.replace("khala_server", &server).replace("khala_application", &application);
    let mut migrate = owner.command();
    migrate.arg("migrate");
    assert_eq!(ended(migrate).await.0, Some(0));
    owner.sql(&named("CREATE ROLE khala_server LOGIN; CREATE ROLE khala_application LOGIN"));
    owner.sql(&named(grants));

    let nodes = Nodes::on(owner.url.replace("khala@", &format!("{server}@")))
        .with("KHALA_POSTGRES__MIGRATE", "false");
    let one = nodes.with("KHALA_SWEEP_INTERVAL_SECONDS", "1").start("one").await;
    publish(&one).await;
    let revoke = r#"{"by":"sub","id":"x"}"#;
    let path = "/internal/v1/khala/revocations";
    assert_eq!(one.send(Method::POST, path, ADMIN, revoke).await.0, 201);
    let swept = async || {
        let (_, body) = one.send(Method::GET, "/internal/v1/khala/retention", ADMIN, "").await;
        body.contains(r#""outcome":"swept""#)
    };
    until(swept).await;
    let mut socket = joined(&one, "t", json!({})).await;
    owner.sql(&named("SET ROLE khala_application; SELECT khala.append('t', 'k', dedup => 'once')"));
    assert_eq!(batch(&mut socket).await, [2]);
    for (role, statement) in [
        ("khala_application", "SELECT * FROM khala.update"),
        ("khala_application", "DELETE FROM khala.topic"),
        ("khala_server", "DROP TABLE khala.topic"),
        ("khala_server", "SELECT khala.append('t', 'k')"),
    ] {
        let probe = format!(
            "SET ROLE {role};
             DO $$ BEGIN EXECUTE {quoted}; RAISE EXCEPTION 'it may'; EXCEPTION WHEN insufficient_privilege THEN NULL; END $$",
            quoted = format_args!("$q${statement}$q$"),
        );
        owner.sql(&named(&probe));
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_had_is_one_line_without_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::shared();
    let none = format!("postgres://ann:s3cret@127.0.0.1:{}/none", cluster.port());
    for (url, named) in [
        ("postgres://ann:s3cret@127.0.0.1:1/none", "refused"),
        (none.as_str(), "ann"),
        ("postgres://ann:s3cret@no-such-host.invalid/none", "no-such-host.invalid"),
        ("postgres://ann:s3cret@[/none", "postgres://user:password@host:port/database"),
        ("postgress://ann:s3cret@127.0.0.1:1/none", "the setting database is wrong"),
    ] {
        for arguments in [&[][..], &["migrate"], &["new-epochs", "--yes"]] {
            let mut command = command(folder.path());
            command.env("KHALA_AUTH__HS256_KEY", KEY).env("KHALA_LISTEN", "127.0.0.1:0");
            command.env("KHALA_DATABASE", url).args(arguments);
            let ended = ended(command).await;
            assert!(!ended.1.contains("s3cret") && !ended.2.contains("s3cret"), "{ended:?}");
            refused(ended, &["database", named]);
        }
    }
}

/// A database that was put back to an earlier state, and one that was not.
#[tokio::test]
async fn new_epochs_end_every_cursor_of_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("khala.db").to_str().unwrap().to_owned();
    for url in [Cluster::shared().database(), file] {
        let nodes = Nodes::on(url);
        let one = nodes.start("one").await;
        publish(&one).await;
        let receipt = publish(&one).await;
        let epoch = receipt["epoch"].as_str().unwrap();
        one.signal("TERM").await;
        assert_eq!(one.ended().await.0.code(), Some(0));

        let mut new_epochs = nodes.command();
        new_epochs.arg("new-epochs");
        refused(ended(new_epochs).await, &["--yes", "backup"]);
        let mut new_epochs = nodes.command();
        new_epochs.args(["new-epochs", "--yes"]);
        let (code, output, log) = ended(new_epochs).await;
        assert_eq!((code, log.as_str()), (Some(0), ""));
        assert!(output.contains("1 topics"), "{output}");

        let one = nodes.start("one").await;
        let path = format!("{UPDATES}?after=2&epoch={epoch}");
        let problem = one.answer(Method::GET, &path, &one.token, "").await.problem(410, "stale_cursor");
        assert_eq!(problem["reason_codes"], json!(["epoch_mismatch"]));
        let mut socket = one.connect().await.unwrap();
        let answer = join(&mut socket, "t", json!({"after": 2, "epoch": epoch})).await;
        assert_eq!(answer[4]["response"]["reason_codes"], json!(["epoch_mismatch"]), "{answer}");
        // What is there is there.
        let mut socket = joined(&one, "t", json!({"from": "floor"})).await;
        assert_eq!(batch(&mut socket).await, [1, 2]);
    }
}

#[tokio::test]
async fn nats_carries_what_is_announced_and_postgresql_nothing() {
    let nats = Nats::start();
    let servers = format!("[\"{}\"]", nats.url());
    let nodes = Nodes::new().with("KHALA_NATS__SERVERS", &servers);
    let (one, two) = (nodes.start("one").await, nodes.start("two").await);
    let mut socket = joined(&two, "t", json!({})).await;
    for seq in 1..=3 {
        publish(&one).await;
        assert_eq!(batch(&mut socket).await, [seq]);
    }
    let said =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND (application_name = 'khala listen' OR query ILIKE '%notify(%')";
    assert_eq!(nodes.sql(said), "0");

    nats.kill();
    until(async || two.send(Method::GET, "/readyz", "", "").await.1.contains("NATS is not connected")).await;
    assert_eq!(two.get("/readyz", "").await, 200);
    // It is stored, whoever is told of it.
    assert_eq!(publish(&one).await["last"], 4);
    nats.restart();
    hears(&two).await;
    hears(&one).await;
    assert_eq!(batch(&mut socket).await, [4]);
    let (_, metrics) = two.send(Method::GET, "/metrics", "", "").await;
    assert!(metrics.contains("khala_fanout_connected{transport=\"nats\"} 1"), "{metrics}");
}

#[tokio::test]
async fn with_nats_it_listens_for_applications_if_it_is_told_to() {
    let nats = Nats::start();
    let servers = format!("[\"{}\"]", nats.url());
    let nodes =
        Nodes::new().with("KHALA_NATS__SERVERS", &servers).with("KHALA_POSTGRES_LISTEN_WITH_NATS", "true");
    let (one, two) = (nodes.start("one").await, nodes.start("two").await);
    let mut socket = joined(&two, "t", json!({})).await;
    publish(&one).await;
    assert_eq!(batch(&mut socket).await, [1]);
    nodes.sql("SELECT khala.append('t', 'k')");
    assert_eq!(batch(&mut socket).await, [2]);
}

#[tokio::test]
async fn settings_of_nodes_that_contradict_each_other_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let on = |path: &Path, more: &[(&str, &str)]| {
        let mut command = command(path);
        command.env("KHALA_LISTEN", "127.0.0.1:0").env("KHALA_DATABASE", "postgres://ann@127.0.0.1:1/none");
        command.envs(more.iter().copied());
        command
    };
    let servers = ("KHALA_NATS__SERVERS", r#"["nats://ann:s3cret@127.0.0.1:1"]"#);
    for (more, named) in [
        (&[("KHALA_POSTGRES__SCHEMA", "Mine")][..], ["postgres.schema", "a-z"]),
        (&[("KHALA_POSTGRES__CONNECTIONS", "0")], ["postgres.connections", "wrong"]),
        (&[("KHALA_POSTGRES__POOLER", "true")], ["postgres.pooler", "postgres.listen.url"]),
        (&[("KHALA_POSTGRES__LISTEN__URL", "host:5432")], ["postgres.listen.url", "postgres://"]),
        (&[("KHALA_NODE", "")], ["node", "empty"]),
        (&[("KHALA_NATS__SERVERS", "nats://ann:s3cret@host")], ["KHALA_NATS__SERVERS", "list"]),
        (&[("KHALA_NATS__SERVERS", "[5]")], ["nats.servers[0]", "string"]),
        (&[("KHALA_POSTGRES_LISTEN_WITH_NATS", "true")], ["postgres_listen_with_nats", "nats.servers"]),
        (&[servers, ("KHALA_DATABASE", "khala.db")], ["nats.servers", "PostgreSQL"]),
        (&[servers, ("KHALA_NATS__CREDENTIALS__USER", "ann")], ["nats.credentials", "user needs password"]),
        (
            &[
                servers,
                ("KHALA_NATS__CREDENTIALS__TOKEN", "s3cret"),
                ("KHALA_NATS__CREDENTIALS__TOKEN_FILE", "x"),
            ],
            ["nats.credentials", "token and token_file exclude each other"],
        ),
        (
            &[
                servers,
                ("KHALA_NATS__CREDENTIALS__TOKEN", "s3cret"),
                ("KHALA_NATS__CREDENTIALS__CREDENTIALS_FILE", "x"),
            ],
            ["nats.credentials", "credentials_file and token exclude each other"],
        ),
        (&[servers, ("KHALA_NATS__TLS_KEY_FILE", "x")], ["nats.tls_key_file", "nats.tls_cert_file"]),
    ] {
        let ended = ended(on(folder.path(), more)).await;
        assert!(!ended.2.contains("s3cret"), "{ended:?}");
        refused(ended, &named);
    }
    let mut config = on(folder.path(), &[servers, ("KHALA_NATS__CREDENTIALS__TOKEN", "s3cret")]);
    config.env("KHALA_DATABASE", "postgres://ann:s3cret@db/khala?password=s3cret").arg("config");
    let (code, output, log) = ended(config).await;
    assert_eq!((code, log.as_str()), (Some(0), ""));
    assert!(!output.contains("s3cret"), "{output}");
    assert!(output.contains("database = \"postgres://ann:***@db/khala?password=***\""), "{output}");
}
