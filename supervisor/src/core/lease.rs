//! A session from its connection to its end: who may hold it, and what becomes of it when its
//! worker dies.
//!
//! ```text
//!  Waiting ──lease──▶ Leased ──Adopted──▶ Held ──End──▶ Ending ──Ended, or the deadline──▶ (closed)
//!     ▲                  │                  │
//!     └──its worker was reaped: an orphan───┘ ▲
//!                                           └─┴─ Moving: see [`super::handoff`]
//! ```
//! Each place but the last has a deadline or an owner whose silence has one, so no session lasts
//! without somebody who works on it.

use super::admission::{Seat, refusal_name};
use super::deaths::Fate;
use super::event::{Announcement, Effect, Fds, loudness_of};
use super::handoff::{Loss, Move, Outcome, Step};
use super::poison::{Blame, Standing, Work};
use super::publish::Publish;
use super::restart::{Cause, KillReason};
use super::settings::Rules;
use super::{Core, Stage};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tasuki_shared::id::{Generation, PushId, SessionId};
use tasuki_shared::limits::{ADOPT_DEADLINE, END_GRACE, ORPHAN_DEADLINE};
use tasuki_shared::message::{Admission, CodecNeed, EndReason, Lease, LiveLease, Owner, ToWorker};
use tasuki_shared::status::SessionStatus;

#[derive(Clone, Debug)]
pub struct Session {
    pub peer: SocketAddr,
    pub since: Duration,
    pub admission: Admission,
    pub place: Place,
    pub publish: Publish,
    /// What it takes from the worker it is leased to.
    pub seat: Seat,
    /// The owner word as far as messages told; the shell reads the word itself before a lease.
    pub owner: Option<Owner>,
    /// Pushes whose connection the shell holds a dup of.
    pub connected: BTreeSet<PushId>,
    /// What it is suspected of.
    pub blame: Blame,
    /// Whose preparation was called off last; it may have taken the session all the same.
    pub last_target: Option<Generation>,
    /// As its worker last told.
    pub status: Option<Box<SessionStatus>>,
    /// Frames that no owner encoded, as its workers told.
    pub frames_lost: u64,
    /// Of its last hand-off, where that still costs frames.
    pub loss: Option<Loss>,
    /// What its codecs were opened with, as its workers told.
    pub needs: Vec<CodecNeed>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// No worker has it.
    Waiting {
        deadline: Duration,
    },
    Leased {
        generation: Generation,
        deadline: Duration,
    },
    Held {
        generation: Generation,
    },
    /// On its way from one worker to another.
    Moving(Box<Move>),
    /// Told to end; closed by us at the deadline.
    Ending {
        generation: Generation,
        deadline: Duration,
        reason: EndReason,
    },
}

impl Session {
    pub fn new(now: Duration, peer: SocketAddr, deadline: Duration) -> Self {
        Self {
            peer,
            since: now,
            admission: Admission::Admit,
            place: Place::Waiting { deadline },
            publish: Publish::Nothing,
            seat: Seat::Lobby,
            owner: None,
            connected: BTreeSet::new(),
            blame: Blame::default(),
            last_target: None,
            status: None,
            frames_lost: 0,
            loss: None,
            needs: Vec::new(),
        }
    }

    pub const fn waits(&self) -> bool {
        matches!(self.place, Place::Waiting { .. })
    }

    /// Its owner may have released it to the target of a move that was called off, and died before
    /// it said so.
    pub const fn may_be_taken(&self) -> bool {
        matches!(self.place, Place::Held { .. }) && self.last_target.is_some()
    }

    /// Whose it is to speak of it.
    pub const fn generation(&self) -> Option<Generation> {
        match &self.place {
            Place::Waiting { .. } => None,
            Place::Moving(moving) => Some(moving.speaker()),
            Place::Leased { generation, .. }
            | Place::Held { generation }
            | Place::Ending { generation, .. } => Some(*generation),
        }
    }

    /// What a worker is told that shall have it.
    pub fn lease_for(&self, id: SessionId, expect: Owner) -> Lease {
        let live = match &self.publish {
            Publish::Live { plan, .. } => Some(LiveLease {
                plan: plan.as_ref().clone(),
                connected: self.connected.iter().copied().collect(),
            }),
            Publish::Nothing | Publish::Refused { .. } | Publish::AwaitsName { .. } => None,
        };
        Lease { session: id, peer: self.peer, expect, admission: self.admission, live }
    }

    /// Is it being prepared elsewhere, and nothing else?
    pub fn is_preparing(&self) -> bool {
        match &self.place {
            Place::Moving(moving) => moving.can_be_called_off(),
            Place::Waiting { .. }
            | Place::Leased { .. }
            | Place::Held { .. }
            | Place::Ending { .. } => false,
        }
    }

