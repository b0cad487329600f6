//! The codecs of a stream that was taken over: they begin when the io thread says so, which takes
//! other sessions in hand first.

use super::stream::Stream;
use super::{Outbox, Session};
use std::time::Instant;
use tasuki_shared::memory::session::Activity;
use tasuki_shared::message::EndReason;

/// Have codecs that began for an adopted stream done what there was to do?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaughtUp {
    No,
    Yes,
}

impl Session {
    /// Has its publish been allowed?
    #[must_use]
    pub fn has_stream(&self) -> bool {
        self.stream().is_some()
    }

    /// Has it codecs that are still to be started?
    #[must_use]
    pub fn awaits_codecs(&self) -> bool {
        self.stream().is_some_and(|stream| stream.transcode.awaits_begin())
    }

    /// Its codecs have decoded again what there was, and given what came since.
    #[must_use]
    pub fn codecs_caught_up(&self) -> CaughtUp {
        if self.stream().is_none_or(Stream::is_caught_up) { CaughtUp::Yes } else { CaughtUp::No }
    }

    pub fn start_codecs(&mut self, now: Instant, outbox: &mut Outbox) {
        // What they do from now on may be the end of this process.
        self.memory.set_activity(Activity::Processing);
        let Some(stream) = self.stream_mut() else { return };
        if let Err(error) = stream.transcode.begin() {
            stream.transcode.abandon();
            let reason = error.leave_if_out_of_memory().to_string();
            tracing::error!(session = %self.id, error = %reason, "codecs cannot start");
            self.leave(EndReason::AdoptFailed(reason), now);
            self.advance(now, outbox);
        }
    }
}
