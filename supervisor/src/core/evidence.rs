//! What is kept of a worker that is recycled for its memory.
//!
//! `Effect::SaveEvidence` asks the shell for it, `Event::EvidenceSaved` says where it lies. A recycle
//! need not wait: the shell answers within `EVIDENCE_DEADLINE`.

use super::Core;
use super::event::Loudness;
use super::settings::Rules;
use tasuki_shared::id::Generation;

impl<R: Rules> Core<R> {
    pub(super) fn evidence_saved(
        &mut self,
        recycle: u64,
        generation: Generation,
        path: Option<String>,
    ) {
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
