//! The worker's end of the control channel, on a thread of its own.
//!
//! The io thread never waits for it: messages go both ways through bounded queues, and what comes
//! from the supervisor is announced by a wake. When the io thread does not take messages, this
//! thread stops reading and the supervisor notices; when the supervisor does not read, sending
//! fails and the io thread learns that it is on its own.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use tasuki_shared::channel::{Arrival, Channel, ChannelError, Received, Sent};
use tasuki_shared::exit::Exit;
use tasuki_shared::id::Generation;
use tasuki_shared::inherit::Inherited;
use tasuki_shared::limits::{
    CONTROL_FLUSH_DEADLINE, CONTROL_MESSAGES_MAX, CONTROL_MESSAGES_PER_TURN,
};
use tasuki_shared::message::{Envelope, FromWorker, PROTOCOL_VERSION, ToWorker};
use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// What the io thread is told.
#[derive(Debug)]
pub enum Told {
    Message(ToWorker, Vec<OwnedFd>),
    /// The last message: the supervisor is gone, or speaks another protocol.
    Orphaned(LineError),
}

/// Why nothing more comes from the supervisor.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the supervisor speaks version {0}, this program {PROTOCOL_VERSION}")]
    Version(u16),
    #[error("the first frame of the supervisor was no hello")]
    NoHello,
    #[error("control channel: {0}")]
    Io(#[from] io::Error),
}

impl LineError {
    /// Says that this process leaves for it, and how it exits.
    pub fn leave(&self, who: &'static str) -> Exit {
        if let Self::Channel(ChannelError::Closed) = self {
            tracing::warn!(error = %self, "{who} leaves");
            Exit::Orphaned
        } else {
            tracing::error!(error = %self, "{who} leaves");
            Exit::Protocol
        }
    }
}

/// The queue to the control thread is full, or the thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the supervisor takes no more messages")]
pub struct NotTaken;

type Outgoing = (FromWorker, Vec<OwnedFd>);

