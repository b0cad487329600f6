//! Which worker gets a connection, and who speaks a refusal.
//!
//! A connection never hangs: it is leased to a worker that has room, leased with a refusal to any
//! lobby that has room, kept for a bounded time while a worker starts, or closed and counted.

use super::lease::{Place, Session};
use super::settings::Rules;
use super::worker::{Process, Slot, State};
use super::{Core, Stage};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::limits::{
    ARRIVAL_DEADLINE, ARRIVALS_MAX, RECOVERY_ROOM_BYTES_MIN, RECOVERY_ROOM_DIVISOR,
};
use tasuki_shared::message::{Admission, RefuseReason, Role};
use tasuki_shared::network::network;

/// What becomes of a connection now.
enum Decision {
    Lease(Generation, Admission),
    Wait,
    Close(&'static str),
}

/// Does a connection that finds no worker have time to wait for one?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    Left,
    Over,
}

impl<R: Rules> Core<R> {
    pub(super) fn accepted(&mut self, now: Duration, session: SessionId, peer: SocketAddr) {
        self.sessions_total += 1;
        let admitted = self.host_reason();
        let crowded = self.seats.is_crowded(peer, self.settings.lobby_per_address);
        let new = Session::new(now, peer, now + ARRIVAL_DEADLINE);
        self.seats.change(peer, None, Some(new.seat));
        self.sessions.insert(session, new);
        if crowded {
            self.perform(now, session, Decision::Close("lobby_per_address"));
            return;
        }
        let time = if self.arrivals.len() < ARRIVALS_MAX { Time::Left } else { Time::Over };
        let decision = match admitted {
            Some(reason) => self.refuse(reason),
            None => self.decide(time),
        };
        if let Decision::Wait = decision {
            self.arrivals.push_back(session);
        }
        self.perform(now, session, decision);
    }

    /// Tries again for those who wait: orphans first, oldest first.
    pub(super) fn place_waiting(&mut self, now: Duration) {
        self.place_orphans(now);
        while let Some(&session) = self.arrivals.front() {
            let waits = self.sessions.get(&session).is_some_and(Session::waits);
            if waits {
                let decision = self.decide(Time::Left);
                if let Decision::Wait = decision {
                    break;
                }
                self.perform(now, session, decision);
            }
            self.arrivals.pop_front();
        }
    }

    /// The wait of an arrival is over.
    pub(super) fn give_up_arrival(&mut self, now: Duration, session: SessionId) {
        self.arrivals.retain(|waiting| *waiting != session);
        let decision = self.decide(Time::Over);
        self.perform(now, session, decision);
    }

    /// Tells or closes every arrival; the server takes nothing new.
    pub(super) fn refuse_arrivals(&mut self, now: Duration) {
        while let Some(session) = self.arrivals.pop_front() {
            if self.sessions.get(&session).is_some_and(Session::waits) {
                let decision = self.refuse(RefuseReason::Draining);
                self.perform(now, session, decision);
            }
        }
    }

    /// Is the processor too busy for another stream?
    pub(super) fn cpu_full(&self) -> bool {
        self.cpu_percent > self.settings.cpu_limit_percent
    }

    /// Is what memory is left needed for a recovery? A worker that dies leaves its sessions to
    /// another, which grows by as much before the dead one's is missed.
    pub(super) fn memory_full(&self) -> bool {
        let workers = self.slots.iter().filter(|slot| slot.role == Role::Worker);
        let largest = workers.filter_map(Slot::process).map(|p| p.sample.footprint_bytes).max();
        let room = largest.unwrap_or(0).max(RECOVERY_ROOM_BYTES_MIN);
        let room = room.min(self.host.total_bytes / RECOVERY_ROOM_DIVISOR);
        self.host.total_bytes > 0 && self.host.available_bytes < room
    }

    /// The serving worker with the fewest sessions among those with a free stream slot and, for a
    /// session before publish, room in the lobby.
    pub(super) fn least_loaded(&self, seat: Seat) -> Option<Generation> {
        self.least_loaded_but(seat, &[])
    }

