//! `[memory]`: when a worker has grown too much. What is left to us is derived from the machine.

use super::check::{number, out_of_range, secs, time};
use super::describe::{bytes, duration};
use super::error::Fault;
use super::raw::RawMemory;
use super::units::{AutoOr, Pressure, SizeOrShare};
use crate::limits::{
    AUTO_FDS, AUTO_FDS_PER_STREAM, AUTO_SOFT_BYTES_MAX, AUTO_SOFT_BYTES_MIN, AUTO_THREADS,
    AUTO_THREADS_PER_STREAM,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use toml::Spanned;

/// The memory policy as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    pub recycle: Recycling,
    /// Of one worker's footprint.
    pub soft: Amount,
    pub hard: Amount,
    /// A worker goes when the soft limit is nearer than a hand-off and this.
    pub margin: Duration,
    /// Measurements in a row that a limit must be passed by.
    pub samples: u32,
    pub max_age: Option<Duration>,
    pub max_sessions: Option<u32>,
    pub threads: Count,
    pub fds: Count,
    pub min_life: Duration,
    /// Recycles for memory in one `window`, for each worker slot.
    pub budget: u32,
    pub window: Duration,
    /// Memory that shall be available on the machine.
    pub host_pressure: Option<Amount>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recycling {
    #[default]
    On,
    /// Measure and say, but touch nothing.
    Off,
}

/// A part of the machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Auto,
    Bytes(u64),
    /// Hundredths of a percent of the machine.
    Share(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Auto,
    Fixed(u32),
}

/// What the policy comes to on a machine, for each worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    pub soft_bytes: u64,
    pub hard_bytes: u64,
    /// Of the machine; 0 watches no pressure.
    pub available_bytes_min: u64,
    pub threads_max: u32,
    pub fds_max: u32,
}

/// The machine as limits are derived from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub cores: usize,
    /// The lesser of the host's memory and what our cgroup may have; 0 where it is unknown.
    pub memory_bytes: u64,
}

impl Default for Memory {
    fn default() -> Self {
        super::Config::embedded().memory
    }
}

impl Memory {
    /// `processes`: workers that may be there at once, those in standby included.
    #[must_use]
    pub fn limits(
        &self,
        memory_bytes: u64,
        processes: u32,
        streams_per_worker: u32,
    ) -> MemoryLimits {
        let each = u64::from(processes.max(1));
        let auto_soft = (memory_bytes / 2 / each).clamp(AUTO_SOFT_BYTES_MIN, AUTO_SOFT_BYTES_MAX);
        let soft = self.soft.of(memory_bytes);
        let hard = self.hard.of(memory_bytes);
        let (soft, hard) = match (soft, hard) {
            (None, None) => (auto_soft, auto_soft + auto_soft / 2),
            (Some(soft), None) => (soft, soft.saturating_add(soft / 2)),
            (None, Some(hard)) => (hard / 3 * 2, hard),
            // A machine may be so small that its share is below a fixed size.
            (Some(soft), Some(hard)) if soft >= hard => (hard / 3 * 2, hard),
            (Some(soft), Some(hard)) => (soft, hard),
        };
        let per_stream = |base: u32, each: u32| base + each.saturating_mul(streams_per_worker);
        MemoryLimits {
            soft_bytes: soft,
            hard_bytes: hard,
            available_bytes_min: self
                .host_pressure
                .map_or(0, |least| least.of(memory_bytes).unwrap_or(memory_bytes / 20)),
            threads_max: self.threads.or(per_stream(AUTO_THREADS, AUTO_THREADS_PER_STREAM)),
            fds_max: self.fds.or(per_stream(AUTO_FDS, AUTO_FDS_PER_STREAM)),
        }
    }
}

impl Amount {
    fn of(self, machine_bytes: u64) -> Option<u64> {
        match self {
            Self::Auto => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Share(hundredths) => {
                let part = u128::from(machine_bytes) * u128::from(hundredths) / 10_000;
                Some(u64::try_from(part).unwrap_or(u64::MAX))
            }
        }
    }
}

impl Count {
    const fn or(self, auto: u32) -> u32 {
        match self {
            Self::Auto => auto,
            Self::Fixed(count) => count,
        }
    }
}

