//! Verdicts on publishes: rules, stream slots, names.
//!
//! A verdict is kept with its session, so the same request, asked again by a worker that took the
//! session over, is answered without asking anybody twice. One live session per application and
//! name: the newcomer is refused, or it waits until the old session has ended.

use super::admission::Seat;
use super::event::{Announcement, Effect, Fds, Loudness};
use super::handoff::{Outcome, Step};
use super::lease::{Place, Session};
use super::settings::{Rules, SameName};
use super::{Core, Stage};
use std::time::Duration;
use tasuki_shared::id::{Generation, PublicName, SessionId};
use tasuki_shared::limits::NAME_DEADLINE;
use tasuki_shared::message::{
    Admission, EndReason, PublishRequest, RefuseReason, ToWorker, Verdict,
};
use tasuki_shared::plan::Plan;

/// What a session has asked for and been told.
#[derive(Clone, Debug, PartialEq)]
pub enum Publish {
    Nothing,
    /// Allowed as soon as the session that has the name is gone.
    AwaitsName {
        request: PublishRequest,
        plan: Box<Plan>,
        deadline: Duration,
    },
    Refused {
        request: PublishRequest,
        reason: RefuseReason,
    },
    Live {
        request: PublishRequest,
        plan: Box<Plan>,
    },
}

impl Publish {
    pub fn name(&self) -> Option<&PublicName> {
        match self {
            Self::AwaitsName { plan, .. } | Self::Live { plan, .. } => Some(&plan.name),
            Self::Nothing | Self::Refused { .. } => None,
        }
    }

    /// The key under which a live session is found.
    pub fn live_name(&self) -> Option<(String, PublicName)> {
        match self {
            Self::Live { plan, .. } => Some(key(plan)),
            Self::Nothing | Self::Refused { .. } | Self::AwaitsName { .. } => None,
        }
    }

    /// A worker that takes the session over asks again.
    pub fn forget_undecided(&mut self) {
        if let Self::AwaitsName { .. } = self {
            *self = Self::Nothing;
        }
    }
}

impl<R: Rules> Core<R> {
    pub(super) fn authorize(
        &mut self,
        now: Duration,
        generation: Generation,
        id: SessionId,
        request: PublishRequest,
    ) {
        let Some(session) = self.leased_to(generation, id) else { return };
        match &mut session.place {
            Place::Ending { .. } => return,
            // Who shall hear the answer, and with which memory, is known in a moment.
            Place::Moving(moving) if moving.step != Step::Taken && !moving.can_be_called_off() => {
                moving.asked = Some(request);
                return;
            }
            Place::Moving(moving) if moving.can_be_called_off() => {
                self.call_off(now, id, Outcome::CalledOff("it begins to publish".to_owned()));
            }
            Place::Moving(_)
            | Place::Waiting { .. }
            | Place::Leased { .. }
            | Place::Held { .. } => {}
        }
        let Some(session) = self.leased_to(generation, id) else { return };
        if let Admission::Refuse(reason) = session.admission {
            self.send_verdict(generation, id, Verdict::Refuse(reason));
            return;
        }
        match &session.publish {
            Publish::Live { request: decided, plan } if *decided == request => {
                let verdict = Verdict::Allow(plan.clone());
                self.send_verdict(generation, id, verdict);
            }
            Publish::Live { .. } => {
                let verdict = Verdict::Refuse(RefuseReason::AlreadyPublishing);
                self.send_verdict(generation, id, verdict);
            }
            Publish::AwaitsName { .. } => {}
            Publish::Refused { request: decided, reason } if *decided == request => {
                let verdict = Verdict::Refuse(*reason);
                self.send_verdict(generation, id, verdict);
            }
            Publish::Refused { .. } | Publish::Nothing => {
                self.decide_publish(now, generation, id, request);
            }
        }
    }

