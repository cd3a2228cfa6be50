//! How the `phoenix` JavaScript client (1.8) comes back, and what it says: what a server has to live with.
//!
//! It honours nothing that a server says about when to come back, and it adds no jitter.

use std::time::Duration;

use serde::Deserialize;

/// A join that is not answered by then counts as failed, and is left.
pub(crate) const JOIN_WITHIN: Duration = Duration::from_secs(10);
/// So often it says that it is there.
pub(crate) const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);

/// How long it waits before it connects again, for that many tries since it was connected.
pub(crate) fn reconnect_after(tries: u32) -> Duration {
    const MILLIS: [u64; 9] = [10, 50, 100, 150, 200, 250, 500, 1_000, 2_000];
    let at = tries.saturating_sub(1) as usize;
    Duration::from_millis(MILLIS.get(at).copied().unwrap_or(5_000))
}

/// How long it waits before it joins again, for that many tries since it was connected or joined.
pub(crate) fn rejoin_after(tries: u32) -> Duration {
    const MILLIS: [u64; 3] = [1_000, 2_000, 5_000];
    let at = tries.saturating_sub(1) as usize;
    Duration::from_millis(MILLIS.get(at).copied().unwrap_or(10_000))
}

/// Where a channel joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    After { epoch: String, watermark: u64 },
    Floor,
    Head,
}

/// The frame that joins `topic`.
pub(crate) fn join(reference: u64, topic: &str, from: &From) -> String {
    let payload = match from {
        From::After { epoch, watermark } => format!(r#"{{"after":{watermark},"epoch":"{epoch}"}}"#),
        From::Floor => r#"{"from":"floor"}"#.to_owned(),
        From::Head => "{}".to_owned(),
    };
    format!(r#"["{reference}","{reference}","{topic}","phx_join",{payload}]"#)
}

/// The frame that leaves `topic`.
pub(crate) fn leave(join_reference: u64, reference: u64, topic: &str) -> String {
    format!(r#"["{join_reference}","{reference}","{topic}","phx_leave",{{}}]"#)
}

/// The frame that says that the client is there.
pub(crate) fn heartbeat(reference: u64) -> String {
    format!(r#"[null,"{reference}","phoenix","heartbeat",{{}}]"#)
}

/// What the harness acts on in a frame that is no batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The heartbeat is answered.
    Beat,
    /// The connection will be closed within that time.
    Drain { retry_after_ms: u64 },
    /// The join with that reference is answered with ok.
    Joined { reference: u64, epoch: String, after: u64, head: u64 },
    /// It is refused.
    Refused { reference: u64, code: String, retry_after_ms: Option<u64> },
    /// The channel ended without being asked to.
    Ended { event: String },
    /// A refusal of something else; where the channel ends, that is said after it.
    Error { code: String },
    /// Nothing to act on.
    Nothing,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Payload {
    status: String,
    response: Response,
    retry_after_ms: Option<u64>,
    code: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response {
    epoch: String,
    after: Option<u64>,
    head: u64,
    code: String,
    retry_after_ms: Option<u64>,
}

/// Reads a frame that is no batch.
///
/// # Errors
/// Says that it is no frame of the protocol.
pub(crate) fn read(frame: &[u8]) -> Result<Heard, String> {
    type Frame = (Option<String>, Option<String>, String, String, Payload);
    let (join_reference, _, topic, event, payload): Frame = serde_json::from_slice(frame)
        .map_err(|fault| format!("no frame of the protocol ({fault}): {}", String::from_utf8_lossy(frame)))?;
    let reference = join_reference.and_then(|reference| reference.parse().ok());
    let Payload { status, response, retry_after_ms, code } = payload;
    Ok(match (event.as_str(), reference) {
        ("sync:drain", _) => Heard::Drain { retry_after_ms: retry_after_ms.unwrap_or(0) },
        ("sync:error", _) => Heard::Error { code },
        ("phx_error" | "phx_close", Some(_)) => Heard::Ended { event },
        ("phx_reply", None) if topic == "phoenix" => Heard::Beat,
        ("phx_reply", Some(reference)) => match (status.as_str(), response.after) {
            ("ok", Some(after)) => {
                Heard::Joined { reference, epoch: response.epoch, after, head: response.head }
            }
            ("ok", None) => Heard::Nothing, // a leave
            _ => Heard::Refused { reference, code: response.code, retry_after_ms: response.retry_after_ms },
        },
        _ => Heard::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_as_phoenix_does() {
        let after = |tries| reconnect_after(tries).as_millis();
        assert_eq!(
            (1..=11).map(after).collect::<Vec<_>>(),
            [10, 50, 100, 150, 200, 250, 500, 1_000, 2_000, 5_000, 5_000]
        );
        let after = |tries| rejoin_after(tries).as_millis();
        assert_eq!((1..=5).map(after).collect::<Vec<_>>(), [1_000, 2_000, 5_000, 10_000, 10_000]);
    }

    #[test]
    fn what_is_heard_is_what_the_protocol_shows() {
        for (frame, heard) in [
            (
                r#"["3","3","run:7:events","phx_reply",{"status":"ok","response":{"epoch":"5f0c1e9a77b3d2e4","after":10,"head":12,"floor":0}}]"#,
                Heard::Joined { reference: 3, epoch: "5f0c1e9a77b3d2e4".to_owned(), after: 10, head: 12 },
            ),
            (
                r#"["3","3","t","phx_reply",{"status":"error","response":{"code":"unavailable","reason":"unavailable","message":"m","retry_after_ms":70}}]"#,
                Heard::Refused { reference: 3, code: "unavailable".to_owned(), retry_after_ms: Some(70) },
            ),
            (
                r#"[null,null,"phoenix","sync:drain",{"retry_after_ms":4200}]"#,
                Heard::Drain { retry_after_ms: 4_200 },
            ),
            (r#"[null,"7","phoenix","phx_reply",{"status":"ok","response":{}}]"#, Heard::Beat),
            (r#"["3","9","t","phx_reply",{"status":"ok","response":{}}]"#, Heard::Nothing),
            (r#"[null,null,"t","sync:head",{"head":90,"age_ms":1200}]"#, Heard::Nothing),
            (r#"["3",null,"t","phx_error",{}]"#, Heard::Ended { event: "phx_error".to_owned() }),
            (
                r#"["3",null,"t","sync:error",{"code":"stale_cursor","message":"m"}]"#,
                Heard::Error { code: "stale_cursor".to_owned() },
            ),
        ] {
            assert_eq!(read(frame.as_bytes()), Ok(heard), "{frame}");
        }
        assert!(read(b"{}").is_err());
    }
}
