//! The edges of the command: each of its inputs and outputs is somebody's pipe, file, link or mount.
#![cfg(unix)]

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Stdio,
};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    end,
    fake::Fake,
    khala, khala_at as khala_at_fake,
    real::{khala_at, publish, read, start},
};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// The reading end of a pipe that is closed already.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// What the folder holds.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_line_that_no_server_takes_is_named_and_its_neighbours_are_published() {
    let (address, directory) = (start().await, tempfile::tempdir().unwrap());
    let deep = "[".repeat(129) + &"]".repeat(129);
    let input = format!("1\n2\n{deep}\n4\n");
    let ended = publish(address, directory.path(), &[], input.clone()).await;
    assert_eq!(ended.code, Some(65), "{}", ended.stderr);
    assert!(ended.stderr.contains("line 3 ") && ended.stderr.contains("nested"), "{}", ended.stderr);
    assert_eq!(read(address, directory.path()).await, "1\n2\n");
    let ended = publish(address, directory.path(), &["--skip-invalid"], input).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("line 3 ") && ended.stderr.contains("skipped 1 bad line\n"));
    assert_eq!(read(address, directory.path()).await, "1\n2\n1\n2\n4\n");
}

#[tokio::test]
async fn an_update_is_one_line_whatever_its_payload_looks_like() {
    let (address, directory) = (start().await, tempfile::tempdir().unwrap());
    let client = khala_client(address).await;
    let payload = "{\r\n  \"a\" :\t[ 1,\n 2 ],\n  \"b\": \"\\n\"\n}";
    let topic = khala_core::Topic::parse("run:7/a").unwrap();
    let update = khala_core::NewUpdate::new(
        khala_core::Kind::parse("k").unwrap(),
        khala_core::Payload::parse(payload).unwrap(),
    )
    .doc_key(khala_core::DocKey::parse("d").unwrap());
    client.publish(&topic, khala_core::Batch::try_from(update).unwrap()).await.unwrap();
    for from in ["floor", "snapshot"] {
        let arguments = ["tail", "run:7/a", "--from", from, "--until-head"];
        let ended = end(khala_at(address, directory.path(), &arguments).spawn().unwrap()).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        // Line breaks are left out, and nothing else.
        assert!(ended.stdout.contains("{  \"a\" :\t[ 1, 2 ],  \"b\": \"\\n\"}"), "{}", ended.stdout);
        for line in ended.stdout.split_terminator('\n') {
            serde_json::from_str::<Value>(line).unwrap();
        }
        // What was printed can be published.
        let lines = ended.stdout.lines().count() as u64;
        let mut child = khala_at(address, directory.path(), &["publish", "run:8/a", "--ack"]);
        let stdout = File::create_new(directory.path().join(from)).unwrap();
        std::io::Write::write_all(&mut &stdout, ended.stdout.as_bytes()).unwrap();
        child.stdin(File::open(directory.path().join(from)).unwrap());
        let published = end(child.spawn().unwrap()).await;
        assert_eq!(published.code, Some(0), "{}", published.stderr);
        let last: Value = serde_json::from_str(published.stdout.lines().last().unwrap()).unwrap();
        assert_eq!(last["lines"][1], lines);
    }
}

async fn khala_client(address: SocketAddr) -> khala_client::Client {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("k"), KEY).unwrap();
    let token = end(khala(directory.path(), &["token", "--key-file", "k"]).spawn().unwrap()).await.stdout;
    khala_client::Client::builder(format!("http://{address}"))
        .token(khala_core::Token::new(token.trim()))
        .build()
        .unwrap()
}