/// The io thread's handle.
#[derive(Debug)]
pub struct Control {
    told: mpsc::Receiver<Told>,
    outgoing: Option<mpsc::Sender<Outgoing>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Says hello and begins to listen. `wake` is called after each message that was made
    /// available to [`Control::try_recv`].
    pub fn start(
        inherited: Inherited,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Self, LineError> {
        let (to_io, told) = mpsc::channel(CONTROL_MESSAGES_MAX);
        let (outgoing, from_io) = mpsc::channel(CONTROL_MESSAGES_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let line = {
            let _entered = runtime.enter();
            Line::open(inherited)?
        };
        let serve = move || runtime.block_on(serve(line, from_io, to_io, wake));
        let thread = std::thread::Builder::new().name("control".into()).spawn(serve)?;
        Ok(Self { told, outgoing: Some(outgoing), thread: Some(thread) })
    }

    /// The next message, if there is one. The first is the supervisor's hello.
    pub fn try_recv(&mut self) -> Option<Told> {
        self.told.try_recv().ok()
    }

    /// Hands a message over; never waits. The fds are closed here once they are sent.
    pub fn send(&self, body: FromWorker, fds: Vec<OwnedFd>) -> Result<(), NotTaken> {
        let outgoing = self.outgoing.as_ref().ok_or(NotTaken)?;
        outgoing.try_send((body, fds)).map_err(|_| NotTaken)
    }

    /// Sends what waits, within a bound, and ends the thread.
    pub fn finish(mut self) {
        self.outgoing = None;
        // A thread blocked on a full queue to us is freed by closing it.
        self.told.close();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

async fn serve(
    mut line: Line,
    mut from_io: mpsc::Receiver<Outgoing>,
    to_io: mpsc::Sender<Told>,
    wake: impl Fn(),
) {
    let mut outgoing = Vec::new();
    let reason = loop {
        let sent = tokio::select! {
            count = from_io.recv_many(&mut outgoing, CONTROL_MESSAGES_PER_TURN) => match count {
                0 => return flush(&mut line).await,
                _ => pass_on(&mut line, &mut outgoing),
            },
            received = take_in(&mut line, &to_io) => match received {
                Ok(()) => {
                    wake();
                    Ok(())
                }
                Err(Some(error)) => break error,
                // The io thread listens no more, but what it said is to arrive.
                Err(None) => match from_io.recv_many(&mut outgoing, CONTROL_MESSAGES_PER_TURN).await
                {
                    0 => return flush(&mut line).await,
                    _ => pass_on(&mut line, &mut outgoing),
                },
            },
        };
        if let Err(error) = sent {
            break error.into();
        }
    };
    if to_io.send(Told::Orphaned(reason)).await.is_ok() {
        wake();
    }
}

/// Sends what the io thread said in one turn, in as few datagrams as it fits.
fn pass_on(line: &mut Line, outgoing: &mut Vec<Outgoing>) -> Result<(), ChannelError> {
    for (body, fds) in outgoing.drain(..) {
        line.queue(body, fds)?;
    }
    line.flush()
}

/// A supervisor that takes no last words within the deadline does not get them.
async fn flush(line: &mut Line) {
    let _ = tokio::time::timeout(CONTROL_FLUSH_DEADLINE, line.flushed()).await;
}

/// Room first, then a frame: what is read is never lost. `Err(None)`: nobody listens any more.
async fn take_in(line: &mut Line, to_io: &mpsc::Sender<Told>) -> Result<(), Option<LineError>> {
    let room = tokio::select! {
        room = to_io.reserve() => room.map_err(|_| None)?,
        error = line.keep_flushing() => return Err(Some(error.into())),
    };
    let (body, fds) = line.recv().await.map_err(Some)?;
    room.send(Told::Message(body, fds));
    Ok(())
}

/// A control channel that can be waited for. For the control thread and the dialer.
#[derive(Debug)]
pub struct Line {
    channel: Channel<FromWorker, ToWorker>,
    /// A dup of the channel's socket, for readiness only.
    socket: UnixStream,
    generation: Generation,
    greeting: Greeting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    Awaited,
    Heard,
}

impl Line {
    /// Says hello. Must be called inside a runtime.
    pub fn open(inherited: Inherited) -> Result<Self, LineError> {
        let Inherited { role: _, generation, control, knell: _ } = inherited;
        let socket = StdUnixStream::from(control.try_clone()?);
        socket.set_nonblocking(true)?;
        let mut line = Self {
            channel: Channel::new(control),
            socket: UnixStream::from_std(socket)?,
            generation,
            greeting: Greeting::Awaited,
        };
        let pid = std::process::id().try_into().map_err(io::Error::other)?;
        line.send(FromWorker::Hello { version: PROTOCOL_VERSION, pid }, Vec::new())?;
        Ok(line)
    }

    pub fn send(&mut self, body: FromWorker, fds: Vec<OwnedFd>) -> Result<(), ChannelError> {
        self.queue(body, fds)?;
        self.flush()
    }

    /// To be sent with the next flush.
    fn queue(&mut self, body: FromWorker, fds: Vec<OwnedFd>) -> Result<(), ChannelError> {
        let fds: Vec<_> = fds.into_iter().map(Arc::new).collect();
        self.channel.queue(&Envelope { generation: self.generation, body }, &fds)
    }

    /// What the socket does not take goes out when it does, while somebody waits for this line.
    fn flush(&mut self) -> Result<(), ChannelError> {
        match self.channel.flush()? {
            Sent::Sent | Sent::Queued => Ok(()),
        }
    }

    /// The next frame for this process. Cancelling it loses nothing.
    pub async fn recv(&mut self) -> Result<(ToWorker, Vec<OwnedFd>), LineError> {
        loop {
            if !self.channel.has_received() {
                let ready = self.ready(Interest::READABLE).await?;
                if !(ready.is_readable() || ready.is_read_closed()) {
                    continue;
                }
            }
            let Some((envelope, fds)) = self.try_recv()? else { continue };
            // A frame for a predecessor cannot come through this socket; if it does, it is stale.
            if envelope.generation != self.generation {
                continue;
            }
            match (self.greeting, &envelope.body) {
                (Greeting::Awaited, ToWorker::Hello { version, .. }) => {
                    if *version != PROTOCOL_VERSION {
                        return Err(LineError::Version(*version));
                    }
                    self.greeting = Greeting::Heard;
                }
                (Greeting::Awaited, _) => return Err(LineError::NoHello),
                (Greeting::Heard, _) => {}
            }
            return Ok((envelope.body, fds));
        }
    }

    /// Until everything that was sent is in the kernel.
    pub async fn flushed(&mut self) -> Result<(), ChannelError> {
        while !self.channel.is_flushed() {
            self.ready(Interest::WRITABLE).await?;
        }
        Ok(())
    }

    /// Moves what waits; returns only when the channel fails.
    async fn keep_flushing(&mut self) -> ChannelError {
        loop {
            if let Err(error) = self.flushed().await {
                return error;
            }
            std::future::pending::<()>().await;
        }
    }

    /// Waits for `interest`, and flushes on the way when something waits.
    async fn ready(&mut self, interest: Interest) -> Result<Ready, ChannelError> {
        let wanted =
            if self.channel.is_flushed() { interest } else { interest | Interest::WRITABLE };
        let ready = self.socket.ready(wanted).await?;
        if ready.is_writable() && !self.channel.is_flushed() {
            let mut failure = None;
            let channel = &mut self.channel;
            // Its result only says whether readiness was cleared.
            let _ = self.socket.try_io(Interest::WRITABLE, || match channel.flush() {
                Ok(Sent::Sent) => Ok(()),
                Ok(Sent::Queued) => Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => {
                    failure = Some(error);
                    Ok(())
                }
            });
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(ready)
    }

    fn try_recv(&mut self) -> Result<Option<Received<ToWorker>>, ChannelError> {
        let mut received = Ok(None);
        let channel = &mut self.channel;
        if channel.has_received() {
            received = channel.recv_short();
        } else {
            let _ = self.socket.try_io(Interest::READABLE, || {
                received = channel.recv_short();
                match received {
                    Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
                    Ok(Some(_)) | Err(_) => Ok(()),
                }
            });
        }
        Ok(received?.map(|arrival| match arrival {
            Arrival::Whole(received) => received,
            // Passed on without: whoever misses its fds says so to the supervisor, by name.
            Arrival::WithoutFds(envelope) => {
                tracing::error!("no room for the file descriptors of a control frame");
                (envelope, Vec::new())
            }
        }))
    }
}

#[cfg(test)]
mod tests;
