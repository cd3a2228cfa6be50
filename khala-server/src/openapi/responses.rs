//! The refusals that routes share, each described once, and the lists of them that routes have in common.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses, PartialSchema, ToResponse, ToSchema,
    openapi::{
        ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Schema,
        schema::{AnyOfBuilder, Type},
    },
};

use super::schemas::{
    AppendConflict, Incompatible, MintInvalid, Problem, PublishLimited, StaleCursor, SweepRefused, TooLarge,
};

/// A header of an answer.
#[derive(Clone, Copy)]
enum With {
    Nothing,
    Challenge,
    RetryAfter,
}

fn response(description: &str, schema: &str, with: With) -> RefOr<Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
    let response = ResponseBuilder::new()
        .description(description.split_whitespace().collect::<Vec<_>>().join(" "))
        .content("application/problem+json", content);
    let header = |r#type, minimum: Option<u32>, description| {
        let schema = ObjectBuilder::new().schema_type(r#type).minimum(minimum).build();
        HeaderBuilder::new().schema(schema).description(Some(description)).build()
    };
    RefOr::T(match with {
        With::Nothing => response.build(),
        With::Challenge => {
            let challenge = header(Type::String, None, "The challenge of RFC 6750.");
            response.header("WWW-Authenticate", challenge).build()
        }
        With::RetryAfter => {
            let wait = header(Type::Integer, Some(1), "Seconds to wait before the next try.");
            response.header("Retry-After", wait).build()
        }
    })
}

macro_rules! refusals {
    ($($(#[doc = $doc:literal])* $name:ident: $schema:ident $with:ident;)*) => {
        $(pub(crate) struct $name;

        impl<'r> ToResponse<'r> for $name {
            fn response() -> (&'r str, RefOr<Response>) {
                (stringify!($name), response(concat!($($doc),*), &$schema::name(), With::$with))
            }
        })*

        /// All of them, by name.
        pub(crate) fn refusals() -> BTreeMap<String, RefOr<Response>> {
            let all = [$($name::response()),*];
            all.into_iter().map(|(name, response)| (name.to_owned(), response)).collect()
        }

        /// The names and schemas of what is in them.
        pub(crate) fn refused() -> Vec<(String, RefOr<Schema>)> {
            let mut all = Vec::new();
            $($schema::schemas(&mut all);
            all.push(($schema::name().into_owned(), $schema::schema()));)*
            all
        }
    };
}

refusals! {
    /// The request breaks a rule; `detail` names the field and the rule. `invalid_topic`, `invalid_doc_key`, `invalid_query`,
    /// `invalid_path`, `invalid`, for a list of topics `prefix_too_short`, and for a publish `invalid_json`,
    /// `invalid_idempotency_key`, `incomplete_body`, `invalid_payload` (`index` says which update, `fault` and `at` what is wrong
    /// and where), `payload_hash_mismatch` (in a class that carries hashes; `index` says which update).
    Invalid: Problem Nothing;
    /// There is no token, or it is not good; `code` says why: `missing_token`, `invalid_authorization_scheme` (also for more than
    /// one `Authorization` header), `invalid_token`, `unknown_kid`, `claim_mismatch`, `token_expired`, `token_not_yet_valid`,
    /// `token_too_old`, `missing_iat`, `missing_jti`, `token_revoked`.
    Denied: Problem Challenge;
    /// The token does not open this, or the page may not ask: `missing_scope` (with the challenge of RFC 6750),
    /// `forbidden_topic`, `owner_mismatch`, `origin_not_allowed`.
    Forbidden: Problem Challenge;
    /// The page is of an origin that is not listed: `origin_not_allowed`.
    PageRefused: Problem Nothing;
    /// There never was such a document: `unknown_document`.
    UnknownDocument: Problem Nothing;
    /// The cursor cannot be resumed from. Only a snapshot, or a start at floor or head, leads on.
    Stale: StaleCursor Nothing;
    /// The token's subject or the address has too many requests under way: `too_many_requests`. Or it has too many connections:
    /// `too_many_connections`.
    TooManyRequests: Problem RetryAfter;
    /// The store needs its operator: `corrupt`, `schema`.
    Broken: Problem Nothing;
    /// Not now: `unavailable`, `full`, `read_only`, `draining`, `journal_unavailable`, `journal_unwritable`, `part_failed`,
    /// `memory_limit`, `too_many_connections`. Where it may pass, `Retry-After` says when to try again.
    Unavailable: Problem RetryAfter;

    /// The body did not arrive in time: `request_timeout`.
    BodyTimeout: Problem Nothing;
    /// The body is over 16 KiB: `body_too_large`.
    BodyTooLarge: Problem Nothing;
    /// The Content-Type is not one that this route takes: `unsupported_media_type`. Or the body has a Content-Encoding, as
    /// gzip: `unsupported_content_encoding`.
    BodyType: Problem Nothing;
    /// Nothing was stored: the head or a document is not as the batch needs it.
    NotStored: AppendConflict Nothing;
    /// Too large: `body_too_large`, `khala_frame_payload_too_large` (a payload is over what the topic's class allows),
    /// `too_many_updates`.
    PublishTooLarge: TooLarge Nothing;
    /// More is published to the topic than its class allows, or by the token's subject than one subject may; or the topic is new,
    /// and the subject makes too many: `khala_publish_rate_limited`. Or the subject or the address has too many requests under
    /// way: `too_many_requests`. Nothing was stored. (Lines of a stream wait instead.) A batch is taken as soon as there is room
    /// for its first update; what is over is owed.
    TooManyPublishes: PublishRefused RetryAfter;

    /// `unsupported_vsn`, `invalid_upgrade`; and where the server supports certain clients only, `invalid_client_build`,
    /// `unsupported_protocol_version`, `unsupported_schema_version`, each with what is supported.
    UpgradeInvalid: UpgradeRefused Nothing;
    /// Nothing else was wrong, and it takes a WebSocket handshake: `websocket_required`. A request without a handshake is
    /// judged as one, so a page learns here why its handshake was refused. Or the client is too old: `upgrade_required`, with what
    /// is supported.
    UpgradeRequired: UpgradeRefused Nothing;

    /// The request breaks a rule; `detail` names the field and the rule: `invalid`, `invalid_json`, `invalid_query`,
    /// `incomplete_body`. `invalid_ttl` carries the bounds. And where the server supports certain clients only,
    /// `invalid_client_build`, `unsupported_protocol_version`, `unsupported_schema_version`, each with what is supported, as on the
    /// WebSocket.
    MintBroken: MintInvalid Nothing;
    /// There is no credential, or none that is good: `authz_denied`. The server's log says why.
    MintDenied: Problem Challenge;
    /// The credential does not reach that far: `authz_denied`, and `field` says where. Nothing is narrowed quietly. Or the page is
    /// of an origin that is not listed: `origin_not_allowed`.
    MintBeyond: Problem Nothing;
    /// This server makes no tokens: `mint_off`.
    MintOff: Problem Nothing;
    /// The client is too old: `upgrade_required`, with what is supported.
    TooOld: Incompatible Nothing;
    /// The token could not be signed: `signing_error`. The server's log says why.
    SigningError: Problem Nothing;
    /// The credential cannot be checked now: `upstream_unavailable`.
    MintUnavailable: Problem RetryAfter;

    /// The request breaks a rule; `detail` names the field and the rule: `invalid`, `invalid_json`, `invalid_query`,
    /// `invalid_until`, `incomplete_body`.
    AdminInvalid: Problem Nothing;
    /// There is no admin token, or it is not the right one: `missing_token`, `invalid_authorization_scheme`,
    /// `invalid_admin_token`.
    AdminDenied: Problem Challenge;
    /// This server has no admin routes: `admin_off`.
    AdminOff: Problem Nothing;
    /// Nothing went: `sweep_held_back`, because the guard allows fewer cursors to become stale; `sweep_busy`, because a sweep is
    /// under way.
    SweepHeldBack: SweepRefused Nothing;
    /// Not everything could be swept: `sweep_failed`; its record says what went, which topics could not be swept and why, and the
    /// next sweep goes on from there. Or the store needs its operator: `corrupt`, `schema`.
    SweepFailed: SweepRefused Nothing;
    /// This server keeps its metrics elsewhere: `metrics_off`.
    MetricsOff: Problem Nothing;
}

/// Schemas that either of two others fits.
macro_rules! either {
    ($($name:ident: $one:ident or $other:ident;)*) => {$(
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let (one, other) = (Ref::from_schema_name($one::name()), Ref::from_schema_name($other::name()));
                AnyOfBuilder::new().item(one).item(other).into()
            }
        }

        impl ToSchema for $name {
            fn schemas(all: &mut Vec<(String, RefOr<Schema>)>) {
                $one::schemas(all);
                all.push(($one::name().into_owned(), $one::schema()));
                $other::schemas(all);
                all.push(($other::name().into_owned(), $other::schema()));
            }
        }
    )*};
}

