//! The checks on moved streams see what a hand-off leaves out: each omission is made on purpose, in
//! the very place, and the same checks that pass a sound move must name it.

use anyhow::{Context, Result, ensure};
use tasuki_shared::failpoint::Point;
use tasuki_tests::chance::Chance;
use tasuki_tests::move_controls;
use tasuki_tests::place::in_run_directory;

const SECONDS: u32 = 12;
const MOVES: u32 = 4;

/// The report on a stream whose moves leave something out, which must not pass.
fn found(label: &'static str, omission: Point, check: impl Fn(&str) -> Result<()>) {
    in_run_directory(label, |run| {
        let mut chance = Chance::new();
        println!("TASUKI_SEED={}", chance.seed());
        let outcome = move_controls::run(run.path(), SECONDS, MOVES, Some(omission), &mut chance);
        let error = outcome.err().context("the omission was not found")?;
        let error = format!("{error:#}");
        println!("{error}");
        check(&error)
    });
}

/// Nothing left out: pictures, packets and sound are as in the stream beside it.
#[test]
fn a_moved_streams_sound_is_on_the_grid_and_as_near_to_the_source_as_an_unmoved_ones() {
    in_run_directory("moves-sound", |run| {
        let mut chance = Chance::new();
        println!("TASUKI_SEED={}", chance.seed());
        let report = move_controls::run(run.path(), SECONDS, 8, None, &mut chance)?;
        println!("{report:?}");
        Ok(())
    });
}

#[test]
fn a_committed_message_that_is_dropped_at_a_move_is_found() {
    found("moves-dropped", Point::CommittedMessage, |error| {
        ensure!(error.contains("of moved"), "it blames another stream: {error}");
        let is_loss =
            ["missing", "packet", "Frame num gap"].iter().any(|word| error.contains(word));
        ensure!(is_loss, "it says something else: {error}");
        Ok(())
    });
}

#[test]
fn a_seam_without_an_idr_is_found() {
    found("moves-no-idr", Point::SeamIdr, |error| {
        ensure!(error.contains("72p of moved"), "it blames another stream: {error}");
        Ok(())
    });
}

#[test]
fn sound_that_begins_at_the_seam_without_a_past_is_found() {
    found("moves-no-pre-roll", Point::SoundPreRoll, |error| {
        ensure!(error.starts_with("sound: "), "it says something else: {error}");
        ensure!(error.contains(" dB at "), "it says something else: {error}");
        Ok(())
    });
}
