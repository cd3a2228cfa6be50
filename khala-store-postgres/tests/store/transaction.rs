//! Appends inside the application's own transactions: by `append_in`, and by the SQL function from any language.

use futures::future::join_all;
use khala_core::{
    Append, Batch, Conflict, Cursor, DocKey, Epoch, ErrorKind, Khala, Kind, NewUpdate, Payload, Store as _,
    Watermark, documents::Documents, fanout::Fanout, journal::Journal, update::DedupKey,
};
use khala_store_postgres::{
    ListenOptions, PostgresFanout, PostgresOptions, PostgresStore, append_in, set_notify,
};
use khala_testing::Cluster;
use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgPoolOptions};

use crate::support::{NOW, batch, fresh, log, open, soon, sql, topic, written};

#[tokio::test]
async fn what_is_committed_is_there_and_what_is_rolled_back_never_was() {
    let (url, store) = fresh().await;
    let topic = topic("orders");
    sql(&url, "CREATE TABLE orders (n int)");
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let untouched = store.bounds(&topic).await.unwrap();
    for commit in [false, true] {
        let mut transaction = conn.begin().await.unwrap();
        sqlx::query("INSERT INTO orders VALUES (1)").execute(&mut *transaction).await.unwrap();
        let one = written(append_in(&mut transaction, &topic, &batch([1]), NOW).await.unwrap());
        let two = written(append_in(&mut transaction, &topic, &batch([2]), NOW).await.unwrap());
        assert_eq!((one.first.as_u64(), two.first.as_u64()), (1, 2));
        assert_eq!(one.epoch, untouched.epoch, "the epoch that it had while untouched");
        assert!(log(&store, &topic).await.is_empty(), "nothing shows before the commit");
        if commit {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
            assert_eq!(store.bounds(&topic).await.unwrap(), untouched);
            assert_eq!(sql(&url, "SELECT count(*) FROM orders"), "0");
        }
    }
    assert_eq!(log(&store, &topic).await.len(), 2);
    assert_eq!(written(store.append(&topic, batch([3]), NOW).await.unwrap()).first.as_u64(), 3);
}

