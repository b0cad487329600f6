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
//! Names and contents that are not ours are passed over. What the system refuses for now is read again:
//! a directory with the next event, a part or an init segment with the part that follows.

use super::files::{self, Bodies, Caught, names};
use super::playlist::{Ending, parts_span_ms};
use super::rendition::{Added, Rendition, Standing};
use crate::output::hls::place::{FileName, InitHash, PartNumber, STREAM_FILE, StreamFile};
use bytes::Bytes;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use tasuki_shared::id::PublicName;
use tasuki_shared::limits::{DELIVERY_AGAIN_MAX, DELIVERY_MEDIA_BYTES_MAX, DELIVERY_STREAMS_MAX};
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
    /// Directories that could not be watched or listed.
    again: BTreeSet<Directory>,
    media_bytes: u64,
    /// Of all streams: a name that comes again begins with a version that nothing was made of.
    version: u64,
    /// Counts streams that were not known; whoever waits for one subscribes.
    begun: watch::Sender<u64>,
}

/// Below the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Directory {
    Application(PublicName),
    Stream(StreamKey),
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
        files::media(&self.directory, rendition, number)
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
            again: BTreeSet::new(),
            media_bytes: 0,
            version: 0,
            begun: watch::Sender::new(0),
        };
        catalogue.watch(root, Watched::Root)?;
        catalogue.read_all()?;
        Ok(catalogue)
    }

    #[must_use]
    pub fn stream(&self, key: &StreamKey) -> Option<&Stream> {
        self.streams.get(key)
    }

    /// Changes with each stream that was not known.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.begun.subscribe()
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Takes what has happened.
    pub fn look(&mut self) {
        for directory in self.again.clone() {
            match directory {
                Directory::Application(app) => self.read_application(app.as_str()),
                Directory::Stream((app, name)) => self.read_stream(&app, name.as_str()),
            }
        }
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                self.happened(&event);
            }
        }
    }

    fn happened(&mut self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            tracing::warn!("inotify dropped events; every directory is read again");
            if let Err(error) = self.read_all() {
                tracing::error!(%error, "the directory of all streams cannot be read");
            }
            return;
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
                } else if name == FileName::Stream && !self.streams.contains_key(&key) {
                    // It had to make room for others, and begins again.
                    self.read_stream(&key.0, key.1.as_str());
                } else {
                    self.appeared(&key, name, Bodies::Now);
                }
            }
        }
    }

    /// What is known of streams whose directories are gone is forgotten.
    fn read_all(&mut self) -> io::Result<()> {
        let gone = self.streams.iter().filter(|(_, stream)| !stream.directory.is_dir());
        for key in gone.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.forget(&key);
        }
        for name in names(&self.root)? {
            self.read_application(&name);
        }
        Ok(())
    }

    fn read_application(&mut self, name: &str) {
        let Ok(app) = PublicName::parse(name) else { return };
        let directory = self.root.join(name);
        let watched = self.watch(&directory, Watched::Application(app.clone()));
        let read = watched.and_then(|()| names(&directory));
        if let Some(found) = self.is_read(Directory::Application(app.clone()), read) {
            found.iter().for_each(|name| self.read_stream(&app, name));
        }
    }

    fn read_stream(&mut self, app: &PublicName, name: &str) {
        let Ok(name) = PublicName::parse(name) else { return };
        let directory = self.root.join(app.as_str()).join(name.as_str());
        let key = (app.clone(), name);
        if !self.streams.contains_key(&key) && !self.has_room(DELIVERY_STREAMS_MAX) {
            tracing::error!(most = DELIVERY_STREAMS_MAX, "too many streams: one is not served");
            return;
        }
        let watched = self.watch(&directory, Watched::Stream(key.clone()));
        let read = watched.and_then(|()| names(&directory));
        let Some(found) = self.is_read(Directory::Stream(key.clone()), read) else { return };
        let stream = self.streams.entry(key.clone()).or_insert_with(|| {
            self.begun.send_modify(|begun| *begun += 1);
            Stream {
                directory: directory.clone(),
                about: None,
                renditions: Vec::new(),
                ending: Ending::Open,
                changes: watch::Sender::new(self.version),
            }
        });
        // Said again below where it still holds.
        stream.ending = Ending::Open;
        stream.renditions.iter_mut().for_each(|it| it.standing = Standing::Here);
        let mut found: Vec<FileName> =
            found.iter().filter_map(|name| FileName::parse(name)).collect();
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

    /// What a directory has; one that may have it later is noted.
    fn is_read<T>(&mut self, directory: Directory, read: io::Result<T>) -> Option<T> {
        match read {
            Ok(found) => {
                self.again.remove(&directory);
                return Some(found);
            }
            Err(error) if !files::is_passing(&error) => {
                self.again.remove(&directory);
            }
            Err(error) if self.again.len() < DELIVERY_AGAIN_MAX => {
                if self.again.insert(directory.clone()) {
                    tracing::warn!(?directory, %error, "a directory cannot be read yet");
                }
            }
            Err(_) => {}
        }
        None
    }

    /// For one more stream; of those that have ended the one that did so first is given up for it. Its
    /// directory stays watched, for it may begin again.
    pub(super) fn has_room(&mut self, streams_max: usize) -> bool {
        if self.streams.len() < streams_max {
            return true;
        }
        let ended = self.streams.iter().filter(|(_, stream)| stream.ending == Ending::Ended);
        let first = ended.min_by_key(|(_, stream)| stream.version()).map(|(key, _)| key.clone());
        let Some(key) = first else { return false };
        self.forget(&key);
        true
    }

    fn forget(&mut self, key: &StreamKey) {
        if let Some(stream) = self.streams.remove(key) {
            // Those who wait are told by the end of the channel.
            self.media_bytes = self.media_bytes.saturating_sub(stream.kept_bytes());
        }
    }

    fn appeared(&mut self, key: &StreamKey, name: FileName, bodies: Bodies) {
        let bodies =
            if self.media_bytes < DELIVERY_MEDIA_BYTES_MAX { bodies } else { Bodies::Later };
        self.change(key, |stream| match name {
            FileName::Stream => stream.described(),
            FileName::Init { label, hash } => stream.add_init(&label, hash),
            FileName::Part { label, number } => stream.add_part(&label, number, bodies),
            FileName::Left { label } => stream.left(&label),
            FileName::Ended => {
                stream.ending = Ending::Ended;
                stream.renditions.iter_mut().for_each(Rendition::forget_bodies);
                true
            }
        });
    }

    fn removed(&mut self, key: &StreamKey, name: &FileName) {
        self.change(key, |stream| match name {
            // Another session goes on under the name.
            FileName::Ended => {
                stream.ending = Ending::Open;
                true
            }
            FileName::Left { label } => {
                if let Some(rendition) = stream.rendition_mut(label) {
                    rendition.standing = Standing::Here;
                }
                true
            }
            FileName::Init { label, hash } => {
                if let Some(rendition) = stream.rendition_mut(label) {
                    rendition.inits.remove(hash);
                }
                false
            }
            FileName::Part { label, number } => {
                if let Some(rendition) = stream.rendition_mut(label) {
                    rendition.removed(*number);
                }
                true
            }
            FileName::Stream => false,
        });
    }

    /// Changes a stream, if it is known; `change` says whether anything became of it.
    fn change(&mut self, key: &StreamKey, change: impl FnOnce(&mut Stream) -> bool) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let before = stream.kept_bytes();
        let changed = change(stream);
        self.media_bytes = (self.media_bytes + stream.kept_bytes()).saturating_sub(before);
        if changed {
            self.version += 1;
            stream.changes.send_replace(self.version);
        }
    }
}

