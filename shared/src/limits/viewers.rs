//! Of what viewers and operators see: HLS, delivery, FLV, the console, thumbnails.

use std::time::Duration;

// HLS and delivery.

pub const HLS_TARGET_DEFAULT: Duration = Duration::from_secs(4);
pub const HLS_TARGET_MIN: Duration = Duration::from_secs(3);
pub const HLS_TARGET_MAX: Duration = Duration::from_secs(10);
/// A tenth more than a part should have: one frame of the usual rates fits in between, so that no
/// part is longer, and none but a segment's last is shorter than 85 % of it.
pub const HLS_PART_TARGET_MS: u64 = 220;
pub const HLS_WINDOW_DEFAULT: Duration = Duration::from_secs(60);
/// A new delivery process reads the notes of all of it before it is ready.
pub const HLS_WINDOW_MAX: Duration = Duration::from_secs(3600);
/// A playlist spans six target durations beyond which a client may skip, and some more.
pub const HLS_WINDOW_TARGETS_MIN: u32 = 8;
/// A source's keyframe that is so much too early still begins a segment, and one of a rung's own
/// that would make a segment so much too long is not the last chance for it.
pub const HLS_IDR_SLACK_MS: i64 = 40;
/// A hole of this length in a rendition is no slow frame rate: what follows is a new beginning.
pub const HLS_GAP_MS: i64 = 1_500;
/// Sound waits so far (of stream time) for the next picture, which says how long a part's last one is.
pub const HLS_PICTURE_AHEAD_MS: i64 = 500;
/// Time zero of all parts on a stream's timeline. The same for all streams and renditions, whose
/// first pictures differ; timelines begin with a publisher's first stamp, and go back a little at
/// most.
pub const HLS_ORIGIN_MS: i64 = -10_000;
/// A part with so much is closed at once.
pub const HLS_PART_BYTES_MAX: usize = 16 * 1024 * 1024;
pub const HLS_PART_SAMPLES_MAX: usize = 1024;
/// Packets, headers and marks on their way to a packager's thread.
pub const HLS_QUEUE_ITEMS_MAX: usize = 2048;
/// Their payload bytes.
pub const HLS_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Of one break, stamps in two renditions: decode times begin a few pictures before pictures do.
pub const HLS_BREAK_NEAR_MS: i64 = 500;
/// Breaks of a stream that its packager knows of; older ones are behind all its renditions.
pub const HLS_BREAKS_KNOWN_MAX: usize = 64;
/// Parts that a power cut may have torn: what the kernel had not written yet, half a minute and more.
pub const HLS_TORN_PARTS_MAX: usize = 256;
/// As much of a stream may come at once at its beginning, and is dated by its newest picture.
pub const HLS_BURST_MS_MAX: i64 = 10_000;
/// A larger number of a segment or part is none of ours: segments are numbered from the seconds of the
/// clock on, players count in doubles.
pub const HLS_SEGMENT_NUMBER_MAX: u64 = 1 << 52;
pub const HLS_PART_NUMBER_MAX: u32 = 1 << 20;
/// How long (of stream time) a rendition waits for the header of its sound.
pub const HLS_SOUND_WAIT_MS: i64 = 1_000;
/// When the directory takes nothing, so many target durations are kept.
pub const HLS_TARGETS_KEPT_MIN: u64 = 6;
/// Before a packager that was stopped tries again.
pub const HLS_RETRY: Duration = Duration::from_secs(10);
/// Directories of other streams that a stream looks at when it begins: more than a node has streams
/// in an hour, the longest window; of most it asks the time alone.
pub const HLS_SWEEP_DIRECTORIES_MAX: usize = 65_536;
/// Files that it removes: about a second of work.
pub const HLS_SWEEP_FILES_MAX: usize = 65_536;
/// For how long beyond its window a stream's directory is left alone.
pub const HLS_SWEEP_AGE: Duration = Duration::from_secs(5 * 60);
pub const DELIVERY_CONNECTIONS_DEFAULT: u32 = 4096;
/// How long viewers of FLV may stay with a process that is replaced; players of HLS do not notice.
pub const DELIVERY_DRAIN_DEFAULT: Duration = Duration::from_secs(60);
pub const DELIVERY_DRAIN_MAX: Duration = Duration::from_secs(3600);
/// Of one address: a browser opens six to a host, so this is some forty viewers behind one NAT.
pub const DELIVERY_CONNECTIONS_PER_ADDRESS_DEFAULT: u32 = 256;
/// Streams of which delivery keeps the notes.
pub const DELIVERY_STREAMS_MAX: usize = 4096;
/// Directories that could not be listed and are tried again: all that may be there.
pub const DELIVERY_AGAIN_MAX: usize = DELIVERY_STREAMS_MAX;
/// Parts of one rendition that could not be read when they appeared, and are read with a later one: a
/// few minutes' at once, more with the next.
pub const DELIVERY_CATCH_UP_PARTS_MAX: usize = 1024;
/// Of a file below the HLS directory; a larger one is not ours.
pub const DELIVERY_FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bodies of new parts in memory; beyond it they are read from their files. Segments in one piece that
/// are made of them take as much again.
pub const DELIVERY_MEDIA_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Playlists kept as text.
pub const DELIVERY_TEXTS_MAX: usize = 4096;
/// Requests that wait for what is not there yet.
pub const DELIVERY_WAITING_MAX: u32 = 16_384;
/// For a TLS hello, a request's head, and between two requests of a connection.
pub const DELIVERY_HEADER_DEADLINE: Duration = Duration::from_secs(30);
pub const DELIVERY_HEADER_BYTES_MAX: usize = 16 * 1024;
/// A viewer that takes no byte for so long is gone.
pub const DELIVERY_STALL_MAX: Duration = Duration::from_secs(30);
/// Of one HTTP/2 connection.
pub const DELIVERY_REQUESTS_AT_ONCE: u32 = 64;
/// How often the logs of streams that have FLV viewers are looked at.
pub const FLV_LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// What is composed at once for one viewer, the last tag excepted, which may be longer. Two of these
/// wait for the socket at most.
pub const FLV_CHUNK_BYTES: usize = 64 * 1024;
/// An FLV viewer that takes no chunk for so long is closed.
pub const FLV_STALL_MAX: Duration = Duration::from_secs(10);
/// How long a viewer may take for what is left of a stream that is over.
pub const FLV_FAREWELL_MAX: Duration = Duration::from_secs(30);
/// Of a WebSocket message from a viewer, who has nothing to say.
pub const FLV_HEARD_BYTES_MAX: usize = 4096;

