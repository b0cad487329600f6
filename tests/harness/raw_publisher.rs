//! A publisher written by hand over a TcpStream: it does whatever the specification allows, and
//! what it forbids, to the byte.
//!
//! The pieces can be used one by one: [`Message::chunks`] gives a message's chunks for a test to
//! interleave, repeat or cut; [`RawPublisher::publish`] does everything up to the server's consent.
//!
//! Source: "rtmp_specification_1.0".

use crate::flv::{Kind, Tag};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_worker::rtmp::amf::{self, Value, Writer};
use tasuki_worker::rtmp::chunk::{ChunkReader, MessageHeader, Piece, Step, kind};

/// How long one write may block before the publisher gives up.
const WRITE_BOUND: Duration = Duration::from_secs(20);
/// How long the server may take for one reply.
pub const REPLY_BOUND: Duration = Duration::from_secs(10);
const CHUNK_SIZE_INITIAL: usize = 128;
const EXTENDED: u32 = 0xFF_FFFF;
const STREAM_ID: u32 = 1;

/// What continues a message whose timestamp travels in the extended field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// Each type-3 header repeats the field, as the specification says.
    Repeats,
    /// It stands alone, as many senders do it.
    Omits,
}

/// Which header begins a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Type 0, with an absolute time.
    Full,
    /// Type 1: without the message stream.
    SameStream { delta_ms: u32 },
    /// Type 2: only the distance in time.
    SameLength { delta_ms: u32 },
    /// Type 3: all as before.
    Same,
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub chunk_stream: u32,
    pub kind: u8,
    pub timestamp_ms: u32,
    pub stream_id: u32,
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// A media or data tag as publishers send it.
    #[must_use]
    pub fn of_tag(tag: &'a Tag, timestamp_ms: u32) -> Self {
        let (chunk_stream, kind) = match tag.kind {
            Kind::Audio => (4, kind::AUDIO),
            Kind::Video => (6, kind::VIDEO),
            Kind::Script => (5, kind::DATA_AMF0),
        };
        Self { chunk_stream, kind, timestamp_ms, stream_id: STREAM_ID, payload: &tag.body }
    }

    /// Its chunks, each with its header.
    #[must_use]
    pub fn chunks(&self, size: usize, format: Format, then: Continuation) -> Vec<Vec<u8>> {
        let (field, header) = self.first_header(format);
        let mut pieces = self.payload.chunks(size);
        let mut chunks = vec![[&header, pieces.next().unwrap_or_default()].concat()];
        for piece in pieces {
            let mut chunk = basic_header(3, self.chunk_stream);
            if field >= EXTENDED && then == Continuation::Repeats {
                chunk.extend(field.to_be_bytes());
            }
            chunk.extend(piece);
            chunks.push(chunk);
        }
        chunks
    }

    /// The value of its timestamp field, and the whole header.
    fn first_header(&self, format: Format) -> (u32, Vec<u8>) {
        let (number, field) = match format {
            Format::Full => (0, self.timestamp_ms),
            Format::SameStream { delta_ms } => (1, delta_ms),
            Format::SameLength { delta_ms } => (2, delta_ms),
            Format::Same => (3, 0),
        };
        let mut header = basic_header(number, self.chunk_stream);
        if number < 3 {
            header.extend(&field.min(EXTENDED).to_be_bytes()[1..]);
        }
        if number < 2 {
            let length = u32::try_from(self.payload.len()).expect("a message is short");
            header.extend(&length.to_be_bytes()[1..]);
            header.push(self.kind);
        }
        if number == 0 {
            header.extend(self.stream_id.to_le_bytes());
        }
        if field >= EXTENDED {
            header.extend(field.to_be_bytes());
        }
        (field, header)
    }
}

/// One to three bytes that name the chunk stream.
#[must_use]
pub fn basic_header(format: u8, chunk_stream: u32) -> Vec<u8> {
    let format = format << 6;
    match chunk_stream {
        0..=1 => panic!("chunk streams begin at 2"),
        2..=63 => vec![format | chunk_stream.to_le_bytes()[0]],
        64..=319 => vec![format, (chunk_stream - 64).to_le_bytes()[0]],
        _ => {
            let [low, high, ..] = (chunk_stream - 64).to_le_bytes();
            vec![format | 1, low, high]
        }
    }
}

