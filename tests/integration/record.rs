//! Recording: whole files, files that survive a kill, and a full disk that the stream does not
//! notice.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::Flv;
use tasuki_tests::frames::{self, check_exactly_once_in_order};
use tasuki_tests::passage::{self, BOUND, Expected, NAME, Passage};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::skew;

fn recording_setup(directory: PathBuf) -> Setup {
    Setup {
        rungs: Some(vec![Rung::Source, Rung::encoded(72, 200)]),
        record_directory: Some(directory),
        record_lines: "reserve = \"1MiB\"".into(),
        ..Setup::default()
    }
}

/// The files of one rung, oldest first.
fn files(directory: &Path, label: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&format!("{NAME}_{label}_")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn only_file(directory: &Path, label: &str) -> Result<PathBuf> {
    let mut found = files(directory, label)?;
    ensure!(found.len() == 1, "{label}: {found:?}");
    found.pop().context("one file")
}

#[test]
fn two_renditions_are_recorded_whole_while_they_are_pushed() {
    in_run_directory("record", |run| {
        let recipe = Recipe { b_frames: 2, ..Recipe::small(8) };
        let directory = run.join("recordings");
        let passage = passage::of_recipe(run.path(), &recipe, recording_setup(directory.clone()))?;
        let sent = Flv::read(&recipe.file()?)?;
        passage.check(Some(&sent), &Expected::all_of(&recipe))?;
        let records = &passage.session.records;
        let said: Vec<_> = records.iter().map(|r| (r.rung.as_str(), r.state.as_str())).collect();
        ensure!(said == [("source", "recording"), ("72p", "recording")], "{records:?}");
        for label in ["source", "72p"] {
            let file = only_file(&directory, label)?;
            let decoded = frames::decode(&file)?;
            ensure!(decoded.errors.is_empty(), "{label}: {:?}", decoded.errors);
            check_exactly_once_in_order(&decoded.numbers(), 0..=recipe.frames() - 1)
                .context(label)?;
            let sound = frames::sound(&file)?;
            ensure!(sound.errors.is_empty(), "{label}: {:?}", sound.errors);
            skew::of_decoded(&decoded.pictures, &sound, recipe.fps)?
                .check_under(1000.0 / 30.0)
                .context(label)?;
        }
        Ok(())
    });
}

/// Killed three times, its owners write one file for each rung: every picture once and in order,
/// sound without a gap, silent at any time in between.
#[test]
fn a_recording_whose_workers_are_killed_goes_on_in_the_same_file() {
    in_run_directory("record-kill", |run| {
        let recipe = Recipe { b_frames: 2, ..Recipe::small(20) };
        let directory = run.join("recordings");
        let mut setup = recording_setup(directory.clone());
        setup.audio = Some("aac");
        let mut server = Server::start(run.path(), &setup)?;
        let url = server.url(NAME);
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &recipe.file()?, &url, Pace::RealTime)?;
        let mut owners = Vec::new();
        for _ in 0..3 {
            // Its own frames, not those of the worker before: counts begin anew with each owner.
            let (pid, owner) = server.wait_status("frames in a worker", BOUND, |status| {
                let session = status.sessions.iter().find(|s| s.name == NAME)?;
                if session.frames_out < 70 || owners.contains(&session.worker) {
                    return None;
                }
                session.records.iter().all(|r| r.state == "recording").then_some(())?;
                let slot = session.worker.split('/').next()?;
                let worker = status.workers.iter().find(|w| w.slot == slot && w.sessions > 0)?;
                Some((worker.pid, session.worker.clone()))
            })?;
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            owners.push(owner);
        }
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        ensure!(!server.log().contains("panic"), "a worker panicked:\n{}", server.log());
        server.stop()?;
        for label in ["source", "72p"] {
            let file = only_file(&directory, label)?;
            check_whole(&file, &recipe).context(label)?;
        }
        Ok(())
    });
}

/// Plays silently, each picture of the recipe once and in order, sound to the end and in step.
fn check_whole(file: &Path, recipe: &Recipe) -> Result<()> {
    let decoded = frames::decode(file)?;
    ensure!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    check_exactly_once_in_order(&decoded.numbers(), 0..=recipe.frames() - 1)?;
    let sound = frames::sound(file)?;
    ensure!(sound.errors.is_empty(), "{:?}", sound.errors);
    skew::of_decoded(&decoded.pictures, &sound, recipe.fps)?.check_under(1000.0 / 30.0)
}

/// A command that puts a file system of so many kilobytes on `directory`, seen by nobody else,
/// and then becomes its arguments. None where that is not permitted.
fn small_disk(directory: &Path, kilobytes: u32) -> Result<Option<Vec<String>>> {
    let mount = format!(
        "mount -t tmpfs -o size={kilobytes}k tmpfs '{}' && exec \"$0\" \"$@\"",
        directory.display()
    );
    let mut words = vec!["unshare".to_owned()];
    if !nix::unistd::geteuid().is_root() {
        words.push("--map-root-user".to_owned());
    }
    words.extend(["--mount", "sh", "-c"].map(str::to_owned));
    words.push(mount);
    let allowed = Command::new(&words[0])
        .args(&words[1..])
        .arg("true")
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success());
    Ok(allowed.then_some(words))
}

#[test]
fn a_full_disk_stops_the_recording_by_name_and_neither_the_stream_nor_its_pushes() {
    in_run_directory("record-full", |run| {
        let directory = run.join("recordings");
        fs::create_dir(&directory)?;
        let Some(wrapper) = small_disk(&directory, 160)? else {
            eprintln!("not run: a mount namespace of one's own is not permitted here");
            return Ok(());
        };
        let recipe = Recipe::small(10);
        for (label, reserve, reason) in
            [("full", "0", "disk full"), ("reserve", "64KiB", "fewer than the reserve")]
        {
            let place = run.join(label);
            fs::create_dir(&place)?;
            let mut setup = recording_setup(directory.clone());
            setup.record_lines = format!("reserve = \"{reserve}\"");
            setup.wrapper = wrapper.clone();
            let passage: Passage = passage::of_recipe(&place, &recipe, setup)?;
            let mut records = passage.session.records.iter();
            let record = records.find(|r| r.rung == "source").context("no word of the source")?;
            ensure!(record.state == "stopped", "{label}: {record:?}");
            ensure!(passage.log.contains(reason), "{label}: the log does not say {reason:?}");
            ensure!(record.bytes > 0, "{label}: nothing was recorded before: {record:?}");
            let sent = Flv::read(&recipe.file()?)?;
            passage.check(Some(&sent), &Expected::all_of(&recipe)).context(label)?;
        }
        Ok(())
    });
}

#[test]
fn an_origin_is_not_needed_for_a_recording() {
    in_run_directory("record-only", |run| {
        let recipe = Recipe::small(5);
        let directory = run.join("recordings");
        let mut server = Server::start(run.path(), &recording_setup(directory.clone()))?;
        let url = server.url(NAME);
        let file = recipe.file()?;
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &url, Pace::RealTime)?;
        publisher.finish(BOUND)?;
        server.wait_no_sessions(BOUND)?;
        server.stop()?;
        for label in ["source", "72p"] {
            let decoded = frames::decode(&only_file(&directory, label)?)?;
            check_exactly_once_in_order(&decoded.numbers(), 0..=recipe.frames() - 1)
                .context(label)?;
        }
        Ok(())
    });
}
