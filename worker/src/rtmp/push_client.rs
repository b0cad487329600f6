//! The publishing side of RTMP towards an origin, sans-IO.
//!
//! ```text
//!  start ─▶ Handshake ─S0 S1 S2─▶ Connecting ─_result─▶ Creating ─_result─▶ Publishing
//!                                                                 onStatus Publish.Start │
//!                                        Live ◀──────────────────────────────────────────┘
//! ```
//! Everything before `Live` is one unfinished dial: it is not moved between workers but dialled
//! again. In `Live` the media is written by `output::push`; what arrives here are
//! acknowledgements, pings and the origin's complaints, and all state is part of the commit record
//! (`state`): of messages that are not complete only short ones are kept.
//!
//! Source: "rtmp_specification_1.0" sections 5.2, 7.2.

mod state;

use super::amf;
use super::chunk::{ChunkError, ChunkReader, MessageHeader, Piece, Step, kind};
use super::write::MessageStart;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use std::collections::BTreeMap;
use tasuki_shared::limits::{
    CHUNK_SIZE_OUT, COMMAND_MESSAGE_BYTES_MAX, OPEN_MESSAGES_MAX, PUSH_OPEN_BYTES_MAX,
};

/// Chunk stream of our commands and of `onMetaData`.
const COMMAND_CHUNK_STREAM: u8 = 3;
const CONTROL_CHUNK_STREAM: u8 = 2;
const CONNECT: f64 = 1.0;
const CREATE_STREAM: f64 = 4.0;
const PUBLISH: f64 = 5.0;
/// Bytes an origin may send before it lets us publish.
const PREAMBLE_BYTES_MAX: u64 = 256 * 1024;

/// Where to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushTarget {
    pub app: String,
    /// `rtmp://host[:port]/app`
    pub tc_url: String,
    pub stream: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushEvent {
    /// Media may be written on this message stream.
    Live { stream_id: u32 },
}

