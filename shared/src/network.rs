//! Whom an address stands for, where peers are counted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What one subscriber usually has: an IPv4 address or an IPv6 /64.
#[must_use]
pub fn network(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports and the lower half of an IPv6 address tell nobody apart; an IPv4 address is the same
    /// however a listener for both families writes it.
    #[test]
    fn a_subscriber_is_one_whatever_address_it_has() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.7:1"), "192.0.2.7");
        assert_eq!(of("[::ffff:192.0.2.7]:2"), "192.0.2.7");
        assert_eq!(of("[2001:db8:1:2:3:4:5:6]:1"), "2001:db8:1:2::");
        assert_eq!(of("[2001:db8:1:2:ffff::]:2"), "2001:db8:1:2::");
        assert_ne!(of("[2001:db8:1:3::1]:1"), of("[2001:db8:1:2::1]:1"));
        assert_eq!(of("[::1]:1"), "::1");
    }
}
