//! Where a read starts, and what it answers: J3, J4, J5, J11, J12, J15.

use std::num::NonZeroUsize;

use crate::{
    journal::{Keep, Page, ReadFrom, ReadLimit, Replay},
    position::{Bounds, Cursor, Epoch, MAX_POSITION, Stale, StaleReason, Watermark},
    update::Update,
};

use super::{
    harness::Harness,
    race::{Over, race},
    subject::{LARGE, NOW, Subject, at, batch, pages_of, seqs, single, update, watermark},
};

/// J3: reading is exclusive of the cursor.
pub async fn j3_reading_is_exclusive_of_the_cursor<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J3", "j3");
    subject.write_numbers(1..=6).await;
    let bounds = subject.bounds().await;
    for number in 0..=6 {
        for limit in [LARGE, pages_of(1)] {
            let page = subject.page(at(&bounds, number), limit).await;
            assert_eq!(page.after, watermark(number), "J3: what a read after {number} continues from");
            let first = page.updates.first().map(|update| update.seq.as_u64());
            let next = (number < 6).then_some(number + 1);
            assert_eq!(first, next, "J3: the first update of a read after {number}");
        }
    }
    let origin = subject.page(ReadFrom::Origin, LARGE).await;
    assert_eq!(origin.after, Watermark::ORIGIN, "J3: what a read from the origin continues from");
    assert_eq!(seqs(&origin.updates).first(), Some(&1), "J3: the first update of a read from the origin");
}

/// J4: pages of any size concatenate to the whole log, and a page before the end is never empty, even when one
/// update is larger than the byte limit.
pub async fn j4_pages_concatenate_to_the_whole_log<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J4", "j4");
    let sizes = [1, 40, 3, 5_000, 2, 2, 70_000, 1, 300, 20, 6_000, 9, 4];
    subject.write(batch(sizes.map(|size| update(&"x".repeat(size))))).await;
    let whole = subject.log().await;
    let some: Vec<usize> = whole.iter().map(Update::size).collect();
    let bytes = [0, 1, some[0], some[0] + some[1], some[3] - 1, some[3], 5_100, 70_000, 1 << 20];
    for updates in [1, 2, 3, 5, whole.len() - 1, whole.len(), whole.len() + 1] {
        for bytes in bytes {
            let updates = NonZeroUsize::new(updates).expect("it is at least one");
            in_pages(&subject, &whole, ReadLimit::new(updates, bytes)).await;
        }
    }
}

async fn in_pages(subject: &Subject, whole: &[Update], limit: ReadLimit) {
    let mut page = subject.page(ReadFrom::Origin, limit).await;
    let mut log: Vec<Update> = Vec::new();
    loop {
        let (count, bytes) = (page.updates.len(), page.updates.iter().map(Update::size).sum::<usize>());
        assert!(count <= limit.updates.get(), "J4: a page of {limit:?} holds {count} updates");
        assert!(count <= 1 || bytes <= limit.bytes, "J4: a page of {limit:?} holds {count} in {bytes} bytes");
        assert!(count > 0 || page.is_complete(), "J4: an empty page of {limit:?} after {}", page.after);
        log.append(&mut page.updates);
        if count == 0 || log.len() >= whole.len() {
            break;
        }
        let end = log.last().map_or(page.after, |update| update.seq.watermark());
        page = subject.page(Cursor::new(page.bounds.epoch, end), limit).await;
    }
    assert!(log == whole, "J4: pages of {limit:?} concatenate to seqs {:?}", seqs(&log));
}

/// J5: a page and its bounds are of one moment.
pub async fn j5_a_page_and_its_bounds_are_of_one_moment<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J5", "j5");
    subject.write(single("first")).await;
    let over = Over::default();
    let readers = [1, 4, 1_000].map(|updates| {
        let (subject, over) = (subject.clone(), over.clone());
        async move {
            while !over.is_over().await {
                let bounds = subject.bounds().await;
                for cursor in [bounds.at_floor(), bounds.at_head()] {
                    // What was trimmed meanwhile is for J11 to judge.
                    if let Replay::Page(page) = subject.read(cursor, pages_of(updates)).await {
                        one_moment(&page);
                    }
                }
            }
        }
    });
    let writers = (0..4).map(|writer| {
        let subject = subject.clone();
        async move {
            for n in 0..12 {
                subject.write(single(&format!("{writer}.{n}"))).await;
                if writer == 0 && n % 3 == 2 {
                    subject.trim(Keep { updates: Some(2), ..Keep::everything() }, NOW).await;
                }
            }
        }
    });
    race(&over, readers, writers).await;
}

