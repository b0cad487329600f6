//! From what was measured to a verdict on each worker.
//!
//! Limits say what is too much; storm control says what must wait all the same: a worker's minimum
//! life, a budget for a window, room for the old and the new at once, one at a time. A worker that
//! is over its soft limit as soon as it has settled was *born over* it: a fresh one would be
//! too, so it stays, and an operator is told once.

mod subject;

use super::super::event::Sample;
use super::super::rotation::RecycleReason;
use super::HostMemory;
use super::slope;
use super::verdict::{Hold, Verdict};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use subject::{Asked, Birth, Purge, StoodBy, Subject, Urgency};
use tasuki_shared::config::{Memory, MemoryLimits, Recycling};
use tasuki_shared::id::Generation;
use tasuki_shared::limits::{
    HANDOFF_TIME, PRESSURE_GAIN_BYTES_MIN, PRESSURE_STALL_PERCENT, PURGE_DEADLINE, PURGE_TRIES_MAX,
    RECOVERY_ROOM_BYTES_MIN, RECOVERY_ROOM_DIVISOR, SETTLE_TIME, TREND_INTERVAL,
    TREND_INTERVAL_NEAR,
};
use tasuki_shared::message::{AllocatorFigures, Haste};
use tasuki_shared::status::MemoryStatus;

/// What is known of a worker at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub generation: Generation,
    pub duty: Duty,
    /// When its process began.
    pub since: Duration,
    pub sessions: u32,
    pub sample: Sample,
    /// What codecs that it was told to hold open may take.
    pub spare_bytes_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    Serves,
    /// Serves without any session: delivery, the console.
    Attends,
    /// Nobody's session depends on it yet.
    StandsBy,
    /// Takes nothing new and still has sessions: only the hard limit counts.
    Leaves,
    /// Starts or has nothing left: nothing is to be won by recycling it.
    Idle,
}

/// What the policy wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    Purge(Generation),
    Recycle { generation: Generation, reason: RecycleReason, haste: Haste, detail: String },
    Alarm { generation: Generation, detail: String },
}

/// A rule that the simulator takes out, to see that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    SoftLimit,
    HardLimit,
    /// Measure after a purge only.
    Purge,
    /// LazyFree is no footprint.
    LazyFree,
    /// Tell a step from a slope.
    RobustSlope,
    MinimumLife,
    Budget,
    Room,
    BornOver,
    AlarmOnce,
}

/// The memory policy.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Memory,
    /// Worker processes that limits and budget are shared out to.
    processes: u32,
    streams_per_worker: u32,
    limits: MemoryLimits,
    subjects: BTreeMap<Generation, Subject>,
    /// When recycles for memory were begun within the window.
    spent: VecDeque<Duration>,
    /// Rounds in a row under the host's pressure.
    pressed: u32,
    removed: Option<Rule>,
}

/// A worker that should go.
struct Candidate {
    generation: Generation,
    reason: RecycleReason,
    rank: u8,
    footprint_bytes: u64,
    detail: String,
}

impl Policy {
    pub fn new(rules: Memory, processes: u32, streams_per_worker: u32) -> Self {
        Self {
            rules,
            processes,
            streams_per_worker,
            limits: MemoryLimits::default(),
            subjects: BTreeMap::new(),
            spent: VecDeque::new(),
            pressed: 0,
            removed: None,
        }
    }

    /// A policy that lacks a rule.
    pub fn without(mut self, rule: Rule) -> Self {
        self.removed = Some(rule);
        self
    }

    pub fn limits(&self) -> MemoryLimits {
        self.limits
    }

