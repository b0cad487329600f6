//! AudioSpecificConfig of AAC (ISO/IEC 14496-3, 1.6.2.1): only what a container needs.

use super::bits::Bits;

/// Samples of one AAC frame where the configuration does not say 960.
pub const AAC_FRAME_SAMPLES: u32 = 1024;

const RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];

/// What an AudioSpecificConfig says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AacConfig {
    /// Audio object type; 2 is AAC-LC, 5 and 29 are HE-AAC with its extension signalled first.
    pub object_type: u8,
    /// Of the core coder: a frame is `frame_samples` at this rate.
    pub sample_rate: u32,
    pub channels: u8,
    pub frame_samples: u32,
}

/// Why an AudioSpecificConfig cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AacError {
    #[error("the audio configuration is cut short")]
    Truncated,
    #[error("sampling frequency index {0} is reserved")]
    Rate(u32),
    #[error("a sampling frequency of {0} Hz is not plausible")]
    RateValue(u32),
    #[error("channel configuration {0} is not supported")]
    Channels(u32),
}

/// Reads an AudioSpecificConfig.
pub fn parse_config(config: &[u8]) -> Result<AacConfig, AacError> {
    let mut bits = Bits::new(config);
    let object_type = object_type(&mut bits).ok_or(AacError::Truncated)?;
    let sample_rate = rate(&mut bits)?;
    let channels = match bits.take(4).ok_or(AacError::Truncated)? {
        // 0: the channels are in a program config element, which is not read; stereo is usual.
        0 => 2,
        7 => 8,
        11 => 7,
        12 | 14 => 8,
        count @ 1..=6 => u8::try_from(count).unwrap_or(2),
        other => return Err(AacError::Channels(other)),
    };
    let mut core = object_type;
    if matches!(object_type, 5 | 29) {
        rate(&mut bits)?;
        core = self::object_type(&mut bits).ok_or(AacError::Truncated)?;
    }
    // GASpecificConfig begins with frameLengthFlag.
    let short = matches!(core, 1..=4) && bits.take(1) == Some(1);
    let frame_samples = if short { 960 } else { AAC_FRAME_SAMPLES };
    Ok(AacConfig { object_type, sample_rate, channels, frame_samples })
}

fn object_type(bits: &mut Bits<'_>) -> Option<u8> {
    let short = bits.take(5)?;
    let full = if short == 31 { 32 + bits.take(6)? } else { short };
    u8::try_from(full).ok()
}

fn rate(bits: &mut Bits<'_>) -> Result<u32, AacError> {
    let index = bits.take(4).ok_or(AacError::Truncated)?;
    if index == 15 {
        let value = bits.take(24).ok_or(AacError::Truncated)?;
        return if (4_000..=192_000).contains(&value) {
            Ok(value)
        } else {
            Err(AacError::RateValue(value))
        };
    }
    let position = usize::try_from(index).unwrap_or(usize::MAX);
    RATES.get(position).copied().ok_or(AacError::Rate(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn aac_lc_at_the_usual_rates() {
        let lc = |rate, channels| AacConfig {
            object_type: 2,
            sample_rate: rate,
            channels,
            frame_samples: 1024,
        };
        assert_eq!(parse_config(&[0x12, 0x10]), Ok(lc(44_100, 2)));
        assert_eq!(parse_config(&[0x11, 0x90]), Ok(lc(48_000, 2)));
        assert_eq!(parse_config(&[0x11, 0x88]), Ok(lc(48_000, 1)));
    }

    #[test]
    fn he_aac_counts_its_frames_at_the_core_rate() {
        // AOT 5, 22050 Hz core, stereo, extension 44100 Hz, core AOT 2.
        let config = parse_config(&[0x2B, 0x92, 0x08, 0x00]).unwrap();
        assert_eq!((config.object_type, config.sample_rate), (5, 22_050));
        assert_eq!(config.frame_samples, 1024);
    }

    #[test]
    fn short_and_implausible_configurations_are_refused_by_name() {
        assert_eq!(parse_config(&[]), Err(AacError::Truncated));
        assert_eq!(parse_config(&[0x12]), Err(AacError::Truncated));
        assert_eq!(parse_config(&[0x16, 0x90]), Err(AacError::Rate(13)));
        assert_eq!(parse_config(&[0x17, 0x80, 0, 0, 0x10]), Err(AacError::RateValue(0)));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(config in prop::collection::vec(any::<u8>(), 0..16)) {
            if let Ok(config) = parse_config(&config) {
                prop_assert!(config.sample_rate >= 4_000 && config.channels > 0);
            }
        }
    }
}
