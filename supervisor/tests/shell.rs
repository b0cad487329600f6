//! The supervisor as a process, with worker processes that hold sockets and know no RTMP.
//!
//! This binary is all of them: run by the test runner it is the client; with `SERVER` set it runs
//! the supervisor; started by the supervisor, through a script, it is a worker that adopts what it
//! is given, echoes bytes until it is told to end, and publishes when it reads `publish`.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one variant")]
#![expect(clippy::unwrap_used, reason = "this file is tests and what they are made of")]

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tasuki::core::settings::{MissingFamily, Rules, Settings};
use tasuki_shared::channel::{Channel, ChannelError};
use tasuki_shared::config::Config;
use tasuki_shared::exit::Exit;
use tasuki_shared::id::StreamKey;
use tasuki_shared::inherit::Inherited;
use tasuki_shared::limits::STATUS_CLIENTS_MAX;
use tasuki_shared::memory::owner;
use tasuki_shared::memory::session::SessionMemory;
use tasuki_shared::message::{
    Anchor, CutReport, EndReason, Envelope, FromWorker, Heartbeat, Owner, PROTOCOL_VERSION,
    PublishRequest, RefuseReason, ToWorker, Verdict,
};
use tasuki_shared::plan::Plan;

const SERVER: &str = "TASUKI_TEST_SERVER";
const WORKER: &str = "TASUKI_TEST_WORKER";
const PATIENCE: Duration = Duration::from_secs(20);

struct Everybody;

impl Rules for Everybody {
    fn authorize(&self, request: &PublishRequest) -> Result<Plan, RefuseReason> {
        Config::embedded().authorize(request)
    }
}

#[test]
fn behave_as_the_server() {
    let Some(socket) = std::env::var_os(SERVER) else { return };
    let settings = Settings {
        listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
        status_socket: PathBuf::from(socket),
        missing_family: MissingFamily::Skip,
        workers: 1,
        standby: 1,
        shutdown_deadline: Duration::from_secs(5),
        ..Settings::default()
    };
    let again = settings.clone();
    let reload = move || {
        Ok(tasuki::event_loop::Reloaded { settings: again.clone(), rules: Box::new(Everybody) })
    };
    let exit = tasuki::event_loop::run(settings, Everybody, Box::new(reload)).unwrap();
    assert_eq!(exit, Exit::Done);
}

#[test]
fn behave_as_a_worker() {
    let Some(role) = std::env::var_os(WORKER) else { return };
    let inherited = Inherited::take(role.to_str()).unwrap();
    Echo::new(inherited).run();
}

/// Adopts sockets and echoes what they say.
struct Echo {
    channel: Channel<FromWorker, ToWorker>,
    generation: tasuki_shared::id::Generation,
    held: Vec<(tasuki_shared::id::SessionId, TcpStream, SessionMemory)>,
    /// What another owner will release, and the eventfd that it rings then.
    prepared: Vec<(tasuki_shared::id::SessionId, TcpStream, SessionMemory, OwnedFd)>,
    draining: Option<()>,
}

impl Echo {
    fn new(inherited: Inherited) -> Self {
        let channel = Channel::new(inherited.control);
        Self {
            channel,
            generation: inherited.generation,
            held: vec![],
            prepared: vec![],
            draining: None,
        }
    }

    fn say(&mut self, body: FromWorker) {
        let envelope = Envelope { generation: self.generation, body };
        let _ = self.channel.send(&envelope, &[]).unwrap();
    }

