//! The thread that opens and closes spare codecs, and the io thread's handle of it.

use super::plan::Plan;
use super::{Spares, Stage, Turn};
use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use tasuki_shared::limits::{SPARE_NICE, SPARE_STOP_DEADLINE};
use tasuki_shared::message::SpareList;
use tasuki_shared::{clock, kernel};

/// See the module. Dropping it closes what is held.
#[derive(Debug)]
pub struct Filler {
    spares: Arc<Spares>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    pub fn start() -> io::Result<Self> {
        let spares = Arc::<Spares>::default();
        let theirs = Arc::clone(&spares);
        let thread = std::thread::Builder::new().name("spares".into());
        let thread = thread.spawn(move || {
            let guard = Guard(theirs);
            serve(&guard.0);
        })?;
        Ok(Self { spares, thread: Some(thread) })
    }

    /// What streams take their codecs from.
    #[must_use]
    pub fn spares(&self) -> Arc<Spares> {
        Arc::clone(&self.spares)
    }

    /// What is to be held from now on.
    pub fn tell(&self, list: SpareList) {
        self.spares.tell(list);
    }

    /// A live stream is here: nothing more is opened.
    pub fn enter_use(&self) {
        drop(self.spares.enter_use());
    }

    /// Closes what is held, without waiting for it.
    pub fn close(&self) {
        self.spares.close();
    }

    /// How many are held.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.spares.count()
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.close();
        let until = clock::now() + SPARE_STOP_DEADLINE;
        let mut inner = self.spares.lock();
        while inner.stage != Stage::Closed {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                // It is inside libav, without a processor; the process's end is its end too.
                tracing::debug!("the thread of the spare codecs is left behind");
                return;
            }
            let waited = self.spares.changed.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(inner);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

/// Runs when the thread ends, however it ends.
struct Guard(Arc<Spares>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.lock().stage = Stage::Closed;
        self.0.changed.notify_all();
    }
}

fn serve(spares: &Spares) {
    if let Err(error) = kernel::set_nice(0, SPARE_NICE) {
        tracing::debug!(%error, "spare codecs are opened at normal priority");
    }
    let mut plan = Plan::default();
    let mut last = Turn::Worked;
    loop {
        let turn = spares.turn(&mut plan, clock::now());
        match turn {
            Turn::Worked => {}
            Turn::Rest(stage, left) => {
                if last == Turn::Worked && stage == Stage::StandingBy {
                    tracing::debug!(held = spares.count(), bytes = plan.bytes(), "spare codecs");
                }
                spares.rest(stage, left);
            }
            Turn::Done => return,
        }
        last = turn;
    }
}
