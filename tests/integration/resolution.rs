//! A publisher that changes its picture in mid-stream: the renditions stay as they are.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{self, Flv, Kind, Tag};
use tasuki_tests::frames::{self, check_exactly_once_in_order};
use tasuki_tests::passage::{self, Passage};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Setup};

/// One file after the other, as an encoder that was set anew sends it: new headers, and times
/// that go on.
fn one_after_the_other(files: &[&Recipe]) -> Result<Flv> {
    let mut all = Flv { tags: Vec::new() };
    let mut begin_ms = 0;
    for recipe in files {
        let flv = Flv::read(&recipe.file()?)?;
        let mut end_ms = begin_ms;
        for tag in flv.tags {
            if tag.kind == Kind::Script && !all.tags.is_empty() {
                continue;
            }
            let dts_ms = tag.dts_ms + begin_ms;
            // A frame of either track is shorter than this.
            end_ms = end_ms.max(dts_ms + 40);
            all.tags.push(Tag { dts_ms, ..tag });
        }
        begin_ms = end_ms;
    }
    Ok(all)
}

/// librtmp sends every tag as it is, headers in mid-stream included.
fn publish(run: &Path, file: &Path, rungs: Vec<Rung>) -> Result<Passage> {
    let setup = Setup { rungs: Some(rungs), ..Setup::default() };
    passage::with(run, setup, |url| publisher::librtmp(run, "publisher", file, url, Pace::RealTime))
}

/// All numbers of each file, in order, one file after the other.
fn check_numbers(decoded: &frames::Decoded, files: &[&Recipe]) -> Result<()> {
    let numbers = decoded.numbers();
    let mut rest = numbers.as_slice();
    for (place, recipe) in files.iter().enumerate() {
        let count = usize::try_from(recipe.frames())?;
        let (these, after) = rest
            .split_at_checked(count)
            .with_context(|| format!("{} pictures for file {place}", rest.len()))?;
        check_exactly_once_in_order(these, 0..=recipe.frames() - 1)
            .with_context(|| format!("file {place}"))?;
        rest = after;
    }
    ensure!(rest.is_empty(), "{} pictures too many", rest.len());
    Ok(())
}

/// Video headers, as often as they change.
fn headers(flv: &Flv) -> Vec<&[u8]> {
    let video = flv.tags.iter().filter(|tag| tag.kind == Kind::Video && tag.is_header());
    // The end of a sequence has a body of five bytes.
    let mut found: Vec<&[u8]> =
        video.map(|tag| tag.body.as_slice()).filter(|body| body.len() > 5).collect();
    found.dedup();
    found
}

fn change_in_mid_stream(
    run: &Path,
    files: &[&Recipe],
    rungs: &[(&str, usize, usize)],
) -> Result<()> {
    let sent = one_after_the_other(files)?;
    let file = run.join("combined.flv");
    sent.write(&file)?;
    let ladder: Vec<Rung> = std::iter::once(Rung::Source)
        .chain(
            rungs
                .iter()
                .map(|(_, _, height)| Rung::encoded(u32::try_from(*height).unwrap_or(0), 250)),
        )
        .collect();
    let passage = publish(run, &file, ladder)?;
    let source = passage.origin.recording("cam_source")?;
    flv::check_payloads_identical(&sent, &Flv::read(&source)?).context("source")?;
    // ffmpeg's FLV reader keeps parsing with the first header, and complains about the file that
    // was sent as well: what arrived must not be worse.
    let (before, after) = (frames::decode(&file)?, frames::decode(&source)?);
    check_numbers(&after, files).context("source")?;
    let (sent_with, came_with) = (before.errors.len(), after.errors.len());
    ensure!(came_with <= sent_with, "source: {came_with} complaints, {sent_with} as sent");
    ensure!(headers(&Flv::read(&source)?) == headers(&sent), "source: other headers");
    for (label, width, height) in rungs {
        let rung = passage.rung(label)?;
        ensure!(rung.state == "encoding" && rung.frames > 0, "{rung:?}");
        let file = passage.origin.recording(&format!("cam_{label}"))?;
        let decoded = frames::decode(&file)?;
        check_numbers(&decoded, files).with_context(|| (*label).to_owned())?;
        ensure!(decoded.errors.is_empty(), "{label}: {:?}", decoded.errors);
        let recording = Flv::read(&file)?;
        flv::check_dts_rising(&recording).with_context(|| (*label).to_owned())?;
        let sound = frames::sound(&file)?;
        ensure!(sound.errors.is_empty(), "{label}: {:?}", sound.errors);
        // One header for the whole file: it has one size.
        let count = headers(&recording).len();
        ensure!(count == 1, "{label}: {count} different headers");
        let streams = frames::streams(&file)?;
        let size = (streams.width, streams.height);
        ensure!(size == (*width, *height), "{label} is {size:?}");
    }
    Ok(())
}

#[test]
fn a_source_that_grows_and_shrinks_again_leaves_the_renditions_their_size() {
    in_run_directory("size", |run| {
        let small = Recipe::small(3);
        let large = Recipe { width: 320, height: 180, video_kbps: 500, ..Recipe::small(3) };
        change_in_mid_stream(
            run.path(),
            &[&small, &large, &small],
            &[("80p", 142, 80), ("72p", 128, 72)],
        )
    });
}

#[test]
fn a_source_that_becomes_smaller_than_its_renditions_leaves_them_their_size() {
    in_run_directory("shrink", |run| {
        let small = Recipe::small(3);
        let large = Recipe { width: 320, height: 180, video_kbps: 500, ..Recipe::small(3) };
        change_in_mid_stream(run.path(), &[&large, &small], &[("144p", 256, 144)])
    });
}

#[test]
fn other_coding_tools_at_the_same_size_lose_no_picture() {
    in_run_directory("sps", |run| {
        let plain = Recipe { preset: "ultrafast", ..Recipe::small(3) };
        let with_b_frames = Recipe { b_frames: 2, ..Recipe::small(3) };
        change_in_mid_stream(run.path(), &[&plain, &with_b_frames, &plain], &[("72p", 128, 72)])
    });
}
