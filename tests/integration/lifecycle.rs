//! Publishers that come and go in every way, and a server that ends: nothing is left behind,
//! nothing hangs, every refusal says why.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_tests::chance::Chance;
use tasuki_tests::child::Child;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::frames::{self, check_exactly_once_in_order};
use tasuki_tests::origin::Origin;
use tasuki_tests::passage::{self, BOUND, Expected, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::wait;

/// A refusal must not take longer, however busy the machine.
const REFUSAL_BOUND: Duration = Duration::from_secs(15);

fn small_setup(origin: Option<&Origin>) -> Setup {
    Setup {
        rungs: Some(vec![Rung::Source, Rung::encoded(72, 150)]),
        origin_port: origin.map(Origin::port),
        ..Setup::default()
    }
}

/// Publishes the recipe's file in real time as a process of its own name.
fn publish(run: &Path, name: &str, recipe: &Recipe, url: &str) -> Result<Child> {
    publisher::ffmpeg(run, name, &recipe.file()?, url, Pace::RealTime)
}

/// Publishes to `url`, which must be refused: ffmpeg shows the reason and fails.
fn must_be_refused(run: &Path, name: &str, url: &str, reason: &str) -> Result<()> {
    let mut publisher = publish(run, name, &Recipe::small(4), url)?;
    let status = publisher.wait(REFUSAL_BOUND)?;
    let log = publisher.log();
    ensure!(!status.success(), "{url} was accepted");
    ensure!(log.contains(reason), "the publisher does not see {reason:?}:\n{log}");
    Ok(())
}

/// Numbers of a rung's only recording, which must be in order without a gap.
fn numbers_in_order(origin: &Origin, name: &str) -> Result<(u32, u32)> {
    let decoded = frames::decode(&origin.recording(name)?)?;
    in_order(&decoded).with_context(|| name.to_owned())
}

fn in_order(decoded: &frames::Decoded) -> Result<(u32, u32)> {
    ensure!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    let numbers = decoded.numbers();
    let first = numbers.first().copied().flatten().context("no first picture")?;
    let last = numbers.last().copied().flatten().context("no last picture")?;
    check_exactly_once_in_order(&numbers, first..=last)?;
    Ok((first, last))
}

/// How one of the parallel publishers ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// SIGINT: ffmpeg unpublishes.
    Clean,
    Killed,
    /// It never comes as far as publishing.
    InHandshake,
}

struct Cycle {
    name: String,
    end: End,
    frames_min: u64,
    publisher: Option<Child>,
}

#[test]
fn twenty_publishers_that_end_in_every_way_leave_nothing_behind() {
    in_run_directory("cycles", |run| {
        let mut chance = Chance::new();
        let seed = chance.seed();
        let origin = Origin::start_with(
            run.path(),
            "origin",
            &tasuki_tests::origin::Settings {
                record: tasuki_tests::origin::Record::Off,
                push_to: Vec::new(),
            },
        )?;
        let mut setup = small_setup(Some(&origin));
        setup.workers = Some(2);
        setup.streams_per_worker = Some(32);
        setup.audio = Some("aac");
        let mut server = Server::start(run.path(), &setup)?;
        // What is made once, at first use, is no leak.
        run_cycles(run.path(), &mut server, &mut chance, 4, "warm")?;
        server.wait_no_sessions(BOUND)?;
        wait_settled(&server)?;
        let before = server.census()?;
        let encoded = run_cycles(run.path(), &mut server, &mut chance, 20, "cycle")
            .with_context(|| format!("TASUKI_SEED={seed}"))?;
        server.wait_no_sessions(BOUND)?;
        ensure!(encoded > 0, "nothing was encoded (TASUKI_SEED={seed})");
        let nothing_left = wait::until("nothing left behind", Duration::from_secs(20), || {
            Ok(server.census()?.left_behind_since(&before).is_empty().then_some(()))
        });
        if nothing_left.is_err() {
            let after = server.census()?;
            anyhow::bail!(
                "left behind (TASUKI_SEED={seed}): {:#?}\n{before}\n{after}",
                after.left_behind_since(&before)
            );
        }
        let status = server.status()?;
        let died: Vec<_> = status.workers.iter().filter(|worker| worker.restarts > 0).collect();
        ensure!(died.is_empty(), "workers died (TASUKI_SEED={seed}): {died:?}");
        origin.wait_idle(BOUND)?;
        server.stop()
    });
}

