//! Checkpoints: C1 to C9.
//!
//! What is broken here folds a part of the source twice, or never, and nobody is told. So the laws are about what a
//! checkpoint and its document say of each other; what a fold makes of its source is the projector's.

use std::{num::NonZeroUsize, sync::Arc};

use crate::{
    journal::Conflict,
    position::{Cursor, Epoch, MAX_POSITION},
    projection::{Advance, Advanced, Checkpoint, Checkpoints, Entity, ProjectionName},
    topic::Topic,
    update::{Payload, PayloadHash, Update},
};

use super::{
    harness::CheckpointsHarness,
    race::{Over, at_once, race},
    run::{Victim, declared, report},
    subject::{self, NOW, batch, dedup, doc_key, single, state, text, texts, topic, update, watermark},
};

/// C1: a checkpoint and its batch are written together.
pub async fn c1_a_checkpoint_and_its_batch_are_written_together<H: CheckpointsHarness>(store: H) {
    let subject = Subject::new(&store, "C1");
    for n in 1..=3 {
        let answer = subject.advance(subject.step("plain", n)).await;
        let document = subject.topic.document("plain").await;
        let head = subject.topic.bounds().await.at_head();
        let Advanced::Written(Some(receipt)) = answer else {
            panic!("C1: the answer to an advance with a batch: {answer:?}")
        };
        assert_eq!(receipt.cursor(), head, "C1: the receipt of an advance");
        assert_eq!(subject.checkpoint("plain").await, Some(checkpoint(n)), "C1: the checkpoint at {n}");
        let meant = Some((receipt.last, number(n), NOW));
        let found = document.map(|found| (found.seq, text(&found).to_owned(), found.published_at));
        assert_eq!(found, meant, "C1: the document with the checkpoint at {n}");
    }

    let names = ["one", "two", "three"];
    let over = Over::default();
    let readers = names.map(|name| compare(subject.clone(), name, over.clone()));
    let writers = names.map(|name| {
        let subject = subject.clone();
        async move {
            for n in 1..=30 {
                subject.written(subject.step(name, n)).await;
            }
        }
    });
    race(&over, readers, writers).await;
}

/// Reads both again and again: whichever is read first, the other is not behind it.
async fn compare(subject: Subject, name: &'static str, over: Over) {
    loop {
        let last = over.is_over().await;
        let before = subject.folded(name).await;
        let stated = subject.stated(name).await;
        let after = subject.folded(name).await;
        assert!(stated >= before, "C1: the checkpoint was at {before}, and then the document at {stated}");
        assert!(after >= stated, "C1: the document was at {stated}, and then the checkpoint at {after}");
        if last {
            return;
        }
    }
}

/// C2: a repeat writes nothing, wherever it was expected.
pub async fn c2_a_repeat_writes_nothing<H: CheckpointsHarness>(store: H) {
    let subject = Subject::new(&store, "C2");
    subject.written(subject.step("doc", 1)).await;
    let held = subject.held().await;
    for from in [None, Some(checkpoint(1)), Some(checkpoint(2))] {
        for batch in
            [batch([state("doc", "again")]), single("conflict").with_expect(watermark(40)), single("other")]
        {
            let again = subject.moving("doc", from.clone(), checkpoint(1));
            let again = again.with_batch(subject.name.clone(), batch);
            let answer = subject.advance(again.clone()).await;
            assert_eq!(answer, Advanced::Repeated, "C2: the answer to {again:?}");
            subject.holds(&held, &again).await;
        }
        let answer = subject.advance(subject.moving("doc", from, checkpoint(1))).await;
        assert_eq!(answer, Advanced::Repeated, "C2: the answer without a batch");
    }
    // What differs in anything is no repeat. What else it is, is for C3 to judge.
    for to in lookalikes(&checkpoint(1)) {
        let other = subject.moving("doc", None, to);
        let answer = subject.advance(other.clone()).await;
        assert_ne!(answer, Advanced::Repeated, "C2: the answer to {other:?}");
    }

    let racers = (0..12).map(|_| {
        let subject = subject.clone();
        async move { subject.advance(subject.step("race", 1)).await }
    });
    let answers = at_once(racers).await;
    let written = answers.iter().filter(|answer| matches!(answer, Advanced::Written(_))).count();
    let repeated = answers.iter().filter(|answer| **answer == Advanced::Repeated).count();
    assert_eq!((written, repeated), (1, 11), "C2: the same advance twelve times at once: {answers:?}");
    let found = subject.topic.log().await.len();
    assert!(found <= held.1.len() + 1, "C2: updates of the same advance twelve times at once: {found}");
}

