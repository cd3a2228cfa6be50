//! The OpenAPI document is true: each of its routes is served, with each of its statuses, and no others are; and each answer fits
//! its schema, which names all of its members.

use std::{collections::BTreeSet, num::NonZeroU32, time::Duration};

use http::{Method, Request};
use http_body_util::Full;
use khala_core::{
    ErrorKind, Timestamp,
    admission::AdmissionOptions,
    journal::{Journal as _, Keep},
};
use khala_server::{Compatibility, Limits, Origins, Server, Window, openapi};
use serde_json::Value;

use crate::support::{Answer, Begun, Running, running_on, running_with, topic};

const UPDATES: &str = "/v1/topics/{topic}/updates";
const MANY: &str = "/v1/updates";
const ONE: &str = r#"{"kind":"k","payload":1}"#;

/// What was found to be served: pattern, method, status.
#[derive(Default)]
struct Served(BTreeSet<(String, String, String)>);

impl Served {
    fn note(&mut self, pattern: &str, method: &Method, answer: &Answer, document: &Value) {
        let (method, status) = (method.as_str().to_lowercase(), answer.status.as_u16().to_string());
        let response = &document["paths"][pattern][&method]["responses"][&status];
        assert!(
            response.is_object(),
            "{method} {pattern} answers {status}, which is not documented: {answer:?}"
        );
        let response = match response["$ref"].as_str() {
            Some(path) => document.pointer(&path[1..]).unwrap(),
            None => response,
        };
        if let Some(content) = response["content"].as_object() {
            let found = answer.header("content-type").split(';').next().unwrap();
            assert!(
                content.contains_key(found),
                "{method} {pattern} {status} is of another type: {answer:?}"
            );
            if ["application/json", "application/problem+json"].contains(&found) {
                let value = serde_json::from_str(&answer.text).unwrap();
                let faults = faults(&value, &content[found]["schema"], document);
                assert!(faults.is_empty(), "{method} {pattern} {status}: {faults:?} in {answer:?}");
            }
        }
        self.0.insert((pattern.to_owned(), method, status));
    }
}

/// What is wrong with an answer by its schema, and which of its members the schema does not name.
fn faults(value: &Value, schema: &Value, document: &Value) -> Vec<String> {
    let mut faults = broken(value, schema, document);
    let known = members(schema, document);
    let found = value.as_object().into_iter().flat_map(|object| object.keys());
    if !known.is_empty() {
        faults.extend(found.filter(|name| !known.contains(*name)).map(|name| format!("{name} is not known")));
    }
    faults
}

fn broken(value: &Value, schema: &Value, document: &Value) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(path) = schema["$ref"].as_str() {
        all.extend(broken(value, document.pointer(&path[1..]).unwrap(), document));
    }
    let types = match &schema["type"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.is_empty() && !types.contains(&found) {
        all.push(format!("{value} is none of {types:?}"));
    }
    let words = schema["enum"].as_array();
    if words.is_some_and(|words| !words.contains(value)) {
        all.push(format!("{value} is none of {words:?}"));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.is_object() && value.get(name).is_none() {
            all.push(format!("{name} is missing"));
        }
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name) {
            all.extend(faults(value, schema, document));
        }
    }
    for (value, schema) in value.as_array().into_iter().flatten().zip(std::iter::repeat(&schema["items"])) {
        all.extend(faults(value, schema, document));
    }
    for schema in schema["allOf"].as_array().into_iter().flatten() {
        all.extend(broken(value, schema, document));
    }
    for alternatives in [&schema["oneOf"], &schema["anyOf"]].into_iter().filter_map(Value::as_array) {
        let tried: Vec<_> = alternatives.iter().map(|schema| broken(value, schema, document)).collect();
        if tried.iter().all(|faults| !faults.is_empty()) {
            all.extend(tried.into_iter().flatten());
        }
    }
    all
}

/// The members that a schema names.
fn members(schema: &Value, document: &Value) -> BTreeSet<String> {
    let of_reference = schema["$ref"].as_str().and_then(|path| document.pointer(&path[1..]));
    let parts = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|name| schema[name].as_array()).flatten();
    let own = schema["properties"].as_object().into_iter().flat_map(|members| members.keys().cloned());
    own.chain(of_reference.into_iter().chain(parts).flat_map(|schema| members(schema, document))).collect()
}

