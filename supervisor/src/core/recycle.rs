//! Recycles: a worker is replaced while its sessions live on, and goes.
//!
//! ```text
//!  Waiting ──its turn──▶ Preparing ──a fresh worker──▶ Moving ──no session left──▶ Leaving ──▶ Over
//!     │                      │ none in time               │ some cannot be moved       │ reaped, or
//!     │ it died              ▼                            ▼                            │ killed at
//!     └────────────────▶   Over                         Over                           ▼ the deadline
//! ```
//! Moving ◀──▶ AwaitingKeyframe. `Leaving` also waits for the outcome of moves that are not settled.
//! The fresh worker is the one that stands by, or one that is started in a temporary slot; it
//! serves before the old one stops to, so capacity never falls. While sessions move, the fresh
//! worker's stream slots that they will need are not given to others. A worker with sessions that
//! cannot be moved takes nothing new and leaves with the last of them; recycled again, it goes on
//! where it was. One whose sessions can only be moved when their sources send a keyframe waits for
//! that (`AwaitingKeyframe`) and is in nobody's way meanwhile: others are recycled.
//!
//! Dialer, delivery and console ([`super::service`]) take the same way with no session to move. Theirs
//! is a fresh process of the same role; both serve until the old one is told to leave, and with that
//! their recycle is over, for it may take a minute to say goodbye to its viewers.

use super::handoff::{Move, Order, Outcome};
use super::lease::Place;
use super::rotation::RecycleReason;
use super::service::is_service;
use super::settings::Rules;
use super::tried::{Obstacle, Tried};
use super::worker::{Farewell, Reaping, State};
use super::{Core, Stage};
use crate::core::admission::Seat;
use crate::core::event::{Effect, Fds, Loudness};
use crate::core::restart::KillReason;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId, SlotId};
use tasuki_shared::limits::{
    ANCHOR_RETRY_PAUSE, FRESH_WORKER_DEADLINE, KEYFRAME_PATIENCE, LINGER_DEADLINE,
    MOVE_RETRY_PAUSE, MOVES_AT_ONCE_MAX, MOVING_STALL_DEADLINE,
};
use tasuki_shared::message::{Haste, Role, ToWorker};
use tasuki_shared::status::MoveStatus;

/// One planned replacement.
#[derive(Clone, Debug)]
pub struct Recycle {
    pub id: u64,
    pub slot: SlotId,
    pub role: Role,
    pub generation: Generation,
    pub reason: RecycleReason,
    /// A sentence for people.
    pub detail: String,
    pub haste: Haste,
    pub phase: Phase,
    pub since: Duration,
    pub footprint_before_bytes: u64,
    /// Whom the sessions went to first.
    pub target: Option<Generation>,
    pub footprint_after_bytes: u64,
    /// Moves that are over, one for each session.
    pub moves: BTreeMap<SessionId, MoveStatus>,
    pub tried: BTreeMap<SessionId, Tried>,
    pub evidence: Evidence,
    /// That it waits for a keyframe is announced once.
    pub keyframe_awaited: Told,
    /// Clients that wait for it.
    pub tickets: BTreeSet<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Waiting,
    Preparing {
        deadline: Duration,
    },
    Moving {
        /// When a session last found its way.
        progress: Duration,
    },
    /// As `Moving`, with nothing to be done until a source sends a keyframe or a pause is over.
    AwaitingKeyframe,
    Leaving {
        deadline: Duration,
    },
    Over {
        at: Duration,
        /// Why it failed, if it did.
        failure: Option<String>,
    },
}

/// Has it been said?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    NotYet,
    Yes,
}

/// What is kept of a worker that goes for its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    NotWanted,
    /// The worker does not leave before, or before then.
    Awaited {
        deadline: Duration,
    },
    Saved(String),
    Missing,
}

impl Recycle {
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over { .. })
    }

    pub const fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::Preparing { .. } | Phase::Moving { .. } | Phase::Leaving { .. })
    }

    /// Is the fresh worker there, and are sessions still to be moved to it?
    const fn has_begun_to_move(&self) -> bool {
        matches!(self.phase, Phase::Moving { .. } | Phase::AwaitingKeyframe)
    }

    /// Does it keep others from their turn?
    pub const fn is_in_the_way(&self) -> bool {
        !matches!(self.phase, Phase::AwaitingKeyframe | Phase::Over { .. })
    }
}

