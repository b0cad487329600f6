use super::*;
use mp4_atom::Decode;
use proptest::prelude::*;

const AVC: [u8; 40] = [
    0x01, 0x42, 0xC0, 0x0B, 0xFF, 0xE1, 0x00, 0x18, 0x67, 0x42, 0xC0, 0x0B, 0xD9, 0x02, 0x8D, 0xF9,
    0x30, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00, 0x03, 0x00, 0x32, 0x0F, 0x14, 0x2A, 0x48,
    0x01, 0x00, 0x05, 0x68, 0xCB, 0x83, 0xCB, 0x20,
];
/// 160x90, Main; PPS and SEI left out.
const HEVC: [u8; 98] = [
    0x01, 0x01, 0x60, 0x00, 0x00, 0x00, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1E, 0xF0, 0x00, 0xFC,
    0xFD, 0xF8, 0xF8, 0x00, 0x00, 0x0F, 0x02, // two arrays: VPS, SPS
    0xA0, 0x00, 0x01, 0x00, 0x18, 0x40, 0x01, 0x0C, 0x01, 0xFF, 0xFF, 0x01, 0x60, 0x00, 0x00, 0x03,
    0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x1E, 0x95, 0x98, 0x09, //
    0xA1, 0x00, 0x01, 0x00, 0x29, 0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00,
    0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x1E, 0xA0, 0x14, 0x20, 0x61, 0xF2, 0x65, 0x95, 0x9A, 0x49,
    0x32, 0xBC, 0x05, 0xA0, 0x20, 0x00, 0x00, 0x03, 0x00, 0x20, 0x00, 0x00, 0x03, 0x03,
];
const TIMING: AudioTiming = AudioTiming { sample_rate: 44_100, frame_samples: 1024 };

fn sample(dts_ms: i64, pts_ms: i64, payload: &[u8]) -> Sample<'_> {
    Sample { dts_ms, pts_ms, sync: Sync::Depends, payload }
}

