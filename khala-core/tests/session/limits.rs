//! Limits on joins and frames, and what a session never says: a token.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use khala_core::{
    admission::{Admission, AdmissionOptions, Rate},
    auth::Denied,
    connection::Received,
    session::SessionOptions,
    tail::{TailJournal, TailOptions},
    wire::{Close, Serializer},
};
use serde_json::json;

use crate::{
    clock::steady,
    rig::{Rig, START, seconds},
    store::Store,
};

const READ: &str = "khala:read";

fn limited(options: AdmissionOptions) -> Rig {
    let store = Store::new(200, 200);
    let tail = Arc::new(TailJournal::new(Arc::<Store>::clone(&store), TailOptions::default()));
    let admitted = Admission::new(options).connect("somebody", None, steady(START)).unwrap();
    Rig::admitted(store, tail, Serializer::V2, SessionOptions::default(), &[READ], admitted)
}

fn rate(per_second: u32, burst: u32) -> Option<Rate> {
    Some(Rate::new(NonZeroU32::new(per_second).unwrap(), NonZeroU32::new(burst).unwrap()))
}

#[test]
fn a_join_above_the_limit_is_told_when_to_come_back() {
    let mut rig =
        limited(AdmissionOptions { joins_per_connection: rate(1, 2), ..AdmissionOptions::unlimited() });
    for (reference, topic) in [("1", "t"), ("2", "u")] {
        rig.join(reference, topic, &json!({}));
        assert_eq!(rig.run()[0][4]["status"], "ok");
    }
    rig.join("3", "v", &json!({}));
    let sent = rig.run();
    let response = &sent[0][4]["response"];
    assert_eq!((sent.len(), &sent[0][1], &response["code"]), (1, &json!("3"), &json!("join_rate_limited")));
    let wait = response["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_000).contains(&wait), "{wait}");
    assert_eq!(rig.watching.len(), 2, "the others stay");
    rig.pass(Duration::from_millis(wait));
    rig.join("4", "v", &json!({}));
    assert_eq!(rig.run()[0][4]["status"], "ok");
}

#[test]
fn a_frame_above_the_limit_has_no_effect_and_too_many_end_the_connection() {
    let mut rig =
        limited(AdmissionOptions { frames_per_connection: rate(1, 2), ..AdmissionOptions::unlimited() });
    rig.join("1", "t", &json!({}));
    rig.say(None, Some("2"), "phoenix", "heartbeat", &json!({}));
    assert_eq!(rig.run().len(), 2);
    let most = SessionOptions::default().malformed_frames;
    for n in 1..=most + 1 {
        let (topic, event) =
            [("t", "phx_leave"), ("phoenix", "access_token"), ("u", "phx_join")][n as usize % 3];
        rig.say(Some("1"), Some("9"), topic, event, &json!({"access_token": "s3cret"}));
        let sent = rig.run();
        let response = &sent[0][4]["response"];
        assert_eq!((sent.len(), &sent[0][1], &sent[0][2]), (1, &json!("9"), &json!(topic)));
        assert_eq!(response["code"], "frame_rate_limited");
        assert!((1..=1_000).contains(&response["retry_after_ms"].as_u64().unwrap()));
        assert!(!sent[0].to_string().contains("s3cret"));
        assert_eq!(rig.closed, (n > most).then_some(Close::TooManyFrames));
    }
    assert_eq!(rig.closed.map(Close::code), Some(1013));
    assert!(rig.token.is_none());
}

#[test]
fn who_slows_down_in_time_is_not_closed() {
    let mut rig =
        limited(AdmissionOptions { frames_per_connection: rate(1, 1), ..AdmissionOptions::unlimited() });
    for _ in 0..100 {
        for _ in 0..10 {
            rig.say(None, Some("1"), "phoenix", "heartbeat", &json!({}));
        }
        rig.run();
        rig.pass(seconds(1));
    }
    assert_eq!(rig.closed, None);
}

#[test]
fn what_is_no_frame_is_not_repeated() {
    let token = "eyJhbGciOiJIUzI1NiJ9.s3cret";
    for serializer in [Serializer::V1, Serializer::V2] {
        let mut rig = Rig::with(Store::new(200, 200), serializer, SessionOptions::default());
        for text in [
            format!(r#""{token}""#),
            token.to_owned(),
            format!(r#"["{token}"]"#),
            format!(r#"[{{"{token}":1}},"1","phoenix","access_token",{{}}]"#),
            format!(r#"{{"{token}":1}}"#),
            format!(r#"{{"topic":"phoenix","event":"access_token","payload":{{}},"ref":["{token}"]}}"#),
            format!(r#"{{"topic":["{token}"],"event":"access_token","payload":{{}},"ref":"1"}}"#),
        ] {
            rig.text(&text);
            for frame in rig.run() {
                assert!(!frame.to_string().contains("s3cret"), "{text}: {frame}");
            }
        }
    }
}

#[test]
fn nothing_that_is_printed_holds_a_token() {
    let mut rig = Rig::new();
    let frame = json!([null, "1", "phoenix", "access_token", {"access_token": "s3cret"}]).to_string();
    let received = format!("{:?}", Received::Text(frame.clone()));
    assert!(!received.contains("s3cret"), "{received}");
    rig.text(&frame);
    assert!(!format!("{:?}", rig.session).contains("s3cret"));
    let action = rig.session.poll_action().unwrap();
    assert!(!format!("{action:?}").contains("s3cret"), "{action:?}");
    rig.session.handle_verified(Err(Denied::InvalidToken("it is none")), rig.both());
    assert!(!format!("{:?}", rig.session).contains("s3cret"));
}
