//! From a checked configuration to a running supervisor.

use crate::core::settings::{Console, Delivery, MissingFamily, Rules, SameName, Settings};
use crate::event_loop::{self, Reloaded};
use std::path::{Path, PathBuf};
use tasuki_shared::config::{self, Config};
use tasuki_shared::exit::Exit;
use tasuki_shared::limits::LOBBY_SESSIONS_MAX;
use tasuki_shared::log_output;
use tasuki_shared::message::{ConsolePlan, DeliveryPlan, PublishRequest, RefuseReason};
use tasuki_shared::plan::Plan;

/// Serves until told to stop. `path` is where the configuration came from, if from a file.
pub fn serve(config: Config, path: Option<PathBuf>) -> anyhow::Result<Exit> {
    let settings = settings(&config, path.as_deref());
    let running = config.clone();
    let reload = Box::new(move || {
        let mut config = match &path {
            None => Config::embedded(),
            Some(path) => Config::load(path).map_err(|error| error.to_string())?,
        };
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let settings = self::settings(&config, path.as_deref());
        config.keep_viewers_of(&running);
        Ok(Reloaded { settings, rules: Box::new(StaticRules(config)) })
    });
    event_loop::run(settings, StaticRules(config), reload)
}

/// The rules of the configuration itself: applications, keys, names.
struct StaticRules(Config);

impl Rules for StaticRules {
    fn authorize(&self, request: &PublishRequest) -> Result<Plan, RefuseReason> {
        self.0.authorize(request)
    }
}

fn settings(config: &Config, path: Option<&Path>) -> Settings {
    let Config {
        rtmp,
        status: _,
        workers,
        memory,
        chaos,
        log: _,
        delivery: _,
        console: _,
        keys: _,
        apps: _,
    } = config;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Settings {
        listen: rtmp.listen.clone(),
        missing_family: missing_family(rtmp.listen == config::default_listen()),
        environment: log_output::environment(config.log).to_vec(),
        status_socket: config.status_socket(),
        status_mode: config.status.mode,
        config: path.map_or_else(|| "embedded defaults".into(), |path| path.display().to_string()),
        workers: config.worker_count(cores),
        standby: u16::try_from(workers.standby).unwrap_or(u16::MAX),
        spare_codecs: workers.spare_codecs,
        streams_per_worker: workers.streams_per_worker,
        sessions_max: workers.sessions_max as usize,
        lobby_sessions_max: LOBBY_SESSIONS_MAX,
        lobby_per_address: rtmp.lobby_per_address,
        cpu_limit_percent: workers.cpu_limit_percent,
        same_name: match rtmp.same_name {
            config::SameName::Refuse => SameName::Refuse,
            config::SameName::TakeOver => SameName::TakeOver,
        },
        backoff_first: workers.restart_backoff_first,
        backoff_max: workers.restart_backoff_max,
        restart_intensity: workers.restart_intensity,
        restart_window: workers.restart_window,
        shutdown_deadline: workers.shutdown_deadline,
        hang_deadline: workers.hang_deadline,
        memory: memory.clone(),
        chaos: *chaos,
        delivery: config.has_viewers().then(|| viewers(config)),
        console: (!config.console.listen.is_empty()).then(|| operators(config)),
    }
}

fn operators(config: &Config) -> Console {
    let config::Console { listen, token_file, agent_check } = &config.console;
    Console {
        listen: listen.clone(),
        missing_family: missing_family(*listen == config::default_console_listen()),
        agent_check: agent_check.clone(),
        plan: ConsolePlan {
            status_socket: config.status_socket(),
            token_file: token_file.clone(),
            hls_root: config.hls_root(),
            agent_checks: u8::try_from(agent_check.len()).unwrap_or(u8::MAX),
        },
    }
}

fn viewers(config: &Config) -> Delivery {
    let config::Delivery {
        listen,
        tls,
        allow_origin,
        connections_max,
        drain_deadline,
        connections_per_address_max,
        hls_directory: _,
    } = &config.delivery;
    Delivery {
        listen: listen.clone(),
        missing_family: missing_family(*listen == config::default_delivery_listen()),
        plan: DeliveryPlan {
            hls_root: config.hls_root(),
            tls: tls.as_ref().map(|tls| (tls.certificate.clone(), tls.key.clone())),
            allow_origin: allow_origin.clone(),
            connections_max: *connections_max,
            drain_ms: u32::try_from(drain_deadline.as_millis()).unwrap_or(u32::MAX),
            connections_per_address_max: *connections_per_address_max,
        },
    }
}

/// Nobody asked for the default addresses one by one.
const fn missing_family(is_default: bool) -> MissingFamily {
    if is_default { MissingFamily::Skip } else { MissingFamily::Refuse }
}
