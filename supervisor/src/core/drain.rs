//! Leaving: take nothing new, let sessions finish until a deadline, end them, then kill.
//!
//! ```text
//!  Running ──SIGTERM──▶ Draining ──deadline, or a second SIGTERM──▶ Closing ──grace, or a third──▶ kill
//!                          └────────── no process left ───────────────┴────▶ Left
//! ```

use super::event::{Announcement, Effect, Fds, Loudness};
use super::restart::KillReason;
use super::settings::Rules;
use super::worker::State;
use super::{Core, Stage};
use std::time::Duration;
use tasuki_shared::exit::Exit;
use tasuki_shared::id::SessionId;
use tasuki_shared::limits::CLOSING_GRACE;
use tasuki_shared::message::{EndReason, Role, ToWorker};

impl<R: Rules> Core<R> {
    pub(super) fn terminate(&mut self, now: Duration) {
        match self.stage {
            Stage::Running => {
                let until = now + self.settings.shutdown_deadline;
                self.stage = Stage::Draining { until };
                self.effects.push(Effect::StopListening);
                let detail = format!(
                    "{} sessions may go on for {:?}",
                    self.sessions.len(),
                    self.settings.shutdown_deadline
                );
                self.announce(Announcement::new(Loudness::Info, "draining", detail));
                self.refuse_arrivals(now);
                while let Some(orphan) = self.orphans.pop_front() {
                    self.close(now, orphan, EndReason::WorkerDied);
                }
                self.drain_role(Role::Worker);
            }
            Stage::Draining { .. } => self.end_all(now),
            Stage::Closing { .. } => self.kill_all(),
            Stage::Left => {}
        }
    }

    pub(super) fn check_drain(&mut self, now: Duration) {
        match self.stage {
            Stage::Draining { until } if now >= until => self.end_all(now),
            Stage::Closing { until } if now >= until => self.kill_all(),
            Stage::Running | Stage::Draining { .. } | Stage::Closing { .. } | Stage::Left => {}
        }
    }

    /// The last worker takes the dialer with it, and the last process the server.
    pub(super) fn leave_when_empty(&mut self, _now: Duration) {
        match self.stage {
            Stage::Draining { .. } | Stage::Closing { .. } => {}
            Stage::Running | Stage::Left => return,
        }
        let alive =
            |role| self.slots.iter().any(|slot| slot.role == role && slot.process().is_some());
        if alive(Role::Worker) {
            return;
        }
        if alive(Role::Dialer) {
            self.drain_role(Role::Dialer);
            return;
        }
        for session in self.session_ids() {
            self.close_quietly(session);
        }
        self.stage = Stage::Left;
        self.effects.push(Effect::Leave(Exit::Done));
    }

    fn end_all(&mut self, now: Duration) {
        let until = now + CLOSING_GRACE;
        self.stage = Stage::Closing { until };
        for session in self.session_ids() {
            self.end_session(now, session, EndReason::Shutdown);
        }
    }

    fn kill_all(&mut self) {
        for at in 0..self.slots.len() {
            self.kill(at, KillReason::Shutdown);
        }
    }

    fn session_ids(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    fn drain_role(&mut self, role: Role) {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.role != role {
                continue;
            }
            let (state, told) = match std::mem::replace(&mut slot.state, State::Gone) {
                State::Standby(process) | State::Serving(process) => {
                    let generation = process.generation;
                    (State::Draining(process), Some(generation))
                }
                // It has nothing to finish.
                State::Starting(process, _) => {
                    self.effects.push(Effect::Kill { generation: process.generation });
                    (State::Ending(process, KillReason::Shutdown), None)
                }
                State::Backoff { .. } => (State::Gone, None),
                other @ (State::Draining(_) | State::Ending(..) | State::Gone) => (other, None),
            };
            slot.state = state;
            if let Some(generation) = told {
                self.send(generation, ToWorker::Drain, Fds::None);
            }
        }
    }
}
