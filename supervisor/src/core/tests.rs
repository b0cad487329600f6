//! Single behaviours of the core; whole lives are in the simulator.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one variant")]

use super::event::{Killer, Loss, Sample};
use super::memory::HostMemory;
use super::settings::SameName;
use super::*;
use std::net::SocketAddr;
use tasuki_shared::id::{PushId, StreamKey};
use tasuki_shared::kernel::Death;
use tasuki_shared::limits::{
    ADOPT_DEADLINE, ARRIVAL_DEADLINE, CHANNEL_CLOSED_GRACE, END_GRACE, HANG_DEADLINE,
    NAME_DEADLINE, REAP_DEADLINE, RESCUE_TIME, UNKILLABLE_DEADLINE,
};
use tasuki_shared::message::{
    Admission, DialError, EndReason, Lease, PROTOCOL_VERSION, PublishRequest, RefuseReason, Verdict,
};
use tasuki_shared::plan::{
    AudioPlan, FlvPlan, LogSize, Plan, PushPlan, RungKind, RungPlan, StreamLimits,
};
use tasuki_shared::threads::Looks;

mod anchor;
mod bounds;
mod delivery;
mod hang;
mod leaving;
mod owner_word;
mod poison;
mod rotating;
mod services;
mod spares;

const SECOND: Duration = Duration::from_secs(1);

/// Allows every key but `bad`; the key is the name.
pub struct KeyIsName;

impl Rules for KeyIsName {
    fn authorize(&self, request: &PublishRequest) -> Result<Plan, RefuseReason> {
        if request.key.0 == "bad" {
            return Err(RefuseReason::BadKey);
        }
        let name = PublicName::parse(&request.key.0).map_err(|_| RefuseReason::BadName)?;
        let push = PushPlan {
            rung: tasuki_shared::id::RungId(0),
            host: "origin".into(),
            port: 1935,
            app: "live".into(),
            stream: "s".into(),
        };
        Ok(Plan {
            app: request.app.clone(),
            name,
            limits: StreamLimits { width_max: 1, height_max: 1, fps_max: 1, bitrate_bps_max: 1 },
            silence_ms_max: 30_000,
            source_log: LogSize { payload_bytes: 4096, index_entries: 64 },
            rungs: vec![RungPlan { label: "source".into(), kind: RungKind::Source }],
            audio: AudioPlan::Copy,
            blur: vec![],
            pushes: vec![push],
            record: None,
            hls: None,
            thumbnail: None,
            flv: Some(FlvPlan { rungs: vec![tasuki_shared::id::RungId(0)] }),
        })
    }
}

pub fn request(key: &str) -> PublishRequest {
    PublishRequest {
        app: "live".into(),
        key: StreamKey(key.into()),
        query: StreamKey(String::new()),
        flash_version: String::new(),
    }
}

pub fn peer() -> SocketAddr {
    "192.0.2.1:5000".parse().unwrap()
}

