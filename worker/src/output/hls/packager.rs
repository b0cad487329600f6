//! Which packet goes into which part of one rendition. Pure: packets in, files out.
//!
//! ```text
//!              IDR                    no keyframe within the target duration
//!   Waiting ─────────▶ Open: parts … ─────────────────────────────────────────▶ Left
//!      ▲                 │
//!      └─────────────────┘ a gap
//! ```
//!
//! Invariants
//! - A part ends where the next packet begins, so the durations of a segment's parts add up to
//!   the segment's.
//! - A picture lasts until the next one, whichever part that is in (`ahead.rs`). Where that is too far
//!   away to be known, and in front of a gap, it lasts to its part's end, which is never too long: the
//!   next part's decode time says how much longer it is (ISO/IEC 14496-12, 8.8.12).
//! - No part is longer than its target: where nothing comes in time to end one, it ends there all the
//!   same, and the next has the rest of that time. So a stream of few pictures and no sound has parts
//!   without any.
//! - What a packager decides follows from the packets and from the note of the last part alone: one
//!   that was made from the note ([`Packager::resume`]) and is fed from the note's place makes the
//!   same files, byte for byte.
//! - Renditions of one stream are cut at the same pictures while the source's keyframes are no
//!   farther apart than the margin: cuts are at keyframes of the source, and those that only a
//!   rung has count where the source has none.

mod ahead;
mod close;
mod init;
mod open;

use super::breaks::Hole;
use super::epoch::Epoch;
use super::place::{Ends, InitHash, PartNote, PartNumber, RenditionKind};
use crate::media::packet::VideoCodec;
use crate::media::timeline::Track;
use crate::output::cursor::Place;
use crate::output::record::{RecordPacket, SeriesId};
use crate::package::fmp4::FragmentClock;
use ahead::{Ahead, Next, Out};
use init::{AudioHeader, InitFile, VideoHeader, headers_of};
use open::{Cut, Open};
use tasuki_shared::limits::{HLS_BREAK_NEAR_MS, HLS_BREAK_SLACK_MS, HLS_ORIGIN_MS};

/// Of a picture behind which nothing is known.
const LAST_PICTURE_MS: i64 = 33;

/// What all renditions of a stream have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub series: SeriesId,
    pub target_ms: i64,
    pub part_target_ms: i64,
}

/// Where a picture can be decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The same picture is a keyframe of the source, and so of all renditions.
    Source,
    /// An extra one of the rungs, or the first after a seam.
    Own,
    /// None, or sound.
    No,
}

/// A committed packet.
#[derive(Clone, Debug)]
pub struct HlsPacket {
    pub key: Key,
    pub packet: RecordPacket,
}

/// A file to be written, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    Init { hash: InitHash, file: Vec<u8> },
    Part { number: PartNumber, note: Box<PartNote>, file: Vec<u8> },
    Left(LeftReason),
}

/// Why a rendition leaves its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeftReason {
    #[error("source_gop_too_long")]
    SourceGopTooLong,
}

/// What was unusual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Segments that begin without a keyframe, because none came in time.
    pub forced_cuts: u64,
    /// Breaks in what was fed.
    pub gaps: u64,
    /// Not in a part, because their header is missing or not in the init segment.
    pub skipped_no_header: u64,
    pub last_error: String,
}

pub struct Packager {
    rules: Rules,
    kind: RenditionKind,
    video: Option<VideoHeader>,
    audio: Option<AudioHeader>,
    /// What the open segment refers to.
    init: Option<Init>,
    /// `None`: a first segment is numbered by the epoch.
    next: Option<PartNumber>,
    discontinuities: u64,
    clock: FragmentClock,
    /// Where an owner before this one was.
    resumed_ms: i64,
    state: State,
    ahead: Ahead,
    /// Behind the last packet that was handled.
    place: Place,
    pub oddities: Oddities,
}

struct Init {
    hash: InitHash,
    audio: Option<AudioHeader>,
    headers: Headers,
}

/// Do the newest headers say the same as the init segment?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Headers {
    Same,
    /// To be looked at with the next keyframe; since the first picture behind them, once there is one.
    Newer {
        since_ms: Option<i64>,
    },
}