    /// As `least_loaded` among all but these.
    pub(super) fn least_loaded_but(
        &self,
        seat: Seat,
        excluded: &[Option<Generation>],
    ) -> Option<Generation> {
        self.slots
            .iter()
            .filter_map(|slot| match &slot.state {
                State::Serving(process) if slot.role == Role::Worker => Some(process),
                State::Serving(_)
                | State::Starting(..)
                | State::Standby(_)
                | State::Isolated(_)
                | State::Draining(_)
                | State::Ending(..)
                | State::Backoff { .. }
                | State::Gone => None,
            })
            .filter(|process| process.closed.is_none())
            .filter(|process| !excluded.contains(&Some(process.generation)))
            .filter(|process| self.has_free_stream(process))
            .filter(|process| match seat {
                Seat::Lobby => self.lobby_has_room(process),
                Seat::Stream => true,
            })
            // Each session in a lobby will want a slot: one whose slots are spoken for comes last.
            .min_by_key(|process| {
                let lobby = u32::try_from(process.lobby()).unwrap_or(u32::MAX);
                let spoken_for = process.streams.saturating_add(lobby);
                (spoken_for >= self.settings.streams_per_worker, process.sessions.len())
            })
            .map(|process| process.generation)
    }

    /// Is a stream slot free here that no session on its way will need?
    fn has_free_stream(&self, process: &Process) -> bool {
        let promised =
            if self.recycles.is_empty() { 0 } else { self.promised_streams(process.generation) };
        process.streams.saturating_add(promised) < self.settings.streams_per_worker
    }

    /// May a session of this worker become a stream? One that is about to be moved needs a slot
    /// where it goes.
    pub(super) fn has_stream_room(&self, generation: Generation) -> bool {
        let free = |generation| {
            let at = self.slot_of(generation);
            at.and_then(|at| self.slots[at].process()).is_some_and(|p| self.has_free_stream(p))
        };
        free(generation) && self.successor_of(generation).is_none_or(free)
    }

    /// May a session of a worker that is recycled move here? Its slot is promised already.
    pub(super) fn can_take_move(&self, target: Generation, seat: Seat) -> bool {
        let Some(at) = self.slot_of(target) else { return false };
        match &self.slots[at].state {
            State::Serving(process) if process.closed.is_none() => match seat {
                Seat::Stream => process.streams < self.settings.streams_per_worker,
                Seat::Lobby => self.lobby_has_room(process),
            },
            State::Serving(_)
            | State::Starting(..)
            | State::Standby(_)
            | State::Isolated(_)
            | State::Draining(_)
            | State::Ending(..)
            | State::Backoff { .. }
            | State::Gone => false,
        }
    }

    fn host_reason(&self) -> Option<RefuseReason> {
        if self.stage != Stage::Running {
            Some(RefuseReason::Draining)
        } else if self.seats.streams >= self.settings.sessions_max {
            Some(RefuseReason::HostCap)
        } else if self.cpu_full() {
            Some(RefuseReason::NoCpu)
        } else if self.memory_full() {
            Some(RefuseReason::NoMemory)
        } else {
            None
        }
    }

    fn decide(&self, time: Time) -> Decision {
        if let Some(generation) = self.least_loaded(Seat::Lobby) {
            return Decision::Lease(generation, Admission::Admit);
        }
        if time == Time::Left && self.worker_expected() {
            return Decision::Wait;
        }
        let reason =
            if self.serving() == 0 { RefuseReason::NoWorker } else { RefuseReason::NoSlot };
        self.refuse(reason)
    }

    /// A lobby that speaks a refusal to this session, or its end.
    pub(super) fn refuse_session(&mut self, now: Duration, id: SessionId, reason: RefuseReason) {
        let decision = self.refuse(reason);
        self.perform(now, id, decision);
    }

