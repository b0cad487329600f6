//! The publisher's timestamps made into one monotonic, gap-aware timeline in milliseconds.
//!
//! RTMP stamps are 32-bit milliseconds that wrap, and publishers step back, repeat or leap.
//! A stamp on the timeline is the raw stamp plus the track's *offset* (modulo 2^32), read as
//! the number nearest to the *head*, the newest stamp of any track: so a wrap needs no care.
//! The first packet of a session stands at its own raw value, and while a source is well
//! formed nothing is touched.
//!
//! A stamp is *in range* when it is at most `TIMELINE_LEAP_MS` away from the head and not more
//! than `TIMELINE_FALL_MS` behind its own track:
//! - in range and ahead: taken as it is. So a track that was silent and comes back at the
//!   right time (a phone call, a static screen) leaves its true gap;
//! - in range but not ahead: held at the track's last stamp (audio) or one more (video), while
//!   the offset stays: once the source has caught up, stamps are true again;
//! - out of range: a jump. If the stamp is in range under the *other* track's offset, that is
//!   adopted: so a jump of the whole stream moves both tracks by exactly the same amount, and
//!   a track that glitched alone comes back into exact sync. Otherwise the track gets a new
//!   offset that continues it at the head or one usual step after its own last stamp.
//!
//! While the tracks have different offsets, each adopts the other's as soon as that brings it
//! nearer to the other track without going back: so what a leap in range took apart (one frame
//! a few seconds ahead) comes together again.
//!
//! Only frames belong here: sequence headers and metadata are often stamped 0 by publishers
//! and stand at the head (`head_ms`).

use tasuki_shared::limits::{TIMELINE_FALL_MS, TIMELINE_LEAP_MS};

/// Which of a session's two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Track {
    Video,
    Audio,
}

/// What was unusual about a stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// The raw stamp passed 2^32; normal.
    Wrap,
    BackwardJump,
    ForwardJump,
    /// Video with the stamp of its predecessor.
    EqualDts,
    /// Video a little before its predecessor.
    FallingDts,
    /// Audio a little before its predecessor.
    AudioInPast,
}

impl Correction {
    pub const ALL: [Self; 6] = [
        Self::Wrap,
        Self::BackwardJump,
        Self::ForwardJump,
        Self::EqualDts,
        Self::FallingDts,
        Self::AudioInPast,
    ];

    /// As in the status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wrap => "timestamp_wrap",
            Self::BackwardJump => "timestamp_jump_back",
            Self::ForwardJump => "timestamp_jump_forward",
            Self::EqualDts => "dts_equal",
            Self::FallingDts => "dts_falling",
            Self::AudioInPast => "audio_in_past",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Wrap => 0,
            Self::BackwardJump => 1,
            Self::ForwardJump => 2,
            Self::EqualDts => 3,
            Self::FallingDts => 4,
            Self::AudioInPast => 5,
        }
    }
}

/// A place on the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped {
    pub dts_ms: i64,
    pub pts_ms: i64,
    pub correction: Option<Correction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    state: TimelineState,
}

