//! A stream's pipeline as its owner has it: what it gives goes into the logs.
//!
//! Whatever it gives for one source frame goes into all rung logs at once, so the rungs advance
//! frame by frame together. What it was made from is in the commit record, so that another owner
//! goes on with the very next frame.

mod work;

use super::overload::Overload;
use super::pipeline_record::PipelineRecord;
use super::replay::Replayed;
use super::report::Counts;
use super::shadow::Shadow;
use super::source::{End, First, LogSource, Reading};
use super::stream::{Host, StreamError};
use super::{Outbox, anchor, report};
use crate::ladder::RungDecision;
use crate::leftovers::Leftover;
use crate::media::packet::IsIdr;
use crate::media::tag::{self, FlvKeyframe, WrittenAudio, WrittenVideo};
use crate::output::cursor::{LogName, Logs, PipelineState};
use crate::pipeline::bucket::{RateBucket, RateLevel};
use crate::pipeline::{
    AudioResume, Cut, CutFrame, Declared, EncodedAudio, EncodedPicture, Follow, LadderState,
    Pipeline, PipelineEvent, PipelineOutput, PipelineSpec, SkipReason, Start, Thumbnail,
    Thumbnails, WarmUp,
};
use crate::rtmp::amf;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;
use tasuki_shared::clock;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::id::{RungId, SessionId};
use tasuki_shared::limits::IDR_ROOM_WAIT_MAX;
use tasuki_shared::memory::log::{EntryKind, LogHeads};
use tasuki_shared::memory::session::WorkMark;
use tasuki_shared::message::{FromWorker, Notice};
use tasuki_shared::plan::{AudioPlan, Plan, RungKind};

/// Outputs of the pipeline taken in one wake-up; then the others have their turn.
const ROUNDS_MAX: usize = 256;

enum State {
    /// Nothing of the plan needs a codec.
    None,
    Running(Pipeline),
    /// It has given everything, or failed.
    Done,
}

/// See the module.
pub struct Transcode {
    state: State,
    pub(super) ladder: Option<LadderState>,
    pub(super) overload: Overload,
    audio_plan: AudioPlan,
    last_frame: Option<CutFrame>,
    audio: Option<AudioResume>,
    rates: BTreeMap<RungId, RateBucket>,
    reading: Arc<Reading>,
    /// Pipelines that ended and whose threads are still to be joined.
    ended: Vec<Pipeline>,
    /// A follower that could not be gone on with.
    stale: Option<Shadow>,
    /// Not taken yet.
    pub(super) thumbnail: Option<Thumbnail>,
    cut_wish: CutWish,
    seam: Seam,
}

/// What this owner has given since it took the stream over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seam {
    /// It began the stream, or goes on with it.
    Behind,
    /// Nothing yet.
    Ahead {
        /// Lost with the first frame that is, for a decoder of the last owner had them.
        owed: u64,
        lost: u64,
    },
}

/// Is the stream to be handed over before its next IDR?
enum CutWish {
    None,
    /// Before the first IDR from then on. Without an anchor only the source's own keyframe will do,
    /// and at once.
    AtIdr {
        from: Instant,
    },
    /// It stands there: the next picture would be an IDR, and is the next owner's. It is kept for
    /// the case that the session stays.
    Reached {
        next: Option<Box<EncodedPicture>>,
    },
}

/// What others must know of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    Nothing,
    Something,
    /// Also a new ladder.
    Ladder,
}

