//! The OpenAPI document: what clients may send and are answered, from the types that are parsed and serialised and from the
//! handlers of the routes.
//!
//! The doc comment of a handler is what the document says of its operation: the first paragraph is the summary.
//!
//! # Invariants
//! The document has the routes of the router and no others, and each answer is one that it describes (`tests/server/openapi.rs`).

use std::sync::LazyLock;

use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use utoipa::{
    OpenApi as _,
    openapi::{
        Components, HttpMethod,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use crate::{
    longpoll,
    openapi::{refusals, refused},
    response::json_bytes,
    routes, websocket,
};

/// The OpenAPI 3.1 document that `/openapi.json` answers with.
pub fn openapi() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());
    &DOCUMENT
}

/// Durable, resumable real-time sync: publish to topics, read their history and documents, follow them over a WebSocket.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Khala",
        version = env!("CARGO_PKG_VERSION"),
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        description = "Durable, resumable real-time sync: publish to topics, read their history and documents, follow them \
            over a WebSocket. Unknown query parameters and unknown fields are refused. Where the server has a list of origins \
            (`auth.origins`), pages of other origins are refused (403 `origin_not_allowed`) on every route that takes a token, \
            and pages of the listed origins may read the answers (CORS; preflights are answered with 204). Without a list, \
            pages of any origin may read them."
    ),
    security(("token" = [])),
    tags((name = "updates"), (name = "topics"), (name = "documents"), (name = "sync"), (name = "operations"),
        (name = "access"), (name = "admin")),
    paths(
        routes::documents::document,
        routes::documents::snapshot,
        routes::history::bounds,
        routes::history::topics,
        routes::history::updates,
        routes::publish::publish,
        routes::stream::publish_stream,
        routes::mint::mint,
        routes::health::health,
        routes::health::metrics,
        openapi_document,
        routes::health::ready,
        routes::admin::connections::connections,
        routes::admin::drain::drain,
        routes::admin::fanout::fanout_hooks,
        routes::admin::fanout::fanout_metrics,
        routes::admin::retention::retention,
        routes::admin::retention::sweep,
        routes::admin::revocations::revocations,
        routes::admin::revocations::revoke,
        longpoll::routes::poll,
        longpoll::routes::post,
        websocket::upgrade::upgrade,
        websocket::upgrade::upgrade_realtime,
    ),
    components(schemas(routes::stream::Acknowledged<'_>, routes::stream::Refused, routes::batch::Line<'_>)),
)]
struct Described;

/// Gives this document.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = "operations", security(()),
    responses((status = 200, body = Object, content_type = "application/json", description = "This document."))
)]
pub(crate) async fn openapi_document() -> Response {
    json_bytes(Bytes::from_static(openapi().as_bytes()))
}

fn document() -> Value {
    let mut document = Described::openapi();
    let components = document.components.get_or_insert_default();
    components.responses.extend(refusals());
    components.schemas.extend(refused());
    add_security(components);
    // One handler makes tokens under three paths.
    let mint = document.paths.get_path_operation("/v1/token", HttpMethod::Post).cloned();
    for (path, id) in [("/api/khala/token", "mintTokenForKhala"), ("/api/sync/token", "mintTokenForSync")] {
        if let Some(mut mint) = mint.clone() {
            mint.operation_id = Some(id.to_owned());
            mint.summary = Some("Makes a sync token; the same as /v1/token.".to_owned());
            document.paths.add_path_operation(path, vec![HttpMethod::Post], mint);
        }
    }
    let mut document = serde_json::to_value(document).expect("an OpenAPI document has a JSON form");
    constrain(&mut document);
    document
}

fn add_security(components: &mut Components) {
    for (name, format, description) in [
        ("token", Some("JWT"), "Reading takes the scope khala:read, publishing khala:publish."),
        ("admin", None, "The admin token of this server, which is no sync token."),
        (
            "credential",
            None,
            "What proves who asks for a token: a mint secret, or a token of the application's own.",
        ),
    ] {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.bearer_format = format.map(str::to_owned);
        scheme.description = Some(description.to_owned());
        components.add_security_scheme(name, SecurityScheme::Http(scheme));
    }
}

/// Adds the rules that JSON Schema has words for, and the derived schemas do not.
fn constrain(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    // What a router takes for a step in the path is no topic, and cannot be a key in a path.
    schemas["Topic"]["not"] = json!({"enum": ["phoenix", ".", ".."]});
    schemas["TokenRequest"]["properties"]["claims"]["maxProperties"] = json!(16);
    let both = json!({"const": true});
    schemas["SweepOrder"]["not"] =
        json!({"required": ["dry_run", "force"], "properties": {"dry_run": both, "force": both}});
    // Not as `allOf`: generators make unions of that.
    for update in ["NewUpdate", "NewLineOfTopic"] {
        schemas[update]["if"] = json!({"anyOf": [
            {"required": ["deleted"], "properties": {"deleted": both}},
            {"required": ["doc_version"], "properties": {"doc_version": {"type": "integer"}}},
        ]});
        schemas[update]["then"] = json!({"required": ["doc_key"], "properties": {"doc_key": {"$ref": "#/components/schemas/DocKey"}}});
    }
    // A line without a topic is the same in all else.
    let mut line = schemas["NewLineOfTopic"].clone();
    if let (Some(fields), Some(required)) =
        (line["properties"].as_object_mut(), schemas["NewLineOfTopic"]["required"].as_array())
    {
        fields.remove("topic");
        let required: Vec<_> = required.iter().filter(|name| **name != "topic").cloned().collect();
        line["required"] = required.into();
        line["description"] =
            "A line of a stream: an update to append, and the key that names its publish.".into();
        schemas["NewLine"] = line;
    }
    schemas["StaleCursor"]["allOf"][1]["properties"]["full_resync_required"]["const"] = json!(true);
    for path in ["/v1/token", "/api/khala/token", "/api/sync/token", "/internal/v1/khala/drain"] {
        document["paths"][path]["post"]["requestBody"]["required"] = json!(false);
    }
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    let operations = paths.filter_map(|(_, path)| path.as_object_mut()).flatten();
    let parameters = operations.filter_map(|(_, operation)| operation.get_mut("parameters")?.as_array_mut());
    for parameter in parameters.flatten().filter(|parameter| parameter["name"] == "doc_key") {
        parameter["schema"]["not"] = json!({"enum": [".", ".."]});
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::router::ROUTES;

    #[test]
    fn it_has_the_routes_of_the_router() {
        let document = document();
        let paths = document["paths"].as_object().unwrap().iter();
        let methods =
            |path: &Value| path.as_object().unwrap().keys().map(|name| name.to_uppercase()).collect();
        let described: BTreeMap<&str, BTreeSet<String>> =
            paths.map(|(pattern, path)| (pattern.as_str(), methods(path))).collect();
        // Each route that is read answers HEAD too.
        let allowed = |allow: &str| {
            allow.split(", ").filter(|name| *name != "HEAD").map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let served: BTreeMap<_, _> =
            ROUTES.iter().map(|route| (route.pattern, allowed(route.allow))).collect();
        assert_eq!(described, served);
    }
}
