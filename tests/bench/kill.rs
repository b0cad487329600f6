//! What a worker's death costs its streams: SIGKILL, and how long until they go on elsewhere.
//!
//! One worker has all streams and another stands by, as it would in a small node. Of each stream:
//!
//! - **taken**: until the new owner can handle its first byte, and **message**: until it has handled
//!   the first message, as the owner says of each session on the clock that all processes share.
//! - **frame**: until the first frame of the new owner, which is a keyframe, is whole at the origin.
//!   Frames that the dead worker had made and that arrive later do not count.
//! - **replay**: how long the new owner decodes what had been decoded before, from the source's last
//!   keyframe to the last committed frame, and how many frames that is. Kills come at places that
//!   are spread over the source's GOP. **frame − replay** is the same stream's frame without that
//!   time, in which the other streams' replays and encoders run as well.
//! - **near key**: the frame of kills that came so soon behind a keyframe that hardly anything is
//!   decoded again, of this stream and of the others: what a death costs without the replays. Half as
//!   many kills more are made for it alone, and it is held against the goal.
//! - **unkilled**: what a picture takes from the publisher to the origin before each kill, for
//!   comparison.
//!
//! The publishers send in step, and the kill comes in front of a step: what the new owner is to do
//! is there at once, and no time is spent waiting for a publisher. So all streams also want their
//! codecs at once, which is the worst case.
//!
//! Pictures are 160×90 at 10 fps with one rung of 72 lines: 50 such streams leave two cores room,
//! publishers and origin included. What is measured is the way to the first frame, not the load.
//!
//! Deliberately absent: a check of the pictures. The tests have that.

use crate::measure::{ms, percentile};
use crate::rtmp::{self, Publisher};
use crate::sink::{Picture, Sink};
use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::status::{AdoptionStatus, Status};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, Kind, Tag};
use tasuki_tests::named;
use tasuki_tests::place::RunDirectory;
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::wait;

/// Streams, and the median that is wanted for a message and for a frame without the replay.
const SCENES: [(u32, Duration); 3] = [
    (1, Duration::from_millis(10)),
    (8, Duration::from_millis(30)),
    (50, Duration::from_millis(80)),
];
const FPS: u32 = 10;
/// Two seconds, as of most publishers.
const GOP: u32 = 20;
/// Frames decoded again, up to which a kill is near its keyframe.
const NEAR_FRAMES: u64 = 2;
/// Files are sent over and over.
const SECONDS: u32 = 8;
const LABEL: &str = "72p";
const BOUND: Duration = Duration::from_secs(30);
/// From a worker's being ready to stand by to the next kill: it is done with starting.
const SETTLE: Duration = Duration::from_secs(1);
/// What the server says is thrown away after so many messages.
const MESSAGES_BETWEEN_READS: usize = 64;
/// Publishers that send later than this have been held up: the run is void.
const LATE_MAX: Duration = Duration::from_secs(2);

pub fn run(arguments: &[String]) -> Result<()> {
    let kills = named::number(arguments, "kills", 40)?;
    let rounds = named::number(arguments, "rounds", 1)?;
    let only = named::number(arguments, "streams", 0)?;
    ensure!(kills > 0 && rounds > 0, "no kill");
    let run = RunDirectory::new("kill")?;
    let file = Recipe { fps: FPS, gop: GOP, ..Recipe::small(SECONDS) }.file()?;
    let tags = Flv::read(&file)?.tags;
    println!(
        "{kills} kills in each of {rounds} rounds; ms from the kill, p50 and p99 of all streams"
    );
    print!("{:>7}", "streams");
    for (what, width) in COLUMNS {
        print!("  {what:>width$}");
    }
    println!();
    let scenes = match only {
        0 => SCENES.to_vec(),
        streams => vec![(streams, goal_of(streams))],
    };
    for (streams, goal) in scenes {
        let mut costs = Costs::default();
        for round in 0..rounds {
            let directory = run.join(&format!("{streams}-{round}"));
            of_scene(&directory, streams, kills, &tags, &mut costs)
                .with_context(|| format!("{streams} streams"))?;
        }
        costs.print(streams, goal);
    }
    println!("goals at p50: message and near key, each in ms from the kill, as in the last column");
    Ok(())
}

