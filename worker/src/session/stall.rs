//! Something waits and nothing moves: for how long, of the time in which it could have.
//!
//! Looked at with each tick. A movement, or nothing that waits, begins anew. What counts is what the
//! threads that should move could have used of the time ([`tasuki_shared::threads`]), and of a pause
//! in which nobody looked, because this process was stopped or had no processor, no more than two
//! ticks.

use std::time::{Duration, Instant};
use tasuki_shared::limits::TICK_INTERVAL;
use tasuki_shared::threads::{Looks, chance};

/// Between two looks at most so much counts.
const PAUSE_MAX: Duration = TICK_INTERVAL.saturating_mul(2);

/// What there is to do, and how far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Changes with every step.
    pub moved: u64,
    pub waits: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Stall {
    moved: u64,
    standing: Option<Standing>,
}

#[derive(Debug)]
struct Standing {
    at: Instant,
    threads: Looks,
    counted: Duration,
}

impl Stall {
    /// How long it has stood. Who has moved is asked nothing more.
    pub fn look(
        &mut self,
        now: Instant,
        moved: u64,
        waits: impl FnOnce() -> bool,
        threads: impl FnOnce() -> Looks,
    ) -> Duration {
        let has_moved = std::mem::replace(&mut self.moved, moved) != moved;
        if has_moved || !waits() {
            self.standing = None;
            return Duration::ZERO;
        }
        let threads = threads();
        let counted = match &self.standing {
            None => Duration::ZERO,
            Some(before) => {
                let elapsed = now.saturating_duration_since(before.at).min(PAUSE_MAX);
                before.counted + chance(elapsed, &before.threads, &threads)
            }
        };
        self.standing = Some(Standing { at: now, threads, counted });
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::clock;
    use tasuki_shared::threads::{Doing, Look};

    const MS: Duration = Duration::from_millis(1);

    /// A worker thread that wants the processor and has had so much of it.
    fn wants(ran_ms: u32) -> Looks {
        let look =
            Look { doing: Doing::Runs, ran: MS * ran_ms, queued: Duration::ZERO, major_faults: 0 };
        Looks::from([(1, look)])
    }

    /// Only what waits and does not move for a while stands; a step, or nothing to do, ends that.
    #[test]
    fn it_stands_only_while_something_waits_and_nothing_moves() {
        let (mut stall, start) = (Stall::default(), clock::now());
        let mut look = |at: u32, moved, waits: bool| {
            stall.look(start + MS * at, moved, || waits, Looks::new).as_millis()
        };
        assert_eq!([look(0, 5, true), look(100, 5, true), look(200, 5, true)], [0, 0, 100]);
        assert_eq!(look(300, 5, true), 200);
        assert_eq!(look(400, 6, true), 0, "it moved");
        assert_eq!([look(500, 6, true), look(600, 6, true)], [0, 100]);
        assert_eq!(look(700, 6, false), 0, "a publisher that stopped leaves nothing to do");
        assert_eq!([look(800, 6, true), look(900, 6, true)], [0, 100]);
    }

    /// A process that was stopped for an hour finds nothing that stood for an hour; one without
    /// processor finds nothing that stood at all; one whose codec spins finds it.
    #[test]
    fn neither_a_stop_nor_want_of_processor_is_a_stall() {
        let start = clock::now();
        let mut stall = Stall::default();
        for at in [0, 100] {
            stall.look(start + MS * at, 0, || true, Looks::new);
        }
        let stopped = stall.look(start + Duration::from_secs(3600), 0, || true, Looks::new);
        assert_eq!(stopped, MS * 300);
        let after = |ran: fn(u32) -> u32| {
            let mut stall = Stall::default();
            let mut stood = Duration::ZERO;
            for round in 0..=20 {
                let threads = || wants(ran(round));
                stood = stall.look(start + MS * 100 * round, 0, || true, threads);
            }
            stood
        };
        assert_eq!(after(|_| 7), Duration::ZERO, "in the queue all the time");
        assert_eq!(after(|round| round * 100), MS * 2000, "it spins");
    }
}
