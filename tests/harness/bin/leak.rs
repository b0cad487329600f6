//! `./dev demo --leak`: two live streams, workers that leak, and how they are replaced.

use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::status::Status;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};

const LIVE_BOUND: Duration = Duration::from_secs(20);
const END_BOUND: Duration = Duration::from_secs(30);
const SECONDS_DEFAULT: u32 = 120;
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const MIB: u64 = 1 << 20;

/// So steep that a worker lasts half a minute.
const TABLES: &str = "[memory]\nsoft = \"150MiB\"\nhard = \"300MiB\"\nmargin = \"0s\"\n\
    min_life = \"5s\"\nbudget = 1000\n\n[chaos]\nleak = \"200MiB\"\n";

pub fn run(run: &Path, seconds: Option<u32>, interrupted: &AtomicBool) -> Result<()> {
    let seconds = seconds.unwrap_or(SECONDS_DEFAULT);
    let setup = Setup {
        workers: Some(2),
        rungs: Some(vec![Rung::Source, Rung::encoded(72, 100)]),
        tables: TABLES.to_owned(),
        arguments: vec!["--allow-chaos"],
        ..Setup::default()
    };
    let source = Recipe::small(seconds).file()?;
    let mut server = Server::start(run, &setup)?;
    println!(
        "two streams for {seconds} s; each worker leaks 200 MiB a minute and may hold 150 MiB"
    );
    let mut publishers = Vec::new();
    for name in ["left", "right"] {
        let url = server.url(name);
        publishers.push(publisher::ffmpeg(run, name, &source, &url, Pace::RealTime)?);
        server.wait_live(name, LIVE_BOUND)?;
    }
    let until = clock::now() + Duration::from_secs(u64::from(seconds.saturating_sub(5)));
    let mut told = BTreeSet::new();
    while clock::now() < until && !interrupted.load(Ordering::Relaxed) {
        clock::pause(LOOK_INTERVAL);
        let status = server.status()?;
        show(&status, &mut told);
        let live = status.sessions.iter().filter(|session| session.state == "live").count();
        ensure!(live == 2, "{live} of 2 streams are live");
    }
    let recycles = told.len();
    drop(publishers);
    server.wait_no_sessions(END_BOUND)?;
    server.stop()?;
    println!("{recycles} workers were recycled, and both streams were live all the time");
    Ok(())
}

/// A line for the workers, and one for each recycle that is over.
fn show(status: &Status, told: &mut BTreeSet<u64>) {
    let mut line = format!("{:>5} s", status.uptime_ms / 1000);
    for worker in status.workers.iter().filter(|worker| worker.state == "serving") {
        let Some(memory) = &worker.memory else { continue };
        line.push_str(&format!(
            "   {}/g{} {} streams {:>3} MiB {}",
            worker.slot,
            worker.generation,
            worker.sessions,
            worker.footprint_bytes / MIB,
            memory.verdict
        ));
    }
    println!("{line}");
    let over = |outcome: &str| outcome == "done" || outcome.starts_with("failed");
    for recycle in status.recycles.iter().filter(|recycle| over(&recycle.outcome)) {
        if !told.insert(recycle.id) {
            continue;
        }
        let pauses: Vec<_> = recycle
            .moves
            .iter()
            .map(|session| format!("{} paused {} µs", session.name, session.pause_us))
            .collect();
        println!(
            "        recycle {} of {}: {}, {} in {} ms; {} → {} MiB; {}",
            recycle.id,
            recycle.worker,
            recycle.reason,
            recycle.outcome,
            recycle.took_ms,
            recycle.footprint_before_bytes / MIB,
            recycle.footprint_after_bytes / MIB,
            pauses.join(", ")
        );
    }
}
