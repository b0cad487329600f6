//! Sequences of packets, by proptest, through packagers that are replaced after any part.

mod slow;

use super::open::PART_PERCENT_MIN;
use super::*;
use crate::media::packet::IsIdr;
use crate::output::hls::place::{Independent, InitNote};
use crate::session::record::{Put, Take};
use proptest::prelude::*;
use tasuki_shared::limits::{HLS_GAP_MS, IDR_DISTANCE_MAX_MS};

pub(in crate::output::hls) const AVCC: &[u8] = &[
    0x01, 0x64, 0x00, 0x0B, 0xFF, 0xE1, 0x00, 0x1A, 0x67, 0x64, 0x00, 0x0B, 0xAC, 0xD9, 0x42, 0xCD,
    0xE2, 0x24, 0xC0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x03, 0x00, 0xC8, 0x3C, 0x50,
    0xA6, 0x58, 0x01, 0x00, 0x06, 0x68, 0xEB, 0xE3, 0xCB, 0x22, 0xC0, 0xFD, 0xF8, 0xF8, 0x00,
];
const SOUND: &[u8] = &[0x11, 0x90];
const SERIES: SeriesId = SeriesId([5; SeriesId::SIZE]);
const TARGET_MS: i64 = 4_000;
const PART_MS: i64 = 220;
const NOW_MS: u64 = 1_790_000_000_000;

fn rules() -> Rules {
    Rules { series: SERIES, target_ms: TARGET_MS, part_target_ms: PART_MS }
}

/// A place of our own making: as far as the packager knows, places are only passed on.
fn place(count: usize) -> Place {
    let mut bytes = vec![1, 0, 0];
    bytes.put_u64(u64::try_from(count).unwrap());
    bytes.put_u64(0);
    bytes.put_u8(2);
    bytes.put_u64(0);
    Place::decode(&mut Take::new("test", &bytes)).unwrap()
}

fn video(dts_ms: i64, key: Key) -> HlsPacket {
    let idr = if key == Key::No { IsIdr::Other } else { IsIdr::Idr };
    // Told apart by their payload.
    packet(Track::Video, dts_ms, key, idr)
}

fn sound(dts_ms: i64) -> HlsPacket {
    packet(Track::Audio, dts_ms, Key::No, IsIdr::Other)
}

fn packet(track: Track, dts_ms: i64, key: Key, idr: IsIdr) -> HlsPacket {
    let payload = format!("{track:?}{dts_ms}").into_bytes();
    let (at, behind) = (Place::default(), Place::default());
    let packet = RecordPacket { track, dts_ms, pts_ms: dts_ms + 40, idr, payload, at, behind };
    HlsPacket { key, packet }
}

/// The packets of a stream, with the video configuration that is in force at each.
#[derive(Clone, Debug)]
struct Stream {
    packets: Vec<(Vec<u8>, HlsPacket)>,
}

impl Stream {
    fn of(mut packets: Vec<HlsPacket>) -> Self {
        packets.sort_by_key(|packet| packet.packet.dts_ms);
        for (index, packet) in packets.iter_mut().enumerate() {
            (packet.packet.at, packet.packet.behind) = (place(index), place(index + 1));
        }
        Self { packets: packets.into_iter().map(|packet| (AVCC.to_vec(), packet)).collect() }
    }

    fn position(&self, wanted: Place) -> usize {
        let found = self.packets.iter().position(|(_, packet)| packet.packet.at == wanted);
        found.unwrap_or(self.packets.len())
    }
}

/// What a stream has become, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Files {
    parts: Vec<(PartNumber, PartNote, Vec<u8>)>,
    inits: Vec<(InitHash, Vec<u8>)>,
    left: Option<LeftReason>,
}

impl Files {
    fn add(&mut self, made: Made) {
        match made {
            Made::Init { hash, file } => {
                if !self.inits.iter().any(|(known, _)| *known == hash) {
                    self.inits.push((hash, file));
                }
            }
            Made::Part { number, note, file } => self.parts.push((number, *note, file)),
            Made::Left(reason) => self.left = Some(reason),
        }
    }

    fn segments(&self) -> Vec<Vec<PartNote>> {
        let mut found: Vec<(u64, Vec<PartNote>)> = Vec::new();
        for (number, note, _) in &self.parts {
            match found.last_mut() {
                Some((segment, notes)) if *segment == number.segment => notes.push(*note),
                Some(_) | None => found.push((number.segment, vec![*note])),
            }
        }
        found.into_iter().map(|(_, notes)| notes).collect()
    }
}

