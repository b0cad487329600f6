//! Every bound in one place. What is not bounded here is a bug.

mod viewers;

pub use viewers::*;

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
/// Streams whose FLV viewers delivery tells of one by one; with the longest ids they fit a frame.
pub const AUDIENCE_STREAMS_MAX: usize = 2048;
/// In bincode: an epoch, a counter, a number of viewers.
const AUDIENCE_STREAM_BYTES_MAX: usize = 5 + 9 + 5;
const _: () = assert!(
    AUDIENCE_STREAMS_MAX * AUDIENCE_STREAM_BYTES_MAX + 1024 <= CONTROL_FRAME_BYTES_MAX,
    "what delivery tells of its viewers fits a frame"
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
pub const COMMIT_SLOT_BYTES: usize = 32 * 1024;
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
/// With more packets than this in the source log, a stream's rungs are encoded beside each other.
pub const PACKETS_WAITING_MAX: u64 = 4;
/// Packets inside a decoder; the oldest beyond it is given up.
pub const DECODER_PACKETS_MAX: usize = 40;
/// Frames looked at when nothing declares a frame rate.
pub const FRAME_RATE_SAMPLE_FRAMES: usize = 8;
/// How long the media thread waits for a packet before it looks for orders.
pub const PIPELINE_WAIT: Duration = Duration::from_millis(20);
/// How long the codecs of a session that was taken over wait for those of others.
pub const CODEC_START_WAIT_MAX: Duration = Duration::from_millis(250);
/// What one codec is opened with, encoded: an encoder's settings, or a decoder's configuration record.
/// A stream that needs more has no spare codec of that kind.
pub const CODEC_NEED_BYTES_MAX: usize = 512;
/// Kinds of codecs that a worker standing by is told of.
pub const SPARE_KINDS_MAX: usize = 100;
/// Codecs that it holds open.
pub const SPARE_CODECS_MAX: u32 = 256;
const _: () = assert!(
    SPARE_KINDS_MAX * (CODEC_NEED_BYTES_MAX + 3 + 5) + 1024 <= CONTROL_FRAME_BYTES_MAX,
    "a list of spare codecs fits a frame"
);
/// Of a worker's soft limit of memory, what spare codecs may take: one part in so many.
pub const SPARE_BYTES_DIVISOR: u64 = 4;
/// The most they may take, whatever the limit.
pub const SPARE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What streams need changes when one begins or ends; a list is told at most this often.
pub const SPARE_INTERVAL: Duration = Duration::from_millis(500);
/// From the last stream's begin in a worker that held spare codecs until it closes those left.
pub const SPARE_KEEP: Duration = Duration::from_secs(5);
/// Nice value of the thread that opens them. Not lower: libav opens one codec at a time, so that a stream
/// that wants one waits for this thread.
pub const SPARE_NICE: i32 = 10;
/// How long a worker that leaves waits for the thread of its spare codecs, which may be inside libav.
pub const SPARE_STOP_DEADLINE: Duration = Duration::from_secs(1);
/// How full a rate buffer a spare encoder takes for granted, of 1. A stream whose buffer is emptier
/// opens its own; one whose buffer is fuller begins with a little less than it might spend.
pub const SPARE_FULLNESS: f32 = 0.7;
/// How long a pipeline's threads may take to end; then they are left behind by name.
pub const PIPELINE_STOP_DEADLINE: Duration = Duration::from_secs(2);
/// Between two IDRs of a rung.
pub const IDR_DISTANCE_MAX_MS: i64 = 2000;
/// Pass-through is a rendition while its keyframes are at most this much closer than the target
/// duration: another IDR is never farther from it in the rungs.
pub const HLS_SOURCE_GOP_MARGIN: Duration = Duration::from_millis(IDR_DISTANCE_MAX_MS as u64);
/// The first part behind a break is so far behind it at most: it begins with a keyframe.
pub const HLS_BREAK_SLACK_MS: i64 = IDR_DISTANCE_MAX_MS;
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
/// What is kept of an origin's unfinished messages once it lets us publish; a longer one is passed
/// over. It is part of the commit record.
pub const PUSH_OPEN_BYTES_MAX: usize = 512;
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
/// How long a recording's new owner waits until the old one has let go of the file.
pub const RECORD_HANDOVER_WAIT: Duration = Duration::from_secs(5);
/// How often it looks meanwhile.
pub const RECORD_HANDOVER_LOOK: Duration = Duration::from_millis(10);
/// Newest files of a rendition that a new owner looks at for the one to go on with.
pub const RECORD_RESUME_FILES_MAX: usize = 16;
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
/// Heartbeats of a worker for one status of each of its sessions, whose rates are taken over a
/// second anyway.
pub const HEARTBEATS_PER_STATUS: u64 = 2;

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

// Memory policy.
/// Soft limit of a worker's footprint, where it is derived from the machine.
pub const AUTO_SOFT_BYTES_MIN: u64 = 256 << 20;
pub const AUTO_SOFT_BYTES_MAX: u64 = 4 << 30;
/// Threads and fds of a worker that nobody would call a leak, where the file does not say.
pub const AUTO_THREADS: u32 = 64;
pub const AUTO_THREADS_PER_STREAM: u32 = 32;
pub const AUTO_FDS: u32 = 1024;
pub const AUTO_FDS_PER_STREAM: u32 = 128;
/// Between two measurements after a purge of a worker that is far from its limit, and of one that
/// is near it. Above the limit each sample is one.
pub const TREND_INTERVAL: Duration = Duration::from_secs(30);
pub const TREND_INTERVAL_NEAR: Duration = Duration::from_secs(10);
/// Points that a slope is drawn through, and how many it takes.
pub const TREND_POINTS_MAX: usize = 24;
pub const TREND_POINTS_MIN: usize = 8;
/// A worker that has not purged by then is asked again, and after so many times measured as it is.
pub const PURGE_DEADLINE: Duration = Duration::from_secs(5);
pub const PURGE_TRIES_MAX: u32 = 3;
/// What a hand-off of all of a worker's sessions may take.
pub const HANDOFF_TIME: Duration = Duration::from_secs(30);
/// A worker has this long from its first session to get to its size.
pub const SETTLE_TIME: Duration = Duration::from_secs(60);
/// A recycle that was begun and changed nothing is asked for again after this, then after twice
/// as long, and so on.
pub const RECYCLE_RETRY: Duration = Duration::from_secs(60);
pub const RECYCLE_RETRY_DOUBLINGS_MAX: u32 = 6;
/// Less than this is not worth a recycle under the host's pressure.
pub const PRESSURE_GAIN_BYTES_MIN: u64 = 32 << 20;
/// Percent of the last ten seconds in which all tasks waited for memory (PSI, full).
pub const PRESSURE_STALL_PERCENT: f32 = 10.0;
/// What a leak on purpose may take in a minute.
pub const CHAOS_BYTES_PER_MINUTE_MAX: u64 = 64 << 30;
/// A leak on purpose grows this often.
pub const CHAOS_INTERVAL: Duration = Duration::from_millis(500);

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
/// How often `tasuki top` may ask. It keeps its connection, so it asks before it is dropped.
pub const TOP_INTERVAL_MIN: Duration = Duration::from_millis(100);
pub const TOP_INTERVAL_MAX: Duration = Duration::from_secs(20);
const _: () = assert!(
    TOP_INTERVAL_MAX.as_secs() < STATUS_REQUEST_DEADLINE.as_secs(),
    "the server is more patient than a client that asks regularly"
);
/// How long `tasuki top` waits before it looks for a server again.
pub const TOP_RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Samples of one process's footprint that `tasuki top` remembers, and of how many processes.
pub const TOP_HISTORY_SAMPLES_MAX: usize = 600;
pub const TOP_HISTORIES_MAX: usize = 1024;
/// Events that `tasuki top` remembers.
pub const TOP_NEWS_MAX: usize = 16;
/// What has happened and is not drawn yet; who tells of more waits.
pub const TOP_HAPPENINGS_MAX: usize = 64;
/// Lines and columns of `tasuki top --once`.
pub const TOP_FRAME_LINES_MAX: u16 = 1000;
pub const TOP_FRAME_COLUMNS: u16 = 120;
/// A process that does not move for this long although it could is killed, where the configuration
/// does not say.
pub const HANG_DEADLINE: Duration = Duration::from_secs(5);
/// Bounds of what it may say: a beat must fit in several times, and a hang must end.
pub const HANG_DEADLINE_MIN: Duration = Duration::from_millis(300);
pub const HANG_DEADLINE_MAX: Duration = Duration::from_secs(3600);
/// Signs of life in each hang deadline, no closer together than the least interval.
pub const BEATS_PER_HANG_DEADLINE: u32 = 4;
pub const BEAT_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// How long the sessions of a process that outlives its SIGKILL wait for its end.
pub const UNKILLABLE_DEADLINE: Duration = Duration::from_secs(60);
/// Threads of such a process that are named.
pub const STUCK_THREADS_NAMED_MAX: usize = 8;
/// Deaths that are told of, and the streams of each.
pub const DEATHS_TOLD_MAX: usize = 32;
pub const DEATH_SESSIONS_TOLD_MAX: usize = 64;
/// Workers with one suspected stream alone.
pub const QUARANTINES_MAX: usize = 4;
/// A stream that lives this long in quarantine is let out.
pub const QUARANTINE_TIME: Duration = Duration::from_secs(60);
/// Between two workers for the same stream in quarantine, and how often that doubles; less than
/// what an orphan waits.
pub const QUARANTINE_PAUSE: Duration = Duration::from_millis(100);
pub const QUARANTINE_PAUSE_DOUBLINGS_MAX: u32 = 6;
/// Memory that no new stream may take: a worker's sessions need it again when it dies.
pub const RECOVERY_ROOM_BYTES_MIN: u64 = 64 << 20;
/// It is at most this part of the machine's memory.
pub const RECOVERY_ROOM_DIVISOR: u64 = 8;
/// How much sooner than its supervisor the kernel shall kill a worker for memory.
pub const OOM_SCORE_RAISE: i32 = 300;
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
/// For so long after a worker's death its streams have the processors, and the next to stand by is
/// started afterwards.
pub const RESCUE_TIME: Duration = Duration::from_millis(250);
/// A process that is told to be dying is looked at until it can do nothing any more, at most so often
/// and so far apart; then only its pidfd tells.
pub const DYING_LOOKS_MAX: u32 = 50;
pub const DYING_LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// While it has more threads than this they are not looked at one by one: they vanish in a moment.
pub const DYING_THREADS_MAX: usize = 8;
/// Stack of a worker's thread that only waits.
pub const KNELL_STACK_BYTES: usize = 64 * 1024;
/// Nice value of what is left of it (setpriority(2)): a tenth of the processor that another gets. Who
/// goes on with a recording waits for its last fd, for `RECORD_HANDOVER_WAIT` at most.
pub const DYING_NICE: i32 = 10;
/// Connections that wait for a worker to start, and how long one does.
pub const ARRIVALS_MAX: usize = 1024;
pub const ARRIVAL_DEADLINE: Duration = Duration::from_secs(5);
/// From lease to `Adopted`.
pub const ADOPT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a session whose worker died may wait for another.
pub const ORPHAN_DEADLINE: Duration = Duration::from_secs(10);
/// Deaths at the same place that a session is suspected of before it is quarantined, and dropped.
pub const STRIKES_TO_QUARANTINE: u32 = 2;
pub const STRIKES_TO_DROP: u32 = 3;
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
/// time, but at least this often, and at once where a decision waits for it.
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

// Hand-off.
/// A follower encodes for this long before a scheduled cut, so that its rate control has a history.
pub const WARM_UP: Duration = Duration::from_secs(1);
/// How long an owner looks for an IDR to cut at; afterwards any frame will do.
pub const CUT_SEARCH_MAX: Duration = Duration::from_secs(4);
/// Where the log lacks the keyframe that the next frame needs, how long an owner waits for the
/// source to send one when the cut is urgent, and when the session must go at any price.
pub const ANCHOR_WAIT_NOW: Duration = Duration::from_millis(1500);
pub const ANCHOR_WAIT_FORCED: Duration = Duration::from_secs(1);
/// How long an urgent cut waits for a scheduled IDR, or until the last one is as long ago, where the
/// rate buffer is low: two IDRs within a second leave too few bits for the pictures behind them.
pub const IDR_ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// Then frames that are inside the pipeline may still come out, so that they are not lost.
pub const FORCED_CUT_GRACE: Duration = Duration::from_millis(500);
const _: () = assert!(
    IDR_ROOM_WAIT_MAX.as_millis() < ANCHOR_WAIT_NOW.as_millis()
        && ANCHOR_WAIT_NOW.as_millis() < RELEASE_NOW_DEADLINE.as_millis()
        && ANCHOR_WAIT_FORCED.as_millis() + FORCED_CUT_GRACE.as_millis()
            < RELEASE_NOW_DEADLINE.as_millis(),
    "an owner gives up on a keyframe before the supervisor's patience ends"
);
/// Frames that a decoder can owe: received, decoded and not given when the cut comes.
pub const REORDERED_FRAMES_MAX: u64 = 64;
/// Before an old owner frees what a session had: freeing it at once takes the next owner's processor.
pub const OLD_OWNER_REST: Duration = Duration::from_millis(20);
const _: () = assert!(
    CUT_SEARCH_MAX.as_secs() < RELEASE_SCHEDULED_DEADLINE.as_secs(),
    "an owner stops looking for a cut before the supervisor's patience ends"
);

// Planned hand-offs and recycles.
/// From `Prepare` to `Prepared`: opening codecs and decoding along from the anchor.
pub const PREPARE_DEADLINE: Duration = Duration::from_secs(15);
/// From `Release` to the release when the owner may wait for a scheduled IDR.
pub const RELEASE_SCHEDULED_DEADLINE: Duration = Duration::from_secs(6);
/// The same when it may not.
pub const RELEASE_NOW_DEADLINE: Duration = Duration::from_secs(2);
const _: () = assert!(
    IDR_DISTANCE_MAX_MS.unsigned_abs() < RELEASE_SCHEDULED_DEADLINE.as_secs() * 1000,
    "a scheduled IDR comes before the supervisor's patience ends"
);
/// How long the old owner's account of the cut is waited for once the taker works.
pub const CUT_REPORT_DEADLINE: Duration = Duration::from_secs(1);
/// A session that was released too late waits this long for a taker that may be at it, before it
/// is leased anew.
pub const OFFER_GRACE: Duration = Duration::from_millis(500);
/// Sessions of one recycle that are on their way at once.
pub const MOVES_AT_ONCE_MAX: usize = 4;
/// Attempts to move one session in one recycle.
pub const MOVE_ATTEMPTS_MAX: u32 = 3;
/// Moves of one session in one recycle called off because the session itself changed.
pub const MOVE_CALL_OFFS_MAX: u32 = 8;
/// Between two attempts.
pub const MOVE_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Before a session whose source sent no keyframe in time is tried again, unless its owner reports
/// one.
pub const ANCHOR_RETRY_PAUSE: Duration = Duration::from_secs(5);
/// From a recycle's order to its end without the sessions whose sources send no keyframe.
pub const KEYFRAME_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Recycles under way at once.
pub const RECYCLES_AT_ONCE_MAX: usize = 1;
/// Recycles that wait for their turn.
pub const RECYCLES_WAITING_MAX: usize = 1024;
/// Recycles that are over and still told of.
pub const RECYCLES_TOLD_MAX: usize = 16;
/// How long a recycle waits for a fresh worker, before anything is moved.
pub const FRESH_WORKER_DEADLINE: Duration = Duration::from_secs(40);
const _: () = assert!(
    READY_DEADLINE.as_secs() < FRESH_WORKER_DEADLINE.as_secs(),
    "a recycle waits for a worker that is slow to start"
);
/// A recycle none of whose sessions finds a way for this long is given up.
pub const MOVING_STALL_DEADLINE: Duration = Duration::from_secs(60);
/// How long a console that leaves goes on with what it was asked.
pub const CONSOLE_LEAVE_MAX: Duration = Duration::from_secs(2);
/// From the end of the last worker to the kill of dialer, delivery and console, when the server
/// leaves: time for viewers to get the end of what they watch.
pub const SERVICES_LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// From `Drain` to a worker without sessions to its kill.
pub const LINGER_DEADLINE: Duration = Duration::from_secs(10);
// Evidence and the service's keeper.
/// How long a worker may take to look at itself, and the shell to save what it found.
pub const EVIDENCE_DEADLINE: Duration = Duration::from_secs(15);
/// How long a client waits for a reply that needs such a look.
pub const EVIDENCE_REPLY_DEADLINE: Duration = Duration::from_secs(20);
/// One piece of evidence from a worker; a reply with one in base64 fits a reply line.
pub const EVIDENCE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Sets of evidence in the state directory; the oldest go.
pub const EVIDENCE_SETS_MAX: usize = 10;
/// Threads of a process that are looked at.
pub const THREADS_LISTED_MAX: usize = 1024;
/// Between the two looks at each thread's processor time.
pub const THREADS_LOOK: Duration = Duration::from_millis(250);
/// The watchdog hears from the event loop this often in each of its periods.
pub const WATCHDOG_FEEDS_PER_PERIOD: u32 = 4;
/// Between two status lines for the service's keeper.
pub const NOTIFY_STATUS_INTERVAL: Duration = Duration::from_secs(5);
