//! What a new owner decodes again before the first frame of its own: from the anchor to the last
//! frame that the old owner committed. The media thread counts, the io thread tells.

use std::sync::atomic::{AtomicU64, Ordering};
use tasuki_shared::clock;

/// How long a replay was.
#[derive(Debug, Default)]
pub struct Replayed {
    frames: AtomicU64,
    /// 0 until it is over.
    took_us: AtomicU64,
}

impl Replayed {
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// 0 until it is over, and where there was none.
    #[must_use]
    pub fn took_us(&self) -> u64 {
        self.took_us.load(Ordering::Relaxed)
    }
}

/// One that is under way. It begins when the first packet is asked for, and is over when the first
/// one behind the last frame is.
#[derive(Debug)]
pub struct Replay {
    /// Source-log index of the last frame.
    last: u64,
    began_us: Option<u64>,
}

impl Replay {
    #[must_use]
    pub fn up_to(last: u64) -> Self {
        Self { last, began_us: None }
    }

    /// Whoever decodes asks for the packet at `next`; what it was given before is done with.
    /// `None` when the replay is over.
    #[must_use]
    pub fn asked(self, next: u64, replayed: &Replayed) -> Option<Self> {
        let now_us = clock::monotonic_us();
        let began_us = self.began_us.unwrap_or(now_us);
        if next > self.last {
            replayed.took_us.store(now_us.saturating_sub(began_us).max(1), Ordering::Relaxed);
            return None;
        }
        Some(Self { began_us: Some(began_us), ..self })
    }

    /// A frame is given.
    pub fn gave_frame(&self, replayed: &Replayed) {
        replayed.frames.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It counts what is given up to the last frame, and is over with the next question.
    #[test]
    fn a_replay_ends_behind_the_last_frame() {
        let replayed = Replayed::default();
        let mut replay = Some(Replay::up_to(2));
        for next in 0..=2 {
            replay = replay.and_then(|replay| replay.asked(next, &replayed));
            replay.as_ref().expect("it is under way").gave_frame(&replayed);
            assert_eq!(replayed.took_us(), 0);
        }
        assert!(replay.and_then(|replay| replay.asked(3, &replayed)).is_none());
        assert_eq!(replayed.frames(), 3);
        assert!(replayed.took_us() > 0);
    }
}
