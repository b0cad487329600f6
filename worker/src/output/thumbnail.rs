//! A stream's thumbnail: a JPEG beside its HLS files, replaced every few seconds.

use crate::leftovers::Leftover;
use crate::pipeline::Thumbnail;
use jpeg_encoder::{ColorType, Encoder, EncodingError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tasuki_shared::clock;
use tasuki_shared::limits::{THUMBNAIL_QUALITY, THUMBNAIL_SWEEP_AGE, THUMBNAIL_SWEEP_FILES_MAX};

/// Of this process.
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum ThumbnailError {
    #[error(transparent)]
    Jpeg(#[from] EncodingError),
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
}

/// Writes it; for a thread that may wait for a disk.
pub fn write(path: PathBuf, picture: Thumbnail) -> Leftover {
    Box::new(move || {
        if let Err(error) = try_write(&path, &picture) {
            // The same will be so in four seconds, and for every other stream.
            let total = FAILED.fetch_add(1, Ordering::Relaxed) + 1;
            if total.is_power_of_two() {
                tracing::warn!(%error, total, "a thumbnail cannot be written");
            }
        }
    })
}

/// Takes it away when its stream is over.
pub fn remove(path: PathBuf) -> Leftover {
    Box::new(move || {
        // Where there was none, there is none.
        let _gone = fs::remove_file(path);
    })
}

fn try_write(path: &Path, picture: &Thumbnail) -> Result<(), ThumbnailError> {
    let Thumbnail { width, height, samples } = picture;
    let mut jpeg = Vec::with_capacity(samples.len() / 8);
    Encoder::new(&mut jpeg, THUMBNAIL_QUALITY).encode(
        samples,
        *width,
        *height,
        ColorType::Ycbcr,
    )?;
    let failed = |error| ThumbnailError::File { path: path.to_owned(), error };
    if let Some(directory) = path.parent()
        && !directory.is_dir()
    {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    if !path.exists() {
        sweep(path.parent());
    }
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, jpeg).and_then(|()| fs::rename(&unfinished, path)).map_err(failed)
}

/// What streams left whose worker died at their end.
fn sweep(directory: Option<&Path>) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(clock::unix_ms());
    let entries = directory.and_then(|path| fs::read_dir(path).ok()).into_iter().flatten();
    for entry in entries.take(THUMBNAIL_SWEEP_FILES_MAX).flatten() {
        let changed = entry.metadata().and_then(|metadata| metadata.modified());
        let age = changed.ok().and_then(|at| now.duration_since(at).ok());
        if age.is_some_and(|age| age > THUMBNAIL_SWEEP_AGE) {
            let _gone = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is a JPEG, takes the place of the last one, and goes with its stream.
    #[test]
    fn a_thumbnail_is_replaced_and_removed() {
        let root = std::env::temp_dir().join(format!("tasuki-thumbnail-{}", std::process::id()));
        let path = root.join("live").join("cam.jpg");
        let picture = |value| Thumbnail { width: 16, height: 8, samples: vec![value; 16 * 8 * 3] };
        write(path.clone(), picture(0))();
        let first = fs::read(&path).unwrap();
        assert!(first.starts_with(&[0xff, 0xd8, 0xff]) && first.ends_with(&[0xff, 0xd9]));
        write(path.clone(), picture(200))();
        assert_ne!(fs::read(&path).unwrap(), first);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        remove(path.clone())();
        assert!(!path.exists());
        fs::remove_dir_all(root).unwrap();
    }
}
