//! Directories of streams that nobody comes back to: those of publishers that left, and of a
//! server that was killed.

use crate::output::hls::place::{FileName, STREAM_FILE, StreamFile};
use std::path::Path;
use std::time::Duration;
use tasuki_shared::limits::{HLS_SWEEP_AGE, HLS_SWEEP_DIRECTORIES_MAX, HLS_SWEEP_FILES_MAX};

/// Removes, under the root of `own` (`<root>/<application>/<name>`), directories of other streams
/// whose newest file is older than their window and a while. Returns how many.
pub fn sweep(own: &Path, now_unix_ms: u64) -> usize {
    let Some(root) = own.parent().and_then(Path::parent) else { return 0 };
    let mut swept = 0;
    let mut left = HLS_SWEEP_DIRECTORIES_MAX;
    for application in children(root) {
        for stream in children(&application) {
            if left == 0 {
                return swept;
            }
            left -= 1;
            if stream != own && is_stale(&stream, now_unix_ms) {
                swept += usize::from(remove(&stream));
            }
        }
    }
    swept
}

fn children(directory: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let entries = entries.take(HLS_SWEEP_DIRECTORIES_MAX).filter_map(Result::ok);
    // The entry's own type: a symbolic link is not followed.
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// Only what says that it is one of ours is.
fn is_stale(stream: &Path, now_unix_ms: u64) -> bool {
    let Ok(text) = std::fs::read(stream.join(STREAM_FILE)) else { return false };
    let Ok(about) = serde_json::from_slice::<StreamFile>(&text) else { return false };
    let age = Duration::from_millis(about.window_ms).saturating_add(HLS_SWEEP_AGE);
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let Ok(entries) = std::fs::read_dir(stream) else { return false };
    let entries = entries.take(HLS_SWEEP_FILES_MAX).filter_map(Result::ok);
    let modified = entries.filter_map(|entry| entry.metadata().ok()?.modified().ok());
    let newest = modified.filter_map(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).max();
    let newest = newest.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    now_unix_ms.saturating_sub(newest) > age_ms
}

/// The file that tells whose it is goes last, so that what is left of a try is found again.
fn remove(stream: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(stream) else { return false };
    for entry in entries.take(HLS_SWEEP_FILES_MAX).filter_map(Result::ok) {
        let name = entry.file_name();
        let is_ours = |name: &str| FileName::parse(name).is_some() || name.starts_with('.');
        if name != STREAM_FILE && name.to_str().is_some_and(is_ours) {
            let _tried_again_by_another_stream = std::fs::remove_file(entry.path());
        }
    }
    let _as_above = std::fs::remove_file(stream.join(STREAM_FILE));
    std::fs::remove_dir(stream).is_ok()
}
