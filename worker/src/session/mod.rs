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
//! | [`placement`] | where unfinished messages are kept |
//! | [`stream`] | what a live session has: logs, pipeline, outputs |
//! | [`tracks`] | what each media message is |
//! | [`source`] | the source log as the pipeline reads it |
//! | [`overload`] | what is given up when the pipeline falls behind |
//! | [`record`] | how sections of the commit record are encoded |
//! | [`report`] | what the operator sees |

pub mod adopt;
pub mod ingest;
pub mod overload;
pub mod placement;
pub mod record;
mod report;
pub mod source;
pub mod stream;
pub mod tracks;

use crate::rtmp::session::PublishSession;
use ingest::Ingest;
use record::Put;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use stream::Stream;
use tasuki_shared::id::{PushId, SessionId};
use tasuki_shared::limits::{
    AUTHORIZE_DEADLINE, LOBBY_DEADLINE, REPLY_RING_BYTES, SILENCE_DEADLINE,
};
use tasuki_shared::memory::commit::{CommitWriter, Section};
use tasuki_shared::memory::session::{Activity, SessionMemory};
use tasuki_shared::message::{Admission, EndReason, FromWorker, Notice, RefuseReason, Verdict};
use tasuki_shared::plan::Plan;

use crate::media::timeline::Timeline;
use crate::output::cursor::StreamEnd;
use crate::output::push::Writability;

/// How long a session that is to leave may take to get its last replies out.
const LEAVING_DEADLINE: Duration = Duration::from_secs(2);
/// How long outputs may take to write what is left after the publisher's end.
const DRAINING_DEADLINE: Duration = Duration::from_secs(5);
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

/// Which sections changed since the last flip.
#[derive(Clone, Copy, Debug, Default)]
struct Changed {
    ingest: Dirty,
    publish: Dirty,
    timeline: Dirty,
    pipeline: Dirty,
    pushes: Dirty,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Dirty {
    #[default]
    No,
    Yes,
}

impl Dirty {
    fn take(&mut self) -> bool {
        std::mem::take(self) == Self::Yes
    }
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
    began: Instant,
    last_received: Instant,
    faults: BTreeMap<String, u64>,
    report: report::Meter,
    /// Wakes the io thread when a pipeline of this session has something.
    wake: stream::Wake,
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

    /// The push connections that are open, for the io thread to watch.
    pub fn push_sockets(&self) -> impl Iterator<Item = (PushId, BorrowedFd<'_>, Writability)> {
        self.stream()
            .into_iter()
            .flat_map(|stream| &stream.pushes)
            .filter_map(|push| push.socket().map(|(socket, writes)| (push.id(), socket, writes)))
    }

    /// Push connections that are over, to be taken out of epoll and closed.
    pub fn take_closed(&mut self) -> Vec<OwnedFd> {
        let mut closed = std::mem::take(&mut self.closed);
        if let Some(stream) = self.stream_mut() {
            closed.extend(stream.take_closed());
        }
        closed
    }

    /// The publisher sent something, or closed.
    pub fn readable(&mut self, now: Instant, outbox: &mut Outbox) {
        self.memory.set_activity(Activity::Processing);
        self.receive(now, outbox);
        self.advance(now, outbox);
        self.memory.set_activity(Activity::Idle);
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
        self.take_pipeline(outbox);
        for _ in 0..WRITE_ROUNDS_MAX {
            self.compose();
            self.commit_changes();
            self.write_replies(now);
            if self.write_pushes(now, outbox) == Progress::Done {
                break;
            }
        }
        self.finish(now, outbox);
    }

