//! Leaks on purpose, for tests and demonstration. The supervisor orders them only when it was
//! started with `--allow-chaos`. Every page is touched: the memory is really taken.

use crate::allocator::FreedPages;
use crate::libav::Block;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::limits::CHAOS_INTERVAL;
use tasuki_shared::message::{ChaosPlan, LeakKind, LeakShape};

const BLOCK_BYTES: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;
const MINUTE: Duration = Duration::from_secs(60);

/// A leak that runs until this is dropped.
#[derive(Debug)]
pub struct Chaos {
    /// Nothing is sent; its end is the sign.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Chaos {
    pub fn start(plan: ChaosPlan) -> io::Result<Self> {
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::Builder::new().name("chaos".into());
        let thread = thread.spawn(move || run(plan, &stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

fn run(plan: ChaosPlan, stopped: &Receiver<()>) {
    tracing::warn!(?plan, "this worker leaks on purpose");
    let (began, mut leak) = (clock::now(), Leak::new(plan));
    while stopped.recv_timeout(CHAOS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        leak.grow_to(began.elapsed());
    }
}

/// What has been leaked so far; dropping it gives it back.
#[derive(Debug)]
pub struct Leak {
    plan: ChaosPlan,
    leaked_bytes: u64,
    held: Vec<Held>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held, never looked at")]
enum Held {
    Rust(Box<[u8]>),
    C(Block),
    Freed(FreedPages),
}

impl Leak {
    #[must_use]
    pub fn new(plan: ChaosPlan) -> Self {
        Self { plan, leaked_bytes: 0, held: Vec::new() }
    }

    /// Leaks what is missing to where the plan is after this time.
    pub fn grow_to(&mut self, elapsed: Duration) {
        let due = due_bytes(&self.plan, elapsed);
        while due >= self.leaked_bytes + PAGE_BYTES {
            let bytes = (due - self.leaked_bytes).min(BLOCK_BYTES) / PAGE_BYTES * PAGE_BYTES;
            let Some(held) = take(self.plan.kind, bytes) else { return };
            self.held.push(held);
            self.leaked_bytes += bytes;
        }
    }
}

fn due_bytes(plan: &ChaosPlan, elapsed: Duration) -> u64 {
    let ms = match plan.shape {
        LeakShape::Steady => elapsed.as_millis(),
        LeakShape::Steps => elapsed.as_millis() / MINUTE.as_millis() * MINUTE.as_millis(),
    };
    let due = u128::from(plan.bytes_per_minute) * ms / MINUTE.as_millis();
    let due = u64::try_from(due).unwrap_or(u64::MAX);
    if plan.bytes_max > 0 { due.min(plan.bytes_max) } else { due }
}

/// `None` when there is no more memory: then the leak has done its work.
fn take(kind: LeakKind, bytes: u64) -> Option<Held> {
    let bytes = usize::try_from(bytes).ok()?;
    match kind {
        LeakKind::Rust => Some(Held::Rust(vec![0xA5; bytes].into_boxed_slice())),
        LeakKind::C => Block::touched(bytes).ok().map(Held::C),
        LeakKind::LazyFree => FreedPages::touched(bytes).ok().map(Held::Freed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_as_steep_as_asked_and_stops_where_asked() {
        let plan = ChaosPlan {
            bytes_per_minute: 60 << 20,
            kind: LeakKind::Rust,
            shape: LeakShape::Steady,
            bytes_max: 0,
        };
        let due = |plan: &ChaosPlan, secs| due_bytes(plan, Duration::from_secs(secs)) >> 20;
        assert_eq!((due(&plan, 1), due(&plan, 90)), (1, 90));
        let steps = ChaosPlan { shape: LeakShape::Steps, ..plan };
        assert_eq!((due(&steps, 59), due(&steps, 60), due(&steps, 119)), (0, 60, 60));
        let bounded = ChaosPlan { bytes_max: 70 << 20, ..plan };
        assert_eq!(due(&bounded, 3600), 70);
    }
}
