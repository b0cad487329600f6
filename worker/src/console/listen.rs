//! Connections: a bounded number, each with a bounded wait for what it asks.

use super::health::{Availability, agent_line_without_answer};
use super::state::State;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use std::sync::Arc;
use tasuki_shared::limits::{
    ACCEPT_PAUSE, CONSOLE_CONNECTIONS_MAX, CONSOLE_LEAVE_MAX, DELIVERY_HEADER_BYTES_MAX,
    DELIVERY_HEADER_DEADLINE, DELIVERY_STALL_MAX,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Takes connections until it is dropped. Too many: those that come wait in the kernel's queue.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections: Arc<Semaphore>,
    leaving: watch::Receiver<bool>,
) {
    let converse = |socket, permit| {
        tokio::spawn(converse(socket, router.clone(), permit, leaving.clone()));
    };
    accept(listener, connections, converse).await;
}

/// Until every connection is closed, at most for the bound.
pub async fn emptied(connections: &Semaphore) {
    let all = u32::try_from(CONSOLE_CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _too_long = tokio::time::timeout(CONSOLE_LEAVE_MAX, connections.acquire_many(all)).await;
}

/// Tells each who connects the node's weight, and closes.
pub async fn agent_check(listener: TcpListener, state: Arc<State>, connections: Arc<Semaphore>) {
    let tell = |mut socket: TcpStream, permit: OwnedSemaphorePermit| {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let line = match state.status().await {
                Ok(status) => Availability::of(&status).agent_line(),
                Err(error) => agent_line_without_answer(&error.to_string()),
            };
            // A line fits into any socket's buffer: this does not wait.
            if socket.write_all(line.as_bytes()).await.is_ok() {
                let _left = socket.shutdown().await;
            }
            drop(permit);
        });
    };
    accept(listener, connections, tell).await;
}

/// As many as may be open at once.
#[must_use]
pub fn connections() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONSOLE_CONNECTIONS_MAX))
}

/// Until the process is to leave.
async fn told(leaving: &mut watch::Receiver<bool>) {
    let _sender_is_gone = leaving.wait_for(|leaving| *leaving).await;
}

async fn accept(
    listener: TcpListener,
    connections: Arc<Semaphore>,
    take: impl Fn(TcpStream, OwnedSemaphorePermit),
) {
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _peer)) => take(socket, permit),
            Err(error) => {
                tracing::warn!(%error, "a connection to the console could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    socket: TcpStream,
    router: Router,
    permit: OwnedSemaphorePermit,
    mut leaving: watch::Receiver<bool>,
) {
    let first_byte = tokio::time::timeout(DELIVERY_HEADER_DEADLINE, socket.readable());
    if !matches!(first_byte.await, Ok(Ok(()))) {
        return;
    }
    // Who takes nothing holds its place no longer than this.
    let stall_ms = u32::try_from(DELIVERY_STALL_MAX.as_millis()).unwrap_or(u32::MAX);
    let _as_good_without = setsockopt(&socket, sockopt::TcpUserTimeout, &stall_ms);
    let _as_good_without = setsockopt(&socket, sockopt::KeepAlive, &true);
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(DELIVERY_HEADER_DEADLINE)
        .max_buf_size(DELIVERY_HEADER_BYTES_MAX);
    let service = TowerToHyperService::new(router);
    let conversation = builder.serve_connection(TokioIo::new(socket), service);
    tokio::pin!(conversation);
    // Browsers leave in the middle of everything.
    tokio::select! {
        // What came before the word to leave is answered.
        biased;
        _left = &mut conversation => return,
        _told = told(&mut leaving) => conversation.as_mut().graceful_shutdown(),
    }
    let _left = conversation.await;
    drop(permit);
}
