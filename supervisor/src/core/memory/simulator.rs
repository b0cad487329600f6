//! The policy over many lives: workers that leak steadily, in steps, with the day, lazily, or
//! that are born over their limit, on a machine with more and less room, and a model of
//! recycling that is slow and sometimes fails.
//!
//! The model knows what each worker really holds; the policy only sees measurements, some of them
//! old, with memory on top that a purge would return, and purges that are answered late.
//!
//! | invariant | |
//! |---|---|
//! | bound | nobody stays at the hard limit, nor over the soft one, while it could be recycled |
//! | budget | recycles for memory in a window are at most the budget's |
//! | no ping-pong | nobody is recycled for memory in its youth, except from the hard limit |
//! | need | nobody is recycled for memory who would not pass the soft limit |
//! | room | a recycle begins only where a second worker fits |
//! | born over | it is told of once in a life, and not recycled |

use super::super::event::Sample;
use super::super::rotation::RecycleReason;
use super::HostMemory;
use super::policy::{Duty, Look, Policy, Rule, Wish};
use std::collections::VecDeque;
use std::time::Duration;
use tasuki_shared::config::{Amount, Memory};
use tasuki_shared::id::Generation;
use tasuki_shared::limits::SETTLE_TIME;

const MIB: u64 = 1 << 20;
const SOFT: u64 = 300 * MIB;
const HARD: u64 = 450 * MIB;
const TOTAL: u64 = 16 << 30;
/// So long that the hard limit is reached in it.
const MIN_LIFE: Duration = Duration::from_secs(900);
const WINDOW: Duration = Duration::from_secs(3600);
/// Measurements every two to twenty seconds, each fifth of them an old one, and purges that are
/// answered late: that long until the policy must have seen what is there.
const REACTION: Duration = Duration::from_secs(240);
const INTERVAL_S_MAX: u64 = 20;

/// Every rule that can be taken out.
pub const RULES: [Rule; 10] = [
    Rule::SoftLimit,
    Rule::HardLimit,
    Rule::Purge,
    Rule::LazyFree,
    Rule::RobustSlope,
    Rule::MinimumLife,
    Rule::Budget,
    Rule::Room,
    Rule::BornOver,
    Rule::AlarmOnce,
];

/// What happened in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Measurements of one worker, purges, recycles begun and ended.
    pub events: u64,
    pub recycles: u64,
    pub evacuations: u64,
    pub alarms: u64,
}

/// One run of so many rounds; `removed` is a rule that the policy lacks.
pub fn run(seed: u64, rounds: u32, removed: Option<Rule>) -> Result<Tally, String> {
    let mut world = World::new(seed, removed);
    for _ in 0..rounds {
        world.round().map_err(|broken| format!("seed {seed}: {broken}"))?;
    }
    Ok(world.tally)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.draw() % (most - least + 1)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.draw() % 100 < chance
    }
}

/// How a worker's memory grows with its age.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Steady { bytes_per_minute: u64 },
    Step { bytes: u64, at: Duration },
    Daily { bytes: u64, day: Duration },
    LazyFree { bytes_per_minute: u64 },
    BornOver { bytes: u64 },
}

#[derive(Debug)]
struct Worker {
    generation: Generation,
    shape: Shape,
    base: u64,
    born: Duration,
    /// What a purge would return.
    dirty: u64,
    /// Purged and not measured since.
    is_clean: bool,
    seen: Option<(Duration, Sample)>,
    /// When a purge will be answered.
    purge_at: Option<Duration>,
    over_soft: Option<Duration>,
    at_hard: Option<Duration>,
    alarms: u64,
}

#[derive(Debug)]
struct Recycle {
    place: usize,
    until: Duration,
}

struct World {
    chance: Chance,
    policy: Policy,
    budget: usize,
    now: Duration,
    workers: Vec<Worker>,
    next_generation: u32,
    recycle: Option<Recycle>,
    spent: VecDeque<Duration>,
    available: u64,
    /// When a recycle last could not be had for want of room, budget or another one's end.
    excused: Duration,
    cramped: u64,
    tally: Tally,
}

