//! All workers replaced, over and over, under live streams: nobody notices, and what the
//! supervisor holds does not grow.
//!
//! `./dev test` and `./dev soak` differ in the counts, not in these checks. A rotation is asked for
//! at once (urgent), at scheduled cuts (in full), or by SIGHUPs that come faster than rotations
//! end; those coalesce, so what counts is what the status says was completed.

use crate::chance::Chance;
use crate::ledger::{self, Ledger};
use crate::lives::{Lives, Mix};
use crate::origin::Origin;
use crate::proc::Memory;
use crate::server::{Server, Setup};
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::message::Haste;
use tasuki_shared::status::{MoveStatus, RecycleStatus, Reply, Request, Status};

/// Between two signals: shorter than any rotation.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(40);
/// A storm of signals ends once so many rotations were completed under it; one more follows.
const STORM_ROTATIONS: usize = 2;
/// Fewer signals for each rotation were no storm.
const STORM_SIGNALS_MIN: usize = 5;
/// For a rotation that does not end.
const ROTATION_BOUND: Duration = Duration::from_secs(120);
/// For processes to be gone and connections to be closed.
const QUIET_BOUND: Duration = Duration::from_secs(30);
/// Of a round, kept for the reading at its end while all streams are live.
const READING_TIME: Duration = Duration::from_secs(4);
/// Rotations before the first reading: what is made once, at first use, is no growth.
const WARM_UP: usize = 3;
/// What the supervisor's footprint may differ by: its allocator's pages, not a thing of ours.
pub const GROWTH_BYTES_MAX: u64 = 2 << 20;

/// What is rotated, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Rotating {
    pub mix: Mix,
    pub workers: u32,
    pub urgent: usize,
    /// Storms count for as many as were completed.
    pub in_full: usize,
    /// Storms of SIGHUPs among those in full, at least.
    pub storms: usize,
    /// How long the streams of one round are.
    pub round_s: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Urgent,
    InFull,
    Storm,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Rotated {
    pub urgent: usize,
    pub in_full: usize,
    pub storms: usize,
    /// Of those in full, by signal.
    pub by_signal: usize,
    pub signals: usize,
    pub recycles: usize,
    pub moves: Vec<MoveStatus>,
    pub rounds: u32,
    pub pictures: usize,
    pub readings: Vec<Reading>,
}

impl Rotated {
    #[must_use]
    pub fn rotations(&self) -> usize {
        self.urgent + self.in_full
    }

    /// Most that the supervisor's footprint was above the first reading's.
    #[must_use]
    pub fn growth_bytes(&self) -> u64 {
        let footprint = |reading: &Reading| reading.footprint_bytes;
        let first = self.readings.first().map_or(0, footprint);
        self.readings.iter().map(footprint).max().unwrap_or(0).saturating_sub(first)
    }
}

/// What the server holds while all streams are live and nothing moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub rotations: usize,
    pub processes: usize,
    /// Descriptors of the supervisor, by kind: memory files are among them, by name.
    pub fds: BTreeMap<String, usize>,
    /// Memory files of all processes, as descriptors.
    pub memfds: usize,
    pub footprint_bytes: u64,
}

impl Reading {
    fn take(server: &Server, rotations: usize) -> Result<Self> {
        let census = server.census()?;
        let supervisor = census.processes.iter().find(|process| process.pid == server.pid());
        let supervisor = supervisor.context("the supervisor is there")?;
        let memory = Memory::of(server.pid())?.context("the supervisor's memory")?;
        Ok(Self {
            rotations,
            processes: census.processes.len(),
            fds: supervisor.kinds(),
            memfds: census.memfds(),
            footprint_bytes: memory.footprint_bytes,
        })
    }

    /// Everything but the memory, which is never the same to the byte.
    fn holds_as_much(&self, other: &Self) -> bool {
        (self.processes, &self.fds, self.memfds) == (other.processes, &other.fds, other.memfds)
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fds: usize = self.fds.values().sum();
        write!(
            f,
            "after {} rotations: {} processes, {fds} fds of the supervisor, {} memfds, \
             supervisor {} KiB",
            self.rotations,
            self.processes,
            self.memfds,
            self.footprint_bytes >> 10
        )
    }
}

