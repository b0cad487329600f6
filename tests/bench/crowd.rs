//! Many viewers of LL-HLS at once, as players ask: a blocking reload of the playlist on one
//! connection, each part as soon as it is listed on another. One thread and epoll(7); HTTP/1.1 as
//! plain as it gets.

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tasuki_shared::clock;

/// Connections that are made one after the other, so that no listener's queue overflows.
const CONNECT_BATCH: usize = 64;
const EVENTS_MAX: usize = 1024;
const READ_BYTES: usize = 64 * 1024;
/// Parts that a viewer may be behind before it gives one up, as a player does.
const PARTS_WAITING_MAX: usize = 3;

/// What a crowd watches.
#[derive(Clone, Debug)]
pub struct Watched {
    /// `/live/APP/NAME/LABEL`.
    pub base: String,
    /// The stream's directory, for when a part was there.
    pub directory: PathBuf,
    pub label: String,
}

/// What a crowd has seen.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub playlists: u64,
    pub parts: u64,
    pub bytes: u64,
    /// From a part's being there to a viewer's having it all, ms; by ms.
    pub delays_ms: BTreeMap<u64, u64>,
    /// Parts that a viewer gave up because it was too far behind.
    pub given_up: u64,
    /// Answers that were no 200, by status.
    pub refused: BTreeMap<u16, u64>,
}

impl Tally {
    /// The delay that so many percent of all parts did not exceed.
    pub fn delay_ms(&self, percent: f64) -> u64 {
        let all: u64 = self.delays_ms.values().sum();
        let mut seen = 0;
        for (ms, count) in &self.delays_ms {
            seen += count;
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let enough = seen as f64 >= all as f64 * percent / 100.0;
            if enough {
                return *ms;
            }
        }
        0
    }
}

type Number = (u64, u32);

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// What is awaited, if anything.
    part: Option<Number>,
    busy: Busy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Busy {
    Yes,
    No,
}

struct Viewer {
    watched: usize,
    playlist: Connection,
    media: Connection,
    last: Option<Number>,
    waiting: Vec<Number>,
}

/// See the module.
pub struct Crowd<'a> {
    watched: &'a [Watched],
    viewers: Vec<Viewer>,
    epoll: Epoll,
    /// When each part was there, by what is watched.
    times: HashMap<(usize, Number), u64>,
    tally: Tally,
    /// Room for what is read.
    piece: Vec<u8>,
}

impl<'a> Crowd<'a> {
    /// Connects so many viewers, evenly over what is watched.
    pub fn connect(address: &str, watched: &'a [Watched], viewers: usize) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut crowd = Self {
            watched,
            viewers: Vec::new(),
            epoll,
            times: HashMap::new(),
            tally: Tally::default(),
            piece: vec![0; READ_BYTES],
        };
        for at in 0..viewers {
            let connect = |token: usize| -> Result<Connection> {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(token)?);
                crowd.epoll.add(&stream, event)?;
                Ok(Connection { stream, received: Vec::new(), part: None, busy: Busy::No })
            };
            let (playlist, media) = (connect(at * 2)?, connect(at * 2 + 1)?);
            let watched = at % watched.len();
            let viewer = Viewer { watched, playlist, media, last: None, waiting: Vec::new() };
            crowd.viewers.push(viewer);
            if at % CONNECT_BATCH == CONNECT_BATCH - 1 {
                clock::pause(Duration::from_millis(5));
            }
        }
        Ok(crowd)
    }

    /// Watches until then; what was seen.
    pub fn watch(&mut self, until: Instant) -> Result<Tally> {
        for viewer in &mut self.viewers {
            if viewer.playlist.busy == Busy::No {
                let path = format!("{}/index.m3u8", self.watched[viewer.watched].base);
                viewer.playlist.ask(&path)?;
            }
        }
        self.tally = Tally::default();
        let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
        while clock::now() < until {
            let count = self.epoll.wait(&mut events, EpollTimeout::from(50_u8))?;
            for event in &events[..count] {
                let token = usize::try_from(event.data())?;
                self.readable(token / 2, token % 2 == 1)?;
            }
        }
        Ok(std::mem::take(&mut self.tally))
    }

    fn readable(&mut self, at: usize, is_media: bool) -> Result<()> {
        let viewer = &mut self.viewers[at];
        let connection = if is_media { &mut viewer.media } else { &mut viewer.playlist };
        let Some((status, body)) = connection.receive(&mut self.piece)? else { return Ok(()) };
        self.tally.bytes += u64::try_from(body.len())?;
        if status != 200 {
            *self.tally.refused.entry(status).or_default() += 1;
        }
        let watched = &self.watched[viewer.watched];
        if is_media {
            if let Some(number) = viewer.media.part.take()
                && status == 200
            {
                self.tally.parts += 1;
                let there_ms = match self.times.get(&(viewer.watched, number)) {
                    Some(known) => *known,
                    None => {
                        let there_ms = watched.there_ms(number)?;
                        self.times.insert((viewer.watched, number), there_ms);
                        there_ms
                    }
                };
                let delay_ms = clock::unix_ms().saturating_sub(there_ms);
                *self.tally.delays_ms.entry(delay_ms).or_default() += 1;
            }
        } else {
            self.tally.playlists += 1;
            let (newest, next) = edge(&body);
            let next = next.context("a playlist names the next part")?;
            if let Some(newest) = newest.filter(|it| viewer.last != Some(*it)) {
                // Who has just come begins at the edge.
                viewer.last = Some(newest);
                viewer.waiting.push(newest);
                if viewer.waiting.len() > PARTS_WAITING_MAX {
                    viewer.waiting.remove(0);
                    self.tally.given_up += 1;
                }
            }
            let (segment, part) = next;
            let directives = format!("_HLS_msn={segment}&_HLS_part={part}&_HLS_skip=YES");
            viewer.playlist.ask(&format!("{}/index.m3u8?{directives}", watched.base))?;
        }
        if viewer.media.busy == Busy::No && !viewer.waiting.is_empty() {
            let (segment, part) = viewer.waiting.remove(0);
            viewer.media.part = Some((segment, part));
            viewer.media.ask(&format!("{}/{segment}.{part}.m4s", watched.base))?;
        }
        Ok(())
    }
}

