//! The whole pipeline with real codecs.

mod fixture;
mod seam;
mod spares;

use super::*;
use fixture::*;

const TOP: RungId = RungId(0);
const LOW: RungId = RungId(1);

/// With and without B-frames: every source frame gives one frame in every rung, in order, IDRs
/// stand on the same frames and at most two seconds apart, every rung decodes without a word
/// and looks like the source.
#[test]
fn every_source_frame_gives_one_frame_in_every_rung() {
    for video in ["-bf 0", "-bf 3 -g 90"] {
        let flv = source("320x180", 3, video, "-ac 2");
        let items = demux(&flv);
        let outputs = run(spec(), &items);
        assert_accounted(&outputs, &items);
        assert_eq!(skipped(&outputs), []);
        let pictures = frames(&outputs);
        assert_eq!(pictures.len(), 90, "{video}");
        assert!(pictures.windows(2).all(|pair| pair[0].pts_ms < pair[1].pts_ms));
        let mut last_idr = pictures[0].pts_ms;
        for picture in &pictures {
            let rungs: Vec<RungId> = picture.rungs.iter().map(|(rung, _)| *rung).collect();
            assert_eq!(rungs, [TOP, LOW]);
            assert!(picture.rungs.iter().all(|(_, frame)| frame.idr == picture.keyframe));
            let source_idr = items.iter().any(|item| {
                let PacketKind::VideoFrame { pts_ms, idr, .. } = item.kind else { return false };
                pts_ms == picture.pts_ms && idr == IsIdr::Idr
            });
            assert!(!source_idr || picture.keyframe == IsIdr::Idr);
            if picture.keyframe == IsIdr::Idr {
                assert!(picture.pts_ms - last_idr <= 2000);
                last_idr = picture.pts_ms;
            }
        }
        for (rung, width, height) in [(TOP, 320, 180), (LOW, 160, 90)] {
            let header = headers(&outputs, rung);
            assert_eq!(header.len(), 1);
            let stream = byte_stream(&header[0], pictures.iter().copied(), rung);
            let decoded = ffmpeg("-f h264 -i - -f rawvideo -pix_fmt yuv420p -", &stream);
            assert_eq!(decoded.len(), 90 * width * height * 3 / 2);
            let scale = format!(
                "-i - -an -vf scale={width}:{height}:flags=area -fps_mode passthrough -f rawvideo -"
            );
            let alike = ssim(&decoded, &ffmpeg(&scale, &flv), width, height);
            assert!(alike > 0.9, "{video} {height}p: {alike}");
        }
    }
}

/// Sound of another rate and channel count keeps its channels, gets 48 kHz and a grid without
/// holes, and decodes without a word to as many seconds as went in.
#[test]
fn the_sample_grid_is_exact() {
    let items = demux(&source("160x90", 3, "-bf 0", "-ac 1"));
    let outputs = run(spec(), &items);
    let packets = audio(&outputs);
    assert!(packets.windows(2).all(|pair| pair[1].pts_samples - pair[0].pts_samples == 1024));
    assert!(packets.iter().all(|packet| packet.pts_ms == packet.pts_samples.div_euclid(48)));
    let seconds = packets.len() as f64 * 1024.0 / 48_000.0;
    assert!((2.95..3.15).contains(&seconds), "{seconds}");
    let first = items.iter().find_map(|item| {
        let PacketKind::AudioFrame { dts_ms } = item.kind else { return None };
        Some(dts_ms * 48)
    });
    assert_eq!(Some(packets[0].pts_samples), first);
    // AAC-LC (2), 48 kHz (3), one channel.
    assert_eq!(&audio_header(&outputs)[..2], &[0x11, 0x88]);
}