    fn run(mut self) {
        let pid = i32::try_from(std::process::id()).unwrap();
        self.say(FromWorker::Hello { version: PROTOCOL_VERSION, pid });
        self.say(FromWorker::Ready);
        while self.draining.is_none() || !(self.held.is_empty() && self.prepared.is_empty()) {
            let mut polled = vec![PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
            for (_, socket, _) in &self.held {
                polled.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
            }
            for (.., bell) in &self.prepared {
                polled.push(PollFd::new(bell.as_fd(), PollFlags::POLLIN));
            }
            poll(&mut polled, 200_u16).unwrap();
            loop {
                match self.channel.recv() {
                    Ok(Some((envelope, fds))) => self.told(envelope.body, fds),
                    Ok(None) => break,
                    Err(ChannelError::Closed) => return,
                    Err(error) => panic!("{error}"),
                }
            }
            self.take_released();
            self.echo();
            let heartbeat = Heartbeat { session: None, lobby: 0, allocator: None, spare_codecs: 0 };
            self.say(FromWorker::Heartbeat(Box::new(heartbeat)));
            self.flush();
        }
    }

    /// What it said before it leaves is to arrive.
    fn flush(&mut self) {
        while !self.channel.is_flushed() {
            let mut polled = [PollFd::new(self.channel.as_fd(), PollFlags::POLLOUT)];
            poll(&mut polled, 200_u16).unwrap();
            if self.channel.flush().is_err() {
                return;
            }
        }
    }

    fn told(&mut self, body: ToWorker, mut fds: Vec<OwnedFd>) {
        match body {
            ToWorker::Adopt(lease) => {
                let own = if lease.live.is_some() { 6 } else { 2 };
                assert_eq!(fds.len(), own, "socket, session memory, and four logs when live");
                let memory = SessionMemory::finish(&fds[1], lease.expect).unwrap();
                owner::take(memory.owner(), lease.expect, self.generation).unwrap();
                let socket = TcpStream::from(fds.swap_remove(0));
                socket.set_nonblocking(true).unwrap();
                self.held.push((lease.session, socket, memory));
                self.say(FromWorker::Adopted { session: lease.session, at_us: 0 });
            }
            ToWorker::End { session, reason } => {
                self.held.retain(|(id, ..)| *id != session);
                self.say(FromWorker::Ended { session, reason });
            }
            ToWorker::Verdict { session, verdict: Verdict::Allow(_) } => {
                let held = self.held.iter_mut().find(|(id, ..)| *id == session);
                held.unwrap().1.write_all(b"allowed").unwrap();
            }
            ToWorker::Prepare(lease) => {
                let own = if lease.live.is_some() { 7 } else { 3 };
                assert_eq!(fds.len(), own, "the fds of a lease and an eventfd");
                assert_eq!(lease.expect, Owner::Offered(self.generation));
                let bell = fds.pop().unwrap();
                let memory = SessionMemory::finish(&fds[1], lease.expect).unwrap();
                let socket = TcpStream::from(fds.swap_remove(0));
                self.prepared.push((lease.session, socket, memory, bell));
                self.say(FromWorker::Prepared { session: lease.session });
            }
            ToWorker::Unprepare { session } => self.prepared.retain(|(id, ..)| *id != session),
            ToWorker::TakeOver { session, expect } => self.take(session, expect),
            ToWorker::Release { session, to, .. } => {
                let at = self.held.iter().position(|(id, ..)| *id == session).unwrap();
                let (_, socket, memory) = self.held.swap_remove(at);
                drop(socket);
                // Before anybody can take it, or the pause could come out as nothing.
                let released_us = tasuki_shared::clock::monotonic_us();
                owner::release(memory.owner(), self.generation, to).unwrap();
                nix::unistd::write(fds.pop().unwrap(), &1_u64.to_ne_bytes()).unwrap();
                let cut = CutReport { released_us, anchor: Anchor::InLog, frames_lost: 0 };
                self.say(FromWorker::Released { session, cut });
            }
            ToWorker::Drain => self.draining = Some(()),
            _ => {}
        }
    }

    fn take_released(&mut self) {
        let rung = |bell: &OwnedFd| nix::unistd::read(bell, &mut [0; 8]).is_ok();
        let offered: Vec<_> = self
            .prepared
            .iter()
            .filter(|(.., bell)| rung(bell))
            .map(|(session, ..)| *session)
            .collect();
        for session in offered {
            self.take(session, Owner::Offered(self.generation));
        }
    }

    fn take(&mut self, session: tasuki_shared::id::SessionId, expect: Owner) {
        // The bell may have been heard before the order came.
        let at = self.prepared.iter().position(|(id, ..)| *id == session);
        let Some(at) = at else { return };
        let (_, socket, memory, _) = self.prepared.swap_remove(at);
        owner::take(memory.owner(), expect, self.generation).unwrap();
        self.held.push((session, socket, memory));
        let at_us = tasuki_shared::clock::monotonic_us();
        self.say(FromWorker::Adopted { session, at_us });
    }

    fn echo(&mut self) {
        let mut ended = Vec::new();
        let mut publishing = Vec::new();
        for (session, socket, _) in &mut self.held {
            let mut buffer = [0; 4096];
            match socket.read(&mut buffer) {
                Ok(0) => ended.push(*session),
                Ok(read) if buffer[..read].starts_with(b"publish") => publishing.push(*session),
                Ok(read) => socket.write_all(&buffer[..read]).unwrap(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => ended.push(*session),
            }
        }
        for session in publishing {
            let request = PublishRequest {
                app: "live".into(),
                key: StreamKey(format!("s{}", session.counter)),
                query: StreamKey(String::new()),
                flash_version: String::new(),
            };
            self.say(FromWorker::Authorize { session, request });
        }
        for session in ended {
            self.held.retain(|(id, ..)| *id != session);
            self.say(FromWorker::Ended { session, reason: EndReason::PeerClosed });
        }
    }
}

/// A running server and its directory.
struct Server {
    directory: PathBuf,
    process: Child,
}

impl Server {
    fn start(name: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("tasuki-shell-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let script = directory.join("worker");
        let test = std::env::current_exe().unwrap();
        let text = format!(
            "#!/bin/sh\n{WORKER}=\"$2\" exec '{}' --exact behave_as_a_worker\n",
            test.display()
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let process = Self::launch(&directory, Stdio::inherit());
        Self { directory, process }
    }

    fn launch(directory: &Path, errors: Stdio) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "behave_as_the_server", "--nocapture"])
            .env(SERVER, directory.join("run/status.sock"))
            .env("TASUKI_WORKER", directory.join("worker"))
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap()
    }

    fn connect(&self) -> Option<UnixStream> {
        UnixStream::connect(self.directory.join("run/status.sock")).ok()
    }

    fn ask(&self, request: &Value) -> Option<Value> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).ok()
    }

    /// Asks and reads replies up to the last.
    fn ask_all(&self, request: &Value) -> Vec<Value> {
        let mut stream = self.connect().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut replies = Vec::new();
        for line in BufReader::new(stream).lines() {
            let reply: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let last = reply["reply"] != "recycled";
            replies.push(reply);
            if last {
                break;
            }
        }
        replies
    }

    /// Asks for the status until it is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        for _ in 0..400 {
            last = self.ask(&json!({ "request": "status" }));
            if let Some(status) = last.as_ref().filter(|status| wanted(status)) {
                return status.clone();
            }
            tasuki_shared::clock::pause(Duration::from_millis(50));
        }
        panic!("never: {what}; last: {last:#?}");
    }

    fn ready(&self) -> Value {
        self.until("one worker serves, one stands by, the dialer is there", |status| {
            let state = |at: usize| status["workers"][at]["state"].as_str().unwrap_or("");
            let mut workers = [state(0), state(1)];
            workers.sort_unstable();
            workers == ["serving", "standby"] && state(2) == "serving"
        })
    }

    /// A connection to a listener; to the first where this machine has no other.
    fn publisher(&self, listener: usize) -> TcpStream {
        let status = self.until("the server listens", |status| status["listeners"][0].is_string());
        let listeners = status["listeners"].as_array().unwrap();
        let address = listeners.get(listener).unwrap_or(&listeners[0]).as_str().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn echoes(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text.as_bytes());
}

