//! What is to be looked at for what may go, and what is put off: J21 and J22.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use crate::{
    journal::{DEDUP_FOR, DueAfter, Journal, Keep, Settled},
    position::Cursor,
    update::Timestamp,
};

use super::{
    harness::Harness,
    race::at_once,
    run::declared,
    subject::{NOW, Subject, batch, dedup, single, state, tombstone, topic},
};

const RULES: u64 = u64::MAX - 7;
const LATER: Timestamp = Timestamp::from_millis(NOW.as_millis() + 1_000);

/// J21: a topic with something to trim is due: after an append, from the moment on that it was put off to, and under other rules.
pub async fn j21_a_topic_with_something_to_trim_is_due<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J21", "j21");
    let dues = Dues { journal: store.journal() };
    assert_eq!(dues.at(RULES, Timestamp::default()).await, [""; 0], "J21: what is due of nothing");
    // An untouched topic can neither be put off nor become due.
    dues.settle(RULES, "j21.never", subject.bounds().await.at_head(), LATER).await;
    let names = ["j21", "j21.a", "j21.b", "j21.c"];
    let mut heads = Vec::new();
    for name in names {
        heads.push(subject.beside(name).write(single("first")).await.cursor());
    }
    assert_eq!(dues.at(RULES, Timestamp::default()).await, names, "J21: what is due after its first append");
    if !H::CAPABILITIES.puts_topics_off {
        declared("J21", "put topics off");
        return;
    }

    // In order of the moments, and then of the names.
    for (name, head, due) in [(0, 0, 2), (1, 1, 1), (2, 2, 2), (3, 3, 3)] {
        dues.settle(RULES, names[name], heads[head], LATER.plus(Duration::from_millis(due))).await;
    }
    for (at, due) in [(0, &[][..]), (1, &["j21.a"]), (2, &["j21.a", "j21", "j21.b"])] {
        assert_eq!(
            dues.at(RULES, LATER.plus(Duration::from_millis(at))).await,
            due,
            "J21: what is due {at} ms after"
        );
    }
    let all = ["j21.a", "j21", "j21.b", "j21.c"];
    assert_eq!(dues.at(RULES, Timestamp::from_millis(u64::MAX)).await, all, "J21: what is due ever");

    // An append makes it due, whatever was said of the head before.
    subject.beside("j21.c").write(single("second")).await;
    assert_eq!(dues.at(RULES, NOW).await, ["j21.c"], "J21: what is due after an append");
    dues.settle(RULES, "j21.c", heads[3], LATER).await;
    assert_eq!(dues.at(RULES, NOW).await, ["j21.c"], "J21: what is due that was put off at an older head");
    let ever = Timestamp::from_millis(u64::MAX);
    dues.settle(RULES, "j21.c", subject.beside("j21.c").bounds().await.at_head(), ever).await;
    assert_eq!(dues.at(RULES, NOW).await, [""; 0], "J21: what is due when all is put off");
    // What is put off is as it was, but for that.
    assert_eq!(subject.log().await.len(), 1, "J21: the log of a topic that is put off");
    assert_eq!(subject.topics("", None, 9).await.len(), 4, "J21: the topics, when all are put off");

    // A dedup key is to be forgotten before the topic is due otherwise.
    let named = subject.beside("j21.d");
    named.write(single("named").with_dedup(dedup("j21"))).await;
    named.trim(Keep { updates: Some(0), ..Keep::everything() }, NOW).await;
    dues.settle(RULES, "j21.d", named.bounds().await.at_head(), NOW.plus(3 * DEDUP_FOR)).await;
    let forgets = NOW.plus(DEDUP_FOR);
    let earlier = dues.at(RULES, forgets.minus(Duration::from_millis(1))).await;
    assert!(
        !earlier.contains(&"j21.d".to_owned()),
        "J21: what is due before a key is to be forgotten: {earlier:?}"
    );
    let due = dues.at(RULES, forgets).await;
    assert!(due.contains(&"j21.d".to_owned()), "J21: what is due when a key is to be forgotten: {due:?}");

    // Other rules: nothing that was put off under these counts.
    let mut under_others = dues.at(RULES + 1, Timestamp::default()).await;
    under_others.sort_unstable();
    let names = ["j21", "j21.a", "j21.b", "j21.c", "j21.d"];
    assert_eq!(under_others, names, "J21: what is due under other rules");
    assert_eq!(dues.at(RULES, NOW).await, [""; 0], "J21: what is due, after others were asked about");
    dues.journal.settle(RULES + 1, &[]).await.expect("J21: topics could be put off before");
    for rules in [RULES, RULES + 1] {
        assert_eq!(
            dues.at(rules, NOW).await,
            names,
            "J21: what is due under either rules, once they changed"
        );
    }
    amid_appends(&subject.beside("j21.race"), &dues).await;
}

