use super::*;
use proptest::prelude::*;

fn dts(timeline: &mut Timeline, track: Track, raw_ms: u32) -> i64 {
    timeline.stamp(track, raw_ms, 0).dts_ms
}

/// 40 ms of video and 20 ms of audio, interleaved, from `from_ms` on for `frames` frames.
fn run(timeline: &mut Timeline, from_ms: u32, frames: u32) -> Vec<(Track, i64)> {
    let mut stamps = Vec::new();
    for frame in 0..frames {
        let at_ms = from_ms.wrapping_add(frame * 40);
        stamps.push((Track::Video, dts(timeline, Track::Video, at_ms)));
        stamps.push((Track::Audio, dts(timeline, Track::Audio, at_ms)));
        stamps.push((Track::Audio, dts(timeline, Track::Audio, at_ms.wrapping_add(20))));
    }
    stamps
}

fn corrections(timeline: &Timeline) -> u64 {
    Correction::ALL.iter().map(|&kind| timeline.count(kind)).sum()
}

#[test]
fn a_well_formed_source_is_untouched_to_the_millisecond() {
    let mut timeline = Timeline::new();
    assert_eq!(timeline.head_ms(), None);
    for (track, raw_ms, cts_ms) in [
        (Track::Video, 5_000, 80),
        (Track::Audio, 4_987, 0),
        (Track::Video, 5_040, -40),
        (Track::Audio, 5_010, 0),
        (Track::Audio, 5_010, 0),
        (Track::Video, 5_041, 0),
    ] {
        let stamped = timeline.stamp(track, raw_ms, cts_ms);
        let dts_ms = i64::from(raw_ms);
        let pts_ms = dts_ms + i64::from(cts_ms);
        assert_eq!(stamped, Stamped { dts_ms, pts_ms, correction: None });
    }
    assert_eq!(corrections(&timeline), 0);
}

#[test]
fn a_stamp_past_the_extended_timestamp_mark_is_nothing_special() {
    let mut timeline = Timeline::new();
    let stamps = run(&mut timeline, 0xFF_FFFF - 100, 10);
    assert_eq!(stamps[27], (Track::Video, 0xFF_FFFF - 100 + 360));
    assert_eq!(corrections(&timeline), 0);
}

#[test]
fn the_wrap_at_32_bits_goes_on_rising_and_keeps_both_tracks_in_sync() {
    let mut timeline = Timeline::new();
    let stamps = run(&mut timeline, u32::MAX - 99, 10);
    let first = i64::from(u32::MAX - 99);
    for (position, &(track, dts_ms)) in stamps.iter().enumerate() {
        let frame = i64::try_from(position / 3).unwrap();
        let within = if position % 3 == 2 { 20 } else { 0 };
        assert_eq!(dts_ms, first + frame * 40 + within, "{track:?}");
    }
    assert_eq!(timeline.count(Correction::Wrap), 2);
    assert_eq!(corrections(&timeline), 2);
}

#[test]
fn a_phone_call_that_stops_audio_leaves_its_true_gap() {
    let mut timeline = Timeline::new();
    run(&mut timeline, 0, 2);
    for frame in 2..2_000_u32 {
        assert_eq!(dts(&mut timeline, Track::Video, frame * 40), i64::from(frame * 40));
    }
    assert_eq!(dts(&mut timeline, Track::Audio, 80_000), 80_000);
    assert_eq!(corrections(&timeline), 0);
}

#[test]
fn a_static_screen_leaves_its_true_gap_while_audio_runs() {
    let mut timeline = Timeline::new();
    run(&mut timeline, 0, 2);
    for step in 3..3_000_u32 {
        dts(&mut timeline, Track::Audio, step * 20);
    }
    assert_eq!(dts(&mut timeline, Track::Video, 60_000), 60_000);
    assert_eq!(corrections(&timeline), 0);
}

#[test]
fn an_audio_route_change_into_the_past_is_held_until_it_has_caught_up() {
    let mut timeline = Timeline::new();
    run(&mut timeline, 0, 25);
    assert_eq!(dts(&mut timeline, Track::Audio, 1_000), 1_000);
    for raw_ms in [700, 720, 980, 999] {
        let stamped = timeline.stamp(Track::Audio, raw_ms, 0);
        assert_eq!(stamped.dts_ms, 1_000);
        assert_eq!(stamped.correction, Some(Correction::AudioInPast));
    }
    assert_eq!(dts(&mut timeline, Track::Audio, 1_020), 1_020);
    assert_eq!(timeline.count(Correction::AudioInPast), 4);
}

