//! Init segments of a rendition: made of its sequence headers, and read back by a packager that
//! goes on where another one was.

use crate::media::aac::{self, AacConfig};
use crate::media::config::{self, VideoConfig};
use crate::media::packet::VideoCodec;
use crate::output::hls::place::{InitHash, InitNote};
use crate::package::fmp4::{AudioTiming, AudioTrack, VideoTrack, init_segment};
use mp4_atom::{Atom, Codec, Decode, Ftyp, Moov};
use std::fmt::Write;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoHeader {
    pub codec: VideoCodec,
    pub bytes: Vec<u8>,
    config: VideoConfig,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioHeader {
    pub bytes: Vec<u8>,
    config: AacConfig,
}

/// An init segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitFile {
    pub hash: InitHash,
    pub bytes: Vec<u8>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(transparent)]
    Video(#[from] config::ConfigError),
    #[error(transparent)]
    Audio(#[from] aac::AacError),
    #[error(transparent)]
    Mp4(#[from] crate::package::fmp4::Fmp4Error),
}

impl VideoHeader {
    pub fn new(codec: VideoCodec, bytes: Vec<u8>) -> Result<Self, InitError> {
        let config = config::parse(codec, &bytes)?;
        Ok(Self { codec, bytes, config })
    }
}

impl AudioHeader {
    pub fn new(bytes: Vec<u8>) -> Result<Self, InitError> {
        let config = aac::parse_config(&bytes)?;
        Ok(Self { bytes, config })
    }

    #[must_use]
    pub fn timing(&self) -> AudioTiming {
        let AacConfig { sample_rate, frame_samples, .. } = self.config;
        AudioTiming { sample_rate, frame_samples }
    }
}

impl InitFile {
    pub fn new(video: &VideoHeader, audio: Option<&AudioHeader>) -> Result<Self, InitError> {
        let VideoConfig { width, height, .. } = video.config;
        let picture = VideoTrack { codec: video.codec, config: &video.bytes, width, height };
        let sound = audio.map(|audio| AudioTrack {
            config: &audio.bytes,
            sample_rate: audio.config.sample_rate,
            channels: audio.config.channels,
        });
        let media = init_segment(Some(picture), sound)?;
        let mut codecs = video_codec(video);
        if let Some(audio) = audio {
            let _infallible = write!(codecs, ",mp4a.40.{}", audio.config.object_type);
        }
        let mut bytes = Vec::with_capacity(media.len() + 128);
        InitNote { codecs, width, height }.encode(&mut bytes);
        let hash = InitHash::of(&media);
        bytes.extend(media);
        Ok(Self { hash, bytes })
    }
}

/// The headers that an init segment was made of.
#[must_use]
pub fn headers_of(file: &[u8]) -> Option<(VideoHeader, Option<AudioHeader>)> {
    let (_, mut media) = InitNote::split(file)?;
    let _ftyp = Ftyp::decode(&mut media).ok()?;
    let moov = Moov::decode(&mut media).ok()?;
    let (mut video, mut audio) = (None, None);
    for trak in &moov.trak {
        for codec in &trak.mdia.minf.stbl.stsd.codecs {
            let mut bytes = Vec::new();
            if let Codec::Avc1(avc1) = codec {
                avc1.avcc.encode_body(&mut bytes).ok()?;
                video = VideoHeader::new(VideoCodec::H264, bytes).ok();
            } else if let Codec::Hvc1(hvc1) = codec {
                hvc1.hvcc.encode_body(&mut bytes).ok()?;
                video = VideoHeader::new(VideoCodec::Hevc, bytes).ok();
            } else if let Codec::Mp4a(mp4a) = codec {
                let specific = mp4a.esds.es_desc.dec_config.dec_specific.as_ref()?;
                audio = Some(AudioHeader::new(specific.raw.clone()).ok()?);
            }
        }
    }
    Some((video?, audio))
}

/// RFC 6381; ISO/IEC 14496-15, annex E.
fn video_codec(video: &VideoHeader) -> String {
    let bytes = &video.bytes;
    match video.codec {
        VideoCodec::H264 => match bytes.get(1..4) {
            Some(&[profile, constraints, level]) => {
                format!("avc1.{profile:02x}{constraints:02x}{level:02x}")
            }
            Some(_) | None => "avc1".to_owned(),
        },
        VideoCodec::Hevc => hevc_codec(bytes).unwrap_or_else(|| "hvc1".to_owned()),
    }
}

fn hevc_codec(record: &[u8]) -> Option<String> {
    let &[general, c0, c1, c2, c3] = record.get(1..6)?.first_chunk::<5>()?;
    let space = ["", "A", "B", "C"][usize::from(general >> 6)];
    let tier = if general & 0x20 == 0 { 'L' } else { 'H' };
    let compatible = u32::from_be_bytes([c0, c1, c2, c3]).reverse_bits();
    let level = record.get(12)?;
    let mut text = format!("hvc1.{space}{}.{compatible:x}.{tier}{level}", general & 0x1f);
    let constraints = record.get(6..12)?;
    let used = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in &constraints[..used] {
        let _infallible = write!(text, ".{byte:x}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::hls::packager::tests::AVCC;

    #[test]
    fn codecs_are_named_as_players_expect_them() {
        // Main tier and profile, level 3.1, progressive: the usual example of RFC 6381 users.
        let mut hevc = vec![1, 0x01, 0x60, 0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 93];
        assert_eq!(hevc_codec(&hevc).unwrap(), "hvc1.1.6.L93.b0");
        hevc[6] = 0;
        assert_eq!(hevc_codec(&hevc).unwrap(), "hvc1.1.6.L93");
        assert_eq!(hevc_codec(&hevc[..12]), None);
    }

    #[test]
    fn a_packager_that_goes_on_reads_headers_that_make_the_same_init_segment() {
        let Ok(video) = VideoHeader::new(VideoCodec::H264, AVCC.to_vec()) else {
            panic!("the record is sound")
        };
        let audio = AudioHeader::new(vec![0x11, 0x90]).unwrap();
        for audio in [None, Some(&audio)] {
            let made = InitFile::new(&video, audio).unwrap();
            let (read, sound) = headers_of(&made.bytes).unwrap();
            assert_eq!(sound.as_ref(), audio);
            assert_eq!(InitFile::new(&read, sound.as_ref()).unwrap(), made);
            let (note, media) = InitNote::split(&made.bytes).unwrap();
            assert!(note.codecs.starts_with("avc1.64000b"), "{note:?}");
            assert_eq!(InitHash::of(media), made.hash);
        }
        assert_eq!(headers_of(b"garbage"), None);
    }
}
