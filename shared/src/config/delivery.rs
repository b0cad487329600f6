//! `[delivery]`, what viewers connect to, and `[apps.NAME.hls]`, what is packaged for them.

use super::Config;
use super::check::{absolute_path, check_listen, number, secs, time};
use super::error::Fault;
use super::raw::{RawDelivery, RawHls};
use crate::id::{PublicName, RungId};
use crate::limits::{
    DELIVERY_CONNECTIONS_DEFAULT, DELIVERY_CONNECTIONS_PER_ADDRESS_DEFAULT, DELIVERY_DRAIN_DEFAULT,
    DELIVERY_DRAIN_MAX, HLS_PART_TARGET_MS, HLS_TARGET_DEFAULT, HLS_TARGET_MAX, HLS_TARGET_MIN,
    HLS_WINDOW_DEFAULT, HLS_WINDOW_MAX, HLS_WINDOW_TARGETS_MIN,
};
use crate::plan::HlsPlan;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// HTTP listeners of the delivery process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub listen: Vec<SocketAddr>,
    /// Plain HTTP without.
    pub tls: Option<Tls>,
    /// Access-Control-Allow-Origin.
    pub allow_origin: String,
    pub connections_max: u32,
    /// How long viewers of a process that is replaced may go on with it.
    pub drain_deadline: Duration,
    /// Of one address or IPv6 /64; 0 is no bound.
    pub connections_per_address_max: u32,
    /// `None`: beside the status socket, or in /dev/shm.
    pub hls_directory: Option<PathBuf>,
}

/// PEM files, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What of an application's streams is packaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hls {
    pub rungs: Vec<RungId>,
    pub target: Duration,
    pub window: Duration,
}

/// RTMP's, with an 8 for HTTP: hardly any other program takes it.
const PORT: u16 = 8935;
const ORIGIN_BYTES_MAX: usize = 256;

/// Where viewers connect when the file does not say.
#[must_use]
pub fn default_delivery_listen() -> Vec<SocketAddr> {
    vec![
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, PORT)),
    ]
}

impl Config {
    /// Where streams have their directories. Memory, not a disk, unless the file says so.
    #[must_use]
    pub fn hls_root(&self) -> PathBuf {
        if let Some(directory) = &self.delivery.hls_directory {
            return directory.clone();
        }
        match self.status_socket().parent() {
            // A system without any runtime directory: /tmp may be a disk, this is not.
            Some(parent) if parent.starts_with("/tmp") => {
                let uid = nix::unistd::getuid();
                PathBuf::from(format!("/dev/shm/tasuki-{uid}"))
            }
            Some(parent) => parent.join("hls"),
            None => PathBuf::from("/dev/shm/tasuki"),
        }
    }
}

impl Hls {
    /// Of every rung, as where the file says nothing.
    pub(super) fn of_all(rungs: usize) -> Self {
        Self {
            rungs: (0_u8..).map(RungId).take(rungs).collect(),
            target: HLS_TARGET_DEFAULT,
            window: HLS_WINDOW_DEFAULT,
        }
    }

    /// For one stream. Application names are as harmless in a path as public names are.
    pub(super) fn plan(&self, root: &Path, app: &str, name: &PublicName) -> HlsPlan {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        HlsPlan {
            directory: root.join(app).join(name.as_str()),
            rungs: self.rungs.clone(),
            target_ms: millis(self.target),
            part_target_ms: HLS_PART_TARGET_MS,
            window_ms: millis(self.window),
        }
    }
}

pub(super) fn check(raw: RawDelivery) -> Result<Delivery, Fault> {
    let RawDelivery {
        listen,
        certificate,
        key,
        allow_origin,
        connections_max,
        drain_deadline,
        connections_per_address_max,
        hls_directory,
    } = raw;
    let listen = match listen {
        Some(list) => check_listen(list)?,
        None => default_delivery_listen(),
    };
    let path = |text: &Spanned<String>, what| absolute_path(text, what, 4096);
    let tls = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            Some(Tls { certificate: path(&certificate, "certificate")?, key: path(&key, "key")? })
        }
        (Some(at), None) | (None, Some(at)) => {
            let message = "TLS needs both: certificate and key name a PEM file each";
            return Err(Fault::new(at.span(), message));
        }
    };
    let allow_origin = match allow_origin {
        None => "*".to_owned(),
        Some(origin) => check_origin(&origin)?,
    };
    let hls_directory =
        hls_directory.map(|text| absolute_path(&text, "hls_directory", 1024)).transpose()?;
    let connections_max = number(
        connections_max.as_ref(),
        DELIVERY_CONNECTIONS_DEFAULT,
        "connections_max",
        1..=1_000_000,
    )?;
    let drain_deadline = time(
        drain_deadline.as_ref(),
        DELIVERY_DRAIN_DEFAULT,
        "drain_deadline",
        Duration::ZERO..=DELIVERY_DRAIN_MAX,
    )?;
    let connections_per_address_max = number(
        connections_per_address_max.as_ref(),
        DELIVERY_CONNECTIONS_PER_ADDRESS_DEFAULT,
        "connections_per_address_max",
        0..=1_000_000,
    )?;
    Ok(Delivery {
        listen,
        tls,
        allow_origin,
        connections_max,
        connections_per_address_max,
        drain_deadline,
        hls_directory,
    })
}

/// One origin, or `*` (Fetch, "Access-Control-Allow-Origin").
fn check_origin(raw: &Spanned<String>) -> Result<String, Fault> {
    let text = raw.get_ref();
    let plain = text.len() <= ORIGIN_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    let origin = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_origin = origin.is_some_and(|host| !host.is_empty() && !host.contains(['/', ',', '?']));
    if plain && (text == "*" || is_origin) {
        return Ok(text.clone());
    }
    let message = "allow_origin is \"*\" or one origin like \"https://player.example\"";
    Err(Fault::new(raw.span(), message))
}

/// `rungs` is checked by who knows the ladder.
pub(super) fn check_hls(raw: &RawHls, rungs: Vec<RungId>) -> Result<Hls, Fault> {
    let RawHls { rungs: _, target_duration, window } = raw;
    let target = time(
        target_duration.as_ref(),
        HLS_TARGET_DEFAULT,
        "target_duration",
        HLS_TARGET_MIN..=HLS_TARGET_MAX,
    )?;
    if let Some(raw) = target_duration
        && target.subsec_nanos() != 0
    {
        return Err(Fault::new(raw.span(), "target_duration is in whole seconds"));
    }
    let least = target * HLS_WINDOW_TARGETS_MIN;
    let default = HLS_WINDOW_DEFAULT.max(least);
    let window = time(window.as_ref(), default, "window", least..=HLS_WINDOW_MAX)?;
    Ok(Hls { rungs, target, window })
}

const _: () = assert!(
    HLS_TARGET_DEFAULT.as_secs() * HLS_WINDOW_TARGETS_MIN as u64 <= HLS_WINDOW_DEFAULT.as_secs()
        && HLS_TARGET_MAX.as_secs() * HLS_WINDOW_TARGETS_MIN as u64 <= secs(3600).as_secs()
);
