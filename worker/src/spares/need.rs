//! What a codec is opened with, as workers tell each other: the content of a [`CodecNeed`].
//!
//! Reading it is total and bounded, for a hostile worker may have written it: what could not be
//! opened anyway, or is written in another way than ours, is refused before libav sees it.

use crate::libav::{LibavError, Ratio, VideoDecoder, VideoEncoder, VideoEncoderSettings};
use crate::media::packet::VideoCodec;
use serde::{Deserialize, Serialize};
use tasuki_shared::codec::{self, CodecError};
use tasuki_shared::limits::{CODEC_NEED_BYTES_MAX, SPARE_FULLNESS};
use tasuki_shared::message::CodecNeed;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Need {
    Decoder {
        codec: VideoCodec,
        configuration: Vec<u8>,
        pixels_max: u64,
    },
    /// Always without `vbv_init`, which is no part of what an encoder is.
    Encoder(VideoEncoderSettings),
}

/// A codec that is open and has seen nothing yet.
pub enum Codec {
    Decoder(VideoDecoder),
    Encoder(VideoEncoder),
}

/// Why a need cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadNeed {
    #[error("{0} bytes are over the limit of {CODEC_NEED_BYTES_MAX}")]
    TooLong(usize),
    #[error(transparent)]
    Unreadable(#[from] CodecError),
    #[error("it is not written as it would be here")]
    OtherForm,
    #[error("no encoder has such settings")]
    Impossible,
}

/// More than any picture has on a side.
const SIDE_MAX: u32 = 16_384;
/// An encoder that was just opened holds more than this for each pixel of its picture (11 of a large
/// one, far more of a small one), so one that cannot fit is not even tried.
const ENCODER_BYTES_PER_PIXEL: u64 = 8;
/// A decoder holds about twice as much before its first packet.
const DECODER_BYTES: u64 = 512 * 1024;

impl Need {
    #[must_use]
    pub fn encoder(settings: &VideoEncoderSettings) -> Self {
        Self::Encoder(VideoEncoderSettings { vbv_init: None, ..settings.clone() })
    }

    #[must_use]
    pub fn decoder(codec: VideoCodec, configuration: &[u8], pixels_max: u64) -> Self {
        Self::Decoder { codec, configuration: configuration.to_vec(), pixels_max }
    }

    /// `None` for one that is longer than others read.
    #[must_use]
    pub fn encode(&self) -> Option<CodecNeed> {
        let bytes = codec::encode(self).ok()?;
        (bytes.len() <= CODEC_NEED_BYTES_MAX).then_some(CodecNeed(bytes))
    }

    pub fn decode(CodecNeed(bytes): &CodecNeed) -> Result<Self, BadNeed> {
        if bytes.len() > CODEC_NEED_BYTES_MAX {
            return Err(BadNeed::TooLong(bytes.len()));
        }
        let need: Self = codec::decode(bytes)?;
        match &need {
            Self::Encoder(settings) if !is_possible(settings) => return Err(BadNeed::Impossible),
            Self::Encoder(_) | Self::Decoder { .. } => {}
        }
        // Equal bytes are equal codecs, and only those: whoever asks does it with our own form.
        if codec::encode(&need)? != *bytes {
            return Err(BadNeed::OtherForm);
        }
        Ok(need)
    }

    /// What the codec holds at least.
    #[must_use]
    pub fn bytes_min(&self) -> u64 {
        match self {
            Self::Decoder { .. } => DECODER_BYTES,
            Self::Encoder(settings) => {
                u64::from(settings.width) * u64::from(settings.height) * ENCODER_BYTES_PER_PIXEL
            }
        }
    }

    /// Opens one to be kept.
    pub fn open(self) -> Result<Codec, LibavError> {
        match self {
            Self::Decoder { codec, configuration, pixels_max } => {
                VideoDecoder::open(codec, &configuration, pixels_max).map(Codec::Decoder)
            }
            Self::Encoder(settings) => {
                let vbv_init = Some(SPARE_FULLNESS);
                let settings = VideoEncoderSettings { vbv_init, ..settings };
                VideoEncoder::open(&settings).map(Codec::Encoder)
            }
        }
    }
}

