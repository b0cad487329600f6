//! Sound: decode → 48 kHz → a grid of samples without holes → AAC-LC.
//!
//! Positions count samples at 48 kHz from timestamp zero. The first packet's timestamp sets the
//! grid; from then on samples are counted and timestamps are only looked at:
//! - later than the grid by more than 100 ms: silence fills the gap, or after ten seconds the
//!   position jumps by whole frames;
//! - earlier by more than that: the packet is dropped;
//! - a drift between is averaged, and above 10 ms played out by two samples in a thousand.
//!
//! The encoder's packets carry the position of what a decoder gives for them: the first one,
//! which is priming alone, is left out, so sound keeps its place beside the picture.

use super::{EncodedAudio, PipelineEvent as Event, PipelineOutput as Output};
use crate::libav::{
    AAC_FRAME_SAMPLES, AacDecoder, AacEncoder, AacPacket, LibavError, Resampler, Samples,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::limits::SILENCE_FILLED_MAX_MS;

const RATE: u32 = 48_000;
const SAMPLES_PER_MS: i64 = 48;
const FRAME: i64 = 1024;
/// Beyond it a timestamp is no jitter.
const GAP_SAMPLES: i64 = 100 * SAMPLES_PER_MS;
/// Mean deviation from which drift is played out, and at which that ends.
const DRIFT_BEGIN: i64 = 10 * SAMPLES_PER_MS;
const DRIFT_END: i64 = 2 * SAMPLES_PER_MS;
/// Packets over which the deviation is averaged.
const DRIFT_PACKETS: i64 = 64;
/// Frames an encoder must have seen before a packet sounds as in an unbroken encode, and the
/// same again for the decoder's and the resampler's own past.
const PRE_ROLL_FRAMES: i64 = 4;
const HISTORY_FRAMES: i64 = 6;
/// Source packets whose position is remembered.
const HISTORY_PACKETS_MAX: usize = 64;

/// From where a follower has to feed packets to go on with the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioResume {
    /// Source-log index of the packet to begin with.
    pub source_index: u64,
    /// Where its samples begin.
    pub pts_samples: i64,
    /// Position of the packet that is wanted next.
    pub next_pts_samples: i64,
}

enum Gate {
    Closed,
    /// Packets from this position on are given.
    From(i64),
}

/// Is the mean deviation being played out?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drift {
    Tolerated,
    Lengthen,
    Shorten,
}

pub struct AudioStage {
    bitrate_bps: u64,
    config: Vec<u8>,
    decoder: Option<AacDecoder>,
    resampler: Option<Resampler>,
    encoder: Option<AacEncoder>,
    gate: Gate,
    resume: Option<AudioResume>,
    /// Samples that wait for a whole frame; the position of the first.
    queue: Vec<Vec<f32>>,
    queue_pts: Option<i64>,
    /// Samples at the head that lie before the first frame's boundary.
    skip: usize,
    /// Output samples of the last packet, for those that cannot be decoded.
    last_length: usize,
    deviation: i64,
    drift: Drift,
    history: VecDeque<(u64, i64)>,
    newest: u64,
}

impl AudioStage {
    pub fn fresh(bitrate_bps: u64) -> Self {
        Self {
            bitrate_bps,
            config: Vec::new(),
            decoder: None,
            resampler: None,
            encoder: None,
            gate: Gate::From(i64::MIN),
            resume: None,
            queue: Vec::new(),
            queue_pts: None,
            skip: 0,
            last_length: AAC_FRAME_SAMPLES,
            deviation: 0,
            drift: Drift::Tolerated,
            history: VecDeque::new(),
            newest: 0,
        }
    }

    pub fn following(bitrate_bps: u64, resume: Option<AudioResume>) -> Self {
        Self { gate: Gate::Closed, resume, ..Self::fresh(bitrate_bps) }
    }

    /// Packets from this position on are given; without one, from the next on.
    pub fn go_live(&mut self, next_pts_samples: Option<i64>, out: &mut Vec<Output>) {
        if let Some(next) = next_pts_samples
            && self.queue_pts.is_some()
            && failpoint::skips(Point::SoundPreRoll)
        {
            self.forget_the_past(next);
        }
        self.gate = Gate::From(next_pts_samples.unwrap_or(i64::MIN));
        if let Some(encoder) = &self.encoder {
            out.push(Output::AudioHeader { asc: encoder.config().to_vec() });
        }
    }

