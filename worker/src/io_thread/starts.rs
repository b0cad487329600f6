//! When the codecs of sessions that were taken over begin, and how many at a time.
//!
//! Whoever gets all sessions of a dead worker takes them in hand first: publishers are heard again
//! before the first picture is decoded again. Then as many decode again as there are processors,
//! oldest first: all at once would all be late. What waits longer than [`CODEC_START_WAIT_MAX`]
//! begins whatever the others do, and who works for as long holds nobody back any more.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::Instant;
use tasuki_shared::limits::CODEC_START_WAIT_MAX;

/// Does the supervisor say more than was taken in this turn?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    Taken,
    MoreWait,
}

/// See the module. Sessions by their serials; each is here once.
#[derive(Debug)]
pub struct Starts {
    /// With the time since when.
    waiting: VecDeque<(u64, Instant)>,
    begun: Vec<(u64, Instant)>,
    at_a_time: usize,
}

impl Starts {
    #[must_use]
    pub fn new() -> Self {
        Self::of(std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    fn of(at_a_time: usize) -> Self {
        Self { waiting: VecDeque::new(), begun: Vec::new(), at_a_time }
    }

    /// Its codecs are to begin.
    pub fn add(&mut self, serial: u64, now: Instant) {
        if !self.has(serial) {
            self.waiting.push_back((serial, now));
        }
    }

    #[must_use]
    pub fn has(&self, serial: u64) -> bool {
        self.waiting.iter().chain(&self.begun).any(|(known, _)| *known == serial)
    }

    /// It has caught up, or is gone.
    pub fn forget(&mut self, serial: u64) {
        self.waiting.retain(|(known, _)| *known != serial);
        self.begun.retain(|(known, _)| *known != serial);
    }

    /// Whose codecs begin now, if anybody's.
    pub fn next(&mut self, messages: Messages, now: Instant) -> Option<u64> {
        let is_long = |since: Instant| now.saturating_duration_since(since) >= CODEC_START_WAIT_MAX;
        let waits_long = self.waiting.front().is_some_and(|(_, since)| is_long(*since));
        self.begun.retain(|(_, since)| !is_long(*since));
        let room = messages == Messages::Taken && self.begun.len() < self.at_a_time;
        if !(waits_long || room) {
            return None;
        }
        let (serial, _) = self.waiting.pop_front()?;
        self.begun.push((serial, now));
        Some(serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::clock;

    fn all(starts: &mut Starts, messages: Messages, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| starts.next(messages, now)).collect()
    }

    /// One alone begins in the turn in which it came; of many, as many as fit, oldest first, and the
    /// next with each that is done.
    #[test]
    fn as_many_begin_as_fit_oldest_first() {
        let (mut starts, now) = (Starts::of(2), clock::now());
        for serial in [5, 3, 9, 4] {
            starts.add(serial, now);
            starts.add(serial, now);
        }
        assert_eq!(all(&mut starts, Messages::Taken, now), [5, 3]);
        starts.forget(3);
        assert_eq!(all(&mut starts, Messages::Taken, now), [9]);
        starts.forget(4);
        starts.forget(5);
        starts.forget(9);
        assert_eq!(all(&mut starts, Messages::Taken, now), [0_u64; 0]);
        starts.add(7, now);
        assert_eq!(all(&mut starts, Messages::Taken, now), [7]);
    }

    /// While the supervisor goes on handing sessions out none begins, unless one has waited long.
    #[test]
    fn nothing_begins_while_messages_wait_except_what_waited_long() {
        let (mut starts, now) = (Starts::of(2), clock::now());
        starts.add(1, now);
        assert_eq!(all(&mut starts, Messages::MoreWait, now), [0_u64; 0]);
        starts.add(2, now + CODEC_START_WAIT_MAX);
        assert_eq!(all(&mut starts, Messages::MoreWait, now + CODEC_START_WAIT_MAX), [1]);
    }

    /// A replay that takes long holds back neither those who wait nor those who come later.
    #[test]
    fn who_works_long_holds_nobody_back() {
        let (mut starts, now) = (Starts::of(1), clock::now());
        for serial in [1, 2, 3] {
            starts.add(serial, now);
        }
        assert_eq!(all(&mut starts, Messages::Taken, now), [1]);
        let later = now + CODEC_START_WAIT_MAX;
        assert_eq!(all(&mut starts, Messages::Taken, later), [2, 3]);
        assert!(starts.has(2) && !starts.has(1));
        starts.add(4, later);
        assert_eq!(all(&mut starts, Messages::Taken, later), [0_u64; 0]);
        assert_eq!(all(&mut starts, Messages::Taken, later + CODEC_START_WAIT_MAX), [4]);
    }
}
