//! Where things lie: the target directory, the binaries under test, run directories.

use crate::proc;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::exit::{self, Exit};

/// A test that takes longer is ended, with all it started. Under nextest's own limit.
const TEST_BOUND: Duration = Duration::from_secs(220);

/// Directory of the profile this test was built with, for example `target/debug`.
pub fn profile_directory() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("this test's own path")?;
    let mut directory = executable.parent().context("a test lies in a directory")?.to_path_buf();
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory.pop();
    }
    Ok(directory)
}

/// The target directory, where fixtures are kept between runs.
pub fn target_directory() -> Result<PathBuf> {
    Ok(profile_directory()?.parent().context("a profile lies in the target directory")?.into())
}

/// One of Tasuki's binaries: in `$TASUKI_BIN_DIR`, or beside this test.
pub fn binary(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("TASUKI_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => profile_directory()?,
    };
    let path = directory.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        bail!("{} is not built; `./dev test` builds it first", path.display())
    }
}

/// A directory of one test's own: removed at the end, kept when the test fails.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Makes an empty directory that no other test has. `$TASUKI_RUN_DIR` or `/tmp` holds it:
    /// the path stays short enough for a socket's name.
    pub fn new(label: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let root =
            std::env::var_os("TASUKI_RUN_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name =
            format!("tasuki-{label}-{}-{count}-{:x}", std::process::id(), clock::unix_ms() & 0xfff);
        let path = root.join(name);
        fs::create_dir_all(&root)?;
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory where it is.
    pub fn keep(self) {
        eprintln!("kept for inspection: {}", self.path.display());
        std::mem::forget(self);
    }

    /// Path of something inside.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("TASUKI_KEEP_RUNS").is_some() {
            eprintln!("kept for inspection: {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Runs a test's body in a run directory that is kept when the body fails, within the bound.
pub fn in_run_directory(label: &'static str, body: impl FnOnce(&RunDirectory) -> Result<()>) {
    // Dropped at the end of the body, which tells the thread that there is nothing to end.
    let (_running, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(TEST_BOUND) {
            eprintln!("the test {label} took longer than {} s", TEST_BOUND.as_secs());
            kill_descendants();
            exit::leave(Exit::Failure);
        }
    });
    let run = RunDirectory::new(label).expect("the temporary directory can be written");
    if let Err(error) = body(&run) {
        panic!("{error:#}\nin {}", run.path().display());
    }
}

/// Ends, by id, every process below this one.
fn kill_descendants() {
    let Ok(own) = i32::try_from(std::process::id()) else { return };
    let census = proc::Census::take(own, &[]).unwrap_or_default();
    for process in census.processes.iter().filter(|process| process.pid != own) {
        if let Err(errno) = kill(Pid::from_raw(process.pid), Signal::SIGKILL) {
            eprintln!("cannot end {} ({}): {errno}", process.pid, process.name);
        }
    }
}
