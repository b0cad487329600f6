//! Origins that are away, die, freeze, refuse or have no name: the publisher never notices, memory
//! stays bounded, and what arrives afterwards begins with headers and a keyframe.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::status::{PushStatus, SessionStatus, Status};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, Kind, Tag};
use tasuki_tests::frames;
use tasuki_tests::origin::Origin;
use tasuki_tests::place::{RunDirectory, in_run_directory};
use tasuki_tests::ports::free_port;
use tasuki_tests::raw_publisher::RawPublisher;
use tasuki_tests::scene::{BOUND, CHUNK_SIZE, SMALL, ladder};
use tasuki_tests::server::{Server, Setup};

const RUNGS: [&str; 2] = ["source", SMALL];
/// From one round of the fixture to the next.
const ROUND_MS: u32 = 4040;
const FRAMES: u32 = 120;

fn recipe() -> Recipe {
    Recipe { gop: 30, ..Recipe::small(4) }
}

/// A server that pushes to a port where there may be nobody.
fn server(run: &RunDirectory, port: u16, app_lines: &str) -> Result<Server> {
    let setup = Setup {
        workers: Some(1),
        rungs: Some(ladder()),
        origin_port: Some(port),
        app_lines: app_lines.to_owned(),
        ..Setup::default()
    };
    Server::start(run.path(), &setup)
}

/// Publishes the fixture over and over in real time while `story` runs; afterwards the publisher
/// must have been read all the time and nothing of it may be missing.
fn while_publishing(
    server: &mut Server,
    story: impl FnOnce(&mut Server) -> Result<()>,
) -> Result<()> {
    while_publishing_of(&recipe(), server, story, |session, frames| {
        session.frames_in == frames && session.frames_out == frames
    })
}

/// The same with the frames of another fixture, until they are `through`.
fn while_publishing_of(
    recipe: &Recipe,
    server: &mut Server,
    story: impl FnOnce(&mut Server) -> Result<()>,
    through: impl Fn(&SessionStatus, u64) -> bool,
) -> Result<()> {
    let source = Flv::read(&recipe.file()?)?;
    let mut publisher = RawPublisher::publish(server.address(), "cam", CHUNK_SIZE)?;
    let ended = AtomicBool::new(false);
    let (told, rounds) = std::thread::scope(|threads| {
        let sender = threads.spawn(|| send_rounds(&mut publisher, &source.tags, &ended));
        let told = story(server);
        ended.store(true, Ordering::Release);
        (told, sender.join().expect("it does not panic"))
    });
    told?;
    let rounds = rounds.context("the publisher")?;
    let longest = publisher.longest_write();
    ensure!(longest < Duration::from_secs(2), "unread for {} ms", longest.as_millis());
    let frames = u64::from(rounds) * u64::from(FRAMES);
    server.wait_status("every frame to be through", BOUND, |status| {
        let session = status.sessions.iter().find(|session| session.name == "cam")?;
        through(session, frames).then_some(())
    })?;
    publisher.finish(BOUND)?;
    server.wait_no_sessions(BOUND)
}

fn send_rounds(publisher: &mut RawPublisher, tags: &[Tag], ended: &AtomicBool) -> Result<u32> {
    let mut rounds = 0;
    while !ended.load(Ordering::Acquire) {
        publisher.send_tags(tags, 1, |tag| Some(tag.dts_ms + rounds * ROUND_MS))?;
        rounds += 1;
    }
    Ok(rounds)
}

fn pushes(status: &Status) -> Vec<PushStatus> {
    status.sessions.iter().flat_map(|session| session.pushes.clone()).collect()
}

/// Waits until a condition holds for each push.
fn wait_pushes(
    server: &mut Server,
    what: &str,
    holds: impl Fn(&PushStatus) -> bool,
) -> Result<Vec<PushStatus>> {
    server.wait_status(what, BOUND, |status| {
        let pushes = pushes(status);
        (pushes.len() == RUNGS.len() && pushes.iter().all(&holds)).then_some(pushes)
    })
}

/// The first picture, which must be a keyframe.
fn first_keyframe(recorded: &Flv) -> Result<&Tag> {
    let first = recorded.coded(Kind::Video).next().context("no picture")?;
    ensure!(first.is_keyframe(), "it begins with another picture than a keyframe");
    Ok(first)
}

