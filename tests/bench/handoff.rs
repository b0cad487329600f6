//! What a new connection costs: until the worker has read its first bytes, and in CPU time of the
//! supervisor.
//!
//! Time: a client connects, sends C0 and C1 at once and waits for the first byte of the answer.
//! The same against a bare loop in this process that accepts, reads and answers as much. The
//! difference is the hand-off: supervisor's accept, session memfd, SCM_RIGHTS, the worker's
//! adoption, its first read, and its handshake.
//!
//! CPU: a group of clients connects, fewer than the lobby of the one worker takes; each sends C0
//! and C1 and reads all of the answer, which only a worker that has adopted its session gives. What
//! the supervisor's CPU clock (all of its threads, user and system time, to the nanosecond) has
//! gained then, once it stands still, is the cost of accept, session memfd, hand-off and the
//! worker's `Adopted`. Then the clients leave and wait for the server's FIN; what the clock gains
//! meanwhile is the cost of the ends, on a line of its own, for it is paid for every connection too.
//! What else the supervisor does in that time, ticks, heartbeats, samples of memory, counts as
//! well. What the kernel does for a connection on the client's side, or the worker for its first
//! bytes and the memory it sizes and seals, is not the supervisor's and does not count.
//!
//! Groups come in two ways: all clients connect one right after the other, as when a server comes
//! back, so that the supervisor finds several at once; or each waits until the one before it was
//! answered, so that there never is more than one.

use crate::measure::{Spread, cpu_of, ms, percentile};
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::limits::LOBBY_SESSIONS_MAX;
use tasuki_tests::named;
use tasuki_tests::place::RunDirectory;
use tasuki_tests::server::{Rung, Server, Setup};

const C0_C1_BYTES: usize = 1537;
const ANSWER_BYTES: usize = 3073;
/// Clients of one group; below what the lobby of one worker takes.
const GROUP: u32 = 240;
const _: () = assert!((GROUP as usize) < LOBBY_SESSIONS_MAX, "a group fits the lobby");
/// Addresses that clients connect from, so that none runs out of ports.
const ADDRESSES: u32 = 64;
const ANSWER_BOUND: Duration = Duration::from_secs(10);
/// A clock that has not moved for so long stands still.
const STILL: Duration = Duration::from_millis(3);

/// How the clients of a group come.
#[derive(Clone, Copy)]
enum Arrival {
    AtOnce,
    OneByOne,
}

/// What the supervisor spent on so many connections.
#[derive(Clone, Copy, Default)]
struct Spent {
    connections: u32,
    coming: Duration,
    ends: Duration,
}

pub fn run(arguments: &[String]) -> Result<()> {
    let rounds = named::number(arguments, "rounds", 5)?;
    let groups = named::number(arguments, "groups", 80)?;
    let samples = named::number(arguments, "samples", 2_000)?;
    let run = RunDirectory::new("handoff")?;
    let setup = Setup {
        workers: Some(1),
        rungs: Some(vec![Rung::Source]),
        worker_lines: "standby = 0\n".to_owned(),
        ..Setup::default()
    };
    let mut server = Server::start(run.path(), &setup)?;
    let address: SocketAddrV4 = server.address().parse().context("the server's address")?;
    first_bytes(address.into(), samples)?;
    server.wait_no_sessions(ANSWER_BOUND)?;

    println!(
        "{groups} groups of {GROUP} connections a round, {rounds} rounds, CPU of the supervisor"
    );
    for (name, arrival) in [("at once", Arrival::AtOnce), ("one by one", Arrival::OneByOne)] {
        println!("{name:<11}  accept and hand-off, µs each  per CPU second   its end, µs each");
        let (mut rates, mut with_ends) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let spent = of_round(&mut server, address, groups, arrival)?;
            let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / f64::from(spent.connections);
            let rate = 1e6 / each(spent.coming);
            println!(
                "{round:>11}  {:>28.2}  {rate:>14.0}  {:>17.2}",
                each(spent.coming),
                each(spent.ends)
            );
            rates.push(rate);
            with_ends.push(1e6 / each(spent.coming + spent.ends));
        }
        println!(
            "{name:<11}  {:.0} accepts and hand-offs per CPU second (goal ≥ 40000); \
             {:.0} with their ends",
            Spread::of(rates)?,
            Spread::of(with_ends)?
        );
    }
    Ok(())
}

