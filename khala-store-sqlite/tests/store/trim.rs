//! Trims in bounded steps: what they remove, and that appends go in between.

use std::time::Duration;

use futures::future::join_all;
use khala_core::{
    Append,
    journal::{DEDUP_FOR, Journal, Keep, ReadFrom, ReadLimit, Replay},
    update::DedupKey,
};

use crate::support::{NOW, Place, batch, soon, topic, written};

#[tokio::test]
async fn a_trim_of_many_steps_is_as_one() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    for _ in 0..6 {
        written(store.append(&topic, batch(0..1_000), NOW).await.unwrap());
    }
    let trims = [
        (Keep { updates: Some(5_500), ..Keep::everything() }, 500, 500),
        (Keep { updates: Some(4_999), ..Keep::everything() }, 1_001, 501),
        (Keep { age: Some(Duration::ZERO), ..Keep::everything() }, 1_001, 0),
    ];
    for (keep, floor, removed) in trims {
        let trimmed = store.trim(&topic, keep, NOW).await.unwrap();
        assert_eq!((trimmed.bounds.floor.as_u64(), trimmed.updates), (floor, removed));
        assert_eq!(store.bounds(&topic).await.unwrap(), trimmed.bounds);
    }
    // Each update counts its payload of three bytes and its kind of four.
    let trimmed = store.trim(&topic, Keep { bytes: Some(7 * 700), ..Keep::everything() }, NOW).await.unwrap();
    assert_eq!((trimmed.bounds.floor.as_u64(), trimmed.updates), (5_300, 4_299));
    let later = NOW.plus(Duration::from_millis(1));
    let trimmed =
        store.trim(&topic, Keep { age: Some(Duration::ZERO), ..Keep::everything() }, later).await.unwrap();
    assert_eq!((trimmed.bounds.floor.as_u64(), trimmed.updates, trimmed.bytes), (6_000, 700, 7 * 700));
}

#[tokio::test]
async fn a_trim_ends_while_others_append_and_keeps_what_they_appended() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    for _ in 0..10 {
        written(store.append(&topic, batch(0..1_000), NOW).await.unwrap());
    }
    let trim = store.trim(&topic, Keep { updates: Some(0), ..Keep::everything() }, NOW);
    let (trimmed, appends) =
        soon(futures::future::join(trim, join_all((0..50).map(|n| store.append(&topic, batch([n]), NOW)))))
            .await;
    assert!(appends.into_iter().all(|append| matches!(append, Ok(Append::Written(_)))));
    let (trimmed, bounds) = (trimmed.unwrap(), store.bounds(&topic).await.unwrap());
    assert!(trimmed.updates >= 10_000, "{trimmed:?}");
    assert_eq!((bounds.floor, bounds.head.as_u64()), (trimmed.bounds.floor, 10_050));
    let Replay::Page(page) = store.read(&topic, bounds.at_floor().into(), ReadLimit::PAGE).await.unwrap()
    else {
        panic!("the floor is a good cursor")
    };
    assert_eq!(trimmed.updates + page.updates.len() as u64, 10_050);
    let stale = store.read(&topic, ReadFrom::Origin, ReadLimit::PAGE).await.unwrap();
    assert!(matches!(stale, Replay::Stale(_)), "{stale:?}");
}

#[tokio::test]
async fn two_stores_that_trim_one_topic_agree() {
    let place = Place::new();
    let stores = [place.open(), place.open()];
    let topic = topic("t");
    for _ in 0..5 {
        written(stores[0].append(&topic, batch(0..1_000), NOW).await.unwrap());
    }
    let keep = Keep { bytes: Some(7 * 100), ..Keep::everything() };
    let trims = soon(join_all(stores.iter().map(|store| store.trim(&topic, keep, NOW)))).await;
    let trims: Vec<_> = trims.into_iter().map(Result::unwrap).collect();
    assert_eq!(trims.iter().map(|trimmed| trimmed.updates).sum::<u64>(), 4_900);
    assert_eq!(stores[0].bounds(&topic).await.unwrap().floor.as_u64(), 4_900);
}

#[tokio::test]
async fn dedup_keys_go_when_their_updates_are_gone_and_old() {
    let place = Place::new();
    let store = place.open();
    let topic = topic("t");
    let once = || batch([1]).with_dedup(DedupKey::parse("once").unwrap());
    written(store.append(&topic, once(), NOW).await.unwrap());
    let nothing = Keep { updates: Some(0), ..Keep::everything() };
    let young = NOW.plus(DEDUP_FOR - Duration::from_millis(1));
    store.trim(&topic, nothing, young).await.unwrap();
    assert!(matches!(store.append(&topic, once(), young).await.unwrap(), Append::Duplicate(_)));
    store.trim(&topic, nothing, NOW.plus(DEDUP_FOR)).await.unwrap();
    assert_eq!(written(store.append(&topic, once(), NOW).await.unwrap()).first.as_u64(), 2);
}
