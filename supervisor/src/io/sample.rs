//! Measuring our processes and the host from /proc, and the quota of our cgroup where there is one.
//! Runs on a blocking thread: reading a big process's smaps takes milliseconds.

use crate::core::event::Sample;
use crate::core::memory::HostMemory;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::id::Generation;
use tasuki_shared::limits::{MEMORY_SAMPLE_COST_DIVISOR, MEMORY_SAMPLE_INTERVAL_MAX};

const CGROUPS: &str = "/sys/fs/cgroup";

/// One round of measurements.
#[derive(Debug, Default)]
pub struct Round {
    pub cpu_percent: f32,
    pub host: HostMemory,
    pub workers: Vec<(Generation, Sample)>,
    pub ended: Option<Instant>,
}

/// When a process's memory is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A decision waits for it.
    Now,
    /// As often as it is cheap.
    WhenCheap,
}

/// Counters of the round before.
#[derive(Debug, Default)]
pub struct Sampler {
    host: Option<HostTicks>,
    quota: Option<QuotaUse>,
    processes: HashMap<Generation, Known>,
}

/// Of one process, in the round before.
#[derive(Clone, Copy, Debug)]
struct Known {
    ticks: Option<u64>,
    memory: Sample,
    /// When the reading of its memory began.
    measured: Instant,
    /// From then on its memory is looked at again.
    memory_due: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HostTicks {
    busy: u64,
    /// Of all processors together.
    total: u64,
    /// That `total` is the sum of.
    processors: u64,
}

/// What a cgroup with a quota had used at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QuotaUse {
    used_us: u64,
    at_us: u64,
    quota: Quota,
}

/// Processor time per wall time (`cpu.max`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quota {
    quota_us: u64,
    period_us: u64,
}

impl Sampler {
    pub fn sample(&mut self, processes: &[(Generation, i32, Due)]) -> Round {
        let host = fs::read_to_string("/proc/stat").ok().and_then(|text| host_ticks(&text));
        let elapsed = host.zip(self.host).map(|(now, before)| HostTicks {
            busy: now.busy.saturating_sub(before.busy),
            total: now.total.saturating_sub(before.total),
            processors: now.processors,
        });
        self.host = host;
        let quota = own_cgroup().and_then(|cgroup| quota_use(Path::new(CGROUPS), &cgroup));
        let of_quota = quota.zip(self.quota).map_or(0.0, |(now, before)| now.percent_since(before));
        self.quota = quota;
        let mut before = std::mem::take(&mut self.processes);
        let mut workers = Vec::with_capacity(processes.len());
        for (generation, pid, due) in processes {
            let known = before.remove(generation);
            let Some(mut now) = Known::look(*pid, known, *due) else { continue };
            let used = now.ticks.zip(known.and_then(|known| known.ticks));
            let used = used.map(|(now, before)| now.saturating_sub(before));
            if let (Some(used), Some(elapsed)) = (used, elapsed) {
                // /proc/stat counts all processors: a share of one is that many times more.
                let used = used.saturating_mul(elapsed.processors);
                now.memory.cpu_percent = percent(used, elapsed.total);
            }
            now.memory.measured_ago = now.measured.elapsed();
            self.processes.insert(*generation, now);
            workers.push((*generation, now.memory));
        }
        let of_host = elapsed.map_or(0.0, |elapsed| percent(elapsed.busy, elapsed.total));
        // Whichever is nearer to its end is what streams wait for.
        let host = host_memory(Path::new("/proc"), Path::new(CGROUPS), own_cgroup().as_deref());
        let ended = Some(clock::now());
        Round { cpu_percent: of_host.max(of_quota), host, workers, ended }
    }
}

impl Known {
    /// Walking the pages of a worker with many logs takes milliseconds, so it is done less often
    /// there.
    fn look(pid: i32, before: Option<Self>, due: Due) -> Option<Self> {
        let began = clock::now();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let ticks = process_ticks(&stat);
        let is_soon = |before: &Self| due == Due::WhenCheap && began < before.memory_due;
        if let Some(before) = before.filter(is_soon) {
            return Some(Self { ticks, ..before });
        }
        let memory = memory(pid)?;
        let pause = began.elapsed() * MEMORY_SAMPLE_COST_DIVISOR;
        let memory_due = began + pause.min(MEMORY_SAMPLE_INTERVAL_MAX);
        Some(Self { ticks, memory, measured: began, memory_due })
    }
}

impl QuotaUse {
    fn percent_since(self, before: Self) -> f32 {
        let used = self.used_us.saturating_sub(before.used_us);
        let wall = self.at_us.saturating_sub(before.at_us);
        let Quota { quota_us, period_us } = self.quota;
        percent(used.saturating_mul(period_us), wall.saturating_mul(quota_us))
    }
}

