//! Where parts and segments end, and the files that are made of them.

use super::ahead::Next;
use super::open::{Open, sample};
use super::{Epoch, LAST_PICTURE_MS, Made, Packager, State};
use crate::media::timeline::Track;
use crate::output::hls::packager::init::AudioHeader;
use crate::output::hls::place::{Ends, PartNote, PartNumber};
use crate::output::record::RecordPacket;
use crate::package::fmp4::{AudioTiming, Fragment};

impl Packager {
    /// Ends a part where it may be no longer, although nothing begins there: the next one has the rest
    /// of that time.
    pub(super) fn end_in_time(
        &mut self,
        next: &Next,
        epoch: &mut Epoch,
        now_unix_ms: u64,
        out: &mut Vec<Made>,
    ) {
        let State::Open(open) = &self.state else { return };
        let end_ms = open.part_start_ms.saturating_add(self.rules.part_target_ms);
        self.close(end_ms, next.picture_ms, Ends::Part, epoch, now_unix_ms, out);
    }

    /// Ends the segment in front of the newest packet that is held.
    pub(super) fn force(
        &mut self,
        next: &Next,
        epoch: &mut Epoch,
        now_unix_ms: u64,
        out: &mut Vec<Made>,
    ) {
        let State::Open(open) = &mut self.state else { return };
        let Some(newest) = open.pop() else { return };
        let RecordPacket { track, dts_ms, at, behind, .. } = newest.packet;
        let video_end_ms = match track {
            Track::Video => Some(dts_ms),
            Track::Audio => next.picture_ms,
        };
        self.place = at;
        self.close(dts_ms, video_end_ms, Ends::Segment, epoch, now_unix_ms, out);
        self.next_segment();
        self.push(newest);
        self.place = behind;
        self.oddities.forced_cuts += 1;
    }

    /// Ends the open segment although nothing follows that would say where.
    pub(super) fn end_segment(&mut self, epoch: &mut Epoch, now_unix_ms: u64, out: &mut Vec<Made>) {
        let State::Open(open) = &self.state else { return };
        if open.is_empty() {
            // All its time is in parts.
            return self.next_segment();
        }
        let step_ms = match open.video.as_slice() {
            [.., before, last] => last.packet.dts_ms.saturating_sub(before.packet.dts_ms),
            [_] | [] => LAST_PICTURE_MS,
        };
        let step_ms = step_ms.clamp(1, self.rules.part_target_ms);
        let end_ms = open.newest_ms + step_ms;
        let end_ms = end_ms
            .min(open.segment_start_ms.saturating_add(self.rules.target_ms))
            .min(open.part_start_ms.saturating_add(self.rules.part_target_ms));
        self.close(end_ms, None, Ends::Segment, epoch, now_unix_ms, out);
        self.next_segment();
    }

    /// Also behind a part that did not know that it would be a segment's last.
    pub(super) fn next_segment(&mut self) {
        if let (State::Open(open), Some(PartNumber { segment, part: 1.. })) =
            (&mut self.state, self.next)
        {
            self.next = Some(PartNumber { segment: segment + 1, part: 0 });
            *open = Open::at(open.part_start_ms);
        }
    }

    /// Makes a part of what is pending; `video_end_ms` is where its last picture ends, if that is
    /// known. One without packets has its time all the same; one without either is none, and ends no
    /// segment.
    pub(super) fn close(
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
        if open.is_empty() && end_ms <= open.part_start_ms {
            return;
        }
        let end_ms = end_ms.max(open.part_start_ms + 1);
        let mut file = vec![0; PartNote::BOX_BYTES];
        let video: Vec<_> = open.video.iter().map(sample).collect();
        let audio: Vec<_> = open.audio.iter().map(sample).collect();
        // Without sound it is not looked at.
        let none = AudioTiming { sample_rate: 1, frame_samples: 1 };
        let audio_timing = init.audio.as_ref().map_or(none, AudioHeader::timing);
        // None begins in front of the part's end.
        let video_end_ms = Some(video_end_ms.unwrap_or(end_ms));
        let fragment = Fragment { video: &video, video_end_ms, audio: &audio, audio_timing };
        let written = if open.is_empty() {
            self.clock.write_empty(&mut file)
        } else {
            self.clock.write_fragment(&fragment, &mut file)
        };
        if let Err(error) = written {
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