#[tokio::test]
async fn a_failed_append_leaves_the_transaction_around_it_whole() {
    let (url, store) = fresh().await;
    sql(&url, "CREATE TABLE orders (n int)");
    sql(&url, "ALTER TABLE khala.update ADD CONSTRAINT own CHECK (payload <> '13')");
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let mut transaction = conn.begin().await.unwrap();
    sqlx::query("INSERT INTO orders VALUES (1)").execute(&mut *transaction).await.unwrap();
    written(append_in(&mut transaction, &topic("t"), &batch([1]), NOW).await.unwrap());
    let error = append_in(&mut transaction, &topic("t"), &batch([2, 13]), NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    written(append_in(&mut transaction, &topic("t"), &batch([3]), NOW).await.unwrap());
    transaction.commit().await.unwrap();
    let texts: Vec<_> = log(&store, &topic("t")).await.into_iter().map(|update| update.payload).collect();
    assert_eq!(texts.iter().map(Payload::as_str).collect::<Vec<_>>(), ["1", "3"]);
    assert_eq!(sql(&url, "SELECT count(*) FROM orders"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_in_order_is_stored_in_order_however_much_waits() {
    let (_url, store) = fresh().await;
    let topic = topic("t");
    let mut next = 1..;
    // The first of them are the first of the topic.
    for many in [1_000, 10_000] {
        let appends = (0..many).map(|n| store.append(&topic, batch([n]), NOW));
        for answer in soon(join_all(appends)).await {
            assert_eq!(Some(written(answer.unwrap()).first.as_u64()), next.next());
        }
    }
}

#[tokio::test]
async fn one_bad_request_fails_none_of_its_group() {
    let (url, store) = fresh().await;
    sql(&url, "ALTER TABLE khala.update ADD CONSTRAINT own CHECK (payload <> '13')");
    let topic = topic("t");
    let answers = join_all((0..30).map(|n| store.append(&topic, batch([n]), NOW))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.is_err(), n == 13, "{n}");
    }
    assert_eq!(log(&store, &topic).await.len(), 29);
}

#[tokio::test]
async fn the_function_keeps_what_the_store_keeps() {
    let (url, store) = fresh().await;
    let odd = r#"{ "b":1.0e0,"a" : "é\u0000 \\ud800", "B":[ ] }"#;
    sql(
        &url,
        &format!(
            "SELECT khala.append('run:7', 'step', '\n {odd} \t', doc_key => 'ä', deleted => false, dedup => 'once',
                 payload_hash => 'sha256:{}', traceparent => '00-1', request_id => 'r\"')",
            "0a".repeat(32)
        ),
    );
    let log = log(&store, &topic("run:7")).await;
    let [update] = &log[..] else { panic!("{log:?}") };
    assert_eq!(update.payload.as_str(), odd, "byte for byte, without the white space around it");
    assert_eq!((update.kind.as_str(), update.doc_version), ("step", Some(1)));
    let trace = update.trace.as_ref().unwrap();
    assert_eq!(trace.traceparent.as_ref().unwrap().as_str(), "00-1");
    assert_eq!((&trace.tracestate, trace.request_id.as_ref().unwrap().as_str()), (&None, "r\""));
    let document = store.document(&topic("run:7"), &DocKey::parse("ä").unwrap()).await.unwrap().unwrap();
    assert_eq!(&document, update);
    let bounds = store.bounds(&topic("run:7")).await.unwrap();
    let bytes = sql(&url, "SELECT bytes FROM khala.topic");
    assert_eq!(bytes, update.size().to_string());
    assert_eq!(bounds.head.as_u64(), 1);
}

#[tokio::test]
async fn dedup_expect_and_versions_mean_the_same_on_all_ways_in() {
    let (url, store) = fresh().await;
    let t = topic("t");
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let once = |n| batch([n]).with_dedup(DedupKey::parse("once").unwrap());
    let first = written(store.append(&t, once(1), NOW).await.unwrap());
    // The first receipt, whatever else is asked.
    let told = sql(
        &url,
        "SELECT outcome, epoch, first_seq, last_seq FROM khala.append('t', 'test', '1', dedup => 'once', expect => 9)",
    );
    assert_eq!(told, format!("duplicate|{}|1|1", first.epoch));
    let mut transaction = conn.begin().await.unwrap();
    let answer = append_in(&mut transaction, &t, &once(1), NOW).await.unwrap();
    assert_eq!(answer, Append::Duplicate(first));
    let answer = append_in(&mut transaction, &t, &once(3), NOW).await.unwrap();
    assert_eq!(answer, Append::Conflict(Conflict::Dedup { first }));
    transaction.commit().await.unwrap();
    // And the other way round.
    sql(&url, "SELECT khala.append('t', 'test', '2', dedup => 'twice')");
    let again = batch([2]).with_dedup(DedupKey::parse("twice").unwrap());
    assert!(
        matches!(store.append(&t, again, NOW).await.unwrap(), Append::Duplicate(of) if of.last.as_u64() == 2)
    );

    let refused = |statement: &'static str| {
        let url = url.clone();
        async move {
            let mut conn = PgConnection::connect(&url).await.unwrap();
            let fault = sqlx::query(statement).fetch_one(&mut conn).await.unwrap_err();
            let said = fault.as_database_error().unwrap();
            (said.code().unwrap().into_owned(), said.message().to_owned())
        }
    };
    let (code, message) = refused("SELECT khala.append('t', 'k', '9', dedup => 'once')").await;
    assert_eq!((&*code, &*message), ("KH003", "something else was appended to t under the dedup key 'once'"));
    let (code, message) = refused("SELECT khala.append('t', 'k', '3', expect => 1)").await;
    assert_eq!((&*code, &*message), ("KH001", "the head of t is 2 and not 1"));
    let expecting = batch([3]).with_expect(Watermark::new(1).unwrap());
    assert!(matches!(
        store.append(&t, expecting, NOW).await.unwrap(),
        Append::Conflict(Conflict::Head { .. })
    ));
    assert_eq!(sql(&url, "SELECT outcome FROM khala.append('t', 'k', '3', expect => 2)"), "written");

    sql(&url, "SELECT khala.append('t', 'k', '4', doc_key => 'd', doc_version => 10)");
    let (code, message) =
        refused("SELECT khala.append('t', 'k', '5', doc_key => 'd', doc_version => 10)").await;
    assert_eq!((&*code, &*message), ("KH002", "document 'd' of t has version 10, which 10 does not exceed"));
    let lower =
        NewUpdate::new(Kind::parse("k").unwrap(), Payload::null()).doc_key(DocKey::parse("d").unwrap());
    let answer = store.append(&t, lower.try_into().unwrap(), NOW).await.unwrap();
    assert!(
        matches!(answer, Append::Conflict(Conflict::DocVersion { given: 5, found: 10, .. })),
        "{answer:?}"
    );
    assert_eq!(store.bounds(&t).await.unwrap().head.as_u64(), 4, "what is refused writes nothing");
}

#[tokio::test]
async fn the_function_checks_what_it_is_given() {
    let (url, store) = fresh().await;
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let long = |bytes: usize| "x".repeat(bytes);
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let cases = [
        (format!("'{}', 'k', '1'", long(256)), "topic is 256 bytes long"),
        ("'', 'k', '1'".into(), "topic is empty"),
        ("NULL, 'k', '1'".into(), "topic is missing"),
        ("'a b', 'k', '1'".into(), "is not a topic"),
        ("E'a\\n', 'k', '1'".into(), "topic holds a control character"),
        ("':a', 'k', '1'".into(), "is not a topic"),
        ("'a:', 'k', '1'".into(), "is not a topic"),
        ("'phoenix', 'k', '1'".into(), "is not a topic"),
        ("'..', 'k', '1'".into(), "is not a topic"),
        ("'ä', 'k', '1'".into(), "is not a topic"),
        ("'t', '', '1'".into(), "kind is empty"),
        ("'t', NULL, '1'".into(), "kind is missing"),
        (format!("'t', '{}', '1'", long(129)), "kind is 129 bytes long"),
        ("'t', E'k\\u0085', '1'".into(), "kind holds a control character"),
        ("'t', 'k', NULL".into(), "payload is missing"),
        ("'t', 'k', '{'".into(), "invalid input syntax for type json"),
        ("'t', 'k', ''".into(), "invalid input syntax for type json"),
        (format!("'t', 'k', '{}'", deep(101)), "payload is nested more than 100 levels"),
        ("'t', 'k', '1', doc_key => ''".into(), "doc_key is empty"),
        (format!("'t', 'k', '1', doc_key => '{}'", long(513)), "doc_key is 513 bytes long"),
        ("'t', 'k', '1', doc_version => 1".into(), "doc_version needs a doc_key"),
        ("'t', 'k', '1', deleted => true".into(), "deleted needs a doc_key"),
        ("'t', 'k', '1', deleted => NULL".into(), "deleted is missing"),
        ("'t', 'k', '1', doc_key => 'd', doc_version => -1".into(), "doc_version is not from 0"),
        (
            "'t', 'k', '1', doc_key => 'd', doc_version => 9007199254740992".into(),
            "doc_version is not from 0",
        ),
        ("'t', 'k', '1', expect => -1".into(), "expect is not from 0"),
        ("'t', 'k', '1', dedup => ''".into(), "dedup is empty"),
        (format!("'t', 'k', '1', dedup => '{}'", long(256)), "dedup is 256 bytes long"),
        ("'t', 'k', '1', payload_hash => 'sha256:00'".into(), "payload_hash is not"),
        (format!("'t', 'k', '1', traceparent => '{}'", long(513)), "traceparent is 513 bytes long"),
        ("'t', 'k', '1', request_id => E'\\x01'".into(), "request_id holds a control character"),
    ];
    for (arguments, wanted) in cases {
        let statement = format!("SELECT khala.append({arguments})");
        let fault =
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone())).execute(&mut conn).await.unwrap_err();
        let said = fault.as_database_error().unwrap();
        assert!(said.message().contains(wanted), "{statement}: {}", said.message());
        assert!(["22023", "22P02"].contains(&&*said.code().unwrap()), "{statement}: {:?}", said.code());
    }
    assert_eq!(store.bounds(&topic("t")).await.unwrap().head.as_u64(), 0);
    // What is just within bounds is taken.
    let good = format!(
        "SELECT khala.append('{}', '{}', '{}', doc_key => '{}', dedup => '{}')",
        long(255),
        long(128),
        deep(100),
        long(512),
        long(255)
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(good)).execute(&mut conn).await.unwrap();
}

