//! Where a request carries its token: the `Authorization` header, and for browsers, which cannot set it on a
//! WebSocket, a subprotocol or the query. Where there is none of these, an application may take it from elsewhere
//! ([`with_token_source`](crate::ServerBuilder::with_token_source)).

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, header};
use khala_auth::bearer_token;
use khala_core::{Token, auth::Denied};

/// The subprotocol that Phoenix clients offer, and that is answered.
pub(crate) const PHOENIX: &str = "phoenix";
/// Before the token, in the subprotocol that carries it.
const BEARER: &str = "base64url.bearer.phx.";

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// The token of a WebSocket request. The header wins over the subprotocol, and that over the query, where `names` are the
/// parameters that may hold it, the first before the others.
pub(crate) fn of_websocket(
    headers: &HeaderMap,
    query: Option<&str>,
    names: &[&str],
) -> Result<Token, Denied> {
    if headers.contains_key(header::AUTHORIZATION) {
        return bearer_token(headers);
    }
    if let Some(encoded) = subprotocols(headers).find_map(|protocol| protocol.strip_prefix(BEARER)) {
        // Despite the name, the JavaScript client writes the standard alphabet.
        let bytes = URL_SAFE.decode(encoded).or_else(|_| STANDARD.decode(encoded)).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        return text
            .map(Token::new)
            .ok_or(Denied::InvalidToken("the subprotocol that carries it is not base64 of text"));
    }
    let parameter = |wanted: &&str| {
        let mut parameters = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        parameters
            .find(|(name, token)| name == wanted && !token.is_empty())
            .map(|(_, token)| Token::new(token))
    };
    names.iter().find_map(parameter).ok_or(Denied::MissingToken)
}

/// The subprotocols that a client offers.
pub(crate) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn websocket(
        header: Option<&str>,
        protocol: Option<&str>,
        query: Option<&str>,
    ) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        let mut set = |name, value: Option<&str>| {
            value.map(|value| headers.insert(name, HeaderValue::from_str(value).unwrap()));
        };
        set(header::AUTHORIZATION, header);
        set(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        of_websocket(&headers, query, &["token"])
            .map(|token| token.reveal().to_owned())
            .map_err(|denied| denied.code().as_str())
    }

    #[test]
    fn three_places_in_their_order() {
        let protocol = Some("phoenix, base64url.bearer.phx.dHdv");
        assert_eq!(websocket(Some("bearer one"), protocol, Some("token=three")).as_deref(), Ok("one"));
        assert_eq!(websocket(None, protocol, Some("token=three")).as_deref(), Ok("two"));
        assert_eq!(websocket(None, Some("phoenix"), Some("vsn=2.0.0&token=three")).as_deref(), Ok("three"));
        assert_eq!(websocket(None, None, None), Err("missing_token"));
        assert_eq!(websocket(None, None, Some("token=")), Err("missing_token"));
        assert_eq!(websocket(Some("Bearer "), protocol, None), Err("missing_token"));
        assert_eq!(websocket(Some("Basic eDp5"), protocol, None), Err("invalid_authorization_scheme"));
    }

    #[test]
    fn a_parameter_of_another_name_counts_where_it_may() {
        let of = |query, names: &[&str]| {
            of_websocket(&HeaderMap::new(), Some(query), names).map(|token| token.reveal().to_owned())
        };
        let both = ["token", "apikey"];
        assert_eq!(of("apikey=key&vsn=1.0.0", &both).ok().as_deref(), Some("key"));
        assert_eq!(of("apikey=key&token=three", &both).ok().as_deref(), Some("three"));
        assert_eq!(of("apikey=key&token=", &both).ok().as_deref(), Some("key"));
        assert!(of("apikey=key", &["token"]).is_err());
    }

    #[test]
    fn of_two_headers_none_is_taken() {
        let mut headers = HeaderMap::new();
        for value in ["Bearer one", "Bearer two"] {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        let denied = of_websocket(&headers, Some("token=three"), &["token"]).unwrap_err();
        assert_eq!(denied.code().as_str(), "invalid_authorization_scheme");
        assert!(bearer_token(&headers).is_err());
    }

    #[test]
    fn both_alphabets_with_and_without_padding() {
        // "?>?>" is encoded with the two characters that the alphabets differ in.
        for encoded in ["Pz4/Pg", "Pz4_Pg", "Pz4/Pg==", "Pz4_Pg=="] {
            let protocol = format!("phoenix,base64url.bearer.phx.{encoded}");
            assert_eq!(websocket(None, Some(&protocol), None).as_deref(), Ok("?>?>"), "{encoded}");
        }
        for bad in ["base64url.bearer.phx.!", "base64url.bearer.phx._w"] {
            assert_eq!(websocket(None, Some(bad), None), Err("invalid_token"), "{bad}");
        }
    }
}
