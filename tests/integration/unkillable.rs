//! A worker that outlives its SIGKILL, because a thread of it is stuck in the kernel.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::status::Status;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, check_payloads_identical};
use tasuki_tests::origin::Origin;
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::stuck_disk::StuckDisk;

/// Longer than the server waits for a process to be reaped.
const STUCK_FOR: Duration = Duration::from_secs(8);

/// It is told of with the thread by name, nobody else gets its stream as long as it may still read
/// it, and once it is gone the stream goes on as after any other death.
#[test]
fn a_worker_that_outlives_its_kill_is_named_and_keeps_its_stream_until_it_is_gone() {
    in_run_directory("unkillable", |run| {
        let records = run.join("records");
        std::fs::create_dir(&records)?;
        let origin = Origin::start(run.path())?;
        let setup = Setup {
            workers: Some(1),
            rungs: Some(vec![Rung::Source]),
            origin_port: Some(origin.port()),
            record_directory: Some(records.clone()),
            worker_lines: "hang_deadline = \"300ms\"".to_owned(),
            ..Setup::default()
        };
        let mut server = Server::start(run.path(), &setup)?;
        let Some(disk) = StuckDisk::mount(&records)? else {
            println!("no file system of our own can be mounted here: this proves nothing");
            return server.stop();
        };
        let recipe = Recipe::small(14);
        let file = recipe.file()?;
        let url = server.url(NAME);
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &url, Pace::RealTime)?;
        disk.wait_asked(BOUND)?;
        let owner = server.wait_status("frames", BOUND, |status| {
            let session = status.sessions.iter().find(|s| s.frames_in > 60)?;
            let slot = session.worker.split('/').next()?;
            let worker = status.workers.iter().find(|worker| worker.slot == slot)?;
            Some((worker.pid, session.worker.clone()))
        })?;
        kill(Pid::from_raw(owner.0), Signal::SIGSTOP)?;
        let state = server.wait_status("it to be told of", BOUND, |status| {
            let worker = status.workers.iter().find(|worker| worker.pid == owner.0)?;
            worker.state.starts_with("stuck: ").then(|| worker.state.clone())
        })?;
        ensure!(state.contains("record"), "the thread is not named: {state}");
        let still_its = |status: &Status| -> Result<()> {
            let session = status.sessions.first().context("the session")?;
            ensure!(session.worker == owner.1, "{} has it", session.worker);
            Ok(())
        };
        let until = clock::now() + STUCK_FOR.saturating_sub(Duration::from_secs(5));
        while clock::now() < until {
            still_its(&server.status()?)?;
            clock::pause(Duration::from_millis(200));
        }
        drop(disk);
        server.wait_status("another worker to have it", BOUND, |status| {
            status.sessions.first().filter(|s| s.worker != owner.1 && s.frames_in > 0).map(|_| ())
        })?;
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        origin.wait_idle(BOUND)?;
        let log = server.log();
        ensure!(log.contains("worker_unkillable"), "{log}");
        let stream = format!("{NAME}_source");
        let publishes = origin.wait_publishes(&stream, BOUND)?;
        ensure!(publishes == 1, "{publishes} publishes:\n{log}");
        let recording = Flv::read(&origin.recording(&stream)?)?;
        check_payloads_identical(&Flv::read(&file)?, &recording)?;
        server.stop()
    });
}