fn documented(document: &Value) -> BTreeSet<(String, String, String)> {
    let mut all = BTreeSet::new();
    for (pattern, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in
            operations.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            for status in operation["responses"].as_object().unwrap().keys() {
                all.insert((pattern.clone(), method.clone(), status.clone()));
            }
        }
    }
    all
}

async fn sent(server: &Running, method: &Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", "x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(Full::from(body.to_owned())).unwrap()).await
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, document: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(path)) = members.get("$ref") {
                    assert!(document.pointer(&path[1..]).is_some(), "{path}");
                }
                members.values().for_each(|value| walk(value, document));
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, document)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(openapi()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    walk(&document, &document);
}

/// Generators make a type of each schema, a function of each operation, and take a member with a default for one that is
/// always there.
#[test]
fn generators_make_good_code_of_it() {
    let document: Value = serde_json::from_str(openapi()).unwrap();
    let mut ids = BTreeSet::new();
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
    for operation in operations {
        let id = operation["operationId"].as_str().unwrap();
        let camel_case =
            id.starts_with(|c: char| c.is_ascii_lowercase()) && id.chars().all(|c| c.is_ascii_alphanumeric());
        assert!(camel_case, "the operation {id} is not named as the others are");
        assert!(ids.insert(id), "two operations are named {id}");
        assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{id}: a module for each tag");
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        // In Python the class is built in a variable that has its name.
        let snake_case =
            name.chars().fold(String::new(), |snake, c| match c.is_ascii_uppercase() && !snake.is_empty() {
                true => snake + "_" + &c.to_lowercase().to_string(),
                false => snake + &c.to_lowercase().to_string(),
            });
        let known = members(schema, &document);
        assert!(!known.contains(&snake_case), "the schema {name} has the member {snake_case}");
        for (member, schema) in schema["properties"].as_object().into_iter().flatten() {
            assert!(schema.get("default").is_none(), "{name}.{member} has a default");
        }
    }
}

