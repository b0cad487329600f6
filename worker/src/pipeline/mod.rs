//! Compressed packets in, a ladder out: decode → filter → scale → encode, sound beside.
//!
//! ```text
//!  PacketSource ──▶ media thread ("dec")                 ┌─▶ rung thread ("enc-720p") ─┐
//!                   decode → filter → scale (cascade) ───┼─▶ rung thread ("enc-480p") ─┼─▶ Outlet ──▶ poll()
//!                   sound: decode → resample → encode ───┼─────────────────────────────┘
//!                                                        (bounded queues)
//! ```
//! The rungs' threads work only while packets wait; else the media thread encodes (see [`encode`]).
//!
//! Invariants: outputs come in one order, and a frame only when all active rungs have it. Every
//! video packet becomes exactly one `Frame` or `Skipped`, once the gate is open. IDRs stand on
//! the same frames in all rungs. A frame's identity is the source-log index of its packet.
//!
//! Stages that follow another owner start with the gate closed: they decode, and may encode to
//! warm up, but give nothing until [`Pipeline::go_live`] names the last frame that was
//! committed. The source must not hand a follower packets beyond that owner's last encoded
//! frame, so a follower is never ahead.
//!
//! Deliberately absent: clocks, sockets, logs, commits. The io thread has those.

mod audio;
pub mod bucket;
mod cadence;
mod decode;
mod encode;
mod encoding;
mod filter;
mod media;
mod outlet;
#[cfg(feature = "failpoints")]
pub mod poison;
mod probe;
mod scale;
mod shrink;
mod thumbnail;

pub use audio::AudioResume;
pub use thumbnail::{Thumbnail, Thumbnails};

use crate::ladder::RungDecision;
use crate::libav::{Colour, LibavError, Ratio, check_runtime, redirect_log};
use crate::media::packet::{EncodedFrame, IsIdr, VideoCodec};
use crate::spares::Spares;
use outlet::Outlet;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tasuki_shared::id::RungId;
use tasuki_shared::limits::{PIPELINE_STOP_DEADLINE, RUNGS_MAX};
use tasuki_shared::message::CodecNeed;
use tasuki_shared::plan::{AudioPlan, BlurRect, RungPlan, StreamLimits};

/// Where packets come from. Called by the media thread alone.
pub trait PacketSource: Send {
    /// The next packet in log order, its payload copied into `buffer` (which is empty); waits
    /// up to `wait` for one.
    fn next(&mut self, buffer: &mut Vec<u8>, wait: Duration) -> SourceEvent;

    /// Packets that are there and not read.
    fn waiting(&self) -> u64 {
        0
    }

    /// Has a follower read all that its owner has been through? Until then it only decodes.
    fn is_caught_up(&self) -> bool {
        true
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum SourceEvent {
    Packet(SourcePacket),
    /// Nothing came in time.
    Idle,
    /// Nothing will come: what is inside is finished, then the pipeline ends.
    Closed,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SourcePacket {
    /// Position in the source log.
    pub index: u64,
    pub kind: PacketKind,
    /// Where in the buffer the payload is, without any tag header.
    pub payload: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PacketKind {
    /// The publisher's metadata; without payload.
    Declared(Declared),
    /// A decoder configuration record.
    VideoHeader { codec: VideoCodec },
    /// Length-prefixed NAL units of one picture.
    VideoFrame { pts_ms: i64, idr: IsIdr, disposable: Disposable },
    /// An AudioSpecificConfig.
    AudioHeader,
    /// A raw AAC frame.
    AudioFrame { dts_ms: i64 },
}

/// Does any other picture refer to this one?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposable {
    Yes,
    No,
}

/// Everything a pipeline depends on.
#[derive(Clone, Debug)]
pub struct PipelineSpec {
    /// The plan's ladder; [`RungId`] is the position here.
    pub rungs: Vec<RungPlan>,
    pub audio: AudioPlan,
    pub blur: Vec<BlurRect>,
    pub thumbnails: Thumbnails,
    pub limits: StreamLimits,
    /// What the publisher's metadata says, until [`PacketKind::Declared`] says otherwise.
    pub declared: Declared,
    pub start: Start,
    /// Where its video codecs come from.
    pub spares: Arc<Spares>,
}

/// Claims of the publisher's metadata; used where the stream itself says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Declared {
    pub fps: Option<f64>,
    pub video_bitrate_bps: Option<u64>,
}

/// How a pipeline begins.
#[derive(Clone, Debug)]
pub enum Start {
    Fresh,
    Follow(Follow),
}

/// Going on where another owner stopped or will stop.
#[derive(Clone, Debug)]
pub struct Follow {
    /// As that owner reported it; `None` when it had none yet.
    pub ladder: Option<LadderState>,
    /// Fullness of each rung's rate buffer, as far as it is known now.
    pub vbv_init: Vec<(RungId, f32)>,
    pub warm_up: WarmUp,
    pub audio: Option<AudioResume>,
}

/// What a follower does before the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmUp {
    DecodeOnly,
    /// Once it has caught up with its owner, encode too and throw it away, so that rate control
    /// has a history.
    Encode,
}

/// From where on a follower's output counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cut {
    /// The last committed frame; `None` when there was none.
    pub after: Option<CutFrame>,
    /// Fullness of each rung's rate buffer, for encoders that are not open yet.
    pub vbv_init: Vec<(RungId, f32)>,
    /// Position of the first audio packet that is missing.
    pub audio_next_pts_samples: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutFrame {
    pub source_index: u64,
    pub pts_ms: i64,
}

/// What the encoders were made from: with the same, another process writes identical headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LadderState {
    pub frame_rate: Ratio,
    pub colour: Colour,
    pub source_width: u32,
    pub source_height: u32,
    /// One for each planned rung.
    pub rungs: Vec<RungDecision>,
}

