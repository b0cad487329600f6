//! Faults at each step of a planned hand-off: one of the two workers dies, hangs, is late or has no
//! room for fds, or the supervisor is slow. Whatever it was, afterwards each session has exactly one
//! owner, and nothing is lost: the checks on what arrived are those of every move.
//!
//! `./dev test` and `./dev soak handoff-faults` differ in the counts, not in these checks.

use crate::child::Child;
use crate::fixture::Recipe;
use crate::hits::Hits;
use crate::lanes::{self, Queue};
use crate::moves::{self, Moving};
use crate::origin::Origin;
use crate::ownership;
use crate::passage::BOUND;
use crate::proc;
use crate::publisher::{self, Pace};
use crate::server::{self, Rung, Server, Setup};
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::failpoint::{Action, Board, Order, Point};
use tasuki_shared::message::Haste;
use tasuki_shared::status::{MoveStatus, Reply, Request, Status, WorkerStatus};

/// Streams that one server has; all of one worker's suffer from its death.
const STREAMS: u32 = 2;
/// A worker that says nothing is killed after the supervisor's ten seconds; some more pass.
const HANG_BOUND: Duration = Duration::from_secs(25);
/// Hangs blame the streams that were in work; a third one would end a stream.
const HANGS_PER_SERVER_MAX: u32 = 2;
/// From the streams' end no fault is made any more.
const MARGIN: Duration = Duration::from_secs(4);

/// Whom a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Target,
    Old,
    Supervisor,
    /// The follower of each stream in its target, all streams being moved at once.
    EveryFollower,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    At(Point, Action),
    /// Its table of file descriptors has no free place, by RLIMIT_NOFILE.
    TableFull,
}

/// Who owns the session afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heir {
    Old,
    Target,
    /// Not the process that it befell.
    Another,
}

/// One fault at one step.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    who: Who,
    what: What,
    haste: Haste,
    /// How the move's outcome may begin.
    outcomes: &'static [&'static str],
    heir: Heir,
    /// Seconds it may take; no stream may end meanwhile.
    cost_s: u64,
}

const KILL: Action = Action::Kill;
const HANG: Action = Action::Hang;
const LATE: Action = Action::Delay { ms: 400 };

const fn target_dies(name: &'static str, point: Point, heir: Heir) -> Case {
    let outcomes: &[&str] = match heir {
        Heir::Old => &["kept: the target died"],
        Heir::Target | Heir::Another => &["crashed over", "done"],
    };
    let what = What::At(point, KILL);
    Case { name, who: Who::Target, what, haste: Haste::Now, outcomes, heir, cost_s: 4 }
}

const fn old_dies(name: &'static str, point: Point) -> Case {
    let (what, heir) = (What::At(point, KILL), Heir::Target);
    let outcomes = &["crashed over", "done"];
    Case { name, who: Who::Old, what, haste: Haste::Now, outcomes, heir, cost_s: 4 }
}

const fn slow(name: &'static str, point: Point) -> Case {
    let (what, heir) = (What::At(point, LATE), Heir::Target);
    Case {
        name,
        who: Who::Supervisor,
        what,
        haste: Haste::Now,
        outcomes: &["done"],
        heir,
        cost_s: 4,
    }
}

/// What is quickly over: deaths, delays, refusals.
pub const QUICK: &[Case] = &[
    target_dies("target dies, session mapped", Point::PrepareMapped, Heir::Old),
    target_dies("target dies, follower started", Point::PrepareFollowing, Heir::Old),
    target_dies("target dies before Prepared", Point::PrepareReady, Heir::Old),
    target_dies("target dies, woken", Point::TakeOverWoken, Heir::Another),
    target_dies("target dies before it takes the word", Point::AdoptMapped, Heir::Another),
    target_dies("target dies with the word taken", Point::AdoptTaken, Heir::Another),
    target_dies("target dies, counters read", Point::AdoptReconciled, Heir::Another),
    target_dies("target dies, record loaded", Point::AdoptLoaded, Heir::Another),
    target_dies("target dies before its first frame", Point::SeamFrame, Heir::Another),
    old_dies("old dies at the cut", Point::ReleaseCut),
    old_dies("old dies before the word", Point::ReleaseCommitted),
    old_dies("old dies before the bell", Point::ReleaseStored),
    old_dies("old dies before Released", Point::ReleaseRang),
    Case {
        name: "no fd left in the target",
        who: Who::Target,
        what: What::TableFull,
        haste: Haste::Now,
        outcomes: &["kept: the target could not prepare"],
        heir: Heir::Old,
        cost_s: 4,
    },
    Case {
        name: "fds lost on the way to the target",
        who: Who::Target,
        what: What::At(Point::FrameWithFds, Action::Fail),
        haste: Haste::Now,
        outcomes: &["kept: the target could not prepare"],
        heir: Heir::Old,
        cost_s: 4,
    },
    Case {
        name: "bell lost on the way to the old",
        who: Who::Old,
        what: What::At(Point::FrameWithFds, Action::Fail),
        haste: Haste::Now,
        outcomes: &["kept: the owner could not release it"],
        heir: Heir::Old,
        cost_s: 4,
    },
    slow("supervisor slow before Prepare", Point::SendingPrepare),
    slow("supervisor slow after Prepare", Point::SentPrepare),
    slow("supervisor slow at Prepared", Point::HeardPrepared),
    slow("supervisor slow before Release", Point::SendingRelease),
    slow("supervisor slow after Release", Point::SentRelease),
    slow("supervisor slow at Released", Point::HeardReleased),
    slow("supervisor slow at Adopted", Point::HeardAdopted),
];

