//! What a live session has beside its connection: logs, tracks, pipeline, outputs.
//!
//! The io thread owns it and is the only writer of its logs. Whatever the pipeline gives for one
//! source frame goes into all rung logs at once, so the rungs advance frame by frame together.

use super::record::Put;
use super::source::{End, LogSource};
use super::tracks::{Judged, Tracks};
use super::{Outbox, Progress, report};
use crate::ladder::RungDecision;
use crate::media::packet::IsIdr;
use crate::media::tag::{self, FlvKeyframe, WrittenAudio, WrittenVideo};
use crate::media::timeline::{Timeline, Track};
use crate::output::cursor::{Feed, LogName, Logs, StreamEnd};
use crate::output::push::{Push, PushNews, Wrote};
use crate::output::recording::Recording;
use crate::pipeline::{
    CutFrame, Declared, EncodedAudio, EncodedPicture, LadderState, Pipeline, PipelineError,
    PipelineEvent, PipelineOutput, PipelineSpec, SkipReason, Start,
};
use crate::rtmp::amf;
use crate::rtmp::chunk::{MessageHeader, kind};
use crate::rtmp::command::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tasuki_shared::clock;
use tasuki_shared::id::{PushId, RungId, SessionId};
use tasuki_shared::memory::MemoryError;
use tasuki_shared::memory::log::{EntryKind, LogError, LogHeads, LogWriter, Reservation};
use tasuki_shared::memory::push::PushMemory;
use tasuki_shared::message::{FromWorker, LiveLease, Notice};
use tasuki_shared::plan::{AudioPlan, LogKind, Plan, PushPlan, RungKind};

/// Wakes the io thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Outputs of the pipeline taken in one wake-up; then the others have their turn.
const PIPELINE_ROUNDS_MAX: usize = 256;

/// Why a stream cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("{found} fds came with the plan, {expected} are needed")]
    Fds { found: usize, expected: usize },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("the pipeline cannot start: {0}")]
    Pipeline(#[from] PipelineError),
}

enum Transcode {
    /// Nothing of the plan needs a codec.
    None,
    Running(Pipeline),
    /// It has given everything, or failed.
    Done,
}

/// One live stream.
pub struct Stream {
    pub plan: Plan,
    pub logs: Logs,
    pub pushes: Vec<Push>,
    pub(super) tracks: Tracks,
    pub(super) ladder: Option<LadderState>,
    pub(super) recordings: Vec<Recording>,
    pub(super) counts: report::Counts,
    pub(super) overload: super::overload::Overload,
    transcode: Transcode,
    end: End,
    lapped: Arc<AtomicU64>,
    declared: Declared,
    last_frame: Option<CutFrame>,
    audio_next_pts_samples: i64,
    audio_config: Vec<u8>,
}

impl Stream {
    /// Starts a stream from nothing with the fds of its verdict.
    pub fn start(plan: Plan, fds: Vec<OwnedFd>, wake: &Wake) -> Result<Self, StreamError> {
        let heads = vec![LogHeads::empty(); plan.logs().len()];
        Self::assemble(plan, fds, &heads, 0, wake)
    }

    /// Goes on with a stream that another owner had; `heads` are those of the plan's logs.
    pub fn resume(
        live: LiveLease,
        fds: Vec<OwnedFd>,
        heads: &[LogHeads],
        wake: &Wake,
    ) -> Result<Self, StreamError> {
        let first = heads.first().map_or(0, |source| source.keyframe.unwrap_or(source.index_head));
        let mut stream = Self::assemble(live.plan, fds, heads, first, wake)?;
        let logs = &stream.logs.source;
        let ids = logs.heads().headers;
        stream.tracks.restore(logs.header(ids.video).as_deref(), logs.header(ids.audio).as_deref());
        Ok(stream)
    }

