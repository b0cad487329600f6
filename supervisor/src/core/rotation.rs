//! Who asks for recycles, in which order they are done, and who is told.
//!
//! Requests queue; one for a worker that has one already is the same, more urgent if need be. A
//! rotation recycles the standby first, so that nobody moves to an old one, and last dialer, delivery and
//! console. Reloads that come while one rotates are followed by one more rotation, however many they
//! were.

use super::event::{Effect, Loudness};
use super::handoff::{Order, Outcome};
use super::lease::Place;
use super::recycle::{Evidence, Phase, Recycle, Told};
use super::service::is_service;
use super::settings::{Rules, Settings};
use super::worker::{State, Tenure};
use super::{Core, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::limits::{RECYCLES_AT_ONCE_MAX, RECYCLES_TOLD_MAX, RECYCLES_WAITING_MAX};
use tasuki_shared::message::Haste;
use tasuki_shared::status::{RecycleStatus, Reply};

/// Why a worker is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecycleReason {
    MemorySoft,
    MemoryHard,
    TimeToLimit,
    Age,
    Sessions,
    Threads,
    Fds,
    HostPressure,
    Reload,
    Operator(String),
}

impl RecycleReason {
    /// Is it the worker's memory, so that a look at it is worth keeping?
    pub const fn is_memory(&self) -> bool {
        match self {
            Self::MemorySoft | Self::MemoryHard | Self::TimeToLimit | Self::HostPressure => true,
            Self::Age
            | Self::Sessions
            | Self::Threads
            | Self::Fds
            | Self::Reload
            | Self::Operator(_) => false,
        }
    }

    /// As the status has it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MemorySoft => "memory_soft",
            Self::MemoryHard => "memory_hard",
            Self::TimeToLimit => "time_to_limit",
            Self::Age => "age",
            Self::Sessions => "sessions",
            Self::Threads => "threads",
            Self::Fds => "fds",
            Self::HostPressure => "host_pressure",
            Self::Reload => "reload",
            Self::Operator(_) => "operator",
        }
    }

    /// What an operator said; empty for the rest.
    pub fn detail(&self) -> &str {
        match self {
            Self::Operator(text) => text,
            Self::MemorySoft
            | Self::MemoryHard
            | Self::TimeToLimit
            | Self::Age
            | Self::Sessions
            | Self::Threads
            | Self::Fds
            | Self::HostPressure
            | Self::Reload => "",
        }
    }
}

impl fmt::Display for RecycleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(text) if !text.is_empty() => write!(f, "operator, {text}"),
            Self::MemorySoft
            | Self::MemoryHard
            | Self::TimeToLimit
            | Self::Age
            | Self::Sessions
            | Self::Threads
            | Self::Fds
            | Self::HostPressure
            | Self::Reload
            | Self::Operator(_) => f.write_str(self.name()),
        }
    }
}

/// Why a recycle is not even queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    #[error("the server is shutting down")]
    Leaving,
    #[error("there is no such worker")]
    NoSuchWorker,
    #[error("it has one suspected stream alone, and leaves with that")]
    Quarantine,
    #[error("too many recycles are waiting")]
    QueueFull,
}

impl<R: Rules> Core<R> {
    /// Says in the status why, in more than a word.
    pub(super) fn explain_recycle(&mut self, id: u64, detail: &str) {
        for recycle in self.recycles.iter_mut().filter(|r| r.id == id && r.detail.is_empty()) {
            detail.clone_into(&mut recycle.detail);
        }
    }

    /// Queues the replacement of a worker; the id of its recycle, which may be there already.
    pub(super) fn request_recycle(
        &mut self,
        now: Duration,
        generation: Generation,
        reason: RecycleReason,
        haste: Haste,
    ) -> Result<u64, Busy> {
        if self.stage != Stage::Running {
            return Err(Busy::Leaving);
        }
        let known = self.recycles.iter_mut().find(|r| r.generation == generation && !r.is_over());
        if let Some(known) = known {
            if urgency(haste) > urgency(known.haste) {
                known.haste = haste;
                // Whatever was waited for may not be worth it any more.
                for tried in known.tried.values_mut() {
                    tried.stop_waiting(now);
                }
            }
            return Ok(known.id);
        }
        let at = self.slot_of(generation).ok_or(Busy::NoSuchWorker)?;
        let slot = &self.slots[at];
        if matches!(slot.tenure, Tenure::Quarantine(_)) {
            return Err(Busy::Quarantine);
        }
        let footprint = slot.process().map_or(0, |process| process.sample.footprint_bytes);
        let (slot, role) = (slot.id, slot.role);
        if self.recycles.iter().filter(|r| !r.is_over()).count() >= RECYCLES_WAITING_MAX {
            return Err(Busy::QueueFull);
        }
        let id = self.next_recycle;
        self.next_recycle += 1;
        self.recycles.push(Recycle {
            id,
            slot,
            role,
            generation,
            detail: reason.detail().to_owned(),
            reason,
            haste,
            phase: Phase::Waiting,
            since: now,
            footprint_before_bytes: footprint,
            target: None,
            footprint_after_bytes: 0,
            moves: BTreeMap::new(),
            tried: BTreeMap::new(),
            evidence: Evidence::NotWanted,
            keyframe_awaited: Told::NotYet,
            tickets: BTreeSet::new(),
        });
        let at = self.recycles.len() - 1;
        self.announce_recycle(at, Loudness::Info, "recycle_queued", String::new());
        Ok(id)
    }

