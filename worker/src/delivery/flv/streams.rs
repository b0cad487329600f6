//! Live streams whose logs viewers read, as the supervisor tells of them.
//!
//! The logs are mapped read-only. So nothing here can be seen by their writer, who therefore cannot
//! wake anybody either: while a stream has viewers its heads are looked at by one timer for all.
//! Without viewers nothing runs.

use crate::delivery::catalogue::StreamKey;
use crate::output::cursor::{Feed, LogName, Logs, PipelineState, StreamEnd};
use crate::session::stream::feed_of;
use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tasuki_shared::id::{PublicName, RungId, SessionId};
use tasuki_shared::limits::{
    AUDIENCE_STREAMS_MAX, DELIVERY_STREAMS_MAX, FLV_LOOK_INTERVAL, FLV_STALL_MAX,
};
use tasuki_shared::memory::MemoryError;
use tasuki_shared::memory::log::{LogReader, RungState};
use tasuki_shared::memory::map::Access;
use tasuki_shared::plan::{LogKind, Plan, RungKind};
use tokio::sync::{Notify, watch};

/// Why a stream cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("{found} fds came with the plan, {expected} are needed")]
    Fds { found: usize, expected: usize },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("there are {DELIVERY_STREAMS_MAX} already")]
    TooMany,
    #[error("its application has a name that no address can have")]
    Application,
}

/// What became of a rung, for whoever asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendition {
    Reads(Feed),
    /// Not known yet.
    Later,
    Off,
}

/// One live stream.
pub struct LiveStream {
    session: SessionId,
    key: StreamKey,
    plan: Plan,
    logs: RefCell<Logs<LogReader>>,
    end: Cell<StreamEnd>,
    viewers: Cell<u32>,
    /// Heads when they were looked at last.
    seen: RefCell<Vec<u64>>,
    /// The newest picture of the source, once one was seen.
    newest_picture: Cell<Option<u64>>,
    /// Counts changes; viewers subscribe.
    changes: watch::Sender<u64>,
}

/// All of them.
pub struct Streams {
    live: RefCell<HashMap<SessionId, Rc<LiveStream>>>,
    names: RefCell<HashMap<StreamKey, SessionId>>,
    viewers: Cell<u32>,
    /// Times that a log overtook a viewer.
    pub jumps: Cell<u64>,
    /// Viewers closed for taking nothing.
    pub stalled: Cell<u64>,
    /// The first viewer has come.
    watched: Notify,
    /// How long a viewer may take nothing.
    pub stall_max: Duration,
}

/// A viewer of a stream, counted while it is there.
pub struct Watching {
    streams: Rc<Streams>,
    stream: Rc<LiveStream>,
}

impl Default for Streams {
    fn default() -> Self {
        Self::new(FLV_STALL_MAX)
    }
}

impl Streams {
    #[must_use]
    pub fn new(stall_max: Duration) -> Self {
        Self {
            live: RefCell::default(),
            names: RefCell::default(),
            viewers: Cell::new(0),
            jumps: Cell::new(0),
            stalled: Cell::new(0),
            watched: Notify::new(),
            stall_max,
        }
    }

    /// A stream is live. Whoever asks for its name from now on gets this one.
    pub fn live(&self, session: SessionId, plan: Plan, fds: &[OwnedFd]) -> Result<(), StreamError> {
        let mut live = self.live.borrow_mut();
        if live.len() >= DELIVERY_STREAMS_MAX {
            return Err(StreamError::TooMany);
        }
        let app = PublicName::parse(&plan.app).map_err(|_| StreamError::Application)?;
        let key = (app, plan.name.clone());
        let logs = open_logs(&plan, fds)?;
        let stream = LiveStream {
            session,
            key: key.clone(),
            plan,
            logs: RefCell::new(logs),
            end: Cell::new(StreamEnd::Going),
            viewers: Cell::new(0),
            seen: RefCell::default(),
            newest_picture: Cell::new(None),
            changes: watch::channel(0).0,
        };
        live.insert(session, Rc::new(stream));
        self.names.borrow_mut().insert(key, session);
        Ok(())
    }

    /// Nothing more comes in its logs; its viewers get what is left.
    pub fn gone(&self, session: SessionId) {
        let Some(stream) = self.live.borrow_mut().remove(&session) else { return };
        let mut names = self.names.borrow_mut();
        if names.get(&stream.key) == Some(&session) {
            names.remove(&stream.key);
        }
        stream.end.set(StreamEnd::Over);
        stream.look();
        stream.changes.send_modify(|changes| *changes += 1);
    }

    #[must_use]
    pub fn find(&self, key: &StreamKey) -> Option<Rc<LiveStream>> {
        let session = *self.names.borrow().get(key)?;
        self.live.borrow().get(&session).map(Rc::clone)
    }

    #[must_use]
    pub fn viewers(&self) -> u32 {
        self.viewers.get()
    }

    /// Viewers of the live streams that have any; of very many streams those with the most.
    #[must_use]
    pub fn by_session(&self) -> Vec<(SessionId, u32)> {
        let live = self.live.borrow();
        let all = live.values().map(|stream| (stream.session, stream.viewers()));
        let mut watched: Vec<_> = all.filter(|(_, viewers)| *viewers > 0).collect();
        if watched.len() > AUDIENCE_STREAMS_MAX {
            watched.sort_unstable_by_key(|(_, viewers)| std::cmp::Reverse(*viewers));
            watched.truncate(AUDIENCE_STREAMS_MAX);
        }
        watched
    }

