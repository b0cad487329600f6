//! One pipeline goes on where another stopped.

use super::*;

pub fn ladder(outputs: &[PipelineOutput]) -> LadderState {
    let found = outputs.iter().find_map(|output| {
        let PipelineOutput::Ladder(state) = output else { return None };
        Some(state.clone())
    });
    found.unwrap()
}

/// The packet a follower's decoding starts from: the last IDR at or before `index`, and the
/// headers before it.
pub fn from_anchor(items: &[Item], index: u64) -> Vec<(u64, Item)> {
    let indexed: Vec<(u64, Item)> = (100..).zip(items.iter().cloned()).collect();
    let anchor = indexed
        .iter()
        .rfind(|(at, item)| {
            *at <= index && matches!(item.kind, PacketKind::VideoFrame { idr: IsIdr::Idr, .. })
        })
        .map_or(100, |(at, _)| *at);
    let is_header =
        |item: &Item| matches!(item.kind, PacketKind::VideoHeader { .. } | PacketKind::AudioHeader);
    indexed.into_iter().filter(|(at, item)| *at >= anchor || is_header(item)).collect()
}

/// With and without B-frames, warmed up or not: a follower gives the very next frame, as an IDR,
/// and all after it; headers are identical; the joined rung decodes without a word; sound goes
/// on with the very next packet.
#[test]
fn a_follower_gives_the_frames_after_the_cut_and_no_other() {
    for (video, warm_up, cut_at) in [
        ("-bf 0", WarmUp::Encode, 50),
        ("-bf 0", WarmUp::DecodeOnly, 44),
        ("-bf 3 -g 60", WarmUp::DecodeOnly, 50),
        ("-bf 3 -g 60", WarmUp::Encode, 51),
    ] {
        let items = demux(&source("320x180", 3, video, "-ac 2"));
        let whole = run(spec(), &items);
        let all = frames(&whole);
        let cut = all[cut_at];
        let after = CutFrame { source_index: cut.source_index, pts_ms: cut.pts_ms };
        // The newest audio packet that was given before the cut frame.
        let before_cut = whole
            .iter()
            .take_while(|output| !matches!(output, PipelineOutput::Frame(f) if f == cut));
        let before_cut: Vec<PipelineOutput> = before_cut.cloned().collect();
        let resume = audio(&before_cut).last().unwrap().resume;
        let follow = Follow {
            ladder: Some(ladder(&whole)),
            vbv_init: vec![(TOP, 0.8), (LOW, 0.8)],
            warm_up,
            audio: Some(resume),
        };
        let rig = Rig::start(PipelineSpec { start: Start::Follow(follow), ..spec() });
        let audio_only = (100..).zip(items.iter().cloned()).filter(|(at, item)| {
            *at >= resume.source_index && matches!(item.kind, PacketKind::AudioFrame { .. })
        });
        let mut replay = from_anchor(&items, cut.source_index);
        replay.retain(|(_, item)| !matches!(item.kind, PacketKind::AudioFrame { .. }));
        replay.extend(audio_only);
        replay.sort_by_key(|(at, _)| *at);
        let feed = rig.feed.as_ref().unwrap();
        let (shadow, live): (Vec<_>, Vec<_>) =
            replay.into_iter().partition(|(at, _)| *at <= cut.source_index);
        shadow.into_iter().for_each(|packet| feed.send(packet).unwrap());
        rig.pipeline.go_live(Cut {
            after: Some(after),
            vbv_init: vec![(TOP, 0.5), (LOW, 0.5)],
            audio_next_pts_samples: Some(resume.next_pts_samples),
        });
        live.into_iter().for_each(|packet| feed.send(packet).unwrap());
        let outputs = rig.finish();
        let rest = frames(&outputs);
        let identity = |frames: &[&EncodedPicture]| -> Vec<(u64, i64)> {
            frames.iter().map(|frame| (frame.source_index, frame.pts_ms)).collect()
        };
        assert_eq!(identity(&rest), identity(&all[cut_at + 1..]), "{video} {warm_up:?}");
        assert_eq!(rest[0].keyframe, IsIdr::Idr);
        for (rung, bytes) in [(TOP, 320 * 180 * 3 / 2), (LOW, 160 * 90 * 3 / 2)] {
            let (one, two) = (headers(&whole, rung), headers(&outputs, rung));
            assert_eq!(one, two);
            let joined = all[..=cut_at].iter().chain(&rest).copied();
            let stream = byte_stream(&one[0], joined, rung);
            let decoded = ffmpeg("-f h264 -i - -f rawvideo -pix_fmt yuv420p -", &stream);
            assert_eq!(decoded.len(), all.len() * bytes);
        }
        let wanted: Vec<i64> = audio(&whole)
            .iter()
            .map(|packet| packet.pts_samples)
            .filter(|pts| *pts >= resume.next_pts_samples)
            .collect();
        let given: Vec<i64> = audio(&outputs).iter().map(|packet| packet.pts_samples).collect();
        assert_eq!(given, wanted, "{video}");
    }
}

