//! Viewers of LL-HLS: how long after its being there they have a part, what delivery costs, and what
//! nginx costs for the same files.
//!
//! Two runs: viewers of two small transcoded streams, and more of them of pass-through streams. The
//! streams are out of step with one another, as broadcasters are; all viewers of one ask at once. A run
//! in which the processors are busy beyond [`BUSY_MAX`] is void, for it measures the load generator.

use crate::crowd::{Crowd, Tally, Watched, hammer};
use crate::measure::{cpu_of, footprint_bytes};
use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_tests::child::{self, Child};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::passage::BOUND;
use tasuki_tests::place::RunDirectory;
use tasuki_tests::ports::free_port;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::viewer::{self, get};
use tasuki_tests::{named, wait};

/// Of all processors.
const BUSY_MAX: f64 = 0.9;
/// Of every stream, as the packager makes them.
const PART: Duration = Duration::from_millis(200);
const SETTLE: Duration = Duration::from_secs(12);
const HAMMER_CONNECTIONS: usize = 32;
const HAMMER_SECONDS: u64 = 5;
const PEER_ROUNDS: usize = 3;

struct Task {
    label: &'static str,
    streams: usize,
    viewers: usize,
    rungs: Vec<Rung>,
    seconds: u32,
}

pub fn run(arguments: &[String]) -> Result<()> {
    let few = usize::try_from(named::number(arguments, "few", 500)?)?;
    let many = usize::try_from(named::number(arguments, "many", 2000)?)?;
    let streams = usize::try_from(named::number(arguments, "streams", 8)?.max(1))?;
    let seconds = named::number(arguments, "seconds", 20)?;
    raise_fd_limit()?;
    let transcoded = vec![Rung::Source, Rung::encoded(72, 150)];
    let tasks = [
        Task { label: "transcoded", streams: 2, viewers: few, rungs: transcoded, seconds },
        Task { label: "pass-through", streams, viewers: many, rungs: vec![Rung::Source], seconds },
    ];
    println!(
        "run           viewers  parts/s  playlists/s  delay p50  p99 ms  Mb/s  delivery %  MiB  node %"
    );
    for task in &tasks {
        watch(task)?;
    }
    Ok(())
}

fn watch(task: &Task) -> Result<()> {
    let run = RunDirectory::new("viewers")?;
    // They all come from one address.
    let bounds = "connections_max = 16384\nconnections_per_address_max = 0\n";
    let tables = viewer::tables(run.path(), "1m") + bounds;
    let setup = Setup {
        workers: Some(1),
        rungs: Some(task.rungs.clone()),
        audio: Some("copy"),
        tables,
        ..Setup::default()
    };
    let mut server = Server::start(run.path(), &setup)?;
    let address = server.viewers()?;
    let settle = u32::try_from(SETTLE.as_secs())?;
    let rounds = u32::try_from(PEER_ROUNDS)?;
    let peer_seconds = rounds * 2 * (u32::try_from(HAMMER_SECONDS)? + 1);
    let recipe = Recipe::small(settle + task.seconds + peer_seconds + 20);
    let file = recipe.file()?;
    let mut publishers = Vec::new();
    for at in 0..task.streams {
        let name = format!("cam{at}");
        let url = server.url(&name);
        publishers.push(publisher::ffmpeg(run.path(), &name, &file, &url, Pace::RealTime)?);
        // Broadcasters are not in step: the streams' parts are spread over the time of a part.
        clock::pause(PART + PART / u32::try_from(task.streams)?);
    }
    let mut watched = Vec::new();
    for at in 0..task.streams {
        for rung in &task.rungs {
            let base = format!("/live/live/cam{at}/{}", rung.label());
            let directory = run.join("hls").join("live").join(format!("cam{at}"));
            watched.push(Watched { base, directory, label: rung.label().to_owned() });
        }
    }
    for it in &watched {
        wait::until(&format!("a playlist at {}", it.base), BOUND, || {
            Ok((get(&address, &format!("{}/index.m3u8", it.base))?.status == 200).then_some(()))
        })?;
    }
    let delivery = delivery_pid(&mut server)?;
    let mut crowd = Crowd::connect(&address, &watched, task.viewers)?;
    crowd.watch(clock::now() + SETTLE)?;
    let (busy_before, cpu_before) = (Busy::now()?, cpu_of(delivery)?);
    let window = Duration::from_secs(u64::from(task.seconds));
    let tally = crowd.watch(clock::now() + window)?;
    let cpu = cpu_of(delivery)?.saturating_sub(cpu_before);
    let busy = Busy::now()?.share_since(busy_before);
    let footprint = footprint_bytes(delivery).context("the footprint of delivery")?;
    drop(crowd);
    tell(task, &tally, window, cpu, footprint, busy);
    ensure!(tally.refused.is_empty(), "viewers were refused: {:?}", tally.refused);
    ensure!(tally.given_up == 0, "{} parts were given up by viewers", tally.given_up);
    against_nginx(&run, &address, &watched[0], delivery)?;
    for publisher in &mut publishers {
        publisher.must_run().context("a publisher was disconnected")?;
        publisher.kill()?;
    }
    server.wait_no_sessions(BOUND)?;
    server.stop()
}

