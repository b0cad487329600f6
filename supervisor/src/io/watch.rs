//! Registering fds with the runtime.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// Watches something that owns its fd and closes it only when dropped.
#[expect(
    deprecated,
    reason = "the replacement is unsafe because a T may close its fd early; what turns into an \
              OwnedFd does not"
)]
pub fn watch<T: AsRawFd + Into<OwnedFd>>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(owner)
}
