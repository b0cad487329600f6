//! What a child of the supervisor is born with: the contract of fds, arguments and environment.
//!
//! | what | where |
//! |---|---|
//! | role | argument `--role worker`, `dialer`, `delivery` or `console` |
//! | control channel | the fd whose number is in `TASUKI_CONTROL_FD` |
//! | generation | `TASUKI_GENERATION` |
//! | knell | of a worker: the fd whose number is in `TASUKI_KNELL_FD` |
//! | how to log | `TASUKI_LOG`, `TASUKI_LOG_FORMAT` (see `log_output`) |
//! | standard streams | stdin is `/dev/null`, stdout and stderr are the supervisor's |
//! | process group | its own: a terminal's Ctrl-C reaches the supervisor alone |
//! | OOM score | higher for a worker, delivery and console than the supervisor's: the kernel takes what can be made up for |
//!
//! Every other fd is close-on-exec. These fds lose that flag only in the child, between fork and exec,
//! so no other child can inherit them.
//!
//! The **knell** is the writing end of a pipe. A worker gives it to a thread that has a table of fds of
//! its own and does nothing but wait: it dies with the process, and its fds are closed at once, while
//! those of the others wait until the kernel has given back all of the process's memory.

use crate::id::Generation;
use crate::limits::OOM_SCORE_RAISE;
use crate::message::Role;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Names the number of the control channel's fd.
pub const CONTROL_FD_VARIABLE: &str = "TASUKI_CONTROL_FD";
/// Names the number of the knell's fd.
pub const KNELL_FD_VARIABLE: &str = "TASUKI_KNELL_FD";
/// Names the generation of the process.
pub const GENERATION_VARIABLE: &str = "TASUKI_GENERATION";

const OOM_SCORE: &str = "/proc/self/oom_score_adj";
const OOM_SCORE_C: &std::ffi::CStr = c"/proc/self/oom_score_adj";
/// proc_pid_oom_score_adj(5)
const OOM_SCORE_MAX: i32 = 1000;

/// What this process inherited.
#[derive(Debug)]
pub struct Inherited {
    pub role: Role,
    pub generation: Generation,
    /// One end of a [`crate::channel::Channel`].
    pub control: OwnedFd,
    pub knell: Option<OwnedFd>,
}

/// What a child gets of its parent.
#[derive(Clone, Copy, Debug)]
pub struct Fds<'a> {
    pub control: BorrowedFd<'a>,
    pub knell: Option<BorrowedFd<'a>>,
}

/// Why this process is no child of a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    #[error("started by hand? This program is started by `tasuki serve`; {0} is not set")]
    Missing(&'static str),
    #[error("{0} is not a number")]
    NotANumber(&'static str),
    #[error("the role must be `worker`, `dialer`, `delivery` or `console`")]
    UnknownRole,
    #[error("{CONTROL_FD_VARIABLE} names no SOCK_SEQPACKET socket: {0}")]
    NotAChannel(io::Error),
    #[error("{KNELL_FD_VARIABLE} names no pipe: {0}")]
    NotAPipe(io::Error),
    #[error("the control channel was taken before")]
    TakenBefore,
}

impl Role {
    /// As an argument of `--role`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Dialer => "dialer",
            Self::Delivery => "delivery",
            Self::Console => "console",
        }
    }

    /// Reads an argument of `--role`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let mut all = [Self::Worker, Self::Dialer, Self::Delivery, Self::Console].into_iter();
        all.find(|role| role.name() == name)
    }
}

