//! Live streams under whose server's processes something dies, and what must hold of them: the
//! publishers stay, the origin sees no second connection, every picture is there once.
//!
//! `./dev test` and `./dev soak` differ in the counts, not in these checks.

use crate::child::Child;
use crate::fixture::Recipe;
use crate::flv::{Flv, check_payloads_identical};
use crate::origin::Origin;
use crate::passage::{BOUND, Expected, check_rendition};
use crate::publisher::{self, Pace};
use crate::server::{Rung, Server, Setup};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use tasuki_shared::status::{DeathStatus, Status, WorkerStatus};

/// A server with streams that are published in real time.
#[derive(Debug)]
pub struct Dying {
    pub server: Server,
    pub origin: Origin,
    pub names: Vec<String>,
    recipe: Recipe,
    file: PathBuf,
    publishers: Vec<Child>,
    accepts_before: u64,
}

/// A worker with all of the streams, as it is signalled and told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub pid: i32,
    /// Slot and generation.
    pub worker: String,
}

impl Dying {
    /// Publishes; every stream is encoded when this returns. The ladder and the origin are added to
    /// `setup`.
    pub fn start(run: &Path, recipe: &Recipe, streams: u32, setup: Setup) -> Result<Self> {
        let origin = Origin::start(run)?;
        // The harness itself has looked whether it listens.
        let accepts_before = origin.accepts()?;
        let setup = Setup {
            rungs: Some(vec![Rung::Source, Rung::encoded(72, 200)]),
            audio: Some("aac"),
            origin_port: Some(origin.port()),
            streams_per_worker: Some(32),
            ..setup
        };
        let server = Server::start(run, &setup)?;
        let file = recipe.file()?;
        let names: Vec<String> = (0..streams).map(|at| format!("cam{at}")).collect();
        let mut publishers = Vec::new();
        for name in &names {
            let url = server.url(name);
            publishers.push(publisher::ffmpeg(run, name, &file, &url, Pace::RealTime)?);
        }
        let recipe = recipe.clone();
        let mut dying = Self { server, origin, names, recipe, file, publishers, accepts_before };
        dying.wait_encoded(15)?;
        Ok(dying)
    }

    /// Waits until each stream's worker has encoded so much of it.
    pub fn wait_encoded(&mut self, frames: u64) -> Result<()> {
        let names = self.names.clone();
        self.server.wait_status("all streams to be encoded", BOUND, |status| {
            let encoded = |name: &String| {
                status.sessions.iter().any(|s| s.name == *name && s.frames_out >= frames)
            };
            names.iter().all(encoded).then_some(())
        })
    }

    /// The worker that has all streams, once it has encoded so much of each and is none of `known`.
    pub fn wait_owner(&mut self, frames: u64, known: &[Owner]) -> Result<Owner> {
        let names = self.names.clone();
        self.server.wait_status("a worker with all streams", BOUND, |status| {
            let owner = owner_of(status, &names, frames)?;
            (!known.contains(&owner)).then_some(owner)
        })
    }

    /// Waits for a death of this process, settled for all of its streams.
    pub fn wait_death(&mut self, worker: &str) -> Result<DeathStatus> {
        self.server.wait_status("a death to be told of", BOUND, |status| {
            let death = status.deaths.iter().find(|death| death.worker == worker)?;
            death.sessions.iter().all(|session| session.outcome != "waits").then(|| death.clone())
        })
    }

    /// Sees the publishers to their end, and the server to its own.
    pub fn see_out(mut self) -> Result<()> {
        for publisher in &mut self.publishers {
            publisher.finish(BOUND).context("a publisher was disconnected")?;
        }
        self.server.wait_no_sessions(BOUND)?;
        self.server.stop()
    }

    /// Sees the publishers to their end and checks what arrived; what the server logged.
    pub fn finish(mut self) -> Result<String> {
        for publisher in &mut self.publishers {
            publisher.finish(BOUND).context("a publisher was disconnected")?;
        }
        self.server.wait_no_sessions(BOUND)?;
        self.origin.wait_idle(BOUND)?;
        let log = self.server.log();
        ensure!(!log.contains("panic"), "a process panicked:\n{log}");
        let expected = Expected::all_of(&self.recipe);
        let sent = Flv::read(&self.file)?;
        for name in &self.names {
            for label in ["source", "72p"] {
                let stream = format!("{name}_{label}");
                let publishes = self.origin.wait_publishes(&stream, BOUND)?;
                ensure!(publishes == 1, "{stream} was published {publishes} times:\n{log}");
                let recording = self.origin.recording(&stream)?;
                check_rendition(label, &recording, &expected)
                    .with_context(|| format!("{stream}:\n{log}"))?;
                if label == "source" {
                    check_payloads_identical(&sent, &Flv::read(&recording)?)
                        .with_context(|| format!("{stream}:\n{log}"))?;
                }
            }
        }
        let accepts = self.origin.accepts()? - self.accepts_before;
        ensure!(accepts >= 2 * self.names.len() as u64, "only {accepts} connections");
        self.server.stop()?;
        Ok(log)
    }
}

/// Kills healthy workers by hand, so many times in a row: nobody is blamed, nothing is counted
/// against a slot, and nothing is lost.
pub fn kill_by_hand(run: &Path, streams: u32, seconds: u32, kills: usize) -> Result<usize> {
    let recipe = Recipe { b_frames: 2, ..Recipe::small(seconds) };
    let setup = Setup {
        workers: Some(1),
        // Were these deaths counted, the slots would be given up.
        worker_lines: "restart_intensity = 2\nstandby = 2\nrestart_window = \"1h\"".to_owned(),
        ..Setup::default()
    };
    let mut dying = Dying::start(run, &recipe, streams, setup)?;
    let mut owners: Vec<Owner> = Vec::new();
    for _ in 0..kills {
        let mut running = true;
        for publisher in &mut dying.publishers {
            running &= publisher.ended()?.is_none();
        }
        if !running {
            break;
        }
        let Ok(owner) = dying.wait_owner(3, &owners) else { break };
        signal(&owner, Signal::SIGKILL)?;
        let death = dying.wait_death(&owner.worker)?;
        ensure!(death.cause == "killed by somebody else (SIGKILL)", "{death:?}");
        let blamed = death.sessions.iter().find(|session| !session.suspicion.is_empty());
        ensure!(blamed.is_none(), "{death:?}");
        owners.push(owner);
    }
    let done = owners.len();
    let log = dying.finish()?;
    for word in ["slot_given_up", "session_quarantined", "stream_dropped"] {
        ensure!(!log.contains(word), "{word}:\n{log}");
    }
    Ok(done)
}

pub fn signal(owner: &Owner, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(owner.pid), signal)?)
}

/// A process by its role and state.
#[must_use]
pub fn process<'a>(status: &'a Status, role: &str, state: &str) -> Option<&'a WorkerStatus> {
    status.workers.iter().find(|w| w.role == role && w.state == state && w.pid > 0)
}

fn owner_of(status: &Status, names: &[String], frames: u64) -> Option<Owner> {
    let mut found: Option<String> = None;
    for name in names {
        let session = status.sessions.iter().find(|session| session.name == *name)?;
        let same = found.as_ref().is_none_or(|known| *known == session.worker);
        if session.frames_out < frames || !same {
            return None;
        }
        found = Some(session.worker.clone());
    }
    let worker = found?;
    let slot = worker.split('/').next()?;
    let process = status.workers.iter().find(|process| process.slot == slot)?;
    Some(Owner { pid: process.pid, worker: worker.clone() })
}