impl Transcode {
    /// Starts the pipeline that the plan needs, if any; or goes on with the one that followed the
    /// last owner, if it can. One that is to begin where `record` says that the last owner stopped
    /// awaits its [`Transcode::begin`].
    pub fn start(
        plan: &Plan,
        source: &impl AsFd,
        logs: &Logs,
        record: PipelineRecord,
        shadow: Option<Shadow>,
        mark: WorkMark,
        host: &Host,
    ) -> Result<(Self, End), StreamError> {
        let PipelineRecord { last_frame, audio, ladder, rates, heads: _ } = record;
        let mut transcode = Self {
            state: State::None,
            ladder,
            overload: Overload::new(),
            audio_plan: plan.audio,
            last_frame,
            audio,
            rates: rate_buckets(plan, &rates),
            reading: Arc::new(Reading::default()),
            ended: Vec::new(),
            cut_wish: CutWish::None,
            stale: None,
            thumbnail: None,
            seam: Seam::Behind,
        };
        if let (Some(last), true) = (last_frame, plan.transcodes()) {
            let entry = |index| logs.source.entry(index);
            let anchored = anchor::of(last, entry).is_some();
            let owed = if anchored { 0 } else { anchor::owed(last, entry) };
            transcode.seam = Seam::Ahead { owed, lost: 0 };
        }
        if transcode.last_frame.is_some() {
            // What arrived while nobody owned the stream is a backlog.
            let _nothing_yet = transcode.overload.judge(0, 0, clock::now());
        }
        if let Some(shadow) = shadow {
            if shadow.fits(transcode.ladder.as_ref()) {
                let (pipeline, reading, end) = shadow.go_live(transcode.cut());
                reading.mark(mark);
                (transcode.state, transcode.reading) = (State::Running(pipeline), reading);
                // The follower may wait for the next packet, and has orders to look at.
                logs.source.wake();
                return Ok((transcode, end));
            }
            transcode.stale = Some(shadow);
        }
        let end = End::open();
        transcode.reading.mark(mark);
        if plan.transcodes() || matches!(plan.audio, AudioPlan::Aac { .. }) {
            let pipeline = transcode.open(plan, source, logs, &end, host)?;
            transcode.state = State::Running(pipeline);
        }
        Ok((transcode, end))
    }

    /// Where the pipeline of the next owner begins to count.
    fn cut(&self) -> Cut {
        let rates = self.rates.iter();
        Cut {
            after: self.last_frame,
            vbv_init: rates.map(|(rung, bucket)| (*rung, bucket.fullness())).collect(),
            audio_next_pts_samples: self.audio.map(|audio| audio.next_pts_samples),
        }
    }

    fn open(
        &self,
        plan: &Plan,
        source: &impl AsFd,
        logs: &Logs,
        end: &End,
        host: &Host,
    ) -> Result<Pipeline, StreamError> {
        let heads = logs.source.heads();
        let fresh = self.last_frame.is_none() && self.audio.is_none();
        // Decoding starts at the IDR that the frame after the last one needs.
        let video = match self.last_frame {
            None => heads.keyframe.filter(|_| !fresh),
            // Without it, each packet behind the last frame is read, and skipped by name.
            Some(last) => anchor::of(last, |index| logs.source.entry(index))
                .or_else(|| Some(logs.source.oldest(last.source_index + 1))),
        };
        let first = if fresh {
            First { video: 0, audio: 0 }
        } else {
            let video = video.unwrap_or(heads.index_head);
            First { video, audio: self.audio.map_or(video, |audio| audio.source_index) }
        };
        let packets = LogSource::open(source, first, end.clone(), Arc::clone(&self.reading))?
            .after(self.last_frame.map(|frame| frame.source_index));
        let cut = self.cut();
        let start = if fresh {
            Start::Fresh
        } else {
            Start::Follow(Follow {
                ladder: self.ladder.clone(),
                vbv_init: cut.vbv_init.clone(),
                warm_up: WarmUp::DecodeOnly,
                audio: self.audio,
            })
        };
        let spec = PipelineSpec {
            rungs: plan.rungs.clone(),
            audio: plan.audio,
            blur: plan.blur.clone(),
            thumbnails: Thumbnails::of(plan),
            limits: plan.limits,
            // The source log brings it.
            declared: Declared::default(),
            start,
            spares: Arc::clone(&host.spares),
        };
        if fresh {
            return Ok(Pipeline::start(spec, Box::new(packets), Arc::clone(&host.wake))?);
        }
        let pipeline = Pipeline::prepare(spec, Box::new(packets), Arc::clone(&host.wake))?;
        pipeline.go_live(cut);
        Ok(pipeline)
    }

