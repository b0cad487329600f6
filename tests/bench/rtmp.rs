//! A publisher that costs little: one thread can run many.
//!
//! It says what librtmp says, waits for each answer, and sends each message in one write.

use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tasuki_tests::flv::{Kind, Tag};

const ANSWER_BOUND: Duration = Duration::from_secs(10);
const HANDSHAKE_BYTES: usize = 1536;
const COMMAND: u8 = 20;
const SET_CHUNK_SIZE: u8 = 1;

/// A connection that may send media.
#[derive(Debug)]
pub struct Publisher {
    stream: TcpStream,
    replies: Replies,
    /// Chunks of this size go out, as OBS Studio sends them.
    chunk_bytes: usize,
    stream_id: u32,
}

impl Publisher {
    pub const CHUNK_BYTES: usize = 4096;

    /// Connects and publishes; back when `NetStream.Publish.Start` has arrived.
    pub fn start(address: SocketAddr, key: &str) -> Result<Self> {
        Self::start_in(address, "live", key)
    }

    /// The same in another application.
    pub fn start_in(address: SocketAddr, app: &str, key: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_BOUND))?;
        stream.set_write_timeout(Some(ANSWER_BOUND))?;
        let mut publisher = Self {
            stream,
            replies: Replies::default(),
            chunk_bytes: Self::CHUNK_BYTES,
            stream_id: 0,
        };
        publisher.shake_hands()?;
        publisher.connect(address, app)?;
        publisher.create_stream(key)?;
        publisher.publish(key)?;
        Ok(publisher)
    }

    fn shake_hands(&mut self) -> Result<()> {
        let mut hello = vec![3];
        hello.extend([0; 8]);
        hello.extend((0..HANDSHAKE_BYTES - 8).map(|at| u8::try_from(at % 251).unwrap_or(0)));
        self.stream.write_all(&hello)?;
        let mut answer = [0; 1 + 2 * HANDSHAKE_BYTES];
        self.stream.read_exact(&mut answer).context("S0, S1, S2")?;
        self.stream.write_all(&answer[1..=HANDSHAKE_BYTES])?;
        Ok(())
    }

    fn connect(&mut self, address: SocketAddr, app: &str) -> Result<()> {
        let size = u32::try_from(self.chunk_bytes)?.to_be_bytes();
        let mut out = message(2, 0, SET_CHUNK_SIZE, 0, &size, self.chunk_bytes);
        let url = format!("rtmp://{address}/{app}");
        let mut body = Vec::new();
        string(&mut body, "connect");
        number(&mut body, 1.0);
        body.push(3);
        for (name, value) in
            [("app", app), ("type", "nonprivate"), ("flashVer", "FMLE/3.0"), ("tcUrl", &url)]
        {
            body.extend(u16::try_from(name.len())?.to_be_bytes());
            body.extend(name.as_bytes());
            string(&mut body, value);
        }
        body.extend([0, 0, 9]);
        out.extend(message(3, 0, COMMAND, 0, &body, self.chunk_bytes));
        self.stream.write_all(&out)?;
        self.await_command("_result").map(drop)
    }

    fn create_stream(&mut self, key: &str) -> Result<()> {
        let mut out = Vec::new();
        for (id, name) in [(2.0, "releaseStream"), (3.0, "FCPublish"), (4.0, "createStream")] {
            let mut body = Vec::new();
            string(&mut body, name);
            number(&mut body, id);
            body.push(5);
            if name != "createStream" {
                string(&mut body, key);
            }
            out.extend(message(3, 0, COMMAND, 0, &body, self.chunk_bytes));
        }
        self.stream.write_all(&out)?;
        loop {
            let body = self.await_command("_result")?;
            let mut wanted = Vec::new();
            number(&mut wanted, 4.0);
            // `_result`, the transaction, null, the stream's id.
            if body.len() >= 10 + 9 + 1 + 9 && body[10..19] == wanted {
                let id: [u8; 8] = body[21..29].try_into()?;
                self.stream_id = format!("{:.0}", f64::from_be_bytes(id)).parse()?;
                return Ok(());
            }
        }
    }

    fn publish(&mut self, key: &str) -> Result<()> {
        let mut body = Vec::new();
        string(&mut body, "publish");
        number(&mut body, 5.0);
        body.push(5);
        string(&mut body, key);
        string(&mut body, "live");
        let out = message(4, 0, COMMAND, self.stream_id, &body, self.chunk_bytes);
        self.stream.write_all(&out)?;
        let status = self.await_command("onStatus")?;
        let started = b"NetStream.Publish.Start";
        ensure!(
            status.windows(started.len()).any(|window| window == started),
            "the publish was refused: {}",
            String::from_utf8_lossy(&status)
        );
        Ok(())
    }

    /// What media messages must carry.
    pub fn stream_id(&self) -> u32 {
        self.stream_id
    }

    /// Sends bytes that [`wire`] made.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("the server takes no more")
    }

    /// Throws away what the server says meanwhile.
    pub fn drop_replies(&mut self) -> Result<()> {
        self.stream.set_nonblocking(true)?;
        let mut sink = [0; 4096];
        let outcome = loop {
            match self.stream.read(&mut sink) {
                Ok(0) => break Err(anyhow::anyhow!("the server closed the connection")),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.stream.set_nonblocking(false)?;
        outcome
    }

    /// Body of the next command of this name; an `_error` ends the wait.
    fn await_command(&mut self, name: &str) -> Result<Vec<u8>> {
        loop {
            while let Some((kind, body)) = self.replies.next()? {
                if kind != COMMAND {
                    continue;
                }
                let is = |name: &str| {
                    let mut head = Vec::new();
                    string(&mut head, name);
                    body.starts_with(&head)
                };
                if is(name) {
                    return Ok(body);
                }
                if is("_error") {
                    bail!("refused: {}", String::from_utf8_lossy(&body));
                }
            }
            let mut more = [0; 4096];
            match self.stream.read(&mut more).with_context(|| format!("waiting for {name}"))? {
                0 => bail!("the connection ended before {name}"),
                got => self.replies.buffer.extend(&more[..got]),
            }
        }
    }
}

/// A file's tags as they go over the wire, for any connection whose stream id is `stream_id`.
pub fn wire(tags: &[Tag], stream_id: u32) -> Vec<(u32, Vec<u8>)> {
    let encode = |tag: &Tag| {
        let (chunk_stream, kind) = match tag.kind {
            Kind::Audio => (4, 8),
            Kind::Video => (6, 9),
            Kind::Script => (5, 18),
        };
        let (time, body) = (tag.dts_ms, &tag.body);
        (time, message(chunk_stream, time, kind, stream_id, body, Publisher::CHUNK_BYTES))
    };
    tags.iter().map(encode).collect()
}

/// Gives a message of [`wire`] another time, in its full header behind the chunk stream's byte.
pub fn set_time(message: &mut [u8], time_ms: u32) {
    message[1..4].copy_from_slice(&time_ms.to_be_bytes()[1..]);
}

/// One message in chunks, its header written out.
fn message(
    chunk_stream: u8,
    timestamp_ms: u32,
    kind: u8,
    stream_id: u32,
    body: &[u8],
    chunk_bytes: usize,
) -> Vec<u8> {
    let mut out = vec![chunk_stream];
    out.extend(&timestamp_ms.to_be_bytes()[1..]);
    out.extend(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes()[1..]);
    out.push(kind);
    out.extend(stream_id.to_le_bytes());
    for (at, chunk) in body.chunks(chunk_bytes).enumerate() {
        if at > 0 {
            out.push(0xC0 | chunk_stream);
        }
        out.extend(chunk);
    }
    out
}

fn string(into: &mut Vec<u8>, text: &str) {
    into.push(2);
    into.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    into.extend(text.as_bytes());
}

fn number(into: &mut Vec<u8>, value: f64) {
    into.push(0);
    into.extend(value.to_be_bytes());
}

/// The server's messages, put together from its chunks.
#[derive(Debug)]
struct Replies {
    buffer: Vec<u8>,
    chunk_bytes: usize,
    streams: HashMap<u8, Reply>,
}

#[derive(Clone, Debug, Default)]
struct Reply {
    length: usize,
    kind: u8,
    body: Vec<u8>,
}

impl Default for Replies {
    fn default() -> Self {
        Self { buffer: Vec::new(), chunk_bytes: 128, streams: HashMap::new() }
    }
}

impl Replies {
    fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        while let Some((reply, used)) = self.chunk()? {
            self.buffer.drain(..used);
            let Some((kind, body)) = reply else { continue };
            if kind == SET_CHUNK_SIZE {
                let size = body.get(..4).context("a chunk size")?.try_into()?;
                self.chunk_bytes = usize::try_from(u32::from_be_bytes(size))?;
            }
            return Ok(Some((kind, body)));
        }
        Ok(None)
    }

    /// One chunk, if it is whole: the message that it completes, and the bytes it takes.
    #[expect(clippy::type_complexity, reason = "two optional pairs, used once")]
    fn chunk(&mut self) -> Result<Option<(Option<(u8, Vec<u8>)>, usize)>> {
        let Some(first) = self.buffer.first() else { return Ok(None) };
        let chunk_stream = first & 0x3F;
        ensure!(chunk_stream >= 2, "servers use short chunk stream ids");
        let header = [12, 8, 4, 1][usize::from(first >> 6)];
        let Some(head) = self.buffer.get(..header) else { return Ok(None) };
        let reply = self.streams.entry(chunk_stream).or_default();
        if header >= 8 {
            reply.length = usize::try_from(u32::from_be_bytes([0, head[4], head[5], head[6]]))?;
            reply.kind = head[7];
        }
        let wanted = (reply.length - reply.body.len()).min(self.chunk_bytes);
        let Some(part) = self.buffer.get(header..header + wanted) else { return Ok(None) };
        reply.body.extend(part);
        let whole = (reply.body.len() == reply.length)
            .then(|| (reply.kind, std::mem::take(&mut reply.body)));
        Ok(Some((whole, header + wanted)))
    }
}
