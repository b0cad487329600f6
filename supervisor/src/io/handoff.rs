//! What outlives a worker: a dup of every socket and memfd of every session.
//!
//! Fds go to a worker with its lease or verdict and stay here as well, so a worker's death closes
//! nothing. They are shared with the frames that wait for the end of a turn to be sent. They leave this table in one way: the session is closed, its sockets shut down first,
//! because a worker's own dup would otherwise keep the connection open.

use crate::core::event::Fds;
use nix::sys::socket::{Shutdown, shutdown};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use tasuki_shared::id::{Generation, PushId, SessionId};
use tasuki_shared::kernel;
use tasuki_shared::memory::session::{Activity, WorkPlace};
use tasuki_shared::memory::{self, MemoryError};
use tasuki_shared::message::{Lease, Owner, Role, ToWorker, Verdict};
use tasuki_shared::plan::Plan;

/// The fds of a frame in their order.
pub type Attached = Vec<Arc<OwnedFd>>;

/// Everything held for one session.
#[derive(Debug)]
struct Held {
    socket: Arc<OwnedFd>,
    /// Made at the first lease, so a connection that is closed at once never has one.
    memory: Option<Arc<OwnedFd>>,
    logs: Vec<Arc<OwnedFd>>,
    pushes: Vec<Arc<OwnedFd>>,
    connected: BTreeMap<PushId, Arc<OwnedFd>>,
    /// What the owner rings when it has released the session to the target of a hand-off.
    bell: Option<Arc<OwnedFd>>,
}

/// All sessions' fds, listeners that other processes serve, and sockets that the dialer connected and nobody has yet.
#[derive(Debug, Default)]
pub struct Vault {
    sessions: HashMap<SessionId, Held>,
    dialed: HashMap<u64, OwnedFd>,
    /// By who serves them.
    listeners: HashMap<Role, Attached>,
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
    #[error("its owner word: {0}")]
    OwnerWord(#[source] MemoryError),
    #[error("its file descriptors are gone")]
    Unknown,
}

impl Held {
    /// The fds of a lease in their order.
    fn fds(&self, lease: &Lease, memory: Arc<OwnedFd>) -> Result<Attached, HandoffError> {
        let mut fds = vec![Arc::clone(&self.socket), memory];
        if let Some(live) = &lease.live {
            fds.extend(self.logs.iter().cloned());
            fds.extend(self.pushes.iter().cloned());
            for push in &live.connected {
                fds.push(Arc::clone(self.connected.get(push).ok_or(HandoffError::Unknown)?));
            }
        }
        Ok(fds)
    }
}

impl Vault {
    pub fn accept(&mut self, session: SessionId, socket: TcpStream) {
        let held = Held {
            socket: Arc::new(socket.into()),
            memory: None,
            logs: Vec::new(),
            pushes: Vec::new(),
            connected: BTreeMap::new(),
            bell: None,
        };
        self.sessions.insert(session, held);
    }

    /// What a process of this role is given; they stay open here while one replaces another.
    pub fn keep_listeners(&mut self, role: Role, listeners: impl Iterator<Item = OwnedFd>) {
        self.listeners.insert(role, listeners.map(Arc::new).collect());
    }

    /// The fds that go with a frame, in their order.
    pub fn attach(&mut self, body: &mut ToWorker, fds: Fds) -> Result<Attached, HandoffError> {
        match (fds, body) {
            (Fds::Session(_), ToWorker::Adopt(lease)) => self.lease(lease),
            (Fds::Logs(session), ToWorker::Verdict { verdict: Verdict::Allow(plan), .. }) => {
                self.logs(session, plan)
            }
            (Fds::Dialed { session, push, ticket }, _) => {
                Ok(vec![self.claim_dialed(session, push, ticket)?])
            }
            (Fds::Preparation(_), ToWorker::Prepare(lease)) => self.preparation(lease),
            (Fds::Listeners(role), _) => Ok(self.listeners.get(&role).cloned().unwrap_or_default()),
            (Fds::ReadOnlyLogs(session), _) => self.read_only_logs(session),
            (Fds::Bell(session), _) => {
                let held = self.sessions.get(&session).ok_or(HandoffError::Unknown)?;
                Ok(vec![held.bell.clone().ok_or(HandoffError::Unknown)?])
            }
            (Fds::None | Fds::Session(_) | Fds::Preparation(_) | Fds::Logs(_), _) => Ok(Vec::new()),
        }
    }

    /// The fds of a lease in their order. The owner word is the truth about the owner: what the
    /// lease expects is corrected by it, for a worker may have died between its CAS and its word.
    /// While no adopter has written one, the owner is who the lease says.
    pub fn lease(&mut self, lease: &mut Lease) -> Result<Attached, HandoffError> {
        let held = self.sessions.get_mut(&lease.session).ok_or(HandoffError::Unknown)?;
        let memory = match &held.memory {
            Some(memory) => {
                let owner = memory::session::read_owner(memory).map_err(HandoffError::OwnerWord)?;
                lease.expect = owner.unwrap_or(lease.expect);
                memory
            }
            None => {
                let made = memory::session::create().map_err(HandoffError::Memory)?;
                held.memory.insert(Arc::new(made))
            }
        };
        let memory = Arc::clone(memory);
        held.fds(lease, memory)
    }

