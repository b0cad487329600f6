//! Streams whose source log does not reach back to the last keyframe, and what becomes of them when
//! their worker is replaced.

use crate::filler;
use crate::fixture::{Audio, Recipe};
use crate::flv::{Flv, Tag};
use crate::origin::Origin;
use crate::picture::Band;
use crate::raw_publisher::{Pace, RawPublisher};
use crate::server::{Rung, Server, Setup};
use anyhow::{Context, Result};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;
use tasuki_shared::message::Haste;
use tasuki_shared::status::{RecycleStatus, Request, SessionStatus};

/// What it is published as.
pub const NAME: &str = "cam";
/// Label of the encoded rung.
pub const SMALL: &str = "72p";
pub const FPS: u32 = 30;
const BOUND: Duration = Duration::from_secs(60);
/// The smallest source log, 1 MiB, holds four and a half seconds of it.
const KBPS: u32 = 1850;
const LIMITS: &str = "[apps.live.limits]\nbitrate = \"4M\"\ngop = \"1s\"\n";

/// Server, origin and a publisher that sends in real time.
#[derive(Debug)]
pub struct Anchorless {
    pub origin: Origin,
    pub server: Server,
    pub sent: Flv,
    publisher: Option<JoinHandle<Result<RawPublisher>>>,
    /// Connections of clients that wait for an answer.
    waiting: Vec<UnixStream>,
}

impl Anchorless {
    /// Publishes `seconds` with a keyframe each `gop` frames; back when the log lacks the first.
    pub fn start(run: &Path, seconds: u32, gop: u32) -> Result<Self> {
        let recipe = Recipe {
            width: 160,
            height: 90,
            fps: FPS,
            seconds,
            gop,
            b_frames: 0,
            video_kbps: 250,
            audio: Audio::Beat { kbps: 64 },
            preset: "veryfast",
            band: Band::Top,
        };
        let mut sent = Flv::read(&recipe.file()?)?;
        filler::pad(&mut sent.tags, KBPS, seconds)?;
        let origin = Origin::start(run)?;
        let setup = Setup {
            workers: Some(2),
            rungs: Some(vec![Rung::Source, Rung::encoded(72, 200)]),
            audio: Some("aac"),
            origin_port: Some(origin.port()),
            tables: LIMITS.to_owned(),
            ..Setup::default()
        };
        let server = Server::start(run, &setup)?;
        let address = server.address().to_owned();
        let tags: Vec<Tag> = sent.tags.clone();
        let publisher = std::thread::spawn(move || {
            let mut publisher = RawPublisher::publish(&address, NAME, 4096)?;
            let mut pace = Pace::new(&tags, 1);
            for tag in &tags {
                pace.wait_for(tag);
                publisher.send_tag(tag, tag.dts_ms)?;
            }
            Ok(publisher)
        });
        let (publisher, waiting) = (Some(publisher), Vec::new());
        let mut stage = Self { origin, server, sent, publisher, waiting };
        stage.wait_session("the first keyframe to leave the log", |session| session.no_anchor)?;
        Ok(stage)
    }

    /// The stream's session, once it is as wanted.
    pub fn wait_session(
        &mut self,
        what: &str,
        wanted: impl Fn(&SessionStatus) -> bool,
    ) -> Result<SessionStatus> {
        self.server.wait_status(what, BOUND, |status| {
            let session = status.sessions.iter().find(|s| s.name == NAME && s.state == "live")?;
            wanted(session).then(|| session.clone())
        })
    }

    /// Slot of the worker that has the stream.
    pub fn slot(&mut self) -> Result<String> {
        let session = self.wait_session("the stream", |_| true)?;
        let (slot, _) = session.worker.split_once('/').context("slot and generation")?;
        Ok(slot.to_owned())
    }

    /// Has a worker replaced, and does not wait for it.
    pub fn rotate(&mut self, slot: &str, haste: Haste) -> Result<()> {
        let request =
            Request::Rotate { worker: Some(slot.to_owned()), reason: "test".to_owned(), haste };
        let mut client = UnixStream::connect(self.server.socket())?;
        client.write_all(&[serde_json::to_vec(&request)?, b"\n".to_vec()].concat())?;
        self.waiting.push(client);
        Ok(())
    }

    /// The recycle of the worker that was in this slot, once it is as wanted.
    pub fn wait_recycle(&mut self, slot: &str, outcome: &str) -> Result<RecycleStatus> {
        let what = format!("the recycle of {slot} to be {outcome}");
        self.server.wait_status(&what, BOUND, |status| {
            let mut recycles = status.recycles.iter();
            recycles.find(|r| r.worker == slot && r.outcome == outcome).cloned()
        })
    }

    /// Waits for the last packet to be sent, then until `settled` says that all was accounted for.
    pub fn finish(&mut self, settled: impl Fn(&SessionStatus) -> bool) -> Result<SessionStatus> {
        let publisher = self.publisher.take().context("a publisher")?;
        let sent = publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))?;
        let publisher = sent.context("the publisher was disconnected")?;
        let last = self.wait_session("everything to be accounted for", settled)?;
        publisher.finish(BOUND)?;
        self.server.wait_no_sessions(BOUND)?;
        self.origin.wait_idle(BOUND)?;
        Ok(last)
    }
}
