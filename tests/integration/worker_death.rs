//! kill -9 of a worker under a live stream: the publisher's connection goes on in another worker,
//! so do the origins' connections, and nothing that was encoded is encoded again.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use tasuki_shared::status::Status;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, check_dts_rising};
use tasuki_tests::frames;
use tasuki_tests::origin::Origin;
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};

/// The worker that has the stream, once `frames` of it are through.
fn worker_of(status: &Status, frames: u64) -> Option<(i32, String)> {
    let session = status.sessions.iter().find(|s| s.name == NAME && s.frames_out >= frames)?;
    let slot = session.worker.split('/').next()?;
    let worker = status.workers.iter().find(|w| w.slot == slot && w.sessions > 0)?;
    Some((worker.pid, session.worker.clone()))
}

#[test]
fn a_stream_goes_on_in_another_worker_and_repeats_nothing() {
    in_run_directory("death", |run| {
        let recipe = Recipe { b_frames: 2, ..Recipe::small(24) };
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
            publisher::ffmpeg(run.path(), "publisher", &recipe.file()?, &url, Pace::RealTime)?;
        let mut owners = Vec::new();
        for _ in 0..3 {
            // Its own frames, not those of the worker before: counts begin anew with each owner.
            let (pid, owner) = server.wait_status("frames in a worker", BOUND, |status| {
                worker_of(status, 60).filter(|(_, owner)| !owners.contains(owner))
            })?;
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            owners.push(owner);
        }
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        origin.wait_idle(BOUND)?;
        for label in ["source", "72p"] {
            let recordings = origin.recordings(&format!("{NAME}_{label}"))?;
            ensure!(recordings.len() == 1, "{label} was dialled anew: {recordings:?}");
            let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
            for recording in &recordings {
                check_dts_rising(&Flv::read(recording)?).context(label)?;
                let decoded = frames::decode(recording)?;
                ensure!(decoded.errors.is_empty(), "{label}: {:?}", decoded.errors);
                ensure!(decoded.numbers().is_sorted(), "{label}: numbers fall");
                for number in decoded.numbers().into_iter().flatten() {
                    *seen.entry(number).or_default() += 1;
                }
            }
            let repeated: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
            ensure!(repeated.is_empty(), "{label}: repeated {repeated:?}");
            ensure!(seen.len() == recipe.frames() as usize, "{label}: only {}", seen.len());
        }
        checked_stop(server)
    });
}

fn checked_stop(server: Server) -> Result<()> {
    ensure!(!server.log().contains("panic"), "a worker panicked:\n{}", server.log());
    server.stop()
}
