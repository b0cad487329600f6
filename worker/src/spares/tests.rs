use super::*;
use crate::libav::{Colour, Ratio};

fn settings(bitrate_bps: u64) -> VideoEncoderSettings {
    VideoEncoderSettings {
        width: 160,
        height: 90,
        frame_rate: Ratio { num: 30, den: 1 },
        colour: Colour::UNKNOWN,
        preset: "veryfast".into(),
        crf: 23.0,
        bitrate_bps,
        vbv_init: None,
    }
}

fn need(bitrate_bps: u64) -> CodecNeed {
    Need::encoder(&settings(bitrate_bps)).encode().unwrap()
}

/// An encoder with equal settings is taken where the stream's rate buffer is full enough, and only
/// once; any other is opened.
#[test]
fn a_spare_encoder_is_taken_by_who_needs_one_like_it() {
    let spares = Spares::default();
    fill(&spares, &[need(200_000)]);
    assert_eq!(spares.count(), 1);
    spares.encoder(&settings(200_001)).unwrap();
    let emptier =
        VideoEncoderSettings { vbv_init: Some(SPARE_FULLNESS - 0.01), ..settings(200_000) };
    spares.encoder(&emptier).unwrap();
    assert_eq!((spares.count(), spares.taken()), (1, 0));
    let fuller = VideoEncoderSettings { vbv_init: Some(SPARE_FULLNESS), ..settings(200_000) };
    spares.encoder(&fuller).unwrap();
    spares.encoder(&fuller).unwrap();
    assert_eq!((spares.count(), spares.taken()), (0, 1));
}

/// Once a codec was asked for nothing more is opened, whatever is told; what is left is closed when
/// nobody has asked for a while.
#[test]
fn what_is_left_is_closed_after_the_last_stream_that_came() {
    let spares = Spares::default();
    fill(&spares, &[need(200_000), need(300_000)]);
    spares.encoder(&settings(200_000)).unwrap();
    fill(&spares, &[need(400_000)]);
    assert_eq!(spares.count(), 1);
    let mut plan = Plan::default();
    let now = clock::now();
    assert!(matches!(spares.turn(&mut plan, now), Turn::Rest(Stage::InUse { .. }, Some(_))));
    assert_eq!(spares.turn(&mut plan, now + SPARE_KEEP), Turn::Done);
    assert_eq!((spares.count(), spares.taken()), (0, 1));
}

/// What cannot be read or opened harms nobody: the rest of the list is held.
#[test]
fn garbage_in_a_list_is_passed_over() {
    let spares = Spares::default();
    let odd = VideoEncoderSettings { preset: "nosuchpreset".into(), ..settings(200_000) };
    let odd = Need::encoder(&odd).encode().unwrap();
    fill(&spares, &[CodecNeed(vec![7; 40]), odd, CodecNeed(Vec::new()), need(200_000)]);
    assert_eq!(spares.count(), 1);
    spares.encoder(&settings(200_000)).unwrap();
    assert_eq!(spares.taken(), 1);
}

/// What a spare encoder is said to take at least is no more than what it takes.
#[test]
fn the_least_that_a_codec_takes_is_no_more_than_it_takes() {
    let spares = Spares::default();
    let large = VideoEncoderSettings { width: 3840, height: 2160, ..settings(6_000_000) };
    let large = Need::encoder(&large);
    let mut plan = Plan::default();
    let need = large.encode().unwrap();
    spares.tell(SpareList { codecs: vec![(need, 1)], bytes_max: large.bytes_min() });
    while spares.turn(&mut plan, clock::now()) == Turn::Worked {}
    // It was tried, and takes more than that.
    assert_eq!(spares.count(), 0);
    assert_eq!(plan.bytes(), 0);
}

/// The thread fills the pool as it is told and is gone when its handle is: what is told last counts.
#[test]
fn the_thread_holds_what_was_told_and_ends_with_its_handle() {
    let filler = Filler::start().unwrap();
    let spares = filler.spares();
    filler.tell(SpareList { codecs: vec![(need(200_000), 2)], bytes_max: u64::MAX });
    let until = clock::now() + Duration::from_secs(60);
    while filler.count() < 2 {
        assert!(clock::now() < until, "{spares:?}");
        std::thread::yield_now();
    }
    spares.encoder(&settings(200_000)).unwrap();
    drop(filler);
    assert_eq!((spares.count(), spares.taken(), spares.lock().stage), (0, 1, Stage::Closed));
}
