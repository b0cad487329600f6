//! From the publisher's socket to complete messages.
//!
//! Bytes land in the input ring at their stream offset and stay there until a commit covers their
//! parsing. Payloads are copied once, from the ring to their place. Positions are counted from the
//! first byte of the connection, as the kernel counts them.

use super::commit::Dirty;
use super::placement::{Open, Place, Placement};
use super::record::{BadSection, Put, Take};
use super::stream::{Due, Taken};
use super::{Farewell, Outbox, Phase, Session};
use crate::rtmp::aggregate::AggregateReader;
use crate::rtmp::chunk::{ChunkReader, ChunkState, MessageHeader, Piece, Slot, Step, kind};
use crate::rtmp::handshake::{self, C0_C1_BYTES, C2_BYTES};
use crate::rtmp::session::{SessionEvent, check_single_track};
use std::io;
use std::time::Instant;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::limits::INPUT_RING_BYTES;
use tasuki_shared::memory::log::{LogHeads, LogWriter, Reservation};
use tasuki_shared::message::{EndReason, FromWorker};

/// recv(2) calls of one session in one wake-up; then the others have their turn.
const RECEIVE_ROUNDS_MAX: usize = 4;
/// Parsed but uncommitted bytes after which a commit is made in the middle of a message: a
/// message larger than the ring would stand still otherwise.
const UNCOMMITTED_BYTES_MAX: u64 = (INPUT_RING_BYTES / 4) as u64;

/// How far the connection has come on the wire.
#[derive(Clone, Debug)]
enum Wire {
    Hello,
    /// Bytes of C2 still to be skipped.
    C2 {
        left: usize,
    },
    Chunks(Box<ChunkReader>),
}

/// The reading position.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// Everything before it is parsed; in the record.
    parsed: u64,
    /// `parsed` as of the last flip.
    committed: u64,
    /// The kernel's count of what was taken out of it; never stored.
    received: u64,
    wire: Wire,
    placement: Placement,
}

impl Ingest {
    /// A connection of which nothing was committed; `received` is the kernel's count, for the last
    /// owner may have died before its first commit.
    pub fn new(received: u64) -> Result<Self, BadSection> {
        if received > INPUT_RING_BYTES as u64 {
            let why = "more was received than fits the ring, and nothing was committed";
            return Err(BadSection { section: "ingest", why });
        }
        Ok(Self {
            parsed: 0,
            committed: 0,
            received,
            wire: Wire::Hello,
            placement: Placement::default(),
        })
    }

    /// Are all unfinished media messages where this log can have them?
    pub fn fits(&mut self, source: &LogWriter) -> bool {
        self.placement.reservations().iter().all(|open| source.owns(open))
    }

    /// Goes on as if the kernel had given no more than was parsed: what an adoption that does not
    /// reconcile does.
    pub fn forget_unparsed(&mut self) {
        self.received = self.parsed;
    }

    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Room for more input, not over bytes that no commit covers.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.room() > 0
    }

    pub fn committed(&mut self) {
        self.committed = self.parsed;
    }

    pub fn encode(&self, source: Option<LogHeads>, into: &mut Vec<u8>) {
        let Self { parsed, committed: _, received: _, wire, placement } = self;
        into.put_u64(*parsed);
        match wire {
            Wire::Hello => into.put_u8(0),
            Wire::C2 { left } => {
                into.put_u8(1);
                into.put_u32(u32::try_from(*left).expect("at most C2"));
            }
            Wire::Chunks(reader) => {
                into.put_u8(2);
                reader.export().encode(into);
                placement.encode(into);
            }
        }
        match source {
            None => into.put_u8(0),
            Some(heads) => {
                into.put_u8(1);
                heads.encode(into);
            }
        }
    }

    /// Reads the section; `received` is the kernel's count.
    pub fn decode(
        take: &mut Take<'_>,
        received: u64,
    ) -> Result<(Self, Option<LogHeads>), BadSection> {
        let parsed = take.u64()?;
        let (wire, placement) = match take.u8()? {
            0 => (Wire::Hello, Placement::default()),
            1 => {
                let left = take.u32()? as usize;
                if left > C2_BYTES {
                    return Err(take.bad("more of C2 is left than it has"));
                }
                (Wire::C2 { left }, Placement::default())
            }
            2 => {
                let length = ChunkState::encoded_bytes(take.u8()?)
                    .ok_or_else(|| take.bad("more chunk streams than there can be"))?;
                let state = ChunkState::decode(take.bytes(length)?);
                let reader = ChunkReader::import(&state)
                    .map_err(|_| take.bad("its chunk state is impossible"))?;
                let open: Vec<_> = reader.open_messages().collect();
                let placement = Placement::decode(take, &open)?;
                (Wire::Chunks(Box::new(reader)), placement)
            }
            _ => return Err(take.bad("an unknown stage of the wire")),
        };
        let source = match take.u8()? {
            0 => None,
            1 => Some(LogHeads::decode(&take.array()?)),
            _ => return Err(take.bad("an unknown source log")),
        };
        if received < parsed || received - parsed > INPUT_RING_BYTES as u64 {
            return Err(take.bad("its parse position does not fit the kernel's count"));
        }
        Ok((Self { parsed, committed: parsed, received, wire, placement }, source))
    }

    fn room(&self) -> usize {
        let used = usize::try_from(self.received - self.committed).expect("at most the ring");
        INPUT_RING_BYTES - used
    }

    fn waiting(&self) -> usize {
        usize::try_from(self.received - self.parsed).expect("at most the ring")
    }
}