/// Our place in the unified hierarchy (cgroups(7)), relative to its mount.
fn own_cgroup() -> Option<PathBuf> {
    cgroup_in(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

pub(super) fn cgroup_in(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // A process outside of its cgroup namespace's root; nothing is to be found there.
    (!path.split('/').any(|part| part == "..")).then(|| PathBuf::from(path))
}

/// The tightest quota on the way from our cgroup to the root, with what its cgroup has used.
fn quota_use(root: &Path, cgroup: &Path) -> Option<QuotaUse> {
    let found = cgroup.ancestors().filter_map(|at| {
        let directory = root.join(at);
        let quota = parse_quota(&fs::read_to_string(directory.join("cpu.max")).ok()?)?;
        let used = fs::read_to_string(directory.join("cpu.stat")).ok()?;
        let used_us = used.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        let used_us = used_us.trim().parse().ok()?;
        Some(QuotaUse { used_us, at_us: clock::monotonic_us(), quota })
    });
    found.min_by_key(|used| percent_of_one(used.quota))
}

fn percent_of_one(quota: Quota) -> u64 {
    quota.quota_us.saturating_mul(100) / quota.period_us.max(1)
}

/// "max 100000" is no quota.
fn parse_quota(text: &str) -> Option<Quota> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some(Quota { quota_us: quota.parse().ok()?, period_us: period.parse().ok()? })
}

fn memory(pid: i32) -> Option<Sample> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let bytes = |field: &str| smaps_bytes(&text, field).unwrap_or(0);
    let lazy_free_bytes = bytes("LazyFree");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    // Counting is a system call for each few hundred of them.
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Some(Sample {
        footprint_bytes: bytes("Anonymous").saturating_sub(lazy_free_bytes) + bytes("Swap"),
        rss_bytes: bytes("Rss"),
        lazy_free_bytes,
        shared_bytes: smaps_bytes(&status, "RssShmem").unwrap_or(0),
        threads: threads.and_then(|count| count.trim().parse().ok()).unwrap_or(0),
        fds: u32::try_from(fds).unwrap_or(u32::MAX),
        measured_ago: Duration::ZERO,
        cpu_percent: 0.0,
    })
}

/// What this process could have at most: the host's memory, or less by its cgroup.
pub fn memory_total_bytes() -> Option<u64> {
    let host = host_memory(Path::new("/proc"), Path::new(CGROUPS), own_cgroup().as_deref());
    (host.total_bytes > 0).then_some(host.total_bytes)
}

/// The host's memory within the bounds of every cgroup above us. What is missing bounds nothing.
fn host_memory(proc: &Path, cgroups: &Path, own: Option<&Path>) -> HostMemory {
    let meminfo = fs::read_to_string(proc.join("meminfo")).unwrap_or_default();
    let mut host = HostMemory {
        total_bytes: smaps_bytes(&meminfo, "MemTotal").unwrap_or(0),
        available_bytes: smaps_bytes(&meminfo, "MemAvailable").unwrap_or(0),
        ..HostMemory::default()
    };
    let read = |path: PathBuf| fs::read_to_string(path).ok();
    for at in own.into_iter().flat_map(Path::ancestors) {
        let directory = cgroups.join(at);
        // "max" is no number and no bound.
        let number = |name| read(directory.join(name))?.trim().parse::<u64>().ok();
        let bounds = [number("memory.max"), number("memory.high")];
        let Some(most) = bounds.into_iter().flatten().min() else { continue };
        let stat = read(directory.join("memory.stat")).unwrap_or_default();
        let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
        let cached = cached.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0);
        // The kernel takes pages of files back before it lets anybody die.
        let used = number("memory.current").unwrap_or(0).saturating_sub(cached);
        host.total_bytes = host.total_bytes.min(most);
        host.available_bytes = host.available_bytes.min(most.saturating_sub(used));
    }
    let own_pressure = own.and_then(|own| read(cgroups.join(own).join("memory.pressure")));
    if let Some(text) = own_pressure.or_else(|| read(proc.join("pressure/memory"))) {
        host.stalled_some_percent = stalled_percent(&text, "some ");
        host.stalled_full_percent = stalled_percent(&text, "full ");
    }
    host
}

/// "some avg10=0.12 avg60=…" (psi.rst).
fn stalled_percent(text: &str, which: &str) -> f32 {
    let line = text.lines().find_map(|line| line.strip_prefix(which));
    let average = line.and_then(|line| line.split(' ').find_map(|f| f.strip_prefix("avg10=")));
    average.and_then(|average| average.parse().ok()).filter(|p: &f32| p.is_finite()).unwrap_or(0.0)
}

fn smaps_bytes(text: &str, field: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field).and_then(|rest| rest.strip_prefix(':')))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// proc_pid_stat(5): utime and stime are fields 14 and 15; the name before may hold anything.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
fn host_ticks(text: &str) -> Option<HostTicks> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().take(8).map(|field| field.parse().unwrap_or(0)).collect();
    let total = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    // Not what this process may use: `total` is the sum over the processors listed here.
    let listed = text.lines().filter(|line| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    let processors = u64::try_from(listed.count()).unwrap_or(u64::MAX).max(1);
    Some(HostTicks { busy: u64::saturating_sub(total, idle), total, processors })
}