/// A hole in the sound is filled to the sample; packets that repeat the past are dropped; the
/// grid never breaks, and ends where the source ends.
#[test]
fn gaps_and_overlaps_do_not_break_the_grid() {
    let mut items = demux(&source("160x90", 3, "-bf 0", "-ac 2"));
    items.retain(|item| !matches!(item.kind, PacketKind::VideoFrame { .. }));
    let end = |items: &[Item]| {
        let PacketKind::AudioFrame { dts_ms } = items.last().unwrap().kind else { panic!() };
        dts_ms
    };
    let mut holed = items.clone();
    holed.drain(30..60);
    let mut repeated = items.clone();
    repeated.splice(60..60, items[10..40].to_vec());
    let mut jumped = items[..60].to_vec();
    jumped.extend(later(items[60..].to_vec(), 60_000));
    for (name, changed) in [("holed", holed), ("repeated", repeated), ("jumped", jumped)] {
        let outputs = run(spec(), &changed);
        let packets = audio(&outputs);
        let steps: Vec<i64> =
            packets.windows(2).map(|pair| pair[1].pts_samples - pair[0].pts_samples).collect();
        assert!(steps.iter().all(|step| *step > 0 && step % 1024 == 0), "{name}");
        let breaks = steps.iter().filter(|step| **step != 1024).count();
        assert_eq!(breaks, usize::from(name == "jumped"), "{name}");
        let off = packets.last().unwrap().pts_ms - end(&changed);
        assert!(off.abs() < 60, "{name} ends {off} ms off");
        let event = outputs.iter().any(|output| {
            let PipelineOutput::Event(event) = output else { return false };
            matches!(
                event,
                PipelineEvent::AudioGapFilled { .. }
                    | PipelineEvent::AudioOverlapDropped { .. }
                    | PipelineEvent::AudioJumped { .. }
            )
        });
        assert!(event, "{name}");
    }
}

/// A source whose clock runs a thousandth fast stays within a frame of its timestamps.
#[test]
fn drift_is_played_out() {
    let mut items = demux(&source("160x90", 20, "-bf 0", "-ac 2"));
    items.retain(|item| !matches!(item.kind, PacketKind::VideoFrame { .. }));
    for item in &mut items {
        if let PacketKind::AudioFrame { dts_ms } = &mut item.kind {
            *dts_ms += *dts_ms / 500;
        }
    }
    let outputs = run(spec(), &items);
    let packets = audio(&outputs);
    assert!(packets.windows(2).all(|pair| pair[1].pts_samples - pair[0].pts_samples == 1024));
    let PacketKind::AudioFrame { dts_ms } = items.last().unwrap().kind else { panic!() };
    let off = packets.last().unwrap().pts_ms - dts_ms;
    assert!(off.abs() < 45, "{off} ms off; without correction it would be 60 or more");
}

/// Sound alone and pictures alone both work.
#[test]
fn either_track_may_be_missing() {
    let items = demux(&source("160x90", 1, "-bf 0", "-ac 2"));
    let is_video = |item: &Item| {
        matches!(item.kind, PacketKind::VideoHeader { .. } | PacketKind::VideoFrame { .. })
    };
    let (pictures, sound): (Vec<Item>, Vec<Item>) = items.into_iter().partition(is_video);
    let outputs = run(spec(), &pictures);
    assert_eq!((frames(&outputs).len(), audio(&outputs).len()), (30, 0));
    let outputs = run(spec(), &sound);
    assert_eq!(frames(&outputs).len(), 0);
    assert!(audio(&outputs).len() > 40);
}

/// A source that turns by 90 degrees in mid-stream, with another size and a new header, loses
/// no frame and no rung changes its size or its header.
#[test]
fn a_new_size_in_mid_stream_changes_no_rung() {
    let mut items = demux(&source("320x180", 1, "-bf 2", ""));
    items.extend(later(demux(&source("180x426", 1, "-bf 0", "")), 1000));
    items.extend(later(demux(&source("640x360", 1, "-bf 0", "")), 2000));
    let outputs = run(spec(), &items);
    assert_accounted(&outputs, &items);
    let pictures = frames(&outputs);
    assert_eq!(pictures.len(), 90);
    for (rung, bytes) in [(TOP, 320 * 180 * 3 / 2), (LOW, 160 * 90 * 3 / 2)] {
        let header = headers(&outputs, rung);
        assert_eq!(header.len(), 1);
        let stream = byte_stream(&header[0], pictures.iter().copied(), rung);
        let decoded = ffmpeg("-f h264 -i - -f rawvideo -pix_fmt yuv420p -", &stream);
        assert_eq!(decoded.len(), 90 * bytes);
    }
}

