//! Last stage: an encoder for each rung, and a thread that takes over when the stream falls behind. It
//! begins then; only an encoder that no spare one stands in for has one from the start, which opens it.
//!
//! While a stream keeps up, its media thread encodes the rungs one after another: a picture and an
//! encoder's memory stay in one processor's caches, which was measured to cost a tenth less than
//! handing each picture to another thread. When packets wait, the rungs' threads work beside each
//! other, for a stream may need more than one core. Jobs of a rung are done in order either way: the
//! media thread takes one only when none is with the thread.

use super::outlet::{Outlet, Ticket};
use super::{Control, PipelineEvent as Event, PipelineOutput as Output};
use crate::libav::{ForceIdr, Frame, LibavError, VideoEncoder, VideoEncoderSettings};
use crate::media::packet::EncodedFrame;
use crate::spares::{Need, Spares};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tasuki_shared::clock;
use tasuki_shared::id::RungId;
use tasuki_shared::limits::STAGE_QUEUE_FRAMES_MAX;
use tasuki_shared::message::CodecNeed;

/// What the media thread asks of a rung.
pub enum Job {
    /// How full the rate buffer is at the seam, 0 to 1. An encoder that has hardly warmed up is
    /// opened anew with it by the next IDR.
    RateFullness(f32),
    Encode {
        frame: Frame,
        idr: ForceIdr,
        result: Destination,
    },
}

/// So many pictures make an encoder's rate control that of one which never changed hands; what its
/// own first IDR took from the rate buffer is forgotten by then.
const WARM_PICTURES: i64 = 25;

/// Where the result goes.
#[derive(Clone, Copy)]
pub enum Destination {
    Entry(Ticket),
    /// Encoded to warm up.
    Nowhere,
}

/// Who encodes a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    /// The media thread, before it goes on.
    Caller,
    /// The rungs' threads, beside each other.
    Threads,
}

/// A rung's encoder as the media thread sees it; dropping it ends its thread, if it has one.
pub struct RungEncoder {
    pub rung: RungId,
    /// What it is opened with; `None` when nobody can be told.
    pub need: Option<CodecNeed>,
    thread_name: String,
    /// Begun when it is first needed.
    thread: Option<SyncSender<Job>>,
    shared: Arc<Shared>,
    control: Arc<Control>,
    outlet: Arc<Outlet>,
}

struct Shared {
    encoder: Mutex<Encoder>,
    /// Jobs sent to the thread and not done.
    queued: AtomicUsize,
}

impl Shared {
    fn encoder(&self) -> MutexGuard<'_, Encoder> {
        self.encoder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread is gone.
pub struct RungGone;

impl RungEncoder {
    /// Takes a spare encoder; where there is none the rung's thread begins, for it can open one while
    /// the media thread still decodes.
    pub fn start(
        rung: RungId,
        label: &str,
        settings: VideoEncoderSettings,
        spares: Arc<Spares>,
        control: Arc<Control>,
        outlet: Arc<Outlet>,
    ) -> std::io::Result<Self> {
        // The kernel keeps 15 bytes of a name.
        let thread_name =
            format!("enc-{label}").chars().filter(char::is_ascii).take(15).collect::<String>();
        let need = Need::encoder(&settings).encode();
        let open = spares.spare_encoder(&settings);
        let is_open = open.is_some();
        let encoder = Encoder {
            rung,
            settings,
            spares,
            open,
            header: Vec::new(),
            outlet: Arc::clone(&outlet),
            control: Arc::clone(&control),
        };
        let shared = Arc::new(Shared { encoder: Mutex::new(encoder), queued: AtomicUsize::new(0) });
        let mut started = Self { rung, need, thread_name, thread: None, shared, control, outlet };
        if !is_open {
            started.thread = Some(started.spawn()?);
        }
        Ok(started)
    }

    fn spawn(&self) -> std::io::Result<SyncSender<Job>> {
        let (jobs, queue) = sync_channel(STAGE_QUEUE_FRAMES_MAX);
        self.outlet.thread_started();
        let guard = Guard { rung: self.rung, outlet: Arc::clone(&self.outlet) };
        let (shared, control) = (Arc::clone(&self.shared), Arc::clone(&self.control));
        let run = move || {
            // Dropped last, also by a panic.
            let guard = guard;
            guard.outlet.thread_runs();
            serve(&shared, &queue, &control);
            drop(shared);
            drop(guard);
        };
        std::thread::Builder::new().name(self.thread_name.clone()).spawn(run)?;
        Ok(jobs)
    }