fn percent(part: u64, whole: u64) -> f32 {
    if whole == 0 {
        return 0.0;
    }
    let tenths = part.saturating_mul(1000) / whole;
    f32::from(u16::try_from(tenths).unwrap_or(u16::MAX)) / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 300 40 0 0 20 0 1 0 9 9 9";
        assert_eq!(process_ticks(stat), Some(340));
    }

    #[test]
    fn idle_and_waiting_for_disks_are_not_busy_and_guests_count_once() {
        let text = "cpu  100 0 50 800 40 5 5 0 70 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\n";
        let expected = HostTicks { busy: 160, total: 1000, processors: 2 };
        assert_eq!(host_ticks(text), Some(expected));
    }

    #[test]
    fn the_tightest_quota_on_the_way_to_the_root_counts() {
        let root = std::env::temp_dir().join(format!("tasuki-cgroup-{}", std::process::id()));
        let own = root.join("slice/service");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("cpu.max"), "max 100000\n").unwrap();
        fs::write(own.join("cpu.stat"), "usage_usec 5\n").unwrap();
        fs::write(root.join("slice/cpu.max"), "50000 100000\n").unwrap();
        fs::write(root.join("slice/cpu.stat"), "usage_usec 7000\nuser_usec 1\n").unwrap();
        let found = quota_use(&root, &cgroup_in("1:x:/\n0::/slice/service\n").unwrap()).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.quota, Quota { quota_us: 50_000, period_us: 100_000 });
        assert_eq!(found.used_us, 7000);
        let later = QuotaUse { used_us: 7000 + 250_000, at_us: found.at_us + 1_000_000, ..found };
        let percent = later.percent_since(found);
        assert!(
            (percent - 50.0).abs() < 0.1,
            "a quarter of a second of half a processor: {percent}"
        );
        assert_eq!(cgroup_in("0::/../x"), None);
    }

    #[test]
    fn memory_is_bounded_by_every_cgroup_and_the_cache_of_files_counts_as_free() {
        let root = std::env::temp_dir().join(format!("tasuki-memory-{}", std::process::id()));
        let own = root.join("cgroup/slice/service");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(root.join("pressure")).unwrap();
        fs::write(root.join("meminfo"), "MemTotal: 8192 kB\nMemAvailable: 4096 kB\n").unwrap();
        let at = |own| host_memory(&root, &root.join("cgroup"), own);
        let without = at(None);
        assert_eq!((without.total_bytes, without.available_bytes), (8 << 20, 4 << 20));
        fs::write(own.join("memory.max"), "max\n").unwrap();
        fs::write(root.join("cgroup/slice/memory.max"), "3145728\n").unwrap();
        fs::write(root.join("cgroup/slice/memory.current"), "2097152\n").unwrap();
        fs::write(root.join("cgroup/slice/memory.stat"), "anon 1\ninactive_file 1048576\n")
            .unwrap();
        fs::write(
            root.join("pressure/memory"),
            "some avg10=12.50 avg60=1.00 total=9\nfull avg10=3.00 avg60=0.00 total=5\n",
        )
        .unwrap();
        let within = at(Some(Path::new("slice/service")));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!((within.total_bytes, within.available_bytes), (3 << 20, 2 << 20));
        let stalled = (within.stalled_some_percent, within.stalled_full_percent);
        assert_eq!(stalled, (12.5, 3.0));
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "Rss:  12 kB\nSwapPss:  3 kB\nSwap:   2 kB\nLazyFree: 1 kB\n";
        assert_eq!(smaps_bytes(text, "Swap"), Some(2048));
        assert_eq!(smaps_bytes(text, "Anonymous"), None);
    }

    #[test]
    fn this_process_has_a_footprint_and_uses_no_more_than_it_has_resident() {
        let mut sampler = Sampler::default();
        let pid = i32::try_from(std::process::id()).unwrap();
        let round = sampler
            .sample(&[(Generation(1), pid, Due::WhenCheap), (Generation(2), -1, Due::WhenCheap)]);
        assert_eq!(round.workers.len(), 1);
        let (_, sample) = round.workers[0];
        assert!(sample.footprint_bytes > 0 && sample.rss_bytes >= sample.lazy_free_bytes);
        assert!(sample.threads >= 1 && sample.fds >= 3, "{sample:?}");
        assert!(round.host.total_bytes >= round.host.available_bytes, "{:?}", round.host);
    }

    /// What is costly to measure is measured at once all the same where a decision waits for it.
    #[test]
    fn a_measurement_that_is_waited_for_does_not_wait_for_its_turn() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut known = Known::look(pid, None, Due::WhenCheap).unwrap();
        known.memory_due = known.measured + Duration::from_secs(60);
        let again = Known::look(pid, Some(known), Due::WhenCheap).unwrap();
        assert_eq!(again.measured, known.measured);
        assert!(Known::look(pid, Some(known), Due::Now).unwrap().measured > known.measured);
    }
}
