//! A fault at each step of a planned hand-off: one owner afterwards, and nothing lost. Each once;
//! `./dev soak handoff-faults` makes each twenty times.

use anyhow::{Result, ensure};
use tasuki_tests::handoff_faults::{self, Case, HANGS, QUICK, TIMEOUTS};
use tasuki_tests::place::in_run_directory;

/// Makes these faults once each on a server whose streams are so long.
fn survived(label: &'static str, cases: &[Case], seconds: u32, lanes: usize) {
    in_run_directory(label, |run| {
        let tally = handoff_faults::run(run.path(), cases, 1, seconds, lanes)?;
        all_made(cases, &tally)
    });
}

fn all_made(cases: &[Case], tally: &handoff_faults::Tally) -> Result<()> {
    for case in cases {
        let made = tally.made.get(case.name).copied().unwrap_or(0);
        ensure!(made > 0, "{} was not made: {tally:?}", case.name);
        println!("{made} × {}", case.name);
    }
    Ok(())
}

/// The target dies at every step from the mapped memory to its first frame.
#[test]
fn a_target_that_dies_at_any_step_costs_nothing() {
    let cases: Vec<Case> = pick("target dies");
    survived("faults-target", &cases, 22, 1);
}

/// The old owner dies around its release; one of the two has no room for fds; it never releases.
#[test]
fn an_old_owner_that_dies_or_never_releases_and_full_tables_cost_nothing() {
    let mut cases = pick("old dies");
    cases.extend(
        QUICK.iter().filter(|case| case.name.contains("fd") || case.name.contains("bell l")),
    );
    cases.push(TIMEOUTS[0]);
    survived("faults-old", &cases, 24, 1);
}

/// The supervisor is slow between all steps.
#[test]
fn a_slow_supervisor_costs_nothing() {
    survived("faults-slow", &pick("supervisor slow"), 20, 1);
}

/// An old owner hangs before its release and after it, and a preparation never ends; on servers
/// beside each other, for it is the waiting that takes long.
#[test]
fn an_old_owner_that_hangs_and_a_preparation_that_never_ends_cost_nothing() {
    let cases = [HANGS[1], HANGS[3], TIMEOUTS[1]];
    survived("faults-hang", &cases, 22, 3);
}

fn pick(name: &str) -> Vec<Case> {
    QUICK.iter().filter(|case| case.name.starts_with(name)).copied().collect()
}
