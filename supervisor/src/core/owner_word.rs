//! What becomes of a session in a hand-off by what its owner word says.
//!
//! | word | the old owner lives | it is reaped |
//! |---|---|---|
//! | held(old) | it goes on, or may still release | the prepared target takes over |
//! | offered(new) | the target takes it, and is called to | the target takes it, and is called to |
//! | held(new) | the target has it | the target has it |
//!
//! Where the target is reaped as well the session is an orphan; where it says nothing it is killed,
//! for a process that may still take a session must not live beside one that shall.

use super::event::{Fds, Loudness};
use super::handoff::{Doubt, Move, Order, Outcome, Step};
use super::lease::Place;
use super::restart::KillReason;
use super::settings::Rules;
use super::worker::State;
use super::{Core, Stage};
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::limits::{ADOPT_DEADLINE, CUT_REPORT_DEADLINE, OFFER_GRACE, ORPHAN_DEADLINE};
use tasuki_shared::message::{Admission, EndReason, Haste, Owner, ToWorker};

impl<R: Rules> Core<R> {
    /// What the owner word says, read by the shell; `None` if it is damaged or gone.
    pub(super) fn owner_read(&mut self, now: Duration, id: SessionId, owner: Option<Owner>) {
        let Some(session) = self.sessions.get(&id) else { return };
        let Some(owner) = owner else {
            let reason = "its owner word is damaged".to_owned();
            self.close(now, id, EndReason::AdoptFailed(reason));
            return;
        };
        match &session.place {
            Place::Moving(moving) => {
                let moving = (**moving).clone();
                match owner {
                    Owner::Held(g) if g == moving.from => self.word_held_by_old(now, id, moving),
                    Owner::Offered(g) if g == moving.to => self.word_offered(now, id, moving),
                    Owner::Held(g) if g == moving.to => self.word_held_by_new(now, id, moving),
                    Owner::Held(other) | Owner::Offered(other) => {
                        let why = format!("it went to {other}, which was asked before");
                        self.call_off(now, id, Outcome::Kept(why));
                        self.follow_word(now, id, owner);
                    }
                }
            }
            Place::Held { .. } | Place::Ending { .. } => self.follow_word(now, id, owner),
            Place::Leased { .. } | Place::Waiting { .. } => {}
        }
    }

    fn word_held_by_old(&mut self, now: Duration, id: SessionId, moving: Move) {
        let (old_lives, new_lives) = (self.lives(moving.from), self.lives(moving.to));
        match (old_lives, moving.step) {
            (true, Step::Preparing | Step::Releasing) => {
                if !new_lives {
                    self.call_off(now, id, Outcome::Kept("the target died".to_owned()));
                } else if let Some(doubt) = &moving.doubt {
                    let must_go =
                        moving.step == Step::Releasing && moving.haste == Haste::AtAnyPrice;
                    if !must_go || !self.kill_hung(now, id, moving.from, doubt) {
                        self.call_off(now, id, doubt.outcome());
                    }
                } else {
                    // Somebody claimed what the word does not confirm.
                    self.ignored_frames += 1;
                    self.forget_claims(id);
                }
            }
            // One that belongs alone goes to nobody else.
            (false, Step::Releasing) if new_lives && !self.is_quarantined(id) => {
                self.forget_doubt(id);
                self.seat_taker(id);
                self.set_step(id, Step::TakingOver, now + ADOPT_DEADLINE);
                let expect = Owner::Held(moving.from);
                self.send(moving.to, ToWorker::TakeOver { session: id, expect }, Fds::None);
            }
            (false, Step::TakingOver) if new_lives && moving.doubt.is_none() => {}
            (false, Step::TakingOver) if new_lives && self.kill_doubted(now, id, &moving) => {}
            (
                _,
                Step::Preparing
                | Step::Releasing
                | Step::Released
                | Step::Offered
                | Step::TakingOver
                | Step::Taken,
            ) => self.disown(now, id),
        }
    }

