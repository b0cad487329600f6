//! The harness proves itself: what it accepts is sound, and each kind of damage is found.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tasuki_tests::child::Child;
use tasuki_tests::fixture::{Continue, Generator, Recipe, Sink};
use tasuki_tests::flv::{self, Flv, Kind};
use tasuki_tests::frames::{self, Difference, check_exactly_once_in_order};
use tasuki_tests::origin::Origin;
use tasuki_tests::place::{RunDirectory, in_run_directory};
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::skew;

const BOUND: Duration = Duration::from_secs(60);

/// The whole range of a recipe's numbers.
fn all(recipe: &Recipe) -> std::ops::RangeInclusive<u32> {
    0..=recipe.frames() - 1
}

fn transcode(run: &RunDirectory, from: &Path, size: &str, kbps: u32) -> Result<PathBuf> {
    let to = run.join(&format!("{size}.flv"));
    let rate = format!("{kbps}k");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(from).args(["-s", size]);
    command.args(["-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-b:v", &rate]);
    command.args(["-maxrate", &rate, "-bufsize", &rate, "-c:a", "aac"]).arg(&to);
    command.stdin(Stdio::null());
    Child::start(&format!("transcode-{size}"), run.path(), &mut command)?.finish(BOUND)?;
    Ok(to)
}

fn difference(file: &Path, recipe: &Recipe) -> Result<Box<Difference>> {
    let numbers = frames::decode(file)?.numbers();
    check_exactly_once_in_order(&numbers, all(recipe)).err().context("the damage was not seen")
}

#[test]
fn numbers_and_skew_survive_360p_at_600_kbps_and_128x72() {
    in_run_directory("transcode", |run| {
        let recipe = Recipe::full_hd(10);
        let source = recipe.file()?;
        for (size, kbps) in [("640x360", 600), ("128x72", 80)] {
            let file = transcode(run, &source, size, kbps)?;
            let decoded = frames::decode(&file)?;
            check_exactly_once_in_order(&decoded.numbers(), all(&recipe)).context(size)?;
            ensure!(decoded.errors.is_empty(), "{:?}", decoded.errors);
            // ffmpeg moves pictures to the grid of its output rate: up to half a frame.
            skew::of_file(&file, recipe.fps)?.check_under(500.0 / 30.0).context(size)?;
        }
        Ok(())
    });
}

#[test]
fn numbers_survive_in_a_portrait_picture_with_b_frames() {
    in_run_directory("portrait", |run| {
        let recipe = Recipe { width: 720, height: 1280, b_frames: 2, ..Recipe::full_hd(4) };
        let file = transcode(run, &recipe.file()?, "360x640", 600)?;
        check_exactly_once_in_order(&frames::decode(&file)?.numbers(), all(&recipe))?;
        check_exactly_once_in_order(&frames::decode(&recipe.file()?)?.numbers(), all(&recipe))?;
        Ok(())
    });
}

/// Publishes with `publish`, and checks what the origin recorded.
fn check_publisher(
    run: &RunDirectory,
    recipe: &Recipe,
    publish: impl FnOnce(&Path, &str) -> Result<Child>,
) -> Result<PathBuf> {
    let source = recipe.file()?;
    let origin = Origin::start(run.path())?;
    let mut publisher = publish(&source, &origin.url("cam"))?;
    origin.wait_published("cam", BOUND)?;
    publisher.finish(BOUND)?;
    origin.wait_idle(BOUND)?;
    let file = origin.recording("cam")?;
    let decoded = frames::decode(&file)?;
    check_exactly_once_in_order(&decoded.numbers(), all(recipe))?;
    ensure!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    let recording = Flv::read(&file)?;
    flv::check_dts_rising(&recording)?;
    skew::of_file(&file, recipe.fps)?.check_under(1000.0 / f64::from(recipe.fps))?;
    origin.stop()?;
    Ok(file)
}

#[test]
fn what_ffmpeg_publishes_arrives_whole_and_byte_identical() {
    in_run_directory("ffmpeg", |run| {
        let recipe = Recipe { b_frames: 2, ..Recipe::full_hd(5) };
        let file = check_publisher(run, &recipe, |source, url| {
            publisher::ffmpeg(run.path(), "publisher", source, url, Pace::RealTime)
        })?;
        flv::check_payloads_identical(&Flv::read(&recipe.file()?)?, &Flv::read(&file)?)
    });
}

#[test]
fn what_gstreamer_publishes_arrives_whole() {
    in_run_directory("gstreamer", |run| {
        let recipe = Recipe::small(5);
        check_publisher(run, &recipe, |source, url| {
            publisher::gstreamer(run.path(), "publisher", source, url)
        })?;
        Ok(())
    });
}

