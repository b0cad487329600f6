//! Pass-through: CPU per stream of all of Tasuki's processes, against nginx-rtmp's relay.
//!
//! The same publishers send the same bytes; each server sends every stream on to an origin of the
//! same kind. Rounds alternate. Measured is a window in which all streams are on their way, and by
//! default have been for so long that Tasuki's logs are past their first lap, as those of any stream
//! are that has lived for half a minute; `--settle 4` measures the first lap.

use crate::fleet::{Fleet, Sent};
use crate::measure::{Spread, cpu_of_tree};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_tests::filler;
use tasuki_tests::fixture::{Audio, Recipe};
use tasuki_tests::flv::{Flv, Tag};
use tasuki_tests::named;
use tasuki_tests::origin::{self, Origin, Record};
use tasuki_tests::picture::Band;
use tasuki_tests::place::RunDirectory;
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::wait;

const KBPS: u32 = 2500;
const FPS: u32 = 30;
/// Streams arrive at the origin within this.
const START_BOUND: Duration = Duration::from_secs(20);
/// One lap of the default source log, 8 MiB, at the streams' bitrate takes 27 s.
const SETTLE_SECONDS: u32 = 28;
/// From a publisher's start to the window, beside the time to settle.
const START_SECONDS: u32 = 20;
/// nginx-rtmp pings after 30 s and gives up on who does not answer after 60; these do not.
const RUN_SECONDS_MAX: u32 = 55;
/// What of the sent bytes must have arrived in the window.
const ARRIVED_LEAST: f64 = 0.97;

#[derive(Clone, Copy)]
struct Task {
    streams: usize,
    settle: Duration,
    window: Duration,
}

struct Round {
    cpu: Duration,
    window: Duration,
    sent: Sent,
}

impl Round {
    /// Percent of a core for one stream.
    fn percent(&self, streams: usize) -> f64 {
        let streams = f64::from(u32::try_from(streams).unwrap_or(u32::MAX));
        100.0 * self.cpu.as_secs_f64() / self.window.as_secs_f64() / streams
    }
}

pub fn run(arguments: &[String]) -> Result<()> {
    let rounds = named::number(arguments, "rounds", 5)?;
    let streams = usize::try_from(named::number(arguments, "streams", 50)?)?;
    let seconds = named::number(arguments, "seconds", 10)?;
    let settle = named::number(arguments, "settle", SETTLE_SECONDS)?;
    ensure!(settle + seconds <= RUN_SECONDS_MAX, "more than {RUN_SECONDS_MAX} s");
    let task = Task {
        streams,
        settle: Duration::from_secs(u64::from(settle)),
        window: Duration::from_secs(u64::from(seconds)),
    };
    let tags = Arc::new(padded(settle + seconds + START_SECONDS)?);
    let run = RunDirectory::new("relay")?;
    println!("{streams} streams of {KBPS} kb/s, a window of {seconds} s, {rounds} rounds");
    println!("round  tasuki %/stream  nginx %/stream  ratio  latest send ms (both)");
    let (mut ratios, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let directory = run.join(&format!("round-{round}"));
        let (tasuki, nginx) = if round % 2 == 0 {
            let tasuki = through_tasuki(&directory, task, &tags)?;
            (tasuki, through_nginx(&directory, task, &tags)?)
        } else {
            let nginx = through_nginx(&directory, task, &tags)?;
            (through_tasuki(&directory, task, &tags)?, nginx)
        };
        let (a, b) = (tasuki.percent(streams), nginx.percent(streams));
        println!(
            "{round:>5}  {a:>15.4}  {b:>14.4}  {:>5.3}  {} {}",
            a / b,
            tasuki.sent.latest.as_millis(),
            nginx.sent.latest.as_millis()
        );
        ratios.push(a / b);
        ours.push(a);
        theirs.push(b);
    }
    println!("tasuki  {:.4} % of a core per stream", Spread::of(ours)?);
    println!("nginx   {:.4} % of a core per stream", Spread::of(theirs)?);
    println!("ratio   {} (goal ≤ 1.0)", Spread::of(ratios)?);
    Ok(())
}

