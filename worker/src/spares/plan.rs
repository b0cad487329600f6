//! Which spare codec is opened or closed next. Pure: what a codec costs is told by whoever opened it.
//!
//! The list's order counts: what comes first is opened first, all of a kind before the next one. A
//! kind that does not fit what is left is passed over, so smaller ones behind it are opened.

use std::collections::{BTreeMap, BTreeSet};
use tasuki_shared::limits::{CODEC_NEED_BYTES_MAX, SPARE_CODECS_MAX, SPARE_KINDS_MAX};
use tasuki_shared::message::{CodecNeed, SpareList};

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Open(CodecNeed),
    /// One of these.
    Close(CodecNeed),
    /// Nothing, until another list is told.
    Rest,
}

/// What becomes of a codec that was just opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Keep,
    /// It takes more than is left.
    Close,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Plan {
    list: SpareList,
    held: BTreeMap<CodecNeed, u32>,
    /// The most that one of a kind was seen to take; of kinds in the list or held.
    costs: BTreeMap<CodecNeed, u64>,
    /// In the list, and cannot be opened.
    failed: BTreeSet<CodecNeed>,
}

impl Plan {
    /// Another list takes the place of the last. What is beyond its bounds is left out.
    pub fn tell(&mut self, list: SpareList) {
        let SpareList { codecs, bytes_max } = list;
        let mut left = SPARE_CODECS_MAX;
        let mut bounded: Vec<(CodecNeed, u32)> = Vec::new();
        for (need, count) in codecs.into_iter().take(SPARE_KINDS_MAX) {
            let count = count.min(left);
            let known = bounded.iter().any(|(known, _)| *known == need);
            if count > 0 && need.0.len() <= CODEC_NEED_BYTES_MAX && !known {
                left -= count;
                bounded.push((need, count));
            }
        }
        let listed: BTreeSet<&CodecNeed> = bounded.iter().map(|(need, _)| need).collect();
        self.failed.retain(|need| listed.contains(need));
        self.costs.retain(|need, _| listed.contains(need) || self.held.contains_key(need));
        self.list = SpareList { codecs: bounded, bytes_max };
    }

    /// `bytes_min` says what a codec of this kind takes at least; `None` when it cannot be read.
    pub fn next(&mut self, bytes_min: impl Fn(&CodecNeed) -> Option<u64>) -> Step {
        if let Some(need) = self.surplus() {
            return Step::Close(need);
        }
        let left = self.list.bytes_max.saturating_sub(self.bytes());
        for (need, wanted) in &self.list.codecs {
            if self.held(need) >= *wanted || self.failed.contains(need) {
                continue;
            }
            let Some(bytes_min) = bytes_min(need) else {
                self.failed.insert(need.clone());
                continue;
            };
            let cost = self.costs.get(need).copied().unwrap_or_default();
            if cost.max(bytes_min) <= left {
                return Step::Open(need.clone());
            }
        }
        Step::Rest
    }

    /// One was opened and takes so much.
    #[must_use]
    pub fn opened(&mut self, need: &CodecNeed, bytes: u64) -> Opened {
        let cost = self.costs.entry(need.clone()).or_default();
        *cost = bytes.max(*cost);
        *self.held.entry(need.clone()).or_default() += 1;
        if self.bytes() > self.list.bytes_max {
            self.closed(need);
            return Opened::Close;
        }
        Opened::Keep
    }

    /// One cannot be opened: no other of its kind is tried while it is in the list.
    pub fn failed(&mut self, need: CodecNeed) {
        self.failed.insert(need);
    }

    /// One was closed.
    pub fn closed(&mut self, need: &CodecNeed) {
        if let Some(count) = self.held.get_mut(need) {
            *count = count.saturating_sub(1);
        }
        self.held.retain(|_, count| *count > 0);
    }

