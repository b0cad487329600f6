//! What real publishers send and no specification foresees (how they put it on the wire is in
//! `irregular_wire.rs`): a session survives it, counts it by
//! name, and loses no frame that was good.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{self, Flv, Kind, Tag};
use tasuki_tests::frames;
use tasuki_tests::place::{RunDirectory, in_run_directory};
use tasuki_tests::raw_publisher::RawPublisher;
use tasuki_tests::scene::{
    BOUND, SMALL, Scene, check_fault, check_frames, check_monotonic, is_picture, is_sound,
};
use tasuki_tests::skew;
use tasuki_tests::wait;

/// Faster than real time, so that a test takes less of it; the pipeline follows easily.
const SPEED: u32 = 2;
const FRAME_MS: f64 = 1000.0 / 30.0;

fn recipe(seconds: u32) -> Recipe {
    Recipe { gop: 30, ..Recipe::small(seconds) }
}

fn scene(run: &RunDirectory, seconds: u32) -> Result<Scene> {
    Scene::start(run.path(), recipe(seconds), |_| {})
}

/// The tags before a moment of the fixture.
fn before(source: &Flv, end_ms: u32) -> Vec<Tag> {
    source.tags.iter().filter(|tag| tag.dts_ms < end_ms).cloned().collect()
}

#[test]
fn a_publisher_that_falls_silent_is_ended_after_the_configured_time_and_its_name_is_free() {
    in_run_directory("half-open", |run| {
        let mut scene = Scene::start(run.path(), recipe(6), |setup| {
            setup.rtmp_lines = "silence_timeout = \"2s\"".to_owned();
            // Who waits for a publisher does not hang, also with sound that is not committed yet.
            setup.worker_lines = "hang_deadline = \"300ms\"\n".to_owned();
            setup.audio = Some("aac");
        })?;
        let mut publisher = scene.publish("cam")?;
        let tags = before(&scene.source, 2000);
        publisher.send_tags(&tags, SPEED, |tag| Some(tag.dts_ms))?;
        let fell_silent = clock::now();
        scene.wait_received("cam", 60)?;
        scene.server.wait_no_sessions(Duration::from_secs(15))?;
        let lasted = clock::now().duration_since(fell_silent);
        ensure!(lasted >= Duration::from_millis(1900), "ended after {} ms", lasted.as_millis());
        ensure!(scene.server.log().contains("nothing was received for too long"), "no reason");
        ensure!(scene.server.status()?.deaths.is_empty(), "{:?}", scene.server.status()?.deaths);
        // The connection is still half open here.
        let again = scene.publish("cam")?;
        drop((publisher, again));
        scene.settle()?;
        for rung in ["source", SMALL] {
            let file = scene.origin.recordings(&format!("cam_{rung}"))?.into_iter().next();
            check_frames(&file.context("a recording")?, 0..=59)?;
        }
        scene.server.stop()
    });
}

#[test]
fn a_publisher_that_lost_its_connection_comes_back_under_its_key() {
    in_run_directory("reconnect", |run| {
        let mut scene = scene(run, 6)?;
        let mut publisher = scene.publish("cam")?;
        publisher.send_tags(&before(&scene.source, 2000), SPEED, |tag| Some(tag.dts_ms))?;
        scene.wait_received("cam", 60)?;
        publisher.reset()?;
        let mut publisher =
            wait::until("the publish to be accepted", BOUND, || Ok(scene.publish("cam").ok()))?;
        for tag in &scene.headers() {
            publisher.send_tag(tag, 0)?;
        }
        let rest: Vec<Tag> =
            scene.source.tags.iter().filter(|tag| !tag.is_header()).cloned().collect();
        let rest: Vec<Tag> = rest.into_iter().filter(|tag| tag.dts_ms >= 4000).collect();
        // Mobile publishers begin their clock anew.
        publisher.send_tags(&rest, SPEED, |tag| Some(tag.dts_ms - 4000))?;
        scene.wait_received("cam", 60)?;
        publisher.finish(BOUND)?;
        scene.settle()?;
        for rung in ["source", SMALL] {
            let files = scene.origin.recordings(&format!("cam_{rung}"))?;
            ensure!(files.len() == 2, "{files:?}");
            check_frames(&files[0], 0..=59)?;
            check_frames(&files[1], 120..=179)?;
        }
        scene.server.stop()
    });
}

