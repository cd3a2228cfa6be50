//! Under what conditions a run was: the machine, what else it did, and which versions took part.

use std::{fmt::Write as _, fs, process::Command};

use super::tools::Tools;

/// How programs tell their version: who takes part, the program, and what it is asked.
const ASKED: [(&str, &str, &str); 9] = [
    ("nats", "nats-server", "--version"),
    ("khala-nats", "nats-server", "--version"),
    ("redis", "redis-server", "--version"),
    ("redis-always", "redis-server", "--version"),
    ("redis-everysec", "redis-server", "--version"),
    ("postgres", "psql", "--version"),
    ("mosquitto", "mosquitto", "-h"),
    ("socket.io", "node", "--version"),
    ("bun", "bun", "--version"),
];

/// Lines of Markdown.
pub(super) fn of_run(tools: &Tools, names: &[&str]) -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("?", |(_, value)| value).trim().to_owned()
    };
    let (processors, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let mut text = format!(
        "{count} processors ({}), memory {}, Linux {}. Load when it began: {}. Databases are on the disk of the build's folder.\n",
        field(&processors, "model name"),
        field(&memory, "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").trim(),
    );
    for name in names {
        if let Some(version) = version(tools, name) {
            writeln!(text, "- {name}: {version}").expect("a String takes every write");
        }
    }
    text
}

/// What is known of the version of somebody who takes part.
fn version(tools: &Tools, name: &str) -> Option<String> {
    let package = |name: &str| {
        let path = Tools::scripts().join("node_modules").join(name).join("package.json");
        let package: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        Some(format!("{name} {}", package.get("version")?.as_str()?))
    };
    let installed = |name| said(&tools.installed_program(name).ok()?, "--version");
    let name = match name {
        "sockudo" => return installed("sockudo"),
        "jetstream" | "jetstream-synced" => return installed("nats-server"),
        other => other,
    };
    let (_, program, argument) = ASKED.into_iter().find(|(who, ..)| *who == name)?;
    let path = if program == "bun" { Tools::npm_program(program) } else { Tools::system_program(program) };
    let said = said(&path.ok()?, argument)?;
    Some(match package(name).filter(|_| program == "node") {
        Some(package) => format!("{package}, Node.js {said}"),
        None => said,
    })
}

/// The first line that a program says.
fn said(program: &std::path::Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    text.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
}
