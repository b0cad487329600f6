//! First stage: packets to frames, with every packet accounted for.
//!
//! ```text
//!            header refused             IDR                    error, or order to drop
//!  NoHeader ───────▶ Refused   Waiting ─────▶ Running ──────────────────▶ Waiting
//!     └──────────────header ok───▲
//! ```

use super::{PipelineEvent as Event, Refusal, SkipReason, probe};
use crate::libav::{DecodedFrame, Frame, Health, LibavError, VideoDecoder};
use crate::media::packet::{IsIdr, VideoCodec};
use crate::spares::{Need, Spares};
use std::collections::BTreeMap;
use std::sync::Arc;
use tasuki_shared::limits::DECODER_PACKETS_MAX;
use tasuki_shared::message::CodecNeed;
use tasuki_shared::plan::StreamLimits;

/// A frame in presentation order, with what its packet said.
pub struct SourceFrame {
    pub index: u64,
    pub pts_ms: i64,
    pub idr: IsIdr,
    pub frame: Frame,
}

/// What the stage gives, in order.
pub enum Decoded {
    Frame(SourceFrame),
    Skipped { index: u64, reason: SkipReason },
    Event(Event),
}

#[derive(Clone, Copy)]
struct Pending {
    pts_ms: i64,
    idr: IsIdr,
}

enum Phase {
    NoHeader,
    Refused,
    /// No rung needs a decoder.
    Idle,
    /// Packets are dropped, for this reason, until an IDR.
    Waiting(VideoDecoder, SkipReason),
    Running(VideoDecoder),
}

pub struct DecodeStage {
    limits: StreamLimits,
    spares: Arc<Spares>,
    phase: Phase,
    header: Option<(VideoCodec, Vec<u8>)>,
    /// Packets inside the decoder.
    pending: BTreeMap<u64, Pending>,
    declared_fps: Option<f64>,
}

impl DecodeStage {
    pub fn new(limits: StreamLimits, spares: Arc<Spares>) -> Self {
        Self {
            limits,
            spares,
            phase: Phase::NoHeader,
            header: None,
            pending: BTreeMap::new(),
            declared_fps: None,
        }
    }

    /// What the stream's own header says.
    pub fn declared_fps(&self) -> Option<f64> {
        self.declared_fps
    }

    /// What the decoder was opened with, if anybody can be told.
    pub fn need(&self) -> Option<CodecNeed> {
        let (codec, record) = self.header.as_ref()?;
        Need::decoder(*codec, record, self.pixels_max()).encode()
    }

    /// A header: the same again changes nothing; a new one ends the old stream first.
    pub fn header(&mut self, codec: VideoCodec, record: &[u8], out: &mut Vec<Decoded>) {
        if self.header.as_ref().is_some_and(|(known, bytes)| *known == codec && bytes == record) {
            return;
        }
        self.finish(out);
        self.header = Some((codec, record.to_vec()));
        self.phase = match self.open(codec, record) {
            Ok(decoder) => {
                out.push(Decoded::Event(Event::DecoderOpened { codec }));
                Phase::Waiting(decoder, SkipReason::NoKeyframeYet)
            }
            Err(refusal) => {
                out.push(Decoded::Event(Event::VideoRefused(refusal)));
                Phase::Refused
            }
        };
    }

    /// No rung needs the frames of the stream that begins now.
    pub fn nothing_to_encode(&mut self) {
        self.header = None;
        self.phase = Phase::Idle;
    }

    /// One picture's packet.
    pub fn packet(
        &mut self,
        index: u64,
        pts_ms: i64,
        idr: IsIdr,
        payload: &[u8],
        out: &mut Vec<Decoded>,
    ) {
        let skip = |reason| Decoded::Skipped { index, reason };
        let mut decoder = match std::mem::replace(&mut self.phase, Phase::NoHeader) {
            Phase::NoHeader => {
                out.push(skip(SkipReason::NoHeader));
                return;
            }
            Phase::Refused => {
                self.phase = Phase::Refused;
                out.push(skip(SkipReason::Refused));
                return;
            }
            Phase::Idle => {
                self.phase = Phase::Idle;
                out.push(skip(SkipReason::NothingToEncode));
                return;
            }
            Phase::Waiting(decoder, reason) if idr == IsIdr::Other => {
                self.phase = Phase::Waiting(decoder, reason);
                out.push(skip(reason));
                return;
            }
            Phase::Waiting(decoder, _) | Phase::Running(decoder) => decoder,
        };
        #[cfg(feature = "failpoints")]
        super::poison::obey(payload);
        self.pending.insert(index, Pending { pts_ms, idr });
        let sent = decoder.send(payload, i64::try_from(index).unwrap_or(i64::MAX));
        let result = sent.and_then(|()| self.receive(&mut decoder, out));
        match result {
            Ok(()) => self.phase = Phase::Running(decoder),
            Err(error) => {
                out.push(Decoded::Event(Event::DecodeError { source_index: index, error }));
                // What was delayed comes out first, so that order and time are kept.
                self.empty(&mut decoder, Some(index), out);
                self.phase = Phase::Waiting(decoder, SkipReason::AfterError);
            }
        }
        while self.pending.len() > DECODER_PACKETS_MAX {
            if let Some((index, _)) = self.pending.pop_first() {
                out.push(Decoded::Skipped { index, reason: SkipReason::NoFrame });
            }
        }
    }

