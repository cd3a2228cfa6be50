//! Topics: one that nobody wrote to (J16), and many beside each other (J17).

use crate::{
    documents::SnapshotFrom,
    journal::{Append, Keep, ReadFrom},
    position::{Bounds, MAX_POSITION, Seq},
    update::{Kind, NewUpdate, Payload, PayloadHash, TraceContext, TraceField, Update},
};

use super::{
    harness::Harness,
    run::declared,
    subject::{LARGE, NOW, Subject, batch, doc_key, kind, single, state, texts, tombstone, update},
};

/// J16: an untouched topic has a stable epoch and empty bounds.
pub async fn j16_an_untouched_topic_is_stable_and_empty<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J16", "j16");
    let bounds = subject.bounds().await;
    assert_eq!(bounds, Bounds::untouched(bounds.epoch), "J16: the bounds of an untouched topic");
    for start in [ReadFrom::Origin, bounds.at_floor().into()] {
        let page = subject.page(start, LARGE).await;
        assert!(page.updates.is_empty(), "J16: an untouched topic holds {:?}", page.updates);
        assert_eq!(page.bounds, bounds, "J16: the bounds of an untouched topic, asked twice");
    }
    let trimmed = subject.trim(Keep { updates: Some(0), ..Keep::everything() }, NOW).await;
    assert_eq!(trimmed.bounds, bounds, "J16: the bounds of an untouched topic after trimming");
    let snapshot = subject.snapshot_page(SnapshotFrom::Start, LARGE).await;
    assert_eq!(snapshot.at, bounds.at_head(), "J16: where the snapshot of an untouched topic stands");
    assert_eq!(snapshot.bounds, bounds, "J16: the bounds in the snapshot of an untouched topic");
    assert!(snapshot.complete && snapshot.documents.is_empty(), "J16: it holds {:?}", snapshot.documents);
    assert_eq!(subject.document("none").await, None, "J16: a document of an untouched topic");
    subject.conflict(single("refused").with_expect(Seq::FIRST.watermark())).await;
    assert_eq!(subject.topics("", None, 10).await, [], "J16: topics that were written, of none");

    let store = if H::CAPABILITIES.survives_reopening {
        drop(subject);
        H::open(store.close().await).await
    } else {
        declared("J16", "survive reopening");
        store
    };
    let subject = Subject::new(&store, "J16", "j16");
    assert_eq!(subject.bounds().await, bounds, "J16: the bounds of an untouched topic, asked late");
    let receipt = subject.write(single("first")).await;
    assert_eq!(receipt.epoch, bounds.epoch, "J16: the epoch of the first update");
}

/// J17: topics are apart, payloads byte-exact.
pub async fn j17_topics_are_apart_and_payloads_exact<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J17", "j17");
    exact(&subject).await;

    // In byte order, with what patterns and collations take for something else.
    let long = format!("k{}", "x".repeat(254));
    let names = ["K-a", "K_a", "k-a", "k.a", "k/a", "k:a", "k_", "k_a", "k_a:b", "ka", long.as_str()];
    for name in names.iter().rev() {
        subject.beside(name).write(batch([update(name), update("second")])).await;
    }
    for name in names {
        let beside = subject.beside(name);
        let found = texts(&beside.log().await);
        assert_eq!(found, [name, "second"], "J17: the log of topic {name}");
        let bounds = beside.bounds().await;
        assert_eq!(bounds.head.as_u64(), 2, "J17: the head of topic {name}");
    }

    // Emptied is still written to; asked about is not.
    subject.beside("k.a").trim(Keep { updates: Some(0), ..Keep::everything() }, NOW).await;
    subject.beside("kb").bounds().await;
    let k: Vec<&str> = names.into_iter().filter(|name| name.starts_with('k')).collect();
    listed(&subject, "k", None, 100, &k).await;
    listed(&subject, "K", None, 100, &["K-a", "K_a"]).await;
    listed(&subject, "k_", None, 100, &["k_", "k_a", "k_a:b"]).await;
    listed(&subject, "k_a", None, 100, &["k_a", "k_a:b"]).await;
    listed(&subject, "k%", None, 100, &[]).await;
    listed(&subject, "k*", None, 100, &[]).await;
    listed(&subject, "k", Some("k:a"), 3, &["k_", "k_a", "k_a:b"]).await;
    listed(&subject, "k", Some("k:b"), 1, &["k_"]).await;
    listed(&subject, "k_", Some("a"), 2, &["k_", "k_a"]).await;
    listed(&subject, "k", Some("z"), 9, &[]).await;
    listed(&subject, "k", Some(&long), 9, &[]).await;
    listed(&subject, &long, None, 9, &[&long]).await;
    let everything: Vec<&str> = ["K-a", "K_a", "j17"].into_iter().chain(k).collect();
    listed(&subject, "", None, 100, &everything).await;
}

