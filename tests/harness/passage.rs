//! A file's way from a publisher through the server to an origin, and what must hold of it.
//!
//! `./dev test` and `./dev soak` differ in the file they send, not in these checks.

use crate::child::Child;
use crate::fixture::{Audio, Recipe};
use crate::flv::{self, Flv, Kind};
use crate::frames::{self, check_exactly_once_in_order};
use crate::origin::Origin;
use crate::publisher::{self, Pace};
use crate::server::{Server, Setup};
use crate::{skew, wait};
use anyhow::{Context, Result, ensure};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;
use tasuki_shared::status::{RungStatus, SessionStatus};

/// What the file is published as.
pub const NAME: &str = "cam";
/// Longest wait for one thing that a busy machine may delay.
pub const BOUND: Duration = Duration::from_secs(60);

/// A finished publish.
#[derive(Debug)]
pub struct Passage {
    pub origin: Origin,
    /// As the status showed it last.
    pub session: SessionStatus,
    /// Everything the server logged.
    pub log: String,
}

/// What the pictures and the sound of a recording must be.
#[derive(Clone, Debug)]
pub struct Expected {
    pub numbers: RangeInclusive<u32>,
    pub fps: u32,
    pub audio: Audio,
}

impl Expected {
    /// Every frame of a recipe.
    #[must_use]
    pub fn all_of(recipe: &Recipe) -> Self {
        Self { numbers: 0..=recipe.frames() - 1, fps: recipe.fps, audio: recipe.audio }
    }
}

/// What was measured on one rendition.
#[derive(Clone, Debug)]
pub struct Rendition {
    pub label: String,
    pub streams: frames::Streams,
    pub pictures: usize,
    pub worst_skew_ms: Option<f64>,
}

/// Publishes the recipe's file with ffmpeg in real time.
pub fn of_recipe(run: &Path, recipe: &Recipe, setup: Setup) -> Result<Passage> {
    of_file(run, &recipe.file()?, setup)
}

/// Publishes a file with ffmpeg in real time.
pub fn of_file(run: &Path, file: &Path, setup: Setup) -> Result<Passage> {
    with(run, setup, |url| publisher::ffmpeg(run, "publisher", file, url, Pace::RealTime))
}

/// Publishes with `publish` to a server that pushes to an origin; returns when all has arrived.
pub fn with(
    run: &Path,
    setup: Setup,
    publish: impl FnOnce(&str) -> Result<Child>,
) -> Result<Passage> {
    let origin = Origin::start(run)?;
    let setup = Setup { origin_port: Some(origin.port()), ..setup };
    let mut server = Server::start(run, &setup)?;
    let mut publisher = publish(&server.url(NAME))?;
    let session = watch_to_the_end(&mut server, &mut publisher)?;
    publisher.finish(BOUND)?;
    server.wait_no_sessions(BOUND)?;
    origin.wait_idle(BOUND)?;
    let log = server.log();
    server.stop()?;
    Ok(Passage { origin, session, log })
}

/// The session as the status showed it last before the publisher ended.
pub fn watch_to_the_end(server: &mut Server, publisher: &mut Child) -> Result<SessionStatus> {
    let mut seen = None;
    wait::until("the publisher's end", BOUND, || {
        let ended = publisher.ended()?;
        let live = server.status()?.sessions.into_iter().find(|session| session.state == "live");
        seen = live.or(seen.take());
        Ok(ended)
    })?;
    let log = server.log();
    seen.with_context(|| format!("no session was ever live: {}\n{log}", publisher.log()))
}

impl Passage {
    /// One rung as the status showed it last.
    pub fn rung(&self, label: &str) -> Result<&RungStatus> {
        let found = self.session.rungs.iter().find(|rung| rung.label == label);
        found.with_context(|| format!("no rung {label} in {:?}", self.session.rungs))
    }

    /// Every rung that is not off must be at the origin, whole, with the `expected` pictures and
    /// sound; those that are off must not be there. Untouched rungs must hold the very packets
    /// of `sent`, if the publisher sends a file's packets as they are.
    pub fn check(&self, sent: Option<&Flv>, expected: &Expected) -> Result<Vec<Rendition>> {
        let mut found = Vec::new();
        for rung in &self.session.rungs {
            let stream = format!("{NAME}_{}", rung.label);
            if rung.state == "off" {
                let recordings = self.origin.recordings(&stream)?;
                ensure!(recordings.is_empty(), "{} is off, and was pushed", rung.label);
                continue;
            }
            ensure!(rung.frames > 0, "no frame of {}: {rung:?}", rung.label);
            let file = self.origin.recording(&stream)?;
            let rendition = check_rendition(&rung.label, &file, expected)
                .with_context(|| format!("{} of {:?}", rung.label, self.session))?;
            if rung.state == "passing" {
                if let Some(sent) = sent {
                    flv::check_payloads_identical(sent, &Flv::read(&file)?)
                        .with_context(|| rung.label.clone())?;
                }
            } else {
                ensure!(rung.state == "encoding", "{} is {}", rung.label, rung.state);
                let (width, height) = (usize::try_from(rung.width)?, usize::try_from(rung.height)?);
                let size = (rendition.streams.width, rendition.streams.height);
                ensure!(size == (width, height), "{} is {size:?}: {rung:?}", rung.label);
            }
            found.push(rendition);
        }
        ensure!(self.session.frames_out > 0, "nothing was encoded: {:?}", self.session);
        ensure!(!found.is_empty(), "no rendition");
        Ok(found)
    }
}

/// Numbers exactly once in order to the last, times that rise, picture and sound together, and a
/// decoder that has nothing to say.
pub fn check_rendition(label: &str, file: &Path, expected: &Expected) -> Result<Rendition> {
    let decoded = frames::decode(file)?;
    check_exactly_once_in_order(&decoded.numbers(), expected.numbers.clone())?;
    ensure!(decoded.errors.is_empty(), "the decoder complains: {:?}", decoded.errors);
    let recording = Flv::read(file)?;
    flv::check_dts_rising(&recording)?;
    let worst_skew_ms = match expected.audio {
        Audio::None => {
            ensure!(recording.coded(Kind::Audio).next().is_none(), "sound from nowhere");
            None
        }
        Audio::Beat { .. } => {
            let sound = frames::sound(file)?;
            ensure!(sound.errors.is_empty(), "the audio decoder complains: {:?}", sound.errors);
            let skew = skew::of_decoded(&decoded.pictures, &sound, expected.fps)?;
            skew.check_under(1000.0 / f64::from(expected.fps))?;
            Some(skew.worst_ms())
        }
        Audio::Glide { .. } => {
            let sound = frames::sound(file)?;
            ensure!(sound.errors.is_empty(), "the audio decoder complains: {:?}", sound.errors);
            None
        }
    };
    Ok(Rendition {
        label: label.to_owned(),
        streams: frames::streams(file)?,
        pictures: decoded.pictures.len(),
        worst_skew_ms,
    })
}