    fn assemble(
        plan: Plan,
        mut fds: Vec<OwnedFd>,
        heads: &[LogHeads],
        first: u64,
        wake: &Wake,
    ) -> Result<Self, StreamError> {
        let kinds = plan.logs();
        let expected = kinds.len() + plan.pushes.len();
        if fds.len() < expected {
            return Err(StreamError::Fds { found: fds.len(), expected });
        }
        let push_fds = fds.split_off(kinds.len());
        let mut source = None;
        let mut audio = None;
        let mut rungs: Vec<Option<LogWriter>> = plan.rungs.iter().map(|_| None).collect();
        for (((kind, _), fd), heads) in kinds.iter().zip(&fds).zip(heads) {
            let log = LogWriter::resume(fd, *heads)?;
            match *kind {
                LogKind::Source => source = Some(log),
                LogKind::Audio => audio = Some(log),
                LogKind::Rung(RungId(rung)) => rungs[usize::from(rung)] = Some(log),
            }
        }
        let (Some(source), Some(source_fd)) = (source, fds.first()) else {
            return Err(StreamError::Fds { found: 0, expected });
        };
        let logs = Logs { source, audio, rungs };
        let mut pushes = Vec::with_capacity(plan.pushes.len());
        for ((id, push), fd) in (0_u8..).zip(&plan.pushes).zip(&push_fds) {
            let feed = feed_of(&plan, push.rung);
            pushes.push(Push::new(PushId(id), push.clone(), feed, PushMemory::open(fd)?));
        }
        let end = End::open();
        let lapped = Arc::new(AtomicU64::new(0));
        let recordings = Recording::start_all(&plan);
        let mut stream = Self {
            plan,
            logs,
            pushes,
            tracks: Tracks::default(),
            ladder: None,
            recordings,
            counts: report::Counts::default(),
            overload: super::overload::Overload::new(),
            transcode: Transcode::None,
            end,
            lapped,
            declared: Declared::default(),
            last_frame: None,
            audio_next_pts_samples: 0,
            audio_config: Vec::new(),
        };
        if stream.plan.transcodes() || matches!(stream.plan.audio, AudioPlan::Aac { .. }) {
            stream.start_pipeline(source_fd, first, wake)?;
        }
        Ok(stream)
    }

    fn start_pipeline(
        &mut self,
        source: &impl AsFd,
        first: u64,
        wake: &Wake,
    ) -> Result<(), StreamError> {
        let packets = LogSource::open(source, first, self.end.clone(), Arc::clone(&self.lapped))?;
        let spec = PipelineSpec {
            rungs: self.plan.rungs.clone(),
            audio: self.plan.audio,
            blur: self.plan.blur.clone(),
            limits: self.plan.limits,
            declared: self.declared,
            start: Start::Fresh,
        };
        let pipeline = Pipeline::start(spec, Box::new(packets), Arc::clone(wake))?;
        self.transcode = Transcode::Running(pipeline);
        Ok(())
    }

    /// A complete media message, its body in `reservation`. Returns a fault to be counted.
    pub fn take_media(
        &mut self,
        header: MessageHeader,
        reservation: Reservation,
        timeline: &mut Timeline,
        now: Instant,
    ) -> Option<String> {
        let body = self.logs.source.bytes(reservation.position, reservation.length);
        self.counts.received(header.length, now);
        let (track, judged) = if header.kind == kind::AUDIO {
            (Track::Audio, self.tracks.judge_audio(body))
        } else {
            (Track::Video, self.tracks.judge_video(body))
        };
        let (kind, cts_ms, fault) = match judged {
            Judged::Packet { kind, cts_ms, fault } => (kind, cts_ms, fault),
            Judged::Dropped(fault) => return Some(fault.to_owned()),
            Judged::Ignored => return None,
        };
        let mark = clock::monotonic_us();
        let correction = if kind.is_header() {
            let dts_ms = timeline.head_ms().unwrap_or_else(|| i64::from(header.timestamp_ms));
            self.logs.source.append(reservation, kind, dts_ms, 0, mark);
            None
        } else {
            let stamped = timeline.stamp(track, header.timestamp_ms, cts_ms);
            let cts_ms = i32::try_from(stamped.pts_ms - stamped.dts_ms).unwrap_or(0);
            let dts_ms = stamped.dts_ms;
            let entry = self.logs.source.append(reservation, kind, dts_ms, cts_ms, mark);
            if track == Track::Video {
                self.counts.frame_in(entry.index, dts_ms);
            }
            stamped.correction
        };
        fault.map(str::to_owned).or_else(|| correction.map(|kind| kind.name().to_owned()))
    }

