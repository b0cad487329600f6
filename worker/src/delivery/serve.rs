//! Requests: found in the catalogue, waited for where a client may ask ahead, answered.

use super::address::{Address, NoAddress, Reload, Until, What};
use super::answer::{self, Answer, Keep, Text};
use super::catalogue::{Catalogue, Stream, StreamKey};
use super::flv::outlet::BodyOutlet;
use super::flv::streams::{Rendition as FlvRendition, Streams};
use super::flv::upgrade::{self, Handshake};
use super::flv::viewer::Viewer;
use super::playlist::{self, Ending, Extent, Sibling};
use super::rendition::{Rendition, Standing};
use super::{Connection, flv};
use crate::output::hls::place::PartNumber;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tasuki_shared::id::PublicName;
use tasuki_shared::limits::{DELIVERY_TEXTS_MAX, DELIVERY_WAITING_MAX};
use tokio::task::spawn_local;

/// The Advance Part Limit (RFC 8216bis, 6.2.5.2): how many parts are in this, and at least three.
const PARTS_AHEAD_MS: u64 = 3_000;
const PARTS_AHEAD_MIN: u64 = 3;
/// A wait is over after so many target durations (6.2.5.2).
const WAIT_TARGETS: u64 = 3;
/// Where a stream has not said its own yet.
const WAIT_FOR_STREAM: Duration = Duration::from_secs(5);

/// What all connections share.
pub struct Server {
    pub catalogue: RefCell<Catalogue>,
    allow_origin: HeaderValue,
    /// Rendered once for all who ask, with the version that they are of.
    texts: RefCell<HashMap<TextKey, (u64, Rc<Text>)>>,
    waiting: Cell<u32>,
    /// By the class of the status: 1xx and so on.
    answers: [Cell<u64>; 5],
    streams: Rc<Streams>,
    flv_viewers_max: u32,
}

