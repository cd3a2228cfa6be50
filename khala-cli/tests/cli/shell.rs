//! What a shell makes of the command: completions, and every example of every help, run as it stands.
#![cfg(unix)]

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio};

use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    Ended, end, khala, pem,
    real::{ADMIN, khala_at, start, token},
};

/// Every command whose help has examples.
const COMMANDS: &[&str] = &[
    "",
    "publish",
    "tail",
    "documents",
    "topics",
    "token",
    "key",
    "key add",
    "key list",
    "key remove",
    "revoke",
    "connections",
    "stats",
    "retention",
    "retention status",
    "retention plan",
    "retention run",
    "drain",
    "context",
    "context add",
    "context ls",
    "context show",
    "context use",
    "context rm",
    "completion",
];

/// A home with everything that examples name, and a server.
struct Desk {
    folder: TempDir,
    address: SocketAddr,
}

impl Desk {
    async fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap(), address: start().await };
        let at = desk.folder.path();
        for folder in [
            "bin",
            ".khala",
            ".zfunc",
            ".local/share/bash-completion/completions",
            ".config/fish/completions",
        ] {
            fs::create_dir_all(at.join(folder)).unwrap();
        }
        let line = "{\"type\":\"paid\",\"id\":7,\"total\":1}\n";
        for (file, content) in [
            ("khala.dev.key", "0123456789abcdef0123456789abcdef"),
            ("2026-12.pem", pem::EC_PRIVATE),
            ("orders.jsonl", line),
            ("token", &token()),
            (".khala/stage.token", &token()),
            ("prod.token", &token()),
        ] {
            fs::write(at.join(file), content).unwrap();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_khala"), at.join("bin/khala")).unwrap();
        // Programs of others that examples go on with.
        for (program, does) in
            [("jq", "cat"), ("vault", "cat ~/token"), ("systemctl", "true"), ("tail", "echo '{\"line\":1}'")]
        {
            fs::write(at.join("bin").join(program), format!("#!/bin/sh\n{does}\n")).unwrap();
            fs::set_permissions(at.join("bin").join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        desk.run("khala publish orders:7 '{\"a\":1}' --doc-key order/7").await;
        desk.run("khala publish orders:8 '{\"a\":1}'").await;
        desk.run("khala key add keys.json --kid 2026-11").await;
        desk
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    /// What the shell makes of it.
    async fn try_run(&self, line: &str) -> Ended {
        let khala = khala_at(self.address, self.at(), &[]);
        let mut command = Command::new("bash");
        command.args(["-e", "-o", "pipefail", "-c", line]).current_dir(self.at());
        for (name, value) in khala.as_std().get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.at().join("bin").display())).env("HOME", self.at());
        command.env("KHALA_ADMIN_TOKEN", ADMIN).env("CI_KHALA_TOKEN", token());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        end(command.spawn().unwrap()).await
    }

    async fn run(&self, line: &str) -> Ended {
        let ended = self.try_run(line).await;
        assert_eq!(ended.code, Some(0), "{line}: {}{}", ended.stdout, ended.stderr);
        ended
    }
}

/// The same, ended where it would go on.
fn bounded(line: &str) -> String {
    let bounded = |line: &str| match line.contains("--until-head") {
        true => line.to_owned(),
        false => line.replace("khala tail ", "khala tail --until-head "),
    };
    line.lines().map(bounded).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn every_example_of_every_help_works() {
    let pages = COMMANDS.iter().map(async |command| {
        let desk = Desk::new().await;
        for line in match *command {
            "key remove" => &["khala key add keys.json --kid internal"][..],
            "context show" | "context use" | "context rm" => &[
                "khala context add prod --url https://khala.example --use",
                "khala context add stage --url https://stage.example",
            ],
            _ => &[],
        } {
            desk.run(line).await;
        }
        let help = desk.run(&format!("khala {command} --help")).await.stdout;
        let (_, examples) = help.split_once("Examples:\n").unwrap();
        let examples = examples.split("\n\n").next().unwrap().replace("\\\n", "");
        for line in examples.lines().filter(|line| !line.is_empty()) {
            assert!(line.starts_with("  "), "{command}: {line}");
            desk.run(&bounded(line.trim())).await;
        }
    });
    futures::future::join_all(pages).await;
}

#[tokio::test]
async fn every_command_has_its_examples_tried() {
    // What the help lists, and nothing else.
    let mut listed = vec![String::new()];
    let mut at = 0;
    while at < listed.len() {
        let path = listed[at].clone();
        let folder = tempfile::tempdir().unwrap();
        let arguments: Vec<_> = path.split_whitespace().chain(["--help"]).collect();
        let help = end(khala(folder.path(), &arguments).spawn().unwrap()).await.stdout;
        if let Some((_, commands)) = help.split_once("Commands:\n") {
            let commands = commands.split("\n\n").next().unwrap();
            let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
            let names =
                names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
            listed.extend(names.map(|name| format!("{path} {name}").trim().to_owned()));
        }
        at += 1;
    }
    listed.sort();
    let mut known: Vec<_> = COMMANDS.iter().map(|command| (*command).to_owned()).collect();
    known.sort();
    assert_eq!(listed, known);
}

/// The pages whose fenced commands are about this program, run in the order in which they stand.
#[tokio::test]
async fn the_page_of_commands_is_true() {
    let desk = Desk::new().await;
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/command.md")).unwrap();
    let mut blocks = 0;
    for block in page.split("```sh\n").skip(1) {
        let block = bounded(block.split("```").next().unwrap()).replace("\\\n", " ");
        desk.run(&block).await;
        blocks += 1;
    }
    assert!(blocks >= 8, "{blocks}");
    for command in COMMANDS {
        assert!(page.contains(&format!("khala {command}")), "{command} has no example");
    }
}

#[tokio::test]
async fn completions_are_scripts_that_shells_read() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let ended = end(khala(folder.path(), &["completion", shell]).spawn().unwrap()).await;
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
        assert!(ended.stdout.contains("until-head"), "{shell}");
        let file = folder.path().join(shell);
        fs::write(&file, &ended.stdout).unwrap();
        let read = Command::new(shell).arg("-n").arg(&file).stdin(Stdio::null()).output().await;
        match read {
            Ok(read) => assert!(read.status.success(), "{shell}: {}", String::from_utf8_lossy(&read.stderr)),
            // Only bash is on every machine.
            Err(cause) => assert!(shell != "bash", "{cause}"),
        }
    }
    // What bash offers, with its own machinery.
    let script = "source ./bash; COMP_WORDS=(khala tail --unt); COMP_CWORD=2; _khala khala --unt tail; echo \"${COMPREPLY[@]}\"";
    let offered =
        Command::new("bash").args(["-c", script]).current_dir(folder.path()).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&offered.stdout).trim(), "--until-head");
    // The names of contexts, as they are at that moment.
    let add = ["context", "add", "stage", "--url", "http://127.0.0.1:1"];
    assert_eq!(end(khala(folder.path(), &add).spawn().unwrap()).await.code, Some(0));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_khala"), folder.path().join("khala")).unwrap();
    let script = "source ./bash; PATH=.:$PATH; COMP_WORDS=(khala --context s); COMP_CWORD=2; _khala khala s --context; \
                  echo \"${COMPREPLY[@]}\"";
    let mut offered = Command::new("bash");
    offered.args(["-c", script]).current_dir(folder.path());
    let offered = offered.env("XDG_CONFIG_HOME", folder.path().join("config")).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&offered.stdout).trim(), "stage");
    let wrong = end(khala(folder.path(), &["completion", "csh"]).spawn().unwrap()).await;
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
}