/// All there is of a timeline: plain integers that another process can go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineState {
    video: TrackState,
    audio: TrackState,
    /// By `Correction`, in the order of `Correction::ALL`.
    counts: [u64; 6],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TrackState {
    started: Started,
    raw_last_ms: u32,
    offset_ms: u32,
    /// Last usual distance of two packets.
    step_ms: u32,
    dts_last_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Started {
    No,
    Yes,
}

/// Why bytes are no timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of a timeline holds impossible values")]
pub struct BadTimeline;

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Timeline {
    #[must_use]
    pub fn new() -> Self {
        let state = TimelineState {
            video: TrackState::new(VIDEO_STEP_MS),
            audio: TrackState::new(AUDIO_STEP_MS),
            counts: [0; 6],
        };
        Self { state }
    }

    #[must_use]
    pub fn resume(state: TimelineState) -> Self {
        Self { state }
    }

    #[must_use]
    pub fn state(&self) -> TimelineState {
        self.state
    }

    /// The newest stamp of any track; `None` before the first frame.
    #[must_use]
    pub fn head_ms(&self) -> Option<i64> {
        let TimelineState { video, audio, .. } = &self.state;
        [video, audio]
            .into_iter()
            .filter(|track| track.started == Started::Yes)
            .map(|track| track.dts_last_ms)
            .max()
    }

    /// How often each kind was met.
    #[must_use]
    pub fn count(&self, correction: Correction) -> u64 {
        self.state.counts[correction.index()]
    }

    /// Places a frame on the timeline.
    pub fn stamp(&mut self, track: Track, raw_timestamp_ms: u32, cts_ms: i32) -> Stamped {
        let (dts_ms, correction) = match self.head_ms() {
            None => (i64::from(raw_timestamp_ms), None),
            Some(head_ms) => self.place(track, raw_timestamp_ms, head_ms),
        };
        let own = self.track_mut(track);
        own.started = Started::Yes;
        own.raw_last_ms = raw_timestamp_ms;
        own.dts_last_ms = dts_ms;
        if let Some(correction) = correction {
            let count = &mut self.state.counts[correction.index()];
            *count = count.saturating_add(1);
        }
        Stamped { dts_ms, pts_ms: dts_ms.saturating_add(i64::from(cts_ms)), correction }
    }

    fn place(&mut self, track: Track, raw_ms: u32, head_ms: i64) -> (i64, Option<Correction>) {
        let other_offset_ms = self.track(track.other()).offset_ms;
        let own = *self.track(track);
        if own.started == Started::No {
            return self.place_first(track, raw_ms, head_ms, other_offset_ms);
        }
        let dts_ms = nearest(raw_ms, own.offset_ms, head_ms);
        if own.in_range(dts_ms, head_ms) {
            if let Some(healed_ms) = self.heal(track, raw_ms, dts_ms, head_ms) {
                self.track_mut(track).offset_ms = other_offset_ms;
                return (healed_ms, Some(jump_kind(healed_ms, dts_ms)));
            }
            let (held_ms, correction) = hold(track, dts_ms, own.dts_last_ms);
            let wrapped = correction.is_none() && raw_ms < own.raw_last_ms;
            if correction.is_none() {
                let step_ms = dts_ms.saturating_sub(own.dts_last_ms).clamp(1, STEP_MS_MAX);
                self.track_mut(track).step_ms = u32::try_from(step_ms).unwrap_or(1);
            }
            return (held_ms, if wrapped { Some(Correction::Wrap) } else { correction });
        }
        let jump = jump_kind(dts_ms, own.dts_last_ms);
        let adopted_ms = nearest(raw_ms, other_offset_ms, head_ms);
        if own.in_range(adopted_ms, head_ms) {
            self.track_mut(track).offset_ms = other_offset_ms;
            return (hold(track, adopted_ms, own.dts_last_ms).0, Some(jump));
        }
        let next_ms = own.dts_last_ms.saturating_add(i64::from(own.step_ms)).max(head_ms);
        self.track_mut(track).offset_ms = low_bits(next_ms).wrapping_sub(raw_ms);
        (next_ms, Some(jump))
    }

    /// The stamp under the other track's offset, if the tracks are nearer together that way and
    /// this one rises.
    fn heal(&self, track: Track, raw_ms: u32, dts_ms: i64, head_ms: i64) -> Option<i64> {
        let (own, other) = (self.track(track), self.track(track.other()));
        if own.offset_ms == other.offset_ms || other.started == Started::No {
            return None;
        }
        let healed_ms = nearest(raw_ms, other.offset_ms, head_ms);
        let nearer = healed_ms.abs_diff(other.dts_last_ms) < dts_ms.abs_diff(other.dts_last_ms);
        let rises = healed_ms > own.dts_last_ms;
        (nearer && rises && own.in_range(healed_ms, head_ms)).then_some(healed_ms)
    }

    /// A track's first packet when the other one runs: on the same clock if that is plausible.
    fn place_first(
        &mut self,
        track: Track,
        raw_ms: u32,
        head_ms: i64,
        other_offset_ms: u32,
    ) -> (i64, Option<Correction>) {
        let dts_ms = nearest(raw_ms, other_offset_ms, head_ms);
        if dts_ms.abs_diff(head_ms) <= TIMELINE_LEAP_MS.unsigned_abs() {
            self.track_mut(track).offset_ms = other_offset_ms;
            return (dts_ms, None);
        }
        self.track_mut(track).offset_ms = low_bits(head_ms).wrapping_sub(raw_ms);
        (head_ms, Some(jump_kind(dts_ms, head_ms)))
    }

    fn track(&self, track: Track) -> &TrackState {
        match track {
            Track::Video => &self.state.video,
            Track::Audio => &self.state.audio,
        }
    }

    fn track_mut(&mut self, track: Track) -> &mut TrackState {
        match track {
            Track::Video => &mut self.state.video,
            Track::Audio => &mut self.state.audio,
        }
    }
}

/// Distances until two packets of a track have shown theirs.
const VIDEO_STEP_MS: u32 = 33;
const AUDIO_STEP_MS: u32 = 23;
const STEP_MS_MAX: i64 = 1_000;
/// Imported stamps are within this, so that no sum overflows.
const STAMP_MS_MAX: i64 = 1 << 60;

impl Track {
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Video => Self::Audio,
            Self::Audio => Self::Video,
        }
    }
}

