//! Announcements in the operator's log: one line each, and so many per source of noise.
//!
//! A publisher that tries wrong keys in a loop costs a few lines a window and a count, whatever its
//! speed. Other sources are not held down with it.

use crate::core::event::{Announcement, Loudness};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::limits::{LOG_RATE_EVENTS_MAX, LOG_RATE_KEYS_MAX, LOG_RATE_WINDOW};
use tasuki_shared::log_output::{Admit, RateLimit};

/// Who makes the noise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Peer(IpAddr),
    Stream(String),
    Worker(String),
    Server,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(address) => write!(f, "{address}"),
            Self::Stream(name) => write!(f, "stream {name}"),
            Self::Worker(worker) => f.write_str(worker),
            Self::Server => f.write_str("the server"),
        }
    }
}

#[derive(Debug)]
pub struct EventLog {
    limit: RateLimit<(&'static str, Source)>,
    /// Where the time of announcements begins.
    began: Instant,
    next_report: Duration,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            limit: RateLimit::new(LOG_RATE_EVENTS_MAX, LOG_RATE_WINDOW, LOG_RATE_KEYS_MAX),
            began: clock::now(),
            next_report: LOG_RATE_WINDOW,
        }
    }
}

impl EventLog {
    pub fn log(&mut self, now: Duration, announcement: &Announcement) {
        match self.admit(now, announcement) {
            Admit::Suppressed => {}
            Admit::Allow { suppressed } => {
                if suppressed > 0 {
                    tell_suppressed(announcement.event, &source(announcement), suppressed);
                }
                write(announcement);
            }
        }
    }

    pub fn is_report_due(&self, now: Duration) -> bool {
        now >= self.next_report
    }

    /// Tells what was held back of those who fell silent.
    pub fn report(&mut self, now: Duration) {
        self.next_report = now + LOG_RATE_WINDOW;
        for (key, suppressed) in self.limit.take_suppressed(self.began + now) {
            match key {
                Some((event, source)) => tell_suppressed(event, &source, suppressed),
                None => tracing::warn!(suppressed, "events of many sources were not logged"),
            }
        }
    }

    fn admit(&mut self, now: Duration, announcement: &Announcement) -> Admit {
        self.limit.admit((announcement.event, source(announcement)), self.began + now)
    }
}

fn source(announcement: &Announcement) -> Source {
    match (announcement.peer, &announcement.name, &announcement.worker) {
        (Some(peer), _, _) => Source::Peer(peer),
        (None, Some(name), _) => Source::Stream(name.clone()),
        // A slot, not a process: one that dies at once is one source.
        (None, None, Some(worker)) => {
            Source::Worker(worker.split('/').next().unwrap_or(worker).to_owned())
        }
        (None, None, None) => Source::Server,
    }
}

fn tell_suppressed(event: &str, source: &Source, suppressed: u64) {
    tracing::warn!(event, source = %source, suppressed, "more of these were not logged");
}

fn write(announcement: &Announcement) {
    let Announcement { loudness, event, session, name, worker, peer, detail } = announcement;
    let session = session.map(|session| session.to_string());
    let (session, name, worker) = (session.as_deref(), name.as_deref(), worker.as_deref());
    let peer = peer.map(tracing::field::display);
    match loudness {
        Loudness::Info => tracing::info!(event, session, name, worker, peer, "{detail}"),
        Loudness::Warn => tracing::warn!(event, session, name, worker, peer, "{detail}"),
        Loudness::Error => tracing::error!(event, session, name, worker, peer, "{detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(peer: &str) -> Announcement {
        Announcement::new(Loudness::Warn, "publish_refused", "stream key not accepted")
            .of_peer(peer.parse().unwrap())
    }

    #[test]
    fn a_peer_that_is_refused_in_a_loop_is_logged_a_few_times_and_silences_nobody_else() {
        let mut log = EventLog::default();
        let admitted = (0..1000)
            .filter(|_| log.admit(Duration::ZERO, &refused("192.0.2.1")) != Admit::Suppressed)
            .count();
        assert_eq!(admitted, usize::try_from(LOG_RATE_EVENTS_MAX).unwrap());
        let fresh = Admit::Allow { suppressed: 0 };
        assert_eq!(log.admit(Duration::ZERO, &refused("192.0.2.2")), fresh);
        let told = log.admit(LOG_RATE_WINDOW, &refused("192.0.2.1"));
        assert_eq!(told, Admit::Allow { suppressed: 1000 - u64::from(LOG_RATE_EVENTS_MAX) });
    }

    #[test]
    fn many_streams_that_begin_at_once_are_all_logged() {
        let mut log = EventLog::default();
        for number in 0..500 {
            let mut live = Announcement::new(Loudness::Info, "session_live", "");
            live.name = Some(format!("cam-{number}"));
            assert_eq!(log.admit(Duration::ZERO, &live), Admit::Allow { suppressed: 0 });
        }
    }

    #[test]
    fn processes_of_one_slot_are_one_source() {
        let mut announcement = Announcement::new(Loudness::Warn, "worker_died", "");
        announcement.worker = Some("w0/g7".into());
        assert_eq!(source(&announcement), Source::Worker("w0".into()));
    }
}
