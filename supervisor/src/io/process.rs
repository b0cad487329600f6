//! The task that serves one process: its control channel both ways, and its death.
//!
//! When the pidfd is readable every thread of the process is dead; what it had sent is read before
//! the death is told, so a session that ended properly is not taken for an orphan. A worker's knell
//! (see `inherit`) rings earlier, before the kernel has given back its memory: then it is looked at
//! until it can do nothing any more ([`leaving`]), which counts as its death. It is reaped when the
//! kernel is done with it.

use crate::core::event::Loss;
use crate::event_loop::{SharedShell, Turn};
use crate::io::leaving;
use crate::io::spawn::Spawned;
use crate::io::watch::watch;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tasuki_shared::channel::{ChannelError, Fault};
use tasuki_shared::id::Generation;
use tasuki_shared::kernel::{self, Death};
use tasuki_shared::limits::{DYING_LOOK_INTERVAL, DYING_LOOKS_MAX, FRAMES_PER_TURN};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The fds this task waits on; the channel itself belongs to the shell.
pub struct Watched {
    pub generation: Generation,
    /// A dup of the channel's socket.
    pub channel: AsyncFd<OwnedFd>,
    pub pidfd: AsyncFd<OwnedFd>,
    pub pid: i32,
    /// At its end when a thread of the process has died that only dies with the process.
    pub knell: Option<AsyncFd<OwnedFd>>,
}

impl Watched {
    pub fn new(generation: Generation, spawned: &Spawned) -> io::Result<Self> {
        Ok(Self {
            generation,
            channel: watch(spawned.channel.as_fd().try_clone_to_owned()?)?,
            pidfd: watch(spawned.pidfd.try_clone()?)?,
            pid: spawned.pid(),
            knell: spawned.knell.as_ref().map(|it| watch(it.try_clone()?)).transpose()?,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Open,
    Closed,
}

pub async fn serve(shell: SharedShell, watched: Watched) {
    let Watched { generation, channel, pidfd, pid, mut knell } = watched;
    let Some(queued) = shell.borrow().queued_signal(generation) else { return };
    let mut line = Line::Open;
    let mut early = None;
    loop {
        let flushed = shell.borrow().is_flushed(generation);
        let interest =
            if flushed { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        tokio::select! {
            biased;
            ready = channel.ready(interest), if line == Line::Open => {
                let Ok(mut ready) = ready else { break };
                if ready.ready().is_writable() && !flushed {
                    Turn::begin(&shell).writable(generation);
                    if !shell.borrow().is_flushed(generation) {
                        ready.clear_ready_matching(tokio::io::Ready::WRITABLE);
                    }
                }
                if ready.ready().is_readable() || ready.ready().is_read_closed() {
                    match read(&shell, generation) {
                        Read::Empty => ready.clear_ready_matching(tokio::io::Ready::READABLE),
                        Read::More => {}
                        Read::Lost => line = Line::Closed,
                    }
                }
            }
            _ = pidfd.readable() => break,
            () = rung(&mut knell) => {
                early = leaving(pid, &pidfd).await;
                if early.is_some() {
                    break;
                }
            }
            () = queued.notified(), if line == Line::Open => {}
        }
        tokio::task::yield_now().await;
    }
    if line == Line::Open {
        while read(&shell, generation) == Read::More {}
    }
    drop(channel);
    if let Some(death) = early {
        shell.borrow_mut().died(generation, death);
        leaving::make_way(pid);
    }
    // An error would mean that it cannot be waited for at all: reap what there is.
    let _ = pidfd.readable().await;
    let reaped = kernel::reap(pidfd.get_ref().as_fd());
    drop(pidfd);
    match early {
        None => shell.borrow_mut().reaped(generation, reaped),
        Some(death) if matches!(&reaped, Ok(Some(reaped)) if *reaped == death) => {}
        Some(death) => {
            tracing::error!(?death, ?reaped, %generation, "it was told to die otherwise")
        }
    }
}

/// Rings once; never where there is no knell.
async fn rung(knell: &mut Option<AsyncFd<OwnedFd>>) {
    match knell {
        // Nobody writes to it: only its end makes it readable.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
    *knell = None;
}

/// How it dies, once it can do nothing any more. `None` where that cannot be told in time, or the
/// pidfd tells it as well by now.
async fn leaving(pid: i32, pidfd: &AsyncFd<OwnedFd>) -> Option<Death> {
    for _ in 0..DYING_LOOKS_MAX {
        let death = leaving::death_of(pid);
        // Nobody has reaped it, so the pid was still its own.
        if death.is_some() {
            return death;
        }
        tokio::select! {
            _ = pidfd.readable() => return None,
            () = tokio::time::sleep(DYING_LOOK_INTERVAL) => {}
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Empty,
    More,
    Lost,
}

fn read(shell: &SharedShell, generation: Generation) -> Read {
    let mut turn = Turn::begin(shell);
    for _ in 0..FRAMES_PER_TURN {
        let loss = match turn.receive(generation) {
            Ok(Some((envelope, fds))) => {
                turn.frame(generation, envelope, fds);
                continue;
            }
            Ok(None) => return Read::Empty,
            Err(ChannelError::Closed) => Loss::Closed,
            // What the fds came with is lost, and its deadline answers for it.
            Err(error) if error.fault() == Fault::Ours => {
                tracing::error!(%error, %generation, "a control frame is lost");
                continue;
            }
            Err(error) => Loss::Broken(error.to_string()),
        };
        turn.lost(generation, loss);
        return Read::Lost;
    }
    Read::More
}
