//! Layout of the session memfd: header, commit record, command scratch, input and reply ring.
//!
//! Made by the supervisor at accept; sparse, so an idle connection costs a few pages.

use super::commit::{CommitWriter, Record};
use super::map::{Access, Mapping, RingMapping, create_sealed, sealed_size};
use super::{MemoryError, PAGE_BYTES, owner};
use crate::limits::{COMMIT_SLOT_BYTES, INPUT_RING_BYTES, REPLY_RING_BYTES, SCRATCH_BYTES};
use crate::message::Owner;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const WHAT: &str = "session memory";
const MAGIC: u64 = u64::from_le_bytes(*b"TASUKI-S");
/// Raised with every change of this layout.
pub const VERSION: u32 = 2;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 8;
const OWNER_AT: usize = 64;
const FLIP_AT: usize = 128;
const ACTIVITY_AT: usize = 192;

const COMMIT_AT: usize = PAGE_BYTES;
const SCRATCH_AT: usize = COMMIT_AT + 2 * COMMIT_SLOT_BYTES;
const PLAIN_BYTES: usize = SCRATCH_AT + SCRATCH_BYTES;
const INPUT_AT: usize = PLAIN_BYTES;
const REPLY_AT: usize = INPUT_AT + INPUT_RING_BYTES;
const TOTAL_BYTES: usize = REPLY_AT + REPLY_RING_BYTES;

/// What the owner is doing with the session; read after a death to find whom to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Activity {
    Idle = 0,
    Processing = 1,
}