/// C3: an advance from elsewhere writes nothing and is told where the checkpoint stands.
pub async fn c3_an_advance_from_elsewhere_writes_nothing<H: CheckpointsHarness>(store: H) {
    let subject = Subject::new(&store, "C3");
    for n in 1..=2 {
        subject.written(subject.step("doc", n)).await;
    }
    let held = subject.held().await;
    let elsewhere = [None, Some(checkpoint(1)), Some(checkpoint(3))].into_iter();
    for from in elsewhere.chain(lookalikes(&checkpoint(2)).map(Some)) {
        for to in [3, 9] {
            let wrong = subject.moving("doc", from.clone(), checkpoint(to));
            let refused = batch([state("doc", "refused")]);
            // One whose own `expect` fails, too: that comes later.
            let late = refused.clone().with_expect(watermark(40));
            let with = |batch| wrong.clone().with_batch(subject.name.clone(), batch);
            for wrong in [wrong.clone(), with(refused), with(late)] {
                subject.stands_elsewhere(wrong.clone(), Some(checkpoint(2))).await;
                subject.holds(&held, &wrong).await;
            }
        }
    }
    let nowhere = subject.moving("none", Some(checkpoint(1)), checkpoint(2));
    let nowhere = nowhere.with_batch(subject.name.clone(), batch([state("none", "refused")]));
    subject.stands_elsewhere(nowhere, None).await;
    subject.holds(&held, "an advance of what has no checkpoint").await;

    // Of those who start at the same place, one is right. There is a place, and there is none.
    for (name, from) in [("doc", Some(checkpoint(2))), ("race", None)] {
        let before = subject.topic.log().await.len();
        let racers = (0..12).map(|racer| {
            let (subject, from) = (subject.clone(), from.clone());
            async move {
                let to = checkpoint(100 + racer);
                let moving = subject.moving(name, from, to.clone());
                let moving = moving.with_batch(subject.name.clone(), batch([state(name, &number(racer))]));
                (to, subject.advance(moving).await)
            }
        });
        let answers = at_once(racers).await;
        let won = answers.iter().filter(|(_, answer)| matches!(answer, Advanced::Written(_)));
        let won: Vec<&Checkpoint> = won.map(|(to, _)| to).collect();
        let [won] = won[..] else { panic!("C3: of twelve from the same place, these were written: {won:?}") };
        for (to, answer) in answers.iter().filter(|(to, _)| to != won) {
            let meant = Advanced::Elsewhere(Some(won.clone()));
            assert_eq!(*answer, meant, "C3: the answer to the one that goes to {to:?}");
        }
        assert_eq!(subject.checkpoint(name).await.as_ref(), Some(won), "C3: the checkpoint of {name}");
        let found = subject.topic.log().await.len();
        assert!(found <= before + 1, "C3: updates of twelve from the same place: {found} after {before}");
    }
}

