//! The main path on real input: ffmpeg publishes, every rendition arrives at a real origin whole.

use anyhow::{Context, Result, ensure};
use tasuki_tests::fixture::{Audio, Recipe};
use tasuki_tests::flv::{self, Flv, Kind};
use tasuki_tests::frames;
use tasuki_tests::passage::{self, Expected, Passage};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Setup};

/// The default ladder's sizes and bitrates, with the cheapest preset: two cores carry it in real
/// time beside another test. `./dev soak main-path` runs the ladder itself.
fn quick_ladder() -> Vec<Rung> {
    let encoded = [(720, 2500), (480, 1200), (360, 600)].map(|(height, kbps)| Rung::Encoded {
        label: format!("{height}p"),
        height,
        kbps,
        preset: "ultrafast",
    });
    std::iter::once(Rung::Source).chain(encoded).collect()
}

/// The source and one rung of 128×72 with the default preset.
fn small_ladder() -> Vec<Rung> {
    vec![Rung::Source, Rung::encoded(72, 200)]
}

fn with_rungs(rungs: Vec<Rung>) -> Setup {
    Setup { rungs: Some(rungs), ..Setup::default() }
}

/// Labels and states of the rungs, for comparison.
fn states(passage: &Passage) -> Vec<(&str, &str)> {
    passage.session.rungs.iter().map(|rung| (rung.label.as_str(), rung.state.as_str())).collect()
}

fn publish_and_check(
    run: &std::path::Path,
    recipe: &Recipe,
    setup: Setup,
) -> Result<(Passage, Vec<passage::Rendition>)> {
    let passage = passage::of_recipe(run, recipe, setup)?;
    let sent = Flv::read(&recipe.file()?)?;
    let renditions = passage.check(Some(&sent), &Expected::all_of(recipe))?;
    Ok((passage, renditions))
}

#[test]
fn every_frame_of_1080p_at_5_mbps_arrives_once_in_order_in_every_rung() {
    in_run_directory("main", |run| {
        let recipe = Recipe { preset: "ultrafast", ..Recipe::full_hd(8) };
        let (passage, renditions) =
            publish_and_check(run.path(), &recipe, with_rungs(quick_ladder()))?;
        let sizes: Vec<_> =
            renditions.iter().map(|found| (found.streams.width, found.streams.height)).collect();
        ensure!(sizes == [(1920, 1080), (1280, 720), (854, 480), (640, 360)], "{sizes:?}");
        ensure!(passage.session.frames_dropped == 0, "{:?}", passage.session);
        Ok(())
    });
}

#[test]
fn a_removed_packet_is_seen_by_the_check_that_the_main_path_uses() {
    in_run_directory("control", |run| {
        let recipe = Recipe::small(4);
        let passage = passage::of_recipe(run.path(), &recipe, with_rungs(small_ladder()))?;
        let expected = Expected::all_of(&recipe);
        for label in ["source", "72p"] {
            let whole = passage.origin.recording(&format!("{}_{label}", passage::NAME))?;
            passage::check_rendition(label, &whole, &expected)?;
            let mut damaged = Flv::read(&whole)?;
            damaged.tags.remove(damaged.video_at(50).context("packet 50")?);
            let file = run.join("damaged.flv");
            damaged.write(&file)?;
            let verdict = passage::check_rendition(label, &file, &expected);
            ensure!(verdict.is_err(), "{label}: the missing packet was not seen");
            let source = Flv::read(&recipe.file()?)?;
            ensure!(flv::check_payloads_identical(&source, &damaged).is_err(), "{label}");
        }
        Ok(())
    });
}

#[test]
fn a_publish_that_begins_between_keyframes_arrives_from_the_first_keyframe_on() {
    in_run_directory("late", |run| {
        let recipe = Recipe::small(5);
        let mut sent = Flv::read(&recipe.file()?)?;
        let (first, tenth) =
            (sent.video_at(0).context("packet 0")?, sent.video_at(10).context("packet 10")?);
        sent.tags.drain(first..tenth);
        let file = run.join("late.flv");
        sent.write(&file)?;
        // ffmpeg would hold such packets back.
        let passage = passage::with(run.path(), with_rungs(small_ladder()), |url| {
            publisher::librtmp(run.path(), "publisher", &file, url, Pace::RealTime)
        })?;
        let all = Expected::all_of(&recipe);
        let expected = Expected { numbers: recipe.gop..=*all.numbers.end(), ..all };
        let found = passage.check(Some(&sent), &expected)?;
        ensure!(found.len() == 2, "{found:?}");
        Ok(())
    });
}

