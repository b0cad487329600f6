//! Chance that can be had again: everything follows from the seed, which a failure prints.

use std::ops::RangeInclusive;
use tasuki_shared::clock;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Chance {
    seed: u64,
    state: u64,
}

impl Chance {
    /// From `$TASUKI_SEED`, or from the clock.
    #[must_use]
    pub fn new() -> Self {
        let given = std::env::var("TASUKI_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(clock::unix_ms);
        Self { seed, state: seed }
    }

    /// What to set `$TASUKI_SEED` to for the same again.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn between(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.draw() % (range.end() - range.start() + 1)
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}
