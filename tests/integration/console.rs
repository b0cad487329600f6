//! The console end to end: what it says is what the status socket says, what it is asked for is done,
//! and neither its death nor that of delivery harms a worker.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use tasuki_shared::status::WorkerStatus;
use tasuki_tests::child::{self, Child};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::ports::free_port;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::viewer::{Asked, Response, ask, get};
use tasuki_tests::wait;

fn setup(console: &str) -> Setup {
    Setup {
        workers: Some(2),
        rungs: Some(vec![Rung::Source, Rung::encoded(72, 150)]),
        audio: Some("aac"),
        tables: format!("[console]\nlisten = [\"127.0.0.1:0\"]\n{console}"),
        ..Setup::default()
    }
}

fn console(server: &mut Server) -> Result<String> {
    server.status()?.consoles.first().cloned().context("an address of the console")
}

fn post(address: &str, request: &str) -> Result<Response> {
    let headers = [("Content-Type", "application/json")];
    ask(address, &Asked { method: "POST", path: "/api/request", headers: &headers, body: request })
}

fn live_on(server: &mut Server) -> Result<String> {
    server.wait_status("a stream with frames", BOUND, |status| {
        let session = status.sessions.iter().find(|it| it.name == NAME && it.frames_out > 30)?;
        Some(session.id.clone())
    })
}

