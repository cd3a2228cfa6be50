//! One topic on one connection after another, as a value: what to say, and what the server's frames mean.
//!
//! It opens nothing and waits for nothing.
//!
//! # Invariants
//! Nothing is handed out before a join was answered, nothing past a hole, and the cursor outlives every connection.

use std::time::Duration;

use bytes::Bytes;
use khala_core::{
    Cursor, Seq, Timestamp, Token, Topic, Update,
    wire::{
        Frame, FrameError, Head, JoinRequest, Joined, OnStale, Ref, Resume, Serializer, SnapshotBatch,
        StaleCursor, UpdateBatch, event,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    error::{Error, Refused},
    event::{Arrived, ConnectionEvent, Snapshot},
    reader::{Fresh, Gap, Reader},
};

/// The topic of the connection itself.
const PHOENIX: &str = "phoenix";

/// What a frame means for the one who drives the connection.
#[derive(Debug)]
pub(crate) enum Step {
    /// The server is about to close the connection, and asks not to be called again before that time.
    Drain(Duration),
    /// Hand this to the application.
    Event(ConnectionEvent),
    /// Fetch the payloads of these updates, which follow that cursor, and hand them to the application.
    Hydrate(Arrived, Vec<Seq>, Cursor),
    /// The subscription is over, with this as its last word.
    Last(ConnectionEvent),
    /// Nothing to do.
    Nothing,
    /// Join again, on this connection, after the wait that the error may ask for.
    Rejoin(Error),
    /// The subscription is over.
    Refused(Error),
    /// The token that was handed over was taken, perhaps with the connection's new end, or refused.
    Token(Result<Option<Timestamp>, Refused>),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It follows the log.
    Following,
    /// Not joined, and not asked.
    Idle,
    /// The join with this ref is not answered.
    Joining(Ref<'static>),
    /// Documents come; those of the snapshot at this cursor, once there was one.
    Snapshot(Option<Cursor>),
}

/// The protocol state of one subscription.
#[derive(Debug)]
pub(crate) struct Channel {
    topic: Topic,
    /// What is asked for as long as there is no cursor.
    request: JoinRequest,
    reader: Option<Reader>,
    /// When the last update was published that these cursors cover: the one of before the last batch, and the newest. The
    /// next join says so, and a server that was restored and has grown past them notices.
    moments: [Option<(Cursor, Timestamp)>; 2],
    state: State,
    refs: u64,
    /// The ref of the newest join.
    join_ref: Option<Ref<'static>>,
    /// What `sync:error` said last, to explain the `phx_error` or `phx_close` that follows it.
    complaint: Option<Refused>,
    /// The ref of the token that was handed over and is not answered.
    handed_over: Option<Ref<'static>>,
}

#[derive(Deserialize)]
struct Reply<'a> {
    status: &'a str,
    #[serde(borrow)]
    response: &'a RawValue,
}

impl From<Gap> for Error {
    fn from(gap: Gap) -> Self {
        Self::Protocol(gap.to_string())
    }
}

impl From<FrameError> for Error {
    fn from(fault: FrameError) -> Self {
        Self::Protocol(format!("a frame of the server is not understood: {fault}"))
    }
}

impl Channel {
    pub(crate) fn new(topic: Topic, request: JoinRequest) -> Self {
        Self {
            topic,
            reader: match request.resume {
                Resume::After(cursor) => Some(Reader::new(cursor)),
                Resume::Floor | Resume::Head | Resume::Snapshot => None,
            },
            moments: [None, resumes_with(&request)],
            request,
            state: State::Idle,
            refs: 0,
            join_ref: None,
            complaint: None,
            handed_over: None,
        }
    }

    /// The connection is gone, and with it everything but the cursor.
    pub(crate) fn disconnected(&mut self) {
        self.state = State::Idle;
        (self.complaint, self.handed_over) = (None, None);
    }

    /// The topic.
    pub(crate) fn topic(&self) -> &Topic {
        &self.topic
    }

    /// What came after `cursor` was not handed out: it comes again with the next join.
    pub(crate) fn rewind(&mut self, cursor: Cursor) {
        self.reader = Some(Reader::new(cursor));
        self.state = State::Idle;
    }

    /// Whether an answer to a join is awaited.
    pub(crate) fn is_joining(&self) -> bool {
        matches!(self.state, State::Joining(_))
    }

    /// The frame that joins from where the cursor stands.
    pub(crate) fn join(&mut self) -> Bytes {
        let resume = self.reader.map_or(self.request.resume, |reader| Resume::After(reader.cursor()));
        let published_at = self.reader.and_then(|reader| self.moment_of(reader.cursor()));
        let request = JoinRequest { resume, published_at, ..self.request };
        let join_ref = self.next_ref();
        self.state = State::Joining(join_ref.clone());
        let refs = Some(&*self.join_ref.insert(join_ref));
        Serializer::V2.encode_value(refs, refs, self.topic.as_str(), event::JOIN, &request).text()
    }

    /// When the last update was published that `cursor` covers, if that was heard.
    fn moment_of(&self, cursor: Cursor) -> Option<Timestamp> {
        let known = self.moments.iter().flatten().find(|(at, _)| *at == cursor);
        known.map(|(_, published_at)| *published_at)
    }

    /// The cursor has moved on over an update that was published at that moment.
    fn note_moment(&mut self, cursor: Cursor, published_at: Timestamp) {
        self.moments = [self.moments[1], Some((cursor, published_at))];
    }

    /// The frame that asks whether the server is still there.
    pub(crate) fn heartbeat(&mut self) -> Bytes {
        let reference = self.next_ref();
        let write = |out: &mut Vec<u8>| out.extend_from_slice(b"{}");
        Serializer::V2.encode(None, Some(&reference), PHOENIX, event::HEARTBEAT, write).text()
    }

    /// The frame that hands over a fresh token. One at a time: the next after the answer to this.
    pub(crate) fn hand_over(&mut self, token: &Token) -> Bytes {
        #[derive(Serialize)]
        struct AccessToken<'a> {
            access_token: &'a str,
        }
        let reference = self.next_ref();
        let payload = AccessToken { access_token: token.reveal() };
        let frame =
            Serializer::V2.encode_value(None, Some(&reference), PHOENIX, event::ACCESS_TOKEN, &payload);
        self.handed_over = Some(reference);
        frame.text()
    }

    fn next_ref(&mut self) -> Ref<'static> {
        self.refs += 1;
        Ref::of_text(&self.refs.to_string())
    }

    /// A text frame came in.
    pub(crate) fn handle(&mut self, text: &str) -> Step {
        self.step(text).unwrap_or_else(|error| self.rejoin(error))
    }

    fn step(&mut self, text: &str) -> Result<Step, Error> {
        let frame = Serializer::V2.decode(text)?;
        if frame.topic == PHOENIX {
            return self.of_connection(&frame);
        }
        let outdated = frame.join_ref.is_some() && frame.join_ref != self.join_ref;
        if frame.topic != self.topic.as_str() || outdated {
            return Ok(Step::Nothing);
        }
        if let State::Joining(wanted) = &self.state {
            // Whatever else comes before the answer belongs to an earlier join.
            let answer = frame.event == event::REPLY && frame.reference.as_ref() == Some(wanted);
            return if answer { self.joined(&frame) } else { Ok(Step::Nothing) };
        }
        if self.state == State::Idle {
            return Ok(Step::Nothing);
        }
        match &*frame.event {
            event::UPDATE_BATCH => self.updates(frame.payload_as()?),
            event::SNAPSHOT => self.snapshot(frame.payload_as()?),
            event::HEAD => Ok(Step::Event(ConnectionEvent::Head(frame.payload_as::<Head>()?))),
            event::SYNC_ERROR => {
                self.complaint = Some(Refused::read(frame.payload.get().as_bytes(), None));
                Ok(Step::Nothing)
            }
            event::DRAIN => Self::drain(&frame),
            event::ERROR => Ok(self.channel_failed()),
            event::CLOSE => Ok(self.channel_closed()),
            _ => Ok(Step::Nothing),
        }
    }

    fn of_connection(&mut self, frame: &Frame<'_>) -> Result<Step, Error> {
        match &*frame.event {
            event::DRAIN => Self::drain(frame),
            event::SYNC_ERROR => {
                self.complaint = Some(Refused::read(frame.payload.get().as_bytes(), None));
                Ok(Step::Nothing)
            }
            event::REPLY if self.handed_over.is_some() && frame.reference == self.handed_over => {
                self.handed_over = None;
                Ok(Step::Token(answered(frame)?))
            }
            // The answer to a heartbeat says no more than that something was heard.
            _ => Ok(Step::Nothing),
        }
    }

    fn drain(frame: &Frame<'_>) -> Result<Step, Error> {
        #[derive(Deserialize)]
        struct Drain {
            #[serde(default)]
            retry_after_ms: u64,
        }
        let Drain { retry_after_ms } = frame.payload_as()?;
        Ok(Step::Drain(Duration::from_millis(retry_after_ms)))
    }

    fn joined(&mut self, frame: &Frame<'_>) -> Result<Step, Error> {
        let Reply { status, response } = frame.payload_as()?;
        let read = |fault: serde_json::Error| Error::Protocol(format!("a join was answered with {fault}"));
        if status != "ok" {
            self.state = State::Idle;
            let refused = Refused::read(response.get().as_bytes(), None);
            if refused.code == "stale_cursor" {
                let stale: StaleCursor = serde_json::from_str(response.get()).map_err(read)?;
                return Ok(Step::Last(ConnectionEvent::Stale(Box::new(stale))));
            }
            let error = Error::Refused(refused);
            return Ok(if error.is_retryable() { Step::Rejoin(error) } else { Step::Refused(error) });
        }
        let joined: Joined = serde_json::from_str(response.get()).map_err(read)?;
        let resumed = self.reader.is_some() && !joined.snapshot;
        if joined.snapshot {
            self.state = State::Snapshot(None);
        } else {
            match &self.reader {
                Some(reader) => reader.resume(&joined)?,
                None => self.reader = Some(Reader::new(Cursor::new(joined.epoch, joined.after))),
            }
            self.state = State::Following;
        }
        Ok(Step::Event(ConnectionEvent::Joined { joined, resumed }))
    }

    fn updates(&mut self, batch: UpdateBatch) -> Result<Step, Error> {
        let (State::Following, Some(reader)) = (&self.state, &mut self.reader) else {
            return Err(Error::Protocol("updates came before the snapshot was complete".to_owned()));
        };
        let (before, head, complete) = (reader.cursor(), batch.head, batch.replay_complete);
        let Fresh { updates, cursor, left_out, .. } = reader.take(batch)?;
        if updates.is_empty() {
            return Ok(Step::Nothing);
        }
        if let Some(last) = updates.last() {
            self.note_moment(cursor, last.published_at);
        }
        let arrived = Arrived { updates, cursor, head, complete };
        Ok(match left_out.is_empty() {
            true => Step::Event(ConnectionEvent::Updates(arrived)),
            false => Step::Hydrate(arrived, left_out, before),
        })
    }

    fn snapshot(&mut self, batch: SnapshotBatch) -> Result<Step, Error> {
        let SnapshotBatch { epoch, watermark, documents, complete, .. } = batch;
        let at = Cursor::new(epoch, watermark);
        let first = match self.state {
            State::Snapshot(under_way) => under_way != Some(at),
            // The log was trimmed past a slow reader that asked for a snapshot in that case.
            State::Following if self.request.on_stale == OnStale::Snapshot => true,
            _ => return Err(Error::Protocol("a snapshot came that nobody asked for".to_owned())),
        };
        // The newest update of all is mostly a document's, and tells which history this is.
        if let Some(newest) = documents.iter().find(|document| document.seq.watermark() == watermark) {
            self.note_moment(at, newest.published_at);
        }
        if complete {
            self.reader = Some(Reader::new(at));
            self.state = State::Following;
        } else {
            self.state = State::Snapshot(Some(at));
        }
        let documents = documents.into_iter().map(Update::from).collect();
        Ok(Step::Event(ConnectionEvent::Snapshot(Snapshot { at, first, documents, complete })))
    }

    fn channel_failed(&mut self) -> Step {
        let error = match self.complaint.take() {
            Some(refused) => Error::Refused(refused),
            None => Error::Protocol("the server gave the channel up without a reason".to_owned()),
        };
        self.rejoin(error)
    }

    /// `phx_close`: the channel should not be joined again.
    fn channel_closed(&mut self) -> Step {
        self.state = State::Idle;
        let refused = self.complaint.take().unwrap_or_else(|| {
            Refused::read(br#"{"code":"channel_closed","message":"the server closed the channel"}"#, None)
        });
        Step::Refused(Error::Refused(refused))
    }

    fn rejoin(&mut self, error: Error) -> Step {
        self.state = State::Idle;
        Step::Rejoin(error)
    }
}

