//! Who watches is told: in the status, in the metrics, while it watches and no longer; and one address
//! does not take the places of all.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::TcpStream;
use std::path::Path;
use tasuki_shared::status::{AudienceStatus, Status};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv_viewer::{FlvViewer, Over};
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Server, Setup};
use tasuki_tests::viewer::get;
use tasuki_tests::wait;
use tasuki_tests::watching;

const CONSOLE: &str = "[console]\nlisten = [\"127.0.0.1:0\"]\n";

/// `lines` are further ones of `[delivery]`.
fn setup(run: &Path, lines: &str) -> Setup {
    let setup = watching::setup(run);
    Setup { tables: format!("{}{lines}\n{CONSOLE}", setup.tables), ..setup }
}

/// Waits until the metrics have this line; a value may follow that only begins so.
fn wait_metric(console: &str, line: &str) -> Result<()> {
    wait::until(line, BOUND, || {
        let text = get(console, "/metrics")?.text()?;
        Ok(text.lines().any(|it| it.starts_with(line)).then_some(()))
    })
}

fn flv_viewers(status: &Status) -> (u32, u32) {
    let session = status.sessions.iter().find(|session| session.name == NAME);
    (status.audience.flv_viewers, session.map_or(0, |session| session.flv_viewers))
}

fn wait_viewers(server: &mut Server, expected: (u32, u32)) -> Result<AudienceStatus> {
    server.wait_status(&format!("{expected:?} viewers of FLV"), BOUND, |status| {
        (flv_viewers(status) == expected).then(|| status.audience.clone())
    })
}

/// Viewers over HTTP and over a WebSocket are counted with their stream; when delivery dies its viewers
/// are gone and what it had counted is not.
#[test]
fn who_watches_is_told_while_it_watches() {
    in_run_directory("audience", |run| {
        let recipe = Recipe::small(25);
        let mut server = Server::start(run.path(), &setup(run.path(), ""))?;
        let status = server.status()?;
        ensure!(status.viewers.iter().all(|it| it.starts_with("http://127.0.0.1:")), "{status:?}");
        let console = status.consoles.first().cloned().context("a console")?;
        let address = server.viewers()?;
        let file = recipe.file()?;
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &server.url(NAME), Pace::RealTime)?;
        watching::frames_out(&mut server, 60)?;
        let (source, rung) =
            (format!("/live/live/{NAME}.flv"), format!("/live/live/{NAME}/72p.flv"));
        let one = FlvViewer::start(&address, &source, Over::Http, run.join("one.flv"))?;
        let other = FlvViewer::start(&address, &rung, Over::WebSocket, run.join("other.flv"))?;
        let before = wait_viewers(&mut server, (2, 2))?;
        ensure!(before.connections >= 2, "{before:?}");
        ensure!(before.answers["1xx"] == 1 && before.answers["2xx"] >= 1, "{before:?}");
        wait_metric(
            &console,
            &format!("tasuki_stream_flv_viewers{{app=\"live\",name=\"{NAME}\"}} 2"),
        )?;
        wait_metric(&console, "tasuki_delivery_flv_viewers 2")?;
        wait_metric(&console, "tasuki_delivery_requests_total{code_class=\"1xx\"} 1")?;

        let status = server.status()?;
        let delivery = status.workers.iter().find(|worker| worker.role == "delivery");
        kill(Pid::from_raw(delivery.context("a delivery process")?.pid), Signal::SIGKILL)?;
        let after = wait_viewers(&mut server, (0, 0))?;
        ensure!(one.finish(BOUND).is_err(), "a body of a dead process came to its end");
        let _cut = other.finish(BOUND);
        ensure!(after.sent_bytes >= before.sent_bytes && before.sent_bytes > 0, "{after:?}");
        ensure!(after.answers["1xx"] == 1, "{after:?}");

        let again = FlvViewer::start(&address, &source, Over::Http, run.join("again.flv"))?;
        wait_viewers(&mut server, (1, 1))?;
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        let got = again.finish(BOUND)?.metadata()?.len();
        let end = server.wait_status("the end of all connections", BOUND, |status| {
            let audience = &status.audience;
            let is_told = audience.sent_bytes >= after.sent_bytes + got;
            (audience.connections == 0 && is_told).then(|| status.clone())
        })?;
        ensure!(flv_viewers(&end) == (0, 0), "{:?}", end.audience);
        wait_metric(&console, "tasuki_delivery_connections 0")?;
        server.stop()
    });
}

/// A host that opens many connections has its share, which the counter, the metrics and the log tell;
/// a place that is free again is given.
#[test]
fn one_address_has_its_share_of_connections() {
    in_run_directory("audience-share", |run| {
        let lines = "connections_per_address_max = 2";
        let mut server = Server::start(run.path(), &setup(run.path(), lines))?;
        let console = server.status()?.consoles.first().cloned().context("a console")?;
        let address = server.viewers()?;
        let mut held = vec![TcpStream::connect(&address)?, TcpStream::connect(&address)?];
        server.wait_status("two connections", BOUND, |status| {
            (status.audience.connections == 2).then_some(())
        })?;
        ensure!(get(&address, "/").is_err(), "a third connection was answered");
        server.wait_status("a refusal", BOUND, |status| {
            (status.audience.refused["connections_per_address_max"] == 1).then_some(())
        })?;
        let family = "tasuki_delivery_refused_total";
        wait_metric(&console, &format!("{family}{{setting=\"connections_per_address_max\"}} 1"))?;
        wait_metric(&console, &format!("{family}{{setting=\"connections_max\"}} 0"))?;
        let log = server.log();
        ensure!(log.contains("see delivery.connections_per_address_max"), "{log}");
        held.pop();
        let answered = wait::until("a place", BOUND, || Ok(get(&address, "/").ok()))?;
        ensure!(answered.status == 404, "HTTP {}", answered.status);
        drop(held);
        server.stop()
    });
}
