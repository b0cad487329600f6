//! One session's way from its owner to another worker, while both live.
//!
//! ```text
//!  Held(from) ──Prepare──▶ Preparing ──Prepared: Release──▶ Releasing ──word: offered(to)──▶ Released
//!      ▲                       │                               │  │ word: held(to)            │ held(to)
//!      └── Unprepare, Keep ────┴── the word says held(from) ───┘  └───────────▶ Taken ◀───────┘
//!                                                                               │ cut known
//!  `from` reaped in between, `to` prepared: TakingOver ──word: held(to)────────▶┴─▶ Held(to)
//! ```
//! The owner word decides. A message, a deadline or a death is only a reason to have it read
//! ([`Effect::ReadOwner`]); what it says then ([`Core::owner_read`]) moves the session on. Until it
//! is released the old owner speaks for the session, afterwards the taker. What cannot be decided
//! in between, an end or a publish, waits for the outcome.

use super::Core;
use super::event::{Announcement, Effect, Fds, Loudness};
use super::lease::{Place, Session};
use super::publish::Publish;
use super::settings::Rules;
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::limits::{
    PREPARE_DEADLINE, REAP_DEADLINE, RELEASE_NOW_DEADLINE, RELEASE_SCHEDULED_DEADLINE,
};
use tasuki_shared::message::{
    Anchor, CutReport, EndReason, Haste, KeepReason, Owner, PublishRequest, ToWorker,
};
use tasuki_shared::status::MoveStatus;

/// A hand-off under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    pub from: Generation,
    pub to: Generation,
    pub haste: Haste,
    pub order: Order,
    pub step: Step,
    pub deadline: Duration,
    /// As the old owner told.
    pub cut: Option<CutReport>,
    /// When the taker could go on, as it told.
    pub at_us: Option<u64>,
    /// Why it is called off if the owner word still says held(`from`).
    pub doubt: Option<Doubt>,
    /// An end that was ordered while it was not certain who would hear of it.
    pub end: Option<EndReason>,
    /// A publish that was asked for meanwhile.
    pub asked: Option<PublishRequest>,
}

/// Who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Recycle(u64),
    /// An operator, who waits for the outcome under this ticket.
    Operator(u64),
    /// It came about by a release after its `Keep`.
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Preparing,
    Releasing,
    /// The word says offered(`to`).
    Released,
    /// As `Released`, and it is not certain that `to` has a preparation: leased anew in a moment.
    Offered,
    /// `from` is dead and the word says held(`from`).
    TakingOver,
    /// The word says held(`to`); the account of the cut is on its way.
    Taken,
}

/// What speaks against a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// One of the two said so.
    Told(String),
    /// The owner waited in vain for a keyframe of the source.
    NoAnchor,
    /// One of the two says nothing.
    Overdue(&'static str),
}

impl Doubt {
    pub fn reason(&self) -> String {
        match self {
            Self::Told(reason) => reason.clone(),
            Self::NoAnchor => KeepReason::NoAnchor.to_string(),
            Self::Overdue(reason) => (*reason).to_owned(),
        }
    }

    /// What becomes of a move that is called off for it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NoAnchor => Outcome::NoAnchor,
            Self::Told(_) | Self::Overdue(_) => Outcome::Kept(self.reason()),
        }
    }
}

/// How a move ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// An owner died on the way; another worker has the session or will.
    CrashedOver,
    /// The old owner goes on. It counts as an attempt.
    Kept(String),
    /// The old owner goes on until the source sends a keyframe.
    NoAnchor,
    /// The old owner goes on for the session's own sake. It may be tried again at once.
    CalledOff(String),
}

/// A hand-off that costs frames until the source's next keyframe, which its new owner counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    recycle: Option<u64>,
    /// Lost by the session before it.
    before: u64,
}

impl Loss {
    fn of(moving: &Move, outcome: &Outcome, before: u64) -> Option<Self> {
        let torn = moving.cut.is_some_and(|cut| cut.anchor == Anchor::Gone);
        let recycle = match moving.order {
            Order::Recycle(recycle) => Some(recycle),
            Order::Operator(_) | Order::Nobody => None,
        };
        (torn && *outcome == Outcome::Done).then_some(Self { recycle, before })
    }
}

impl Move {
    /// Whose it is to speak of the session.
    pub const fn speaker(&self) -> Generation {
        match self.step {
            Step::Preparing | Step::Releasing => self.from,
            Step::Released | Step::Offered | Step::TakingOver | Step::Taken => self.to,
        }
    }

    /// Nobody but the old owner has heard anything that matters.
    pub const fn can_be_called_off(&self) -> bool {
        matches!(self.step, Step::Preparing)
    }

    pub const fn step_name(&self) -> &'static str {
        match self.step {
            Step::Preparing => "preparing",
            Step::Releasing | Step::Released | Step::Offered | Step::TakingOver | Step::Taken => {
                "releasing"
            }
        }
    }
}

