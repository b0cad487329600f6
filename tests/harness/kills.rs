//! Workers that die at every point of their work, under live streams: at random moments, by
//! failpoint while they read, commit, push, record, adopt, follow and release, and while publishers
//! shake hands. Whatever it was: no publisher is disconnected, no origin sees a second connection,
//! every picture is there once, the sound is on its grid.
//!
//! `./dev test` and `./dev soak kills` differ in the counts, not in these checks.

use crate::chance::Chance;
use crate::child::Child;
use crate::fixture::Recipe;
use crate::flv::{Flv, Kind, Tag};
use crate::hits::Hits;
use crate::lanes::{self, Queue};
use crate::moves::{self, Moving};
use crate::origin::Origin;
use crate::ownership;
use crate::passage::BOUND;
use crate::publisher::{self, Pace};
use crate::raw_publisher::{self, Format, Message, RawPublisher};
use crate::server::{self, Rung, Server, Setup};
use crate::viewer;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::failpoint::{Action, Board, Order, Point};
use tasuki_shared::message::Haste;
use tasuki_shared::status::{Request, Status};

/// Nobody is killed any more when the streams' end is so near.
const MARGIN: Duration = Duration::from_secs(8);
/// A target whose follower hangs is given up after a while, and its stream moves no sooner.
const MARGIN_OF_PREPARATION: Duration = Duration::from_secs(25);
/// Of a random moment.
const PAUSE_MS_MAX: u64 = 400;
/// What a publisher that begins meanwhile sends.
const GUEST_SECONDS: u32 = 1;
/// The sound of an encoded rung.
const SAMPLES_PER_SECOND: u64 = 48_000;
const SAMPLES_PER_PACKET: u64 = 1024;
/// A worker that hangs is noticed after so much; where none is made to hang, a machine that is
/// busy with other things shall not look as if one did.
/// The app of publishers that are not pushed.
const QUIET: &str = "[[apps.quiet.rungs]]\nlabel = \"source\"\nsource = true";
const HANG_DEADLINE: &str = "300ms";
const NO_HANG_DEADLINE: &str = "5s";

/// What brings a worker to where it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A signal from outside, whatever it does.
    Outside,
    /// The streams that are published.
    Streaming,
    /// A publisher that begins.
    Beginning,
    /// A publisher that begins, and is pushed to the origin.
    Dialling,
    /// The death of an owner, at the hands of the next.
    Adopting,
    /// A planned move.
    Moving,
}

/// How a worker dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    pub point: Option<Point>,
    pub way: Way,
    pub action: Action,
}

impl Death {
    pub const OUTSIDE: Self = Self { point: None, way: Way::Outside, action: Action::Kill };

    #[must_use]
    pub fn name(&self) -> String {
        let point = self.point.map_or("a random moment", Point::name);
        format!("{:?} at {point}", self.action)
    }

    /// How long it may take until all goes on.
    fn margin(&self) -> Duration {
        match (self.action, self.point) {
            (Action::Hang, Some(Point::FollowerPacket)) => MARGIN_OF_PREPARATION,
            _ => MARGIN,
        }
    }

    /// A follower's thread that hangs is left behind, and a recorder's or packager's may cost its
    /// files: with none of them does the stream hang.
    fn ends_a_process(&self) -> bool {
        let threads = [
            Point::FollowerPacket,
            Point::RecordWriting,
            Point::RecordWrote,
            Point::HlsWriting,
            Point::HlsWritten,
            Point::HlsNamed,
        ];
        !(self.action == Action::Hang && self.point.is_some_and(|point| threads.contains(&point)))
    }
}

