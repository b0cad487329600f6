//! What the operator sees of a session: counters, rates, states.

use super::source::codec_name;
use super::source_shape::SourceShape;
use super::stream::{Stream, destination};
use super::totals::Totals;
use super::{Phase, Session};
use crate::ladder::RungDecision;
use crate::output::hls::HlsOutput;
use crate::output::push::Push;
use crate::output::recording::Recording;
use crate::pipeline::{PipelineEvent, SkipReason};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;
use tasuki_shared::clock;
use tasuki_shared::id::RungId;
use tasuki_shared::limits::RUNGS_MAX;
use tasuki_shared::plan::RungKind;
use tasuki_shared::status::{
    AdoptionStatus, HlsStatus, PushStatus, RecordStatus, RungStatus, SessionStatus,
};

/// Pictures on their way through a pipeline that are told apart.
const INSIDE_MAX: usize = 8192;

/// Counters of one stream.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub totals: Totals,
    /// Larger than their log takes.
    pub too_large: u64,
    newest_in_ms: i64,
    /// Log index and stamp of the pictures that the pipeline has neither given nor given up.
    inside: VecDeque<(u64, i64)>,
    skipped: BTreeMap<&'static str, u64>,
    events: BTreeMap<&'static str, u64>,
    width: u32,
    height: u32,
}

impl Counts {
    pub fn received(&mut self, bytes: u32) {
        self.totals.media_bytes = self.totals.media_bytes.saturating_add(u64::from(bytes));
    }

    /// A video frame was received.
    pub fn frame_in(&mut self) {
        self.totals.frames_in = self.totals.frames_in.saturating_add(1);
    }

    /// The pipeline has to give it, or give it up by name.
    pub fn frame_due(&mut self, index: u64, dts_ms: i64) {
        self.newest_in_ms = dts_ms;
        self.inside.push_back((index, dts_ms));
        if self.inside.len() > INSIDE_MAX {
            self.inside.pop_front();
        }
    }

    pub fn frame_out(&mut self, index: u64) {
        self.totals.frames_out = self.totals.frames_out.saturating_add(1);
        self.passed(index);
    }

    pub fn rung_frame(&mut self, rung: RungId, bytes: usize) {
        let rung = usize::from(rung.0);
        if rung < RUNGS_MAX {
            self.totals.rung_frames[rung] = self.totals.rung_frames[rung].saturating_add(1);
            self.totals.rung_bytes[rung] =
                self.totals.rung_bytes[rung].saturating_add(bytes as u64);
        }
    }

    pub fn skipped(&mut self, index: u64, reason: SkipReason) {
        self.passed(index);
        self.totals.frames_dropped =
            self.totals.frames_dropped.saturating_add(u64::from(reason == SkipReason::Overload));
        *self.skipped.entry(skip_name(reason)).or_default() += 1;
    }

    pub fn event(&mut self, event: &PipelineEvent) {
        if let PipelineEvent::SourceSizeChanged { width, height } = event {
            (self.width, self.height) = (*width, *height);
        }
        if let Some(name) = event_name(event) {
            *self.events.entry(name).or_default() += 1;
        }
    }

    #[must_use]
    pub fn dropped_by_overload(&self) -> u64 {
        self.totals.frames_dropped
    }

    /// Newest picture received minus the oldest one that is not through: pictures far apart, as of
    /// a static screen, are no lag. Before the first is through there is nothing to be behind of.
    #[must_use]
    pub fn lag_ms(&self) -> u64 {
        match self.inside.front() {
            Some((_, oldest_ms)) if self.totals.frames_out > 0 => {
                u64::try_from(self.newest_in_ms - oldest_ms).unwrap_or(0)
            }
            Some(_) | None => 0,
        }
    }

    /// Were frames received that the pipeline is not done with?
    #[must_use]
    pub fn has_pictures_inside(&self) -> bool {
        !self.inside.is_empty()
    }

    fn passed(&mut self, index: u64) {
        while self.inside.front().is_some_and(|(oldest, _)| *oldest <= index) {
            self.inside.pop_front();
        }
    }
}

/// When this owner took the session (`clock::monotonic_us`), and when it had handled a message.
#[derive(Clone, Copy, Debug)]
pub struct Adoption {
    at_us: u64,
    first_message_us: Option<u64>,
}