/// Feeds a packager as a cursor does: the header in force before the first packet that needs it.
struct Feeder<'a> {
    stream: &'a Stream,
    packager: Packager,
    epoch: Epoch,
    at: usize,
    sent: (Option<&'a [u8]>, bool),
}

impl<'a> Feeder<'a> {
    fn new(stream: &'a Stream, kind: RenditionKind) -> Self {
        let (packager, epoch) = (Packager::new(rules(), kind), Epoch::default());
        Self { stream, packager, epoch, at: 0, sent: (None, false) }
    }

    /// One that knows the files alone.
    fn next_owner(stream: &'a Stream, kind: RenditionKind, files: &Files, memory: Memory) -> Self {
        let Some((number, note, _)) = files.parts.last() else { return Self::new(stream, kind) };
        let init = &files.inits.iter().find(|(hash, _)| *hash == note.init).unwrap().1;
        let mut packager = Packager::resume(rules(), kind, *number, note, init).unwrap();
        match memory {
            Memory::Note => {}
            Memory::PlaceOnly => {
                let State::Open(open) = &mut packager.state else { panic!("it goes on") };
                (open.segment_start_ms, open.source_keyframe_ms) = (open.part_start_ms, None);
                packager.clock = FragmentClock::new(HLS_ORIGIN_MS);
            }
        }
        let offset_ms = Some(i64::try_from(note.start_unix_ms).unwrap() - note.start_ms);
        let epoch = Epoch { offset_ms, ..Epoch::default() };
        Self { stream, packager, epoch, at: stream.position(note.place), sent: (None, false) }
    }

    /// `false` at the end.
    fn step(&mut self, files: &mut Files) -> bool {
        // The wall clock moves and is stepped; nothing follows it.
        let now = NOW_MS + 17 * u64::try_from(self.at).unwrap();
        let mut made = Vec::new();
        let Some((config, packet)) = self.stream.packets.get(self.at) else {
            self.packager.finish(&mut self.epoch, now, &mut made);
            made.into_iter().for_each(|made| files.add(made));
            return false;
        };
        if packet.packet.track == Track::Video && self.sent.0 != Some(config) {
            self.sent.0 = Some(config);
            self.packager.video_header(VideoCodec::H264, config.clone());
        }
        // Before the first picture a cursor tells of the sound that will follow.
        let tells = self.at == 0 || packet.packet.track == Track::Audio;
        if tells && !self.sent.1 {
            self.sent.1 = true;
            self.packager.audio_header(SOUND.to_vec());
        }
        self.packager.take(packet.clone(), &mut self.epoch, now, &mut made);
        made.into_iter().for_each(|made| files.add(made));
        self.at += 1;
        true
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Note,
    /// Negative control: an owner that knows where to go on and nothing of how.
    PlaceOnly,
}

fn by_one_owner(stream: &Stream, kind: RenditionKind) -> Files {
    let mut files = Files::default();
    let mut feeder = Feeder::new(stream, kind);
    while feeder.step(&mut files) {}
    files
}

/// Owners die after so many packets each, with whatever they hold.
fn by_many(stream: &Stream, kind: RenditionKind, lives: &[usize], memory: Memory) -> Files {
    let mut files = Files::default();
    let mut lives = lives.iter();
    loop {
        let mut feeder = Feeder::next_owner(stream, kind, &files, memory);
        let Some(life) = lives.next() else {
            while feeder.step(&mut files) {}
            return files;
        };
        for _ in 0..*life {
            if files.left.is_some() || !feeder.step(&mut files) {
                return files;
            }
        }
    }
}

/// Pictures and sound of one source, and where its keyframes are.
#[derive(Clone, Debug)]
struct Shape {
    frame_us: i64,
    gop_frames: i64,
    seconds: i64,
    with_sound: bool,
    /// Pictures at which an owner was replaced.
    seams: Vec<i64>,
    /// A hole in the stream, in milliseconds from and to.
    hole: Option<(i64, i64)>,
}

impl Shape {
    fn ms(&self, frame: i64) -> i64 {
        frame * self.frame_us / 1000
    }

    fn frames(&self) -> impl Iterator<Item = i64> + '_ {
        let is_there = |ms: i64| !self.hole.is_some_and(|(from, to)| (from..to).contains(&ms));
        (0..self.seconds * 1_000_000 / self.frame_us).filter(move |frame| is_there(self.ms(*frame)))
    }

