//! One file written by several owners, over real logs: what a kill leaves is cut at any byte, and
//! the next owner's file is compared with that of a recording that nothing happened to.

use super::*;
use crate::media::tag::{FlvKeyframe, WrittenAudio, WrittenVideo};
use crate::output::cursor::PipelineState;
use crate::output::record::disk::lock;
use crate::output::record::tests::fixture::{self, Directory, Source};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use tasuki_shared::memory::log::{self, LogHeads, LogWriter};
use tasuki_shared::plan::LogSize;

const SERIES: SeriesId = SeriesId([3; SeriesId::SIZE]);

/// A source log with room for so many entries, and nothing in it.
fn logs(index_entries: u32) -> Logs {
    let size = LogSize { payload_bytes: 4 << 20, index_entries };
    let fd = log::create(size).unwrap();
    let source = LogWriter::resume(&fd, LogHeads::empty()).unwrap();
    Logs { source, audio: None, rungs: Vec::new(), pipeline: PipelineState::Empty }
}

fn put(logs: &mut Logs, items: &[RecordItem]) {
    for item in items {
        let (head, body, kind, dts_ms, cts_ms) = match item {
            RecordItem::VideoHeader { config, .. } => {
                let head = tag::video_tag_header(WrittenVideo::SequenceHeader).to_vec();
                (head, config, EntryKind::VideoHeader, 0, 0)
            }
            RecordItem::AudioHeader { config } => {
                let head = tag::audio_tag_header(WrittenAudio::SequenceHeader).to_vec();
                (head, config, EntryKind::AudioHeader, 0, 0)
            }
            RecordItem::Packet(packet) => {
                let cts_ms = i32::try_from(packet.pts_ms - packet.dts_ms).unwrap();
                let (head, kind) = match (packet.track, packet.idr) {
                    (Track::Audio, _) => {
                        (tag::audio_tag_header(WrittenAudio::Frame).to_vec(), EntryKind::Audio)
                    }
                    (Track::Video, IsIdr::Idr) => {
                        let keyframe = FlvKeyframe::Key;
                        let frame = WrittenVideo::Frame { keyframe, cts_ms };
                        (tag::video_tag_header(frame).to_vec(), EntryKind::VideoIdr)
                    }
                    (Track::Video, IsIdr::Other) => {
                        let keyframe = FlvKeyframe::Inter;
                        let frame = WrittenVideo::Frame { keyframe, cts_ms };
                        (tag::video_tag_header(frame).to_vec(), EntryKind::VideoInter)
                    }
                };
                (head, &packet.payload, kind, packet.dts_ms, cts_ms)
            }
            RecordItem::FileEnd => panic!("no source has one"),
        };
        logs.source.put(&[&head, body], kind, dts_ms, cts_ms, 0).unwrap();
    }
}

fn config(directory: &Path) -> RecordConfig {
    RecordConfig {
        directory: directory.to_owned(),
        name: PublicName::parse("cam").unwrap(),
        rung: PublicName::parse("source").unwrap(),
        rotate_ms: 3_600_000,
        keep_ms: 0,
        keep_bytes: 0,
        reserve_bytes: 0,
        series: SERIES,
    }
}

fn recording(handle: RecordHandle) -> Recording {
    let cursor = Cursor::new(Feed::Source);
    let (begun, told) = (Begun::Not, RecordState::Idle);
    Recording { rung: RungId(0), cursor, handle: Ok(handle), begun, told }
}

fn first_owner(config: RecordConfig) -> Recording {
    recording(RecordThread::spawn(config).unwrap())
}

/// The second end tells when the new owner knows how it begins.
fn next_owner(config: RecordConfig) -> (Recording, Receiver<()>) {
    let (tell, told) = channel();
    let wake: Wake = Arc::new(move || tell.send(()).unwrap());
    (recording(RecordThread::resume(config, wake).unwrap()), told)
}

/// Feeds all that is there; the recorder's thread makes room.
fn feed(recording: &mut Recording, logs: &Logs, end: StreamEnd) {
    loop {
        recording.feed(logs, end);
        if recording.is_fed(logs) || end == StreamEnd::Going {
            return;
        }
        std::thread::yield_now();
    }
}

/// Waits for its first file.
fn has_begun(owner: &Recording) {
    while owner.status().state != "recording" {
        std::thread::yield_now();
    }
}

fn release(recording: &mut Recording) {
    recording.release().unwrap()();
}

/// A recording of the whole source by one owner.
fn undisturbed(directory: &Path) -> PathBuf {
    let mut logs = logs(4096);
    put(&mut logs, &Source::first().items);
    let mut recording = first_owner(config(directory));
    feed(&mut recording, &logs, StreamEnd::Over);
    release(&mut recording);
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|f| f.unwrap().path()).collect();
    files.pop().unwrap()
}

