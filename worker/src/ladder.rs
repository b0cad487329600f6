//! What becomes of each rung, given the source. Pure; decided once, by the first header.
//!
//! Never larger than the source; the aspect is kept; sides are even. A rung that the source
//! already is passes through untouched.

use crate::media::packet::VideoCodec;
use serde::{Deserialize, Serialize};
use tasuki_shared::plan::{EncodedRung, RungKind, RungPlan};

/// What is known of the source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SourceShape {
    pub codec: VideoCodec,
    pub width: u32,
    pub height: u32,
    /// As declared; unknown is not a match.
    pub bitrate_bps: Option<u64>,
}

/// May a rung that equals the source be the source's own packets?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matching {
    Allowed,
    /// Something is drawn into the picture, so the source's packets are not what is wanted.
    Forbidden,
}

/// Why a rung passes the source's packets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PassReason {
    /// The plan says so.
    Planned,
    /// The source is what the rung would have been: H.264, this size, at most this bitrate.
    Matches,
}

/// Why a rung has no output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OffReason {
    LargerThanSource,
}

/// What becomes of one rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RungDecision {
    Passing(PassReason),
    Encode { width: u32, height: u32 },
    Off(OffReason),
}

/// Decides the whole ladder; the result has one entry for each planned rung.
#[must_use]
pub fn decide(rungs: &[RungPlan], source: SourceShape, matching: Matching) -> Vec<RungDecision> {
    rungs
        .iter()
        .map(|rung| match &rung.kind {
            RungKind::Source => RungDecision::Passing(PassReason::Planned),
            RungKind::Encoded(encoded) => decide_encoded(encoded, source, matching),
        })
        .collect()
}

fn decide_encoded(rung: &EncodedRung, source: SourceShape, matching: Matching) -> RungDecision {
    let short = source.width.min(source.height);
    let wanted = even(rung.short_side);
    // A source with an odd side loses one line at most; that is no enlargement.
    if wanted > short || wanted == 0 {
        return RungDecision::Off(OffReason::LargerThanSource);
    }
    let (width, height) = if source.width >= source.height {
        (even_part(source.width, wanted, source.height), wanted)
    } else {
        (wanted, even_part(source.height, wanted, source.width))
    };
    let within = source.bitrate_bps.is_some_and(|bitrate| bitrate <= rung.bitrate_bps);
    let same = source.codec == VideoCodec::H264 && (width, height) == (source.width, source.height);
    if same && within && matching == Matching::Allowed {
        RungDecision::Passing(PassReason::Matches)
    } else {
        RungDecision::Encode { width, height }
    }
}

/// The largest even number that is not above `value`.
fn even(value: u32) -> u32 {
    value & !1
}

/// `long × numerator / denominator`, to the nearest even number, never above `long`.
fn even_part(long: u32, numerator: u32, denominator: u32) -> u32 {
    let twice = 2 * u64::from(denominator.max(1));
    let halves = (u64::from(long) * u64::from(numerator) + twice / 2) / twice;
    let rounded = u32::try_from(halves * 2).unwrap_or(u32::MAX);
    rounded.min(even(long)).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tasuki_shared::plan::LogSize;

    fn rung(short_side: u32, bitrate_bps: u64) -> RungPlan {
        let log = LogSize { payload_bytes: 4096, index_entries: 64 };
        let encoded =
            EncodedRung { short_side, bitrate_bps, preset: "veryfast".into(), crf: 23.0, log };
        RungPlan { label: format!("{short_side}p"), kind: RungKind::Encoded(encoded) }
    }

    fn source(width: u32, height: u32) -> SourceShape {
        SourceShape { codec: VideoCodec::H264, width, height, bitrate_bps: None }
    }

    fn one(short_side: u32, shape: SourceShape) -> RungDecision {
        decide(&[rung(short_side, 3_000_000)], shape, Matching::Allowed)[0]
    }

    /// A ladder below a landscape and a portrait source has the sizes everybody expects.
    #[test]
    fn the_short_side_is_the_rungs_and_the_aspect_is_the_sources() {
        use RungDecision::Encode;
        assert_eq!(one(720, source(1920, 1080)), Encode { width: 1280, height: 720 });
        assert_eq!(one(480, source(1920, 1080)), Encode { width: 854, height: 480 });
        assert_eq!(one(360, source(1080, 1920)), Encode { width: 360, height: 640 });
        assert_eq!(one(480, source(853, 481)), Encode { width: 852, height: 480 });
        assert_eq!(one(480, source(480, 480)), Encode { width: 480, height: 480 });
    }

    /// Nothing is enlarged.
    #[test]
    fn a_rung_above_the_source_is_off_by_name() {
        let off = RungDecision::Off(OffReason::LargerThanSource);
        assert_eq!(one(1080, source(1280, 720)), off);
        assert_eq!(one(720, source(640, 1280)), off);
    }

    /// Equal size is not enough to pass through: codec and a known bitrate count too, and
    /// nothing may be drawn into the picture.
    #[test]
    fn a_source_that_matches_passes_and_one_that_is_not_known_to_is_encoded() {
        let encode = RungDecision::Encode { width: 1280, height: 720 };
        let known = SourceShape { bitrate_bps: Some(2_500_000), ..source(1280, 720) };
        assert_eq!(one(720, known), RungDecision::Passing(PassReason::Matches));
        assert_eq!(one(720, source(1280, 720)), encode);
        assert_eq!(one(720, SourceShape { bitrate_bps: Some(9_000_000), ..known }), encode);
        assert_eq!(one(720, SourceShape { codec: VideoCodec::Hevc, ..known }), encode);
        let drawn = decide(&[rung(720, 3_000_000)], known, Matching::Forbidden);
        assert_eq!(drawn, [encode]);
    }

    /// The plan's own source rung always passes.
    #[test]
    fn the_source_rung_passes() {
        let plan = RungPlan { label: "source".into(), kind: RungKind::Source };
        let decided = decide(&[plan], source(160, 90), Matching::Forbidden);
        assert_eq!(decided, [RungDecision::Passing(PassReason::Planned)]);
    }

    proptest! {
        /// Whatever the source: sides are even, positive and not above the source's, and the
        /// aspect is off by less than one pair of samples.
        #[test]
        fn sizes_are_even_and_never_above_the_source(
            width in 2u32..8192, height in 2u32..8192, short in 2u32..4320
        ) {
            if let RungDecision::Encode { width: w, height: h } = one(short, source(width, height)) {
                prop_assert!(w % 2 == 0 && h % 2 == 0 && w > 0 && h > 0);
                prop_assert!(w <= width && h <= height);
                let (long, small, l, s) = if width >= height {
                    (width, height, w, h)
                } else {
                    (height, width, h, w)
                };
                let exact = f64::from(long) * f64::from(s) / f64::from(small);
                prop_assert!((exact - f64::from(l)).abs() <= 2.0, "{exact} {l}");
            }
        }
    }
}