    fn sounds(&self) -> Vec<HlsPacket> {
        let count = if self.with_sound { self.seconds * 48_000 / 1024 } else { 0 };
        let is_there = |ms: &i64| !self.hole.is_some_and(|(from, to)| (from..to).contains(ms));
        (0..count).map(|at| at * 1024 / 48).filter(is_there).map(sound).collect()
    }

    fn source(&self) -> Stream {
        let key = |frame| if frame % self.gop_frames == 0 { Key::Source } else { Key::No };
        let pictures = self.frames().map(|frame| video(self.ms(frame), key(frame)));
        Stream::of(pictures.chain(self.sounds()).collect())
    }

    /// As the pipeline places its keyframes (`cadence.rs`).
    fn rung(&self) -> Stream {
        let mut last_ms = 0;
        let mut packets = Vec::new();
        for frame in self.frames() {
            let at_ms = self.ms(frame);
            let is_due = at_ms + self.frame_us / 1000 > last_ms + IDR_DISTANCE_MAX_MS;
            let key = if frame % self.gop_frames == 0 {
                Key::Source
            } else if is_due || self.seams.contains(&frame) {
                Key::Own
            } else {
                Key::No
            };
            if key != Key::No {
                last_ms = at_ms;
            }
            packets.push(video(at_ms, key));
        }
        packets.extend(self.sounds());
        Stream::of(packets)
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let frame_us = prop::sample::select(vec![16_683_i64, 20_000, 33_333, 33_366, 40_000, 100_000]);
    let gop_frames = prop_oneof![Just(60_i64), Just(50), 1_i64..400];
    let seams = prop::collection::vec(1_i64..600, 0..4);
    // Not of the very length from which on it is a gap: whose last packet it is counted from differs
    // by a moment between owners.
    let long = prop_oneof![300_i64..HLS_GAP_MS - 100, HLS_GAP_MS + 100..4_000];
    let hole = prop::option::of((1_000_i64..9_000, long));
    let hole = hole.prop_map(|hole| hole.map(|(from, long)| (from, from + long)));
    (frame_us, gop_frames, 4_i64..16, any::<bool>(), seams, hole).prop_map(
        |(frame_us, gop_frames, seconds, with_sound, seams, hole)| Shape {
            frame_us,
            gop_frames,
            seconds,
            with_sound,
            seams,
            hole,
        },
    )
}

fn check_sums(files: &Files) {
    let segments = files.segments();
    for (at, notes) in segments.iter().enumerate() {
        let start_ms = notes[0].segment_start_ms;
        let mut at_ms = start_ms;
        for note in notes {
            assert_eq!((note.start_ms, note.segment_start_ms), (at_ms, start_ms), "{note:?}");
            at_ms += i64::from(note.duration_ms);
        }
        // Rounded to the nearest second (RFC 8216, 4.3.3.1): a forced cut may come a moment late.
        let length_ms = at_ms - start_ms;
        assert!((length_ms + 500) / 1000 <= TARGET_MS / 1000, "a segment of {length_ms} ms");
        let (last, before) = notes.split_last().unwrap();
        // A part may be known as a segment's last only by the next packet but one.
        let is_forced =
            segments.get(at + 1).is_some_and(|next| next[0].independent == Independent::No);
        assert!(last.ends == Ends::Segment || is_forced, "{last:?}");
        assert!(before.iter().all(|note| note.ends == Ends::Part));
        if let Some(next) = segments.get(at + 1)
            && next[0].discontinuities == last.discontinuities
        {
            assert_eq!(next[0].start_ms, at_ms, "the next segment begins where this one ends");
        }
    }
    let numbers: Vec<_> = files.parts.iter().map(|(number, ..)| *number).collect();
    for pair in numbers.windows(2) {
        let PartNumber { segment, part } = pair[0];
        let follows =
            [PartNumber { segment, part: part + 1 }, PartNumber { segment: segment + 1, part: 0 }];
        assert!(follows.contains(&pair[1]), "{pair:?}");
    }
}

/// What PART-TARGET promises (RFC 8216bis, 4.4.3.7 and 4.4.4.9), of all parts.
fn check_part_target(files: &Files) {
    let most_ms = u32::try_from(PART_MS).unwrap();
    let least_ms = u32::try_from(PART_MS * PART_PERCENT_MIN / 100).unwrap();
    for notes in files.segments() {
        assert!(notes.iter().all(|note| note.duration_ms <= most_ms), "{notes:?}");
        let (_, full) = notes.split_last().unwrap();
        assert!(full.iter().all(|note| note.duration_ms >= least_ms), "{notes:?}");
    }
}

/// Payloads of all parts, in order.
fn payloads(files: &Files) -> usize {
    files.parts.iter().map(|(_, note, _)| usize::try_from(note.frames).unwrap()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whoever makes them and however often owners are replaced, the files are the same.
    #[test]
    fn many_owners_make_what_one_makes(
        shape in shapes(),
        lives in prop::collection::vec(1_usize..300, 0..12),
    ) {
        for (stream, kind) in
            [(shape.source(), RenditionKind::Source), (shape.rung(), RenditionKind::Encoded)]
        {
            let one = by_one_owner(&stream, kind);
            prop_assert!(one.left.is_some() || one.parts.len() > 3);
            let many = by_many(&stream, kind, &lives, Memory::Note);
            prop_assert_eq!(&many.left, &one.left);
            prop_assert_eq!(&many.inits, &one.inits);
            prop_assert_eq!(many.parts.len(), one.parts.len());
            for (many, one) in many.parts.iter().zip(&one.parts) {
                prop_assert_eq!(many.0, one.0);
                prop_assert_eq!(&many.1, &one.1, "{:?}", one.0);
                prop_assert!(many.2 == one.2, "other bytes in {:?}", one.0);
            }
        }
    }

    /// What is declared of segments and parts adds up, is within its bounds and loses nothing.
    #[test]
    fn durations_add_up_and_nothing_is_too_long(shape in shapes()) {
        let source = by_one_owner(&shape.source(), RenditionKind::Source);
        if source.left.is_none() {
            check_sums(&source);
            if shape.hole.is_none() {
                prop_assert_eq!(payloads(&source), shape.frames().count());
            }
        }
        let rung = by_one_owner(&shape.rung(), RenditionKind::Encoded);
        check_sums(&rung);
        check_part_target(&source);
        check_part_target(&rung);
        let keyless = rung.segments().iter().filter(|notes| notes[0].independent == Independent::No).count();
        if shape.hole.is_none() {
            prop_assert_eq!(payloads(&rung), shape.frames().count());
            if shape.seams.is_empty() {
                prop_assert_eq!(keyless, 0, "a rung always has a keyframe in time");
            }
        }
    }

    /// A viewer changes from one rendition to the other at any segment: all begin at the same
    /// pictures while the source has keyframes, wherever seams are.
    #[test]
    fn renditions_are_cut_at_the_same_pictures(
        shape in shapes(),
        gop_frames in 1_i64..61,
        seams in prop::collection::vec(1_i64..600, 0..6),
    ) {
        let frame_us = 33_366;
        let shape = Shape { gop_frames, frame_us, seams, hole: None, ..shape };
        let starts = |files: &Files| -> Vec<_> {
            files.segments().iter().map(|notes| (notes[0].start_ms, notes[0].start_unix_ms)).collect()
        };
        let source = by_one_owner(&shape.source(), RenditionKind::Source);
        prop_assert_eq!(source.left, None);
        let rung = by_one_owner(&shape.rung(), RenditionKind::Encoded);
        prop_assert!(starts(&source).len() > 1);
        prop_assert_eq!(starts(&rung), starts(&source));
        // Without keyframes of the source, rungs with other seams are cut alike as far as they can.
        let rare = Shape { gop_frames: 10_000, seams: Vec::new(), ..shape };
        let rung = by_one_owner(&rare.rung(), RenditionKind::Encoded);
        prop_assert!(rung.segments().iter().all(|notes| notes[0].independent == Independent::Yes));
    }
}

fn usual() -> Shape {
    let seams = Vec::new();
    Shape { frame_us: 33_366, gop_frames: 60, seconds: 30, with_sound: true, seams, hole: None }
}

/// Pictures of a rung for so many seconds.
pub(in crate::output::hls) fn packets(seconds: i64) -> Vec<HlsPacket> {
    let shape = Shape { seconds, with_sound: false, ..usual() };
    shape.rung().packets.into_iter().map(|(_, packet)| packet).collect()
}

#[test]
fn an_owner_that_ignores_the_note_is_caught() {
    // Negative control of the comparison with one owner.
    let stream = usual().rung();
    let one = by_one_owner(&stream, RenditionKind::Encoded);
    let lives = [500, 333];
    assert_eq!(by_many(&stream, RenditionKind::Encoded, &lives, Memory::Note), one);
    assert_ne!(by_many(&stream, RenditionKind::Encoded, &lives, Memory::PlaceOnly), one);
}

#[test]
fn a_source_with_keyframes_that_are_too_rare_leaves_by_name_and_the_rungs_stay() {
    let shape = Shape { gop_frames: 250, ..usual() };
    let source = by_one_owner(&shape.source(), RenditionKind::Source);
    assert_eq!(source.left, Some(LeftReason::SourceGopTooLong));
    assert_eq!(source.left.unwrap().to_string(), "source_gop_too_long");
    let rung = by_one_owner(&shape.rung(), RenditionKind::Encoded);
    assert_eq!(rung.left, None);
    check_sums(&rung);
}

#[test]
fn a_seam_begins_no_segment_while_the_source_has_keyframes() {
    let seams = vec![75, 200, 431];
    let starts = |shape: &Shape| -> Vec<_> {
        let files = by_one_owner(&shape.rung(), RenditionKind::Encoded);
        files.segments().iter().map(|notes| notes[0].start_ms).collect()
    };
    assert_eq!(starts(&Shape { seams, ..usual() }), starts(&usual()));
}

#[test]
fn other_headers_begin_a_segment_with_a_discontinuity_and_the_same_ones_do_not() {
    let mut stream = usual().rung();
    // Half-way a keyframe with another level, and the old one again at the end.
    let mut other = AVCC.to_vec();
    (other[3], other[11]) = (0x0c, 0x0c);
    let is_key = |packet: &HlsPacket| packet.key == Key::Source;
    let keys: Vec<_> =
        (0..stream.packets.len()).filter(|at| is_key(&stream.packets[*at].1)).collect();
    for (config, _) in &mut stream.packets[keys[5]..keys[10]] {
        config.clone_from(&other);
    }
    let one = by_one_owner(&stream, RenditionKind::Encoded);
    check_sums(&one);
    assert_eq!(one.inits.len(), 2);
    assert_eq!(one.parts.last().unwrap().1.discontinuities, 2);
    for life in [1, 7, 200, 631, 640, 1000, 1500] {
        let many = by_many(&stream, RenditionKind::Encoded, &[life, life, life], Memory::Note);
        assert_eq!(many, one, "{life}");
    }
    let (note, _) = InitNote::split(&one.inits[1].1).unwrap();
    assert_eq!(note.codecs, "avc1.64000c,mp4a.40.2");
}

#[test]
fn a_new_stream_under_the_name_goes_on_with_the_numbers_and_says_so() {
    let stream = usual().rung();
    let first = by_one_owner(&stream, RenditionKind::Encoded);
    let (last, note, _) = first.parts.last().unwrap();
    let other = Rules { series: SeriesId([6; SeriesId::SIZE]), ..rules() };
    let packager = Packager::after(other, RenditionKind::Encoded, *last, Some(note));
    let mut feeder = Feeder::new(&stream, RenditionKind::Encoded);
    feeder.packager = packager;
    let mut files = Files::default();
    while feeder.step(&mut files) {}
    assert_eq!(files.parts[0].0, PartNumber { segment: last.segment + 1, part: 0 });
    assert_eq!(files.parts[0].1.discontinuities, 1);
    assert_eq!(first.parts[0].0.segment, NOW_MS / 1000, "numbers never go back");
}

#[test]
fn after_a_loss_a_segment_begins_at_the_next_keyframe() {
    let stream = usual().rung();
    let mut feeder = Feeder::new(&stream, RenditionKind::Encoded);
    let mut files = Files::default();
    for _ in 0..300 {
        feeder.step(&mut files);
    }
    let mut made = Vec::new();
    feeder.packager.gap(&mut feeder.epoch, NOW_MS, &mut made);
    made.into_iter().for_each(|made| files.add(made));
    feeder.at += 5;
    while feeder.step(&mut files) {}
    check_sums(&files);
    let broken = files.parts.iter().position(|(_, note, _)| note.discontinuities == 1).unwrap();
    assert_eq!(files.parts[broken].0.part, 0);
    assert_eq!(files.parts[broken].1.independent, Independent::Yes);
    assert_eq!(files.parts[broken - 1].1.ends, Ends::Segment);
    assert_eq!(feeder.packager.oddities.gaps, 1);
}
