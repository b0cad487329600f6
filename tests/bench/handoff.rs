//! What a new connection costs: until the worker has read its first bytes, and in CPU time of the
//! supervisor.
//!
//! Time: a client connects, sends C0 and C1 at once and waits for the first byte of the answer.
//! The same against a bare loop in this process that accepts, reads and answers as much. The
//! difference is the hand-off: supervisor's accept, session memfd, SCM_RIGHTS, the worker's
//! adoption, its first read, and its handshake.
//!
//! CPU: clients connect, say nothing, shut their side down and wait until the server has closed
//! its own, which the worker does once it holds the session. So each connection was really
//! accepted, given memory, handed over, adopted and ended; all of the supervisor's time for that
//! counts, its loopback softirqs included.

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
use tasuki_tests::named;
use tasuki_tests::place::RunDirectory;
use tasuki_tests::server::{Rung, Server, Setup};

const C0_C1_BYTES: usize = 1537;
const ANSWER_BYTES: usize = 3073;
/// Clients at once; below what the lobby of one worker takes.
const CLIENTS: u32 = 64;
const ANSWER_BOUND: Duration = Duration::from_secs(10);

pub fn run(arguments: &[String]) -> Result<()> {
    let rounds = named::number(arguments, "rounds", 5)?;
    let connections = named::number(arguments, "connections", 20_000)?;
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

    println!("{connections} connections from {CLIENTS} clients, {rounds} rounds");
    println!("round  supervisor µs each  per CPU second  per second");
    let mut rates = Vec::new();
    for round in 0..rounds {
        let before = server.status()?.sessions_total;
        let (begin, cpu) = (clock::now(), cpu_of(server.pid())?);
        come_and_go(address, connections)?;
        server.wait_no_sessions(ANSWER_BOUND)?;
        let (cpu, wall) = (cpu_of(server.pid())? - cpu, clock::now() - begin);
        let status = server.status()?;
        ensure!(status.refusals.is_empty(), "refused: {:?}", status.refusals);
        let handed = status.sessions_total - before;
        ensure!(handed == u64::from(connections), "{handed} of {connections} were handed over");
        let each = cpu / connections;
        let per_cpu_second = f64::from(connections) / cpu.as_secs_f64();
        println!(
            "{round:>5}  {:>18.2}  {per_cpu_second:>14.0}  {:>10.0}",
            each.as_secs_f64() * 1e6,
            f64::from(connections) / wall.as_secs_f64(),
        );
        rates.push(per_cpu_second);
    }
    println!("rate    {:.0} per CPU second of the supervisor (goal ≥ 40000)", Spread::of(rates)?);
    Ok(())
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

fn first_byte(address: SocketAddr) -> Result<Duration> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    let mut hello = [7; C0_C1_BYTES];
    hello[..9].copy_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0]);
    let begin = clock::now();
    stream.write_all(&hello)?;
    let mut first = [0; 1];
    stream.read_exact(&mut first).context("no answer to C0 and C1")?;
    let took = clock::now() - begin;
    stream.read_exact(&mut [0; ANSWER_BYTES - 1])?;
    Ok(took)
}

fn come_and_go(server: SocketAddrV4, connections: u32) -> Result<()> {
    let threads: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let count = connections / CLIENTS + u32::from(client < connections % CLIENTS);
            std::thread::spawn(move || (0..count).try_for_each(|_| one(client, server)))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
    }
    Ok(())
}

/// Every client has an address of its own, so that none runs out of ports.
fn one(client: u32, server: SocketAddrV4) -> Result<()> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    let own = Ipv4Addr::new(127, 0, 1, u8::try_from(client + 1)?);
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(own, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(server)).context("connecting")?;
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    stream.shutdown(Shutdown::Write)?;
    let got = stream.read(&mut [0; 1]).context("waiting for the server's end")?;
    ensure!(got == 0, "the server said something to a client that said nothing");
    Ok(())
}