/// Byte after each top-level box.
fn box_ends(bytes: &[u8]) -> Vec<(String, usize)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let kind = String::from_utf8(bytes[at + 4..at + 8].to_vec()).unwrap();
        at += usize::try_from(length).unwrap();
        found.push((kind, at));
    }
    found
}

/// The next owner of a file that was cut to `left`; all packets are still in the log.
fn gone_on(left: &[u8], name: &Path, disturb: impl FnOnce(&mut Recording)) -> Directory {
    let directory = Directory::new();
    std::fs::write(directory.path.join(name.file_name().unwrap()), left).unwrap();
    let mut logs = logs(4096);
    put(&mut logs, &Source::first().items);
    let (mut owner, known) = next_owner(config(&directory.path));
    known.recv().unwrap();
    owner.begin(&logs);
    disturb(&mut owner);
    feed(&mut owner, &logs, StreamEnd::Over);
    assert_eq!(owner.news(), None, "a file that goes on is no news");
    release(&mut owner);
    directory
}

#[test]
fn a_file_cut_at_any_byte_by_a_kill_goes_on_as_if_nothing_had_happened() {
    let directory = Directory::new();
    let path = undisturbed(&directory.path);
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(fixture::complaints(&path), "");
    assert_eq!(fixture::pictures(&path), Source::first().pictures);
    let ends = box_ends(&whole);
    let kinds: Vec<_> = ends.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds[..6], ["ftyp", "moov", "uuid", "uuid", "moof", "mdat"], "{kinds:?}");
    let head = ends[2].1;
    // Every byte near the borders of boxes, and a sample of those between.
    let borders = ends.iter().flat_map(|(_, end)| end.saturating_sub(9)..=end + 9);
    let between = (head..whole.len()).step_by(whole.len() / 40);
    let mut cuts: Vec<_> = borders.chain(between).collect();
    cuts.retain(|&cut| (head..=whole.len()).contains(&cut));
    cuts.sort_unstable();
    cuts.dedup();
    assert!(cuts.len() > 200, "{}", cuts.len());
    for cut in cuts {
        let resumed = gone_on(&whole[..cut], &path, |_| {});
        let files = resumed.recordings();
        assert_eq!(files.len(), 1, "cut at {cut}: {files:?}");
        assert!(std::fs::read(&files[0]).unwrap() == whole, "cut at {cut}: another file");
    }
}

#[test]
fn a_cursor_off_by_one_a_repeat_and_a_tail_left_torn_are_caught() {
    // Negative control of the comparisons here.
    let directory = Directory::new();
    let path = undisturbed(&directory.path);
    let whole = std::fs::read(&path).unwrap();
    let reference = fixture::packet_hashes(&path).unwrap();
    let cut = whole.len() / 2;
    let logs_of_all = || {
        let mut logs = logs(4096);
        put(&mut logs, &Source::first().items);
        logs
    };
    let right = gone_on(&whole[..cut], &path, |_| {});
    assert_eq!(fixture::packet_hashes(&right.recordings()[0]), Ok(reference.clone()));
    let one_less = gone_on(&whole[..cut], &path, |owner| {
        while !matches!(
            owner.cursor.next(&logs_of_all(), StreamEnd::Over),
            Some(Next::Packet { .. })
        ) {}
    });
    assert_ne!(fixture::packet_hashes(&one_less.recordings()[0]), Ok(reference.clone()));
    let again = gone_on(&whole[..cut], &path, |owner| owner.cursor = Cursor::new(Feed::Source));
    assert_ne!(fixture::packet_hashes(&again.recordings()[0]), Ok(reference.clone()));
    // What the next owner appends after a tail that nobody cut off.
    let (_, end) = *box_ends(&whole).iter().rev().find(|(_, end)| *end <= cut).unwrap();
    let torn = directory.path.join("torn.mp4");
    let bytes = [&whole[..cut], &whole[end..]].concat();
    std::fs::write(&torn, bytes).unwrap();
    assert_ne!(fixture::packet_hashes(&torn), Ok(reference));
}

#[test]
fn a_file_is_handed_from_owner_to_owner_without_a_loss_or_a_repeat() {
    let directory = Directory::new();
    let reference = Directory::new();
    let reference = fixture::packet_hashes(&undisturbed(&reference.path)).unwrap();
    let mut logs = logs(4096);
    let mut owner = first_owner(config(&directory.path));
    for items in Source::first().items.chunks(37) {
        put(&mut logs, items);
        feed(&mut owner, &logs, StreamEnd::Going);
        has_begun(&owner);
        // The new owner is there before the old one lets go, and waits for it.
        let (mut next, known) = next_owner(config(&directory.path));
        next.feed(&logs, StreamEnd::Going);
        assert!(!next.is_fed(&logs));
        release(&mut owner);
        known.recv().unwrap();
        owner = next;
    }
    feed(&mut owner, &logs, StreamEnd::Over);
    release(&mut owner);
    let files = directory.recordings();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(fixture::complaints(&files[0]), "");
    assert_eq!(fixture::packet_hashes(&files[0]), Ok(reference));
    assert_eq!(fixture::pictures(&files[0]), Source::first().pictures);
}

