//! The wrapper against real codecs.

use super::*;
use crate::media::packet::{IsIdr, VideoCodec};

fn settings(width: u32, height: u32) -> VideoEncoderSettings {
    VideoEncoderSettings {
        width,
        height,
        frame_rate: Ratio { num: 30, den: 1 },
        colour: Colour::UNKNOWN,
        preset: "veryfast".into(),
        crf: 23.0,
        bitrate_bps: 1_000_000,
        vbv_init: Some(0.9),
    }
}

/// A picture with a moving gradient.
fn picture(pool: &mut FramePool, number: usize) -> Frame {
    let mut frame = pool.get().unwrap();
    for plane_number in 0..3 {
        let plane = frame.plane_mut(plane_number).unwrap();
        for y in 0..plane.height {
            for x in 0..plane.width {
                let value = (x * 3 + y * 2 + number * 5) % 200 + 20;
                plane.samples[y * plane.stride + x] = u8::try_from(value).unwrap();
            }
        }
    }
    frame
}

/// The runtime is good enough and says its version.
#[test]
fn the_runtime_is_checked_and_named() {
    check_runtime().unwrap();
    assert!(versions().starts_with("FFmpeg "), "{}", versions());
}

/// Encode → decode → scale → encode: each frame gives exactly one packet, each packet exactly
/// one frame with its own number, and IDRs stand exactly where they were asked for.
#[test]
fn one_frame_in_is_one_packet_out_and_idrs_are_where_they_are_asked_for() {
    redirect_log();
    let mut pool = FramePool::new(320, 180).unwrap();
    let mut encoder = VideoEncoder::open(&settings(320, 180)).unwrap();
    let mut decoder =
        VideoDecoder::open(VideoCodec::H264, encoder.configuration(), 1920 * 1080).unwrap();
    let mut small_pool = FramePool::new(160, 90).unwrap();
    let mut small = VideoEncoder::open(&settings(160, 90)).unwrap();
    let target = Target { left: 0, top: 0, width: 160, height: 90 };
    let mut scaler: Option<Scaler> = None;
    for number in 0..90 {
        let force = if number % 45 == 0 { ForceIdr::Yes } else { ForceIdr::No };
        let packet = encoder.encode(&picture(&mut pool, number), force).unwrap();
        assert_eq!(packet.idr == IsIdr::Idr, number % 45 == 0, "frame {number}");
        let index = i64::try_from(1000 + number).unwrap();
        decoder.send(&packet.payload, index).unwrap();
        let decoded = decoder.receive().unwrap().expect("no delay without B-frames");
        assert_eq!(decoded.index, index);
        assert_eq!(decoded.health, Health::Sound);
        assert!(decoder.receive().unwrap().is_none());
        let scaler = scaler
            .get_or_insert_with(|| Scaler::new(&decoded.frame, target, Kernel::Area).unwrap());
        let mut scaled = small_pool.get().unwrap();
        scaler.scale(&decoded.frame, &mut scaled).unwrap();
        small.encode(&scaled, force).unwrap();
    }
}

/// Two encoders with equal settings but different buffer fullness write identical parameter
/// sets, so one can go on where the other stopped.
#[test]
fn parameter_sets_are_identical_whatever_the_buffer_fullness() {
    let one = VideoEncoder::open(&settings(320, 180)).unwrap();
    let two =
        VideoEncoder::open(&VideoEncoderSettings { vbv_init: Some(0.3), ..settings(320, 180) })
            .unwrap();
    let three =
        VideoEncoder::open(&VideoEncoderSettings { crf: 28.0, ..settings(320, 180) }).unwrap();
    assert_eq!(one.configuration(), two.configuration());
    assert_eq!(one.configuration(), three.configuration());
}

/// A frame of the wrong size, an odd pool and a picture over the limit are refused by name.
#[test]
fn wrong_sizes_are_refused_by_name() {
    let mut pool = FramePool::new(160, 90).unwrap();
    let mut encoder = VideoEncoder::open(&settings(320, 180)).unwrap();
    let refused = encoder.encode(&picture(&mut pool, 0), ForceIdr::No);
    assert_eq!(refused, Err(LibavError::Size { width: 160, height: 90 }));
    assert!(FramePool::new(161, 90).is_err());
    let packet = VideoEncoder::open(&settings(160, 90)).map(|mut encoder| {
        let packet = encoder.encode(&picture(&mut pool, 0), ForceIdr::Yes).unwrap();
        (encoder.configuration().to_vec(), packet)
    });
    let (configuration, packet) = packet.unwrap();
    let opened = VideoDecoder::open(VideoCodec::H264, &configuration, 100);
    let decoded = opened.and_then(|mut decoder| {
        decoder.send(&packet.payload, 1)?;
        decoder.receive()
    });
    assert!(decoded.is_err() || decoded.is_ok_and(|frame| frame.is_none()));
}

/// A shared picture is not writable; after `make_writable` the other reference keeps its own.
#[test]
fn changing_a_picture_leaves_other_references_alone() {
    let mut pool = FramePool::new(160, 90).unwrap();
    let original = picture(&mut pool, 3);
    let mut copy = original.reference().unwrap();
    assert!(copy.plane_mut(0).is_none());
    copy.make_writable().unwrap();
    copy.plane_mut(0).unwrap().samples.fill(0);
    assert!(original.plane(0).unwrap().samples.iter().any(|sample| *sample != 0));
}

/// AAC there and back at another rate: the encoder's packets follow the sample grid, and sound
/// comes out as loud as it went in.
#[test]
fn sound_survives_a_resampling_and_an_encode() {
    let mut resampler = Resampler::new(44_100, 1, 48_000, 2).unwrap();
    let mut encoder = AacEncoder::open(48_000, 2, 128_000).unwrap();
    let mut decoder = AacDecoder::open(encoder.config()).unwrap();
    let tone: Vec<f32> = (0..44_100u16).map(|n| (f32::from(n) * 0.05).sin() * 0.5).collect();
    let sound = Samples { rate: 44_100, channels: vec![tone] };
    let converted = resampler.convert(&sound).unwrap();
    assert!(converted.len() > 47_800 && converted.len() <= 48_000, "{}", converted.len());
    let mut next = -AAC_PRIMING_SAMPLES;
    let mut peak = 0f32;
    for number in 0..converted.len() / AAC_FRAME_SAMPLES {
        let at = number * AAC_FRAME_SAMPLES;
        let slices: Vec<&[f32]> =
            converted.channels.iter().map(|c| &c[at..at + AAC_FRAME_SAMPLES]).collect();
        let pts = i64::try_from(at).unwrap();
        if let Some(packet) = encoder.encode(&slices, pts).unwrap() {
            assert_eq!(packet.pts_samples, next);
            next += 1024;
            let decoded = decoder.decode(&packet.payload).unwrap();
            peak = decoded.channels[0].iter().fold(peak, |peak, v| peak.max(v.abs()));
        }
    }
    assert!((0.3..0.8).contains(&peak), "{peak}");
}
