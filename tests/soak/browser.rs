//! A viewer in a real Chromium through many moves and deaths.

use anyhow::Result;
use tasuki_tests::chance::Chance;
use tasuki_tests::named;
use tasuki_tests::playback::{self, Plan, Shots};

use crate::main_path::in_kept_directory;

pub fn run(arguments: &[String]) -> Result<()> {
    let mut chance = Chance::new();
    println!("TASUKI_SEED={}", chance.seed());
    let plan = Plan {
        moves: named::number(arguments, "moves", 20)?,
        kills: named::number(arguments, "kills", 10)?,
        quiet: named::number(arguments, "quiet", 20)?,
        deliveries: 0,
        shots: Shots::Kept,
    };
    let deliveries = named::number(arguments, "deliveries", 20)?;
    for plan in [plan, Plan { deliveries, ..Plan::default() }] {
        in_kept_directory("soak-browser", |run| {
            let watched = playback::run(run.path(), plan, &mut chance)?;
            println!("{}", watched.summary());
            watched.check()
        })?;
    }
    println!("screenshots are in screenshots/ of the target directory");
    Ok(())
}
