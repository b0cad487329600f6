//! Moving sessions between workers, and replacing a worker by moving all of its sessions.

use super::Core;
use super::settings::Rules;
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::message::CutReport;

impl<R: Rules> Core<R> {
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
