//! The configuration: TOML in, a checked `Config` out. What a `Config` holds has been checked;
//! nobody validates it again.
//!
//! `raw` is the file's shape, `check` makes a `Config` of it, `authorize` a stream's `Plan`,
//! `describe` what `tasuki check` prints. docs/CONFIG.md explains every key; a test keeps it so.
//!
//! Stream keys are secrets: no `Debug` and no error shows one.

mod authorize;
mod chaos;
mod check;
mod console;
mod delivery;
mod describe;
mod error;
mod log_size;
mod memory;
mod push_url;
mod raw;
mod socket;
#[cfg(test)]
mod tests;
mod units;

pub use console::{Console, default_console_listen};
pub use delivery::{Delivery, Hls, Tls, default_delivery_listen};
pub use describe::{AppDescription, Description, RungDescription};
pub use error::ConfigError;
pub use memory::{Amount, Count, Machine, Memory, MemoryDescription, MemoryLimits, Recycling};
pub use push_url::{PushTarget, RTMP_PORT};
pub use socket::{RuntimeDirectories, client_sockets, default_socket, default_socket_here};

use crate::id::{PublicName, RungId, StreamKey};
use crate::limits::CONFIG_BYTES_MAX;
use crate::message::ChaosPlan;
use crate::plan::{AudioPlan, BlurRect, LogSize, RecordPlan, RungPlan, StreamLimits};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub rtmp: Rtmp,
    pub status: StatusSocket,
    pub workers: Workers,
    pub memory: Memory,
    /// Workers shall leak, for tests and demonstration.
    pub chaos: Option<ChaosPlan>,
    pub log: Log,
    pub delivery: Delivery,
    pub console: Console,
    pub keys: Keys,
    /// By RTMP application name; never empty.
    pub apps: BTreeMap<String, App>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rtmp {
    pub listen: Vec<SocketAddr>,
    pub authorisation: Authorisation,
    pub silence_timeout: Duration,
    /// Sessions before publish from one address; 0 is no bound.
    pub lobby_per_address: u32,
    pub same_name: SameName,
}

/// Where publishers are accepted when the file does not say.
#[must_use]
pub fn default_listen() -> Vec<SocketAddr> {
    vec![
        SocketAddr::from((Ipv4Addr::LOCALHOST, RTMP_PORT)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, RTMP_PORT)),
    ]
}

/// What stands between the network and a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorisation {
    /// Only `[keys]` may publish.
    Keys,
    /// Anyone may, but only this machine reaches the listeners.
    LoopbackOnly,
    /// Anyone who reaches the listeners may, and the file says so.
    Open,
}

