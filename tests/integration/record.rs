//! Recording: whole files, files that survive a kill, and a full disk that the stream does not
//! notice.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tasuki_shared::status::SessionStatus;
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

/// Of every rendition something was written.
fn is_recorded(session: &SessionStatus) -> bool {
    session.records.len() == 2 && session.records.iter().all(|record| record.bytes > 0)
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

#[test]
fn a_recording_whose_worker_was_killed_plays_to_its_last_whole_fragment() {
    in_run_directory("record-kill", |run| {
        let recipe = Recipe::small(20);
        let directory = run.join("recordings");
        let mut setup = recording_setup(directory.clone());
        setup.workers = Some(1);
        let mut server = Server::start(run.path(), &setup)?;
        let start = |name: &str, server: &Server| {
            let url = server.url(NAME);
            publisher::ffmpeg(run.path(), name, &recipe.file()?, &url, Pace::RealTime)
        };
        let mut first = start("first", &server)?;
        let frames_seen = server.wait_status("four recorded seconds", BOUND, |status| {
            let session = status.sessions.iter().find(|s| s.frames_out >= 150)?;
            is_recorded(session).then_some(session.frames_out)
        })?;
        let workers = server.status()?.workers;
        let worker = workers.iter().find(|worker| worker.role == "worker" && worker.sessions > 0);
        let pid = worker.with_context(|| format!("who serves it? {workers:?}"))?.pid;
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        // Whether the stream goes on elsewhere is not the matter here.
        first.kill()?;
        server.wait_no_sessions(BOUND)?;
        // The next recording of the name cuts off what the kill tore.
        let mut second = start("second", &server)?;
        server.wait_status("the second to be recorded", BOUND, |status| {
            let session = status.sessions.iter().find(|s| s.frames_out >= 60)?;
            is_recorded(session).then_some(())
        })?;
        second.signal(Signal::SIGINT)?;
        second.wait(BOUND)?;
        server.wait_no_sessions(BOUND)?;
        server.stop()?;
        for label in ["source", "72p"] {
            let found = files(&directory, label)?;
            ensure!(found.len() >= 2, "{label}: {found:?}");
            // The one that the kill tore, and the last; whether the stream went on in between,
            // and how, is not the matter here.
            for file in [&found[0], &found[found.len() - 1]] {
                check_torn(file).with_context(|| file.display().to_string())?;
            }
            // At most the fragment in the making is lost, and what the status was behind.
            let kept = frames::decode(&found[0])?.pictures.len();
            let least = usize::try_from(frames_seen)?.saturating_sub(75);
            ensure!(kept >= least, "{label}: {kept} pictures kept of {frames_seen}");
        }
        Ok(())
    });
}

/// Plays silently, from some number on without a gap.
fn check_torn(file: &Path) -> Result<()> {
    let decoded = frames::decode(file)?;
    ensure!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    let numbers = decoded.numbers();
    let first = numbers.first().copied().flatten().context("no first picture")?;
    let last = first + u32::try_from(numbers.len())? - 1;
    check_exactly_once_in_order(&numbers, first..=last)?;
    let sound = frames::sound(file)?;
    ensure!(sound.errors.is_empty(), "{:?}", sound.errors);
    Ok(())
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