/// Pictures are reordered, so the last ones are still in the decoder; and sound and a part of a
/// message wait for something to go with.
#[test]
fn a_publisher_that_vanishes_behind_a_sound_loses_no_picture_it_sent() {
    in_run_directory("vanish", |run| {
        let recipe = Recipe { b_frames: 2, ..recipe(4) };
        let mut scene = Scene::start(run.path(), recipe, |_| {})?;
        for (name, pictures) in [("cam0", 45), ("cam1", 46), ("cam2", 47)] {
            let last = scene.source.video_at(pictures).context("a picture")?;
            let mut tags = scene.source.tags[..=last].to_vec();
            let sound = scene.source.tags[last..].iter().find(|tag| is_sound(tag));
            tags.push(sound.context("a sound")?.clone());
            let mut publisher = scene.publish(name)?;
            publisher.send_tags(&tags, SPEED, |tag| Some(tag.dts_ms))?;
            publisher.send_bytes(&[0xC4, 0, 0])?;
            publisher.vanish(BOUND)?;
            scene.settle()?;
            let sent = frames::decode(&scene.recording(name, "source")?)?.numbers();
            ensure!(sent.len() > pictures, "{name}: {} pictures arrived", sent.len());
            let encoded = frames::decode(&scene.recording(name, SMALL)?)?.numbers();
            ensure!(encoded == sent, "{name}: {encoded:?} of {sent:?}");
        }
        scene.server.stop()
    });
}

#[test]
fn a_second_publisher_of_a_live_name_is_refused_and_costs_the_first_nothing() {
    in_run_directory("hijack", |run| {
        let mut scene = scene(run, 4)?;
        let mut publisher = scene.publish("cam")?;
        let tags = scene.source.tags.clone();
        let (first, second) = tags.split_at(tags.len() / 2);
        publisher.send_tags(first, SPEED, |tag| Some(tag.dts_ms))?;
        for _ in 0..5 {
            let mut hijacker = RawPublisher::ask_to_publish(scene.server.address(), "cam")?;
            let (code, description) = hijacker.wait_status()?;
            ensure!(code == "NetStream.Publish.BadName", "{code}");
            ensure!(description == "a stream of this name is already live", "{description}");
            hijacker.wait_closed(BOUND)?;
        }
        publisher.send_tags(second, SPEED, |tag| Some(tag.dts_ms))?;
        scene.wait_received("cam", 120)?;
        publisher.finish(BOUND)?;
        scene.settle()?;
        scene.check_both("cam", 0..=119)?;
        scene.server.stop()
    });
}

#[test]
fn with_take_over_a_newcomer_ends_a_half_open_predecessor_at_once() {
    in_run_directory("take-over", |run| {
        let mut scene = Scene::start(run.path(), recipe(4), |setup| {
            setup.rtmp_lines = "same_name = \"take_over\"".to_owned();
        })?;
        let mut old = scene.publish("cam")?;
        old.send_tags(&before(&scene.source, 1000), SPEED, |tag| Some(tag.dts_ms))?;
        scene.wait_received("cam", 30)?;
        let mut publisher = scene.publish("cam")?;
        old.wait_closed(BOUND)?;
        ensure!(scene.server.log().contains("taken over"), "{}", scene.server.log());
        publisher.send_tags(&scene.source.tags, SPEED, |tag| Some(tag.dts_ms))?;
        scene.wait_received("cam", 120)?;
        publisher.finish(BOUND)?;
        scene.settle()?;
        for rung in ["source", SMALL] {
            let files = scene.origin.recordings(&format!("cam_{rung}"))?;
            ensure!(files.len() == 2, "{files:?}");
            check_frames(&files[0], 0..=29)?;
            check_frames(&files[1], 0..=119)?;
        }
        scene.server.stop()
    });
}

