//! A log: a shared ring of packets with an index ring beside it.
//!
//! One writer, any number of readers, each with its own cursor. A reader is never waited for: one
//! that falls behind skips to the next keyframe and counts it. Payloads are FLV / Enhanced-RTMP
//! tag bodies everywhere. Sequence headers are entries like any other and are also kept aside,
//! by id, so that a reader that starts late has them.
//!
//! ```text
//! | header page | 8 pages of kept headers | index: entries of 64 bytes | payload ring (twice) |
//! ```
//!
//! Invariants
//! - Payload positions and indices are monotone; a place is its value modulo the ring's size.
//! - Tails are raised, then a release fence, before the first byte of what they leave behind is
//!   overwritten; nobody lowers them.
//! - Index order is not payload order (an audio message completes inside a video message), so a
//!   packet is there only if its index *and* its payload are at or above their tails.
//! - Readers see entries below the published head, which is stored after the commit's flip.
//!
//! Deliberately lacks: any notion of what a payload means beyond its [`EntryKind`].

mod reader;
mod writer;

mod rung;

pub use reader::{LogReader, Miss};
pub use rung::RungState;
pub use writer::{LogHeads, LogWriter, MappedLog, Reservation};

use super::map::{Access, Mapping, RingMapping, create_sealed, sealed_size};
use super::{MemoryError, PAGE_BYTES};
use crate::plan::LogSize;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const WHAT: &str = "log";
const MAGIC: u64 = u64::from_le_bytes(*b"TASUKI-L");
/// Raised with every change of this layout.
pub const VERSION: u32 = 2;

const VERSION_AT: usize = 8;
const ENTRIES_AT: usize = 12;
const PAYLOAD_BYTES_AT: usize = 16;
const PUBLISHED_AT: usize = 64;
const WAKE_AT: usize = 128;
const WAITERS_AT: usize = 132;
const INDEX_TAIL_AT: usize = 192;
const PAYLOAD_TAIL_AT: usize = 256;
const RUNG_STATE_AT: usize = 320;

const HEADER_SLOTS: usize = 8;
const HEADERS_AT: usize = PAGE_BYTES;
const HEADER_PREFIX_BYTES: usize = 16;
/// Longest sequence header or metadata that is kept aside.
pub const HEADER_BYTES_MAX: usize = PAGE_BYTES - HEADER_PREFIX_BYTES;
const INDEX_AT: usize = HEADERS_AT + HEADER_SLOTS * PAGE_BYTES;
const ENTRY_BYTES: usize = 64;
/// Largest log that is opened, a bound on what a hostile header can make us map.
const PAYLOAD_BYTES_MAX: u64 = 256 * 1024 * 1024;
const INDEX_ENTRIES_MAX: u32 = 1 << 20;
/// "None" among indices.
const NO_INDEX: u64 = u64::MAX;

/// What a packet is, as far as a log's readers must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A true IDR picture: decoding can start here.
    VideoIdr = 1,
    VideoInter = 2,
    /// A picture that no other picture refers to.
    VideoDisposable = 3,
    Audio = 4,
    VideoHeader = 5,
    AudioHeader = 6,
    Metadata = 7,
    /// Understood by nobody here, passed on untouched.
    VideoOther = 8,
    AudioOther = 9,
}

impl EntryKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::VideoIdr,
            2 => Self::VideoInter,
            3 => Self::VideoDisposable,
            4 => Self::Audio,
            5 => Self::VideoHeader,
            6 => Self::AudioHeader,
            7 => Self::Metadata,
            8 => Self::VideoOther,
            9 => Self::AudioOther,
            _ => return None,
        })
    }

    #[must_use]
    pub fn is_header(self) -> bool {
        self.header().is_some()
    }

    /// Which kind of header this is, if it is one.
    #[must_use]
    pub fn header(self) -> Option<HeaderKind> {
        match self {
            Self::VideoHeader => Some(HeaderKind::Video),
            Self::AudioHeader => Some(HeaderKind::Audio),
            Self::Metadata => Some(HeaderKind::Metadata),
            Self::VideoIdr
            | Self::VideoInter
            | Self::VideoDisposable
            | Self::Audio
            | Self::VideoOther
            | Self::AudioOther => None,
        }
    }

    #[must_use]
    pub fn is_video_frame(self) -> bool {
        matches!(self, Self::VideoIdr | Self::VideoInter | Self::VideoDisposable)
    }
}

/// Headers that are kept aside, each kind in slots of its own, so that no number of one kind
/// overwrites another that is still in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderKind {
    Video,
    Audio,
    Metadata,
}

impl HeaderKind {
    /// First slot and number of slots.
    const fn slots(self) -> (usize, usize) {
        match self {
            Self::Video => (0, 4),
            Self::Audio => (4, 2),
            Self::Metadata => (6, 2),
        }
    }

