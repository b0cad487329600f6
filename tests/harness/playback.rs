//! Tasuki's own player in a real Chromium at the live edge, while the stream moves, its workers are
//! killed and delivery dies.
//!
//! `./dev test` and `./dev soak browser` differ in the counts, not in these checks.

use crate::browser::{Browser, Look};
use crate::chance::Chance;
use crate::fixture::Recipe;
use crate::ownership;
use crate::pages::Pages;
use crate::passage::{BOUND, NAME};
use crate::place;
use crate::publisher::{self, Pace};
use crate::server::{Rung, Server, Setup};
use crate::shown::{self, Freeze, Picture, Want};
use crate::{viewer, wait};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::message::Haste;
use tasuki_shared::status::{Reply, Request};

/// The player has found its distance to the edge when it is so near.
const EDGE_MS_MAX: f64 = 800.0;
/// It never jumps there, and on a busy machine it begins far from it.
const SETTLE_BOUND: Duration = Duration::from_secs(60);
/// What a disturbance does is seen by then.
const AFTERMATH: Duration = Duration::from_millis(1_800);
/// Of freeze, for a planned move, in which the browser had the next picture and showed it late: a
/// picture of 30 a second for one turn more. What it does while nothing is done is told beside it.
const MOVE_LATE_MS_MAX: f64 = 35.0;
/// Of freeze at the live edge, for a worker's death.
const KILL_FREEZE_MS_MAX: f64 = 200.0;

/// What happens while the player plays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Half of them urgent.
    pub moves: u32,
    pub kills: u32,
    /// Times in between in which nothing is done, to compare with.
    pub quiet: u32,
    /// Ends of delivery, half of them by SIGKILL and half by SIGTERM.
    pub deliveries: u32,
    /// Pictures of the page, in the run directory.
    pub shots: Shots,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shots {
    #[default]
    None,
    Kept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disturbance {
    Move,
    UrgentMove,
    Nothing,
    Kill,
    DeliveryKilled,
    DeliveryEnded,
}

/// What was seen of one disturbance.
#[derive(Clone, Debug)]
pub struct Aftermath {
    pub what: Disturbance,
    /// Freezes that began in its time.
    pub freezes: Vec<Freeze>,
}

/// What was seen of all.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    pub aftermaths: Vec<Aftermath>,
    /// In the time before the first.
    pub undisturbed: Vec<Freeze>,
    pub pictures: usize,
    pub longest_step: f64,
    /// `window.player` at the end.
    pub player: Value,
}

/// Where the player's page is: the console's files as they are built.
pub fn pages_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/console/dist")
}

