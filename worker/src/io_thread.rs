//! The io thread: epoll over all sockets of all sessions, the only committer, no codecs.
//!
//! One turn: wait → sockets → pipelines that rang → control messages → codecs that may begin → ticks
//! when due. Each session does a bounded amount of work a turn, so no stream starves another.

mod brief;
mod serial;
mod starts;
mod watch;

use crate::bell::{Bell, CONTROL};
use crate::chaos::Chaos;
use crate::control::{Control, Told};
use crate::evidence::Evidence;
use crate::leftovers::Leftovers;
use crate::purge::Purger;
use crate::session::adopt::{self, AdoptError};
use crate::session::preparation::Preparation;
use crate::session::release::Released;
use crate::session::stream::Host;
use crate::session::{CaughtUp, Outbox, Session};
use crate::spares::Filler;
use brief::forget_brief_adoptions;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serial::SerialHasher;
use starts::{Messages, Starts};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::exit::Exit;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::id::{Generation, PushId, SessionId};
use tasuki_shared::limits::{
    HEARTBEAT_INTERVAL, HEARTBEATS_PER_STATUS, PUSHES_MAX, RECORD_FINISH_DEADLINE,
};
use tasuki_shared::message::{
    EndReason, FromWorker, Heartbeat, KeepReason, Lease, Stalled, ToWorker,
};
use watch::{unwatch, watch};

const TICK: Duration = Duration::from_millis(100);
/// Events taken from one epoll_wait(2).
const EVENTS_MAX: usize = 256;
/// Control messages handled in one turn.
const CONTROL_ROUNDS_MAX: usize = 64;
const BELL_TOKEN: u64 = 0;
/// Token of a publisher's socket: `serial << 8`; of its push `n`: that plus `n + 1`; of what is rung
/// when a prepared session is released: that plus 255.
const SERIAL_SHIFT: u32 = 8;
const RELEASED_TOKEN: u64 = 0xFF;
const _: () = assert!(PUSHES_MAX < 0xFF, "tokens of pushes stay below");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Takes nothing new and leaves when the last session has ended.
    Draining,
}

struct Entry {
    session: Session,
    watched: Option<EpollFlags>,
    pushes: [Option<(RawFd, EpollFlags)>; PUSHES_MAX],
}

/// So many adopted streams catch up side by side: while one waits for its thread, another runs.
const CATCHING_UP_PER_PROCESSOR: usize = 2;

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// See the module.
pub struct IoThread {
    generation: Generation,
    control: Control,
    bell: Arc<Bell>,
    epoll: Epoll,
    entries: HashMap<u64, Entry, BuildHasherDefault<SerialHasher>>,
    /// Sessions that others own and will hand over to us.
    preparations: HashMap<u64, Preparation>,
    serials: HashMap<SessionId, u64>,
    next_serial: u64,
    starts: Starts,
    stage: Stage,
    next_tick: Instant,
    next_heartbeat: Instant,
    beats: u64,
    /// How often the supervisor wants a sign of life, and when the next is due.
    beat_interval: Duration,
    next_beat: Instant,
    outbox: Outbox,
    leftovers: Leftovers,
    purger: Purger,
    /// Holds codecs for streams that are still to come.
    filler: Filler,
    /// A leak that was ordered.
    chaos: Option<Chaos>,
    evidence: Evidence,
}

