//! Starting our processes.

use nix::fcntl::OFlag;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use tasuki_shared::channel::{self, Channel};
use tasuki_shared::id::Generation;
use tasuki_shared::inherit::{self, Fds};
use tasuki_shared::kernel;
use tasuki_shared::message::{FromWorker, Role, ToWorker};

/// Names another program than the one beside this executable.
pub const WORKER_VARIABLE: &str = "TASUKI_WORKER";

/// A process of ours as the shell holds it.
pub struct Spawned {
    pub channel: Channel<ToWorker, FromWorker>,
    pub pidfd: OwnedFd,
    /// A pipe whose other end a worker holds as `inherit` says.
    pub knell: Option<OwnedFd>,
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
    let (knell, their_knell) = match role {
        Role::Worker => {
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map(|(read, write)| (Some(read), Some(write)))?
        }
        Role::Dialer | Role::Delivery | Role::Console => (None, None),
    };
    let fds = Fds { control: theirs.as_fd(), knell: their_knell.as_ref().map(AsFd::as_fd) };
    let child = inherit::spawn(program, role, generation, environment, fds)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    // The child cannot be reaped by anybody else, so the pid is still its own.
    match kernel::pidfd_open(pid) {
        Ok(pidfd) => Ok(Spawned { channel, pidfd, knell, child }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use nix::sys::wait::waitpid;
    use nix::unistd::Pid;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    /// A process that was begun and cannot be served is dead and reaped, and its end of the channel
    /// is closed; one that cannot be begun is told of by its program's name.
    #[test]
    fn what_is_half_made_leaves_nothing_behind() {
        let script = std::env::temp_dir().join(format!("tasuki-spawn-{}", std::process::id()));
        std::fs::write(&script, "#!/bin/sh\nexec sleep 600\n").unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let spawned = spawn(&script, Role::Worker, Generation(1), &[]).unwrap();
        let pid = Pid::from_raw(spawned.pid());
        assert!(pid.as_raw() > 0);
        let ours = spawned.channel.as_fd().try_clone_to_owned().unwrap();
        spawned.abandon();
        std::fs::remove_file(&script).unwrap();
        assert_eq!(waitpid(pid, None), Err(Errno::ECHILD));
        assert_eq!(UnixStream::from(ours).read(&mut [0]).unwrap(), 0);
        let missing = Path::new("/nonexistent/tasuki-worker");
        let error = spawn(missing, Role::Worker, Generation(1), &[]).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/tasuki-worker"), "{error}");
    }
}
