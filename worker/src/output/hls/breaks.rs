//! Which number a discontinuity has. Pure.
//!
//! A player that changes from one rendition to another finds its place by these numbers (RFC 8216bis,
//! 4.4.3.3). So they are counted for the stream: a break that several renditions have has one number,
//! whichever of them comes to it first. One that a rendition has alone takes a number that the others
//! pass over with their next break.
//!
//! Nothing of it is kept: an owner learns it from the notes of what is there.
//!
//! Limits. A break is known by its time alone, and numbers only rise. So two breaks that are nearer to
//! each other than `HLS_BREAK_NEAR_MS` may be taken for one. And where a rendition comes to a break of
//! its own later than another one to the next common one, which is behind it, it has no number left
//! between the two: the common one has two numbers then. The next that they have in common has one again.

use std::collections::VecDeque;
use tasuki_shared::limits::{HLS_BREAK_NEAR_MS, HLS_BREAK_SLACK_MS, HLS_BREAKS_KNOWN_MAX};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaks {
    known: VecDeque<Break>,
}

/// On the stream's timeline, somewhere between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Break {
    from_ms: i64,
    to_ms: i64,
    number: u64,
}

/// What a rendition does not have: from its last packet to the keyframe with which it goes on; of other
/// headers, from the first picture that has them.
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
}

impl Breaks {
    /// A part that begins there, with a keyframe, has this number.
    pub fn learn(&mut self, at_ms: i64, number: u64) {
        self.note(Break {
            from_ms: at_ms.saturating_sub(HLS_BREAK_SLACK_MS),
            to_ms: at_ms,
            number,
        });
    }

    /// Of the first segment of a rendition.
    #[must_use]
    pub fn in_force(&self, at_ms: i64) -> u64 {
        self.within(Hole::before(at_ms)).map(|known| known.number).max().unwrap_or(0)
    }

    /// Of a rendition that had this number and goes on behind a hole.
    pub fn number(&mut self, hole: Hole, before: u64) -> u64 {
        let later = self.within(hole).filter(|known| known.number > before);
        let found = if hole.from_ms == hole.to_ms {
            later.min_by_key(|known| (known.distance_ms(hole.to_ms), known.number))
        } else {
            // All that the others had meanwhile.
            later.max_by_key(|known| known.number)
        };
        if let Some(found) = found {
            return found.number;
        }
        let most = self.known.iter().map(|known| known.number).max().unwrap_or(0);
        let number = most.max(before).saturating_add(1);
        self.note(Break { from_ms: hole.behind_ms, to_ms: hole.behind_ms, number });
        number
    }

    fn note(&mut self, new: Break) {
        let is_known = |known: &Break| known.number == new.number && known.to_ms <= new.to_ms;
        if self.known.iter().any(is_known) {
            return;
        }
        if self.known.len() == HLS_BREAKS_KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(new);
    }

    fn within(&self, hole: Hole) -> impl Iterator<Item = &Break> {
        let from_ms = hole.from_ms.min(hole.behind_ms.saturating_sub(HLS_BREAK_NEAR_MS));
        let to_ms = hole.to_ms.saturating_add(HLS_BREAK_NEAR_MS);
        self.known.iter().filter(move |known| known.from_ms <= to_ms && known.to_ms >= from_ms)
    }
}

impl Break {
    fn distance_ms(&self, at_ms: i64) -> u64 {
        at_ms.abs_diff(at_ms.clamp(self.from_ms, self.to_ms))
    }
}

#[cfg(test)]
mod tests;
