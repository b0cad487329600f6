//! The file as written: shapes only, every value with its place in the text. `check` makes a
//! `Config` of it.

use super::units::{AutoOr, Bitrate, Percent, Pressure, Size, SizeOrShare, Time};
use super::{LogFormat, LogLevel, Recycling, SameName};
use crate::message::{LeakKind, LeakShape};
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawConfig {
    pub rtmp: RawRtmp,
    pub status: RawStatus,
    pub workers: RawWorkers,
    pub memory: RawMemory,
    pub chaos: Option<RawChaos>,
    pub log: RawLog,
    pub delivery: RawDelivery,
    pub console: RawConsole,
    pub keys: RawKeys,
    pub apps: BTreeMap<Spanned<String>, RawApp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawRtmp {
    pub listen: Option<Spanned<Vec<Spanned<String>>>>,
    pub allow_open: bool,
    pub silence_timeout: Option<Spanned<Time>>,
    pub lobby_per_address: Option<Spanned<u64>>,
    pub same_name: SameName,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawStatus {
    pub socket: Option<Spanned<String>>,
    pub mode: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawWorkers {
    pub count: Option<Spanned<AutoOr>>,
    pub streams_per_worker: Option<Spanned<u64>>,
    pub sessions_max: Option<Spanned<u64>>,
    pub cpu_limit: Option<Spanned<Percent>>,
    pub standby: Option<Spanned<u64>>,
    pub spare_codecs: Option<bool>,
    pub restart_backoff_first: Option<Spanned<Time>>,
    pub restart_backoff_max: Option<Spanned<Time>>,
    pub restart_intensity: Option<Spanned<u64>>,
    pub restart_window: Option<Spanned<Time>>,
    pub shutdown_deadline: Option<Spanned<Time>>,
    pub hang_deadline: Option<Spanned<Time>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawMemory {
    pub recycle: Recycling,
    pub soft: Option<Spanned<SizeOrShare>>,
    pub hard: Option<Spanned<SizeOrShare>>,
    pub margin: Option<Spanned<Time>>,
    pub samples: Option<Spanned<u64>>,
    pub max_age: Option<Spanned<Time>>,
    pub max_sessions: Option<Spanned<u64>>,
    pub threads: Option<Spanned<AutoOr>>,
    pub fds: Option<Spanned<AutoOr>>,
    pub min_life: Option<Spanned<Time>>,
    pub budget: Option<Spanned<u64>>,
    pub window: Option<Spanned<Time>>,
    pub host_pressure: Option<Spanned<Pressure>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawChaos {
    pub leak: Option<Spanned<Size>>,
    pub kind: LeakKind,
    pub shape: LeakShape,
    pub until: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawLog {
    pub format: LogFormat,
    pub level: LogLevel,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawDelivery {
    pub listen: Option<Spanned<Vec<Spanned<String>>>>,
    pub certificate: Option<Spanned<String>>,
    pub key: Option<Spanned<String>>,
    pub allow_origin: Option<Spanned<String>>,
    pub connections_max: Option<Spanned<u64>>,
    pub drain_deadline: Option<Spanned<Time>>,
    pub connections_per_address_max: Option<Spanned<u64>>,
    pub hls_directory: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawConsole {
    pub listen: Option<Spanned<Vec<Spanned<String>>>>,
    pub token_file: Option<Spanned<String>>,
    pub agent_check: Option<Spanned<Vec<Spanned<String>>>>,
}

/// Secret → name. Its `Debug` shows neither.
#[derive(Default, Deserialize)]
#[serde(transparent, expecting = "a table of \"stream key\" = \"public name\"")]
pub(super) struct RawKeys(pub BTreeMap<Spanned<String>, Spanned<String>>);

impl std::fmt::Debug for RawKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawKeys({})", self.0.len())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawApp {
    pub audio: RawAudio,
    pub audio_bitrate: Option<Spanned<Bitrate>>,
    pub blur: Option<Spanned<Vec<Spanned<RawBlur>>>>,
    pub rungs: Option<Spanned<Vec<Spanned<RawRung>>>>,
    pub push: Vec<RawPush>,
    pub record: Option<RawRecord>,
    pub hls: Option<RawHls>,
    pub flv: Option<RawFlv>,
    pub limits: RawLimits,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawAudio {
    #[default]
    Copy,
    Aac,
    None,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawBlur {
    pub left: Percent,
    pub top: Percent,
    pub width: Percent,
    pub height: Percent,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawRung {
    pub label: Option<Spanned<String>>,
    pub source: bool,
    pub unblurred: bool,
    pub height: Option<Spanned<u64>>,
    pub bitrate: Option<Spanned<Bitrate>>,
    pub preset: Option<Spanned<String>>,
    pub crf: Option<Spanned<f32>>,
}

/// Its URL may carry a secret, so there is no derived `Debug`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawPush {
    pub url: Spanned<String>,
    pub rungs: Option<Spanned<Vec<Spanned<String>>>>,
}

impl std::fmt::Debug for RawPush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawPush").field("rungs", &self.rungs).finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawRecord {
    pub directory: Spanned<String>,
    #[serde(default)]
    pub rungs: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    pub rotate: Option<Spanned<Time>>,
    #[serde(default)]
    pub keep_age: Option<Spanned<Time>>,
    #[serde(default)]
    pub keep_size: Option<Spanned<Size>>,
    #[serde(default)]
    pub reserve: Option<Spanned<Size>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawHls {
    pub rungs: Option<Spanned<Vec<Spanned<String>>>>,
    pub target_duration: Option<Spanned<Time>>,
    pub window: Option<Spanned<Time>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawFlv {
    pub offer: Option<bool>,
    pub rungs: Option<Spanned<Vec<Spanned<String>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct RawLimits {
    pub width: Option<Spanned<u64>>,
    pub height: Option<Spanned<u64>>,
    pub fps: Option<Spanned<u64>>,
    pub bitrate: Option<Spanned<Bitrate>>,
    pub gop: Option<Spanned<Time>>,
}