fn goal_of(streams: u32) -> Duration {
    let scene = SCENES.iter().find(|(most, _)| streams <= *most).unwrap_or(&SCENES[2]);
    scene.1
}

const COLUMNS: [(&str, usize); 9] = [
    ("taken", 17),
    ("message", 17),
    ("frame", 17),
    ("replay", 17),
    ("of frames", 9),
    ("frame − replay", 17),
    ("near key", 17),
    ("unkilled", 17),
    ("goal", 5),
];

/// Of all streams and kills.
#[derive(Default)]
struct Costs {
    taken: Vec<Duration>,
    message: Vec<Duration>,
    frame: Vec<Duration>,
    replay: Vec<Duration>,
    replayed_frames: Vec<u64>,
    /// Of the same stream and kill.
    without_replay: Vec<Duration>,
    near_key: Vec<Duration>,
    unkilled: Vec<Duration>,
}

impl Costs {
    fn print(mut self, streams: u32, goal: Duration) {
        let both = |samples: &mut Vec<Duration>| {
            let [middle, high] = [50, 99].map(|percent| ms(percentile(samples, percent)));
            format!("{middle:>8} {high:>8}")
        };
        let least = self.replayed_frames.iter().min().copied().unwrap_or(0);
        let most = self.replayed_frames.iter().max().copied().unwrap_or(0);
        println!(
            "{streams:>7}  {}  {}  {}  {}  {:>9}  {}  {}  {}  {:>5}",
            both(&mut self.taken),
            both(&mut self.message),
            both(&mut self.frame),
            both(&mut self.replay),
            format!("{least}–{most}"),
            both(&mut self.without_replay),
            both(&mut self.near_key),
            both(&mut self.unkilled),
            format!("≤ {}", goal.as_millis()),
        );
    }
}

fn of_scene(
    directory: &Path,
    streams: u32,
    kills: u32,
    tags: &[Tag],
    costs: &mut Costs,
) -> Result<()> {
    let sink = Sink::start()?;
    let setup = Setup {
        workers: Some(1),
        streams_per_worker: Some(streams),
        rungs: Some(vec![Rung::encoded(72, 100)]),
        audio: Some("copy"),
        origin_port: Some(sink.port()),
        worker_lines: "standby = 1\n".to_owned(),
        ..Setup::default()
    };
    let mut server = Server::start(directory, &setup)?;
    let address: SocketAddr = server.address().parse().context("the server's address")?;
    let names: Vec<String> = (0..streams).map(|number| format!("s{number}")).collect();
    let fleet = Step::start(address, &names, tags.to_vec())?;
    wait::until("all streams at the origin", BOUND, || {
        Ok((sink.streams() == names.len()).then_some(()))
    })?;
    let first = server.status()?;
    let stage = Stage { sink: &sink, fleet: &fleet, names: &names };
    for kill in 0..kills {
        stage.kill_once(&mut server, Place::Spread(kill * GOP / kills % GOP), costs)?;
    }
    for kill in 0..kills.div_ceil(2) {
        stage.kill_once(&mut server, Place::NearKey(kill % 2 + 1), costs)?;
    }
    let last = server.status()?;
    ensure!(ids(&first) == ids(&last), "publishers were disconnected");
    ensure!(last.frames_lost == 0, "{} frames were lost", last.frames_lost);
    let reconnects = last.sessions.iter().flat_map(|s| &s.pushes).map(|push| push.reconnects);
    ensure!(reconnects.sum::<u64>() == 0, "a push was dialled anew");
    for name in &names {
        let publishes = sink.publishes(&at_origin(name));
        ensure!(publishes == 1, "{name} was published {publishes} times at the origin");
    }
    fleet.finish()?;
    server.stop()
}

