//! The process around the console: told what to show, it serves until it is drained or alone.

use super::guard::Guard;
use super::state::State;
use super::{listen, routes};
use crate::control::LineError;
use crate::service::{Order, Service, Task};
use std::net::TcpListener as StdListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tasuki_shared::exit::Exit;
use tasuki_shared::inherit::Inherited;
use tasuki_shared::message::{ConsolePlan, FromWorker};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Serves until the supervisor drains this process or goes away.
#[must_use]
pub fn run(inherited: Inherited) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return Exit::Failure;
        }
    };
    let exit = runtime.block_on(serve(inherited));
    // A look at the heap must not hold the process.
    runtime.shutdown_background();
    exit.unwrap_or_else(|error| error.leave("the console"))
}

async fn serve(inherited: Inherited) -> Result<Exit, LineError> {
    let mut service = Service::open(inherited)?;
    let mut doors = JoinSet::new();
    let connections = listen::connections();
    let leaving = watch::Sender::new(false);
    loop {
        match service.order().await? {
            Order::Task(Task::Attend(plan), fds) => {
                if let Err(error) = begin(*plan, fds, &mut doors, &connections, &leaving) {
                    tracing::error!(%error, "the console cannot begin");
                    return Ok(Exit::Failure);
                }
                service.send(FromWorker::Ready)?;
            }
            Order::Task(Task::Serve(_) | Task::StreamLive { .. } | Task::StreamGone { .. }, _) => {
                tracing::warn!("a message that is not for the console");
            }
            Order::Drain => break,
        }
    }
    // What was asked is answered; who listens to events asks again, and the next process answers.
    doors.shutdown().await;
    leaving.send_replace(true);
    let emptied = listen::emptied(&connections);
    tokio::pin!(emptied);
    loop {
        tokio::select! {
            () = &mut emptied => break,
            // It gives its signs of life meanwhile.
            order = service.order() => drop(order?),
        }
    }
    service.flushed().await?;
    Ok(Exit::Done)
}

/// Why it cannot begin.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error("{path}: {reason}")]
    Token { path: std::path::PathBuf, reason: String },
    #[error("a listener: {0}")]
    Listener(#[from] std::io::Error),
}

fn begin(
    plan: ConsolePlan,
    fds: Vec<OwnedFd>,
    doors: &mut JoinSet<()>,
    connections: &Arc<Semaphore>,
    leaving: &watch::Sender<bool>,
) -> Result<(), BeginError> {
    let ConsolePlan { status_socket, token_file, hls_root, agent_checks } = plan;
    let guard = match token_file {
        None => Guard::Loopback,
        Some(path) => {
            let text = std::fs::read_to_string(&path).map_err(|error| error.to_string());
            let guard = text.and_then(|text| Guard::with_token(&text));
            guard.map_err(|reason| BeginError::Token { path, reason })?
        }
    };
    let state = Arc::new(State::new(status_socket, hls_root, guard));
    let remembering = Arc::clone(&state);
    tokio::spawn(async move { remembering.remember().await });
    let router = routes::router(Arc::clone(&state));
    let pages = fds.len().saturating_sub(usize::from(agent_checks));
    let asking = listen::connections();
    for (at, fd) in fds.into_iter().enumerate() {
        let listener = StdListener::from(fd);
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        if at < pages {
            let connections = Arc::clone(connections);
            doors.spawn(listen::serve(listener, router.clone(), connections, leaving.subscribe()));
        } else {
            let (state, asking) = (Arc::clone(&state), Arc::clone(&asking));
            doors.spawn(listen::agent_check(listener, state, asking));
        }
    }
    Ok(())
}
