//! On real directories.

mod sweeping;

use super::*;
use crate::output::cursor::Place;
use crate::output::hls::place::{Ends, Independent, RenditionFile, RenditionKind};
use crate::output::record::tests::fixture;
use crate::package::fmp4::FragmentClock;
use nix::unistd::Pid;
use std::path::Path;

const SERIES: SeriesId = SeriesId([1; SeriesId::SIZE]);
const OTHER: SeriesId = SeriesId([2; SeriesId::SIZE]);
const DAY_MS: u64 = 24 * 3600 * 1000;

fn label(text: &str) -> PublicName {
    PublicName::parse(text).unwrap()
}

pub(in crate::output::hls) fn about(labels: &[&str]) -> StreamFile {
    let kind = RenditionKind::Encoded;
    let renditions = labels.iter().map(|text| RenditionFile { label: label(text), kind });
    let renditions = renditions.collect();
    StreamFile { target_ms: 4_000, part_target_ms: 220, window_ms: 60_000, renditions }
}

fn open(path: &Path, series: SeriesId) -> (Store<Directory>, Opened) {
    let files = Directory { path: path.to_owned() };
    let labels = [label("720p"), label("source")];
    match Store::open(files, &labels, series, &about(&["720p", "source"])) {
        Ok(opened) => opened,
        Err((_, error)) => panic!("{error}"),
    }
}

fn note(start_unix_ms: u64, init: InitHash) -> PartNote {
    PartNote {
        series: SERIES,
        init,
        discontinuities: 0,
        start_ms: 0,
        duration_ms: 200,
        start_unix_ms,
        frames: 6,
        independent: Independent::Yes,
        ends: Ends::Part,
        segment_start_ms: 0,
        source_keyframe_ms: None,
        clock: FragmentClock::new(0),
        place: Place::default(),
    }
}

fn put(
    store: &mut Store<Directory>,
    segment: u64,
    part: u32,
    start_unix_ms: u64,
    media: &[u8],
) -> Put {
    let (number, note) = (PartNumber { segment, part }, note(start_unix_ms, InitHash(7)));
    let mut file = Vec::new();
    note.encode(&mut file);
    file.extend(media);
    store.put_part(0, number, &note, &file).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| FileName::parse(name).is_some_and(|name| name != FileName::Stream))
        .collect();
    names.sort();
    names
}

#[test]
fn of_two_owners_the_first_has_made_a_part_and_the_other_learns_of_it() {
    let directory = fixture::Directory::new();
    let (mut old, opened) = open(&directory.path, SERIES);
    assert_eq!(opened, Opened::FirstTime);
    let (mut new, opened) = open(&directory.path, SERIES);
    assert_eq!(opened, Opened::Again);
    assert_eq!(put(&mut old, 7, 0, 1_000, b"old"), Put::Ours);
    assert_eq!(put(&mut new, 7, 0, 2_000, b"new"), Put::Theirs);
    let file = std::fs::read(directory.path.join("7.0.720p.m4s")).unwrap();
    assert_eq!(PartNote::split(&file), Some((note(1_000, InitHash(7)), &b"old"[..])));
    assert_eq!(new.newest(0).unwrap().note.unwrap().start_unix_ms, 1_000);
    let left = new.files.names().unwrap();
    assert!(!left.iter().any(|name| name.starts_with(UNFINISHED_PREFIX)), "{left:?}");
}

#[test]
fn the_next_owner_finds_the_newest_part_and_removes_what_the_dead_left_unfinished() {
    let directory = fixture::Directory::new();
    let (mut store, _) = open(&directory.path, SERIES);
    for (segment, part) in [(9, 0), (9, 1), (10, 0), (10, 1), (10, 2)] {
        put(&mut store, segment, part, 1_000, b"x");
    }
    let gone = Pid::from_raw(i32::MAX - 1);
    let unfinished = [format!(".new.{gone}.3"), ".new.garbage".to_owned(), ".new.".to_owned()];
    let alive = format!(".new.{}.99999", std::process::id());
    for name in unfinished.iter().chain([&alive, &"notes.txt".to_owned()]) {
        std::fs::write(directory.path.join(name), "torn").unwrap();
    }
    let (store, _) = open(&directory.path, SERIES);
    let found = store.newest(0).unwrap();
    assert_eq!(found.number, PartNumber { segment: 10, part: 2 });
    assert_eq!(found.note, Some(note(1_000, InitHash(7))));
    assert_eq!(store.newest(1), None);
    assert!(unfinished.iter().all(|name| !directory.path.join(name).exists()));
    assert!(directory.path.join(alive).exists() && directory.path.join("notes.txt").exists());
    // One that says nothing is there all the same: its number is taken.
    std::fs::write(directory.path.join("11.0.720p.m4s"), "garbage").unwrap();
    let (store, _) = open(&directory.path, SERIES);
    let number = PartNumber { segment: 11, part: 0 };
    assert_eq!(store.newest(0), Some(Newest { number, note: None }));
}

