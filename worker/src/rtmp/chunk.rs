//! The chunk reader: bytes of an RTMP chunk stream in, pieces of messages out.
//!
//! The caller owns the bytes. [`ChunkReader::next`] looks at the unconsumed input, which must be
//! contiguous, and names the next piece and how many bytes it took. An incomplete chunk header
//! takes nothing: the caller keeps it and comes back with more. Payload is never copied here, the
//! caller places `input[..length]` where it wants it.
//!
//! ```text
//!            header of a new message            payload left in the chunk
//!   Between ───────── Begin ─────────▶ Inside ──── Payload ────▶ Inside
//!     ▲ ▲                                │ │
//!     │ └──── End (message complete) ────┘ │ chunk over, message is not
//!     └────────────────────────────────────┘ (other chunk streams may come in between)
//! ```
//!
//! Set Chunk Size and Abort concern this layer alone: they are taken in here, their four bytes are
//! kept in the reader's state, and the caller sees only `Nothing` or the `Abort` of a message it
//! knows. All other messages, acknowledgements and pings included, are the caller's.
//!
//! Invariants:
//! - The state is a function of the bytes consumed, so it can be exported between any two calls.
//! - At most `CHUNK_STREAMS_MAX` chunk streams and `OPEN_MESSAGES_MAX` open messages.
//! - A chunk stream that was forgotten to make room is never misread: a header that leans on a
//!   forgotten one is refused by name.
//! - No allocation.
//!
//! Source: "rtmp_specification_1.0", section 5.3.

mod header;
mod state;
#[cfg(test)]
mod tests;

pub use state::{ChunkState, StreamState};

use header::{Format, basic_header, message_header, timestamp};
use tasuki_shared::limits::{
    CHUNK_STREAMS_MAX, COMMAND_MESSAGE_BYTES_MAX, MEDIA_MESSAGE_BYTES_MAX, OPEN_MESSAGES_MAX,
};

/// Message types, as far as RTMP's layers treat them differently.
pub mod kind {
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const ABORT: u8 = 2;
    pub const ACKNOWLEDGEMENT: u8 = 3;
    pub const USER_CONTROL: u8 = 4;
    pub const WINDOW_ACKNOWLEDGEMENT_SIZE: u8 = 5;
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const DATA_AMF3: u8 = 15;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA_AMF0: u8 = 18;
    pub const COMMAND_AMF0: u8 = 20;
    pub const AGGREGATE: u8 = 22;
}

/// A chunk header is at most 3 + 11 + 4 bytes.
pub const CHUNK_HEADER_BYTES_MAX: usize = 18;

const CHUNK_SIZE_INITIAL: u32 = 128;
const CHUNK_SIZE_LIMIT: u32 = 0x7FFF_FFFF;
const CHUNK_STREAM_FIRST: u32 = 2;
const CHUNK_STREAM_LAST: u32 = 65_599;
const EXTENDED: u32 = 0xFF_FFFF;
const CONTROL_BYTES: u32 = 4;

/// What the header of a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHeader {
    pub chunk_stream: u32,
    pub kind: u8,
    pub length: u32,
    /// Absolute, modulo 2³².
    pub timestamp_ms: u32,
    pub stream_id: u32,
}

/// A chunk stream's place in the reader's table: below `CHUNK_STREAMS_MAX`, stable while its
/// message is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u8);

impl Slot {
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What one call found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing was taken; come back with more bytes behind the same ones.
    NeedMore,
    /// `consumed` bytes are done with. May be zero, for `End`.
    Advance { consumed: usize, piece: Piece },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A message begins; its payload follows in `Payload` pieces.
    Begin { message: MessageHeader, slot: Slot },
    /// `input[..length]`, all that this step consumed, is the next payload of the slot's message.
    Payload { slot: Slot, length: usize },
    /// The slot's message is complete.
    End { slot: Slot },
    /// The peer gave the slot's message up; forget what came of it.
    Abort { slot: Slot },
    /// Bytes that concern the chunk layer alone.
    Nothing,
}