/// A core with time and a list of processes that were spawned.
struct Bench {
    core: Core<KeyIsName>,
    now: Duration,
    spawned: Vec<(Role, Generation)>,
    counter: u64,
    /// What a look at any process's threads finds.
    threads: Looks,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let core = Core::new(settings, KeyIsName, 7);
        let mut bench =
            Self { core, now: SECOND, spawned: vec![], counter: 0, threads: Looks::new() };
        bench.on(Event::Started);
        bench
    }

    /// As above with every process ready.
    fn ready(settings: Settings) -> Self {
        let mut bench = Self::new(settings);
        for (_, generation) in bench.spawned.clone() {
            bench.warm(generation);
        }
        bench
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = self.core.handle(self.now, event);
        let mut examined = Vec::new();
        for effect in &effects {
            if let Effect::Spawn { role, generation, .. } = effect {
                self.spawned.push((*role, *generation));
            }
            if let Effect::Examine { generation } = effect {
                examined.push(*generation);
            }
        }
        for generation in examined {
            let threads = self.threads.clone();
            effects.extend(self.on(Event::Examined { generation, threads }));
        }
        effects
    }

    /// A process says nothing for as long as it may, and is looked at meanwhile.
    fn silence(&mut self) -> Vec<Effect> {
        let mut effects = self.after(HANG_DEADLINE / 2);
        effects.extend(self.after(HANG_DEADLINE / 2));
        effects
    }

    fn after(&mut self, wait: Duration) -> Vec<Effect> {
        self.now += wait;
        self.on(Event::Tick)
    }

    /// As `after`, with a sign of life of these first.
    fn after_heard(&mut self, wait: Duration, heard: &[Generation]) -> Vec<Effect> {
        self.now += wait;
        let generations: Vec<_> =
            self.spawned.iter().map(|(_, g)| *g).chain(heard.iter().copied()).collect();
        for generation in generations {
            let heartbeat = tasuki_shared::message::Heartbeat {
                session: None,
                lobby: 0,
                allocator: None,
                spare_codecs: 0,
            };
            self.says(generation, FromWorker::Heartbeat(Box::new(heartbeat)));
        }
        self.on(Event::Tick)
    }

    fn says(&mut self, generation: Generation, body: FromWorker) -> Vec<Effect> {
        self.on(Event::Frame { channel: generation, claimed: generation, body })
    }

    fn warm(&mut self, generation: Generation) -> Vec<Effect> {
        self.on(Event::Spawned { generation, pid: 1000 });
        self.says(generation, FromWorker::Hello { version: PROTOCOL_VERSION, pid: 1000 });
        self.says(generation, FromWorker::Ready)
    }

    fn accept(&mut self) -> (SessionId, Vec<Effect>) {
        self.counter += 1;
        let session = SessionId { epoch: 1, counter: self.counter };
        let effects = self.on(Event::Accepted { session, peer: peer() });
        (session, effects)
    }

    /// Accepted and adopted; its worker.
    fn admit(&mut self) -> (SessionId, Generation) {
        let (session, effects) = self.accept();
        let (generation, lease) = lease_in(&effects).expect("a lease");
        assert_eq!(lease.admission, Admission::Admit);
        self.says(generation, FromWorker::Adopted { session, at_us: 0 });
        (session, generation)
    }

    fn publish(&mut self, session: SessionId, worker: Generation, key: &str) -> Vec<Effect> {
        self.says(worker, FromWorker::Authorize { session, request: request(key) })
    }

    fn dialer(&self) -> Generation {
        self.spawned.iter().rev().find(|(role, _)| *role == Role::Dialer).unwrap().1
    }

    fn live(&mut self, key: &str) -> (SessionId, Generation) {
        let (session, worker) = self.admit();
        let effects = self.publish(session, worker, key);
        assert!(matches!(verdict_in(&effects), Some(Verdict::Allow(_))));
        (session, worker)
    }
}

fn died(generation: Generation, death: Death) -> Event {
    let killer = Killer::Somebody;
    Event::Died { generation, death, killer, processing: BTreeMap::new() }
}

fn lease_in(effects: &[Effect]) -> Option<(Generation, Lease)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send { to, body: ToWorker::Adopt(lease), .. } => Some((*to, (**lease).clone())),
        _ => None,
    })
}

fn verdict_in(effects: &[Effect]) -> Option<Verdict> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send { body: ToWorker::Verdict { verdict, .. }, .. } => Some(verdict.clone()),
        _ => None,
    })
}

fn closes(effects: &[Effect], session: SessionId) -> bool {
    effects.contains(&Effect::Close { session })
}

fn settings() -> Settings {
    Settings { workers: 2, standby: 1, streams_per_worker: 2, ..Settings::default() }
}

#[test]
fn workers_serve_in_their_number_and_the_next_stands_by() {
    let bench = Bench::ready(settings());
    let states: Vec<_> = bench.core.slots.iter().map(Slot::state_name).collect();
    assert_eq!(states, ["serving", "serving", "standby", "serving"]);
}

