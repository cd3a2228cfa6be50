//! What is read, refused and printed.

use std::time::Duration;

use khala_core::node::NodeId;
use khala_core::{
    Topic,
    class::{Classes, Tier},
};

use super::*;

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("khala.toml");
    std::fs::write(&path, file).unwrap();
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
    Settings::load(Some(&path), environment)
}

#[test]
fn the_environment_wins_over_the_file() {
    let settings = load(
        "listen = \"127.0.0.1:1\"\n[limits]\nframe_bytes = 5\nbody_bytes = 6",
        &[("KHALA_LISTEN", "127.0.0.1:2"), ("KHALA_LIMITS__FRAME_BYTES", "7"), ("HOME", "/")],
    )
    .unwrap();
    assert_eq!(settings.listen, "127.0.0.1:2");
    assert_eq!((settings.limits.frame_bytes, settings.limits.body_bytes), (7, 6));
}

#[test]
fn a_fault_names_its_key() {
    for (file, environment, named) in [
        ("lisen = 1", [].as_slice(), "lisen"),
        ("[limits]\nframe_byte = 1", &[], "limits.frame_byte"),
        ("limits = 1", &[], "limits"),
        ("limits = []", &[("KHALA_LIMITS__FRAME_BYTES", "7")], "limits"),
        ("[postgres]\npassword = \"x\"", &[], "postgres.password"),
        ("drain_seconds = \"x\"", &[], "drain_seconds"),
        ("drain_seconds = -1", &[], "drain_seconds"),
        ("[limits]\nframe_bytes = 0", &[], "limits.frame_bytes"),
        ("[tail]\nbatch_bytes = 262143", &[], "tail.batch_bytes must be 262144 to 33554432, and is 262143"),
        ("[tail]\nbatch_bytes = 33554433", &[], "and is 33554433"),
        ("[log]\nformat = \"loud\"", &[], "log.format"),
        ("listen = 4510", &[], "listen"),
        ("a b", &[], "line 1"),
        ("\n\nlisten = \"x", &[], "line 3"),
        ("", &[("KHALA_LISTN", "x")], "KHALA_LISTN"),
        ("", &[("KHALA_LIMITS", "x")], "KHALA_LIMITS"),
        ("", &[("KHALA_LIMITS__FRAME", "x")], "KHALA_LIMITS__FRAME"),
        ("", &[("KHALA_DRAIN_SECONDS", "ten")], "KHALA_DRAIN_SECONDS"),
        ("[auth]\nhs256_key = \"a\"\nhs256_key_file = \"b\"", &[], "auth.hs256_key_file"),
        ("readiness_grace_seconds = -1", &[], "readiness_grace_seconds"),
        ("[[classes]]\nname = \"a\"", &[], "pattern"),
        ("[[classes]]\nname = \"a\"\npattern = \"**\"\nteer = \"hot\"", &[], "classes[0].teer"),
        ("[[classes]]\nname = \"a\"\npattern = \"**\"\ntier = \"hotter\"", &[], "classes[0].tier"),
        ("[[classes]]\nname = \"a\"\npattern = \"**\"\npayload_bytes = 0", &[], "classes[].payload_bytes"),
        (
            "[[classes]]\nname = \"a\"\npattern = \"**\"\nretain.age_seconds = 0",
            &[],
            "classes[].retain.age_seconds",
        ),
        (
            "[[classes]]\nname = \"a\"\npattern = \"**\"\nretain.updates = \"all\"",
            &[],
            "classes[0].retain.updates",
        ),
        (
            "[[classes]]\nname = \"a\"\npattern = \"**\"\nstall_timeout_seconds = \"never\"",
            &[],
            "stall_timeout_seconds",
        ),
        ("[admission]\nconnections = 0", &[], "admission.connections"),
        ("[session]\noutbox_bytes = -1", &[], "session.outbox_bytes"),
        ("[limits]\npayload_bytes = 1", &[], "limits.payload_bytes"),
        ("[replay]\nconcurrent_reads = 0", &[], "replay.concurrent_reads"),
        ("[replay]\nrate = {per_second = 1}", &[], "replay.rate"),
        ("[replay]\nrate = {per_second = 1, burts = 2}", &[], "burts"),
        ("sweep_interval_seconds = 0", &[], "sweep_interval_seconds"),
        ("[sweep]\nmax_stale_cursors = \"any\"", &[], "sweep.max_stale_cursors"),
        ("", &[("KHALA_SWEEP_INTERVAL_SECONDS", "never")], "KHALA_SWEEP_INTERVAL_SECONDS"),
    ] {
        let fault = load(file, environment).unwrap_err();
        assert!(fault.contains(named) && !fault.contains('\n'), "{file}: {fault}");
    }
}

