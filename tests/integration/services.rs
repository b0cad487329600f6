//! The processes without sessions, replaced under those who use them: delivery under viewers of HLS and
//! FLV, the console under who asks it, the dialer under pushes.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tasuki_shared::status::{Reply, Request, Status};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv_viewer::{FlvViewer, Over, check_whole};
use tasuki_tests::origin::Origin;
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Server, Setup};
use tasuki_tests::viewer::get;
use tasuki_tests::{wait, watching};

fn setup(run: &Path) -> Setup {
    let mut setup = watching::setup(run);
    setup.tables.push_str("drain_deadline = \"2m\"\n[console]\nlisten = [\"127.0.0.1:0\"]\n");
    setup
}

/// Process by role, of those that serve.
fn serving(status: &Status) -> BTreeMap<String, i32> {
    let serves = status.workers.iter().filter(|worker| worker.state == "serving");
    serves.map(|worker| (worker.role.clone(), worker.pid)).collect()
}

/// Asks the same over and over until it is told to stop; how often it was answered with 200.
fn ask_all_the_time(
    address: &str,
    path: &str,
    ending: &Arc<AtomicBool>,
) -> JoinHandle<Result<u64>> {
    let (address, path, ending) = (address.to_owned(), path.to_owned(), Arc::clone(ending));
    std::thread::spawn(move || {
        let mut answers = 0;
        while !ending.load(Ordering::Relaxed) {
            let answer = get(&address, &path).with_context(|| format!("request {answers}"))?;
            ensure!(answer.status == 200, "HTTP {} to request {answers}", answer.status);
            answers += 1;
        }
        Ok(answers)
    })
}

/// SIGHUP replaces every process but the supervisor. No request fails meanwhile, a viewer of FLV keeps
/// its connection to the old delivery process, which leaves with it, and the origin's connection stays.
#[test]
fn a_rotation_of_everything_costs_nobody_anything() {
    in_run_directory("services", |run| {
        let recipe = Recipe::small(25);
        let origin = Origin::start(&run.path().join("origin"))?;
        let setup = Setup { origin_port: Some(origin.port()), ..setup(run.path()) };
        let mut server = Server::start(run.path(), &setup)?;
        let viewers = server.viewers()?;
        let console = server.status()?.consoles.first().cloned().context("a console")?;
        let file = recipe.file()?;
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &server.url(NAME), Pace::RealTime)?;
        watching::frames_out(&mut server, 60)?;
        let source = format!("/live/live/{NAME}.flv");
        let kept = run.path().join("kept.flv");
        let viewer = FlvViewer::start(&viewers, &source, Over::Http, kept)?;
        let playlist = format!("/live/live/{NAME}/72p/index.m3u8");
        wait::until("a playlist", BOUND, || {
            Ok((get(&viewers, &playlist)?.status == 200).then_some(()))
        })?;
        let ending = Arc::default();
        let asking = ask_all_the_time(&viewers, &playlist, &ending);
        let checking = ask_all_the_time(&console, "/healthz", &ending);
        let before = serving(&server.status()?);
        let accepts = origin.accepts()?;
        ensure!(before.len() == 4, "{before:?}");
        server.signal(Signal::SIGHUP)?;
        server.wait_status("every process to be another", BOUND, |status| {
            let now = serving(status);
            let over = status.recycles.iter().all(|recycle| recycle.outcome == "done");
            let all = before.iter().all(|(role, pid)| now.get(role).is_some_and(|it| it != pid));
            (over && all).then_some(())
        })?;
        ending.store(true, Ordering::Relaxed);
        let join = |asking: JoinHandle<Result<u64>>| asking.join().expect("no panic");
        let answers = join(asking).context("a viewer of HLS")?;
        ensure!(answers > 10, "{answers} answers prove little");
        let answers = join(checking).context("the console")?;
        ensure!(answers > 10, "{answers} answers prove little");
        ensure!(origin.accepts()? == accepts, "a push was dialled again");
        let status = server.status()?;
        let old = status.workers.iter().find(|it| it.state == "draining");
        let old = old.context("the old delivery is gone although it has a viewer")?;
        ensure!(old.role == "delivery" && Some(&old.pid) == before.get("delivery"), "{old:?}");
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        check_whole(&viewer.finish(BOUND)?, &recipe)?;
        server.wait_status("the old delivery to leave with its last viewer", BOUND, |status| {
            status.workers.iter().all(|worker| worker.state != "draining").then_some(())
        })?;
        let status = server.status()?;
        ensure!(status.deaths.is_empty(), "{:?}", status.deaths);
        ensure!(get(&viewers, &playlist)?.status == 200, "the fresh one knows the stream");
        server.stop()
    });
}

/// Delivery and console are measured, purged and looked at like workers.
#[test]
fn their_memory_is_watched_and_can_be_looked_at() {
    in_run_directory("services-memory", |run| {
        let mut server = Server::start(run.path(), &setup(run.path()))?;
        for role in ["delivery", "console"] {
            let slot = server.wait_status("figures of its memory", BOUND, |status| {
                let worker = status.workers.iter().find(|worker| worker.role == role)?;
                let memory = worker.memory.as_ref()?;
                let known = memory.allocated_bytes > 0 && memory.soft_limit_bytes > 0;
                (known && memory.verdict == "fine").then(|| worker.slot.clone())
            })?;
            let reply = server.request(&Request::Heap { worker: slot.clone() })?;
            let Reply::Heap { profile, .. } = reply else { anyhow::bail!("{reply:?}") };
            ensure!(profile.len() > 100, "{role}: {profile}");
            let reply = server.request(&Request::Threads { worker: slot })?;
            let Reply::Threads { threads, .. } = reply else { anyhow::bail!("{reply:?}") };
            ensure!(!threads.is_empty(), "{role} has threads");
        }
        server.stop()
    });
}
