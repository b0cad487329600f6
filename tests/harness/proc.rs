//! A census of processes in /proc: what a server holds, and what it left behind.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What one process holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub name: String,
    pub threads: usize,
    /// Descriptor → what it is, as /proc shows it.
    pub fds: BTreeMap<i32, String>,
    /// Memory files that are mapped, however often.
    pub memfd_mappings: usize,
}

impl Process {
    /// Descriptors of memory files.
    #[must_use]
    pub fn memfds(&self) -> usize {
        self.fds.values().filter(|target| target.starts_with("/memfd:")).count()
    }

    /// How many descriptors of each kind. Files of /proc and /sys that it reads at this very moment
    /// are left out.
    #[must_use]
    pub fn kinds(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        let read = |target: &&String| target.starts_with("/proc/") || target.starts_with("/sys/");
        for target in self.fds.values().filter(|target| !read(target)) {
            *kinds.entry(kind_of(target)).or_default() += 1;
        }
        kinds
    }

    #[must_use]
    pub fn sockets(&self) -> usize {
        self.fds.values().filter(|target| target.starts_with("socket:")).count()
    }
}

/// A process, all below it, and the files in directories that it may write to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub processes: Vec<Process>,
    pub files: BTreeSet<PathBuf>,
}

impl Census {
    /// Looks at `root`, its descendants, and everything below `directories`.
    pub fn take(root: i32, directories: &[&Path]) -> Result<Self> {
        let mut census = Self::default();
        let children = children_of_all()?;
        let mut pending = vec![root];
        while let Some(pid) = pending.pop() {
            if let Some(process) = look(pid)? {
                census.processes.push(process);
                pending.extend(children.get(&pid).into_iter().flatten());
            }
        }
        census.processes.sort_by_key(|process| process.pid);
        for directory in directories {
            list_files(directory, &mut census.files)?;
        }
        Ok(census)
    }

    #[must_use]
    pub fn fds(&self) -> usize {
        self.processes.iter().map(|process| process.fds.len()).sum()
    }

    #[must_use]
    pub fn memfds(&self) -> usize {
        self.processes.iter().map(Process::memfds).sum()
    }

    #[must_use]
    pub fn threads(&self) -> usize {
        self.processes.iter().map(|process| process.threads).sum()
    }

    /// What is here and was not in `before`: more fds of a kind, more threads, more processes
    /// of a name, new files. Empty when nothing was left behind.
    #[must_use]
    pub fn left_behind_since(&self, before: &Self) -> Vec<String> {
        let mut left = Vec::new();
        for (name, now) in self.by_name() {
            let was = before.by_name().remove(&name).unwrap_or_default();
            let mut compare = |what: &str, was: usize, now: usize| {
                if now > was {
                    left.push(format!("{name}: {what} {was} → {now}"));
                }
            };
            compare("processes", was.processes, now.processes);
            compare("threads", was.threads, now.threads);
            compare("mapped memory files", was.memfd_mappings, now.memfd_mappings);
            for (kind, count) in &now.fds {
                compare(kind, was.fds.get(kind).copied().unwrap_or(0), *count);
            }
        }
        left.extend(
            self.files.difference(&before.files).map(|file| format!("file {}", file.display())),
        );
        left
    }

    fn by_name(&self) -> BTreeMap<String, Tally> {
        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        for process in &self.processes {
            let tally = tallies.entry(process.name.clone()).or_default();
            tally.processes += 1;
            tally.threads += process.threads;
            tally.memfd_mappings += process.memfd_mappings;
            for target in process.fds.values() {
                *tally.fds.entry(kind_of(target)).or_default() += 1;
            }
        }
        tallies
    }
}

#[derive(Clone, Debug, Default)]
struct Tally {
    processes: usize,
    threads: usize,
    memfd_mappings: usize,
    fds: BTreeMap<String, usize>,
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for process in &self.processes {
            writeln!(
                f,
                "{:>8} {:<16} {:>3} threads {:>4} fds {:>3} sockets {:>3} memfds",
                process.pid,
                process.name,
                process.threads,
                process.fds.len(),
                process.sockets(),
                process.memfds(),
            )?;
        }
        write!(f, "{} files", self.files.len())
    }
}

/// A process's memory as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Anonymous − LazyFree + Swap: what comes back when it exits.
    pub footprint_bytes: u64,
    pub lazy_free_bytes: u64,
}

impl Memory {
    /// `None` for a process that is gone.
    pub fn of(pid: i32) -> Result<Option<Self>> {
        let Some(text) = gone_is_none(fs::read_to_string(format!("/proc/{pid}/smaps_rollup")))?
        else {
            return Ok(None);
        };
        let bytes = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kib * 1024)
        };
        // One that has just exited has no memory and no lines.
        let Some(anonymous) = bytes("Anonymous") else { return Ok(None) };
        let lazy_free_bytes = bytes("LazyFree").unwrap_or(0);
        let swap = bytes("Swap").unwrap_or(0);
        let footprint_bytes = anonymous.saturating_sub(lazy_free_bytes) + swap;
        Ok(Some(Self { footprint_bytes, lazy_free_bytes }))
    }
}