/// The newest recording of each rendition begins with headers and a keyframe, decodes in silence
/// and misses nothing from its first picture on.
fn check_from_a_keyframe(origin: &Origin) -> Result<()> {
    for rung in RUNGS {
        let file = origin.recordings(&format!("cam_{rung}"))?.pop().context("a recording")?;
        let recorded = Flv::read(&file)?;
        let first = first_keyframe(&recorded).context(rung)?;
        let pictures = recorded.tags.iter().position(|tag| tag == first).unwrap_or(0);
        for kind in [Kind::Video, Kind::Audio] {
            let header = recorded.tags.iter().position(|tag| tag.kind == kind && tag.is_header());
            ensure!(header.is_some_and(|at| at < pictures), "{rung}: no {kind:?} header before");
        }
        let decoded = frames::decode(&file)?;
        ensure!(decoded.errors.is_empty(), "{rung}: {:?}", decoded.errors);
        let numbers: Option<Vec<u32>> = decoded.numbers().into_iter().collect();
        let numbers = numbers.context("an unreadable picture")?;
        let follows = |pair: &[u32]| pair[1] == (pair[0] + 1) % FRAMES;
        ensure!(numbers.windows(2).all(follows), "{rung}: {numbers:?}");
        ensure!(numbers.last() == Some(&(FRAMES - 1)), "{rung} ends early: {numbers:?}");
    }
    Ok(())
}

/// An origin on a port that was chosen before.
fn origin_at(run: &RunDirectory, label: &str, port: u16) -> Result<Origin> {
    Origin::start_at(run.path(), label, port)
}

#[test]
fn an_origin_that_comes_up_later_is_found() {
    in_run_directory("late-origin", |run| {
        let port = free_port()?;
        let mut server = server(run, port, "")?;
        let mut origin = None;
        while_publishing(&mut server, |server| {
            let failed = wait_pushes(server, "failed dials", |push| !push.last_error.is_empty())?;
            ensure!(failed.iter().all(|push| push.last_error.contains("connect")), "{failed:?}");
            origin = Some(origin_at(run, "origin", port)?);
            wait_pushes(server, "live pushes", |push| push.state == "live")?;
            Ok(())
        })?;
        let origin = origin.context("an origin")?;
        origin.wait_idle(BOUND)?;
        check_from_a_keyframe(&origin)?;
        server.stop()
    });
}

#[test]
fn an_origin_that_is_killed_and_started_again_gets_the_stream_from_a_keyframe() {
    in_run_directory("killed-origin", |run| {
        let port = free_port()?;
        let first = origin_at(run, "first", port)?;
        let mut server = server(run, port, "")?;
        let mut second = None;
        while_publishing(&mut server, |server| {
            wait_pushes(server, "live pushes", |push| push.state == "live" && push.messages > 60)?;
            first.kill()?;
            let lost = wait_pushes(server, "lost pushes", |push| push.state == "backoff")?;
            ensure!(lost.iter().all(|push| !push.last_error.is_empty()), "{lost:?}");
            second = Some(origin_at(run, "second", port)?);
            let back = |push: &PushStatus| push.state == "live" && push.reconnects == 1;
            let sent: u64 = pushes(&server.status()?).iter().map(|push| push.messages).sum();
            wait_pushes(server, "live pushes again", back)?;
            server.wait_status("the new origin to get packets", BOUND, |status| {
                let now: u64 = pushes(status).iter().map(|push| push.messages).sum();
                (now > sent + 200).then_some(())
            })
        })?;
        let second = second.context("an origin")?;
        second.wait_idle(BOUND)?;
        check_from_a_keyframe(&second)?;
        server.stop()
    });
}

#[test]
fn a_frozen_origin_is_cut_once_its_message_is_overwritten_and_gets_the_rest_from_a_keyframe() {
    in_run_directory("frozen-origin", |run| {
        // A fat source in a small log: what the kernel's buffers hold is soon passed by.
        let recipe =
            Recipe { width: 640, height: 360, video_kbps: 6000, preset: "ultrafast", ..recipe() };
        let port = free_port()?;
        let origin = origin_at(run, "origin", port)?;
        let setup = Setup {
            workers: Some(1),
            rungs: Some(ladder()),
            origin_port: Some(port),
            tables: "[apps.live.limits]\nbitrate = \"8M\"\ngop = \"500ms\"\n".to_owned(),
            ..Setup::default()
        };
        let mut server = Server::start(run.path(), &setup)?;
        while_publishing_of(
            &recipe,
            &mut server,
            |server| freeze(server, &origin),
            |session, frames| session.frames_in == frames,
        )?;
        origin.wait_idle(BOUND)?;
        let last = origin.recordings("cam_source")?.pop().context("a recording")?;
        let recorded = Flv::read(&last)?;
        first_keyframe(&recorded).context("source")?;
        let decoded = frames::decode(&last)?;
        ensure!(decoded.errors.is_empty(), "{:?}", decoded.errors);
        ensure!(decoded.numbers().last() == Some(&Some(FRAMES - 1)), "it ends early");
        server.stop()
    });
}