/// The settings of the first production system, in `deploy/`.
#[test]
fn the_settings_for_agents_are_complete() {
    let settings = load(include_str!("../../../../../deploy/agents.toml"), &[]).unwrap();
    let names = settings.jwt.claim_names.clone();
    assert_eq!(
        [names.scopes, names.organisation, names.version],
        ["oa_sync_scopes", "oa_org_id", "oa_claims_version"]
    );
    let classes = Classes::new(settings.classes.clone()).unwrap();
    let (day, kib) = (Duration::from_secs(86_400), 1 << 10);
    for (topic, name, tier, budget, rate, bytes, age) in [
        ("run:7:events", "run_events", Tier::Warm, 20_000, 240, 256 * kib, 7 * day),
        ("worker:7:lifecycle", "worker_lifecycle", Tier::Warm, 10_000, 180, 64 * kib, 3 * day),
        ("runtime.codex_worker_events", "codex_worker_events", Tier::Hot, 3_000, 240, 128 * kib, day),
        ("runtime.codex_summaries", "summaries", Tier::Warm, 10_000, 240, 64 * kib, 3 * day),
        ("anything:else", "fallback", Tier::Cold, 500, 90, 64 * kib, day),
    ] {
        let class = classes.of(&Topic::parse(topic).unwrap()).unwrap();
        assert_eq!((&*class.name, class.tier), (name, tier), "{topic}");
        let rate_found = class.publish_rate.map(|rate| rate.per_second().get());
        assert_eq!((class.replay_budget, rate_found), (Some(budget), Some(rate)), "{topic}");
        assert_eq!((class.payload_bytes, class.retain.age), (Some(bytes), Some(age)), "{topic}");
        assert_eq!(
            (&*class.read, &*class.publish),
            (&["khala:read".to_owned()][..], &["khala:publish".to_owned()][..])
        );
    }
    assert_eq!(classes.iter().count(), 5);
    let printed = settings.to_toml();
    assert_eq!(load(&printed, &[]).unwrap().to_toml(), printed);
}