/// Sound at a seam is what an unbroken encode gives: the packets around it decode to nearly the
/// same samples.
#[test]
fn sound_across_a_seam_equals_an_unbroken_encode() {
    let items = demux(&source("160x90", 3, "-bf 0", "-ac 2"));
    let items: Vec<Item> = items
        .into_iter()
        .filter(|item| matches!(item.kind, PacketKind::AudioHeader | PacketKind::AudioFrame { .. }))
        .collect();
    let whole = run(spec(), &items);
    let unbroken = audio(&whole);
    let resume = unbroken[60].resume;
    let follow = Follow {
        ladder: None,
        vbv_init: Vec::new(),
        warm_up: WarmUp::DecodeOnly,
        audio: Some(resume),
    };
    let rig = Rig::start(PipelineSpec { start: Start::Follow(follow), ..spec() });
    rig.pipeline
        .go_live(Cut { audio_next_pts_samples: Some(resume.next_pts_samples), ..Cut::default() });
    let feed = rig.feed.as_ref().unwrap();
    for (at, item) in (100..).zip(&items) {
        if at >= resume.source_index || matches!(item.kind, PacketKind::AudioHeader) {
            feed.send((at, item.clone())).unwrap();
        }
    }
    let outputs = rig.finish();
    let rest = audio(&outputs);
    let asc = audio_header(&whole);
    let decode = |packets: &mut dyn Iterator<Item = &EncodedAudio>| {
        let mut decoder = crate::libav::AacDecoder::open(&asc).unwrap();
        let mut samples = Vec::new();
        for packet in packets {
            samples.extend(decoder.decode(&packet.payload).unwrap().channels.swap_remove(0));
        }
        samples
    };
    let one = decode(&mut unbroken.iter().copied());
    let two = decode(&mut unbroken[..=60].iter().chain(&rest).copied());
    assert_eq!(one.len(), two.len());
    let (mut signal, mut noise) = (0f64, 0f64);
    for at in 58 * 1024..66 * 1024 {
        signal += f64::from(one[at]).powi(2);
        noise += f64::from(one[at] - two[at]).powi(2);
    }
    let decibel = 10.0 * (signal / noise.max(1e-12)).log10();
    assert!(decibel > 25.0, "{decibel} dB");
}

/// A follower whose committed frame does not come out of its own decoder opens with the next
/// frame beyond it by both counts.
#[test]
fn a_committed_frame_that_cannot_be_decoded_does_not_close_the_gate_for_good() {
    let mut items = demux(&source("160x90", 1, "-bf 0", ""));
    let rungs = vec![rung("90p", 90, 200_000)];
    let whole = run(PipelineSpec { rungs: rungs.clone(), ..spec() }, &items);
    let cut = frames(&whole)[10];
    let at = usize::try_from(cut.source_index - 100).unwrap();
    items.remove(at);
    let follow = Follow {
        ladder: Some(ladder(&whole)),
        vbv_init: Vec::new(),
        warm_up: WarmUp::DecodeOnly,
        audio: None,
    };
    let rig = Rig::start(PipelineSpec { rungs, start: Start::Follow(follow), ..spec() });
    let feed = rig.feed.as_ref().unwrap();
    let after = CutFrame { source_index: cut.source_index, pts_ms: cut.pts_ms };
    rig.pipeline.go_live(Cut { after: Some(after), ..Cut::default() });
    for (position, item) in items.iter().enumerate() {
        let index = u64::try_from(100 + position + usize::from(position >= at)).unwrap();
        feed.send((index, item.clone())).unwrap();
    }
    let outputs = rig.finish();
    let first = frames(&outputs)[0];
    assert_eq!((first.source_index, first.keyframe), (cut.source_index + 1, IsIdr::Idr));
}

/// A follower that hears of the seam before the last frame given has come out of its decoder does
/// not warm its encoders up with that one: the seam's IDR gets the bits that it gets in a follower
/// which only decoded.
#[test]
fn the_last_frame_given_takes_no_bits_from_the_seams_idr() {
    let items = demux(&source("320x180", 3, "-bf 0", ""));
    let whole = run(spec(), &items);
    let cut = frames(&whole)[48];
    let vbv_init = vec![(TOP, 0.3), (LOW, 0.3)];
    let rest = |warm_up| {
        let follow = Follow {
            ladder: Some(ladder(&whole)),
            vbv_init: vbv_init.clone(),
            warm_up,
            audio: None,
        };
        let mut rig = Rig::prepare(PipelineSpec { start: Start::Follow(follow), ..spec() });
        let after = Some(CutFrame { source_index: cut.source_index, pts_ms: cut.pts_ms });
        rig.pipeline.go_live(Cut { after, vbv_init: vbv_init.clone(), ..Cut::default() });
        rig.pipeline.begin().unwrap();
        let feed = rig.feed.as_ref().unwrap();
        for packet in from_anchor(&items, cut.source_index) {
            feed.send(packet).unwrap();
        }
        rig.finish()
    };
    assert_eq!(rest(WarmUp::Encode), rest(WarmUp::DecodeOnly));
}