    const fn place(self, id: u32) -> usize {
        let (first, count) = self.slots();
        HEADERS_AT + (first + id as usize % count) * PAGE_BYTES
    }
}

/// Ids of the sequence headers in force, counted for each kind; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderIds {
    pub video: u32,
    pub audio: u32,
    pub metadata: u32,
}

/// One packet's entry in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub kind: EntryKind,
    /// Decode time on the session's timeline.
    pub dts_ms: i64,
    /// Presentation minus decode time.
    pub cts_ms: i32,
    pub length: u32,
    /// Where its payload begins in the payload ring.
    pub position: u64,
    /// Index of the last IDR at or before this entry.
    pub keyframe: Option<u64>,
    /// Sequence headers in force at this entry, itself included.
    pub headers: HeaderIds,
    /// For a source log: when it was complete, in µs of the monotonic clock. For a rung log: the
    /// source index it was made of.
    pub mark: u64,
}

impl Entry {
    #[must_use]
    pub fn pts_ms(&self) -> i64 {
        self.dts_ms + i64::from(self.cts_ms)
    }

    fn to_words(self) -> [u64; 8] {
        let Self { index, kind, dts_ms, cts_ms, length, position, keyframe, headers, mark } = self;
        let HeaderIds { video, audio, metadata } = headers;
        [
            index,
            dts_ms.cast_unsigned(),
            u64::from(cts_ms.cast_unsigned()) | (u64::from(length) << 32),
            position,
            keyframe.unwrap_or(NO_INDEX),
            u64::from(kind as u8) | (u64::from(video) << 32),
            u64::from(audio) | (u64::from(metadata) << 32),
            mark,
        ]
    }

    fn from_words(words: [u64; 8]) -> Option<Self> {
        let low = |word: u64| u32::try_from(word & 0xFFFF_FFFF).expect("masked");
        let high = |word: u64| u32::try_from(word >> 32).expect("shifted");
        let [index, dts, packed, position, keyframe, kind, ids, mark] = words;
        Some(Self {
            index,
            kind: EntryKind::from_byte(u8::try_from(low(kind)).ok()?)?,
            dts_ms: dts.cast_signed(),
            cts_ms: low(packed).cast_signed(),
            length: high(packed),
            position,
            keyframe: (keyframe != NO_INDEX).then_some(keyframe),
            headers: HeaderIds { video: high(kind), audio: low(ids), metadata: high(ids) },
            mark,
        })
    }
}

/// Why a packet cannot be put into a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("a message of {length} bytes is larger than this log takes ({max})")]
    TooLong { length: u64, max: u64 },
    #[error(
        "{open} bytes of unfinished messages and one of {length} do not fit a log of {capacity}"
    )]
    OpenTooLarge { open: u64, length: u64, capacity: u64 },
}

/// Makes a log memfd. For the supervisor.
pub fn create(size: LogSize) -> io::Result<OwnedFd> {
    let shape = Shape::new(size).ok_or(io::ErrorKind::InvalidInput)?;
    let fd = create_sealed(c"tasuki-log", shape.total_bytes())?;
    let mut header = [0; 24];
    header[..8].copy_from_slice(&MAGIC.to_le_bytes());
    header[VERSION_AT..VERSION_AT + 4].copy_from_slice(&VERSION.to_le_bytes());
    header[ENTRIES_AT..ENTRIES_AT + 4].copy_from_slice(&size.index_entries.to_le_bytes());
    header[PAYLOAD_BYTES_AT..].copy_from_slice(&size.payload_bytes.to_le_bytes());
    nix::sys::uio::pwrite(&fd, &header, 0)?;
    Ok(fd)
}

/// Sizes of a log's parts, checked.
#[derive(Clone, Copy)]
struct Shape {
    entries: usize,
    payload_bytes: usize,
}

impl Shape {
    fn new(size: LogSize) -> Option<Self> {
        let LogSize { payload_bytes, index_entries } = size;
        let legal = payload_bytes.is_power_of_two()
            && (PAGE_BYTES as u64..=PAYLOAD_BYTES_MAX).contains(&payload_bytes)
            && index_entries.is_power_of_two()
            && (64..=INDEX_ENTRIES_MAX).contains(&index_entries);
        let entries = usize::try_from(index_entries).ok()?;
        let payload_bytes = usize::try_from(payload_bytes).ok()?;
        legal.then_some(Self { entries, payload_bytes })
    }

    fn payload_at(self) -> usize {
        INDEX_AT + self.entries * ENTRY_BYTES
    }

    fn total_bytes(self) -> usize {
        self.payload_at() + self.payload_bytes
    }
}

/// A log as mapped by anybody.
struct LogMemory {
    plain: Mapping,
    payload: RingMapping,
    shape: Shape,
}

