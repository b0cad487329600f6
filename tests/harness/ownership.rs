//! Who owns the live sessions, as the kernel and the owner words have it.
//!
//! Of each publisher's connection the supervisor has a dup and exactly one worker has the socket
//! open, once. Of each session memory, read through the supervisor's own fds, the owner word is held
//! by a generation that lives, and that worker alone maps it for writing.

use crate::proc::Process;
use crate::server::Server;
use crate::wait;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use tasuki_shared::id::Generation;
use tasuki_shared::memory::session;
use tasuki_shared::message::Owner;
use tasuki_shared::status::{SessionStatus, Status, WorkerStatus};

/// An old owner frees what it had a little later.
const SETTLE_BOUND: Duration = Duration::from_secs(10);
const SESSION_MEMORY: &str = "/memfd:tasuki-session";
const ESTABLISHED: &str = "01";

/// The worker that a session's status names, if it is one that lives.
#[must_use]
pub fn worker_of<'a>(status: &'a Status, session: &SessionStatus) -> Option<&'a WorkerStatus> {
    status.workers.iter().find(|worker| {
        worker.pid != 0
            && format!("{}/{}", worker.slot, Generation(worker.generation)) == session.worker
    })
}

/// Waits until each of these publishers' sessions has exactly one owner. `publishers` are names of
/// streams and the processes that send them, and there is no other session.
pub fn check(server: &mut Server, publishers: &[(String, i32)]) -> Result<()> {
    let mut why = None;
    let settled = wait::until("exactly one owner for each session", SETTLE_BOUND, || {
        let status = server.status()?;
        match look(server, &status, publishers) {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                why = Some(error);
                Ok(None)
            }
        }
    });
    match (settled, why) {
        (Ok(()), _) => Ok(()),
        (Err(error), Some(why)) => Err(why.context(error.to_string())),
        (Err(error), None) => Err(error),
    }
}

fn look(server: &Server, status: &Status, publishers: &[(String, i32)]) -> Result<()> {
    let census = server.census()?;
    let (supervisors, workers): (Vec<_>, Vec<_>) =
        census.processes.iter().partition(|process| process.pid == server.pid());
    let supervisor = supervisors.first().context("the supervisor is gone")?;
    let port = server.address().rsplit(':').next().context("a port")?.parse()?;
    let mut by_sockets = Vec::new();
    for (name, pid) in publishers {
        let inode = servers_end(*pid, port).with_context(|| format!("the connection of {name}"))?;
        let target = format!("socket:[{inode}]");
        let open = |process: &Process| process.fds.values().filter(|fd| **fd == target).count();
        ensure!(open(supervisor) == 1, "{name}: {} dups in the supervisor", open(supervisor));
        let holders: Vec<_> =
            workers.iter().map(|w| (w.pid, open(w))).filter(|(_, count)| *count > 0).collect();
        let [(holder, 1)] = holders[..] else {
            anyhow::bail!("{name}: open in these processes, so often: {holders:?}")
        };
        let session = status.sessions.iter().find(|session| session.name == *name);
        let session = session.with_context(|| format!("no session {name}"))?;
        let told = worker_of(status, session).map(|worker| worker.pid);
        ensure!(told == Some(holder), "{name}: {holder} has it, the status says {told:?}");
        by_sockets.push(holder);
    }
    let mut by_words = by_words(supervisor, &workers, status)?;
    by_words.sort_unstable();
    by_sockets.sort_unstable();
    ensure!(by_words == by_sockets, "words name {by_words:?}, sockets are at {by_sockets:?}");
    Ok(())
}

/// The processes that the owner words name, each of which alone maps that session's memory.
fn by_words(supervisor: &Process, workers: &[&Process], status: &Status) -> Result<Vec<i32>> {
    let mut mapped = BTreeMap::new();
    for worker in workers {
        for inode in mapped_sessions(worker.pid)? {
            mapped.entry(inode).or_insert_with(Vec::new).push(worker.pid);
        }
    }
    let mut found = Vec::new();
    let fds = supervisor.fds.iter().filter(|(_, target)| target.starts_with(SESSION_MEMORY));
    for (fd, _) in fds {
        let memory = File::open(format!("/proc/{}/fd/{fd}", supervisor.pid))?;
        let owner = session::read_owner(&memory)?;
        let Some(Owner::Held(generation)) = owner else {
            anyhow::bail!("an owner word says {owner:?}")
        };
        let holder = status.workers.iter().find(|worker| worker.generation == generation.0);
        let holder = holder.with_context(|| format!("{generation} owns it and is no more"))?.pid;
        let mappers = mapped.remove(&memory.metadata()?.ino()).unwrap_or_default();
        ensure!(mappers == [holder], "{generation} ({holder}) owns it, {mappers:?} map it");
        found.push(holder);
    }
    ensure!(mapped.is_empty(), "mapped, and not the supervisor's: {mapped:?}");
    Ok(found)
}

/// Inodes of the session memories that a process maps so that it could write. A follower whose
/// thread hangs keeps the record mapped, to read.
fn mapped_sessions(pid: i32) -> Result<BTreeSet<u64>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut inodes = BTreeSet::new();
    for line in maps.lines().filter(|line| line.contains(SESSION_MEMORY)) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, permissions, _, _, inode, ..] = fields[..] else { anyhow::bail!("a map: {line}") };
        if permissions.contains('w') {
            inodes.insert(inode.parse()?);
        }
    }
    Ok(inodes)
}

/// Inode of the server's end of a publisher's connection to this port.
fn servers_end(publisher: i32, port: u16) -> Result<u64> {
    let mut own = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{publisher}/fd"))? {
        let target = fs::read_link(entry?.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        if let Some(inode) = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']')) {
            own.insert(inode.parse::<u64>()?);
        }
    }
    let table = fs::read_to_string("/proc/net/tcp")?;
    let rows: Vec<Vec<&str>> =
        table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let inode = |row: &[&str]| row.get(9).and_then(|text| text.parse::<u64>().ok());
    let suffix = format!(":{port:04X}");
    let ours = rows.iter().find(|row| {
        row.len() > 9
            && row[2].ends_with(&suffix)
            && row[3] == ESTABLISHED
            && inode(row).is_some_and(|inode| own.contains(&inode))
    });
    let ours = ours.context("it is not established")?;
    let theirs = rows.iter().find(|row| row.len() > 9 && row[1] == ours[2] && row[2] == ours[1]);
    theirs.and_then(|row| inode(row)).context("it has no other end here")
}