impl IoThread {
    pub fn new(generation: Generation, control: Control, bell: Arc<Bell>) -> std::io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(bell.fd(), EpollEvent::new(EpollFlags::EPOLLIN, BELL_TOKEN))?;
        let now = clock::now();
        let purger = Purger::start(Arc::clone(&bell))?;
        Ok(Self {
            generation,
            control,
            bell,
            epoll,
            entries: HashMap::default(),
            preparations: HashMap::new(),
            serials: HashMap::new(),
            next_serial: 1,
            starts: Starts::new(CATCHING_UP_PER_PROCESSOR * processors()),
            stage: Stage::Serving,
            next_tick: now + TICK,
            next_heartbeat: now,
            beats: 0,
            beat_interval: HEARTBEAT_INTERVAL,
            next_beat: now,
            outbox: Outbox::new(),
            leftovers: Leftovers::default(),
            purger,
            filler: Filler::start()?,
            chaos: None,
            evidence: Evidence::default(),
        })
    }

    /// Sends what is still to be said, waits for what ended sessions left to do.
    pub fn finish(mut self) {
        self.send_outbox();
        let deadline = clock::now() + RECORD_FINISH_DEADLINE;
        let unfinished = self.leftovers.finish(deadline);
        if unfinished > 0 {
            tracing::error!(unfinished, "recordings or codec threads are left unfinished");
        }
        self.control.finish();
    }

    /// Runs until the worker is to leave.
    pub fn run(&mut self) -> Exit {
        let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
        let mut now = clock::now();
        loop {
            let count = match self.epoll.wait(&mut events, self.patience(now)) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => {
                    tracing::error!(%errno, "epoll_wait failed");
                    return Exit::Failure;
                }
            };
            now = clock::now();
            let mut rang = false;
            for event in &events[..count] {
                match event.data() {
                    BELL_TOKEN => rang = true,
                    token => self.socket_event(token, event.events(), now),
                }
            }
            if rang {
                for who in self.bell.answer() {
                    if self.preparations.contains_key(&who) {
                        self.look_at_preparation(who);
                    } else if who != CONTROL {
                        self.with_session(who, |session, outbox| session.advance(now, outbox));
                    }
                }
            }
            match self.take_control(now) {
                Ok(messages) => self.start_codecs(messages, now),
                Err(exit) => return exit,
            }
            if self.purger.take_purged() {
                self.outbox.push((FromWorker::Purged, Vec::new()));
            }
            self.evidence.take_found(&mut self.outbox);
            self.tick_when_due(now);
            self.send_outbox();
            if self.stage == Stage::Draining && self.is_empty() {
                return Exit::Done;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.preparations.is_empty()
    }

    /// As of the beginning of the last turn: a tick may be late by as much as a turn takes.
    fn patience(&self, now: Instant) -> EpollTimeout {
        let mut left = self.next_tick.saturating_duration_since(now);
        if let Some(due) = self.starts.due_in() {
            left = left.min(due);
        }
        // Rounded up: rounding down would spin until the tick is due.
        EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::ZERO)
    }

    fn socket_event(&mut self, token: u64, flags: EpollFlags, now: Instant) {
        if token & 0xFF == RELEASED_TOKEN {
            return self.take_over(token >> SERIAL_SHIFT, now);
        }
        let readable = EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let reads = flags.intersects(readable);
        let push = u8::try_from(token & 0xFF).expect("masked");
        self.with_session(token >> SERIAL_SHIFT, |session, outbox| match push.checked_sub(1) {
            None if reads => session.readable(now, outbox),
            Some(push) if reads => session.push_readable(PushId(push), now, outbox),
            None | Some(_) => session.advance(now, outbox),
        });
    }

    /// Lets a session work, then watches what it waits for and forgets it once it has ended.
    fn with_session(&mut self, serial: u64, work: impl FnOnce(&mut Session, &mut Outbox)) {
        let Some(entry) = self.entries.get_mut(&serial) else { return };
        work(&mut entry.session, &mut self.outbox);
        if entry.session.try_release(&mut self.outbox) == Released::Yes {
            return self.let_go(serial);
        }
        if let Err(errno) = watch(&self.epoll, serial, entry) {
            tracing::error!(session = %entry.session.id(), %errno, "a socket cannot be watched");
            let reason = EndReason::Resource("epoll entries".into());
            entry.session.leave(reason, clock::now());
        }
        for leftover in entry.session.take_leftovers() {
            self.leftovers.add(leftover);
        }
        if entry.session.awaits_codecs() {
            self.starts.add(serial, clock::now());
        }
        if entry.session.ended().is_some() {
            self.starts.forget(serial);
            unwatch(&self.epoll, entry);
            self.serials.remove(&entry.session.id());
            self.entries.remove(&serial);
        }
    }

    fn with_id(&mut self, id: SessionId, work: impl FnOnce(&mut Session, &mut Outbox)) {
        if let Some(&serial) = self.serials.get(&id) {
            self.with_session(serial, work);
        }
    }

    fn take_control(&mut self, now: Instant) -> Result<Messages, Exit> {
        let mut messages = Messages::Taken;
        for _ in 0..CONTROL_ROUNDS_MAX {
            match self.control.try_recv() {
                Some(Told::Message(message, fds)) => {
                    // Who takes one session over is often about to be given another.
                    if matches!(message, ToWorker::Adopt(_)) {
                        messages = Messages::MoreWait;
                    }
                    self.take(message, fds, now);
                }
                None => {
                    if messages == Messages::MoreWait {
                        self.bell.ring(CONTROL);
                    }
                    return Ok(messages);
                }
                Some(Told::Orphaned(reason)) => {
                    tracing::error!(%reason, "the supervisor is gone; ending every session");
                    return Err(self.end_all(now));
                }
            }
        }
        // More may wait: ring for ourselves, so that the sockets have their turn first.
        self.bell.ring(CONTROL);
        Ok(Messages::MoreWait)
    }

    /// Codecs of sessions that were taken over begin when all that are told of are in hand, a few at
    /// a time.
    fn start_codecs(&mut self, messages: Messages, now: Instant) {
        loop {
            let entry = |serial| self.entries.get(&serial);
            let caught_up = |serial| {
                entry(serial).map_or(CaughtUp::Yes, |entry| entry.session.codecs_caught_up())
            };
            let Some(serial) = self.starts.next(messages, now, caught_up) else { return };
            self.with_session(serial, |session, outbox| session.start_codecs(now, outbox));
        }
    }

    fn take(&mut self, message: ToWorker, fds: Vec<OwnedFd>, now: Instant) {
        match message {
            ToWorker::Hello { .. }
            | ToWorker::Connect { .. }
            | ToWorker::Serve(_)
            | ToWorker::Attend(_)
            | ToWorker::StreamLive { .. }
            | ToWorker::StreamGone { .. } => {}
            ToWorker::Adopt(lease) => self.adopt(*lease, fds, now),
            ToWorker::Verdict { session, verdict } => {
                self.with_id(session, |s, outbox| s.verdict(verdict, fds, now, outbox));
                if let Some(&serial) = self.serials.get(&session) {
                    self.note_live(serial);
                }
            }
            ToWorker::Dialed { session, push, outcome } => {
                let mut fds = fds;
                let outcome = match (outcome, fds.pop()) {
                    (Ok(()), Some(socket)) => Ok(socket),
                    (Ok(()), None) => Err("the dialer's socket did not arrive".to_owned()),
                    (Err(error), _) => Err(error.to_string()),
                };
                self.with_id(session, |s, outbox| s.dialed(push, outcome, now, outbox));
            }
            ToWorker::End { session, reason } => {
                self.with_id(session, |s, outbox| {
                    s.leave(reason, now);
                    s.advance(now, outbox);
                });
            }
            ToWorker::Evidence { ticket, kind } => self.evidence.look(ticket, kind, &self.bell),
            ToWorker::Beat { every_ms } => {
                self.beat_interval = Duration::from_millis(u64::from(every_ms));
                self.next_beat = now;
            }
            ToWorker::Drain => {
                self.stage = Stage::Draining;
                self.filler.close();
            }
            ToWorker::Spare(list) => self.filler.tell(*list),
            ToWorker::Purge => self.purger.ask(),
            ToWorker::Chaos(plan) => match Chaos::start(plan) {
                Ok(chaos) => self.chaos = Some(chaos),
                Err(error) => tracing::error!(%error, "no thread to leak in"),
            },
            ToWorker::Prepare(lease) => self.prepare(*lease, fds),
            ToWorker::Unprepare { session } => {
                if let Some(serial) = self.preparation_of(session) {
                    self.forget_preparation(serial);
                }
            }
            ToWorker::TakeOver { session, expect } => {
                if let Some(serial) = self.preparation_of(session)
                    && let Some(preparation) = self.preparations.get_mut(&serial)
                {
                    preparation.expect(expect);
                    self.take_over(serial, now);
                }
            }
            ToWorker::Release { session, to, haste } => {
                let mut fds = fds;
                let bell = fds.pop();
                if self.serials.contains_key(&session) {
                    self.with_id(session, |s, outbox| {
                        s.order_release(to, haste, bell, now, outbox);
                    });
                } else {
                    let reason = KeepReason::Other("this worker does not have it".to_owned());
                    self.outbox.push((FromWorker::ReleaseFailed { session, reason }, Vec::new()));
                }
            }
            ToWorker::Keep { session } => {
                self.with_id(session, |s, outbox| {
                    s.keep();
                    s.advance(now, outbox);
                });
            }
        }
    }

    fn prepare(&mut self, lease: Lease, fds: Vec<OwnedFd>) {
        let session = lease.session;
        let (serial, host) = self.new_serial();
        let begun = Preparation::begin(lease, fds, &host).map_err(|error| error.to_string());
        let watched = begun.and_then(|preparation| {
            let token = (serial << SERIAL_SHIFT) | RELEASED_TOKEN;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
            match self.epoll.add(preparation.released(), event) {
                Ok(()) => Ok(preparation),
                Err(errno) => Err(format!("its release cannot be watched: {errno}")),
            }
        });
        match watched {
            Ok(preparation) => {
                self.preparations.insert(serial, preparation);
                self.look_at_preparation(serial);
            }
            Err(reason) => {
                tracing::error!(%session, %reason, "a session cannot be prepared");
                self.outbox.push((FromWorker::PrepareFailed { session, reason }, Vec::new()));
            }
        }
    }

    fn look_at_preparation(&mut self, serial: u64) {
        if let Some(preparation) = self.preparations.get_mut(&serial)
            && preparation.is_newly_ready()
        {
            let session = preparation.id();
            failpoint::hit(Point::PrepareReady);
            self.outbox.push((FromWorker::Prepared { session }, Vec::new()));
        }
    }

    fn preparation_of(&self, session: SessionId) -> Option<u64> {
        self.preparations.iter().find(|(_, p)| p.id() == session).map(|(serial, _)| *serial)
    }

    fn forget_preparation(&mut self, serial: u64) {
        if let Some(preparation) = self.preparations.remove(&serial) {
            // Others have the eventfd too: closing ours would leave it in epoll.
            let _never_watched = self.epoll.delete(preparation.released());
            if let Some(leftover) = preparation.abandon() {
                self.leftovers.add(leftover);
            }
        }
    }

    /// The session is ours to take.
    fn take_over(&mut self, serial: u64, now: Instant) {
        let Some(preparation) = self.preparations.remove(&serial) else { return };
        failpoint::hit(Point::TakeOverWoken);
        let _never_watched = self.epoll.delete(preparation.released());
        let id = preparation.id();
        let host = self.host(serial);
        let taken = preparation.adopt(self.generation, &host, now, &mut self.outbox);
        self.begin(id, serial, taken, now);
    }

    /// The session is another worker's now: nothing here may touch it, or stay in epoll.
    fn let_go(&mut self, serial: u64) {
        let Some(entry) = self.entries.remove(&serial) else { return };
        self.starts.forget(serial);
        unwatch(&self.epoll, &entry);
        for (_, open) in entry.session.push_sockets() {
            if let Some((socket, _)) = open {
                let _never_watched = self.epoll.delete(socket);
            }
        }
        self.serials.remove(&entry.session.id());
        self.leftovers.add(entry.session.into_leftover());
    }

    fn new_serial(&mut self) -> (u64, Host) {
        let serial = self.next_serial;
        self.next_serial += 1;
        (serial, self.host(serial))
    }

    fn host(&self, serial: u64) -> Host {
        let bell = Arc::clone(&self.bell);
        Host { wake: Arc::new(move || bell.ring(serial)), spares: self.filler.spares() }
    }

    fn adopt(&mut self, lease: Lease, fds: Vec<OwnedFd>, now: Instant) {
        let id = lease.session;
        // A lease takes the place of a preparation that was not told of the release.
        if let Some(serial) = self.preparation_of(id) {
            self.forget_preparation(serial);
        }
        let (serial, host) = self.new_serial();
        let adopted = adopt::adopt(lease, fds, self.generation, &host, now, &mut self.outbox);
        self.begin(id, serial, adopted, now);
    }

    /// A worker with a live session prepares nothing for those of others.
    fn note_live(&self, serial: u64) {
        if self.entries.get(&serial).is_some_and(|entry| entry.session.has_stream()) {
            self.filler.enter_use();
        }
    }

    /// Goes on with a session that is ours now, or says why it is not.
    fn begin(
        &mut self,
        id: SessionId,
        serial: u64,
        adopted: Result<Session, AdoptError>,
        now: Instant,
    ) {
        match adopted {
            Ok(session) => {
                let at_us = session.adopted_at_us();
                self.outbox.push((FromWorker::Adopted { session: id, at_us }, Vec::new()));
                let entry = Entry { session, watched: None, pushes: [None; PUSHES_MAX] };
                self.entries.insert(serial, entry);
                self.serials.insert(id, serial);
                self.note_live(serial);
                self.with_session(serial, |session, outbox| session.go_on(now, outbox));
            }
            Err(AdoptError::Over) => {
                let reason = EndReason::PeerClosed;
                self.outbox.push((FromWorker::Ended { session: id, reason }, Vec::new()));
            }
            Err(error) => {
                tracing::error!(session = %id, %error, "a session cannot be adopted");
                let reason = error.to_string();
                self.outbox.push((FromWorker::AdoptFailed { session: id, reason }, Vec::new()));
            }
        }
    }

    fn tick_when_due(&mut self, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        let serials: Vec<u64> = self.entries.keys().copied().collect();
        for serial in serials {
            self.with_session(serial, |session, outbox| session.tick(now, outbox));
        }
        let followed: Vec<u64> = self.preparations.keys().copied().collect();
        for serial in followed {
            self.look_at_preparation(serial);
        }
        let stalled: Vec<Stalled> =
            self.entries.values_mut().filter_map(|entry| entry.session.stalled(now)).collect();
        if now >= self.next_beat {
            self.next_beat = now + self.beat_interval;
            self.outbox.push((FromWorker::Progress { stalled }, Vec::new()));
        }
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + HEARTBEAT_INTERVAL;
            self.report(now);
        }
    }

    fn report(&mut self, now: Instant) {
        let lobby = self.entries.values().filter(|entry| entry.session.is_in_lobby()).count();
        let lobby = u32::try_from(lobby).unwrap_or(u32::MAX);
        let (allocator, spare_codecs) = (self.purger.figures(), self.filler.count());
        let own = Heartbeat { session: None, lobby, allocator, spare_codecs };
        self.outbox.push((FromWorker::Heartbeat(Box::new(own)), Vec::new()));
        self.beats += 1;
        for (serial, entry) in &mut self.entries {
            let its_turn = (serial + self.beats).is_multiple_of(HEARTBEATS_PER_STATUS);
            if its_turn && !entry.session.is_in_lobby() {
                let session = Some(entry.session.status(now));
                let beat = Heartbeat { session, lobby, allocator: None, spare_codecs: 0 };
                self.outbox.push((FromWorker::Heartbeat(Box::new(beat)), Vec::new()));
            }
        }
    }

    fn end_all(&mut self, now: Instant) -> Exit {
        let serials: Vec<u64> = self.entries.keys().copied().collect();
        for serial in serials {
            self.with_session(serial, |session, outbox| {
                session.leave(EndReason::Shutdown, now);
                session.advance(now, outbox);
            });
        }
        Exit::Orphaned
    }

    fn send_outbox(&mut self) {
        forget_brief_adoptions(&mut self.outbox);
        for (message, fds) in self.outbox.drain(..) {
            if let Err(error) = self.control.send(message, fds) {
                tracing::error!(%error, "a message to the supervisor is lost");
            }
        }
    }
}
