//! The file recorder of one rendition: packets in, fragmented MP4 files out.
//!
//! ```text
//!   offer ──▶ RecordHandle ──(bounded channel)──▶ thread: Recorder ──▶ <name>_<rung>_<UTC>.mp4
//!             drops until the next keyframe        Idle ⇄ Recording → Stopped{reason}
//! ```
//!
//! Invariants: the side that offers never waits and never sees an error; a file begins at a
//! keyframe and is playable up to its last whole fragment whenever the process dies; a full
//! disk, too little free space or any I/O error stops the recording by name, never the stream.
//! A recorder holds an exclusive lock (flock) on the file that it writes, so that retention and
//! repair in any process leave it alone; so does a new owner of the recording, until the lock is
//! free. Then it goes on in the same file, with the very next packet (`resume.rs`, `note.rs`).

pub mod disk;
mod note;
mod recorder;
pub mod repair;
mod resume;

use crate::media::packet::{IsIdr, VideoCodec};
use crate::media::timeline::Track;
use crate::output::cursor::Place;
use crate::session::stream::Wake;
use disk::RealDisk;
use recorder::Recorder;
use resume::{NotResumed, Patience};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use tasuki_shared::clock;
use tasuki_shared::id::PublicName;
use tasuki_shared::limits::{
    RECORD_HANDOVER_LOOK, RECORD_HANDOVER_WAIT, RECORD_QUEUE_BYTES_MAX, RECORD_QUEUE_ITEMS_MAX,
};

/// Marks the files of one stream's recordings, whoever writes them: the same through all owners
/// of the stream, another one for each stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesId(pub [u8; Self::SIZE]);

impl SeriesId {
    pub const SIZE: usize = 16;

    /// One that no other stream of this machine has: by time, process and count.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut id = [0; Self::SIZE];
        id[..8].copy_from_slice(&clock::unix_ms().to_le_bytes());
        id[8..12].copy_from_slice(&std::process::id().to_le_bytes());
        id[12..].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        Self(id)
    }
}

impl Default for SeriesId {
    fn default() -> Self {
        Self::new()
    }
}

/// Where and how one rendition is recorded.
#[derive(Clone, Debug)]
pub struct RecordConfig {
    pub directory: PathBuf,
    pub name: PublicName,
    /// Label of the rung.
    pub rung: PublicName,
    /// A new file is begun at the first keyframe after this long.
    pub rotate_ms: u64,
    /// Files older than this are removed; 0 keeps them.
    pub keep_ms: u64,
    /// Oldest files are removed while the directory is larger; 0 keeps them.
    pub keep_bytes: u64,
    /// Free space below which recording stops by name.
    pub reserve_bytes: u64,
    pub series: SeriesId,
}

/// What a recorder is given, in the order of the stream.
#[derive(Clone, Debug)]
pub enum RecordItem {
    /// A decoder configuration record; a new one begins a new file.
    VideoHeader {
        codec: VideoCodec,
        config: Vec<u8>,
    },
    /// An AudioSpecificConfig; a new one begins a new file at the next keyframe.
    AudioHeader {
        config: Vec<u8>,
    },
    Packet(RecordPacket),
    /// The file ends here; the next keyframe begins a new one.
    FileEnd,
}

#[derive(Clone, Debug)]
pub struct RecordPacket {
    pub track: Track,
    pub dts_ms: i64,
    pub pts_ms: i64,
    /// A true IDR picture; not looked at for audio.
    pub idr: IsIdr,
    /// NAL units with lengths as the header says, or one raw AAC frame.
    pub payload: Vec<u8>,
    /// The reader's place before this packet and behind it.
    pub at: Place,
    pub behind: Place,
}

/// Why a recording has ended for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    #[error("disk full")]
    DiskFull,
    #[error("{free_bytes} bytes are free, fewer than the reserve of {reserve_bytes}")]
    Reserve { free_bytes: u64, reserve_bytes: u64 },
    #[error("{doing}: {error}")]
    Io { doing: &'static str, error: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RecordState {
    /// Waiting for a header or a keyframe.
    #[default]
    Idle,
    Recording,
    Stopped {
        reason: StopReason,
    },
}

/// What has become of it so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordReport {
    pub state: RecordState,
    /// The file being written, or the last one.
    pub path: PathBuf,
    /// Bytes in whole fragments, over all files.
    pub bytes: u64,
    pub files: u64,
    pub fragments: u64,
    /// Lost because the disk was slower than the stream.
    pub dropped_queue_full: u64,
    /// Not in a file, because none can begin before a keyframe.
    pub skipped_before_keyframe: u64,
    /// Not in a file, because their header is missing, not usable or not yet in a file.
    pub skipped_no_header: u64,
    /// Headers that no file can be made with.
    pub headers_refused: u64,
    /// Files of dead processes whose torn tail was cut off.
    pub repaired: u64,
    /// Files removed by retention.
    pub removed: u64,
    pub last_error: String,
}

