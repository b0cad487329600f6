//! A push's part of the commit record, and how an adopter goes on with its connection.
//!
//! The record has the batch in flight and everything that was heard of the origin; the kernel knows
//! how much of the batch it took and how many of the origin's bytes lie in the inbound ring. So the
//! same connection goes on in the middle of a message and of a command. Where the two do not agree,
//! or what is to be written again is gone, the connection is cut by name and dialled anew.

use super::batch::{Batch, ITEMS_MAX, Item};
use super::commands::Commands;
use super::{Goodbye, Live, Push, PushNews, State};
use crate::output::cursor::{Cursor, Logs};
use crate::rtmp::push_client::PushClient;
use crate::session::record::{BadSection, Put, Take};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::kernel::{self, Opened};
use tasuki_shared::limits::{PUSH_CLOSING_DEADLINE, PUSH_INBOUND_RING_BYTES, PUSHES_MAX};
use tasuki_shared::memory::commit::Section;

/// Positions and totals are counted one by one; no stream lives long enough to come near this.
const COUNT_MAX: u64 = 1 << 60;

const AWAY: u8 = 0;
const LIVE: u8 = 1;
const CLOSING: u8 = 2;
const CLOSED: u8 = 3;

const HEAD_BYTES: usize = 1 + 4 + 4 + 8 + 8 + Cursor::RECORD_BYTES + 1;
const LIVE_BYTES: usize =
    1 + 3 * 8 + PushClient::RECORD_BYTES_MAX + 8 + 1 + ITEMS_MAX * Item::BYTES;
const _: () = assert!(
    PUSHES_MAX * (HEAD_BYTES + LIVE_BYTES) <= Section::Pushes.bytes_max(),
    "every push fits the record"
);

/// A connection as its last owner left it.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    counts: io::Result<Counts>,
}

/// What the kernel says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Bytes written into it.
    pub written: u64,
    /// Bytes taken out of it.
    pub received: u64,
    /// Our side was shut down already.
    pub is_shut_down: bool,
}

impl Connection {
    /// Reads the counters; nobody else may use the socket any more.
    #[must_use]
    pub fn of(socket: OwnedFd) -> Self {
        let counts = Counts::read(&socket);
        Self { socket, counts }
    }

    #[cfg(test)]
    pub(super) fn with_counts(socket: OwnedFd, change: impl FnOnce(Counts) -> Counts) -> Self {
        let counts = Counts::read(&socket).map(change);
        Self { socket, counts }
    }
}

impl Counts {
    fn read(socket: &OwnedFd) -> io::Result<Self> {
        let socket = socket.as_fd();
        Ok(Self {
            written: kernel::outbound_written(socket, Opened::Active)?,
            received: kernel::inbound_consumed(socket)?,
            is_shut_down: kernel::was_shut_down(socket)?,
        })
    }
}