/// Publishes in rounds, rotates until all that was asked for is done, and checks what arrived.
pub fn run(directory: &Path, rotating: &Rotating, chance: &mut Chance) -> Result<Rotated> {
    let origin = Origin::start(directory)?;
    let setup = Setup { workers: Some(rotating.workers), ..rotating.mix.setup(&origin) };
    let mut server = Server::start(directory, &setup)?;
    let mut run = Run {
        rotating: *rotating,
        ledger: Ledger::default(),
        longest: BTreeMap::new(),
        done: Rotated::default(),
    };
    while run.next_kind(chance).is_some() {
        let prefix = format!("r{}-", run.done.rounds);
        let (mix, seconds) = (rotating.mix, rotating.round_s);
        let lives = Lives::publish(directory, &prefix, mix, seconds, (&mut server, &origin))?;
        let before = run.done.rotations();
        while let Some(kind) = run.next_kind(chance).filter(|kind| run.fits(*kind, &lives)) {
            run.rotate(kind, &mut server, &lives)?;
            if run.done.readings.is_empty() && run.done.rotations() >= WARM_UP {
                run.read(&mut server, &lives)?;
            }
        }
        ensure!(run.done.rotations() > before, "{seconds} s are too short for a rotation");
        if run.done.rotations() >= WARM_UP {
            run.read(&mut server, &lives)?;
        }
        run.done.pictures += lives.finish((&mut server, &origin))?;
        run.done.rounds += 1;
        println!("round {}: every picture once, one connection for each push", run.done.rounds);
    }
    let Run { done, .. } = run;
    ensure!(done.readings.len() > 1, "nothing to compare with");
    let growth = done.growth_bytes();
    ensure!(growth <= GROWTH_BYTES_MAX, "the supervisor grew by {growth} bytes: {done:?}");
    server.stop()?;
    Ok(done)
}

struct Run {
    rotating: Rotating,
    ledger: Ledger,
    /// How long the longest of a kind took so far.
    longest: BTreeMap<Kind, Duration>,
    done: Rotated,
}

impl Run {
    /// Drawn so that all kinds are spread over the whole run.
    fn next_kind(&self, chance: &mut Chance) -> Option<Kind> {
        let storms = self.rotating.storms.saturating_sub(self.done.storms);
        let urgent = self.rotating.urgent.saturating_sub(self.done.urgent);
        let in_full = self.rotating.in_full.saturating_sub(self.done.in_full);
        let left = u64::try_from(urgent + in_full.max(storms)).unwrap_or(u64::MAX);
        if left == 0 {
            return None;
        }
        let drawn = usize::try_from(chance.between(0..=left - 1)).unwrap_or(0);
        // A storm counts for more than one of those in full.
        let by_storm = storms * (STORM_ROTATIONS + 1);
        Some(if drawn < by_storm.min(in_full.max(storms)) {
            Kind::Storm
        } else if drawn < in_full {
            Kind::InFull
        } else {
            Kind::Urgent
        })
    }

    /// Will it end before the streams do?
    fn fits(&self, kind: Kind, lives: &Lives) -> bool {
        let guess = match kind {
            Kind::Urgent => Duration::from_secs(2),
            Kind::InFull => Duration::from_secs(4),
            Kind::Storm => Duration::from_secs(8),
        };
        let longest = self.longest.get(&kind).copied().unwrap_or(guess);
        lives.left() > longest * 3 / 2 + READING_TIME
    }

    fn rotate(&mut self, kind: Kind, server: &mut Server, lives: &Lives) -> Result<()> {
        let (began, from) = (clock::now(), self.ledger.next_id());
        match kind {
            Kind::Urgent => {
                self.ask(server, Haste::Now)?;
                self.done.urgent += 1;
            }
            Kind::InFull => {
                self.ask(server, Haste::Scheduled)?;
                self.done.in_full += 1;
            }
            Kind::Storm => {
                let completed = self.storm(server)?;
                self.done.in_full += completed;
                self.done.by_signal += completed;
                self.done.storms += 1;
            }
        }
        let took = began.elapsed();
        let longest = self.longest.entry(kind).or_default();
        *longest = took.max(*longest);
        lives.must_be_live(&self.look(server)?)?;
        self.ledger.check(from).with_context(|| format!("{kind:?} of recycles from {from} on"))?;
        let recycles: Vec<&RecycleStatus> = self.ledger.since(from).collect();
        self.done.recycles += recycles.len();
        let moves = recycles.iter().flat_map(|recycle| recycle.moves.iter().cloned());
        let moves: Vec<MoveStatus> = moves.collect();
        println!(
            "{:>5} rotations: {kind:?} in {} ms, {} processes replaced, {}",
            self.done.rotations(),
            took.as_millis(),
            recycles.len(),
            pauses(moves.iter())
        );
        self.done.moves.extend(moves);
        Ok(())
    }

    /// One rotation that is waited for: each worker is replaced, and each stream moved once.
    fn ask(&mut self, server: &mut Server, haste: Haste) -> Result<()> {
        let from = self.ledger.next_id();
        let request = Request::Rotate { worker: None, reason: "again".to_owned(), haste };
        let mut answered = 0;
        for reply in server.request_all(&request)? {
            match reply {
                Reply::Recycled(_) => answered += 1,
                other @ (Reply::Status(_)
                | Reply::Event(_)
                | Reply::Moved(_)
                | Reply::Heap { .. }
                | Reply::Threads { .. }
                | Reply::Done
                | Reply::Refused { .. }) => bail!("a rotation was answered by {other:?}"),
            }
        }
        self.look(server)?;
        let (replaced, moved) = self.counts(from);
        let streams = usize::try_from(self.rotating.mix.streams())?;
        ensure!(replaced >= self.rotation(), "{replaced} processes were replaced");
        ensure!(answered == replaced, "{answered} of {replaced} recycles were told of");
        ensure!(moved == streams, "{moved} moves of {streams} streams");
        self.wait_quiet(server)
    }