#[test]
fn a_static_screen_leaves_a_gap_in_the_picture_while_the_sound_goes_on() {
    in_run_directory("static", |run| {
        let mut scene = scene(run, 10)?;
        let mut publisher = scene.publish("cam")?;
        let still = 60..240;
        let mut frame = 0;
        let tags: Vec<Tag> = scene
            .source
            .tags
            .iter()
            .filter(|tag| {
                frame += u32::from(is_picture(tag));
                !is_picture(tag) || !still.contains(&(frame - 1))
            })
            .cloned()
            .collect();
        publisher.send_tags(&tags, SPEED, |tag| Some(tag.dts_ms))?;
        let session = scene.wait_encoded("cam", 120)?;
        publisher.finish(BOUND)?;
        scene.settle()?;
        ensure!(session.frames_dropped == 0 && session.faults.is_empty(), "{session:?}");
        ensure!(!scene.server.log().contains("overload"), "a pause was taken for overload");
        for rung in ["source", SMALL] {
            let file = scene.recording("cam", rung)?;
            let decoded = frames::decode(&file)?;
            let expected: Vec<_> = (0..60).chain(240..300).map(Some).collect();
            ensure!(decoded.numbers() == expected, "{rung}: {:?}", decoded.numbers());
            ensure!(decoded.errors.is_empty(), "{:?}", decoded.errors);
            let recorded = Flv::read(&file)?;
            check_monotonic(&recorded)?;
            let sounds = recorded.coded(Kind::Audio).count();
            let sent = scene.source.coded(Kind::Audio).count();
            // What was before the first picture may be missing.
            ensure!(sounds + 3 >= sent, "{sounds} of {sent} sounds");
        }
        scene.server.stop()
    });
}

#[test]
fn frame_rates_between_3_and_40_lose_no_frame() {
    in_run_directory("swings", |run| {
        let mut scene = scene(run, 6)?;
        let mut publisher = scene.publish("cam")?;
        let mut stamp_ms = 0;
        let mut frame = 0;
        let mut tags = scene.headers();
        for tag in scene.source.coded(Kind::Video) {
            tags.push(Tag { dts_ms: stamp_ms, ..tag.clone() });
            frame += 1;
            stamp_ms += if (60..75).contains(&frame) { 333 } else { 25 };
        }
        publisher.send_tags(&tags, SPEED, |tag| Some(tag.dts_ms))?;
        let session = scene.wait_encoded("cam", 180)?;
        ensure!(session.faults.is_empty(), "{:?}", session.faults);
        publisher.finish(BOUND)?;
        scene.settle()?;
        scene.check_both("cam", 0..=179)?;
        scene.server.stop()
    });
}

#[test]
fn repeated_sequence_headers_are_counted_and_change_nothing() {
    in_run_directory("headers", |run| {
        let mut scene = scene(run, 4)?;
        let mut publisher = scene.publish("cam")?;
        let headers: Vec<Tag> =
            scene.headers().into_iter().filter(|tag| tag.kind != Kind::Script).collect();
        let mut tags = Vec::new();
        for tag in &scene.source.tags {
            if tag.is_keyframe() {
                tags.extend(headers.iter().map(|h| Tag { dts_ms: tag.dts_ms, ..h.clone() }));
            }
            tags.push(tag.clone());
        }
        publisher.send_tags(&tags, SPEED, |tag| Some(tag.dts_ms))?;
        let session = scene.wait_encoded("cam", 120)?;
        check_fault(&session, "repeated_video_header", 4)?;
        check_fault(&session, "repeated_audio_header", 4)?;
        publisher.finish(BOUND)?;
        scene.settle()?;
        scene.check_both("cam", 0..=119)?;
        for rung in ["source", SMALL] {
            let recorded = Flv::read(&scene.recording("cam", rung)?)?;
            let video = |tag: &&Tag| tag.kind == Kind::Video && tag.is_header();
            let count = recorded.tags.iter().filter(video).count();
            ensure!(count == 1, "{count} video headers in {rung}");
        }
        scene.server.stop()
    });
}

