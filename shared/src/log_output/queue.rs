//! Lines on their way to stderr: a bounded queue and the thread that writes it.
//!
//! stderr may be a pipe that nobody reads, a terminal that was stopped, a full disk. Whoever logs
//! never waits for it: a line that finds no room is dropped, and the next one that is written
//! says how many were.
//!
//! Deliberately lacks: any promise across a death by signal; what waits then is lost.

use crate::limits::{LOG_FLUSH_DEADLINE, LOG_QUEUE_LINES_MAX};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};

/// The queue of this process, for [`flush`] at its end.
static QUEUE: OnceLock<Queue> = OnceLock::new();

enum Item {
    Line(Vec<u8>),
    /// Everything before it has been written when this is answered.
    Flush(SyncSender<()>),
}

/// The end into which lines go.
#[derive(Clone)]
pub struct Queue {
    lines: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// Starts the thread that writes to `out`; `tell` makes the line that says how many were
    /// dropped.
    pub fn start(
        out: impl Write + Send + 'static,
        tell: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(LOG_QUEUE_LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&waiting, out, &counter, tell))?;
        Ok(Self { lines, dropped })
    }

    /// Makes this the process's queue, which [`flush`] empties.
    pub fn install(self) -> Self {
        QUEUE.get_or_init(|| self.clone());
        self
    }

    fn push(&self, line: Vec<u8>) {
        match self.lines.try_send(Item::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits, within a bound, until what was logged so far is written.
    pub fn flush(&self) {
        let (written, done) = sync_channel(1);
        let deadline = crate::clock::now() + LOG_FLUSH_DEADLINE;
        let mut item = Item::Flush(written);
        while let Err(TrySendError::Full(back)) = self.lines.try_send(item) {
            if crate::clock::now() >= deadline {
                return;
            }
            item = back;
            crate::clock::pause(std::time::Duration::from_millis(10));
        }
        let left = deadline.saturating_duration_since(crate::clock::now());
        // The deadline or the end of the thread: nothing more can be done for these lines.
        let _ = done.recv_timeout(left);
    }
}

/// Waits, within a bound, until this process's log is written. For the end of `main`.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush();
    }
}

/// One event being formatted; it goes on its way when dropped.
pub struct LineWriter<'a> {
    queue: &'a Queue,
    line: Vec<u8>,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.queue.push(std::mem::take(&mut self.line));
        }
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Queue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { queue: self, line: Vec::new() }
    }
}

fn write_all(
    waiting: &Receiver<Item>,
    mut out: impl Write,
    dropped: &AtomicU64,
    tell: impl Fn(u64) -> String,
) {
    while let Ok(item) = waiting.recv() {
        match item {
            // A log that cannot be written has nobody to be told of it.
            Item::Line(line) => drop(out.write_all(&line)),
            Item::Flush(written) => {
                let _ = out.flush();
                let _ = written.send(());
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = out.write_all(tell(lost).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    /// Takes a line only when it may.
    struct Slow {
        begun: Sender<()>,
        may: Receiver<()>,
        taken: Arc<Mutex<String>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.begun.send(());
            let _ = self.may.recv();
            self.taken.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_logs_never_waits_and_what_was_dropped_is_counted_and_told() {
        let (begun, has_begun) = channel();
        let (allow, may) = channel();
        let taken = Arc::new(Mutex::new(String::new()));
        let slow = Slow { begun, may, taken: Arc::clone(&taken) };
        let queue = Queue::start(slow, |lost| format!("lost {lost}\n")).unwrap();
        queue.push(b"first\n".to_vec());
        has_begun.recv().unwrap();
        // The thread hangs in its write: the queue fills up and this loop still ends.
        for _ in 0..LOG_QUEUE_LINES_MAX + 7 {
            queue.push(b"x\n".to_vec());
        }
        queue.flush();
        assert_eq!(*taken.lock().unwrap(), "", "a flush has a deadline");
        drop(allow);
        queue.flush();
        let taken = taken.lock().unwrap().clone();
        assert!(taken.starts_with("first\nlost 7\nx\n"), "{}", &taken[..30]);
        assert_eq!(taken.lines().filter(|line| *line == "x").count(), LOG_QUEUE_LINES_MAX);
    }
}
