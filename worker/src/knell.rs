//! A thread that says by its death that the process dies, before the kernel has taken it apart.
//!
//! Who is killed gives its memory back first and closes its fds afterwards (do_exit() in the kernel's
//! kernel/exit.c), and the last of its threads does both: tens of milliseconds where it had many
//! streams. This thread has a table of fds of its own with the end of one pipe in it, so that the pipe is
//! closed as soon as this thread is dead. It does nothing else.

use nix::sys::signal::SigSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::sync_channel;
use tasuki_shared::kernel;
use tasuki_shared::limits::KNELL_STACK_BYTES;

/// Starts the thread. When this returns, nobody else holds the pipe.
pub fn hang(pipe: OwnedFd) -> io::Result<()> {
    let (tell, told) = sync_channel(1);
    let thread = std::thread::Builder::new().name("knell".into()).stack_size(KNELL_STACK_BYTES);
    thread.spawn(move || {
        let blocked = SigSet::all().thread_block().map_err(io::Error::from);
        let alone = blocked.and_then(|()| kernel::keep_alone(pipe.as_fd()));
        let waits = alone.is_ok();
        // Back to where it is open as well: it is to be closed there and stays in this thread's table.
        // Whoever started this waits for it.
        let _ = tell.send((pipe, alone));
        if waits {
            loop {
                nix::unistd::pause();
            }
        }
    })?;
    let (pipe, alone) = told.recv().map_err(io::Error::other)?;
    drop(pipe);
    alone
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use nix::fcntl::OFlag;
    use std::fs;
    use std::os::fd::AsRawFd;

    /// The thread has one fd, and this process none of that pipe; while both live, the pipe is not at
    /// its end.
    #[test]
    fn one_thread_alone_holds_the_pipe() {
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let number = theirs.as_raw_fd();
        let file = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
        hang(theirs).unwrap();
        let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let fds = |path: &std::path::Path| -> Vec<_> {
            let fds = fs::read_dir(path.join("fd")).unwrap();
            fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).collect()
        };
        let named = |path: &std::path::PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "knell")
        };
        let threads: Vec<_> = tasks.filter(named).collect();
        assert_eq!(threads.len(), 1);
        assert_eq!(fds(&threads[0]), std::slice::from_ref(&file));
        let own = fds(std::path::Path::new("/proc/self"));
        assert_eq!(own.iter().filter(|it| **it == file).count(), 1, "the reading end alone");
        assert_eq!(nix::unistd::read(&ours, &mut [0]), Err(Errno::EAGAIN));
    }
}
