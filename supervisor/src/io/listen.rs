//! Listeners: from the kernel's queue into the shell, as fast as it goes and never in a spin.

use crate::core::settings::MissingFamily;
use crate::event_loop::{SharedShell, Turn};
use crate::io::watch::watch;
use anyhow::Context;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen as start, setsockopt,
    socket, sockopt,
};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use tasuki_shared::limits::{ACCEPT_PAUSE, ACCEPTS_PER_TURN, LISTEN_BACKLOG};

/// Binds without waiting for old connections to time out. An IPv6 address takes IPv6 only, so both
/// families can be listed.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    // Accepted sockets inherit both (a test says so), which saves two calls for each: replies leave
    // at once, and a byte of urgent data is a byte of the stream.
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    setsockopt(&fd, sockopt::OobInline, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    start(&fd, Backlog::new(LISTEN_BACKLOG)?)?;
    Ok(TcpListener::from(fd))
}

/// Binds all addresses, each with what it is bound to; at least one.
pub fn listen_all(
    addresses: &[SocketAddr],
    missing: MissingFamily,
) -> anyhow::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut bound = Vec::new();
    for address in addresses {
        match listen(*address) {
            Ok(listener) => bound.push((listener.local_addr()?, listener)),
            Err(error) if missing == MissingFamily::Skip && is_family_missing(&error) => {
                tracing::warn!(%address, %error, "this machine has no such address: left out");
            }
            Err(error) => return Err(error).with_context(|| format!("listen on {address}")),
        }
    }
    anyhow::ensure!(!bound.is_empty(), "none of the addresses to listen on is there");
    Ok(bound)
}

/// Every connection costs a handful of fds here; the soft limit is made for other programs. What
/// the limit is then.
pub fn raise_fd_limit() -> i32 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return i32::MAX };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, "the limit on file descriptors stays as it is");
            soft
        }
    };
    i32::try_from(limit).unwrap_or(i32::MAX)
}

/// Has this machine no such address, or not even the family?
pub fn is_family_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

/// An fd kept back, so that a connection can be taken and closed when there is none left.
struct Reserve(Option<File>);

impl Reserve {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Takes one connection and closes it: its peer learns more than from silence.
    fn close_one(&mut self, listener: &TcpListener) -> io::Result<()> {
        drop(self.0.take());
        let closed = listener.accept().map(drop);
        self.0 = File::open("/dev/null").ok();
        closed
    }
}

/// Accepts until the task is aborted.
pub async fn serve(shell: SharedShell, listener: TcpListener) -> io::Result<()> {
    let listener = watch(listener)?;
    let mut reserve = Reserve::new();
    loop {
        let mut ready = listener.readable().await?;
        match drain(&shell, listener.get_ref()) {
            Drained::Empty => ready.clear_ready(),
            Drained::More => {}
            Drained::NoFds => {
                for _ in 0..ACCEPTS_PER_TURN {
                    match reserve.close_one(listener.get_ref()) {
                        Ok(()) => shell.borrow_mut().count_no_fds(),
                        Err(_) => break,
                    }
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Drained::Failed(error) => {
                tracing::error!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        tokio::task::yield_now().await;
    }
}

enum Drained {
    Empty,
    More,
    /// EMFILE or ENFILE.
    NoFds,
    Failed(io::Error),
}

fn drain(shell: &SharedShell, listener: &TcpListener) -> Drained {
    let mut turn = Turn::begin(shell);
    for _ in 0..ACCEPTS_PER_TURN {
        match listener.accept() {
            Ok((socket, peer)) => turn.accepted(socket, peer),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return Drained::Empty,
                Some(libc::EMFILE | libc::ENFILE) => return Drained::NoFds,
                // The peer left before we came, or a network error that accept(2) passes on.
                Some(
                    libc::EINTR
                    | libc::ECONNABORTED
                    | libc::EPERM
                    | libc::EPROTO
                    | libc::ENETDOWN
                    | libc::ENOPROTOOPT
                    | libc::EHOSTDOWN
                    | libc::ENONET
                    | libc::EHOSTUNREACH
                    | libc::EOPNOTSUPP
                    | libc::ENETUNREACH,
                ) => {}
                _ => return Drained::Failed(error),
            },
        }
    }
    Drained::More
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;
    use std::io::Read;
    use std::net::TcpStream;

    #[test]
    fn an_accepted_socket_inherits_what_is_set_on_its_listener() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = match listen(address.parse().unwrap()) {
                Ok(listener) => listener,
                Err(error) if is_family_missing(&error) => continue,
                Err(error) => panic!("{error}"),
            };
            listener.set_nonblocking(false).unwrap();
            let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (socket, _) = listener.accept().unwrap();
            assert!(getsockopt(&socket, sockopt::TcpNoDelay).unwrap(), "{address}");
            assert!(getsockopt(&socket, sockopt::OobInline).unwrap(), "{address}");
        }
    }

    /// Without a free fd a peer is told by the end of its connection, each by one, and the fd that
    /// was kept back for that is kept back again.
    #[test]
    fn the_reserve_takes_one_connection_and_closes_it() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut reserve = Reserve::new();
        for _ in 0..3 {
            let mut peers = [(); 2].map(|()| TcpStream::connect(address).unwrap());
            for peer in &mut peers {
                peer.set_nonblocking(true).unwrap();
                let waiting = peer.read(&mut [0]).unwrap_err();
                assert_eq!(waiting.kind(), io::ErrorKind::WouldBlock);
                reserve.close_one(&listener).unwrap();
                assert!(reserve.0.is_some());
                peer.set_nonblocking(false).unwrap();
                assert_eq!(peer.read(&mut [0]).unwrap(), 0);
            }
        }
        assert_eq!(reserve.close_one(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(reserve.0.is_some());
    }

    #[test]
    fn an_address_this_machine_lacks_is_told_from_one_that_is_taken() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = listen(listener.local_addr().unwrap()).unwrap_err();
        assert!(!is_family_missing(&taken), "{taken}");
        let missing = listen("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(is_family_missing(&missing), "{missing}");
    }
}
