//! kill -9 of the worker under a live stream costs the origin nothing: its connections go on in
//! another worker, with no byte missing and none repeated.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tasuki_shared::status::Status;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, check_dts_rising, check_payloads_identical};
use tasuki_tests::frames::{self, check_exactly_once_in_order};
use tasuki_tests::origin::Origin;
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};

const KILLS: usize = 5;

/// The process that has the stream, once it sent a second of it on all its connections.
fn owner_at_work(status: &Status, known: &[String]) -> Option<(i32, String)> {
    let session = status.sessions.iter().find(|s| s.name == NAME && s.frames_out >= 30)?;
    let live = session.pushes.iter().filter(|push| push.state == "live").count();
    let slot = session.worker.split('/').next()?;
    let worker = status.workers.iter().find(|w| w.slot == slot && w.sessions > 0)?;
    let is_new = live == 2 && !known.contains(&session.worker);
    is_new.then(|| (worker.pid, session.worker.clone()))
}

#[test]
fn an_origins_connections_go_on_in_another_worker_byte_for_byte() {
    in_run_directory("push-resume", |run| {
        let recipe = Recipe { b_frames: 2, ..Recipe::small(24) };
        let file = recipe.file()?;
        let origin = Origin::start(run.path())?;
        let setup = Setup {
            rungs: Some(vec![Rung::Source, Rung::encoded(72, 200)]),
            audio: Some("aac"),
            origin_port: Some(origin.port()),
            ..Setup::default()
        };
        let mut server = Server::start(run.path(), &setup)?;
        let url = server.url(NAME);
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &url, Pace::RealTime)?;
        let mut owners = Vec::new();
        for _ in 0..KILLS {
            // Its own frames, not those of the worker before: counts begin anew with each owner.
            let (pid, owner) = server.wait_status("pushes in a worker", BOUND, |status| {
                owner_at_work(status, &owners)
            })?;
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            owners.push(owner);
        }
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        origin.wait_idle(BOUND)?;
        let log = server.log();
        for label in ["source", "72p"] {
            let stream = format!("{NAME}_{label}");
            let accepted = origin.wait_publishes(&stream, BOUND)?;
            ensure!(accepted == 1, "{label} was published {accepted} times:\n{log}");
            let recording = origin.recording(&stream)?;
            check(&recipe, label, &Flv::read(&recording)?).context(label)?;
            let decoded = frames::decode(&recording)?;
            ensure!(decoded.errors.is_empty(), "{label}: {:?}", decoded.errors);
            check_exactly_once_in_order(&decoded.numbers(), 0..=recipe.frames() - 1)
                .with_context(|| format!("{label}:\n{log}"))?;
        }
        ensure!(!log.contains("panic"), "a worker panicked:\n{log}");
        server.stop()
    });
}

fn check(recipe: &Recipe, label: &str, recording: &Flv) -> Result<()> {
    check_dts_rising(recording)?;
    if label == "source" {
        check_payloads_identical(&Flv::read(&recipe.file()?)?, recording)?;
    }
    Ok(())
}