impl TrackState {
    const SIZE: usize = 1 + 4 + 4 + 4 + 8;

    fn new(step_ms: u32) -> Self {
        Self { started: Started::No, raw_last_ms: 0, offset_ms: 0, step_ms, dts_last_ms: 0 }
    }

    fn in_range(&self, dts_ms: i64, head_ms: i64) -> bool {
        dts_ms.abs_diff(head_ms) <= TIMELINE_LEAP_MS.unsigned_abs()
            && dts_ms >= self.dts_last_ms.saturating_sub(TIMELINE_FALL_MS)
    }

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let Self { started, raw_last_ms, offset_ms, step_ms, dts_last_ms } = self;
        let mut bytes = [0; Self::SIZE];
        bytes[0] = match started {
            Started::No => 0,
            Started::Yes => 1,
        };
        bytes[1..5].copy_from_slice(&raw_last_ms.to_le_bytes());
        bytes[5..9].copy_from_slice(&offset_ms.to_le_bytes());
        bytes[9..13].copy_from_slice(&step_ms.to_le_bytes());
        bytes[13..].copy_from_slice(&dts_last_ms.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::SIZE]) -> Result<Self, BadTimeline> {
        let started = match bytes[0] {
            0 => Started::No,
            1 => Started::Yes,
            _ => return Err(BadTimeline),
        };
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut long = [0; 8];
        long.copy_from_slice(&bytes[13..]);
        let state = Self {
            started,
            raw_last_ms: word(1),
            offset_ms: word(5),
            step_ms: word(9),
            dts_last_ms: i64::from_le_bytes(long),
        };
        let sound = (-STAMP_MS_MAX..=STAMP_MS_MAX).contains(&state.dts_last_ms)
            && (1..=STEP_MS_MAX).contains(&i64::from(state.step_ms));
        if sound { Ok(state) } else { Err(BadTimeline) }
    }
}

impl TimelineState {
    pub const SIZE: usize = 2 * TrackState::SIZE + 6 * 8;

    /// Fixed size, little endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let Self { video, audio, counts } = self;
        let mut bytes = [0; Self::SIZE];
        let (tracks, tail) = bytes.split_at_mut(2 * TrackState::SIZE);
        tracks[..TrackState::SIZE].copy_from_slice(&video.to_bytes());
        tracks[TrackState::SIZE..].copy_from_slice(&audio.to_bytes());
        for (place, count) in tail.chunks_exact_mut(8).zip(counts) {
            place.copy_from_slice(&count.to_le_bytes());
        }
        bytes
    }

    /// Any bytes give a timeline or are refused.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Result<Self, BadTimeline> {
        let (video, rest) = bytes.split_first_chunk().ok_or(BadTimeline)?;
        let (audio, tail) = rest.split_first_chunk().ok_or(BadTimeline)?;
        let mut counts = [0; 6];
        for (count, place) in counts.iter_mut().zip(tail.chunks_exact(8)) {
            *count = u64::from_le_bytes(place.try_into().map_err(|_| BadTimeline)?);
        }
        Ok(Self {
            video: TrackState::from_bytes(video)?,
            audio: TrackState::from_bytes(audio)?,
            counts,
        })
    }
}

/// The number nearest to `head_ms` whose low 32 bits are `raw_ms + offset_ms`.
fn nearest(raw_ms: u32, offset_ms: u32, head_ms: i64) -> i64 {
    let distance = raw_ms.wrapping_add(offset_ms).wrapping_sub(low_bits(head_ms));
    head_ms.saturating_add(i64::from(distance.cast_signed()))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modulo 2^32 is meant")]
fn low_bits(value: i64) -> u32 {
    value as u32
}

/// Keeps a stamp in range from going back: video rises, audio does not fall.
fn hold(track: Track, dts_ms: i64, last_ms: i64) -> (i64, Option<Correction>) {
    match track {
        Track::Video if dts_ms == last_ms => (last_ms + 1, Some(Correction::EqualDts)),
        Track::Video if dts_ms < last_ms => (last_ms + 1, Some(Correction::FallingDts)),
        Track::Audio if dts_ms < last_ms => (last_ms, Some(Correction::AudioInPast)),
        Track::Video | Track::Audio => (dts_ms, None),
    }
}

fn jump_kind(dts_ms: i64, from_ms: i64) -> Correction {
    if dts_ms < from_ms { Correction::BackwardJump } else { Correction::ForwardJump }
}

#[cfg(test)]
mod tests;
