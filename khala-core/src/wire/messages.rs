//! The payloads, each as one type, read by the side that receives it and written by the side that sends it.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{
    codes::Code,
    path::{PathPrefix, snapshot_path},
};
use crate::{
    class::TopicClass,
    position::{Cursor, Epoch, Seq, Stale, StaleReason, Watermark, WholeNumber},
    refusal::Refusal,
    topic::Topic,
    update::{DocKey, Kind, Payload, PayloadHash, Timestamp, Update},
};

/// Where a subscriber wants to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the join payload has exactly these")]
pub enum Resume {
    /// After everything that the cursor covers.
    After(Cursor),
    /// At the oldest update that is kept.
    Floor,
    /// At the newest: only what comes from now on.
    #[default]
    Head,
    /// With the documents as they are, then the log.
    Snapshot,
}

/// What a subscriber wants when its cursor is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the join payload has exactly these")]
pub enum OnStale {
    /// To be told.
    #[default]
    Error,
    /// A snapshot, then the log.
    Snapshot,
}

/// The payload of `phx_join`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "JoinFields", into = "JoinFields")]
#[expect(clippy::exhaustive_structs, reason = "the join payload has exactly these")]
pub struct JoinRequest {
    /// Where to start.
    pub resume: Resume,
    /// What to do if that is not possible.
    pub on_stale: OnStale,
    /// Beside a cursor: when the last update that it covers was published, as the subscriber was told. A topic that has
    /// another update in that place was restored and has grown since: the cursor is stale.
    pub published_at: Option<Timestamp>,
}

/// The same, field by field. Unknown fields are let through: clients put their own beside ours.
#[derive(Default, Deserialize, Serialize)]
struct JoinFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<Watermark>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
    #[serde(default, deserialize_with = "whole_moment", skip_serializing_if = "Option::is_none")]
    published_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<JoinFrom>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_stale: Option<OnStale>,
}

/// A moment as clients write it: any whole number, `1.0` too.
fn whole_moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let number = Option::<WholeNumber>::deserialize(deserializer)?;
    Ok(number.map(|number| Timestamp::from_millis(number.as_u64())))
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum JoinFrom {
    Floor,
    Head,
    Snapshot,
}

impl TryFrom<JoinFields> for JoinRequest {
    type Error = &'static str;

    fn try_from(fields: JoinFields) -> Result<Self, Self::Error> {
        let resume = match (fields.after, fields.epoch, fields.from) {
            (Some(watermark), Some(epoch), None) => Resume::After(Cursor::new(epoch, watermark)),
            (None, None, None | Some(JoinFrom::Head)) => Resume::Head,
            (None, None, Some(JoinFrom::Floor)) => Resume::Floor,
            (None, None, Some(JoinFrom::Snapshot)) => Resume::Snapshot,
            (Some(_), None, _) => return Err("`after` needs the `epoch` that it belongs to"),
            (None, Some(_), _) => return Err("`epoch` means nothing without `after`"),
            (Some(_), Some(_), Some(_)) => return Err("`after` and `from` exclude each other"),
        };
        if fields.published_at.is_some() && fields.after.is_none() {
            return Err("`published_at` means nothing without `after`");
        }
        Ok(Self { resume, on_stale: fields.on_stale.unwrap_or_default(), published_at: fields.published_at })
    }
}

impl From<JoinRequest> for JoinFields {
    fn from(request: JoinRequest) -> Self {
        let on_stale = Some(request.on_stale).filter(|on_stale| *on_stale != OnStale::Error);
        let from = |from| Self { from: Some(from), ..Self::default() };
        let fields = match request.resume {
            Resume::After(cursor) => {
                let published_at = request.published_at;
                Self {
                    after: Some(cursor.watermark),
                    epoch: Some(cursor.epoch),
                    published_at,
                    ..Self::default()
                }
            }
            Resume::Floor => from(JoinFrom::Floor),
            Resume::Head => from(JoinFrom::Head),
            Resume::Snapshot => from(JoinFrom::Snapshot),
        };
        Self { on_stale, ..fields }
    }
}

/// The response of a join that resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Joined {
    /// The history that is followed.
    pub epoch: Epoch,
    /// What the first batch continues from.
    pub after: Watermark,
    /// The newest update at that moment.
    pub head: Watermark,
    /// Everything up to here was trimmed.
    pub floor: Watermark,
    /// Whether a snapshot comes before the log.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshot: bool,
    /// Why the cursor was answered with a snapshot, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Box<StaleCursor>>,
}

impl Joined {
    /// The answer of a topic with these positions.
    pub fn new(epoch: Epoch, after: Watermark, head: Watermark, floor: Watermark) -> Self {
        Self { epoch, after, head, floor, snapshot: false, stale: None }
    }