#[test]
fn what_librtmp_publishes_arrives_whole_and_byte_identical() {
    in_run_directory("librtmp", |run| {
        let recipe = Recipe::small(5);
        let file = check_publisher(run, &recipe, |source, url| {
            publisher::librtmp(run.path(), "publisher", source, url, Pace::RealTime)
        })?;
        flv::check_payloads_identical(&Flv::read(&recipe.file()?)?, &Flv::read(&file)?)
    });
}

#[test]
fn a_live_picture_is_published_in_real_time_until_it_is_stopped() {
    in_run_directory("live", |run| {
        let recipe = Recipe { preset: "ultrafast", ..Recipe::small(0) };
        let origin = Origin::start(run.path())?;
        let url = origin.url("cam");
        let sink = Sink::Live { url: &url };
        let mut generator = Generator::start(&recipe, sink, run.path(), "live")?;
        generator.run(|count| if count < 100 { Continue::Yes } else { Continue::No })?;
        generator.finish(BOUND)?;
        origin.wait_idle(BOUND)?;
        let numbers = frames::decode(&origin.recording("cam")?)?.numbers();
        check_exactly_once_in_order(&numbers, 0..=99)?;
        Ok(())
    });
}

#[test]
fn a_removed_packet_is_found_and_its_frame_named() {
    in_run_directory("removed", |run| {
        let recipe = Recipe::small(5);
        let source = Flv::read(&recipe.file()?)?;
        let mut damaged = source.clone();
        damaged.tags.remove(source.video_at(77).context("packet 77")?);
        let file = run.join("damaged.flv");
        damaged.write(&file)?;
        let difference = difference(&file, &recipe)?;
        ensure!(difference.missing.contains(&77), "{difference}");
        let error = flv::check_payloads_identical(&source, &damaged).err().context("identical")?;
        ensure!(error.to_string().contains("packet 77"), "{error}");
        Ok(())
    });
}

#[test]
fn a_duplicated_packet_is_found() {
    in_run_directory("duplicated", |run| {
        let recipe = Recipe::small(5);
        let source = Flv::read(&recipe.file()?)?;
        let mut damaged = source.clone();
        // A keyframe can be decoded twice; its copy gets a time of its own.
        let at = source.video_at(60).context("packet 60")?;
        ensure!(source.tags[at].is_keyframe(), "packet 60 is a keyframe");
        let mut copy = source.tags[at].clone();
        copy.dts_ms += 1;
        damaged.tags.insert(at + 1, copy);
        let file = run.join("damaged.flv");
        damaged.write(&file)?;
        let difference = difference(&file, &recipe)?;
        ensure!(difference.repeated == [(60, 2)], "{difference}");
        ensure!(flv::check_payloads_identical(&source, &damaged).is_err(), "identical");
        Ok(())
    });
}

#[test]
fn swapped_packets_are_found() {
    in_run_directory("swapped", |run| {
        let recipe = Recipe::small(5);
        let source = Flv::read(&recipe.file()?)?;
        let mut damaged = source.clone();
        // Two whole groups change places, so that every picture still decodes.
        let (first, second) =
            (source.video_at(0).context("packet 0")?, source.video_at(60).context("packet 60")?);
        let (a, b) = (source.tags[first].body.clone(), source.tags[second].body.clone());
        damaged.tags[first].body = b;
        damaged.tags[second].body = a;
        let file = run.join("damaged.flv");
        damaged.write(&file)?;
        let difference = difference(&file, &recipe)?;
        ensure!(!difference.out_of_order.is_empty(), "{difference}");
        ensure!(flv::check_payloads_identical(&source, &damaged).is_err(), "identical");
        Ok(())
    });
}

#[test]
fn sound_moved_by_one_frame_or_50_ms_is_found_and_sound_in_place_is_not() {
    in_run_directory("skew", |run| {
        let recipe = Recipe::small(5);
        let source = Flv::read(&recipe.file()?)?;
        skew::of_file(&recipe.file()?, recipe.fps)?.check_under(5.0)?;
        for shift_ms in [34_u32, 50] {
            let mut late = source.clone();
            for tag in late.tags.iter_mut().filter(|tag| tag.kind == Kind::Audio) {
                tag.dts_ms += shift_ms;
            }
            let file = run.join(&format!("late-{shift_ms}.flv"));
            late.write(&file)?;
            let skew = skew::of_file(&file, recipe.fps)?;
            let measured = skew.median_ms();
            ensure!((measured - f64::from(shift_ms)).abs() < 5.0, "{measured} of {shift_ms}");
            ensure!(skew.check_under(1000.0 / 30.0).is_err(), "{skew:?}");
        }
        Ok(())
    });
}