/// Every point that a worker or the dialer passes, and the way there. Those of the supervisor are
/// its own death; those called controls are left out, not died at.
pub const POINTS: &[(Point, Way)] = &[
    (Point::Handshake, Way::Beginning),
    (Point::Connect, Way::Beginning),
    (Point::PublishAsked, Way::Beginning),
    (Point::Received, Way::Streaming),
    (Point::MidChunk, Way::Streaming),
    (Point::PartialMessage, Way::Streaming),
    (Point::BetweenMessages, Way::Streaming),
    (Point::CommitStaged, Way::Streaming),
    (Point::CommitFlipped, Way::Streaming),
    (Point::PushWriting, Way::Streaming),
    (Point::PushWrote, Way::Streaming),
    (Point::PushHeard, Way::Dialling),
    (Point::RecordWriting, Way::Streaming),
    (Point::RecordWrote, Way::Streaming),
    (Point::HlsWriting, Way::Streaming),
    (Point::HlsWritten, Way::Streaming),
    (Point::HlsNamed, Way::Streaming),
    (Point::MediaPacket, Way::Streaming),
    (Point::FrameWithFds, Way::Adopting),
    (Point::AdoptMapped, Way::Adopting),
    (Point::AdoptTaken, Way::Adopting),
    (Point::AdoptReconciled, Way::Adopting),
    (Point::AdoptLoaded, Way::Adopting),
    (Point::SeamFrame, Way::Adopting),
    (Point::PrepareMapped, Way::Moving),
    (Point::PrepareFollowing, Way::Moving),
    (Point::PrepareReady, Way::Moving),
    (Point::FollowerPacket, Way::Moving),
    (Point::TakeOverWoken, Way::Moving),
    (Point::ReleaseOrdered, Way::Moving),
    (Point::ReleaseCut, Way::Moving),
    (Point::ReleaseCommitted, Way::Moving),
    (Point::ReleaseStored, Way::Moving),
    (Point::ReleaseRang, Way::Moving),
    (Point::DialerConnects, Way::Dialling),
    (Point::DialerConnected, Way::Dialling),
];

/// Every point, dying so.
pub fn everywhere(action: Action) -> impl Iterator<Item = Death> {
    POINTS.iter().map(move |(point, way)| Death { point: Some(*point), way: *way, action })
}

/// What is published to the server whose workers die.
#[derive(Clone, Debug)]
pub struct Scene {
    pub recipe: Recipe,
    pub streams: u32,
    /// Of these, publishers that send their bytes in pieces.
    pub in_pieces: u32,
    pub encoded: (u32, u32),
}

impl Scene {
    /// Two cores carry three of these.
    #[must_use]
    pub fn small(seconds: u32) -> Self {
        let recipe = Recipe { b_frames: 2, ..Recipe::small(seconds) };
        Self { recipe, streams: 5, in_pieces: 2, encoded: (72, 200) }
    }

    #[must_use]
    pub fn full_hd(seconds: u32) -> Self {
        let recipe = Recipe::full_hd(seconds);
        Self { recipe, streams: 1, in_pieces: 0, encoded: (360, 600) }
    }
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Deaths made, by name.
    pub made: BTreeMap<String, u32>,
    /// Processes that died, as the server tells.
    pub deaths: u32,
    /// Streams that went on in another worker after a death.
    pub recoveries: u32,
    pub streams: u32,
    pub hits: Hits,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        for (name, made) in other.made {
            *self.made.entry(name).or_default() += made;
        }
        self.hits.add(other.hits);
        self.deaths += other.deaths;
        self.recoveries += other.recoveries;
        self.streams += other.streams;
    }
}

/// Dies each of these deaths, on as many servers one after the other as that takes, in as many
/// lanes beside each other. `tell` hears of each server that is done.
pub fn run(
    directory: &Path,
    scene: &Scene,
    deaths: &[Death],
    lanes: usize,
    tell: impl Fn(&Tally) + Sync,
) -> Result<Tally> {
    let work = deaths.iter().copied().collect();
    let hangs = deaths.iter().any(|death| death.action == Action::Hang);
    let deadline = if hangs { HANG_DEADLINE } else { NO_HANG_DEADLINE };
    let parts = lanes::run(directory, work, lanes, |directory, queue| {
        let part = stand(directory, scene, deadline, queue)?;
        tell(&part);
        Ok(part)
    })?;
    let mut tally = Tally::default();
    parts.into_iter().for_each(|part| tally.add(part));
    Ok(tally)
}

/// One server from its start to its streams' end.
struct Watch<'a> {
    directory: PathBuf,
    server: Server,
    board: &'a Board,
    names: Vec<String>,
    publishers: Vec<Child>,
    in_pieces: Vec<JoinHandle<Result<()>>>,
    chance: Chance,
    /// What a publisher that begins meanwhile sends.
    guest: Vec<Tag>,
    guests: u32,
    /// No thread that writes files was made to hang: they are whole.
    files_whole: bool,
    /// Deaths that are counted already.
    told: BTreeSet<String>,
    tally: Tally,
}