#[test]
fn b_frames_and_keyframes_8_s_apart_arrive_whole_and_renditions_have_keyframes_every_2_s() {
    in_run_directory("bframes", |run| {
        let recipe = Recipe { b_frames: 2, gop: 240, ..Recipe::small(10) };
        let (passage, _) = publish_and_check(run.path(), &recipe, with_rungs(small_ladder()))?;
        let rendition = Flv::read(&passage.origin.recording("cam_72p")?)?;
        let keyframes: Vec<u32> = rendition
            .from_keyframe()
            .filter(|tag| tag.is_keyframe())
            .map(|tag| tag.dts_ms)
            .collect();
        let first = *keyframes.first().context("a keyframe")?;
        ensure!(keyframes.windows(2).all(|pair| pair[1] - pair[0] <= 2040), "{keyframes:?}");
        // The source's own keyframes, at 0 s and at 8 s, are keyframes here as well.
        let at_8_s = keyframes.iter().any(|time| (7990..=8010).contains(&(time - first)));
        ensure!(at_8_s, "{keyframes:?}");
        Ok(())
    });
}

fn bodies(flv: &Flv) -> Vec<&[u8]> {
    flv.coded(Kind::Audio).map(|tag| tag.body.as_slice()).collect()
}

#[test]
fn sound_encoded_anew_stays_within_a_frame_of_the_picture() {
    in_run_directory("aac", |run| {
        let recipe = Recipe::small(8);
        let setup = Setup { audio: Some("aac"), ..with_rungs(small_ladder()) };
        let (passage, renditions) = publish_and_check(run.path(), &recipe, setup)?;
        ensure!(renditions.iter().all(|found| found.streams.audio_codec == "aac"));
        let (sent, rung) =
            (Flv::read(&recipe.file()?)?, Flv::read(&passage.origin.recording("cam_72p")?)?);
        // Silence is silence; what is heard differs once it was encoded anew.
        ensure!(bodies(&sent) != bodies(&rung), "the sound was passed, not encoded");
        Ok(())
    });
}

#[test]
fn pictures_without_sound_arrive_whole() {
    in_run_directory("video-only", |run| {
        let recipe = Recipe { audio: Audio::None, ..Recipe::small(5) };
        let (_, renditions) = publish_and_check(run.path(), &recipe, with_rungs(small_ladder()))?;
        ensure!(renditions.len() == 2 && renditions[0].streams.audio_codec.is_empty());
        Ok(())
    });
}

#[test]
fn sound_without_pictures_arrives_whole_and_byte_identical() {
    in_run_directory("audio-only", |run| {
        let mut sent = Flv::read(&Recipe::small(8).file()?)?;
        sent.tags.retain(|tag| tag.kind == Kind::Audio);
        let file = run.join("sound.flv");
        sent.write(&file)?;
        let passage = passage::of_file(run.path(), &file, with_rungs(small_ladder()))?;
        for label in ["source", "72p"] {
            let file = passage.origin.recording(&format!("cam_{label}"))?;
            let recording = Flv::read(&file)?;
            flv::check_payloads_identical(&sent, &recording).context(label)?;
            let absent = sent.coded(Kind::Audio).count() - recording.coded(Kind::Audio).count();
            ensure!(absent == 0, "{label}: the first {absent} packets are missing");
            flv::check_dts_rising(&recording).context(label)?;
            let sound = frames::sound(&file)?;
            ensure!(sound.errors.is_empty(), "{label}: {:?}", sound.errors);
        }
        Ok(())
    });
}

#[test]
fn a_portrait_source_gets_renditions_by_its_short_side() {
    in_run_directory("portrait", |run| {
        let recipe = Recipe { width: 180, height: 320, video_kbps: 400, ..Recipe::small(5) };
        let (_, renditions) = publish_and_check(
            run.path(),
            &recipe,
            with_rungs(vec![Rung::Source, Rung::encoded(144, 200), Rung::encoded(90, 120)]),
        )?;
        let sizes: Vec<_> =
            renditions.iter().map(|found| (found.streams.width, found.streams.height)).collect();
        ensure!(sizes == [(180, 320), (144, 256), (90, 160)], "{sizes:?}");
        Ok(())
    });
}

#[test]
fn rungs_larger_than_the_source_are_off_and_reach_no_origin() {
    in_run_directory("off", |run| {
        let rungs = vec![
            Rung::Source,
            Rung::encoded(720, 2500),
            Rung::encoded(144, 300),
            Rung::encoded(72, 100),
        ];
        let (passage, renditions) =
            publish_and_check(run.path(), &Recipe::small(5), with_rungs(rungs))?;
        let expected =
            [("source", "passing"), ("720p", "off"), ("144p", "off"), ("72p", "encoding")];
        ensure!(states(&passage) == expected, "{:?}", states(&passage));
        ensure!(renditions.len() == 2, "{renditions:?}");
        Ok(())
    });
}

#[test]
fn a_source_that_matches_a_rung_passes_through_it_untouched() {
    in_run_directory("match", |run| {
        let rungs = vec![Rung::encoded(90, 400), Rung::encoded(72, 100)];
        let (passage, _) = publish_and_check(run.path(), &Recipe::small(5), with_rungs(rungs))?;
        let expected = [("90p", "passing"), ("72p", "encoding")];
        ensure!(states(&passage) == expected, "{:?}", states(&passage));
        Ok(())
    });
}
