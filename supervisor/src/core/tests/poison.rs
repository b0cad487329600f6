//! Who is blamed for a death, and what becomes of him.

use super::*;
use crate::core::poison::Standing;
use crate::core::worker::Tenure;
use tasuki_shared::limits::{LINGER_DEADLINE, QUARANTINE_PAUSE, QUARANTINE_TIME, QUARANTINES_MAX};
use tasuki_shared::memory::session::WorkPlace;

const FAULT: Death = Death::Signalled(11);
const SIGKILL: Death = Death::Signalled(9);

fn at(packet: u64, committed: u64) -> WorkPlace {
    WorkPlace { packet, committed }
}

impl Bench {
    /// The worker of `session` dies, at work on these.
    fn dies(
        &mut self,
        session: SessionId,
        death: Death,
        killer: Killer,
        work: &[(SessionId, WorkPlace)],
    ) -> Vec<Effect> {
        self.now += SECOND;
        let generation = self.core.sessions[&session].generation().expect("a worker");
        let processing = work.iter().copied().collect();
        let mut effects = self.on(Event::Died { generation, death, killer, processing });
        self.now += SECOND;
        effects.extend(self.on(Event::Tick));
        effects.extend(self.warm_all());
        effects
    }

    /// Whatever starts is ready.
    fn warm_all(&mut self) -> Vec<Effect> {
        self.now += SECOND;
        let mut effects = Vec::new();
        for (_, generation) in self.spawned.clone() {
            let at = self.core.slot_of(generation);
            if at.is_some_and(|at| self.core.slots[at].state_name() == "starting") {
                effects.extend(self.warm(generation));
            }
            self.says(generation, FromWorker::Progress { stalled: vec![] });
        }
        let leased: Vec<SessionId> = self.core.sessions.keys().copied().collect();
        for session in leased {
            if let Some(generation) = self.core.sessions[&session].generation() {
                self.says(generation, FromWorker::Adopted { session, at_us: 0 });
            }
        }
        effects
    }

    fn home(&self, session: SessionId) -> String {
        let generation = self.core.sessions[&session].generation().expect("a worker");
        let at = self.core.slot_of(generation).unwrap();
        self.core.slots[at].state_name().to_owned()
    }
}

fn one_worker() -> Settings {
    Settings {
        workers: 1,
        standby: 2,
        streams_per_worker: 8,
        restart_intensity: 100,
        backoff_max: Duration::from_millis(200),
        ..Settings::default()
    }
}

fn refusal_of(effects: &[Effect], session: SessionId) -> Option<Admission> {
    let (_, lease) = lease_in(effects).filter(|(_, lease)| lease.session == session)?;
    Some(lease.admission)
}

/// The stream whose codecs stand at the same packet in two deaths is alone in a worker from then
/// on; at the third it is dropped, its publisher told why, and everybody else goes on.
#[test]
fn the_same_packet_twice_is_quarantine_and_a_third_time_the_end_of_that_stream_alone() {
    let mut bench = Bench::ready(one_worker());
    let (poison, _) = bench.live("poison");
    let healthy: Vec<_> = (0..7).map(|n| bench.live(&format!("h{n}")).0).collect();
    let work = |death: u64| -> Vec<_> {
        let moving = healthy.iter().map(|id| (*id, at(100 + death, 50)));
        moving.chain([(poison, at(77, 60))]).collect()
    };
    bench.dies(poison, FAULT, Killer::Somebody, &work(1));
    assert_eq!(
        (bench.home(poison).as_str(), bench.core.sessions[&poison].blame.strikes),
        ("serving", 1)
    );
    bench.dies(poison, FAULT, Killer::Somebody, &work(2));
    assert_eq!(bench.home(poison), "quarantine");
    let status = bench.core.status(bench.now);
    assert!(status.sessions[0].suspicion.contains("quarantine"), "{:?}", status.sessions[0]);
    for id in &healthy {
        assert_eq!(bench.home(*id), "serving");
        assert_eq!(bench.core.sessions[id].blame.standing, Standing::Clear);
    }
    let effects = bench.dies(poison, FAULT, Killer::Somebody, &[(poison, at(77, 60))]);
    assert_eq!(refusal_of(&effects, poison), Some(Admission::Refuse(RefuseReason::Poison)));
    assert!(
        effects.contains(&Effect::DropPush { session: poison, push: PushId(0) })
            || bench.core.sessions[&poison].connected.is_empty()
    );
    let status = bench.core.status(bench.now);
    assert!(
        status.deaths[0].sessions[0].outcome.contains("again and again"),
        "{:?}",
        status.deaths
    );
    assert!(healthy.iter().all(|id| bench.core.sessions[id].publish.live_name().is_some()));
    assert!(status.workers.iter().all(|w| w.state != "quarantine"), "{:?}", status.workers);
    // The name is free for the next one.
    bench.live("poison");
}

