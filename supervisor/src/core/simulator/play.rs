//! What the processes of the simulated world do, honestly or not.

use super::super::tests::{peer, request};
use super::moves::is_about;
use super::*;
use crate::core::event::Loss;
use tasuki_shared::message::{CutReport, KeepReason, PROTOCOL_VERSION, Stalled, StalledPart};

impl World {
    /// A channel may close before the death; the core then sends nothing new to it.
    pub(super) fn on_lost(&mut self, generation: Generation) {
        self.on(Event::ChannelLost { generation, loss: Loss::Closed });
    }

    pub(super) fn says(&mut self, generation: Generation, body: FromWorker) {
        self.on(Event::Frame { channel: generation, claimed: generation, body });
    }

    /// Kills that the core has ordered happen some time later.
    pub(super) fn reap_killed(&mut self) {
        let ending = |slot: &Slot| match &slot.state {
            State::Ending(process, ..) => Some(process.generation),
            _ => None,
        };
        let dying: Vec<_> = self.core.slots.iter().filter_map(ending).collect();
        for generation in dying {
            let unkillable = self.alive.get(&generation).is_some_and(|body| body.unkillable);
            if !unkillable && self.below(3) == 0 {
                self.kill(generation);
            }
        }
    }

    pub(super) fn any(&mut self) -> Option<Generation> {
        let all: Vec<_> = self.alive.keys().copied().collect();
        if all.is_empty() { None } else { Some(all[self.below(all.len())]) }
    }

    pub(super) fn step(&mut self) {
        match self.below(100) {
            0..20 => {
                self.now += Duration::from_millis(100);
                self.on(Event::Tick);
                self.reap_killed();
            }
            20..40 => {
                if self.core.stage() == Stage::Running {
                    self.counter += 1;
                    let session = SessionId { epoch: 9, counter: self.counter };
                    let connection = Connection { unowned_since: Some(self.now) };
                    self.open.insert(session, connection);
                    self.on(Event::Accepted { session, peer: peer() });
                }
            }
            40..41 => {
                if let Some(generation) = self.any()
                    && !self.alive[&generation].unkillable
                {
                    self.kill(generation);
                }
            }
            41..42 => {
                if let Some(generation) = self.any()
                    && self.below(8) == 0
                {
                    let unkillable = self.below(2) == 0;
                    let body = self.alive.get_mut(&generation).unwrap();
                    body.stalled = true;
                    body.unkillable |= unkillable;
                    self.seen.unkillable += usize::from(unkillable);
                }
            }
            42..46 => self.lie(),
            46..47 => self.ask_for_moves(),
            47..48 => self.kill_in_a_move(),
            48..49 => {
                let cpu_percent = if self.below(8) == 0 { 99.0 } else { 10.0 };
                let host = super::super::memory::HostMemory::default();
                self.on(Event::Sampled { cpu_percent, host, workers: vec![] });
            }
            49..50 => self.poison_kills(),
            _ => {
                if let Some(generation) = self.any() {
                    self.work(generation);
                }
            }
        }
    }

    /// One honest step of one process.
    pub(super) fn work(&mut self, generation: Generation) {
        let body = &self.alive[&generation];
        if body.stalled {
            return;
        }
        let starting = self.core.slots.iter().any(|slot| match &slot.state {
            State::Starting(process, _) => process.generation == generation,
            _ => false,
        });
        if starting {
            self.on(Event::Spawned { generation, pid: 1 });
            let hello = FromWorker::Hello { version: PROTOCOL_VERSION, pid: 1 };
            self.says(generation, hello);
            self.says(generation, FromWorker::Ready);
            return;
        }
        let body = &self.alive[&generation];
        if body.role == Role::Dialer {
            match self.alive.get_mut(&generation).unwrap().dials.pop() {
                Some(ticket) => {
                    self.dialed.insert(ticket);
                    self.says(generation, FromWorker::Connected { ticket, outcome: Ok(()) });
                }
                None => self.heartbeat(generation),
            }
            return;
        }
        self.read_inbox(generation);
        if self.hand_on(generation) || self.goes(generation) {
            return;
        }
        let body = &self.alive[&generation];
        let sessions: Vec<_> = body.sessions.iter().map(|(id, a)| (*id, *a)).collect();
        self.heartbeat(generation);
        if sessions.is_empty() {
            return;
        }
        let (session, adoption) = sessions[self.below(sessions.len())];
        match adoption {
            Adoption::Offered(_) => {
                self.take(generation, session, Adoption::Held);
                self.says(generation, FromWorker::Adopted { session, at_us: 0 });
            }
            Adoption::LiveOffered => {
                self.take(generation, session, Adoption::Live);
                self.says(generation, FromWorker::Adopted { session, at_us: 0 });
            }
            Adoption::Held if self.below(3) > 0 => {
                let keys = ["bad", "a", "b", "c", "d", "e", "f", "g"];
                let key = keys[self.below(keys.len())];
                let request = request(key);
                self.says(generation, FromWorker::Authorize { session, request });
            }
            Adoption::Live if self.below(4) > 0 => {
                let push = PushId(0);
                self.says(generation, FromWorker::Dial { session, push });
            }
            Adoption::Held | Adoption::Live => {
                let reason = EndReason::PeerClosed;
                self.says(generation, FromWorker::Ended { session, reason });
            }
        }
    }

