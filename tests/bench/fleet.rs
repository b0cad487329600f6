//! Many publishers on few threads, each sending the same tags at its own phase.

use crate::rtmp::{self, Publisher};
use anyhow::{Context, Result, ensure};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_tests::flv::Tag;

/// A publisher that sends later than this has been held up: the run is void.
const LATE_MAX: Duration = Duration::from_secs(2);
/// What the server says is thrown away after so many messages of one connection.
const MESSAGES_BETWEEN_READS: usize = 64;

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub messages: u64,
    pub bytes: u64,
    pub latest: Duration,
}

/// Publishers that run until they are stopped.
#[derive(Debug)]
pub struct Fleet {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Sent>>,
}

impl Fleet {
    /// Connects `count` publishers called `prefix0`, `prefix1`, …, then lets them
    /// send.
    pub fn start(
        address: SocketAddr,
        prefix: &str,
        count: usize,
        tags: &Arc<Vec<Tag>>,
    ) -> Result<Self> {
        let publishers = (0..count)
            .map(|number| Publisher::start(address, &format!("{prefix}{number}")))
            .collect::<Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, tags) = (Arc::clone(&stop), Arc::clone(tags));
        let thread = std::thread::spawn(move || send(publishers, &tags, &stopped));
        Ok(Self { stop, thread })
    }

    /// Fails when sending has failed already.
    pub fn must_run(&self) -> Result<()> {
        ensure!(!self.thread.is_finished(), "the publishers have stopped");
        Ok(())
    }

    /// Ends all of them.
    pub fn finish(self) -> Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("a publisher panicked"))?
    }
}

fn send(mut publishers: Vec<Publisher>, tags: &[Tag], stop: &AtomicBool) -> Result<Sent> {
    let stream_id = publishers.first().map_or(1, Publisher::stream_id);
    ensure!(
        publishers.iter().all(|publisher| publisher.stream_id() == stream_id),
        "all connections got the same stream id"
    );
    let messages = rtmp::wire(tags, stream_id);
    let span = tags.last().context("tags to send")?.dts_ms;
    let begin = clock::now();
    let step = Duration::from_millis(1000) / u32::try_from(publishers.len().max(1))?;
    let due = |place: usize, number: usize| -> Result<Instant> {
        let at = Duration::from_millis(u64::from(messages[number].0));
        Ok(begin + step * u32::try_from(place)? + at)
    };
    let mut queue = BinaryHeap::new();
    for place in 0..publishers.len() {
        queue.push(Reverse((due(place, 0)?, place, 0_usize)));
    }
    let mut sent = Sent::default();
    while let Some(Reverse((at, place, number))) = queue.pop() {
        if stop.load(Ordering::Relaxed) {
            return Ok(sent);
        }
        let now = clock::now();
        if at > now {
            clock::pause(at - now);
        }
        sent.latest = sent.latest.max(clock::now().saturating_duration_since(at));
        ensure!(sent.latest < LATE_MAX, "a publisher was held up for {:?}", sent.latest);
        let bytes = &messages[number].1;
        publishers[place].send(bytes).with_context(|| format!("publisher {place}"))?;
        sent.messages += 1;
        sent.bytes += bytes.len() as u64;
        if number % MESSAGES_BETWEEN_READS == 0 {
            publishers[place].drop_replies().with_context(|| format!("publisher {place}"))?;
        }
        ensure!(number + 1 < messages.len(), "the fixture of {span} ms is too short for this run");
        queue.push(Reverse((due(place, number + 1)?, place, number + 1)));
    }
    Ok(sent)
}
