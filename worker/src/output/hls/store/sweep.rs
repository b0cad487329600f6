//! Directories of streams that nobody comes back to: those of publishers that left, and of a
//! server that was killed.
//!
//! A publisher may come back at the very moment. So a directory is taken out of its name first, by one
//! rename, and looked at again: what a publisher was in meanwhile gets its name back, and one that comes
//! later finds the name free and begins in a directory of its own.

use crate::output::hls::place::{FileName, STREAM_FILE, StreamFile};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tasuki_shared::limits::{HLS_SWEEP_AGE, HLS_SWEEP_DIRECTORIES_MAX, HLS_SWEEP_FILES_MAX};

/// A directory whose name begins like this is being removed: no publisher and no application has such a
/// name, so it is served and written by nobody.
const ASIDE_PREFIX: &str = "~swept.";

/// Removes, under the root of `own` (`<root>/<application>/<name>`), directories of other streams
/// in which nothing has happened for their window and a while. Returns how many.
///
/// It looks at all of them, for any order of a directory's names may put the stale ones last; what
/// bounds its time is how many files it removes. The next stream's beginning goes on.
pub fn sweep(own: &Path, now_unix_ms: u64) -> usize {
    sweep_at_most(own, now_unix_ms, HLS_SWEEP_FILES_MAX)
}

pub(super) fn sweep_at_most(own: &Path, now_unix_ms: u64, files_max: usize) -> usize {
    let Some(root) = own.parent().and_then(Path::parent) else { return 0 };
    let mut swept = 0;
    let mut left = files_max;
    let streams = children(root).flat_map(|application| children(&application));
    for stream in streams.take(HLS_SWEEP_DIRECTORIES_MAX) {
        if left == 0 {
            break;
        }
        if stream != own && is_stale(&stream, now_unix_ms) {
            swept += usize::from(clear(&stream, now_unix_ms, &mut left) == Removed::All);
        }
    }
    swept
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    // The entry's own type: a symbolic link is not followed.
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path())
}

/// Only what says that it is one of ours is, also one that was set aside. Each file that comes or goes is in the directory's own
/// time, so that a live one is told by that alone.
pub(super) fn is_stale(stream: &Path, now_unix_ms: u64) -> bool {
    let Some(touched_ms) = touched_unix_ms(stream) else { return false };
    let is_quiet_for = |time: Duration| {
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        now_unix_ms.saturating_sub(touched_ms) > time_ms
    };
    if !is_quiet_for(HLS_SWEEP_AGE) {
        return false;
    }
    let Ok(text) = std::fs::read(stream.join(STREAM_FILE)) else { return false };
    let Ok(about) = serde_json::from_slice::<StreamFile>(&text) else { return false };
    is_quiet_for(Duration::from_millis(about.window_ms).saturating_add(HLS_SWEEP_AGE))
}

fn touched_unix_ms(directory: &Path) -> Option<u64> {
    let modified = std::fs::symlink_metadata(directory).ok()?.modified().ok()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    All,
    InPart,
}

/// Of one that was stale a moment ago.
pub(super) fn clear(stream: &Path, now_unix_ms: u64, left: &mut usize) -> Removed {
    if is_aside(stream) {
        // What another turn left.
        return remove(stream, left);
    }
    let Some(aside) = set_aside(stream) else { return Removed::InPart };
    if !is_stale(&aside, now_unix_ms) {
        tracing::info!(directory = %stream.display(), "its publisher is back");
        put_back(&aside, stream);
        return Removed::InPart;
    }
    let removed = remove(&aside, left);
    if removed == Removed::InPart && !aside.join(STREAM_FILE).exists() {
        // What is left is not ours.
        put_back(&aside, stream);
    }
    removed
}

/// Takes a directory out of its name.
pub(super) fn set_aside(stream: &Path) -> Option<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let aside = stream.with_file_name(format!("{ASIDE_PREFIX}{}.{count}", std::process::id()));
    rename(stream, &aside).then_some(aside)
}

/// Not over what has the name by now.
fn put_back(aside: &Path, stream: &Path) {
    if !rename(aside, stream) {
        tracing::warn!(directory = %aside.display(), "this has no name any more");
    }
}

fn rename(from: &Path, to: &Path) -> bool {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE).is_ok()
}

fn is_aside(stream: &Path) -> bool {
    let name = stream.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(ASIDE_PREFIX))
}

/// The file that tells whose it is goes last, so that what is left of a try is found again.
pub(super) fn remove(stream: &Path, left: &mut usize) -> Removed {
    let Ok(entries) = std::fs::read_dir(stream) else { return Removed::InPart };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let is_ours = |name: &str| FileName::parse(name).is_some() || name.starts_with('.');
        if name == STREAM_FILE || !name.to_str().is_some_and(is_ours) {
            continue;
        }
        if *left == 0 {
            return Removed::InPart;
        }
        *left -= 1;
        let _tried_again_by_another_stream = std::fs::remove_file(entry.path());
    }
    let _as_above = std::fs::remove_file(stream.join(STREAM_FILE));
    match std::fs::remove_dir(stream) {
        Ok(()) => Removed::All,
        Err(_) => Removed::InPart,
    }
}
