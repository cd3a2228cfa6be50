//! Every key that there is, once, with the shape of its value: what a file, the environment and the documentation are
//! held against.

use toml::{Table, Value};

/// What a value looks like.
pub(super) enum Shape {
    /// Texts that may hold a secret.
    Addresses,
    /// A whole number, or `none`.
    Amount,
    /// True or false.
    Flag,
    /// Texts.
    List,
    /// `{per_second, burst}`, or `none`.
    Rate,
    /// A table.
    Section(Keys),
    /// An array of tables.
    Sections(Keys),
    /// A text.
    Text,
    /// A whole number.
    Whole,
}

pub(super) type Keys = &'static [(&'static str, Shape)];

use Shape::{Addresses, Amount, Flag, List, Rate, Section, Sections, Text, Whole};

pub(super) const ALL: Keys = &[
    ("listen", Text),
    ("database", Text),
    ("node", Text),
    ("drain_seconds", Whole),
    ("unready_seconds", Whole),
    ("postgres", Section(POSTGRES)),
    ("nats", Section(NATS)),
    ("auth", Section(AUTH)),
    ("mint", Section(MINT)),
    ("classes", Sections(CLASS)),
    ("compatibility", Section(COMPATIBILITY)),
    ("limits", Section(LIMITS)),
    ("storm", Section(STORM)),
    ("sweep", Section(SWEEP)),
    ("sync", Section(SYNC)),
    (
        "tail",
        Section(&[
            ("topic_bytes", Whole),
            ("history_bytes", Whole),
            ("total_bytes", Whole),
            ("idle_seconds", Whole),
        ]),
    ),
    ("log", Section(&[("format", Text), ("filter", Text)])),
];

const POSTGRES: Keys = &[
    ("schema", Text),
    ("connections", Whole),
    ("writers", Whole),
    ("pooler", Flag),
    ("migrate", Flag),
    ("listen", Text),
    ("connect_timeout_seconds", Whole),
    ("lock_timeout_seconds", Whole),
    ("statement_timeout_seconds", Whole),
    ("beat_seconds", Whole),
];

const NATS: Keys = &[
    ("servers", Addresses),
    ("prefix", Text),
    ("credentials_file", Text),
    ("user", Text),
    ("password", Text),
    ("password_file", Text),
    ("token", Text),
    ("token_file", Text),
    ("nkey_seed_file", Text),
    ("tls_ca_file", Text),
    ("tls_cert_file", Text),
    ("tls_key_file", Text),
    ("require_tls", Flag),
    ("listen", Flag),
];

const AUTH: Keys = &[
    ("hs256_key", Text),
    ("hs256_key_file", Text),
    ("keys", Sections(KEY)),
    ("keys_file", Text),
    ("jwks_url", Text),
    ("jwks_refresh_seconds", Whole),
    ("jwks_min_refresh_seconds", Whole),
    ("issuer", Text),
    ("audience", Text),
    ("leeway_seconds", Whole),
    ("max_age_seconds", Amount),
    ("require_jti", Flag),
    ("scopes_claim", Text),
    ("organisation_claim", Text),
    ("claims_version_claim", Text),
    ("claims_version", Text),
    ("bind_claims", List),
    ("origins", List),
    ("admin_token", Text),
    ("admin_token_file", Text),
    ("trusted_proxies", List),
];

const KEY: Keys =
    &[("kid", Text), ("algorithm", Text), ("secret", Text), ("secret_file", Text), ("public_key_file", Text)];

const MINT: Keys = &[
    ("secret", Text),
    ("secret_file", Text),
    ("scopes", List),
    ("claims", List),
    ("key_file", Text),
    ("algorithm", Text),
    ("kid", Text),
    ("min_ttl_seconds", Whole),
    ("default_ttl_seconds", Whole),
    ("max_ttl_seconds", Whole),
    ("credential", Section(CREDENTIAL)),
];

const CREDENTIAL: Keys = &[
    ("keys_file", Text),
    ("jwks_url", Text),
    ("issuer", Text),
    ("audience", Text),
    ("scopes", List),
    ("carried_scopes", List),
    ("scopes_claim", Text),
    ("organisation_claim", Text),
    ("claims", List),
];

const CLASS: Keys = &[
    ("name", Text),
    ("pattern", Text),
    ("read", List),
    ("publish", List),
    ("tier", Text),
    ("replay_budget", Amount),
    ("publish_per_second", Amount),
    ("payload_bytes", Amount),
    ("inline_bytes", Amount),
    ("hashes", Flag),
    ("retain_for_seconds", Amount),
    ("retain_updates", Amount),
    ("retain_bytes", Amount),
    ("retain_tombstones_for_seconds", Amount),
    ("stall_seconds", Whole),
];

const COMPATIBILITY: Keys = &[
    ("client_build_min", Text),
    ("client_build_max", Text),
    ("protocol_version_min", Whole),
    ("protocol_version_max", Whole),
    ("schema_version_min", Whole),
    ("schema_version_max", Whole),
];

const LIMITS: Keys = &[
    ("body_bytes", Whole),
    ("body_seconds", Whole),
    ("frame_bytes", Whole),
    ("header_seconds", Whole),
    ("keep_alive_seconds", Whole),
    ("send_buffer_bytes", Amount),
    ("connections", Amount),
    ("http_connections", Amount),
    ("http_connections_per_address", Amount),
    ("requests_per_subject", Amount),
    ("requests_per_address", Amount),
    ("outbox_bytes", Amount),
    ("memory_bytes", Amount),
    ("connections_per_subject", Amount),
    ("connections_per_address", Amount),
    ("connects_per_subject", Rate),
    ("connects_per_address", Rate),
    ("joins_per_connection", Rate),
    ("joins_per_subject", Rate),
    ("joins_per_address", Rate),
    ("frames_per_connection", Rate),
    ("frames_per_subject", Rate),
    ("frames_per_address", Rate),
    ("publishes_per_subject", Rate),
    ("new_topics_per_subject", Rate),
];

