//! Control frames and fds over a SOCK_SEQPACKET socketpair. The only user of SCM_RIGHTS.
//!
//! A [`Channel`] has two types: what this end sends and what it receives, so a message in the
//! wrong direction does not compile. Nothing here blocks. The kernel queues few small datagrams,
//! so each end has a bounded queue of its own, in order, flushed when the socket is writable.
//! Fds that wait are duplicates, so the caller may close its own at once.
//!
//! Fails closed: when the kernel could not install all fds of a frame (`MSG_CTRUNC` after EMFILE)
//! those that arrived are closed and the frame is dropped, for without its fds it means something
//! else. [`ChannelError::fault`] says whether the channel can go on.
//!
//! Deliberately lacks: any meaning of generations; the owner of the channel checks those.

use crate::codec::{self, CodecError};
use crate::kernel::{self, Datagram};
use crate::limits::{CONTROL_FDS_MAX, CONTROL_FRAME_BYTES_MAX, CONTROL_QUEUE_FRAMES_MAX};
use crate::message::Envelope;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Why a frame was not sent or received. What is the peer's [`Fault`] ends the peer, never this
/// process.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the peer closed the control channel")]
    Closed,
    #[error("a control frame came without all of its fds")]
    FdsTruncated,
    /// A frame is lost and the channel is as good as before.
    #[error("no file descriptors for a control frame: {0}")]
    NoFds(io::Error),
    #[error("a control frame of {0} bytes was received; the limit is {CONTROL_FRAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("a control frame with {0} fds; the limit is {CONTROL_FDS_MAX}")]
    TooManyFds(usize),
    #[error("{CONTROL_QUEUE_FRAMES_MAX} control frames wait for a peer that does not read")]
    QueueFull,
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("control channel: {0}")]
    Io(#[from] io::Error),
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The channel is of no more use.
    Peer,
    /// This process is short of something, or made a frame that cannot be sent: this frame is
    /// lost, and the next may pass.
    Ours,
}

impl ChannelError {
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NoFds(_)
            | Self::TooManyFds(_)
            | Self::Codec(CodecError::Encode(_) | CodecError::TooLong(_)) => Fault::Ours,
            Self::Closed
            | Self::FdsTruncated
            | Self::TooLong(_)
            | Self::QueueFull
            | Self::Codec(CodecError::Decode(_) | CodecError::Trailing(_))
            | Self::Io(_) => Fault::Peer,
        }
    }
}

/// A frame and the fds that came with it.
pub type Received<R> = (Envelope<R>, Vec<OwnedFd>);

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// In the kernel, in order, with everything before it.
    Sent,
    /// In our queue: call [`Channel::flush`] when the socket is writable.
    Queued,
}

/// One end of a control channel.
#[derive(Debug)]
pub struct Channel<S, R> {
    socket: OwnedFd,
    waiting: VecDeque<Waiting>,
    /// A frame on its way out or in; one byte more than the limit to notice longer ones.
    frame: Box<[u8]>,
    control: Box<[u8]>,
    direction: PhantomData<fn(S) -> R>,
}

#[derive(Debug)]
struct Waiting {
    frame: Box<[u8]>,
    fds: Vec<OwnedFd>,
}

/// A fresh pair: this end, and the other end's socket, to be inherited or wrapped.
pub fn pair<S: Serialize, R: DeserializeOwned>() -> Result<(Channel<S, R>, OwnedFd), ChannelError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
        .map_err(io::Error::from)?;
    Ok((Channel::new(ours), theirs))
}