/// The same header again changes nothing: no decoder is opened, no IDR is needed.
#[test]
fn a_repeated_header_is_ignored() {
    let mut items = demux(&source("160x90", 1, "-bf 0", ""));
    let header = items[0].clone();
    items.insert(20, header);
    let outputs = run(PipelineSpec { rungs: vec![rung("90p", 90, 200_000)], ..spec() }, &items);
    assert_eq!(frames(&outputs).len(), 30);
}

/// Damaged packets: whatever a seeded mutation makes of them, nothing crashes, and every packet
/// is accounted for exactly once.
#[test]
fn damage_is_survived_and_accounted_for() {
    let whole = demux(&source("160x90", 2, "-bf 2 -g 15", "-ac 2"));
    for seed in 1..=12u64 {
        let mut state = seed;
        let mut random = move |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below.max(1)
        };
        let mut items = whole.clone();
        for item in &mut items {
            if random(6) == 0 && !item.payload.is_empty() {
                match random(3) {
                    0 => {
                        let length = random(item.payload.len());
                        item.payload.truncate(length);
                    }
                    1 => item.payload.clear(),
                    _ => {
                        for _ in 0..=random(8) {
                            let place = random(item.payload.len());
                            item.payload[place] = u8::try_from(random(256)).unwrap();
                        }
                    }
                }
            }
        }
        let outputs = run(PipelineSpec { rungs: vec![rung("90p", 90, 200_000)], ..spec() }, &items);
        println!("seed {seed}: {} frames", frames(&outputs).len());
        assert_accounted(&outputs, &items);
    }
}

/// 4:2:2 with ten bits, 4:4:4 with full range, and odd sides all become the ladder's format.
#[test]
fn other_pixel_formats_and_odd_sides_are_converted() {
    for (size, video) in [
        ("320x180", "-pix_fmt yuv422p10le -bf 0"),
        ("321x181", "-pix_fmt yuv444p -bf 0"),
        ("320x180", "-pix_fmt yuvj420p -bf 0"),
    ] {
        let items = demux(&source(size, 1, video, ""));
        for blur in [vec![], vec![BlurRect { left: 0, top: 0, width: 5000, height: 5000 }]] {
            let outputs = run(PipelineSpec { blur, ..spec() }, &items);
            assert_eq!(frames(&outputs).len(), 30, "{size} {video}");
            assert!(frames(&outputs).iter().all(|frame| frame.rungs.len() == 2));
        }
    }
}

/// HEVC is decoded like H.264: its size is read from the record, and every picture comes out.
#[test]
fn hevc_is_transcoded() {
    let encode = "-f lavfi -i testsrc2=size=320x180:rate=30:duration=1 -c:v libx265 -x265-params \
                  log-level=none:bframes=0:keyint=15:pools=none:frame-threads=1 -pix_fmt yuv420p";
    let fragmented = "-tag:v hvc1 -movflags frag_keyframe+empty_moov -f mp4 -";
    let mp4 = ffmpeg(&format!("{encode} {fragmented}"), &[]);
    let at = mp4.windows(4).position(|name| name == b"hvcC").unwrap();
    let length = u32::from_be_bytes(mp4[at - 4..at].try_into().unwrap());
    let record = mp4[at + 4..at - 4 + usize::try_from(length).unwrap()].to_vec();
    let shape = probe::probe(VideoCodec::Hevc, &record).unwrap();
    assert_eq!((shape.width, shape.height), (320, 180));
    let kind = PacketKind::VideoHeader { codec: VideoCodec::Hevc };
    let mut items = vec![Item { kind, payload: record }];
    // One slice a picture: each unit below 32 is a picture.
    for unit in crate::libav::annexb::nal_units(&ffmpeg(&format!("{encode} -f hevc -"), &[])) {
        let nal_type = unit[0] >> 1 & 0x3f;
        if nal_type < 32 {
            let pts_ms = i64::try_from(items.len()).unwrap() * 100 / 3;
            let idr = if matches!(nal_type, 19 | 20) { IsIdr::Idr } else { IsIdr::Other };
            let mut payload = u32::try_from(unit.len()).unwrap().to_be_bytes().to_vec();
            payload.extend_from_slice(unit);
            let kind = PacketKind::VideoFrame { pts_ms, idr, disposable: Disposable::No };
            items.push(Item { kind, payload });
        }
    }
    let outputs = run(spec(), &items);
    assert_accounted(&outputs, &items);
    assert_eq!(frames(&outputs).len(), 30);
}

