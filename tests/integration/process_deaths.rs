//! Processes that hang, that get no memory, and that nobody would miss: whatever dies, the streams
//! lose nothing and the status says why.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket,
};
use nix::unistd::Pid;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_tests::child::Child;
use tasuki_tests::dying::{self, Dying, Owner, process, signal};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::passage::BOUND;
use tasuki_tests::place::in_run_directory;
use tasuki_tests::server::Setup;
use tasuki_tests::wait;

/// Short enough for a test; a beat is every 75 ms then.
const QUICK: &str = "hang_deadline = \"300ms\"";

fn one_worker(lines: &str) -> Setup {
    Setup { workers: Some(1), worker_lines: lines.to_owned(), ..Setup::default() }
}

fn recipe(seconds: u32) -> Recipe {
    Recipe { b_frames: 2, ..Recipe::small(seconds) }
}

/// Two streams in a worker that is stopped whole, three times: it is killed for it, and they go on
/// elsewhere with nothing lost.
#[test]
fn a_worker_that_stands_still_is_killed_and_its_streams_lose_nothing() {
    in_run_directory("hang", |run| {
        let mut dying = Dying::start(run.path(), &recipe(14), 2, one_worker(QUICK))?;
        let mut owners: Vec<Owner> = Vec::new();
        for round in 0..3 {
            // What is counted goes on from owner to owner; each must have given some of its own.
            let owner = dying.wait_owner(20 + 45 * round, &owners)?;
            signal(&owner, Signal::SIGSTOP)?;
            let stopped = clock::now();
            let death = dying.wait_death(&owner.worker)?;
            let took = clock::now() - stopped;
            ensure!(death.cause == "killed by us: it hung", "{death:?}");
            ensure!(death.sessions.len() == 2, "{death:?}");
            ensure!(death.sessions.iter().all(|s| s.outcome.starts_with('w')), "{death:?}");
            println!("stopped → killed and settled in {took:?}");
            owners.push(owner);
        }
        let log = dying.finish()?;
        ensure!(log.contains("worker_hung"), "{log}");
        Ok(())
    });
}

/// The control of the test above: a deadline that never comes leaves the streams where they are,
/// for as long as the worker is stopped.
#[test]
fn without_a_deadline_a_worker_that_stands_still_holds_its_streams() {
    in_run_directory("no-hang", |run| {
        let setup = one_worker("hang_deadline = \"1h\"");
        let mut dying = Dying::start(run.path(), &recipe(8), 2, setup)?;
        let owner = dying.wait_owner(20, &[])?;
        signal(&owner, Signal::SIGSTOP)?;
        // Reports that were on their way.
        clock::pause(Duration::from_millis(200));
        let frames = |dying: &mut Dying| -> Result<Vec<u64>> {
            Ok(dying.server.status()?.sessions.iter().map(|s| s.frames_out).collect())
        };
        let before = frames(&mut dying)?;
        clock::pause(Duration::from_secs(3));
        ensure!(frames(&mut dying)? == before, "the streams go on");
        ensure!(dying.server.status()?.deaths.is_empty(), "somebody died");
        signal(&owner, Signal::SIGCONT)?;
        dying.finish()?;
        Ok(())
    });
}

/// A supervisor that was stopped for many deadlines wakes and kills nobody.
#[test]
fn a_supervisor_that_wakes_late_kills_nobody() {
    in_run_directory("late", |run| {
        let mut dying = Dying::start(run.path(), &recipe(10), 2, one_worker(QUICK))?;
        let supervisor = Pid::from_raw(dying.server.pid());
        for _ in 0..3 {
            kill(supervisor, Signal::SIGSTOP)?;
            clock::pause(Duration::from_millis(1500));
            kill(supervisor, Signal::SIGCONT)?;
            clock::pause(Duration::from_millis(500));
        }
        let status = dying.server.status()?;
        ensure!(status.deaths.is_empty(), "{:?}", status.deaths);
        dying.finish()?;
        Ok(())
    });
}

/// A server that gets hardly any processor is slow and moves: nobody is killed at a deadline of
/// 300 ms.
#[test]
fn want_of_processor_kills_nobody() {
    in_run_directory("busy", |run| {
        let setup = Setup {
            wrapper: ["nice", "-n", "19"].map(str::to_owned).to_vec(),
            ..one_worker(QUICK)
        };
        let mut dying = Dying::start(run.path(), &recipe(8), 1, setup)?;
        let burners: Vec<Child> = (0..8)
            .map(|at| {
                let mut command = Command::new("sh");
                command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
                Child::start(&format!("burner{at}"), run.path(), &mut command)
            })
            .collect::<Result<_>>()?;
        clock::pause(Duration::from_secs(4));
        drop(burners);
        let status = dying.server.status()?;
        ensure!(status.deaths.is_empty(), "{:?}\n{}", status.deaths, dying.server.log());
        // What lags too far is given up by name, so frames are not counted here.
        dying.see_out()
    });
}

