//! Recycles as the status told of them. The server forgets old ones; this keeps the last word on
//! each, if it looks often enough.

use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use tasuki_shared::limits::RECYCLES_TOLD_MAX;
use tasuki_shared::status::{MoveStatus, RecycleStatus, Status};

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    recycles: BTreeMap<u64, RecycleStatus>,
}

impl Ledger {
    pub fn note(&mut self, status: &Status) {
        self.recycles.extend(status.recycles.iter().map(|recycle| (recycle.id, recycle.clone())));
    }

    /// Those with an id from `from` on.
    pub fn since(&self, from: u64) -> impl Iterator<Item = &RecycleStatus> {
        self.recycles.range(from..).map(|(_, recycle)| recycle)
    }

    pub fn all(&self) -> impl Iterator<Item = &RecycleStatus> {
        self.recycles.values()
    }

    /// The id that the next recycle will have at least.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.recycles.keys().next_back().map_or(0, |id| id + 1)
    }

    /// Every recycle from `from` on that is over ended well, every move in it too, nothing was
    /// lost, and none was missed.
    pub fn check(&self, from: u64) -> Result<()> {
        let first = self.since(from).next().map_or(from, |recycle| recycle.id);
        for (expected, recycle) in (first..).zip(self.since(from)) {
            ensure!(recycle.id == expected, "recycle {expected} was forgotten unseen");
            if !is_over(recycle) {
                continue;
            }
            ensure!(recycle.outcome == "done", "a recycle failed: {recycle:?}");
            let fine = |moved: &MoveStatus| moved.outcome == "done" && moved.frames_lost == 0;
            ensure!(recycle.moves.iter().all(fine), "a move failed: {recycle:?}");
        }
        Ok(())
    }
}

/// Nothing is being recycled or waits for it.
#[must_use]
pub fn is_quiet(status: &Status) -> bool {
    status.recycles.iter().all(is_over)
}

#[must_use]
pub fn is_over(recycle: &RecycleStatus) -> bool {
    recycle.outcome == "done" || recycle.outcome.starts_with("failed")
}

const _: () = assert!(RECYCLES_TOLD_MAX >= 8, "a look a second sees every recycle");
