//! `tasuki heap` and `tasuki threads`: the two looks that operators of such servers take first.

use super::CommandError;
use super::client::{Client, Patience, SocketArgument};
use super::human;
use crate::base64;
use std::io::Write;
use std::path::PathBuf;
use tasuki_shared::exit::Exit;
use tasuki_shared::status::{Reply, Request, ThreadStatus};

#[derive(Debug, clap::Args)]
pub(super) struct HeapArguments {
    /// Slot of the worker, as `tasuki status` shows it
    worker: String,
    /// Where to write the profile, for `go tool pprof FILE`
    #[arg(short, long, value_name = "FILE", default_value = "heap.pb.gz")]
    output: PathBuf,
    #[command(flatten)]
    socket: SocketArgument,
}

#[derive(Debug, clap::Args)]
pub(super) struct ThreadsArguments {
    /// Slot of the worker, as `tasuki status` shows it
    worker: String,
    #[command(flatten)]
    socket: SocketArgument,
}

pub(super) fn heap(arguments: &HeapArguments) -> Result<Exit, CommandError> {
    let mut client = Client::connect(&arguments.socket)?;
    let request = Request::Heap { worker: arguments.worker.clone() };
    let answer = client.ask_patiently(&request, Patience::Evidence)?;
    let Reply::Heap { worker, profile } = answer.reply else {
        return Err(client.unexpected().into());
    };
    let profile = base64::decode(&profile).ok_or_else(|| client.unexpected())?;
    std::fs::write(&arguments.output, &profile)?;
    let path = arguments.output.display();
    writeln!(std::io::stdout(), "heap of {worker}: {path} ({} bytes)", profile.len())?;
    Ok(Exit::Done)
}

pub(super) fn threads(arguments: &ThreadsArguments) -> Result<Exit, CommandError> {
    let mut client = Client::connect(&arguments.socket)?;
    let request = Request::Threads { worker: arguments.worker.clone() };
    let answer = client.ask_patiently(&request, Patience::Evidence)?;
    let Reply::Threads { worker: _, threads } = answer.reply else {
        return Err(client.unexpected().into());
    };
    std::io::stdout().write_all(table(&threads).as_bytes())?;
    Ok(Exit::Done)
}

fn table(threads: &[ThreadStatus]) -> String {
    let mut text = format!(
        "{:>8} {:<15} {:<5} {:>6} {:>10}  {:<24} {}\n",
        "TID", "NAME", "STATE", "CPU%", "CPU s", "WAITS IN", "TASK"
    );
    for thread in threads {
        let ThreadStatus { tid, name, state, cpu_percent, cpu_ms, waits_in, task } = thread;
        let seconds = std::time::Duration::from_millis(*cpu_ms).as_secs_f64();
        let line = format!(
            "{tid:>8} {name:<15} {state:<5} {cpu_percent:>6.1} {seconds:>10.2}  {waits_in:<24} {task}"
        );
        text.push_str(human::printable(&line).trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_one_line_that_names_it_and_what_it_is_for() {
        let thread = ThreadStatus {
            tid: 7,
            name: "enc-720p\n".into(),
            state: "R".into(),
            cpu_percent: 42.25,
            cpu_ms: 1500,
            waits_in: String::new(),
            task: "encodes 720p".into(),
        };
        let text = table(&[thread]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("enc-720p?") && text.contains("encodes 720p"), "{text}");
    }
}
