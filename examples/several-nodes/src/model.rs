//! Everything that was published, acknowledged, rolled back and applied, as it comes in.
//!
//! It hands all of it to the checker, topic by topic, and is what waiting is done on: a mark is what was acknowledged at a moment,
//! and is reached by a client that has applied all of it on its topics.
//!
//! # Invariants
//! The checker is given an update of a client exactly as often, and in that order, as the client said that it applied it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use khala_scenarios::{
    checker::{Acknowledgement, Delivery, Fault, Given, Limits, Order, Published, PublisherId, Subscriber},
    history::Log,
};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

/// Where something can be published: the nodes, in their order, and then SQL.
pub(crate) const DOORS: usize = 4;
/// The last of them.
pub(crate) const SQL: usize = 3;

/// The model of a run.
#[derive(Debug)]
pub(crate) struct Model {
    topics: Vec<String>,
    pages: Mutex<Pages>,
    answered: watch::Sender<Answered>,
}

/// When the newest attempt that was acknowledged had begun.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) by_door: [Option<Instant>; DOORS],
    pub(crate) by_topic: Vec<Option<Instant>>,
}

#[derive(Debug)]
struct Pages {
    /// By topic.
    published: Vec<Published>,
    publishers: Vec<Publisher>,
    clients: Vec<Client>,
    marks: BTreeMap<u64, Mark>,
    made: u64,
    publishes: Vec<Publish>,
    counts: Counts,
}

/// One client.
#[derive(Debug)]
struct Client {
    node: Option<usize>,
    follows: Vec<Follows>,
}

#[derive(Debug)]
struct Follows {
    topic: usize,
    given: Subscriber,
}

/// One that publishes.
#[derive(Debug)]
struct Publisher {
    name: String,
    /// As the checker of each topic knows it.
    ids: Vec<PublisherId>,
}

#[derive(Debug)]
struct Mark {
    since: Instant,
    heads: Vec<u64>,
    pending: BTreeSet<usize>,
    /// A client that leaves its node before it has everything does not count.
    stays: bool,
    reached: Reached,
    done: Option<oneshot::Sender<Reached>>,
}

/// A publish that was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Publish {
    began: Instant,
    ended: Instant,
}

/// How long the clients took to reach a mark.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reached {
    /// Of each client that did.
    pub(crate) times: Vec<Duration>,
    /// How many left their node before.
    pub(crate) left: usize,
    last: Option<Last>,
}

/// Who was the slowest, and where and of what the last that was missing came.
#[derive(Clone, Copy, Debug)]
struct Last {
    after: Duration,
    client: usize,
    node: Option<usize>,
    topic: usize,
}

/// A mark that is waited for.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) number: u64,
    pub(crate) reached: oneshot::Receiver<Reached>,
}

/// What happened how often.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Counts {
    pub(crate) updates: u64,
    pub(crate) deliveries: u64,
    /// Publishes that an attempt whose answer was lost had stored.
    pub(crate) duplicates: u64,
    pub(crate) rolled_back: u64,
    pub(crate) connections: u64,
    pub(crate) resumed: u64,
    /// Updates that came again and were skipped.
    pub(crate) skipped: u64,
    /// Connections that ended, by their code; 1006 is without a word, 1000 is the client's own.
    pub(crate) closed: BTreeMap<u16, u64>,
    /// Answers and errors, by their code.
    pub(crate) refused: BTreeMap<String, u64>,
}

/// That lines are stored.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) epoch: String,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    /// The numbers of the first and last line.
    pub(crate) lines: [u64; 2],
    /// An attempt whose answer was lost had stored them.
    pub(crate) duplicate: bool,
}

/// Lines that a publisher is to publish.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) topic: usize,
    /// The numbers of the first and last, from one.
    pub(crate) numbers: [u64; 2],
    pub(crate) texts: Vec<Arc<str>>,
}

