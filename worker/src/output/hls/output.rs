//! The io thread's side of the HLS output: cursors over the logs, one for each rendition, and what
//! the stream hears of the packager. The stream never waits for it.

use super::packager::{HlsPacket, Key};
use super::place::{RenditionFile, RenditionKind, StreamFile};
use super::renditions::{FeedFrom, HlsConfig, HlsItem, Joins, RenditionReport, StartOrder};
use super::thread::{Closing, HlsHandle, Offered};
use crate::leftovers::Leftover;
use crate::media::packet::IsIdr;
use crate::media::timeline::Track;
use crate::output::cursor::{Cursor, Feed, LogName, Logs, Next, StreamEnd};
use crate::output::record::{RecordItem, RecordPacket, SeriesId};
use crate::output::recording;
use crate::session::stream::{Wake, feed_of};
use tasuki_shared::id::{PublicName, RungId};
use tasuki_shared::limits::HLS_SOUND_WAIT_MS;
use tasuki_shared::memory::log::{Entry, EntryKind};
use tasuki_shared::message::Notice;
use tasuki_shared::plan::{HlsPlan, Plan, RungKind};
use tasuki_shared::status::HlsStatus;

/// Packets of one rendition handed over in one wake-up.
const FEED_ROUNDS_MAX: usize = 256;

/// See the module.
pub struct HlsOutput {
    handle: Result<HlsHandle, String>,
    lines: Vec<Line>,
    /// Not told yet.
    notices: Vec<Notice>,
}

/// One rendition, as it is fed.
struct Line {
    rung: RungId,
    cursor: Cursor,
    begun: Begun,
    /// What the cursor had passed over for want of the packets when it was looked at last; `None`:
    /// something was lost on the way.
    skipped: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// Its thread still looks for the place; packets wait in their logs.
    Not,
    /// FeedFrom the start of the stream: sound that comes a little later is part of it.
    Fresh {
        order: u64,
    },
    Yes {
        order: u64,
    },
    /// It gets no more.
    Never,
}

impl HlsOutput {
    /// Begins, or goes on with what another owner began: the directory tells.
    #[must_use]
    pub fn start(plan: &Plan, series: SeriesId, wake: &Wake) -> Option<Self> {
        let hls = plan.hls.as_ref()?;
        let (config, rungs) = configured(plan, hls, series);
        let handle = HlsHandle::spawn(config, Wake::clone(wake)).map_err(|error| error.to_string());
        let mut notices = Vec::new();
        if let Err(reason) = &handle {
            notices.push(Notice::HlsStopped { reason: reason.clone() });
        }
        Some(Self::new(handle, plan, &rungs, notices))
    }

    fn new(
        handle: Result<HlsHandle, String>,
        plan: &Plan,
        rungs: &[RungId],
        notices: Vec<Notice>,
    ) -> Self {
        let line = |rung: &RungId| Line {
            rung: *rung,
            cursor: Cursor::new(sorted(feed_of(plan, *rung, None))),
            begun: Begun::Not,
            skipped: Some(0),
        };
        Self { handle, lines: rungs.iter().map(line).collect(), notices }
    }

    /// Each rendition reads other logs from now on, if nothing of the old ones was taken yet.
    pub fn set_feeds(&mut self, feed_of_rung: impl Fn(RungId) -> Feed) {
        for (at, line) in self.lines.iter_mut().enumerate() {
            let before = line.cursor.feed();
            line.cursor.feed_from(sorted(feed_of_rung(line.rung)));
            if let (Ok(handle), Begun::Fresh { order } | Begun::Yes { order }) =
                (&mut self.handle, line.begun)
                && line.cursor.feed() != before
            {
                let kind = kind_of(line.cursor.feed());
                handle.offer(at, HlsItem::Mark { order, kind, joins: Joins::Yes });
            }
        }
    }

    /// Hands over what the logs have, all of it committed.
    pub fn feed(&mut self, logs: &Logs, end: StreamEnd) {
        let Ok(handle) = &mut self.handle else { return };
        let news = handle.news();
        self.notices.extend(news.notices);
        for (at, order) in news.orders {
            if let Some(line) = self.lines.get_mut(at) {
                line.begin(at, order, handle, logs);
            }
        }
        for (at, line) in self.lines.iter_mut().enumerate() {
            line.feed(at, handle, logs, end);
        }
        if handle.hand_over() == Offered::Lost {
            for line in &mut self.lines {
                line.skipped = None;
            }
        }
    }

