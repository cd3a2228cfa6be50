//! What is to be looked at for what may go, and what is put off: J21.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use crate::{
    journal::{DEDUP_FOR, DueAfter, Journal, Keep, Settled},
    position::Cursor,
    topic::Topic,
    update::Timestamp,
};

use super::{
    Harness,
    race::at_once,
    run::declared,
    subject::{NOW, Subject, dedup, single, topic},
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
    named.trim(Keep::everything().with_updates(0), NOW).await;
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
        let settled: Topic = topic(name);
        let settled = self.journal.settle(rules, &[Settled { topic: settled, head, due }]).await;
        settled.unwrap_or_else(|error| panic!("J21: {name} could not be put off: {error:?}"));
    }
}