fn is_possible(settings: &VideoEncoderSettings) -> bool {
    let VideoEncoderSettings {
        width,
        height,
        frame_rate: Ratio { num, den },
        colour: _,
        preset,
        crf,
        bitrate_bps,
        vbv_init,
    } = settings;
    let sides = 1..=SIDE_MAX;
    sides.contains(width)
        && sides.contains(height)
        && *num > 0
        && *den > 0
        && preset.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && crf.is_finite()
        && *bitrate_bps > 0
        && vbv_init.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libav::Colour;
    use proptest::prelude::*;

    fn settings() -> VideoEncoderSettings {
        VideoEncoderSettings {
            width: 640,
            height: 360,
            frame_rate: Ratio { num: 30_000, den: 1001 },
            colour: Colour::UNKNOWN,
            preset: "veryfast".into(),
            crf: 23.0,
            bitrate_bps: 800_000,
            vbv_init: Some(0.4),
        }
    }

    /// What one worker tells another reads as the same, the fullness of a rate buffer left out; any
    /// other difference is another need.
    #[test]
    fn a_need_comes_back_and_differs_with_all_but_the_fullness() {
        let encoder = Need::encoder(&settings()).encode().unwrap();
        let read = Need::decode(&encoder).unwrap();
        assert_eq!(read, Need::Encoder(VideoEncoderSettings { vbv_init: None, ..settings() }));
        let fuller = VideoEncoderSettings { vbv_init: Some(0.9), ..settings() };
        assert_eq!(Need::encoder(&fuller).encode().unwrap(), encoder);
        for other in [
            VideoEncoderSettings { bitrate_bps: 800_001, ..settings() },
            VideoEncoderSettings { height: 362, ..settings() },
            VideoEncoderSettings { crf: 23.5, ..settings() },
            VideoEncoderSettings { preset: "superfast".into(), ..settings() },
        ] {
            assert_ne!(Need::encoder(&other).encode().unwrap(), encoder, "{other:?}");
        }
        let decoder = Need::decoder(VideoCodec::Hevc, &[1, 2, 3], 1_000_000);
        assert_eq!(Need::decode(&decoder.encode().unwrap()).unwrap(), decoder);
    }

    /// What is too long is neither told nor read, and settings that no encoder has, or that would
    /// stand for another one, are refused by name.
    #[test]
    fn what_no_sound_worker_would_write_is_refused() {
        let long = vec![0; CODEC_NEED_BYTES_MAX];
        assert_eq!(Need::decoder(VideoCodec::H264, &long, 1).encode(), None);
        let refused = |need: &Need| {
            let bytes = CodecNeed(codec::encode(need).unwrap());
            Need::decode(&bytes).unwrap_err().to_string()
        };
        assert!(refused(&Need::decoder(VideoCodec::H264, &long, 1)).contains("over the limit"));
        let plain = VideoEncoderSettings { vbv_init: None, ..settings() };
        let impossible = [
            settings(),
            VideoEncoderSettings { width: 0, ..plain.clone() },
            VideoEncoderSettings { height: 16_385, ..plain.clone() },
            VideoEncoderSettings { frame_rate: Ratio { num: 30, den: 0 }, ..plain.clone() },
            VideoEncoderSettings { preset: "very\0fast".into(), ..plain.clone() },
            VideoEncoderSettings { crf: f32::NAN, ..plain.clone() },
            VideoEncoderSettings { bitrate_bps: 0, ..plain.clone() },
        ];
        for settings in impossible {
            let said = refused(&Need::Encoder(settings.clone()));
            assert_eq!(said, "no encoder has such settings", "{settings:?}");
        }
        // A number written longer than it need be: 251 announces two bytes.
        let mut bytes = Need::decoder(VideoCodec::H264, &[], 7).encode().unwrap().0;
        assert_eq!(bytes.pop(), Some(7));
        bytes.extend([251, 7, 0]);
        let read = Need::decode(&CodecNeed(bytes));
        assert!(matches!(read, Err(BadNeed::OtherForm | BadNeed::Unreadable(_))), "{read:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// Whatever bytes are told, reading them ends without a panic, and what can be read is
        /// written as it was.
        #[test]
        fn reading_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let need = CodecNeed(bytes);
            if let Ok(read) = Need::decode(&need) {
                prop_assert_eq!(read.encode(), Some(need));
            }
        }

        /// So it is for a need of which a few bytes were changed.
        #[test]
        fn reading_what_was_changed_is_total(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = Need::encoder(&settings()).encode().unwrap().0;
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let need = CodecNeed(bytes);
            if let Ok(read) = Need::decode(&need) {
                prop_assert_eq!(read.encode(), Some(need));
            }
        }
    }
}
