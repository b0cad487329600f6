//! Size and frame rate of a stream from its decoder configuration record, before any decoder
//! sees it: ITU-T H.264 7.3.2.1.1 and E.1.1, ITU-T H.265 7.3.2.2.1, ISO/IEC 14496-15. Total: a
//! record that cannot be read is `None`.

use crate::media::packet::VideoCodec;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub width: u32,
    pub height: u32,
    /// As promised: the header says that the rate is fixed. Other headers often hold the tick
    /// of a clock, not a rate.
    pub fps: Option<f64>,
}

/// Reads the first sequence parameter set of a record.
#[must_use]
pub fn probe(codec: VideoCodec, record: &[u8]) -> Option<Shape> {
    match codec {
        VideoCodec::H264 => {
            let count = record.get(5)? & 0x1f;
            let unit = sized(record.get(6..)?).filter(|_| count > 0)?;
            avc_sps(&unescape(unit.get(1..)?))
        }
        VideoCodec::Hevc => hevc_sps(&unescape(hevc_sps_unit(record)?.get(2..)?)),
    }
}

/// A byte string with a 16-bit length before it.
fn sized(bytes: &[u8]) -> Option<&[u8]> {
    let length = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
    bytes.get(2..2 + usize::from(length))
}

fn hevc_sps_unit(record: &[u8]) -> Option<&[u8]> {
    const NAL_SPS: u8 = 33;
    let arrays = *record.get(22)?;
    let mut rest = record.get(23..)?;
    for _ in 0..arrays {
        let kind = *rest.first()? & 0x3f;
        let units = u16::from_be_bytes([*rest.get(1)?, *rest.get(2)?]);
        rest = rest.get(3..)?;
        for _ in 0..units {
            let unit = sized(rest)?;
            if kind == NAL_SPS {
                return Some(unit);
            }
            rest = rest.get(2 + unit.len()..)?;
        }
    }
    None
}

/// Removes emulation prevention bytes.
fn unescape(unit: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(unit.len());
    let mut zeros = 0;
    for byte in unit {
        if zeros >= 2 && *byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        out.push(*byte);
    }
    out
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<u32> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = (byte >> (7 - self.at % 8)) & 1;
        self.at += 1;
        Some(u32::from(bit))
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.bit()? == 1)
    }

    fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0u32;
        for _ in 0..count {
            value = (value << 1) | self.bit()?;
        }
        Some(value)
    }

    /// Exp-Golomb, unsigned; longer codes than any field needs are refused.
    fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 30 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.take(zeros)?)
    }

    /// Exp-Golomb, signed.
    fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 1 { code / 2 + 1 } else { -(code / 2) })
    }
}

