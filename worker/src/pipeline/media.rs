//! The media thread of a session: it fetches packets, decodes, filters and scales, and hands
//! pictures to the rungs' threads. Sound is worked on here too; it is cheap.
//!
//! The gate of a follower: `Closed` → (order to go live) → `Awaiting` the committed frame →
//! `Opening` → (first frame, an IDR) → `Open`. A fresh pipeline begins `Open`.

use super::audio::AudioStage;
use super::cadence::{RateCap, measured_rate, rate_of};
use super::decode::{DecodeStage, Decoded, SourceFrame};
use super::encode::{Destination, Worker};
use super::encoding::Encoding;
use super::filter::Filter;
use super::outlet::{Closed, Outlet};
use super::probe::probe;
use super::thumbnail::{self, Pace};
use super::{
    Control, Cut, CutFrame, Disposable, DropPolicy, LadderState, Overload, PacketKind,
    PacketSource, PipelineEvent as Event, PipelineOutput as Output, PipelineSpec, SkipReason,
    SourceEvent, SourcePacket, Start, WarmUp,
};
use crate::ladder::{Matching, RungDecision, SourceShape, decide};
use crate::libav::Frame;
use crate::media::packet::{IsIdr, VideoCodec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::id::RungId;
use tasuki_shared::limits::{FRAME_RATE_SAMPLE_FRAMES, PACKETS_WAITING_MAX, PIPELINE_WAIT};
use tasuki_shared::plan::AudioPlan;

/// Starts the thread.
pub fn spawn(
    spec: PipelineSpec,
    source: Box<dyn PacketSource>,
    control: Arc<Control>,
    outlet: Arc<Outlet>,
) -> std::io::Result<JoinHandle<()>> {
    outlet.thread_started();
    let guard = Guard(Arc::clone(&outlet));
    std::thread::Builder::new().name("dec".into()).spawn(move || {
        // Dropped last, also by a panic.
        let guard = guard;
        outlet.thread_runs();
        let mut media = Media::new(spec, control, outlet);
        // Closed: somebody stopped us, and nobody listens any more.
        let _ = media.run(source);
        drop(media);
        drop(guard);
    })
}

/// Runs when the thread ends, however it ends.
struct Guard(Arc<Outlet>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.push_last(Output::Event(Event::Failed));
        }
        self.0.thread_ended();
    }
}

enum Gate {
    /// What the newest frame was.
    Closed {
        last: Option<u64>,
    },
    Awaiting(CutFrame),
    Opening,
    Open,
}

struct Media {
    spec: PipelineSpec,
    control: Arc<Control>,
    outlet: Arc<Outlet>,
    decode: DecodeStage,
    filter: Option<Filter>,
    audio: Option<AudioStage>,
    gate: Gate,
    warm_up: WarmUp,
    codec: VideoCodec,
    /// Frames seen before the frame rate was known.
    held: Vec<SourceFrame>,
    encoding: Option<Encoding>,
    codecs: Codecs,
    vbv_init: BTreeMap<RungId, f32>,
    rate_cap: RateCap,
    thumbnails: Pace,
    overload: Overload,
    overload_calls: u64,
    source_size: Option<(u32, u32)>,
    progress: Progress,
    worker: Worker,
}

/// Do others know what the codecs were opened with?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Codecs {
    /// They are told with the first frame.
    Untold,
    Told,
}

/// Of a follower, beside its owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Behind,
    CaughtUp,
}

impl Media {
    fn new(spec: PipelineSpec, control: Arc<Control>, outlet: Arc<Outlet>) -> Self {
        let (gate, warm_up, vbv_init, resume) = match &spec.start {
            Start::Fresh => (Gate::Open, WarmUp::DecodeOnly, BTreeMap::new(), None),
            Start::Follow(follow) => (
                Gate::Closed { last: None },
                follow.warm_up,
                follow.vbv_init.iter().copied().collect(),
                Some(follow.audio),
            ),
        };
        let audio = match spec.audio {
            AudioPlan::Aac { bitrate_bps, .. } => Some(match resume {
                None => AudioStage::fresh(bitrate_bps),
                Some(resume) => AudioStage::following(bitrate_bps, resume),
            }),
            AudioPlan::Copy | AudioPlan::None => None,
        };
        Self {
            decode: DecodeStage::new(spec.limits, Arc::clone(&spec.spares)),
            filter: Filter::new(&spec.blur),
            audio,
            gate,
            warm_up,
            codec: VideoCodec::H264,
            held: Vec::new(),
            encoding: None,
            codecs: Codecs::Untold,
            vbv_init,
            rate_cap: RateCap::new(spec.limits.fps_max),
            thumbnails: Pace::new(spec.thumbnails),
            overload: Overload { drop: DropPolicy::Normal, rungs_off: 0 },
            overload_calls: 0,
            source_size: None,
            progress: Progress::Behind,
            worker: Worker::Threads,
            spec,
            control,
            outlet,
        }
    }