impl RecordState {
    /// As in the status.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Recording => "recording",
            Self::Stopped { .. } => "stopped",
        }
    }
}

/// How a recorder's thread begins; nothing is to be offered before that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// There is no file: from the start of the stream.
    Fresh,
    /// In a file of another owner, which holds everything before this place.
    GoesOn(Place),
    /// A file of another owner cannot go on; the report says why. With the next keyframe.
    Anew,
}

/// Starts the thread that does a recording's file I/O.
pub struct RecordThread;

impl RecordThread {
    /// The thread ends when its handle is dropped; what it holds is written first.
    pub fn spawn(config: RecordConfig) -> std::io::Result<RecordHandle> {
        start(config, Begin::Fresh)
    }

    /// Goes on in the file of the series, once its last owner has let go of it; `wake` is called
    /// when it is known how it begins.
    pub fn resume(config: RecordConfig, wake: Wake) -> std::io::Result<RecordHandle> {
        start(config, Begin::GoOn(wake))
    }
}

enum Begin {
    Fresh,
    GoOn(Wake),
}

fn start(config: RecordConfig, begin: Begin) -> std::io::Result<RecordHandle> {
    let (mut handle, receiver) = RecordHandle::new();
    if matches!(begin, Begin::Fresh) {
        let _unset_until_here = handle.shared.beginning.set(Beginning::Fresh);
    }
    let shared = Arc::clone(&handle.shared);
    let run = move || record(config, begin, &receiver, &shared);
    handle.thread = Some(std::thread::Builder::new().name("record".to_owned()).spawn(run)?);
    Ok(handle)
}

/// What both sides look at.
#[derive(Default)]
struct Shared {
    report: Mutex<RecordReport>,
    queued_bytes: AtomicUsize,
    queued_items: AtomicUsize,
    beginning: OnceLock<Beginning>,
}

/// The stream's side of a recording.
pub struct RecordHandle {
    sender: Option<SyncSender<RecordItem>>,
    /// Headers that did not fit into the channel, oldest first; at most one of each track.
    headers: VecDeque<RecordItem>,
    flow: Flow,
    has_video: HasVideo,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Passing,
    DroppingUntilKeyframe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HasVideo {
    No,
    Yes,
}

/// What became of an offered item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    Taken,
    /// The disk is slower than the stream; dropped and counted, as is all until a keyframe.
    QueueFull,
    /// The recording has ended; see the report.
    Stopped,
}

impl RecordHandle {
    fn new() -> (Self, Receiver<RecordItem>) {
        let (sender, receiver) = sync_channel(RECORD_QUEUE_ITEMS_MAX);
        let handle = Self {
            sender: Some(sender),
            headers: VecDeque::new(),
            flow: Flow::Passing,
            has_video: HasVideo::No,
            shared: Arc::default(),
            thread: None,
        };
        (handle, receiver)
    }

    /// Hands an item over; never waits.
    pub fn offer(&mut self, item: RecordItem) -> Offered {
        match item {
            RecordItem::VideoHeader { .. } => {
                self.has_video = HasVideo::Yes;
                self.headers.retain(|header| !matches!(header, RecordItem::VideoHeader { .. }));
                self.headers.push_back(item);
                self.send_headers()
            }
            RecordItem::AudioHeader { .. } => {
                self.headers.retain(|header| !matches!(header, RecordItem::AudioHeader { .. }));
                self.headers.push_back(item);
                self.send_headers()
            }
            RecordItem::Packet(packet) => self.offer_packet(packet),
            RecordItem::FileEnd => self.send(item).0,
        }
    }

    #[must_use]
    pub fn report(&self) -> RecordReport {
        locked(&self.shared.report).clone()
    }

    /// How it begins, once that is known.
    #[must_use]
    pub fn beginning(&self) -> Option<&Beginning> {
        self.shared.beginning.get()
    }

