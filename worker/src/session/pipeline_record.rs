//! The pipeline section of the commit record: what was encoded last, what the encoders were made
//! from, how full their rate buffers are, and the heads of the logs the pipeline fills.

use super::record::{BadSection, Put, Take};
use crate::ladder::{OffReason, PassReason, RungDecision};
use crate::libav::{Colour, Ratio};
use crate::pipeline::bucket::RateLevel;
use crate::pipeline::{AudioResume, CutFrame, LadderState};
use std::collections::BTreeMap;
use tasuki_shared::id::RungId;
use tasuki_shared::limits::RUNGS_MAX;
use tasuki_shared::memory::log::LogHeads;

/// See the module. Heads are in the order of the plan's logs, without the source log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PipelineRecord {
    pub last_frame: Option<CutFrame>,
    pub audio: Option<AudioResume>,
    pub ladder: Option<LadderState>,
    /// Of each rung that was encoded.
    pub rates: BTreeMap<RungId, RateLevel>,
    pub heads: Vec<LogHeads>,
}

impl PipelineRecord {
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self { last_frame, audio, ladder, rates, heads } = self;
        into.put_u8(u8::from(last_frame.is_some()));
        if let Some(CutFrame { source_index, pts_ms }) = last_frame {
            into.put_u64(*source_index);
            into.put_u64(pts_ms.cast_unsigned());
        }
        into.put_u8(u8::from(audio.is_some()));
        if let Some(AudioResume { source_index, pts_samples, next_pts_samples }) = audio {
            into.put_u64(*source_index);
            into.put_u64(pts_samples.cast_unsigned());
            into.put_u64(next_pts_samples.cast_unsigned());
        }
        into.put_u8(u8::from(ladder.is_some()));
        if let Some(ladder) = ladder {
            encode_ladder(ladder, into);
        }
        into.put_u8(u8::try_from(rates.len()).expect("a few rungs"));
        for (rung, RateLevel { fullness, pts_ms }) in rates {
            into.put_u8(rung.0);
            into.put_u64(fullness.to_bits());
            into.put_u8(u8::from(pts_ms.is_some()));
            into.put_u64(pts_ms.unwrap_or(0).cast_unsigned());
        }
        into.put_u8(u8::try_from(heads.len()).expect("a few logs"));
        for heads in heads {
            heads.encode(into);
        }
    }

    /// Nothing was encoded, but the logs are where they are: what an adoption that ignores what
    /// was committed does.
    pub fn forget_frames(&mut self) {
        (self.last_frame, self.audio) = (None, None);
    }

    /// An empty section is that of a stream of which nothing was encoded.
    pub fn decode(bytes: &[u8], logs: usize) -> Result<Self, BadSection> {
        if bytes.is_empty() {
            return Ok(Self { heads: vec![LogHeads::empty(); logs], ..Self::default() });
        }
        let mut take = Take::new("pipeline", bytes);
        let last_frame = if present(&mut take)? {
            let (source_index, pts_ms) = (take.u64()?, take.u64()?.cast_signed());
            Some(CutFrame { source_index, pts_ms })
        } else {
            None
        };
        let audio = if present(&mut take)? {
            Some(AudioResume {
                source_index: take.u64()?,
                pts_samples: take.u64()?.cast_signed(),
                next_pts_samples: take.u64()?.cast_signed(),
            })
        } else {
            None
        };
        let ladder = if present(&mut take)? { Some(decode_ladder(&mut take)?) } else { None };
        let rates = decode_rates(&mut take)?;
        if usize::from(take.u8()?) != logs {
            return Err(take.bad("it is of another number of logs than the plan"));
        }
        let mut heads = Vec::with_capacity(logs);
        for _ in 0..logs {
            heads.push(LogHeads::decode(&take.array()?));
        }
        take.end()?;
        Ok(Self { last_frame, audio, ladder, rates, heads })
    }
}

fn present(take: &mut Take<'_>) -> Result<bool, BadSection> {
    match take.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(take.bad("neither there nor not there")),
    }
}

fn decode_rates(take: &mut Take<'_>) -> Result<BTreeMap<RungId, RateLevel>, BadSection> {
    let count = usize::from(take.u8()?);
    if count > RUNGS_MAX {
        return Err(take.bad("more rate buffers than rungs"));
    }
    let mut rates = BTreeMap::new();
    for _ in 0..count {
        let (rung, fullness) = (RungId(take.u8()?), f64::from_bits(take.u64()?));
        if !(0.0..=1.0).contains(&fullness) {
            return Err(take.bad("an impossible rate buffer"));
        }
        let has_pts = present(take)?;
        let pts_ms = take.u64()?.cast_signed();
        rates.insert(rung, RateLevel { fullness, pts_ms: has_pts.then_some(pts_ms) });
    }
    Ok(rates)
}

