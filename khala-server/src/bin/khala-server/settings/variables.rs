//! Settings in environment variables.

use std::ffi::OsStr;

use toml::{Table, Value};

use super::{parse::parse, paths, setting_names};

/// What comes before the name of a setting in the environment.
const PREFIX: &str = "KHALA_";
/// Variables of that prefix that are not settings: where the file is, and those of the `khala` command.
const NOT_SETTINGS: [&str; 4] = ["KHALA_ADMIN_TOKEN", "KHALA_CONFIG", "KHALA_TOKEN", "KHALA_URL"];

/// The key and the value of a variable, if it is a setting's.
pub(super) fn read(name: &OsStr, value: &OsStr) -> Result<Option<(Vec<&'static str>, Value)>, String> {
    let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { return Ok(None) };
    if NOT_SETTINGS.contains(&name) || is_service_link(name, value) {
        return Ok(None);
    }
    let text = value.to_str().ok_or_else(|| format!("the variable {name} is not UTF-8"))?;
    let path = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
    let key = setting_names::KEYS.iter().find(|key| key.path == path);
    let Some(key) = key else {
        let near = setting_names::nearest(&path).filter(|key| !key.contains(paths::EACH));
        let hint = near.map_or_else(
            || "docs/server.md lists them".to_owned(),
            |key| format!("did you mean {}?", of_key(key)),
        );
        return Err(format!("the variable {name} is no setting; {hint}"));
    };
    let key: Vec<&'static str> = key.path.split('.').collect();
    let alone = |value: Value| {
        let mut table = Table::new();
        insert(&mut table, &key, value.clone())?;
        match parse(table) {
            // What does not go together with other keys is not this one's fault.
            Err(fault) if fault.path.starts_with(&path) => Err(fault.text),
            _ => Ok(value),
        }
    };
    // A setting that takes a text takes it as it is. What takes no text says so, and is given what TOML reads.
    let value = alone(Value::String(text.to_owned())).or_else(|fault| match text.parse::<Value>() {
        Ok(value) => alone(value),
        Err(_) => Err(fault),
    });
    value.map(|value| Some((key, value))).map_err(|fault| format!("the variable {name}: {fault}"))
}

/// The variable of a key.
fn of_key(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// Puts a value where the key says.
pub(super) fn insert(table: &mut Table, key: &[&str], value: Value) -> Result<(), String> {
    let Some((last, sections)) = key.split_last() else { return Ok(()) };
    let mut table = table;
    for section in sections {
        let section = table.entry(*section).or_insert_with(|| Value::Table(Table::new()));
        let not_a_table = || format!("the setting {} is wrong: it is a table", sections.join("."));
        table = section.as_table_mut().ok_or_else(not_a_table)?;
    }
    table.insert((*last).to_owned(), value);
    Ok(())
}

/// Whether an orchestrator made the variable for a service that is called khala-something, as Kubernetes does.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let is_address = value.to_str().is_some_and(|value| value.contains("://"));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || (name.ends_with("_PORT") && is_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let names = [
            "HOME",
            "KHALA_ADMIN_TOKEN",
            "KHALA_URL",
            "KHALA_TOKEN",
            "KHALA_CONFIG",
            "KHALA_SERVICE_HOST",
            "KHALA_PORT_4510_TCP_ADDR",
        ];
        for name in names {
            assert!(matches!(read(name.as_ref(), "x".as_ref()), Ok(None)), "{name}");
        }
        assert!(matches!(read("KHALA_PORT".as_ref(), "tcp://10.0.0.1:4510".as_ref()), Ok(None)));
        let fault = read("KHALA_LISTEN_PORT".as_ref(), "80".as_ref()).unwrap_err();
        assert!(fault.contains("KHALA_LISTEN_PORT is no setting"), "{fault}");
        for key in setting_names::KEYS.iter() {
            assert!(!is_service_link(&of_key(&key.path), OsStr::new("tcp://x")), "{}", key.path);
        }
    }
}
