//! The `khala` binary, as a user runs it, against a server that misbehaves on command.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod context;
mod edges;
#[path = "../../../khala-client/tests/client/fake.rs"]
mod fake;
mod key;
mod look;
mod operate;
#[expect(dead_code, reason = "the tests of khala-auth use more of them")]
#[path = "../../../khala-auth/src/testing/pem.rs"]
mod pem;
mod publish;
mod real;
mod revoke;
mod shell;
mod tail;
mod terminal;
mod tls;
mod token;

use std::{path::Path, process::Stdio};

use khala_core::Topic;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use self::fake::{Fake, PATIENCE};

fn topic() -> Topic {
    Topic::parse("run:7:events").unwrap()
}

/// The command, without anything of this environment that would change what it does.
fn khala(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_khala"));
    command
        .current_dir(directory)
        .args(arguments)
        // Contexts of this machine are none of a test's.
        .env("XDG_CONFIG_HOME", directory.join("config"))
        .env_remove("NO_COLOR")
        .env_remove("KHALA_CONTEXT")
        .env_remove("KHALA_URL")
        .env_remove("KHALA_TOKEN")
        .env_remove("KHALA_ADMIN_TOKEN")
        .env_remove("KHALA_AUTH__HS256_KEY")
        .env_remove("KHALA_JWT__ISSUER")
        .env_remove("KHALA_JWT__AUDIENCE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The same, told where the server is.
fn khala_at(fake: &Fake, directory: &Path, arguments: &[&str]) -> Command {
    let mut command = khala(directory, arguments);
    command.env("KHALA_URL", fake.url()).env("KHALA_TOKEN", "secret-token");
    command
}

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn end(child: Child) -> Ended {
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ended =
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(!ended.stderr.contains("secret-token"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    ended
}
