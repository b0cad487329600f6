//! Where decoding can go on after the last frame that was given, and what is lost where it cannot.
//! Pure: entries of the source log are looked up by whoever has it.

use crate::pipeline::CutFrame;
use std::ops::Range;
use tasuki_shared::limits::REORDERED_FRAMES_MAX;
use tasuki_shared::memory::log::{Entry, EntryKind};

/// The keyframe that the frame after `last` needs, unless `last` or the keyframe was overwritten.
#[must_use]
pub fn of(last: CutFrame, entry: impl Fn(u64) -> Option<Entry>) -> Option<u64> {
    let keyframe = entry(last.source_index)?.keyframe?;
    entry(keyframe).map(|entry| entry.index)
}

/// Can decoding begin with this entry?
#[must_use]
pub fn is_keyframe(index: u64, entry: impl Fn(u64) -> Option<Entry>) -> bool {
    entry(index).is_some_and(|entry| entry.kind == EntryKind::VideoIdr)
}

/// Frames that were sent before `last` and are to be shown after it: a decoder had them.
#[must_use]
pub fn owed(last: CutFrame, entry: impl Fn(u64) -> Option<Entry>) -> u64 {
    let first = last.source_index.saturating_sub(REORDERED_FRAMES_MAX);
    count(first..last.source_index, last, entry)
}

/// Frames received and not given that nobody can decode without the keyframe that is gone: up to
/// the next one, or to `head`.
#[must_use]
pub fn lost(last: CutFrame, head: u64, entry: impl Fn(u64) -> Option<Entry>) -> u64 {
    let next = (last.source_index + 1..head).find(|index| is_keyframe(*index, &entry));
    let first = last.source_index.saturating_sub(REORDERED_FRAMES_MAX);
    count(first..next.unwrap_or(head), last, entry)
}

fn count(range: Range<u64>, last: CutFrame, entry: impl Fn(u64) -> Option<Entry>) -> u64 {
    let later = range.filter(|index| {
        entry(*index).is_some_and(|e| e.kind.is_video_frame() && e.pts_ms() > last.pts_ms)
    });
    later.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::memory::log::HeaderIds;

    /// A log of pictures `(kind, pts)`, of which those before `tail` are overwritten.
    fn log(pictures: &[(EntryKind, i64)], tail: u64) -> impl Fn(u64) -> Option<Entry> {
        let mut keyframe = None;
        let entries: Vec<Entry> = (0..)
            .zip(pictures)
            .map(|(index, &(kind, pts_ms))| {
                if kind == EntryKind::VideoIdr {
                    keyframe = Some(index);
                }
                let headers = HeaderIds::default();
                let (dts_ms, cts_ms, length, position, mark) = (pts_ms, 0, 1, index, 0);
                Entry { index, kind, dts_ms, cts_ms, length, position, keyframe, headers, mark }
            })
            .collect();
        move |index| {
            let found = entries.iter().find(|entry| entry.index == index).copied();
            found.filter(|entry| entry.index >= tail)
        }
    }

    const IDR: EntryKind = EntryKind::VideoIdr;
    const INTER: EntryKind = EntryKind::VideoInter;

    /// The keyframe counts only while it is there.
    #[test]
    fn an_anchor_is_a_keyframe_that_is_still_in_the_log() {
        let pictures = [(IDR, 0), (INTER, 40), (INTER, 80), (IDR, 120), (INTER, 160)];
        let last = |source_index, pts_ms| CutFrame { source_index, pts_ms };
        assert_eq!(of(last(2, 80), log(&pictures, 0)), Some(0));
        assert_eq!(of(last(2, 80), log(&pictures, 1)), None);
        assert_eq!(of(last(4, 160), log(&pictures, 1)), Some(3));
        assert_eq!(of(last(1, 40), log(&pictures, 2)), None, "the last frame is gone itself");
    }

    /// Lost is what was received and not shown, up to the next keyframe; what a decoder had inside
    /// is part of it, what was shown is not.
    #[test]
    fn what_is_lost_ends_with_the_next_keyframe_and_counts_what_the_decoder_had() {
        let plain = [(IDR, 0), (INTER, 40), (INTER, 80), (INTER, 120), (IDR, 160), (INTER, 200)];
        let last = CutFrame { source_index: 1, pts_ms: 40 };
        assert_eq!((lost(last, 6, log(&plain, 1)), owed(last, log(&plain, 1))), (2, 0));
        assert_eq!(lost(last, 3, log(&plain, 1)), 1);
        // Sent 0 120 40 80: the picture of 120 was inside when that of 40 was given.
        let reordered = [(IDR, 0), (INTER, 120), (INTER, 40), (INTER, 80), (INTER, 240)];
        let last = CutFrame { source_index: 2, pts_ms: 40 };
        assert_eq!((lost(last, 5, log(&reordered, 1)), owed(last, log(&reordered, 1))), (3, 1));
        let before_keyframe = CutFrame { source_index: 3, pts_ms: 120 };
        assert_eq!(lost(before_keyframe, 6, log(&plain, 1)), 0, "the next is a keyframe");
    }
}