/// C4: a batch that conflicts moves nothing, and one whose dedup key is known moves the checkpoint and writes nothing
/// else.
pub async fn c4_a_batch_that_conflicts_moves_nothing<H: CheckpointsHarness>(store: H) {
    let subject = Subject::new(&store, "C4");
    let versioned = batch([state("doc", "state").doc_version(9)]);
    subject.topic.write(versioned).await;
    subject.written(subject.step("stands", 1)).await;
    let held = subject.held().await;
    let head = subject.topic.bounds().await.head;
    let stale = [update("refused"), state("doc", "refused").doc_version(9)];
    let version = Conflict::DocVersion { doc_key: doc_key("doc"), given: 9, found: 9 };
    let expected = watermark(40);
    for (refused, conflict) in [
        (batch(stale), version),
        (
            batch([update("refused"), state("new", "refused")]).with_expect(expected),
            Conflict::Head { expected, found: head },
        ),
    ] {
        for (name, from) in [("stands", Some(checkpoint(1))), ("none", None)] {
            let refused = refused.clone().with_dedup(dedup("tried before"));
            let moving = subject.moving(name, from, checkpoint(2)).with_batch(subject.name.clone(), refused);
            let answer = subject.advance(moving.clone()).await;
            assert_eq!(answer, Advanced::Conflict(conflict.clone()), "C4: the answer to {moving:?}");
            subject.holds(&held, &moving).await;
        }
    }
    // The name of a batch that was refused is free, and so is the way.
    let named = batch([state("stands", "2")]).with_dedup(dedup("tried before"));
    let moving = subject.moving("stands", Some(checkpoint(1)), checkpoint(2));
    let Advanced::Written(Some(first)) =
        subject.advance(moving.with_batch(subject.name.clone(), named.clone())).await
    else {
        panic!(
            "C4: an advance that was refused before, and that nothing stands in the way of, is not written"
        )
    };

    // By whom it was stored is no matter.
    let appended = subject.topic.write(single("appended").with_dedup(dedup("appended"))).await;
    let known = single("appended").with_dedup(dedup("appended"));
    let log = texts(&subject.topic.log().await);
    for (name, from, known, receipt) in
        [("stands", Some(checkpoint(2)), named, first), ("none", None, known, appended)]
    {
        let moving = subject.moving(name, from, checkpoint(3)).with_batch(subject.name.clone(), known);
        let answer = subject.advance(moving.clone()).await;
        assert_eq!(answer, Advanced::Written(Some(receipt)), "C4: the answer to {moving:?}");
        assert_eq!(
            subject.checkpoint(name).await,
            Some(checkpoint(3)),
            "C4: the checkpoint after {moving:?}"
        );
        assert_eq!(texts(&subject.topic.log().await), log, "C4: the log after {moving:?}");
    }
}

/// C5: a checkpoint is kept as it was given, whichever way it moves, and without a batch nothing else is written.
pub async fn c5_a_checkpoint_is_kept_as_it_was_given<H: CheckpointsHarness>(store: H) {
    let subject = Subject::new(&store, "C5");
    let mut from = None;
    for (epoch, folded, version) in [
        (0, 0, 0),
        (u64::MAX, MAX_POSITION, u32::MAX),
        (1 << 63, u64::from(u32::MAX), 1 << 31),
        (i64::MAX.cast_unsigned(), 1 << 31, i32::MAX.cast_unsigned()),
        (1, 3, 7),
        (1, 2, 6),
    ] {
        let source = Cursor::new(Epoch::from_bits(epoch), watermark(folded));
        let to = Checkpoint { source, version, summary_hash: hash(folded) };
        let answer = subject.advance(subject.moving("entity", from, to.clone())).await;
        assert_eq!(answer, Advanced::Written(None), "C5: the answer to an advance without a batch");
        assert_eq!(subject.checkpoint("entity").await.as_ref(), Some(&to), "C5: the checkpoint");
        let kept = subject.page(None, LARGE).await;
        assert_eq!(kept, [(entity("entity"), to.clone())], "C5: all checkpoints");
        from = Some(to);
    }
    let head = subject.topic.bounds().await.head;
    assert_eq!(head.as_u64(), 0, "C5: the head, after advances without a batch");
    assert_eq!(subject.topic.topics("", None, 10).await, [], "C5: topics, after advances without a batch");
}

