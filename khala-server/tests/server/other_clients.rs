//! What clients that are not Khala's own do differently: refs that are numbers, no `vsn`, binary frames, compression, small
//! buffers, and the names that Supabase's Realtime has for topics and tokens.

use std::num::NonZeroU32;

use futures::SinkExt as _;
use khala_core::{
    Batch, DocKey, Update,
    admission::{AdmissionOptions, Rate},
    tail::TailOptions,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Running, Socket, closed, good_token, hear, join, running, running_on, say};

/// What `websockets` for Python takes at most, unless told otherwise.
const SMALL_BUFFER: usize = 1 << 20;

async fn connect(server: &Running, path: &str) -> Socket {
    let authorization = format!("Bearer {}", good_token());
    server.handshake(path, &[("authorization", &authorization)]).await.unwrap().0
}

#[tokio::test]
async fn refs_that_are_numbers_come_back_as_numbers() {
    let server = running().await;
    let mut socket = server.connect().await;
    say(&mut socket, json!([1, 2, "t", "phx_join", {}])).await;
    let reply = hear(&mut socket).await;
    assert_eq!((&reply[0], &reply[1], &reply[4]["status"]), (&json!(1), &json!(2), &json!("ok")));
    say(&mut socket, json!([null, 3, "phoenix", "heartbeat", {}])).await;
    assert_eq!(hear(&mut socket).await[1], 3);
    // A text of the same digits is another ref.
    say(&mut socket, json!(["1", 4, "t", "phx_leave", {}])).await;
    say(&mut socket, json!([1, 5, "t", "phx_leave", {}])).await;
    assert_eq!(hear(&mut socket).await[1], 5, "the leave of another join has no answer");
    assert_eq!(hear(&mut socket).await, json!([1, null, "t", "phx_close", {}]));
}

#[tokio::test]
async fn without_a_vsn_the_first_serializer_is_spoken() {
    let server = running().await;
    let mut socket = connect(&server, "/sync/v1/websocket").await;
    let frame = json!({"join_ref": "1", "ref": "2", "topic": "t", "event": "phx_join", "payload": {}});
    say(&mut socket, frame).await;
    let reply = hear(&mut socket).await;
    assert_eq!((&reply["ref"], &reply["payload"]["status"]), (&json!("2"), &json!("ok")), "{reply}");
}

#[tokio::test]
async fn a_binary_frame_is_refused_and_the_connection_goes_on() {
    let server = running().await;
    let mut socket = server.connect().await;
    let heartbeat = br#"[null,"1","phoenix","heartbeat",{}]"#;
    socket.send(Message::binary(heartbeat.as_slice())).await.unwrap();
    let refusal = hear(&mut socket).await;
    assert_eq!((&refusal[3], &refusal[4]["code"]), (&json!("sync:error"), &json!("malformed_frame")));
    assert!(refusal[4]["message"].as_str().unwrap().contains("binary"), "{refusal}");
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
    for _ in 0..16 {
        socket.send(Message::binary(heartbeat.as_slice())).await.unwrap();
    }
    assert_eq!(closed(&mut socket).await, (1008, "too_many_malformed_frames".to_owned()));
}

#[tokio::test]
async fn compression_that_is_offered_is_declined() {
    let server = running().await;
    let authorization = format!("Bearer {}", good_token());
    let headers = [
        ("authorization", authorization.as_str()),
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
    ];
    let (mut socket, answer) = server.handshake("/sync/v1/websocket?vsn=2.0.0", &headers).await.unwrap();
    assert!(!answer.contains_key("sec-websocket-extensions"), "{answer:?}");
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
}

/// Reads frames until update 400 was there, or the snapshot is complete; gives the size of the largest.
async fn largest(socket: &mut Socket) -> usize {
    let mut largest = 0;
    loop {
        let frame = hear(socket).await;
        largest = largest.max(frame.to_string().len());
        let of = |name: &str| frame[4][name].as_array().and_then(|updates| updates.last()).cloned();
        let snapshot = frame[3] == "sync:snapshot" && frame[4]["complete"] == true;
        if snapshot || of("updates").is_some_and(|update| update["seq"] == 400) {
            return largest;
        }
    }
}

/// Publishes 400 updates, each with as much beside its payload as there may be, every character of which has to be escaped;
/// says how large the largest frame is, live, from the floor and of a snapshot.
async fn largest_frames(server: &Running) -> [usize; 3] {
    let mut live = server.connect().await;
    assert_eq!(join(&mut live, "t", json!({})).await[4]["status"], "ok");
    let key = |number: usize| format!("{number:03}{}", "\"".repeat(509));
    let (kind, payload) = ("\\".repeat(128), "x".repeat(4_600));
    for start in [0, 200] {
        let update =
            |number| Update::json(&*kind, &payload).unwrap().doc_key(DocKey::parse(&key(number)).unwrap());
        let updates: Vec<_> = (start..start + 200).map(update).collect();
        server.khala.topic("t").unwrap().publish(Batch::new(updates).unwrap()).await.unwrap();
    }
    let live = largest(&mut live).await;
    let mut replayed = Vec::new();
    for from in ["floor", "snapshot"] {
        let mut socket = server.connect().await;
        assert_eq!(join(&mut socket, "t", json!({ "from": from })).await[4]["status"], "ok");
        replayed.push(largest(&mut socket).await);
    }
    [live, replayed[0], replayed[1]]
}

#[tokio::test]
async fn every_frame_fits_into_a_buffer_of_one_mebibyte() {
    let server = running().await;
    let frames = largest_frames(&server).await;
    assert!(frames.iter().all(|bytes| (SMALL_BUFFER / 2..SMALL_BUFFER).contains(bytes)), "{frames:?}");
}

