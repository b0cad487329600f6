//! Many lives of a core with workers that crash, stall, lie and disappear, against a model that
//! performs its effects as the shell would. Failures print the seed.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one variant")]

use super::event::Loss;
use super::settings::SameName;
use super::tests::{KeyIsName, peer, request};
use super::*;
use crate::core::admission::Seat;
use crate::core::worker::Process;
use std::collections::BTreeSet;
use tasuki_shared::id::PushId;
use tasuki_shared::kernel::Death;
use tasuki_shared::limits::{
    ADOPT_DEADLINE, ARRIVAL_DEADLINE, CLOSING_GRACE, END_GRACE, HEARTBEAT_DEADLINE,
    ORPHAN_DEADLINE, REAP_DEADLINE,
};
use tasuki_shared::message::{Admission, EndReason, PROTOCOL_VERSION, Verdict};

const SEEDS: u64 = 40;
const STEPS: usize = 4_000;

/// What the outside world really is.
struct World {
    seed: u64,
    random: Jitter,
    core: Core<KeyIsName>,
    now: Duration,
    /// Processes that run, with whether the core may still speak to them.
    alive: BTreeMap<Generation, Body>,
    /// Generations that were ever spawned.
    used: BTreeSet<Generation>,
    /// Connections with an open socket, and since when nobody answers for them.
    open: BTreeMap<SessionId, Connection>,
    /// Sockets that the dialer connected, by ticket, as the shell keeps them.
    dialed: BTreeSet<u64>,
    counter: u64,
    left: bool,
    seen: Seen,
}

/// How often what matters happened: a run that never gets there proves nothing.
#[derive(Debug, Default)]
struct Seen {
    events: usize,
    lives: usize,
    rehomed_live: usize,
    refused: usize,
    taken_over: usize,
    closed_by_deadline: usize,
    lies_about_dials: usize,
    unkillable: usize,
}