/// The cursor that is brought, with what is said of its last update.
fn resumes_with(request: &JoinRequest) -> Option<(Cursor, Timestamp)> {
    match request.resume {
        Resume::After(cursor) => Some((cursor, request.published_at?)),
        Resume::Floor | Resume::Head | Resume::Snapshot => None,
    }
}

/// Reads the answer to a token that was handed over.
fn answered(frame: &Frame<'_>) -> Result<Result<Option<Timestamp>, Refused>, Error> {
    #[derive(Deserialize)]
    struct Taken {
        expires_at: Option<Timestamp>,
    }
    let Reply { status, response } = frame.payload_as()?;
    if status != "ok" {
        return Ok(Err(Refused::read(response.get().as_bytes(), None)));
    }
    // A token that was taken was taken, whatever else is said.
    let taken = serde_json::from_str(response.get()).map(|Taken { expires_at }| expires_at);
    Ok(Ok(taken.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(step: &Step) -> Option<u64> {
        match step {
            Step::Token(Ok(ends)) => Some(ends.map_or(0, Timestamp::as_millis)),
            _ => None,
        }
    }

    #[test]
    fn only_the_answer_to_a_token_is_one() {
        let mut channel = Channel::new(Topic::parse("t").unwrap(), JoinRequest::default());
        let frame = channel.hand_over(&Token::new("a\"b"));
        assert_eq!(frame, br#"[null,"1","phoenix","access_token",{"access_token":"a\"b"}]"#.as_slice());
        let reply = |reference: u32, response: &str| {
            format!(r#"[null,"{reference}","phoenix","phx_reply",{{"status":"ok","response":{response}}}]"#)
        };
        channel.heartbeat();
        assert!(matches!(channel.handle(&reply(2, "{}")), Step::Nothing), "that is a heartbeat's");
        assert_eq!(taken(&channel.handle(&reply(1, r#"{"expires_at":5}"#))), Some(5));
        assert!(matches!(channel.handle(&reply(1, "{}")), Step::Nothing), "it was answered");
        for response in ["{}", "[]", r#"{"expires_at":"soon"}"#] {
            let frame = channel.hand_over(&Token::new("t"));
            let reference = Serializer::V2.decode(std::str::from_utf8(&frame).unwrap()).unwrap().reference;
            let reference = reference.unwrap().as_json().trim_matches('"').parse().unwrap();
            assert_eq!(taken(&channel.handle(&reply(reference, response))), Some(0), "{response}");
        }
        let said = r#"[null,"6","phoenix","phx_reply",{"status":"error","response":{"code":"unknown_kid"}}]"#;
        channel.hand_over(&Token::new("t"));
        let Step::Token(Err(refused)) = channel.handle(said) else { panic!("it is refused") };
        assert_eq!(refused.code, "unknown_kid");
        channel.hand_over(&Token::new("t"));
        channel.disconnected();
        assert!(matches!(channel.handle(&reply(7, "{}")), Step::Nothing), "that connection is gone");
    }
}
