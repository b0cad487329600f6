//! shaka-player as it is, in a real Chromium in its low-latency mode.

use super::install::Installed;
use crate::browser::Browser;
use crate::pages::Pages;
use crate::passage::BOUND;
use crate::shown::{self, Picture};
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tasuki_shared::clock;

/// It has found its place by then; what it did before is its own affair.
const BEGIN_PICTURES: u64 = 60;
/// So long it may stand behind a clock over the whole run: its own small changes of speed.
const BEHIND_MS_MAX: f64 = 1_000.0;
/// Of the pictures that were sent meanwhile, so many percent must have been seen and read.
const SEEN_PERCENT_MIN: f64 = 90.0;
/// A stop of the publisher is felt long before.
const STALL_BOUND: Duration = Duration::from_secs(20);
const LOOK: &str = "({time: document.querySelector('video').currentTime, \
    pictures: window.shown.pictures.length, bufferings: window.player.bufferings, \
    stats: window.player.stats(), errors: window.player.errors})";

/// The player while it plays.
#[derive(Debug)]
pub struct Shaka<'a> {
    browser: Browser,
    pages: Pages,
    broken: &'a Path,
    began: Now,
}

/// What the page says of one moment.
#[derive(Clone, Debug)]
struct Now {
    at_ms: f64,
    time_ms: f64,
    pictures: usize,
    bufferings: u64,
    stalls: u64,
    latency_s: f64,
    errors: Value,
}

/// What was seen of a run.
#[derive(Clone, Debug)]
pub struct Seen {
    /// By the clock, and of the media.
    pub wall_ms: f64,
    pub played_ms: f64,
    pub pictures: usize,
    pub numbers: Vec<u32>,
    pub stalls: u64,
    pub bufferings: u64,
    pub latency_s: f64,
    pub errors: Value,
}

impl<'a> Shaka<'a> {
    /// Plays `source`, and returns when it plays. `broken` holds what it shall not be able to play.
    pub fn start(
        run: &Path,
        installed: &Installed,
        source: &str,
        broken: &'a Path,
    ) -> Result<Self> {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/browser");
        let pages = Pages::serve(&[&page, &installed.shaka(), broken])?;
        let mut browser = Browser::start(run, "shaka")?;
        browser.before_pages(&format!("{}\nwindow.shown.readsNumbers = true;", shown::SCRIPT))?;
        browser.navigate(&pages.url(&format!("shaka.html?src={source}")))?;
        wait::until("shaka-player to play", BOUND, || {
            let pictures = browser.evaluate("window.shown.pictures.length")?;
            Ok((pictures.as_u64() >= Some(BEGIN_PICTURES)).then_some(()))
        })
        .with_context(|| told(&mut browser))?;
        let began = now(&mut browser)?;
        Ok(Self { browser, pages, broken, began })
    }

    /// Waits until so much time has passed since it began, and says what was seen in it.
    pub fn play_for(&mut self, seconds: u32) -> Result<Seen> {
        let wanted_ms = f64::from(seconds) * 1000.0;
        let bound = Duration::from_secs(u64::from(seconds)) + BOUND;
        let ended = wait::until("the time to pass", bound, || {
            let now = now(&mut self.browser)?;
            Ok((now.at_ms - self.began.at_ms >= wanted_ms).then_some(now))
        })?;
        let pictures = shown::pictures(&self.browser.evaluate(shown::NOTES)?)?;
        let since = pictures.get(self.began.pictures..ended.pictures);
        Ok(seen(&self.began, ended, since.context("pictures went missing")?))
    }

    /// A publisher that is held must be seen as a stall.
    pub fn must_stall(&mut self) -> Result<()> {
        let before = now(&mut self.browser)?;
        wait::until("shaka-player to stall", STALL_BOUND, || {
            let now = now(&mut self.browser)?;
            Ok((now.bufferings + now.stalls > before.bufferings + before.stalls).then_some(()))
        })
    }

    /// A multivariant playlist that is none must be an error.
    pub fn must_refuse(&mut self, multivariant: &str) -> Result<()> {
        let text = multivariant.replace("#EXTM3U\n", "");
        std::fs::write(self.broken.join("broken.m3u8"), text)?;
        let source = self.pages.url("broken.m3u8");
        self.browser.navigate(&self.pages.url(&format!("shaka.html?src={source}")))?;
        wait::until("an error of shaka-player", BOUND, || {
            let errors =
                self.browser.evaluate("window.player ? window.player.errors.length : 0")?;
            Ok((errors.as_u64() > Some(0)).then_some(()))
        })
    }
}

