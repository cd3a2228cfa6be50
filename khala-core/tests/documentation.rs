//! What the documents list is what the code has: codes, close codes and metrics, each in both.

use khala_core::{
    telemetry,
    wire::{Close, Code},
};

const PROTOCOL: &str = include_str!("../../PROTOCOL.md");
const SERVER: &str = include_str!("../../docs/server.md");

#[test]
fn the_protocol_lists_every_close_code_and_whether_to_come_back() {
    for close in Close::ALL {
        let row = format!("| {} | `{}` |", close.code(), close.reason());
        let line = PROTOCOL
            .lines()
            .find(|line| line.starts_with(&row))
            .unwrap_or_else(|| panic!("{row} is missing"));
        let come_back = line.trim_end_matches('|').rsplit('|').next().unwrap().trim();
        assert_eq!(come_back.starts_with("yes"), close.come_back(), "{line}");
    }
}

#[test]
fn the_protocol_lists_every_code() {
    let listed = |code: &Code| {
        let mut rows = PROTOCOL.lines().filter(|line| line.starts_with('|'));
        rows.any(|row| row.split('|').take(3).any(|cell| cell.contains(&format!("`{code}`"))))
    };
    for code in Code::ALL {
        assert!(listed(code), "{code} is missing");
    }
}

#[test]
fn the_servers_page_lists_every_metric() {
    for name in telemetry::ALL {
        assert!(SERVER.contains(&format!("`{name}`")), "{name} is missing");
    }
    for word in SERVER
        .split('`')
        .filter(|word| word.starts_with("khala_") && word.ends_with(|c: char| c.is_alphabetic()))
    {
        let code = Code::ALL.iter().any(|code| code.as_str() == word);
        assert!(code || telemetry::ALL.contains(&word), "{word} is neither a metric nor a code");
    }
}

/// Frames of the protocol's text are frames, and their payloads what they should be.
#[test]
fn the_protocols_examples_are_frames() {
    use khala_core::wire::{JoinRequest, Serializer, SnapshotBatch, UpdateBatch, event};
    let mut seen = 0;
    for line in PROTOCOL.lines().filter(|line| line.starts_with('[') && line.ends_with(']')) {
        let frame = Serializer::V2.decode(line).unwrap_or_else(|fault| panic!("{line}: {fault}"));
        match &*frame.event {
            event::JOIN => drop(frame.payload_as::<JoinRequest>().unwrap()),
            event::UPDATE_BATCH => drop(frame.payload_as::<UpdateBatch>().unwrap()),
            event::SNAPSHOT => drop(frame.payload_as::<SnapshotBatch>().unwrap()),
            _ => drop(frame.payload_as::<serde_json::Value>().unwrap()),
        }
        seen += 1;
    }
    assert!(seen > 12, "{seen}");
}

/// Every test that the threat model names exists, in the file that it names.
#[test]
fn the_threat_models_tests_exist() {
    const THREATS: &str = include_str!("../../docs/threats.md");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut seen = 0;
    for row in THREATS.lines().filter(|line| line.starts_with('|')) {
        let shown_by = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let mut file = String::new();
        for word in shown_by.split('`').skip(1).step_by(2) {
            if word.contains('/') {
                file =
                    std::fs::read_to_string(root.join(word)).unwrap_or_else(|_| panic!("{word} is missing"));
            } else {
                assert!(file.contains(&format!("fn {word}(")), "{word} is missing, in {row}");
                seen += 1;
            }
        }
        assert!(
            !file.is_empty() || !row.contains('`') || shown_by.contains("shown by"),
            "nothing shows {row}"
        );
    }
    assert!(seen > 30, "{seen}");
}