/// J22: a topic that holds nothing and has not moved for long is retired: it is not listed and never due, and otherwise what it was.
pub async fn j22_a_retired_topic_is_not_listed_and_stays_what_it_was<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J22", "j22");
    if !H::CAPABILITIES.puts_topics_off {
        declared("J22", "put topics off");
        return;
    }
    let dues = Dues { journal: store.journal() };
    let week = Duration::from_secs(7 * 86_400);
    // A look at each, some time after NOW: how many it retires of those that were idle for a week.
    let look = async |names: &[&str], after: Duration| {
        let at = NOW.plus(after);
        let mut settled = Vec::new();
        for name in names {
            let head = subject.beside(name).bounds().await.at_head();
            let retire_idle_since = Some(at.minus(week));
            settled.push(Settled {
                topic: topic(name),
                head,
                due: at.plus(DEDUP_FOR),
                seen_at: at,
                tombstones: None,
                retire_idle_since,
            });
        }
        dues.journal.settle(RULES, &settled).await.expect("J22: topics could not be settled")
    };
    let (nothing, ever) = (Keep { updates: Some(0), ..Keep::everything() }, Timestamp::from_millis(u64::MAX));

    // One that is empty, and those that hold an update, a document or a dedup key.
    let names = ["j22.document", "j22.empty", "j22.key", "j22.update"];
    let mut cursors = Vec::new();
    for (name, first) in names.into_iter().zip([
        batch([state("doc", "1")]),
        single("1"),
        single("1").with_dedup(dedup("j22")),
        single("1"),
    ]) {
        let topic = subject.beside(name);
        cursors.push(topic.write(first).await.cursor());
        if name != "j22.update" {
            topic.trim(nothing, NOW).await;
        }
    }
    assert_eq!(look(&names, Duration::ZERO).await, 0, "J22: retired at the first look");
    let almost = week.saturating_sub(Duration::from_millis(1));
    assert_eq!(look(&names, almost).await, 0, "J22: retired before it was idle for long enough");
    assert_eq!(look(&names, week).await, 1, "J22: topics that were retired");
    assert_eq!(look(&names, 2 * week).await, 0, "J22: topics that were retired again");

    let listed = async || -> Vec<String> {
        let topics = subject.topics("", None, 9).await;
        topics.into_iter().map(|(topic, _)| topic.as_str().to_owned()).collect()
    };
    let others = ["j22.document", "j22.key", "j22.update"];
    assert_eq!(listed().await, others, "J22: what is listed beside a retired topic");
    dues.journal.settle(RULES + 1, &[]).await.expect("J22: rules could not change");
    for rules in [RULES, RULES + 1] {
        let mut due = dues.at(rules, ever).await;
        due.sort_unstable();
        assert_eq!(due, others, "J22: what is due beside a retired topic, once the rules changed");
    }

    // A tombstone that is to go keeps it from being retired, and one that stays for good does not.
    let deleted = subject.beside("j22.tombstone");
    deleted.write(batch([state("doc", "1")])).await;
    deleted.write(batch([tombstone("doc")])).await;
    deleted.trim(nothing, NOW).await;
    let head = deleted.bounds().await.at_head();
    let name = topic("j22.tombstone");
    for (after, tombstones, retired) in [(0, Some(9 * week), 0), (1, Some(9 * week), 0), (2, None, 1)] {
        let at = NOW.plus(after * week);
        let retire_idle_since = Some(at.minus(week));
        let settled = Settled {
            topic: name.clone(),
            head,
            due: at.plus(DEDUP_FOR),
            seen_at: at,
            tombstones,
            retire_idle_since,
        };
        let answer =
            dues.journal.settle(RULES + 1, &[settled]).await.expect("J22: a topic could not be settled");
        assert_eq!(
            answer, retired,
            "J22: retired after {after} weeks, with tombstones that are kept for {tombstones:?}"
        );
    }

    // It is what it was: its epoch, its head, its floor.
    let retired = subject.beside("j22.empty");
    let bounds = retired.bounds().await;
    assert_eq!(bounds.at_head(), cursors[1], "J22: the head of a retired topic");
    assert_eq!(bounds.floor, bounds.head, "J22: the floor of a retired topic");
    assert!(retired.follow(cursors[1]).await.is_empty(), "J22: a cursor at the head of a retired topic");
    let receipt = retired.write(single("2")).await;
    assert_eq!(receipt.cursor().epoch, cursors[1].epoch, "J22: the epoch of a topic that was retired");
    assert_eq!(receipt.first.watermark().as_u64(), 2, "J22: the seq after those of a topic that was retired");
    assert_eq!(listed().await, names, "J22: what is listed when something was appended");
    assert!(dues.at(RULES + 1, NOW).await.contains(&"j22.empty".to_owned()), "J22: not due after an append");

    // An append in between begins the time anew, also where all of it is gone again.
    look(&["j22.empty"], Duration::ZERO).await;
    retired.write(single("3")).await;
    retired.trim(nothing, NOW).await;
    assert_eq!(look(&["j22.empty"], week).await, 0, "J22: retired although it had moved");
    assert_eq!(look(&["j22.empty"], 2 * week).await, 1, "J22: topics that were retired a second time");
}

