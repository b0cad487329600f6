//! Reading what is in a stream's directory. A file that cannot be ours is not read; which of two
//! reasons there is for having nothing decides whether it is worth another try.

use super::rendition::{Init, Part, Presence, Rendition};
use crate::output::hls::place::{FileName, InitHash, InitNote, PartNote, PartNumber};
use bytes::Bytes;
use nix::errno::Errno;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use tasuki_shared::limits::{DELIVERY_CATCH_UP_PARTS_MAX, DELIVERY_FILE_BYTES_MAX};

/// When a part's body is read: as soon as it is there, for everybody wants it then, or when somebody
/// asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    Now,
    Later,
}

/// Why a part cannot be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    Gone,
    /// It or its init segment is torn, or the system refuses it for now.
    Unreadable,
}

/// Is everything in front of a part known?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caught {
    Up,
    /// More than is read at once.
    InPart,
}

/// A part with its note, with its body if that is wanted now; its init segment is known then.
pub fn part(
    directory: &Path,
    rendition: &mut Rendition,
    number: PartNumber,
    bodies: Bodies,
) -> Result<Part, Unread> {
    let name = FileName::Part { label: rendition.label.clone(), number };
    let path = directory.join(name.to_string());
    let part = match bodies {
        Bodies::Now => whole(&path),
        Bodies::Later => head(&path),
    };
    let part = part.map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            return Unread::Gone;
        }
        tracing::warn!(path = %path.display(), %error, "this part cannot be read");
        Unread::Unreadable
    })?;
    // It was there before its first part was; that it was told of may have come to nothing.
    let hash = part.note.init;
    if !rendition.inits.contains_key(&hash) {
        let init = init(directory, rendition, hash).ok_or(Unread::Unreadable)?;
        rendition.inits.insert(hash, init);
    }
    Ok(part)
}

/// Parts in front of this one whose reading failed when they appeared: once more. Of what cannot be
/// read now either a gap is told.
pub fn catch_up(
    directory: &Path,
    rendition: &mut Rendition,
    until: PartNumber,
    following: &PartNote,
) -> Caught {
    for _ in 0..DELIVERY_CATCH_UP_PARTS_MAX {
        // Of nothing, from the beginning of its segment.
        let first = PartNumber { segment: until.segment, part: 0 };
        let next = rendition.next().unwrap_or(first);
        if next >= until {
            return Caught::Up;
        }
        match part(directory, rendition, next, Bodies::Later) {
            Ok(part) => {
                rendition.add(next, part);
            }
            // The last part did not know that it was its segment's last.
            Err(Unread::Gone) if next.part > 0 && next.segment < until.segment => {
                rendition.end_segment();
            }
            Err(Unread::Gone | Unread::Unreadable) => {
                rendition.add_missing(until, following);
                return Caught::Up;
            }
        }
    }
    Caught::InPart
}

pub fn init(directory: &Path, rendition: &Rendition, hash: InitHash) -> Option<Init> {
    let name = FileName::Init { label: rendition.label.clone(), hash };
    let file = read(&directory.join(name.to_string())).ok()?;
    let (note, media) = InitNote::split(&file)?;
    let media = file.slice(file.len() - media.len()..);
    Some(Init { note, media })
}

/// What a player gets of a part.
pub fn media(directory: &Path, rendition: &Rendition, number: PartNumber) -> Option<Bytes> {
    let name = FileName::Part { label: rendition.label.clone(), number };
    let Part { media, .. } = whole(&directory.join(name.to_string())).ok()?;
    media
}

/// A file that cannot be ours is not read.
pub fn read(path: &Path) -> io::Result<Bytes> {
    let about = fs::symlink_metadata(path)?;
    if !about.is_file() || about.len() > DELIVERY_FILE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    fs::read(path).map(Bytes::from)
}

/// Names in a directory, those that are no text left out.
pub fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// May another try succeed without anything appearing before?
#[must_use]
pub fn is_passing(error: &io::Error) -> bool {
    let passing = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EIO, Errno::EINTR];
    passing.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

fn whole(path: &Path) -> io::Result<Part> {
    let file = read(path)?;
    let (note, media) = PartNote::split(&file).ok_or(io::ErrorKind::InvalidData)?;
    let media_bytes = u64::try_from(media.len()).unwrap_or(0);
    let media = Some(file.slice(file.len() - media.len()..));
    Ok(Part { note, presence: Presence::Here, media_bytes, media })
}

fn head(path: &Path) -> io::Result<Part> {
    let about = fs::symlink_metadata(path)?;
    if !about.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut head = vec![0; PartNote::BOX_BYTES];
    fs::File::open(path)?.read_exact(&mut head)?;
    let (note, _) = PartNote::split(&head).ok_or(io::ErrorKind::InvalidData)?;
    let media_bytes = about.len().saturating_sub(u64::try_from(head.len()).unwrap_or(0));
    Ok(Part { note, presence: Presence::Here, media_bytes, media: None })
}
