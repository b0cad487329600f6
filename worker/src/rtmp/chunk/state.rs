//! The chunk reader's state as plain integers of fixed size, for the commit record.
//!
//! A commit record may have been written by a hostile worker: `import` accepts only what a reader
//! can be in, and refuses everything else by name.

use super::{
    CHUNK_SIZE_LIMIT, CHUNK_STREAM_FIRST, CHUNK_STREAM_LAST, CONTROL_BYTES, ChunkError,
    ChunkReader, Forgotten, MessageHeader, Position, Progress, Slot, Stream, TimestampField,
    is_own_control, message_bytes_max,
};
use tasuki_shared::limits::{CHUNK_STREAMS_MAX, OPEN_MESSAGES_MAX};

/// `ChunkState::slot` when no chunk is being read.
const NO_SLOT: u32 = u32::MAX;
const HEAD_WORDS: usize = 5;
const STREAM_WORDS: usize = 11;
const IDLE: u32 = 0;
const OPEN: u32 = 1;

/// A [`ChunkReader`] between two steps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkState {
    pub chunk_size: u32,
    pub slot: u32,
    pub left: u32,
    pub forgotten: u32,
    pub begun: u32,
    pub streams: [StreamState; CHUNK_STREAMS_MAX],
}

/// One chunk stream. All zero where the place is free: no chunk stream has the id 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    pub chunk_stream: u32,
    pub kind: u32,
    pub length: u32,
    pub timestamp_ms: u32,
    pub stream_id: u32,
    pub delta_ms: u32,
    /// 1 when the timestamp field is an extended one.
    pub extended: u32,
    /// 1 when a message is open.
    pub open: u32,
    pub filled: u32,
    pub control: u32,
    pub used: u32,
}

const _: () = assert!(size_of::<ChunkState>() == ChunkState::SIZE && ChunkState::SIZE <= 1024);

impl ChunkState {
    /// Bytes of the little-endian form.
    pub const SIZE: usize = 4 * (HEAD_WORDS + CHUNK_STREAMS_MAX * STREAM_WORDS);

    /// Writes the little-endian form to the first `SIZE` bytes of `out`.
    ///
    /// # Panics
    /// When `out` is shorter: its size is the caller's layout, not input.
    pub fn to_bytes(&self, out: &mut [u8]) {
        let Self { chunk_size, slot, left, forgotten, begun, streams } = *self;
        let head = [chunk_size, slot, left, forgotten, begun];
        let words = head.into_iter().chain(streams.into_iter().flat_map(StreamState::to_words));
        for (place, word) in out[..Self::SIZE].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Appends how many chunk streams there are, and the little-endian form up to the last of
    /// them: most of it is empty, and this is written with every commit.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let used = self.streams.iter().rposition(|stream| stream.chunk_stream != 0);
        let used = used.map_or(0, |last| last + 1);
        into.push(u8::try_from(used).expect("at most CHUNK_STREAMS_MAX"));
        let start = into.len();
        let Self { chunk_size, slot, left, forgotten, begun, streams } = self;
        into.reserve(Self::SIZE);
        for word in [chunk_size, slot, left, forgotten, begun] {
            into.extend(word.to_le_bytes());
        }
        for stream in &streams[..used] {
            into.extend(stream.to_words().into_iter().flat_map(u32::to_le_bytes));
        }
        debug_assert_eq!(Self::encoded_bytes(into[start - 1]), Some(into.len() - start));
    }

    /// Bytes that follow a number of chunk streams; `None` if there cannot be so many.
    #[must_use]
    pub fn encoded_bytes(used: u8) -> Option<usize> {
        let used = usize::from(used);
        (used <= CHUNK_STREAMS_MAX).then_some(4 * (HEAD_WORDS + used * STREAM_WORDS))
    }

    /// Reads what [`Self::encode`] wrote after the number; what is not there is zero.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        let mut whole = [0; Self::SIZE];
        let there = bytes.len().min(Self::SIZE);
        whole[..there].copy_from_slice(&bytes[..there]);
        Self::from_bytes(&whole).expect("of the whole size")
    }

    /// Reads the little-endian form; `None` when there are fewer than `SIZE` bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes
            .get(..Self::SIZE)?
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word));
        let mut next = || words.next().unwrap_or_default();
        Some(Self {
            chunk_size: next(),
            slot: next(),
            left: next(),
            forgotten: next(),
            begun: next(),
            streams: std::array::from_fn(|_| StreamState {
                chunk_stream: next(),
                kind: next(),
                length: next(),
                timestamp_ms: next(),
                stream_id: next(),
                delta_ms: next(),
                extended: next(),
                open: next(),
                filled: next(),
                control: next(),
                used: next(),
            }),
        })
    }
}

impl ChunkReader {
    /// The whole state. Destructured without `..`, so that a new field cannot be forgotten here.
    #[must_use]
    pub fn export(&self) -> ChunkState {
        let Self { chunk_size, position, forgotten, begun, streams } = self;
        let (slot, left) = match *position {
            Position::Between => (NO_SLOT, 0),
            Position::Inside { slot, left } => (u32::from(slot.0), left),
        };
        ChunkState {
            chunk_size: *chunk_size,
            slot,
            left,
            forgotten: match forgotten {
                Forgotten::None => 0,
                Forgotten::Some => 1,
            },
            begun: *begun,
            streams: streams.map(|stream| stream.map_or_else(StreamState::default, Stream::export)),
        }
    }