/// Plays, disturbs, and checks what the viewer saw.
pub fn run(directory: &Path, plan: Plan, chance: &mut Chance) -> Result<Watched> {
    let work = disturbances(plan, chance);
    let seconds = 40 + work.len() * 5 / 2 + usize::try_from(plan.deliveries)? * 2;
    let recipe = Recipe { gop: 30, ..Recipe::small(u32::try_from(seconds)?) };
    let setup = Setup {
        workers: Some(2),
        rungs: Some(vec![Rung::encoded(72, 150)]),
        audio: Some("aac"),
        tables: viewer::tables(directory, "1m"),
        worker_lines: "standby = 2\nrestart_backoff_first = \"10ms\"\nrestart_intensity = 1000"
            .into(),
        ..Setup::default()
    };
    let mut server = Server::start(directory, &setup)?;
    let viewers = server.viewers()?;
    let pages = Pages::serve(&[&pages_directory()])?;
    let file = recipe.file()?;
    let mut browser = Browser::start(directory, "chromium")?;
    let url = server.url(NAME);
    let mut publisher = publisher::ffmpeg(directory, "publisher", &file, &url, Pace::RealTime)?;
    server.wait_live(NAME, BOUND)?;
    browser.show_as(Look::DESKTOP)?;
    browser.before_pages(shown::SCRIPT)?;
    browser.navigate(
        &pages.url(&format!("player.html?src=http://{viewers}/live/live/{NAME}/index.m3u8")),
    )?;
    wait::until("the player to play", BOUND, || {
        let time = browser.evaluate("window.player ? window.player.currentTime : 0")?;
        let pictures = browser.evaluate("window.shown.pictures.length")?.as_u64().unwrap_or(0);
        Ok((time.as_f64().unwrap_or(0.0) > 0.0 && pictures > 10).then_some(()))
    })?;
    wait::until("the player to be near the edge", SETTLE_BOUND, || {
        let latency_ms = browser.evaluate("window.player.latencyMs")?.as_f64();
        Ok(latency_ms.is_some_and(|ms| ms < EDGE_MS_MAX).then_some(()))
    })?;
    shots(&mut browser, directory, plan.shots)?;
    let began_ms = unix_ms();
    let stalls = browser.evaluate("window.player.stalls")?.as_u64().unwrap_or(0);
    let mut times = Vec::new();
    clock::pause(AFTERMATH);
    for what in work {
        times.push((what, unix_ms()));
        disturb(&mut server, &mut browser, what).with_context(|| format!("{what:?}"))?;
        clock::pause(AFTERMATH);
        publisher.must_run().context("the stream was too short for all that")?;
        must_go_on(&mut browser).with_context(|| format!("after {what:?}"))?;
    }
    let ended_ms = unix_ms();
    let notes = browser.evaluate(shown::NOTES)?;
    let mut player = browser.evaluate("({...window.player})")?;
    // Those of its beginning are its own affair.
    if let Some(errors) = player["errors"].as_array_mut() {
        errors.retain(|error| error["unix_ms"].as_f64().is_some_and(|at_ms| at_ms >= began_ms));
    }
    player["stalls"] = json!(player["stalls"].as_u64().unwrap_or(0).saturating_sub(stalls));
    drop(browser);
    publisher.kill()?;
    server.stop()?;
    let mut pictures = shown::pictures(&notes)?;
    pictures.retain(|picture| (began_ms..ended_ms).contains(&picture.at_ms));
    Ok(watched(&pictures, &times, player, 1000.0 / f64::from(recipe.fps)))
}

impl Watched {
    /// What must hold, whatever was done.
    pub fn check(&self) -> Result<()> {
        let player = &self.player;
        let whole = || format!("{}\n{player:#}", self.summary());
        ensure!(player["discontinuities"] == 0, "discontinuities: {}", whole());
        let errors = player["errors"].as_array().context("errors")?;
        let is_media = |error: &&Value| {
            let is_stall = error["details"] == "bufferStalledError";
            error["fatal"] == true || (error["type"] == "mediaError" && !is_stall)
        };
        ensure!(errors.iter().filter(is_media).count() == 0, "media errors: {}", whole());
        for Aftermath { what, freezes } in &self.aftermaths {
            let frozen_ms: f64 = freezes.iter().map(|freeze| freeze.ms).sum();
            match what {
                Disturbance::Move | Disturbance::UrgentMove | Disturbance::Nothing => {
                    let wanted = freezes.iter().any(|freeze| freeze.want == Want::Media);
                    ensure!(!wanted && frozen_ms <= MOVE_LATE_MS_MAX, "{what:?}: {}", whole());
                }
                Disturbance::Kill => {
                    ensure!(frozen_ms <= KILL_FREEZE_MS_MAX, "{frozen_ms} ms frozen: {}", whole());
                }
                // It plays on, which was looked at at once.
                Disturbance::DeliveryKilled | Disturbance::DeliveryEnded => {}
            }
        }
        let disturbs = |what: Disturbance| self.aftermaths.iter().any(|it| it.what == what);
        let may_stall = disturbs(Disturbance::Kill)
            || disturbs(Disturbance::DeliveryKilled)
            || disturbs(Disturbance::DeliveryEnded);
        ensure!(may_stall || player["stalls"] == 0, "stalls: {}", whole());
        Ok(())
    }