#[test]
fn sound_that_stops_holds_no_picture_back_and_comes_back_in_sync() {
    in_run_directory("phone-call", |run| {
        let mut scene = scene(run, 8)?;
        let mut publisher = scene.publish("cam")?;
        let tags: Vec<Tag> = scene
            .source
            .tags
            .iter()
            .filter(|tag| !is_sound(tag) || !(2000..6000).contains(&tag.dts_ms))
            .cloned()
            .collect();
        let (first, second): (Vec<Tag>, Vec<Tag>) =
            tags.into_iter().partition(|tag| tag.dts_ms < 5500);
        publisher.send_tags(&first, SPEED, |tag| Some(tag.dts_ms))?;
        scene.wait_encoded("cam", 165)?;
        // The pictures of the silent time are at the origin while it lasts.
        wait::until("the pictures to be recorded", BOUND, || {
            let seen = scene.server.status()?;
            let pushes = seen.sessions.iter().flat_map(|session| &session.pushes);
            Ok(pushes.map(|push| push.messages).all(|sent| sent >= 240).then_some(()))
        })?;
        publisher.send_tags(&second, SPEED, |tag| Some(tag.dts_ms))?;
        let session = scene.wait_encoded("cam", 240)?;
        ensure!(session.faults.is_empty(), "{:?}", session.faults);
        publisher.finish(BOUND)?;
        scene.settle()?;
        scene.check_both("cam", 0..=239)?;
        for rung in ["source", SMALL] {
            skew::of_file(&scene.recording("cam", rung)?, 30)?.check_under(FRAME_MS)?;
        }
        scene.server.stop()
    });
}

/// Publishes the fixture with other stamps; both renditions must hold all of its frames.
fn with_stamps(
    run: &RunDirectory,
    seconds: u32,
    stamp: impl FnMut(&Tag) -> Option<u32>,
    expected: &[&str],
) -> Result<Scene> {
    let mut scene = scene(run, seconds)?;
    let mut publisher = scene.publish("cam")?;
    publisher.send_tags(&scene.source.tags, SPEED, stamp)?;
    let frames = scene.recipe.frames();
    let session = scene.wait_encoded("cam", u64::from(frames))?;
    for name in expected {
        check_fault(&session, name, 1)?;
    }
    for name in session.faults.keys() {
        ensure!(expected.contains(&name.as_str()), "{:?}", session.faults);
    }
    publisher.finish(BOUND)?;
    scene.settle()?;
    scene.check_both("cam", 0..=frames - 1)?;
    Ok(scene)
}

#[test]
fn sound_stamped_in_the_past_is_held_and_in_sync_again_afterwards() {
    in_run_directory("audio-past", |run| {
        let past = |tag: &Tag| is_sound(tag) && (2200..2800).contains(&tag.dts_ms);
        let stamp = |tag: &Tag| Some(tag.dts_ms - if past(tag) { 300 } else { 0 });
        let scene = with_stamps(run, 6, stamp, &["audio_in_past"])?;
        let skew = skew::of_file(&scene.recording("cam", "source")?, 30)?;
        ensure!(skew.median_ms().abs() < FRAME_MS, "{skew:?}");
        scene.server.stop()
    });
}

#[test]
fn a_clock_that_begins_anew_moves_both_tracks_alike() {
    in_run_directory("jump-back", |run| {
        let stamp =
            |tag: &Tag| Some(60_000 + tag.dts_ms - if tag.dts_ms < 3000 { 0 } else { 63_000 });
        let scene = with_stamps(run, 6, stamp, &["timestamp_jump_back"])?;
        for rung in ["source", SMALL] {
            skew::of_file(&scene.recording("cam", rung)?, 30)?.check_under(FRAME_MS)?;
        }
        scene.server.stop()
    });
}