/// Where nothing is known of packets, it is the commit that did not move; the innocent show it in
/// quarantine, and are let out again.
#[test]
fn what_committed_nothing_in_between_is_isolated_and_an_innocent_one_comes_back() {
    let mut bench = Bench::ready(one_worker());
    let (first, _) = bench.live("a");
    let (second, _) = bench.live("b");
    for packet in [10, 20] {
        let work = [(first, at(packet, 5)), (second, at(packet + 1, 6))];
        bench.dies(first, FAULT, Killer::Somebody, &work);
    }
    assert_eq!((bench.home(first), bench.home(second)), ("quarantine".into(), "quarantine".into()));
    assert_ne!(bench.core.sessions[&first].generation(), bench.core.sessions[&second].generation());
    bench.now += QUARANTINE_TIME;
    bench.warm_all();
    let effects = bench.on(Event::Tick);
    let prepared = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Send { body: ToWorker::Prepare(_), .. }));
    assert_eq!(prepared.count(), 2, "both move back");
}

/// Nobody is blamed for a kill by hand, a hundred times in a row; it counts neither for back-off nor
/// for intensity, and every stream finds a worker at once.
#[test]
fn a_hundred_kills_by_hand_blame_nobody_and_are_answered_at_once() {
    let mut bench = Bench::ready(Settings { restart_intensity: 3, ..one_worker() });
    let (session, _) = bench.live("a");
    for _ in 0..100 {
        let generation = bench.core.sessions[&session].generation().unwrap();
        bench.now += SECOND;
        let killer = Killer::Somebody;
        let processing = BTreeMap::from([(session, at(7, 7))]);
        let effects = bench.on(Event::Died { generation, death: SIGKILL, killer, processing });
        assert_eq!(lease_in(&effects).unwrap().1.session, session, "at once");
        let effects = bench.after(RESCUE_TIME);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Spawn { .. })), "no back-off");
        bench.warm_all();
    }
    let session = &bench.core.sessions[&session];
    assert_eq!((session.blame.strikes, session.blame.standing), (0, Standing::Clear));
    assert!(bench.core.status(bench.now).workers.iter().all(|w| w.state != "backoff"));
}

/// A fault that finds a stream somewhere else each time is not its fault.
#[test]
fn a_stream_that_moves_on_between_faults_is_never_quarantined() {
    let mut bench = Bench::ready(one_worker());
    let (session, _) = bench.live("a");
    for round in 1..20 {
        bench.dies(session, FAULT, Killer::Somebody, &[(session, at(round * 30, round * 29))]);
        assert_eq!(bench.core.sessions[&session].blame.strikes, 1);
        assert_eq!(bench.home(session), "serving");
    }
}

/// Want of memory isolates a stream and never drops it, whoever found it: the kernel or an
/// allocation that failed.
#[test]
fn want_of_memory_isolates_and_never_drops() {
    for (death, killer) in [(SIGKILL, Killer::OutOfMemory), (Death::Exited(103), Killer::Somebody)]
    {
        let mut bench = Bench::ready(one_worker());
        let (session, _) = bench.live("a");
        for round in 0..6 {
            bench.dies(session, death, killer, &[(session, at(9, 9))]);
            bench.now += 8 * SECOND;
            bench.on(Event::Tick);
            bench.warm_all();
            assert!(bench.core.sessions[&session].publish.live_name().is_some(), "{death:?}");
            let home = bench.home(session);
            assert_eq!(home, if round == 0 { "serving" } else { "quarantine" }, "{death:?}");
        }
    }
}

/// A hang that its worker knew the session of is nobody else's.
#[test]
fn a_session_that_hung_is_blamed_alone() {
    let mut bench = Bench::ready(one_worker());
    let (hung, worker) = bench.live("a");
    let (other, _) = bench.live("b");
    let stalled = tasuki_shared::message::Stalled {
        session: hung,
        what: tasuki_shared::message::StalledPart::Pipeline,
        for_ms: u32::MAX,
    };
    bench.says(worker, FromWorker::Progress { stalled: vec![stalled] });
    bench.dies(hung, SIGKILL, Killer::Somebody, &[(hung, at(1, 1)), (other, at(2, 2))]);
    let strikes = |id| bench.core.sessions[&id].blame.strikes;
    assert_eq!((strikes(hung), strikes(other)), (1, 0));
}

/// No more workers than the bound are taken for suspects.
#[test]
fn quarantines_are_bounded() {
    let mut bench = Bench::ready(one_worker());
    let all: Vec<_> = (0..7).map(|n| bench.live(&format!("h{n}")).0).collect();
    let work: Vec<_> = all.iter().map(|id| (*id, at(7, 7))).collect();
    bench.dies(all[0], FAULT, Killer::Somebody, &work);
    bench.dies(all[0], FAULT, Killer::Somebody, &work);
    let alone = all.iter().filter(|id| bench.home(**id) == "quarantine").count();
    assert_eq!(alone, QUARANTINES_MAX);
}

