//! The buttons of the console's page, pressed in a real Chromium: what is confirmed is done and shown,
//! what is cancelled is not.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use tasuki_shared::status::{SessionStatus, Status};
use tasuki_tests::browser::{self, Key};
use tasuki_tests::child::{self, Child};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::operator::{Operator, Within};
use tasuki_tests::ownership;
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::viewer;

const OTHER: &str = "other";

/// Longer than a test may last; publishers are ended.
fn publish(run: &Path, server: &mut Server, name: &str) -> Result<Child> {
    let file = Recipe { gop: 30, ..Recipe::small(230) }.file()?;
    let publisher = publisher::ffmpeg(run, name, &file, &server.url(name), Pace::RealTime)?;
    server.wait_status("frames of it", BOUND, |status| {
        session(status, name).filter(|session| session.frames_out > 30).map(drop)
    })?;
    Ok(publisher)
}

fn start(run: &Path) -> Result<Server> {
    let setup = Setup {
        workers: Some(2),
        rungs: Some(vec![Rung::Source, Rung::encoded(72, 150)]),
        audio: Some("aac"),
        tables: format!("{}[console]\nlisten = [\"127.0.0.1:0\"]\n", viewer::tables(run, "1m")),
        ..Setup::default()
    };
    Server::start(run, &setup)
}

fn open(run: &Path, server: &mut Server) -> Result<Operator> {
    let console = server.status()?.consoles.first().cloned();
    Operator::open(run, &console.context("an address of the console")?)
}

fn session<'a>(status: &'a Status, name: &str) -> Option<&'a SessionStatus> {
    status.sessions.iter().find(|it| it.name == name && it.state == "live")
}

/// Slot and generation of a stream's worker.
fn worker(server: &mut Server, name: &str) -> Result<String> {
    let status = server.status()?;
    Ok(session(&status, name).context("it is not live")?.worker.clone())
}

fn slot(worker: &str) -> &str {
    worker.split('/').next().unwrap_or_default()
}

fn no_browser() -> bool {
    let is_missing = !child::installed(browser::PROGRAM);
    if is_missing {
        eprintln!("no {} here: this proves nothing", browser::PROGRAM);
    }
    is_missing
}

/// Every button is taken back in another way: the mouse, Escape, and Enter at once, which for what is
/// grave is on Cancel. Nothing comes of it, then or later.
fn cancel_all(operator: &mut Operator, of: &str) -> Result<()> {
    let (worker, stream) = (Within::Worker(slot(of).to_owned()), Within::Stream(NAME.into()));
    operator.click(&worker, "Rotate")?;
    operator.is_asked(&format!("Rotate {}", slot(of)))?;
    operator.click(&Within::Dialog, "Cancel")?;
    operator.is_asked_nothing()?;
    operator.click(&stream, "Move")?;
    operator.is_asked(&format!("Move {NAME}"))?;
    operator.press(Key::Escape)?;
    operator.is_asked_nothing()?;
    for (within, text, title) in [
        (&stream, "End", format!("End {NAME}")),
        (&Within::Top, "Drain", "Drain this node".to_owned()),
    ] {
        operator.click(within, text)?;
        operator.is_asked(&title)?;
        operator.press(Key::Enter)?;
        operator.is_asked_nothing()?;
    }
    Ok(())
}