type TextKey = (StreamKey, Option<(PublicName, IsDelta)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum IsDelta {
    No,
    Yes,
}

/// How a look at the catalogue ended.
enum Look<T> {
    Found(T),
    /// It may come: with the next change.
    Later {
        most: Duration,
    },
    Refused(StatusCode, &'static str),
}

/// Why nothing is found.
type Refusal = (StatusCode, &'static str);

const NO_STREAM: Refusal = (StatusCode::NOT_FOUND, "no stream of this name");
const TOO_MANY: Refusal = (StatusCode::SERVICE_UNAVAILABLE, "too many requests wait here");
const NOT_OFFERED: Refusal = (StatusCode::NOT_FOUND, "this rendition is not offered as FLV");
const LARGER_THAN_SOURCE: Refusal =
    (StatusCode::NOT_FOUND, "this rendition would be larger than the source");
const TOO_MANY_VIEWERS: Refusal = (StatusCode::SERVICE_UNAVAILABLE, "too many viewers");
const TOO_LATE: Refusal = (StatusCode::SERVICE_UNAVAILABLE, "it did not come in time");

/// Counted while it waits.
struct Waiting<'a>(&'a Cell<u32>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Server {
    #[must_use]
    pub fn new(
        catalogue: Catalogue,
        streams: Rc<Streams>,
        allow_origin: &str,
        flv_viewers_max: u32,
    ) -> Self {
        let any = HeaderValue::from_static("*");
        Self {
            catalogue: RefCell::new(catalogue),
            allow_origin: HeaderValue::from_str(allow_origin).unwrap_or(any),
            texts: RefCell::default(),
            waiting: Cell::new(0),
            answers: Default::default(),
            streams,
            flv_viewers_max,
        }
    }

    #[must_use]
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Requests that wait now.
    #[must_use]
    pub fn waits(&self) -> u32 {
        self.waiting.get()
    }

    /// Requests answered so far.
    #[must_use]
    pub fn answers(&self) -> [u64; 5] {
        self.answers.each_ref().map(Cell::get)
    }

    fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100);
        if let Some(answers) = class.checked_sub(1).and_then(|at| self.answers.get(at)) {
            answers.set(answers.get() + 1);
        }
    }

    /// Answers one request; its body is not looked at. A viewer that leaves before is not counted.
    pub async fn answer<B>(&self, mut request: Request<B>, connection: &Rc<Connection>) -> Answer {
        let mut answer = match *request.method() {
            Method::OPTIONS => answer::preflight(),
            Method::GET | Method::HEAD => {
                let uri = request.uri();
                match Address::parse(uri.path(), uri.query()) {
                    Ok(Address { app, name, what: What::Flv { label } }) => {
                        self.flv(&(app, name), label.as_ref(), &mut request, connection)
                    }
                    Ok(address) => self.find(address, request.headers()).await,
                    Err(NoAddress::Unknown) => {
                        answer::refusal(StatusCode::NOT_FOUND, &NoAddress::Unknown.to_string())
                    }
                    Err(
                        error @ (NoAddress::BadSegment
                        | NoAddress::BadPart
                        | NoAddress::PartWithoutSegment
                        | NoAddress::BadSkip),
                    ) => answer::refusal(StatusCode::BAD_REQUEST, &error.to_string()),
                }
            }
            _ => {
                answer::refusal(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD and OPTIONS are served")
            }
        };
        answer::allow(&mut answer, &self.allow_origin);
        self.count(answer.status());
        answer
    }

    async fn find(&self, address: Address, headers: &HeaderMap) -> Answer {
        let Address { app, name, what } = address;
        let key = (app, name);
        match what {
            What::Multivariant => {
                let found = self.wait(&key, |stream| self.multivariant(&key, stream)).await;
                found.map_or_else(refused, |text| answer::playlist(&text, headers, Keep::No))
            }
            What::Playlist { label, reload } => {
                let look = |stream: &Stream| self.playlist(&key, stream, &label, reload);
                // One that was waited for is that of its directives, whoever asks for it.
                let keep = match (reload.until, self.target_seconds(&key)) {
                    (Some(_), Some(seconds)) => Keep::Seconds(seconds),
                    (Some(_) | None, Some(_) | None) => Keep::No,
                };
                let found = self.wait(&key, look).await;
                found.map_or_else(refused, |text| answer::playlist(&text, headers, keep))
            }
            What::Init { label, hash } => {
                let look = |stream: &Stream| match here(stream, &label) {
                    Err(refusal) => refusal,
                    Ok(rendition) => match rendition.inits.get(&hash) {
                        Some(init) => Look::Found(init.media.clone()),
                        None => Look::Refused(StatusCode::NOT_FOUND, "no such init segment"),
                    },
                };
                self.media(&key, look, &hash.to_string(), headers).await
            }
            What::Part { label, number } => {
                let look = |stream: &Stream| part(stream, &label, number);
                let PartNumber { segment, part } = number;
                self.media(&key, look, &format!("{segment}.{part}"), headers).await
            }
            // Answered without waiting.
            What::Flv { .. } => refused(NO_STREAM),
            What::Segment { label, number } => {
                let look = |stream: &Stream| segment(stream, &label, number);
                self.media(&key, look, &number.to_string(), headers).await
            }
        }
    }

    /// A live stream from its logs, over HTTP or over a WebSocket.
    fn flv<B>(
        &self,
        key: &StreamKey,
        label: Option<&PublicName>,
        request: &mut Request<B>,
        connection: &Rc<Connection>,
    ) -> Answer {
        let found = self.streams.find(key).ok_or(NO_STREAM).and_then(|stream| {
            let rung = stream.rung(label).ok_or(NOT_OFFERED)?;
            match stream.rendition(rung) {
                FlvRendition::Off => Err(LARGER_THAN_SOURCE),
                FlvRendition::Reads(_) | FlvRendition::Later => Ok((stream, rung)),
            }
        });
        let (stream, rung) = match found {
            Ok(found) => found,
            Err(refusal) => return refused(refusal),
        };
        if self.streams.viewers() >= self.flv_viewers_max {
            return refused(TOO_MANY_VIEWERS);
        }
        if *request.method() == Method::HEAD {
            return answer::flv(Bytes::new().into());
        }
        let viewer = || Viewer::new(self.streams.watch(stream), rung);
        match Handshake::of(request.version(), request.headers(), &self.allow_origin) {
            Handshake::None => {
                let (outlet, body) = BodyOutlet::new(Rc::clone(connection));
                spawn_local(flv::serve(viewer(), outlet));
                answer::flv(body)
            }
            Handshake::Good(accept) => {
                let upgrade = hyper::upgrade::on(request);
                upgrade::accept(&accept, upgrade, viewer(), Rc::clone(connection))
            }
            Handshake::Refused(status, reason) => refused((status, reason)),
        }
    }

    async fn media(
        &self,
        key: &StreamKey,
        look: impl Fn(&Stream) -> Look<Bytes>,
        name: &str,
        headers: &HeaderMap,
    ) -> Answer {
        let seconds = self.window_seconds(key);
        match self.wait(key, look).await {
            Ok(body) => answer::media(&body, name, headers, Keep::Seconds(seconds)),
            Err(refusal) => refused(refusal),
        }
    }

    /// Looks until it is found, refused, or has been waited for long enough.
    async fn wait<T>(
        &self,
        key: &StreamKey,
        look: impl Fn(&Stream) -> Look<T>,
    ) -> Result<T, Refusal> {
        let mut waits = None;
        loop {
            let (mut changes, looked) = {
                let catalogue = self.catalogue.borrow();
                match catalogue.stream(key) {
                    Some(stream) => (stream.subscribe(), look(stream)),
                    None if self.makes_directory(key) => {
                        (catalogue.subscribe(), Look::Later { most: WAIT_FOR_STREAM })
                    }
                    None => return Err(NO_STREAM),
                }
            };
            let most = match looked {
                Look::Found(found) => return Ok(found),
                Look::Refused(status, reason) => return Err((status, reason)),
                Look::Later { most } => most,
            };
            let (_counted, until) = match &mut waits {
                Some(waits) => waits,
                None => {
                    if self.waiting.get() >= DELIVERY_WAITING_MAX {
                        return Err(TOO_MANY);
                    }
                    self.waiting.set(self.waiting.get() + 1);
                    let until = tokio::time::Instant::now() + most;
                    waits.insert((Waiting(&self.waiting), until))
                }
            };
            match tokio::time::timeout_at(*until, changes.changed()).await {
                Ok(Ok(())) => {}
                // Its directory is gone.
                Ok(Err(_)) => return Err(NO_STREAM),
                Err(_) => return Err(TOO_LATE),
            }
        }
    }

    /// Is it live, and will it have a directory?
    fn makes_directory(&self, key: &StreamKey) -> bool {
        self.streams.find(key).is_some_and(|stream| stream.is_packaged())
    }

    fn multivariant(&self, key: &StreamKey, stream: &Stream) -> Look<Rc<Text>> {
        let Some(offer) = stream.offer() else {
            if stream.ending == Ending::Ended {
                return Look::Refused(StatusCode::NOT_FOUND, "the stream ended before it began");
            }
            return Look::Later { most: wait_of(stream) };
        };
        let render = || playlist::multivariant(offer.into_iter());
        Look::Found(self.text((key.clone(), None), stream.version(), render))
    }

    fn playlist(
        &self,
        key: &StreamKey,
        stream: &Stream,
        label: &PublicName,
        reload: Reload,
    ) -> Look<Rc<Text>> {
        let rendition = match here(stream, label) {
            Ok(rendition) => rendition,
            Err(refusal) => return refusal,
        };
        let (Some(about), Some(edge)) = (&stream.about, rendition.edge()) else {
            return Look::Later { most: wait_of(stream) };
        };
        if let Some(until) = reload.until
            && stream.ending == Ending::Open
        {
            if is_beyond_segments(rendition, until) {
                return Look::Refused(
                    StatusCode::BAD_REQUEST,
                    "_HLS_msn is beyond the next segments",
                );
            }
            if !has(rendition, until) {
                if parts_ahead(edge, until) > advance_part_limit(about.part_target_ms) {
                    return Look::Refused(
                        StatusCode::BAD_REQUEST,
                        "_HLS_part is beyond the next parts",
                    );
                }
                return Look::Later { most: wait_of(stream) };
            }
        }
        let siblings: Vec<Sibling> = stream
            .renditions
            .iter()
            .filter(|it| it.label != *label && it.standing == Standing::Here)
            .filter_map(|it| Some(Sibling { label: it.label.to_string(), edge: it.edge()? }))
            .collect();
        let delta = match reload.extent {
            Extent::Full => IsDelta::No,
            Extent::Delta => IsDelta::Yes,
        };
        let render = || playlist::media(rendition, about, &siblings, stream.ending, reload.extent);
        let text = (key.clone(), Some((label.clone(), delta)));
        Look::Found(self.text(text, stream.version(), render))
    }

    fn text(&self, key: TextKey, version: u64, render: impl FnOnce() -> String) -> Rc<Text> {
        let mut texts = self.texts.borrow_mut();
        if let Some((of, text)) = texts.get(&key)
            && *of == version
        {
            return Rc::clone(text);
        }
        if texts.len() >= DELIVERY_TEXTS_MAX {
            // Many are of streams that are gone; those still wanted are made again.
            texts.clear();
        }
        let text = Rc::new(Text::new(render()));
        texts.insert(key, (version, Rc::clone(&text)));
        text
    }

    fn target_seconds(&self, key: &StreamKey) -> Option<u64> {
        let catalogue = self.catalogue.borrow();
        Some(catalogue.stream(key)?.about.as_ref()?.target_ms.div_ceil(1000))
    }

    fn window_seconds(&self, key: &StreamKey) -> u64 {
        let catalogue = self.catalogue.borrow();
        let about = catalogue.stream(key).and_then(|stream| stream.about.as_ref());
        about.map_or(1, |about| about.window_ms.div_ceil(1000))
    }
}

fn refused((status, reason): Refusal) -> Answer {
    answer::refusal(status, reason)
}

/// The rendition, if it is there for viewers.
fn here<'a, T>(stream: &'a Stream, label: &PublicName) -> Result<&'a Rendition, Look<T>> {
    match stream.rendition(label) {
        Some(rendition) if rendition.standing == Standing::Here => Ok(rendition),
        Some(_) => Err(Look::Refused(StatusCode::NOT_FOUND, "this rendition has left the stream")),
        // Its stream has not said yet which ones it has.
        None if stream.about.is_none() => Err(Look::Later { most: WAIT_FOR_STREAM }),
        None => Err(Look::Refused(StatusCode::NOT_FOUND, "no such rendition")),
    }
}