async fn listed(subject: &Subject, prefix: &str, after: Option<&str>, limit: usize, expected: &[&str]) {
    let found = subject.topics(prefix, after, limit).await;
    let names: Vec<&str> = found.iter().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!(
        names, expected,
        "J17: topics that start with {prefix:?} and follow {after:?}, at most {limit}"
    );
    for (topic, bounds) in &found {
        assert_eq!(
            *bounds,
            subject.beside(topic.as_str()).bounds().await,
            "J17: the bounds listed for {topic}"
        );
    }
}

/// Everything of an update comes back as it was given.
async fn exact(subject: &Subject) {
    let payloads = [
        "null",
        "1.0e0",
        "-0",
        "1.79E308",
        "123456789012345678901234567890.10",
        r#"{ "b" : 1 ,	"a":[ ], "B":2 }"#,
        "[1,\r\n  2]",
        r#""\u00e9\u0000\/\ud83d\ude00 \\ud800""#,
        r#""é 😀 ' '' \\ %s $1 ?1 \n""#,
        r#""""#,
        "\"\u{2028}\u{7f}\u{feff}\"",
    ];
    let large = format!("[\"{}\"]", "large é ".repeat(200 * 1024 / 9));
    let payloads = payloads.into_iter().chain([large.as_str()]);
    let payloads = payloads.map(|json| Payload::parse(json).expect("it is JSON"));
    let mut updates: Vec<NewUpdate> = payloads.map(|payload| NewUpdate::new(kind(), payload)).collect();

    let odd = "é 'o' \"q\" \\ % _ \u{1f600}";
    let longest = doc_key(&"k".repeat(512));
    let hash = PayloadHash::parse(&format!("sha256:{}", "0f".repeat(32))).expect("it is a hash");
    let field = |text: &str| Some(TraceField::parse(text).expect("it is a good field"));
    let traceparent = field("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let trace = TraceContext { traceparent, ..TraceContext::default() };
    let whole_trace =
        TraceContext { tracestate: field("vendor=a,other=b"), request_id: field(odd), ..trace.clone() };
    let odd_kind = Kind::parse(odd).expect("it is a good kind");
    updates.extend([
        NewUpdate::new(odd_kind.clone(), Payload::null()).doc_key(doc_key(odd)),
        update("versioned").doc_key(longest.clone()).doc_version(MAX_POSITION - 1),
        tombstone("gone"),
        NewUpdate::tombstone(odd_kind, longest).doc_version(MAX_POSITION),
        update("hashed").payload_hash(hash.clone()),
        update("traced").trace(trace),
        state("everything", odd).doc_version(3).payload_hash(hash).trace(whole_trace),
    ]);

    let answer = subject.append(batch(updates.clone()), NOW).await;
    let Append::Written(receipt) = answer else {
        panic!("J17: odd and large updates were not written: {answer:?}");
    };
    let seqs = (receipt.first.as_u64()..).filter_map(Seq::new);
    let meant: Vec<_> = updates.into_iter().zip(seqs).map(|(update, seq)| update.stored(seq, NOW)).collect();
    let found = subject.log().await;
    assert_eq!(found.len(), meant.len(), "J17: how many updates of an odd batch came back");
    for (found, meant) in found.iter().zip(&meant) {
        assert!(found == meant, "J17: {} came back as {}", short(meant), short(found));
    }
    let newest = meant.last().expect("there are updates");
    let found = subject.document("everything").await;
    assert_eq!(found.as_ref(), Some(newest), "J17: a document with everything");
}

fn short(update: &Update) -> String {
    format!("{update:?}").chars().take(600).collect()
}
