//! Moving sessions between workers, and replacing a worker by moving all of its sessions.

use super::Core;
use super::settings::Rules;
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::message::{CutReport, Haste};

/// Why a worker is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecycleReason {
    MemorySoft,
    MemoryHard,
    TimeToLimit,
    Age,
    Sessions,
    Threads,
    Fds,
    HostPressure,
    Reload,
    Operator(String),
}

/// A recycle is under way already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl<R: Rules> Core<R> {
    /// Replaces a worker; its number in the status.
    pub(super) fn request_recycle(
        &mut self,
        _now: Duration,
        _generation: Generation,
        _reason: RecycleReason,
        _haste: Haste,
    ) -> Result<u64, Busy> {
        Err(Busy)
    }

    pub(super) fn prepared(&mut self, _now: Duration, _by: Generation, _session: SessionId) {}

    pub(super) fn prepare_failed(
        &mut self,
        _now: Duration,
        _by: Generation,
        _session: SessionId,
        _reason: String,
    ) {
    }

    pub(super) fn released(
        &mut self,
        _now: Duration,
        _by: Generation,
        _session: SessionId,
        _cut: CutReport,
    ) {
    }

    pub(super) fn release_failed(
        &mut self,
        _now: Duration,
        _by: Generation,
        _session: SessionId,
        _reason: String,
    ) {
    }
}
