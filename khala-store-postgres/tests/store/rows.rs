//! Rows that the store has not written so: each is named, and keeps nobody from the others.

use std::num::NonZeroUsize;

use khala_core::{
    Cursor, Epoch, ErrorKind, Payload, Timestamp, Watermark,
    auth::{Revocation, RevocationId, RevocationTarget, Revocations},
    fanout::Fanout as _,
    journal::Journal,
    node::NodeId,
    projection::{Advance, Checkpoint, Checkpoints, Entity, ProjectionName},
    retention::{SweepOutcome, SweepRecord, SweepTrigger, Sweeps},
    update::PayloadHash,
};
use khala_store_postgres::{ListenOptions, PostgresFanout};

use crate::support::{NOW, batch, fresh, soon, sql, topic, written};

fn sub(id: &str) -> Revocation {
    Revocation::new(RevocationTarget::Sub(RevocationId::parse(id).unwrap()), NOW)
}

#[tokio::test]
async fn a_revocation_that_cannot_be_read_is_named_and_the_others_are_read() {
    let (url, store) = fresh().await;
    for id in ["first", "by", "id", "far", "last"] {
        store.revoke(sub(id)).await.unwrap();
    }
    sql(
        &url,
        "ALTER TABLE khala.revocation DROP CONSTRAINT IF EXISTS revocation_named_by_check;
         UPDATE khala.revocation SET named_by = 'mac' WHERE named_id = 'by';
         UPDATE khala.revocation SET named_id = '' WHERE named_id = 'id';
         UPDATE khala.revocation SET watermark = 1::bigint << 60 WHERE named_id = 'far'",
    );
    for limit in [1, 2, 100] {
        let (mut good, mut corrupt, mut after) = (Vec::new(), Vec::new(), Watermark::ORIGIN);
        loop {
            let page = store.revocations(after, NonZeroUsize::new(limit).unwrap()).await.unwrap();
            good.extend(page.revocations.into_iter().map(|(_, one)| one.target.id().as_str().to_owned()));
            corrupt.extend(page.corrupt.into_iter().map(|one| (one.row, one.target, one.error.kind())));
            let Some(next) = page.next else { break };
            after = next;
        }
        assert_eq!(good, ["first", "last"], "{limit}");
        corrupt.sort_by(|one, other| one.0.cmp(&other.0));
        corrupt.dedup();
        let far = format!("watermark {}", 1_u64 << 60);
        let wanted = [
            (far, Some(sub("far").target), ErrorKind::Corrupt),
            ("watermark 2".to_owned(), None, ErrorKind::Corrupt),
            ("watermark 3".to_owned(), None, ErrorKind::Corrupt),
        ];
        assert_eq!(corrupt, wanted, "{limit}");
    }
    // Revoked again, it is as any other.
    let given = store.revoke(sub("far")).await.unwrap();
    let page = store.revocations(given, NonZeroUsize::MIN).await.unwrap();
    assert!(page.revocations.is_empty() && page.corrupt.is_empty(), "{page:?}");
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_is_an_error_of_its_entity_alone() {
    let (url, store) = fresh().await;
    let projection = ProjectionName::parse("p").unwrap();
    let entity = |n| Entity::parse(&format!("{n}")).unwrap();
    for n in 0..5 {
        let to = Checkpoint {
            source: Cursor::new(Epoch::from_bits(1), Watermark::new(1).unwrap()),
            version: 1,
            summary_hash: PayloadHash::of(&Payload::null()).unwrap(),
        };
        store.advance(Advance::new(projection.clone(), entity(n), None, to), NOW).await.unwrap();
    }
    sql(&url, "UPDATE khala.checkpoint SET source_watermark = -1 WHERE entity IN ('1', '2')");
    let error = store.checkpoint(&projection, &entity(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    for (limit, wanted) in [(1, vec![0]), (2, vec![0, 3]), (3, vec![0, 3, 4]), (9, vec![0, 3, 4])] {
        let page = store.checkpoints(&projection, None, NonZeroUsize::new(limit).unwrap()).await.unwrap();
        let found: Vec<_> = page.into_iter().map(|(entity, _)| entity).collect();
        assert_eq!(
            found,
            wanted.into_iter().map(entity).collect::<Vec<_>>(),
            "a limit counts what can be read"
        );
    }
}

#[tokio::test]
async fn the_record_of_a_sweep_that_cannot_be_read_is_passed_over() {
    let (url, store) = fresh().await;
    let record = |at| {
        let (node, at) = (NodeId::parse("n").unwrap(), Timestamp::from_millis(at));
        SweepRecord::new(node, at, SweepTrigger::Schedule, SweepOutcome::Swept)
    };
    for at in 1..=3 {
        store.record(&record(at)).await.unwrap();
        sql(&url, "INSERT INTO khala.sweep (record) VALUES ('{}')");
    }
    let records = async |limit| store.records(NonZeroUsize::new(limit).unwrap()).await.unwrap();
    assert_eq!(records(usize::MAX).await, [record(3), record(2), record(1)]);
    assert_eq!(records(2).await, [record(3), record(2)], "a limit counts what can be read");
}

#[tokio::test]
async fn a_topic_that_cannot_be_read_keeps_no_node_from_listening() {
    let (url, store) = fresh().await;
    let (good, bad) = (topic("good"), topic("bad"));
    for topic in [&good, &bad] {
        written(store.append(topic, batch([0]), NOW).await.unwrap());
    }
    sql(
        &url,
        "UPDATE khala.topic SET floor = 9 WHERE topic = 'bad'; UPDATE khala.revocation_head SET newest = -1",
    );
    let fanout = PostgresFanout::listen(&store, ListenOptions::default()).unwrap();
    let (mut watch, _bad, _revoked) = (
        fanout.watch(&good).await.unwrap(),
        fanout.watch(&bad).await.unwrap(),
        fanout.watch_revoked().await.unwrap(),
    );
    soon(async {
        while !fanout.listens() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    // Of an application's own, which is told by a mark: what has moved is looked at together.
    for n in 2..=4 {
        sql(
            &url,
            "UPDATE khala.topic SET floor = 0 WHERE topic = 'bad';
             SELECT khala.append('bad', 'test', '0');
             UPDATE khala.topic SET floor = 9 WHERE topic = 'bad';
             SELECT khala.append('good', 'test', '0')",
        );
        while soon(watch.moved()).await.watermark.as_u64() < n {}
        assert!(fanout.listens(), "it goes on listening");
    }
}