    /// Gives names that became free to those who wait for them.
    pub(super) fn grant_waiting_names(&mut self, now: Duration) {
        let free: Vec<SessionId> = self
            .sessions
            .iter()
            .filter_map(|(id, session)| match &session.publish {
                Publish::AwaitsName { plan, .. } => {
                    (!self.names.contains_key(&key(plan))).then_some(*id)
                }
                Publish::Nothing | Publish::Refused { .. } | Publish::Live { .. } => None,
            })
            .collect();
        for id in free {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if session.is_preparing() {
                self.call_off(now, id, Outcome::CalledOff("it begins to publish".to_owned()));
            }
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let (Place::Held { generation } | Place::Leased { generation, .. }) = session.place
            else {
                continue;
            };
            match std::mem::replace(&mut session.publish, Publish::Nothing) {
                Publish::AwaitsName { request, plan, .. }
                    if !self.names.contains_key(&key(&plan)) =>
                {
                    self.allow(now, generation, id, request, plan);
                }
                other @ (Publish::AwaitsName { .. }
                | Publish::Nothing
                | Publish::Refused { .. }
                | Publish::Live { .. }) => session.publish = other,
            }
        }
    }

    /// The old session did not end in time: it is closed under its worker.
    pub(super) fn name_not_freed(&mut self, now: Duration, id: SessionId) {
        let Some(Publish::AwaitsName { plan, .. }) = self.sessions.get(&id).map(|s| &s.publish)
        else {
            return;
        };
        match self.names.get(&key(plan)).copied() {
            Some(old) => self.close(now, old, EndReason::TakenOver),
            None => self.grant_waiting_names(now),
        }
    }

    fn decide_publish(
        &mut self,
        now: Duration,
        generation: Generation,
        id: SessionId,
        request: PublishRequest,
    ) {
        let plan = match self.rules.authorize(&request) {
            Ok(_) if self.stage != Stage::Running => Err(RefuseReason::Draining),
            Ok(_) if self.cpu_full() => Err(RefuseReason::NoCpu),
            Ok(_) if self.memory_full() => Err(RefuseReason::NoMemory),
            Ok(plan) => Ok(Box::new(plan)),
            Err(reason) => Err(reason),
        };
        match plan {
            Ok(plan) => match self.names.get(&key(&plan)).copied() {
                None => self.allow(now, generation, id, request, plan),
                Some(old) => self.contend(now, generation, id, old, request, plan),
            },
            Err(reason) => self.refuse_publish(generation, id, request, reason),
        }
    }

    fn contend(
        &mut self,
        now: Duration,
        generation: Generation,
        id: SessionId,
        old: SessionId,
        request: PublishRequest,
        plan: Box<Plan>,
    ) {
        let contended = self.sessions.values().any(|session| match &session.publish {
            Publish::AwaitsName { plan: waiting, .. } => key(waiting) == key(&plan),
            Publish::Nothing | Publish::Refused { .. } | Publish::Live { .. } => false,
        });
        if contended || self.settings.same_name == SameName::Refuse {
            self.refuse_publish(generation, id, request, RefuseReason::NameTaken);
            return;
        }
        // A slot is taken now, unless the old session will leave one here when it ends.
        let old_is_here =
            self.sessions.get(&old).is_some_and(|old| old.generation() == Some(generation));
        if !old_is_here && let Err(reason) = self.take_seat(generation, id) {
            self.refuse_publish(generation, id, request, reason);
            return;
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.publish = Publish::AwaitsName { request, plan, deadline: now + NAME_DEADLINE };
        }
        self.end_session(now, old, EndReason::TakenOver);
    }

