//! `./dev demo`: a publisher, the server and an origin on loopback, and a table of what arrived.

mod leak;

use anyhow::{Result, bail, ensure};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tasuki_shared::status::SessionStatus;
use tasuki_tests::fixture::{Continue, Generator, Recipe, Sink};
use tasuki_tests::origin::Origin;
use tasuki_tests::place::RunDirectory;
use tasuki_tests::server::{Server, Setup};
use tasuki_tests::{child, frames, named, skew};

/// What the demo publishes as.
const NAME: &str = "demo";
const LIVE_BOUND: Duration = Duration::from_secs(20);
/// The renditions' ends reach the origin after the publisher's.
const END_BOUND: Duration = Duration::from_secs(30);
/// Without `--seconds`: the origin records everything, and a disk is finite.
const SECONDS_DEFAULT: u32 = 600;
/// Progress is shown every so many frames.
const PROGRESS_FRAMES: u32 = 150;

/// One line of the table.
struct Arrived {
    label: String,
    codec: String,
    size: String,
    frames: usize,
    fps: f64,
    missing: usize,
    repeated: usize,
    skew_ms: Option<f64>,
    fault: Option<String>,
}

fn main() -> ExitCode {
    let result = RunDirectory::new("demo").and_then(|run| {
        let result = demo(&run);
        if result.is_err() {
            run.keep();
        }
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(run: &RunDirectory) -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds = named::number(&arguments, "seconds", SECONDS_DEFAULT)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    child::keep_apart_from_terminal();
    if arguments.iter().any(|argument| argument == "--leak") {
        let given = named::number(&arguments, "seconds", 0)?;
        let seconds = (given > 0).then_some(given);
        return leak::run(run.path(), seconds, &interrupted);
    }

    let origin = Origin::start(run.path())?;
    let viewers = tasuki_tests::viewer::tables(run.path(), "1m");
    let tables = format!("{viewers}\n[console]\nlisten = [\"127.0.0.1:0\"]\n");
    let setup = Setup { origin_port: Some(origin.port()), tables, ..Setup::default() };
    let mut server = Server::start(run.path(), &setup)?;
    println!("server    rtmp://{}/live", server.address());
    println!("origin    {}", origin.url("…"));
    let status = server.status()?;
    for base in &status.viewers {
        println!("watch     {base}/live/live/{NAME}/index.m3u8");
    }
    for address in &status.consoles {
        println!("console   http://{address}/");
    }

    let recipe = Recipe { preset: "ultrafast", ..Recipe::full_hd(0) };
    let (session, stamped) =
        publish(&recipe, run.path(), &mut server, &origin, seconds, &interrupted)?;
    server.wait_no_sessions(END_BOUND)?;
    origin.wait_idle(END_BOUND)?;
    server.stop()?;

    println!("\n{stamped} frames published; reading the origin's recordings\n");
    let arrived: Vec<Arrived> = session
        .rungs
        .iter()
        .filter(|rung| rung.state != "off")
        .map(|rung| measure(&origin, &rung.label, recipe.fps))
        .collect();
    print_table(&arrived);
    if let Some(sentence) = explain_missing(&session, &arrived) {
        println!("\n{sentence}");
    }
    ensure!(!arrived.is_empty(), "the session had no renditions");
    let faults: Vec<String> = arrived
        .iter()
        .filter_map(|line| line.fault.as_ref().map(|fault| format!("{}: {fault}", line.label)))
        .collect();
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("; ")) }
}

