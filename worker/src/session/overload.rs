//! What is given up when a stream's pipeline falls behind, and when it comes back. Pure.
//!
//! ```text
//!  Normal ─▶ DropDisposable ─▶ DropToKeyframe ─▶ one rung off ─▶ … ─▶ all but the lowest off
//!         ◀─                ◀─                ◀─              ◀─
//!  a step down the list: lag ≥ 4 s, at most one step each 2 s, and no backlog that shrinks
//!  a step back: lag < 1 s for 5 s
//! ```
//! Lag is stream time between the newest picture received and the oldest one not yet committed, so
//! a publisher that pauses, or sends a picture every few seconds, is no overload. Nor is a backlog:
//! what came faster than time passes, as after a hung owner or a network that was gone. Its lag
//! jumps; as long as it then shrinks, by a quarter of the time that passes, it is only waited for.

use crate::pipeline::{self, DropPolicy};
use std::time::{Duration, Instant};
use tasuki_shared::limits::OVERLOAD_LAG;
use tasuki_shared::message::Notice;

const STEP: Duration = Duration::from_secs(2);
const CALM_LAG_MS: u64 = 1_000;
const CALM: Duration = Duration::from_secs(5);
/// A lag that grew by this much more than the time that passed has jumped.
const JUMP_MS: u64 = 1_000;
/// Between two looks at whether a backlog shrinks.
const BACKLOG_LOOK: Duration = Duration::from_millis(500);

/// How much has been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Normal,
    DropDisposable,
    DropToKeyframe,
    RungsOff(u8),
}

/// A change of level, or the same order once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    from: Level,
    to: Level,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Overload {
    level: Level,
    changed: Option<Instant>,
    calm_since: Option<Instant>,
    /// The last look, and the lag that it saw.
    looked: Option<(Instant, u64)>,
    /// A backlog that has shrunk so far.
    backlog: Option<(Instant, u64)>,
}

impl Overload {
    #[must_use]
    pub fn new() -> Self {
        let level = Level::Normal;
        Self { level, changed: None, calm_since: None, looked: None, backlog: None }
    }

    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Rungs switched off, from the top.
    #[must_use]
    pub fn rungs_off(&self) -> u8 {
        rungs_off(self.level)
    }

    /// Looks at the lag; `encoded` is the number of encoded rungs.
    pub fn judge(&mut self, lag_ms: u64, encoded: usize, now: Instant) -> Option<Order> {
        let from = self.level;
        let lag_max_ms = u64::try_from(OVERLOAD_LAG.as_millis()).unwrap_or(u64::MAX);
        self.notice_backlog(lag_ms, now);
        if lag_ms >= lag_max_ms {
            self.calm_since = None;
            if self.is_catching_up(lag_ms, now) {
                return None;
            }
            if self.changed.is_some_and(|at| now.duration_since(at) < STEP) {
                return None;
            }
            self.level = further(from, encoded);
            self.changed = Some(now);
            // At the end of the list dropping to a keyframe is repeated.
            return Some(Order { from, to: self.level });
        }
        self.backlog = None;
        if lag_ms >= CALM_LAG_MS || from == Level::Normal {
            self.calm_since = None;
            return None;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now.duration_since(since) < CALM {
            return None;
        }
        self.calm_since = Some(now);
        self.level = back(from);
        self.changed = Some(now);
        Some(Order { from, to: self.level })
    }

    fn notice_backlog(&mut self, lag_ms: u64, now: Instant) {
        if let Some((at, was_ms)) = self.looked.replace((now, lag_ms))
            && lag_ms > was_ms + elapsed_ms(at, now) + JUMP_MS
        {
            self.backlog = Some((now, lag_ms));
        }
    }

    fn is_catching_up(&mut self, lag_ms: u64, now: Instant) -> bool {
        let Some((at, was_ms)) = self.backlog else { return false };
        if now.duration_since(at) < BACKLOG_LOOK {
            return true;
        }
        let shrinks = lag_ms + elapsed_ms(at, now) / 4 <= was_ms;
        self.backlog = shrinks.then_some((now, lag_ms));
        shrinks
    }
}

fn elapsed_ms(since: Instant, now: Instant) -> u64 {
    u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX / 4)
}

impl Default for Overload {
    fn default() -> Self {
        Self::new()
    }
}

