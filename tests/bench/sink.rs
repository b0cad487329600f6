//! An origin that only looks at the clock: it takes any publish and notes when each picture of it
//! is whole and whether it is a keyframe.

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

type Arrivals = Arc<Mutex<BTreeMap<String, Arrived>>>;

/// What came under one name.
#[derive(Default)]
struct Arrived {
    publishes: u32,
    pictures: Vec<(Instant, Picture)>,
}

/// What a decoder needs for a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Picture {
    Key,
    Inter,
}

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
        let arrived = arrivals.get(name).with_context(|| format!("{name} never came"))?;
        let pictures = &arrived.pictures;
        let first = pictures.partition_point(|(time, _)| *time < from).saturating_sub(1);
        let last = pictures.partition_point(|(time, _)| *time <= to);
        let pairs = pictures[first..last].windows(2).map(|pair| pair[1].0 - pair[0].0);
        pairs.max().with_context(|| format!("no picture of {name} came"))
    }

    /// When the first picture of a stream came that is `wanted`, of those from then on.
    pub fn first(
        &self,
        name: &str,
        from: Instant,
        wanted: impl Fn(Picture) -> bool,
    ) -> Option<Instant> {
        let arrivals = lock(&self.arrivals);
        let pictures = &arrivals.get(name)?.pictures;
        let later = pictures.partition_point(|(time, _)| *time < from);
        pictures[later..].iter().find(|(_, picture)| wanted(*picture)).map(|(time, _)| *time)
    }

    /// How often a stream was published here.
    pub fn publishes(&self, name: &str) -> u32 {
        lock(&self.arrivals).get(name).map_or(0, |arrived| arrived.publishes)
    }

    /// Streams of which pictures have come.
    pub fn streams(&self) -> usize {
        lock(&self.arrivals).values().filter(|arrived| !arrived.pictures.is_empty()).count()
    }
}

fn lock(arrivals: &Arrivals) -> MutexGuard<'_, BTreeMap<String, Arrived>> {
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
                        if let Some(asked) = answer_command(&body, &mut stream)? {
                            lock(arrivals).entry(asked.clone()).or_default().publishes += 1;
                            name = asked;
                        }
                    } else if message.kind == kind::VIDEO {
                        let now = clock::now();
                        let tag = Tag { kind: Kind::Video, dts_ms: message.timestamp_ms, body };
                        if !tag.is_header() {
                            let key = tag.is_keyframe();
                            let picture = if key { Picture::Key } else { Picture::Inter };
                            let mut arrivals = lock(arrivals);
                            arrivals.entry(name.clone()).or_default().pictures.push((now, picture));
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

/// The name if it is a publish.
fn answer_command(body: &[u8], stream: &mut TcpStream) -> Result<Option<String>> {
    let values = amf::decode(body)?;
    let (Some(Value::Utf8String(command)), Some(Value::Number(transaction))) =
        (values.first(), values.get(1))
    else {
        bail!("a command without a name: {values:?}")
    };
    let mut out = Vec::new();
    let mut published = None;
    match command.as_str() {
        "connect" => {
            reply::settings(&mut out);
            reply::connected(*transaction, &mut out);
        }
        "createStream" => reply::stream_created(*transaction, STREAM_ID, &mut out),
        "publish" => {
            let Some(Value::Utf8String(asked)) = values.get(3) else { bail!("{values:?}") };
            published = Some(asked.clone());
            let code = "NetStream.Publish.Start";
            reply::on_status(STREAM_ID, reply::Level::Status, code, "started", &mut out);
        }
        _ => {}
    }
    stream.write_all(&out)?;
    Ok(published)
}
