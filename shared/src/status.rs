//! Schema of the status socket: one JSON request a line, JSON replies. See docs/PROTOCOL.md.

use crate::message::Haste;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a client may ask. `{"request":"status"}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Answered by one `Reply::Status`.
    Status,
    /// Answered by a `Reply::Event` per event until the client leaves.
    Watch,
    /// Ends one session. Answered by `Reply::Done` or `Reply::Refused`.
    End { session: String },
    /// Recycles one process (`worker`: its slot) or all of them, one after another. Answered by a
    /// `Reply::Recycled` for each as it is done, then `Reply::Done`; or by `Reply::Refused`.
    Rotate {
        worker: Option<String>,
        reason: String,
        #[serde(default)]
        haste: Haste,
    },
    /// Moves one session to another worker. Answered by `Reply::Moved` or `Reply::Refused`.
    Move {
        session: String,
        #[serde(default)]
        haste: Haste,
    },
    /// A pprof heap profile of a live worker (`worker`: its slot). Answered by `Reply::Heap`.
    Heap { worker: String },
    /// What each thread of a worker does. Answered by `Reply::Threads`.
    Threads { worker: String },
    /// Takes nothing new and leaves when the last session has ended. Answered by `Reply::Done`.
    Drain,
}

/// What the supervisor answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Status(Box<Status>),
    Event(Event),
    Recycled(Box<RecycleStatus>),
    Moved(MoveStatus),
    /// Gzipped protobuf in standard base64.
    Heap {
        worker: String,
        profile: String,
    },
    Threads {
        worker: String,
        threads: Vec<ThreadStatus>,
    },
    Done,
    Refused {
        reason: String,
    },
}

/// One line of `tasuki watch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub unix_ms: u64,
    /// For example `session_live`, `session_ended`, `worker_started`, `worker_died`.
    pub event: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub worker: Option<String>,
    /// A sentence for people.
    pub detail: String,
}

/// The whole node at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: i32,
    pub uptime_ms: u64,
    /// `serving` or `draining`.
    pub state: String,
    pub listeners: Vec<String>,
    /// Where viewers connect: the beginning of each URL, for example `http://127.0.0.1:8935`.
    #[serde(default)]
    pub viewers: Vec<String>,
    /// Where operators connect with a browser, Prometheus and the like.
    #[serde(default)]
    pub consoles: Vec<String>,
    /// Path of the configuration, or `embedded defaults`.
    pub config: String,
    pub streams_free: u32,
    pub cpu_percent: f32,
    pub workers: Vec<WorkerStatus>,
    pub sessions: Vec<SessionStatus>,
    /// The last ones, newest first; those under way before them.
    #[serde(default)]
    pub recycles: Vec<RecycleStatus>,
    /// The last deaths of processes that nobody had planned, newest first.
    #[serde(default)]
    pub deaths: Vec<DeathStatus>,
    /// By reason, since start.
    pub refusals: BTreeMap<String, u64>,
    pub sessions_total: u64,
    /// Frames that no owner encoded for want of a keyframe to go on from, since start.
    #[serde(default)]
    pub frames_lost: u64,
    /// Control frames about what was not their sender's to speak of.
    #[serde(default)]
    pub ignored_frames: u64,
    /// What else is counted since start.
    #[serde(default)]
    pub totals: Totals,
    /// Whom delivery serves.
    #[serde(default)]
    pub audience: AudienceStatus,
}

/// Viewers, over all delivery processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudienceStatus {
    /// Open now.
    pub connections: u32,
    /// Requests that wait now for what is not there yet.
    pub waits: u32,
    /// Who watches FLV now, over HTTP or a WebSocket.
    pub flv_viewers: u32,
    /// Connections that were closed at once, by the setting that says so, since start.
    pub refused: BTreeMap<String, u64>,
    /// Requests answered since start, by the class of the status: `1xx` (a WebSocket) to `5xx`.
    pub answers: BTreeMap<String, u64>,
    /// What sockets took since start: bodies with their heads, and what TLS adds.
    pub sent_bytes: u64,
    /// Times that a log overtook an FLV viewer, who went on at a keyframe.
    pub flv_jumps: u64,
    /// FLV viewers closed for taking nothing.
    pub flv_stalled: u64,
}

/// Counters that only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Planned replacements that are over, by reason.
    pub recycles: BTreeMap<String, u64>,
    /// Of these, by reason, those that failed.
    pub recycles_failed: BTreeMap<String, u64>,
    /// Deaths of processes that nobody had planned, by role.
    pub deaths: BTreeMap<String, u64>,
    /// Hand-offs by outcome: `done`, `crashed_over`, `kept`, `called_off`.
    pub moves: BTreeMap<String, u64>,
    /// Of those that are done: from the last byte that the old owner handled to the first of the new.
    pub pauses: Pauses,
}

