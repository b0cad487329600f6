//! What an attacker sends costs its own connection only: a healthy stream beside it loses nothing,
//! and the server's memory stays bounded.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::limits::LOBBY_DEADLINE;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{self, Flv, Tag};
use tasuki_tests::place::{RunDirectory, in_run_directory};
use tasuki_tests::raw_publisher::{
    Continuation, Format, Goodbye, Message, RawPublisher, basic_header,
};
use tasuki_tests::scene::{BOUND, CHUNK_SIZE, Scene};
use tasuki_tests::server::Server;

/// What all our processes together may grow by under any of this.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// From one round of the fixture to the next: its sound lasts a little longer than its picture.
const ROUND_MS: u32 = 4040;

fn recipe(seconds: u32) -> Recipe {
    Recipe { gop: 30, ..Recipe::small(seconds) }
}

/// Lets a healthy publisher run, over and over its fixture, while `attack` runs beside it; then it
/// must have lost nothing, its worker must be the same, and memory must not have grown.
fn beside_a_healthy_stream(
    label: &'static str,
    attack: impl FnOnce(&str, &mut Server, &[Tag]) -> Result<()>,
) {
    in_run_directory(label, |run| {
        let mut scene = start(run, "")?;
        let mut healthy = scene.publish("healthy")?;
        let source = scene.source.clone();
        let ended = AtomicBool::new(false);
        let address = scene.server.address().to_owned();
        let (rounds, attacked, before) = std::thread::scope(|threads| {
            let sender = threads.spawn(|| send_rounds(&mut healthy, &source.tags, &ended));
            let outcome = scene.wait_received("healthy", 15).and_then(|_| {
                let before = Before::of(&mut scene.server)?;
                attack(&address, &mut scene.server, &source.tags)?;
                before.check(&mut scene.server)?;
                Ok(before)
            });
            ended.store(true, Ordering::Release);
            let rounds = sender.join().expect("it does not panic");
            (rounds, outcome.as_ref().map(|_| ()).map_err(|e| format!("{e:#}")), outcome.ok())
        });
        if let Err(error) = attacked {
            bail!("{error}");
        }
        let rounds = rounds.context("the healthy publisher")?;
        let frames = u64::from(scene.recipe.frames()) * u64::from(rounds);
        let session = scene.wait_encoded("healthy", frames)?;
        ensure!(session.frames_in == frames && session.frames_dropped == 0, "{session:?}");
        let unexpected: Vec<_> =
            session.faults.keys().filter(|name| !name.starts_with("repeated_")).collect();
        ensure!(unexpected.is_empty(), "{:?}", session.faults);
        healthy.finish(BOUND)?;
        scene.settle()?;
        check_rounds(&scene, rounds)?;
        if let Some(before) = before {
            before.check(&mut scene.server)?;
        }
        scene.server.stop()
    });
}

fn start(run: &RunDirectory, app_limits: &str) -> Result<Scene> {
    Scene::start(run.path(), recipe(4), |setup| {
        setup.tables = app_limits.to_owned();
    })
}

/// Sends the fixture until it is told to end; the rounds follow one another without a gap.
fn send_rounds(publisher: &mut RawPublisher, tags: &[Tag], ended: &AtomicBool) -> Result<u32> {
    let mut rounds = 0;
    while !ended.load(Ordering::Acquire) {
        let offset_ms = rounds * ROUND_MS;
        publisher.send_tags(tags, 1, |tag| Some(tag.dts_ms + offset_ms))?;
        rounds += 1;
    }
    let longest = publisher.longest_write();
    ensure!(longest < Duration::from_secs(2), "unread for {} ms", longest.as_millis());
    Ok(rounds)
}

/// The origin has every packet of every round, unchanged, and as many pictures of the rung.
fn check_rounds(scene: &Scene, rounds: u32) -> Result<()> {
    let coded = |tag: &&Tag| !tag.is_header();
    let round: Vec<Tag> = scene.source.tags.iter().filter(coded).cloned().collect();
    let tags = std::iter::repeat_n(round, usize::try_from(rounds)?).flatten().collect();
    let recorded = Flv::read(&scene.recording("healthy", "source")?)?;
    flv::check_payloads_identical(&Flv { tags }, &recorded)?;
    let rung = Flv::read(&scene.recording("healthy", "72p")?)?;
    let pictures = rung.coded(flv::Kind::Video).count();
    let expected = usize::try_from(scene.recipe.frames() * rounds)?;
    ensure!(pictures == expected, "{pictures} of {expected} pictures in the rung");
    Ok(())
}