    /// Takes what is ready into the logs.
    pub fn take(
        &mut self,
        logs: &mut Logs,
        counts: &mut Counts,
        session: SessionId,
        outbox: &mut Outbox,
    ) -> Given {
        let mut given = Given::Nothing;
        for _ in 0..ROUNDS_MAX {
            let State::Running(pipeline) = &self.state else { break };
            if self.is_at_cut() {
                break;
            }
            let Some(output) = pipeline.poll() else { break };
            if given == Given::Nothing {
                given = Given::Something;
            }
            match output {
                PipelineOutput::Ladder(ladder) => {
                    self.ladder = Some(ladder);
                    given = Given::Ladder;
                }
                PipelineOutput::Header { rung, avcc, width, height } => {
                    self.take_header(logs, counts, rung, &avcc, width, height);
                }
                PipelineOutput::Frame(picture) => {
                    if self.is_cut_before(&picture, logs) {
                        // This picture is the next owner's, who encodes it anew.
                        self.cut_wish = CutWish::Reached { next: Some(Box::new(picture)) };
                        break;
                    }
                    self.take_picture(logs, counts, picture);
                }
                PipelineOutput::Codecs(needs) => {
                    outbox.push((FromWorker::Codecs { session, needs }, Vec::new()));
                }
                PipelineOutput::AudioHeader { asc } => {
                    let head = tag::audio_tag_header(WrittenAudio::SequenceHeader);
                    let parts: [&[u8]; 2] = [&head, &asc];
                    put(logs, counts, LogName::Audio, &parts, EntryKind::AudioHeader, 0, 0);
                }
                PipelineOutput::Audio(audio) => self.take_audio(logs, counts, &audio),
                PipelineOutput::Thumbnail(picture) => self.thumbnail = Some(picture),
                PipelineOutput::Skipped { source_index, reason } => {
                    counts.skipped(source_index, reason);
                    if reason == SkipReason::NoKeyframeYet {
                        self.lose(1, counts, session, outbox);
                    }
                }
                PipelineOutput::Event(event) => {
                    self.take_event(&event, logs, counts, session, outbox);
                }
            }
        }
        logs.pipeline = match self.state {
            State::Running(_) if counts.has_pictures_inside() => PipelineState::Busy,
            State::Running(_) | State::None | State::Done => PipelineState::Empty,
        };
        given
    }

    /// Stops before the first IDR that comes at `from` or later; a stream without a pipeline has
    /// no seam and stands at once.
    pub fn cut_at_idr(&mut self, from: Instant) {
        self.cut_wish = match self.state {
            State::Running(_) if self.ladder.as_ref().is_some_and(LadderState::encodes) => {
                CutWish::AtIdr { from }
            }
            State::Running(_) | State::None | State::Done => CutWish::Reached { next: None },
        };
    }

    fn is_cut_before(&self, picture: &EncodedPicture, logs: &Logs) -> bool {
        let CutWish::AtIdr { from } = self.cut_wish else { return false };
        let entry = |index| logs.source.entry(index);
        picture.keyframe == IsIdr::Idr
            && match self.last_frame.and_then(|last| anchor::of(last, entry)) {
                Some(_) => clock::now() >= from,
                None => anchor::is_keyframe(picture.source_index, entry),
            }
    }

    /// The session stays: goes on with what was held back.
    pub fn forget_cut(&mut self, logs: &mut Logs, counts: &mut Counts) {
        match std::mem::replace(&mut self.cut_wish, CutWish::None) {
            CutWish::Reached { next: Some(picture) } => self.take_picture(logs, counts, *picture),
            CutWish::Reached { next: None } | CutWish::AtIdr { .. } | CutWish::None => {}
        }
    }

    /// Does it stand where it can be handed over?
    #[must_use]
    pub fn is_at_cut(&self) -> bool {
        matches!(self.cut_wish, CutWish::Reached { .. })
    }

    /// Can the next owner decode the frame after the last one given?
    #[must_use]
    pub fn has_anchor(&self, logs: &Logs) -> bool {
        match (&self.state, self.last_frame) {
            (State::Running(_), Some(last))
                if self.ladder.as_ref().is_some_and(LadderState::encodes) =>
            {
                let entry = |index| logs.source.entry(index);
                let next_is_keyframe = match &self.cut_wish {
                    CutWish::Reached { next: Some(next) } => {
                        anchor::is_keyframe(next.source_index, entry)
                    }
                    CutWish::Reached { next: None } | CutWish::AtIdr { .. } | CutWish::None => {
                        false
                    }
                };
                next_is_keyframe || anchor::of(last, entry).is_some()
            }
            (State::Running(_) | State::None | State::Done, _) => true,
        }
    }

    /// Does one more IDR now leave enough bits for the pictures behind it? It does where the last
    /// one of each rung is a while ago, or its rate buffer is far from empty.
    #[must_use]
    pub fn has_room_for_idr(&self, logs: &Logs) -> bool {
        self.rates.iter().all(|(rung, bucket)| {
            let log = logs.get(LogName::Rung(*rung));
            let (Some(idr), Some(last)) =
                (log.and_then(|log| log.entry(log.heads().keyframe?)), self.last_frame)
            else {
                return true;
            };
            let since_ms = last.pts_ms.saturating_sub(idr.dts_ms);
            u128::from(since_ms.unsigned_abs()) >= IDR_ROOM_WAIT_MAX.as_millis()
                || bucket.affords(idr.length)
        })
    }

