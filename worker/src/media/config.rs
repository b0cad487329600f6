//! Decoder configuration records: AVCDecoderConfigurationRecord and
//! HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3 and 8.3.3) with the sequence
//! parameter set inside.
//!
//! Total: any bytes give a configuration or a named refusal. The size is what a player shows
//! (after cropping); HEVC's default display window is not applied.

use super::bits::{Bits, unescape};
use super::nal::NalLengthSize;
use super::packet::VideoCodec;
use h264_reader::nal::sps::SeqParameterSet;
use h264_reader::rbsp::BitReader;
use tasuki_shared::limits::SPS_BYTES_MAX;

/// What a decoder configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoConfig {
    pub codec: VideoCodec,
    pub nal_length_size: NalLengthSize,
    pub width: u32,
    pub height: u32,
    /// Frames per second where the stream says so.
    pub frame_rate: Option<FrameRate>,
    /// `profile_idc`.
    pub profile: u8,
    /// `level_idc`: ten times the level for H.264, thirty times for HEVC.
    pub level: u8,
}

/// A ratio; neither part is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRate {
    pub numerator: u64,
    pub denominator: u64,
}

impl FrameRate {
    /// Thousandths of a frame per second.
    #[must_use]
    pub fn millihertz(self) -> u64 {
        self.numerator.saturating_mul(1_000) / self.denominator.max(1)
    }
}

/// Why a decoder configuration cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("the decoder configuration is cut short")]
    Truncated,
    #[error("version {0} of a decoder configuration is unknown")]
    Version(u8),
    #[error("NAL units with lengths of three bytes are not allowed")]
    NalLengthSize,
    #[error("the decoder configuration has no sequence parameter set")]
    NoSps,
    #[error("a sequence parameter set of {0} bytes is too long")]
    SpsTooLong(usize),
    #[error("the sequence parameter set cannot be read")]
    BadSps,
    #[error("a picture of {width}x{height} is not plausible")]
    Size { width: u32, height: u32 },
}

/// Reads the configuration of a sequence header.
pub fn parse(codec: VideoCodec, record: &[u8]) -> Result<VideoConfig, ConfigError> {
    let config = match codec {
        VideoCodec::H264 => parse_avc(record),
        VideoCodec::Hevc => parse_hevc(record),
    }?;
    let plausible = 1..=16_384;
    if plausible.contains(&config.width) && plausible.contains(&config.height) {
        Ok(config)
    } else {
        Err(ConfigError::Size { width: config.width, height: config.height })
    }
}

fn parse_avc(record: &[u8]) -> Result<VideoConfig, ConfigError> {
    let (&[version, profile, _, level, length, sps_count], rest) =
        record.split_first_chunk::<6>().ok_or(ConfigError::Truncated)?;
    if version != 1 {
        return Err(ConfigError::Version(version));
    }
    let nal_length_size =
        NalLengthSize::from_minus_one(length).ok_or(ConfigError::NalLengthSize)?;
    if sps_count & 0x1F == 0 {
        return Err(ConfigError::NoSps);
    }
    let (sps, _) = counted(rest).ok_or(ConfigError::Truncated)?;
    let sps = decoded_h264_sps(sps)?;
    let (width, height) = sps.pixel_dimensions().map_err(|_| ConfigError::BadSps)?;
    let timing = sps.vui_parameters.as_ref().and_then(|vui| vui.timing_info.as_ref());
    let frame_rate = timing.and_then(|timing| {
        let numerator = u64::from(timing.time_scale);
        let denominator = 2 * u64::from(timing.num_units_in_tick);
        (numerator > 0 && denominator > 0).then_some(FrameRate { numerator, denominator })
    });
    let codec = VideoCodec::H264;
    Ok(VideoConfig { codec, nal_length_size, width, height, frame_rate, profile, level })
}