fn delivery_pid(server: &mut Server) -> Result<i32> {
    let status = server.status()?;
    let delivery = status.workers.iter().find(|worker| worker.role == "delivery");
    Ok(delivery.context("a delivery process")?.pid)
}

fn tell(task: &Task, tally: &Tally, window: Duration, cpu: Duration, footprint: u64, busy: f64) {
    let seconds = window.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = |count: u64| count as f64 / seconds;
    let void = if busy > BUSY_MAX { "  VOID: the machine was too busy" } else { "" };
    println!(
        "{:<13} {:>7}  {:>7.0}  {:>11.0}  {:>9}  {:>6}  {:>4.0}  {:>10.0}  {:>3}  {:>6.0}{void}",
        task.label,
        task.viewers,
        rate(tally.parts),
        rate(tally.playlists),
        tally.delay_ms(50.0),
        tally.delay_ms(99.0),
        rate(tally.bytes) * 8.0 / 1e6,
        100.0 * cpu.as_secs_f64() / seconds,
        footprint >> 20,
        100.0 * busy
    );
}

/// The same parts from delivery and from nginx, one after the other, over and over.
fn against_nginx(
    run: &RunDirectory,
    address: &str,
    watched: &Watched,
    delivery: i32,
) -> Result<()> {
    let playlist = get(address, &format!("{}/index.m3u8", watched.base))?.text()?;
    let parts: Vec<&str> = playlist
        .lines()
        .filter(|line| line.starts_with("#EXT-X-PART:"))
        .filter_map(|line| line.split_once("URI=\"")?.1.split('"').next())
        .collect();
    let ours: Vec<String> = parts.iter().map(|uri| format!("{}/{uri}", watched.base)).collect();
    let files = parts.iter().filter_map(|uri| uri.strip_suffix(".m4s"));
    let theirs: Vec<String> =
        files.map(|numbers| format!("/{numbers}.{}.m4s", watched.label)).collect();
    let (mut nginx, nginx_address) = start_nginx(&run.join("nginx"), &watched.directory)?;
    let mut ratios = Vec::new();
    for _ in 0..PEER_ROUNDS {
        let mut costs = [0.0; 2];
        for (cost, (pid, address, paths)) in costs
            .iter_mut()
            .zip([(delivery, address, &ours), (nginx.pid(), &*nginx_address, &theirs)])
        {
            let before = cpu_of(pid)?;
            let until = clock::now() + Duration::from_secs(HAMMER_SECONDS);
            let (bytes, _) = hammer(address, paths, HAMMER_CONNECTIONS, until)?;
            let cpu = cpu_of(pid)?.saturating_sub(before);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let gigabits = bytes as f64 * 8.0 / 1e9;
            *cost = cpu.as_secs_f64() / gigabits;
        }
        ratios.push(costs[0] / costs[1]);
    }
    let ratio = crate::measure::Spread::of(ratios)?;
    println!("              CPU per Gbit/s over nginx's: {ratio} (goal ≤ 1.5)");
    nginx.kill()?;
    Ok(())
}

fn start_nginx(directory: &Path, root: &Path) -> Result<(Child, String)> {
    child::require("nginx")?;
    fs::create_dir_all(directory)?;
    let port = free_port()?;
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let (root, here) = (root.display(), directory.display());
    let text = format!(
        "{user}\ndaemon off;\nmaster_process off;\nworker_processes 1;\npid {here}/nginx.pid;\n\
         error_log {here}/error.log notice;\nevents {{ worker_connections 1024; }}\n\
         http {{ access_log off; sendfile on; tcp_nodelay on; keepalive_requests 100000000;\n\
         client_body_temp_path {here}/t1; proxy_temp_path {here}/t2; fastcgi_temp_path {here}/t3;\n\
         uwsgi_temp_path {here}/t4; scgi_temp_path {here}/t5;\n\
         server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
    );
    let config = directory.join("nginx.conf");
    fs::write(&config, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).arg("-c").arg(&config);
    command.arg("-e").arg(directory.join("error.log"));
    let mut nginx = Child::start("nginx", directory, &mut command)?;
    let address = format!("127.0.0.1:{port}");
    wait::until("nginx to answer", BOUND, || {
        nginx.must_run()?;
        Ok(std::net::TcpStream::connect(&address).ok().map(drop))
    })?;
    Ok((nginx, address))
}

/// Time of all processors since boot (proc(5), /proc/stat).
#[derive(Clone, Copy)]
struct Busy {
    busy: u64,
    all: u64,
}

impl Busy {
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("a line of all processors")?;
        let times: Vec<u64> =
            line.split_whitespace().skip(1).take(8).filter_map(|it| it.parse().ok()).collect();
        let all: u64 = times.iter().sum();
        let idle: u64 = times.iter().skip(3).take(2).sum();
        Ok(Self { busy: all - idle, all })
    }

    fn share_since(self, before: Self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let float = |value: u64| value as f64;
        float(self.busy - before.busy) / float((self.all - before.all).max(1))
    }
}

/// Two connections a viewer.
fn raise_fd_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}