/// C6: projections and entities are apart.
pub async fn c6_projections_and_entities_are_apart<H: CheckpointsHarness>(store: H) {
    let subject = Subject::new(&store, "C6");
    let longest = "é".repeat(64);
    let names = ["a", "A", "a ", "a a", "%", "_", "' OR 1 = 1 --", "\u{1f511}", &longest];
    let longer = "é".repeat(256);
    let pairs = names.iter().flat_map(|projection| names.map(|entity| (*projection, entity)));
    let pairs: Vec<(&str, &str)> = pairs.chain([("a", longer.as_str())]).collect();
    for (n, (projection, name)) in (1..).zip(&pairs) {
        let beside = subject.beside(projection);
        assert_eq!(beside.checkpoint(name).await, None, "C6: {name} of {projection}, before it has one");
        let moving = beside.moving(name, None, checkpoint(n));
        beside.written(moving.with_batch(subject.name.clone(), single(name))).await;
    }
    for (n, (projection, name)) in (1..).zip(&pairs) {
        let found = subject.beside(projection).checkpoint(name).await;
        assert_eq!(found, Some(checkpoint(n)), "C6: the checkpoint of {name} of {projection}");
    }
}

/// C7: reading is exclusive of the entity, in byte order, and pages concatenate.
pub async fn c7_reading_is_exclusive_of_the_entity_and_pages_concatenate<H: CheckpointsHarness>(store: H) {
    let subject = Subject::new(&store, "C7");
    assert_eq!(subject.page(None, 3).await, [], "C7: of nothing");
    // In byte order, which is not the alphabet's, nor that of UTF-16.
    let ordered =
        ["!", "A", "B", "Z", "a", "a b", "a%", "a_", "aa", "b", "z", "é", "日", "\u{ff61}", "\u{10000}"];
    let mut all = Vec::new();
    for n in 0..ordered.len() {
        // Stored in another order.
        let at = n * 7 % ordered.len();
        for projection in [PROJECTION, "c7.other"] {
            let beside = subject.beside(projection);
            let moving = beside.moving(ordered[at], None, checkpoint(at as u64 + 1));
            beside.written(moving.with_batch(subject.name.clone(), single(ordered[at]))).await;
        }
    }
    for (n, name) in (1..).zip(ordered) {
        all.push((entity(name), checkpoint(n)));
    }
    subject.beside("c7.other").written(subject.beside("c7.other").step("of the other", 1)).await;
    assert_eq!(subject.page(None, LARGE).await, all, "C7: all");
    for after in ordered.into_iter().chain(["0", "aaa", "zz", "\u{10ffff}"]) {
        let after = entity(after);
        let rest: Vec<_> = all.iter().filter(|(name, _)| *name > after).cloned().collect();
        assert_eq!(subject.page(Some(&after), LARGE).await, rest, "C7: what follows {after:?}");
    }
    for limit in [1, 2, 7, all.len()] {
        let (mut end, mut pages) = (None, Vec::new());
        loop {
            let page = subject.page(end.as_ref(), limit).await;
            assert!(page.len() <= limit, "C7: at most {limit} were asked for: {page:?}");
            let last = page.last().map(|(name, _)| name.clone());
            // One that does not lead on is told by what the pages are together.
            if last.is_none() || last <= end || pages.len() > all.len() {
                break;
            }
            end = last;
            pages.extend(page);
        }
        assert_eq!(pages, all, "C7: pages of {limit}, one after another");
    }
}

