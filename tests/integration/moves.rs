//! Planned moves under live streams: nobody notices.

use anyhow::ensure;
use tasuki_tests::chance::Chance;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::moves::{self, Moving};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::server::Rung;

fn small(b_frames: u32, moves: u32) -> Moving {
    Moving {
        recipe: Recipe { b_frames, ..Recipe::small(16) },
        streams: 2,
        rungs: vec![Rung::Source, Rung::encoded(72, 200)],
        audio: "aac",
        moves,
        pause_ms_max: 200,
    }
}

fn moved(label: &'static str, moving: &Moving) {
    in_run_directory(label, |run| {
        let mut chance = Chance::new();
        println!("TASUKI_SEED={}", chance.seed());
        let moved = moves::run(run.path(), moving, &mut chance)?;
        println!("{} moves, {} refused", moved.moves.len(), moved.refused);
        ensure!(moved.moves.len() >= 5, "only {} moves: {moved:?}", moved.moves.len());
        Ok(())
    });
}

/// Every picture once, in order, in every rendition; one connection per push; payloads untouched.
#[test]
fn a_stream_without_reordering_is_moved_and_nobody_notices() {
    moved("moves-plain", &small(0, 30));
}

#[test]
fn a_stream_with_b_frames_is_moved_and_nobody_notices() {
    moved("moves-b", &small(2, 30));
}
