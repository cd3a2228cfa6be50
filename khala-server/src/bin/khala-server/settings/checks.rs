//! What the checks of settings share.

use serde::Serialize;
use toml::{Table, Value};

/// Refuses two settings that say the same thing.
pub(super) fn exclude(one: &str, is_set: bool, other: &str, is_set_too: bool) -> Result<(), String> {
    if is_set && is_set_too { Err(format!("{one} and {other} exclude each other")) } else { Ok(()) }
}

pub(super) fn is_zero(value: &Value) -> bool {
    value.as_integer() == Some(0) || value.as_float() == Some(0.0)
}

/// The first of the options that is not the default.
pub(super) fn first_set<T: Default + Serialize>(options: &T) -> Option<String> {
    let table = |options: &T| Table::try_from(options).expect("options are TOML");
    let (set, usual) = (table(options), table(&T::default()));
    set.into_iter().find(|(key, value)| usual.get(key) != Some(value)).map(|(key, _)| key)
}
