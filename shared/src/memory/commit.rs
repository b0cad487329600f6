//! The commit record: two slots, flipped by one Release store.
//!
//! A record is a fixed number of [`Section`]s of bytes, each encoded by its owner at its own
//! boundary (a message, a frame, a written batch). [`CommitWriter::stage`] replaces a section in
//! this process's memory; [`CommitWriter::flip`] copies what the inactive slot lacks and makes it
//! the record. So an output's event in mid-frame never commits half a frame.
//!
//! Invariants: the active slot is never written; a slot carries its sequence and a checksum over
//! every section; whoever does not own the session reads the flip word again after copying.
//!
//! All integers are little-endian. Nothing here knows what a section means.

use super::MemoryError;
use super::map::Mapping;
use crate::limits::COMMIT_SLOT_BYTES;
use std::sync::atomic::{AtomicU64, Ordering};

/// Raised with every change of a section's encoding. A reader refuses any other by name.
pub const LAYOUT_VERSION: u32 = 4;
const MAGIC: u32 = u32::from_le_bytes(*b"TCMT");

/// A part of the record with one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Parse position, chunk reader, reply ring, source log heads.
    Ingest,
    /// Publish session: what was negotiated.
    Publish,
    Timeline,
    /// Frames encoded, anchor, rung and audio log heads.
    Pipeline,
    /// Cursor, batch in flight and what was heard of the origin, of every push.
    Pushes,
    /// Which files are this stream's recordings.
    Recordings,
    /// What operators count of the stream since its publish.
    Totals,
}

impl Section {
    pub const ALL: [Self; 7] = [
        Self::Ingest,
        Self::Publish,
        Self::Timeline,
        Self::Pipeline,
        Self::Pushes,
        Self::Recordings,
        Self::Totals,
    ];
    const COUNT: usize = Self::ALL.len();

    /// Most bytes this section may have.
    #[must_use]
    pub const fn bytes_max(self) -> usize {
        match self {
            Self::Ingest => 2048,
            Self::Publish => 1280,
            Self::Timeline => 512,
            Self::Pipeline => 1024,
            Self::Pushes => 24 * 1024,
            Self::Recordings => 64,
            Self::Totals => 256,
        }
    }

    const fn position(self) -> usize {
        self as usize
    }

    const fn offset(self) -> usize {
        let mut offset = HEADER_BYTES;
        let mut before = 0;
        while before < self as usize {
            offset += Self::ALL[before].bytes_max();
            before += 1;
        }
        offset
    }
}

const HEADER_BYTES: usize = 64;
const _: () = assert!(
    Section::Totals.offset() + Section::Totals.bytes_max() <= COMMIT_SLOT_BYTES,
    "the sections fit a slot"
);
const _: () = assert!(16 + Section::COUNT * 6 + 4 <= HEADER_BYTES, "the header fits");

/// A section that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("section {section:?} is {bytes} bytes, at most {} fit", .section.bytes_max())]
pub struct SectionTooLong {
    pub section: Section,
    pub bytes: usize,
}

struct Staged {
    bytes: Vec<u8>,
    checksum: u32,
    /// Counts changes; a slot that holds an older count needs copying.
    version: u64,
}

/// The owner's side.
pub struct CommitWriter {
    sequence: u64,
    staged: [Staged; Section::COUNT],
    /// Version of each section that each slot holds.
    held: [[u64; Section::COUNT]; 2],
}

impl CommitWriter {
    /// Goes on after `sequence` with the sections of `record`.
    #[must_use]
    pub fn resume(record: Record) -> Self {
        let Record { sequence, sections } = record;
        let staged = sections.map(|bytes| {
            let checksum = crc32fast::hash(&bytes);
            Staged { bytes, checksum, version: 1 }
        });
        Self { sequence, staged, held: [[0; Section::COUNT]; 2] }
    }

