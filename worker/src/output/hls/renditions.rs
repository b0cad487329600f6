//! All renditions of a stream on the packager's thread: what comes for each, through its packager,
//! into the directory.
//!
//! ```text
//!            order: from this place              its mark comes, then packets
//!   Ordered ◀──────────────────────── (open) ──▶ Ordered ─────────────▶ Fed
//!      ▲                                                                 │
//!      └── another owner made a different part, or the directory was full ──┘
//! ```
//!
//! The side that feeds is told a place by an order and answers with a mark; what comes in between
//! was read for a packager that is gone, and is passed over.

use super::epoch::Epoch;
use super::packager::{HlsPacket, Made, Packager, Rules};
use super::place::{PartNote, PartNumber, RenditionFile, RenditionKind, StreamFile};
use super::store::{Files, Newest, Opened, Put, Store};
use crate::media::packet::VideoCodec;
use crate::output::cursor::Place;
use crate::output::record::SeriesId;
use std::io;
use std::path::PathBuf;
use std::time::Instant;
use tasuki_shared::id::PublicName;
use tasuki_shared::limits::{HLS_RETRY, HLS_TARGETS_KEPT_MIN};
use tasuki_shared::message::Notice;

#[derive(Clone, Debug)]
pub struct HlsConfig {
    pub directory: PathBuf,
    pub series: SeriesId,
    pub about: StreamFile,
}

/// Where a rendition is to be fed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedFrom {
    /// The start of the stream.
    Start,
    Place(Place),
    /// The next keyframe: nobody knows better.
    Head,
    /// It has left the stream.
    Nowhere,
}

/// Numbered, so that an answer to an older one is told from one to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartOrder {
    pub number: u64,
    pub from: FeedFrom,
}

/// What is fed, in the order of a rendition.
#[derive(Clone, Debug)]
pub enum HlsItem {
    /// What follows is from the ordered place on.
    Mark {
        order: u64,
        kind: RenditionKind,
        joins: Joins,
    },
    VideoHeader {
        codec: VideoCodec,
        config: Vec<u8>,
    },
    AudioHeader {
        config: Vec<u8>,
    },
    Packet(Box<HlsPacket>),
}

/// Does what follows continue what was there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    Yes,
    /// Something is gone.
    No,
}

/// What has become of a rendition so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenditionReport {
    pub state: HlsState,
    pub newest: Option<PartNumber>,
    /// By this owner.
    pub parts: u64,
    pub discontinuities: u64,
    pub forced_cuts: u64,
    pub gaps: u64,
    pub last_error: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HlsState {
    /// For its place, a header or a keyframe.
    #[default]
    Waiting,
    Packaging,
    Left,
    Stopped,
}

impl HlsState {
    /// As in the status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Packaging => "packaging",
            Self::Left => "left",
            Self::Stopped => "stopped",
        }
    }
}

/// To be told by the io thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    pub orders: Vec<(usize, StartOrder)>,
    pub notices: Vec<Notice>,
}

pub struct Renditions<F> {
    config: HlsConfig,
    rules: Rules,
    epoch: Epoch,
    store: Directory<F>,
    each: Vec<Rendition>,
    orders: u64,
    pub news: News,
    told: Told,
}

enum Directory<F> {
    Open(Store<F>),
    /// It takes nothing; tried again then.
    Stopped {
        files: F,
        until: Instant,
    },
    /// Between two of these.
    Moving,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Started,
}

struct Rendition {
    label: PublicName,
    kind: RenditionKind,
    state: State,
    report: RenditionReport,
}

enum State {
    Ordered { order: u64, packager: Box<Packager> },
    Fed(Box<Packager>),
    Left,
    Stopped,
}

impl<F: Files> Renditions<F> {
    /// Opens the directory, and says by orders from where each rendition is to be fed.
    pub fn open(config: HlsConfig, files: F, now: Instant) -> (Self, Opened) {
        let millis = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let rules = Rules {
            series: config.series,
            target_ms: millis(config.about.target_ms),
            part_target_ms: millis(config.about.part_target_ms),
        };
        let each = config.about.renditions.iter().map(|RenditionFile { label, kind }| Rendition {
            label: label.clone(),
            kind: *kind,
            state: State::Stopped,
            report: RenditionReport::default(),
        });
        let mut renditions = Self {
            each: each.collect(),
            rules,
            epoch: Epoch::default(),
            store: Directory::Moving,
            config,
            orders: 0,
            news: News::default(),
            told: Told::Nothing,
        };
        let opened = renditions.open_directory(files, now);
        (renditions, opened)
    }

