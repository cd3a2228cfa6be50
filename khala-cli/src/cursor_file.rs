//! The file that `khala tail` keeps its cursor in: one line of JSON, replaced as a whole or not at all.

use std::{io::ErrorKind, path::PathBuf};

use khala_core::{Cursor, Timestamp, Topic};
use serde::{Deserialize, Serialize};

use crate::{
    exit::Failure,
    file::{self, Replaced},
};

/// A cursor, kept for one topic.
#[derive(Debug)]
pub(crate) struct CursorFile {
    /// As it was given, to be shown.
    path: PathBuf,
    file: Replaced,
    topic: Topic,
}

/// What is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Cursor(Place),
    /// Nothing: it was made to be mounted, say.
    Empty,
    NoFile,
}

/// Where a reader of a topic stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Place {
    #[serde(flatten)]
    pub(crate) cursor: Cursor,
    /// When the last update was published that it covers. Files of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) published_at: Option<Timestamp>,
}

#[derive(Deserialize, Serialize)]
struct Kept {
    /// So that a file is not used for another topic by mistake.
    topic: Topic,
    #[serde(flatten)]
    place: Place,
}

impl CursorFile {
    /// The file at `path`, or where a link there leads to.
    pub(crate) fn open(path: PathBuf, topic: Topic) -> Result<Self, Failure> {
        let file = Replaced::at(&path).map_err(|cause| {
            Failure::io(format!("the cursor file {} cannot be used: {cause}", path.display()))
        })?;
        Ok(Self { path, file, topic })
    }

    /// Reads the cursor that was kept. Fails if the file cannot be written, before any line is printed: lines whose cursor is not
    /// kept are printed again by the next run.
    pub(crate) fn load(&self) -> Result<Found, Failure> {
        let shown = self.path.display();
        let text = match file::read_text(self.file.path()) {
            Ok(text) => text,
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                self.file.check().map_err(|cause| self.unwritable(&cause))?;
                return Ok(Found::NoFile);
            }
            Err(cause) => {
                return Err(Failure::unreadable(format_args!("the cursor file {shown}"), &cause));
            }
        };
        if text.trim().is_empty() {
            self.file.check().map_err(|cause| self.unwritable(&cause))?;
            return Ok(Found::Empty);
        }
        let Kept { topic, place } = serde_json::from_str(&text).map_err(|fault| {
            Failure::usage(format!(
                "{shown} is not a cursor file ({fault}); remove it to start where the options say"
            ))
        })?;
        if topic != self.topic {
            return Err(Failure::usage(format!(
                "the cursor file {shown} holds a cursor of the topic {topic}, and the topic here is {}; use another file",
                self.topic
            )));
        }
        self.file.check().map_err(|cause| self.unwritable(&cause))?;
        Ok(Found::Cursor(place))
    }

    /// Keeps `place`. A reader of the file, and a crash in between, find the old one or the new one.
    pub(crate) fn store(&self, place: Place) -> Result<(), Failure> {
        let kept = Kept { topic: self.topic.clone(), place };
        let text = serde_json::to_string(&kept).expect("a cursor has a JSON form") + "\n";
        self.file.write(text.as_bytes()).map_err(|cause| self.unwritable(&cause))
    }

    fn unwritable(&self, cause: &std::io::Error) -> Failure {
        Failure::io(format!("the cursor file {} cannot be written: {cause}", self.path.display()))
    }
}