fn publishes(stream: &mut TcpStream) {
    stream.write_all(b"publish").unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"allowed");
}

fn pid_of_serving(status: &Value) -> i32 {
    let workers = status["workers"].as_array().unwrap();
    let serving = workers.iter().find(|w| w["state"] == "serving" && w["role"] == "worker");
    i32::try_from(serving.unwrap()["pid"].as_i64().unwrap()).unwrap()
}

#[test]
fn a_connection_outlives_its_worker_and_ends_when_an_operator_says_so() {
    let server = Server::start("outlive");
    let before = server.ready();
    let mut streams = [server.publisher(0), server.publisher(1)];
    for stream in &mut streams {
        echoes(stream, "before");
    }
    kill(Pid::from_raw(pid_of_serving(&before)), Signal::SIGKILL).unwrap();
    for stream in &mut streams {
        echoes(stream, "after the worker was killed");
    }
    let status = server.ready();
    assert_ne!(pid_of_serving(&status), pid_of_serving(&before));
    let deaths: Vec<_> = status["workers"].as_array().unwrap().iter().collect();
    assert!(deaths.iter().any(|w| w["last_death"] == "killed by somebody else (SIGKILL)"));
    let session = status["sessions"][0]["id"].as_str().unwrap();
    let reply = server.ask(&json!({ "request": "end", "session": session })).unwrap();
    assert_eq!(reply["reply"], "done");
    server.until("one session is left", |s| s["sessions"].as_array().unwrap().len() == 1);
    let reply = server.ask(&json!({ "request": "end", "session": "1-1" })).unwrap();
    assert_eq!(reply, json!({ "reply": "refused", "reason": "no session 1-1" }));
}

