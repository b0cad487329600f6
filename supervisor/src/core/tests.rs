//! Single behaviours of the core; whole lives are in the simulator.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one variant")]

use super::event::{Loss, Sample};
use super::settings::SameName;
use super::*;
use std::net::SocketAddr;
use tasuki_shared::id::{PushId, StreamKey};
use tasuki_shared::kernel::Death;
use tasuki_shared::limits::{
    ADOPT_DEADLINE, ARRIVAL_DEADLINE, CHANNEL_CLOSED_GRACE, END_GRACE, HEARTBEAT_DEADLINE,
    NAME_DEADLINE, REAP_DEADLINE,
};
use tasuki_shared::message::{
    Admission, DialError, EndReason, Lease, PROTOCOL_VERSION, PublishRequest, RefuseReason, Verdict,
};
use tasuki_shared::plan::{AudioPlan, LogSize, Plan, PushPlan, RungKind, RungPlan, StreamLimits};

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
            source_log: LogSize { payload_bytes: 4096, index_entries: 64 },
            rungs: vec![RungPlan { label: "source".into(), kind: RungKind::Source }],
            audio: AudioPlan::Copy,
            blur: vec![],
            pushes: vec![push],
            record: None,
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
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let core = Core::new(settings, KeyIsName, 7);
        let mut bench = Self { core, now: SECOND, spawned: vec![], counter: 0 };
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
        let effects = self.core.handle(self.now, event);
        for effect in &effects {
            if let Effect::Spawn { role, generation, .. } = effect {
                self.spawned.push((*role, *generation));
            }
        }
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
            let heartbeat = tasuki_shared::message::Heartbeat { session: None, lobby: 0 };
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
        self.says(generation, FromWorker::Adopted { session });
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
    Event::Died { generation, death, processing: BTreeSet::new() }
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
            workers: vec![(Generation(1), Sample::default())],
        });
    }
    let reason = |effects: &[Effect]| lease_in(effects).unwrap().1.admission;
    let (_, effects) = bench.accept();
    assert_eq!(reason(&effects), Admission::Refuse(RefuseReason::NoCpu));
    bench.on(Event::Sampled { cpu_percent: 5.0, workers: vec![] });
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
    let adopt = effects.iter().position(|e| matches!(e, Effect::Send { .. }));
    let spawn = effects.iter().position(|e| matches!(e, Effect::Spawn { .. }));
    assert!(adopt < spawn, "orphans first, fork afterwards");
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
    let effects = bench.after(HEARTBEAT_DEADLINE);
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
fn a_first_terminate_lets_streams_finish_and_a_second_ends_them() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 0, ..settings() });
    let (session, worker) = bench.live("a");
    let effects = bench.on(Event::Terminate);
    assert!(effects.contains(&Effect::StopListening));
    let drain = Effect::Send { to: worker, body: ToWorker::Drain, fds: Fds::None };
    assert!(effects.contains(&drain));
    let effects = bench.on(Event::Terminate);
    assert!(effects.contains(&Effect::Kill { generation: worker }), "at once means at once");
    let effects = bench.on(died(worker, Death::Signalled(9)));
    assert!(closes(&effects, session));
    let dialer = bench.dialer();
    let effects = bench.on(died(dialer, Death::Signalled(9)));
    assert!(effects.contains(&Effect::Leave(tasuki_shared::exit::Exit::Done)));
}

#[test]
fn the_deadline_of_a_drain_ends_sessions_and_the_last_worker_takes_the_dialer_with_it() {
    let deadline = 30 * SECOND;
    let settings = Settings { workers: 1, standby: 0, shutdown_deadline: deadline, ..settings() };
    let mut bench = Bench::ready(settings);
    let (session, worker) = bench.live("a");
    bench.on(Event::Terminate);
    let effects = bench.after_heard(deadline, &[worker]);
    let body = ToWorker::End { session, reason: EndReason::Shutdown };
    assert!(effects.contains(&Effect::Send { to: worker, body, fds: Fds::None }));
    bench.says(worker, FromWorker::Ended { session, reason: EndReason::Shutdown });
    let dialer = bench.dialer();
    let effects = bench.on(died(worker, Death::Exited(0)));
    assert!(effects.contains(&Effect::Kill { generation: dialer }));
    let effects = bench.on(died(dialer, Death::Signalled(9)));
    assert!(effects.contains(&Effect::Leave(tasuki_shared::exit::Exit::Done)));
}

