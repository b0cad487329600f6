//! The failpoints at which frames to and from processes stand.

use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::message::{FromWorker, ToWorker};

/// A frame is about to be queued.
pub fn sending(body: &ToWorker) {
    if let ToWorker::Prepare(_) = body {
        failpoint::hit(Point::SendingPrepare);
    } else if let ToWorker::Release { .. } = body {
        failpoint::hit(Point::SendingRelease);
    } else if let ToWorker::Adopt(_) = body {
        failpoint::hit(Point::SendingLease);
    } else if let ToWorker::TakeOver { .. } = body {
        failpoint::hit(Point::SendingTakeOver);
    }
}

/// The point behind the sending of a frame, where an order waits there: then it is sent at once.
pub fn after(body: &ToWorker) -> Option<Point> {
    let point = if let ToWorker::Prepare(_) = body {
        Point::SentPrepare
    } else if let ToWorker::Release { .. } = body {
        Point::SentRelease
    } else if let ToWorker::Adopt(_) = body {
        Point::SentLease
    } else {
        return None;
    };
    failpoint::is_armed(point).then_some(point)
}

/// A frame has come.
pub fn heard(body: &FromWorker) {
    if let FromWorker::Prepared { .. } = body {
        failpoint::hit(Point::HeardPrepared);
    } else if let FromWorker::Released { .. } = body {
        failpoint::hit(Point::HeardReleased);
    } else if let FromWorker::Adopted { .. } = body {
        failpoint::hit(Point::HeardAdopted);
    }
}