#[test]
fn streams_spread_and_the_first_beyond_capacity_is_refused_by_name() {
    let mut bench = Bench::ready(settings());
    let workers: Vec<_> = (0..4).map(|n| bench.live(&format!("s{n}")).1).collect();
    assert_eq!(workers.iter().filter(|w| **w == workers[0]).count(), 2);
    let (_, effects) = bench.accept();
    let (_, lease) = lease_in(&effects).unwrap();
    assert_eq!(lease.admission, Admission::Refuse(RefuseReason::NoSlot));
}

#[test]
fn a_busy_processor_and_a_full_host_refuse_by_name() {
    let mut bench = Bench::ready(Settings { sessions_max: 1, ..settings() });
    // One peak refuses nobody; a processor that stays busy does.
    for _ in 0..6 {
        bench.on(Event::Sampled {
            cpu_percent: 95.0,
            host: HostMemory::default(),
            workers: vec![(Generation(1), Sample::default())],
        });
    }
    let reason = |effects: &[Effect]| lease_in(effects).unwrap().1.admission;
    let (_, effects) = bench.accept();
    assert_eq!(reason(&effects), Admission::Refuse(RefuseReason::NoCpu));
    bench.on(Event::Sampled { cpu_percent: 5.0, host: HostMemory::default(), workers: vec![] });
    bench.live("a");
    let (_, effects) = bench.accept();
    assert_eq!(reason(&effects), Admission::Refuse(RefuseReason::HostCap));
}

#[test]
fn when_the_lobbies_are_full_a_connection_is_closed_and_counted() {
    let mut bench = Bench::ready(Settings { lobby_sessions_max: 1, workers: 1, ..settings() });
    for _ in 0..2 {
        assert!(lease_in(&bench.accept().1).is_some());
    }
    let (session, effects) = bench.accept();
    assert!(closes(&effects, session));
    assert_eq!(bench.core.status(bench.now).refusals["lobbies_full"], 1);
}

#[test]
fn a_connection_waits_for_a_worker_that_starts_and_no_longer_than_the_deadline() {
    let mut bench = Bench::new(settings());
    let (first, effects) = bench.accept();
    assert!(effects.is_empty());
    let generation = bench.spawned[0].1;
    let (to, lease) = lease_in(&bench.warm(generation)).unwrap();
    assert_eq!((to, lease.session), (generation, first));

    let mut bench = Bench::new(settings());
    let (session, _) = bench.accept();
    assert!(closes(&bench.after(ARRIVAL_DEADLINE), session));
}

#[test]
fn a_verdict_is_repeated_to_the_same_question_and_not_decided_again() {
    let mut bench = Bench::ready(settings());
    let (session, worker) = bench.live("a");
    let again = bench.publish(session, worker, "a");
    assert!(matches!(verdict_in(&again), Some(Verdict::Allow(_))));
    let other = bench.publish(session, worker, "b");
    assert_eq!(verdict_in(&other), Some(Verdict::Refuse(RefuseReason::AlreadyPublishing)));
    let (session, worker) = bench.admit();
    for _ in 0..2 {
        let refused = bench.publish(session, worker, "bad");
        assert_eq!(verdict_in(&refused), Some(Verdict::Refuse(RefuseReason::BadKey)));
    }
    assert_eq!(bench.core.status(bench.now).refusals["bad_key"], 1);
}

#[test]
fn a_name_that_is_live_is_refused_or_taken_over_after_the_old_session_ended() {
    let mut bench = Bench::ready(settings());
    bench.live("a");
    let (session, worker) = bench.admit();
    let refused = bench.publish(session, worker, "a");
    assert_eq!(verdict_in(&refused), Some(Verdict::Refuse(RefuseReason::NameTaken)));

    let mut bench = Bench::ready(Settings { same_name: SameName::TakeOver, ..settings() });
    let (old, old_worker) = bench.live("a");
    let (new, new_worker) = bench.admit();
    let effects = bench.publish(new, new_worker, "a");
    assert_eq!(verdict_in(&effects), None);
    assert!(effects.iter().any(|effect| matches!(effect,
        Effect::Send { to, body: ToWorker::End { session, reason: EndReason::TakenOver }, .. }
        if *to == old_worker && *session == old)));
    let effects =
        bench.says(old_worker, FromWorker::Ended { session: old, reason: EndReason::TakenOver });
    let close = effects.iter().position(|e| *e == Effect::Close { session: old }).unwrap();
    let allow = effects.iter().position(|e| {
        matches!(e, Effect::Send { body: ToWorker::Verdict { verdict: Verdict::Allow(_), .. }, .. })
    });
    assert!(close < allow.unwrap());
}

