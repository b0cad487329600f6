//! What each thread of a process does, from /proc. Runs on a blocking thread: it looks twice.

use std::collections::HashMap;
use std::fs;
use tasuki_shared::clock;
use tasuki_shared::limits::{STUCK_THREADS_NAMED_MAX, THREADS_LISTED_MAX, THREADS_LOOK};
use tasuki_shared::status::ThreadStatus;

/// Threads of a process, the busiest first; none if it is gone.
pub fn of(pid: i32) -> Vec<ThreadStatus> {
    let before: HashMap<i32, u64> = look(pid).into_iter().map(|t| (t.tid, t.cpu_ms)).collect();
    let began_us = clock::monotonic_us();
    clock::pause(THREADS_LOOK);
    let mut threads = look(pid);
    let elapsed_ms = clock::monotonic_us().saturating_sub(began_us) / 1000;
    for thread in &mut threads {
        let used_ms = before.get(&thread.tid).map_or(0, |ms| thread.cpu_ms.saturating_sub(*ms));
        thread.cpu_percent = percent(used_ms, elapsed_ms);
    }
    threads.sort_by(|a, b| b.cpu_percent.total_cmp(&a.cpu_percent).then(a.tid.cmp(&b.tid)));
    threads
}

/// What is left of a process that was killed, for people: its threads and what they wait in.
pub fn stuck(pid: i32) -> String {
    let left = look(pid).into_iter().filter(|thread| !matches!(thread.state.as_str(), "Z" | "X"));
    let named = left.take(STUCK_THREADS_NAMED_MAX).map(|thread| {
        let waits_in = if thread.waits_in.is_empty() { "the kernel" } else { &thread.waits_in };
        format!("{} ({}) in {waits_in}", thread.name, thread.state)
    });
    let named: Vec<String> = named.collect();
    if named.is_empty() { "no thread is seen".to_owned() } else { named.join(", ") }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of one look")]
fn percent(used_ms: u64, elapsed_ms: u64) -> f32 {
    used_ms as f32 * 100.0 / elapsed_ms.max(1) as f32
}

fn look(pid: i32) -> Vec<ThreadStatus> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .take(THREADS_LISTED_MAX)
        .filter_map(|task| {
            let path = task.ok()?.path();
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            let mut thread = parse(pid, &stat)?;
            let waits_in = fs::read_to_string(path.join("wchan")).unwrap_or_default();
            if waits_in != "0" {
                thread.waits_in = waits_in;
            }
            Some(thread)
        })
        .collect()
}

/// A line of proc(5) `stat`; the name stands in parentheses and may hold any byte.
fn parse(pid: i32, stat: &str) -> Option<ThreadStatus> {
    let (tid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let tid: i32 = tid.parse().ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    // Fields 14 and 15, where `rest` begins with the third.
    let ticks = ticks(11)? + ticks(12)?;
    // The io thread is the process's first, which bears the program's name.
    let name = if tid == pid { "io" } else { name };
    Some(ThreadStatus {
        tid,
        name: name.to_owned(),
        state: (*fields.first()?).to_owned(),
        cpu_percent: 0.0,
        cpu_ms: ticks * 1000 / ticks_per_second(),
        waits_in: String::new(),
        task: task_of(name),
    })
}

fn task_of(name: &str) -> String {
    if let Some(label) = name.strip_prefix("enc-") {
        return format!("encodes rung {label}");
    }
    match name {
        "io" => "sockets, parsing, commits, pushes",
        "control" => "channel to the supervisor",
        "dec" => "decodes, filters and scales one stream",
        "record" => "writes one recording",
        "hls" => "packages one stream for viewers",
        "knell" => "waits; tells by its death that the process dies",
        "leftover" => "finishes what an ended session left",
        "evidence" => "looks at the process's own memory",
        "jemalloc_bg_thd" => "gives unused memory back",
        _ => "",
    }
    .to_owned()
}

fn ticks_per_second() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    ticks.and_then(|ticks| u64::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_with_any_name_is_read_and_its_task_said() {
        let stat = "12 (enc-72) 0p) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 1 2 3";
        let thread = parse(7, stat).unwrap();
        assert_eq!((thread.tid, thread.name.as_str()), (12, "enc-72) 0p"));
        assert_eq!((thread.state.as_str(), thread.task.as_str()), ("S", "encodes rung 72) 0p"));
        assert_eq!(thread.cpu_ms, 200 * 1000 / ticks_per_second());
        assert_eq!(parse(12, stat).unwrap().name, "io");
        assert!(parse(12, "12 (x").is_none());
    }

    #[test]
    fn this_process_has_threads_and_a_gone_one_none() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(of(own).iter().any(|thread| thread.name == "io"));
        assert!(of(i32::MAX).is_empty());
    }
}