impl World {
    fn new(seed: u64, removed: Option<Rule>) -> Self {
        let mut chance = Chance(seed);
        let slots = chance.between(1, 4);
        let budget = chance.between(1, 4);
        let pressure = chance.percent(20);
        let rules = Memory {
            soft: Amount::Bytes(SOFT),
            hard: Amount::Bytes(HARD),
            min_life: MIN_LIFE,
            window: WINDOW,
            budget: u32::try_from(budget).unwrap_or(u32::MAX),
            max_age: None,
            host_pressure: pressure.then_some(Amount::Auto),
            ..Memory::default()
        };
        let processes = slots + 1;
        let policy = Policy::new(rules, u32::try_from(processes).unwrap_or(u32::MAX), 8);
        let policy = match removed {
            Some(rule) => policy.without(rule),
            None => policy,
        };
        let mut world = Self {
            policy,
            budget: usize::try_from(budget * processes).unwrap_or(usize::MAX),
            now: Duration::from_secs(1),
            workers: Vec::new(),
            next_generation: 1,
            recycle: None,
            spent: VecDeque::new(),
            available: TOTAL / 2,
            excused: Duration::ZERO,
            // Percent of the rounds in which the machine becomes or stays full.
            cramped: if chance.percent(30) { chance.between(1, 60) } else { 0 },
            chance,
            tally: Tally::default(),
        };
        for _ in 0..slots {
            let (shape, base) = (world.draw_shape(), world.chance.between(40, 120) * MIB);
            let worker = world.spawn(shape, base);
            world.workers.push(worker);
        }
        world
    }

    fn draw_shape(&mut self) -> Shape {
        let minutes = |m| Duration::from_secs(60 * m);
        let chance = &mut self.chance;
        match chance.between(0, 5) {
            0 | 1 => Shape::Steady { bytes_per_minute: chance.between(1, 60) * MIB },
            2 => Shape::Step {
                bytes: chance.between(50, 170) * MIB,
                at: minutes(chance.between(2, 60)),
            },
            3 => Shape::Daily {
                bytes: chance.between(20, 140) * MIB,
                day: minutes(chance.between(60, 300)),
            },
            4 => Shape::LazyFree { bytes_per_minute: chance.between(1, 500) * MIB },
            _ => Shape::BornOver { bytes: chance.between(310, 600) * MIB },
        }
    }

    fn spawn(&mut self, shape: Shape, base: u64) -> Worker {
        let generation = Generation(self.next_generation);
        self.next_generation += 1;
        Worker {
            generation,
            shape,
            base,
            born: self.now,
            dirty: 0,
            is_clean: false,
            seen: None,
            purge_at: None,
            over_soft: None,
            at_hard: None,
            alarms: 0,
        }
    }

    fn round(&mut self) -> Result<(), String> {
        self.now += Duration::from_secs(self.chance.between(2, INTERVAL_S_MAX));
        self.answer_purges();
        self.end_recycle();
        let cramped = self.cramped > 0 && self.chance.percent(self.cramped);
        let most = if cramped { 700 * MIB } else { TOTAL / 2 };
        self.available = if cramped { self.chance.between(0, most) } else { most };
        while self.spent.front().is_some_and(|at| *at + WINDOW <= self.now) {
            self.spent.pop_front();
        }
        if self.recycle.is_some() || cramped || self.spent.len() >= self.budget - self.budget / 4 {
            self.excused = self.now;
        }
        let looks = self.measure();
        self.tally.events += u64::try_from(looks.len()).unwrap_or(0);
        let host = HostMemory {
            total_bytes: TOTAL,
            available_bytes: self.available,
            ..HostMemory::default()
        };
        for wish in self.policy.sampled(self.now, host, &looks) {
            match wish {
                Wish::Purge(generation) => self.asked_to_purge(generation),
                Wish::Alarm { generation, .. } => self.alarmed(generation)?,
                Wish::Recycle { generation, reason, .. } => self.asked(generation, &reason)?,
            }
        }
        self.check_bounds()
    }

