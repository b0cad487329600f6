//! The delivery role: serves viewers what packagers have made of the streams.
//!
//! | file | is |
//! |---|---|
//! | [`admission`] | which connections are taken |
//! | [`address`] | what a request asks for |
//! | [`rendition`] | segments and parts, as their notes say |
//! | [`playlist`] | their text |
//! | [`catalogue`] | which streams there are, by inotify |
//! | `files` | reading their files, and what to make of those that cannot be read |
//! | [`serve`] | finding, waiting, answering |
//! | [`answer`] | status, headers, bodies |
//! | [`flv`] | live streams from their logs |
//! | [`tls`] | certificates |
//! | [`sent`] | what sockets have taken |
//!
//! Stateless: what it knows it reads from the streams' directories, and is told again by the
//! supervisor of the streams whose logs it may read. It may die at any moment; its
//! listeners are the supervisor's, so that who connects meanwhile waits for the next process.

pub mod address;
pub mod admission;
pub mod answer;
pub mod catalogue;
mod files;
pub mod flv;
pub mod playlist;
pub mod rendition;
mod role;
pub mod sent;
pub mod serve;
pub mod tls;

pub use role::run;

use admission::{Admission, Place, Refusal};
use catalogue::Catalogue;
use flv::streams::Streams;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use nix::sys::socket::{setsockopt, sockopt};
use sent::{CountedStream, Sent};
use serve::Server;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::limits::{
    ACCEPT_PAUSE, DELIVERY_HEADER_BYTES_MAX, DELIVERY_HEADER_DEADLINE, DELIVERY_REQUESTS_AT_ONCE,
    DELIVERY_STALL_MAX,
};
use tasuki_shared::message::{Audience, DeliveryPlan, Served};
use tls::{Tls, TlsError};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_local};

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("the directory of streams, {path}: {error}")]
    Root { path: std::path::PathBuf, error: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("a listener: {0}")]
    Listener(io::Error),
}

/// What all listeners share.
struct Shared {
    server: Server,
    tls: Option<RefCell<Tls>>,
    admission: Rc<Admission>,
    sent: Sent,
    /// The process leaves: no connection takes another request.
    leaving: watch::Sender<bool>,
}

/// Counted while it is open.
pub struct Connection {
    shared: Rc<Shared>,
    broken: Notify,
    /// Something was asked.
    asked: Notify,
    _place: Place,
}

impl Connection {
    fn open(shared: &Rc<Shared>, place: Place) -> Rc<Self> {
        let (shared, broken, asked) = (Rc::clone(shared), Notify::new(), Notify::new());
        Rc::new(Self { shared, broken, asked, _place: place })
    }

    /// The process is to leave, and this connection was not accepted for nothing.
    async fn may_close(&self) {
        let mut leaving = self.shared.leaving.subscribe();
        let _sender_is_gone = leaving.wait_for(|leaving| *leaving).await;
        self.asked.notified().await;
    }

    /// Closes it, whatever waits to be sent.
    pub fn break_off(&self) {
        self.broken.notify_one();
    }
}

/// Serves on these listeners until dropped. To be called within a `LocalSet`.
pub fn start(
    plan: &DeliveryPlan,
    listeners: Vec<std::net::TcpListener>,
    streams: Rc<Streams>,
) -> Result<Serving, DeliveryError> {
    let root = |error| DeliveryError::Root { path: plan.hls_root.clone(), error };
    let catalogue = Catalogue::open(&plan.hls_root).map_err(root)?;
    let tls = match &plan.tls {
        Some((certificate, key)) => Some(Tls::load(certificate.clone(), key.clone())?),
        None => None,
    };
    let shared = Rc::new(Shared {
        server: Server::new(
            catalogue,
            Rc::clone(&streams),
            &plan.allow_origin,
            plan.connections_max,
        ),
        tls: tls.map(RefCell::new),
        admission: Admission::new(plan.connections_max, plan.connections_per_address_max),
        sent: Sent::default(),
        leaving: watch::Sender::new(false),
    });
    let mut tasks = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true).map_err(DeliveryError::Listener)?;
        let listener = TcpListener::from_std(listener).map_err(DeliveryError::Listener)?;
        tasks.push(Running(spawn_local(accept(Rc::clone(&shared), listener))));
    }
    let following = [spawn_local(watch(Rc::clone(&shared))), spawn_local(streams.follow())];
    Ok(Serving { shared, accepting: tasks, _following: following.map(Running) })
}

/// Ends what it serves when it is dropped; connections go on until they are idle.
pub struct Serving {
    shared: Rc<Shared>,
    accepting: Vec<Running>,
    /// As long as there are viewers: new parts, and new packets in logs.
    _following: [Running; 2],
}

