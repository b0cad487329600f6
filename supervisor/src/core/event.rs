//! What the shell tells the core and what the core tells the shell to do.

use super::memory::HostMemory;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tasuki_shared::exit::Exit;
use tasuki_shared::id::{Generation, PushId, SessionId, SlotId};
use tasuki_shared::kernel::Death;
use tasuki_shared::memory::session::WorkPlace;
use tasuki_shared::message::{EndReason, FromWorker, Haste, Owner, Role, ToWorker};
use tasuki_shared::status::Reply;
use tasuki_shared::threads::Looks;

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Once, before everything else.
    Started,
    /// Every `TICK_INTERVAL`, and whenever nothing else happens.
    Tick,
    /// A connection came in; the shell holds its socket under this id.
    Accepted {
        session: SessionId,
        peer: SocketAddr,
    },
    Spawned {
        generation: Generation,
        pid: i32,
    },
    SpawnFailed {
        generation: Generation,
        error: String,
    },
    /// A frame on the control channel of the process of `channel`. An fd that came with a
    /// `Connected` of a dialer is held by the shell under its ticket; from anybody else it was
    /// closed.
    Frame {
        channel: Generation,
        claimed: Generation,
        body: FromWorker,
    },
    ChannelLost {
        generation: Generation,
        loss: Loss,
    },
    /// Reaped: no thread of it runs any more.
    Died {
        generation: Generation,
        death: Death,
        killer: Killer,
        /// Its sessions whose memory says that it was at work on them, and where.
        processing: BTreeMap<SessionId, WorkPlace>,
    },
    /// The answer to `Effect::Examine`.
    Examined {
        generation: Generation,
        threads: Looks,
    },
    /// The answer to `Effect::NameStuckThreads`.
    StuckThreadsNamed {
        generation: Generation,
        threads: String,
    },
    /// A frame about this session could not be sent for want of something on our side, with or
    /// without the fds it was to carry.
    ResourceFailed {
        session: SessionId,
        fds: Fds,
        what: String,
    },
    Sampled {
        cpu_percent: f32,
        host: HostMemory,
        workers: Vec<(Generation, Sample)>,
    },
    /// The answer to `Effect::ReadOwner`; `None` where the word is damaged or its memory gone.
    OwnerRead {
        session: SessionId,
        owner: Option<Owner>,
    },
    /// An operator recycles one worker or all; answered under the ticket.
    Rotate {
        ticket: u64,
        worker: Option<String>,
        reason: String,
        haste: Haste,
    },
    /// An operator moves a session; answered under the ticket.
    Move {
        ticket: u64,
        session: SessionId,
        haste: Haste,
    },
    /// An operator lets the node run empty.
    Drain,
    /// An operator ends a session.
    EndSession {
        session: SessionId,
    },
    /// The answer to `Effect::SaveEvidence`, always and within `EVIDENCE_DEADLINE`. What could be had
    /// lies in the directory; without a directory nothing was saved.
    EvidenceSaved {
        recycle: u64,
        generation: Generation,
        path: Option<String>,
    },
    /// SIGTERM or SIGINT. The second one means at once.
    Terminate,
}

/// Who sent a SIGKILL that we did not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killer {
    /// Nothing speaks for the kernel.
    Somebody,
    /// The kernel, short of memory: it has counted one more.
    OutOfMemory,
}

/// How a channel became useless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The peer's end is closed.
    Closed,
    /// The peer does not read, or broke the protocol.
    Broken(String),
}

/// Measured from outside the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    pub footprint_bytes: u64,
    pub rss_bytes: u64,
    pub lazy_free_bytes: u64,
    /// Logs and other shared memory, as often as it is mapped.
    pub shared_bytes: u64,
    pub threads: u32,
    pub fds: u32,
    /// How old the figures of memory are.
    pub measured_ago: Duration,
    /// Of one core.
    pub cpu_percent: f32,
}

