//! Did threads have a chance to move? What the kernel says of them, at two moments.
//!
//! A hang is told from want of processor: what a thread spent in a run queue is no time in which it
//! could have done anything, and neither is time in which it waited for its own pages to come back
//! from a disk. A thread that runs and gets nowhere has used the processor; one that sleeps, is
//! stopped or is stuck in the kernel has let time go by.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::limits::THREADS_LISTED_MAX;

/// What a thread is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It runs or wants to.
    Runs,
    /// It sleeps, is stopped or is stuck.
    Waits,
}

/// One look at one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub doing: Doing,
    /// On a processor, since it began.
    pub ran: Duration,
    /// In a run queue, since it began.
    pub queued: Duration,
    /// Pages that it had to wait for.
    pub major_faults: u64,
}

/// Looks at threads by their ids.
pub type Looks = BTreeMap<i32, Look>;

/// Looks at these threads of a process; what cannot be read is left out.
#[must_use]
pub fn look(pid: i32, threads: impl IntoIterator<Item = i32>) -> Looks {
    threads.into_iter().filter_map(|tid| Some((tid, look_at(pid, tid)?))).collect()
}

/// The process's first thread and those of this name.
#[must_use]
pub fn first_and_named(pid: i32, name: &str) -> Vec<i32> {
    let mut found = vec![pid];
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .take(THREADS_LISTED_MAX)
    {
        let Some(tid) = task.file_name().to_str().and_then(|tid| tid.parse().ok()) else {
            continue;
        };
        let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if tid != pid && comm.trim_end() == name {
            found.push(tid);
        }
    }
    found
}

/// How much of the time between two looks these threads could have used.
#[must_use]
pub fn chance(elapsed: Duration, before: &Looks, after: &Looks) -> Duration {
    let mut ran = Duration::ZERO;
    let mut queued = Duration::ZERO;
    let mut wants = false;
    for (tid, now) in after {
        wants |= now.doing == Doing::Runs;
        let Some(before) = before.get(tid) else { continue };
        if now.major_faults > before.major_faults {
            return Duration::ZERO;
        }
        ran += now.ran.saturating_sub(before.ran);
        queued = queued.max(now.queued.saturating_sub(before.queued));
    }
    if wants { ran.min(elapsed) } else { elapsed.saturating_sub(queued) }
}

fn look_at(pid: i32, tid: i32) -> Option<Look> {
    let path = format!("/proc/{pid}/task/{tid}");
    let stat = fs::read_to_string(format!("{path}/stat")).ok()?;
    let scheduled = fs::read_to_string(format!("{path}/schedstat")).ok();
    parse(&stat, scheduled.as_deref())
}

/// proc_pid_stat(5), fields 3, 12, 14 and 15; and time on the processor and in its queue, in
/// nanoseconds, where the kernel keeps them.
fn parse(stat: &str, scheduled: Option<&str>) -> Option<Look> {
    const TICK: Duration = Duration::from_millis(10);
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let doing = if *fields.first()? == "R" { Doing::Runs } else { Doing::Waits };
    let mut times = scheduled.unwrap_or_default().split_ascii_whitespace();
    let mut nanos = || times.next().and_then(|n| n.parse().ok()).map(Duration::from_nanos);
    let (ran, queued) = (nanos(), nanos());
    let ticks = u32::try_from(number(11)? + number(12)?).unwrap_or(u32::MAX);
    Some(Look {
        doing,
        ran: ran.filter(|ran| !ran.is_zero()).unwrap_or(TICK * ticks),
        queued: queued.unwrap_or_default(),
        major_faults: number(9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn looks(doing: Doing, ran: u32, queued: u32, major_faults: u64) -> Looks {
        Looks::from([(1, Look { doing, ran: MS * ran, queued: MS * queued, major_faults })])
    }

    /// What stands, and could move, has its time counted whole; what has no processor, none of it;
    /// what spins, as much as it has spun.
    #[test]
    fn only_time_that_could_be_used_counts() {
        let before = looks(Doing::Waits, 50, 20, 3);
        let counted = |after: &Looks| chance(MS * 100, &before, after).as_millis();
        for (what, after, expected) in [
            ("asleep or stopped", looks(Doing::Waits, 50, 20, 3), 100),
            ("starved, and in the queue still", looks(Doing::Runs, 50, 20, 3), 0),
            ("starved, and just asleep", looks(Doing::Waits, 52, 110, 3), 10),
            ("spinning alone", looks(Doing::Runs, 150, 20, 3), 100),
            ("spinning beside others", looks(Doing::Runs, 80, 20, 3), 30),
            ("waiting for its pages", looks(Doing::Waits, 50, 20, 4), 0),
        ] {
            assert_eq!(counted(&after), expected, "{what}");
        }
        assert_eq!(chance(MS * 100, &Looks::new(), &Looks::new()), MS * 100, "nothing is known");
    }

    /// Where any of several threads is starved, the others may wait for it.
    #[test]
    fn a_starved_thread_excuses_who_waits_for_it() {
        let one = |doing, queued| Look {
            doing,
            ran: Duration::ZERO,
            queued: MS * queued,
            major_faults: 0,
        };
        let before = Looks::from([(1, one(Doing::Waits, 0)), (2, one(Doing::Waits, 0))]);
        let after = Looks::from([(1, one(Doing::Waits, 0)), (2, one(Doing::Runs, 0))]);
        assert_eq!(chance(MS * 100, &before, &after), Duration::ZERO);
        let after = Looks::from([(1, one(Doing::Waits, 0)), (2, one(Doing::Waits, 90))]);
        assert_eq!(chance(MS * 100, &before, &after), MS * 10);
    }

    #[test]
    fn a_thread_is_read_with_or_without_the_schedulers_figures() {
        let stat = "12 (enc) 72) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 1 2 3";
        let look = parse(stat, Some("7000000 9000000 3\n")).unwrap();
        assert_eq!((look.ran, look.queued, look.major_faults), (MS * 7, MS * 9, 9));
        let look = parse(&stat.replace(" S ", " R "), None).unwrap();
        assert_eq!((look.doing, look.ran), (Doing::Runs, MS * 2000));
        assert!(parse("12 (x", None).is_none());
    }

    /// This test's own thread runs while it looks at itself.
    #[test]
    fn the_kernel_tells_of_this_thread() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let tid = nix::unistd::gettid().as_raw();
        let seen = look(pid, [tid, i32::MAX]);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[&tid].doing, Doing::Runs);
        assert!(first_and_named(pid, "no such name").contains(&pid));
    }
}
