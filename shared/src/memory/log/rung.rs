//! What became of a rung, told in its own log for readers that know nothing else of the stream.

use super::{LogReader, LogWriter};
use std::sync::atomic::Ordering;

/// What a reader of a rung's log finds in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum RungState {
    /// The source is not known yet.
    #[default]
    Undecided = 0,
    /// Its packets.
    Encoded = 1,
    /// Nothing: the source's own packets are what this rung would have been.
    Passes = 2,
    /// Nothing: the source is smaller.
    Off = 3,
}

impl RungState {
    fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Encoded,
            2 => Self::Passes,
            3 => Self::Off,
            _ => Self::Undecided,
        }
    }
}

impl LogWriter {
    /// Tells readers what this rung has become. Call after the flip.
    pub fn tell_rung(&self, state: RungState) {
        let word = self.memory.rung_state();
        if word.load(Ordering::Relaxed) != state as u32 {
            word.store(state as u32, Ordering::Release);
        }
    }
}

impl LogReader {
    #[must_use]
    pub fn rung(&self) -> RungState {
        RungState::from_word(self.memory.rung_state().load(Ordering::Acquire))
    }
}
