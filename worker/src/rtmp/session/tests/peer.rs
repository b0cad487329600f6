//! A publisher for tests, and the commands it says.

use super::super::super::amf::{self, Value, Writer};
use super::super::super::chunk::{ChunkReader, MessageHeader, Piece, Step, kind};
use super::super::{PublishSession, RefuseReason, SessionError, SessionEvent, SessionState};

/// A publisher at the other end: whatever it says, the session is exported and imported first.
pub struct Peer {
    pub session: PublishSession,
    reader: ChunkReader,
    /// Replies since the last look, as (type, stream, payload).
    pub replies: Vec<(u8, u32, Vec<u8>)>,
}

impl Peer {
    pub fn new() -> Self {
        let (session, reader) = (PublishSession::new(), ChunkReader::new());
        Self { session, reader, replies: Vec::new() }
    }

    pub fn connected() -> Self {
        let mut peer = Self::new();
        assert_eq!(peer.say(0, connect("live")), Ok(None));
        peer.replies.clear();
        peer
    }

    pub fn publishing() -> Self {
        let mut peer = Self::connected();
        assert!(matches!(peer.say(1, publish("key")), Ok(Some(SessionEvent::Publish(_)))));
        peer.allow();
        peer.replies.clear();
        peer
    }

    pub fn say(
        &mut self,
        stream_id: u32,
        command: Writer,
    ) -> Result<Option<SessionEvent>, SessionError> {
        self.send(kind::COMMAND_AMF0, stream_id, &command.finish())
    }

    pub fn send(
        &mut self,
        kind: u8,
        stream_id: u32,
        payload: &[u8],
    ) -> Result<Option<SessionEvent>, SessionError> {
        let length = u32::try_from(payload.len()).unwrap();
        let header = MessageHeader { chunk_stream: 3, kind, length, timestamp_ms: 0, stream_id };
        self.hand_over();
        let mut out = Vec::new();
        let event = self.session.on_message(header, payload, &mut out);
        self.hear(&out);
        self.hand_over();
        event
    }

    pub fn hand_over(&mut self) {
        let mut bytes = [0; SessionState::SIZE];
        self.session.export().to_bytes(&mut bytes);
        let imported = PublishSession::import(&SessionState::from_bytes(&bytes).unwrap());
        assert_eq!(imported.as_ref(), Ok(&self.session));
        self.session = imported.unwrap();
    }

    pub fn allow(&mut self) {
        let mut out = Vec::new();
        self.session.allow(&mut out);
        self.hear(&out);
    }

    pub fn refuse(&mut self, reason: RefuseReason) {
        let mut out = Vec::new();
        self.session.refuse(reason, &mut out);
        self.hear(&out);
    }

    pub fn hear(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Step::Advance { consumed, piece } = self.reader.next(&bytes[at..]).unwrap() {
            match piece {
                Piece::Begin { message, .. } => {
                    self.replies.push((message.kind, message.stream_id, Vec::new()));
                }
                Piece::Payload { .. } => {
                    let payload = &mut self.replies.last_mut().unwrap().2;
                    payload.extend(&bytes[at..at + consumed]);
                }
                Piece::End { .. } | Piece::Nothing => {}
                Piece::Abort { slot } => panic!("we abort nothing: {slot:?}"),
            }
            at += consumed;
        }
        assert_eq!(at, bytes.len());
    }

    /// The commands among the replies: (name, stream, code or first value, description).
    pub fn commands(&mut self) -> Vec<(String, u32, String, String)> {
        let replies = std::mem::take(&mut self.replies);
        let commands = replies.iter().filter(|reply| reply.0 == kind::COMMAND_AMF0);
        commands.map(|(_, stream, payload)| summary(*stream, payload)).collect()
    }
}

fn summary(stream: u32, payload: &[u8]) -> (String, u32, String, String) {
    let values = amf::decode(payload).unwrap();
    let of = |name: &str| match values.get(3) {
        Some(Value::Object(object)) => object.get(name).map(show).unwrap_or_default(),
        Some(other) => show(other),
        None => String::new(),
    };
    (show(&values[0]), stream, of("code"), of("description"))
}

fn show(value: &Value) -> String {
    if let Value::Utf8String(text) = value { text.clone() } else { format!("{value:?}") }
}

pub fn connect(app: &str) -> Writer {
    Writer::new().string("connect").number(1.0).object(|object| {
        let object = object.name("app").string(app).name("type").string("nonprivate");
        let object = object.name("flashVer").string("FMLE/3.0 (compatible; Lavf61.7.100)");
        object.name("tcUrl").string("rtmp://localhost:1935/live")
    })
}

pub fn call(name: &str, transaction: f64) -> Writer {
    Writer::new().string(name).number(transaction).null()
}

pub fn publish(name: &str) -> Writer {
    call("publish", 5.0).string(name).string("live")
}
