use super::super::{Process, Program};
use super::*;
use crate::core::Core;
use crate::core::settings::{Rules, Settings};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tasuki_shared::channel::{self, Channel};
use tasuki_shared::config::Config;
use tasuki_shared::id::SessionId;
use tasuki_shared::kernel;
use tasuki_shared::limits::CONTROL_QUEUE_FRAMES_MAX;
use tasuki_shared::message::{
    EndReason, PROTOCOL_VERSION, PublishRequest, RefuseReason, Role, ToWorker,
};
use tasuki_shared::plan::Plan;
use tokio::sync::Notify;

const WORKER: Generation = Generation(1);

type Worker = Channel<FromWorker, ToWorker>;

struct Everybody;

impl Rules for Everybody {
    fn authorize(&self, request: &PublishRequest) -> Result<Plan, RefuseReason> {
        Config::embedded().authorize(request)
    }
}

/// A shell with one worker that serves, of which there is nothing but its end of the channel.
fn serving() -> (SharedShell, Worker) {
    let settings = Settings { workers: 1, standby: 0, ..Settings::default() };
    let rules: Box<dyn Rules> = Box::new(Everybody);
    let mut core = Core::new(settings, rules, 1);
    let frame = |body| Event::Frame { channel: WORKER, claimed: WORKER, body };
    let hello = FromWorker::Hello { version: PROTOCOL_VERSION, pid: 0 };
    for event in [Event::Started, frame(hello), frame(FromWorker::Ready)] {
        drop(core.handle(Duration::ZERO, event));
    }
    let program = Program { path: PathBuf::new(), environment: Vec::new() };
    let shell = Shell::new(Box::new(core), program, i32::MAX, &Rc::new(Notify::new()));
    let (channel, theirs) = channel::pair().unwrap();
    let pid = i32::try_from(std::process::id()).unwrap();
    let process = Process {
        role: Role::Worker,
        channel,
        pidfd: kernel::pidfd_open(pid).unwrap(),
        pid,
        queued: Rc::new(Notify::new()),
    };
    shell.borrow_mut().processes.insert(WORKER, process);
    (shell, Worker::new(theirs))
}

/// Accepts `count` connections in one turn and looks at the worker's channel at its end.
fn accept(shell: &SharedShell, worker: &mut Worker, count: usize) -> Vec<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut turn = Turn::begin(shell);
    let clients = (0..count).map(|_| {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, peer) = listener.accept().unwrap();
        turn.accepted(socket, peer);
        client
    });
    let clients = clients.collect();
    assert!(worker.recv().unwrap().is_none(), "what a turn causes is sent at its end");
    clients
}

/// All that has arrived.
fn adopted(worker: &mut Worker) -> Vec<(SessionId, usize)> {
    let mut sessions = Vec::new();
    while let Some((envelope, fds)) = worker.recv().unwrap() {
        let ToWorker::Adopt(lease) = envelope.body else { panic!("{envelope:?}") };
        sessions.push((lease.session, fds.len()));
    }
    sessions
}

#[test]
fn what_a_turn_causes_is_sent_when_it_ends_in_order_and_nothing_stays() {
    let (shell, mut worker) = serving();
    for count in [1, 2, 40, 70] {
        let clients = accept(&shell, &mut worker, count);
        let sessions = adopted(&mut worker);
        assert_eq!(sessions.len(), clients.len());
        assert!(sessions.is_sorted(), "{sessions:?}");
        assert!(sessions.iter().all(|(_, fds)| *fds == 2), "a socket and its memory");
        let shell = shell.borrow();
        assert!(shell.unsent.is_empty() && shell.processes[&WORKER].channel.is_flushed());
    }
}

