//! What workers that stand by are told to hold open.

use super::*;
use tasuki_shared::limits::{
    CODEC_NEED_BYTES_MAX, SPARE_BYTES_DIVISOR, SPARE_BYTES_MAX, SPARE_CODECS_MAX, SPARE_INTERVAL,
    SPARE_KINDS_MAX,
};
use tasuki_shared::message::{CodecNeed, Haste, Owner, SpareList};

/// A bench whose memory was measured once, so that there are limits.
fn measured(settings: Settings) -> Bench {
    let mut bench = Bench::new(settings);
    let host = HostMemory::default();
    bench.on(Event::Sampled { cpu_percent: 1.0, host, workers: vec![] });
    for (_, generation) in bench.spawned.clone() {
        bench.warm(generation);
    }
    bench
}

fn need(what: &str) -> CodecNeed {
    CodecNeed(what.as_bytes().to_vec())
}

fn codecs(session: SessionId, needs: &[&str]) -> FromWorker {
    FromWorker::Codecs { session, needs: needs.iter().copied().map(need).collect() }
}

/// The lists in these effects, and to whom.
fn told(effects: &[Effect]) -> Vec<(Generation, Vec<(CodecNeed, u32)>)> {
    let lists = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, body: ToWorker::Spare(list), .. } => Some((*to, list.codecs.clone())),
        _ => None,
    });
    lists.collect()
}

fn list(codecs: &[(&str, u32)]) -> Vec<(CodecNeed, u32)> {
    codecs.iter().map(|(what, count)| (need(what), *count)).collect()
}

/// What this worker was told last.
fn last_told(bench: &Bench, generation: Generation) -> SpareList {
    let slot = &bench.core.slots[bench.core.slot_of(generation).unwrap()];
    slot.process().unwrap().spares.told.clone()
}

fn standby(bench: &Bench) -> Generation {
    let stands_by = |slot: &&Slot| slot.state_name() == "standby";
    let slot = bench.core.slots.iter().find(stands_by).expect("a standby");
    slot.process().expect("a process").generation
}

/// One worker dies at a time: of each kind as many as the worker with the most of it needs, not as
/// many as all need together. The most wanted come first.
#[test]
fn a_standby_is_told_the_most_that_any_one_worker_needs() {
    let mut bench = measured(settings());
    let streams: Vec<_> = (0..4).map(|n| bench.live(&format!("s{n}"))).collect();
    let (first, second): (Vec<_>, Vec<_>) =
        streams.iter().partition(|(_, worker)| *worker == streams[0].1);
    assert_eq!((first.len(), second.len()), (2, 2));
    for (session, worker) in first {
        bench.says(worker, codecs(session, &["avc", "720p"]));
    }
    bench.says(second[0].1, codecs(second[0].0, &["avc", "480p"]));
    bench.says(second[1].1, codecs(second[1].0, &["hevc", "360p"]));
    let effects = bench.after(SPARE_INTERVAL);
    let expected = list(&[("720p", 2), ("avc", 2), ("360p", 1), ("480p", 1), ("hevc", 1)]);
    assert_eq!(told(&effects), [(standby(&bench), expected)]);
}

/// A list is told to a standby as soon as it is one, again when it has changed, and no more often
/// than the interval; one that stays the same is not told again.
#[test]
fn a_list_is_told_once_and_again_when_it_has_changed_and_an_interval_has_passed() {
    let mut bench = Bench::new(settings());
    let host = HostMemory::default();
    bench.on(Event::Sampled { cpu_percent: 1.0, host, workers: vec![] });
    let workers: Vec<_> = bench.spawned.iter().map(|(_, generation)| *generation).collect();
    bench.warm(workers[0]);
    bench.warm(workers[1]);
    let (session, worker) = bench.live("a");
    bench.says(worker, codecs(session, &["avc"]));
    let effects = bench.warm(workers[2]);
    assert_eq!(told(&effects), [(workers[2], list(&[("avc", 1)]))]);

    let effects = bench.says(worker, codecs(session, &["avc", "720p"]));
    assert_eq!(told(&effects), []);
    assert_eq!(told(&bench.after(SPARE_INTERVAL / 2)), []);
    let effects = bench.after(SPARE_INTERVAL - SPARE_INTERVAL / 2);
    assert_eq!(told(&effects), [(workers[2], list(&[("720p", 1), ("avc", 1)]))]);
    assert_eq!(told(&bench.after(SPARE_INTERVAL)), []);
    bench.says(worker, codecs(session, &["avc", "720p"]));
    assert_eq!(told(&bench.after(SPARE_INTERVAL)), []);
}

