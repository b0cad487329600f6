//! What the origin says: from the socket through the inbound ring to the client.
//!
//! A byte stays in the ring until a commit covers what came of it, so that whoever comes after us
//! can hear it again.

use super::batch::Batch;
use super::commands::Commands;
use super::{Goodbye, Live, Push, PushNews, State};
use crate::rtmp::push_client::{PushError, PushEvent};
use std::io;
use std::time::Instant;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::limits::PUSH_INBOUND_RING_BYTES;

/// recv(2) calls of one push in one wake-up; then the others have their turn.
const RECEIVE_ROUNDS_MAX: usize = 4;

impl Push {
    pub(super) fn receive(&mut self, now: Instant) -> Result<Option<PushNews>, String> {
        let mut news = None;
        for _ in 0..RECEIVE_ROUNDS_MAX {
            let kept = self.received - self.needed_from();
            let room = PUSH_INBOUND_RING_BYTES as u64 - kept;
            let room = usize::try_from(room).expect("at most the ring");
            if room == 0 {
                if self.parsed > self.needed_from() {
                    // The commit comes first, and makes room.
                    return Ok(news);
                }
                return Err("the origin sent a message that is too long".into());
            }
            let Some((socket, _)) = self.socket() else { return Ok(news) };
            match self.memory.inbound.recv(socket, self.received, room) {
                Ok(0) => return self.peer_closed(),
                Ok(got) => {
                    failpoint::hit(Point::PushHeard);
                    self.received += got as u64;
                    news = self.parse_all(now)?.or(news);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(news),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
        Ok(news)
    }

    /// The oldest inbound byte that must stay in the ring.
    fn needed_from(&self) -> u64 {
        match self.state {
            State::Live(_) => self.parsed_committed,
            State::Idle
            | State::Dialing { .. }
            | State::Handshake { .. }
            | State::Backoff { .. }
            | State::Closing { .. }
            | State::Closed => self.parsed,
        }
    }

    /// Parses all that is there. What follows the event that makes it live is for the live
    /// connection.
    pub(super) fn parse_all(&mut self, now: Instant) -> Result<Option<PushNews>, String> {
        let mut news = None;
        while let Some(event) = self.parse().map_err(|error| error.to_string())? {
            news = Some(self.go_live(event, now).map_err(|error| error.to_string())?);
        }
        Ok(news)
    }

    fn peer_closed(&mut self) -> Result<Option<PushNews>, String> {
        if matches!(self.state, State::Closing { .. }) {
            self.close_to(State::Closed);
            return Ok(Some(PushNews::Closed(None)));
        }
        Err("the origin closed the connection".into())
    }

    fn parse(&mut self) -> Result<Option<PushEvent>, PushError> {
        let length = usize::try_from(self.received - self.parsed).expect("at most the ring");
        let input = self.memory.inbound.private_bytes(self.parsed, length);
        let (taken, event) = match &mut self.state {
            State::Handshake { client, out, .. } => client.receive(input, out)?,
            State::Live(live) => {
                let mut answers = Vec::new();
                let heard = live.client.receive(input, &mut answers)?;
                live.commands.put(&answers, &self.memory)?;
                heard
            }
            State::Idle
            | State::Dialing { .. }
            | State::Backoff { .. }
            | State::Closing { .. }
            | State::Closed => (length, None),
        };
        self.parsed += taken as u64;
        Ok(event)
    }

    fn go_live(&mut self, event: PushEvent, now: Instant) -> Result<PushNews, PushError> {
        let PushEvent::Live { stream_id } = event;
        let before = std::mem::replace(&mut self.state, State::Idle);
        if let State::Handshake { socket, client, out, written, .. } = before {
            self.connection = self.connection.saturating_add(1);
            self.cursor.restart();
            self.parsed_committed = self.parsed;
            let mut commands = Commands::default();
            let said = commands.put(&out, &self.memory);
            self.state = State::Live(Box::new(Live {
                socket,
                client: *client,
                since: now,
                progress: now,
                batch: Batch::new(stream_id, written),
                commands,
                goodbye: Goodbye::NotYet,
            }));
            said?;
        } else {
            self.state = before;
        }
        Ok(PushNews::Live)
    }
}
