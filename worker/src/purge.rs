//! Purging and reading the allocator, on a thread of its own: giving a hundred megabytes back to
//! the kernel takes milliseconds, which the io thread does not have.

use crate::allocator;
use crate::bell::{Bell, CONTROL};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tasuki_shared::limits::HEARTBEAT_INTERVAL;
use tasuki_shared::message::AllocatorFigures;

/// The io thread's handle.
#[derive(Debug)]
pub struct Purger {
    asks: Option<SyncSender<()>>,
    known: Arc<Known>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Known {
    figures: Mutex<Option<AllocatorFigures>>,
    purged: AtomicBool,
}

impl Purger {
    /// Rings for `CONTROL` after each purge.
    pub fn start(bell: Arc<Bell>) -> io::Result<Self> {
        let known = Arc::new(Known::default());
        // One purge that waits is as good as many.
        let (asks, asked) = sync_channel(1);
        let work = Arc::clone(&known);
        let thread = std::thread::Builder::new().name("purge".into());
        let thread = thread.spawn(move || serve(&asked, &work, &bell))?;
        Ok(Self { asks: Some(asks), known, thread: Some(thread) })
    }

    /// Never waits.
    pub fn ask(&self) {
        if let Some(asks) = &self.asks {
            // Full: a purge is about to begin anyway.
            let _ = asks.try_send(());
        }
    }

    /// Was there a purge since the last call?
    pub fn take_purged(&self) -> bool {
        self.known.purged.swap(false, Ordering::AcqRel)
    }

    /// At most a heartbeat old; `None` until they were first read.
    pub fn figures(&self) -> Option<AllocatorFigures> {
        *self.known.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Purger {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

fn serve(asked: &Receiver<()>, known: &Known, bell: &Bell) {
    loop {
        let turn = asked.recv_timeout(HEARTBEAT_INTERVAL);
        if turn == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        if turn.is_ok() {
            allocator::give_back();
        }
        if let Some(figures) = allocator::figures() {
            *known.figures.lock().unwrap_or_else(PoisonError::into_inner) = Some(figures);
        }
        if turn.is_ok() {
            known.purged.store(true, Ordering::Release);
            bell.ring(CONTROL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, poll};

    /// A purge rings, is told of once, and its figures are there by then.
    #[test]
    fn a_purge_is_answered_once_with_fresh_figures() {
        let bell = Bell::new().unwrap();
        let purger = Purger::start(Arc::clone(&bell)).unwrap();
        assert!(!purger.take_purged());
        purger.ask();
        let mut polled = [PollFd::new(bell.fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut polled, 10_000_u16).unwrap(), 1);
        assert_eq!(bell.answer(), [CONTROL]);
        assert!(purger.take_purged() && !purger.take_purged());
        assert!(purger.figures().unwrap().allocated_bytes > 0);
    }
}
