//! Hot paths of a connection: a head is announced, a page comes, and all who watch are raised.

use std::time::Duration;

use futures::FutureExt as _;
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Bounds, Cursor, Grant, Topic, Watermark,
    admission::Admitted,
    auth::Access,
    class::{Classes, TopicClass, TopicPattern},
    fanout::{LocalFanout, Watch},
    journal::Journal,
    session::{Action, Answer, ChannelId, Question, Session, SessionOptions},
    tail::{FollowResult, Freshness, TailJournal, TailOptions},
    wire::Serializer,
};

use super::{BOTH, HotPath, NOW, STEADY, append, now, topic};

/// A session that follows one topic, whose log is empty.
fn following(bounds: Bounds) -> (Session, ChannelId) {
    let grant = Grant::from_verified(VerifiedClaims::new(
        "somebody",
        [Access::Read.scope()],
        NOW.plus(Duration::from_secs(3_600)),
    ));
    let pattern = TopicPattern::parse("**").expect("a pattern");
    let class = TopicClass::new("all", pattern).with_read([Access::Read.scope()]);
    let admitted = Admitted::unlimited();
    let mut session = Session::new(grant, admitted, Serializer::V2, SessionOptions::default(), STEADY)
        .with_classes(Classes::new(vec![class]).expect("a class"));
    session.handle_text(r#"["1","1","run:7:events","phx_join",{}]"#, BOTH);
    let mut follows = None;
    while let Some(action) = session.poll_action() {
        let Action::Ask { channel, question, .. } = action else { continue };
        let answer = match question {
            Question::Access(_) => Answer::Access(Ok(())),
            Question::Bounds { .. } => Answer::Bounds(bounds, STEADY),
            _ => Answer::Read(FollowResult::CaughtUp { bounds, confirmed_at: STEADY }),
        };
        session.handle_answer(channel, Ok(answer), BOTH);
        follows = Some(channel);
    }
    (session, follows.expect("it joined"))
}

/// A head is announced, and the session asks for what is new.
pub(crate) struct Moved {
    session: Session,
    channel: ChannelId,
    bounds: Bounds,
    head: Cursor,
}

impl Moved {
    /// For one channel.
    pub(crate) fn new() -> Self {
        let tail = TailJournal::new(std::sync::Arc::new(super::memory(0)), TailOptions::default());
        let bounds = now(tail.bounds(&topic())).expect("bounds");
        let (session, channel) = following(bounds);
        Self { session, channel, bounds, head: Cursor::new(bounds.epoch, Watermark::ORIGIN) }
    }
}

impl HotPath for Moved {
    type Made = Option<Action>;

    fn run(&mut self) -> Option<Action> {
        self.head.watermark = self.head.watermark.next().expect("a seq").watermark();
        self.session.handle_moved(self.channel, self.head);
        let asked = self.session.poll_action();
        assert!(matches!(asked, Some(Action::Ask { .. })));
        // What it asked for is not there yet, so that the next run finds it as this one did.
        let answer = Answer::Read(FollowResult::CaughtUp { bounds: self.bounds, confirmed_at: STEADY });
        self.session.handle_answer(self.channel, Ok(answer), BOTH);
        asked
    }
}

/// A page comes as the answer, and is sent.
pub(crate) struct Answered {
    tail: TailJournal,
    topic: Topic,
    /// Asks for the page; one to a run.
    sessions: Vec<(Session, ChannelId)>,
    empty: Bounds,
}

impl Answered {
    /// With the next session to answer.
    pub(crate) fn new() -> Self {
        let tail = TailJournal::new(std::sync::Arc::new(super::memory(0)), TailOptions::default());
        let topic = topic();
        let empty = now(tail.bounds(&topic)).expect("bounds");
        now(tail.follow(&topic, empty.at_head(), Freshness::default(), STEADY)).expect("nothing");
        append(&tail, 200);
        let mut path = Self { tail, topic, sessions: Vec::new(), empty };
        // The page is read and encoded by the first, and shared by all others.
        path.sessions.extend([path.asking(), path.asking()]);
        path.run();
        path
    }

    fn asking(&self) -> (Session, ChannelId) {
        let (mut session, channel) = following(self.empty);
        session
            .handle_moved(channel, Cursor::new(self.empty.epoch, Watermark::new(200).expect("a watermark")));
        assert!(matches!(session.poll_action(), Some(Action::Ask { .. })));
        (session, channel)
    }
}

impl HotPath for Answered {
    type Made = (Option<Action>, Session);

    fn run(&mut self) -> Self::Made {
        let (mut session, channel) = self.sessions.pop().unwrap_or_else(|| self.asking());
        let followed = now(self.tail.follow(&self.topic, self.empty.at_head(), Freshness::default(), STEADY));
        session.handle_answer(channel, Ok(Answer::Read(followed.expect("a page"))), BOTH);
        let sent = session.poll_action();
        assert!(matches!(sent, Some(Action::Send(_))));
        (sent, session)
    }
}

/// A head is announced to all who watch.
pub(crate) struct Raise {
    fanout: LocalFanout,
    topic: Topic,
    head: Cursor,
    watches: Vec<Watch>,
}

impl Raise {
    /// To `watches` watches, each of which waits.
    pub(crate) fn new(watches: usize) -> Self {
        let (fanout, topic) = (LocalFanout::new(), topic());
        let bounds = now(super::memory(1).bounds(&topic)).expect("bounds");
        let watches = std::iter::repeat_with(|| fanout.observe(&topic)).take(watches).collect();
        Self { fanout, topic, head: bounds.at_head(), watches }
    }
}

impl HotPath for Raise {
    type Made = usize;

    fn run(&mut self) -> usize {
        self.head.watermark = self.head.watermark.next().expect("a seq").watermark();
        self.fanout.raise(&self.topic, self.head);
        self.watches.iter_mut().filter_map(|watch| watch.moved().now_or_never()).count()
    }
}
