//! What goes back to a viewer: status, headers, body. Pure but for the compression of a text.

use super::flv::outlet::AnswerBody;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, RANGE, VARY,
};
use http::{HeaderMap, Response, StatusCode};
use std::cell::OnceCell;
use std::io::Write as _;

pub type Answer = Response<AnswerBody>;

const PLAYLIST: &str = "application/vnd.apple.mpegurl";
const MEDIA: &str = "video/mp4";
const FLV: &str = "video/x-flv";
const TEXT: &str = "text/plain; charset=utf-8";
const CORS: HeaderName = http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
/// What scripts may read beside the simple headers.
const EXPOSED: &str = "Content-Length, Content-Range, ETag, Date";
/// Of a text, which is packed for some.
const VARIES: HeaderValue = HeaderValue::from_static("accept-encoding");
/// How long a preflight holds.
const PREFLIGHT_SECONDS: &str = "86400";

/// A text that many ask for: compressed once, when the first one wants it so.
pub struct Text {
    plain: Bytes,
    gzip: OnceCell<Bytes>,
    etag: HeaderValue,
    /// A tag names the very bytes (RFC 9110, 8.8.3.3).
    etag_gzip: HeaderValue,
}

/// For how long a cache may keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It never changes.
    Seconds(u64),
    /// It is asked for again at once.
    No,
}

impl Text {
    #[must_use]
    pub fn new(text: String) -> Self {
        let hash = crate::output::hls::place::InitHash::of(text.as_bytes());
        Self {
            plain: text.into(),
            gzip: OnceCell::new(),
            etag: etag(&hash.to_string()),
            etag_gzip: etag(&format!("{hash}.gz")),
        }
    }

    fn gzip(&self) -> Bytes {
        let pack = || {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            // Writing to a Vec cannot fail.
            let _ = encoder.write_all(&self.plain);
            Bytes::from(encoder.finish().unwrap_or_default())
        };
        self.gzip.get_or_init(pack).clone()
    }
}

