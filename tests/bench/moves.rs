//! What a move costs: the pause between two owners, what of it arrives at the origin, and CPU time.
//!
//! Pause: from the last byte that the old owner handled to the first of the new one, on the clock
//! that both share, as the supervisor tells it of each move.
//!
//! Gap: the longest time between two pictures of the moved stream, from the order until a while
//! after the move, at an origin that notes when each is whole. Afterwards the same streams are
//! looked at for as long, at the same pace, and nothing is moved: that is what the machine, the
//! publishers and the encoders do by themselves, and what is taken off.
//!
//! CPU: of all of Tasuki's processes in the first part, less that of the second, over the moves.

use crate::measure::{cpu_of_tree, ms, percentile};
use crate::rtmp::{self, Publisher};
use crate::sink::Sink;
use anyhow::{Context, Result, bail, ensure};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::message::Haste;
use tasuki_shared::status::{Reply, Request};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, Tag};
use tasuki_tests::named;
use tasuki_tests::place::RunDirectory;
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::wait;

const FPS: u32 = 30;
/// Files are sent over and over.
const SECONDS: u32 = 8;
const START_BOUND: Duration = Duration::from_secs(30);
/// From a move's end to the end of the look.
const AFTERWARDS: Duration = Duration::from_millis(500);
const SETTLE: Duration = Duration::from_secs(3);
/// What the server says is thrown away after so many messages of one connection.
const MESSAGES_BETWEEN_READS: usize = 64;
/// A publisher that sends later than this has been held up: the run is void.
const LATE_MAX: Duration = Duration::from_secs(2);

/// Streams of one application.
struct Group {
    app: &'static str,
    count: usize,
    recipe: Recipe,
    /// What of it the origin gets.
    rung: &'static str,
}

struct Scene {
    name: &'static str,
    groups: Vec<Group>,
    rungs: Vec<Rung>,
    tables: fn(u16) -> String,
}

fn scenes() -> Vec<Scene> {
    let small = Recipe::small(SECONDS);
    let large = Recipe { width: 1280, height: 720, video_kbps: 3000, ..Recipe::full_hd(SECONDS) };
    let encoded =
        |count, recipe: &Recipe, rung| Group { app: "live", count, recipe: recipe.clone(), rung };
    vec![
        Scene {
            name: "1 of 720p to 360p",
            groups: vec![encoded(1, &large, "360p")],
            rungs: vec![Rung::encoded(360, 800)],
            tables: |_| String::new(),
        },
        Scene {
            name: "8 of 90p to 72p",
            groups: vec![encoded(8, &small, "72p")],
            rungs: vec![Rung::encoded(72, 200)],
            tables: |_| String::new(),
        },
        Scene {
            name: "46 passed through, 4 of 90p to 72p",
            groups: vec![
                Group { app: "relay", count: 46, recipe: small.clone(), rung: "source" },
                encoded(4, &small, "72p"),
            ],
            rungs: vec![Rung::encoded(72, 200)],
            tables: |port| {
                format!(
                    "[apps.relay]\n[[apps.relay.rungs]]\nlabel = \"source\"\nsource = true\n\
                     [[apps.relay.push]]\nurl = \"rtmp://127.0.0.1:{port}/live/{{name}}_{{rung}}\"\n"
                )
            },
        },
    ]
}

pub fn run(arguments: &[String]) -> Result<()> {
    let moves = named::number(arguments, "moves", 40)?;
    ensure!(moves > 0, "no move");
    let run = RunDirectory::new("move")?;
    println!("{moves} moves of each kind in each scene, one after another, over all streams");
    println!(
        "{:<36} {:<10} {:>9} {:>9}  {:>9} {:>9}  {:>9} {:>9}  {:>9} {:>9}",
        "streams",
        "moved",
        "pause p50",
        "p99, ms",
        "gap p50",
        "p99, ms",
        "unmoved",
        "p99, ms",
        "more, fr.",
        "CPU ms"
    );
    for (number, scene) in scenes().iter().enumerate() {
        let directory = run.join(&format!("scene-{number}"));
        of_scene(&directory, scene, moves)?;
    }
    println!("goals: pause p50 ≤ 1 ms, p99 ≤ 10 ms; gap at p99 no more than 1 frame longer");
    Ok(())
}