impl<R: Rules> Core<R> {
    /// Begins to move a held session. The caller has looked for room at `to`.
    pub(super) fn begin_move(
        &mut self,
        now: Duration,
        id: SessionId,
        to: Generation,
        haste: Haste,
        order: Order,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Place::Held { generation: from } = session.place else { return };
        // Before its publish a session can be cut at any byte.
        let haste = match (haste, &session.publish) {
            (Haste::Scheduled, Publish::Live { .. }) | (Haste::Now | Haste::AtAnyPrice, _) => haste,
            (Haste::Scheduled, _) => Haste::Now,
        };
        session.place = Place::Moving(Box::new(Move {
            from,
            to,
            haste,
            order,
            step: Step::Preparing,
            deadline: now + PREPARE_DEADLINE,
            cut: None,
            at_us: None,
            doubt: None,
            end: None,
            asked: None,
        }));
        let lease = Box::new(session.lease_for(id, Owner::Offered(to)));
        let seat = session.seat;
        if let Some(process) = self.process_mut(to) {
            process.arriving.insert(id);
            process.take_stream(seat);
        }
        let detail = format!("from {from} to {to}, {haste:?}");
        self.announce_session(Loudness::Info, "move_started", id, detail);
        self.send(to, ToWorker::Prepare(lease), Fds::Preparation(id));
    }

    pub(super) fn prepared(&mut self, now: Duration, by: Generation, id: SessionId) {
        let Some(moving) = self.move_to(by, id, &[Step::Preparing]) else { return };
        let (to, haste, from) = (moving.to, moving.haste, moving.from);
        moving.step = Step::Releasing;
        moving.deadline = now
            + match haste {
                Haste::Scheduled => RELEASE_SCHEDULED_DEADLINE,
                Haste::Now | Haste::AtAnyPrice => RELEASE_NOW_DEADLINE,
            };
        self.send(from, ToWorker::Release { session: id, to, haste }, Fds::Bell(id));
    }

    pub(super) fn prepare_failed(
        &mut self,
        _now: Duration,
        by: Generation,
        id: SessionId,
        reason: String,
    ) {
        let steps = [Step::Preparing, Step::Releasing];
        if let Some(moving) = self.move_to(by, id, &steps) {
            moving.doubt = Some(Doubt::Told(format!("the target could not prepare: {reason}")));
            self.effects.push(Effect::ReadOwner { session: id });
        }
    }

    pub(super) fn released(
        &mut self,
        now: Duration,
        by: Generation,
        id: SessionId,
        cut: CutReport,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match &mut session.place {
            Place::Moving(moving) if moving.from == by => {
                moving.cut = Some(cut);
                if moving.step == Step::Taken {
                    self.finish_taken(now, id);
                } else {
                    self.effects.push(Effect::ReadOwner { session: id });
                }
            }
            // A release that was called off too late.
            Place::Held { generation } | Place::Ending { generation, .. } if *generation == by => {
                self.effects.push(Effect::ReadOwner { session: id });
            }
            Place::Moving(_)
            | Place::Held { .. }
            | Place::Ending { .. }
            | Place::Leased { .. }
            | Place::Waiting { .. } => self.ignored_frames += 1,
        }
    }

    pub(super) fn release_failed(
        &mut self,
        _now: Duration,
        by: Generation,
        id: SessionId,
        reason: KeepReason,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match &mut session.place {
            Place::Moving(moving) if moving.from == by && moving.step == Step::Releasing => {
                moving.doubt = Some(match reason {
                    // With `AtAnyPrice` an owner does not wait for it.
                    KeepReason::NoAnchor if moving.haste != Haste::AtAnyPrice => Doubt::NoAnchor,
                    KeepReason::NoAnchor | KeepReason::Other(_) => {
                        Doubt::Told(format!("the owner could not release it: {reason}"))
                    }
                });
                self.effects.push(Effect::ReadOwner { session: id });
            }
            // The answer to a `Keep`, or a lie that changes nothing.
            Place::Moving(_)
            | Place::Held { .. }
            | Place::Ending { .. }
            | Place::Leased { .. }
            | Place::Waiting { .. } => {}
        }
    }

    /// Has the taker told that it took a session in a hand-off? Then the word is read.
    pub(super) fn adopted_in_move(&mut self, by: Generation, id: SessionId, at_us: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let late = session.last_target == Some(by) && session.generation() != Some(by);
        match &mut session.place {
            Place::Moving(moving) if moving.to == by => match moving.step {
                Step::Releasing | Step::Released | Step::Offered | Step::TakingOver => {
                    moving.at_us = Some(at_us);
                }
                Step::Preparing | Step::Taken => {
                    self.ignored_frames += 1;
                    return true;
                }
            },
            Place::Moving(_)
            | Place::Held { .. }
            | Place::Ending { .. }
            | Place::Leased { .. }
            | Place::Waiting { .. } => {
                if !late {
                    return false;
                }
            }
        }
        self.effects.push(Effect::ReadOwner { session: id });
        true
    }

