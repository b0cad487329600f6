//! Processes that hang, and those that only look like it.

use super::*;
use tasuki_shared::message::{Stalled, StalledPart};
use tasuki_shared::threads::{Doing, Look};

const MS: Duration = Duration::from_millis(1);

fn kills(effects: &[Effect], generation: Generation) -> bool {
    effects.contains(&Effect::Kill { generation })
}

impl Bench {
    /// A tick in which everybody but this one says something.
    fn tick_without(&mut self, silent: Generation) -> Vec<Effect> {
        for (_, generation) in self.spawned.clone() {
            if generation != silent {
                self.says(generation, FromWorker::Progress { stalled: vec![] });
            }
        }
        self.after(100 * MS)
    }

    fn silence_of(&mut self, silent: Generation) {
        let heard = self.now;
        while !kills(&self.tick_without(silent), silent) {
            assert!(self.now < heard + 2 * HANG_DEADLINE, "never");
        }
    }
}

fn thread(doing: Doing, ran: Duration, queued: Duration) -> Looks {
    Looks::from([(1, Look { doing, ran, queued, major_faults: 0 })])
}

/// Whoever stands still is killed after the deadline and not before, and what it had waits for its
/// end.
#[test]
fn a_process_that_stands_still_is_killed_at_the_deadline() {
    let mut bench = Bench::ready(Settings { workers: 1, ..settings() });
    let (session, worker) = bench.live("a");
    let heard = bench.now;
    bench.silence_of(worker);
    assert!(bench.now >= heard + HANG_DEADLINE, "after {:?}", bench.now - heard);
    assert!(bench.now <= heard + HANG_DEADLINE + 200 * MS, "after {:?}", bench.now - heard);
    let effects = bench.on(died(worker, Death::Signalled(9)));
    let (to, lease) = lease_in(&effects).unwrap();
    assert!(to != worker && lease.session == session);
    let status = bench.core.status(bench.now);
    assert_eq!(status.deaths[0].cause, "killed by us: it hung");
    let found = &status.deaths[0].sessions[0];
    assert_eq!((found.name.as_str(), found.outcome.starts_with('w')), ("a", true), "{found:?}");
}

/// A machine that gives a process no processor kills nobody, however long; the same silence of a
/// process that has had it, and of one that spins, is a hang.
#[test]
fn want_of_processor_is_no_hang_and_spinning_is_one() {
    for (spins, dies) in [(false, false), (true, true)] {
        let mut bench = Bench::ready(Settings { workers: 1, ..settings() });
        let (_, worker) = bench.live("a");
        let mut killed = false;
        for round in 0..600_u32 {
            let ran = if spins { 50 * MS * round } else { Duration::ZERO };
            bench.threads = thread(Doing::Runs, ran, Duration::ZERO);
            killed |= kills(&bench.after(100 * MS), worker);
        }
        assert_eq!(killed, dies, "spins: {spins}");
        // It got the processor now and then, and spent the rest in the queue.
        if !spins {
            bench.threads = thread(Doing::Waits, 5 * MS, 60 * SECOND);
            assert!(!kills(&bench.after(100 * MS), worker));
        }
    }
}

/// Any word ends a suspicion, so one that is slow and moves is never killed.
#[test]
fn a_process_that_says_something_now_and_then_lives() {
    let mut bench = Bench::ready(Settings { workers: 1, ..settings() });
    let (_, worker) = bench.live("a");
    for _ in 0..20 {
        for _ in 0..3 {
            assert!(!kills(&bench.after(HANG_DEADLINE / 4), worker));
        }
        bench.says(worker, FromWorker::Progress { stalled: vec![] });
    }
}

