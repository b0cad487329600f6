//! The imperative shell: one thread that feeds events to the core and performs its effects.
//!
//! Tasks on one current-thread runtime share the shell; none holds it across an await. An effect
//! may cause events (a process that cannot be started, fds that cannot be made); they are handled
//! in order before the next event from outside. Frames to processes go out at the end of a
//! [`Turn`], many in one datagram.

mod about;
mod clients;
mod doors;
mod loop_clock;
mod points;
mod sampling;
mod turn;

pub use turn::Turn;

use crate::core::Core;
use crate::core::event::{Effect, Event, Fds, Killer, Loss};
use crate::core::settings::{Rules, Settings};
use crate::io::event_log::EventLog;
use crate::io::evidence::{Desk, Directory};
use crate::io::handoff::Vault;
use crate::io::notify::Notifier;
use crate::io::oom::OomCounter;
use crate::io::process::{self, Watched};
use crate::io::{listen, spawn, status};
use about::session_of;
use anyhow::Context;
use doors::Doors;
use loop_clock::LoopClock;
use nix::sys::signal::Signal;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tasuki_shared::channel::{Channel, ChannelError, Fault, Received, Sent};
use tasuki_shared::clock;
use tasuki_shared::exit::Exit;
use tasuki_shared::failpoint;
use tasuki_shared::id::{Generation, SessionId};
use tasuki_shared::kernel::{self, Death};
use tasuki_shared::limits::{FDS_RESERVED, TICK_INTERVAL, WATCH_EVENTS_MAX};
use tasuki_shared::message::{Envelope, FromWorker, Role, ToWorker};
use tasuki_shared::status::{Reply, Status};
use tasuki_shared::threads;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::{JoinHandle, LocalSet};

/// The core behind its trait.
pub trait Decide {
    fn handle(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>);
    fn status(&self, now: Duration) -> Status;
    fn has_session(&self, session: SessionId) -> bool;
    fn reload(&mut self, now: Duration, reloaded: Reloaded) -> Vec<Effect>;
    /// Is there a worker that takes sessions?
    fn serves(&self) -> bool;
    /// Does a decision wait for the next measurement of this worker's memory?
    fn awaits_measurement(&self, generation: Generation) -> bool;
}

impl Decide for Core<Box<dyn Rules>> {
    fn handle(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        self.handle_into(now, event, effects);
    }

    fn status(&self, now: Duration) -> Status {
        Self::status(self, now)
    }

    fn has_session(&self, session: SessionId) -> bool {
        Self::has_session(self, session)
    }

    fn reload(&mut self, now: Duration, reloaded: Reloaded) -> Vec<Effect> {
        Self::reload(self, now, reloaded.settings, reloaded.rules)
    }

    fn serves(&self) -> bool {
        Self::serves(self)
    }

    fn awaits_measurement(&self, generation: Generation) -> bool {
        Self::awaits_measurement(self, generation)
    }
}

pub type SharedShell = Rc<RefCell<Shell>>;

/// Reads the configuration again at SIGHUP, or says what is wrong with it.
pub type Reload = Box<dyn Fn() -> Result<Reloaded, String>>;

/// What the configuration says now.
pub struct Reloaded {
    pub settings: Settings,
    pub rules: Box<dyn Rules>,
}

struct Process {
    role: Role,
    channel: Channel<ToWorker, FromWorker>,
    pidfd: OwnedFd,
    pid: i32,
    /// Tells the task that frames wait for the socket.
    queued: Rc<Notify>,
}