#[test]
fn a_second_server_on_the_same_socket_is_refused_and_a_dead_ones_socket_is_taken() {
    let mut server = Server::start("socket");
    server.ready();
    let mode = std::fs::metadata(server.directory.join("run/status.sock")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let second = Server::launch(&server.directory, Stdio::piped()).wait_with_output().unwrap();
    assert!(!second.status.success());
    let errors = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(errors.contains("Occupied") || errors.contains("another server"), "{errors}");
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    assert!(server.connect().is_none());
    server.process = Server::launch(&server.directory, Stdio::inherit());
    server.ready();
}

#[test]
fn what_is_no_request_is_refused_and_watchers_hear_of_deaths() {
    let server = Server::start("watch");
    let status = server.ready();
    for bad in ["{}", "nonsense", "{\"request\":\"launch\"}"] {
        let mut stream = server.connect().unwrap();
        writeln!(stream, "{bad}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("\"refused\""), "{bad}: {line}");
    }
    let mut stream = server.connect().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(stream, "{}", json!({ "request": "watch" })).unwrap();
    // A reply to another request says that the one before it was taken.
    server.ask(&json!({ "request": "status" })).unwrap();
    kill(Pid::from_raw(pid_of_serving(&status)), Signal::SIGKILL).unwrap();
    let lines = BufReader::new(stream).lines();
    let died = lines.map(|line| line.unwrap()).find(|line| line.contains("worker_died")).unwrap();
    let event: Value = serde_json::from_str(&died).unwrap();
    assert_eq!(event["detail"], "killed by somebody else (SIGKILL)");
}

#[test]
fn a_terminated_server_lets_a_stream_finish_and_leaves_with_everybody() {
    let mut server = Server::start("drain");
    let status = server.ready();
    let mut stream = server.publisher(0);
    publishes(&mut stream);
    let mut lobby = server.publisher(0);
    echoes(&mut lobby, "before");
    server.signal(Signal::SIGTERM);
    server.until("it drains", |status| status["state"] == "draining");
    assert_eq!(lobby.read(&mut [0]).unwrap(), 0, "who has not published is ended");
    echoes(&mut stream, "while draining");
    drop(stream);
    assert!(server.process.wait().unwrap().success());
    for worker in status["workers"].as_array().unwrap() {
        let pid = Pid::from_raw(i32::try_from(worker["pid"].as_i64().unwrap()).unwrap());
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH), "{worker}");
    }
    assert!(!server.directory.join("run/status.sock").exists());
}

#[test]
fn a_second_signal_ends_a_stream_at_once() {
    let mut server = Server::start("at-once");
    server.ready();
    let mut stream = server.publisher(0);
    publishes(&mut stream);
    server.signal(Signal::SIGTERM);
    server.until("it drains", |status| status["state"] == "draining");
    server.signal(Signal::SIGTERM);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert!(server.process.wait().unwrap().success());
}

