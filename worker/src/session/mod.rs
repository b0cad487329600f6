//! One publisher's session: from adoption to its end.
//!
//! ```text
//!           adopt                    publish              verdict: allow
//!  lease ──────────▶ Lobby ────────────────▶ Authorizing ───────────────▶ Live
//!                      │ refused, deadline        │ refuse                  │ unpublish, FIN, end
//!                      ▼                          ▼                         ▼
//!                   Leaving ◀─────────────────────┴──────────────────── Draining
//!                      │ replies out or deadline        (outputs take what is left)
//!                      ▼
//!                    Ended
//! ```
//!
//! Everything happens on the io thread, which is the only committer: parse what the input ring
//! holds, compose what the pushes send, flip the record once, then write. Codecs run elsewhere.
//!
//! | file | holds |
//! |---|---|
//! | [`adopt`] | the one adoption path |
//! | [`ingest`] | from the socket to complete messages |
//! | [`commit`] | the writing turn: one flip, then what it covers |
//! | [`preparation`] | a session that its owner will hand over to us |
//! | [`shadow`] | its pipeline, following the owner's |
//! | [`release`] | handing a session over |
//! | [`placement`] | where unfinished messages are kept |
//! | [`stream`] | what a live session has: logs, pipeline, outputs |
//! | [`transcode`] | what the pipeline gives, and where it goes on |
//! | [`anchor`] | where decoding can go on, and what is lost where it cannot |
//! | [`totals`] | what is counted of a stream, whoever owned it |
//! | [`tracks`] | what each media message is |
//! | [`source`] | the source log as the pipeline reads it |
//! | [`source_shape`] | what its newest packets tell of the publisher |
//! | [`codecs`] | when those of a stream that was taken over begin |
//! | [`replay`] | what is decoded again after a death |
//! | [`stall`] | what waits in it while nothing moves |
//! | [`bitrate`] | how much arrived lately |
//! | [`overload`] | what is given up when the pipeline falls behind |
//! | [`pipeline_record`] | the pipeline's section of the commit record |
//! | [`record`] | how sections of the commit record are encoded |
//! | [`report`] | what the operator sees |

pub mod adopt;
mod anchor;
pub mod bitrate;
mod codecs;
mod commit;
pub mod ingest;
pub mod overload;
mod pipeline_record;
pub mod placement;
pub mod preparation;
pub mod record;
pub mod release;
mod replay;
mod report;
mod shadow;
pub mod source;
mod source_shape;
pub mod stall;
pub mod stream;
mod totals;
pub mod tracks;
mod transcode;

pub use codecs::CaughtUp;

use crate::output::push::Composed;
use crate::rtmp::session::PublishSession;
use commit::{Changed, Dirty};
use ingest::Ingest;
use stall::{Stall, Work};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use stream::Stream;
use tasuki_shared::id::{Generation, PushId, SessionId};
use tasuki_shared::kernel;
use tasuki_shared::limits::{
    AUTHORIZE_DEADLINE, DRAINING_DEADLINE, LOBBY_DEADLINE, REPLY_RING_BYTES,
};
use tasuki_shared::memory::commit::CommitWriter;
use tasuki_shared::memory::session::{Activity, SessionMemory};
use tasuki_shared::message::{
    Admission, EndReason, FromWorker, Notice, RefuseReason, Stalled, StalledPart, Verdict,
};
use tasuki_shared::plan::Plan;
use tasuki_shared::threads::Looks;

use crate::leftovers::Leftover;
use crate::media::timeline::Timeline;
use crate::output::push::Writability;

/// How long a session that is to leave may take to get its last replies out.
const LEAVING_DEADLINE: Duration = Duration::from_secs(2);
/// How long a publisher that unpublished may take to close its connection.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(1);
/// Rounds of writing in one wake-up; then the others have their turn.
const WRITE_ROUNDS_MAX: usize = 64;

/// What a session wants said to the supervisor.
pub type Outbox = Vec<(FromWorker, Vec<OwnedFd>)>;

enum Phase {
    Lobby,
    Authorizing { since: Instant },
    Live(Box<Stream>),
    Draining { stream: Box<Stream>, reason: EndReason, deadline: Instant, farewell: Farewell },
    Leaving { reason: EndReason, deadline: Instant },
    Ended(EndReason),
}

