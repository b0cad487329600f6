//! A machine too slow for its ladder: the server gives up frames, then rungs from the top, and
//! says so; the publisher is read all the time, the source rung loses nothing, memory stays
//! bounded, and the rungs come back when there is less to do.

use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::status::{SessionStatus, Status};
use tasuki_tests::child;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{self, Flv, Tag};
use tasuki_tests::frames;
use tasuki_tests::place::in_run_directory;
use tasuki_tests::raw_publisher::RawPublisher;
use tasuki_tests::scene::{Scene, is_picture};
use tasuki_tests::server::{Rung, Server};

/// Generous: other tests may share the machine.
const BOUND: Duration = Duration::from_secs(90);
/// From one round of the fixture to the next.
const ROUND_MS: u32 = 4040;
/// What the worker may grow by while its pipeline is behind: bounded queues of 720p frames.
const GROWTH_BYTES_MAX: u64 = 200 << 20;
/// The rung that no core encodes in real time, and the one that every core does.
const HEAVY: &str = "700p";
const LIGHT: &str = "72p";

/// What the publisher sends.
const EVERYTHING: u8 = 0;
const KEYFRAMES: u8 = 1;
const NOTHING_MORE: u8 = 2;

fn ladder() -> Vec<Rung> {
    let heavy =
        Rung::Encoded { label: HEAVY.to_owned(), height: 700, kbps: 50_000, preset: "veryslow" };
    vec![Rung::Source, heavy, Rung::encoded(72, 150)]
}

/// Sends round after round in real time; returns what it sent.
fn send(publisher: &mut RawPublisher, tags: &[Tag], what: &AtomicU8) -> Result<Vec<Tag>> {
    let mut sent = Vec::new();
    let mut offset_ms = 0;
    loop {
        let mut over = false;
        publisher.send_tags(tags, 1, |tag| {
            let wanted = match what.load(Ordering::Acquire) {
                EVERYTHING => true,
                KEYFRAMES => !is_picture(tag) || tag.is_keyframe(),
                _ => {
                    over = true;
                    false
                }
            };
            // After the change the picture goes on with a keyframe; there are no others then.
            wanted.then(|| {
                let dts_ms = tag.dts_ms + offset_ms;
                sent.push(Tag { dts_ms, ..tag.clone() });
                dts_ms
            })
        })?;
        if over {
            return Ok(sent);
        }
        offset_ms += ROUND_MS;
    }
}

/// Whatever the machine has, the server gets one core of it. Threads and processes that start later
/// inherit that.
fn confine(server: &Server) -> Result<()> {
    child::require("taskset")?;
    for process in server.census()?.processes {
        let mut taskset = Command::new("taskset");
        taskset.args(["--all-tasks", "--cpu-list", "--pid", "0", &process.pid.to_string()]);
        let output = taskset.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn session(status: &Status) -> Option<&SessionStatus> {
    status.sessions.iter().find(|session| session.name == "cam")
}

fn rung_state<'a>(status: &'a Status, label: &str) -> Option<&'a str> {
    let rungs = &session(status)?.rungs;
    rungs.iter().find(|rung| rung.label == label).map(|rung| rung.state.as_str())
}

fn footprint(status: &Status) -> u64 {
    status.workers.iter().map(|worker| worker.footprint_bytes).sum()
}

/// Waits for each sign of overload in turn, then for its end. Watches memory all the time.
fn story(scene: &mut Scene, what: &AtomicU8) -> Result<()> {
    let server = &mut scene.server;
    let encoding = server.wait_status("the ladder to run", BOUND, |status| {
        (session(status)?.frames_out > 10).then(|| footprint(status))
    })?;
    let mut highest = 0;
    let mut wait = |what: &str, holds: &dyn Fn(&Status) -> Option<bool>| -> Result<()> {
        server.wait_status(what, BOUND, |status| {
            highest = highest.max(footprint(status));
            (holds(status)?).then_some(())
        })
    };
    wait("a lag of four seconds", &|status| Some(session(status)?.lag_ms >= 4000))?;
    wait("dropped frames", &|status| Some(session(status)?.frames_dropped > 0))?;
    wait("the heavy rung to be dropped", &|status| Some(rung_state(status, HEAVY)? == "dropped"))?;
    wait("the light rung to keep up", &|status| {
        let lag_ms = session(status)?.lag_ms;
        Some(rung_state(status, LIGHT)? == "encoding" && lag_ms < 1000)
    })?;
    // The load ends: one picture a second.
    what.store(KEYFRAMES, Ordering::Release);
    let calm_from = clock::now();
    wait("the heavy rung to be back for good", &|status| {
        let back = rung_state(status, HEAVY)? == "encoding" && session(status)?.lag_ms < 1000;
        Some(back && clock::now().duration_since(calm_from) > Duration::from_secs(12))
    })?;
    let grown = highest.saturating_sub(encoding);
    ensure!(grown < GROWTH_BYTES_MAX, "memory grew by {} MiB", grown >> 20);
    Ok(())
}

#[test]
fn an_overloaded_ladder_gives_up_frames_then_rungs_and_takes_them_back() {
    in_run_directory("overload", |run| {
        let recipe = Recipe {
            width: 1280,
            height: 720,
            gop: 30,
            video_kbps: 3000,
            preset: "ultrafast",
            ..Recipe::full_hd(4)
        };
        let mut scene = Scene::start(run.path(), recipe, |setup| {
            setup.rungs = Some(ladder());
        })?;
        confine(&scene.server)?;
        let mut publisher = scene.publish("cam")?;
        let tags = scene.source.tags.clone();
        let what = AtomicU8::new(EVERYTHING);
        let (told, sent) = std::thread::scope(|threads| {
            let sender = threads.spawn(|| send(&mut publisher, &tags, &what));
            let told = story(&mut scene, &what);
            what.store(NOTHING_MORE, Ordering::Release);
            (told, sender.join().expect("it does not panic"))
        });
        told?;
        let sent = Flv { tags: sent.context("the publisher")? };
        let longest = publisher.longest_write();
        ensure!(longest < Duration::from_secs(2), "unread for {} ms", longest.as_millis());
        let frames = u64::try_from(sent.coded(flv::Kind::Video).count())?;
        scene.wait_received("cam", frames)?;
        publisher.finish(BOUND)?;
        scene.settle()?;
        flv::check_payloads_identical(&sent, &Flv::read(&scene.recording("cam", "source")?)?)?;
        for rung in [HEAVY, LIGHT] {
            let file = scene.recording("cam", rung)?;
            flv::check_dts_rising(&Flv::read(&file)?)?;
            let decoded = frames::decode(&file)?;
            ensure!(decoded.errors.is_empty(), "{rung}: {:?}", decoded.errors);
            let last = decoded.pictures.last().context("a picture")?.pts_s;
            let first = decoded.pictures.first().context("a picture")?.pts_s;
            ensure!(last - first > 20.0, "{rung} spans {} s", last - first);
        }
        ensure!(scene.server.log().contains("overload"), "nothing was announced");
        scene.server.stop()
    });
}
