//! Did the kernel kill for want of memory? The count that our cgroup keeps of it.
//!
//! `memory.events` of a unified hierarchy, `memory.oom_control` of the older one, and where neither
//! is to be had `/proc/vmstat` of the whole machine. The kernel counts before it kills, so a death
//! that finds a higher count was one; a count that no death of ours used within a round of
//! measurements was another's.

use super::sample;
use crate::core::event::Killer;
use std::fs;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug)]
pub struct OomCounter {
    source: Option<PathBuf>,
    used: u64,
    /// The count one round earlier: a process that was killed takes a while to be gone.
    seen: u64,
}

impl OomCounter {
    pub fn of_this_process() -> Self {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::of(&candidates(&cgroups))
    }

    fn of(candidates: &[PathBuf]) -> Self {
        let source = candidates.iter().find(|path| read(path).is_some()).cloned();
        let used = source.as_deref().and_then(read).unwrap_or(0);
        Self { source, used, seen: used }
    }

    /// Who killed a process of ours just now, and not on our order.
    pub fn killer(&mut self) -> Killer {
        let count = self.source.as_deref().and_then(read).unwrap_or(0);
        if count > self.used {
            self.used += 1;
            Killer::OutOfMemory
        } else {
            Killer::Somebody
        }
    }

    /// What was counted up to the last call killed nobody of ours.
    pub fn forget(&mut self) {
        self.used = self.used.max(self.seen);
        self.seen = self.source.as_deref().and_then(read).unwrap_or(self.seen);
    }
}

fn candidates(cgroups: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(own) = sample::cgroup_in(cgroups) {
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            found.push(Path::new(root).join(&own).join("memory.events"));
        }
    }
    let older = cgroups.lines().find_map(|line| line.split_once(":memory:/"));
    if let Some((_, own)) = older {
        found.push(Path::new("/sys/fs/cgroup/memory").join(own).join("memory.oom_control"));
    }
    found.push("/proc/vmstat".into());
    found
}

fn read(path: &Path) -> Option<u64> {
    parse(&fs::read_to_string(path).ok()?)
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A death is the kernel's work when it finds one more in the count, and each count is used once
    /// and does not keep.
    #[test]
    fn each_count_explains_one_death_and_none_later() {
        let path = std::env::temp_dir().join(format!("tasuki-oom-{}", std::process::id()));
        let write = |count| {
            let text = format!("low 0\noom 9\noom_kill {count}\noom_group_kill 0\n");
            fs::write(&path, text).unwrap();
        };
        write(3);
        let mut counter = OomCounter::of(&["/nonexistent".into(), path.clone()]);
        assert_eq!(counter.killer(), Killer::Somebody);
        write(5);
        let killers = [counter.killer(), counter.killer(), counter.killer()];
        assert_eq!(killers, [Killer::OutOfMemory, Killer::OutOfMemory, Killer::Somebody]);
        write(6);
        counter.forget();
        counter.forget();
        assert_eq!(counter.killer(), Killer::Somebody);
        fs::remove_file(&path).unwrap();
        assert_eq!(counter.killer(), Killer::Somebody, "a count that cannot be read says nothing");
    }

    #[test]
    fn the_own_cgroup_is_asked_first_and_the_machine_last() {
        let both = candidates("4:memory:/a/b\n0::/c\n");
        let shown: Vec<_> = both.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            shown,
            [
                "/sys/fs/cgroup/c/memory.events",
                "/sys/fs/cgroup/unified/c/memory.events",
                "/sys/fs/cgroup/memory/a/b/memory.oom_control",
                "/proc/vmstat"
            ]
        );
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"), Some(4));
    }
}
