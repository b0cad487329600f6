//! Which session a frame is about: what cannot be sent is told of it.

use tasuki_shared::id::SessionId;
use tasuki_shared::message::ToWorker;

pub(super) fn session_of(body: &ToWorker) -> Option<SessionId> {
    match body {
        ToWorker::Adopt(lease) | ToWorker::Prepare(lease) => Some(lease.session),
        ToWorker::Verdict { session, .. }
        | ToWorker::Dialed { session, .. }
        | ToWorker::Unprepare { session }
        | ToWorker::TakeOver { session, .. }
        | ToWorker::Release { session, .. }
        | ToWorker::Keep { session }
        | ToWorker::StreamLive { session, .. }
        | ToWorker::StreamGone { session }
        | ToWorker::End { session, .. } => Some(*session),
        ToWorker::Hello { .. }
        | ToWorker::Drain
        | ToWorker::Purge
        | ToWorker::Chaos(_)
        | ToWorker::Connect { .. }
        | ToWorker::Beat { .. }
        | ToWorker::Spare(_)
        | ToWorker::Serve(_)
        | ToWorker::Attend(_)
        | ToWorker::Evidence { .. } => None,
    }
}
