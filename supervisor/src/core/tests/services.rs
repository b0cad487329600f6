//! Dialer, delivery and console: how they are replaced, and how they leave.

use super::delivery::{delivery, told, with_viewers};
use super::*;
use crate::core::worker::{Patience, State};
use tasuki_shared::limits::{
    CLOSING_GRACE, FRESH_WORKER_DEADLINE, LINGER_DEADLINE, SAMPLE_INTERVAL, SERVICES_LEAVE_DEADLINE,
};
use tasuki_shared::message::Haste;

fn bench() -> Bench {
    Bench::ready(Settings { workers: 1, standby: 0, ..with_viewers() })
}

fn outcome(bench: &Bench, generation: Generation) -> String {
    let all = bench.core.recycle_statuses(bench.now);
    let of_it = all.into_iter().find(|recycle| recycle.generation == generation.0);
    of_it.expect("a recycle").outcome
}

fn recycle(bench: &mut Bench, generation: Generation) {
    let reason = crate::core::rotation::RecycleReason::Reload;
    bench.core.request_recycle(bench.now, generation, reason, Haste::Scheduled).unwrap();
    bench.on(Event::Tick);
}

/// What came last of this role.
fn newest(bench: &Bench, role: Role) -> Generation {
    bench.spawned.iter().rev().find(|(spawned, _)| *spawned == role).unwrap().1
}

/// The slot of delivery, when there is one.
fn only_delivery(bench: &Bench) -> &Slot {
    let slots: Vec<_> = bench.core.slots.iter().filter(|s| s.role == Role::Delivery).collect();
    let [slot] = slots[..] else { panic!("one slot: {slots:?}") };
    slot
}

fn reload(bench: &mut Bench) {
    bench.core.reload(bench.now, Settings { workers: 1, standby: 0, ..with_viewers() }, KeyIsName);
}

/// Every process of a rotation that has begun becomes warm, and every old one leaves. Gives the old
/// ones in the order in which they left.
fn rotated(bench: &mut Bench, old: &[Generation]) -> Vec<Generation> {
    let mut order = Vec::new();
    for _ in 0..old.len() {
        // The first spawns come with the reload itself.
        let fresh = bench.core.slots.iter().filter_map(Slot::process).find(|p| p.pid.is_none());
        let fresh = fresh.expect("a fresh process").generation;
        bench.warm(fresh);
        let leaves = old.iter().copied().find(|generation| {
            let goes = ["leaving", "done"].contains(&&*outcome(bench, *generation));
            goes && !order.contains(generation)
        });
        let leaves = leaves.expect("an old one that leaves");
        order.push(leaves);
        bench.on(died(leaves, Death::Exited(0)));
        assert_eq!(outcome(bench, leaves), "done");
    }
    order
}

/// A rotation replaces the workers first, then the processes without sessions, one after another.
#[test]
fn a_rotation_replaces_every_process() {
    let mut bench = bench();
    let old: Vec<Generation> = bench.spawned.iter().map(|(_, generation)| *generation).collect();
    reload(&mut bench);
    assert_eq!(rotated(&mut bench, &old), old, "workers come first");
    let roles: Vec<Role> = bench.core.slots.iter().map(|slot| slot.role).collect();
    assert_eq!(roles, [Role::Worker, Role::Dialer, Role::Delivery], "no slot is left over");
    assert!(bench.core.slots.iter().all(|slot| slot.state_name() == "serving"));
    assert_eq!(bench.core.status(bench.now).deaths, []);
}

/// However often the configuration is read again during a rotation, one more follows: the processes
/// that were fresh already have what it said before.
#[test]
fn reloads_during_a_rotation_are_one_more_rotation() {
    let mut bench = bench();
    let first: Vec<Generation> = bench.spawned.iter().map(|(_, generation)| *generation).collect();
    for _ in 0..4 {
        reload(&mut bench);
    }
    assert_eq!(bench.core.recycle_statuses(bench.now).len(), first.len());
    rotated(&mut bench, &first);
    // The end of the last began the second rotation.
    let recycles = bench.core.recycle_statuses(bench.now);
    let waiting = recycles.iter().filter(|recycle| recycle.outcome != "done");
    let second: Vec<Generation> = waiting.map(|it| Generation(it.generation)).rev().collect();
    assert_eq!(second.len(), first.len());
    rotated(&mut bench, &second);
    assert_eq!(bench.core.recycle_statuses(bench.now).len(), 2 * first.len());
    assert!(bench.core.slots.iter().all(|slot| slot.state_name() == "serving"));
}

