//! A small FLV reader and writer, and what can be checked on packets without decoding them.
//!
//! Adobe Flash Video File Format Specification 10.1, annex E; Enhanced RTMP v2 for the extended
//! video header.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;

const HEADER: [u8; 9] = *b"FLV\x01\x05\x00\x00\x00\x09";
const TAG_HEADER_BYTES: usize = 11;

/// What a tag carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Audio,
    Video,
    Script,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Audio => 8,
            Self::Video => 9,
            Self::Script => 18,
        }
    }
}

/// One tag: its time in milliseconds and its body, first byte onwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub kind: Kind,
    pub dts_ms: u32,
    pub body: Vec<u8>,
}

impl Tag {
    /// A decoder configuration or another tag that holds no coded frame.
    #[must_use]
    pub fn is_header(&self) -> bool {
        match (self.kind, self.body.as_slice()) {
            (Kind::Script, _) | (_, []) => true,
            // Enhanced: packet types 1 and 3 are coded frames.
            (Kind::Video, [first, ..]) if first & 0x80 != 0 => !matches!(first & 0x0f, 1 | 3),
            // AVC: packet type 1 holds NAL units.
            (Kind::Video, [first, packet, ..]) if first & 0x0f == 7 => *packet != 1,
            // AAC: packet type 1 holds a raw frame.
            (Kind::Audio, [first, packet, ..]) if first >> 4 == 10 => *packet != 1,
            (Kind::Audio | Kind::Video, _) => false,
        }
    }

    #[must_use]
    pub fn is_keyframe(&self) -> bool {
        self.kind == Kind::Video
            && !self.is_header()
            && self.body.first().is_some_and(|first| (first >> 4) & 0x07 == 1)
    }

    fn is_coded(&self, kind: Kind) -> bool {
        self.kind == kind && !self.is_header()
    }
}

/// A whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flv {
    pub tags: Vec<Tag>,
}

impl Flv {
    /// Reads a file; a torn last tag is refused.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("in {}", path.display()))
    }

    pub fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.starts_with(b"FLV\x01"), "no FLV header");
        let mut rest = bytes.get(HEADER.len() + 4..).context("the header is cut short")?;
        let mut tags = Vec::new();
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let (tag, after) = parse_tag(rest).with_context(|| format!("at byte {at}"))?;
            tags.push(tag);
            rest = after;
        }
        Ok(Self { tags })
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let mut out = HEADER.to_vec();
        out.extend([0; 4]);
        for tag in &self.tags {
            let size = u32::try_from(tag.body.len()).context("a tag over 4 GiB")?;
            let [_, size @ ..] = size.to_be_bytes();
            let [extended, time @ ..] = tag.dts_ms.to_be_bytes();
            out.push(tag.kind.code());
            out.extend(size);
            out.extend(time);
            out.extend([extended, 0, 0, 0]);
            out.extend(&tag.body);
            let whole = u32::try_from(tag.body.len() + TAG_HEADER_BYTES).context("tag size")?;
            out.extend(whole.to_be_bytes());
        }
        fs::write(path, out).with_context(|| format!("writing {}", path.display()))
    }

    /// Coded video or audio, in file order.
    pub fn coded(&self, kind: Kind) -> impl Iterator<Item = &Tag> {
        self.tags.iter().filter(move |tag| tag.is_coded(kind))
    }

    /// Coded video from the first keyframe on.
    pub fn from_keyframe(&self) -> impl Iterator<Item = &Tag> {
        self.coded(Kind::Video).skip_while(|tag| !tag.is_keyframe())
    }

    /// Index in `tags` of the n-th coded video tag.
    #[must_use]
    pub fn video_at(&self, ordinal: usize) -> Option<usize> {
        let mut coded = self.tags.iter().enumerate().filter(|(_, tag)| tag.is_coded(Kind::Video));
        coded.nth(ordinal).map(|(index, _)| index)
    }
}