    fn run(&mut self, mut source: Box<dyn PacketSource>) -> Result<(), Closed> {
        let mut buffer = Vec::new();
        while !self.control.stopping() {
            self.obey()?;
            buffer.clear();
            self.worker = if source.waiting() > PACKETS_WAITING_MAX {
                Worker::Threads
            } else {
                Worker::Caller
            };
            self.progress =
                if source.is_caught_up() { Progress::CaughtUp } else { Progress::Behind };
            match source.next(&mut buffer, PIPELINE_WAIT) {
                SourceEvent::Packet(packet) => self.packet(&packet, &buffer)?,
                SourceEvent::Idle => {}
                SourceEvent::Closed => return self.finish(),
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Closed> {
        let mut decoded = Vec::new();
        self.decode.finish(&mut decoded);
        self.decoded(decoded)?;
        self.begin(Haste::Now)?;
        if let Some(audio) = &mut self.audio {
            let mut out = Vec::new();
            audio.finish(&mut out);
            self.push_all(out)?;
        }
        self.push(Output::Event(Event::Ended))
    }

    /// Looks for orders of the io thread.
    fn obey(&mut self) -> Result<(), Closed> {
        let (overload, calls, cut) = {
            let mut orders = self.control.orders();
            (orders.overload, orders.overload_calls, orders.cut.take())
        };
        if calls != self.overload_calls {
            self.overload_calls = calls;
            self.overload(overload)?;
        }
        match cut {
            Some(cut) => self.go_live(cut),
            None => Ok(()),
        }
    }

    fn overload(&mut self, overload: Overload) -> Result<(), Closed> {
        let before = std::mem::replace(&mut self.overload, overload);
        if before.rungs_off != overload.rungs_off {
            self.push(Output::Event(Event::RungsOff { count: overload.rungs_off }))?;
            if let Some(encoding) = &mut self.encoding
                && overload.rungs_off < before.rungs_off
            {
                encoding.demand_idr();
            }
        }
        match overload.drop {
            DropPolicy::Normal | DropPolicy::DropDisposable => Ok(()),
            DropPolicy::DropToKeyframe => {
                let mut decoded = Vec::new();
                self.decode.drop_to_keyframe(&mut decoded);
                self.decoded(decoded)
            }
        }
    }

    fn go_live(&mut self, cut: Cut) -> Result<(), Closed> {
        self.vbv_init.extend(cut.vbv_init.iter().copied());
        if let Some(encoding) = &mut self.encoding {
            encoding.rate_fullness(&self.vbv_init);
        }
        self.gate = match (&self.gate, cut.after) {
            (Gate::Open | Gate::Opening | Gate::Awaiting(_), _) => return Ok(()),
            (Gate::Closed { .. }, None) => Gate::Opening,
            (Gate::Closed { last }, Some(after)) if *last == Some(after.source_index) => {
                Gate::Opening
            }
            (Gate::Closed { .. }, Some(after)) => Gate::Awaiting(after),
        };
        if let Some(audio) = &mut self.audio {
            let mut out = Vec::new();
            audio.go_live(cut.audio_next_pts_samples, &mut out);
            self.push_all(out)?;
        }
        Ok(())
    }

    fn packet(&mut self, packet: &SourcePacket, buffer: &[u8]) -> Result<(), Closed> {
        failpoint::hit(Point::MediaPacket);
        let payload = buffer.get(packet.payload.clone()).unwrap_or(&[]);
        let mut decoded = Vec::new();
        match packet.kind {
            PacketKind::Declared(declared) => {
                self.spec.declared = declared;
                return Ok(());
            }
            PacketKind::VideoHeader { codec } => {
                if !self.nothing_to_encode(codec, payload)? {
                    self.codec = codec;
                    self.decode.header(codec, payload, &mut decoded);
                }
            }
            PacketKind::VideoFrame { pts_ms, idr, disposable } => {
                let dropped =
                    self.overload.drop != DropPolicy::Normal && disposable == Disposable::Yes;
                if dropped {
                    return self.skipped(packet.index, SkipReason::Overload);
                }
                self.decode.packet(packet.index, pts_ms, idr, payload, &mut decoded);
            }
            PacketKind::AudioHeader => {
                let mut out = Vec::new();
                if let Some(audio) = &mut self.audio {
                    audio.header(packet.index, payload, &mut out);
                }
                return self.push_all(out);
            }
            PacketKind::AudioFrame { dts_ms } => {
                let mut out = Vec::new();
                if let Some(audio) = &mut self.audio {
                    audio.packet(packet.index, dts_ms, payload, &mut out);
                }
                return self.push_all(out);
            }
        }
        self.decoded(decoded)
    }

    /// Is there no rung to encode? Then no decoder is opened for this header.
    fn nothing_to_encode(&mut self, codec: VideoCodec, record: &[u8]) -> Result<bool, Closed> {
        if self.encoding.is_some() {
            return Ok(false);
        }
        let Some(shape) = probe(codec, record) else { return Ok(false) };
        let rungs = self.decide(codec, shape.width, shape.height);
        let encodes = rungs.iter().any(|rung| matches!(rung, RungDecision::Encode { .. }));
        if encodes {
            return Ok(false);
        }
        self.decode.nothing_to_encode();
        let state = LadderState {
            frame_rate: rate_of(shape.fps.unwrap_or(0.0)),
            colour: crate::libav::Colour::UNKNOWN,
            source_width: shape.width,
            source_height: shape.height,
            rungs,
        };
        self.push(Output::Ladder(state))?;
        Ok(true)
    }

    fn decide(&self, codec: VideoCodec, width: u32, height: u32) -> Vec<RungDecision> {
        let bitrate_bps = self.spec.declared.video_bitrate_bps;
        let matching = if self.filter.is_some() { Matching::Forbidden } else { Matching::Allowed };
        decide(&self.spec.rungs, SourceShape { codec, width, height, bitrate_bps }, matching)
    }

    fn decoded(&mut self, decoded: Vec<Decoded>) -> Result<(), Closed> {
        for item in decoded {
            match item {
                Decoded::Skipped { index, reason } => self.skipped(index, reason)?,
                Decoded::Event(event) => {
                    if matches!(event, Event::DecoderOpened { .. }) {
                        self.codecs = Codecs::Untold;
                    }
                    self.push(Output::Event(event))?;
                }
                Decoded::Frame(frame) => {
                    if self.encoding.is_some() {
                        self.frame(frame)?;
                    } else {
                        self.held.push(frame);
                        self.begin(Haste::Wait)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Starts encoding as soon as the frame rate is known, with the frames held until then.
    fn begin(&mut self, haste: Haste) -> Result<(), Closed> {
        let Some(first) = self.held.first() else { return Ok(()) };
        let fps_max = f64::from(self.spec.limits.fps_max) * 1.02;
        let followed = match &self.spec.start {
            Start::Fresh => None,
            Start::Follow(follow) => follow.ladder.clone(),
        };
        let declared = self.decode.declared_fps().or(self.spec.declared.fps);
        let believable = declared.filter(|fps| *fps >= 1.0 && *fps <= fps_max);
        let rate = match (&followed, believable) {
            (Some(ladder), _) => ladder.frame_rate,
            (None, Some(fps)) => rate_of(fps),
            (None, None) => {
                if self.held.len() < FRAME_RATE_SAMPLE_FRAMES && haste == Haste::Wait {
                    return Ok(());
                }
                let times: Vec<i64> = self.held.iter().map(|frame| frame.pts_ms).collect();
                measured_rate(&times)
            }
        };
        let (width, height) = (first.frame.width(), first.frame.height());
        let state = followed.clone().unwrap_or_else(|| LadderState {
            frame_rate: rate,
            colour: first.frame.colour(),
            source_width: width,
            source_height: height,
            rungs: self.decide(self.codec, width, height),
        });
        if followed.is_none() {
            self.push(Output::Ladder(state.clone()))?;
        }
        self.source_size = Some((width, height));
        let (rungs, spares) = (&self.spec.rungs, &self.spec.spares);
        match Encoding::start(rungs, &state, &self.vbv_init, spares, &self.control, &self.outlet) {
            Ok(encoding) => self.encoding = Some(encoding),
            Err(error) => {
                let source_index = first_index(&self.held);
                self.push(Output::Event(Event::ScaleError { source_index, error }))?;
                for frame in std::mem::take(&mut self.held) {
                    self.skipped(frame.index, SkipReason::Unscalable)?;
                }
                return Ok(());
            }
        }
        for frame in std::mem::take(&mut self.held) {
            self.frame(frame)?;
        }
        Ok(())
    }

    /// One frame in presentation order.
    fn frame(&mut self, source: SourceFrame) -> Result<(), Closed> {
        let size = (source.frame.width(), source.frame.height());
        if self.source_size != Some(size) {
            self.source_size = Some(size);
            let (width, height) = size;
            self.push(Output::Event(Event::SourceSizeChanged { width, height }))?;
        }
        if !self.rate_cap.admit(source.pts_ms) {
            return self.skipped(source.index, SkipReason::FrameRateCap);
        }
        let destination = self.pass_gate(&source)?;
        match (destination, &self.gate, self.warm_up, self.progress) {
            (Passage::Open, ..)
            | (Passage::Stopped, Gate::Closed { .. }, WarmUp::Encode, Progress::CaughtUp) => {
                self.encode(source, destination)
            }
            // Once the seam is known nothing is encoded to warm up: an encoder that was opened anew
            // for the seam would give this picture the bits of the seam's IDR.
            (Passage::Stopped, ..) => Ok(()),
        }
    }

    fn pass_gate(&mut self, source: &SourceFrame) -> Result<Passage, Closed> {
        match &mut self.gate {
            Gate::Open => return Ok(Passage::Open),
            Gate::Opening => {}
            Gate::Closed { last } => {
                *last = Some(source.index);
                return Ok(Passage::Stopped);
            }
            Gate::Awaiting(after) if source.index == after.source_index => {
                self.gate = Gate::Opening;
                return Ok(Passage::Stopped);
            }
            // The committed frame may be one that does not come out here: what lies beyond it
            // by both counts, or a later IDR, opens too.
            Gate::Awaiting(after) => {
                let beyond = source.index > after.source_index
                    && (source.pts_ms > after.pts_ms || source.idr == IsIdr::Idr);
                if !beyond {
                    return Ok(Passage::Stopped);
                }
            }
        }
        self.gate = Gate::Open;
        if let Some(encoding) = &mut self.encoding {
            encoding.demand_idr();
        }
        self.push(Output::Event(Event::LiveFrom { source_index: source.index }))?;
        Ok(Passage::Open)
    }

    /// Filters, scales and hands the pictures to the rungs' threads.
    fn encode(&mut self, source: SourceFrame, passage: Passage) -> Result<(), Closed> {
        let SourceFrame { index, pts_ms, idr, frame } = source;
        let Some(encoding) = &mut self.encoding else { return Ok(()) };
        let wanted = encoding.wanted(self.overload.rungs_off);
        let scaled = match encoding.scale(self.filter.as_mut(), frame, &wanted) {
            Ok(scaled) => scaled,
            Err(error) => {
                self.push(Output::Event(Event::ScaleError { source_index: index, error }))?;
                return self.skipped(index, SkipReason::Unscalable);
            }
        };
        let keyframe = encoding.keyframe(pts_ms, idr);
        let result = match passage {
            Passage::Stopped => Destination::Nowhere,
            Passage::Open => {
                self.show(pts_ms, &scaled)?;
                Destination::Entry(self.outlet.open_frame(index, pts_ms, keyframe, &wanted)?)
            }
        };
        if let Some(encoding) = &mut self.encoding {
            encoding.dispatch(self.worker, scaled, keyframe, result, &self.outlet);
        }
        match passage {
            Passage::Stopped => Ok(()),
            Passage::Open => self.tell_codecs(),
        }
    }

    /// Behind the frame that is on its way: bytes that end this process are told to nobody.
    fn tell_codecs(&mut self) -> Result<(), Closed> {
        let (Codecs::Untold, Some(encoding)) = (self.codecs, &self.encoding) else { return Ok(()) };
        self.codecs = Codecs::Told;
        let needs = self.decode.need().into_iter().chain(encoding.needs()).collect();
        self.push(Output::Codecs(needs))
    }

    /// The smallest picture now and then, for people to see.
    fn show(&mut self, pts_ms: i64, scaled: &[(RungId, Frame)]) -> Result<(), Closed> {
        let Some((_, smallest)) = scaled.last() else { return Ok(()) };
        if self.thumbnails.is_due(pts_ms)
            && let Some(picture) = thumbnail::of(smallest)
        {
            self.push(Output::Thumbnail(picture))?;
        }
        Ok(())
    }

    fn skipped(&self, source_index: u64, reason: SkipReason) -> Result<(), Closed> {
        let counts = match &self.gate {
            Gate::Open | Gate::Opening => true,
            Gate::Awaiting(after) => source_index > after.source_index,
            // The other owner accounts for it.
            Gate::Closed { .. } => false,
        };
        if counts { self.push(Output::Skipped { source_index, reason }) } else { Ok(()) }
    }

    fn push(&self, output: Output) -> Result<(), Closed> {
        self.outlet.push(output)
    }

    fn push_all(&self, outputs: Vec<Output>) -> Result<(), Closed> {
        outputs.into_iter().try_for_each(|output| self.push(output))
    }
}

/// May the frame rate be waited for?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Haste {
    Wait,
    Now,
}

/// What the gate says to a frame.
#[derive(Clone, Copy)]
enum Passage {
    Open,
    Stopped,
}

fn first_index(frames: &[SourceFrame]) -> u64 {
    frames.first().map_or(0, |frame| frame.index)
}
