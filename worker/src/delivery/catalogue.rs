//! Which streams there are and what they hold, kept up to date by inotify(7).
//!
//! ```text
//!   <root>/ ──▶ <application>/ ──▶ <name>/ ──▶ files (see `output::hls::place`)
//! ```
//!
//! Each directory is watched first and read afterwards, so nothing that appears in between is missed;
//! what is seen twice is known. When the kernel drops events, everything is read again. Nothing here
//! is kept anywhere else: a new process reads the notes of it all from the directories, and bodies when
//! they are asked for.
//!
//! Names and contents that are not ours are passed over.

use super::playlist::{Ending, parts_span_ms};
use super::rendition::{Added, Init, Part, Rendition, Standing};
use crate::output::hls::place::{FileName, InitHash, InitNote, PartNote, PartNumber, StreamFile};
use bytes::Bytes;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use tasuki_shared::id::PublicName;
use tasuki_shared::limits::{
    DELIVERY_FILE_BYTES_MAX, DELIVERY_MEDIA_BYTES_MAX, DELIVERY_STREAMS_MAX,
};
use tokio::sync::watch;

/// Application and name.
pub type StreamKey = (PublicName, PublicName);

/// A rendition that has none of its own by then is not waited for.
const SEGMENTS_WAITED: usize = 2;

/// One stream's directory.
pub struct Stream {
    directory: PathBuf,
    /// `None` before its file is there.
    pub about: Option<StreamFile>,
    pub renditions: Vec<Rendition>,
    pub ending: Ending,
    /// Counts changes; whoever waits for one subscribes.
    changes: watch::Sender<u64>,
}

/// See the module.
pub struct Catalogue {
    root: PathBuf,
    inotify: Inotify,
    watches: HashMap<WatchDescriptor, Watched>,
    streams: BTreeMap<StreamKey, Stream>,
    media_bytes: u64,
    /// Of all streams: a name that comes again begins with a version that nothing was made of.
    version: u64,
}

/// When a part's body is read: as soon as it is there, for everybody wants it then, or when somebody
/// asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bodies {
    Now,
    Later,
}

#[derive(Clone, Debug)]
enum Watched {
    Root,
    Application(PublicName),
    Stream(StreamKey),
}

