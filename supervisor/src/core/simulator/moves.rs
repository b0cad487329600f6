//! Hand-offs and recycles in the simulated world. The owner words are the reference: who has the
//! word is the owner, whatever anybody says.

use super::*;
use tasuki_shared::message::{Anchor, CutReport, Haste, KeepReason};

/// How long after the last fault every recycle is over.
const PATIENCE: Duration = Duration::from_secs(300);

/// A session that a worker follows while another owns it.
#[derive(Debug)]
pub struct Preparation {
    said: bool,
    live: bool,
    /// Its bell.
    rang: bool,
    /// Told to take it from this: its owner is dead, or may not have rung.
    take_from: Option<Owner>,
}

impl World {
    pub(super) fn read_owner(&mut self, session: SessionId) {
        let mut owner = self.words.get(&session).copied();
        if self.control == Control::WordMisread
            && let Some((_, moving)) = self.core.moving().find(|(id, _)| *id == session)
        {
            owner = Some(Owner::Offered(moving.to));
        }
        self.pending.push_back(Event::OwnerRead { session, owner });
    }

    /// A lease goes to one process, and only where no living one may have the session.
    pub(super) fn check_adopt(&mut self, to: Generation, session: SessionId, context: &str) {
        let word = *self.words.entry(session).or_insert(Owner::Offered(to));
        match word {
            Owner::Held(owner) => {
                assert!(
                    !self.alive.contains_key(&owner),
                    "{context}: {session} has the owner {owner}"
                );
            }
            Owner::Offered(owner) => assert!(
                owner == to || !self.alive.contains_key(&owner),
                "{context}: {session} may get the owner {owner} as well as {to}"
            ),
        }
        let owners = self.alive.iter().filter(|(_, body)| body.sessions.contains_key(&session));
        assert_eq!(owners.count(), 0, "{context}: {session} has an owner already");
        let connection = self.open.get_mut(&session);
        connection.unwrap_or_else(|| panic!("{context}: closed {session}")).unowned_since = None;
    }

    pub(super) fn check_owners(&self, context: &str) {
        let mut owners = BTreeMap::new();
        for (generation, body) in &self.alive {
            for (session, adoption) in &body.sessions {
                let other = owners.insert(*session, *generation);
                assert_eq!(other, None, "{context}: {session} has {generation} as another owner");
                let takes = matches!(adoption, Adoption::Offered(_) | Adoption::LiveOffered);
                let holds = self.words.get(session) == Some(&Owner::Held(*generation));
                assert!(takes || holds, "{context}: {generation} is no owner of {session}");
            }
        }
        let under_way = self.core.recycles.iter().filter(|recycle| recycle.is_under_way());
        let most = tasuki_shared::limits::RECYCLES_AT_ONCE_MAX;
        assert!(under_way.count() <= most, "{context}: too many recycles at once");
        let workers = self.core.slots.iter().filter(|slot| slot.role == Role::Worker);
        let settings = &self.core.settings;
        // Each worker that cannot go may have a fresh one beside it.
        let most = 2 * usize::from(settings.workers + settings.standby)
            + 1
            + tasuki_shared::limits::QUARANTINES_MAX;
        assert!(workers.count() <= most, "{context}: temporary slots pile up");
    }

    /// The compare-and-swap of a taker.
    pub(super) fn take(&mut self, taker: Generation, session: SessionId, adoption: Adoption) {
        self.words.insert(session, Owner::Held(taker));
        self.alive.get_mut(&taker).unwrap().sessions.insert(session, adoption);
        if let Some(connection) = self.open.get_mut(&session) {
            connection.unowned_since = None;
        }
    }

    pub(super) fn read_inbox(&mut self, generation: Generation) {
        // An order that waits for a cut is often not recalled in time.
        let busy = !self.alive[&generation].releasing.is_empty() && self.below(3) > 0;
        let most = if busy { 0 } else { self.below(4) };
        for _ in 0..most {
            let body = self.alive.get_mut(&generation).unwrap();
            let Some(message) = body.inbox.pop_front() else { return };
            match message {
                ToWorker::Prepare(lease) => {
                    assert_eq!(lease.expect, Owner::Offered(generation));
                    if self.control == Control::TakesAtOnce {
                        let live = lease.live.is_some();
                        let adoption = if live { Adoption::Live } else { Adoption::Held };
                        self.take(generation, lease.session, adoption);
                        continue;
                    }
                    let live = lease.live.is_some();
                    let preparation =
                        Preparation { said: false, live, rang: false, take_from: None };
                    body.prepared.insert(lease.session, preparation);
                }
                ToWorker::Unprepare { session } => {
                    body.prepared.remove(&session);
                }
                ToWorker::TakeOver { session, expect } => {
                    let context = format!("seed {}: take over {session}", self.seed);
                    if let Some(preparation) = body.prepared.get_mut(&session) {
                        preparation.take_from = Some(expect);
                        match expect {
                            Owner::Held(dead) => assert!(
                                !self.alive.contains_key(&dead),
                                "{context}: {dead} is its owner"
                            ),
                            Owner::Offered(to) => assert_eq!(to, generation, "{context}"),
                        }
                    }
                }
                ToWorker::Release { session, to, haste: _ } => {
                    if body.sessions.contains_key(&session) {
                        body.releasing.insert(session, to);
                    }
                }
                ToWorker::Keep { session } => {
                    body.releasing.remove(&session);
                }
                other => panic!("{other:?} is no frame about a hand-off"),
            }
        }
    }

