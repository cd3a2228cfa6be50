//! The token of an `Authorization` header.

use http::{HeaderMap, header};
use khala_core::{Token, auth::Denied};

/// The token of the `Authorization: Bearer` header (RFC 6750). Two such headers are refused: whatever checks requests
/// before this application may have looked at the other one.
///
/// # Errors
/// [`Denied::MissingToken`] or [`Denied::InvalidAuthorizationScheme`].
pub fn bearer_token(headers: &HeaderMap) -> Result<Token, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Denied::MissingToken)?;
    if values.next().is_some() {
        return Err(Denied::InvalidAuthorizationScheme);
    }
    let text = value.to_str().map_err(|_| Denied::InvalidAuthorizationScheme)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::InvalidAuthorizationScheme);
    }
    match token.trim() {
        "" => Err(Denied::MissingToken),
        token => Ok(Token::new(token)),
    }
}