impl Stream {
    #[must_use]
    pub fn version(&self) -> u64 {
        *self.changes.borrow()
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    #[must_use]
    pub fn rendition(&self, label: &PublicName) -> Option<&Rendition> {
        self.renditions.iter().find(|rendition| rendition.label == *label)
    }

    /// The renditions that a viewer may choose from: all, once they have what they need. One that has
    /// nothing when another has several segments is switched off, and is left out.
    #[must_use]
    pub fn offer(&self) -> Option<Vec<&Rendition>> {
        let here = || self.renditions.iter().filter(|it| it.standing == Standing::Here);
        let waited = here().any(|it| it.segments.len() > SEGMENTS_WAITED);
        let offer: Vec<_> = here().filter(|it| it.is_ready()).collect();
        (!offer.is_empty() && (waited || offer.len() == here().count())).then_some(offer)
    }

    /// What a player gets of a part; read from its file if it is older.
    #[must_use]
    pub fn media_of(&self, rendition: &Rendition, number: PartNumber) -> Option<Bytes> {
        if let Some(media) = &rendition.part(number)?.media {
            return Some(media.clone());
        }
        let name = FileName::Part { label: rendition.label.clone(), number };
        let file = read(&self.directory.join(name.to_string())).ok()?;
        let (_, media) = PartNote::split(&file)?;
        let start = file.len() - media.len();
        Some(file.slice(start..))
    }
}

impl Catalogue {
    /// Reads everything below `root`, which is made if it is not there.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut catalogue = Self {
            root: root.to_owned(),
            inotify,
            watches: HashMap::new(),
            streams: BTreeMap::new(),
            media_bytes: 0,
            version: 0,
        };
        catalogue.watch(root, Watched::Root)?;
        catalogue.read_all();
        Ok(catalogue)
    }

    #[must_use]
    pub fn stream(&self, key: &StreamKey) -> Option<&Stream> {
        self.streams.get(key)
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Takes what has happened.
    pub fn look(&mut self) {
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                self.happened(&event);
            }
        }
    }

    fn happened(&mut self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            tracing::warn!("inotify dropped events; every directory is read again");
            return self.read_all();
        }
        let Some(watched) = self.watches.get(&event.wd).cloned() else { return };
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.watches.remove(&event.wd);
            // One that is watched again already is another directory of the same name.
            if let Watched::Stream(key) = watched
                && !self.watches.values().any(|it| matches!(it, Watched::Stream(it) if *it == key))
            {
                self.forget(&key);
            }
            return;
        }
        let Some(name) = event.name.as_ref().and_then(|name| name.to_str()) else { return };
        let gone = event.mask.contains(AddWatchFlags::IN_DELETE);
        match watched {
            Watched::Root if !gone => self.read_application(name),
            Watched::Application(app) if !gone => self.read_stream(&app, name),
            Watched::Root | Watched::Application(_) => {}
            Watched::Stream(key) => {
                let Some(name) = FileName::parse(name) else { return };
                if gone {
                    self.removed(&key, &name);
                } else {
                    self.appeared(&key, name, Bodies::Now);
                }
            }
        }
    }

    /// What is known of streams whose directories are gone is forgotten.
    fn read_all(&mut self) {
        let gone = self.streams.iter().filter(|(_, stream)| !stream.directory.is_dir());
        for key in gone.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.forget(&key);
        }
        for name in names(&self.root) {
            self.read_application(&name);
        }
    }

    fn read_application(&mut self, name: &str) {
        let Ok(app) = PublicName::parse(name) else { return };
        let directory = self.root.join(name);
        if self.watch(&directory, Watched::Application(app.clone())).is_err() {
            return;
        }
        for name in names(&directory) {
            self.read_stream(&app, &name);
        }
    }

    fn read_stream(&mut self, app: &PublicName, name: &str) {
        let Ok(name) = PublicName::parse(name) else { return };
        let directory = self.root.join(app.as_str()).join(name.as_str());
        let key = (app.clone(), name);
        if !self.streams.contains_key(&key) && self.streams.len() >= DELIVERY_STREAMS_MAX {
            tracing::error!(most = DELIVERY_STREAMS_MAX, "too many streams: one is not served");
            return;
        }
        if self.watch(&directory, Watched::Stream(key.clone())).is_err() {
            return;
        }
        let stream = self.streams.entry(key.clone()).or_insert_with(|| Stream {
            directory: directory.clone(),
            about: None,
            renditions: Vec::new(),
            ending: Ending::Open,
            changes: watch::channel(self.version).0,
        });
        // Said again below where it still holds.
        stream.ending = Ending::Open;
        stream.renditions.iter_mut().for_each(|it| it.standing = Standing::Here);
        let mut found: Vec<FileName> =
            names(&directory).iter().filter_map(|name| FileName::parse(name)).collect();
        // What parts refer to first, then parts in their order, what is said of the whole last.
        found.sort_by_key(|name| match name {
            FileName::Stream => (0, PartNumber { segment: 0, part: 0 }),
            FileName::Init { .. } => (1, PartNumber { segment: 0, part: 0 }),
            FileName::Part { number, .. } => (2, *number),
            FileName::Left { .. } => (3, PartNumber { segment: 0, part: 0 }),
            FileName::Ended => (4, PartNumber { segment: 0, part: 0 }),
        });
        for name in found {
            self.appeared(&key, name, Bodies::Later);
        }
    }

    fn watch(&mut self, directory: &Path, what: Watched) -> io::Result<()> {
        let flags = AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE;
        match self.inotify.add_watch(directory, flags) {
            Ok(watch) => {
                self.watches.insert(watch, what);
                Ok(())
            }
            Err(error) => {
                if error == nix::errno::Errno::ENOSPC {
                    tracing::error!("no inotify watch is left: raise fs.inotify.max_user_watches");
                }
                Err(error.into())
            }
        }
    }

    fn forget(&mut self, key: &StreamKey) {
        if let Some(stream) = self.streams.remove(key) {
            // Those who wait are told by the end of the channel.
            self.media_bytes = self.media_bytes.saturating_sub(kept_bytes(&stream.renditions));
        }
    }

    fn appeared(&mut self, key: &StreamKey, name: FileName, bodies: Bodies) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let path = stream.directory.join(name.to_string());
        let before = kept_bytes(&stream.renditions);
        let bodies =
            if self.media_bytes < DELIVERY_MEDIA_BYTES_MAX { bodies } else { Bodies::Later };
        let changed = match name {
            FileName::Stream => stream.described(&path),
            FileName::Init { label, hash } => stream.add_init(&label, hash, &path),
            FileName::Part { label, number } => stream.add_part(&label, number, &path, bodies),
            FileName::Left { label } => stream.left(&label),
            FileName::Ended => {
                stream.ending = Ending::Ended;
                stream.renditions.iter_mut().for_each(Rendition::forget_bodies);
                true
            }
        };
        let after = kept_bytes(&stream.renditions);
        self.media_bytes = (self.media_bytes + after).saturating_sub(before);
        if changed {
            self.version += 1;
            stream.changes.send_replace(self.version);
        }
    }

    fn removed(&mut self, key: &StreamKey, name: &FileName) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        match name {
            // Another session goes on under the name.
            FileName::Ended => stream.ending = Ending::Open,
            FileName::Left { label } => {
                if let Some(rendition) = stream.rendition_mut(label) {
                    rendition.standing = Standing::Here;
                }
            }
            FileName::Init { label, hash } => {
                if let Some(rendition) = stream.rendition_mut(label) {
                    rendition.inits.remove(hash);
                }
                return;
            }
            FileName::Part { label, number } => {
                if let Some(rendition) = stream.rendition_mut(label) {
                    rendition.removed(*number);
                }
            }
            FileName::Stream => return,
        }
        self.version += 1;
        stream.changes.send_replace(self.version);
    }
}