impl From<SizeOrShare> for Amount {
    fn from(written: SizeOrShare) -> Self {
        match written {
            SizeOrShare::Auto => Self::Auto,
            SizeOrShare::Size(bytes) => Self::Bytes(bytes),
            SizeOrShare::Share(hundredths) => Self::Share(hundredths),
        }
    }
}

pub(super) fn check(raw: &RawMemory) -> Result<Memory, Fault> {
    let RawMemory {
        recycle,
        soft,
        hard,
        margin,
        samples,
        max_age,
        max_sessions,
        threads,
        fds,
        min_life,
        budget,
        window,
        host_pressure,
    } = raw;
    let memory = Memory {
        recycle: *recycle,
        soft: amount(soft.as_ref(), "soft")?,
        hard: amount(hard.as_ref(), "hard")?,
        margin: time(margin.as_ref(), secs(120), "margin", secs(0)..=secs(86_400))?,
        samples: number(samples.as_ref(), 3, "samples", 1..=100)?,
        max_age: some_time(time(
            max_age.as_ref(),
            secs(7 * 86_400),
            "max_age",
            secs(0)..=secs(365 * 86_400),
        )?),
        max_sessions: match number(max_sessions.as_ref(), 0, "max_sessions", 0..=u32::MAX)? {
            0 => None,
            most => Some(most),
        },
        threads: count(threads.as_ref(), "threads")?,
        fds: count(fds.as_ref(), "fds")?,
        min_life: time(min_life.as_ref(), secs(300), "min_life", secs(1)..=secs(86_400))?,
        budget: number(budget.as_ref(), 6, "budget", 1..=10_000)?,
        window: time(window.as_ref(), secs(3600), "window", secs(10)..=secs(7 * 86_400))?,
        host_pressure: match host_pressure.as_ref().map(|raw| (raw.span(), *raw.get_ref())) {
            None | Some((_, Pressure::Least(SizeOrShare::Auto))) => Some(Amount::Auto),
            Some((_, Pressure::Off)) => None,
            Some((at, Pressure::Least(least))) => Some(checked(at, least, "host_pressure")?),
        },
    };
    let fixed = |amount| match amount {
        Amount::Bytes(bytes) => Some((bytes, 0)),
        Amount::Share(hundredths) => Some((hundredths, 1)),
        Amount::Auto => None,
    };
    // A size and a share can only be compared on a machine.
    if let (Some((soft, kind)), Some((most, other))) = (fixed(memory.soft), fixed(memory.hard))
        && kind == other
        && soft >= most
    {
        let at = hard.as_ref().map_or(0..0, Spanned::span);
        return Err(Fault::new(at, "hard must be more than soft"));
    }
    Ok(memory)
}

fn some_time(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

fn amount(raw: Option<&Spanned<SizeOrShare>>, what: &str) -> Result<Amount, Fault> {
    raw.map_or(Ok(Amount::Auto), |raw| checked(raw.span(), *raw.get_ref(), what))
}

fn checked(at: std::ops::Range<usize>, written: SizeOrShare, what: &str) -> Result<Amount, Fault> {
    const LEAST: u64 = 16 << 20;
    match written {
        SizeOrShare::Size(0..LEAST) => {
            Err(out_of_range(at, what, bytes(LEAST), "the machine's memory"))
        }
        SizeOrShare::Share(0 | 10_001..) => Err(out_of_range(at, what, "0.01%", "100%")),
        SizeOrShare::Auto | SizeOrShare::Size(_) | SizeOrShare::Share(_) => Ok(written.into()),
    }
}

fn count(raw: Option<&Spanned<AutoOr>>, what: &str) -> Result<Count, Fault> {
    let Some(raw) = raw else { return Ok(Count::Auto) };
    match *raw.get_ref() {
        AutoOr::Auto => Ok(Count::Auto),
        AutoOr::Fixed(count) => match u32::try_from(count) {
            Ok(count @ 16..=1_000_000) => Ok(Count::Fixed(count)),
            Ok(_) | Err(_) => {
                Err(Fault::new(raw.span(), format!("{what} is \"auto\" or 16 to 1000000")))
            }
        },
    }
}

/// `[memory]` in figures, for one machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryDescription {
    pub machine_bytes: u64,
    pub recycle: Recycling,
    pub soft_bytes: u64,
    pub hard_bytes: u64,
    pub available_bytes_min: u64,
    pub threads_max: u32,
    pub fds_max: u32,
    pub max_age_s: Option<u64>,
    pub max_sessions: Option<u32>,
    /// For memory, on the whole machine.
    pub recycles_per_window: u32,
    pub window_s: u64,
}

