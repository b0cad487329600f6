//! What `tasuki top` shows: the last status, the history of footprints, the last news, and where
//! the operator is looking. Pure: a status, an event or a key comes in, `view` draws what is here.
//!
//! ```text
//! Waiting ─status─▶ Connected ─error─▶ Lost ─status─▶ Connected
//! ```
//!
//! Time is the time since the program's start. Nothing of the last status is thrown away when the
//! server is lost: what was is worth seeing, as long as the screen says how old it is.

use super::history::{Histories, History};
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;
use tasuki_shared::limits::TOP_NEWS_MAX;
use tasuki_shared::status::{Event, RecycleStatus, SessionStatus, Status, WorkerStatus};

#[derive(Debug)]
pub(super) struct Model {
    pub feed: Feed,
    pub status: Option<Status>,
    pub news: VecDeque<Event>,
    pub pane: Pane,
    pub help: Help,
    pub worker_order: WorkerOrder,
    pub session_order: SessionOrder,
    histories: Histories,
    scroll: [usize; 3],
}

/// Where the figures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    Waiting,
    Connected,
    Lost { since: Duration, reason: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Workers,
    Recycles,
    Sessions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Help {
    Hidden,
    Shown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerOrder {
    Slot,
    Footprint,
    TimeToLimit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionOrder {
    Name,
    Lag,
    Dropped,
    Bitrate,
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    NextPane,
    PreviousPane,
    Sort,
    Help,
}

/// Lines that a page key moves.
const PAGE: usize = 10;

impl Pane {
    pub(super) const ALL: [Self; 3] = [Self::Workers, Self::Recycles, Self::Sessions];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Workers => 0,
            Self::Recycles => 1,
            Self::Sessions => 2,
        }
    }
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            feed: Feed::Waiting,
            status: None,
            news: VecDeque::new(),
            pane: Pane::Workers,
            help: Help::Hidden,
            worker_order: WorkerOrder::Slot,
            session_order: SessionOrder::Name,
            histories: Histories::default(),
            scroll: [0; 3],
        }
    }

    pub(super) fn observe(&mut self, status: Status) {
        let process = |worker: &WorkerStatus| (worker.slot.clone(), worker.generation);
        let samples = status.workers.iter().map(|w| (process(w), w.footprint_bytes));
        self.histories.observe(samples);
        self.status = Some(status);
        self.feed = Feed::Connected;
    }

    /// There was no answer at `now`.
    pub(super) fn lose(&mut self, now: Duration, reason: &str) {
        let since = match self.feed {
            Feed::Lost { since, .. } => since,
            Feed::Waiting | Feed::Connected => now,
        };
        // The rest of a long reason is advice for who starts a server.
        let reason = reason.lines().next().unwrap_or_default().to_owned();
        self.feed = Feed::Lost { since, reason };
    }

    pub(super) fn hear(&mut self, event: Event) {
        if self.news.len() == TOP_NEWS_MAX {
            self.news.pop_front();
        }
        self.news.push_back(event);
    }

    pub(super) fn press(&mut self, key: Key) {
        let scroll = &mut self.scroll[self.pane.index()];
        match key {
            Key::Up => *scroll = scroll.saturating_sub(1),
            Key::Down => *scroll = scroll.saturating_add(1),
            Key::PageUp => *scroll = scroll.saturating_sub(PAGE),
            Key::PageDown => *scroll = scroll.saturating_add(PAGE),
            Key::Home => *scroll = 0,
            Key::End => *scroll = usize::MAX,
            Key::NextPane => self.turn(1),
            Key::PreviousPane => self.turn(Pane::ALL.len() - 1),
            Key::Sort => self.sort(),
            Key::Help => {
                self.help = match self.help {
                    Help::Hidden => Help::Shown,
                    Help::Shown => Help::Hidden,
                }
            }
        }
    }

    /// First line of a pane that is shown, as far as the pane's lines allow.
    pub(super) fn scroll(&self, pane: Pane) -> usize {
        self.scroll[pane.index()]
    }

    /// What came of the positions when they were drawn, so that no key is pressed in vain.
    pub(super) fn settle(&mut self, scroll: [usize; 3]) {
        self.scroll = scroll;
    }

    pub(super) fn workers(&self) -> Vec<&WorkerStatus> {
        let mut workers: Vec<_> = self.status.iter().flat_map(|status| &status.workers).collect();
        match self.worker_order {
            WorkerOrder::Slot => {}
            WorkerOrder::Footprint => workers.sort_by_key(|w| Reverse(w.footprint_bytes)),
            WorkerOrder::TimeToLimit => workers.sort_by_key(|w| {
                let limit = w.memory.as_ref().and_then(|memory| memory.time_to_limit_ms);
                limit.unwrap_or(u64::MAX)
            }),
        }
        workers
    }

    pub(super) fn sessions(&self) -> Vec<&SessionStatus> {
        let mut sessions: Vec<_> = self.status.iter().flat_map(|status| &status.sessions).collect();
        match self.session_order {
            // Those without a name yet come last.
            SessionOrder::Name => sessions.sort_by_key(|s| (s.name.is_empty(), s.name.clone())),
            SessionOrder::Lag => sessions.sort_by_key(|s| Reverse(s.lag_ms)),
            SessionOrder::Dropped => sessions.sort_by_key(|s| Reverse(s.frames_dropped)),
            SessionOrder::Bitrate => sessions.sort_by_key(|s| Reverse(s.in_bitrate_bps)),
        }
        sessions
    }

    pub(super) fn recycles(&self) -> &[RecycleStatus] {
        self.status.as_ref().map_or(&[], |status| &status.recycles)
    }

    pub(super) fn history(&self, worker: &WorkerStatus) -> History {
        self.histories.of(&(worker.slot.clone(), worker.generation))
    }

    /// What a full bar stands for: the same for all workers, so that bars can be compared.
    pub(super) fn bar_bytes(&self) -> u64 {
        let needed = |worker: &WorkerStatus| {
            let limit = worker
                .memory
                .as_ref()
                .map_or(0, |memory| memory.hard_limit_bytes.max(memory.soft_limit_bytes));
            // A little more than the limit, so that its mark is inside.
            let limit = limit.saturating_add(limit / 16);
            let resident = worker.footprint_bytes.saturating_add(worker.lazy_free_bytes);
            limit.max(resident).max(worker.rss_bytes)
        };
        self.workers().into_iter().map(needed).max().unwrap_or(0).max(1)
    }

    fn turn(&mut self, by: usize) {
        self.pane = Pane::ALL[(self.pane.index() + by) % Pane::ALL.len()];
    }

    fn sort(&mut self) {
        match self.pane {
            Pane::Workers => {
                self.worker_order = match self.worker_order {
                    WorkerOrder::Slot => WorkerOrder::Footprint,
                    WorkerOrder::Footprint => WorkerOrder::TimeToLimit,
                    WorkerOrder::TimeToLimit => WorkerOrder::Slot,
                }
            }
            // In the order in which they happened, always.
            Pane::Recycles => {}
            Pane::Sessions => {
                self.session_order = match self.session_order {
                    SessionOrder::Name => SessionOrder::Lag,
                    SessionOrder::Lag => SessionOrder::Dropped,
                    SessionOrder::Dropped => SessionOrder::Bitrate,
                    SessionOrder::Bitrate => SessionOrder::Name,
                }
            }
        }
    }
}

/// Is it still going on? What a newer server calls by a word we do not know is.
pub(super) fn is_under_way(recycle: &RecycleStatus) -> bool {
    recycle.outcome != "done" && !recycle.outcome.starts_with("failed")
}
