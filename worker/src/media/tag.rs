//! Bodies of FLV VIDEODATA and AUDIODATA tags, which are also the payloads of RTMP video and
//! audio messages: reading and writing.
//!
//! Sources: Adobe Flash Video File Format Specification 10.1, annex E; Enhanced RTMP v1 and v2.
//!
//! Parsing is total and copies nothing. It looks at headers only: whether the NAL units
//! inside are sound is `nal`'s question, whether a configuration can be used is `config`'s.
//! ModEx and multitrack packets are refused by name.

use super::packet::{AudioCodec, VideoCodec};

/// Bytes before the payload of a legacy AVC tag.
pub const AVC_HEADER_BYTES: usize = 5;
/// Bytes before the payload of an AAC tag.
pub const AAC_HEADER_BYTES: usize = 2;

/// Why a tag body cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    #[error("the tag is empty")]
    Empty,
    #[error("the tag ends within its header")]
    Truncated,
    #[error("video codec {0} is not supported")]
    VideoCodec(u8),
    #[error("audio format {0} is not supported")]
    AudioFormat(u8),
    #[error("FourCC {} is not supported", .0.escape_ascii())]
    FourCc([u8; 4]),
    #[error("packet type {0} is unknown")]
    PacketType(u8),
    #[error("frame type {0} is unknown")]
    FrameType(u8),
    #[error("ModEx packets are not supported")]
    ModEx,
    #[error("multitrack packets are not supported")]
    Multitrack,
    /// Carries no picture; to be ignored, not a fault.
    #[error("a video command, which carries no picture")]
    VideoCommand,
}

/// What the tag says of its frame. A claim: true IDRs are found by `nal::inspect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlvKeyframe {
    Key,
    Inter,
    /// Inter frame that no other frame refers to.
    DisposableInter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoTag<'a> {
    pub codec: VideoCodec,
    pub kind: VideoKind<'a>,
    /// Where the payload (configuration or NAL units) begins in the body.
    pub payload_offset: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoKind<'a> {
    /// An AVCDecoderConfigurationRecord or HEVCDecoderConfigurationRecord.
    SequenceHeader {
        config: &'a [u8],
    },
    /// Length-prefixed NAL units of one access unit. May be empty.
    Frame {
        cts_ms: i32,
        nals: &'a [u8],
        keyframe: FlvKeyframe,
    },
    EndOfSequence,
    /// Enhanced RTMP metadata (colour information); to be passed on or ignored.
    Metadata {
        payload: &'a [u8],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioTag<'a> {
    pub codec: AudioCodec,
    pub kind: AudioKind<'a>,
    /// Where the payload (configuration or raw frame) begins in the body.
    pub payload_offset: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioKind<'a> {
    /// An AudioSpecificConfig.
    SequenceHeader {
        config: &'a [u8],
    },
    /// One raw AAC frame.
    Frame {
        raw: &'a [u8],
    },
    EndOfSequence,
    /// Enhanced RTMP channel layout; to be ignored.
    ChannelLayout {
        payload: &'a [u8],
    },
}

/// Reads the body of a video tag.
pub fn parse_video(body: &[u8]) -> Result<VideoTag<'_>, TagError> {
    let &first = body.first().ok_or(TagError::Empty)?;
    if first & 0x80 != 0 {
        parse_video_enhanced(first, body)
    } else {
        parse_video_legacy(first, body)
    }
}

/// Reads the body of an audio tag.
pub fn parse_audio(body: &[u8]) -> Result<AudioTag<'_>, TagError> {
    let &first = body.first().ok_or(TagError::Empty)?;
    match first >> 4 {
        10 => {
            let &packet_type = body.get(1).ok_or(TagError::Truncated)?;
            let payload = tail(body, AAC_HEADER_BYTES)?;
            let kind = match packet_type {
                0 => AudioKind::SequenceHeader { config: payload },
                1 => AudioKind::Frame { raw: payload },
                other => return Err(TagError::PacketType(other)),
            };
            Ok(AudioTag { codec: AudioCodec::Aac, kind, payload_offset: AAC_HEADER_BYTES })
        }
        9 => parse_audio_enhanced(first, body),
        other => Err(TagError::AudioFormat(other)),
    }
}

/// What a tag that we write carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrittenVideo {
    SequenceHeader,
    Frame { keyframe: FlvKeyframe, cts_ms: i32 },
    EndOfSequence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrittenAudio {
    SequenceHeader,
    Frame,
}

/// Header of a legacy AVC tag; the composition time is cut to its 24 bits.
#[must_use]
pub fn video_tag_header(what: WrittenVideo) -> [u8; AVC_HEADER_BYTES] {
    let (frame_type, packet_type, cts_ms) = match what {
        WrittenVideo::SequenceHeader => (1, 0, 0),
        WrittenVideo::Frame { keyframe, cts_ms } => {
            let frame_type = match keyframe {
                FlvKeyframe::Key => 1,
                FlvKeyframe::Inter => 2,
                FlvKeyframe::DisposableInter => 3,
            };
            (frame_type, 1, cts_ms.clamp(-0x80_0000, 0x7F_FFFF))
        }
        WrittenVideo::EndOfSequence => (1, 2, 0),
    };
    let [_, high, middle, low] = cts_ms.to_be_bytes();
    [frame_type << 4 | 7, packet_type, high, middle, low]
}

