//! Where happenings come from: a thread each asks for the status, listens to events, reads keys
//! and waits for signals. The screen's thread takes them from one bounded channel and waits for
//! nothing else. The threads live as long as the process.

use super::super::client::{Client, ClientError, Patience, SocketArgument};
use ratatui::crossterm::event;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tasuki_shared::clock;
use tasuki_shared::limits::{TOP_HAPPENINGS_MAX, TOP_RECONNECT_PAUSE};
use tasuki_shared::status::{Event, Reply, Request, Status};

pub(super) enum Happening {
    Status(Box<Status>),
    /// There is no answer; the next attempt follows.
    Lost(ClientError),
    News(Event),
    Terminal(event::Event),
    /// A signal says to leave.
    Told,
    /// A thread has ended, which none does unless something is broken.
    Broken(&'static str),
}

/// Tells that its thread has ended, also by a panic.
struct LastWords {
    happenings: SyncSender<Happening>,
    thread: &'static str,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        // Nobody listens when the program is leaving.
        let _ = self.happenings.send(Happening::Broken(self.thread));
    }
}

pub(super) fn start(
    socket: &SocketArgument,
    interval: Duration,
) -> io::Result<Receiver<Happening>> {
    let (sender, receiver) = sync_channel(TOP_HAPPENINGS_MAX);
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ])?;
    spawn("signals", &sender, move |to| {
        for _ in signals.forever() {
            if to.send(Happening::Told).is_err() {
                return;
            }
        }
    })?;
    let asked = socket.clone();
    spawn("status", &sender, move |to| ask_forever(&asked, interval, to))?;
    let watched = socket.clone();
    spawn("watch", &sender, move |to| watch_forever(&watched, to))?;
    spawn("keys", &sender, |to| {
        while let Ok(event) = event::read() {
            if to.send(Happening::Terminal(event)).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// One status over a connection that is kept.
pub(super) fn ask(client: &mut Client) -> Result<Box<Status>, ClientError> {
    match client.ask(&Request::Status)?.reply {
        Reply::Status(status) => Ok(status),
        Reply::Event(_)
        | Reply::Recycled(_)
        | Reply::Heap { .. }
        | Reply::Threads { .. }
        | Reply::Moved(_)
        | Reply::Done
        | Reply::Refused { .. } => Err(client.unexpected()),
    }
}

fn spawn(
    thread: &'static str,
    sender: &SyncSender<Happening>,
    run: impl FnOnce(&SyncSender<Happening>) + Send + 'static,
) -> io::Result<()> {
    let happenings = sender.clone();
    std::thread::Builder::new().name(thread.to_owned()).spawn(move || {
        let last_words = LastWords { happenings, thread };
        run(&last_words.happenings);
    })?;
    Ok(())
}

fn ask_forever(socket: &SocketArgument, interval: Duration, to: &SyncSender<Happening>) {
    let mut connection: Option<Client> = None;
    loop {
        let connected = match connection.take() {
            Some(client) => Ok(client),
            None => Client::connect(socket),
        };
        let answer = connected.and_then(|mut client| Ok((ask(&mut client)?, client)));
        let happening = match answer {
            Ok((status, client)) => {
                connection = Some(client);
                Happening::Status(status)
            }
            Err(error) => Happening::Lost(error),
        };
        if to.send(happening).is_err() {
            return;
        }
        clock::pause(interval);
    }
}

/// Events, from whichever server is there; that there is none is for the other thread to say.
fn watch_forever(socket: &SocketArgument, to: &SyncSender<Happening>) {
    loop {
        let watched = Client::connect(socket).and_then(|mut client| {
            client.send(&Request::Watch)?;
            while let Some(answer) = client.next(Patience::Endless)? {
                let Reply::Event(event) = answer.reply else { break };
                if to.send(Happening::News(event)).is_err() {
                    break;
                }
            }
            Ok(())
        });
        drop(watched);
        clock::pause(TOP_RECONNECT_PAUSE);
    }
}
