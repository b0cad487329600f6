//! Services: dialer, delivery and console, the processes that have no session.
//!
//! What a new one is told that it is there for, and how long an old one may take to leave. How they
//! are replaced is [`super::recycle`]'s affair: for a while there are two of a role, which share their
//! listeners.

use super::Core;
use super::event::Fds;
use super::settings::Rules;
use std::time::Duration;
use tasuki_shared::id::Generation;
use tasuki_shared::limits::LINGER_DEADLINE;
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
}