    /// `onMetaData`: kept for the outputs and believed where the stream itself says nothing.
    pub fn take_metadata(&mut self, metadata: Metadata, payload: &[u8], timeline: &Timeline) {
        self.declared = Declared {
            fps: metadata.frame_rate.filter(|fps| fps.is_finite() && *fps > 0.0),
            video_bitrate_bps: metadata.video_kbps.and_then(bits_of_kbps),
        };
        let dts_ms = timeline.head_ms().unwrap_or(0);
        let body = amf::without_amf3_prefix(payload);
        self.put(LogName::Source, &[body], EntryKind::Metadata, dts_ms, 0);
    }

    /// Takes what the pipeline has ready. True when something must be committed.
    pub fn take_pipeline(&mut self, session: SessionId, outbox: &mut Outbox) -> bool {
        let mut any = false;
        for _ in 0..PIPELINE_ROUNDS_MAX {
            let Transcode::Running(pipeline) = &self.transcode else { return any };
            let Some(output) = pipeline.poll() else { return any };
            any = true;
            self.take_output(output, session, outbox);
        }
        any
    }

    fn take_output(&mut self, output: PipelineOutput, session: SessionId, outbox: &mut Outbox) {
        match output {
            PipelineOutput::Ladder(ladder) => self.take_ladder(ladder),
            PipelineOutput::Header { rung, avcc, width, height } => {
                self.take_header(rung, &avcc, width, height);
            }
            PipelineOutput::Frame(picture) => self.take_picture(picture),
            PipelineOutput::AudioHeader { asc } => {
                let head = tag::audio_tag_header(WrittenAudio::SequenceHeader);
                self.put(LogName::Audio, &[&head, &asc], EntryKind::AudioHeader, 0, 0);
                self.audio_config = asc;
            }
            PipelineOutput::Audio(audio) => self.take_audio(&audio),
            PipelineOutput::Skipped { source_index, reason } => {
                self.counts.skipped(source_index, reason);
            }
            PipelineOutput::Event(event) => self.take_event(&event, session, outbox),
        }
    }

    fn take_ladder(&mut self, ladder: LadderState) {
        for push in &mut self.pushes {
            let decision = ladder.rungs.get(usize::from(push.plan().rung.0));
            if matches!(decision, Some(RungDecision::Passing(_))) {
                push.feed_from(Feed::Source);
            }
        }
        for recording in &mut self.recordings {
            let decision = ladder.rungs.get(usize::from(recording.rung().0));
            if matches!(decision, Some(RungDecision::Passing(_))) {
                recording.feed_from(Feed::Source);
            }
        }
        self.ladder = Some(ladder);
    }

    fn take_header(&mut self, rung: RungId, avcc: &[u8], width: u32, height: u32) {
        let fps = self.ladder.as_ref().map_or(0.0, |ladder| ladder.frame_rate.as_f64());
        let metadata = metadata_of(width, height, fps, self.plan.audio);
        let log = LogName::Rung(rung);
        self.put(log, &[&metadata], EntryKind::Metadata, 0, 0);
        let head = tag::video_tag_header(WrittenVideo::SequenceHeader);
        self.put(log, &[&head, avcc], EntryKind::VideoHeader, 0, 0);
    }

    fn take_picture(&mut self, picture: EncodedPicture) {
        let EncodedPicture { source_index, pts_ms, keyframe: _, rungs } = picture;
        for (rung, frame) in &rungs {
            let (keyframe, kind) = match frame.idr {
                IsIdr::Idr => (FlvKeyframe::Key, EntryKind::VideoIdr),
                IsIdr::Other => (FlvKeyframe::Inter, EntryKind::VideoInter),
            };
            let what = WrittenVideo::Frame { keyframe, cts_ms: 0 };
            let head = tag::video_tag_header(what);
            self.put(LogName::Rung(*rung), &[&head, &frame.payload], kind, pts_ms, source_index);
            self.counts.rung_frame(*rung, frame.payload.len());
        }
        self.counts.frame_out(source_index);
        self.last_frame = Some(CutFrame { source_index, pts_ms });
    }

