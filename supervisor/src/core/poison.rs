//! Which stream ends the workers it is in, and what is done with it.
//!
//! ```text
//!         a fault, a panic or a hang at work on it         the same at the same place
//!  Clear ───────────────────────────────▶ one strike ─────────────────────────▶ Quarantined
//!    ▲                                        │ it had moved on meanwhile          │      │ once more
//!    │                                        └──▶ one strike, of the new place    │      ▼
//!    └───────────────────── long enough without a death ───────────────────────────┘   dropped
//! ```
//! Only deaths that content can cause count, and only against sessions whose memory says
//! *processing*. The same place is the packet that the codecs were given last, or else the last
//! frame committed: what decodes from the anchor again comes to the same packet. Where one of
//! several stood at the same packet twice, the others only happened to be there.
//!
//! In quarantine a stream has a worker of its own, so that nobody else pays for what it does and an
//! innocent one shows it. Want of memory isolates and never drops.

use super::Core;
use super::event::{Effect, Loudness};
use super::handoff::Order;
use super::lease::Place;
use super::publish::Publish;
use super::restart::{Cause, KillReason, Weight};
use super::settings::Rules;
use super::worker::{State, Tenure};
use crate::core::Stage;
use crate::core::admission::Seat;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::limits::{
    ORPHAN_DEADLINE, QUARANTINE_PAUSE, QUARANTINE_PAUSE_DOUBLINGS_MAX, QUARANTINE_TIME,
    QUARANTINES_MAX, STRIKES_TO_DROP, STRIKES_TO_QUARANTINE,
};
use tasuki_shared::memory::session::WorkPlace;
use tasuki_shared::message::{EndReason, Haste, RefuseReason, Role};

/// What a session is suspected of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Blame {
    /// Deaths in a row at the same place.
    pub strikes: u32,
    /// Where it stood at the last of them.
    pub place: WorkPlace,
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    #[default]
    Clear,
    /// Alone in a worker, or on its way to one.
    Quarantined {
        /// Since its last death.
        since: Duration,
        deaths: u32,
    },
    /// Suspected of nothing any more, and not yet seen among the others.
    LetOut {
        /// When it was last sent there.
        since: Duration,
    },
}

impl Blame {
    /// For people; empty for nearly all.
    pub fn words(&self) -> String {
        match (self.strikes, self.standing) {
            (0, Standing::Clear) => String::new(),
            (1, Standing::Clear) => "at work when its worker died".to_owned(),
            (strikes, Standing::Clear) => format!("at the same place in {strikes} deaths"),
            (0, Standing::LetOut { .. }) => "leaves its quarantine".to_owned(),
            (strikes, Standing::LetOut { .. }) => {
                format!("leaves its quarantine; {strikes} deaths since")
            }
            (strikes, Standing::Quarantined { .. }) => {
                format!("in quarantine: at the same place in {strikes} deaths")
            }
        }
    }
}

/// What a process that died was at work on.
pub struct Work<'a> {
    pub places: &'a BTreeMap<SessionId, WorkPlace>,
    /// The session that it was killed for, where one is known.
    pub hung: Option<SessionId>,
    pub tenure: Tenure,
}

/// How a place compares to that of the last death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Not,
    /// Nothing was committed in between.
    SameCommit,
    /// The codecs were given the same packet last.
    SamePacket,
}

impl Again {
    fn of(blame: &Blame, place: WorkPlace) -> Self {
        if blame.strikes == 0 {
            Self::Not
        } else if place.packet != 0 && place.packet == blame.place.packet {
            Self::SamePacket
        } else if place.committed == blame.place.committed {
            Self::SameCommit
        } else {
            Self::Not
        }
    }
}

