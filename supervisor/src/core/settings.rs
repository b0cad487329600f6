//! What the configuration says about processes, sessions and sockets, as the supervisor needs it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tasuki_shared::config::Memory;
use tasuki_shared::limits::{HANG_DEADLINE, LOBBY_SESSIONS_MAX};
use tasuki_shared::message::{ChaosPlan, ConsolePlan, DeliveryPlan, PublishRequest, RefuseReason};
use tasuki_shared::plan::Plan;

/// Decides on a publish. The configuration implements it.
pub trait Rules {
    fn authorize(&self, request: &PublishRequest) -> Result<Plan, RefuseReason>;
}

impl Rules for Box<dyn Rules> {
    fn authorize(&self, request: &PublishRequest) -> Result<Plan, RefuseReason> {
        self.as_ref().authorize(request)
    }
}

/// What happens to a publish under a name that is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameName {
    /// The newcomer is told `NameTaken`.
    Refuse,
    /// The old session is ended, then the newcomer is let in.
    TakeOver,
}

/// What happens to a listener whose address family this machine does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingFamily {
    Refuse,
    /// The server goes on without it, with a warning, where another listener stands.
    Skip,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: Vec<SocketAddr>,
    pub missing_family: MissingFamily,
    /// What children get into their environment.
    pub environment: Vec<(&'static str, String)>,
    pub status_socket: PathBuf,
    pub status_mode: u32,
    /// Path of the configuration, or `embedded defaults`.
    pub config: String,
    pub workers: u16,
    /// Warm workers beyond `workers` that wait to take a dead one's place.
    pub standby: u16,
    /// They hold open what the streams of others would need.
    pub spare_codecs: bool,
    pub streams_per_worker: u32,
    /// Streams on this host; sessions before publish have bounds of their own.
    pub sessions_max: usize,
    /// Sessions before publish in one worker.
    pub lobby_sessions_max: usize,
    /// Sessions before publish from one address; 0 is no bound.
    pub lobby_per_address: u32,
    /// Of the whole host; above it nothing new is admitted, so 100 switches this off.
    pub cpu_limit_percent: f32,
    pub same_name: SameName,
    pub backoff_first: Duration,
    pub backoff_max: Duration,
    /// Deaths within `restart_window` after which a slot is given up for that window.
    pub restart_intensity: u32,
    pub restart_window: Duration,
    pub shutdown_deadline: Duration,
    /// A process that does not move for this long although it could is killed.
    pub hang_deadline: Duration,
    pub memory: Memory,
    /// Workers are told to leak.
    pub chaos: Option<ChaosPlan>,
    /// `None` where nothing is packaged for viewers.
    pub delivery: Option<Delivery>,
    /// `None` where the configuration names no address for it.
    pub console: Option<Console>,
}

/// Operators' side of the server, over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    pub listen: Vec<SocketAddr>,
    pub missing_family: MissingFamily,
    /// Where HAProxy asks.
    pub agent_check: Vec<SocketAddr>,
    pub plan: ConsolePlan,
}

/// Viewers' side of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub listen: Vec<SocketAddr>,
    pub missing_family: MissingFamily,
    pub plan: DeliveryPlan,
}

impl Settings {
    /// Takes over what can change while the server runs. The rest is what processes and sockets
    /// were made from.
    pub fn take_run_time(&mut self, new: Self) {
        let Self {
            listen: _,
            missing_family: _,
            environment,
            status_socket: _,
            status_mode: _,
            config: _,
            workers: _,
            standby: _,
            spare_codecs,
            streams_per_worker,
            sessions_max,
            lobby_sessions_max,
            lobby_per_address,
            cpu_limit_percent,
            same_name,
            backoff_first,
            backoff_max,
            restart_intensity,
            restart_window,
            shutdown_deadline,
            hang_deadline,
            // The policy has its trends under the rules it began with.
            memory: _,
            chaos: _,
            delivery,
            console,
        } = new;
        self.environment = environment;
        self.spare_codecs = spare_codecs;
        self.streams_per_worker = streams_per_worker;
        self.sessions_max = sessions_max;
        self.lobby_sessions_max = lobby_sessions_max;
        self.lobby_per_address = lobby_per_address;
        self.cpu_limit_percent = cpu_limit_percent;
        self.same_name = same_name;
        self.backoff_first = backoff_first;
        self.backoff_max = backoff_max;
        self.restart_intensity = restart_intensity;
        self.restart_window = restart_window;
        self.shutdown_deadline = shutdown_deadline;
        self.hang_deadline = hang_deadline;
        // Their listeners are open, and streams have their directories where they have them.
        if let (Some(mine), Some(new)) = (&mut self.delivery, delivery) {
            let hls_root = std::mem::take(&mut mine.plan.hls_root);
            mine.plan = DeliveryPlan { hls_root, ..new.plan };
        }
        if let (Some(mine), Some(new)) = (&mut self.console, console) {
            mine.plan.token_file = new.plan.token_file;
        }
    }

    /// The settings that differ from `new` and need a restart, by name.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let viewers = |of: &Self| of.delivery.as_ref().map(|it| it.listen.clone());
        let hls_root = |of: &Self| of.delivery.as_ref().map(|it| it.plan.hls_root.clone());
        let operators =
            |of: &Self| of.console.as_ref().map(|it| (it.listen.clone(), it.agent_check.clone()));
        [
            ("rtmp.listen", self.listen != new.listen),
            ("status.socket", self.status_socket != new.status_socket),
            ("status.mode", self.status_mode != new.status_mode),
            ("workers.count", self.workers != new.workers),
            ("workers.standby", self.standby != new.standby),
            ("memory", self.memory != new.memory),
            ("chaos", self.chaos != new.chaos),
            ("delivery.listen", viewers(self) != viewers(new)),
            ("delivery.hls_directory", hls_root(self) != hls_root(new)),
            ("console.listen", operators(self) != operators(new)),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            missing_family: MissingFamily::Refuse,
            environment: Vec::new(),
            status_socket: PathBuf::new(),
            status_mode: 0o600,
            config: "embedded defaults".into(),
            workers: 1,
            standby: 1,
            spare_codecs: true,
            streams_per_worker: 4,
            sessions_max: 1024,
            lobby_sessions_max: LOBBY_SESSIONS_MAX,
            lobby_per_address: 64,
            cpu_limit_percent: 90.0,
            same_name: SameName::Refuse,
            backoff_first: Duration::from_millis(200),
            backoff_max: Duration::from_secs(10),
            restart_intensity: 5,
            restart_window: Duration::from_secs(30),
            shutdown_deadline: Duration::from_secs(30),
            hang_deadline: HANG_DEADLINE,
            memory: Memory::default(),
            chaos: None,
            delivery: None,
            console: None,
        }
    }
}
