//! `tasuki serve`: configuration and log first, then the server.

use super::{CommandError, Serve};
use std::path::PathBuf;
use tasuki_shared::config::Config;
use tasuki_shared::exit::Exit;
use tasuki_shared::failpoint::{self, Build};
use tasuki_shared::log_output;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Configuration file; without one the embedded defaults hold
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take a configuration with a [chaos] section, which makes workers leak
    #[arg(long)]
    allow_chaos: bool,
}

pub(super) fn run(arguments: Arguments, serve: Serve) -> Result<Exit, CommandError> {
    let Arguments { config: path, allow_chaos } = arguments;
    failpoint::check(failpoint::BUILD, std::env::var_os(failpoint::VARIABLE).as_deref())?;
    failpoint::begin();
    let config = match &path {
        Some(path) => Config::load(path)?,
        None => Config::embedded(),
    };
    if config.chaos.is_some() && !allow_chaos {
        return Err(CommandError::Chaos);
    }
    log_output::init(config.log, "supervisor")?;
    match failpoint::BUILD {
        Build::Normal => {}
        Build::WithFailpoints => tracing::warn!("this build has failpoints: it is for tests alone"),
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    serve(config, path).map_err(CommandError::Serve)
}
