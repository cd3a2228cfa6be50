//! The keys that there are, found by asking the options types what fields they have.
//!
//! # Invariants
//! No key is written down here: a field that a type gains is a key, and one that it loses is none.

use std::sync::LazyLock;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer as _, MapAccess, SeqAccess, Visitor, value::Error},
    forward_to_deserialize_any,
};

use super::{options::Settings, paths::EACH};

/// A key that can be set.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "only the test of the documentation asks where a key comes from")
)]
pub(super) struct Key {
    /// As in `limits.frame_bytes` and `auth.keys[].kid`.
    pub(super) path: String,
    /// The struct that has the field.
    pub(super) owner: &'static str,
    /// The field's name in a settings file.
    pub(super) field: &'static str,
}

/// Every key, in the order of the fields.
pub(super) static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut keys = Vec::new();
    collect(&[], &mut keys);
    keys
});

fn collect(path: &[&'static str], keys: &mut Vec<Key>) {
    let Found::Struct(owner, fields) = at(path) else { return };
    for field in fields {
        let inner = [path, &[field]].concat();
        let key = || Key { path: written(&inner), owner, field };
        match at(&inner) {
            Found::Struct(..) => collect(&inner, keys),
            Found::List => {
                keys.push(key());
                collect(&[&inner[..], &[EACH]].concat(), keys);
            }
            Found::Value => keys.push(key()),
        }
    }
}

fn written(path: &[&str]) -> String {
    path.join(".").replace(".[]", EACH)
}

/// The key of that path that looks most like `path`, if any does.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    let distance = |key: &str| match last(key) == last(path) {
        // The same key, in another section.
        true => 1,
        false => strsim::osa_distance(key, path),
    };
    let near = KEYS.iter().map(|key| (distance(&key.path), &*key.path)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, _)| *distance <= 1 + path.len() / 6).map(|(_, key)| key)
}

/// What is at a path.
enum Found {
    List,
    Struct(&'static str, &'static [&'static str]),
    Value,
}

fn at(path: &[&'static str]) -> Found {
    let mut found = Found::Value;
    // It always fails: at the end of the path there is no value, but a question.
    let _ = Settings::deserialize(Probe { path, found: &mut found });
    found
}

/// A value that has only what is on the way to the end of `path`, where it notes what is asked for.
struct Probe<'a> {
    path: &'a [&'static str],
    found: &'a mut Found,
}

impl<'a> Probe<'a> {
    fn next(self) -> Option<(&'static str, Self)> {
        let (first, rest) = self.path.split_first()?;
        Some((first, Self { path: rest, found: self.found }))
    }
}

fn seen<T>() -> Result<T, Error> {
    Err(de::Error::custom("seen"))
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        *self.found = Found::Value;
        seen()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.path {
            [] => {
                *self.found = Found::List;
                seen()
            }
            _ => visitor.visit_seq(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.path {
            [] => {
                *self.found = Found::Struct(name, fields);
                seen()
            }
            _ => visitor.visit_map(Entry(Some(self))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct map enum identifier ignored_any
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let path = self.path.get(1..).unwrap_or_default();
        seed.deserialize(Probe { path, found: self.found }).map(Some)
    }
}

/// A table with one key.
struct Entry<'a>(Option<Probe<'a>>);

impl<'de> MapAccess<'de> for Entry<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, rest)) = self.0.take().and_then(Probe::next) else { return Ok(None) };
        self.0 = Some(rest);
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.0.take() {
            Some(rest) => seed.deserialize(rest),
            None => seen(),
        }
    }
}