/// What workers and the dialer are started from.
struct Program {
    path: PathBuf,
    environment: Vec<(&'static str, String)>,
}

pub struct Shell {
    core: Box<dyn Decide>,
    myself: std::rc::Weak<RefCell<Shell>>,
    started: Instant,
    clock: LoopClock,
    oom: OomCounter,
    program: Program,
    /// Of the session ids.
    epoch: u32,
    next_session: u64,
    processes: HashMap<Generation, Process>,
    vault: Vault,
    listeners: Vec<(SocketAddr, JoinHandle<()>)>,
    /// Where delivery's listeners are, as URLs, and the console's, as addresses.
    viewers: Vec<String>,
    consoles: Vec<SocketAddr>,
    pending: VecDeque<Event>,
    /// Processes to start when no event is pending: sessions come first.
    spawns: VecDeque<(Role, Generation)>,
    /// Clients of the status socket that wait for what takes time, by ticket.
    clients: HashMap<u64, mpsc::Sender<Reply>>,
    next_ticket: u64,
    /// Room for the effects of one event.
    effects: Vec<Effect>,
    /// Processes with frames queued in this turn.
    unsent: VecDeque<Generation>,
    watchers: broadcast::Sender<Reply>,
    log: EventLog,
    /// A connection whose fd has this number or a higher one is closed, for the lowest free number
    /// is given first: what is below is needed for memory, pushes and new workers.
    accepted_fds_max: i32,
    /// Connections closed because the host had no fd for them.
    no_fds: u64,
    desk: Desk,
    evidence: Directory,
    exit: Option<Exit>,
    left: Rc<Notify>,
}

/// Runs the server until it has drained.
pub fn run<R: Rules + 'static>(
    settings: Settings,
    rules: R,
    reload: Reload,
) -> anyhow::Result<Exit> {
    let fds_max = listen::raise_fd_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let exit = local.block_on(&runtime, serve(settings, rules, reload, fds_max));
    runtime.shutdown_timeout(Duration::from_millis(100));
    exit
}

async fn serve<R: Rules + 'static>(
    settings: Settings,
    rules: R,
    reload: Reload,
    fds_max: i32,
) -> anyhow::Result<Exit> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let program = spawn::worker_program().context("the worker program")?;
    let status_listener = status::bind(&settings.status_socket, settings.status_mode)?;
    let bound = listen::listen_all(&settings.listen, settings.missing_family)?;
    let doors = Doors::open(&settings)?;
    let left = Rc::new(Notify::new());
    let seed = clock::unix_ms() ^ (u64::from(std::process::id()) << 32);
    let (status_path, status_mode) = (settings.status_socket.clone(), settings.status_mode);
    let first = settings.clone();
    let program = Program { path: program, environment: settings.environment.clone() };
    let rules: Box<dyn Rules> = Box::new(rules);
    let core = Box::new(Core::new(settings, rules, seed));
    let shell = Shell::new(core, program, fds_max, &left);
    shell.borrow_mut().keep(doors);
    shell.borrow_mut().on(Event::Started);
    for (address, listener) in bound {
        tracing::info!(%address, publish = %format!("rtmp://{address}/APP/KEY"), "listening");
        let task = tokio::task::spawn_local(accept(Rc::clone(&shell), listener));
        shell.borrow_mut().listeners.push((address, task));
    }
    tracing::info!(socket = %status_path.display(), "status");
    let status =
        tokio::task::spawn_local(status::serve(Rc::clone(&shell), status_listener, status_mode));
    tokio::task::spawn_local(sampling::sample(Rc::clone(&shell)));
    let mut ticks = tokio::time::interval(TICK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut notifier = Notifier::new();
    let exit = loop {
        let event = tokio::select! {
            () = left.notified() => Event::Tick,
            _ = ticks.tick() => {
                // What waits in channels is heard before anybody is judged by his silence.
                if shell.borrow_mut().clock.is_late(clock::now()) {
                    continue;
                }
                Event::Tick
            }
            _ = terminate.recv() => Event::Terminate,
            _ = interrupt.recv() => Event::Terminate,
            _ = hangup.recv() => {
                notifier.reloading();
                match reload() {
                    Ok(reloaded) => shell.borrow_mut().reload(&first, reloaded),
                    Err(error) => {
                        tracing::error!(%error, "the configuration is refused; the old one holds");
                    }
                }
                notifier.reloaded();
                continue;
            }
        };
        if matches!(event, Event::Terminate) {
            notifier.stopping();
        }
        shell.borrow_mut().on(event);
        notifier.turn(|| shell.borrow().core.serves(), || shell.borrow().summary());
        if let Some(exit) = shell.borrow().exit {
            break exit;
        }
    };
    status.abort();
    // Dropping the listener removes its file.
    let _ = status.await;
    Ok(exit)
}