/// What a deadline of the hand-off ends.
pub const TIMEOUTS: &[Case] = &[
    Case {
        name: "the owner never releases",
        who: Who::Old,
        what: What::At(Point::ReleaseOrdered, Action::Skip),
        haste: Haste::Now,
        outcomes: &["kept: the owner did not release it in time"],
        heir: Heir::Old,
        cost_s: 6,
    },
    Case {
        name: "the preparation never ends",
        who: Who::EveryFollower,
        what: What::At(Point::FollowerPacket, HANG),
        haste: Haste::Now,
        outcomes: &["kept: the target did not prepare in time"],
        heir: Heir::Old,
        cost_s: 17,
    },
];

/// What only the death of a hung worker ends.
pub const HANGS: &[Case] = &[
    hangs("old hangs before the commit", Point::ReleaseCut, Haste::Now, Heir::Another),
    hangs("old hangs before the word", Point::ReleaseCommitted, Haste::Now, Heir::Another),
    hangs("old hangs and must release", Point::ReleaseCommitted, Haste::AtAnyPrice, Heir::Target),
    hangs("old hangs before the bell", Point::ReleaseStored, Haste::Now, Heir::Target),
    hangs("old hangs before Released", Point::ReleaseRang, Haste::Now, Heir::Target),
];

const fn hangs(name: &'static str, point: Point, haste: Haste, heir: Heir) -> Case {
    let outcomes: &[&str] = match heir {
        Heir::Old | Heir::Another => &["kept: the owner did not release it in time"],
        Heir::Target => &["crashed over", "done"],
    };
    Case { name, who: Who::Old, what: What::At(point, HANG), haste, outcomes, heir, cost_s: 14 }
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Faults made, by case.
    pub made: BTreeMap<&'static str, u32>,
    pub hits: Hits,
    pub servers: u32,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        for (name, made) in other.made {
            *self.made.entry(name).or_default() += made;
        }
        self.hits.add(other.hits);
        self.servers += other.servers;
    }
}

/// Makes each of the faults so often, on as many servers one after the other as that takes, whose
/// streams are `seconds` long, in as many lanes beside each other.
pub fn run(
    directory: &Path,
    cases: &[Case],
    times: u32,
    seconds: u32,
    lanes: usize,
) -> Result<Tally> {
    let wanted = |case: &&Case, round| round < times.div_ceil(case.sessions());
    let queue =
        (0..times).flat_map(|round| cases.iter().filter(move |case| wanted(case, round)).copied());
    let parts = lanes::run(directory, queue.collect(), lanes, |directory, queue| {
        stand(directory, queue, seconds)
    })?;
    let mut tally = Tally::default();
    parts.into_iter().for_each(|part| tally.add(part));
    Ok(tally)
}

/// One server and its streams.
struct Watch<'a> {
    server: Server,
    board: &'a Board,
    publishers: Vec<Child>,
    names: Vec<String>,
}

