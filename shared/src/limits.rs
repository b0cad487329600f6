//! Every bound in one place. What is not bounded here is a bug.

use std::time::Duration;

// Control channel.
/// One datagram of the control channel: one frame or several, each behind its head.
pub const CONTROL_DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// Before each frame: its length (u16, little-endian) and the number of its fds (u8).
pub const CONTROL_HEAD_BYTES: usize = 3;
/// One control frame, encoded.
pub const CONTROL_FRAME_BYTES_MAX: usize = CONTROL_DATAGRAM_BYTES_MAX - CONTROL_HEAD_BYTES;
/// Fds with one datagram, and so with one frame (the kernel's SCM_MAX_FD is 253).
pub const CONTROL_FDS_MAX: usize = 64;
const _: () = assert!(
    CONTROL_FRAME_BYTES_MAX <= 0xFFFF && CONTROL_FDS_MAX <= 0xFF,
    "a head holds any frame's length and fds"
);
/// Frames waiting at one end because the socket is full; beyond it the peer is ended.
pub const CONTROL_QUEUE_FRAMES_MAX: usize = 4096;
/// How long a spawned process may take to say hello.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(10);

// Kernel.
/// Attempts to read a connection's counters while they do not move.
pub const STABLE_READS_MAX: usize = 10_000;

// Session memory. Sizes are powers of two and multiples of the page.
pub const INPUT_RING_BYTES: usize = 128 * 1024;
pub const REPLY_RING_BYTES: usize = 16 * 1024;
pub const SCRATCH_BYTES: usize = 64 * 1024;
/// One slot of the commit record.
pub const COMMIT_SLOT_BYTES: usize = 8 * 1024;
pub const PUSH_INBOUND_RING_BYTES: usize = 16 * 1024;
pub const PUSH_COMMAND_RING_BYTES: usize = 16 * 1024;

// RTMP.
/// A media message; a longer one ends the publisher.
pub const MEDIA_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A command or data message (AMF).
pub const COMMAND_MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Chunk streams one connection may use.
pub const CHUNK_STREAMS_MAX: usize = 16;
/// Messages one connection may have open (begun, not complete).
pub const OPEN_MESSAGES_MAX: usize = 8;
/// What we announce as our chunk size; publishers mirror it.
pub const CHUNK_SIZE_OUT: u32 = 65_536;
/// Nesting of AMF containers in one message.
pub const AMF_DEPTH_MAX: usize = 16;
/// AMF values of one message, nested ones included.
pub const AMF_VALUES_MAX: usize = 4096;
/// Application name of a publisher, in bytes.
pub const APP_BYTES_MAX: usize = 128;
/// Stream key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// Query part of a stream name or URL, in bytes.
pub const QUERY_BYTES_MAX: usize = 512;
/// What a publisher calls its software; what is longer is cut.
pub const FLASH_VERSION_BYTES_MAX: usize = 64;
/// From accept to publish.
pub const LOBBY_DEADLINE: Duration = Duration::from_secs(15);
/// Sessions in one worker's lobby.
pub const LOBBY_SESSIONS_MAX: usize = 256;
/// A publisher that sends nothing for this long is ended, unless the configuration says otherwise.
pub const SILENCE_DEADLINE: Duration = Duration::from_secs(30);
/// A publisher may send more than its bitrate for a while, as after a dead spot of its network,
/// but not on average over this long.
pub const BITRATE_WINDOW: Duration = Duration::from_secs(10);
/// How long a verdict on a publish may take.
pub const AUTHORIZE_DEADLINE: Duration = Duration::from_secs(5);

// Media.
/// NAL units of one frame that are looked at; with more, the frame counts as damaged.
pub const NALS_PER_FRAME_MAX: usize = 8192;
/// A sequence parameter set.
pub const SPS_BYTES_MAX: usize = 4096;
/// A stamp farther than this from the newest one of its stream is a jump.
pub const TIMELINE_LEAP_MS: i64 = 10_000;
/// A stamp farther than this behind its own track is a jump; nearer, it is held.
pub const TIMELINE_FALL_MS: i64 = 1_000;

// Plans.
pub const RUNGS_MAX: usize = 6;
pub const PUSHES_MAX: usize = 16;
pub const BLUR_RECTS_MAX: usize = 16;