    /// A round of measurements. At most one wish is for a recycle; the answer to it comes with
    /// `granted` or `refused`.
    pub fn sampled(&mut self, now: Duration, host: HostMemory, looks: &[Look]) -> Vec<Wish> {
        self.limits = self.rules.limits(host.total_bytes, self.processes, self.streams_per_worker);
        let mut wishes = Vec::new();
        let mut before = std::mem::take(&mut self.subjects);
        for look in looks {
            let subject = before.remove(&look.generation);
            let mut subject = subject.unwrap_or_else(|| Subject::new(now, *look));
            self.measure(now, &mut subject, *look, &mut wishes);
            self.subjects.insert(look.generation, subject);
        }
        while self.spent.front().is_some_and(|at| *at + self.rules.window <= now) {
            self.spent.pop_front();
        }
        self.pressed = if self.is_pressed(host) { self.pressed.saturating_add(1) } else { 0 };
        let mut candidates = self.candidates(now);
        candidates.sort_by_key(|c| (c.rank, std::cmp::Reverse(c.footprint_bytes)));
        let mut chosen: Option<Candidate> = None;
        for candidate in candidates {
            let hold = match self.hold(now, host, &candidate) {
                None if chosen.is_some() => Some(Hold::Turn),
                hold => hold,
            };
            let Some(subject) = self.subjects.get_mut(&candidate.generation) else { continue };
            subject.verdict = match hold {
                Some(hold) => Verdict::HeldBack(hold),
                None if candidate.reason == RecycleReason::MemoryHard => Verdict::Evacuate,
                None => Verdict::Recycle,
            };
            // One that was asked for is on its way, or is asked for again after a pause.
            let urgency = Urgency::of(&candidate.reason);
            let is_news = |asked: Asked| urgency > asked.urgency || now >= asked.again();
            if hold.is_none() && subject.asked.is_none_or(is_news) {
                chosen = Some(candidate);
            }
        }
        wishes.extend(chosen.map(|candidate| {
            let Candidate { generation, reason, detail, .. } = candidate;
            let haste = match &reason {
                RecycleReason::MemoryHard => Haste::AtAnyPrice,
                RecycleReason::HostPressure => Haste::Now,
                RecycleReason::MemorySoft
                | RecycleReason::TimeToLimit
                | RecycleReason::Age
                | RecycleReason::Sessions
                | RecycleReason::Threads
                | RecycleReason::Fds
                | RecycleReason::Reload
                | RecycleReason::Operator(_) => Haste::Scheduled,
            };
            Wish::Recycle { generation, reason, haste, detail }
        }));
        wishes
    }

    /// The worker has purged.
    pub fn purged(&mut self, now: Duration, generation: Generation) {
        if let Some(subject) = self.subjects.get_mut(&generation)
            && let Purge::Asked { .. } = subject.purge
        {
            subject.purge = Purge::Answered { at: now };
        }
    }

    /// What its allocator says of itself.
    pub fn heard(&mut self, generation: Generation, figures: AllocatorFigures) {
        if let Some(subject) = self.subjects.get_mut(&generation) {
            subject.allocator = figures;
        }
    }

    /// It has taken a session.
    pub fn took_session(&mut self, generation: Generation) {
        if let Some(subject) = self.subjects.get_mut(&generation) {
            subject.served = subject.served.saturating_add(1);
        }
    }

    /// The recycle that was wished for has begun.
    pub fn granted(&mut self, now: Duration, generation: Generation, reason: &RecycleReason) {
        let mut is_idle = false;
        if let Some(subject) = self.subjects.get_mut(&generation) {
            let times = subject.asked.map_or(0, |asked| asked.times) + 1;
            subject.asked = Some(Asked { at: now, times, urgency: Urgency::of(reason) });
            is_idle = subject.look.duty == Duty::StandsBy;
        }
        if takes_budget(reason) && !is_idle {
            self.spent.push_back(now);
        }
    }

    /// Another recycle is under way.
    pub fn refused(&mut self, generation: Generation) {
        if let Some(subject) = self.subjects.get_mut(&generation) {
            subject.verdict = Verdict::HeldBack(Hold::Turn);
        }
    }

    pub fn verdict(&self, generation: Generation) -> Option<Verdict> {
        self.subjects.get(&generation).map(|subject| subject.verdict)
    }

    /// It has purged, or it is over its limit and may have to go for that.
    pub fn awaits_measurement(&self, generation: Generation) -> bool {
        self.subjects.get(&generation).is_some_and(|subject| match (subject.purge, subject.birth) {
            (Purge::Answered { .. }, _) => true,
            (Purge::Rest { .. } | Purge::Asked { .. }, Birth::Over { .. }) => false,
            (Purge::Rest { .. } | Purge::Asked { .. }, Birth::Settling | Birth::Settled { .. }) => {
                self.rules.recycle == Recycling::On
                    && subject.look.sample.footprint_bytes >= self.limits.soft_bytes
            }
        })
    }

    pub fn status(&self, generation: Generation) -> Option<MemoryStatus> {
        let subject = self.subjects.get(&generation)?;
        let Sample { threads, fds, shared_bytes, .. } = subject.look.sample;
        let limit = self.limits.soft_bytes;
        // Fewer bits than a float has: 2 TiB a second is the end of the scale.
        let slope_kib = i32::try_from(subject.trend.slope() / 1024).unwrap_or(i32::MAX);
        Some(MemoryStatus {
            soft_limit_bytes: limit,
            hard_limit_bytes: self.limits.hard_bytes,
            slope_bytes_per_s: f64::from(slope_kib) * 1024.0,
            time_to_limit_ms: subject
                .trend
                .time_to(limit)
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            allocated_bytes: subject.allocator.allocated_bytes,
            idle_bytes: subject.allocator.idle_bytes,
            shared_bytes,
            threads,
            fds,
            verdict: subject.verdict.to_string(),
        })
    }

