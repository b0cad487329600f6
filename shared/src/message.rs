//! What supervisor and worker (or dialer) say to each other. See docs/PROTOCOL.md.
//!
//! Direction is a type: the supervisor can only send [`ToWorker`], a worker only [`FromWorker`].
//! Messages only confirm what the owner word says; they never replace it.

use crate::id::{Generation, PublicName, PushId, SessionId, SlotId, StreamKey};
use crate::plan::Plan;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Raised with every incompatible change of this file or of the session memory.
pub const PROTOCOL_VERSION: u16 = 8;

/// What a process of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    Worker,
    Dialer,
    Delivery,
    Console,
}

/// Every frame carries the generation of the worker it is from or for; a stale one is ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    pub generation: Generation,
    pub body: T,
}

/// Supervisor → worker or dialer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// First frame on the channel.
    Hello { version: u16, slot: SlotId },
    /// A session to adopt. Fds: socket, session memfd, then those of `lease.live`.
    Adopt(Box<Lease>),
    /// The answer to `Authorize`. Fds when allowed: one memfd per `plan.logs()`, then one push
    /// memfd per `plan.pushes`.
    Verdict { session: SessionId, verdict: Verdict },
    /// The answer to `Dial`. Fd when ok: the connected socket.
    Dialed { session: SessionId, push: PushId, outcome: Result<(), DialError> },
    /// End this session: say goodbye, shut down, report `Ended`.
    End { session: SessionId, reason: EndReason },
    /// Take no new sessions; leave with `Exit::Done` when the last has ended.
    Drain,
    /// A session that its owner will release to you: map it, follow it, say `Prepared`. Fds: those
    /// of `Adopt`, and last an eventfd that the owner rings when it has released the session.
    /// `lease.expect` is what the owner word will say then.
    Prepare(Box<Lease>),
    /// Forget a preparation; the session stays with its owner.
    Unprepare { session: SessionId },
    /// Take a prepared session, warm, from what the word says now: its owner is dead, or may not
    /// have rung. Means nothing where the session is taken already.
    TakeOver { session: SessionId, expect: Owner },
    /// Give the session to `to`, which is prepared: at the cut that `haste` allows, commit, release
    /// the owner word, ring. Fd: the eventfd of `Prepare`.
    Release { session: SessionId, to: Generation, haste: Haste },
    /// Go on as the owner, unless it is released already.
    Keep { session: SessionId },
    /// Give unused memory back to the kernel, then say `Purged`.
    Purge,
    /// Leak on purpose; see `[chaos]` of the configuration.
    Chaos(ChaosPlan),
    /// Dialer only. The answer is `FromWorker::Connected` with the same ticket.
    Connect { ticket: u64, host: String, port: u16 },
    /// Look at yourself. Answered by `FromWorker::Evidence` with the same ticket.
    Evidence { ticket: u64, kind: EvidenceKind },
    /// Say `Progress` this often.
    Beat { every_ms: u32 },
    /// Hold these codecs open for streams whose worker may die, and close those that are in no list
    /// any more.
    Spare(Box<SpareList>),
    /// Delivery only: what to serve. Fds: the listeners.
    Serve(Box<DeliveryPlan>),
    /// Console only: whom to ask and whom to answer. Fds: the listeners, those of the page first.
    Attend(Box<ConsolePlan>),
    /// Delivery only: a live stream whose logs viewers may read, `plan.for_viewers()`. Fds: one per
    /// `plan.logs()`, open for reading alone.
    StreamLive { session: SessionId, plan: Box<Plan> },
    /// Delivery only: nothing more comes in the logs of this session.
    StreamGone { session: SessionId },
}

