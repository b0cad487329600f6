//! What workers report, and what the status socket says of it.

use super::event::{Announcement, Loudness};
use super::lease::{Place, Session};
use super::publish::Publish;
use super::settings::Rules;
use super::worker::{Reaping, Slot, State};
use super::{Core, Stage};
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::message::{Anchor, Heartbeat, Notice, Role};
use tasuki_shared::status::{SessionStatus, Status, WorkerStatus};

/// Reads an id as [`SessionId`] is displayed.
pub fn parse_session_id(text: &str) -> Option<SessionId> {
    let (epoch, counter) = text.split_once('-')?;
    let id =
        SessionId { epoch: u32::from_str_radix(epoch, 16).ok()?, counter: counter.parse().ok()? };
    (id.to_string() == text).then_some(id)
}

impl<R: Rules> Core<R> {
    pub(super) fn heartbeat(
        &mut self,
        now: Duration,
        generation: Generation,
        heartbeat: Heartbeat,
    ) {
        let Heartbeat { session, lobby: _, allocator, spare_codecs } = heartbeat;
        if let Some(figures) = allocator {
            self.memory.heard(generation, figures);
        }
        let Some(mut status) = session else {
            if let Some(process) = self.process_mut(generation) {
                process.spares.held = spare_codecs;
            }
            return;
        };
        // JSON has no word for what is no number, and clients refuse what they cannot read.
        if !status.fps.is_finite() {
            status.fps = 0.0;
        }
        let Some(id) = parse_session_id(&status.id) else {
            self.ignored_frames += 1;
            return;
        };
        if let Some(session) = self.leased_to(generation, id) {
            let lost = status.frames_lost;
            let anchor = if status.no_anchor { Anchor::Gone } else { Anchor::InLog };
            session.status = Some(Box::new(status));
            self.count_losses(now, id, lost, anchor);
        }
    }

    pub(super) fn notice(
        &mut self,
        generation: Generation,
        session: Option<SessionId>,
        notice: &Notice,
    ) {
        let (event, loudness, detail) = describe(notice);
        match session {
            Some(id) => {
                let Some(session) = self.leased_to(generation, id) else { return };
                let name = session.publish.name().map(ToString::to_string);
                self.announce(Announcement::new(loudness, event, detail).of_session(id, name));
            }
            None => {
                if let Some(at) = self.slot_of(generation) {
                    self.announce_worker(at, loudness, event, detail);
                }
            }
        }
    }

