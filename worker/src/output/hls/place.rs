//! What a stream's HLS directory holds: the packager writes it, delivery reads it, and a packager
//! that takes a stream over learns from it where to go on.
//!
//! | file | is |
//! |---|---|
//! | `stream.json` | what the renditions have in common, [`StreamFile`] |
//! | `init.<hash>.<label>.mp4` | an [`InitNote`], then the init segment |
//! | `<segment>.<part>.<label>.m4s` | a [`PartNote`], then `moof` and `mdat` |
//! | `left.<label>` | this rendition has left the stream; the text says why |
//! | `ended` | the stream is over: nothing follows what is there |
//!
//! Invariants
//! - A file appears whole, by a rename that replaces nothing, and is never changed afterwards: who
//!   is first to name a part has made it.
//! - Segments and parts of a rendition are numbered without a gap, from wherever it begins, over
//!   all sessions that published under the name. So no player ever sees a number twice.
//! - Everything that a playlist says follows from the notes; whoever lost its memory reads them.
//!
//! Reading is total: any name and any bytes are one of these or none.

use crate::output::cursor::Place;
use crate::output::record::SeriesId;
use crate::package::fmp4::FragmentClock;
use crate::package::uuid::{self, PREFIX_BYTES};
use crate::session::record::{BadSection, Put, Take};
use serde::{Deserialize, Serialize};
use std::fmt;
use tasuki_shared::id::PublicName;
use tasuki_shared::limits::{HLS_PART_NUMBER_MAX, HLS_SEGMENT_NUMBER_MAX};

/// Name of the file with the [`StreamFile`].
pub const STREAM_FILE: &str = "stream.json";
/// Name of the file that says that the stream is over.
pub const ENDED_FILE: &str = "ended";
/// A file whose name begins like this is still being written.
pub const UNFINISHED_PREFIX: &str = ".new.";

const PART_ID: [u8; 16] = *b"TasukiHlsPartNot";
const INIT_ID: [u8; 16] = *b"TasukiHlsInitNot";
/// Raised with every change; a note of another version is none.
const VERSION: u8 = 1;
/// Longest list of codecs.
const CODECS_BYTES_MAX: usize = 256;

/// A file's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileName {
    Part { label: PublicName, number: PartNumber },
    Init { label: PublicName, hash: InitHash },
    Left { label: PublicName },
    Stream,
    Ended,
}

/// Which part of a rendition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber {
    /// Media sequence number (RFC 8216, 3).
    pub segment: u64,
    /// Counted from 0 in each segment.
    pub part: u32,
}

/// Names an init segment by what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitHash(pub u64);

/// What all renditions of a stream have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFile {
    /// EXT-X-TARGETDURATION: no segment is longer, rounded to a second.
    pub target_ms: u64,
    /// PART-TARGET: no part is longer.
    pub part_target_ms: u64,
    /// How much of the past is kept.
    pub window_ms: u64,
    /// Highest first.
    pub renditions: Vec<RenditionFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenditionFile {
    pub label: PublicName,
    pub kind: RenditionKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenditionKind {
    /// The publisher's own packets: a rendition once its keyframes were seen to be close enough.
    Source,
    Encoded,
}

/// Can decoding begin with a part?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Independent {
    No,
    Yes,
}

/// Does a part end its segment?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    Part,
    Segment,
}

/// Of a part; its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartNote {
    /// Whose logs `place` speaks of.
    pub series: SeriesId,
    pub init: InitHash,
    /// How many there were in this stream, up to one in front of this part. Those that only other
    /// renditions had count with the next of this one's own.
    pub discontinuities: u64,
    /// Decode time of its first packet, on the stream's timeline.
    pub start_ms: i64,
    /// To the first packet of the next part.
    pub duration_ms: u32,
    /// Wall clock of `start_ms`, which does not follow later steps of the clock.
    pub start_unix_ms: u64,
    /// Pictures in it.
    pub frames: u32,
    pub independent: Independent,
    pub ends: Ends,
    /// Decode time of the first packet of its segment.
    pub segment_start_ms: i64,
    /// Of the last keyframe of the source in this segment, if it had one after its start.
    pub source_keyframe_ms: Option<i64>,
    /// For the next fragment.
    pub clock: FragmentClock,
    /// Behind its last packet.
    pub place: Place,
}

/// Of an init segment; its first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitNote {
    /// CODECS (RFC 6381).
    pub codecs: String,
    /// Of the picture; 0 without one.
    pub width: u32,
    pub height: u32,
}

