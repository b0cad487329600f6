//! The source log as the pipeline's packet source, read by the media thread.

use super::pipeline_record::PipelineRecord;
use super::replay::{Replay, Replayed};
use super::stream::Wake;
use crate::media::packet::{IsIdr, VideoCodec};
use crate::media::tag::{self, AudioKind, VideoKind};
use crate::pipeline::{Declared, Disposable, PacketKind, PacketSource, SourceEvent, SourcePacket};
use crate::rtmp::chunk::kind;
use crate::rtmp::command::{self, Metadata};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::memory::MemoryError;
use tasuki_shared::memory::commit::Section;
use tasuki_shared::memory::log::{Entry, EntryKind, HeaderIds, HeaderKind, LogReader, Miss};
use tasuki_shared::memory::map::Access;
use tasuki_shared::memory::session::{RecordReader, WorkMark};

/// Index behind the last packet that will ever come; `u64::MAX` while the stream goes on.
#[derive(Clone, Debug)]
pub struct End(Arc<AtomicU64>);

impl End {
    #[must_use]
    pub fn open() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    pub fn at(&self, index: u64) {
        self.0.store(index, Ordering::Release);
    }

    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire) != u64::MAX
    }

    fn reached(&self, index: u64) -> bool {
        index >= self.0.load(Ordering::Acquire)
    }
}

/// How far a follower may read: to its owner's last committed frame, until it is lifted.
pub struct Ceiling {
    record: RecordReader,
    /// Logs that the pipeline's section tells of.
    logs: usize,
    index: Option<u64>,
    lifted: Arc<AtomicBool>,
    caught_up: Arc<AtomicBool>,
    wake: Wake,
}

/// What a ceiling says to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    Yes,
    NotYet,
    /// It was lifted just now: there is an order to be looked at first.
    Lifted,
}

impl Ceiling {
    #[must_use]
    pub fn new(
        record: RecordReader,
        logs: usize,
        lifted: Arc<AtomicBool>,
        caught_up: Arc<AtomicBool>,
        wake: Wake,
    ) -> Self {
        Self { record, logs, index: None, lifted, caught_up, wake }
    }

    fn allows(&mut self, index: u64) -> Allowed {
        if self.lifted.load(Ordering::Acquire) {
            return Allowed::Lifted;
        }
        if self.index.is_some_and(|most| index <= most) {
            return Allowed::Yes;
        }
        // A record that cannot be read now is read with the next packet.
        let read = self.record.load().ok().and_then(|record| {
            PipelineRecord::decode(record.section(Section::Pipeline), self.logs).ok()
        });
        if let Some(last) = read.and_then(|record| record.last_frame) {
            self.index = self.index.max(Some(last.source_index));
        }
        if self.index.is_some_and(|most| index <= most) {
            return Allowed::Yes;
        }
        if !self.caught_up.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
        Allowed::NotYet
    }
}

/// Where a pipeline begins: video at an IDR, sound where its encoder's history begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    pub video: u64,
    pub audio: u64,
}

/// How far the media thread has come, for the io thread; and whose work it is.
#[derive(Default)]
pub struct Reading {
    /// The next entry that it will read.
    next: AtomicU64,
    /// Packets that were overwritten before it came to them.
    lapped: AtomicU64,
    /// Has the media thread a packet in hand?
    at_work: AtomicBool,
    /// Set once the session is ours: until then its memory says what its owner does.
    mark: OnceLock<WorkMark>,
    replayed: Replayed,
}

impl Reading {
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_at_work(&self) -> bool {
        self.at_work.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn lapped(&self) -> u64 {
        self.lapped.load(Ordering::Relaxed)
    }

    /// What was decoded again, if anything is.
    #[must_use]
    pub fn replayed(&self) -> &Replayed {
        &self.replayed
    }

    /// From now on each packet is marked in the session's memory.
    pub fn mark(&self, mark: WorkMark) {
        // A second mark would be the same.
        let _ = self.mark.set(mark);
    }
}

/// See the module.
pub struct LogSource {
    log: LogReader,
    first: First,
    next: u64,
    end: End,
    /// Headers that the pipeline has been given.
    given: HeaderIds,
    /// A packet whose header goes first.
    held: Option<Entry>,
    tag: Vec<u8>,
    reading: Arc<Reading>,
    ceiling: Option<Ceiling>,
    replay: Option<Replay>,
}

impl LogSource {
    /// Reads from `first` on.
    pub fn open(
        fd: &impl AsFd,
        first: First,
        end: End,
        reading: Arc<Reading>,
    ) -> Result<Self, MemoryError> {
        let log = LogReader::open(fd, Access::ReadWrite)?;
        let given = HeaderIds::default();
        let next = first.video.min(first.audio);
        reading.next.store(next, Ordering::Relaxed);
        Ok(Self {
            log,
            first,
            next,
            end,
            given,
            held: None,
            tag: Vec::new(),
            reading,
            ceiling: None,
            replay: None,
        })
    }