/// Why the origin cannot be published to.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PushError {
    #[error("the origin's handshake is not RTMP: {0}")]
    Handshake(String),
    #[error("the origin's chunk stream cannot be read: {0}")]
    Chunk(#[from] ChunkError),
    #[error("the origin sent a command that cannot be read: {0}")]
    Amf(#[from] amf::AmfError),
    #[error("the origin refused: {0}")]
    Refused(String),
    #[error("the origin sent {PREAMBLE_BYTES_MAX} bytes and still does not let us publish")]
    Talkative,
    #[error("the origin asks for more answers than it reads")]
    Unread,
}

enum Stage {
    Handshake(Box<Handshake>),
    Connecting,
    Creating,
    Publishing { stream_id: u32 },
    Live { stream_id: u32 },
}

/// See the module.
pub struct PushClient {
    stage: Stage,
    target: PushTarget,
    reader: ChunkReader,
    /// Unfinished messages of the origin that will be looked at, by slot.
    open: BTreeMap<usize, (MessageHeader, Vec<u8>)>,
    received: u64,
    acknowledged: u64,
    /// What the origin wants acknowledged, 0 for nothing.
    window: u64,
}

impl PushClient {
    /// Begins; `out` gets C0 and C1.
    pub fn start(target: PushTarget, out: &mut Vec<u8>) -> Result<Self, PushError> {
        let mut handshake = Handshake::new(PeerType::Client);
        let hello = handshake
            .generate_outbound_p0_and_p1()
            .map_err(|error| PushError::Handshake(error.to_string()))?;
        out.extend(hello);
        Ok(Self {
            stage: Stage::Handshake(Box::new(handshake)),
            target,
            reader: ChunkReader::new(),
            open: BTreeMap::new(),
            received: 0,
            acknowledged: 0,
            window: 0,
        })
    }

    /// Takes all of `input` that can be taken and returns how much; answers go to `out`.
    pub fn receive(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, Option<PushEvent>), PushError> {
        let mut at = 0;
        if matches!(self.stage, Stage::Handshake(_)) {
            at = self.shake_hands(input, out)?;
        }
        let mut event = None;
        while event.is_none() && !matches!(self.stage, Stage::Handshake(_)) {
            match self.reader.next(&input[at..])? {
                Step::NeedMore => break,
                Step::Advance { consumed, piece } => {
                    event = self.take_piece(piece, &input[at..at + consumed], out)?;
                    at += consumed;
                }
            }
        }
        self.received += at as u64;
        if self.window > 0 && self.received - self.acknowledged >= self.window {
            self.acknowledged = self.received;
            let total = u32::try_from(self.received & 0xFFFF_FFFF).expect("masked");
            control(kind::ACKNOWLEDGEMENT, &total.to_be_bytes(), out);
        }
        if !matches!(self.stage, Stage::Live { .. }) && self.received > PREAMBLE_BYTES_MAX {
            return Err(PushError::Talkative);
        }
        Ok((at, event))
    }

    /// Appends the commands that end a publish.
    pub fn put_goodbye(&self, out: &mut Vec<u8>) {
        if let Stage::Live { stream_id } = self.stage {
            let stream = &self.target.stream;
            command(0, |w| w.string("FCUnpublish").number(6.0).null().string(stream), out);
            let id = f64::from(stream_id);
            command(0, |w| w.string("deleteStream").number(7.0).null().number(id), out);
        }
    }

    fn shake_hands(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, PushError> {
        let Stage::Handshake(handshake) = &mut self.stage else { return Ok(0) };
        let result = handshake
            .process_bytes(input)
            .map_err(|error| PushError::Handshake(error.to_string()))?;
        match result {
            HandshakeProcessResult::InProgress { response_bytes } => {
                out.extend(response_bytes);
                Ok(input.len())
            }
            HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                out.extend(response_bytes);
                self.stage = Stage::Connecting;
                self.connect(out);
                Ok(input.len() - remaining_bytes.len())
            }
        }
    }

    fn connect(&self, out: &mut Vec<u8>) {
        control(kind::SET_CHUNK_SIZE, &CHUNK_SIZE_OUT.to_be_bytes(), out);
        let PushTarget { app, tc_url, .. } = &self.target;
        let object = |w: amf::Writer| {
            w.name("app")
                .string(app)
                .name("type")
                .string("nonprivate")
                .name("flashVer")
                .string("FMLE/3.0 (compatible; Tasuki)")
                .name("tcUrl")
                .string(tc_url)
                .name("fourCcList")
                .strings(&["avc1", "hvc1", "mp4a"])
        };
        command(0, |w| w.string("connect").number(CONNECT).object(object), out);
    }

    fn take_piece(
        &mut self,
        piece: Piece,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<PushEvent>, PushError> {
        match piece {
            Piece::Nothing => {}
            Piece::Begin { message, slot } => {
                if is_heard(message.kind) && message.length as usize <= self.open_room() {
                    self.open.insert(slot.index(), (message, Vec::new()));
                }
            }
            Piece::Payload { slot, .. } => {
                if let Some((_, payload)) = self.open.get_mut(&slot.index()) {
                    payload.extend(bytes);
                }
            }
            Piece::Abort { slot } => {
                self.open.remove(&slot.index());
            }
            Piece::End { slot } => {
                if let Some((message, payload)) = self.open.remove(&slot.index()) {
                    return self.take_message(message, &payload, out);
                }
            }
        }
        Ok(None)
    }

    /// Bytes that a further message may announce and still be kept.
    fn open_room(&self) -> usize {
        let kept: usize = self.open.values().map(|(message, _)| message.length as usize).sum();
        let most = match self.stage {
            Stage::Handshake(_)
            | Stage::Connecting
            | Stage::Creating
            | Stage::Publishing { .. } => COMMAND_MESSAGE_BYTES_MAX * OPEN_MESSAGES_MAX,
            Stage::Live { .. } => PUSH_OPEN_BYTES_MAX,
        };
        most.saturating_sub(kept)
    }

    /// From now on the commit record must hold what is kept.
    fn go_live(&mut self, stream_id: u32) {
        self.stage = Stage::Live { stream_id };
        let mut room = PUSH_OPEN_BYTES_MAX;
        self.open.retain(|_, (message, _)| {
            let left = room.checked_sub(message.length as usize);
            room = left.unwrap_or(room);
            left.is_some()
        });
    }

    fn take_message(
        &mut self,
        message: MessageHeader,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<PushEvent>, PushError> {
        match message.kind {
            kind::WINDOW_ACKNOWLEDGEMENT_SIZE => {
                if let Ok(bytes) = <[u8; 4]>::try_from(payload) {
                    self.window = u64::from(u32::from_be_bytes(bytes));
                }
                Ok(None)
            }
            kind::USER_CONTROL => {
                // Ping request (6) is answered with a ping response (7).
                if let [0, 6, timestamp @ ..] = payload {
                    let mut pong = vec![0, 7];
                    pong.extend(timestamp);
                    control(kind::USER_CONTROL, &pong, out);
                }
                Ok(None)
            }
            kind::COMMAND_AMF0 => self.take_command(&amf::decode(payload)?, out),
            kind::COMMAND_AMF3 => {
                self.take_command(&amf::decode(amf::without_amf3_prefix(payload))?, out)
            }
            _ => Ok(None),
        }
    }

    fn take_command(
        &mut self,
        values: &[amf::Value],
        out: &mut Vec<u8>,
    ) -> Result<Option<PushEvent>, PushError> {
        let Some(amf::Value::Utf8String(name)) = values.first() else { return Ok(None) };
        let transaction = match values.get(1) {
            Some(amf::Value::Number(number)) => *number,
            _ => 0.0,
        };
        match name.as_str() {
            "_error" if transaction == CONNECT || transaction == CREATE_STREAM => {
                Err(PushError::Refused(describe(values)))
            }
            "_result" if transaction == CONNECT => {
                let stream = &self.target.stream;
                command(0, |w| w.string("releaseStream").number(2.0).null().string(stream), out);
                command(0, |w| w.string("FCPublish").number(3.0).null().string(stream), out);
                command(0, |w| w.string("createStream").number(CREATE_STREAM).null(), out);
                self.stage = Stage::Creating;
                Ok(None)
            }
            "_result" if transaction == CREATE_STREAM => {
                let stream_id = match values.get(3) {
                    Some(amf::Value::Number(number)) if (1.0..65_536.0).contains(number) => {
                        format!("{number:.0}").parse().unwrap_or(1)
                    }
                    _ => 1,
                };
                let stream = &self.target.stream;
                let publish = |w: amf::Writer| {
                    w.string("publish").number(PUBLISH).null().string(stream).string("live")
                };
                command(stream_id, publish, out);
                self.stage = Stage::Publishing { stream_id };
                Ok(None)
            }
            "onStatus" => self.take_status(values),
            _ => Ok(None),
        }
    }

    fn take_status(&mut self, values: &[amf::Value]) -> Result<Option<PushEvent>, PushError> {
        let Some(amf::Value::Object(properties)) = values.get(3) else { return Ok(None) };
        let text = |key: &str| match properties.get(key) {
            Some(amf::Value::Utf8String(text)) => text.as_str(),
            _ => "",
        };
        if text("level") == "error" {
            return Err(PushError::Refused(describe(values)));
        }
        match self.stage {
            Stage::Publishing { stream_id } if text("code") == "NetStream.Publish.Start" => {
                self.go_live(stream_id);
                Ok(Some(PushEvent::Live { stream_id }))
            }
            Stage::Handshake(_)
            | Stage::Connecting
            | Stage::Creating
            | Stage::Publishing { .. }
            | Stage::Live { .. } => Ok(None),
        }
    }
}

/// Messages of an origin that mean something to us.
fn is_heard(kind: u8) -> bool {
    matches!(
        kind,
        kind::WINDOW_ACKNOWLEDGEMENT_SIZE
            | kind::USER_CONTROL
            | kind::COMMAND_AMF0
            | kind::COMMAND_AMF3
    )
}

fn control(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    message(CONTROL_CHUNK_STREAM, kind, 0, payload, out);
}

fn command(stream_id: u32, fill: impl FnOnce(amf::Writer) -> amf::Writer, out: &mut Vec<u8>) {
    let payload = fill(amf::Writer::new()).finish();
    message(COMMAND_CHUNK_STREAM, kind::COMMAND_AMF0, stream_id, &payload, out);
}

fn message(chunk_stream: u8, kind: u8, stream_id: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("our commands are short");
    let start = MessageStart { chunk_stream, timestamp_ms: 0, length, kind, stream_id };
    // Set Chunk Size is the first message of all, so every later one may use the large size; and
    // none of ours is longer than the initial 128 bytes before it.
    start.put_message(payload, CHUNK_SIZE_OUT, out);
}

/// Code and description out of an `_error` or `onStatus`.
fn describe(values: &[amf::Value]) -> String {
    let mut found = Vec::new();
    for value in values {
        if let amf::Value::Object(properties) = value {
            for key in ["code", "description"] {
                if let Some(amf::Value::Utf8String(text)) = properties.get(key) {
                    found.push(text.chars().take(200).collect::<String>());
                }
            }
        }
    }
    if found.is_empty() { "without a reason".to_owned() } else { found.join(": ") }
}
