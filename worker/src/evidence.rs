//! What this process knows of its own memory: heap profile and allocator statistics.
//!
//! A dump takes a tenth of a second and symbols take longer, so each look has a thread of its own,
//! one at a time; the io thread only passes on what was found.

use crate::allocator;
use crate::bell::{Bell, CONTROL};
use crate::session::Outbox;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use tasuki_shared::limits::EVIDENCE_BYTES_MAX;
use tasuki_shared::message::{EvidenceKind, FromWorker};

type Found = (u64, Result<OwnedFd, String>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Idle,
    UnderWay,
}

/// See the module. At most one result waits, for there is one look at a time.
pub struct Evidence {
    look: Look,
    finder: Sender<Found>,
    found: Receiver<Found>,
    refused: Vec<u64>,
}

impl Default for Evidence {
    fn default() -> Self {
        let (finder, found) = channel();
        Self { look: Look::Idle, finder, found, refused: Vec::new() }
    }
}

impl Evidence {
    /// Begins a look; the bell rings when it is done.
    pub fn look(&mut self, ticket: u64, kind: EvidenceKind, bell: &Arc<Bell>) {
        match self.look {
            Look::UnderWay => self.refused.push(ticket),
            Look::Idle => {
                let (finder, bell) = (self.finder.clone(), Arc::clone(bell));
                let work = move || {
                    let found = find(kind);
                    // Without an io thread nobody asks any more.
                    let _ = finder.send((ticket, found));
                    bell.ring(CONTROL);
                };
                match std::thread::Builder::new().name("evidence".to_owned()).spawn(work) {
                    Ok(_detached) => self.look = Look::UnderWay,
                    Err(_) => self.refused.push(ticket),
                }
            }
        }
    }

    /// Puts what was found since the last call into the outbox.
    pub fn take_found(&mut self, outbox: &mut Outbox) {
        for ticket in self.refused.drain(..) {
            let outcome = Err("this worker looks at itself already".to_owned());
            outbox.push((FromWorker::Evidence { ticket, outcome }, Vec::new()));
        }
        while let Ok((ticket, found)) = self.found.try_recv() {
            self.look = Look::Idle;
            let (outcome, fds) = match found {
                Ok(memfd) => (Ok(()), vec![memfd]),
                Err(error) => (Err(error), Vec::new()),
            };
            outbox.push((FromWorker::Evidence { ticket, outcome }, fds));
        }
    }
}

/// A memfd with what was found; takes a tenth of a second and more.
pub(crate) fn find(kind: EvidenceKind) -> Result<OwnedFd, String> {
    let bytes = match kind {
        EvidenceKind::Heap => heap_profile()?,
        EvidenceKind::Allocator => allocator::report().into_bytes(),
    };
    if bytes.len() > EVIDENCE_BYTES_MAX {
        return Err(format!("{} bytes, at most {EVIDENCE_BYTES_MAX}", bytes.len()));
    }
    let memfd = memfd_create(c"tasuki-evidence", MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| format!("memfd: {errno}"))?;
    let mut file = File::from(memfd);
    file.write_all(&bytes).map_err(|error| format!("memfd: {error}"))?;
    Ok(file.into())
}

/// A gzipped pprof profile of what is allocated now, with the names of functions.
pub fn heap_profile() -> Result<Vec<u8>, String> {
    let profiler = jemalloc_pprof::PROF_CTL.as_ref().ok_or("the allocator does not profile")?;
    let mut profiler = profiler.try_lock().map_err(|_| "a profile is being made")?;
    profiler.dump_pprof().map_err(|error| format!("{error:#}"))
}