/// A picture over the plan's size is refused before a decoder opens, by name, and its packets
/// are skipped by name.
#[test]
fn caps_are_refused_by_name() {
    let items = demux(&source("320x180", 1, "-tune zerolatency", ""));
    let limits = StreamLimits { width_max: 300, height_max: 300, ..spec().limits };
    let outputs = run(PipelineSpec { limits, ..spec() }, &items);
    let refusal = Refusal::PictureTooLarge { width: 320, height: 180 };
    assert!(outputs.contains(&PipelineOutput::Event(PipelineEvent::VideoRefused(refusal))));
    assert_accounted(&outputs, &items);
    assert!(skipped(&outputs).iter().all(|(_, reason)| *reason == SkipReason::Refused));
    let limits = StreamLimits { fps_max: 20, ..spec().limits };
    let outputs = run(PipelineSpec { limits, ..spec() }, &items);
    let refusal = Refusal::FrameRateTooHigh { fps: 30.0 };
    assert!(outputs.contains(&PipelineOutput::Event(PipelineEvent::VideoRefused(refusal))));
}

/// A ladder of which nothing is to be encoded opens no decoder and says so for each packet.
#[test]
fn a_source_below_all_rungs_is_not_decoded() {
    let items = demux(&source("160x90", 1, "-bf 0", ""));
    let outputs = run(PipelineSpec { rungs: vec![rung("180p", 180, 600_000)], ..spec() }, &items);
    assert_accounted(&outputs, &items);
    assert!(skipped(&outputs).iter().all(|(_, reason)| *reason == SkipReason::NothingToEncode));
}

/// Orders are obeyed before decoding and each drop is reported: disposable pictures, everything
/// up to the next IDR, and rungs from the top; a rung that returns begins with an IDR in all.
#[test]
fn overload_orders_are_obeyed_and_reported() {
    let items = demux(&source("320x180", 3, "-bf 2 -b_strategy 0 -g 30", ""));
    let ordered = |drop, rungs_off| {
        let rig = Rig::start(spec());
        rig.pipeline.set_overload(Overload { drop, rungs_off });
        rig.feed(100, &items);
        let outputs = rig.finish();
        assert_accounted(&outputs, &items);
        outputs
    };
    let outputs = ordered(DropPolicy::DropDisposable, 0);
    let dropped = skipped(&outputs);
    assert!(dropped.len() >= 30, "{dropped:?}");
    assert!(dropped.iter().all(|(_, why)| *why == SkipReason::Overload), "{dropped:?}");
    let outputs = ordered(DropPolicy::Normal, 1);
    assert_eq!(frames(&outputs).len(), 90);
    assert!(frames(&outputs).iter().all(|frame| frame.rungs.len() == 1 && frame.rungs[0].0 == LOW));
    // However many are to be off, the lowest goes on.
    let outputs = ordered(DropPolicy::Normal, 9);
    assert!(frames(&outputs).iter().all(|frame| frame.rungs.len() == 1 && frame.rungs[0].0 == LOW));

    let rig = Rig::start(spec());
    rig.feed(100, &items[..40]);
    let mut outputs =
        rig.until(|output| matches!(output, PipelineOutput::Frame(frame) if frame.pts_ms > 1050));
    rig.pipeline.set_overload(Overload { drop: DropPolicy::DropToKeyframe, rungs_off: 1 });
    rig.feed(140, &items[40..]);
    outputs.extend(
        rig.until(|output| matches!(output, PipelineOutput::Frame(frame) if frame.pts_ms > 2050)),
    );
    rig.pipeline.set_overload(Overload { drop: DropPolicy::Normal, rungs_off: 0 });
    outputs.extend(rig.finish());
    assert_accounted(&outputs, &items);
    assert!(skipped(&outputs).iter().any(|(_, why)| *why == SkipReason::Overload));
    let pictures = frames(&outputs);
    for pair in pictures.windows(2) {
        if pair[1].rungs.len() > pair[0].rungs.len() {
            assert_eq!(pair[1].keyframe, IsIdr::Idr);
        }
    }
}

