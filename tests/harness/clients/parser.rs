//! A parser of other people as a process: a playlist goes in as a line of JSON, what it read comes out.

use super::install::Installed;
use super::reading::Reading;
use crate::child::Child;
use anyhow::{Context, Result};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// A playlist takes it milliseconds, its start a second.
const ANSWER_BOUND: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    HlsParser,
    PythonM3u8,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::HlsParser, Self::PythonM3u8];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HlsParser => "hls-parser",
            Self::PythonM3u8 => "m3u8",
        }
    }
}

/// Runs while it lives.
#[derive(Debug)]
pub struct Parser {
    pub kind: Kind,
    process: Child,
    playlists: ChildStdin,
    readings: Receiver<String>,
}

impl Parser {
    pub fn start(kind: Kind, installed: &Installed, run: &Path) -> Result<Self> {
        let mut command = match kind {
            Kind::HlsParser => Command::new("node"),
            Kind::PythonM3u8 => Command::new(installed.python()),
        };
        command.arg(match kind {
            Kind::HlsParser => installed.directory.join("hls_parser.mjs"),
            Kind::PythonM3u8 => installed.directory.join("python_m3u8.py"),
        });
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Child::start(kind.name(), run, &mut command)?;
        let playlists = process.take_stdin()?;
        let readings = receive(process.take_stdout()?);
        Ok(Self { kind, process, playlists, readings })
    }

    /// What it reads in a playlist.
    pub fn read(&mut self, text: &str) -> Result<Reading> {
        self.process.must_run()?;
        let name = self.kind.name();
        writeln!(self.playlists, "{}", json!({ "text": text })).context(name)?;
        let line = self.readings.recv_timeout(ANSWER_BOUND);
        let line = line.with_context(|| format!("no answer of {name}: {}", self.process.log()))?;
        Ok(serde_json::from_str(&line)
            .unwrap_or_else(|error| Reading::Partial(format!("{error} of {line}"))))
    }
}

/// Line by line, until it is gone.
fn receive(from: ChildStdout) -> Receiver<String> {
    let (to, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { break };
            if to.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
