//! What a live session has beside its connection: logs, tracks, pipeline, outputs.
//!
//! The io thread owns it and is the only writer of its logs.

mod error;
mod logs;

pub use error::StreamError;
pub use logs::feed_of;
use logs::rung_state;

use super::pipeline_record::PipelineRecord;
use super::record::Take;
use super::shadow::Shadow;
use super::source::End;
use super::totals::Totals;
use super::tracks::{Judged, Tracks};
use super::transcode::{Given, Transcode};
use super::{Outbox, Progress, report};
use crate::leftovers::Leftover;
use crate::media::timeline::{Timeline, Track};
use crate::output::cursor::{Logs, PipelineState, StreamEnd, sound_joins_picture};
use crate::output::hls::HlsOutput;
use crate::output::push::{Composed, Connection, Push, PushNews, Wrote};
use crate::output::record::SeriesId;
use crate::output::recording::Recording;
use crate::output::thumbnail;
use crate::rtmp::amf;
use crate::rtmp::chunk::{MessageHeader, kind};
use crate::spares::Spares;
use logs::open_logs;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use tasuki_shared::clock;
use tasuki_shared::id::{PushId, RungId, SessionId};
use tasuki_shared::memory::log::{
    EntryKind, HEADER_BYTES_MAX, HeaderKind, LogHeads, LogWriter, MappedLog, Reservation,
};
use tasuki_shared::memory::push::PushMemory;
use tasuki_shared::memory::session::WorkMark;
use tasuki_shared::message::{FromWorker, LiveLease, Notice};
use tasuki_shared::plan::{Plan, PushPlan};

/// Wakes the io thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// What a stream uses of the process that it is in.
#[derive(Clone)]
pub struct Host {
    pub wake: Wake,
    pub spares: Arc<Spares>,
}

/// What became of a media message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// To be counted.
    pub fault: Option<String>,
    pub due: Due,
}

/// When an output or the pipeline must have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Now,
    WithThePicture,
}

/// Did a push's state change, so that the record must say so?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pushes {
    AsRecorded,
    Changed,
}

/// What the record says of a stream, beside its connection.
pub struct Committed<'a> {
    pub source: LogHeads,
    pub pipeline: PipelineRecord,
    pub pushes: &'a [u8],
    pub recordings: &'a [u8],
    pub totals: &'a [u8],
}

/// What a preparation has of a stream before it is its owner's: its logs mapped, in the order of
/// the plan, and its pipeline following. Empty for a stream that was not prepared.
pub struct Warm {
    pub logs: Vec<MappedLog>,
    pub shadow: Option<Shadow>,
    /// Where the pipeline says what it works on.
    pub mark: WorkMark,
}

impl Warm {
    /// For a stream that was not prepared.
    #[must_use]
    pub fn new(mark: WorkMark) -> Self {
        Self { logs: Vec::new(), shadow: None, mark }
    }
}

/// One live stream.
pub struct Stream {
    pub plan: Plan,
    pub logs: Logs,
    pub pushes: Vec<Push>,
    pub(super) tracks: Tracks,
    pub(super) transcode: Transcode,
    pub(super) recordings: Vec<Recording>,
    pub(super) hls: Option<HlsOutput>,
    /// Which files are this stream's.
    series: SeriesId,
    pub(super) counts: report::Counts,
    /// When the last media message was complete.
    pub(super) last_media: Instant,
    /// Place of the newest picture on the timeline.
    newest_picture_ms: i64,
    end: End,
    pushes_state: Pushes,
}

impl Stream {
    /// Starts a stream from nothing with the fds of its verdict.
    pub fn start(
        plan: Plan,
        fds: Vec<OwnedFd>,
        mark: WorkMark,
        host: &Host,
        now: Instant,
    ) -> Result<Self, StreamError> {
        let heads = vec![LogHeads::empty(); plan.logs().len().saturating_sub(1)];
        let record = PipelineRecord { heads, ..PipelineRecord::default() };
        let source = LogHeads::empty();
        let mut stream = Self::assemble(plan, fds, source, record, Warm::new(mark), host, now)?;
        stream.recordings = Recording::start_all(&stream.plan, stream.series);
        stream.hls = HlsOutput::start(&stream.plan, stream.series, &host.wake);
        Ok(stream)
    }

