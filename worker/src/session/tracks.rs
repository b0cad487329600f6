//! What is known of a publisher's tracks, and what each media message is by that.

use crate::media::aac::{self, AacConfig};
use crate::media::config::{self, VideoConfig};
use crate::media::nal::{self, IsDisposable, NalLengthSize};
use crate::media::packet::{IsIdr, VideoCodec};
use crate::media::tag::{self, AudioKind, TagError, VideoKind};
use tasuki_shared::memory::log::{EntryKind, HEADER_BYTES_MAX};

/// The video track as its newest sequence header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoTrack {
    pub codec: VideoCodec,
    /// `None` if the header could not be read; packets are passed through all the same.
    pub config: Option<VideoConfig>,
    tag: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioTrack {
    pub config: Option<AacConfig>,
    tag: Vec<u8>,
}

/// What a media message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Goes into the log.
    Packet { kind: EntryKind, cts_ms: i32, fault: Option<&'static str> },
    /// Does not; counted under this name.
    Dropped(&'static str),
    /// Does not, and that is nothing unusual.
    Ignored,
}

impl Judged {
    fn packet(kind: EntryKind, cts_ms: i32) -> Self {
        Self::Packet { kind, cts_ms, fault: None }
    }
}

/// Both tracks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracks {
    pub video: Option<VideoTrack>,
    pub audio: Option<AudioTrack>,
}

impl Tracks {
    /// Looks at the body of a video message; a new sequence header is remembered.
    pub fn judge_video(&mut self, body: &[u8]) -> Judged {
        let tag = match tag::parse_video(body) {
            Ok(tag) => tag,
            Err(error) => return unreadable(error, EntryKind::VideoOther),
        };
        match tag.kind {
            VideoKind::SequenceHeader { config } => self.video_header(tag.codec, config, body),
            VideoKind::Frame { cts_ms, nals, .. } => {
                let Some(track) = &self.video else {
                    return Judged::Dropped("video_before_header");
                };
                if nals.is_empty() {
                    return Judged::Dropped("empty_video_message");
                }
                let length_size = track
                    .config
                    .map_or(NalLengthSize::from_minus_one(3), |c| Some(c.nal_length_size));
                let Some(length_size) = length_size else {
                    return Judged::packet(EntryKind::VideoInter, cts_ms);
                };
                let seen = nal::inspect(tag.codec, length_size, nals);
                let kind = match (seen.idr, seen.disposable) {
                    (IsIdr::Idr, _) => EntryKind::VideoIdr,
                    (IsIdr::Other, IsDisposable::Disposable) => EntryKind::VideoDisposable,
                    (IsIdr::Other, IsDisposable::Reference) => EntryKind::VideoInter,
                };
                let damaged = seen.integrity == nal::Integrity::Damaged;
                let fault = damaged.then_some("damaged_nal_lengths");
                Judged::Packet { kind, cts_ms, fault }
            }
            VideoKind::EndOfSequence => Judged::Ignored,
            VideoKind::Metadata { .. } => Judged::packet(EntryKind::VideoOther, 0),
        }
    }

    /// Looks at the body of an audio message; a new sequence header is remembered.
    pub fn judge_audio(&mut self, body: &[u8]) -> Judged {
        let tag = match tag::parse_audio(body) {
            Ok(tag) => tag,
            Err(error) => return unreadable(error, EntryKind::AudioOther),
        };
        match tag.kind {
            AudioKind::SequenceHeader { config } => {
                if body.len() > HEADER_BYTES_MAX {
                    return Judged::Dropped("audio_header_too_long");
                }
                if self.audio.as_ref().is_some_and(|track| track.tag == body) {
                    return Judged::Dropped("repeated_audio_header");
                }
                let config = aac::parse_config(config).ok();
                let fault = config.is_none().then_some("unreadable_audio_header");
                self.audio = Some(AudioTrack { config, tag: body.to_vec() });
                Judged::Packet { kind: EntryKind::AudioHeader, cts_ms: 0, fault }
            }
            AudioKind::Frame { .. } if self.audio.is_none() => {
                Judged::Dropped("audio_before_header")
            }
            AudioKind::Frame { raw: [] } => Judged::Dropped("empty_audio_message"),
            AudioKind::Frame { .. } => Judged::packet(EntryKind::Audio, 0),
            AudioKind::EndOfSequence => Judged::Ignored,
            AudioKind::ChannelLayout { .. } => Judged::packet(EntryKind::AudioOther, 0),
        }
    }

    /// Restores what a log's headers say; bodies as they were judged before.
    pub fn restore(&mut self, video: Option<&[u8]>, audio: Option<&[u8]>) {
        if let Some(body) = video {
            let _judged_before = self.judge_video(body);
        }
        if let Some(body) = audio {
            let _judged_before = self.judge_audio(body);
        }
    }

    fn video_header(&mut self, codec: VideoCodec, config: &[u8], body: &[u8]) -> Judged {
        if body.len() > HEADER_BYTES_MAX {
            return Judged::Dropped("video_header_too_long");
        }
        if self.video.as_ref().is_some_and(|track| track.tag == body) {
            return Judged::Dropped("repeated_video_header");
        }
        let config = config::parse(codec, config).ok();
        let fault = config.is_none().then_some("unreadable_video_header");
        self.video = Some(VideoTrack { codec, config, tag: body.to_vec() });
        Judged::Packet { kind: EntryKind::VideoHeader, cts_ms: 0, fault }
    }
}

/// Codecs that are not understood here are still passed through; what is broken is not.
fn unreadable(error: TagError, other: EntryKind) -> Judged {
    let passed = |fault| Judged::Packet { kind: other, cts_ms: 0, fault: Some(fault) };
    match error {
        TagError::VideoCommand => Judged::Ignored,
        TagError::Empty => Judged::Dropped("empty_media_message"),
        TagError::Truncated => Judged::Dropped("truncated_media_message"),
        TagError::VideoCodec(_) => passed("unknown_video_codec"),
        TagError::AudioFormat(_) => passed("unknown_audio_codec"),
        TagError::FourCc(_) => passed("unknown_fourcc"),
        TagError::PacketType(_) => Judged::Dropped("unknown_packet_type"),
        TagError::FrameType(_) => Judged::Dropped("unknown_frame_type"),
        TagError::ModEx => Judged::Dropped("modex_packet"),
        TagError::Multitrack => Judged::Dropped("multitrack_packet"),
    }
}
