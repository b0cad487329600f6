//! `tasuki top` against a real server, on a real pseudo-terminal: it shows the live stream, says
//! when the server has gone, finds the next one, and gives the terminal back.

use anyhow::{Context, Result, ensure};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::{Termios, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use tasuki_tests::child::Child;
use tasuki_tests::fixture::Recipe;
use tasuki_tests::passage::{BOUND, NAME};
use tasuki_tests::place::{self, in_run_directory};
use tasuki_tests::publisher::{self, Pace};
use tasuki_tests::server::{Rung, Server, Setup};
use tasuki_tests::wait;

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

fn top(socket: &Path) -> Result<Command> {
    let mut command = Command::new(place::binary("tasuki")?);
    command.args(["top", "--interval", "0.1", "--socket"]).arg(socket);
    Ok(command)
}

/// `tasuki top` on a terminal of its own, and all it has written there.
struct Screen {
    process: Child,
    keyboard: File,
    terminal: OwnedFd,
    before: Termios,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    fn start(run: &Path, socket: &Path) -> Result<Self> {
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None)?;
        let before = tcgetattr(&slave)?;
        let mut command = top(socket)?;
        command.env("TERM", "xterm").env("NO_COLOR", "1");
        command.stdin(Stdio::from(slave.try_clone()?)).stdout(Stdio::from(slave.try_clone()?));
        let process = Child::start("top", run, &mut command)?;
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, to) = (File::from(master.try_clone()?), Arc::clone(&written));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                to.lock().unwrap_or_else(PoisonError::into_inner).extend(&buffer[..read]);
            }
        });
        Ok(Self { process, keyboard: File::from(master), terminal: slave, before, written })
    }

    fn written(&self) -> String {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&written).into_owned()
    }

    /// Waits until `text` has been written after the first `from` bytes.
    fn wait(&mut self, text: &str, from: usize) -> Result<()> {
        wait::until(&format!("{text:?} on the screen"), BOUND, || {
            self.process.must_run()?;
            Ok(self.written().get(from..).is_some_and(|new| new.contains(text)).then_some(()))
        })
        .with_context(|| self.written())
    }

    /// Waits for its end: success, and the terminal is as it was.
    fn must_leave(mut self) -> Result<()> {
        self.process.finish(BOUND)?;
        let last = self.written();
        wait::until("the screen to be left", BOUND, || {
            Ok(self.written().contains(LEAVE).then_some(()))
        })
        .with_context(|| format!("{last:?}"))?;
        ensure!(tcgetattr(&self.terminal)? == self.before, "the terminal's settings have changed");
        ensure!(!self.written().contains("\x1b[38;5;"), "there is colour despite NO_COLOR");
        Ok(())
    }
}

fn setup() -> Setup {
    Setup {
        rungs: Some(vec![Rung::Source, Rung::encoded(72, 200)]),
        workers: Some(1),
        ..Setup::default()
    }
}

#[test]
fn one_frame_and_the_live_screen_show_the_stream_and_both_ways_out_restore_the_terminal() {
    in_run_directory("top", |run| {
        let mut server = Server::start(run.path(), &setup())?;
        let file = Recipe::small(60).file()?;
        let url = server.url(NAME);
        let _publisher = publisher::ffmpeg(run.path(), "publisher", &file, &url, Pace::RealTime)?;
        server.wait_status("frames", BOUND, |status| {
            status.sessions.iter().any(|s| s.name == NAME && s.frames_out > 10).then_some(())
        })?;
        let output = top(server.socket())?.arg("--once").stdin(Stdio::null()).output()?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{}: {text}", output.status);
        let row = text.lines().find(|line| line.starts_with(NAME)).context("the stream's row")?;
        ensure!(row.contains("live") && row.contains("h264"), "{text}");
        ensure!(
            text.lines().any(|line| line.contains(" serving ") && line.contains('┃')),
            "{text}"
        );
        ensure!(!text.contains('\x1b'), "{text:?}");

        let mut screen = Screen::start(run.path(), server.socket())?;
        screen.wait(ENTER, 0)?;
        screen.wait(NAME, 0)?;
        screen.keyboard.write_all(b"?")?;
        screen.wait("next order of this pane", 0)?;
        screen.keyboard.write_all(b"q")?;
        screen.must_leave()?;

        let mut screen = Screen::start(run.path(), server.socket())?;
        screen.wait(NAME, 0)?;
        screen.process.signal(Signal::SIGTERM)?;
        screen.must_leave()
    });
}

#[test]
fn a_server_that_goes_is_said_and_the_next_one_is_found() {
    in_run_directory("top-lost", |run| {
        let mut server = Server::start(run.path(), &setup())?;
        let socket = server.socket().to_owned();
        let mut screen = Screen::start(run.path(), &socket)?;
        screen.wait("serving", 0)?;
        let before = screen.written().len();
        server.signal(Signal::SIGTERM)?;
        server.wait(BOUND)?;
        screen.wait("NO SERVER", before)?;
        let before = screen.written().len();
        let _next = Server::start(run.path(), &setup())?;
        screen.wait("tasuki", before)?;
        screen.keyboard.write_all(b"q")?;
        screen.must_leave()
    });
}

#[test]
fn without_a_terminal_it_refuses_and_names_what_to_use() -> Result<()> {
    let output = top(Path::new("s.sock"))?.stdin(Stdio::null()).output()?;
    let errors = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(64), "{}", output.status);
    ensure!(errors.contains("needs a terminal") && errors.contains("tasuki status"), "{errors}");
    Ok(())
}