/// A playlist.
#[must_use]
pub fn playlist(text: &Text, request: &HeaderMap, keep: Keep) -> Answer {
    // Either says that the client has this text.
    if let Some(etag) = [&text.etag, &text.etag_gzip].into_iter().find(|tag| matches(request, tag))
    {
        let mut answer = not_modified(etag, keep);
        answer.headers_mut().insert(VARY, VARIES);
        return answer;
    }
    let packed = accepts_gzip(request);
    let (body, etag) =
        if packed { (text.gzip(), &text.etag_gzip) } else { (text.plain.clone(), &text.etag) };
    let mut answer = full(StatusCode::OK, PLAYLIST, body);
    let headers = answer.headers_mut();
    headers.insert(ETAG, etag.clone());
    headers.insert(CACHE_CONTROL, keep.value());
    headers.insert(VARY, VARIES);
    if packed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

/// Media, whole or the range that is asked for. `name` tells it from all other media.
#[must_use]
pub fn media(body: &Bytes, name: &str, request: &HeaderMap, keep: Keep) -> Answer {
    let etag = etag(name);
    if matches(request, &etag) {
        return not_modified(&etag, keep);
    }
    let length = body.len();
    let mut answer = match request.get(RANGE).and_then(|range| range.to_str().ok()) {
        None => full(StatusCode::OK, MEDIA, body.clone()),
        Some(range) => match Range::parse(range, length) {
            Range::Whole => full(StatusCode::OK, MEDIA, body.clone()),
            Range::Part { first, last } => {
                let part = body.slice(first..=last);
                let mut answer = full(StatusCode::PARTIAL_CONTENT, MEDIA, part);
                put(&mut answer, CONTENT_RANGE, &format!("bytes {first}-{last}/{length}"));
                answer
            }
            Range::Beyond => {
                let mut answer = refusal(StatusCode::RANGE_NOT_SATISFIABLE, "beyond the end");
                put(&mut answer, CONTENT_RANGE, &format!("bytes */{length}"));
                return answer;
            }
        },
    };
    let headers = answer.headers_mut();
    headers.insert(ETAG, etag);
    headers.insert(CACHE_CONTROL, keep.value());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answer
}

/// A body that comes piece by piece, of which nothing may be kept.
#[must_use]
pub fn flv(body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(FLV));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A refusal with its reason in a sentence.
#[must_use]
pub fn refusal(status: StatusCode, reason: &str) -> Answer {
    let mut answer = full(status, TEXT, Bytes::from(format!("{reason}\n")));
    // A stream may begin at any moment.
    put(&mut answer, CACHE_CONTROL, "max-age=1");
    answer
}

/// The answer to a preflight (Fetch, "CORS-preflight request").
#[must_use]
pub fn preflight() -> Answer {
    let mut answer = full(StatusCode::NO_CONTENT, TEXT, Bytes::new());
    put(&mut answer, http::header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS");
    put(&mut answer, http::header::ACCESS_CONTROL_ALLOW_HEADERS, "Range, If-None-Match");
    put(&mut answer, http::header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    answer
}

/// Which pages may read it.
pub fn allow(answer: &mut Answer, origin: &HeaderValue) {
    let headers = answer.headers_mut();
    headers.insert(CORS, origin.clone());
    let exposed = HeaderValue::from_static(EXPOSED);
    headers.insert(http::header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    if origin != "*" {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

impl Keep {
    fn value(self) -> HeaderValue {
        match self {
            Self::Seconds(seconds) => header(&format!("public, max-age={seconds}, immutable")),
            Self::No => HeaderValue::from_static("no-cache"),
        }
    }
}

/// What of a body is asked for (RFC 9110, 14.2): one range; several are answered with the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { first: usize, last: usize },
    Beyond,
}

impl Range {
    fn parse(text: &str, length: usize) -> Self {
        let Some((first, last)) = text.strip_prefix("bytes=").and_then(|it| it.split_once('-'))
        else {
            return Self::Whole;
        };
        let end = length.saturating_sub(1);
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), _) if first >= length => Self::Beyond,
            (Ok(first), Ok(last)) if first <= last => Self::Part { first, last: last.min(end) },
            (Ok(first), Err(_)) if last.trim().is_empty() => Self::Part { first, last: end },
            (Err(_), Ok(0)) if first.trim().is_empty() => Self::Beyond,
            (Err(_), Ok(count)) if first.trim().is_empty() && length > 0 => {
                Self::Part { first: length.saturating_sub(count), last: end }
            }
            (Ok(_) | Err(_), Ok(_) | Err(_)) => Self::Whole,
        }
    }
}

fn full(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(AnswerBody::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn not_modified(etag: &HeaderValue, keep: Keep) -> Answer {
    let mut answer = Response::new(AnswerBody::from(Bytes::new()));
    *answer.status_mut() = StatusCode::NOT_MODIFIED;
    answer.headers_mut().insert(ETAG, etag.clone());
    answer.headers_mut().insert(CACHE_CONTROL, keep.value());
    answer
}

fn etag(text: &str) -> HeaderValue {
    header(&format!("\"{text}\""))
}

fn put(answer: &mut Answer, name: HeaderName, value: &str) {
    answer.headers_mut().insert(name, header(value));
}

/// What is put into headers here is ASCII.
fn header(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn matches(request: &HeaderMap, etag: &HeaderValue) -> bool {
    let Some(known) = request.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    known.split(',').any(|one| one.trim().trim_start_matches("W/").as_bytes() == etag.as_bytes())
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let accepted = request.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.unwrap_or_default().split(',').any(|one| {
        let (name, quality) = one.split_once(';').unwrap_or((one, ""));
        name.trim() == "gzip" && !matches!(quality.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use http_body_util::BodyExt;
    use std::io::Read;

    fn asking(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn body(answer: Answer) -> Bytes {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(answer.into_body().collect()).unwrap().to_bytes()
    }

    #[test]
    fn ranges_are_cut_out_and_those_beyond_are_refused() {
        let whole = Bytes::from_static(b"0123456789");
        for (range, status, expected) in [
            ("bytes=2-4", 206, "234"),
            ("bytes=7-", 206, "789"),
            ("bytes=7-99", 206, "789"),
            ("bytes=-3", 206, "789"),
            ("bytes=-99", 206, "0123456789"),
            ("bytes=4-2", 200, "0123456789"),
            ("bytes=0-1,3-4", 200, "0123456789"),
            ("lines=1-2", 200, "0123456789"),
            ("bytes=10-", 416, "beyond the end\n"),
            ("bytes=-0", 416, "beyond the end\n"),
        ] {
            let request = asking(&[(RANGE, range)]);
            let answer = media(&whole, "7.1", &request, Keep::No);
            assert_eq!(answer.status(), status, "{range}");
            assert_eq!(body(answer), expected, "{range}");
        }
    }

    /// The same text, packed for who accepts that and not sent again to who has it.
    #[test]
    fn a_text_is_packed_and_not_sent_twice() {
        let text = Text::new("#EXTM3U\n".repeat(100));
        let plain = playlist(&text, &HeaderMap::new(), Keep::No);
        let tag = plain.headers()[ETAG].clone();
        assert_eq!(body(plain), text.plain);
        let packed = playlist(&text, &asking(&[(ACCEPT_ENCODING, "br, gzip;q=0.5")]), Keep::No);
        assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
        let packed_tag = packed.headers()[ETAG].clone();
        assert_ne!(packed_tag, tag);
        let packed = body(packed);
        assert!(packed.len() < 200);
        let mut unpacked = Vec::new();
        GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, text.plain);
        let refused = asking(&[(ACCEPT_ENCODING, "gzip;q=0")]);
        assert!(!playlist(&text, &refused, Keep::No).headers().contains_key(CONTENT_ENCODING));
        for tag in [tag, packed_tag] {
            let mut again = HeaderMap::new();
            again.insert(IF_NONE_MATCH, tag.clone());
            let same = playlist(&text, &again, Keep::No);
            assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
            assert_eq!((&same.headers()[ETAG], &same.headers()[VARY]), (&tag, &VARIES));
        }
    }
}