    /// May a worker whose session it was until now still say something of it?
    fn was_just_held_by(&self, generation: Generation) -> bool {
        match &self.place {
            Place::Moving(moving) => moving.from == generation && moving.step == Step::Taken,
            Place::Waiting { .. }
            | Place::Leased { .. }
            | Place::Held { .. }
            | Place::Ending { .. } => false,
        }
    }
}

impl<R: Rules> Core<R> {
    /// The session if it is leased to this worker; a worker may speak of no other.
    pub(super) fn leased_to(
        &mut self,
        generation: Generation,
        session: SessionId,
    ) -> Option<&mut Session> {
        let known = self.sessions.get_mut(&session);
        let late = known.as_ref().is_some_and(|session| session.was_just_held_by(generation));
        let found = known.filter(|session| session.generation() == Some(generation));
        if found.is_none() && !late {
            self.ignored_frames += 1;
        }
        found
    }

    /// The one path by which a worker gets a session: fresh, or after its owner's death.
    pub(super) fn lease(
        &mut self,
        now: Duration,
        id: SessionId,
        generation: Generation,
        admission: Admission,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let expect = *session.owner.get_or_insert(Owner::Offered(generation));
        session.admission = admission;
        let lease = session.lease_for(id, expect);
        let seat = if lease.live.is_some() { Seat::Stream } else { Seat::Lobby };
        session.place = Place::Leased { generation, deadline: now + ADOPT_DEADLINE };
        let peer = session.peer;
        self.seats.change(peer, Some(session.seat), Some(seat));
        session.seat = seat;
        self.seat_at(generation, id);
        self.send(generation, ToWorker::Adopt(Box::new(lease)), Fds::Session(id));
    }

    pub(super) fn adopted(
        &mut self,
        _now: Duration,
        generation: Generation,
        id: SessionId,
        at_us: u64,
    ) {
        if self.adopted_in_move(generation, id, at_us) {
            return;
        }
        let Some(session) = self.leased_to(generation, id) else { return };
        match session.place {
            Place::Leased { .. } => {
                session.place = Place::Held { generation };
                session.owner = Some(Owner::Held(generation));
            }
            Place::Ending { .. } => session.owner = Some(Owner::Held(generation)),
            Place::Held { .. } | Place::Moving(_) | Place::Waiting { .. } => {}
        }
    }

    pub(super) fn adopt_failed(
        &mut self,
        now: Duration,
        generation: Generation,
        id: SessionId,
        reason: String,
    ) {
        if self.adopt_failed_in_move(generation, id, &reason) {
            return;
        }
        if self.leased_to(generation, id).is_some() {
            self.close(now, id, EndReason::AdoptFailed(reason));
        }
    }

    pub(super) fn ended(
        &mut self,
        now: Duration,
        generation: Generation,
        id: SessionId,
        reason: EndReason,
    ) {
        if self.leased_to(generation, id).is_some() {
            self.close(now, id, reason);
        }
    }

    /// What could not be sent decides what becomes of the session.
    pub(super) fn resource_failed(&mut self, now: Duration, id: SessionId, fds: Fds, what: String) {
        match fds {
            // Its worker has never heard of it.
            Fds::Session(_) => self.close(now, id, EndReason::Resource(what)),
            Fds::Logs(_) => {
                self.withdraw_verdict(id);
                self.end_session(now, id, EndReason::Resource(what));
                self.grant_waiting_names(now);
            }
            Fds::Preparation(_) | Fds::Bell(_) => self.call_off(now, id, Outcome::Kept(what)),
            Fds::Dialed { push, .. } => self.dial_not_sent(id, push, what),
            Fds::ReadOnlyLogs(_) => self.not_told_live(id, what),
            Fds::None | Fds::Listeners(_) => self.end_session(now, id, EndReason::Resource(what)),
        }
    }

