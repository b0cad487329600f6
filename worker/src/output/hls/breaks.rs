//! Which number a discontinuity has. Pure.
//!
//! A player that changes from one rendition to another finds its place by these numbers (RFC 8216bis,
//! 4.4.3.3). So they are counted for the stream: a break that several renditions have has one number,
//! whichever of them comes to it first. One that a rendition has alone takes a number that the others
//! pass over with their next break.
//!
//! Nothing of it is kept: an owner learns it from the notes of what is there.

use std::collections::VecDeque;
use tasuki_shared::limits::{HLS_BREAK_SLACK_MS, HLS_BREAKS_KNOWN_MAX};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaks {
    known: VecDeque<Break>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Break {
    /// On the stream's timeline: where what follows begins.
    at_ms: i64,
    number: u64,
}

/// What a rendition does not have: from its last packet to the keyframe with which it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    pub from_ms: i64,
    /// The first packet behind it, keyframe or not: by that the others know it.
    pub behind_ms: i64,
    pub to_ms: i64,
}

impl Hole {
    /// Everything in front of this.
    #[must_use]
    pub fn before(to_ms: i64) -> Self {
        Self { from_ms: i64::MIN, behind_ms: to_ms, to_ms }
    }

    /// Nothing is missing.
    #[must_use]
    pub fn none(at_ms: i64) -> Self {
        Self { from_ms: at_ms, behind_ms: at_ms, to_ms: at_ms }
    }
}

impl Breaks {
    /// A part that begins there has this number.
    pub fn learn(&mut self, at_ms: i64, number: u64) {
        if self.known.iter().any(|known| known.number == number && known.at_ms <= at_ms) {
            return;
        }
        if self.known.len() == HLS_BREAKS_KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(Break { at_ms, number });
    }

    /// Of the first segment of a rendition.
    #[must_use]
    pub fn in_force(&self, at_ms: i64) -> u64 {
        self.within(Hole::before(at_ms)).map(|known| known.number).max().unwrap_or(0)
    }

    /// Of a rendition that had this number and goes on behind a hole.
    pub fn number(&mut self, hole: Hole, before: u64) -> u64 {
        let later = self.within(hole).map(|known| known.number).filter(|number| *number > before);
        // All that the others had meanwhile; of several at one place, the first.
        let found = if hole.from_ms == hole.to_ms { later.min() } else { later.max() };
        if let Some(found) = found {
            return found;
        }
        let most = self.known.iter().map(|known| known.number).max().unwrap_or(0);
        let number = most.max(before).saturating_add(1);
        self.learn(hole.behind_ms, number);
        number
    }

    fn within(&self, Hole { from_ms, behind_ms: _, to_ms }: Hole) -> impl Iterator<Item = &Break> {
        let from_ms = from_ms.saturating_sub(HLS_BREAK_SLACK_MS);
        let to_ms = to_ms.saturating_add(HLS_BREAK_SLACK_MS);
        self.known.iter().filter(move |known| (from_ms..=to_ms).contains(&known.at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole(from_ms: i64, to_ms: i64) -> Hole {
        Hole { from_ms, behind_ms: to_ms, to_ms }
    }

    /// Whoever comes to a break first, and a moment apart: it has one number.
    #[test]
    fn one_break_has_one_number_in_all_renditions() {
        let mut breaks = Breaks::default();
        assert_eq!(breaks.number(hole(5_000, 8_500), 0), 1);
        assert_eq!(breaks.number(hole(5_040, 8_580), 0), 1);
        // Other headers, at the same picture in both.
        assert_eq!(breaks.number(Hole::none(20_000), 1), 2);
        assert_eq!(breaks.number(Hole::none(20_080), 1), 2);
        assert_eq!(breaks.number(Hole::none(20_000), 2), 3, "its own next one is another");
    }

    /// An owner that learnt of it from a part knows its keyframe alone.
    #[test]
    fn a_break_is_known_by_the_keyframe_behind_it() {
        let mut breaks = Breaks::default();
        breaks.learn(12_000, 4);
        let hole = Hole { from_ms: 5_000, behind_ms: 9_000, to_ms: 12_000 };
        assert_eq!(breaks.number(hole, 3), 4);
        let mut breaks = Breaks::default();
        assert_eq!(breaks.number(hole, 3), 4);
        assert_eq!(breaks.number(Hole { to_ms: 9_000, ..hole }, 3), 4);
    }

    /// A break of one alone is passed over by the others with the next that they have in common.
    #[test]
    fn a_break_of_one_alone_is_nobody_elses() {
        let mut breaks = Breaks::default();
        assert_eq!(breaks.number(hole(5_000, 9_000), 0), 1);
        assert_eq!(breaks.number(Hole::none(60_000), 0), 2);
        assert_eq!(breaks.number(Hole::none(60_000), 1), 2);
    }

    /// A rendition that was switched off comes back with the number that the others have by then.
    #[test]
    fn who_was_away_has_the_number_of_those_who_were_not() {
        let mut breaks = Breaks::default();
        assert_eq!(breaks.number(Hole::none(20_000), 0), 1);
        assert_eq!(breaks.number(Hole::none(30_000), 1), 2);
        assert_eq!(breaks.number(hole(10_000, 50_000), 0), 2);
        assert_eq!(breaks.in_force(25_000), 1, "one that begins there");
        assert_eq!(breaks.in_force(0), 0);
    }

    /// Two changes in a short time are two numbers for the slower rendition as well.
    #[test]
    fn the_slower_rendition_takes_two_breaks_one_by_one() {
        let mut breaks = Breaks::default();
        assert_eq!((breaks.number(Hole::none(500), 0), breaks.number(Hole::none(900), 1)), (1, 2));
        assert_eq!((breaks.number(Hole::none(500), 0), breaks.number(Hole::none(900), 1)), (1, 2));
    }

    #[test]
    fn what_is_known_is_bounded_and_the_newest_stays() {
        let mut breaks = Breaks::default();
        for number in 1..1_000_i64 {
            breaks.learn(number * 10_000, number.unsigned_abs());
        }
        assert_eq!(breaks.known.len(), HLS_BREAKS_KNOWN_MAX);
        assert_eq!(breaks.in_force(i64::MAX), 999);
    }
}
