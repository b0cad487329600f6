//! Rotations under live streams at full counts.

use crate::main_path::in_kept_directory;
use anyhow::{Result, ensure};
use tasuki_tests::chance::Chance;
use tasuki_tests::lives::Mix;
use tasuki_tests::named;
use tasuki_tests::rotations::{self, Rotated, Rotating};

pub fn run(arguments: &[String]) -> Result<()> {
    let all = usize::try_from(named::number(arguments, "rotations", 1000)?)?;
    let in_full = usize::try_from(named::number(arguments, "in-full", 50)?)?;
    let streams = named::number(arguments, "streams", 8)?;
    ensure!(in_full <= all && streams > 0, "--in-full is a part of --rotations");
    let rotating = Rotating {
        mix: Mix::of(streams),
        workers: 2,
        urgent: all - in_full,
        in_full,
        // Each completes three or four.
        storms: in_full.div_ceil(10),
        round_s: named::number(arguments, "round", 120)?,
    };
    let mut chance = Chance::new();
    println!("TASUKI_SEED={}; {rotating:?}", chance.seed());
    let done = in_kept_directory("soak-rotations", |run| {
        rotations::run(run.path(), &rotating, &mut chance)
    })?;
    show(&done, streams);
    Ok(())
}

fn show(done: &Rotated, streams: u32) {
    for reading in &done.readings {
        println!("{reading}");
    }
    println!(
        "{} rotations completed, {} urgent and {} in full, of these {} by {} SIGHUPs in {} storms; \
         {} workers replaced",
        done.rotations(),
        done.urgent,
        done.in_full,
        done.by_signal,
        done.signals,
        done.storms,
        done.recycles
    );
    println!("{}", rotations::pauses(done.moves.iter()));
    println!(
        "{streams} streams in {} rounds: no publisher lost, no second connection at the origin, \
         {} pictures each exactly once and in order",
        done.rounds, done.pictures
    );
    println!(
        "processes, fds of the supervisor and memfds the same at each of {} readings with {streams} \
         live streams",
        done.readings.len()
    );
    println!(
        "the supervisor's footprint grew by {} KiB at most, {} KiB are allowed",
        done.growth_bytes() >> 10,
        rotations::GROWTH_BYTES_MAX >> 10
    );
}