#[test]
fn equal_and_falling_stamps_become_rising_ones() {
    in_run_directory("falling", |run| {
        let (mut frame, mut last_ms) = (0_u32, 0);
        let stamp = move |tag: &Tag| {
            if !is_picture(tag) {
                return Some(tag.dts_ms);
            }
            frame += 1;
            let stamp = Some(match frame % 12 {
                // What its predecessor had, and a little before it.
                5 => last_ms,
                9 => last_ms - 20,
                _ => tag.dts_ms,
            });
            last_ms = tag.dts_ms;
            stamp
        };
        with_stamps(run, 6, stamp, &["dts_equal", "dts_falling"])?.server.stop()
    });
}

#[test]
fn late_metadata_and_a_late_track_join_the_running_stream() {
    in_run_directory("late", |run| {
        let mut scene = scene(run, 6)?;
        // Metadata and sound come after three seconds; at the other publisher the picture does.
        let late = |early: Kind| {
            let mut tags: Vec<Tag> = Vec::new();
            let mut held: Vec<Tag> = Vec::new();
            for tag in &scene.source.tags {
                if tag.is_header() && tag.kind != early {
                    held.push(Tag { dts_ms: 3000, ..tag.clone() });
                } else if tag.kind == early || tag.dts_ms >= 3000 {
                    if tag.dts_ms >= 3000 {
                        tags.append(&mut held);
                    }
                    tags.push(tag.clone());
                }
            }
            tags
        };
        let mut video_first = scene.publish("video")?;
        let mut audio_first = scene.publish("audio")?;
        let (video_tags, audio_tags) = (late(Kind::Video), late(Kind::Audio));
        std::thread::scope(|threads| {
            let other =
                threads.spawn(|| audio_first.send_tags(&audio_tags, SPEED, |tag| Some(tag.dts_ms)));
            let own = video_first.send_tags(&video_tags, SPEED, |tag| Some(tag.dts_ms));
            other.join().expect("it does not panic")?;
            own
        })?;
        for (name, frames) in [("video", 180), ("audio", 90)] {
            let session = scene.wait_encoded(name, frames)?;
            ensure!(session.faults.is_empty(), "{name}: {:?}", session.faults);
        }
        video_first.finish(BOUND)?;
        audio_first.finish(BOUND)?;
        scene.settle()?;
        scene.check_both("video", 0..=179)?;
        scene.check_both("audio", 90..=179)?;
        let sounds = scene.source.coded(Kind::Audio).filter(|tag| tag.dts_ms >= 3000).count();
        for name in ["video", "audio"] {
            for rung in ["source", SMALL] {
                let file = scene.recording(name, rung)?;
                let recorded = Flv::read(&file)?.coded(Kind::Audio).count();
                ensure!(recorded >= sounds, "{recorded} of {sounds} sounds in {}", file.display());
                skew::of_file(&file, 30)?.check_under(FRAME_MS)?;
            }
        }
        scene.server.stop()
    });
}

#[test]
fn an_eight_second_gop_still_gives_rungs_that_can_be_joined_every_two_seconds() {
    in_run_directory("long-gop", |run| {
        let recipe = Recipe { gop: 240, ..Recipe::small(9) };
        let mut scene = Scene::start(run.path(), recipe, |_| {})?;
        let mut publisher = scene.publish("cam")?;
        publisher.send_tags(&scene.source.tags, SPEED, |tag| Some(tag.dts_ms))?;
        let session = scene.wait_encoded("cam", 270)?;
        ensure!(session.faults.is_empty(), "{:?}", session.faults);
        publisher.finish(BOUND)?;
        scene.settle()?;
        scene.check_both("cam", 0..=269)?;
        let rung = Flv::read(&scene.recording("cam", SMALL)?)?;
        let keys: Vec<u32> =
            rung.tags.iter().filter(|tag| tag.is_keyframe()).map(|tag| tag.dts_ms).collect();
        ensure!(keys.windows(2).all(|pair| pair[1] - pair[0] <= 2034), "{keys:?}");
        ensure!(keys.len() >= 5, "{keys:?}");
        scene.server.stop()
    });
}

