//! The one adoption path: a fresh connection, a planned move and a crash take the same steps.
//!
//! finish the memory if nobody has, and map it → CAS the owner word from exactly what the lease
//! expects → reconcile with the kernel's counters → load the commit record → read on.

use super::commit::{Changed, Dirty};
use super::ingest::Ingest;
use super::pipeline_record::PipelineRecord;
use super::record::{Put, Take};
use super::stall::Stall;
use super::stream::{Committed, Host, Stream, StreamError, Warm};
use super::{Outbox, Phase, Reply, Session, bitrate, refusal, report};
use crate::media::timeline::{Timeline, TimelineState};
use crate::rtmp::session::{PublishSession, SessionState};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::id::Generation;
use tasuki_shared::kernel::{self, Opened};
use tasuki_shared::memory::MemoryError;
use tasuki_shared::memory::commit::{CommitWriter, Section};
use tasuki_shared::memory::log::LogHeads;
use tasuki_shared::memory::owner::{self, NotExpected};
use tasuki_shared::memory::session::{SessionMemory, WorkMark};
use tasuki_shared::message::{FromWorker, Lease, LiveLease};
use tasuki_shared::plan::Plan;

/// Why a session cannot be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("the lease came with {0} fds")]
    Fds(usize),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    NotExpected(#[from] NotExpected),
    #[error("the socket's counters cannot be read: {0}")]
    Kernel(#[from] std::io::Error),
    /// Its last owner shut the socket down and died before it said so.
    #[error("it was shut down before")]
    Over,
    #[error("its stream cannot go on: {0}")]
    Stream(String),
}

/// A session's fds and memory before it is ours.
pub(super) struct Leased {
    pub lease: Lease,
    pub socket: OwnedFd,
    pub memory_fd: OwnedFd,
    pub memory: SessionMemory,
    /// One per log, one per push, one per connected push.
    pub live_fds: Vec<OwnedFd>,
}

impl Leased {
    /// Maps the session memory; `fds` are as the message describes them.
    pub fn open(lease: Lease, mut fds: Vec<OwnedFd>) -> Result<Self, AdoptError> {
        if fds.len() < 2 {
            return Err(AdoptError::Fds(fds.len()));
        }
        let live_fds = fds.split_off(2);
        let (Some(memory_fd), Some(socket)) = (fds.pop(), fds.pop()) else {
            return Err(AdoptError::Fds(fds.len()));
        };
        // Its first adopter finishes what the supervisor only began.
        let memory = SessionMemory::finish(&memory_fd, lease.expect)?;
        Ok(Self { lease, socket, memory_fd, memory, live_fds })
    }
}

/// Adopts the session of `lease`. `fds` are as the message describes them.
pub fn adopt(
    lease: Lease,
    fds: Vec<OwnedFd>,
    taker: Generation,
    host: &Host,
    now: Instant,
    outbox: &mut Outbox,
) -> Result<Session, AdoptError> {
    let leased = Leased::open(lease, fds)?;
    let warm = Warm::new(leased.memory.work_mark());
    take(leased, warm, taker, host, now, outbox)
}

/// Takes the owner word from what the lease expects, and goes on from there.
pub(super) fn take(
    leased: Leased,
    warm: Warm,
    taker: Generation,
    host: &Host,
    now: Instant,
    outbox: &mut Outbox,
) -> Result<Session, AdoptError> {
    let Leased { lease, socket, memory_fd: _, memory, live_fds } = leased;
    failpoint::hit(Point::AdoptMapped);
    owner::take(memory.owner(), lease.expect, taker)?;
    failpoint::hit(Point::AdoptTaken);
    // What the last owner gave its codecs says nothing of what this one works on.
    memory.work_mark().clear();

    if kernel::was_shut_down(socket.as_fd())? {
        return Err(AdoptError::Over);
    }

    // From here on the session is ours. What the last owner took out of the kernel is in the ring.
    let received = kernel::inbound_consumed(socket.as_fd())?;
    let written = kernel::outbound_written(socket.as_fd(), Opened::Accepted)?;
    failpoint::hit(Point::AdoptReconciled);
    let mut record = memory.load_record()?;
    if failpoint::skips(Point::NewestRecord) {
        record = memory.load_stale_record()?;
    }
    let fresh = record.sequence == 0;

    let mut ingest = Ingest::new(if fresh { received } else { 0 }).map_err(MemoryError::from)?;
    let mut reply = Reply { head: 0, written };
    let mut source_heads = None;
    let mut publish = PublishSession::new();
    let mut timeline = Timeline::new();
    let mut was_live = false;
    if !fresh {
        let mut take = Take::new("ingest", record.section(Section::Ingest));
        reply.head = take.u64().map_err(MemoryError::from)?;
        (ingest, source_heads) = Ingest::decode(&mut take, received).map_err(MemoryError::from)?;
        take.end().map_err(MemoryError::from)?;
        if failpoint::skips(Point::InboundCount) {
            ingest.forget_unparsed();
        }
        (publish, was_live) = decode_publish(record.section(Section::Publish))?;
        timeline = decode_timeline(record.section(Section::Timeline))?;
    }
    if reply.head < reply.written {
        let why = "the kernel has more reply bytes than were committed";
        return Err(MemoryError::Damaged { what: "session memory", why }.into());
    }
    let app = publish.asked().map(|request| request.app).unwrap_or_default();
    let mut resumption = None;
    let phase = match (lease.live, source_heads) {
        (Some(live), Some(heads)) if was_live => {
            let app = live.plan.app.clone();
            let logs = live.plan.logs().len().saturating_sub(1);
            let mut pipeline = PipelineRecord::decode(record.section(Section::Pipeline), logs)
                .map_err(MemoryError::from)?;
            if failpoint::skips(Point::EncodedFrames) {
                pipeline.forget_frames();
            }
            let committed = Committed {
                source: heads,
                pipeline,
                pushes: record.section(Section::Pushes),
                recordings: record.section(Section::Recordings),
                totals: record.section(Section::Totals),
            };
            let stream = Stream::resume(live, live_fds, committed, warm, host, now)
                .map_err(|error| AdoptError::Stream(error.leave_if_out_of_memory().to_string()))?;
            if !ingest.fits(&stream.logs.source) {
                let why = "an unfinished message lies outside the source log";
                return Err(MemoryError::Damaged { what: "session memory", why }.into());
            }
            tracing::debug!(%app, "a live stream is adopted");
            Phase::Live(Box::new(stream))
        }
        (_, heads) => match publish.asked() {
            Some(request) => {
                // It went live after the lease was made: the verdict brings its logs again.
                resumption = heads.filter(|_| was_live).map(|source| Resumption {
                    source,
                    pipeline: record.section(Section::Pipeline).to_vec(),
                    pushes: record.section(Section::Pushes).to_vec(),
                    recordings: record.section(Section::Recordings).to_vec(),
                    totals: record.section(Section::Totals).to_vec(),
                });
                let ask = FromWorker::Authorize { session: lease.session, request };
                outbox.push((ask, Vec::new()));
                Phase::Authorizing { since: now }
            }
            None => Phase::Lobby,
        },
    };
    let changed = Changed { ingest: Dirty::Yes, publish: Dirty::Yes, ..Changed::default() };
    let mut session = Session {
        id: lease.session,
        peer: lease.peer,
        socket,
        memory,
        commit: CommitWriter::resume(record),
        changed,
        ingest,
        publish,
        timeline,
        reply,
        phase,
        app,
        closed: Vec::new(),
        leftovers: Vec::new(),
        began: now,
        adoption: report::Adoption::new(),
        arrived: bitrate::Arrived::new(now),
        faults: BTreeMap::new(),
        report: report::Meter::new(now),
        release: None,
        resumption,
        generation: taker,
        host: host.clone(),
        input_stall: Stall::default(),
        pipeline_stall: Stall::default(),
    };
    session.count_on();
    if let Some(reason) = refusal(lease.admission) {
        session.refuse_or_remember(reason, now);
    }
    failpoint::hit(Point::AdoptLoaded);
    Ok(session)
}

/// Where a live stream stopped whose logs did not come with the lease.
pub(super) struct Resumption {
    pub source: LogHeads,
    pub pipeline: Vec<u8>,
    pub pushes: Vec<u8>,
    pub recordings: Vec<u8>,
    pub totals: Vec<u8>,
}

impl Resumption {
    /// Goes on with the logs of the verdict; origins are dialled anew.
    pub fn resume(
        self,
        plan: Plan,
        fds: Vec<OwnedFd>,
        mark: WorkMark,
        host: &Host,
        now: Instant,
    ) -> Result<Stream, StreamError> {
        let Self { source, pipeline, pushes, recordings, totals } = self;
        let logs = plan.logs().len().saturating_sub(1);
        let record = PipelineRecord::decode(&pipeline, logs)?;
        let live = LiveLease { plan, connected: Vec::new() };
        let committed = Committed {
            source,
            pipeline: record,
            pushes: &pushes,
            recordings: &recordings,
            totals: &totals,
        };
        Stream::resume(live, fds, committed, Warm::new(mark), host, now)
    }
}

/// The publish section: the session's state, and whether its logs exist.
pub(super) fn encode_publish(state: &SessionState, live: bool, into: &mut Vec<u8>) {
    into.put_u8(u8::from(live));
    let start = into.len();
    into.resize(start + SessionState::SIZE, 0);
    state.to_bytes(&mut into[start..]);
}

fn decode_publish(bytes: &[u8]) -> Result<(PublishSession, bool), MemoryError> {
    if bytes.is_empty() {
        return Ok((PublishSession::new(), false));
    }
    let mut take = Take::new("publish", bytes);
    let live = take.u8()? == 1;
    let state = SessionState::from_bytes(take.bytes(SessionState::SIZE)?)
        .ok_or(take.bad("it cannot be read"))?;
    let session = PublishSession::import(&state).map_err(|_| take.bad("it is impossible"))?;
    take.end()?;
    Ok((session, live))
}

fn decode_timeline(bytes: &[u8]) -> Result<Timeline, MemoryError> {
    if bytes.is_empty() {
        return Ok(Timeline::new());
    }
    let mut take = Take::new("timeline", bytes);
    let state = TimelineState::from_bytes(&take.array()?)
        .map_err(|_| take.bad("it holds impossible values"))?;
    take.end()?;
    Ok(Timeline::resume(state))
}
