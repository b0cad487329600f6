//! How much a publisher sent lately: a sliding window of `BITRATE_WINDOW`. Pure.

use std::time::Instant;
use tasuki_shared::limits::BITRATE_WINDOW;

const BINS: usize = 20;
const BIN_MS: u64 = BITRATE_WINDOW.as_secs() * 1000 / BINS as u64;

/// See the module. An adopted session begins with an empty window.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    bins: [u64; BINS],
    /// Of all bins.
    total: u64,
    /// Bin of the newest bytes, counted from `began`.
    newest: u64,
    began: Instant,
}

impl Arrived {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { bins: [0; BINS], total: 0, newest: 0, began: now }
    }

    pub fn add(&mut self, bytes: u64, now: Instant) {
        self.pass_to(now);
        self.bins[place(self.newest)] += bytes;
        self.total += bytes;
    }

    /// Over the whole window, also while less of it has passed.
    pub fn bits_per_second(&mut self, now: Instant) -> u64 {
        self.pass_to(now);
        self.total.saturating_mul(8) / BITRATE_WINDOW.as_secs().max(1)
    }

    fn pass_to(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.began);
        let at = (since.as_secs() * 1000 + u64::from(since.subsec_millis())) / BIN_MS;
        let passed = at.saturating_sub(self.newest).min(BINS as u64);
        for behind in 0..passed {
            self.total -= std::mem::take(&mut self.bins[place(at - behind)]);
        }
        self.newest = self.newest.max(at);
    }
}

fn place(bin: u64) -> usize {
    usize::try_from(bin % BINS as u64).expect("below the number of bins")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tasuki_shared::clock;

    #[test]
    fn a_burst_counts_as_its_average_over_the_window_and_is_forgotten_after_it() {
        let start = clock::now();
        let mut arrived = Arrived::new(start);
        arrived.add(10_000_000, start);
        assert_eq!(arrived.bits_per_second(start), 8_000_000);
        assert_eq!(arrived.bits_per_second(start + Duration::from_secs(9)), 8_000_000);
        assert_eq!(arrived.bits_per_second(start + Duration::from_secs(10)), 0);
        assert_eq!(arrived.bits_per_second(start + Duration::from_secs(1000)), 0);
    }

    #[test]
    fn a_steady_rate_is_measured_as_it_is() {
        let start = clock::now();
        let mut arrived = Arrived::new(start);
        for step in 0..1000_u32 {
            arrived.add(1_000, start + Duration::from_millis(100) * step);
        }
        assert_eq!(arrived.bits_per_second(start + Duration::from_millis(99_900)), 80_000);
    }
}
