//! What the checks of settings share.

use serde::Serialize;
use toml::{Table, Value};

/// What stands in a path for each table of an array.
pub(super) const EACH: &str = "[]";

/// Refuses two settings that say the same thing.
pub(super) fn exclude(one: &str, is_set: bool, other: &str, is_set_too: bool) -> Result<(), String> {
    if is_set && is_set_too { Err(format!("{one} and {other} exclude each other")) } else { Ok(()) }
}

/// All values of that key.
pub(super) fn values<'a>(table: &'a Value, key: &str) -> Vec<&'a Value> {
    let mut found = vec![table];
    for part in key.split('.') {
        let (name, each) = part.strip_suffix(EACH).map_or((part, false), |name| (name, true));
        found = found.into_iter().filter_map(|value| value.get(name)).collect();
        if each {
            found = found.into_iter().filter_map(Value::as_array).flatten().collect();
        }
    }
    found
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