/// One server from its start to its streams' end, and faults from the queue as long as time is left.
fn stand(directory: &Path, queue: &Queue<Case>, seconds: u32) -> Result<Tally> {
    let moving = Moving {
        recipe: Recipe { b_frames: 2, ..Recipe::small(seconds) },
        streams: STREAMS,
        rungs: vec![Rung::Source, Rung::encoded(72, 200)],
        audio: "aac",
        moves: 0,
        pause_ms_max: 0,
    };
    let path = directory.join("board");
    let board = Board::create(&path)?;
    let origin = Origin::start(directory)?;
    let before = origin.accepts()?;
    let setup = Setup {
        workers: Some(2),
        streams_per_worker: Some(STREAMS * 2),
        rungs: Some(moving.rungs.clone()),
        audio: Some(moving.audio),
        origin_port: Some(origin.port()),
        failpoints: Some(path),
        ..Setup::default()
    };
    let server = Server::start(directory, &setup)?;
    let file = moving.recipe.file()?;
    let names: Vec<String> = (0..STREAMS).map(|at| format!("cam{at}")).collect();
    let mut publishers = Vec::new();
    for name in &names {
        let url = server.url(name);
        publishers.push(publisher::ffmpeg(directory, name, &file, &url, Pace::RealTime)?);
    }
    let end = clock::now() + Duration::from_secs(u64::from(seconds));
    let mut watch = Watch { server, board: &board, publishers, names };
    let mut tally = Tally { servers: 1, ..Tally::default() };
    let mut hangs = 0;
    while let Some(case) = take(queue, end, hangs) {
        let which = usize::try_from(tally.made.values().sum::<u32>())? % watch.names.len();
        let made = watch
            .make(&case, which)
            .with_context(|| format!("{} ({})\n{}", case.name, watch.names[which], watch.log()))?;
        *tally.made.entry(case.name).or_default() += made;
        hangs += u32::from(case.is_fatal_hang());
    }
    let log = watch.log();
    for publisher in &mut watch.publishers {
        publisher.finish(BOUND).with_context(|| format!("a publisher was disconnected\n{log}"))?;
    }
    watch.server.wait_no_sessions(BOUND)?;
    origin.wait_idle(BOUND)?;
    let log = watch.server.log();
    ensure!(!log.contains("panic"), "a worker panicked:\n{log}");
    let accepts = origin.accepts()? - before;
    let wanted = u64::from(moving.streams) * u64::try_from(moving.rungs.len())?;
    ensure!(
        accepts == wanted,
        "the origin accepted {accepts} connections, {wanted} are enough:\n{log}"
    );
    moves::check(&origin, &moving, &file, &watch.names).with_context(|| watch.log())?;
    tally.hits = Hits::of(&board);
    watch.server.stop()?;
    Ok(tally)
}

/// The next fault for which there is time.
fn take(queue: &Queue<Case>, end: Instant, hangs: u32) -> Option<Case> {
    let left = end.saturating_duration_since(clock::now()).saturating_sub(MARGIN);
    let fits = |case: &Case| {
        left >= Duration::from_secs(case.cost_s)
            && (!case.is_fatal_hang() || hangs < HANGS_PER_SERVER_MAX)
    };
    queue.take(fits)
}

impl Case {
    /// How many are moved at once, and suffer it.
    fn sessions(&self) -> u32 {
        match self.who {
            Who::EveryFollower => STREAMS,
            Who::Target | Who::Old | Who::Supervisor => 1,
        }
    }

    fn ends_a_worker(&self) -> bool {
        self.is_fatal_hang() || matches!(self.what, What::At(_, Action::Kill))
    }

    /// Does a whole worker hang, until it is killed?
    fn is_fatal_hang(&self) -> bool {
        self.who == Who::Old && matches!(self.what, What::At(_, Action::Hang))
    }
}

/// The session that is moved, and the two it is moved between.
struct Pair {
    session: String,
    old: WorkerStatus,
    target: WorkerStatus,
}

