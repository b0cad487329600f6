//! `tasuki check`: is a configuration accepted, and what does it come to here.

use super::CommandError;
use crate::io::sample::memory_total_bytes;
use std::io::Write;
use std::path::PathBuf;
use tasuki_shared::config::{Config, Machine};
use tasuki_shared::exit::Exit;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Configuration file; without one the embedded defaults are shown
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let config = match &arguments.file {
        Some(path) => Config::load(path)?,
        None => Config::embedded(),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let machine = Machine { cores, memory_bytes: memory_total_bytes().unwrap_or(0) };
    let description = config.describe(machine);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let json = serde_json::to_string_pretty(&description).map_err(std::io::Error::other)?;
        writeln!(out, "{json}")?;
    } else {
        match &arguments.file {
            Some(path) => writeln!(out, "{}: accepted\n", path.display())?,
            None => writeln!(out, "embedded defaults\n")?,
        }
        write!(out, "{description}")?;
    }
    out.flush()?;
    Ok(Exit::Done)
}
