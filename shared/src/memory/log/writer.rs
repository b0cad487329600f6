//! The writing end of a log: reserve, fill, append, publish after the commit.

use super::{
    Entry, EntryKind, HEADER_BYTES_MAX, HEADER_PREFIX_BYTES, HeaderIds, HeaderKind, LogError,
    LogMemory, NO_INDEX, WHAT, wake_all,
};
use crate::failpoint::{self, Point};
use crate::memory::MemoryError;
use crate::memory::map::{Access, RingMapping};
use std::os::fd::AsFd;
use std::sync::atomic::{Ordering, fence};

/// Beyond any count of entries or bytes that a log can reach.
const COUNT_MAX: u64 = 1 << 56;
/// Pages are asked for in pieces of this size.
const POPULATE_BYTES: usize = 128 * 1024;
/// A longer copy may use stores that pass earlier ones (non-temporal ones in memcpy(3)), and so
/// needs a full fence after the tail was raised. No read of a publisher's ring is longer.
const COPY_BYTES_MAX: usize = 128 * 1024;

/// What of a log belongs into the commit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHeads {
    /// Index of the next entry.
    pub index_head: u64,
    /// Payload position of the next reservation.
    pub reserve_head: u64,
    /// Index of the last IDR.
    pub keyframe: Option<u64>,
    pub headers: HeaderIds,
}

impl LogHeads {
    /// Encoded size.
    pub const BYTES: usize = 36;

    /// A log in which nothing is.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            index_head: 0,
            reserve_head: 0,
            keyframe: None,
            headers: HeaderIds { video: 0, audio: 0, metadata: 0 },
        }
    }

    /// Appends the little-endian encoding.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self { index_head, reserve_head, keyframe, headers } = *self;
        let HeaderIds { video, audio, metadata } = headers;
        for word in [index_head, reserve_head, keyframe.unwrap_or(NO_INDEX)] {
            into.extend(word.to_le_bytes());
        }
        for word in [video, audio, metadata] {
            into.extend(word.to_le_bytes());
        }
    }

    /// Decodes what [`Self::encode`] wrote.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let word =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let half =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Self {
            index_head: word(0),
            reserve_head: word(8),
            keyframe: (word(16) != NO_INDEX).then_some(word(16)),
            headers: HeaderIds { video: half(24), audio: half(28), metadata: half(32) },
        }
    }

    /// Behind every entry that was ever put: what a reader that trusts the uncommitted tail finds.
    fn with_tail(mut self, memory: &LogMemory) -> Self {
        // Bounded by the ring: an entry says its own index.
        while let Some(entry) = memory.entry(self.index_head) {
            self.index_head += 1;
            let end = entry.position + u64::from(entry.length);
            self.reserve_head = self.reserve_head.max(end);
            (self.keyframe, self.headers) = (entry.keyframe, entry.headers);
        }
        self
    }
}

/// A place for a payload that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub position: u64,
    pub length: u32,
    /// Bytes already there.
    pub fill: u32,
}

/// A log that is mapped by who may become its writer: looked into, not written.
pub struct MappedLog(LogMemory);

impl MappedLog {
    pub fn open(fd: &impl AsFd) -> Result<Self, MemoryError> {
        LogMemory::open(fd, Access::ReadWrite).map(Self)
    }

    /// The entry of a committed index, if it is still there.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<Entry> {
        self.0.entry(index)
    }
}

/// The one writer of a log.
pub struct LogWriter {
    pub(super) memory: LogMemory,
    heads: LogHeads,
    /// Payload bytes whose pages were asked for; on the first lap, ahead of the writing.
    populated: usize,
}

impl LogWriter {
    /// Maps a log and goes on from committed heads.
    pub fn resume(fd: &impl AsFd, heads: LogHeads) -> Result<Self, MemoryError> {
        Self::resume_mapped(MappedLog::open(fd)?, heads)
    }

    /// As [`Self::resume`], for a log that was mapped before.
    pub fn resume_mapped(log: MappedLog, heads: LogHeads) -> Result<Self, MemoryError> {
        let MappedLog(memory) = log;
        let damaged = |why| MemoryError::Damaged { what: WHAT, why };
        let heads =
            if failpoint::skips(Point::CommittedHeads) { heads.with_tail(&memory) } else { heads };
        if heads.keyframe.is_some_and(|index| index >= heads.index_head) {
            return Err(damaged("a keyframe beyond the head"));
        }
        // Positions are counted bytes; no connection lives long enough to come near this.
        if heads.index_head > COUNT_MAX || heads.reserve_head > COUNT_MAX {
            return Err(damaged("impossible heads"));
        }
        // Stored again: the last owner may have died between its flip and this store.
        memory.published().store(heads.index_head, Ordering::Release);
        let capacity = memory.payload.capacity();
        let populated = usize::try_from(heads.reserve_head).unwrap_or(capacity).min(capacity);
        Ok(Self { memory, heads, populated: populated / POPULATE_BYTES * POPULATE_BYTES })
    }