/// What reading without looking came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    Open,
    Closed,
}

enum Closed {
    No,
    Fin,
    Broken(String),
}

impl Session {
    /// Takes what the kernel has, within this wake-up's bound, and parses it.
    pub(super) fn receive(&mut self, now: Instant, outbox: &mut Outbox) {
        if let Phase::Draining { farewell: Farewell::Awaited { .. }, .. } = &self.phase {
            self.await_farewell();
            return;
        }
        for _ in 0..RECEIVE_ROUNDS_MAX {
            // What is in the ring first: a session that was adopted, or waited for its verdict,
            // has bytes there.
            self.parse(now, outbox);
            let (more, closed) = self.take_from_kernel(now);
            match closed {
                Closed::No => {}
                Closed::Fin => {
                    self.parse(now, outbox);
                    self.leave(EndReason::PeerClosed, now);
                    return;
                }
                Closed::Broken(reason) => {
                    self.parse(now, outbox);
                    self.leave(EndReason::PeerReset(reason), now);
                    return;
                }
            }
            let mut out = Vec::new();
            self.publish.acknowledge(self.ingest.received, &mut out);
            if !out.is_empty() {
                self.changed.publish = Dirty::Yes;
                self.say(&out, now);
            }
            if !more {
                break;
            }
        }
        self.parse(now, outbox);
        if self.ingest.placement.is_inside_a_message() {
            failpoint::hit(Point::PartialMessage);
        }
    }

