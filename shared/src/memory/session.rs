//! Layout of the session memfd: header, commit record, command scratch, input and reply ring.
//!
//! The supervisor makes it at accept, empty, and that is all it does: whoever adopts the session
//! first gives the memory its size, seals it and writes the header. So an accept costs one system
//! call, and a connection that nobody adopts costs no page.
//!
//! ```text
//!  empty ──ftruncate──▶ sized ──seals──▶ sealed ──owner word, version, then magic──▶ ours
//! ```
//! A process that dies on the way leaves one of these states, and [`SessionMemory::finish`] goes
//! on from any of them. Until the magic is there the owner word is what the lease says. Sizing
//! again is harmless, for nobody maps it before it is sealed; only one process at a time has the
//! lease, for the one before was reaped. Sparse, so an idle connection costs a few pages.
//!
//! It keeps the mode that memfd_create(2) gives. The mode would matter to another uid that was
//! given the fd and opens it once more through its own /proc, as readers of logs do; this fd goes
//! to workers alone, and /proc/PID/fd of a process is closed to other uids.

use super::commit::{CommitWriter, Record};
use super::map::{self, Access, Mapping, RingMapping, sealed_size};
use super::{MemoryError, PAGE_BYTES, owner};
use crate::limits::{COMMIT_SLOT_BYTES, INPUT_RING_BYTES, REPLY_RING_BYTES, SCRATCH_BYTES};
use crate::message::Owner;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
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
const PACKET_AT: usize = 256;
const COMMITTED_AT: usize = 264;

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

/// Where the owner's work on a session stood; compared after two deaths to find whom to blame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkPlace {
    /// The packet that its codecs were given last: its source-log index and one; 0 is none.
    pub packet: u64,
    /// The last frame that was committed, counted in the same way.
    pub committed: u64,
}

/// Makes a session memfd, empty as yet. For the supervisor.
pub fn create() -> io::Result<OwnedFd> {
    map::create_unsized(c"tasuki-session")
}

