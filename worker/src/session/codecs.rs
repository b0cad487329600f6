//! The codecs of a stream that was taken over: they begin when the io thread says so, which takes
//! other sessions in hand first.

use super::{Outbox, Session};
use std::time::Instant;
use tasuki_shared::memory::session::Activity;
use tasuki_shared::message::EndReason;

impl Session {
    /// Has it codecs that are still to be started?
    #[must_use]
    pub fn awaits_codecs(&self) -> bool {
        self.stream().is_some_and(|stream| stream.transcode.awaits_begin())
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
