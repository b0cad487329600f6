//! What the service's keeper is told: sd_notify(3). Without one there is nobody to tell, and a
//! message that cannot be sent is logged once and changes nothing.
//!
//! ```text
//!  starting ──a worker serves──▶ READY ⇄ RELOADING (SIGHUP) ──SIGTERM──▶ STOPPING
//! ```
//! The watchdog is fed from the event loop itself: a loop that hangs is noticed.

use sd_notify::NotifyState;
use std::time::Instant;
use tasuki_shared::clock;
use tasuki_shared::limits::{NOTIFY_STATUS_INTERVAL, WATCHDOG_FEEDS_PER_PERIOD};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Ready,
    Stopping,
}

/// See the module.
#[derive(Debug)]
pub struct Notifier {
    told: Told,
    /// Time between two signs of life, and when the next is due.
    watchdog: Option<(std::time::Duration, Instant)>,
    next_status: Instant,
    failures: u64,
}

impl Notifier {
    pub fn new() -> Self {
        let now = clock::now();
        let period = sd_notify::watchdog_enabled().filter(|period| !period.is_zero());
        Self {
            told: Told::Nothing,
            watchdog: period.map(|period| (period / WATCHDOG_FEEDS_PER_PERIOD, now)),
            next_status: now,
            failures: 0,
        }
    }

    /// After each turn of the event loop. `summary` is asked for only when it is told.
    pub fn turn(&mut self, serves: impl FnOnce() -> bool, summary: impl FnOnce() -> String) {
        let now = clock::now();
        if self.told == Told::Nothing && serves() {
            self.told = Told::Ready;
            self.tell(&[NotifyState::Ready]);
        }
        if let Some((interval, due)) = self.watchdog
            && now >= due
        {
            self.watchdog = Some((interval, now + interval));
            self.tell(&[NotifyState::Watchdog]);
        }
        if now >= self.next_status && is_kept() {
            self.next_status = now + NOTIFY_STATUS_INTERVAL;
            let summary = summary();
            self.tell(&[NotifyState::Status(&summary)]);
        }
    }

    /// The configuration is looked at; `reloaded` must follow.
    pub fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(stamp) => self.tell(&[NotifyState::Reloading, stamp]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    pub fn reloaded(&mut self) {
        // A reload asked for before the first READY is no reason to claim it.
        if self.told == Told::Ready {
            self.tell(&[NotifyState::Ready]);
        }
    }

    pub fn stopping(&mut self) {
        if self.told != Told::Stopping {
            self.told = Told::Stopping;
            self.tell(&[NotifyState::Stopping]);
        }
    }

    fn tell(&mut self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            self.failures += 1;
            if self.failures == 1 {
                tracing::warn!(%error, "NOTIFY_SOCKET does not take messages");
            }
        }
    }
}

impl Default for Notifier {
    fn default() -> Self {
        Self::new()
    }
}

fn is_kept() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}