// Pipeline.
/// Decoded or scaled frames between two stages: enough for both to work at once. What is behind
/// waits in the source log, compressed.
pub const STAGE_QUEUE_FRAMES_MAX: usize = 2;
/// What a pipeline has finished and nobody has fetched; beyond it the media thread waits.
pub const PIPELINE_OUTPUTS_MAX: usize = 64;
/// Packets inside a decoder; the oldest beyond it is given up.
pub const DECODER_PACKETS_MAX: usize = 40;
/// Frames looked at when nothing declares a frame rate.
pub const FRAME_RATE_SAMPLE_FRAMES: usize = 8;
/// How long the media thread waits for a packet before it looks for orders.
pub const PIPELINE_WAIT: Duration = Duration::from_millis(20);
/// How long a pipeline's threads may take to end; then they are left behind by name.
pub const PIPELINE_STOP_DEADLINE: Duration = Duration::from_secs(2);
/// Between two IDRs of a rung.
pub const IDR_DISTANCE_MAX_MS: i64 = 2000;
/// A gap in the sound that is filled with silence; after a longer one the position jumps.
pub const SILENCE_FILLED_MAX_MS: i64 = 10_000;
/// Lag of a live stream's pipeline from which frames are dropped.
pub const OVERLOAD_LAG: Duration = Duration::from_secs(4);
/// A publisher's socket is read at least this often.
pub const PUBLISHER_UNREAD_MAX: Duration = Duration::from_secs(2);

// Push.
pub const DIAL_DEADLINE: Duration = Duration::from_secs(10);
pub const PUSH_BACKOFF_FIRST: Duration = Duration::from_millis(250);
pub const PUSH_BACKOFF_MAX: Duration = Duration::from_secs(10);
/// From connected to the origin's `NetStream.Publish.Start`.
pub const PUSH_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

// Record.
/// Packets and headers on their way to a recording's thread.
pub const RECORD_QUEUE_ITEMS_MAX: usize = 1024;
/// Their payload bytes.
pub const RECORD_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A fragment is written at a keyframe or after this long.
pub const RECORD_FRAGMENT_MS: i64 = 1_000;
/// A fragment with this much is written at once.
pub const RECORD_FRAGMENT_BYTES_MAX: usize = 16 * 1024 * 1024;
pub const RECORD_FRAGMENT_SAMPLES_MAX: usize = 4096;
/// Audio without a video header for this long is recorded alone.
pub const RECORD_AUDIO_ONLY_WAIT_MS: i64 = 2_000;
/// Files of a recording directory that one round of retention looks at.
pub const RETENTION_FILES_MAX: usize = 65_536;

// Supervisor.
/// One request line on the status socket.
pub const STATUS_LINE_BYTES_MAX: usize = 64 * 1024;
/// Clients of the status socket at once.
pub const STATUS_CLIENTS_MAX: usize = 32;
/// How long a client of the status socket may take to ask, and to ask again.
pub const STATUS_REQUEST_DEADLINE: Duration = Duration::from_secs(30);
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

// Configuration.
pub const CONFIG_BYTES_MAX: usize = 4 * 1024 * 1024;
pub const LISTENERS_MAX: usize = 16;
pub const APPS_MAX: usize = 64;
pub const KEYS_MAX: usize = 16_384;
/// A stream key, as configured and as accepted in a publish.
pub const STREAM_KEY_BYTES_MAX: usize = 256;
/// Label of a rung or name of an application; both appear in URLs and paths.
pub const LABEL_BYTES_MAX: usize = 64;
/// Application and stream name of a push, placeholders replaced; keeps a plan in one frame.
pub const PUSH_NAME_BYTES_MAX: usize = 1024;
pub const RECORD_DIRECTORY_BYTES_MAX: usize = 1024;

// Logs, as plans size them.
pub const SOURCE_LOG_BYTES_MIN: u64 = 1024 * 1024;
pub const SOURCE_LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// On top of bitrate × GOP: what arrives between a keyframe and its commit.
pub const SOURCE_LOG_RESERVE_BYTES: u64 = 256 * 1024;
pub const RUNG_LOG_BYTES_MIN: u64 = 512 * 1024;
pub const AUDIO_LOG_BYTES_MIN: u64 = 256 * 1024;
/// What a rung log or audio log holds at its full bitrate.
pub const LOG_SPAN: Duration = Duration::from_secs(8);

// Operator's log.
/// Lines that wait for a slow stderr; what comes on top is dropped and counted.
pub const LOG_QUEUE_LINES_MAX: usize = 8192;
/// How long a process that leaves waits for its last lines to be written.
pub const LOG_FLUSH_DEADLINE: Duration = Duration::from_secs(1);
/// Events of one kind from one source that are logged in a window.
pub const LOG_RATE_EVENTS_MAX: u32 = 20;
pub const LOG_RATE_WINDOW: Duration = Duration::from_secs(10);
/// Sources of noise a rate limit tells apart; the others share one allowance.
pub const LOG_RATE_KEYS_MAX: usize = 1024;

