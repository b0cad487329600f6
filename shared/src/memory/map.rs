//! Mappings of shared memory and the only raw pointers into it.
//!
//! Shared bytes are copied in and out, or handed to the kernel by address: no Rust reference is
//! ever made to bytes that another process or thread may write. The two exceptions are named:
//! [`Mapping::atomic_u32`]/[`Mapping::atomic_u64`], which are atomics, and
//! [`RingMapping::private_bytes`], for rings that only their owner touches.
//!
//! A racing copy (a reader of a log beside its writer) is formally undefined in Rust; it is done
//! by volatile words here and settled by the reader's second look at the tail, see `memory::log`.

use super::{MemoryError, PAGE_BYTES};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// Makes a memfd of exactly `bytes`, sealed against resizing (memfd_create(2), F_ADD_SEALS), with
/// mode 0600 so that no other uid can reopen it writable through /proc.
pub fn create_sealed(name: &CStr, bytes: usize) -> io::Result<OwnedFd> {
    let fd = create_unsized(name)?;
    let length = i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    nix::unistd::ftruncate(&fd, length)?;
    nix::sys::stat::fchmod(&fd, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(all_seals()))?;
    Ok(fd)
}

/// Makes an empty memfd that somebody will size and seal.
pub fn create_unsized(name: &CStr) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?)
}

/// Gives a memfd its size and its seals, or finds that it has them. What somebody sized or sealed
/// otherwise is refused.
pub fn size_and_seal(
    what: &'static str,
    fd: BorrowedFd<'_>,
    bytes: usize,
) -> Result<(), MemoryError> {
    let io = |errno: nix::errno::Errno| MemoryError::Io { what, source: errno.into() };
    let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS).map_err(io)?);
    if !seals.contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW) {
        let expected = bytes as u64;
        let found = size(what, fd)?;
        if found == 0 && !seals.contains(SealFlag::F_SEAL_GROW) {
            let length = i64::try_from(bytes).map_err(|_| MemoryError::Io {
                what,
                source: io::ErrorKind::InvalidInput.into(),
            })?;
            nix::unistd::ftruncate(fd, length).map_err(io)?;
        } else if found != expected {
            return Err(MemoryError::Size { what, found, expected });
        }
        fcntl(fd, FcntlArg::F_ADD_SEALS(all_seals())).map_err(io)?;
    }
    // Looked at last: nobody can change it any more.
    let (found, expected) = (sealed_size(what, fd)?, bytes as u64);
    if found == expected { Ok(()) } else { Err(MemoryError::Size { what, found, expected }) }
}

fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// Size of a memfd, refused unless it is sealed against shrinking (a mapping of a shrunk file
/// faults).
pub fn sealed_size(what: &'static str, fd: BorrowedFd<'_>) -> Result<u64, MemoryError> {
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS)
        .map_err(|errno| MemoryError::Io { what, source: errno.into() })?;
    let needed = (SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW).bits();
    if seals & needed != needed {
        return Err(MemoryError::Damaged { what, why: "not sealed against resizing" });
    }
    size(what, fd)
}

fn size(what: &'static str, fd: BorrowedFd<'_>) -> Result<u64, MemoryError> {
    let stat = nix::sys::stat::fstat(fd)
        .map_err(|errno| MemoryError::Io { what, source: errno.into() })?;
    u64::try_from(stat.st_size).map_err(|_| MemoryError::Damaged { what, why: "negative size" })
}

/// An address range of its own, unmapped at drop.
struct Region {
    start: NonNull<u8>,
    bytes: usize,
}

