//! What most whole-system tests set up: an origin that records, a server that pushes a source rung
//! and one small encoded rung to it, and a fixture to publish.

use crate::fixture::Recipe;
use crate::flv::{Flv, Kind, Tag};
use crate::frames::{self, check_exactly_once_in_order};
use crate::origin::Origin;
use crate::raw_publisher::RawPublisher;
use crate::server::{Rung, Server, Setup};
use anyhow::{Context, Result, ensure};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tasuki_shared::status::SessionStatus;

/// Bound of everything that is waited for.
pub const BOUND: Duration = Duration::from_secs(60);
/// Chunk size of publishers that test something else.
pub const CHUNK_SIZE: u32 = 4096;
/// Label of the encoded rung.
pub const SMALL: &str = "72p";

#[derive(Debug)]
pub struct Scene {
    pub origin: Origin,
    pub server: Server,
    pub recipe: Recipe,
    pub source: Flv,
}

/// The ladder of a scene.
#[must_use]
pub fn ladder() -> Vec<Rung> {
    vec![Rung::Source, Rung::encoded(72, 150)]
}

impl Scene {
    /// Starts everything in `run`; `adjust` changes the configuration.
    pub fn start(run: &Path, recipe: Recipe, adjust: impl FnOnce(&mut Setup)) -> Result<Self> {
        let source = Flv::read(&recipe.file()?)?;
        let origin = Origin::start(run)?;
        let mut setup = Setup {
            workers: Some(1),
            rungs: Some(ladder()),
            origin_port: Some(origin.port()),
            ..Setup::default()
        };
        adjust(&mut setup);
        let server = Server::start(run, &setup)?;
        Ok(Self { origin, server, recipe, source })
    }

    /// A publisher whose publish was accepted.
    pub fn publish(&self, key: &str) -> Result<RawPublisher> {
        RawPublisher::publish(self.server.address(), key, CHUNK_SIZE)
    }

    /// The fixture's metadata and sequence headers.
    #[must_use]
    pub fn headers(&self) -> Vec<Tag> {
        self.source.tags.iter().filter(|tag| tag.is_header()).cloned().collect()
    }

    /// Waits until so many video packets of a live stream were received.
    pub fn wait_received(&mut self, name: &str, frames: u64) -> Result<SessionStatus> {
        let what = format!("{frames} frames of {name} to arrive");
        self.server.wait_status(&what, BOUND, |status| {
            let session = status.sessions.iter().find(|session| session.name == name)?;
            (session.state == "live" && session.frames_in >= frames).then(|| session.clone())
        })
    }

    /// Waits until so many frames are through the pipeline.
    pub fn wait_encoded(&mut self, name: &str, frames: u64) -> Result<SessionStatus> {
        let what = format!("{frames} frames of {name} to be encoded");
        self.server.wait_status(&what, BOUND, |status| {
            let session = status.sessions.iter().find(|session| session.name == name)?;
            (session.state == "live" && session.frames_out >= frames).then(|| session.clone())
        })
    }

    /// Waits until nothing is published, neither here nor at the origin.
    pub fn settle(&mut self) -> Result<()> {
        self.server.wait_no_sessions(BOUND)?;
        self.origin.wait_idle(BOUND)
    }

    /// What the origin recorded of a rendition.
    pub fn recording(&self, name: &str, rung: &str) -> Result<PathBuf> {
        self.origin.recording(&format!("{name}_{rung}"))
    }

    /// Both renditions hold these frames, each once and in order, and ffmpeg has nothing to say.
    pub fn check_both(&self, name: &str, frames: RangeInclusive<u32>) -> Result<()> {
        for rung in ["source", SMALL] {
            check_frames(&self.recording(name, rung)?, frames.clone())?;
        }
        Ok(())
    }
}

/// Exactly these frames, in order, decoded in silence, with stamps that never go back.
pub fn check_frames(file: &Path, frames: RangeInclusive<u32>) -> Result<()> {
    let decoded = frames::decode(file)?;
    let context = || format!("in {}", file.display());
    check_exactly_once_in_order(&decoded.numbers(), frames).with_context(context)?;
    ensure!(decoded.errors.is_empty(), "{:?} in {}", decoded.errors, file.display());
    check_monotonic(&Flv::read(file)?).with_context(context)
}

/// Video stamps rise, audio stamps do not fall.
pub fn check_monotonic(flv: &Flv) -> Result<()> {
    for (kind, least) in [(Kind::Video, 1), (Kind::Audio, 0)] {
        let times: Vec<u32> = flv.coded(kind).map(|tag| tag.dts_ms).collect();
        for (position, pair) in times.windows(2).enumerate() {
            ensure!(
                pair[1] >= pair[0] + least,
                "{kind:?} {}: {} ms follows {} ms",
                position + 1,
                pair[1],
                pair[0]
            );
        }
    }
    Ok(())
}

/// How often a session met a fault.
#[must_use]
pub fn fault(session: &SessionStatus, name: &str) -> u64 {
    session.faults.get(name).copied().unwrap_or(0)
}

/// A fault must have been counted, at least so often.
pub fn check_fault(session: &SessionStatus, name: &str, least: u64) -> Result<()> {
    let count = fault(session, name);
    ensure!(count >= least, "{name} was counted {count} times of {least}: {:?}", session.faults);
    Ok(())
}

/// Whether a tag is a coded picture.
#[must_use]
pub fn is_picture(tag: &Tag) -> bool {
    tag.kind == Kind::Video && !tag.is_header()
}

/// Whether a tag is coded sound.
#[must_use]
pub fn is_sound(tag: &Tag) -> bool {
    tag.kind == Kind::Audio && !tag.is_header()
}
