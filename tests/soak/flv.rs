//! Workers killed under viewers of FLV, at full counts.

use crate::main_path::in_kept_directory;
use anyhow::{Result, ensure};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::named;
use tasuki_tests::watching::{self, Fault};

/// Pictures between two kills.
const BETWEEN: u32 = 75;

pub fn run(arguments: &[String]) -> Result<()> {
    let kills = named::number(arguments, "kills", 20)?;
    ensure!(kills > 0, "--kills is at least 1");
    // Time for each kill to be done, and a few seconds at both ends.
    let recipe = Recipe::small(kills * BETWEEN / 30 + kills / 2 + 10);
    let faults = vec![Fault::Kill; usize::try_from(kills)?];
    let files = in_kept_directory("soak-flv", |run| {
        watching::run(run.path(), &recipe, &faults, u64::from(BETWEEN))
    })?;
    println!(
        "{kills} kills in {} s under {} viewers of FLV (HTTP and WebSocket, source and rung): no \
         connection lost, every picture from the first received to the last exactly once and in order",
        recipe.seconds,
        files.len()
    );
    Ok(())
}
