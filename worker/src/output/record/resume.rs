//! Going on with the file of another owner: found, waited for, repaired and read.
//!
//! The file in progress is the newest one that carries the mark of the recording's series. Its
//! last owner is dead, then the kernel has dropped its lock; or it has been told to let go, then
//! it still writes what it was fed, in this file or in one after it, and holds its lock until it
//! has. So once the lock is held, and no newer file has appeared, the file says it all.

use super::SeriesId;
use super::disk::reopen;
use super::note::{FragmentNote, HeadNote};
use super::repair::{RepairError, head_note, repair_locked};
use crate::output::retention;
use nix::fcntl::Flock;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tasuki_shared::limits::RECORD_RESUME_FILES_MAX;

/// A file to go on with, locked and whole.
#[derive(Debug)]
pub struct Resumed<F = Flock<File>> {
    pub path: PathBuf,
    pub file: F,
    pub bytes: u64,
    pub fragments: u64,
    /// Bytes of a torn tail that were cut off.
    pub cut_bytes: u64,
    pub head: HeadNote,
    /// Of the last fragment; of the head in a file without any.
    pub note: FragmentNote,
}

/// Why no file goes on.
#[derive(Debug, thiserror::Error)]
pub enum NotResumed {
    #[error("there is no file of this recording")]
    NoFile,
    #[error("its last owner does not let go of the file")]
    Held,
    #[error("the file does not say where it ends")]
    NoNote,
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] RepairError),
}

impl From<io::Error> for NotResumed {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.into())
    }
}

/// May one wait on?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    Left,
    Over,
}

/// Finds and opens the file of `series` whose name begins with `prefix`. `wait` is called while
/// somebody else holds it, and says for how long that goes on.
pub fn resume(
    directory: &Path,
    prefix: &str,
    series: SeriesId,
    mut wait: impl FnMut() -> Patience,
) -> Result<Resumed, NotResumed> {
    loop {
        let path = newest(directory, prefix, series)?.ok_or(NotResumed::NoFile)?;
        match reopen(&path) {
            Ok(file) => {
                let is_newest = newest(directory, prefix, series)?.as_ref() == Some(&path);
                if is_newest && file.metadata()?.nlink() > 0 {
                    return read(path, file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        if wait() == Patience::Over {
            return Err(NotResumed::Held);
        }
    }
}

/// Recordings of one rendition in the order of their names.
pub fn of_rendition(directory: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let named = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // What follows the prefix must be the time alone: `a_b` is no prefix of `a_b_c`.
        name.strip_prefix(prefix).is_some_and(|time| !time.contains('_'))
    };
    let files = match retention::list(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut paths: Vec<_> = files.into_iter().map(|file| file.path).filter(named).collect();
    paths.sort();
    Ok(paths)
}

fn newest(directory: &Path, prefix: &str, series: SeriesId) -> io::Result<Option<PathBuf>> {
    let paths = of_rendition(directory, prefix)?;
    // The wall clock may have been set back: the number decides, not the name.
    let number = |path: &PathBuf| {
        let head = head_note(&mut File::open(path).ok()?).ok()??;
        (head.series == series).then_some(head.number)
    };
    let newest = paths.into_iter().rev().take(RECORD_RESUME_FILES_MAX);
    let numbered = newest.filter_map(|path| Some((number(&path)?, path)));
    Ok(numbered.max_by_key(|(number, _)| *number).map(|(_, path)| path))
}

fn read(path: PathBuf, mut file: Flock<File>) -> Result<Resumed, NotResumed> {
    let (report, notes) = repair_locked(&mut file)?;
    let head = notes.head.ok_or(NotResumed::NoNote)?;
    let note = match report.fragments {
        0 => head.start,
        _ => notes.last.ok_or(NotResumed::NoNote)?,
    };
    let (bytes, fragments, cut_bytes) = (report.kept_bytes, report.fragments, report.cut_bytes);
    Ok(Resumed { path, file, bytes, fragments, cut_bytes, head, note })
}
