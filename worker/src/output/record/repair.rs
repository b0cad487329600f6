//! Cuts a recording that was torn by the death of its process back to its last whole fragment.
//!
//! A recorder appends whole fragments in one write each, which a kill can cut anywhere. So a
//! file is sound up to the last `moof` that is followed by its whole `mdat`.

use super::disk::lock;
use mp4_atom::{Decode, Moof};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// A `moof` is read whole to be checked; one of ours is far smaller.
const MOOF_BYTES_MAX: u64 = 1024 * 1024;

/// What was found and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairReport {
    /// Whole fragments, all kept.
    pub fragments: u64,
    pub kept_bytes: u64,
    /// Zero: the file was whole.
    pub cut_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error("the file is being written")]
    InUse,
    #[error("the file does not begin like a recording")]
    NotOurs,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Repairs a recording in place; one that is whole is not touched.
pub fn repair(path: &Path) -> Result<RepairReport, RepairError> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut file = lock(file).map_err(|error| {
        let held = error.kind() == io::ErrorKind::WouldBlock;
        if held { RepairError::InUse } else { RepairError::Io(error) }
    })?;
    let length = file.metadata()?.len();
    let (fragments, kept_bytes) = scan(&mut file, length)?;
    if kept_bytes < length {
        file.set_len(kept_bytes)?;
    }
    Ok(RepairReport { fragments, kept_bytes, cut_bytes: length - kept_bytes })
}

/// Whole fragments, and where the last of them ends.
fn scan(file: &mut File, length: u64) -> Result<(u64, u64), RepairError> {
    let mut position = 0;
    for expected in [b"ftyp", b"moov"] {
        let header = box_at(file, position, length)?.ok_or(RepairError::NotOurs)?;
        if &header.kind != expected {
            return Err(RepairError::NotOurs);
        }
        position += header.bytes;
    }
    let mut fragments = 0;
    // Each round moves on by at least two box headers.
    while let Some(end) = fragment_end(file, position, length)? {
        fragments += 1;
        position = end;
    }
    Ok((fragments, position))
}

/// End of the fragment at `position`, if it is whole and its `moof` fits its `mdat`.
fn fragment_end(file: &mut File, position: u64, length: u64) -> io::Result<Option<u64>> {
    let Some(moof) = box_at(file, position, length)? else { return Ok(None) };
    let Some(mdat) = box_at(file, position + moof.bytes, length)? else { return Ok(None) };
    if &moof.kind != b"moof" || &mdat.kind != b"mdat" || moof.bytes > MOOF_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(position))?;
    file.take(moof.bytes).read_to_end(&mut bytes)?;
    let samples = Moof::decode(&mut bytes.as_slice()).ok().map(|moof| sample_bytes(&moof));
    let fits = samples == Some(mdat.bytes - BOX_HEADER_BYTES);
    Ok(fits.then_some(position + moof.bytes + mdat.bytes))
}

fn sample_bytes(moof: &Moof) -> u64 {
    let runs = moof.traf.iter().flat_map(|traf| &traf.trun);
    runs.flat_map(|run| run.samples.iter()).map(|entry| u64::from(entry.size.unwrap_or(0))).sum()
}

const BOX_HEADER_BYTES: u64 = 8;

struct BoxHeader {
    kind: [u8; 4],
    bytes: u64,
}

/// The box at `position`, if it is wholly in the file. Recorders write no 64-bit sizes.
fn box_at(file: &mut File, position: u64, length: u64) -> io::Result<Option<BoxHeader>> {
    if length.saturating_sub(position) < BOX_HEADER_BYTES {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(position))?;
    let mut size = [0; 4];
    let mut kind = [0; 4];
    file.read_exact(&mut size)?;
    file.read_exact(&mut kind)?;
    let bytes = u64::from(u32::from_be_bytes(size));
    let whole = bytes >= BOX_HEADER_BYTES && bytes <= length - position;
    Ok(whole.then_some(BoxHeader { kind, bytes }))
}