fn encode_ladder(ladder: &LadderState, into: &mut Vec<u8>) {
    let LadderState { frame_rate, colour, source_width, source_height, rungs } = ladder;
    let Colour { range, primaries, transfer, matrix, sample_aspect } = colour;
    let words =
        [frame_rate.num, frame_rate.den, *range, *primaries, *transfer, *matrix, sample_aspect.num];
    for word in words.into_iter().chain([sample_aspect.den]) {
        into.put_u32(word.cast_unsigned());
    }
    into.put_u32(*source_width);
    into.put_u32(*source_height);
    into.put_u8(u8::try_from(rungs.len()).expect("a few rungs"));
    for rung in rungs {
        let (tag, width, height) = match *rung {
            RungDecision::Passing(PassReason::Planned) => (0, 0, 0),
            RungDecision::Passing(PassReason::Matches) => (1, 0, 0),
            RungDecision::Encode { width, height } => (2, width, height),
            RungDecision::Off(OffReason::LargerThanSource) => (3, 0, 0),
        };
        into.put_u8(tag);
        into.put_u32(width);
        into.put_u32(height);
    }
}

fn decode_ladder(take: &mut Take<'_>) -> Result<LadderState, BadSection> {
    let mut word = || take.u32().map(u32::cast_signed);
    let frame_rate = Ratio { num: word()?, den: word()? };
    let (range, primaries, transfer, matrix) = (word()?, word()?, word()?, word()?);
    let sample_aspect = Ratio { num: word()?, den: word()? };
    let colour = Colour { range, primaries, transfer, matrix, sample_aspect };
    let (source_width, source_height) = (take.u32()?, take.u32()?);
    let count = usize::from(take.u8()?);
    if frame_rate.num <= 0 || frame_rate.den <= 0 || count > RUNGS_MAX {
        return Err(take.bad("an impossible ladder"));
    }
    let mut rungs = Vec::with_capacity(count);
    for _ in 0..count {
        let (tag, width, height) = (take.u8()?, take.u32()?, take.u32()?);
        rungs.push(match tag {
            0 => RungDecision::Passing(PassReason::Planned),
            1 => RungDecision::Passing(PassReason::Matches),
            2 if (2..=16_384).contains(&width) && (2..=16_384).contains(&height) => {
                RungDecision::Encode { width, height }
            }
            3 => RungDecision::Off(OffReason::LargerThanSource),
            _ => return Err(take.bad("an unknown decision on a rung")),
        });
    }
    Ok(LadderState { frame_rate, colour, source_width, source_height, rungs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> PipelineRecord {
        let colour = Colour {
            range: 1,
            primaries: 2,
            transfer: 3,
            matrix: 4,
            sample_aspect: Ratio { num: 1, den: 1 },
        };
        PipelineRecord {
            last_frame: Some(CutFrame { source_index: 77, pts_ms: -5 }),
            audio: Some(AudioResume { source_index: 3, pts_samples: -1024, next_pts_samples: 9 }),
            ladder: Some(LadderState {
                frame_rate: Ratio { num: 30_000, den: 1001 },
                colour,
                source_width: 1920,
                source_height: 1080,
                rungs: vec![
                    RungDecision::Passing(PassReason::Planned),
                    RungDecision::Encode { width: 1280, height: 720 },
                    RungDecision::Off(OffReason::LargerThanSource),
                ],
            }),
            rates: BTreeMap::from([
                (RungId(1), RateLevel { fullness: 0.25, pts_ms: Some(-7) }),
                (RungId(2), RateLevel { fullness: 1.0, pts_ms: None }),
            ]),
            heads: vec![LogHeads::empty(); 2],
        }
    }

    #[test]
    fn what_was_encoded_is_decoded_and_an_empty_section_is_a_stream_at_its_start() {
        let mut bytes = Vec::new();
        record().encode(&mut bytes);
        assert_eq!(PipelineRecord::decode(&bytes, 2), Ok(record()));
        assert!(PipelineRecord::decode(&bytes, 3).is_err());
        assert_eq!(PipelineRecord::decode(&[], 1).unwrap().heads.len(), 1);
    }

    proptest! {
        /// A record that a hostile worker wrote is read or refused, never a panic.
        #[test]
        fn any_bytes_are_a_record_or_refused(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            flip in any::<(prop::sample::Index, u8)>(),
        ) {
            let _total = PipelineRecord::decode(&bytes, 2);
            bytes.clear();
            record().encode(&mut bytes);
            let at = flip.0.index(bytes.len());
            bytes[at] ^= flip.1;
            let _total = PipelineRecord::decode(&bytes, 2);
        }
    }
}