async fn accept(shell: SharedShell, listener: std::net::TcpListener) {
    if let Err(error) = listen::serve(shell, listener).await {
        tracing::error!(%error, "a listener is lost");
    }
}

impl Shell {
    fn new(
        core: Box<dyn Decide>,
        program: Program,
        fds_max: i32,
        left: &Rc<Notify>,
    ) -> SharedShell {
        let epoch = u32::try_from(clock::unix_ms() / 1000).unwrap_or(u32::MAX);
        Rc::new_cyclic(|myself| {
            RefCell::new(Self {
                core,
                myself: myself.clone(),
                started: clock::now(),
                clock: LoopClock::new(clock::now()),
                oom: OomCounter::of_this_process(),
                program,
                epoch,
                next_session: 1,
                processes: HashMap::new(),
                vault: Vault::default(),
                listeners: Vec::new(),
                viewers: Vec::new(),
                consoles: Vec::new(),
                pending: VecDeque::new(),
                spawns: VecDeque::new(),
                clients: HashMap::new(),
                next_ticket: 1,
                effects: Vec::new(),
                unsent: VecDeque::new(),
                watchers: broadcast::channel(WATCH_EVENTS_MAX).0,
                log: EventLog::default(),
                accepted_fds_max: fds_max - FDS_RESERVED.min(fds_max / 4),
                no_fds: 0,
                desk: Desk::default(),
                evidence: Directory::from_environment(),
                exit: None,
                left: Rc::clone(left),
            })
        })
    }

    /// A turn with one event.
    pub fn on(&mut self, event: Event) {
        self.handle(event);
        self.end_turn();
    }

    /// Handles an event and everything that follows from it.
    fn handle(&mut self, event: Event) {
        let now = self.clock.time(clock::now());
        self.pending.push_back(event);
        // By the clock that its entries have, not the core's, which leaves pauses out.
        let since_start = self.started.elapsed();
        if self.log.is_report_due(since_start) {
            self.log.report(since_start);
        }
        self.handle_pending(now);
    }

    /// Performs what pending events lead to, until nothing is left to do.
    fn handle_pending(&mut self, now: Duration) {
        let mut effects = std::mem::take(&mut self.effects);
        loop {
            while let Some(event) = self.pending.pop_front() {
                self.core.handle(now, event, &mut effects);
                for effect in effects.drain(..) {
                    self.perform(effect);
                }
            }
            match self.spawns.pop_front() {
                Some((role, generation)) => {
                    // A fork takes longer than all that waits here: orphans are sent out first.
                    self.flush_unsent();
                    self.spawn(role, generation);
                }
                None => break,
            }
        }
        self.effects = effects;
    }

    fn flush_unsent(&mut self) {
        while let Some(generation) = self.unsent.pop_front() {
            self.flush(generation);
        }
    }

    /// Sends what was queued, so that nothing waits but for a socket that takes no more. What
    /// follows from a channel that failed belongs to the same turn.
    fn end_turn(&mut self) {
        while let Some(generation) = self.unsent.pop_front() {
            self.flush(generation);
            let now = self.clock.time(clock::now());
            self.handle_pending(now);
        }
    }

    fn accepted(&mut self, socket: TcpStream, peer: SocketAddr) {
        if socket.as_raw_fd() >= self.accepted_fds_max {
            self.count_no_fds();
            return;
        }
        // It stays in blocking mode: whoever reads or writes it says MSG_DONTWAIT each time, and
        // one system call less is worth something here.
        let session = SessionId { epoch: self.epoch, counter: self.next_session };
        self.next_session += 1;
        self.vault.accept(session, socket);
        self.handle(Event::Accepted { session, peer });
    }

    pub fn count_no_fds(&mut self) {
        self.no_fds += 1;
        if self.no_fds.is_power_of_two() {
            tracing::error!(total = self.no_fds, "no file descriptor for a connection: closed");
        }
    }

