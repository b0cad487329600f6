//! NAL units: from an encoder's byte stream (ITU-T H.264 Annex B) to length-prefixed form and
//! the decoder configuration record (ISO/IEC 14496-15, 5.3.3.1). Pure.

/// NAL unit types of H.264 that matter here.
const NAL_IDR: u8 = 5;
const NAL_SEI: u8 = 6;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;
const NAL_AUD: u8 = 9;
/// SEI payload types (Annex D): x264 writes its options into one of these.
const SEI_USER_DATA_UNREGISTERED: u8 = 5;

/// Iterates over the NAL units of a byte stream, without start codes and trailing zeros.
pub fn nal_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = find_start(stream).map(|(_, after)| &stream[after..]);
    std::iter::from_fn(move || {
        let current = rest?;
        let (unit, next) = match find_start(current) {
            Some((at, after)) => (&current[..at], Some(&current[after..])),
            None => (current, None),
        };
        rest = next;
        Some(unit)
    })
    .map(|unit| {
        let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        &unit[..end]
    })
    .filter(|unit| !unit.is_empty())
}

/// Where the next start code begins and what follows it.
fn find_start(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    while let Some(found) = bytes.get(at + 2..).and_then(|tail| tail.iter().position(|b| *b == 1)) {
        let one = at + 2 + found;
        if bytes[one - 1] == 0 && bytes[one - 2] == 0 {
            return Some((one - 2, one + 1));
        }
        at = one - 1;
    }
    None
}

/// Appends the picture of an encoder's packet to `into` with 4-byte lengths, leaving out
/// parameter sets, delimiters and the options SEI. Says whether it is an IDR picture.
pub fn append_length_prefixed(stream: &[u8], into: &mut Vec<u8>) -> bool {
    let mut idr = false;
    for unit in nal_units(stream) {
        let kind = unit[0] & 0x1f;
        let options = kind == NAL_SEI && unit.get(1) == Some(&SEI_USER_DATA_UNREGISTERED);
        if options || matches!(kind, NAL_SPS | NAL_PPS | NAL_AUD) {
            continue;
        }
        let Ok(length) = u32::try_from(unit.len()) else { continue };
        idr |= kind == NAL_IDR;
        into.extend_from_slice(&length.to_be_bytes());
        into.extend_from_slice(unit);
    }
    idr
}

/// Builds the decoder configuration record from a global header in Annex B form.
#[must_use]
pub fn configuration_record(header: &[u8]) -> Option<Vec<u8>> {
    let of_kind = |kind: u8| nal_units(header).filter(move |unit| unit[0] & 0x1f == kind);
    let first = of_kind(NAL_SPS).next()?;
    if first.len() < 4 {
        return None;
    }
    let (sps_count, pps_count) = (of_kind(NAL_SPS).count(), of_kind(NAL_PPS).count());
    let sps_count = u8::try_from(sps_count).ok().filter(|n| *n <= 31)?;
    let pps_count = u8::try_from(pps_count).ok().filter(|n| *n > 0)?;
    let mut record = vec![1, first[1], first[2], first[3], 0xff, 0xe0 | sps_count];
    let append = |record: &mut Vec<u8>, unit: &[u8]| {
        let length = u16::try_from(unit.len()).ok()?;
        record.extend_from_slice(&length.to_be_bytes());
        record.extend_from_slice(unit);
        Some(())
    };
    for unit in of_kind(NAL_SPS) {
        append(&mut record, unit)?;
    }
    record.push(pps_count);
    for unit in of_kind(NAL_PPS) {
        append(&mut record, unit)?;
    }
    // High profiles repeat chroma format and bit depths; we encode 8-bit 4:2:0 only.
    if matches!(first[1], 100 | 110 | 122 | 144) {
        record.extend_from_slice(&[0xfc | 1, 0xf8, 0xf8, 0]);
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start codes of three and four bytes and trailing zeros are no part of a unit.
    #[test]
    fn units_are_split_at_start_codes_of_either_length() {
        let stream = [0, 0, 0, 1, 0x67, 1, 2, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65, 0, 0, 3, 1];
        let units: Vec<&[u8]> = nal_units(&stream).collect();
        assert_eq!(units, [&[0x67, 1, 2][..], &[0x68, 3], &[0x65, 0, 0, 3, 1]]);
        assert_eq!(nal_units(&[]).count(), 0);
        assert_eq!(nal_units(&[1, 2, 3]).count(), 0);
    }

    /// A converted packet holds the picture only, and says that it is an IDR.
    #[test]
    fn parameter_sets_and_the_options_sei_are_left_out() {
        let stream = [0, 0, 1, 0x67, 1, 0, 0, 1, 6, 5, 9, 0, 0, 1, 0x65, 7, 8];
        let mut out = Vec::new();
        assert!(append_length_prefixed(&stream, &mut out));
        assert_eq!(out, [0, 0, 0, 3, 0x65, 7, 8]);
    }

    /// The record carries both parameter sets; without them there is none.
    #[test]
    fn a_header_without_parameter_sets_gives_no_record() {
        let header = [0, 0, 1, 0x67, 100, 0, 31, 5, 0, 0, 1, 0x68, 9, 9];
        let record = configuration_record(&header).unwrap();
        assert_eq!(&record[..8], &[1, 100, 0, 31, 0xff, 0xe1, 0, 5]);
        assert_eq!(configuration_record(&header[..8]), None);
        assert_eq!(configuration_record(&[]), None);
    }
}
