//! Many lives of a core with workers that crash, stall, lie and disappear, against a model that
//! performs its effects as the shell would. Failures print the seed.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one variant")]

use super::settings::SameName;
use super::tests::KeyIsName;
use super::*;
use crate::core::admission::Seat;
use crate::core::event::Killer;
use crate::core::worker::{Process, State};
use std::collections::BTreeSet;
use tasuki_shared::id::PushId;
use tasuki_shared::kernel::Death;
use tasuki_shared::limits::{
    ADOPT_DEADLINE, ARRIVAL_DEADLINE, CLOSING_GRACE, END_GRACE, HANG_DEADLINE, ORPHAN_DEADLINE,
    REAP_DEADLINE, UNKILLABLE_DEADLINE,
};
use tasuki_shared::memory::session::WorkPlace;
use tasuki_shared::message::{Admission, EndReason, Owner, Verdict};
use tasuki_shared::status::Reply;

use moves::Preparation;

mod moves;
mod play;
mod spares;

const SEEDS: u64 = 96;
const STEPS: usize = 6_000;

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
    /// What the owner words say.
    words: BTreeMap<SessionId, Owner>,
    /// Sessions whose owner word went, by a release that crossed a `Keep`, to a worker that kept no
    /// place for them: nobody else may have them.
    strayed: BTreeSet<SessionId>,
    /// Clients that wait for an answer.
    tickets: BTreeSet<u64>,
    next_ticket: u64,
    pending: VecDeque<Event>,
    control: Control,
    counter: u64,
    /// Packets that any stream has come to.
    packets: u64,
    spares: spares::Reference,
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
    recycles_done: usize,
    recycles_failed: usize,
    moved: usize,
    crashed_over: usize,
    kept: usize,
    took_over: usize,
    called: usize,
    late_releases: usize,
    awaited_keyframes: usize,
    quarantined: usize,
    dropped: usize,
    spares_told: usize,
    spares_checked: usize,
}

impl Seen {
    fn counts(&self) -> [usize; 21] {
        let Self {
            events,
            lives,
            rehomed_live,
            refused,
            taken_over,
            closed_by_deadline,
            lies_about_dials,
            unkillable,
            recycles_done,
            recycles_failed,
            moved,
            crashed_over,
            kept,
            took_over,
            called,
            late_releases,
            awaited_keyframes,
            quarantined,
            dropped,
            spares_told,
            spares_checked,
        } = *self;
        [
            events,
            lives,
            rehomed_live,
            refused,
            taken_over,
            closed_by_deadline,
            lies_about_dials,
            unkillable,
            recycles_done,
            recycles_failed,
            moved,
            crashed_over,
            kept,
            took_over,
            called,
            late_releases,
            awaited_keyframes,
            quarantined,
            dropped,
            spares_told,
            spares_checked,
        ]
    }
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    None,
    /// The shell says of every session in a hand-off that it is released.
    WordMisread,
    /// A target takes what nobody released to it.
    TakesAtOnce,
    /// Streams that move on are found at the same place again.
    PlaceStands,
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
    /// Frames about hand-offs that it has not read yet.
    inbox: VecDeque<ToWorker>,
    /// Sessions it follows; whether it said so, and whether they are live.
    prepared: BTreeMap<SessionId, Preparation>,
    /// Sessions it shall release, and to whom.
    releasing: BTreeMap<SessionId, Generation>,
    unsaid: VecDeque<FromWorker>,
    drains: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adoption {
    Offered(Admission),
    /// Leased live and not taken yet.
    LiveOffered,
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
            words: BTreeMap::new(),
            strayed: BTreeSet::new(),
            tickets: BTreeSet::new(),
            next_ticket: 1,
            pending: VecDeque::new(),
            control: Control::None,
            counter: 0,
            packets: 0,
            spares: spares::Reference::default(),
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
        self.pending.push_back(event);
        while let Some(event) = self.pending.pop_front() {
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        let context = format!("seed {}, {:?}: {event:?}", self.seed, self.now);
        self.seen.events += 1;
        let ticks = matches!(event, Event::Tick);
        // What a frame or a word of a hand-off may not close: who was let in and not told to end.
        let moved = match &event {
            Event::OwnerRead { session, .. }
            | Event::Frame {
                body:
                    FromWorker::Prepared { session }
                    | FromWorker::PrepareFailed { session, .. }
                    | FromWorker::Released { session, .. }
                    | FromWorker::ReleaseFailed { session, .. },
                ..
            } => Some(*session),
            _ => None,
        };
        let moved = moved.filter(|id| {
            let admitted = self.core.sessions.get(id).map(|session| session.admission);
            admitted == Some(Admission::Admit) && self.core.stage() == Stage::Running
        });
        let may_lose_workers = matches!(event, Event::Died { .. });
        let serving = self.core.serving();
        let effects = self.core.handle(self.now, event);
        let kills = effects.iter().any(|effect| matches!(effect, Effect::Kill { .. }));
        if self.core.stage() == Stage::Running && !may_lose_workers && !kills {
            assert!(self.core.serving() >= serving, "{context}: capacity fell");
        }
        for effect in effects {
            let closes = matches!(effect, Effect::Close { .. });
            self.seen.closed_by_deadline += usize::from(ticks && closes);
            let lost = matches!(&effect, Effect::Close { session } if Some(*session) == moved);
            // A take-over, at odd seeds, ends a session in mid hand-off.
            let may_end = self.seed % 2 == 1;
            assert!(!lost || may_end, "{context}: a hand-off lost a session");
            self.perform(effect, &context);
        }
        self.check(&context);
        self.check_spares(&context);
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
                    inbox: VecDeque::new(),
                    prepared: BTreeMap::new(),
                    releasing: BTreeMap::new(),
                    unsaid: VecDeque::new(),
                    drains: false,
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
            Effect::ReadOwner { session } => self.read_owner(session),
            Effect::Examine { generation } => {
                let threads = tasuki_shared::threads::Looks::new();
                self.pending.push_back(Event::Examined { generation, threads });
            }
            Effect::NameStuckThreads { generation } => {
                let threads = "io (D)".to_owned();
                self.pending.push_back(Event::StuckThreadsNamed { generation, threads });
            }
            Effect::Reply { ticket, reply } => self.replied(ticket, &reply, context),
            Effect::DropPush { .. }
            | Effect::DropBell { .. }
            | Effect::StopListening
            | Effect::SaveEvidence { .. } => {}
            Effect::Announce(announcement) => {
                let dropped =
                    announcement.session.filter(|_| announcement.event == "stream_dropped");
                let innocent = dropped.filter(|session| !is_poison(*session));
                assert_eq!(innocent, None, "{context}: dropped without fault");
                self.count(&announcement);
            }
        }
    }