    /// Everything there is was handed over, or never will be.
    #[must_use]
    pub fn is_fed(&self, logs: &Logs) -> bool {
        let Ok(handle) = &self.handle else { return true };
        let is_fed = |line: &Line| match line.begun {
            Begun::Not => false,
            Begun::Fresh { .. } | Begun::Yes { .. } => line.cursor.is_at_end(logs),
            Begun::Never => true,
        };
        !handle.is_alive() || self.lines.iter().all(is_fed)
    }

    /// Lets another owner go on: whole parts of what was handed over are written.
    pub fn release(&mut self) -> Option<Leftover> {
        self.close(Closing::Release)
    }

    /// What was handed over is all there is.
    pub fn finish(&mut self) -> Option<Leftover> {
        self.close(Closing::End)
    }

    fn close(&mut self, closing: Closing) -> Option<Leftover> {
        let over = Err("the stream is over".to_owned());
        let handle = std::mem::replace(&mut self.handle, over).ok()?;
        Some(Box::new(move || handle.close(closing)))
    }

    /// What was not told yet.
    pub fn news(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Each with its rung; the label is left to the plan's owner.
    #[must_use]
    pub fn status(&self) -> Vec<(RungId, HlsStatus)> {
        let reports = match &self.handle {
            Ok(handle) => handle.reports(),
            Err(reason) => {
                let stopped = HlsStatus {
                    state: "stopped".to_owned(),
                    last_error: reason.clone(),
                    ..HlsStatus::default()
                };
                return self.lines.iter().map(|line| (line.rung, stopped.clone())).collect();
            }
        };
        let reports = reports.into_iter().chain(std::iter::repeat(RenditionReport::default()));
        self.lines.iter().zip(reports).map(|(line, report)| (line.rung, status(report))).collect()
    }
}

impl Line {
    /// Takes the place that its thread says.
    fn begin(&mut self, at: usize, order: StartOrder, handle: &mut HlsHandle, logs: &Logs) {
        let StartOrder { number, from } = order;
        let feed = self.cursor.feed();
        let mut joins = Joins::Yes;
        (self.cursor, self.begun) = match from {
            FeedFrom::Start => (Cursor::new(feed), Begun::Fresh { order: number }),
            FeedFrom::Place(place) if place.feed == feed && place.is_held(logs) => {
                (Cursor::at(place), Begun::Yes { order: number })
            }
            // What would come next is gone, or is another rendition.
            FeedFrom::Place(_) | FeedFrom::Head => {
                let mut cursor = Cursor::new(feed);
                cursor.go_to_head(logs);
                joins = Joins::No;
                tracing::warn!("the next packets of a rendition are gone: a new segment begins");
                (cursor, Begun::Yes { order: number })
            }
            FeedFrom::Nowhere => (Cursor::new(feed), Begun::Never),
        };
        self.skipped = Some(self.cursor.skipped);
        let kind = kind_of(feed);
        handle.offer(at, HlsItem::Mark { order: number, kind, joins });
    }

    fn feed(&mut self, at: usize, handle: &mut HlsHandle, logs: &Logs, end: StreamEnd) {
        let order = match self.begun {
            Begun::Not | Begun::Never => return,
            Begun::Fresh { order } => {
                if end == StreamEnd::Going && self.waits_for_sound(logs) {
                    return;
                }
                order
            }
            Begun::Yes { order } => order,
        };
        for _ in 0..FEED_ROUNDS_MAX {
            if !handle.has_room() {
                return;
            }
            let place = self.cursor.place();
            let Some(next) = self.cursor.next(logs, end) else { return };
            let item = match next {
                Next::Header { log, id, kind, .. } => {
                    let body = logs.get(log).and_then(|log| log.header(kind, id));
                    body.and_then(|body| header(recording::header(kind, &body)?))
                }
                Next::Packet { log, entry } => {
                    let behind = self.cursor.place();
                    let packet = recording::packet(logs, log, &entry, place, behind);
                    packet.map(|packet| with_key(packet, logs, log, &entry))
                }
            };
            let Some(item) = item else { continue };
            let is_packet = matches!(item, HlsItem::Packet(_));
            let has_begun = matches!(self.begun, Begun::Yes { .. });
            if has_begun && self.skipped != Some(self.cursor.skipped) {
                self.breaks(at, order, handle);
            }
            if is_packet {
                self.skipped = Some(self.cursor.skipped);
                self.begun = Begun::Yes { order };
            }
            handle.offer(at, item);
        }
    }

    fn breaks(&self, at: usize, order: u64, handle: &mut HlsHandle) {
        let kind = kind_of(self.cursor.feed());
        handle.offer(at, HlsItem::Mark { order, kind, joins: Joins::No });
    }

