//! What outlives a worker: a dup of every socket and memfd of every session.
//!
//! Fds go to a worker with its lease or verdict and stay here as well, so a worker's death closes
//! nothing. They leave this table in one way: the session is closed, its sockets shut down first,
//! because a worker's own dup would otherwise keep the connection open.

use crate::core::event::Fds;
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{Shutdown, shutdown};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use tasuki_shared::id::{Generation, PushId, SessionId};
use tasuki_shared::kernel;
use tasuki_shared::memory;
use tasuki_shared::memory::session::Activity;
use tasuki_shared::message::{Lease, Owner, ToWorker, Verdict};
use tasuki_shared::plan::Plan;

/// Everything held for one session.
#[derive(Debug)]
struct Held {
    socket: OwnedFd,
    /// Made at the first lease, so a connection that is closed at once never has one.
    memory: Option<OwnedFd>,
    logs: Vec<OwnedFd>,
    pushes: Vec<OwnedFd>,
    connected: BTreeMap<PushId, OwnedFd>,
    /// What the owner rings when it has released the session to the target of a hand-off.
    bell: Option<EventFd>,
}

/// All sessions' fds, and sockets that the dialer connected and nobody has yet.
#[derive(Debug, Default)]
pub struct Vault {
    sessions: HashMap<SessionId, Held>,
    dialed: HashMap<u64, OwnedFd>,
}

/// Fds that cannot be made or found.
#[derive(Debug, thiserror::Error)]
pub enum HandoffError {
    #[error("memory for the session: {0}")]
    Memory(#[source] io::Error),
    #[error("memory for a log: {0}")]
    Log(#[source] io::Error),
    #[error("memory for a push: {0}")]
    Push(#[source] io::Error),
    #[error("an eventfd for a hand-off: {0}")]
    Bell(#[source] io::Error),
    #[error("its owner word is damaged")]
    OwnerWord,
    #[error("its file descriptors are gone")]
    Unknown,
}

impl Held {
    /// The fds of a lease in their order.
    fn fds(&self, lease: &Lease) -> Result<Vec<BorrowedFd<'_>>, HandoffError> {
        let mut fds = vec![self.socket.as_fd()];
        fds.extend(self.memory.as_ref().map(AsFd::as_fd));
        if let Some(live) = &lease.live {
            fds.extend(self.logs.iter().map(AsFd::as_fd));
            fds.extend(self.pushes.iter().map(AsFd::as_fd));
            for push in &live.connected {
                fds.push(self.connected.get(push).ok_or(HandoffError::Unknown)?.as_fd());
            }
        }
        Ok(fds)
    }
}

impl Vault {
    pub fn accept(&mut self, session: SessionId, socket: TcpStream) {
        let held = Held {
            socket: socket.into(),
            memory: None,
            logs: Vec::new(),
            pushes: Vec::new(),
            connected: BTreeMap::new(),
            bell: None,
        };
        self.sessions.insert(session, held);
    }

    /// The fds that go with a frame, in their order.
    pub fn attach(
        &mut self,
        body: &mut ToWorker,
        fds: Fds,
    ) -> Result<Vec<BorrowedFd<'_>>, HandoffError> {
        match (fds, body) {
            (Fds::Session(_), ToWorker::Adopt(lease)) => self.lease(lease),
            (Fds::Logs(session), ToWorker::Verdict { verdict: Verdict::Allow(plan), .. }) => {
                self.logs(session, plan)
            }
            (Fds::Dialed { session, push, ticket }, _) => {
                Ok(vec![self.claim_dialed(session, push, ticket)?])
            }
            (Fds::Preparation(_), ToWorker::Prepare(lease)) => self.preparation(lease),
            (Fds::Bell(session), _) => {
                let held = self.sessions.get(&session).ok_or(HandoffError::Unknown)?;
                Ok(vec![held.bell.as_ref().ok_or(HandoffError::Unknown)?.as_fd()])
            }
            (Fds::None | Fds::Session(_) | Fds::Preparation(_) | Fds::Logs(_), _) => Ok(Vec::new()),
        }
    }

    /// The fds of a lease in their order. The owner word is the truth about the owner: what the
    /// lease expects is corrected by it, for a worker may have died between its CAS and its word.
    pub fn lease(&mut self, lease: &mut Lease) -> Result<Vec<BorrowedFd<'_>>, HandoffError> {
        let held = self.sessions.get_mut(&lease.session).ok_or(HandoffError::Unknown)?;
        match &held.memory {
            Some(held_memory) => {
                lease.expect = memory::session::read_owner(held_memory)
                    .map_err(HandoffError::Memory)?
                    .ok_or(HandoffError::OwnerWord)?;
            }
            None => {
                let made = memory::session::create(lease.expect).map_err(HandoffError::Memory)?;
                held.memory = Some(made);
            }
        }
        held.fds(lease)
    }

    /// As `lease` for a session that its owner still holds, and last a new eventfd.
    fn preparation(&mut self, lease: &Lease) -> Result<Vec<BorrowedFd<'_>>, HandoffError> {
        let held = self.sessions.get_mut(&lease.session).ok_or(HandoffError::Unknown)?;
        held.bell = Some(kernel::event().map_err(HandoffError::Bell)?);
        let mut fds = held.fds(lease)?;
        fds.extend(held.bell.as_ref().map(AsFd::as_fd));
        Ok(fds)
    }