impl LadderState {
    /// Is there a rung to encode?
    #[must_use]
    pub fn encodes(&self) -> bool {
        self.rungs.iter().any(|rung| matches!(rung, RungDecision::Encode { .. }))
    }
}

/// What a pipeline gives, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum PipelineOutput {
    Ladder(LadderState),
    /// Before the first frame of a rung, and again only if it changed.
    Header {
        rung: RungId,
        avcc: Vec<u8>,
        width: u32,
        height: u32,
    },
    Frame(EncodedPicture),
    /// What its video codecs were opened with, after the first frame that they gave.
    Codecs(Vec<CodecNeed>),
    AudioHeader {
        asc: Vec<u8>,
    },
    Audio(EncodedAudio),
    /// Made of a picture that follows.
    Thumbnail(Thumbnail),
    /// A video packet that gives no frame.
    Skipped {
        source_index: u64,
        reason: SkipReason,
    },
    Event(PipelineEvent),
}

/// One source frame in all active rungs, in presentation order.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedPicture {
    pub source_index: u64,
    pub pts_ms: i64,
    pub keyframe: IsIdr,
    /// Ordered by rung.
    pub rungs: Vec<(RungId, EncodedFrame)>,
}

/// One AAC-LC frame of 1024 samples at 48 kHz.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedAudio {
    pub pts_samples: i64,
    pub pts_ms: i64,
    /// The newest source packet that was consumed for it.
    pub source_index: u64,
    /// What a follower needs to produce the packet after this one.
    pub resume: AudioResume,
    pub payload: Vec<u8>,
}

/// Why a video packet gives no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// No header came before it.
    NoHeader,
    /// The decoder was refused; an event says why.
    Refused,
    /// Nothing in the plan is encoded.
    NothingToEncode,
    /// Before the first IDR, or before the IDR after a new header.
    NoKeyframeYet,
    /// The decoder would not take it.
    Undecodable,
    /// Dropped until the next IDR after an undecodable packet.
    AfterError,
    /// The decoder took it and gave no frame.
    NoFrame,
    /// Dropped by order.
    Overload,
    /// More frames a second than the plan allows.
    FrameRateCap,
    /// It could not be filtered or scaled.
    Unscalable,
}

/// Why a decoder was not opened.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    UnreadableHeader,
    PictureTooLarge { width: u32, height: u32 },
    FrameRateTooHigh { fps: f64 },
    Decoder(LibavError),
}

/// What is worth a log line or a counter.
#[derive(Clone, Debug, PartialEq)]
pub enum PipelineEvent {
    DecoderOpened {
        codec: VideoCodec,
    },
    VideoRefused(Refusal),
    DecodeError {
        source_index: u64,
        error: LibavError,
    },
    DamagedFrame {
        source_index: u64,
    },
    /// The decoder gave a frame whose packet was already accounted for.
    FrameWithoutPacket,
    ScaleError {
        source_index: u64,
        error: LibavError,
    },
    SourceSizeChanged {
        width: u32,
        height: u32,
    },
    RungFailed {
        rung: RungId,
        error: LibavError,
    },
    /// A rung's thread is gone; the ladder goes on without it.
    RungLost {
        rung: RungId,
    },
    RungsOff {
        count: u8,
    },
    /// The gate opened with this frame.
    LiveFrom {
        source_index: u64,
    },
    AudioOpened {
        channels: usize,
    },
    AudioError {
        source_index: u64,
        error: LibavError,
    },
    AudioGapFilled {
        samples: u64,
    },
    AudioJumped {
        samples: u64,
    },
    AudioOverlapDropped {
        samples: u64,
    },
    /// Everything was given.
    Ended,
    /// The media thread panicked.
    Failed,
}

