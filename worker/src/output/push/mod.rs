//! Push: one rendition published over RTMP to an origin.
//!
//! ```text
//!  Idle ──something to send──▶ Dialing ──connected──▶ Handshake ──Publish.Start──▶ Live
//!   ▲                             │ failed                │ failed                  │ lost
//!   │                             ▼                       ▼                         │
//!   └───────time is up──────── Backoff ◀────────────────────────────────────────────┘
//!                                         Live ──stream over, all sent──▶ Closing ─▶ Closed
//! ```
//! In `Live`, bytes are written in **batches**: a few items, each a message made of committed
//! bytes (a log entry, a header kept aside, a command in the push memory). A batch is committed
//! before its first byte, and a new one is composed only after the last was written, so whoever
//! adopts the session derives the rest of the byte stream from the record and the kernel's count
//! (`resume`). What the origin says is parsed out of a ring whose bytes stay until a commit covers
//! what came of them; answers are put into another ring by the same commit.
//!
//! Invariants: no byte of media is written that no commit covers; a slow or absent origin is never
//! waited for, the log's tail passes it by, it is cut and begins again at a keyframe.

mod batch;
mod commands;
mod hear;
mod resume;
#[cfg(test)]
mod tests;

pub use resume::{Connection, Counts};

use super::cursor::{Cursor, Feed, Logs, Next, StreamEnd};
use crate::rtmp::push_client::{PushClient, PushTarget};
use batch::{Batch, send};
use commands::Commands;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::id::PushId;
use tasuki_shared::limits::{
    DIAL_DEADLINE, PUSH_BACKOFF_FIRST, PUSH_BACKOFF_MAX, PUSH_CLOSING_DEADLINE,
    PUSH_HANDSHAKE_DEADLINE,
};
use tasuki_shared::memory::map::Gather;
use tasuki_shared::memory::push::PushMemory;
use tasuki_shared::message::DialError;
use tasuki_shared::plan::PushPlan;

/// An origin that takes nothing of what is due for this long is given up.
const STALL_MAX: Duration = Duration::from_secs(30);
/// An origin's words that are kept for the operator.
const ERROR_BYTES_MAX: usize = 256;
/// A connection that was live for this long begins its back-off anew.
const LIVE_RESETS_BACKOFF: Duration = Duration::from_secs(10);

struct Live {
    socket: OwnedFd,
    client: PushClient,
    since: Instant,
    /// When the kernel last took something, or nothing was left to take.
    progress: Instant,
    batch: Batch,
    commands: Commands,
    goodbye: Goodbye,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    NotYet,
    Said,
}

enum State {
    Idle,
    Dialing {
        since: Instant,
    },
    Handshake {
        socket: OwnedFd,
        client: Box<PushClient>,
        out: Vec<u8>,
        written: u64,
        deadline: Instant,
    },
    Live(Box<Live>),
    Backoff {
        until: Instant,
    },
    Closing {
        socket: OwnedFd,
        deadline: Instant,
    },
    Closed,
}

/// What an attempt to write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// The batch is out: compose the next.
    Batch,
    /// Nothing to do, or the kernel takes no more now.
    Waits,
}

/// What happened that others must hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushNews {
    WantsDial,
    Live,
    /// Connection gone, with the reason; `None` at the planned end.
    Closed(Option<String>),
}

/// See the module.
pub struct Push {
    id: PushId,
    plan: PushPlan,
    memory: PushMemory,
    state: State,
    cursor: Cursor,
    /// Inbound bytes of this connection: taken from the kernel, and parsed.
    received: u64,
    parsed: u64,
    /// Before this no byte is needed any more: whoever comes after us parses from here.
    parsed_committed: u64,
    connection: u32,
    attempts: u32,
    /// Sockets that are shut down but must be taken out of epoll before they are closed: the
    /// supervisor's dup keeps them alive in there.
    closed: Vec<OwnedFd>,
    /// What came of going on with another owner's connection.
    unsaid: Option<PushNews>,
    pub sent_bytes: u64,
    pub messages: u64,
    pub last_error: String,
}