    /// Goes on with a stream that another owner had, where its record says that it stopped.
    /// Origins' connections go on as well, and recordings go on in their files.
    pub fn resume(
        live: LiveLease,
        mut fds: Vec<OwnedFd>,
        committed: Committed<'_>,
        warm: Warm,
        host: &Host,
        now: Instant,
    ) -> Result<Self, StreamError> {
        let Committed { source, pipeline: record, pushes, recordings, totals } = committed;
        let LiveLease { plan, connected } = live;
        let memories = plan.logs().len() + plan.pushes.len();
        let (found, expected) = (fds.len(), memories + connected.len());
        if found != expected {
            return Err(StreamError::Fds { found, expected });
        }
        let sockets = fds.split_off(memories).into_iter().map(Connection::of);
        let mut connections: BTreeMap<PushId, Connection> =
            connected.into_iter().zip(sockets).collect();
        let mut stream = Self::assemble(plan, fds, source, record, warm, host, now)?;
        let ids = stream.logs.source.heads().headers;
        let video = stream.logs.source.header(HeaderKind::Video, ids.video);
        let audio = stream.logs.source.header(HeaderKind::Audio, ids.audio);
        stream.tracks.restore(video.as_deref(), audio.as_deref());
        stream.counts.totals = Totals::decode(totals)?;
        let mut take = Take::new("pushes", pushes);
        for push in &mut stream.pushes {
            let connection = connections.remove(&push.id());
            if pushes.is_empty() {
                push.begin_anew(connection);
            } else {
                push.resume(&mut take, connection, &stream.logs, now)?;
            }
        }
        take.end()?;
        if !recordings.is_empty() {
            let mut take = Take::new("recordings", recordings);
            stream.series = SeriesId(take.array()?);
            take.end()?;
        }
        stream.recordings = Recording::resume_all(&stream.plan, stream.series, &host.wake);
        stream.hls = HlsOutput::start(&stream.plan, stream.series, &host.wake);
        stream.set_feeds();
        Ok(stream)
    }

    fn assemble(
        plan: Plan,
        mut fds: Vec<OwnedFd>,
        source: LogHeads,
        record: PipelineRecord,
        warm: Warm,
        host: &Host,
        now: Instant,
    ) -> Result<Self, StreamError> {
        let kinds = plan.logs();
        let expected = kinds.len() + plan.pushes.len();
        if fds.len() < expected {
            return Err(StreamError::Fds { found: fds.len(), expected });
        }
        let push_fds = fds.split_off(kinds.len());
        let Warm { logs: mapped, shadow, mark } = warm;
        let (logs, source_fd) = open_logs(&plan, fds, mapped, source, &record.heads)?;
        let mut pushes = Vec::with_capacity(plan.pushes.len());
        for ((id, push), fd) in (0_u8..).zip(&plan.pushes).zip(&push_fds) {
            let feed = feed_of(&plan, push.rung, None);
            pushes.push(Push::new(PushId(id), push.clone(), feed, PushMemory::open(fd)?));
        }
        let (transcode, end) =
            Transcode::start(&plan, &source_fd, &logs, record, shadow, mark, host)?;
        Ok(Self {
            plan,
            logs,
            pushes,
            tracks: Tracks::default(),
            transcode,
            recordings: Vec::new(),
            hls: None,
            series: SeriesId::new(),
            counts: report::Counts::default(),
            last_media: now,
            newest_picture_ms: i64::MIN,
            end,
            pushes_state: Pushes::Changed,
        })
    }