fn one_moment(page: &Page) {
    let Page { after, updates, bounds: Bounds { floor, head, .. } } = page;
    assert!(after >= floor, "J5: a page after {after} says that the floor is {floor}");
    assert!(page.end() <= *head, "J5: a page up to {} says that the head is {head}", page.end());
    assert!(
        !updates.is_empty() || after == head,
        "J5: an empty page after {after} says that the head is {head}"
    );
}

/// J11: a trimmed cursor is reported, never skipped.
pub async fn j11_a_trimmed_cursor_is_reported<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J11", "j11");
    subject.write_numbers(1..=10).await;
    for (kept, floor) in [(4, 6), (0, 10)] {
        subject.trim(Keep { updates: Some(kept), ..Keep::everything() }, NOW).await;
        let bounds = subject.bounds().await;
        for number in 0..floor {
            let stale = subject.stale(at(&bounds, number)).await;
            let what = format!("cursor {number} below floor {floor}");
            reported("J11", &what, &stale, at(&bounds, number), &bounds, StaleReason::RetentionFloorBreach);
        }
        let stale = subject.stale(ReadFrom::Origin).await;
        let origin = bounds_origin(&bounds);
        reported("J11", "the trimmed origin", &stale, origin, &bounds, StaleReason::RetentionFloorBreach);
    }
}

fn bounds_origin(bounds: &Bounds) -> Cursor {
    Cursor::new(bounds.epoch, Watermark::ORIGIN)
}

fn reported(law: &str, what: &str, stale: &Stale, cursor: Cursor, bounds: &Bounds, reason: StaleReason) {
    assert_eq!(stale.reasons, [reason], "{law}: the reasons why {what} is stale");
    assert_eq!(stale.cursor, cursor, "{law}: the cursor that was brought, in the answer to {what}");
    assert_eq!(stale.bounds, *bounds, "{law}: the bounds in the answer to {what}");
}

/// J12: a cursor at the floor is good.
pub async fn j12_a_cursor_at_the_floor_is_good<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J12", "j12");
    subject.write_numbers(1..=10).await;
    for (kept, floor) in [(10, 0), (9, 1), (4, 6), (1, 9), (0, 10)] {
        let bounds = subject.trim(Keep { updates: Some(kept), ..Keep::everything() }, NOW).await.bounds;
        assert_eq!(bounds.floor, watermark(floor), "J12: the floor with {kept} updates kept of 10");
        let Replay::Page(page) = subject.read(bounds.at_floor(), LARGE).await else {
            panic!("J12: a cursor at the floor, {floor}, was called stale");
        };
        assert_eq!(page.after, bounds.floor, "J12: what a read at the floor continues from");
        let kept: Vec<u64> = (floor + 1..=10).collect();
        let found = seqs(&subject.follow(bounds.at_floor()).await);
        assert_eq!(found, kept, "J12: what follows the floor, {floor}");
    }
}

/// J15: a cursor ahead of the head, or of another epoch, is reported.
pub async fn j15_a_cursor_ahead_or_of_another_epoch_is_reported<H: Harness>(store: H) {
    let untouched = Subject::new(&store, "J15", "j15.untouched");
    untouched.stale(at(&untouched.bounds().await, 1)).await;

    let subject = Subject::new(&store, "J15", "j15");
    subject.write_numbers(1..=3).await;
    let bounds = subject.bounds().await;
    for number in [4, 5, 1_000, MAX_POSITION] {
        let (cursor, what) = (at(&bounds, number), format!("cursor {number} ahead of head 3"));
        let stale = subject.stale(cursor).await;
        reported("J15", &what, &stale, cursor, &bounds, StaleReason::CursorAhead);
    }
    for bits in [bounds.epoch.bits() ^ 1, !bounds.epoch.bits(), 0, u64::MAX] {
        for number in [0, 1, 3, 4] {
            let cursor = Cursor::new(Epoch::from_bits(bits), watermark(number));
            let what = format!("cursor {number} of another epoch");
            let stale = subject.stale(cursor).await;
            reported("J15", &what, &stale, cursor, &bounds, StaleReason::EpochMismatch);
        }
    }
    // Refusing changed nothing.
    subject.page(bounds.at_head(), LARGE).await;
}
