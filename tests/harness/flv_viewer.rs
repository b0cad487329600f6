//! A viewer of FLV, over HTTP and over a WebSocket, that keeps all it gets in a file; and what must
//! hold of that.

use crate::fixture::Recipe;
use crate::flv::{Flv, Kind, check_dts_rising};
use crate::frames;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two pieces of a live stream.
const SILENCE_BOUND: Duration = Duration::from_secs(20);
/// The key of RFC 6455, 1.3, and its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const CHUNK_BYTES_MAX: usize = 64 << 20;

/// How the body comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Http,
    WebSocket,
}

/// One that watches, in a thread of its own.
pub struct FlvViewer {
    thread: JoinHandle<Result<()>>,
    file: PathBuf,
    bytes: Arc<AtomicU64>,
}

impl FlvViewer {
    /// Asks, and keeps what comes in `file` until the body is over. `address` is `host:port`.
    pub fn start(address: &str, path: &str, over: Over, file: PathBuf) -> Result<Self> {
        let mut reader = ask(address, path, over)?;
        let mut kept = File::create(&file)?;
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            loop {
                let piece = match over {
                    Over::Http => http_chunk(&mut reader)?,
                    Over::WebSocket => message(&mut reader)?,
                };
                let Some(piece) = piece else { return Ok(()) };
                kept.write_all(&piece)?;
                counted.fetch_add(u64::try_from(piece.len())?, Ordering::Relaxed);
            }
        });
        Ok(Self { thread, file, bytes })
    }

    /// Received so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits for the end of the body; one that breaks off is an error.
    pub fn finish(self, bound: Duration) -> Result<PathBuf> {
        wait::until("the end of a body", bound, || Ok(self.thread.is_finished().then_some(())))?;
        match self.thread.join() {
            Ok(outcome) => outcome.with_context(|| self.file.display().to_string())?,
            Err(_) => bail!("a viewer panicked"),
        }
        Ok(self.file)
    }
}

/// A viewer that asks and then reads nothing, with room for little.
pub fn deaf(address: &str, path: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    setsockopt(&stream, sockopt::RcvBuf, &4096)?;
    write_request(&stream, address, path, Over::Http)?;
    Ok(stream)
}

/// Can this be had?
pub fn is_offered(address: &str, path: &str) -> Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SILENCE_BOUND))?;
    write!(stream, "HEAD {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut head = String::new();
    BufReader::new(stream).read_line(&mut head)?;
    Ok(head.starts_with("HTTP/1.1 200 "))
}

fn ask(address: &str, path: &str, over: Over) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address).with_context(|| format!("to {address}"))?;
    stream.set_read_timeout(Some(SILENCE_BOUND))?;
    write_request(&stream, address, path, over)?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "no answer, only {head:?}");
    }
    let (status, header) = match over {
        Over::Http => ("HTTP/1.1 200 ", "content-type: video/x-flv"),
        Over::WebSocket => ("HTTP/1.1 101 ", "sec-websocket-accept: "),
    };
    ensure!(head.starts_with(status) && head.contains(header), "{path}: {head}");
    ensure!(over == Over::Http || head.contains(ACCEPT), "{path}: {head}");
    Ok(reader)
}

fn write_request(mut stream: &TcpStream, address: &str, path: &str, over: Over) -> Result<()> {
    let more = match over {
        Over::Http => String::new(),
        Over::WebSocket => format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n"
        ),
    };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n")?;
    Ok(())
}

/// `None` at the end that a body should have.
fn http_chunk(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(line.ends_with("\r\n"), "the body broke off");
    let length = usize::from_str_radix(line.trim(), 16)?;
    let chunk = exactly(reader, length)?;
    reader.read_line(&mut line)?;
    Ok((length > 0).then_some(chunk))
}

/// One binary message (RFC 6455, 5.2), `None` at a close. A server masks nothing.
fn message(reader: &mut impl Read) -> Result<Option<Vec<u8>>> {
    loop {
        let mut head = [0; 2];
        reader.read_exact(&mut head)?;
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                reader.read_exact(&mut length)?;
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                reader.read_exact(&mut length)?;
                u64::from_be_bytes(length)
            }
            length => u64::from(length),
        };
        let payload = exactly(reader, usize::try_from(length)?)?;
        match head[0] {
            0x82 => return Ok(Some(payload)),
            0x88 => return Ok(None),
            0x89 | 0x8A => {}
            other => bail!("a frame that begins with {other:#x}"),
        }
    }
}

fn exactly(reader: &mut impl Read, length: usize) -> Result<Vec<u8>> {
    ensure!(length <= CHUNK_BYTES_MAX, "a piece of {length} bytes");
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Every picture from the first one on, which is a keyframe, to the stream's last is there once and in
/// order, decodes without a word, and has its sound. Returns the number of the first.
pub fn check_whole(file: &Path, recipe: &Recipe) -> Result<u32> {
    let name = || file.display().to_string();
    let flv = Flv::read(file)?;
    check_dts_rising(&flv).with_context(name)?;
    let first = flv.coded(Kind::Video).next().context("no picture")?;
    ensure!(first.is_keyframe() && first.dts_ms == 0, "{} begins with no keyframe", name());
    let sounds = flv.coded(Kind::Audio).count();
    let pictures = flv.coded(Kind::Video).count();
    ensure!(sounds > pictures, "{sounds} pieces of sound for {pictures} pictures in {}", name());
    let decoded = frames::decode(file)?;
    ensure!(decoded.errors.is_empty(), "{}: {:?}", name(), decoded.errors);
    let numbers = decoded.numbers();
    let first = numbers.first().copied().flatten().context("the first picture is unreadable")?;
    frames::check_exactly_once_in_order(&numbers, first..=recipe.frames() - 1)
        .with_context(name)?;
    Ok(first)
}

/// The pictures of the source rendition are the bytes that were sent.
pub fn check_untouched(sent: &Path, received: &Path, first: u32) -> Result<()> {
    let (sent, received) = (Flv::read(sent)?, Flv::read(received)?);
    let sent = sent.coded(Kind::Video).skip(usize::try_from(first)?).map(|tag| &tag.body);
    ensure!(sent.eq(received.coded(Kind::Video).map(|tag| &tag.body)), "other pictures than sent");
    Ok(())
}
