//! What a recorder asks of a file system; replaced in tests by one that fails on demand.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

pub trait Disk {
    type File: DiskFile;

    fn create_directory(&self, directory: &Path) -> io::Result<()>;
    /// Makes a file that did not exist, locked against retention and repair.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Bytes that an ordinary user may still write.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;
}

pub trait DiskFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&mut self, bytes: u64) -> io::Result<()>;
}

#[derive(Clone, Copy, Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    type File = Flock<File>;

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        std::fs::create_dir_all(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Self::File> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        lock(file)
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        let figures = nix::sys::statvfs::statvfs(directory)?;
        Ok(figures.blocks_available().saturating_mul(figures.fragment_size()))
    }
}

impl DiskFile for Flock<File> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(&mut **self, bytes)
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}

/// Opens a file for a recorder that goes on with it; fails at once when another holds it.
pub fn reopen(path: &Path) -> io::Result<Flock<File>> {
    lock(OpenOptions::new().read(true).append(true).open(path)?)
}

/// Takes the lock that a recorder holds while it writes; fails at once when it is held.
pub fn lock(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}
