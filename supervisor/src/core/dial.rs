//! Connections that pushes ask for. Workers never connect: the dialer does, under a ticket, and
//! the connected socket is passed on to whoever holds the session by then.

use super::Core;
use super::event::{Effect, Fds};
use super::handoff::{Outcome, is_ambiguous};
use super::lease::Place;
use super::publish::Publish;
use super::settings::Rules;
use super::worker::State;
use std::time::Duration;
use tasuki_shared::id::{Generation, PushId, SessionId};
use tasuki_shared::limits::{DIAL_ANSWER_DEADLINE, DIALS_MAX};
use tasuki_shared::message::{DialError, Role, ToWorker};

/// A dial on its way.
#[derive(Clone, Debug)]
pub struct Dial {
    pub session: SessionId,
    pub push: PushId,
    /// Who asked.
    pub generation: Generation,
    /// Who connects; nobody else may answer.
    pub dialer: Generation,
    pub deadline: Duration,
}

impl<R: Rules> Core<R> {
    pub(super) fn dial(
        &mut self,
        now: Duration,
        generation: Generation,
        id: SessionId,
        push: PushId,
    ) {
        let Some(session) = self.leased_to(generation, id) else { return };
        let target = match &session.publish {
            Publish::Live { plan, .. } => plan.push(push),
            Publish::Nothing | Publish::Refused { .. } | Publish::AwaitsName { .. } => None,
        };
        let Some(target) = target else {
            self.ignored_frames += 1;
            return;
        };
        let (host, port) = (target.host.clone(), target.port);
        let asked =
            |dial: &Dial| dial.session == id && dial.push == push && dial.generation == generation;
        if self.dials.values().any(asked) {
            return;
        }
        if self.dials.len() >= DIALS_MAX {
            self.answer_dial(generation, id, push, Err(DialError::Busy), Fds::None);
            return;
        }
        let Some(dialer) = self.dialer() else {
            self.answer_dial(generation, id, push, Err(DialError::NoDialer), Fds::None);
            return;
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let deadline = now + DIAL_ANSWER_DEADLINE;
        self.dials.insert(ticket, Dial { session: id, push, generation, dialer, deadline });
        self.send(dialer, ToWorker::Connect { ticket, host, port }, Fds::None);
    }

    pub(super) fn connected(
        &mut self,
        now: Duration,
        generation: Generation,
        ticket: u64,
        outcome: Result<(), DialError>,
    ) {
        let asked = self.dials.get(&ticket).is_some_and(|dial| dial.dialer == generation);
        let Some(dial) = asked.then(|| self.dials.remove(&ticket)).flatten() else {
            self.ignored_frames += 1;
            self.drop_dialed(generation, ticket);
            return;
        };
        let Dial { session: id, push, generation: asker, .. } = dial;
        let waits = self.sessions.get_mut(&id).filter(|session| {
            session.generation() == Some(asker) && !matches!(session.place, Place::Ending { .. })
        });
        let Some(session) = waits else {
            self.effects.push(Effect::DropDialed { ticket });
            return;
        };
        let preparing = session.is_preparing();
        match outcome {
            // Whose it will be is not known: it is dialled again by whoever has the session then.
            Ok(()) if is_ambiguous(session) => {
                self.effects.push(Effect::DropDialed { ticket });
                let error = DialError::Connect("its session is being moved".to_owned());
                self.answer_dial(asker, id, push, Err(error), Fds::None);
            }
            Ok(()) => {
                session.connected.insert(push);
                let fds = Fds::Dialed { session: id, push, ticket };
                self.answer_dial(asker, id, push, Ok(()), fds);
                if preparing {
                    // What the target was given lacks this connection.
                    let why = "a push connected".to_owned();
                    self.call_off(now, id, Outcome::CalledOff(why));
                }
            }
            Err(error) => self.answer_dial(asker, id, push, Err(error), Fds::None),
        }
    }

    /// Only what came from a dialer is kept under its ticket, so only that can be dropped.
    pub(super) fn drop_dialed(&mut self, sender: Generation, ticket: u64) {
        let from_dialer =
            self.slot_of(sender).is_some_and(|at| self.slots[at].role == Role::Dialer);
        if from_dialer {
            self.effects.push(Effect::DropDialed { ticket });
        }
    }

    /// The socket was connected and could not be passed on.
    pub(super) fn dial_not_sent(&mut self, id: SessionId, push: PushId, what: String) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.connected.remove(&push) {
            self.effects.push(Effect::DropPush { session: id, push });
        }
        if let Some(generation) = self.sessions.get(&id).and_then(super::lease::Session::generation)
        {
            let outcome = Err(DialError::Connect(what));
            self.answer_dial(generation, id, push, outcome, Fds::None);
        }
    }

    pub(super) fn push_closed(&mut self, generation: Generation, id: SessionId, push: PushId) {
        let Some(session) = self.leased_to(generation, id) else { return };
        if session.connected.remove(&push) {
            self.effects.push(Effect::DropPush { session: id, push });
        }
    }

    pub(super) fn check_dials(&mut self, now: Duration) {
        let due = self.dials.iter().filter(|(_, dial)| now >= dial.deadline);
        let due: Vec<u64> = due.map(|(ticket, _)| *ticket).collect();
        for ticket in due {
            self.fail_dial(ticket, DialError::Timeout);
        }
    }

    pub(super) fn dialer_died(&mut self, dialer: Generation) {
        let its = self.dials.iter().filter(|(_, dial)| dial.dialer == dialer);
        let tickets: Vec<u64> = its.map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            self.fail_dial(ticket, DialError::NoDialer);
        }
    }

    fn fail_dial(&mut self, ticket: u64, error: DialError) {
        let Some(dial) = self.dials.remove(&ticket) else { return };
        let asker = self.sessions.get(&dial.session).and_then(super::lease::Session::generation);
        if asker == Some(dial.generation) {
            self.answer_dial(dial.generation, dial.session, dial.push, Err(error), Fds::None);
        }
    }

    fn answer_dial(
        &mut self,
        to: Generation,
        session: SessionId,
        push: PushId,
        outcome: Result<(), DialError>,
        fds: Fds,
    ) {
        self.send(to, ToWorker::Dialed { session, push, outcome }, fds);
    }

    fn dialer(&self) -> Option<Generation> {
        self.slots.iter().find_map(|slot| match &slot.state {
            State::Serving(process) if slot.role == Role::Dialer && process.closed.is_none() => {
                Some(process.generation)
            }
            State::Serving(_)
            | State::Starting(..)
            | State::Standby(_)
            | State::Isolated(_)
            | State::Draining(_)
            | State::Ending(..)
            | State::Backoff { .. }
            | State::Gone => None,
        })
    }
}
