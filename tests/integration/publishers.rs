//! What people publish with: each must be accepted, and everything it sends must arrive.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use tasuki_tests::child::Child;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::Flv;
use tasuki_tests::passage::{self, Expected, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Setup};
use tasuki_tests::{obs, obs_passage};

/// Whether a publisher sends a file's packets byte for byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packets {
    AsInTheFile,
    Remuxed,
}

fn publish(
    run: &Path,
    recipe: &Recipe,
    packets: Packets,
    start: impl FnOnce(&Path, &str) -> Result<Child>,
) -> Result<()> {
    let file = recipe.file()?;
    let setup =
        Setup { rungs: Some(vec![Rung::Source, Rung::encoded(72, 200)]), ..Setup::default() };
    let passage = passage::with(run, setup, |url| start(&file, url))?;
    let sent = Flv::read(&file)?;
    let identical = (packets == Packets::AsInTheFile).then_some(&sent);
    let found = passage.check(identical, &Expected::all_of(recipe))?;
    ensure!(found.len() == 2, "{found:?}");
    ensure!(passage.session.faults.is_empty(), "{:?}", passage.session.faults);
    Ok(())
}

#[test]
fn everything_ffmpeg_publishes_arrives() {
    in_run_directory("pub-ffmpeg", |run| {
        let recipe = Recipe { b_frames: 2, ..Recipe::small(6) };
        publish(run.path(), &recipe, Packets::AsInTheFile, |file, url| {
            publisher::ffmpeg(run.path(), "publisher", file, url, Pace::RealTime)
        })
    });
}

#[test]
fn everything_gstreamer_publishes_arrives() {
    in_run_directory("pub-gst", |run| {
        // Of B-frames flvmux makes tags with equal times, which a recording shows as they are.
        let recipe = Recipe::small(6);
        publish(run.path(), &recipe, Packets::Remuxed, |file, url| {
            publisher::gstreamer(run.path(), "publisher", file, url)
        })
    });
}

#[test]
fn everything_librtmp_publishes_arrives() {
    in_run_directory("pub-librtmp", |run| {
        let recipe = Recipe { b_frames: 2, ..Recipe::small(6) };
        publish(run.path(), &recipe, Packets::AsInTheFile, |file, url| {
            publisher::librtmp(run.path(), "publisher", file, url, Pace::RealTime)
        })
    });
}

#[test]
fn every_picture_obs_publishes_is_in_every_rendition() {
    if let Some(program) = obs::missing() {
        eprintln!("not run: {program} is not installed (apt-get install obs-studio xvfb)");
        return;
    }
    in_run_directory("pub-obs", |run| {
        let found = obs_passage::publish(run.path(), 150)?;
        let source = found.first().context("a source rendition")?;
        ensure!(source.pictures >= 150, "{} pictures of {NAME}", source.pictures);
        Ok(())
    });
}