/// What a session needs is forgotten with it, and the standby closes what it held for it.
#[test]
fn a_need_ends_with_its_session() {
    let mut bench = measured(settings());
    let (session, worker) = bench.live("a");
    bench.says(worker, codecs(session, &["avc"]));
    let effects = bench.after(SPARE_INTERVAL);
    assert_eq!(told(&effects), [(standby(&bench), list(&[("avc", 1)]))]);
    bench.says(worker, FromWorker::Ended { session, reason: EndReason::PeerClosed });
    let effects = bench.after(SPARE_INTERVAL);
    let body = ToWorker::Spare(Box::default());
    assert!(effects.contains(&Effect::Send { to: standby(&bench), body, fds: Fds::None }));
}

/// A session that has moved counts for its new worker, which need not tell again; so do those that
/// were taken up after a death, for the next standby.
#[test]
fn a_need_survives_a_move_and_a_death() {
    let mut bench = measured(Settings { workers: 1, standby: 2, ..settings() });
    let (session, old) = bench.live("a");
    bench.says(old, codecs(session, &["avc"]));
    bench.after_heard(SPARE_INTERVAL, &[]);
    let worker = Some(bench.core.slots[bench.core.slot_of(old).unwrap()].id.to_string());
    bench.on(Event::Rotate { ticket: 1, worker, reason: String::new(), haste: Haste::Now });
    let to = bench.core.moving().next().expect("a move").1.to;
    bench.says(to, FromWorker::Prepared { session });
    bench.says(to, FromWorker::Adopted { session, at_us: 0 });
    bench.on(Event::OwnerRead { session, owner: Some(Owner::Held(to)) });
    let cut = tasuki_shared::message::CutReport::default();
    bench.says(old, FromWorker::Released { session, cut });
    assert_eq!(bench.core.sessions[&session].generation(), Some(to));
    assert_eq!(told(&bench.after_heard(SPARE_INTERVAL, &[])), [], "the list is the same");
    let last = standby(&bench);
    assert_eq!(last_told(&bench, last).codecs, list(&[("avc", 1)]));

    bench.on(died(old, Death::Exited(0)));
    let effects = bench.on(died(to, Death::Signalled(9)));
    assert_eq!(lease_in(&effects).map(|(to, _)| to), Some(last));
    bench.says(last, FromWorker::Adopted { session, at_us: 0 });
    bench.after_heard(RESCUE_TIME, &[]);
    let next = bench.spawned.last().unwrap().1;
    bench.warm(next);
    assert_eq!(last_told(&bench, next).codecs, list(&[("avc", 1)]));
}

/// A worker is believed of its own live sessions alone, and within bounds; what it had told before
/// stays.
#[test]
fn who_may_tell_and_how_much_is_bounded() {
    let mut bench = measured(settings());
    let (session, worker) = bench.live("a");
    let (lobby, its) = bench.admit();
    let other = standby(&bench);
    bench.says(worker, codecs(session, &["avc"]));
    let most = "x".repeat(CODEC_NEED_BYTES_MAX);
    let too_long = format!("{most}x");
    let many = vec!["avc"; crate::core::spares::NEEDS_MAX];
    let too_many = vec!["avc"; crate::core::spares::NEEDS_MAX + 1];
    let before = bench.core.ignored_frames;
    bench.says(other, codecs(session, &["lie"]));
    bench.says(its, codecs(lobby, &["early"]));
    bench.says(worker, codecs(session, &[&too_long]));
    bench.says(worker, codecs(session, &too_many));
    assert_eq!(bench.core.ignored_frames, before + 4);
    assert_eq!(bench.core.sessions[&session].needs, [need("avc")]);
    bench.says(worker, codecs(session, &[&most]));
    bench.says(worker, codecs(session, &many));
    assert_eq!(bench.core.ignored_frames, before + 4);
    assert_eq!(bench.core.sessions[&session].needs.len(), many.len());
}