    /// For who goes on after a frame that another owner committed, if there was one.
    #[must_use]
    pub fn after(self, last: Option<u64>) -> Self {
        Self { replay: last.map(Replay::up_to), ..self }
    }

    /// For who follows an owner.
    #[must_use]
    pub fn below(self, ceiling: Ceiling) -> Self {
        Self { ceiling: Some(ceiling), ..self }
    }

    /// `None` when the next packet may be read.
    fn held_back(&mut self, wait: Duration) -> Option<SourceEvent> {
        let ceiling = self.ceiling.as_mut()?;
        failpoint::hit(Point::FollowerPacket);
        match ceiling.allows(self.next) {
            Allowed::Yes => None,
            Allowed::NotYet => {
                // The owner's frames follow its packets: looked at again with each of them.
                self.log.wait_beyond(self.log.head(), wait);
                Some(SourceEvent::Idle)
            }
            Allowed::Lifted => {
                self.ceiling = None;
                Some(SourceEvent::Idle)
            }
        }
    }

    /// The next entry with its tag in `self.tag`, or why there is none.
    fn read(&mut self) -> Result<Entry, Miss> {
        match self.log.read(self.next, &mut self.tag) {
            Ok(entry) => {
                self.next += 1;
                self.reading.next.store(self.next, Ordering::Relaxed);
                Ok(entry)
            }
            Err(Miss::NotYet) => Err(Miss::NotYet),
            Err(Miss::Lapped) => {
                let target = self
                    .log
                    .keyframe()
                    .filter(|&index| index > self.next)
                    .unwrap_or_else(|| self.log.head().max(self.next + 1));
                self.reading.lapped.fetch_add(target - self.next, Ordering::Relaxed);
                self.next = target;
                self.reading.next.store(target, Ordering::Relaxed);
                Err(Miss::Lapped)
            }
        }
    }

    /// Turns the entry whose tag is in `self.tag` into what the pipeline takes.
    fn packet(&mut self, entry: Entry, buffer: &mut Vec<u8>) -> Option<SourcePacket> {
        let is_before_its_first = match entry.kind {
            EntryKind::Audio | EntryKind::AudioOther => entry.index < self.first.audio,
            EntryKind::VideoIdr
            | EntryKind::VideoInter
            | EntryKind::VideoDisposable
            | EntryKind::VideoHeader
            | EntryKind::AudioHeader
            | EntryKind::Metadata
            | EntryKind::VideoOther => entry.index < self.first.video,
        };
        if is_before_its_first {
            return None;
        }
        // A reader that began late, or skipped, gets the headers in force first; and the claims
        // before the header that is judged by them.
        if entry.kind.is_video_frame() && entry.headers.metadata != self.given.metadata {
            self.given.metadata = entry.headers.metadata;
            if let Some(body) = self.log.header(HeaderKind::Metadata, entry.headers.metadata) {
                self.hold(entry);
                return declared(&body, entry.index);
            }
        }
        if entry.kind.is_video_frame() && entry.headers.video != self.given.video {
            self.given.video = entry.headers.video;
            if let Some(header) = self.log.header(HeaderKind::Video, entry.headers.video) {
                self.hold(entry);
                return video_header(&header, entry.index, buffer);
            }
        }
        if entry.kind == EntryKind::Audio && entry.headers.audio != self.given.audio {
            self.given.audio = entry.headers.audio;
            if let Some(header) = self.log.header(HeaderKind::Audio, entry.headers.audio) {
                self.hold(entry);
                return audio_header(&header, entry.index, buffer);
            }
        }
        match entry.kind {
            EntryKind::VideoIdr | EntryKind::VideoInter | EntryKind::VideoDisposable => {
                video_frame(&self.tag, entry, buffer)
            }
            EntryKind::Audio => audio_frame(&self.tag, entry, buffer),
            EntryKind::VideoHeader
            | EntryKind::AudioHeader
            | EntryKind::Metadata
            | EntryKind::VideoOther
            | EntryKind::AudioOther => None,
        }
    }

    fn hold(&mut self, entry: Entry) {
        self.held = Some(entry);
    }
}

impl PacketSource for LogSource {
    fn waiting(&self) -> u64 {
        self.log.head().saturating_sub(self.next)
    }

    fn is_caught_up(&self) -> bool {
        self.ceiling.as_ref().is_none_or(|ceiling| ceiling.caught_up.load(Ordering::Relaxed))
    }