enum State {
    Waiting(Begins),
    Open(Open),
    Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    Anew,
    /// There is something in front that it does not continue.
    Behind(Break),
}

/// From the last packet in front to the first one behind, keyframe or not, if there was one yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Break {
    from_ms: i64,
    behind_ms: Option<i64>,
}

impl Packager {
    /// Of a rendition of which there is nothing.
    #[must_use]
    pub fn new(rules: Rules, kind: RenditionKind) -> Self {
        Self {
            rules,
            kind,
            video: None,
            audio: None,
            init: None,
            next: None,
            discontinuities: 0,
            clock: FragmentClock::new(HLS_ORIGIN_MS),
            resumed_ms: i64::MIN,
            state: State::Waiting(Begins::Anew),
            ahead: Ahead::default(),
            place: Place::default(),
            oddities: Oddities::default(),
        }
    }

    /// Behind the parts of another series, or of whoever left a last part that says nothing.
    #[must_use]
    pub fn after(
        rules: Rules,
        kind: RenditionKind,
        last: PartNumber,
        note: Option<&PartNote>,
    ) -> Self {
        Self {
            next: Some(PartNumber { segment: last.segment + 1, part: 0 }),
            discontinuities: note.map_or(0, |note| note.discontinuities),
            state: State::Waiting(Begins::Behind(Break { from_ms: i64::MIN, behind_ms: None })),
            ..Self::new(rules, kind)
        }
    }

    /// Goes on where the packager that wrote this note was. `None` without its init segment.
    #[must_use]
    pub fn resume(
        rules: Rules,
        kind: RenditionKind,
        last: PartNumber,
        note: &PartNote,
        init_file: &[u8],
    ) -> Option<Self> {
        let (video, audio) = headers_of(init_file)?;
        let end_ms = note.start_ms.saturating_add(i64::from(note.duration_ms));
        let (next, segment_start_ms, source_keyframe_ms) = match note.ends {
            Ends::Part => {
                let next = PartNumber { segment: last.segment, part: last.part + 1 };
                (next, note.segment_start_ms, note.source_keyframe_ms)
            }
            Ends::Segment => (PartNumber { segment: last.segment + 1, part: 0 }, end_ms, None),
        };
        let init = Init { hash: note.init, audio: audio.clone(), headers: Headers::Same };
        let mut open = Open::at(end_ms);
        (open.segment_start_ms, open.source_keyframe_ms) = (segment_start_ms, source_keyframe_ms);
        Some(Self {
            video: Some(video),
            audio,
            init: Some(init),
            next: Some(next),
            discontinuities: note.discontinuities,
            clock: note.clock,
            resumed_ms: end_ms,
            state: State::Open(open),
            place: note.place,
            ..Self::new(rules, kind)
        })
    }

    pub fn set_kind(&mut self, kind: RenditionKind) {
        self.kind = kind;
    }

    pub fn video_header(&mut self, codec: VideoCodec, bytes: Vec<u8>) {
        if self.video.as_ref().is_some_and(|video| video.codec == codec && video.bytes == bytes) {
            return;
        }
        self.video = self.told(VideoHeader::new(codec, bytes));
        self.headers_are_newer();
    }

    pub fn audio_header(&mut self, bytes: Vec<u8>) {
        if self.ahead.is_empty() {
            self.set_audio(bytes);
        } else {
            // The sound that waits is of the one before.
            self.ahead.audio_header(bytes);
        }
    }

    /// Takes the next packet; what is to be written because of it, or of those that waited for it, is
    /// appended.
    pub fn take(
        &mut self,
        packet: HlsPacket,
        epoch: &mut Epoch,
        now_unix_ms: u64,
        out: &mut Vec<Made>,
    ) {
        epoch.received(packet.packet.dts_ms, now_unix_ms);
        let mut ready = Vec::new();
        self.ahead.take(packet, &mut ready);
        self.go_on(ready, epoch, now_unix_ms, out);
    }

    /// Something is missing between what was fed and what comes.
    pub fn gap(&mut self, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        self.wait_no_longer(epoch, now_unix_ms, out);
        self.break_off(epoch, now_unix_ms, out);
    }

