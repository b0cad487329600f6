//! What the supervisor decides. Pure: `handle(now, event)` returns effects, in order.
//!
//! Time is a duration since the supervisor's start and comes with each event. No clock, fd, log
//! or randomness of its own. Everything a worker says is checked against what is leased to it; what
//! is not is counted and ignored.
//!
//! | file | decides |
//! |---|---|
//! | [`worker`] | life cycles of processes in slots |
//! | [`service`] | processes without sessions: their tasks, their leaving |
//! | [`reap`] | what follows when one has died |
//! | [`restart`] | why it died, and when it is replaced |
//! | [`hang`] | which one hangs, and what of one that outlives its kill |
//! | [`deaths`] | what is told of those that died |
//! | [`poison`] | which stream is to blame, quarantine |
//! | [`admission`] | which worker gets a connection, or who refuses it |
//! | [`lease`] | adoption, orphans, ends |
//! | [`publish`] | verdicts, names, stream slots |
//! | [`handoff`] | one session's way to another worker |
//! | [`owner_word`] | what becomes of it by what its owner word says |
//! | [`recycle`] | replacing a worker under its sessions |
//! | [`fresh`] | the fresh processes for that, and temporary slots |
//! | [`rotation`] | which recycles, in which order, and who is told |
//! | [`delivery`] | what is told of live streams to who serves viewers |
//! | [`audience`] | who these viewers are, over all processes |
//! | [`dial`] | connections that pushes ask for |
//! | [`memory`] | which worker has grown too much |
//! | [`drain`] | leaving |
//! | [`spares`] | which codecs those that stand by hold open |
//! | [`evidence`] | what is kept of a worker that leaves |
//! | [`totals`] | what is counted |
//! | [`report`] | what the status socket says |

pub mod admission;
pub mod audience;
pub mod deaths;
pub mod delivery;
pub mod dial;
pub mod drain;
pub mod event;
pub mod evidence;
pub mod fresh;
pub mod handoff;
pub mod hang;
pub mod lease;
pub mod memory;
pub mod owner_word;
pub mod poison;
pub mod publish;
pub mod reap;
pub mod recycle;
pub mod report;
pub mod restart;
pub mod rotation;
pub mod service;
pub mod settings;
pub mod spares;
pub mod totals;
pub mod tried;
pub mod worker;

use admission::Seats;
use audience::Audiences;
use dial::Dial;
use event::{Announcement, Effect, Event, Fds};
use lease::Session;
use recycle::Recycle;
use restart::Jitter;
use settings::{Rules, Settings};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tasuki_shared::id::{Generation, PublicName, SessionId, SlotId};
use tasuki_shared::message::{FromWorker, Role, ToWorker};
use worker::{Slot, Tenure};

/// Where the server is in its own life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Running,
    /// Nothing new; live sessions may go on until then, if there is an end.
    Draining {
        until: Option<Duration>,
    },
    /// Every session was told to end; workers are killed then.
    Closing {
        until: Duration,
    },
    /// No worker is left; dialer, delivery and console were told to go, and are killed then.
    Parting {
        until: Duration,
    },
    Left,
}

/// Everything the supervisor knows.
#[derive(Debug)]
pub struct Core<R> {
    settings: Settings,
    rules: R,
    slots: Vec<Slot>,
    sessions: BTreeMap<SessionId, Session>,
    seats: Seats,
    /// Sessions whose owner died, oldest first.
    orphans: VecDeque<SessionId>,
    /// Connections that wait for a worker to start.
    arrivals: VecDeque<SessionId>,
    /// Until then streams of a worker that died are being taken up by others.
    rescue_ends: Duration,
    /// Live streams by application and public name.
    names: BTreeMap<(String, PublicName), SessionId>,
    dials: BTreeMap<u64, Dial>,
    /// Oldest first; those that are over are kept for a while.
    recycles: Vec<Recycle>,
    next_recycle: u64,
    /// Was the configuration read again while the workers were being replaced?
    rotates_again: bool,
    memory: memory::policy::Policy,
    stage: Stage,
    next_generation: u32,
    next_ticket: u64,
    cpu_percent: f32,
    /// As measured last.
    host: memory::HostMemory,
    deaths: VecDeque<deaths::Death>,
    /// Streams of which it is not told yet where they went after a death.
    bereaved: BTreeSet<SessionId>,
    /// By reason, since start.
    refusals: BTreeMap<&'static str, u64>,
    sessions_total: u64,
    totals: totals::Totals,
    audiences: Audiences,
    /// Pictures that no owner encoded for want of a keyframe to go on from.
    frames_lost: u64,
    /// Frames about what is not leased to their sender, or of a wrong generation.
    ignored_frames: u64,
    jitter: Jitter,
    effects: Vec<Effect>,
}

