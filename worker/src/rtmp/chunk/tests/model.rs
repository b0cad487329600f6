//! A reference writer of legal chunk streams, and a collector that plays the caller's part.

use super::super::{ChunkError, ChunkReader, EXTENDED, MessageHeader, Piece, Slot, Step, kind};
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Message { header: MessageHeader, payload: Vec<u8> },
    Aborted { chunk_stream: u32 },
}

/// What the reader's caller keeps.
pub struct Collector {
    open: HashMap<Slot, (MessageHeader, Vec<u8>)>,
    pub events: Vec<Event>,
    checks: Checks,
}

#[derive(PartialEq)]
enum Checks {
    All,
    /// The reader was not watched from its start: unknown slots are no fault.
    None,
}

impl Default for Collector {
    fn default() -> Self {
        Self { open: HashMap::new(), events: Vec::new(), checks: Checks::All }
    }
}

impl Collector {
    pub fn unchecked() -> Self {
        Self { checks: Checks::None, ..Self::default() }
    }

    fn take(&mut self, piece: Piece, bytes: &[u8]) {
        match piece {
            Piece::Begin { message, slot } => {
                let before = self.open.insert(slot, (message, Vec::new()));
                assert!(before.is_none() || self.checks == Checks::None, "{slot:?} taken twice");
            }
            Piece::Payload { slot, length } => {
                assert_eq!(length, bytes.len());
                if let Some((_, payload)) = self.open.get_mut(&slot) {
                    payload.extend(bytes);
                } else {
                    assert!(self.checks == Checks::None, "payload of nothing");
                }
            }
            Piece::End { slot } => {
                if let Some((header, payload)) = self.open.remove(&slot) {
                    if self.checks == Checks::All {
                        assert_eq!(header.length as usize, payload.len());
                    }
                    self.events.push(Event::Message { header, payload });
                }
            }
            Piece::Abort { slot } => {
                if let Some((header, _)) = self.open.remove(&slot) {
                    self.events.push(Event::Aborted { chunk_stream: header.chunk_stream });
                }
            }
            Piece::Nothing => {}
        }
    }
}

/// Steps through `bytes`; returns how many were consumed.
pub fn run(
    reader: &mut ChunkReader,
    bytes: &[u8],
    collector: &mut Collector,
) -> Result<usize, ChunkError> {
    let mut at = 0;
    loop {
        match reader.next(&bytes[at..])? {
            Step::NeedMore => return Ok(at),
            Step::Advance { consumed, piece } => {
                collector.take(piece, &bytes[at..at + consumed]);
                at += consumed;
            }
        }
    }
}

/// Whether a sender repeats the extended timestamp in type-3 chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extended {
    Repeated,
    LeftOut,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub bytes: Vec<u8>,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug)]
struct Planned {
    stream: usize,
    kind: u8,
    length: u32,
    delta: u32,
    form: u8,
    stream_id: u32,
}

#[derive(Clone, Debug)]
enum Action {
    /// Write the next chunk of this chunk stream, beginning its next message if need be.
    Chunk(usize),
    SetChunkSize(u32),
    Abort(usize),
}

const STREAMS: [u32; 6] = [3, 4, 63, 64, 319, 65_599];

struct Last {
    header: MessageHeader,
    field: u32,
}

struct Writer {
    bytes: Vec<u8>,
    events: Vec<Event>,
    chunk_size: u32,
    extended: Extended,
    last: HashMap<u32, Last>,
    open: HashMap<u32, (MessageHeader, Vec<u8>, usize)>,
}

pub fn script() -> impl Strategy<Value = Script> {
    let delta = prop_oneof![
        4 => 0_u32..50,
        1 => Just(0xFF_FFFE_u32),
        1 => Just(0xFF_FFFF_u32),
        1 => Just(0x0100_0000_u32),
        1 => Just(0x4000_0000_u32),
        1 => Just(0xFFFF_FFF0_u32),
    ];
    let kind = prop_oneof![Just(8_u8), Just(9), Just(18), Just(20), Just(4), Just(22)];
    let length = prop_oneof![Just(0_u32), Just(1), 1_u32..20, 100_u32..700];
    let planned = (0..STREAMS.len(), kind, length, delta, 0_u8..4, 0_u32..2).prop_map(
        |(stream, kind, length, delta, form, stream_id)| Planned {
            stream,
            kind,
            length,
            delta,
            form,
            stream_id,
        },
    );
    let size = prop_oneof![Just(1_u32), Just(3), 1_u32..300, Just(65_536), Just(0x7FFF_FFFF)];
    let action = prop_oneof![
        12 => (0..STREAMS.len()).prop_map(Action::Chunk),
        1 => size.prop_map(Action::SetChunkSize),
        1 => (0..STREAMS.len()).prop_map(Action::Abort),
    ];
    let extended = prop_oneof![Just(Extended::Repeated), Just(Extended::LeftOut)];
    (prop::collection::vec(planned, 1..14), prop::collection::vec(action, 1..80), extended)
        .prop_map(|(messages, actions, extended)| write(messages, &actions, extended))
}

