//! How full a rung's rate buffer is after the packets already sent. An encoder that goes on at
//! a seam begins with this fullness, or it would spend a whole buffer at once. Pure.

use serde::{Deserialize, Serialize};

/// The leaky bucket of one rung: it fills at the rung's ceiling and a picture takes its bits
/// out when it is sent. Its capacity is one second at the ceiling, as the encoder's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateBucket {
    capacity_bits: f64,
    level_bits: f64,
    last_pts_ms: Option<i64>,
}

/// x264's own fullness at the start of a stream.
const INITIAL_FULLNESS: f64 = 0.9;

impl RateBucket {
    #[must_use]
    pub fn new(bitrate_bps: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "bitrates are far below 2^52")]
        let capacity_bits = (bitrate_bps as f64).max(1.0);
        Self { capacity_bits, level_bits: capacity_bits * INITIAL_FULLNESS, last_pts_ms: None }
    }

    /// One picture was sent.
    pub fn sent(&mut self, bytes: usize, pts_ms: i64) {
        if let Some(last) = self.last_pts_ms {
            let passed = i32::try_from((pts_ms - last).clamp(0, 1000)).unwrap_or(1000);
            let filled = self.capacity_bits * f64::from(passed) / 1000.0;
            self.level_bits = (self.level_bits + filled).min(self.capacity_bits);
        }
        self.last_pts_ms = Some(pts_ms);
        let bits = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) * 8.0;
        self.level_bits = (self.level_bits - bits).max(0.0);
    }

    /// What the next encoder shall begin with, 0 to 1.
    #[must_use]
    pub fn fullness(&self) -> f32 {
        #[expect(clippy::cast_possible_truncation, reason = "a fraction needs no more")]
        let fullness = (self.level_bits / self.capacity_bits) as f32;
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
}
