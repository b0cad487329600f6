//! The server under test, as a real process in a directory of its own.
//!
//! The only place of the tests that knows the configuration's schema and the command line.

use crate::child::Child;
use crate::proc::Census;
use crate::{place, wait};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use tasuki_shared::failpoint;
use tasuki_shared::status::{Reply, Request, SessionStatus, Status};

const START_BOUND: Duration = Duration::from_secs(20);
/// A move or a rotation is answered when it is over.
const REPLY_BOUND: Duration = Duration::from_secs(60);
const STATUS_BOUND: Duration = Duration::from_secs(5);
/// SIGTERM waits for sessions; a test that has ended its own waits no longer than this.
pub const STOP_BOUND: Duration = Duration::from_secs(15);

/// One rung of the ladder.
#[derive(Clone, Debug, PartialEq)]
pub enum Rung {
    Source,
    /// The source although `blur` hides something in it.
    UnblurredSource,
    Encoded {
        label: String,
        height: u32,
        kbps: u32,
        preset: &'static str,
    },
}

impl Rung {
    /// An encoded rung called `{height}p` with the preset that the default ladder has.
    #[must_use]
    pub fn encoded(height: u32, kbps: u32) -> Self {
        Self::Encoded { label: format!("{height}p"), height, kbps, preset: "veryfast" }
    }

    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::Source | Self::UnblurredSource => "source",
            Self::Encoded { label, .. } => label,
        }
    }
}

/// What the server is configured to do: one application, `live`.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// `auto` if none.
    pub workers: Option<u32>,
    pub streams_per_worker: Option<u32>,
    /// The default ladder if none.
    pub rungs: Option<Vec<Rung>>,
    /// `copy`, `aac` or `none`; the default if none.
    pub audio: Option<&'static str>,
    /// Port of the origin on loopback that gets `live/{name}_{rung}`.
    pub origin_port: Option<u16>,
    pub record_directory: Option<PathBuf>,
    /// Further lines of `[apps.live.record]`.
    pub record_lines: String,
    /// Further lines of `[rtmp]`.
    pub rtmp_lines: String,
    /// Further lines of `[apps.live]`.
    pub app_lines: String,
    /// Further lines of `[workers]`.
    pub worker_lines: String,
    /// Further tables, at the end.
    pub tables: String,
    /// The board of failpoints, made before.
    pub failpoints: Option<PathBuf>,
    /// Further arguments of `tasuki serve`.
    pub arguments: Vec<&'static str>,
    /// A command that becomes the server, with the server's command line as its arguments: for a
    /// server in a namespace of its own.
    pub wrapper: Vec<String>,
}

impl Setup {
    /// The configuration file.
    #[must_use]
    pub fn to_toml(&self, socket: &Path) -> String {
        let mut text = String::from("[rtmp]\nlisten = [\"127.0.0.1:0\"]\n");
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = text.write_fmt(arguments);
        };
        line(format_args!("{}\n[status]\n", self.rtmp_lines));
        line(format_args!("socket = {}\n\n[workers]\n", quoted(socket)));
        if let Some(count) = self.workers {
            line(format_args!("count = {count}\n"));
        }
        if let Some(streams) = self.streams_per_worker {
            line(format_args!("streams_per_worker = {streams}\n"));
        }
        // A test machine is busy with other tests: that is no reason to refuse a publisher.
        line(format_args!("cpu_limit = \"100%\"\n{}\n[apps.live]\n", self.worker_lines));
        if let Some(audio) = self.audio {
            line(format_args!("audio = \"{audio}\"\n"));
        }
        line(format_args!("{}\n", self.app_lines));
        for rung in self.rungs.iter().flatten() {
            line(format_args!("[[apps.live.rungs]]\nlabel = \"{}\"\n", rung.label()));
            match rung {
                Rung::Source => line(format_args!("source = true\n\n")),
                Rung::UnblurredSource => {
                    line(format_args!("source = true\nunblurred = true\n\n"));
                }
                Rung::Encoded { height, kbps, preset, .. } => line(format_args!(
                    "height = {height}\nbitrate = \"{kbps}k\"\npreset = \"{preset}\"\n\n"
                )),
            }
        }
        if let Some(port) = self.origin_port {
            line(format_args!(
                "[[apps.live.push]]\nurl = \"rtmp://127.0.0.1:{port}/live/{{name}}_{{rung}}\"\n\n"
            ));
        }
        if let Some(directory) = &self.record_directory {
            line(format_args!("[apps.live.record]\ndirectory = {}\n", quoted(directory)));
            line(format_args!("{}\n", self.record_lines));
        }
        line(format_args!("{}\n", self.tables));
        // Its default port is one for all servers on this machine.
        if !self.tables.contains("[console]") {
            line(format_args!("[console]\nlisten = []\n"));
        }
        text
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    process: Child,
    directory: PathBuf,
    socket: PathBuf,
    address: String,
}

