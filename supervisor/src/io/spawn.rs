//! Starting our processes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use tasuki_shared::channel::{self, Channel};
use tasuki_shared::id::Generation;
use tasuki_shared::message::{FromWorker, Role, ToWorker};
use tasuki_shared::{inherit, kernel};

/// Names another program than the one beside this executable.
pub const WORKER_VARIABLE: &str = "TASUKI_WORKER";

/// A process of ours as the shell holds it.
pub struct Spawned {
    pub channel: Channel<ToWorker, FromWorker>,
    pub pidfd: OwnedFd,
    child: Child,
}

impl Spawned {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// Ends a process that cannot be served.
    pub fn abandon(self) {
        end(self.child);
    }
}

/// Where the worker program is.
pub fn worker_program() -> io::Result<PathBuf> {
    if let Some(path) = std::env::var_os(WORKER_VARIABLE) {
        return Ok(path.into());
    }
    Ok(std::env::current_exe()?.with_file_name("tasuki-worker"))
}

pub fn spawn(
    program: &Path,
    role: Role,
    generation: Generation,
    environment: &[(&'static str, String)],
) -> io::Result<Spawned> {
    let (channel, theirs) = channel::pair().map_err(io::Error::other)?;
    let child = inherit::spawn(program, role, generation, environment, theirs.as_fd())
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    // The child cannot be reaped by anybody else, so the pid is still its own.
    match kernel::pidfd_open(pid) {
        Ok(pidfd) => Ok(Spawned { channel, pidfd, child }),
        Err(error) => {
            end(child);
            Err(error)
        }
    }
}

/// Waits for as long as a process that has just begun takes to die.
fn end(mut child: Child) {
    // Nobody else reaps it, so it can be killed and waited for.
    let _ = child.kill();
    let _ = child.wait();
}