    /// The taker could not take it. `true`: this was about a hand-off.
    pub(super) fn adopt_failed_in_move(
        &mut self,
        by: Generation,
        id: SessionId,
        reason: &str,
    ) -> bool {
        let steps = [Step::Releasing, Step::Released, Step::Offered, Step::TakingOver];
        let Some(Place::Moving(moving)) = self.sessions.get_mut(&id).map(|s| &mut s.place) else {
            return false;
        };
        if moving.to != by || !steps.contains(&moving.step) {
            return false;
        }
        moving.doubt = Some(Doubt::Told(format!("the target could not adopt it: {reason}")));
        self.effects.push(Effect::ReadOwner { session: id });
        true
    }

    /// A hand-off's deadline has passed.
    pub(super) fn move_overdue(&mut self, now: Duration, id: SessionId) {
        let Some(Place::Moving(moving)) = self.sessions.get_mut(&id).map(|s| &mut s.place) else {
            return;
        };
        let late = match moving.step {
            Step::Preparing => "the target did not prepare in time",
            Step::Releasing => "the owner did not release it in time",
            Step::Released | Step::Offered | Step::TakingOver => "the target did not take it",
            Step::Taken => {
                self.finish_taken(now, id);
                return;
            }
        };
        moving.doubt = Some(Doubt::Overdue(late));
        moving.deadline = now + REAP_DEADLINE;
        self.effects.push(Effect::ReadOwner { session: id });
    }

    /// The taker works, and all is known of the cut that will be.
    pub(super) fn finish_taken(&mut self, now: Duration, id: SessionId) {
        let place = self.sessions.get_mut(&id).map(|session| &mut session.place);
        let Some(Place::Moving(moving)) = place else { return };
        // Whatever was heard of it before: it is for the taker to speak.
        moving.step = Step::Taken;
        let outcome = if moving.cut.is_some() { Outcome::Done } else { Outcome::CrashedOver };
        self.end_move(now, id, outcome);
    }