impl Adoption {
    #[must_use]
    pub fn new() -> Self {
        Self { at_us: clock::monotonic_us(), first_message_us: None }
    }

    pub fn message_handled(&mut self) {
        self.first_message_us.get_or_insert_with(clock::monotonic_us);
    }
}

/// Rates between two reports.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    at: Instant,
    in_bytes: u64,
    out_bytes: u64,
    frames_in: u64,
    in_bps: u64,
    out_bps: u64,
    fps: f32,
}

/// Shortest time over which a rate is taken.
const RATE_WINDOW_MS: u128 = 1_000;

impl Meter {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { at: now, in_bytes: 0, out_bytes: 0, frames_in: 0, in_bps: 0, out_bps: 0, fps: 0.0 }
    }

    /// What was counted before is not of the time that is measured.
    #[must_use]
    pub fn counting_from(self, in_bytes: u64, out_bytes: u64, frames_in: u64) -> Self {
        Self { in_bytes, out_bytes, frames_in, ..self }
    }

    fn measure(&mut self, now: Instant, in_bytes: u64, out_bytes: u64, frames_in: u64) {
        let elapsed_ms = now.duration_since(self.at).as_millis();
        if elapsed_ms < RATE_WINDOW_MS {
            return;
        }
        let elapsed_ms = u64::try_from(elapsed_ms).unwrap_or(u64::MAX);
        let rate = |newer: u64, older: u64| newer.saturating_sub(older) * 8_000 / elapsed_ms;
        self.in_bps = rate(in_bytes, self.in_bytes);
        self.out_bps = rate(out_bytes, self.out_bytes);
        let frames = u16::try_from(frames_in.saturating_sub(self.frames_in)).unwrap_or(u16::MAX);
        let seconds = f32::from(u16::try_from(elapsed_ms / 10).unwrap_or(u16::MAX)) / 100.0;
        self.fps = (f32::from(frames) / seconds * 10.0).round() / 10.0;
        (self.at, self.in_bytes, self.out_bytes, self.frames_in) =
            (now, in_bytes, out_bytes, frames_in);
    }
}

impl Session {
    /// The session as the status shows it; `worker` is left to the supervisor.
    pub fn status(&mut self, now: Instant) -> SessionStatus {
        let in_bytes = self.ingest.received();
        let mut status = SessionStatus {
            id: self.id.to_string(),
            app: self.app.clone(),
            peer: self.peer.to_string(),
            state: self.state_name().to_owned(),
            uptime_ms: u64::try_from(now.duration_since(self.began).as_millis()).unwrap_or(0),
            in_bytes,
            faults: self.faults.clone(),
            adoption: AdoptionStatus {
                at_us: self.adoption.at_us,
                first_message_us: self.adoption.first_message_us.unwrap_or(0),
                ..AdoptionStatus::default()
            },
            ..SessionStatus::default()
        };
        let mut frames_in = 0;
        if let Some(stream) = self.stream() {
            describe_stream(stream, &mut status);
            frames_in = stream.counts.totals.frames_in;
        }
        self.report.measure(now, in_bytes, status.out_bytes, frames_in);
        status.in_bitrate_bps = self.report.in_bps;
        status.out_bitrate_bps = self.report.out_bps;
        status.fps = self.report.fps;
        status
    }

    /// When its first byte could be handled here.
    #[must_use]
    pub fn adopted_at_us(&self) -> u64 {
        self.adoption.at_us
    }

    /// Rates begin with what the last owner had counted.
    pub(super) fn count_on(&mut self) {
        let (mut out_bytes, mut frames_in) = (0, 0);
        if let Some(stream) = self.stream() {
            out_bytes = stream.pushes.iter().map(|push| push.sent_bytes).sum();
            frames_in = stream.counts.totals.frames_in;
        }
        self.report = self.report.counting_from(self.ingest.received(), out_bytes, frames_in);
    }

    /// Bits per second received lately.
    #[must_use]
    pub fn in_bitrate_bps(&self) -> u64 {
        self.report.in_bps
    }

