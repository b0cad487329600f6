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
//!   the segment's; only in front of a gap, and at the end, a last picture's duration is guessed.
//! - What a packager decides follows from the packets and from the note of the last part alone: one
//!   that was made from the note ([`Packager::resume`]) and is fed from the note's place makes the
//!   same files, byte for byte.
//! - Renditions of one stream are cut at the same pictures while the source's keyframes are no
//!   farther apart than the margin: cuts are at keyframes of the source, and those that only a
//!   rung has count where the source has none.

mod init;
mod open;

use super::place::{Ends, InitHash, PartNote, PartNumber, RenditionKind};
use crate::media::packet::VideoCodec;
use crate::media::timeline::Track;
use crate::output::cursor::Place;
use crate::output::record::{RecordPacket, SeriesId};
use crate::package::fmp4::{AudioTiming, Fragment, FragmentClock};
use init::{AudioHeader, InitFile, VideoHeader, headers_of};
use open::{Cut, Open, sample};
use tasuki_shared::limits::HLS_ORIGIN_MS;

/// Of a picture behind which nothing is known.
const LAST_PICTURE_MS: i64 = 33;

/// What all renditions of a stream have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub series: SeriesId,
    pub target_ms: i64,
    pub part_target_ms: i64,
}

/// Wall clock of the stream's timeline, set by the first picture of any rendition, and the number
/// of a first segment. So it knows nothing of later steps of the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Wall clock minus timeline.
    pub offset_ms: Option<i64>,
    pub first_segment: Option<u64>,
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
    state: State,
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
    /// To be looked at with the next keyframe.
    Newer,
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
    BehindABreak,
}

impl Epoch {
    fn unix_ms(&mut self, at_ms: i64, now_unix_ms: u64) -> u64 {
        let now = i64::try_from(now_unix_ms).unwrap_or(i64::MAX);
        let offset_ms = *self.offset_ms.get_or_insert(now.saturating_sub(at_ms));
        u64::try_from(offset_ms.saturating_add(at_ms)).unwrap_or(0)
    }

