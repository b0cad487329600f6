//! A pipeline that goes on where another died, with codecs that were opened ahead.

use super::seam::{from_anchor, ladder};
use super::*;
use crate::spares::{Need, Spares, fill};
use tasuki_shared::limits::SPARE_FULLNESS;
use tasuki_shared::plan::RungKind;

/// What a pipeline says that its codecs were opened with: once, right behind the first frame.
fn told(outputs: &[PipelineOutput]) -> Vec<CodecNeed> {
    let is_frame = |output: &PipelineOutput| matches!(output, PipelineOutput::Frame(_));
    let first = outputs.iter().position(is_frame).unwrap();
    let told: Vec<_> =
        (0..).zip(outputs).filter(|(_, o)| matches!(o, PipelineOutput::Codecs(_))).collect();
    let [(at, PipelineOutput::Codecs(needs))] = told[..] else { panic!("{}", told.len()) };
    assert_eq!(at, first + 1);
    needs.clone()
}

/// What a fresh pipeline made of `items`, and what another makes of them that goes on behind the
/// frame at `CUT`, its rate buffers this full, as after a death: all orders come before it begins.
struct Seam {
    items: Vec<Item>,
    whole: Vec<PipelineOutput>,
}

const CUT: usize = 50;

impl Seam {
    fn new(video: &str) -> Self {
        let items = demux(&source("320x180", 3, video, ""));
        let whole = run(spec(), &items);
        Self { items, whole }
    }

    fn rest(
        &self,
        rungs: Vec<RungPlan>,
        fullness: f32,
        spares: &Arc<Spares>,
    ) -> Vec<PipelineOutput> {
        let cut = frames(&self.whole)[CUT];
        let vbv_init = vec![(TOP, fullness), (LOW, fullness)];
        let follow = Follow {
            ladder: Some(ladder(&self.whole)),
            vbv_init: vbv_init.clone(),
            warm_up: WarmUp::DecodeOnly,
            audio: None,
        };
        let (start, spares) = (Start::Follow(follow), Arc::clone(spares));
        let mut rig = Rig::prepare(PipelineSpec { rungs, start, spares, ..spec() });
        let after = Some(CutFrame { source_index: cut.source_index, pts_ms: cut.pts_ms });
        rig.pipeline.go_live(Cut { after, vbv_init, audio_next_pts_samples: None });
        rig.pipeline.begin().unwrap();
        let feed = rig.feed.as_ref().unwrap();
        for packet in from_anchor(&self.items, cut.source_index) {
            feed.send(packet).unwrap();
        }
        rig.finish()
    }
}

fn holding(needs: &[CodecNeed]) -> Arc<Spares> {
    let spares = Arc::<Spares>::default();
    fill(&spares, needs);
    assert_eq!(usize::try_from(spares.count()), Ok(needs.len()));
    spares
}

/// With and without B-frames: a pipeline that goes on with spare codecs takes the decoder and the
/// encoder of each rung, and gives, bit for bit, what it gives with codecs of its own whose rate
/// buffer is as full: the headers of the last owner and the frames behind the cut, an IDR first.
#[test]
fn spare_codecs_give_what_others_would_have_given() {
    for video in ["-bf 0", "-bf 3 -g 60"] {
        let seam = Seam::new(video);
        let needs = told(&seam.whole);
        assert_eq!(needs.len(), 3);
        let own = seam.rest(spec().rungs, SPARE_FULLNESS, &Arc::default());
        let spares = holding(&needs);
        let rest = seam.rest(spec().rungs, SPARE_FULLNESS, &spares);
        assert_eq!((spares.taken(), spares.count()), (3, 0), "{video}");
        assert_eq!(rest, own, "{video}");
        assert_eq!(told(&rest), needs);
        assert_eq!(frames(&rest)[0].keyframe, IsIdr::Idr);
        let identity = |frames: &[&EncodedPicture]| -> Vec<(u64, i64)> {
            frames.iter().map(|frame| (frame.source_index, frame.pts_ms)).collect()
        };
        assert_eq!(identity(&frames(&rest)), identity(&frames(&seam.whole)[CUT + 1..]));
        for rung in [TOP, LOW] {
            assert_eq!(headers(&rest, rung), headers(&seam.whole, rung));
        }
        // A fuller buffer than the spares take for granted is fine as well.
        let spares = holding(&needs);
        let rest = seam.rest(spec().rungs, 1.0, &spares);
        assert_eq!(spares.taken(), 3);
        assert_eq!(identity(&frames(&rest)), identity(&frames(&own)));
    }
}

/// Where a rate buffer is emptier than spare encoders take for granted, or the rungs' bitrate is
/// another, encoders are opened anew; the decoder is taken all the same.
#[test]
fn encoders_that_do_not_fit_are_left() {
    let seam = Seam::new("-bf 0");
    let needs = told(&seam.whole);
    let emptier = SPARE_FULLNESS - 0.01;
    let own = seam.rest(spec().rungs, emptier, &Arc::default());
    let spares = holding(&needs);
    let rest = seam.rest(spec().rungs, emptier, &spares);
    assert_eq!((spares.taken(), spares.count()), (1, 2));
    assert_eq!(rest, own);
    let other = vec![rung("180p", 180, 600_001), rung("90p", 90, 200_001)];
    let spares = holding(&needs);
    seam.rest(other, SPARE_FULLNESS, &spares);
    assert_eq!((spares.taken(), spares.count()), (1, 2));
}

/// A new header changes the decoder that is needed, which is told behind the first frame of it; a
/// stream of which nothing is encoded needs none.
#[test]
fn what_is_needed_is_told_again_when_it_changes() {
    let mut items = demux(&source("320x180", 1, "-bf 0", ""));
    items.extend(later(demux(&source("160x90", 1, "-bf 0", "")), 1000));
    let outputs = run(spec(), &items);
    let told: Vec<Vec<Need>> = outputs
        .iter()
        .filter_map(|output| {
            let PipelineOutput::Codecs(needs) = output else { return None };
            Some(needs.iter().map(|need| Need::decode(need).unwrap()).collect())
        })
        .collect();
    let [first, second] = &told[..] else { panic!("{told:?}") };
    assert_ne!(first[0], second[0]);
    assert_eq!((first.len(), &first[1..]), (3, &second[1..]));
    let source_only = vec![RungPlan { label: "source".into(), kind: RungKind::Source }];
    let outputs = run(PipelineSpec { rungs: source_only, ..spec() }, &items);
    assert!(!outputs.iter().any(|output| matches!(output, PipelineOutput::Codecs(_))));
}