impl Seen {
    /// It played on as if nothing had happened.
    pub fn check(&self, fps: u32) -> Result<()> {
        let summary = || self.summary();
        ensure!(self.errors.as_array().is_some_and(Vec::is_empty), "errors: {}", self.errors);
        ensure!(self.stalls == 0 && self.bufferings == 0, "it stood still: {}", summary());
        ensure!(self.wall_ms - self.played_ms <= BEHIND_MS_MAX, "it fell behind: {}", summary());
        ensure!(self.numbers.is_sorted(), "pictures went back: {:?}", self.numbers);
        let first = self.numbers.first().context("no number was read")?;
        let last = self.numbers.last().context("no number was read")?;
        let sent = self.wall_ms / 1000.0 * f64::from(fps);
        let advanced = f64::from(last - first);
        ensure!(advanced >= sent * SEEN_PERCENT_MIN / 100.0, "{advanced} of {sent}: {}", summary());
        let mut distinct = self.numbers.clone();
        distinct.dedup();
        let percent = distinct.len() as f64 / sent * 100.0;
        ensure!(percent >= SEEN_PERCENT_MIN, "{percent:.0} % were seen: {}", summary());
        Ok(())
    }

    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{:.1} s played in {:.1} s, {} pictures, numbers {:?} to {:?}, {} stalls, {} bufferings, \
             {:.2} s behind live",
            self.played_ms / 1000.0,
            self.wall_ms / 1000.0,
            self.pictures,
            self.numbers.first(),
            self.numbers.last(),
            self.stalls,
            self.bufferings,
            self.latency_s,
        )
    }
}

fn seen(began: &Now, ended: Now, pictures: &[Picture]) -> Seen {
    Seen {
        wall_ms: ended.at_ms - began.at_ms,
        played_ms: ended.time_ms - began.time_ms,
        pictures: pictures.len(),
        numbers: pictures.iter().filter_map(|picture| picture.number).collect(),
        stalls: ended.stalls - began.stalls,
        bufferings: ended.bufferings - began.bufferings,
        latency_s: ended.latency_s,
        errors: ended.errors,
    }
}

fn now(browser: &mut Browser) -> Result<Now> {
    let look = browser.evaluate(LOOK)?;
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    Ok(Now {
        at_ms: clock::unix_ms() as f64,
        time_ms: look["time"].as_f64().context("no time")? * 1000.0,
        pictures: usize::try_from(count(&look["pictures"]))?,
        bufferings: count(&look["bufferings"]),
        stalls: count(&look["stats"]["stallsDetected"]),
        latency_s: look["stats"]["liveLatency"].as_f64().unwrap_or(f64::NAN),
        errors: look["errors"].clone(),
    })
}

fn told(browser: &mut Browser) -> String {
    browser.evaluate(LOOK).map_or_else(|error| format!("{error:#}"), |look| look.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn steady() -> Seen {
        Seen {
            wall_ms: 2_000.0,
            played_ms: 2_000.0,
            pictures: 60,
            numbers: (100..160).collect(),
            stalls: 0,
            bufferings: 0,
            latency_s: 1.0,
            errors: json!([]),
        }
    }

    #[test]
    fn nothing_that_a_viewer_would_notice_passes() {
        steady().check(30).unwrap();
        for change in [
            |seen: &mut Seen| seen.errors = json!([{ "code": 1001 }]),
            |seen: &mut Seen| seen.stalls = 1,
            |seen: &mut Seen| seen.bufferings = 1,
            |seen: &mut Seen| seen.played_ms = 900.0,
            |seen: &mut Seen| seen.numbers.clear(),
            |seen: &mut Seen| seen.numbers.swap(10, 20),
            |seen: &mut Seen| seen.numbers.truncate(40),
            |seen: &mut Seen| seen.numbers.retain(|number| number % 2 == 0 || *number == 159),
        ] {
            let mut seen = steady();
            change(&mut seen);
            assert!(seen.check(30).is_err(), "{}", seen.summary());
        }
    }
}