/// What the io thread asks for when the pipeline lags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overload {
    pub drop: DropPolicy,
    /// Encoded rungs switched off, from the top.
    pub rungs_off: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropPolicy {
    Normal,
    /// Pictures that no other refers to are not decoded.
    DropDisposable,
    /// Once per order: nothing is decoded until the next IDR; then like `DropDisposable`.
    DropToKeyframe,
}

/// A pipeline that cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("{0}")]
    Libav(#[from] LibavError),
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// How a pipeline's threads ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    Joined,
    /// Something hung beyond the deadline and was left behind.
    Abandoned,
}

/// Orders to the media thread.
struct Orders {
    overload: Overload,
    /// Counts calls, so that an order to drop is obeyed once.
    overload_calls: u64,
    cut: Option<Cut>,
}

/// What all threads of a pipeline see.
struct Control {
    stop: AtomicBool,
    orders: Mutex<Orders>,
    /// Spent in each rung's encoder.
    encode_us: [AtomicU64; RUNGS_MAX],
}

impl Control {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pipeline that runs, or shall. Dropping it stops it.
pub struct Pipeline {
    control: Arc<Control>,
    outlet: Arc<Outlet>,
    media: Media,
}

/// The media thread.
enum Media {
    /// To be started with this.
    Awaited(Box<(PipelineSpec, Box<dyn PacketSource>)>),
    Begun(JoinHandle<()>),
    /// Joined, left behind, or never begun.
    Over,
}

impl Pipeline {
    /// Starts the threads. `wake` is called, from any of them, when `poll` has something.
    pub fn start(
        spec: PipelineSpec,
        source: Box<dyn PacketSource>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, PipelineError> {
        let mut pipeline = Self::prepare(spec, source, wake)?;
        pipeline.begin()?;
        Ok(pipeline)
    }

    /// As `start`, but nothing is done before `begin`; orders given meanwhile hold from then on.
    pub fn prepare(
        spec: PipelineSpec,
        source: Box<dyn PacketSource>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, PipelineError> {
        redirect_log();
        check_runtime()?;
        let orders = Orders {
            overload: Overload { drop: DropPolicy::Normal, rungs_off: 0 },
            overload_calls: 0,
            cut: None,
        };
        let control = Arc::new(Control {
            stop: AtomicBool::new(false),
            orders: Mutex::new(orders),
            encode_us: Default::default(),
        });
        let outlet = Arc::new(Outlet::new(wake));
        Ok(Self { control, outlet, media: Media::Awaited(Box::new((spec, source))) })
    }

    /// Starts the threads of one that was prepared.
    pub fn begin(&mut self) -> Result<(), PipelineError> {
        self.media = match std::mem::replace(&mut self.media, Media::Over) {
            Media::Awaited(work) => {
                let (spec, source) = *work;
                let (control, outlet) = (Arc::clone(&self.control), Arc::clone(&self.outlet));
                Media::Begun(media::spawn(spec, source, control, outlet)?)
            }
            begun @ (Media::Begun(_) | Media::Over) => begun,
        };
        Ok(())
    }

    #[must_use]
    pub fn has_begun(&self) -> bool {
        !matches!(self.media, Media::Awaited(_))
    }

    /// The next output, if one is ready. Never blocks.
    pub fn poll(&self) -> Option<PipelineOutput> {
        self.outlet.poll()
    }

    /// Is there output that is not fetched, or not finished?
    pub fn holds_output(&self) -> bool {
        !self.outlet.is_empty()
    }

    /// Time that a rung's encoder has worked, in microseconds.
    #[must_use]
    pub fn encode_us(&self, rung: RungId) -> u64 {
        let of = self.control.encode_us.get(usize::from(rung.0));
        of.map_or(0, |spent| spent.load(Ordering::Relaxed))
    }

    /// Ids of its threads; `None` while one of them has not begun.
    pub fn threads(&self) -> Option<Vec<i32>> {
        self.has_begun().then(|| self.outlet.thread_ids())?
    }

    /// Obeyed from the next packet on.
    pub fn set_overload(&self, overload: Overload) {
        let mut orders = self.control.orders();
        orders.overload = overload;
        orders.overload_calls += 1;
    }

    /// Opens a follower's gate.
    pub fn go_live(&self, cut: Cut) {
        self.control.orders().cut = Some(cut);
    }

    /// Ends all threads; what is inside is lost. Returns within the deadline.
    pub fn stop(mut self) -> StopOutcome {
        self.end()
    }

    fn end(&mut self) -> StopOutcome {
        self.control.stop.store(true, Ordering::Relaxed);
        self.outlet.close();
        let Media::Begun(media) = std::mem::replace(&mut self.media, Media::Over) else {
            return StopOutcome::Joined;
        };
        if self.outlet.wait_for_threads(PIPELINE_STOP_DEADLINE) {
            // The guards have run: what is left of the threads is their return.
            let _ = media.join();
            StopOutcome::Joined
        } else {
            StopOutcome::Abandoned
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
