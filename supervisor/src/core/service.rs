//! Services: dialer, delivery and console, the processes that have no session.
//!
//! What a new one is told that it is there for, how long an old one may take to leave, and their end
//! with the server's. How they are replaced is [`super::recycle`]'s affair: for a while there are two
//! of a role, which share their listeners.

use super::event::{Effect, Fds};
use super::settings::Rules;
use super::worker::{Farewell, Reaping, State};
use super::{Core, Stage};
use crate::core::restart::KillReason;
use std::time::Duration;
use tasuki_shared::id::Generation;
use tasuki_shared::limits::{LINGER_DEADLINE, REAP_DEADLINE, SERVICES_LEAVE_DEADLINE};
use tasuki_shared::message::{Role, ToWorker};

/// Has a process of this role no session?
pub const fn is_service(role: Role) -> bool {
    match role {
        Role::Worker => false,
        Role::Dialer | Role::Delivery | Role::Console => true,
    }
}

impl<R: Rules> Core<R> {
    /// After the greeting.
    pub(super) fn tell_task(&mut self, generation: Generation, role: Role) {
        match role {
            Role::Worker => {
                if let Some(plan) = self.settings.chaos {
                    self.send(generation, ToWorker::Chaos(plan), Fds::None);
                }
            }
            Role::Dialer => {}
            Role::Delivery => {
                // First what there is, then who asks for it.
                self.tell_all_live(generation);
                if let Some(delivery) = &self.settings.delivery {
                    let plan = Box::new(delivery.plan.clone());
                    self.send(generation, ToWorker::Serve(plan), Fds::Listeners(Role::Delivery));
                }
            }
            Role::Console => {
                if let Some(console) = &self.settings.console {
                    let plan = Box::new(console.plan.clone());
                    self.send(generation, ToWorker::Attend(plan), Fds::Listeners(Role::Console));
                }
            }
        }
    }

    /// From `Drain` to the kill of a process that has nothing to stay for. Viewers that cannot come
    /// back unnoticed are given time.
    pub(super) fn leaving_patience(&self, role: Role) -> Duration {
        let goodbye = match role {
            Role::Delivery => self.settings.delivery.as_ref().map(|delivery| {
                let tasuki_shared::message::DeliveryPlan { drain_ms, .. } = delivery.plan;
                Duration::from_millis(u64::from(drain_ms))
            }),
            Role::Worker | Role::Dialer | Role::Console => None,
        };
        goodbye.unwrap_or_default() + LINGER_DEADLINE
    }

    /// No worker is left: nobody needs a connection, and all that viewers can still get is the end
    /// of what they watch.
    pub(super) fn part_from_services(&mut self, now: Duration) {
        self.stage = Stage::Parting { until: now + SERVICES_LEAVE_DEADLINE };
        let mut told = Vec::new();
        for slot in self.slots.iter_mut().filter(|slot| is_service(slot.role)) {
            slot.retire();
            slot.state = match std::mem::replace(&mut slot.state, State::Gone) {
                State::Draining(process) => {
                    told.extend(
                        (process.farewell == Farewell::Unsaid).then_some(process.generation),
                    );
                    State::Draining(process)
                }
                // It has nobody to say goodbye to.
                State::Starting(process, _) => {
                    self.effects.push(Effect::Kill { generation: process.generation });
                    let reaping = Reaping::Awaited { deadline: now + REAP_DEADLINE };
                    State::Ending(process, KillReason::Shutdown, reaping)
                }
                State::Backoff { .. } => State::Gone,
                other @ (State::Standby(_)
                | State::Serving(_)
                | State::Isolated(_)
                | State::Ending(..)
                | State::Gone) => other,
            };
        }
        for generation in told {
            self.say_farewell(generation);
        }
    }
}