/// An aggregate message (type 22) of tags, each with its time.
#[must_use]
pub fn aggregate(parts: &[(&Tag, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (tag, timestamp_ms) in parts {
        let length = u32::try_from(tag.body.len()).expect("a tag is short");
        let [extended, time @ ..] = timestamp_ms.to_be_bytes();
        payload.push(Message::of_tag(tag, 0).kind);
        payload.extend(&length.to_be_bytes()[1..]);
        payload.extend(time);
        payload.extend([extended, 0, 0, 0]);
        payload.extend(&tag.body);
        payload.extend((length + 11).to_be_bytes());
    }
    payload
}

/// What the server said.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Acknowledgement(u32),
    /// The answer to a ping, with the ping's timestamp.
    Pong(u32),
    Command {
        name: String,
        values: Vec<Value>,
    },
    Other {
        kind: u8,
    },
}

impl Reply {
    /// Code and description of an `onStatus` or `_error`.
    #[must_use]
    pub fn status(&self) -> Option<(String, String)> {
        let Self::Command { values, .. } = self else { return None };
        values.iter().find_map(|value| match value {
            Value::Object(properties) => {
                let text = |key: &str| match properties.get(key) {
                    Some(Value::Utf8String(text)) => Some(text.clone()),
                    Some(_) | None => None,
                };
                Some((text("code")?, text("description").unwrap_or_default()))
            }
            Value::Number(_)
            | Value::Boolean(_)
            | Value::Utf8String(_)
            | Value::StrictArray(_)
            | Value::Null
            | Value::Undefined => None,
        })
    }
}

/// How the connection ended, and what was said before.
#[derive(Clone, Debug, PartialEq)]
pub struct Goodbye {
    pub replies: Vec<Reply>,
    /// An orderly FIN, or a reset.
    pub reset: Option<ErrorKind>,
}

/// See the module.
#[derive(Debug)]
pub struct RawPublisher {
    stream: TcpStream,
    chunk_size: usize,
    pub continuation: Continuation,
    reader: ChunkReader,
    unread: Vec<u8>,
    open: BTreeMap<usize, (MessageHeader, Vec<u8>)>,
    sent_bytes: u64,
    longest_write: Duration,
}

impl RawPublisher {
    /// A TCP connection on which nothing was said.
    pub fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_BOUND))?;
        Ok(Self {
            stream,
            chunk_size: CHUNK_SIZE_INITIAL,
            continuation: Continuation::Repeats,
            reader: ChunkReader::new(),
            unread: Vec::new(),
            open: BTreeMap::new(),
            sent_bytes: 0,
            longest_write: Duration::ZERO,
        })
    }

    /// Everything up to `NetStream.Publish.Start`, with the chunk size that is then in force.
    pub fn publish(address: &str, key: &str, chunk_size: u32) -> Result<Self> {
        let mut publisher = Self::ask_to_publish(address, key)?;
        publisher.wait_started()?;
        publisher.set_chunk_size(chunk_size)?;
        Ok(publisher)
    }

    /// Asks, and leaves the answer unread.
    pub fn ask_to_publish(address: &str, key: &str) -> Result<Self> {
        let mut publisher = Self::open(address)?;
        publisher.shake_hands()?;
        publisher.connect("live")?;
        publisher.send_publish(key)?;
        Ok(publisher)
    }

    /// C0, C1, then S0 to S2, then C2.
    pub fn shake_hands(&mut self) -> Result<()> {
        let mut hello = vec![3];
        hello.extend((0..1536_u32).map(|at| at.to_le_bytes()[0]));
        hello[5..9].fill(0);
        self.send_bytes(&hello)?;
        let mut answer = vec![0; 1 + 2 * 1536];
        self.stream.set_read_timeout(Some(REPLY_BOUND))?;
        self.stream.read_exact(&mut answer).context("S0, S1 and S2")?;
        ensure!(answer[0] == 3 && answer[1537..] == hello[1..], "S2 is no echo of C1");
        self.send_bytes(&answer[1..1537])
    }

    /// `connect`, and waits for its result.
    pub fn connect(&mut self, app: &str) -> Result<()> {
        let url = format!("rtmp://127.0.0.1/{app}");
        self.command(0, |w| {
            w.string("connect").number(1.0).object(|w| {
                let w = w.name("app").string(app).name("type").string("nonprivate");
                w.name("flashVer").string("FMLE/3.0").name("tcUrl").string(&url)
            })
        })?;
        self.wait_reply("the result of connect", |reply| {
            matches!(reply, Reply::Command { name, .. } if name == "_result").then_some(())
        })
    }

    /// `createStream` and `publish`; waits for nothing.
    pub fn send_publish(&mut self, key: &str) -> Result<()> {
        self.command(0, |w| w.string("createStream").number(2.0).null())?;
        self.command(STREAM_ID, |w| {
            w.string("publish").number(3.0).null().string(key).string("live")
        })
    }

    pub fn wait_started(&mut self) -> Result<()> {
        let (code, description) = self.wait_status()?;
        ensure!(code == "NetStream.Publish.Start", "{code}: {description}");
        Ok(())
    }

    /// Code and description of the next `onStatus`.
    pub fn wait_status(&mut self) -> Result<(String, String)> {
        self.wait_reply("an onStatus", |reply| match reply {
            Reply::Command { name, .. } if name == "onStatus" => reply.status(),
            Reply::Command { .. }
            | Reply::Acknowledgement(_)
            | Reply::Pong(_)
            | Reply::Other { .. } => None,
        })
    }

    /// Announces a chunk size and keeps to it.
    pub fn set_chunk_size(&mut self, size: u32) -> Result<()> {
        self.control(kind::SET_CHUNK_SIZE, &size.to_be_bytes())?;
        self.chunk_size = usize::try_from(size)?;
        Ok(())
    }

    #[must_use]
    pub fn chunk_size(&self) -> usize {
        self.chunk_size
    }

    /// Wants to know each time that so many bytes arrived.
    pub fn set_window(&mut self, bytes: u32) -> Result<()> {
        self.control(kind::WINDOW_ACKNOWLEDGEMENT_SIZE, &bytes.to_be_bytes())
    }

    pub fn ping(&mut self, timestamp_ms: u32) -> Result<()> {
        let [a, b, c, d] = timestamp_ms.to_be_bytes();
        self.control(kind::USER_CONTROL, &[0, 6, a, b, c, d])
    }

    /// Gives up the message that is open on a chunk stream.
    pub fn abort(&mut self, chunk_stream: u32) -> Result<()> {
        self.control(kind::ABORT, &chunk_stream.to_be_bytes())
    }

    pub fn command(&mut self, stream_id: u32, fill: impl FnOnce(Writer) -> Writer) -> Result<()> {
        let payload = fill(Writer::new()).finish();
        let kind = kind::COMMAND_AMF0;
        let message =
            Message { chunk_stream: 3, kind, timestamp_ms: 0, stream_id, payload: &payload };
        self.send(&message)
    }

    /// A whole message under a full header.
    pub fn send(&mut self, message: &Message<'_>) -> Result<()> {
        let chunks = message.chunks(self.chunk_size, Format::Full, self.continuation);
        self.send_bytes(&chunks.concat())
    }

    pub fn send_tag(&mut self, tag: &Tag, timestamp_ms: u32) -> Result<()> {
        self.send(&Message::of_tag(tag, timestamp_ms))
    }

    /// Sends tags `speed` times as fast as their own times say; `stamp` gives the time that each
    /// is sent with, or none for one that is left out.
    pub fn send_tags(
        &mut self,
        tags: &[Tag],
        speed: u32,
        mut stamp: impl FnMut(&Tag) -> Option<u32>,
    ) -> Result<()> {
        let mut pace = Pace::new(tags, speed);
        for tag in tags {
            pace.wait_for(tag);
            if let Some(timestamp_ms) = stamp(tag) {
                self.send_tag(tag, timestamp_ms)?;
            }
        }
        Ok(())
    }

    /// Whatever bytes the test likes.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let began = clock::now();
        let written = self.stream.write_all(bytes);
        self.longest_write = self.longest_write.max(clock::now().duration_since(began));
        written.with_context(|| format!("after {} bytes were sent", self.sent_bytes))?;
        self.sent_bytes += bytes.len() as u64;
        Ok(())
    }

    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// The longest that one write has blocked so far.
    #[must_use]
    pub fn longest_write(&self) -> Duration {
        self.longest_write
    }

    /// The next message of the server, `None` at the connection's end.
    pub fn next_reply(&mut self, bound: Duration) -> Result<Option<Reply>> {
        let deadline = clock::now() + bound;
        loop {
            if let Some(reply) = self.parse()? {
                return Ok(Some(reply));
            }
            let left = deadline.saturating_duration_since(clock::now());
            ensure!(!left.is_zero(), "the server said nothing for {} ms", bound.as_millis());
            self.stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(got) => self.unread.extend(&bytes[..got]),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads on until `wanted` finds something.
    pub fn wait_reply<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Reply) -> Option<T>,
    ) -> Result<T> {
        loop {
            match self.next_reply(REPLY_BOUND).with_context(|| what.to_owned())? {
                Some(reply) => {
                    if let Some(found) = wanted(&reply) {
                        return Ok(found);
                    }
                }
                None => bail!("the connection ended before {what}"),
            }
        }
    }

    /// Reads to the end that the server makes.
    pub fn wait_closed(&mut self, bound: Duration) -> Result<Goodbye> {
        let deadline = clock::now() + bound;
        let mut replies = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            match self.next_reply(left) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => return Ok(Goodbye { replies, reset: None }),
                Err(error) => match error.downcast_ref::<std::io::Error>() {
                    Some(broken) => return Ok(Goodbye { replies, reset: Some(broken.kind()) }),
                    None => return Err(error.context("the server did not close")),
                },
            }
        }
    }

    /// Unpublishes as FMLE does, and waits for the end.
    pub fn finish(mut self, bound: Duration) -> Result<()> {
        self.command(0, |w| w.string("deleteStream").number(7.0).null().number(1.0))?;
        self.wait_closed(bound)?;
        Ok(())
    }

    /// Ends the connection without a word, as a publisher that is killed does.
    pub fn vanish(mut self, bound: Duration) -> Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)?;
        self.wait_closed(bound)?;
        Ok(())
    }

    /// Ends the connection with a reset, as a lost network or a killed phone may.
    pub fn reset(self) -> Result<()> {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&self.stream, nix::sys::socket::sockopt::Linger, &linger)?;
        Ok(())
    }

    fn control(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        let message = Message { chunk_stream: 2, kind, timestamp_ms: 0, stream_id: 0, payload };
        self.send(&message)
    }

    fn parse(&mut self) -> Result<Option<Reply>> {
        loop {
            let Step::Advance { consumed, piece } = self.reader.next(&self.unread)? else {
                return Ok(None);
            };
            let taken: Vec<u8> = self.unread.drain(..consumed).collect();
            match piece {
                Piece::Begin { message, slot } => {
                    self.open.insert(slot.index(), (message, Vec::new()));
                }
                Piece::Payload { slot, .. } => {
                    let (_, payload) = self.open.get_mut(&slot.index()).context("no message")?;
                    payload.extend(taken);
                }
                Piece::End { slot } => {
                    let (header, payload) =
                        self.open.remove(&slot.index()).context("no message")?;
                    return reply_of(header, &payload).map(Some);
                }
                Piece::Abort { slot } => {
                    self.open.remove(&slot.index());
                }
                Piece::Nothing => {}
            }
        }
    }
}

