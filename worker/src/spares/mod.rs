//! Spare codecs: those that the streams of other workers would need, opened ahead by a worker that
//! stands by, so that a stream whose worker died waits for its packets alone.
//!
//! ```text
//!  StandingBy ──a codec is asked for, a stream is taken──▶ InUse ──a while later──▶ Closed
//!      └───────────────────── leaving ─────▶ Over ◀───────────┘                       ▲
//!                                             └────────────── all are closed ─────────┘
//! ```
//! A thread of its own opens and closes them, at low priority, one at a time. Whoever needs a codec
//! asks here and takes a spare one where there is one, else opens its own: nobody waits for the
//! thread, and the lock is held only to look at what is there. Once streams are here nothing more is
//! opened; what is left is kept for those that are still to come.

mod filler;
mod need;
mod plan;

pub use filler::Filler;
pub use need::{BadNeed, Codec, Need};

use crate::allocator;
use crate::libav::{LibavError, VideoDecoder, VideoEncoder, VideoEncoderSettings};
use crate::media::packet::VideoCodec;
use plan::{Opened, Plan, Step};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::limits::{SPARE_FULLNESS, SPARE_KEEP};
use tasuki_shared::message::{CodecNeed, SpareList};

/// The codecs that are held, of one process. See the module.
#[derive(Default)]
pub struct Spares {
    inner: Mutex<Inner>,
    /// A list was told, or the stage is another.
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    stage: Stage,
    /// Not seen by the thread yet.
    told: Option<SpareList>,
    held: Vec<(CodecNeed, Codec)>,
    taken: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    StandingBy,
    /// Streams are here.
    InUse {
        /// When the last codec was asked for.
        asked: Instant,
    },
    /// What is held is to be closed at once.
    Over,
    /// The thread is through.
    Closed,
}

/// What a turn of the thread came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// One codec was opened or closed; there may be more to do.
    Worked,
    /// Nothing to do while the stage is this, for so long if at all bounded.
    Rest(Stage, Option<Duration>),
    Done,
}

impl Inner {
    fn take(&mut self, need: &CodecNeed) -> Option<Codec> {
        let at = self.held.iter().position(|(held, _)| held == need)?;
        Some(self.held.swap_remove(at).1)
    }
}

impl Spares {
    /// An encoder with these settings: a spare one, or one of its own.
    pub fn encoder(&self, settings: &VideoEncoderSettings) -> Result<VideoEncoder, LibavError> {
        match self.spare_encoder(settings) {
            Some(encoder) => Ok(encoder),
            None => VideoEncoder::open(settings),
        }
    }

    /// A spare encoder with these settings. It takes for granted that its rate buffer is as full as
    /// `SPARE_FULLNESS`: there is none for one that is emptier.
    pub fn spare_encoder(&self, settings: &VideoEncoderSettings) -> Option<VideoEncoder> {
        // None is x264's own fullness at the start, which is more.
        let full_enough = settings.vbv_init.is_none_or(|fullness| fullness >= SPARE_FULLNESS);
        let need = full_enough.then(|| Need::encoder(settings));
        match self.ask(need)? {
            Codec::Encoder(encoder) => Some(encoder),
            Codec::Decoder(_) => None,
        }
    }

    /// A decoder opened with this.
    pub fn decoder(
        &self,
        codec: VideoCodec,
        configuration: &[u8],
        pixels_max: u64,
    ) -> Result<VideoDecoder, LibavError> {
        match self.ask(Some(Need::decoder(codec, configuration, pixels_max))) {
            Some(Codec::Decoder(decoder)) => Ok(decoder),
            Some(Codec::Encoder(_)) | None => VideoDecoder::open(codec, configuration, pixels_max),
        }
    }

