//! A process started by a test: its log in a file, its end bounded, never left behind.

use crate::wait;
use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a killed process may take to be gone.
const KILL_BOUND: Duration = Duration::from_secs(10);

static APART: AtomicBool = AtomicBool::new(false);

/// From now on processes get a group of their own, so that Ctrl-C reaches only the caller, who
/// then ends them in order. Tests do not do this: what kills a test shall kill all it started.
pub fn keep_apart_from_terminal() {
    APART.store(true, Ordering::Relaxed);
}

/// A running process and the file that collects its standard error.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    process: std::process::Child,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts `command`; its standard error goes to `name.log` in `directory`.
    pub fn start(name: &str, directory: &Path, command: &mut Command) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        if APART.load(Ordering::Relaxed) {
            command.process_group(0);
        }
        let process = command
            .stderr(Stdio::from(stderr))
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), log, process, ended: None })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, as the kernel's calls take it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a pid fits pid_t")
    }

    pub fn take_stdin(&mut self) -> Result<ChildStdin> {
        self.process.stdin.take().with_context(|| format!("{} has no piped stdin", self.name))
    }

    pub fn take_stdout(&mut self) -> Result<ChildStdout> {
        self.process.stdout.take().with_context(|| format!("{} has no piped stdout", self.name))
    }

    /// What it has written to standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait().with_context(|| self.name.clone())?;
        }
        Ok(self.ended)
    }

    /// Fails, with the log, if it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(self.failure(&format!("ended early with {status}"))),
        }
    }

    /// Sends a signal; a process that has ended is not signalled.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_none() {
            kill(Pid::from_raw(self.pid()), signal)
                .with_context(|| format!("{signal} to {}", self.name))?;
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        match wait::until(&what, bound, || self.ended()) {
            Ok(status) => Ok(status),
            Err(error) => Err(self.failure(&format!("{error}"))),
        }
    }

    /// Waits for its end and takes anything but success as a failure.
    pub fn finish(&mut self, bound: Duration) -> Result<()> {
        let status = self.wait(bound)?;
        if status.success() { Ok(()) } else { Err(self.failure(&format!("ended with {status}"))) }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        self.wait(KILL_BOUND)
    }

    fn failure(&self, what: &str) -> anyhow::Error {
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        anyhow!("{} {what}; the end of its log:\n{}", self.name, tail.join("\n"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

/// Is this program on the path?
#[must_use]
pub fn installed(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|directory| directory.join(program).is_file())
}

/// Fails by name when a program that a test needs is missing.
pub fn require(program: &str) -> Result<()> {
    if installed(program) {
        Ok(())
    } else {
        bail!("{program} is not installed; `./dev test` installs what the tests need")
    }
}
