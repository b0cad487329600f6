//! Work that an ended session leaves behind: codec threads that still have to stop, recordings
//! that still have to reach the disk. Each gets a thread of its own, so that the io thread never
//! waits for one; a worker that leaves waits for all, within a bound.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tasuki_shared::clock;

/// How often a leaving worker looks whether its leftovers are done.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What is still to be done; may block.
pub type Leftover = Box<dyn FnOnce() + Send>;

/// See the module.
#[derive(Default)]
pub struct Leftovers {
    threads: Vec<JoinHandle<()>>,
}

impl Leftovers {
    /// Lets a thread do it. Without one it is done here: late is better than never.
    pub fn add(&mut self, work: Leftover) {
        self.threads.retain(|thread| !thread.is_finished());
        let slot = std::sync::Arc::new(std::sync::Mutex::new(Some(work)));
        let theirs = std::sync::Arc::clone(&slot);
        let spawned = std::thread::Builder::new().name("leftover".to_owned()).spawn(move || {
            let work = theirs.lock().ok().and_then(|mut work| work.take());
            if let Some(work) = work {
                work();
            }
        });
        match spawned {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                tracing::warn!(%error, "no thread for what a session left; doing it at once");
                let work = slot.lock().ok().and_then(|mut work| work.take());
                if let Some(work) = work {
                    work();
                }
            }
        }
    }

    /// Waits for all of them, at most until `deadline`. Returns how many are not done.
    pub fn finish(&mut self, deadline: Instant) -> usize {
        loop {
            self.threads.retain(|thread| !thread.is_finished());
            if self.threads.is_empty() || clock::now() >= deadline {
                return self.threads.len();
            }
            clock::pause(LOOK_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn leaving_waits_for_what_is_left_but_not_for_ever() {
        let mut leftovers = Leftovers::default();
        let (done, is_done) = mpsc::channel();
        leftovers.add(Box::new(move || done.send(()).unwrap()));
        assert_eq!(leftovers.finish(clock::now() + Duration::from_secs(60)), 0);
        assert!(is_done.try_recv().is_ok());
        let (let_go, hang) = mpsc::channel::<()>();
        leftovers.add(Box::new(move || {
            let _let_go = hang.recv();
        }));
        assert_eq!(leftovers.finish(clock::now()), 1);
        let_go.send(()).unwrap();
        assert_eq!(leftovers.finish(clock::now() + Duration::from_secs(60)), 0);
    }
}