impl Region {
    fn map(
        fd: BorrowedFd<'_>,
        file_offset: usize,
        bytes: usize,
        access: Access,
    ) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection(access),
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                file_position(file_offset)?,
            )
        };
        Self::own(start, bytes)
    }

    /// `bytes` of the file twice in a row.
    fn map_twice(
        fd: BorrowedFd<'_>,
        file_offset: usize,
        bytes: usize,
        access: Access,
    ) -> io::Result<Self> {
        let twice = bytes.checked_mul(2).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: reserves address space of the kernel's choice, touching nothing else.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                twice,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        let region = Self::own(start, twice)?;
        for half in [0, bytes] {
            // SAFETY: MAP_FIXED replaces pages inside the range reserved just above, which
            // nothing else refers to yet; `region` unmaps both halves on any error.
            let placed = unsafe {
                libc::mmap(
                    region.start.as_ptr().add(half).cast(),
                    bytes,
                    protection(access),
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    fd.as_raw_fd(),
                    file_position(file_offset)?,
                )
            };
            if placed == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(region)
    }

    fn own(start: *mut libc::c_void, bytes: usize) -> io::Result<Self> {
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }

    /// Address of `offset`, after checking that `length` bytes follow it.
    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        let end = offset.checked_add(length).expect("an offset into shared memory does not wrap");
        assert!(end <= self.bytes, "{offset}+{length} is outside {} mapped bytes", self.bytes);
        // SAFETY: just checked to be inside the mapping.
        unsafe { self.start.as_ptr().add(offset) }
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        // SAFETY: `from` has `into.len()` mapped bytes, `into` is a Rust slice elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
        // The copy may not move across a later look at a tail.
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        let into = self.at(offset, from.len());
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
        // SAFETY: `into` has `from.len()` mapped bytes, `from` is a Rust slice elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range is ours alone and every borrow of it ends with this value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

// SAFETY: a Region is an address range; all access goes through copies, atomics or the kernel.
unsafe impl Send for Region {}
// SAFETY: as above; concurrent copies are settled by the protocols in `memory::log` and `commit`.
unsafe impl Sync for Region {}

/// A plain mapping of a part of a memfd.
pub struct Mapping(Region);

impl Mapping {
    /// Maps `bytes` of `fd` from `file_offset` (a multiple of the page).
    pub fn new(
        fd: BorrowedFd<'_>,
        file_offset: usize,
        bytes: usize,
        access: Access,
    ) -> io::Result<Self> {
        Region::map(fd, file_offset, bytes, access).map(Self)
    }

    pub fn read(&self, offset: usize, into: &mut [u8]) {
        self.0.read(offset, into);
    }

    pub fn write(&self, offset: usize, from: &[u8]) {
        self.0.write(offset, from);
    }

    /// The word at `offset`, a multiple of 4.
    #[must_use]
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        assert_eq!(offset % 4, 0, "an atomic word is aligned");
        // SAFETY: mapped (checked by `at`), aligned, and atomics may be shared with anyone.
        unsafe { AtomicU32::from_ptr(self.0.at(offset, 4).cast()) }
    }

    /// The word at `offset`, a multiple of 8.
    #[must_use]
    pub fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        assert_eq!(offset % 8, 0, "an atomic word is aligned");
        // SAFETY: mapped (checked by `at`), aligned, and atomics may be shared with anyone.
        unsafe { AtomicU64::from_ptr(self.0.at(offset, 8).cast()) }
    }
}

/// A ring of a power of two bytes, mapped twice in a row so that any `capacity` bytes from any
/// start are contiguous. Positions are monotone stream offsets.
pub struct RingMapping {
    region: Region,
    capacity: usize,
}

impl RingMapping {
    /// Maps `capacity` bytes of `fd` from `file_offset`.
    pub fn new(
        fd: BorrowedFd<'_>,
        file_offset: usize,
        capacity: usize,
        access: Access,
    ) -> io::Result<Self> {
        if !capacity.is_power_of_two() || !capacity.is_multiple_of(PAGE_BYTES) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self { region: Region::map_twice(fd, file_offset, capacity, access)?, capacity })
    }

    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies the bytes from `position` on.
    pub fn read(&self, position: u64, into: &mut [u8]) {
        self.region.read(self.place(position, into.len()), into);
    }

    /// Copies bytes to `position`.
    pub fn write(&self, position: u64, from: &[u8]) {
        self.region.write(self.place(position, from.len()), from);
    }

    /// The bytes at `position`, for a ring that only this process writes while they are borrowed
    /// (input and reply rings belong to the session's owner alone).
    #[must_use]
    pub fn private_bytes(&self, position: u64, length: usize) -> &[u8] {
        let start = self.region.at(self.place(position, length), length);
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
        // SAFETY: mapped (checked by `at`); by this function's contract nobody writes them now.
        unsafe { std::slice::from_raw_parts(start, length) }
    }

    /// Copies `length` bytes from `from` to `to` inside the ring; they may not overlap modulo the
    /// capacity.
    pub fn copy_within(&self, from: u64, to: u64, length: usize) {
        let source = self.region.at(self.place(from, length), length);
        let target = self.region.at(self.place(to, length), length);
        // SAFETY: both ranges are mapped; `copy` allows overlap of addresses, and aliasing of the
        // same page through the other half is excluded by the contract.
        unsafe { std::ptr::copy(source, target, length) }
    }

    /// recv(2) of up to `length` bytes to `position`.
    pub fn recv(&self, socket: BorrowedFd<'_>, position: u64, length: usize) -> io::Result<usize> {
        let start = self.region.at(self.place(position, length), length);
        // SAFETY: the kernel writes at most `length` bytes into mapped memory that no Rust
        // reference covers.
        let got =
            unsafe { libc::recv(socket.as_raw_fd(), start.cast(), length, libc::MSG_DONTWAIT) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Has the kernel make and map the pages of the first `capacity` bytes in this range at once,
    /// instead of one fault for each (MADV_POPULATE_WRITE, Linux 5.14). Only a hint.
    pub fn populate(&self, offset: usize, length: usize) {
        let length = length.min(self.capacity.saturating_sub(offset));
        let start = self.region.at(offset, length);
        // SAFETY: the range is mapped, and populating changes no byte of it.
        unsafe { libc::madvise(start.cast(), length, libc::MADV_POPULATE_WRITE) };
    }

    fn place(&self, position: u64, length: usize) -> usize {
        assert!(length <= self.capacity, "{length} bytes do not fit a ring of {}", self.capacity);
        // The capacity is a power of two.
        usize::try_from(position & (self.capacity as u64 - 1)).expect("less than the capacity")
    }
}

/// Pieces of memory to be written with one sendmsg(2), by address.
pub struct Gather<'a> {
    parts: Vec<libc::iovec>,
    bytes: usize,
    lives: std::marker::PhantomData<&'a ()>,
}

