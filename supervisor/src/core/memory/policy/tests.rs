use super::*;
use tasuki_shared::limits::RECYCLE_RETRY;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: Duration = Duration::from_secs(1);
const WORKER: Generation = Generation(1);
const HOST: HostMemory = HostMemory {
    total_bytes: 8 * GIB,
    available_bytes: 6 * GIB,
    stalled_some_percent: 0.0,
    stalled_full_percent: 0.0,
};

/// Soft 400 MiB, hard 600 MiB.
fn rules() -> Memory {
    Memory {
        soft: tasuki_shared::config::Amount::Bytes(400 * MIB),
        hard: tasuki_shared::config::Amount::Bytes(600 * MIB),
        ..Memory::default()
    }
}

/// One policy over workers that answer a purge at once and are measured every two seconds.
struct Bench {
    policy: Policy,
    now: Duration,
    host: HostMemory,
    looks: Vec<Look>,
    alarms: usize,
}

impl Bench {
    fn new(rules: Memory) -> Self {
        let policy = Policy::new(rules, 2, 8);
        let looks = vec![look(WORKER)];
        Self { policy, now: SECOND, host: HOST, looks, alarms: 0 }
    }

    /// Rounds for so long; `shape` says what each worker holds and keeps. The first wish for a
    /// recycle ends it.
    fn run(&mut self, rounds: u64, shape: impl Fn(u64, &mut Sample)) -> Option<Wish> {
        for round in 0..rounds {
            self.now += 2 * SECOND;
            for look in &mut self.looks {
                shape(round, &mut look.sample);
            }
            for wish in self.policy.sampled(self.now, self.host, &self.looks) {
                match wish {
                    Wish::Purge(generation) => {
                        self.policy.purged(self.now + SECOND, generation);
                    }
                    Wish::Alarm { .. } => self.alarms += 1,
                    Wish::Recycle { .. } => return Some(wish),
                }
            }
        }
        None
    }

    fn hold(&mut self, rounds: u64, bytes: u64) -> Option<Wish> {
        self.run(rounds, |_, sample| sample.footprint_bytes = bytes)
    }

    fn verdict(&self) -> Verdict {
        self.policy.verdict(WORKER).unwrap()
    }
}

fn look(generation: Generation) -> Look {
    Look {
        generation,
        duty: Duty::Serves,
        since: SECOND,
        sessions: 2,
        sample: Sample::default(),
        spare_bytes_max: 0,
    }
}

fn reason(wish: Option<Wish>) -> (RecycleReason, Haste) {
    match wish {
        Some(Wish::Recycle { reason, haste, .. }) => (reason, haste),
        other @ (Some(Wish::Purge(_) | Wish::Alarm { .. }) | None) => panic!("{other:?}"),
    }
}

#[test]
fn a_worker_over_its_soft_limit_is_recycled_after_so_many_points() {
    let mut bench = Bench::new(rules());
    assert_eq!(bench.hold(300, 100 * MIB), None);
    assert_eq!(bench.verdict(), Verdict::Fine);
    // What is asked for must be measured later: three points take more than three rounds.
    assert_eq!(bench.hold(3, 450 * MIB), None);
    assert_eq!(bench.verdict(), Verdict::Purging);
    let wish = bench.hold(5, 450 * MIB);
    assert_eq!(reason(wish), (RecycleReason::MemorySoft, Haste::Scheduled));
    assert_eq!(bench.verdict(), Verdict::Recycle);
}

/// Whoever measures is told when it matters: after a purge, and above the limit.
#[test]
fn a_purge_and_a_worker_over_its_limit_wait_for_a_measurement() {
    let mut bench = Bench::new(rules());
    bench.hold(1, 100 * MIB);
    assert!(!bench.policy.awaits_measurement(WORKER));
    let purges = (0..20).any(|_| {
        bench.hold(1, 100 * MIB);
        bench.policy.awaits_measurement(WORKER)
    });
    assert!(purges);
    bench.hold(300, 100 * MIB);
    bench.hold(1, 450 * MIB);
    assert!(bench.policy.awaits_measurement(WORKER));
}

#[test]
fn a_worker_at_its_hard_limit_leaves_at_once_and_at_any_price() {
    let mut bench = Bench::new(rules());
    bench.hold(60, 100 * MIB);
    let wish = bench.hold(3, 700 * MIB);
    assert_eq!(reason(wish), (RecycleReason::MemoryHard, Haste::AtAnyPrice));
    assert_eq!(bench.verdict(), Verdict::Evacuate);
}