    /// Goes on with what is under way and begins what may begin. After each event.
    pub(super) fn run_recycles(&mut self, now: Duration) {
        if !self.recycles.iter().any(Recycle::is_in_the_way) {
            if self.stage == Stage::Running && self.rotates_again {
                self.rotates_again = false;
                self.rotate_for_reload(now);
            } else if self.recycles.iter().all(Recycle::is_over) {
                return;
            }
        }
        if self.stage != Stage::Running {
            for at in 0..self.recycles.len() {
                if !self.recycles[at].is_over() {
                    self.finish_recycle(now, at, Some("the server leaves".to_owned()));
                }
            }
            return;
        }
        for at in 0..self.recycles.len() {
            if self.recycles[at].is_under_way() {
                self.step_recycle(now, at);
            }
        }
        // Those that wait for a keyframe have had a turn.
        let (first, then): (Vec<_>, Vec<_>) =
            (0..self.recycles.len()).partition(|at| self.recycles[*at].phase == Phase::Waiting);
        for at in first.into_iter().chain(then) {
            let under_way = self.recycles.iter().filter(|r| r.is_under_way()).count();
            if under_way >= RECYCLES_AT_ONCE_MAX {
                break;
            }
            if matches!(self.recycles[at].phase, Phase::Waiting | Phase::AwaitingKeyframe) {
                self.step_recycle(now, at);
            }
            // One that is about to stand by is replaced first: nobody is to move to it.
            if self.recycles[at].phase == Phase::Waiting {
                break;
            }
        }
        let over = self.recycles.iter().filter(|r| r.is_over()).count();
        let mut forgotten = over.saturating_sub(RECYCLES_TOLD_MAX);
        self.recycles.retain(|recycle| {
            let forget = recycle.is_over() && forgotten > 0;
            forgotten -= usize::from(forget);
            !forget
        });
    }

    pub(super) fn rotate(
        &mut self,
        now: Duration,
        ticket: u64,
        worker: Option<&str>,
        reason: &str,
        haste: Haste,
    ) {
        let generations = match worker {
            Some(name) => self
                .slots
                .iter()
                .filter(|slot| slot.id.to_string() == name)
                .filter_map(|slot| slot.process())
                .map(|process| process.generation)
                .collect(),
            None => self.rotation(),
        };
        if generations.is_empty() {
            let reason = match worker {
                Some(name) => format!("no process runs in a slot {name}"),
                None => "no process runs".to_owned(),
            };
            self.reply(ticket, Reply::Refused { reason });
            return;
        }
        for generation in generations {
            let why = RecycleReason::Operator(reason.to_owned());
            match self.request_recycle(now, generation, why, haste) {
                Ok(id) => {
                    for recycle in self.recycles.iter_mut().filter(|recycle| recycle.id == id) {
                        recycle.tickets.insert(ticket);
                    }
                }
                Err(busy) => {
                    for recycle in &mut self.recycles {
                        recycle.tickets.remove(&ticket);
                    }
                    self.reply(ticket, Reply::Refused { reason: busy.to_string() });
                    return;
                }
            }
        }
    }

    /// New rules and settings hold from now on; the workers are replaced one after another.
    pub fn reload(&mut self, now: Duration, settings: Settings, rules: R) -> Vec<Effect> {
        self.rules = rules;
        self.settings.take_run_time(settings);
        self.revive(now);
        let reloads =
            |recycle: &Recycle| recycle.reason == RecycleReason::Reload && recycle.is_in_the_way();
        if self.recycles.iter().any(reloads) {
            self.rotates_again = true;
        } else {
            self.rotate_for_reload(now);
        }
        self.after(now);
        std::mem::take(&mut self.effects)
    }

    fn rotate_for_reload(&mut self, now: Duration) {
        for generation in self.rotation() {
            // Nobody waits for an answer, and a full queue is rotated already.
            let _ = self.request_recycle(now, generation, RecycleReason::Reload, Haste::Scheduled);
        }
    }