impl Stream {
    fn rendition_mut(&mut self, label: &PublicName) -> Option<&mut Rendition> {
        self.renditions.iter_mut().find(|rendition| rendition.label == *label)
    }

    fn described(&mut self, path: &Path) -> bool {
        let about =
            read(path).ok().and_then(|text| serde_json::from_slice::<StreamFile>(&text).ok());
        let Some(about) = about else {
            tracing::warn!(path = %path.display(), "this file of a stream cannot be read");
            return false;
        };
        let mut known = std::mem::take(&mut self.renditions);
        for file in &about.renditions {
            let at = known.iter().position(|rendition| rendition.label == file.label);
            let mut rendition = match at {
                Some(at) => known.swap_remove(at),
                None => Rendition::new(file.label.clone(), file.kind),
            };
            rendition.kind = file.kind;
            self.renditions.push(rendition);
        }
        self.about = Some(about);
        true
    }

    fn add_init(&mut self, label: &PublicName, hash: InitHash, path: &Path) -> bool {
        let Some(rendition) = self.rendition_mut(label) else { return false };
        let Ok(file) = read(path) else { return false };
        let Some((note, media)) = InitNote::split(&file) else { return false };
        let media = file.slice(file.len() - media.len()..);
        rendition.inits.insert(hash, Init { note, media });
        true
    }

    fn add_part(
        &mut self,
        label: &PublicName,
        number: PartNumber,
        path: &Path,
        bodies: Bodies,
    ) -> bool {
        let Some(about) = &self.about else { return false };
        let (window_ms, near_ms) =
            (about.window_ms + 2 * about.target_ms, parts_span_ms(about.target_ms));
        let Some(rendition) = self.rendition_mut(label) else { return false };
        if rendition.next().is_some_and(|next| number < next) {
            return false;
        }
        let Some(part) = read_part(path, bodies) else {
            tracing::warn!(path = %path.display(), "this part cannot be read");
            return false;
        };
        if rendition.add(number, part) == Added::Known {
            return false;
        }
        rendition.age(window_ms, near_ms);
        // Whatever was said of an end, or lost of its being taken back.
        self.ending = Ending::Open;
        true
    }

    fn left(&mut self, label: &PublicName) -> bool {
        let Some(rendition) = self.rendition_mut(label) else { return false };
        rendition.standing = Standing::Left;
        rendition.forget_bodies();
        true
    }
}

/// What the bodies in memory take.
fn kept_bytes(renditions: &[Rendition]) -> u64 {
    let parts = renditions.iter().flat_map(Rendition::parts);
    parts.filter(|part| part.media.is_some()).map(|part| part.media_bytes).sum()
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A part with its note, and with its body if that is wanted now.
fn read_part(path: &Path, bodies: Bodies) -> Option<Part> {
    match bodies {
        Bodies::Now => {
            let file = read(path).ok()?;
            let (note, media) = PartNote::split(&file)?;
            let media_bytes = u64::try_from(media.len()).ok()?;
            let media = Some(file.slice(file.len() - media.len()..));
            Some(Part { note, media_bytes, media })
        }
        Bodies::Later => {
            let about = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
            let mut head = vec![0; PartNote::BOX_BYTES];
            fs::File::open(path).ok()?.read_exact(&mut head).ok()?;
            let (note, _) = PartNote::split(&head)?;
            let media_bytes = about.len() - u64::try_from(head.len()).ok()?;
            Some(Part { note, media_bytes, media: None })
        }
    }
}

/// A file that cannot be ours is not read.
fn read(path: &Path) -> io::Result<Bytes> {
    let about = fs::symlink_metadata(path)?;
    if !about.is_file() || about.len() > DELIVERY_FILE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    fs::read(path).map(Bytes::from)
}