impl Server {
    /// Starts a server in `run/server`; ready when its status socket answers with a listener.
    pub fn start(run: &Path, setup: &Setup) -> Result<Self> {
        let directory = run.join("server");
        let temporary = directory.join("tmp");
        fs::create_dir_all(&temporary)?;
        let socket = directory.join("status.sock");
        let config = directory.join("tasuki.toml");
        fs::write(&config, setup.to_toml(&socket))?;
        let binary = place::binary("tasuki")?;
        place::binary("tasuki-worker")?;
        let mut command = match setup.wrapper.as_slice() {
            [] => Command::new(&binary),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&binary);
                command
            }
        };
        command.arg("serve").args(&setup.arguments).arg("--config").arg(&config);
        command.current_dir(&directory).env("TMPDIR", &temporary);
        if let Some(board) = &setup.failpoints {
            command.env(failpoint::VARIABLE, board);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Child::start("tasuki", &directory, &mut command)?;
        let status = wait::until("the server to answer", START_BOUND, || {
            process.must_run()?;
            Ok(ask(&socket).ok().filter(|status| !status.listeners.is_empty()))
        })?;
        let listener = status.listeners.first().context("a listener")?;
        let address = listener.rsplit('/').next().unwrap_or(listener).to_owned();
        Ok(Self { process, directory, socket, address })
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Address of the RTMP listener, with the port that was bound.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where to publish.
    #[must_use]
    pub fn url(&self, key: &str) -> String {
        self.url_of("live", key)
    }

    /// Where to publish to another application.
    #[must_use]
    pub fn url_of(&self, app: &str, key: &str) -> String {
        format!("rtmp://{}/{app}/{key}", self.address)
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("tasuki.toml")
    }

    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where streams can be watched over plain HTTP, as `host:port`.
    pub fn viewers(&mut self) -> Result<String> {
        let viewers = self.status()?.viewers;
        let base = viewers.first().context("an address for viewers")?;
        Ok(base.strip_prefix("http://").with_context(|| format!("{base} is no HTTP"))?.to_owned())
    }

    /// The address in the log line that says this.
    pub fn logged_address(&mut self, message: &str, bound: Duration) -> Result<String> {
        wait::until(&format!("an address of {message}"), bound, || {
            let log = self.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut said = lines.filter(|line| line["message"] == message);
            Ok(said.find_map(|line| line["address"].as_str().map(str::to_owned)))
        })
    }

    /// The whole node, now.
    pub fn status(&mut self) -> Result<Status> {
        self.process.must_run()?;
        ask(&self.socket)
    }

    /// Asks one thing of the status socket and takes one reply.
    pub fn request(&mut self, request: &Request) -> Result<Reply> {
        self.process.must_run()?;
        ask_once(&self.socket, request)
    }

    /// Asks one thing that is answered piece by piece: all replies before `Reply::Done`.
    pub fn request_all(&mut self, request: &Request) -> Result<Vec<Reply>> {
        self.process.must_run()?;
        let mut lines = BufReader::new(send(&self.socket, request, REPLY_BOUND)?);
        let mut replies = Vec::new();
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            match reply_of(&line)? {
                Reply::Done => return Ok(replies),
                Reply::Refused { reason } => bail!("{request:?} was refused: {reason}"),
                reply @ (Reply::Status(_)
                | Reply::Event(_)
                | Reply::Recycled(_)
                | Reply::Moved(_)
                | Reply::Heap { .. }
                | Reply::Threads { .. }) => replies.push(reply),
            }
        }
    }

    /// Asks for the status until `condition` gives a value.
    pub fn wait_status<T>(
        &mut self,
        what: &str,
        bound: Duration,
        mut condition: impl FnMut(&Status) -> Option<T>,
    ) -> Result<T> {
        wait::until(what, bound, || Ok(condition(&self.status()?)))
            .with_context(|| format!("the server's log ends:\n{}", last_lines(&self.log())))
    }

    /// Waits until a stream is live.
    pub fn wait_live(&mut self, name: &str, bound: Duration) -> Result<SessionStatus> {
        self.wait_status(&format!("{name} to be live"), bound, |status| {
            status.sessions.iter().find(|s| s.name == name && s.state == "live").cloned()
        })
    }

    /// Waits until there is no session.
    pub fn wait_no_sessions(&mut self, bound: Duration) -> Result<()> {
        self.wait_status("the end of all sessions", bound, |status| {
            status.sessions.is_empty().then_some(())
        })
    }

    /// What its processes hold, with the files that it may have written.
    pub fn census(&self) -> Result<Census> {
        Census::take(self.pid(), &[&self.directory.join("tmp")])
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        self.process.wait(bound)
    }

    /// The status as the socket gives it, byte for byte.
    pub fn status_text(&self) -> Result<String> {
        ask_text(&self.socket)
    }

    /// SIGTERM, and a clean end within the bound with no process left.
    pub fn stop(mut self) -> Result<()> {
        let processes = self.census()?.processes;
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(STOP_BOUND)?;
        ensure!(status.success(), "the server ended with {status}: {}", last_lines(&self.log()));
        wait::until("the server's processes to be gone", STOP_BOUND, || {
            let left = processes.iter().any(|process| is_running(process.pid, &process.name));
            Ok((!left).then_some(()))
        })
    }
}