    /// Publishers whose sound comes a little later than their first picture would get an init
    /// segment without.
    fn waits_for_sound(&self, logs: &Logs) -> bool {
        let Feed::Merged { video: _, audio: Some(audio) } = self.cursor.feed() else {
            return false;
        };
        if logs.get(audio).is_none_or(|log| log.heads().headers.audio != 0) {
            return false;
        }
        let mut ahead = self.cursor.clone();
        let first = std::iter::from_fn(|| ahead.next(logs, StreamEnd::Going));
        let first_ms = first.take(FEED_ROUNDS_MAX).find_map(|next| match next {
            Next::Packet { entry, .. } => Some(entry.dts_ms),
            Next::Header { .. } => None,
        });
        let head = logs.source.heads().index_head;
        let newest = head.checked_sub(1).and_then(|index| logs.source.entry(index));
        let waited_ms =
            |first_ms: i64| newest.map_or(0, |newest| newest.dts_ms.saturating_sub(first_ms));
        first_ms.is_some_and(|first_ms| waited_ms(first_ms) < HLS_SOUND_WAIT_MS)
    }
}

fn configured(plan: &Plan, hls: &HlsPlan, series: SeriesId) -> (HlsConfig, Vec<RungId>) {
    let HlsPlan { directory, rungs, target_ms, part_target_ms, window_ms } = hls;
    let mut found = Vec::with_capacity(rungs.len());
    let mut renditions = Vec::with_capacity(rungs.len());
    for &id in rungs {
        let Some(rung) = plan.rung(id) else { continue };
        let Ok(label) = PublicName::parse(&rung.label) else { continue };
        let kind = match rung.kind {
            RungKind::Source => RenditionKind::Source,
            RungKind::Encoded(_) => RenditionKind::Encoded,
        };
        found.push(id);
        renditions.push(RenditionFile { label, kind });
    }
    let about = StreamFile {
        target_ms: *target_ms,
        part_target_ms: *part_target_ms,
        window_ms: *window_ms,
        renditions,
    };
    (HlsConfig { directory: directory.clone(), series, about }, found)
}

/// Sound and pictures in the order of their times, whatever order the publisher sent them in: so
/// that a part's sound is of the same time as its pictures.
fn sorted(feed: Feed) -> Feed {
    match feed {
        Feed::Source => Feed::Merged { video: LogName::Source, audio: Some(LogName::Source) },
        Feed::Merged { video, audio } => Feed::Merged { video, audio },
    }
}

fn kind_of(feed: Feed) -> RenditionKind {
    match feed {
        Feed::Source | Feed::Merged { video: LogName::Source | LogName::Audio, audio: _ } => {
            RenditionKind::Source
        }
        Feed::Merged { video: LogName::Rung(_), audio: _ } => RenditionKind::Encoded,
    }
}

fn header(item: RecordItem) -> Option<HlsItem> {
    match item {
        RecordItem::VideoHeader { codec, config } => Some(HlsItem::VideoHeader { codec, config }),
        RecordItem::AudioHeader { config } => Some(HlsItem::AudioHeader { config }),
        RecordItem::Packet(_) | RecordItem::FileEnd => None,
    }
}

/// A rung's keyframe is the source's where the picture it was made of is one.
fn with_key(packet: RecordPacket, logs: &Logs, log: LogName, entry: &Entry) -> HlsItem {
    let is_sources = || match log {
        LogName::Source => true,
        LogName::Audio => false,
        LogName::Rung(_) => {
            logs.source.entry(entry.mark).is_some_and(|of| of.kind == EntryKind::VideoIdr)
        }
    };
    let key = match (packet.track, packet.idr) {
        (Track::Video, IsIdr::Idr) if is_sources() => Key::Source,
        (Track::Video, IsIdr::Idr) => Key::Own,
        (Track::Video, IsIdr::Other) | (Track::Audio, _) => Key::No,
    };
    HlsItem::Packet(Box::new(HlsPacket { key, packet }))
}

fn status(report: RenditionReport) -> HlsStatus {
    let RenditionReport { state, newest, parts, discontinuities, forced_cuts, gaps, last_error } =
        report;
    let (segment, part) = newest.map_or((0, 0), |newest| (newest.segment, newest.part));
    let state = state.name().to_owned();
    HlsStatus {
        rung: String::new(),
        state,
        segment,
        part,
        parts,
        discontinuities,
        forced_cuts,
        gaps,
        last_error,
    }
}

#[cfg(test)]
mod tests;