impl<R: Rules> Core<R> {
    /// `seed` makes the jitter reproducible.
    pub fn new(settings: Settings, rules: R, seed: u64) -> Self {
        let roles =
            std::iter::repeat_n(Role::Worker, usize::from(settings.workers + settings.standby))
                .chain([Role::Dialer])
                .chain(settings.delivery.iter().map(|_| Role::Delivery))
                .chain(settings.console.iter().map(|_| Role::Console));
        let slots = (0..)
            .zip(roles)
            .map(|(id, role)| Slot::vacant(SlotId(id), role, Tenure::Fixed))
            .collect();
        let memory = memory::policy::Policy::new(
            settings.memory.clone(),
            u32::from(settings.workers + settings.standby),
            settings.streams_per_worker,
        );
        Self {
            settings,
            rules,
            slots,
            sessions: BTreeMap::new(),
            seats: Seats::default(),
            orphans: VecDeque::new(),
            arrivals: VecDeque::new(),
            rescue_ends: Duration::ZERO,
            names: BTreeMap::new(),
            dials: BTreeMap::new(),
            recycles: Vec::new(),
            next_recycle: 1,
            rotates_again: false,
            memory,
            stage: Stage::Running,
            next_generation: 1,
            next_ticket: 1,
            cpu_percent: 0.0,
            host: memory::HostMemory::default(),
            deaths: VecDeque::new(),
            bereaved: BTreeSet::new(),
            refusals: BTreeMap::new(),
            sessions_total: 0,
            totals: totals::Totals::default(),
            audiences: Audiences::default(),
            frames_lost: 0,
            ignored_frames: 0,
            jitter: Jitter::new(seed),
            effects: Vec::new(),
        }
    }

    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        self.apply(now, event);
        std::mem::take(&mut self.effects)
    }

    /// The same into room that is used again from event to event.
    pub fn handle_into(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        self.apply(now, event);
        effects.append(&mut self.effects);
    }

    fn apply(&mut self, now: Duration, event: Event) {
        match event {
            Event::Started => self.start(now),
            Event::Tick => self.tick(now),
            Event::Accepted { session, peer } => self.accepted(now, session, peer),
            Event::Spawned { generation, pid } => self.spawned(generation, pid),
            Event::SpawnFailed { generation, error } => {
                if let Some(at) = self.slot_of(generation) {
                    self.announce_worker(at, event::Loudness::Error, "spawn_failed", error);
                }
                self.died(now, generation, None, &BTreeMap::new());
            }
            Event::Frame { channel, claimed, body } => self.frame(now, channel, claimed, body),
            Event::ChannelLost { generation, loss } => self.channel_lost(now, generation, &loss),
            Event::Died { generation, death, killer, processing } => {
                self.died(now, generation, Some((death, killer)), &processing);
            }
            Event::Examined { generation, threads } => self.examined(now, generation, threads),
            Event::StuckThreadsNamed { generation, threads } => {
                self.stuck_threads_named(generation, threads);
            }
            Event::ResourceFailed { session, fds, what } => {
                self.resource_failed(now, session, fds, what);
            }
            Event::Sampled { cpu_percent, host, workers } => {
                // A moment's peak, a build or a cron job, refuses nobody.
                self.cpu_percent = f32::midpoint(self.cpu_percent, cpu_percent);
                self.host = host;
                for (generation, sample) in workers {
                    if let Some(process) = self.process_mut(generation) {
                        process.sample = sample;
                    }
                }
                self.judge_memory(now, host);
            }
            Event::EndSession { session } => {
                self.end_session(now, session, tasuki_shared::message::EndReason::Operator);
            }
            Event::OwnerRead { session, owner } => self.owner_read(now, session, owner),
            Event::Rotate { ticket, worker, reason, haste } => {
                self.rotate(now, ticket, worker.as_deref(), &reason, haste);
            }
            Event::Move { ticket, session, haste } => {
                self.move_session(now, ticket, session, haste);
            }
            Event::Drain => self.drain(now),
            Event::EvidenceSaved { recycle, generation, path } => {
                self.evidence_saved(recycle, generation, path);
            }
            Event::Terminate => self.terminate(now),
        }
        self.after(now);
    }

    /// What may follow from any event.
    fn after(&mut self, now: Duration) {
        self.run_recycles(now);
        self.end_quarantines(now);
        self.leave_when_empty(now);
        self.tell_spares(now);
        self.drop_temporary_slots();
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    pub fn has_session(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    pub fn serves(&self) -> bool {
        self.serving() > 0
    }

    fn tick(&mut self, now: Duration) {
        self.check_drain(now);
        self.check_sessions(now);
        self.check_dials(now);
        self.check_slots(now);
        self.let_out_of_quarantine(now);
        self.staff(now);
    }

    fn frame(&mut self, now: Duration, channel: Generation, claimed: Generation, body: FromWorker) {
        let Some(process) = self.process_mut(channel).filter(|_| channel == claimed) else {
            self.ignore(channel, &body);
            return;
        };
        process.hear(now);
        match body {
            FromWorker::Hello { version, pid: _ } => self.hello(now, channel, version),
            FromWorker::Ready => self.ready(now, channel),
            FromWorker::Adopted { session, at_us } => {
                self.memory.took_session(channel);
                self.adopted(now, channel, session, at_us);
            }
            FromWorker::Prepared { session } => self.prepared(now, channel, session),
            FromWorker::PrepareFailed { session, reason } => {
                self.prepare_failed(now, channel, session, reason);
            }
            FromWorker::Released { session, cut } => self.released(now, channel, session, cut),
            FromWorker::ReleaseFailed { session, reason } => {
                self.release_failed(now, channel, session, reason);
            }
            FromWorker::AdoptFailed { session, reason } => {
                self.adopt_failed(now, channel, session, reason);
            }
            FromWorker::Authorize { session, request } => {
                self.authorize(now, channel, session, request);
            }
            FromWorker::Dial { session, push } => self.dial(now, channel, session, push),
            FromWorker::PushClosed { session, push } => self.push_closed(channel, session, push),
            FromWorker::Ended { session, reason } => self.ended(now, channel, session, reason),
            FromWorker::Heartbeat(heartbeat) => self.heartbeat(now, channel, *heartbeat),
            FromWorker::Progress { stalled } => self.progress(now, channel, stalled),
            FromWorker::Codecs { session, needs } => self.codecs(channel, session, needs),
            FromWorker::Audience(audience) => self.audience(channel, *audience),
            FromWorker::Purged => self.memory.purged(now, channel),
            FromWorker::Notice { session, notice } => self.notice(channel, session, &notice),
            FromWorker::Connected { ticket, outcome } => {
                self.connected(now, channel, ticket, outcome);
            }
            // The shell takes these; none of them concerns a decision.
            FromWorker::Evidence { .. } => self.ignored_frames += 1,
        }
    }

    /// A frame that its sender had no right to. What came with it is dropped.
    fn ignore(&mut self, channel: Generation, body: &FromWorker) {
        self.ignored_frames += 1;
        if let FromWorker::Connected { ticket, outcome: Ok(()) } = body {
            self.drop_dialed(channel, *ticket);
        }
    }

    fn send(&mut self, to: Generation, body: ToWorker, fds: Fds) {
        self.effects.push(Effect::Send { to, body, fds });
    }

    fn announce(&mut self, announcement: Announcement) {
        self.effects.push(Effect::Announce(announcement));
    }
}

#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
