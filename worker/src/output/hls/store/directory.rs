//! What a packager asks of a file system; replaced in tests by one that fails on demand.

use super::Put;
use crate::output::hls::place::UNFINISHED_PREFIX;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use tasuki_shared::failpoint::{self, Point};

pub trait Files {
    fn create_directory(&self) -> io::Result<()>;
    fn names(&self) -> io::Result<Vec<String>>;
    /// At most so many first bytes of a file.
    fn head(&self, name: &str, bytes: usize) -> io::Result<Vec<u8>>;
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Makes a file, whole, unless there is one of that name.
    fn commit(&mut self, name: &str, bytes: &[u8]) -> io::Result<Put>;
    /// Makes a file, whole, whether there is one of that name or not.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
}

#[derive(Clone, Debug)]
pub struct Directory {
    pub path: PathBuf,
}

impl Directory {
    fn write(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        // Two packagers of one process may have the same directory: an old stream's and a new one's.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{UNFINISHED_PREFIX}{}.{count}", std::process::id());
        let path = self.path.join(name);
        if let Err(error) = std::fs::write(&path, bytes) {
            let _nothing_to_lose = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(path)
    }
}

impl Files for Directory {
    fn create_directory(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.path)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn head(&self, name: &str, bytes: usize) -> io::Result<Vec<u8>> {
        let limit = u64::try_from(bytes).unwrap_or(u64::MAX);
        let mut head = Vec::with_capacity(bytes);
        std::fs::File::open(self.path.join(name))?.take(limit).read_to_end(&mut head)?;
        Ok(head)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.path.join(name))
    }

    fn commit(&mut self, name: &str, bytes: &[u8]) -> io::Result<Put> {
        failpoint::hit(Point::HlsWriting);
        let unnamed = self.write(bytes)?;
        failpoint::hit(Point::HlsWritten);
        let path = self.path.join(name);
        let named = renameat2(AT_FDCWD, &unnamed, AT_FDCWD, &path, RenameFlags::RENAME_NOREPLACE);
        failpoint::hit(Point::HlsNamed);
        match named {
            Ok(()) => Ok(Put::Ours),
            Err(errno) => {
                let _nothing_to_lose = std::fs::remove_file(&unnamed);
                if errno == Errno::EEXIST { Ok(Put::Theirs) } else { Err(errno.into()) }
            }
        }
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let unnamed = self.write(bytes)?;
        std::fs::rename(unnamed, self.path.join(name))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// Does the process live that a name without a file says?
pub(super) fn is_being_written(name: &str) -> bool {
    let pid = name.strip_prefix(UNFINISHED_PREFIX).and_then(|rest| rest.split('.').next());
    let Some(pid) = pid.and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 0) else {
        return false;
    };
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}