/// A worker tells of a codec that stands; it is killed for it once that is as long as the deadline,
/// and never for a session that is not its own.
#[test]
fn a_session_that_stands_costs_its_worker_its_life_at_the_deadline() {
    let mut bench = Bench::ready(settings());
    let (session, worker) = bench.live("a");
    let (other, _) = bench.live("b");
    let deadline_ms = u32::try_from(HANG_DEADLINE.as_millis()).unwrap();
    let stalled = |session, for_ms| FromWorker::Progress {
        stalled: vec![Stalled { session, what: StalledPart::Pipeline, for_ms }],
    };
    assert!(!kills(&bench.says(worker, stalled(session, deadline_ms - 1)), worker));
    assert_eq!(bench.core.status(bench.now).sessions[0].stalled_ms, u64::from(deadline_ms) - 1);
    assert!(!kills(&bench.says(worker, stalled(other, deadline_ms)), worker));
    assert_eq!(bench.core.ignored_frames, 1);
    assert!(kills(&bench.says(worker, stalled(session, deadline_ms)), worker));
}

/// A process that the kernel does not let go keeps its sessions for itself: nobody else reads what
/// it may still read. Its threads are named. Gone at last, it leaves them as any other does.
#[test]
fn a_process_that_outlives_its_kill_is_named_and_its_sessions_wait_for_its_end() {
    let mut bench = Bench::ready(Settings { workers: 1, ..settings() });
    let (session, worker) = bench.live("a");
    bench.silence_of(worker);
    let killed = bench.now;
    let mut effects = Vec::new();
    while bench.now <= killed + REAP_DEADLINE {
        effects.extend(bench.tick_without(worker));
    }
    assert!(effects.contains(&Effect::NameStuckThreads { generation: worker }));
    assert!(!closes(&effects, session) && lease_in(&effects).is_none());
    let threads = "record (D) in fuse".to_owned();
    bench.on(Event::StuckThreadsNamed { generation: worker, threads });
    let status = bench.core.status(bench.now);
    let state = &status.workers.iter().find(|w| w.generation == worker.0).unwrap().state;
    assert_eq!(state, "stuck: record (D) in fuse");
    let standby = bench.core.sessions[&session].generation();
    assert_eq!(standby, Some(worker), "nobody else has it");
    let effects = bench.on(died(worker, Death::Signalled(9)));
    assert_eq!(lease_in(&effects).unwrap().1.session, session);
}

#[test]
fn the_sessions_of_a_process_that_outlives_its_kill_do_not_wait_for_ever() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 0, ..settings() });
    let (session, worker) = bench.live("a");
    assert!(kills(&bench.silence(), worker));
    assert!(!closes(&bench.after(REAP_DEADLINE), session));
    let effects = bench.after(UNKILLABLE_DEADLINE);
    assert!(closes(&effects, session), "nobody else may have what it may still read");
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Send { .. })));
}

/// A server that leaves waits for no process that outlives its kill.
#[test]
fn a_server_that_leaves_does_not_wait_for_who_cannot_be_killed() {
    let mut bench = Bench::ready(Settings { workers: 1, standby: 0, ..settings() });
    let (session, worker) = bench.live("a");
    assert!(kills(&bench.silence(), worker));
    bench.after(REAP_DEADLINE);
    bench.on(Event::Terminate);
    let effects = bench.after(100 * MS);
    assert!(closes(&effects, session));
    // The dialer, silent as well, is as dead.
    assert!(effects.contains(&Effect::Leave(tasuki_shared::exit::Exit::Done)));
}

/// A session of somebody else's in front of the list hides none that stands.
#[test]
fn a_word_about_anothers_session_hides_no_hang() {
    let mut bench = Bench::ready(Settings { workers: 2, ..settings() });
    let (foreign, _) = bench.live("a");
    let (own, worker) = bench.live("b");
    let stands = |session| Stalled { session, what: StalledPart::Pipeline, for_ms: u32::MAX };
    let alone = vec![stands(foreign)];
    assert!(!kills(&bench.says(worker, FromWorker::Progress { stalled: alone }), worker));
    let both = vec![stands(foreign), stands(own)];
    assert!(kills(&bench.says(worker, FromWorker::Progress { stalled: both }), worker));
}
