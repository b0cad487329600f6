//! The open segment, and where it and its parts end.

use super::{HlsPacket, Key, Rules};
use crate::media::timeline::Track;
use crate::output::hls::place::{Independent, RenditionKind};
use crate::package::fmp4::{Sample, Sync};
use tasuki_shared::limits::{
    HLS_GAP_MS, HLS_IDR_SLACK_MS, HLS_PART_BYTES_MAX, HLS_PART_SAMPLES_MAX, IDR_DISTANCE_MAX_MS,
};

/// Of a part that a picture ends, at least; RFC 8216bis wants it of all but a segment's last.
pub(super) const PART_PERCENT_MIN: i64 = 85;
/// About one frame of sound: with another one the part would be too long.
const SOUND_STEP_MS: i64 = 22;
/// In the last moment of a segment any keyframe ends it: better than none.
const LAST_MOMENT_MS: i64 = 45;

/// The open segment and what is held of its next part.
pub(super) struct Open {
    pub(super) segment_start_ms: i64,
    pub(super) source_keyframe_ms: Option<i64>,
    pub(super) part_start_ms: i64,
    /// Newest decode time, from the part's start on.
    pub(super) newest_ms: i64,
    pub(super) video: Vec<HlsPacket>,
    pub(super) audio: Vec<HlsPacket>,
    pub(super) bytes: usize,
}

/// What ends in front of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Nothing,
    Part,
    Segment,
    /// In front of the newest packet that is held: with this one the segment would be too long.
    Forced,
    /// Other headers.
    Changed,
    /// A hole in the stream.
    Gap,
    Leave,
}

impl Open {
    pub(super) fn at(start_ms: i64) -> Self {
        Self {
            segment_start_ms: start_ms,
            source_keyframe_ms: None,
            part_start_ms: start_ms,
            newest_ms: start_ms,
            video: Vec::new(),
            audio: Vec::new(),
            bytes: 0,
        }
    }

    pub(super) fn next_part(&mut self, start_ms: i64) {
        (self.part_start_ms, self.newest_ms, self.bytes) = (start_ms, start_ms, 0);
        self.video.clear();
        self.audio.clear();
    }

    pub(super) fn push(&mut self, packet: HlsPacket) {
        let dts_ms = packet.packet.dts_ms;
        if packet.key == Key::Source && dts_ms > self.segment_start_ms {
            self.source_keyframe_ms = Some(dts_ms);
        }
        self.newest_ms = self.newest_ms.max(dts_ms);
        self.bytes += packet.packet.payload.len();
        match packet.packet.track {
            Track::Video => self.video.push(packet),
            Track::Audio => self.audio.push(packet),
        }
    }

    /// Takes the packet back that came last.
    pub(super) fn pop(&mut self) -> Option<HlsPacket> {
        let at = |packets: &[HlsPacket]| packets.last().map(|last| last.packet.dts_ms);
        // Of two with the same time the picture came first.
        if at(&self.audio) >= at(&self.video) { self.audio.pop() } else { self.video.pop() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.video.is_empty() && self.audio.is_empty()
    }

    /// Would the part be too long if only this packet ended it?
    pub(super) fn is_overdue(&self, next: &HlsPacket, rules: &Rules) -> bool {
        next.packet.dts_ms.saturating_sub(self.part_start_ms) > rules.part_target_ms
    }

    pub(super) fn independent(&self) -> Independent {
        match self.video.first().map(|first| first.key) {
            Some(Key::Source | Key::Own) => Independent::Yes,
            Some(Key::No) | None => Independent::No,
        }
    }

    /// What ends in front of this packet? `has_changed` is asked of keyframes: do they come with
    /// other headers?
    pub(super) fn judge(
        &self,
        packet: &HlsPacket,
        kind: RenditionKind,
        rules: &Rules,
        has_changed: impl FnOnce() -> bool,
    ) -> Cut {
        let &Rules { target_ms, part_target_ms, series: _ } = rules;
        let dts_ms = packet.packet.dts_ms;
        let elapsed_ms = dts_ms.saturating_sub(self.segment_start_ms);
        let in_part_ms = dts_ms.saturating_sub(self.part_start_ms);
        if dts_ms > self.newest_ms.saturating_add(HLS_GAP_MS) {
            return Cut::Gap;
        }
        // A rung's own keyframe may be as late as it was early for the last chance; rounded to a
        // second, which is what counts (RFC 8216, 4.3.3.1), that is no longer.
        let most_ms = match kind {
            RenditionKind::Source => target_ms,
            RenditionKind::Encoded => target_ms + HLS_IDR_SLACK_MS,
        };
        let is_over = elapsed_ms > most_ms;
        let is_full = match packet.packet.track {
            Track::Audio => in_part_ms >= part_target_ms - SOUND_STEP_MS,
            Track::Video => {
                if packet.key != Key::No && has_changed() {
                    return Cut::Changed;
                }
                let is_last_moment = elapsed_ms > target_ms - LAST_MOMENT_MS;
                let is_candidate = is_candidate(self, packet.key, elapsed_ms, dts_ms, target_ms);
                let ends = is_candidate || (packet.key != Key::No && is_last_moment);
                if ends && !is_over {
                    return Cut::Segment;
                }
                if kind == RenditionKind::Source && elapsed_ms >= target_ms {
                    return Cut::Leave;
                }
                100 * in_part_ms >= PART_PERCENT_MIN * part_target_ms
            }
        };
        let is_large = self.bytes >= HLS_PART_BYTES_MAX
            || self.video.len() + self.audio.len() >= HLS_PART_SAMPLES_MAX;
        if is_over && kind == RenditionKind::Source {
            Cut::Leave
        } else if is_over && !self.is_empty() {
            Cut::Forced
        } else if (is_full || is_large) && !self.is_empty() {
            Cut::Part
        } else {
            Cut::Nothing
        }
    }
}

/// As it goes into a fragment.
pub(super) fn sample(packet: &HlsPacket) -> Sample<'_> {
    let HlsPacket { key, packet } = packet;
    let sync = match (packet.track, key) {
        (Track::Audio, _) | (Track::Video, Key::Source | Key::Own) => Sync::Sync,
        (Track::Video, Key::No) => Sync::Depends,
    };
    Sample { dts_ms: packet.dts_ms, pts_ms: packet.pts_ms, sync, payload: &packet.payload }
}

/// May a segment begin with this picture?
fn is_candidate(open: &Open, key: Key, elapsed_ms: i64, dts_ms: i64, target_ms: i64) -> bool {
    match key {
        Key::No => false,
        // Stamps are rounded; a source that sends one every two seconds does not miss by that.
        Key::Source => elapsed_ms >= IDR_DISTANCE_MAX_MS - HLS_IDR_SLACK_MS,
        Key::Own => {
            // While the source has keyframes of its own, the next one is worth waiting for; not
            // where one that was as far from the last as that from the segment's start would have
            // come by now, and the segment would be too long before the rung's own next one.
            let is_last_chance = elapsed_ms + IDR_DISTANCE_MAX_MS > target_ms + HLS_IDR_SLACK_MS;
            let is_extra = match open.source_keyframe_ms {
                None => true,
                Some(at_ms) => {
                    let awaited_ms = at_ms.saturating_mul(2).saturating_sub(open.segment_start_ms);
                    is_last_chance && dts_ms > awaited_ms
                }
            };
            let least_ms = IDR_DISTANCE_MAX_MS.max(target_ms - IDR_DISTANCE_MAX_MS);
            is_extra && elapsed_ms >= least_ms
        }
    }
}
