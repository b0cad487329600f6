//! The logs of a stream, and what a cursor asks of one, whether its owner looks at it or a reader
//! outside.

use tasuki_shared::id::RungId;
use tasuki_shared::memory::log::{Entry, HeaderIds, LogReader, LogWriter};

/// A log, as named in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogName {
    Source,
    Audio,
    Rung(RungId),
}

impl LogName {
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Source => 0,
            Self::Audio => 1,
            Self::Rung(RungId(rung)) => rung.saturating_add(2),
        }
    }

    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Source,
            1 => Self::Audio,
            rung => Self::Rung(RungId(rung - 2)),
        }
    }
}

/// The logs of one stream, as its owner has them or, of readers, as anybody else.
pub struct Logs<L = LogWriter> {
    pub source: L,
    pub audio: Option<L>,
    pub rungs: Vec<Option<L>>,
    pub pipeline: PipelineState,
}

/// Whether pictures that were received may still come out of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineState {
    Busy,
    Empty,
}

impl<L> Logs<L> {
    pub fn get_mut(&mut self, name: LogName) -> Option<&mut L> {
        match name {
            LogName::Source => Some(&mut self.source),
            LogName::Audio => self.audio.as_mut(),
            LogName::Rung(RungId(rung)) => {
                self.rungs.get_mut(usize::from(rung)).and_then(Option::as_mut)
            }
        }
    }

    /// The source first.
    pub fn all(&self) -> impl Iterator<Item = &L> {
        std::iter::once(&self.source).chain(&self.audio).chain(self.rungs.iter().flatten())
    }

    #[must_use]
    pub fn get(&self, name: LogName) -> Option<&L> {
        match name {
            LogName::Source => Some(&self.source),
            LogName::Audio => self.audio.as_ref(),
            LogName::Rung(RungId(rung)) => self.rungs.get(usize::from(rung))?.as_ref(),
        }
    }
}

/// A log to be read from.
pub trait PacketLog {
    /// Index after the newest entry.
    fn head(&self) -> u64;
    fn entry(&self, index: u64) -> Option<Entry>;
    /// Of the newest IDR; it may be overwritten.
    fn keyframe(&self) -> Option<u64>;
    /// Sequence headers in force at the head.
    fn headers(&self) -> HeaderIds;
    /// The oldest entry at or after `from` that is there, or the head.
    fn oldest(&self, from: u64) -> u64;
}

impl PacketLog for LogWriter {
    fn head(&self) -> u64 {
        self.heads().index_head
    }

    fn entry(&self, index: u64) -> Option<Entry> {
        Self::entry(self, index)
    }

    fn keyframe(&self) -> Option<u64> {
        self.heads().keyframe
    }

    fn headers(&self) -> HeaderIds {
        self.heads().headers
    }

    fn oldest(&self, from: u64) -> u64 {
        Self::oldest(self, from)
    }
}

impl PacketLog for LogReader {
    fn head(&self) -> u64 {
        Self::head(self)
    }

    fn entry(&self, index: u64) -> Option<Entry> {
        Self::entry(self, index).ok()
    }

    fn keyframe(&self) -> Option<u64> {
        Self::keyframe(self)
    }

    fn headers(&self) -> HeaderIds {
        Self::headers(self)
    }

    fn oldest(&self, from: u64) -> u64 {
        Self::oldest(self, from)
    }
}