/// Both serve until the old one is told to leave; streams are told to both, as long as both are there.
#[test]
fn viewers_are_never_without_delivery() {
    let mut bench = bench();
    let old = delivery(&bench);
    recycle(&mut bench, old);
    let fresh = newest(&bench, Role::Delivery);
    assert_ne!(fresh, old);
    assert_eq!(outcome(&bench, old), "preparing");
    let effects = bench.on(Event::Spawned { generation: fresh, pid: 7 });
    assert_eq!(told(&effects, fresh), ["hello", "serve"]);
    assert!(told(&effects, old).is_empty(), "the fresh one does not serve yet");
    bench.says(fresh, FromWorker::Hello { version: PROTOCOL_VERSION, pid: 7 });
    let effects = bench.says(fresh, FromWorker::Ready);
    assert_eq!(told(&effects, old), ["drain"]);
    let (session, worker) = bench.admit();
    let effects = bench.publish(session, worker, "a");
    assert_eq!(told(&effects, old), ["live a"], "its viewers may still ask");
    assert_eq!(told(&effects, fresh), ["live a"]);
    assert_eq!(outcome(&bench, old), "done");
    bench.on(died(old, Death::Exited(0)));
    let slot = only_delivery(&bench);
    assert_eq!(slot.process().map(|process| process.generation), Some(fresh));
    assert_eq!(slot.restarts.total, 0, "a planned end is no restart");
}

/// A fresh delivery that cannot begin (a broken certificate) is given up after a while; the old one
/// has served all the time and goes on.
#[test]
fn a_fresh_one_that_does_not_come_costs_nothing() {
    let mut bench = bench();
    let old = delivery(&bench);
    recycle(&mut bench, old);
    let end = bench.now + FRESH_WORKER_DEADLINE;
    while bench.now < end {
        let fresh = newest(&bench, Role::Delivery);
        if bench.core.slot_of(fresh).is_some() && fresh != old {
            bench.on(Event::Spawned { generation: fresh, pid: 7 });
            bench.on(died(fresh, Death::Exited(1)));
        }
        bench.after_heard(SECOND, &[old]);
    }
    assert_eq!(outcome(&bench, old), "failed: no fresh worker in time");
    // The last of them was only starting, and was killed.
    let killed = bench.core.slots.iter().filter(|slot| slot.state_name() == "ending");
    let killed: Vec<_> = killed.filter_map(Slot::process).map(|it| it.generation).collect();
    for generation in killed {
        bench.on(died(generation, Death::Signalled(9)));
    }
    let slot = only_delivery(&bench);
    assert_eq!(slot.process().map(|process| process.generation), Some(old));
    assert_eq!(slot.state_name(), "serving");
}

/// An old delivery that says goodbye to its viewers for a minute keeps no worker from being replaced,
/// and is killed when it takes longer.
#[test]
fn one_that_leaves_slowly_is_in_nobodys_way() {
    let mut bench = bench();
    let old = delivery(&bench);
    recycle(&mut bench, old);
    let fresh = newest(&bench, Role::Delivery);
    bench.warm(fresh);
    let worker = newest(&bench, Role::Worker);
    recycle(&mut bench, worker);
    assert_eq!(outcome(&bench, worker), "preparing");
    let kill = Effect::Kill { generation: old };
    bench.after_heard(SECOND, &[old]);
    let patience = Duration::from_secs(60) + LINGER_DEADLINE;
    assert!(!bench.after_heard(patience - 2 * SECOND, &[old]).contains(&kill));
    assert!(bench.after_heard(2 * SECOND, &[old]).contains(&kill));
    bench.on(died(old, Death::Signalled(9)));
    assert_eq!(bench.core.status(bench.now).deaths, [], "it was told to go");
}

/// Replaced again while the last one still leaves: the newest is the one that stays.
#[test]
fn a_second_replacement_meanwhile_leaves_one() {
    let mut bench = bench();
    let first = delivery(&bench);
    recycle(&mut bench, first);
    let second = newest(&bench, Role::Delivery);
    bench.warm(second);
    recycle(&mut bench, second);
    let third = newest(&bench, Role::Delivery);
    assert_ne!(third, second);
    bench.warm(third);
    assert_eq!(outcome(&bench, second), "done");
    bench.on(died(first, Death::Exited(0)));
    bench.on(died(second, Death::Exited(0)));
    let slot = only_delivery(&bench);
    assert_eq!(slot.process().map(|process| process.generation), Some(third));
    assert_eq!(slot.tenure, Tenure::Fixed);
}