    /// Asks the owner to end the session, or closes it where nobody owns it.
    pub(super) fn end_session(&mut self, now: Duration, id: SessionId, reason: EndReason) {
        if self.sessions.get(&id).is_some_and(|s| s.is_preparing()) {
            self.call_off(now, id, Outcome::CalledOff("it was told to end".to_owned()));
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match &mut session.place {
            Place::Waiting { .. } => self.close(now, id, reason),
            // Told to whoever has it when the hand-off is over.
            Place::Moving(moving) => {
                moving.end.get_or_insert(reason);
            }
            Place::Leased { generation, .. } | Place::Held { generation } => {
                let generation = *generation;
                let deadline = now + END_GRACE;
                session.place = Place::Ending { generation, deadline, reason: reason.clone() };
                self.send(generation, ToWorker::End { session: id, reason }, Fds::None);
            }
            Place::Ending { .. } => {}
        }
    }

    /// Shuts the socket down and forgets the session, whatever its worker does.
    pub(super) fn close(&mut self, now: Duration, id: SessionId, reason: EndReason) {
        let Some(session) = self.sessions.get(&id) else { return };
        if let Place::Moving(moving) = session.place.clone() {
            let outcome = Outcome::CalledOff(format!("the session ended: {reason}"));
            self.tell_move(now, id, &moving, &outcome);
        }
        self.settle_death(id, Fate::Ended(reason.to_string()));
        let Some(session) = self.sessions.get(&id) else { return };
        // Only a live stream has a name to give away; most ends are those of lobbies.
        let named = session.publish.live_name().is_some();
        if let Some(name) = session.publish.name() {
            let announcement =
                Announcement::new(loudness_of(&reason), "session_ended", reason.to_string())
                    .of_session(id, Some(name.to_string()));
            self.announce(announcement);
        } else if let EndReason::WorkerDied | EndReason::AdoptFailed(_) | EndReason::Resource(_) =
            reason
        {
            let announcement =
                Announcement::new(loudness_of(&reason), "session_ended", reason.to_string())
                    .of_session(id, None);
            self.announce(announcement);
        }
        self.close_quietly(id);
        if named {
            self.grant_waiting_names(now);
        }
    }

    pub(super) fn close_quietly(&mut self, id: SessionId) {
        self.settle_death(id, Fate::Ended("closed".to_owned()));
        if let Some(Place::Moving(moving)) = self.sessions.get(&id).map(|s| s.place.clone()) {
            self.forget_move(id, &moving);
        }
        if let Some(generation) = self.sessions.get(&id).and_then(Session::generation) {
            self.unseat_from(generation, id);
        }
        let Some(session) = self.sessions.remove(&id) else { return };
        self.seats.change(session.peer, Some(session.seat), None);
        if let Some(key) = session.publish.live_name() {
            if self.names.get(&key) == Some(&id) {
                self.names.remove(&key);
            }
            self.tell_gone(id);
        }
        self.orphans.retain(|orphan| *orphan != id);
        self.effects.push(Effect::Close { session: id });
    }

    /// The session is this worker's to answer for.
    pub(super) fn seat_at(&mut self, generation: Generation, id: SessionId) {
        self.settle_death(id, Fate::WentTo(generation));
        let Some(seat) = self.sessions.get(&id).map(|session| session.seat) else { return };
        if let Some(process) = self.process_mut(generation)
            && process.sessions.insert(id)
        {
            process.take_stream(seat);
        }
    }

    pub(super) fn unseat_from(&mut self, generation: Generation, id: SessionId) {
        let Some(seat) = self.sessions.get(&id).map(|session| session.seat) else { return };
        if let Some(process) = self.process_mut(generation)
            && process.sessions.remove(&id)
        {
            process.leave_stream(seat);
        }
    }

    /// The place kept at the target of a hand-off is free again.
    pub(super) fn forget_arrival(&mut self, to: Generation, id: SessionId) {
        let Some(seat) = self.sessions.get(&id).map(|session| session.seat) else { return };
        if let Some(process) = self.process_mut(to)
            && process.arriving.remove(&id)
        {
            process.leave_stream(seat);
        }
    }

    /// The place kept at the target of a hand-off is taken, and the one at the old owner left.
    pub(super) fn seat_taker(&mut self, id: SessionId) {
        let Some(Place::Moving(moving)) = self.sessions.get(&id).map(|s| &s.place) else { return };
        let (from, to) = (moving.from, moving.to);
        self.unseat_from(from, id);
        self.forget_arrival(to, id);
        self.seat_at(to, id);
    }

    /// The owner of these sessions was reaped. None of them is the dead one's any more before the
    /// first is closed, for a close may give a name to another.
    pub(super) fn orphan(
        &mut self,
        now: Duration,
        sessions: BTreeSet<SessionId>,
        cause: Cause,
        work: Work<'_>,
    ) {
        let reason = match cause {
            Cause::Killed(KillReason::Shutdown) => EndReason::Shutdown,
            Cause::Exit(_)
            | Cause::UnknownExit(_)
            | Cause::Fault(_)
            | Cause::ForeignKill
            | Cause::Asked(_)
            | Cause::OomKill
            | Cause::Signal(_)
            | Cause::Killed(KillReason::Hung | KillReason::Channel | KillReason::Lingering)
            | Cause::SpawnFailed => EndReason::WorkerDied,
        };
        let poison = self.accuse(&sessions, cause, &work);
        self.quarantine(now, &sessions.difference(&poison).copied().collect());
        let mut doomed = Vec::new();
        for id in sessions {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let is_poison = poison.contains(&id);
            if let (Place::Moving(moving), false) = (&session.place, is_poison) {
                let moving = (**moving).clone();
                if !moving.can_be_called_off() {
                    // The target may have it, or shall.
                    self.effects.push(Effect::ReadOwner { session: id });
                    continue;
                }
                self.tell_move(now, id, &moving, &Outcome::CrashedOver);
                self.forget_move(id, &moving);
                self.effects.push(Effect::DropBell { session: id });
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.place = Place::Held { generation: moving.from };
                }
            }
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if session.may_be_taken() && !is_poison && self.stage == Stage::Running {
                session.publish.forget_undecided();
                session.status = None;
                self.effects.push(Effect::ReadOwner { session: id });
                continue;
            }
            session.publish.forget_undecided();
            session.loss = None;
            // What the dead one told last says nothing of the next owner.
            session.status = None;
            let place = std::mem::replace(
                &mut session.place,
                Place::Waiting { deadline: now + ORPHAN_DEADLINE },
            );
            let goes_on =
                !is_poison && session.admission == Admission::Admit && self.stage == Stage::Running;
            match place {
                Place::Ending { reason, .. } => doomed.push((id, reason)),
                Place::Leased { .. } | Place::Held { .. } | Place::Waiting { .. } if goes_on => {
                    self.orphans.push_back(id);
                }
                Place::Moving(moving) => {
                    session.place = Place::Moving(moving);
                    doomed.push((id, reason.clone()));
                }
                Place::Leased { .. } | Place::Held { .. } | Place::Waiting { .. } => {
                    doomed.push((id, reason.clone()));
                }
            }
        }
        for (id, reason) in doomed {
            if poison.contains(&id) {
                self.drop_poison(now, id);
            } else {
                self.close(now, id, reason);
            }
        }
    }