/// Makes a session memfd whose owner word is `owner`. For the supervisor.
pub fn create(owner: Owner) -> io::Result<OwnedFd> {
    let fd = create_sealed(c"tasuki-session", TOTAL_BYTES)?;
    let mut header = [0; OWNER_AT + 4];
    header[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(&MAGIC.to_le_bytes());
    header[VERSION_AT..VERSION_AT + 4].copy_from_slice(&VERSION.to_le_bytes());
    header[OWNER_AT..].copy_from_slice(&owner::encode(owner).to_le_bytes());
    // One write instead of a mapping: the accept path is hot.
    let written = nix::sys::uio::pwrite(&fd, &header, 0)?;
    if written == header.len() { Ok(fd) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The owner word of a session memfd, without mapping it; `None` if it is damaged. For the
/// supervisor.
pub fn read_owner(fd: &impl AsFd) -> io::Result<Option<Owner>> {
    let mut word = [0; 4];
    let at = i64::try_from(OWNER_AT).expect("inside the first page");
    let read = nix::sys::uio::pread(fd, &mut word, at)?;
    Ok((read == word.len()).then(|| owner::decode(u32::from_le_bytes(word))).flatten())
}

/// What the last owner of a session memfd was doing with it, without mapping it. For the
/// supervisor, after the owner's death.
pub fn read_activity(fd: &impl AsFd) -> io::Result<Activity> {
    let mut word = [0; 4];
    let at = i64::try_from(ACTIVITY_AT).expect("inside the first page");
    let read = nix::sys::uio::pread(fd, &mut word, at)?;
    let processing = read == word.len() && u32::from_le_bytes(word) == Activity::Processing as u32;
    Ok(if processing { Activity::Processing } else { Activity::Idle })
}

/// The session memory as its owner, or somebody who looks for one, has it mapped.
pub struct SessionMemory {
    plain: Mapping,
    pub input: RingMapping,
    pub reply: RingMapping,
}

impl SessionMemory {
    /// Maps a session memfd after checking its seals, size, magic and version.
    pub fn open(fd: &impl AsFd) -> Result<Self, MemoryError> {
        let fd = fd.as_fd();
        let found = sealed_size(WHAT, fd)?;
        if found != TOTAL_BYTES as u64 {
            return Err(MemoryError::Size { what: WHAT, found, expected: TOTAL_BYTES as u64 });
        }
        let plain =
            Mapping::new(fd, 0, PLAIN_BYTES, Access::ReadWrite).map_err(MemoryError::io(WHAT))?;
        let magic = plain.atomic_u64(MAGIC_AT).load(Ordering::Relaxed);
        if magic != MAGIC {
            return Err(MemoryError::Magic { what: WHAT, found: magic });
        }
        let version = plain.atomic_u32(VERSION_AT).load(Ordering::Relaxed);
        if version != VERSION {
            return Err(MemoryError::Version { what: WHAT, found: version, expected: VERSION });
        }
        let ring = |at, bytes| {
            RingMapping::new(fd, at, bytes, Access::ReadWrite).map_err(MemoryError::io(WHAT))
        };
        Ok(Self {
            input: ring(INPUT_AT, INPUT_RING_BYTES)?,
            reply: ring(REPLY_AT, REPLY_RING_BYTES)?,
            plain,
        })
    }

    /// The owner word; also a futex.
    #[must_use]
    pub fn owner(&self) -> &AtomicU32 {
        self.plain.atomic_u32(OWNER_AT)
    }

    /// The active record.
    pub fn load_record(&self) -> Result<Record, MemoryError> {
        Record::load(&self.plain, COMMIT_AT, self.flip_word())
    }

    /// Makes what `writer` has staged the record.
    pub fn flip(&self, writer: &mut CommitWriter) {
        writer.flip(&self.plain, COMMIT_AT, self.flip_word());
    }

    /// Says what the owner is about to do, for the blame after a death.
    pub fn set_activity(&self, activity: Activity) {
        self.plain.atomic_u32(ACTIVITY_AT).store(activity as u32, Ordering::Relaxed);
    }

    #[must_use]
    pub fn activity(&self) -> Activity {
        match self.plain.atomic_u32(ACTIVITY_AT).load(Ordering::Relaxed) {
            1 => Activity::Processing,
            _ => Activity::Idle,
        }
    }

    /// Copies command bytes into the scratch.
    pub fn scratch_write(&self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= SCRATCH_BYTES, "inside the scratch");
        self.plain.write(SCRATCH_AT + offset, from);
    }

    /// Copies command bytes out of the scratch.
    pub fn scratch_read(&self, offset: usize, into: &mut [u8]) {
        assert!(offset + into.len() <= SCRATCH_BYTES, "inside the scratch");
        self.plain.read(SCRATCH_AT + offset, into);
    }

    fn flip_word(&self) -> &AtomicU64 {
        self.plain.atomic_u64(FLIP_AT)
    }
}

/// The commit record of a session that somebody else owns, for who follows it.
pub struct RecordReader(Mapping);

impl RecordReader {
    /// Maps what holds the record, read-only, after the checks of [`SessionMemory::open`].
    pub fn open(fd: &impl AsFd) -> Result<Self, MemoryError> {
        let fd = fd.as_fd();
        let found = sealed_size(WHAT, fd)?;
        if found != TOTAL_BYTES as u64 {
            return Err(MemoryError::Size { what: WHAT, found, expected: TOTAL_BYTES as u64 });
        }
        Mapping::new(fd, 0, SCRATCH_AT, Access::Read).map(Self).map_err(MemoryError::io(WHAT))
    }

    /// The active record, as [`SessionMemory::load_record`].
    pub fn load(&self) -> Result<Record, MemoryError> {
        Record::load(&self.0, COMMIT_AT, self.0.atomic_u64(FLIP_AT))
    }
}

#[cfg(test)]
mod tests {
    use super::super::commit::Section;
    use super::*;
    use crate::id::Generation;

    #[test]
    fn a_fresh_session_is_offered_empty_and_costs_a_few_pages() {
        let fd = create(Owner::Offered(Generation(5))).unwrap();
        let memory = SessionMemory::open(&fd).unwrap();
        let word = memory.owner().load(Ordering::Relaxed);
        assert_eq!(owner::decode(word), Some(Owner::Offered(Generation(5))));
        assert_eq!(memory.load_record().unwrap(), Record::default());
        let blocks = nix::sys::stat::fstat(&fd).unwrap().st_blocks;
        assert!(blocks * 512 <= 16 * 1024, "{blocks} blocks");
    }

    #[test]
    fn what_an_owner_was_doing_is_read_without_a_mapping() {
        let fd = create(Owner::Offered(Generation(5))).unwrap();
        assert_eq!(read_activity(&fd).unwrap(), Activity::Idle);
        let memory = SessionMemory::open(&fd).unwrap();
        memory.set_activity(Activity::Processing);
        assert_eq!(read_activity(&fd).unwrap(), Activity::Processing);
        memory.set_activity(Activity::Idle);
        assert_eq!(read_activity(&fd).unwrap(), Activity::Idle);
    }

    #[test]
    fn a_second_mapping_finds_what_the_first_committed() {
        let fd = create(Owner::Offered(Generation(1))).unwrap();
        let first = SessionMemory::open(&fd).unwrap();
        let mut writer = CommitWriter::resume(first.load_record().unwrap());
        writer.stage(Section::Ingest, |b| b.extend(b"position")).unwrap();
        first.flip(&mut writer);
        first.scratch_write(100, b"connect");
        drop(first);
        let second = SessionMemory::open(&fd).unwrap();
        assert_eq!(second.load_record().unwrap().section(Section::Ingest), b"position");
        let mut scratch = [0; 7];
        second.scratch_read(100, &mut scratch);
        assert_eq!(&scratch, b"connect");
    }

    #[test]
    fn foreign_memory_is_refused_by_name() {
        let fd = create_sealed(c"foreign", TOTAL_BYTES).unwrap();
        let error = SessionMemory::open(&fd).err().unwrap().to_string();
        assert!(error.contains("not ours"), "{error}");
        let small = create_sealed(c"small", PAGE_BYTES).unwrap();
        assert!(SessionMemory::open(&small).is_err());
    }
}
