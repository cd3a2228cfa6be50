//! How a setting is named by its path, and found by it.

use toml::Value;

/// What stands in a path for each table of an array.
pub(super) const EACH: &str = "[]";

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
