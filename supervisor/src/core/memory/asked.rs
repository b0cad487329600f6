//! A recycle that was asked for, and when it is asked for again.

use crate::core::rotation::RecycleReason;
use std::time::Duration;
use tasuki_shared::limits::{RECYCLE_RETRY, RECYCLE_RETRY_DOUBLINGS_MAX};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub at: Duration,
    pub times: u32,
    pub urgency: Urgency,
}

/// The hard limit does not wait for what was asked for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    Soft,
    Hard,
}

impl Urgency {
    pub fn of(reason: &RecycleReason) -> Self {
        if *reason == RecycleReason::MemoryHard { Self::Hard } else { Self::Soft }
    }
}

impl Asked {
    pub fn again(self) -> Duration {
        let doublings = self.times.saturating_sub(1).min(RECYCLE_RETRY_DOUBLINGS_MAX);
        self.at + RECYCLE_RETRY * (1 << doublings)
    }
}