impl Watch<'_> {
    /// Makes one fault, and checks who owns what afterwards. How often it was made.
    fn make(&mut self, case: &Case, which: usize) -> Result<u32> {
        let pair = self.steady(which)?;
        let process = match case.who {
            Who::Target => Some(pair.target.pid),
            Who::Old => Some(pair.old.pid),
            Who::Supervisor => Some(self.server.pid()),
            Who::EveryFollower => None,
        };
        let replies = match case.what {
            What::TableFull => {
                let befallen = process.context("a process")?;
                let before = fill_table(befallen)?;
                let replies = self.move_sessions(std::slice::from_ref(&pair.session), case.haste);
                limit_table(befallen, &before)?;
                replies?
            }
            What::At(point, action) => {
                let sessions = match case.who {
                    Who::EveryFollower => self.all_sessions()?,
                    Who::Target | Who::Old | Who::Supervisor => vec![pair.session.clone()],
                };
                let (before, times) = (self.board.fired(point), u8::try_from(sessions.len())?);
                self.board.arm(point, Order { process, times, ..Order::once(action) });
                let replies = self.move_sessions(&sessions, case.haste)?;
                let wanted = before + u64::from(times);
                let fired = wait::until("the fault to happen", BOUND, || {
                    Ok((self.board.fired(point) == wanted).then_some(()))
                });
                fired.with_context(|| format!("{} of {wanted}", self.board.fired(point)))?;
                if case.ends_a_worker() {
                    let ended = self.board.fired_by(point).context("nobody was there")?;
                    self.server.wait_status("the end of the worker", HANG_BOUND, |status| {
                        let known = status.workers.iter().any(|worker| worker.pid == ended);
                        (!known).then_some(())
                    })?;
                }
                replies
            }
        };
        for reply in &replies {
            let known = case.outcomes.iter().any(|outcome| reply.outcome.starts_with(outcome));
            ensure!(known, "the move's outcome: {reply:?}");
        }
        let after = self.steady(which)?;
        // Else the next fault could find a stream that has not yet gone on, and befall that one.
        self.wait_going_on()?;
        let publishers: Vec<_> =
            self.names.iter().cloned().zip(self.publishers.iter().map(Child::pid)).collect();
        ownership::check(&mut self.server, &publishers)?;
        let is_heir = match case.heir {
            Heir::Old => after.old.generation == pair.old.generation,
            Heir::Target => after.old.generation == pair.target.generation,
            Heir::Another => Some(after.old.pid) != process,
        };
        ensure!(is_heir, "{:?} should have it: {} has", case.heir, after.old.generation);
        Ok(u32::try_from(replies.len())?)
    }

    /// Waits until both workers serve and every stream is encoded by its owner.
    fn steady(&mut self, which: usize) -> Result<Pair> {
        for publisher in &mut self.publishers {
            publisher.must_run()?;
        }
        let names = &self.names;
        self.server.wait_status("two workers and all streams encoded", BOUND, |status| {
            let serving = |worker: &&WorkerStatus| worker.role == "worker" && is_serving(worker);
            let serving: Vec<_> = status.workers.iter().filter(serving).collect();
            let [one, two] = serving[..] else { return None };
            let session = |name: &String| {
                status.sessions.iter().find(|s| s.name == *name && s.state == "live")
            };
            let at_work = |name| {
                session(name).is_some_and(|s| {
                    let owned = ownership::worker_of(status, s).is_some_and(is_serving);
                    owned && s.frames_out > 10 && s.pushes.iter().all(|p| p.state == "live")
                })
            };
            if !names.iter().all(at_work) {
                return None;
            }
            let session = session(&names[which])?;
            let old = ownership::worker_of(status, session)?;
            let target = if old.generation == one.generation { two } else { one };
            let (old, target) = (old.clone(), target.clone());
            Some(Pair { session: session.id.clone(), old, target })
        })
    }

    /// Waits until every stream has given frames since now.
    fn wait_going_on(&mut self) -> Result<()> {
        let given = |status: &Status, name: &String| {
            status.sessions.iter().find(|s| s.name == *name).map_or(0, |s| s.frames_out)
        };
        let status = self.server.status()?;
        let before: Vec<_> =
            self.names.iter().map(|name| (name.clone(), given(&status, name))).collect();
        self.server.wait_status("all streams to go on", BOUND, |status| {
            before.iter().all(|(name, before)| given(status, name) > *before).then_some(())
        })
    }

    fn all_sessions(&mut self) -> Result<Vec<String>> {
        let status: Status = self.server.status()?;
        Ok(status.sessions.into_iter().map(|session| session.id).collect())
    }

    /// Moves all of them at once and waits for all outcomes.
    fn move_sessions(&mut self, sessions: &[String], haste: Haste) -> Result<Vec<MoveStatus>> {
        let socket = self.server.socket();
        let ask =
            |session: String| match server::ask_once(socket, &Request::Move { session, haste })? {
                Reply::Moved(done) => Ok(done),
                other @ (Reply::Status(_)
                | Reply::Event(_)
                | Reply::Recycled(_)
                | Reply::Heap { .. }
                | Reply::Threads { .. }
                | Reply::Done
                | Reply::Refused { .. }) => bail!("a move was answered by {other:?}"),
            };
        std::thread::scope(|scope| {
            let asked: Vec<_> =
                sessions.iter().map(|session| scope.spawn(|| ask(session.clone()))).collect();
            let replies = asked.into_iter().map(|thread| match thread.join() {
                Ok(reply) => reply,
                Err(_) => bail!("asking panicked"),
            });
            replies.collect()
        })
    }

    fn log(&self) -> String {
        let log = self.server.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

fn is_serving(worker: &WorkerStatus) -> bool {
    worker.state == "serving"
}

/// From now on no further fd can be had. Gives the limit that was there.
fn fill_table(pid: i32) -> Result<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()).context("no limit on fds")?;
    // The next fd would get the lowest free number.
    let census = proc::Census::take(pid, &[])?;
    let process = census.processes.first().context("it is gone")?;
    let free = (0..).find(|number| !process.fds.contains_key(number)).unwrap_or(0);
    limit_table(pid, &free.to_string())?;
    Ok(soft.to_owned())
}

fn limit_table(pid: i32, soft: &str) -> Result<()> {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")])
        .status()
        .context("running prlimit")?;
    ensure!(status.success(), "prlimit ended with {status}");
    Ok(())
}