/// A histogram of pauses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pauses {
    /// How many lasted at most [`PAUSE_BOUNDS_US`] of the same place and longer than the one before;
    /// and last, how many lasted longer than all.
    pub counts: Vec<u64>,
    pub sum_us: u64,
}

/// Upper bounds of [`Pauses`], in microseconds.
pub const PAUSE_BOUNDS_US: [u64; 10] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000];

impl Pauses {
    pub fn add(&mut self, pause_us: u64) {
        self.counts.resize(PAUSE_BOUNDS_US.len() + 1, 0);
        let at = PAUSE_BOUNDS_US.partition_point(|bound| *bound < pause_us);
        if let Some(count) = self.counts.get_mut(at) {
            *count = count.saturating_add(1);
        }
        self.sum_us = self.sum_us.saturating_add(pause_us);
    }
}

/// One of our processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub slot: String,
    pub role: String,
    /// `starting`, `standby`, `serving`, `quarantine`, `draining`, `ending`, `backoff`; `stuck: …` with
    /// its threads for one that outlives its kill.
    pub state: String,
    pub generation: u32,
    pub pid: i32,
    pub age_ms: u64,
    pub sessions: u32,
    pub streams_max: u32,
    pub lobby: u32,
    /// Anonymous − LazyFree + Swap: what comes back when the process exits.
    pub footprint_bytes: u64,
    pub rss_bytes: u64,
    pub lazy_free_bytes: u64,
    pub cpu_percent: f32,
    /// Codecs that it holds open for streams of others.
    #[serde(default)]
    pub spare_codecs: u32,
    /// What the memory policy thinks of it; `None` for what it does not judge.
    #[serde(default)]
    pub memory: Option<MemoryStatus>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_death: Option<String>,
    pub restarts: u32,
}

/// One publisher's session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    pub id: String,
    pub name: String,
    pub app: String,
    pub worker: String,
    pub peer: String,
    /// `lobby`, `authorizing`, `live`, `ending`.
    pub state: String,
    pub uptime_ms: u64,
    /// For example `h264`, empty until known.
    pub video_codec: String,
    pub audio_codec: String,
    pub width: u32,
    pub height: u32,
    pub fps: f32,
    pub in_bytes: u64,
    pub out_bytes: u64,
    pub in_bitrate_bps: u64,
    pub out_bitrate_bps: u64,
    /// Video packets received.
    pub frames_in: u64,
    /// Frames committed to all rungs.
    pub frames_out: u64,
    /// Dropped before decoding because the pipeline fell behind.
    pub frames_dropped: u64,
    /// That no owner encoded after a hand-off or a death, for want of a keyframe to go on from.
    #[serde(default)]
    pub frames_lost: u64,
    /// Its source log lacks the keyframe that the next frame needs: a move waits for the source's
    /// next one, and a death of its worker loses the frames until then.
    #[serde(default)]
    pub no_anchor: bool,
    /// Newest received minus the oldest that is not through the pipeline yet.
    pub lag_ms: u64,
    /// Frames received and not through the pipeline.
    #[serde(default)]
    pub frames_inside: u64,
    /// Between the source's last two keyframes; 0 before there are two in its log.
    #[serde(default)]
    pub keyframe_interval_ms: u64,
    /// Newest sound received minus newest picture received, on the timeline.
    #[serde(default)]
    pub av_skew_ms: i64,
    /// Timestamp corrections and other input faults by kind.
    pub faults: BTreeMap<String, u64>,
    pub rungs: Vec<RungStatus>,
    pub pushes: Vec<PushStatus>,
    /// Always written, for this type also travels in heartbeats, whose encoding skips nothing.
    #[serde(default)]
    pub records: Vec<RecordStatus>,
    /// Its renditions for viewers.
    #[serde(default)]
    pub hls: Vec<HlsStatus>,
    /// Who watches it as FLV now.
    #[serde(default)]
    pub flv_viewers: u32,
    /// Why it is suspected of deaths of its workers; empty for nearly all.
    #[serde(default)]
    pub suspicion: String,
    /// How long something has waited in it while nothing moved.
    #[serde(default)]
    pub stalled_ms: u64,
    /// How its worker came to it.
    #[serde(default)]
    pub adoption: AdoptionStatus,
}