    /// Begins with the next packet, as a follower would that was never fed the ones before it.
    fn forget_the_past(&mut self, next_pts_samples: i64) {
        let (position, channels) = (self.position(), self.queue.len());
        let before = std::mem::replace(self, Self::fresh(self.bitrate_bps));
        self.decoder = AacDecoder::open(&before.config).ok();
        self.encoder = AacEncoder::open(RATE, channels, self.bitrate_bps).ok();
        (self.config, self.newest) = (before.config, before.newest);
        self.queue = vec![Vec::new(); channels];
        self.queue_pts = Some(next_pts_samples);
        // What the past would have brought.
        let lead = position - next_pts_samples;
        self.skip = usize::try_from(-lead).unwrap_or(0);
        self.silence(usize::try_from(lead).unwrap_or(0));
    }

    /// An AudioSpecificConfig; the same again changes nothing.
    pub fn header(&mut self, index: u64, config: &[u8], out: &mut Vec<Output>) {
        if self.decoder.is_some() && self.config == config {
            return;
        }
        self.config = config.to_vec();
        match AacDecoder::open(config) {
            Ok(decoder) => self.decoder = Some(decoder),
            Err(error) => {
                self.decoder = None;
                out.push(error_event(index, error));
            }
        }
    }

    /// One raw AAC frame.
    pub fn packet(&mut self, index: u64, dts_ms: i64, payload: &[u8], out: &mut Vec<Output>) {
        let too_early = self.resume.is_some_and(|resume| index < resume.source_index);
        let Some(decoder) = &mut self.decoder else { return };
        if too_early {
            return;
        }
        let decoded = decoder.decode(payload);
        self.newest = index;
        let expected = dts_ms.saturating_mul(SAMPLES_PER_MS);
        let first = self.queue_pts.is_none();
        if first && let Err(error) = self.begin(index, expected, &decoded, out) {
            out.push(error_event(index, error));
            return;
        }
        let deviation = expected.saturating_sub(self.position());
        if deviation < -GAP_SAMPLES {
            let samples = u64::try_from(self.last_length).unwrap_or(0);
            out.push(Output::Event(Event::AudioOverlapDropped { samples }));
            return;
        }
        if deviation > GAP_SAMPLES {
            self.fill_gap(deviation, out);
        } else {
            self.watch_drift(deviation);
        }
        self.remember(index);
        let silent = first && self.resume.is_some();
        match decoded.and_then(|samples| self.convert(samples)) {
            Ok(mut samples) => {
                // Without the packet before it, what a decoder gives is half of the sound.
                if silent {
                    samples.channels.iter_mut().for_each(|channel| channel.fill(0.0));
                }
                self.append(samples);
            }
            Err(error) => {
                out.push(error_event(index, error));
                self.silence(self.last_length);
            }
        }
        self.encode(out);
    }

    /// What is inside comes out; the last frame is filled up with silence.
    pub fn finish(&mut self, out: &mut Vec<Output>) {
        if self.queue_pts.is_none() {
            return;
        }
        self.flush_resampler();
        let rest = self.queued() % AAC_FRAME_SAMPLES;
        if rest > 0 {
            self.silence(AAC_FRAME_SAMPLES - rest);
        }
        // One more frame pushes the last one out of the encoder.
        self.silence(AAC_FRAME_SAMPLES);
        self.encode(out);
    }