    /// Counts one more viewer.
    #[must_use]
    pub fn watch(self: &Rc<Self>, stream: Rc<LiveStream>) -> Watching {
        self.viewers.set(self.viewers.get() + 1);
        stream.viewers.set(stream.viewers.get() + 1);
        // What was not looked at may be long past.
        stream.look();
        self.watched.notify_one();
        Watching { streams: Rc::clone(self), stream }
    }

    /// Looks at what is watched, while anything is.
    pub async fn follow(self: Rc<Self>) {
        let mut looks = tokio::time::interval(FLV_LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            while self.viewers.get() == 0 {
                self.watched.notified().await;
            }
            looks.tick().await;
            for stream in self.live.borrow().values() {
                if stream.viewers.get() > 0 {
                    stream.look();
                }
            }
        }
    }
}

impl Watching {
    #[must_use]
    pub fn stream(&self) -> &LiveStream {
        &self.stream
    }

    #[must_use]
    pub fn stall_max(&self) -> Duration {
        self.streams.stall_max
    }

    /// Its viewer was overtaken by a log.
    pub fn count_jump(&self) {
        self.streams.jumps.set(self.streams.jumps.get() + 1);
    }

    /// Its viewer is closed for taking nothing.
    pub fn count_stall(&self) {
        self.streams.stalled.set(self.streams.stalled.get() + 1);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.streams.viewers.set(self.streams.viewers.get() - 1);
        self.stream.viewers.set(self.stream.viewers.get() - 1);
    }
}

impl LiveStream {
    #[must_use]
    pub fn key(&self) -> &StreamKey {
        &self.key
    }

    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    #[must_use]
    pub fn viewers(&self) -> u32 {
        self.viewers.get()
    }

    #[must_use]
    pub fn end(&self) -> StreamEnd {
        self.end.get()
    }

    #[must_use]
    pub fn logs(&self) -> Ref<'_, Logs<LogReader>> {
        self.logs.borrow()
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Has it a directory of HLS, or will have one?
    #[must_use]
    pub fn is_packaged(&self) -> bool {
        self.plan.hls.is_some()
    }

    /// The rung of this label, or that of the source, if viewers may have it.
    #[must_use]
    pub fn rung(&self, label: Option<&PublicName>) -> Option<RungId> {
        let offered = self.plan.flv.as_ref()?.rungs.iter().copied();
        let mut found = offered.filter(|id| {
            self.plan.rung(*id).is_some_and(|rung| match label {
                Some(label) => rung.label == label.as_str(),
                None => rung.kind == RungKind::Source,
            })
        });
        found.next()
    }

    /// What a viewer of this rung reads.
    #[must_use]
    pub fn rendition(&self, rung: RungId) -> Rendition {
        use crate::ladder::{PassReason, RungDecision};
        let logs = self.logs.borrow();
        let Some(log) = logs.get(LogName::Rung(rung)) else {
            return Rendition::Reads(feed_of(&self.plan, rung, None));
        };
        let passes = RungDecision::Passing(PassReason::Matches);
        match log.rung() {
            RungState::Undecided => Rendition::Later,
            RungState::Encoded => Rendition::Reads(feed_of(&self.plan, rung, None)),
            RungState::Passes => Rendition::Reads(feed_of(&self.plan, rung, Some(&passes))),
            RungState::Off => Rendition::Off,
        }
    }

    /// Tells its viewers of what has come since the last look.
    fn look(&self) {
        let mut logs = self.logs.borrow_mut();
        let heads: Vec<u64> = logs.all().map(LogReader::head).collect();
        if *self.seen.borrow() != heads {
            self.follow_pictures(&logs.source);
            logs.pipeline = self.pipeline(&logs);
            *self.seen.borrow_mut() = heads;
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Which picture of the source is its newest.
    fn follow_pictures(&self, source: &LogReader) {
        let head = source.head();
        let seen = self.seen.borrow().first().copied().unwrap_or(0);
        let newest = (seen.max(source.oldest(0))..head)
            .rev()
            .filter_map(|index| source.entry(index).ok())
            .find(|entry| entry.kind.is_video_frame());
        if let Some(entry) = newest {
            self.newest_picture.set(Some(entry.index));
        }
    }

    /// May pictures that the source has still come out of the pipeline? An encoded picture says which
    /// one of the source it was.
    fn pipeline(&self, logs: &Logs<LogReader>) -> PipelineState {
        let Some(newest) = self.newest_picture.get() else { return PipelineState::Empty };
        let is_behind = |rung: &LogReader| {
            let last = rung.head().checked_sub(1).and_then(|index| rung.entry(index).ok());
            rung.rung() == RungState::Encoded && last.is_none_or(|last| last.mark < newest)
        };
        if logs.rungs.iter().flatten().any(is_behind) {
            PipelineState::Busy
        } else {
            PipelineState::Empty
        }
    }
}

/// Maps the logs in the order of the plan.
fn open_logs(plan: &Plan, fds: &[OwnedFd]) -> Result<Logs<LogReader>, StreamError> {
    let kinds = plan.logs();
    let missing = || StreamError::Fds { found: fds.len(), expected: kinds.len() };
    if fds.len() != kinds.len() {
        return Err(missing());
    }
    let (mut source, mut audio) = (None, None);
    let mut rungs: Vec<Option<LogReader>> = plan.rungs.iter().map(|_| None).collect();
    for ((kind, _), fd) in kinds.iter().zip(fds) {
        let log = LogReader::open(fd, Access::Read)?;
        match *kind {
            LogKind::Source => source = Some(log),
            LogKind::Audio => audio = Some(log),
            LogKind::Rung(RungId(rung)) => {
                *rungs.get_mut(usize::from(rung)).ok_or_else(missing)? = Some(log);
            }
        }
    }
    let source = source.ok_or_else(missing)?;
    Ok(Logs { source, audio, rungs, pipeline: PipelineState::Empty })
}
