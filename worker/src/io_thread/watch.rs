//! What the io thread's epoll knows of a session's sockets.

use super::{Entry, SERIAL_SHIFT};
use crate::output::push::Writability;
use crate::session::Readability;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Brings epoll in line with what the session waits for.
pub(super) fn watch(epoll: &Epoll, serial: u64, entry: &mut Entry) -> nix::Result<()> {
    let Entry { session, watched, pushes } = entry;
    let (reads, writes) = session.interest();
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLIN, reads == Readability::Wanted);
    flags.set(EpollFlags::EPOLLOUT, writes == Writability::Wanted);
    let wanted = (!flags.is_empty()).then_some(flags);
    if *watched != wanted {
        register(epoll, session.socket(), serial << SERIAL_SHIFT, *watched, wanted)?;
        *watched = wanted;
    }
    // The supervisor's dups keep the open files alive: closing alone would leave them in epoll.
    for closed in session.take_closed() {
        let _never_watched = epoll.delete(&closed);
    }
    for (id, socket) in session.push_sockets() {
        let place = usize::from(id.0);
        let Some((socket, writes)) = socket else {
            pushes[place] = None;
            continue;
        };
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, writes == Writability::Wanted);
        let fd = socket.as_raw_fd();
        let before = pushes[place].filter(|(known, _)| *known == fd).map(|(_, flags)| flags);
        if before != Some(flags) {
            let token = (serial << SERIAL_SHIFT) + u64::from(id.0) + 1;
            register(epoll, socket, token, before, Some(flags))?;
        }
        pushes[place] = Some((fd, flags));
    }
    Ok(())
}

fn register(
    epoll: &Epoll,
    socket: BorrowedFd<'_>,
    token: u64,
    before: Option<EpollFlags>,
    wanted: Option<EpollFlags>,
) -> nix::Result<()> {
    match (before, wanted) {
        (None, None) => Ok(()),
        (None, Some(flags)) => match epoll.add(socket, EpollEvent::new(flags, token)) {
            // A new socket may have got the number of one that closed, and still be known.
            Err(nix::errno::Errno::EEXIST) => {
                epoll.modify(socket, &mut EpollEvent::new(flags, token))
            }
            outcome => outcome,
        },
        (Some(_), Some(flags)) => epoll.modify(socket, &mut EpollEvent::new(flags, token)),
        (Some(_), None) => epoll.delete(socket),
    }
}

/// The supervisor's dup keeps the open file alive, so closing ours would leave it in epoll.
pub(super) fn unwatch(epoll: &Epoll, entry: &Entry) {
    if entry.watched.is_some() {
        let _gone_already = epoll.delete(entry.session.socket().as_fd());
    }
}