    /// Reads and drops what is there, so that the end is a FIN and no reset.
    pub(super) fn discard_input(&mut self) -> Drained {
        let mut sink = [0; 4096];
        for _ in 0..64 {
            let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&self.socket);
            match nix::sys::socket::recv(fd, &mut sink, flags) {
                Ok(got) if got > 0 => {}
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Drained::Open,
                Ok(_) | Err(_) => return Drained::Closed,
            }
        }
        Drained::Open
    }

    /// The publisher has said that it leaves.
    fn await_farewell(&mut self) {
        if self.discard_input() == Drained::Closed
            && let Phase::Draining { farewell, .. } = &mut self.phase
        {
            *farewell = Farewell::Over;
        }
    }

    fn take_from_kernel(&mut self, now: Instant) -> (bool, Closed) {
        if !matches!(self.phase, Phase::Lobby | Phase::Authorizing { .. } | Phase::Live(_)) {
            return (false, Closed::No);
        }
        let room = self.ingest.room();
        if room == 0 {
            return (false, Closed::No);
        }
        let at = self.ingest.received;
        match self.memory.input.recv(std::os::fd::AsFd::as_fd(&self.socket), at, room) {
            Ok(0) => (false, Closed::Fin),
            Ok(got) => {
                failpoint::hit(Point::Received);
                self.ingest.received += got as u64;
                self.arrived(got, now);
                (got == room || got >= 16 * 1024, Closed::No)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                (false, Closed::No)
            }
            Err(error) => (false, Closed::Broken(error.to_string())),
        }
    }

    fn parse(&mut self, now: Instant, outbox: &mut Outbox) {
        while matches!(self.phase, Phase::Lobby | Phase::Live(_)) {
            let stepped = match &self.ingest.wire {
                Wire::Hello | Wire::C2 { .. } if self.ingest.waiting() == 0 => break,
                Wire::Hello => self.shake_hands(now),
                Wire::C2 { left } => Ok(self.skip_c2(*left)),
                // Also with nothing waiting: the end of a message is a step that takes no bytes.
                Wire::Chunks(_) => self.parse_chunk(now, outbox),
            };
            match stepped {
                Ok(Stepped::On) => {}
                Ok(Stepped::NeedsMore) => break,
                Err(violation) => {
                    tracing::debug!(session = %self.id, peer = %self.peer, %violation, "refused");
                    self.leave(EndReason::Protocol(violation), now);
                    break;
                }
            }
            if self.ingest.parsed - self.ingest.committed >= UNCOMMITTED_BYTES_MAX {
                self.changed.ingest = Dirty::Yes;
                self.commit_changes();
            }
        }
    }

    fn shake_hands(&mut self, now: Instant) -> Result<Stepped, String> {
        let waiting = self.ingest.waiting();
        let input = self.memory.input.private_bytes(self.ingest.parsed, waiting);
        let Some(answer) = handshake::answer(input).map_err(|error| error.to_string())? else {
            return Ok(Stepped::NeedsMore);
        };
        self.say(&answer, now);
        failpoint::hit(Point::Handshake);
        self.ingest.wire = Wire::C2 { left: C2_BYTES };
        Ok(self.consumed(C0_C1_BYTES))
    }

    fn skip_c2(&mut self, left: usize) -> Stepped {
        let skip = left.min(self.ingest.waiting());
        self.ingest.wire = match left - skip {
            0 => Wire::Chunks(Box::default()),
            left => Wire::C2 { left },
        };
        self.consumed(skip)
    }

    fn consumed(&mut self, bytes: usize) -> Stepped {
        self.ingest.parsed += bytes as u64;
        self.changed.ingest.note();
        Stepped::On
    }

    fn parse_chunk(&mut self, now: Instant, outbox: &mut Outbox) -> Result<Stepped, String> {
        let waiting = self.ingest.waiting();
        let input = self.memory.input.private_bytes(self.ingest.parsed, waiting);
        let Wire::Chunks(reader) = &mut self.ingest.wire else { return Ok(Stepped::NeedsMore) };
        let step = reader.next(input).map_err(|error| error.to_string())?;
        let Step::Advance { consumed, piece } = step else { return Ok(Stepped::NeedsMore) };
        match piece {
            Piece::Nothing => {}
            Piece::Payload { slot, length } => {
                let place = self.ingest.placement.get_mut(slot).ok_or("no place for a payload")?;
                match (place, &mut self.phase) {
                    (Place::Log(reservation), Phase::Live(stream)) => {
                        stream.logs.source.fill(reservation, &input[..length]);
                    }
                    (Place::Scratch { offset, fill, .. }, _) => {
                        self.memory.scratch_write((*offset + *fill) as usize, &input[..length]);
                        *fill += u32::try_from(length).expect("a command is short");
                    }
                    (Place::Log(_) | Place::Nowhere, _) => {}
                }
                failpoint::hit(Point::MidChunk);
            }
            Piece::Begin { message, slot } => {
                let moved = self.begin_message(message, slot)?;
                let stepped = self.consumed(consumed);
                if moved == Moved::Yes {
                    // Only once that is committed may the old places be written over.
                    self.changed.ingest = Dirty::Yes;
                    self.commit_changes();
                }
                return Ok(stepped);
            }
            Piece::Abort { slot } => {
                self.ingest.placement.end(slot);
            }
            Piece::End { slot } => {
                // Consumed first: what follows may commit, and the message is then done with.
                let stepped = self.consumed(consumed);
                if let Some(open) = self.ingest.placement.end(slot) {
                    self.complete(open, now, outbox)?;
                    failpoint::hit(Point::BetweenMessages);
                }
                return Ok(stepped);
            }
        }
        Ok(self.consumed(consumed))
    }

    fn begin_message(&mut self, message: MessageHeader, slot: Slot) -> Result<Moved, String> {
        let media = matches!(message.kind, kind::AUDIO | kind::VIDEO | kind::AGGREGATE);
        let (place, moved) = if media {
            self.place_media(message)?
        } else {
            (self.place_command(message)?, Moved::No)
        };
        self.ingest.placement.begin(slot, message, place);
        Ok(moved)
    }

    fn place_command(&mut self, message: MessageHeader) -> Result<Place, String> {
        let offset = self
            .ingest
            .placement
            .scratch_room(message.length)
            .ok_or("too many unfinished command messages")?;
        Ok(Place::Scratch { offset, length: message.length, fill: 0 })
    }

    fn place_media(&mut self, message: MessageHeader) -> Result<(Place, Moved), String> {
        let Phase::Live(stream) = &mut self.phase else {
            self.count_fault("media_before_publish");
            return Ok((Place::Nowhere, Moved::No));
        };
        let moved = make_room(&mut stream.logs.source, &mut self.ingest.placement, message.length)?;
        Ok((Place::Log(stream.logs.source.reserve(message.length)), moved))
    }

    fn complete(&mut self, open: Open, now: Instant, outbox: &mut Outbox) -> Result<(), String> {
        let Open { header, place } = open;
        let done = match place {
            Place::Nowhere => Ok(()),
            Place::Log(reservation) => self.complete_media(header, reservation, now),
            Place::Scratch { offset, length, .. } => {
                let mut payload = vec![0; length as usize];
                self.memory.scratch_read(offset as usize, &mut payload);
                self.complete_command(header, &payload, now, outbox)
            }
        };
        self.adoption.message_handled();
        done
    }

    fn complete_command(
        &mut self,
        header: MessageHeader,
        payload: &[u8],
        now: Instant,
        outbox: &mut Outbox,
    ) -> Result<(), String> {
        let mut out = Vec::new();
        let event = self.publish.on_message(header, payload, &mut out);
        self.changed.publish = Dirty::Yes;
        self.say(&out, now);
        match event.map_err(|error| error.to_string())? {
            None => failpoint::hit(Point::Connect),
            Some(SessionEvent::Publish(request)) => {
                failpoint::hit(Point::PublishAsked);
                request.app.clone_into(&mut self.app);
                self.phase = Phase::Authorizing { since: now };
                let ask = FromWorker::Authorize { session: self.id, request };
                outbox.push((ask, Vec::new()));
            }
            Some(SessionEvent::Metadata(_)) => self.complete_metadata(payload)?,
            Some(SessionEvent::BadData(_)) => self.count_fault("unreadable_metadata"),
            Some(SessionEvent::Unpublish) => self.leave(EndReason::Unpublished, now),
            Some(SessionEvent::Refused(reason)) => self.leave(EndReason::Refused(reason), now),
        }
        Ok(())
    }

    fn complete_metadata(&mut self, payload: &[u8]) -> Result<(), String> {
        let Phase::Live(stream) = &mut self.phase else { return Ok(()) };
        let length = u32::try_from(payload.len()).expect("a command is short");
        if make_room(&mut stream.logs.source, &mut self.ingest.placement, length)? == Moved::Yes {
            self.changed.ingest = Dirty::Yes;
            self.commit_changes();
        }
        let Phase::Live(stream) = &mut self.phase else { return Ok(()) };
        self.changed.ingest = Dirty::Yes;
        if let Some(fault) = stream.take_metadata(payload, &self.timeline) {
            self.count_fault(fault);
        }
        Ok(())
    }

    fn complete_media(
        &mut self,
        header: MessageHeader,
        reservation: Reservation,
        now: Instant,
    ) -> Result<(), String> {
        let Phase::Live(stream) = &mut self.phase else { return Ok(()) };
        if header.kind == kind::AGGREGATE {
            let whole = stream.logs.source.bytes(reservation.position, reservation.length).to_vec();
            for part in AggregateReader::new(header, &whole) {
                let part = part.map_err(|error| error.to_string())?;
                if matches!(part.header.kind, kind::AUDIO | kind::VIDEO) {
                    self.take_part(part.header, part.payload, now)?;
                }
            }
            return Ok(());
        }
        let first = stream.logs.source.bytes(reservation.position, reservation.length.min(1));
        check_single_track(header.kind, first).map_err(|error| error.to_string())?;
        let taken = stream.take_media(header, reservation, &mut self.timeline, now);
        self.note_taken(taken);
        Ok(())
    }

    fn take_part(
        &mut self,
        header: MessageHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), String> {
        let Phase::Live(stream) = &mut self.phase else { return Ok(()) };
        let mut reservation = stream.logs.source.reserve(header.length);
        stream.logs.source.fill(&mut reservation, payload);
        let taken = stream.take_media(header, reservation, &mut self.timeline, now);
        self.note_taken(taken);
        Ok(())
    }

    fn note_taken(&mut self, taken: Taken) {
        match taken.due {
            Due::Now => self.changed.timeline = Dirty::Yes,
            Due::WithThePicture => self.changed.timeline.note(),
        }
        if let Some(fault) = taken.fault {
            self.count_fault(&fault);
        }
    }
}

/// Makes sure that `length` more bytes overwrite no unfinished message; those that would be are
/// copied ahead, and that must be committed before anything is written.
fn make_room(
    source: &mut LogWriter,
    placement: &mut Placement,
    length: u32,
) -> Result<Moved, String> {
    let open_bytes = placement.reserved_bytes();
    source.check(length, open_bytes).map_err(|error| error.to_string())?;
    let mut moved = Moved::No;
    for open in placement.reservations() {
        if source.would_overtake(open, length, open_bytes) {
            source.relocate(open).map_err(|error| error.to_string())?;
            moved = Moved::Yes;
        }
    }
    Ok(moved)
}

/// Was an unfinished message copied to another place?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moved {
    Yes,
    No,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stepped {
    On,
    NeedsMore,
}
