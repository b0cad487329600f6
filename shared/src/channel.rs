//! Control frames and fds over a SOCK_SEQPACKET socketpair. The only user of SCM_RIGHTS.
//!
//! A [`Channel`] has two types: what this end sends and what it receives, so a message in the
//! wrong direction does not compile. Nothing here blocks.
//!
//! A datagram carries as many frames as fit, for a system call and a wake-up cost more than a
//! frame. Frames are queued in order ([`Channel::queue`]) and go out with [`Channel::flush`], which
//! everybody who queues calls before it waits for anything ([`Channel::send`] does both). The
//! queue is also where frames wait while the kernel takes no more; it is bounded. Its fds are
//! shared with who queued them, so they stay open until they are sent, whatever is closed
//! meanwhile.
//!
//! Fails closed. A datagram whose heads do not add up is an error as a whole. When the kernel could
//! not install all fds of a datagram (`MSG_CTRUNC` after EMFILE), a frame that lacks some is
//! dropped and those it has are closed, for without its fds it means something else.
//! [`ChannelError::fault`] says whether the channel can go on.
//!
//! Deliberately lacks: any meaning of generations; the owner of the channel checks those.

use crate::codec::{self, CodecError};
use crate::failpoint::{self, Point};
use crate::kernel::{self, Datagram};
use crate::limits::{
    CONTROL_DATAGRAM_BYTES_MAX, CONTROL_FDS_MAX, CONTROL_FRAME_BYTES_MAX, CONTROL_HEAD_BYTES,
    CONTROL_QUEUE_FRAMES_MAX,
};
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
use std::sync::Arc;

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
    #[error("a datagram of {0} bytes was received; the limit is {CONTROL_DATAGRAM_BYTES_MAX}")]
    TooLong(usize),
    #[error("a datagram does not hold the frames and fds that its heads tell of")]
    Malformed,
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
            | Self::Malformed
            | Self::QueueFull
            | Self::Codec(CodecError::Decode(_) | CodecError::Trailing(_))
            | Self::Io(_) => Fault::Peer,
        }
    }
}

/// A frame and the fds that came with it.
pub type Received<R> = (Envelope<R>, Vec<OwnedFd>);

/// A frame as it came.
#[derive(Debug)]
pub enum Arrival<R> {
    Whole(Received<R>),
    /// It came with fds, and our table had no room for all of them.
    WithoutFds(Envelope<R>),
}

/// What became of the frames that were queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// In the kernel, in order.
    Sent,
    /// The kernel takes no more: call [`Channel::flush`] when the socket is writable.
    Queued,
}

/// One end of a control channel.
#[derive(Debug)]
pub struct Channel<S, R> {
    socket: OwnedFd,
    /// Datagrams to be sent; frames are added to the last one as long as they fit.
    outgoing: VecDeque<Outgoing>,
    /// In all of `outgoing`.
    queued_frames: usize,
    /// The datagram that was sent last, empty, for its buffers.
    spare: Option<Outgoing>,
    /// A frame that is being encoded.
    frame: Box<[u8]>,
    incoming: Incoming,
    control: Box<[u8]>,
    direction: PhantomData<fn(S) -> R>,
}

#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    fds: Vec<Arc<OwnedFd>>,
    frames: usize,
}

impl Outgoing {
    fn has_room(&self, frame: usize, fds: usize) -> bool {
        self.bytes.len() + CONTROL_HEAD_BYTES + frame <= CONTROL_DATAGRAM_BYTES_MAX
            && self.fds.len() + fds <= CONTROL_FDS_MAX
    }

    fn add(&mut self, frame: &[u8], fds: &[Arc<OwnedFd>]) {
        let length = u16::try_from(frame.len()).expect("the codec's limit is less");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.push(u8::try_from(fds.len()).expect("the limit on fds is less"));
        self.bytes.extend_from_slice(frame);
        self.fds.extend_from_slice(fds);
        self.frames += 1;
    }

    fn clear(&mut self) {
        let Self { bytes, fds, frames } = self;
        bytes.clear();
        fds.clear();
        *frames = 0;
    }
}