    /// A complete media message, its body in `reservation`.
    pub fn take_media(
        &mut self,
        header: MessageHeader,
        reservation: Reservation,
        timeline: &mut Timeline,
        now: Instant,
    ) -> Taken {
        let body = self.logs.source.bytes(reservation.position, reservation.length);
        self.last_media = now;
        self.counts.received(header.length);
        let (track, judged) = if header.kind == kind::AUDIO {
            (Track::Audio, self.tracks.judge_audio(body))
        } else {
            (Track::Video, self.tracks.judge_video(body))
        };
        let (kind, cts_ms, fault) = match judged {
            Judged::Packet { kind, cts_ms, fault } => (kind, cts_ms, fault),
            Judged::Dropped(fault) => {
                return Taken { fault: Some(fault.to_owned()), due: Due::Now };
            }
            Judged::Ignored => return Taken { fault: None, due: Due::Now },
        };
        let mut due = Due::Now;
        let mark = clock::monotonic_us();
        let correction = if kind.is_header() {
            let dts_ms = timeline.head_ms().unwrap_or_else(|| i64::from(header.timestamp_ms));
            self.logs.source.append(reservation, kind, dts_ms, 0, mark);
            None
        } else {
            let stamped = timeline.stamp(track, header.timestamp_ms, cts_ms);
            let cts_ms = i32::try_from(stamped.pts_ms - stamped.dts_ms).unwrap_or(0);
            let entry = self.logs.source.append(reservation, kind, stamped.dts_ms, cts_ms, mark);
            if kind.is_video_frame() {
                self.counts.frame_in();
                self.newest_picture_ms = entry.dts_ms;
                if self.transcode.is_running() && self.plan.transcodes() {
                    self.counts.frame_due(entry.index, entry.dts_ms);
                }
            } else if sound_joins_picture(&entry, self.newest_picture_ms) {
                due = Due::WithThePicture;
            }
            stamped.correction
        };
        let correction = correction.map(|kind| kind.name().to_owned());
        Taken { fault: fault.map(str::to_owned).or(correction), due }
    }