    /// Has a job done: at once by the caller where `worker` says so and the thread has none of this
    /// rung, else by the thread; waits while its queue is full.
    pub fn give(&mut self, job: Job, worker: Worker) -> Result<(), RungGone> {
        if worker == Worker::Caller && self.shared.queued.load(Ordering::Acquire) == 0 {
            self.shared.encoder().work(job);
            return Ok(());
        }
        let jobs = match &self.thread {
            Some(jobs) => jobs,
            None => {
                let jobs = self.spawn().map_err(|error| {
                    tracing::warn!(%error, thread = self.thread_name, "a rung has no thread");
                    RungGone
                })?;
                self.thread.insert(jobs)
            }
        };
        self.shared.queued.fetch_add(1, Ordering::AcqRel);
        jobs.send(job).map_err(|_| RungGone)
    }
}

/// Runs when a rung's thread ends, however it ends.
struct Guard {
    rung: RungId,
    outlet: Arc<Outlet>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.outlet.abandon(self.rung);
        self.outlet.thread_ended();
    }
}

struct Encoder {
    rung: RungId,
    settings: VideoEncoderSettings,
    spares: Arc<Spares>,
    /// Opened at the start, or by the next IDR after a failure.
    open: Option<VideoEncoder>,
    /// The header that was given last.
    header: Vec<u8>,
    outlet: Arc<Outlet>,
    /// Where the time that it spends is counted.
    control: Arc<Control>,
}

fn serve(shared: &Shared, queue: &Receiver<Job>, control: &Control) {
    shared.encoder().open_early();
    while let Ok(job) = queue.recv() {
        if control.stopping() {
            return;
        }
        shared.encoder().work(job);
        shared.queued.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Encoder {
    fn work(&mut self, job: Job) {
        match job {
            Job::RateFullness(fullness) => {
                self.settings.vbv_init = Some(fullness);
                self.open = self.open.take_if(|encoder| encoder.encoded() >= WARM_PICTURES);
            }
            Job::Encode { frame, idr, result } => {
                let encoded = self.encode(&frame, idr);
                drop(frame);
                match result {
                    Destination::Nowhere => {}
                    Destination::Entry(ticket) => self.deliver(ticket, encoded),
                }
            }
        }
    }

    /// While the media thread still decodes. What fails here is told when it is wanted.
    fn open_early(&mut self) {
        if self.open.is_none() {
            self.open = self.spares.encoder(&self.settings).ok();
        }
    }

    fn encode(&mut self, frame: &Frame, idr: ForceIdr) -> Result<Option<EncodedFrame>, LibavError> {
        match idr {
            ForceIdr::Yes if self.open.is_none() => {
                self.open = Some(self.spares.encoder(&self.settings)?);
            }
            ForceIdr::Yes => {}
            // An encoder makes an IDR of its first picture, which only all rungs together do.
            ForceIdr::No if self.open.as_ref().is_none_or(|it| it.encoded() == 0) => {
                return Ok(None);
            }
            ForceIdr::No => {}
        }
        let Some(encoder) = &mut self.open else { return Ok(None) };
        let began_us = clock::monotonic_us();
        let encoded = encoder.encode(frame, idr);
        let spent_us = clock::monotonic_us().saturating_sub(began_us);
        if let Some(total) = self.control.encode_us.get(usize::from(self.rung.0)) {
            total.fetch_add(spent_us, Ordering::Relaxed);
        }
        if encoded.is_err() {
            self.open = None;
        }
        encoded.map(Some)
    }

    fn deliver(&mut self, ticket: Ticket, encoded: Result<Option<EncodedFrame>, LibavError>) {
        let mut before = Vec::new();
        let frame = match encoded {
            Ok(frame) => frame,
            Err(error) => {
                before.push(Output::Event(Event::RungFailed { rung: self.rung, error }));
                None
            }
        };
        if let (Some(_), Some(encoder)) = (&frame, &self.open)
            && self.header != encoder.configuration()
        {
            self.header = encoder.configuration().to_vec();
            before.push(Output::Header {
                rung: self.rung,
                avcc: self.header.clone(),
                width: self.settings.width,
                height: self.settings.height,
            });
        }
        self.outlet.deliver(ticket, self.rung, frame, before);
    }
}