/// When a worker took a session and went on with it: a new one, one of a worker that died, or one
/// that was moved. Moments are those of CLOCK_MONOTONIC, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptionStatus {
    /// When it could handle the first byte.
    pub at_us: u64,
    /// When it had handled the first message; 0 before.
    pub first_message_us: u64,
    /// Decoded again, from the anchor to the last frame that the dead worker had committed; 0 after
    /// a planned move, whose target has decoded them before.
    pub replayed_frames: u64,
    /// How long that took, from the first packet's being asked for; 0 before it is over.
    pub replay_us: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RungStatus {
    pub label: String,
    /// `passing`, `encoding`, `dropped` (overload), `off` (larger than the source).
    pub state: String,
    pub width: u32,
    pub height: u32,
    pub frames: u64,
    pub bytes: u64,
    /// Time that its encoder worked for this owner.
    #[serde(default)]
    pub encode_us: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PushStatus {
    pub rung: String,
    /// Host, port and application; never the stream name, which may be a secret.
    pub to: String,
    /// `idle`, `dialing`, `handshake`, `live`, `backoff`.
    pub state: String,
    pub sent_bytes: u64,
    pub messages: u64,
    pub reconnects: u64,
    /// Messages skipped because the origin was away or slow.
    pub skipped: u64,
    pub last_error: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordStatus {
    pub rung: String,
    /// `idle`, `recording`, `stopped`.
    pub state: String,
    pub path: String,
    pub bytes: u64,
    pub last_error: String,
}

/// One rendition for viewers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HlsStatus {
    pub rung: String,
    /// `waiting`, `packaging`, `left`, `stopped`.
    pub state: String,
    /// Numbers of the newest part.
    pub segment: u64,
    pub part: u32,
    /// Parts made by this owner.
    pub parts: u64,
    pub discontinuities: u64,
    /// Segments that begin without a keyframe, because none came in time.
    pub forced_cuts: u64,
    /// Breaks in what could be packaged.
    pub gaps: u64,
    pub last_error: String,
}

/// How a process of ours died, and what became of its streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeathStatus {
    pub unix_ms: u64,
    /// Slot and generation.
    pub worker: String,
    pub role: String,
    pub cause: String,
    /// Its streams; sessions before publish are not told of.
    pub sessions: Vec<DeathSession>,
}

/// A stream whose worker died.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeathSession {
    pub session: String,
    pub name: String,
    /// `waits`, the worker that it went to, or `ended: WHY`.
    pub outcome: String,
    /// What it is suspected of by this death; empty for nearly all.
    pub suspicion: String,
}

/// What the memory policy knows of a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryStatus {
    pub soft_limit_bytes: u64,
    pub hard_limit_bytes: u64,
    /// Of the footprint after purges, a robust estimate; 0 when it does not grow.
    pub slope_bytes_per_s: f64,
    /// Until the soft limit at that slope.
    pub time_to_limit_ms: Option<u64>,
    /// In use by the program according to its allocator, libav's allocations included.
    pub allocated_bytes: u64,
    /// What the allocator has from the kernel and does not use.
    pub idle_bytes: u64,
    /// Of RSS, what is shared memory: logs, counted as often as they are mapped.
    #[serde(default)]
    pub shared_bytes: u64,
    pub threads: u32,
    pub fds: u32,
    /// `fine`, `watch`, `purging`, `recycle`, `evacuate`, `held back: REASON`.
    pub verdict: String,
}

/// One planned replacement of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecycleStatus {
    pub id: u64,
    pub unix_ms: u64,
    /// Slot of the process that leaves.
    pub worker: String,
    #[serde(default)]
    pub role: String,
    pub generation: u32,
    /// `memory_soft`, `memory_hard`, `time_to_limit`, `age`, `sessions`, `threads`, `fds`,
    /// `host_pressure`, `reload`, `operator`.
    pub reason: String,
    pub detail: String,
    /// `waiting`, `preparing`, `moving`, `waiting for a keyframe`, `leaving`, `done`,
    /// `failed: WHY`.
    pub outcome: String,
    pub took_ms: u64,
    pub footprint_before_bytes: u64,
    /// Of the process that came in its place.
    pub footprint_after_bytes: u64,
    pub moves: Vec<MoveStatus>,
    /// Where the evidence was saved, if any was.
    #[serde(default)]
    pub evidence: Option<String>,
}

/// One session's way from one worker to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MoveStatus {
    pub session: String,
    pub name: String,
    pub from: String,
    pub to: String,
    /// `preparing`, `releasing`, `done`, `kept: WHY`, `crashed over`.
    pub outcome: String,
    /// From the last byte that the old owner handled to the first of the new one.
    pub pause_us: u64,
    /// For want of a keyframe in the source log; it grows until the source sends one.
    pub frames_lost: u64,
}

/// One thread of a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadStatus {
    pub tid: i32,
    /// `io`, `control`, `dec`, `enc-LABEL`, `record`, `hls`, …
    pub name: String,
    /// As in proc(5): `R` runs, `S` sleeps, `D` waits for a device.
    pub state: String,
    /// Of one core, over the last quarter of a second.
    pub cpu_percent: f32,
    /// Since it began.
    pub cpu_ms: u64,
    /// Function of the kernel that it waits in, where the kernel tells.
    pub waits_in: String,
    /// What it is for, in words.
    pub task: String,
}