/// Why the chunk stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("chunk size {0} is not within 1 to 2147483647")]
    ChunkSize(u32),
    #[error("a message of type {kind} announces {length} bytes, {max} are allowed")]
    MessageTooLong { kind: u8, length: u32, max: u32 },
    #[error("a control message of type {kind} announces {length} bytes instead of 4")]
    ControlLength { kind: u8, length: u32 },
    #[error("more than {OPEN_MESSAGES_MAX} messages are open at once")]
    TooManyOpenMessages,
    #[error("chunk stream {0} refers to a header that was never sent or is forgotten")]
    NoHeaderToReferTo(u32),
    #[error("chunk stream {0} begins another message before the last one is complete")]
    MessageInsideMessage(u32),
    #[error("exported chunk state is damaged: {0}")]
    DamagedState(&'static str),
}

/// What is known of one chunk stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stream {
    message: MessageHeader,
    /// The timestamp field of its last full header: what a type-3 header repeats.
    delta_ms: u32,
    field: TimestampField,
    progress: Progress,
    /// Age for eviction: the reader's count of messages at its last use.
    used: u32,
}

/// Where the timestamp field stood in the last header that had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimestampField {
    Short,
    Extended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Idle,
    /// `control` collects the payload of a message that the reader itself obeys.
    Open {
        filled: u32,
        control: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// The next byte is a chunk header's first.
    Between,
    /// `left` bytes of a chunk of this slot's message are still to come. Zero only when the
    /// message is complete and its `End` is due.
    Inside { slot: Slot, left: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgotten {
    None,
    Some,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkReader {
    chunk_size: u32,
    position: Position,
    /// Whether a chunk stream was ever evicted: an unknown one may then be a forgotten one.
    forgotten: Forgotten,
    /// Messages begun, modulo 2³².
    begun: u32,
    streams: [Option<Stream>; CHUNK_STREAMS_MAX],
}

impl Default for ChunkReader {
    fn default() -> Self {
        Self::new()
    }
}

/// A chunk header as read, before it has any effect.
struct Header {
    bytes: usize,
    slot: Slot,
    stream: Stream,
    opens: Opens,
}

enum Opens {
    Message,
    Continuation { filled: u32 },
}

impl ChunkReader {
    #[must_use]
    pub const fn new() -> Self {
        Self {
            chunk_size: CHUNK_SIZE_INITIAL,
            position: Position::Between,
            forgotten: Forgotten::None,
            begun: 0,
            streams: [None; CHUNK_STREAMS_MAX],
        }
    }

    /// Reads one step of `input`, the bytes not yet consumed. After an error the reader is as it
    /// was before the call, and its peer is to be ended.
    pub fn next(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        match self.position {
            Position::Between => self.begin_chunk(input),
            Position::Inside { slot, left: 0 } => {
                self.close(slot);
                self.position = Position::Between;
                Ok(Step::Advance { consumed: 0, piece: Piece::End { slot } })
            }
            Position::Inside { slot, left } => self.take_payload(input, slot, left),
        }
    }

    /// Messages begun and not complete, with the bytes of each that were passed on.
    pub fn open_messages(&self) -> impl Iterator<Item = (Slot, MessageHeader, u32)> + '_ {
        (0_u8..).zip(&self.streams).filter_map(|(index, stream)| match stream {
            Some(Stream { message, progress: Progress::Open { filled, .. }, .. })
                if !is_own_control(message.kind) =>
            {
                Some((Slot(index), *message, *filled))
            }
            Some(_) | None => None,
        })
    }

    fn begin_chunk(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let Some(header) = self.read_header(input)? else { return Ok(Step::NeedMore) };
        let Header { bytes, slot, stream, opens } = header;
        let message = stream.message;
        let (filled, piece) = match opens {
            Opens::Continuation { filled } => (filled, Piece::Nothing),
            Opens::Message => {
                self.begun = self.begun.wrapping_add(1);
                let evicts = self.streams[slot.index()]
                    .is_some_and(|old| old.message.chunk_stream != message.chunk_stream);
                if evicts {
                    self.forgotten = Forgotten::Some;
                }
                let own = is_own_control(message.kind);
                (0, if own { Piece::Nothing } else { Piece::Begin { message, slot } })
            }
        };
        self.streams[slot.index()] = Some(stream);
        let left = (message.length - filled).min(self.chunk_size);
        self.position = Position::Inside { slot, left };
        Ok(Step::Advance { consumed: bytes, piece })
    }

    fn take_payload(&mut self, input: &[u8], slot: Slot, left: u32) -> Result<Step, ChunkError> {
        if input.is_empty() {
            return Ok(Step::NeedMore);
        }
        let length = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let taken = u32::try_from(length).expect("at most `left`, which is a u32");
        let stream =
            self.streams[slot.index()].as_mut().expect("a chunk is inside a known stream's");
        let Progress::Open { filled, control } = &mut stream.progress else {
            unreachable!("a chunk is inside an open message")
        };
        let message = stream.message;
        let complete = *filled + taken == message.length;
        let mut piece = Piece::Payload { slot, length };
        if is_own_control(message.kind) {
            let value = input[..length].iter().fold(*control, |v, b| (v << 8) | u32::from(*b));
            if complete {
                return self.obey(slot, message, value, length);
            }
            *control = value;
            piece = Piece::Nothing;
        }
        *filled += taken;
        let left = left - taken;
        self.position = if left == 0 && !complete {
            Position::Between
        } else {
            Position::Inside { slot, left }
        };
        Ok(Step::Advance { consumed: length, piece })
    }

    /// Carries out a complete Set Chunk Size or Abort.
    fn obey(
        &mut self,
        slot: Slot,
        message: MessageHeader,
        value: u32,
        consumed: usize,
    ) -> Result<Step, ChunkError> {
        let mut piece = Piece::Nothing;
        if message.kind == kind::SET_CHUNK_SIZE {
            if !(1..=CHUNK_SIZE_LIMIT).contains(&value) {
                return Err(ChunkError::ChunkSize(value));
            }
            self.chunk_size = value;
        }
        self.close(slot);
        self.position = Position::Between;
        if message.kind == kind::ABORT
            && let Some(aborted) = self.find(value)
            && let Some(Stream { message, progress: Progress::Open { .. }, .. }) =
                self.streams[aborted.index()]
        {
            self.close(aborted);
            if !is_own_control(message.kind) {
                piece = Piece::Abort { slot: aborted };
            }
        }
        Ok(Step::Advance { consumed, piece })
    }

    fn close(&mut self, slot: Slot) {
        if let Some(stream) = &mut self.streams[slot.index()] {
            stream.progress = Progress::Idle;
        }
    }

    fn find(&self, chunk_stream: u32) -> Option<Slot> {
        (0_u8..).zip(&self.streams).find_map(|(index, stream)| match stream {
            Some(stream) if stream.message.chunk_stream == chunk_stream => Some(Slot(index)),
            Some(_) | None => None,
        })
    }

    /// A free place, or that of the stream unused for longest that has no open message.
    fn place(&self) -> Option<Slot> {
        let age = |stream: &Option<Stream>| match stream {
            None => Some(u32::MAX),
            Some(Stream { progress: Progress::Idle, used, .. }) => {
                Some(self.begun.wrapping_sub(*used).min(u32::MAX - 1))
            }
            Some(Stream { progress: Progress::Open { .. }, .. }) => None,
        };
        (0_u8..)
            .zip(&self.streams)
            .filter_map(|(index, stream)| age(stream).map(|age| (age, Slot(index))))
            .max_by_key(|(age, slot)| (*age, std::cmp::Reverse(*slot)))
            .map(|(_, slot)| slot)
    }

    /// Reads one chunk header without effect. `None`: it is incomplete.
    fn read_header(&self, input: &[u8]) -> Result<Option<Header>, ChunkError> {
        let Some((format, chunk_stream, mut bytes)) = basic_header(input) else { return Ok(None) };
        let known = self.find(chunk_stream);
        let before = known.and_then(|slot| self.streams[slot.index()]);
        let Some((fields, size)) = message_header(&input[bytes..], format) else {
            return Ok(None);
        };
        bytes += size;
        let last = match (format, before) {
            (_, Some(stream)) => stream,
            // A type-1 header on a fresh stream is what librtmp begins its pings with: it counts
            // from zero. On a stream that may be a forgotten one this would be a guess.
            (Format::Full, None) => Stream::fresh(chunk_stream),
            (Format::SameStream, None) if self.forgotten == Forgotten::None => {
                Stream::fresh(chunk_stream)
            }
            (Format::SameStream | Format::SameLength | Format::Same, None) => {
                return Err(ChunkError::NoHeaderToReferTo(chunk_stream));
            }
        };
        let Some((field, delta_ms, size)) = timestamp(&input[bytes..], fields.timestamp, &last)
        else {
            return Ok(None);
        };
        bytes += size;
        let mut message = last.message;
        message.kind = fields.kind.unwrap_or(message.kind);
        message.length = fields.length.unwrap_or(message.length);
        message.stream_id = fields.stream_id.unwrap_or(message.stream_id);
        message.timestamp_ms = match format {
            Format::Full => delta_ms,
            Format::SameStream | Format::SameLength | Format::Same => {
                message.timestamp_ms.wrapping_add(delta_ms)
            }
        };
        let slot = known.or_else(|| self.place()).ok_or(ChunkError::TooManyOpenMessages)?;
        if let Progress::Open { filled, .. } = last.progress {
            // Only type 3 continues a message by the letter. Some senders repeat the whole
            // header instead; anything that says something new cannot be told from a lost end.
            let restated = match format {
                Format::Same => true,
                Format::Full => message == last.message,
                Format::SameStream | Format::SameLength => {
                    let continued =
                        MessageHeader { timestamp_ms: last.message.timestamp_ms, ..message };
                    continued == last.message && delta_ms == last.delta_ms
                }
            };
            if !restated {
                return Err(ChunkError::MessageInsideMessage(chunk_stream));
            }
            let opens = Opens::Continuation { filled };
            return Ok(Some(Header { bytes, slot, stream: last, opens }));
        }
        self.admit(message)?;
        let progress = Progress::Open { filled: 0, control: 0 };
        let used = self.begun;
        let stream = Stream { message, delta_ms, field, progress, used };
        Ok(Some(Header { bytes, slot, stream, opens: Opens::Message }))
    }

    /// Whether a new message keeps the bounds.
    fn admit(&self, message: MessageHeader) -> Result<(), ChunkError> {
        let MessageHeader { kind, length, .. } = message;
        let max = message_bytes_max(kind);
        if is_own_control(kind) && length != CONTROL_BYTES {
            return Err(ChunkError::ControlLength { kind, length });
        }
        if length > max {
            return Err(ChunkError::MessageTooLong { kind, length, max });
        }
        if self.open_count() >= OPEN_MESSAGES_MAX {
            return Err(ChunkError::TooManyOpenMessages);
        }
        Ok(())
    }

    fn open_count(&self) -> usize {
        let open = |stream: &Stream| matches!(stream.progress, Progress::Open { .. });
        self.streams.iter().flatten().filter(|stream| open(stream)).count()
    }
}

impl Stream {
    fn fresh(chunk_stream: u32) -> Self {
        let message =
            MessageHeader { chunk_stream, kind: 0, length: 0, timestamp_ms: 0, stream_id: 0 };
        let (field, progress) = (TimestampField::Short, Progress::Idle);
        Self { message, delta_ms: 0, field, progress, used: 0 }
    }
}

/// Messages that only the chunk layer is concerned with.
fn is_own_control(kind: u8) -> bool {
    matches!(kind, kind::SET_CHUNK_SIZE | kind::ABORT)
}

/// The longest message of a type.
fn message_bytes_max(kind: u8) -> u32 {
    const MEDIA: u32 = bound(MEDIA_MESSAGE_BYTES_MAX);
    const COMMAND: u32 = bound(COMMAND_MESSAGE_BYTES_MAX);
    match kind {
        kind::AUDIO | kind::VIDEO | kind::AGGREGATE => MEDIA,
        _ => COMMAND,
    }
}

/// A bound of `limits` as the wire counts: message lengths have 24 bits.
#[expect(clippy::cast_possible_truncation, reason = "checked on the line above")]
const fn bound(bytes: usize) -> u32 {
    assert!(bytes <= 0xFF_FFFF);
    bytes as u32
}