#[test]
fn segments_beyond_the_window_go_whole_and_oldest_first_and_their_init_with_the_last_of_them() {
    let directory = fixture::Directory::new();
    let (mut store, _) = open(&directory.path, SERIES);
    store.put_init(0, InitHash(6), b"old").unwrap();
    store.put_init(0, InitHash(7), b"new").unwrap();
    let mut file = Vec::new();
    note(1_000, InitHash(6)).encode(&mut file);
    for part in 0..3 {
        let number = PartNumber { segment: 1, part };
        store.put_part(0, number, &note(1_000, InitHash(6)), &file).unwrap();
    }
    for segment in 2..=20 {
        put(&mut store, segment, 0, segment * 4_000, b"x");
        put(&mut store, segment, 1, segment * 4_000 + 200, b"x");
    }
    // What the next owner knows of what it did not make it reads.
    let (mut store, _) = open(&directory.path, SERIES);
    assert_eq!(store.retire(75_000), 1);
    let left = names(&directory.path);
    assert!(!left.iter().any(|name| name.starts_with("1.")), "{left:?}");
    assert!(left.contains(&"2.0.720p.m4s".to_owned()), "{left:?}");
    assert!(!left.contains(&format!("init.{}.720p.mp4", InitHash(6))), "{left:?}");
    assert!(left.contains(&format!("init.{}.720p.mp4", InitHash(7))), "{left:?}");
    assert_eq!(store.retire(0), 18);
    assert_eq!(names(&directory.path).len(), 3, "the newest segment stays");
    // The clock was set back by a day in between: the old is not of the future.
    put(&mut store, 21, 0, 80_000 + DAY_MS, b"x");
    assert_eq!(store.retire(60_000), 1);
    put(&mut store, 22, 0, 90_000, b"x");
    assert_eq!(store.retire(60_000), 1);
}

#[test]
fn a_new_stream_removes_what_the_last_one_said_of_its_end_and_not_the_other_way_round() {
    let directory = fixture::Directory::new();
    let (mut old, _) = open(&directory.path, SERIES);
    old.leave(1, "source_gop_too_long").unwrap();
    let said = std::fs::read_to_string(directory.path.join("left.source")).unwrap();
    assert_eq!(said, "source_gop_too_long");
    let (again, _) = open(&directory.path, SERIES);
    assert!(again.has_left(1) && !again.has_left(0));
    old.end().unwrap();
    assert_eq!(names(&directory.path), ["ended", "left.source"]);
    let (new, opened) = open(&directory.path, OTHER);
    assert_eq!((opened, new.has_left(1)), (Opened::FirstTime, false));
    assert!(names(&directory.path).is_empty());
    // The old one's end comes late.
    old.end().unwrap();
    assert!(names(&directory.path).is_empty());
    let text = std::fs::read(directory.path.join(STREAM_FILE)).unwrap();
    assert_eq!(serde_json::from_slice::<StreamFile>(&text).unwrap(), about(&["720p", "source"]));
}

/// Whoever has removed it since, an init segment that a next part refers to is there.
#[test]
fn an_init_segment_is_made_again_and_stays_until_its_first_part_is_there() {
    let directory = fixture::Directory::new();
    let (mut old, _) = open(&directory.path, SERIES);
    for hash in [6, 7] {
        old.put_init(0, InitHash(hash), b"init").unwrap();
    }
    put(&mut old, 1, 0, 1_000, b"x");
    put(&mut old, 2, 0, 100_000, b"x");
    let (mut new, _) = open(&directory.path, SERIES);
    assert_eq!(old.retire(60_000), 1);
    let six = directory.path.join(format!("init.{}.720p.mp4", InitHash(6)));
    assert!(!six.exists());
    new.put_init(0, InitHash(6), b"init").unwrap();
    assert!(six.exists(), "the new owner knew of one that is gone");
    // Before its first part the directory is full, and old segments go early.
    put(&mut new, 3, 0, 101_000, b"x");
    assert_eq!(new.retire(0), 2);
    assert!(six.exists());
}

/// A stream that is published again without one of its renditions does not keep it for ever.
#[test]
fn what_a_stream_does_not_have_any_more_is_removed_when_it_begins_anew() {
    let directory = fixture::Directory::new();
    let (mut store, _) = open(&directory.path, SERIES);
    put(&mut store, 1, 0, 1_000, b"x");
    let others = ["1.0.1080p.m4s".to_owned(), format!("init.{}.1080p.mp4", InitHash(3))];
    for name in &others {
        std::fs::write(directory.path.join(name), "x").unwrap();
    }
    let there = || others.iter().filter(|name| directory.path.join(name).exists()).count();
    let _ = open(&directory.path, SERIES);
    assert_eq!(there(), 2, "the same stream has nothing to remove");
    let _ = open(&directory.path, OTHER);
    assert_eq!((there(), directory.path.join("1.0.720p.m4s").exists()), (0, true));
}