/// A connection before its publish that ends workers is closed at the third death: whoever spoke a
/// refusal would parse the same again.
#[test]
fn a_lobby_session_that_ends_workers_is_closed() {
    let mut bench = Bench::ready(one_worker());
    let (session, _) = bench.admit();
    let work = [(session, at(0, 0))];
    bench.dies(session, FAULT, Killer::Somebody, &work);
    bench.dies(session, FAULT, Killer::Somebody, &work);
    assert_eq!(bench.home(session), "serving", "a lobby session takes no worker for itself");
    let effects = bench.dies(session, FAULT, Killer::Somebody, &work);
    assert!(closes(&effects, session));
}

/// Twice at the same packet, so that it is alone in a worker from now on; that worker.
fn quarantined(bench: &mut Bench, name: &str) -> (SessionId, Generation) {
    let (session, _) = bench.live(name);
    for _ in 0..2 {
        bench.dies(session, FAULT, Killer::Somebody, &[(session, at(77, 60))]);
    }
    assert_eq!(bench.home(session), "quarantine");
    (session, bench.core.sessions[&session].generation().unwrap())
}

fn spawns(effects: &[Effect]) -> Vec<Generation> {
    let spawned = effects.iter().filter_map(|effect| match effect {
        Effect::Spawn { generation, .. } => Some(*generation),
        _ => None,
    });
    spawned.collect()
}

fn prepares(effects: &[Effect], session: SessionId) -> Option<Generation> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send { to, body: ToWorker::Prepare(lease), .. } if lease.session == session => {
            Some(*to)
        }
        _ => None,
    })
}

/// A machine that can start no process is asked again after a pause, not at once and for ever.
#[test]
fn a_worker_for_one_alone_that_cannot_be_started_is_tried_again_after_a_pause() {
    let mut bench = Bench::ready(one_worker());
    let (session, _) = bench.live("poison");
    bench.dies(session, FAULT, Killer::Somebody, &[(session, at(77, 60))]);
    let generation = bench.core.sessions[&session].generation().unwrap();
    let processing = BTreeMap::from([(session, at(77, 60))]);
    let killer = Killer::Somebody;
    let effects = bench.on(Event::Died { generation, death: FAULT, killer, processing });
    let own = bench.core.slots.iter().find(|slot| matches!(slot.tenure, Tenure::Quarantine(_)));
    let own = own.and_then(|slot| slot.process()).expect("its own worker").generation;
    assert!(spawns(&effects).contains(&own));
    let error = "no more processes".to_owned();
    let effects = bench.on(Event::SpawnFailed { generation: own, error });
    assert_eq!(spawns(&effects), [], "at once");
    bench.now += QUARANTINE_PAUSE;
    assert_eq!(spawns(&bench.on(Event::Tick)).len(), 1, "after the pause");
}

/// A way out that fails is tried again; only among the others is it one of them.
#[test]
fn a_stream_that_finds_no_way_out_of_quarantine_is_sent_again() {
    let mut bench = Bench::ready(one_worker());
    let (session, alone) = quarantined(&mut bench, "innocent");
    for round in 0..3 {
        bench.now += QUARANTINE_TIME;
        bench.warm_all();
        let to = prepares(&bench.on(Event::Tick), session).unwrap_or_else(|| panic!("{round}"));
        let reason = "no room".to_owned();
        bench.says(to, FromWorker::PrepareFailed { session, reason });
        let owner = Some(tasuki_shared::message::Owner::Held(alone));
        bench.on(Event::OwnerRead { session, owner });
        assert_eq!(bench.home(session), "quarantine", "round {round}");
        let found = bench.core.status(bench.now).sessions[0].suspicion.clone();
        assert!(found.contains("leaves its quarantine"), "{found}");
    }
}

/// Who was told to go and has nothing left to stay for is killed if it does not go.
#[test]
fn a_worker_for_one_alone_goes_when_that_one_has_ended_or_is_killed() {
    let mut bench = Bench::ready(one_worker());
    let (session, alone) = quarantined(&mut bench, "poison");
    let reason = EndReason::PeerClosed;
    bench.says(alone, FromWorker::Ended { session, reason });
    let effects = bench.after_heard(SECOND, &[alone]);
    let drain = Effect::Send { to: alone, body: ToWorker::Drain, fds: Fds::None };
    let slot = bench.core.slot_of(alone).unwrap();
    assert!(effects.contains(&drain) || bench.core.slots[slot].state_name() == "draining");
    let kill = Effect::Kill { generation: alone };
    let told = bench.now;
    while !bench.after_heard(SECOND, &[alone]).contains(&kill) {
        assert!(bench.now <= told + LINGER_DEADLINE, "it may stay for ever");
    }
    assert!(bench.now + SECOND >= told + LINGER_DEADLINE, "before its time");
}