    #[must_use]
    pub fn heads(&self) -> LogHeads {
        self.heads
    }

    /// Longest message this log takes.
    #[must_use]
    pub fn message_bytes_max(&self) -> u64 {
        self.capacity() / 4
    }

    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.memory.payload.capacity() as u64
    }

    /// Would a reservation of `length` come so near to `open` that it must be relocated, and that
    /// be committed, first? `open_bytes` is the size of all unfinished messages: relocating early
    /// keeps the copy apart from its source.
    #[must_use]
    pub fn would_overtake(&self, open: &Reservation, length: u32, open_bytes: u64) -> bool {
        let head = self.heads.reserve_head + u64::from(length) + open_bytes;
        open.position + self.capacity() < head
    }

    /// Is this a reservation that this log can have?
    #[must_use]
    pub fn owns(&self, open: &Reservation) -> bool {
        let end = open.position.checked_add(u64::from(open.length));
        open.fill <= open.length
            && end.is_some_and(|end| end <= self.heads.reserve_head)
            && open.position + self.capacity() >= self.heads.reserve_head
    }

    /// Checks that a message of `length` fits beside `open_bytes` of unfinished ones, with room
    /// to relocate them: capacity ≥ newest + 2 × Σ open.
    pub fn check(&self, length: u32, open_bytes: u64) -> Result<(), LogError> {
        let (length, capacity) = (u64::from(length), self.capacity());
        if length > self.message_bytes_max() {
            return Err(LogError::TooLong { length, max: self.message_bytes_max() });
        }
        if length + 2 * open_bytes > capacity {
            return Err(LogError::OpenTooLarge { open: open_bytes, length, capacity });
        }
        Ok(())
    }

    /// Sets `length` bytes aside. Raises the payload tail over what will be overwritten by copies
    /// of at most `COPY_BYTES_MAX` each.
    pub fn reserve(&mut self, length: u32) -> Reservation {
        let position = self.heads.reserve_head;
        self.heads.reserve_head += u64::from(length);
        self.populate();
        let tail = self.heads.reserve_head.saturating_sub(self.capacity());
        raise(self.memory.payload_tail(), tail);
        Reservation { position, length, fill: 0 }
    }

    /// Copies the next bytes of a message to their place.
    pub fn fill(&mut self, reservation: &mut Reservation, bytes: &[u8]) {
        let added = u32::try_from(bytes.len()).expect("a message is at most 4 MiB");
        if bytes.len() > COPY_BYTES_MAX {
            fence(Ordering::SeqCst);
        }
        assert!(reservation.fill + added <= reservation.length, "inside the reservation");
        self.memory.payload.write(reservation.position + u64::from(reservation.fill), bytes);
        reservation.fill += added;
    }

    /// Copies an open reservation to the head; its old place is free once that is committed.
    pub fn relocate(&mut self, open: &mut Reservation) -> Result<(), LogError> {
        let (length, capacity) = (u64::from(open.length), self.capacity());
        if self.heads.reserve_head + length > open.position + capacity {
            return Err(LogError::OpenTooLarge { open: length, length, capacity });
        }
        let fresh = self.reserve(open.length);
        fence(Ordering::SeqCst);
        self.memory.payload.copy_within(open.position, fresh.position, open.fill as usize);
        open.position = fresh.position;
        Ok(())
    }

    /// Bytes of a reservation or entry, in place; for the owner only.
    #[must_use]
    pub fn bytes(&self, position: u64, length: u32) -> &[u8] {
        self.memory.payload.private_bytes(position, length as usize)
    }

    /// Makes a filled reservation the next entry; it exists once committed and published.
    pub fn append(
        &mut self,
        reservation: Reservation,
        kind: EntryKind,
        dts_ms: i64,
        cts_ms: i32,
        mark: u64,
    ) -> Entry {
        assert_eq!(reservation.fill, reservation.length, "a whole payload");
        let index = self.heads.index_head;
        if kind == EntryKind::VideoIdr {
            self.heads.keyframe = Some(index);
        }
        if let Some(header) = kind.header() {
            self.keep_header(header, reservation);
        }
        let entry = Entry {
            index,
            kind,
            dts_ms,
            cts_ms,
            length: reservation.length,
            position: reservation.position,
            keyframe: self.heads.keyframe,
            headers: self.heads.headers,
            mark,
        };
        let entries = self.memory.shape.entries as u64;
        raise(self.memory.index_tail(), (index + 1).saturating_sub(entries));
        let at = self.memory.entry_at(index);
        for (position, word) in entry.to_words().into_iter().enumerate() {
            self.memory.plain.atomic_u64(at + position * 8).store(word, Ordering::Relaxed);
        }
        self.heads.index_head += 1;
        entry
    }

    /// Reserves, fills and appends in one go.
    pub fn put(
        &mut self,
        payload: &[&[u8]],
        kind: EntryKind,
        dts_ms: i64,
        cts_ms: i32,
        mark: u64,
    ) -> Result<Entry, LogError> {
        let length: usize = payload.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).map_err(|_| LogError::TooLong {
            length: length as u64,
            max: self.message_bytes_max(),
        })?;
        self.check(length, 0)?;
        let mut reservation = self.reserve(length);
        for part in payload {
            self.fill(&mut reservation, part);
        }
        Ok(self.append(reservation, kind, dts_ms, cts_ms, mark))
    }

    /// Shows readers what has been committed, and wakes them. Call after the flip.
    pub fn publish(&self) {
        // Nobody else stores it: what it says already needs no waking.
        if self.memory.published().load(Ordering::Relaxed) == self.heads.index_head {
            return;
        }
        self.memory.published().store(self.heads.index_head, Ordering::Release);
        self.memory.wake_word().fetch_add(1, Ordering::SeqCst);
        if self.memory.waiters().load(Ordering::SeqCst) != 0 {
            wake_all(self.memory.wake_word());
        }
    }

    /// Up to where readers see it.
    #[must_use]
    pub fn published_head(&self) -> u64 {
        self.memory.published().load(Ordering::Relaxed)
    }

    /// The entry of `index`, for the owner's own outputs: committed or not.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<Entry> {
        (index < self.heads.index_head).then(|| self.memory.entry(index)).flatten()
    }

    /// Is this entry's payload still whole?
    #[must_use]
    pub fn is_there(&self, entry: &Entry) -> bool {
        self.memory.is_there(entry)
    }

    /// A header kept aside.
    #[must_use]
    pub fn header(&self, kind: HeaderKind, id: u32) -> Option<Vec<u8>> {
        self.memory.header(kind, id)
    }

    /// Where a reader goes on that was lapped and needs no keyframe: the oldest entry at or after
    /// `from` that is there, or the head.
    #[must_use]
    pub fn oldest(&self, from: u64) -> u64 {
        self.memory.oldest(from, self.heads.index_head)
    }

    /// Wakes readers without showing them anything new.
    pub fn wake(&self) {
        self.memory.wake_word().fetch_add(1, Ordering::SeqCst);
        wake_all(self.memory.wake_word());
    }

    /// The payload ring, to be written from by the kernel.
    #[must_use]
    pub fn payload(&self) -> &RingMapping {
        &self.memory.payload
    }

    /// A first lap costs a fault per page otherwise, a third of what relaying a message costs.
    fn populate(&mut self) {
        let capacity = self.memory.payload.capacity();
        while self.populated < capacity && self.heads.reserve_head > self.populated as u64 {
            self.memory.payload.populate(self.populated, POPULATE_BYTES);
            self.populated += POPULATE_BYTES;
        }
    }

    /// A header of more than `HEADER_BYTES_MAX` is only an entry; its maker has to refuse it.
    fn keep_header(&mut self, kind: HeaderKind, reservation: Reservation) {
        let bytes = self.bytes(reservation.position, reservation.length);
        if bytes.len() > HEADER_BYTES_MAX {
            return;
        }
        let id = match kind {
            HeaderKind::Video => self.heads.headers.video + 1,
            HeaderKind::Audio => self.heads.headers.audio + 1,
            HeaderKind::Metadata => self.heads.headers.metadata + 1,
        };
        let mut page = Vec::with_capacity(HEADER_PREFIX_BYTES + bytes.len());
        page.extend(id.to_le_bytes());
        page.extend(reservation.length.to_le_bytes());
        page.extend(crc32fast::hash(bytes).to_le_bytes());
        page.extend([0; 4]);
        page.extend(bytes);
        self.memory.plain.write(kind.place(id), &page);
        match kind {
            HeaderKind::Video => self.heads.headers.video = id,
            HeaderKind::Audio => self.heads.headers.audio = id,
            HeaderKind::Metadata => self.heads.headers.metadata = id,
        }
    }
}

/// Raises a tail, then fences, so that a reader that copied overwritten bytes sees the new tail:
/// the reader's own fence, between its copy and its look at the tail, is the other half.
fn raise(tail: &std::sync::atomic::AtomicU64, to: u64) {
    if tail.load(Ordering::Relaxed) < to {
        tail.store(to, Ordering::Relaxed);
        fence(Ordering::Release);
    }
}