    /// Leaves the session with its owner: the target forgets it, the owner is told where it had an
    /// order.
    pub(super) fn call_off(&mut self, now: Duration, id: SessionId, outcome: Outcome) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Place::Moving(moving) = &session.place else { return };
        let (from, to, step) = (moving.from, moving.to, moving.step);
        session.last_target = Some(to);
        self.forget_arrival(to, id);
        if self.lives(to) {
            self.send(to, ToWorker::Unprepare { session: id }, Fds::None);
        }
        if step == Step::Releasing && self.lives(from) {
            self.send(from, ToWorker::Keep { session: id }, Fds::None);
        }
        self.end_move(now, id, outcome);
    }

    /// The session closes in mid hand-off.
    pub(super) fn forget_move(&mut self, id: SessionId, moving: &Move) {
        self.forget_arrival(moving.to, id);
        let unsettled = match moving.step {
            Step::Preparing | Step::Releasing | Step::Released | Step::Offered => true,
            Step::TakingOver => true,
            Step::Taken => false,
        };
        if unsettled && self.lives(moving.to) {
            self.send(moving.to, ToWorker::Unprepare { session: id }, Fds::None);
        }
    }

    /// Settles where the session is and tells who asked for the move.
    pub(super) fn end_move(&mut self, now: Duration, id: SessionId, outcome: Outcome) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Place::Moving(moving) = session.place.clone() else { return };
        let generation = moving.speaker();
        session.place = Place::Held { generation };
        session.loss = Loss::of(&moving, &outcome, session.frames_lost);
        self.effects.push(Effect::DropBell { session: id });
        self.tell_move(now, id, &moving, &outcome);
        if !self.lives(generation) {
            // The session is about to be an orphan: whoever gets it asks again.
            self.say_farewell(moving.to);
            return;
        }
        let moved = generation == moving.to;
        if let Some(reason) = moving.end {
            self.end_session(now, id, reason);
        } else if let (Some(request), false) = (moving.asked, moved) {
            self.authorize(now, generation, id, request);
        }
        self.grant_waiting_names(now);
        self.say_farewell(moving.to);
    }

    pub(super) fn tell_move(
        &mut self,
        now: Duration,
        id: SessionId,
        moving: &Move,
        outcome: &Outcome,
    ) {
        let mut status = self.move_status(id, moving);
        let torn = moving.cut.is_some_and(|cut| cut.anchor == Anchor::Gone);
        let (loudness, event) = match &outcome {
            Outcome::Done if torn => (Loudness::Warn, "session_moved"),
            Outcome::Done => (Loudness::Info, "session_moved"),
            Outcome::NoAnchor => (Loudness::Info, "move_kept"),
            Outcome::CrashedOver => (Loudness::Warn, "move_crashed"),
            Outcome::Kept(_) => (Loudness::Warn, "move_kept"),
            Outcome::CalledOff(_) => (Loudness::Info, "move_called_off"),
        };
        status.outcome = match outcome {
            Outcome::Done => "done".to_owned(),
            Outcome::CrashedOver => "crashed over".to_owned(),
            Outcome::Kept(why) | Outcome::CalledOff(why) => format!("kept: {why}"),
            Outcome::NoAnchor => format!("kept: {}", KeepReason::NoAnchor),
        };
        let MoveStatus { from, to, pause_us, frames_lost, .. } = &status;
        let detail = match outcome {
            Outcome::Done if torn => format!(
                "from {from} to {to}, pause {pause_us} µs, {frames_lost} frames lost so far: no \
                 keyframe to go on from, frames are lost until the source's next"
            ),
            Outcome::Done => {
                format!("from {from} to {to}, pause {pause_us} µs, {frames_lost} frames lost")
            }
            Outcome::CrashedOver | Outcome::Kept(_) | Outcome::NoAnchor | Outcome::CalledOff(_) => {
                format!("from {from} to {to}, {}", status.outcome)
            }
        };
        self.totals.move_over(outcome, status.pause_us);
        self.announce_session(loudness, event, id, detail);
        match moving.order {
            Order::Recycle(recycle) => self.move_over(now, recycle, id, outcome, status),
            Order::Operator(ticket) => {
                let reply = tasuki_shared::status::Reply::Moved(status);
                self.effects.push(Effect::Reply { ticket, reply: Box::new(reply) });
            }
            Order::Nobody => {}
        }
    }

    pub(super) fn move_status(&self, id: SessionId, moving: &Move) -> MoveStatus {
        let cut = moving.cut.unwrap_or_default();
        let name = self.sessions.get(&id).and_then(|s| s.publish.name()).map(ToString::to_string);
        MoveStatus {
            session: id.to_string(),
            name: name.unwrap_or_default(),
            from: self.process_name(moving.from),
            to: self.process_name(moving.to),
            outcome: moving.step_name().to_owned(),
            pause_us: match (moving.at_us, moving.cut) {
                (Some(at_us), Some(cut)) => at_us.saturating_sub(cut.released_us),
                (Some(_), None) | (None, _) => 0,
            },
            frames_lost: cut.frames_lost,
        }
    }

    /// Its owner has told how many frames the session has lost, and whether it could be moved.
    pub(super) fn count_losses(&mut self, now: Duration, id: SessionId, lost: u64, anchor: Anchor) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        self.frames_lost =
            self.frames_lost.saturating_add(lost.saturating_sub(session.frames_lost));
        session.frames_lost = session.frames_lost.max(lost);
        let loss = session.loss;
        for recycle in &mut self.recycles {
            if let Some(Loss { recycle: Some(of), before }) = loss
                && of == recycle.id
                && let Some(status) = recycle.moves.get_mut(&id)
            {
                status.frames_lost = lost.saturating_sub(before);
            }
            if let (Anchor::InLog, Some(tried)) = (anchor, recycle.tried.get_mut(&id)) {
                tried.anchor_found(now);
            }
        }
    }

    /// The session's hand-off to this worker, if it is in one of these steps; else it is counted.
    fn move_to(&mut self, by: Generation, id: SessionId, steps: &[Step]) -> Option<&mut Move> {
        let found = match self.sessions.get_mut(&id).map(|session| &mut session.place) {
            Some(Place::Moving(moving)) if moving.to == by && steps.contains(&moving.step) => {
                Some(&mut **moving)
            }
            Some(
                Place::Moving(_)
                | Place::Held { .. }
                | Place::Ending { .. }
                | Place::Leased { .. }
                | Place::Waiting { .. },
            )
            | None => None,
        };
        if found.is_none() {
            self.ignored_frames += 1;
        }
        found
    }

    pub(super) fn announce_session(
        &mut self,
        loudness: Loudness,
        event: &'static str,
        id: SessionId,
        detail: String,
    ) {
        let name = self.sessions.get(&id).and_then(|s| s.publish.name()).map(ToString::to_string);
        self.announce(Announcement::new(loudness, event, detail).of_session(id, name));
    }
}

/// Is this session in a hand-off whose outcome is not known?
pub const fn is_ambiguous(session: &Session) -> bool {
    match &session.place {
        Place::Moving(moving) => !matches!(moving.step, Step::Preparing | Step::Taken),
        Place::Held { .. }
        | Place::Ending { .. }
        | Place::Leased { .. }
        | Place::Waiting { .. } => false,
    }
}
