//! Work of which several servers take beside each other, each until its streams end.

use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is still to be done.
#[derive(Debug)]
pub struct Queue<T>(Mutex<VecDeque<T>>);

impl<T> Queue<T> {
    /// The first that fits, taken out.
    pub fn take(&self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let mut queue = lock(&self.0);
        let at = queue.iter().position(fits)?;
        queue.remove(at)
    }
}

/// Has `stand` take from `work`, over and over in a new directory, in as many lanes beside each
/// other, until nothing is left.
pub fn run<T: Send, D: Send>(
    directory: &Path,
    work: VecDeque<T>,
    lanes: usize,
    stand: impl Fn(&Path, &Queue<T>) -> Result<D> + Sync,
) -> Result<Vec<D>> {
    let queue = Queue(Mutex::new(work));
    let done = Mutex::new(Vec::new());
    let lane = |lane: usize| -> Result<()> {
        for round in 0.. {
            if lock(&queue.0).is_empty() {
                break;
            }
            let directory = directory.join(format!("lane{lane}-{round}"));
            std::fs::create_dir(&directory)?;
            let part =
                stand(&directory, &queue).with_context(|| format!("in {}", directory.display()))?;
            lock(&done).push(part);
            std::fs::remove_dir_all(&directory)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|n| scope.spawn(move || lane(n))).collect();
        lanes.into_iter().try_for_each(|lane| match lane.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a lane panicked"),
        })
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
