use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use tasuki_shared::channel::{Channel, ChannelError, Sent, pair};
use tasuki_shared::id::{Generation, SlotId};
use tasuki_shared::message::{Envelope, PROTOCOL_VERSION, Role};

type Supervisor = Channel<ToWorker, FromWorker>;

fn started() -> (Supervisor, std::thread::JoinHandle<Exit>) {
    let (mut supervisor, control) = pair().unwrap();
    say(&mut supervisor, ToWorker::Hello { version: PROTOCOL_VERSION, slot: SlotId(9) });
    let inherited =
        Inherited { role: Role::Dialer, generation: Generation(3), control, knell: None };
    (supervisor, std::thread::spawn(move || run(inherited)))
}

fn say(supervisor: &mut Supervisor, body: ToWorker) {
    let envelope = Envelope { generation: Generation(3), body };
    assert_eq!(supervisor.send(&envelope, &[]).unwrap(), Sent::Sent);
}

/// The answer to a dial; what else is said meanwhile is passed over.
fn answer_of(supervisor: &mut Supervisor) -> (u64, Result<(), DialError>, Vec<OwnedFd>) {
    loop {
        if !supervisor.has_received() {
            let flags = nix::poll::PollFlags::POLLIN;
            let mut polled = [nix::poll::PollFd::new(supervisor.as_fd(), flags)];
            assert_eq!(nix::poll::poll(&mut polled, 20_000_u16).unwrap(), 1);
        }
        let (envelope, fds) = supervisor.recv().unwrap().unwrap();
        if let FromWorker::Connected { ticket, outcome } = envelope.body {
            return (ticket, outcome, fds);
        }
    }
}

fn connect(supervisor: &mut Supervisor, ticket: u64, host: &str, port: u16) {
    say(supervisor, ToWorker::Connect { ticket, host: host.to_owned(), port });
}

#[test]
fn a_dial_is_answered_with_a_socket_that_reaches_the_host_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut supervisor, dialer) = started();
    connect(&mut supervisor, 7, "localhost", listener.local_addr().unwrap().port());
    let (ticket, outcome, mut fds) = answer_of(&mut supervisor);
    assert_eq!((ticket, outcome, fds.len()), (7, Ok(()), 1));
    let mut stream = TcpStream::from(fds.pop().unwrap());
    assert!(stream.nodelay().unwrap());
    let mut byte = [0];
    let would_block = stream.read(&mut byte).unwrap_err().kind();
    assert_eq!(would_block, std::io::ErrorKind::WouldBlock);
    stream.write_all(b"x").unwrap();
    listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
    say(&mut supervisor, ToWorker::Drain);
    assert_eq!(dialer.join().unwrap(), Exit::Done);
}

#[test]
fn a_closed_port_and_an_unknown_name_are_told_apart() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (mut supervisor, dialer) = started();
    connect(&mut supervisor, 1, "127.0.0.1", port);
    let (ticket, outcome, fds) = answer_of(&mut supervisor);
    assert!(matches!((ticket, outcome), (1, Err(DialError::Connect(_)))) && fds.is_empty());
    connect(&mut supervisor, 2, "a name with spaces.invalid", 1935);
    let (ticket, outcome, _) = answer_of(&mut supervisor);
    assert!(matches!((ticket, outcome), (2, Err(DialError::Resolve { .. }))));
    drop(supervisor);
    assert_eq!(dialer.join().unwrap(), Exit::Orphaned);
}

#[test]
fn a_drained_dialer_answers_the_dials_it_has_before_it_leaves() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut supervisor, dialer) = started();
    let port = listener.local_addr().unwrap().port();
    for ticket in 0..20 {
        connect(&mut supervisor, ticket, "127.0.0.1", port);
    }
    say(&mut supervisor, ToWorker::Drain);
    let mut tickets: Vec<_> = (0..20).map(|_| answer_of(&mut supervisor).0).collect();
    tickets.sort_unstable();
    assert!(tickets.into_iter().eq(0..20));
    assert_eq!(dialer.join().unwrap(), Exit::Done);
    loop {
        match supervisor.recv() {
            Ok(_) => {}
            Err(error) => break assert!(matches!(error, ChannelError::Closed)),
        }
    }
}