impl Watched {
    /// When the part's file was written, by the system's clock.
    fn there_ms(&self, (segment, part): Number) -> Result<u64> {
        let path = self.directory.join(format!("{segment}.{part}.{}.m4s", self.label));
        let modified =
            fs::metadata(&path).with_context(|| path.display().to_string())?.modified()?;
        Ok(u64::try_from(modified.duration_since(std::time::UNIX_EPOCH)?.as_millis())?)
    }
}

impl Connection {
    fn ask(&mut self, path: &str) -> Result<()> {
        self.busy = Busy::Yes;
        let request = format!("GET {path} HTTP/1.1\r\nHost: crowd\r\n\r\n");
        // A request is smaller than any socket's buffer.
        self.stream.write_all(request.as_bytes()).context("a request")
    }

    /// The answer, once it is whole.
    fn receive(&mut self, piece: &mut [u8]) -> Result<Option<(u16, Vec<u8>)>> {
        loop {
            match self.stream.read(piece) {
                Ok(0) => anyhow::bail!("the server closed a viewer's connection"),
                Ok(count) => {
                    self.received.extend_from_slice(&piece[..count]);
                    // What may come behind it is told of again (epoll(7), level-triggered).
                    if count < piece.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let Some(end) = find(&self.received, b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(&self.received[..end])?;
        let status = head.split(' ').nth(1).context("a status line")?.parse()?;
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length: usize = lengths.next().context("a length")?.1.trim().parse()?;
        let whole = end + 4 + length;
        if self.received.len() < whole {
            return Ok(None);
        }
        ensure!(self.received.len() == whole, "more came than was asked for");
        self.busy = Busy::No;
        let body = self.received.split_off(end + 4);
        self.received.clear();
        Ok(Some((status, body)))
    }
}

/// The newest part that a playlist lists, and the next, which it promises.
fn edge(playlist: &[u8]) -> (Option<Number>, Option<Number>) {
    let Ok(text) = std::str::from_utf8(playlist) else { return (None, None) };
    let number = |line: &str| -> Option<Number> {
        let uri = line.split_once("URI=\"")?.1.split('"').next()?;
        let (segment, part) = uri.strip_suffix(".m4s")?.split_once('.')?;
        Some((segment.parse().ok()?, part.parse().ok()?))
    };
    let last = |tag: &str| text.lines().rev().find(|line| line.starts_with(tag)).and_then(number);
    (last("#EXT-X-PART:"), last("#EXT-X-PRELOAD-HINT:TYPE=PART"))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// As many requests as connections allow, one after the other, for a while: bytes and answers.
pub fn hammer(
    address: &str,
    paths: &[String],
    connections: usize,
    until: Instant,
) -> Result<(u64, u64)> {
    ensure!(!paths.is_empty(), "there is nothing to ask for");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut open = Vec::new();
    for at in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(at)?))?;
        let mut connection =
            Connection { stream, received: Vec::new(), part: None, busy: Busy::No };
        connection.ask(&paths[at % paths.len()])?;
        open.push(connection);
    }
    let (mut bytes, mut answers) = (0, 0);
    let mut piece = vec![0; READ_BYTES];
    let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
    while clock::now() < until {
        let count = epoll.wait(&mut events, EpollTimeout::from(50_u8))?;
        for event in &events[..count] {
            let at = usize::try_from(event.data())?;
            if let Some((status, body)) = open[at].receive(&mut piece)? {
                ensure!(status == 200, "HTTP {status}");
                bytes += u64::try_from(body.len())?;
                answers += 1;
                let next = usize::try_from(answers)? % paths.len();
                open[at].ask(&paths[next])?;
            }
        }
    }
    Ok((bytes, answers))
}
