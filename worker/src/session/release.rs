//! Handing a session over to a worker that is prepared for it.
//!
//! The last act of an owner: take nothing more from the pipeline, commit, store the owner word,
//! ring. What the record does not cover is the next owner's: bytes in the input ring, the rest of a
//! push's batch, the frames from the cut on.
//!
//! The next owner decodes from the keyframe that the frame at the cut needs. Where the log has it no
//! more the cut waits for the source's next keyframe; one that does not come in time ends the attempt
//! by name, or costs frames where the session must go at any price.
//!
//! An urgent cut makes an IDR of a picture that would have been none. Where that leaves too few bits
//! for the pictures behind it, which would look poor, the cut waits for a moment.

use super::stream::Stream;
use super::{Outbox, Phase, Session};
use crate::leftovers::Leftover;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::id::Generation;
use tasuki_shared::kernel;
use tasuki_shared::limits::{
    ANCHOR_WAIT_FORCED, ANCHOR_WAIT_NOW, CUT_SEARCH_MAX, FORCED_CUT_GRACE, IDR_ROOM_WAIT_MAX,
    OLD_OWNER_REST, WARM_UP,
};
use tasuki_shared::memory::owner;
use tasuki_shared::message::{Anchor, CutReport, FromWorker, Haste, KeepReason};

/// An order to release.
pub(super) struct Release {
    to: Generation,
    haste: Haste,
    /// The next owner waits for it.
    bell: OwnedFd,
    /// No good cut came until then: any will do that has an anchor, or that needs none.
    until: Instant,
    /// Until then an urgent cut waits for a moment at which an IDR costs little.
    room_until: Instant,
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
        if failpoint::skips(Point::ReleaseOrdered) {
            return;
        }
        let refuse = |reason: &str, outbox: &mut Outbox| {
            let reason = KeepReason::Other(reason.to_owned());
            outbox.push((FromWorker::ReleaseFailed { session: self.id, reason }, Vec::new()));
        };
        let Some(bell) = bell else { return refuse("its eventfd did not arrive", outbox) };
        match &mut self.phase {
            Phase::Draining { .. } | Phase::Leaving { .. } | Phase::Ended(_) => {
                return refuse("it is ending", outbox);
            }
            Phase::Live(stream) => match haste {
                Haste::Scheduled => stream.transcode.cut_at_idr(now + WARM_UP),
                Haste::Now | Haste::AtAnyPrice if !stream.transcode.has_anchor(&stream.logs) => {
                    stream.transcode.cut_at_idr(now);
                }
                Haste::Now if !stream.transcode.has_room_for_idr(&stream.logs) => {
                    stream.transcode.cut_at_idr(now);
                }
                Haste::Now | Haste::AtAnyPrice => {}
            },
            Phase::Lobby | Phase::Authorizing { .. } => {}
        }
        let (until, room_until) = (now + patience(haste), now + IDR_ROOM_WAIT_MAX);
        self.release = Some(Release { to, haste, bell, until, room_until });
    }

    /// The session stays here.
    pub fn keep(&mut self) {
        if self.release.take().is_some()
            && let Phase::Live(stream) | Phase::Draining { stream, .. } = &mut self.phase
        {
            stream.forget_cut();
            self.changed.pipeline = super::commit::Dirty::Yes;
        }
    }

    /// Releases the session if it stands at its cut.
    pub fn try_release(&mut self, outbox: &mut Outbox) -> Released {
        let Some(release) = &self.release else { return Released::NotYet };
        let to = release.to;
        let anchor = match &self.phase {
            Phase::Draining { .. } | Phase::Leaving { .. } | Phase::Ended(_) => {
                return self.stay(KeepReason::Other("it is ending".to_owned()), outbox);
            }
            Phase::Lobby | Phase::Authorizing { .. } => Anchor::InLog,
            Phase::Live(stream) => match judge(stream, release) {
                Cut::NotYet => return Released::NotYet,
                Cut::NoAnchor => return self.stay(KeepReason::NoAnchor, outbox),
                Cut::Here(anchor) => anchor,
            },
        };
        let frames_lost = match (&self.phase, anchor) {
            (Phase::Live(stream), Anchor::Gone) => stream.transcode.would_lose(&stream.logs),
            (_, Anchor::InLog | Anchor::Gone) => 0,
        };
        // Before the store: afterwards the next owner may have the processor.
        let cut = CutReport { released_us: clock::monotonic_us(), anchor, frames_lost };
        failpoint::hit(Point::ReleaseCut);
        self.commit_changes();
        failpoint::hit(Point::ReleaseCommitted);
        if let Err(error) = owner::release(self.memory.owner(), self.generation, to) {
            tracing::error!(session = %self.id, %error, "the owner word is not ours");
            return self.stay(KeepReason::Other(error.to_string()), outbox);
        }
        // From here on nothing of the session is read or written by this process.
        failpoint::hit(Point::ReleaseStored);
        if let Some(Release { bell, .. }) = &self.release
            && let Err(error) = kernel::event_signal(bell)
        {
            // The supervisor hears of it as well, and tells the next owner.
            tracing::warn!(session = %self.id, %error, "the next owner cannot be woken");
        }
        failpoint::hit(Point::ReleaseRang);
        outbox.push((FromWorker::Released { session: self.id, cut }, Vec::new()));
        Released::Yes
    }

    /// It cannot be released now: what was held back for the cut is given after all.
    fn stay(&mut self, reason: KeepReason, outbox: &mut Outbox) -> Released {
        self.keep();
        outbox.push((FromWorker::ReleaseFailed { session: self.id, reason }, Vec::new()));
        Released::NotYet
    }

    /// What is left of a session that was released: it is freed a little later, for freeing takes
    /// the processor that the next owner needs now.
    #[must_use]
    pub fn into_leftover(mut self) -> Leftover {
        let files = match &mut self.phase {
            Phase::Live(stream) => stream.release_files(),
            Phase::Lobby
            | Phase::Authorizing { .. }
            | Phase::Draining { .. }
            | Phase::Leaving { .. }
            | Phase::Ended(_) => Vec::new(),
        };
        Box::new(move || {
            for finish in files {
                finish();
            }
            clock::pause(OLD_OWNER_REST);
            drop(self);
        })
    }
}

