//! A stream's logs, and which of them each output reads.

use super::StreamError;
use crate::ladder::{OffReason, PassReason, RungDecision};
use crate::output::cursor::{Feed, LogName, Logs, PipelineState};
use std::os::fd::OwnedFd;
use tasuki_shared::id::RungId;
use tasuki_shared::memory::log::{LogHeads, LogWriter, MappedLog, RungState};
use tasuki_shared::plan::{AudioPlan, LogKind, Plan, RungKind};

/// Maps the logs in the order of the plan; gives the source log's fd back.
pub fn open_logs(
    plan: &Plan,
    fds: Vec<OwnedFd>,
    mapped: Vec<MappedLog>,
    source_heads: LogHeads,
    heads: &[LogHeads],
) -> Result<(Logs, OwnedFd), StreamError> {
    let mut mapped = mapped.into_iter();
    let kinds = plan.logs();
    let heads = std::iter::once(&source_heads).chain(heads);
    let mut source = None;
    let mut audio = None;
    let mut rungs: Vec<Option<LogWriter>> = plan.rungs.iter().map(|_| None).collect();
    for (((kind, _), fd), heads) in kinds.iter().zip(&fds).zip(heads) {
        let log = match mapped.next() {
            Some(log) => LogWriter::resume_mapped(log, *heads)?,
            None => LogWriter::resume(fd, *heads)?,
        };
        match *kind {
            LogKind::Source => source = Some(log),
            LogKind::Audio => audio = Some(log),
            LogKind::Rung(RungId(rung)) => rungs[usize::from(rung)] = Some(log),
        }
    }
    let missing = StreamError::Fds { found: fds.len(), expected: kinds.len() };
    match (source, fds.into_iter().next()) {
        (Some(source), Some(fd)) => {
            Ok((Logs { source, audio, rungs, pipeline: PipelineState::Empty }, fd))
        }
        (None | Some(_), None | Some(_)) => Err(missing),
    }
}

/// What readers outside are told of a rung.
#[must_use]
pub fn rung_state(decision: &RungDecision) -> RungState {
    match decision {
        RungDecision::Encode { .. } => RungState::Encoded,
        RungDecision::Passing(PassReason::Planned | PassReason::Matches) => RungState::Passes,
        RungDecision::Off(OffReason::LargerThanSource) => RungState::Off,
    }
}

/// What a rung's outputs read, by the plan and, once it is known, by the ladder.
#[must_use]
pub fn feed_of(plan: &Plan, rung: RungId, decision: Option<&RungDecision>) -> Feed {
    let kind = plan.rung(rung).map(|rung| &rung.kind);
    let source_video = Feed::Merged { video: LogName::Source, audio: None };
    match (kind, decision, plan.audio) {
        // `none` holds for every rendition; the planned source rung keeps its own sound otherwise.
        (None | Some(RungKind::Source), _, AudioPlan::None)
        | (_, Some(RungDecision::Passing(_)), AudioPlan::None) => source_video,
        (None | Some(RungKind::Source), _, AudioPlan::Copy | AudioPlan::Aac { .. })
        | (_, Some(RungDecision::Passing(PassReason::Planned)), _)
        | (_, Some(RungDecision::Passing(PassReason::Matches)), AudioPlan::Copy) => Feed::Source,
        (_, Some(RungDecision::Passing(PassReason::Matches)), AudioPlan::Aac { .. }) => {
            Feed::Merged { video: LogName::Source, audio: Some(LogName::Audio) }
        }
        (Some(RungKind::Encoded(_)), _, audio) => {
            let audio = match audio {
                AudioPlan::Copy => Some(LogName::Source),
                AudioPlan::Aac { .. } => Some(LogName::Audio),
                AudioPlan::None => None,
            };
            Feed::Merged { video: LogName::Rung(rung), audio }
        }
    }
}