impl Stream {
    /// What the bodies in memory take.
    fn kept_bytes(&self) -> u64 {
        self.renditions.iter().map(Rendition::kept_bytes).sum()
    }

    fn rendition_mut(&mut self, label: &PublicName) -> Option<&mut Rendition> {
        self.renditions.iter_mut().find(|rendition| rendition.label == *label)
    }

    fn described(&mut self) -> bool {
        let path = self.directory.join(STREAM_FILE);
        let about = files::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice::<StreamFile>(&text).ok());
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

    fn add_init(&mut self, label: &PublicName, hash: InitHash) -> bool {
        let directory = self.directory.clone();
        let Some(rendition) = self.rendition_mut(label) else { return false };
        let Some(init) = files::init(&directory, rendition, hash) else { return false };
        rendition.inits.insert(hash, init);
        true
    }

    fn add_part(&mut self, label: &PublicName, number: PartNumber, bodies: Bodies) -> bool {
        // It was there before any part was; reading it may have failed.
        if self.about.is_none() && !self.described() {
            return false;
        }
        let Self { directory, about: Some(about), renditions, ending, changes: _ } = self else {
            return false;
        };
        let (window_ms, near_ms) =
            (about.window_ms + 2 * about.target_ms, parts_span_ms(about.target_ms));
        let Some(rendition) = renditions.iter_mut().find(|it| it.label == *label) else {
            return false;
        };
        if rendition.next().is_some_and(|next| number < next) {
            return false;
        }
        // What cannot be read now is once more with the part that follows.
        let Ok(part) = files::part(directory, rendition, number, bodies) else { return false };
        match files::catch_up(directory, rendition, number, &part.note) {
            Caught::Up if rendition.add(number, part) == Added::Known => return false,
            Caught::Up | Caught::InPart => {}
        }
        rendition.age(window_ms, near_ms);
        // Whatever was said of an end, or lost of its being taken back.
        *ending = Ending::Open;
        true
    }

    fn left(&mut self, label: &PublicName) -> bool {
        let Some(rendition) = self.rendition_mut(label) else { return false };
        rendition.standing = Standing::Left;
        rendition.forget_bodies();
        true
    }
}