#[tokio::test]
async fn how_large_a_batch_becomes_is_an_option() {
    let tail = TailOptions { batch_bytes: SMALL_BUFFER / 2, ..TailOptions::default() };
    let server = running_on(|khala| khala.with_tail(tail), |builder| builder).await;
    let frames = largest_frames(&server).await;
    assert!(frames.iter().all(|bytes| (SMALL_BUFFER / 8..SMALL_BUFFER / 2).contains(bytes)), "{frames:?}");
}

/// A join with the cursor of another topic.
fn of_another_topic(reply: &Value) -> Value {
    json!({"after": 9, "epoch": reply["payload"]["response"]["epoch"]})
}

#[tokio::test]
async fn clients_of_supabase_find_their_route_their_names_and_their_token() {
    let server = running().await;
    let path = format!("/realtime/v1/websocket?apikey={}&vsn=1.0.0", good_token());
    let mut socket = server.handshake(&path, &[]).await.unwrap().0;
    let frame = |reference: &str, topic: &str, event: &str, payload: Value| json!({"join_ref": "1", "ref": reference, "topic": topic, "event": event, "payload": payload});
    let payload = json!({"config": {"broadcast": {}}, "access_token": "another", "from": "floor"});
    server.publish("orders:7", "1").await;
    say(&mut socket, frame("1", "realtime:orders:7", "phx_join", payload)).await;
    let reply = hear(&mut socket).await;
    assert_eq!((&reply["topic"], &reply["payload"]["status"]), (&json!("realtime:orders:7"), &json!("ok")));
    // Its library shows no program the reply, and hands over no events but these.
    let joined = hear(&mut socket).await;
    let within = |response: &Value| json!({"type": "broadcast", "event": "sync:joined", "payload": response});
    assert_eq!(joined["payload"], within(&reply["payload"]["response"]));
    let batch = hear(&mut socket).await;
    assert_eq!((&batch["topic"], &batch["event"]), (&json!("realtime:orders:7"), &json!("broadcast")));
    assert_eq!(batch["payload"]["event"], "sync:update_batch");
    assert_eq!(batch["payload"]["payload"]["updates"][0]["seq"], 1);

    let token = json!({"access_token": good_token()});
    say(&mut socket, frame("2", "realtime:orders:7", "access_token", token)).await;
    assert_eq!(hear(&mut socket).await["payload"]["status"], "ok");
    say(&mut socket, frame("3", "phoenix", "heartbeat", json!({}))).await;
    assert_eq!(hear(&mut socket).await["topic"], "phoenix");
    say(&mut socket, frame("4", "realtime:orders:7", "broadcast", json!({"event": "x"}))).await;
    assert_eq!(hear(&mut socket).await["payload"]["response"]["code"], "unknown_event");
    say(&mut socket, frame("5", "orders:7", "phx_join", json!({}))).await;
    let refusal = hear(&mut socket).await;
    assert_eq!((&refusal["topic"], &refusal["payload"]["event"]), (&json!("phoenix"), &json!("sync:error")));
    assert!(
        refusal["payload"]["payload"]["message"].as_str().unwrap().contains("realtime:<name>"),
        "{refusal}"
    );
    for (payload, code) in [(json!({"after": 1}), "invalid_join"), (of_another_topic(&reply), "stale_cursor")]
    {
        say(&mut socket, frame("6", "realtime:orders:8", "phx_join", payload)).await;
        let told = hear(&mut socket).await;
        let refusal = &told["payload"]["payload"];
        assert_eq!((&told["payload"]["event"], &refusal["code"]), (&json!("sync:error"), &json!(code)));
        let reply = hear(&mut socket).await;
        assert_eq!(reply["payload"], json!({"status": "error", "response": refusal}));
    }
    say(&mut socket, frame("6", "realtime:orders:7", "phx_leave", json!({}))).await;
    assert_eq!(hear(&mut socket).await["payload"]["status"], "ok");
    assert_eq!(hear(&mut socket).await["event"], "phx_close");

    // The others share the page, each with its own name for the topic.
    let mut plain = server.connect().await;
    assert_eq!(join(&mut plain, "orders:7", json!({"from": "floor"})).await[4]["status"], "ok");
    assert_eq!(hear(&mut plain).await[2], "orders:7");
    let Err(answer) = server.handshake(&path.replace("/realtime/v1", "/sync/v1"), &[]).await else {
        panic!("apikey is a name of Supabase's")
    };
    answer.problem(401, "missing_token");
}

#[tokio::test]
async fn clients_of_supabase_are_told_of_a_join_that_came_too_soon() {
    let mut limits = AdmissionOptions::unlimited();
    limits.frames_per_connection = Some(Rate::new(NonZeroU32::MIN, NonZeroU32::MIN));
    let server = running_on(|khala| khala.with_admission(limits), |builder| builder).await;
    let path = format!("/realtime/v1/websocket?apikey={}&vsn=2.0.0", good_token());
    let mut socket = server.handshake(&path, &[]).await.unwrap().0;
    say(&mut socket, json!([null, "1", "phoenix", "heartbeat", {}])).await;
    hear(&mut socket).await;
    say(&mut socket, json!(["2", "2", "realtime:t", "phx_join", {}])).await;
    let told = hear(&mut socket).await;
    assert_eq!((&told[3], &told[4]["event"]), (&json!("broadcast"), &json!("sync:error")));
    assert_eq!(told[4]["payload"]["code"], "frame_rate_limited");
    assert_eq!(hear(&mut socket).await[4]["status"], "error");
}
