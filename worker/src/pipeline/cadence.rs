//! When pictures come and which of them are IDRs. Pure.

use crate::libav::Ratio;
use crate::media::packet::IsIdr;
use tasuki_shared::limits::IDR_DISTANCE_MAX_MS;

/// What is assumed when nothing declares a frame rate and too little was seen.
const DEFAULT_RATE: Ratio = Ratio { num: 30, den: 1 };
/// Rates outside are not believed.
const RATE_MIN: f64 = 1.0;
const RATE_MAX: f64 = 240.0;

/// The rational number that is meant by a frame rate: a customary one when it is near, else the
/// nearest whole number.
#[must_use]
pub fn rate_of(fps: f64) -> Ratio {
    const CUSTOMARY: [(i32, i32); 8] = [
        (24_000, 1001),
        (24, 1),
        (25, 1),
        (30_000, 1001),
        (30, 1),
        (50, 1),
        (60_000, 1001),
        (60, 1),
    ];
    if !fps.is_finite() || !(RATE_MIN..=RATE_MAX).contains(&fps) {
        return DEFAULT_RATE;
    }
    let distance = |(num, den): &(i32, i32)| (f64::from(*num) / f64::from(*den) - fps).abs() / fps;
    let nearest = CUSTOMARY
        .iter()
        .min_by(|one, other| distance(one).total_cmp(&distance(other)))
        .filter(|near| distance(near) < 0.0007);
    match nearest {
        Some((num, den)) => Ratio { num: *num, den: *den },
        None => {
            #[expect(clippy::cast_possible_truncation, reason = "within 1 to 240, checked above")]
            let whole = fps.round() as i32;
            Ratio { num: whole, den: 1 }
        }
    }
}

/// The rate of frames with these timestamps, in presentation order. Milliseconds are too coarse
/// for thousandths, so the result is a whole number.
#[must_use]
pub fn measured_rate(pts_ms: &[i64]) -> Ratio {
    let (Some(first), Some(last)) = (pts_ms.first(), pts_ms.last()) else { return DEFAULT_RATE };
    let intervals = u32::try_from(pts_ms.len() - 1).unwrap_or(0);
    let Ok(span) = u32::try_from(last - first) else { return DEFAULT_RATE };
    if span == 0 || intervals == 0 {
        return DEFAULT_RATE;
    }
    rate_of((f64::from(intervals) * 1000.0 / f64::from(span)).round())
}

/// Says which pictures are IDRs: those of the source, and so many more that never more than
/// [`IDR_DISTANCE_MAX_MS`] lie between two.
#[derive(Debug)]
pub struct IdrSchedule {
    last_pts_ms: Option<i64>,
    frame_ms: i64,
}

impl IdrSchedule {
    #[must_use]
    pub fn new(rate: Ratio) -> Self {
        let frame_ms = i64::from(rate.den) * 1000 / i64::from(rate.num.max(1));
        Self { last_pts_ms: None, frame_ms }
    }

    /// The next picture in presentation order. `demand` is what the source or a seam asks for.
    pub fn next(&mut self, pts_ms: i64, demand: IsIdr) -> IsIdr {
        let due = match self.last_pts_ms {
            None => true,
            // The next picture, rounded to a millisecond, would lie too far. Time that jumps
            // back begins a new count.
            Some(last) => pts_ms < last || pts_ms + self.frame_ms > last + IDR_DISTANCE_MAX_MS,
        };
        if due || demand == IsIdr::Idr {
            self.last_pts_ms = Some(pts_ms);
            IsIdr::Idr
        } else {
            IsIdr::Other
        }
    }
}

/// A bucket of pictures: as many a second as the plan allows, with some slack for bunches.
#[derive(Debug)]
pub struct RateCap {
    per_second: i64,
    /// Thousandths of a picture.
    level: i64,
    last_pts_ms: Option<i64>,
}