#[test]
fn a_take_over_does_not_wait_for_a_worker_that_never_ends_the_old_session() {
    let mut bench = Bench::ready(Settings { same_name: SameName::TakeOver, ..settings() });
    let (old, _) = bench.live("a");
    let (new, worker) = bench.admit();
    bench.publish(new, worker, "a");
    let effects = bench.after(NAME_DEADLINE);
    assert!(closes(&effects, old));
    assert!(matches!(verdict_in(&effects), Some(Verdict::Allow(_))));
}

#[test]
fn a_dead_workers_streams_go_to_the_standby_with_what_they_had() {
    let mut bench = Bench::ready(Settings { workers: 1, ..settings() });
    let (session, worker) = bench.live("a");
    bench.now += SECOND;
    let death = Death::Signalled(9);
    let effects = bench.on(died(worker, death));
    let (to, lease) = lease_in(&effects).unwrap();
    assert_ne!(to, worker);
    assert_eq!(lease.session, session);
    assert_eq!(lease.expect, tasuki_shared::message::Owner::Held(worker));
    assert_eq!(lease.live.unwrap().plan.name.as_str(), "a");
}

/// The streams of a dead worker have the processors first: the next to stand by is started a little
/// later, or as soon as somebody waits for it.
#[test]
fn the_next_standby_is_started_when_the_streams_are_taken_up() {
    let spawns = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Spawn { .. }));
    let stop_early = RESCUE_TIME / 2;
    let mut bench = Bench::ready(Settings { workers: 1, ..settings() });
    let (_, first) = bench.live("a");
    bench.now += SECOND;
    assert!(!spawns(&bench.on(died(first, Death::Signalled(9)))));
    assert!(!spawns(&bench.after(stop_early)));
    assert!(spawns(&bench.after(RESCUE_TIME - stop_early)));

    let mut bench = Bench::ready(Settings { workers: 1, ..settings() });
    let (session, first) = bench.live("a");
    bench.now += SECOND;
    let effects = bench.on(died(first, Death::Signalled(9)));
    let (second, _) = lease_in(&effects).unwrap();
    bench.now += stop_early;
    let effects = bench.on(died(second, Death::Signalled(9)));
    assert_eq!(lease_in(&effects), None);
    let started = effects.iter().filter(|e| matches!(e, Effect::Spawn { .. })).count();
    assert_eq!(started, 2, "{session} waits, and there are two places: {effects:?}");
}

#[test]
fn a_closed_channel_does_not_hide_who_killed_the_process() {
    let mut bench = Bench::ready(settings());
    let worker = bench.spawned[0].1;
    let effects = bench.on(Event::ChannelLost { generation: worker, loss: Loss::Closed });
    assert!(!effects.contains(&Effect::Kill { generation: worker }));
    bench.on(died(worker, Death::Signalled(9)));
    let status = bench.core.status(bench.now);
    assert_eq!(status.workers[0].last_death.as_deref(), Some("killed by somebody else (SIGKILL)"));
}

#[test]
fn a_process_that_closed_its_channel_and_lives_on_is_killed() {
    let mut bench = Bench::ready(settings());
    let worker = bench.spawned[0].1;
    bench.on(Event::ChannelLost { generation: worker, loss: Loss::Closed });
    let (_, lease) = bench.admit();
    assert_ne!(lease, worker, "nothing is leased to it");
    assert!(bench.after(CHANNEL_CLOSED_GRACE).contains(&Effect::Kill { generation: worker }));
}

