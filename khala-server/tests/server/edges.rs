//! What clients and proxies write in another form than Khala's own: numbers, marks before a text, decoded paths.

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use serde_json::json;

use crate::support::{join, running};

/// JSON has one kind of number: clients whose JSON has no whole ones write `1` as `1.0`.
#[tokio::test]
async fn a_whole_number_is_taken_however_it_is_written() {
    let server = running().await;
    for payload in ["1", "2", "3"] {
        server.publish("t", payload).await;
    }
    let epoch = server.get("/v1/topics/t").await.json()["epoch"].clone();
    let epoch = epoch.as_str().unwrap();
    for after in ["1.0", "1e0", "10e-1"] {
        let mut socket = server.connect().await;
        let payload: serde_json::Value =
            serde_json::from_str(&format!(r#"{{"after":{after},"epoch":"{epoch}"}}"#)).unwrap();
        let answer = join(&mut socket, "t", payload).await;
        assert_eq!(
            (&answer[4]["status"], &answer[4]["response"]["after"]),
            (&json!("ok"), &json!(1)),
            "{answer}"
        );
        let history =
            server.get(&format!("/v1/topics/t/updates?after={after}&epoch={epoch}&limit=1.0")).await;
        assert_eq!(history.json()["updates"][0]["seq"], 2, "{history:?}");
        assert_eq!(history.json()["updates"].as_array().unwrap().len(), 1);
    }
    for after in [json!(1.5), json!(-1.0), json!(9_007_199_254_740_992_u64), json!(1e300), json!("1")] {
        let mut socket = server.connect().await;
        let answer = join(&mut socket, "t", json!({"after": after, "epoch": epoch})).await;
        assert_eq!(answer[4]["response"]["code"], "invalid_join", "{answer}");
        let message = answer[4]["response"]["message"].as_str().unwrap();
        assert!(message.contains("a whole number from 0 to 2^53 - 1"), "{message}");
        let text = after.to_string().replace('"', "%22");
        let history = server.get(&format!("/v1/topics/t/updates?after={text}&epoch={epoch}")).await;
        assert_eq!(history.problem(400, "invalid_query")["field"], "after");
    }
    let body = r#"{"updates":[{"kind":"k","payload":1,"doc_key":"d","doc_version":7.0}],"expect":3.0}"#;
    assert_eq!(server.post("/v1/topics/t/updates", body).await.status, 201);
    let line = r#"{"kind":"k","payload":1,"doc_key":"d","doc_version":8e0}"#;
    let ndjson = [("content-type", "application/x-ndjson")];
    let stream = server.request(Method::POST, "/v1/topics/t/updates").header(ndjson[0].0, ndjson[0].1);
    let answer = server.send(stream.body(Full::from(line)).unwrap()).await;
    assert_eq!(answer.json()["first"], 5, "{answer:?}");
    for version in ["8.5", "-1", "9007199254740992", "1e300", "\"9\""] {
        let body = format!(r#"{{"kind":"k","payload":1,"doc_key":"d","doc_version":{version}}}"#);
        let problem = server.post("/v1/topics/t/updates", &body).await.problem(400, "invalid");
        assert_eq!(problem["field"], "doc_version", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("whole number from 0 to 2^53 - 1"), "{problem}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_a_body_is_no_part_of_it() {
    let server = running().await;
    let body = "\u{feff}{\"kind\":\"k\",\r\n\"payload\":1}\r\n";
    assert_eq!(server.post("/v1/topics/t/updates", body).await.status, 201);
    let lines = "\u{feff}{\"kind\":\"k\",\"payload\":2}\r\n\r\n{\"kind\":\"k\",\"payload\":3}\r\n";
    for (path, lines) in [
        ("/v1/topics/t/updates", lines.to_owned()),
        ("/v1/updates", lines.replace("\"kind\"", "\"topic\":\"t\",\"kind\"")),
    ] {
        let request = server.request(Method::POST, path).header("content-type", "application/x-ndjson");
        let answer = server.send(request.body(Full::from(lines)).unwrap()).await;
        assert_eq!(answer.text.lines().count(), 2, "{answer:?}");
        assert!(!answer.text.contains("error"), "{answer:?}");
    }
    assert_eq!(server.get("/v1/topics/t").await.json()["head"], 5);
    // Elsewhere it is none.
    let body = "{\"kind\":\"k\",\u{feff}\"payload\":1}";
    server.post("/v1/topics/t/updates", body).await.problem(400, "invalid_json");
}

/// Many proxies decode the path of what they pass on, so that a topic's `%2F` is a `/` when it is here.
#[tokio::test]
async fn a_topic_with_slashes_is_found_in_a_decoded_path() {
    let server = running().await;
    let one = r#"{"kind":"k","payload":1,"doc_key":"x/y"}"#;
    for path in ["/v1/topics/a/b/updates", "/v1/topics/a%2Fb/updates"] {
        let answer = server.post(path, one).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["topic"]), (201, &json!("a/b")), "{answer:?}");
    }
    let lines =
        server.request(Method::POST, "/v1/topics/a/b/updates").header("content-type", "application/x-ndjson");
    let answer = server.send(lines.body(Full::from(one)).unwrap()).await;
    assert_eq!(answer.json()["first"], 3, "{answer:?}");
    for bounds in ["/v1/topics/a/b", "/v1/topics/a%2Fb"] {
        assert_eq!(server.get(bounds).await.json()["head"], 3);
    }
    let history = server.get("/v1/topics/a/b/updates").await;
    assert_eq!(history.json()["updates"].as_array().map(Vec::len), Some(3), "{history:?}");
    let snapshot = server.get("/v1/topics/a/b/snapshot").await;
    assert_eq!(snapshot.json()["documents"][0]["doc_key"], "x/y", "{snapshot:?}");
    for document in
        ["/v1/topics/a/b/documents/x/y", "/v1/topics/a%2Fb/documents/x%2Fy", "/v1/topics/a/b/documents/x%2Fy"]
    {
        assert_eq!(server.get(document).await.json()["seq"], 3, "{document}");
    }
    // What is escaped is what it says, also where a part of it is a word of the routes.
    let server = running().await;
    for (path, topic) in [
        ("/v1/topics/a%2Fupdates/updates", "a/updates"),
        ("/v1/topics/a%2Fdocuments%2Fb/updates", "a/documents/b"),
        ("/v1/topics/a/updates/updates", "a/updates"),
    ] {
        assert_eq!(server.post(path, one).await.json()["topic"], topic, "{path}");
    }
    // An empty part is a mistake, or a slash that a proxy would take away.
    for path in ["/v1/topics/a//b/updates", "/v1/topics/a/b/updates/", "/v1/topics/a/b/"] {
        server.post(path, one).await.problem(404, "unknown_route");
    }
    let request =
        server.request(Method::PUT, "/v1/topics/a/b/updates").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(server.send(request).await.header("allow"), "GET, HEAD, POST");
}

#[cfg(feature = "binary")]
mod command {
    use std::{fs, process::Stdio};

    use crate::{
        binary::{Started, command, ended, refused},
        support::SECRET,
    };

    /// What is no file name is refused with what to write instead, and never becomes one.
    #[tokio::test]
    async fn what_is_no_database_is_not_taken_for_a_file() {
        let folder = tempfile::tempdir().unwrap();
        for (database, named) in [
            (
                "host=db.example user=khala dbname=khala password=s3cret",
                "postgres://user:password@host:port/database",
            ),
            ("dbname = khala", "postgres://user:password@host:port/database"),
            ("service=khala", "postgres://user:password@host:port/database"),
            ("sqlite:x.db", "the path of the file alone"),
            ("sqlite://x.db?key=s3cret", "the path of the file alone"),
            ("sqlite:///x.db", "the path of the file alone"),
            ("file:x.db?mode=rwc", "the path of the file alone"),
            ("file:///tmp/x.db", "the path of the file alone"),
            ("x.db?mode=ro", "no parameters"),
            (":memory:", "keeps nothing"),
            ("mysql://khala:s3cret@db/khala", "postgres://"),
            ("jdbc:postgresql://db/khala", "postgres://"),
            ("postgres:khala", "postgres://"),
            ("localhost:5432/khala", "postgres://"),
            ("", "postgres://"),
        ] {
            for subcommand in [&[][..], &["migrate", "--check"]] {
                let mut command = command(folder.path());
                command.env("KHALA_LISTEN", "127.0.0.1:0").env("KHALA_DATABASE", database).args(subcommand);
                let end = ended(command).await;
                assert!(!end.2.contains("s3cret"), "{}", end.2);
                refused(end, &["database", named]);
            }
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a file was made");
        // A file may have any name that says that it is one.
        let mut odd = command(folder.path());
        odd.env("KHALA_DATABASE", "./sqlite:x=1.db").arg("migrate");
        assert_eq!(ended(odd).await.0, Some(0));
        assert!(folder.path().join("sqlite:x=1.db").exists());
    }

    #[tokio::test]
    async fn files_of_windows_tools_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let secret = std::str::from_utf8(SECRET).unwrap();
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
        };
        write("key", &format!("{secret}\n"));
        write(
            "keys.json",
            r#"{"keys": [{"kid": "a", "kty": "oct", "alg": "HS256", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}"#,
        );
        write(
            "khala.toml",
            "listen = \"127.0.0.1:0\"\n[auth]\nhs256_key_file = \"key\"\nkeys_file = \"keys.json\"\n",
        );
        let mut config = command(folder.path());
        config.args(["--config", "khala.toml", "config"]);
        let (code, output, log) = ended(config).await;
        assert_eq!(code, Some(0), "{log}");
        assert!(output.contains("hs256_key_file = \"key\""), "{output}");
        let mut serving = command(folder.path());
        serving.args(["--config", "khala.toml"]);
        let url = address(serving).await;
        let server = tokio::net::TcpStream::connect(url.1.strip_prefix("http://").unwrap()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(server)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("/v1/topics")
            .header("host", "x")
            .header("authorization", format!("Bearer {}", crate::support::good_token()))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);

        // The key that is made for development.
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("khala.dev.key"), format!("\u{feff}{}\r\n", secret.repeat(2))).unwrap();
        let started = Started::new(command(folder.path())).await;
        assert_eq!(started.get("/v1/topics", &started.token).await, 200);
    }

    /// A server that prints no token, and its address.
    async fn address(mut command: tokio::process::Command) -> (tokio::process::Child, String) {
        use tokio::io::{AsyncBufReadExt as _, BufReader};

        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        tokio::time::timeout(crate::support::LONG, output.read_line(&mut line)).await.unwrap().unwrap();
        let url = line.split_whitespace().find(|word| word.starts_with("http://"));
        let url = url.unwrap_or_else(|| panic!("no address: {line:?}")).trim_end_matches(',').to_owned();
        (child, url)
    }

    #[tokio::test]
    async fn an_ipv6_address_is_listened_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path());
        command.arg("--dev").env("KHALA_LISTEN", "[::1]:0");
        let (_child, url) = address(command).await;
        assert!(url.starts_with("http://[::1]:"), "{url}");
        tokio::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    }

    /// A development key that is a link is made where the link leads to.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_development_key_is_made_where_its_link_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("keep")).unwrap();
        std::os::unix::fs::symlink("keep/key", folder.path().join("khala.dev.key")).unwrap();
        let started = Started::new(command(folder.path())).await;
        assert_eq!(started.get("/v1/topics", &started.token).await, 200);
        assert!(fs::symlink_metadata(folder.path().join("khala.dev.key")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(folder.path().join("keep/key")).unwrap().trim().len(), 64);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn an_output_that_is_closed_or_full_is_told_by_the_exit_code() {
        let folder = tempfile::tempdir().unwrap();
        let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
        let closed = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            Stdio::from(writer)
        };
        for arguments in
            [&["--help"][..], &["--version"], &["config"], &["migrate"], &["new-epochs", "--yes"]]
        {
            for (stdout, wanted) in [(closed(), 0), (full(), 74)] {
                let mut command = command(folder.path());
                command.args(arguments).stdout(stdout);
                // tokio's `output` would put pipes of its own in their place.
                let output = command.spawn().unwrap().wait_with_output().await.unwrap();
                let (code, log) = (output.status.code(), String::from_utf8(output.stderr).unwrap());
                assert_eq!(code, Some(wanted), "{arguments:?}: {log}");
                assert!(!log.contains("panicked"), "{log}");
                assert_eq!(log.contains("standard output cannot be written"), wanted == 74, "{log}");
            }
        }
        for stderr in [closed(), full()] {
            let mut command = command(folder.path());
            command.arg("nonsense").stderr(stderr);
            assert_eq!(command.spawn().unwrap().wait().await.unwrap().code(), Some(2));
        }
    }
}
