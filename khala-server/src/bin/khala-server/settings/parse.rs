//! From TOML to settings, with faults that name the key, and the nearest one where it is unknown.

use std::path::Path;

use khala_core::text::without_byte_order_mark;
use toml::{Table, Value};

use super::{options::Settings, setting_names};

pub(super) fn read(file: &Path, name: &str) -> Result<Table, String> {
    let text = std::fs::read(file).map_err(|fault| format!("{name} cannot be read: {fault}"))?;
    let text = str::from_utf8(without_byte_order_mark(&text)).map_err(|_| format!("{name} is not UTF-8"))?;
    text.parse().map_err(|fault: toml::de::Error| {
        let line = fault.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        format!("{name} is not TOML, line {line}: {}", one_line(fault.message()))
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is wrong with settings.
pub(super) struct Fault {
    /// The key, or a section whose keys do not go together.
    pub(super) path: String,
    pub(super) text: String,
}

/// Reads settings.
pub(super) fn parse(table: Table) -> Result<Settings, Fault> {
    // serde would take a section's fields from an array, too.
    let is_section =
        |key: &str| setting_names::KEYS.iter().any(|known| known.path.starts_with(&format!("{key}.")));
    if let Some((key, _)) = table.iter().find(|(key, value)| value.is_array() && is_section(key)) {
        return Err(Fault { path: key.clone(), text: format!("the setting {key} is wrong: it is a table") });
    }
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|fault| {
        let path = fault.path().to_string();
        let message = one_line(fault.into_inner().message());
        let text = match message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
            Some(field) => unknown(&path, field),
            None => format!("the setting {path} is wrong: {}", in_toml(&message)),
        };
        Fault { path, text }
    })
}

/// Says what was meant instead of an unknown key. `path` may end with it.
fn unknown(path: &str, field: &str) -> String {
    let within = path.strip_suffix(field).unwrap_or(path).trim_end_matches('.');
    let path = if within.is_empty() { field.to_owned() } else { format!("{within}.{field}") };
    let each = |path: &str| -> String {
        path.split('[')
            .map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()))
            .collect::<Vec<_>>()
            .join("[")
    };
    match setting_names::nearest(&each(&path)) {
        Some(key) => format!("there is no key {path}; did you mean {key}?"),
        None => {
            let within = if within.is_empty() { String::new() } else { format!("{}.", each(within)) };
            let inner = setting_names::KEYS.iter().filter_map(|key| key.path.strip_prefix(&within));
            let mut known: Vec<_> = inner.filter_map(|rest| rest.split(['.', '[']).next()).collect();
            known.dedup();
            format!("there is no key {path}; known there: {}", known.join(", "))
        }
    }
}

/// What a value must be, in the words of TOML. A text in the place of a list or table is not repeated: it may be a secret.
fn in_toml(message: &str) -> String {
    match message.split_once(", expected ") {
        Some((_, expected)) if expected.starts_with("a sequence") => {
            "it must be a list, as [\"a\", \"b\"]".to_owned()
        }
        Some((_, expected)) if expected.starts_with("a map") || expected.starts_with("struct") => {
            "it must be a table, as {key = \"value\"}".to_owned()
        }
        _ => message.to_owned(),
    }
}
