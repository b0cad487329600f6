//! Memory as the server sees it: workers that leak on purpose, and who may order that.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::place::RunDirectory;
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{self, Rung, Server, Setup};

const BOUND: Duration = Duration::from_secs(60);

/// A worker that leaks is seen growing, purged and told apart by its verdict.
#[test]
fn a_leaking_worker_is_measured_and_judged() -> Result<()> {
    let run = RunDirectory::new("memory-leak")?;
    let setup = Setup {
        workers: Some(1),
        rungs: Some(vec![Rung::Source]),
        tables: "[memory]\nsoft = \"100MiB\"\nrecycle = \"off\"\nmin_life = \"1s\"\n\
                 [chaos]\nleak = \"600MiB\"\n"
            .to_owned(),
        arguments: vec!["--allow-chaos"],
        ..Setup::default()
    };
    let mut server = Server::start(run.path(), &setup)?;
    let source = Recipe::small(60).file()?;
    let url = server.url("a");
    let publisher = publisher::ffmpeg(run.path(), "a", &source, &url, Pace::RealTime)?;
    let memory = server.wait_status("a verdict", BOUND, |status| {
        let worker = status.workers.iter().find(|worker| worker.sessions == 1)?;
        let memory = worker.memory.clone()?;
        (memory.verdict == "held back: recycling is off").then_some(memory)
    })?;
    ensure!(memory.soft_limit_bytes == 100 << 20, "{memory:?}");
    ensure!(memory.allocated_bytes >= 80 << 20, "the leak is in no figure: {memory:?}");
    ensure!(memory.threads > 2 && memory.fds > 3, "{memory:?}");
    drop(publisher);
    server.wait_no_sessions(BOUND)?;
    server.stop()
}

/// Nobody leaks by a configuration alone.
#[test]
fn a_configuration_that_leaks_is_refused_unless_allowed() -> Result<()> {
    let run = RunDirectory::new("memory-refused")?;
    let (code, said) = server::refused(run.path(), "[chaos]\nleak = \"1MiB\"\n")?;
    let code = code.context("an exit code")?;
    ensure!(code == 78 && said.contains("--allow-chaos"), "{code}: {said}");
    Ok(())
}