    fn holds(&self, rule: Rule) -> bool {
        self.removed != Some(rule)
    }

    /// Takes a sample in, and asks for a purge when the next point is due.
    fn measure(&self, now: Duration, subject: &mut Subject, look: Look, wishes: &mut Vec<Wish>) {
        let measured = now.saturating_sub(look.sample.measured_ago);
        subject.look = look;
        if !self.holds(Rule::LazyFree) {
            subject.look.sample.footprint_bytes += look.sample.lazy_free_bytes;
        }
        let sample = subject.look.sample;
        let count = |over: u32, is, most| if is > most { over.saturating_add(1) } else { 0 };
        // Of a service they are as many as it has clients, for which it has bounds of its own.
        if look.duty != Duty::Attends {
            let MemoryLimits { threads_max, fds_max, .. } = self.limits;
            subject.threads_over = count(subject.threads_over, sample.threads, threads_max);
            subject.fds_over = count(subject.fds_over, sample.fds, fds_max);
        }
        if look.duty == Duty::Idle {
            subject.verdict = Verdict::Fine;
            return;
        }
        if look.duty == Duty::StandsBy {
            // It does nothing, so there is nothing to purge.
            let last_bytes = subject.look.sample.footprint_bytes;
            let least_bytes =
                subject.stood_by.map_or(last_bytes, |s| s.least_bytes.min(last_bytes));
            subject.stood_by = Some(StoodBy { least_bytes, last_bytes });
            subject.verdict = Verdict::Fine;
            return;
        }
        if look.sessions > 0 || look.duty == Duty::Attends {
            subject.serving = subject.serving.or(Some(now));
        }
        let answered = match subject.purge {
            _ if !self.holds(Rule::Purge) => Some(Duration::ZERO),
            Purge::Answered { at } => Some(at),
            Purge::Asked { at, tries } if now >= at + PURGE_DEADLINE => {
                if tries < PURGE_TRIES_MAX {
                    subject.purge = Purge::Asked { at: now, tries: tries + 1 };
                    wishes.push(Wish::Purge(look.generation));
                    None
                } else {
                    Some(at)
                }
            }
            Purge::Asked { .. } | Purge::Rest { .. } => None,
        };
        if answered.is_some_and(|answered| measured >= answered) {
            self.point(now, subject, wishes);
        }
        // A burst above the limit is looked at without waiting for the next turn.
        let is_due = match subject.purge {
            Purge::Rest { due } => now >= due || sample.footprint_bytes >= self.limits.soft_bytes,
            Purge::Asked { .. } | Purge::Answered { .. } => false,
        };
        if is_due {
            subject.purge = Purge::Asked { at: now, tries: 1 };
            wishes.push(Wish::Purge(look.generation));
        }
        subject.verdict = if sample.footprint_bytes >= self.limits.soft_bytes {
            Verdict::Purging
        } else if self.is_near(subject) {
            Verdict::Watch
        } else {
            Verdict::Fine
        };
    }

    /// A footprint that is nothing but what the worker holds.
    fn point(&self, now: Duration, subject: &mut Subject, wishes: &mut Vec<Wish>) {
        let bytes = subject.look.sample.footprint_bytes;
        let soft = self.limits.soft_bytes;
        subject.trend.push(now, bytes);
        subject.over = if bytes >= soft { subject.over.saturating_add(1) } else { 0 };
        let pause = if self.is_near(subject) { TREND_INTERVAL_NEAR } else { TREND_INTERVAL };
        subject.purge = Purge::Rest { due: now + pause };
        let settle = SETTLE_TIME.min(self.rules.min_life);
        let settled = subject.serving.is_some_and(|serving| now >= serving + settle);
        // What it had grown by before it served, a fresh one has not.
        let born = bytes.saturating_sub(subject.grown_idle());
        subject.birth = match subject.birth {
            Birth::Settling if settled && born >= soft && self.holds(Rule::BornOver) => {
                wishes.push(self.alarm(subject, born));
                Birth::Over { bytes: born }
            }
            Birth::Settling if settled => Birth::Settled { bytes: born },
            Birth::Over { bytes: born } if bytes >= soft => {
                if !self.holds(Rule::AlarmOnce) {
                    wishes.push(self.alarm(subject, bytes));
                }
                Birth::Over { bytes: born }
            }
            // What it was born with has left it.
            Birth::Over { .. } => Birth::Settled { bytes },
            Birth::Settled { bytes: least } => Birth::Settled { bytes: least.min(bytes) },
            Birth::Settling => Birth::Settling,
        };
    }

