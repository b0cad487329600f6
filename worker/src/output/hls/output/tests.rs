//! Through real logs, cursors, threads and directories: owners are replaced at random packets, and
//! the files are compared with those of a stream that nothing happened to.

use super::*;
use crate::media::tag::{self, FlvKeyframe, WrittenAudio, WrittenVideo};
use crate::output::cursor::{PipelineState, Place};
use crate::output::hls::packager::tests::AVCC;
use crate::output::hls::place::{
    ENDED_FILE, FileName, InitNote, PartNote, PartNumber, STREAM_FILE,
};
use crate::output::record::tests::fixture::Directory;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tasuki_shared::memory::log::{self, LogHeads, LogWriter};
use tasuki_shared::plan::{AudioPlan, EncodedRung, LogSize, RungPlan, StreamLimits};

const SERIES: SeriesId = SeriesId([3; SeriesId::SIZE]);
const FRAMES: i64 = 400;
const FRAME_MS: i64 = 40;
const GOP_FRAMES: i64 = 50;

fn plan(directory: &Path) -> Plan {
    let size = LogSize { payload_bytes: 1 << 20, index_entries: 4096 };
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
        limits: StreamLimits {
            width_max: 1920,
            height_max: 1080,
            fps_max: 60,
            bitrate_bps_max: 10_000_000,
        },
        silence_ms_max: 30_000,
        source_log: size,
        rungs: vec![rung("source", RungKind::Source), rung("72p", RungKind::Encoded(encoded))],
        audio: AudioPlan::Copy,
        blur: Vec::new(),
        pushes: Vec::new(),
        record: None,
        thumbnail: None,
        hls: Some(HlsPlan {
            directory: directory.join("live").join("cam"),
            rungs: vec![RungId(0), RungId(1)],
            target_ms: 4_000,
            part_target_ms: 220,
            window_ms: 60_000,
        }),
        flv: None,
    }
}

fn logs(index_entries: u32) -> Logs {
    let new = || {
        let size = LogSize { payload_bytes: 1 << 20, index_entries };
        LogWriter::resume(&log::create(size).unwrap(), LogHeads::empty()).unwrap()
    };
    let rungs = vec![None, Some(new())];
    Logs { source: new(), audio: None, rungs, pipeline: PipelineState::Empty }
}

fn put_headers(logs: &mut Logs, sound: HasSound) {
    let head = tag::video_tag_header(WrittenVideo::SequenceHeader);
    for log in [Some(&mut logs.source), logs.rungs[1].as_mut()].into_iter().flatten() {
        log.put(&[&head, AVCC], EntryKind::VideoHeader, 0, 0, 0).unwrap();
    }
    if sound == HasSound::Yes {
        put_sound_header(logs);
    }
}

