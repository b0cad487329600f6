//! Recording of one rendition: a cursor over the logs on one side, the recorder's thread on the
//! other. The stream never waits for the disk.

use super::cursor::{Cursor, Feed, LogName, Logs, Next, Place, StreamEnd};
use super::record::{
    Beginning, Offered, RecordConfig, RecordHandle, RecordItem, RecordPacket, RecordState,
    RecordThread, SeriesId,
};
use crate::leftovers::Leftover;
use crate::media::packet::IsIdr;
use crate::media::tag::{self, AudioKind, VideoKind};
use crate::media::timeline::Track;
use crate::session::stream::{Wake, feed_of};
use tasuki_shared::id::{PublicName, RungId};
use tasuki_shared::memory::log::{Entry, EntryKind, HeaderKind};
use tasuki_shared::message::Notice;
use tasuki_shared::plan::Plan;
use tasuki_shared::status::RecordStatus;

/// Packets handed over in one wake-up.
const FEED_ROUNDS_MAX: usize = 256;

/// See the module.
pub struct Recording {
    rung: RungId,
    cursor: Cursor,
    handle: Result<RecordHandle, String>,
    begun: Begun,
    told: RecordState,
}

/// Is the place known where it begins?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// Its thread still looks for the file of the last owner; packets wait in their logs.
    Not,
    Yes,
}

/// Whose files they are.
enum Owner {
    First,
    Next(Wake),
}

impl Recording {
    /// One recording for each rung of the plan that is to be recorded.
    #[must_use]
    pub fn start_all(plan: &Plan, series: SeriesId) -> Vec<Self> {
        Self::all(plan, series, &Owner::First)
    }

    /// Goes on with those of another owner, in the same files.
    #[must_use]
    pub fn resume_all(plan: &Plan, series: SeriesId, wake: &Wake) -> Vec<Self> {
        Self::all(plan, series, &Owner::Next(Wake::clone(wake)))
    }

    fn all(plan: &Plan, series: SeriesId, owner: &Owner) -> Vec<Self> {
        let Some(record) = &plan.record else { return Vec::new() };
        let mut found = Vec::with_capacity(record.rungs.len());
        for &rung in &record.rungs {
            let label = plan.rung(rung).map_or("source", |rung| rung.label.as_str());
            let Ok(label) = PublicName::parse(label) else { continue };
            let config = RecordConfig {
                directory: record.directory.clone(),
                name: plan.name.clone(),
                rung: label,
                rotate_ms: record.rotate_ms,
                keep_ms: record.keep_ms,
                keep_bytes: record.keep_bytes,
                reserve_bytes: record.reserve_bytes,
                series,
            };
            let handle = match owner {
                Owner::First => RecordThread::spawn(config),
                Owner::Next(wake) => RecordThread::resume(config, Wake::clone(wake)),
            };
            let handle = handle.map_err(|error| error.to_string());
            let cursor = Cursor::new(feed_of(plan, rung, None));
            found.push(Self { rung, cursor, handle, begun: Begun::Not, told: RecordState::Idle });
        }
        found
    }

    #[must_use]
    pub fn rung(&self) -> RungId {
        self.rung
    }

    /// Reads other logs from now on, if nothing of the old ones was taken yet.
    pub fn feed_from(&mut self, feed: Feed) {
        self.cursor.feed_from(feed);
    }

    /// Everything there is was handed over, or never will be.
    #[must_use]
    pub fn is_fed(&self, logs: &Logs) -> bool {
        self.handle.is_err() || (self.begun == Begun::Yes && self.cursor.is_at_end(logs))
    }

    /// Lets go of the file for another owner: what was handed over is written, then the lock is
    /// dropped. Nothing more is taken, and nothing is told of an end.
    pub fn release(&mut self) -> Option<Leftover> {
        self.close("a recording is let go")
    }

    /// Closes the recording; what is left to do is to wait until it is on disk.
    pub fn finish(&mut self) -> Option<Leftover> {
        self.close("recorded")
    }

    fn close(&mut self, said: &'static str) -> Option<Leftover> {
        let over = Err("the recording is complete".to_owned());
        let handle = std::mem::replace(&mut self.handle, over).ok()?;
        self.told = RecordState::Recording;
        Some(Box::new(move || {
            let report = handle.finish();
            tracing::info!(path = %report.path.display(), bytes = report.bytes, "{said}");
        }))
    }

