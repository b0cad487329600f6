use super::*;
use proptest::prelude::*;

/// 162x90 (cropped from 176x96), High, 25 frames per second; from x264.
const AVC: [u8; 47] = [
    0x01, 0x64, 0x00, 0x0B, 0xFF, 0xE1, 0x00, 0x1A, 0x67, 0x64, 0x00, 0x0B, 0xAC, 0xD9, 0x42, 0xCD,
    0xE2, 0x24, 0xC0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x03, 0x00, 0xC8, 0x3C, 0x50,
    0xA6, 0x58, 0x01, 0x00, 0x06, 0x68, 0xEB, 0xE3, 0xCB, 0x22, 0xC0, 0xFD, 0xF8, 0xF8, 0x00,
];

/// 160x90 (cropped from 160x96), Main; from x265, PPS and SEI left out.
const HEVC: [u8; 98] = [
    0x01, 0x01, 0x60, 0x00, 0x00, 0x00, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1E, 0xF0, 0x00, 0xFC,
    0xFD, 0xF8, 0xF8, 0x00, 0x00, 0x0F, 0x02, // two arrays: VPS, SPS
    0xA0, 0x00, 0x01, 0x00, 0x18, 0x40, 0x01, 0x0C, 0x01, 0xFF, 0xFF, 0x01, 0x60, 0x00, 0x00, 0x03,
    0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x1E, 0x95, 0x98, 0x09, //
    0xA1, 0x00, 0x01, 0x00, 0x29, 0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00,
    0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x1E, 0xA0, 0x14, 0x20, 0x61, 0xF2, 0x65, 0x95, 0x9A, 0x49,
    0x32, 0xBC, 0x05, 0xA0, 0x20, 0x00, 0x00, 0x03, 0x00, 0x20, 0x00, 0x00, 0x03, 0x03,
];

#[test]
fn an_avc_record_gives_cropped_size_rate_profile_and_level() {
    let config = parse(VideoCodec::H264, &AVC).unwrap();
    assert_eq!((config.width, config.height), (162, 90));
    assert_eq!(config.frame_rate.unwrap().millihertz(), 25_000);
    assert_eq!((config.profile, config.level), (100, 11));
    assert_eq!(config.nal_length_size, NalLengthSize::Four);
}

#[test]
fn a_hevc_record_gives_the_size_of_its_conformance_window() {
    let config = parse(VideoCodec::Hevc, &HEVC).unwrap();
    assert_eq!((config.width, config.height), (160, 90));
    assert_eq!((config.profile, config.level), (1, 30));
}

#[test]
fn a_record_without_parameter_sets_or_of_another_version_is_refused_by_name() {
    assert_eq!(parse(VideoCodec::H264, &AVC[..4]), Err(ConfigError::Truncated));
    assert_eq!(parse(VideoCodec::H264, &AVC[..20]), Err(ConfigError::Truncated));
    let mut record = AVC;
    record[5] = 0xE0;
    assert_eq!(parse(VideoCodec::H264, &record), Err(ConfigError::NoSps));
    record[4] = 0xFE;
    assert_eq!(parse(VideoCodec::H264, &record), Err(ConfigError::NalLengthSize));
    record[0] = 0;
    assert_eq!(parse(VideoCodec::H264, &record), Err(ConfigError::Version(0)));
    let mut record = HEVC;
    record[22] = 1;
    assert_eq!(parse(VideoCodec::Hevc, &record), Err(ConfigError::NoSps));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_parse_or_are_refused(record in prop::collection::vec(any::<u8>(), 0..96)) {
        let _ = parse(VideoCodec::H264, &record);
        let _ = parse(VideoCodec::Hevc, &record);
    }

    #[test]
    fn a_damaged_parameter_set_parses_or_is_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let (mut avc, mut hevc) = (AVC, HEVC);
        for (at, byte) in flips {
            // Behind the lengths, so that the parameter set itself is reached.
            avc[9 + at.index(AVC.len() - 9)] = byte;
            hevc[59 + at.index(HEVC.len() - 59)] = byte;
        }
        let _ = parse(VideoCodec::H264, &avc);
        let _ = parse(VideoCodec::Hevc, &hevc);
    }

    #[test]
    fn any_sequence_parameter_set_parses_or_is_refused(
        profile in prop::sample::select(vec![66_u8, 77, 100, 110, 122, 244, 118, 128]),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut record = vec![1, profile, 0, 31, 0xFF, 0xE1];
        record.extend_from_slice(&u16::try_from(body.len() + 4).unwrap().to_be_bytes());
        record.extend_from_slice(&[0x67, profile, 0, 31]);
        record.extend_from_slice(&body);
        let _ = parse(VideoCodec::H264, &record);
    }
}
