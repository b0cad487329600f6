//! Whether the node is up, takes new streams, and how much of it is free. Pure.

use serde::Serialize;
use tasuki_shared::status::Status;

/// Of one node, for whoever places publishers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Availability {
    /// Would a new publisher be admitted?
    pub ready: bool,
    /// Why not; empty when it would.
    pub reason: String,
    /// `serving` or `draining`.
    pub state: String,
    pub streams_live: u32,
    pub streams_free: u32,
    /// Of all workers that serve.
    pub streams_max: u32,
    pub cpu_percent: f32,
}

impl Availability {
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let serving =
            || status.workers.iter().filter(|it| it.role == "worker" && it.state == "serving");
        let streams_max = serving().map(|worker| worker.streams_max).sum();
        let live = status.sessions.iter().filter(|session| session.state == "live").count();
        let reason = if status.state != "serving" {
            format!("the node is {}", status.state)
        } else if serving().next().is_none() {
            "no worker serves yet".to_owned()
        } else if status.streams_free == 0 {
            "no stream slot is free: all are taken, or processor or memory is at its limit"
                .to_owned()
        } else {
            String::new()
        };
        Self {
            ready: reason.is_empty(),
            reason,
            state: status.state.clone(),
            streams_live: u32::try_from(live).unwrap_or(u32::MAX),
            streams_free: status.streams_free,
            streams_max,
            cpu_percent: status.cpu_percent,
        }
    }

    /// What HAProxy's agent-check reads (HAProxy configuration manual, `agent-check`): weight by what
    /// is free, none for a node that takes nothing new; connections that it has stay.
    #[must_use]
    pub fn agent_line(&self) -> String {
        if !self.ready {
            return format!("drain up #{}\n", self.reason);
        }
        let percent = u64::from(self.streams_free) * 100 / u64::from(self.streams_max.max(1));
        format!("ready up {}%\n", percent.clamp(1, 100))
    }
}

/// Where nobody answers.
#[must_use]
pub fn agent_line_without_answer(error: &str) -> String {
    format!("down #{}\n", error.replace(['\r', '\n'], " "))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use tasuki_shared::status::{SessionStatus, WorkerStatus};

    /// A node that serves, without workers and sessions.
    pub fn node() -> Status {
        let json = r#"{"version":"1.2.3","pid":1,"uptime_ms":5000,"state":"serving","listeners":[],
            "config":"embedded defaults","streams_free":3,"cpu_percent":12.5,"workers":[],
            "sessions":[],"refusals":{},"sessions_total":9}"#;
        serde_json::from_str(json).unwrap()
    }

    pub fn worker(slot: &str, sessions: u32) -> WorkerStatus {
        WorkerStatus {
            slot: slot.to_owned(),
            role: "worker".to_owned(),
            state: "serving".to_owned(),
            generation: 7,
            pid: 77,
            age_ms: 1000,
            sessions,
            streams_max: 4,
            lobby: 0,
            footprint_bytes: 100,
            rss_bytes: 200,
            lazy_free_bytes: 50,
            cpu_percent: 25.0,
            spare_codecs: 0,
            memory: None,
            last_death: None,
            restarts: 0,
        }
    }

    pub fn stream(name: &str) -> SessionStatus {
        SessionStatus {
            name: name.to_owned(),
            app: "live".to_owned(),
            state: "live".to_owned(),
            ..SessionStatus::default()
        }
    }

    #[test]
    fn a_node_is_ready_while_a_new_stream_would_be_taken() {
        let mut status = node();
        assert_eq!(Availability::of(&status).reason, "no worker serves yet");
        status.workers = vec![worker("w0", 1), worker("w1", 4)];
        status.sessions = vec![stream("a")];
        let free = Availability::of(&status);
        assert!(free.ready && free.streams_max == 8 && free.streams_live == 1);
        assert_eq!(free.agent_line(), "ready up 37%\n");
        status.streams_free = 0;
        let full = Availability::of(&status);
        assert!(!full.ready && full.agent_line().starts_with("drain up #no stream slot"));
        status.state = "draining".to_owned();
        assert_eq!(Availability::of(&status).agent_line(), "drain up #the node is draining\n");
    }
}