/// Header of an AAC tag (annex E: the rate, size and type bits of AAC are always these).
#[must_use]
pub fn audio_tag_header(what: WrittenAudio) -> [u8; AAC_HEADER_BYTES] {
    let packet_type = match what {
        WrittenAudio::SequenceHeader => 0,
        WrittenAudio::Frame => 1,
    };
    [0xAF, packet_type]
}

/// Appends a whole legacy AVC tag body.
pub fn put_video_tag(what: WrittenVideo, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&video_tag_header(what));
    out.extend_from_slice(payload);
}

/// Appends a whole AAC tag body.
pub fn put_audio_tag(what: WrittenAudio, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&audio_tag_header(what));
    out.extend_from_slice(payload);
}

fn parse_video_legacy(first: u8, body: &[u8]) -> Result<VideoTag<'_>, TagError> {
    let keyframe = keyframe_of(first >> 4)?;
    let codec = match first & 0x0F {
        7 => VideoCodec::H264,
        other => return Err(TagError::VideoCodec(other)),
    };
    let &packet_type = body.get(1).ok_or(TagError::Truncated)?;
    let payload_offset = AVC_HEADER_BYTES;
    let kind = match packet_type {
        0 => VideoKind::SequenceHeader { config: tail(body, payload_offset)? },
        1 => VideoKind::Frame {
            cts_ms: signed_24(body, 2)?,
            nals: tail(body, payload_offset)?,
            keyframe,
        },
        2 => {
            let payload_offset = body.len();
            return Ok(VideoTag { codec, kind: VideoKind::EndOfSequence, payload_offset });
        }
        other => return Err(TagError::PacketType(other)),
    };
    Ok(VideoTag { codec, kind, payload_offset })
}

fn parse_video_enhanced(first: u8, body: &[u8]) -> Result<VideoTag<'_>, TagError> {
    let packet_type = first & 0x0F;
    match packet_type {
        6 => return Err(TagError::Multitrack),
        7 => return Err(TagError::ModEx),
        0..=4 => {}
        other => return Err(TagError::PacketType(other)),
    }
    // The frame type of metadata means nothing (Enhanced RTMP v1: it is to be ignored).
    let keyframe = match keyframe_of(first >> 4 & 7) {
        Err(_) if packet_type == 4 => FlvKeyframe::Inter,
        other => other?,
    };
    let codec = match &four_cc(body)? {
        b"avc1" => VideoCodec::H264,
        b"hvc1" => VideoCodec::Hevc,
        other => return Err(TagError::FourCc(*other)),
    };
    let (kind, payload_offset) = match packet_type {
        0 => (VideoKind::SequenceHeader { config: tail(body, 5)? }, 5),
        1 => (VideoKind::Frame { cts_ms: signed_24(body, 5)?, nals: tail(body, 8)?, keyframe }, 8),
        2 => (VideoKind::EndOfSequence, body.len()),
        3 => (VideoKind::Frame { cts_ms: 0, nals: tail(body, 5)?, keyframe }, 5),
        _ => (VideoKind::Metadata { payload: tail(body, 5)? }, 5),
    };
    Ok(VideoTag { codec, kind, payload_offset })
}

fn parse_audio_enhanced(first: u8, body: &[u8]) -> Result<AudioTag<'_>, TagError> {
    let packet_type = first & 0x0F;
    match packet_type {
        5 => return Err(TagError::Multitrack),
        7 => return Err(TagError::ModEx),
        0..=2 | 4 => {}
        other => return Err(TagError::PacketType(other)),
    }
    let codec = match &four_cc(body)? {
        b"mp4a" => AudioCodec::Aac,
        other => return Err(TagError::FourCc(*other)),
    };
    let payload = tail(body, 5)?;
    let kind = match packet_type {
        0 => AudioKind::SequenceHeader { config: payload },
        1 => AudioKind::Frame { raw: payload },
        2 => AudioKind::EndOfSequence,
        _ => AudioKind::ChannelLayout { payload },
    };
    Ok(AudioTag { codec, kind, payload_offset: 5 })
}

fn keyframe_of(frame_type: u8) -> Result<FlvKeyframe, TagError> {
    match frame_type {
        // 4 is a "generated" keyframe, reserved for servers; decoders treat it as a keyframe.
        1 | 4 => Ok(FlvKeyframe::Key),
        2 => Ok(FlvKeyframe::Inter),
        3 => Ok(FlvKeyframe::DisposableInter),
        5 => Err(TagError::VideoCommand),
        other => Err(TagError::FrameType(other)),
    }
}

fn four_cc(body: &[u8]) -> Result<[u8; 4], TagError> {
    body.get(1..5).and_then(|bytes| bytes.try_into().ok()).ok_or(TagError::Truncated)
}

fn signed_24(body: &[u8], at: usize) -> Result<i32, TagError> {
    let Some(&[high, middle, low]) = body.get(at..at + 3) else {
        return Err(TagError::Truncated);
    };
    Ok(i32::from_be_bytes([high, middle, low, 0]) >> 8)
}

