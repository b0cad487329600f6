//! What all requests share.

use super::ask::{self, AskError};
use super::guard::Guard;
use super::history::History;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tasuki_shared::clock;
use tasuki_shared::limits::{
    CONSOLE_ANSWER_DEADLINE, CONSOLE_CONVERSATIONS_MAX, CONSOLE_HISTORY_INTERVAL,
};
use tasuki_shared::status::{Reply, Request, Status};
use tokio::sync::Semaphore;

/// So long one answer serves all who ask: the supervisor is not asked once for each open page.
const FRESH: Duration = Duration::from_millis(500);

/// See the module.
pub struct State {
    pub socket: PathBuf,
    pub hls_root: PathBuf,
    pub guard: Guard,
    /// With the supervisor, that last: pages that follow events, commands.
    pub conversations: Arc<Semaphore>,
    latest: tokio::sync::Mutex<Option<(Instant, Arc<Status>)>>,
    history: Mutex<History>,
}

impl State {
    #[must_use]
    pub fn new(socket: PathBuf, hls_root: PathBuf, guard: Guard) -> Self {
        let interval_ms = u64::try_from(CONSOLE_HISTORY_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        Self {
            socket,
            hls_root,
            guard,
            conversations: Arc::new(Semaphore::new(CONSOLE_CONVERSATIONS_MAX)),
            latest: tokio::sync::Mutex::default(),
            history: Mutex::new(History::new(interval_ms)),
        }
    }

    /// The node, at most [`FRESH`] ago.
    pub async fn status(&self) -> Result<Arc<Status>, AskError> {
        // Who comes while it is asked waits for that answer.
        let mut latest = self.latest.lock().await;
        if let Some((at, status)) = &*latest
            && clock::now().saturating_duration_since(*at) < FRESH
        {
            return Ok(Arc::clone(status));
        }
        let status = match ask::once(&self.socket, &Request::Status, CONSOLE_ANSWER_DEADLINE)
            .await?
        {
            Reply::Status(status) => Arc::new(*status),
            Reply::Refused { reason } => return Err(AskError::Unreadable(reason)),
            other @ (Reply::Event(_)
            | Reply::Recycled(_)
            | Reply::Moved(_)
            | Reply::Heap { .. }
            | Reply::Threads { .. }
            | Reply::Done) => {
                return Err(AskError::Unreadable(format!("a status was answered by {other:?}")));
            }
        };
        *latest = Some((clock::now(), Arc::clone(&status)));
        Ok(status)
    }

    /// Keeps the history, without end.
    pub async fn remember(&self) {
        let mut looks = tokio::time::interval(CONSOLE_HISTORY_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // A supervisor that is away leaves a hole in the plots, which is what they should show.
            if let Ok(status) = self.status().await {
                self.history().add(&status, clock::unix_ms());
            }
        }
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
