//! Files that others made: evidence of recycles, thumbnails of streams. Names come from outside and
//! are taken for names alone.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tasuki_shared::id::PublicName;
use tasuki_shared::limits::{CONSOLE_FILE_BYTES_MAX, EVIDENCE_FILES_MAX};
use tasuki_shared::status::Status;

/// The directory of a recycle's evidence, if the status tells of one of this name.
#[must_use]
pub fn evidence_directory(status: &Status, name: &str) -> Option<PathBuf> {
    let told = status.recycles.iter().filter_map(|recycle| recycle.evidence.as_deref());
    let mut found =
        told.map(Path::new).filter(|path| path.file_name().is_some_and(|it| it == name));
    found.next().map(Path::to_owned)
}

/// Names of the files in it, sorted.
pub fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(directory)?.take(EVIDENCE_FILES_MAX).flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// A file of it.
pub fn read(directory: &Path, name: &str) -> io::Result<Vec<u8>> {
    if PublicName::parse(name).is_err() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(directory.join(name))?;
    file.take(CONSOLE_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > CONSOLE_FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is too large"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::health::tests::node;
    use tasuki_shared::status::RecycleStatus;

    /// Only what the status tells of is found, and no name leaves it.
    #[test]
    fn nothing_beside_the_evidence_is_read() {
        let root =
            std::env::temp_dir().join(format!("tasuki-console-files-{}", std::process::id()));
        let directory = root.join("20260101T000000Z-recycle1-g2");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("smaps.txt"), "Rss: 1 kB").unwrap();
        std::fs::write(root.join("secret"), "no").unwrap();
        let mut status = node();
        let evidence = Some(directory.to_str().unwrap().to_owned());
        status.recycles = vec![RecycleStatus { evidence, ..RecycleStatus::default() }];
        let found = evidence_directory(&status, "20260101T000000Z-recycle1-g2").unwrap();
        assert_eq!(names(&found).unwrap(), ["smaps.txt"]);
        assert_eq!(read(&found, "smaps.txt").unwrap(), b"Rss: 1 kB");
        for name in ["../secret", "..", ".", "", "/etc/passwd", "a/b"] {
            assert!(read(&found, name).is_err(), "{name}");
        }
        for name in ["..", "", "20260101T000000Z-recycle1-g3", "secret"] {
            assert_eq!(evidence_directory(&status, name), None, "{name}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}