fn written(clock: &mut FragmentClock, video: &[Sample<'_>], end_ms: Option<i64>) -> (Moof, usize) {
    let mut bytes = Vec::new();
    let fragment = Fragment { video, video_end_ms: end_ms, audio: &[], audio_timing: TIMING };
    clock.write_fragment(&fragment, &mut bytes).unwrap();
    let rest = &mut bytes.as_slice();
    let moof = Moof::decode(rest).unwrap();
    (moof, rest.len())
}

fn decode_times(traf: &Traf) -> Vec<u64> {
    let mut time = traf.tfdt.as_ref().unwrap().base_media_decode_time;
    let mut times = vec![time];
    for entry in &traf.trun[0].samples {
        time += u64::from(entry.duration.unwrap());
        times.push(time);
    }
    times
}

#[test]
fn an_init_segment_keeps_the_decoder_configurations_byte_by_byte() {
    let video = VideoTrack { codec: VideoCodec::H264, config: &AVC, width: 160, height: 90 };
    let audio = AudioTrack { config: &[0x12, 0x10], sample_rate: 44_100, channels: 2 };
    let bytes = init_segment(Some(video), Some(audio)).unwrap();
    assert!(bytes.windows(AVC.len()).any(|window| window == AVC));
    let rest = &mut bytes.as_slice();
    Ftyp::decode(rest).unwrap();
    let moov = Moov::decode(rest).unwrap();
    assert_eq!(moov.trak.len(), 2);
    assert_eq!(moov.mvex.unwrap().trex.len(), 2);
    assert!(rest.is_empty());
}

#[test]
fn hevc_becomes_an_hvc1_entry_with_its_configuration() {
    let video = VideoTrack { codec: VideoCodec::Hevc, config: &HEVC, width: 160, height: 90 };
    let bytes = init_segment(Some(video), None).unwrap();
    assert!(bytes.windows(HEVC.len()).any(|window| window == HEVC));
    assert!(bytes.windows(4).any(|window| window == b"hvc1"));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    assert!(matches!(init_segment(None, None), Err(Fmp4Error::NoTrack)));
    let video = VideoTrack { codec: VideoCodec::H264, config: &AVC[..9], width: 160, height: 90 };
    assert!(matches!(init_segment(Some(video), None), Err(Fmp4Error::Config(_))));
    let video = VideoTrack { codec: VideoCodec::H264, config: &AVC, width: 70_000, height: 90 };
    assert!(matches!(init_segment(Some(video), None), Err(Fmp4Error::Size(70_000, 90))));
}

#[test]
fn video_times_are_exact_and_continue_across_fragments() {
    let mut clock = FragmentClock::new(5_000);
    let (moof, _) = written(
        &mut clock,
        &[sample(5_000, 5_080, b"abc"), sample(5_033, 5_033, b"de")],
        Some(5_067),
    );
    assert_eq!(decode_times(&moof.traf[0]), [0, 33 * 90, 67 * 90]);
    let cts: Vec<_> = moof.traf[0].trun[0].samples.iter().map(|entry| entry.cts).collect();
    assert_eq!(cts, [Some(80 * 90), Some(0)]);
    let (moof, _) = written(&mut clock, &[sample(5_067, 5_027, b"f")], None);
    assert_eq!(moof.mfhd.sequence_number, 2);
    assert_eq!(decode_times(&moof.traf[0])[0], 67 * 90);
    assert_eq!(moof.traf[0].trun[0].samples.get(0).unwrap().cts, Some(-40 * 90));
}

#[test]
fn data_offsets_point_at_each_tracks_payload() {
    let mut clock = FragmentClock::new(0);
    let mut bytes = b"before".to_vec();
    let (video, audio) = ([sample(0, 0, b"VIDEO")], [sample(0, 0, b"AUDIO")]);
    let fragment =
        Fragment { video: &video, video_end_ms: None, audio: &audio, audio_timing: TIMING };
    clock.write_fragment(&fragment, &mut bytes).unwrap();
    let moof = Moof::decode(&mut &bytes[6..]).unwrap();
    for (traf, payload) in moof.traf.iter().zip([b"VIDEO", b"AUDIO"]) {
        let at = 6 + usize::try_from(traf.trun[0].data_offset.unwrap()).unwrap();
        assert_eq!(&bytes[at..at + 5], payload);
    }
}

fn audio_times(clock: &mut FragmentClock, stamps_ms: &[i64]) -> Vec<u64> {
    let samples: Vec<_> = stamps_ms.iter().map(|&ms| sample(ms, ms, b"a")).collect();
    decode_times(&clock.audio_traf(&samples, TIMING))
}

#[test]
fn audio_frames_lie_end_to_end_whatever_the_rounding_and_bundling_of_stamps() {
    let mut clock = FragmentClock::new(0);
    let times = audio_times(&mut clock, &[0, 23, 46, 46, 46, 116]);
    assert_eq!(times, [0, 1024, 2048, 3072, 4096, 5120, 6144]);
    assert_eq!(audio_times(&mut clock, &[139])[0], 6144);
}

#[test]
fn audio_that_begins_a_little_after_the_origin_begins_there() {
    assert_eq!(audio_times(&mut FragmentClock::new(0), &[57, 80]), [2_513, 3_537, 4_561]);
}

#[test]
fn an_audio_gap_lengthens_the_frame_before_it() {
    let mut clock = FragmentClock::new(0);
    let times = audio_times(&mut clock, &[0, 23, 1_000, 1_023]);
    assert_eq!(times, [0, 1024, 44_100, 45_124, 46_148]);
}

#[test]
fn another_process_continues_a_file_from_the_exported_clock() {
    let mut clock = FragmentClock::new(7);
    written(&mut clock, &[sample(7, 7, b"x"), sample(40, 40, b"y")], Some(80));
    let mut other = FragmentClock::from_bytes(&clock.to_bytes());
    assert_eq!(other, clock);
    let next = [sample(80, 80, b"z")];
    assert_eq!(written(&mut clock, &next, None), written(&mut other, &next, None));
}

proptest! {
    #[test]
    fn times_never_fall_and_nothing_overflows(
        origin in any::<i64>(),
        stamps in prop::collection::vec((any::<i64>(), any::<i64>()), 1..20),
        near in prop::collection::vec(-50_000..50_000_i64, 1..20),
    ) {
        let mut clock = FragmentClock::new(origin);
        let mut at_ms = origin;
        let near: Vec<_> = near.iter().map(|step| {
            at_ms = at_ms.saturating_add(*step);
            (at_ms, at_ms)
        }).collect();
        for stamps in [near, stamps] {
            let samples: Vec<_> = stamps.iter().map(|&(dts, pts)| sample(dts, pts, b"p")).collect();
            let before = (clock.video_next, clock.audio_next);
            let mut out = Vec::new();
            let fragment = Fragment {
                video: &samples,
                video_end_ms: None,
                audio: &samples,
                audio_timing: TIMING,
            };
            clock.write_fragment(&fragment, &mut out).unwrap();
            prop_assert!(clock.video_next >= before.0 && clock.audio_next >= before.1);
        }
    }
}

/// A time without samples is a fragment that any reader of boxes takes, and it moves no clock.
#[test]
fn an_empty_fragment_has_a_time_and_no_samples() {
    let mut clock = FragmentClock { video_next: 77, ..FragmentClock::new(0) };
    let mut out = Vec::new();
    clock.write_empty(&mut out).unwrap();
    assert_eq!(u64::try_from(out.len()).unwrap(), EMPTY_FRAGMENT_BYTES);
    assert_eq!((clock.video_next, clock.sequence_next), (77, 2));
    let mut rest = out.as_slice();
    let moof = Moof::decode(&mut rest).unwrap();
    let [traf] = moof.traf.as_slice() else { panic!("{moof:?}") };
    assert_eq!(traf.tfdt.as_ref().unwrap().base_media_decode_time, 77);
    assert!(traf.trun.is_empty());
    assert_eq!(rest, [&8_u32.to_be_bytes()[..], b"mdat"].concat());
}
