//! Glass to glass: from a frame's being sent by its publisher to its being seen in a real Chromium,
//! by the number that is burnt into it. Tasuki's player beside hls.js as it is, on the same stream.

use anyhow::{Context, Result, anyhow, ensure};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_tests::browser::Browser;
use tasuki_tests::fixture::{Audio, Recipe};
use tasuki_tests::flv::{Flv, Kind};
use tasuki_tests::pages::Pages;
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::RunDirectory;
use tasuki_tests::playback::pages_directory;
use tasuki_tests::raw_publisher::RawPublisher;
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::shown::{self, Picture};
use tasuki_tests::{named, viewer, wait};

/// A player finds its distance to the edge.
const SETTLE_SECONDS: u32 = 30;
/// The server, two browsers, and what a player needs to begin.
const MARGIN_SECONDS: u32 = 30;
const CHUNK_BYTES: u32 = 65_536;
/// Of the frames sent meanwhile, so many percent may be unseen or unreadable in a sound run.
const UNSEEN_PERCENT_MAX: usize = 10;

pub fn run(arguments: &[String]) -> Result<()> {
    let seconds = named::number(arguments, "seconds", 60)?;
    let players = players();
    let count = u32::try_from(players.len())?;
    let recipe = Recipe {
        width: 1280,
        height: 720,
        seconds: count * (seconds + SETTLE_SECONDS) + MARGIN_SECONDS,
        video_kbps: 2500,
        audio: Audio::Beat { kbps: 128 },
        ..Recipe::full_hd(0)
    };
    let flv = Flv::read(&recipe.file()?)?;
    let run = RunDirectory::new("bench-watch")?;
    let setup = Setup {
        workers: Some(1),
        rungs: Some(vec![Rung::encoded(360, 800)]),
        audio: Some("aac"),
        tables: viewer::tables(run.path(), "1m"),
        ..Setup::default()
    };
    let mut server = Server::start(run.path(), &setup)?;
    let viewers = server.viewers()?;
    let sent: Arc<Mutex<Vec<f64>>> = Arc::default();
    let ending = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (sent, ending) = (Arc::clone(&sent), Arc::clone(&ending));
        let address = server.address().to_owned();
        thread::spawn(move || publish(&address, &flv, &sent, &ending))
    };
    server.wait_live(NAME, BOUND)?;
    println!("720p30, 2.5 Mb/s, seen as 360p at 0.8 Mb/s; {seconds} s for each player");
    for Player { name, page, directories } in players {
        let directories: Vec<&Path> = directories.iter().map(PathBuf::as_path).collect();
        let pages = Pages::serve(&directories)?;
        let mut browser = Browser::start(run.path(), &name.replace('.', "-"))?;
        browser.before_pages(&format!("{}\nwindow.shown.readsNumbers = true;", shown::SCRIPT))?;
        let source = format!("http://{viewers}/live/live/{NAME}/index.m3u8");
        browser.navigate(&pages.url(&format!("{page}?src={source}")))?;
        wait::until("the player to play", BOUND, || {
            let pictures = browser.evaluate("window.shown.pictures.length")?;
            Ok((pictures.as_u64().unwrap_or(0) > 10).then_some(()))
        })?;
        clock::pause(Duration::from_secs(SETTLE_SECONDS.into()));
        let from = browser.evaluate("window.shown.pictures.length")?.as_u64().unwrap_or(0);
        clock::pause(Duration::from_secs(seconds.into()));
        let pictures = shown::pictures(&browser.evaluate(shown::NOTES)?)?;
        let player = browser.evaluate("window.player")?;
        drop(browser);
        let pictures = pictures.get(usize::try_from(from)?..).context("pictures went missing")?;
        let sent = sent.lock().map_err(|_| anyhow!("the publisher panicked"))?.clone();
        let mut latencies = latencies(pictures, &sent);
        let expected = usize::try_from(seconds * recipe.fps)?;
        ensure!(
            latencies.len() * 100 >= expected * (100 - UNSEEN_PERCENT_MAX),
            "{name}: {} of {expected} frames were seen and read: the run is void",
            latencies.len()
        );
        latencies.sort_by(f64::total_cmp);
        let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
        println!(
            "{name:<16} p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms over {} frames; {} freezes, {} stalls, {} errors",
            at(50),
            at(99),
            at(100),
            latencies.len(),
            shown::freezes(pictures, 1000.0 / f64::from(recipe.fps)).len(),
            player["stalls"],
            player["errors"].as_array().map_or(0, Vec::len),
        );
    }
    ending.store(true, Ordering::Relaxed);
    publisher.join().map_err(|_| anyhow!("the publisher panicked"))??;
    server.stop()
}

struct Player {
    name: &'static str,
    page: &'static str,
    /// Where its page and scripts are.
    directories: Vec<PathBuf>,
}

fn players() -> Vec<Player> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = Player { name: "tasuki", page: "player.html", directories: vec![pages_directory()] };
    let hls = top.join("../worker/console/node_modules/hls.js/dist");
    if !hls.join("hls.min.js").is_file() {
        println!("hls.js is not installed (npm ci in worker/console): only our own player");
        return vec![ours];
    }
    let stock = Player {
        name: "hls.js as it is",
        page: "stock.html",
        directories: vec![top.join("harness/browser"), hls],
    };
    vec![ours, stock]
}

/// Sends in real time and notes when each picture was given to the socket.
fn publish(address: &str, flv: &Flv, sent: &Mutex<Vec<f64>>, ending: &AtomicBool) -> Result<()> {
    let mut publisher = RawPublisher::publish(address, NAME, CHUNK_BYTES)?;
    publisher.send_tags(&flv.tags, 1, |tag| {
        if ending.load(Ordering::Relaxed) {
            return None;
        }
        if tag.kind == Kind::Video
            && !tag.is_header()
            && let Ok(mut sent) = sent.lock()
        {
            sent.push(clock::unix_ms() as f64);
        }
        Some(tag.dts_ms)
    })?;
    publisher.finish(BOUND)
}

/// Of each number, from its being sent to its being seen first.
fn latencies(pictures: &[Picture], sent: &[f64]) -> Vec<f64> {
    let mut newest = None;
    let mut latencies = Vec::new();
    for Picture { at_ms, number, .. } in pictures {
        if let Some(number) = number
            && newest < Some(*number)
            && let Some(sent_ms) = usize::try_from(*number).ok().and_then(|it| sent.get(it))
        {
            newest = Some(*number);
            latencies.push(at_ms - sent_ms);
        }
    }
    latencies
}