fn stand(
    directory: &Path,
    scene: &Scene,
    hang_deadline: &str,
    queue: &Queue<Death>,
) -> Result<Tally> {
    let Scene { recipe, streams, in_pieces, encoded: (height, kbps) } = scene;
    let moving = Moving {
        recipe: recipe.clone(),
        streams: *streams,
        rungs: vec![Rung::Source, Rung::encoded(*height, *kbps)],
        audio: "aac",
        moves: 0,
        pause_ms_max: 0,
    };
    let path = directory.join("board");
    let board = Board::create(&path)?;
    let origin = Origin::start(directory)?;
    let accepts_before = origin.accepts()?;
    let setup = Setup {
        workers: Some(2),
        streams_per_worker: Some(32),
        rungs: Some(moving.rungs.clone()),
        audio: Some(moving.audio),
        origin_port: Some(origin.port()),
        record_directory: Some(directory.join("recordings")),
        record_lines: "reserve = \"1MiB\"".into(),
        worker_lines: format!(
            "standby = 2\nhang_deadline = \"{hang_deadline}\"\nrestart_intensity = 1000\n\
             restart_backoff_first = \"10ms\"\nrestart_backoff_max = \"100ms\""
        ),
        tables: format!("{}\n{QUIET}", viewer::tables(directory, "10m")),
        failpoints: Some(path),
        ..Setup::default()
    };
    let server = Server::start(directory, &setup)?;
    let file = recipe.file()?;
    let tags = Flv::read(&file)?.tags;
    let names: Vec<String> = (0..*streams).map(|at| format!("cam{at}")).collect();
    let (pieces, whole) = names.split_at(usize::try_from(*in_pieces)?);
    let mut publishers = Vec::new();
    for name in whole {
        let url = server.url(name);
        publishers.push(publisher::ffmpeg(directory, name, &file, &url, Pace::RealTime)?);
    }
    let in_pieces = pieces.iter().map(|name| send_in_pieces(server.address(), name, &tags));
    let in_pieces = in_pieces.collect();
    let end = clock::now() + Duration::from_secs(u64::from(recipe.seconds));
    let guest = tags.into_iter().filter(|tag| tag.dts_ms <= GUEST_SECONDS * 1000).collect();
    let tally = Tally { streams: *streams, ..Tally::default() };
    let mut watch = Watch {
        directory: directory.to_owned(),
        server,
        board: &board,
        names,
        publishers,
        in_pieces,
        chance: Chance::new(),
        guest,
        guests: 0,
        files_whole: true,
        told: BTreeSet::new(),
        tally,
    };
    // A dial that is not over when its worker dies is dialled again.
    for name in watch.names.clone() {
        watch.owner_of(&name)?;
    }
    let mut dialled = false;
    while let Some(death) = take(queue, end) {
        watch.die(death).with_context(|| format!("{}\n{}", death.name(), watch.log()))?;
        dialled |= death.way == Way::Dialling;
        watch.files_whole &= death.ends_a_process();
    }
    watch.see_out(&moving, &file, &origin, end)?;
    let accepts = origin.accepts()? - accepts_before;
    let wanted = u64::from(moving.streams) * u64::try_from(moving.rungs.len())?;
    // Those of the guests come on top.
    let enough = if dialled { accepts >= wanted } else { accepts == wanted };
    ensure!(enough, "the origin accepted {accepts} connections, {wanted} are enough");
    for name in &watch.names {
        for rung in &moving.rungs {
            let stream = format!("{name}_{}", rung.label());
            let publishes = origin.wait_publishes(&stream, BOUND)?;
            ensure!(publishes == 1, "{stream} was published {publishes} times");
        }
    }
    watch.tally.hits = Hits::of(&board);
    watch.server.stop()?;
    Ok(watch.tally)
}

/// The next death for which there is time.
fn take(queue: &Queue<Death>, end: Instant) -> Option<Death> {
    let left = end.saturating_duration_since(clock::now());
    queue.take(|death| left >= death.margin())
}