/// Runs `tasuki serve` on a configuration that it must not accept: exit code and standard error.
pub fn refused(run: &Path, config: &str) -> Result<(Option<i32>, String)> {
    let path = run.join("refused.toml");
    fs::write(&path, config)?;
    let mut command = Command::new(place::binary("tasuki")?);
    command.args(["serve", "--config"]).arg(&path).stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Child::start("refused", run, &mut command)?;
    let status = process.wait(START_BOUND)?;
    Ok((status.code(), process.log()))
}

/// Asks one thing of a status socket and takes one reply.
pub fn ask_once(socket: &Path, request: &Request) -> Result<Reply> {
    reply_of(&ask_line(socket, request, REPLY_BOUND)?)
}

fn ask(socket: &Path) -> Result<Status> {
    match reply_of(&ask_text(socket)?)? {
        Reply::Status(status) => Ok(*status),
        other @ (Reply::Event(_)
        | Reply::Recycled(_)
        | Reply::Moved(_)
        | Reply::Heap { .. }
        | Reply::Threads { .. }
        | Reply::Done
        | Reply::Refused { .. }) => bail!("the status request was answered by {other:?}"),
    }
}

fn reply_of(line: &str) -> Result<Reply> {
    serde_json::from_str(line).with_context(|| format!("the reply {line:?}"))
}

fn ask_text(socket: &Path) -> Result<String> {
    ask_line(socket, &Request::Status, STATUS_BOUND)
}

fn ask_line(socket: &Path, request: &Request, bound: Duration) -> Result<String> {
    let mut line = String::new();
    BufReader::new(send(socket, request, bound)?).read_line(&mut line)?;
    Ok(line)
}

fn send(socket: &Path, request: &Request, bound: Duration) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).context("the status socket")?;
    stream.set_read_timeout(Some(bound))?;
    stream.set_write_timeout(Some(bound))?;
    let mut request = serde_json::to_vec(request)?;
    request.push(b'\n');
    stream.write_all(&request)?;
    Ok(stream)
}

fn is_running(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// A TOML string of a path.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
