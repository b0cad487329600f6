//! What a new process is told that it is there for.

use super::Core;
use super::event::Fds;
use super::settings::Rules;
use tasuki_shared::id::Generation;
use tasuki_shared::message::{Role, ToWorker};

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
}
