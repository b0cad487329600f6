//! Which recordings are removed: too old, or the oldest of too many bytes.
//!
//! The decision is pure. The shell removes only regular files whose names a recorder gives, and
//! of those none that a recorder, in whatever process, holds locked.

use super::record::disk::lock;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use tasuki_shared::limits::RETENTION_FILES_MAX;

/// How long and how much is kept; zero is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub keep_ms: u64,
    pub keep_bytes: u64,
}

/// A file as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    pub path: PathBuf,
    pub modified_unix_ms: u64,
    pub bytes: u64,
}

/// Files to remove, oldest first. `writing` and files that are not ours stay, whatever their
/// age; all of ours count for the size.
#[must_use]
pub fn decide(
    retention: Retention,
    now_unix_ms: u64,
    files: &[FoundFile],
    writing: Option<&Path>,
) -> Vec<PathBuf> {
    let mut ours: Vec<_> = files.iter().filter(|file| is_ours(&file.path)).collect();
    ours.sort_by_key(|file| (file.modified_unix_ms, &file.path));
    let mut total = ours.iter().fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
    let mut removed = Vec::new();
    for file in ours {
        if writing == Some(file.path.as_path()) {
            continue;
        }
        let age_ms = now_unix_ms.saturating_sub(file.modified_unix_ms);
        let too_old = retention.keep_ms > 0 && age_ms > retention.keep_ms;
        let too_many = retention.keep_bytes > 0 && total > retention.keep_bytes;
        if too_old || too_many {
            total = total.saturating_sub(file.bytes);
            removed.push(file.path.clone());
        }
    }
    removed
}

/// Does a file have a name that a recorder gives: `<name>_<rung>_<yyyymmdd>T<hhmmss>Z.mp4`?
#[must_use]
pub fn is_ours(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let Some(stem) = name.strip_suffix(".mp4") else { return false };
    let mut parts = stem.rsplitn(3, '_');
    let (Some(time), Some(rung), Some(stream)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    !rung.is_empty()
        && !stream.is_empty()
        && time.len() == 16
        && time.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

/// What a directory holds of ours, at most `RETENTION_FILES_MAX`.
pub fn list(directory: &Path) -> io::Result<Vec<FoundFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        // A file may be gone by now, which is as good as not listed.
        let Ok(metadata) = entry.metadata() else { continue };
        if !metadata.is_file() || !is_ours(&path) {
            continue;
        }
        let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
        let modified_unix_ms =
            modified.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        files.push(FoundFile { path, modified_unix_ms, bytes: metadata.len() });
        if files.len() == RETENTION_FILES_MAX {
            break;
        }
    }
    Ok(files)
}

/// Performs one round; returns how many files were removed.
pub fn apply(
    retention: Retention,
    directory: &Path,
    now_unix_ms: u64,
    writing: Option<&Path>,
) -> io::Result<u64> {
    if retention.keep_ms == 0 && retention.keep_bytes == 0 {
        return Ok(0);
    }
    let mut removed = 0;
    for path in decide(retention, now_unix_ms, &list(directory)?, writing) {
        if remove_unless_locked(&path)? {
            removed += 1;
        }
    }
    Ok(removed)
}

fn remove_unless_locked(path: &Path) -> io::Result<bool> {
    let file = match OpenOptions::new().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match lock(file) {
        Ok(_held) => std::fs::remove_file(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn file(name: &str, modified_unix_ms: u64, bytes: u64) -> FoundFile {
        FoundFile { path: PathBuf::from("/r").join(name), modified_unix_ms, bytes }
    }

    fn names(removed: &[PathBuf]) -> Vec<&str> {
        removed.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect()
    }

    const OLD: &str = "cam_720p_20240101T000000Z.mp4";
    const MIDDLE: &str = "cam_720p_20240101T010000Z.mp4";
    const NEW: &str = "cam_source_20240101T020000Z.mp4";

    #[test]
    fn only_files_older_than_the_limit_go() {
        let files =
            [file(NEW, 3 * HOUR_MS, 1), file(OLD, HOUR_MS, 1), file(MIDDLE, 2 * HOUR_MS, 1)];
        let retention = Retention { keep_ms: 2 * HOUR_MS, keep_bytes: 0 };
        let removed = decide(retention, 4 * HOUR_MS, &files, None);
        assert_eq!(names(&removed), [OLD]);
    }

    #[test]
    fn the_oldest_go_until_the_size_fits() {
        let files = [file(NEW, 3, 50), file(OLD, 1, 50), file(MIDDLE, 2, 50)];
        let retention = Retention { keep_ms: 0, keep_bytes: 60 };
        assert_eq!(names(&decide(retention, 10, &files, None)), [OLD, MIDDLE]);
        let retention = Retention { keep_ms: 0, keep_bytes: 150 };
        assert!(decide(retention, 10, &files, None).is_empty());
    }

    #[test]
    fn the_file_being_written_and_foreign_files_stay() {
        let files = [file(OLD, 1, 50), file("holiday.mp4", 1, 50), file(NEW, 3, 50)];
        let retention = Retention { keep_ms: 1, keep_bytes: 1 };
        let writing = PathBuf::from("/r").join(OLD);
        assert_eq!(names(&decide(retention, 10, &files, Some(&writing))), [NEW]);
    }

    #[test]
    fn no_limit_keeps_everything() {
        let files = [file(OLD, 1, u64::MAX), file(NEW, 2, u64::MAX)];
        let retention = Retention { keep_ms: 0, keep_bytes: 0 };
        assert!(decide(retention, u64::MAX, &files, None).is_empty());
    }

    #[test]
    fn names_are_ours_only_in_the_exact_pattern() {
        for ours in [OLD, NEW, "a_b_c_d_20240101T000000Z.mp4"] {
            assert!(is_ours(Path::new(ours)), "{ours}");
        }
        for foreign in [
            "cam_720p_20240101T000000Z.mp4.part",
            "cam_720p_20240101T00000Z.mp4",
            "cam_720p_20240101t000000Z.mp4",
            "cam_20240101T000000Z.mp4",
            "__20240101T000000Z.mp4",
            "holiday.mp4",
            "",
        ] {
            assert!(!is_ours(Path::new(foreign)), "{foreign}");
        }
    }
}
