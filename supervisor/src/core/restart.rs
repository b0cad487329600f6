//! When a slot whose process died gets another one.
//!
//! Deaths that blame nobody (asked to go, a foreign SIGKILL or SIGTERM) are answered at once. The others
//! back off exponentially with jitter, and too many in a window give the slot up for that window.

use super::event::Killer;
use super::settings::Settings;
use super::worker::{Patience, State};
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;
use tasuki_shared::exit::Exit;
use tasuki_shared::kernel::Death;
use tasuki_shared::limits::RESPAWN_SPACING;

/// Why a process of ours is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It left by its own vocabulary.
    Exit(Exit),
    UnknownExit(i32),
    /// SIGSEGV and its like: our code or a codec's.
    Fault(i32),
    /// A SIGKILL that neither we nor, as far as it tells, the kernel sent.
    ForeignKill,
    /// A signal by which somebody asks a process to end, and which no fault sends.
    Asked(i32),
    /// The kernel, short of memory.
    OomKill,
    Signal(i32),
    /// We killed it.
    Killed(KillReason),
    SpawnFailed,
}

/// Why we kill a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// No hello, no readiness or no heartbeat in time.
    Hung,
    /// Its channel broke, or it broke the protocol.
    Channel,
    /// The server leaves.
    Shutdown,
    /// It was to leave, had no session any more, and did not go.
    Lingering,
}

/// What a death may come to for the sessions that its process was at work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Nobody is to blame.
    None,
    /// Quarantine at most: memory is short for many reasons.
    Isolates,
    Drops,
}

impl Cause {
    pub fn of(death: Death, killed: Option<KillReason>, killer: Killer) -> Self {
        const FAULTS: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];
        /// SIGHUP, SIGINT, SIGTERM.
        const REQUESTS: [i32; 3] = [1, 2, 15];
        const SIGKILL: i32 = 9;
        match (death, killed) {
            (Death::Signalled(SIGKILL), Some(reason)) => Self::Killed(reason),
            (Death::Signalled(SIGKILL), None) => match killer {
                Killer::Somebody => Self::ForeignKill,
                Killer::OutOfMemory => Self::OomKill,
            },
            (Death::Signalled(signal), _) if FAULTS.contains(&signal) => Self::Fault(signal),
            (Death::Signalled(signal), _) if REQUESTS.contains(&signal) => Self::Asked(signal),
            (Death::Signalled(signal), _) => Self::Signal(signal),
            (Death::Exited(code), _) => {
                Exit::from_code(code).map_or(Self::UnknownExit(code), Self::Exit)
            }
        }
    }

    /// Does this death count for back-off and intensity?
    pub const fn counts(self) -> bool {
        match self {
            Self::ForeignKill
            | Self::Asked(_)
            | Self::Killed(KillReason::Shutdown | KillReason::Lingering) => false,
            Self::Exit(_)
            | Self::UnknownExit(_)
            | Self::Fault(_)
            | Self::OomKill
            | Self::Signal(_)
            | Self::Killed(KillReason::Hung | KillReason::Channel)
            | Self::SpawnFailed => true,
        }
    }

    /// May a session's content be to blame for it?
    pub const fn weight(self) -> Weight {
        match self {
            Self::Fault(_) | Self::Exit(Exit::Panic) | Self::Killed(KillReason::Hung) => {
                Weight::Drops
            }
            Self::OomKill | Self::Exit(Exit::OutOfMemory) => Weight::Isolates,
            Self::Exit(_)
            | Self::UnknownExit(_)
            | Self::ForeignKill
            | Self::Asked(_)
            | Self::Signal(_)
            | Self::Killed(KillReason::Channel | KillReason::Shutdown | KillReason::Lingering)
            | Self::SpawnFailed => Weight::None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(exit) => write!(f, "exit {exit:?} ({})", exit.code()),
            Self::UnknownExit(code) => write!(f, "exit code {code}"),
            Self::Fault(signal) => write!(f, "fault signal {signal}"),
            Self::ForeignKill => f.write_str("killed by somebody else (SIGKILL)"),
            Self::Asked(signal) => write!(f, "ended by somebody else (signal {signal})"),
            Self::OomKill => f.write_str("killed by the kernel: out of memory"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Killed(KillReason::Hung) => f.write_str("killed by us: it hung"),
            Self::Killed(KillReason::Channel) => {
                f.write_str("killed by us: its control channel broke")
            }
            Self::Killed(KillReason::Shutdown) => f.write_str("killed by us at shutdown"),
            Self::Killed(KillReason::Lingering) => {
                f.write_str("killed by us: it was empty and did not leave")
            }
            Self::SpawnFailed => f.write_str("could not be started"),
        }
    }
}

/// What follows a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    SpawnAt(Duration),
    GiveUpUntil(Duration),
}