impl<'a> Gather<'a> {
    /// `storage` is reused for its capacity.
    #[must_use]
    pub fn new() -> Self {
        Self { parts: Vec::with_capacity(32), bytes: 0, lives: std::marker::PhantomData }
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of pieces so far; the kernel takes at most 1024 (IOV_MAX).
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    pub fn slice(&mut self, part: &'a [u8]) {
        self.add(part.as_ptr().cast_mut(), part.len());
    }

    /// Bytes of a ring, read by the kernel in place.
    pub fn ring(&mut self, ring: &'a RingMapping, position: u64, length: usize) {
        let start = ring.region.at(ring.place(position, length), length);
        self.add(start, length);
    }

    fn add(&mut self, start: *mut u8, length: usize) {
        if length > 0 {
            self.parts.push(libc::iovec { iov_base: start.cast(), iov_len: length });
            self.bytes += length;
        }
    }

    /// Drops the first `skip` bytes.
    pub fn advance(&mut self, mut skip: usize) {
        self.bytes -= skip.min(self.bytes);
        let mut gone = 0;
        for part in &mut self.parts {
            if skip >= part.iov_len {
                skip -= part.iov_len;
                gone += 1;
            } else {
                // SAFETY: `skip` is less than the part's length.
                part.iov_base = unsafe { part.iov_base.cast::<u8>().add(skip) }.cast();
                part.iov_len -= skip;
                break;
            }
        }
        self.parts.drain(..gone);
    }

    /// One sendmsg(2), non-blocking, without SIGPIPE. Returns the bytes the kernel took.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: all-zero is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = self.parts.as_mut_ptr();
        header.msg_iovlen = self.parts.len().min(1024);
        // SAFETY: every part points at memory that outlives 'a, and the kernel only reads it.
        let sent = unsafe {
            libc::sendmsg(
                socket.as_raw_fd(),
                &raw const header,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

impl Default for Gather<'_> {
    fn default() -> Self {
        Self::new()
    }
}

fn protection(access: Access) -> libc::c_int {
    match access {
        Access::Read => libc::PROT_READ,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    }
}

fn file_position(offset: usize) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Opens the same memfd again, read-only, for a reader in another process: with it a writable
/// mapping is refused by the kernel.
pub fn reopen_read_only(fd: &impl AsFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_across_the_end_of_a_ring_are_contiguous_in_both_directions() {
        let fd = create_sealed(c"test", 8192).unwrap();
        let ring = RingMapping::new(fd.as_fd(), 4096, 4096, Access::ReadWrite).unwrap();
        ring.write(4090, b"hello across");
        let mut back = [0; 12];
        ring.read(4090, &mut back);
        assert_eq!(&back, b"hello across");
        assert_eq!(ring.private_bytes(4096, 6), b"across");
        ring.copy_within(4090, 100, 12);
        assert_eq!(ring.private_bytes(100, 12), b"hello across");
    }

    #[test]
    fn a_memfd_is_sealed_private_and_refused_when_it_is_not() {
        let fd = create_sealed(c"test", 4096).unwrap();
        assert_eq!(sealed_size("test", fd.as_fd()).unwrap(), 4096);
        assert!(nix::unistd::ftruncate(&fd, 0).is_err());
        assert_eq!(nix::sys::stat::fstat(&fd).unwrap().st_mode & 0o777, 0o600);
        let open = memfd_create(c"open", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(sealed_size("test", open.as_fd()).is_err());
    }

    #[test]
    fn a_reader_gets_no_writable_mapping() {
        let fd = create_sealed(c"test", 4096).unwrap();
        let reader = reopen_read_only(&fd).unwrap();
        assert!(Mapping::new(reader.as_fd(), 0, 4096, Access::Read).is_ok());
        assert!(Mapping::new(reader.as_fd(), 0, 4096, Access::ReadWrite).is_err());
    }

    #[test]
    fn a_gathered_write_goes_on_in_the_middle_of_a_piece() {
        let fd = create_sealed(c"test", 4096).unwrap();
        let ring = RingMapping::new(fd.as_fd(), 0, 4096, Access::ReadWrite).unwrap();
        ring.write(4094, b"ring");
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut gather = Gather::new();
        gather.slice(b"head-");
        gather.ring(&ring, 4094, 4);
        gather.slice(b"-tail");
        gather.advance(7);
        assert_eq!(gather.send(here.as_fd()).unwrap(), 7);
        let mut got = [0; 7];
        std::io::Read::read_exact(&mut &there, &mut got).unwrap();
        assert_eq!(&got, b"ng-tail");
    }
}
