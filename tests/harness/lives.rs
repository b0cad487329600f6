//! Several streams live at once through one server to one origin, some with an encoded rung and
//! some passed through, and what must hold of each when it has ended, whatever happened meanwhile.

use crate::child::Child;
use crate::fixture::Recipe;
use crate::flv::{Flv, check_payloads_identical};
use crate::origin::Origin;
use crate::passage::{BOUND, Expected, check_rendition};
use crate::publisher::{self, Pace};
use crate::server::{Rung, Server, Setup};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::status::{SessionStatus, Status};

/// The application that passes its source through and encodes nothing.
const PASSING: &str = "pass";
/// A stream is live for the tests once this many of its pictures were taken in.
const FRAMES_IN_MIN: u64 = 15;

/// How many streams of which kind. All have sound and go to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// With the source untouched, one encoded rung, and AAC that is encoded anew.
    pub encoded: u32,
    pub passed: u32,
}

impl Mix {
    /// Every third stream is encoded, and at least two.
    #[must_use]
    pub fn of(streams: u32) -> Self {
        let encoded = (streams / 3).max(2).min(streams);
        Self { encoded, passed: streams - encoded }
    }

    #[must_use]
    pub fn streams(self) -> u32 {
        self.encoded + self.passed
    }

    /// Makes the sources of so long streams, if they were never made: that may take minutes.
    pub fn make_sources(self, seconds: u32) -> Result<()> {
        (0..self.streams()).try_for_each(|at| source(at, seconds).file().map(drop))
    }

    /// A server that serves them: `live` for the encoded ones, and one application for the others.
    #[must_use]
    pub fn setup(self, origin: &Origin) -> Setup {
        let port = origin.port();
        let passing = format!(
            "[apps.{PASSING}]\n[[apps.{PASSING}.rungs]]\nlabel = \"source\"\nsource = true\n\
             [[apps.{PASSING}.push]]\nurl = \"rtmp://127.0.0.1:{port}/live/{{name}}_{{rung}}\"\n\n"
        );
        Setup {
            streams_per_worker: Some(self.streams().max(1)),
            rungs: Some(vec![Rung::Source, Rung::encoded(72, 150)]),
            audio: Some("aac"),
            origin_port: Some(port),
            tables: passing,
            ..Setup::default()
        }
    }
}

fn source(at: u32, seconds: u32) -> Recipe {
    Recipe { gop: 30, b_frames: 2 * (at % 2), ..Recipe::small(seconds) }
}

/// Streams that are being published, all of one length.
#[derive(Debug)]
pub struct Lives {
    streams: Vec<Stream>,
    accepts_before: u64,
    until: Instant,
}

#[derive(Debug)]
struct Stream {
    name: String,
    recipe: Recipe,
    rungs: Vec<Rung>,
    publisher: Child,
}

impl Lives {
    /// Publishes `prefix0`, `prefix1`, … for so long; returns when all are live. Every other
    /// source has B-frames. While this lasts nobody else may push to the origin.
    pub fn publish(
        directory: &Path,
        prefix: &str,
        mix: Mix,
        seconds: u32,
        (server, origin): (&mut Server, &Origin),
    ) -> Result<Self> {
        mix.make_sources(seconds)?;
        let accepts_before = origin.accepts()?;
        let until = clock::now() + Duration::from_secs(u64::from(seconds));
        let mut streams = Vec::new();
        for at in 0..mix.streams() {
            let recipe = source(at, seconds);
            let name = format!("{prefix}{at}");
            let is_encoded = at < mix.encoded;
            let app = if is_encoded { "live" } else { PASSING };
            let mut rungs = vec![Rung::Source];
            if is_encoded {
                rungs.push(Rung::encoded(72, 150));
            }
            let url = server.url_of(app, &name);
            let file = recipe.file()?;
            let publisher = publisher::ffmpeg(directory, &name, &file, &url, Pace::RealTime)?;
            streams.push(Stream { name, recipe, rungs, publisher });
        }
        let lives = Self { streams, accepts_before, until };
        server.wait_status("all streams to be live", BOUND, |status| {
            lives.streams.iter().all(|stream| stream.is_live(status)).then_some(())
        })?;
        Ok(lives)
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.streams.len()
    }

    #[must_use]
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(clock::now())
    }

    /// Fails, with what its publisher said, when one is not live in this status.
    pub fn must_be_live(&self, status: &Status) -> Result<()> {
        for stream in &self.streams {
            let found = status.sessions.iter().find(|session| session.name == stream.name);
            let state = found.map_or("gone", |session| session.state.as_str());
            ensure!(state == "live", "{} is {state}: {}", stream.name, stream.publisher.log());
        }
        Ok(())
    }

    /// Waits for the end of all of them and checks that nothing was lost: no publisher was
    /// disconnected or complained, the origin accepted each push once, and each rendition has every
    /// picture once and in order, times that rise, and its sound. How many pictures that were.
    pub fn finish(mut self, (server, origin): (&mut Server, &Origin)) -> Result<usize> {
        for stream in &mut self.streams {
            stream.publisher.finish(self.until.saturating_duration_since(clock::now()) + BOUND)?;
            let said = stream.publisher.log();
            ensure!(said.trim().is_empty(), "the publisher of {} says: {said}", stream.name);
        }
        server.wait_no_sessions(BOUND)?;
        origin.wait_idle(BOUND)?;
        let log = server.log();
        ensure!(!log.contains("panic"), "a process panicked:\n{log}");
        let accepts = origin.accepts()? - self.accepts_before;
        let pushes: usize = self.streams.iter().map(|stream| stream.rungs.len()).sum();
        let wanted = u64::try_from(pushes)?;
        ensure!(
            accepts == wanted,
            "the origin accepted {accepts} connections, {wanted} are enough"
        );
        let mut pictures = 0;
        for stream in &self.streams {
            pictures += stream.check(origin)?;
        }
        Ok(pictures)
    }
}

impl Stream {
    fn is_live(&self, status: &Status) -> bool {
        let is_encoded = self.rungs.len() > 1;
        let works = |session: &SessionStatus| {
            session.frames_in > FRAMES_IN_MIN && (!is_encoded || session.frames_out > 0)
        };
        status
            .sessions
            .iter()
            .any(|session| session.name == self.name && session.state == "live" && works(session))
    }

    /// The recordings are removed when they are whole: long runs make many.
    fn check(&self, origin: &Origin) -> Result<usize> {
        let expected = Expected::all_of(&self.recipe);
        let sent = Flv::read(&self.recipe.file()?)?;
        let mut pictures = 0;
        for rung in &self.rungs {
            let label = rung.label();
            let of = || format!("{label} of {}", self.name);
            let recording = origin.recording(&format!("{}_{label}", self.name))?;
            pictures += check_rendition(label, &recording, &expected).with_context(of)?.pictures;
            if *rung == Rung::Source {
                check_payloads_identical(&sent, &Flv::read(&recording)?).with_context(of)?;
            }
            fs::remove_file(recording)?;
        }
        Ok(pictures)
    }
}