const STORM: Keys = &[
    ("replay_pages", Rate),
    ("replays_at_once", Whole),
    ("longest_wait_seconds", Whole),
    ("replay_pages_beside_appends", Rate),
];

const SWEEP: Keys = &[
    ("every_seconds", Amount),
    ("guard_cursors", Amount),
    ("seen_seconds", Whole),
    ("retire_after_seconds", Amount),
];

const SYNC: Keys = &[
    ("topics", Whole),
    ("heartbeat_timeout_seconds", Whole),
    ("poll_seconds", Whole),
    ("head_seconds", Whole),
    ("stall_seconds", Whole),
];

fn find(keys: Keys, name: &str) -> Option<&'static Shape> {
    keys.iter().find(|(known, _)| *known == name).map(|(_, shape)| shape)
}

/// Finds the first key of `table` that there is none of.
pub(super) fn check(table: &Table, keys: Keys, within: &str) -> Result<(), String> {
    for (key, value) in table {
        let path = format!("{within}{key}");
        let Some(shape) = find(keys, key) else {
            let known = keys.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
            return Err(format!("the unknown key {path}; known there: {known}"));
        };
        check_value(value, shape, &path)?;
    }
    Ok(())
}

fn check_value(value: &Value, shape: &'static Shape, path: &str) -> Result<(), String> {
    match (shape, value) {
        (Section(keys), Value::Table(table)) => check(table, keys, &format!("{path}.")),
        (Section(_), _) => Err(format!("a value for {path}, which is a section")),
        (Sections(keys), Value::Array(values)) => values.iter().enumerate().try_for_each(|(at, value)| {
            let path = format!("{path}[{at}]");
            match value {
                Value::Table(table) => check(table, keys, &format!("{path}.")),
                _ => Err(format!("a value for {path}, which is a table")),
            }
        }),
        (Sections(_), _) => Err(format!("a value for {path}, which is an array of tables ([[{path}]])")),
        (Rate, Value::Table(table)) => {
            check(table, &[("per_second", Whole), ("burst", Whole)], &format!("{path}."))
        }
        _ => Ok(()),
    }
}

/// The path that a variable of the environment names, and the shape of what is there. Two underscores go down.
pub(super) fn of_variable(name: &str) -> Option<(Vec<&'static str>, &'static Shape)> {
    let mut path = Vec::new();
    let mut keys = ALL;
    let mut parts = name.split("__").peekable();
    while let Some(part) = parts.next() {
        let (known, shape) = keys.iter().find(|(known, _)| *known == part)?;
        path.push(*known);
        match shape {
            Section(inner) if parts.peek().is_some() => keys = inner,
            Section(_) => return None,
            shape => return if parts.peek().is_none() { Some((path, shape)) } else { None },
        }
    }
    None
}

/// The value that a variable's text is.
pub(super) fn value(text: &str, shape: &'static Shape, path: &str) -> Result<Value, String> {
    let whole = || text.parse().map(Value::Integer);
    let toml = |what: &str| {
        let value =
            text.parse::<Value>().map_err(|_| format!("is not {what}, written as in TOML: {text:?}"))?;
        check_value(&value, shape, path).map_err(|fault| format!("has {fault}"))?;
        Ok(value)
    };
    match shape {
        Amount | Rate if text == "none" => Ok(Value::String(text.to_owned())),
        Amount => whole().map_err(|_| format!("is neither a whole number nor none: {text:?}")),
        Flag => text.parse().map(Value::Boolean).map_err(|_| format!("is not true or false: {text:?}")),
        List => toml("a list of texts"),
        Rate => toml("none or {per_second = 1, burst = 1}"),
        // It may hold a secret.
        Addresses => toml("a list of texts").map_err(|fault| without_value(&fault)),
        Section(_) | Sections(_) => toml("an array of tables").map_err(|fault| without_value(&fault)),
        Text => Ok(Value::String(text.to_owned())),
        Whole => whole().map_err(|_| format!("is not a whole number: {text:?}")),
    }
}

/// What is wrong, without the value that is.
fn without_value(fault: &str) -> String {
    fault.split(": ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The path of every value, with `[]` for each of an array's tables.
    pub(in super::super) fn paths() -> Vec<(String, &'static Shape)> {
        fn collect(keys: Keys, within: &str, paths: &mut Vec<(String, &'static Shape)>) {
            for (key, shape) in keys {
                let path = format!("{within}{key}");
                match shape {
                    Section(inner) => collect(inner, &format!("{path}."), paths),
                    Sections(inner) => {
                        paths.push((path.clone(), shape));
                        collect(inner, &format!("{path}[]."), paths);
                    }
                    _ => paths.push((path, shape)),
                }
            }
        }
        let mut paths = Vec::new();
        collect(ALL, "", &mut paths);
        paths
    }

    /// The page lists every setting, and none that there is not.
    #[test]
    fn the_servers_page_lists_every_setting() {
        let page = include_str!("../../../../../docs/server.md");
        let section = page.split("\n## ").find(|section| section.starts_with("Settings\n")).unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let mut listed: Vec<String> = rows
            .flat_map(|row| {
                format!("`{}", row.split(" | ").next().unwrap())
                    .split('`')
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
            .collect();
        let mut known: Vec<String> = paths().into_iter().map(|(path, _)| path).collect();
        listed.sort();
        known.sort();
        assert_eq!(listed, known);
    }
}
