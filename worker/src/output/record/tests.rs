//! The packets are real: encoded by the distribution's ffmpeg at test time, with B-frames and
//! audio, and what is recorded is decoded by it again. Frames are compared by their pictures.

pub(crate) mod fixture;

use super::disk::{Disk, DiskFile, lock};
use super::repair::{RepairError, repair};
use super::*;
use fixture::{Directory, Source, complaints, pictures, silent};
use std::fs::File;
use std::io;
use std::path::Path;

const START_UNIX_MS: u64 = 1_700_000_000_000;

fn config(directory: &Directory) -> RecordConfig {
    RecordConfig {
        directory: directory.path.clone(),
        name: PublicName::parse("cam_1").unwrap(),
        rung: PublicName::parse("720p").unwrap(),
        rotate_ms: 3_600_000,
        keep_ms: 0,
        keep_bytes: 0,
        reserve_bytes: 0,
        series: SeriesId([7; SeriesId::SIZE]),
    }
}

/// Records on this thread; the wall clock stands still.
fn recorded(config: RecordConfig, items: &[RecordItem]) -> RecordReport {
    let mut recorder = Recorder::new(config, RealDisk);
    for item in items {
        recorder.handle(START_UNIX_MS, item.clone());
    }
    recorder.finish();
    recorder.report().clone()
}

#[test]
fn a_recording_holds_every_picture_and_plays_without_complaint() {
    let directory = Directory::new();
    let source = Source::first();
    let mut handle = RecordThread::spawn(config(&directory)).unwrap();
    for item in &source.items {
        assert_eq!(handle.offer(item.clone()), Offered::Taken);
    }
    let report = handle.finish();
    assert_eq!(report.state, RecordState::Idle);
    assert_eq!((report.files, report.dropped_queue_full), (1, 0));
    assert!(report.fragments >= 5, "{report:?}");
    assert_eq!(std::fs::metadata(&report.path).unwrap().len(), report.bytes);
    assert_eq!(complaints(&report.path), "");
    assert_eq!(pictures(&report.path), source.pictures);
    assert_eq!(fixture::packets(&report.path, "a"), source.count(Track::Audio));
    assert_eq!(fixture::times_ms(&report.path), source.times_ms);
}

#[test]
fn a_recording_torn_anywhere_plays_after_repair_up_to_its_last_whole_fragment() {
    let directory = Directory::new();
    let report = recorded(config(&directory), &Source::first().items);
    let whole = std::fs::read(&report.path).unwrap();
    let all = pictures(&report.path);
    let torn = directory.path.join("torn.mp4");
    let mut noticed = 0;
    // Spread over the file by a step without relation to its fragments.
    for cut in (1..=8).map(|step| whole.len() * (2 * step + 1) / 19 + step * 7) {
        std::fs::write(&torn, &whole[..cut]).unwrap();
        noticed += usize::from(!silent(&torn));
        let repaired = repair(&torn).unwrap();
        assert_eq!(repaired.kept_bytes + repaired.cut_bytes, u64::try_from(cut).unwrap());
        if repaired.fragments > 0 {
            assert_eq!(complaints(&torn), "", "cut at {cut}: {repaired:?}");
            let kept = pictures(&torn);
            assert!(!kept.is_empty() && all.starts_with(&kept), "cut at {cut}");
        }
        assert_eq!(repair(&torn).unwrap().cut_bytes, 0, "a repaired file is whole");
    }
    // Negative control: the player does notice most of the cuts that were repaired.
    assert!(noticed >= 4, "{noticed}");
}

#[test]
fn a_damaged_fragment_is_detected_and_cut_off() {
    let directory = Directory::new();
    let report = recorded(config(&directory), &Source::first().items);
    let mut bytes = std::fs::read(&report.path).unwrap();
    assert_eq!(repair(&report.path).unwrap().cut_bytes, 0);
    let last = bytes.windows(4).rposition(|window| window == b"trun").unwrap();
    // The low byte of the first sample's size: the samples no longer fill the mdat.
    bytes[last + 16 + 7] ^= 0x55;
    std::fs::write(&report.path, &bytes).unwrap();
    let repaired = repair(&report.path).unwrap();
    assert_eq!(repaired.fragments, report.fragments - 1);
    assert!(silent(&report.path));
}

