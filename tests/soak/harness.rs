//! The harness against itself: whatever this loses, a test of the server must not blame on it.

use anyhow::{Context, Result};
use std::time::Duration;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{self, Flv};
use tasuki_tests::frames;
use tasuki_tests::origin::Origin;
use tasuki_tests::place::RunDirectory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::{named, wait};

const ROUND_BOUND: Duration = Duration::from_secs(60);

pub fn run(arguments: &[String]) -> Result<()> {
    let rounds = named::number(arguments, "rounds", 20)?;
    let recipe = Recipe::small(10);
    let source = recipe.file()?;
    let sent = Flv::read(&source)?;
    let run = RunDirectory::new("soak-harness")?;
    let origin = Origin::start(run.path())?;
    for round in 0..rounds {
        let name = format!("round{round}");
        publisher::ffmpeg(run.path(), &name, &source, &origin.url(&name), Pace::Unpaced)?
            .finish(ROUND_BOUND)?;
        let file = wait::until("a recording", ROUND_BOUND, || Ok(origin.recordings(&name)?.pop()))?;
        origin.wait_idle(ROUND_BOUND)?;
        flv::check_payloads_identical(&sent, &Flv::read(&file)?)
            .with_context(|| format!("round {round}"))?;
        let numbers = frames::decode(&file)?.numbers();
        frames::check_exactly_once_in_order(&numbers, 0..=recipe.frames() - 1)
            .with_context(|| format!("round {round}"))?;
    }
    println!("{rounds} rounds of {} frames, each exactly once and byte-identical", recipe.frames());
    Ok(())
}
