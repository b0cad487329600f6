//! kill -9 of a worker under a live stream: the publisher's connection goes on in another worker,
//! and so do those to the origins: every frame is there once.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tasuki_shared::status::{Status, WorkerStatus};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, check_dts_rising};
use tasuki_tests::frames;
use tasuki_tests::origin::Origin;
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::raw_publisher::RawPublisher;
use tasuki_tests::scene::CHUNK_SIZE;
use tasuki_tests::seams::{self, Fault};
use tasuki_tests::server::{Rung, Server, Setup};

/// The worker that has the stream, once `frames` of it are through.
fn worker_of(status: &Status, name: &str, frames: u64) -> Option<(i32, String)> {
    let session = status.sessions.iter().find(|s| s.name == name && s.frames_out >= frames)?;
    let slot = session.worker.split('/').next()?;
    let worker = status.workers.iter().find(|w| w.slot == slot && w.sessions > 0)?;
    Some((worker.pid, session.worker.clone()))
}

const DEATHS: usize = 3;
/// Of the stream: a decoder and an encoder.
const CODECS: u32 = 2;
/// As many as drop a stream that stands at the same place in them.
const FAULTS: u32 = tasuki_shared::limits::STRIKES_TO_DROP;

/// Every frame once and in order; and neither a loss nor a repetition would pass.
fn check_numbers(numbers: &[Option<u32>], recipe: &Recipe) -> Result<()> {
    let check = |numbers: Vec<_>| seams::check(&[numbers], recipe.frames(), recipe.b_frames);
    let lost = check(numbers.to_vec())?;
    ensure!(lost.is_empty(), "lost: {lost:?}");
    let middle = numbers.len() / 2;
    let mut holed = numbers.to_vec();
    holed.remove(middle);
    ensure!(matches!(check(holed), Err(Fault::Hole { .. })), "a loss was not seen");
    let mut repeating = numbers.to_vec();
    repeating.insert(middle, numbers[middle]);
    ensure!(check(repeating).is_err(), "no repetition was seen");
    Ok(())
}

/// The worker has a thread with a table of fds that holds the end of one pipe alone.
fn check_knell(pid: i32) -> Result<()> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.trim() != "knell" {
            continue;
        }
        let fds = std::fs::read_dir(task.join("fd"))?.collect::<std::io::Result<Vec<_>>>()?;
        let [fd] = fds.as_slice() else { bail!("its knell has {} fds", fds.len()) };
        let file = std::fs::read_link(fd.path())?;
        ensure!(file.to_string_lossy().starts_with("pipe:"), "its knell is {}", file.display());
        return Ok(());
    }
    bail!("it has no knell")
}

/// Next to the worker that is killed another one stands by, with codecs for the stream.
#[test]
fn a_stream_goes_on_in_another_worker_and_repeats_nothing() {
    in_run_directory("death", |run| {
        let recipe = Recipe { b_frames: 2, ..Recipe::small(24) };
        let origin = Origin::start(run.path())?;
        let setup = Setup {
            rungs: Some(vec![Rung::Source, Rung::encoded(72, 200)]),
            audio: Some("aac"),
            origin_port: Some(origin.port()),
            ..Setup::default()
        };
        let mut server = Server::start(run.path(), &setup)?;
        let url = server.url(NAME);
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &recipe.file()?, &url, Pace::RealTime)?;
        let mut owners = Vec::new();
        for _ in 0..DEATHS {
            // Its own frames, not those of the worker before: counts begin anew with each owner.
            let (pid, owner) = server.wait_status("frames in a worker", BOUND, |status| {
                worker_of(status, NAME, 60).filter(|(_, owner)| !owners.contains(owner))
            })?;
            let is_ready =
                |worker: &WorkerStatus| worker.state == "standby" && worker.spare_codecs == CODECS;
            server.wait_status("a standby with the stream's codecs", BOUND, |status| {
                status.workers.iter().any(is_ready).then_some(())
            })?;
            check_knell(pid)?;
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            owners.push(owner);
        }
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        origin.wait_idle(BOUND)?;
        for label in ["source", "72p"] {
            let recordings = origin.recordings(&format!("{NAME}_{label}"))?;
            ensure!(recordings.len() == 1, "{label} was dialled anew: {recordings:?}");
            for recording in &recordings {
                check_dts_rising(&Flv::read(recording)?).context(label)?;
                let decoded = frames::decode(recording)?;
                ensure!(decoded.errors.is_empty(), "{label}: {:?}", decoded.errors);
                check_numbers(&decoded.numbers(), &recipe).context(label)?;
            }
        }
        checked_stop(server)
    });
}

/// A worker that dies of a fault while it has packets of a stream inside its codecs makes that
/// stream a suspect, and nobody who only waits there. A stream that has moved on by the next fault
/// is none of it: only who stands at the same place again is isolated, and dropped in the end
/// (`poison.rs`).
#[test]
fn faults_that_find_a_stream_elsewhere_each_time_are_not_its_own() {
    in_run_directory("blame", |run| {
        // With B-frames there are always pictures inside.
        let recipe = Recipe { b_frames: 2, ..Recipe::small(16) };
        let setup = Setup {
            workers: Some(1),
            rungs: Some(vec![Rung::Source, Rung::encoded(72, 200)]),
            ..Setup::default()
        };
        let mut server = Server::start(run.path(), &setup)?;
        let mut bystander = RawPublisher::publish(server.address(), "bystander", CHUNK_SIZE)?;
        let file = recipe.file()?;
        let url = server.url("suspect");
        let mut suspect = publisher::ffmpeg(run.path(), "suspect", &file, &url, Pace::RealTime)?;
        let mut owners = Vec::new();
        let mut given = 0;
        for _ in 0..FAULTS {
            // Each owner must have gone on by a second, or the stream would stand where it stood.
            let (pid, owner, frames) =
                server.wait_status("frames in a worker", BOUND, |status| {
                    let of = |name: &str| status.sessions.iter().find(|s| s.name == name);
                    let (bystander, suspect) = (of("bystander")?, of("suspect")?);
                    let (pid, owner) = worker_of(status, "suspect", given + 30)?;
                    let is_next = owner == bystander.worker && !owners.contains(&owner);
                    is_next.then_some((pid, owner, suspect.frames_out))
                })?;
            given = frames;
            // Not SIGSEGV: the standard library takes the first one that no access has caused.
            kill(Pid::from_raw(pid), Signal::SIGILL)?;
            let death = server.wait_status("the death", BOUND, |status| {
                status.deaths.iter().find(|death| death.worker == owner).cloned()
            })?;
            ensure!(death.cause == "fault signal 4", "{death:?}");
            for session in &death.sessions {
                let suspected = session.suspicion == "at work when its worker died";
                ensure!(suspected == (session.name == "suspect"), "{death:?}");
            }
            owners.push(owner);
        }
        suspect.finish(BOUND).context("the suspect was disconnected")?;
        let tags = Flv::read(&file)?.tags;
        bystander.send_tags(&tags[..120], 1, |tag| Some(tag.dts_ms))?;
        server.wait_status("the bystander to be encoded", BOUND, |status| {
            worker_of(status, "bystander", 30)
        })?;
        bystander.finish(BOUND)?;
        server.wait_no_sessions(BOUND)?;
        server.stop()
    });
}

fn checked_stop(server: Server) -> Result<()> {
    ensure!(!server.log().contains("panic"), "a worker panicked:\n{}", server.log());
    server.stop()
}