impl Order {
    /// What the pipeline is told.
    #[must_use]
    pub fn pipeline(self) -> pipeline::Overload {
        let drop = match (self.to, self.to >= self.from) {
            (Level::Normal, _) => DropPolicy::Normal,
            (Level::DropDisposable, _) => DropPolicy::DropDisposable,
            // On the way back nothing more is thrown away than must be.
            (Level::DropToKeyframe | Level::RungsOff(_), false) => DropPolicy::DropDisposable,
            (Level::DropToKeyframe | Level::RungsOff(_), true) => DropPolicy::DropToKeyframe,
        };
        pipeline::Overload { drop, rungs_off: rungs_off(self.to) }
    }

    /// What the operator is told: beginnings and ends, not each step.
    #[must_use]
    pub fn notice(self, lag_ms: u64, frames_dropped: u64) -> Option<Notice> {
        match (self.from, self.to) {
            (Level::Normal, _) => Some(Notice::Overload { lag_ms }),
            (_, Level::Normal) => Some(Notice::OverloadOver { frames_dropped }),
            (Level::DropDisposable | Level::DropToKeyframe | Level::RungsOff(_), _) => None,
        }
    }
}

fn rungs_off(level: Level) -> u8 {
    match level {
        Level::Normal | Level::DropDisposable | Level::DropToKeyframe => 0,
        Level::RungsOff(count) => count,
    }
}

fn further(level: Level, encoded: usize) -> Level {
    let off_max = u8::try_from(encoded.saturating_sub(1)).unwrap_or(u8::MAX);
    match level {
        Level::Normal => Level::DropDisposable,
        Level::DropDisposable => Level::DropToKeyframe,
        Level::DropToKeyframe if off_max > 0 => Level::RungsOff(1),
        Level::DropToKeyframe => Level::DropToKeyframe,
        Level::RungsOff(count) => Level::RungsOff(count.saturating_add(1).min(off_max)),
    }
}

fn back(level: Level) -> Level {
    match level {
        Level::Normal | Level::DropDisposable => Level::Normal,
        Level::DropToKeyframe => Level::DropDisposable,
        Level::RungsOff(0 | 1) => Level::DropToKeyframe,
        Level::RungsOff(count) => Level::RungsOff(count - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::clock;

    fn levels(lags: impl IntoIterator<Item = u64>, encoded: usize) -> Vec<Level> {
        let (mut overload, start) = (Overload::new(), clock::now());
        let mut seen = vec![Level::Normal];
        for (second, lag_ms) in (0..).zip(lags) {
            let at = start + Duration::from_secs(second);
            if overload.judge(lag_ms, encoded, at).is_some() && seen.last() != Some(&overload.level)
            {
                seen.push(overload.level);
            }
        }
        seen
    }

    #[test]
    fn frames_go_first_then_rungs_from_the_top_and_the_lowest_stays() {
        use Level::{DropDisposable, DropToKeyframe, Normal, RungsOff};
        let seen = levels(std::iter::repeat_n(5_000, 30), 3);
        assert_eq!(seen, [Normal, DropDisposable, DropToKeyframe, RungsOff(1), RungsOff(2)]);
    }

    #[test]
    fn everything_comes_back_step_by_step_only_after_a_calm_time() {
        let lags = std::iter::repeat_n(9_000, 5).chain(std::iter::repeat_n(200, 40));
        let seen = levels(lags, 3);
        use Level::{DropDisposable, DropToKeyframe, Normal, RungsOff};
        let expected = [
            Normal,
            DropDisposable,
            DropToKeyframe,
            RungsOff(1),
            DropToKeyframe,
            DropDisposable,
            Normal,
        ];
        assert_eq!(seen, expected);
    }

    /// The publisher was gone for nine seconds and all of it came at once: nothing is given up while
    /// it is worked off, and what is not worked off is an overload like any other.
    #[test]
    fn a_backlog_that_shrinks_is_waited_for_and_one_that_does_not_is_an_overload() {
        let shrinking = [0, 9_000, 8_000, 7_000, 5_500, 4_200, 3_000, 0];
        assert_eq!(levels(shrinking, 3), [Level::Normal]);
        let staying = [0, 9_000, 8_000, 7_900];
        assert_eq!(levels(staying, 3), [Level::Normal, Level::DropDisposable]);
        let growing = [0, 1_000, 2_000, 3_000, 4_000];
        assert_eq!(levels(growing, 3), [Level::Normal, Level::DropDisposable]);
    }

    #[test]
    fn a_lag_between_the_thresholds_changes_nothing() {
        let lags = std::iter::repeat_n(5_000, 1).chain(std::iter::repeat_n(2_500, 60));
        assert_eq!(levels(lags, 3), [Level::Normal, Level::DropDisposable]);
    }

    #[test]
    fn below_four_seconds_nothing_is_given_up() {
        assert_eq!(levels(std::iter::repeat_n(3_999, 60), 3), [Level::Normal]);
    }
}