fn write(messages: Vec<Planned>, actions: &[Action], extended: Extended) -> Script {
    let mut queues: Vec<VecDeque<Planned>> = vec![VecDeque::new(); STREAMS.len()];
    for message in messages {
        queues[message.stream].push_back(message);
    }
    let mut writer = Writer {
        bytes: Vec::new(),
        events: Vec::new(),
        chunk_size: 128,
        extended,
        last: HashMap::new(),
        open: HashMap::new(),
    };
    for action in actions {
        match action {
            Action::Chunk(stream) => writer.chunk(STREAMS[*stream], &mut queues[*stream]),
            Action::SetChunkSize(size) => {
                writer.control(kind::SET_CHUNK_SIZE, *size);
                writer.chunk_size = *size;
            }
            Action::Abort(stream) => {
                let chunk_stream = STREAMS[*stream];
                writer.control(kind::ABORT, chunk_stream);
                if writer.open.remove(&chunk_stream).is_some() {
                    writer.events.push(Event::Aborted { chunk_stream });
                }
            }
        }
    }
    Script { bytes: writer.bytes, events: writer.events }
}

impl Writer {
    fn control(&mut self, kind: u8, value: u32) {
        let mut payload = value.to_be_bytes().to_vec();
        let mut header = vec![2, 0, 0, 0, 0, 0, 4, kind, 0, 0, 0, 0];
        while !payload.is_empty() {
            let rest = payload.split_off(payload.len().min(self.chunk_size as usize));
            self.bytes.append(&mut header);
            self.bytes.append(&mut payload);
            payload = rest;
            header = vec![0xC2];
        }
    }

    fn chunk(&mut self, chunk_stream: u32, queue: &mut VecDeque<Planned>) {
        if self.open.contains_key(&chunk_stream) {
            self.basic(3, chunk_stream);
            self.extended_again(chunk_stream);
        } else if let Some(planned) = queue.pop_front() {
            self.begin(chunk_stream, &planned);
        } else {
            return;
        }
        let size = self.chunk_size as usize;
        let (header, payload, at) = self.open.get_mut(&chunk_stream).unwrap();
        let part = &payload[*at..payload.len().min(*at + size)];
        self.bytes.extend(part);
        *at += part.len();
        if *at == payload.len() {
            let event = Event::Message { header: *header, payload: payload.clone() };
            self.events.push(event);
            self.open.remove(&chunk_stream);
        }
    }

    /// Writes the header of a message in the wanted form, or in the next fuller one that is legal.
    fn begin(&mut self, chunk_stream: u32, planned: &Planned) {
        let Planned { kind, length, delta, stream_id, .. } = *planned;
        let last = self.last.get(&chunk_stream);
        let base = last.map_or(0, |last| last.header.timestamp_ms);
        let timestamp_ms = base.wrapping_add(delta);
        let header = MessageHeader { chunk_stream, kind, length, timestamp_ms, stream_id };
        let form = match last {
            None => 0,
            Some(last) => {
                let same_stream = last.header.stream_id == stream_id;
                let same_length = last.header.length == length && last.header.kind == kind;
                [
                    (3, same_stream && same_length && last.field == delta),
                    (2, same_stream && same_length),
                    (1, same_stream),
                ]
                .into_iter()
                .find_map(|(form, legal)| (legal && form <= planned.form).then_some(form))
                .unwrap_or(0)
            }
        };
        let field = if form == 0 { timestamp_ms } else { delta };
        self.basic(form, chunk_stream);
        if form == 3 {
            self.extended_again(chunk_stream);
        } else {
            self.bytes.extend(&field.min(EXTENDED).to_be_bytes()[1..]);
            if form < 2 {
                self.bytes.extend(&length.to_be_bytes()[1..]);
                self.bytes.push(kind);
            }
            if form == 0 {
                self.bytes.extend(stream_id.to_le_bytes());
            }
            if field >= EXTENDED {
                self.bytes.extend(field.to_be_bytes());
            }
            self.last.insert(chunk_stream, Last { header, field });
        }
        self.last.get_mut(&chunk_stream).unwrap().header = header;
        // Bytes from 0xA5 to 0xBB: no timestamp that the strategy yields begins with one of them, so a
        // left-out extended timestamp is never found in the payload by chance.
        let payload = (0..length).map(|at| 0xA5 + (at % 23) as u8).collect();
        self.open.insert(chunk_stream, (header, payload, 0));
    }

    fn extended_again(&mut self, chunk_stream: u32) {
        let field = self.last[&chunk_stream].field;
        if field >= EXTENDED && self.extended == Extended::Repeated {
            self.bytes.extend(field.to_be_bytes());
        }
    }

    fn basic(&mut self, form: u8, chunk_stream: u32) {
        let form = form << 6;
        match chunk_stream {
            2..64 => self.bytes.push(form | chunk_stream.to_le_bytes()[0]),
            64..320 => self.bytes.extend([form, (chunk_stream - 64).to_le_bytes()[0]]),
            _ => {
                let [low, high, ..] = (chunk_stream - 64).to_le_bytes();
                self.bytes.extend([form | 1, low, high]);
            }
        }
    }
}
