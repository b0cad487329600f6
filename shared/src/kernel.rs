//! What the kernel offers and no crate wraps: pidfds, TCP counters, futexes, received fds.
//!
//! Each function is one or two system calls and decides nothing. Unsafe is allowed here and each
//! block says why it holds.

use crate::limits::STABLE_READS_MAX;
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Exited(i32),
    Signalled(i32),
}

/// Which side opened a connection: the SYN of an active open counts as one acknowledged byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Active,
    Accepted,
}

/// What ended a wait on a futex word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Woken, or interrupted: look at the word.
    Woken,
    /// The word was not what was expected.
    Changed,
    TimedOut,
}

/// One datagram and the fds that came with it.
#[derive(Debug)]
pub struct Datagram {
    /// Length of the datagram, which may be more than the buffer held.
    pub bytes: usize,
    pub fds: Vec<OwnedFd>,
    /// The kernel could not install every fd (or the control buffer was too small).
    pub fds_truncated: bool,
}

/// A pidfd for a child of ours.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new fd (close-on-exec) or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(check(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this fd for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `signal` to the process, never to another one that got its pid.
pub fn pidfd_send_signal(
    pidfd: BorrowedFd<'_>,
    signal: nix::sys::signal::Signal,
) -> io::Result<()> {
    // SAFETY: the siginfo pointer may be null; the other arguments are integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as i32,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(result).map(drop)
}

/// Reaps a dead child; `None` while it lives. A readable pidfd means that its whole thread group
/// is dead.
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Death>> {
    let id = libc::id_t::try_from(pidfd.as_raw_fd()).map_err(io::Error::other)?;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is writable and large enough; all-zero is a valid siginfo_t.
    let result = unsafe {
        libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG)
    };
    check(i64::from(result))?;
    // SAFETY: zeroed before, and written by the kernel on success.
    let info = unsafe { info.assume_init() };
    // SAFETY: these fields are valid for what waitid fills in; zero when nothing was waited for.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(match info.si_code {
        libc::CLD_EXITED => Death::Exited(status),
        _ => Death::Signalled(status),
    }))
}

