//! The server as its clients see it: a directory that a test fills as a packager would, and real
//! sockets.

mod audience;
mod beginning;
mod client;
mod flv;
mod protocols;
mod reading;

use super::flv::streams::Streams;
use super::{Serving, start};
use crate::output::cursor::Place;
use crate::output::hls::place::{
    ENDED_FILE, Ends, FileName, Independent, InitHash, InitNote, PartNote, PartNumber,
    RenditionFile, RenditionKind, STREAM_FILE, StreamFile,
};
use crate::output::record::SeriesId;
use crate::package::fmp4::FragmentClock;
use client::{Response, get, get_with};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tasuki_shared::id::PublicName;
use tasuki_shared::message::DeliveryPlan;
use tokio::task::LocalSet;

const PART_MS: u32 = 200;
/// In a segment.
const PARTS: u32 = 10;

/// A directory below the system's temporary one, removed at the end.
struct Root(PathBuf);

impl Root {
    fn new(label: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tasuki-{label}-{}", std::process::id()));
        let _nothing_there = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}

/// A packager's side of one stream.
struct Packager {
    directory: PathBuf,
    labels: Vec<PublicName>,
    next: Vec<u32>,
}

impl Packager {
    fn begin(root: &Path, labels: &[(&str, RenditionKind)]) -> Self {
        Self::begin_as(root, "cam", labels)
    }

    fn begin_as(root: &Path, name: &str, labels: &[(&str, RenditionKind)]) -> Self {
        let directory = root.join("live").join(name);
        fs::create_dir_all(&directory).unwrap();
        let name = |text: &str| PublicName::parse(text).unwrap();
        let renditions =
            labels.iter().map(|(label, kind)| RenditionFile { label: name(label), kind: *kind });
        let about = StreamFile {
            target_ms: 4000,
            part_target_ms: 220,
            window_ms: 60_000,
            renditions: renditions.collect(),
        };
        let labels: Vec<_> = labels.iter().map(|(label, _)| name(label)).collect();
        let next = vec![0; labels.len()];
        let packager = Self { directory, labels, next };
        packager.put(STREAM_FILE, &serde_json::to_vec(&about).unwrap());
        for label in packager.labels.clone() {
            let mut file = Vec::new();
            let codecs = "avc1.64001f,mp4a.40.2".to_owned();
            InitNote { codecs, width: 1280, height: 720 }.encode(&mut file);
            file.extend(b"init");
            packager.put(&FileName::Init { label, hash: InitHash(1) }.to_string(), &file);
        }
        packager
    }

    /// Whole, by a rename.
    fn put(&self, name: &str, bytes: &[u8]) {
        let new = self.directory.join(".new.x");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.directory.join(name)).unwrap();
    }

    /// The next parts of each rendition; segments begin with number 7.
    fn parts(&mut self, count: u32) {
        for at in 0..self.labels.len() {
            for _ in 0..count {
                let index = self.next[at];
                self.next[at] += 1;
                let start_ms = i64::from(index * PART_MS);
                let number =
                    PartNumber { segment: 7 + u64::from(index / PARTS), part: index % PARTS };
                let is_last = number.part == PARTS - 1;
                let is_first = number.part == 0;
                let note = PartNote {
                    series: SeriesId([1; 16]),
                    init: InitHash(1),
                    discontinuities: 0,
                    start_ms,
                    duration_ms: PART_MS,
                    start_unix_ms: 1_790_000_000_000 + start_ms.unsigned_abs(),
                    frames: 6,
                    independent: if is_first { Independent::Yes } else { Independent::No },
                    ends: if is_last { Ends::Segment } else { Ends::Part },
                    segment_start_ms: 0,
                    source_keyframe_ms: None,
                    clock: FragmentClock::new(0),
                    place: Place::default(),
                };
                let mut file = Vec::new();
                note.encode(&mut file);
                file.extend(format!("<{}.{}>", number.segment, number.part).bytes());
                let label = self.labels[at].clone();
                self.put(&FileName::Part { label, number }.to_string(), &file);
            }
        }
    }
}

fn plan(root: &Path) -> DeliveryPlan {
    DeliveryPlan {
        hls_root: root.to_owned(),
        tls: None,
        allow_origin: "*".to_owned(),
        connections_max: 64,
        drain_ms: 60_000,
        connections_per_address_max: 0,
    }
}

/// Lets `test` talk to a server of this plan.
fn served<F: Future<Output = ()>>(plan: &DeliveryPlan, test: impl FnOnce(SocketAddr) -> F) {
    served_with(plan, Rc::default(), test);
}