impl Watch<'_> {
    fn die(&mut self, death: Death) -> Result<()> {
        let which = self.chance.between(0..=u64::try_from(self.names.len() - 1)?);
        let name = self.names[usize::try_from(which)?].clone();
        let (session, owner) = self.owner_of(&name)?;
        let died = match death.point {
            None => {
                clock::pause(Duration::from_millis(self.chance.between(0..=PAUSE_MS_MAX)));
                kill(Pid::from_raw(owner), Signal::SIGKILL)?;
                owner
            }
            Some(point) => self.die_at(point, death, &session, owner)?,
        };
        if death.ends_a_process() {
            self.server.wait_status("the end of the process", BOUND, |status| {
                let known = status.workers.iter().any(|worker| worker.pid == died);
                (!known).then_some(())
            })?;
        }
        self.wait_recovered()?;
        *self.tally.made.entry(death.name()).or_default() += 1;
        Ok(())
    }

    /// Who died there.
    fn die_at(&mut self, point: Point, death: Death, session: &str, owner: i32) -> Result<i32> {
        let before = self.board.fired(point);
        self.board.arm(point, Order::once(death.action));
        let mut guest = None;
        let mut asked = None;
        match death.way {
            Way::Streaming => {}
            Way::Beginning => guest = Some(self.begin("quiet")),
            Way::Dialling => guest = Some(self.begin("live")),
            Way::Adopting | Way::Outside => kill(Pid::from_raw(owner), Signal::SIGKILL)?,
            Way::Moving => {
                let socket = self.server.socket().to_owned();
                let request = Request::Move { session: session.to_owned(), haste: Haste::Now };
                asked = Some(std::thread::spawn(move || server::ask_once(&socket, &request)));
            }
        }
        wait::until("the point to be passed", BOUND, || {
            Ok((self.board.fired(point) > before).then_some(()))
        })?;
        let died = self.board.fired_by(point).context("nobody was there")?;
        if let Some(guest) = guest {
            joined(guest).context("a publisher that began meanwhile")?;
        }
        if let Some(asked) = asked {
            // Whatever became of the move.
            let _reply = asked.join().map_err(|_| anyhow::anyhow!("asking panicked"))??;
        }
        Ok(died)
    }

    /// The session of this stream, and the process that has it.
    fn owner_of(&mut self, name: &str) -> Result<(String, i32)> {
        self.server.wait_status("the stream at work", BOUND, |status| {
            let session = status.sessions.iter().find(|s| s.name == name && s.state == "live")?;
            let worker = ownership::worker_of(status, session)?;
            let pushed = session.pushes.iter().all(|push| push.state == "live");
            let at_work = session.frames_out > 10 && pushed && worker.state == "serving";
            at_work.then(|| (session.id.clone(), worker.pid))
        })
    }

    /// Waits until every stream has gone on, and counts what died.
    fn wait_recovered(&mut self) -> Result<()> {
        let names = self.names.clone();
        let settled = |status: &Status| {
            let waits = |death: &tasuki_shared::status::DeathStatus| {
                death.sessions.iter().any(|session| session.outcome == "waits")
            };
            !status.deaths.iter().any(waits)
        };
        let given = |status: &Status, name: &str| -> Option<u64> {
            let session = status.sessions.iter().find(|s| s.name == name && s.state == "live")?;
            ownership::worker_of(status, session).map(|_| session.frames_out)
        };
        let before = self.server.wait_status("new owners", BOUND, |status| {
            let all: Option<Vec<u64>> = names.iter().map(|name| given(status, name)).collect();
            all.filter(|_| settled(status))
        })?;
        // A new owner first tells what the last one had given, which may be more than was known:
        // only the second rise is its own doing.
        let mut seen: Vec<(u64, u32)> = before.into_iter().map(|frames| (frames, 0)).collect();
        let deaths = self.server.wait_status("all streams to go on", BOUND, |status| {
            for (name, (frames, rises)) in names.iter().zip(&mut seen) {
                if let Some(now) = given(status, name).filter(|now| now > frames) {
                    (*frames, *rises) = (now, *rises + 1);
                }
            }
            let go_on = seen.iter().all(|(_, rises)| *rises >= 2);
            (settled(status) && go_on).then(|| status.deaths.clone())
        })?;
        for death in deaths {
            if !self.told.insert(death.worker.clone()) {
                continue;
            }
            self.tally.deaths += 1;
            for session in &death.sessions {
                ensure!(!session.outcome.starts_with("ended"), "{death:?}");
                self.tally.recoveries += u32::from(names.contains(&session.name));
            }
        }
        Ok(())
    }

    /// A publisher that begins, sends a little and ends.
    fn begin(&mut self, app: &'static str) -> JoinHandle<Result<()>> {
        self.guests += 1;
        let (name, tags) = (format!("guest{}", self.guests), self.guest.clone());
        let address = self.server.address().to_owned();
        std::thread::spawn(move || {
            let mut publisher = RawPublisher::open(&address)?;
            publisher.shake_hands()?;
            publisher.connect(app)?;
            publisher.send_publish(&name)?;
            publisher.wait_started()?;
            publisher.send_tags(&tags, 1, |tag| Some(tag.dts_ms))?;
            publisher.finish(BOUND)
        })
    }

    /// Sees the publishers to their end and checks what arrived.
    fn see_out(
        &mut self,
        moving: &Moving,
        file: &Path,
        origin: &Origin,
        end: Instant,
    ) -> Result<()> {
        let bound = end.saturating_duration_since(clock::now()) + BOUND;
        for publisher in &mut self.publishers {
            let log = self.server.log();
            publisher
                .finish(bound)
                .with_context(|| format!("a publisher was disconnected\n{log}"))?;
        }
        for publisher in self.in_pieces.drain(..) {
            joined(publisher).context("a publisher that sends in pieces")?;
        }
        self.server.wait_no_sessions(BOUND)?;
        origin.wait_idle(BOUND)?;
        let log = self.server.log();
        for word in ["panicked", "session_quarantined", "stream_dropped"] {
            ensure!(!log.contains(word), "{word}:\n{log}");
        }
        moves::check(origin, moving, file, &self.names).with_context(|| self.log())?;
        for name in &self.names {
            for rung in moving.rungs.iter().filter(|rung| **rung != Rung::Source) {
                let stream = format!("{name}_{}", rung.label());
                check_grid(&origin.recording(&stream)?).with_context(|| stream)?;
            }
        }
        if self.files_whole {
            self.check_watched(moving)?;
        }
        Ok(())
    }

    /// What viewers get is as whole as what the origin got.
    fn check_watched(&mut self, moving: &Moving) -> Result<()> {
        let address = self.server.viewers()?;
        let labels: Vec<&str> = moving.rungs.iter().map(Rung::label).collect();
        for name in &self.names {
            let stream = format!("live/{name}");
            viewer::check_whole(&address, &stream, &labels, &moving.recipe, &self.directory)
                .with_context(|| self.log())?;
        }
        Ok(())
    }

    fn log(&self) -> String {
        let log = self.server.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    match thread.join() {
        Ok(outcome) => outcome,
        Err(_) => bail!("a publisher panicked"),
    }
}

