//! The origin: a real nginx with the distribution's RTMP module, on loopback, in a run directory.

use crate::child::{self, Child};
use crate::ports::free_port;
use crate::wait;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Somebody else's program may take a port between our choice and nginx's binding it.
const START_ATTEMPTS: usize = 5;
const START_BOUND: Duration = Duration::from_secs(10);
const STOP_BOUND: Duration = Duration::from_secs(10);
const HTTP_BOUND: Duration = Duration::from_secs(5);

/// What the `live` application does with what it receives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub record: Record,
    /// Further origins that every stream is pushed to, as `host:port/app`.
    pub push_to: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Record {
    /// Each publish into an FLV file of its own.
    #[default]
    All,
    Off,
}

/// A running origin.
#[derive(Debug)]
pub struct Origin {
    process: Child,
    directory: PathBuf,
    rtmp_port: u16,
    http_port: u16,
}

/// One stream as the statistics page shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    pub name: String,
    pub publishing: bool,
    pub bytes_in: u64,
    pub width: u32,
    pub height: u32,
}

impl Origin {
    /// Starts an origin whose `live` application records.
    pub fn start(run: &Path) -> Result<Self> {
        Self::start_with(run, "origin", &Settings::default())
    }

    /// Starts an origin in `run/label`; ready when it accepts connections.
    pub fn start_with(run: &Path, label: &str, settings: &Settings) -> Result<Self> {
        child::require("nginx")?;
        let directory = run.join(label);
        fs::create_dir_all(directory.join("recordings"))?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match Self::try_start(&directory, free_port()?, settings) {
                Ok(origin) => return Ok(origin),
                Err(error) if attempt == START_ATTEMPTS => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Starts an origin that records in `run/label`, on a port that was chosen before.
    pub fn start_at(run: &Path, label: &str, rtmp_port: u16) -> Result<Self> {
        child::require("nginx")?;
        let directory = run.join(label);
        fs::create_dir_all(directory.join("recordings"))?;
        Self::try_start(&directory, rtmp_port, &Settings::default())
    }

    fn try_start(directory: &Path, rtmp_port: u16, settings: &Settings) -> Result<Self> {
        let http_port = free_port()?;
        let config = directory.join("nginx.conf");
        let text = configuration(directory, &rtmp_module()?, (rtmp_port, http_port), settings);
        fs::write(&config, text)?;
        let program =
            if Path::new("/usr/sbin/nginx").is_file() { "/usr/sbin/nginx" } else { "nginx" };
        let mut command = Command::new(program);
        command.arg("-p").arg(directory).arg("-c").arg(&config);
        command.arg("-e").arg(directory.join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Child::start("nginx", directory, &mut command)?;
        wait::until("nginx to accept connections", START_BOUND, || {
            process.must_run()?;
            let ready = [rtmp_port, http_port]
                .into_iter()
                .all(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
            Ok(ready.then_some(()))
        })?;
        process.must_run()?;
        Ok(Self { process, directory: directory.to_path_buf(), rtmp_port, http_port })
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.rtmp_port
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Where to publish a stream, or play it.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{name}", self.rtmp_port)
    }

    /// What was recorded of a stream, oldest first. A file grows while its stream is live.
    pub fn recordings(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.directory.join("recordings"))? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let stem = file.strip_suffix(".flv").unwrap_or(&file);
            if stem.rsplit_once('-').is_some_and(|(stream, _)| stream == name) {
                found.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// The only recording of a stream.
    pub fn recording(&self, name: &str) -> Result<PathBuf> {
        let mut found = self.recordings(name)?;
        ensure!(found.len() == 1, "{} recordings of {name}: {found:?}", found.len());
        found.pop().context("one recording")
    }

    /// The streams that the origin knows now.
    pub fn streams(&self) -> Result<Vec<Stream>> {
        let page = self.statistics()?;
        let blocks = page.split("<stream>").skip(1);
        Ok(blocks.filter_map(|block| block.split("</stream>").next()).map(parse_stream).collect())
    }

    /// Waits until a stream is being published.
    pub fn wait_published(&self, name: &str, bound: Duration) -> Result<Stream> {
        wait::until(&format!("{name} at the origin"), bound, || {
            Ok(self.streams()?.into_iter().find(|stream| stream.name == name && stream.publishing))
        })
    }

    /// Waits until nothing is being published: all recordings are complete.
    pub fn wait_idle(&self, bound: Duration) -> Result<()> {
        wait::until("the origin to have no publisher", bound, || {
            Ok(self.streams()?.iter().all(|stream| !stream.publishing).then_some(()))
        })
    }

    /// RTMP connections that it ever accepted.
    pub fn accepts(&self) -> Result<u64> {
        let page = self.statistics()?;
        let (_, rest) = page.split_once("<naccepted>").context("no count of accepts")?;
        let (count, _) = rest.split_once('<').context("an end of the count")?;
        Ok(count.trim().parse()?)
    }

    /// How often a stream was published by a connection of its own, as the access log has it. The
    /// log says so when a connection ends: waits for the first.
    pub fn wait_publishes(&self, name: &str, bound: Duration) -> Result<usize> {
        let path = self.directory.join("rtmp-access.log");
        let entry = format!("PUBLISH \"live\" \"{name}\" ");
        wait::until(&format!("an end of {name} in the access log"), bound, || {
            let log = fs::read_to_string(&path).context("the access log")?;
            let count = log.lines().filter(|line| line.contains(&entry)).count();
            Ok((count > 0).then_some(count))
        })
    }

    /// The RTMP module's statistics as XML.
    pub fn statistics(&self) -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.http_port))
            .context("the origin's statistics")?;
        stream.set_read_timeout(Some(HTTP_BOUND))?;
        stream.write_all(b"GET /stat HTTP/1.0\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).context("the statistics page")?;
        let (head, body) = reply.split_once("\r\n\r\n").context("no end of the reply's head")?;
        ensure!(head.contains(" 200 "), "the statistics page says {head}");
        Ok(body.to_owned())
    }

    /// Ends it; also done when the value is dropped.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(STOP_BOUND)?;
        Ok(())
    }

    /// SIGKILL: connections end without a word.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        Ok(())
    }
}

/// The module as Debian and Ubuntu install it; a relative path would be below the prefix.
fn rtmp_module() -> Result<PathBuf> {
    ["/usr/lib/nginx/modules", "/usr/share/nginx/modules"]
        .into_iter()
        .map(|directory| Path::new(directory).join("ngx_rtmp_module.so"))
        .find(|path| path.is_file())
        .context("libnginx-mod-rtmp is not installed; `./dev test` installs what the tests need")
}

fn configuration(
    directory: &Path,
    module: &Path,
    (rtmp, http): (u16, u16),
    settings: &Settings,
) -> String {
    let (directory, module) = (directory.display(), module.display());
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let record = match settings.record {
        Record::All => format!(
            "record all; record_path {directory}/recordings; record_unique on; record_suffix .flv;"
        ),
        Record::Off => String::new(),
    };
    let mut push = String::new();
    for to in &settings.push_to {
        let _ = write!(push, "push rtmp://{to};");
    }
    format!(
        "load_module {module};
{user}
daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
events {{ worker_connections 1024; }}
rtmp {{
    access_log {directory}/rtmp-access.log;
    server {{
        listen 127.0.0.1:{rtmp};
        chunk_size 4096;
        ping 30s;
        application live {{ live on; {record} {push} }}
    }}
}}
http {{
    access_log off;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{http};
        location /stat {{ rtmp_stat all; }}
    }}
}}
"
    )
}

fn parse_stream(block: &str) -> Stream {
    let number = |name: &str| element(block, name).and_then(|text| text.parse().ok());
    Stream {
        name: element(block, "name").unwrap_or_default().to_owned(),
        publishing: block.contains("<publishing/>"),
        bytes_in: element(block, "bytes_in").and_then(|text| text.parse().ok()).unwrap_or(0),
        width: number("width").unwrap_or(0),
        height: number("height").unwrap_or(0),
    }
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}
