//! Time as the core has it: it stands still while the loop does.
//!
//! A supervisor that was stopped, or had no processor, wakes late and finds every deadline passed,
//! and what was said to it meanwhile unread. So of a pause in which the loop did not come round, only
//! what it is expected to take counts. And the first tick after one is left out: what waits in the
//! channels is read before anybody is judged.

use std::time::{Duration, Instant};
use tasuki_shared::limits::TICK_INTERVAL;

/// A pause longer than this is the loop's own lateness.
const PAUSE_MAX: Duration = TICK_INTERVAL.saturating_mul(2);

/// See the module.
#[derive(Debug)]
pub struct LoopClock {
    seen: Instant,
    time: Duration,
    /// Has there been a late pause since the last tick that counted?
    lateness: Lateness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lateness {
    OnTime,
    Late,
    /// A tick was left out for it.
    Excused,
}

impl LoopClock {
    pub fn new(now: Instant) -> Self {
        Self { seen: now, time: Duration::ZERO, lateness: Lateness::OnTime }
    }

    /// The core's time.
    pub fn time(&mut self, now: Instant) -> Duration {
        let pause = now.saturating_duration_since(self.seen);
        self.seen = now;
        if pause > PAUSE_MAX {
            self.time += TICK_INTERVAL;
            if self.lateness == Lateness::OnTime {
                self.lateness = Lateness::Late;
            }
        } else {
            self.time += pause;
        }
        self.time
    }

    /// The core's time when anything happened last.
    pub fn last(&self) -> Duration {
        self.time
    }

    /// Shall this tick be left out? Never two in a row.
    pub fn is_late(&mut self, now: Instant) -> bool {
        self.time(now);
        self.lateness = match self.lateness {
            Lateness::OnTime | Lateness::Excused => Lateness::OnTime,
            Lateness::Late => Lateness::Excused,
        };
        self.lateness == Lateness::Excused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::clock;

    const MS: Duration = Duration::from_millis(1);

    /// While the loop comes round, time passes as it does; a stop of any length is one tick long,
    /// and the tick that finds it is left out, but only that.
    #[test]
    fn a_stop_of_any_length_is_one_tick_and_one_tick_is_left_out() {
        let start = clock::now();
        let mut clock = LoopClock::new(start);
        let mut now = start;
        for _ in 0..10 {
            now += 100 * MS;
            assert!(!clock.is_late(now));
        }
        assert_eq!(clock.last(), 1000 * MS);
        now += Duration::from_secs(3600);
        assert!(clock.is_late(now));
        assert_eq!(clock.last(), 1100 * MS);
        now += 100 * MS;
        assert!(!clock.is_late(now));
        assert_eq!(clock.time(now + 30 * MS), 1230 * MS);
    }

    /// Frames may be what finds the pause; the next tick is left out all the same.
    #[test]
    fn a_pause_that_a_frame_ends_excuses_the_tick_behind_it() {
        let start = clock::now();
        let mut clock = LoopClock::new(start);
        clock.time(start + 5000 * MS);
        assert!(clock.is_late(start + 5010 * MS));
        assert!(!clock.is_late(start + 5110 * MS));
    }

    /// A loop that is late each time still ticks, every second time.
    #[test]
    fn a_loop_that_is_always_late_ticks_on() {
        let mut now = clock::now();
        let mut clock = LoopClock::new(now);
        let mut ticks = 0;
        for _ in 0..10 {
            now += 1000 * MS;
            ticks += u32::from(!clock.is_late(now));
        }
        assert_eq!((ticks, clock.last()), (5, 1000 * MS));
    }
}
