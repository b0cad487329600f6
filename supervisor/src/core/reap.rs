//! What follows when a process is reaped: its sessions find another owner, its slot another process.
//!
//! In this order. A process that starts takes a processor for tens of milliseconds, which streams that
//! have just lost their worker need to go on: the next to stand by waits for them.

use super::event::{Effect, Killer, Loudness};
use super::poison::Work;
use super::restart::{Cause, KillReason, Next};
use super::service::is_service;
use super::settings::Rules;
use super::worker::{Farewell, Patience, State, Tenure};
use super::{Core, Stage};
use std::collections::BTreeMap;
use std::time::Duration;
use tasuki_shared::exit::Exit;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::kernel::Death;
use tasuki_shared::limits::RESCUE_TIME;
use tasuki_shared::memory::session::WorkPlace;
use tasuki_shared::message::Role;

impl<R: Rules> Core<R> {
    /// A process is reaped. Its sessions find a new owner first, then its slot a new process.
    /// `None`: it could not even be started.
    pub(super) fn died(
        &mut self,
        now: Duration,
        generation: Generation,
        death: Option<(Death, Killer)>,
        processing: &BTreeMap<SessionId, WorkPlace>,
    ) {
        let Some(at) = self.slot_of(generation) else { return };
        let was_draining = matches!(self.slots[at].state, State::Draining(_));
        // Its channel may have been closed for so long that it was killed on its way out.
        let was_told = was_draining
            || self.slots[at].process().is_some_and(|process| process.farewell == Farewell::Said);
        let killed = match &self.slots[at].state {
            State::Ending(_, reason, _) => Some(*reason),
            State::Starting(..)
            | State::Standby(_)
            | State::Serving(_)
            | State::Isolated(_)
            | State::Draining(_)
            | State::Backoff { .. }
            | State::Gone => None,
        };
        let cause =
            death.map_or(Cause::SpawnFailed, |(death, killer)| Cause::of(death, killed, killer));
        let expected = was_told && cause == Cause::Exit(Exit::Done)
            || cause == Cause::Killed(KillReason::Lingering);
        let planned = expected && self.stage == Stage::Running;
        let loudness = if expected { Loudness::Info } else { Loudness::Warn };
        self.announce_worker(at, loudness, "worker_died", cause.to_string());
        // While streams go on their pushes need a dialer, and their viewers somebody to ask.
        let needed = self.stage == Stage::Running
            || self.slots[at].role != Role::Worker && self.streams_go_on();
        let tenure = self.slots[at].tenure;
        let was_unused = self.slots[at].process().is_none_or(|process| process.sessions.is_empty());
        if let (Tenure::Quarantine(id), true) = (tenure, was_unused) {
            self.quarantine_failed(now, id);
        }
        // Who is still suspected gets another worker of its own.
        let ends = match tenure {
            Tenure::Fixed => false,
            // One that was on its way out has somebody in its place.
            Tenure::Temporary if is_service(self.slots[at].role) => planned || was_draining,
            Tenure::Temporary => planned,
            Tenure::Quarantine(_) => true,
        };
        let state = if ends {
            State::Gone
        } else if planned {
            self.slots[at].restarts.planned(now)
        } else if needed && (!was_draining || self.stage == Stage::Running) {
            let jitter = self.jitter.draw();
            let slot = &mut self.slots[at];
            let since = slot.process().map_or(now, |process| process.since);
            match slot.restarts.after(now, since, cause, jitter, &self.settings) {
                Next::SpawnAt(until) => State::Backoff { until, patience: Patience::Short },
                Next::GiveUpUntil(until) => {
                    let detail = format!(
                        "{} deaths within {:?}; no worker here for that long",
                        self.settings.restart_intensity, self.settings.restart_window
                    );
                    self.announce_worker(at, Loudness::Error, "slot_given_up", detail);
                    State::Backoff { until, patience: Patience::GivenUp }
                }
            }
        } else {
            State::Gone
        };
        let slot = &mut self.slots[at];
        slot.last_death = Some(cause);
        let role = slot.role;
        let sessions = slot.process_mut().map(|p| std::mem::take(&mut p.sessions));
        let arriving = slot.process_mut().map(|p| std::mem::take(&mut p.arriving));
        let hung = slot.process().and_then(|process| process.hung_session);
        if !planned {
            self.note_death(now, at, cause, sessions.iter().flatten());
        }
        let slot = &mut self.slots[at];
        slot.state = state;
        self.hand_slot_on(at);
        for session in arriving.unwrap_or_default() {
            self.effects.push(Effect::ReadOwner { session });
        }
        match role {
            Role::Worker => {
                let sessions = sessions.unwrap_or_default();
                if !sessions.is_empty() {
                    self.rescue_ends = now + RESCUE_TIME;
                }
                let work = Work { places: processing, hung, tenure };
                self.orphan(now, sessions, cause, work);
            }
            Role::Dialer => self.dialer_died(generation),
            Role::Delivery => self.audiences.ended(generation),
            Role::Console => {}
        }
        self.staff(now);
        for at in 0..self.slots.len() {
            if matches!(self.slots[at].state, State::Backoff { until, .. } if now >= until) {
                self.spawn_in_turn(now, at);
            }
        }
    }

    /// What kept processes from starting may be mended: those that were given up are tried again.
    pub(super) fn revive(&mut self, now: Duration) {
        for slot in &mut self.slots {
            if let State::Backoff { until, patience: patience @ Patience::GivenUp } =
                &mut slot.state
            {
                *patience = Patience::Short;
                *until = now;
            }
        }
    }

    /// Now, or when the streams of a worker that died have been taken up; at once where it is waited
    /// for.
    pub(super) fn spawn_in_turn(&mut self, now: Duration, at: usize) {
        let waited_for = !self.orphans.is_empty() || !self.arrivals.is_empty();
        let is_needed = self.serving() < usize::from(self.settings.workers) || waited_for;
        if now >= self.rescue_ends || is_needed || self.slots[at].role != Role::Worker {
            self.spawn(now, at);
        }
    }
}