    fn take_audio(&mut self, audio: &EncodedAudio) {
        let head = tag::audio_tag_header(WrittenAudio::Frame);
        let (dts_ms, mark) = (audio.pts_ms, audio.source_index);
        self.put(LogName::Audio, &[&head, &audio.payload], EntryKind::Audio, dts_ms, mark);
        self.audio_next_pts_samples = audio.pts_samples + 1024;
    }

    fn take_event(&mut self, event: &PipelineEvent, session: SessionId, outbox: &mut Outbox) {
        self.counts.event(event);
        if matches!(event, PipelineEvent::Ended | PipelineEvent::Failed) {
            self.transcode = Transcode::Done;
        }
        let worth_telling = matches!(
            event,
            PipelineEvent::VideoRefused(_)
                | PipelineEvent::RungFailed { .. }
                | PipelineEvent::RungLost { .. }
                | PipelineEvent::SourceSizeChanged { .. }
                | PipelineEvent::Failed
        );
        if worth_telling {
            let notice = Notice::Pipeline { event: format!("{event:?}") };
            outbox.push((FromWorker::Notice { session: Some(session), notice }, Vec::new()));
        }
    }

    /// Lag and overload, dials, deadlines.
    pub fn tick(&mut self, session: SessionId, now: Instant, outbox: &mut Outbox) {
        let lag_ms = self.lag_ms();
        if let Transcode::Running(pipeline) = &self.transcode {
            let encoded =
                self.plan.rungs.iter().filter(|rung| rung.kind != RungKind::Source).count();
            if let Some(order) = self.overload.judge(lag_ms, encoded, now) {
                pipeline.set_overload(order.pipeline());
                if let Some(notice) = order.notice(lag_ms, self.counts.dropped_by_overload()) {
                    let session = Some(session);
                    outbox.push((FromWorker::Notice { session, notice }, Vec::new()));
                }
            }
        }
        let end = self.output_end();
        for push in &mut self.pushes {
            let id = push.id();
            if let Some(news) = push.tick(&self.logs, end, now) {
                tell(news, session, id, outbox);
            }
        }
        for recording in &mut self.recordings {
            if let Some(notice) = recording.news() {
                outbox.push((FromWorker::Notice { session: Some(session), notice }, Vec::new()));
            }
        }
    }