fn through_tasuki(directory: &Path, task: Task, tags: &Arc<Vec<Tag>>) -> Result<Round> {
    let sink = Origin::start_with(directory, "tasuki-origin", &quiet(&[]))?;
    let setup = Setup {
        workers: Some(1),
        streams_per_worker: Some(64),
        rungs: Some(vec![Rung::Source]),
        origin_port: Some(sink.port()),
        worker_lines: "standby = 0\n".to_owned(),
        ..Setup::default()
    };
    let mut server = Server::start(directory, &setup)?;
    let address = server.address().parse().context("the server's address")?;
    let round = measure(task, tags, address, server.pid(), &sink)?;
    let status = server.status()?;
    for session in &status.sessions {
        let skipped: u64 = session.pushes.iter().map(|push| push.skipped).sum();
        ensure!(skipped == 0, "{}: {skipped} messages were skipped", session.name);
        ensure!(session.faults.is_empty(), "{}: {:?}", session.name, session.faults);
    }
    round.fleet.finish().map(|sent| Round { cpu: round.cpu, window: round.window, sent })
}

fn through_nginx(directory: &Path, task: Task, tags: &Arc<Vec<Tag>>) -> Result<Round> {
    let sink = Origin::start_with(directory, "nginx-origin", &quiet(&[]))?;
    let to = format!("127.0.0.1:{}/live", sink.port());
    let relay = Origin::start_with(directory, "nginx-relay", &quiet(&[to]))?;
    let address = SocketAddr::from(([127, 0, 0, 1], relay.port()));
    let round = measure(task, tags, address, relay.pid(), &sink)?;
    round.fleet.finish().map(|sent| Round { cpu: round.cpu, window: round.window, sent })
}

struct Measured {
    cpu: Duration,
    window: Duration,
    fleet: Fleet,
}

fn measure(
    task: Task,
    tags: &Arc<Vec<Tag>>,
    address: SocketAddr,
    root: i32,
    sink: &Origin,
) -> Result<Measured> {
    let fleet = Fleet::start(address, "s", task.streams, tags)?;
    wait::until("all streams at the origin", START_BOUND, || {
        fleet.must_run()?;
        Ok((arrived(sink)?.len() == task.streams).then_some(()))
    })?;
    clock::pause(task.settle);
    let before = arrived(sink)?;
    let (begin, cpu_before) = (clock::now(), cpu_of_tree(root)?);
    clock::pause(task.window);
    let (end, cpu_after) = (clock::now(), cpu_of_tree(root)?);
    let after = arrived(sink)?;
    fleet.must_run()?;
    let window = end - begin;
    ensure!(after.len() == task.streams, "{} streams at the end", after.len());
    let expected = f64::from(KBPS) * 125.0 * window.as_secs_f64();
    for (name, bytes) in &after {
        let got = bytes - before.get(name).copied().unwrap_or(0);
        let got = f64::from(u32::try_from(got)?);
        ensure!(
            got >= expected * ARRIVED_LEAST,
            "{name}: {got:.0} of {expected:.0} bytes arrived in the window"
        );
    }
    Ok(Measured { cpu: cpu_after - cpu_before, window, fleet })
}

/// Bytes of each stream that is published at the origin.
fn arrived(sink: &Origin) -> Result<BTreeMap<String, u64>> {
    let streams = sink.streams()?.into_iter().filter(|stream| stream.publishing);
    Ok(streams.map(|stream| (stream.name, stream.bytes_in)).collect())
}

fn quiet(push_to: &[String]) -> origin::Settings {
    origin::Settings { record: Record::Off, push_to: push_to.to_vec() }
}

/// 720p30 and AAC, brought to the bitrate.
fn padded(seconds: u32) -> Result<Vec<Tag>> {
    let recipe = Recipe {
        width: 1280,
        height: 720,
        fps: FPS,
        seconds,
        gop: 2 * FPS,
        b_frames: 0,
        video_kbps: KBPS - 300,
        audio: Audio::Beat { kbps: 128 },
        preset: "ultrafast",
        band: Band::Top,
    };
    let mut tags = Flv::read(&recipe.file()?)?.tags;
    filler::pad(&mut tags, KBPS, seconds)?;
    Ok(tags)
}
