//! The process around delivery: told what to serve, it serves until it is drained or alone.

use super::flv::streams::Streams;
use super::{LEAVING_MAX, Serving, start};
use crate::control::{Line, LineError};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tasuki_shared::exit::Exit;
use tasuki_shared::inherit::Inherited;
use tasuki_shared::limits::{BEAT_INTERVAL_MIN, HEARTBEAT_INTERVAL};
use tasuki_shared::message::{DeliveryPlan, FromWorker, ToWorker};
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

/// How often a process that leaves looks whether the last connection is gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

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
    LocalSet::new()
        .block_on(&runtime, serve(inherited))
        .unwrap_or_else(|error| error.leave("delivery"))
}

async fn serve(inherited: Inherited) -> Result<Exit, LineError> {
    let mut line = Line::open(inherited)?;
    let mut beats = tokio::time::interval(HEARTBEAT_INTERVAL);
    let mut reports = tokio::time::interval(HEARTBEAT_INTERVAL);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let streams = Rc::new(Streams::default());
    let mut serving: Option<Serving> = None;
    loop {
        tokio::select! {
            received = line.recv() => {
                let (message, fds) = received?;
                match message {
                    ToWorker::Serve(plan) => match begin(&plan, fds, &streams) {
                        Ok(begun) => {
                            serving = Some(begun);
                            line.send(FromWorker::Ready, Vec::new())?;
                        }
                        Err(exit) => return Ok(exit),
                    },
                    ToWorker::StreamLive { session, plan } => {
                        let name = plan.name.clone();
                        if let Err(error) = streams.live(session, *plan, &fds) {
                            tracing::error!(%error, %name, "a stream cannot be watched as FLV");
                        }
                    }
                    ToWorker::StreamGone { session } => streams.gone(session),
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
                    | ToWorker::Attend(_)
                    | ToWorker::Evidence { .. } => {
                        tracing::warn!("a message for a worker came to delivery");
                    }
                }
            }
            _ = beats.tick() => {
                line.send(FromWorker::Progress { stalled: Vec::new() }, Vec::new())?;
            }
            _ = reports.tick() => tell(&mut line, serving.as_ref())?,
        }
    }
    if let Some(mut serving) = serving {
        serving.stop_listening();
        let until = tokio::time::Instant::now() + LEAVING_MAX;
        while serving.connections() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        tell(&mut line, Some(&serving))?;
    }
    line.flushed().await?;
    Ok(Exit::Done)
}

/// Whom it serves, for the status.
fn tell(line: &mut Line, serving: Option<&Serving>) -> Result<(), LineError> {
    let Some(serving) = serving else { return Ok(()) };
    Ok(line.send(FromWorker::Audience(Box::new(serving.audience())), Vec::new())?)
}

fn begin(plan: &DeliveryPlan, fds: Vec<OwnedFd>, streams: &Rc<Streams>) -> Result<Serving, Exit> {
    let listeners = fds.into_iter().map(TcpListener::from).collect();
    start(plan, listeners, Rc::clone(streams)).map_err(|error| {
        tracing::error!(%error, "viewers cannot be served");
        Exit::Failure
    })
}