#[test]
fn a_damaged_picture_costs_at_most_its_group() {
    in_run_directory("bad-nalu", |run| {
        let mut scene = scene(run, 6)?;
        let mut publisher = scene.publish("cam")?;
        let mut tags = scene.source.tags.clone();
        let damaged = scene.source.video_at(100).context("frame 100")?;
        // The first NAL unit claims far more than there is.
        tags[damaged].body[5..9].copy_from_slice(&[0x7F, 0xFF, 0xFF, 0xFF]);
        publisher.send_tags(&tags, SPEED, |tag| Some(tag.dts_ms))?;
        let session = scene.wait_encoded("cam", 160)?;
        check_fault(&session, "damaged_nal_lengths", 1)?;
        publisher.finish(BOUND)?;
        scene.settle()?;
        let sent = Flv { tags };
        flv::check_payloads_identical(&sent, &Flv::read(&scene.recording("cam", "source")?)?)?;
        check_good_groups(&scene.recording("cam", SMALL)?, &[0..=99, 120..=179])?;
        scene.server.stop()
    });
}

/// These frames are there, each once and in order, whatever lies between them.
fn check_good_groups(
    file: &std::path::Path,
    groups: &[std::ops::RangeInclusive<u32>],
) -> Result<()> {
    let decoded = frames::decode(file)?;
    ensure!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    let good: Vec<Option<u32>> = decoded
        .numbers()
        .into_iter()
        .filter(|number| number.is_some_and(|n| groups.iter().any(|group| group.contains(&n))))
        .collect();
    let expected: Vec<Option<u32>> = groups.iter().cloned().flatten().map(Some).collect();
    ensure!(good == expected, "{:?}", decoded.numbers());
    check_monotonic(&Flv::read(file)?)
}

#[test]
fn unknown_codecs_and_missing_headers_are_counted_and_the_stream_stays_live() {
    in_run_directory("unknown", |run| {
        let mut scene = scene(run, 6)?;
        let mut publisher = scene.publish("cam")?;
        let unknown = |first: u8, dts_ms| Tag {
            kind: Kind::Video,
            dts_ms,
            body: [&[first], &b"zzzz\0\0\0junk"[..]].concat(),
        };
        let headers = scene.headers();
        let mut tags = Vec::new();
        // No header for a second, then all is in order but for some foreign messages.
        for tag in scene.source.tags.iter().filter(|tag| !tag.is_header()) {
            if tags.len() == 60 {
                tags.extend(headers.iter().map(|h| Tag { dts_ms: tag.dts_ms, ..h.clone() }));
            }
            if tag.is_keyframe() && tag.dts_ms > 2000 {
                tags.push(unknown(0x90, tag.dts_ms));
                tags.push(Tag { body: vec![0x12, 0, 1, 2], ..unknown(0, tag.dts_ms) });
                tags.push(Tag {
                    kind: Kind::Audio,
                    body: vec![0x2F, 7, 7],
                    ..unknown(0, tag.dts_ms)
                });
                tags.push(Tag { body: vec![0x17], ..unknown(0, tag.dts_ms) });
                tags.push(Tag { body: vec![], ..unknown(0, tag.dts_ms) });
            }
            tags.push(tag.clone());
        }
        publisher.send_tags(&tags, SPEED, |tag| Some(tag.dts_ms))?;
        let session = scene.wait_encoded("cam", 120)?;
        for name in [
            "video_before_header",
            "audio_before_header",
            "unknown_fourcc",
            "unknown_video_codec",
            "unknown_audio_codec",
            "truncated_media_message",
            "empty_media_message",
        ] {
            check_fault(&session, name, 1)?;
        }
        publisher.finish(BOUND)?;
        scene.settle()?;
        check_good_groups(&scene.recording("cam", SMALL)?, &[60..=179])?;
        scene.server.stop()
    });
}