    /// Deadlines.
    pub fn tick(&mut self, now: Instant, outbox: &mut Outbox) {
        let silent = now.duration_since(self.last_received) > SILENCE_DEADLINE;
        match &self.phase {
            Phase::Lobby if now.duration_since(self.began) > LOBBY_DEADLINE => {
                self.leave(EndReason::LobbyTimeout, now);
            }
            Phase::Authorizing { since } if now.duration_since(*since) > AUTHORIZE_DEADLINE * 2 => {
                self.refuse(RefuseReason::NoVerdict, now);
            }
            Phase::Live(_) if silent => self.leave(EndReason::Silent, now),
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
        self.readable(now, outbox);
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

    fn refuse(&mut self, reason: RefuseReason, now: Instant) {
        let mut out = Vec::new();
        self.publish.refuse(reason, &mut out);
        self.changed.publish = Dirty::Yes;
        self.say(&out, now);
        self.leave(EndReason::Refused(reason), now);
    }

    fn go_live(&mut self, plan: Plan, fds: Vec<OwnedFd>, now: Instant, outbox: &mut Outbox) {
        match Stream::start(plan, fds, &self.wake) {
            Ok(stream) => {
                let mut out = Vec::new();
                self.publish.allow(&mut out);
                self.phase = Phase::Live(Box::new(stream));
                self.last_received = now;
                self.changed.publish = Dirty::Yes;
                self.changed.ingest = Dirty::Yes;
                self.say(&out, now);
            }
            Err(error) => {
                let event = error.to_string();
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

    fn compose(&mut self) {
        let end = self.stream_end();
        let Some(stream) = self.stream_mut() else { return };
        if stream.compose(end) {
            self.changed.pushes = Dirty::Yes;
        }
    }

    /// Encodes what changed and flips the record, then shows it to the logs' readers.
    fn commit_changes(&mut self) {
        let mut any = false;
        let stream = match &self.phase {
            Phase::Live(stream) | Phase::Draining { stream, .. } => Some(&**stream),
            Phase::Lobby | Phase::Authorizing { .. } | Phase::Leaving { .. } | Phase::Ended(_) => {
                None
            }
        };
        let mut staged = Ok(());
        if self.changed.ingest.take() {
            any = true;
            let (ingest, reply) = (&self.ingest, self.reply.head);
            let encode = |into: &mut Vec<u8>| {
                into.put_u64(reply);
                ingest.encode(stream.map(|stream| stream.logs.source.heads()), into);
            };
            staged = staged.and(self.commit.stage(Section::Ingest, encode));
        }
        if self.changed.publish.take() {
            any = true;
            let state = self.publish.export();
            let live = stream.is_some();
            let encode = |into: &mut Vec<u8>| adopt::encode_publish(&state, live, into);
            staged = staged.and(self.commit.stage(Section::Publish, encode));
        }
        if self.changed.timeline.take() {
            any = true;
            let state = self.timeline.state().to_bytes();
            staged = staged.and(self.commit.stage(Section::Timeline, |into| into.extend(state)));
        }
        if let Some(stream) = stream {
            if self.changed.pipeline.take() {
                any = true;
                let encode = |into: &mut Vec<u8>| stream.encode_pipeline(into);
                staged = staged.and(self.commit.stage(Section::Pipeline, encode));
            }
            if self.changed.pushes.take() {
                any = true;
                let encode = |into: &mut Vec<u8>| stream.encode_pushes(into);
                staged = staged.and(self.commit.stage(Section::Pushes, encode));
            }
        }
        staged.expect("every section's encoding is bounded by its size");
        if any {
            self.memory.flip(&mut self.commit);
            self.ingest.committed();
            if let Some(stream) = stream {
                stream.publish_logs();
            }
        }
    }

    fn write_replies(&mut self, now: Instant) {
        while self.reply.written < self.reply.head {
            let waiting = self.reply.head - self.reply.written;
            let length = usize::try_from(waiting).expect("at most the ring");
            let bytes = self.memory.reply.private_bytes(self.reply.written, length);
            let flags =
                nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
            match nix::sys::socket::send(self.socket.as_raw_fd(), bytes, flags) {
                Ok(sent) => self.reply.written += sent as u64,
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => {
                    // Nobody reads any more; what was said is void.
                    self.reply.written = self.reply.head;
                    self.leave(EndReason::PeerReset(io::Error::from(errno).to_string()), now);
                    return;
                }
            }
        }
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
                    self.closed = stream.take_closed();
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

    fn stream_end(&self) -> StreamEnd {
        match &self.phase {
            Phase::Draining { stream, .. } if stream.pipeline_is_done() => StreamEnd::Over,
            Phase::Draining { .. }
            | Phase::Live(_)
            | Phase::Lobby
            | Phase::Authorizing { .. }
            | Phase::Leaving { .. }
            | Phase::Ended(_) => StreamEnd::Going,
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