/// Worker or dialer → supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// First frame on the channel.
    Hello {
        version: u16,
        pid: i32,
    },
    /// Warm: libraries are loaded and their first use has been paid for.
    Ready,
    /// The owner word is ours. `at_us`: `clock::monotonic_us` when its first byte could be handled.
    Adopted {
        session: SessionId,
        at_us: u64,
    },
    /// A prepared session could be gone on with at any moment.
    Prepared {
        session: SessionId,
    },
    PrepareFailed {
        session: SessionId,
        reason: String,
    },
    /// The owner word is the taker's; this process touches the session no more.
    Released {
        session: SessionId,
        cut: CutReport,
    },
    /// It cannot be released now; this process goes on as the owner.
    ReleaseFailed {
        session: SessionId,
        reason: KeepReason,
    },
    /// The owner word was not what the lease expected, or the memory is damaged.
    AdoptFailed {
        session: SessionId,
        reason: String,
    },
    /// A publish was parsed. Answered by `Verdict`.
    Authorize {
        session: SessionId,
        request: PublishRequest,
    },
    /// A push wants a connection. Answered by `Dialed`.
    Dial {
        session: SessionId,
        push: PushId,
    },
    /// A push's connection is shut down; the supervisor drops its dup.
    PushClosed {
        session: SessionId,
        push: PushId,
    },
    /// The socket is shut down; every fd of the session may be closed.
    Ended {
        session: SessionId,
        reason: EndReason,
    },
    /// Periodic; one per live session, and one with `session: None` for the worker itself.
    Heartbeat(Box<Heartbeat>),
    /// What the allocator kept for later is the kernel's again.
    Purged,
    /// Something an operator should read.
    Notice {
        session: Option<SessionId>,
        notice: Notice,
    },
    /// Dialer only. Fd when ok: the connected socket.
    Connected {
        ticket: u64,
        outcome: Result<(), DialError>,
    },
    /// The answer to `ToWorker::Evidence`. Fd when ok: a memfd with what was found.
    Evidence {
        ticket: u64,
        outcome: Result<(), String>,
    },
    /// A sign of life, with those of the live sessions in which something waits and nothing moves.
    Progress {
        stalled: Vec<Stalled>,
    },
    /// What the codecs of a session were opened with: one decoder and one encoder for each rung that
    /// is encoded. Said when they have given their first frame, and when they change.
    Codecs {
        session: SessionId,
        needs: Vec<CodecNeed>,
    },
    /// Delivery only, periodic: whom it serves.
    Audience(Box<Audience>),
}

/// What one codec is opened with. Only workers read it; equal bytes are codecs of which either may
/// stand in for the other. At most `CODEC_NEED_BYTES_MAX`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CodecNeed(pub Vec<u8>);

/// Codecs that a worker which stands by holds open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareList {
    /// Each with how many, at most `SPARE_KINDS_MAX` kinds and `SPARE_CODECS_MAX` in all.
    pub codecs: Vec<(CodecNeed, u32)>,
    /// What they may allocate together. What does not fit is not opened.
    pub bytes_max: u64,
}

/// Whom a delivery process serves now, and what it has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audience {
    pub connections: u32,
    /// Requests that wait for what is not there yet.
    pub waits: u32,
    /// Over HTTP and over WebSockets.
    pub flv_viewers: u32,
    /// Of these by session, those with the most viewers, at most `AUDIENCE_STREAMS_MAX`.
    pub flv_by_session: Vec<(SessionId, u32)>,
    pub served: Served,
}

/// What a delivery process has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Connections closed because there were `connections_max`.
    pub refused_full: u64,
    /// Those closed because one address had `connections_per_address_max`.
    pub refused_crowded: u64,
    /// Requests answered, by the class of the status: 1xx (a WebSocket), 2xx and so on.
    pub answers: [u64; 5],
    /// What sockets took: bodies with their heads, and what TLS adds.
    pub sent_bytes: u64,
    /// Times that a log overtook an FLV viewer, who went on at a keyframe.
    pub flv_jumps: u64,
    /// FLV viewers closed for taking nothing.
    pub flv_stalled: u64,
}

/// A live session that stands although there is work for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalled {
    pub session: SessionId,
    pub what: StalledPart,
    /// For how long, not counting time in which its threads had no processor.
    pub for_ms: u32,
}