    /// Of those held now.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.lock().held.len()).unwrap_or(u32::MAX)
    }

    /// How many were taken so far.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.lock().taken
    }

    /// A codec is needed here.
    fn ask(&self, need: Option<Need>) -> Option<Codec> {
        let need = need.and_then(|need| need.encode());
        let mut inner = self.enter_use();
        let codec = inner.take(&need?)?;
        inner.taken += 1;
        Some(codec)
    }

    /// Streams are here, or want a codec.
    fn enter_use(&self) -> MutexGuard<'_, Inner> {
        let asked = clock::now();
        let mut inner = self.lock();
        match inner.stage {
            Stage::StandingBy => {
                inner.stage = Stage::InUse { asked };
                self.changed.notify_all();
            }
            Stage::InUse { .. } => inner.stage = Stage::InUse { asked },
            Stage::Over | Stage::Closed => {}
        }
        inner
    }

    /// Another list. Once streams are here it changes nothing.
    fn tell(&self, list: SpareList) {
        let mut inner = self.lock();
        match inner.stage {
            Stage::StandingBy => {
                inner.told = Some(list);
                self.changed.notify_all();
            }
            Stage::InUse { .. } | Stage::Over | Stage::Closed => {}
        }
    }

    fn close(&self) {
        let mut inner = self.lock();
        match inner.stage {
            Stage::StandingBy | Stage::InUse { .. } => {
                inner.stage = Stage::Over;
                self.changed.notify_all();
            }
            Stage::Over | Stage::Closed => {}
        }
    }

    /// One step of the thread; opens or closes one codec at most, unless all are closed.
    fn turn(&self, plan: &mut Plan, now: Instant) -> Turn {
        let mut inner = self.lock();
        match inner.stage {
            Stage::StandingBy => {}
            Stage::InUse { asked } => {
                let left = (asked + SPARE_KEEP).saturating_duration_since(now);
                if !left.is_zero() && !inner.held.is_empty() {
                    return Turn::Rest(inner.stage, Some(left));
                }
                close_all(inner);
                return Turn::Done;
            }
            Stage::Over | Stage::Closed => {
                close_all(inner);
                return Turn::Done;
            }
        }
        if let Some(list) = inner.told.take() {
            plan.tell(list);
        }
        match plan.next(|need| Need::decode(need).ok().map(|need| need.bytes_min())) {
            Step::Rest => Turn::Rest(inner.stage, None),
            Step::Close(need) => {
                let codec = inner.take(&need);
                drop(inner);
                drop(codec);
                plan.closed(&need);
                Turn::Worked
            }
            Step::Open(need) => {
                drop(inner);
                self.open(need, plan);
                Turn::Worked
            }
        }
    }

    fn open(&self, need: CodecNeed, plan: &mut Plan) {
        let before = allocated_bytes();
        let opened = Need::decode(&need).map_err(|bad| bad.to_string());
        let bytes_min = opened.as_ref().map_or(0, Need::bytes_min);
        match opened.and_then(|need| need.open().map_err(|error| error.to_string())) {
            Ok(codec) => {
                // Nothing else is done in a process that stands by.
                let bytes = allocated_bytes().saturating_sub(before).max(bytes_min);
                match plan.opened(&need, bytes) {
                    Opened::Keep => self.lock().held.push((need, codec)),
                    Opened::Close => drop(codec),
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a spare codec cannot be opened");
                plan.failed(need);
            }
        }
    }

    /// Until there is something to do.
    fn rest(&self, seen: Stage, left: Option<Duration>) {
        let mut inner = self.lock();
        while inner.stage == seen && inner.told.is_none() {
            let Some(left) = left else {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(self.changed.wait_timeout(inner, left));
            return;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Spares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Inner { stage, told: _, held, taken } = &*self.lock();
        let mut shown = f.debug_struct("Spares");
        shown.field("stage", stage).field("held", &held.len()).field("taken", taken);
        shown.finish_non_exhaustive()
    }
}

fn close_all(mut inner: MutexGuard<'_, Inner>) {
    let (left, taken) = (std::mem::take(&mut inner.held), inner.taken);
    inner.stage = Stage::Over;
    inner.told = None;
    drop(inner);
    if left.is_empty() {
        return;
    }
    tracing::debug!(taken, left = left.len(), "spare codecs are closed");
    drop(left);
    allocator::give_back();
}

/// Of the whole process; 0 where the allocator does not say.
fn allocated_bytes() -> u64 {
    allocator::stats().map_or(0, |stats| stats.allocated_bytes)
}

/// Fills `spares` as a list of these needs asks, each once, in the caller's thread.
#[cfg(test)]
pub(crate) fn fill(spares: &Spares, needs: &[CodecNeed]) {
    let codecs = needs.iter().map(|need| (need.clone(), 1)).collect();
    spares.tell(SpareList { codecs, bytes_max: u64::MAX });
    let mut plan = Plan::default();
    while spares.turn(&mut plan, clock::now()) == Turn::Worked {}
}

#[cfg(test)]
mod tests;