/// Who closes the connection of a stream that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// The publisher, for it said that it leaves: one that still speaks (FCUnpublish, closeStream,
    /// deleteStream) takes an early FIN for a failure. Until then it is read and not heard.
    Awaited { until: Instant },
    /// It is closed.
    Over,
}

/// Bytes on their way to the publisher, in the reply ring.
#[derive(Clone, Copy, Debug, Default)]
struct Reply {
    head: u64,
    /// The kernel's count.
    written: u64,
}

/// See the module.
pub struct Session {
    id: SessionId,
    peer: SocketAddr,
    socket: OwnedFd,
    memory: SessionMemory,
    commit: CommitWriter,
    changed: Changed,
    ingest: Ingest,
    publish: PublishSession,
    timeline: Timeline,
    reply: Reply,
    phase: Phase,
    /// What it was leased with, until the plan is known.
    app: String,
    /// Sockets of pushes whose stream is gone already.
    closed: Vec<OwnedFd>,
    /// What it leaves to be done off the io thread.
    leftovers: Vec<Leftover>,
    began: Instant,
    adoption: report::Adoption,
    arrived: bitrate::Arrived,
    faults: BTreeMap<String, u64>,
    report: report::Meter,
    /// Where its stream goes on once the verdict has brought its logs.
    resumption: Option<adopt::Resumption>,
    /// Whom it is to be released to, and when.
    release: Option<release::Release>,
    /// Of this process, as the owner word has it.
    generation: Generation,
    /// Woken when a pipeline of this session has something.
    host: stream::Host,
    input_stall: Stall,
    pipeline_stall: Stall,
}

impl Session {
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    #[must_use]
    pub fn is_in_lobby(&self) -> bool {
        matches!(self.phase, Phase::Lobby | Phase::Authorizing { .. })
    }

    /// Why it ended, once it has.
    #[must_use]
    pub fn ended(&self) -> Option<&EndReason> {
        match &self.phase {
            Phase::Ended(reason) => Some(reason),
            Phase::Lobby
            | Phase::Authorizing { .. }
            | Phase::Live(_)
            | Phase::Draining { .. }
            | Phase::Leaving { .. } => None,
        }
    }

    /// Whether the io thread should wake for input, and for room to write.
    #[must_use]
    pub fn interest(&self) -> (Readability, Writability) {
        let reads = match &self.phase {
            Phase::Lobby | Phase::Live(_) => self.ingest.has_room(),
            // Its next words wait in the kernel until the verdict, except for its FIN.
            Phase::Authorizing { .. } => self.ingest.has_room(),
            Phase::Draining { farewell, .. } => *farewell != Farewell::Over,
            Phase::Leaving { .. } | Phase::Ended(_) => false,
        };
        let writes = self.reply.head > self.reply.written;
        (if reads { Readability::Wanted } else { Readability::Ignored }, Writability::of(writes))
    }