impl FileName {
    /// `None` for a file that is not ours, or not finished.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            STREAM_FILE => return Some(Self::Stream),
            ENDED_FILE => return Some(Self::Ended),
            _ => {}
        }
        let label = |text: &str| PublicName::parse(text).ok();
        if let Some(rest) = name.strip_prefix("left.") {
            return Some(Self::Left { label: label(rest)? });
        }
        if let Some(rest) = name.strip_prefix("init.") {
            let (hash, rest) = rest.strip_suffix(".mp4")?.split_once('.')?;
            let hash = InitHash::parse(hash)?;
            return Some(Self::Init { label: label(rest)?, hash });
        }
        let (segment, rest) = name.strip_suffix(".m4s")?.split_once('.')?;
        let (part, rest) = rest.split_once('.')?;
        let number = PartNumber { segment: decimal(segment)?, part: decimal(part)? };
        // Whoever counts on from one of these must not come to an end.
        if number.segment > HLS_SEGMENT_NUMBER_MAX || number.part > HLS_PART_NUMBER_MAX {
            return None;
        }
        Some(Self::Part { label: label(rest)?, number })
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part { label, number: PartNumber { segment, part } } => {
                write!(f, "{segment}.{part}.{label}.m4s")
            }
            Self::Init { label, hash } => write!(f, "init.{hash}.{label}.mp4"),
            Self::Left { label } => write!(f, "left.{label}"),
            Self::Stream => f.write_str(STREAM_FILE),
            Self::Ended => f.write_str(ENDED_FILE),
        }
    }
}

impl InitHash {
    /// FNV-1a (64 bits): names apart what a stream has had, not a defence.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
    }

    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let legal =
            text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !legal {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for InitHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Only as `Display` writes a number: no sign, no leading zero.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    let legal =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if legal { text.parse().ok() } else { None }
}

impl PartNote {
    /// Of the whole box; always the same.
    pub const BOX_BYTES: usize = PREFIX_BYTES
        + 1
        + SeriesId::SIZE
        + (8 + 8 + 8 + 4 + 8 + 4 + 1 + 1 + 8 + 1 + 8)
        + FragmentClock::SIZE
        + Place::SIZE;

    /// Appends the box.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self {
            series,
            init,
            discontinuities,
            start_ms,
            duration_ms,
            start_unix_ms,
            frames,
            independent,
            ends,
            segment_start_ms,
            source_keyframe_ms,
            clock,
            place,
        } = self;
        let mut body = Vec::with_capacity(Self::BOX_BYTES - PREFIX_BYTES);
        body.put_u8(VERSION);
        body.put_bytes(&series.0);
        body.put_u64(init.0);
        body.put_u64(*discontinuities);
        body.put_u64(start_ms.cast_unsigned());
        body.put_u32(*duration_ms);
        body.put_u64(*start_unix_ms);
        body.put_u32(*frames);
        body.put_u8(u8::from(*independent == Independent::Yes));
        body.put_u8(u8::from(*ends == Ends::Segment));
        body.put_u64(segment_start_ms.cast_unsigned());
        body.put_u8(u8::from(source_keyframe_ms.is_some()));
        body.put_u64(source_keyframe_ms.unwrap_or(0).cast_unsigned());
        body.put_bytes(&clock.to_bytes());
        place.encode(&mut body);
        uuid::put(PART_ID, &body, into);
    }

    /// Takes a part's file apart: its note, and what a player gets.
    #[must_use]
    pub fn split(file: &[u8]) -> Option<(Self, &[u8])> {
        let (body, media) = split_box(PART_ID, file)?;
        Some((Self::decode(&mut Take::new("part note", body)).ok()?, media))
    }

    fn decode(take: &mut Take<'_>) -> Result<Self, BadSection> {
        let series = SeriesId(take.array()?);
        let init = InitHash(take.u64()?);
        let discontinuities = take.u64()?;
        let start_ms = take.u64()?.cast_signed();
        let duration_ms = take.u32()?;
        let start_unix_ms = take.u64()?;
        let frames = take.u32()?;
        let independent = if take.u8()? == 1 { Independent::Yes } else { Independent::No };
        let ends = if take.u8()? == 1 { Ends::Segment } else { Ends::Part };
        let segment_start_ms = take.u64()?.cast_signed();
        let has_keyframe = take.u8()? == 1;
        let keyframe_ms = take.u64()?.cast_signed();
        let source_keyframe_ms = has_keyframe.then_some(keyframe_ms);
        let clock = FragmentClock::from_bytes(&take.array()?);
        let place = Place::decode(take)?;
        Ok(Self {
            series,
            init,
            discontinuities,
            start_ms,
            duration_ms,
            start_unix_ms,
            frames,
            independent,
            ends,
            segment_start_ms,
            source_keyframe_ms,
            clock,
            place,
        })
    }
}