impl<R: Rules> Core<R> {
    /// Holds a death against those of its sessions that may have caused it. Gives those that shall
    /// be dropped for it.
    pub(super) fn accuse(
        &mut self,
        sessions: &BTreeSet<SessionId>,
        cause: Cause,
        work: &Work<'_>,
    ) -> BTreeSet<SessionId> {
        let most = match cause.weight() {
            Weight::None => return BTreeSet::new(),
            Weight::Isolates => STRIKES_TO_QUARANTINE,
            Weight::Drops => STRIKES_TO_DROP,
        };
        let is_it = |id| match (cause, work.hung) {
            (Cause::Killed(KillReason::Hung), Some(hung)) => hung == id,
            (_, _) => true,
        };
        let mut found = Vec::new();
        for id in sessions.iter().copied().filter(|id| is_it(*id)) {
            let (Some(session), Some(place)) = (self.sessions.get(&id), work.places.get(&id))
            else {
                continue;
            };
            found.push((id, *place, Again::of(&session.blame, *place)));
        }
        let is_found = found.iter().any(|(.., again)| *again == Again::SamePacket);
        let mut dropped = BTreeSet::new();
        for (id, place, again) in found {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let live = session.publish.live_name().is_some();
            let blame = &mut session.blame;
            match again {
                Again::Not => blame.strikes = 1,
                Again::SameCommit if is_found => {}
                Again::SameCommit | Again::SamePacket => {
                    blame.strikes = blame.strikes.saturating_add(1).min(most.max(blame.strikes));
                }
            }
            blame.place = place;
            // A connection before its publish gets no worker of its own to show itself in.
            let was_tried = work.tenure == Tenure::Quarantine(id) || !live;
            if blame.strikes >= STRIKES_TO_DROP && (was_tried || again == Again::SamePacket) {
                dropped.insert(id);
            }
            let words = blame.words();
            self.note_suspicion(id, &words);
        }
        dropped
    }

    /// Orphans that are suspected enough are alone from now on; those that were stay so.
    pub(super) fn quarantine(&mut self, now: Duration, sessions: &BTreeSet<SessionId>) {
        for id in sessions {
            let quarantined = self
                .sessions
                .values()
                .filter(|session| matches!(session.blame.standing, Standing::Quarantined { .. }));
            let full = quarantined.count() >= QUARANTINES_MAX;
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let live = matches!(session.publish, Publish::Live { .. });
            let strikes = session.blame.strikes;
            match &mut session.blame.standing {
                Standing::Quarantined { since, deaths } => {
                    (*since, *deaths) = (now, deaths.saturating_add(1));
                }
                Standing::Clear | Standing::LetOut { .. }
                    if strikes >= STRIKES_TO_QUARANTINE && live && full =>
                {
                    let detail = format!("{QUARANTINES_MAX} streams are in quarantine already");
                    self.announce_session(Loudness::Error, "quarantine_full", *id, detail);
                }
                Standing::Clear | Standing::LetOut { .. }
                    if strikes >= STRIKES_TO_QUARANTINE && live =>
                {
                    session.blame.standing = Standing::Quarantined { since: now, deaths: 0 };
                    let words = session.blame.words();
                    self.note_suspicion(*id, &words);
                    self.announce_session(Loudness::Warn, "session_quarantined", *id, words);
                }
                Standing::Clear | Standing::LetOut { .. } => {}
            }
        }
    }

    /// The worker of this session alone, or none yet; then one is on its way.
    pub(super) fn quarantine_for(&mut self, now: Duration, id: SessionId) -> Option<Generation> {
        let own = self.slots.iter().find(|slot| slot.tenure == Tenure::Quarantine(id));
        match own.map(|slot| &slot.state) {
            Some(State::Isolated(process)) if process.closed.is_none() => Some(process.generation),
            Some(
                State::Starting(..)
                | State::Isolated(_)
                | State::Ending(..)
                | State::Standby(_)
                | State::Serving(_)
                | State::Draining(_)
                | State::Backoff { .. },
            ) => None,
            Some(State::Gone) | None => {
                if self.sessions.get(&id)?.blame.quarantine_due() <= now {
                    self.add_slot(now, Role::Worker, Tenure::Quarantine(id));
                }
                None
            }
        }
    }

    /// A worker for one stream alone that died before it had it, or could not be made.
    pub(super) fn quarantine_failed(&mut self, now: Duration, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Standing::Quarantined { since, deaths } = &mut session.blame.standing
        {
            (*since, *deaths) = (now, deaths.saturating_add(1));
        }
    }

    pub(super) fn is_quarantined(&self, id: SessionId) -> bool {
        self.sessions
            .get(&id)
            .is_some_and(|session| matches!(session.blame.standing, Standing::Quarantined { .. }))
    }

    /// A quarantine whose stream has ended, or is let out, is over.
    pub(super) fn end_quarantines(&mut self, now: Duration) {
        for at in 0..self.slots.len() {
            let Tenure::Quarantine(id) = self.slots[at].tenure else { continue };
            let wanted = self.sessions.get(&id).is_some_and(|session| {
                matches!(session.blame.standing, Standing::Quarantined { .. })
            });
            match &self.slots[at].state {
                State::Isolated(process)
                    if !wanted && process.sessions.is_empty() && process.arriving.is_empty() =>
                {
                    let generation = process.generation;
                    self.slots[at].retire();
                    self.say_farewell(generation);
                }
                State::Starting(..) if !wanted => self.kill(now, at, KillReason::Lingering),
                State::Backoff { .. } => self.slots[at].state = State::Gone,
                State::Starting(..)
                | State::Isolated(_)
                | State::Standby(_)
                | State::Serving(_)
                | State::Draining(_)
                | State::Ending(..)
                | State::Gone => {}
            }
        }
    }