#[test]
fn a_file_begun_by_the_last_owner_after_it_was_told_to_let_go_is_the_one_to_go_on_with() {
    let directory = Directory::new();
    let config = RecordConfig { rotate_ms: 1_000, ..config(&directory.path) };
    let mut logs = logs(4096);
    let items = &Source::first().items;
    put(&mut logs, &items[..items.len() / 2]);
    let mut owner = first_owner(config.clone());
    feed(&mut owner, &logs, StreamEnd::Going);
    has_begun(&owner);
    let (mut next, known) = next_owner(config);
    release(&mut owner);
    known.recv().unwrap();
    put(&mut logs, &items[items.len() / 2..]);
    feed(&mut next, &logs, StreamEnd::Over);
    release(&mut next);
    let files = directory.recordings();
    assert_eq!(files.len(), 3, "one for each keyframe: {files:?}");
    let seen: Vec<_> = files.iter().flat_map(|file| fixture::pictures(file)).collect();
    assert_eq!(seen, Source::first().pictures);
}

/// Items up to, without it, the keyframe that has so many pictures before it.
fn before_picture(items: &[RecordItem], count: usize) -> usize {
    let video = items.iter().enumerate().filter(
        |(_, item)| matches!(item, RecordItem::Packet(packet) if packet.track == Track::Video),
    );
    video.map(|(index, _)| index).nth(count).unwrap()
}

#[test]
fn when_the_next_packets_are_gone_a_new_file_begins_with_a_keyframe_and_the_old_one_plays() {
    let directory = Directory::new();
    let mut logs = logs(128);
    let items = &Source::first().items;
    let third = before_picture(items, 100);
    put(&mut logs, &items[..40]);
    let mut owner = first_owner(config(&directory.path));
    feed(&mut owner, &logs, StreamEnd::Going);
    release(&mut owner);
    put(&mut logs, &items[40..third]);
    let (mut next, known) = next_owner(config(&directory.path));
    known.recv().unwrap();
    next.begin(&logs);
    for items in items[third..].chunks(20) {
        put(&mut logs, items);
        feed(&mut next, &logs, StreamEnd::Going);
    }
    feed(&mut next, &logs, StreamEnd::Over);
    release(&mut next);
    let files = directory.recordings();
    assert_eq!(files.len(), 2, "{files:?}");
    let all = &Source::first().pictures;
    assert!(all.starts_with(&fixture::pictures(&files[0])));
    assert_eq!(fixture::pictures(&files[1]), all[100..]);
    assert!(fixture::silent(&files[0]) && fixture::silent(&files[1]));
}

#[test]
fn a_file_that_its_last_owner_never_lets_go_is_left_alone_and_the_reason_is_told() {
    let directory = Directory::new();
    let path = undisturbed(&directory.path);
    let whole = std::fs::read(&path).unwrap();
    let _held = lock(File::open(&path).unwrap()).unwrap();
    let mut logs = logs(4096);
    let items = &Source::first().items;
    let third = before_picture(items, 100);
    put(&mut logs, &items[..third]);
    let (mut next, known) = next_owner(config(&directory.path));
    known.recv().unwrap();
    next.begin(&logs);
    assert!(next.status().last_error.contains("does not let go"), "{:?}", next.status());
    put(&mut logs, &items[third..]);
    feed(&mut next, &logs, StreamEnd::Over);
    release(&mut next);
    let files = directory.recordings();
    assert_eq!(files.len(), 2, "{files:?}");
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    let other = files.iter().find(|file| **file != path).unwrap();
    assert_eq!(fixture::pictures(other), Source::first().pictures[100..]);
}

#[test]
fn a_file_of_another_stream_or_a_file_that_is_gone_is_not_gone_on_with() {
    let directory = Directory::new();
    let path = undisturbed(&directory.path);
    let whole = std::fs::read(&path).unwrap();
    let mut logs = logs(4096);
    put(&mut logs, &Source::first().items);
    let series = SeriesId::new();
    let (mut other, known) = next_owner(RecordConfig { series, ..config(&directory.path) });
    known.recv().unwrap();
    feed(&mut other, &logs, StreamEnd::Over);
    release(&mut other);
    assert_eq!(directory.recordings().len(), 2);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    std::fs::remove_file(&path).unwrap();
    let (mut next, known) = next_owner(config(&directory.path));
    known.recv().unwrap();
    feed(&mut next, &logs, StreamEnd::Over);
    release(&mut next);
    let files = directory.recordings();
    assert_eq!(files.len(), 2, "{files:?}");
    // Nothing of it is in a file of ours any more, and the log still had it.
    assert!(files.iter().any(|file| std::fs::read(file).unwrap() == whole));
}