impl InitNote {
    /// Appends the box.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Self { codecs, width, height } = self;
        let mut body = vec![VERSION];
        body.put_u32(*width);
        body.put_u32(*height);
        body.put_bytes(codecs.as_bytes());
        uuid::put(INIT_ID, &body, into);
    }

    /// Takes an init segment's file apart: its note, and what a player gets.
    #[must_use]
    pub fn split(file: &[u8]) -> Option<(Self, &[u8])> {
        let (body, media) = split_box(INIT_ID, file)?;
        let mut take = Take::new("init note", body);
        let (width, height) = (take.u32().ok()?, take.u32().ok()?);
        let codecs = body.get(8..)?;
        // They stand in a quoted string of a playlist.
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b',');
        if codecs.len() > CODECS_BYTES_MAX || !codecs.iter().all(legal) {
            return None;
        }
        let codecs = std::str::from_utf8(codecs).ok()?.to_owned();
        Some((Self { codecs, width, height }, media))
    }
}

/// The body of a box of ours behind its version, and what follows the box.
fn split_box(id: [u8; 16], file: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = file.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let body_bytes = length.checked_sub(PREFIX_BYTES)?;
    let (body, media) =
        rest.strip_prefix(b"uuid")?.strip_prefix(&id)?.split_at_checked(body_bytes)?;
    Some((body.strip_prefix(&[VERSION])?, media))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn label(text: &str) -> PublicName {
        PublicName::parse(text).unwrap()
    }

    /// A label may have dots, and even look like another file's.
    #[test]
    fn names_come_back_and_others_are_none() {
        for text in ["720p", "a.b", "init.x", "7.3.m4s", "ended", "stream.json"] {
            let names = [
                FileName::Part {
                    label: label(text),
                    number: PartNumber { segment: 7_000_000_000, part: 12 },
                },
                FileName::Init { label: label(text), hash: InitHash::of(b"x") },
                FileName::Left { label: label(text) },
                FileName::Stream,
                FileName::Ended,
            ];
            for name in names {
                assert_eq!(FileName::parse(&name.to_string()), Some(name));
            }
        }
        let others = [
            "",
            ".",
            "..",
            "1.2.m4s",
            "01.2.a.m4s",
            "1.+2.a.m4s",
            "-1.2.a.m4s",
            "1.2..m4s",
            "init.0.a.mp4",
            "init.00000000000000ZZ.a.mp4",
            "left.",
            ".new.1.2.a.m4s",
            "18446744073709551616.0.a.m4s",
            "18446744073709551615.0.a.m4s",
            "7.4294967295.a.m4s",
            "1.2.a/b.m4s",
        ];
        for other in others {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }

    fn note() -> PartNote {
        PartNote {
            series: SeriesId([9; 16]),
            init: InitHash(7),
            discontinuities: 3,
            start_ms: -5,
            duration_ms: 200,
            start_unix_ms: 1_790_000_000_000,
            frames: 6,
            independent: Independent::Yes,
            ends: Ends::Part,
            segment_start_ms: -400,
            source_keyframe_ms: Some(-12),
            clock: FragmentClock::new(-1000),
            place: Place::default(),
        }
    }

    #[test]
    fn a_note_comes_back_with_the_media_behind_it() {
        let all = [note(), PartNote { ends: Ends::Segment, source_keyframe_ms: None, ..note() }];
        for note in all {
            let mut file = Vec::new();
            note.encode(&mut file);
            assert_eq!(file.len(), PartNote::BOX_BYTES);
            file.extend(b"moof");
            assert_eq!(PartNote::split(&file), Some((note, &b"moof"[..])));
        }
        let codecs = "avc1.64001f,mp4a.40.2".to_owned();
        let note = InitNote { codecs, width: 1280, height: 720 };
        let mut file = Vec::new();
        note.encode(&mut file);
        file.extend(b"ftyp");
        assert_eq!(InitNote::split(&file), Some((note, &b"ftyp"[..])));
    }

    /// It would stand in a playlist.
    #[test]
    fn codecs_that_could_end_their_quotes_are_none() {
        for codecs in ["avc1\"", "a\nb", "ü"] {
            let mut file = Vec::new();
            InitNote { codecs: codecs.to_owned(), width: 1, height: 1 }.encode(&mut file);
            assert_eq!(InitNote::split(&file), None, "{codecs}");
        }
    }

    proptest! {
        /// Any bytes are a note or none, also those of a note that was cut or changed.
        #[test]
        fn reading_is_total(cut in 0..PartNote::BOX_BYTES, at in 0..PartNote::BOX_BYTES, with: u8,
                            any in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut file = Vec::new();
            note().encode(&mut file);
            prop_assert_eq!(PartNote::split(&file[..cut]), None);
            file[at] = with;
            let _either_way = PartNote::split(&file);
            let _either_way = InitNote::split(&file);
            prop_assert_eq!(PartNote::split(&any), None);
        }
    }
}
