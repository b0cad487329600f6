//! Is a process past all it can do, and what ended it? Told before the kernel has taken its memory
//! apart, which takes tens of milliseconds where it had many streams.
//!
//! A task that dies gets `PF_EXITING` in do_exit() (kernel/exit.c), and from there it runs no line of
//! its program and no system call any more. Only afterwards does the last of a process's threads give
//! its memory back, then its fds; only then is the pidfd readable (pidfd_open(2)). A process whose
//! every thread has that flag touches no socket and no shared memory again: its sessions may be taken.
//! The flag and the exit code are fields of proc(5) `stat`.
//!
//! Threads that are not listed yet are no loophole: a thread is made by one that is not dying, so a
//! list in which all are dying and after which no other thread is listed is complete.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use tasuki_shared::kernel::{self, Death};
use tasuki_shared::limits::{DYING_NICE, DYING_THREADS_MAX};

/// `PF_EXITING` of include/linux/sched.h, in field 9.
const EXITING: u64 = 0x4;
/// In the fields behind the name, which begin with the third.
const FLAGS: usize = 9 - 3;
const EXIT_CODE: usize = 52 - 3;

/// How the process dies if all its threads do; `None` if one may still run, if there are so many that
/// it is not worth asking yet, or if it is not known how. A process that left by itself with 0 is
/// not told of: a kernel that hides the exit code writes the same.
pub fn death_of(pid: i32) -> Option<Death> {
    let threads = threads(pid)?;
    let dying = |tid| match fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")) {
        Ok(line) => parse(&line).is_some_and(|it| it.exiting),
        Err(error) => is_gone(&error),
    };
    if !threads.iter().copied().all(dying) || !self::threads(pid)?.is_subset(&threads) {
        return None;
    }
    let process = parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    if process.exiting { death(process.exit_code) } else { None }
}

/// Is there no such thread any more? Whatever else keeps it from being read says nothing of it.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Lets those that live have the processors while the kernel clears up behind this process.
pub fn make_way(pid: i32) {
    for tid in threads(pid).unwrap_or_default() {
        // Where it fails nothing is lost but time.
        let _ = kernel::set_nice(tid, DYING_NICE);
    }
}

/// `None` if it is gone, or has more than a dying process is left with in a moment.
fn threads(pid: i32) -> Option<BTreeSet<i32>> {
    let mut tids = BTreeSet::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        tids.insert(task.ok()?.file_name().to_str()?.parse().ok()?);
        if tids.len() > DYING_THREADS_MAX {
            return None;
        }
    }
    Some(tids)
}

struct Stat {
    exiting: bool,
    exit_code: i32,
}

fn parse(line: &str) -> Option<Stat> {
    // The name stands in parentheses and may hold any byte.
    let (_, rest) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let flags: u64 = fields.get(FLAGS)?.parse().ok()?;
    let exit_code = fields.get(EXIT_CODE)?.parse().ok()?;
    Some(Stat { exiting: flags & EXITING != 0, exit_code })
}

/// As wait(2) encodes it.
fn death(exit_code: i32) -> Option<Death> {
    match (exit_code & 0x7f, exit_code >> 8 & 0xff) {
        (0, 0) => None,
        (0, code) => Some(Death::Exited(code)),
        (signal, _) => Some(Death::Signalled(signal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    use nix::unistd::Pid;
    use std::process::{Child, Command};

    fn shell(script: &str) -> (Child, i32) {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        (child, pid)
    }

    /// Until it is dead, which leaves it as it is.
    fn wait(pid: i32, flags: WaitPidFlag) {
        waitid(Id::Pid(Pid::from_raw(pid)), flags | WaitPidFlag::WNOWAIT).unwrap();
    }

    /// One that runs, or is stopped with a kill on its way to it, may still do something.
    #[test]
    fn who_lives_is_not_told_of() {
        let (mut child, pid) = shell("exec sleep 600");
        assert_eq!(death_of(pid), None);
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        wait(pid, WaitPidFlag::WSTOPPED);
        assert_eq!(death_of(pid), None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(death_of(pid), None, "it is gone");
        assert_eq!(death_of(i32::try_from(std::process::id()).unwrap()), None);
    }

    /// How it died is what wait(2) would say.
    #[test]
    fn who_is_dead_and_not_reaped_is_told_of() {
        let ends = [
            ("exit 7", Some(Death::Exited(7))),
            ("kill -9 $$", Some(Death::Signalled(9))),
            ("kill -6 $$", Some(Death::Signalled(6))),
            // It may be that the code is hidden.
            ("exit 0", None),
        ];
        for (script, death) in ends {
            let (mut child, pid) = shell(script);
            wait(pid, WaitPidFlag::WEXITED);
            assert_eq!(death_of(pid), death, "{script}");
            child.wait().unwrap();
        }
    }

    /// A thread of which nothing can be read, for want of fds for instance, may live.
    #[test]
    fn what_cannot_be_read_is_not_gone() {
        let error = io::Error::from_raw_os_error;
        assert!(is_gone(&error(libc::ENOENT)) && is_gone(&error(libc::ESRCH)));
        assert!(!is_gone(&error(libc::EMFILE)) && !is_gone(&error(libc::EACCES)));
    }

    /// Any name may stand before them.
    #[test]
    fn fields_are_those_of_proc() {
        let line = |flags: u64, code: i32| {
            let between: String = (10..52).map(|field| format!(" {field}")).collect();
            format!("12 (a) b) c) R 4 5 6 7 8 {flags}{between} {code}")
        };
        let parsed = parse(&line(0x0040_4104, 139)).unwrap();
        assert_eq!((parsed.exiting, parsed.exit_code), (true, 139));
        assert_eq!(death(139), Some(Death::Signalled(11)), "with a core dump");
        assert!(!parse(&line(0x0040_4100, 0)).unwrap().exiting);
        assert!(parse("12 (a) R 4").is_none());
    }
}