    #[must_use]
    pub fn summary(&self) -> String {
        let mut lines = vec![format!(
            "{} pictures, longest step {:.1} frames, {} undisturbed freezes; stalls {}, errors {}, \
             discontinuities {}, latency {} ms, dropped {}",
            self.pictures,
            self.longest_step,
            self.undisturbed.len(),
            self.player["stalls"],
            self.player["errors"].as_array().map_or(0, Vec::len),
            self.player["discontinuities"],
            self.player["latencyMs"],
            self.player["dropped"],
        )];
        let mut by_kind: BTreeMap<Disturbance, Vec<&[Freeze]>> = BTreeMap::new();
        for Aftermath { what, freezes } in &self.aftermaths {
            by_kind.entry(*what).or_default().push(freezes);
        }
        for (what, aftermaths) in by_kind {
            let sum = |freezes: &&[Freeze]| freezes.iter().map(|freeze| freeze.ms).sum::<f64>();
            let most = aftermaths.iter().map(sum).fold(0.0, f64::max);
            let times = aftermaths.iter().filter(|freezes| !freezes.is_empty()).count();
            let wants = |freeze: &&Freeze| freeze.want == Want::Media;
            let wanted = aftermaths.iter().copied().flatten().filter(wants).count();
            lines.push(format!(
                "{what:?}: {} times, frozen {times} times, at most {most:.0} ms; {wanted} freezes for \
                 want of media",
                aftermaths.len()
            ));
        }
        lines.join("\n")
    }
}

fn watched(
    pictures: &[Picture],
    times: &[(Disturbance, f64)],
    player: Value,
    frame_ms: f64,
) -> Watched {
    let freezes = shown::freezes(pictures, frame_ms);
    let first = times.first().map_or(f64::INFINITY, |(_, at_ms)| *at_ms);
    let of = |at: usize, (what, from_ms): &(Disturbance, f64)| {
        let to_ms = times.get(at + 1).map_or(f64::INFINITY, |(_, at_ms)| *at_ms);
        let its = freezes.iter().filter(|it| it.at_ms >= *from_ms && it.at_ms < to_ms);
        Aftermath { what: *what, freezes: its.copied().collect() }
    };
    Watched {
        aftermaths: times.iter().enumerate().map(|(at, time)| of(at, time)).collect(),
        undisturbed: freezes.iter().filter(|it| it.at_ms < first).copied().collect(),
        pictures: pictures.len(),
        longest_step: shown::longest_step(pictures, frame_ms),
        player,
    }
}

/// In any order.
fn disturbances(plan: Plan, chance: &mut Chance) -> Vec<Disturbance> {
    let alternating = |count: u32, even: Disturbance, odd: Disturbance| {
        (0..count).map(move |at| if at % 2 == 0 { even } else { odd })
    };
    let mut all: Vec<Disturbance> =
        alternating(plan.moves, Disturbance::UrgentMove, Disturbance::Move)
            .chain(alternating(plan.kills, Disturbance::Kill, Disturbance::Kill))
            .chain(alternating(plan.quiet, Disturbance::Nothing, Disturbance::Nothing))
            .chain(alternating(
                plan.deliveries,
                Disturbance::DeliveryKilled,
                Disturbance::DeliveryEnded,
            ))
            .collect();
    for at in (1..all.len()).rev() {
        let most = u64::try_from(at).unwrap_or(0);
        let with = usize::try_from(chance.between(0..=most)).unwrap_or(0);
        all.swap(at, with);
    }
    all
}

fn disturb(server: &mut Server, browser: &mut Browser, what: Disturbance) -> Result<()> {
    match what {
        Disturbance::Move => move_it(server, Haste::Scheduled),
        Disturbance::UrgentMove => move_it(server, Haste::Now),
        Disturbance::Nothing => Ok(()),
        Disturbance::Kill => {
            let session = server.wait_live(NAME, BOUND)?;
            let status = server.status()?;
            let owner = ownership::worker_of(&status, &session).context("its owner")?;
            Ok(kill(Pid::from_raw(owner.pid), Signal::SIGKILL)?)
        }
        Disturbance::DeliveryKilled => end_delivery(server, browser, Signal::SIGKILL),
        Disturbance::DeliveryEnded => end_delivery(server, browser, Signal::SIGTERM),
    }
}

fn move_it(server: &mut Server, haste: Haste) -> Result<()> {
    let session = server.wait_live(NAME, BOUND)?.id;
    let reply = server.request(&Request::Move { session, haste })?;
    let Reply::Moved(moved) = reply else { bail!("{reply:?}") };
    ensure!(moved.outcome == "done", "{moved:?}");
    Ok(())
}

