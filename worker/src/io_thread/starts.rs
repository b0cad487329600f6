//! When the codecs of sessions that were taken over begin.
//!
//! Whoever gets all sessions of a dead worker takes them in hand first: publishers are heard again
//! before the first picture is decoded again, for codecs take the processors that adoption needs.
//! Then a few begin, twice as many as there are processors to keep them busy, and the next one when
//! one of them has caught up: side by side all would be late, one after another half of them go on in
//! half the time. What waits longer than [`CODEC_START_WAIT_MAX`] begins whatever else there is to do.

use crate::session::CaughtUp;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tasuki_shared::limits::CODEC_START_WAIT_MAX;

/// Does the supervisor say more than was taken in this turn, or is it likely to?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    Taken,
    MoreWait,
}

/// Sessions by their serials.
#[derive(Debug)]
pub struct Starts {
    /// Oldest first, with the time since when they wait; each is here once.
    waiting: VecDeque<(u64, Instant)>,
    /// Those that catch up.
    begun: Vec<u64>,
    side_by_side: usize,
}

impl Starts {
    #[must_use]
    pub fn new(side_by_side: usize) -> Self {
        Self { waiting: VecDeque::new(), begun: Vec::new(), side_by_side: side_by_side.max(1) }
    }

    /// Its codecs are to begin.
    pub fn add(&mut self, serial: u64, now: Instant) {
        if !self.waiting.iter().any(|(known, _)| *known == serial) {
            self.waiting.push_back((serial, now));
        }
    }

    /// It is gone.
    pub fn forget(&mut self, serial: u64) {
        self.waiting.retain(|(known, _)| *known != serial);
        self.begun.retain(|known| *known != serial);
    }

    /// Whose codecs begin now, if anybody's.
    pub fn next(
        &mut self,
        messages: Messages,
        now: Instant,
        caught_up: impl Fn(u64) -> CaughtUp,
    ) -> Option<u64> {
        self.begun.retain(|serial| caught_up(*serial) == CaughtUp::No);
        let &(serial, since) = self.waiting.front()?;
        let waited_long = now.saturating_duration_since(since) >= CODEC_START_WAIT_MAX;
        let has_turn = messages == Messages::Taken && self.begun.len() < self.side_by_side;
        if !has_turn && !waited_long {
            return None;
        }
        self.waiting.pop_front();
        self.begun.push(serial);
        Some(serial)
    }

    /// When it is to be asked again, for nobody tells that a stream has caught up.
    #[must_use]
    pub fn due_in(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then_some(LOOK_INTERVAL)
    }
}

const LOOK_INTERVAL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::clock;

    fn all(starts: &mut Starts, messages: Messages, now: Instant, busy: &[u64]) -> Vec<u64> {
        let caught_up = |serial| if busy.contains(&serial) { CaughtUp::No } else { CaughtUp::Yes };
        std::iter::from_fn(|| starts.next(messages, now, caught_up)).collect()
    }

    /// Those that wait begin oldest first, from the turn on in which nothing more is told; one that is
    /// gone does not.
    #[test]
    fn they_begin_oldest_first_when_all_are_in_hand() {
        let (mut starts, now) = (Starts::new(1), clock::now());
        for serial in [5, 3, 9] {
            starts.add(serial, now);
            starts.add(serial, now);
        }
        starts.forget(3);
        assert_eq!(all(&mut starts, Messages::MoreWait, now, &[]), Vec::<u64>::new());
        assert_eq!(all(&mut starts, Messages::Taken, now, &[]), [5, 9]);
        assert_eq!(all(&mut starts, Messages::Taken, now, &[]), Vec::<u64>::new());
    }

    /// No more than a few; whoever has caught up, or is gone, makes room.
    #[test]
    fn only_a_few_catch_up_side_by_side() {
        let (mut starts, now) = (Starts::new(2), clock::now());
        (1..=5).for_each(|serial| starts.add(serial, now));
        let busy = [1, 2, 3, 4, 5];
        assert_eq!(all(&mut starts, Messages::Taken, now, &busy), [1, 2]);
        assert!(starts.due_in().is_some());
        assert_eq!(all(&mut starts, Messages::Taken, now, &busy[1..]), [3]);
        starts.forget(2);
        assert_eq!(all(&mut starts, Messages::Taken, now, &busy), [4]);
        assert_eq!(all(&mut starts, Messages::Taken, now, &[]), [5]);
        assert_eq!(starts.due_in(), None);
    }

    /// Neither a supervisor that never stops telling nor streams that never catch up hold anybody
    /// back for ever.
    #[test]
    fn what_waited_long_begins_whatever_there_is_to_do() {
        for messages in [Messages::MoreWait, Messages::Taken] {
            let (mut starts, now) = (Starts::new(1), clock::now());
            let late = now + CODEC_START_WAIT_MAX;
            starts.add(7, now);
            assert_eq!(all(&mut starts, Messages::Taken, now, &[7]), [7]);
            starts.add(1, now);
            starts.add(2, now);
            starts.add(3, late);
            assert_eq!(all(&mut starts, messages, now, &[7]), Vec::<u64>::new());
            assert_eq!(all(&mut starts, messages, late, &[7, 1, 2]), [1, 2]);
        }
    }
}