    fn measure(&mut self) -> Vec<Look> {
        let (now, chance) = (self.now, &mut self.chance);
        let mut looks = Vec::with_capacity(self.workers.len());
        for worker in &mut self.workers {
            // What is unused is given back within a second or two anyway; a purge is looked at soon.
            let grown = if worker.is_clean { 4 } else { 100 };
            worker.dirty = (worker.dirty + chance.between(0, grown) * MIB).min(500 * MIB);
            let is_old = worker.seen.is_some() && chance.percent(20);
            if !is_old {
                let noise = chance.between(0, 2 * MIB);
                let sample = Sample {
                    footprint_bytes: worker.held(now) + worker.dirty + noise,
                    lazy_free_bytes: worker.lazy(now),
                    ..Sample::default()
                };
                worker.seen = Some((now, sample));
                worker.is_clean = false;
            }
            let Some((at, sample)) = worker.seen else { continue };
            looks.push(Look {
                generation: worker.generation,
                duty: Duty::Serves,
                since: worker.born,
                sessions: 2,
                sample: Sample { measured_ago: now - at, ..sample },
                spare_bytes_max: 0,
            });
        }
        looks
    }

    fn asked_to_purge(&mut self, generation: Generation) {
        self.tally.events += 1;
        let delay = match self.chance.between(0, 9) {
            // The worker has other things to do first.
            0 => Duration::from_secs(14),
            1 => Duration::from_secs(6),
            _ => Duration::from_millis(50),
        };
        let at = self.now + delay;
        if let Some(worker) = self.workers.iter_mut().find(|w| w.generation == generation) {
            // Asked again, it answers no later for that.
            worker.purge_at = Some(worker.purge_at.map_or(at, |before| before.min(at)));
        }
    }

    fn answer_purges(&mut self) {
        for worker in &mut self.workers {
            if let Some(at) = worker.purge_at.filter(|at| *at <= self.now) {
                worker.purge_at = None;
                (worker.dirty, worker.is_clean) = (0, true);
                self.policy.purged(at, worker.generation);
                self.tally.events += 1;
            }
        }
    }

    fn alarmed(&mut self, generation: Generation) -> Result<(), String> {
        self.tally.alarms += 1;
        let worker = self.workers.iter_mut().find(|w| w.generation == generation);
        let worker = worker.ok_or("an alarm for nobody")?;
        worker.alarms += 1;
        match worker.shape {
            Shape::BornOver { .. } if worker.alarms == 1 => Ok(()),
            Shape::BornOver { .. } => Err(format!("alarmed again: {worker:?}")),
            Shape::Steady { .. }
            | Shape::Step { .. }
            | Shape::Daily { .. }
            | Shape::LazyFree { .. } => Err(format!("not born over: {worker:?}")),
        }
    }

    fn asked(&mut self, generation: Generation, reason: &RecycleReason) -> Result<(), String> {
        let place = self.workers.iter().position(|w| w.generation == generation);
        let place = place.ok_or("a recycle of nobody")?;
        if self.recycle.is_some() {
            self.policy.refused(generation);
            return Ok(());
        }
        self.check_recycle(place, reason)?;
        self.policy.granted(self.now, generation, reason);
        self.spent.push_back(self.now);
        self.tally.events += 1;
        self.tally.recycles += 1;
        self.tally.evacuations += u64::from(*reason == RecycleReason::MemoryHard);
        let until = self.now + Duration::from_secs(self.chance.between(1, 30));
        self.recycle = Some(Recycle { place, until });
        if self.spent.len() > self.budget {
            return Err(format!("{} recycles, budget {}", self.spent.len(), self.budget));
        }
        Ok(())
    }

    fn check_recycle(&self, place: usize, reason: &RecycleReason) -> Result<(), String> {
        let worker = &self.workers[place];
        let age = self.now - worker.born;
        let is_hard = *reason == RecycleReason::MemoryHard;
        if age < MIN_LIFE && !is_hard {
            return Err(format!("ping-pong: {reason:?} after {age:?}: {worker:?}"));
        }
        if self.available < worker.base / 2 {
            let available = self.available / MIB;
            return Err(format!("no room: {available} MiB for {worker:?}"));
        }
        match (worker.shape, reason) {
            (Shape::BornOver { .. }, _) => Err(format!("born over, {reason:?}: {worker:?}")),
            (Shape::Steady { .. }, _) => Ok(()),
            (Shape::Step { .. } | Shape::Daily { .. }, RecycleReason::HostPressure)
                if worker.held(self.now) > worker.base + 16 * MIB =>
            {
                Ok(())
            }
            (Shape::Step { .. } | Shape::Daily { .. } | Shape::LazyFree { .. }, _) => {
                Err(format!("no need, {reason:?} at {age:?}: {worker:?}"))
            }
        }
    }