/// And waits until another one serves.
fn end_delivery(server: &mut Server, browser: &mut Browser, signal: Signal) -> Result<()> {
    let delivery = |server: &mut Server, but: i32| {
        server.wait_status("a delivery process", BOUND, |status| {
            let found = status.workers.iter().find(|it| it.role == "delivery" && it.pid != but)?;
            (found.pid != 0 && found.state == "serving").then_some(found.pid)
        })
    };
    let pid = delivery(server, 0)?;
    let before = browser.evaluate("window.shown.pictures.length")?.as_u64().unwrap_or(0);
    kill(Pid::from_raw(pid), signal)?;
    delivery(server, pid)?;
    wait::until("the player to play on", BOUND, || {
        let now = browser.evaluate("window.shown.pictures.length")?.as_u64().unwrap_or(0);
        // What was buffered is shown by then.
        Ok((now > before + 45).then_some(()))
    })
}

/// Pictures come, and time goes on.
fn must_go_on(browser: &mut Browser) -> Result<()> {
    let look = "[window.player.currentTime, window.shown.pictures.length]";
    let before = browser.evaluate(look)?;
    wait::until("the picture to go on", BOUND, || {
        let now = browser.evaluate(look)?;
        let grew = |at: usize| now[at].as_f64() > before[at].as_f64();
        Ok((grew(0) && grew(1)).then_some(()))
    })
}

fn shots(browser: &mut Browser, directory: &Path, shots: Shots) -> Result<()> {
    if shots == Shots::None {
        return Ok(());
    }
    let into = place::target_directory()?.join("screenshots");
    std::fs::create_dir_all(&into)?;
    for (name, look) in [("desktop", Look::DESKTOP), ("phone", Look::PHONE), ("dark", Look::DARK)] {
        browser.show_as(look)?;
        for place in [directory, into.as_path()] {
            browser.screenshot(&place.join(format!("player-{name}.png")))?;
        }
    }
    browser.show_as(Look::DESKTOP)
}

fn unix_ms() -> f64 {
    clock::unix_ms() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream of five seconds at 40 ms, in which at two seconds a picture stands for so long.
    fn seen(stands_ms: f64, ahead_ms: f64) -> Vec<Picture> {
        let picture = |number: u32| {
            let media_ms = f64::from(number) * 40.0;
            let late_ms = if media_ms > 2_000.0 { stands_ms } else { 0.0 };
            Picture { at_ms: media_ms + late_ms, media_ms, number: None, ahead_ms }
        };
        (0..125).map(picture).collect()
    }

    fn player() -> Value {
        json!({ "stalls": 0, "errors": [], "discontinuities": 0, "dropped": 0, "latencyMs": 450 })
    }

    #[test]
    fn a_frozen_picture_is_blamed_on_what_happened_before_it() {
        let check_with = |what, stands_ms, ahead_ms, frame_ms| {
            let times = [(Disturbance::Move, 500.0), (what, 1_900.0)];
            watched(&seen(stands_ms, ahead_ms), &times, player(), frame_ms).check().is_ok()
        };
        let check = |what, stands_ms| check_with(what, stands_ms, 40.0, 40.0);
        assert!(check(Disturbance::Move, 0.0));
        assert!(!check(Disturbance::Move, 80.0));
        assert!(!check(Disturbance::UrgentMove, 80.0));
        // A turn of the screen late, with the picture there, and without.
        assert!(check_with(Disturbance::Move, 34.0, 300.0, 33.3));
        assert!(!check_with(Disturbance::Move, 34.0, 40.0, 33.3));
        assert!(!check_with(Disturbance::Move, 67.0, 300.0, 33.3));
        assert!(check(Disturbance::Kill, 180.0));
        assert!(!check(Disturbance::Kill, 220.0));
        assert!(check(Disturbance::DeliveryKilled, 220.0));
    }

    #[test]
    fn what_the_player_says_counts() {
        let check = |player: Value| {
            watched(&seen(0.0, 300.0), &[(Disturbance::Move, 500.0)], player, 40.0).check().is_ok()
        };
        let with = |name: &str, value: Value| {
            let mut player = player();
            player[name] = value;
            player
        };
        assert!(check(player()));
        assert!(!check(with("stalls", json!(1))));
        assert!(!check(with("discontinuities", json!(1))));
        let error =
            json!([{ "type": "mediaError", "details": "bufferAppendError", "fatal": false }]);
        assert!(!check(with("errors", error)));
        let fatal = json!([{ "type": "networkError", "details": "x", "fatal": true }]);
        assert!(!check(with("errors", fatal)));
    }
}