    /// The core's part of a status; the shell adds what it knows.
    pub fn status(&self, now: Duration) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: 0,
            uptime_ms: millis(now),
            state: match self.stage {
                Stage::Running => "serving",
                Stage::Draining { .. }
                | Stage::Closing { .. }
                | Stage::Parting { .. }
                | Stage::Left => "draining",
            }
            .to_owned(),
            listeners: Vec::new(),
            viewers: Vec::new(),
            consoles: Vec::new(),
            config: self.settings.config.clone(),
            streams_free: self.streams_free(),
            cpu_percent: self.cpu_percent,
            workers: self.slots.iter().map(|slot| self.worker_status(now, slot)).collect(),
            sessions: self
                .sessions
                .iter()
                .map(|(id, s)| self.session_status(now, *id, s))
                .collect(),
            deaths: self.death_statuses(),
            refusals: self.refusals.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
            recycles: self.recycle_statuses(now),
            sessions_total: self.sessions_total,
            frames_lost: self.frames_lost,
            ignored_frames: self.ignored_frames,
            totals: self.totals.status(),
            audience: self.audiences.status(),
        }
    }

    fn streams_free(&self) -> u32 {
        if self.stage != Stage::Running || self.cpu_full() || self.memory_full() {
            return 0;
        }
        self.slots
            .iter()
            .filter(|slot| slot.role == Role::Worker && slot.state_name() == "serving")
            .filter_map(Slot::process)
            .map(|process| self.settings.streams_per_worker.saturating_sub(process.streams))
            .sum()
    }

    fn worker_status(&self, now: Duration, slot: &Slot) -> WorkerStatus {
        let process = slot.process();
        let sample = process.map(|process| process.sample).unwrap_or_default();
        let streams_max = match slot.role {
            Role::Worker => self.settings.streams_per_worker,
            Role::Dialer | Role::Delivery | Role::Console => 0,
        };
        WorkerStatus {
            slot: slot.id.to_string(),
            role: slot.role.name().to_owned(),
            state: match &slot.state {
                State::Ending(.., Reaping::Stuck { threads, .. }) => format!("stuck: {threads}"),
                State::Starting(..)
                | State::Standby(_)
                | State::Serving(_)
                | State::Isolated(_)
                | State::Draining(_)
                | State::Ending(..)
                | State::Backoff { .. }
                | State::Gone => slot.state_name().to_owned(),
            },
            generation: process.map_or(0, |process| process.generation.0),
            pid: process.and_then(|process| process.pid).unwrap_or(0),
            age_ms: process.map_or(0, |process| millis(now.saturating_sub(process.since))),
            sessions: process.map_or(0, |process| process.streams),
            streams_max,
            lobby: process.map_or(0, |p| u32::try_from(p.lobby()).unwrap_or(u32::MAX)),
            footprint_bytes: sample.footprint_bytes,
            rss_bytes: sample.rss_bytes,
            lazy_free_bytes: sample.lazy_free_bytes,
            cpu_percent: sample.cpu_percent,
            spare_codecs: process.map_or(0, |process| process.spares.held),
            memory: process.and_then(|process| self.memory.status(process.generation)),
            last_death: slot.last_death.map(|cause| cause.to_string()),
            restarts: slot.restarts.total,
        }
    }

    /// A worker is believed about media, and about nothing that is leased.
    fn session_status(&self, now: Duration, id: SessionId, session: &Session) -> SessionStatus {
        let mut status = session.status.as_deref().cloned().unwrap_or_default();
        status.id = id.to_string();
        status.peer = session.peer.to_string();
        status.uptime_ms = millis(now.saturating_sub(session.since));
        status.worker = session
            .generation()
            .and_then(|generation| Some((self.slot_of(generation)?, generation)))
            .map(|(at, generation)| format!("{}/{generation}", self.slots[at].id))
            .unwrap_or_default();
        let (state, app, name) = match &session.publish {
            Publish::Nothing | Publish::Refused { .. } => ("lobby", String::new(), String::new()),
            Publish::AwaitsName { plan, .. } => {
                ("authorizing", plan.app.clone(), plan.name.to_string())
            }
            Publish::Live { plan, .. } => ("live", plan.app.clone(), plan.name.to_string()),
        };
        status.state = match session.place {
            Place::Ending { .. } => "ending",
            Place::Waiting { .. }
            | Place::Leased { .. }
            | Place::Held { .. }
            | Place::Moving(_) => state,
        }
        .to_owned();
        status.app = app;
        status.name = name;
        status.flv_viewers = self.audiences.flv_viewers(id);
        status.suspicion = session.blame.words();
        let stalled = session.generation().and_then(|generation| {
            let process = self.slots[self.slot_of(generation)?].process()?;
            process.stalled.iter().find(|stalled| stalled.session == id)
        });
        status.stalled_ms = stalled.map_or(0, |stalled| u64::from(stalled.for_ms));
        status
    }
}

fn describe(notice: &Notice) -> (&'static str, Loudness, String) {
    match notice {
        Notice::PushLive { push } => ("push_live", Loudness::Info, format!("push {}", push.0)),
        Notice::PushLost { push, reason } => {
            ("push_lost", Loudness::Warn, format!("push {}: {reason}", push.0))
        }
        Notice::RecordStarted { path } => ("record_started", Loudness::Info, path.clone()),
        Notice::RecordStopped { reason } => ("record_stopped", Loudness::Warn, reason.clone()),
        Notice::HlsStarted { directory } => ("hls_started", Loudness::Info, directory.clone()),
        Notice::HlsStopped { reason } => ("hls_stopped", Loudness::Warn, reason.clone()),
        Notice::HlsLeft { label, reason } => {
            ("hls_left", Loudness::Warn, format!("rendition {label}: {reason}"))
        }
        Notice::Overload { lag_ms } => {
            ("overload", Loudness::Warn, format!("{lag_ms} ms behind: dropping frames"))
        }
        Notice::OverloadOver { frames_dropped } => {
            ("overload_over", Loudness::Info, format!("{frames_dropped} frames were dropped"))
        }
        Notice::NoAnchor => (
            "no_anchor",
            Loudness::Warn,
            "no keyframe to go on from: frames are lost until the source's next".to_owned(),
        ),
        Notice::FramesLost { frames } => (
            "frames_lost",
            Loudness::Warn,
            format!("{frames} frames were lost for want of a keyframe to go on from"),
        ),
        Notice::InputFault { kind, count } => {
            ("input_fault", Loudness::Warn, format!("{kind} ({count})"))
        }
        Notice::Pipeline { event } => ("pipeline", Loudness::Info, event.clone()),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_and_only_in_the_form_it_is_shown() {
        let id = SessionId { epoch: 0x6543_21ab, counter: 77 };
        assert_eq!(parse_session_id(&id.to_string()), Some(id));
        for bad in ["", "-", "1", "1-", "-1", "1-+2", "01-2", "A-1", "g-1", "1-2-3"] {
            assert_eq!(parse_session_id(bad), None, "{bad}");
        }
    }
}
