//! FLV over HTTP and WebSocket end to end: whoever watches sees every picture, whatever becomes of
//! the stream's workers, and nobody who watches costs anybody anything.

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tasuki_shared::message::Haste;
use tasuki_tests::filler;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::flv::{Flv, Kind};
use tasuki_tests::flv_viewer::{self, FlvViewer, Over, check_whole};
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::in_run_directory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::raw_publisher::RawPublisher;
use tasuki_tests::server::Server;
use tasuki_tests::viewer::get;
use tasuki_tests::wait;
use tasuki_tests::watching::{self, DEAF_BOUND, Fault};

/// An urgent move, a scheduled one and a kill -9 under three viewers, of the source and of a rung, one
/// of them over a WebSocket. The check that passes them finds one missing picture, and one too many.
#[test]
fn moves_and_deaths_of_workers_cost_viewers_nothing() {
    in_run_directory("flv", |run| {
        let recipe = Recipe::small(20);
        let faults = [Fault::Move(Haste::Now), Fault::Move(Haste::Scheduled), Fault::Kill];
        let files = watching::run(run.path(), &recipe, &faults, 90)?;
        let (_, file) = files.iter().find(|(name, _)| *name == "72p").context("the rung")?;
        let whole = Flv::read(file)?;
        let at = whole.tags.iter().position(|tag| tag.kind == Kind::Video && tag.dts_ms > 9000);
        let at = at.context("a picture in the middle")?;
        let spoilt = run.path().join("spoilt.flv");
        let mut missing = whole.clone();
        missing.tags.remove(at);
        missing.write(&spoilt)?;
        ensure!(check_whole(&spoilt, &recipe).is_err(), "a missing picture was not found");
        let mut twice = whole;
        let mut again = twice.tags[at].clone();
        again.dts_ms += 1;
        twice.tags.insert(at + 1, again);
        twice.write(&spoilt)?;
        ensure!(check_whole(&spoilt, &recipe).is_err(), "a picture twice was not found");
        Ok(())
    });
}

/// One that reads nothing is closed in bounded time; publisher and other viewer do not notice.
#[test]
fn a_viewer_that_reads_nothing_is_closed_and_harms_nobody() {
    in_run_directory("flv-deaf", |run| {
        let recipe = Recipe::small(20);
        let mut server = Server::start(run.path(), &watching::setup(run.path()))?;
        let address = server.viewers()?;
        // What lies between is full after a moment.
        let mut sent = Flv::read(&recipe.file()?)?;
        filler::pad(&mut sent.tags, 12_000, recipe.seconds)?;
        let file = run.path().join("sent.flv");
        sent.write(&file)?;
        let mut publisher = RawPublisher::publish(server.address(), NAME, 65_536)?;
        let publishing = std::thread::spawn(move || {
            publisher.send_tags(&sent.tags, 1, |tag| Some(tag.dts_ms))?;
            publisher.finish(BOUND)
        });
        server.wait_live(NAME, BOUND)?;
        let source = format!("/live/live/{NAME}.flv");
        wait::until("the stream to be offered", BOUND, || {
            Ok(flv_viewer::is_offered(&address, &source)?.then_some(()))
        })?;
        let deaf = flv_viewer::deaf(&address, &source)?;
        let kept = run.path().join("kept.flv");
        let viewer = FlvViewer::start(&address, &source, Over::Http, kept)?;
        wait::until("the end of a viewer that reads nothing", DEAF_BOUND, || {
            Ok(server.log().contains("takes nothing is closed").then_some(()))
        })?;
        publishing.join().expect("no panic").context("the publisher was disconnected")?;
        let kept = viewer.finish(BOUND).with_context(|| server.log())?;
        let first = check_whole(&kept, &recipe)?;
        flv_viewer::check_untouched(&file, &kept, first)?;
        drop(deaf);
        server.stop()
    });
}

/// Its viewers are cut off when delivery dies, and find the stream again at once.
#[test]
fn a_new_delivery_process_knows_what_is_live() {
    in_run_directory("flv-delivery", |run| {
        let recipe = Recipe::small(10);
        let mut server = Server::start(run.path(), &watching::setup(run.path()))?;
        let address = server.viewers()?;
        let file = recipe.file()?;
        let mut publisher =
            publisher::ffmpeg(run.path(), "publisher", &file, &server.url(NAME), Pace::RealTime)?;
        watching::frames_out(&mut server, 60)?;
        let path = format!("/live/live/{NAME}/72p.flv");
        let cut = FlvViewer::start(&address, &path, Over::Http, run.path().join("cut.flv"))?;
        let status = server.status()?;
        let delivery = status.workers.iter().find(|worker| worker.role == "delivery");
        let pid = delivery.context("a delivery process")?.pid;
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        server.wait_status("its end", BOUND, |status| {
            status.workers.iter().all(|worker| worker.pid != pid).then_some(())
        })?;
        let again = FlvViewer::start(&address, &path, Over::Http, run.path().join("again.flv"))?;
        ensure!(cut.finish(BOUND).is_err(), "a body of a dead process came to its end");
        publisher.finish(BOUND).context("the publisher was disconnected")?;
        server.wait_no_sessions(BOUND)?;
        check_whole(&again.finish(BOUND)?, &recipe)?;
        let gone = get(&address, &path)?;
        ensure!(gone.status == 404, "HTTP {} after the end", gone.status);
        server.stop()
    });
}
