//! How full a rung's rate buffer is after the packets already sent. An encoder that goes on at
//! a seam begins with this fullness, or it would spend a whole buffer at once. Pure.

/// The leaky bucket of one rung: it fills at the rung's ceiling and a picture takes its bits
/// out when it is sent. Its capacity is one second at the ceiling, as the encoder's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateBucket {
    capacity_bits: f64,
    level: RateLevel,
}

/// What the next owner must know of a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLevel {
    /// Of the capacity, 0 to 1.
    pub fullness: f64,
    /// Of the last picture.
    pub pts_ms: Option<i64>,
}

/// Of the capacity. A stream that its ceiling limits never has as much behind an IDR; another one,
/// which an IDR costs nothing, nearly always has.
const LEFT_BEHIND_IDR: f64 = 0.5;
/// x264's own fullness at the start of a stream.
const INITIAL_FULLNESS: f64 = 0.9;

impl RateBucket {
    #[must_use]
    pub fn new(bitrate_bps: u64) -> Self {
        Self::at(bitrate_bps, RateLevel { fullness: INITIAL_FULLNESS, pts_ms: None })
    }

    /// Goes on with the bucket of the last owner.
    #[must_use]
    pub fn at(bitrate_bps: u64, level: RateLevel) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "bitrates are far below 2^52")]
        let capacity_bits = (bitrate_bps as f64).max(1.0);
        Self { capacity_bits, level }
    }

    /// One picture was sent.
    pub fn sent(&mut self, bytes: usize, pts_ms: i64) {
        let mut fullness = self.level.fullness;
        if let Some(last) = self.level.pts_ms {
            let passed = pts_ms.saturating_sub(last).clamp(0, 1000);
            let passed = i32::try_from(passed).unwrap_or(1000);
            fullness = (fullness + f64::from(passed) / 1000.0).min(1.0);
        }
        let bits = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) * 8.0;
        fullness = (fullness - bits / self.capacity_bits).max(0.0);
        self.level = RateLevel { fullness, pts_ms: Some(pts_ms) };
    }

    /// Can a picture of so many bytes be sent in between, and half a buffer is left for others?
    #[must_use]
    pub fn affords(&self, bytes: u32) -> bool {
        let left = self.level.fullness - f64::from(bytes) * 8.0 / self.capacity_bits;
        left >= LEFT_BEHIND_IDR
    }

    #[must_use]
    pub fn level(&self) -> RateLevel {
        self.level
    }

    /// What the next encoder shall begin with, 0 to 1.
    #[must_use]
    pub fn fullness(&self) -> f32 {
        #[expect(clippy::cast_possible_truncation, reason = "a fraction needs no more")]
        let fullness = self.level.fullness as f32;
        fullness.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the ceiling the bucket keeps its level, below it fills up, above it runs empty.
    #[test]
    fn the_fullness_follows_what_was_sent() {
        let run = |bytes: usize| {
            let mut bucket = RateBucket::new(800_000);
            for frame in 0..250 {
                bucket.sent(bytes, frame * 40);
            }
            bucket.fullness()
        };
        assert!((run(4000) - 0.9).abs() < 0.05, "{}", run(4000));
        assert!(run(2000) > 0.95);
        assert!(run(6000) < 0.05);
    }

    /// What an IDR takes is taken from what is there, and half the buffer must be left.
    #[test]
    fn a_bucket_affords_what_leaves_half_of_it() {
        let bucket = |fullness| RateBucket::at(800_000, RateLevel { fullness, pts_ms: None });
        assert!(bucket(0.75).affords(25_000) && !bucket(0.75).affords(25_001));
        assert!(bucket(1.0).affords(50_000) && !bucket(0.4).affords(0));
    }

    /// Split at any picture, the two owners' buckets end as one owner's does: also one that had
    /// run empty long ago, which cannot be told from the last pictures alone.
    #[test]
    fn the_next_owner_goes_on_with_the_level_it_was_left() {
        let bytes = |frame: i64| if frame < 50 { 8000 } else { 4000 };
        let run = |mut bucket: RateBucket, frames: std::ops::Range<i64>| {
            frames.for_each(|frame| bucket.sent(bytes(frame), frame * 40));
            bucket
        };
        let whole = run(RateBucket::new(800_000), 0..400);
        for split in [0, 1, 30, 51, 399] {
            let first = run(RateBucket::new(800_000), 0..split);
            assert_eq!(run(RateBucket::at(800_000, first.level()), split..400), whole);
        }
        let guessed = run(RateBucket::new(800_000), 272..400);
        assert!(guessed.fullness() > whole.fullness() + 0.5, "{guessed:?} {whole:?}");
    }
}