impl<R: Rules> Core<R> {
    /// One step of one recycle, as often as anything happened.
    pub(super) fn step_recycle(&mut self, now: Duration, at: usize) {
        let Some(recycle) = self.recycles.get(at) else { return };
        let generation = recycle.generation;
        let Some(slot) = self.slot_of(generation) else {
            self.old_is_gone(now, at);
            return;
        };
        match (&recycle.phase, &self.slots[slot].state) {
            (Phase::Waiting, State::Standby(_)) => {
                self.slots[slot].retire();
                self.ask_for_evidence(now, at);
                // It has nobody to move, and leaves when the evidence is saved.
                self.set_phase(at, Phase::Moving { progress: now });
                self.step_recycle(now, at);
            }
            (Phase::Waiting, State::Serving(_)) => {
                let deadline = now + FRESH_WORKER_DEADLINE;
                self.set_phase(at, Phase::Preparing { deadline });
                self.announce_recycle(at, Loudness::Info, "recycle_started", String::new());
                self.ask_for_evidence(now, at);
                self.step_recycle(now, at);
            }
            (Phase::Waiting, State::Draining(_)) => {
                self.announce_recycle(at, Loudness::Info, "recycle_started", "again".to_owned());
                self.set_phase(at, Phase::Moving { progress: now });
                self.step_recycle(now, at);
            }
            (Phase::Preparing { deadline }, State::Serving(_)) => {
                let deadline = *deadline;
                self.find_fresh(now, at, slot, deadline);
            }
            (Phase::Moving { progress }, State::Draining(_)) => {
                let progress = *progress;
                self.move_on(now, at, slot, progress);
            }
            (Phase::AwaitingKeyframe, State::Draining(_))
                if now >= recycle.since + KEYFRAME_PATIENCE =>
            {
                let why = format!("no keyframe of their source came in {KEYFRAME_PATIENCE:?}");
                self.leave_behind(now, at, slot, &why);
            }
            // Called when no other is under way.
            (Phase::AwaitingKeyframe, State::Draining(process)) => {
                let tried: Vec<_> =
                    process.sessions.iter().map(|id| self.recycles[at].tried.get(id)).collect();
                let waits = |tried: &Option<&Tried>| tried.is_some_and(|t| t.awaits_keyframe(now));
                let stays =
                    |tried: &Option<&Tried>| waits(tried) || tried.is_some_and(Tried::is_exhausted);
                if !tried.iter().any(waits) || !tried.iter().all(stays) {
                    let tried = &mut self.recycles[at].tried;
                    tried.values_mut().for_each(|tried| tried.forget_obstacle(now));
                    self.set_phase(at, Phase::Moving { progress: now });
                    self.step_recycle(now, at);
                }
            }
            (Phase::Leaving { deadline }, State::Draining(_)) if now >= *deadline => {
                self.kill(now, slot, KillReason::Lingering);
            }
            (phase, State::Ending(.., Reaping::GivenUp)) if *phase != Phase::Waiting => {
                let failure = "it outlives its kill; its sessions were closed".to_owned();
                self.finish_recycle(now, at, Some(failure));
            }
            (Phase::Waiting, State::Ending(.., Reaping::GivenUp)) => {
                self.finish_recycle(now, at, Some("it outlives its kill".to_owned()));
            }
            // Whatever else becomes of the worker ends with its death.
            (
                Phase::Waiting
                | Phase::Preparing { .. }
                | Phase::Moving { .. }
                | Phase::AwaitingKeyframe
                | Phase::Leaving { .. }
                | Phase::Over { .. },
                _,
            ) => {}
        }
    }

    fn move_on(&mut self, now: Duration, at: usize, old: usize, progress: Duration) {
        let Some(process) = self.slots[old].process() else { return };
        let generation = process.generation;
        if process.sessions.is_empty() && process.arriving.is_empty() {
            if !self.waits_for_evidence(now, at) {
                self.begin_leaving(now, at);
            }
            return;
        }
        let sessions: Vec<SessionId> = process.sessions.iter().copied().collect();
        let (id, haste) = (self.recycles[at].id, self.recycles[at].haste);
        let order = Order::Recycle(id);
        let mut room = MOVES_AT_ONCE_MAX.saturating_sub(self.moves_of(order));
        let (mut waiting, mut anchorless) = (0, 0);
        let mut stuck = Vec::new();
        for session in sessions {
            let is_held = self.sessions.get(&session).is_some_and(|session| match session.place {
                Place::Held { .. } => true,
                Place::Waiting { .. }
                | Place::Leased { .. }
                | Place::Moving(_)
                | Place::Ending { .. } => false,
            });
            let tried = self.recycles[at].tried.get(&session).cloned().unwrap_or_default();
            if is_held && tried.is_exhausted() {
                stuck.push(tried.why);
                continue;
            }
            // Once in each turn: others shall have theirs, however soon it may be tried again.
            if is_held && tried.obstacle == Obstacle::Anchor {
                anchorless += 1;
                continue;
            }
            waiting += 1;
            if !is_held || room == 0 || now < tried.not_before {
                continue;
            }
            if let Some(to) = self.target_for(at, session, generation, tried.failed_target) {
                room -= 1;
                self.begin_move(now, session, to, haste, order);
            }
        }
        let stalled = now >= progress + MOVING_STALL_DEADLINE;
        if waiting > 0 && !stalled {
            return;
        }
        if waiting == 0 && anchorless > 0 {
            if self.recycles[at].keyframe_awaited == Told::NotYet {
                self.recycles[at].keyframe_awaited = Told::Yes;
                let detail = format!("{anchorless} sessions wait for a keyframe of their source");
                self.announce_recycle(at, Loudness::Info, "recycle_awaits_keyframe", detail);
            }
            self.set_phase(at, Phase::AwaitingKeyframe);
            return;
        }
        if haste == Haste::AtAnyPrice {
            self.announce_recycle(
                at,
                Loudness::Error,
                "recycle_forced",
                "its sessions go the way of a crash".to_owned(),
            );
            self.kill(now, old, KillReason::Lingering);
            return;
        }
        let why = stuck.into_iter().next().unwrap_or_else(|| "no worker has room".to_owned());
        self.leave_behind(now, at, old, &why);
    }