/// What of a session does not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StalledPart {
    /// Bytes wait in its socket and nobody reads them.
    Input,
    /// Packets wait and its codecs take none.
    Pipeline,
}

/// What only a process itself can tell of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EvidenceKind {
    /// What is allocated now and where it was: a gzipped pprof profile with symbols.
    Heap,
    /// jemalloc's own statistics, as text.
    Allocator,
}

/// How long an owner may look for a good cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Haste {
    /// At the next IDR that all rungs have anyway.
    #[default]
    Scheduled,
    /// After the frame in hand.
    Now,
    /// As `Now`, and even where frames are lost because decoding has no anchor in the log.
    AtAnyPrice,
}

/// Why an owner does not release a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum KeepReason {
    /// Its source log lacks the keyframe that the next frame needs, and the source sent none in
    /// time. It may be tried again.
    #[error("no anchor: the source sent no keyframe in time")]
    NoAnchor,
    #[error("{0}")]
    Other(String),
}

/// Can the next owner decode the frame after the cut?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Anchor {
    #[default]
    InLog,
    /// What comes before the source's next keyframe is lost.
    Gone,
}

/// Where a session was cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutReport {
    /// `clock::monotonic_us` when the owner had handled its last byte.
    pub released_us: u64,
    pub anchor: Anchor,
    /// Frames received until then that no owner will encode, for want of an anchor. The next owner
    /// counts on, in its status.
    pub frames_lost: u64,
}

/// What a delivery process serves, and to how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryPlan {
    /// Streams have their directories below it.
    pub hls_root: PathBuf,
    /// Certificate chain and key, PEM; plain HTTP without.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Access-Control-Allow-Origin.
    pub allow_origin: String,
    pub connections_max: u32,
    /// How long viewers may go on when the process is to leave.
    pub drain_ms: u32,
    /// Of one address or IPv6 /64; 0 is no bound.
    pub connections_per_address_max: u32,
}

/// What a console process shows, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsolePlan {
    /// All it knows and does goes through this.
    pub status_socket: PathBuf,
    /// Holds what a client has to send; without one, only loopback is listened on.
    pub token_file: Option<PathBuf>,
    /// Streams have their thumbnails below it.
    pub hls_root: PathBuf,
    /// Of the listeners, the last ones that are HAProxy's agent checks.
    pub agent_checks: u8,
}

/// A worker's right to a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    pub session: SessionId,
    pub peer: SocketAddr,
    /// What the owner word says until the taker's CAS.
    pub expect: Owner,
    pub admission: Admission,
    /// Present when the session has been authorised before.
    pub live: Option<LiveLease>,
}

/// Whether this session may publish or must be told why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    Admit,
    /// Speak RTMP just far enough to refuse with this reason.
    Refuse(RefuseReason),
}

/// What travels with a session that has its logs. Fds after socket and session memfd: one per
/// `plan.logs()`, one push memfd per `plan.pushes`, one socket per entry of `connected`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveLease {
    pub plan: Plan,
    pub connected: Vec<PushId>,
}

/// The owner word's meaning; see `memory::owner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// Nobody yet: a session made by the supervisor at accept, offered to anyone.
    Offered(Generation),
    Held(Generation),
}

/// A publish as the publisher asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRequest {
    /// Application of the `connect` command, at most 128 bytes.
    pub app: String,
    /// Stream name of the `publish` command without its query.
    pub key: StreamKey,
    /// Query part of the stream name or tcUrl, without `?`. May carry a secret.
    pub query: StreamKey,
    pub flash_version: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    Allow(Box<Plan>),
    Refuse(RefuseReason),
}

