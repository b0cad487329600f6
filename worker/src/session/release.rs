//! Handing a session over to a worker that is prepared for it.
//!
//! The last act of an owner: take nothing more from the pipeline, commit, store the owner word,
//! ring. What the record does not cover is the next owner's: bytes in the input ring, the rest of a
//! push's batch, the frames from the cut on.

use super::{Outbox, Phase, Session};
use crate::leftovers::Leftover;
use std::os::fd::OwnedFd;
use std::time::Instant;
use tasuki_shared::clock;
use tasuki_shared::id::Generation;
use tasuki_shared::kernel;
use tasuki_shared::limits::{CUT_SEARCH_MAX, OLD_OWNER_REST, WARM_UP};
use tasuki_shared::memory::owner;
use tasuki_shared::message::{CutReport, FromWorker, Haste};

const NO_ANCHOR: &str = "no keyframe to go on from is left in the source log";

/// An order to release.
pub(super) struct Release {
    to: Generation,
    haste: Haste,
    /// The next owner waits for it.
    bell: OwnedFd,
    /// No good cut came until then: any will do.
    until: Instant,
}

/// What became of an order to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    NotYet,
    /// The session is another's. It is to be dropped without a word to anybody.
    Yes,
}

impl Session {
    /// Begins to look for the cut.
    pub fn order_release(
        &mut self,
        to: Generation,
        haste: Haste,
        bell: Option<OwnedFd>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let refuse = |reason: &str, outbox: &mut Outbox| {
            let reason = reason.to_owned();
            outbox.push((FromWorker::ReleaseFailed { session: self.id, reason }, Vec::new()));
        };
        let Some(bell) = bell else { return refuse("its eventfd did not arrive", outbox) };
        match &mut self.phase {
            Phase::Draining { .. } | Phase::Leaving { .. } | Phase::Ended(_) => {
                return refuse("it is ending", outbox);
            }
            Phase::Live(stream) => match haste {
                Haste::Scheduled => stream.transcode.cut_at_idr(now + WARM_UP),
                Haste::Now if !stream.transcode.has_anchor(&stream.logs) => {
                    return refuse(NO_ANCHOR, outbox);
                }
                Haste::Now | Haste::AtAnyPrice => {}
            },
            Phase::Lobby | Phase::Authorizing { .. } => {}
        }
        self.release = Some(Release { to, haste, bell, until: now + CUT_SEARCH_MAX });
    }

    /// The session stays here.
    pub fn keep(&mut self) {
        if self.release.take().is_some()
            && let Phase::Live(stream) | Phase::Draining { stream, .. } = &mut self.phase
        {
            stream.forget_cut();
            self.changed.pipeline = super::Dirty::Yes;
        }
    }

    /// Releases the session if it stands at its cut.
    pub fn try_release(&mut self, outbox: &mut Outbox) -> Released {
        let Some(&Release { to, haste, until, .. }) = self.release.as_ref() else {
            return Released::NotYet;
        };
        if matches!(self.phase, Phase::Draining { .. } | Phase::Leaving { .. } | Phase::Ended(_)) {
            return self.stay("it is ending", outbox);
        }
        if let (Phase::Live(stream), Haste::Scheduled) = (&self.phase, haste) {
            if !stream.transcode.is_at_cut() && clock::now() < until {
                return Released::NotYet;
            }
            if !stream.transcode.has_anchor(&stream.logs) {
                return self.stay(NO_ANCHOR, outbox);
            }
        }
        // Before the bell: its ringing may give the processor to the next owner.
        let released_us = clock::monotonic_us();
        self.commit_changes();
        if let Err(error) = owner::release(self.memory.owner(), self.generation, to) {
            tracing::error!(session = %self.id, %error, "the owner word is not ours");
            return self.stay(&error.to_string(), outbox);
        }
        // From here on nothing of the session is read or written by this process.
        if let Some(Release { bell, .. }) = &self.release
            && let Err(error) = kernel::event_signal(bell)
        {
            // The supervisor hears of it as well, and tells the next owner.
            tracing::warn!(session = %self.id, %error, "the next owner cannot be woken");
        }
        let cut = CutReport { released_us, frames_lost: 0 };
        outbox.push((FromWorker::Released { session: self.id, cut }, Vec::new()));
        Released::Yes
    }

    /// It cannot be released now: what was held back for the cut is given after all.
    fn stay(&mut self, reason: &str, outbox: &mut Outbox) -> Released {
        self.keep();
        let reason = reason.to_owned();
        outbox.push((FromWorker::ReleaseFailed { session: self.id, reason }, Vec::new()));
        Released::NotYet
    }

    /// What is left of a session that was released: it is freed a little later, for freeing takes
    /// the processor that the next owner needs now.
    #[must_use]
    pub fn into_leftover(mut self) -> Leftover {
        let recordings = match &mut self.phase {
            Phase::Live(stream) => stream.release_recordings(),
            Phase::Lobby
            | Phase::Authorizing { .. }
            | Phase::Draining { .. }
            | Phase::Leaving { .. }
            | Phase::Ended(_) => Vec::new(),
        };
        Box::new(move || {
            for finish in recordings {
                finish();
            }
            clock::pause(OLD_OWNER_REST);
            drop(self);
        })
    }
}

const _: () = assert!(
    WARM_UP.as_millis() < CUT_SEARCH_MAX.as_millis(),
    "a follower is warm before the search ends"
);