/// Gives the calling thread a table of fds of its own that holds `fd` alone, which is at least 3
/// (close_range(2), Linux 5.9). The other threads' fds stay as they are.
pub fn keep_alone(fd: BorrowedFd<'_>) -> io::Result<()> {
    let fd = libc::c_uint::try_from(fd.as_raw_fd()).map_err(io::Error::other)?;
    let close = |first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint| {
        // SAFETY: takes integers alone. The first call makes the table in which both close fds, so none
        // is closed that another thread owns; this one lets go of what it could not have known of.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })
    };
    close(fd + 1, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    close(0, fd.saturating_sub(1), 0)?;
    Ok(())
}

/// Sets a thread's nice value (setpriority(2)), which anybody may raise of a process of its own user; 0 is
/// the calling thread.
pub fn set_nice(tid: i32, nice: i32) -> io::Result<()> {
    let tid = libc::id_t::try_from(tid).map_err(io::Error::other)?;
    // SAFETY: takes integers alone.
    check(i64::from(unsafe { libc::setpriority(libc::PRIO_PROCESS, tid, nice) }))?;
    Ok(())
}

/// Receives one datagram without blocking; every received fd is owned at once, close-on-exec.
/// `Ok(None)`: nothing to read. Zero bytes without fds: the peer closed.
///
/// `control` must be able to hold the most fds a peer may send: see [`control_space`].
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<Option<Datagram>> {
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid msghdr (null pointers with zero lengths).
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len();
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    let bytes = loop {
        // SAFETY: the header points to `iov`, `buffer` and `control`, which outlive the call.
        let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        match check(i64::try_from(result).map_err(io::Error::other)?) {
            Ok(bytes) => break usize::try_from(bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    };
    Ok(Some(Datagram {
        bytes,
        fds: received_fds(&header),
        fds_truncated: header.msg_flags & libc::MSG_CTRUNC != 0,
    }))
}

/// Bytes of control buffer that hold `fds` fds.
#[must_use]
pub fn control_space(fds: usize) -> usize {
    let payload = u32::try_from(fds * size_of::<libc::c_int>()).unwrap_or(u32::MAX);
    // SAFETY: CMSG_SPACE is arithmetic.
    usize::try_from(unsafe { libc::CMSG_SPACE(payload) }).unwrap_or(usize::MAX)
}

fn received_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the header was filled in by a successful recvmsg and its control buffer is alive.
    let mut cursor = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !cursor.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a header inside the buffer.
        let control = unsafe { cursor.read_unaligned() };
        if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN is arithmetic.
            let head = usize::try_from(unsafe { libc::CMSG_LEN(0) }).unwrap_or(usize::MAX);
            let count = control.cmsg_len.saturating_sub(head) / size_of::<libc::c_int>();
            // SAFETY: `cursor` is a control message inside the buffer.
            let payload = unsafe { libc::CMSG_DATA(cursor) }.cast::<libc::c_int>();
            for position in 0..count {
                // SAFETY: the kernel wrote `count` fds here.
                let fd = unsafe { payload.add(position).read_unaligned() };
                // SAFETY: the kernel installed this fd in our table for us alone.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: as above; the macro checks the bounds of the buffer.
        cursor = unsafe { libc::CMSG_NXTHDR(header, cursor) };
    }
    fds
}

/// How many bytes of the inbound stream have been taken out of the kernel, by whomever, through
/// any dup of the socket. Exact also when the reader was killed in the middle of `recv`.
///
/// Read until stable: one pair of reads is wrong while bytes arrive. A FIN counts as a byte
/// received. In state CLOSE nobody can tell whether a FIN came before the reset; it is taken for
/// a bare reset.
pub fn inbound_consumed(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut before = TcpCounters::read(socket)?;
    for _ in 0..STABLE_READS_MAX {
        let queued = queue_bytes(socket, Queue::Inbound)?;
        let after = TcpCounters::read(socket)?;
        if before.bytes_received == after.bytes_received && before.state == after.state {
            let fin = u64::from(after.fin_received());
            return after
                .bytes_received
                .checked_sub(queued + fin)
                .ok_or_else(|| io::Error::other("more bytes queued than received"));
        }
        before = after;
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the inbound counters never held still"))
}

/// How many bytes wait to be read.
pub fn inbound_queued(socket: BorrowedFd<'_>) -> io::Result<u64> {
    queue_bytes(socket, Queue::Inbound)
}

/// How many bytes of the outbound stream have been written into the kernel.
pub fn outbound_written(socket: BorrowedFd<'_>, opened: Opened) -> io::Result<u64> {
    let mut before = TcpCounters::read(socket)?;
    for _ in 0..STABLE_READS_MAX {
        let queued = queue_bytes(socket, Queue::Outbound)?;
        let after = TcpCounters::read(socket)?;
        if before.bytes_acked == after.bytes_acked && before.state == after.state {
            let syn = u64::from(opened == Opened::Active);
            let fin = u64::from(after.fin_sent());
            return (after.bytes_acked + queued)
                .checked_sub(syn + fin)
                .ok_or_else(|| io::Error::other("the connection was never opened"));
        }
        before = after;
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the outbound counters never held still"))
}

/// Whether our side of the connection was shut down already, by whomever.
pub fn was_shut_down(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(TcpCounters::read(socket)?.fin_sent())
}

/// Sleeps until the word is no longer `expected`, a wake, or the timeout. The word may lie in
/// memory that processes share.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> io::Result<Wait> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    });
    let timeout: *const libc::timespec = timeout.as_ref().map_or(std::ptr::null(), |t| t);
    // SAFETY: the word is a live, aligned u32; `timeout` is null or points to a live timespec.
    let result = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, timeout)
    };
    match check(result) {
        Ok(_) => Ok(Wait::Woken),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Wait::Changed),
            Some(libc::ETIMEDOUT) => Ok(Wait::TimedOut),
            Some(libc::EINTR) => Ok(Wait::Woken),
            _ => Err(error),
        },
    }
}