impl MemoryDescription {
    pub(super) fn new(memory: &Memory, machine: Machine, slots: u32, streams: u32) -> Self {
        let limits = memory.limits(machine.memory_bytes, slots, streams);
        Self {
            machine_bytes: machine.memory_bytes,
            recycle: memory.recycle,
            soft_bytes: limits.soft_bytes,
            hard_bytes: limits.hard_bytes,
            available_bytes_min: limits.available_bytes_min,
            threads_max: limits.threads_max,
            fds_max: limits.fds_max,
            max_age_s: memory.max_age.map(|age| age.as_secs()),
            max_sessions: memory.max_sessions,
            recycles_per_window: memory.budget.saturating_mul(slots),
            window_s: memory.window.as_secs(),
        }
    }
}

impl fmt::Display for MemoryDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.recycle {
            Recycling::On => "recycled",
            Recycling::Off => "only reported",
        };
        writeln!(
            f,
            "memory        of {}: a worker is {what} above {} of footprint, at once above {}",
            bytes(self.machine_bytes),
            bytes(self.soft_bytes),
            bytes(self.hard_bytes)
        )?;
        let pressure = match self.available_bytes_min {
            0 => "not watched".to_owned(),
            least => format!("the largest goes when less than {} is available", bytes(least)),
        };
        writeln!(f, "  pressure    {pressure}")?;
        let mut also = vec![
            format!("more than {} threads", self.threads_max),
            format!("{} fds", self.fds_max),
        ];
        also.extend(self.max_age_s.map(|age| format!("{} of age", duration(secs(age)))));
        also.extend(self.max_sessions.map(|most| format!("{most} sessions served")));
        writeln!(f, "  and         {}", also.join(", "))?;
        writeln!(
            f,
            "  at most     {} recycles for memory in {}",
            self.recycles_per_window,
            duration(secs(self.window_s))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    const GIB: u64 = 1 << 30;

    fn memory(text: &str) -> Memory {
        Config::parse(&format!("[memory]\n{text}"), Path::new("t.toml")).expect(text).memory
    }

    /// Untold, all workers together may have half of the machine, within bounds that make sense
    /// for one worker.
    #[test]
    fn limits_follow_from_the_machine() {
        let limits = |bytes, processes| memory("").limits(bytes, processes, 8);
        let four = limits(16 * GIB, 5);
        assert_eq!((four.soft_bytes, four.hard_bytes), (16 * GIB / 10, 16 * GIB / 10 * 3 / 2));
        assert_eq!(four.available_bytes_min, 16 * GIB / 20);
        assert_eq!(limits(GIB, 3).soft_bytes, AUTO_SOFT_BYTES_MIN, "a small machine");
        assert_eq!(limits(1024 * GIB, 9).soft_bytes, AUTO_SOFT_BYTES_MAX, "a large one");
        assert_eq!(limits(0, 3).soft_bytes, AUTO_SOFT_BYTES_MIN, "an unknown one");
    }

    #[test]
    fn sizes_and_shares_are_taken_as_written_and_never_cross() {
        let limits = |text| memory(text).limits(8 * GIB, 4, 8);
        let written = limits("soft = \"300MiB\"\nhard = \"10%\"");
        assert_eq!((written.soft_bytes, written.hard_bytes), (300 << 20, 8 * GIB / 10));
        assert_eq!(limits("soft = \"300MiB\"").hard_bytes, 450 << 20);
        assert_eq!(limits("hard = \"300MiB\"").soft_bytes, 200 << 20);
        let crossed = limits("soft = \"4GiB\"\nhard = \"10%\"");
        assert!(crossed.soft_bytes < crossed.hard_bytes, "{crossed:?}");
        assert_eq!(limits("host_pressure = \"off\"").available_bytes_min, 0);
        assert_eq!(limits("threads = 40\nfds = 50").threads_max, 40);
    }
}