    fn receive(
        &mut self,
        generation: Generation,
    ) -> Result<Option<Received<FromWorker>>, ChannelError> {
        match self.processes.get_mut(&generation) {
            Some(process) => process.channel.recv(),
            None => Err(ChannelError::Closed),
        }
    }

    fn frame(
        &mut self,
        channel: Generation,
        envelope: Envelope<FromWorker>,
        mut fds: Vec<OwnedFd>,
    ) {
        let Envelope { generation: claimed, body } = envelope;
        let socket = fds.pop();
        if let FromWorker::Evidence { ticket, outcome } = body {
            if claimed == channel {
                self.desk.answered(channel, ticket, outcome, socket);
            }
            return;
        }
        let role = self.processes.get(&channel).map(|process| process.role);
        // A socket from anybody else, under a ticket it guessed, would become a push's connection.
        if let FromWorker::Connected { ticket, outcome } = &body
            && role == Some(Role::Dialer)
        {
            match (outcome, socket) {
                (Ok(()), Some(socket)) => self.vault.keep_dialed(*ticket, socket),
                (Ok(()), None) => {
                    let loss = Loss::Broken("a connection without its socket".to_owned());
                    self.handle(Event::ChannelLost { generation: channel, loss });
                    return;
                }
                (Err(_), _) => {}
            }
        }
        points::heard(&body);
        self.handle(Event::Frame { channel, claimed, body });
    }

    fn flush(&mut self, generation: Generation) {
        let Some(process) = self.processes.get_mut(&generation) else { return };
        match process.channel.flush() {
            Ok(Sent::Sent) => {}
            Ok(Sent::Queued) => process.queued.notify_one(),
            Err(error) => self.channel_failed(generation, &error),
        }
    }

    pub fn is_flushed(&self, generation: Generation) -> bool {
        self.processes.get(&generation).is_none_or(|process| process.channel.is_flushed())
    }

    pub fn queued_signal(&self, generation: Generation) -> Option<Rc<Notify>> {
        self.processes.get(&generation).map(|process| Rc::clone(&process.queued))
    }

    pub fn reaped(&mut self, generation: Generation, death: std::io::Result<Option<Death>>) {
        let death = match death {
            Ok(Some(death)) => death,
            // Only a death makes a pidfd readable; how it came is lost if it cannot be read.
            Ok(None) => Death::Exited(-1),
            Err(error) => {
                tracing::error!(%error, %generation, "a dead process could not be reaped");
                Death::Exited(-1)
            }
        };
        self.died(generation, death);
    }

