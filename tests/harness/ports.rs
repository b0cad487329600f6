//! TCP ports for programs that must be told theirs before they start.
//!
//! A port that is merely free at this moment may be taken by anybody until the program binds it: by
//! another test, or by the kernel for a listener that asked for any port or for an outgoing
//! connection. So these lie below the kernel's own range (ip_local_port_range, ip(7)), and each is
//! claimed by a socket in the abstract namespace (unix(7)) which lasts as long as this process.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;

/// Above the well-known servers of a developer's machine, below the kernel's own range.
const PORTS: Range<u16> = 20_000..32_000;

static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A TCP port of loopback that nobody listens on, and that no other caller is given while this
/// process runs.
pub fn free_port() -> Result<u16> {
    let (port, claim) = find()?;
    CLAIMS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(claim);
    Ok(port)
}

/// A port, and what keeps others from being given it.
fn find() -> Result<(u16, UnixListener)> {
    let span = u32::from(PORTS.end - PORTS.start);
    // Neighbours in process id begin far from one another.
    let first = std::process::id().wrapping_mul(97) % span;
    (0..span)
        .filter_map(|step| u16::try_from((first + step) % span).ok())
        .map(|offset| PORTS.start + offset)
        .find_map(|port| Some((port, claim(port)?)))
        .with_context(|| format!("no port of {PORTS:?} is free"))
}

fn claim(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("tasuki-tests-port-{port}")).ok()?;
    let claim = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port is given once, also where it is not listened on yet.
    #[test]
    fn no_port_is_given_twice() {
        let ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), ports.len());
        assert!(ports.iter().all(|port| claim(*port).is_none()));
    }

    /// A port that somebody listens on is passed over, and may be had when he has gone.
    #[test]
    fn a_port_in_use_is_not_given() {
        let (port, claimed) = find().unwrap();
        let occupied = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        drop(claimed);
        assert!(claim(port).is_none());
        drop(occupied);
        assert!(claim(port).is_some());
    }
}