// Console.

/// Browsers, scrapers, probes; further ones wait in the kernel's queue.
pub const CONSOLE_CONNECTIONS_MAX: usize = 64;
/// Of a request to the supervisor; a heap profile takes longer.
pub const CONSOLE_ANSWER_DEADLINE: Duration = Duration::from_secs(5);
pub const CONSOLE_PROFILE_DEADLINE: Duration = Duration::from_secs(20);
/// Open pages that follow events, and commands that are not done: the status socket has 32 places, and
/// others want some.
pub const CONSOLE_CONVERSATIONS_MAX: usize = 16;
/// A status of all sessions is some megabytes.
pub const CONSOLE_REPLY_BYTES_MAX: u64 = 64 * 1024 * 1024;
pub const CONSOLE_REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Lines that a browser has not taken yet; then the supervisor drops its watcher.
pub const CONSOLE_LINES_AHEAD: usize = 64;
pub const CONSOLE_HISTORY_INTERVAL: Duration = Duration::from_secs(2);
/// An hour.
pub const CONSOLE_HISTORY_SAMPLES: u64 = 1800;
/// Processes whose footprints are remembered, oldest forgotten first.
pub const CONSOLE_HISTORY_WORKERS_MAX: usize = 128;
/// Of a set of evidence that is listed.
pub const EVIDENCE_FILES_MAX: usize = 64;
pub const CONSOLE_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

// Thumbnails.

pub const THUMBNAIL_INTERVAL_MS: i64 = 4_000;
/// At most.
pub const THUMBNAIL_WIDTH: usize = 320;
/// Of JPEG, up to 100.
pub const THUMBNAIL_QUALITY: u8 = 70;
/// A file that nobody has renewed for so long is of a stream that is gone.
pub const THUMBNAIL_SWEEP_AGE: Duration = Duration::from_secs(3600);
pub const THUMBNAIL_SWEEP_FILES_MAX: usize = 4096;