fn decoded_h264_sps(nal: &[u8]) -> Result<SeqParameterSet, ConfigError> {
    let (&header, body) = bounded(nal)?.split_first().ok_or(ConfigError::NoSps)?;
    if header & 0x1F != 7 {
        return Err(ConfigError::NoSps);
    }
    let plain = unescape(body);
    SeqParameterSet::from_bits(BitReader::new(plain.as_slice())).map_err(|_| ConfigError::BadSps)
}

fn parse_hevc(record: &[u8]) -> Result<VideoConfig, ConfigError> {
    let (head, mut rest) = record.split_first_chunk::<23>().ok_or(ConfigError::Truncated)?;
    if head[0] != 1 {
        return Err(ConfigError::Version(head[0]));
    }
    let (profile, level) = (head[1] & 0x1F, head[12]);
    let nal_length_size =
        NalLengthSize::from_minus_one(head[21]).ok_or(ConfigError::NalLengthSize)?;
    for _ in 0..head[22] {
        let (&[nal_type, high, low], units) =
            rest.split_first_chunk::<3>().ok_or(ConfigError::Truncated)?;
        rest = units;
        for _ in 0..u16::from_be_bytes([high, low]) {
            let (nal, after) = counted(rest).ok_or(ConfigError::Truncated)?;
            rest = after;
            if nal_type & 0x3F == 33 {
                let (width, height) = hevc_size(bounded(nal)?).ok_or(ConfigError::BadSps)?;
                let codec = VideoCodec::Hevc;
                let frame_rate = None;
                return Ok(VideoConfig {
                    codec,
                    nal_length_size,
                    width,
                    height,
                    frame_rate,
                    profile,
                    level,
                });
            }
        }
    }
    Err(ConfigError::NoSps)
}

/// Width and height within the conformance window (ISO/IEC 23008-2, 7.3.2.2).
fn hevc_size(nal: &[u8]) -> Option<(u32, u32)> {
    let plain = unescape(nal.get(2..)?);
    let mut bits = Bits::new(&plain);
    bits.take(4)?;
    let sub_layers_minus_one = bits.take(3)?;
    bits.take(1)?;
    skip_profile_tier_level(&mut bits, sub_layers_minus_one)?;
    bits.golomb()?;
    let chroma_format = bits.golomb()?;
    let separate_planes = chroma_format == 3 && bits.take(1)? == 1;
    let (width, height) = (bits.golomb()?, bits.golomb()?);
    if bits.take(1)? == 0 {
        return Some((width, height));
    }
    // Offsets count in chroma samples (table 6-1: SubWidthC, SubHeightC).
    let (step_x, step_y) = match (chroma_format, separate_planes) {
        (1, _) => (2, 2),
        (2, _) => (2, 1),
        _ => (1, 1),
    };
    let (left, right) = (bits.golomb()?, bits.golomb()?);
    let (top, bottom) = (bits.golomb()?, bits.golomb()?);
    let cut = |size: u32, before: u32, after: u32, step: u32| {
        size.checked_sub(before.checked_add(after)?.checked_mul(step)?)
    };
    Some((cut(width, left, right, step_x)?, cut(height, top, bottom, step_y)?))
}

/// profile_tier_level(1, n) (7.3.3).
fn skip_profile_tier_level(bits: &mut Bits<'_>, sub_layers_minus_one: u32) -> Option<()> {
    bits.skip(88 + 8)?;
    let mut present = Vec::with_capacity(8);
    for _ in 0..sub_layers_minus_one {
        present.push((bits.take(1)?, bits.take(1)?));
    }
    if sub_layers_minus_one > 0 {
        for _ in sub_layers_minus_one..8 {
            bits.take(2)?;
        }
    }
    for (profile, level) in present {
        bits.skip(if profile == 1 { 88 } else { 0 })?;
        bits.skip(if level == 1 { 8 } else { 0 })?;
    }
    Some(())
}

/// A NAL unit behind a 16-bit length, and what follows it.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(length)))
}

fn bounded(sps: &[u8]) -> Result<&[u8], ConfigError> {
    if sps.len() > SPS_BYTES_MAX { Err(ConfigError::SpsTooLong(sps.len())) } else { Ok(sps) }
}

#[cfg(test)]
mod tests;