/// Wakes everybody who waits on the word; the number woken.
pub fn futex_wake_all(word: &AtomicU32) -> io::Result<usize> {
    // SAFETY: the word is a live, aligned u32; FUTEX_WAKE only uses its address.
    let woken =
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    usize::try_from(check(woken)?).map_err(io::Error::other)
}

/// The same file once more, for reading alone (proc(5), /proc/pid/fd).
pub fn reopen_read_only(fd: &impl AsFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path.as_str(), flags, Mode::empty())?)
}

/// A non-blocking, close-on-exec eventfd.
pub fn event() -> io::Result<EventFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)
}

/// Makes an eventfd readable. A full counter is readable already.
pub fn event_signal(event: &impl AsFd) -> io::Result<()> {
    match nix::unistd::write(event, &1_u64.to_ne_bytes()) {
        Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes an eventfd unreadable again; how often it was signalled.
pub fn event_clear(event: &EventFd) -> io::Result<u64> {
    match event.read() {
        Ok(count) => Ok(count),
        Err(nix::errno::Errno::EAGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// The counters of one `TCP_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TcpCounters {
    state: u8,
    bytes_acked: u64,
    bytes_received: u64,
}

/// Offsets in the kernel's `struct tcp_info`, which only ever grows (include/uapi/linux/tcp.h).
const TCP_INFO_STATE: usize = 0;
const TCP_INFO_BYTES_ACKED: usize = 120;
const TCP_INFO_BYTES_RECEIVED: usize = 128;
const TCP_INFO_BYTES: usize = 136;

/// States of include/net/tcp_states.h.
const TCP_FIN_WAIT1: u8 = 4;
const TCP_FIN_WAIT2: u8 = 5;
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_CLOSING: u8 = 11;

impl TcpCounters {
    fn read(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut info = [0_u8; TCP_INFO_BYTES];
        let mut length = libc::socklen_t::try_from(info.len()).map_err(io::Error::other)?;
        // SAFETY: `info` is writable for `length` bytes and the kernel writes no more than that.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        check(i64::from(result))?;
        if usize::try_from(length).unwrap_or(0) < TCP_INFO_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel's TCP_INFO has no byte counters (Linux 4.1 is needed)",
            ));
        }
        let word = |at: usize| {
            let mut bytes = [0_u8; 8];
            bytes.copy_from_slice(&info[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        Ok(Self {
            state: info[TCP_INFO_STATE],
            bytes_acked: word(TCP_INFO_BYTES_ACKED),
            bytes_received: word(TCP_INFO_BYTES_RECEIVED),
        })
    }

    const fn fin_received(self) -> bool {
        matches!(self.state, TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING | TCP_TIME_WAIT)
    }

    const fn fin_sent(self) -> bool {
        matches!(
            self.state,
            TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSING | TCP_LAST_ACK | TCP_TIME_WAIT
        )
    }
}

#[derive(Clone, Copy)]
enum Queue {
    /// SIOCINQ: bytes to be read, without the FIN.
    Inbound,
    /// SIOCOUTQ: bytes not acknowledged, with the FIN.
    Outbound,
}

fn queue_bytes(socket: BorrowedFd<'_>, queue: Queue) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SIOCINQ and SIOCOUTQ have the values of FIONREAD and TIOCOUTQ.
    let request = match queue {
        Queue::Inbound => libc::FIONREAD,
        Queue::Outbound => libc::TIOCOUTQ,
    };
    // SAFETY: both requests write one int to the pointer.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &raw mut bytes) };
    check(i64::from(result))?;
    u64::try_from(bytes).map_err(io::Error::other)
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests;