    /// Frames received and not given that the next owner cannot decode either, were it now.
    #[must_use]
    pub fn would_lose(&self, logs: &Logs) -> u64 {
        if self.has_anchor(logs) {
            return 0;
        }
        let head = logs.source.heads().index_head;
        self.last_frame.map_or(0, |last| anchor::lost(last, head, |i| logs.source.entry(i)))
    }

    /// Frames that came before this owner's first, and that it could not decode.
    fn lose(&mut self, frames: u64, counts: &mut Counts, session: SessionId, outbox: &mut Outbox) {
        let Seam::Ahead { owed, lost } = self.seam else { return };
        if lost == 0 {
            let notice = Notice::NoAnchor;
            outbox.push((FromWorker::Notice { session: Some(session), notice }, Vec::new()));
        }
        let total = &mut counts.totals.frames_lost;
        *total = total.saturating_add(owed).saturating_add(frames);
        self.seam = Seam::Ahead { owed: 0, lost: lost.saturating_add(owed).saturating_add(frames) };
    }

    /// The seam is over, by the first frame after it or by the stream's end.
    fn close_seam(&mut self, session: SessionId, outbox: &mut Outbox) {
        if let Seam::Ahead { lost: frames @ 1.., .. } =
            std::mem::replace(&mut self.seam, Seam::Behind)
        {
            let notice = Notice::FramesLost { frames };
            outbox.push((FromWorker::Notice { session: Some(session), notice }, Vec::new()));
        }
    }

    /// Looks at the lag and gives orders.
    pub fn judge(
        &mut self,
        counts: &Counts,
        session: SessionId,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let State::Running(pipeline) = &self.state else { return };
        let is_encoded = |rung: &&RungDecision| matches!(rung, RungDecision::Encode { .. });
        let encoded =
            self.ladder.as_ref().map_or(0, |ladder| ladder.rungs.iter().filter(is_encoded).count());
        let lag_ms = counts.lag_ms();
        let Some(order) = self.overload.judge(lag_ms, encoded, now) else { return };
        pipeline.set_overload(order.pipeline());
        if let Some(notice) = order.notice(lag_ms, counts.dropped_by_overload()) {
            outbox.push((FromWorker::Notice { session: Some(session), notice }, Vec::new()));
        }
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// What this owner decoded again before its first frame.
    #[must_use]
    pub fn replayed(&self) -> &Replayed {
        self.reading.replayed()
    }

    /// Packets that were overwritten before they were decoded.
    #[must_use]
    pub fn lapped(&self) -> u64 {
        self.reading.lapped()
    }

    /// The last frame of the committed record.
    #[must_use]
    pub fn last_frame(&self) -> Option<u64> {
        self.last_frame.map(|frame| frame.source_index)
    }

    /// What of this the commit record must know.
    #[must_use]
    pub fn record(&self, heads: Vec<LogHeads>) -> PipelineRecord {
        let (last_frame, audio, ladder) = (self.last_frame, self.audio, self.ladder.clone());
        let rates = self.rates.iter().map(|(rung, bucket)| (*rung, bucket.level())).collect();
        PipelineRecord { last_frame, audio, ladder, rates, heads }
    }

    /// Ends it; the joining of its threads is left over.
    pub fn abandon(&mut self) {
        if let State::Running(pipeline) = std::mem::replace(&mut self.state, State::Done) {
            self.ended.push(pipeline);
        }
    }

    /// Threads that are still to be joined.
    pub fn take_leftovers(&mut self) -> impl Iterator<Item = Leftover> + '_ {
        let stale = self.stale.take().map(|shadow| -> Leftover { Box::new(move || shadow.stop()) });
        let ended = self.ended.drain(..).map(|pipeline| -> Leftover {
            Box::new(move || {
                if pipeline.stop() == crate::pipeline::StopOutcome::Abandoned {
                    tracing::error!("a codec thread hangs and is left behind");
                }
            })
        });
        ended.chain(stale)
    }

