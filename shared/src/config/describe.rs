//! What a configuration comes to on a machine: what `tasuki check` prints.

use super::{App, Authorisation, Config, Hls, Machine, MemoryDescription, SameName};
use crate::id::RungId;
use crate::plan::{AudioPlan, RungKind, RungPlan};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// A configuration in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    pub listen: Vec<String>,
    pub authorisation: String,
    pub same_name: SameName,
    pub status_socket: String,
    pub status_mode: String,
    pub cores: usize,
    pub workers: u16,
    pub standby: u32,
    pub streams_per_worker: u32,
    /// Streams that the workers have slots for.
    pub streams_max: u32,
    pub sessions_max: u32,
    pub cpu_limit_percent: f32,
    pub memory: MemoryDescription,
    /// Where viewers are served, if anything is packaged for them.
    pub delivery: Option<String>,
    /// Where operators are served, if anywhere.
    pub console: Option<String>,
    pub apps: Vec<AppDescription>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AppDescription {
    pub name: String,
    pub audio: String,
    pub limits: String,
    pub blur_rectangles: usize,
    pub rungs: Vec<RungDescription>,
    pub source_log_bytes: u64,
    /// All logs of one stream.
    pub logs_bytes: u64,
    /// Host, port and application; never the stream name.
    pub pushes: Vec<String>,
    pub record: Option<String>,
    pub hls: Option<String>,
    pub flv: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RungDescription {
    pub label: String,
    pub what: String,
    pub bitrate_bps: Option<u64>,
    pub preset: Option<String>,
    pub crf: Option<f32>,
    /// Zero for the source, whose log every stream has.
    pub log_bytes: u64,
}

impl Config {
    /// The figures on a machine.
    #[must_use]
    pub fn describe(&self, machine: Machine) -> Description {
        let cores = machine.cores;
        let workers = self.worker_count(cores);
        Description {
            listen: self.rtmp.listen.iter().map(ToString::to_string).collect(),
            authorisation: match self.rtmp.authorisation {
                Authorisation::Keys => format!("{} stream keys", self.keys.len()),
                Authorisation::LoopbackOnly => "none; only this machine can publish".to_owned(),
                Authorisation::Open => "none; anyone can publish".to_owned(),
            },
            same_name: self.rtmp.same_name,
            status_socket: self.status_socket().display().to_string(),
            status_mode: format!("{:04o}", self.status.mode),
            cores,
            workers,
            standby: self.workers.standby,
            streams_per_worker: self.workers.streams_per_worker,
            streams_max: self.workers.streams_per_worker.saturating_mul(u32::from(workers)),
            sessions_max: self.workers.sessions_max,
            cpu_limit_percent: self.workers.cpu_limit_percent,
            memory: MemoryDescription::new(
                &self.memory,
                machine,
                self.process_count(cores),
                self.workers.streams_per_worker,
            ),
            delivery: self.has_viewers().then(|| self.viewers()),
            console: (!self.console.listen.is_empty()).then(|| self.operators()),
            apps: self.apps.iter().map(|(name, app)| describe_app(name, app)).collect(),
            warnings: self.warnings(),
        }
    }
}

impl Config {
    fn viewers(&self) -> String {
        let scheme = if self.delivery.tls.is_some() { "https" } else { "http" };
        let listen = self.delivery.listen.iter().map(|address| format!("{scheme}://{address}"));
        let listen = listen.collect::<Vec<_>>().join(", ");
        let most = self.delivery.connections_max;
        let of_one = match self.delivery.connections_per_address_max {
            0 => "any number".to_owned(),
            of_one => of_one.to_string(),
        };
        let parts = self.hls_root();
        format!(
            "{listen}; at most {most} connections, {of_one} from one address; parts in {}",
            parts.display()
        )
    }

    fn operators(&self) -> String {
        let listen = self.console.listen.iter().map(|address| format!("http://{address}/"));
        let listen = listen.collect::<Vec<_>>().join(", ");
        let token = match &self.console.token_file {
            Some(file) => format!("with the token in {}", file.display()),
            None => "without a token".to_owned(),
        };
        format!("{listen}; {token}")
    }
}

fn describe_hls(hls: &Hls, rungs: &[RungPlan]) -> String {
    format!(
        "{}, segments of at most {}, the last {}",
        labels(&hls.rungs, rungs),
        duration(hls.target),
        duration(hls.window)
    )
}

fn labels(ids: &[RungId], rungs: &[RungPlan]) -> String {
    let labels = ids.iter().filter_map(|id| rungs.get(usize::from(id.0)));
    let labels: Vec<_> = labels.map(|rung| rung.label.as_str()).collect();
    labels.join(", ")
}

fn describe_app(name: &str, app: &App) -> AppDescription {
    let rungs: Vec<_> = app.rungs.iter().map(describe_rung).collect();
    let (audio, audio_log_bytes) = match app.audio {
        AudioPlan::Copy => ("copied".to_owned(), 0),
        AudioPlan::Aac { bitrate_bps, log } => {
            (format!("AAC {}", bitrate(bitrate_bps)), log.payload_bytes)
        }
        AudioPlan::None => ("none".to_owned(), 0),
    };
    let rung_logs: u64 = rungs.iter().map(|rung| rung.log_bytes).sum();
    AppDescription {
        name: name.to_owned(),
        audio,
        limits: format!(
            "{}x{}, {} fps, {}, a keyframe every {}",
            app.limits.width_max,
            app.limits.height_max,
            app.limits.fps_max,
            bitrate(app.limits.bitrate_bps_max),
            duration(app.gop),
        ),
        blur_rectangles: app.blur.len(),
        rungs,
        source_log_bytes: app.source_log.payload_bytes,
        logs_bytes: app.source_log.payload_bytes + rung_logs + audio_log_bytes,
        pushes: app
            .pushes
            .iter()
            .map(|push| format!("{push} ({})", labels(&push.rungs, &app.rungs)))
            .collect(),
        record: app.record.as_ref().map(|record| record.directory.display().to_string()),
        hls: app.hls.as_ref().map(|hls| describe_hls(hls, &app.rungs)),
        flv: app.flv.as_ref().map(|flv| labels(flv, &app.rungs)),
    }
}

fn describe_rung(rung: &RungPlan) -> RungDescription {
    let label = rung.label.clone();
    match &rung.kind {
        RungKind::Source => RungDescription {
            label,
            what: "passed through".to_owned(),
            bitrate_bps: None,
            preset: None,
            crf: None,
            log_bytes: 0,
        },
        RungKind::Encoded(encoded) => RungDescription {
            label,
            what: format!("short side {}", encoded.short_side),
            bitrate_bps: Some(encoded.bitrate_bps),
            preset: Some(encoded.preset.clone()),
            crf: Some(encoded.crf),
            log_bytes: encoded.log.payload_bytes,
        },
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "RTMP on       {}", self.listen.join(", "))?;
        writeln!(f, "authorisation {}", self.authorisation)?;
        writeln!(f, "status socket {} (mode {})", self.status_socket, self.status_mode)?;
        writeln!(
            f,
            "workers       {} on {} cores, {} in standby",
            self.workers, self.cores, self.standby
        )?;
        writeln!(
            f,
            "streams       up to {} ({} per worker, {} sessions, processor below {}%)",
            self.streams_max.min(self.sessions_max),
            self.streams_per_worker,
            self.sessions_max,
            self.cpu_limit_percent
        )?;
        if let Some(delivery) = &self.delivery {
            writeln!(f, "viewers       {delivery}")?;
        }
        if let Some(console) = &self.console {
            writeln!(f, "console       {console}")?;
        }
        write!(f, "{}", self.memory)?;
        for app in &self.apps {
            write!(f, "\n{app}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

impl fmt::Display for AppDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "app '{}'", self.name)?;
        writeln!(f, "  accepts     {}", self.limits)?;
        writeln!(f, "  audio       {}", self.audio)?;
        if self.blur_rectangles > 0 {
            writeln!(f, "  blur        {} rectangles", self.blur_rectangles)?;
        }
        for rung in &self.rungs {
            write!(f, "  rung        {:<10} ", rung.label)?;
            if let (Some(bps), Some(preset), Some(crf)) = (rung.bitrate_bps, &rung.preset, rung.crf)
            {
                let (bps, log) = (bitrate(bps), bytes(rung.log_bytes));
                writeln!(f, "{:<16} {bps:>6}  {preset}, crf {crf}, log {log}", rung.what)?;
            } else {
                writeln!(f, "{}", rung.what)?;
            }
        }
        let (logs, source) = (bytes(self.logs_bytes), bytes(self.source_log_bytes));
        writeln!(f, "  memory      {logs} of logs per stream (source log {source})")?;
        for push in &self.pushes {
            writeln!(f, "  push        {push}")?;
        }
        if let Some(record) = &self.record {
            writeln!(f, "  record      {record}")?;
        }
        if let Some(hls) = &self.hls {
            writeln!(f, "  HLS         {hls}")?;
        }
        if let Some(flv) = &self.flv {
            writeln!(f, "  FLV         {flv}")?;
        }
        Ok(())
    }
}

/// As one would write it in the file.
pub(super) fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if millis >= unit && millis.is_multiple_of(unit) {
            return format!("{}{name}", millis / unit);
        }
    }
    if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") }
}

/// As one would write it in the file.
pub(super) fn bitrate(bps: u64) -> String {
    if bps >= 1_000_000 && bps.is_multiple_of(100_000) {
        let (whole, tenth) = (bps / 1_000_000, bps / 100_000 % 10);
        if tenth == 0 { format!("{whole}M") } else { format!("{whole}.{tenth}M") }
    } else if bps >= 1000 && bps.is_multiple_of(1000) {
        format!("{}k", bps / 1000)
    } else {
        bps.to_string()
    }
}

/// As one would write it in the file, cut to a tenth.
pub(super) fn bytes(bytes: u64) -> String {
    for (shift, name) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift {
            let tenths = (u128::from(bytes) * 10) >> shift;
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if tenth == 0 {
                format!("{whole}{name}")
            } else {
                format!("{whole}.{tenth}{name}")
            };
        }
    }
    format!("{bytes}B")
}