/// C8: removing takes the checkpoints that it names and nothing else.
pub async fn c8_removing_takes_what_it_names_and_nothing_else<H: CheckpointsHarness>(store: H) {
    let subject = Subject::new(&store, "C8");
    let others = ["conformance.", "conformance%", "conform"].map(|name| subject.beside(name));
    for other in &others {
        other
            .written(other.moving("e07", None, checkpoint(1)).with_batch(topic("c8.other"), single("o")))
            .await;
    }
    let names: Vec<String> = (0..30).map(|n| format!("e{n:02}")).collect();
    for name in &names {
        subject.written(subject.step(name, 1)).await;
    }
    let log = subject.topic.log().await;
    let documents = [subject.stated("e07").await, subject.stated("e08").await];

    assert!(!subject.remove("e7").await, "C8: whether one was removed that there is not");
    assert!(subject.remove("e07").await, "C8: whether the one that there is was removed");
    assert!(!subject.remove("e07").await, "C8: whether it was removed again");
    assert_eq!(subject.checkpoint("e07").await, None, "C8: the checkpoint that was removed");
    let left: Vec<Entity> = subject.page(None, LARGE).await.into_iter().map(|(name, _)| name).collect();
    let meant = names.iter().filter(|name| *name != "e07").map(|name| entity(name));
    assert_eq!(left, meant.collect::<Vec<_>>(), "C8: what is left with one removed");
    assert_eq!(subject.topic.log().await, log, "C8: the log, with a checkpoint removed");
    assert_eq!(subject.stated("e07").await, documents[0], "C8: the document whose checkpoint was removed");

    // A projector that had found it there is told, and it can be folded from the start.
    subject.stands_elsewhere(subject.step("e07", 2), None).await;
    let anew = subject.moving("e07", None, checkpoint(5));
    subject.written(anew.with_batch(subject.name.clone(), batch([state("e07", "5")]))).await;
    let log = subject.topic.log().await;

    assert_eq!(subject.remove_all().await, 30, "C8: how many were removed");
    assert_eq!(subject.remove_all().await, 0, "C8: how many were removed again");
    assert_eq!(subject.page(None, LARGE).await, [], "C8: what is left with all removed");
    assert_eq!(subject.topic.log().await, log, "C8: the log, with all checkpoints removed");
    assert_eq!(subject.stated("e08").await, documents[1], "C8: a document, with all checkpoints removed");
    for other in &others {
        let found = other.checkpoint("e07").await;
        assert_eq!(found, Some(checkpoint(1)), "C8: what is left of {}", other.projection);
    }
    subject.written(subject.moving("e08", None, checkpoint(2))).await;
}

/// C9: what was acknowledged survives reopening and `kill -9`, and no checkpoint without its document.
pub async fn c9_acknowledged_means_durable<H: CheckpointsHarness>(store: H) {
    if !H::CAPABILITIES.survives_reopening {
        return declared("C9", "survive reopening");
    }
    let subject = Subject::new(&store, "C9");
    for name in ["kept", "removed", "moved on"] {
        subject.written(subject.step(name, 1)).await;
    }
    subject.remove("removed").await;
    subject.written(subject.moving("moved on", Some(checkpoint(1)), checkpoint(2))).await;
    let before = subject.held().await;
    drop(subject);
    let store = H::open(store.close().await).await;
    Subject::new(&store, "C9").holds(&before, "reopening").await;

    if !H::CAPABILITIES.survives_kill {
        return declared("C9", "survive kill -9");
    }
    let place = store.close().await;
    let victim = Victim { law: "C9", test: "advancing_victim" };
    let reports = victim.killed_at_work(&place, ACKNOWLEDGED).await;
    let store = H::open(place).await;
    Subject::new(&store, "C9").holds(&before, "kill -9").await;
    acknowledged_is_there(&store, &reports).await;
}

/// After how many acknowledgements the victim is killed.
const ACKNOWLEDGED: usize = 60;

const VICTIM_PROJECTION: &str = "c9.killed";

const VICTIM_ENTITIES: [&str; 4] = ["a", "b", "c", "d"];

