//! Leaving: take nothing new, let sessions finish until a deadline, end them, then kill.
//!
//! ```text
//!  Running ──SIGTERM──▶ Draining ──deadline──▶ Closing ──grace──▶ kill
//!                          │ └── a second SIGTERM ──┴───────────────▶ │
//!                          └── no worker left ──────┴─────────────────┴──▶ Parting ──▶ Left
//! ```
//! An operator's drain is the same without the deadline; a SIGTERM gives it one.
//! Sessions before publish are refused at the first signal. Dialer, delivery and console stay while a worker
//! lives, for pushes still reconnect and viewers still watch, and are replaced when they die. Then they
//! are told to go as well, which gives viewers the end of what they watch, and are killed when they
//! take too long. A process that does not die of its kill is left behind.

use super::event::{Announcement, Effect, Loudness};
use super::lease::Session;
use super::publish::Publish;
use super::restart::KillReason;
use super::service::is_service;
use super::settings::Rules;
use super::worker::{Reaping, Slot, State};
use super::{Core, Stage};
use std::time::Duration;
use tasuki_shared::exit::Exit;
use tasuki_shared::id::SessionId;
use tasuki_shared::limits::{CLOSING_GRACE, REAP_DEADLINE, SERVICES_LEAVE_DEADLINE};
use tasuki_shared::message::{EndReason, RefuseReason, Role};

impl<R: Rules> Core<R> {
    pub(super) fn terminate(&mut self, now: Duration) {
        match self.stage {
            Stage::Running => self.begin_drain(now, Some(self.settings.shutdown_deadline)),
            // An operator's drain has no end; now it has one.
            Stage::Draining { until: None } => {
                let until = Some(now + self.settings.shutdown_deadline);
                self.stage = Stage::Draining { until };
            }
            Stage::Draining { until: Some(_) } | Stage::Closing { .. } => {
                self.stage = Stage::Closing { until: now };
                self.kill_those(now, |_| true);
            }
            Stage::Parting { .. } => self.kill_those(now, |_| true),
            Stage::Left => {}
        }
    }

    /// As `terminate`, and sessions may take as long as they like.
    pub(super) fn drain(&mut self, now: Duration) {
        match self.stage {
            Stage::Running => self.begin_drain(now, None),
            Stage::Draining { .. }
            | Stage::Closing { .. }
            | Stage::Parting { .. }
            | Stage::Left => {}
        }
    }

    fn begin_drain(&mut self, now: Duration, most: Option<Duration>) {
        self.stage = Stage::Draining { until: most.map(|most| now + most) };
        self.effects.push(Effect::StopListening);
        let count = self.sessions.len();
        let detail = match most {
            Some(most) => format!("{count} sessions may go on for {most:?}"),
            None => format!("{count} sessions may go on until they end"),
        };
        self.announce(Announcement::new(Loudness::Info, "draining", detail));
        self.refuse_arrivals(now);
        while let Some(orphan) = self.orphans.pop_front() {
            self.close(now, orphan, EndReason::WorkerDied);
        }
        self.call_moves_off(now);
        self.refuse_lobbies(now);
        self.send_away(now, |role| !is_service(role));
    }

    pub(super) fn check_drain(&mut self, now: Duration) {
        match self.stage {
            Stage::Draining { until: Some(until) } if now >= until => self.end_all(now),
            // Viewers shall have the end of what they watch, whatever a worker does.
            Stage::Closing { until } if now >= until => {
                self.kill_those(now, |role| !is_service(role));
            }
            Stage::Parting { until } if now >= until => self.kill_those(now, |_| true),
            Stage::Running
            | Stage::Draining { .. }
            | Stage::Closing { .. }
            | Stage::Parting { .. }
            | Stage::Left => {}
        }
    }

    /// The last worker takes dialer, delivery and console with it, and the last process the server.
    pub(super) fn leave_when_empty(&mut self, now: Duration) {
        let is_left = |role| self.slots.iter().any(|slot| slot.role == role && slot.is_alive());
        match self.stage {
            Stage::Draining { .. } | Stage::Closing { .. } if !is_left(Role::Worker) => {
                // Nobody will have them any more.
                for session in self.session_ids() {
                    self.close_quietly(session);
                }
                self.stage = Stage::Parting { until: now + SERVICES_LEAVE_DEADLINE };
                self.send_away(now, is_service);
            }
            Stage::Parting { .. } => {}
            Stage::Running | Stage::Draining { .. } | Stage::Closing { .. } | Stage::Left => return,
        }
        if self.slots.iter().any(Slot::is_alive) {
            return;
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

    fn kill_those(&mut self, now: Duration, dies: fn(Role) -> bool) {
        for at in 0..self.slots.len() {
            if dies(self.slots[at].role) {
                self.kill(now, at, KillReason::Shutdown);
            }
        }
    }

    /// Whoever has not published yet will not.
    fn refuse_lobbies(&mut self, now: Duration) {
        let before_publish = |session: &Session| match session.publish {
            Publish::Nothing | Publish::Refused { .. } | Publish::AwaitsName { .. } => true,
            Publish::Live { .. } => false,
        };
        let lobby = self.sessions.iter().filter(|(_, session)| before_publish(session));
        for session in lobby.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.refuse_undecided(session, RefuseReason::Draining);
            self.end_session(now, session, EndReason::Refused(RefuseReason::Draining));
        }
    }

    /// Is anybody left whose pushes may want to connect, and whom viewers may watch?
    pub(super) fn streams_go_on(&self) -> bool {
        let live = |session: &Session| match session.publish {
            Publish::Live { .. } => true,
            Publish::Nothing | Publish::Refused { .. } | Publish::AwaitsName { .. } => false,
        };
        matches!(self.stage, Stage::Draining { .. }) && self.sessions.values().any(live)
    }

    fn session_ids(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    /// Tells those of these roles to go when they have nothing to stay for. Who only starts, or has
    /// not even begun to, has nothing to finish.
    pub(super) fn send_away(&mut self, now: Duration, goes: fn(Role) -> bool) {
        let mut told = Vec::new();
        for slot in self.slots.iter_mut().filter(|slot| goes(slot.role)) {
            slot.state = match std::mem::replace(&mut slot.state, State::Gone) {
                State::Standby(process)
                | State::Serving(process)
                | State::Isolated(process)
                | State::Draining(process) => {
                    told.push(process.generation);
                    State::Draining(process)
                }
                State::Starting(process, _) => {
                    self.effects.push(Effect::Kill { generation: process.generation });
                    let reaping = Reaping::Awaited { deadline: now + REAP_DEADLINE };
                    State::Ending(process, KillReason::Shutdown, reaping)
                }
                State::Backoff { .. } => State::Gone,
                other @ (State::Ending(..) | State::Gone) => other,
            };
        }
        for generation in told {
            self.say_farewell(generation);
        }
    }
}
