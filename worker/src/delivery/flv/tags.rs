//! An FLV body: header, tags, `onMetaData` (Adobe Flash Video File Format Specification 10.1, annex E;
//! Enhanced RTMP v2 for the codec ids). Pure.

use crate::media::config::VideoConfig;
use crate::media::packet::VideoCodec;
use crate::rtmp::amf::Writer;
use tasuki_shared::memory::log::{EntryKind, HeaderKind};

const TAG_HEADER_BYTES: u32 = 11;
/// Codec ids of AAC and of legacy AVC.
const AAC: f64 = 10.0;
const AVC: f64 = 7.0;
/// Longest body that a tag's 24 bits can tell.
const BODY_BYTES_MAX: u32 = 0xFF_FFFF;

/// What the header announces. A player waits for a track that is announced and never comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracks {
    Both,
    VideoAlone,
    AudioAlone,
}

impl Tracks {
    #[must_use]
    pub fn with_video(self) -> Self {
        match self {
            Self::VideoAlone => Self::VideoAlone,
            Self::Both | Self::AudioAlone => Self::Both,
        }
    }
}

/// What a tag carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagKind {
    Audio = 8,
    Video = 9,
    Script = 18,
}

impl TagKind {
    #[must_use]
    pub fn of(kind: EntryKind) -> Self {
        match kind {
            EntryKind::Audio | EntryKind::AudioHeader | EntryKind::AudioOther => Self::Audio,
            EntryKind::VideoIdr
            | EntryKind::VideoInter
            | EntryKind::VideoDisposable
            | EntryKind::VideoHeader
            | EntryKind::VideoOther => Self::Video,
            EntryKind::Metadata => Self::Script,
        }
    }

    #[must_use]
    pub fn of_header(kind: HeaderKind) -> Self {
        match kind {
            HeaderKind::Video => Self::Video,
            HeaderKind::Audio => Self::Audio,
            HeaderKind::Metadata => Self::Script,
        }
    }
}

/// The first bytes of a body.
pub fn put_header(tracks: Tracks, out: &mut Vec<u8>) {
    let present = match tracks {
        Tracks::Both => 5,
        Tracks::VideoAlone => 1,
        Tracks::AudioAlone => 4,
    };
    out.extend(*b"FLV\x01");
    out.extend([present, 0, 0, 0, 9]);
    // The size of no tag.
    out.extend([0; 4]);
}

/// Appends a tag whose body is appended by `body`; nothing where that fails or is too long.
pub fn put_tag<E>(
    kind: TagKind,
    timestamp_ms: u32,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let begins = out.len();
    let [extended, time @ ..] = timestamp_ms.to_be_bytes();
    out.extend([kind as u8, 0, 0, 0]);
    out.extend(time);
    out.extend([extended, 0, 0, 0]);
    let appended = body(out);
    let whole = u32::try_from(out.len() - begins).ok();
    match whole.map(|whole| (whole, whole - TAG_HEADER_BYTES)) {
        Some((whole, length)) if appended.is_ok() && length <= BODY_BYTES_MAX => {
            let [_, length @ ..] = length.to_be_bytes();
            out[begins + 1..begins + 4].copy_from_slice(&length);
            out.extend(whole.to_be_bytes());
        }
        Some(_) | None => out.truncate(begins),
    }
    appended
}

/// `onMetaData`, as far as the sequence headers tell.
#[must_use]
pub fn metadata(tracks: Tracks, video: Option<&VideoConfig>) -> Vec<u8> {
    let mut numbers = Vec::with_capacity(5);
    if let Some(config) = video {
        numbers.push(("width", f64::from(config.width)));
        numbers.push(("height", f64::from(config.height)));
        let codec = match config.codec {
            VideoCodec::H264 => AVC,
            VideoCodec::Hevc => f64::from(u32::from_be_bytes(*b"hvc1")),
        };
        numbers.push(("videocodecid", codec));
        let millihertz = config.frame_rate.and_then(|rate| u32::try_from(rate.millihertz()).ok());
        if let Some(millihertz) = millihertz {
            numbers.push(("framerate", f64::from(millihertz) / 1000.0));
        }
    }
    if tracks != Tracks::VideoAlone {
        numbers.push(("audiocodecid", AAC));
    }
    let count = u32::try_from(numbers.len()).unwrap_or(0);
    let fill = |writer: Writer| {
        numbers.iter().fold(writer, |writer, (name, value)| writer.name(name).number(*value))
    };
    Writer::new().string("onMetaData").array(count, fill).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::config::FrameRate;
    use crate::media::nal::NalLengthSize;

    /// Sizes, times and trailers are where every reader of FLV looks for them.
    #[test]
    fn a_tag_is_laid_out_as_annex_e_says() {
        let mut out = Vec::new();
        put_header(Tracks::Both, &mut out);
        assert_eq!(out, *b"FLV\x01\x05\0\0\0\x09\0\0\0\0");
        out.clear();
        let body = |out: &mut Vec<u8>| {
            out.extend(*b"abc");
            Ok::<(), ()>(())
        };
        put_tag(TagKind::Video, 0x0102_0304, &mut out, body).unwrap();
        assert_eq!(out, *b"\x09\0\0\x03\x02\x03\x04\x01\0\0\0abc\0\0\0\x0E");
    }

    /// A body that could not be read leaves no trace.
    #[test]
    fn a_tag_without_its_body_is_none() {
        let mut out = b"before".to_vec();
        let torn = |out: &mut Vec<u8>| {
            out.extend(*b"half");
            Err(())
        };
        assert_eq!(put_tag(TagKind::Audio, 7, &mut out, torn), Err(()));
        assert_eq!(out, b"before");
        let endless = |out: &mut Vec<u8>| {
            out.resize(BODY_BYTES_MAX as usize + 100, 0);
            Ok::<(), ()>(())
        };
        put_tag(TagKind::Audio, 7, &mut out, endless).unwrap();
        assert_eq!(out, b"before");
    }

    #[test]
    fn metadata_tells_size_rate_and_codecs() {
        let config = VideoConfig {
            codec: VideoCodec::H264,
            nal_length_size: NalLengthSize::from_minus_one(3).unwrap(),
            width: 1280,
            height: 720,
            frame_rate: Some(FrameRate { numerator: 30_000, denominator: 1001 }),
            profile: 100,
            level: 31,
        };
        let bytes = metadata(Tracks::Both, Some(&config));
        assert!(bytes.starts_with(b"\x02\0\x0AonMetaData\x08\0\0\0\x05\0\x05width\0"));
        assert!(bytes.ends_with(&[0, 0, 9]));
        let values = crate::rtmp::amf::decode(&bytes).unwrap();
        assert_eq!(values.len(), 2);
        let alone = metadata(Tracks::AudioAlone, None);
        assert!(alone.windows(12).any(|name| name == b"audiocodecid"));
        assert!(!metadata(Tracks::VideoAlone, None).windows(5).any(|name| name == b"audio"));
    }
}
