//! All workers replaced under live streams: nobody notices, and nothing is left behind.

use anyhow::ensure;
use tasuki_tests::chance::Chance;
use tasuki_tests::lives::Mix;
use tasuki_tests::place::in_run_directory;
use tasuki_tests::rotations::{self, Rotating};

/// Urgent rotations, and a storm of SIGHUPs that coalesces into three or four in full: every
/// picture once, one connection per push, and the supervisor holds what it held.
#[test]
fn workers_are_rotated_by_command_and_by_signals_and_nobody_notices() {
    in_run_directory("rotations", |run| {
        let mut chance = Chance::new();
        println!("TASUKI_SEED={}", chance.seed());
        let rotating = Rotating {
            mix: Mix { encoded: 2, passed: 2 },
            workers: 1,
            urgent: 4,
            in_full: 3,
            storms: 1,
            round_s: 20,
        };
        let done = rotations::run(run.path(), &rotating, &mut chance)?;
        ensure!(done.urgent >= 4 && done.in_full >= 3 && done.storms == 1, "{done:?}");
        Ok(())
    });
}
