//! The command line: what was asked, and the one place that turns an answer into an exit code.
//!
//! `serve` becomes the server; `check` looks at a file; the others are only
//! clients of the status socket (docs/PROTOCOL.md).

mod check;
mod client;
mod drain;
mod end;
mod evidence;
mod human;
mod relocate;
mod rotate;
mod serve;
mod status;
mod table;
mod top;
mod watch;

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use tasuki_shared::config::{Config, ConfigError};
use tasuki_shared::exit::Exit;
use tasuki_shared::failpoint::NotCompiledIn;
use tasuki_shared::log_output::LogError;
use tasuki_shared::message::Haste;

pub use client::ClientError;

/// The server itself: runs until it has shut down. The path is where the configuration came from.
pub type Serve = fn(Config, Option<PathBuf>) -> anyhow::Result<Exit>;

/// Live transcoder whose workers are disposable.
#[derive(Debug, Parser)]
#[command(name = "tasuki", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Accept publishers, transcode, push and record
    Serve(serve::Arguments),
    /// Say whether a configuration is accepted and what it comes to on this machine
    Check(check::Arguments),
    /// Show workers and sessions
    Status(status::Arguments),
    /// Show workers, recycles and sessions, live
    Top(top::Arguments),
    /// Print events as they happen
    Watch(watch::Arguments),
    /// End one session
    End(end::Arguments),
    /// Replace one worker or all of them under their live streams, and wait for it
    Rotate(rotate::Arguments),
    /// Move one session to another worker, and wait for it
    Move(relocate::Arguments),
    /// Take nothing new and leave when the last session has ended
    Drain(drain::Arguments),
    /// Save a pprof heap profile of a live worker
    Heap(evidence::HeapArguments),
    /// Show what each thread of a worker does
    Threads(evidence::ThreadsArguments),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "[chaos] makes workers leak on purpose: take it out of the configuration, or start with \
         --allow-chaos"
    )]
    Chaos,
    #[error(transparent)]
    Failpoints(#[from] NotCompiledIn),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
    #[error(
        "tasuki top needs a terminal; for text use tasuki status, or tasuki top --once for one frame"
    )]
    NoTerminal,
    #[error("{0:#}")]
    Serve(anyhow::Error),
}

impl CommandError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Chaos => Exit::Config,
            Self::Log(LogError::Thread(_)) => Exit::Failure,
            Self::Log(LogError::Level(_) | LogError::Format | LogError::Twice) => Exit::Usage,
            Self::Client(error) => error.exit(),
            Self::NoTerminal | Self::Failpoints(_) => Exit::Usage,
            // Whoever read our output has seen enough.
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Output(_) | Self::Serve(_) => Exit::Failure,
        }
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn run(serve: Serve) -> Exit {
    run_with(std::env::args_os(), serve)
}

/// What `--now` means.
fn haste_of(now: bool) -> Haste {
    if now { Haste::Now } else { Haste::Scheduled }
}

fn run_with(arguments: impl IntoIterator<Item = OsString>, serve: Serve) -> Exit {
    let Arguments { command } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version arrive here too; whether printing works changes nothing.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let outcome = match command {
        Command::Serve(arguments) => serve::run(arguments, serve),
        Command::Check(arguments) => check::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::End(arguments) => end::run(&arguments),
        Command::Rotate(arguments) => rotate::run(&arguments),
        Command::Move(arguments) => relocate::run(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Heap(arguments) => evidence::heap(&arguments),
        Command::Threads(arguments) => evidence::threads(&arguments),
    };
    match outcome {
        Ok(exit) => exit,
        Err(error) => {
            let exit = error.exit();
            if exit != Exit::Done {
                let _ = writeln!(std::io::stderr(), "tasuki: {error}");
            }
            exit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(arguments: &[&str]) -> Exit {
        let arguments = std::iter::once("tasuki").chain(arguments.iter().copied());
        run_with(arguments.map(OsString::from), |_, _| anyhow::bail!("not in this test"))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn exit_codes_follow_the_vocabulary() {
        assert_eq!(run(&["--version"]), Exit::Done);
        assert_eq!(run(&["serv"]), Exit::Usage);
        assert_eq!(run(&["status", "--socket", "/nonexistent/status.sock"]), Exit::Failure);
        assert_eq!(run(&["check", "/nonexistent/tasuki.toml"]), Exit::Config);
        assert_eq!(run(&["check"]), Exit::Done);
        assert_eq!(run(&["serve", "--config", "/nonexistent/tasuki.toml"]), Exit::Config);
    }
}
