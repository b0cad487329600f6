//! A live stream as HLS clients of other people see it, while it is moved and its workers die: two
//! parsers (hls-parser in its strict mode, Python's m3u8 in its own) read every kind of playlist, and
//! shaka-player plays in a real Chromium ([ADR 20](../../docs/adr/0020-other-clients.md)).
//!
//! Each check meets, in the same run, something broken that it must not pass.

pub mod controls;
pub mod install;
pub mod parser;
pub mod readers;
pub mod reading;
pub mod shaka;

use crate::chance::Chance;
use crate::duties::{self, Watching};
use crate::fixture::Recipe;
use crate::passage::{BOUND, NAME};
use crate::publisher::{self, Pace};
use crate::server::{Rung, Server, Setup};
use crate::{viewer, wait};
use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use readers::{Read, Readers};
use shaka::{Seen, Shaka};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const STREAM: &str = "live/cam";
const LABELS: [&str; 3] = ["source", "180p", "90p"];
const WINDOW: &str = "60s";
/// A browser begins slowly, and the controls come last.
const MARGIN_SECONDS: u32 = 70;
/// shaka-player 5.2.12 throws a TypeError at a stream that is a segment old: it looks into one to learn
/// what is in it, and takes the one that is not whole yet.
const SEGMENTS_FIRST: usize = 4;

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long shaka-player plays.
    pub seconds: u32,
    pub moves: u32,
    pub kills: u32,
}

/// What the clients made of it.
#[derive(Clone, Debug)]
pub struct Heard {
    pub read: Read,
    pub seen: Seen,
}

pub fn run(directory: &Path, plan: Plan, chance: &mut Chance) -> Result<Heard> {
    let installed = install::install()?;
    let Plan { seconds, moves, kills } = plan;
    let small = Recipe::small(seconds + MARGIN_SECONDS);
    let recipe = Recipe { width: 640, height: 360, video_kbps: 600, gop: 30, ..small };
    let target = "3s";
    let tables = viewer::tables(directory, WINDOW);
    let about = format!("[apps.live.hls]\ntarget_duration = {target:?}\n");
    let setup = Setup {
        workers: Some(2),
        rungs: Some(vec![Rung::Source, Rung::encoded(180, 300), Rung::encoded(90, 150)]),
        audio: Some("aac"),
        tables: tables.replace("[apps.live.hls]\n", &about),
        worker_lines: "standby = 2\nrestart_backoff_first = \"10ms\"".into(),
        ..Setup::default()
    };
    let mut server = Server::start(directory, &setup)?;
    let address = server.viewers()?;
    let file = recipe.file()?;
    let url = server.url(NAME);
    let mut publisher = publisher::ffmpeg(directory, "publisher", &file, &url, Pace::RealTime)?;
    server.wait_live(NAME, BOUND)?;
    let multivariant = format!("/live/{STREAM}/index.m3u8");
    wait::until("all renditions", BOUND, || {
        let text = viewer::get(&address, &multivariant)?;
        let text = String::from_utf8_lossy(&text.body);
        Ok((text.matches("#EXT-X-STREAM-INF").count() == LABELS.len()).then_some(()))
    })?;
    let mut readers = Readers::start(&installed, directory, &address, STREAM, &LABELS)?;
    wait::until("some segments", BOUND, || {
        let text = viewer::get(&address, &format!("/live/{STREAM}/source/index.m3u8"))?.text()?;
        Ok((text.matches("#EXTINF").count() >= SEGMENTS_FIRST).then_some(()))
    })?;
    let broken = directory.join("broken");
    std::fs::create_dir(&broken)?;
    let source = format!("http://{address}{multivariant}");
    let mut shaka = Shaka::start(directory, &installed, &source, &broken)?;
    let watching = Watching { recipe: recipe.clone(), target, moves, kills };
    let over = AtomicBool::new(false);
    let (seen, mut readers) = thread::scope(|scope| {
        let reading = scope.spawn(|| -> Result<Readers<'_>> {
            while !over.load(Ordering::Relaxed) {
                readers.round()?;
            }
            Ok(readers)
        });
        let seen = duties::disturb(&mut server, &watching, chance)
            .context("disturbing")
            .and_then(|()| shaka.play_for(seconds));
        over.store(true, Ordering::Relaxed);
        let readers = reading.join().map_err(|_| anyhow!("the readers panicked"))?;
        Ok::<_, anyhow::Error>((seen?, readers?))
    })?;
    publisher.must_run().context("the stream was too short for all that")?;
    seen.check(recipe.fps)?;
    readers.check_controls()?;
    // The viewer's controls: a publisher that stands, and a playlist that is none.
    publisher.signal(Signal::SIGSTOP)?;
    let stalled = shaka.must_stall();
    publisher.signal(Signal::SIGCONT)?;
    stalled?;
    shaka.must_refuse(&viewer::get(&address, &multivariant)?.text()?)?;
    drop(shaka);
    publisher.finish(BOUND).context("the publisher was disconnected")?;
    server.wait_no_sessions(BOUND)?;
    readers.ended()?;
    ensure!(readers.read.deltas > 0, "no delta skipped anything");
    let read = readers.read;
    server.stop()?;
    Ok(Heard { read, seen })
}

impl Heard {
    #[must_use]
    pub fn summary(&self) -> String {
        let Read { playlists, deltas, waited, reports, controls, refused } = self.read;
        let [hls_parser, m3u8] = refused;
        format!(
            "hls-parser and m3u8: {playlists} playlists read alike, {waited} that had waited, \
             {deltas} deltas, {reports} reports; {controls} broken ones found out, of which \
             {hls_parser} and {m3u8} were refused by the parser itself\nshaka-player: {}",
            self.seen.summary()
        )
    }
}
