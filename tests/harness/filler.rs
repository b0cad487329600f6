//! Streams of a given bitrate at no cost: filler data NAL units (ITU-T H.264, 7.3.2.7) behind each
//! picture. Decoders pass over them.

use crate::flv::{Kind, Tag};
use anyhow::{Result, ensure};

/// Brings the tags of `seconds` of H.264 to this bitrate on the whole.
pub fn pad(tags: &mut [Tag], kbps: u32, seconds: u32) -> Result<()> {
    let bytes: usize = tags.iter().map(|tag| tag.body.len()).sum();
    let wanted = usize::try_from(u64::from(kbps) * 125 * u64::from(seconds))?;
    let coded = |tag: &Tag| tag.kind == Kind::Video && !tag.is_header();
    let frames = tags.iter().filter(|tag| coded(tag)).count();
    let filler = wanted.saturating_sub(bytes) / frames.max(1);
    ensure!(filler > 8, "there are {bytes} bytes already, {wanted} are wanted");
    for tag in tags.iter_mut().filter(|tag| coded(tag)) {
        tag.body.extend(u32::try_from(filler - 4)?.to_be_bytes());
        tag.body.push(12);
        tag.body.resize(tag.body.len() + filler - 6, 0xFF);
        tag.body.push(0x80);
    }
    Ok(())
}