fn of_scene(directory: &Path, scene: &Scene, moves: u32) -> Result<()> {
    let sink = Sink::start()?;
    let setup = Setup {
        workers: Some(2),
        streams_per_worker: Some(64),
        rungs: Some(scene.rungs.clone()),
        audio: Some("copy"),
        origin_port: Some(sink.port()),
        tables: (scene.tables)(sink.port()),
        ..Setup::default()
    };
    let mut server = Server::start(directory, &setup)?;
    let address: SocketAddr = server.address().parse().context("the server's address")?;
    let (mut names, mut fleets) = (Vec::new(), Vec::new());
    for group in &scene.groups {
        let tags = Flv::read(&group.recipe.file()?)?.tags;
        let own: Vec<String> = (0..group.count).map(|at| format!("{}{at}", group.app)).collect();
        fleets.push(Loop::start(address, group.app, &own, tags)?);
        names.extend(own.into_iter().map(|name| (name.clone(), format!("{name}_{}", group.rung))));
    }
    wait::until("all streams at the origin", START_BOUND, || {
        Ok((sink.streams() == names.len()).then_some(()))
    })?;
    clock::pause(SETTLE);
    for haste in [Haste::Now, Haste::Scheduled] {
        let cost = of_haste(&mut server, &sink, &names, haste, moves)?;
        cost.print(scene.name, haste);
        fleets.iter().try_for_each(Loop::must_run)?;
    }
    let status = server.status()?;
    let reconnects = status.sessions.iter().flat_map(|s| &s.pushes).map(|p| p.reconnects);
    ensure!(reconnects.sum::<u64>() == 0, "a push was dialled anew");
    fleets.into_iter().try_for_each(Loop::finish)?;
    server.stop()
}

struct Cost {
    pauses: Vec<Duration>,
    moved_gaps: Vec<Duration>,
    still_gaps: Vec<Duration>,
    /// In both parts.
    cpu: [Duration; 2],
}

impl Cost {
    fn print(mut self, scene: &str, haste: Haste) {
        let at = |samples: &mut Vec<Duration>| [50, 99].map(|percent| percentile(samples, percent));
        let (pauses, moved) = (at(&mut self.pauses), at(&mut self.moved_gaps));
        let still = at(&mut self.still_gaps);
        let more = moved[1].as_secs_f64() - still[1].as_secs_f64();
        let [during, without] = self.cpu.map(|cpu| cpu.as_secs_f64());
        let moves = f64::from(u32::try_from(self.pauses.len()).unwrap_or(u32::MAX));
        println!(
            "{scene:<36} {:<10} {:>9} {:>9}  {:>9} {:>9}  {:>9} {:>9}  {:>9.2} {:>9.1}",
            format!("{haste:?}"),
            ms(pauses[0]),
            ms(pauses[1]),
            ms(moved[0]),
            ms(moved[1]),
            ms(still[0]),
            ms(still[1]),
            more * f64::from(FPS),
            1000.0 * (during - without) / moves
        );
    }
}

