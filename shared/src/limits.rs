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

// Supervisor.
/// One request line on the status socket.
pub const STATUS_LINE_BYTES_MAX: usize = 64 * 1024;
/// Clients of the status socket at once.
pub const STATUS_CLIENTS_MAX: usize = 32;
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
