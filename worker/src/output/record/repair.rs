//! Cuts a recording that was torn by the death of its process back to its last whole fragment.
//!
//! A recorder appends whole fragments in one write each, which a kill can cut anywhere. So a
//! file is sound up to the last `moof` that is followed by its whole `mdat`. A note (`note.rs`)
//! in front of a `moof` belongs to it.

use super::disk::lock;
use super::note::{FragmentNote, HeadNote, NOTE_BYTES_MAX};
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
    repair_locked(&mut file).map(|(report, _)| report)
}

/// What a file says of itself, for who goes on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    pub head: Option<HeadNote>,
    /// Of the last whole fragment.
    pub last: Option<FragmentNote>,
}

/// Repairs a file that the caller holds locked, open for reading and writing.
pub fn repair_locked(file: &mut File) -> Result<(RepairReport, Notes), RepairError> {
    let length = file.metadata()?.len();
    let (fragments, kept_bytes, notes) = scan(file, length)?;
    if kept_bytes < length {
        file.set_len(kept_bytes)?;
    }
    Ok((RepairReport { fragments, kept_bytes, cut_bytes: length - kept_bytes }, notes))
}

/// The head note of a file, if it has one.
pub fn head_note(file: &mut File) -> Result<Option<HeadNote>, RepairError> {
    let length = file.metadata()?.len();
    let position = header_end(file, length)?;
    Ok(note_at(file, position, length)?.and_then(|(body, _)| HeadNote::decode(&body)))
}

/// Whole fragments, where the last of them ends, and what the file notes.
fn scan(file: &mut File, length: u64) -> Result<(u64, u64, Notes), RepairError> {
    let mut position = header_end(file, length)?;
    let mut notes = Notes::default();
    if let Some((body, bytes)) = note_at(file, position, length)? {
        notes.head = HeadNote::decode(&body);
        position += if notes.head.is_some() { bytes } else { 0 };
    }
    let mut fragments = 0;
    // Each round moves on by at least two box headers.
    loop {
        let note = note_at(file, position, length)?;
        let at = position + note.as_ref().map_or(0, |(_, bytes)| *bytes);
        let Some(end) = fragment_end(file, at, length)? else { break };
        notes.last = note.and_then(|(body, _)| FragmentNote::decode(&body));
        fragments += 1;
        position = end;
    }
    Ok((fragments, position, notes))
}

/// Where the boxes that make a file playable end.
fn header_end(file: &mut File, length: u64) -> Result<u64, RepairError> {
    let mut position = 0;
    for expected in [b"ftyp", b"moov"] {
        let header = box_at(file, position, length)?.ok_or(RepairError::NotOurs)?;
        if &header.kind != expected {
            return Err(RepairError::NotOurs);
        }
        position += header.bytes;
    }
    Ok(position)
}

/// Body and length of the `uuid` box at `position`, if there is one that may be a note.
fn note_at(file: &mut File, position: u64, length: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    let Some(found) = box_at(file, position, length)? else { return Ok(None) };
    if &found.kind != b"uuid" || found.bytes > NOTE_BYTES_MAX {
        return Ok(None);
    }
    let mut body = Vec::new();
    file.take(found.bytes - BOX_HEADER_BYTES).read_to_end(&mut body)?;
    Ok(Some((body, found.bytes)))
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
