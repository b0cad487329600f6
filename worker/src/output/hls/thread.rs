//! The packager's thread: one for all renditions of a stream. It alone touches the directory.
//!
//! The side that feeds never waits: while there is no room, packets stay in their logs. It wakes the
//! thread once for all that a turn has, not for each packet.

use super::renditions::{HlsConfig, HlsItem, News, RenditionReport, Renditions};
use super::store::{Directory, Files, Opened, sweep};
use crate::session::stream::Wake;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use tasuki_shared::clock;
use tasuki_shared::limits::{HLS_QUEUE_BYTES_MAX, HLS_QUEUE_ITEMS_MAX};

/// An item and whose it is.
type Fed = (usize, HlsItem);

/// What becomes of what is held when the feeding side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Dropped: another owner makes it of the logs.
    Release,
    /// Written, and that the stream is over.
    End,
}

/// What both sides look at.
#[derive(Default)]
struct Shared {
    said: Mutex<Said>,
    queued_bytes: AtomicUsize,
    queued_items: AtomicUsize,
    closing: OnceLock<Closing>,
}

impl Shared {
    /// An item is no longer on its way.
    fn taken(&self, item: &HlsItem) {
        self.queued_bytes.fetch_sub(item_bytes(item), Ordering::Relaxed);
        self.queued_items.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Said {
    reports: Vec<RenditionReport>,
    news: News,
}

/// The stream's side of the packager.
pub struct HlsHandle {
    sender: Option<SyncSender<Vec<Fed>>>,
    /// Offered in this turn.
    offered: Vec<Fed>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Was what was offered taken?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    Taken,
    Lost,
}

impl HlsHandle {
    /// Opens the directory and says by orders from where to feed; `wake` is called with each.
    pub fn spawn(config: HlsConfig, wake: Wake) -> std::io::Result<Self> {
        let files = Directory { path: config.directory.clone() };
        Self::spawn_with(config, files, wake)
    }

    pub(super) fn spawn_with<F: Files + Send + 'static>(
        config: HlsConfig,
        files: F,
        wake: Wake,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(HLS_QUEUE_ITEMS_MAX);
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let run = move || package(config, files, &receiver, &theirs, &wake);
        let thread = std::thread::Builder::new().name("hls".to_owned()).spawn(run)?;
        Ok(Self { sender: Some(sender), offered: Vec::new(), shared, thread: Some(thread) })
    }

    /// Is there room for more? What finds none can stay in its log for a while.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.queued_items.load(Ordering::Relaxed) < HLS_QUEUE_ITEMS_MAX / 2
            && self.shared.queued_bytes.load(Ordering::Relaxed) < HLS_QUEUE_BYTES_MAX / 2
    }

    /// Takes an item, to be handed over with the turn's others.
    pub fn offer(&mut self, rendition: usize, item: HlsItem) {
        // Counted before the other side can take it out and subtract.
        self.shared.queued_bytes.fetch_add(item_bytes(&item), Ordering::Relaxed);
        self.shared.queued_items.fetch_add(1, Ordering::Relaxed);
        self.offered.push((rendition, item));
    }

    /// Hands over what was offered; never waits.
    pub fn hand_over(&mut self) -> Offered {
        if self.offered.is_empty() {
            return Offered::Taken;
        }
        let offered = std::mem::take(&mut self.offered);
        let lost = match self.sender.as_ref().map(|sender| sender.try_send(offered)) {
            Some(Ok(())) => return Offered::Taken,
            Some(Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost))) => lost,
            None => return Offered::Lost,
        };
        for (_, item) in lost {
            self.shared.taken(&item);
        }
        Offered::Lost
    }

    /// Orders and notices since the last call.
    pub fn news(&mut self) -> News {
        std::mem::take(&mut locked(&self.shared.said).news)
    }

    #[must_use]
    pub fn reports(&self) -> Vec<RenditionReport> {
        locked(&self.shared.said).reports.clone()
    }

    /// Is its thread there? One that panicked takes nothing any more.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits until the thread has done what is left. Not for the io thread.
    pub fn close(mut self, closing: Closing) {
        if self.hand_over() == Offered::Lost {
            tracing::warn!("the last packets did not reach the packager");
        }
        let _first_word_holds = self.shared.closing.set(closing);
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the packager's thread panicked");
        }
    }
}

fn item_bytes(item: &HlsItem) -> usize {
    match item {
        HlsItem::Mark { order: _, kind: _, joins: _ } => 0,
        HlsItem::VideoHeader { config, .. } | HlsItem::AudioHeader { config } => config.len(),
        HlsItem::Packet(packet) => packet.packet.payload.len(),
    }
}

fn package<F: Files>(
    config: HlsConfig,
    files: F,
    receiver: &Receiver<Vec<Fed>>,
    shared: &Shared,
    wake: &Wake,
) {
    let directory = config.directory.clone();
    let (mut renditions, opened) = Renditions::open(config, files, clock::now());
    tell(&mut renditions, shared, wake);
    if opened == Opened::FirstTime {
        let swept = sweep(&directory, clock::unix_ms());
        if swept > 0 {
            tracing::info!(swept, "HLS directories of streams long gone are removed");
        }
    }
    loop {
        let received = match renditions.wakes_at() {
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => receiver.recv_timeout(at.saturating_duration_since(clock::now())),
        };
        match received {
            Ok(batch) => {
                renditions.received(batch.iter().map(|(_, item)| item), clock::unix_ms());
                for (rendition, item) in batch {
                    shared.taken(&item);
                    renditions.take(rendition, item, clock::unix_ms(), clock::now());
                }
            }
            Err(RecvTimeoutError::Timeout) => renditions.wake(clock::now()),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        tell(&mut renditions, shared, wake);
    }
    if shared.closing.get() == Some(&Closing::End) {
        renditions.finish(clock::unix_ms(), clock::now());
        tell(&mut renditions, shared, wake);
    }
}

/// Makes it visible to the stream's side, which is woken where it has to do something.
fn tell<F: Files>(renditions: &mut Renditions<F>, shared: &Shared, wake: &Wake) {
    let news = std::mem::take(&mut renditions.news);
    let wakes = !news.orders.is_empty();
    let mut said = locked(&shared.said);
    said.reports.clear();
    said.reports.extend(renditions.reports().cloned());
    said.news.orders.extend(news.orders);
    said.news.notices.extend(news.notices);
    drop(said);
    if wakes {
        wake();
    }
}

/// What was said is whole whenever the lock is free, also after a panic elsewhere.
fn locked(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}