fn part(stream: &Stream, label: &PublicName, number: PartNumber) -> Look<Bytes> {
    let rendition = match here(stream, label) {
        Ok(rendition) => rendition,
        Err(refusal) => return refusal,
    };
    if let Some(media) = stream.media_of(rendition, number) {
        return Look::Found(media);
    }
    if rendition.next() == Some(number) && stream.ending == Ending::Open {
        return Look::Later { most: wait_of(stream) };
    }
    Look::Refused(StatusCode::NOT_FOUND, "no such part")
}

/// All parts of a whole segment, one behind the other.
fn segment(stream: &Stream, label: &PublicName, number: u64) -> Look<Bytes> {
    let rendition = match here(stream, label) {
        Ok(rendition) => rendition,
        Err(refusal) => return refusal,
    };
    let missing = || Look::Refused(StatusCode::NOT_FOUND, "no such segment");
    let Some(found) = rendition.segment(number).filter(|segment| segment.is_whole()) else {
        return missing();
    };
    let join = || {
        let mut body = BytesMut::with_capacity(usize::try_from(found.media_bytes()).unwrap_or(0));
        for (part, _) in (0..).zip(&found.parts) {
            match stream.media_of(rendition, PartNumber { segment: number, part }) {
                Some(media) => body.extend_from_slice(&media),
                // It was removed while this was read.
                None => return Err(missing()),
            }
        }
        Ok(body.freeze())
    };
    found.whole(join).map_or_else(|refusal| refusal, Look::Found)
}

