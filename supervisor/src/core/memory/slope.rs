//! How fast a footprint grows.
//!
//! The slopes of all pairs of points are ordered, as for Theil and Sen's median, but the one at two
//! fifths is taken, over all points and over the newer half, and of these the lower. A median
//! takes a step that has come to rest for growth while about half of the points lie before it; this
//! never does, and costs little where growth is steady.

use std::collections::VecDeque;
use std::time::Duration;
use tasuki_shared::limits::{TREND_POINTS_MAX, TREND_POINTS_MIN};

/// Footprints after purges, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    points: VecDeque<(Duration, u64)>,
    /// Bytes a second; kept, for it is asked for more often than it changes.
    slope: i64,
}

impl Trend {
    pub fn push(&mut self, at: Duration, footprint_bytes: u64) {
        if self.points.len() == TREND_POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back((at, footprint_bytes));
        self.slope = slope(self.points.make_contiguous());
    }

    pub fn last(&self) -> Option<u64> {
        self.points.back().map(|(_, bytes)| *bytes)
    }

    /// Bytes a second; 0 when it does not grow or too little is known.
    pub fn slope(&self) -> i64 {
        self.slope
    }

    /// Until the limit at that slope; `None` if it will not be reached.
    pub fn time_to(&self, limit_bytes: u64) -> Option<Duration> {
        let slope = u64::try_from(self.slope).ok().filter(|slope| *slope > 0)?;
        let left = limit_bytes.saturating_sub(self.last()?);
        Some(Duration::from_secs(left / slope))
    }
}

fn slope(points: &[(Duration, u64)]) -> i64 {
    if points.len() < TREND_POINTS_MIN {
        return 0;
    }
    let newer = &points[points.len() / 2..];
    low_slope(points).min(low_slope(newer)).max(0)
}

/// Of the slopes of all pairs, the one that two fifths lie below.
fn low_slope(points: &[(Duration, u64)]) -> i64 {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (position, (later, high)) in points.iter().enumerate() {
        for (earlier, low) in &points[..position] {
            let millis = i128::try_from((*later - *earlier).as_millis()).unwrap_or(i128::MAX);
            let grown = (i128::from(*high) - i128::from(*low)) * 1000 / millis.max(1);
            slopes.push(i64::try_from(grown).unwrap_or(i64::MAX));
        }
    }
    if slopes.is_empty() {
        return 0;
    }
    let place = (slopes.len() - 1) * 2 / 5;
    *slopes.select_nth_unstable(place).1
}

/// What one would draw without thinking: from the first point to the last. The simulator shows
/// what it does wrong.
pub(super) fn naive(trend: &Trend) -> i64 {
    match (trend.points.front(), trend.points.back()) {
        (Some((earlier, low)), Some((later, high))) if trend.points.len() >= TREND_POINTS_MIN => {
            let millis = i64::try_from((*later - *earlier).as_millis()).unwrap_or(i64::MAX);
            let grown =
                i64::try_from(*high).unwrap_or(i64::MAX) - i64::try_from(*low).unwrap_or(i64::MAX);
            grown.saturating_mul(1000) / millis.max(1)
        }
        (Some(_) | None, Some(_) | None) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn trend(footprints: impl IntoIterator<Item = u64>) -> Trend {
        let mut trend = Trend::default();
        for (n, bytes) in (0..).zip(footprints) {
            trend.push(Duration::from_secs(10 * n), bytes);
        }
        trend
    }

    #[test]
    fn steady_growth_is_measured_through_noise_and_predicts_the_limit() {
        let noise = [0, 3, 1, 4, 1, 5, 2, 0];
        let leaks =
            trend((0..20).map(|n| (100 + 10 * n + noise[usize::try_from(n % 8).unwrap()]) * MIB));
        let per_s = u64::try_from(leaks.slope()).unwrap();
        assert!((9 * MIB / 10..11 * MIB / 10).contains(&per_s), "1 MiB/s: {per_s}");
        let left = leaks.time_to(400 * MIB).unwrap().as_secs();
        assert!((90..130).contains(&left), "{left}");
        assert_eq!(leaks.time_to(100 * MIB), Some(Duration::ZERO), "it is there");
    }

    /// Wherever in the window it lies and whatever the window's length, one step is no growth,
    /// but the line from first to last says so.
    #[test]
    fn a_step_that_has_come_to_rest_is_no_growth() {
        for length in TREND_POINTS_MIN..=TREND_POINTS_MAX {
            for at in 0..=length {
                let step = trend((0..length).map(|n| if n < at { 100 * MIB } else { 300 * MIB }));
                assert_eq!(step.slope(), 0, "{length} points, step at {at}");
                assert!(at == 0 || at == length || naive(&step) > 0);
            }
        }
    }

    #[test]
    fn few_points_and_shrinking_footprints_have_no_slope() {
        assert_eq!(trend((0..7).map(|n| n * 100 * MIB)).slope(), 0);
        let shrinks = trend((0..20).map(|n| (100 - n) * MIB));
        assert_eq!((shrinks.slope(), shrinks.time_to(200 * MIB)), (0, None));
    }
}