/// Two censuses in a row that agree: what ends with a session has ended.
fn wait_settled(server: &Server) -> Result<()> {
    let mut last = server.census()?;
    wait::until("the processes to settle", BOUND, || {
        clock::pause(Duration::from_millis(500));
        let now = server.census()?;
        let same =
            now.left_behind_since(&last).is_empty() && last.left_behind_since(&now).is_empty();
        last = now;
        Ok(same.then_some(()))
    })
}

/// Starts `count` publishers at once and ends each in its way; gives the frames encoded.
fn run_cycles(
    run: &Path,
    server: &mut Server,
    chance: &mut Chance,
    count: u32,
    label: &str,
) -> Result<u64> {
    let recipe = Recipe::small(20);
    let mut cycles = Vec::new();
    for number in 0..count {
        // The first few make sure that each way occurs.
        let way = if number < 3 { u64::from(number) } else { chance.between(0..=2) };
        let end =
            [End::Clean, End::Killed, End::InHandshake][usize::try_from(way).expect("below three")];
        let name = format!("{label}{number}");
        if end == End::InHandshake {
            break_handshake(server, chance)?;
        }
        let publisher = match end {
            End::Clean | End::Killed => Some(publish(run, &name, &recipe, &server.url(&name))?),
            End::InHandshake => None,
        };
        cycles.push(Cycle { name, end, frames_min: chance.between(1..=90), publisher });
    }
    let mut encoded = 0;
    wait::until("every publisher's turn to end", BOUND, || {
        let status = server.status()?;
        for cycle in &mut cycles {
            let Some(publisher) = &mut cycle.publisher else { continue };
            publisher.must_run()?;
            let session = status.sessions.iter().find(|session| session.name == cycle.name);
            let Some(session) = session.filter(|s| s.frames_in >= cycle.frames_min) else {
                continue;
            };
            encoded += session.frames_out;
            match cycle.end {
                End::Clean => publisher.signal(Signal::SIGINT)?,
                End::Killed | End::InHandshake => {
                    publisher.kill()?;
                }
            }
            if let Some(mut publisher) = cycle.publisher.take() {
                publisher.wait(BOUND)?;
            }
        }
        Ok(cycles.iter().all(|cycle| cycle.publisher.is_none()).then_some(()))
    })?;
    Ok(encoded)
}

/// Connects, says a part of C0, C1 and C2, and is gone.
fn break_handshake(server: &Server, chance: &mut Chance) -> Result<()> {
    let mut stream = TcpStream::connect(server.address())?;
    let mut bytes = vec![0; usize::try_from(chance.between(0..=3000))?];
    if let Some(version) = bytes.first_mut() {
        *version = 3;
    }
    stream.write_all(&bytes)?;
    Ok(())
}

#[test]
fn sigterm_lets_streams_go_on_to_the_deadline_and_the_origin_gets_their_last_frames() {
    in_run_directory("drain", |run| {
        let origin = Origin::start(run.path())?;
        let mut setup = small_setup(Some(&origin));
        setup.worker_lines = "shutdown_deadline = \"3s\"".into();
        let mut server = Server::start(run.path(), &setup)?;
        let recipe = Recipe::small(40);
        let mut publisher = publish(run.path(), "publisher", &recipe, &server.url(NAME))?;
        let frames_before = server.wait_status("frames", BOUND, |status| {
            let encoded = |s: &&tasuki_shared::status::SessionStatus| s.frames_out > 30;
            status.sessions.iter().find(encoded).map(|session| session.frames_in)
        })?;
        let asked = clock::now();
        server.signal(Signal::SIGTERM)?;
        let address = server.address().to_owned();
        wait::until("the listener to be closed", BOUND, || {
            Ok(TcpStream::connect(&address).is_err().then_some(()))
        })?;
        let status = server.wait(Duration::from_secs(20))?;
        let took = clock::now() - asked;
        ensure!(status.success(), "{status}: {}", server.log());
        ensure!(took >= Duration::from_millis(2900), "streams were ended after {took:?}");
        publisher.wait(BOUND)?;
        origin.wait_idle(BOUND)?;
        let (first, last) = numbers_in_order(&origin, "cam_source")?;
        ensure!(first == 0);
        ensure!(u64::from(last) > frames_before + 60, "{last} after {frames_before}");
        let rung = numbers_in_order(&origin, "cam_72p")?;
        ensure!(rung == (first, last), "72p has {rung:?}, the source {last}");
        Ok(())
    });
}