    fn deliver(&mut self, to: Generation, message: ToWorker, context: &str) {
        if let ToWorker::Adopt(lease) = &message {
            self.check_adopt(to, lease.session, context);
        }
        if let ToWorker::TakeOver { session, .. } = &message
            && let Some(connection) = self.open.get_mut(session)
        {
            connection.unowned_since = None;
        }
        let Some(body) = self.alive.get_mut(&to) else {
            panic!("{context}: {message:?} goes to {to}, which is dead");
        };
        match message {
            ToWorker::Adopt(lease) => {
                self.seen.rehomed_live += usize::from(lease.live.is_some());
                self.seen.refused += usize::from(lease.admission != Admission::Admit);
                let adoption = match lease.live {
                    Some(_) => Adoption::LiveOffered,
                    None => Adoption::Offered(lease.admission),
                };
                body.prepared.remove(&lease.session);
                body.sessions.insert(lease.session, adoption);
            }
            ToWorker::Verdict { session, verdict: Verdict::Allow(_) } => {
                self.seen.lives += 1;
                let taken = match body.sessions.get(&session) {
                    Some(Adoption::Offered(_) | Adoption::LiveOffered) => Adoption::LiveOffered,
                    Some(Adoption::Held | Adoption::Live) => Adoption::Live,
                    // It has released the session and did not get to say so.
                    None => return,
                };
                body.sessions.insert(session, taken);
            }
            ToWorker::Connect { ticket, .. } => body.dials.push(ticket),
            ToWorker::End { reason: EndReason::TakenOver, .. } => self.seen.taken_over += 1,
            ToWorker::Verdict { .. }
            | ToWorker::Hello { .. }
            | ToWorker::Evidence { .. }
            | ToWorker::Dialed { .. }
            | ToWorker::End { .. } => {}
            message @ (ToWorker::Prepare(_)
            | ToWorker::Unprepare { .. }
            | ToWorker::TakeOver { .. }
            | ToWorker::Release { .. }
            | ToWorker::Keep { .. }) => body.inbox.push_back(message),
            ToWorker::Drain => body.drains = true,
            ToWorker::Spare(list) => self.told_spares(to, *list, context),
            ToWorker::Purge
            | ToWorker::Chaos(_)
            | ToWorker::Beat { .. }
            | ToWorker::Serve(_)
            | ToWorker::Attend(_)
            | ToWorker::StreamLive { .. }
            | ToWorker::StreamGone { .. } => {}
        }
    }