fn of_haste(
    server: &mut Server,
    sink: &Sink,
    names: &[(String, String)],
    haste: Haste,
    moves: u32,
) -> Result<Cost> {
    let streams = || names.iter().cycle().take(usize::try_from(moves).unwrap_or(usize::MAX));
    let (mut pauses, mut moved_gaps, mut still_gaps) = (Vec::new(), Vec::new(), Vec::new());
    let mut looks = Vec::new();
    let before = cpu_of_tree(server.pid())?;
    for (name, rendition) in streams() {
        let from = clock::now();
        pauses.push(move_one(server, name, haste)?);
        clock::pause(AFTERWARDS);
        let to = clock::now();
        moved_gaps.push(sink.longest_gap(rendition, from, to)?);
        looks.push(to - from);
    }
    let between = cpu_of_tree(server.pid())?;
    for ((name, rendition), look) in streams().zip(looks) {
        let from = clock::now();
        // As for a move; it is asked what is not moved.
        let status = server.status()?;
        ensure!(status.sessions.iter().any(|s| s.name == *name), "{name} is gone");
        clock::pause((from + look).saturating_duration_since(clock::now()));
        still_gaps.push(sink.longest_gap(rendition, from, clock::now())?);
    }
    let after = cpu_of_tree(server.pid())?;
    Ok(Cost { pauses, moved_gaps, still_gaps, cpu: [between - before, after - between] })
}

fn move_one(server: &mut Server, name: &str, haste: Haste) -> Result<Duration> {
    let status = server.status()?;
    let session = status.sessions.iter().find(|session| session.name == name);
    let session = session.with_context(|| format!("{name} is gone"))?.id.clone();
    match server.request(&Request::Move { session, haste })? {
        Reply::Moved(moved) if moved.outcome == "done" => {
            ensure!(moved.frames_lost == 0, "{moved:?}");
            Ok(Duration::from_micros(moved.pause_us))
        }
        other @ (Reply::Moved(_)
        | Reply::Status(_)
        | Reply::Event(_)
        | Reply::Recycled(_)
        | Reply::Heap { .. }
        | Reply::Threads { .. }
        | Reply::Done
        | Reply::Refused { .. }) => bail!("the move of {name} was answered by {other:?}"),
    }
}

/// Publishers on one thread that send a file over and over, each at its own phase.
struct Loop {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Loop {
    fn start(address: SocketAddr, app: &str, names: &[String], tags: Vec<Tag>) -> Result<Self> {
        let publishers = names
            .iter()
            .map(|name| Publisher::start_in(address, app, name))
            .collect::<Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || send(publishers, &tags, &stopped));
        Ok(Self { stop, thread })
    }

    fn must_run(&self) -> Result<()> {
        ensure!(!self.thread.is_finished(), "the publishers have stopped");
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("a publisher panicked"))?
    }
}

fn send(mut publishers: Vec<Publisher>, tags: &[Tag], stop: &AtomicBool) -> Result<()> {
    let stream_id = publishers.first().map_or(1, Publisher::stream_id);
    let mut messages = rtmp::wire(tags, stream_id);
    let (count, span_ms) = (messages.len(), SECONDS * 1000);
    let begin = clock::now();
    let step = Duration::from_millis(1000) / u32::try_from(publishers.len().max(1))?;
    let stamp = |message: &(u32, Vec<u8>), lap: usize| -> Result<u32> {
        Ok(message.0 + span_ms * u32::try_from(lap)?)
    };
    let mut queue: BinaryHeap<Reverse<(Instant, usize, usize)>> =
        (0..publishers.len()).map(|place| Reverse((begin, place, 0))).collect();
    while let Some(Reverse((due, place, number))) = queue.pop() {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        clock::pause(due.saturating_duration_since(clock::now()));
        let late = clock::now().saturating_duration_since(due);
        ensure!(late < LATE_MAX, "a publisher was held up for {late:?}");
        let message = &mut messages[number % count];
        let time_ms = stamp(message, number / count)?;
        rtmp::set_time(&mut message.1, time_ms);
        publishers[place].send(&message.1).with_context(|| format!("publisher {place}"))?;
        if number % MESSAGES_BETWEEN_READS == 0 {
            publishers[place].drop_replies().with_context(|| format!("publisher {place}"))?;
        }
        let next = number + 1;
        let at = stamp(&messages[next % count], next / count)?;
        let at = Duration::from_millis(u64::from(at)) + step * u32::try_from(place)?;
        queue.push(Reverse((begin + at, place, next)));
    }
    Ok(())
}
