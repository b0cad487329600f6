//! jemalloc as the allocator of the whole process, libav and x264 included, and its statistics.
//!
//! The build exports jemalloc under malloc's own names, so C libraries use it too. What it
//! keeps after a purge is what the process really holds; `muzzy_decay_ms:0` keeps lazily freed
//! pages out of the figures, and `thp:never` keeps huge pages from holding what nobody uses.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use tasuki_shared::exit::Exit;
use tasuki_shared::message::AllocatorFigures;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static GLOBAL: OrLeave = OrLeave(Jemalloc);

/// An allocation that fails ends the process by its own exit code: the sessions go on in another,
/// which an abort would call a fault of theirs.
struct OrLeave(Jemalloc);

// SAFETY: passes everything on to an allocator; what that does not give is never returned.
unsafe impl GlobalAlloc for OrLeave {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        given(unsafe { self.0.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        given(unsafe { self.0.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        given(unsafe { self.0.realloc(memory, layout, bytes) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { self.0.dealloc(memory, layout) }
    }
}

fn given(memory: *mut u8) -> *mut u8 {
    if memory.is_null() { out_of_memory() } else { memory }
}

/// Ends this process because it gets no more memory. Nothing here allocates.
pub fn out_of_memory() -> ! {
    const SAID: &[u8] = b"tasuki-worker: out of memory; its sessions go on in another\n";
    // SAFETY: writes a constant; a standard error that is gone is no loss.
    unsafe { libc::write(libc::STDERR_FILENO, SAID.as_ptr().cast(), SAID.len()) };
    // SAFETY: ends the process at once; what others need of it lies in shared memory.
    unsafe { libc::_exit(i32::from(Exit::OutOfMemory.code())) }
}

/// Read by jemalloc before `main`. Profiling is active from the start, for what was
/// allocated while it was off never appears in a profile.
const CONF: &CStr =
    c"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,thp:never,prof:true,prof_active:true";

/// A pointer to the configuration, as jemalloc's symbol wants it.
#[repr(transparent)]
pub struct Configuration(*const std::ffi::c_char);

// SAFETY: the pointer is to a constant string and is never written.
unsafe impl Sync for Configuration {}

#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: Configuration = Configuration(CONF.as_ptr());

/// Asks for all arenas at once (`MALLCTL_ARENAS_ALL`).
const PURGE_ALL: &CStr = c"arena.4096.purge";

/// What a report of many arenas comes to.
const REPORT_BYTES_USUAL: usize = 512 * 1024;

/// What the allocator knows of itself, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocatorStats {
    /// Handed out to the program.
    pub allocated_bytes: u64,
    /// In pages that hold something.
    pub active_bytes: u64,
    /// Backed by memory.
    pub resident_bytes: u64,
}

/// A call that jemalloc refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mallctl {name:?} failed with {code}")]
pub struct AllocatorError {
    pub name: &'static CStr,
    pub code: i32,
}

/// Reads fresh statistics.
pub fn stats() -> Result<AllocatorStats, AllocatorError> {
    advance_epoch()?;
    Ok(AllocatorStats {
        allocated_bytes: read_size(c"stats.allocated")?,
        active_bytes: read_size(c"stats.active")?,
        resident_bytes: read_size(c"stats.resident")?,
    })
}

/// Returns all unused pages to the kernel.
pub fn purge() -> Result<(), AllocatorError> {
    // SAFETY: the name is NUL-terminated; this control takes and gives no value.
    let code = unsafe {
        tikv_jemalloc_sys::mallctl(
            PURGE_ALL.as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        )
    };
    answer(PURGE_ALL, code)
}

/// As [`purge`]; a failure is logged.
pub fn give_back() {
    if let Err(error) = purge() {
        tracing::warn!(%error, "unused memory cannot be given back");
    }
}

/// What is told of this process; a failure is logged.
#[must_use]
pub fn figures() -> Option<AllocatorFigures> {
    match stats() {
        Ok(stats) => Some(AllocatorFigures {
            allocated_bytes: stats.allocated_bytes,
            idle_bytes: stats.resident_bytes.saturating_sub(stats.allocated_bytes),
        }),
        Err(error) => {
            tracing::warn!(%error, "the allocator's statistics");
            None
        }
    }
}

/// jemalloc's own report on everything, for people (`malloc_stats_print`).
pub fn report() -> String {
    unsafe extern "C" fn append(text: *mut c_void, piece: *const std::ffi::c_char) {
        // SAFETY: `text` is the String below, which nobody else touches during the call; `piece`
        // is a NUL-terminated string of jemalloc's.
        let (text, piece) = unsafe { (&mut *text.cast::<String>(), CStr::from_ptr(piece)) };
        text.push_str(&piece.to_string_lossy());
    }
    // jemalloc holds no lock of its own while it writes, so that the text may grow; with room for
    // all of it, it seldom has to.
    let mut text = String::with_capacity(REPORT_BYTES_USUAL);
    // SAFETY: `append` fits the type of a write callback and gets the String as its argument; no
    // options are given.
    unsafe {
        tikv_jemalloc_sys::malloc_stats_print(
            Some(append),
            (&raw mut text).cast::<c_void>(),
            std::ptr::null(),
        );
    }
    text
}

/// Statistics are a snapshot that is renewed by writing to the epoch.
fn advance_epoch() -> Result<(), AllocatorError> {
    let mut epoch: u64 = 1;
    let mut length = size_of::<u64>();
    // SAFETY: the epoch is a u64 in both directions, and the lengths say so.
    let code = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"epoch".as_ptr(),
            (&raw mut epoch).cast::<c_void>(),
            &raw mut length,
            (&raw mut epoch).cast::<c_void>(),
            size_of::<u64>(),
        )
    };
    answer(c"epoch", code)
}

fn read_size(name: &'static CStr) -> Result<u64, AllocatorError> {
    let mut value: usize = 0;
    let mut length = size_of::<usize>();
    // SAFETY: the statistics asked for are of type size_t, and the length says so.
    let code = unsafe {
        tikv_jemalloc_sys::mallctl(
            name.as_ptr(),
            (&raw mut value).cast::<c_void>(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    answer(name, code)?;
    Ok(u64::try_from(value).unwrap_or(u64::MAX))
}

fn answer(name: &'static CStr, code: i32) -> Result<(), AllocatorError> {
    if code == 0 { Ok(()) } else { Err(AllocatorError { name, code }) }
}

/// Pages that were used and freed with MADV_FREE (madvise(2)): the kernel takes them when it needs
/// them, and until then they look resident. For a leak on purpose.
#[derive(Debug)]
pub struct FreedPages {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory that this value alone owns.
unsafe impl Send for FreedPages {}

impl FreedPages {
    pub fn touched(bytes: usize) -> std::io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping anywhere.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let start = NonNull::new(start).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let pages = Self { start, bytes };
        // SAFETY: the mapping has that many bytes and nobody else knows of it.
        unsafe { start.cast::<u8>().write_bytes(0xA5, bytes) };
        // SAFETY: as above; nothing refers to what is in it.
        if unsafe { libc::madvise(start.as_ptr(), bytes, libc::MADV_FREE) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(pages)
    }
}

impl Drop for FreedPages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and is unmapped once.
        unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture's memory, allocated by libav, shows up in the allocator's figures and leaves
    /// them again.
    #[test]
    fn what_libav_allocates_is_counted() {
        let before = stats().unwrap().allocated_bytes;
        let mut pool = crate::libav::FramePool::new(3840, 2160).unwrap();
        let frames: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
        let during = stats().unwrap().allocated_bytes;
        // Other tests run beside this one, hence half of what was asked for.
        assert!(during > before + 4 * 3840 * 2160 * 3 / 4, "{before} {during}");
        drop(frames);
        drop(pool);
        purge().unwrap();
    }

    /// The configuration is the one jemalloc runs with.
    #[test]
    fn the_configuration_is_in_effect() {
        let mut value: isize = 0;
        let mut length = size_of::<isize>();
        // SAFETY: opt.dirty_decay_ms is an ssize_t, and the length says so.
        let code = unsafe {
            tikv_jemalloc_sys::mallctl(
                c"opt.dirty_decay_ms".as_ptr(),
                (&raw mut value).cast::<c_void>(),
                &raw mut length,
                std::ptr::null_mut(),
                0,
            )
        };
        assert_eq!((code, value), (0, 1000));
    }
}