    /// A reader that goes on where the exported one was.
    pub fn import(state: &ChunkState) -> Result<Self, ChunkError> {
        let damaged = |what| Err(ChunkError::DamagedState(what));
        let ChunkState { chunk_size, slot, left, forgotten, begun, streams: exported } = *state;
        if !(1..=CHUNK_SIZE_LIMIT).contains(&chunk_size) {
            return damaged("chunk size");
        }
        let mut streams = [None; CHUNK_STREAMS_MAX];
        for (place, stream) in streams.iter_mut().zip(exported) {
            *place = stream.import()?;
        }
        let forgotten = match forgotten {
            0 => Forgotten::None,
            1 => Forgotten::Some,
            _ => return damaged("forgotten"),
        };
        let position = if slot == NO_SLOT && left == 0 {
            Position::Between
        } else {
            match u8::try_from(slot) {
                Ok(index) if usize::from(index) < CHUNK_STREAMS_MAX => {
                    Position::Inside { slot: Slot(index), left }
                }
                Ok(_) | Err(_) => return damaged("slot"),
            }
        };
        let reader = Self { chunk_size, position, forgotten, begun, streams };
        reader.check()?;
        Ok(reader)
    }

    /// What holds between the parts of any state a reader can be in.
    fn check(&self) -> Result<(), ChunkError> {
        let damaged = |what| Err(ChunkError::DamagedState(what));
        for (index, stream) in self.streams.iter().enumerate() {
            let Some(stream) = stream else { continue };
            let id = stream.message.chunk_stream;
            if self.find(id).is_none_or(|first| first.index() != index) {
                return damaged("a chunk stream appears twice");
            }
            let Progress::Open { filled, .. } = stream.progress else { continue };
            let current = match self.position {
                Position::Inside { slot, left } if slot.index() == index => Some(left),
                Position::Inside { .. } | Position::Between => None,
            };
            let rest = stream.message.length - filled;
            let sound = match current {
                None => filled > 0 && rest > 0,
                Some(0) => rest == 0 && !is_own_control(stream.message.kind),
                Some(left) => left <= rest && left <= self.chunk_size,
            };
            if !sound {
                return damaged("an open message's fill");
            }
        }
        if let Position::Inside { slot, .. } = self.position {
            match self.streams[slot.index()] {
                Some(Stream { progress: Progress::Open { .. }, .. }) => {}
                Some(_) | None => return damaged("the current chunk's message is not open"),
            }
        }
        if self.open_count() > OPEN_MESSAGES_MAX {
            return damaged("too many open messages");
        }
        Ok(())
    }
}

impl Stream {
    fn export(self) -> StreamState {
        let Self { message, delta_ms, field, progress, used } = self;
        let MessageHeader { chunk_stream, kind, length, timestamp_ms, stream_id } = message;
        let (open, filled, control) = match progress {
            Progress::Idle => (IDLE, 0, 0),
            Progress::Open { filled, control } => (OPEN, filled, control),
        };
        let extended = match field {
            TimestampField::Short => 0,
            TimestampField::Extended => 1,
        };
        let kind = u32::from(kind);
        StreamState {
            chunk_stream,
            kind,
            length,
            timestamp_ms,
            stream_id,
            delta_ms,
            extended,
            open,
            filled,
            control,
            used,
        }
    }
}

impl StreamState {
    fn to_words(self) -> [u32; STREAM_WORDS] {
        let Self {
            chunk_stream,
            kind,
            length,
            timestamp_ms,
            stream_id,
            delta_ms,
            extended,
            open,
            filled,
            control,
            used,
        } = self;
        [
            chunk_stream,
            kind,
            length,
            timestamp_ms,
            stream_id,
            delta_ms,
            extended,
            open,
            filled,
            control,
            used,
        ]
    }

    fn import(self) -> Result<Option<Stream>, ChunkError> {
        let damaged = |what| Err(ChunkError::DamagedState(what));
        if self == Self::default() {
            return Ok(None);
        }
        let Self {
            chunk_stream,
            kind,
            length,
            timestamp_ms,
            stream_id,
            delta_ms,
            extended,
            open,
            filled,
            control,
            used,
        } = self;
        if !(CHUNK_STREAM_FIRST..=CHUNK_STREAM_LAST).contains(&chunk_stream) {
            return damaged("chunk stream id");
        }
        let Ok(kind) = u8::try_from(kind) else { return damaged("message type") };
        let control_length = is_own_control(kind) && length != CONTROL_BYTES;
        if length > message_bytes_max(kind) || control_length {
            return damaged("message length");
        }
        let field = match extended {
            0 if delta_ms < super::EXTENDED => TimestampField::Short,
            1 => TimestampField::Extended,
            _ => return damaged("timestamp field"),
        };
        let progress = match open {
            IDLE if filled == 0 && control == 0 => Progress::Idle,
            OPEN if filled <= length => Progress::Open { filled, control },
            _ => return damaged("message progress"),
        };
        // Only the bytes received so far can be set, and only of what the reader itself obeys.
        let control_bits = if is_own_control(kind) { 8 * filled } else { 0 };
        if control_bits < 32 && control >> control_bits != 0 {
            return damaged("control payload");
        }
        let message = MessageHeader { chunk_stream, kind, length, timestamp_ms, stream_id };
        Ok(Some(Stream { message, delta_ms, field, progress, used }))
    }
}
