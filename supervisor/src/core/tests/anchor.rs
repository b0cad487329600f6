//! Sessions whose log lacks the keyframe that a move needs.

use super::*;
use crate::core::event::Announcement;
use tasuki_shared::limits::{ANCHOR_RETRY_PAUSE, KEYFRAME_PATIENCE, MOVE_ATTEMPTS_MAX};
use tasuki_shared::message::{Anchor, CutReport, Haste, Heartbeat, KeepReason, Owner};
use tasuki_shared::status::{RecycleStatus, Reply, SessionStatus};

/// A bench in which one stream is to be moved for a recycle of its worker.
struct Stage {
    bench: Bench,
    session: SessionId,
    old: Generation,
}

impl Stage {
    fn new(haste: Haste) -> Self {
        let mut bench = Bench::ready(Settings { workers: 1, standby: 2, ..settings() });
        let (session, old) = bench.live("a");
        let mut stage = Self { bench, session, old };
        stage.rotate(1, old, haste);
        stage
    }

    fn rotate(&mut self, ticket: u64, generation: Generation, haste: Haste) {
        let at = self.bench.core.slot_of(generation).unwrap();
        let worker = Some(self.bench.core.slots[at].id.to_string());
        self.bench.on(Event::Rotate { ticket, worker, reason: String::new(), haste });
    }

    fn target(&self) -> Option<Generation> {
        self.bench.core.moving().find(|(id, _)| *id == self.session).map(|(_, m)| m.to)
    }

    /// The target is prepared; what the owner is told.
    fn prepare(&mut self) -> Vec<Effect> {
        let to = self.target().expect("a move");
        self.bench.says(to, FromWorker::Prepared { session: self.session })
    }

    /// The owner waits in vain for a keyframe.
    fn no_anchor(&mut self) -> Vec<Effect> {
        self.prepare();
        let (session, reason) = (self.session, KeepReason::NoAnchor);
        self.bench.says(self.old, FromWorker::ReleaseFailed { session, reason });
        let owner = Some(Owner::Held(self.old));
        self.bench.on(Event::OwnerRead { session, owner })
    }

    fn release(&mut self, cut: CutReport) -> Vec<Effect> {
        let to = self.let_go(cut);
        self.take_over(to, cut)
    }

    /// The owner has released it, and the target is on its way to take it.
    fn let_go(&mut self, cut: CutReport) -> Generation {
        let (session, to) = (self.session, self.target().expect("a move"));
        self.bench.says(self.old, FromWorker::Released { session, cut });
        self.bench.on(Event::OwnerRead { session, owner: Some(Owner::Offered(to)) });
        to
    }

    fn take_over(&mut self, to: Generation, cut: CutReport) -> Vec<Effect> {
        let session = self.session;
        self.bench.says(to, FromWorker::Adopted { session, at_us: cut.released_us + 9 });
        self.bench.on(Event::OwnerRead { session, owner: Some(Owner::Held(to)) })
    }

    fn tells(&mut self, by: Generation, frames_lost: u64, no_anchor: bool) -> Vec<Effect> {
        let id = self.session.to_string();
        let session = Some(SessionStatus { id, frames_lost, no_anchor, ..Default::default() });
        let heartbeat = Heartbeat { session, lobby: 0, allocator: None, spare_codecs: 0 };
        self.bench.says(by, FromWorker::Heartbeat(Box::new(heartbeat)))
    }

    fn wait(&mut self, time: Duration) -> Vec<Effect> {
        self.bench.after_heard(time, &[])
    }

    fn recycle(&self) -> RecycleStatus {
        let status = self.bench.core.status(self.bench.now);
        status.recycles.into_iter().find(|recycle| recycle.id == 1).expect("the recycle")
    }
}

fn said(effects: &[Effect], event: &str) -> Option<Announcement> {
    effects.iter().find_map(|effect| match effect {
        Effect::Announce(announcement) if announcement.event == event => Some(announcement.clone()),
        _ => None,
    })
}