    fn alarm(&self, subject: &Subject, bytes: u64) -> Wish {
        let detail = format!(
            "a fresh worker with {} sessions holds {} MiB, and its soft limit is {} MiB: recycling \
             would not help; raise the limit or lower streams_per_worker",
            subject.look.sessions,
            bytes >> 20,
            self.limits.soft_bytes >> 20
        );
        Wish::Alarm { generation: subject.look.generation, detail }
    }

    fn is_near(&self, subject: &Subject) -> bool {
        let near = self.limits.soft_bytes / 4 * 3;
        subject.look.sample.footprint_bytes >= near
            || subject
                .trend
                .time_to(self.limits.soft_bytes)
                .is_some_and(|left| left < 4 * (HANDOFF_TIME + self.rules.margin))
    }

    fn is_pressed(&self, host: HostMemory) -> bool {
        let least = self.limits.available_bytes_min;
        least > 0
            && host.total_bytes > 0
            && (host.available_bytes < least || host.stalled_full_percent >= PRESSURE_STALL_PERCENT)
    }

    fn candidates(&self, now: Duration) -> Vec<Candidate> {
        let mut candidates: Vec<_> = self
            .subjects
            .values()
            .filter_map(|subject| {
                let (rank, reason, detail) = match subject.look.duty {
                    Duty::Serves | Duty::Attends => self.reason(now, subject)?,
                    Duty::StandsBy => self.reason_idle(subject)?,
                    // It is being replaced, or could not be.
                    Duty::Leaves => {
                        let found = self.reason(now, subject)?;
                        (found.1 == RecycleReason::MemoryHard).then_some(found)?
                    }
                    Duty::Idle => return None,
                };
                Some(Candidate::new(subject, rank, reason, detail))
            })
            .collect();
        if self.pressed >= self.rules.samples {
            let largest = self
                .subjects
                .values()
                .filter(|s| s.look.duty == Duty::Serves && s.gain() >= PRESSURE_GAIN_BYTES_MIN)
                .max_by_key(|subject| subject.gain());
            if let Some(subject) = largest {
                let generation = subject.look.generation;
                let is_hard = |c: &Candidate| c.reason == RecycleReason::MemoryHard;
                if !candidates.iter().any(|c| c.generation == generation && is_hard(c)) {
                    candidates.retain(|c| c.generation != generation);
                    let detail = format!(
                        "the machine is short of memory; this worker has grown by {} MiB",
                        subject.gain() >> 20
                    );
                    let reason = RecycleReason::HostPressure;
                    candidates.push(Candidate::new(subject, 1, reason, detail));
                }
            }
        }
        candidates
    }

    /// The most urgent reason to recycle this worker, with its rank.
    fn reason(&self, now: Duration, subject: &Subject) -> Option<(u8, RecycleReason, String)> {
        let MemoryLimits { soft_bytes, hard_bytes, threads_max, fds_max, .. } = self.limits;
        let Sample { threads, fds, .. } = subject.look.sample;
        let samples = self.rules.samples;
        let mib = subject.trend.last().unwrap_or(0) >> 20;
        if subject.trend.last().is_some_and(|last| last >= hard_bytes)
            && self.holds(Rule::HardLimit)
        {
            let detail = format!("{mib} MiB, at the hard limit of {} MiB", hard_bytes >> 20);
            return Some((0, RecycleReason::MemoryHard, detail));
        }
        if subject.over >= samples && self.holds(Rule::SoftLimit) {
            let detail = format!("{mib} MiB, over the soft limit of {} MiB", soft_bytes >> 20);
            return Some((2, RecycleReason::MemorySoft, detail));
        }
        let left = if self.holds(Rule::RobustSlope) {
            subject.trend.time_to(soft_bytes)
        } else {
            let slope = u64::try_from(slope::naive(&subject.trend)).unwrap_or(0);
            let left = soft_bytes.saturating_sub(subject.trend.last().unwrap_or(0));
            left.checked_div(slope).map(Duration::from_secs)
        };
        if let Some(left) = left.filter(|left| *left < HANDOFF_TIME + self.rules.margin)
            && self.holds(Rule::SoftLimit)
        {
            let detail = format!("{mib} MiB, at its soft limit in {} s", left.as_secs());
            return Some((3, RecycleReason::TimeToLimit, detail));
        }
        if subject.threads_over >= samples {
            let detail = format!("{threads} threads, more than {threads_max}");
            return Some((4, RecycleReason::Threads, detail));
        }
        if subject.fds_over >= samples {
            let detail = format!("{fds} file descriptors, more than {fds_max}");
            return Some((4, RecycleReason::Fds, detail));
        }
        let age = now.saturating_sub(subject.look.since);
        if self.rules.max_age.is_some_and(|most| age >= most.mul_f64(subject.share(0.9, 0.2))) {
            return Some((5, RecycleReason::Age, format!("{} h old", age.as_secs() / 3600)));
        }
        if self.rules.max_sessions.is_some_and(|most| subject.served >= most) {
            let detail = format!("has served {} sessions", subject.served);
            return Some((5, RecycleReason::Sessions, detail));
        }
        None
    }

