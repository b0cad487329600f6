//! A file system that answers nothing: who asks it for anything is stuck in the kernel, and not even
//! SIGKILL ends that, until the file system goes away.
//!
//! The kernel's side of FUSE (fuse(4)): this process is the daemon, answers INIT and then no more. A
//! request that it has read is waited for without interruption.

use anyhow::{Context, Result, ensure};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const INIT: u32 = 26;
const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// Mounted until it is dropped; whoever waited for it then gets an error.
#[derive(Debug)]
pub struct StuckDisk {
    directory: PathBuf,
    asked: Receiver<()>,
    connection: PathBuf,
}

impl StuckDisk {
    /// Mounts it over a directory; `None` where that is not allowed.
    pub fn mount(directory: &Path) -> Result<Option<Self>> {
        let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            return Ok(None);
        };
        // mount(8) needs it, and it alone.
        nix::fcntl::fcntl(&device, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let mounted = Command::new("mount")
            .args(["-i", "-n", "-t", "fuse", "tasuki-stuck"])
            .arg(directory)
            .args(["-o", &options])
            .output()?;
        nix::fcntl::fcntl(&device, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        if !mounted.status.success() {
            return Ok(None);
        }
        let (heard, asked) = channel();
        let connection = connection_of(directory)?;
        std::thread::spawn(move || serve(device, &heard));
        Ok(Some(Self { directory: directory.to_owned(), asked, connection }))
    }

    /// Waits until somebody is stuck.
    pub fn wait_asked(&self, bound: Duration) -> Result<()> {
        self.asked.recv_timeout(bound).context("nobody asks the disk for anything")
    }
}

impl Drop for StuckDisk {
    fn drop(&mut self) {
        // Ends every request with an error, and the daemon's read with it.
        let aborted = std::fs::write(self.connection.join("abort"), "1");
        let _ = Command::new("umount").arg("-l").arg(&self.directory).status();
        if let Err(error) = aborted {
            eprintln!("{}: {error}", self.connection.display());
        }
    }
}

/// Where the kernel lets a file system be ended (Documentation/filesystems/fuse).
fn connection_of(directory: &Path) -> Result<PathBuf> {
    let wanted = directory.to_str().context("a path in words")?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(wanted));
    let device = line.and_then(|line| line.split(' ').nth(2)).context("the mount")?;
    let minor = device.split(':').nth(1).context("its minor number")?;
    let root = Path::new("/sys/fs/fuse/connections");
    if !root.join(minor).exists() {
        let made = Command::new("mount").args(["-t", "fusectl", "none"]).arg(root).status()?;
        ensure!(made.success(), "no control file system");
    }
    Ok(root.join(minor))
}

fn serve(mut device: File, heard: &std::sync::mpsc::Sender<()>) {
    let mut request = vec![0; REQUEST_BYTES_MAX];
    // An error is the end of the connection.
    while let Ok(got) = device.read(&mut request) {
        let word = |at: usize| -> [u8; 4] { request[at..at + 4].try_into().unwrap_or_default() };
        if got < 16 || u32::from_le_bytes(word(4)) != INIT {
            // Only whether anybody asked is of interest.
            let _ = heard.send(());
            continue;
        }
        // fuse_out_header, then fuse_init_out of version 7.31.
        let mut body = Vec::new();
        for number in [7_u32, 31, 0, 0, 0, 65536, 1, 0] {
            body.extend(number.to_le_bytes());
        }
        body.resize(64, 0);
        let length = u32::try_from(16 + body.len()).unwrap_or_default();
        let mut answer = length.to_le_bytes().to_vec();
        answer.extend(0_i32.to_le_bytes());
        answer.extend(&request[8..16]);
        answer.extend(body);
        if device.write_all(&answer).is_err() {
            return;
        }
    }
}