/// Metrics that Prometheus's own tool finds nothing to say about.
fn check_metrics(text: &str) -> Result<()> {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = match command.spawn() {
        Ok(tool) => tool,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("without promtool (package prometheus) this proves nothing about names");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let mut input = tool.stdin.take().context("its input")?;
    std::io::Write::write_all(&mut input, text.as_bytes())?;
    drop(input);
    let output = tool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{said}\n{text}");
    Ok(())
}

#[test]
fn what_it_says_is_so_and_what_it_is_asked_for_is_done() {
    in_run_directory("console", |run| {
        let recipe = Recipe::small(14);
        let mut server = Server::start(run.path(), &setup("agent_check = [\"127.0.0.1:0\"]"))?;
        let address = console(&mut server)?;
        let file = recipe.file()?;
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &server.url(NAME), Pace::RealTime)?;
        let session = live_on(&mut server)?;
        ensure!(get(&address, "/healthz")?.text()? == "ok\n", "healthz");
        ensure!(get(&address, "/readyz")?.text()? == "ready\n", "readyz");
        let free: Value = serde_json::from_str(&get(&address, "/availability")?.text()?)?;
        ensure!(free["ready"] == true && free["streams_live"] == 1, "{free}");
        let status: Value = serde_json::from_str(&get(&address, "/api/status")?.text()?)?;
        ensure!(status["sessions"][0]["id"] == session.as_str(), "{status}");

        let moved = post(
            &address,
            &format!(r#"{{"request":"move","session":"{session}","haste":"now"}}"#),
        )?;
        let moved: Value = serde_json::from_str(moved.text()?.trim())?;
        ensure!(moved["outcome"] == "done", "{moved}");
        let rotated =
            post(&address, r#"{"request":"rotate","worker":null,"reason":"operator"}"#)?.text()?;
        let last = rotated.lines().last().unwrap_or_default();
        ensure!(last == r#"{"reply":"done"}"#, "{rotated}");
        // Two that serve and one that stands by, the dialer, and the console that is asked.
        ensure!(rotated.lines().count() == 6, "one line for each process:\n{rotated}");

        let metrics = wait::until("the moves to be counted", BOUND, || {
            let text = get(&address, "/metrics")?.text()?;
            Ok(text.contains("tasuki_recycles_total{reason=\"operator\"} 5").then_some(text))
        })?;
        check_metrics(&metrics)?;
        for line in
            ["tasuki_stream_encoded_frames_total{app=\"live\"", "tasuki_move_pause_seconds_sum"]
        {
            ensure!(metrics.contains(line), "{line} is not in\n{metrics}");
        }
        let worker = server.status()?.sessions[0].worker.clone();
        let slot = worker.split('/').next().unwrap_or_default();
        for kind in ["heap", "threads"] {
            let profile = get(&address, &format!("/debug/pprof/{kind}?worker={slot}"))?;
            ensure!(profile.status == 200 && profile.body.starts_with(&[0x1f, 0x8b]), "{kind}");
        }
        let history: Value = serde_json::from_str(&get(&address, "/api/history")?.text()?)?;
        ensure!(history["workers"][0]["samples"][0]["rss_bytes"].as_u64() > Some(0), "{history}");
        let picture = format!("/thumb/live/{NAME}.jpg");
        let thumbnail = wait::until("a thumbnail", BOUND, || {
            let thumbnail = get(&address, &picture)?;
            Ok((thumbnail.status == 200).then_some(thumbnail))
        })?;
        ensure!(thumbnail.body.starts_with(&[0xff, 0xd8, 0xff]), "no JPEG");
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        wait::until("its thumbnail to be gone", BOUND, || {
            Ok((get(&address, &picture)?.status == 404).then_some(()))
        })?;
        server.stop()
    });
}

/// HAProxy's agent check gets a line and the end of the connection.
#[test]
fn an_agent_check_is_told_the_weight() {
    in_run_directory("console-agent", |run| {
        let mut server = Server::start(run.path(), &setup("agent_check = [\"127.0.0.1:0\"]"))?;
        let address = server.logged_address("agent check", BOUND)?;
        server.wait_status("two workers that serve", BOUND, |status| {
            let serving = |it: &&WorkerStatus| it.role == "worker" && it.state == "serving";
            (status.workers.iter().filter(serving).count() == 2).then_some(())
        })?;
        // The console may have asked a moment before: its answer serves for half a second.
        let said = wait::until("a node that is ready", BOUND, || {
            let mut said = String::new();
            TcpStream::connect(&address)?.read_to_string(&mut said)?;
            Ok((said != "drain up #no worker serves yet\n").then_some(said))
        })?;
        ensure!(said == "ready up 100%\n", "{said:?}");
        server.stop()
    });
}

/// Everything but a yes or no needs the token, where there is one; without, a name that is not this
/// machine's is not answered.
#[test]
fn who_may_not_ask_is_told_so() {
    in_run_directory("console-token", |run| {
        let token = "a-token-of-some-length";
        let file = run.join("token");
        std::fs::write(&file, format!("{token}\n"))?;
        let line = format!("token_file = {:?}", file.display().to_string());
        let mut server = Server::start(run.path(), &setup(&line))?;
        let address = console(&mut server)?;
        ensure!(get(&address, "/healthz")?.status == 200, "healthz");
        let bearer = format!("Bearer {token}");
        for (path, with, wanted) in [
            ("/api/status", None, 401),
            ("/metrics", Some("Bearer wrong-token-of-length"), 401),
            ("/metrics", Some(bearer.as_str()), 200),
        ] {
            let headers: Vec<(&str, &str)> =
                with.map(|it| ("Authorization", it)).into_iter().collect();
            let asked = Asked { method: "GET", path, headers: &headers, body: "" };
            let status = ask(&address, &asked)?.status;
            ensure!(status == wanted, "{path} with {with:?}: {status}, not {wanted}");
        }
        server.stop()?;
        let mut open = Server::start(&run.join("open"), &setup(""))?;
        let address = console(&mut open)?;
        let headers = [("Host", "rebound.example")];
        let asked = Asked { method: "GET", path: "/api/status", headers: &headers, body: "" };
        ensure!(ask(&address, &asked)?.status == 403, "a foreign name was answered");
        open.stop()
    });
}

/// Its listener stays, and nothing else notices.
#[test]
fn a_death_of_the_console_harms_nobody() {
    in_run_directory("console-death", |run| {
        let recipe = Recipe::small(8);
        let mut server = Server::start(run.path(), &setup(""))?;
        let address = console(&mut server)?;
        let file = recipe.file()?;
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &server.url(NAME), Pace::RealTime)?;
        live_on(&mut server)?;
        let workers = |status: &tasuki_shared::status::Status| -> Vec<i32> {
            status.workers.iter().filter(|it| it.role == "worker").map(|it| it.pid).collect()
        };
        let before = server.status()?;
        for _ in 0..3 {
            let status = server.wait_status("a console", BOUND, |status| {
                let console = status.workers.iter().find(|it| it.role == "console")?;
                (console.state == "serving").then_some(console.pid)
            })?;
            kill(Pid::from_raw(status), Signal::SIGKILL)?;
            ensure!(get(&address, "/healthz")?.text()? == "ok\n", "healthz after a death");
        }
        ensure!(workers(&server.status()?) == workers(&before), "a worker was replaced");
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        server.stop()
    });
}

/// A real Prometheus scrapes it, with the token, by the configuration that is in the manual, and its
/// rules are accepted.
#[test]
fn prometheus_scrapes_it_and_takes_the_rules() {
    in_run_directory("console-prometheus", |run| {
        if !child::installed("prometheus") {
            eprintln!("without prometheus (a package) this proves nothing about scraping");
            return Ok(());
        }
        let token = run.join("token");
        std::fs::write(&token, "a-token-of-some-length\n")?;
        let line = format!("token_file = {:?}", token.display().to_string());
        let mut server = Server::start(run.path(), &setup(&line))?;
        let address = console(&mut server)?;
        let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring");
        std::fs::copy(manual.join("alerts.yml"), run.join("alerts.yml"))?;
        let text = std::fs::read_to_string(manual.join("prometheus.yml"))?
            .replace("127.0.0.1:8936", &address)
            .replace("scrape_interval: 10s", "scrape_interval: 1s")
            .replace("# authorization:", "authorization:")
            .replace("/etc/prometheus/tasuki-token", &token.display().to_string());
        let config = run.join("prometheus.yml");
        std::fs::write(&config, text)?;
        let port = free_port()?;
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", run.join("tsdb").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let mut prometheus = Child::start("prometheus", run.path(), &mut command)?;
        let at = format!("127.0.0.1:{port}");
        let query = |what: &str| -> Result<Option<Value>> {
            // Not there yet, or still starting.
            let Ok(answer) = get(&at, &format!("/api/v1/query?query={what}")) else {
                return Ok(None);
            };
            Ok(serde_json::from_slice(&answer.body).ok())
        };
        wait::until("a scrape", BOUND, || {
            prometheus.must_run()?;
            let found = query("tasuki_build_info")?;
            Ok(found.filter(|it| it["data"]["result"][0]["value"][1] == "1"))
        })?;
        let up = query("up")?.context("an answer")?;
        ensure!(up["data"]["result"][0]["value"][1] == "1", "{up}");
        let rules = get(&at, "/api/v1/rules")?.text()?;
        ensure!(rules.contains("TasukiFramesLost"), "{rules}");
        prometheus.kill()?;
        server.stop()
    });
}