    /// Signals until some rotations were completed, and the wait for what they left to do. How many
    /// rotations that were.
    fn storm(&mut self, server: &mut Server) -> Result<usize> {
        let (from, until) = (self.ledger.next_id(), clock::now() + ROTATION_BOUND);
        let processes = self.rotation();
        let mut signals = 0;
        loop {
            ensure!(clock::now() < until, "no end of a storm: {:?}", self.ledger);
            let status = self.look(server)?;
            let open = status.recycles.iter().filter(|recycle| !ledger::is_over(recycle)).count();
            ensure!(open <= processes, "{open} recycles wait: signals do not coalesce");
            let over = self.ledger.since(from).filter(|recycle| ledger::is_over(recycle)).count();
            if over >= STORM_ROTATIONS * processes {
                break;
            }
            server.signal(Signal::SIGHUP)?;
            signals += 1;
            clock::pause(SIGNAL_INTERVAL);
        }
        self.wait_quiet(server)?;
        let strange = self.ledger.since(from).find(|recycle| recycle.reason != "reload");
        ensure!(strange.is_none(), "nobody asked for {strange:?}");
        let (replaced, moved) = self.counts(from);
        let completed = replaced / processes;
        let streams = usize::try_from(self.rotating.mix.streams())?;
        ensure!(
            moved == completed * streams,
            "{moved} moves of {streams} streams: {:?}",
            self.ledger
        );
        ensure!(
            completed > STORM_ROTATIONS && signals >= STORM_SIGNALS_MIN * completed,
            "{signals} signals, {completed} rotations"
        );
        self.done.signals += signals;
        Ok(completed)
    }

    fn look(&mut self, server: &mut Server) -> Result<Status> {
        let status = server.status()?;
        self.ledger.note(&status);
        Ok(status)
    }

    /// Nothing is under way, the old processes are gone, and somebody stands by.
    fn wait_quiet(&mut self, server: &mut Server) -> Result<()> {
        let processes = self.processes();
        wait::until("the end of all rotations", ROTATION_BOUND, || {
            let status = self.look(server)?;
            let workers = || status.workers.iter().filter(|worker| worker.role == "worker");
            let in_place = |worker| is_in_place(worker);
            let all = workers().count() == processes && workers().all(in_place);
            Ok((all && ledger::is_quiet(&status)).then_some(()))
        })
    }

    /// Takes a reading once it is what the first one was; the first once it is what it was a
    /// moment ago.
    fn read(&mut self, server: &mut Server, lives: &Lives) -> Result<()> {
        self.wait_quiet(server)?;
        let rotations = self.done.rotations();
        let mut last = Reading::take(server, rotations)?;
        let first = self.done.readings.first().cloned();
        let settled = wait::until("the server to hold what it held", QUIET_BOUND, || {
            let before = last.clone();
            last = Reading::take(server, rotations)?;
            let as_ever = first.as_ref().unwrap_or(&before);
            Ok(last.holds_as_much(as_ever).then_some(()))
        });
        settled.with_context(|| format!("at first {first:#?}\nnow {last:#?}"))?;
        lives.must_be_live(&server.status()?).context("the streams are too short")?;
        println!("{last}");
        self.done.readings.push(last);
        Ok(())
    }

    /// Workers replaced and streams moved by recycles from this one on.
    fn counts(&self, from: u64) -> (usize, usize) {
        let moved = self.ledger.since(from).map(|recycle| recycle.moves.len()).sum();
        (self.ledger.since(from).count(), moved)
    }

    /// Workers and the one that stands by.
    fn processes(&self) -> usize {
        usize::try_from(self.rotating.workers).unwrap_or(usize::MAX).saturating_add(1)
    }

    /// Recycles of one rotation: every worker, and the dialer.
    fn rotation(&self) -> usize {
        self.processes().saturating_add(1)
    }
}

fn is_in_place(worker: &tasuki_shared::status::WorkerStatus) -> bool {
    matches!(worker.state.as_str(), "serving" | "standby")
}

/// The distribution of the moves' pauses in words.
pub fn pauses<'a>(moves: impl Iterator<Item = &'a MoveStatus>) -> String {
    let mut sorted: Vec<u64> = moves.map(|moved| moved.pause_us).collect();
    sorted.sort_unstable();
    let Some(last) = sorted.len().checked_sub(1) else { return "no moves".to_owned() };
    let at = |percent: usize| sorted[last * percent / 100];
    format!(
        "{} moves, pause p50 {} µs, p99 {} µs, longest {} µs",
        sorted.len(),
        at(50),
        at(99),
        at(100)
    )
}