impl Push {
    /// Appends what the commit record must know.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self {
            id,
            plan: _,
            memory: _,
            state,
            cursor,
            received: _,
            parsed,
            parsed_committed: _,
            connection,
            attempts,
            closed: _,
            unsaid: _,
            sent_bytes,
            messages,
            last_error: _,
        } = self;
        into.put_u8(id.0);
        into.put_u32(*connection);
        into.put_u32(*attempts);
        into.put_u64(*messages);
        cursor.encode(into);
        let in_flight = match state {
            State::Live(live) => live.batch.written(),
            State::Idle
            | State::Dialing { .. }
            | State::Handshake { .. }
            | State::Backoff { .. }
            | State::Closing { .. }
            | State::Closed => 0,
        };
        // What of the batch is out by then, an adopter learns from the kernel.
        into.put_u64(sent_bytes - in_flight);
        match state {
            State::Idle
            | State::Dialing { .. }
            | State::Handshake { .. }
            | State::Backoff { .. } => into.put_u8(AWAY),
            State::Closing { .. } => into.put_u8(CLOSING),
            State::Closed => into.put_u8(CLOSED),
            State::Live(live) => {
                into.put_u8(LIVE);
                debug_assert_eq!(live.client.received(), *parsed);
                live.encode(into);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote of this push and goes on with its connection, if it has
    /// one that can be gone on with. What is to be said of it comes with the next tick.
    pub fn resume(
        &mut self,
        take: &mut Take<'_>,
        connection: Option<Connection>,
        logs: &Logs,
        now: Instant,
    ) -> Result<(), BadSection> {
        if take.u8()? != self.id.0 {
            return Err(take.bad("the pushes are not in the order of the plan"));
        }
        self.connection = take.u32()?;
        self.attempts = take.u32()?;
        self.messages = count(take)?;
        self.cursor = Cursor::decode(take)?;
        if failpoint::skips(Point::CommittedMessage) {
            self.cursor.lose_one();
        }
        self.sent_bytes = count(take)?;
        match (take.u8()?, connection) {
            (AWAY, connection) => self.begin_anew(connection),
            (LIVE, connection) => {
                let live = RecordedLive::decode(PushClient::decode(self.target(), take)?, take)?;
                match connection {
                    Some(connection) => self.go_on(live, connection, logs, now),
                    // Its loss was told of, but not committed any more.
                    None => self.begin_anew(None),
                }
            }
            (CLOSING, Some(Connection { socket, .. })) => {
                self.state = State::Closing { socket, deadline: now + PUSH_CLOSING_DEADLINE };
            }
            (CLOSING | CLOSED, connection) => {
                self.begin_anew(connection);
                self.state = State::Closed;
            }
            _ => return Err(take.bad("an unknown state of a push")),
        }
        Ok(())
    }

    /// A dial that was not finished is dialled again; what it had is of no use.
    pub fn begin_anew(&mut self, connection: Option<Connection>) {
        self.cursor.restart();
        self.state = State::Idle;
        if let Some(Connection { socket, .. }) = connection {
            super::shut_down(socket.as_fd(), nix::sys::socket::Shutdown::Both);
            self.closed.push(socket);
            self.unsaid = Some(PushNews::Closed(None));
        }
    }

    fn go_on(&mut self, live: RecordedLive, connection: Connection, logs: &Logs, now: Instant) {
        let Connection { socket, counts } = connection;
        let checked = counts
            .map_err(|error| format!("its connection's counters cannot be read: {error}"))
            .and_then(|counts| Ok((live.check(counts, logs)?, counts)));
        let outcome = match checked {
            Ok((RecordedLive { client, goodbye, commands, batch }, counts)) => {
                (self.parsed, self.received) = (client.received(), counts.received);
                self.parsed_committed = self.parsed;
                self.sent_bytes += batch.written();
                let (since, progress) = (now, now);
                let live = Live { socket, client, since, progress, batch, commands, goodbye };
                self.state = State::Live(Box::new(live));
                // What the last owner took out of the kernel is heard again.
                self.parse_all(now)
            }
            Err(reason) => {
                self.state = State::Closing { socket, deadline: now };
                Err(reason)
            }
        };
        self.unsaid = match outcome {
            Ok(_already_live) => None,
            Err(reason) => self.lose(&reason, now),
        };
    }
}

impl Live {
    fn encode(&self, into: &mut Vec<u8>) {
        let Self { socket: _, client, since: _, progress: _, batch, commands, goodbye } = self;
        client.encode(into);
        into.put_u8(match goodbye {
            Goodbye::NotYet => 0,
            Goodbye::Said => 1,
        });
        let Commands { begins, batched, head } = *commands;
        for position in [begins, batched, head] {
            into.put_u64(position);
        }
        batch.encode(into);
    }
}

/// A live connection as the record has it.
struct RecordedLive {
    client: PushClient,
    goodbye: Goodbye,
    commands: Commands,
    batch: Batch,
}

impl RecordedLive {
    fn decode(client: PushClient, take: &mut Take<'_>) -> Result<Self, BadSection> {
        let goodbye = match take.u8()? {
            0 => Goodbye::NotYet,
            1 => Goodbye::Said,
            _ => return Err(take.bad("an unknown goodbye of a push")),
        };
        let commands = Commands { begins: count(take)?, batched: count(take)?, head: count(take)? };
        if !commands.is_possible() {
            return Err(take.bad("impossible positions in a push's command ring"));
        }
        let begins = count(take)?;
        let batch = Batch::decode(client.stream_id().unwrap_or(0), begins, commands, take)?;
        Ok(Self { client, goodbye, commands, batch })
    }

    /// Whether the kernel agrees, and everything is still there that is to be written.
    fn check(mut self, counts: Counts, logs: &Logs) -> Result<Self, String> {
        let Counts { mut written, received, is_shut_down } = counts;
        if failpoint::skips(Point::OutboundCount) {
            written = self.batch.begins();
        }
        self.batch.go_on_at(written, logs)?;
        let heard = self.client.received();
        let unheard = received.checked_sub(heard);
        if unheard.is_none_or(|unheard| unheard > PUSH_INBOUND_RING_BYTES as u64) {
            return Err(format!(
                "the record is at byte {heard} of what the origin said, the kernel at {received}"
            ));
        }
        let is_done = self.goodbye == Goodbye::Said && self.batch.is_written();
        if is_shut_down && !is_done {
            return Err("the connection was given up already".into());
        }
        Ok(self)
    }
}

fn count(take: &mut Take<'_>) -> Result<u64, BadSection> {
    let count = take.u64()?;
    if count > COUNT_MAX { Err(take.bad("an impossible count of a push")) } else { Ok(count) }
}