#[test]
fn kills_by_hand_blame_no_stream_and_are_counted_against_nobody() {
    in_run_directory("by-hand", |run| {
        let done = dying::kill_by_hand(run.path(), 2, 14, 12)?;
        ensure!(done >= 6, "only {done} kills");
        println!("{done} kills");
        Ok(())
    });
}

/// A worker whose allocations fail, ours or libav's, leaves by an exit code of its own, and its
/// streams go on elsewhere.
#[test]
fn a_worker_that_gets_no_memory_says_so_and_its_streams_lose_nothing() {
    for (kind, limit) in [("rust", "--as"), ("c", "--data")] {
        in_run_directory("rlimit", move |run| {
            let setup = Setup {
                tables: format!(
                    "[memory]\nrecycle = \"off\"\n[chaos]\nleak = \"1500MiB\"\nkind = \"{kind}\"\n\
                     until = \"250MiB\"\n"
                ),
                arguments: vec!["--allow-chaos"],
                ..one_worker("")
            };
            let mut dying = Dying::start(run.path(), &recipe(10), 2, setup)?;
            let owner = dying.wait_owner(10, &[])?;
            // What it has now and nothing more: the next thing that it needs is refused.
            let bytes = memory_bytes(owner.pid, if limit == "--as" { "VmSize" } else { "VmData" })?;
            let status = Command::new("prlimit")
                .args(["--pid", &owner.pid.to_string(), &format!("{limit}={bytes}")])
                .status()?;
            ensure!(status.success(), "prlimit: {status}");
            let death = dying.wait_death(&owner.worker)?;
            ensure!(death.cause == "exit OutOfMemory (103)", "{death:?}");
            ensure!(death.sessions.iter().all(|s| s.outcome.starts_with('w')), "{death:?}");
            dying.finish()?;
            Ok(())
        });
    }
}

/// A worker that the kernel kills for memory is known for it and recovered like any other; the
/// supervisor beside it in the same cgroup is not the one that the kernel takes.
#[test]
fn a_worker_that_the_kernel_kills_for_memory_is_told_of_and_its_streams_lose_nothing() {
    in_run_directory("oom", |run| {
        let Some(cgroup) = Cgroup::limited(run.path(), 300 << 20) else {
            println!("no memory cgroup can be made here: this proves nothing");
            return Ok(());
        };
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", cgroup.0);
        let setup = Setup {
            wrapper: ["sh", "-c", &enter].map(str::to_owned).to_vec(),
            tables:
                "[memory]\nrecycle = \"off\"\n[chaos]\nleak = \"1800MiB\"\nuntil = \"150MiB\"\n"
                    .to_owned(),
            arguments: vec!["--allow-chaos"],
            ..one_worker("")
        };
        let mut dying = Dying::start(run.path(), &recipe(12), 1, setup)?;
        let supervisor = dying.server.pid();
        let score = |pid: i32| -> Result<i32> {
            let path = format!("/proc/{pid}/oom_score_adj");
            Ok(std::fs::read_to_string(path)?.trim().parse()?)
        };
        let worker = dying.server.wait_status("a worker", BOUND, |status| {
            process(status, "worker", "serving").map(|worker| worker.pid)
        })?;
        if let Ok(of_worker) = score(worker) {
            ensure!(of_worker > score(supervisor)?, "{of_worker}");
        }
        dying.server.wait_status("a death for want of memory", BOUND, |status| {
            let found = |d: &&tasuki_shared::status::DeathStatus| {
                d.cause == "killed by the kernel: out of memory"
            };
            status.deaths.iter().find(found).map(|_| ())
        })?;
        let log = dying.finish()?;
        ensure!(!log.contains("stream_dropped"), "{log}");
        Ok(())
    });
}

