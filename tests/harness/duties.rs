//! A stream that is moved and whose workers are killed, followed by clients that know what an LL-HLS
//! server owes them (draft-pantos-hls-rfc8216bis), from its first part to its end.
//!
//! `./dev test` and `./dev soak duties` differ in length and counts, not in these checks.

pub mod exchange;
pub mod follow;
pub mod fragment;
pub mod judge;
pub mod playlist;

use crate::chance::Chance;
use crate::fixture::Recipe;
use crate::ownership;
use crate::passage::{BOUND, NAME};
use crate::publisher::{self, Pace};
use crate::server::{Rung, Server, Setup};
use crate::viewer;
use crate::wait;
use anyhow::{Context, Result, anyhow, ensure};
use follow::{Seen, Watched};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::thread;
use tasuki_shared::message::Haste;
use tasuki_shared::status::{Reply, Request};

const STREAM: &str = "live/cam";
const ENCODED_HEIGHT: u32 = 72;
const WINDOW_SECONDS: u32 = 60;

/// What is published, and what happens to it meanwhile.
#[derive(Clone, Debug)]
pub struct Watching {
    pub recipe: Recipe,
    /// The shorter it is, the sooner there is something that a delta update skips.
    pub target: &'static str,
    /// Planned moves, each second one urgent, and kills of the owner, in turn.
    pub moves: u32,
    pub kills: u32,
}

/// Publishes, disturbs, follows both renditions, and fails with every duty that was neglected.
pub fn run(directory: &Path, watching: &Watching, chance: &mut Chance) -> Result<Vec<Seen>> {
    let encoded = Rung::encoded(ENCODED_HEIGHT, 150);
    let tables = viewer::tables(directory, &format!("{WINDOW_SECONDS}s"));
    let target = format!("[apps.live.hls]\ntarget_duration = {:?}\n", watching.target);
    let setup = Setup {
        workers: Some(2),
        rungs: Some(vec![Rung::Source, encoded.clone()]),
        audio: Some("aac"),
        tables: tables.replace("[apps.live.hls]\n", &target),
        worker_lines: "standby = 2\nrestart_backoff_first = \"10ms\"".into(),
        ..Setup::default()
    };
    let mut server = Server::start(directory, &setup)?;
    let address = server.viewers()?;
    let Recipe { width, height, fps, .. } = watching.recipe;
    let (width, height) = (u64::try_from(width)?, u64::try_from(height)?);
    let small = u64::from(ENCODED_HEIGHT);
    let files = directory.join("hls").join(STREAM);
    let small_size = (width * small / height, small);
    let source = Watched {
        address: &address,
        stream: STREAM,
        label: "source",
        sibling: encoded.label(),
        directory: &files,
        resolution: (width, height),
        frame_rate_mhz: u64::from(fps) * 1000,
    };
    let encoded =
        Watched { label: source.sibling, sibling: source.label, resolution: small_size, ..source };
    let file = watching.recipe.file()?;
    let url = server.url(NAME);
    let mut publisher = publisher::ffmpeg(directory, "publisher", &file, &url, Pace::RealTime)?;
    server.wait_live(NAME, BOUND)?;
    // Its directory comes with its first packets.
    wait::until("the stream at delivery", BOUND, || {
        let multivariant = viewer::get(&address, &format!("/live/{STREAM}/index.m3u8"))?;
        Ok((multivariant.status != 404).then_some(()))
    })?;
    let (disturbed, seen) = thread::scope(|scope| {
        let clients = [source, encoded].map(|watched| {
            scope.spawn(move || follow::follow(&watched).context(watched.label.to_owned()))
        });
        let disturbed = disturb(&mut server, watching, chance);
        let seen = clients.map(|it| it.join().map_err(|_| anyhow!("a client panicked")));
        (disturbed, seen)
    });
    disturbed?;
    let mut all = Vec::new();
    for (seen, label) in seen.into_iter().zip(["source", "72p"]) {
        let seen = seen??;
        seen.check().with_context(|| format!("{label}: {}", seen.summary()))?;
        all.push(seen);
    }
    let [source, encoded] = all.as_slice() else { anyhow::bail!("not both were followed") };
    let between = judge::between(&source.numbers, &encoded.numbers);
    ensure!(between.is_empty(), "{between:?}");
    publisher.finish(BOUND).context("the publisher was disconnected")?;
    server.wait_no_sessions(BOUND)?;
    if watching.recipe.seconds > WINDOW_SECONDS {
        // What left the window was checked while it was there.
        server.stop()?;
        return Ok(all);
    }
    viewer::check_whole(&address, STREAM, &["source", "72p"], &watching.recipe, directory)?;
    server.stop()?;
    Ok(all)
}

/// Moves and kills, spread over the stream.
pub fn disturb(server: &mut Server, watching: &Watching, chance: &mut Chance) -> Result<()> {
    let times = watching.moves + watching.kills;
    let step = u64::from(watching.recipe.frames()) / u64::from(times + 2);
    let (mut moves, mut kills) = (0, 0);
    for at in 1..=times {
        let frames = step * u64::from(at) + chance.between(0..=step / 4);
        let session = server.wait_status("the stream to go on", BOUND, |status| {
            let session = status.sessions.iter().find(|s| s.name == NAME && s.state == "live")?;
            (session.frames_out >= frames).then(|| session.clone())
        })?;
        // Whichever is farther from its count.
        if moves * watching.kills <= kills * watching.moves && moves < watching.moves {
            let haste = if moves % 2 == 0 { Haste::Now } else { Haste::Scheduled };
            let reply = server.request(&Request::Move { session: session.id, haste })?;
            let Reply::Moved(moved) = reply else { anyhow::bail!("{reply:?}") };
            ensure!(moved.outcome == "done", "{moved:?}");
            moves += 1;
        } else {
            let status = server.status()?;
            let owner = ownership::worker_of(&status, &session).context("its owner")?;
            kill(Pid::from_raw(owner.pid), Signal::SIGKILL)?;
            kills += 1;
        }
    }
    Ok(())
}
