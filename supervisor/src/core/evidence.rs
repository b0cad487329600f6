//! What is kept of a worker that is recycled for its memory: recycling must not destroy the evidence
//! of the leak.
//!
//! `Effect::SaveEvidence` asks the shell for it, `Event::EvidenceSaved` says where it lies. Sessions
//! move meanwhile; only the worker's exit waits, and at most until the deadline.

use super::Core;
use super::event::{Effect, Loudness};
use super::recycle::Evidence;
use super::settings::Rules;
use std::time::Duration;
use tasuki_shared::id::Generation;
use tasuki_shared::limits::EVIDENCE_DEADLINE;

impl<R: Rules> Core<R> {
    /// For a recycle that begins.
    pub(super) fn ask_for_evidence(&mut self, now: Duration, at: usize) {
        let recycle = &mut self.recycles[at];
        if recycle.reason.is_memory() {
            recycle.evidence = Evidence::Awaited { deadline: now + EVIDENCE_DEADLINE };
            let (recycle, generation) = (recycle.id, recycle.generation);
            self.effects.push(Effect::SaveEvidence { recycle, generation });
        }
    }

    /// Is there still something to be saved of this worker?
    pub(super) fn waits_for_evidence(&self, now: Duration, at: usize) -> bool {
        match self.recycles[at].evidence {
            Evidence::Awaited { deadline } => now < deadline,
            Evidence::NotWanted | Evidence::Saved(_) | Evidence::Missing => false,
        }
    }

    pub(super) fn evidence_saved(
        &mut self,
        recycle: u64,
        generation: Generation,
        path: Option<String>,
    ) {
        for known in self.recycles.iter_mut().filter(|known| known.id == recycle) {
            known.evidence = path.clone().map_or(Evidence::Missing, Evidence::Saved);
        }
        // Its process may be gone by now; then the files say whose they are.
        let Some(at) = self.slot_of(generation) else { return };
        match path {
            Some(path) => {
                let detail = format!("recycle {recycle}: {path}");
                self.announce_worker(at, Loudness::Info, "evidence_saved", detail);
            }
            None => {
                let detail = format!("recycle {recycle}: nothing could be saved");
                self.announce_worker(at, Loudness::Warn, "evidence_missing", detail);
            }
        }
    }
}
