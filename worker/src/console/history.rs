//! Footprints of the last hour, of workers that are gone as well. Pure.

use serde::Serialize;
use std::collections::VecDeque;
use tasuki_shared::limits::{CONSOLE_HISTORY_SAMPLES, CONSOLE_HISTORY_WORKERS_MAX};
use tasuki_shared::status::Status;

/// One look at a worker's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    pub unix_ms: u64,
    pub footprint_bytes: u64,
    pub rss_bytes: u64,
    pub lazy_free_bytes: u64,
    /// 0 where the policy does not judge it.
    pub soft_limit_bytes: u64,
    pub hard_limit_bytes: u64,
    pub sessions: u32,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Track {
    pub worker: String,
    pub generation: u32,
    pub samples: VecDeque<Sample>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct History {
    pub interval_ms: u64,
    /// Oldest process first.
    pub workers: Vec<Track>,
}

impl History {
    #[must_use]
    pub fn new(interval_ms: u64) -> Self {
        Self { interval_ms, workers: Vec::new() }
    }

    /// Takes what a status says at this moment.
    pub fn add(&mut self, status: &Status, unix_ms: u64) {
        for worker in status.workers.iter().filter(|worker| worker.pid != 0) {
            let (soft, hard) = worker
                .memory
                .as_ref()
                .map_or((0, 0), |memory| (memory.soft_limit_bytes, memory.hard_limit_bytes));
            let sample = Sample {
                unix_ms,
                footprint_bytes: worker.footprint_bytes,
                rss_bytes: worker.rss_bytes,
                lazy_free_bytes: worker.lazy_free_bytes,
                soft_limit_bytes: soft,
                hard_limit_bytes: hard,
                sessions: worker.sessions,
            };
            self.track(&worker.slot, worker.generation).samples.push_back(sample);
        }
        let oldest = unix_ms.saturating_sub(self.interval_ms * CONSOLE_HISTORY_SAMPLES);
        for track in &mut self.workers {
            while track.samples.front().is_some_and(|sample| sample.unix_ms < oldest) {
                track.samples.pop_front();
            }
        }
        self.workers.retain(|track| !track.samples.is_empty());
        let beyond = self.workers.len().saturating_sub(CONSOLE_HISTORY_WORKERS_MAX);
        self.workers.drain(..beyond);
    }

    fn track(&mut self, worker: &str, generation: u32) -> &mut Track {
        let is_it = |track: &Track| track.generation == generation && track.worker == worker;
        let at = self.workers.iter().position(is_it).unwrap_or_else(|| {
            let (worker, samples) = (worker.to_owned(), VecDeque::new());
            self.workers.push(Track { worker, generation, samples });
            self.workers.len() - 1
        });
        &mut self.workers[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::health::tests::{node, worker};

    /// A generation that is gone stays for an hour, one that is new has a track of its own.
    #[test]
    fn workers_are_remembered_for_an_hour_and_no_longer() {
        let mut history = History::new(2000);
        let status = |generation| {
            let mut status = node();
            status.workers = vec![worker("w0", 1)];
            status.workers[0].generation = generation;
            status
        };
        history.add(&status(1), 0);
        history.add(&status(2), 2000);
        let found: Vec<_> =
            history.workers.iter().map(|it| (it.generation, it.samples.len())).collect();
        assert_eq!(found, [(1, 1), (2, 1)]);
        history.add(&status(2), 2000 * CONSOLE_HISTORY_SAMPLES + 1);
        let found: Vec<_> =
            history.workers.iter().map(|it| (it.generation, it.samples.len())).collect();
        assert_eq!(found, [(2, 2)]);
    }

    /// However fast workers come and go.
    #[test]
    fn the_number_of_tracks_is_bounded() {
        let mut history = History::new(2000);
        for generation in 0..2 * u32::try_from(CONSOLE_HISTORY_WORKERS_MAX).unwrap() {
            let mut status = node();
            status.workers = vec![worker("w0", 1)];
            status.workers[0].generation = generation;
            history.add(&status, u64::from(generation));
        }
        assert_eq!(history.workers.len(), CONSOLE_HISTORY_WORKERS_MAX);
    }
}
