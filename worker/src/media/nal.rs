//! Walking over length-prefixed NAL units: what a frame is, by its NAL unit headers alone.
//!
//! Sources: ISO/IEC 14496-10 table 7-1, ISO/IEC 23008-2 table 7-1, ISO/IEC 14496-15.
//! Total on damaged lengths: the walk ends there and says so. Slice headers are not read.

use super::packet::{IsIdr, VideoCodec};
use tasuki_shared::limits::NALS_PER_FRAME_MAX;

/// Bytes of each NAL unit's length field: 1, 2 or 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NalLengthSize {
    One,
    Two,
    Four,
}

impl NalLengthSize {
    /// From `lengthSizeMinusOne`; 2 is not allowed.
    #[must_use]
    pub fn from_minus_one(value: u8) -> Option<Self> {
        match value & 3 {
            0 => Some(Self::One),
            1 => Some(Self::Two),
            3 => Some(Self::Four),
            _ => None,
        }
    }

    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// The NAL units do not fill the frame as their lengths say, or are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lengths of a frame's NAL units do not fit the frame")]
pub struct DamagedNals;

/// Iterates over the NAL units of one frame; after an error nothing follows.
#[derive(Clone, Debug)]
pub struct Nals<'a> {
    rest: &'a [u8],
    length_size: NalLengthSize,
    left: usize,
}

#[must_use]
pub fn walk(length_size: NalLengthSize, nals: &[u8]) -> Nals<'_> {
    Nals { rest: nals, length_size, left: NALS_PER_FRAME_MAX }
}

impl<'a> Iterator for Nals<'a> {
    type Item = Result<&'a [u8], DamagedNals>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let nal = self.split();
        if nal.is_none() {
            self.rest = &[];
        }
        Some(nal.ok_or(DamagedNals))
    }
}

impl<'a> Nals<'a> {
    fn split(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (length, rest) = self.rest.split_at_checked(self.length_size.bytes())?;
        let length = length.iter().fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte));
        let (nal, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(nal)
    }
}

/// May the frame be dropped without harm to others?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsDisposable {
    Disposable,
    Reference,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    Whole,
    /// Lengths do not fit; what was said is of the NAL units before the damage.
    Damaged,
}

/// What a frame's NAL unit headers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    pub idr: IsIdr,
    pub disposable: IsDisposable,
    pub integrity: Integrity,
    /// NAL units that carry picture samples.
    pub slices: usize,
}

/// Looks at every NAL unit of a frame.
///
/// True IDR: H.264 type 5; HEVC types 19 and 20 (a CRA or BLA picture is none).
/// Disposable: it has slices and none is referred to (H.264 `nal_ref_idc` 0; HEVC sub-layer
/// non-reference types, which holds for streams of one temporal layer: with more, such a
/// picture may still serve a higher layer, so a picture below the highest layer is only
/// disposable together with those).
#[must_use]
pub fn inspect(codec: VideoCodec, length_size: NalLengthSize, nals: &[u8]) -> Inspection {
    let mut slices = 0;
    let mut idr = IsIdr::Other;
    let mut referred = false;
    let mut integrity = Integrity::Whole;
    for nal in walk(length_size, nals) {
        let Ok(nal) = nal else {
            integrity = Integrity::Damaged;
            break;
        };
        let Some(&header) = nal.first() else { continue };
        let slice = match codec {
            VideoCodec::H264 => h264_slice(header),
            VideoCodec::Hevc => hevc_slice(header),
        };
        let Some(slice) = slice else { continue };
        slices += 1;
        referred |= slice.disposable == IsDisposable::Reference;
        if slice.idr == IsIdr::Idr {
            idr = IsIdr::Idr;
        }
    }
    let disposable = if slices > 0 && !referred && integrity == Integrity::Whole {
        IsDisposable::Disposable
    } else {
        IsDisposable::Reference
    };
    Inspection { idr, disposable, integrity, slices }
}

/// Is the frame a true IDR picture?
#[must_use]
pub fn contains_idr(codec: VideoCodec, length_size: NalLengthSize, nals: &[u8]) -> IsIdr {
    inspect(codec, length_size, nals).idr
}

/// May the frame be dropped without harm to others?
#[must_use]
pub fn is_disposable(codec: VideoCodec, length_size: NalLengthSize, nals: &[u8]) -> IsDisposable {
    inspect(codec, length_size, nals).disposable
}

