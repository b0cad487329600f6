//! An origin that only looks at the clock: it takes any publish and notes when each picture of it
//! is whole.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_tests::flv::{Kind, Tag};
use tasuki_worker::rtmp::amf::{self, Value};
use tasuki_worker::rtmp::chunk::{ChunkReader, Piece, Step, kind};
use tasuki_worker::rtmp::{handshake, reply};

const C2_BYTES: usize = 1536;
const STREAM_ID: u32 = 1;
/// Of a message, what tells a picture from a header.
const KEPT_BYTES: usize = 8;

type Arrivals = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

/// See the module. Its threads end with their connections.
pub struct Sink {
    port: u16,
    arrivals: Arrivals,
}

impl Sink {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let arrivals = Arrivals::default();
        let shared = Arc::clone(&arrivals);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let arrivals = Arc::clone(&shared);
                std::thread::spawn(move || {
                    if let Err(error) = serve(stream, &arrivals) {
                        eprintln!("the sink ends a connection: {error:#}");
                    }
                });
            }
        });
        Ok(Self { port, arrivals })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The longest time between two pictures of a stream, of which the later came in this time.
    pub fn longest_gap(&self, name: &str, from: Instant, to: Instant) -> Result<Duration> {
        let arrivals = lock(&self.arrivals);
        let times = arrivals.get(name).with_context(|| format!("{name} never came"))?;
        let first = times.partition_point(|time| *time < from).saturating_sub(1);
        let last = times.partition_point(|time| *time <= to);
        let pairs = times[first..last].windows(2).map(|pair| pair[1] - pair[0]);
        pairs.max().with_context(|| format!("no picture of {name} came"))
    }

    /// Streams of which pictures have come.
    pub fn streams(&self) -> usize {
        lock(&self.arrivals).len()
    }
}

fn lock(arrivals: &Arrivals) -> MutexGuard<'_, BTreeMap<String, Vec<Instant>>> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, arrivals: &Arrivals) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut hello = vec![0; handshake::C0_C1_BYTES];
    stream.read_exact(&mut hello)?;
    let answer = handshake::answer(&hello)?.context("an answer to a whole C0 and C1")?;
    stream.write_all(&answer)?;
    stream.read_exact(&mut [0; C2_BYTES])?;
    let mut reader = ChunkReader::new();
    let mut open = BTreeMap::new();
    let (mut unread, mut more) = (Vec::new(), vec![0; 256 * 1024]);
    let mut name = String::new();
    loop {
        let mut at = 0;
        while let Step::Advance { consumed, piece } = reader.next(&unread[at..])? {
            let taken = &unread[at..at + consumed];
            at += consumed;
            match piece {
                Piece::Begin { message, slot } => {
                    open.insert(slot.index(), (message, Vec::new()));
                }
                Piece::Payload { slot, .. } => {
                    let (message, body) = open.get_mut(&slot.index()).context("no message")?;
                    let most =
                        if message.kind == kind::COMMAND_AMF0 { usize::MAX } else { KEPT_BYTES };
                    body.extend(taken.iter().take(most - body.len().min(most)));
                }
                Piece::End { slot } => {
                    let (message, body) = open.remove(&slot.index()).context("no message")?;
                    if message.kind == kind::COMMAND_AMF0 {
                        answer_command(&body, &mut name, &mut stream)?;
                    } else if message.kind == kind::VIDEO {
                        let now = clock::now();
                        let tag = Tag { kind: Kind::Video, dts_ms: message.timestamp_ms, body };
                        if !tag.is_header() {
                            lock(arrivals).entry(name.clone()).or_default().push(now);
                        }
                    }
                }
                Piece::Abort { slot } => {
                    open.remove(&slot.index());
                }
                Piece::Nothing => {}
            }
        }
        unread.drain(..at);
        match stream.read(&mut more)? {
            0 => return Ok(()),
            got => unread.extend(&more[..got]),
        }
    }
}

fn answer_command(body: &[u8], name: &mut String, stream: &mut TcpStream) -> Result<()> {
    let values = amf::decode(body)?;
    let (Some(Value::Utf8String(command)), Some(Value::Number(transaction))) =
        (values.first(), values.get(1))
    else {
        bail!("a command without a name: {values:?}")
    };
    let mut out = Vec::new();
    match command.as_str() {
        "connect" => {
            reply::settings(&mut out);
            reply::connected(*transaction, &mut out);
        }
        "createStream" => reply::stream_created(*transaction, STREAM_ID, &mut out),
        "publish" => {
            let Some(Value::Utf8String(asked)) = values.get(3) else { bail!("{values:?}") };
            name.clone_from(asked);
            let code = "NetStream.Publish.Start";
            reply::on_status(STREAM_ID, reply::Level::Status, code, "started", &mut out);
        }
        _ => {}
    }
    stream.write_all(&out)?;
    Ok(())
}
