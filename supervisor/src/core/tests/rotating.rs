//! The order in which workers are replaced.

use super::*;

fn outcome(bench: &Bench, generation: Generation) -> String {
    let all = bench.core.recycle_statuses(bench.now);
    let of_it = all.into_iter().find(|recycle| recycle.generation == generation.0);
    of_it.expect("a recycle").outcome
}

/// A worker that is only starting when a rotation begins is replaced before anybody moves, for
/// streams would move to it and on again.
#[test]
fn nobody_moves_to_a_worker_that_is_to_be_replaced_as_well() {
    let settings = Settings { workers: 1, standby: 1, ..settings() };
    let mut bench = Bench::new(settings.clone());
    let workers: Vec<Generation> =
        bench.spawned.iter().filter(|(role, _)| *role == Role::Worker).map(|(_, g)| *g).collect();
    let [first, second] = workers[..] else { panic!("two workers: {workers:?}") };
    bench.warm(first);
    let (_, owner) = bench.live("a");
    assert_eq!(owner, first);
    bench.core.reload(bench.now, settings, KeyIsName);
    assert_eq!(
        (outcome(&bench, first), outcome(&bench, second)),
        ("waiting".into(), "waiting".into())
    );
    bench.warm(second);
    assert_eq!(
        (outcome(&bench, first), outcome(&bench, second)),
        ("waiting".into(), "leaving".into())
    );
    bench.on(died(second, Death::Exited(0)));
    assert_eq!(
        (outcome(&bench, first), outcome(&bench, second)),
        ("preparing".into(), "done".into())
    );
    bench.after_heard(SECOND, &[]);
    let (_, third) = *bench.spawned.last().unwrap();
    bench.warm(third);
    assert_eq!(outcome(&bench, first), "moving");
}

/// A worker that stands by and is replaced for its memory leaves when it was looked at.
#[test]
fn a_standby_that_grew_is_looked_at_before_it_leaves() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 1, ..settings() });
    let standby = bench.core.slots[1].process().expect("a process").generation;
    let reason = crate::core::rotation::RecycleReason::MemorySoft;
    let haste = tasuki_shared::message::Haste::Scheduled;
    let recycle = bench.core.request_recycle(bench.now, standby, reason, haste).unwrap();
    let effects = bench.on(Event::Tick);
    assert!(effects.contains(&Effect::SaveEvidence { recycle, generation: standby }));
    assert_eq!(outcome(&bench, standby), "moving");
    let path = Some("set".to_owned());
    let effects = bench.on(Event::EvidenceSaved { recycle, generation: standby, path });
    let drain = Effect::Send { to: standby, body: ToWorker::Drain, fds: Fds::None };
    assert!(effects.contains(&drain));
    assert_eq!(outcome(&bench, standby), "leaving");
}
