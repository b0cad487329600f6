//! What processes cost: CPU time, memory, and the middle of several rounds.

use anyhow::{Context, Result, ensure};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_tests::child::Child;
use tasuki_tests::proc::Census;

/// Between two looks at the memory of processes that are measured.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// User and system time of one process, its ended threads included; also of one that has ended
/// and is not reaped yet (clock_getcpuclockid(3), to the nanosecond).
pub fn cpu_of(pid: i32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).context("the CPU clock of a process")?;
    Ok(clock_gettime(clock).context("a CPU clock")?.into())
}

/// The same for a process and all below it, those that were reaped included.
pub fn cpu_of_tree(root: i32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for process in Census::take(root, &[])?.processes {
        total += cpu_of(process.pid)? + cpu_of_reaped_children(process.pid)?;
    }
    Ok(total)
}

fn cpu_of_reaped_children(pid: i32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("a stat line has a name in brackets")?;
    // cutime and cstime: fields 16 and 17 of proc(5), 13 and 14 after the name.
    let ticks: u64 = rest.split_whitespace().skip(13).take(2).filter_map(parse).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?;
    let per_second = u64::try_from(per_second.unwrap_or(100))?;
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

fn parse(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// Waits until a child of ours has ended and leaves it to be reaped, so that its clock can still
/// be read.
pub fn wait_unreaped(child: &Child, bound: Duration) -> Result<()> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    tasuki_tests::wait::until(&format!("the end of {}", child.name()), bound, || {
        let state = waitid(Id::Pid(Pid::from_raw(child.pid())), flags)?;
        Ok((state != nix::sys::wait::WaitStatus::StillAlive).then_some(()))
    })
}

/// Anonymous − LazyFree + Swap: what comes back when the process exits (proc_pid_smaps(5)).
pub fn footprint_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let bytes = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()).and_then(parse).unwrap_or(0) * 1024
    };
    Some((bytes("Anonymous:") + bytes("Swap:")).saturating_sub(bytes("LazyFree:")))
}

/// Pages of the memfds that a process holds, each file once.
pub fn memfd_bytes(pid: i32) -> u64 {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let is_memfd = fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"));
        if let (true, Ok(metadata)) = (is_memfd, fs::metadata(entry.path())) {
            files.insert(metadata.ino(), metadata.blocks() * 512);
        }
    }
    files.values().sum()
}

/// The most that any look found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    /// Of the largest of the processes.
    pub footprint_bytes: u64,
    /// Of the memfds of the process that holds them.
    pub memfd_bytes: u64,
}

/// Looks at the memory of processes until it is asked.
#[derive(Debug)]
pub struct PeakMeter {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Peak>,
}

impl PeakMeter {
    /// `processes` are looked at one by one; `holder` holds memfds.
    pub fn start(processes: Vec<i32>, holder: i32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = Peak::default();
            while !stopped.load(Ordering::Relaxed) {
                let most = processes.iter().filter_map(|pid| footprint_bytes(*pid)).max();
                peak.footprint_bytes = peak.footprint_bytes.max(most.unwrap_or(0));
                peak.memfd_bytes = peak.memfd_bytes.max(memfd_bytes(holder));
                clock::pause(SAMPLE_EVERY);
            }
            peak
        });
        Self { stop, thread }
    }

    pub fn finish(self) -> Result<Peak> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("looking at memory panicked"))
    }
}

/// Middle, least and most of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Result<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        ensure!(!sorted.is_empty(), "no round was measured");
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Ok(Self { median, least: sorted[0], most: sorted[sorted.len() - 1] })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { median, least, most } = self;
        let digits = f.precision().unwrap_or(3);
        write!(f, "{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

/// The value below which `percent` of the samples lie; they get sorted.
pub fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    let last = samples.len().saturating_sub(1);
    samples.get(last * percent / 100).copied().unwrap_or_default()
}

/// Milliseconds with three digits.
pub fn ms(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1000.0)
}
