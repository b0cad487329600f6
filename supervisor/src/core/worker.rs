//! Slots and the processes in them.
//!
//! ```text
//!             spawn            ready, enough serve           a serving one dies
//!  (empty) ─────────▶ Starting ───────────────────▶ Standby ────────────────────▶ Serving
//!                        │  ready, too few serve                                     │
//!                        └───────────────────────────────────────────────────────────┤
//!                                                                          drain     ▼
//!  any of these ──we kill it──▶ Ending                                           Draining
//!  any of these ──reaped──▶ Backoff{until} ──▶ Starting …       or Gone when the server leaves
//! ```
//! What is not reaped some seconds after its kill keeps its slot and its sessions until it is gone,
//! or until they have waited long enough; see [`super::hang`]. A worker for one suspected stream
//! serves nobody else: it is `Isolated` ([`super::poison`]).
//!
//! A generation is used by one process and never again. A process is the owner of its sessions
//! until it is reaped, not until we kill it.

use super::admission::Seat;
use super::event::{Announcement, Effect, Fds, Loss, Loudness, Sample};
use super::hang::{Suspicion, beat_interval};
use super::restart::{Cause, KillReason, Restarts};
use super::settings::Rules;
use super::spares::Spares;
use super::{Core, Stage};
use std::collections::BTreeSet;
use std::time::Duration;
use tasuki_shared::id::{Generation, SessionId, SlotId};
use tasuki_shared::limits::{CHANNEL_CLOSED_GRACE, HELLO_DEADLINE, READY_DEADLINE, REAP_DEADLINE};
use tasuki_shared::message::{PROTOCOL_VERSION, Role, Stalled, ToWorker};

/// A stable place for a process.
#[derive(Clone, Debug)]
pub struct Slot {
    pub id: SlotId,
    pub role: Role,
    pub state: State,
    pub tenure: Tenure,
    pub restarts: Restarts,
    pub last_death: Option<Cause>,
}

#[derive(Clone, Debug)]
pub enum State {
    Starting(Process, Greeting),
    Standby(Process),
    Serving(Process),
    /// With one suspected stream alone.
    Isolated(Process),
    Draining(Process),
    /// Killed by us and not reaped yet.
    Ending(Process, KillReason, Reaping),
    /// Until then there is no process here.
    Backoff {
        until: Duration,
        patience: Patience,
    },
    /// No process will come here any more.
    Gone,
}

/// A process that hangs in the kernel does not die of SIGKILL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaping {
    Awaited {
        deadline: Duration,
    },
    /// It outlives its kill, for what these threads wait in. Its sessions wait for its end.
    Stuck {
        deadline: Duration,
        threads: String,
    },
    /// Nobody waits for it any more. Its sessions were closed, for it still owns them.
    GivenUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    Awaited,
    /// It said hello and warms up.
    Heard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Soon enough to let sessions wait for it.
    Short,
    /// Too many deaths: given up for a window.
    GivenUp,
}

/// Was it told to leave when its last session has ended?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    Unsaid,
    Said,
}

/// How long a slot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    Fixed,
    /// For a fresh worker while the one that it replaces still lives.
    Temporary,
    /// For a worker with this stream alone.
    Quarantine(SessionId),
}

/// One process of ours.
#[derive(Clone, Debug)]
pub struct Process {
    pub generation: Generation,
    pub pid: Option<i32>,
    pub since: Duration,
    /// When it was last heard of.
    pub heard: Duration,
    /// When its end of the channel closed: it is dead or dying.
    pub closed: Option<Duration>,
    pub sessions: BTreeSet<SessionId>,
    /// Sessions that are being moved here and still another's.
    pub arriving: BTreeSet<SessionId>,
    /// Of `sessions` and `arriving`, those that take a stream slot.
    pub streams: u32,
    pub farewell: Farewell,
    /// Since when it was told to go and has nothing to stay for.
    pub idle_since: Option<Duration>,
    pub sample: Sample,
    /// As it was told at its start.
    pub hang_deadline: Duration,
    pub suspicion: Option<Suspicion>,
    /// Its sessions that stand, as it told last.
    pub stalled: Vec<Stalled>,
    /// The session for whose standing it was killed.
    pub hung_session: Option<SessionId>,
    /// What it holds open for streams of others.
    pub spares: Spares,
}