/// A pipeline can be stopped, and dropped, in every state: before the first packet, with packets
/// waiting, with outputs that nobody fetches, with a closed gate, and after its end.
#[test]
fn stop_returns_in_every_state() {
    let items = demux(&source("160x90", 3, "-bf 0", "-ac 2"));
    let small = || PipelineSpec { rungs: vec![rung("90p", 90, 200_000)], ..spec() };
    let follow = Start::Follow(Follow {
        ladder: None,
        vbv_init: Vec::new(),
        warm_up: WarmUp::Encode,
        audio: None,
    });
    assert_eq!(Rig::start(small()).pipeline.stop(), StopOutcome::Joined);
    drop(Rig::start(small()));
    for spec in [small(), PipelineSpec { start: follow, ..small() }] {
        for fed in [1, 5, 40, items.len()] {
            let rig = Rig::start(spec.clone());
            rig.feed(100, &items[..fed]);
            assert_eq!(rig.pipeline.stop(), StopOutcome::Joined);
        }
    }
    let rig = Rig::start(small());
    rig.feed(100, &items);
    rig.until(|output| matches!(output, PipelineOutput::Frame(_)));
    assert_eq!(rig.pipeline.stop(), StopOutcome::Joined);
}

/// Blurring changes nothing that the decoder still refers to: outside the rectangle, blurred
/// frames equal those of a plain decode, to the last frame of a long GOP.
#[test]
fn blurring_does_not_damage_the_decoders_references() {
    let items = demux(&source("320x180", 2, "-bf 2 -g 60", ""));
    let rect = BlurRect { left: 2500, top: 2500, width: 5000, height: 5000 };
    let decode = |mut filter: Option<filter::Filter>| {
        let mut stage = decode::DecodeStage::new(spec().limits, Arc::default());
        let mut out = Vec::new();
        let mut lines = Vec::new();
        for (index, item) in (0..).zip(&items) {
            match item.kind {
                PacketKind::VideoHeader { codec } => stage.header(codec, &item.payload, &mut out),
                PacketKind::VideoFrame { pts_ms, idr, .. } => {
                    stage.packet(index, pts_ms, idr, &item.payload, &mut out);
                }
                PacketKind::AudioHeader
                | PacketKind::AudioFrame { .. }
                | PacketKind::Declared(_) => {}
            }
            for decoded in out.drain(..) {
                let decode::Decoded::Frame(mut frame) = decoded else { continue };
                if let Some(filter) = &mut filter {
                    filter.apply(&mut frame.frame).unwrap();
                }
                let luma = frame.frame.plane(0).unwrap();
                let above = (0..44).flat_map(|y| &luma.samples[y * luma.stride..][..320]);
                lines.push(above.copied().collect::<Vec<u8>>());
            }
        }
        lines
    };
    let (plain, blurred) = (decode(None), decode(filter::Filter::new(&[rect])));
    assert!(plain.len() > 55);
    assert_eq!(plain, blurred);
}

/// One that is prepared has no thread and takes nothing before it begins; then it gives what it
/// would have given. One that never begins is over at once.
#[test]
fn a_prepared_pipeline_does_nothing_before_it_begins() {
    let items = demux(&source("160x90", 1, "-bf 0", "-ac 1"));
    let mut rig = Rig::prepare(spec());
    rig.feed(100, &items);
    assert_eq!((rig.pipeline.has_begun(), rig.pipeline.threads()), (false, None));
    assert_eq!(rig.pipeline.poll(), None);
    rig.pipeline.begin().unwrap();
    assert!(rig.pipeline.has_begun());
    assert_accounted(&rig.finish(), &items);
    assert_eq!(Rig::prepare(spec()).pipeline.stop(), StopOutcome::Joined);
}
