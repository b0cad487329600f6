//! How other threads wake the io thread: a list of who rang, and one eventfd.

use nix::sys::eventfd::EventFd;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use tasuki_shared::kernel;

/// Who rings: the serial of a session, or [`CONTROL`].
pub type Ringer = u64;
/// The control thread.
pub const CONTROL: Ringer = 0;

/// See the module.
pub struct Bell {
    rang: Mutex<Vec<Ringer>>,
    event: EventFd,
}

impl Bell {
    pub fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self { rang: Mutex::new(Vec::new()), event: kernel::event()? }))
    }

    /// Rings for `who`; one that rang already is not noted twice.
    pub fn ring(&self, who: Ringer) {
        let mut rang = self.rang.lock().unwrap_or_else(PoisonError::into_inner);
        let first = rang.is_empty();
        if !rang.contains(&who) {
            rang.push(who);
        }
        drop(rang);
        if first && let Err(error) = kernel::event_signal(&self.event) {
            // The io thread also looks at everything with each tick.
            tracing::warn!(%error, "the io thread cannot be woken");
        }
    }

    /// Who rang since the last call.
    pub fn answer(&self) -> Vec<Ringer> {
        let _count = kernel::event_clear(&self.event);
        std::mem::take(&mut *self.rang.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