#[derive(Debug)]
struct Body {
    role: Role,
    /// Stalled processes say nothing and adopt nothing.
    stalled: bool,
    /// The kernel does not let go of it.
    unkillable: bool,
    /// Sessions handed to it, adopted or not.
    sessions: BTreeMap<SessionId, Adoption>,
    dials: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adoption {
    Offered(Admission),
    Held,
    Live,
}

#[derive(Debug)]
struct Connection {
    unowned_since: Option<Duration>,
}

impl World {
    fn new(seed: u64) -> Self {
        let settings = Settings {
            workers: 3,
            standby: 1,
            streams_per_worker: 2,
            sessions_max: 40,
            lobby_sessions_max: 4,
            same_name: if seed.is_multiple_of(2) { SameName::Refuse } else { SameName::TakeOver },
            ..Settings::default()
        };
        Self {
            seed,
            random: Jitter::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            core: Core::new(settings, KeyIsName, seed),
            now: Duration::ZERO,
            alive: BTreeMap::new(),
            used: BTreeSet::new(),
            open: BTreeMap::new(),
            dialed: BTreeSet::new(),
            counter: 0,
            left: false,
            seen: Seen::default(),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound_f64 = f64::from(u32::try_from(bound).unwrap());
        let mut at = 0;
        let drawn = self.random.draw() * bound_f64;
        while f64::from(u32::try_from(at + 1).unwrap()) < drawn {
            at += 1;
        }
        at.min(bound - 1)
    }

    fn on(&mut self, event: Event) {
        let context = format!("seed {}, {:?}: {event:?}", self.seed, self.now);
        self.seen.events += 1;
        let ticks = matches!(event, Event::Tick);
        let effects = self.core.handle(self.now, event);
        for effect in effects {
            self.seen.closed_by_deadline +=
                usize::from(ticks && matches!(effect, Effect::Close { .. }));
            self.perform(effect, &context);
        }
        self.check(&context);
    }

    fn perform(&mut self, effect: Effect, context: &str) {
        match effect {
            Effect::Spawn { role, generation, .. } => {
                assert!(self.used.insert(generation), "{context}: {generation} is used again");
                let body = Body {
                    role,
                    stalled: false,
                    unkillable: false,
                    sessions: BTreeMap::new(),
                    dials: vec![],
                };
                self.alive.insert(generation, body);
            }
            Effect::Send { to, body, fds } => {
                if let Fds::Dialed { ticket, .. } = fds {
                    assert!(self.dialed.remove(&ticket), "{context}: no socket has {ticket}");
                }
                self.deliver(to, body, context);
            }
            Effect::Kill { generation } => {
                assert!(self.alive.contains_key(&generation), "{context}: {generation} is dead");
            }
            Effect::Close { session } => {
                assert!(self.open.remove(&session).is_some(), "{context}: {session} closed twice");
                for body in self.alive.values_mut() {
                    body.sessions.remove(&session);
                }
            }
            Effect::Leave(_) => self.left = true,
            Effect::DropDialed { ticket } => {
                assert!(self.dialed.remove(&ticket), "{context}: {ticket} is not ours to drop");
            }
            Effect::DropPush { .. }
            | Effect::StopListening
            | Effect::SaveEvidence { .. }
            | Effect::Announce(_) => {}
        }
    }

    fn deliver(&mut self, to: Generation, message: ToWorker, context: &str) {
        if let ToWorker::Adopt(lease) = &message {
            let owners: Vec<_> = self
                .alive
                .iter()
                .filter(|(_, body)| body.sessions.contains_key(&lease.session))
                .collect();
            assert!(owners.is_empty(), "{context}: {} has owners {owners:?}", lease.session);
            let connection = self.open.get_mut(&lease.session);
            connection
                .unwrap_or_else(|| panic!("{context}: closed {}", lease.session))
                .unowned_since = None;
        }
        let Some(body) = self.alive.get_mut(&to) else {
            panic!("{context}: {message:?} goes to {to}, which is dead");
        };
        match message {
            ToWorker::Adopt(lease) => {
                self.seen.rehomed_live += usize::from(lease.live.is_some());
                self.seen.refused += usize::from(lease.admission != Admission::Admit);
                let adoption = match lease.live {
                    Some(_) => Adoption::Live,
                    None => Adoption::Offered(lease.admission),
                };
                body.sessions.insert(lease.session, adoption);
            }
            ToWorker::Verdict { session, verdict: Verdict::Allow(_) } => {
                self.seen.lives += 1;
                body.sessions.insert(session, Adoption::Live);
            }
            ToWorker::Connect { ticket, .. } => body.dials.push(ticket),
            ToWorker::End { reason: EndReason::TakenOver, .. } => self.seen.taken_over += 1,
            ToWorker::Verdict { .. }
            | ToWorker::Hello { .. }
            | ToWorker::Evidence { .. }
            | ToWorker::Dialed { .. }
            | ToWorker::End { .. }
            | ToWorker::Prepare(_)
            | ToWorker::Unprepare { .. }
            | ToWorker::TakeOver { .. }
            | ToWorker::Release { .. }
            | ToWorker::Keep { .. }
            | ToWorker::Drain => {}
        }
    }

    fn check(&self, context: &str) {
        let most = usize::try_from(self.core.settings.streams_per_worker).unwrap();
        for (generation, body) in &self.alive {
            let live = body.sessions.values().filter(|a| **a == Adoption::Live).count();
            assert!(live <= most, "{context}: {generation} has {live} live streams");
        }
        let patience =
            ARRIVAL_DEADLINE.max(ORPHAN_DEADLINE).max(ADOPT_DEADLINE + HEARTBEAT_DEADLINE)
                + END_GRACE
                + REAP_DEADLINE
                + SECOND;
        for (session, connection) in &self.open {
            let since = connection.unowned_since;
            let forgotten = since.is_some_and(|since| self.now > since + patience);
            assert!(!forgotten, "{context}: {session} has had no owner since {since:?}");
            assert!(self.core.has_session(*session), "{context}: {session} is held for nobody");
        }
        let counted = |process: &Process| -> u32 {
            let live =
                process.sessions.iter().filter(|id| self.core.sessions[id].seat == Seat::Stream);
            u32::try_from(live.count()).unwrap()
        };
        for process in self.core.slots.iter().filter_map(Slot::process) {
            assert_eq!(process.streams, counted(process), "{context}: {}", process.generation);
        }
        let streams = self.core.sessions.values().filter(|s| s.seat == Seat::Stream).count();
        assert_eq!(self.core.seats.streams, streams, "{context}: seats on the host");
        let live = self.core.sessions.values().filter(|s| s.publish.live_name().is_some());
        assert_eq!(self.core.names.len(), live.count(), "{context}: names and streams differ");
    }

    fn kill(&mut self, generation: Generation) {
        let Some(body) = self.alive.remove(&generation) else { return };
        for session in body.sessions.keys() {
            if let Some(connection) = self.open.get_mut(session) {
                connection.unowned_since = Some(self.now);
            }
        }
        if self.below(2) == 0 {
            self.on_lost(generation);
        }
        let deaths = [
            Death::Signalled(9),
            Death::Signalled(9),
            Death::Signalled(11),
            Death::Exited(104),
            Death::Exited(0),
        ];
        let death = deaths[self.below(deaths.len())];
        let processing = body.sessions.keys().filter(|id| id.counter.is_multiple_of(2)).copied();
        let processing = processing.collect();
        self.on(Event::Died { generation, death, processing });
    }

    /// A channel may close before the death; the core then sends nothing new to it.
    fn on_lost(&mut self, generation: Generation) {
        let context = format!("seed {}: channel of {generation}", self.seed);
        for effect in
            self.core.handle(self.now, Event::ChannelLost { generation, loss: Loss::Closed })
        {
            self.perform(effect, &context);
        }
    }

    fn says(&mut self, generation: Generation, body: FromWorker) {
        self.on(Event::Frame { channel: generation, claimed: generation, body });
    }

    /// Kills that the core has ordered happen some time later.
    fn reap_killed(&mut self) {
        let ending = |slot: &Slot| match &slot.state {
            State::Ending(process, ..) => Some(process.generation),
            _ => None,
        };
        let dying: Vec<_> = self.core.slots.iter().filter_map(ending).collect();
        for generation in dying {
            let unkillable = self.alive.get(&generation).is_some_and(|body| body.unkillable);
            if !unkillable && self.below(3) == 0 {
                self.kill(generation);
            }
        }
    }

    fn any(&mut self) -> Option<Generation> {
        let all: Vec<_> = self.alive.keys().copied().collect();
        if all.is_empty() { None } else { Some(all[self.below(all.len())]) }
    }

    fn step(&mut self) {
        match self.below(100) {
            0..20 => {
                self.now += Duration::from_millis(100);
                self.on(Event::Tick);
                self.reap_killed();
            }
            20..40 => {
                if self.core.stage() == Stage::Running {
                    self.counter += 1;
                    let session = SessionId { epoch: 9, counter: self.counter };
                    let connection = Connection { unowned_since: Some(self.now) };
                    self.open.insert(session, connection);
                    self.on(Event::Accepted { session, peer: peer() });
                }
            }
            40..41 => {
                if let Some(generation) = self.any()
                    && !self.alive[&generation].unkillable
                {
                    self.kill(generation);
                }
            }
            41..42 => {
                if let Some(generation) = self.any()
                    && self.below(8) == 0
                {
                    let unkillable = self.below(2) == 0;
                    let body = self.alive.get_mut(&generation).unwrap();
                    body.stalled = true;
                    body.unkillable |= unkillable;
                    self.seen.unkillable += usize::from(unkillable);
                }
            }
            42..46 => self.lie(),
            46..47 => {
                let cpu_percent = if self.below(8) == 0 { 99.0 } else { 10.0 };
                self.on(Event::Sampled { cpu_percent, workers: vec![] });
            }
            _ => {
                if let Some(generation) = self.any() {
                    self.work(generation);
                }
            }
        }
    }

    /// One honest step of one process.
    fn work(&mut self, generation: Generation) {
        let body = &self.alive[&generation];
        if body.stalled {
            return;
        }
        let starting = self.core.slots.iter().any(|slot| match &slot.state {
            State::Starting(process, _) => process.generation == generation,
            _ => false,
        });
        if starting {
            self.on(Event::Spawned { generation, pid: 1 });
            let hello = FromWorker::Hello { version: PROTOCOL_VERSION, pid: 1 };
            self.says(generation, hello);
            self.says(generation, FromWorker::Ready);
            return;
        }
        let body = &self.alive[&generation];
        if body.role == Role::Dialer {
            match self.alive.get_mut(&generation).unwrap().dials.pop() {
                Some(ticket) => {
                    self.dialed.insert(ticket);
                    self.says(generation, FromWorker::Connected { ticket, outcome: Ok(()) });
                }
                None => self.heartbeat(generation),
            }
            return;
        }
        let sessions: Vec<_> = body.sessions.iter().map(|(id, a)| (*id, *a)).collect();
        self.heartbeat(generation);
        if sessions.is_empty() {
            return;
        }
        let (session, adoption) = sessions[self.below(sessions.len())];
        match adoption {
            Adoption::Offered(_) => {
                self.alive.get_mut(&generation).unwrap().sessions.insert(session, Adoption::Held);
                self.says(generation, FromWorker::Adopted { session, at_us: 0 });
            }
            Adoption::Held if self.below(3) > 0 => {
                let keys = ["bad", "a", "b", "c", "d", "e", "f", "g"];
                let key = keys[self.below(keys.len())];
                let request = request(key);
                self.says(generation, FromWorker::Authorize { session, request });
            }
            Adoption::Live if self.below(4) > 0 => {
                let push = PushId(0);
                self.says(generation, FromWorker::Adopted { session, at_us: 0 });
                self.says(generation, FromWorker::Dial { session, push });
            }
            Adoption::Held | Adoption::Live => {
                let reason = EndReason::PeerClosed;
                self.says(generation, FromWorker::Ended { session, reason });
            }
        }
    }

    fn heartbeat(&mut self, generation: Generation) {
        let heartbeat = tasuki_shared::message::Heartbeat { session: None, lobby: 0 };
        self.says(generation, FromWorker::Heartbeat(Box::new(heartbeat)));
    }

    /// A worker speaks of any session, a generation of any time, a ticket of nobody.
    fn lie(&mut self) {
        let Some(channel) = self.any() else { return };
        let counter =
            u64::try_from(self.below(usize::try_from(self.counter + 2).unwrap())).unwrap();
        let session = SessionId { epoch: 9, counter };
        let own = self.alive[&channel].sessions.contains_key(&session);
        let stale = self.below(2) == 0;
        if own && !stale {
            return;
        }
        let claimed = if stale { Generation(channel.0.wrapping_add(1)) } else { channel };
        let before = (self.core.sessions.len(), self.core.dials.len());
        // Half of the tickets are those of dials on their way.
        let ticket = match self.core.dials.keys().next().copied() {
            Some(ticket) if self.below(2) == 0 => ticket,
            Some(_) | None => counter,
        };
        let lies = [
            FromWorker::Ended { session, reason: EndReason::PeerClosed },
            FromWorker::Adopted { session, at_us: 0 },
            FromWorker::AdoptFailed { session, reason: "so be it".into() },
            FromWorker::Authorize { session, request: request("a") },
            FromWorker::Dial { session, push: PushId(200) },
            FromWorker::PushClosed { session, push: PushId(0) },
            FromWorker::Connected { ticket, outcome: Ok(()) },
        ];
        let lie = lies[self.below(lies.len())].clone();
        let dialer = self.alive[&channel].role == Role::Dialer;
        if matches!(lie, FromWorker::Connected { .. }) {
            if dialer && !stale {
                return;
            }
            self.seen.lies_about_dials += usize::from(self.core.dials.contains_key(&ticket));
            if dialer {
                self.dialed.insert(ticket);
            }
        }
        self.on(Event::Frame { channel, claimed, body: lie });
        let after = (self.core.sessions.len(), self.core.dials.len());
        assert_eq!(after, before, "seed {}: a lie was believed", self.seed);
    }

    /// The server must get out of any situation.
    fn leave(&mut self) {
        self.on(Event::Terminate);
        let deadline = self.now
            + self.core.settings.shutdown_deadline
            + CLOSING_GRACE
            + HEARTBEAT_DEADLINE
            + REAP_DEADLINE
            + 10 * SECOND;
        while !self.left {
            assert!(self.now < deadline, "seed {}: still here", self.seed);
            self.now += Duration::from_millis(100);
            self.on(Event::Tick);
            self.reap_killed();
            for generation in self.alive.keys().copied().collect::<Vec<_>>() {
                self.work(generation);
                let idle = self
                    .alive
                    .get(&generation)
                    .is_some_and(|body| !body.stalled && body.sessions.is_empty());
                let drains = |slot: &Slot| match &slot.state {
                    State::Draining(process) => process.generation == generation,
                    _ => false,
                };
                if idle && self.core.slots.iter().any(drains) {
                    self.alive.remove(&generation);
                    let death = Death::Exited(0);
                    self.on(Event::Died { generation, death, processing: BTreeSet::new() });
                }
            }
        }
        assert!(self.open.is_empty(), "seed {}: sockets are left open", self.seed);
        assert!(
            self.alive.values().all(|body| body.unkillable),
            "seed {}: processes are left",
            self.seed
        );
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// One owner per session; never more live streams than a worker may have; every connection is
/// adopted, refused or closed in time; nothing is sent to the dead; lies change nothing; the
/// server leaves with nothing left behind.
#[test]
fn a_core_keeps_its_promises_whatever_workers_do() {
    let mut sums = [0; 8];
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        world.on(Event::Started);
        for _ in 0..STEPS {
            world.step();
        }
        world.leave();
        let Seen {
            events,
            lives,
            rehomed_live,
            refused,
            taken_over,
            closed_by_deadline,
            lies_about_dials,
            unkillable,
        } = world.seen;
        for (sum, seen) in sums.iter_mut().zip([
            events,
            lives,
            rehomed_live,
            refused,
            taken_over,
            closed_by_deadline,
            lies_about_dials,
            unkillable,
        ]) {
            *sum += seen;
        }
    }
    println!(
        "events, lives, re-homed live, refused, taken over, closed by deadline, lies about dials, \
         unkillable: {sums:?}"
    );
    assert!(sums[0] > 100_000, "{sums:?}");
    assert!(sums.iter().all(|sum| *sum > 50), "something was hardly exercised: {sums:?}");
}