    /// `onMetaData`: kept for the outputs and for the pipeline; room for it was made. Returns a
    /// fault to be counted.
    pub fn take_metadata(&mut self, payload: &[u8], timeline: &Timeline) -> Option<&'static str> {
        let body = amf::without_amf3_prefix(payload);
        if body.len() > HEADER_BYTES_MAX {
            return Some("metadata_too_long");
        }
        let source = &mut self.logs.source;
        let known = source.header(HeaderKind::Metadata, source.heads().headers.metadata);
        // Some publishers say the same again with each keyframe; that is no fault.
        if known.as_deref() == Some(body) {
            return None;
        }
        let dts_ms = timeline.head_ms().unwrap_or(0);
        let put = source.put(&[body], EntryKind::Metadata, dts_ms, 0, clock::monotonic_us());
        put.is_err().then_some("metadata_too_long")
    }

    /// Takes what the pipeline has ready. True when something must be committed.
    pub fn take_pipeline(&mut self, session: SessionId, outbox: &mut Outbox) -> bool {
        let given = self.transcode.take(&mut self.logs, &mut self.counts, session, outbox);
        if given == Given::Ladder {
            self.set_feeds();
        }
        given != Given::Nothing
    }

    /// The stream stays with this owner, whatever cut was looked for.
    pub fn forget_cut(&mut self) {
        self.transcode.forget_cut(&mut self.logs, &mut self.counts);
    }

    /// Overload, dials, deadlines.
    pub fn tick(&mut self, session: SessionId, now: Instant, outbox: &mut Outbox) {
        self.transcode.judge(&self.counts, session, now, outbox);
        let end = self.output_end();
        for push in &mut self.pushes {
            let id = push.id();
            if let Some(news) = push.tick(&self.logs, end, now) {
                self.pushes_state = Pushes::Changed;
                tell(news, session, id, outbox);
            }
        }
        let recordings = self.recordings.iter_mut().filter_map(Recording::news);
        let hls = self.hls.iter_mut().flat_map(HlsOutput::news);
        for notice in recordings.chain(hls) {
            outbox.push((FromWorker::Notice { session: Some(session), notice }, Vec::new()));
        }
    }

    /// Composes what the pushes send next.
    pub fn compose(&mut self) -> Composed {
        let end = self.output_end();
        let mut composed = match std::mem::replace(&mut self.pushes_state, Pushes::AsRecorded) {
            Pushes::AsRecorded => Composed::Nothing,
            Pushes::Changed => Composed::Changed,
        };
        for push in &mut self.pushes {
            composed = composed.max(push.compose(&self.logs, end));
        }
        composed
    }

    /// Feeds recordings and packager with what is committed: what is not does not exist for a
    /// successor, who would make it again.
    pub fn feed_files(&mut self) {
        let end = self.output_end();
        for recording in &mut self.recordings {
            recording.feed(&self.logs, end);
        }
        if let Some(hls) = &mut self.hls {
            hls.feed(&self.logs, end);
        }
    }

    /// Writes what is composed and committed.
    pub fn write_pushes(
        &mut self,
        session: SessionId,
        now: Instant,
        outbox: &mut Outbox,
    ) -> Progress {
        let mut progress = Progress::Done;
        for push in &mut self.pushes {
            let id = push.id();
            let (wrote, news) = push.write(&self.logs, now);
            if wrote == Wrote::Batch {
                progress = Progress::More;
            }
            if let Some(news) = news {
                self.pushes_state = Pushes::Changed;
                tell(news, session, id, outbox);
            }
        }
        progress
    }

    pub fn push_readable(
        &mut self,
        id: PushId,
        session: SessionId,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if let Some(push) = self.pushes.get_mut(usize::from(id.0))
            && let Some(news) = push.readable(now)
        {
            self.pushes_state = Pushes::Changed;
            tell(news, session, id, outbox);
        }
    }

    pub fn dialed(
        &mut self,
        id: PushId,
        outcome: Result<OwnedFd, String>,
        session: SessionId,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if let Some(push) = self.pushes.get_mut(usize::from(id.0))
            && let Some(news) = push.dialed(outcome, now)
        {
            self.pushes_state = Pushes::Changed;
            tell(news, session, id, outbox);
        }
    }

    /// No more packets come. What is there has been committed.
    pub fn over(&mut self) {
        self.end.at(self.logs.source.heads().index_head);
        self.logs.source.wake();
    }

    /// Everything has been written, or never will be.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        !self.transcode.is_running()
            && self.pushes.iter().all(Push::is_over)
            && self.recordings.iter().all(|recording| recording.is_fed(&self.logs))
            && self.hls.iter().all(|hls| hls.is_fed(&self.logs))
    }

    /// Has the pipeline of an adopted stream nothing more to make up for?
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.transcode.is_caught_up(&self.logs)
    }

    /// Are packets of this stream inside codecs now?
    #[must_use]
    pub fn is_processing(&self) -> bool {
        !self.transcode.awaits_begin()
            && (self.logs.pipeline == PipelineState::Busy || self.transcode.is_at_work(&self.logs))
    }

    /// Ends what is still open.
    pub fn abandon(&mut self, session: SessionId, outbox: &mut Outbox) {
        for push in &mut self.pushes {
            let id = push.id();
            if let Some(news) = push.abandon() {
                tell(news, session, id, outbox);
            }
        }
        self.transcode.abandon();
    }

    /// What is still to be done off the io thread for a stream that ends or goes on.
    pub fn take_leftovers(&mut self, found: &mut Vec<Leftover>) {
        found.extend(self.transcode.take_leftovers());
        if let (Some(path), Some(picture)) = (&self.plan.thumbnail, self.transcode.thumbnail.take())
        {
            found.push(thumbnail::write(path.clone(), picture));
        }
        if self.output_end() == StreamEnd::Over {
            let fed = self.recordings.iter_mut().filter(|recording| recording.is_fed(&self.logs));
            found.extend(fed.filter_map(Recording::finish));
            let fed = self.hls.as_mut().filter(|hls| hls.is_fed(&self.logs));
            found.extend(fed.and_then(HlsOutput::finish));
        }
    }

    /// Files whose end was not reached in time are finished with what they have.
    pub fn finish_files(&mut self) -> Vec<Leftover> {
        let recordings = self.recordings.iter_mut().filter_map(Recording::finish);
        let hls = self.hls.as_mut().and_then(HlsOutput::finish);
        let thumbnail = self.plan.thumbnail.take().map(thumbnail::remove);
        recordings.chain(hls).chain(thumbnail).collect()
    }

    /// Lets go of files for another owner.
    pub fn release_files(&mut self) -> Vec<Leftover> {
        let recordings = self.recordings.iter_mut().filter_map(Recording::release);
        recordings.chain(self.hls.as_mut().and_then(HlsOutput::release)).collect()
    }

    /// Push connections that are over, to be taken out of epoll and closed.
    pub fn take_closed(&mut self, found: &mut Vec<OwnedFd>) {
        for push in &mut self.pushes {
            found.append(&mut push.take_closed());
        }
    }

    pub fn publish_logs(&self) {
        self.logs.source.publish();
        if let Some(audio) = &self.logs.audio {
            audio.publish();
        }
        let decisions = self.transcode.ladder.iter().flat_map(|ladder| &ladder.rungs);
        for (rung, decision) in self.logs.rungs.iter().zip(decisions) {
            if let Some(rung) = rung {
                rung.tell_rung(rung_state(decision));
            }
        }
        for rung in self.logs.rungs.iter().flatten() {
            rung.publish();
        }
    }

    pub fn encode_pipeline(&self, into: &mut Vec<u8>) {
        let logs = self.logs.audio.iter().chain(self.logs.rungs.iter().flatten());
        self.transcode.record(logs.map(LogWriter::heads).collect()).encode(into);
    }

    pub fn encode_pushes(&self, into: &mut Vec<u8>) {
        for push in &self.pushes {
            push.encode(into);
        }
    }

    pub fn encode_recordings(&self, into: &mut Vec<u8>) {
        into.extend(self.series.0);
    }

    /// How far the pipeline is behind the publisher, in stream time.
    #[must_use]
    pub fn lag_ms(&self) -> u64 {
        if self.transcode.is_running() && self.plan.transcodes() { self.counts.lag_ms() } else { 0 }
    }

    fn output_end(&self) -> StreamEnd {
        if self.end.is_set() && !self.transcode.is_running() {
            StreamEnd::Over
        } else {
            StreamEnd::Going
        }
    }

    /// Each output reads what the ladder says its rung is.
    fn set_feeds(&mut self) {
        let Self { plan, pushes, recordings, hls, transcode, .. } = self;
        let decision = |rung: RungId| {
            transcode.ladder.as_ref().and_then(|ladder| ladder.rungs.get(usize::from(rung.0)))
        };
        for push in pushes {
            let rung = push.plan().rung;
            push.feed_from(feed_of(plan, rung, decision(rung)));
        }
        for recording in recordings {
            let rung = recording.rung();
            recording.feed_from(feed_of(plan, rung, decision(rung)));
        }
        if let Some(hls) = hls {
            hls.set_feeds(|rung| feed_of(plan, rung, decision(rung)));
        }
    }
}

/// Where a push goes, without its stream name, which may be a secret.
#[must_use]
pub fn destination(push: &PushPlan) -> String {
    format!("rtmp://{}:{}/{}", push.host, push.port, push.app)
}

fn tell(news: PushNews, session: SessionId, push: PushId, outbox: &mut Outbox) {
    let said = match news {
        PushNews::WantsDial => FromWorker::Dial { session, push },
        PushNews::Live => {
            let notice = Notice::PushLive { push };
            FromWorker::Notice { session: Some(session), notice }
        }
        PushNews::Closed(reason) => {
            if let Some(reason) = reason {
                let notice = Notice::PushLost { push, reason };
                outbox.push((FromWorker::Notice { session: Some(session), notice }, Vec::new()));
            }
            FromWorker::PushClosed { session, push }
        }
    };
    outbox.push((said, Vec::new()));
}
