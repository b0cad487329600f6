//! What the policy thinks of a worker, in words.

use std::fmt;

/// What the policy thinks of a worker. Operators read its `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// Nearer to its limit than most are, or growing towards it.
    Watch,
    /// Over its limit, and being measured without what its allocator only keeps.
    Purging,
    /// Asked for, and under way unless it failed.
    Recycle,
    Evacuate,
    HeldBack(Hold),
}

/// Why a worker that should go stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Off,
    BornOver,
    TooYoung,
    Budget,
    NoRoom,
    /// Another worker goes first.
    Turn,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fine => f.write_str("fine"),
            Self::Watch => f.write_str("watch"),
            Self::Purging => f.write_str("purging"),
            Self::Recycle => f.write_str("recycle"),
            Self::Evacuate => f.write_str("evacuate"),
            Self::HeldBack(hold) => write!(f, "held back: {hold}"),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "recycling is off",
            Self::BornOver => "born over its limit",
            Self::TooYoung => "too young",
            Self::Budget => "the budget of this window is spent",
            Self::NoRoom => "no room for a second worker",
            Self::Turn => "another goes first",
        })
    }
}