    fn refuse(&self, reason: RefuseReason) -> Decision {
        let lobby = |slot: &Slot| match &slot.state {
            State::Serving(process) | State::Standby(process) if slot.role == Role::Worker => {
                let room = process.closed.is_none() && self.lobby_has_room(process);
                room.then_some((process.lobby(), process.generation))
            }
            State::Serving(_)
            | State::Standby(_)
            | State::Starting(..)
            | State::Isolated(_)
            | State::Draining(_)
            | State::Ending(..)
            | State::Backoff { .. }
            | State::Gone => None,
        };
        match self.slots.iter().filter_map(lobby).min() {
            Some((_, generation)) => Decision::Lease(generation, Admission::Refuse(reason)),
            None => Decision::Close("lobbies_full"),
        }
    }

    fn lobby_has_room(&self, process: &Process) -> bool {
        process.lobby() < self.settings.lobby_sessions_max
    }

    fn perform(&mut self, now: Duration, session: SessionId, decision: Decision) {
        match decision {
            Decision::Lease(generation, admission) => {
                if let Admission::Refuse(reason) = admission {
                    self.count_refusal(refusal_name(reason));
                }
                self.lease(now, session, generation, admission);
            }
            Decision::Wait => {
                debug_assert!(matches!(
                    self.sessions.get(&session).map(|session| &session.place),
                    Some(Place::Waiting { .. })
                ));
            }
            Decision::Close(reason) => {
                self.count_refusal(reason);
                self.close_quietly(session);
            }
        }
    }

    pub(super) fn count_refusal(&mut self, reason: &'static str) {
        *self.refusals.entry(reason).or_default() += 1;
    }
}

/// What a session takes from its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    Lobby,
    Stream,
}

/// Who sits where, on the whole host.
#[derive(Debug, Default)]
pub struct Seats {
    pub streams: usize,
    /// Sessions before publish by network; see [`network`].
    lobbies: HashMap<IpAddr, u32>,
}

impl Seats {
    /// A session comes, moves or goes.
    pub fn change(&mut self, peer: SocketAddr, from: Option<Seat>, to: Option<Seat>) {
        if from == to {
            return;
        }
        let network = network(peer);
        match from {
            Some(Seat::Stream) => self.streams = self.streams.saturating_sub(1),
            Some(Seat::Lobby) => {
                if let Entry::Occupied(mut count) = self.lobbies.entry(network) {
                    *count.get_mut() = count.get().saturating_sub(1);
                    if *count.get() == 0 {
                        count.remove();
                    }
                }
            }
            None => {}
        }
        match to {
            Some(Seat::Stream) => self.streams += 1,
            Some(Seat::Lobby) => *self.lobbies.entry(network).or_default() += 1,
            None => {}
        }
    }

    /// Has this peer's network its share of the lobbies? Loopback, where relays are, has none.
    pub fn is_crowded(&self, peer: SocketAddr, most: u32) -> bool {
        let network = network(peer);
        most > 0
            && !network.is_loopback()
            && self.lobbies.get(&network).is_some_and(|count| *count >= most)
    }
}

/// As counted in the status.
pub const fn refusal_name(reason: RefuseReason) -> &'static str {
    match reason {
        RefuseReason::NoSlot => "no_slot",
        RefuseReason::NoCpu => "no_cpu",
        RefuseReason::HostCap => "host_cap",
        RefuseReason::Draining => "draining",
        RefuseReason::UnknownApp => "unknown_app",
        RefuseReason::BadKey => "bad_key",
        RefuseReason::BadName => "bad_name",
        RefuseReason::NameTaken => "name_taken",
        RefuseReason::NoVerdict => "no_verdict",
        RefuseReason::AlreadyPublishing => "already_publishing",
        RefuseReason::NoWorker => "no_worker",
        RefuseReason::NoResource => "no_resource",
        RefuseReason::PlayUnsupported => "play_unsupported",
        RefuseReason::NoMemory => "no_memory",
        RefuseReason::Poison => "poison",
    }
}