fn ids(status: &Status) -> BTreeMap<&str, &str> {
    status.sessions.iter().map(|s| (s.name.as_str(), s.id.as_str())).collect()
}

fn at_origin(name: &str) -> String {
    format!("{name}_{LABEL}")
}

struct Stage<'a> {
    sink: &'a Sink,
    fleet: &'a Step,
    names: &'a [String],
}

impl Stage<'_> {
    fn kill_once(&self, server: &mut Server, place: Place, costs: &mut Costs) -> Result<()> {
        let victim =
            server.wait_status("a worker with all streams and one that stands by", BOUND, {
                |status| self.settled(status)
            })?;
        clock::pause(SETTLE);

        let quiet = self.fleet.strike(Strike { place: None, victim: None })?;
        for name in self.names {
            let arrived = self.arrival(name, quiet.at, |_| true)?;
            costs.unkilled.push(arrived - quiet.at);
        }

        let (Place::Spread(number) | Place::NearKey(number)) = place;
        let struck = self.fleet.strike(Strike { place: Some(number), victim: Some(victim) })?;
        // To ask the server costs time that the streams need.
        for name in self.names {
            self.arrival(name, struck.at, |it| it == Picture::Key)?;
        }
        let adoptions = server.wait_status("all streams to go on elsewhere", BOUND, |status| {
            adoptions_since(status, struck.at_us).filter(|all| all.len() == self.names.len())
        })?;
        for name in self.names {
            let adoption = adoptions.get(name).with_context(|| format!("{name} is gone"))?;
            let since = |at_us: u64| Duration::from_micros(at_us.saturating_sub(struck.at_us));
            let taken = since(adoption.at_us);
            let arrived = self.arrival(name, struck.at + taken, |it| it == Picture::Key)?;
            let (frame, replay) = (arrived - struck.at, Duration::from_micros(adoption.replay_us));
            if adoption.replayed_frames <= NEAR_FRAMES {
                costs.near_key.push(frame);
            }
            match place {
                Place::Spread(_) => {}
                Place::NearKey(_) => continue,
            }
            costs.taken.push(taken);
            costs.message.push(since(adoption.first_message_us));
            costs.frame.push(frame);
            costs.replay.push(replay);
            costs.replayed_frames.push(adoption.replayed_frames);
            costs.without_replay.push(frame.saturating_sub(replay));
        }
        self.fleet.must_run()
    }

    /// The worker that has all streams, once their pushes are live and another worker stands by.
    fn settled(&self, status: &Status) -> Option<Pid> {
        let is = |state: &str| {
            status.workers.iter().find(|worker| worker.role == "worker" && worker.state == state)
        };
        let (serving, _) = (is("serving")?, is("standby")?);
        let all = usize::try_from(serving.sessions).ok()? == self.names.len()
            && status.sessions.len() == self.names.len();
        let live = status.sessions.iter().flat_map(|s| &s.pushes).all(|push| push.state == "live");
        (all && live).then_some(Pid::from_raw(serving.pid))
    }

    fn arrival(
        &self,
        name: &str,
        from: Instant,
        wanted: impl Fn(Picture) -> bool,
    ) -> Result<Instant> {
        wait::until(&format!("a picture of {name}"), BOUND, || {
            self.fleet.must_run()?;
            Ok(self.sink.first(&at_origin(name), from, &wanted))
        })
    }
}

/// How the sessions' owners came to them, of those that have gone on since.
fn adoptions_since(status: &Status, at_us: u64) -> Option<BTreeMap<String, AdoptionStatus>> {
    let gone_on = |adoption: &AdoptionStatus| {
        adoption.at_us > at_us && adoption.first_message_us > 0 && adoption.replay_us > 0
    };
    let each = status.sessions.iter().map(|session| {
        gone_on(&session.adoption).then(|| (session.name.clone(), session.adoption))
    });
    each.collect()
}

/// Before which picture of a GOP a kill comes, and what it is for.
#[derive(Clone, Copy, Debug)]
enum Place {
    Spread(u32),
    NearKey(u32),
}