    /// One step of a hand-off that this process has a part in, if there is one.
    pub(super) fn hand_on(&mut self, generation: Generation) -> bool {
        let body = self.alive.get_mut(&generation).unwrap();
        if let Some(said) = body.unsaid.pop_front() {
            self.says(generation, said);
            return true;
        }
        if self.below(3) == 0 {
            return false;
        }
        let body = &self.alive[&generation];
        let word = |id: &SessionId| self.words.get(id).copied();
        let offered = body.prepared.iter().find(|(id, preparation)| {
            let rang = preparation.rang.then_some(Owner::Offered(generation));
            let expect = preparation.take_from.or(rang);
            expect.is_some() && word(id) == expect
        });
        if let Some((session, preparation)) = offered {
            let (session, live) = (*session, preparation.live);
            let called = preparation.take_from == Some(Owner::Offered(generation));
            self.seen.called += usize::from(called && !preparation.rang);
            self.seen.took_over += usize::from(!called && preparation.take_from.is_some());
            let adoption = if live { Adoption::Live } else { Adoption::Held };
            let body = self.alive.get_mut(&generation).unwrap();
            body.prepared.remove(&session);
            body.unsaid.push_back(FromWorker::Adopted { session, at_us: 7 });
            self.take(generation, session, adoption);
            return true;
        }
        if let Some((session, to)) = body.releasing.iter().next().map(|(id, to)| (*id, *to)) {
            self.release(generation, session, to);
            return true;
        }
        let unsaid = body.prepared.iter().find(|(_, preparation)| !preparation.said);
        let Some(session) = unsaid.map(|(id, _)| *id) else { return false };
        if self.below(8) == 0 {
            self.alive.get_mut(&generation).unwrap().prepared.remove(&session);
            let reason = "no codec".to_owned();
            self.says(generation, FromWorker::PrepareFailed { session, reason });
        } else {
            let body = self.alive.get_mut(&generation).unwrap();
            body.prepared.get_mut(&session).unwrap().said = true;
            self.says(generation, FromWorker::Prepared { session });
        }
        true
    }

    fn release(&mut self, owner: Generation, session: SessionId, to: Generation) {
        match self.below(8) {
            // It looks for a cut, perhaps for ever.
            0..4 => {}
            failure @ (4 | 5) => {
                self.alive.get_mut(&owner).unwrap().releasing.remove(&session);
                let reason = match failure {
                    4 => KeepReason::NoAnchor,
                    _ => KeepReason::Other("no memory".to_owned()),
                };
                self.says(owner, FromWorker::ReleaseFailed { session, reason });
            }
            _ => {
                let body = self.alive.get_mut(&owner).unwrap();
                body.releasing.remove(&session);
                if body.sessions.remove(&session).is_none() {
                    return;
                }
                let cut = CutReport { released_us: 5, anchor: Anchor::InLog, frames_lost: 0 };
                body.unsaid.push_back(FromWorker::Released { session, cut });
                self.words.insert(session, Owner::Offered(to));
                if self.below(4) == 0 {
                    // It stops between its word and the bell.
                    let body = self.alive.get_mut(&owner).unwrap();
                    body.unsaid.pop_back();
                    body.stalled = true;
                } else if let Some(preparation) =
                    self.alive.get_mut(&to).and_then(|body| body.prepared.get_mut(&session))
                {
                    preparation.rang = true;
                }
                let moving =
                    self.core.moving().any(|(id, moving)| id == session && moving.to == to);
                self.seen.late_releases += usize::from(!moving);
                if !moving {
                    self.strayed.insert(session);
                }
                if !self.alive.contains_key(&to)
                    && let Some(connection) = self.open.get_mut(&session)
                {
                    connection.unowned_since = Some(self.now);
                }
            }
        }
    }

    /// A worker that was told to go, and has nothing left, goes.
    pub(super) fn goes(&mut self, generation: Generation) -> bool {
        let body = &self.alive[&generation];
        let idle = body.sessions.is_empty() && body.prepared.is_empty() && body.inbox.is_empty();
        if !body.drains || !idle {
            return false;
        }
        self.alive.remove(&generation);
        let death = Death::Exited(0);
        let killer = Killer::Somebody;
        self.on(Event::Died { generation, death, killer, processing: BTreeMap::new() });
        true
    }

