//! The io thread's writing turn: flip the record once, then write what it covers.

use super::record::Put;
use super::{Phase, Session, adopt};
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::memory::commit::Section;
use tasuki_shared::message::EndReason;

/// Which sections changed since the last flip.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changed {
    pub ingest: Dirty,
    pub publish: Dirty,
    pub timeline: Dirty,
    pub pipeline: Dirty,
    pub pushes: Dirty,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Dirty {
    #[default]
    No,
    /// Goes along with the next flip and is no reason for one.
    WithTheNext,
    Yes,
}

impl Dirty {
    pub fn take(&mut self) -> bool {
        std::mem::take(self) != Self::No
    }

    /// Changed, and no reason for a flip by itself.
    pub fn note(&mut self) {
        if *self == Self::No {
            *self = Self::WithTheNext;
        }
    }
}

/// After so long without media, what waited for something to go with is committed by itself.
const QUIET_AFTER: Duration = Duration::from_millis(100);

impl Session {
    /// Is there something that somebody waits for?
    pub(super) fn is_due(&self) -> bool {
        let Changed { ingest, publish, timeline, pipeline, pushes } = self.changed;
        !matches!(self.phase, Phase::Live(_))
            || self.reply.written < self.reply.head
            || [ingest, publish, timeline, pipeline, pushes].contains(&Dirty::Yes)
    }

    /// What waited for something to go with is due when nothing comes.
    pub(super) fn wait_no_longer(&mut self, now: Instant) {
        if let Phase::Live(stream) = &self.phase
            && now.duration_since(stream.last_media) >= QUIET_AFTER
            && self.changed.ingest == Dirty::WithTheNext
        {
            self.changed.ingest = Dirty::Yes;
        }
    }

    /// Encodes what changed and flips the record, then shows it to the logs' readers.
    pub(super) fn commit_changes(&mut self) {
        let stream = match &self.phase {
            Phase::Live(stream) | Phase::Draining { stream, .. } => Some(&**stream),
            Phase::Lobby | Phase::Authorizing { .. } | Phase::Leaving { .. } | Phase::Ended(_) => {
                None
            }
        };
        let Changed { ingest, publish, timeline, pipeline, pushes } = self.changed;
        let of_stream = stream.is_some() && [pipeline, pushes].contains(&Dirty::Yes);
        if !of_stream && ![ingest, publish, timeline].contains(&Dirty::Yes) {
            return;
        }
        let mut staged = Ok(());
        let counts = [ingest, pipeline].iter().any(|changed| *changed != Dirty::No);
        let mut frame = None;
        if self.changed.ingest.take() {
            let (ingest, reply) = (&self.ingest, self.reply.head);
            let encode = |into: &mut Vec<u8>| {
                into.put_u64(reply);
                ingest.encode(stream.map(|stream| stream.logs.source.heads()), into);
            };
            staged = staged.and(self.commit.stage(Section::Ingest, encode));
        }
        if self.changed.publish.take() {
            let state = self.publish.export();
            let live = stream.is_some();
            let encode = |into: &mut Vec<u8>| adopt::encode_publish(&state, live, into);
            staged = staged.and(self.commit.stage(Section::Publish, encode));
        }
        if self.changed.timeline.take() {
            let state = self.timeline.state().to_bytes();
            staged = staged.and(self.commit.stage(Section::Timeline, |into| into.extend(state)));
        }
        if let Some(stream) = stream {
            if self.changed.pipeline.take() {
                frame = stream.transcode.last_frame();
                let encode = |into: &mut Vec<u8>| stream.encode_pipeline(into);
                staged = staged.and(self.commit.stage(Section::Pipeline, encode));
            }
            if self.changed.pushes.take() {
                let encode = |into: &mut Vec<u8>| stream.encode_pushes(into);
                staged = staged.and(self.commit.stage(Section::Pushes, encode));
                // Fixed for the stream's life; staged with the first word of its outputs.
                let encode = |into: &mut Vec<u8>| stream.encode_recordings(into);
                staged = staged.and(self.commit.stage(Section::Recordings, encode));
            }
            if counts {
                let encode = |into: &mut Vec<u8>| stream.counts.totals.encode(into);
                staged = staged.and(self.commit.stage(Section::Totals, encode));
            }
        }
        staged.expect("every section's encoding is bounded by its size");
        failpoint::hit(Point::CommitStaged);
        self.memory.flip(&mut self.commit);
        failpoint::hit(Point::CommitFlipped);
        if let Some(frame) = frame {
            self.memory.set_committed(frame);
        }
        self.ingest.committed();
        if let Some(stream) = stream {
            stream.publish_logs();
        }
    }

    pub(super) fn write_replies(&mut self, now: Instant) {
        while self.reply.written < self.reply.head {
            let waiting = self.reply.head - self.reply.written;
            let length = usize::try_from(waiting).expect("at most the ring");
            let bytes = self.memory.reply.private_bytes(self.reply.written, length);
            let flags =
                nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
            match nix::sys::socket::send(self.socket.as_raw_fd(), bytes, flags) {
                Ok(sent) => self.reply.written += sent as u64,
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => {
                    // Nobody reads any more; what was said is void.
                    self.reply.written = self.reply.head;
                    self.leave(EndReason::PeerReset(io::Error::from(errno).to_string()), now);
                    return;
                }
            }
        }
    }
}