    fn end_recycle(&mut self) {
        let Some(Recycle { place, .. }) = self.recycle.take_if(|r| r.until <= self.now) else {
            return;
        };
        self.excused = self.now;
        self.tally.events += 1;
        // A hand-off can fail; the old worker goes on.
        if !self.chance.percent(5) {
            let (shape, base) = (self.workers[place].shape, self.workers[place].base);
            self.workers[place] = self.spawn(shape, base);
        } else {
            // It is asked for again only after a pause.
            self.excused = self.now + Duration::from_secs(600);
        }
    }

    /// Nobody may be over a limit for long while a recycle could be had.
    fn check_bounds(&mut self) -> Result<(), String> {
        let (now, excused) = (self.now, self.excused);
        for worker in &mut self.workers {
            let held = worker.held(now);
            let since = |limit, before: Option<Duration>| {
                (held >= limit).then(|| before.unwrap_or(now).max(excused.min(now)))
            };
            worker.over_soft = since(SOFT, worker.over_soft);
            worker.at_hard = since(HARD, worker.at_hard);
            if let Shape::BornOver { .. } = worker.shape {
                let told_by = worker.born + SETTLE_TIME + REACTION;
                if now > told_by && worker.alarms == 0 {
                    return Err(format!("nobody was told: {worker:?}"));
                }
                continue;
            }
            if excused > now {
                continue;
            }
            // Several may have to go, one after another: each gets its time.
            let settled = worker.born + SETTLE_TIME + REACTION;
            if worker.at_hard.is_some_and(|at| now > at.max(settled) + REACTION) {
                return Err(format!("stays at the hard limit at {now:?}: {worker:?}"));
            }
            let grown_up = worker.born + MIN_LIFE.mul_f64(1.25);
            if worker.over_soft.is_some_and(|at| now > at.max(grown_up) + REACTION) {
                return Err(format!("stays over the soft limit at {now:?}: {worker:?}"));
            }
        }
        Ok(())
    }
}

impl Worker {
    /// What stays after a purge.
    fn held(&self, now: Duration) -> u64 {
        let age = now - self.born;
        match self.shape {
            Shape::Steady { bytes_per_minute } => self.base + bytes_per_minute * age.as_secs() / 60,
            Shape::Step { bytes, at } if age >= at => self.base + bytes,
            Shape::Step { .. } | Shape::LazyFree { .. } => self.base,
            Shape::Daily { bytes, day } => {
                // A parabola for each half of the day, which is a sine near enough.
                let half = (day.as_secs() / 2).max(1);
                let (n, of) = (age.as_secs() / half, age.as_secs() % half);
                let hump = 4 * (bytes / 2) / half * of / half * (half - of);
                let middle = self.base + bytes / 2;
                if n.is_multiple_of(2) { middle + hump } else { middle - hump.min(bytes / 2) }
            }
            Shape::BornOver { bytes } => bytes,
        }
    }

    fn lazy(&self, now: Duration) -> u64 {
        match self.shape {
            Shape::LazyFree { bytes_per_minute } => {
                bytes_per_minute * (now - self.born).as_secs() / 60
            }
            Shape::Steady { .. }
            | Shape::Step { .. }
            | Shape::Daily { .. }
            | Shape::BornOver { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: u32 = 500;

    #[test]
    fn the_invariants_hold_over_many_lives() {
        let mut total = Tally::default();
        for seed in 0..150 {
            let tally = run(seed, ROUNDS, None).unwrap();
            total.events += tally.events;
            total.recycles += tally.recycles;
            total.evacuations += tally.evacuations;
            total.alarms += tally.alarms;
        }
        // Otherwise the invariants hold because nothing happens.
        assert!(total.recycles > 200 && total.evacuations > 10 && total.alarms > 30, "{total:?}");
    }

    #[test]
    fn a_policy_that_lacks_a_rule_is_caught() {
        for rule in RULES {
            let caught = (0..300).find_map(|seed| run(seed, ROUNDS, Some(rule)).err());
            assert!(caught.is_some(), "nothing shows that {rule:?} is missing");
        }
    }
}