#[tokio::test]
async fn what_is_documented_is_served() {
    let document: Value = serde_json::from_str(openapi()).unwrap();
    let limits = Limits { body_timeout: Duration::from_millis(100), ..Limits::default() };
    let mut one_each = AdmissionOptions::unlimited();
    one_each.connections_per_subject = NonZeroU32::new(1);
    let origins = Origins::parse(["https://app.example"]).unwrap();
    let gate = Compatibility {
        client_build: Some(Window::at_least("2".parse().unwrap())),
        ..Compatibility::default()
    };
    let server = running_on(
        |khala| khala.with_admission(one_each),
        |builder| builder.with_limits(limits).with_origins(origins).with_compatibility(gate),
    )
    .await;
    let stranger = ("origin", "https://elsewhere.example");
    let mut served = Served::default();
    let good = format!("Bearer {}", crate::support::good_token());
    let nothing = format!("Bearer {}", crate::support::token(&[], crate::support::LONG));
    let authorized = [("authorization", good.as_str()), ("content-type", "application/json")];
    for _ in 0..3 {
        server.post("/v1/topics/t/updates", r#"{"kind":"k","payload":1,"doc_key":"d"}"#).await;
    }
    let journal = server.khala.journal();
    journal
        .trim(&topic("t"), Keep { updates: Some(1), ..Keep::everything() }, Timestamp::default())
        .await
        .unwrap();
    let stale = "watermark=1&epoch=0000000000000000&after_key=d";

    // Every way to read: good, wrong, without a token, without the scope, with a store that fails.
    for (pattern, path, wrong) in [
        ("/v1/topics", "/v1/topics", "?x=1"),
        ("/v1/topics/{topic}", "/v1/topics/t", "?x=1"),
        (UPDATES, "/v1/topics/t/updates", "?after=1"),
        ("/v1/topics/{topic}/snapshot", "/v1/topics/t/snapshot", "?limit=0"),
        ("/v1/topics/{topic}/documents/{doc_key}", "/v1/topics/t/documents/d", "?x=1"),
    ] {
        let get = Method::GET;
        let mut answers = vec![
            sent(&server, &get, path, &authorized, "").await,
            sent(&server, &get, &format!("{path}{wrong}"), &authorized, "").await,
            sent(&server, &get, path, &[], "").await,
            sent(&server, &get, path, &[("authorization", &nothing)], "").await,
            sent(&server, &get, path, &[authorized[0], stranger], "").await,
        ];
        for kind in [ErrorKind::Corrupt, ErrorKind::Unavailable] {
            server.store.fail(Some(kind));
            answers.push(sent(&server, &get, path, &authorized, "").await);
            server.store.fail(None);
        }
        answers.iter().for_each(|answer| served.note(pattern, &get, answer, &document));
    }
    for (pattern, path) in [
        (UPDATES, "/v1/topics/t/updates?after=1&epoch=0000000000000000".to_owned()),
        ("/v1/topics/{topic}/snapshot", format!("/v1/topics/t/snapshot?{stale}")),
        ("/v1/topics/{topic}/documents/{doc_key}", "/v1/topics/t/documents/none".to_owned()),
    ] {
        served.note(pattern, &Method::GET, &server.get(&path).await, &document);
    }

    let post = Method::POST;
    let path = "/v1/topics/t/updates";
    let once = [authorized[0], authorized[1], ("idempotency-key", "once")];
    let large = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(64 << 10));
    let conflict = r#"{"updates":[{"kind":"k","payload":1}],"expect":99}"#;
    for (headers, body) in [
        (once.as_slice(), ONE),
        (&once, ONE),
        (&authorized, "{}"),
        (&[], ONE),
        (&[authorized[1], ("authorization", &nothing)], ONE),
        (&authorized, conflict),
        (&authorized, &large),
        (&[authorized[0], ("content-type", "text/plain")], ONE),
    ] {
        served.note(UPDATES, &post, &sent(&server, &post, path, headers, body).await, &document);
    }
    for kind in [ErrorKind::Corrupt, ErrorKind::Full] {
        server.store.fail(Some(kind));
        served.note(UPDATES, &post, &sent(&server, &post, path, &authorized, ONE).await, &document);
        server.store.fail(None);
    }
    served.note(UPDATES, &post, &late_body(&server).await, &document);
    // So many at once that the next one waits for seconds.
    let flood = format!(r#"{{"updates":[{}]}}"#, vec![ONE; 1_000].join(","));
    for _ in 0..2 {
        served.note(
            UPDATES,
            &post,
            &sent(&server, &post, "/v1/topics/flood/updates", &authorized, &flood).await,
            &document,
        );
    }

    let stream = [authorized[0], ("content-type", "application/x-ndjson")];
    for headers in [
        stream.as_slice(),
        &[stream[0], stream[1], ("idempotency-key", "once")],
        &[stream[1]],
        &[stream[0], stream[1], stranger],
        &authorized,
    ] {
        let answer = sent(&server, &post, MANY, headers, "").await;
        served.note(MANY, &post, &answer, &document);
    }

    let lines = "{\"topic\":\"lines\",\"kind\":\"k\",\"payload\":1}\n{}\n";
    let answer = sent(&server, &post, MANY, &stream, lines).await;
    for (line, schema) in answer.text.lines().zip(["LineStored", "LineRefused"]) {
        let line = serde_json::from_str(line).unwrap();
        let faults = faults(&line, &document["components"]["schemas"][schema], &document);
        assert!(faults.is_empty(), "{schema}: {faults:?} in {line}");
    }

    crowded(&mut served, &document).await;

    let get = Method::GET;
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        served.note(path, &get, &sent(&server, &get, path, &[], "").await, &document);
    }
    server.store.fail(Some(ErrorKind::Unavailable));
    served.note("/readyz", &get, &sent(&server, &get, "/readyz", &[], "").await, &document);
    server.store.fail(None);
    let metrics_off = Server::builder(server.khala.clone()).build();
    let request = Request::builder().uri("/metrics").body(Full::<bytes::Bytes>::default()).unwrap();
    served.note("/metrics", &get, &Answer::of(metrics_off.handle(request).await).await, &document);

    let authorization = [("authorization", good.as_str())];
    let open = server.handshake("/sync/v1/websocket?client_build=2", &authorization).await.unwrap();
    let websockets = ["/sync/v1/websocket", "/realtime/v1/websocket"];
    for websocket in websockets {
        let vsn = &*format!("{websocket}?vsn=2.0.0&client_build=2");
        served.note(websocket, &get, &sent(&server, &get, vsn, &[], "").await, &document);
        served.0.insert((websocket.to_owned(), "get".to_owned(), "101".to_owned()));
        let (old, unknown) = (vsn.replace("build=2", "build=1"), vsn.replace("build=2", "build=x"));
        for (path, headers) in [
            (vsn, [].as_slice()),
            (websocket, &[authorized[0]]),
            (&old, &[authorized[0]]),
            (&unknown, &[authorized[0]]),
            (vsn, &[authorized[0], stranger]),
            (vsn, &[authorized[0]]),
        ] {
            let Err(answer) = server.handshake(path, headers).await else { panic!("{path} was let in") };
            served.note(websocket, &get, &answer, &document);
        }
    }
    let long_poll = "/sync/v1/longpoll";
    let opening = format!("{long_poll}?vsn=2.0.0&client_build=2");
    for method in [&get, &post] {
        for headers in [[].as_slice(), &[authorized[0]], &[authorized[0], stranger]] {
            served.note(long_poll, method, &sent(&server, method, &opening, headers, "").await, &document);
        }
    }
    drop(open);
    server.server.drain();
    for websocket in websockets {
        let path = format!("{websocket}?client_build=2");
        let Err(answer) = server.handshake(&path, &[authorized[0]]).await else { panic!("it is draining") };
        served.note(websocket, &get, &answer, &document);
    }
    served.note(MANY, &post, &sent(&server, &post, MANY, &stream, "").await, &document);

    // What has tests of its own, and there every answer.
    let elsewhere =
        [crate::mint::every_answer().await, crate::admin::every_answer().await].into_iter().flatten();
    for (pattern, method, answer) in elsewhere {
        served.note(pattern, &method, &answer, &document);
    }
    let origins = Origins::parse(["https://app.example"]).unwrap();
    let guarded = running_with(|builder| {
        let builder = builder.with_mint(crate::mint::mint()).with_admin_token(crate::admin::admin());
        builder.with_origins(origins).with_compatibility(gate)
    })
    .await;
    for (path, method) in crate::admin::ROUTES {
        served.note(path, &method, &sent(&guarded, &method, path, &[stranger], "").await, &document);
    }
    for path in ["/v1/token", "/api/khala/token", "/api/sync/token"] {
        let old = format!("{path}?client_build=1");
        served.note(path, &post, &sent(&guarded, &post, &old, &[], "").await, &document);
        let refused = sent(&guarded, &post, path, &[stranger], "").await;
        refused.problem(403, "origin_not_allowed");
        served.note(path, &post, &refused, &document);
    }

    let (documented, served) = (documented(&document), served.0);
    let missing: Vec<_> = documented.difference(&served).collect();
    assert!(missing.is_empty(), "documented, and not seen: {missing:?}");
}