fn tail(body: &[u8], at: usize) -> Result<&[u8], TagError> {
    body.get(at..).ok_or(TagError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_legacy_avc_frame_gives_its_composition_time_and_nals() {
        let tag = parse_video(&[0x27, 1, 0xFF, 0xFF, 0xFE, 9, 8]).unwrap();
        let kind = VideoKind::Frame { cts_ms: -2, nals: &[9, 8], keyframe: FlvKeyframe::Inter };
        assert_eq!(tag, VideoTag { codec: VideoCodec::H264, kind, payload_offset: 5 });
    }

    #[test]
    fn an_enhanced_hevc_frame_with_and_without_composition_time() {
        let with = parse_video(b"\x91hvc1\x00\x00\x21nn").unwrap();
        let kind = VideoKind::Frame { cts_ms: 33, nals: b"nn", keyframe: FlvKeyframe::Key };
        assert_eq!(with, VideoTag { codec: VideoCodec::Hevc, kind, payload_offset: 8 });
        let without = parse_video(b"\xA3hvc1nn").unwrap();
        let kind = VideoKind::Frame { cts_ms: 0, nals: b"nn", keyframe: FlvKeyframe::Inter };
        assert_eq!(without, VideoTag { codec: VideoCodec::Hevc, kind, payload_offset: 5 });
    }

    #[test]
    fn headers_ends_and_metadata_are_told_apart() {
        let kind = |body| parse_video(body).unwrap().kind;
        assert_eq!(kind(b"\x90avc1cfg"), VideoKind::SequenceHeader { config: b"cfg" });
        assert_eq!(kind(b"\x17\x00\0\0\0cfg"), VideoKind::SequenceHeader { config: b"cfg" });
        assert_eq!(kind(b"\x92avc1"), VideoKind::EndOfSequence);
        assert_eq!(kind(b"\x17\x02"), VideoKind::EndOfSequence);
        assert_eq!(kind(b"\x84hvc1meta"), VideoKind::Metadata { payload: b"meta" });
        let kind = |body| parse_audio(body).unwrap().kind;
        assert_eq!(kind(b"\xAF\x00cfg"), AudioKind::SequenceHeader { config: b"cfg" });
        assert_eq!(kind(b"\xAF\x01raw"), AudioKind::Frame { raw: b"raw" });
        assert_eq!(kind(b"\x90mp4acfg"), AudioKind::SequenceHeader { config: b"cfg" });
        assert_eq!(kind(b"\x91mp4araw"), AudioKind::Frame { raw: b"raw" });
        assert_eq!(kind(b"\x92mp4a"), AudioKind::EndOfSequence);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        assert_eq!(parse_video(b""), Err(TagError::Empty));
        assert_eq!(parse_audio(b""), Err(TagError::Empty));
        assert_eq!(parse_video(b"\x96\x01avc1"), Err(TagError::Multitrack));
        assert_eq!(parse_video(b"\x97\x02\0\0\0\0"), Err(TagError::ModEx));
        assert_eq!(parse_video(b"\x90av01x"), Err(TagError::FourCc(*b"av01")));
        assert_eq!(parse_video(b"\x12\x00"), Err(TagError::VideoCodec(2)));
        assert_eq!(parse_video(b"\x57\x00"), Err(TagError::VideoCommand));
        assert_eq!(parse_video(b"\x17\x01\x00"), Err(TagError::Truncated));
        assert_eq!(parse_audio(b"\x95\x00"), Err(TagError::Multitrack));
        assert_eq!(parse_audio(b"\x97\x00"), Err(TagError::ModEx));
        assert_eq!(parse_audio(b"\x90Opusx"), Err(TagError::FourCc(*b"Opus")));
        assert_eq!(parse_audio(b"\x2F\x00"), Err(TagError::AudioFormat(2)));
        assert_eq!(parse_audio(b"\xAF"), Err(TagError::Truncated));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(body in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Ok(tag) = parse_video(&body) {
                prop_assert!(tag.payload_offset <= body.len());
            }
            if let Ok(tag) = parse_audio(&body) {
                prop_assert!(tag.payload_offset <= body.len());
            }
        }

        #[test]
        fn what_we_write_reads_back(
            cts_ms in -0x80_0000_i32..=0x7F_FFFF,
            payload in prop::collection::vec(any::<u8>(), 0..32),
            keyframe in prop::sample::select(vec![
                FlvKeyframe::Key, FlvKeyframe::Inter, FlvKeyframe::DisposableInter,
            ]),
        ) {
            let mut body = Vec::new();
            put_video_tag(WrittenVideo::Frame { keyframe, cts_ms }, &payload, &mut body);
            let kind = VideoKind::Frame { cts_ms, nals: &payload, keyframe };
            prop_assert_eq!(parse_video(&body).unwrap().kind, kind);
            body.clear();
            put_audio_tag(WrittenAudio::Frame, &payload, &mut body);
            prop_assert_eq!(parse_audio(&body).unwrap().kind, AudioKind::Frame { raw: &payload });
        }
    }
}
