//! What can be learnt of a worker from outside and by asking it: for an operator who looks, and for
//! the files that are kept of a worker before it is recycled for its memory.
//!
//! A set is a directory `evidence/TIME-recycleN-gG` with `heap.pb.gz`, `allocator.txt`, `smaps.txt`
//! and `threads.json`; it is written under another name and appears at once. The last
//! `EVIDENCE_SETS_MAX` stay. What cannot be had is missing from the set and costs no more than
//! `EVIDENCE_DEADLINE`.

use super::threads;
use crate::base64;
use crate::core::event::Event;
use crate::event_loop::SharedShell;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tasuki_shared::clock;
use tasuki_shared::id::Generation;
use tasuki_shared::limits::{EVIDENCE_BYTES_MAX, EVIDENCE_DEADLINE, EVIDENCE_SETS_MAX};
use tasuki_shared::message::EvidenceKind;
use tasuki_shared::status::Reply;
use tokio::sync::oneshot;

/// What a worker answered; gone without one when the worker died.
pub type Awaited = oneshot::Receiver<Result<OwnedFd, String>>;

/// Who waits for which answer.
#[derive(Debug, Default)]
pub struct Desk {
    waiting: HashMap<u64, (Generation, oneshot::Sender<Result<OwnedFd, String>>)>,
    next_ticket: u64,
}

impl Desk {
    pub fn ask(&mut self, of: Generation) -> (u64, Awaited) {
        // Those whose deadline has passed wait no more.
        self.waiting.retain(|_, (_, sender)| !sender.is_closed());
        self.next_ticket += 1;
        let (sender, awaited) = oneshot::channel();
        self.waiting.insert(self.next_ticket, (of, sender));
        (self.next_ticket, awaited)
    }

    /// An answer to a ticket that was not given to this worker is dropped.
    pub fn answered(
        &mut self,
        by: Generation,
        ticket: u64,
        outcome: Result<(), String>,
        memfd: Option<OwnedFd>,
    ) {
        if self.waiting.get(&ticket).is_none_or(|(of, _)| *of != by) {
            return;
        }
        let Some((_, sender)) = self.waiting.remove(&ticket) else { return };
        let answer = match (outcome, memfd) {
            (Ok(()), Some(memfd)) => Ok(memfd),
            (Ok(()), None) => Err("its answer came without the evidence".to_owned()),
            (Err(error), _) => Err(error),
        };
        // Nobody may wait any more.
        let _ = sender.send(answer);
    }

    pub fn forget(&mut self, dead: Generation) {
        self.waiting.retain(|_, (of, _)| *of != dead);
    }
}

/// Where sets of evidence are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory(Option<PathBuf>);

impl Directory {
    /// Below the state directory that systemd gives a service. Without one nothing is kept.
    pub fn from_environment() -> Self {
        let list = std::env::var_os("STATE_DIRECTORY");
        let first = list.as_deref().and_then(|list| std::env::split_paths(list).next());
        Self(first.filter(|path| path.is_absolute()).map(|path| path.join("evidence")))
    }
}

/// Saves a set; tells the core in any case.
pub async fn save(shell: SharedShell, to: Directory, recycle: u64, generation: Generation) {
    let saving = try_save(&shell, to, recycle, generation);
    let path = match tokio::time::timeout(EVIDENCE_DEADLINE, saving).await {
        Ok(Ok(path)) => Some(path.display().to_string()),
        Ok(Err(error)) => {
            tracing::warn!(%error, recycle, %generation, "no evidence is saved");
            None
        }
        Err(_) => {
            tracing::warn!(recycle, %generation, "no evidence is saved within the deadline");
            None
        }
    };
    shell.borrow_mut().on(Event::EvidenceSaved { recycle, generation, path });
}

async fn try_save(
    shell: &SharedShell,
    to: Directory,
    recycle: u64,
    generation: Generation,
) -> io::Result<PathBuf> {
    let Directory(Some(directory)) = to else {
        return Err(io::Error::other("there is no STATE_DIRECTORY"));
    };
    let pid = shell.borrow().pid_of(generation).ok_or(io::ErrorKind::NotFound)?;
    let outside = tokio::task::spawn_blocking(move || {
        let smaps = fs::read(format!("/proc/{pid}/smaps")).ok();
        (smaps, serde_json::to_vec_pretty(&threads::of(pid)).ok())
    });
    // One after the other: a worker looks at one thing at a time.
    let heap = ask(shell, generation, EvidenceKind::Heap).await;
    let allocator = ask(shell, generation, EvidenceKind::Allocator).await;
    let (smaps, threads) = outside.await.map_err(io::Error::other)?;
    for error in [&heap, &allocator].into_iter().filter_map(|found| found.as_ref().err()) {
        tracing::warn!(%error, recycle, %generation, "a piece of evidence is missing");
    }
    let name = format!("{}-recycle{recycle}-g{}", clock::unix_ms(), generation.0);
    let pieces = vec![
        ("heap.pb.gz", heap.ok()),
        ("allocator.txt", allocator.ok()),
        ("smaps.txt", smaps),
        ("threads.json", threads),
    ];
    tokio::task::spawn_blocking(move || write_set(&directory, &name, &pieces))
        .await
        .map_err(io::Error::other)?
}