/// By keyboard alone and by mouse. What was cancelled before stays undone.
#[test]
fn workers_are_rotated_and_streams_moved_by_whoever_confirms() {
    if no_browser() {
        return;
    }
    in_run_directory("operator", |run| {
        let mut server = start(run.path())?;
        let mut publishers = Vec::new();
        for name in [NAME, OTHER] {
            publishers.push(publish(run.path(), &mut server, name)?);
        }
        let mut operator = open(run.path(), &mut server)?;
        let before = worker(&mut server, NAME)?;
        cancel_all(&mut operator, &before)?;

        let lane = Within::Worker(slot(&before).to_owned());
        operator.enter(&lane, "Rotate")?;
        operator.is_asked(&format!("Rotate {}", slot(&before)))?;
        operator.enter(&Within::Dialog, "Rotate")?;
        let told = operator.outcome()?;
        let is_told = told.first().is_some_and(|it| it.starts_with(&format!("{before}: done")));
        ensure!(is_told && told.len() == 2 && told[1] == "Done.", "{told:?}");
        let status = server.status()?;
        ensure!(status.recycles.len() == 1, "not one recycle: {:?}", status.recycles);
        let recycle = &status.recycles[0];
        ensure!(recycle.worker == slot(&before) && recycle.outcome == "done", "{recycle:?}");
        ensure!(recycle.reason == "operator", "{recycle:?}");
        operator.reads(".recycles tbody tr", "done")?;
        operator.reads(".recycles tbody tr", "operator")?;

        let before = worker(&mut server, NAME)?;
        operator.click(&Within::Stream(NAME.into()), "Move")?;
        operator.is_asked(&format!("Move {NAME}"))?;
        operator.click(&Within::Dialog, "Move")?;
        let told = operator.outcome()?;
        ensure!(told.first().is_some_and(|it| it.contains("done")), "{told:?}");
        let after = worker(&mut server, NAME)?;
        ensure!(after != before, "it is still at {before}");
        operator.reads(&format!("article[aria-label='Stream {NAME}'] .at"), &after)?;

        operator.click(&Within::Top, "Rotate all")?;
        operator.is_asked("Rotate all processes")?;
        operator.click(&Within::Dialog, "Rotate")?;
        // Two that serve, one that stands by, dialer, delivery, console, and that this was all.
        let told = operator.outcome()?;
        ensure!(told.len() == 7, "{told:?}");
        let status = server.status()?;
        ensure!(status.recycles.len() == 7, "{:?}", status.recycles);
        ensure!(status.state != "draining", "what was cancelled was done: {}", status.state);
        for publisher in &mut publishers {
            publisher.must_run().context("what was cancelled was done")?;
        }

        let live = server.wait_live(NAME, BOUND)?;
        let status = server.status()?;
        let owner = ownership::worker_of(&status, &live).context("its owner")?;
        let (pid, name) = (owner.pid, format!("{}/g{}", owner.slot, owner.generation));
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        operator.reads(".deaths tbody tr", &name)?;
        server.wait_live(NAME, BOUND)?;
        operator.screenshots(run.path())?;
        drop(operator);
        for mut publisher in publishers {
            publisher.kill()?;
        }
        server.wait_no_sessions(BOUND)?;
        server.stop()
    });
}

/// The publisher is told by the end of its connection; a drained node lets the last one finish.
#[test]
fn a_stream_is_ended_and_a_node_drained_by_whoever_confirms() {
    if no_browser() {
        return;
    }
    in_run_directory("operator-end", |run| {
        let mut server = start(run.path())?;
        let mut publisher = publish(run.path(), &mut server, NAME)?;
        let mut operator = open(run.path(), &mut server)?;
        operator.click(&Within::Stream(NAME.into()), "End")?;
        operator.is_asked(&format!("End {NAME}"))?;
        operator.click(&Within::Dialog, "End it")?;
        ensure!(operator.outcome()? == ["Done."], "it was not said to be done");
        publisher.wait(BOUND).context("the publisher was not disconnected")?;
        server.wait_no_sessions(BOUND)?;
        operator.reads("main", "Nobody publishes")?;

        let mut last = publish(run.path(), &mut server, OTHER)?;
        operator.click(&Within::Top, "Drain")?;
        operator.is_asked("Drain this node")?;
        operator.click(&Within::Dialog, "Drain")?;
        ensure!(operator.outcome()? == ["The server takes nothing new."], "what came of it");
        operator.reads("header.top .chip", "draining")?;
        let status = server.status()?;
        ensure!(status.state == "draining", "{}", status.state);
        ensure!(session(&status, OTHER).is_some(), "the last stream was not waited for");
        last.must_run().context("the last stream was not waited for")?;
        last.kill()?;
        let ended = server.wait(BOUND)?;
        ensure!(ended.success(), "the server ended with {ended}");
        operator.reads(".banner", "No answer since")?;
        Ok(())
    });
}
