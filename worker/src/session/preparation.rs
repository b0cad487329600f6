//! A session that its owner will hand over: mapped, its pipeline following, nothing of it read or
//! written by us before the owner word is ours.
//!
//! ```text
//!  Prepare ──▶ Following ──caught up──▶ Ready ──released, or its owner died──▶ adopted
//!                  └────────────── Unprepare, a failure ──────────────▶ (gone, nothing happened)
//! ```

use super::adopt::{self, AdoptError, Leased};
use super::shadow::Shadow;
use super::stream::{Host, Warm};
use super::{Outbox, Session};
use crate::leftovers::Leftover;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::memory::log::MappedLog;
use tasuki_shared::message::{Lease, Owner};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    NotYet,
    Ready,
}

/// See the module.
pub struct Preparation {
    leased: Leased,
    warm: Warm,
    /// Rung by the owner when the session is ours to take.
    released: OwnedFd,
    told: Told,
}

impl Preparation {
    /// Maps the session of `lease` and begins to follow it. The last fd is the eventfd.
    pub fn begin(lease: Lease, mut fds: Vec<OwnedFd>, host: &Host) -> Result<Self, AdoptError> {
        let released = fds.pop().ok_or(AdoptError::Fds(0))?;
        let leased = Leased::open(lease, fds)?;
        failpoint::hit(Point::PrepareMapped);
        let mark = leased.memory.work_mark();
        let warm = match &leased.lease.live {
            None => Warm::new(mark),
            Some(live) => {
                let kinds = live.plan.logs();
                let logs_fds = leased.live_fds.get(..kinds.len());
                let logs_fds = logs_fds.ok_or(AdoptError::Fds(leased.live_fds.len()))?;
                let logs: Vec<MappedLog> =
                    logs_fds.iter().map(MappedLog::open).collect::<Result<_, _>>()?;
                let source = logs_fds.first().ok_or(AdoptError::Fds(0))?;
                let shadow = Shadow::start(&live.plan, &leased.memory_fd, source, &logs, host)
                    .map_err(|error| AdoptError::Stream(error.to_string()))?;
                Warm { logs, shadow, mark }
            }
        };
        failpoint::hit(Point::PrepareFollowing);
        Ok(Self { leased, warm, released, told: Told::NotYet })
    }

    #[must_use]
    pub fn id(&self) -> SessionId {
        self.leased.lease.session
    }

    /// Readable once the session is released.
    #[must_use]
    pub fn released(&self) -> BorrowedFd<'_> {
        self.released.as_fd()
    }

    /// True once: when it could take over at any moment.
    pub fn is_newly_ready(&mut self) -> bool {
        let ready = self.warm.shadow.as_ref().is_none_or(Shadow::is_caught_up);
        ready && std::mem::replace(&mut self.told, Told::Ready) == Told::NotYet
    }

    /// The owner died without a release: its word says what is to be expected.
    pub fn expect(&mut self, owner: Owner) {
        self.leased.lease.expect = owner;
    }

    /// Becomes the owner.
    pub fn adopt(
        self,
        taker: Generation,
        host: &Host,
        now: Instant,
        outbox: &mut Outbox,
    ) -> Result<Session, AdoptError> {
        adopt::take(self.leased, self.warm, taker, host, now, outbox)
    }

    /// Forgets it. What is returned may block.
    #[must_use]
    pub fn abandon(self) -> Option<Leftover> {
        self.warm.shadow.map(|shadow| -> Leftover { Box::new(move || shadow.stop()) })
    }
}