    /// Gives what is inside and decodes nothing until the next IDR.
    pub fn drop_to_keyframe(&mut self, out: &mut Vec<Decoded>) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::NoHeader) {
            Phase::Running(mut decoder) => {
                self.empty(&mut decoder, None, out);
                Phase::Waiting(decoder, SkipReason::Overload)
            }
            Phase::Waiting(decoder, reason) => Phase::Waiting(decoder, reason),
            Phase::Refused => Phase::Refused,
            Phase::Idle => Phase::Idle,
            Phase::NoHeader => Phase::NoHeader,
        };
    }

    /// Gives everything that is inside; the decoder is used up.
    pub fn finish(&mut self, out: &mut Vec<Decoded>) {
        match std::mem::replace(&mut self.phase, Phase::NoHeader) {
            Phase::Running(mut decoder) => self.empty(&mut decoder, None, out),
            Phase::Waiting(..) | Phase::Refused | Phase::Idle | Phase::NoHeader => {}
        }
    }

    fn open(&mut self, codec: VideoCodec, record: &[u8]) -> Result<VideoDecoder, Refusal> {
        let shape = probe::probe(codec, record).ok_or(Refusal::UnreadableHeader)?;
        let limits = &self.limits;
        let (long, short) = (shape.width.max(shape.height), shape.width.min(shape.height));
        let long_max = limits.width_max.max(limits.height_max);
        let short_max = limits.width_max.min(limits.height_max);
        if long > long_max || short > short_max {
            return Err(Refusal::PictureTooLarge { width: shape.width, height: shape.height });
        }
        let fps_max = f64::from(limits.fps_max) * 1.02;
        if let Some(fps) = shape.fps.filter(|fps| *fps > fps_max) {
            return Err(Refusal::FrameRateTooHigh { fps });
        }
        self.declared_fps = shape.fps;
        self.spares.decoder(codec, record, self.pixels_max()).map_err(Refusal::Decoder)
    }

    /// The decoder counts whole macroblocks and some more.
    fn pixels_max(&self) -> u64 {
        let padded = |side: u32| u64::from(side.next_multiple_of(16) + 64);
        padded(self.limits.width_max) * padded(self.limits.height_max)
    }

    /// Ends the decoder's current sequence: its frames come out, what gives none is skipped.
    /// `culprit` is the packet that was refused.
    fn empty(&mut self, decoder: &mut VideoDecoder, culprit: Option<u64>, out: &mut Vec<Decoded>) {
        // Errors here end the drain; what did not come out is skipped below.
        let _ = decoder.drain().and_then(|()| self.receive(decoder, out));
        decoder.restart();
        for index in std::mem::take(&mut self.pending).into_keys() {
            let undecodable = culprit == Some(index);
            let reason = if undecodable { SkipReason::Undecodable } else { SkipReason::NoFrame };
            out.push(Decoded::Skipped { index, reason });
        }
    }

    fn receive(
        &mut self,
        decoder: &mut VideoDecoder,
        out: &mut Vec<Decoded>,
    ) -> Result<(), LibavError> {
        while let Some(decoded) = decoder.receive()? {
            self.account(decoded, decoder.reorder_depth(), out);
        }
        Ok(())
    }

    fn account(&mut self, decoded: DecodedFrame, depth: u32, out: &mut Vec<Decoded>) {
        let DecodedFrame { frame, index, health } = decoded;
        let known = u64::try_from(index).ok().and_then(|i| Some((i, self.pending.remove(&i)?)));
        let Some((index, Pending { pts_ms, idr })) = known else {
            out.push(Decoded::Event(Event::FrameWithoutPacket));
            return;
        };
        // Nothing of before an IDR comes after it, and without reordering nothing earlier does.
        let bound = if depth == 0 || idr == IsIdr::Idr { Some(index) } else { None };
        if let Some(bound) = bound {
            let later = self.pending.split_off(&bound);
            for index in std::mem::replace(&mut self.pending, later).into_keys() {
                out.push(Decoded::Skipped { index, reason: SkipReason::NoFrame });
            }
        }
        match health {
            Health::Sound => {}
            Health::Damaged => {
                out.push(Decoded::Event(Event::DamagedFrame { source_index: index }))
            }
        }
        out.push(Decoded::Frame(SourceFrame { index, pts_ms, idr, frame }));
    }
}