    /// Larger than any number of a directory that was there before: seconds, for segments are longer.
    fn first(&mut self, now_unix_ms: u64) -> PartNumber {
        let segment = *self.first_segment.get_or_insert(now_unix_ms / 1000);
        PartNumber { segment, part: 0 }
    }
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
            state: State::Waiting(Begins::Anew),
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
            state: State::Waiting(Begins::BehindABreak),
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
        if self.audio.as_ref().is_some_and(|audio| audio.bytes == bytes) {
            return;
        }
        self.audio = self.told(AudioHeader::new(bytes));
        self.headers_are_newer();
    }

    /// Takes the next packet; what is to be written because of it is appended.
    pub fn take(
        &mut self,
        packet: HlsPacket,
        epoch: &mut Epoch,
        now_unix_ms: u64,
        out: &mut Vec<Made>,
    ) {
        let behind = packet.packet.behind;
        let changed = || self.has_changed();
        match &self.state {
            State::Left => {}
            State::Waiting(_) => self.begin(packet, epoch, now_unix_ms, out),
            State::Open(_) if !self.has_header(&packet) => self.oddities.skipped_no_header += 1,
            State::Open(open) => match open.judge(&packet, self.kind, &self.rules, changed) {
                Cut::Leave => {
                    self.state = State::Left;
                    out.push(Made::Left(LeftReason::SourceGopTooLong));
                }
                Cut::Gap => {
                    self.gap(epoch, now_unix_ms, out);
                    self.begin(packet, epoch, now_unix_ms, out);
                }
                Cut::Forced => {
                    // Only once: no packet is a segment's length behind the one in front of it.
                    self.force(epoch, now_unix_ms, out);
                    self.take(packet, epoch, now_unix_ms, out);
                }
                cut @ (Cut::Nothing | Cut::Part | Cut::Segment | Cut::Changed) => {
                    self.cut(cut, &packet.packet, epoch, now_unix_ms, out);
                    self.push(packet);
                }
            },
        }
        self.place = behind;
    }

    /// Something is missing between what was fed and what comes.
    pub fn gap(&mut self, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        if let State::Open(_) = self.state {
            self.end_segment(epoch, now_unix_ms, out);
            self.oddities.gaps += 1;
            self.state = State::Waiting(Begins::BehindABreak);
        }
    }

    /// The stream is over: what is held is a last part.
    pub fn finish(&mut self, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        if let State::Open(_) = self.state {
            self.end_segment(epoch, now_unix_ms, out);
            self.state = State::Waiting(Begins::BehindABreak);
        }
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
            init.headers = Headers::Newer;
        }
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
            (Some(init), Some(video)) if init.headers == Headers::Newer => {
                InitFile::new(video, self.audio.as_ref()).is_ok_and(|new| new.hash != init.hash)
            }
            (Some(_) | None, Some(_) | None) => false,
        }
    }

    fn cut(
        &mut self,
        cut: Cut,
        next: &RecordPacket,
        epoch: &mut Epoch,
        now_unix_ms: u64,
        out: &mut Vec<Made>,
    ) {
        let ends = match cut {
            Cut::Nothing | Cut::Gap | Cut::Leave | Cut::Forced => return,
            Cut::Part => Ends::Part,
            Cut::Segment | Cut::Changed => Ends::Segment,
        };
        let video_end_ms = match next.track {
            Track::Video => Some(next.dts_ms),
            Track::Audio => None,
        };
        self.close(next.dts_ms, video_end_ms, ends, epoch, now_unix_ms, out);
        if cut == Cut::Changed {
            self.next_segment();
            self.discontinuities += 1;
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
        let State::Waiting(begins) = self.state else { return };
        if packet.key == Key::No || self.make_init(out).is_none() {
            return;
        }
        let _set = epoch.unix_ms(packet.packet.dts_ms, now_unix_ms);
        let first = epoch.first(now_unix_ms);
        self.next.get_or_insert(first);
        if begins == Begins::BehindABreak {
            self.discontinuities += 1;
        }
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

    /// Ends the segment in front of the newest packet that is held.
    fn force(&mut self, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        let State::Open(open) = &mut self.state else { return };
        let Some(newest) = open.pop() else { return };
        let RecordPacket { dts_ms, at, behind, .. } = newest.packet;
        let video_end_ms = (newest.packet.track == Track::Video).then_some(dts_ms);
        self.place = at;
        self.close(dts_ms, video_end_ms, Ends::Segment, epoch, now_unix_ms, out);
        self.next_segment();
        self.push(newest);
        self.place = behind;
        self.oddities.forced_cuts += 1;
    }

    /// Ends the open segment although nothing follows that would say where.
    fn end_segment(&mut self, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        let State::Open(open) = &self.state else { return };
        let step_ms = match open.video.as_slice() {
            [.., before, last] => last.packet.dts_ms.saturating_sub(before.packet.dts_ms),
            [_] | [] => LAST_PICTURE_MS,
        };
        let step_ms = step_ms.clamp(1, self.rules.part_target_ms);
        let end_ms = open.newest_ms + step_ms;
        let end_ms = end_ms.min(open.segment_start_ms.saturating_add(self.rules.target_ms));
        self.close(end_ms, None, Ends::Segment, epoch, now_unix_ms, out);
        self.next_segment();
    }

    /// Also behind a part that did not know that it would be a segment's last.
    fn next_segment(&mut self) {
        if let (State::Open(open), Some(PartNumber { segment, part: 1.. })) =
            (&mut self.state, self.next)
        {
            self.next = Some(PartNumber { segment: segment + 1, part: 0 });
            *open = Open::at(open.part_start_ms);
        }
    }

    /// Makes a part of what is pending. One without anything is none, and ends no segment.
    fn close(
        &mut self,
        end_ms: i64,
        video_end_ms: Option<i64>,
        ends: Ends,
        epoch: &mut Epoch,
        now_unix_ms: u64,
        out: &mut Vec<Made>,
    ) {
        let (State::Open(open), Some(init), Some(number)) =
            (&mut self.state, &self.init, self.next)
        else {
            return;
        };
        if open.is_empty() {
            return;
        }
        let end_ms = end_ms.max(open.part_start_ms + 1);
        let mut file = vec![0; PartNote::BOX_BYTES];
        let video: Vec<_> = open.video.iter().map(sample).collect();
        let audio: Vec<_> = open.audio.iter().map(sample).collect();
        // Without sound it is not looked at.
        let none = AudioTiming { sample_rate: 1, frame_samples: 1 };
        let audio_timing = init.audio.as_ref().map_or(none, AudioHeader::timing);
        let fragment = Fragment { video: &video, video_end_ms, audio: &audio, audio_timing };
        if let Err(error) = self.clock.write_fragment(&fragment, &mut file) {
            self.oddities.last_error = error.to_string();
        }
        let note = PartNote {
            series: self.rules.series,
            init: init.hash,
            discontinuities: self.discontinuities,
            start_ms: open.part_start_ms,
            duration_ms: u32::try_from(end_ms - open.part_start_ms).unwrap_or(u32::MAX),
            start_unix_ms: epoch.unix_ms(open.part_start_ms, now_unix_ms),
            frames: u32::try_from(open.video.len()).unwrap_or(u32::MAX),
            independent: open.independent(),
            ends,
            segment_start_ms: open.segment_start_ms,
            source_keyframe_ms: open.source_keyframe_ms,
            clock: self.clock,
            place: self.place,
        };
        let mut head = Vec::with_capacity(PartNote::BOX_BYTES);
        note.encode(&mut head);
        file[..PartNote::BOX_BYTES].copy_from_slice(&head);
        let PartNumber { segment, part } = number;
        match ends {
            Ends::Part => {
                self.next = Some(PartNumber { segment, part: part + 1 });
                open.next_part(end_ms);
            }
            Ends::Segment => {
                self.next = Some(PartNumber { segment: segment + 1, part: 0 });
                *open = Open::at(end_ms);
            }
        }
        out.push(Made::Part { number, note: Box::new(note), file });
    }
}

#[cfg(test)]
pub(in crate::output::hls) mod tests;
