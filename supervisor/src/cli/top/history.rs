//! What a worker's footprint was: a ring of samples per process, drawn as a row of columns.
//!
//! A slot's next generation begins with an empty ring, for it is another process.

use std::collections::{BTreeMap, VecDeque};
use tasuki_shared::limits::{TOP_HISTORIES_MAX, TOP_HISTORY_SAMPLES_MAX};

/// Whose history it is: slot and generation.
pub(super) type Process = (String, u32);

/// The newest samples of one process, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    samples: VecDeque<u64>,
    /// How many have been forgotten, so that columns keep their samples while time goes on.
    forgotten: usize,
}

/// The histories of all processes that the last status named.
#[derive(Clone, Debug, Default)]
pub(super) struct Histories(BTreeMap<Process, History>);

impl History {
    pub(super) fn push(&mut self, sample: u64) {
        if self.samples.len() == TOP_HISTORY_SAMPLES_MAX {
            self.samples.pop_front();
            self.forgotten += 1;
        }
        self.samples.push_back(sample);
    }

    /// At most `width` columns, the newest last: each the largest of as many samples as it takes
    /// to show the whole ring.
    pub(super) fn columns(&self, width: usize) -> Vec<u64> {
        if width == 0 {
            return Vec::new();
        }
        // One column is lost to the oldest samples, which fill only a part of theirs.
        let per_column = self.samples.len().div_ceil(width).max(1);
        let mut columns: Vec<u64> = Vec::new();
        let mut before = None;
        for (sample, number) in self.samples.iter().zip(self.forgotten..) {
            let column = number / per_column;
            match columns.last_mut().filter(|_| before == Some(column)) {
                Some(largest) => *largest = (*largest).max(*sample),
                None => columns.push(*sample),
            }
            before = Some(column);
        }
        columns.split_off(columns.len().saturating_sub(width))
    }
}

impl Histories {
    /// Takes one sample of each process and forgets the processes that are gone.
    pub(super) fn observe(&mut self, samples: impl IntoIterator<Item = (Process, u64)>) {
        let mut present = BTreeMap::new();
        for (process, sample) in samples.into_iter().take(TOP_HISTORIES_MAX) {
            let mut history = self.0.remove(&process).unwrap_or_default();
            history.push(sample);
            present.insert(process, history);
        }
        self.0 = present;
    }

    pub(super) fn of(&self, process: &Process) -> History {
        self.0.get(process).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_forgets_its_oldest_samples_and_shows_the_rest_in_any_width() {
        let mut history = History::default();
        assert!(history.columns(8).is_empty());
        for sample in 0..3 {
            history.push(sample);
        }
        assert_eq!(history.columns(8), [0, 1, 2]);
        assert_eq!(history.columns(2), [1, 2]);
        assert!(history.columns(0).is_empty());
        for sample in 3..2000 {
            history.push(sample);
        }
        assert_eq!(history.samples.len(), TOP_HISTORY_SAMPLES_MAX);
        let columns = history.columns(30);
        assert_eq!((columns.len(), columns.last()), (30, Some(&1999)));
        assert!(columns.is_sorted());
    }

    #[test]
    fn a_columns_samples_stay_together_while_time_goes_on() {
        let mut history = History::default();
        for sample in 0..2000 {
            history.push(u64::from(sample % 7 == 0));
        }
        let before = history.columns(TOP_HISTORY_SAMPLES_MAX / 10);
        for _ in 0..10 {
            history.push(0);
        }
        let after = history.columns(TOP_HISTORY_SAMPLES_MAX / 10);
        assert_eq!(before[2..], after[1..after.len() - 1]);
    }

    #[test]
    fn a_new_generation_has_a_history_of_its_own_and_the_old_one_is_forgotten() {
        let mut histories = Histories::default();
        let (old, new) = (("w0".to_owned(), 1), ("w0".to_owned(), 2));
        histories.observe([(old.clone(), 7)]);
        histories.observe([(old.clone(), 8), (new.clone(), 1)]);
        assert_eq!(histories.of(&old).columns(9), [7, 8]);
        histories.observe([(new.clone(), 2)]);
        assert_eq!(histories.of(&new).columns(9), [1, 2]);
        assert!(histories.of(&old).columns(9).is_empty());
    }
}
