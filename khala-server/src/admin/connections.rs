//! `/internal/v1/khala/connections`: who is connected to this node.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::{Server, problem::Problem, query::Query, service::json};

/// `GET /internal/v1/khala/connections`
pub(crate) fn connections(server: &Server, query: Option<&str>) -> Result<Response<Full<Bytes>>, Problem> {
    Query::parse(query, &[])?;
    json(StatusCode::OK, &json!({"open": server.0.khala.connections()}))
}
