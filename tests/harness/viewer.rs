//! A viewer's side: HTTP as plain as it gets, and renditions of a stream put together from what
//! their playlists name.

use crate::fixture::Recipe;
use crate::frames;
use crate::passage::BOUND;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A blocking reload answers within three target durations.
const ANSWER_BOUND: Duration = Duration::from_secs(30);
const BODY_BYTES_MAX: u64 = 64 << 20;

/// The tables of a configuration that packages the streams of `live` below `run`, and serves them
/// on loopback; playlists list so much of them.
#[must_use]
pub fn tables(run: &Path, window: &str) -> String {
    let directory = run.join("hls").display().to_string();
    format!(
        "[apps.live.hls]\nwindow = {window:?}\n[delivery]\nlisten = [\"127.0.0.1:0\"]\nhls_directory = {directory:?}\n"
    )
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body of a 200, as text.
    pub fn text(&self) -> Result<String> {
        ensure!(
            self.status == 200,
            "HTTP {}: {}",
            self.status,
            String::from_utf8_lossy(&self.body)
        );
        Ok(String::from_utf8(self.body.clone())?)
    }
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Beside what every request has; a `Host` takes the place of the address.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a str,
}

/// `GET`, on a connection of its own. `address` is `host:port`.
pub fn get(address: &str, path: &str) -> Result<Response> {
    ask(address, &Asked { method: "GET", path, headers: &[], body: "" })
}

/// The same with another method and further headers.
pub fn request(address: &str, method: &str, path: &str, more: &[(&str, &str)]) -> Result<Response> {
    ask(address, &Asked { method, path, headers: more, body: "" })
}

/// One request on a connection of its own.
pub fn ask(address: &str, asked: &Asked<'_>) -> Result<Response> {
    let Asked { method, path, headers, body } = asked;
    let mut stream = TcpStream::connect(address).with_context(|| format!("to {address}"))?;
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in *headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    write!(stream, "{head}\r\n{body}")?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status: u16 = line.split(' ').nth(1).context("a status line")?.trim().parse()?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let response = Response { status, headers, body: Vec::new() };
    let body = match response.header("transfer-encoding") {
        Some("chunked") => chunked(&mut reader)?,
        Some(other) => bail!("a body in {other}"),
        None => {
            let mut body = Vec::new();
            reader.take(BODY_BYTES_MAX).read_to_end(&mut body)?;
            let has_body = *method != "HEAD" && !matches!(status, 204 | 304);
            if let Some(length) = response.header("content-length")
                && has_body
            {
                ensure!(length.parse::<usize>()? == body.len(), "a body cut short");
            }
            body
        }
    };
    Ok(Response { body, ..response })
}

fn chunked(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16)?;
        let at = body.len();
        body.resize(at + length, 0);
        reader.read_exact(&mut body[at..])?;
        reader.read_line(&mut line)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

/// A rendition as its playlist tells it, from the first segment to the end.
#[derive(Clone, Debug)]
pub struct Rendition {
    /// Init segment and all segments in one file.
    pub file: PathBuf,
    pub playlist: String,
    pub segments: usize,
}

/// Fetches everything that the ended playlist of a rendition lists.
pub fn rendition(address: &str, stream: &str, label: &str, into: &Path) -> Result<Rendition> {
    let base = format!("/live/{stream}/{label}");
    let playlist = get(address, &format!("{base}/index.m3u8"))?.text()?;
    ensure!(playlist.ends_with("#EXT-X-ENDLIST\n"), "it has not ended:\n{playlist}");
    let mut bytes = Vec::new();
    let mut segments = 0;
    for line in playlist.lines() {
        let uri = match line.strip_prefix("#EXT-X-MAP:URI=\"") {
            Some(rest) => rest.split('"').next().unwrap_or_default(),
            None if line.starts_with('#') || line.is_empty() => continue,
            None => {
                segments += 1;
                line
            }
        };
        let response = get(address, &format!("{base}/{uri}"))?;
        ensure!(response.status == 200, "{uri}: HTTP {}", response.status);
        bytes.extend(response.body);
    }
    let file = into.join(format!("{}_{label}.mp4", stream.replace('/', "_")));
    fs::write(&file, bytes)?;
    Ok(Rendition { file, playlist, segments })
}

/// Waits until the playlists of these renditions say that nothing follows, then watches everything:
/// each picture is there once and in order, and nothing tells of what happened behind.
pub fn check_whole(
    address: &str,
    stream: &str,
    labels: &[&str],
    recipe: &Recipe,
    into: &Path,
) -> Result<()> {
    for label in labels {
        wait::until(&format!("the end of {label} of {stream}"), BOUND, || {
            let playlist = get(address, &format!("/live/{stream}/{label}/index.m3u8"))?;
            Ok(playlist.text()?.contains("#EXT-X-ENDLIST").then_some(()))
        })?;
        let rendition = rendition(address, stream, label, into)?;
        let text = &rendition.playlist;
        let count = |tag: &str| text.lines().filter(|line| line.starts_with(tag)).count();
        let breaks = text.lines().filter(|line| *line == "#EXT-X-DISCONTINUITY").count();
        let name = || format!("{label} of {stream}");
        ensure!(breaks == 0, "{}: a discontinuity:\n{text}", name());
        ensure!(count("#EXT-X-MAP") == 1, "{}: another init segment:\n{text}", name());
        ensure!(count("#EXT-X-GAP") == 0, "{}: a gap:\n{text}", name());
        ensure!(rendition.segments >= 3, "{}: {} segments", name(), rendition.segments);
        let decoded = frames::decode(&rendition.file)?;
        ensure!(decoded.errors.is_empty(), "{}: {:?}", name(), decoded.errors);
        frames::check_exactly_once_in_order(&decoded.numbers(), 0..=recipe.frames() - 1)
            .with_context(name)?;
    }
    Ok(())
}