/// Publishes in real time; each message goes out in three pieces, so that a wake-up of the server
/// may end anywhere in it.
fn send_in_pieces(address: &str, name: &str, tags: &[Tag]) -> JoinHandle<Result<()>> {
    let (address, name, tags) = (address.to_owned(), name.to_owned(), tags.to_vec());
    std::thread::spawn(move || {
        let mut publisher = RawPublisher::publish(&address, &name, 512)?;
        let mut pace = raw_publisher::Pace::new(&tags, 1);
        for tag in &tags {
            pace.wait_for(tag);
            let message = Message::of_tag(tag, tag.dts_ms);
            let then = raw_publisher::Continuation::Repeats;
            let bytes = message.chunks(publisher.chunk_size(), Format::Full, then).concat();
            for piece in bytes.chunks(bytes.len().div_ceil(3).max(1)) {
                publisher.send_bytes(piece)?;
                std::thread::yield_now();
            }
        }
        publisher.finish(BOUND)
    })
}

/// Each packet of sound at its time, from the first on: 1,024 samples each, to the millisecond.
fn check_grid(recording: &Path) -> Result<()> {
    let flv = Flv::read(recording)?;
    let times: Vec<u64> = flv.coded(Kind::Audio).map(|tag| u64::from(tag.dts_ms)).collect();
    let first = *times.first().context("no sound")?;
    for (at, time) in (0..).zip(&times) {
        let due = first + at * SAMPLES_PER_PACKET * 1000 / SAMPLES_PER_SECOND;
        ensure!(time.abs_diff(due) <= 1, "packet {at} of the sound is at {time} ms, not {due} ms");
    }
    Ok(())
}