    /// It can do nothing any more, reaped or not.
    pub fn died(&mut self, generation: Generation, death: Death) {
        self.processes.remove(&generation);
        self.desk.forget(generation);
        let killer = match death {
            Death::Signalled(signal) if signal == Signal::SIGKILL as i32 => self.oom.killer(),
            Death::Signalled(_) | Death::Exited(_) => Killer::Somebody,
        };
        let processing = self.vault.processing(generation);
        self.on(Event::Died { generation, death, killer, processing });
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::SaveEvidence { recycle, generation } => self.save_evidence(recycle, generation),
            Effect::Spawn { slot: _, role, generation } => {
                self.spawns.push_back((role, generation));
            }
            Effect::Send { to, body, fds } => self.send(to, body, fds),
            Effect::Kill { generation } => {
                if let Some(process) = self.processes.get(&generation)
                    && let Err(error) =
                        kernel::pidfd_send_signal(process.pidfd.as_fd(), Signal::SIGKILL)
                {
                    tracing::warn!(%error, %generation, "kill");
                }
            }
            Effect::Examine { generation } => {
                let pid = self.processes.get(&generation).map(|process| process.pid);
                let look = |pid| threads::look(pid, threads::first_and_named(pid, "control"));
                let threads = pid.map(look).unwrap_or_default();
                self.pending.push_back(Event::Examined { generation, threads });
            }
            Effect::NameStuckThreads { generation } => {
                let pid = self.processes.get(&generation).map(|process| process.pid);
                let threads = pid.map_or_else(String::new, crate::io::threads::stuck);
                self.pending.push_back(Event::StuckThreadsNamed { generation, threads });
            }
            Effect::Close { session } => self.vault.close(session),
            Effect::DropPush { session, push } => self.vault.drop_push(session, push),
            Effect::DropDialed { ticket } => self.vault.drop_dialed(ticket),
            Effect::ReadOwner { session } => {
                let owner = self.vault.owner(session);
                self.pending.push_back(Event::OwnerRead { session, owner });
            }
            Effect::DropBell { session } => self.vault.drop_bell(session),
            Effect::Reply { ticket, reply } => self.reply(ticket, *reply),
            Effect::StopListening => {
                for (_, task) in self.listeners.drain(..) {
                    task.abort();
                }
            }
            Effect::Announce(announcement) => self.announce(announcement),
            Effect::Leave(exit) => {
                self.exit = Some(exit);
                self.left.notify_one();
            }
        }
    }

    fn spawn(&mut self, role: Role, generation: Generation) {
        let event = match self.try_spawn(role, generation) {
            Ok(pid) => Event::Spawned { generation, pid },
            Err(error) => Event::SpawnFailed { generation, error: format!("{error:#}") },
        };
        self.pending.push_back(event);
    }

    fn try_spawn(&mut self, role: Role, generation: Generation) -> anyhow::Result<i32> {
        let Program { path, environment } = &self.program;
        let spawned = spawn::spawn(path, role, generation, environment)?;
        let watched = match Watched::new(generation, &spawned) {
            Ok(watched) => watched,
            Err(error) => {
                spawned.abandon();
                return Err(error.into());
            }
        };
        let pid = spawned.pid();
        let process = Process {
            role,
            channel: spawned.channel,
            pidfd: spawned.pidfd,
            pid,
            queued: Rc::new(Notify::new()),
        };
        self.processes.insert(generation, process);
        if let Some(shell) = self.myself.upgrade() {
            tokio::task::spawn_local(process::serve(shell, watched));
        }
        Ok(pid)
    }

    fn send(&mut self, to: Generation, mut body: ToWorker, fds: Fds) {
        let Some(process) = self.processes.get_mut(&to) else { return };
        let about = session_of(&body);
        points::sending(&body);
        let sent = points::after(&body);
        let queued = match self.vault.attach(&mut body, fds) {
            Ok(attached) => process.channel.queue(&Envelope { generation: to, body }, &attached),
            Err(error) => return self.not_sent(about, fds, error.to_string()),
        };
        match queued {
            Ok(()) if self.unsent.contains(&to) => {}
            Ok(()) => self.unsent.push_back(to),
            Err(error) => match error.fault() {
                Fault::Peer => self.channel_failed(to, &error),
                Fault::Ours => self.not_sent(about, fds, error.to_string()),
            },
        }
        if let Some(point) = sent {
            self.flush(to);
            failpoint::hit(point);
        }
    }

    /// The frame is lost for want of something here; its receiver has done nothing wrong.
    fn not_sent(&mut self, about: Option<SessionId>, fds: Fds, what: String) {
        match about {
            Some(session) => {
                self.pending.push_back(Event::ResourceFailed { session, fds, what });
            }
            None => tracing::error!(error = %what, "a control frame could not be sent"),
        }
    }

    fn channel_failed(&mut self, generation: Generation, error: &ChannelError) {
        let loss = match error {
            // What it said before it left is still to be read, and its end comes after that.
            ChannelError::Closed => return,
            ChannelError::FdsTruncated
            | ChannelError::NoFds(_)
            | ChannelError::TooLong(_)
            | ChannelError::Malformed
            | ChannelError::TooManyFds(_)
            | ChannelError::QueueFull
            | ChannelError::Codec(_)
            | ChannelError::Io(_) => Loss::Broken(error.to_string()),
        };
        self.pending.push_back(Event::ChannelLost { generation, loss });
    }
}