/// Holds tags back until their time has come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    began: Instant,
    first_ms: u32,
    speed: u32,
}

impl Pace {
    #[must_use]
    pub fn new(tags: &[Tag], speed: u32) -> Self {
        let first_ms = tags.iter().map(|tag| tag.dts_ms).min().unwrap_or(0);
        Self { began: clock::now(), first_ms, speed: speed.max(1) }
    }

    pub fn wait_for(&mut self, tag: &Tag) {
        let since = Duration::from_millis(u64::from(tag.dts_ms.saturating_sub(self.first_ms)));
        let due = self.began + since / self.speed;
        clock::pause(due.saturating_duration_since(clock::now()));
    }
}

fn reply_of(header: MessageHeader, payload: &[u8]) -> Result<Reply> {
    Ok(match (header.kind, payload) {
        (kind::ACKNOWLEDGEMENT, [a, b, c, d]) => {
            Reply::Acknowledgement(u32::from_be_bytes([*a, *b, *c, *d]))
        }
        (kind::USER_CONTROL, [0, 7, a, b, c, d]) => {
            Reply::Pong(u32::from_be_bytes([*a, *b, *c, *d]))
        }
        (kind::COMMAND_AMF0, _) => {
            let values = amf::decode(payload)?;
            let Some(Value::Utf8String(name)) = values.first() else {
                bail!("a command without a name: {values:?}")
            };
            Reply::Command { name: name.clone(), values }
        }
        (kind, _) => Reply::Other { kind },
    })
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