fn put_sound_header(logs: &mut Logs) {
    let head = tag::audio_tag_header(WrittenAudio::SequenceHeader);
    logs.source.put(&[&head, &[0x11, 0x90]], EntryKind::AudioHeader, 0, 0, 0).unwrap();
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HasSound {
    No,
    Yes,
}

/// A picture in both logs and the sound up to the next one.
fn put_frame(logs: &mut Logs, frame: i64, sound: HasSound) {
    let dts_ms = frame * FRAME_MS;
    let (keyframe, kind) = if frame % GOP_FRAMES == 0 {
        (FlvKeyframe::Key, EntryKind::VideoIdr)
    } else {
        (FlvKeyframe::Inter, EntryKind::VideoInter)
    };
    let head = tag::video_tag_header(WrittenVideo::Frame { keyframe, cts_ms: 0 });
    let payload = format!("picture {frame}");
    let index = logs.source.heads().index_head;
    logs.source.put(&[&head, payload.as_bytes()], kind, dts_ms, 0, 0).unwrap();
    let rung = logs.rungs[1].as_mut().unwrap();
    rung.put(&[&head, payload.as_bytes()], kind, dts_ms, 0, index).unwrap();
    if sound == HasSound::Yes {
        let head = tag::audio_tag_header(WrittenAudio::Frame);
        for dts_ms in [dts_ms + 1, dts_ms + 21] {
            let payload = format!("sound {dts_ms}");
            let parts: [&[u8]; 2] = [&head, payload.as_bytes()];
            logs.source.put(&parts, EntryKind::Audio, dts_ms, 0, 0).unwrap();
        }
    }
}

fn owner(plan: &Plan) -> HlsOutput {
    let wake: Wake = Arc::new(|| {});
    HlsOutput::start(plan, SERIES, &wake).unwrap()
}

/// Until all is handed over that the cursors give.
fn feed(output: &mut HlsOutput, logs: &Logs, end: StreamEnd) {
    loop {
        let places: Vec<_> = output.lines.iter().map(|line| line.cursor.place()).collect();
        output.feed(logs, end);
        let begun = output.lines.iter().all(|line| line.begun != Begun::Not);
        let stand = output.lines.iter().zip(places).all(|(line, at)| line.cursor.place() == at);
        let has_room = output.handle.as_ref().is_ok_and(HlsHandle::has_room);
        if begun && stand && has_room && (end == StreamEnd::Going || output.is_fed(logs)) {
            return;
        }
        std::thread::yield_now();
    }
}

fn end(mut output: HlsOutput, logs: &Logs) {
    feed(&mut output, logs, StreamEnd::Over);
    output.finish().unwrap()();
}

/// What the directory holds, without what depends on when it was made.
fn files(plan: &Plan) -> BTreeMap<(String, PartNumber), (PartNote, Vec<u8>)> {
    let directory = &plan.hls.as_ref().unwrap().directory;
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if let Some(FileName::Part { label, number }) = FileName::parse(&name) {
            let file = std::fs::read(entry.path()).unwrap();
            let (note, media) = PartNote::split(&file).unwrap();
            found.insert((label.to_string(), number), (note, media.to_vec()));
        }
    }
    let first_segment = found.keys().map(|(_, number)| number.segment).min().unwrap();
    let epoch = found.values().next().map(|(note, _)| note.start_unix_ms).unwrap();
    let since = |((label, number), (note, media)): (_, (PartNote, Vec<u8>))| {
        // Behind the same packets, but who looked farther ahead has passed over more.
        let place = Place::default();
        let PartNumber { segment, part } = number;
        let number = PartNumber { segment: segment - first_segment, part };
        let start_unix_ms = note.start_unix_ms - epoch;
        ((label, number), (PartNote { start_unix_ms, place, ..note }, media))
    };
    found.into_iter().map(since).collect()
}

fn undisturbed() -> BTreeMap<(String, PartNumber), (PartNote, Vec<u8>)> {
    let directory = Directory::new();
    let plan = plan(&directory.path);
    let mut logs = logs(4096);
    put_headers(&mut logs, HasSound::Yes);
    (0..FRAMES).for_each(|frame| put_frame(&mut logs, frame, HasSound::Yes));
    end(owner(&plan), &logs);
    let directory = &plan.hls.as_ref().unwrap().directory;
    assert!(directory.join(ENDED_FILE).exists() && directory.join(STREAM_FILE).exists());
    files(&plan)
}

#[test]
fn every_picture_of_every_rendition_is_in_a_part_and_segments_begin_together() {
    let files = undisturbed();
    for label in ["source", "72p"] {
        let of: Vec<_> = files.iter().filter(|((of, _), _)| of == label).collect();
        let frames: u32 = of.iter().map(|(_, (note, _))| note.frames).sum();
        assert_eq!(i64::from(frames), FRAMES, "{label}");
        let starts: Vec<_> = of
            .iter()
            .filter(|((_, number), _)| number.part == 0)
            .map(|(_, (note, _))| note.start_ms)
            .collect();
        assert_eq!(starts, [0, 2_000, 4_000, 6_000, 8_000, 10_000, 12_000, 14_000], "{label}");
        // Sound and pictures in one file.
        let has = |text: &str| {
            of.iter().all(|(_, (_, media))| {
                media.windows(text.len()).any(|window| window == text.as_bytes())
            })
        };
        assert!(has("picture ") && has("sound "), "{label}");
    }
}