/// Starts `program` with these fds and `environment` on top of ours.
pub fn spawn(
    program: &Path,
    role: Role,
    generation: Generation,
    environment: &[(&'static str, String)],
    fds: Fds<'_>,
) -> io::Result<Child> {
    let (fd, knell) = (fds.control.as_raw_fd(), fds.knell.map(|knell| knell.as_raw_fd()));
    let mut command = Command::new(program);
    command
        .args(["--role", role.name()])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .env(CONTROL_FD_VARIABLE, fd.to_string())
        .env(GENERATION_VARIABLE, generation.0.to_string())
        .stdin(Stdio::null())
        .process_group(0);
    match knell {
        Some(knell) => command.env(KNELL_FD_VARIABLE, knell.to_string()),
        None => command.env_remove(KNELL_FD_VARIABLE),
    };
    let oom_score = match role {
        Role::Worker | Role::Delivery | Role::Console => raised_oom_score(),
        Role::Dialer => None,
    };
    let before_exec = move || {
        if let Some(score) = &oom_score {
            set_oom_score(score);
        }
        knell.map_or(Ok(()), keep_open_across_exec)?;
        keep_open_across_exec(fd)
    };
    // SAFETY: the closure runs in the child between fork and exec and only calls fcntl, open, write
    // and close, which are async-signal-safe, on memory that was made before; the fds are open in the
    // parent while it forks, so they are in the child.
    unsafe { command.pre_exec(before_exec) };
    command.spawn()
}

impl Inherited {
    /// Takes what the supervisor passed. Works once in a process.
    pub fn take(role: Option<&str>) -> Result<Self, InheritError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let role = role.ok_or(InheritError::Missing("--role"))?;
        let role = Role::from_name(role).ok_or(InheritError::UnknownRole)?;
        let generation = Generation(number(GENERATION_VARIABLE)?);
        let fd: RawFd = number(CONTROL_FD_VARIABLE)?;
        let knell_fd: Option<RawFd> =
            std::env::var_os(KNELL_FD_VARIABLE).map(|_| number(KNELL_FD_VARIABLE)).transpose()?;
        let unfit = io::Error::from_raw_os_error;
        if fd <= 2 {
            return Err(InheritError::NotAChannel(unfit(libc::EBADF)));
        }
        if knell_fd.is_some_and(|knell| knell <= 2 || knell == fd) {
            return Err(InheritError::NotAPipe(unfit(libc::EBADF)));
        }
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Err(InheritError::TakenBefore);
        }
        // SAFETY: only borrowed to ask the kernel what it is; a closed fd answers EBADF.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        match getsockopt(&borrowed, sockopt::SockType) {
            Ok(SockType::SeqPacket) => {}
            Ok(_) => return Err(InheritError::NotAChannel(unfit(libc::ESOCKTNOSUPPORT))),
            Err(error) => return Err(InheritError::NotAChannel(error.into())),
        }
        let knell = knell_fd.map(take_pipe).transpose().map_err(InheritError::NotAPipe)?;
        // SAFETY: the contract above gives this fd to this process; it is open (asked above), and
        // `TAKEN` lets only one owner be made of it.
        let control = unsafe { OwnedFd::from_raw_fd(fd) };
        close_on_exec(&control).map_err(InheritError::NotAChannel)?;
        Ok(Self { role, generation, control, knell })
    }
}

/// Of an fd that the contract gives to this process, once.
fn take_pipe(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only borrowed to ask the kernel what it is; a closed fd answers EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let kind = SFlag::from_bits_truncate(fstat(borrowed)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: it is open (asked above) and nobody else has taken it.
    let pipe = unsafe { OwnedFd::from_raw_fd(fd) };
    close_on_exec(&pipe)?;
    Ok(pipe)
}

fn close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

fn number<T: std::str::FromStr>(variable: &'static str) -> Result<T, InheritError> {
    let value = std::env::var_os(variable).ok_or(InheritError::Missing(variable))?;
    value
        .as_os_str()
        .to_str()
        .and_then(|value| value.parse().ok())
        .ok_or(InheritError::NotANumber(variable))
}

/// What a worker's is to be, as the kernel reads it. Raising it is allowed to everybody.
fn raised_oom_score() -> Option<String> {
    let own: i32 = std::fs::read_to_string(OOM_SCORE).ok()?.trim().parse().ok()?;
    Some((own.saturating_add(OOM_SCORE_RAISE)).min(OOM_SCORE_MAX).to_string())
}

/// Without it the worker is as good: a failure is nobody's.
fn set_oom_score(score: &str) {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { libc::open(OOM_SCORE_C.as_ptr(), flags) };
    if fd >= 0 {
        // SAFETY: writes `score`, then closes an fd that was opened above and is known to nobody.
        unsafe {
            libc::write(fd, score.as_ptr().cast(), score.len());
            libc::close(fd);
        }
    }
}

fn keep_open_across_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes an int and touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