impl Model {
    /// A model of these topics, publishers, and of the topics that each client follows.
    pub(crate) fn new(topics: Vec<String>, publishers: &[String], follows: &[Vec<usize>]) -> Self {
        let mut published: Vec<_> = topics.iter().map(|_| Published::new(Limits::default())).collect();
        let publisher = |name: &String| Publisher {
            name: name.clone(),
            ids: published.iter_mut().map(|topic| topic.publisher(name, Order::Submitted)).collect(),
        };
        let publishers = publishers.iter().map(publisher).collect();
        let clients = follows.iter().enumerate().map(|(number, follows)| {
            let given = || Subscriber::new(format!("client {number}"), Delivery::ExactlyOnce);
            let follows = follows.iter().map(|topic| Follows { topic: *topic, given: given() });
            Client { node: None, follows: follows.collect() }
        });
        let clients = clients.collect();
        let pages = Pages {
            published,
            publishers,
            clients,
            marks: BTreeMap::new(),
            made: 0,
            publishes: Vec::new(),
            counts: Counts::default(),
        };
        let answered = Answered { by_door: [None; DOORS], by_topic: vec![None; topics.len()] };
        Self { topics, pages: Mutex::new(pages), answered: watch::Sender::new(answered) }
    }

    pub(crate) fn topics(&self) -> &[String] {
        &self.topics
    }