/// What is to be done in front of a step.
#[derive(Clone, Copy, Debug)]
struct Strike {
    /// Number of the step's picture in its GOP; any if none.
    place: Option<u32>,
    victim: Option<Pid>,
}

/// When it was, on both clocks.
#[derive(Clone, Copy, Debug)]
struct Struck {
    at: Instant,
    at_us: u64,
}

/// Publishers on one thread that send a file over and over, in step.
struct Step {
    orders: Sender<Strike>,
    struck: Receiver<Struck>,
    thread: JoinHandle<Result<()>>,
}

impl Step {
    fn start(address: SocketAddr, names: &[String], tags: Vec<Tag>) -> Result<Self> {
        let publishers =
            names.iter().map(|name| Publisher::start(address, name)).collect::<Result<Vec<_>>>()?;
        let (orders, ordered) = channel();
        let (tell, struck) = channel();
        let thread = std::thread::spawn(move || send(publishers, &tags, &ordered, &tell));
        Ok(Self { orders, struck, thread })
    }

    /// Back when it is done.
    fn strike(&self, strike: Strike) -> Result<Struck> {
        self.orders.send(strike).map_err(|_| anyhow!("the publishers have stopped"))?;
        self.struck.recv_timeout(BOUND).context("the publishers have stopped")
    }

    fn must_run(&self) -> Result<()> {
        ensure!(!self.thread.is_finished(), "the publishers have stopped");
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let Self { orders, struck: _, thread } = self;
        drop(orders);
        thread.join().map_err(|_| anyhow!("a publisher panicked"))?
    }
}

/// Until nobody can order anything more.
fn send(
    mut publishers: Vec<Publisher>,
    tags: &[Tag],
    orders: &Receiver<Strike>,
    tell: &Sender<Struck>,
) -> Result<()> {
    let stream_id = publishers.first().map_or(1, Publisher::stream_id);
    let mut messages = rtmp::wire(tags, stream_id);
    let places = places(tags);
    let begin = clock::now();
    let mut pending = None;
    for number in 0_usize.. {
        let (lap, at) = (number / messages.len(), number % messages.len());
        let time_ms = messages[at].0 + SECONDS * 1000 * u32::try_from(lap)?;
        let due = begin + Duration::from_millis(u64::from(time_ms));
        clock::pause(due.saturating_duration_since(clock::now()));
        let late = clock::now().saturating_duration_since(due);
        ensure!(late < LATE_MAX, "the publishers were held up for {late:?}");
        let message = &mut messages[at].1;
        rtmp::set_time(message, time_ms);
        match orders.try_recv() {
            Ok(order) => pending = Some(order),
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(()),
        }
        if let (Some(strike), Some(place)) = (pending, places[at])
            && strike.place.is_none_or(|wanted| wanted == place)
        {
            pending = None;
            let struck = Struck { at: clock::now(), at_us: clock::monotonic_us() };
            if let Some(victim) = strike.victim {
                kill(victim, Signal::SIGKILL).context("the worker to be killed")?;
            }
            // Nobody listens only when the bench has failed already.
            let _nobody_listens = tell.send(struck);
        }
        for (publisher, name) in publishers.iter_mut().zip(0..) {
            publisher.send(message).with_context(|| format!("publisher {name}"))?;
            if number % MESSAGES_BETWEEN_READS == 0 {
                publisher.drop_replies().with_context(|| format!("publisher {name}"))?;
            }
        }
    }
    Ok(())
}

/// Of each message that is a picture, its number in its GOP.
fn places(tags: &[Tag]) -> Vec<Option<u32>> {
    let mut next = 0;
    let mut place = |tag: &Tag| {
        if tag.kind != Kind::Video || tag.is_header() {
            return None;
        }
        let place = if tag.is_keyframe() { 0 } else { next };
        next = place + 1;
        Some(place)
    };
    tags.iter().map(&mut place).collect()
}
