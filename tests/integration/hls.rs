//! LL-HLS end to end: what is published can be watched, and neither a move nor a death of its
//! worker, nor a death of delivery, shows in a playlist.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use tasuki_shared::message::Haste;
use tasuki_shared::status::{Reply, Request};
use tasuki_tests::duties::playlist::Media;
use tasuki_tests::fixture::{Audio, Recipe};
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::viewer::{self, get};

const STREAM: &str = "live/cam";
const LABELS: [&str; 2] = ["source", "72p"];

fn setup(run: &Path) -> Setup {
    Setup {
        workers: Some(2),
        rungs: Some(vec![Rung::Source, Rung::encoded(72, 150)]),
        audio: Some("aac"),
        tables: viewer::tables(run, "1m"),
        ..Setup::default()
    }
}

/// So many frames of the stream are through.
fn frames_out(server: &mut Server, frames: u64) -> Result<String> {
    server.wait_status(&format!("{frames} frames"), BOUND, |status| {
        let session = status.sessions.iter().find(|s| s.name == NAME)?;
        (session.frames_out >= frames).then(|| session.worker.clone())
    })
}

#[test]
fn moves_and_deaths_of_workers_show_in_no_playlist() {
    in_run_directory("hls", |run| {
        let recipe = Recipe::small(20);
        let mut server = Server::start(run.path(), &setup(run.path()))?;
        let address = server.viewers()?;
        let file = recipe.file()?;
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &server.url(NAME), Pace::RealTime)?;
        for (after, haste) in [(90, Haste::Now), (200, Haste::Scheduled)] {
            frames_out(&mut server, after)?;
            let session = server.wait_live(NAME, BOUND)?.id;
            let reply = server.request(&Request::Move { session, haste })?;
            let Reply::Moved(moved) = reply else { anyhow::bail!("{reply:?}") };
            ensure!(moved.outcome == "done", "{moved:?}");
        }
        let owner = frames_out(&mut server, 350)?;
        let slot = owner.split('/').next().unwrap_or_default();
        let status = server.status()?;
        let worker = status.workers.iter().find(|w| w.slot == slot).context("its worker")?;
        kill(Pid::from_raw(worker.pid), Signal::SIGKILL)?;
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        viewer::check_whole(&address, STREAM, &LABELS, &recipe, run.path())?;
        server.stop()
    });
}

/// Two pictures a second and no sound: no part is longer than PART-TARGET for it, and the parts without
/// a picture in between keep no decoder from playing each picture once.
#[test]
fn few_pictures_without_sound_come_in_parts_of_the_usual_target() {
    in_run_directory("hls_few_pictures", |run| {
        let recipe = Recipe { fps: 2, gop: 4, audio: Audio::None, ..Recipe::small(16) };
        let setup = Setup { audio: None, ..setup(run.path()) };
        let mut server = Server::start(run.path(), &setup)?;
        let address = server.viewers()?;
        let file = recipe.file()?;
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &server.url(NAME), Pace::RealTime)?;
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        viewer::check_whole(&address, STREAM, &LABELS, &recipe, run.path())?;
        for label in LABELS {
            let path = format!("/live/{STREAM}/{label}/index.m3u8");
            let media = Media::parse(&get(&address, &path)?.text()?)?;
            ensure!(media.part_target_us == 220_000, "{label}: {}", media.part_target_us);
            let listed: Vec<_> = media.segments.iter().filter(|it| !it.parts.is_empty()).collect();
            let parts: Vec<_> = listed.iter().flat_map(|segment| &segment.parts).collect();
            ensure!(parts.iter().all(|part| part.duration_us <= 220_000), "{label}: {parts:?}");
            let whole = listed.iter().filter_map(|segment| segment.whole.as_ref());
            let time_us: u64 = whole.map(|whole| whole.duration_us).sum();
            let parts_us: u64 = parts.iter().map(|part| part.duration_us).sum();
            ensure!(parts.len() > 20 && parts_us == time_us, "{label}: {parts_us}, {time_us}");
            // So far from the edge that there is a picture.
            let hold_back_us = media.control.part_hold_back_us;
            ensure!(hold_back_us >= 3 * 440_000, "{label}: {hold_back_us}");
        }
        server.stop()
    });
}

/// The listener is the supervisor's: who asks while there is no process waits for the next one.
#[test]
fn a_death_of_delivery_costs_a_viewer_nothing_but_a_moment() {
    in_run_directory("hls-delivery", |run| {
        let recipe = Recipe::small(12);
        let mut server = Server::start(run.path(), &setup(run.path()))?;
        let address = server.viewers()?;
        let file = recipe.file()?;
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &server.url(NAME), Pace::RealTime)?;
        let mut before = 0;
        for after in [60, 120, 180] {
            frames_out(&mut server, after)?;
            let status = server.status()?;
            let delivery = status.workers.iter().find(|w| w.role == "delivery");
            let pid = delivery.context("a delivery process")?.pid;
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            let playlist = get(&address, &format!("/live/{STREAM}/72p/index.m3u8"))?.text()?;
            let parts = playlist.lines().filter(|line| line.starts_with("#EXT-X-PART:")).count();
            ensure!(parts > before, "{parts} parts after {before}:\n{playlist}");
            before = parts;
        }
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        viewer::check_whole(&address, STREAM, &LABELS, &recipe, run.path())?;
        server.stop()
    });
}