    /// That many new lines of the publisher.
    pub(crate) fn write(&self, publisher: usize, topic: usize, count: u64) -> Lines {
        let mut pages = self.pages();
        let Pages { published, publishers, .. } = &mut *pages;
        let Publisher { name, ids } = &publishers[publisher];
        let first = published[topic].submitted(ids[topic]) + 1;
        let numbers = [first, first + count - 1];
        let text = |n| Arc::from(format!(r#"{{"by":"{name}","topic":{topic},"n":{n},"half": {n}.50}}"#));
        let fresh: Vec<Arc<str>> = (first..first + count).map(text).collect();
        for text in &fresh {
            published[topic].submit(ids[topic], text.as_bytes());
        }
        Lines { topic, numbers, texts: fresh }
    }

    /// These lines are stored. The attempt that was told so began at `attempt`, the first one at `began`.
    pub(crate) fn acknowledged(
        &self,
        publisher: usize,
        topic: usize,
        batch: &Acknowledged,
        door: usize,
        (began, attempt): (Instant, Instant),
    ) {
        let mut pages = self.pages();
        pages.counts.updates += batch.lines[1] + 1 - batch.lines[0];
        pages.counts.duplicates += u64::from(batch.duplicate);
        pages.publishes.push(Publish { began, ended: Instant::now() });
        let Acknowledged { epoch, first_seq, last_seq, lines, .. } = batch;
        let id = pages.publishers[publisher].ids[topic];
        let acknowledgement = Acknowledgement { epoch, seqs: [*first_seq, *last_seq], numbers: *lines };
        pages.published[topic].acknowledge(id, acknowledgement);
        drop(pages);
        self.answered.send_modify(|Answered { by_door, by_topic }| {
            for newest in [&mut by_door[door], &mut by_topic[topic]] {
                *newest = (*newest).max(Some(attempt));
            }
        });
    }

    /// The transaction of these lines was rolled back.
    pub(crate) fn rolled_back(&self, publisher: usize, lines: &Lines) {
        let mut pages = self.pages();
        let [first, last] = lines.numbers;
        pages.counts.rolled_back += last + 1 - first;
        let id = pages.publishers[publisher].ids[lines.topic];
        pages.published[lines.topic].withdraw(id, first..=last);
    }

    /// A client applied updates of a topic, the first of which is `seq`. False if it does not follow that topic.
    pub(crate) fn applied(
        &self,
        client: usize,
        topic: usize,
        epoch: &str,
        seq: u64,
        payloads: &[String],
    ) -> bool {
        let mut pages = self.pages();
        let Pages { published, clients, counts, .. } = &mut *pages;
        let follows = clients.get_mut(client).map(|client| client.follows.iter_mut());
        let Some(follows) = follows.and_then(|mut all| all.find(|follows| follows.topic == topic)) else {
            return false;
        };
        for (seq, payload) in (seq..).zip(payloads) {
            let given = Given { epoch: Some(epoch), seq, payload: payload.as_bytes() };
            follows.given.given(&mut published[topic], given);
        }
        counts.deliveries += payloads.len() as u64;
        pages.look(client, topic);
        true
    }

    /// A client is connected to that node now, or to none.
    pub(crate) fn moved(&self, client: usize, node: Option<usize>) {
        let mut pages = self.pages();
        pages.counts.connections += u64::from(node.is_some());
        if let Some(client) = pages.clients.get_mut(client) {
            client.node = node;
        }
        for mark in pages.marks.values_mut().filter(|mark| mark.stays) {
            if mark.pending.remove(&client) {
                mark.reached.left += 1;
                mark.settle();
            }
        }
        pages.marks.retain(|_, mark| mark.done.is_some());
    }

    /// Something else that is only counted.
    pub(crate) fn count(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.pages().counts);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.pages().counts.clone()
    }

    /// Everything that is acknowledged now is to be reached by every client; times are counted from `since`.
    pub(crate) fn mark_all(&self, since: Instant) -> Marked {
        self.mark(since, false, |_| true)
    }

    /// Everything that is acknowledged now is to be reached by the clients that are at these nodes, as long as they
    /// stay there.
    pub(crate) fn mark_at(&self, nodes: &[usize]) -> Marked {
        self.mark(Instant::now(), true, |client| client.node.is_some_and(|node| nodes.contains(&node)))
    }

    fn mark(&self, since: Instant, stays: bool, counts: impl Fn(&Client) -> bool) -> Marked {
        let mut pages = self.pages();
        let heads = pages.published.iter().map(Published::head).collect();
        let (done, marked) = oneshot::channel();
        let mut mark = Mark {
            since,
            heads,
            pending: BTreeSet::new(),
            stays,
            reached: Reached::default(),
            done: Some(done),
        };
        for (number, client) in pages.clients.iter().enumerate().filter(|(_, client)| counts(client)) {
            if mark.is_reached_by(client) {
                mark.reached.times.push(since.elapsed());
            } else {
                mark.pending.insert(number);
            }
        }
        mark.settle();
        pages.made += 1;
        let number = pages.made;
        if mark.done.is_some() {
            pages.marks.insert(number, mark);
        }
        Marked { number, reached: marked }
    }

    /// Who has not reached a mark, and what is missing. The mark is given up.
    pub(crate) fn missing(&self, number: u64) -> Vec<String> {
        let mut pages = self.pages();
        let Some(mark) = pages.marks.remove(&number) else { return Vec::new() };
        let pages = &*pages;
        let behind = mark.pending.iter().flat_map(|number| {
            let client = &pages.clients[*number];
            let at = client.node.map_or_else(|| "no node".to_owned(), |node| format!("node {node}"));
            let behind =
                client.follows.iter().filter(|follows| follows.given.watermark() < mark.heads[follows.topic]);
            behind.map(move |Follows { topic, given }| (number, at.clone(), *topic, given.watermark()))
        });
        let say = |(number, at, topic, reached): (&usize, String, usize, u64)| {
            format!("client {number} at {at}: {} at {reached} of {}", self.topics[topic], mark.heads[topic])
        };
        behind.map(say).collect()
    }

    /// What changes when something is acknowledged.
    pub(crate) fn answered(&self) -> watch::Receiver<Answered> {
        self.answered.subscribe()
    }

    /// The longest that a publish took, of those that were under way between then and now and are acknowledged.
    pub(crate) fn longest_publish(&self, since: Instant) -> Duration {
        let pages = self.pages();
        let recent = pages.publishes.iter().filter(|publish| publish.ended >= since);
        recent.map(|publish| publish.ended - publish.began).max().unwrap_or_default()
    }

    /// Compares everything with everything else; `journals` are the topics as they were read by themselves.
    pub(crate) fn check(&self, journals: Vec<Log>) -> Vec<Fault> {
        let mut pages = self.pages();
        let Pages { published, clients, .. } = &mut *pages;
        let mut faults = Vec::new();
        for (number, ((topic, published), journal)) in
            self.topics.iter().zip(published).zip(journals).enumerate()
        {
            let journal = journal.subscriber(published);
            let follows = clients.iter().flat_map(|client| &client.follows);
            let given = follows.filter(|follows| follows.topic == number).map(|follows| &follows.given);
            let verdict = published.last_verdict(given.chain([&journal]));
            faults.extend(verdict.faults.into_iter().map(|mut fault| {
                fault.name = format!("{topic}, {}", fault.name);
                fault
            }));
        }
        faults
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// Looks which marks a client has reached, now that it has more of that topic.
    fn look(&mut self, client: usize, topic: usize) {
        let Self { clients, marks, .. } = self;
        for mark in marks.values_mut() {
            if mark.pending.contains(&client) && mark.is_reached_by(&clients[client]) {
                mark.pending.remove(&client);
                let (after, node) = (mark.since.elapsed(), clients[client].node);
                mark.reached.times.push(after);
                mark.reached.last = Some(Last { after, client, node, topic });
                mark.settle();
            }
        }
        marks.retain(|_, mark| mark.done.is_some());
    }
}

impl Mark {
    fn is_reached_by(&self, client: &Client) -> bool {
        client.follows.iter().all(|follows| follows.given.watermark() >= self.heads[follows.topic])
    }

    /// Tells those that wait if there is nobody left to wait for.
    fn settle(&mut self) {
        if self.pending.is_empty()
            && let Some(done) = self.done.take()
        {
            // Nobody may be interested any more.
            let _ = done.send(std::mem::take(&mut self.reached));
        }
    }
}

impl Reached {
    pub(crate) fn slowest(&self) -> Duration {
        self.times.iter().max().copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    /// The two as one.
    pub(crate) fn join(&mut self, other: Self) {
        self.times.extend(other.times);
        self.left += other.left;
        let after = |last: &Option<Last>| last.map_or(Duration::ZERO, |last| last.after);
        if after(&other.last) > after(&self.last) {
            self.last = other.last;
        }
    }

    /// Who was the slowest.
    pub(crate) fn who(&self) -> Option<String> {
        let Last { client, node, topic, .. } = self.last?;
        let node = node.map_or_else(|| "no node".to_owned(), |node| format!("node {node}"));
        Some(format!("client {client} at {node}, topic {topic}"))
    }
}

#[cfg(test)]
mod tests {
    use khala_scenarios::{checker::FaultKind, history::Entry};

    use super::*;

    const EPOCH: &str = "00000000000000aa";

    /// Two topics, a publisher, and two clients: one follows both topics, one the second.
    fn model() -> Model {
        let topics = vec!["a".to_owned(), "b".to_owned()];
        Model::new(topics, &["publisher".to_owned()], &[vec![0, 1], vec![1]])
    }

    /// Publishes one line, as the next update of the topic; its text.
    fn publish(model: &Model, topic: usize, seq: u64) -> String {
        let Lines { numbers, texts, .. } = model.write(0, topic, 1);
        let batch = Acknowledged {
            epoch: EPOCH.to_owned(),
            first_seq: seq,
            last_seq: seq,
            lines: numbers,
            duplicate: false,
        };
        model.acknowledged(0, topic, &batch, 0, (Instant::now(), Instant::now()));
        texts[0].to_string()
    }

    fn journal(payloads: &[&String]) -> Log {
        let entry = |(seq, payload): (u64, &&String)| Entry {
            epoch: Some(EPOCH.into()),
            seq,
            payload: payload.as_str().into(),
        };
        let runs = vec![(1..).zip(payloads).map(entry).collect()];
        Log { name: "journal".to_owned(), delivery: Delivery::ExactlyOnce, runs }
    }

    /// What is found where client 1 applied these updates, by their workspace, of two on topic b.
    fn found(applied: &[u64]) -> Vec<Fault> {
        let model = model();
        let texts = [publish(&model, 1, 1), publish(&model, 1, 2)];
        assert!(model.applied(0, 1, EPOCH, 1, &texts));
        for seq in applied {
            let text = &texts[(*seq as usize - 1) % 2..][..1];
            assert!(model.applied(1, 1, EPOCH, *seq, text));
        }
        model.check(vec![journal(&[]), journal(&[&texts[0], &texts[1]])])
    }

    /// The faults, which are all of that name.
    fn kinds(faults: Vec<Fault>, name: &str) -> Vec<FaultKind> {
        assert!(faults.iter().all(|fault| fault.name == name), "{faults:?}");
        faults.into_iter().map(|fault| fault.kind).collect()
    }

    #[test]
    fn what_a_client_said_is_what_is_checked() {
        let found = |applied: &[u64]| kinds(found(applied), "b, client 1");
        assert_eq!(found(&[1, 2]), []);
        assert_eq!(found(&[1]), [FaultKind::Lost { seqs: 2..=2 }]);
        assert_eq!(found(&[1, 2, 2]), [FaultKind::Doubled { seq: 2 }]);
        assert_eq!(found(&[2, 1])[0], FaultKind::Gap { after: 0, seq: 2 });
        assert_eq!(found(&[1, 2, 3]), [FaultKind::Invented { seq: 3 }]);
    }

    #[test]
    fn what_was_rolled_back_is_nowhere() {
        let model = model();
        let lines = model.write(0, 0, 1);
        model.rolled_back(0, &lines);
        assert_eq!(model.check(vec![journal(&[]), journal(&[])]), []);
        let texts = [lines.texts[0].to_string()];
        assert!(model.applied(0, 0, EPOCH, 1, &texts));
        let found = model.check(vec![journal(&[]), journal(&[])]);
        assert_eq!(kinds(found, "a, client 0"), [FaultKind::Withdrawn { seq: 1 }]);
    }

    #[test]
    fn a_topic_that_a_client_does_not_follow_is_refused() {
        assert!(!model().applied(1, 0, EPOCH, 1, &[String::new()]));
        assert!(!model().applied(2, 0, EPOCH, 1, &[String::new()]));
    }

    #[test]
    fn a_mark_is_reached_when_every_client_has_every_topic() {
        let model = model();
        let a = publish(&model, 0, 1);
        let b = publish(&model, 1, 1);
        let mut mark = model.mark_all(Instant::now());
        // What comes after it is no matter.
        publish(&model, 1, 2);
        model.applied(0, 0, EPOCH, 1, &[a]);
        model.applied(1, 1, EPOCH, 1, std::slice::from_ref(&b));
        assert!(mark.reached.try_recv().is_err());
        model.applied(0, 1, EPOCH, 1, &[b]);
        let reached = mark.reached.try_recv().unwrap();
        assert_eq!((reached.times.len(), reached.left), (2, 0));
        assert_eq!(model.missing(mark.number), [""; 0]);
        // And one that is reached already is.
        let mut again = model.mark_at(&[0]);
        assert_eq!(again.reached.try_recv().unwrap().times.len(), 0);
    }

    #[test]
    fn who_is_behind_is_named_and_who_leaves_its_node_is_not_waited_for() {
        let model = model();
        publish(&model, 1, 1);
        model.moved(0, Some(0));
        model.moved(1, Some(1));
        let mut at_node_0 = model.mark_at(&[0]);
        let both = model.mark_at(&[0, 1]);
        model.moved(0, None);
        let reached = at_node_0.reached.try_recv().unwrap();
        assert_eq!((reached.times.len(), reached.left), (0, 1));
        assert_eq!(model.missing(both.number), ["client 1 at node 1: b at 0 of 1"]);
    }
}