#[test]
fn a_drain_refuses_who_has_not_published_and_a_publish_that_comes_late() {
    let mut bench = Bench::ready(settings());
    bench.live("live");
    let (lobby, worker) = bench.admit();
    let effects = bench.on(Event::Terminate);
    let reason = EndReason::Refused(RefuseReason::Draining);
    let body = ToWorker::End { session: lobby, reason };
    assert!(effects.contains(&Effect::Send { to: worker, body, fds: Fds::None }));
    let late = bench.publish(lobby, worker, "late");
    assert!(!matches!(verdict_in(&late), Some(Verdict::Allow(_))));
    assert!(closes(&bench.after(END_GRACE), lobby));
}

#[test]
fn a_dialer_that_dies_in_a_drain_is_replaced_while_a_stream_goes_on() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 0, ..settings() });
    bench.live("a");
    bench.on(Event::Terminate);
    let dialer = bench.dialer();
    bench.on(died(dialer, Death::Exited(104)));
    bench.after(SECOND);
    assert_ne!(bench.dialer(), dialer);
}

#[test]
fn a_process_that_survives_its_kill_loses_its_sessions_and_does_not_hold_the_server() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 0, ..settings() });
    let (session, worker) = bench.live("a");
    assert!(bench.after(HEARTBEAT_DEADLINE).contains(&Effect::Kill { generation: worker }));
    let effects = bench.after(REAP_DEADLINE);
    assert!(closes(&effects, session), "nobody else may have what it may still read");
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Send { .. })));
    // The dialer, silent as well, is as dead.
    let effects = bench.on(Event::Terminate);
    assert!(effects.contains(&Effect::Leave(tasuki_shared::exit::Exit::Done)));
}

#[test]
fn only_a_session_its_worker_was_at_work_on_is_blamed_and_the_third_death_drops_it() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 3, ..settings() });
    let (poison, _) = bench.live("poison");
    let (bystander, _) = bench.live("bystander");
    for death in 1..=3 {
        let worker = bench.core.sessions[&bystander].generation().unwrap();
        assert_eq!(bench.core.sessions[&poison].generation(), Some(worker));
        let effects = bench.on(Event::Died {
            generation: worker,
            death: Death::Signalled(11),
            processing: BTreeSet::from([poison]),
        });
        assert_eq!(closes(&effects, poison), death == 3, "death {death}");
        assert_eq!(bench.core.sessions[&bystander].blamed, 0);
    }
    assert!(bench.core.has_session(bystander));
}

#[test]
fn a_stream_whose_memory_cannot_be_made_is_refused_by_name_and_its_name_is_free() {
    let mut bench = Bench::ready(settings());
    let (session, worker) = bench.live("a");
    let what = "memory for a log: too many open files".to_owned();
    let effects =
        bench.on(Event::ResourceFailed { session, fds: Fds::Logs(session), what: what.clone() });
    assert_eq!(verdict_in(&effects), Some(Verdict::Refuse(RefuseReason::NoResource)));
    let refused = effects
        .iter()
        .position(|effect| matches!(effect, Effect::Send { body: ToWorker::Verdict { .. }, .. }));
    let body = ToWorker::End { session, reason: EndReason::Resource(what) };
    let ended = effects.iter().position(|effect| {
        *effect == Effect::Send { to: worker, body: body.clone(), fds: Fds::None }
    });
    assert!(refused.unwrap() < ended.unwrap(), "the reason is said before the end");
    bench.live("a");
}

#[test]
fn a_lease_that_cannot_be_sent_closes_its_session_and_a_socket_fails_its_dial_alone() {
    let mut bench = Bench::ready(settings());
    let (session, _) = bench.accept();
    let what = "EMFILE".to_owned();
    let event = Event::ResourceFailed { session, fds: Fds::Session(session), what: what.clone() };
    assert!(closes(&bench.on(event), session));
    let (session, worker) = bench.live("a");
    let push = PushId(0);
    bench.says(worker, FromWorker::Dial { session, push });
    let dialer = bench.dialer();
    bench.says(dialer, FromWorker::Connected { ticket: 1, outcome: Ok(()) });
    let fds = Fds::Dialed { session, push, ticket: 1 };
    let effects = bench.on(Event::ResourceFailed { session, fds, what: what.clone() });
    let outcome = Err(DialError::Connect(what));
    let body = ToWorker::Dialed { session, push, outcome };
    assert!(effects.contains(&Effect::DropPush { session, push }));
    assert!(effects.contains(&Effect::Send { to: worker, body, fds: Fds::None }));
    assert!(bench.core.has_session(session));
}

