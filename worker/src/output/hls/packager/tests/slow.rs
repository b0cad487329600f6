//! Few pictures, and what their parts and durations are then.

use super::*;
use crate::package::fmp4::{EMPTY_FRAGMENT_BYTES, VIDEO_TRACK_ID};
use mp4_atom::{Decode, Moof};
use tasuki_shared::limits::HLS_PICTURE_AHEAD_MS;

/// Pictures so far apart each, or all alike.
fn slow(steps: &[i64], steady_ms: Option<i64>, with_sound: bool) -> Stream {
    let (mut at_ms, mut key_ms) = (0, i64::MIN);
    let mut packets = Vec::new();
    for step_ms in steps.iter().map(|step_ms| steady_ms.unwrap_or(*step_ms)) {
        let is_due = at_ms + step_ms > key_ms.saturating_add(IDR_DISTANCE_MAX_MS);
        packets.push(video(at_ms, if is_due { Key::Own } else { Key::No }));
        key_ms = if is_due { at_ms } else { key_ms };
        at_ms += step_ms;
    }
    let sounds = if with_sound { at_ms * 48 / 1024 } else { 0 };
    packets.extend((0..sounds).map(|at| sound(at * 1024 / 48)));
    Stream::of(packets)
}

/// Of each picture in the fragments of a stream without breaks: begin and end, in 1/90000 s.
fn check_pictures(files: &Files, stream: &Stream, with_sound: bool) {
    let ticks = |ms: i64| u64::try_from((ms - HLS_ORIGIN_MS) * 90).unwrap();
    let pictures = stream.packets.iter().map(|(_, packet)| &packet.packet);
    let starts: Vec<_> = pictures
        .filter(|packet| packet.track == Track::Video)
        .map(|packet| packet.dts_ms)
        .collect();
    let mut nexts = starts.iter().skip(1);
    let mut expected = starts.iter();
    for (number, note, file) in &files.parts {
        let part_end_ms = note.start_ms + i64::from(note.duration_ms);
        for (start, end) in picture_times(&file[PartNote::BOX_BYTES..]) {
            assert_eq!(start, ticks(*expected.next().unwrap()), "{number:?}");
            let Some(next_ms) = nexts.next() else { continue };
            if end != ticks(*next_ms) {
                assert!(with_sound && next_ms - part_end_ms > HLS_PICTURE_AHEAD_MS - 50);
                assert_eq!(end, ticks(part_end_ms), "{number:?}");
            }
        }
    }
    assert_eq!(expected.next(), None);
}

/// Decode time and end of each picture of a fragment.
fn picture_times(media: &[u8]) -> Vec<(u64, u64)> {
    let moof = Moof::decode(&mut &*media).unwrap();
    let video = moof.traf.iter().filter(|traf| traf.tfhd.track_id == VIDEO_TRACK_ID);
    let mut times = Vec::new();
    for traf in video {
        let mut at = traf.tfdt.as_ref().unwrap().base_media_decode_time;
        for sample in traf.trun.iter().flat_map(|trun| &trun.samples) {
            let start = at;
            at += u64::from(sample.duration.unwrap());
            times.push((start, at));
        }
    }
    times
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A slow screen share: whichever part a picture and the next one are in, it begins at its time and
    /// lasts until the next one, or as far as its part where that is too far away to be known.
    #[test]
    fn a_picture_lasts_until_the_next_one(
        steps in prop::collection::vec(
            prop::sample::select(vec![33_i64, 84, 125, 167, 201, 250, 333, 499, 700, 1_400]), 8..40),
        steady in prop::sample::select(vec![None, Some(42_i64), Some(125), Some(167), Some(250)]),
        with_sound: bool,
        lives in prop::collection::vec(1_usize..60, 0..8),
    ) {
        let stream = slow(&steps, steady, with_sound);
        let one = by_one_owner(&stream, RenditionKind::Encoded);
        check_sums(&one);
        check_part_target(&one);
        check_pictures(&one, &stream, with_sound);
        prop_assert_eq!(by_many(&stream, RenditionKind::Encoded, &lives, Memory::Note), one);
    }

    /// Pictures that come rarely, or stand for a while: no part is longer than its target for it, nothing
    /// is lost, and owners that are replaced make the files of one.
    #[test]
    fn rare_pictures_make_no_long_parts(
        steps in prop::collection::vec(prop::sample::select(vec![33_i64, 84, 250, 700, 1_000, 1_400]), 8..40),
        slow_ms in prop::sample::select(vec![None, Some(83_i64), Some(250), Some(1_000)]),
        lives in prop::collection::vec(1_usize..20, 0..8),
    ) {
        let stream = slow(&steps, slow_ms, false);
        let one = by_one_owner(&stream, RenditionKind::Encoded);
        check_sums(&one);
        check_part_target(&one);
        prop_assert_eq!(payloads(&one), stream.packets.len());
        let starts: Vec<_> = one.parts.iter().map(|(_, note, _)| note.start_unix_ms).collect();
        prop_assert!(starts.is_sorted());
        prop_assert_eq!(by_many(&stream, RenditionKind::Encoded, &lives, Memory::Note), one);
    }
}

/// One picture a second and no sound: five parts a second, of which one has something.
#[test]
fn a_time_without_packets_is_parts_without_samples() {
    let pictures =
        (0..9).map(|at| video(at * 1_000, if at % 2 == 0 { Key::Source } else { Key::No }));
    let files = by_one_owner(&Stream::of(pictures.collect()), RenditionKind::Encoded);
    let shape: Vec<_> =
        files.parts[..10].iter().map(|(_, note, _)| (note.duration_ms, note.frames)).collect();
    let second = [(220, 1), (220, 0), (220, 0), (220, 0)];
    assert_eq!(shape[..4], second);
    // The second picture is in the part that its time begins in.
    assert_eq!(shape[4..9], [(220, 1), (220, 0), (220, 0), (220, 0), (220, 0)]);
    assert_eq!(shape[9], (20, 0), "what is left in front of the next keyframe");
    let bytes = files.parts[1].2.len() - PartNote::BOX_BYTES;
    assert_eq!(u64::try_from(bytes).unwrap(), EMPTY_FRAGMENT_BYTES);
}
