//! `khala context`: servers by name, where their tokens come from, and which of several settings wins.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    Ended, end, khala,
    real::{ADMIN, start, token},
};

async fn run(at: &Path, arguments: &[&str]) -> Ended {
    end(khala(at, arguments).spawn().unwrap()).await
}

fn lines(ended: &Ended) -> Vec<Value> {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_context_names_a_server_and_the_sources_of_its_tokens() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let (at, url) = (folder.path(), format!("http://{address}"));
    let none = run(at, &["context", "ls"]).await;
    assert!(lines(&none).is_empty() && none.stderr.contains("`khala context add`"), "{}", none.stderr);
    fs::write(at.join("token"), token() + "\n").unwrap();
    fs::write(at.join("admin"), ADMIN).unwrap();
    let command =
        format!("echo run >> '{0}'; cat '{1}'", at.join("runs").display(), at.join("token").display());
    for (name, source, value) in [
        ("a", "--token-file", "token"),
        ("b", "--token-command", &*command),
        ("c", "--token-env", "THE_TOKEN"),
    ] {
        let add = ["context", "add", name, "--url", &url, source, value, "--admin-token-file", "admin"];
        let added = run(at, &add).await;
        assert_eq!(added.code, Some(0), "{}", added.stderr);
        assert!(added.stderr.contains(&format!("`khala context use {name}`")), "{}", added.stderr);
        let slash = format!("{url}/");
        let same = add.map(|word| if word == url { &slash } else { word });
        assert_eq!(run(at, &same).await.code, Some(0), "the same again, and no slash is kept");
        let other = add.map(|word| if word == url { "http://127.0.0.1:1" } else { word });
        let again = run(at, &other).await;
        assert_eq!(again.code, Some(2), "{}", again.stderr);
        assert!(again.stderr.contains("--force") && again.stderr.contains(&url), "{}", again.stderr);
    }
    // Each source gives a token that the server takes, wherever the name stands.
    for (name, before) in [("a", true), ("b", false), ("c", true)] {
        let publish = ["publish", "run:7/a", "1"];
        let context = ["--context", name];
        let arguments = if before { [&context[..], &publish] } else { [&publish[..], &context] }.concat();
        let mut command = khala(at, &arguments);
        let ended = end(command.env("THE_TOKEN", token()).spawn().unwrap()).await;
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{name}");
    }
    assert_eq!(fs::read_to_string(at.join("runs")).unwrap(), "run\n", "the command of b was run once");
    assert_eq!(lines(&run(at, &["connections", "--context", "a"]).await)[0]["open"], 0);
    let missing = run(at, &["topics", "--context", "c"]).await;
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("THE_TOKEN"), "{}", missing.stderr);

    let used = run(at, &["context", "use", "a"]).await;
    assert_eq!(used.code, Some(0), "{}", used.stderr);
    assert_eq!(lines(&run(at, &["topics"]).await)[0]["head"], 3);
    let listed = lines(&run(at, &["context", "ls"]).await);
    assert_eq!(listed.iter().map(|line| line["current"] == true).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(
        listed[0]["token"]["file"],
        at.join("token").to_str().unwrap(),
        "a path that stays true elsewhere"
    );
    let shown = run(at, &["context", "show"]).await;
    assert_eq!(lines(&shown), listed[..1]);
    assert!(shown.stdout.starts_with("{\"name\":\"a\",\"current\":true,\"url\":"), "{}", shown.stdout);
    assert_eq!(lines(&run(at, &["context", "show", "b"]).await), listed[1..2]);
    // No secret is kept.
    let kept = fs::read_to_string(at.join("config/khala/contexts.toml")).unwrap();
    assert!(!kept.contains(&token()[..20]) && !kept.contains(ADMIN), "{kept}");
    let secret = run(at, &["context", "add", "d", "--url", &url, "--token", "secret"]).await;
    assert_eq!(secret.code, Some(2), "{}", secret.stderr);

    let removed = run(at, &["context", "rm", "a"]).await;
    assert_eq!(removed.code, Some(0), "{}", removed.stderr);
    assert!(removed.stderr.contains("which was the current one"), "{}", removed.stderr);
    let none = run(at, &["context", "show"]).await;
    assert_eq!(none.code, Some(2), "{}", none.stderr);
    let unknown = run(at, &["topics", "--context", "a"]).await;
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("there is no context a: there is b, c"), "{}", unknown.stderr);
}

#[tokio::test]
async fn options_win_over_variables_and_variables_over_contexts() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let (at, url) = (folder.path(), format!("http://{address}"));
    fs::write(at.join("good"), token()).unwrap();
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let elsewhere = format!("http://{closed}");
    for (name, url, file) in [("here", &*url, "good"), ("there", &*elsewhere, "good")] {
        let add = ["context", "add", name, "--url", url, "--token-file", file];
        assert_eq!(run(at, &add).await.code, Some(0));
    }
    assert_eq!(run(at, &["context", "use", "there"]).await.code, Some(0));
    let topics = |arguments: &'static [&'static str], variables: &[(&str, &str)]| {
        let mut command = khala(at, &[&["topics"], arguments].concat());
        command.envs(variables.iter().copied());
        end(command.spawn().unwrap())
    };
    // The code says which server was asked: 0 here, 69 there; 77 is a token that is refused, or missing.
    for (arguments, variables, code) in [
        (&[][..], &[][..], 69),
        (&["--context", "here"], &[], 0),
        (&[], &[("KHALA_CONTEXT", "here")], 0),
        (&["--context", "there"], &[("KHALA_CONTEXT", "here")], 69),
        // A token of a context goes to no other server than its own, unless the context is named.
        (&[], &[("KHALA_URL", &*url)], 77),
        (&["--context", "there"], &[("KHALA_URL", &*url)], 0),
        (&["--context", "here"], &[("KHALA_TOKEN", "nonsense")], 77),
        (&["--context", "here", "--token-file", "good"], &[("KHALA_TOKEN", "nonsense")], 0),
        (&["--context", "here", "--token", "nonsense"], &[], 77),
        (&["--context", "here"], &[("KHALA_URL", ""), ("KHALA_TOKEN", "")], 0),
    ] {
        let ended = topics(arguments, variables).await;
        assert_eq!(ended.code, Some(code), "{arguments:?} {variables:?}: {}", ended.stderr);
    }
    let both = run(at, &["--token", "a", "topics", "--token-file", "good"]).await;
    assert_eq!(both.code, Some(2), "{}", both.stderr);

    // A source that fails is told at once, whatever the command would try again.
    let add =
        ["context", "add", "broken", "--url", &url, "--token-command", "echo no vault here >&2; exit 3"];
    assert_eq!(run(at, &add).await.code, Some(0));
    let ended = run(at, &["tail", "run:7/a", "--context", "broken"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("no vault here") && ended.stderr.contains("exit status: 3"),
        "{}",
        ended.stderr
    );

    fs::write(at.join("config/khala/contexts.toml"), "currant = 1").unwrap();
    let ended = run(at, &["topics"]).await;
    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(2), 1), "{}", ended.stderr);
    assert!(ended.stderr.contains("contexts.toml") && ended.stderr.contains("currant"), "{}", ended.stderr);
}
