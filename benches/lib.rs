//! What the benchmarks share: updates of a realistic size, filled journals, and the [`comparison`].

pub mod comparison;

use khala_core::{Batch, Kind, NewUpdate, Payload, Timestamp, Topic, journal::Journal};

/// A payload of about 200 bytes, as a progress report would be.
pub const PAYLOAD: &str = r#"{"step":"compile","crate":"khala-core","target":"lib","fresh":false,"warnings":[],"seconds":1.25,"features":["default","system-clock"],"profile":{"opt_level":"3","debug":false},"note":"........"}"#;

/// One update with [`PAYLOAD`].
///
/// # Panics
/// Never: the kind and the payload are well-formed.
pub fn update() -> NewUpdate {
    NewUpdate::new(Kind::parse("step").expect("a kind"), Payload::parse(PAYLOAD).expect("JSON"))
}

/// Appends `count` updates to `topic`.
///
/// # Panics
/// If the journal refuses them.
pub async fn fill(journal: &dyn Journal, topic: &Topic, count: usize) {
    let updates: Vec<NewUpdate> = std::iter::repeat_with(update).take(count).collect();
    for batch in updates.chunks(Batch::MAX) {
        let batch = Batch::new(batch.to_vec()).expect("a batch");
        journal.append(topic, batch, Timestamp::from_millis(0)).await.expect("the journal takes it");
    }
}
