//! One worker, as the policy remembers it.

use super::Look;
use crate::core::memory::slope::Trend;
use crate::core::memory::verdict::Verdict;
use crate::core::rotation::RecycleReason;
use std::time::Duration;
use tasuki_shared::limits::{RECYCLE_RETRY, RECYCLE_RETRY_DOUBLINGS_MAX, TREND_INTERVAL_NEAR};
use tasuki_shared::message::AllocatorFigures;

#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub look: Look,
    /// Since it has sessions.
    pub serving: Option<Duration>,
    pub served: u32,
    /// 0 to 99, so that workers that began together do not end together.
    pub spread: u32,
    pub allocator: AllocatorFigures,
    pub purge: Purge,
    pub trend: Trend,
    /// Points in a row above the soft limit.
    pub over: u32,
    pub threads_over: u32,
    pub fds_over: u32,
    pub birth: Birth,
    pub stood_by: Option<StoodBy>,
    pub asked: Option<Asked>,
    pub verdict: Verdict,
}

/// What a worker held while it stood by.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoodBy {
    pub least_bytes: u64,
    pub last_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Purge {
    Rest { due: Duration },
    Asked { at: Duration, tries: u32 },
    Answered { at: Duration },
}

/// What a worker needs when it has settled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Birth {
    Settling,
    Settled { bytes: u64 },
    Over { bytes: u64 },
}

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

impl Subject {
    pub fn new(now: Duration, look: Look) -> Self {
        Self {
            look,
            serving: None,
            served: 0,
            // Knuth's multiplicative hash: neighbours end up far apart.
            spread: (look.generation.0.wrapping_mul(2_654_435_761) >> 16) % 100,
            allocator: AllocatorFigures::default(),
            purge: Purge::Rest { due: now + TREND_INTERVAL_NEAR },
            trend: Trend::default(),
            over: 0,
            threads_over: 0,
            fds_over: 0,
            birth: Birth::Settling,
            stood_by: None,
            asked: None,
            verdict: Verdict::Fine,
        }
    }

    /// From `least` to `least + width`, the same for all of this worker's life.
    pub fn share(&self, least: f64, width: f64) -> f64 {
        least + width * f64::from(self.spread) / 100.0
    }

    /// Beyond what it was told to hold.
    pub fn grown_idle(&self) -> u64 {
        let grown = self.stood_by.map_or(0, |stood| stood.last_bytes - stood.least_bytes);
        grown.saturating_sub(self.look.spare_bytes_max)
    }

    /// What a fresh worker in its place will hold, as far as anybody knows.
    pub fn needs(&self) -> u64 {
        match self.birth {
            Birth::Settled { bytes } | Birth::Over { bytes } => bytes,
            Birth::Settling => self.trend.last().unwrap_or(0),
        }
    }

    /// What a recycle would free.
    pub fn gain(&self) -> u64 {
        self.trend.last().unwrap_or(0).saturating_sub(self.needs())
    }
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