#[tokio::test]
async fn the_function_and_a_batch_take_the_same_payloads() {
    let (url, _store) = fresh().await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let mut rule = async |json: &str| {
        let appended = sqlx::query("SELECT khala.append('t', 'k', $1::text::json)").bind(json.to_owned());
        let answer = appended.execute(&mut conn).await.map(|_| ());
        let by_function = answer.map_err(|fault| fault.as_database_error().unwrap().message().to_owned());
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse(json).unwrap());
        (by_function, Batch::new(vec![update]).map(|_| ()).map_err(|fault| fault.to_string()))
    };
    let long = |first: &str, zeros: usize| format!("{first}{}", "0".repeat(zeros));
    let middle = "17976931348623158079372897140530341507993413271003782693617377898044496829276475094664901797758720709633\
        02864166928879109465555478519404026306574886715058206819089020007083836762738548458177115317644757302700698555713669\
        59622842914819860834936475292719074168444365510704342711559699508093042880177904174497792";
    let ending = |last: &str| format!("{}{last}", &middle[..middle.len() - 2]);
    for (json, wanted) in [
        (r#""\ud800""#, "holds an unpaired surrogate"),
        (r#""\\\uDC00x""#, "holds an unpaired surrogate"),
        (r#""\ud83d\ud83d\ude00""#, "holds an unpaired surrogate"),
        (r#"{"\ud800":1}"#, "holds an unpaired surrogate"),
        (r#""\ufffe""#, "holds the noncharacter"),
        (r#"["\uFdEf"]"#, "holds the noncharacter"),
        (r#""\uD83F\udffe""#, "holds the noncharacter"),
        ("\"\u{fdd0}\"", "holds the noncharacter"),
        ("\"\u{10ffff}\"", "holds the noncharacter"),
        ("1e400", "holds a number"),
        ("[1, -0.1E+310 ]", "holds a number"),
        ("1.7976931348623159e308", "holds a number"),
        (&*long("2", 308), "holds a number"),
        (&*ending("92"), "holds a number"),
        (&*long("1e", 5).replace("1e", "1e1"), "holds a number"),
        (r#"{"a":1,"a":2}"#, "has the name \"a\" twice"),
        (r#"{"a":1,"b":[{"c":1, "\u0063" : 2}]}"#, "has the name \"c\" twice"),
        (r#"{"\u0000":1,"\\":2,"\u005c":3}"#, "has the name \"\\\\\" twice"),
        (&*format!("{}{}", "[".repeat(128), "]".repeat(128)), "is nested more than 100 levels deep"),
    ] {
        let (by_function, by_batch) = rule(json).await;
        let (by_function, by_batch) = (by_function.expect_err(json), by_batch.expect_err(json));
        assert!(by_batch.contains(wanted), "{json}: {by_batch}");
        // The function names the fault, and not where it stands.
        let fault =
            wanted.replace("the noncharacter", "a noncharacter").split(" \"").next().unwrap().to_owned();
        let fault = fault.replace("has the name", "has a name twice");
        assert!(by_function.starts_with(&format!("payload {fault}")), "{json}: {by_function}");
    }
    for json in [
        "null",
        r#""\\ud800 \\\ud83d\ude00 \u0000 1e400 {{ \"a\":1,\"a\":2 ""#,
        "\"é 😀 \u{fffd}\u{fdcf}\u{fdf0}\u{2028}\"",
        "[-0, 1E308, 1e-400, 0e999, 0.00001e312, 12345678901234567890, 1.7976931348623157e308]",
        &*long("1", 308),
        &*ending("91"),
        r#"{"a":{"a":[{"a":1},{"a":1}]},"A":1,"":2,"e":1e10}"#,
        r#"{"\u0000":1,"\ue000":2,"\\u0000":3,"\u0001":4}"#,
    ] {
        assert_eq!(rule(json).await, (Ok(()), Ok(())), "{json}");
    }
}

#[tokio::test]
async fn an_application_needs_no_right_but_to_call_the_function() {
    let (url, store) = fresh().await;
    let role = format!("application_{}", url.rsplit('/').next().unwrap());
    sql(&url, &format!("CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA khala TO {role}"));
    let own = url.replace("khala@", &format!("{role}@"));
    let mut conn = PgConnection::connect(&own).await.unwrap();
    let append = "SELECT khala.append('t', 'k', '1')";
    let fault = sqlx::query(append).execute(&mut conn).await.unwrap_err();
    assert_eq!(fault.as_database_error().unwrap().code().unwrap(), "42501");
    sql(&url, &format!("GRANT EXECUTE ON FUNCTION khala.append TO {role}"));
    sqlx::query(append).execute(&mut conn).await.unwrap();
    let fault = sqlx::query("SELECT * FROM khala.update").execute(&mut conn).await.unwrap_err();
    assert_eq!(fault.as_database_error().unwrap().code().unwrap(), "42501");
    assert_eq!(log(&store, &topic("t")).await.len(), 1);
}

#[tokio::test]
async fn a_commit_wakes_and_a_rollback_does_not() {
    let (url, store) = fresh().await;
    let fanout = PostgresFanout::listen(&store, ListenOptions::default()).unwrap();
    let mut watch = fanout.watch(&topic("t")).await.unwrap();
    let listening = async {
        while !fanout.listens() {
            tokio::task::yield_now().await;
        }
    };
    soon(listening).await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    for (function, commit) in [(true, false), (false, false), (true, true), (false, true)] {
        let head = store.bounds(&topic("t")).await.unwrap().head.as_u64();
        let mut transaction = conn.begin().await.unwrap();
        if function {
            sqlx::query("SELECT khala.append('t', 'k', '1')").execute(&mut *transaction).await.unwrap();
        } else {
            append_in(&mut transaction, &topic("t"), &batch([1]), NOW).await.unwrap();
        }
        if commit {
            transaction.commit().await.unwrap();
            assert_eq!(soon(watch.moved()).await.watermark.as_u64(), head + 1);
        } else {
            transaction.rollback().await.unwrap();
        }
    }
    // Nobody is told any more: what was heard last is the only thing heard.
    set_notify(&url, PostgresOptions::default(), false).await.unwrap();
    sqlx::query("SELECT khala.append('t', 'k', '1')").execute(&mut conn).await.unwrap();
    let mut other = fanout.watch(&topic("other")).await.unwrap();
    let there = open(&url).await;
    let teller = PostgresFanout::listen(&there, ListenOptions::default()).unwrap();
    let told = Cursor::new(Epoch::from_bits(1), Watermark::new(1).unwrap());
    teller.announce(&topic("other"), told).await.unwrap();
    assert_eq!(soon(other.moved()).await, told);
    assert_eq!(watch.head().unwrap().watermark.as_u64(), 2);
    set_notify(&url, PostgresOptions::default(), true).await.unwrap();
    let told =
        sqlx::query("SELECT last_seq FROM khala.append('t', 'k', '1')").fetch_one(&mut conn).await.unwrap();
    assert_eq!(soon(watch.moved()).await.watermark.as_u64(), told.get::<i64, _>(0).cast_unsigned());
}

#[tokio::test]
async fn the_function_means_the_same_however_the_caller_reads_strings() {
    let (url, store) = fresh().await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    sqlx::query("SET standard_conforming_strings = off").execute(&mut conn).await.unwrap();
    sqlx::query("SELECT khala.append('t', 'k', '{\"a\":[1]}')").execute(&mut conn).await.unwrap();
    assert_eq!(log(&store, &topic("t")).await.len(), 1);
}

#[tokio::test]
async fn a_transaction_tells_of_a_topic_once() {
    let (url, store) = fresh().await;
    let mut listener = sqlx::postgres::PgListener::connect(&url).await.unwrap();
    listener.listen("khala").await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    sqlx::query("SELECT khala.append('t', 'k', to_json(n)) FROM generate_series(1, 100) n")
        .execute(&mut conn)
        .await
        .unwrap();
    sqlx::query("SELECT pg_notify('khala', 'end')").execute(&mut conn).await.unwrap();
    let mut told = 0;
    while soon(listener.recv()).await.unwrap().payload() != "end" {
        told += 1;
    }
    assert_eq!(store.bounds(&topic("t")).await.unwrap().head.as_u64(), 100);
    assert_eq!(told, 1, "one announcement per commit, never per update");
}

#[tokio::test]
async fn an_append_that_nobody_waited_for_leaves_nothing_in_the_transaction() {
    let (url, store) = fresh().await;
    let t = topic("t");
    written(store.append(&t, batch([0]), NOW).await.unwrap());
    let (mut one, mut two) =
        (PgConnection::connect(&url).await.unwrap(), PgConnection::connect(&url).await.unwrap());
    let mut other = one.begin().await.unwrap();
    written(append_in(&mut other, &t, &batch([1]), NOW).await.unwrap());
    let mut transaction = two.begin().await.unwrap();
    let (patience, mine) = (std::time::Duration::from_millis(300), batch([2]));
    let append = append_in(&mut transaction, &t, &mine, NOW);
    assert!(tokio::time::timeout(patience, append).await.is_err());
    other.rollback().await.unwrap();
    written(append_in(&mut transaction, &t, &batch([3]), NOW).await.unwrap());
    transaction.commit().await.unwrap();
    let there: Vec<_> = log(&store, &t).await.into_iter().map(|update| update.payload).collect();
    assert_eq!(there.iter().map(Payload::as_str).collect::<Vec<_>>(), ["0", "3"]);
}

/// The application's pool is the store's too: both commit together, on no more connections than the pool allows.
#[tokio::test]
async fn an_application_shares_its_pool() {
    let url = Cluster::shared().database();
    let pool = PgPoolOptions::new().max_connections(2).connect(&url).await.unwrap();
    let store = PostgresStore::from_pool(pool.clone(), PostgresOptions::default()).await.unwrap();
    let khala = Khala::open(store.clone());
    let t = topic("t");
    let mut watch = store.fanout().watch(&t).await.unwrap();

    let mut transaction = pool.begin().await.unwrap();
    let receipt = written(append_in(&mut transaction, &t, &batch([1]), NOW).await.unwrap());
    transaction.commit().await.unwrap();
    khala.announce(&t, &receipt).await;
    assert_eq!(soon(watch.moved()).await, receipt.cursor());
    // Many at once wait for connections, and for locks, and all of them are stored.
    let appends = (0..50).map(|number| khala.publish(&t, batch([number])));
    for answer in soon(join_all(appends)).await {
        written(answer.unwrap());
    }
    assert_eq!(store.bounds(&t).await.unwrap().head.as_u64(), 51);
    assert!(pool.size() <= 2);
    store.close().await;
    assert!(!pool.is_closed());
    let small = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    let error = PostgresStore::from_pool(small, PostgresOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
