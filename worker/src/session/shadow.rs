//! A live stream's pipeline beside its owner's: it decodes what the owner has committed, warms
//! encoders and gives nothing, until the session is handed over.
//!
//! The owner writes on meanwhile. What the follower may read is bounded by the owner's commit
//! record: no packet beyond the last committed frame, so it is never ahead and the very next frame
//! is still to be decoded when it becomes the owner.

use super::anchor;
use super::pipeline_record::PipelineRecord;
use super::source::{Ceiling, End, First, LogSource, Reading};
use super::stream::{Host, StreamError};
use super::transcode::rate_buckets;
use crate::pipeline::{
    Cut, Declared, Follow, LadderState, Pipeline, PipelineSpec, Start, StopOutcome, Thumbnails,
    WarmUp,
};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tasuki_shared::memory::commit::Section;
use tasuki_shared::memory::log::MappedLog;
use tasuki_shared::memory::session::RecordReader;
use tasuki_shared::plan::Plan;

/// See the module.
pub struct Shadow {
    pipeline: Pipeline,
    /// What its encoders were made from.
    ladder: LadderState,
    lifted: Arc<AtomicBool>,
    caught_up: Arc<AtomicBool>,
    reading: Arc<Reading>,
    end: End,
}

impl Shadow {
    /// Follows the stream of `plan`, if it has anything to be followed: encoded frames. Where the
    /// log lacks the keyframe that decoding the next one needs, it waits for the source's next.
    pub fn start(
        plan: &Plan,
        session: &OwnedFd,
        source: &OwnedFd,
        logs: &[MappedLog],
        host: &Host,
    ) -> Result<Option<Self>, StreamError> {
        let reader = RecordReader::open(session)?;
        let record = reader.load()?;
        let count = plan.logs().len();
        let record = PipelineRecord::decode(record.section(Section::Pipeline), count - 1)?;
        let PipelineRecord { last_frame: Some(last), audio, ladder: Some(ladder), rates, heads: _ } =
            record
        else {
            return Ok(None);
        };
        let (Some(log), true) = (logs.first(), plan.transcodes()) else { return Ok(None) };
        let anchor = anchor::of(last, |index| log.entry(index));
        let first = anchor.unwrap_or(last.source_index + 1);
        let lifted = Arc::new(AtomicBool::new(false));
        let caught_up = Arc::new(AtomicBool::new(false));
        let reading = Arc::new(Reading::default());
        let end = End::open();
        let ceiling = Ceiling::new(
            reader,
            count - 1,
            Arc::clone(&lifted),
            Arc::clone(&caught_up),
            Arc::clone(&host.wake),
        );
        let first = First { video: first, audio: audio.map_or(first, |audio| audio.source_index) };
        let packets = LogSource::open(&source.as_fd(), first, end.clone(), Arc::clone(&reading))?
            .below(ceiling);
        let rates = rate_buckets(plan, &rates);
        let follow = Follow {
            ladder: Some(ladder.clone()),
            vbv_init: rates.iter().map(|(rung, bucket)| (*rung, bucket.fullness())).collect(),
            warm_up: WarmUp::Encode,
            audio,
        };
        let spec = PipelineSpec {
            rungs: plan.rungs.clone(),
            audio: plan.audio,
            blur: plan.blur.clone(),
            thumbnails: Thumbnails::of(plan),
            limits: plan.limits,
            declared: Declared::default(),
            start: Start::Follow(follow),
            spares: Arc::clone(&host.spares),
        };
        let pipeline = Pipeline::start(spec, Box::new(packets), Arc::clone(&host.wake))?;
        Ok(Some(Self { pipeline, ladder, lifted, caught_up, reading, end }))
    }

    /// Has it decoded everything that it may?
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    /// Can it go on from a stream whose ladder is this?
    #[must_use]
    pub fn fits(&self, ladder: Option<&LadderState>) -> bool {
        ladder == Some(&self.ladder)
    }

    /// The owner now: what comes after the cut is given.
    #[must_use]
    pub fn go_live(self, cut: Cut) -> (Pipeline, Arc<Reading>, End) {
        let Self { pipeline, ladder: _, lifted, caught_up: _, reading, end } = self;
        // In this order: a packet beyond the cut must not be read before the cut is known.
        pipeline.go_live(cut);
        lifted.store(true, Ordering::Release);
        (pipeline, reading, end)
    }

    /// Ends it; may block.
    pub fn stop(self) {
        if self.pipeline.stop() == StopOutcome::Abandoned {
            tracing::error!("a codec thread hangs and is left behind");
        }
    }
}