/// The same with streams to be read from their logs.
fn served_with<F: Future<Output = ()>>(
    plan: &DeliveryPlan,
    streams: Rc<Streams>,
    test: impl FnOnce(SocketAddr) -> F,
) {
    observed(plan, streams, |address, _serving| test(address));
}

/// The same for who looks at the server itself as well.
fn observed<F: Future<Output = ()>>(
    plan: &DeliveryPlan,
    streams: Rc<Streams>,
    test: impl FnOnce(SocketAddr, Rc<Serving>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Rc::new(start(plan, vec![listener], streams).unwrap());
        test(address, Rc::clone(&serving)).await;
        drop(serving);
    });
}

const ENCODED: [(&str, RenditionKind); 2] =
    [("720p", RenditionKind::Encoded), ("480p", RenditionKind::Encoded)];

fn count(response: &Response, tag: &str) -> usize {
    response.text().lines().filter(|line| line.starts_with(tag)).count()
}

/// A stream that is there before its server is read whole, by a second server as by the first.
#[test]
fn a_server_knows_what_was_there_before_it() {
    let root = Root::new("before");
    let mut packager = Packager::begin(&root.0, &ENCODED);
    packager.parts(25);
    for _ in 0..2 {
        served(&plan(&root.0), |address| async move {
            let master = get(address, "/live/live/cam/index.m3u8").await;
            assert_eq!(master.status, 200);
            assert_eq!(count(&master, "#EXT-X-STREAM-INF"), 2);
            assert!(master.text().contains("RESOLUTION=1280x720,FRAME-RATE=30.000"));
            let media = get(address, "/live/live/cam/720p/index.m3u8").await;
            assert_eq!(count(&media, "#EXTINF"), 2);
            assert_eq!(count(&media, "#EXT-X-PART:"), 25);
            assert!(media.text().contains("PRELOAD-HINT:TYPE=PART,URI=\"9.5.m4s\""));
            let part = get(address, "/live/live/cam/720p/8.3.m4s").await;
            assert_eq!((part.status, part.text()), (200, "<8.3>"));
            let segment = get(address, "/live/live/cam/720p/7.m4s").await;
            assert!(segment.text().starts_with("<7.0><7.1>") && segment.text().ends_with("<7.9>"));
            let init = get(address, "/live/live/cam/720p/init.0000000000000001.mp4").await;
            assert_eq!(init.text(), "init");
        });
    }
}

/// A request for what is not there yet is answered when it is, playlist and part alike; one for what
/// is far beyond is refused at once.
#[test]
fn who_asks_ahead_waits_for_it_and_no_longer() {
    let root = Root::new("ahead");
    let mut packager = Packager::begin(&root.0, &ENCODED);
    packager.parts(12);
    served(&plan(&root.0), |address| async move {
        let playlist = "/live/live/cam/720p/index.m3u8";
        // Segment 8 is open.
        for far in ["_HLS_msn=10", "_HLS_msn=10&_HLS_part=0", "_HLS_msn=9&_HLS_part=13"] {
            let beyond = get(address, &format!("{playlist}?{far}")).await;
            assert_eq!(beyond.status, 400, "{far}: {}", beyond.text());
        }
        for bad in ["_HLS_part=1", "_HLS_msn=x", "_HLS_skip=maybe"] {
            assert_eq!(get(address, &format!("{playlist}?{bad}")).await.status, 400, "{bad}");
        }
        let ahead = format!("{playlist}?_HLS_msn=8&_HLS_part=3");
        let (waited, part, ()) = tokio::join!(
            get(address, &ahead),
            get(address, "/live/live/cam/720p/8.2.m4s"),
            async {
                tokio::task::yield_now().await;
                packager.parts(2);
            }
        );
        assert!(
            waited.text().contains("URI=\"8.3.m4s\"\n#EXT-X-PRELOAD-HINT"),
            "{}",
            waited.text()
        );
        assert_eq!(part.text(), "<8.2>");
        assert_eq!(get(address, "/live/live/cam/720p/8.9.m4s").await.status, 404);
        // A part behind a segment's last one is the next segment's first.
        packager.parts(7);
        let next = get(address, &format!("{playlist}?_HLS_msn=8&_HLS_part=10")).await;
        assert!(next.text().contains("URI=\"9.0.m4s\""), "{}", next.text());
    });
}