    /// Operators rotate, move and reload, sometimes many at once.
    pub(super) fn ask_for_moves(&mut self) {
        if self.core.stage() != Stage::Running {
            return;
        }
        let ticket = self.next_ticket;
        match self.below(8) {
            0 => {
                let storm = self.below(6);
                for _ in 0..storm {
                    let settings = self.core.settings.clone();
                    let effects = self.core.reload(self.now, settings, KeyIsName);
                    let context = format!("seed {}: reload", self.seed);
                    for effect in effects {
                        self.perform(effect, &context);
                    }
                }
                let reloads = self.core.recycles.iter().filter(|recycle| {
                    recycle.reason == rotation::RecycleReason::Reload && !recycle.is_over()
                });
                // Of three workers, a standby and a dialer, and fresh ones of both.
                assert!(reloads.count() <= 7, "seed {}: reloads do not coalesce", self.seed);
            }
            1 => {
                self.asked(ticket);
                let reason = "test".to_owned();
                self.on(Event::Rotate { ticket, worker: None, reason, haste: Haste::Scheduled });
            }
            2 | 3 => {
                let sessions: Vec<_> = self.open.keys().copied().collect();
                if !sessions.is_empty() {
                    let session = sessions[self.below(sessions.len())];
                    self.asked(ticket);
                    self.on(Event::Move { ticket, session, haste: Haste::Now });
                }
            }
            4 => {
                let hastes = [Haste::Scheduled, Haste::Now, Haste::AtAnyPrice];
                let haste = hastes[self.below(hastes.len())];
                if let Some(generation) = self.any() {
                    let reason = rotation::RecycleReason::MemoryHard;
                    // It may be one that is on its way out already.
                    let _ = self.core.request_recycle(self.now, generation, reason, haste);
                }
            }
            _ => {
                let worker = Some(format!("w{}", self.below(6)));
                self.asked(ticket);
                let reason = String::new();
                self.on(Event::Rotate { ticket, worker, reason, haste: Haste::Now });
            }
        }
    }

    fn asked(&mut self, ticket: u64) {
        self.next_ticket += 1;
        self.tickets.insert(ticket);
    }

    pub(super) fn replied(&mut self, ticket: u64, reply: &Reply, context: &str) {
        assert!(self.tickets.contains(&ticket), "{context}: nobody waits under {ticket}");
        match reply {
            Reply::Recycled(recycle) => {
                assert!(
                    recycle.outcome == "done" || recycle.outcome.starts_with("failed: "),
                    "{context}: {recycle:?}"
                );
                return;
            }
            Reply::Moved(_) | Reply::Done | Reply::Refused { .. } => {}
            Reply::Status(_) | Reply::Event(_) | Reply::Heap { .. } | Reply::Threads { .. } => {
                panic!("{context}: {reply:?}")
            }
        }
        self.tickets.remove(&ticket);
    }

    /// One side of a hand-off dies, whichever step it is at.
    pub(super) fn kill_in_a_move(&mut self) {
        let sides: Vec<_> =
            self.core.moving().flat_map(|(_, moving)| [moving.from, moving.to]).collect();
        if sides.is_empty() || self.below(3) > 0 {
            return;
        }
        let side = sides[self.below(sides.len())];
        if self.alive.get(&side).is_some_and(|body| !body.unkillable) {
            self.kill(side);
        }
    }

    pub(super) fn count(&mut self, announcement: &Announcement) {
        let seen = match announcement.event {
            "recycle_done" => &mut self.seen.recycles_done,
            "recycle_failed" => &mut self.seen.recycles_failed,
            "session_moved" => &mut self.seen.moved,
            "move_crashed" => &mut self.seen.crashed_over,
            "move_kept" => &mut self.seen.kept,
            "recycle_awaits_keyframe" => &mut self.seen.awaited_keyframes,
            "session_quarantined" => &mut self.seen.quarantined,
            "stream_dropped" => &mut self.seen.dropped,
            _ => return,
        };
        *seen += 1;
    }

    /// Without new faults every recycle ends and every client has its answer.
    pub(super) fn finish_recycles(&mut self) {
        let deadline = self.now + PATIENCE;
        while !self.core.recycles.iter().all(recycle::Recycle::is_over) || !self.tickets.is_empty()
        {
            assert!(
                self.now < deadline,
                "seed {}: stuck: {:?}, waiting {:?}",
                self.seed,
                self.core.recycles,
                self.tickets
            );
            self.now += Duration::from_millis(100);
            self.on(Event::Tick);
            self.reap_killed();
            for generation in self.alive.keys().copied().collect::<Vec<_>>() {
                if self.alive.contains_key(&generation) {
                    self.work(generation);
                }
            }
        }
    }
}

/// Is this frame of the supervisor about that session?
pub fn is_about(message: &ToWorker, about: SessionId) -> bool {
    match message {
        ToWorker::Prepare(lease) => lease.session == about,
        ToWorker::Unprepare { session }
        | ToWorker::TakeOver { session, .. }
        | ToWorker::Release { session, .. }
        | ToWorker::Keep { session } => *session == about,
        _ => false,
    }
}