fn parse_tag(bytes: &[u8]) -> Result<(Tag, &[u8])> {
    let (header, rest) =
        bytes.split_first_chunk::<TAG_HEADER_BYTES>().context("a tag header is cut short")?;
    let [kind, s2, s1, s0, t2, t1, t0, t3, ..] = *header;
    let kind = match kind & 0x1f {
        8 => Kind::Audio,
        9 => Kind::Video,
        18 => Kind::Script,
        other => bail!("a tag of unknown type {other}"),
    };
    let size = usize::try_from(u32::from_be_bytes([0, s2, s1, s0]))?;
    let (body, rest) = rest.split_at_checked(size).context("a tag body is cut short")?;
    let (back, rest) = rest.split_first_chunk::<4>().context("a tag trailer is cut short")?;
    let back = usize::try_from(u32::from_be_bytes(*back))?;
    ensure!(back == size + TAG_HEADER_BYTES, "a trailer of {back} after a tag of {size}");
    Ok((Tag { kind, dts_ms: u32::from_be_bytes([t3, t2, t1, t0]), body: body.to_vec() }, rest))
}

/// Each track's coded packets must rise in time, strictly.
pub fn check_dts_rising(flv: &Flv) -> Result<()> {
    for kind in [Kind::Video, Kind::Audio] {
        let times: Vec<u32> = flv.coded(kind).map(|tag| tag.dts_ms).collect();
        for (position, pair) in times.windows(2).enumerate() {
            let (before, after) = (pair[0], pair[1]);
            ensure!(before < after, "{kind:?} {}: {after} ms follows {before} ms", position + 1);
        }
    }
    Ok(())
}

/// The recording must hold, from the source's first keyframe to its end, every video body
/// unchanged, and a run of the source's audio bodies unchanged up to the end.
pub fn check_payloads_identical(source: &Flv, recording: &Flv) -> Result<()> {
    let wanted: Vec<&Tag> = source.from_keyframe().collect();
    let found: Vec<&Tag> = recording.from_keyframe().collect();
    compare_bodies("video", &wanted, &found)?;
    let wanted: Vec<&Tag> = source.coded(Kind::Audio).collect();
    let found: Vec<&Tag> = recording.coded(Kind::Audio).collect();
    ensure!(found.is_empty() == wanted.is_empty(), "audio in only one of source and recording");
    let absent = wanted.len().checked_sub(found.len()).context("more audio than was sent")?;
    compare_bodies("audio", &wanted[absent..], &found)
}

fn compare_bodies(what: &str, wanted: &[&Tag], found: &[&Tag]) -> Result<()> {
    if let Some(position) = wanted.iter().zip(found).position(|(a, b)| a.body != b.body) {
        let (a, b) = (wanted[position], found[position]);
        bail!(
            "{what} packet {position} differs: {} bytes at {} ms were sent, {} bytes at {} ms came",
            a.body.len(),
            a.dts_ms,
            b.body.len(),
            b.dts_ms,
        );
    }
    ensure!(
        wanted.len() == found.len(),
        "{} {what} packets were sent, {} came",
        wanted.len(),
        found.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(dts_ms: u32, first: u8, packet: u8) -> Tag {
        Tag { kind: Kind::Video, dts_ms, body: vec![first, packet, 0, 0, 0, 9] }
    }

    #[test]
    fn equal_times_on_one_track_are_found() {
        let mut flv = Flv { tags: vec![video(0, 0x17, 1), video(33, 0x27, 1)] };
        assert!(check_dts_rising(&flv).is_ok());
        flv.tags.push(video(33, 0x27, 1));
        assert!(check_dts_rising(&flv).unwrap_err().to_string().contains("Video 2"));
    }

    #[test]
    fn headers_and_keyframes_are_told_apart_in_both_header_styles() {
        assert!(video(0, 0x17, 0).is_header());
        assert!(video(0, 0x17, 1).is_keyframe());
        assert!(!video(0, 0x27, 1).is_keyframe());
        assert!(video(0, 0x90, b'h').is_header(), "enhanced sequence start");
        assert!(video(0, 0x91, b'h').is_keyframe(), "enhanced coded frames");
        assert!(!video(0, 0xA3, b'h').is_keyframe(), "enhanced coded frames without an offset");
    }

    #[test]
    fn a_torn_tag_is_refused_wherever_it_is_cut() {
        let directory = std::env::temp_dir().join(format!("tasuki-flv-{}", std::process::id()));
        let flv = Flv { tags: vec![video(0x0102_0304, 0x17, 1), video(0x0102_0305, 0x27, 1)] };
        flv.write(&directory).unwrap();
        let bytes = fs::read(&directory).unwrap();
        fs::remove_file(&directory).unwrap();
        assert_eq!(Flv::parse(&bytes).unwrap(), flv);
        let whole = [13, 13 + 11 + 6 + 4, bytes.len()];
        for cut in (0..bytes.len()).filter(|cut| !whole.contains(cut)) {
            assert!(Flv::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