/// What the shell shall do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Spawn {
        slot: SlotId,
        role: Role,
        generation: Generation,
    },
    Send {
        to: Generation,
        body: ToWorker,
        fds: Fds,
    },
    /// SIGKILL. `Event::Died` follows.
    Kill {
        generation: Generation,
    },
    /// Look at the threads that answer for a process. `Event::Examined` follows, before any event from
    /// outside.
    Examine {
        generation: Generation,
    },
    /// Which threads of a killed process the kernel does not let go. `Event::StuckThreadsNamed`
    /// follows.
    NameStuckThreads {
        generation: Generation,
    },
    /// Shut the session's socket down and close everything held for it.
    Close {
        session: SessionId,
    },
    /// Close our dup of a push's connection.
    DropPush {
        session: SessionId,
        push: PushId,
    },
    /// Close the socket that came with this ticket.
    DropDialed {
        ticket: u64,
    },
    /// `Event::OwnerRead` follows, before any event from outside and before anything is spawned.
    ReadOwner {
        session: SessionId,
    },
    /// A hand-off is over: the eventfd made for it is not needed any more.
    DropBell {
        session: SessionId,
    },
    /// For the client of the status socket with this ticket. All but `Recycled` are the last.
    /// `RecycleStatus::unix_ms` is still counted from the supervisor's start.
    Reply {
        ticket: u64,
        reply: Box<Reply>,
    },
    StopListening,
    /// Save what can be learnt of a worker before it is recycled. `Event::EvidenceSaved` follows.
    SaveEvidence {
        recycle: u64,
        generation: Generation,
    },
    /// For the log and for those who watch.
    Announce(Announcement),
    /// Everything is over.
    Leave(Exit),
}

/// Which fds go with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fds {
    None,
    /// Socket and session memfd, made if there is none yet; with a live lease also its logs,
    /// push memfds and connected pushes.
    Session(SessionId),
    /// The logs and push memfds of the plan in this verdict, made if there are none yet.
    Logs(SessionId),
    /// As `Session` for a hand-off, and last an eventfd that is made now.
    Preparation(SessionId),
    /// The eventfd of the preparation.
    Bell(SessionId),
    /// Those that a process of this role serves.
    Listeners(Role),
    /// The logs of a live stream, open for reading alone.
    ReadOnlyLogs(SessionId),
    /// The socket that came with `ticket`; our dup of it becomes the push's connection.
    Dialed {
        session: SessionId,
        push: PushId,
        ticket: u64,
    },
}

/// One line for operators.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    pub loudness: Loudness,
    pub event: &'static str,
    pub session: Option<SessionId>,
    pub name: Option<String>,
    pub worker: Option<String>,
    /// Whose doing it is, where that is a peer: noise is held down for each.
    pub peer: Option<IpAddr>,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loudness {
    Info,
    Warn,
    Error,
}

impl Announcement {
    pub fn new(loudness: Loudness, event: &'static str, detail: impl Into<String>) -> Self {
        Self {
            loudness,
            event,
            session: None,
            name: None,
            worker: None,
            peer: None,
            detail: detail.into(),
        }
    }

    pub fn of_session(mut self, session: SessionId, name: Option<String>) -> Self {
        self.session = Some(session);
        self.name = name;
        self
    }

    pub fn of_peer(mut self, peer: IpAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    pub fn of_worker(mut self, slot: SlotId, generation: Generation) -> Self {
        self.worker = Some(format!("{slot}/{generation}"));
        self
    }
}

/// Is this the end of a session that an operator should read about?
pub fn loudness_of(reason: &EndReason) -> Loudness {
    match reason {
        EndReason::WorkerDied | EndReason::AdoptFailed(_) | EndReason::Resource(_) => {
            Loudness::Error
        }
        EndReason::PeerReset(_)
        | EndReason::Protocol(_)
        | EndReason::Silent
        | EndReason::Limit(_)
        | EndReason::Refused(_) => Loudness::Warn,
        EndReason::Unpublished
        | EndReason::PeerClosed
        | EndReason::LobbyTimeout
        | EndReason::Shutdown
        | EndReason::TakenOver
        | EndReason::Operator => Loudness::Info,
    }
}
