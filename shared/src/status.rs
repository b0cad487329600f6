//! Schema of the status socket: one JSON request a line, JSON replies. See docs/PROTOCOL.md.

use serde::{Deserialize, Serialize};

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
}

/// What the supervisor answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Status(Box<Status>),
    Event(Event),
    Done,
    Refused { reason: String },
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
    /// Path of the configuration, or `embedded defaults`.
    pub config: String,
    pub streams_free: u32,
    pub cpu_percent: f32,
    pub workers: Vec<WorkerStatus>,
    pub sessions: Vec<SessionStatus>,
    /// By reason, since start.
    pub refusals: std::collections::BTreeMap<String, u64>,
    pub sessions_total: u64,
    /// Control frames about what was not their sender's to speak of.
    #[serde(default)]
    pub ignored_frames: u64,
}

/// One of our processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub slot: String,
    pub role: String,
    /// `starting`, `standby`, `serving`, `draining`, `backoff`.
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
    /// Newest received minus the oldest that is not through the pipeline yet.
    pub lag_ms: u64,
    /// Timestamp corrections and other input faults by kind.
    pub faults: std::collections::BTreeMap<String, u64>,
    pub rungs: Vec<RungStatus>,
    pub pushes: Vec<PushStatus>,
    /// Always written, for this type also travels in heartbeats, whose encoding skips nothing.
    #[serde(default)]
    pub record: Option<RecordStatus>,
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
    pub state: String,
    pub path: String,
    pub bytes: u64,
    pub last_error: String,
}
