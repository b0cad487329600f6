//! When a stream's pipeline begins, and what it has to do, for whoever asks whether it hangs or was
//! the cause of a death.

use super::{Seam, State, Transcode};
use crate::output::cursor::{Logs, PipelineState};
use crate::session::report::Counts;
use crate::session::stall::Work;
use crate::session::stream::StreamError;
use tasuki_shared::id::RungId;

impl Transcode {
    /// Time that a rung's encoder has worked here, in microseconds.
    #[must_use]
    pub fn encode_us(&self, position: usize) -> u64 {
        let State::Running(pipeline) = &self.state else { return 0 };
        u8::try_from(position).map_or(0, |rung| pipeline.encode_us(RungId(rung)))
    }

    /// Is its pipeline still to be begun?
    #[must_use]
    pub fn awaits_begin(&self) -> bool {
        matches!(&self.state, State::Running(pipeline) if !pipeline.has_begun())
    }

    /// It has given a frame since another owner did, or has decoded all there is and waits.
    #[must_use]
    pub fn is_caught_up(&self, logs: &Logs) -> bool {
        match (&self.state, self.seam) {
            (State::None | State::Done, _) | (State::Running(_), Seam::Behind) => true,
            (State::Running(_), Seam::Ahead { .. }) => {
                self.replayed().took_us() > 0 && logs.pipeline == PipelineState::Empty
            }
        }
    }

    pub fn begin(&mut self) -> Result<(), StreamError> {
        if let State::Running(pipeline) = &mut self.state {
            pipeline.begin()?;
        }
        Ok(())
    }

    /// What the pipeline has to do and how far it has come; its threads.
    #[must_use]
    pub fn work(&self, logs: &Logs, counts: &Counts) -> Work {
        match &self.state {
            // One that is held back for a cut waits for the cut.
            State::Running(pipeline) if !self.is_at_cut() => {
                let next = self.reading.next();
                let waits = next < logs.source.published_head() && pipeline.threads().is_some();
                Work { moved: next.wrapping_add(counts.totals.frames_out), waits }
            }
            State::Running(_) | State::None | State::Done => Work::default(),
        }
    }

    /// Is there anything that the pipeline works on, or will, once it has begun? Of what it took over
    /// from another owner nobody keeps count.
    #[must_use]
    pub fn is_at_work(&self, logs: &Logs) -> bool {
        match &self.state {
            State::Running(pipeline) => {
                pipeline.has_begun()
                    && (self.reading.is_at_work()
                        || self.reading.next() < logs.source.published_head()
                        || pipeline.holds_output())
            }
            State::None | State::Done => false,
        }
    }

    /// Of the pipeline that runs.
    #[must_use]
    pub fn threads(&self) -> Vec<i32> {
        match &self.state {
            State::Running(pipeline) => pipeline.threads().unwrap_or_default(),
            State::None | State::Done => Vec::new(),
        }
    }
}