#[test]
fn owners_that_are_replaced_at_random_packets_make_the_files_of_one() {
    let whole = undisturbed();
    let mut chance = 0x2545_F491_4F6C_DD1D_u64;
    for round in 0..8 {
        let directory = Directory::new();
        let plan = plan(&directory.path);
        let mut logs = logs(4096);
        put_headers(&mut logs, HasSound::Yes);
        let mut output = owner(&plan);
        for frame in 0..FRAMES {
            put_frame(&mut logs, frame, HasSound::Yes);
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match (chance >> 33) % 40 {
                0 => {
                    // Planned: the new owner is there before the old one has done what it was fed.
                    feed(&mut output, &logs, StreamEnd::Going);
                    let mut next = owner(&plan);
                    next.feed(&logs, StreamEnd::Going);
                    output.release().unwrap()();
                    output = next;
                }
                1 => {
                    // As good as killed: what it held is gone.
                    feed(&mut output, &logs, StreamEnd::Going);
                    output.release().unwrap()();
                    output = owner(&plan);
                }
                _ => output.feed(&logs, StreamEnd::Going),
            }
        }
        end(output, &logs);
        let files = files(&plan);
        let keys = |files: &BTreeMap<_, _>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&files), keys(&whole), "round {round}");
        for (key, found) in &files {
            assert!(*found == whole[key], "round {round}: {key:?}: {:?}", found.0);
        }
    }
}

#[test]
fn what_is_gone_from_the_logs_is_a_gap_and_the_numbers_go_on() {
    let directory = Directory::new();
    let plan = plan(&directory.path);
    let mut logs = logs(128);
    put_headers(&mut logs, HasSound::Yes);
    let mut output = owner(&plan);
    for frame in 0..60 {
        put_frame(&mut logs, frame, HasSound::Yes);
        feed(&mut output, &logs, StreamEnd::Going);
    }
    output.release().unwrap()();
    (60..190).for_each(|frame| put_frame(&mut logs, frame, HasSound::Yes));
    let mut output = owner(&plan);
    for frame in 190..300 {
        put_frame(&mut logs, frame, HasSound::Yes);
        feed(&mut output, &logs, StreamEnd::Going);
    }
    while output.status().iter().any(|(_, status)| status.state != "packaging") {
        std::thread::yield_now();
    }
    end(output, &logs);
    let files = files(&plan);
    for label in ["source", "72p"] {
        let of: Vec<_> = files.iter().filter(|((of, _), _)| of == label).collect();
        let broken = of.iter().find(|(_, (note, _))| note.discontinuities == 1).unwrap();
        assert_eq!((broken.1.0.start_ms, broken.0.1.part), (200 * FRAME_MS, 0), "{label}");
        let segments: Vec<_> = of.iter().map(|((_, number), _)| number.segment).collect();
        assert!(segments.windows(2).all(|pair| pair[1] - pair[0] <= 1), "{segments:?}");
    }
}

#[test]
fn sound_that_comes_a_little_later_is_in_the_first_init_segment_and_none_is_not_waited_for() {
    for (late, codecs) in [(Some(15), "avc1.64000b,mp4a.40.2"), (None, "avc1.64000b")] {
        let directory = Directory::new();
        let plan = plan(&directory.path);
        let mut logs = logs(4096);
        put_headers(&mut logs, HasSound::No);
        let mut output = owner(&plan);
        for frame in 0..120 {
            if late == Some(frame) {
                put_sound_header(&mut logs);
            }
            let has_sound = late.is_some_and(|late| frame >= late);
            let sound = if has_sound { HasSound::Yes } else { HasSound::No };
            put_frame(&mut logs, frame, sound);
            feed(&mut output, &logs, StreamEnd::Going);
        }
        end(output, &logs);
        let directory = &plan.hls.as_ref().unwrap().directory;
        let mut inits = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if let Some(FileName::Init { .. }) = FileName::parse(&name) {
                let file = std::fs::read(entry.path()).unwrap();
                assert_eq!(InitNote::split(&file).unwrap().0.codecs, codecs);
                inits += 1;
            }
        }
        assert_eq!(inits, 2, "one for each rendition");
    }
}