/// The deaths of one slot.
#[derive(Clone, Debug, Default)]
pub struct Restarts {
    recent: VecDeque<Duration>,
    /// Of all deaths, counted or not.
    pub total: u32,
}

impl Restarts {
    /// What follows a planned end: the next process, at once, and no restart is counted.
    pub const fn planned(&self, now: Duration) -> State {
        State::Backoff { until: now, patience: Patience::Short }
    }

    /// Decides after a death at `now` of a process spawned at `spawned`. `jitter` is 0 to 1.
    pub fn after(
        &mut self,
        now: Duration,
        spawned: Duration,
        cause: Cause,
        jitter: f64,
        settings: &Settings,
    ) -> Next {
        self.total = self.total.saturating_add(1);
        let soonest = now.max(spawned + RESPAWN_SPACING);
        if !cause.counts() {
            return Next::SpawnAt(soonest);
        }
        while self.recent.front().is_some_and(|at| *at + settings.restart_window <= now) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let count = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        if count >= settings.restart_intensity.max(1) {
            self.recent.clear();
            return Next::GiveUpUntil(now + settings.restart_window);
        }
        // The first death of a window is answered at once: streams wait.
        let Some(doublings) = count.checked_sub(2) else { return Next::SpawnAt(soonest) };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let backoff = settings.backoff_first.saturating_mul(factor).min(settings.backoff_max);
        Next::SpawnAt(soonest.max(now + backoff.mul_f64(0.75 + 0.5 * jitter)))
    }
}

/// A small generator of reproducible jitter (xorshift64*), seeded from outside.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// 0 to 1.
    pub fn draw(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let [a, b, ..] = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_be_bytes();
        f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> Settings {
        Settings { restart_intensity: 6, restart_window: 60 * SECOND, ..Settings::default() }
    }

    #[test]
    fn a_foreign_kill_is_answered_at_once_however_often_but_never_in_a_tight_loop() {
        let mut restarts = Restarts::default();
        for round in 1..100 {
            let now = SECOND * round;
            for cause in [Cause::ForeignKill, Cause::Asked(15)] {
                let next = restarts.after(now, now - SECOND, cause, 0.5, &settings());
                assert_eq!(next, Next::SpawnAt(now));
            }
        }
        let next = restarts.after(SECOND, SECOND, Cause::ForeignKill, 0.5, &settings());
        assert_eq!(next, Next::SpawnAt(SECOND + RESPAWN_SPACING));
    }

    #[test]
    fn faults_back_off_twice_as_long_each_time_and_then_give_up_for_a_window() {
        let mut restarts = Restarts::default();
        let mut delays = Vec::new();
        let now = 100 * SECOND;
        for _ in 0..5 {
            match restarts.after(now, SECOND, Cause::Fault(11), 0.5, &settings()) {
                Next::SpawnAt(at) => delays.push((at - now).as_millis()),
                Next::GiveUpUntil(at) => panic!("gave up until {at:?} too early"),
            }
        }
        assert_eq!(delays, [0, 200, 400, 800, 1600]);
        let next = restarts.after(now, SECOND, Cause::Fault(11), 0.5, &settings());
        assert_eq!(next, Next::GiveUpUntil(now + 60 * SECOND));
    }

    #[test]
    fn deaths_older_than_the_window_are_forgotten() {
        let mut restarts = Restarts::default();
        for round in 1..50 {
            let now = 61 * SECOND * round;
            let next = restarts.after(now, SECOND, Cause::Fault(6), 1.0, &settings());
            assert_eq!(next, Next::SpawnAt(now));
        }
    }

    #[test]
    fn a_death_is_named_by_what_ended_the_process_and_who_did() {
        let hung = Some(KillReason::Hung);
        let of = |death, killed| Cause::of(death, killed, Killer::Somebody);
        assert_eq!(of(Death::Signalled(9), hung), Cause::Killed(KillReason::Hung));
        assert_eq!(of(Death::Signalled(9), None), Cause::ForeignKill);
        assert_eq!(of(Death::Signalled(11), hung), Cause::Fault(11));
        assert_eq!(of(Death::Signalled(15), None), Cause::Asked(15));
        assert_eq!(of(Death::Signalled(13), None), Cause::Signal(13));
        assert_eq!(of(Death::Exited(104), None), Cause::Exit(Exit::Panic));
        assert_eq!(of(Death::Exited(3), None), Cause::UnknownExit(3));
        let by_kernel = |death, killed| Cause::of(death, killed, Killer::OutOfMemory);
        assert_eq!(by_kernel(Death::Signalled(9), None), Cause::OomKill);
        assert_eq!(by_kernel(Death::Signalled(9), hung), Cause::Killed(KillReason::Hung));
    }
}