    fn check(&self, context: &str) {
        let most = usize::try_from(self.core.settings.streams_per_worker).unwrap();
        for (generation, body) in &self.alive {
            let counts = |(id, a): &(&SessionId, &Adoption)| {
                **a == Adoption::Live && !self.strayed.contains(id)
            };
            let live = body.sessions.iter().filter(counts).count();
            assert!(live <= most, "{context}: {generation} has {live} live streams");
        }
        self.check_owners(context);
        let patience = ARRIVAL_DEADLINE.max(ORPHAN_DEADLINE).max(ADOPT_DEADLINE + HANG_DEADLINE)
            + END_GRACE
            + REAP_DEADLINE
            + SECOND;
        for (session, connection) in &self.open {
            let since = connection.unowned_since;
            // What a process that outlives its kill owns waits for its end, or a minute.
            let owner = self.core.sessions.get(session).and_then(Session::generation);
            let is_stuck =
                owner.and_then(|owner| self.alive.get(&owner)).is_some_and(|b| b.unkillable);
            let patience = if is_stuck { patience + UNKILLABLE_DEADLINE } else { patience };
            let forgotten = since.is_some_and(|since| self.now > since + patience);
            assert!(!forgotten, "{context}: {session} has had no owner since {since:?}");
            assert!(self.core.has_session(*session), "{context}: {session} is held for nobody");
        }
        let counted = |process: &Process| -> u32 {
            let live = process
                .sessions
                .iter()
                .chain(&process.arriving)
                .filter(|id| self.core.sessions[id].seat == Seat::Stream);
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

    /// Where its memory says that a session stood.
    fn work_place(&mut self, session: SessionId) -> WorkPlace {
        self.packets += 1;
        if is_poison(session) || self.control == Control::PlaceStands {
            return WorkPlace { packet: 1, committed: 1 };
        }
        WorkPlace { packet: 2 * self.packets, committed: 2 * self.packets }
    }

    fn kill(&mut self, generation: Generation) {
        let deaths = [
            (Death::Signalled(9), Killer::Somebody),
            (Death::Signalled(9), Killer::OutOfMemory),
            (Death::Signalled(11), Killer::Somebody),
            (Death::Exited(104), Killer::Somebody),
            (Death::Exited(103), Killer::Somebody),
            (Death::Exited(0), Killer::Somebody),
        ];
        let death = deaths[self.below(deaths.len())];
        self.kill_by(generation, death);
    }

    /// A stream that stands at the same place ends its worker, wherever it is.
    fn poison_kills(&mut self) {
        let holds = |(_, body): &(&Generation, &Body)| {
            let live = |(id, a): (&SessionId, &Adoption)| is_poison(*id) && *a == Adoption::Live;
            !body.unkillable && body.sessions.iter().any(live)
        };
        let found = self.alive.iter().filter(holds).map(|(generation, _)| *generation).next();
        if let Some(generation) = found {
            self.kill_by(generation, (Death::Signalled(11), Killer::Somebody));
        }
    }

    fn kill_by(&mut self, generation: Generation, (death, killer): (Death, Killer)) {
        let Some(body) = self.alive.remove(&generation) else { return };
        let offered = |(id, _): &(&SessionId, &Preparation)| {
            self.words.get(id) == Some(&Owner::Offered(generation))
        };
        let offered = body.prepared.iter().filter(offered).map(|(id, _)| id);
        for session in body.sessions.keys().chain(offered) {
            if let Some(connection) = self.open.get_mut(session) {
                connection.unowned_since = Some(self.now);
            }
        }
        if self.below(2) == 0 {
            self.on_lost(generation);
        }
        let held = Some(&Owner::Held(generation));
        let held = |id: &&SessionId| {
            self.words.get(id) == held && (id.counter.is_multiple_of(2) || is_poison(**id))
        };
        let held: Vec<SessionId> = body.sessions.keys().filter(held).copied().collect();
        let processing = held.into_iter().map(|id| (id, self.work_place(id))).collect();
        self.on(Event::Died { generation, death, killer, processing });
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// A session that stands at the same place whenever its worker dies; all others move on.
fn is_poison(session: SessionId) -> bool {
    session.counter.is_multiple_of(5)
}

/// One owner per session; never more live streams than a worker may have; every connection is
/// adopted, refused or closed in time; nothing is sent to the dead; lies change nothing; capacity
/// never falls for a recycle, each of which ends; nobody is dropped for deaths but who stood at the
/// same place in them; who stands by is told what the others' streams need; the server leaves with
/// nothing left behind.
#[test]
fn a_core_keeps_its_promises_whatever_workers_do() {
    let mut sums = [0; 21];
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        world.on(Event::Started);
        for _ in 0..STEPS {
            world.step();
        }
        world.finish_recycles();
        world.leave();
        for (sum, seen) in sums.iter_mut().zip(world.seen.counts()) {
            *sum += seen;
        }
    }
    println!(
        "events, lives, re-homed live, refused, taken over, closed by deadline, lies about dials, \
         unkillable, recycles done, failed, moved, crashed over, kept, took over, called, late \
         releases, awaited keyframes, quarantined, dropped, spares told, checked: {sums:?}"
    );
    assert!(sums[0] > 100_000, "{sums:?}");
    assert!(sums.iter().all(|sum| *sum > 50), "something was hardly exercised: {sums:?}");
}

/// The checks above find a session with two owners, and one that is dropped without fault, whoever
/// is to blame for it.
#[test]
fn a_misread_word_a_hasty_target_and_a_false_place_are_caught() {
    for (control, caught_by) in [
        (Control::WordMisread, "owner"),
        (Control::TakesAtOnce, "owner"),
        (Control::PlaceStands, "without fault"),
    ] {
        let caught = (1..=10).any(|seed| {
            let lives = || {
                let mut world = World::new(seed);
                world.control = control;
                world.on(Event::Started);
                for _ in 0..STEPS {
                    world.step();
                }
            };
            let Err(panic) = std::panic::catch_unwind(lives) else { return false };
            let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            said.contains(caught_by)
        });
        assert!(caught, "{control:?} went unnoticed");
    }
}