#[test]
fn a_silent_worker_is_killed_and_its_sessions_are_not_touched_before_it_is_reaped() {
    let mut bench = Bench::ready(Settings { workers: 1, ..settings() });
    let (session, worker) = bench.live("a");
    let effects = bench.silence();
    assert!(effects.contains(&Effect::Kill { generation: worker }));
    assert!(lease_in(&effects).is_none() && !closes(&effects, session));
}

#[test]
fn a_worker_that_does_not_adopt_or_end_in_time_loses_the_session() {
    let mut bench = Bench::ready(settings());
    let (session, _) = bench.accept();
    assert!(closes(&bench.after(ADOPT_DEADLINE), session));
    let (session, _) = bench.live("a");
    let effects = bench.on(Event::EndSession { session });
    assert!(!closes(&effects, session));
    assert!(closes(&bench.after(END_GRACE), session));
}

#[test]
fn a_worker_may_speak_of_nothing_that_is_not_leased_to_it() {
    let mut bench = Bench::ready(settings());
    let (session, worker) = bench.live("a");
    let liar = bench.spawned.iter().map(|(_, g)| *g).find(|g| *g != worker).unwrap();
    let ended = FromWorker::Ended { session, reason: EndReason::PeerClosed };
    assert!(bench.says(liar, ended.clone()).is_empty());
    let stale = Event::Frame { channel: worker, claimed: liar, body: ended };
    assert!(bench.on(stale).is_empty());
    assert!(bench.core.has_session(session));
    assert_eq!(bench.core.ignored_frames, 2);
}

#[test]
fn a_push_is_dialled_once_and_its_socket_goes_to_whoever_still_holds_the_session() {
    let mut bench = Bench::ready(settings());
    let dialer = bench.spawned.iter().find(|(role, _)| *role == Role::Dialer).unwrap().1;
    let (session, worker) = bench.live("a");
    let push = PushId(0);
    let effects = bench.says(worker, FromWorker::Dial { session, push });
    let connect = ToWorker::Connect { ticket: 1, host: "origin".into(), port: 1935 };
    assert_eq!(effects, [Effect::Send { to: dialer, body: connect, fds: Fds::None }]);
    assert!(bench.says(worker, FromWorker::Dial { session, push }).is_empty());
    let connected = FromWorker::Connected { ticket: 1, outcome: Ok(()) };
    assert!(bench.says(worker, connected.clone()).is_empty(), "no worker answers a dial");
    assert_eq!(bench.core.dials.len(), 1);
    let ticket = 1;
    let stray = FromWorker::Connected { ticket: 9, outcome: Ok(()) };
    assert_eq!(bench.says(dialer, stray), [Effect::DropDialed { ticket: 9 }]);
    let effects = bench.says(dialer, connected);
    let body = ToWorker::Dialed { session, push, outcome: Ok(()) };
    let fds = Fds::Dialed { session, push, ticket };
    assert_eq!(effects, [Effect::Send { to: worker, body, fds }]);
    let effects = bench.says(worker, FromWorker::PushClosed { session, push });
    assert_eq!(effects, [Effect::DropPush { session, push }]);
}

#[test]
fn a_dead_dialer_answers_every_dial_with_its_absence() {
    let mut bench = Bench::ready(settings());
    let dialer = bench.spawned.iter().find(|(role, _)| *role == Role::Dialer).unwrap().1;
    let (session, worker) = bench.live("a");
    bench.says(worker, FromWorker::Dial { session, push: PushId(0) });
    let effects = bench.on(died(dialer, Death::Exited(104)));
    let body = ToWorker::Dialed { session, push: PushId(0), outcome: Err(DialError::NoDialer) };
    assert!(effects.contains(&Effect::Send { to: worker, body, fds: Fds::None }));
}

#[test]
fn a_worker_that_repeats_that_it_is_ready_is_announced_once() {
    let mut bench = Bench::ready(settings());
    let worker = bench.spawned[0].1;
    assert!(bench.says(worker, FromWorker::Ready).is_empty());
}