    /// Composes what the pushes send next, feeds the recordings. True when a batch is new.
    pub fn compose(&mut self, end: StreamEnd) -> bool {
        let mut any = false;
        for push in &mut self.pushes {
            any |= push.compose(&self.logs, end);
        }
        for recording in &mut self.recordings {
            recording.feed(&self.logs, end);
        }
        any
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
            tell(news, session, id, outbox);
        }
    }

    /// No more packets come.
    pub fn over(&mut self) {
        self.end.at(self.logs.source.heads().index_head);
        self.logs.source.publish();
    }

    #[must_use]
    pub fn pipeline_is_done(&self) -> bool {
        matches!(self.transcode, Transcode::None | Transcode::Done)
    }

    /// Everything has been written, or never will be.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.pipeline_is_done() && self.pushes.iter().all(Push::is_over)
    }

    /// Ends what is still open.
    pub fn abandon(&mut self, session: SessionId, outbox: &mut Outbox) {
        for push in &mut self.pushes {
            let id = push.id();
            if let Some(news) = push.abandon() {
                tell(news, session, id, outbox);
            }
        }
        self.recordings.clear();
        if let Transcode::Running(pipeline) =
            std::mem::replace(&mut self.transcode, Transcode::Done)
        {
            let _left_behind_threads_end_with_the_worker = pipeline.stop();
        }
    }

    /// Push connections that are over, to be taken out of epoll and closed.
    pub fn take_closed(&mut self) -> Vec<OwnedFd> {
        self.pushes.iter_mut().flat_map(Push::take_closed).collect()
    }

    pub fn publish_logs(&self) {
        self.logs.source.publish();
        if let Some(audio) = &self.logs.audio {
            audio.publish();
        }
        for rung in self.logs.rungs.iter().flatten() {
            rung.publish();
        }
    }

    pub fn encode_pipeline(&self, into: &mut Vec<u8>) {
        let last = self.last_frame.unwrap_or(CutFrame { source_index: u64::MAX, pts_ms: 0 });
        into.put_u64(last.source_index);
        into.put_u64(last.pts_ms.cast_unsigned());
        into.put_u64(self.audio_next_pts_samples.cast_unsigned());
        if let Some(audio) = &self.logs.audio {
            audio.heads().encode(into);
        }
        for rung in self.logs.rungs.iter().flatten() {
            rung.heads().encode(into);
        }
    }

    pub fn encode_pushes(&self, into: &mut Vec<u8>) {
        for push in &self.pushes {
            push.encode(into);
        }
    }

    /// How far the pipeline is behind the publisher, in stream time.
    #[must_use]
    pub fn lag_ms(&self) -> u64 {
        match self.transcode {
            Transcode::Running(_) if self.plan.transcodes() => self.counts.lag_ms(),
            Transcode::Running(_) | Transcode::None | Transcode::Done => 0,
        }
    }

    #[must_use]
    pub fn lapped(&self) -> u64 {
        self.lapped.load(Ordering::Relaxed)
    }

    fn output_end(&self) -> StreamEnd {
        if self.end.is_set() && self.pipeline_is_done() {
            StreamEnd::Over
        } else {
            StreamEnd::Going
        }
    }

    /// Puts a packet into a log; one that is too large for its log is lost by name.
    fn put(&mut self, log: LogName, parts: &[&[u8]], kind: EntryKind, dts_ms: i64, mark: u64) {
        let log = match log {
            LogName::Source => Some(&mut self.logs.source),
            LogName::Audio => self.logs.audio.as_mut(),
            LogName::Rung(RungId(rung)) => {
                self.logs.rungs.get_mut(usize::from(rung)).and_then(Option::as_mut)
            }
        };
        let Some(log) = log else { return };
        match log.put(parts, kind, dts_ms, 0, mark) {
            Ok(_) => {}
            Err(LogError::TooLong { .. } | LogError::OpenTooLarge { .. }) => {
                self.counts.too_large += 1;
            }
        }
    }
}

/// What a rung's outputs read.
#[must_use]
pub fn feed_of(plan: &Plan, rung: RungId) -> Feed {
    match plan.rung(rung).map(|rung| &rung.kind) {
        None | Some(RungKind::Source) => Feed::Source,
        Some(RungKind::Encoded(_)) => {
            let audio = match plan.audio {
                AudioPlan::Copy => Some(LogName::Source),
                AudioPlan::Aac { .. } => Some(LogName::Audio),
                AudioPlan::None => None,
            };
            Feed::Merged { video: LogName::Rung(rung), audio }
        }
    }
}

/// Where a push goes, without its stream name, which may be a secret.
#[must_use]
pub fn destination(push: &PushPlan) -> String {
    format!("rtmp://{}:{}/{}", push.host, push.port, push.app)
}

/// Counts as dropped because the pipeline was behind.
#[must_use]
pub fn is_overload(reason: SkipReason) -> bool {
    reason == SkipReason::Overload
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

fn metadata_of(width: u32, height: u32, fps: f64, audio: AudioPlan) -> Vec<u8> {
    amf::Writer::new()
        .string("@setDataFrame")
        .string("onMetaData")
        .object(|w| {
            let w = w
                .name("width")
                .number(f64::from(width))
                .name("height")
                .number(f64::from(height))
                .name("framerate")
                .number(fps)
                .name("videocodecid")
                .number(7.0);
            let w = match audio {
                AudioPlan::None => w,
                AudioPlan::Copy | AudioPlan::Aac { .. } => w.name("audiocodecid").number(10.0),
            };
            w.name("encoder").string("Tasuki")
        })
        .finish()
}

fn bits_of_kbps(kbps: f64) -> Option<u64> {
    let bps = kbps * 1_000.0;
    (bps.is_finite() && (1.0..1e12).contains(&bps)).then(|| format!("{bps:.0}").parse().ok())?
}
