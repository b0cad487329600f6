//! What the shell does for those who ask: clients of the status socket, the service's keeper, and who
//! wants a look at a worker or has a new configuration.

use super::{Reloaded, Shell};
use crate::core::event::{Announcement, Event, Fds};
use crate::core::report::parse_session_id;
use crate::core::settings::Settings;
use crate::io::evidence;
use tasuki_shared::clock;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::limits::RECYCLES_WAITING_MAX;
use tasuki_shared::message::{EvidenceKind, ToWorker};
use tasuki_shared::status::{Reply, Status};
use tokio::sync::{broadcast, mpsc};

impl Shell {
    pub(super) fn announce(&mut self, announcement: Announcement) {
        self.log.log(self.started.elapsed(), &announcement);
        if self.watchers.receiver_count() > 0 {
            let Announcement { loudness: _, event, session, name, worker, peer: _, detail } =
                announcement;
            let event = tasuki_shared::status::Event {
                unix_ms: clock::unix_ms(),
                event: event.to_owned(),
                session: session.map(|session| session.to_string()),
                name,
                worker,
                detail,
            };
            // Nobody listening any more is no error.
            let _ = self.watchers.send(Reply::Event(event));
        }
    }

    pub fn status(&self) -> Status {
        let mut status = self.core.status(self.clock.last());
        status.uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        status.pid = i32::try_from(std::process::id()).unwrap_or(0);
        status.listeners = self.listeners.iter().map(|(address, _)| address.to_string()).collect();
        status.viewers = self.viewers.clone();
        status.consoles = self.consoles.iter().map(ToString::to_string).collect();
        let start = self.unix_ms_of_start();
        for recycle in &mut status.recycles {
            recycle.unix_ms += start;
        }
        for death in &mut status.deaths {
            death.unix_ms += start;
        }
        if self.no_fds > 0 {
            status.refusals.insert("no_fds".to_owned(), self.no_fds);
        }
        status
    }

    /// When the core's time began, as it would have without the loop's pauses.
    fn unix_ms_of_start(&self) -> u64 {
        let passed = u64::try_from(self.clock.last().as_millis()).unwrap_or(u64::MAX);
        tasuki_shared::clock::unix_ms().saturating_sub(passed)
    }

    pub fn watch(&self) -> broadcast::Receiver<Reply> {
        self.watchers.subscribe()
    }

    pub fn end_session(&mut self, text: &str) -> Result<(), String> {
        let session = self.parse_session(text)?;
        self.on(Event::EndSession { session });
        Ok(())
    }

    /// One line for the service's keeper.
    pub(super) fn summary(&self) -> String {
        let status = self.status();
        let live = status.sessions.iter().filter(|session| session.state == "live").count();
        let serving = status.workers.iter().filter(|w| w.state == "serving").count();
        format!("{}: {live} live, {serving} processes serve", status.state)
    }

    /// Asks a worker for evidence. The answer comes through the receiver; none, if it dies.
    pub fn ask_evidence(&mut self, of: Generation, kind: EvidenceKind) -> evidence::Awaited {
        let (ticket, awaited) = self.desk.ask(of);
        self.send(of, ToWorker::Evidence { ticket, kind }, Fds::None);
        awaited
    }

    /// Generation and pid of the worker in a slot (`w0`).
    pub fn worker_in(&self, slot: &str) -> Result<(Generation, i32), String> {
        let status = self.core.status(self.clock.last());
        let found = status.workers.iter().find(|worker| worker.slot == slot && worker.pid > 0);
        let worker = found.ok_or_else(|| format!("no process in slot {slot}"))?;
        Ok((Generation(worker.generation), worker.pid))
    }

    pub fn pid_of(&self, generation: Generation) -> Option<i32> {
        self.processes.get(&generation).map(|process| process.pid)
    }

    pub(super) fn save_evidence(&mut self, recycle: u64, generation: Generation) {
        if let Some(shell) = self.myself.upgrade() {
            let directory = self.evidence.clone();
            tokio::task::spawn_local(evidence::save(shell, directory, recycle, generation));
        }
    }

    /// What takes time: the answers come through the receiver, whose end is the last of them.
    pub fn ask(&mut self, event: impl FnOnce(u64) -> Event) -> mpsc::Receiver<Reply> {
        let (sender, receiver) = mpsc::channel(RECYCLES_WAITING_MAX + 1);
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.clients.retain(|_, client| !client.is_closed());
        self.clients.insert(ticket, sender);
        self.on(event(ticket));
        receiver
    }

    pub(super) fn reply(&mut self, ticket: u64, mut reply: Reply) {
        let is_last = match &mut reply {
            Reply::Recycled(recycle) => {
                recycle.unix_ms += self.unix_ms_of_start();
                false
            }
            Reply::Status(_)
            | Reply::Event(_)
            | Reply::Heap { .. }
            | Reply::Threads { .. }
            | Reply::Moved(_)
            | Reply::Done
            | Reply::Refused { .. } => true,
        };
        if let Some(client) = self.clients.get(&ticket) {
            // One that has gone asks nothing any more.
            let _ = client.try_send(reply);
        }
        if is_last {
            self.clients.remove(&ticket);
        }
    }

    pub fn parse_session(&self, text: &str) -> Result<SessionId, String> {
        parse_session_id(text)
            .filter(|session| self.core.has_session(*session))
            .ok_or_else(|| format!("no session {text}"))
    }

    /// SIGHUP, and the configuration is good.
    pub(super) fn reload(&mut self, first: &Settings, reloaded: Reloaded) {
        let fixed = first.needs_restart(&reloaded.settings).join(", ");
        if !fixed.is_empty() {
            tracing::warn!(settings = %fixed, "these changes need a restart of the server");
        }
        tracing::info!("the configuration is read again; workers are replaced one after another");
        self.program.environment = reloaded.settings.environment.clone();
        let now = self.clock.time(tasuki_shared::clock::now());
        for effect in self.core.reload(now, reloaded) {
            self.perform(effect);
        }
        self.handle_pending(now);
        self.end_turn();
    }
}
