//! Faults at each step of a hand-off at full counts.

use crate::main_path::in_kept_directory;
use anyhow::{Result, ensure};
use tasuki_shared::failpoint::{BUILD, Build};
use tasuki_tests::handoff_faults::{self, Case, HANGS, QUICK, TIMEOUTS, Tally};
use tasuki_tests::named;

/// Servers beside each other: most of the time they wait.
const LANES: usize = 4;
const LANES_HANGING: usize = 6;

pub fn run(arguments: &[String]) -> Result<()> {
    needs_failpoints()?;
    let times = named::number(arguments, "times", 20)?;
    let mut tally = Tally::default();
    for (what, cases, seconds, lanes) in [
        ("deaths, full tables, a slow supervisor", QUICK, 40, LANES),
        ("deadlines", TIMEOUTS, 44, LANES_HANGING),
        ("hangs", HANGS, 34, LANES_HANGING),
    ] {
        let done = in_kept_directory("soak-faults", |run| {
            handoff_faults::run(run.path(), cases, times, seconds, lanes)
        })?;
        println!("{what}: {} servers", done.servers);
        show(cases, times, &done)?;
        tally.add(done);
    }
    println!("{}", tally.hits);
    println!("{} faults: one owner after each, nothing lost", tally.made.values().sum::<u32>());
    Ok(())
}

pub fn needs_failpoints() -> Result<()> {
    ensure!(
        BUILD == Build::WithFailpoints,
        "this build has no failpoints; `./dev soak NAME` builds one that has"
    );
    Ok(())
}

fn show(cases: &[Case], times: u32, tally: &Tally) -> Result<()> {
    for case in cases {
        let made = tally.made.get(case.name).copied().unwrap_or(0);
        println!("  {made:>4} {}", case.name);
        ensure!(made >= times, "{} was made {made} times, not {times}", case.name);
    }
    Ok(())
}
