//! What HTTP itself asks of the answers (RFC 9110, RFC 9111, Fetch): caches, ranges, other origins.

use crate::viewer::{self, Response};
use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use std::io::Read as _;

const ORIGIN: (&str, &str) = ("Origin", "http://player.example");

/// Findings of a media file that is there.
pub fn media(address: &str, path: &str) -> Result<Vec<String>> {
    let mut findings = Findings::default();
    let whole = viewer::request(address, "GET", path, &[ORIGIN])?;
    let length = whole.body.len();
    findings.unless(whole.status == 200, || format!("{path}: HTTP {}", whole.status));
    findings.common(&whole, "video/mp4");
    let keep = whole.header("cache-control").unwrap_or_default().to_owned();
    findings.unless(keep.contains("immutable") && max_age(&keep) >= 10, || format!("kept: {keep}"));
    findings.unless(whole.header("accept-ranges") == Some("bytes"), || "no Accept-Ranges".into());

    let head = viewer::request(address, "HEAD", path, &[])?;
    let said = head.header("content-length").and_then(|text| text.parse().ok());
    findings.unless(said == Some(length), || format!("HEAD says {said:?} bytes of {length}"));
    findings.unless(head.body.is_empty(), || "HEAD has a body".into());

    let tag = whole.header("etag").unwrap_or_default().to_owned();
    findings.unchanged(address, path, &tag)?;
    for (range, from, to) in [
        ("bytes=0-99".to_owned(), 0, 99),
        ("bytes=100-".to_owned(), 100, length - 1),
        ("bytes=-7".to_owned(), length - 7, length - 1),
    ] {
        let part = viewer::request(address, "GET", path, &[("Range", &range)])?;
        let said = part.header("content-range").unwrap_or_default().to_owned();
        findings.unless(
            part.status == 206
                && said == format!("bytes {from}-{to}/{length}")
                && part.body == whole.body[from..=to],
            || format!("{range}: HTTP {}, {said}, {} bytes", part.status, part.body.len()),
        );
    }
    let beyond = format!("bytes={length}-");
    let beyond = viewer::request(address, "GET", path, &[("Range", &beyond)])?;
    findings.unless(beyond.status == 416, || format!("beyond the end: {}", beyond.status));

    let preflight = [ORIGIN, ("Access-Control-Request-Method", "GET")];
    let preflight = viewer::request(address, "OPTIONS", path, &preflight)?;
    let of = |name: &str| preflight.header(name).unwrap_or_default().to_ascii_lowercase();
    findings.unless(
        matches!(preflight.status, 200 | 204)
            && of("access-control-allow-origin") == "*"
            && of("access-control-allow-methods").contains("get")
            && of("access-control-allow-headers").contains("range"),
        || format!("a preflight is answered by {preflight:?}"),
    );
    let missing = viewer::request(address, "GET", &format!("{path}x"), &[ORIGIN])?;
    let keep = missing.header("cache-control").unwrap_or_default().to_owned();
    findings.unless(missing.status == 404 && max_age(&keep) <= 1, || {
        format!("what is not there: HTTP {}, {keep}", missing.status)
    });
    findings.unless(missing.header("access-control-allow-origin").is_some(), || {
        "a page may not read that it is not there".into()
    });
    Ok(findings.0)
}

/// Findings of a playlist that does not change any more.
pub fn ended_playlist(address: &str, path: &str) -> Result<Vec<String>> {
    let mut findings = Findings::default();
    let plain = viewer::request(address, "GET", path, &[ORIGIN])?;
    findings.common(&plain, "application/vnd.apple.mpegurl");
    let accepts = [("Accept-Encoding", "gzip")];
    let packed = viewer::request(address, "GET", path, &accepts)?;
    let of = |name: &str| packed.header(name).unwrap_or_default().to_ascii_lowercase();
    findings.unless(of("content-encoding") == "gzip", || format!("not packed: {packed:?}"));
    findings.unless(of("vary").contains("accept-encoding"), || format!("Vary: {}", of("vary")));
    let mut unpacked = Vec::new();
    GzDecoder::new(&*packed.body).read_to_end(&mut unpacked).context("unpacking")?;
    findings.unless(unpacked == plain.body, || "packed it is another one".into());
    findings.unless(packed.body.len() < plain.body.len(), || "packing makes it longer".into());
    let tag = |response: &Response| response.header("etag").unwrap_or_default().to_owned();
    // RFC 9110, 8.8.3.3: a strong tag names the bytes.
    findings.unless(tag(&packed) != tag(&plain), || "packed and plain have one ETag".into());
    findings.unchanged(address, path, &tag(&plain))?;
    findings.unchanged(address, path, &tag(&packed))?;
    Ok(findings.0)
}

#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn unless(&mut self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            self.0.push(what());
        }
    }

    fn common(&mut self, response: &Response, kind: &str) {
        let of = |name: &str| response.header(name).unwrap_or_default().to_owned();
        self.unless(of("content-type") == kind, || format!("it is {}", of("content-type")));
        let origin = of("access-control-allow-origin");
        self.unless(origin == "*", || format!("pages that may read it: {origin}"));
        let tag = of("etag");
        self.unless(tag.starts_with('"'), || format!("its ETag is {tag:?}"));
    }

    /// Who has it is not sent it again, and learns what a 200 would have said to caches (15.4.5).
    fn unchanged(&mut self, address: &str, path: &str, tag: &str) -> Result<()> {
        let asks = [("If-None-Match", tag), ("Accept-Encoding", "gzip")];
        let same = viewer::request(address, "GET", path, &asks)?;
        self.unless(same.status == 304 && same.body.is_empty(), || {
            format!("{tag} is sent again: HTTP {}", same.status)
        });
        self.unless(same.header("cache-control").is_some(), || {
            "a 304 without Cache-Control".into()
        });
        let whole = viewer::request(address, "GET", path, &asks[1..])?;
        let varies = whole.header("vary").map(str::to_owned);
        self.unless(varies.is_none() || same.header("vary").is_some(), || {
            "a 304 without Vary".into()
        });
        let other = viewer::request(address, "GET", path, &[("If-None-Match", "\"other\"")])?;
        self.unless(other.status == 200, || format!("another ETag: HTTP {}", other.status));
        Ok(())
    }
}

fn max_age(keep: &str) -> u64 {
    let age = keep.split(',').find_map(|one| one.trim().strip_prefix("max-age="));
    age.and_then(|age| age.parse().ok()).unwrap_or(0)
}