/// How long a good cut is looked for.
const fn patience(haste: Haste) -> Duration {
    match haste {
        Haste::Scheduled => CUT_SEARCH_MAX,
        Haste::Now => ANCHOR_WAIT_NOW,
        Haste::AtAnyPrice => ANCHOR_WAIT_FORCED,
    }
}

/// May a live stream be cut where it stands?
enum Cut {
    NotYet,
    Here(Anchor),
    NoAnchor,
}

fn judge(stream: &Stream, release: &Release) -> Cut {
    let &Release { to: _, haste, bell: _, until, room_until } = release;
    let anchored = stream.transcode.has_anchor(&stream.logs);
    let (late, at_cut) = (clock::now() >= until, stream.transcode.is_at_cut());
    let has_room = || clock::now() >= room_until || stream.transcode.has_room_for_idr(&stream.logs);
    match haste {
        Haste::Scheduled if !late && !at_cut => Cut::NotYet,
        Haste::Now if anchored && !at_cut && !has_room() => Cut::NotYet,
        Haste::Scheduled | Haste::Now | Haste::AtAnyPrice if anchored => Cut::Here(Anchor::InLog),
        Haste::Scheduled | Haste::Now | Haste::AtAnyPrice if !late && !at_cut => Cut::NotYet,
        Haste::Scheduled | Haste::Now => Cut::NoAnchor,
        Haste::AtAnyPrice => {
            let given = stream.transcode.would_lose(&stream.logs) == 0;
            let waited = clock::now() >= until + FORCED_CUT_GRACE;
            if given || waited { Cut::Here(Anchor::Gone) } else { Cut::NotYet }
        }
    }
}

const _: () = assert!(
    WARM_UP.as_millis() < CUT_SEARCH_MAX.as_millis(),
    "a follower is warm before the search ends"
);