/// The datagram that was received last, as far as its frames are not fetched yet.
#[derive(Debug)]
struct Incoming {
    /// One byte more than the limit, to notice longer ones.
    buffer: Box<[u8]>,
    next: usize,
    end: usize,
    /// In the order of the frames; those of the last frames are missing when our table was full.
    fds: VecDeque<OwnedFd>,
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
            outgoing: VecDeque::new(),
            queued_frames: 0,
            spare: None,
            frame: vec![0; CONTROL_FRAME_BYTES_MAX].into_boxed_slice(),
            incoming: Incoming {
                buffer: vec![0; CONTROL_DATAGRAM_BYTES_MAX + 1].into_boxed_slice(),
                next: 0,
                end: 0,
                fds: VecDeque::new(),
            },
            control: vec![0; kernel::control_space(CONTROL_FDS_MAX)].into_boxed_slice(),
            direction: PhantomData,
        }
    }

    /// Sends a frame with duplicates of its fds, behind everything that was queued.
    pub fn send(
        &mut self,
        envelope: &Envelope<S>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Sent, ChannelError> {
        if fds.len() > CONTROL_FDS_MAX {
            return Err(ChannelError::TooManyFds(fds.len()));
        }
        let dup = |fd: &BorrowedFd<'_>| fd.try_clone_to_owned().map(Arc::new);
        let fds: Vec<_> =
            fds.iter().map(dup).collect::<io::Result<_>>().map_err(ChannelError::NoFds)?;
        self.queue(envelope, &fds)?;
        self.flush()
    }

    /// Queues a frame with its fds; [`Channel::flush`] sends it.
    pub fn queue(
        &mut self,
        envelope: &Envelope<S>,
        fds: &[Arc<OwnedFd>],
    ) -> Result<(), ChannelError> {
        if fds.len() > CONTROL_FDS_MAX {
            return Err(ChannelError::TooManyFds(fds.len()));
        }
        if self.queued_frames >= CONTROL_QUEUE_FRAMES_MAX {
            let _as_far_as_it_goes = self.flush()?;
        }
        if self.queued_frames >= CONTROL_QUEUE_FRAMES_MAX {
            return Err(ChannelError::QueueFull);
        }
        let length = codec::encode_into(envelope, &mut self.frame)?;
        let frame = &self.frame[..length];
        match self.outgoing.back_mut().filter(|last| last.has_room(length, fds.len())) {
            Some(last) => last.add(frame, fds),
            None => {
                let mut datagram = self.spare.take().unwrap_or_default();
                datagram.add(frame, fds);
                self.outgoing.push_back(datagram);
            }
        }
        self.queued_frames += 1;
        Ok(())
    }

    /// Moves what is queued into the kernel as far as it takes it. After an error nothing is
    /// queued any more.
    pub fn flush(&mut self) -> Result<Sent, ChannelError> {
        while let Some(mut datagram) = self.outgoing.pop_front() {
            match push(self.socket.as_fd(), &datagram.bytes, &datagram.fds) {
                Ok(Pushed::Done) => {
                    self.queued_frames -= datagram.frames;
                    datagram.clear();
                    self.spare = Some(datagram);
                }
                Ok(Pushed::WouldBlock) => {
                    self.outgoing.push_front(datagram);
                    return Ok(Sent::Queued);
                }
                Err(error) => {
                    self.outgoing.clear();
                    self.queued_frames = 0;
                    return Err(error);
                }
            }
        }
        Ok(Sent::Sent)
    }

    /// Is nothing queued?
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Has a datagram brought frames that are not fetched yet? The socket tells of it no more.
    #[must_use]
    pub fn has_received(&self) -> bool {
        self.incoming.next < self.incoming.end
    }

    /// The next frame with its fds; `None` when there is none yet.
    pub fn recv(&mut self) -> Result<Option<Received<R>>, ChannelError> {
        match self.recv_short()? {
            None => Ok(None),
            Some(Arrival::Whole(received)) => Ok(Some(received)),
            Some(Arrival::WithoutFds(_)) => {
                Err(ChannelError::NoFds(io::Error::from_raw_os_error(libc::EMFILE)))
            }
        }
    }

    /// As `recv`, for who can answer a frame whose fds did not fit our table.
    pub fn recv_short(&mut self) -> Result<Option<Arrival<R>>, ChannelError> {
        if !self.has_received() {
            match self.receive()? {
                Some(datagram) => self.begin(datagram)?,
                None => return Ok(None),
            }
        }
        let Incoming { buffer, next, end, fds } = &mut self.incoming;
        let head = Head::read(&buffer[*next..*end]).ok_or(ChannelError::Malformed)?;
        let start = *next + CONTROL_HEAD_BYTES;
        *next = start + head.bytes;
        let lost = head.fds > 0 && failpoint::fails(Point::FrameWithFds);
        if fds.len() < head.fds || lost {
            fds.clear();
            return Ok(Some(Arrival::WithoutFds(codec::decode(&buffer[start..*next])?)));
        }
        let own = fds.drain(..head.fds).collect();
        match codec::decode(&buffer[start..*next]) {
            Ok(envelope) => Ok(Some(Arrival::Whole((envelope, own)))),
            Err(error) => {
                // The peer is ended for it, and nothing else of it is believed.
                *next = *end;
                fds.clear();
                Err(error.into())
            }
        }
    }

    /// Makes a datagram the one that is being read, if it is what its heads say.
    fn begin(&mut self, datagram: Datagram) -> Result<(), ChannelError> {
        let Datagram { bytes, fds, fds_truncated } = datagram;
        // With room left in the control buffer it is our table that was full.
        if fds_truncated && fds.len() >= CONTROL_FDS_MAX {
            return Err(ChannelError::FdsTruncated);
        }
        if bytes == 0 && fds.is_empty() {
            return Err(ChannelError::Closed);
        }
        if bytes > CONTROL_DATAGRAM_BYTES_MAX {
            return Err(ChannelError::TooLong(bytes));
        }
        let told = fds_told(&self.incoming.buffer[..bytes]).ok_or(ChannelError::Malformed)?;
        let all_here = if fds_truncated { told > fds.len() } else { told == fds.len() };
        if !all_here || told > CONTROL_FDS_MAX {
            return Err(ChannelError::Malformed);
        }
        self.incoming.next = 0;
        self.incoming.end = bytes;
        self.incoming.fds = fds.into();
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<Datagram>, ChannelError> {
        let (socket, buffer) = (self.socket.as_fd(), &mut self.incoming.buffer);
        match kernel::receive(socket, buffer, &mut self.control) {
            // Said once, before what the peer sent, when it closed with frames of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Ok(kernel::receive(socket, buffer, &mut self.control)?)
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

/// What stands before each frame.
struct Head {
    bytes: usize,
    fds: usize,
}

impl Head {
    /// The head at the start of `rest`, if its frame is there as well.
    fn read(rest: &[u8]) -> Option<Self> {
        let [low, high, fds, ..] = *rest else { return None };
        let bytes = usize::from(u16::from_le_bytes([low, high]));
        (rest.len() - CONTROL_HEAD_BYTES >= bytes).then_some(Self { bytes, fds: usize::from(fds) })
    }
}

/// The fds of all frames of a datagram; `None` unless it is whole frames and at least one.
fn fds_told(datagram: &[u8]) -> Option<usize> {
    let (mut at, mut fds) = (0, 0);
    loop {
        let head = Head::read(&datagram[at..])?;
        at += CONTROL_HEAD_BYTES + head.bytes;
        fds += head.fds;
        if at == datagram.len() {
            return Some(fds);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pushed {
    Done,
    WouldBlock,
}

fn push(
    socket: BorrowedFd<'_>,
    datagram: &[u8],
    fds: &[Arc<OwnedFd>],
) -> Result<Pushed, ChannelError> {
    let mut raw = [0; CONTROL_FDS_MAX];
    for (raw, fd) in raw.iter_mut().zip(fds) {
        *raw = fd.as_raw_fd();
    }
    let rights = [ControlMessage::ScmRights(&raw[..fds.len()])];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(datagram)], control, flags, None) {
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