/// Freezes the origin for fifteen seconds, then sees the push cut and made anew.
fn freeze(server: &mut Server, origin: &Origin) -> Result<()> {
    wait_pushes(server, "live pushes", |push| push.state == "live" && push.messages > 60)?;
    let memory =
        |status: &Status| -> u64 { status.workers.iter().map(|w| w.footprint_bytes).sum() };
    let before = server.wait_status("a sample of memory", BOUND, |status| {
        Some(memory(status)).filter(|bytes| *bytes > 0)
    })?;
    let pid = Pid::from_raw(origin.pid());
    kill(pid, Signal::SIGSTOP)?;
    let thaw_at = clock::now() + Duration::from_secs(15);
    let cut = server.wait_status("the push to be cut", Duration::from_secs(40), |status| {
        let push = pushes(status).into_iter().find(|push| push.rung == "source")?;
        (push.last_error.contains("overwritten") && clock::now() >= thaw_at).then_some(push)
    });
    let after = server.status().map(|status| memory(&status));
    kill(pid, Signal::SIGCONT)?;
    cut?;
    let grown = after?.saturating_sub(before);
    ensure!(grown < 32 << 20, "memory grew by {grown} bytes");
    server.wait_status("the push to be live again", BOUND, |status| {
        let push = pushes(status).into_iter().find(|push| push.rung == "source")?;
        (push.state == "live" && push.reconnects >= 1 && push.skipped > 0).then_some(())
    })
}

#[test]
fn an_origin_that_refuses_is_named_and_asked_again_less_and_less_often() {
    in_run_directory("refusing-origin", |run| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        // It answers every connection with its end.
        let asked = std::thread::spawn(move || {
            let mut times = Vec::new();
            for peer in listener.incoming() {
                let Ok(mut peer) = peer else { break };
                times.push(clock::now());
                let _gone = peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                if times.len() == 10 {
                    break;
                }
            }
            times
        });
        let mut server = server(run, port, "")?;
        while_publishing(&mut server, |server| {
            let refused = wait_pushes(server, "refused pushes", |push| push.state == "backoff")?;
            ensure!(refused.iter().all(|push| !push.last_error.is_empty()), "{refused:?}");
            let times = asked.join().expect("it does not panic");
            // Two pushes, five attempts each: 250 ms, 500 ms, 1 s and 2 s between them.
            let lasted = times[9].duration_since(times[0]);
            ensure!(
                lasted >= Duration::from_millis(3500),
                "ten times in {} ms",
                lasted.as_millis()
            );
            Ok(())
        })?;
        server.stop()
    });
}

#[test]
fn a_publish_refused_by_the_origin_shows_the_origin_s_words() {
    in_run_directory("taken-origin", |run| {
        let port = free_port()?;
        let origin = origin_at(run, "origin", port)?;
        // Somebody else publishes under the names of both renditions.
        let source = Flv::read(&recipe().file()?)?;
        let mut others = Vec::new();
        for rung in RUNGS {
            let address = format!("127.0.0.1:{port}");
            others.push(RawPublisher::publish(&address, &format!("cam_{rung}"), CHUNK_SIZE)?);
        }
        for other in &mut others {
            for tag in source.tags.iter().take(40) {
                other.send_tag(tag, tag.dts_ms)?;
            }
        }
        let mut server = server(run, port, "")?;
        while_publishing(&mut server, |server| {
            let refused = wait_pushes(server, "refused pushes", |push| push.state == "backoff")?;
            let named = |push: &PushStatus| push.last_error.contains("NetStream.Publish.BadName");
            ensure!(refused.iter().all(named), "{refused:?}");
            others.clear();
            wait_pushes(server, "live pushes", |push| push.state == "live")?;
            Ok(())
        })?;
        origin.wait_idle(BOUND)?;
        check_from_a_keyframe(&origin)?;
        server.stop()
    });
}

#[test]
fn an_origin_without_an_address_is_named() {
    in_run_directory("nameless-origin", |run| {
        let setup = Setup {
            workers: Some(1),
            rungs: Some(ladder()),
            tables: "[[apps.live.push]]\nurl = \"rtmp://origin.invalid/live/{name}_{rung}\"\n"
                .to_owned(),
            ..Setup::default()
        };
        let mut server = Server::start(run.path(), &setup)?;
        while_publishing(&mut server, |server| {
            let failed = wait_pushes(server, "failed dials", |push| push.state == "backoff")?;
            let named =
                |push: &PushStatus| push.last_error.contains("cannot resolve origin.invalid");
            ensure!(failed.iter().all(named), "{failed:?}");
            Ok(())
        })?;
        server.stop()
    });
}
