//! Which process hangs, and what is done with one that outlives its kill.
//!
//! ```text
//!          silent for half the deadline      the other half was its to use
//!  heard ─────────────────────────────▶ examined ────────────────────────▶ killed ──reaped──▶ …
//!    ▲                                      │                                 │ not in time
//!    └──────────── any frame ───────────────┘                                 ▼
//!                              its sessions wait until it is gone, or are closed in the end
//! ```
//! What counts is not how long a process is silent but how much of that time its threads could have
//! used ([`tasuki_shared::threads`]): a machine on which everything is slow kills nobody. Time here
//! is the shell's, which stands still while the supervisor does, so its own lateness is nobody's
//! silence. A codec that hangs is told of by its worker, whose io thread looks at it in the same
//! way.

use super::Core;
use super::event::{Effect, Loudness};
use super::restart::KillReason;
use super::settings::Rules;
use super::worker::{Process, Reaping, State};
use std::collections::BTreeSet;
use std::time::Duration;
use tasuki_shared::id::Generation;
use tasuki_shared::limits::{
    BEAT_INTERVAL_MIN, BEATS_PER_HANG_DEADLINE, HEARTBEAT_INTERVAL, REAP_DEADLINE,
    UNKILLABLE_DEADLINE,
};
use tasuki_shared::message::{EndReason, Role, Stalled, StalledPart};
use tasuki_shared::threads::{Looks, chance};

/// What is known of a process that has been silent for a while.
#[derive(Clone, Debug)]
pub struct Suspicion {
    /// The last look.
    at: Duration,
    threads: Looks,
    /// Of its silence since the first look, what its threads could have used.
    counted: Duration,
}

/// How often a process gives a sign of life under this deadline.
pub fn beat_interval(hang_deadline: Duration) -> Duration {
    (hang_deadline / BEATS_PER_HANG_DEADLINE).clamp(BEAT_INTERVAL_MIN, HEARTBEAT_INTERVAL)
}

impl Process {
    /// It says something: whatever was thought of it is over.
    pub fn hear(&mut self, now: Duration) {
        self.heard = now;
        self.suspicion = None;
    }
}

impl<R: Rules> Core<R> {
    /// Looks closer at a process that has been silent for half its deadline.
    pub(super) fn watch_silence(&mut self, now: Duration, at: usize) {
        let Some(process) = self.slots[at].process() else { return };
        if now >= process.heard + process.hang_deadline / 2 {
            let generation = process.generation;
            self.effects.push(Effect::Examine { generation });
        }
    }

    pub(super) fn examined(&mut self, now: Duration, generation: Generation, threads: Looks) {
        let Some(at) = self.slot_of(generation) else { return };
        let serves = match &self.slots[at].state {
            State::Standby(_) | State::Serving(_) | State::Isolated(_) | State::Draining(_) => true,
            State::Starting(..) | State::Ending(..) | State::Backoff { .. } | State::Gone => false,
        };
        let Some(process) = self.slots[at].process_mut().filter(|_| serves) else { return };
        let needed = process.hang_deadline - process.hang_deadline / 2;
        let counted = match &process.suspicion {
            None => Duration::ZERO,
            Some(before) => {
                let elapsed = now.saturating_sub(before.at);
                before.counted + chance(elapsed, &before.threads, &threads)
            }
        };
        let silent = now.saturating_sub(process.heard);
        process.suspicion = Some(Suspicion { at: now, threads, counted });
        if counted >= needed {
            let detail =
                format!("silent for {} ms, and not for want of processor", silent.as_millis());
            self.announce_worker(at, Loudness::Error, "worker_hung", detail);
            self.kill(now, at, KillReason::Hung);
        }
    }

    /// A sign of life. A session in it may stand, and with it the worker is killed.
    pub(super) fn progress(
        &mut self,
        now: Duration,
        generation: Generation,
        stalled: Vec<Stalled>,
    ) {
        let Some(at) = self.slot_of(generation) else { return };
        let Some(process) = self.slots[at].process_mut() else { return };
        process.stalled = stalled;
        let deadline = process.hang_deadline;
        if matches!(self.slots[at].state, State::Ending(..)) {
            return;
        }
        let stalled = self.slots[at].process().map_or(&[][..], |process| &process.stalled);
        let overdue =
            |stalled: &&Stalled| Duration::from_millis(u64::from(stalled.for_ms)) >= deadline;
        let is_its_own = |stalled: &&Stalled| {
            let session = self.sessions.get(&stalled.session);
            session.is_some_and(|session| session.generation() == Some(generation))
        };
        let (own, foreign): (Vec<&Stalled>, Vec<&Stalled>) =
            stalled.iter().filter(overdue).partition(is_its_own);
        let own = own.first().map(|stalled| **stalled);
        self.ignored_frames += u64::from(!foreign.is_empty());
        let Some(Stalled { session, what, for_ms }) = own else { return };
        let what = match what {
            StalledPart::Input => "bytes wait and nobody reads them",
            StalledPart::Pipeline => "packets wait and its codecs take none",
        };
        let detail = format!("session {session}: {what}, for {for_ms} ms");
        self.announce_worker(at, Loudness::Error, "worker_hung", detail);
        if let Some(process) = self.slots[at].process_mut() {
            process.hung_session = Some(session);
        }
        self.kill(now, at, KillReason::Hung);
    }

    /// The kernel does not let go of it. It may still read its sessions' sockets, so nobody else
    /// can have them until it is gone.
    pub(super) fn outlives_kill(&mut self, now: Duration, at: usize) {
        let slot = &mut self.slots[at];
        let State::Ending(process, _, reaping) = &mut slot.state else { return };
        let generation = process.generation;
        *reaping = Reaping::Stuck {
            deadline: now + UNKILLABLE_DEADLINE,
            threads: "its threads cannot be seen".to_owned(),
        };
        let role = slot.role;
        // Told of when the threads are known by name.
        self.effects.push(Effect::NameStuckThreads { generation });
        match role {
            Role::Worker | Role::Delivery | Role::Console => {}
            Role::Dialer => self.dialer_died(generation),
        }
    }

    pub(super) fn stuck_threads_named(&mut self, generation: Generation, named: String) {
        let Some(at) = self.slot_of(generation) else { return };
        let State::Ending(process, _, Reaping::Stuck { threads, .. }) = &mut self.slots[at].state
        else {
            return;
        };
        let count = process.sessions.len();
        threads.clone_from(&named);
        let detail = format!(
            "not dead {REAP_DEADLINE:?} after SIGKILL: {named}; {count} sessions wait for its end"
        );
        self.announce_worker(at, Loudness::Error, "worker_unkillable", detail);
    }

    /// Its sessions have waited long enough.
    pub(super) fn give_up(&mut self, now: Duration, at: usize) {
        let detail =
            format!("not dead {UNKILLABLE_DEADLINE:?} later; what sessions it has are closed");
        self.announce_worker(at, Loudness::Error, "worker_given_up", detail);
        let (mut sessions, mut arriving) = (BTreeSet::new(), BTreeSet::new());
        if let State::Ending(process, _, reaping) = &mut self.slots[at].state {
            *reaping = Reaping::GivenUp;
            sessions.clone_from(&process.sessions);
            arriving.clone_from(&process.arriving);
        }
        for session in arriving {
            self.effects.push(Effect::ReadOwner { session });
        }
        for session in sessions {
            self.close(now, session, EndReason::WorkerDied);
        }
    }
}