/// What the old dialer was asked it answers while it leaves; what comes now the fresh one is asked;
/// and its death fails only what it was asked itself.
#[test]
fn a_dialer_that_leaves_answers_what_it_was_asked() {
    let mut bench = bench();
    let (session, worker) = bench.live("a");
    let old = bench.dialer();
    let push = PushId(0);
    let asked = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Send { to, body: ToWorker::Connect { ticket, .. }, .. } => Some((*to, *ticket)),
            _ => None,
        })
    };
    let effects = bench.says(worker, FromWorker::Dial { session, push });
    let (to, first) = asked(&effects).unwrap();
    assert_eq!(to, old);
    recycle(&mut bench, old);
    let fresh = newest(&bench, Role::Dialer);
    bench.warm(fresh);
    let (other, other_worker) = bench.live("b");
    let effects = bench.says(other_worker, FromWorker::Dial { session: other, push });
    let (to, second) = asked(&effects).unwrap();
    assert_eq!(to, fresh);
    let outcome = Err(DialError::Connect("refused".into()));
    let effects = bench.says(old, FromWorker::Connected { ticket: first, outcome });
    let answered = |effects: &[Effect], id| {
        effects.iter().any(|effect| match effect {
            Effect::Send { body: ToWorker::Dialed { session, .. }, .. } => *session == id,
            _ => false,
        })
    };
    assert!(answered(&effects, session));
    let effects = bench.on(died(old, Death::Exited(0)));
    assert!(!answered(&effects, other), "that one is not the old one's");
    let effects = bench.says(fresh, FromWorker::Connected { ticket: second, outcome: Ok(()) });
    assert!(answered(&effects, other));
}

/// With the last worker gone they are told to go, so that viewers get the end of what they watch; who
/// takes too long is killed, and the server leaves.
#[test]
fn a_server_that_leaves_lets_them_say_goodbye() {
    let mut bench = bench();
    let (dialer, delivery) = (bench.dialer(), delivery(&bench));
    let worker = newest(&bench, Role::Worker);
    bench.on(Event::Terminate);
    let effects = bench.on(died(worker, Death::Exited(0)));
    assert_eq!(told(&effects, delivery), ["drain"]);
    assert_eq!(told(&effects, dialer), ["drain"]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Kill { .. })));
    bench.on(died(dialer, Death::Exited(0)));
    let effects = bench.after_heard(SERVICES_LEAVE_DEADLINE, &[delivery]);
    assert!(effects.contains(&Effect::Kill { generation: delivery }));
    let effects = bench.on(died(delivery, Death::Signalled(9)));
    assert!(effects.contains(&Effect::Leave(tasuki_shared::exit::Exit::Done)));
}

/// A delivery that grows past its limit is recycled like a worker, and what it holds is looked at
/// before it goes.
#[test]
fn a_delivery_that_grows_is_recycled_for_its_memory() {
    let mut bench = bench();
    let old = delivery(&bench);
    let gibibyte = 1 << 30;
    let host = HostMemory {
        total_bytes: 16 * gibibyte,
        available_bytes: 12 * gibibyte,
        ..HostMemory::default()
    };
    let mut saved = None;
    let mut footprint_bytes = 20 << 20;
    for _ in 0..1_000 {
        bench.now += SAMPLE_INTERVAL;
        footprint_bytes += 32 << 20;
        let sample = Sample { footprint_bytes, ..Sample::default() };
        bench.says(old, FromWorker::Purged);
        let effects =
            bench.on(Event::Sampled { cpu_percent: 1.0, host, workers: vec![(old, sample)] });
        saved = effects.into_iter().find_map(|effect| match effect {
            Effect::SaveEvidence { recycle, generation } if generation == old => Some(recycle),
            _ => None,
        });
        if saved.is_some() {
            break;
        }
    }
    let recycle = saved.expect("it is recycled");
    let fresh = newest(&bench, Role::Delivery);
    let effects = bench.warm(fresh);
    assert!(told(&effects, old).is_empty(), "it is looked at first");
    let path = Some("set".to_owned());
    let effects = bench.on(Event::EvidenceSaved { recycle, generation: old, path });
    assert_eq!(told(&effects, old), ["drain"]);
}