    /// What all that are held take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let of = |(need, count): (&CodecNeed, &u32)| {
            u64::from(*count).saturating_mul(self.costs.get(need).copied().unwrap_or_default())
        };
        self.held.iter().map(of).fold(0, u64::saturating_add)
    }

    fn held(&self, need: &CodecNeed) -> u32 {
        self.held.get(need).copied().unwrap_or_default()
    }

    /// One that no list wants any more; where they take too much, of the kind that is listed last.
    fn surplus(&self) -> Option<CodecNeed> {
        let wanted = |need: &CodecNeed| {
            let listed = self.list.codecs.iter().find(|(known, _)| known == need);
            listed.map_or(0, |(_, count)| *count)
        };
        let unwanted = self.held.iter().find(|(need, count)| **count > wanted(need));
        if let Some((need, _)) = unwanted {
            return Some(need.clone());
        }
        if self.bytes() <= self.list.bytes_max {
            return None;
        }
        let mut last_first = self.list.codecs.iter().rev();
        last_first.find(|(need, _)| self.held(need) > 0).map(|(need, _)| need.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(name: u8) -> CodecNeed {
        CodecNeed(vec![name])
    }

    fn list(codecs: &[(u8, u32)], bytes_max: u64) -> SpareList {
        let codecs = codecs.iter().map(|(name, count)| (need(*name), *count)).collect();
        SpareList { codecs, bytes_max }
    }

    /// Does all there is to do; what was opened (positive) and closed (negative), in order. A codec
    /// takes ten times its name.
    fn run(plan: &mut Plan) -> Vec<i32> {
        let mut done = Vec::new();
        loop {
            match plan.next(|_| Some(1)) {
                Step::Open(need) => {
                    let name = need.0[0];
                    done.push(i32::from(name));
                    if plan.opened(&need, u64::from(name) * 10) == Opened::Close {
                        done.push(-i32::from(name));
                    }
                }
                Step::Close(need) => {
                    plan.closed(&need);
                    done.push(-i32::from(need.0[0]));
                }
                Step::Rest => return done,
            }
            assert!(done.len() < 1000, "no end: {done:?}");
        }
    }

    /// Codecs are opened in the list's order; a new list closes what it lacks first and keeps the
    /// rest.
    #[test]
    fn what_is_listed_is_held_and_nothing_else() {
        let mut plan = Plan::default();
        assert!(run(&mut plan).is_empty());
        plan.tell(list(&[(2, 1), (1, 2)], 1000));
        assert_eq!((run(&mut plan), plan.bytes()), (vec![2, 1, 1], 40));
        plan.tell(list(&[(3, 1), (1, 1)], 1000));
        assert_eq!((run(&mut plan), plan.bytes()), (vec![-1, -2, 3], 40));
        plan.tell(list(&[], 1000));
        assert_eq!((run(&mut plan), plan.bytes()), (vec![-1, -3], 0));
    }

    /// What does not fit is tried once, as nobody knows what it takes, closed, and passed over from
    /// then on; what is smaller is opened behind it.
    #[test]
    fn the_bound_of_bytes_holds() {
        let mut plan = Plan::default();
        plan.tell(list(&[(2, 2), (9, 2), (1, 9)], 65));
        assert_eq!(run(&mut plan), [2, 2, 9, -9, 1, 1]);
        assert_eq!(plan.bytes(), 60);
        // A lower bound closes from the list's end.
        plan.tell(list(&[(2, 2), (9, 2), (1, 9)], 25));
        assert_eq!((run(&mut plan), plan.bytes()), (vec![-1, -1, -2], 20));
        // Of which it is known beforehand that it does not fit is not even tried.
        let mut plan = Plan::default();
        plan.tell(list(&[(1, 1)], 65));
        assert_eq!(plan.next(|_| Some(66)), Step::Rest);
    }

    /// What cannot be read or opened is not tried again before it was out of the list.
    #[test]
    fn a_codec_that_cannot_be_opened_is_passed_over() {
        let mut plan = Plan::default();
        let told = list(&[(1, 3), (2, 1)], 1000);
        plan.tell(told.clone());
        assert_eq!(plan.next(|_| Some(1)), Step::Open(need(1)));
        plan.failed(need(1));
        assert_eq!(run(&mut plan), [2]);
        plan.tell(told.clone());
        assert!(run(&mut plan).is_empty());
        plan.tell(list(&[(2, 1)], 1000));
        plan.tell(told);
        assert_eq!(run(&mut plan), [1, 1, 1]);
        plan.tell(list(&[(3, 1)], 1000));
        run(&mut plan);
        plan.tell(list(&[(3, 1), (4, 1)], 1000));
        assert_eq!(plan.next(|_| None), Step::Rest);
    }

    /// A list beyond its bounds, or with a kind twice, is cut to them.
    #[test]
    fn a_list_is_bounded_whoever_wrote_it() {
        let mut plan = Plan::default();
        plan.tell(list(&[(1, SPARE_CODECS_MAX - 1), (1, 5), (2, 2), (3, 1)], u64::MAX));
        let opened = run(&mut plan);
        assert_eq!(opened.len(), usize::try_from(SPARE_CODECS_MAX).unwrap());
        assert_eq!(opened.last(), Some(&2));
        let long = CodecNeed(vec![0; CODEC_NEED_BYTES_MAX + 1]);
        plan.tell(SpareList { codecs: vec![(long, 1)], bytes_max: 1000 });
        assert!(run(&mut plan).iter().all(|name| *name < 0));
    }
}
