//! What became of the attempts to move one session for a recycle, and what it waits for.

use std::time::Duration;
use tasuki_shared::id::Generation;
use tasuki_shared::limits::{
    ANCHOR_RETRY_PAUSE, MOVE_ATTEMPTS_MAX, MOVE_CALL_OFFS_MAX, MOVE_RETRY_PAUSE,
};

/// What became of the attempts to move one session.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    pub attempts: u32,
    pub call_offs: u32,
    pub not_before: Duration,
    pub failed_target: Option<Generation>,
    pub why: String,
    /// Of the last attempt.
    pub obstacle: Obstacle,
}

/// What a session that stayed waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Obstacle {
    #[default]
    None,
    /// A keyframe of its source.
    Anchor,
}

impl Tried {
    pub fn is_exhausted(&self) -> bool {
        self.attempts >= MOVE_ATTEMPTS_MAX || self.call_offs >= MOVE_CALL_OFFS_MAX
    }

    /// Its owner has a keyframe to be followed from.
    pub fn anchor_found(&mut self, now: Duration) {
        match self.obstacle {
            Obstacle::Anchor => {
                let ended = self.not_before.saturating_sub(ANCHOR_RETRY_PAUSE);
                self.not_before = self.not_before.min(now.max(ended + MOVE_RETRY_PAUSE));
            }
            Obstacle::None => {}
        }
    }

    /// Does it wait for a keyframe, and for nothing else?
    pub fn awaits_keyframe(&self, now: Duration) -> bool {
        self.obstacle == Obstacle::Anchor && now < self.not_before
    }

    /// It is to go without a keyframe, if need be.
    pub fn stop_waiting(&mut self, now: Duration) {
        if self.obstacle == Obstacle::Anchor {
            (self.obstacle, self.not_before) = (Obstacle::None, self.not_before.min(now));
        }
    }

    /// It has waited for a keyframe for long enough to be tried again.
    pub fn forget_obstacle(&mut self, now: Duration) {
        if now >= self.not_before {
            self.obstacle = Obstacle::None;
        }
    }
}
