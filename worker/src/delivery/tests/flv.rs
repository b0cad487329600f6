//! FLV as its viewers get it: logs that a test writes as a worker would, and real sockets.

use super::client::{self, get};
use super::{Root, plan, served_with};
use crate::delivery::flv::streams::Streams;
use crate::delivery::flv::tags::TagKind;
use crate::delivery::flv::viewer::{Filled, Viewer};
use futures_util::{SinkExt, StreamExt};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tasuki_shared::id::{PublicName, RungId, SessionId};
use tasuki_shared::kernel::reopen_read_only;
use tasuki_shared::limits::FLV_STALL_MAX;
use tasuki_shared::memory::log::{self, EntryKind, LogHeads, LogWriter, RungState};
use tasuki_shared::plan::{
    AudioPlan, EncodedRung, FlvPlan, LogSize, Plan, RungKind, RungPlan, StreamLimits,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// 160x90, High, 25 fps, by x264.
const AVCC: &[u8] = &[
    0x01, 0x64, 0x00, 0x0B, 0xFF, 0xE1, 0x00, 0x1A, 0x67, 0x64, 0x00, 0x0B, 0xAC, 0xD9, 0x42, 0xCD,
    0xE2, 0x24, 0xC0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x03, 0x00, 0xC8, 0x3C, 0x50,
    0xA6, 0x58, 0x01, 0x00, 0x06, 0x68, 0xEB, 0xE3, 0xCB, 0x22, 0xC0, 0xFD, 0xF8, 0xF8, 0x00,
];
const SOURCE: &str = "/live/live/cam.flv";
const RUNG: &str = "/live/live/cam/72p.flv";
/// A viewer that waits for what never comes must not hold a test for longer.
const BOUND: Duration = Duration::from_secs(20);

/// One stream's worker, as far as logs go: `source` and `72p`, sound copied.
pub(super) struct Broadcast {
    pub(super) session: SessionId,
    pub(super) plan: Plan,
    fds: Vec<OwnedFd>,
    source: LogWriter,
    rung: LogWriter,
    picture: u32,
}

fn shape(payload_bytes: u64) -> Plan {
    let size = LogSize { payload_bytes, index_entries: 1024 };
    let encoded = EncodedRung {
        short_side: 72,
        bitrate_bps: 100_000,
        preset: "veryfast".to_owned(),
        crf: 23.0,
        log: size,
    };
    let rung = |label: &str, kind| RungPlan { label: label.to_owned(), kind };
    Plan {
        app: "live".to_owned(),
        name: PublicName::parse("cam").unwrap(),
        limits: StreamLimits { width_max: 1, height_max: 1, fps_max: 1, bitrate_bps_max: 1 },
        silence_ms_max: 30_000,
        source_log: size,
        rungs: vec![rung("source", RungKind::Source), rung("72p", RungKind::Encoded(encoded))],
        audio: AudioPlan::Copy,
        blur: Vec::new(),
        pushes: Vec::new(),
        record: None,
        hls: None,
        thumbnail: None,
        flv: Some(FlvPlan { rungs: vec![RungId(0), RungId(1)] }),
    }
}

impl Broadcast {
    /// Nothing was sent, and no sequence header.
    fn silent(counter: u64, payload_bytes: u64) -> Self {
        let plan = shape(payload_bytes);
        let fds: Vec<OwnedFd> =
            plan.logs().iter().map(|(_, size)| log::create(*size).unwrap()).collect();
        let writer = |at: usize| LogWriter::resume(&fds[at], LogHeads::empty()).unwrap();
        let (source, rung) = (writer(0), writer(1));
        Self { session: SessionId { epoch: 1, counter }, plan, fds, source, rung, picture: 0 }
    }

    pub(super) fn begin(counter: u64, payload_bytes: u64) -> Self {
        let mut broadcast = Self::silent(counter, payload_bytes);
        let video = [b"\x17\0\0\0\0".as_slice(), AVCC].concat();
        let audio = b"\xAF\0\x11\x90";
        broadcast.source.put(&[&video], EntryKind::VideoHeader, 0, 0, 0).unwrap();
        broadcast.source.put(&[audio], EntryKind::AudioHeader, 0, 0, 0).unwrap();
        broadcast.rung.put(&[&video], EntryKind::VideoHeader, 0, 0, 0).unwrap();
        broadcast.rung.tell_rung(RungState::Encoded);
        broadcast.publish();
        broadcast
    }

    /// As the supervisor tells it.
    pub(super) fn go_live(&self, streams: &Streams) {
        let fds: Vec<OwnedFd> = self.fds.iter().map(|fd| reopen_read_only(fd).unwrap()).collect();
        streams.live(self.session, self.plan.for_viewers(), &fds).unwrap();
    }

    fn viewers(&self, streams: &Streams) -> u32 {
        let stream = streams.find(&key()).expect("live");
        assert_eq!(stream.session(), self.session);
        stream.viewers()
    }

    fn publish(&self) {
        self.source.publish();
        self.rung.publish();
    }

    /// So many pictures, each with a piece of sound; every tenth is an IDR. Each body is its number
    /// over and over, and the session's.
    fn send(&mut self, pictures: u32, bytes: usize) {
        for _ in 0..pictures {
            let number = self.picture;
            self.picture += 1;
            // A log's times count from its session's beginning.
            let dts_ms = 1_000_000 + i64::from(number) * 40;
            let kind = match number % 10 {
                0 => EntryKind::VideoIdr,
                _ => EntryKind::VideoInter,
            };
            let session = u32::try_from(self.session.counter).unwrap();
            let body = [number.to_be_bytes(), session.to_be_bytes()].concat();
            let body: Vec<u8> = body.iter().copied().cycle().take(bytes).collect();
            let entry = self.source.put(&[&body], kind, dts_ms, 0, 0).unwrap();
            self.rung.put(&[&body], kind, dts_ms, 0, entry.index).unwrap();
            self.source.put(&[&body[..8]], EntryKind::Audio, dts_ms + 20, 0, 0).unwrap();
            self.publish();
        }
    }
}

#[derive(Debug, PartialEq)]
struct Tag {
    kind: u8,
    time: u32,
    body: Vec<u8>,
}

/// Takes an FLV body apart; a torn last tag is left out.
fn parse(mut bytes: &[u8]) -> Vec<Tag> {
    assert!(bytes.starts_with(b"FLV\x01\x05\0\0\0\x09\0\0\0\0"), "{:?}", bytes.get(..13));
    bytes = &bytes[13..];
    let mut tags = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(11) {
        let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let Some((body, rest)) = rest.split_at_checked(length) else { break };
        let Some((back, rest)) = rest.split_at_checked(4) else { break };
        assert_eq!(back, u32::try_from(length + 11).unwrap().to_be_bytes());
        let time = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
        tags.push(Tag { kind: head[0], time, body: body.to_vec() });
        bytes = rest;
    }
    tags
}

/// Numbers of the pictures, each whole.
fn pictures(tags: &[Tag]) -> Vec<u32> {
    let coded = tags
        .iter()
        .filter(|tag| tag.kind == TagKind::Video as u8 && !tag.body.starts_with(b"\x17\0\0\0\0"));
    coded
        .map(|tag| {
            let whole = tag.body.chunks_exact(8).all(|piece| piece == &tag.body[..8]);
            assert!(whole, "a torn picture");
            u32::from_be_bytes(tag.body[..4].try_into().unwrap())
        })
        .collect()
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n").expect("a chunk's length");
        let length = std::str::from_utf8(&bytes[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend(&bytes[end + 2..end + 2 + length]);
        bytes = &bytes[end + 4 + length..];
    }
}

/// The whole body of a viewer that stays until the stream is over.
async fn watch(address: SocketAddr, path: &str) -> Vec<Tag> {
    let response = get(address, path).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("video/x-flv"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    parse(&unchunked(&response.body))
}

/// The same over a WebSocket.
async fn watch_socket(address: SocketAddr, path: &str) -> Vec<Tag> {
    let stream = TcpStream::connect(address).await.unwrap();
    let url = format!("ws://{address}{path}");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    socket.send(Message::Ping("x".into())).await.unwrap();
    let (mut bytes, mut pongs) = (Vec::new(), 0);
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            Message::Binary(part) => bytes.extend(part),
            Message::Pong(_) => pongs += 1,
            Message::Close(_) => break,
            other @ (Message::Text(_) | Message::Ping(_) | Message::Frame(_)) => {
                panic!("{other:?}")
            }
        }
    }
    assert_eq!(pongs, 1);
    parse(&bytes)
}

fn flv_served<F: Future<Output = ()>>(
    label: &str,
    stall_max: Duration,
    test: impl FnOnce(SocketAddr, Rc<Streams>) -> F,
) {
    let (root, streams) = (Root::new(label), Rc::new(Streams::new(stall_max)));
    served_with(&plan(&root.0), Rc::clone(&streams), |address| async move {
        tokio::time::timeout(BOUND, test(address, streams)).await.expect("in time");
    });
}

/// Lets so many viewers begin before the rest of a stream is sent.
async fn begun(streams: &Streams, viewers: u32) {
    while streams.viewers() < viewers {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A body begins with the newest keyframe and is complete from there to the end, whichever way it
/// goes; times begin at nothing.
#[test]
fn a_viewer_gets_everything_from_the_newest_keyframe_to_the_end() {
    flv_served("flv", FLV_STALL_MAX, |address, streams| async move {
        let streams = &streams;
        let mut broadcast = Broadcast::begin(1, 1 << 20);
        broadcast.send(25, 1000);
        broadcast.go_live(streams);
        let (source, rung, socket, ()) = tokio::join!(
            watch(address, SOURCE),
            watch(address, RUNG),
            watch_socket(address, SOURCE),
            async {
                begun(streams, 3).await;
                assert_eq!(streams.by_session(), [(broadcast.session, 3)]);
                for _ in 0..15 {
                    broadcast.send(1, 1000);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                streams.gone(broadcast.session);
            }
        );
        let expected: Vec<u32> = (20..40).collect();
        for tags in [&source, &rung, &socket] {
            assert_eq!(pictures(tags), expected);
            let kinds: Vec<u8> = tags.iter().take(5).map(|tag| tag.kind).collect();
            assert_eq!(kinds, [18, 9, 8, 9, 8], "metadata, headers, a picture, sound");
            assert!(tags[0].body.starts_with(b"\x02\0\x0AonMetaData"));
            let times: Vec<u32> = tags.iter().map(|tag| tag.time).collect();
            assert_eq!(times[..5], [0, 0, 0, 0, 20]);
            assert!(times.is_sorted() && times.last() == Some(&(19 * 40 + 20)));
        }
        // Once the WebSocket has said goodbye as well.
        while streams.viewers() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(streams.by_session().is_empty());
        assert_eq!((streams.jumps.get(), streams.stalled.get()), (0, 0));
    });
}

/// What cannot be had is refused with a reason; HEAD says what a GET would, and watches nothing.
#[test]
fn what_is_not_there_is_refused_and_head_is_short() {
    flv_served("flv-refusals", FLV_STALL_MAX, |address, streams| async move {
        let streams = &streams;
        let said = |path: &'static str| async move {
            let response = get(address, path).await;
            (response.status, response.text().trim_end().to_owned())
        };
        assert_eq!(said(SOURCE).await, (404, "no stream of this name".to_owned()));
        let broadcast = Broadcast::begin(1, 1 << 20);
        broadcast.go_live(streams);
        let (status, reason) = said("/live/live/cam/1080p.flv").await;
        assert_eq!((status, reason.as_str()), (404, "this rendition is not offered as FLV"));
        broadcast.rung.tell_rung(RungState::Off);
        assert_eq!(said(RUNG).await.0, 404);
        assert_eq!(said("/live/other/cam.flv").await.0, 404);
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("HEAD {SOURCE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("video/x-flv"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        assert_eq!(streams.viewers(), 0);
        streams.gone(broadcast.session);
        assert_eq!(said(SOURCE).await.0, 404);
    });
}

/// A rung that the source already is reads the source; before that is known its viewer waits.
#[test]
fn a_rung_is_what_its_log_says_it_has_become() {
    flv_served("flv-rungs", FLV_STALL_MAX, |address, streams| async move {
        let streams = &streams;
        let mut broadcast = Broadcast::silent(1, 1 << 20);
        broadcast.go_live(streams);
        let (tags, ()) = tokio::join!(watch(address, RUNG), async {
            begun(streams, 1).await;
            let begun = Broadcast::begin(1, 1 << 20);
            let header = begun.source.header(log::HeaderKind::Video, 1).unwrap();
            broadcast.source.put(&[&header], EntryKind::VideoHeader, 0, 0, 0).unwrap();
            let audio = b"\xAF\0\x11\x90";
            broadcast.source.put(&[audio], EntryKind::AudioHeader, 0, 0, 0).unwrap();
            broadcast.rung.tell_rung(RungState::Passes);
            broadcast.send(12, 100);
            streams.gone(broadcast.session);
        });
        assert_eq!(pictures(&tags), [10, 11], "from the newest keyframe, once it is known of whom");
    });
}

/// A name that is published again is the new session to whoever asks then; who watches the old one
/// sees it to its end.
#[test]
fn a_new_request_gets_the_new_session() {
    flv_served("flv-again", FLV_STALL_MAX, |address, streams| async move {
        let streams = &streams;
        let (mut old, mut new) = (Broadcast::begin(1, 1 << 20), Broadcast::begin(2, 1 << 20));
        old.send(3, 100);
        old.go_live(streams);
        let ((seen_old, seen_new), ()) = tokio::join!(
            async {
                let seen_old = watch(address, SOURCE).await;
                (seen_old, watch(address, SOURCE).await)
            },
            async {
                begun(streams, 1).await;
                new.send(2, 100);
                new.go_live(streams);
                old.send(1, 100);
                streams.gone(old.session);
                // The viewer of the old one leaves, and comes again.
                while new.viewers(streams) == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                streams.gone(new.session);
            }
        );
        assert_eq!(pictures(&seen_old), [0, 1, 2, 3]);
        assert_eq!(pictures(&seen_new), [0, 1]);
        let session = |tags: &[Tag]| tags.last().map(|tag| tag.body[7]);
        assert_eq!((session(&seen_old), session(&seen_new)), (Some(1), Some(2)));
    });
}

/// One that reads nothing is closed within the bound and counted; the writer and the others do not
/// notice.
#[test]
fn a_viewer_that_takes_nothing_is_closed() {
    flv_served("flv-stall", Duration::from_millis(300), |address, streams| async move {
        let streams = &streams;
        let mut broadcast = Broadcast::begin(1, 1 << 20);
        broadcast.go_live(streams);
        let mut deaf = TcpStream::connect(address).await.unwrap();
        let get = format!("GET {SOURCE} HTTP/1.1\r\nHost: x\r\n\r\n");
        deaf.write_all(get.as_bytes()).await.unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}{RUNG}");
        let (_deaf_socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let (tags, ()) = tokio::join!(watch(address, SOURCE), async {
            begun(streams, 3).await;
            // Only who takes what comes is left.
            while streams.viewers() > 1 {
                broadcast.send(10, 10_000);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            assert_eq!(streams.stalled.get(), 2);
            streams.gone(broadcast.session);
        });
        let seen = pictures(&tags);
        assert!(seen.len() > 100 && seen.is_sorted(), "{} pictures", seen.len());
        // Its end is no end of a body.
        let mut got = Vec::new();
        let end = deaf.read_to_end(&mut got).await;
        assert!(end.is_err() || !got.ends_with(b"0\r\n\r\n"));
    });
}

/// More viewers than connections are allowed: one connection may carry many.
#[test]
fn viewers_are_bounded() {
    let (root, streams) = (Root::new("flv-bound"), Rc::new(Streams::new(FLV_STALL_MAX)));
    let plan = tasuki_shared::message::DeliveryPlan { connections_max: 2, ..plan(&root.0) };
    let served = Rc::clone(&streams);
    served_with(&plan, served, |address| async move {
        let streams = &streams;
        let broadcast = Broadcast::begin(1, 1 << 20);
        broadcast.go_live(streams);
        let held: Vec<_> =
            (0..2).map(|_| streams.watch(streams.find(&key()).expect("live"))).collect();
        assert_eq!(get(address, SOURCE).await.status, 503);
        drop(held);
        streams.gone(broadcast.session);
        assert!(client::try_get(address, SOURCE).await.is_ok());
    });
}

fn key() -> (PublicName, PublicName) {
    (PublicName::parse("live").unwrap(), PublicName::parse("cam").unwrap())
}

fn viewer_of(streams: &Rc<Streams>, rung: u8) -> Viewer {
    Viewer::new(streams.watch(streams.find(&key()).expect("live")), RungId(rung))
}

/// Who falls behind the log goes on with its newest keyframe, whole, and that is counted.
#[test]
fn a_viewer_that_is_lapped_skips_to_a_keyframe() {
    let streams = Rc::new(Streams::default());
    let mut broadcast = Broadcast::begin(1, 1 << 20);
    broadcast.go_live(&streams);
    let mut bodies = Vec::new();
    for rung in [0, 1] {
        broadcast.send(10, 1000);
        let (mut viewer, mut body) = (viewer_of(&streams, rung), Vec::new());
        assert_eq!(viewer.fill(&mut body), Filled::Waits);
        broadcast.send(315, 10_000);
        let mut chunk = Vec::new();
        loop {
            let filled = viewer.fill(&mut chunk);
            body.append(&mut chunk);
            if filled == Filled::Waits {
                break;
            }
        }
        let seen = pictures(&parse(&body));
        let gap = seen.windows(2).position(|two| two[1] != two[0] + 1).expect("a gap");
        assert_eq!(seen[gap + 1] % 10, 0, "{seen:?}");
        assert_eq!(seen.last(), Some(&(broadcast.picture - 1)));
        assert!(viewer.skipped() > 200, "{}", viewer.skipped());
        bodies.push(body);
    }
    assert_eq!((bodies.len(), streams.jumps.get()), (2, 2));
}

/// What was before a viewer's first keyframe is no jump.
#[test]
fn who_waits_for_a_keyframe_was_not_overtaken() {
    let streams = Rc::new(Streams::default());
    let mut broadcast = Broadcast::begin(1, 1 << 20);
    broadcast.go_live(&streams);
    broadcast.picture = 5;
    broadcast.send(2, 1000);
    let (mut viewer, mut body) = (viewer_of(&streams, 1), Vec::new());
    assert_eq!(viewer.fill(&mut body), Filled::Waits);
    broadcast.send(6, 1000);
    assert_eq!(viewer.fill(&mut body), Filled::Waits);
    assert_eq!(pictures(&parse(&body)), [10, 11, 12]);
    assert!(viewer.skipped() > 0);
    assert_eq!(streams.jumps.get(), 0);
}

/// Beside a writer that laps it all the time, a viewer gets no torn picture and none twice.
#[test]
fn a_viewer_beside_a_fast_writer_gets_whole_pictures_in_order() {
    let streams = Rc::new(Streams::default());
    let mut broadcast = Broadcast::begin(1, 1 << 16);
    broadcast.go_live(&streams);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..4000 {
                broadcast.send(1, 4096);
            }
            over.store(true, Ordering::Release);
        });
        let (mut viewer, mut body) = (viewer_of(&streams, 0), Vec::new());
        let mut chunk = Vec::new();
        loop {
            let was_over = over.load(Ordering::Acquire);
            let filled = viewer.fill(&mut chunk);
            body.append(&mut chunk);
            if was_over && filled == Filled::Waits {
                break;
            }
        }
        let seen = pictures(&parse(&body));
        assert!(!seen.is_empty() && seen.windows(2).all(|two| two[0] < two[1]));
    });
}
