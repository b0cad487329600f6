//! `tasuki end`: ends one session.

use super::CommandError;
use super::client::{Client, SocketArgument};
use std::io::Write;
use tasuki_shared::exit::Exit;
use tasuki_shared::status::{Reply, Request};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The session, as `tasuki status` shows it
    session: String,
    #[command(flatten)]
    socket: SocketArgument,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let mut client = Client::connect(&arguments.socket)?;
    let answer = client.ask(&Request::End { session: arguments.session.clone() })?;
    match answer.reply {
        Reply::Done => {
            writeln!(std::io::stdout(), "session {} is ended", arguments.session)?;
            Ok(Exit::Done)
        }
        Reply::Status(_)
        | Reply::Event(_)
        | Reply::Recycled(_)
        | Reply::Moved(_)
        | Reply::Heap { .. }
        | Reply::Threads { .. }
        | Reply::Refused { .. } => Err(client.unexpected().into()),
    }
}