    /// The recycle fails; its worker goes with the last session that it has.
    fn leave_behind(&mut self, now: Duration, at: usize, old: usize, why: &str) {
        let left = self.slots[old].process().map_or(0, |process| process.sessions.len());
        let failure = format!("{left} sessions stay until they end: {why}");
        self.finish_recycle(now, at, Some(failure));
        self.say_farewell(self.recycles[at].generation);
    }

    /// The fresh worker, unless it is gone, full or has just failed; then whoever has room.
    fn target_for(
        &self,
        at: usize,
        session: SessionId,
        old: Generation,
        failed: Option<Generation>,
    ) -> Option<Generation> {
        let seat = self.sessions.get(&session)?.seat;
        let fresh = self.recycles[at].target.filter(|target| Some(*target) != failed);
        let fresh = fresh.filter(|target| self.can_take_move(*target, seat));
        let others = || {
            let others = self.least_loaded_but(seat, &[Some(old), failed]);
            // With nobody else to ask, one that failed may be asked again.
            others.or_else(|| self.least_loaded_but(seat, &[Some(old)]))
        };
        fresh.or_else(others)
    }

    fn begin_leaving(&mut self, now: Duration, at: usize) {
        let generation = self.recycles[at].generation;
        let deadline = now + LINGER_DEADLINE;
        self.set_phase(at, Phase::Leaving { deadline });
        self.announce_recycle(at, Loudness::Info, "recycle_leaving", String::new());
        self.say_farewell(generation);
        if is_service(self.recycles[at].role) {
            self.finish_recycle(now, at, None);
        }
    }

    /// Tells a worker that takes nothing new to go when its last session has ended. One to which a
    /// session is on its way is told later, for it would leave.
    pub(super) fn say_farewell(&mut self, generation: Generation) {
        let recycled = self
            .recycles
            .iter()
            .any(|recycle| recycle.generation == generation && recycle.has_begun_to_move());
        let expects = self.sessions.values().any(|session| match &session.place {
            Place::Moving(moving) => moving.to == generation,
            Place::Waiting { .. }
            | Place::Leased { .. }
            | Place::Held { .. }
            | Place::Ending { .. } => false,
        });
        let recycled = recycled && self.stage == Stage::Running;
        if recycled || expects {
            return;
        }
        let Some(at) = self.slot_of(generation) else { return };
        if let State::Draining(process) = &mut self.slots[at].state
            && process.farewell == Farewell::Unsaid
        {
            process.farewell = Farewell::Said;
            self.send(generation, ToWorker::Drain, Fds::None);
        }
    }

    /// The old worker was reaped, as it should or not.
    fn old_is_gone(&mut self, now: Duration, at: usize) {
        let failure = match &self.recycles[at].phase {
            // It has let go of all, and those who take them have not said so yet: their deadlines
            // bound that, and what became of each move is part of the account.
            Phase::Leaving { .. } if self.moves_of(Order::Recycle(self.recycles[at].id)) > 0 => {
                return;
            }
            // Somebody fresh is in its place all the same.
            Phase::Waiting | Phase::Preparing { .. } | Phase::Leaving { .. } => None,
            Phase::Moving { .. } | Phase::AwaitingKeyframe => {
                Some("the worker died while its sessions moved".to_owned())
            }
            Phase::Over { .. } => return,
        };
        if matches!(self.recycles[at].phase, Phase::Preparing { .. }) {
            self.retire_temporary(now, self.recycles[at].role);
        }
        self.finish_recycle(now, at, failure);
    }

