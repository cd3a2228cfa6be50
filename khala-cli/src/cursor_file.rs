//! The file that `khala tail` keeps its cursor in: one line of JSON, replaced as a whole or not at all.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use khala_core::{Cursor, Topic};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// A cursor, kept for one topic.
#[derive(Debug)]
pub(crate) struct CursorFile {
    path: PathBuf,
    topic: Topic,
}

#[derive(Deserialize, Serialize)]
struct Kept {
    /// So that a file is not used for another topic by mistake.
    topic: Topic,
    #[serde(flatten)]
    cursor: Cursor,
}

impl CursorFile {
    pub(crate) fn new(path: PathBuf, topic: Topic) -> Self {
        Self { path, topic }
    }

    /// The cursor that was kept; none if there is no file.
    pub(crate) fn load(&self) -> Result<Option<Cursor>, Failure> {
        let shown = self.path.display();
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
            Err(cause) => {
                return Err(Failure::io(format!("the cursor file {shown} cannot be read: {cause}")));
            }
        };
        let Kept { topic, cursor } = serde_json::from_str(&text).map_err(|fault| {
            Failure::usage(format!(
                "{shown} is not a cursor file ({fault}); remove it to start where --from says"
            ))
        })?;
        if topic != self.topic {
            return Err(Failure::usage(format!(
                "the cursor file {shown} is for the topic {topic}; use another"
            )));
        }
        Ok(Some(cursor))
    }

    /// Keeps `cursor`. A reader of the file, and a crash in between, find the old one or the new one.
    pub(crate) fn store(&self, cursor: Cursor) -> Result<(), Failure> {
        self.replace(cursor).map_err(|cause| {
            Failure::io(format!("the cursor file {} cannot be written: {cause}", self.path.display()))
        })
    }

    fn replace(&self, cursor: Cursor) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(&Kept { topic: self.topic.clone(), cursor })?;
        text.push(b'\n');
        // Beside the file, because a rename does not cross file systems.
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = Path::new(&temporary);
        let mut file = File::create(temporary)?;
        file.write_all(&text)?;
        // Else a power failure after the rename could leave an empty file under the name.
        file.sync_data()?;
        fs::rename(temporary, &self.path)
    }
}