    /// Every push with its connection, if it has one, for the io thread to watch.
    pub fn push_sockets(
        &self,
    ) -> impl Iterator<Item = (PushId, Option<(BorrowedFd<'_>, Writability)>)> {
        let pushes = self.stream().map_or(&[][..], |stream| &stream.pushes);
        pushes.iter().map(|push| (push.id(), push.socket()))
    }

    /// Push connections that are over, to be taken out of epoll and closed.
    pub fn take_closed(&mut self) -> Vec<OwnedFd> {
        let mut closed = std::mem::take(&mut self.closed);
        if let Some(stream) = self.stream_mut() {
            stream.take_closed(&mut closed);
        }
        closed
    }

    /// What is to be done off the io thread.
    pub fn take_leftovers(&mut self) -> Vec<Leftover> {
        let mut found = std::mem::take(&mut self.leftovers);
        if let Some(stream) = self.stream_mut() {
            stream.take_leftovers(&mut found);
        }
        found
    }

    /// The publisher sent something, or closed. What nobody waits for, a part of a message or sound
    /// that goes out with the next picture, stays as it is: it is in the input ring, and whatever
    /// comes next commits it too.
    pub fn readable(&mut self, now: Instant, outbox: &mut Outbox) {
        self.memory.set_activity(Activity::Processing);
        self.receive(now, outbox);
        if self.is_due() {
            self.advance(now, outbox);
        } else {
            self.rest();
        }
    }

    /// Goes on where it stood, with whatever was sent meanwhile.
    pub fn go_on(&mut self, now: Instant, outbox: &mut Outbox) {
        self.memory.set_activity(Activity::Processing);
        self.receive(now, outbox);
        self.advance(now, outbox);
    }

    /// A push connection has bytes for us.
    pub fn push_readable(&mut self, id: PushId, now: Instant, outbox: &mut Outbox) {
        let session = self.id;
        if let Some(stream) = self.stream_mut() {
            stream.push_readable(id, session, now, outbox);
        }
        self.advance(now, outbox);
    }

    /// The pipeline has something, a socket takes bytes again, or time passed.
    pub fn advance(&mut self, now: Instant, outbox: &mut Outbox) {
        self.memory.set_activity(Activity::Processing);
        self.take_pipeline(outbox);
        for round in 0..WRITE_ROUNDS_MAX {
            let composed = self.compose();
            self.commit_changes();
            if let Some(stream) = self.stream_mut() {
                stream.feed_files();
            }
            if round > 0 && composed != Composed::Changed {
                break;
            }
            self.write_replies(now);
            if self.write_pushes(now, outbox) == Progress::Done {
                break;
            }
        }
        self.finish(now, outbox);
        self.rest();
    }

    /// Read after a death: whoever had packets inside codecs may have been the cause.
    fn rest(&self) {
        if !self.stream().is_some_and(Stream::is_processing) {
            self.memory.set_activity(Activity::Idle);
        }
    }

    /// What waits in a live session while nothing moves, and for how long. Looked at with each tick.
    pub fn stalled(&mut self, now: Instant) -> Option<Stalled> {
        let Phase::Live(stream) = &self.phase else {
            self.input_stall = Stall::default();
            self.pipeline_stall = Stall::default();
            return None;
        };
        // Who has moved since the last look is not asked whether bytes wait.
        let moved = self.ingest.received();
        let waits = || kernel::inbound_queued(self.socket.as_fd()).is_ok_and(|bytes| bytes > 0);
        let input = self.input_stall.look(now, moved, waits, Looks::new);
        let Work { moved, waits } = stream.transcode.work(&stream.logs, &stream.counts);
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let threads = || tasuki_shared::threads::look(pid, stream.transcode.threads());
        let pipeline = self.pipeline_stall.look(now, moved, || waits, threads);
        let (what, longest) = if input > pipeline {
            (StalledPart::Input, input)
        } else {
            (StalledPart::Pipeline, pipeline)
        };
        let for_ms = u32::try_from(longest.as_millis()).unwrap_or(u32::MAX);
        (for_ms > 0).then_some(Stalled { session: self.id, what, for_ms })
    }

    /// Deadlines.
    pub fn tick(&mut self, now: Instant, outbox: &mut Outbox) {
        match &self.phase {
            Phase::Lobby if now.duration_since(self.began) > LOBBY_DEADLINE => {
                self.leave(EndReason::LobbyTimeout, now);
            }
            Phase::Authorizing { since } if now.duration_since(*since) > AUTHORIZE_DEADLINE * 2 => {
                self.refuse(RefuseReason::NoVerdict, now);
            }
            Phase::Live(stream)
                if now.duration_since(stream.last_media).as_millis()
                    > u128::from(stream.plan.silence_ms_max) =>
            {
                self.leave(EndReason::Silent, now);
            }
            Phase::Lobby
            | Phase::Authorizing { .. }
            | Phase::Live(_)
            | Phase::Draining { .. }
            | Phase::Leaving { .. }
            | Phase::Ended(_) => {}
        }
        let id = self.id;
        if let Some(stream) = self.stream_mut() {
            stream.tick(id, now, outbox);
        }
        self.wait_no_longer(now);
        self.advance(now, outbox);
    }

    /// The supervisor's answer to a publish, with one fd per log and one per push.
    pub fn verdict(
        &mut self,
        verdict: Verdict,
        fds: Vec<OwnedFd>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if !matches!(self.phase, Phase::Authorizing { .. }) {
            return;
        }
        match verdict {
            Verdict::Refuse(reason) => self.refuse(reason, now),
            Verdict::Allow(plan) => self.go_live(*plan, fds, now, outbox),
        }
        // What the publisher sent meanwhile waits in the ring.
        self.go_on(now, outbox);
    }

    /// The dialer's answer for one of the pushes.
    pub fn dialed(
        &mut self,
        push: PushId,
        outcome: Result<OwnedFd, String>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let id = self.id;
        if let Some(stream) = self.stream_mut() {
            stream.dialed(push, outcome, id, now, outbox);
        }
        self.advance(now, outbox);
    }

    /// Ends the session: a live one lets its outputs take what is left.
    pub fn leave(&mut self, reason: EndReason, now: Instant) {
        // What was parsed is committed before readers are told that it is the last, also what
        // waited for something to go with.
        self.changed.ingest = Dirty::Yes;
        self.commit_changes();
        let phase = std::mem::replace(&mut self.phase, Phase::Lobby);
        self.phase = match phase {
            Phase::Live(mut stream) => {
                stream.over();
                let farewell = if reason == EndReason::Unpublished {
                    Farewell::Awaited { until: now + FAREWELL_DEADLINE }
                } else {
                    shut_down(self.socket.as_fd());
                    Farewell::Over
                };
                let deadline = now + DRAINING_DEADLINE;
                Phase::Draining { stream, reason, deadline, farewell }
            }
            Phase::Lobby | Phase::Authorizing { .. } => {
                Phase::Leaving { reason, deadline: now + LEAVING_DEADLINE }
            }
            Phase::Draining { .. } | Phase::Leaving { .. } | Phase::Ended(_) => phase,
        };
    }

    /// Counts what arrived; a live publisher that sends more than its plan allows is ended.
    fn arrived(&mut self, bytes: usize, now: Instant) {
        self.arrived.add(bytes as u64, now);
        if let Phase::Live(stream) = &self.phase
            && let max_bps = stream.plan.limits.bitrate_bps_max
            && self.arrived.bits_per_second(now) > max_bps
        {
            let what = format!("the source sends more than {max_bps} bits per second");
            self.leave(EndReason::Limit(what), now);
        }
    }

    fn refuse(&mut self, reason: RefuseReason, now: Instant) {
        let mut out = Vec::new();
        self.publish.refuse(reason, &mut out);
        self.changed.publish = Dirty::Yes;
        self.say(&out, now);
        self.leave(EndReason::Refused(reason), now);
    }

    /// A publish that waits for its verdict is refused at once, any other as soon as it is made.
    fn refuse_or_remember(&mut self, reason: RefuseReason, now: Instant) {
        match self.phase {
            Phase::Authorizing { .. } => self.refuse(reason, now),
            Phase::Lobby
            | Phase::Live(_)
            | Phase::Draining { .. }
            | Phase::Leaving { .. }
            | Phase::Ended(_) => {
                let mut said_at_the_publish = Vec::new();
                self.publish.refuse(reason, &mut said_at_the_publish);
                self.changed.publish = Dirty::Yes;
            }
        }
    }

    fn go_live(&mut self, plan: Plan, fds: Vec<OwnedFd>, now: Instant, outbox: &mut Outbox) {
        let mark = self.memory.work_mark();
        let (started, out) = match self.resumption.take() {
            Some(resumption) => (resumption.resume(plan, fds, mark, &self.host, now), Vec::new()),
            None => {
                let mut out = Vec::new();
                self.publish.allow(&mut out);
                (Stream::start(plan, fds, mark, &self.host, now), out)
            }
        };
        match started {
            Ok(stream) => {
                self.phase = Phase::Live(Box::new(stream));
                self.changed.publish = Dirty::Yes;
                self.changed.ingest = Dirty::Yes;
                self.say(&out, now);
            }
            Err(error) => {
                let event = error.leave_if_out_of_memory().to_string();
                tracing::error!(session = %self.id, error = %event, "a stream cannot start");
                let notice = Notice::Pipeline { event };
                outbox.push((FromWorker::Notice { session: Some(self.id), notice }, Vec::new()));
                self.refuse(RefuseReason::NoWorker, now);
            }
        }
    }

    /// Appends to what the publisher will read; one that reads nothing is ended.
    fn say(&mut self, bytes: &[u8], now: Instant) {
        if bytes.is_empty() {
            return;
        }
        let waiting = self.reply.head - self.reply.written;
        if waiting + bytes.len() as u64 > REPLY_RING_BYTES as u64 {
            self.leave(EndReason::Limit("the publisher reads none of our replies".into()), now);
            return;
        }
        self.memory.reply.write(self.reply.head, bytes);
        self.reply.head += bytes.len() as u64;
        self.changed.ingest = Dirty::Yes;
    }

    fn compose(&mut self) -> Composed {
        let Some(stream) = self.stream_mut() else { return Composed::Nothing };
        let composed = stream.compose();
        match composed {
            Composed::Nothing => {}
            // A batch in the record that the kernel has whole says the same as none.
            Composed::Emptied if self.changed.pushes == Dirty::Yes => {}
            Composed::Emptied => self.changed.pushes = Dirty::WithTheNext,
            Composed::Changed => self.changed.pushes = Dirty::Yes,
        }
        composed
    }

    fn write_pushes(&mut self, now: Instant, outbox: &mut Outbox) -> Progress {
        let id = self.id;
        let Some(stream) = self.stream_mut() else { return Progress::Done };
        stream.write_pushes(id, now, outbox)
    }

    /// Moves a session that is done with its phase to the next.
    fn finish(&mut self, now: Instant, outbox: &mut Outbox) {
        let reply_out = self.reply.written == self.reply.head;
        match &mut self.phase {
            Phase::Draining { stream, reason, deadline, farewell } => {
                let parted = match farewell {
                    Farewell::Awaited { until } => now > *until,
                    Farewell::Over => true,
                };
                if (stream.is_drained() && parted) || now > *deadline {
                    stream.abandon(self.id, outbox);
                    stream.take_closed(&mut self.closed);
                    stream.take_leftovers(&mut self.leftovers);
                    self.leftovers.extend(stream.finish_files());
                    let reason = reason.clone();
                    self.end(reason, outbox);
                }
            }
            Phase::Leaving { reason, deadline } => {
                // A refused publisher must read the refusal before it sees the end, so an orderly
                // FIN, not a reset: nothing may be left unread in our receive queue.
                if reply_out || now > *deadline {
                    let reason = reason.clone();
                    let _either_way_it_ends_now = self.discard_input();
                    self.end(reason, outbox);
                }
            }
            Phase::Lobby | Phase::Authorizing { .. } | Phase::Live(_) | Phase::Ended(_) => {}
        }
    }

    fn end(&mut self, reason: EndReason, outbox: &mut Outbox) {
        shut_down(self.socket.as_fd());
        outbox.push((FromWorker::Ended { session: self.id, reason: reason.clone() }, Vec::new()));
        self.phase = Phase::Ended(reason);
    }

    fn take_pipeline(&mut self, outbox: &mut Outbox) {
        let id = self.id;
        let Some(stream) = self.stream_mut() else { return };
        if stream.take_pipeline(id, outbox) {
            self.changed.pipeline = Dirty::Yes;
        }
    }

    fn stream(&self) -> Option<&Stream> {
        match &self.phase {
            Phase::Live(stream) | Phase::Draining { stream, .. } => Some(stream),
            Phase::Lobby | Phase::Authorizing { .. } | Phase::Leaving { .. } | Phase::Ended(_) => {
                None
            }
        }
    }

    fn stream_mut(&mut self) -> Option<&mut Stream> {
        match &mut self.phase {
            Phase::Live(stream) | Phase::Draining { stream, .. } => Some(stream),
            Phase::Lobby | Phase::Authorizing { .. } | Phase::Leaving { .. } | Phase::Ended(_) => {
                None
            }
        }
    }

    fn count_fault(&mut self, kind: &str) {
        *self.faults.entry(kind.to_owned()).or_default() += 1;
    }
}

/// Does the io thread need to know when the publisher sends?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readability {
    Wanted,
    Ignored,
}

/// Is there more to write at once?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    Done,
}

/// Whether a lease lets its session publish.
#[must_use]
pub fn refusal(admission: Admission) -> Option<RefuseReason> {
    match admission {
        Admission::Admit => None,
        Admission::Refuse(reason) => Some(reason),
    }
}

/// A socket that is gone already needs no shutting down. The supervisor's dup keeps the FIN from
/// being sent by close(2), so it is sent here.
fn shut_down(socket: BorrowedFd<'_>) {
    let _gone = nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
}