#[test]
fn every_frame_of_a_turn_of_frames_is_answered_at_its_end() {
    let (shell, mut worker) = serving();
    let clients = accept(&shell, &mut worker, 3);
    let sessions = adopted(&mut worker);
    let say = |body| Envelope { generation: WORKER, body };
    let mut turn = Turn::begin(&shell);
    for (session, _) in &sessions {
        let request = PublishRequest {
            app: "live".into(),
            key: tasuki_shared::id::StreamKey(format!("s{}", session.counter)),
            query: tasuki_shared::id::StreamKey(String::new()),
            flash_version: String::new(),
        };
        turn.frame(WORKER, say(FromWorker::Adopted { session: *session, at_us: 0 }), vec![]);
        turn.frame(WORKER, say(FromWorker::Authorize { session: *session, request }), vec![]);
    }
    drop(turn);
    let mut answered = Vec::new();
    while let Some((envelope, _)) = worker.recv().unwrap() {
        let ToWorker::Verdict { session, .. } = envelope.body else { panic!("{envelope:?}") };
        answered.push(session);
    }
    assert_eq!(answered, sessions.iter().map(|(session, _)| *session).collect::<Vec<_>>());
    // One event from outside is a turn of its own.
    let session = sessions[0].0;
    shell.borrow_mut().on(Event::EndSession { session });
    let (envelope, _) = worker.recv().unwrap().unwrap();
    assert_eq!(envelope.body, ToWorker::End { session, reason: EndReason::Operator });
    drop(clients);
}

#[test]
fn a_session_that_ends_before_its_lease_is_sent_keeps_its_fds_for_the_frame() {
    let (shell, mut worker) = serving();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, peer) = listener.accept().unwrap();
    let own = socket.local_addr().unwrap();
    let mut turn = Turn::begin(&shell);
    turn.accepted(socket, peer);
    let session = SessionId { epoch: turn.0.epoch, counter: 1 };
    turn.0.vault.close(session);
    // Whatever takes the numbers that were freed is not what the worker gets.
    let others: Vec<_> = (0..4).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    drop(turn);
    let (_, mut fds) = worker.recv().unwrap().unwrap();
    assert_eq!(fds.len(), 2);
    assert_eq!(TcpStream::from(fds.swap_remove(0)).local_addr().unwrap(), own);
    drop((client, others));
}

#[test]
fn a_channel_that_fails_at_the_end_of_a_turn_is_told_in_the_same_turn() {
    let (shell, mut worker) = serving();
    let _clients = accept(&shell, &mut worker, 2);
    drop(worker);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, peer) = listener.accept().unwrap();
    Turn::begin(&shell).accepted(socket, peer);
    let shell = shell.borrow();
    assert!(shell.pending.is_empty() && shell.unsent.is_empty());
    assert!(shell.processes[&WORKER].channel.is_flushed(), "nothing is kept for the dead");
    let worker = &shell.status().workers[0];
    assert_eq!(worker.state, "serving", "its death is for the kernel to tell");
}

/// The task of the process is woken to wait for a socket that is full, and goes on in its turn.
#[test]
fn what_the_socket_does_not_take_goes_out_when_it_does() {
    let (shell, mut worker) = serving();
    let clients = accept(&shell, &mut worker, 1);
    let session = adopted(&mut worker)[0].0;
    setsockopt(&shell.borrow().processes[&WORKER].channel, sockopt::SndBuf, &4096).unwrap();
    let mut sent = 0;
    while shell.borrow().is_flushed(WORKER) {
        assert!(sent < CONTROL_QUEUE_FRAMES_MAX, "the socket is never full");
        let body = ToWorker::End { session, reason: EndReason::Limit("x".repeat(1000)) };
        let mut shell = shell.borrow_mut();
        shell.send(WORKER, body, crate::core::event::Fds::None);
        shell.end_turn();
        sent += 1;
    }
    let queued = shell.borrow().queued_signal(WORKER).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let woken = runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), queued.notified()).await });
    assert!(woken.is_ok(), "nobody waits for the socket");
    let mut arrived = 0;
    while arrived < sent {
        match worker.recv().unwrap() {
            Some(_) => arrived += 1,
            None => Turn::begin(&shell).writable(WORKER),
        }
    }
    assert!(shell.borrow().is_flushed(WORKER));
    let all: BTreeSet<_> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
    assert_eq!(all.len(), 1);
}

/// A fork takes as long as the hand-out of many sessions: what is queued is gone before it begins.
#[test]
fn what_is_queued_is_sent_before_a_process_is_started() {
    let (shell, mut worker) = serving();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, peer) = listener.accept().unwrap();
    let mut turn = Turn::begin(&shell);
    turn.accepted(socket, peer);
    assert!(worker.recv().unwrap().is_none());
    // There is no such program, so all that can be seen of the start is its failure.
    turn.0.spawns.push_back((Role::Worker, Generation(9)));
    turn.0.handle_pending(Duration::ZERO);
    assert_eq!(adopted(&mut worker).len(), 1);
    drop((turn, client));
}