    /// As `lease` for a session that its owner still holds, and last a new eventfd.
    fn preparation(&mut self, lease: &Lease) -> Result<Attached, HandoffError> {
        let held = self.sessions.get_mut(&lease.session).ok_or(HandoffError::Unknown)?;
        let bell = Arc::new(OwnedFd::from(kernel::event().map_err(HandoffError::Bell)?));
        held.bell = Some(Arc::clone(&bell));
        let memory = held.memory.clone().ok_or(HandoffError::Unknown)?;
        let mut fds = held.fds(lease, memory)?;
        fds.push(bell);
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

    /// The sessions that this dead process owned and was at work on, as their memory says, and where.
    pub fn processing(&self, generation: Generation) -> BTreeMap<SessionId, WorkPlace> {
        let at_work = |memory: &Arc<OwnedFd>| {
            let owner = memory::session::read_owner(memory).ok().flatten();
            let activity = memory::session::read_activity(memory).ok();
            let is_its = owner == Some(Owner::Held(generation));
            let at_work = is_its && activity == Some(Activity::Processing);
            at_work.then(|| memory::session::read_work_place(memory).unwrap_or_default())
        };
        let sessions = self.sessions.iter();
        sessions
            .filter_map(|(id, held)| Some((*id, held.memory.as_ref().and_then(at_work)?)))
            .collect()
    }

    /// The memfds of a plan in their order, made once.
    pub fn logs(&mut self, session: SessionId, plan: &Plan) -> Result<Attached, HandoffError> {
        let held = self.sessions.get_mut(&session).ok_or(HandoffError::Unknown)?;
        if held.logs.is_empty() {
            let logs =
                plan.logs().into_iter().map(|(_, size)| memory::log::create(size).map(Arc::new));
            let logs = logs.collect::<io::Result<_>>().map_err(HandoffError::Log)?;
            let pushes = plan.pushes.iter().map(|_| memory::push::create().map(Arc::new));
            held.pushes = pushes.collect::<io::Result<_>>().map_err(HandoffError::Push)?;
            held.logs = logs;
        }
        Ok(held.logs.iter().chain(&held.pushes).cloned().collect())
    }

    /// The logs once more, open for reading alone.
    fn read_only_logs(&self, session: SessionId) -> Result<Attached, HandoffError> {
        let held = self.sessions.get(&session).ok_or(HandoffError::Unknown)?;
        let reopened = held.logs.iter().map(|log| kernel::reopen_read_only(log).map(Arc::new));
        reopened.collect::<io::Result<_>>().map_err(HandoffError::Log)
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
    ) -> Result<Arc<OwnedFd>, HandoffError> {
        let socket = Arc::new(self.dialed.remove(&ticket).ok_or(HandoffError::Unknown)?);
        let held = self.sessions.get_mut(&session).ok_or(HandoffError::Unknown)?;
        held.connected.insert(push, Arc::clone(&socket));
        Ok(socket)
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
            held.connected.values().for_each(|socket| shut_down(socket));
        }
    }
}

/// A connection that is gone already is as good.
fn shut_down(socket: &OwnedFd) {
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use tasuki_shared::memory::owner;
    use tasuki_shared::memory::session::SessionMemory;
    use tasuki_shared::message::Admission;

    /// What viewers are served from can be read and not written; it is the same memory.
    #[test]
    fn readers_outside_get_logs_that_they_cannot_write() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut vault, session) = (Vault::default(), SessionId { epoch: 1, counter: 1 });
        vault.accept(session, listener.accept().unwrap().0);
        let log = memory::log::create(tasuki_shared::plan::LogSize {
            payload_bytes: 4096,
            index_entries: 64,
        });
        vault.sessions.get_mut(&session).unwrap().logs.push(Arc::new(log.unwrap()));
        let mut gone = ToWorker::StreamGone { session };
        let fds = vault.attach(&mut gone, Fds::ReadOnlyLogs(session)).unwrap();
        let [reopened] = &fds[..] else { panic!("{} fds", fds.len()) };
        assert!(memory::log::LogReader::open(reopened, memory::map::Access::Read).is_ok());
        assert!(memory::log::MappedLog::open(reopened).is_err());
        assert!(nix::sys::uio::pwrite(reopened, b"x", 0).is_err());
        assert!(nix::unistd::ftruncate(reopened, 0).is_err());
    }

    #[test]
    fn a_lease_expects_what_the_memory_says_and_what_it_said_before_while_that_is_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        let _client = TcpStream::connect(peer).unwrap();
        let (mut vault, session) = (Vault::default(), SessionId { epoch: 1, counter: 1 });
        vault.accept(session, listener.accept().unwrap().0);
        let [offered, later] = [1, 2].map(|generation| Owner::Offered(Generation(generation)));
        let lease =
            |expect| Lease { session, peer, expect, admission: Admission::Admit, live: None };
        // The first worker died before it did anything.
        let mut first = lease(offered);
        assert_eq!((vault.lease(&mut first).unwrap().len(), first.expect), (2, offered));
        let mut second = lease(later);
        let fds = vault.lease(&mut second).unwrap();
        assert_eq!(second.expect, later);
        // The second took the owner word and never said so.
        let memory = SessionMemory::finish(&*fds[1], second.expect).unwrap();
        owner::take(memory.owner(), second.expect, Generation(2)).unwrap();
        let mut third = lease(later);
        vault.lease(&mut third).unwrap();
        assert_eq!(third.expect, Owner::Held(Generation(2)));
        memory.owner().store(0, std::sync::atomic::Ordering::Relaxed);
        let refused = vault.lease(&mut lease(later));
        assert!(matches!(refused, Err(HandoffError::OwnerWord(_))));
    }
}