/// Who serves, and what it holds.
struct Before {
    workers: Vec<(i32, u32)>,
    footprint_bytes: u64,
}

impl Before {
    fn of(server: &mut Server) -> Result<Self> {
        // The supervisor samples its processes every two seconds.
        server.wait_status("a sample of memory", BOUND, |status| {
            let serving = status.workers.iter().any(|w| w.sessions > 0 && w.footprint_bytes > 0);
            serving.then(|| Self {
                workers: workers(status),
                footprint_bytes: status.workers.iter().map(|w| w.footprint_bytes).sum(),
            })
        })
    }

    fn check(&self, server: &mut Server) -> Result<()> {
        let status = server.status()?;
        let workers = workers(&status);
        ensure!(workers == self.workers, "{:?} became {workers:?}", self.workers);
        let now: u64 = status.workers.iter().map(|w| w.footprint_bytes).sum();
        let grown = now.saturating_sub(self.footprint_bytes);
        ensure!(grown < GROWTH_BYTES_MAX, "memory grew by {grown} bytes");
        Ok(())
    }
}

/// Process ids and restarts: a worker that died would show in either.
fn workers(status: &tasuki_shared::status::Status) -> Vec<(i32, u32)> {
    status.workers.iter().map(|worker| (worker.pid, worker.restarts)).collect()
}

/// The server closed, within the bound.
fn closed(publisher: &mut RawPublisher) -> Result<Goodbye> {
    publisher.wait_closed(Duration::from_secs(10))
}

/// Waits until the server's log names a reason.
fn wait_logged(server: &Server, what: &str) -> Result<()> {
    tasuki_tests::wait::until(&format!("{what:?} in the log"), Duration::from_secs(10), || {
        Ok(server.log().contains(what).then_some(()))
    })
}

#[test]
fn garbage_http_and_tls_are_closed_at_once() {
    beside_a_healthy_stream("garbage", |address, _, _| {
        let mut noise = vec![0xF7; 1 << 20];
        noise
            .iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte ^= (at * 31 % 251).to_le_bytes()[0]);
        let hellos: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x80\x2e\x01\x00\x02",
            b"\x00",
            &noise,
        ];
        for hello in hellos {
            let mut peer = TcpStream::connect(address)?;
            peer.set_read_timeout(Some(Duration::from_secs(5)))?;
            // It may be closed under us while we still write.
            let _cut_short = peer.write_all(hello);
            let mut answer = Vec::new();
            match peer.read_to_end(&mut answer) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                Err(error) => bail!("{error} after {:?}", &hello[..hello.len().min(8)]),
            }
            ensure!(answer.is_empty(), "{answer:?}");
        }
        // A correct handshake, then noise.
        let mut peer = RawPublisher::open(address)?;
        peer.shake_hands()?;
        let _cut_short = peer.send_bytes(&noise);
        closed(&mut peer)?;
        Ok(())
    });
}