struct Slice {
    idr: IsIdr,
    disposable: IsDisposable,
}

fn h264_slice(header: u8) -> Option<Slice> {
    let nal_type = header & 0x1F;
    if !(1..=5).contains(&nal_type) {
        return None;
    }
    let idr = if nal_type == 5 { IsIdr::Idr } else { IsIdr::Other };
    let disposable =
        if header >> 5 & 3 == 0 { IsDisposable::Disposable } else { IsDisposable::Reference };
    Some(Slice { idr, disposable })
}

fn hevc_slice(header: u8) -> Option<Slice> {
    let nal_type = header >> 1 & 0x3F;
    if nal_type > 31 {
        return None;
    }
    let idr = if matches!(nal_type, 19 | 20) { IsIdr::Idr } else { IsIdr::Other };
    let disposable = if nal_type < 16 && nal_type.is_multiple_of(2) {
        IsDisposable::Disposable
    } else {
        IsDisposable::Reference
    };
    Some(Slice { idr, disposable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(nals: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for nal in nals {
            bytes.extend_from_slice(&u32::try_from(nal.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(nal);
        }
        bytes
    }

    fn look(codec: VideoCodec, nals: &[&[u8]]) -> Inspection {
        inspect(codec, NalLengthSize::Four, &frame(nals))
    }

    #[test]
    fn an_h264_idr_is_found_behind_parameter_sets_and_sei() {
        let seen = look(VideoCodec::H264, &[&[0x67, 1], &[0x68], &[0x06, 5], &[0x65, 0]]);
        assert_eq!(seen.idr, IsIdr::Idr);
        assert_eq!(seen.disposable, IsDisposable::Reference);
    }

    #[test]
    fn an_h264_recovery_point_without_idr_is_none() {
        assert_eq!(look(VideoCodec::H264, &[&[0x06, 6], &[0x41, 0]]).idr, IsIdr::Other);
    }

    #[test]
    fn a_hevc_cra_or_bla_is_not_an_idr_but_types_19_and_20_are() {
        for (nal_type, idr) in
            [(16, IsIdr::Other), (19, IsIdr::Idr), (20, IsIdr::Idr), (21, IsIdr::Other)]
        {
            let seen = look(VideoCodec::Hevc, &[&[32 << 1, 1], &[nal_type << 1, 1]]);
            assert_eq!(seen.idr, idr, "type {nal_type}");
        }
    }

    #[test]
    fn a_frame_is_disposable_only_if_no_slice_is_referred_to() {
        let h264 = |nals: &[&[u8]]| look(VideoCodec::H264, nals).disposable;
        assert_eq!(h264(&[&[0x01, 1], &[0x01, 2]]), IsDisposable::Disposable);
        assert_eq!(h264(&[&[0x01, 1], &[0x21, 2]]), IsDisposable::Reference);
        assert_eq!(h264(&[&[0x06, 1]]), IsDisposable::Reference);
        let hevc = |nal_type: u8| look(VideoCodec::Hevc, &[&[nal_type << 1, 1]]).disposable;
        assert_eq!(hevc(0), IsDisposable::Disposable);
        assert_eq!(hevc(1), IsDisposable::Reference);
        assert_eq!(hevc(8), IsDisposable::Disposable);
        assert_eq!(hevc(21), IsDisposable::Reference);
    }

    #[test]
    fn damaged_lengths_are_seen_and_never_make_a_frame_disposable() {
        let mut bytes = frame(&[&[0x01, 1]]);
        bytes.extend_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF, 1]);
        let seen = inspect(VideoCodec::H264, NalLengthSize::Four, &bytes);
        assert_eq!(seen.integrity, Integrity::Damaged);
        assert_eq!(seen.disposable, IsDisposable::Reference);
    }

    #[test]
    fn a_frame_of_endless_empty_nals_is_bounded() {
        let seen = inspect(VideoCodec::H264, NalLengthSize::One, &vec![0; 1 << 20]);
        assert_eq!(seen.integrity, Integrity::Damaged);
        assert_eq!(walk(NalLengthSize::One, &vec![0; 1 << 20]).count(), NALS_PER_FRAME_MAX + 1);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_walked(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            minus_one in any::<u8>(),
        ) {
            if let Some(size) = NalLengthSize::from_minus_one(minus_one) {
                let _ = inspect(VideoCodec::H264, size, &bytes);
                let _ = inspect(VideoCodec::Hevc, size, &bytes);
            }
        }
    }
}