    /// One that stands by and grows all the same is replaced, so that nobody moves to it.
    fn reason_idle(&self, subject: &Subject) -> Option<(u8, RecycleReason, String)> {
        let grown = subject.grown_idle();
        (grown >= self.limits.soft_bytes / 4 && self.holds(Rule::SoftLimit)).then(|| {
            let detail = format!("has grown by {} MiB while it stood by", grown >> 20);
            (4, RecycleReason::MemorySoft, detail)
        })
    }

    fn hold(&self, now: Duration, host: HostMemory, candidate: &Candidate) -> Option<Hold> {
        let subject = self.subjects.get(&candidate.generation)?;
        if self.rules.recycle == Recycling::Off {
            return Some(Hold::Off);
        }
        if subject.look.duty == Duty::StandsBy {
            // Nobody moves, and it leaves before another starts: no budget, no room.
            let is_young = now < subject.look.since + self.rules.min_life;
            return (is_young && self.holds(Rule::MinimumLife)).then_some(Hold::TooYoung);
        }
        let is_soft =
            matches!(candidate.reason, RecycleReason::MemorySoft | RecycleReason::TimeToLimit);
        let is_hard = candidate.reason == RecycleReason::MemoryHard;
        let is_pressure = candidate.reason == RecycleReason::HostPressure;
        match subject.birth {
            // At the hard limit what has come on top of its birth is worth a recycle.
            Birth::Over { bytes }
                if is_soft || (is_hard && candidate.footprint_bytes < bytes / 4 * 5) =>
            {
                return Some(Hold::BornOver);
            }
            // Nobody knows yet whether a fresh one would be better.
            Birth::Settling if is_hard && self.holds(Rule::BornOver) => {
                return Some(Hold::TooYoung);
            }
            Birth::Over { .. } | Birth::Settling | Birth::Settled { .. } => {}
        }
        let life = self.rules.min_life.mul_f64(subject.share(1.0, 0.25));
        if (is_soft || is_pressure)
            && self.holds(Rule::MinimumLife)
            && subject.serving.is_none_or(|serving| now < serving + life)
        {
            return Some(Hold::TooYoung);
        }
        if takes_budget(&candidate.reason) && self.holds(Rule::Budget) {
            let budget = self.rules.budget.saturating_mul(self.processes);
            let kept = if is_hard { 0 } else { budget / 4 };
            if u32::try_from(self.spent.len()).unwrap_or(u32::MAX) >= budget - kept {
                return Some(Hold::Budget);
            }
        }
        // The last of the memory is for a worker that dies meanwhile.
        let kept = RECOVERY_ROOM_BYTES_MIN.min(host.total_bytes / RECOVERY_ROOM_DIVISOR);
        let needed = subject.needs().saturating_add(kept);
        let room = host.total_bytes == 0 || host.available_bytes >= needed;
        if !room && self.holds(Rule::Room) {
            return Some(Hold::NoRoom);
        }
        None
    }
}

/// Age and leaks of other things than memory come slowly, whatever happens.
const fn takes_budget(reason: &RecycleReason) -> bool {
    match reason {
        RecycleReason::MemorySoft
        | RecycleReason::MemoryHard
        | RecycleReason::TimeToLimit
        | RecycleReason::HostPressure => true,
        RecycleReason::Age
        | RecycleReason::Sessions
        | RecycleReason::Threads
        | RecycleReason::Fds
        | RecycleReason::Reload
        | RecycleReason::Operator(_) => false,
    }
}

impl Candidate {
    fn new(subject: &Subject, rank: u8, reason: RecycleReason, detail: String) -> Self {
        let footprint_bytes = subject.trend.last().unwrap_or(0);
        Self { generation: subject.look.generation, reason, rank, footprint_bytes, detail }
    }
}

#[cfg(test)]
mod tests;
