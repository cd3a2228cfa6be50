//! What routes take from a request, each as an extractor whose rejection is a problem: who asks, for what, and with which body.

mod access;
mod body;
mod context;
mod holds;
mod query;

use std::fmt;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use khala_core::{DocKey, TextError, Topic};
use percent_encoding::percent_decode_str;

pub(crate) use self::{
    access::{Admin, Authenticated, Readable},
    body::{
        COPIES, Empty, MEMORY_AGAIN, MEMORY_WAIT, Room, Whole, check_encoding, given, given_whole, invalid,
        is_of, no_memory, parse, parse_part, read, read_bytes, whole,
    },
    context::{Context, REQUEST_ID},
    holds::Holds,
    query::{Limit, NoParams, Params, cursor, flag, parameters, parsed, watermark, whole_number, wrong},
};
use crate::{openapi, problem::Problem, shared::Shared};

/// The parts of a path that the router could not split, as its `/` were decoded on the way.
#[derive(Clone, Debug)]
pub(crate) struct Decoded {
    pub(crate) topic: String,
    pub(crate) doc_key: Option<String>,
}

impl Decoded {
    pub(crate) fn topic(&self) -> Result<TopicPath, Problem> {
        decoded("topic", &self.topic, Topic::parse).map(TopicPath)
    }
}

/// The topic that the path names.
#[derive(utoipa::IntoParams)]
#[into_params(names("topic"), parameter_in = Path)]
pub(crate) struct TopicPath(#[param(value_type = openapi::Topic)] pub(crate) Topic);

/// The document key that the path names.
#[derive(utoipa::IntoParams)]
#[into_params(names("doc_key"), parameter_in = Path)]
pub(crate) struct DocKeyPath(#[param(value_type = openapi::DocKey)] pub(crate) DocKey);

impl FromRequestParts<Shared> for TopicPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        part(parts, "topic", Topic::parse).await.map(Self)
    }
}

impl FromRequestParts<Shared> for DocKeyPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        part(parts, "doc_key", DocKey::parse).await.map(Self)
    }
}

/// The part of the path that is called `name`.
async fn part<T>(
    parts: &mut Parts,
    name: &str,
    parse: impl Fn(&str) -> Result<T, TextError>,
) -> Result<T, Problem> {
    if let Some(Decoded { topic, doc_key }) = parts.extensions.get() {
        let part = if name == "topic" { topic } else { doc_key.as_ref().unwrap_or(topic) };
        return decoded(name, part, parse);
    }
    let found = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| not_utf8(name))?;
    let found = found.iter().find(|(found, _)| *found == name).map(|(_, part)| part);
    Ok(parse(found.unwrap_or_default())?)
}

/// A part that may be percent-encoded still.
fn decoded<T>(name: &str, part: &str, parse: impl Fn(&str) -> Result<T, TextError>) -> Result<T, Problem> {
    let part = percent_decode_str(part).decode_utf8().map_err(|_| not_utf8(name))?;
    Ok(parse(&part)?)
}

fn not_utf8(name: impl fmt::Display) -> Problem {
    Problem::invalid("invalid_path", format!("the {name} in the path is not UTF-8"))
}