#[test]
fn clients_beyond_the_limit_are_told_so() {
    let server = Server::start("clients");
    server.ready();
    let mut clients: Vec<_> = (0..STATUS_CLIENTS_MAX).map(|_| server.connect().unwrap()).collect();
    // An answer to the last says that all of them have been accepted.
    let last = clients.last_mut().unwrap();
    writeln!(last, "{}", json!({ "request": "status" })).unwrap();
    BufReader::new(&*last).read_line(&mut String::new()).unwrap();
    let mut line = String::new();
    BufReader::new(server.connect().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("clients are connected already"), "{line}");
    clients.clear();
    server.ready();
}

#[test]
fn a_rotation_replaces_every_worker_under_live_connections_and_waits() {
    let server = Server::start("rotate");
    let before = server.ready();
    let mut stream = server.publisher(0);
    publishes(&mut stream);
    let mut lobby = server.publisher(0);
    echoes(&mut lobby, "before");
    let replies = server.ask_all(&json!({ "request": "rotate", "reason": "test" }));
    let (last, recycles) = replies.split_last().unwrap();
    assert_eq!(last["reply"], "done");
    assert_eq!(recycles.len(), 3, "the standby, the one that serves, the dialer: {recycles:?}");
    for recycle in recycles {
        assert_eq!(recycle["outcome"], "done", "{recycle}");
        assert_eq!((&recycle["reason"], &recycle["detail"]), (&json!("operator"), &json!("test")));
    }
    let moves = recycles[1]["moves"].as_array().unwrap();
    assert_eq!(moves.len(), 2, "{moves:?}");
    let done = |m: &Value| m["outcome"] == "done" && m["pause_us"].as_u64() > Some(0);
    assert!(moves.iter().all(done), "{moves:?}: {}", server.ready()["deaths"]);
    echoes(&mut stream, "after, live");
    echoes(&mut lobby, "after, in the lobby");
    let status = server.ready();
    let pids = |status: &Value| -> Vec<i64> {
        let workers = status["workers"].as_array().unwrap().iter();
        workers.filter(|w| w["role"] == "worker").map(|w| w["pid"].as_i64().unwrap()).collect()
    };
    let (old, new) = (pids(&before), pids(&status));
    assert!(new.iter().all(|pid| !old.contains(pid)), "{old:?} {new:?}");
    assert!(status["workers"].as_array().unwrap().iter().all(|w| w["restarts"] == 0));
    assert_eq!(status["recycles"].as_array().unwrap().len(), 3);
    let refused = server.ask(&json!({ "request": "rotate", "worker": "w9", "reason": "" }));
    assert_eq!(refused.unwrap()["reason"], "no process runs in a slot w9");
}

#[test]
fn hangups_in_a_row_rotate_and_then_once_more() {
    let server = Server::start("hangup");
    server.ready();
    let mut stream = server.publisher(0);
    publishes(&mut stream);
    let reloads = |status: &Value| {
        let recycles = status["recycles"].as_array().unwrap();
        recycles.iter().filter(|r| r["reason"] == "reload" && r["outcome"] == "done").count()
    };
    // Signals that wait to be handled are one signal (signal(7)): the first is heard alone.
    server.signal(Signal::SIGHUP);
    server.until("the first is heard", |status| !status["recycles"].as_array().unwrap().is_empty());
    for _ in 0..4 {
        server.signal(Signal::SIGHUP);
        server.ask(&json!({ "request": "status" })).unwrap();
    }
    // Two workers and the dialer each time: at least once more, and at most once for each signal.
    let both = "two rotations of two workers and the dialer are done";
    let status = server.until(both, |status| reloads(status) >= 6);
    assert!(status["recycles"].as_array().unwrap().len() <= 15, "{status:#}");
    echoes(&mut stream, "after all of them");
    server.ready();
}

#[test]
fn a_drained_node_leaves_with_its_last_session_and_not_before() {
    let mut server = Server::start("drained");
    server.ready();
    let mut stream = server.publisher(0);
    publishes(&mut stream);
    assert_eq!(server.ask(&json!({ "request": "drain" })).unwrap()["reply"], "done");
    server.until("it drains", |status| status["state"] == "draining");
    echoes(&mut stream, "while draining");
    drop(stream);
    assert!(server.process.wait().unwrap().success());
}
