//! Failpoints are for builds that have them, and every other build says so.

use anyhow::{Result, ensure};
use std::process::{Command, Stdio};
use std::time::Duration;
use tasuki_shared::exit::Exit;
use tasuki_shared::failpoint::{BUILD, Board, Build, Point, VARIABLE};
use tasuki_tests::child::Child;
use tasuki_tests::place::{self, RunDirectory, in_run_directory};
use tasuki_tests::server::{Server, Setup};

const BOUND: Duration = Duration::from_secs(20);

/// A normal build does not serve while a board is named, and says why; one with failpoints serves,
/// says what it is, and passes them.
#[test]
fn a_normal_build_refuses_a_board_and_one_with_failpoints_is_loud_about_it() {
    in_run_directory("failpoints", |run| match BUILD {
        Build::Normal => refuses(run),
        Build::WithFailpoints => passes(run),
    });
}

fn refuses(run: &RunDirectory) -> Result<()> {
    let path = run.join("board");
    let _board = Board::create(&path)?;
    let mut command = Command::new(place::binary("tasuki")?);
    command.arg("serve").env(VARIABLE, &path).current_dir(run.path());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Child::start("refused", run.path(), &mut command)?;
    let status = process.wait(BOUND)?;
    let log = process.log();
    ensure!(status.code() == Some(i32::from(Exit::Usage.code())), "{status}: {log}");
    ensure!(log.contains("failpoints are not compiled into this build"), "{log}");
    Ok(())
}

fn passes(run: &RunDirectory) -> Result<()> {
    let path = run.join("board");
    let board = Board::create(&path)?;
    let server = Server::start(run.path(), &Setup { failpoints: Some(path), ..Setup::default() })?;
    // The harness has looked whether it listens, with a status request and no publisher.
    ensure!(server.log().contains("this build has failpoints"), "{}", server.log());
    let connection = std::net::TcpStream::connect(server.address())?;
    let adopted = || Ok((board.passed(Point::AdoptLoaded) > 0).then_some(()));
    tasuki_tests::wait::until("a passed failpoint", BOUND, adopted)?;
    drop(connection);
    server.stop()
}