/// What the victim does: folds several entities, and reports each step once it is acknowledged.
pub(super) async fn advance_until_killed(store: &impl CheckpointsHarness) {
    let subject = Subject::of(store, "C9", VICTIM_PROJECTION);
    let writers = VICTIM_ENTITIES.map(|name| {
        let subject = subject.clone();
        async move {
            // An end, should nobody come to kill it.
            for n in 1..=2_000 {
                subject.written(subject.step(name, n)).await;
                report(&format!("{name} {n}"));
            }
        }
    });
    at_once(writers).await;
}

async fn acknowledged_is_there(store: &impl CheckpointsHarness, reports: &[String]) {
    let subject = Subject::of(store, "C9", VICTIM_PROJECTION);
    let log = subject.topic.log().await;
    for name in VICTIM_ENTITIES {
        let (folded, stated) = (subject.folded(name).await, subject.stated(name).await);
        for report in reports {
            let said = report.split_once(' ').and_then(|(name, n)| Some((name, n.parse::<u64>().ok()?)));
            let Some((entity, n)) = said else { panic!("C9: the process to be killed reported {report:?}") };
            assert!(
                entity != name || n <= folded,
                "C9: after kill -9 the checkpoint of {name} is at {folded}, and {n} was acknowledged"
            );
        }
        assert_eq!(folded, stated, "C9: after kill -9, the checkpoint of {name} and its document");
        let steps = log.iter().filter(|update| update.doc_key.as_ref() == Some(&doc_key(name)));
        let steps: Vec<&str> = steps.map(text).collect();
        assert_eq!(steps, (1..=folded).map(number).collect::<Vec<_>>(), "C9: the steps of {name}");
        subject.written(subject.step(name, folded + 1)).await;
    }
}

/// A page as large as a store likes.
const LARGE: usize = 10_000;

const PROJECTION: &str = "conformance";

/// One projection of the store under test and the topic that it appends to, asked in the name of a law.
#[derive(Clone, Debug)]
struct Subject {
    law: &'static str,
    checkpoints: Arc<dyn Checkpoints>,
    projection: ProjectionName,
    /// The topic, and its name.
    topic: subject::Subject,
    name: Topic,
}

/// Everything that a projection and its topic hold.
type Held = (Vec<(Entity, Checkpoint)>, Vec<Update>);

impl Subject {
    fn new(store: &impl CheckpointsHarness, law: &'static str) -> Self {
        Self::of(store, law, PROJECTION)
    }

    /// A projection that appends to the topic of its name.
    fn of(store: &impl CheckpointsHarness, law: &'static str, projection: &str) -> Self {
        Self {
            law,
            checkpoints: store.checkpoints(),
            projection: projection_name(projection),
            topic: subject::Subject::new(store, law, projection),
            name: topic(projection),
        }
    }

    /// Another projection, which appends to the same topic.
    fn beside(&self, projection: &str) -> Self {
        Self { projection: projection_name(projection), ..self.clone() }
    }

    fn moving(&self, name: &str, from: Option<Checkpoint>, to: Checkpoint) -> Advance {
        Advance::new(self.projection.clone(), entity(name), from, to)
    }

    /// The step to `n` from the number before, with a state that says so.
    fn step(&self, name: &str, n: u64) -> Advance {
        let from = (n > 1).then(|| checkpoint(n - 1));
        let moving = self.moving(name, from, checkpoint(n));
        moving.with_batch(self.name.clone(), batch([state(name, &number(n))]))
    }

    async fn advance(&self, advance: Advance) -> Advanced {
        let answer = self.checkpoints.advance(advance, NOW).await;
        answer.unwrap_or_else(|error| panic!("{}: an advance failed: {error:?}", self.law))
    }

    /// Makes an advance that nothing stands in the way of. What is written is for C1, C4 and C5 to judge.
    async fn written(&self, advance: Advance) {
        let answer = self.advance(advance.clone()).await;
        let written = matches!(answer, Advanced::Written(_));
        assert!(written, "{}: {advance:?} was not written: {answer:?}", self.law);
    }