    fn take_header(
        &self,
        logs: &mut Logs,
        counts: &mut Counts,
        rung: RungId,
        avcc: &[u8],
        width: u32,
        height: u32,
    ) {
        let fps = self.ladder.as_ref().map_or(0.0, |ladder| ladder.frame_rate.as_f64());
        let metadata = metadata_of(width, height, fps, self.audio_plan);
        let name = LogName::Rung(rung);
        put(logs, counts, name, &[&metadata], EntryKind::Metadata, 0, 0);
        let head = tag::video_tag_header(WrittenVideo::SequenceHeader);
        put(logs, counts, name, &[&head, avcc], EntryKind::VideoHeader, 0, 0);
    }

    fn take_picture(&mut self, logs: &mut Logs, counts: &mut Counts, picture: EncodedPicture) {
        let EncodedPicture { source_index, pts_ms, keyframe: _, rungs } = picture;
        for (rung, frame) in &rungs {
            let (keyframe, kind) = match frame.idr {
                IsIdr::Idr => (FlvKeyframe::Key, EntryKind::VideoIdr),
                IsIdr::Other => (FlvKeyframe::Inter, EntryKind::VideoInter),
            };
            let head = tag::video_tag_header(WrittenVideo::Frame { keyframe, cts_ms: 0 });
            let parts: [&[u8]; 2] = [&head, &frame.payload];
            put(logs, counts, LogName::Rung(*rung), &parts, kind, pts_ms, source_index);
            counts.rung_frame(*rung, frame.payload.len());
            if let Some(bucket) = self.rates.get_mut(rung) {
                bucket.sent(frame.payload.len(), pts_ms);
            }
        }
        counts.frame_out(source_index);
        self.last_frame = Some(CutFrame { source_index, pts_ms });
    }

    fn take_audio(&mut self, logs: &mut Logs, counts: &mut Counts, audio: &EncodedAudio) {
        let head = tag::audio_tag_header(WrittenAudio::Frame);
        let parts: [&[u8]; 2] = [&head, &audio.payload];
        let (dts_ms, mark) = (audio.pts_ms, audio.source_index);
        put(logs, counts, LogName::Audio, &parts, EntryKind::Audio, dts_ms, mark);
        self.audio = Some(audio.resume);
    }

    fn take_event(
        &mut self,
        event: &PipelineEvent,
        logs: &Logs,
        counts: &mut Counts,
        session: SessionId,
        outbox: &mut Outbox,
    ) {
        counts.event(event);
        if let PipelineEvent::LiveFrom { source_index } = event {
            failpoint::hit(Point::SeamFrame);
            let begins_anew = anchor::is_keyframe(*source_index, |index| logs.source.entry(index));
            if let (Seam::Ahead { owed: 1.., .. }, true) = (self.seam, begins_anew) {
                self.lose(0, counts, session, outbox);
            }
            self.close_seam(session, outbox);
        }
        if matches!(event, PipelineEvent::Ended | PipelineEvent::Failed) {
            self.close_seam(session, outbox);
            self.abandon();
        }
        if report::is_worth_telling(event) {
            let notice = Notice::Pipeline { event: format!("{event:?}") };
            outbox.push((FromWorker::Notice { session: Some(session), notice }, Vec::new()));
        }
    }
}

/// The rate buffer of each encoded rung, as the last owner left it.
pub fn rate_buckets(
    plan: &Plan,
    left: &BTreeMap<RungId, RateLevel>,
) -> BTreeMap<RungId, RateBucket> {
    let rungs = plan.rungs.iter().zip(0..).filter_map(|(rung, id)| match &rung.kind {
        RungKind::Encoded(encoded) => Some((RungId(id), encoded.bitrate_bps)),
        RungKind::Source => None,
    });
    rungs
        .map(|(id, bitrate_bps)| {
            let fresh = || RateBucket::new(bitrate_bps);
            (id, left.get(&id).map_or_else(fresh, |level| RateBucket::at(bitrate_bps, *level)))
        })
        .collect()
}

/// Puts a packet into a log; one that is too large for its log is lost by name.
fn put(
    logs: &mut Logs,
    counts: &mut Counts,
    name: LogName,
    parts: &[&[u8]],
    kind: EntryKind,
    dts_ms: i64,
    mark: u64,
) {
    if let Some(log) = logs.get_mut(name)
        && log.put(parts, kind, dts_ms, 0, mark).is_err()
    {
        counts.too_large += 1;
    }
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