/// Bytes of one piece, within the deadline.
async fn ask(
    shell: &SharedShell,
    generation: Generation,
    kind: EvidenceKind,
) -> Result<Vec<u8>, String> {
    let awaited = shell.borrow_mut().ask_evidence(generation, kind);
    let answered = tokio::time::timeout(EVIDENCE_DEADLINE, awaited)
        .await
        .map_err(|_| format!("the worker did not answer within {EVIDENCE_DEADLINE:?}"))?;
    let memfd = answered.map_err(|_| "the worker is gone".to_owned())??;
    read_piece(memfd).map_err(|error| error.to_string())
}

/// The size is the worker's claim: no more than the bound is read.
fn read_piece(memfd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = fs::File::from(memfd);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("the evidence is no memory"));
    }
    file.seek(SeekFrom::Start(0))?;
    let bound = u64::try_from(EVIDENCE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(bound + 1).read_to_end(&mut bytes)?;
    if bytes.len() > EVIDENCE_BYTES_MAX {
        return Err(io::Error::other(format!("more than {EVIDENCE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

type Piece = (&'static str, Option<Vec<u8>>);

fn write_set(directory: &Path, name: &str, pieces: &[Piece]) -> io::Result<PathBuf> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    let (unfinished, path) = (directory.join(format!(".{name}")), directory.join(name));
    builder.create(&unfinished)?;
    for (file, bytes) in pieces {
        if let Some(bytes) = bytes {
            fs::write(unfinished.join(file), bytes)?;
        }
    }
    fs::rename(&unfinished, &path)?;
    keep_last(directory)?;
    Ok(path)
}

/// Names begin with the time, so the oldest come first; what a crash left unfinished goes as well.
fn keep_last(directory: &Path) -> io::Result<()> {
    let (mut unfinished, mut sets) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            unfinished.push(entry.path());
        } else if name.contains("-recycle") {
            sets.push(entry.path());
        }
    }
    sets.sort();
    sets.truncate(sets.len().saturating_sub(EVIDENCE_SETS_MAX));
    for path in unfinished.into_iter().chain(sets) {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

pub async fn heap_reply(shell: &SharedShell, worker: String) -> Reply {
    let found = shell.borrow().worker_in(&worker);
    let profile = match found {
        Ok((generation, _)) => ask(shell, generation, EvidenceKind::Heap).await,
        Err(reason) => Err(reason),
    };
    match profile {
        Ok(profile) => Reply::Heap { worker, profile: base64::encode(&profile) },
        Err(reason) => Reply::Refused { reason },
    }
}

pub async fn threads_reply(shell: &SharedShell, worker: String) -> Reply {
    let found = shell.borrow().worker_in(&worker);
    let threads = match found {
        Ok((_, pid)) => tokio::task::spawn_blocking(move || threads::of(pid)).await,
        Err(reason) => return Reply::Refused { reason },
    };
    match threads {
        Ok(threads) => Reply::Threads { worker, threads },
        Err(error) => Reply::Refused { reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sets_stay_whole_and_nothing_unfinished_does() {
        let directory =
            std::env::temp_dir().join(format!("tasuki-evidence-{}", std::process::id()));
        fs::create_dir_all(directory.join(".1-recycle0-g1")).unwrap();
        fs::create_dir_all(directory.join("an operator's")).unwrap();
        for number in 0..EVIDENCE_SETS_MAX + 5 {
            let name = format!("{}-recycle{number}-g1", 1000 + number);
            let pieces = [("smaps.txt", Some(vec![1, 2, 3])), ("heap.pb.gz", None)];
            let path = write_set(&directory, &name, &pieces).unwrap();
            assert_eq!(fs::read(path.join("smaps.txt")).unwrap(), [1, 2, 3]);
        }
        let mut left: Vec<String> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected: Vec<String> = (5..EVIDENCE_SETS_MAX + 5)
            .map(|number| format!("{}-recycle{number}-g1", 1000 + number))
            .collect();
        expected.push("an operator's".to_owned());
        assert_eq!(left, expected);
        fs::remove_dir_all(directory).unwrap();
    }

    /// Only the worker that was asked answers a ticket, and a dead one answers none.
    #[test]
    fn a_ticket_is_answered_by_the_worker_that_was_asked() {
        let mut desk = Desk::default();
        let (ticket, mut awaited) = desk.ask(Generation(1));
        desk.answered(Generation(2), ticket, Err("forged".into()), None);
        assert!(awaited.try_recv().is_err());
        desk.answered(Generation(1), ticket, Ok(()), None);
        assert!(awaited.try_recv().unwrap().is_err());
        let (_, mut awaited) = desk.ask(Generation(1));
        desk.forget(Generation(1));
        assert_eq!(awaited.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
    }
}