/// All commands that print, where nobody reads them and where the disk is full.
#[tokio::test]
async fn an_output_that_is_closed_or_full_is_no_panic() {
    let fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::write(at.join("khala.dev.key"), KEY).unwrap();
    fs::write(at.join("keys.json"), r#"{"keys":[]}"#).unwrap();
    fs::write(at.join("admin"), "0123456789abcdef0123456789abcdef").unwrap();
    let good: &[&[&str]] = &[
        &["--help"],
        &["--version"],
        &["help", "publish"],
        &["tail", "--help"],
        &["token"],
        &["topics"],
        &["topics", "--json"],
    ];
    for arguments in good {
        // An empty list of topics is an empty output, and nothing fails to be written.
        let full = if arguments[0] == "topics" { Some(0) } else { Some(74) };
        let ended = end(khala_at_fake(&fake, at, arguments).stdout(closed_pipe()).spawn().unwrap()).await;
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{arguments:?} | true");
        let ended = end(khala_at_fake(&fake, at, arguments).stdout(full_disk()).spawn().unwrap()).await;
        assert_eq!(ended.code, full, "{arguments:?} > /dev/full: {}", ended.stderr);
        if full == Some(74) {
            assert!(ended.stderr.contains("standard output cannot be written"), "{}", ended.stderr);
        }
    }
    // What is said on standard error, too: of mistakes, of what was done, and of what fails.
    let told: &[(&[&str], i32)] = &[
        (&["nonsense"], 2),
        (&["token", "--key-file", "missing"], 74),
        (&["key", "add", "keys.json", "--kid", "a"], 0),
        (&["key", "remove", "keys.json", "--kid", "a", "--force"], 0),
    ];
    for stderr in [closed_pipe, full_disk] {
        for (arguments, code) in told {
            let child = khala(at, arguments).stderr(stderr()).spawn().unwrap();
            assert_eq!(end(child).await.code, Some(*code), "{arguments:?}");
        }
    }
}

#[tokio::test]
async fn a_reader_of_acknowledgements_that_goes_away_stops_no_publishing() {
    let (address, directory) = (start().await, tempfile::tempdir().unwrap());
    fs::write(directory.path().join("lines"), "1\n2\n3\n").unwrap();
    let run = |stdout| {
        let mut child = khala_at(address, directory.path(), &["publish", "run:7/a", "--ack"]);
        child.stdin(File::open(directory.path().join("lines")).unwrap()).stdout(stdout);
        child.spawn().unwrap()
    };
    let ended = end(run(closed_pipe())).await;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    assert_eq!(read(address, directory.path()).await, "1\n2\n3\n");
    let full = end(run(full_disk())).await;
    assert_eq!(full.code, Some(74), "{}", full.stderr);
}

#[tokio::test]
async fn a_byte_order_mark_and_line_ends_of_windows_are_no_part_of_a_text() {
    let (address, directory) = (start().await, tempfile::tempdir().unwrap());
    let at = directory.path();
    let ended = publish(address, at, &[], "\u{feff}{\"n\":1}\r\n\r\n{\"n\":2}\r\n".to_owned()).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(read(address, at).await, "{\"n\":1}\n{\"n\":2}\n");
    // Only at the very beginning.
    let ended = publish(address, at, &[], "3\n\u{feff}4\n".to_owned()).await;
    assert_eq!(ended.code, Some(65), "{}", ended.stderr);

    // Keys, tokens, key sets and cursors, as Windows tools write them.
    fs::write(at.join("secret"), format!("\u{feff}{KEY}\r\n")).unwrap();
    let token = end(khala(at, &["token", "--key-file", "secret"]).spawn().unwrap()).await;
    assert_eq!(token.code, Some(0), "{}", token.stderr);
    fs::write(at.join("token"), format!("\u{feff}{}\r\n", token.stdout.trim())).unwrap();
    let url = format!("http://{address}");
    let arguments = ["topics", "--url", &url, "--token-file", "token"];
    let topics = end(khala(at, &arguments).spawn().unwrap()).await;
    assert_eq!(topics.code, Some(0), "{}", topics.stderr);
    let bounds: Value = serde_json::from_str(topics.stdout.trim()).unwrap();
    let cursor = json!({"topic": "run:7/a", "epoch": bounds["epoch"], "watermark": 1});
    fs::write(at.join("cursor"), format!("\u{feff}{cursor}\r\n")).unwrap();
    let arguments = ["tail", "run:7/a", "--until-head", "--cursor-file", "cursor"];
    let tail = end(khala_at(address, at, &arguments).spawn().unwrap()).await;
    assert_eq!((tail.code, tail.stdout.lines().count()), (Some(0), 2), "{}", tail.stderr);
    let windows = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
    fs::write(at.join("ec.pem"), windows(crate::pem::EC_PRIVATE)).unwrap();
    fs::write(at.join("keys.json"), windows("{\n\"keys\": [\n]}\n")).unwrap();
    let key = end(khala(at, &["key", "add", "keys.json", "ec.pem", "--kid", "a"]).spawn().unwrap()).await;
    assert_eq!(key.code, Some(0), "{}", key.stderr);
    let token = end(khala(at, &["token", "--key-file", "ec.pem", "--kid", "a"]).spawn().unwrap()).await;
    assert_eq!(token.code, Some(0), "{}", token.stderr);
    fs::write(at.join("keys.json"), windows(&fs::read_to_string(at.join("keys.json")).unwrap())).unwrap();
    let list = end(khala(at, &["key", "list", "keys.json"]).spawn().unwrap()).await;
    assert_eq!((list.code, list.stdout.lines().count()), (Some(0), 1), "{}", list.stderr);
}

/// Follows the topic from its floor, or its cursor, up to its head.
async fn tail(address: SocketAddr, at: &Path, file: &str) -> crate::Ended {
    let arguments = ["tail", "run:7/a", "--from", "floor", "--until-head", "--cursor-file", file];
    end(khala_at(address, at, &arguments).spawn().unwrap()).await
}

#[tokio::test]
async fn a_cursor_file_that_is_a_link_is_written_where_it_leads_to() {
    let (address, directory) = (start().await, tempfile::tempdir().unwrap());
    let at = directory.path();
    publish(address, at, &[], "1\n".to_owned()).await;
    fs::create_dir(at.join("keep")).unwrap();
    symlink("there", at.join("keep/over")).unwrap();
    // It leads by another link to a file that is not there yet.
    symlink("keep/over", at.join("cursor")).unwrap();
    for round in 1..=2 {
        let ended = tail(address, at, "cursor").await;
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
        assert_eq!(ended.stdout.lines().count(), if round == 1 { 1 } else { 0 });
        assert_eq!(
            (names(at), names(&at.join("keep"))),
            (vec!["cursor".to_owned(), "keep".to_owned()], vec!["over".to_owned(), "there".to_owned()],)
        );
        assert!(fs::symlink_metadata(at.join("cursor")).unwrap().is_symlink());
        assert!(fs::read_to_string(at.join("keep/there")).unwrap().contains("\"watermark\":1,"));
    }
    // Who could read it before still can.
    fs::set_permissions(at.join("keep/there"), fs::Permissions::from_mode(0o640)).unwrap();
    publish(address, at, &[], "2\n".to_owned()).await;
    assert_eq!(tail(address, at, "cursor").await.code, Some(0));
    assert_eq!(fs::metadata(at.join("keep/there")).unwrap().permissions().mode() & 0o777, 0o640);
    // A link to itself leads nowhere.
    symlink("around", at.join("around")).unwrap();
    let ended = tail(address, at, "around").await;
    assert_eq!((ended.code, &*ended.stdout), (Some(74), ""), "{}", ended.stderr);

    // The same for keys.
    symlink("keep/keys.json", at.join("keys.json")).unwrap();
    let added = end(khala(at, &["key", "add", "keys.json", "--kid", "a"]).spawn().unwrap()).await;
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    assert!(fs::symlink_metadata(at.join("keys.json")).unwrap().is_symlink());
    assert_eq!(fs::metadata(at.join("keep/keys.json")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_cursor_file_that_cannot_be_kept_is_said_before_the_first_line() {
    let (address, directory) = (start().await, tempfile::tempdir().unwrap());
    let at = directory.path();
    publish(address, at, &[], "1\n".to_owned()).await;
    fs::create_dir(at.join("folder")).unwrap();
    for file in ["missing/cursor", "folder", "/dev/null"] {
        let ended = tail(address, at, file).await;
        assert_eq!((ended.code, &*ended.stdout), (Some(74), ""), "{file}: {}", ended.stderr);
        assert!(ended.stderr.contains(file), "{}", ended.stderr);
    }
    assert!(names(at) == ["folder"]);
    // One that was made to be mounted is empty, and that is said.
    fs::write(at.join("empty"), "").unwrap();
    let ended = tail(address, at, "empty").await;
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 1), "{}", ended.stderr);
    assert!(ended.stderr.contains("empty"), "{}", ended.stderr);
}

/// A file that is mounted by itself, as containers do, cannot be replaced: it is written in place.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_that_is_a_mount_is_written_in_place() {
    let (address, directory) = (start().await, tempfile::tempdir().unwrap());
    let at = directory.path();
    for file in ["cursor", "keys.json"] {
        fs::write(at.join(file), if file == "cursor" { "" } else { "{\"keys\":[]}" }).unwrap();
    }
    let mounted = |arguments: &[&str]| {
        let khala = khala_at(address, at, arguments);
        let khala = khala.as_std();
        let mut command = Command::new("unshare");
        // Somebody else than root needs a user namespace for that.
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        command.args(if root { &["--mount"][..] } else { &["--mount", "--map-root-user"] });
        command.args([
            "sh",
            "-c",
            "mount --bind cursor cursor && mount --bind keys.json keys.json && exec \"$0\" \"$@\"",
        ]);
        command.arg(khala.get_program()).args(khala.get_args()).current_dir(at);
        for (name, value) in khala.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().unwrap()
    };
    for update in 1..=2 {
        publish(address, at, &[], format!("{update}\n")).await;
        let inode = fs::metadata(at.join("cursor")).unwrap().ino();
        let tail = ["tail", "run:7/a", "--from", "floor", "--until-head", "--cursor-file", "cursor"];
        let ended = end(mounted(&tail)).await;
        assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 1), "{}", ended.stderr);
        assert_eq!(fs::metadata(at.join("cursor")).unwrap().ino(), inode);
        let kept = fs::read_to_string(at.join("cursor")).unwrap();
        assert!(kept.contains(&format!("\"watermark\":{update},")), "{kept}");
    }
    for (arguments, keys) in [
        (&["key", "add", "keys.json", "--kid", "a"][..], 1),
        (&["key", "remove", "keys.json", "--kid", "a", "--force"], 0),
    ] {
        let ended = end(mounted(arguments)).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let set: Value = serde_json::from_str(&fs::read_to_string(at.join("keys.json")).unwrap()).unwrap();
        assert_eq!(set["keys"].as_array().unwrap().len(), keys);
    }
    assert_eq!(names(at), ["cursor", "keys.json"]);
}

#[tokio::test]
async fn an_address_without_its_scheme_is_said() {
    let directory = tempfile::tempdir().unwrap();
    for url in ["127.0.0.1:4510", "localhost:4510", "khala.example", "[::1]:4510", "khala.example/sync"] {
        for arguments in [&["topics", "--url", url][..], &["revoke", "--list", "--url", url]] {
            let mut command = khala(directory.path(), arguments);
            let ended = end(command.env("KHALA_ADMIN_TOKEN", KEY).spawn().unwrap()).await;
            assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{url}: {}", ended.stderr);
            assert!(ended.stderr.contains(&format!("http://{url}")), "{url}: {}", ended.stderr);
        }
    }
}
