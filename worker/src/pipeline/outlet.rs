//! Where the threads' results meet and leave in one order.
//!
//! The media thread opens an entry for each frame, in presentation order, and names the rungs
//! that will deliver; rung threads deliver in their own time; `poll` gives the first entry once
//! it is complete. Only the media thread waits here, when nobody polls; closing wakes it.

use super::{EncodedPicture, PipelineEvent, PipelineOutput};
use crate::media::packet::{EncodedFrame, IsIdr};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::id::RungId;
use tasuki_shared::limits::PIPELINE_OUTPUTS_MAX;

/// Names an entry until it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The pipeline is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

struct FrameEntry {
    picture: EncodedPicture,
    /// Rungs that have not delivered yet.
    missing: Vec<RungId>,
    /// What has to come out before the frame: headers and events of rungs.
    before: Vec<PipelineOutput>,
}

enum Entry {
    Ready(PipelineOutput),
    Frame(FrameEntry),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
}

struct Inner {
    entries: VecDeque<Entry>,
    /// Ticket of the first entry.
    first: u64,
    /// Outputs of a complete frame that are being given.
    current: VecDeque<PipelineOutput>,
    state: State,
    threads: usize,
    /// Of those that ended as well: how many there were, and the ids of those that have begun.
    started: usize,
    thread_ids: Vec<i32>,
}

pub struct Outlet {
    inner: Mutex<Inner>,
    /// Something was polled, closed, or a thread ended.
    changed: Condvar,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Outlet {
    pub fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        let inner = Inner {
            entries: VecDeque::new(),
            first: 0,
            current: VecDeque::new(),
            state: State::Open,
            threads: 0,
            started: 0,
            thread_ids: Vec::new(),
        };
        Self { inner: Mutex::new(inner), changed: Condvar::new(), wake }
    }

    pub fn poll(&self) -> Option<PipelineOutput> {
        let mut inner = self.lock();
        if let Some(output) = inner.current.pop_front() {
            return Some(output);
        }
        let complete = match inner.entries.front()? {
            Entry::Ready(_) => true,
            Entry::Frame(frame) => frame.missing.is_empty(),
        };
        if !complete {
            return None;
        }
        let entry = inner.entries.pop_front()?;
        inner.first += 1;
        self.changed.notify_all();
        match entry {
            Entry::Ready(output) => Some(output),
            Entry::Frame(FrameEntry { mut picture, missing: _, before }) => {
                picture.rungs.sort_by_key(|(rung, _)| *rung);
                inner.current.extend(before);
                inner.current.push_back(PipelineOutput::Frame(picture));
                inner.current.pop_front()
            }
        }
    }

    /// Appends an output; waits while too much is unfetched.
    pub fn push(&self, output: PipelineOutput) -> Result<(), Closed> {
        self.append(Entry::Ready(output)).map(|_| ())
    }

    /// Appends an output without waiting, for the last words of a thread.
    pub fn push_last(&self, output: PipelineOutput) {
        self.lock().entries.push_back(Entry::Ready(output));
        (self.wake)();
    }

    /// Opens the entry of a frame that these rungs will deliver.
    pub fn open_frame(
        &self,
        source_index: u64,
        pts_ms: i64,
        keyframe: IsIdr,
        rungs: &[RungId],
    ) -> Result<Ticket, Closed> {
        let picture = EncodedPicture { source_index, pts_ms, keyframe, rungs: Vec::new() };
        let frame = FrameEntry { picture, missing: rungs.to_vec(), before: Vec::new() };
        self.append(Entry::Frame(frame))
    }

    /// A rung's result: its frame unless it failed, and what has to come before.
    pub fn deliver(
        &self,
        ticket: Ticket,
        rung: RungId,
        frame: Option<EncodedFrame>,
        before: Vec<PipelineOutput>,
    ) {
        let mut inner = self.lock();
        let Some(position) = ticket.0.checked_sub(inner.first) else { return };
        let Ok(position) = usize::try_from(position) else { return };
        let Some(Entry::Frame(entry)) = inner.entries.get_mut(position) else { return };
        entry.missing.retain(|missing| *missing != rung);
        entry.before.extend(before);
        entry.picture.rungs.extend(frame.map(|frame| (rung, frame)));
        let ready = position == 0 && entry.missing.is_empty();
        drop(inner);
        if ready {
            (self.wake)();
        }
    }

    /// Nothing more will come from this rung: no frame waits for it.
    pub fn abandon(&self, rung: RungId) {
        let mut inner = self.lock();
        for entry in &mut inner.entries {
            match entry {
                Entry::Ready(_) => {}
                Entry::Frame(frame) => {
                    if frame.missing.contains(&rung) {
                        let lost = PipelineEvent::RungLost { rung };
                        frame.before.push(PipelineOutput::Event(lost));
                        frame.missing.retain(|missing| *missing != rung);
                    }
                }
            }
        }
        drop(inner);
        (self.wake)();
    }