    /// Announces a snapshot before the log, and why, if a cursor was stale.
    #[must_use]
    pub fn with_snapshot(mut self, stale: Option<Box<StaleCursor>>) -> Self {
        self.snapshot = true;
        self.stale = stale;
        self
    }
}

/// A [`Refusal`] as a client reads it: the response of an error reply, and the payload of `sync:error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ErrorResponse {
    /// What a machine acts on.
    pub code: &'static str,
    /// The same under the name that Phoenix clients look for.
    pub reason: &'static str,
    /// What a person reads.
    pub message: String,
    /// When to try again, if that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl ErrorResponse {
    /// The response to what was refused. Where the store cannot answer now, the client is to wait for `unavailable`.
    pub(crate) fn of(refusal: &Refusal, unavailable: Duration) -> Self {
        let code = match refusal {
            // A client does the same whichever fault of the store it is.
            Refusal::Failed(_) => Code::Unavailable.as_str(),
            refusal => refusal.code(),
        };
        // Phoenix itself writes this one reason with a space, and clients compare it.
        let reason = if code == Code::UnmatchedTopic.as_str() { "unmatched topic" } else { code };
        let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let retry_after_ms = refusal.retry_after_or(unavailable).map(millis);
        Self { code, reason, message: refusal.detail(), retry_after_ms }
    }
}

/// The answer to a cursor that cannot be resumed from, over WebSocket and HTTP alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StaleCursor {
    /// Always `stale_cursor`.
    pub code: String,
    /// The same under the name that Phoenix clients look for.
    pub reason: String,
    /// What a person reads.
    pub message: String,
    /// Every reason that holds.
    pub reason_codes: Vec<StaleReason>,
    /// The topic.
    pub topic: Topic,
    /// The watermark that was brought.
    pub resume_after: Watermark,
    /// Everything up to here was trimmed.
    pub retention_floor: Watermark,
    /// The newest update.
    pub head: Watermark,
    /// The history that the topic is in.
    pub epoch: Epoch,
    /// How many updates lie between the cursor and the head; zero for a cursor of another history.
    pub replay_lag: u64,
    /// How many the topic's class lets a subscriber replay; none where nothing limits it.
    pub replay_budget_events: Option<u64>,
    /// The tier of the topic's class; none where no class says.
    pub qos_tier: Option<String>,
    /// Always true: only a snapshot, or a start at floor or head, leads on.
    pub full_resync_required: bool,
    /// Where the snapshot is.
    pub snapshot: String,
}

impl StaleCursor {
    /// The answer for `topic`, which is of that class, from a server that is reached under `prefix`. The reasons are as they are: see [`Stale::within`].
    pub fn new(
        topic: &Topic,
        stale: &Stale,
        class: Option<&TopicClass>,
        prefix: Option<&PathPrefix>,
    ) -> Self {
        let Stale { cursor, bounds, reasons } = stale;
        Self {
            code: Code::StaleCursor.as_str().to_owned(),
            reason: Code::StaleCursor.as_str().to_owned(),
            message: explain(stale, class.and_then(|class| class.replay_budget)),
            reason_codes: reasons.clone(),
            topic: topic.clone(),
            resume_after: cursor.watermark,
            retention_floor: bounds.floor,
            head: bounds.head,
            epoch: bounds.epoch,
            replay_lag: stale.lag(),
            replay_budget_events: class.and_then(|class| class.replay_budget),
            qos_tier: class.map(|class| class.tier.as_str().to_owned()),
            full_resync_required: true,
            snapshot: snapshot_path(prefix, topic),
        }
    }
}

