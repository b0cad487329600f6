//! The files of a stream's HLS directory, as its packager's thread writes and removes them.
//!
//! A file is written whole under a name that nobody reads, then renamed; the rename replaces
//! nothing, so that it also says who was first. What is removed are whole segments, oldest first,
//! and init segments that no segment refers to any more.

mod directory;
mod sweep;

pub use directory::{Directory, Files};
pub use sweep::sweep;
#[cfg(test)]
use sweep::sweep_at_most;

use super::place::{
    ENDED_FILE, FileName, InitHash, PartNote, PartNumber, STREAM_FILE, StreamFile,
    UNFINISHED_PREFIX,
};
use crate::output::record::SeriesId;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use tasuki_shared::id::PublicName;
use tasuki_shared::limits::HLS_TORN_PARTS_MAX;

/// Whose the directory is; for owners only, delivery passes it over.
const SERIES_FILE: &str = ".series";

/// Who made a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Ours,
    /// Another owner was first.
    Theirs,
}

/// Is the directory one that this stream has been in already?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// By this or another owner.
    Again,
    FirstTime,
}

/// The last part of a rendition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    pub number: PartNumber,
    /// `None`: it cannot be read, or is not ours.
    pub note: Option<PartNote>,
}

pub struct Store<F> {
    files: F,
    series: SeriesId,
    /// One for each label.
    kept: Vec<Kept>,
}

struct Kept {
    label: PublicName,
    segments: BTreeMap<u64, Segment>,
    inits: BTreeSet<InitHash>,
    /// Made last: the next part refers to it.
    init_next: Option<InitHash>,
    has_left: HasLeft,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HasLeft {
    No,
    Yes,
}

#[derive(Clone, Debug, Default)]
struct Segment {
    parts: BTreeSet<u32>,
    /// Of one of its parts, once one was read.
    about: Option<About>,
}

#[derive(Clone, Copy, Debug)]
struct About {
    init: InitHash,
    start_unix_ms: u64,
}

impl<F: Files> Store<F> {
    /// Looks at what is there; what a stream that is over said of itself is removed.
    pub fn open(
        files: F,
        labels: &[PublicName],
        series: SeriesId,
        about: &StreamFile,
    ) -> Result<(Self, Opened), (F, io::Error)> {
        let mut store = Self { files, series, kept: kept_of(labels) };
        let mut opened = store.begin(about);
        if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            // It was swept in between, as one that nobody is in.
            store.kept = kept_of(labels);
            opened = store.begin(about);
        }
        match opened {
            Ok(opened) => Ok((store, opened)),
            Err(error) => Err((store.files, error)),
        }
    }

    /// Gives the files back, to be opened again.
    pub fn into_files(self) -> F {
        self.files
    }