impl<S: Serialize, R: DeserializeOwned> Channel<S, R> {
    /// Wraps a connected SOCK_SEQPACKET socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            waiting: VecDeque::new(),
            frame: vec![0; CONTROL_FRAME_BYTES_MAX + 1].into_boxed_slice(),
            control: vec![0; kernel::control_space(CONTROL_FDS_MAX)].into_boxed_slice(),
            direction: PhantomData,
        }
    }

    /// Sends a frame with its fds, or queues it behind those that wait.
    pub fn send(
        &mut self,
        envelope: &Envelope<S>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Sent, ChannelError> {
        if fds.len() > CONTROL_FDS_MAX {
            return Err(ChannelError::TooManyFds(fds.len()));
        }
        let length = codec::encode_into(envelope, &mut self.frame)?;
        let idle = self.waiting.is_empty() || self.flush()? == Sent::Sent;
        if idle && push(self.socket.as_fd(), &self.frame[..length], fds)? == Pushed::Done {
            return Ok(Sent::Sent);
        }
        if self.waiting.len() >= CONTROL_QUEUE_FRAMES_MAX {
            return Err(ChannelError::QueueFull);
        }
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>();
        let fds = fds.map_err(ChannelError::NoFds)?;
        self.waiting.push_back(Waiting { frame: self.frame[..length].into(), fds });
        Ok(Sent::Queued)
    }

    /// Moves what waits into the kernel as far as it takes it.
    pub fn flush(&mut self) -> Result<Sent, ChannelError> {
        while let Some(waiting) = self.waiting.front() {
            let fds: Vec<_> = waiting.fds.iter().map(AsFd::as_fd).collect();
            match push(self.socket.as_fd(), &waiting.frame, &fds)? {
                Pushed::Done => drop(self.waiting.pop_front()),
                Pushed::WouldBlock => return Ok(Sent::Queued),
            }
        }
        Ok(Sent::Sent)
    }

    /// Does anything wait for the socket to be writable?
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next frame with its fds; `None` when there is none yet.
    pub fn recv(&mut self) -> Result<Option<Received<R>>, ChannelError> {
        let Some(datagram) = self.receive()? else { return Ok(None) };
        if datagram.fds_truncated {
            // With room left in the control buffer it is our table that was full.
            return Err(if datagram.fds.len() < CONTROL_FDS_MAX {
                ChannelError::NoFds(io::Error::from_raw_os_error(libc::EMFILE))
            } else {
                ChannelError::FdsTruncated
            });
        }
        if datagram.bytes == 0 && datagram.fds.is_empty() {
            return Err(ChannelError::Closed);
        }
        if datagram.bytes > CONTROL_FRAME_BYTES_MAX {
            return Err(ChannelError::TooLong(datagram.bytes));
        }
        let envelope = codec::decode(&self.frame[..datagram.bytes])?;
        Ok(Some((envelope, datagram.fds)))
    }

    fn receive(&mut self) -> Result<Option<Datagram>, ChannelError> {
        match kernel::receive(self.socket.as_fd(), &mut self.frame, &mut self.control) {
            // Said once, before what the peer sent, when it closed with frames of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Ok(kernel::receive(self.socket.as_fd(), &mut self.frame, &mut self.control)?)
            }
            received => Ok(received?),
        }
    }
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S, R> AsRawFd for Channel<S, R> {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pushed {
    Done,
    WouldBlock,
}

fn push(
    socket: BorrowedFd<'_>,
    frame: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<Pushed, ChannelError> {
    let mut raw = [0; CONTROL_FDS_MAX];
    for (raw, fd) in raw.iter_mut().zip(fds) {
        *raw = fd.as_raw_fd();
    }
    let rights = [ControlMessage::ScmRights(&raw[..fds.len()])];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(frame)], control, flags, None) {
            Ok(_) => return Ok(Pushed::Done),
            Err(Errno::EINTR) => {}
            // ETOOMANYREFS: too many fds in flight for this user; it passes as peers read. Where
            // nothing of ours is in flight the peer's end of the channel never becomes unwritable
            // for it, so it waits like a full socket.
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS) => {
                return Ok(Pushed::WouldBlock);
            }
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN | Errno::ECONNREFUSED) => {
                return Err(ChannelError::Closed);
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

#[cfg(test)]
mod tests;
