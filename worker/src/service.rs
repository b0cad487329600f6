//! What delivery and console have in common, the processes without sessions that grow: their end of
//! the control channel, signs of life, purges, and looks at their own memory.
//!
//! Purges and looks take milliseconds to tenths of a second, so they are done on other threads, one of
//! each kind at a time; viewers and operators are served meanwhile.

use crate::allocator;
use crate::control::{Line, LineError};
use crate::evidence;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tasuki_shared::id::SessionId;
use tasuki_shared::inherit::Inherited;
use tasuki_shared::limits::{BEAT_INTERVAL_MIN, HEARTBEAT_INTERVAL};
use tasuki_shared::message::{
    AllocatorFigures, ConsolePlan, DeliveryPlan, EvidenceKind, FromWorker, Heartbeat, ToWorker,
};
use tasuki_shared::plan::Plan;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// What its supervisor wants of a process beyond what all do alike.
#[derive(Debug)]
pub enum Order {
    /// Something that only one role knows, with its fds.
    Task(Task, Vec<OwnedFd>),
    /// Take nothing new, and go.
    Drain,
}

/// See the messages of the same names.
#[derive(Debug)]
pub enum Task {
    Serve(Box<DeliveryPlan>),
    Attend(Box<ConsolePlan>),
    StreamLive { session: SessionId, plan: Box<Plan> },
    StreamGone { session: SessionId },
}

/// See the module.
pub struct Service {
    line: Line,
    beats: Interval,
    heartbeats: Interval,
    work: JoinSet<Done>,
    purge: Work,
    look: Work,
    figures: Work,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Idle,
    UnderWay,
}

enum Done {
    Purged,
    Looked { ticket: u64, found: Result<OwnedFd, String> },
    Measured(Option<AllocatorFigures>),
}

impl Service {
    /// Says hello. Must be called inside a runtime.
    pub fn open(inherited: Inherited) -> Result<Self, LineError> {
        let mut heartbeats = interval(HEARTBEAT_INTERVAL);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            line: Line::open(inherited)?,
            beats: interval(HEARTBEAT_INTERVAL),
            heartbeats,
            work: JoinSet::new(),
            purge: Work::Idle,
            look: Work::Idle,
            figures: Work::Idle,
        })
    }

    pub fn send(&mut self, body: FromWorker) -> Result<(), LineError> {
        Ok(self.line.send(body, Vec::new())?)
    }

    /// Until everything that was said is in the kernel.
    pub async fn flushed(&mut self) -> Result<(), LineError> {
        Ok(self.line.flushed().await?)
    }

    /// The next order. To be waited for at all times, for the signs of life are given here;
    /// cancelling it loses nothing.
    pub async fn order(&mut self) -> Result<Order, LineError> {
        loop {
            tokio::select! {
                received = self.line.recv() => {
                    let (message, fds) = received?;
                    if let Some(order) = self.take(message, fds)? {
                        return Ok(order);
                    }
                }
                Some(done) = self.work.join_next() => {
                    // What panicked has said so, and the supervisor has deadlines of its own.
                    match done {
                        Ok(done) => self.tell(done)?,
                        Err(_) => (self.purge, self.look, self.figures) =
                            (Work::Idle, Work::Idle, Work::Idle),
                    }
                }
                _ = self.beats.tick() => {
                    self.send(FromWorker::Progress { stalled: Vec::new() })?;
                }
                _ = self.heartbeats.tick() => {
                    if begin(&mut self.figures) {
                        self.work.spawn_blocking(|| Done::Measured(allocator::figures()));
                    }
                }
            }
        }
    }

    fn take(&mut self, message: ToWorker, fds: Vec<OwnedFd>) -> Result<Option<Order>, LineError> {
        match message {
            ToWorker::Hello { .. } => {}
            ToWorker::Beat { every_ms } => {
                let every = Duration::from_millis(u64::from(every_ms));
                self.beats = interval(every.max(BEAT_INTERVAL_MIN));
            }
            ToWorker::Drain => return Ok(Some(Order::Drain)),
            // One that is under way is as good.
            ToWorker::Purge => {
                if begin(&mut self.purge) {
                    self.work.spawn_blocking(|| {
                        allocator::give_back();
                        Done::Purged
                    });
                }
            }
            ToWorker::Evidence { ticket, kind } => self.look(ticket, kind)?,
            ToWorker::Serve(plan) => return Ok(Some(Order::Task(Task::Serve(plan), fds))),
            ToWorker::Attend(plan) => return Ok(Some(Order::Task(Task::Attend(plan), fds))),
            ToWorker::StreamLive { session, plan } => {
                return Ok(Some(Order::Task(Task::StreamLive { session, plan }, fds)));
            }
            ToWorker::StreamGone { session } => {
                return Ok(Some(Order::Task(Task::StreamGone { session }, fds)));
            }
            // For workers and the dialer; a supervisor that sends one here is not ours.
            ToWorker::Adopt(_)
            | ToWorker::Verdict { .. }
            | ToWorker::Dialed { .. }
            | ToWorker::End { .. }
            | ToWorker::Prepare(_)
            | ToWorker::Unprepare { .. }
            | ToWorker::TakeOver { .. }
            | ToWorker::Release { .. }
            | ToWorker::Keep { .. }
            | ToWorker::Chaos(_)
            | ToWorker::Spare(_)
            | ToWorker::Connect { .. } => {
                tracing::warn!("a message for another role came here");
            }
        }
        Ok(None)
    }

    fn look(&mut self, ticket: u64, kind: EvidenceKind) -> Result<(), LineError> {
        if begin(&mut self.look) {
            self.work.spawn_blocking(move || Done::Looked { ticket, found: evidence::find(kind) });
            return Ok(());
        }
        let outcome = Err("this process looks at itself already".to_owned());
        self.send(FromWorker::Evidence { ticket, outcome })
    }

    fn tell(&mut self, done: Done) -> Result<(), LineError> {
        match done {
            Done::Purged => {
                self.purge = Work::Idle;
                self.send(FromWorker::Purged)
            }
            Done::Looked { ticket, found } => {
                self.look = Work::Idle;
                let (outcome, fds) = match found {
                    Ok(memfd) => (Ok(()), vec![memfd]),
                    Err(error) => (Err(error), Vec::new()),
                };
                Ok(self.line.send(FromWorker::Evidence { ticket, outcome }, fds)?)
            }
            Done::Measured(allocator) => {
                self.figures = Work::Idle;
                let heartbeat = Heartbeat { session: None, lobby: 0, allocator, spare_codecs: 0 };
                self.send(FromWorker::Heartbeat(Box::new(heartbeat)))
            }
        }
    }
}

/// Whether it was idle; it is under way now.
fn begin(work: &mut Work) -> bool {
    std::mem::replace(work, Work::UnderWay) == Work::Idle
}