/// One that was told to go and whose end is heard of late died as it should, whatever came between.
#[test]
fn one_that_is_reaped_late_died_as_it_should() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 1, ..settings() });
    let worker = bench.spawned[0].1;
    recycle(&mut bench, worker);
    assert_eq!(outcome(&bench, worker), "leaving");
    bench.on(Event::ChannelLost { generation: worker, loss: Loss::Closed });
    let effects = bench.after(CHANNEL_CLOSED_GRACE);
    assert!(effects.contains(&Effect::Kill { generation: worker }));
    bench.on(died(worker, Death::Exited(0)));
    assert_eq!(bench.core.status(bench.now).deaths, []);
}

/// Viewers are connections, and connections are fds: however many, they are no reason for anything.
#[test]
fn many_viewers_are_no_leak() {
    let mut bench = bench();
    let old = delivery(&bench);
    let host =
        HostMemory { total_bytes: 16 << 30, available_bytes: 12 << 30, ..HostMemory::default() };
    let sample = Sample { footprint_bytes: 30 << 20, fds: 20_000, ..Sample::default() };
    for _ in 0..100 {
        bench.now += SAMPLE_INTERVAL;
        bench.says(old, FromWorker::Purged);
        bench.on(Event::Sampled { cpu_percent: 1.0, host, workers: vec![(old, sample)] });
    }
    assert_eq!(delivery(&bench), old);
    assert!(bench.core.recycle_statuses(bench.now).is_empty());
}

/// While the old delivery still leaves, the fresh one is in a temporary slot: a worker's recycle that
/// fails does not take it away.
#[test]
fn another_recycle_that_fails_leaves_delivery_alone() {
    let mut bench = bench();
    let old = delivery(&bench);
    recycle(&mut bench, old);
    let fresh = newest(&bench, Role::Delivery);
    bench.warm(fresh);
    bench.on(died(fresh, Death::Signalled(11)));
    let worker = newest(&bench, Role::Worker);
    recycle(&mut bench, worker);
    bench.after_heard(FRESH_WORKER_DEADLINE, &[old]);
    assert!(outcome(&bench, worker).starts_with("failed"));
    let serves = newest(&bench, Role::Delivery);
    assert!(serves != fresh && serves != old);
    bench.on(died(old, Death::Exited(0)));
    let slot = only_delivery(&bench);
    assert_eq!(slot.tenure, Tenure::Fixed);
}

/// One that leaves and dies of something else on its way is not started again.
#[test]
fn a_death_on_the_way_out_starts_nobody() {
    let mut bench = bench();
    let first = delivery(&bench);
    recycle(&mut bench, first);
    let second = newest(&bench, Role::Delivery);
    bench.warm(second);
    recycle(&mut bench, second);
    let third = newest(&bench, Role::Delivery);
    bench.warm(third);
    bench.on(died(second, Death::Signalled(11)));
    bench.on(died(first, Death::Exited(0)));
    bench.after_heard(SECOND, &[third]);
    let slot = only_delivery(&bench);
    assert_eq!(slot.process().map(|process| process.generation), Some(third));
}

/// A worker that hangs to the end of a stop is killed alone; viewers have their goodbye all the same.
#[test]
fn a_worker_that_hangs_at_a_stop_takes_no_service_along() {
    let mut bench = bench();
    let (dialer, delivery) = (bench.dialer(), delivery(&bench));
    let (_, worker) = bench.live("a");
    bench.on(Event::Terminate);
    let deadline = bench.core.settings.shutdown_deadline;
    bench.after_heard(deadline, &[]);
    let effects = bench.after_heard(CLOSING_GRACE, &[]);
    assert!(effects.contains(&Effect::Kill { generation: worker }));
    for service in [dialer, delivery] {
        assert!(!effects.contains(&Effect::Kill { generation: service }));
    }
    let effects = bench.on(died(worker, Death::Signalled(9)));
    assert_eq!(told(&effects, delivery), ["drain"]);
}

/// Delivery that could not begin (a broken certificate) and was given up is tried again by a reload: what
/// was wrong may be mended.
#[test]
fn a_reload_tries_again_what_was_given_up() {
    let mut bench = bench();
    let given_up = |bench: &Bench| {
        let state = &only_delivery(bench).state;
        matches!(state, State::Backoff { patience: Patience::GivenUp, .. })
    };
    while !given_up(&bench) {
        match only_delivery(&bench).process().map(|process| process.generation) {
            Some(generation) => drop(bench.on(died(generation, Death::Exited(1)))),
            None => drop(bench.after(SECOND)),
        }
    }
    let before = newest(&bench, Role::Delivery);
    bench.after(SECOND);
    assert!(given_up(&bench));
    reload(&mut bench);
    bench.on(Event::Tick);
    assert_ne!(newest(&bench, Role::Delivery), before);
}