    /// Opens the encoder and sets the grid with the first packet.
    fn begin(
        &mut self,
        index: u64,
        expected: i64,
        decoded: &Result<Samples, LibavError>,
        out: &mut Vec<Output>,
    ) -> Result<(), LibavError> {
        if self.encoder.is_none() {
            let channels = decoded.as_ref().map_err(Clone::clone)?.channels.len().clamp(1, 2);
            let encoder = AacEncoder::open(RATE, channels, self.bitrate_bps)?;
            self.queue = vec![Vec::new(); channels];
            out.push(Output::Event(Event::AudioOpened { channels }));
            match self.gate {
                Gate::Closed => {}
                Gate::From(_) => out.push(Output::AudioHeader { asc: encoder.config().to_vec() }),
            }
            self.encoder = Some(encoder);
        }
        let start = match self.resume {
            None => expected,
            Some(resume) => {
                let known = index == resume.source_index;
                let position = if known { resume.pts_samples } else { expected };
                let latest = resume.next_pts_samples - PRE_ROLL_FRAMES * FRAME;
                if position > latest {
                    // The log does not reach back far enough: silence leads in.
                    latest
                } else {
                    let to_boundary = (resume.next_pts_samples - position).rem_euclid(FRAME);
                    self.skip = usize::try_from(to_boundary).unwrap_or(0);
                    position + to_boundary
                }
            }
        };
        self.queue_pts = Some(start);
        if let Gate::From(from) = &mut self.gate {
            *from = (*from).max(start);
        }
        if let Some(resume) = self.resume {
            let position = if index == resume.source_index { resume.pts_samples } else { expected };
            let lead = (position - start).clamp(0, GAP_SAMPLES);
            self.silence(usize::try_from(lead).unwrap_or(0));
        }
        Ok(())
    }

    /// Where the next decoded sample belongs.
    fn position(&self) -> i64 {
        let inside = self.resampler.as_ref().map_or(0, Resampler::delay);
        let queued = i64::try_from(self.queued()).unwrap_or(0);
        let skip = i64::try_from(self.skip).unwrap_or(0);
        self.queue_pts.unwrap_or(0) + queued + inside - skip
    }

    fn queued(&self) -> usize {
        self.queue.first().map_or(0, Vec::len)
    }

    fn fill_gap(&mut self, deviation: i64, out: &mut Vec<Output>) {
        self.flush_resampler();
        let mut gap = deviation;
        if gap > SILENCE_FILLED_MAX_MS * SAMPLES_PER_MS {
            // The frame begun is completed, then the position jumps by whole frames.
            let rest = i64::try_from(self.queued()).unwrap_or(0).rem_euclid(FRAME);
            let complete = (FRAME - rest) % FRAME;
            self.silence(usize::try_from(complete).unwrap_or(0));
            self.encode(out);
            gap -= complete;
            let jump = gap - gap % FRAME;
            gap -= jump;
            self.queue_pts = self.queue_pts.map(|pts| pts + jump);
            out.push(Output::Event(Event::AudioJumped {
                samples: u64::try_from(jump).unwrap_or(0),
            }));
        } else {
            let samples = u64::try_from(gap).unwrap_or(0);
            out.push(Output::Event(Event::AudioGapFilled { samples }));
        }
        self.silence(usize::try_from(gap).unwrap_or(0));
        self.deviation = 0;
        self.drift = Drift::Tolerated;
    }

    fn watch_drift(&mut self, deviation: i64) {
        // In units of 1/64 sample, so that small drifts are not rounded away.
        self.deviation += deviation - self.deviation / DRIFT_PACKETS;
        let mean = self.deviation / DRIFT_PACKETS;
        self.drift = match self.drift {
            Drift::Tolerated if mean > DRIFT_BEGIN => Drift::Lengthen,
            Drift::Tolerated if mean < -DRIFT_BEGIN => Drift::Shorten,
            Drift::Lengthen if mean < DRIFT_END => Drift::Tolerated,
            Drift::Shorten if mean > -DRIFT_END => Drift::Tolerated,
            Drift::Tolerated | Drift::Lengthen | Drift::Shorten => self.drift,
        };
    }

    fn remember(&mut self, index: u64) {
        self.history.push_back((index, self.position()));
        if self.history.len() > HISTORY_PACKETS_MAX {
            self.history.pop_front();
        }
    }