    /// What the renditions have in common.
    pub fn describe(&mut self, about: &StreamFile) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(about).map_err(io::Error::other)?;
        self.files.replace(STREAM_FILE, &text)
    }

    #[must_use]
    pub fn newest(&self, rendition: usize) -> Option<Newest> {
        let kept = self.kept.get(rendition)?;
        let (&segment, parts) = kept.segments.last_key_value()?;
        let number = PartNumber { segment, part: parts.parts.last().copied()? };
        Some(Newest { number, note: self.note(rendition, number) })
    }

    /// The last part that can be read, of ours or not: after a power cut the newest ones are torn.
    #[must_use]
    pub fn newest_read(&self, rendition: usize) -> Option<(PartNumber, PartNote)> {
        let segments = self.kept.get(rendition)?.segments.iter().rev();
        let numbers = segments.flat_map(|(&segment, parts)| {
            parts.parts.iter().rev().map(move |&part| PartNumber { segment, part })
        });
        let mut tried = numbers.take(HLS_TORN_PARTS_MAX);
        tried.find_map(|number| Some((number, self.note(rendition, number)?)))
    }

    /// What a part says of itself.
    #[must_use]
    pub fn note(&self, rendition: usize, number: PartNumber) -> Option<PartNote> {
        let label = self.kept.get(rendition)?.label.clone();
        let name = FileName::Part { label, number }.to_string();
        let head = self.files.head(&name, PartNote::BOX_BYTES).ok()?;
        PartNote::split(&head).map(|(note, _)| note)
    }

    /// Where those parts begin that have the number of discontinuities of this one, which is the last
    /// that can be read.
    #[must_use]
    pub fn break_start_ms(&self, rendition: usize, last: PartNumber, note: &PartNote) -> i64 {
        let Some(kept) = self.kept.get(rendition) else { return note.start_ms };
        let segments: Vec<_> = kept.segments.range(..=last.segment).collect();
        let first = |(segment, about): &(&u64, &Segment)| {
            let number = PartNumber { segment: **segment, part: about.parts.first().copied()? };
            self.note(rendition, number)
        };
        // They never go back, and reading one note of an hour's segments each would take its time.
        let at = segments.partition_point(|segment| {
            first(segment).is_none_or(|first| {
                first.series != note.series || first.discontinuities < note.discontinuities
            })
        });
        let found = segments.get(at).and_then(first);
        found.map_or(note.start_ms, |first| first.start_ms)
    }

    /// Is what another owner made of a part what we made? Two places with nothing in between that a
    /// cursor gives may differ.
    #[must_use]
    pub fn is_same(
        &self,
        rendition: usize,
        number: PartNumber,
        note: &PartNote,
        file: &[u8],
    ) -> bool {
        let Some(kept) = self.kept.get(rendition) else { return false };
        let name = FileName::Part { label: kept.label.clone(), number }.to_string();
        let Ok(theirs) = self.files.read(&name) else { return false };
        let (Some((found, media)), Some((_, ours))) =
            (PartNote::split(&theirs), PartNote::split(file))
        else {
            return false;
        };
        PartNote { place: note.place, ..found } == *note && media == ours
    }

    #[must_use]
    pub fn has_left(&self, rendition: usize) -> bool {
        self.kept.get(rendition).is_some_and(|kept| kept.has_left == HasLeft::Yes)
    }

    pub fn init(&self, rendition: usize, hash: InitHash) -> io::Result<Vec<u8>> {
        let label = self.kept.get(rendition).map(|kept| kept.label.clone());
        let label = label.ok_or(io::ErrorKind::NotFound)?;
        self.files.read(&FileName::Init { label, hash }.to_string())
    }

    pub fn put_init(&mut self, rendition: usize, hash: InitHash, file: &[u8]) -> io::Result<()> {
        let Some(kept) = self.kept.get_mut(rendition) else { return Ok(()) };
        let name = FileName::Init { label: kept.label.clone(), hash }.to_string();
        // Its name says what is in it, so it does not matter who was first. One that was there may be
        // gone: an owner before has removed what no part of its own referred to.
        self.files.commit(&name, file)?;
        kept.inits.insert(hash);
        kept.init_next = Some(hash);
        Ok(())
    }

    pub fn put_part(
        &mut self,
        rendition: usize,
        number: PartNumber,
        note: &PartNote,
        file: &[u8],
    ) -> io::Result<Put> {
        let Some(kept) = self.kept.get_mut(rendition) else { return Ok(Put::Ours) };
        let name = FileName::Part { label: kept.label.clone(), number }.to_string();
        let put = self.files.commit(&name, file)?;
        let segment = kept.segments.entry(number.segment).or_default();
        segment.parts.insert(number.part);
        let PartNote { init, start_unix_ms, .. } = *note;
        segment.about.get_or_insert(About { init, start_unix_ms });
        Ok(put)
    }

    pub fn leave(&mut self, rendition: usize, why: &str) -> io::Result<()> {
        let Some(kept) = self.kept.get_mut(rendition) else { return Ok(()) };
        kept.has_left = HasLeft::Yes;
        let name = FileName::Left { label: kept.label.clone() }.to_string();
        self.files.commit(&name, why.as_bytes()).map(|_| ())
    }

    /// Says that nothing follows, unless a new stream has the directory already.
    pub fn end(&mut self) -> io::Result<()> {
        if self.files.read(SERIES_FILE).is_ok_and(|found| found == self.series.0) {
            self.files.commit(ENDED_FILE, b"")?;
        }
        Ok(())
    }

    /// Removes what is older than `keep_ms` behind the newest part of its rendition. Returns the
    /// number of segments.
    pub fn retire(&mut self, keep_ms: u64) -> usize {
        (0..self.kept.len()).map(|rendition| self.retire_of(rendition, keep_ms)).sum()
    }

    fn begin(&mut self, about: &StreamFile) -> io::Result<Opened> {
        self.files.create_directory()?;
        let opened = match self.files.read(SERIES_FILE) {
            Ok(found) if found == self.series.0 => Opened::Again,
            Ok(_) => Opened::FirstTime,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Opened::FirstTime,
            Err(error) => return Err(error),
        };
        for name in self.files.names()? {
            if name.starts_with(UNFINISHED_PREFIX) {
                if !directory::is_being_written(&name) {
                    self.files.remove(&name)?;
                }
                continue;
            }
            self.look_at(&name, opened)?;
        }
        if opened == Opened::FirstTime {
            // Last, so that whoever dies here is followed by one that does the same.
            self.files.replace(SERIES_FILE, &self.series.0)?;
        }
        self.describe(about)?;
        Ok(opened)
    }

    fn look_at(&mut self, name: &str, opened: Opened) -> io::Result<()> {
        let Some(parsed) = FileName::parse(name) else { return Ok(()) };
        let kept = &mut self.kept;
        match (parsed, opened) {
            (FileName::Part { label, number }, _) => match of(kept, &label) {
                Some(kept) => {
                    let segment = kept.segments.entry(number.segment).or_default();
                    segment.parts.insert(number.part);
                }
                None => self.abandoned(name, opened)?,
            },
            (FileName::Init { label, hash }, _) => match of(kept, &label) {
                Some(kept) => {
                    kept.inits.insert(hash);
                }
                None => self.abandoned(name, opened)?,
            },
            (FileName::Left { .. } | FileName::Ended, Opened::FirstTime) => {
                self.files.remove(name)?;
            }
            (FileName::Left { label }, Opened::Again) => {
                if let Some(kept) = of(kept, &label) {
                    kept.has_left = HasLeft::Yes;
                }
            }
            // It ended, and goes on: a verdict that came too late.
            (FileName::Ended, Opened::Again) => self.files.remove(name)?,
            (FileName::Stream, _) => {}
        }
        Ok(())
    }

    /// Of a rendition that this stream does not have: nobody else would ever remove it.
    fn abandoned(&self, name: &str, opened: Opened) -> io::Result<()> {
        match opened {
            Opened::FirstTime => self.files.remove(name),
            Opened::Again => Ok(()),
        }
    }

    fn retire_of(&mut self, rendition: usize, keep_ms: u64) -> usize {
        let newest = self.newest_segment(rendition);
        let Some((newest, Some(About { start_unix_ms: newest_ms, init: current }))) = newest else {
            return 0;
        };
        let mut removed = 0;
        while let Some(oldest) = self.kept[rendition].segments.keys().next().copied() {
            if oldest == newest {
                break;
            }
            // A part that cannot be read is of no use to anybody. With the clock set back since,
            // an old one seems to be of the future.
            let age_ms = |about: About| newest_ms.abs_diff(about.start_unix_ms);
            if self.about(rendition, oldest).is_some_and(|about| age_ms(about) <= keep_ms) {
                break;
            }
            self.remove_segment(rendition, oldest);
            removed += 1;
        }
        if removed > 0 {
            self.retire_inits(rendition, current);
        }
        removed
    }

    fn newest_segment(&mut self, rendition: usize) -> Option<(u64, Option<About>)> {
        let newest = *self.kept.get(rendition)?.segments.last_key_value()?.0;
        Some((newest, self.about(rendition, newest)))
    }

    fn about(&mut self, rendition: usize, segment: u64) -> Option<About> {
        let known = self.kept.get(rendition)?.segments.get(&segment)?;
        if let Some(about) = known.about {
            return Some(about);
        }
        let number = PartNumber { segment, part: known.parts.first().copied()? };
        let PartNote { init, start_unix_ms, .. } = self.note(rendition, number)?;
        let about = About { init, start_unix_ms };
        self.kept[rendition].segments.get_mut(&segment)?.about = Some(about);
        Some(about)
    }

    fn remove_segment(&mut self, rendition: usize, segment: u64) {
        let Some(kept) = self.kept.get_mut(rendition) else { return };
        let Some(found) = kept.segments.remove(&segment) else { return };
        // The last part first: a segment in part is still read from its start.
        for part in found.parts.into_iter().rev() {
            let number = PartNumber { segment, part };
            let name = FileName::Part { label: kept.label.clone(), number }.to_string();
            let _gone_or_tried_by_the_next_owner = self.files.remove(&name);
        }
    }

    fn retire_inits(&mut self, rendition: usize, current: InitHash) {
        if self.kept[rendition].inits.len() < 2 {
            return;
        }
        let segments: Vec<_> = self.kept[rendition].segments.keys().copied().collect();
        let mut used = BTreeSet::from([current]);
        used.extend(self.kept[rendition].init_next);
        for segment in segments {
            used.extend(self.about(rendition, segment).map(|about| about.init));
        }
        let Kept { label, inits, segments: _, init_next: _, has_left: _ } =
            &mut self.kept[rendition];
        for hash in inits.iter().filter(|hash| !used.contains(hash)) {
            let name = FileName::Init { label: label.clone(), hash: *hash }.to_string();
            let _gone_or_tried_by_the_next_owner = self.files.remove(&name);
        }
        inits.retain(|hash| used.contains(hash));
    }
}

/// Of nothing yet.
fn kept_of(labels: &[PublicName]) -> Vec<Kept> {
    let kept = |label: &PublicName| Kept {
        label: label.clone(),
        segments: BTreeMap::new(),
        inits: BTreeSet::new(),
        init_next: None,
        has_left: HasLeft::No,
    };
    labels.iter().map(kept).collect()
}

fn of<'a>(kept: &'a mut [Kept], label: &PublicName) -> Option<&'a mut Kept> {
    kept.iter_mut().find(|kept| kept.label == *label)
}

#[cfg(test)]
pub(super) mod tests;