    /// Replaces a section by what `encode` appends to an empty buffer.
    pub fn stage(
        &mut self,
        section: Section,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SectionTooLong> {
        let staged = &mut self.staged[section.position()];
        staged.bytes.clear();
        encode(&mut staged.bytes);
        let bytes = staged.bytes.len();
        if bytes > section.bytes_max() {
            return Err(SectionTooLong { section, bytes });
        }
        staged.checksum = crc32fast::hash(&staged.bytes);
        staged.version += 1;
        Ok(())
    }

    /// Makes everything staged the record: one Release store.
    pub fn flip(&mut self, slots: &Mapping, slots_offset: usize, word: &AtomicU64) {
        let next = self.sequence + 1;
        let slot = slot_of(next);
        let base = slots_offset + slot * COMMIT_SLOT_BYTES;
        for section in Section::ALL {
            let staged = &self.staged[section.position()];
            let held = &mut self.held[slot][section.position()];
            if *held != staged.version {
                slots.write(base + section.offset(), &staged.bytes);
                *held = staged.version;
            }
        }
        slots.write(base, &self.header(next));
        word.store(next, Ordering::Release);
        self.sequence = next;
    }

    /// Number of flips so far.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn header(&self, sequence: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&LAYOUT_VERSION.to_le_bytes());
        header[8..16].copy_from_slice(&sequence.to_le_bytes());
        for (position, staged) in self.staged.iter().enumerate() {
            let length = u16::try_from(staged.bytes.len()).expect("checked when staged");
            let at = 16 + position * 6;
            header[at..at + 2].copy_from_slice(&length.to_le_bytes());
            header[at + 2..at + 6].copy_from_slice(&staged.checksum.to_le_bytes());
        }
        let checksum = crc32fast::hash(&header[..HEADER_BYTES - 4]);
        header[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        header
    }
}

/// A record as read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub sequence: u64,
    sections: [Vec<u8>; Section::COUNT],
}

impl Record {
    #[must_use]
    pub fn section(&self, section: Section) -> &[u8] {
        &self.sections[section.position()]
    }

    /// Reads the active slot. Sequence 0 means that nothing was ever committed: an empty record.
    pub fn load(
        slots: &Mapping,
        slots_offset: usize,
        word: &AtomicU64,
    ) -> Result<Self, MemoryError> {
        const WHAT: &str = "commit record";
        let damaged = |why| MemoryError::Damaged { what: WHAT, why };
        // An owner may flip while somebody else reads: bounded, for it flips on and on.
        for _ in 0..64 {
            let sequence = word.load(Ordering::Acquire);
            if sequence == 0 {
                return Ok(Self::default());
            }
            let outcome = Self::copy(slots, slots_offset, sequence);
            if word.load(Ordering::Acquire) == sequence {
                return outcome;
            }
        }
        Err(damaged("the record never held still"))
    }

    /// Reads the slot that is not active, as it was before the last flip. Only for a session that
    /// nobody commits.
    pub fn load_stale(
        slots: &Mapping,
        slots_offset: usize,
        word: &AtomicU64,
    ) -> Result<Self, MemoryError> {
        match word.load(Ordering::Acquire) {
            0 | 1 => Ok(Self::default()),
            newest => Self::copy(slots, slots_offset, newest - 1),
        }
    }

    fn copy(slots: &Mapping, slots_offset: usize, sequence: u64) -> Result<Self, MemoryError> {
        const WHAT: &str = "commit record";
        let damaged = |why| MemoryError::Damaged { what: WHAT, why };
        let base = slots_offset + slot_of(sequence) * COMMIT_SLOT_BYTES;
        let mut header = [0; HEADER_BYTES];
        slots.read(base, &mut header);
        let word32 = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let magic = word32(0);
        if magic != MAGIC {
            return Err(MemoryError::Magic { what: WHAT, found: u64::from(magic) });
        }
        let version = word32(4);
        if version != LAYOUT_VERSION {
            let expected = LAYOUT_VERSION;
            return Err(MemoryError::Version { what: WHAT, found: version, expected });
        }
        if crc32fast::hash(&header[..HEADER_BYTES - 4]) != word32(HEADER_BYTES - 4) {
            return Err(damaged("header checksum"));
        }
        let stored = u64::from(word32(8)) | (u64::from(word32(12)) << 32);
        if stored != sequence {
            return Err(damaged("the slot is of another sequence"));
        }
        let mut record = Self { sequence, ..Self::default() };
        for section in Section::ALL {
            let at = 16 + section.position() * 6;
            let length = usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
            if length > section.bytes_max() {
                return Err(damaged("section length"));
            }
            let mut bytes = vec![0; length];
            slots.read(base + section.offset(), &mut bytes);
            if crc32fast::hash(&bytes) != word32(at + 2) {
                return Err(damaged("section checksum"));
            }
            record.sections[section.position()] = bytes;
        }
        Ok(record)
    }
}

