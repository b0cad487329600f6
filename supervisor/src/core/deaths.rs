//! What is told of processes that died: why, and what became of their streams.
//!
//! A death is noted with the streams that its process had; each is settled once, by the worker that
//! gets it or by its end. The last [`DEATHS_TOLD_MAX`] are kept.

use super::Core;
use super::restart::Cause;
use super::settings::Rules;
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::limits::{DEATH_SESSIONS_TOLD_MAX, DEATHS_TOLD_MAX};
use tasuki_shared::message::Role;
use tasuki_shared::status::{DeathSession, DeathStatus};

/// One death that nobody had planned.
#[derive(Clone, Debug)]
pub struct Death {
    pub at: Duration,
    pub worker: String,
    pub role: Role,
    pub cause: Cause,
    pub streams: Vec<Left>,
}

/// A stream that it left.
#[derive(Clone, Debug)]
pub struct Left {
    pub session: SessionId,
    pub name: String,
    pub suspicion: String,
    pub settled: Option<String>,
}

/// What became of a stream whose worker died.
pub enum Fate {
    WentTo(Generation),
    Ended(String),
}

impl<R: Rules> Core<R> {
    pub(super) fn note_death<'a>(
        &mut self,
        now: Duration,
        at: usize,
        cause: Cause,
        sessions: impl Iterator<Item = &'a SessionId>,
    ) {
        let slot = &self.slots[at];
        let role = slot.role;
        self.totals.died(role);
        let worker = match slot.process() {
            Some(process) => format!("{}/{}", slot.id, process.generation),
            None => slot.id.to_string(),
        };
        let named = sessions.filter_map(|id| {
            let name = self.sessions.get(id)?.publish.live_name()?.1.to_string();
            Some(Left { session: *id, name, suspicion: String::new(), settled: None })
        });
        let streams: Vec<Left> = named.take(DEATH_SESSIONS_TOLD_MAX).collect();
        self.bereaved.extend(streams.iter().map(|left| left.session));
        self.deaths.push_front(Death { at: now, worker, role, cause, streams });
        self.deaths.truncate(DEATHS_TOLD_MAX);
    }

    /// This death is held against the session.
    pub(super) fn note_suspicion(&mut self, id: SessionId, suspicion: &str) {
        if let Some(left) = self.unsettled(id) {
            suspicion.clone_into(&mut left.suspicion);
        }
    }

    /// The session has found its way, if it was on one after a death.
    pub(super) fn settle_death(&mut self, id: SessionId, fate: Fate) {
        if !self.bereaved.remove(&id) {
            return;
        }
        let settled = match fate {
            Fate::WentTo(generation) => self.process_name(generation),
            Fate::Ended(why) => format!("ended: {why}"),
        };
        if let Some(left) = self.unsettled(id) {
            left.settled = Some(settled);
        }
    }

    /// Newest first; `unix_ms` is still counted from the supervisor's start.
    pub(super) fn death_statuses(&self) -> Vec<DeathStatus> {
        let of_stream = |left: &Left| DeathSession {
            session: left.session.to_string(),
            name: left.name.clone(),
            outcome: left.settled.clone().unwrap_or_else(|| "waits".to_owned()),
            suspicion: left.suspicion.clone(),
        };
        let of_death = |death: &Death| DeathStatus {
            unix_ms: super::report::millis(death.at),
            worker: death.worker.clone(),
            role: death.role.name().to_owned(),
            cause: death.cause.to_string(),
            sessions: death.streams.iter().map(of_stream).collect(),
        };
        self.deaths.iter().map(of_death).collect()
    }

    fn unsettled(&mut self, id: SessionId) -> Option<&mut Left> {
        let streams = self.deaths.iter_mut().flat_map(|death| &mut death.streams);
        streams.into_iter().find(|left| left.session == id && left.settled.is_none())
    }
}