impl RateCap {
    #[must_use]
    pub fn new(fps_max: u32) -> Self {
        // A tenth more, so that rounding never costs a picture of a stream at the cap.
        let per_second = i64::from(fps_max.max(1)) * 11 / 10 + 1;
        Self { per_second, level: per_second * 1000, last_pts_ms: None }
    }

    /// May this picture pass?
    pub fn admit(&mut self, pts_ms: i64) -> bool {
        let passed = self.last_pts_ms.map_or(0, |last| (pts_ms - last).clamp(0, 1000));
        self.last_pts_ms = Some(pts_ms);
        self.level = (self.level + passed * self.per_second).min(self.per_second * 1000);
        if self.level < 1000 {
            return false;
        }
        self.level -= 1000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Customary rates are found, odd ones rounded, nonsense replaced.
    #[test]
    fn a_frame_rate_becomes_the_ratio_that_is_meant() {
        assert_eq!(rate_of(29.97), Ratio { num: 30_000, den: 1001 });
        assert_eq!(rate_of(30.0), Ratio { num: 30, den: 1 });
        assert_eq!(rate_of(14.6), Ratio { num: 15, den: 1 });
        for nonsense in [0.0, -1.0, f64::NAN, f64::INFINITY, 100_000.0] {
            assert_eq!(rate_of(nonsense), DEFAULT_RATE);
        }
        assert_eq!(measured_rate(&[0, 33, 67, 100, 133, 167, 200, 233]), Ratio { num: 30, den: 1 });
        assert_eq!(measured_rate(&[0, 17, 33, 50, 67]), Ratio { num: 60, den: 1 });
        assert_eq!(measured_rate(&[5]), DEFAULT_RATE);
        assert_eq!(measured_rate(&[5, 5, 5]), DEFAULT_RATE);
        assert_eq!(measured_rate(&[50, 5]), DEFAULT_RATE);
    }

    proptest! {
        /// Whatever the rate and the source's own IDRs, two IDRs of a steady stream are never
        /// more than the bound apart.
        #[test]
        fn idrs_are_never_further_apart_than_the_bound(
            fps in 1u32..121, offset in 0i64..10_000, source_every in 1i64..2000
        ) {
            let mut schedule = IdrSchedule::new(Ratio { num: i32::try_from(fps).unwrap(), den: 1 });
            let mut last = None;
            for number in 0..1500i64 {
                let pts = offset + (number * 1000 + i64::from(fps) / 2) / i64::from(fps);
                let source = if number % source_every == 0 { IsIdr::Idr } else { IsIdr::Other };
                let idr = schedule.next(pts, source);
                prop_assert!(source == IsIdr::Other || idr == IsIdr::Idr);
                if idr == IsIdr::Idr {
                    if let Some(last) = last {
                        prop_assert!(pts - last <= IDR_DISTANCE_MAX_MS + 1, "{}", pts - last);
                    }
                    last = Some(pts);
                }
            }
        }
    }

    /// A stream of 30 frames a second has an IDR every 60 frames, not 59.
    #[test]
    fn rounding_to_milliseconds_does_not_shorten_the_distance() {
        let mut schedule = IdrSchedule::new(Ratio { num: 30, den: 1 });
        let idrs: Vec<i64> = (0..181)
            .filter(|n| schedule.next((n * 1000 + 15) / 30, IsIdr::Other) == IsIdr::Idr)
            .collect();
        assert_eq!(idrs, [0, 60, 120, 180]);
    }

    /// A stream at the cap keeps every picture; one far above is thinned to about the cap.
    #[test]
    fn pictures_beyond_the_rate_cap_are_refused() {
        let mut cap = RateCap::new(30);
        assert!((0..300).all(|n| cap.admit(n * 1000 / 30)));
        let mut cap = RateCap::new(30);
        let passed = (0..2000).filter(|n| cap.admit(n * 5)).count();
        assert!((300..400).contains(&passed), "{passed}");
        let mut still = RateCap::new(30);
        assert!((0..500).filter(|_| still.admit(7)).count() < 40);
    }
}