/// Has the playlist what a client waits for? A part beyond a segment's last is the next one's first.
fn has(rendition: &Rendition, until: Until) -> bool {
    let Some(edge) = rendition.edge() else { return false };
    match until {
        Until::Segment(segment) => rendition.next().is_some_and(|next| next.segment > segment),
        Until::Part(number) => {
            let first_of_next = PartNumber { segment: number.segment + 1, part: 0 };
            let is_beyond = rendition.segment(number.segment).is_some_and(|segment| {
                segment.is_whole()
                    && usize::try_from(number.part).unwrap_or(0) >= segment.parts.len()
            });
            edge >= if is_beyond { first_of_next } else { number }
        }
    }
}

/// Is it farther than two segments behind the last one that the playlist has (RFC 8216bis, 6.2.5.2)?
/// One that is open has parts there and is no segment of it yet.
fn is_beyond_segments(rendition: &Rendition, until: Until) -> bool {
    let (Until::Segment(segment) | Until::Part(PartNumber { segment, .. })) = until;
    // Two behind the last whole one is one behind the open one.
    rendition.next().is_some_and(|next| segment > next.segment.saturating_add(1))
}

fn advance_part_limit(part_target_ms: u64) -> u64 {
    (PARTS_AHEAD_MS / part_target_ms.max(1)).max(PARTS_AHEAD_MIN)
}