fn explain(stale: &Stale, budget: Option<u64>) -> String {
    let Stale { cursor, bounds, reasons } = stale;
    let one = |reason: &StaleReason| match reason {
        StaleReason::CursorAhead => {
            format!("the cursor is at {} and the head only at {}", cursor.watermark, bounds.head)
        }
        StaleReason::EpochMismatch if cursor.epoch == bounds.epoch => {
            format!(
                "the update at {} is another than the cursor's: the topic was restored and has grown since",
                cursor.watermark
            )
        }
        StaleReason::EpochMismatch => {
            format!("the cursor is of epoch {} and the topic in epoch {}", cursor.epoch, bounds.epoch)
        }
        StaleReason::ReplayBudgetExceeded => {
            let (lag, budget) = (stale.lag(), budget.unwrap_or_default());
            format!("the cursor is {lag} updates behind and {budget} may be replayed")
        }
        StaleReason::RetentionFloorBreach => {
            format!("the cursor is at {} and everything up to {} was trimmed", cursor.watermark, bounds.floor)
        }
    };
    reasons.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The payload of `sync:update_batch`, and an HTTP page of history, as a client reads it.
#[derive(Debug, Deserialize)]
#[non_exhaustive]
pub struct UpdateBatch {
    /// What it continues from.
    pub after: Watermark,
    /// The newest update when it was read.
    pub head: Watermark,
    /// Whether the replay of this join ends with it, or ended before: it reached the head that the join's reply named. Of
    /// an HTTP page: whether it reaches `head`.
    pub replay_complete: bool,
    /// The updates, dense from `after`.
    pub updates: Vec<WireUpdate>,
}

/// The payload of `sync:snapshot`, and an HTTP page of a snapshot, as a client reads it.
#[derive(Debug, Deserialize)]
#[non_exhaustive]
pub struct SnapshotBatch {
    /// The history that the log continues in.
    pub epoch: Epoch,
    /// Where the log continues once every page is applied.
    pub watermark: Watermark,
    /// The newest update of each document.
    pub documents: Vec<WireUpdate>,
    /// Whether this is the last page.
    pub complete: bool,
}

/// The payload of `sync:head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the event has exactly these")]
pub struct Head {
    /// The newest update that the server knows of.
    pub head: Watermark,
    /// How long ago the journal last confirmed it, in milliseconds.
    pub age_ms: u64,
}

/// An update as a client reads it.
#[derive(Debug, Deserialize)]
#[non_exhaustive]
pub struct WireUpdate {
    /// Its name and place.
    pub seq: Seq,
    /// What it is about.
    pub kind: Kind,
    /// Its content.
    pub payload: Box<RawValue>,
    /// The document whose new state it is.
    #[serde(default)]
    pub doc_key: Option<DocKey>,
    /// The document's version.
    #[serde(default)]
    pub doc_version: Option<u64>,
    /// The publisher's hash of the payload.
    #[serde(default)]
    pub payload_hash: Option<PayloadHash>,
    /// When it was appended.
    pub published_at: Timestamp,
    /// Whether the document is gone.
    #[serde(default)]
    pub deleted: bool,
    /// Whether the payload stayed behind, and is to be fetched: `payload` is null.
    #[serde(default)]
    pub hydration_required: bool,
}

impl From<WireUpdate> for Update {
    fn from(update: WireUpdate) -> Self {
        Self {
            seq: update.seq,
            kind: update.kind,
            payload: Payload::from_raw(&update.payload),
            doc_key: update.doc_key,
            doc_version: update.doc_version,
            deleted: update.deleted,
            payload_hash: update.payload_hash,
            published_at: update.published_at,
            trace: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(json: &str) -> Result<JoinRequest, String> {
        serde_json::from_str(json).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_join_says_where_to_start_in_one_way_only() {
        assert_eq!(join("{}").unwrap(), JoinRequest::default());
        assert_eq!(join(r#"{"from":"snapshot"}"#).unwrap().resume, Resume::Snapshot);
        let cursor = Cursor::new(Epoch::from_bits(1), Watermark::new(7).unwrap());
        let resumed =
            join(r#"{"after":7,"epoch":"0000000000000001","on_stale":"snapshot","mine":1}"#).unwrap();
        let resume = Resume::After(cursor);
        let request = JoinRequest { resume, on_stale: OnStale::Snapshot, published_at: None };
        assert_eq!(resumed, request);
        let checked = join(r#"{"after":7,"epoch":"0000000000000001","published_at":5}"#).unwrap();
        let published_at = Some(Timestamp::from_millis(5));
        assert_eq!(checked, JoinRequest { resume, published_at, ..JoinRequest::default() });
        // As those write it who know doubles only.
        let doubles = join(r#"{"after":7.0,"epoch":"0000000000000001","published_at":5.0}"#).unwrap();
        assert_eq!(doubles, checked);
        for bad in [
            r#"{"after":7}"#,
            r#"{"published_at":7}"#,
            r#"{"after":7,"epoch":"0000000000000001","published_at":"7"}"#,
            r#"{"epoch":"0000000000000001"}"#,
            r#"{"after":7,"epoch":"0000000000000001","from":"head"}"#,
            r#"{"after":-1,"epoch":"0000000000000001"}"#,
            r#"{"after":"7","epoch":"0000000000000001"}"#,
            r#"{"after":9007199254740992,"epoch":"0000000000000001"}"#,
            r#"{"from":"tail"}"#,
            r#"{"on_stale":"panic"}"#,
        ] {
            assert!(join(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_join_survives_its_text() {
        let cursor = Cursor::new(Epoch::from_bits(9), Watermark::new(7).unwrap());
        for resume in [Resume::After(cursor), Resume::Floor, Resume::Head, Resume::Snapshot] {
            for on_stale in [OnStale::Error, OnStale::Snapshot] {
                for published_at in [None, Some(Timestamp::from_millis(5))] {
                    let published_at = published_at.filter(|_| matches!(resume, Resume::After(_)));
                    let request = JoinRequest { resume, on_stale, published_at };
                    assert_eq!(join(&serde_json::to_string(&request).unwrap()).unwrap(), request);
                }
            }
        }
    }
}
