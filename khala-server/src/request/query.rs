//! Query parameters, as a struct of each route. An unknown or repeated one is refused: a misspelt `after` must not start a
//! reader at the wrong end without a word.

use std::{borrow::Cow, fmt, num::NonZeroUsize, str::FromStr, vec};

use axum::extract::FromRequestParts;
use http::request::Parts;
use khala_core::{
    Cursor, Epoch, Watermark,
    position::{MAX_POSITION, WholeNumber},
};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer as _, MapAccess, Visitor, value::CowStrDeserializer},
    forward_to_deserialize_any,
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

use crate::{problem::Problem, shared::Shared};

/// How many entries a page holds at most.
const MAX_LIMIT: usize = 1_000;

/// The parameters of a request.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: de::DeserializeOwned> FromRequestParts<Shared> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        parameters(parts.uri.query()).map(Self)
    }
}

/// There are none.
#[derive(Deserialize)]
pub(crate) struct NoParams {}

/// The parameters of `query`.
pub(crate) fn parameters<T: de::DeserializeOwned>(query: Option<&str>) -> Result<T, Problem> {
    let pairs: Vec<_> = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect();
    T::deserialize(Pairs { pairs: pairs.into_iter(), next: None }).map_err(|Fault { field, detail }| {
        let problem = Problem::invalid("invalid_query", detail);
        if field.is_empty() { problem } else { problem.with("field", field) }
    })
}

/// A parameter that is wrong.
pub(crate) fn wrong(name: &str, what: impl fmt::Display) -> Problem {
    Problem::invalid("invalid_query", format!("{name} {what}")).with("field", name)
}

#[derive(Debug)]
struct Fault {
    field: String,
    detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(detail: T) -> Self {
        Self { field: String::new(), detail: detail.to_string() }
    }
}

type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The parameters, for a struct that names those that there are.
struct Pairs<'a> {
    pairs: vec::IntoIter<Pair<'a>>,
    next: Option<Pair<'a>>,
}

impl<'de> Deserializer<'de> for Pairs<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let pairs = self.pairs.as_slice();
        for (n, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&&**name) {
                let detail = match known {
                    [] => "there are no query parameters here".to_owned(),
                    known => format!("the query parameters here are {}", known.join(", ")),
                };
                return Err(Fault { field: clip(name).to_owned(), detail });
            }
            if pairs[..n].iter().any(|(other, _)| other == name) {
                return Err(Fault { field: name.to_string(), detail: format!("{name} is given twice") });
            }
        }
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Pairs<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.next = self.pairs.next();
        let name = self.next.as_ref().map(|(name, _)| seed.deserialize(text(name.clone())));
        name.transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (name, value) = self.next.take().expect("a value follows its name");
        seed.deserialize(text(value)).map_err(|Fault { detail, .. }| Fault {
            detail: format!("{name} {detail}"),
            field: name.into_owned(),
        })
    }
}

fn text(text: Cow<'_, str>) -> CowStrDeserializer<'_, Fault> {
    text.into_deserializer()
}

/// A parameter as a `T`, whose error says what is wrong with the value.
pub(crate) fn parsed<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<T>, D::Error> {
    let text = Cow::<'de, str>::deserialize(value)?;
    text.parse().map(Some).map_err(|wrong| de::Error::custom(format_args!("is wrong: {wrong}")))
}

fn number<'de, D: Deserializer<'de>>(value: D, most: u64) -> Result<u64, D::Error> {
    let text = Cow::<'de, str>::deserialize(value)?;
    let number = text.parse().ok().map(WholeNumber::as_u64).filter(|number| *number <= most);
    number.ok_or_else(|| de::Error::custom(format_args!("is not a whole number up to {most}")))
}

/// A parameter as a whole number.
pub(crate) fn whole_number<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    number(value, MAX_POSITION).map(Some)
}

/// A parameter as a watermark.
pub(crate) fn watermark<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Watermark>, D::Error> {
    number(value, MAX_POSITION).map(Watermark::new)
}

/// How many entries are wanted at most: a number from 1 to 1,000, or `USUAL` if nobody says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit<const USUAL: usize = 200>(pub(crate) NonZeroUsize);

impl<const USUAL: usize> Default for Limit<USUAL> {
    fn default() -> Self {
        Self(const { NonZeroUsize::new(USUAL).expect("the usual limit is not zero") })
    }
}