/// What happens to a publish whose name is live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameName {
    #[default]
    Refuse,
    TakeOver,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSocket {
    /// `None`: where `default_socket_here` says.
    pub socket: Option<PathBuf>,
    /// 0o600, or 0o660 to let the group of the socket in.
    pub mode: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Workers {
    pub count: WorkerCount,
    pub streams_per_worker: u32,
    pub sessions_max: u32,
    /// Of the whole machine, 0 to 100.
    pub cpu_limit_percent: f32,
    pub standby: u32,
    /// Those in standby hold open what the streams of others would need.
    pub spare_codecs: bool,
    pub restart_backoff_first: Duration,
    pub restart_backoff_max: Duration,
    /// Deaths within `restart_window` from which on no more workers are started.
    pub restart_intensity: u32,
    pub restart_window: Duration,
    pub shutdown_deadline: Duration,
    /// A process that does not move for this long although it could is killed.
    pub hang_deadline: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerCount {
    /// One per core.
    Auto,
    Fixed(u16),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Pretty on a terminal, journald where stderr is the journal, else JSON.
    #[default]
    Auto,
    Pretty,
    Json,
    Journald,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Stream keys and the names they publish under. Empty: the key is the name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(HashMap<StreamKey, PublicName>);

impl Keys {
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// What is done with the streams of one application.
#[derive(Clone, Debug, PartialEq)]
pub struct App {
    /// Highest first.
    pub rungs: Vec<RungPlan>,
    pub audio: AudioPlan,
    pub blur: Vec<BlurRect>,
    pub pushes: Vec<PushTarget>,
    pub record: Option<RecordPlan>,
    pub hls: Option<Hls>,
    /// The rungs that viewers may have as FLV.
    pub flv: Option<Vec<RungId>>,
    pub limits: StreamLimits,
    /// Longest distance of keyframes that the source log is sized for.
    pub gop: Duration,
    pub source_log: LogSize,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let refuse = |source| ConfigError::Read { path: path.to_owned(), source };
        let bytes = read_bounded(path).map_err(refuse)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            refuse(std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error()))
        })?;
        Self::parse(&text, path)
    }

    /// Checks a text; `file` is what errors call it.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text)
            .map_err(|error| error::Fault::from_toml(&error))
            .and_then(check::check)
            .map_err(|fault| fault.locate(file, text))
    }

    /// What holds without any file.
    #[must_use]
    pub fn embedded() -> Self {
        match check::check(raw::RawConfig::default()) {
            Ok(config) => config,
            Err(fault) => unreachable!("the embedded defaults are tested: {fault:?}"),
        }
    }

    /// Where the status socket goes.
    #[must_use]
    pub fn status_socket(&self) -> PathBuf {
        self.status.socket.clone().unwrap_or_else(default_socket_here)
    }

    /// Worker slots on a machine with this many cores.
    #[must_use]
    pub fn worker_count(&self, cores: usize) -> u16 {
        match self.workers.count {
            WorkerCount::Auto => u16::try_from(cores).unwrap_or(u16::MAX).clamp(1, 64),
            WorkerCount::Fixed(count) => count,
        }
    }

    /// Worker processes that may be there at once on a machine with this many cores.
    #[must_use]
    pub fn process_count(&self, cores: usize) -> u32 {
        u32::from(self.worker_count(cores)) + self.workers.standby
    }

    /// What is allowed, but should be known: a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.rtmp.authorisation == Authorisation::Open {
            warnings.push(
                "anyone who reaches the RTMP listeners may publish (allow_open without [keys])"
                    .to_owned(),
            );
        }
        if self.chaos.is_some() {
            warnings.push("[chaos] makes every worker leak memory on purpose".to_owned());
        }
        warnings.extend(self.collisions());
        for (app, plan) in &self.apps {
            for push in plan.pushes.iter().filter(|push| !push.tells_names_apart()) {
                warnings.push(format!(
                    "app '{app}': the push to {push} has no {{name}}: two streams would collide"
                ));
            }
        }
        warnings
    }
}

impl Config {
    /// Viewers go on being served from where they are: what a running server cannot change stays as it
    /// is in `running`.
    pub fn keep_viewers_of(&mut self, running: &Self) {
        self.delivery.hls_directory = Some(running.hls_root());
        if !running.has_viewers() {
            for app in self.apps.values_mut() {
                (app.hls, app.flv) = (None, None);
            }
        }
    }

    /// Is any application for viewers?
    #[must_use]
    pub fn has_viewers(&self) -> bool {
        self.apps.values().any(|app| app.hls.is_some() || app.flv.is_some())
    }

    /// Applications that push to the same place.
    fn collisions(&self) -> Vec<String> {
        let pushes = self.apps.iter().flat_map(|(app, a)| a.pushes.iter().map(move |p| (app, p)));
        let pushes: Vec<_> = pushes.collect();
        let mut warnings = Vec::new();
        for (position, (app, push)) in pushes.iter().enumerate() {
            let other = pushes[..position].iter().find(|(other, earlier)| {
                other != app && push.is_same_place(earlier) && !push.tells_apps_apart()
            });
            if let Some((other, _)) = other {
                warnings.push(format!(
                    "apps '{other}' and '{app}' both push to {push} without {{app}}: streams of \
                     the same name would collide"
                ));
            }
        }
        warnings
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::embedded()
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let bound = u64::try_from(CONFIG_BYTES_MAX).unwrap_or(u64::MAX);
    std::fs::File::open(path)?.take(bound + 1).read_to_end(&mut bytes)?;
    if bytes.len() > CONFIG_BYTES_MAX {
        let message = format!("longer than {CONFIG_BYTES_MAX} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}
