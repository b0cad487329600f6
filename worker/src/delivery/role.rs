//! The process around delivery: told what to serve, it serves until it is drained or alone.

use super::flv::streams::Streams;
use super::{Serving, start};
use crate::control::LineError;
use crate::service::{Order, Service, Task};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tasuki_shared::exit::Exit;
use tasuki_shared::inherit::Inherited;
use tasuki_shared::limits::HEARTBEAT_INTERVAL;
use tasuki_shared::message::{DeliveryPlan, FromWorker};
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

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
    let exit = LocalSet::new()
        .block_on(&runtime, serve(inherited))
        .unwrap_or_else(|error| error.leave("delivery"));
    // A look at the heap must not hold the process.
    runtime.shutdown_background();
    exit
}

async fn serve(inherited: Inherited) -> Result<Exit, LineError> {
    let mut service = Service::open(inherited)?;
    let mut reports = tokio::time::interval(HEARTBEAT_INTERVAL);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let streams = Rc::new(Streams::default());
    let mut serving: Option<(Serving, Duration)> = None;
    loop {
        tokio::select! {
            order = service.order() => match order? {
                Order::Task(Task::Serve(plan), fds) => match begin(&plan, fds, &streams) {
                    Ok(begun) => {
                        serving = Some((begun, Duration::from_millis(plan.drain_ms.into())));
                        service.send(FromWorker::Ready)?;
                    }
                    Err(exit) => return Ok(exit),
                },
                Order::Task(task, fds) => follow(&streams, task, &fds),
                Order::Drain => break,
            },
            _ = reports.tick() => {
                if let Some((serving, _)) = &serving {
                    tell(&mut service, serving)?;
                }
            }
        }
    }
    if let Some((mut serving, most)) = serving {
        serving.stop();
        let emptied = serving.emptied(most);
        tokio::pin!(emptied);
        loop {
            tokio::select! {
                () = &mut emptied => break,
                order = service.order() => match order? {
                    Order::Task(task, fds) => follow(&streams, task, &fds),
                    Order::Drain => {}
                },
                _ = reports.tick() => tell(&mut service, &serving)?,
            }
        }
        tell(&mut service, &serving)?;
    }
    service.flushed().await?;
    Ok(Exit::Done)
}

/// Whom it serves, for the status.
fn tell(service: &mut Service, serving: &Serving) -> Result<(), LineError> {
    service.send(FromWorker::Audience(Box::new(serving.audience())))
}

/// Streams come and go, while it serves and while it leaves.
fn follow(streams: &Streams, task: Task, fds: &[OwnedFd]) {
    match task {
        Task::StreamLive { session, plan } => {
            let name = plan.name.clone();
            if let Err(error) = streams.live(session, *plan, fds) {
                tracing::error!(%error, %name, "a stream cannot be watched as FLV");
            }
        }
        Task::StreamGone { session } => streams.gone(session),
        Task::Serve(_) | Task::Attend(_) => {
            tracing::warn!("a message that is not for delivery, or not now");
        }
    }
}

fn begin(plan: &DeliveryPlan, fds: Vec<OwnedFd>, streams: &Rc<Streams>) -> Result<Serving, Exit> {
    let listeners = fds.into_iter().map(TcpListener::from).collect();
    start(plan, listeners, Rc::clone(streams)).map_err(|error| {
        tracing::error!(%error, "viewers cannot be served");
        Exit::Failure
    })
}