/// All processes below this one.
pub fn below(root: i32) -> Result<Vec<i32>> {
    let children = children_of_all()?;
    let (mut found, mut pending) = (Vec::new(), vec![root]);
    while let Some(pid) = pending.pop() {
        let of_it = children.get(&pid).into_iter().flatten();
        pending.extend(of_it.clone());
        found.extend(of_it);
    }
    Ok(found)
}

/// User and system CPU time of a process and its descendants that still run, in clock ticks.
pub fn cpu_ticks(root: i32) -> Result<u64> {
    let children = children_of_all()?;
    let (mut pending, mut ticks) = (vec![root], 0);
    while let Some(pid) = pending.pop() {
        if let Some(fields) = stat_fields(pid)? {
            // utime and stime: fields 14 and 15 of proc(5), 12 and 13 after the name.
            ticks += field(&fields, 11).unwrap_or(0) + field(&fields, 12).unwrap_or(0);
        }
        pending.extend(children.get(&pid).into_iter().flatten());
    }
    Ok(ticks)
}

/// Processes whose command line holds `text`: what a server without a parent left behind.
pub fn with_command_line(text: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for pid in all_pids()? {
        let Some(line) = gone_is_none(fs::read(format!("/proc/{pid}/cmdline")))? else { continue };
        if String::from_utf8_lossy(&line).replace('\0', " ").contains(text) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn look(pid: i32) -> Result<Option<Process>> {
    let Some(fields) = stat_fields(pid)? else { return Ok(None) };
    let name = gone_is_none(fs::read_to_string(format!("/proc/{pid}/comm")))?.unwrap_or_default();
    let mut process = Process {
        pid,
        parent: fields.get(1).and_then(|text| text.parse().ok()).unwrap_or(0),
        name: name.trim_end().to_owned(),
        // num_threads: field 20 of proc(5), 18 after the name.
        threads: usize::try_from(field(&fields, 17).unwrap_or(0))?,
        fds: BTreeMap::new(),
        memfd_mappings: 0,
    };
    let maps = gone_is_none(fs::read_to_string(format!("/proc/{pid}/maps")))?.unwrap_or_default();
    process.memfd_mappings = maps.lines().filter(|line| line.contains("/memfd:")).count();
    let Some(entries) = gone_is_none(fs::read_dir(format!("/proc/{pid}/fd")))? else {
        return Ok(None);
    };
    for entry in entries.map_while(Result::ok) {
        let number = entry.file_name().to_string_lossy().parse();
        if let (Ok(number), Ok(target)) = (number, fs::read_link(entry.path())) {
            process.fds.insert(number, target.to_string_lossy().into_owned());
        }
    }
    Ok(Some(process))
}

/// Fields of /proc/PID/stat that follow the name.
fn stat_fields(pid: i32) -> Result<Option<Vec<String>>> {
    let Some(stat) = gone_is_none(fs::read_to_string(format!("/proc/{pid}/stat")))? else {
        return Ok(None);
    };
    let (_, rest) = stat.rsplit_once(')').context("a stat line has a name in brackets")?;
    Ok(Some(rest.split_whitespace().map(str::to_owned).collect()))
}

fn field(fields: &[String], index: usize) -> Option<u64> {
    fields.get(index)?.parse().ok()
}

fn children_of_all() -> Result<BTreeMap<i32, Vec<i32>>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all_pids()? {
        let Some(fields) = stat_fields(pid)? else { continue };
        if let Some(parent) = fields.get(1).and_then(|text| text.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    Ok(children)
}

fn all_pids() -> Result<Vec<i32>> {
    let entries = fs::read_dir("/proc").context("/proc")?;
    Ok(entries
        .map_while(Result::ok)
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect())
}

/// A process may end while it is looked at.
fn gone_is_none<T>(result: std::io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// `socket`, `pipe`, `anon_inode:[eventpoll]`, `/memfd:name`, or the path.
fn kind_of(target: &str) -> String {
    match target.split_once(":[") {
        Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
        Some(_) | None => target.trim_end_matches(" (deleted)").to_owned(),
    }
}

fn list_files(directory: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let Some(entries) = gone_is_none(fs::read_dir(directory))? else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list_files(&entry.path(), files)?;
        } else {
            files.insert(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_census_finds_a_new_child_and_a_new_file_and_forgives_their_going() {
        let run = crate::place::RunDirectory::new("census").unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let before = Census::take(own, &[run.path()]).unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        fs::write(run.join("left"), "x").unwrap();
        let during = Census::take(own, &[run.path()]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_file(run.join("left")).unwrap();
        let after = Census::take(own, &[run.path()]).unwrap();

        let left = during.left_behind_since(&before);
        assert!(left.iter().any(|line| line.contains("sleep: processes 0 → 1")), "{left:?}");
        assert!(left.iter().any(|line| line.ends_with("/left")), "{left:?}");
        assert!(!after.left_behind_since(&before).iter().any(|line| line.contains("sleep")));
    }
}