    fn state_name(&self) -> &'static str {
        match self.phase {
            Phase::Lobby => "lobby",
            Phase::Authorizing { .. } => "authorizing",
            Phase::Live(_) => "live",
            Phase::Draining { .. } | Phase::Leaving { .. } | Phase::Ended(_) => "ending",
        }
    }
}

fn describe_stream(stream: &Stream, status: &mut SessionStatus) {
    let counts = &stream.counts;
    status.name = stream.plan.name.to_string();
    stream.plan.app.clone_into(&mut status.app);
    if let Some(video) = &stream.tracks.video {
        codec_name(video.codec).clone_into(&mut status.video_codec);
        if let Some(config) = video.config {
            (status.width, status.height) = (config.width, config.height);
        }
    }
    if stream.tracks.audio.is_some() {
        "aac".clone_into(&mut status.audio_codec);
    }
    let totals = &counts.totals;
    status.frames_in = totals.frames_in;
    status.frames_out = if stream.plan.transcodes() { totals.frames_out } else { totals.frames_in };
    status.frames_dropped = totals.frames_dropped;
    status.frames_lost = totals.frames_lost;
    status.no_anchor = !stream.transcode.has_anchor(&stream.logs);
    status.lag_ms = stream.lag_ms();
    status.frames_inside = u64::try_from(counts.inside.len()).unwrap_or(u64::MAX);
    let shape = SourceShape::of(&stream.logs.source);
    status.keyframe_interval_ms = shape.keyframe_interval_ms;
    status.av_skew_ms = shape.av_skew_ms;
    let replayed = stream.transcode.replayed();
    status.adoption.replayed_frames = replayed.frames();
    status.adoption.replay_us = replayed.took_us();
    for (name, count) in counts.skipped.iter().chain(&counts.events) {
        *status.faults.entry((*name).to_owned()).or_default() += count;
    }
    for (name, count) in
        [("too_large", counts.too_large), ("pipeline_lapped", stream.transcode.lapped())]
    {
        if count > 0 {
            status.faults.insert(name.to_owned(), count);
        }
    }
    status.rungs = rungs(stream);
    status.pushes = stream.pushes.iter().map(|push| push_status(stream, push)).collect();
    status.out_bytes = stream.pushes.iter().map(|push| push.sent_bytes).sum();
    status.records =
        stream.recordings.iter().map(|recording| record_status(stream, recording)).collect();
    let hls = stream.hls.iter().flat_map(HlsOutput::status);
    status.hls = hls.map(|(rung, hls)| HlsStatus { rung: label(stream, rung), ..hls }).collect();
}

fn rungs(stream: &Stream) -> Vec<RungStatus> {
    let totals = &stream.counts.totals;
    let mut off_left = stream.transcode.overload.rungs_off();
    let mut found = Vec::with_capacity(stream.plan.rungs.len());
    for (position, rung) in stream.plan.rungs.iter().enumerate() {
        let decision =
            stream.transcode.ladder.as_ref().and_then(|ladder| ladder.rungs.get(position));
        let source = stream.tracks.video.as_ref().and_then(|video| video.config);
        let size = source.map_or((0, 0), |config| (config.width, config.height));
        let (state, (width, height)) = match (&rung.kind, decision) {
            (RungKind::Source, _) | (_, Some(RungDecision::Passing(_))) => ("passing", size),
            (RungKind::Encoded(_), None) => ("waiting", (0, 0)),
            (RungKind::Encoded(_), Some(RungDecision::Off(_))) => ("off", (0, 0)),
            (RungKind::Encoded(_), Some(RungDecision::Encode { width, height })) => {
                let state = if off_left > 0 { "dropped" } else { "encoding" };
                off_left = off_left.saturating_sub(1);
                (state, (*width, *height))
            }
        };
        let (frames, bytes) = match state {
            "passing" => (totals.frames_in, totals.media_bytes),
            _ => (totals.rung_frames[position], totals.rung_bytes[position]),
        };
        let label = rung.label.clone();
        let state = state.to_owned();
        let encode_us = stream.transcode.encode_us(position);
        found.push(RungStatus { label, state, width, height, frames, bytes, encode_us });
    }
    found
}

