//! The dialer role: resolves names and connects, so that workers never do.
//!
//! Each `Connect` becomes a task: look the name up, try its addresses with a head start for the
//! earlier ones (RFC 8305), answer with the connected socket or a reason. The number of tasks is
//! bounded, and each has one deadline for everything. Nothing is kept between dials.

mod connect;

use crate::control::{Line, LineError};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tasuki_shared::exit::Exit;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::inherit::Inherited;
use tasuki_shared::limits::{BEAT_INTERVAL_MIN, DIALER_CONNECTS_MAX, HEARTBEAT_INTERVAL};
use tasuki_shared::message::{DialError, FromWorker, ToWorker};
use tokio::task::JoinSet;

/// Threads that wait for the resolver; a dial that finds none waits within its deadline.
const RESOLVER_THREADS_MAX: usize = 32;

/// Serves until the supervisor drains this process or goes away.
#[must_use]
pub fn run(inherited: Inherited) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(RESOLVER_THREADS_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return Exit::Failure;
        }
    };
    let exit = match runtime.block_on(serve(inherited)) {
        Ok(()) => Exit::Done,
        Err(error) => error.leave("dialer"),
    };
    // A resolver that hangs must not hold the process.
    runtime.shutdown_timeout(Duration::ZERO);
    exit
}

type Answer = (u64, Result<OwnedFd, DialError>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    Draining,
}

async fn serve(inherited: Inherited) -> Result<(), LineError> {
    let mut line = Line::open(inherited)?;
    line.send(FromWorker::Ready, Vec::new())?;
    let mut dials: JoinSet<Answer> = JoinSet::new();
    let mut beats = tokio::time::interval(HEARTBEAT_INTERVAL);
    let mut stage = Stage::Serving;
    while stage == Stage::Serving || !dials.is_empty() {
        tokio::select! {
            received = line.recv() => match received?.0 {
                ToWorker::Connect { ticket, host, port } => {
                    if dials.len() < DIALER_CONNECTS_MAX {
                        dials.spawn(async move { (ticket, connect::dial(host, port).await) });
                    } else {
                        answer(&mut line, (ticket, Err(DialError::Busy)))?;
                    }
                }
                ToWorker::Prepare(_)
                | ToWorker::Release { .. }
                | ToWorker::Unprepare { .. }
                | ToWorker::TakeOver { .. }
                | ToWorker::Keep { .. } => {}
                ToWorker::Drain => stage = Stage::Draining,
                ToWorker::Hello { .. } => {}
                ToWorker::Beat { every_ms } => {
                    let every = Duration::from_millis(u64::from(every_ms));
                    beats = tokio::time::interval(every.max(BEAT_INTERVAL_MIN));
                }
                // For workers; a supervisor that sends one here is not ours.
                ToWorker::Adopt(_)
                | ToWorker::Verdict { .. }
                | ToWorker::Dialed { .. }
                | ToWorker::End { .. }
                | ToWorker::Evidence { .. }
                | ToWorker::Purge
                | ToWorker::Serve(_)
                | ToWorker::Attend(_)
                | ToWorker::StreamLive { .. }
                | ToWorker::StreamGone { .. }
                | ToWorker::Chaos(_)
                | ToWorker::Spare(_) => {
                    tracing::warn!("a message for a worker came to the dialer");
                }
            },
            Some(done) = dials.join_next() => {
                // A dial that panicked is answered by the supervisor's own deadline.
                if let Ok(done) = done {
                    answer(&mut line, done)?;
                }
            }
            _ = beats.tick() => {
                line.send(FromWorker::Progress { stalled: Vec::new() }, Vec::new())?;
            }
        }
    }
    line.flushed().await?;
    Ok(())
}

fn answer(line: &mut Line, (ticket, outcome): Answer) -> Result<(), LineError> {
    match outcome {
        Ok(socket) => {
            failpoint::hit(Point::DialerConnected);
            let body = FromWorker::Connected { ticket, outcome: Ok(()) };
            line.send(body, vec![socket])?;
        }
        Err(error) => {
            line.send(FromWorker::Connected { ticket, outcome: Err(error) }, Vec::new())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
