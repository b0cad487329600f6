//! From a host name to one connected socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use tasuki_shared::failpoint::{self, Point};
use tasuki_shared::limits::{DIAL_ADDRESSES_MAX, DIAL_DEADLINE, DIAL_STAGGER};
use tasuki_shared::message::DialError;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A connected socket: non-blocking, close-on-exec, TCP_NODELAY.
pub async fn dial(host: String, port: u16) -> Result<OwnedFd, DialError> {
    failpoint::hit(Point::DialerConnects);
    let dialled = tokio::time::timeout(DIAL_DEADLINE, async {
        let addresses = resolve(&host, port).await?;
        let stream = race(addresses).await.map_err(connect_error)?;
        stream.set_nodelay(true).map_err(connect_error)?;
        Ok(stream.into_std().map_err(connect_error)?.into())
    });
    dialled.await.unwrap_or(Err(DialError::Timeout))
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let failed = |reason: String| DialError::Resolve { host: host.to_owned(), reason };
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<_> = found.map_err(|error| failed(error.to_string()))?.collect();
    if found.is_empty() {
        return Err(failed("it has no address".to_owned()));
    }
    Ok(interleave(found))
}

/// Families alternate, beginning with the one that the resolver prefers (RFC 8305, section 4).
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let preferred = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|address| address.is_ipv6() == preferred);
    let mut second = second.into_iter();
    let mut all = Vec::new();
    for address in first {
        all.push(address);
        all.extend(second.next());
    }
    all.extend(second);
    all.truncate(DIAL_ADDRESSES_MAX);
    all
}

/// The first address that answers wins. The next is tried when the last has failed or had its
/// head start; the reason of the last failure is the reason of all.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut left = addresses.into_iter();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    attempts.spawn(connect(left.next()));
    loop {
        tokio::select! {
            attempt = attempts.join_next() => match attempt {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => {
                    failure = error;
                    if let Some(address) = left.next() {
                        attempts.spawn(connect(Some(address)));
                    } else if attempts.is_empty() {
                        return Err(failure);
                    }
                }
                Some(Err(panicked)) => return Err(io::Error::other(panicked)),
                None => return Err(failure),
            },
            () = tokio::time::sleep(DIAL_STAGGER), if left.len() > 0 => {
                attempts.spawn(connect(left.next()));
            }
        }
    }
}

async fn connect(address: Option<SocketAddr>) -> io::Result<TcpStream> {
    match address {
        Some(address) => TcpStream::connect(address).await,
        None => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

fn connect_error(error: impl ToString) -> DialError {
    DialError::Connect(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate_and_the_number_of_addresses_is_bounded() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let found = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let expected = parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(interleave(found), expected);
        assert_eq!(interleave(parse(&["1.1.1.1:1"; 100])).len(), DIAL_ADDRESSES_MAX);
    }
}