#[test]
fn a_second_sigterm_ends_live_streams_at_once() {
    in_run_directory("second", |run| {
        let mut setup = small_setup(None);
        setup.worker_lines = "shutdown_deadline = \"10m\"".into();
        let mut server = Server::start(run.path(), &setup)?;
        let _publisher = publish(run.path(), "publisher", &Recipe::small(40), &server.url(NAME))?;
        server.wait_live(NAME, BOUND)?;
        server.signal(Signal::SIGTERM)?;
        server
            .wait_status("draining", BOUND, |status| (status.state == "draining").then_some(()))?;
        server.signal(Signal::SIGTERM)?;
        let status = server.wait(Duration::from_secs(10))?;
        ensure!(status.success(), "{status}: {}", server.log());
        Ok(())
    });
}

#[test]
fn a_second_publisher_of_a_live_name_is_told_so_and_the_first_goes_on_whole() {
    in_run_directory("name", |run| {
        let recipe = Recipe::small(8);
        let reason = "a stream of this name is already live";
        let origin = Origin::start(run.path())?;
        let mut server = Server::start(run.path(), &small_setup(Some(&origin)))?;
        let mut first = publish(run.path(), "first", &recipe, &server.url(NAME))?;
        server.wait_live(NAME, BOUND)?;
        must_be_refused(run.path(), "second", &server.url(NAME), reason)?;
        let status = server.status()?;
        ensure!(!status.refusals.is_empty(), "no refusal was counted");
        first.finish(BOUND)?;
        server.wait_no_sessions(BOUND)?;
        origin.wait_idle(BOUND)?;
        for label in ["source", "72p"] {
            let file = origin.recording(&format!("cam_{label}"))?;
            passage::check_rendition(label, &file, &Expected::all_of(&recipe)).context(label)?;
        }
        server.stop()
    });
}

#[test]
fn a_second_publisher_takes_a_name_over_where_that_is_configured() {
    in_run_directory("takeover", |run| {
        let recipe = Recipe::small(8);
        let origin = Origin::start(run.path())?;
        let mut setup = small_setup(Some(&origin));
        setup.rtmp_lines = "same_name = \"take_over\"".into();
        let mut server = Server::start(run.path(), &setup)?;
        let old_recipe = Recipe::small(40);
        let mut first = publish(run.path(), "first", &old_recipe, &server.url(NAME))?;
        // Two seconds of it: the origin names its recordings by the second.
        let old = server.wait_status("frames of the first", BOUND, |status| {
            let mut sessions = status.sessions.iter();
            sessions.find(|s| s.frames_out > 0 && s.uptime_ms > 2_000).map(|s| s.id.clone())
        })?;
        for label in ["source", "72p"] {
            origin.wait_published(&format!("cam_{label}"), BOUND)?;
        }
        let mut second = publish(run.path(), "second", &recipe, &server.url(NAME))?;
        server.wait_status("the second to be live", BOUND, |status| {
            let new = |s: &&tasuki_shared::status::SessionStatus| {
                s.id != old && s.state == "live" && s.name == NAME
            };
            status.sessions.iter().find(new).map(|_| ())
        })?;
        first.wait(BOUND)?;
        second.finish(BOUND)?;
        server.wait_no_sessions(BOUND)?;
        origin.wait_idle(BOUND)?;
        for label in ["source", "72p"] {
            let recordings = origin.recordings(&format!("cam_{label}"))?;
            ensure!(recordings.len() == 2, "{label}: {recordings:?}");
            let newest = recordings.last().context("a recording")?;
            passage::check_rendition(label, newest, &Expected::all_of(&recipe)).context(label)?;
        }
        ensure!(server.log().contains("taken over"), "the log does not say so");
        server.stop()
    });
}