/// Publishes until the time is up or Ctrl-C; gives the session as it was last seen live.
fn publish(
    recipe: &Recipe,
    run: &Path,
    server: &mut Server,
    origin: &Origin,
    seconds: u32,
    interrupted: &AtomicBool,
) -> Result<(SessionStatus, u32)> {
    let url = server.url(NAME);
    let mut generator = Generator::start(recipe, Sink::Live { url: &url }, run, "publisher")?;
    let frames_max = seconds.saturating_mul(recipe.fps);
    let mut session: Option<SessionStatus> = None;
    let mut failure = None;
    generator.run(|stamped| {
        if interrupted.load(Ordering::Relaxed) || stamped >= frames_max {
            return Continue::No;
        }
        if stamped > 0 && stamped.is_multiple_of(PROGRESS_FRAMES) {
            match progress(server, origin, session.is_none()) {
                Ok(live) => session = Some(live),
                Err(error) => {
                    failure = Some(error);
                    return Continue::No;
                }
            }
        }
        Continue::Yes
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    // What it dropped is only known at the end; a session that has ended was last seen before.
    match server.wait_live(NAME, LIVE_BOUND) {
        Ok(live) => session = Some(live),
        Err(error) if session.is_none() => return Err(error),
        Err(_) => {}
    }
    let stamped = generator.stamped();
    generator.finish(END_BOUND)?;
    match session {
        Some(session) => Ok((session, stamped)),
        None => bail!("the stream was never live"),
    }
}

/// Shows what arrives, and the first time how to watch it.
fn progress(server: &mut Server, origin: &Origin, is_first: bool) -> Result<SessionStatus> {
    let session = server.wait_live(NAME, LIVE_BOUND)?;
    if is_first {
        println!(
            "published {} at {}×{}; watch with",
            server.url(NAME),
            session.width,
            session.height
        );
        for rung in session.rungs.iter().filter(|rung| rung.state != "off") {
            let url = origin.url(&format!("{NAME}_{}", rung.label));
            println!("  ffplay -fflags nobuffer {url}");
        }
    }
    let mut line = format!("{:>6} s", session.uptime_ms / 1000);
    for stream in origin.streams()?.iter().filter(|stream| stream.publishing) {
        line.push_str(&format!("  {} {} kB", stream.name, stream.bytes_in / 1000));
    }
    println!("{line}");
    Ok(session)
}

fn measure(origin: &Origin, label: &str, fps: u32) -> Arrived {
    let mut line = Arrived {
        label: label.to_owned(),
        codec: String::new(),
        size: String::new(),
        frames: 0,
        fps: 0.0,
        missing: 0,
        repeated: 0,
        skew_ms: None,
        fault: None,
    };
    if let Err(error) = measure_into(&mut line, origin, fps) {
        line.fault = Some(format!("{error:#}"));
    }
    line
}

fn measure_into(line: &mut Arrived, origin: &Origin, fps: u32) -> Result<()> {
    let file = origin.recording(&format!("{NAME}_{}", line.label))?;
    let streams = frames::streams(&file)?;
    line.codec = format!("{}+{}", streams.video_codec, streams.audio_codec);
    line.size = format!("{}×{}", streams.width, streams.height);
    let decoded = frames::decode(&file)?;
    line.frames = decoded.pictures.len();
    ensure!(line.frames > 1, "no pictures");
    if let [first, .., last] = decoded.pictures.as_slice() {
        let intervals = u32::try_from(line.frames - 1)?;
        line.fps = f64::from(intervals) / (last.pts_s - first.pts_s);
    }
    let numbers = decoded.numbers();
    ensure!(numbers.iter().any(Option::is_some), "none of its frames can be recognised");
    let mut readable = numbers.iter().copied().flatten();
    if let (Some(first), Some(last)) = (readable.next(), readable.next_back())
        && let Err(difference) = frames::check_exactly_once_in_order(&numbers, first..=last)
    {
        line.missing = difference.missing.len();
        line.repeated = difference.repeated.len();
    }
    line.skew_ms =
        Some(skew::of_decoded(&decoded.pictures, &frames::sound(&file)?, fps)?.median_ms());
    Ok(())
}

/// Why frames are missing, if any are.
fn explain_missing(session: &SessionStatus, arrived: &[Arrived]) -> Option<String> {
    let missing: usize = arrived.iter().map(|line| line.missing).sum();
    if missing == 0 {
        return None;
    }
    let rungs = session.rungs.iter().filter(|rung| rung.state == "dropped");
    let rungs: Vec<_> = rungs.map(|rung| rung.label.as_str()).collect();
    Some(if session.frames_dropped == 0 && rungs.is_empty() {
        format!("{missing} frames are missing, and the server reported no overload.")
    } else {
        let mut text = format!(
            "{missing} frames are missing because this machine was overloaded: the server dropped \
             {} frames before decoding",
            session.frames_dropped
        );
        if !rungs.is_empty() {
            text.push_str(&format!(" and gave up {}", rungs.join(", ")));
        }
        text + ". A faster or idle machine shows all of them."
    })
}

fn print_table(arrived: &[Arrived]) {
    println!(
        "{:<10} {:<10} {:>10} {:>7} {:>7} {:>8} {:>9} {:>11}",
        "rendition", "codecs", "size", "fps", "frames", "missing", "repeated", "A/V skew ms"
    );
    for line in arrived {
        let skew = line.skew_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:+.1}"));
        println!(
            "{:<10} {:<10} {:>10} {:>7.2} {:>7} {:>8} {:>9} {:>11}",
            line.label,
            line.codec,
            line.size,
            line.fps,
            line.frames,
            line.missing,
            line.repeated,
            skew
        );
    }
}