fn of_round(
    server: &mut Server,
    address: SocketAddrV4,
    groups: u32,
    arrival: Arrival,
) -> Result<Spent> {
    let before = server.status()?.sessions_total;
    let mut spent = Spent::default();
    for _ in 0..groups {
        let begin = settled(server.pid())?;
        let clients = come(address, arrival)?;
        let adopted = settled(server.pid())?;
        go(clients)?;
        let ended = settled(server.pid())?;
        spent.connections += GROUP;
        spent.coming += adopted - begin;
        spent.ends += ended - adopted;
    }
    server.wait_no_sessions(ANSWER_BOUND)?;
    let status = server.status()?;
    ensure!(status.refusals.is_empty(), "refused: {:?}", status.refusals);
    let handed = status.sessions_total - before;
    ensure!(handed == u64::from(spent.connections), "{handed} were handed over");
    Ok(spent)
}

/// The CPU clock of a process, once it stands still.
fn settled(pid: i32) -> Result<Duration> {
    let deadline = clock::now() + ANSWER_BOUND;
    let mut last = cpu_of(pid)?;
    loop {
        clock::pause(STILL);
        let now = cpu_of(pid)?;
        if now == last {
            return Ok(now);
        }
        ensure!(clock::now() < deadline, "the supervisor is never idle");
        last = now;
    }
}

fn first_bytes(server: SocketAddr, samples: u32) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let bare = listener.local_addr()?;
    let loop_thread = std::thread::spawn(move || answer_bare(&listener, samples));
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..samples {
        theirs.push(first_byte(bare)?);
        ours.push(first_byte(server)?);
    }
    loop_thread.join().map_err(|_| anyhow::anyhow!("the bare loop panicked"))??;
    println!("from connected to the first byte of S0, ms, {samples} connections one by one");
    println!("           p50      p99");
    let mut at = |name: &str, percent: [usize; 2]| {
        let (bare, tasuki) = (
            percent.map(|percent| percentile(&mut theirs, percent)),
            percent.map(|percent| percentile(&mut ours, percent)),
        );
        println!("bare loop  {:>7}  {:>7}", ms(bare[0]), ms(bare[1]));
        println!("tasuki     {:>7}  {:>7}", ms(tasuki[0]), ms(tasuki[1]));
        let more = [0, 1].map(|place| tasuki[place].saturating_sub(bare[place]));
        println!("{name} {:>7}  {:>7}", ms(more[0]), ms(more[1]));
    };
    at("hand-off  ", [50, 99]);
    Ok(())
}

fn answer_bare(listener: &TcpListener, count: u32) -> Result<()> {
    let (mut hello, answer) = ([0; C0_C1_BYTES], [3; ANSWER_BYTES]);
    for _ in 0..count {
        let (mut stream, _) = listener.accept()?;
        stream.read_exact(&mut hello)?;
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// C0 and C1.
fn hello() -> [u8; C0_C1_BYTES] {
    let mut hello = [7; C0_C1_BYTES];
    hello[..9].copy_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0]);
    hello
}

fn first_byte(address: SocketAddr) -> Result<Duration> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    let hello = hello();
    let begin = clock::now();
    stream.write_all(&hello)?;
    let mut first = [0; 1];
    stream.read_exact(&mut first).context("no answer to C0 and C1")?;
    let took = clock::now() - begin;
    stream.read_exact(&mut [0; ANSWER_BYTES - 1])?;
    Ok(took)
}

/// A group of connections, each answered by the worker that has adopted it.
fn come(server: SocketAddrV4, arrival: Arrival) -> Result<Vec<TcpStream>> {
    let mut clients = Vec::new();
    for number in 0..GROUP {
        let mut client = connect_from(number, server)?;
        match arrival {
            Arrival::AtOnce => {}
            Arrival::OneByOne => be_answered(&mut client)?,
        }
        clients.push(client);
    }
    match arrival {
        Arrival::AtOnce => clients.iter_mut().try_for_each(be_answered)?,
        Arrival::OneByOne => {}
    }
    Ok(clients)
}

fn connect_from(number: u32, server: SocketAddrV4) -> Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    let own = Ipv4Addr::new(127, 0, 1, u8::try_from(number % ADDRESSES + 1)?);
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(own, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(server)).context("connecting")?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    Ok(stream)
}

fn be_answered(client: &mut TcpStream) -> Result<()> {
    client.write_all(&hello())?;
    client.read_exact(&mut [0; ANSWER_BYTES]).context("no answer to C0 and C1")
}

/// Everybody leaves, then waits for the server's end.
fn go(clients: Vec<TcpStream>) -> Result<()> {
    for client in &clients {
        client.shutdown(Shutdown::Write)?;
    }
    for mut client in clients {
        let got = client.read(&mut [0; 1]).context("waiting for the server's end")?;
        ensure!(got == 0, "the server said more than its handshake");
    }
    Ok(())
}