    /// Hands over what the logs have, all of it committed: what a successor would do again must
    /// not be in a file already. While the disk is slow it stays in the logs.
    pub fn feed(&mut self, logs: &Logs, end: StreamEnd) {
        self.begin(logs);
        let Ok(handle) = &mut self.handle else { return };
        if self.begun == Begun::Not {
            return;
        }
        for _ in 0..FEED_ROUNDS_MAX {
            if !handle.has_room() {
                return;
            }
            let at = self.cursor.place();
            let Some(next) = self.cursor.next(logs, end) else { return };
            let item = match next {
                Next::Header { log, id, kind, .. } => logs
                    .get(log)
                    .and_then(|log| log.header(kind, id))
                    .and_then(|b| header(kind, &b)),
                Next::Packet { log, entry } => {
                    packet(logs, log, &entry, at, self.cursor.place()).map(RecordItem::Packet)
                }
            };
            let Some(item) = item else { continue };
            match handle.offer(item) {
                Offered::Taken | Offered::QueueFull => {}
                Offered::Stopped => return,
            }
        }
    }

    /// Takes the place that the file of the last owner says.
    fn begin(&mut self, logs: &Logs) {
        let Ok(handle) = &mut self.handle else { return };
        let (Begun::Not, Some(beginning)) = (self.begun, handle.beginning()) else { return };
        self.begun = Begun::Yes;
        match beginning.clone() {
            Beginning::Fresh => {}
            Beginning::GoesOn(place) if place.feed == self.cursor.feed() && place.is_held(logs) => {
                self.cursor = Cursor::at(place);
                self.told = RecordState::Recording;
            }
            // What would come next is gone, or is another rendition.
            Beginning::GoesOn(_) => {
                handle.offer(RecordItem::FileEnd);
                self.cursor.go_to_head(logs);
                tracing::warn!("a recording's next packets are gone; a new file begins");
            }
            Beginning::Anew => self.cursor.go_to_head(logs),
        }
    }

    /// A start or an end that was not told yet.
    pub fn news(&mut self) -> Option<Notice> {
        let report = match &self.handle {
            Ok(handle) => handle.report(),
            Err(reason) if self.told == RecordState::Idle => {
                self.told = RecordState::Recording;
                return Some(Notice::RecordStopped { reason: reason.clone() });
            }
            Err(_) => return None,
        };
        if report.state == self.told {
            return None;
        }
        self.told = report.state.clone();
        match report.state {
            RecordState::Idle => None,
            RecordState::Recording => {
                Some(Notice::RecordStarted { path: report.path.display().to_string() })
            }
            RecordState::Stopped { reason } => {
                Some(Notice::RecordStopped { reason: reason.to_string() })
            }
        }
    }

    /// The rung's label is left to the plan's owner.
    #[must_use]
    pub fn status(&self) -> RecordStatus {
        match &self.handle {
            Ok(handle) => {
                let report = handle.report();
                RecordStatus {
                    rung: String::new(),
                    state: report.state.name().to_owned(),
                    path: report.path.display().to_string(),
                    bytes: report.bytes,
                    last_error: report.last_error,
                }
            }
            Err(reason) => RecordStatus {
                state: "stopped".to_owned(),
                last_error: reason.clone(),
                ..RecordStatus::default()
            },
        }
    }
}

/// What a header of a log says.
#[must_use]
pub(super) fn header(kind: HeaderKind, body: &[u8]) -> Option<RecordItem> {
    match kind {
        HeaderKind::Video => {
            let parsed = tag::parse_video(body).ok()?;
            let VideoKind::SequenceHeader { config } = parsed.kind else { return None };
            Some(RecordItem::VideoHeader { codec: parsed.codec, config: config.to_vec() })
        }
        HeaderKind::Audio => {
            let parsed = tag::parse_audio(body).ok()?;
            let AudioKind::SequenceHeader { config } = parsed.kind else { return None };
            Some(RecordItem::AudioHeader { config: config.to_vec() })
        }
        HeaderKind::Metadata => None,
    }
}

/// A packet of a log, out of its tag.
#[must_use]
pub(super) fn packet(
    logs: &Logs,
    log: LogName,
    entry: &Entry,
    at: Place,
    behind: Place,
) -> Option<RecordPacket> {
    let body = logs.get(log)?.bytes(entry.position, entry.length);
    let (track, payload) = match entry.kind {
        EntryKind::VideoIdr | EntryKind::VideoInter | EntryKind::VideoDisposable => {
            let VideoKind::Frame { nals, .. } = tag::parse_video(body).ok()?.kind else {
                return None;
            };
            (Track::Video, nals.to_vec())
        }
        EntryKind::Audio => {
            let AudioKind::Frame { raw } = tag::parse_audio(body).ok()?.kind else { return None };
            (Track::Audio, raw.to_vec())
        }
        EntryKind::VideoHeader
        | EntryKind::AudioHeader
        | EntryKind::Metadata
        | EntryKind::VideoOther
        | EntryKind::AudioOther => return None,
    };
    let idr = if entry.kind == EntryKind::VideoIdr { IsIdr::Idr } else { IsIdr::Other };
    let (dts_ms, pts_ms) = (entry.dts_ms, entry.pts_ms());
    Some(RecordPacket { track, dts_ms, pts_ms, idr, payload, at, behind })
}

#[cfg(test)]
mod tests;
