//! `tasuki rotate`: replaces one worker or all, one verdict line for each as it is done.

use super::CommandError;
use super::client::{Client, Patience, SocketArgument};
use super::human;
use std::io::Write;
use tasuki_shared::exit::Exit;
use tasuki_shared::status::{RecycleStatus, Reply, Request};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The slot of the worker to replace, for example w0; all of them without it
    #[arg(long, value_name = "SLOT")]
    worker: Option<String>,
    /// Why, for the log and the status
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Cut after the frame in hand instead of at the next scheduled IDR
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let mut client = Client::connect(&arguments.socket)?;
    let (worker, reason) = (arguments.worker.clone(), arguments.reason.clone());
    let haste = super::haste_of(arguments.now);
    client.send(&Request::Rotate { worker, reason, haste })?;
    let mut out = std::io::stdout().lock();
    let mut exit = Exit::Done;
    while let Some(answer) = client.next(Patience::Endless)? {
        match answer.reply {
            Reply::Recycled(recycle) => {
                if recycle.outcome != "done" {
                    exit = Exit::Failure;
                }
                writeln!(out, "{}", verdict(&recycle))?;
                out.flush()?;
            }
            Reply::Done => return Ok(exit),
            Reply::Status(_)
            | Reply::Event(_)
            | Reply::Heap { .. }
            | Reply::Threads { .. }
            | Reply::Moved(_)
            | Reply::Refused { .. } => {
                return Err(client.unexpected().into());
            }
        }
    }
    Err(client.closed().into())
}

fn verdict(recycle: &RecycleStatus) -> String {
    let moved: Vec<_> = recycle.moves.iter().filter(|moved| moved.outcome == "done").collect();
    let others = recycle.moves.len() - moved.len();
    let mut line = format!(
        "{}: {} in {}",
        human::replaced(recycle),
        recycle.outcome,
        human::lag(recycle.took_ms)
    );
    match moved.len() {
        0 if human::is_service(&recycle.role) => {}
        1 => line.push_str("; 1 session moved"),
        count => line.push_str(&format!("; {count} sessions moved")),
    }
    if let Some(longest) = moved.iter().map(|moved| moved.pause_us).max() {
        line.push_str(&format!(", longest pause {}", human::pause(longest)));
    }
    if others > 0 {
        line.push_str(&format!(", {others} not"));
    }
    let lost: u64 = recycle.moves.iter().map(|moved| moved.frames_lost).sum();
    if lost > 0 {
        line.push_str(&format!(", {lost} frames lost"));
    }
    let (before, after) = (recycle.footprint_before_bytes, recycle.footprint_after_bytes);
    if before > 0 && after > 0 {
        let (before, after) = (human::bytes(before), human::bytes(after));
        line.push_str(&format!("; footprint {before} before, {after} after"));
    }
    human::printable(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::status::MoveStatus;

    #[test]
    fn a_recycle_is_told_in_one_line_with_its_moves_and_its_memory() {
        let moved = |outcome: &str, pause_us| MoveStatus {
            outcome: outcome.into(),
            pause_us,
            ..MoveStatus::default()
        };
        let recycle = RecycleStatus {
            worker: "w0".into(),
            generation: 7,
            outcome: "done".into(),
            took_ms: 2100,
            footprint_before_bytes: 180 << 20,
            footprint_after_bytes: 60 << 20,
            moves: vec![moved("done", 300), moved("done", 1400), moved("kept: it ended", 0)],
            ..RecycleStatus::default()
        };
        assert_eq!(
            verdict(&recycle),
            "w0/g7: done in 2.1s; 2 sessions moved, longest pause 1.4ms, 1 not; \
             footprint 180.0M before, 60.0M after"
        );
        let service = RecycleStatus {
            worker: "w4".into(),
            role: "delivery".into(),
            outcome: "done".into(),
            took_ms: 300,
            ..RecycleStatus::default()
        };
        assert_eq!(verdict(&service), "w4/g0 delivery: done in 300ms");
        let failed = RecycleStatus {
            worker: "w1".into(),
            role: "worker".into(),
            outcome: "failed: no fresh worker in time".into(),
            ..RecycleStatus::default()
        };
        let line = "w1/g0: failed: no fresh worker in time in 0ms; 0 sessions moved";
        assert_eq!(verdict(&failed), line);
    }
}