#[test]
fn what_is_no_recording_is_not_touched_by_repair() {
    let directory = Directory::new();
    let path = directory.path.join("notes.mp4");
    std::fs::write(&path, "remember the milk").unwrap();
    assert!(matches!(repair(&path), Err(RepairError::NotOurs)));
    assert_eq!(std::fs::read(&path).unwrap(), b"remember the milk");
}

#[test]
fn a_recording_rotates_at_the_first_keyframe_after_its_time_and_loses_nothing() {
    let directory = Directory::new();
    let source = Source::first();
    let report = recorded(RecordConfig { rotate_ms: 3_000, ..config(&directory) }, &source.items);
    let files = directory.recordings();
    assert_eq!((report.files, files.len()), (2, 2), "{files:?}");
    let mut seen = Vec::new();
    for file in &files {
        assert_eq!(complaints(file), "");
        seen.extend(pictures(file));
    }
    assert_eq!(seen, source.pictures);
    assert!(files[0].ends_with("cam_1_720p_20231114T221320Z.mp4"), "{files:?}");
    assert!(files[1].ends_with("cam_1_720p_20231114T221321Z.mp4"), "a taken name moves on");
}

#[test]
fn a_new_picture_size_begins_a_new_file_and_a_repeated_header_does_not() {
    let directory = Directory::new();
    let (first, second) = (Source::first(), Source::second());
    let mut items = first.items.clone();
    items.extend(first.headers());
    assert_eq!(recorded(config(&directory), &items).files, 1);
    let directory = Directory::new();
    items.extend(second.later(10_000));
    let report = recorded(config(&directory), &items);
    let files = directory.recordings();
    assert_eq!((report.files, files.len()), (2, 2));
    assert_eq!(pictures(&files[0]), first.pictures);
    assert_eq!(pictures(&files[1]), second.pictures);
    assert!(silent(&files[0]) && silent(&files[1]));
}

#[test]
fn a_file_begins_at_a_keyframe_wherever_the_stream_is_joined() {
    let directory = Directory::new();
    let source = Source::first();
    let mut items = source.headers();
    items.extend(source.packets().skip(7).cloned());
    let report = recorded(config(&directory), &items);
    assert!(report.skipped_before_keyframe > 40, "{report:?}");
    assert_eq!(complaints(&report.path), "");
    let all = &source.pictures;
    assert_eq!(pictures(&report.path), all[50..]);
}

#[test]
fn audio_alone_is_recorded_once_it_is_clear_that_no_video_comes() {
    let directory = Directory::new();
    let items: Vec<_> = Source::first().of(Track::Audio);
    let report = recorded(config(&directory), &items);
    assert_eq!(report.files, 1);
    assert!(report.skipped_before_keyframe < 100, "{report:?}");
    assert_eq!(complaints(&report.path), "");
    let packets = fixture::packets(&report.path, "a");
    assert_eq!(packets + usize::try_from(report.skipped_before_keyframe).unwrap(), items.len() - 1);
}

#[test]
fn audio_that_appears_later_is_in_the_file_from_the_next_keyframe_on() {
    let directory = Directory::new();
    let source = Source::first();
    let mut headers = source.headers();
    let audio_header = headers.pop().unwrap();
    assert!(matches!(audio_header, RecordItem::AudioHeader { .. }));
    let mut items = headers;
    items.extend(source.packets().take(30).cloned());
    items.push(audio_header);
    items.extend(source.packets().skip(30).cloned());
    let report = recorded(config(&directory), &items);
    let files = directory.recordings();
    assert_eq!((report.files, files.len()), (2, 2));
    assert_eq!((fixture::packets(&files[0], "a"), fixture::packets(&files[0], "v")), (0, 50));
    assert!(fixture::packets(&files[1], "a") > 150);
    assert!(silent(&files[0]) && silent(&files[1]));
}

#[test]
fn audio_held_when_its_header_changes_is_still_timed_by_the_old_header() {
    let directory = Directory::new();
    let source = Source::first();
    let mut items = source.headers();
    items.extend(source.packets().take(150).cloned());
    // HE-AAC signalled explicitly at half the rate; its packets do not come into this file.
    items.push(RecordItem::AudioHeader { config: vec![0x2B, 0x92, 0x08, 0x00] });
    let report = recorded(config(&directory), &items);
    let audio = source.packets().take(150).filter(|item| fixture::is_audio(item)).count();
    assert_eq!(fixture::packets(&report.path, "a"), audio);
    assert_eq!(complaints(&report.path), "");
    let span_ms = fixture::audio_span_ms(&report.path);
    let expected_ms = i64::try_from(audio - 1).unwrap() * 1_024_000 / 44_100;
    assert!(span_ms.abs_diff(expected_ms) <= 1, "{span_ms} is not {expected_ms}");
}