/// The owner word of a session memfd, without mapping it; `None` while nobody has written one, and
/// then the owner is who the lease says. For the supervisor.
pub fn read_owner(fd: &impl AsFd) -> Result<Option<Owner>, MemoryError> {
    let mut header = [0; OWNER_AT + 4];
    let read = nix::sys::uio::pread(fd, &mut header, 0)
        .map_err(|errno| MemoryError::Io { what: WHAT, source: errno.into() })?;
    // A file that is shorter has no header; what is missing stays zero.
    let (mut magic, mut word) = ([0; 8], [0; 4]);
    magic.copy_from_slice(&header[MAGIC_AT..MAGIC_AT + 8]);
    word.copy_from_slice(&header[OWNER_AT..]);
    match u64::from_le_bytes(magic) {
        0 => Ok(None),
        MAGIC if read == header.len() => owner::decode(u32::from_le_bytes(word))
            .map(Some)
            .ok_or(MemoryError::Damaged { what: WHAT, why: "the owner word means nothing" }),
        found => Err(MemoryError::Magic { what: WHAT, found }),
    }
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

/// Where the last owner of a session memfd was with it. As [`read_activity`].
pub fn read_work_place(fd: &impl AsFd) -> io::Result<WorkPlace> {
    let word = |at: usize| {
        let mut word = [0; 8];
        let at = i64::try_from(at).expect("inside the first page");
        // What is missing stays zero.
        nix::sys::uio::pread(fd, &mut word, at)?;
        io::Result::Ok(u64::from_le_bytes(word))
    };
    Ok(WorkPlace { packet: word(PACKET_AT)?, committed: word(COMMITTED_AT)? })
}

/// The session memory as its owner, or somebody who looks for one, has it mapped.
pub struct SessionMemory {
    plain: Arc<Mapping>,
    pub input: RingMapping,
    pub reply: RingMapping,
}

impl SessionMemory {
    /// Does what is left to do until the memory is as it should be, and maps it. For the one
    /// process that has the lease; `expected` is the owner that the lease names.
    pub fn finish(fd: &impl AsFd, expected: Owner) -> Result<Self, MemoryError> {
        map::size_and_seal(WHAT, fd.as_fd(), TOTAL_BYTES)?;
        let plain = map_plain(fd.as_fd())?;
        if plain.atomic_u64(MAGIC_AT).load(Ordering::Relaxed) == 0 {
            plain.atomic_u32(OWNER_AT).store(owner::encode(expected), Ordering::Relaxed);
            plain.atomic_u32(VERSION_AT).store(VERSION, Ordering::Relaxed);
            // Whoever sees the magic sees the rest.
            plain.atomic_u64(MAGIC_AT).store(MAGIC, Ordering::Release);
        }
        Self::mapped(fd.as_fd(), plain)
    }

    /// Maps a session memfd after checking its seals, size, magic and version.
    pub fn open(fd: &impl AsFd) -> Result<Self, MemoryError> {
        let fd = fd.as_fd();
        let found = sealed_size(WHAT, fd)?;
        if found != TOTAL_BYTES as u64 {
            return Err(MemoryError::Size { what: WHAT, found, expected: TOTAL_BYTES as u64 });
        }
        Self::mapped(fd, map_plain(fd)?)
    }

    fn mapped(fd: BorrowedFd<'_>, plain: Mapping) -> Result<Self, MemoryError> {
        let magic = plain.atomic_u64(MAGIC_AT).load(Ordering::Acquire);
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
            plain: Arc::new(plain),
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

    /// The slot that is not active: what an adoption that ignores the last commit reads.
    pub fn load_stale_record(&self) -> Result<Record, MemoryError> {
        Record::load_stale(&self.plain, COMMIT_AT, self.flip_word())
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

    /// Says which frame was committed last, by its source-log index.
    pub fn set_committed(&self, frame: u64) {
        self.plain.atomic_u64(COMMITTED_AT).store(frame.saturating_add(1), Ordering::Relaxed);
    }

    /// For the thread that gives packets to codecs.
    #[must_use]
    pub fn work_mark(&self) -> WorkMark {
        WorkMark(Arc::clone(&self.plain))
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

/// Says which packet is worked on, for the blame after a death.
#[derive(Clone)]
pub struct WorkMark(Arc<Mapping>);

impl WorkMark {
    /// The packet with this source-log index goes to the codecs now.
    pub fn set(&self, packet: u64) {
        self.0.atomic_u64(PACKET_AT).store(packet.saturating_add(1), Ordering::Relaxed);
    }

    /// Nothing has been given to codecs yet.
    pub fn clear(&self) {
        self.0.atomic_u64(PACKET_AT).store(0, Ordering::Relaxed);
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

fn map_plain(fd: BorrowedFd<'_>) -> Result<Mapping, MemoryError> {
    Mapping::new(fd, 0, PLAIN_BYTES, Access::ReadWrite).map_err(MemoryError::io(WHAT))
}

#[cfg(test)]
mod tests {
    use super::super::commit::Section;
    use super::super::map::create_sealed;
    use super::*;
    use crate::id::Generation;
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::unistd::ftruncate;

    const OFFERED: Owner = Owner::Offered(Generation(5));

    fn fresh() -> (OwnedFd, SessionMemory) {
        let fd = create().unwrap();
        let memory = SessionMemory::finish(&fd, OFFERED).unwrap();
        (fd, memory)
    }

    fn bytes_used(fd: &OwnedFd) -> i64 {
        nix::sys::stat::fstat(fd).unwrap().st_blocks * 512
    }

    #[test]
    fn a_fresh_session_is_offered_empty_and_costs_a_few_pages() {
        let unadopted = create().unwrap();
        assert_eq!((read_owner(&unadopted).unwrap(), bytes_used(&unadopted)), (None, 0));
        let (fd, memory) = fresh();
        assert_eq!(read_owner(&fd).unwrap(), Some(OFFERED));
        let word = memory.owner().load(Ordering::Relaxed);
        assert_eq!(owner::decode(word), Some(OFFERED));
        assert_eq!(memory.load_record().unwrap(), Record::default());
        assert!(bytes_used(&fd) <= 16 * 1024, "{} bytes", bytes_used(&fd));
    }

    /// Wherever its first adopter died, the next one finishes the memory as its own lease says,
    /// and until then the supervisor reads no owner out of it and nobody else can map it.
    #[test]
    fn whatever_step_the_first_adopter_died_at_the_next_one_goes_on() {
        let total = i64::try_from(TOTAL_BYTES).unwrap();
        let unsized_yet = create().unwrap();
        let sized = create().unwrap();
        ftruncate(&sized, total).unwrap();
        let half_sealed = create().unwrap();
        ftruncate(&half_sealed, total).unwrap();
        fcntl(&half_sealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        let sealed = create_sealed(c"sealed", TOTAL_BYTES).unwrap();
        let without_magic = create_sealed(c"without-magic", TOTAL_BYTES).unwrap();
        let dead = owner::encode(Owner::Offered(Generation(2))).to_le_bytes();
        let at = |place: usize| i64::try_from(place).unwrap();
        nix::sys::uio::pwrite(&without_magic, &dead, at(OWNER_AT)).unwrap();
        nix::sys::uio::pwrite(&without_magic, &VERSION.to_le_bytes(), at(VERSION_AT)).unwrap();
        let steps = [unsized_yet, sized, half_sealed, sealed, without_magic];
        for (step, fd) in steps.iter().enumerate() {
            assert_eq!(read_owner(fd).unwrap(), None, "step {step}");
            assert_eq!(read_activity(fd).unwrap(), Activity::Idle, "step {step}");
            assert!(SessionMemory::open(fd).is_err(), "step {step}");
            let memory = SessionMemory::finish(fd, OFFERED).unwrap();
            owner::take(memory.owner(), OFFERED, Generation(5)).unwrap();
            assert_eq!(memory.load_record().unwrap(), Record::default(), "step {step}");
            assert!(SessionMemory::open(fd).is_ok(), "step {step}");
            assert!(ftruncate(fd, 0).is_err(), "step {step}");
        }
    }

    /// A later lease expects another owner; what the memory says stands.
    #[test]
    fn memory_that_is_finished_is_left_as_it_is() {
        let (fd, memory) = fresh();
        owner::take(memory.owner(), OFFERED, Generation(5)).unwrap();
        let again = SessionMemory::finish(&fd, Owner::Offered(Generation(9))).unwrap();
        let held = Owner::Held(Generation(5));
        assert_eq!(owner::decode(again.owner().load(Ordering::Relaxed)), Some(held));
        assert_eq!(read_owner(&fd).unwrap(), Some(held));
    }

    #[test]
    fn a_damaged_header_is_told_from_a_missing_one() {
        let (fd, memory) = fresh();
        memory.owner().store(0, Ordering::Relaxed);
        assert!(matches!(read_owner(&fd), Err(MemoryError::Damaged { .. })));
        nix::sys::uio::pwrite(&fd, b"FOREIGN!", 0).unwrap();
        assert!(matches!(read_owner(&fd), Err(MemoryError::Magic { .. })));
        let finished = SessionMemory::finish(&fd, OFFERED);
        assert!(matches!(finished, Err(MemoryError::Magic { .. })));
    }

    #[test]
    fn memory_of_another_size_is_finished_by_nobody() {
        for (name, fd) in [
            ("sealed too small", create_sealed(c"small", PAGE_BYTES).unwrap()),
            ("sealed when empty", create_sealed(c"empty", 0).unwrap()),
            ("sealed too large", create_sealed(c"large", TOTAL_BYTES + PAGE_BYTES).unwrap()),
            ("sized by somebody else", {
                let fd = create().unwrap();
                ftruncate(&fd, 5000).unwrap();
                fd
            }),
        ] {
            let finished = SessionMemory::finish(&fd, OFFERED);
            assert!(matches!(finished, Err(MemoryError::Size { .. })), "{name}");
        }
    }

    #[test]
    fn what_an_owner_was_doing_is_read_without_a_mapping() {
        let (fd, memory) = fresh();
        assert_eq!(read_activity(&fd).unwrap(), Activity::Idle);
        memory.set_activity(Activity::Processing);
        assert_eq!(read_activity(&fd).unwrap(), Activity::Processing);
        memory.set_activity(Activity::Idle);
        assert_eq!(read_activity(&fd).unwrap(), Activity::Idle);
        assert_eq!(read_work_place(&fd).unwrap(), WorkPlace::default());
        memory.work_mark().set(0);
        memory.set_committed(7);
        assert_eq!(read_work_place(&fd).unwrap(), WorkPlace { packet: 1, committed: 8 });
        let untouched = create().unwrap();
        assert_eq!(read_work_place(&untouched).unwrap(), WorkPlace::default());
    }

    #[test]
    fn a_second_mapping_finds_what_the_first_committed() {
        let (fd, first) = fresh();
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