/// A list has a bound on its codecs and one on its kinds; both take the most wanted.
#[test]
fn a_list_is_bounded_and_the_most_wanted_come_first() {
    let list_of = |needs: &dyn Fn(usize, usize) -> String| {
        let settings =
            Settings { workers: 1, standby: 1, streams_per_worker: 64, ..Settings::default() };
        let mut bench = measured(settings);
        for n in 0..60 {
            let (session, worker) = bench.live(&format!("s{n}"));
            let needs = (0..7).map(|k| CodecNeed(needs(n, k).into_bytes())).collect();
            bench.says(worker, FromWorker::Codecs { session, needs });
        }
        bench.after_heard(SPARE_INTERVAL, &[]);
        let soft_bytes = bench.core.memory.limits().soft_bytes;
        let list = last_told(&bench, standby(&bench));
        assert_eq!(list.bytes_max, SPARE_BYTES_MAX.min(soft_bytes / SPARE_BYTES_DIVISOR));
        list.codecs
    };
    let codecs = list_of(&|n, k| if k < 4 { format!("all{k}") } else { format!("{n}.{k}") });
    assert_eq!(codecs[..4], list(&[("all0", 60), ("all1", 60), ("all2", 60), ("all3", 60)])[..]);
    assert_eq!(codecs.iter().map(|(_, count)| count).sum::<u32>(), SPARE_CODECS_MAX);
    let codecs = list_of(&|n, k| if k < 1 { "all".into() } else { format!("{n}.{k}") });
    assert_eq!(codecs[0], (need("all"), 60));
    assert_eq!(codecs.len(), SPARE_KINDS_MAX);
}

/// What a suspected stream needs does not reach the worker that takes up the others'.
#[test]
fn a_suspected_stream_has_no_spare_codecs() {
    let mut bench = measured(settings());
    let (session, worker) = bench.live("a");
    bench.says(worker, codecs(session, &["avc"]));
    bench.after(SPARE_INTERVAL);
    bench.core.sessions.get_mut(&session).unwrap().blame.standing =
        crate::core::poison::Standing::Quarantined { since: bench.now, deaths: 0 };
    assert_eq!(told(&bench.after(SPARE_INTERVAL)), [(standby(&bench), vec![])]);
}

/// `spare_codecs = false` tells nobody anything; a reload that turns it off has them closed.
#[test]
fn a_configuration_without_spare_codecs_has_none() {
    let off = Settings { spare_codecs: false, ..settings() };
    let mut bench = measured(off.clone());
    let (session, worker) = bench.live("a");
    bench.says(worker, codecs(session, &["avc"]));
    assert_eq!(told(&bench.after(SPARE_INTERVAL)), []);

    // One that stays a standby: a reload replaces it, so only the settings change here.
    let mut bench = measured(settings());
    let (session, worker) = bench.live("a");
    bench.says(worker, codecs(session, &["avc"]));
    bench.after(SPARE_INTERVAL);
    bench.core.settings.take_run_time(off);
    assert_eq!(told(&bench.after(SPARE_INTERVAL)), [(standby(&bench), vec![])]);
}

/// What a worker says of its spare codecs is shown, and a heartbeat about a session does not touch
/// it.
#[test]
fn the_status_says_how_many_a_worker_holds() {
    let mut bench = measured(settings());
    let (session, worker) = bench.live("a");
    let own = |spare_codecs| tasuki_shared::message::Heartbeat {
        session: None,
        lobby: 0,
        allocator: None,
        spare_codecs,
    };
    bench.says(worker, FromWorker::Heartbeat(Box::new(own(7))));
    let of_session = tasuki_shared::status::SessionStatus {
        id: session.to_string(),
        ..tasuki_shared::status::SessionStatus::default()
    };
    let heartbeat = tasuki_shared::message::Heartbeat { session: Some(of_session), ..own(0) };
    bench.says(worker, FromWorker::Heartbeat(Box::new(heartbeat)));
    let status = bench.core.status(bench.now);
    let of_worker = status.workers.iter().find(|it| it.generation == worker.0).unwrap();
    assert_eq!(of_worker.spare_codecs, 7);
}