fn push_status(stream: &Stream, push: &Push) -> PushStatus {
    PushStatus {
        rung: label(stream, push.plan().rung),
        to: destination(push.plan()),
        state: push.state_name().to_owned(),
        sent_bytes: push.sent_bytes,
        messages: push.messages,
        reconnects: u64::from(push.reconnects()),
        skipped: push.skipped(),
        last_error: push.last_error.clone(),
    }
}

fn record_status(stream: &Stream, recording: &Recording) -> RecordStatus {
    RecordStatus { rung: label(stream, recording.rung()), ..recording.status() }
}

fn label(stream: &Stream, rung: RungId) -> String {
    stream.plan.rung(rung).map_or_else(String::new, |rung| rung.label.clone())
}

fn skip_name(reason: SkipReason) -> &'static str {
    match reason {
        SkipReason::NoHeader => "skipped_no_header",
        SkipReason::Refused => "skipped_refused",
        SkipReason::NothingToEncode => "skipped_nothing_to_encode",
        SkipReason::NoKeyframeYet => "skipped_no_keyframe_yet",
        SkipReason::Undecodable => "skipped_undecodable",
        SkipReason::AfterError => "skipped_after_error",
        SkipReason::NoFrame => "skipped_no_frame",
        SkipReason::Overload => "skipped_overload",
        SkipReason::FrameRateCap => "skipped_frame_rate_cap",
        SkipReason::Unscalable => "skipped_unscalable",
    }
}

/// Events that an operator is told of at once.
#[must_use]
pub fn is_worth_telling(event: &PipelineEvent) -> bool {
    matches!(
        event,
        PipelineEvent::VideoRefused(_)
            | PipelineEvent::RungFailed { .. }
            | PipelineEvent::RungLost { .. }
            | PipelineEvent::SourceSizeChanged { .. }
            | PipelineEvent::Failed
    )
}

/// Events that count as faults.
fn event_name(event: &PipelineEvent) -> Option<&'static str> {
    match event {
        PipelineEvent::VideoRefused(_) => Some("video_refused"),
        PipelineEvent::DecodeError { .. } => Some("decode_error"),
        PipelineEvent::DamagedFrame { .. } => Some("damaged_frame"),
        PipelineEvent::FrameWithoutPacket => Some("frame_without_packet"),
        PipelineEvent::ScaleError { .. } => Some("scale_error"),
        PipelineEvent::SourceSizeChanged { .. } => Some("source_size_changed"),
        PipelineEvent::RungFailed { .. } => Some("rung_failed"),
        PipelineEvent::RungLost { .. } => Some("rung_lost"),
        PipelineEvent::AudioError { .. } => Some("audio_error"),
        PipelineEvent::AudioGapFilled { .. } => Some("audio_gap_filled"),
        PipelineEvent::AudioJumped { .. } => Some("audio_jumped"),
        PipelineEvent::AudioOverlapDropped { .. } => Some("audio_overlap_dropped"),
        PipelineEvent::Failed => Some("pipeline_failed"),
        PipelineEvent::DecoderOpened { .. }
        | PipelineEvent::RungsOff { .. }
        | PipelineEvent::LiveFrom { .. }
        | PipelineEvent::AudioOpened { .. }
        | PipelineEvent::Ended => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_waits_and_not_how_far_pictures_are_apart() {
        let mut counts = Counts::default();
        counts.frame_due(3, 0);
        counts.frame_due(4, 9_000);
        assert_eq!(counts.lag_ms(), 0, "nothing was ever through");
        counts.frame_out(3);
        assert_eq!(counts.lag_ms(), 0, "the newest is just being worked on");
        counts.frame_due(6, 9_033);
        counts.frame_due(7, 14_000);
        assert_eq!(counts.lag_ms(), 5_000);
        counts.skipped(6, SkipReason::Overload);
        assert_eq!(counts.lag_ms(), 0);
        counts.frame_out(7);
        assert_eq!((counts.lag_ms(), counts.totals.frames_out), (0, 2));
    }

    #[test]
    fn what_is_remembered_of_a_stuck_pipeline_is_bounded() {
        let mut counts = Counts::default();
        for frame in 0..20_000 {
            counts.frame_due(frame, 0);
        }
        assert_eq!(counts.inside.len(), INSIDE_MAX);
    }
}