#[test]
fn one_byte_a_second_ends_at_the_lobby_s_deadline() {
    beside_a_healthy_stream("drip", |address, _, _| {
        let mut peer = TcpStream::connect(address)?;
        let began = clock::now();
        peer.set_read_timeout(Some(Duration::from_secs(1)))?;
        peer.write_all(&[3])?;
        loop {
            // Reading waits the second.
            match peer.read(&mut [0; 16]) {
                Ok(0) => break,
                Ok(_) => bail!("an answer to half a handshake"),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            let lasted = clock::now().duration_since(began);
            ensure!(lasted < LOBBY_DEADLINE + Duration::from_secs(10), "still open");
            if peer.write_all(&[0]).is_err() {
                break;
            }
        }
        let lasted = clock::now().duration_since(began);
        ensure!(lasted > LOBBY_DEADLINE - Duration::from_secs(1), "{} ms", lasted.as_millis());
        Ok(())
    });
}

#[test]
fn two_thousand_idle_connections_are_bounded_named_and_gone_after_the_deadline() {
    beside_a_healthy_stream("idle", |address, server, _| {
        let mut idle = Vec::with_capacity(2000);
        for _ in 0..2000 {
            idle.push(TcpStream::connect(address)?);
        }
        let began = clock::now();
        let newcomer = answer_to_publish(address);
        let took = clock::now().duration_since(began);
        ensure!(took < Duration::from_secs(2), "{newcomer:?} after {} ms", took.as_millis());
        let known = ["NetStream.Publish.Start", "server full", "closed"];
        ensure!(known.iter().any(|word| newcomer.contains(word)), "{newcomer}");
        let status = server.status()?;
        ensure!(status.sessions.len() <= 520, "{} sessions", status.sessions.len());
        let refused: u64 = status.refusals.values().sum();
        ensure!(refused >= 1400, "{:?}", status.refusals);
        let bound = LOBBY_DEADLINE + Duration::from_secs(10);
        server.wait_status("the end of all idle sessions", bound, |status| {
            status.sessions.iter().all(|session| session.name == "healthy").then_some(())
        })?;
        for peer in &mut idle {
            peer.set_read_timeout(Some(Duration::from_secs(1)))?;
            let end = peer.read(&mut [0; 1]);
            ensure!(!matches!(end, Ok(1)), "a word to an idle connection");
            let open = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            ensure!(!open, "an idle connection is still open");
        }
        ensure!(answer_to_publish(address).contains("Publish.Start"), "refused afterwards");
        Ok(())
    });
}

/// Code and description, or `closed`.
fn answer_to_publish(address: &str) -> String {
    let asked = RawPublisher::ask_to_publish(address, "newcomer");
    match asked.and_then(|mut publisher| publisher.wait_status()) {
        Ok((code, description)) => format!("{code} {description}"),
        Err(error) => format!("closed: {error:#}"),
    }
}

#[test]
fn a_publisher_that_pings_and_reads_nothing_is_ended_by_name() {
    beside_a_healthy_stream("deaf", |address, server, _| {
        let mut deaf = RawPublisher::publish(address, "deaf", CHUNK_SIZE)?;
        let began = clock::now();
        let mut timestamp = 0;
        while deaf.ping(timestamp).is_ok() {
            timestamp += 1;
            let lasted = clock::now().duration_since(began);
            ensure!(lasted < Duration::from_secs(60), "{timestamp} pings were taken");
        }
        wait_logged(server, "the publisher reads none of our replies")
    });
}

#[test]
fn commands_that_no_publisher_sends_end_their_connection_by_name() {
    beside_a_healthy_stream("commands", |address, server, _| {
        let command = |payload: &[u8], chunk_stream: u32| {
            Message { chunk_stream, kind: 20, timestamp_ms: 0, stream_id: 0, payload }
                .chunks(65_536, Format::Full, Continuation::Repeats)
                .concat()
        };
        let nested = [&[2, 0, 7][..], b"connect", &[10, 0, 0, 0, 1].repeat(3000)].concat();
        let mut many = [&[2, 0, 7][..], b"connect"].concat();
        many.extend(vec![5; 15_000]);
        // Only what the header announces; the payload never has to come.
        let mut nulls = basic_header(0, 3);
        nulls.extend([0, 0, 0, 0xE4, 0xE1, 0xC0, 20, 0, 0, 0, 0]);
        let mut video = basic_header(0, 6);
        video.extend([0, 0, 0, 0xFF, 0xFF, 0xFF, 9, 1, 0, 0, 0]);
        let cases = [
            (command(&nested, 3), "nested deeper"),
            (command(&many, 3), "AMF values in one message"),
            (nulls, "announces 15000000 bytes"),
            (video, "announces 16777215 bytes"),
        ];
        for (bytes, reason) in cases {
            // Before its publish nobody would hear of it: an attacker must not fill the log.
            let mut peer = RawPublisher::publish(address, "bad", 65_536)?;
            peer.send_bytes(&bytes)?;
            closed(&mut peer).context(reason)?;
            wait_logged(server, reason)?;
            server.wait_status("the name to be free", BOUND, |status| {
                (status.sessions.len() == 1).then_some(())
            })?;
        }
        // The same before a publish, and before a connect.
        let mut peer = RawPublisher::open(address)?;
        peer.shake_hands()?;
        peer.set_chunk_size(65_536)?;
        peer.send_bytes(&command(&nested, 3))?;
        closed(&mut peer)?;
        Ok(())
    });
}

#[test]
fn sixty_four_open_messages_are_too_many() {
    beside_a_healthy_stream("open", |address, server, _| {
        let mut peer = RawPublisher::publish(address, "many", 64)?;
        for chunk_stream in 10..74 {
            let payload = vec![0x27; 1000];
            let message =
                Message { chunk_stream, kind: 9, timestamp_ms: 0, stream_id: 1, payload: &payload };
            let chunks = message.chunks(64, Format::Full, Continuation::Repeats);
            if peer.send_bytes(&chunks[0]).is_err() {
                break;
            }
        }
        closed(&mut peer)?;
        wait_logged(server, "messages are open at once")
    });
}

#[test]
fn a_play_is_refused_and_a_second_publish_leaves_the_first_alone() {
    beside_a_healthy_stream("play", |address, server, tags| {
        let mut viewer = RawPublisher::open(address)?;
        viewer.shake_hands()?;
        viewer.connect("live")?;
        viewer.command(0, |w| w.string("createStream").number(2.0).null())?;
        viewer.command(1, |w| w.string("play").number(3.0).null().string("healthy"))?;
        let (code, description) = viewer.wait_status()?;
        ensure!(code == "NetStream.Play.Failed", "{code}");
        ensure!(
            description == "only publishing is served here; watch at the origin",
            "{description}"
        );
        closed(&mut viewer)?;

        let mut twice = RawPublisher::publish(address, "twice", CHUNK_SIZE)?;
        let (first, second) = tags.split_at(tags.len() / 2);
        twice.send_tags(first, 4, |tag| Some(tag.dts_ms))?;
        twice.send_publish("other")?;
        let (code, description) = twice.wait_status()?;
        ensure!(code == "NetStream.Publish.BadName", "{code}");
        ensure!(description == "this session already publishes", "{description}");
        twice.send_tags(second, 4, |tag| Some(tag.dts_ms))?;
        server.wait_status("all frames of the first publish", BOUND, |status| {
            let session = status.sessions.iter().find(|session| session.name == "twice")?;
            (session.frames_in == 120).then_some(())
        })?;
        twice.finish(BOUND)
    });
}

#[test]
fn a_flood_of_valid_media_is_ended_by_the_bitrate_s_limit() {
    beside_a_healthy_stream("flood", |address, server, tags| {
        let mut flood = RawPublisher::publish(address, "flood", CHUNK_SIZE)?;
        let began = clock::now();
        let mut offset_ms = 0;
        // As fast as loopback carries, for up to ten seconds.
        'flood: while clock::now().duration_since(began) < Duration::from_secs(10) {
            for tag in tags {
                if flood.send_tag(tag, tag.dts_ms + offset_ms).is_err() {
                    break 'flood;
                }
            }
            offset_ms += ROUND_MS;
        }
        wait_logged(server, "a limit was exceeded: the source sends more than 16000000 bits")?;
        // 16 Mb/s over the window of ten seconds, and what was on its way.
        let sent = flood.sent_bytes();
        ensure!(sent < 40_000_000, "{sent} bytes went in");
        Ok(())
    });
}

