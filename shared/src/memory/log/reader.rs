//! The reading end of a log, in another thread or process than its writer.

use super::{Entry, HeaderIds, HeaderKind, LogMemory, wake_all};
use crate::kernel;
use crate::memory::MemoryError;
use crate::memory::map::Access;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

/// Why a packet could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// Not published yet.
    NotYet,
    /// Overwritten: the reader fell behind.
    Lapped,
}

/// A reader of one log. Cursors are the caller's.
pub struct LogReader {
    pub(super) memory: LogMemory,
    access: Access,
}

impl LogReader {
    /// `Access::ReadWrite` lets the reader announce that it waits; a reader with a read-only fd
    /// has to ask again by itself.
    pub fn open(fd: &impl AsFd, access: Access) -> Result<Self, MemoryError> {
        Ok(Self { memory: LogMemory::open(fd, access)?, access })
    }

    /// Index after the newest published entry.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.memory.published().load(Ordering::Acquire)
    }

    /// Copies the packet of `index` into `payload` (cleared first).
    pub fn read(&self, index: u64, payload: &mut Vec<u8>) -> Result<Entry, Miss> {
        payload.clear();
        self.append(index, payload)
    }

    /// Copies the packet of `index` behind what `into` has. What is appended counts only when this
    /// succeeds.
    pub fn append(&self, index: u64, into: &mut Vec<u8>) -> Result<Entry, Miss> {
        let entry = self.entry(index)?;
        let at = into.len();
        into.resize(at + entry.length as usize, 0);
        self.memory.payload.read(entry.position, &mut into[at..]);
        // What was copied counts only if it was still there afterwards.
        fence(Ordering::SeqCst);
        if self.memory.is_there(&entry) { Ok(entry) } else { Err(Miss::Lapped) }
    }

    /// The entry of `index` without its payload.
    pub fn entry(&self, index: u64) -> Result<Entry, Miss> {
        if index >= self.head() {
            return Err(Miss::NotYet);
        }
        self.memory.entry(index).ok_or(Miss::Lapped)
    }

    /// The oldest entry at or after `from` that is there, or the head.
    #[must_use]
    pub fn oldest(&self, from: u64) -> u64 {
        self.memory.oldest(from, self.head())
    }

    /// Sequence headers in force at the newest entry.
    #[must_use]
    pub fn headers(&self) -> HeaderIds {
        let newest = self.head().checked_sub(1).and_then(|index| self.memory.entry(index));
        newest.map_or_else(HeaderIds::default, |newest| newest.headers)
    }

    /// Where a lapped reader goes on: the newest keyframe that is still there, if any.
    #[must_use]
    pub fn keyframe(&self) -> Option<u64> {
        let newest = self.memory.entry(self.head().checked_sub(1)?)?;
        self.memory.entry(newest.keyframe?).map(|entry| entry.index)
    }

    /// A header kept aside.
    #[must_use]
    pub fn header(&self, kind: HeaderKind, id: u32) -> Option<Vec<u8>> {
        self.memory.header(kind, id)
    }

    /// Waits until the head is beyond `index`, at most `wait`. May return early.
    pub fn wait_beyond(&self, index: u64, wait: Duration) {
        let word = self.memory.wake_word();
        let seen = word.load(Ordering::SeqCst);
        if self.head() > index {
            return;
        }
        match self.access {
            Access::ReadWrite => {
                self.memory.waiters().fetch_add(1, Ordering::SeqCst);
                // Looked at again after announcing, so that a publish in between is not missed.
                if self.head() <= index {
                    sleep(word, seen, wait);
                }
                self.memory.waiters().fetch_sub(1, Ordering::SeqCst);
            }
            Access::Read => sleep(word, seen, wait),
        }
    }

    /// Wakes whoever waits in this log, as a publish would; to end a reading thread.
    pub fn wake(&self) {
        if self.access == Access::ReadWrite {
            self.memory.wake_word().fetch_add(1, Ordering::SeqCst);
            wake_all(self.memory.wake_word());
        }
    }
}

/// One bounded sleep on the wake word. Why it ended does not matter: the caller looks at the head.
fn sleep(word: &AtomicU32, seen: u32, wait: Duration) {
    let _ended = kernel::futex_wait(word, seen, Some(wait));
}