impl<'de, const USUAL: usize> Deserialize<'de> for Limit<USUAL> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let number = usize::try_from(number(value, MAX_LIMIT as u64)?).ok().and_then(NonZeroUsize::new);
        number.map(Self).ok_or_else(|| de::Error::custom(format_args!("is a number from 1 to {MAX_LIMIT}")))
    }
}

impl<const USUAL: usize> PartialSchema for Limit<USUAL> {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1_u32));
        number.maximum(Some(MAX_LIMIT)).default(Some(USUAL.into())).into()
    }
}

impl<const USUAL: usize> ToSchema for Limit<USUAL> {}

/// Whether something is wanted.
pub(crate) fn flag<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    match &*Cow::<'de, str>::deserialize(value)? {
        "false" => Ok(false),
        "true" => Ok(true),
        _ => Err(de::Error::custom("is neither true nor false")),
    }
}

/// The cursor of `watermark` and `epoch`: both or neither. `name` is what the parameter of the first is called.
pub(crate) fn cursor(
    name: &str,
    watermark: Option<Watermark>,
    epoch: Option<Epoch>,
) -> Result<Option<Cursor>, Problem> {
    match (watermark, epoch) {
        (Some(watermark), Some(epoch)) => Ok(Some(Cursor::new(epoch, watermark))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(wrong(name, "needs the epoch that it belongs to")),
        (None, Some(_)) => Err(wrong("epoch", format_args!("means nothing without {name}"))),
    }
}

/// The start of a client's text, short enough to be sent back.
fn clip(text: &str) -> &str {
    let end = text.char_indices().nth(80).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Page {
        #[serde(deserialize_with = "watermark")]
        after: Option<Watermark>,
        #[serde(deserialize_with = "parsed")]
        epoch: Option<Epoch>,
        limit: Limit,
        #[serde(deserialize_with = "flag")]
        plan: bool,
    }

    fn page(query: &str) -> Result<Page, &'static str> {
        parameters(Some(query)).map_err(|problem| problem.code())
    }

    #[test]
    fn parameters_are_known_and_given_once() {
        assert!(page("after=1&epoch=0000000000000001").is_ok());
        assert!(page("aftr=1").is_err());
        assert!(page("after=1&after=2").is_err());
        assert!(parameters::<NoParams>(Some("x=1")).is_err());
        assert!(parameters::<NoParams>(None).is_ok());
    }

    #[test]
    fn a_fault_names_its_parameter() {
        for (query, field, detail) in [
            ("aftr=1", "aftr", "the query parameters here are after, epoch, limit, plan"),
            ("after=1&after=2", "after", "after is given twice"),
            ("after=x", "after", "after is not a whole number up to 9007199254740991"),
            ("limit=0", "limit", "limit is a number from 1 to 1000"),
            ("plan=1", "plan", "plan is neither true nor false"),
        ] {
            let problem = parameters::<Page>(Some(query)).unwrap_err().to_value();
            assert_eq!((&problem["field"], &problem["detail"]), (&field.into(), &detail.into()));
        }
    }

    #[test]
    fn a_cursor_is_both_or_neither() {
        let found = |text| {
            let page = page(text)?;
            cursor("after", page.after, page.epoch).map_err(|problem| problem.code())
        };
        assert_eq!(found(""), Ok(None));
        assert!(found("after=7&epoch=00000000000000ff").unwrap().is_some());
        for bad in ["after=7", "epoch=00000000000000ff", "after=&epoch=00000000000000ff", "after=+7&epoch=ff"]
        {
            assert!(found(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_flag_is_true_or_false() {
        let told = ["", "plan=false", "plan=true"].map(|text| page(text).unwrap().plan);
        assert_eq!(told, [false, false, true]);
        for bad in ["plan=", "plan=1", "plan=True"] {
            assert_eq!(page(bad).unwrap_err(), "invalid_query", "{bad}");
        }
    }

    #[test]
    fn a_limit_is_within_bounds() {
        let limit = |text| page(text).map(|page| page.limit.0.get());
        assert_eq!(limit(""), Ok(200));
        assert_eq!(limit("limit=1000"), Ok(1000));
        assert_eq!(limit("limit=5.0"), Ok(5));
        for bad in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=99999999999999999999"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