    /// A stream that has lived long enough alone goes back to the others.
    pub(super) fn let_out_of_quarantine(&mut self, now: Duration) {
        if self.stage != Stage::Running {
            return;
        }
        let ready: Vec<(SessionId, Standing)> = self
            .sessions
            .iter()
            .filter(|(_, session)| match session.blame.standing {
                Standing::Quarantined { since, .. } | Standing::LetOut { since } => {
                    now >= since + QUARANTINE_TIME && matches!(session.place, Place::Held { .. })
                }
                Standing::Clear => false,
            })
            .map(|(id, session)| (*id, session.blame.standing))
            .collect();
        for (id, standing) in ready {
            let holder = self.sessions.get(&id).and_then(super::lease::Session::generation);
            let is_alone = self.slots.iter().any(|slot| match &slot.state {
                State::Isolated(process) => Some(process.generation) == holder,
                State::Starting(..)
                | State::Standby(_)
                | State::Serving(_)
                | State::Draining(_)
                | State::Ending(..)
                | State::Backoff { .. }
                | State::Gone => false,
            });
            let to = self.least_loaded_but(Seat::Stream, &[holder]).filter(|_| is_alone);
            if is_alone && to.is_none() {
                continue;
            }
            if let Some(session) = self.sessions.get_mut(&id) {
                // A move may fail, so it stays to be seen to until it is among the others.
                let standing =
                    if is_alone { Standing::LetOut { since: now } } else { Standing::Clear };
                session.blame = Blame { standing, ..Blame::default() };
            }
            if matches!(standing, Standing::Quarantined { .. }) {
                let detail = format!("nothing happened for {QUARANTINE_TIME:?}");
                self.announce_session(Loudness::Info, "quarantine_over", id, detail);
            }
            if let Some(to) = to {
                self.begin_move(now, id, to, Haste::Scheduled, Order::Nobody);
            }
        }
    }

    /// Its publisher is told why, in words, by a worker that does not look at the stream; its
    /// origins' connections are closed.
    pub(super) fn drop_poison(&mut self, now: Duration, id: SessionId) {
        let reason = RefuseReason::Poison;
        self.announce_session(Loudness::Error, "stream_dropped", id, reason.to_string());
        let can_be_told = self.sessions.get(&id).is_some_and(|session| {
            // What a worker parses before a publish is parsed again by whoever speaks a refusal;
            // what is being moved may be another's by now.
            session.publish.live_name().is_some() && session.waits()
        });
        if !can_be_told {
            self.close(now, id, EndReason::Refused(reason));
            return;
        }
        self.settle_death(id, super::deaths::Fate::Ended(reason.to_string()));
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let pushes = std::mem::take(&mut session.connected);
        let name = session.publish.live_name();
        session.publish = match std::mem::replace(&mut session.publish, Publish::Nothing) {
            Publish::Live { request, .. } => Publish::Refused { request, reason },
            other @ (Publish::Nothing | Publish::AwaitsName { .. } | Publish::Refused { .. }) => {
                other
            }
        };
        session.blame = Blame::default();
        session.place = Place::Waiting { deadline: now + ORPHAN_DEADLINE };
        if let Some(name) = name.filter(|name| self.names.get(name) == Some(&id)) {
            self.names.remove(&name);
        }
        self.tell_gone(id);
        for push in pushes {
            self.effects.push(Effect::DropPush { session: id, push });
        }
        self.refuse_session(now, id, reason);
        self.grant_waiting_names(now);
    }
}

impl Blame {
    /// When its next worker of its own may begin.
    fn quarantine_due(&self) -> Duration {
        match self.standing {
            Standing::Clear | Standing::LetOut { .. } | Standing::Quarantined { deaths: 0, .. } => {
                Duration::ZERO
            }
            Standing::Quarantined { since, deaths } => {
                let doublings = (deaths - 1).min(QUARANTINE_PAUSE_DOUBLINGS_MAX);
                since + QUARANTINE_PAUSE * 2_u32.saturating_pow(doublings)
            }
        }
    }
}