    fn word_offered(&mut self, now: Duration, id: SessionId, moving: Move) {
        self.seat_taker(id);
        if !self.lives(moving.to) {
            self.disown(now, id);
            return;
        }
        match (moving.step, &moving.doubt) {
            (Step::Preparing | Step::Releasing | Step::TakingOver, None) => {
                self.set_step(id, Step::Released, now + ADOPT_DEADLINE);
                self.call_taker(id, moving.to);
            }
            // It may be taken this very moment, if the preparation still stood.
            (Step::Preparing | Step::Releasing, Some(_)) => {
                self.set_step(id, Step::Offered, now + OFFER_GRACE);
                self.call_taker(id, moving.to);
            }
            (Step::Offered, Some(_)) => {
                let admission = self.sessions.get(&id).map(|session| session.admission);
                self.end_move(now, id, Outcome::CrashedOver);
                let held =
                    self.sessions.get(&id).is_some_and(|s| s.generation() == Some(moving.to));
                if held && moving.end.is_none() {
                    self.unseat_from(moving.to, id);
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.publish.forget_undecided();
                    }
                    self.lease(now, id, moving.to, admission.unwrap_or(Admission::Admit));
                }
            }
            (Step::Released | Step::TakingOver, Some(_)) => {
                if !self.kill_doubted(now, id, &moving) {
                    self.disown(now, id);
                }
            }
            (Step::Released | Step::Offered, None) | (Step::Taken, _) => {}
        }
    }

    /// The old owner may have died, or hang, between its word and the bell.
    fn call_taker(&mut self, id: SessionId, to: Generation) {
        let expect = Owner::Offered(to);
        self.send(to, ToWorker::TakeOver { session: id, expect }, Fds::None);
    }

    fn word_held_by_new(&mut self, now: Duration, id: SessionId, moving: Move) {
        self.seat_taker(id);
        if !self.lives(moving.to) {
            self.disown(now, id);
            return;
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.owner = Some(Owner::Held(moving.to));
        }
        let told = moving.cut.is_some() || moving.step == Step::TakingOver;
        match moving.at_us {
            Some(_) if told || !self.lives(moving.from) => self.finish_taken(now, id),
            Some(_) => self.set_step(id, Step::Taken, now + CUT_REPORT_DEADLINE),
            // It holds what it says nothing of: its word is waited for once.
            None if moving.doubt.is_some() => self.finish_taken(now, id),
            None => self.set_step(id, Step::Released, now + ADOPT_DEADLINE),
        }
    }

    /// The word names somebody else than the core thought: a release came after its `Keep`.
    fn follow_word(&mut self, now: Duration, id: SessionId, owner: Owner) {
        let Some(session) = self.sessions.get(&id) else { return };
        let Some(from) = session.generation() else { return };
        let (Owner::Held(to) | Owner::Offered(to)) = owner;
        if to == from {
            // Nobody had it after the owner that died.
            if !self.lives(from) {
                self.make_orphan(now, id);
            }
            return;
        }
        let place = session.place.clone();
        self.unseat_from(from, id);
        let lives = self.lives(to);
        let ending = match place {
            Place::Ending { deadline, reason, .. } => Some((deadline, reason)),
            Place::Held { .. }
            | Place::Leased { .. }
            | Place::Moving(_)
            | Place::Waiting { .. } => None,
        };
        if !lives {
            match ending {
                Some((_, reason)) => self.close(now, id, reason),
                None => self.make_orphan(now, id),
            }
            return;
        }
        self.seat_at(to, id);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.owner = Some(owner);
        session.place = match (ending, owner) {
            (Some((deadline, reason)), _) => {
                let end = ToWorker::End { session: id, reason: reason.clone() };
                session.place = Place::Ending { generation: to, deadline, reason };
                self.send(to, end, Fds::None);
                return;
            }
            (None, Owner::Held(_)) => Place::Held { generation: to },
            (None, Owner::Offered(_)) => Place::Moving(Box::new(Move {
                from,
                to,
                haste: Haste::Now,
                order: Order::Nobody,
                step: Step::Offered,
                deadline: now + OFFER_GRACE,
                cut: None,
                at_us: None,
                doubt: None,
                end: None,
                asked: None,
            })),
        };
    }

    /// Neither of the two can have it: whoever is free may.
    fn disown(&mut self, now: Duration, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let Place::Moving(moving) = session.place.clone() else { return };
        if let Some(reason) = moving.end {
            self.close(now, id, reason);
            return;
        }
        self.forget_arrival(moving.to, id);
        self.unseat_from(moving.from, id);
        self.unseat_from(moving.to, id);
        // Neither has it: a publish that waited for the outcome is asked for again by whoever gets it.
        if let Some(session) = self.sessions.get_mut(&id) {
            session.publish.forget_undecided();
            if let Place::Moving(moving) = &mut session.place {
                moving.asked = None;
            }
        }
        let prepared = moving.step != Step::TakingOver && self.lives(moving.to);
        if prepared {
            self.send(moving.to, ToWorker::Unprepare { session: id }, Fds::None);
        }
        self.end_move(now, id, Outcome::CrashedOver);
        self.make_orphan(now, id);
    }

    fn make_orphan(&mut self, now: Duration, id: SessionId) {
        let running = self.stage == Stage::Running;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.place = Place::Waiting { deadline: now + ORPHAN_DEADLINE };
        session.publish.forget_undecided();
        if running && session.admission == Admission::Admit {
            self.orphans.push_back(id);
            self.place_waiting(now);
        } else {
            self.close(now, id, EndReason::WorkerDied);
        }
    }

    fn set_step(&mut self, id: SessionId, step: Step, deadline: Duration) {
        if let Some(Place::Moving(moving)) = self.sessions.get_mut(&id).map(|s| &mut s.place) {
            moving.step = step;
            moving.deadline = deadline;
        }
    }

    fn forget_doubt(&mut self, id: SessionId) {
        if let Some(Place::Moving(moving)) = self.sessions.get_mut(&id).map(|s| &mut s.place) {
            moving.doubt = None;
        }
    }

    fn kill_doubted(&mut self, now: Duration, id: SessionId, moving: &Move) -> bool {
        moving.doubt.as_ref().is_some_and(|doubt| self.kill_hung(now, id, moving.to, doubt))
    }

    /// Kills a process that says nothing of a session's hand-off, for which that session alone can
    /// be blamed. `true`: its death will decide.
    fn kill_hung(
        &mut self,
        now: Duration,
        id: SessionId,
        generation: Generation,
        doubt: &Doubt,
    ) -> bool {
        let Doubt::Overdue(detail) = doubt else { return false };
        let Some(at) = self.slot_of(generation) else { return false };
        if !matches!(self.slots[at].state, State::Ending(..)) {
            self.announce_worker(at, Loudness::Error, "worker_hung", (*detail).to_owned());
            if let Some(process) = self.slots[at].process_mut() {
                process.hung_session = Some(id);
            }
            self.kill(now, at, KillReason::Hung);
        }
        self.lives(generation)
    }

    fn forget_claims(&mut self, id: SessionId) {
        if let Some(Place::Moving(moving)) = self.sessions.get_mut(&id).map(|s| &mut s.place) {
            (moving.cut, moving.at_us) = (None, None);
        }
    }
}