/// Nothing that comes while a topic is put off is put off with it.
async fn amid_appends(subject: &Subject, dues: &Dues) {
    for round in 0..10 {
        let head = subject.write(single(&format!("{round}"))).await.cursor();
        let tasks = (0..4).map(|task| {
            let (subject, dues) = (subject.clone(), dues.clone());
            async move {
                if task == 1 {
                    subject.write(single("between")).await;
                } else {
                    dues.settle(RULES + 1, "j21.race", head, LATER).await;
                }
            }
        });
        at_once(tasks).await;
        let due = dues.at(RULES + 1, NOW).await;
        assert!(due.contains(&"j21.race".to_owned()), "J21: due after an append amid putting off: {due:?}");
    }
}

/// What the store under test says is due.
#[derive(Clone, Debug)]
struct Dues {
    journal: Arc<dyn Journal>,
}

impl Dues {
    /// All names that are due then, read page by page.
    async fn at(&self, rules: u64, until: Timestamp) -> Vec<String> {
        let (mut names, mut after): (_, Option<DueAfter>) = (Vec::new(), None);
        loop {
            let limit = const { NonZeroUsize::new(2).expect("2 is not zero") };
            let page = self.journal.due(rules, after.as_ref(), until, limit).await;
            let page = page.unwrap_or_else(|error| panic!("J21: what is due could not be read: {error:?}"));
            assert!(page.corrupt.is_empty(), "J21: good topics were called corrupt: {:?}", page.corrupt);
            names.extend(page.topics.iter().map(|(_, topic, _)| topic.as_str().to_owned()));
            assert!(names.len() < 100, "J21: the pages of what is due do not end: {names:?}");
            match page.next {
                Some(next) => after = Some(next),
                None => return names,
            }
        }
    }

    async fn settle(&self, rules: u64, name: &str, head: Cursor, due: Timestamp) {
        let settled = Settled {
            topic: topic(name),
            head,
            due,
            seen_at: NOW,
            tombstones: None,
            retire_idle_since: None,
        };
        let retired = self.journal.settle(rules, &[settled]).await;
        let retired = retired.unwrap_or_else(|error| panic!("J21: {name} could not be put off: {error:?}"));
        assert_eq!(retired, 0, "J21: {name} was retired and should be put off");
    }
}
