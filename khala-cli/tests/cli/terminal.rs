//! The command at a terminal: `script` gives it one, of any width.
#![cfg(target_os = "linux")]

use std::{net::SocketAddr, path::Path, process::Stdio};

use tokio::process::Command;

use crate::{
    end,
    real::{ADMIN, khala_at, start},
};

/// Runs `khala` with these arguments on a terminal of that width in columns. Gives its exit code and what the terminal shows.
async fn on_terminal(
    address: SocketAddr,
    at: &Path,
    columns: u32,
    words: &str,
    no_color: bool,
) -> (Option<i32>, String) {
    let khala = khala_at(address, at, &[]);
    let khala = khala.as_std();
    let mut command = Command::new("script");
    let line = format!("stty cols {columns} rows 20; '{}' {words}", env!("CARGO_BIN_EXE_khala"));
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(at);
    for (name, value) in khala.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("TERM", "xterm-256color").env("KHALA_ADMIN_TOKEN", ADMIN).env("TZ", "UTC");
    if no_color {
        command.env("NO_COLOR", "1");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = end(command.spawn().unwrap()).await;
    (ended.code, ended.stdout.replace("\r\n", "\n"))
}

/// The text without its colours.
fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[tokio::test]
async fn updates_are_readable_lines_with_colours() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let at = folder.path();
    let publish = "publish run:7 '{\"a\":[1]}' --kind paid --doc-key order/7";
    let (code, said) = on_terminal(address, at, 80, publish, false).await;
    assert_eq!((code, &*said), (Some(0), "khala: run:7: stored as update 1\n"));
    let tail = "tail run:7 --last 1 --until-head";
    let (code, shown) = on_terminal(address, at, 80, tail, false).await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("\u{1b}["), "{shown}");
    let text = plain(&shown);
    let mut lines = text.lines();
    let following = lines.next().unwrap();
    assert!(following.starts_with(&format!("khala: following run:7 at http://{address}, ")), "{following}");
    assert!(following.contains("beginning with the newest update (epoch "), "{following}");
    assert!(following.ends_with(", watermark 0, head 1)"), "{following}");
    let line = lines.next().unwrap();
    let (time, rest) = line.split_once("  ").unwrap();
    assert!(jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S%.f", time).is_ok(), "{line}");
    assert_eq!(rest, "1  paid  order/7  {\"a\":[1]}");
    assert_eq!(lines.next(), None);
    // Without colours it is the same text.
    for (words, no_color) in [(tail, true), ("--color never tail run:7 --last 1 --until-head", false)] {
        let (_, shown) = on_terminal(address, at, 80, words, no_color).await;
        assert_eq!(shown.lines().nth(1), Some(line), "{words}");
    }
    let (_, pretty) = on_terminal(address, at, 80, &format!("{tail} --pretty"), true).await;
    assert!(pretty.ends_with("  1  paid  order/7\n  {\n    \"a\": [\n      1\n    ]\n  }\n"), "{pretty}");
    let (_, json) = on_terminal(address, at, 80, &format!("{tail} --json"), false).await;
    assert!(json.lines().nth(1).unwrap().starts_with("{\"seq\":1,\"kind\":\"paid\""), "{json}");
    let (_, both) = on_terminal(address, at, 80, "tail run:7 other --from floor --until-head", true).await;
    assert!(both.lines().any(|line| line.starts_with("run:7  20")), "{both}");
    let (_, piped) = on_terminal(address, at, 80, &format!("{tail} | cat"), false).await;
    assert!(piped.lines().nth(1).unwrap().starts_with("{\"seq\":1,"), "{piped}");
}

#[tokio::test]
async fn lists_are_tables() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let at = folder.path();
    on_terminal(address, at, 80, "publish run:7 1 --doc-key d", true).await;
    for (words, shows) in [
        ("topics", &["TOPIC  FLOOR  HEAD  KEPT  EPOCH", "run:7      0     1     1  "][..]),
        ("documents run:7", &["  1  update  d  1\n", "khala: 1 document as of update 1\n"]),
        ("connections", &["open connections: 0; "]),
        ("stats", &["stale cursors ", "ANNOUNCEMENTS  SENT", "heads  "]),
        ("context ls", &["NAME  URL  TOKEN  ADMIN TOKEN"]),
        ("context add a --url http://127.0.0.1:1 --use", &["added"]),
        ("context show", &["NAME  URL", "*  a     http://127.0.0.1:1      -            -"]),
        (
            "revoke --sid login-7",
            &["revoked the tokens with the sid \"login-7\"; the revocation is kept for ever\n"],
        ),
        ("tail nothing --from floor --until-head", &["a topic without updates as yet (epoch"]),
        ("retention status", &["CLASS  PATTERN"]),
    ] {
        let (code, shown) = on_terminal(address, at, 80, words, true).await;
        assert_eq!(code, Some(0), "{words}: {shown}");
        for part in shows {
            assert!(shown.contains(part), "{words}: {shown}");
        }
    }
}

#[tokio::test]
async fn a_narrow_window_wraps_help_and_bar() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let at = folder.path();
    for words in ["--help", "tail --help", "publish -h", "context add --help"] {
        let (code, shown) = on_terminal(address, at, 50, words, true).await;
        assert_eq!(code, Some(0), "{shown}");
        let (text, examples) = shown.split_once("Examples:").unwrap();
        let fits = |line: &str| line.chars().count() <= 50 || !line.trim().contains(' ');
        assert!(text.lines().all(fits), "{words}: {text}");
        assert!(examples.contains("khala "), "{examples}");
    }
    let (_, painted) = on_terminal(address, at, 80, "--help", false).await;
    assert!(painted.contains("\u{1b}["), "{painted}");
    let (_, never) = on_terminal(address, at, 80, "--help --color never", false).await;
    assert!(!never.contains("\u{1b}["), "{never}");

    // The bar takes one line, which is gone at the end.
    let lines: String = (0..20_000).map(|number| format!("{{\"n\":{number}}}\n")).collect();
    std::fs::write(at.join("lines"), lines).unwrap();
    let (code, shown) = on_terminal(address, at, 50, "publish run:7 < lines", true).await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(plain(&shown).ends_with("khala: published 20000 updates\n"), "{shown}");
    assert_eq!(shown.lines().count(), 1, "nothing else stays: {shown:?}");
}

#[tokio::test]
async fn a_person_who_types_is_told_how_it_ends() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let (code, shown) = on_terminal(address, folder.path(), 200, "publish run:7", true).await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("Ctrl-D ends") && shown.contains("khala publish run:7 '{\"a\":1}'"), "{shown}");
}
