//! Every bound in one place. What is not bounded here is a bug.

use std::time::Duration;

// Control channel.
/// One control frame, encoded.
pub const CONTROL_FRAME_BYTES_MAX: usize = 64 * 1024;
/// Fds with one control frame (the kernel's SCM_MAX_FD is 253).
pub const CONTROL_FDS_MAX: usize = 64;
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
/// From accept to publish.
pub const LOBBY_DEADLINE: Duration = Duration::from_secs(15);
/// Sessions in one worker's lobby.
pub const LOBBY_SESSIONS_MAX: usize = 256;
/// A publisher that sends nothing for this long is ended.
pub const SILENCE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a verdict on a publish may take.
pub const AUTHORIZE_DEADLINE: Duration = Duration::from_secs(5);

// Plans.
pub const RUNGS_MAX: usize = 6;
pub const PUSHES_MAX: usize = 16;
pub const BLUR_RECTS_MAX: usize = 16;

// Pipeline.
/// Decoded or scaled frames between two stages.
pub const STAGE_QUEUE_FRAMES_MAX: usize = 4;
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

// Supervisor.
/// One request line on the status socket.
pub const STATUS_LINE_BYTES_MAX: usize = 64 * 1024;
/// Clients of the status socket at once.
pub const STATUS_CLIENTS_MAX: usize = 32;
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// A worker that says nothing for this long is killed.
pub const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(10);
/// From spawn to `Ready`: loading and warming up.
pub const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How often deadlines are looked at.
pub const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// From the end of a channel to the kill of a process that is still not reaped.
pub const CHANNEL_CLOSED_GRACE: Duration = Duration::from_secs(1);
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
pub const END_GRACE: Duration = Duration::from_secs(3);
/// How long a take-over waits for the old session to end.
pub const NAME_DEADLINE: Duration = Duration::from_secs(2);
/// From the end of the drain to the kill of what is left.
pub const CLOSING_GRACE: Duration = Duration::from_secs(4);
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
/// Pause of a listener when the host has no fds or memory for a connection.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Frames taken from one control channel before other work is looked at.
pub const FRAMES_PER_TURN: usize = 64;
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// Events that a slow `watch` client may be behind.
pub const WATCH_EVENTS_MAX: usize = 1024;
/// One reply to a status client must be taken within this.
pub const STATUS_WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Messages between a worker's io thread and its control thread, each way.
pub const CONTROL_MESSAGES_MAX: usize = 4096;
/// How long a process that leaves waits for the supervisor to take its last words.
pub const CONTROL_FLUSH_DEADLINE: Duration = Duration::from_secs(1);
