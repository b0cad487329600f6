//! How often each failpoint was passed and fired, over many servers.

use std::collections::BTreeMap;
use std::fmt;
use tasuki_shared::failpoint::{Board, Point};

#[derive(Clone, Debug, Default)]
pub struct Hits(BTreeMap<Point, (u64, u64)>);

impl Hits {
    #[must_use]
    pub fn of(board: &Board) -> Self {
        let hits = |point: &Point| (*point, (board.passed(*point), board.fired(*point)));
        Self(Point::ALL.iter().map(hits).collect())
    }

    pub fn add(&mut self, other: Self) {
        for (point, (passed, fired)) in other.0 {
            let sum = self.0.entry(point).or_default();
            *sum = (sum.0 + passed, sum.1 + fired);
        }
    }

    #[must_use]
    pub fn fired(&self, point: Point) -> u64 {
        self.0.get(&point).map_or(0, |(_, fired)| *fired)
    }
}

impl fmt::Display for Hits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failpoints passed and fired:")?;
        for (point, (passed, fired)) in &self.0 {
            write!(f, "\n  {passed:>9} {fired:>5} {}: {}", point.name(), point.about())?;
        }
        Ok(())
    }
}
