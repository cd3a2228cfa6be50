//! Files that the command reads and replaces, whatever stands under their names: links, mounts, files of Windows tools.
//!
//! # Invariants
//! A file is replaced as a whole or not at all, and keeps its mode and its owner. The one exception is a file that
//! cannot be replaced, because it is mounted by itself or its folder cannot be written: it is written in place.
//! A symbolic link stays a link, and no temporary file is left behind by a write that fails.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use khala_core::text::without_byte_order_mark;

/// How many links are followed to a file, as Linux does.
const MOST_LINKS: usize = 40;

/// The bytes of a file, without a byte order mark before them.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    Ok(without_byte_order_mark(&bytes).to_vec())
}

/// The text of a file, without a byte order mark before it.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

/// A file to be replaced.
#[derive(Clone, Debug)]
pub(crate) struct Replaced {
    path: PathBuf,
    /// The mode of a file that is made anew; none for what the system gives.
    mode: Option<u32>,
}

impl Replaced {
    /// The file to which `path` leads, by as many symbolic links as there are. It need not be there yet.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_symlink() => path = folder(&path).join(fs::read_link(&path)?),
                Ok(found) if found.is_file() => return Ok(Self { path, mode: None }),
                Ok(_) => return Err(io::Error::other("it is not a file")),
                Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(Self { path, mode: None }),
                Err(cause) => return Err(cause),
            }
        }
        Err(io::Error::other("too many symbolic links"))
    }

    /// Makes the file readable by its owner alone, if it is made anew.
    #[must_use]
    pub(crate) fn private(mut self) -> Self {
        self.mode = Some(0o600);
        self
    }

    /// Where it stands, links followed.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        folder(&self.path)
    }

    /// Finds out whether the file can be written, and leaves it as it is.
    pub(crate) fn check(&self) -> io::Result<()> {
        match fs::read(&self.path) {
            Ok(content) => self.write(&content),
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                let temporary = self.temporary();
                self.create(&temporary)?;
                fs::remove_file(temporary)
            }
            Err(cause) => Err(cause),
        }
    }

    /// Replaces the content. A reader, and a crash in between, find the old content or the new one, unless the file
    /// can only be written in place.
    pub(crate) fn write(&self, content: &[u8]) -> io::Result<()> {
        // Beside the file, because a rename does not cross file systems.
        let temporary = self.temporary();
        let renamed = self.fill(&temporary, content).and_then(|()| fs::rename(&temporary, &self.path));
        let Err(cause) = renamed else { return Ok(()) };
        // It may hold a secret.
        let _ = fs::remove_file(&temporary);
        let cannot_be_replaced = matches!(
            cause.kind(),
            ErrorKind::ResourceBusy | ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
        );
        if cannot_be_replaced && self.path.exists() {
            // What keeps the file from being written in place too says less than the first cause.
            return self.write_in_place(content).map_err(|_| cause);
        }
        Err(cause)
    }

    /// Overwrites the file. It is cut off last, so that it is empty at no moment.
    fn write_in_place(&self, content: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all(content)?;
        file.set_len(content.len() as u64)?;
        file.sync_all()
    }

    fn fill(&self, temporary: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = self.create(temporary)?;
        match fs::metadata(&self.path) {
            Ok(old) => {
                #[cfg(unix)]
                give(&file, &old)?;
                file.set_permissions(old.permissions())?;
            }
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
        file.write_all(content)?;
        // Else a power failure after the rename could leave an empty file under the name.
        file.sync_data()
    }

    fn create(&self, temporary: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if let Some(mode) = self.mode {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        }
        match options.open(temporary) {
            // A process of the same number was killed at this point.
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(temporary)?;
                options.open(temporary)
            }
            opened => opened,
        }
    }

    fn temporary(&self) -> PathBuf {
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        temporary.into()
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Gives the new file to the owner of the old one: root that runs this must not lock the server out.
#[cfg(unix)]
fn give(file: &File, old: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};

    let new = file.metadata()?;
    if (new.uid(), new.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    fchown(file, Some(old.uid()), Some(old.gid()))
}