    pub(super) fn heartbeat(&mut self, generation: Generation) {
        let heartbeat = tasuki_shared::message::Heartbeat {
            session: None,
            lobby: 0,
            allocator: None,
            spare_codecs: 0,
        };
        self.says(generation, FromWorker::Heartbeat(Box::new(heartbeat)));
        if self.below(20) == 0 {
            self.tell_codecs(generation);
        }
        let Some(body) = self.alive.get(&generation) else { return };
        let own = body.sessions.keys().next().copied();
        if let Some(session) = own
            && self.below(400) == 0
        {
            let what = StalledPart::Pipeline;
            let stalled = vec![Stalled { session, what, for_ms: u32::MAX }];
            self.says(generation, FromWorker::Progress { stalled });
        }
    }

    /// A worker speaks of any session, a generation of any time, a ticket of nobody.
    pub(super) fn lie(&mut self) {
        let Some(channel) = self.any() else { return };
        let counter =
            u64::try_from(self.below(usize::try_from(self.counter + 2).unwrap())).unwrap();
        let session = SessionId { epoch: 9, counter };
        let own = self.alive[&channel].sessions.contains_key(&session)
            || self.alive[&channel].prepared.contains_key(&session)
            || self.alive[&channel].inbox.iter().any(|message| is_about(message, session));
        let stale = self.below(2) == 0;
        if own && !stale {
            return;
        }
        let claimed = if stale { Generation(channel.0.wrapping_add(1)) } else { channel };
        let before = (self.core.sessions.len(), self.core.dials.len());
        // Half of the tickets are those of dials on their way.
        let ticket = match self.core.dials.keys().next().copied() {
            Some(ticket) if self.below(2) == 0 => ticket,
            Some(_) | None => counter,
        };
        let lies = [
            FromWorker::Ended { session, reason: EndReason::PeerClosed },
            FromWorker::Adopted { session, at_us: 0 },
            FromWorker::Prepared { session },
            FromWorker::Released { session, cut: CutReport::default() },
            FromWorker::ReleaseFailed { session, reason: KeepReason::NoAnchor },
            FromWorker::AdoptFailed { session, reason: "so be it".into() },
            FromWorker::Authorize { session, request: request("a") },
            FromWorker::Dial { session, push: PushId(200) },
            FromWorker::PushClosed { session, push: PushId(0) },
            FromWorker::Connected { ticket, outcome: Ok(()) },
            FromWorker::Codecs { session, needs: self.needs() },
        ];
        let lie = lies[self.below(lies.len())].clone();
        let dialer = self.alive[&channel].role == Role::Dialer;
        if matches!(lie, FromWorker::Connected { .. }) {
            if dialer && !stale {
                return;
            }
            self.seen.lies_about_dials += usize::from(self.core.dials.contains_key(&ticket));
            if dialer {
                self.dialed.insert(ticket);
            }
        }
        self.on(Event::Frame { channel, claimed, body: lie });
        let after = (self.core.sessions.len(), self.core.dials.len());
        assert_eq!(after, before, "seed {}: a lie was believed", self.seed);
    }

    /// The server must get out of any situation.
    pub(super) fn leave(&mut self) {
        self.on(Event::Terminate);
        let deadline = self.now
            + self.core.settings.shutdown_deadline
            + CLOSING_GRACE
            + HANG_DEADLINE
            + REAP_DEADLINE
            + 10 * SECOND;
        while !self.left {
            assert!(self.now < deadline, "seed {}: still here", self.seed);
            self.now += Duration::from_millis(100);
            self.on(Event::Tick);
            self.reap_killed();
            for generation in self.alive.keys().copied().collect::<Vec<_>>() {
                self.work(generation);
            }
        }
        assert!(self.open.is_empty(), "seed {}: sockets are left open", self.seed);
        assert!(
            self.alive.values().all(|body| body.unkillable),
            "seed {}: processes are left",
            self.seed
        );
    }
}