    /// Every process there is: of the workers those that stand by or start first, then the others.
    fn rotation(&self) -> Vec<Generation> {
        let mut workers: Vec<_> = self
            .slots
            .iter()
            .filter_map(|slot| match &slot.state {
                State::Starting(process, _) | State::Serving(process) if is_service(slot.role) => {
                    Some((3, process.generation))
                }
                State::Draining(_) if is_service(slot.role) => None,
                State::Standby(process) => Some((0, process.generation)),
                State::Starting(..) if matches!(slot.tenure, Tenure::Quarantine(_)) => None,
                State::Starting(process, _) => Some((1, process.generation)),
                State::Serving(process) | State::Draining(process) => Some((2, process.generation)),
                // It leaves with its one stream.
                State::Isolated(_) => None,
                State::Ending(..) | State::Backoff { .. } | State::Gone => None,
            })
            .collect();
        workers.sort_unstable();
        workers.into_iter().map(|(_, generation)| generation).collect()
    }

    /// An operator moves one session.
    pub(super) fn move_session(&mut self, now: Duration, ticket: u64, id: SessionId, haste: Haste) {
        let place = self.sessions.get(&id).map(|session| (session.place.clone(), session.seat));
        let refusal = match place {
            None => "there is no such session",
            Some(_) if self.stage != Stage::Running => "the server is shutting down",
            Some((Place::Moving(_), _)) => "the session is being moved already",
            Some((Place::Waiting { .. } | Place::Leased { .. } | Place::Ending { .. }, _)) => {
                "no worker holds the session at this moment"
            }
            Some((Place::Held { generation }, seat)) => {
                match self.least_loaded_but(seat, &[Some(generation)]) {
                    Some(to) => {
                        self.begin_move(now, id, to, haste, Order::Operator(ticket));
                        return;
                    }
                    None => "no other serving worker has room",
                }
            }
        };
        self.reply(ticket, Reply::Refused { reason: refusal.to_owned() });
    }

    /// Moves that only began are not worth finishing when the server leaves.
    pub(super) fn call_moves_off(&mut self, now: Duration) {
        let begun: Vec<_> = self
            .moving()
            .filter(|(_, moving)| moving.can_be_called_off())
            .map(|(id, _)| id)
            .collect();
        for id in begun {
            self.call_off(now, id, Outcome::CalledOff("the server leaves".to_owned()));
        }
    }

    pub(super) fn answer_waiters(&mut self, now: Duration, id: u64) {
        let Some(at) = self.recycles.iter().position(|recycle| recycle.id == id) else { return };
        let tickets = std::mem::take(&mut self.recycles[at].tickets);
        for ticket in tickets {
            let status = self.recycle_status(now, &self.recycles[at]);
            self.reply(ticket, Reply::Recycled(Box::new(status)));
            if self.recycles.iter().all(|recycle| !recycle.tickets.contains(&ticket)) {
                self.reply(ticket, Reply::Done);
            }
        }
    }

    pub(super) fn reply(&mut self, ticket: u64, reply: Reply) {
        self.effects.push(Effect::Reply { ticket, reply: Box::new(reply) });
    }

    /// Those under way and waiting, then the others, newest first.
    pub(super) fn recycle_statuses(&self, now: Duration) -> Vec<RecycleStatus> {
        let (over, open): (Vec<_>, Vec<_>) = self.recycles.iter().partition(|r| r.is_over());
        let all = open.into_iter().chain(over.into_iter().rev());
        all.map(|recycle| self.recycle_status(now, recycle)).collect()
    }

    fn recycle_status(&self, now: Duration, recycle: &Recycle) -> RecycleStatus {
        let (end, outcome) = match &recycle.phase {
            Phase::Waiting => (now, "waiting".to_owned()),
            Phase::Preparing { .. } => (now, "preparing".to_owned()),
            Phase::Moving { .. } => (now, "moving".to_owned()),
            Phase::AwaitingKeyframe => (now, "waiting for a keyframe".to_owned()),
            Phase::Leaving { .. } => (now, "leaving".to_owned()),
            Phase::Over { at, failure: None } => (*at, "done".to_owned()),
            Phase::Over { at, failure: Some(why) } => (*at, format!("failed: {why}")),
        };
        let mut moves = recycle.moves.clone();
        for (id, moving) in self.moving() {
            if moving.order == Order::Recycle(recycle.id) {
                moves.insert(id, self.move_status(id, moving));
            }
        }
        RecycleStatus {
            id: recycle.id,
            unix_ms: super::report::millis(recycle.since),
            worker: recycle.slot.to_string(),
            role: recycle.role.name().to_owned(),
            generation: recycle.generation.0,
            reason: recycle.reason.name().to_owned(),
            detail: recycle.detail.clone(),
            outcome,
            took_ms: super::report::millis(end.saturating_sub(recycle.since)),
            footprint_before_bytes: recycle.footprint_before_bytes,
            footprint_after_bytes: recycle.footprint_after_bytes,
            moves: moves.into_values().collect(),
            evidence: match &recycle.evidence {
                Evidence::Saved(path) => Some(path.clone()),
                Evidence::NotWanted | Evidence::Awaited { .. } | Evidence::Missing => None,
            },
        }
    }
}

const fn urgency(haste: Haste) -> u8 {
    match haste {
        Haste::Scheduled => 0,
        Haste::Now => 1,
        Haste::AtAnyPrice => 2,
    }
}