    /// The stream is over: what is held is a last part.
    pub fn finish(&mut self, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        self.wait_no_longer(epoch, now_unix_ms, out);
        self.end(epoch, now_unix_ms, out);
    }

    fn wait_no_longer(&mut self, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        let mut ready = Vec::new();
        self.ahead.flush(&mut ready);
        self.go_on(ready, epoch, now_unix_ms, out);
    }

    fn go_on(&mut self, ready: Vec<Out>, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        for ready in ready {
            match ready {
                Out::Next(next) => {
                    let behind = next.packet.packet.behind;
                    self.take_next(next, epoch, now_unix_ms, out);
                    self.place = behind;
                }
                Out::AudioHeader(bytes) => self.set_audio(bytes),
            }
        }
    }

    fn take_next(&mut self, next: Next, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        self.note_since(&next.packet.packet);
        let changed = || self.has_changed();
        match &self.state {
            State::Left => {}
            State::Waiting(_) => self.begin(next.packet, epoch, now_unix_ms, out),
            State::Open(_) if !self.has_header(&next.packet) => {
                self.oddities.skipped_no_header += 1;
            }
            State::Open(open) => match open.judge(&next.packet, self.kind, &self.rules, changed) {
                Cut::Leave => {
                    self.state = State::Left;
                    out.push(Made::Left(LeftReason::SourceGopTooLong));
                }
                Cut::Gap => {
                    self.break_off(epoch, now_unix_ms, out);
                    self.begin(next.packet, epoch, now_unix_ms, out);
                }
                Cut::Forced => {
                    // Only once: no packet is a segment's length behind the one in front of it.
                    self.force(&next, epoch, now_unix_ms, out);
                    self.take_next(next, epoch, now_unix_ms, out);
                }
                Cut::Nothing | Cut::Part | Cut::Segment | Cut::Changed
                    if open.is_overdue(&next.packet, &self.rules) =>
                {
                    // So often only as parts fit in front of a gap.
                    self.end_in_time(&next, epoch, now_unix_ms, out);
                    self.take_next(next, epoch, now_unix_ms, out);
                }
                cut @ (Cut::Nothing | Cut::Part | Cut::Segment | Cut::Changed) => {
                    self.cut(cut, &next, epoch, now_unix_ms, out);
                    self.push(next.packet);
                }
            },
        }
    }

    fn break_off(&mut self, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        if matches!(self.state, State::Open(_)) {
            self.oddities.gaps += 1;
        }
        self.end(epoch, now_unix_ms, out);
    }

    fn end(&mut self, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        if let State::Open(open) = &self.state {
            let from_ms = open.newest_ms;
            self.end_segment(epoch, now_unix_ms, out);
            self.state = State::Waiting(Begins::Behind(Break { from_ms, behind_ms: None }));
        }
    }

    fn set_audio(&mut self, bytes: Vec<u8>) {
        if self.audio.as_ref().is_some_and(|audio| audio.bytes == bytes) {
            return;
        }
        self.audio = self.told(AudioHeader::new(bytes));
        self.headers_are_newer();
    }

    fn told<T>(&mut self, header: Result<T, init::InitError>) -> Option<T> {
        match header {
            Ok(header) => Some(header),
            Err(error) => {
                self.oddities.last_error = error.to_string();
                None
            }
        }
    }

    fn headers_are_newer(&mut self) {
        if let Some(init) = &mut self.init {
            init.headers = Headers::Newer { since_ms: None };
        }
    }

    /// A change of headers is known by the first picture that has them: that all renditions have, and not
    /// each has a keyframe there.
    fn note_since(&mut self, packet: &RecordPacket) {
        if let (Track::Video, Some(Init { headers: Headers::Newer { since_ms }, .. })) =
            (packet.track, &mut self.init)
        {
            since_ms.get_or_insert(packet.dts_ms);
        }
    }