/// Why a publish is refused. The publisher reads `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum RefuseReason {
    #[error("server full: no free stream slot")]
    NoSlot,
    #[error("server full: processor at its limit")]
    NoCpu,
    #[error("server full: host-wide session limit")]
    HostCap,
    #[error("server is shutting down")]
    Draining,
    #[error("unknown application")]
    UnknownApp,
    #[error("stream key not accepted")]
    BadKey,
    #[error("stream name not allowed")]
    BadName,
    #[error("a stream of this name is already live")]
    NameTaken,
    #[error("authorisation did not answer in time")]
    NoVerdict,
    #[error("this session already publishes")]
    AlreadyPublishing,
    #[error("no worker available")]
    NoWorker,
    #[error("only publishing is served here; watch at the origin")]
    PlayUnsupported,
    #[error("server out of memory or file descriptors")]
    NoResource,
    #[error("server full: the memory that is left is kept for recovery")]
    NoMemory,
    #[error("this stream ended the worker process it was in, again and again")]
    Poison,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum EndReason {
    #[error("the publisher unpublished")]
    Unpublished,
    #[error("the publisher closed the connection")]
    PeerClosed,
    #[error("the connection broke: {0}")]
    PeerReset(String),
    #[error("refused: {0}")]
    Refused(RefuseReason),
    #[error("protocol violation: {0}")]
    Protocol(String),
    #[error("nothing was received for too long")]
    Silent,
    #[error("no publish in time")]
    LobbyTimeout,
    #[error("the server shuts down")]
    Shutdown,
    #[error("taken over by a new publisher of the same name")]
    TakenOver,
    #[error("an operator ended it")]
    Operator,
    #[error("its worker died")]
    WorkerDied,
    #[error("a limit was exceeded: {0}")]
    Limit(String),
    #[error("its memory could not be adopted: {0}")]
    AdoptFailed(String),
    #[error("the server ran out of {0}")]
    Resource(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum DialError {
    #[error("cannot resolve {host}: {reason}")]
    Resolve { host: String, reason: String },
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("no answer in time")]
    Timeout,
    #[error("too many dials at once")]
    Busy,
    #[error("the dialer is away")]
    NoDialer,
}

/// Rare events, already rate-limited by the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    PushLive {
        push: PushId,
    },
    PushLost {
        push: PushId,
        reason: String,
    },
    RecordStarted {
        path: String,
    },
    RecordStopped {
        reason: String,
    },
    HlsStarted {
        directory: String,
    },
    /// Tried again after a while.
    HlsStopped {
        reason: String,
    },
    /// A rendition that can be none; the others go on.
    HlsLeft {
        label: String,
        reason: String,
    },
    Overload {
        lag_ms: u64,
    },
    OverloadOver {
        frames_dropped: u64,
    },
    /// A new owner finds no keyframe to go on from: frames are lost until the source's next.
    NoAnchor,
    /// So many, now that it has one, or the stream is over.
    FramesLost {
        frames: u64,
    },
    InputFault {
        kind: String,
        count: u64,
    },
    Pipeline {
        event: String,
    },
}

/// What a worker says of itself or of one session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub session: Option<crate::status::SessionStatus>,
    /// Sessions before publish.
    pub lobby: u32,
    /// Of the worker itself; not in a session's.
    pub allocator: Option<AllocatorFigures>,
    /// Spare codecs that it holds; not in a session's.
    pub spare_codecs: u32,
}

/// What a worker's allocator says of itself, libav's allocations included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocatorFigures {
    /// In use by the program.
    pub allocated_bytes: u64,
    /// Backed by memory and in nobody's use.
    pub idle_bytes: u64,
}

/// How a worker shall leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChaosPlan {
    pub bytes_per_minute: u64,
    pub kind: LeakKind,
    pub shape: LeakShape,
    /// Then it stops; 0 is never.
    pub bytes_max: u64,
}

/// What is leaked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeakKind {
    /// Rust's own memory.
    #[default]
    Rust,
    /// Memory of `av_malloc`.
    C,
    /// Pages freed with MADV_FREE: no leak at all, and it looks like one in RSS.
    LazyFree,
}

/// How it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeakShape {
    #[default]
    Steady,
    /// A minute's worth at once.
    Steps,
}

/// Public name of the session's stream, where it has one.
#[must_use]
pub fn name_of(plan: Option<&Plan>) -> Option<&PublicName> {
    plan.map(|plan| &plan.name)
}
