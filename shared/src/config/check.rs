//! From the file's shape to a `Config`: bounds, names and what must fit together. Every refusal
//! says where and what would be accepted. Applications are in `check/app.rs`.

mod app;

use super::error::Fault;
use super::raw::{RawConfig, RawKeys, RawLog, RawRtmp, RawStatus, RawWorkers};
use super::units::{AutoOr, Percent, Time};
use super::{Authorisation, Config, Keys, Log, Rtmp, StatusSocket, WorkerCount, Workers};
use crate::id::{PublicName, StreamKey};
use crate::limits::{
    APPS_MAX, HANG_DEADLINE, HANG_DEADLINE_MAX, HANG_DEADLINE_MIN, KEYS_MAX, LABEL_BYTES_MAX,
    LISTENERS_MAX, SILENCE_DEADLINE, STREAM_KEY_BYTES_MAX,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

pub(super) fn check(raw: RawConfig) -> Result<Config, Fault> {
    let RawConfig { rtmp, status, workers, memory, chaos, log, delivery, console, keys, apps } =
        raw;
    let keys = check_keys(keys)?;
    let urls: BTreeMap<String, Vec<Range<usize>>> = apps
        .iter()
        .map(|(name, app)| {
            (name.get_ref().clone(), app.push.iter().map(|push| push.url.span()).collect())
        })
        .collect();
    let config = Config {
        rtmp: check_rtmp(rtmp, &keys)?,
        status: check_status(status)?,
        workers: check_workers(workers)?,
        memory: super::memory::check(&memory)?,
        chaos: super::chaos::check(chaos.as_ref())?,
        log: check_log(&log),
        delivery: super::delivery::check(delivery)?,
        console: super::console::check(console)?,
        keys,
        apps: check_apps(apps)?,
    };
    check_loops(&config, &urls)?;
    Ok(config)
}

/// A push to our own listener would come back as another publisher, and be pushed again.
fn check_loops(config: &Config, urls: &BTreeMap<String, Vec<Range<usize>>>) -> Result<(), Fault> {
    for (name, app) in &config.apps {
        for (position, push) in app.pushes.iter().enumerate() {
            let ours = config.rtmp.listen.iter().find(|listener| push.reaches(**listener));
            let target = push.fixed_app(name).filter(|app| config.apps.contains_key(app));
            if let (Some(listener), Some(target)) = (ours, target) {
                let at = urls.get(name).and_then(|urls| urls.get(position)).cloned();
                let message = format!(
                    "this pushes into application '{target}' of this very server ({listener}): \
                     a loop; name an origin"
                );
                return Err(Fault::new(at.unwrap_or(0..0), message));
            }
        }
    }
    Ok(())
}

fn check_rtmp(raw: RawRtmp, keys: &Keys) -> Result<Rtmp, Fault> {
    let RawRtmp { listen, allow_open, silence_timeout, lobby_per_address, same_name } = raw;
    let listen_at = listen.as_ref().map_or(0..0, Spanned::span);
    let listen = match listen {
        Some(list) => check_listen(list)?,
        None => super::default_listen(),
    };
    let open = listen.iter().find(|address| !is_loopback(address.ip()));
    let authorisation = match (keys.is_empty(), open, allow_open) {
        (false, _, _) => Authorisation::Keys,
        (true, None, _) => Authorisation::LoopbackOnly,
        (true, Some(_), true) => Authorisation::Open,
        (true, Some(address), false) => {
            let message = format!(
                "{address} is reachable from outside and nothing says who may publish: \
                 fill [keys], listen on 127.0.0.1 and [::1] only, or set allow_open = true"
            );
            return Err(Fault::new(listen_at, message));
        }
    };
    let silence_timeout =
        time(silence_timeout.as_ref(), SILENCE_DEADLINE, "silence_timeout", secs(1)..=secs(3600))?;
    let lobby_per_address =
        number(lobby_per_address.as_ref(), 64, "lobby_per_address", 0..=65_536)?;
    Ok(Rtmp { listen, authorisation, silence_timeout, lobby_per_address, same_name })
}

pub(super) fn check_listen(list: Spanned<Vec<Spanned<String>>>) -> Result<Vec<SocketAddr>, Fault> {
    let at = list.span();
    let list = list.into_inner();
    if list.is_empty() || list.len() > LISTENERS_MAX {
        return Err(Fault::new(at, format!("listen has 1 to {LISTENERS_MAX} addresses")));
    }
    let mut addresses = Vec::new();
    for text in list {
        let address: SocketAddr = text.get_ref().parse().map_err(|_| {
            let message = "an address is written \"127.0.0.1:1935\", \"0.0.0.0:1935\" or \
                           \"[::1]:1935\" (no host names; port 0 takes a free one)";
            Fault::new(text.span(), message)
        })?;
        if address.port() != 0 && addresses.contains(&address) {
            return Err(Fault::new(text.span(), format!("{address} is listed twice")));
        }
        let overlaps = |other: &&SocketAddr| {
            other.port() == address.port()
                && address.port() != 0
                && other.is_ipv4() == address.is_ipv4()
                && (other.ip().is_unspecified() || address.ip().is_unspecified())
        };
        if let Some(other) = addresses.iter().find(overlaps) {
            let message = format!("{address} and {other} overlap: one takes what the other names");
            return Err(Fault::new(text.span(), message));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn check_status(raw: RawStatus) -> Result<StatusSocket, Fault> {
    let RawStatus { socket, mode } = raw;
    let socket = socket.map(|text| absolute_path(&text, "socket", 107)).transpose()?;
    let mode = match mode {
        Some(text) => parse_mode(text.get_ref()).ok_or_else(|| {
            let message = "mode is \"0600\" for the server's user and root alone, or \"0660\" \
                           for the socket's group too";
            Fault::new(text.span(), message)
        })?,
        None => 0o600,
    };
    Ok(StatusSocket { socket, mode })
}

/// Whoever may connect may end sessions, so never everybody.
fn parse_mode(text: &str) -> Option<u32> {
    match text {
        "0600" | "600" => Some(0o600),
        "0660" | "660" => Some(0o660),
        _ => None,
    }
}

fn check_workers(raw: RawWorkers) -> Result<Workers, Fault> {
    let RawWorkers {
        count,
        streams_per_worker,
        sessions_max,
        cpu_limit,
        standby,
        spare_codecs,
        restart_backoff_first,
        restart_backoff_max,
        restart_intensity,
        restart_window,
        shutdown_deadline,
        hang_deadline,
    } = raw;
    let first = restart_backoff_first.as_ref();
    let max = restart_backoff_max.as_ref();
    let backoff_span = Duration::from_millis(10)..=secs(600);
    let backoff_first =
        time(first, Duration::from_millis(200), "restart_backoff_first", backoff_span.clone())?;
    let backoff_max = time(max, secs(30).max(backoff_first), "restart_backoff_max", backoff_span)?;
    if let Some(max) = max.filter(|_| backoff_max < backoff_first) {
        let message = "restart_backoff_max must not be less than restart_backoff_first";
        return Err(Fault::new(max.span(), message));
    }
    Ok(Workers {
        count: check_count(count.as_ref())?,
        streams_per_worker: number(streams_per_worker.as_ref(), 8, "streams_per_worker", 1..=64)?,
        sessions_max: number(sessions_max.as_ref(), 512, "sessions_max", 1..=65_536)?,
        cpu_limit_percent: check_cpu_limit(cpu_limit.as_ref())?,
        standby: number(standby.as_ref(), 1, "standby", 0..=8)?,
        spare_codecs: spare_codecs.unwrap_or(true),
        restart_backoff_first: backoff_first,
        restart_backoff_max: backoff_max,
        restart_intensity: number(restart_intensity.as_ref(), 10, "restart_intensity", 1..=1000)?,
        restart_window: time(
            restart_window.as_ref(),
            secs(60),
            "restart_window",
            secs(1)..=secs(86_400),
        )?,
        shutdown_deadline: time(
            shutdown_deadline.as_ref(),
            secs(30),
            "shutdown_deadline",
            secs(0)..=secs(7 * 86_400),
        )?,
        hang_deadline: time(
            hang_deadline.as_ref(),
            HANG_DEADLINE,
            "hang_deadline",
            HANG_DEADLINE_MIN..=HANG_DEADLINE_MAX,
        )?,
    })
}

fn check_count(raw: Option<&Spanned<AutoOr>>) -> Result<WorkerCount, Fault> {
    match raw.map(|count| (count.span(), *count.get_ref())) {
        None | Some((_, AutoOr::Auto)) => Ok(WorkerCount::Auto),
        Some((at, AutoOr::Fixed(count))) => match u16::try_from(count) {
            Ok(count @ 1..=64) => Ok(WorkerCount::Fixed(count)),
            Ok(_) | Err(_) => Err(Fault::new(at, "count is \"auto\" or 1 to 64")),
        },
    }
}

fn check_cpu_limit(raw: Option<&Spanned<Percent>>) -> Result<f32, Fault> {
    let Some(raw) = raw else { return Ok(90.0) };
    let Percent(hundredths) = *raw.get_ref();
    match u16::try_from(hundredths) {
        Ok(hundredths @ 1000..=10_000) => Ok(f32::from(hundredths) / 100.0),
        Ok(_) | Err(_) => Err(Fault::new(raw.span(), "cpu_limit is from \"10%\" to \"100%\"")),
    }
}

fn check_log(raw: &RawLog) -> Log {
    let RawLog { format, level } = *raw;
    Log { format, level }
}

/// No message here may quote a key, nor a name: the two are easily swapped.
fn check_keys(raw: RawKeys) -> Result<Keys, Fault> {
    let mut keys = HashMap::new();
    let mut names = HashSet::new();
    for (position, (key, name)) in raw.0.into_iter().enumerate() {
        if position == KEYS_MAX {
            return Err(Fault::new(key.span(), format!("[keys] has at most {KEYS_MAX} entries")));
        }
        if !(1..=STREAM_KEY_BYTES_MAX).contains(&key.get_ref().len()) {
            let message = format!("a stream key has 1 to {STREAM_KEY_BYTES_MAX} bytes");
            return Err(Fault::new(key.span(), message));
        }
        let public = PublicName::parse(name.get_ref())
            .map_err(|bad| Fault::new(name.span(), bad.to_string()))?;
        if !names.insert(public.clone()) {
            let message = "two keys have this public name; every key needs a name of its own";
            return Err(Fault::new(name.span(), message));
        }
        keys.insert(StreamKey(key.into_inner()), public);
    }
    Ok(Keys(keys))
}

fn check_apps(
    raw: BTreeMap<Spanned<String>, super::raw::RawApp>,
) -> Result<BTreeMap<String, super::App>, Fault> {
    if raw.is_empty() {
        let live = app::check("live", &(0..0), super::raw::RawApp::default())?;
        let hls = super::Hls::of_all(live.rungs.len());
        let flv = Some(hls.rungs.clone());
        let live = super::App { hls: Some(hls), flv, ..live };
        return Ok(BTreeMap::from([("live".to_owned(), live)]));
    }
    let mut apps = BTreeMap::new();
    for (name, raw) in raw {
        let at = name.span();
        if apps.len() == APPS_MAX {
            return Err(Fault::new(at, format!("there are at most {APPS_MAX} applications")));
        }
        label(&name, "an application name")?;
        let name = name.into_inner();
        let checked = app::check(&name, &at, raw)?;
        apps.insert(name, checked);
    }
    Ok(apps)
}

/// A name that may stand in a URL or path.
fn label(text: &Spanned<String>, what: &str) -> Result<(), Fault> {
    let legal =
        PublicName::parse(text.get_ref()).is_ok() && text.get_ref().len() <= LABEL_BYTES_MAX;
    if legal {
        return Ok(());
    }
    let message =
        format!("{what} is 1 to {LABEL_BYTES_MAX} of A-Z a-z 0-9 . _ - and neither '.' nor '..'");
    Err(Fault::new(text.span(), message))
}

pub(super) fn absolute_path(
    text: &Spanned<String>,
    what: &str,
    bytes_max: usize,
) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(text.get_ref());
    if !path.is_absolute() || text.get_ref().contains('\0') {
        return Err(Fault::new(text.span(), format!("{what} must be an absolute path")));
    }
    if text.get_ref().len() > bytes_max {
        return Err(Fault::new(text.span(), format!("{what} has at most {bytes_max} bytes")));
    }
    Ok(path)
}

pub(super) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) fn time(
    raw: Option<&Spanned<Time>>,
    default: Duration,
    what: &str,
    allowed: RangeInclusive<Duration>,
) -> Result<Duration, Fault> {
    let Some(raw) = raw else { return Ok(default) };
    let value = raw.get_ref().duration();
    if allowed.contains(&value) {
        return Ok(value);
    }
    let shown = |duration: &Duration| super::describe::duration(*duration);
    Err(out_of_range(raw.span(), what, shown(allowed.start()), shown(allowed.end())))
}

pub(super) fn number(
    raw: Option<&Spanned<u64>>,
    default: u32,
    what: &str,
    allowed: RangeInclusive<u32>,
) -> Result<u32, Fault> {
    let Some(raw) = raw else { return Ok(default) };
    match u32::try_from(*raw.get_ref()) {
        Ok(value) if allowed.contains(&value) => Ok(value),
        Ok(_) | Err(_) => Err(out_of_range(raw.span(), what, allowed.start(), allowed.end())),
    }
}

pub(super) fn out_of_range(
    at: std::ops::Range<usize>,
    what: &str,
    least: impl Display,
    most: impl Display,
) -> Fault {
    Fault::new(at, format!("{what} is out of range: it may be {least} to {most}"))
}
