//! Whom delivery serves, summed over its processes, and what they have counted.
//!
//! A process tells what it has counted since its own start. What a dead one had counted is kept, and
//! no number that a process tells goes back, so the totals only grow. What a process counted after
//! its last words is lost: half a second of a kill -9, nothing of a process that leaves.

use super::Core;
use super::settings::Rules;
use std::collections::BTreeMap;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::limits::AUDIENCE_STREAMS_MAX;
use tasuki_shared::message::{Audience, Role, Served};
use tasuki_shared::status::AudienceStatus;

/// See the module.
#[derive(Debug, Default)]
pub struct Audiences {
    /// What each process that is there has told last.
    told: BTreeMap<Generation, Told>,
    /// Of those that are gone.
    gone: Served,
}

#[derive(Debug, Default)]
struct Told {
    connections: u32,
    waits: u32,
    flv_viewers: u32,
    flv_by_session: BTreeMap<SessionId, u32>,
    served: Served,
}

impl Audiences {
    pub fn tells(&mut self, generation: Generation, audience: Audience) {
        let Audience { connections, waits, flv_viewers, flv_by_session, served } = audience;
        let told = self.told.entry(generation).or_default();
        *told = Told {
            connections,
            waits,
            flv_viewers,
            flv_by_session: flv_by_session.into_iter().take(AUDIENCE_STREAMS_MAX).collect(),
            served: each(told.served, served, u64::max),
        };
    }

    /// The process is no more, and its viewers with it.
    pub fn ended(&mut self, generation: Generation) {
        if let Some(told) = self.told.remove(&generation) {
            self.gone = each(self.gone, told.served, u64::saturating_add);
        }
    }

    /// Who watches this session as FLV.
    pub fn flv_viewers(&self, session: SessionId) -> u32 {
        let viewers = self.told.values().filter_map(|told| told.flv_by_session.get(&session));
        viewers.fold(0, |sum, viewers| sum.saturating_add(*viewers))
    }

    pub fn status(&self) -> AudienceStatus {
        let sum = |number: fn(&Told) -> u32| {
            self.told.values().fold(0_u32, |sum, told| sum.saturating_add(number(told)))
        };
        let all = self
            .told
            .values()
            .fold(self.gone, |sum, told| each(sum, told.served, u64::saturating_add));
        let Served { refused_full, refused_crowded, answers, sent_bytes, flv_jumps, flv_stalled } =
            all;
        AudienceStatus {
            connections: sum(|told| told.connections),
            waits: sum(|told| told.waits),
            flv_viewers: sum(|told| told.flv_viewers),
            refused: BTreeMap::from([
                ("connections_max".to_owned(), refused_full),
                ("connections_per_address_max".to_owned(), refused_crowded),
            ]),
            answers: (1..)
                .zip(answers)
                .map(|(class, count): (u8, u64)| (format!("{class}xx"), count))
                .collect(),
            sent_bytes,
            flv_jumps,
            flv_stalled,
        }
    }
}

/// Counter by counter.
fn each(one: Served, other: Served, of: fn(u64, u64) -> u64) -> Served {
    let Served { refused_full, refused_crowded, answers, sent_bytes, flv_jumps, flv_stalled } = one;
    Served {
        refused_full: of(refused_full, other.refused_full),
        refused_crowded: of(refused_crowded, other.refused_crowded),
        answers: std::array::from_fn(|at| of(answers[at], other.answers[at])),
        sent_bytes: of(sent_bytes, other.sent_bytes),
        flv_jumps: of(flv_jumps, other.flv_jumps),
        flv_stalled: of(flv_stalled, other.flv_stalled),
    }
}

impl<R: Rules> Core<R> {
    pub(super) fn audience(&mut self, generation: Generation, audience: Audience) {
        let role = self.slot_of(generation).map(|at| self.slots[at].role);
        match role {
            Some(Role::Delivery) => self.audiences.tells(generation, audience),
            Some(Role::Worker | Role::Dialer | Role::Console) | None => self.ignored_frames += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAM: SessionId = SessionId { epoch: 1, counter: 1 };

    fn told(connections: u32, sent_bytes: u64) -> Audience {
        Audience {
            connections,
            waits: connections,
            flv_viewers: connections,
            flv_by_session: vec![(CAM, connections)],
            served: Served { sent_bytes, answers: [0, sent_bytes, 0, 0, 0], ..Served::default() },
        }
    }

    /// Two processes serve while one replaces the other; who leaves takes its viewers along and
    /// leaves what it has counted.
    #[test]
    fn processes_are_added_up_and_what_a_dead_one_counted_stays() {
        let (old, new) = (Generation(3), Generation(9));
        let mut audiences = Audiences::default();
        audiences.tells(old, told(5, 100));
        audiences.tells(new, told(2, 10));
        let status = audiences.status();
        assert_eq!((status.connections, status.waits, status.flv_viewers), (7, 7, 7));
        assert_eq!((status.sent_bytes, status.answers["2xx"]), (110, 110));
        assert_eq!(audiences.flv_viewers(CAM), 7);
        audiences.tells(old, told(1, 150));
        audiences.ended(old);
        let status = audiences.status();
        assert_eq!((status.connections, status.sent_bytes), (2, 160));
        assert_eq!(audiences.flv_viewers(CAM), 2);
        assert_eq!(audiences.flv_viewers(SessionId { counter: 2, ..CAM }), 0);
        audiences.ended(old);
        audiences.ended(new);
        assert_eq!(audiences.status().sent_bytes, 160);
        assert_eq!(audiences.status().connections, 0);
    }

    /// Every reason and class is there from the beginning: a counter that appears with its first
    /// event has no increase.
    #[test]
    fn counters_begin_with_nothing() {
        let status = Audiences::default().status();
        assert_eq!(status.refused.values().sum::<u64>(), 0);
        let classes: Vec<&str> = status.answers.keys().map(String::as_str).collect();
        assert_eq!(classes, ["1xx", "2xx", "3xx", "4xx", "5xx"]);
        assert_eq!(status.refused.len(), 2);
    }

    proptest! {
        /// Whatever processes say, in whichever order they come and go, no total goes back.
        #[test]
        fn totals_only_grow(
            said in prop::collection::vec((0_u32..3, any::<u64>(), any::<bool>()), 0..40),
        ) {
            let mut audiences = Audiences::default();
            let mut last = 0;
            for (process, sent, ends) in said {
                audiences.tells(Generation(process), told(1, sent));
                if ends {
                    audiences.ended(Generation(process));
                }
                let now = audiences.status().sent_bytes;
                prop_assert!(now >= last, "{now} after {last}");
                last = now;
            }
        }
    }
}