    pub(super) fn place_orphans(&mut self, now: Duration) {
        let mut left = std::mem::take(&mut self.orphans);
        let mut homeless = std::collections::VecDeque::new();
        while let Some(id) = left.pop_front() {
            let Some(session) = self.sessions.get(&id).filter(|session| session.waits()) else {
                continue;
            };
            let seat = match session.publish {
                Publish::Live { .. } => Seat::Stream,
                Publish::Nothing | Publish::Refused { .. } | Publish::AwaitsName { .. } => {
                    Seat::Lobby
                }
            };
            let standing = session.blame.standing;
            let home = match standing {
                Standing::Quarantined { .. } => self.quarantine_for(now, id),
                Standing::Clear | Standing::LetOut { .. } => self.least_loaded(seat),
            };
            match home {
                Some(generation) => self.lease(now, id, generation, Admission::Admit),
                None => homeless.push_back(id),
            }
        }
        self.orphans = homeless;
    }

    pub(super) fn check_sessions(&mut self, now: Duration) {
        let due: Vec<(SessionId, Due)> = self
            .sessions
            .iter()
            .filter_map(|(id, session)| Some((*id, Due::of(now, session)?)))
            .collect();
        for (id, due) in due {
            match due {
                Due::Arrival => self.give_up_arrival(now, id),
                Due::Orphan => self.close(now, id, EndReason::WorkerDied),
                Due::Adoption => {
                    let reason = "its worker did not adopt it in time".to_owned();
                    self.close(now, id, EndReason::AdoptFailed(reason));
                }
                Due::End(reason) => self.close(now, id, reason),
                Due::Name => self.name_not_freed(now, id),
                Due::Move => self.move_overdue(now, id),
            }
        }
    }

    pub(super) fn refused(&mut self, reason: tasuki_shared::message::RefuseReason) {
        self.count_refusal(refusal_name(reason));
    }
}

/// Which deadline of a session has passed.
enum Due {
    Arrival,
    Orphan,
    Adoption,
    End(EndReason),
    Name,
    Move,
}

impl Due {
    fn of(now: Duration, session: &Session) -> Option<Self> {
        match &session.place {
            Place::Waiting { deadline } if now >= *deadline => {
                Some(if session.owner.is_some() { Self::Orphan } else { Self::Arrival })
            }
            Place::Leased { deadline, .. } if now >= *deadline => Some(Self::Adoption),
            Place::Ending { deadline, reason, .. } if now >= *deadline => {
                Some(Self::End(reason.clone()))
            }
            Place::Moving(moving) if now >= moving.deadline => Some(Self::Move),
            Place::Waiting { .. }
            | Place::Leased { .. }
            | Place::Moving(_)
            | Place::Ending { .. } => None,
            Place::Held { .. } => match &session.publish {
                Publish::AwaitsName { deadline, .. } if now >= *deadline => Some(Self::Name),
                Publish::AwaitsName { .. }
                | Publish::Nothing
                | Publish::Refused { .. }
                | Publish::Live { .. } => None,
            },
        }
    }
}
