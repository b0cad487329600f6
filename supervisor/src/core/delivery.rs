//! What delivery is told of live streams, whose logs its viewers read.
//!
//! A process hears of every stream that is live before it is told to serve, and of each that begins
//! or ends from then on. It only reads: nothing here waits for it, and a stream that it cannot be told
//! of lacks nothing but these viewers.

use super::Core;
use super::event::{Announcement, Fds, Loudness};
use super::lease::Session;
use super::publish::Publish;
use super::settings::Rules;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::message::{Role, ToWorker};
use tasuki_shared::plan::Plan;

impl<R: Rules> Core<R> {
    /// A publish was allowed.
    pub(super) fn tell_live(&mut self, id: SessionId) {
        let Some(plan) = self.sessions.get(&id).and_then(watched) else { return };
        for to in self.deliveries() {
            let plan = plan.clone();
            self.send(to, ToWorker::StreamLive { session: id, plan }, Fds::ReadOnlyLogs(id));
        }
    }

    /// Nothing more comes in its logs.
    pub(super) fn tell_gone(&mut self, id: SessionId) {
        for to in self.deliveries() {
            self.send(to, ToWorker::StreamGone { session: id }, Fds::None);
        }
    }

    /// A process has started that knows of nothing.
    pub(super) fn tell_all_live(&mut self, to: Generation) {
        let live = self.sessions.iter().filter_map(|(id, session)| Some((*id, watched(session)?)));
        for (session, plan) in live.collect::<Vec<_>>() {
            self.send(to, ToWorker::StreamLive { session, plan }, Fds::ReadOnlyLogs(session));
        }
    }

    pub(super) fn not_told_live(&mut self, id: SessionId, what: String) {
        let name = self.sessions.get(&id).and_then(|session| session.publish.name());
        let name = name.map(ToString::to_string);
        let announcement = Announcement::new(Loudness::Warn, "stream_not_watchable", what);
        self.announce(announcement.of_session(id, name));
    }

    /// The processes that serve viewers, once they were greeted: more than one while one is replaced.
    fn deliveries(&self) -> Vec<Generation> {
        let slots = self.slots.iter().filter(|slot| slot.role == Role::Delivery);
        let greeted = slots.filter_map(|slot| slot.process()).filter(|p| p.pid.is_some());
        greeted.map(|process| process.generation).collect()
    }
}

/// What viewers may know of a stream whose logs they may read.
fn watched(session: &Session) -> Option<Box<Plan>> {
    match &session.publish {
        Publish::Live { plan, .. } if plan.flv.is_some() => Some(Box::new(plan.for_viewers())),
        Publish::Live { .. }
        | Publish::Nothing
        | Publish::AwaitsName { .. }
        | Publish::Refused { .. } => None,
    }
}
