//! Fresh processes that take others' places: where they come from, and the temporary slots that they
//! wait in meanwhile.

use super::Core;
use super::event::Loudness;
use super::recycle::Phase;
use super::restart::KillReason;
use super::service::is_service;
use super::settings::Rules;
use super::worker::{Patience, Reaping, Slot, State, Tenure};
use std::time::Duration;
use tasuki_shared::id::SlotId;
use tasuki_shared::message::Role;

impl<R: Rules> Core<R> {
    pub(super) fn find_fresh(&mut self, now: Duration, at: usize, old: usize, deadline: Duration) {
        let role = self.recycles[at].role;
        let is_fresh = |slot: &Slot| match slot.state {
            State::Standby(_) => slot.role == role,
            State::Serving(_) => {
                slot.role == role && is_service(role) && slot.tenure == Tenure::Temporary
            }
            State::Starting(..)
            | State::Isolated(_)
            | State::Draining(_)
            | State::Ending(..)
            | State::Backoff { .. }
            | State::Gone => false,
        };
        let fresh = (0..self.slots.len()).find(|at| *at != old && is_fresh(&self.slots[*at]));
        if let Some(fresh) = fresh {
            self.slots[fresh].promote();
            self.slots[old].retire();
            let target = self.slots[fresh].process().map(|process| process.generation);
            self.recycles[at].target = target;
            self.set_phase(at, Phase::Moving { progress: now });
            let to = target.map(|target| self.process_name(target)).unwrap_or_default();
            self.announce_recycle(at, Loudness::Info, "recycle_moving", format!("to {to}"));
            self.step_recycle(now, at);
        } else if now >= deadline {
            self.retire_temporary(now, role);
            self.finish_recycle(now, at, Some("no fresh worker in time".to_owned()));
        } else if !self.slots.iter().any(|slot| is_coming(slot, role)) {
            self.add_slot(now, role, Tenure::Temporary);
        }
    }

    /// A process in a slot that is there for a while.
    pub(super) fn add_slot(&mut self, now: Duration, role: Role, tenure: Tenure) {
        let id = self.slots.iter().map(|slot| slot.id.0).max().unwrap_or(0).saturating_add(1);
        self.slots.push(Slot::vacant(SlotId(id), role, tenure));
        self.spawn(now, self.slots.len() - 1);
    }

    /// A slot whose process is gone is filled by the fresh one of a temporary slot, if there is one.
    pub(super) fn hand_slot_on(&mut self, at: usize) {
        if self.slots[at].tenure != Tenure::Fixed {
            return;
        }
        let role = self.slots[at].role;
        let temporary = |slot: &Slot| {
            let may_come = match slot.state {
                State::Starting(..) | State::Standby(_) | State::Serving(_) => true,
                // It would come back in its temporary slot, beside another here.
                State::Backoff { .. } => is_service(role),
                State::Isolated(_) | State::Draining(_) | State::Ending(..) | State::Gone => false,
            };
            slot.tenure == Tenure::Temporary && slot.role == role && may_come
        };
        if let Some(fresh) = self.slots.iter().position(temporary) {
            self.slots[at].state = std::mem::replace(&mut self.slots[fresh].state, State::Gone);
            let detail = format!("was in {}", self.slots[fresh].id);
            self.announce_worker(at, Loudness::Info, "worker_took_slot", detail);
        }
    }

    /// A fresh process that nobody needs any more goes.
    pub(super) fn retire_temporary(&mut self, now: Duration, role: Role) {
        // While the old service only leaves, whoever is to serve is in a temporary slot.
        if is_service(role) && !self.is_served_as_fixed(role) {
            return;
        }
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            match slot.tenure {
                Tenure::Temporary if slot.role == role => {}
                Tenure::Fixed | Tenure::Temporary | Tenure::Quarantine(_) => continue,
            }
            match &slot.state {
                State::Starting(..) | State::Standby(_) => {
                    self.kill(now, at, KillReason::Lingering);
                }
                State::Backoff { .. } => slot.state = State::Gone,
                State::Serving(_)
                | State::Isolated(_)
                | State::Draining(_)
                | State::Ending(..)
                | State::Gone => {}
            }
        }
    }

    /// Is the service of this role, or will it soon be, what its fixed slot has?
    pub(super) fn is_served_as_fixed(&self, role: Role) -> bool {
        self.slots.iter().any(|slot| {
            slot.role == role
                && slot.tenure == Tenure::Fixed
                && matches!(slot.state, State::Starting(..) | State::Serving(_))
        })
    }

    /// Slots of the past are not kept.
    pub(super) fn drop_temporary_slots(&mut self) {
        self.slots
            .retain(|slot| slot.tenure == Tenure::Fixed || !matches!(slot.state, State::Gone));
    }
}

/// Will a fresh process of this role come here without anybody's help?
fn is_coming(slot: &Slot, role: Role) -> bool {
    let comes = match slot.tenure {
        // Of a service the fixed slot has the old one.
        Tenure::Fixed => !is_service(role),
        Tenure::Temporary => true,
        Tenure::Quarantine(_) => false,
    };
    slot.role == role
        && comes
        && matches!(
            slot.state,
            State::Starting(..)
                | State::Ending(.., Reaping::Awaited { .. })
                | State::Backoff { patience: Patience::Short, .. }
        )
}