    /// A move for a recycle ended in one way or another.
    pub(super) fn move_over(
        &mut self,
        now: Duration,
        recycle: u64,
        session: SessionId,
        outcome: &Outcome,
        status: MoveStatus,
    ) {
        let target = match self.sessions.get(&session).map(|session| &session.place) {
            Some(Place::Moving(moving)) => Some(moving.to),
            Some(
                Place::Held { .. }
                | Place::Waiting { .. }
                | Place::Leased { .. }
                | Place::Ending { .. },
            )
            | None => None,
        };
        let Some(recycle) = self.recycles.iter_mut().find(|known| known.id == recycle) else {
            return;
        };
        let tried = recycle.tried.entry(session).or_default();
        tried.not_before = now + MOVE_RETRY_PAUSE;
        tried.obstacle = Obstacle::None;
        match outcome {
            Outcome::Done | Outcome::CrashedOver => {}
            Outcome::Kept(why) => {
                tried.attempts += 1;
                tried.failed_target = target;
                tried.why.clone_from(why);
            }
            Outcome::NoAnchor => {
                tried.not_before = now + ANCHOR_RETRY_PAUSE;
                tried.obstacle = Obstacle::Anchor;
            }
            Outcome::CalledOff(why) => {
                tried.call_offs += 1;
                tried.why.clone_from(why);
            }
        }
        recycle.moves.insert(session, status);
        // To be told "not now" is no progress.
        if let (Phase::Moving { progress }, false) =
            (&mut recycle.phase, matches!(outcome, Outcome::NoAnchor))
        {
            *progress = now;
        }
    }

    /// Stream slots of `target` that sessions still on the old worker will need.
    pub(super) fn promised_streams(&self, target: Generation) -> u32 {
        let moving = self
            .recycles
            .iter()
            .filter(|recycle| recycle.has_begun_to_move() && recycle.target == Some(target));
        let old = moving.filter_map(|recycle| {
            let slot = self.slot_of(recycle.generation)?;
            self.slots[slot].process()
        });
        let to_come = old.map(|process| {
            let stays = |id: &&SessionId| {
                self.sessions.get(id).is_some_and(|session| {
                    session.seat == Seat::Stream && !matches!(session.place, Place::Moving(_))
                })
            };
            u32::try_from(process.sessions.iter().filter(stays).count()).unwrap_or(u32::MAX)
        });
        to_come.sum()
    }

    /// Where the sessions of this worker go, if it is being recycled.
    pub(super) fn successor_of(&self, generation: Generation) -> Option<Generation> {
        let recycle = self
            .recycles
            .iter()
            .find(|recycle| recycle.generation == generation && recycle.has_begun_to_move())?;
        recycle.target.filter(|target| self.lives(*target))
    }

    fn moves_of(&self, order: Order) -> usize {
        let of_it = |moving: &&Move| moving.order == order;
        self.moving().map(|(_, moving)| moving).filter(of_it).count()
    }

    pub(super) fn moving(&self) -> impl Iterator<Item = (SessionId, &Move)> {
        self.sessions.iter().filter_map(|(id, session)| match &session.place {
            Place::Moving(moving) => Some((*id, &**moving)),
            Place::Waiting { .. }
            | Place::Leased { .. }
            | Place::Held { .. }
            | Place::Ending { .. } => None,
        })
    }

    pub(super) fn set_phase(&mut self, at: usize, phase: Phase) {
        self.recycles[at].phase = phase;
    }

    pub(super) fn finish_recycle(&mut self, now: Duration, at: usize, failure: Option<String>) {
        let target = self.recycles[at].target;
        let after = target.and_then(|target| self.process_mut(target));
        let footprint_after_bytes = after.map_or(0, |process| process.sample.footprint_bytes);
        self.recycles[at].footprint_after_bytes = footprint_after_bytes;
        let (loudness, event) = match &failure {
            None => (Loudness::Info, "recycle_done"),
            Some(_) => (Loudness::Warn, "recycle_failed"),
        };
        let reason = self.recycles[at].reason.name();
        self.totals.recycle_over(reason, failure.as_deref());
        let detail = failure.clone().unwrap_or_default();
        self.set_phase(at, Phase::Over { at: now, failure });
        self.announce_recycle(at, loudness, event, detail);
        let id = self.recycles[at].id;
        self.answer_waiters(now, id);
    }

    pub(super) fn announce_recycle(
        &mut self,
        at: usize,
        loudness: Loudness,
        event: &'static str,
        detail: String,
    ) {
        let recycle = &self.recycles[at];
        let rest = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        let text = format!("recycle {} ({}){rest}", recycle.id, recycle.reason);
        let announcement = super::event::Announcement::new(loudness, event, text)
            .of_worker(recycle.slot, recycle.generation);
        self.effects.push(Effect::Announce(announcement));
    }
}
