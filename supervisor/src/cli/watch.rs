//! `tasuki watch`: events as they happen, one a line, until the server leaves.

use super::CommandError;
use super::client::{Client, Patience, SocketArgument};
use super::human;
use std::io::Write;
use tasuki_shared::exit::Exit;
use tasuki_shared::status::{Event, Reply, Request};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print each event as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let mut client = Client::connect(&arguments.socket)?;
    client.send(&Request::Watch)?;
    let mut out = std::io::stdout().lock();
    while let Some(answer) = client.next(Patience::Endless)? {
        match answer.reply {
            Reply::Event(_) if arguments.json => writeln!(out, "{}", answer.line)?,
            Reply::Event(event) => writeln!(out, "{}", line(&event))?,
            Reply::Status(_)
            | Reply::Recycled(_)
            | Reply::Moved(_)
            | Reply::Heap { .. }
            | Reply::Threads { .. }
            | Reply::Done
            | Reply::Refused { .. } => {
                return Err(client.unexpected().into());
            }
        }
        out.flush()?;
    }
    writeln!(std::io::stderr(), "tasuki: the server has left")?;
    Ok(Exit::Done)
}

/// An event as a line of printable text.
pub(super) fn line(event: &Event) -> String {
    let Event { unix_ms, event, session, name, worker, detail } = event;
    let mut line = format!("{} {event:<16}", human::utc(*unix_ms));
    for part in [name, session, worker].into_iter().flatten() {
        line.push(' ');
        line.push_str(part);
    }
    if !detail.is_empty() {
        line.push_str(": ");
        line.push_str(detail);
    }
    human::printable(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_with_its_time_and_what_it_is_about() {
        let event = Event {
            unix_ms: 1_700_000_000_123,
            event: "session_live".into(),
            session: Some("5-1".into()),
            name: Some("cam".into()),
            worker: Some("w0".into()),
            detail: "h264\n1920x1080".into(),
        };
        let expected = "2023-11-14T22:13:20.123Z session_live     cam 5-1 w0: h264?1920x1080";
        assert_eq!(line(&event), expected);
    }
}