    /// To 48 kHz and our channels.
    fn convert(&mut self, samples: Samples) -> Result<Samples, LibavError> {
        if samples.is_empty() {
            return Ok(Samples { rate: RATE, channels: vec![Vec::new(); self.queue.len()] });
        }
        if samples.rate == RATE && samples.channels.len() == self.queue.len() {
            self.flush_resampler();
            return Ok(samples);
        }
        if !self.resampler.as_ref().is_some_and(|resampler| resampler.fits(&samples)) {
            self.flush_resampler();
        }
        let mut resampler = match self.resampler.take() {
            Some(resampler) => resampler,
            None => Resampler::new(samples.rate, samples.channels.len(), RATE, self.queue.len())?,
        };
        let converted = resampler.convert(&samples);
        self.resampler = Some(resampler);
        converted
    }

    /// What the old converter still holds comes first.
    fn flush_resampler(&mut self) {
        if let Some(mut resampler) = self.resampler.take()
            && let Ok(rest) = resampler.flush()
        {
            self.append(rest);
        }
    }

    fn append(&mut self, samples: Samples) {
        let length = samples.len();
        if length > 0 {
            self.last_length = length;
        }
        for (queue, channel) in self.queue.iter_mut().zip(&samples.channels) {
            match self.drift {
                Drift::Tolerated => queue.extend_from_slice(channel),
                Drift::Lengthen => stretch(channel, length + 2, queue),
                Drift::Shorten => stretch(channel, length.saturating_sub(2), queue),
            }
        }
        self.drop_skipped();
    }

    fn silence(&mut self, samples: usize) {
        for queue in &mut self.queue {
            queue.resize(queue.len() + samples, 0.0);
        }
        self.drop_skipped();
    }

    fn drop_skipped(&mut self) {
        let dropped = self.skip.min(self.queued());
        for queue in &mut self.queue {
            queue.drain(..dropped);
        }
        self.skip -= dropped;
    }

    fn encode(&mut self, out: &mut Vec<Output>) {
        let (Some(encoder), Some(mut pts)) = (&mut self.encoder, self.queue_pts) else { return };
        let mut at = 0;
        let queued = self.queue.first().map_or(0, Vec::len);
        let mut packets = Vec::new();
        while at + AAC_FRAME_SAMPLES <= queued {
            let frame: Vec<&[f32]> =
                self.queue.iter().map(|queue| &queue[at..at + AAC_FRAME_SAMPLES]).collect();
            match encoder.encode(&frame, pts) {
                Ok(packet) => packets.extend(packet),
                Err(error) => out.push(error_event(self.newest, error)),
            }
            at += AAC_FRAME_SAMPLES;
            pts += FRAME;
        }
        for queue in &mut self.queue {
            queue.drain(..at);
        }
        self.queue_pts = Some(pts);
        for packet in packets {
            self.give(packet, out);
        }
    }

    fn give(&self, packet: AacPacket, out: &mut Vec<Output>) {
        match self.gate {
            Gate::From(from) if packet.pts_samples >= from => {}
            Gate::From(_) | Gate::Closed => return,
        }
        let next_pts_samples = packet.pts_samples + FRAME;
        let latest = next_pts_samples - HISTORY_FRAMES * FRAME;
        let anchor = self
            .history
            .iter()
            .rfind(|(_, position)| *position <= latest)
            .or_else(|| self.history.front());
        let (source_index, pts_samples) = anchor.copied().unwrap_or((self.newest, 0));
        out.push(Output::Audio(EncodedAudio {
            pts_samples: packet.pts_samples,
            pts_ms: packet.pts_samples.div_euclid(SAMPLES_PER_MS),
            source_index: self.newest,
            resume: AudioResume { source_index, pts_samples, next_pts_samples },
            payload: packet.payload,
        }));
    }
}

fn error_event(source_index: u64, error: LibavError) -> Output {
    Output::Event(Event::AudioError { source_index, error })
}

/// Appends `channel` with another number of samples, interpolated.
fn stretch(channel: &[f32], length: usize, into: &mut Vec<f32>) {
    let Some(last) = channel.last() else { return };
    for position in 0..length {
        let scaled = position * channel.len();
        let (index, part) = (scaled / length, scaled % length);
        let here = channel.get(index).unwrap_or(last);
        let there = channel.get(index + 1).unwrap_or(last);
        let ratio = |n: usize| f32::from(u16::try_from(n).unwrap_or(u16::MAX));
        into.push(here + (there - here) * ratio(part) / ratio(length));
    }
}
