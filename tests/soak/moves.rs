//! Moves under live streams at full counts.

use anyhow::{Result, ensure};
use tasuki_tests::chance::Chance;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::moves::{self, Moved, Moving};
use tasuki_tests::named;
use tasuki_tests::server::Rung;

use crate::main_path::in_kept_directory;

/// Small streams, over and over, until so many moves are done.
pub fn run_small(arguments: &[String]) -> Result<()> {
    let wanted = usize::try_from(named::number(arguments, "moves", 2000)?)?;
    let streams = named::number(arguments, "streams", 4)?;
    let mut chance = Chance::new();
    println!("TASUKI_SEED={}", chance.seed());
    let (mut done, mut round) = (Moved::default(), 0);
    while done.moves.len() < wanted {
        let moving = Moving {
            recipe: Recipe { b_frames: 2 * (round % 2), ..Recipe::small(40) },
            streams,
            rungs: vec![Rung::Source, Rung::encoded(72, 200)],
            audio: "aac",
            moves: u32::try_from(wanted - done.moves.len())?,
            pause_ms_max: 100,
        };
        add(
            &mut done,
            in_kept_directory("soak-moves", |run| moves::run(run.path(), &moving, &mut chance))?,
        );
        round += 1;
        println!("round {round}: {} of {wanted} moves", done.moves.len());
    }
    show(&done)
}

/// Full pictures, one stream at a time: 1080p30 and 720p60, with B-frames and without, GOPs of one
/// second and of eight.
pub fn run_large(arguments: &[String]) -> Result<()> {
    let wanted = usize::try_from(named::number(arguments, "moves", 200)?)?;
    let mut chance = Chance::new();
    println!("TASUKI_SEED={}", chance.seed());
    let mut done = Moved::default();
    let full_hd = Recipe::full_hd(40);
    let sixty = Recipe { width: 1280, height: 720, fps: 60, gop: 60, ..full_hd.clone() };
    let recipes = [
        Recipe { b_frames: 0, gop: 30, ..full_hd.clone() },
        Recipe { b_frames: 2, gop: 240, ..full_hd },
        Recipe { b_frames: 0, gop: 480, ..sixty.clone() },
        Recipe { b_frames: 2, ..sixty },
    ];
    for recipe in recipes.iter().cycle() {
        if done.moves.len() >= wanted {
            break;
        }
        let moving = Moving {
            recipe: recipe.clone(),
            streams: 1,
            rungs: vec![Rung::Source, Rung::encoded(480, 1200), Rung::encoded(360, 600)],
            audio: "aac",
            moves: u32::try_from(wanted - done.moves.len())?,
            pause_ms_max: 1500,
        };
        add(
            &mut done,
            in_kept_directory("soak-moves-large", |run| {
                moves::run(run.path(), &moving, &mut chance)
            })?,
        );
        println!(
            "{}x{} {} fps, GOP {}, {} B-frames: {} of {wanted} moves",
            recipe.width,
            recipe.height,
            recipe.fps,
            recipe.gop,
            recipe.b_frames,
            done.moves.len()
        );
    }
    show(&done)
}

fn add(done: &mut Moved, more: Moved) {
    done.moves.extend(more.moves);
    done.urgent += more.urgent;
    done.refused += more.refused;
}

fn show(done: &Moved) -> Result<()> {
    let mut pauses: Vec<u64> = done.moves.iter().map(|moved| moved.pause_us).collect();
    pauses.sort_unstable();
    ensure!(!pauses.is_empty(), "no move was done");
    let at = |percent: usize| pauses[(pauses.len() - 1) * percent / 100];
    println!(
        "{} moves, {} of them urgent, {} refused; pause p50 {} µs, p99 {} µs, longest {} µs",
        pauses.len(),
        done.urgent,
        done.refused,
        at(50),
        at(99),
        at(100)
    );
    println!("no publisher lost, no second connection at the origin, every picture once");
    Ok(())
}
