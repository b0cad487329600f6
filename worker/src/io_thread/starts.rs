//! When the codecs of sessions that were taken over begin.
//!
//! Whoever gets all sessions of a dead worker takes them in hand first: publishers are heard again
//! before the first picture is decoded again, for codecs take the processors that adoption needs.
//! What waits longer than [`CODEC_START_WAIT_MAX`] begins whatever else there is to do.

use std::collections::VecDeque;
use std::time::Instant;
use tasuki_shared::limits::CODEC_START_WAIT_MAX;

/// Does the supervisor say more than was taken in this turn, or is it likely to?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    Taken,
    MoreWait,
}

/// Sessions by their serials, oldest first, with the time since when they wait; each is here once.
#[derive(Debug, Default)]
pub struct Starts(VecDeque<(u64, Instant)>);

impl Starts {
    /// Its codecs are to begin.
    pub fn add(&mut self, serial: u64, now: Instant) {
        if !self.0.iter().any(|(known, _)| *known == serial) {
            self.0.push_back((serial, now));
        }
    }

    /// It is gone.
    pub fn forget(&mut self, serial: u64) {
        self.0.retain(|(known, _)| *known != serial);
    }

    /// Whose codecs begin now, if anybody's.
    pub fn next(&mut self, messages: Messages, now: Instant) -> Option<u64> {
        let (_, since) = self.0.front()?;
        let waited_long = now.saturating_duration_since(*since) >= CODEC_START_WAIT_MAX;
        if messages == Messages::MoreWait && !waited_long {
            return None;
        }
        self.0.pop_front().map(|(serial, _)| serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::clock;

    fn all(starts: &mut Starts, messages: Messages, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| starts.next(messages, now)).collect()
    }

    /// All that wait begin, oldest first, in the turn in which nothing more is told; one that is
    /// gone does not.
    #[test]
    fn all_begin_oldest_first_when_all_are_in_hand() {
        let (mut starts, now) = (Starts::default(), clock::now());
        for serial in [5, 3, 9] {
            starts.add(serial, now);
            starts.add(serial, now);
        }
        starts.forget(3);
        assert_eq!(all(&mut starts, Messages::MoreWait, now), Vec::<u64>::new());
        assert_eq!(all(&mut starts, Messages::Taken, now), [5, 9]);
        assert_eq!(all(&mut starts, Messages::Taken, now), Vec::<u64>::new());
    }

    /// A supervisor that never stops telling holds nobody back for ever.
    #[test]
    fn what_waited_long_begins_though_more_is_told() {
        let (mut starts, now) = (Starts::default(), clock::now());
        starts.add(1, now);
        starts.add(2, now + CODEC_START_WAIT_MAX);
        assert_eq!(all(&mut starts, Messages::MoreWait, now + CODEC_START_WAIT_MAX), [1]);
    }
}