/// Each attempt ends by name and none counts; the recycle says what it waits for, and tries again
/// after a pause, for as long as it takes.
#[test]
fn a_recycle_waits_for_a_keyframe_and_tries_again() {
    for haste in [Haste::Scheduled, Haste::Now] {
        let mut stage = Stage::new(haste);
        for round in 0..2 * MOVE_ATTEMPTS_MAX {
            let kept = said(&stage.no_anchor(), "move_kept").expect("the attempt's end");
            assert!(kept.detail.contains("no anchor"), "{kept:?}");
            assert_eq!(stage.recycle().outcome, "waiting for a keyframe", "round {round}");
            assert_eq!(stage.target(), None);
            stage.wait(ANCHOR_RETRY_PAUSE - SECOND);
            assert_eq!(stage.target(), None, "not before its time");
            stage.wait(SECOND);
            assert!(stage.target().is_some(), "round {round}: it is not tried again");
        }
        stage.prepare();
        let done = stage.release(CutReport { released_us: 5, ..CutReport::default() });
        assert_eq!(said(&done, "session_moved").unwrap().loudness, event::Loudness::Info);
        assert_eq!(stage.recycle().outcome, "leaving");
    }
}

/// A worker that has let go of everything is gone before the taker has said a word: the recycle is
/// over when it has, and tells what became of the move.
#[test]
fn a_recycle_is_not_done_before_its_moves_are() {
    let mut stage = Stage::new(Haste::Now);
    stage.prepare();
    let cut = CutReport { released_us: 5, ..CutReport::default() };
    let to = stage.let_go(cut);
    stage.bench.on(died(stage.old, Death::Exited(0)));
    assert_eq!(stage.recycle().outcome, "leaving");
    stage.take_over(to, cut);
    let recycle = stage.recycle();
    assert_eq!((recycle.outcome.as_str(), recycle.moves.len()), ("done", 1));
    assert_eq!((recycle.moves[0].outcome.as_str(), recycle.moves[0].pause_us), ("done", 9));
}

/// The owner has a keyframe again: nobody waits for the pause to end.
#[test]
fn an_owner_that_reports_a_keyframe_is_tried_at_once() {
    let mut stage = Stage::new(Haste::Scheduled);
    stage.no_anchor();
    stage.wait(SECOND);
    stage.tells(stage.old, 0, true);
    assert_eq!(stage.target(), None);
    assert!(stage.bench.core.status(stage.bench.now).sessions[0].no_anchor);
    stage.tells(stage.old, 0, false);
    assert!(stage.target().is_some());
}

/// Another worker is recycled meanwhile, and a stream that ends lets the old worker go.
#[test]
fn a_recycle_that_waits_for_a_keyframe_is_in_nobodys_way() {
    let mut stage = Stage::new(Haste::Scheduled);
    stage.no_anchor();
    let other = stage.bench.admit().1;
    assert_ne!(other, stage.old);
    stage.rotate(2, other, Haste::Now);
    let outcomes = |stage: &Stage| -> Vec<String> {
        let status = stage.bench.core.status(stage.bench.now);
        status.recycles.into_iter().map(|recycle| recycle.outcome).collect()
    };
    assert_eq!(outcomes(&stage), ["waiting for a keyframe", "moving"]);
    let (session, reason) = (stage.session, EndReason::PeerClosed);
    stage.bench.says(stage.old, FromWorker::Ended { session, reason });
    let (lobby, to) = {
        let (lobby, moving) = stage.bench.core.moving().next().expect("the other's session");
        (lobby, moving.to)
    };
    stage.bench.says(to, FromWorker::Prepared { session: lobby });
    let cut = CutReport { released_us: 5, ..CutReport::default() };
    stage.bench.says(other, FromWorker::Released { session: lobby, cut });
    stage.bench.on(Event::OwnerRead { session: lobby, owner: Some(Owner::Offered(to)) });
    stage.bench.says(to, FromWorker::Adopted { session: lobby, at_us: 6 });
    stage.bench.on(Event::OwnerRead { session: lobby, owner: Some(Owner::Held(to)) });
    assert_eq!(outcomes(&stage), ["waiting for a keyframe", "leaving"]);
    let effects = stage.bench.on(died(other, Death::Exited(0)));
    let drain = Effect::Send { to: stage.old, body: ToWorker::Drain, fds: Fds::None };
    assert!(effects.contains(&drain), "{effects:?}");
    let effects = stage.bench.on(died(stage.old, Death::Exited(0)));
    let told = |effect: &Effect| match effect {
        Effect::Reply { ticket: 1, reply } => matches!(**reply, Reply::Done),
        _ => false,
    };
    assert!(effects.iter().any(told), "who asked is told: {effects:?}");
}