/// How many parts behind the edge a client asks for at least. How many the open segment still gets
/// nobody knows.
fn parts_ahead(edge: PartNumber, until: Until) -> u64 {
    match until {
        Until::Segment(_) => 0,
        Until::Part(number) if number.segment == edge.segment => {
            u64::from(number.part.saturating_sub(edge.part))
        }
        Until::Part(number) => u64::from(number.part) + 1,
    }
}

fn wait_of(stream: &Stream) -> Duration {
    let about = stream.about.as_ref();
    about.map_or(WAIT_FOR_STREAM, |about| Duration::from_millis(WAIT_TARGETS * about.target_ms))
}

#[cfg(test)]
mod tests {
    use super::super::rendition::tests::filled;
    use super::*;

    /// A client that asks for a part behind a segment's last one waits for the next segment.
    #[test]
    fn what_a_playlist_must_have_is_found_across_segments() {
        let whole = filled("720p", 7, 1, 0);
        let until = |segment, part| Until::Part(PartNumber { segment, part });
        assert!(has(&whole, until(7, 0)) && has(&whole, until(7, 9)));
        assert!(!has(&whole, until(7, 10)) && !has(&whole, until(8, 0)));
        assert!(has(&whole, Until::Segment(7)) && !has(&whole, Until::Segment(8)));
        let open = filled("720p", 7, 1, 2);
        assert!(has(&open, until(7, 10)) && has(&open, until(8, 1)) && !has(&open, until(8, 2)));
        assert!(has(&open, Until::Segment(7)) && !has(&open, Until::Segment(8)));
    }

    #[test]
    fn parts_are_counted_from_the_edge_or_from_the_next_segments_beginning() {
        let edge = PartNumber { segment: 8, part: 4 };
        let ahead = |segment, part| parts_ahead(edge, Until::Part(PartNumber { segment, part }));
        assert_eq!((ahead(8, 5), ahead(8, 18), ahead(9, 0), ahead(9, 13)), (1, 14, 1, 14));
        assert_eq!(parts_ahead(edge, Until::Segment(10)), 0);
        let limits = [200, 220, 999, 1_000, 4_000].map(advance_part_limit);
        assert_eq!(limits, [15, 13, 3, 3, 3]);
    }

    /// Two segments behind the last whole one may be asked for, and nothing farther.
    #[test]
    fn what_is_farther_than_two_segments_is_beyond() {
        let beyond = |rendition: &Rendition, segment| {
            let part = Until::Part(PartNumber { segment, part: 0 });
            let whole = is_beyond_segments(rendition, Until::Segment(segment));
            assert_eq!(is_beyond_segments(rendition, part), whole);
            whole
        };
        // 8 is open, so that 7 is the last.
        let open = filled("720p", 7, 1, 2);
        assert!(!beyond(&open, 9) && beyond(&open, 10));
        let whole = filled("720p", 7, 1, 10);
        assert!(!beyond(&whole, 10) && beyond(&whole, 11) && beyond(&whole, u64::MAX));
    }
}