#[test]
fn steady_growth_is_recycled_before_it_gets_to_the_limit() {
    let mut bench = Bench::new(rules());
    // 30 MiB a minute from 100 MiB: there in ten minutes.
    let wish = bench.run(400, |n, sample| sample.footprint_bytes = (100 + n) * MIB);
    assert_eq!(reason(wish).0, RecycleReason::TimeToLimit);
    let held = bench.looks[0].sample.footprint_bytes / MIB;
    assert!((300..400).contains(&held), "{held} MiB");
    let status = bench.policy.status(WORKER).unwrap();
    assert!((500_000.0..550_000.0).contains(&status.slope_bytes_per_s), "{status:?}");
    assert!(status.time_to_limit_ms.unwrap() < 150_000);
}

#[test]
fn lazily_freed_pages_and_what_a_purge_returns_recycle_nobody() {
    let mut bench = Bench::new(rules());
    let wish = bench.run(1000, |n, sample| {
        sample.footprint_bytes = 100 * MIB;
        sample.lazy_free_bytes = n * 10 * MIB;
        sample.rss_bytes = sample.footprint_bytes + sample.lazy_free_bytes;
    });
    assert_eq!((wish, bench.verdict()), (None, Verdict::Fine));
}

#[test]
fn a_step_that_rests_below_the_limit_recycles_nobody() {
    let mut bench = Bench::new(rules());
    bench.hold(300, 100 * MIB);
    assert_eq!(bench.hold(1000, 380 * MIB), None);
    assert_eq!(bench.verdict(), Verdict::Watch);
}

#[test]
fn a_worker_born_over_its_limit_stays_and_is_told_of_once() {
    let mut bench = Bench::new(rules());
    assert_eq!(bench.hold(1000, 450 * MIB), None);
    assert_eq!((bench.verdict(), bench.alarms), (Verdict::HeldBack(Hold::BornOver), 1));
    assert_eq!(bench.verdict().to_string(), "held back: born over its limit");
    // A quarter more at the hard limit has come on top and would go away.
    assert_eq!(reason(bench.hold(10, 610 * MIB)).0, RecycleReason::MemoryHard);
    let mut bench = Bench::new(rules());
    assert_eq!(bench.hold(1000, 650 * MIB), None, "born over the hard limit as well");
    assert_eq!(bench.alarms, 1);
}

/// One that grows while it stands by is replaced when it is old enough, out of no budget; one that
/// grew a little and serves now is judged by what a fresh one would hold.
#[test]
fn growth_while_standing_by_is_seen_and_is_no_birth_over_the_limit() {
    let mut bench = Bench::new(Memory { budget: 0, ..rules() });
    bench.looks[0].duty = Duty::StandsBy;
    bench.looks[0].sessions = 0;
    let grows = |n, sample: &mut Sample| sample.footprint_bytes = (20 + 2 * n) * MIB;
    assert_eq!(bench.run(60, grows), None);
    assert_eq!(bench.verdict(), Verdict::HeldBack(Hold::TooYoung));
    let wish = bench.run(400, |_, sample| sample.footprint_bytes = 140 * MIB);
    assert_eq!(reason(wish), (RecycleReason::MemorySoft, Haste::Scheduled));
    let lived = bench.now - bench.looks[0].since;
    assert!(lived >= rules().min_life, "{lived:?}");

    let mut bench = Bench::new(rules());
    bench.looks[0].duty = Duty::StandsBy;
    bench.run(40, grows);
    bench.looks[0].duty = Duty::Serves;
    let wish = bench.hold(400, 410 * MIB);
    assert_eq!((reason(wish).0, bench.alarms), (RecycleReason::MemorySoft, 0));
}

/// Spare codecs are no growth of one that stands by. When it serves they are what any other would
/// hold for the same streams, so they are part of what it was born with.
#[test]
fn what_a_standby_was_told_to_hold_is_no_growth() {
    let holds = |n: u64, sample: &mut Sample| {
        sample.footprint_bytes = if n < 5 { 30 * MIB } else { 130 * MIB };
    };
    for (spare_bytes_max, is_replaced) in [(0, true), (100 * MIB, false)] {
        let mut bench = Bench::new(rules());
        bench.looks[0].duty = Duty::StandsBy;
        bench.looks[0].sessions = 0;
        bench.looks[0].spare_bytes_max = spare_bytes_max;
        assert_eq!(bench.run(1000, holds).is_some(), is_replaced);
    }
    let mut bench = Bench::new(rules());
    bench.looks[0].spare_bytes_max = 100 * MIB;
    bench.looks[0].duty = Duty::StandsBy;
    bench.run(40, holds);
    bench.looks[0].duty = Duty::Serves;
    // What is not taken is closed soon: the step down is no slope.
    assert_eq!(bench.hold(3, 390 * MIB), None);
    assert_eq!(bench.hold(400, 280 * MIB), None);
    assert_eq!((bench.verdict(), bench.alarms), (Verdict::Fine, 0));
    let needs = bench.policy.subjects[&WORKER].needs();
    assert_eq!(needs, 280 * MIB, "a fresh one will hold as much");
}

