//! From connect(2) to `NetStream.Publish.Start`, with many publishers connected and new ones
//! coming, against nginx-rtmp in the same run.

use crate::fleet::Fleet;
use crate::measure::{ms, percentile};
use crate::rtmp::Publisher;
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, Kind, Tag};
use tasuki_tests::named;
use tasuki_tests::origin::{self, Origin, Record};
use tasuki_tests::place::RunDirectory;
use tasuki_tests::server::{Rung, Server, Setup};

/// New publishers come from so many threads, each in its turn.
const THREADS: u32 = 10;
/// One in so many audio messages is sent by those who are connected: they are not silent.
const THINNED: usize = 5;

#[derive(Clone, Copy)]
struct Task {
    connected: usize,
    rate: u32,
    seconds: u32,
}

pub fn run(arguments: &[String]) -> Result<()> {
    let task = Task {
        connected: usize::try_from(named::number(arguments, "connected", 200)?)?,
        rate: named::number(arguments, "rate", 100)?,
        seconds: named::number(arguments, "seconds", 10)?,
    };
    let rounds = named::number(arguments, "rounds", 3)?;
    let run = RunDirectory::new("connect")?;
    let tags = Arc::new(sound(task.seconds + 60)?);
    println!(
        "{} connected, {} new a second for {} s, {rounds} rounds",
        task.connected, task.rate, task.seconds
    );
    println!("round  server  connect to publish accepted, ms: p50      p99      worst");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let directory = run.join(&format!("round-{round}"));
        let mut tasuki = of_tasuki(&directory, task, &tags)?;
        let mut nginx = of_nginx(&directory, task, &tags)?;
        for (name, samples) in [("tasuki", &mut tasuki), ("nginx", &mut nginx)] {
            let at = [50, 99, 100].map(|percent| ms(percentile(samples, percent)));
            println!("{round:>5}  {name:<6} {:>37} {:>8} {:>10}", at[0], at[1], at[2]);
        }
        ours.append(&mut tasuki);
        theirs.append(&mut nginx);
    }
    let [ours50, ours99] = [50, 99].map(|percent| percentile(&mut ours, percent));
    let [theirs50, theirs99] = [50, 99].map(|percent| percentile(&mut theirs, percent));
    println!("nginx   p50 {} ms  p99 {} ms", ms(theirs50), ms(theirs99));
    println!("p50     {} ms  p99 {} ms (goal p50 ≤ 2 ms)", ms(ours50), ms(ours99));
    Ok(())
}

fn of_tasuki(directory: &Path, task: Task, tags: &Arc<Vec<Tag>>) -> Result<Vec<Duration>> {
    let setup = Setup {
        workers: Some(5),
        streams_per_worker: Some(64),
        rungs: Some(vec![Rung::Source]),
        worker_lines: "standby = 0\n".to_owned(),
        ..Setup::default()
    };
    let mut server = Server::start(directory, &setup)?;
    server.wait_status("five workers", Duration::from_secs(20), |status| {
        let serving =
            |w: &&tasuki_shared::status::WorkerStatus| w.role == "worker" && w.state == "serving";
        (status.workers.iter().filter(serving).count() == 5).then_some(())
    })?;
    let address = server.address().parse().context("the server's address")?;
    let samples = measure(address, task, tags)?;
    let refusals = server.status()?.refusals;
    ensure!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(samples)
}

fn of_nginx(directory: &Path, task: Task, tags: &Arc<Vec<Tag>>) -> Result<Vec<Duration>> {
    let settings = origin::Settings { record: Record::Off, push_to: Vec::new() };
    let server = Origin::start_with(directory, "nginx", &settings)?;
    measure(SocketAddr::from(([127, 0, 0, 1], server.port())), task, tags)
}

fn measure(address: SocketAddr, task: Task, tags: &Arc<Vec<Tag>>) -> Result<Vec<Duration>> {
    let fleet = Fleet::start(address, "held", task.connected, tags)?;
    let begin = clock::now() + Duration::from_millis(200);
    let step = Duration::from_secs(1) / task.rate;
    let newcomers = task.rate * task.seconds;
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            std::thread::spawn(move || -> Result<Vec<Duration>> {
                let mut samples = Vec::new();
                for number in (thread..newcomers).step_by(usize::try_from(THREADS)?) {
                    let due = begin + step * number;
                    clock::pause(due.saturating_duration_since(clock::now()));
                    let start = clock::now();
                    let publisher = Publisher::start(address, &format!("new{number}"))?;
                    samples.push(clock::now() - start);
                    drop(publisher);
                }
                Ok(samples)
            })
        })
        .collect();
    let mut samples = Vec::new();
    for thread in threads {
        let done = thread.join().map_err(|_| anyhow::anyhow!("a newcomer panicked"))?;
        samples.extend(done?);
    }
    ensure!(samples.len() == usize::try_from(newcomers)?, "{} newcomers", samples.len());
    fleet.must_run()?;
    fleet.finish()?;
    Ok(samples)
}

fn sound(seconds: u32) -> Result<Vec<Tag>> {
    let tags = Flv::read(&Recipe::small(seconds).file()?)?.tags;
    let header = |tag: &Tag| tag.kind == Kind::Audio && tag.is_header();
    let headers: Vec<Tag> = tags.iter().filter(|tag| header(tag)).cloned().collect();
    let coded = tags.into_iter().filter(|tag| tag.kind == Kind::Audio && !tag.is_header());
    Ok(headers.into_iter().chain(coded.step_by(THINNED)).collect())
}
