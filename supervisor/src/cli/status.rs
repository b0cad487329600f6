//! `tasuki status`: the node at a glance; `report` draws it.

pub(super) mod report;

use super::CommandError;
use super::client::{Client, SocketArgument};
use super::table::{Paint, Screen};
use std::io::{IsTerminal, Write};
use tasuki_shared::exit::Exit;
use tasuki_shared::status::{Reply, Request};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print the server's reply as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let mut client = Client::connect(&arguments.socket)?;
    let answer = client.ask(&Request::Status)?;
    let Reply::Status(status) = answer.reply else { return Err(client.unexpected().into()) };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        // The line itself, not what we understood of it: a newer server may say more.
        let reply: serde_json::Value =
            serde_json::from_str(&answer.line).map_err(std::io::Error::other)?;
        let text = serde_json::to_string_pretty(&reply).map_err(std::io::Error::other)?;
        writeln!(out, "{text}")?;
    } else {
        write!(out, "{}", report::draw(&status, screen(&out)))?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn screen(out: &std::io::StdoutLock<'_>) -> Screen {
    if !out.is_terminal() {
        return Screen { width: None, paint: Paint::Plain };
    }
    let width = terminal_size::terminal_size_of(out).map(|(width, _)| usize::from(width.0));
    Screen { width, paint: Paint::of_environment() }
}