    pub fn close(&self) {
        self.lock().state = State::Closed;
        self.changed.notify_all();
    }

    pub fn thread_started(&self) {
        let mut inner = self.lock();
        inner.threads += 1;
        inner.started += 1;
    }

    pub fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.entries.is_empty() && inner.current.is_empty()
    }

    /// To be called by each of them first.
    pub fn thread_runs(&self) {
        self.lock().thread_ids.push(nix::unistd::gettid().as_raw());
    }

    /// `None` while one of them has not had the processor yet.
    pub fn thread_ids(&self) -> Option<Vec<i32>> {
        let inner = self.lock();
        (inner.thread_ids.len() == inner.started).then(|| inner.thread_ids.clone())
    }

    pub fn thread_ended(&self) {
        self.lock().threads -= 1;
        self.changed.notify_all();
    }

    /// Waits until no thread is left; says whether that was so within `deadline`.
    pub fn wait_for_threads(&self, deadline: Duration) -> bool {
        let until = clock::now() + deadline;
        let mut inner = self.lock();
        while inner.threads > 0 {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn append(&self, entry: Entry) -> Result<Ticket, Closed> {
        let mut inner = self.lock();
        while inner.entries.len() >= PIPELINE_OUTPUTS_MAX && inner.state == State::Open {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if inner.state == State::Closed {
            return Err(Closed);
        }
        let ticket = Ticket(inner.first + u64::try_from(inner.entries.len()).unwrap_or(0));
        let ready = inner.entries.is_empty()
            && match &entry {
                Entry::Ready(_) => true,
                Entry::Frame(frame) => frame.missing.is_empty(),
            };
        inner.entries.push_back(entry);
        drop(inner);
        if ready {
            (self.wake)();
        }
        Ok(ticket)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn outlet() -> (Arc<Outlet>, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&wakes);
        let wake = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        (Arc::new(Outlet::new(wake)), wakes)
    }

    fn frame() -> Option<EncodedFrame> {
        Some(EncodedFrame { payload: vec![1], idr: IsIdr::Other })
    }

    fn index(output: Option<PipelineOutput>) -> Option<u64> {
        match output {
            Some(PipelineOutput::Frame(picture)) => Some(picture.source_index),
            Some(other) => panic!("{other:?}"),
            None => None,
        }
    }

    /// A later frame that is complete waits for an earlier one that is not, and the wake comes
    /// with the earlier one.
    #[test]
    fn frames_leave_in_the_order_in_which_they_were_opened() {
        let (outlet, wakes) = outlet();
        let rungs = [RungId(0), RungId(1)];
        let one = outlet.open_frame(7, 0, IsIdr::Idr, &rungs).unwrap();
        let two = outlet.open_frame(8, 33, IsIdr::Other, &rungs).unwrap();
        outlet.deliver(two, RungId(0), frame(), Vec::new());
        outlet.deliver(two, RungId(1), frame(), Vec::new());
        outlet.deliver(one, RungId(1), frame(), Vec::new());
        assert_eq!((index(outlet.poll()), wakes.load(Ordering::SeqCst)), (None, 0));
        outlet.deliver(one, RungId(0), frame(), Vec::new());
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        assert_eq!(index(outlet.poll()), Some(7));
        assert_eq!(index(outlet.poll()), Some(8));
        assert_eq!(index(outlet.poll()), None);
    }

    /// A rung that is gone holds nothing back.
    #[test]
    fn an_abandoned_rung_is_waited_for_no_longer() {
        let (outlet, _) = outlet();
        let ticket = outlet.open_frame(7, 0, IsIdr::Idr, &[RungId(0), RungId(1)]).unwrap();
        outlet.deliver(ticket, RungId(0), frame(), Vec::new());
        outlet.abandon(RungId(1));
        let lost = PipelineEvent::RungLost { rung: RungId(1) };
        assert_eq!(outlet.poll(), Some(PipelineOutput::Event(lost)));
        assert_eq!(index(outlet.poll()), Some(7));
    }

    /// A producer that waits for room is released by closing.
    #[test]
    fn closing_releases_a_producer_that_waits_for_room() {
        let (outlet, _) = outlet();
        for _ in 0..PIPELINE_OUTPUTS_MAX {
            outlet.push(PipelineOutput::Event(PipelineEvent::Ended)).unwrap();
        }
        let blocked = Arc::clone(&outlet);
        let producer =
            std::thread::spawn(move || blocked.push(PipelineOutput::Event(PipelineEvent::Ended)));
        outlet.close();
        assert_eq!(producer.join().unwrap(), Err(Closed));
    }
}