impl Process {
    /// Sessions before publish.
    pub fn lobby(&self) -> usize {
        let all = self.sessions.len() + self.arriving.len();
        all.saturating_sub(usize::try_from(self.streams).unwrap_or(usize::MAX))
    }
}

impl Process {
    pub const fn take_stream(&mut self, seat: Seat) {
        match seat {
            Seat::Stream => self.streams += 1,
            Seat::Lobby => {}
        }
    }

    pub const fn leave_stream(&mut self, seat: Seat) {
        match seat {
            Seat::Stream => self.streams = self.streams.saturating_sub(1),
            Seat::Lobby => {}
        }
    }
}

impl Slot {
    /// Has it been told to go, with nothing to stay for, and is it still there?
    fn lingers(&mut self, now: Duration, patience: Duration) -> bool {
        let State::Draining(process) = &mut self.state else { return false };
        let goes = process.farewell == Farewell::Said
            && process.sessions.is_empty()
            && process.arriving.is_empty();
        process.idle_since = goes.then(|| process.idle_since.unwrap_or(now));
        process.idle_since.is_some_and(|since| now >= since + patience)
    }

    pub fn vacant(id: SlotId, role: Role, tenure: Tenure) -> Self {
        let restarts = Restarts::default();
        Self { id, role, state: State::Gone, tenure, restarts, last_death: None }
    }

    pub fn process(&self) -> Option<&Process> {
        match &self.state {
            State::Starting(process, _)
            | State::Standby(process)
            | State::Serving(process)
            | State::Isolated(process)
            | State::Draining(process)
            | State::Ending(process, ..) => Some(process),
            State::Backoff { .. } | State::Gone => None,
        }
    }

    pub fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.state {
            State::Starting(process, _)
            | State::Standby(process)
            | State::Serving(process)
            | State::Isolated(process)
            | State::Draining(process)
            | State::Ending(process, ..) => Some(process),
            State::Backoff { .. } | State::Gone => None,
        }
    }

    /// A warm worker begins to serve.
    pub fn promote(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Standby(process) => State::Serving(process),
            other @ (State::Starting(..)
            | State::Serving(_)
            | State::Isolated(_)
            | State::Draining(_)
            | State::Ending(..)
            | State::Backoff { .. }
            | State::Gone) => other,
        };
    }

    /// A worker takes nothing new any more.
    pub fn retire(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Standby(process) | State::Serving(process) | State::Isolated(process) => {
                State::Draining(process)
            }
            other @ (State::Starting(..)
            | State::Draining(_)
            | State::Ending(..)
            | State::Backoff { .. }
            | State::Gone) => other,
        };
    }

    /// Is there a process whose end is worth waiting for?
    pub fn is_alive(&self) -> bool {
        self.process().is_some() && !matches!(self.state, State::Ending(.., Reaping::GivenUp))
    }

    pub const fn state_name(&self) -> &'static str {
        match &self.state {
            State::Starting(..) => "starting",
            State::Standby(_) => "standby",
            State::Serving(_) => "serving",
            State::Isolated(_) => "quarantine",
            State::Draining(_) => "draining",
            State::Ending(..) => "ending",
            State::Backoff { .. } => "backoff",
            State::Gone => "gone",
        }
    }
}