/// What has begun behind a server's back, left, or ended is told at once.
#[test]
fn a_stream_that_begins_leaves_and_ends_is_followed() {
    let root = Root::new("life");
    served(&plan(&root.0), |address| {
        let root = root.0.clone();
        async move {
            let master = "/live/live/cam/index.m3u8";
            assert_eq!(get(address, master).await.status, 404);
            let kinds = [("source", RenditionKind::Source), ("720p", RenditionKind::Encoded)];
            let mut packager = Packager::begin(&root, &kinds);
            packager.parts(3);
            // Pass-through must have shown a whole segment.
            let (waited, ()) = tokio::join!(get(address, master), async {
                tokio::task::yield_now().await;
                packager.parts(8);
            });
            assert_eq!(count(&waited, "#EXT-X-STREAM-INF"), 2, "{}", waited.text());
            packager.put("left.source", b"source_gop_too_long");
            let source = "/live/live/cam/source/index.m3u8";
            while get(address, source).await.status == 200 {}
            assert_eq!(get(address, source).await.status, 404);
            assert_eq!(count(&get(address, master).await, "#EXT-X-STREAM-INF"), 1);
            packager.put(ENDED_FILE, b"");
            let media = "/live/live/cam/720p/index.m3u8?_HLS_msn=8&_HLS_part=5";
            let ended = get(address, media).await;
            assert!(ended.text().ends_with("#EXT-X-ENDLIST\n"), "{}", ended.text());
            assert!(!ended.text().contains("PRELOAD-HINT"));
        }
    });
}

/// Pages may fetch, caches may keep, a range and a known body are not sent whole.
#[test]
fn caches_and_pages_are_served() {
    let root = Root::new("headers");
    Packager::begin(&root.0, &ENCODED).parts(25);
    served(&plan(&root.0), |address| async move {
        let path = "/live/live/cam/720p/7.m4s";
        let whole = get(address, path).await;
        assert_eq!(whole.header("cache-control"), Some("public, max-age=60, immutable"));
        assert_eq!(whole.header("access-control-allow-origin"), Some("*"));
        let tag = whole.header("etag").unwrap().to_owned();
        let again = get_with(address, path, &[("If-None-Match", &tag)]).await;
        assert_eq!((again.status, again.body.len()), (304, 0));
        let range = get_with(address, path, &[("Range", "bytes=0-4")]).await;
        assert_eq!((range.status, range.text()), (206, "<7.0>"));
        let playlist = "/live/live/cam/720p/index.m3u8";
        let packed = get_with(address, playlist, &[("Accept-Encoding", "gzip")]).await;
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        assert!(packed.body.len() < get(address, playlist).await.body.len());
        for nowhere in
            ["/", "/live/live/cam", "/live/live/../cam/index.m3u8", "/live/x/y/index.m3u8"]
        {
            assert_eq!(get(address, nowhere).await.status, 404, "{nowhere}");
        }
    });
}

/// Files that are not ours, or are torn, are no parts; the stream goes on beside them.
#[test]
fn what_is_not_ours_is_passed_over() {
    let root = Root::new("garbage");
    let mut packager = Packager::begin(&root.0, &ENCODED);
    packager.parts(5);
    fs::create_dir_all(root.0.join("live").join("x y")).unwrap();
    fs::write(root.0.join("file"), b"no directory").unwrap();
    served(&plan(&root.0), |address| async move {
        packager.put("7.5.720p.m4s", b"torn");
        packager.put("not a name", b"x");
        packager.put("99.0.nobody.m4s", b"x");
        packager.put("init.00000000000000aa.720p.mp4", b"x");
        packager.parts(1);
        let ahead = "/live/live/cam/480p/index.m3u8?_HLS_msn=7&_HLS_part=5";
        assert_eq!(get(address, ahead).await.status, 200);
        assert_eq!(get(address, "/live/live/cam/720p/7.5.m4s").await.text(), "<7.5>");
    });
}

/// More connections than are allowed are closed, and a place that is free again is given.
#[test]
fn connections_are_bounded() {
    let root = Root::new("bound");
    Packager::begin(&root.0, &ENCODED).parts(5);
    let plan = DeliveryPlan { connections_max: 1, ..plan(&root.0) };
    served(&plan, |address| async move {
        let path = "/live/live/cam/720p/index.m3u8";
        let held = tokio::net::TcpStream::connect(address).await.unwrap();
        // The server has it once it has closed another one.
        while client::try_get(address, path).await.is_ok() {}
        drop(held);
        while client::try_get(address, path).await.is_err() {}
    });
}
