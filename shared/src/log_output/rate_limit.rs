//! So many per window for each source of noise; what was held back is counted and told.
//!
//! A window begins with a source's first event and ends `window` later. Sources beyond
//! `sources_max` share one allowance. Time is an input.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A limit per source `K`.
#[derive(Debug)]
pub struct RateLimit<K> {
    per_window: u32,
    window: Duration,
    sources_max: usize,
    sources: HashMap<K, Window>,
    /// All sources that found no place of their own.
    others: Option<Window>,
}

/// May this event be logged?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Yes; `suppressed` events of this source were held back before it and not yet told.
    Allow {
        suppressed: u64,
    },
    Suppressed,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    allowed: u32,
    suppressed: u64,
}

impl<K: Eq + Hash> RateLimit<K> {
    #[must_use]
    pub fn new(per_window: u32, window: Duration, sources_max: usize) -> Self {
        Self { per_window, window, sources_max, sources: HashMap::new(), others: None }
    }

    /// Counts one event of `source`.
    pub fn admit(&mut self, source: K, now: Instant) -> Admit {
        let (per_window, length) = (self.per_window, self.window);
        if !self.sources.contains_key(&source) && self.sources.len() >= self.sources_max {
            // Windows that ended with nothing left to tell are only kept for want of pressure.
            self.sources.retain(|_, window| !window.ended(length, now) || window.suppressed > 0);
        }
        let window = if self.sources.len() < self.sources_max || self.sources.contains_key(&source)
        {
            self.sources.entry(source).or_insert_with(|| Window::new(now))
        } else {
            self.others.get_or_insert_with(|| Window::new(now))
        };
        window.admit(per_window, length, now)
    }

    /// Windows that have ended with events held back, for a periodic report; `None` stands for
    /// the sources without a place of their own. Their counts are told once.
    pub fn take_suppressed(&mut self, now: Instant) -> Vec<(Option<K>, u64)> {
        let length = self.window;
        let ended = self.sources.extract_if(|_, window| window.ended(length, now));
        let mut told: Vec<_> = ended
            .filter(|(_, window)| window.suppressed > 0)
            .map(|(source, window)| (Some(source), window.suppressed))
            .collect();
        if let Some(window) = self.others.take_if(|window| window.ended(length, now))
            && window.suppressed > 0
        {
            told.push((None, window.suppressed));
        }
        told
    }
}

impl Window {
    fn new(began: Instant) -> Self {
        Self { began, allowed: 0, suppressed: 0 }
    }

    fn ended(&self, length: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= length
    }

    fn admit(&mut self, per_window: u32, length: Duration, now: Instant) -> Admit {
        if self.ended(length, now) {
            self.began = now;
            self.allowed = 0;
        }
        if self.allowed < per_window {
            self.allowed += 1;
            Admit::Allow { suppressed: std::mem::take(&mut self.suppressed) }
        } else {
            self.suppressed += 1;
            Admit::Suppressed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(10);
    const FRESH: Admit = Admit::Allow { suppressed: 0 };

    #[test]
    fn a_source_is_allowed_n_per_window_and_then_told_what_was_held_back() {
        let mut limit = RateLimit::new(2, WINDOW, 8);
        let start = clock::now();
        let admitted: Vec<_> = (0..5).map(|_| limit.admit("a", start)).collect();
        let held = Admit::Suppressed;
        assert_eq!(admitted, [FRESH, FRESH, held, held, held]);
        assert_eq!(limit.admit("b", start), FRESH, "another source has its own allowance");
        assert_eq!(limit.admit("a", start + WINDOW), Admit::Allow { suppressed: 3 });
        assert_eq!(limit.admit("a", start + WINDOW), FRESH, "a count is told once");
    }

    #[test]
    fn a_source_that_fell_silent_is_told_by_the_periodic_report_and_forgotten() {
        let mut limit = RateLimit::new(1, WINDOW, 8);
        let start = clock::now();
        for _ in 0..4 {
            limit.admit("a", start);
        }
        limit.admit("quiet", start);
        assert_eq!(limit.take_suppressed(start), []);
        assert_eq!(limit.take_suppressed(start + WINDOW), [(Some("a"), 3)]);
        assert_eq!(limit.take_suppressed(start + WINDOW), []);
        assert!(limit.sources.is_empty());
    }

    #[test]
    fn sources_beyond_the_bound_share_one_allowance() {
        let mut limit = RateLimit::new(1, WINDOW, 2);
        let start = clock::now();
        assert_eq!(limit.admit(1, start), FRESH);
        assert_eq!(limit.admit(2, start), FRESH);
        assert_eq!(limit.admit(3, start), FRESH);
        assert_eq!(limit.admit(4, start), Admit::Suppressed);
        assert_eq!(limit.take_suppressed(start + WINDOW), [(None, 1)]);
    }

    proptest! {
        /// Whatever comes: bounded memory, and every event is either allowed or told.
        #[test]
        fn every_event_is_allowed_or_told_and_memory_is_bounded(
            events in prop::collection::vec((0_u8..20, 0_u64..4000), 0..300),
        ) {
            let mut limit = RateLimit::new(2, WINDOW, 4);
            let mut now = clock::now();
            let (mut allowed, mut told) = (0_u64, 0_u64);
            for (source, after_ms) in &events {
                now += Duration::from_millis(*after_ms);
                match limit.admit(*source, now) {
                    Admit::Allow { suppressed } => {
                        allowed += 1;
                        told += suppressed;
                    }
                    Admit::Suppressed => {}
                }
                prop_assert!(limit.sources.len() <= 4);
            }
            let rest: u64 = limit.take_suppressed(now + WINDOW).iter().map(|(_, n)| n).sum();
            prop_assert_eq!(allowed + told + rest, u64::try_from(events.len()).unwrap());
        }
    }
}