#[test]
fn equal_and_falling_video_stamps_rise_by_one_and_are_true_again_afterwards() {
    let mut timeline = Timeline::new();
    dts(&mut timeline, Track::Video, 1_000);
    let equal = timeline.stamp(Track::Video, 1_000, 40);
    assert_eq!(
        equal,
        Stamped { dts_ms: 1_001, pts_ms: 1_041, correction: Some(Correction::EqualDts) }
    );
    let falling = timeline.stamp(Track::Video, 990, 0);
    assert_eq!((falling.dts_ms, falling.correction), (1_002, Some(Correction::FallingDts)));
    assert_eq!(dts(&mut timeline, Track::Video, 1_040), 1_040);
}

/// The whole stream leaps from `before` to `after`; video meets the leap first.
fn leap_of_the_whole_stream(before: u32, after: u32, kind: Correction) {
    let mut timeline = Timeline::new();
    let old = run(&mut timeline, before, 25);
    let new = run(&mut timeline, after, 25);
    let newest = old.iter().map(|&(_, dts_ms)| dts_ms).max().unwrap();
    let start = new[0].1;
    assert!(start >= newest && start <= newest + 40, "{start} does not continue {newest}");
    for (position, &(track, dts_ms)) in new.iter().enumerate() {
        let frame = i64::try_from(position / 3).unwrap();
        let within = if position % 3 == 2 { 20 } else { 0 };
        assert_eq!(dts_ms, start + frame * 40 + within, "{track:?} lost its offset");
    }
    assert_eq!((timeline.count(kind), corrections(&timeline)), (2, 2));
}

#[test]
fn a_jump_back_of_the_whole_stream_is_bridged_and_keeps_both_tracks_in_sync() {
    leap_of_the_whole_stream(3_600_000, 0, Correction::BackwardJump);
    leap_of_the_whole_stream(60_000, 50_000, Correction::BackwardJump);
}

#[test]
fn a_jump_forward_of_the_whole_stream_is_bridged_and_keeps_both_tracks_in_sync() {
    leap_of_the_whole_stream(0, 3_600_000, Correction::ForwardJump);
    leap_of_the_whole_stream(0, 2_000_000_000, Correction::ForwardJump);
}

#[test]
fn one_glitched_packet_of_one_track_returns_to_exact_sync() {
    for glitch_ms in [90_000_000, 0] {
        let mut timeline = Timeline::new();
        run(&mut timeline, 100_000, 25);
        let glitched = timeline.stamp(Track::Audio, glitch_ms, 0);
        assert!(glitched.correction.is_some());
        let after = run(&mut timeline, 101_000, 25);
        assert_eq!(after[3], (Track::Video, 101_040));
        assert_eq!(after[5], (Track::Audio, 101_060));
        assert_eq!(after.last(), Some(&(Track::Audio, 101_980)));
        assert_eq!(corrections(&timeline), 2);
    }
}

#[test]
fn one_frame_some_seconds_ahead_costs_a_gap_but_not_the_sync() {
    let mut timeline = Timeline::new();
    run(&mut timeline, 0, 25);
    assert_eq!(dts(&mut timeline, Track::Video, 9_000), 9_000);
    let after = run(&mut timeline, 1_000, 50);
    let (video, audio) = (after[147].1, after[148].1);
    assert_eq!(video, audio);
}

#[test]
fn audio_whose_clock_falls_for_good_is_continued_beside_the_video() {
    let mut timeline = Timeline::new();
    run(&mut timeline, 100_000, 25);
    for frame in 25..100_u32 {
        let at_ms = 100_000 + frame * 40;
        assert_eq!(dts(&mut timeline, Track::Video, at_ms), i64::from(at_ms));
        let audio_ms = dts(&mut timeline, Track::Audio, at_ms - 5_000);
        assert!(audio_ms.abs_diff(i64::from(at_ms)) <= 40);
    }
    assert_eq!(corrections(&timeline), 1);
}

#[test]
fn a_track_whose_clock_leaps_alone_is_bridged_once_and_leaves_the_other_alone() {
    let mut timeline = Timeline::new();
    run(&mut timeline, 0, 25);
    for frame in 25..100_u32 {
        assert_eq!(dts(&mut timeline, Track::Video, frame * 40), i64::from(frame * 40));
        dts(&mut timeline, Track::Audio, 5_000_000 + frame * 40);
        dts(&mut timeline, Track::Audio, 5_000_020 + frame * 40);
    }
    assert_eq!(corrections(&timeline), 1);
}