/// A task that ends with its owner.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Serving {
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.shared.admission.open()
    }

    /// Whom it serves now, and what it has counted.
    #[must_use]
    pub fn audience(&self) -> Audience {
        let Shared { server, tls: _, admission, sent, leaving: _ } = &*self.shared;
        let streams = server.streams();
        Audience {
            connections: admission.open(),
            waits: server.waits(),
            flv_viewers: streams.viewers(),
            flv_by_session: streams.by_session(),
            served: Served {
                refused_full: admission.refused(Refusal::Full),
                refused_crowded: admission.refused(Refusal::Crowded),
                answers: server.answers(),
                sent_bytes: sent.load(Ordering::Relaxed),
                flv_jumps: streams.jumps.get(),
                flv_stalled: streams.stalled.get(),
            },
        }
    }

    /// Takes nothing new.
    pub fn stop(&mut self) {
        self.accepting.clear();
        self.shared.leaving.send_replace(true);
    }

    /// Until what was asked is answered and the last viewer of FLV is gone, at most for so long.
    pub async fn emptied(&self, most: Duration) {
        let emptied = self.shared.admission.emptied();
        if tokio::time::timeout(most.max(LEAVING_MIN), emptied).await.is_err() {
            let connections = self.connections();
            tracing::info!(connections, "viewers that are still there have to connect again");
        }
    }
}

/// Follows the directories.
async fn watch(shared: Rc<Shared>) {
    let readiness = match readiness(&shared) {
        Ok(readiness) => readiness,
        Err(error) => {
            tracing::error!(%error, "directories cannot be watched");
            return;
        }
    };
    loop {
        match readiness.readable().await {
            Ok(mut ready) => {
                ready.clear_ready();
                shared.server.catalogue.borrow_mut().look();
            }
            Err(error) => {
                tracing::error!(%error, "directories are watched no more");
                return;
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "the replacement is unsafe because a T may close its fd early; an OwnedFd does not"
)]
fn readiness(shared: &Shared) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = shared.server.catalogue.borrow().fd().try_clone_to_owned()?;
    AsyncFd::with_interest(fd, Interest::READABLE)
}

async fn accept(shared: Rc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => admit(&shared, socket, peer),
            Err(error) => {
                tracing::warn!(%error, "a viewer's connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(shared: &Rc<Shared>, socket: TcpStream, peer: SocketAddr) {
    let place = match shared.admission.admit(peer) {
        Ok(place) => place,
        Err(refusal) => return shared.admission.tell(refusal, peer, clock::now()),
    };
    let connection = Connection::open(shared, place);
    // A viewer that takes nothing holds its connection no longer than this.
    let stall_ms = u32::try_from(DELIVERY_STALL_MAX.as_millis()).unwrap_or(u32::MAX);
    let _as_good_without = setsockopt(&socket, sockopt::TcpUserTimeout, &stall_ms);
    let _as_good_without = setsockopt(&socket, sockopt::KeepAlive, &true);
    let _as_good_without = socket.set_nodelay(true);
    let acceptor = shared.tls.as_ref().map(|tls| tls.borrow_mut().acceptor());
    spawn_local(async move {
        // Which version of HTTP it is follows from the first bytes, which hyper waits for without end.
        let first_byte = tokio::time::timeout(DELIVERY_HEADER_DEADLINE, socket.readable());
        if !matches!(first_byte.await, Ok(Ok(()))) {
            return;
        }
        let socket = CountedStream::new(socket, Sent::clone(&connection.shared.sent));
        match acceptor {
            None => converse(connection, socket).await,
            Some(acceptor) => {
                let hello = tokio::time::timeout(DELIVERY_HEADER_DEADLINE, acceptor.accept(socket));
                if let Ok(Ok(stream)) = hello.await {
                    converse(connection, stream).await;
                }
            }
        }
    });
}

async fn converse(
    connection: Rc<Connection>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let asked = Rc::clone(&connection);
    let answer = service_fn(move |request| {
        let connection = Rc::clone(&asked);
        connection.asked.notify_one();
        async move { Ok::<_, Infallible>(connection.shared.server.answer(request, &connection).await) }
    });
    let mut builder = auto::Builder::new(Local);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(DELIVERY_HEADER_DEADLINE)
        .max_buf_size(DELIVERY_HEADER_BYTES_MAX);
    let header_bytes = u32::try_from(DELIVERY_HEADER_BYTES_MAX).unwrap_or(u32::MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(DELIVERY_REQUESTS_AT_ONCE)
        .max_header_list_size(header_bytes)
        .keep_alive_interval(DELIVERY_STALL_MAX)
        .keep_alive_timeout(DELIVERY_HEADER_DEADLINE);
    let conversation = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer);
    tokio::pin!(conversation);
    // Viewers leave in the middle of everything; that is nobody's fault.
    tokio::select! {
        _left = &mut conversation => return,
        () = connection.broken.notified() => return,
        () = connection.may_close() => conversation.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _left = conversation => {}
        () = connection.broken.notified() => {}
    }
}

/// Runs a connection's tasks on this thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// What was asked is answered, however soon the process is to leave.
const LEAVING_MIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