    fn next(&mut self, buffer: &mut Vec<u8>, wait: Duration) -> SourceEvent {
        self.reading.at_work.store(false, Ordering::Relaxed);
        let asked = self.held.map_or(self.next, |entry| entry.index);
        self.replay =
            self.replay.take().and_then(|replay| replay.asked(asked, &self.reading.replayed));
        let event = self.next_event(buffer, wait);
        if let SourceEvent::Packet(packet) = &event {
            self.reading.at_work.store(true, Ordering::Relaxed);
            if let (Some(replay), PacketKind::VideoFrame { .. }) = (&self.replay, &packet.kind) {
                replay.gave_frame(&self.reading.replayed);
            }
            if let Some(mark) = self.reading.mark.get() {
                mark.set(packet.index);
            }
        }
        event
    }
}

impl LogSource {
    fn next_event(&mut self, buffer: &mut Vec<u8>, wait: Duration) -> SourceEvent {
        if let Some(entry) = self.held.take()
            && let Some(packet) = self.packet(entry, buffer)
        {
            return SourceEvent::Packet(packet);
        }
        // Bounded by the log: each turn moves on by an entry, or leaves.
        loop {
            if self.end.reached(self.next) {
                return SourceEvent::Closed;
            }
            if let Some(event) = self.held_back(wait) {
                return event;
            }
            match self.read() {
                Ok(entry) => {
                    if let Some(packet) = self.packet(entry, buffer) {
                        return SourceEvent::Packet(packet);
                    }
                }
                Err(Miss::Lapped) => {}
                Err(Miss::NotYet) => {
                    self.log.wait_beyond(self.next, wait);
                    if self.log.head() <= self.next && !self.end.reached(self.next) {
                        return SourceEvent::Idle;
                    }
                }
            }
        }
    }
}

fn put(bytes: &[u8], buffer: &mut Vec<u8>) -> Range<usize> {
    buffer.extend_from_slice(bytes);
    0..bytes.len()
}

fn declared(body: &[u8], index: u64) -> Option<SourcePacket> {
    let metadata = command::parse_data(kind::DATA_AMF0, body).ok()??;
    let kind = PacketKind::Declared(declared_by(&metadata));
    Some(SourcePacket { index, kind, payload: 0..0 })
}

/// What of `onMetaData` is believed where the stream itself says nothing.
fn declared_by(metadata: &Metadata) -> Declared {
    Declared {
        fps: metadata.frame_rate.filter(|fps| fps.is_finite() && *fps > 0.0),
        video_bitrate_bps: metadata.video_kbps.and_then(bits_of_kbps),
    }
}

fn bits_of_kbps(kbps: f64) -> Option<u64> {
    let bps = kbps * 1_000.0;
    (bps.is_finite() && (1.0..1e12).contains(&bps)).then(|| format!("{bps:.0}").parse().ok())?
}

fn video_header(body: &[u8], index: u64, buffer: &mut Vec<u8>) -> Option<SourcePacket> {
    let parsed = tag::parse_video(body).ok()?;
    let VideoKind::SequenceHeader { config } = parsed.kind else { return None };
    let kind = PacketKind::VideoHeader { codec: parsed.codec };
    Some(SourcePacket { index, kind, payload: put(config, buffer) })
}

fn video_frame(body: &[u8], entry: Entry, buffer: &mut Vec<u8>) -> Option<SourcePacket> {
    let parsed = tag::parse_video(body).ok()?;
    let VideoKind::Frame { nals, .. } = parsed.kind else { return None };
    let idr = if entry.kind == EntryKind::VideoIdr { IsIdr::Idr } else { IsIdr::Other };
    let disposable =
        if entry.kind == EntryKind::VideoDisposable { Disposable::Yes } else { Disposable::No };
    let kind = PacketKind::VideoFrame { pts_ms: entry.pts_ms(), idr, disposable };
    Some(SourcePacket { index: entry.index, kind, payload: put(nals, buffer) })
}

fn audio_header(body: &[u8], index: u64, buffer: &mut Vec<u8>) -> Option<SourcePacket> {
    let parsed = tag::parse_audio(body).ok()?;
    let AudioKind::SequenceHeader { config } = parsed.kind else { return None };
    Some(SourcePacket { index, kind: PacketKind::AudioHeader, payload: put(config, buffer) })
}

fn audio_frame(body: &[u8], entry: Entry, buffer: &mut Vec<u8>) -> Option<SourcePacket> {
    let parsed = tag::parse_audio(body).ok()?;
    let AudioKind::Frame { raw } = parsed.kind else { return None };
    let kind = PacketKind::AudioFrame { dts_ms: entry.dts_ms };
    Some(SourcePacket { index: entry.index, kind, payload: put(raw, buffer) })
}

/// Codec of the source's video, as a word for the status.
#[must_use]
pub fn codec_name(codec: VideoCodec) -> &'static str {
    match codec {
        VideoCodec::H264 => "h264",
        VideoCodec::Hevc => "hevc",
    }
}