    async fn stands_elsewhere(&self, advance: Advance, meant: Option<Checkpoint>) {
        let answer = self.advance(advance.clone()).await;
        assert_eq!(answer, Advanced::Elsewhere(meant), "{}: the answer to {advance:?}", self.law);
    }

    async fn checkpoint(&self, name: &str) -> Option<Checkpoint> {
        let found = self.checkpoints.checkpoint(&self.projection, &entity(name)).await;
        found.unwrap_or_else(|error| panic!("{}: a checkpoint could not be read: {error:?}", self.law))
    }

    async fn page(&self, after: Option<&Entity>, limit: usize) -> Vec<(Entity, Checkpoint)> {
        let limit = NonZeroUsize::new(limit).expect("a law asks for some checkpoints");
        let page = self.checkpoints.checkpoints(&self.projection, after, limit).await;
        page.unwrap_or_else(|error| panic!("{}: checkpoints could not be read: {error:?}", self.law))
    }

    async fn remove(&self, name: &str) -> bool {
        let removed = self.checkpoints.remove(&self.projection, &entity(name)).await;
        removed.unwrap_or_else(|error| panic!("{}: a checkpoint was not removed: {error:?}", self.law))
    }

    async fn remove_all(&self) -> u64 {
        let removed = self.checkpoints.remove_all(&self.projection).await;
        removed.unwrap_or_else(|error| panic!("{}: checkpoints were not removed: {error:?}", self.law))
    }

    /// The number at which the checkpoint of `name` stands; 0 where there is none.
    async fn folded(&self, name: &str) -> u64 {
        self.checkpoint(name).await.map_or(0, |found| found.source.watermark.as_u64())
    }

    /// The number that the document of `name` says; 0 where there is none.
    async fn stated(&self, name: &str) -> u64 {
        let Some(document) = self.topic.document(name).await else { return 0 };
        let stated = text(&document).parse();
        stated.unwrap_or_else(|_| panic!("{}: the document of {name} is {document:?}", self.law))
    }

    async fn held(&self) -> Held {
        // In which order the checkpoints come is for C7 to judge.
        let mut checkpoints = self.page(None, LARGE).await;
        checkpoints.sort_by(|(one, _), (other, _)| one.cmp(other));
        (checkpoints, self.topic.log().await)
    }

    /// It holds what it held before `event`.
    async fn holds(&self, before: &Held, event: impl std::fmt::Debug) {
        let after = self.held().await;
        assert_eq!(after.0, before.0, "{}: the checkpoints after {event:?}", self.law);
        assert_eq!(after.1, before.1, "{}: the log after {event:?}", self.law);
    }
}

fn projection_name(text: &str) -> ProjectionName {
    ProjectionName::parse(text).expect("laws use good names")
}

fn entity(text: &str) -> Entity {
    Entity::parse(text).expect("laws use good entities")
}

fn number(n: u64) -> String {
    n.to_string()
}

fn hash(n: u64) -> PayloadHash {
    let payload = Payload::of(&n).expect("a number has a JSON form");
    PayloadHash::of(&payload).expect("a number below 2^53 has a canonical form")
}

/// The checkpoint that has folded `n` updates of the source.
fn checkpoint(n: u64) -> Checkpoint {
    Checkpoint { source: Cursor::new(Epoch::from_bits(7), watermark(n)), version: 1, summary_hash: hash(n) }
}

/// Checkpoints that differ in one thing each.
fn lookalikes(checkpoint: &Checkpoint) -> [Checkpoint; 3] {
    let epoch = Epoch::from_bits(8);
    [
        Checkpoint { source: Cursor { epoch, ..checkpoint.source }, ..checkpoint.clone() },
        Checkpoint { version: checkpoint.version + 1, ..checkpoint.clone() },
        Checkpoint { summary_hash: hash(1_000), ..checkpoint.clone() },
    ]
}
