//! What is counted since the supervisor's start and told as counters.

use super::handoff::Outcome;
use std::collections::BTreeMap;
use tasuki_shared::message::Role;
use tasuki_shared::status::{self, Pauses};

/// See the module. Names are ours: no key comes from outside.
#[derive(Debug, Default)]
pub struct Totals {
    recycles: BTreeMap<&'static str, u64>,
    recycles_failed: BTreeMap<&'static str, u64>,
    deaths: BTreeMap<&'static str, u64>,
    moves: BTreeMap<&'static str, u64>,
    pauses: Pauses,
}

impl Totals {
    pub fn recycle_over(&mut self, reason: &'static str, failure: Option<&str>) {
        *self.recycles.entry(reason).or_default() += 1;
        if failure.is_some() {
            *self.recycles_failed.entry(reason).or_default() += 1;
        }
    }

    pub fn died(&mut self, role: Role) {
        *self.deaths.entry(role.name()).or_default() += 1;
    }

    pub fn move_over(&mut self, outcome: &Outcome, pause_us: u64) {
        let name = match outcome {
            Outcome::Done => {
                self.pauses.add(pause_us);
                "done"
            }
            Outcome::CrashedOver => "crashed_over",
            Outcome::Kept(_) | Outcome::NoAnchor => "kept",
            Outcome::CalledOff(_) => "called_off",
        };
        *self.moves.entry(name).or_default() += 1;
    }

    pub fn status(&self) -> status::Totals {
        let Self { recycles, recycles_failed, deaths, moves, pauses } = self;
        let named = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        status::Totals {
            recycles: named(recycles),
            recycles_failed: named(recycles_failed),
            deaths: named(deaths),
            moves: named(moves),
            pauses: pauses.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::status::PAUSE_BOUNDS_US;

    /// A pause is in the bucket of the first bound that it does not exceed, and only moves that are
    /// done have one.
    #[test]
    fn moves_are_counted_by_outcome_and_pauses_by_length() {
        let mut totals = Totals::default();
        for pause_us in [0, 100, 101, 1_000_000, 1_000_001] {
            totals.move_over(&Outcome::Done, pause_us);
        }
        totals.move_over(&Outcome::NoAnchor, 77);
        let status = totals.status();
        assert_eq!(status.moves["done"], 5);
        assert_eq!(status.moves["kept"], 1);
        let mut expected = vec![0; PAUSE_BOUNDS_US.len() + 1];
        (expected[0], expected[1], expected[9], expected[10]) = (2, 1, 1, 1);
        assert_eq!(status.pauses.counts, expected);
        assert_eq!(status.pauses.sum_us, 2_000_202);
    }
}