    fn allow(
        &mut self,
        _now: Duration,
        generation: Generation,
        id: SessionId,
        request: PublishRequest,
        plan: Box<Plan>,
    ) {
        if let Err(reason) = self.take_seat(generation, id) {
            self.refuse_publish(generation, id, request, reason);
            return;
        }
        self.names.insert(key(&plan), id);
        let name = plan.name.to_string();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.publish = Publish::Live { request, plan: plan.clone() };
        }
        let detail = format!("live in application {}", plan.app);
        let announcement =
            Announcement::new(Loudness::Info, "session_live", detail).of_session(id, Some(name));
        self.effects.push(Effect::Announce(announcement));
        self.send_verdict(generation, id, Verdict::Allow(plan));
        self.tell_live(id);
    }

    fn refuse_publish(
        &mut self,
        generation: Generation,
        id: SessionId,
        request: PublishRequest,
        reason: RefuseReason,
    ) {
        self.refused(reason);
        self.give_seat_back(generation, id);
        if let Some(session) = self.sessions.get_mut(&id) {
            let peer = session.peer;
            session.publish = Publish::Refused { request, reason };
            let announcement =
                Announcement::new(Loudness::Warn, "publish_refused", format!("{reason} ({peer})"))
                    .of_session(id, None)
                    .of_peer(peer.ip());
            self.announce(announcement);
        }
        self.send_verdict(generation, id, Verdict::Refuse(reason));
    }

    /// Refuses whoever waits for a name, with a reason instead of a silence.
    pub(super) fn refuse_undecided(&mut self, id: SessionId, reason: RefuseReason) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(generation) = session.generation() else { return };
        match std::mem::replace(&mut session.publish, Publish::Nothing) {
            Publish::AwaitsName { request, .. } => {
                self.refuse_publish(generation, id, request, reason);
            }
            other @ (Publish::Nothing | Publish::Refused { .. } | Publish::Live { .. }) => {
                session.publish = other;
            }
        }
    }

    /// The verdict never left us: its memory could not be made or sent. The name is free again and
    /// the publisher reads why.
    pub(super) fn withdraw_verdict(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(generation) = session.generation() else { return };
        let name = session.publish.live_name();
        match std::mem::replace(&mut session.publish, Publish::Nothing) {
            Publish::Live { request, .. } => {
                if let Some(name) = name.filter(|name| self.names.get(name) == Some(&id)) {
                    self.names.remove(&name);
                }
                self.tell_gone(id);
                self.refuse_publish(generation, id, request, RefuseReason::NoResource);
            }
            other @ (Publish::Nothing | Publish::Refused { .. } | Publish::AwaitsName { .. }) => {
                session.publish = other;
            }
        }
    }

    fn send_verdict(&mut self, generation: Generation, session: SessionId, verdict: Verdict) {
        let fds = match verdict {
            Verdict::Allow(_) => Fds::Logs(session),
            Verdict::Refuse(_) => Fds::None,
        };
        self.send(generation, ToWorker::Verdict { session, verdict }, fds);
    }

    /// Moves a session from the lobby to a stream slot, if there is one. Has it one, it keeps it.
    fn take_seat(&mut self, generation: Generation, id: SessionId) -> Result<(), RefuseReason> {
        if self.sessions.get(&id).is_some_and(|session| session.seat == Seat::Stream) {
            return Ok(());
        }
        if self.seats.streams >= self.settings.sessions_max {
            return Err(RefuseReason::HostCap);
        }
        if !self.has_stream_room(generation) {
            return Err(RefuseReason::NoSlot);
        }
        self.process_mut(generation).ok_or(RefuseReason::NoSlot)?.streams += 1;
        if let Some(session) = self.sessions.get_mut(&id) {
            self.seats.change(session.peer, Some(session.seat), Some(Seat::Stream));
            session.seat = Seat::Stream;
        }
        Ok(())
    }

    fn give_seat_back(&mut self, generation: Generation, id: SessionId) {
        let seated = |session: &&mut Session| session.seat == Seat::Stream;
        let Some(session) = self.sessions.get_mut(&id).filter(seated) else { return };
        self.seats.change(session.peer, Some(session.seat), Some(Seat::Lobby));
        session.seat = Seat::Lobby;
        if let Some(process) = self.process_mut(generation) {
            process.streams = process.streams.saturating_sub(1);
        }
    }
}

fn key(plan: &Plan) -> (String, PublicName) {
    (plan.app.clone(), plan.name.clone())
}
