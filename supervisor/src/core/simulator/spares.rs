//! Spare codecs in the simulated world: what workers say that their streams need, and whether those
//! who stand by were told what follows from it.

use super::*;
use crate::core::poison::Standing;
use crate::core::spares::NEEDS_MAX;
use crate::core::worker::Tenure;
use tasuki_shared::limits::{
    CODEC_NEED_BYTES_MAX, SPARE_BYTES_DIVISOR, SPARE_BYTES_MAX, SPARE_CODECS_MAX, SPARE_INTERVAL,
    SPARE_KINDS_MAX, STRIKES_TO_QUARANTINE,
};
use tasuki_shared::message::{CodecNeed, SpareList};

/// The reference: what the core must know, and what must follow.
#[derive(Debug, Default)]
pub struct Reference {
    needs: BTreeMap<SessionId, Vec<CodecNeed>>,
    list: SpareList,
    /// When that changed last.
    changed: Duration,
    standing_by: BTreeMap<Generation, Standby>,
}

#[derive(Debug, Default)]
struct Standby {
    since: Duration,
    told: SpareList,
    /// When.
    at: Option<Duration>,
}

impl World {
    /// A worker says what the codecs of its streams were opened with, or garbage.
    pub(super) fn tell_codecs(&mut self, generation: Generation) {
        let sessions = &self.alive[&generation].sessions;
        let live: Vec<_> = sessions.iter().filter(|(_, a)| **a == Adoption::Live).collect();
        if live.is_empty() {
            return;
        }
        let live: Vec<SessionId> = live.into_iter().map(|(id, _)| *id).collect();
        let session = live[self.below(live.len())];
        let needs = self.needs();
        let is_well_formed = needs.len() <= NEEDS_MAX
            && needs.iter().all(|need| need.0.len() <= CODEC_NEED_BYTES_MAX);
        let is_its = self.core.sessions.get(&session).is_some_and(|session| {
            session.generation() == Some(generation) && session.publish.live_name().is_some()
        });
        if is_well_formed && is_its {
            self.spares.needs.insert(session, needs.clone());
        }
        self.says(generation, FromWorker::Codecs { session, needs });
    }

    /// Mostly a few of a few kinds; now and then too many, or too long.
    pub(super) fn needs(&mut self) -> Vec<CodecNeed> {
        let (count, bytes) = match self.below(8) {
            0 => (NEEDS_MAX + 1, 4),
            1 => (2, CODEC_NEED_BYTES_MAX + 1),
            2 => (NEEDS_MAX, CODEC_NEED_BYTES_MAX),
            _ => (self.below(5), 4),
        };
        let kind = |n: usize| CodecNeed(vec![u8::try_from(n).unwrap(); bytes]);
        (0..count).map(|_| kind(self.below(6))).collect()
    }

    pub(super) fn told_spares(&mut self, to: Generation, list: SpareList, context: &str) {
        self.seen.spares_told += 1;
        assert!(list.codecs.len() <= SPARE_KINDS_MAX, "{context}: {list:?}");
        let codecs: u32 = list.codecs.iter().map(|(_, count)| count).sum();
        assert!(codecs <= SPARE_CODECS_MAX, "{context}: {list:?}");
        let soft_bytes = self.core.memory.limits().soft_bytes;
        let bytes_max = SPARE_BYTES_MAX.min(soft_bytes / SPARE_BYTES_DIVISOR);
        assert!(list.bytes_max <= bytes_max, "{context}: {list:?}");
        let now = self.now;
        let standby = self.spares.standing_by.entry(to);
        let standby = standby.or_insert(Standby { since: now, ..Standby::default() });
        assert_ne!(standby.told, list, "{context}: {to} was told the same twice");
        let is_early = standby.at.is_some_and(|at| now < at + SPARE_INTERVAL);
        assert!(!is_early, "{context}: {to} is told too often");
        (standby.told, standby.at) = (list, Some(now));
    }

    /// Nobody is believed who may not be, and who has stood by for an interval in which nothing
    /// changed was told all.
    pub(super) fn check_spares(&mut self, context: &str) {
        let sessions = &self.core.sessions;
        self.spares.needs.retain(|id, _| sessions.contains_key(id));
        for (id, session) in sessions {
            let known = self.spares.needs.get(id).map_or(&[][..], Vec::as_slice);
            assert_eq!(session.needs, known, "{context}: what {id} needs");
        }
        let list = self.reference_list();
        if self.spares.list != list {
            self.spares.list = list;
            self.spares.changed = self.now;
        }
        let stands_by = |slot: &Slot| match &slot.state {
            State::Standby(process) if process.closed.is_none() => Some(process.generation),
            _ => None,
        };
        let standing_by: BTreeSet<_> = self.core.slots.iter().filter_map(stands_by).collect();
        self.spares.standing_by.retain(|generation, _| standing_by.contains(generation));
        for generation in standing_by {
            let now = self.now;
            let standby = self.spares.standing_by.entry(generation);
            let standby = standby.or_insert(Standby { since: now, ..Standby::default() });
            let is_settled = now >= standby.since + SPARE_INTERVAL
                && now >= self.spares.changed + SPARE_INTERVAL;
            if is_settled && self.core.stage() == Stage::Running {
                assert_eq!(standby.told, self.spares.list, "{context}: {generation}");
                self.seen.spares_checked += usize::from(!standby.told.codecs.is_empty());
            }
        }
    }

    /// By need and worker, from what was said of each session.
    fn reference_list(&self) -> SpareList {
        let owner = |id: &SessionId| {
            let owns = |slot: &&Slot| slot.process().is_some_and(|p| p.sessions.contains(id));
            let slot = self.core.slots.iter().find(owns)?;
            let is_alone = matches!(slot.tenure, Tenure::Quarantine(_));
            slot.process().map(|process| process.generation).filter(|_| !is_alone)
        };
        let mut counts: BTreeMap<(&CodecNeed, Generation), u32> = BTreeMap::new();
        for (id, needs) in &self.spares.needs {
            let session = &self.core.sessions[id];
            let is_suspected = session.blame.strikes >= STRIKES_TO_QUARANTINE
                || session.blame.standing != Standing::Clear;
            let ends = match &session.place {
                super::super::lease::Place::Ending { .. } => true,
                super::super::lease::Place::Moving(moving) => moving.end.is_some(),
                _ => false,
            };
            if is_suspected || ends || session.publish.live_name().is_none() {
                continue;
            }
            let Some(owner) = owner(id) else { continue };
            for need in needs {
                *counts.entry((need, owner)).or_default() += 1;
            }
        }
        let mut kinds: BTreeMap<CodecNeed, u32> = BTreeMap::new();
        for ((need, _), count) in counts {
            let most = kinds.entry(need.clone()).or_default();
            *most = count.max(*most);
        }
        let mut codecs: Vec<_> = kinds.into_iter().collect();
        codecs.sort_by(|(one, count), (other, more)| more.cmp(count).then(one.cmp(other)));
        let bytes = self.core.memory.limits().soft_bytes / SPARE_BYTES_DIVISOR;
        match bytes.min(SPARE_BYTES_MAX) {
            bytes_max if bytes_max > 0 && !codecs.is_empty() => SpareList { codecs, bytes_max },
            _ => SpareList::default(),
        }
    }
}