#[test]
fn a_track_that_appears_later_is_on_the_same_clock_unless_that_is_impossible() {
    let mut timeline = Timeline::new();
    dts(&mut timeline, Track::Video, 1_000_000);
    assert_eq!(dts(&mut timeline, Track::Audio, 999_000), 999_000);
    let mut timeline = Timeline::new();
    dts(&mut timeline, Track::Video, 1_000_000);
    let late = timeline.stamp(Track::Audio, 0, 0);
    assert_eq!((late.dts_ms, late.correction), (1_000_000, Some(Correction::BackwardJump)));
    assert_eq!(dts(&mut timeline, Track::Audio, 20), 1_000_020);
    assert_eq!(dts(&mut timeline, Track::Video, 1_000_040), 1_000_040);
}

#[test]
fn impossible_states_are_refused() {
    let state = Timeline::new().state();
    assert_eq!(TimelineState::from_bytes(&state.to_bytes()), Ok(state));
    let mut bytes = state.to_bytes();
    bytes[0] = 2;
    assert_eq!(TimelineState::from_bytes(&bytes), Err(BadTimeline));
    let mut bytes = state.to_bytes();
    bytes[13..21].copy_from_slice(&i64::MIN.to_le_bytes());
    assert_eq!(TimelineState::from_bytes(&bytes), Err(BadTimeline));
}

fn input() -> impl Strategy<Value = Vec<(bool, u32, i32)>> {
    let raw = prop_oneof![
        0..3_000_u32,
        any::<u32>(),
        (0..200_u32).prop_map(|back| u32::MAX - back),
        (0..60_000_u32).prop_map(|ms| ms / 20 * 20),
    ];
    prop::collection::vec((any::<bool>(), raw, any::<i32>()), 1..80)
}

proptest! {
    #[test]
    fn video_always_rises_and_audio_never_falls(packets in input()) {
        let mut timeline = Timeline::new();
        let (mut video, mut audio) = (None, None);
        for (is_video, raw_ms, cts_ms) in packets {
            let track = if is_video { Track::Video } else { Track::Audio };
            let stamped = timeline.stamp(track, raw_ms, cts_ms);
            let last = if is_video { &mut video } else { &mut audio };
            if let Some(last_ms) = last.replace(stamped.dts_ms) {
                let least_ms = if is_video { last_ms + 1 } else { last_ms };
                prop_assert!(stamped.dts_ms >= least_ms);
            }
            let head_ms = timeline.head_ms().unwrap();
            prop_assert!(head_ms - stamped.dts_ms <= TIMELINE_LEAP_MS + TIMELINE_FALL_MS);
        }
    }

    #[test]
    fn another_process_goes_on_as_if_nothing_had_happened(packets in input()) {
        let mut one = Timeline::new();
        let mut moved = Timeline::new();
        for (is_video, raw_ms, cts_ms) in packets {
            let track = if is_video { Track::Video } else { Track::Audio };
            let bytes = moved.state().to_bytes();
            moved = Timeline::resume(TimelineState::from_bytes(&bytes).unwrap());
            prop_assert_eq!(
                moved.stamp(track, raw_ms, cts_ms),
                one.stamp(track, raw_ms, cts_ms)
            );
        }
        prop_assert_eq!(one, moved);
    }

    #[test]
    fn any_state_is_refused_or_survives_any_input(
        bytes in prop::collection::vec(any::<u8>(), TimelineState::SIZE),
        started in 0..3_u8,
        packets in input(),
    ) {
        let mut bytes: [u8; TimelineState::SIZE] = bytes.try_into().unwrap();
        for track in [0, TrackState::SIZE] {
            bytes[track] = started;
            // Small enough to be accepted often.
            bytes[track + 10..track + 13].fill(0);
            bytes[track + 20] = if bytes[track + 20] > 127 { 0xF0 } else { 0x0F };
        }
        if let Ok(state) = TimelineState::from_bytes(&bytes) {
            let mut timeline = Timeline::resume(state);
            for (is_video, raw_ms, cts_ms) in packets {
                let track = if is_video { Track::Video } else { Track::Audio };
                timeline.stamp(track, raw_ms, cts_ms);
            }
        }
    }
}