#[test]
fn the_rules_in_force_are_printed_also_where_nothing_is_set() {
    for (file, names) in [
        ("", ["default"].as_slice()),
        ("[[classes]]\nname = \"all\"\npattern = \"**\"\nretain.updates = 7", &["all"]),
        ("classes = []", &[]),
    ] {
        let printed = load(file, &[]).unwrap().to_toml();
        let table: Table = printed.parse().unwrap();
        let classes = table["classes"].as_array().unwrap();
        let found: Vec<_> = classes.iter().map(|class| class["name"].as_str().unwrap()).collect();
        assert_eq!(found, names);
        for class in classes {
            for key in ["tier", "replay_budget", "publish_rate", "payload_bytes", "retain"] {
                assert!(class.get(key).is_some(), "{key}: {class}");
            }
        }
        assert_eq!(load(&printed, &[]).unwrap().to_toml(), printed);
    }
    let environment = [("KHALA_SWEEP__MAX_STALE_CURSORS", "5"), ("KHALA_REPLAY__RATE", "none")];
    let settings = load("sweep_interval_seconds = \"none\"", &environment).unwrap();
    assert_eq!((settings.sweep_interval, settings.sweep.max_stale_cursors), (None, Some(5)));
    assert_eq!(settings.sweep.recent_cursor, Duration::from_secs(3_600));
    assert_eq!(settings.replay.rate, None);
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_known_one() {
    for (file, environment, says) in [
        (
            "[limits]\nframe_byte = 1",
            [].as_slice(),
            "no key limits.frame_byte; did you mean limits.frame_bytes?",
        ),
        ("[limits]\nconnections = 1", &[], "did you mean admission.connections?"),
        ("frame_bytes = 1", &[], "did you mean limits.frame_bytes?"),
        ("lisen = \"a\"", &[], "no key lisen; did you mean listen?"),
        ("[[auth.keys]]\nkdi = \"a\"", &[], "no key auth.keys[0].kdi; did you mean auth.keys[].kid?"),
        (
            "[tail]\nnothing_like_it = 1",
            &[],
            "known there: topic_bytes, history_bytes, total_bytes, batch_bytes, idle_seconds",
        ),
        ("", &[("KHALA_LISTN", "x")], "no setting; did you mean KHALA_LISTEN?"),
        ("", &[("KHALA_LIMITS__FRAME_BYTE", "1")], "did you mean KHALA_LIMITS__FRAME_BYTES?"),
        ("", &[("KHALA_SOMETHING_ELSE", "1")], "docs/server.md lists them"),
    ] {
        let fault = load(file, environment).unwrap_err();
        assert!(fault.contains(says), "{file}: {fault}");
    }
}

#[test]
fn a_variable_is_its_text_or_what_toml_reads_in_it() {
    let settings = load(
        "",
        &[
            ("KHALA_NODE", "7"),
            ("KHALA_AUTH__HS256_KEY", "01234567890123456789012345678901"),
            ("KHALA_AUTH__ORIGINS", "['https://a.example']"),
            ("KHALA_JWT__MAX_AGE_SECONDS", "none"),
            ("KHALA_JWT__REQUIRE_JTI", "false"),
            ("KHALA_JWT__LEEWAY_SECONDS", "0.5"),
            ("KHALA_ADMISSION__CONNECTS_PER_ADDRESS", "{per_second = 5, burst = 50}"),
            ("KHALA_POSTGRES__OPTIONS", "{search_path = 'app'}"),
            ("KHALA_COMPATIBILITY__CLIENT_BUILD__MIN", "1.20"),
            ("KHALA_NATS__CREDENTIALS__TOKEN_FILE", "/run/secrets/nats"),
            ("KHALA_NATS__SERVERS", "['nats:4222']"),
            ("KHALA_DATABASE", "postgres://db/khala"),
        ],
    )
    .unwrap();
    assert_eq!(settings.node.as_ref().map(NodeId::as_str), Some("7"));
    assert_eq!(settings.auth.origins.as_deref(), Some(&["https://a.example".to_owned()][..]));
    assert_eq!((settings.jwt.max_age, settings.jwt.require_jti), (None, false));
    assert_eq!(settings.jwt.leeway, Duration::from_millis(500));
    assert_eq!(settings.admission.connects_per_address.map(|rate| rate.burst().get()), Some(50));
    assert_eq!(settings.postgres.options["search_path"], "app");
    assert!(settings.compatibility.client_build.is_some() && settings.uses_nats());
    assert!(settings.to_toml().contains("token_file = \"/run/secrets/nats\""));
    for (name, value, says) in [
        ("KHALA_AUTH__ORIGINS", "https://a.example", "a list"),
        ("KHALA_JWT__REQUIRE_JTI", "perhaps", "boolean"),
        ("KHALA_AUTH__KEYS", "[{secret = 'a'}]", "auth.keys[0]"),
        ("KHALA_NATS__SERVERS", "nats://ann:s3cret@host", "a list"),
        ("KHALA_AUTH__KEYS", "s3cret", "a list"),
        ("KHALA_AUTH__KEYS", "['s3cret']", "a table"),
    ] {
        let fault = load("", &[(name, value)]).unwrap_err();
        assert!(fault.contains(name) && fault.contains(says) && !fault.contains("s3cret"), "{fault}");
    }
}

#[test]
fn what_is_printed_can_be_read_and_holds_no_secret() {
    let settings = load("[auth]\nhs256_key = \"0123456789abcdef0123456789abcdef\"", &[]).unwrap();
    let printed = settings.to_toml();
    assert!(printed.contains("hs256_key = \"***\"") && !printed.contains("0123456789"), "{printed}");
    assert!(!format!("{settings:?}").contains("0123456789"));
    load(&printed, &[]).unwrap();
    let address = "[auth]\njwks_url = \"https://a.example/keys?key=0123456789\"";
    assert!(!load(address, &[]).unwrap().to_toml().contains("0123456789"));
    let fault = load("[auth]\nhs256_key = 12345678", &[]).unwrap_err();
    assert!(fault.contains("auth.hs256_key") && !fault.contains("12345678"), "{fault}");
}

/// The core closes a session that says nothing for that long, and a poll that waits says nothing.
#[test]
fn a_long_poll_never_waits_until_its_session_is_closed() {
    let wait = |text: &str| load(text, &[]).unwrap().limits().long_poll_wait;
    assert_eq!(wait(""), Duration::from_secs(10));
    assert_eq!(wait("[limits]\nlong_poll_wait_seconds = 50"), Duration::from_secs(30));
    assert_eq!(wait("[session]\nheartbeat_timeout_seconds = 1"), Duration::from_millis(500));
}