impl Push {
    #[must_use]
    pub fn new(id: PushId, plan: PushPlan, feed: Feed, memory: PushMemory) -> Self {
        Self {
            id,
            plan,
            memory,
            state: State::Idle,
            cursor: Cursor::new(feed),
            received: 0,
            parsed: 0,
            parsed_committed: 0,
            connection: 0,
            attempts: 0,
            closed: Vec::new(),
            unsaid: None,
            sent_bytes: 0,
            messages: 0,
            last_error: String::new(),
        }
    }

    #[must_use]
    pub fn id(&self) -> PushId {
        self.id
    }

    #[must_use]
    pub fn plan(&self) -> &PushPlan {
        &self.plan
    }

    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.cursor.skipped
    }

    #[must_use]
    pub fn reconnects(&self) -> u32 {
        self.connection.saturating_sub(1)
    }

    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Idle => "idle",
            State::Dialing { .. } => "dialing",
            State::Handshake { .. } => "handshake",
            State::Live(_) => "live",
            State::Backoff { .. } => "backoff",
            State::Closing { .. } => "closing",
            State::Closed => "closed",
        }
    }

    /// The connection, and whether its writability matters now.
    #[must_use]
    pub fn socket(&self) -> Option<(BorrowedFd<'_>, Writability)> {
        match &self.state {
            State::Handshake { socket, out, .. } => {
                Some((socket.as_fd(), Writability::of(!out.is_empty())))
            }
            State::Live(live) => {
                Some((live.socket.as_fd(), Writability::of(!live.batch.is_written())))
            }
            State::Closing { socket, .. } => Some((socket.as_fd(), Writability::Ignored)),
            State::Idle | State::Dialing { .. } | State::Backoff { .. } | State::Closed => None,
        }
    }

    /// Sockets to be taken out of epoll and closed.
    pub fn take_closed(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.closed)
    }

    /// The rung turned out to be the source itself.
    pub fn feed_from(&mut self, feed: Feed) {
        self.cursor.feed_from(feed);
    }

    /// Ended, or never to be dialled any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Time passed, or the logs grew.
    pub fn tick(&mut self, logs: &Logs, end: StreamEnd, now: Instant) -> Option<PushNews> {
        if let Some(news) = self.unsaid.take() {
            return Some(news);
        }
        match &self.state {
            State::Idle | State::Backoff { .. } if end == StreamEnd::Over => {
                // What an origin that is away did not get by now, it will not get.
                let nothing_left = self.cursor.is_at_end(logs) || self.connection > 0;
                if nothing_left || !self.cursor.can_start(logs) {
                    self.state = State::Closed;
                    return None;
                }
                self.dial_when_due(logs, now)
            }
            State::Idle | State::Backoff { .. } => self.dial_when_due(logs, now),
            State::Dialing { since } if now > *since + DIAL_DEADLINE * 2 => {
                self.lose(&DialError::Timeout.to_string(), now)
            }
            State::Handshake { deadline, .. } if now > *deadline => {
                self.lose("the origin did not let us publish in time", now)
            }
            State::Live(live) if now.duration_since(live.progress) > STALL_MAX => {
                self.lose("the origin has taken nothing for too long", now)
            }
            State::Closing { deadline, .. } if now > *deadline => {
                self.close_to(State::Closed);
                Some(PushNews::Closed(None))
            }
            State::Dialing { .. }
            | State::Handshake { .. }
            | State::Live(_)
            | State::Closing { .. }
            | State::Closed => None,
        }
    }

    /// The dialer's answer.
    pub fn dialed(&mut self, outcome: Result<OwnedFd, String>, now: Instant) -> Option<PushNews> {
        if !matches!(self.state, State::Dialing { .. }) {
            return None;
        }
        let socket = match outcome {
            Ok(socket) => socket,
            Err(reason) => return self.lose(&reason, now),
        };
        let mut out = Vec::new();
        match PushClient::start(self.target(), &mut out) {
            Ok(client) => {
                (self.received, self.parsed, self.parsed_committed) = (0, 0, 0);
                self.state = State::Handshake {
                    socket,
                    client: Box::new(client),
                    out,
                    written: 0,
                    deadline: now + PUSH_HANDSHAKE_DEADLINE,
                };
                None
            }
            Err(error) => self.lose(&error.to_string(), now),
        }
    }

    /// The socket has bytes for us.
    pub fn readable(&mut self, now: Instant) -> Option<PushNews> {
        match self.receive(now) {
            Ok(news) => news,
            Err(reason) => self.lose(&reason, now),
        }
    }

    /// Composes the next batch if there is none.
    pub fn compose(&mut self, logs: &Logs, end: StreamEnd) -> Composed {
        let State::Live(live) = &mut self.state else { return Composed::Nothing };
        let heard = if self.parsed == self.parsed_committed {
            Composed::Nothing
        } else {
            Composed::Changed
        };
        self.parsed_committed = self.parsed;
        if !live.batch.is_written() {
            return heard;
        }
        let was_empty = live.batch.is_empty();
        live.batch.go_on();
        if live.goodbye == Goodbye::NotYet && end == StreamEnd::Over && self.cursor.is_at_end(logs)
        {
            let mut words = Vec::new();
            live.client.put_goodbye(&mut words);
            // One that does not read our answers gets no goodbye either.
            let _full = live.commands.put(&words, &self.memory);
            live.goodbye = Goodbye::Said;
        }
        if let Some((position, length)) = live.commands.take() {
            live.batch.add_command(position, length);
        }
        while live.goodbye == Goodbye::NotYet && live.batch.has_room() {
            let Some(next) = self.cursor.next(logs, end) else { break };
            match next {
                Next::Header { log, id, kind, dts_ms } => {
                    if let Some(bytes) = logs.get(log).and_then(|log| log.header(kind, id)) {
                        live.batch.add_header(log, id, kind, dts_ms, bytes);
                    }
                }
                Next::Packet { log, entry } => {
                    live.batch.add_packet(log, &entry);
                    self.messages += 1;
                }
            }
        }
        heard.max(match (was_empty, live.batch.is_empty()) {
            (_, false) => Composed::Changed,
            (false, true) => Composed::Emptied,
            (true, true) => Composed::Nothing,
        })
    }

    /// Writes what is composed and committed.
    pub fn write(&mut self, logs: &Logs, now: Instant) -> (Wrote, Option<PushNews>) {
        match self.try_write(logs, now) {
            Ok(wrote) => {
                let news = self.close_when_done(now);
                (wrote, news)
            }
            Err(reason) => (Wrote::Waits, self.lose(&reason, now)),
        }
    }

    /// Lets go of the connection, which another owner goes on with: nothing is shut down and
    /// nothing is said. What is given back must be taken out of epoll and closed.
    #[must_use]
    pub fn release(self) -> Vec<OwnedFd> {
        let mut sockets = self.closed;
        match self.state {
            State::Handshake { socket, .. } | State::Closing { socket, .. } => sockets.push(socket),
            State::Live(live) => sockets.push(live.socket),
            State::Idle | State::Dialing { .. } | State::Backoff { .. } | State::Closed => {}
        }
        sockets
    }

    /// Ends the connection at once, without another try.
    pub fn abandon(&mut self) -> Option<PushNews> {
        let was_open = self.socket().is_some();
        self.close_to(State::Closed);
        was_open.then_some(PushNews::Closed(None))
    }

    fn target(&self) -> PushTarget {
        let PushPlan { host, port, app, stream, .. } = &self.plan;
        PushTarget {
            app: app.clone(),
            tc_url: format!("rtmp://{host}:{port}/{app}"),
            stream: stream.clone(),
        }
    }

    fn dial_when_due(&mut self, logs: &Logs, now: Instant) -> Option<PushNews> {
        let due = match self.state {
            State::Idle => true,
            State::Backoff { until } => now >= until,
            State::Dialing { .. }
            | State::Handshake { .. }
            | State::Live(_)
            | State::Closing { .. }
            | State::Closed => false,
        };
        if !due || !self.cursor.can_start(logs) {
            return None;
        }
        self.state = State::Dialing { since: now };
        Some(PushNews::WantsDial)
    }

    fn try_write(&mut self, logs: &Logs, now: Instant) -> Result<Wrote, String> {
        match &mut self.state {
            State::Handshake { socket, out, written, .. } => {
                let mut gather = Gather::new();
                gather.slice(out);
                let sent = send(&mut gather, socket.as_fd())?;
                *written += sent as u64;
                out.drain(..sent);
                Ok(Wrote::Waits)
            }
            State::Live(live) => {
                if !live.batch.is_written() {
                    failpoint::hit(Point::PushWriting);
                }
                let sent = live.batch.send(live.socket.as_fd(), logs, &self.memory)?;
                if sent > 0 {
                    failpoint::hit(Point::PushWrote);
                }
                self.sent_bytes += sent;
                if sent > 0 || live.batch.is_written() {
                    live.progress = now;
                }
                let done = live.batch.is_written() && sent > 0;
                Ok(if done { Wrote::Batch } else { Wrote::Waits })
            }
            State::Idle
            | State::Dialing { .. }
            | State::Backoff { .. }
            | State::Closing { .. }
            | State::Closed => Ok(Wrote::Waits),
        }
    }

    /// Origins like to name the stream they refuse, and its name may be a secret.
    fn without_secrets(&self, reason: &str) -> String {
        let stream = self.plan.stream.as_str();
        if stream.is_empty() { reason.to_owned() } else { reason.replace(stream, "…") }
    }

    /// Shuts the connection down, if there is one, and leaves its fd to [`Self::take_closed`].
    fn close_to(&mut self, next: State) {
        let socket = match std::mem::replace(&mut self.state, next) {
            State::Handshake { socket, .. } | State::Closing { socket, .. } => socket,
            State::Live(live) => live.socket,
            State::Idle | State::Dialing { .. } | State::Backoff { .. } | State::Closed => return,
        };
        shut_down(socket.as_fd(), nix::sys::socket::Shutdown::Both);
        self.closed.push(socket);
    }

    fn close_when_done(&mut self, now: Instant) -> Option<PushNews> {
        let State::Live(live) = &self.state else { return None };
        let done =
            live.goodbye == Goodbye::Said && live.batch.is_written() && live.commands.is_empty();
        if !done {
            return None;
        }
        let before = std::mem::replace(&mut self.state, State::Closed);
        if let State::Live(live) = before {
            // Only our direction: what the origin has not read yet must still reach it.
            shut_down(live.socket.as_fd(), nix::sys::socket::Shutdown::Write);
            self.state =
                State::Closing { socket: live.socket, deadline: now + PUSH_CLOSING_DEADLINE };
        }
        None
    }

    fn lose(&mut self, reason: &str, now: Instant) -> Option<PushNews> {
        if let State::Live(live) = &self.state
            && now.duration_since(live.since) >= LIVE_RESETS_BACKOFF
        {
            self.attempts = 0;
        }
        self.attempts = self.attempts.saturating_add(1);
        let doublings = self.attempts.saturating_sub(1).min(10);
        let pause = (PUSH_BACKOFF_FIRST * (1 << doublings)).min(PUSH_BACKOFF_MAX);
        let reason = cut(&self.without_secrets(reason));
        reason.clone_into(&mut self.last_error);
        self.close_to(State::Backoff { until: now + pause });
        Some(PushNews::Closed(Some(reason)))
    }
}

/// What composing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Composed {
    Nothing,
    /// A batch is written, and nothing follows it yet. A record that still names it says the same,
    /// for the kernel's count covers it.
    Emptied,
    /// The record must say it before anything is written, or read again.
    Changed,
}

/// Does the io thread need to know when the socket takes bytes again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writability {
    Wanted,
    Ignored,
}

impl Writability {
    #[must_use]
    pub fn of(pending: bool) -> Self {
        if pending { Self::Wanted } else { Self::Ignored }
    }
}

/// At most [`ERROR_BYTES_MAX`] bytes of a text.
fn cut(text: &str) -> String {
    let fits = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=ERROR_BYTES_MAX.min(text.len())).rev().find(fits).unwrap_or(0);
    text[..end].to_owned()
}

/// A socket that is gone already needs no shutting down.
fn shut_down(socket: BorrowedFd<'_>, how: nix::sys::socket::Shutdown) {
    let _gone = nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&socket), how);
}