    /// Of the change of headers with which the keyframe at this time comes.
    fn change(&self, to_ms: i64) -> Hole {
        let since_ms = match self.init.as_ref().map(|init| init.headers) {
            Some(Headers::Newer { since_ms: Some(since_ms) }) => since_ms,
            Some(Headers::Same | Headers::Newer { since_ms: None }) | None => to_ms,
        };
        // An owner finds what an earlier one was told of before.
        let is_found = since_ms.saturating_sub(self.resumed_ms) <= HLS_BREAK_NEAR_MS;
        let from_ms = if is_found { since_ms.saturating_sub(HLS_BREAK_SLACK_MS) } else { since_ms };
        Hole { from_ms, behind_ms: since_ms, to_ms }
    }

    /// Is it one of the tracks that the init segment has?
    fn has_header(&self, packet: &HlsPacket) -> bool {
        match packet.packet.track {
            Track::Video => self.video.is_some(),
            Track::Audio => {
                let of_init = self.init.as_ref().and_then(|init| init.audio.as_ref());
                of_init.is_some() && of_init == self.audio.as_ref()
            }
        }
    }

    /// Would the newest headers make another init segment? Those that make none change nothing.
    fn has_changed(&self) -> bool {
        match (&self.init, &self.video) {
            (Some(init), Some(video)) if init.headers != Headers::Same => {
                InitFile::new(video, self.audio.as_ref()).is_ok_and(|new| new.hash != init.hash)
            }
            (Some(_) | None, Some(_) | None) => false,
        }
    }

    fn cut(
        &mut self,
        cut: Cut,
        next: &Next,
        epoch: &mut Epoch,
        now_unix_ms: u64,
        out: &mut Vec<Made>,
    ) {
        let ends = match cut {
            Cut::Nothing | Cut::Gap | Cut::Leave | Cut::Forced => return,
            Cut::Part => Ends::Part,
            Cut::Segment | Cut::Changed => Ends::Segment,
        };
        let dts_ms = next.packet.packet.dts_ms;
        self.close(dts_ms, next.picture_ms, ends, epoch, now_unix_ms, out);
        if cut == Cut::Changed {
            self.next_segment();
            let hole = self.change(dts_ms);
            self.discontinuities = epoch.breaks.number(hole, self.discontinuities);
            let _the_headers_were_looked_at = self.make_init(out);
        }
    }

    fn begin(
        &mut self,
        packet: HlsPacket,
        epoch: &mut Epoch,
        now_unix_ms: u64,
        out: &mut Vec<Made>,
    ) {
        let State::Waiting(begins) = &mut self.state else { return };
        let dts_ms = packet.packet.dts_ms;
        let hole = match begins {
            Begins::Anew => None,
            Begins::Behind(Break { from_ms, behind_ms }) => {
                let behind_ms = *behind_ms.get_or_insert(dts_ms);
                Some(Hole { from_ms: *from_ms, behind_ms, to_ms: dts_ms })
            }
        };
        if packet.key == Key::No || self.make_init(out).is_none() {
            return;
        }
        let first = epoch.first(now_unix_ms);
        self.next.get_or_insert(first);
        self.discontinuities = match hole {
            None => epoch.breaks.in_force(dts_ms),
            Some(hole) => epoch.breaks.number(hole, self.discontinuities),
        };
        self.state = State::Open(Open::at(packet.packet.dts_ms));
        self.push(packet);
    }

    /// Of the newest headers, for the segment that begins.
    fn make_init(&mut self, out: &mut Vec<Made>) -> Option<()> {
        let made = InitFile::new(self.video.as_ref()?, self.audio.as_ref());
        let InitFile { hash, bytes: file } = self.told(made)?;
        let timing = |audio: &Option<AudioHeader>| audio.as_ref().map(AudioHeader::timing);
        let before = self.init.as_ref().and_then(|init| timing(&init.audio));
        if before.is_some() && before != timing(&self.audio) {
            // It counts samples, which are others now.
            self.clock.audio_next = 0;
        }
        self.init = Some(Init { hash, audio: self.audio.clone(), headers: Headers::Same });
        out.push(Made::Init { hash, file });
        Some(())
    }

    fn push(&mut self, packet: HlsPacket) {
        if let State::Open(open) = &mut self.state {
            open.push(packet);
        }
    }
}

#[cfg(test)]
pub(in crate::output::hls) mod tests;