/// What a subject is answered that has as many requests under way as it may.
async fn crowded(served: &mut Served, document: &Value) {
    let limits = Limits { requests_per_subject: NonZeroU32::new(1), ..Limits::default() };
    let server = running_with(|builder| builder.with_limits(limits)).await;
    let good = format!("Bearer {}", crate::support::good_token());
    let post = Request::post("/v1/topics/t/updates").header("content-type", "application/json");
    let begun = Begun::new(&server.server, post.header("authorization", &good), ONE).await;
    for (method, pattern, path) in [
        (Method::GET, "/v1/topics", "/v1/topics"),
        (Method::GET, "/v1/topics/{topic}", "/v1/topics/t"),
        (Method::GET, UPDATES, "/v1/topics/t/updates"),
        (Method::GET, "/v1/topics/{topic}/snapshot", "/v1/topics/t/snapshot"),
        (Method::GET, "/v1/topics/{topic}/documents/{doc_key}", "/v1/topics/t/documents/d"),
        (Method::POST, MANY, MANY),
    ] {
        let headers = [("authorization", good.as_str()), ("content-type", "application/x-ndjson")];
        let answer = sent(&server, &method, path, &headers, "").await;
        answer.problem(429, "too_many_requests");
        served.note(pattern, &method, &answer, document);
    }
    assert_eq!(begun.end().await.status, 201);
}

/// A publish whose body does not come.
async fn late_body(server: &Running) -> Answer {
    let never = futures::stream::pending::<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>();
    let request =
        server.request(Method::POST, "/v1/topics/t/updates").header("content-type", "application/json");
    let request = request.body(http_body_util::StreamBody::new(never)).unwrap();
    Answer::of(server.server.handle(request).await).await
}