    pub fn reports(&self) -> impl Iterator<Item = &RenditionReport> {
        self.each.iter().map(|rendition| &rendition.report)
    }

    /// When there is something to do although nothing comes.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        match &self.store {
            Directory::Stopped { until, .. } => Some(*until),
            Directory::Open(_) | Directory::Moving => None,
        }
    }

    pub fn wake(&mut self, now: Instant) {
        match std::mem::replace(&mut self.store, Directory::Moving) {
            Directory::Stopped { files, until } if now >= until => {
                self.open_directory(files, now);
            }
            store @ (Directory::Stopped { .. } | Directory::Open(_) | Directory::Moving) => {
                self.store = store;
            }
        }
    }

    /// What has come at once, before any of it is taken.
    pub fn received<'a>(&mut self, items: impl Iterator<Item = &'a HlsItem>, now_unix_ms: u64) {
        let times = items.filter_map(|item| match item {
            HlsItem::Packet(packet) => Some(packet.packet.dts_ms),
            HlsItem::Mark { .. } | HlsItem::VideoHeader { .. } | HlsItem::AudioHeader { .. } => {
                None
            }
        });
        times.for_each(|at_ms| self.epoch.received(at_ms, now_unix_ms));
    }

    pub fn take(&mut self, at: usize, item: HlsItem, now_unix_ms: u64, now: Instant) {
        let mut made = Vec::new();
        let Self { each, epoch, .. } = self;
        let Some(rendition) = each.get_mut(at) else { return };
        match item {
            HlsItem::Mark { order, kind, joins } => {
                let is_other = rendition.kind != kind;
                rendition.mark(order, kind, joins, epoch, now_unix_ms, &mut made);
                if is_other {
                    self.describe(now);
                }
            }
            HlsItem::VideoHeader { codec, config } => {
                if let State::Fed(packager) = &mut rendition.state {
                    packager.video_header(codec, config);
                }
            }
            HlsItem::AudioHeader { config } => {
                if let State::Fed(packager) = &mut rendition.state {
                    packager.audio_header(config);
                }
            }
            HlsItem::Packet(packet) => {
                if let State::Fed(packager) = &mut rendition.state {
                    packager.take(*packet, epoch, now_unix_ms, &mut made);
                }
            }
        }
        self.write(at, made, now);
    }

    /// The stream is over: writes what is held, and that it is over.
    pub fn finish(&mut self, now_unix_ms: u64, now: Instant) {
        self.wake(now);
        for at in 0..self.each.len() {
            let mut made = Vec::new();
            if let State::Fed(packager) = &mut self.each[at].state {
                packager.finish(&mut self.epoch, now_unix_ms, &mut made);
            }
            self.write(at, made, now);
        }
        if let Directory::Open(store) = &mut self.store
            && let Err(error) = store.end()
        {
            self.stop(&error, now);
        }
    }

    fn open_directory(&mut self, files: F, now: Instant) -> Opened {
        let HlsConfig { series, about, .. } = &self.config;
        let labels: Vec<_> = self.each.iter().map(|rendition| rendition.label.clone()).collect();
        match Store::open(files, &labels, *series, about) {
            Ok((store, opened)) => {
                self.learn(&store);
                self.store = Directory::Open(store);
                for at in 0..self.each.len() {
                    self.order(at);
                }
                opened
            }
            Err((files, error)) => {
                self.stopped(files, &error, now);
                Opened::Again
            }
        }
    }

    /// Of the wall clock and of discontinuities, what the notes of all renditions say.
    fn learn(&mut self, store: &Store<F>) {
        let Epoch { offset_ms, breaks, .. } = &mut self.epoch;
        let newest = (0..self.each.len()).filter_map(|at| Some((at, store.newest_read(at)?)));
        let (ours, others): (Vec<_>, Vec<_>) =
            newest.partition(|(_, (_, note))| note.series == self.rules.series);
        for (at, (number, note)) in &ours {
            *offset_ms = Some(offset_of(note));
            breaks.learn(store.break_start_ms(*at, *number, note), note.discontinuities);
        }
        // A new stream behind another one is a break for all, from its start on.
        let most = others.iter().map(|(_, (_, note))| note.discontinuities).max();
        if let (true, Some(most)) = (ours.is_empty(), most) {
            breaks.learn(i64::MIN, most.saturating_add(1));
        }
    }

    /// Makes a rendition's packager of what is there, and has it fed from there.
    fn order(&mut self, at: usize) {
        let Directory::Open(store) = &self.store else { return };
        let Self { each, rules, epoch, .. } = self;
        let Some(rendition) = each.get_mut(at) else { return };
        let (rules, kind) = (*rules, rendition.kind);
        self.orders += 1;
        let number = self.orders;
        let newest = store.newest(at);
        rendition.report.newest = newest.map(|newest| newest.number);
        let (from, packager) = match newest {
            _ if store.has_left(at) => (FeedFrom::Nowhere, None),
            None => (FeedFrom::Start, Some(Packager::new(rules, kind))),
            Some(Newest { number, note: Some(note) }) if note.series == rules.series => {
                epoch.offset_ms = Some(offset_of(&note));
                let init = store.init(at, note.init).ok();
                let resumed =
                    init.and_then(|init| Packager::resume(rules, kind, number, &note, &init));
                match resumed {
                    Some(packager) => (FeedFrom::Place(note.place), Some(packager)),
                    None => {
                        (FeedFrom::Head, Some(Packager::after(rules, kind, number, Some(&note))))
                    }
                }
            }
            Some(Newest { number, note: Some(note) }) => {
                (FeedFrom::Start, Some(Packager::after(rules, kind, number, Some(&note))))
            }
            Some(Newest { number, note: None }) => {
                // Whoever wrote it may have been of this stream, and the start is long told. Its number
                // of discontinuities is that of the part before it.
                let read = store.newest_read(at).map(|(_, note)| note);
                (FeedFrom::Head, Some(Packager::after(rules, kind, number, read.as_ref())))
            }
        };
        (rendition.state, rendition.report.state) = match packager {
            Some(packager) => {
                let packager = Box::new(packager);
                (State::Ordered { order: number, packager }, HlsState::Waiting)
            }
            None => (State::Left, HlsState::Left),
        };
        self.news.orders.push((at, StartOrder { number, from }));
    }

    fn describe(&mut self, now: Instant) {
        for (rendition, told) in self.each.iter().zip(&mut self.config.about.renditions) {
            told.kind = rendition.kind;
        }
        if let Directory::Open(store) = &mut self.store
            && let Err(error) = store.describe(&self.config.about)
        {
            self.stop(&error, now);
        }
    }

    fn write(&mut self, at: usize, made: Vec<Made>, now: Instant) {
        for made in made {
            let done = match self.put(at, &made) {
                Err(error) if self.makes_room() => {
                    tracing::warn!(%error, "HLS keeps less than its window");
                    self.put(at, &made)
                }
                done => done,
            };
            match done {
                Ok(Wrote::Done) => self.wrote(at, &made),
                Ok(Wrote::Otherwise) => {
                    self.order(at);
                    return;
                }
                Err(error) => {
                    self.stop(&error, now);
                    return;
                }
            }
        }
    }

    fn put(&mut self, at: usize, made: &Made) -> io::Result<Wrote> {
        let Directory::Open(store) = &mut self.store else { return Ok(Wrote::Done) };
        match made {
            Made::Init { hash, file } => store.put_init(at, *hash, file)?,
            Made::Left(reason) => store.leave(at, &reason.to_string())?,
            Made::Part { number, note, file } => match store.put_part(at, *number, note, file)? {
                Put::Ours => {}
                Put::Theirs => {
                    // As long as it is what we made, ours goes on from it as theirs would.
                    let is_same = store.is_same(at, *number, note, file);
                    return Ok(if is_same { Wrote::Done } else { Wrote::Otherwise });
                }
            },
        }
        Ok(Wrote::Done)
    }

    fn wrote(&mut self, at: usize, made: &Made) {
        let Self { each, news, told, .. } = self;
        let Some(rendition) = each.get_mut(at) else { return };
        match made {
            Made::Init { .. } => {}
            Made::Left(reason) => {
                rendition.state = State::Left;
                rendition.report.state = HlsState::Left;
                self.orders += 1;
                let order = StartOrder { number: self.orders, from: FeedFrom::Nowhere };
                news.orders.push((at, order));
                let (label, reason) = (rendition.label.to_string(), reason.to_string());
                news.notices.push(Notice::HlsLeft { label, reason });
            }
            Made::Part { number, note, .. } => {
                let PartNote { discontinuities, .. } = **note;
                rendition.report.newest = Some(*number);
                rendition.report.parts += 1;
                rendition.report.discontinuities = discontinuities;
                rendition.report.state = HlsState::Packaging;
                if let State::Fed(packager) = &rendition.state {
                    rendition.report.forced_cuts = packager.oddities.forced_cuts;
                    rendition.report.gaps = packager.oddities.gaps;
                    rendition.report.last_error.clone_from(&packager.oddities.last_error);
                }
                if *told == Told::Nothing {
                    *told = Told::Started;
                    let directory = self.config.directory.display().to_string();
                    news.notices.push(Notice::HlsStarted { directory });
                }
                if number.part == 0 {
                    self.retire();
                }
            }
        }
    }

    fn retire(&mut self) {
        let StreamFile { window_ms, target_ms, .. } = self.config.about;
        if let Directory::Open(store) = &mut self.store {
            store.retire(window_ms.saturating_add(2 * target_ms));
        }
    }

    /// Drops old segments early. Was there any?
    fn makes_room(&mut self) -> bool {
        let keep_ms = HLS_TARGETS_KEPT_MIN * self.config.about.target_ms;
        match &mut self.store {
            Directory::Open(store) => store.retire(keep_ms) > 0,
            Directory::Stopped { .. } | Directory::Moving => false,
        }
    }

    fn stop(&mut self, error: &io::Error, now: Instant) {
        match std::mem::replace(&mut self.store, Directory::Moving) {
            Directory::Open(store) => self.stopped(store.into_files(), error, now),
            store @ (Directory::Stopped { .. } | Directory::Moving) => self.store = store,
        }
    }

    fn stopped(&mut self, files: F, error: &io::Error, now: Instant) {
        let directory = self.config.directory.display();
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        let reason = if full.contains(&error.kind()) {
            format!("no space left in {directory}")
        } else {
            format!("{directory}: {error}")
        };
        for rendition in &mut self.each {
            if !matches!(rendition.state, State::Left) {
                rendition.state = State::Stopped;
                rendition.report.state = HlsState::Stopped;
            }
            rendition.report.last_error.clone_from(&reason);
        }
        self.told = Told::Nothing;
        self.news.notices.push(Notice::HlsStopped { reason });
        self.store = Directory::Stopped { files, until: now + HLS_RETRY };
    }
}

/// The wall clock of its stream's timeline.
fn offset_of(note: &PartNote) -> i64 {
    i64::try_from(note.start_unix_ms).unwrap_or(i64::MAX).saturating_sub(note.start_ms)
}

enum Wrote {
    Done,
    /// Another owner made something else of it.
    Otherwise,
}

impl Rendition {
    fn mark(
        &mut self,
        answered: u64,
        kind: RenditionKind,
        joins: Joins,
        epoch: &mut Epoch,
        now_unix_ms: u64,
        made: &mut Vec<Made>,
    ) {
        self.kind = kind;
        let state = std::mem::replace(&mut self.state, State::Stopped);
        self.state = match state {
            State::Ordered { order, packager } if order == answered => State::Fed(packager),
            state @ (State::Ordered { .. } | State::Fed(_) | State::Left | State::Stopped) => state,
        };
        if let State::Fed(packager) = &mut self.state {
            packager.set_kind(kind);
            match joins {
                Joins::Yes => {}
                Joins::No => packager.gap(epoch, now_unix_ms, made),
            }
        }
    }
}

#[cfg(test)]
mod tests;