/// At the hard limit what waits is asked to go at any price, and what that costs is counted until
/// the new owner has a keyframe: in the move, the session and the total.
#[test]
fn a_forced_move_is_announced_and_its_loss_is_counted_on() {
    let mut stage = Stage::new(Haste::Scheduled);
    stage.no_anchor();
    stage.tells(stage.old, 4, true);
    stage.rotate(2, stage.old, Haste::AtAnyPrice);
    let to = stage.target().expect("no more waiting");
    let session = stage.session;
    let order = ToWorker::Release { session, to, haste: Haste::AtAnyPrice };
    let order = Effect::Send { to: stage.old, body: order, fds: Fds::Bell(session) };
    assert!(stage.prepare().contains(&order));
    let cut = CutReport { released_us: 5, anchor: Anchor::Gone, frames_lost: 2 };
    let moved = said(&stage.release(cut), "session_moved").expect("its end");
    assert_eq!(moved.loudness, event::Loudness::Warn);
    assert!(moved.detail.contains("2 frames lost so far: no keyframe"), "{moved:?}");
    assert_eq!(stage.recycle().moves[0].frames_lost, 2);
    for (lost, of_move) in [(9, 5), (64, 60)] {
        stage.tells(to, lost, true);
        let status = stage.bench.core.status(stage.bench.now);
        assert_eq!((status.frames_lost, status.sessions[0].frames_lost), (lost, lost));
        assert_eq!(stage.recycle().moves[0].frames_lost, of_move);
    }
}

/// An owner that must release at any price and says that it waits for a keyframe is no reason to
/// wait: its attempts are counted.
#[test]
fn at_any_price_nobody_waits_for_a_keyframe() {
    let mut stage = Stage::new(Haste::AtAnyPrice);
    stage.no_anchor();
    assert_eq!(stage.recycle().outcome, "moving");
    stage.wait(SECOND);
    assert!(stage.target().is_some());
}

/// A worker that says "no keyframe" and in the same breath "there is one" gets no more turns than
/// others, and in the end its recycle fails by name.
#[test]
fn a_worker_that_lies_about_its_keyframe_keeps_nobody_from_its_turn() {
    let mut stage = Stage::new(Haste::Now);
    let other = stage.bench.admit().1;
    stage.no_anchor();
    stage.tells(stage.old, 0, false);
    stage.rotate(2, other, Haste::Now);
    for _ in 0..20 {
        if stage.target().is_some() {
            stage.no_anchor();
            stage.tells(stage.old, 0, false);
        }
        stage.wait(SECOND);
    }
    let status = stage.bench.core.status(stage.bench.now);
    let second = status.recycles.iter().find(|recycle| recycle.id == 2).expect("the other");
    assert_ne!(second.outcome, "waiting", "{status:#?}");
}

/// However often it is tried, a recycle does not wait for ever.
#[test]
fn a_source_without_any_keyframe_ends_the_wait_by_name() {
    let mut stage = Stage::new(Haste::Scheduled);
    let begin = stage.bench.now;
    while stage.bench.now < begin + KEYFRAME_PATIENCE + 10 * SECOND {
        if stage.target().is_some() {
            stage.no_anchor();
        }
        stage.wait(SECOND);
    }
    let outcome = stage.recycle().outcome;
    assert!(outcome.contains("no keyframe of their source came"), "{outcome}");
}

/// What a worker claims to have lost overflows nothing.
#[test]
fn a_claim_of_every_frame_there_is_overflows_no_count() {
    let mut stage = Stage::new(Haste::Scheduled);
    stage.tells(stage.old, u64::MAX, true);
    let (session, worker) = stage.bench.live("b");
    stage.session = session;
    stage.tells(worker, 7, true);
    assert_eq!(stage.bench.core.status(stage.bench.now).frames_lost, u64::MAX);
}