either! {
    PublishRefused: PublishLimited or Problem;
    UpgradeRefused: Incompatible or Problem;
}

macro_rules! lists {
    ($($(#[$attribute:meta])* $list:ident: $($status:literal $name:ident),*;)*) => {$(
        $(#[$attribute])*
        pub(crate) struct $list;

        impl IntoResponses for $list {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                let all = [$(($status, <$name as ToResponse<'_>>::response().0)),*];
                let listed = |(status, name): (&str, &str)| {
                    (status.to_owned(), RefOr::Ref(Ref::from_response_name(name)))
                };
                all.into_iter().map(listed).collect()
            }
        }
    )*};
}

lists! {
    /// What is refused wherever a token opens a route.
    ClientRefusals: "400" Invalid, "401" Denied, "403" Forbidden, "429" TooManyRequests, "503" Unavailable;
    /// The same, where the store is read.
    ReadRefusals: "400" Invalid, "401" Denied, "403" Forbidden, "429" TooManyRequests, "500" Broken, "503" Unavailable;
    /// What is refused of a small body.
    BodyRefusals: "408" BodyTimeout, "413" BodyTooLarge, "415" BodyType;
    /// What is refused wherever the admin token opens a route.
    AdminRefusals: "400" AdminInvalid, "401" AdminDenied, "403" PageRefused, "404" AdminOff;
    /// What is refused of a WebSocket's handshake.
    HandshakeRefusals: "400" UpgradeInvalid, "401" Denied, "403" PageRefused, "426" UpgradeRequired, "429" TooManyRequests,
        "503" Unavailable;
    /// What is refused where the store fails.
    StoreRefusals: "500" Broken, "503" Unavailable;
}
