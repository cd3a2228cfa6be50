//! `khala documents`: the documents of a topic as they are now, or one of them.

use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use khala_client::TopicHandle;
use khala_core::{
    DocKey, Topic, Update, Watermark,
    documents::{Snapshot, SnapshotFrom},
    journal::ReadLimit,
};

use crate::{
    exit::Failure,
    lines::{Lines, Shape},
    moment::local,
    notice::Notices,
    output,
    server::Server,
};

/// Print the documents of a topic as they are now, or one document
///
/// A document is the newest update of its key. The lines are those of `khala tail`. A document that is deleted, or that never was,
/// is an error and ends the command with 1.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala documents orders:7
  khala documents orders:7 order/7 --pretty
  khala documents orders:7 order/7 --raw | jq .total")]
pub(crate) struct Documents {
    /// The topic
    topic: Topic,
    /// The key of one document
    key: Option<DocKey>,
    #[command(flatten)]
    shape: Shape,
}

impl Documents {
    pub(crate) async fn run(self, server: &Server) -> Result<(), Failure> {
        let notices = Notices::beside(ProgressBar::hidden());
        let client = server.client(&notices, Some(Duration::ZERO)).await?.build()?;
        let lines = self.shape.lines(std::slice::from_ref(&self.topic));
        let topic = client.topic(self.topic).map_err(|fault| Failure::usage(fault.to_string()))?;
        match self.key {
            Some(key) => one(&topic, &key, &lines).await,
            None => all(&topic, &lines, &notices).await,
        }
    }
}

async fn one(topic: &TopicHandle, key: &DocKey, lines: &Lines) -> Result<(), Failure> {
    let name = topic.topic();
    match topic.document(key.clone()).await? {
        Some(Update { deleted: true, seq, published_at, .. }) => Err(Failure::refused(format!(
            "the document {key} of {name} was deleted by update {seq}, at {}",
            local(published_at)
        ))),
        Some(document) => {
            let mut out = Vec::new();
            lines.update(&mut out, name, &document);
            output::print_bytes(&out)
        }
        None => Err(Failure::refused(format!(
            "there is no document {key} of {name}; `khala documents {name}` lists those that there are"
        ))),
    }
}

async fn all(topic: &TopicHandle, lines: &Lines, notices: &Notices) -> Result<(), Failure> {
    let (mut from, mut count) = (SnapshotFrom::Start, 0);
    loop {
        let page = match topic.snapshot(from, ReadLimit::PAGE).await? {
            Snapshot::Page(page) => page,
            Snapshot::Stale(stale) => {
                return Err(Failure::stale(format!(
                    "{stale}: the history of {} was trimmed while its documents were read, after {count} of them; run the command again",
                    topic.topic()
                )));
            }
        };
        let mut out = Vec::new();
        for document in &page.documents {
            lines.update(&mut out, topic.topic(), document);
        }
        output::print_bytes(&out)?;
        count += page.documents.len();
        match page.next() {
            Some(next) => from = next,
            None if page.at.watermark == Watermark::ORIGIN => {
                notices.say(format_args!(
                    "there is no topic {} with updates; is its name right?",
                    topic.topic()
                ));
                return Ok(());
            }
            None => {
                notices.inform(format_args!(
                    "{} as of update {}",
                    output::counted(count as u64, "document"),
                    page.at.watermark
                ));
                return Ok(());
            }
        }
    }
}
