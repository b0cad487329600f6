//! When a worker has grown too much: sample → pressure → verdict.
//!
//! Pure: what was measured comes in, wishes come out; the core makes frames and recycles of them.
//!
//! ```text
//!            due           answered, or too late        measured since
//!   Rest ─────────▶ Asked ──────────────────────▶ Answered ────────────▶ Rest
//!                 (Purge)                                     (a point of the trend)
//! ```
//! Only a footprint measured after a purge is a *point*: what the allocator keeps for later, and
//! pages that are free but still counted (LazyFree), are no reason for anything.
//!
//! | file | decides |
//! |---|---|
//! | [`slope`] | how fast a footprint grows, and when it reaches a limit |
//! | [`policy`] | what to do about it |
//! | [`verdict`] | how that is said |
//! | [`simulator`] | whether that holds over many lives |

pub mod policy;
pub mod simulator;
pub mod slope;
pub mod verdict;

use super::Core;
use super::event::{Announcement, Effect, Fds, Loudness};
use super::settings::Rules;
use super::worker::{Slot, State};
use policy::{Duty, Look, Wish};
use std::time::Duration;
use tasuki_shared::id::Generation;
use tasuki_shared::message::{Role, ToWorker};

/// The machine, as far as our cgroup lets us have it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostMemory {
    /// The lesser of the host's memory and `memory.max`; 0 where nothing could be read.
    pub total_bytes: u64,
    /// Left for us: of `MemAvailable` and of the cgroup.
    pub available_bytes: u64,
    /// Share of the last ten seconds in which some, and all, tasks waited for memory (PSI).
    pub stalled_some_percent: f32,
    pub stalled_full_percent: f32,
}

impl<R: Rules> Core<R> {
    /// After every round of measurements.
    pub(super) fn judge_memory(&mut self, now: Duration, host: HostMemory) {
        let looks: Vec<Look> = self.slots.iter().filter_map(look).collect();
        for wish in self.memory.sampled(now, host, &looks) {
            match wish {
                Wish::Purge(generation) => self.send(generation, ToWorker::Purge, Fds::None),
                Wish::Alarm { generation, detail } => {
                    self.announce_memory(generation, Loudness::Error, "born_over_limit", detail);
                }
                Wish::Recycle { generation, reason, haste, detail } => {
                    // While the server leaves, its workers go anyway.
                    if self.stage != super::Stage::Running {
                        continue;
                    }
                    match self.request_recycle(now, generation, reason.clone(), haste) {
                        Ok(id) => {
                            self.explain_recycle(id, &detail);
                            self.memory.granted(now, generation, &reason);
                            let event = "recycle_asked";
                            self.announce_memory(generation, Loudness::Warn, event, detail);
                        }
                        Err(_busy) => self.memory.refused(generation),
                    }
                }
            }
        }
    }

    /// Does a decision wait for the next measurement of this worker's memory?
    pub fn awaits_measurement(&self, generation: Generation) -> bool {
        self.memory.awaits_measurement(generation)
    }

    fn announce_memory(
        &mut self,
        generation: Generation,
        loudness: Loudness,
        event: &'static str,
        detail: String,
    ) {
        let Some(at) = self.slot_of(generation) else { return };
        let announcement = Announcement::new(loudness, event, detail);
        self.effects.push(Effect::Announce(announcement.of_worker(self.slots[at].id, generation)));
    }
}

/// What the policy is told of the process in a slot.
fn look(slot: &Slot) -> Option<Look> {
    let duty = match (&slot.role, &slot.state) {
        // It knows no purge, and has nothing that could grow.
        (Role::Dialer, _) => return None,
        (Role::Delivery | Role::Console, State::Serving(_)) => Duty::Attends,
        (Role::Delivery | Role::Console, State::Starting(..) | State::Draining(_)) => Duty::Idle,
        (
            Role::Delivery | Role::Console,
            State::Standby(_)
            | State::Isolated(_)
            | State::Ending(..)
            | State::Backoff { .. }
            | State::Gone,
        ) => return None,
        (Role::Worker, State::Serving(_)) => Duty::Serves,
        (Role::Worker, State::Standby(_)) => Duty::StandsBy,
        (Role::Worker, State::Draining(process)) if !process.sessions.is_empty() => Duty::Leaves,
        (
            Role::Worker,
            State::Starting(..) | State::Isolated(_) | State::Draining(_) | State::Ending(..),
        ) => Duty::Idle,
        (Role::Worker, State::Backoff { .. } | State::Gone) => return None,
    };
    let process = slot.process()?;
    Some(Look {
        generation: process.generation,
        duty,
        since: process.since,
        sessions: u32::try_from(process.sessions.len()).unwrap_or(u32::MAX),
        sample: process.sample,
        spare_bytes_max: process.spares.bytes_max,
    })
}
