//! `tasuki drain`: lets the node run empty.

use super::CommandError;
use super::client::{Client, SocketArgument};
use std::io::Write;
use tasuki_shared::exit::Exit;
use tasuki_shared::status::{Reply, Request};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    socket: SocketArgument,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let mut client = Client::connect(&arguments.socket)?;
    match client.ask(&Request::Drain)?.reply {
        Reply::Done => {
            let text = "the server takes nothing new and leaves when its last session has ended";
            writeln!(std::io::stdout(), "{text}")?;
            Ok(Exit::Done)
        }
        Reply::Status(_)
        | Reply::Event(_)
        | Reply::Heap { .. }
        | Reply::Threads { .. }
        | Reply::Recycled(_)
        | Reply::Moved(_)
        | Reply::Refused { .. } => Err(client.unexpected().into()),
    }
}
