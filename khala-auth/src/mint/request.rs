//! What a caller asks of a mint. As JSON, it is the body of `POST /v1/token`.

use std::{collections::BTreeMap, fmt};

use khala_core::position::WholeNumber;
use serde::{Deserialize, Deserializer, de};

/// What a caller asks of a mint. An absent field takes what the policy gives.
///
/// As JSON it is an object in which each field may be left out, none is `null`, and no claim is there twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct MintRequest {
    /// The subject of the token.
    #[serde(default, deserialize_with = "given")]
    pub subject: Option<String>,
    /// The scopes of the token, at most 64. None: all that the policy gives.
    #[serde(default, deserialize_with = "given")]
    pub scopes: Option<Vec<String>>,
    /// The subject's organisation.
    #[serde(default, deserialize_with = "given")]
    pub organisation: Option<String>,
    /// The session, by which the token can be revoked.
    #[serde(default, deserialize_with = "given")]
    pub session_id: Option<String>,
    /// How long the token is good, in seconds. None: the default of the mint.
    #[serde(default, deserialize_with = "given_whole")]
    pub ttl_seconds: Option<u64>,
    /// Further claims, at most 16.
    #[serde(default, deserialize_with = "each_once")]
    pub claims: BTreeMap<String, String>,
}

fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn given_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(given::<WholeNumber, D>(deserializer)?.map(WholeNumber::as_u64))
}

fn each_once<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of texts")
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut claims = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, String>()? {
                if claims.insert(name, value).is_some() {
                    return Err(de::Error::custom("a claim is given twice"));
                }
            }
            Ok(claims)
        }
    }
    deserializer.deserialize_map(Visitor)
}
