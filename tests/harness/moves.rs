//! Live streams that are moved from worker to worker while they are published, and what must hold
//! of them: the publishers stay, the origin sees no second connection, every picture is there once.
//!
//! `./dev test` and `./dev soak` differ in the counts, not in these checks.

use crate::chance::Chance;
use crate::fixture::Recipe;
use crate::flv::{Flv, check_payloads_identical};
use crate::origin::Origin;
use crate::passage::{BOUND, Expected, check_rendition};
use crate::publisher::{self, Pace};
use crate::server::{Rung, Server, Setup};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::message::Haste;
use tasuki_shared::status::{MoveStatus, Reply, Request};

/// What is moved, and how often.
#[derive(Clone, Debug)]
pub struct Moving {
    pub recipe: Recipe,
    pub streams: u32,
    /// What each stream becomes; the first rung is the source untouched.
    pub rungs: Vec<Rung>,
    pub audio: &'static str,
    /// At most; the streams' end ends it too.
    pub moves: u32,
    /// Longest pause before a move, ms; drawn evenly from nothing to that.
    pub pause_ms_max: u64,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    pub moves: Vec<MoveStatus>,
    pub urgent: u32,
    /// Moves that were refused because their stream was about to end or still in another move.
    pub refused: u32,
}

/// Publishes, moves at random moments, half of the moves urgent, and checks what arrived.
pub fn run(directory: &Path, moving: &Moving, chance: &mut Chance) -> Result<Moved> {
    let origin = Origin::start(directory)?;
    // The harness itself has looked whether it listens.
    let before = origin.accepts()?;
    let setup = Setup {
        workers: Some(2),
        streams_per_worker: Some(moving.streams.max(4)),
        rungs: Some(moving.rungs.clone()),
        audio: Some(moving.audio),
        origin_port: Some(origin.port()),
        ..Setup::default()
    };
    let mut server = Server::start(directory, &setup)?;
    let file = moving.recipe.file()?;
    let names: Vec<String> = (0..moving.streams).map(|at| format!("cam{at}")).collect();
    let mut publishers = Vec::new();
    for name in &names {
        let url = server.url(name);
        publishers.push(publisher::ffmpeg(directory, name, &file, &url, Pace::RealTime)?);
    }
    for name in &names {
        server.wait_status("all streams to be encoded", BOUND, |status| {
            status.sessions.iter().any(|s| s.name == *name && s.frames_in > 15).then_some(())
        })?;
    }
    let mut moved = Moved::default();
    let mut running = true;
    while running && moved.moves.len() < usize::try_from(moving.moves)? {
        clock::pause(Duration::from_millis(chance.between(0..=moving.pause_ms_max)));
        let haste = if chance.draw().is_multiple_of(2) { Haste::Now } else { Haste::Scheduled };
        let which = usize::try_from(chance.between(0..=u64::from(moving.streams - 1)))?;
        let Some(name) = names.get(which) else { continue };
        let status = server.status()?;
        let session = status.sessions.iter().find(|s| s.name == *name && s.state == "live");
        if let Some(session) = session {
            let request = Request::Move { session: session.id.clone(), haste };
            match server.request(&request)? {
                Reply::Moved(done) if done.outcome == "done" => {
                    moved.urgent += u32::from(haste == Haste::Now);
                    moved.moves.push(done);
                }
                Reply::Moved(_) | Reply::Refused { .. } => moved.refused += 1,
                other @ (Reply::Status(_)
                | Reply::Event(_)
                | Reply::Recycled(_)
                | Reply::Heap { .. }
                | Reply::Threads { .. }
                | Reply::Done) => {
                    bail!("a move was answered by {other:?}")
                }
            }
        }
        running = false;
        for publisher in &mut publishers {
            running |= publisher.ended()?.is_none();
        }
    }
    for mut publisher in publishers {
        publisher.finish(BOUND).context("a publisher was disconnected")?;
    }
    server.wait_no_sessions(BOUND)?;
    origin.wait_idle(BOUND)?;
    let log = server.log();
    ensure!(!log.contains("panic"), "a worker panicked:\n{log}");
    let accepts = origin.accepts()? - before;
    let wanted = u64::from(moving.streams) * u64::try_from(moving.rungs.len())?;
    ensure!(accepts == wanted, "the origin accepted {accepts} connections, {wanted} are enough");
    check(&origin, moving, &file, &names)?;
    server.stop()?;
    Ok(moved)
}

/// What must hold of everything that arrived.
pub fn check(origin: &Origin, moving: &Moving, file: &Path, names: &[String]) -> Result<()> {
    let expected = Expected::all_of(&moving.recipe);
    let sent = Flv::read(file)?;
    for name in names {
        for rung in &moving.rungs {
            let label = rung.label();
            let recording = origin.recording(&format!("{name}_{label}"))?;
            check_rendition(label, &recording, &expected)
                .with_context(|| format!("{label} of {name}"))?;
            if *rung == Rung::Source {
                check_payloads_identical(&sent, &Flv::read(&recording)?)
                    .with_context(|| format!("{label} of {name}"))?;
            }
        }
    }
    Ok(())
}