impl<R: Rules> Core<R> {
    pub(super) fn slot_of(&self, generation: Generation) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.process().is_some_and(|p| p.generation == generation))
    }

    pub(super) fn process_mut(&mut self, generation: Generation) -> Option<&mut Process> {
        let at = self.slot_of(generation)?;
        self.slots[at].process_mut()
    }

    /// Fills every slot; the serving ones first.
    pub(super) fn start(&mut self, now: Duration) {
        for at in 0..self.slots.len() {
            self.spawn(now, at);
        }
    }

    pub(super) fn spawn(&mut self, now: Duration, at: usize) {
        let generation = Generation(self.next_generation);
        self.next_generation += 1;
        let slot = &mut self.slots[at];
        slot.state = State::Starting(
            Process {
                generation,
                pid: None,
                since: now,
                heard: now,
                closed: None,
                sessions: BTreeSet::new(),
                arriving: BTreeSet::new(),
                streams: 0,
                farewell: Farewell::Unsaid,
                idle_since: None,
                sample: Sample::default(),
                hang_deadline: self.settings.hang_deadline,
                suspicion: None,
                stalled: Vec::new(),
                hung_session: None,
                spares: Spares::default(),
            },
            Greeting::Awaited,
        );
        let effect = Effect::Spawn { slot: slot.id, role: slot.role, generation };
        self.effects.push(effect);
    }

    pub(super) fn spawned(&mut self, generation: Generation, pid: i32) {
        let Some(at) = self.slot_of(generation) else { return };
        let slot = self.slots[at].id;
        if let Some(process) = self.slots[at].process_mut() {
            process.pid = Some(pid);
        }
        let body = ToWorker::Hello { version: PROTOCOL_VERSION, slot };
        self.send(generation, body, Fds::None);
        let every = beat_interval(self.settings.hang_deadline);
        let every_ms = u32::try_from(every.as_millis()).unwrap_or(u32::MAX);
        self.send(generation, ToWorker::Beat { every_ms }, Fds::None);
        self.tell_task(generation, self.slots[at].role);
    }

    pub(super) fn hello(&mut self, now: Duration, generation: Generation, version: u16) {
        let Some(at) = self.slot_of(generation) else { return };
        if version != PROTOCOL_VERSION {
            let detail = format!("speaks version {version}, this server {PROTOCOL_VERSION}");
            self.announce_worker(at, Loudness::Error, "worker_incompatible", detail);
            self.kill(now, at, KillReason::Channel);
            return;
        }
        if let State::Starting(_, greeting) = &mut self.slots[at].state {
            *greeting = Greeting::Heard;
        }
    }

    pub(super) fn ready(&mut self, now: Duration, generation: Generation) {
        let Some(at) = self.slot_of(generation) else { return };
        let slot = &mut self.slots[at];
        if !matches!(slot.state, State::Starting(_, Greeting::Heard)) {
            self.ignored_frames += 1;
            return;
        }
        slot.state = match std::mem::replace(&mut slot.state, State::Gone) {
            State::Starting(process, Greeting::Heard) => match (slot.role, slot.tenure) {
                (Role::Worker, Tenure::Quarantine(_)) => State::Isolated(process),
                (Role::Worker, Tenure::Fixed | Tenure::Temporary) => State::Standby(process),
                (Role::Dialer | Role::Delivery | Role::Console, _) => State::Serving(process),
            },
            other @ (State::Starting(_, Greeting::Awaited)
            | State::Standby(_)
            | State::Serving(_)
            | State::Isolated(_)
            | State::Draining(_)
            | State::Ending(..)
            | State::Backoff { .. }
            | State::Gone) => other,
        };
        let role = self.slots[at].role.name();
        self.announce_worker(at, Loudness::Info, "worker_started", format!("{role} ready"));
        self.staff(now);
    }

    /// Promotes warm workers while too few serve, then places those who wait.
    pub(super) fn staff(&mut self, now: Duration) {
        while self.serving() < usize::from(self.settings.workers) {
            let standby = |slot: &Slot| matches!(slot.state, State::Standby(_));
            let Some(at) = self.slots.iter().position(standby) else { break };
            let slot = &mut self.slots[at];
            slot.promote();
        }
        self.place_waiting(now);
    }

    /// Is the process there, dying or not?
    pub(super) fn lives(&self, generation: Generation) -> bool {
        self.slot_of(generation).is_some_and(|at| self.slots[at].is_alive())
    }

    /// As operators read it: `w0/g7`, or the generation alone of one that is gone.
    pub(super) fn process_name(&self, generation: Generation) -> String {
        match self.slot_of(generation) {
            Some(at) => format!("{}/{generation}", self.slots[at].id),
            None => generation.to_string(),
        }
    }

    pub(super) fn serving(&self) -> usize {
        let serves =
            |slot: &&Slot| slot.role == Role::Worker && matches!(slot.state, State::Serving(_));
        self.slots.iter().filter(serves).count()
    }

    /// Will a worker serve soon without anybody's help?
    pub(super) fn worker_expected(&self) -> bool {
        self.stage == Stage::Running
            && self.serving() < usize::from(self.settings.workers)
            && self.slots.iter().any(|slot| {
                slot.role == Role::Worker
                    && !matches!(slot.tenure, Tenure::Quarantine(_))
                    && matches!(
                        slot.state,
                        State::Starting(..)
                            | State::Ending(.., Reaping::Awaited { .. })
                            | State::Backoff { patience: Patience::Short, .. }
                    )
            })
    }

    pub(super) fn kill(&mut self, now: Duration, at: usize, reason: KillReason) {
        let slot = &mut self.slots[at];
        let Some(generation) = slot.process().map(|process| process.generation) else { return };
        slot.state = match std::mem::replace(&mut slot.state, State::Gone) {
            State::Starting(process, _)
            | State::Standby(process)
            | State::Serving(process)
            | State::Isolated(process)
            | State::Draining(process) => {
                self.effects.push(Effect::Kill { generation });
                State::Ending(process, reason, Reaping::Awaited { deadline: now + REAP_DEADLINE })
            }
            other @ (State::Ending(..) | State::Backoff { .. } | State::Gone) => other,
        };
    }

    /// A closed channel is how a death is often noticed first. Killing at once would take the
    /// cause from the kernel's mouth, so the process has a moment to be reaped.
    pub(super) fn channel_lost(&mut self, now: Duration, generation: Generation, loss: &Loss) {
        let Some(at) = self.slot_of(generation) else { return };
        match loss {
            Loss::Closed => {
                if let Some(process) = self.slots[at].process_mut() {
                    process.closed = process.closed.or(Some(now));
                }
            }
            Loss::Broken(error) => {
                self.announce_worker(at, Loudness::Error, "worker_channel_broken", error.clone());
                self.kill(now, at, KillReason::Channel);
            }
        }
    }

    pub(super) fn check_slots(&mut self, now: Duration) {
        for at in 0..self.slots.len() {
            let closed = self.slots[at].process().and_then(|process| process.closed);
            if closed.is_some_and(|closed| now >= closed + CHANNEL_CLOSED_GRACE) {
                self.kill(now, at, KillReason::Channel);
            }
            let patience = self.leaving_patience(self.slots[at].role);
            if self.stage == Stage::Running && self.slots[at].lingers(now, patience) {
                self.kill(now, at, KillReason::Lingering);
            }
            match &self.slots[at].state {
                State::Starting(process, greeting) => {
                    let deadline = match greeting {
                        Greeting::Awaited => HELLO_DEADLINE,
                        Greeting::Heard => READY_DEADLINE,
                    };
                    if now >= process.since + deadline {
                        let detail = format!("not ready after {deadline:?}");
                        self.announce_worker(at, Loudness::Error, "worker_hung", detail);
                        self.kill(now, at, KillReason::Hung);
                    }
                }
                State::Standby(_) | State::Serving(_) | State::Isolated(_) | State::Draining(_) => {
                    self.watch_silence(now, at)
                }
                State::Backoff { until, .. } if now >= *until => self.spawn_in_turn(now, at),
                State::Ending(.., Reaping::Awaited { deadline }) if now >= *deadline => {
                    self.outlives_kill(now, at);
                }
                // A server that leaves waits for nobody.
                State::Ending(.., Reaping::Stuck { deadline, .. })
                    if now >= *deadline || self.stage != Stage::Running =>
                {
                    self.give_up(now, at);
                }
                State::Ending(..) | State::Backoff { .. } | State::Gone => {}
            }
        }
    }

    pub(super) fn announce_worker(
        &mut self,
        at: usize,
        loudness: Loudness,
        event: &'static str,
        detail: String,
    ) {
        let slot = &self.slots[at];
        let generation = slot.process().map_or(Generation(0), |process| process.generation);
        let announcement =
            Announcement::new(loudness, event, detail).of_worker(slot.id, generation);
        self.effects.push(Effect::Announce(announcement));
    }
}
