//! A leak from its beginning to its end: found, looked at, and gone, under a live stream.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tasuki_tests::ledger::{self, Ledger};
use tasuki_tests::lives::{Lives, Mix};
use tasuki_tests::origin::Origin;
use tasuki_tests::place::{self, in_run_directory};
use tasuki_tests::server::{Server, Setup};

const BOUND: Duration = Duration::from_secs(40);
/// Long enough for a worker to leak, and for its stream to move.
const STREAM_S: u32 = 40;
const STATE: &str = "state";
/// What a worker leaks from.
const CULPRIT: &str = "tasuki_worker::chaos";

/// Workers that leak, and leave above `soft` if `recycle` says so.
fn setup(run: &Path, mix: Mix, origin: &Origin, memory: &str) -> Setup {
    let mut setup = mix.setup(origin);
    setup.tables.push_str(&format!(
        "[memory]\n{memory}\nsamples = 1\nmin_life = \"1s\"\n[chaos]\nleak = \"240MiB\"\n"
    ));
    Setup {
        workers: Some(1),
        arguments: vec!["--allow-chaos"],
        wrapper: vec!["env".to_owned(), format!("STATE_DIRECTORY={}", run.join(STATE).display())],
        ..setup
    }
}

/// The policy recycles a leaking worker under a live stream that loses nothing; before it goes, its
/// heap profile with the function that leaks, allocator figures, memory map and threads are saved,
/// and the status says where. The same leak far below its limit recycles nobody and saves nothing.
#[test]
fn a_leaking_worker_is_looked_at_and_recycled_and_its_stream_loses_nothing() {
    in_run_directory("leak-recycle", |run| {
        let mix = Mix { encoded: 1, passed: 0 };
        let origin = Origin::start(run.path())?;
        mix.make_sources(STREAM_S)?;
        let near = setup(run.path(), mix, &origin, "soft = \"90MiB\"\nhard = \"1GiB\"");
        let mut server = Server::start(run.path(), &near)?;
        let (far_run, far_origin) =
            (run.join("far"), Origin::start_with(run.path(), "far-origin", &Default::default())?);
        fs::create_dir_all(&far_run)?;
        let far = setup(&far_run, mix, &far_origin, "soft = \"10GiB\"\nhard = \"11GiB\"");
        let mut unhurried = Server::start(&far_run, &far)?;

        let lives = Lives::publish(run.path(), "cam", mix, STREAM_S, (&mut server, &origin))?;
        let mut ledger = Ledger::default();
        let recycle = server.wait_status("a recycle for memory", BOUND, |status| {
            ledger.note(status);
            let mut over = ledger.all().filter(|recycle| ledger::is_over(recycle));
            over.find(|recycle| !recycle.moves.is_empty()).cloned()
        })?;
        lives.must_be_live(&server.status()?).context("the stream is too short")?;
        ledger.check(0)?;
        ensure!(recycle.reason == "memory_soft", "{recycle:?}");
        ensure!(recycle.footprint_after_bytes < recycle.footprint_before_bytes, "{recycle:?}");
        let evidence = recycle.evidence.as_deref().context("no evidence")?;
        check_evidence(run.path(), Path::new(evidence))?;
        ensure!(told_by_command(&server)?.contains(evidence), "the command does not tell of it");
        lives.finish((&mut server, &origin))?;

        let status = unhurried.status()?;
        let leaks = status.workers.iter().any(|worker| worker.footprint_bytes > 90 << 20);
        ensure!(leaks, "it does not leak: {:?}", status.workers);
        ensure!(status.recycles.is_empty(), "recycled far below its limit: {:?}", status.recycles);
        ensure!(!far_run.join(STATE).join("evidence").exists(), "evidence of nothing");
        unhurried.stop()?;
        server.stop()
    });
}

fn check_evidence(run: &Path, set: &Path) -> Result<()> {
    ensure!(set.starts_with(run.join(STATE)), "{} is elsewhere", set.display());
    let read = |name: &str| fs::read(set.join(name)).with_context(|| name.to_owned());
    let unpacked = Command::new("gzip").arg("-dc").arg(set.join("heap.pb.gz")).output()?;
    ensure!(unpacked.status.success(), "the heap profile is not gzip");
    let names_it = String::from_utf8_lossy(&unpacked.stdout).contains(CULPRIT);
    ensure!(names_it, "the heap profile does not name {CULPRIT}");
    ensure!(!read("allocator.txt")?.is_empty(), "no allocator figures");
    ensure!(String::from_utf8(read("smaps.txt")?)?.contains("LazyFree:"), "no memory map");
    let threads = String::from_utf8(read("threads.json")?)?;
    ensure!(threads.contains("\"io\"") && threads.contains("\"chaos\""), "{threads}");
    Ok(())
}

/// What `tasuki status` prints.
fn told_by_command(server: &Server) -> Result<String> {
    let mut command = Command::new(place::binary("tasuki")?);
    let output = command.arg("status").arg("--socket").arg(server.socket()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