fn avc_sps(bytes: &[u8]) -> Option<Shape> {
    let mut bits = Bits { bytes, at: 0 };
    let profile = bits.take(8)?;
    bits.take(16)?;
    bits.ue()?;
    let mut chroma = 1;
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = bits.ue()?;
        if chroma == 3 && bits.flag()? {
            chroma = 0;
        }
        bits.ue()?;
        bits.ue()?;
        bits.flag()?;
        if bits.flag()? {
            let lists = if chroma == 3 { 12 } else { 8 };
            for list in 0..lists {
                if bits.flag()? {
                    skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.ue()?;
    match bits.ue()? {
        0 => {
            bits.ue()?;
        }
        1 => {
            bits.flag()?;
            bits.se()?;
            bits.se()?;
            let cycle = bits.ue()?;
            if cycle > 255 {
                return None;
            }
            for _ in 0..cycle {
                bits.se()?;
            }
        }
        2 => {}
        3.. => return None,
    }
    bits.ue()?;
    bits.flag()?;
    let columns = u64::from(bits.ue()?) + 1;
    let rows = u64::from(bits.ue()?) + 1;
    let frames_only = bits.flag()?;
    if !frames_only {
        bits.flag()?;
    }
    bits.flag()?;
    let field = if frames_only { 1 } else { 2 };
    let (mut width, mut height) = (columns * 16, rows * 16 * field);
    if bits.flag()? {
        let unit_x = if matches!(chroma, 1 | 2) { 2 } else { 1 };
        let unit_y = if chroma == 1 { 2 } else { 1 } * field;
        let [left, right, top, bottom] = [bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?];
        width = width.checked_sub((u64::from(left) + u64::from(right)) * unit_x)?;
        height = height.checked_sub((u64::from(top) + u64::from(bottom)) * unit_y)?;
    }
    shape(width, height, avc_fps(&mut bits))
}

/// What is declared behind the size; unreadable is unknown.
fn avc_fps(bits: &mut Bits<'_>) -> Option<f64> {
    if !bits.flag()? {
        return None;
    }
    if bits.flag()? && bits.take(8)? == 255 {
        bits.take(32)?;
    }
    if bits.flag()? {
        bits.flag()?;
    }
    if bits.flag()? {
        bits.take(4)?;
        if bits.flag()? {
            bits.take(24)?;
        }
    }
    if bits.flag()? {
        bits.ue()?;
        bits.ue()?;
    }
    if !bits.flag()? {
        return None;
    }
    let tick = bits.take(32)?;
    let scale = bits.take(32)?;
    let fps = f64::from(scale) / (2.0 * f64::from(tick));
    (bits.flag()? && tick > 0 && (1.0..=1000.0).contains(&fps)).then_some(fps)
}

fn skip_scaling_list(bits: &mut Bits<'_>, size: u32) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.se()?).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

fn hevc_sps(bytes: &[u8]) -> Option<Shape> {
    let mut bits = Bits { bytes, at: 0 };
    bits.take(4)?;
    let sub_layers = bits.take(3)?;
    bits.flag()?;
    // profile_tier_level: 88 bits of profile and 8 of level, then the same for each sub-layer.
    bits.at += 96;
    let mut present = Vec::new();
    for _ in 0..sub_layers {
        present.push((bits.flag()?, bits.flag()?));
    }
    if sub_layers > 0 {
        bits.at += 2 * usize::try_from(8 - sub_layers).ok()?;
    }
    for (profile, level) in present {
        bits.at += if profile { 88 } else { 0 } + if level { 8 } else { 0 };
    }
    bits.ue()?;
    let mut chroma = bits.ue()?;
    if chroma == 3 && bits.flag()? {
        chroma = 0;
    }
    let (mut width, mut height) = (u64::from(bits.ue()?), u64::from(bits.ue()?));
    if bits.flag()? {
        let unit_x = if matches!(chroma, 1 | 2) { 2 } else { 1 };
        let unit_y = if chroma == 1 { 2 } else { 1 };
        let [left, right, top, bottom] = [bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?];
        width = width.checked_sub((u64::from(left) + u64::from(right)) * unit_x)?;
        height = height.checked_sub((u64::from(top) + u64::from(bottom)) * unit_y)?;
    }
    shape(width, height, None)
}

fn shape(width: u64, height: u64, fps: Option<f64>) -> Option<Shape> {
    let width = u32::try_from(width).ok().filter(|side| *side > 0)?;
    let height = u32::try_from(height).ok().filter(|side| *side > 0)?;
    Some(Shape { width, height, fps })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libav::{Colour, Ratio, VideoEncoder, VideoEncoderSettings};
    use proptest::prelude::*;

    fn record(width: u32, height: u32, fps: i32) -> Vec<u8> {
        let settings = VideoEncoderSettings {
            width,
            height,
            frame_rate: Ratio { num: fps, den: 1 },
            colour: Colour { sample_aspect: Ratio { num: 12, den: 11 }, ..Colour::UNKNOWN },
            preset: "veryfast".into(),
            crf: 23.0,
            bitrate_bps: 1_000_000,
            vbv_init: None,
        };
        VideoEncoder::open(&settings).unwrap().configuration().to_vec()
    }

    /// What x264 declares is what is read, cropping included.
    #[test]
    fn size_and_rate_are_read_from_real_headers() {
        for (width, height, fps) in [(320, 180, 30), (854, 480, 25), (1920, 1080, 60)] {
            let read = probe(VideoCodec::H264, &record(width, height, fps));
            assert_eq!(read, Some(Shape { width, height, fps: Some(f64::from(fps)) }));
        }
    }

    proptest! {
        /// Damaged or arbitrary records never panic.
        #[test]
        fn any_bytes_are_survived(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            place in 0usize..60,
            value in any::<u8>(),
        ) {
            let _ = probe(VideoCodec::H264, &bytes);
            let _ = probe(VideoCodec::Hevc, &bytes);
            let mut real = record_cached();
            let place = place % real.len();
            real[place] = value;
            let _ = probe(VideoCodec::H264, &real);
            let _ = probe(VideoCodec::H264, &real[..place]);
        }
    }

    fn record_cached() -> Vec<u8> {
        static RECORD: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        RECORD.get_or_init(|| record(320, 180, 30)).clone()
    }
}
