//! What a client finds inside init segments and parts (ISO/IEC 14496-12). Pure.

use anyhow::{Context, Result, ensure};

/// H.264's IDR slice, and the first and last type of those that hold a picture.
const NAL_IDR: u8 = 5;
const NAL_PICTURES: std::ops::RangeInclusive<u8> = 1..=5;
/// `tr_flags` of `trun` and `tf_flags` of `tfhd`: which fields there are.
const TRUN_OFFSET: u32 = 0x1;
const TRUN_FIRST_FLAGS: u32 = 0x4;
const TRUN_DURATION: u32 = 0x100;
const TRUN_SIZE: u32 = 0x200;
const TFHD_BASE: u32 = 0x1;
const TFHD_DESCRIPTION: u32 = 0x2;
const TFHD_DURATION: u32 = 0x8;
const TFHD_SIZE: u32 = 0x10;

/// What an init segment says of the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Init {
    pub track: u32,
    /// As CODECS has it: `avc1.` and profile, constraints and level.
    pub codec: String,
}

impl Init {
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let movie = child(bytes, b"moov")?;
        for (name, track) in boxes(movie) {
            if name != *b"trak" {
                continue;
            }
            let media = child(track, b"mdia")?;
            if child(media, b"hdlr")?.get(8..12) != Some(b"vide".as_slice()) {
                continue;
            }
            // Version 0 has 32-bit times.
            let header = child(track, b"tkhd")?;
            let at = if header.first() == Some(&0) { 12 } else { 20 };
            let track = number(header, at)?;
            let table = child(child(child(media, b"minf")?, b"stbl")?, b"stsd")?;
            let entries = table.get(8..).context("no entries")?;
            let picture = child(entries, b"avc1")?.get(78..).context("a short sample entry")?;
            let config = child(picture, b"avcC")?.get(1..4).context("a short avcC")?;
            let hex: String = config.iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok(Self { track, codec: format!("avc1.{hex}") });
        }
        anyhow::bail!("no track of pictures")
    }
}

/// Is the first picture of a part an IDR? A part without pictures does not begin with one.
pub fn begins_with_idr(part: &[u8], track: u32) -> Result<bool> {
    let fragment = child(part, b"moof")?;
    let runs = boxes(fragment).filter(|(name, _)| name == b"traf");
    for (_, run) in runs {
        let header = child(run, b"tfhd")?;
        if number(header, 4)? != track {
            continue;
        }
        // A time in which no picture begins has none.
        let Ok(table) = child(run, b"trun") else { return Ok(false) };
        let flags = number(table, 0)? & 0x00ff_ffff;
        ensure!(flags & TRUN_OFFSET != 0, "a run without an offset");
        let offset = usize::try_from(number(table, 8)?)?;
        let mut at = 12;
        at += if flags & TRUN_FIRST_FLAGS != 0 { 4 } else { 0 };
        at += if flags & TRUN_DURATION != 0 { 4 } else { 0 };
        let size = match flags & TRUN_SIZE {
            0 => default_size(header)?,
            _ => number(table, at)?,
        };
        // Offsets count from the fragment's first byte, where the part begins.
        let sample = part.get(offset..).context("a run beyond the part")?;
        let sample = sample.get(..usize::try_from(size)?).context("a cut sample")?;
        return Ok(first_picture(sample)? == NAL_IDR);
    }
    Ok(false)
}

fn default_size(header: &[u8]) -> Result<u32> {
    let flags = number(header, 0)? & 0x00ff_ffff;
    ensure!(flags & TFHD_SIZE != 0, "samples without a size");
    let mut at = 8;
    at += if flags & TFHD_BASE != 0 { 8 } else { 0 };
    at += if flags & TFHD_DESCRIPTION != 0 { 4 } else { 0 };
    at += if flags & TFHD_DURATION != 0 { 4 } else { 0 };
    number(header, at)
}

/// Type of the first NAL unit that holds a picture, in a sample of length-prefixed units.
fn first_picture(mut sample: &[u8]) -> Result<u8> {
    while !sample.is_empty() {
        let length = usize::try_from(number(sample, 0)?)?;
        let unit = sample.get(4..4 + length).context("a cut NAL unit")?;
        let kind = unit.first().context("an empty NAL unit")? & 0x1f;
        if NAL_PICTURES.contains(&kind) {
            return Ok(kind);
        }
        sample = &sample[4 + length..];
    }
    anyhow::bail!("a sample without a picture")
}

/// Contents of the first box of this name.
fn child<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Result<&'a [u8]> {
    let found = boxes(bytes).find(|(of, _)| of == name);
    let (_, body) = found.with_context(|| format!("no {}", String::from_utf8_lossy(name)))?;
    Ok(body)
}

/// Names and contents, up to the first thing that is no box.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes, 0).ok()?).ok()?;
        let name = *bytes.get(4..)?.first_chunk::<4>()?;
        let body = bytes.get(8..length)?;
        bytes = &bytes[length..];
        Some((name, body))
    })
}

fn number(bytes: &[u8], at: usize) -> Result<u32> {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    Ok(u32::from_be_bytes(*four.context("it is cut short")?))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn boxed(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 8).unwrap();
        [&length.to_be_bytes(), name.as_slice(), body].concat()
    }

    /// A part of track 1 whose first sample is parameter sets' end and a picture of this type.
    pub fn part(kind: u8, with: u8) -> Vec<u8> {
        let sample = [&[0, 0, 0, 1, 9][..], &[0, 0, 0, 2, kind, with]].concat();
        let header = boxed(b"tfhd", &[0, 2, 0, 0, 0, 0, 0, 1]);
        let size = u8::try_from(sample.len()).unwrap();
        let mut run = vec![0, 0, 2, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, size];
        let fragment = |run: &[u8]| {
            boxed(b"moof", &boxed(b"traf", &[header.clone(), boxed(b"trun", run)].concat()))
        };
        run[11] = u8::try_from(fragment(&run).len() + 8).unwrap();
        [fragment(&run), boxed(b"mdat", &sample)].concat()
    }

    #[test]
    fn an_idr_is_told_from_another_picture() {
        assert!(begins_with_idr(&part(0x65, 0), 1).unwrap());
        assert!(!begins_with_idr(&part(0x41, 0), 1).unwrap());
        assert!(!begins_with_idr(&part(0x65, 0), 2).unwrap());
        assert!(begins_with_idr(&part(0x65, 0)[..70], 1).is_err());
        let empty = boxed(b"moof", &boxed(b"traf", &boxed(b"tfhd", &[0, 2, 0, 0, 0, 0, 0, 1])));
        assert!(!begins_with_idr(&empty, 1).unwrap());
    }
}