    /// Is there room for more without a loss? What finds none can stay in its log for a while.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.queued_items.load(Ordering::Relaxed) < RECORD_QUEUE_ITEMS_MAX / 2
            && self.shared.queued_bytes.load(Ordering::Relaxed) < RECORD_QUEUE_BYTES_MAX / 2
    }

    /// Waits until all that was taken is on disk and the file is closed. Not for the I/O thread.
    #[must_use]
    pub fn finish(mut self) -> RecordReport {
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            "the recording's thread panicked"
                .clone_into(&mut locked(&self.shared.report).last_error);
        }
        self.report()
    }

    fn offer_packet(&mut self, packet: RecordPacket) -> Offered {
        let begins = match (packet.track, self.has_video) {
            (Track::Video, _) => packet.idr == IsIdr::Idr,
            (Track::Audio, HasVideo::No) => true,
            (Track::Audio, HasVideo::Yes) => false,
        };
        let offered = if self.flow == Flow::DroppingUntilKeyframe && !begins {
            Offered::QueueFull
        } else {
            match self.send_headers() {
                Offered::Taken => self.send(RecordItem::Packet(packet)).0,
                not_taken @ (Offered::QueueFull | Offered::Stopped) => not_taken,
            }
        };
        match offered {
            Offered::Taken => self.flow = Flow::Passing,
            Offered::QueueFull => {
                self.flow = Flow::DroppingUntilKeyframe;
                locked(&self.shared.report).dropped_queue_full += 1;
            }
            Offered::Stopped => {}
        }
        offered
    }

    fn send_headers(&mut self) -> Offered {
        while let Some(header) = self.headers.pop_front() {
            let (offered, rejected) = self.send(header);
            if let Some(header) = rejected {
                self.headers.push_front(header);
            }
            if offered != Offered::Taken {
                return offered;
            }
        }
        Offered::Taken
    }

    fn send(&self, item: RecordItem) -> (Offered, Option<RecordItem>) {
        let Some(sender) = &self.sender else { return (Offered::Stopped, None) };
        let bytes = item.bytes();
        let Shared { queued_bytes, queued_items, .. } = &*self.shared;
        if queued_bytes.load(Ordering::Relaxed).saturating_add(bytes) > RECORD_QUEUE_BYTES_MAX {
            return (Offered::QueueFull, Some(item));
        }
        // Counted before the other side can take it out and subtract.
        queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        queued_items.fetch_add(1, Ordering::Relaxed);
        match sender.try_send(item) {
            Ok(()) => (Offered::Taken, None),
            Err(TrySendError::Full(item)) => {
                queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                queued_items.fetch_sub(1, Ordering::Relaxed);
                (Offered::QueueFull, Some(item))
            }
            Err(TrySendError::Disconnected(_)) => (Offered::Stopped, None),
        }
    }
}

impl RecordItem {
    fn bytes(&self) -> usize {
        match self {
            Self::VideoHeader { config, .. } | Self::AudioHeader { config } => config.len(),
            Self::Packet(packet) => packet.payload.len(),
            Self::FileEnd => 0,
        }
    }
}

/// The thread: leaves when the handle is gone or the recording has stopped.
fn record(config: RecordConfig, begin: Begin, receiver: &Receiver<RecordItem>, shared: &Shared) {
    let mut recorder = Recorder::new(config, RealDisk);
    match begin {
        Begin::Fresh => {
            recorder.repair_predecessor();
            recorder.publish(&shared.report);
        }
        Begin::GoOn(wake) => {
            let beginning = go_on(&mut recorder, receiver);
            recorder.publish(&shared.report);
            let _unset_until_here = shared.beginning.set(beginning);
            wake();
        }
    }
    while let Ok(item) = receiver.recv() {
        let bytes = item.bytes();
        recorder.handle(clock::unix_ms(), item);
        shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        shared.queued_items.fetch_sub(1, Ordering::Relaxed);
        recorder.publish(&shared.report);
        if recorder.is_stopped() {
            return;
        }
    }
    recorder.finish();
    recorder.publish(&shared.report);
}

/// Waits for the last owner's file and takes it, or says how else it begins.
fn go_on(recorder: &mut Recorder<RealDisk>, receiver: &Receiver<RecordItem>) -> Beginning {
    let deadline = clock::now() + RECORD_HANDOVER_WAIT;
    // Nothing is offered yet, so all that can come is that the stream's side is gone.
    let wait = || match receiver.recv_timeout(RECORD_HANDOVER_LOOK) {
        Err(RecvTimeoutError::Timeout) if clock::now() < deadline => Patience::Left,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) | Ok(_) => Patience::Over,
    };
    let reason = match recorder.find(wait) {
        Ok(resumed) => {
            let (place, path) = (resumed.note.place, resumed.path.clone());
            match recorder.go_on(resumed) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "a recording goes on");
                    return Beginning::GoesOn(place);
                }
                Err(reason) => reason.to_string(),
            }
        }
        Err(NotResumed::NoFile) => {
            recorder.repair_predecessor();
            return Beginning::Fresh;
        }
        Err(error) => error.to_string(),
    };
    tracing::warn!(%reason, "a recording begins a new file");
    recorder.repair_predecessor();
    recorder.begins_anew(reason);
    Beginning::Anew
}

/// A report is whole whenever the lock is free, also after a panic elsewhere.
fn locked(report: &Mutex<RecordReport>) -> MutexGuard<'_, RecordReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests;