impl LogMemory {
    fn open(fd: &impl AsFd, access: Access) -> Result<Self, MemoryError> {
        let fd = fd.as_fd();
        let found = sealed_size(WHAT, fd)?;
        if found < INDEX_AT as u64 {
            return Err(MemoryError::Size { what: WHAT, found, expected: INDEX_AT as u64 });
        }
        let page = Mapping::new(fd, 0, PAGE_BYTES, Access::Read).map_err(MemoryError::io(WHAT))?;
        let magic = page.atomic_u64(0).load(Ordering::Relaxed);
        if magic != MAGIC {
            return Err(MemoryError::Magic { what: WHAT, found: magic });
        }
        let version = page.atomic_u32(VERSION_AT).load(Ordering::Relaxed);
        if version != VERSION {
            return Err(MemoryError::Version { what: WHAT, found: version, expected: VERSION });
        }
        let size = LogSize {
            payload_bytes: page.atomic_u64(PAYLOAD_BYTES_AT).load(Ordering::Relaxed),
            index_entries: page.atomic_u32(ENTRIES_AT).load(Ordering::Relaxed),
        };
        let shape = Shape::new(size)
            .ok_or(MemoryError::Damaged { what: WHAT, why: "impossible sizes in its header" })?;
        if found != shape.total_bytes() as u64 {
            let expected = shape.total_bytes() as u64;
            return Err(MemoryError::Size { what: WHAT, found, expected });
        }
        let plain = Mapping::new(fd, 0, shape.payload_at(), access);
        let payload = RingMapping::new(fd, shape.payload_at(), shape.payload_bytes, access);
        Ok(Self {
            plain: plain.map_err(MemoryError::io(WHAT))?,
            payload: payload.map_err(MemoryError::io(WHAT))?,
            shape,
        })
    }

    fn published(&self) -> &AtomicU64 {
        self.plain.atomic_u64(PUBLISHED_AT)
    }

    fn wake_word(&self) -> &AtomicU32 {
        self.plain.atomic_u32(WAKE_AT)
    }

    fn waiters(&self) -> &AtomicU32 {
        self.plain.atomic_u32(WAITERS_AT)
    }

    fn index_tail(&self) -> &AtomicU64 {
        self.plain.atomic_u64(INDEX_TAIL_AT)
    }

    fn payload_tail(&self) -> &AtomicU64 {
        self.plain.atomic_u64(PAYLOAD_TAIL_AT)
    }

    fn rung_state(&self) -> &AtomicU32 {
        self.plain.atomic_u32(RUNG_STATE_AT)
    }

    fn entry_at(&self, index: u64) -> usize {
        // The number of entries is a power of two.
        let place = index & (self.shape.entries as u64 - 1);
        let place = usize::try_from(place).expect("less than entries");
        INDEX_AT + place * ENTRY_BYTES
    }

    /// The entry of `index` if it is still there, whole with its payload.
    fn entry(&self, index: u64) -> Option<Entry> {
        let at = self.entry_at(index);
        let words = std::array::from_fn(|word| {
            self.plain.atomic_u64(at + word * 8).load(Ordering::Relaxed)
        });
        std::sync::atomic::fence(Ordering::Acquire);
        let entry = Entry::from_words(words)?;
        (entry.index == index && self.is_there(&entry)).then_some(entry)
    }

    /// The oldest index at or above `from` and below `head` whose entry is there.
    fn oldest(&self, from: u64, head: u64) -> u64 {
        let tail = self.index_tail().load(Ordering::Acquire);
        // No more than the ring has, whatever its words say: a reader trusts no writer.
        let held = head.saturating_sub(self.shape.entries as u64);
        let mut index = from.max(tail).max(held).min(head);
        while index < head && self.entry(index).is_none() {
            index += 1;
        }
        index
    }

    /// Are this entry and its payload at or above the tails?
    fn is_there(&self, entry: &Entry) -> bool {
        entry.index >= self.index_tail().load(Ordering::Acquire)
            && entry.position >= self.payload_tail().load(Ordering::Acquire)
            && u64::from(entry.length) <= self.shape.payload_bytes as u64
    }

    /// The header kept aside under `id`, unless it has been overwritten by a newer one.
    fn header(&self, kind: HeaderKind, id: u32) -> Option<Vec<u8>> {
        if id == 0 {
            return None;
        }
        let at = kind.place(id);
        let mut prefix = [0; HEADER_PREFIX_BYTES];
        self.plain.read(at, &mut prefix);
        let word = |at: usize| {
            u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]])
        };
        let length = word(4) as usize;
        if word(0) != id || length > HEADER_BYTES_MAX {
            return None;
        }
        let mut bytes = vec![0; length];
        self.plain.read(at + HEADER_PREFIX_BYTES, &mut bytes);
        (crc32fast::hash(&bytes) == word(8)).then_some(bytes)
    }
}

/// Wakes every reader that waits on `word`; with none waiting it is a cheap system call, and its
/// failure would only delay them until their bound.
fn wake_all(word: &AtomicU32) {
    let _woken = crate::kernel::futex_wake_all(word);
}

#[cfg(test)]
mod tests;