#[test]
fn the_young_the_poor_and_the_cramped_are_held_back_by_name() {
    let over = |bench: &mut Bench| {
        bench.hold(60, 100 * MIB);
        bench.hold(60, 450 * MIB)
    };
    let mut young = Bench::new(rules());
    assert_eq!((over(&mut young), young.verdict()), (None, Verdict::HeldBack(Hold::TooYoung)));
    let mut cramped = Bench::new(rules());
    cramped.hold(200, 100 * MIB);
    cramped.host.available_bytes = 50 * MIB;
    let no_pressure = Memory { host_pressure: None, ..rules() };
    cramped.policy.rules = no_pressure.clone();
    assert_eq!((over(&mut cramped), cramped.verdict()), (None, Verdict::HeldBack(Hold::NoRoom)));
    let mut off = Bench::new(Memory { recycle: Recycling::Off, ..rules() });
    off.hold(200, 100 * MIB);
    assert_eq!((over(&mut off), off.verdict()), (None, Verdict::HeldBack(Hold::Off)));
    // A budget of one for two processes: two, less the quarter that is kept.
    let mut poor = Bench::new(Memory { budget: 2, ..rules() });
    poor.hold(200, 100 * MIB);
    for n in 0..3 {
        assert!(over(&mut poor).is_some(), "{n}");
        poor.policy.granted(poor.now, WORKER, &RecycleReason::MemorySoft);
        poor.now += RECYCLE_RETRY * 8;
    }
    assert_eq!((over(&mut poor), poor.verdict()), (None, Verdict::HeldBack(Hold::Budget)));
    assert_eq!(reason(poor.hold(10, 700 * MIB)).0, RecycleReason::MemoryHard, "the last quarter");
}

#[test]
fn under_the_hosts_pressure_the_one_that_frees_most_goes_first() {
    let mut bench = Bench::new(rules());
    bench.looks.push(look(Generation(2)));
    let grown = |n: u64, sample: &mut Sample| sample.footprint_bytes = (100 + n / 8) * MIB;
    bench.hold(200, 100 * MIB);
    bench.run(1200, |n, sample| grown(n.min(600), sample));
    bench.host.available_bytes = 300 * MIB;
    let larger = Generation(2);
    bench.looks[1].sample.footprint_bytes += 50 * MIB;
    let looks = bench.looks.clone();
    let mut found = None;
    for _ in 0..40 {
        bench.now += 2 * SECOND;
        for wish in bench.policy.sampled(bench.now, bench.host, &looks) {
            match wish {
                Wish::Purge(generation) => bench.policy.purged(bench.now + SECOND, generation),
                Wish::Recycle { generation, reason, .. } => found = Some((generation, reason)),
                Wish::Alarm { .. } => {}
            }
        }
    }
    assert_eq!(found, Some((larger, RecycleReason::HostPressure)));
    // What has not grown frees nothing.
    let mut idle = Bench::new(rules());
    idle.hold(200, 100 * MIB);
    idle.host.available_bytes = 300 * MIB;
    assert_eq!(idle.hold(200, 100 * MIB), None);
}

#[test]
fn age_sessions_threads_and_files_have_limits_of_their_own() {
    let rules = Memory { max_sessions: Some(3), ..rules() };
    let mut bench = Bench::new(rules.clone());
    bench.hold(5, 100 * MIB);
    for _ in 0..3 {
        bench.policy.took_session(WORKER);
    }
    assert_eq!(reason(bench.hold(1, 100 * MIB)).0, RecycleReason::Sessions);
    let mut bench = Bench::new(rules.clone());
    let wish = bench.run(5, |_, sample| sample.threads = 10_000);
    assert_eq!(reason(wish).0, RecycleReason::Threads);
    let mut bench = Bench::new(rules.clone());
    assert_eq!(bench.run(2, |_, sample| sample.fds = 10_000), None, "not for so many samples");
    let wish = bench.run(2, |_, sample| sample.fds = 10_000);
    assert_eq!(reason(wish).0, RecycleReason::Fds);
    let mut bench = Bench::new(rules);
    bench.now = Duration::from_secs(8 * 86_400);
    assert_eq!(reason(bench.hold(2, 100 * MIB)).0, RecycleReason::Age);
}

#[test]
fn a_worker_that_answers_no_purge_is_measured_as_it_is() {
    let mut policy = Policy::new(rules(), 2, 8);
    let mut mute = look(WORKER);
    let mut found = false;
    for round in 0..400_u32 {
        mute.sample.footprint_bytes = if round < 300 { 100 * MIB } else { 450 * MIB };
        let wishes = policy.sampled(2 * round * SECOND, HOST, &[mute]);
        found |= wishes.iter().any(|wish| matches!(wish, Wish::Recycle { .. }));
    }
    assert!(found);
}
