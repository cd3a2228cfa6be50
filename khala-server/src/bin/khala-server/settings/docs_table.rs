//! The table of settings in docs/server.md, made from the options types: keys and defaults by serde, and what a key means by
//! the comment of the field.

use std::{collections::HashMap, fs, path::Path};

use khala_core::class::{TopicClass, TopicPattern};
use toml::Value;

use super::{options::Settings, paths::values, setting_names};

/// Where the fields are that are settings, from the workspace's root.
const SOURCES: [&str; 16] = [
    "khala-auth/src/options.rs",
    "khala-auth/src/sources/remote.rs",
    "khala-core/src/admission/options.rs",
    "khala-core/src/class/mod.rs",
    "khala-core/src/class/rules.rs",
    "khala-core/src/replay/admission.rs",
    "khala-core/src/retention/order.rs",
    "khala-core/src/session/options.rs",
    "khala-core/src/tail/options.rs",
    "khala-fanout-nats/src/options.rs",
    "khala-server/src/bin/khala-server/settings/auth.rs",
    "khala-server/src/bin/khala-server/settings/options.rs",
    "khala-server/src/compatibility.rs",
    "khala-server/src/options.rs",
    "khala-store-postgres/src/options.rs",
    "khala-store-sqlite/src/options.rs",
];
const PAGE: &str = "docs/server.md";
const HEAD: &str = "| key | default | meaning |\n| --- | --- | --- |\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace")
}

/// The comments of fields, by their struct and their name in a settings file.
fn comments() -> HashMap<(String, String), String> {
    let mut found = HashMap::new();
    for source in SOURCES {
        let Ok(text) = fs::read_to_string(root().join(source)) else { continue };
        let mut owner = None;
        let (mut comment, mut renamed) = (Vec::new(), None);
        for line in text.lines() {
            let declared = line.split_once("struct ").filter(|(before, _)| !before.starts_with([' ', '/']));
            if let Some((_, rest)) = declared {
                owner = rest.split(|c: char| !c.is_alphanumeric()).next().map(str::to_owned);
                comment.clear();
            } else if line == "}" {
                owner = None;
            } else if let Some(owner) = &owner {
                let line = line.trim();
                if let Some(text) = line.strip_prefix("///") {
                    comment.push(text.trim().to_owned());
                } else if line.starts_with("#[") {
                    let name = line.split_once("rename = \"").and_then(|(_, rest)| rest.split('"').next());
                    renamed = name.map(str::to_owned).or(renamed);
                } else if let Some((field, _)) = line.split_once(": ") {
                    let field = field.split(' ').next_back().unwrap_or_default().to_owned();
                    let text = comment.join(" ").trim().to_owned();
                    found.insert((owner.clone(), renamed.take().unwrap_or(field)), text);
                    comment.clear();
                }
            }
        }
    }
    found
}

/// A comment as it stands in the table: without the default, which has a column, and without links into the code.
fn meaning(comment: &str) -> String {
    let text = comment.split(" Default: ").next().unwrap_or_default();
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let (name, after) = link.split_once("`]").expect("a link has an end");
        let after =
            after.strip_prefix('(').and_then(|after| after.split_once(')')).map_or(after, |(_, after)| after);
        out.push_str(&format!("{before}`{name}`"));
        rest = after;
    }
    out.push_str(rest);
    out.replace("None: ", "`\"none\"`: ").replace('|', "\\|")
}

fn table() -> String {
    let comments = comments();
    let defaults = Value::Table(Settings::default().table());
    let every = TopicPattern::parse("**").unwrap();
    let class = Value::try_from(TopicClass::new("", every)).unwrap();
    let mut table = HEAD.to_owned();
    for key in setting_names::KEYS.iter() {
        let default = match key.path.strip_prefix("classes[].") {
            Some("name" | "pattern") => None,
            Some(inner) => values(&class, inner).first().copied(),
            None if key.path == "classes" => None,
            None => values(&defaults, &key.path).first().copied(),
        };
        let comment = comments.get(&(key.owner.to_owned(), key.field.to_owned()));
        let comment = comment.filter(|comment| !comment.is_empty());
        let comment = comment.unwrap_or_else(|| panic!("{} ({}) has no comment", key.path, key.owner));
        check_example(&key.path, default, comment);
        let default = default.map_or_else(String::new, |value| format!("`{value}` "));
        table.push_str(&format!("| `{}` | {default}| {} |\n", key.path, meaning(comment)));
    }
    table
}

/// A setting has an example of a value: its default, or where that is none or empty, the comment's; which is a value that it may have.
fn check_example(path: &str, default: Option<&Value>, comment: &str) {
    let Some((_, examples)) = comment.split_once("Example: ") else {
        let default = default.map(ToString::to_string).unwrap_or_default();
        let shows_nothing = ["", "\"none\"", "[]", "{}"].contains(&default.as_str());
        assert!(!shows_nothing, "the comment of {path} has no `Example: `");
        return;
    };
    // Where the setting belongs to one of several, the others' rules are kept.
    let (head, key) = match path.split_once("[].") {
        Some((table @ "classes", key)) => (format!("[[{table}]]\nname = \"a\"\npattern = \"**\"\n"), key),
        Some((table, key)) => (format!("[[{table}]]\nkid = \"a\"\nalgorithm = \"ES256\"\n"), key),
        None => (String::new(), path),
    };
    let head: String = head
        .lines()
        .filter(|line| !line.starts_with(&format!("{key} =")))
        .map(|line| format!("{line}\n"))
        .collect();
    let read = |example: &str| match toml::from_str::<Settings>(&format!("{head}{key} = {example}")) {
        // That another setting is needed as well is no fault of the example.
        Err(fault) if !fault.message().contains(" needs ") => Err(fault.to_string()),
        _ => Ok(()),
    };
    let read: Vec<_> = examples.split('`').skip(1).step_by(2).map(read).collect();
    assert!(read.iter().any(Result::is_ok), "the example of {path} cannot be read: {read:?}");
}

/// `WRITE_DOCS=1 cargo test -p khala-server settings` writes it.
#[test]
fn the_servers_page_has_the_table_of_settings() {
    let page = root().join(PAGE);
    let text = fs::read_to_string(&page).unwrap();
    let start = text.find(HEAD).expect("the page has the table");
    let end = start + text[start..].find("\n\n").expect("the table has an end") + 1;
    let table = table();
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&page, format!("{}{table}{}", &text[..start], &text[end..])).unwrap();
        return;
    }
    for (found, made) in text[start..end].lines().zip(table.lines()) {
        assert_eq!(
            found, made,
            "{PAGE} is not current: WRITE_DOCS=1 cargo test -p khala-server settings writes it"
        );
    }
    assert_eq!(&text[start..end], table);
}
