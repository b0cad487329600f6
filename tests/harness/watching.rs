//! Viewers of FLV that watch while the workers under their stream are replaced and killed: their
//! connections stay, and every picture from their first to the stream's last is there once.
//!
//! `./dev test` and `./dev soak flv` differ in the counts, not in these checks.

use crate::fixture::Recipe;
use crate::flv_viewer::{self, FlvViewer, Over};
use crate::ownership;
use crate::passage::{BOUND, NAME};
use crate::publisher::{self, Pace};
use crate::server::{Rung, Server, Setup};
use crate::viewer;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::Duration;
use tasuki_shared::message::Haste;
use tasuki_shared::status::{Reply, Request};

/// How long a deaf viewer may last: until what lies between is full, and the bound on top.
pub const DEAF_BOUND: Duration = Duration::from_secs(20);

/// What viewers watch, and how.
const WATCHED: [(&str, &str, Over); 3] = [
    ("source", "/live/live/cam.flv", Over::Http),
    ("72p", "/live/live/cam/72p.flv", Over::Http),
    ("72p-socket", "/live/live/cam/72p.flv", Over::WebSocket),
];

/// What is done to the worker of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Move(Haste),
    Kill,
}

/// One application with a rung and its viewers' listener.
#[must_use]
pub fn setup(run: &Path) -> Setup {
    Setup {
        workers: Some(2),
        rungs: Some(vec![Rung::Source, Rung::encoded(72, 150)]),
        audio: Some("aac"),
        tables: viewer::tables(run, "1m"),
        ..Setup::default()
    }
}

/// Publishes, watches, does one fault after the other with so many pictures in between, and checks
/// what the viewers got. Returns their files.
pub fn run(
    directory: &Path,
    recipe: &Recipe,
    faults: &[Fault],
    pictures_between: u64,
) -> Result<Vec<(&'static str, std::path::PathBuf)>> {
    let mut server = Server::start(directory, &setup(directory))?;
    let address = server.viewers()?;
    let file = recipe.file()?;
    let mut publisher =
        publisher::ffmpeg(directory, "publisher", &file, &server.url(NAME), Pace::RealTime)?;
    let mut pictures = frames_out(&mut server, pictures_between / 2)?;
    let mut viewers = Vec::new();
    for (name, path, over) in WATCHED {
        let kept = directory.join(format!("{name}.flv"));
        let viewer = FlvViewer::start(&address, path, over, kept)?;
        wait::until("the first pictures", BOUND, || Ok((viewer.bytes() > 0).then_some(())))?;
        viewers.push((name, viewer));
    }
    for fault in faults {
        pictures = frames_out(&mut server, pictures + pictures_between)?;
        act(&mut server, *fault).with_context(|| format!("{fault:?} after {pictures} pictures"))?;
    }
    publisher.finish(BOUND).context("the publisher was disconnected")?;
    server.wait_no_sessions(BOUND)?;
    let mut files = Vec::new();
    for (name, viewer) in viewers {
        let kept = viewer.finish(BOUND).with_context(|| format!("{name}\n{}", server.log()))?;
        let first = flv_viewer::check_whole(&kept, recipe)?;
        ensure!(first < recipe.frames() / 2, "{name} began with picture {first}");
        if name == "source" {
            flv_viewer::check_untouched(&file, &kept, first)?;
        }
        files.push((name, kept));
    }
    let log = server.log();
    ensure!(!log.contains("panicked") && !log.contains("too slow"), "{log}");
    server.stop()?;
    Ok(files)
}

/// Waits until so many pictures of the stream are through; how many they are.
pub fn frames_out(server: &mut Server, frames: u64) -> Result<u64> {
    server.wait_status(&format!("{frames} pictures"), BOUND, |status| {
        let session = status.sessions.iter().find(|session| session.name == NAME)?;
        (session.frames_out >= frames).then_some(session.frames_out)
    })
}

fn act(server: &mut Server, fault: Fault) -> Result<()> {
    match fault {
        Fault::Move(haste) => {
            let session = server.wait_live(NAME, BOUND)?.id;
            let reply = server.request(&Request::Move { session, haste })?;
            let Reply::Moved(moved) = reply else { bail!("{reply:?}") };
            ensure!(moved.outcome == "done", "{moved:?}");
            Ok(())
        }
        Fault::Kill => {
            let pid = server.wait_status("the stream's worker", BOUND, |status| {
                let session = status.sessions.iter().find(|session| session.name == NAME)?;
                let worker = ownership::worker_of(status, session)?;
                (session.state == "live" && worker.state == "serving").then_some(worker.pid)
            })?;
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            server.wait_status("its end", BOUND, |status| {
                status.workers.iter().all(|worker| worker.pid != pid).then_some(())
            })
        }
    }
}