#[test]
fn one_address_has_its_share_of_the_lobbies_and_gets_it_back_by_publishing() {
    let mut bench = Bench::ready(Settings { lobby_per_address: 2, ..settings() });
    let (first, worker) = bench.admit();
    bench.admit();
    let (third, effects) = bench.accept();
    assert!(closes(&effects, third));
    assert_eq!(bench.core.status(bench.now).refusals["lobby_per_address"], 1);
    bench.publish(first, worker, "a");
    bench.admit();
    let accept = |bench: &mut Bench, counter, peer: &str| {
        let session = SessionId { epoch: 2, counter };
        let effects = bench.on(Event::Accepted { session, peer: peer.parse().unwrap() });
        lease_in(&effects).is_some()
    };
    assert!(accept(&mut bench, 1, "192.0.2.7:1"), "another address has its own share");
    for (counter, peer) in [(2, "[2001:db8::1]:1"), (3, "[2001:db8::2]:1")] {
        assert!(accept(&mut bench, counter, peer));
    }
    assert!(!accept(&mut bench, 4, "[2001:db8::3]:1"), "a /64 is one subscriber");
    for counter in 5..12 {
        assert!(accept(&mut bench, counter, "127.0.0.1:9"), "loopback is not counted");
    }
}

#[test]
fn a_full_host_counts_streams_and_not_who_has_not_published() {
    let mut bench = Bench::ready(Settings { sessions_max: 2, ..settings() });
    for _ in 0..5 {
        bench.admit();
    }
    bench.live("a");
    let (late, worker) = bench.admit();
    bench.live("b");
    let refused = bench.publish(late, worker, "c");
    assert_eq!(verdict_in(&refused), Some(Verdict::Refuse(RefuseReason::HostCap)));
}

#[test]
fn a_worker_whose_slots_are_spoken_for_comes_after_one_with_room() {
    let mut bench = Bench::ready(settings());
    let (_, full) = bench.live("a");
    // Two that wait on the other one speak for its two slots; then the first has room again.
    let (_, other) = bench.admit();
    assert_ne!(full, other);
    let (_, third) = bench.admit();
    let (_, fourth) = bench.admit();
    let spoken_for = [third, fourth].iter().filter(|worker| **worker == other).count();
    assert_eq!(spoken_for, 1, "each has two slots and each slot is spoken for once");
}

#[test]
fn a_worker_that_repeats_that_it_is_ready_is_announced_once() {
    let mut bench = Bench::ready(settings());
    let worker = bench.spawned[0].1;
    assert!(bench.says(worker, FromWorker::Ready).is_empty());
}

#[test]
fn a_refusal_names_the_peer_and_never_the_key() {
    let mut bench = Bench::ready(settings());
    let (session, worker) = bench.admit();
    let effects = bench.publish(session, worker, "bad");
    let said = effects.iter().find_map(|effect| match effect {
        Effect::Announce(announcement) => Some(announcement.clone()),
        _ => None,
    });
    let said = said.unwrap();
    assert_eq!(said.detail, "stream key not accepted (192.0.2.1:5000)");
    assert_eq!(said.peer, Some(peer().ip()));
}

#[test]
fn a_rate_that_is_no_number_does_not_reach_the_status() {
    let mut bench = Bench::ready(settings());
    let (session, worker) = bench.live("a");
    let status = tasuki_shared::status::SessionStatus {
        id: session.to_string(),
        fps: f32::NAN,
        ..Default::default()
    };
    let heartbeat = tasuki_shared::message::Heartbeat { session: Some(status), lobby: 0 };
    bench.says(worker, FromWorker::Heartbeat(Box::new(heartbeat)));
    let status = bench.core.status(bench.now);
    assert_eq!(status.sessions[0].fps.to_bits(), 0.0_f32.to_bits());
}
