//! The process around the console: told what to show, it serves until it is drained or alone.

use super::guard::Guard;
use super::state::State;
use super::{listen, routes};
use crate::control::{Line, LineError};
use std::net::TcpListener as StdListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tasuki_shared::exit::Exit;
use tasuki_shared::inherit::Inherited;
use tasuki_shared::limits::{BEAT_INTERVAL_MIN, HEARTBEAT_INTERVAL};
use tasuki_shared::message::{ConsolePlan, FromWorker, ToWorker};
use tokio::net::TcpListener;

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
    runtime.block_on(serve(inherited)).unwrap_or_else(|error| error.leave("the console"))
}

async fn serve(inherited: Inherited) -> Result<Exit, LineError> {
    let mut line = Line::open(inherited)?;
    let mut beats = tokio::time::interval(HEARTBEAT_INTERVAL);
    loop {
        tokio::select! {
            received = line.recv() => {
                let (message, fds) = received?;
                match message {
                    ToWorker::Attend(plan) => match begin(*plan, fds) {
                        Ok(()) => line.send(FromWorker::Ready, Vec::new())?,
                        Err(error) => {
                            tracing::error!(%error, "the console cannot begin");
                            return Ok(Exit::Failure);
                        }
                    },
                    ToWorker::Drain => break,
                    ToWorker::Beat { every_ms } => {
                        let every = Duration::from_millis(u64::from(every_ms));
                        beats = tokio::time::interval(every.max(BEAT_INTERVAL_MIN));
                    }
                    ToWorker::Hello { .. } => {}
                    // For others; a supervisor that sends one here is not ours.
                    ToWorker::Adopt(_)
                    | ToWorker::Verdict { .. }
                    | ToWorker::Dialed { .. }
                    | ToWorker::End { .. }
                    | ToWorker::Prepare(_)
                    | ToWorker::Unprepare { .. }
                    | ToWorker::TakeOver { .. }
                    | ToWorker::Release { .. }
                    | ToWorker::Keep { .. }
                    | ToWorker::Purge
                    | ToWorker::Chaos(_)
                    | ToWorker::Connect { .. }
                    | ToWorker::Serve(_)
                    | ToWorker::StreamLive { .. }
                    | ToWorker::StreamGone { .. }
                    | ToWorker::Evidence { .. } => {
                        tracing::warn!("a message for another role came to the console");
                    }
                }
            }
            _ = beats.tick() => {
                line.send(FromWorker::Progress { stalled: Vec::new() }, Vec::new())?;
            }
        }
    }
    line.flushed().await?;
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

fn begin(plan: ConsolePlan, fds: Vec<OwnedFd>) -> Result<(), BeginError> {
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
    let connections = listen::connections();
    let asking = listen::connections();
    for (at, fd) in fds.into_iter().enumerate() {
        let listener = StdListener::from(fd);
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        if at < pages {
            tokio::spawn(listen::serve(listener, router.clone(), Arc::clone(&connections)));
        } else {
            let (state, asking) = (Arc::clone(&state), Arc::clone(&asking));
            tokio::spawn(listen::agent_check(listener, state, asking));
        }
    }
    Ok(())
}