/// A disk with room for so many bytes; `write(2)` puts what fits and then fails.
struct SmallDisk {
    room: u64,
}

struct SmallFile {
    file: File,
    room: u64,
}

impl Disk for SmallDisk {
    type File = SmallFile;

    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<SmallFile> {
        Ok(SmallFile { file: File::create_new(path)?, room: self.room })
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl DiskFile for SmallFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u64::try_from(bytes.len()).unwrap();
        if length > self.room {
            let fits = usize::try_from(self.room).unwrap();
            io::Write::write_all(&mut self.file, &bytes[..fits])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= length;
        io::Write::write_all(&mut self.file, bytes)
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
}

#[test]
fn a_full_disk_stops_the_recording_by_name_and_leaves_a_file_that_plays() {
    let directory = Directory::new();
    let mut recorder = Recorder::new(config(&directory), SmallDisk { room: 60_000 });
    for item in &Source::first().items {
        recorder.handle(START_UNIX_MS, item.clone());
    }
    recorder.finish();
    let report = recorder.report();
    assert_eq!(report.state, RecordState::Stopped { reason: StopReason::DiskFull });
    assert_eq!(report.last_error, "disk full");
    assert!(report.fragments > 0, "{report:?}");
    assert_eq!(std::fs::metadata(&report.path).unwrap().len(), report.bytes);
    assert_eq!(complaints(&report.path), "");
}

/// Every file is the kernel's full device.
struct FullDevice;

impl Disk for FullDevice {
    type File = nix::fcntl::Flock<File>;

    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, _: &Path) -> io::Result<Self::File> {
        lock(std::fs::OpenOptions::new().write(true).open("/dev/full")?)
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

#[test]
fn the_kernels_own_no_space_error_is_known_by_name() {
    let directory = Directory::new();
    let mut recorder = Recorder::new(config(&directory), FullDevice);
    for item in Source::first().items.iter().take(20) {
        recorder.handle(START_UNIX_MS, item.clone());
    }
    let state = &recorder.report().state;
    assert_eq!(state, &RecordState::Stopped { reason: StopReason::DiskFull });
}

#[test]
fn too_little_free_space_or_no_directory_stops_the_recording_by_name() {
    let directory = Directory::new();
    let items = &Source::first().items;
    let report = recorded(RecordConfig { reserve_bytes: u64::MAX, ..config(&directory) }, items);
    let RecordState::Stopped { reason: StopReason::Reserve { reserve_bytes, .. } } = report.state
    else {
        panic!("{report:?}");
    };
    assert_eq!(reserve_bytes, u64::MAX);
    assert!(directory.recordings().is_empty());
    let blocked = directory.path.join("file");
    std::fs::write(&blocked, "").unwrap();
    let report = recorded(RecordConfig { directory: blocked, ..config(&directory) }, items);
    let doing = "create directory";
    assert!(
        matches!(&report.state, RecordState::Stopped { reason: StopReason::Io { doing: d, .. } } if *d == doing),
        "{report:?}"
    );
}

#[test]
fn a_stopped_recording_tells_the_stream_once_and_never_blocks_it() {
    let directory = Directory::new();
    let limits = RecordConfig { reserve_bytes: u64::MAX, ..config(&directory) };
    let mut handle = RecordThread::spawn(limits).unwrap();
    let thread = handle.thread.take().unwrap();
    for item in Source::first().items.iter().take(20) {
        let _ = handle.offer(item.clone());
    }
    thread.join().unwrap();
    let key = Source::first().packets().next().unwrap().clone();
    assert_eq!(handle.offer(key), Offered::Stopped);
    assert_eq!(handle.report().state.name(), "stopped");
}

fn packet(track: Track, idr: IsIdr, bytes: usize) -> RecordItem {
    let (at, behind) = (Place::default(), Place::default());
    let payload = vec![0; bytes];
    RecordItem::Packet(RecordPacket { track, dts_ms: 0, pts_ms: 0, idr, payload, at, behind })
}

#[test]
fn a_disk_slower_than_the_stream_costs_packets_up_to_a_keyframe_and_they_are_counted() {
    // No thread takes anything out unless this test does.
    let (mut handle, receiver) = RecordHandle::new();
    let header =
        |config: u8| RecordItem::VideoHeader { codec: VideoCodec::H264, config: vec![config] };
    assert_eq!(handle.offer(header(1)), Offered::Taken);
    for _ in 1..RECORD_QUEUE_ITEMS_MAX {
        assert_eq!(handle.offer(packet(Track::Video, IsIdr::Idr, 1)), Offered::Taken);
    }
    assert_eq!(handle.offer(packet(Track::Video, IsIdr::Other, 1)), Offered::QueueFull);
    assert_eq!(handle.offer(header(2)), Offered::QueueFull);
    assert_eq!(handle.offer(header(3)), Offered::QueueFull);
    assert_eq!(receiver.try_iter().take(3).count(), 3);
    assert_eq!(handle.offer(packet(Track::Video, IsIdr::Other, 1)), Offered::QueueFull);
    assert_eq!(handle.offer(packet(Track::Audio, IsIdr::Other, 1)), Offered::QueueFull);
    assert_eq!(handle.offer(packet(Track::Video, IsIdr::Idr, 7)), Offered::Taken);
    assert_eq!(handle.offer(packet(Track::Audio, IsIdr::Other, 1)), Offered::Taken);
    assert_eq!(handle.report().dropped_queue_full, 3);
    let tail: Vec<_> = receiver.try_iter().skip(RECORD_QUEUE_ITEMS_MAX - 3).collect();
    assert!(
        matches!(&tail[0], RecordItem::VideoHeader { config, .. } if config == &[3]),
        "the newest header comes before the keyframe"
    );
    assert_eq!((tail.len(), tail[1].bytes()), (3, 7));
}

#[test]
fn the_queue_is_bounded_in_bytes_too() {
    let (mut handle, _receiver) = RecordHandle::new();
    let half = RECORD_QUEUE_BYTES_MAX / 2;
    assert_eq!(handle.offer(packet(Track::Video, IsIdr::Idr, half)), Offered::Taken);
    assert_eq!(handle.offer(packet(Track::Video, IsIdr::Idr, half)), Offered::Taken);
    assert_eq!(handle.offer(packet(Track::Video, IsIdr::Idr, 1)), Offered::QueueFull);
}

#[test]
fn a_successor_repairs_what_a_dead_process_left_but_not_what_a_live_one_writes() {
    let directory = Directory::new();
    let report = recorded(config(&directory), &Source::first().items);
    let whole = std::fs::read(&report.path).unwrap();
    std::fs::write(&report.path, &whole[..whole.len() - 5]).unwrap();
    let length = || std::fs::metadata(&report.path).unwrap().len();
    let torn = length();
    {
        let _writer = lock(File::open(&report.path).unwrap()).unwrap();
        assert!(matches!(repair(&report.path), Err(RepairError::InUse)));
        let mut successor = Recorder::new(config(&directory), RealDisk);
        successor.repair_predecessor();
        assert_eq!((length(), successor.report().repaired), (torn, 0));
    }
    let report = RecordThread::spawn(config(&directory)).unwrap().finish();
    assert_eq!(report.repaired, 1);
    assert!(length() < torn);
    assert!(silent(&directory.recordings()[0]));
}

#[test]
fn retention_removes_old_recordings_when_a_file_begins_but_spares_locked_and_foreign_ones() {
    let directory = Directory::new();
    let make = |name: &str| {
        let path = directory.path.join(name);
        std::fs::write(&path, [0; 100]).unwrap();
        path
    };
    let old = make("other_source_20200101T000000Z.mp4");
    let written = make("other_source_20200102T000000Z.mp4");
    let foreign = make("holiday.mp4");
    let _writer = lock(File::open(&written).unwrap()).unwrap();
    let limits = RecordConfig { keep_bytes: 1, ..config(&directory) };
    let report = recorded(limits, &Source::first().items);
    assert_eq!(report.removed, 1);
    assert!(!old.exists() && written.exists() && foreign.exists() && report.path.exists());
}
