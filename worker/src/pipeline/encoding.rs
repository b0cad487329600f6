//! What the media thread has once the first frame is known: the scalers, the rungs' encoders and
//! the schedule of IDRs.

use super::cadence::IdrSchedule;
use super::encode::{Destination, Job, RungEncoder, Worker};
use super::filter::Filter;
use super::outlet::Outlet;
use super::scale::Cascade;
use super::{Control, LadderState};
use crate::ladder::RungDecision;
use crate::libav::{ForceIdr, Frame, LibavError, VideoEncoderSettings};
use crate::media::packet::IsIdr;
use crate::spares::Spares;
use std::collections::BTreeMap;
use std::sync::Arc;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::id::RungId;
use tasuki_shared::message::CodecNeed;
use tasuki_shared::plan::{RungKind, RungPlan};

pub struct Encoding {
    cascade: Cascade,
    /// Highest first.
    rungs: Vec<RungEncoder>,
    schedule: IdrSchedule,
    /// A seam or a returning rung asks for an IDR.
    demand: IsIdr,
}

impl Encoding {
    /// Starts an encoder for each rung that is encoded.
    pub fn start(
        plans: &[RungPlan],
        state: &LadderState,
        vbv_init: &BTreeMap<RungId, f32>,
        spares: &Arc<Spares>,
        control: &Arc<Control>,
        outlet: &Arc<Outlet>,
    ) -> Result<Self, LibavError> {
        let mut sizes = Vec::new();
        let mut rungs = Vec::new();
        for (position, (plan, decision)) in plans.iter().zip(&state.rungs).enumerate() {
            let (RungKind::Encoded(encoded), RungDecision::Encode { width, height }) =
                (&plan.kind, decision)
            else {
                continue;
            };
            let rung = RungId(u8::try_from(position).unwrap_or(u8::MAX));
            let settings = VideoEncoderSettings {
                width: *width,
                height: *height,
                frame_rate: state.frame_rate,
                colour: state.colour,
                preset: encoded.preset.clone(),
                crf: encoded.crf,
                bitrate_bps: encoded.bitrate_bps,
                vbv_init: vbv_init.get(&rung).copied(),
            };
            let (spares, control, outlet) =
                (Arc::clone(spares), Arc::clone(control), Arc::clone(outlet));
            let encoder = RungEncoder::start(rung, &plan.label, settings, spares, control, outlet)
                .map_err(|error| LibavError::NoThread(error.to_string()))?;
            sizes.push((rung, *width, *height));
            rungs.push(encoder);
        }
        let cascade = Cascade::new(&sizes, state.colour)?;
        let schedule = IdrSchedule::new(state.frame_rate);
        Ok(Self { cascade, rungs, schedule, demand: IsIdr::Other })
    }

    /// What the encoders are opened with.
    pub fn needs(&self) -> impl Iterator<Item = CodecNeed> + '_ {
        self.rungs.iter().filter_map(|rung| rung.need.clone())
    }

    /// The rungs that are not switched off; the lowest never is.
    pub fn wanted(&self, off: u8) -> Vec<RungId> {
        let off = usize::from(off).min(self.rungs.len().saturating_sub(1));
        self.rungs.iter().skip(off).map(|rung| rung.rung).collect()
    }

    /// The next frame is an IDR in all rungs.
    pub fn demand_idr(&mut self) {
        self.demand = IsIdr::Idr;
    }

    /// How full the rate buffers are at the seam.
    pub fn rate_fullness(&mut self, fullness: &BTreeMap<RungId, f32>) {
        for rung in &mut self.rungs {
            if let Some(fullness) = fullness.get(&rung.rung) {
                // A rung that is gone is noticed with the next frame.
                let _ = rung.give(Job::RateFullness(*fullness), Worker::Caller);
            }
        }
    }

    /// Is the next frame an IDR?
    pub fn keyframe(&mut self, pts_ms: i64, source: IsIdr) -> IsIdr {
        let demand = std::mem::replace(&mut self.demand, IsIdr::Other);
        if demand == IsIdr::Idr && failpoint::skips(Point::SeamIdr) {
            return IsIdr::Other;
        }
        let demand = match (source, demand) {
            (IsIdr::Other, IsIdr::Other) => IsIdr::Other,
            (IsIdr::Idr, _) | (_, IsIdr::Idr) => IsIdr::Idr,
        };
        self.schedule.next(pts_ms, demand)
    }

    /// The picture, filtered, in all wanted sizes.
    pub fn scale(
        &mut self,
        filter: Option<&mut Filter>,
        mut frame: Frame,
        wanted: &[RungId],
    ) -> Result<Vec<(RungId, Frame)>, LibavError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(filter) = filter {
            frame = self.cascade.convert(frame)?;
            filter.apply(&mut frame)?;
        }
        self.cascade.run(&frame, wanted)
    }

    /// Has pictures encoded; by the rungs' threads, this waits while a queue is full.
    pub fn dispatch(
        &mut self,
        worker: Worker,
        scaled: Vec<(RungId, Frame)>,
        keyframe: IsIdr,
        result: Destination,
        outlet: &Outlet,
    ) {
        let idr = match keyframe {
            IsIdr::Idr => ForceIdr::Yes,
            IsIdr::Other => ForceIdr::No,
        };
        for (rung, frame) in scaled {
            let Some(position) = self.rungs.iter().position(|thread| thread.rung == rung) else {
                continue;
            };
            if self.rungs[position].give(Job::Encode { frame, idr, result }, worker).is_err() {
                outlet.abandon(rung);
                self.rungs.remove(position);
            }
        }
    }
}