/// The dialer may die while nobody dials and while a push is dialling: the connections that there
/// are go on, the dial is tried again by the next dialer, and no limit is reached.
#[test]
fn a_dialer_that_dies_costs_no_connection() {
    in_run_directory("dialer", |run| {
        let (tarpit, _held) = tarpit()?;
        let setup = Setup {
            tables: format!(
                "[[apps.live.push]]\nurl = \"rtmp://127.0.0.1:{tarpit}/live/{{name}}\"\n\
                 rungs = [\"source\"]\n"
            ),
            ..one_worker("restart_intensity = 2\nrestart_window = \"1h\"")
        };
        let mut dying = Dying::start(run.path(), &recipe(16), 2, setup)?;
        let mut known = Vec::new();
        for _ in 0..3 {
            let dialer = dying.server.wait_status("a dialer that dials", BOUND, |status| {
                let dials = |push: &tasuki_shared::status::PushStatus| push.state == "dialing";
                let dialing = status.sessions.iter().any(|s| s.pushes.iter().any(dials));
                let dialer = process(status, "dialer", "serving")?;
                (dialing && !known.contains(&dialer.pid)).then_some(dialer.pid)
            })?;
            kill(Pid::from_raw(dialer), Signal::SIGKILL)?;
            known.push(dialer);
        }
        dying.server.wait_status(
            "the next dialer, and a push that heard of it",
            BOUND,
            |status| {
                let dialer = process(status, "dialer", "serving")?;
                let heard = |push: &tasuki_shared::status::PushStatus| {
                    push.last_error.contains("the dialer is away")
                };
                let told = status.sessions.iter().any(|s| s.pushes.iter().any(heard));
                (told && !known.contains(&dialer.pid) && dialer.restarts == 3).then_some(())
            },
        )?;
        let log = dying.finish()?;
        ensure!(!log.contains("slot_given_up"), "{log}");
        Ok(())
    });
}

/// The dialer may die between two streams: the next one's pushes are dialled by the next dialer.
/// The standby may die: another stands by, and takes the streams when their worker dies.
#[test]
fn a_standby_and_an_idle_dialer_that_die_are_replaced_and_nothing_is_lost() {
    in_run_directory("standby", |run| {
        let lines = "restart_intensity = 2\nrestart_window = \"1h\"";
        let mut dying = Dying::start(run.path(), &recipe(12), 2, one_worker(lines))?;
        let mut known = Vec::new();
        for role in ["worker", "dialer", "worker", "dialer", "worker", "dialer"] {
            let state = if role == "worker" { "standby" } else { "serving" };
            let pid = dying.server.wait_status("one to be killed", BOUND, |status| {
                process(status, role, state).map(|p| p.pid).filter(|pid| !known.contains(pid))
            })?;
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            known.push(pid);
        }
        dying.server.wait_status("another standby", BOUND, |status| {
            process(status, "worker", "standby").filter(|p| !known.contains(&p.pid)).map(|_| ())
        })?;
        let owner = dying.wait_owner(1, &[])?;
        signal(&owner, Signal::SIGKILL)?;
        dying.wait_death(&owner.worker)?;
        let log = dying.finish()?;
        ensure!(!log.contains("slot_given_up"), "{log}");
        Ok(())
    });
}

/// A port whose connections never come about: its listener's queue is full.
fn tarpit() -> Result<(u16, Vec<Box<dyn std::any::Any>>)> {
    let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
    listen(&listener, Backlog::new(0)?)?;
    let address: SockaddrIn = nix::sys::socket::getsockname(listener.as_raw_fd())?;
    let port = address.port();
    let mut held: Vec<Box<dyn std::any::Any>> = vec![Box::new(listener)];
    let target = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    wait::until("a full queue", BOUND, || {
        match TcpStream::connect_timeout(&target, Duration::from_millis(300)) {
            Ok(stream) => {
                held.push(Box::new(stream));
                Ok(None)
            }
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Ok(Some(())),
            Err(error) => Err(error.into()),
        }
    })?;
    Ok((port, held))
}

fn memory_bytes(pid: i32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: u64 = line.context("no such field")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// A memory cgroup of this test's own, removed with this value.
struct Cgroup(String);

impl Cgroup {
    /// `None` where none can be made. Processes that are in it when it is removed stay where the
    /// kernel puts them.
    fn limited(run: &Path, bytes: u64) -> Option<Self> {
        let name = run.file_name()?.to_str()?;
        for (root, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let directory = format!("{root}/{name}");
            if std::fs::create_dir(&directory).is_err() {
                continue;
            }
            let made = Self(directory);
            if std::fs::write(format!("{}/{limit}", made.0), bytes.to_string()).is_ok() {
                return Some(made);
            }
        }
        None
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let gone = wait::until("an empty cgroup", Duration::from_secs(5), || {
            Ok(std::fs::remove_dir(&self.0).is_ok().then_some(()))
        });
        if gone.is_err() {
            eprintln!("{} is left", self.0);
        }
    }
}