#[test]
fn the_configured_bitrate_is_the_limit_and_a_source_below_it_is_not_ended() {
    in_run_directory("bitrate", |run| {
        let mut scene = start(run, "[apps.live.limits]\nbitrate = \"500k\"")?;
        // The fixture has about 300 kb/s: over ten seconds twice its rate is too much.
        let mut steady = scene.publish("steady")?;
        let mut fast = scene.publish("fast")?;
        let tags = scene.source.tags.clone();
        let ended = AtomicBool::new(false);
        let rounds = std::thread::scope(|threads| {
            let sender = threads.spawn(|| send_rounds(&mut steady, &tags, &ended));
            let mut offset_ms = 0;
            let deadline = clock::now() + Duration::from_secs(30);
            while clock::now() < deadline {
                let sent = fast.send_tags(&tags, 3, |tag| Some(tag.dts_ms + offset_ms));
                if sent.is_err() {
                    break;
                }
                offset_ms += ROUND_MS;
            }
            ended.store(true, Ordering::Release);
            sender.join().expect("it does not panic")
        })?;
        wait_logged(&scene.server, "the source sends more than 500000 bits per second")?;
        ensure!(rounds > 1, "{rounds} rounds were no test of the window");
        scene.wait_received("steady", u64::from(rounds) * 120)?;
        steady.finish(BOUND)?;
        scene.settle()?;
        scene.server.stop()
    });
}