#[test]
fn an_unknown_application_is_refused_by_name() {
    in_run_directory("app", |run| {
        let mut server = Server::start(run.path(), &small_setup(None))?;
        let url = format!("rtmp://{}/elsewhere/{NAME}", server.address());
        must_be_refused(run.path(), "publisher", &url, "unknown application")?;
        server.wait_no_sessions(BOUND)?;
        server.stop()
    });
}

#[test]
fn a_secret_key_appears_nowhere_and_its_public_name_everywhere() {
    in_run_directory("keys", |run| {
        let (secret, wrong) = ("s3cr3t-0123456789-xyz", "wr0ng-9876543210-xyz");
        let recipe = Recipe::small(5);
        let origin = Origin::start(run.path())?;
        let mut setup = small_setup(Some(&origin));
        setup.tables = format!("[log]\nlevel = \"trace\"\n[keys]\n\"{secret}\" = \"{NAME}\"\n");
        let mut server = Server::start(run.path(), &setup)?;
        must_be_refused(run.path(), "wrong", &server.url(wrong), "stream key not accepted")?;
        // The public name is no key.
        must_be_refused(run.path(), "name", &server.url(NAME), "stream key not accepted")?;
        let mut publisher = publish(run.path(), "publisher", &recipe, &server.url(secret))?;
        server.wait_live(NAME, BOUND)?;
        for label in ["source", "72p"] {
            origin.wait_published(&format!("cam_{label}"), BOUND)?;
        }
        let (status, at_origin) = (server.status_text()?, origin.statistics()?);
        publisher.finish(BOUND)?;
        server.wait_no_sessions(BOUND)?;
        origin.wait_idle(BOUND)?;
        let log = server.log();
        server.stop()?;
        ensure!(log.contains(NAME) && status.contains(NAME) && at_origin.contains("cam_source"));
        for key in [secret, wrong] {
            for (place, text) in [("log", &log), ("status", &status), ("origin", &at_origin)] {
                ensure!(!text.contains(key), "{key} is in the {place}");
            }
        }
        for label in ["source", "72p"] {
            let file = origin.recording(&format!("cam_{label}"))?;
            passage::check_rendition(label, &file, &Expected::all_of(&recipe)).context(label)?;
        }
        Ok(())
    });
}

#[test]
fn a_full_server_refuses_by_name_at_once_and_serves_on() {
    in_run_directory("full", |run| {
        let recipe = Recipe::small(8);
        let origin = Origin::start(run.path())?;
        let mut setup = small_setup(Some(&origin));
        (setup.workers, setup.streams_per_worker) = (Some(1), Some(1));
        let mut server = Server::start(run.path(), &setup)?;
        let mut first = publish(run.path(), "first", &recipe, &server.url(NAME))?;
        server.wait_live(NAME, BOUND)?;
        let url = server.url("other");
        must_be_refused(run.path(), "second", &url, "server full: no free stream slot")?;
        let refused: u64 = server.status()?.refusals.values().sum();
        ensure!(refused > 0, "no refusal was counted");
        first.finish(BOUND)?;
        server.wait_no_sessions(BOUND)?;
        origin.wait_idle(BOUND)?;
        let file = origin.recording("cam_72p")?;
        passage::check_rendition("72p", &file, &Expected::all_of(&recipe))?;
        // The slot is free again.
        let mut third = publish(run.path(), "third", &Recipe::small(4), &url)?;
        server.wait_live("other", BOUND)?;
        third.finish(BOUND)?;
        server.stop()
    });
}

#[test]
fn a_configuration_with_an_unknown_key_ends_with_78_and_its_line_and_column() {
    in_run_directory("config", |run| {
        let text = "[rtmp]\nlisten = [\"127.0.0.1:0\"]\n\n[workers]\n  cuont = 2\n";
        let (code, said) = tasuki_tests::server::refused(run.path(), text)?;
        ensure!(code == Some(78), "{code:?}: {said}");
        ensure!(said.contains("refused.toml:5:3"), "{said}");
        ensure!(said.contains("count"), "the nearest known key is not named: {said}");
        Ok(())
    });
}