fn slot_of(sequence: u64) -> usize {
    usize::from(sequence % 2 == 1)
}

#[cfg(test)]
mod tests {
    use super::super::map::{Access, create_sealed};
    use super::*;
    use std::os::fd::AsFd;

    fn slots() -> (Mapping, AtomicU64) {
        let fd = create_sealed(c"commit", 2 * COMMIT_SLOT_BYTES).unwrap();
        let map = Mapping::new(fd.as_fd(), 0, 2 * COMMIT_SLOT_BYTES, Access::ReadWrite).unwrap();
        (map, AtomicU64::new(0))
    }

    #[test]
    fn what_is_staged_but_not_flipped_does_not_exist() {
        let (map, word) = slots();
        let mut writer = CommitWriter::resume(Record::default());
        writer.stage(Section::Ingest, |b| b.extend(b"one")).unwrap();
        writer.flip(&map, 0, &word);
        writer.stage(Section::Ingest, |b| b.extend(b"two")).unwrap();
        let record = Record::load(&map, 0, &word).unwrap();
        assert_eq!(record.section(Section::Ingest), b"one");
        writer.flip(&map, 0, &word);
        let record = Record::load(&map, 0, &word).unwrap();
        assert_eq!((record.section(Section::Ingest), record.sequence), (&b"two"[..], 2));
    }

    #[test]
    fn sections_that_did_not_change_survive_any_number_of_flips() {
        let (map, word) = slots();
        let mut writer = CommitWriter::resume(Record::default());
        writer.stage(Section::Publish, |b| b.extend(b"kept")).unwrap();
        for round in 0_u32..9 {
            writer.stage(Section::Ingest, |b| b.extend(round.to_le_bytes())).unwrap();
            writer.flip(&map, 0, &word);
            let record = Record::load(&map, 0, &word).unwrap();
            assert_eq!(record.section(Section::Publish), b"kept");
            assert_eq!(record.section(Section::Ingest), round.to_le_bytes());
            // A successor that resumes from the record goes on with the same sections.
            writer = CommitWriter::resume(record);
        }
    }

    #[test]
    fn a_damaged_active_slot_is_refused_by_name() {
        let (map, word) = slots();
        let mut writer = CommitWriter::resume(Record::default());
        writer.stage(Section::Timeline, |b| b.extend(b"time")).unwrap();
        writer.flip(&map, 0, &word);
        map.write(COMMIT_SLOT_BYTES + Section::Timeline.offset(), b"x");
        let error = Record::load(&map, 0, &word).unwrap_err().to_string();
        assert!(error.contains("section checksum"), "{error}");
    }

    #[test]
    fn loading_the_inactive_slot_would_be_caught() {
        // Negative control: the slot of the previous sequence is not the record.
        let (map, word) = slots();
        let mut writer = CommitWriter::resume(Record::default());
        writer.flip(&map, 0, &word);
        writer.flip(&map, 0, &word);
        assert!(Record::load_stale(&map, 0, &word).is_ok_and(|old| old.sequence == 1));
        assert!(Record::copy(&map, 0, 3).is_err(), "slot 1 holds sequence 1, not 3");
    }

    #[test]
    fn a_section_over_its_bound_is_refused_before_anything_is_written() {
        let mut writer = CommitWriter::resume(Record::default());
        let too_long = vec![0; Section::Timeline.bytes_max() + 1];
        assert!(writer.stage(Section::Timeline, |b| b.extend(&too_long)).is_err());
    }
}
