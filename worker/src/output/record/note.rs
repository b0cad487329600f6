//! What a recorder notes in a file for a successor, in `uuid` boxes that players pass over.
//!
//! ```text
//!   ftyp moov [head note] ([fragment note] moof mdat)*
//! ```
//!
//! The head note has the file's decoder configurations and where in the logs it begins; a
//! fragment's note has the place in the logs and the clock behind that fragment. A note is
//! written in one go with what it speaks of and before it, so a whole fragment has a whole note:
//! what is in the file and what a successor reads of it cannot disagree.
//!
//! Reading is total: any bytes are a note or none.

use super::SeriesId;
use crate::media::packet::VideoCodec;
use crate::output::cursor::Place;
use crate::package::fmp4::FragmentClock;
use crate::package::uuid::{self, PREFIX_BYTES};
use crate::session::record::{BadSection, Put, Take};

const HEAD_ID: [u8; 16] = *b"TasukiSeriesHead";
const FRAGMENT_ID: [u8; 16] = *b"TasukiPlaceAfter";
/// Raised with every change; a note of another version is none.
const VERSION: u8 = 1;
/// A longer one is none of ours.
pub const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// Of a file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadNote {
    pub series: SeriesId,
    /// Counts the files of the series.
    pub number: u64,
    pub video: Option<(VideoCodec, Vec<u8>)>,
    pub audio: Option<Vec<u8>>,
    pub start: FragmentNote,
}

/// Where a recorder goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentNote {
    pub clock: FragmentClock,
    pub place: Place,
}

impl HeadNote {
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self { series, number, video, audio, start } = self;
        let mut body = vec![VERSION];
        body.put_bytes(&series.0);
        body.put_u64(*number);
        let (codec, config) = match video {
            None => (0, &[][..]),
            Some((VideoCodec::H264, config)) => (1, &config[..]),
            Some((VideoCodec::Hevc, config)) => (2, &config[..]),
        };
        body.put_u8(codec);
        put_long(config, &mut body);
        body.put_u8(u8::from(audio.is_some()));
        put_long(audio.as_deref().unwrap_or_default(), &mut body);
        start.put(&mut body);
        uuid::put(HEAD_ID, &body, into);
    }

    /// Reads the body of a `uuid` box.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let body = body.strip_prefix(&HEAD_ID)?.strip_prefix(&[VERSION])?;
        Self::take(&mut Take::new("head note", body)).ok()
    }

    fn take(take: &mut Take<'_>) -> Result<Self, BadSection> {
        let (series, number) = (SeriesId(take.array()?), take.u64()?);
        let codec = take.u8()?;
        let config = take_long(take)?;
        let video = match codec {
            0 => None,
            1 => Some((VideoCodec::H264, config)),
            2 => Some((VideoCodec::Hevc, config)),
            _ => return Err(take.bad("an unknown codec")),
        };
        let has_audio = take.u8()? == 1;
        let config = take_long(take)?;
        let audio = has_audio.then_some(config);
        let start = FragmentNote::take(take)?;
        Ok(Self { series, number, video, audio, start })
    }
}

impl FragmentNote {
    /// Of the whole box; always the same.
    pub const BOX_BYTES: usize = PREFIX_BYTES + 1 + FragmentClock::SIZE + Place::SIZE;

    pub fn encode(&self, into: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(Self::BOX_BYTES);
        body.put_u8(VERSION);
        self.put(&mut body);
        uuid::put(FRAGMENT_ID, &body, into);
    }

    /// Reads the body of a `uuid` box.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let body = body.strip_prefix(&FRAGMENT_ID)?.strip_prefix(&[VERSION])?;
        Self::take(&mut Take::new("fragment note", body)).ok()
    }

    fn put(&self, into: &mut Vec<u8>) {
        let Self { clock, place } = self;
        into.put_bytes(&clock.to_bytes());
        place.encode(into);
    }

    fn take(take: &mut Take<'_>) -> Result<Self, BadSection> {
        let clock = FragmentClock::from_bytes(&take.array()?);
        Ok(Self { clock, place: Place::decode(take)? })
    }
}

fn put_long(bytes: &[u8], into: &mut Vec<u8>) {
    into.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    into.put_bytes(bytes);
}

fn take_long(take: &mut Take<'_>) -> Result<Vec<u8>, BadSection> {
    let length = take.u32()?;
    Ok(take.bytes(usize::try_from(length).unwrap_or(usize::MAX))?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> HeadNote {
        let start = FragmentNote { clock: FragmentClock::new(-7), place: Place::default() };
        HeadNote {
            series: SeriesId([9; 16]),
            number: 3,
            video: Some((VideoCodec::Hevc, vec![1, 2, 3])),
            audio: Some(vec![0x12, 0x10]),
            start,
        }
    }

    /// Without size and kind.
    fn body(bytes: &[u8]) -> &[u8] {
        &bytes[8..]
    }

    #[test]
    fn what_was_noted_is_read_and_no_note_is_taken_for_the_other() {
        let (mut of_file, mut of_fragment) = (Vec::new(), Vec::new());
        head().encode(&mut of_file);
        head().start.encode(&mut of_fragment);
        assert_eq!(HeadNote::decode(body(&of_file)), Some(head()));
        assert_eq!(FragmentNote::decode(body(&of_fragment)), Some(head().start));
        assert_eq!(HeadNote::decode(body(&of_fragment)), None);
        assert_eq!(FragmentNote::decode(body(&of_file)), None);
        assert_eq!(of_fragment.len(), FragmentNote::BOX_BYTES);
    }

    proptest! {
        /// Bytes that somebody else wrote are read or refused, never a panic.
        #[test]
        fn any_bytes_are_a_note_or_none(
            noise in prop::collection::vec(any::<u8>(), 0..100),
            flip in any::<(prop::sample::Index, u8)>(),
        ) {
            let _total = (HeadNote::decode(&noise), FragmentNote::decode(&noise));
            let mut bytes = Vec::new();
            head().encode(&mut bytes);
            let at = flip.0.index(bytes.len());
            bytes[at] ^= flip.1;
            let _total = HeadNote::decode(body(&bytes));
        }
    }
}
