//! `tasuki move`: moves one session to another worker. (`move` is a word of the language.)

use super::CommandError;
use super::client::{Client, Patience, SocketArgument};
use super::human;
use std::io::Write;
use tasuki_shared::exit::Exit;
use tasuki_shared::status::{MoveStatus, Reply, Request};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The session, as `tasuki status` shows it
    session: String,
    /// Cut after the frame in hand instead of at the next scheduled IDR
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let mut client = Client::connect(&arguments.socket)?;
    let haste = super::haste_of(arguments.now);
    client.send(&Request::Move { session: arguments.session.clone(), haste })?;
    let Some(answer) = client.next(Patience::Endless)? else {
        return Err(client.closed().into());
    };
    match answer.reply {
        Reply::Moved(moved) => {
            writeln!(std::io::stdout(), "{}", verdict(&moved))?;
            Ok(if moved.outcome == "done" { Exit::Done } else { Exit::Failure })
        }
        Reply::Status(_)
        | Reply::Event(_)
        | Reply::Heap { .. }
        | Reply::Threads { .. }
        | Reply::Recycled(_)
        | Reply::Done
        | Reply::Refused { .. } => Err(client.unexpected().into()),
    }
}

fn verdict(moved: &MoveStatus) -> String {
    let MoveStatus { session, name, from, to, outcome, pause_us, frames_lost } = moved;
    let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
    let mut line = format!("session {session}{name} from {from} to {to}: {outcome}");
    if outcome == "done" {
        line.push_str(&format!(", pause {}", human::pause(*pause_us)));
    }
    if *frames_lost > 0 {
        line.push_str(&format!(", {frames_lost} frames lost"));
    }
    human::printable(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_told_in_one_line_with_what_it_cost() {
        let moved = MoveStatus {
            session: "5-1".into(),
            name: "cam".into(),
            from: "w0/g1".into(),
            to: "w1/g2".into(),
            outcome: "done".into(),
            pause_us: 740,
            frames_lost: 3,
        };
        let line = "session 5-1 (cam) from w0/g1 to w1/g2: done, pause 0.7ms, 3 frames lost";
        assert_eq!(verdict(&moved), line);
    }
}