// Command line.
/// One reply line that a client of the status socket accepts.
pub const STATUS_REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a client waits for a reply.
pub const STATUS_REPLY_DEADLINE: Duration = Duration::from_secs(5);
/// A worker that says nothing for this long is killed.
pub const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(10);
/// From spawn to `Ready`: loading and warming up.
pub const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How often deadlines are looked at.
pub const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// From the end of a channel to the kill of a process that is still not reaped.
pub const CHANNEL_CLOSED_GRACE: Duration = Duration::from_secs(1);
/// From a kill to giving up on a process that the kernel does not let go.
pub const REAP_DEADLINE: Duration = Duration::from_secs(5);
/// Two processes of one slot are spawned at least this far apart.
pub const RESPAWN_SPACING: Duration = Duration::from_millis(100);
/// Connections that wait for a worker to start, and how long one does.
pub const ARRIVALS_MAX: usize = 1024;
pub const ARRIVAL_DEADLINE: Duration = Duration::from_secs(5);
/// From lease to `Adopted`.
pub const ADOPT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a session whose worker died may wait for another.
pub const ORPHAN_DEADLINE: Duration = Duration::from_secs(10);
/// Deaths of its workers a session may be suspected of before it is dropped.
pub const BLAMED_DEATHS_MAX: u32 = 3;
/// From `End` to a shutdown of the socket by the supervisor.
pub const END_GRACE: Duration = Duration::from_secs(8);
/// How long a take-over waits for the old session to end.
pub const NAME_DEADLINE: Duration = Duration::from_secs(8);
/// From the end of the drain to the kill of what is left.
pub const CLOSING_GRACE: Duration = Duration::from_secs(10);
/// Dials on their way, for all sessions.
pub const DIALS_MAX: usize = 1024;
/// From `Connect` to an answer of the dialer, its own deadline included.
pub const DIAL_ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// Connects of the dialer at once; more are answered `Busy`.
pub const DIALER_CONNECTS_MAX: usize = 256;
/// Head start of one address before the next is tried beside it (RFC 8305).
pub const DIAL_STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one host that are tried.
pub const DIAL_ADDRESSES_MAX: usize = 8;
/// Connections taken from one listener before other work is looked at.
pub const ACCEPTS_PER_TURN: usize = 64;
/// Connections the kernel keeps for a listener (it cuts this at net.core.somaxconn).
pub const LISTEN_BACKLOG: i32 = 4096;
/// Fds that connections may not take: for memory, pushes, processes and the status socket.
pub const FDS_RESERVED: i32 = 256;
/// Pause of a listener when the host has no fds or memory for a connection.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Frames taken from one control channel before other work is looked at: more than the
/// connections taken in a turn can cause, so that accepting does not outrun the ends it follows.
pub const FRAMES_PER_TURN: usize = 256;
/// How often processes and host are measured.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// A process's memory less often where walking its pages takes long: one part in so many of the
/// time, but at least this often.
pub const MEMORY_SAMPLE_COST_DIVISOR: u32 = 1000;
pub const MEMORY_SAMPLE_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Events that a slow `watch` client may be behind.
pub const WATCH_EVENTS_MAX: usize = 1024;
/// One reply to a status client must be taken within this.
pub const STATUS_WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Messages between a worker's io thread and its control thread, each way.
pub const CONTROL_MESSAGES_MAX: usize = 4096;
/// Messages that the control thread takes before it sends them.
pub const CONTROL_MESSAGES_PER_TURN: usize = 256;
/// How long a process that leaves waits for the supervisor to take its last words.
pub const CONTROL_FLUSH_DEADLINE: Duration = Duration::from_secs(1);

// Ends. What one side grants must be longer than what the other needs.
/// How long a session that ends may let its outputs take what is left.
pub const DRAINING_DEADLINE: Duration = Duration::from_secs(4);
/// From a push's goodbye to the origin's FIN.
pub const PUSH_CLOSING_DEADLINE: Duration = Duration::from_secs(2);
/// How long a worker that leaves waits for recordings to reach the disk.
pub const RECORD_FINISH_DEADLINE: Duration = Duration::from_secs(2);
const _: () = assert!(
    DRAINING_DEADLINE.as_secs() + PUSH_CLOSING_DEADLINE.as_secs() < END_GRACE.as_secs(),
    "the supervisor is more patient than a worker that ends a session"
);
const _: () = assert!(
    END_GRACE.as_secs() < CLOSING_GRACE.as_secs(),
    "sessions end before their worker is killed"
);
