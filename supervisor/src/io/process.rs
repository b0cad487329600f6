//! The task that serves one process: its control channel both ways, and its death.
//!
//! When the pidfd is readable every thread of the process is dead; what it had sent is read before
//! the death is told, so a session that ended properly is not taken for an orphan.

use crate::core::event::Loss;
use crate::event_loop::{SharedShell, Turn};
use crate::io::spawn::Spawned;
use crate::io::watch::watch;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tasuki_shared::channel::{ChannelError, Fault};
use tasuki_shared::id::Generation;
use tasuki_shared::kernel;
use tasuki_shared::limits::FRAMES_PER_TURN;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The fds this task waits on; the channel itself belongs to the shell.
pub struct Watched {
    pub generation: Generation,
    /// A dup of the channel's socket.
    pub channel: AsyncFd<OwnedFd>,
    pub pidfd: AsyncFd<OwnedFd>,
}

impl Watched {
    pub fn new(generation: Generation, spawned: &Spawned) -> io::Result<Self> {
        Ok(Self {
            generation,
            channel: watch(spawned.channel.as_fd().try_clone_to_owned()?)?,
            pidfd: watch(spawned.pidfd.try_clone()?)?,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Open,
    Closed,
}

pub async fn serve(shell: SharedShell, watched: Watched) {
    let Watched { generation, channel, pidfd } = watched;
    let Some(queued) = shell.borrow().queued_signal(generation) else { return };
    let mut line = Line::Open;
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
            () = queued.notified(), if line == Line::Open => {}
        }
        tokio::task::yield_now().await;
    }
    if line == Line::Open {
        while read(&shell, generation) == Read::More {}
    }
    drop(channel);
    let death = kernel::reap(pidfd.get_ref().as_fd());
    drop(pidfd);
    shell.borrow_mut().reaped(generation, death);
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
