//! Which codecs a worker that stands by holds open ahead, so that streams whose worker dies have
//! their first frame sooner.
//!
//! Workers tell what the codecs of their streams were opened with; the bytes mean nothing here. One
//! worker dies at a time, so a list has of each kind the most that any one worker's streams need,
//! not the sum. A need belongs to its session: it moves with it and ends with it. What a suspected
//! stream needs is in no list, for its bytes shall not reach the worker that takes up the others'.

use super::lease::{Place, Session};
use super::poison::Standing;
use super::settings::Rules;
use super::worker::{Process, Slot, State, Tenure};
use super::{Core, Effect, Fds, Stage};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::limits::{
    CODEC_NEED_BYTES_MAX, RUNGS_MAX, SPARE_BYTES_DIVISOR, SPARE_BYTES_MAX, SPARE_CODECS_MAX,
    SPARE_INTERVAL, SPARE_KINDS_MAX, STRIKES_TO_QUARANTINE,
};
use tasuki_shared::message::{CodecNeed, Role, SpareList, ToWorker};

/// A decoder, and an encoder for each rung.
pub const NEEDS_MAX: usize = 1 + RUNGS_MAX;

/// What one process was told to hold open, and what it says of it.
#[derive(Clone, Debug, Default)]
pub struct Spares {
    /// As told last; empty before.
    pub told: SpareList,
    /// When that was compared with what is needed.
    compared: Option<Duration>,
    /// The most that it was ever allowed to hold.
    pub bytes_max: u64,
    /// Codecs that it holds, by its own word.
    pub held: u32,
}

impl Spares {
    fn is_due(&self, now: Duration) -> bool {
        self.compared.is_none_or(|compared| now >= compared + SPARE_INTERVAL)
    }
}

impl<R: Rules> Core<R> {
    pub(super) fn codecs(&mut self, generation: Generation, id: SessionId, needs: Vec<CodecNeed>) {
        let fits = needs.len() <= NEEDS_MAX
            && needs.iter().all(|need| need.0.len() <= CODEC_NEED_BYTES_MAX);
        let Some(session) = self.leased_to(generation, id) else { return };
        if fits && session.publish.live_name().is_some() {
            session.needs = needs;
        } else {
            self.ignored_frames += 1;
        }
    }

    /// Tells those who stand by where their list is not what it was.
    pub(super) fn tell_spares(&mut self, now: Duration) {
        // No stream of a server that leaves is taken up by another worker.
        if self.stage != Stage::Running {
            return;
        }
        let is_due = |slot: &mut Slot| due_standby(now, slot).is_some();
        if !self.slots.iter_mut().any(is_due) {
            return;
        }
        let list = self.spare_list();
        for process in self.slots.iter_mut().filter_map(|slot| due_standby(now, slot)) {
            let spares = &mut process.spares;
            spares.compared = Some(now);
            if spares.told == list {
                continue;
            }
            spares.told = list.clone();
            spares.bytes_max = spares.bytes_max.max(list.bytes_max);
            let body = ToWorker::Spare(Box::new(list.clone()));
            self.effects.push(Effect::Send { to: process.generation, body, fds: Fds::None });
        }
    }

    fn spare_list(&self) -> SpareList {
        // 0 before the first measurement.
        let soft_bytes = self.memory.limits().soft_bytes;
        let bytes_max = SPARE_BYTES_MAX.min(soft_bytes / SPARE_BYTES_DIVISOR);
        if !self.settings.spare_codecs || bytes_max == 0 {
            return SpareList::default();
        }
        let mut most: BTreeMap<&CodecNeed, u32> = BTreeMap::new();
        for process in self.slots.iter().filter_map(mortal) {
            let mut needed: BTreeMap<&CodecNeed, u32> = BTreeMap::new();
            let sessions = process.sessions.iter().filter_map(|id| self.sessions.get(id));
            for need in sessions.filter(|session| is_taken_up(session)).flat_map(|s| &s.needs) {
                *needed.entry(need).or_default() += 1;
            }
            for (need, count) in needed {
                let most = most.entry(need).or_default();
                *most = count.max(*most);
            }
        }
        let mut codecs: Vec<(&CodecNeed, u32)> = most.into_iter().collect();
        // Stable: kinds wanted equally stay in the order of their bytes.
        codecs.sort_by_key(|(_, count)| Reverse(*count));
        codecs.truncate(SPARE_KINDS_MAX);
        let mut left = SPARE_CODECS_MAX;
        let mut list = SpareList::default();
        for (need, count) in codecs {
            let count = count.min(left);
            left -= count;
            if count > 0 {
                list.codecs.push((need.clone(), count));
            }
        }
        if !list.codecs.is_empty() {
            list.bytes_max = bytes_max;
        }
        list
    }
}

/// A worker that stands by and may be told something.
fn due_standby(now: Duration, slot: &mut Slot) -> Option<&mut Process> {
    match &mut slot.state {
        State::Standby(process) if process.closed.is_none() => {
            process.spares.is_due(now).then_some(process)
        }
        State::Standby(_)
        | State::Starting(..)
        | State::Serving(_)
        | State::Isolated(_)
        | State::Draining(_)
        | State::Ending(..)
        | State::Backoff { .. }
        | State::Gone => None,
    }
}

/// A worker whose streams others take up when it dies.
const fn mortal(slot: &Slot) -> Option<&Process> {
    match (&slot.role, &slot.tenure, &slot.state) {
        (
            Role::Worker,
            Tenure::Fixed | Tenure::Temporary,
            State::Serving(process) | State::Draining(process) | State::Ending(process, ..),
        ) => Some(process),
        (
            Role::Worker | Role::Dialer | Role::Delivery | Role::Console,
            Tenure::Fixed | Tenure::Temporary | Tenure::Quarantine(_),
            State::Starting(..)
            | State::Standby(_)
            | State::Serving(_)
            | State::Isolated(_)
            | State::Draining(_)
            | State::Ending(..)
            | State::Backoff { .. }
            | State::Gone,
        ) => None,
    }
}

/// Would it go on in another worker, among other streams?
fn is_taken_up(session: &Session) -> bool {
    let ends = match &session.place {
        Place::Ending { .. } => true,
        Place::Moving(moving) => moving.end.is_some(),
        Place::Waiting { .. } | Place::Leased { .. } | Place::Held { .. } => false,
    };
    let is_clear = match session.blame.standing {
        Standing::Clear => session.blame.strikes < STRIKES_TO_QUARANTINE,
        Standing::Quarantined { .. } | Standing::LetOut { .. } => false,
    };
    !ends && is_clear && session.publish.live_name().is_some()
}