    pub fn drop_bell(&mut self, session: SessionId) {
        if let Some(held) = self.sessions.get_mut(&session) {
            held.bell = None;
        }
    }

    /// What the owner word says; `None` where it is damaged or not there.
    pub fn owner(&self, session: SessionId) -> Option<Owner> {
        let memory = self.sessions.get(&session)?.memory.as_ref()?;
        memory::session::read_owner(memory).ok().flatten()
    }

    /// The sessions that this dead process owned and was at work on, as their memory says.
    pub fn processing(&self, generation: Generation) -> BTreeSet<SessionId> {
        let at_work = |memory: &OwnedFd| {
            let owner = memory::session::read_owner(memory).ok().flatten();
            let activity = memory::session::read_activity(memory).ok();
            owner == Some(Owner::Held(generation)) && activity == Some(Activity::Processing)
        };
        let sessions = self.sessions.iter();
        sessions
            .filter(|(_, held)| held.memory.as_ref().is_some_and(at_work))
            .map(|(id, _)| *id)
            .collect()
    }

    /// The memfds of a plan in their order, made once.
    pub fn logs(
        &mut self,
        session: SessionId,
        plan: &Plan,
    ) -> Result<Vec<BorrowedFd<'_>>, HandoffError> {
        let held = self.sessions.get_mut(&session).ok_or(HandoffError::Unknown)?;
        if held.logs.is_empty() {
            let logs = plan.logs().into_iter().map(|(_, size)| memory::log::create(size));
            let logs = logs.collect::<io::Result<_>>().map_err(HandoffError::Log)?;
            let pushes = plan.pushes.iter().map(|_| memory::push::create());
            held.pushes = pushes.collect::<io::Result<_>>().map_err(HandoffError::Push)?;
            held.logs = logs;
        }
        Ok(held.logs.iter().chain(&held.pushes).map(AsFd::as_fd).collect())
    }

    /// Keeps a socket that came with a ticket until the core says whose it is.
    pub fn keep_dialed(&mut self, ticket: u64, socket: OwnedFd) {
        self.dialed.insert(ticket, socket);
    }

    pub fn drop_dialed(&mut self, ticket: u64) {
        self.dialed.remove(&ticket);
    }

    /// Makes the socket of `ticket` the push's connection.
    pub fn claim_dialed(
        &mut self,
        session: SessionId,
        push: PushId,
        ticket: u64,
    ) -> Result<BorrowedFd<'_>, HandoffError> {
        let socket = self.dialed.remove(&ticket).ok_or(HandoffError::Unknown)?;
        let held = self.sessions.get_mut(&session).ok_or(HandoffError::Unknown)?;
        held.connected.insert(push, socket);
        held.connected.get(&push).map(AsFd::as_fd).ok_or(HandoffError::Unknown)
    }

    pub fn drop_push(&mut self, session: SessionId, push: PushId) {
        if let Some(socket) =
            self.sessions.get_mut(&session).and_then(|s| s.connected.remove(&push))
        {
            shut_down(&socket);
        }
    }

    pub fn close(&mut self, session: SessionId) {
        if let Some(held) = self.sessions.remove(&session) {
            shut_down(&held.socket);
            held.connected.values().for_each(shut_down);
        }
    }
}

/// A connection that is gone already is as good.
fn shut_down(socket: &OwnedFd) {
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
}
