//! Which connections are taken: so many at once, and so many of one address. What is refused is
//! counted, and told now and then.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;
use tasuki_shared::limits::LOG_RATE_WINDOW;
use tasuki_shared::log_output::{Admit, RateLimit};
use tasuki_shared::network::network;
use tokio::sync::Notify;

/// Why a connection is closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There are `connections_max`.
    Full,
    /// Its address has `connections_per_address_max`.
    Crowded,
}

/// See the module.
#[derive(Debug)]
pub struct Admission {
    most: u32,
    /// 0 is no bound.
    most_of_one: u32,
    open: Cell<u32>,
    /// Of `open`, by network, where there is a bound; so it never has more than `most` entries.
    by_network: RefCell<HashMap<IpAddr, u32>>,
    full: Cell<u64>,
    crowded: Cell<u64>,
    /// One line a window for each reason: many addresses are no reason for many lines.
    told: RefCell<RateLimit<Refusal>>,
    /// The last place was given back.
    left: Notify,
}

/// A connection, counted until it is dropped.
#[derive(Debug)]
pub struct Place {
    admission: Rc<Admission>,
    network: IpAddr,
}

impl Admission {
    #[must_use]
    pub fn new(most: u32, most_of_one: u32) -> Rc<Self> {
        Rc::new(Self {
            most,
            most_of_one,
            open: Cell::new(0),
            by_network: RefCell::default(),
            full: Cell::new(0),
            crowded: Cell::new(0),
            told: RefCell::new(RateLimit::new(1, LOG_RATE_WINDOW, 2)),
            left: Notify::new(),
        })
    }

    /// A place, if there is one for this peer.
    pub fn admit(self: &Rc<Self>, peer: SocketAddr) -> Result<Place, Refusal> {
        let network = network(peer);
        if self.open.get() >= self.most {
            self.full.set(self.full.get() + 1);
            return Err(Refusal::Full);
        }
        if self.most_of_one > 0 {
            let mut counts = self.by_network.borrow_mut();
            let count = counts.entry(network).or_default();
            if *count >= self.most_of_one {
                self.crowded.set(self.crowded.get() + 1);
                return Err(Refusal::Crowded);
            }
            *count += 1;
        }
        self.open.set(self.open.get() + 1);
        Ok(Place { admission: Rc::clone(self), network })
    }

    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.get()
    }

    /// Until no place is taken. For one who waits.
    pub async fn emptied(&self) {
        while self.open() > 0 {
            self.left.notified().await;
        }
    }

    /// Connections refused so far for this reason.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> u64 {
        match refusal {
            Refusal::Full => self.full.get(),
            Refusal::Crowded => self.crowded.get(),
        }
    }

    /// Tells of a refusal, unless one like it was told of a moment ago.
    pub fn tell(&self, refusal: Refusal, peer: SocketAddr, now: Instant) {
        match self.told.borrow_mut().admit(refusal, now) {
            Admit::Suppressed => return,
            Admit::Allow { suppressed: _ } => {}
        }
        let total = self.refused(refusal);
        match refusal {
            Refusal::Full => tracing::warn!(
                total,
                most = self.most,
                "too many viewers: connections are closed; see delivery.connections_max"
            ),
            Refusal::Crowded => tracing::warn!(
                total,
                most = self.most_of_one,
                address = %network(peer),
                "too many connections of one address: they are closed; see delivery.connections_per_address_max"
            ),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Admission { most_of_one, open, by_network, left, .. } = &*self.admission;
        open.set(open.get() - 1);
        if open.get() == 0 {
            left.notify_one();
        }
        if *most_of_one > 0
            && let Entry::Occupied(mut count) = by_network.borrow_mut().entry(self.network)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// One address gets its share and no more, others are not held down with it, and a place that is
    /// free again is given.
    #[test]
    fn one_address_does_not_take_the_places_of_all() {
        let admission = Admission::new(4, 2);
        let one = [peer("192.0.2.1:1"), peer("192.0.2.1:2"), peer("[::ffff:192.0.2.1]:3")];
        let mut held: Vec<_> = one[..2].iter().map(|it| admission.admit(*it).unwrap()).collect();
        assert_eq!(admission.admit(one[2]).err(), Some(Refusal::Crowded));
        let other = admission.admit(peer("192.0.2.2:1")).unwrap();
        held.pop();
        held.push(admission.admit(one[2]).unwrap());
        assert_eq!((admission.open(), admission.refused(Refusal::Crowded)), (3, 1));
        let _last = admission.admit(peer("192.0.2.3:1")).unwrap();
        assert_eq!(admission.admit(peer("192.0.2.4:1")).err(), Some(Refusal::Full));
        assert_eq!(admission.refused(Refusal::Full), 1);
        drop((held, other));
        assert_eq!((admission.open(), admission.by_network.borrow().len()), (1, 1));
    }

    /// An IPv6 subscriber has a /64 of addresses and is one all the same.
    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let admission = Admission::new(10, 1);
        let _held = admission.admit(peer("[2001:db8:1:2::1]:1")).unwrap();
        let same = admission.admit(peer("[2001:db8:1:2:ffff::9]:1"));
        assert_eq!(same.err(), Some(Refusal::Crowded));
        assert!(admission.admit(peer("[2001:db8:1:3::1]:1")).is_ok());
    }

    /// Behind a proxy everybody has its address: 0 takes them all.
    #[test]
    fn without_a_bound_only_the_number_of_all_counts() {
        let admission = Admission::new(3, 0);
        let held: Vec<_> = (0..3).map(|_| admission.admit(peer("192.0.2.1:1"))).collect();
        assert!(held.iter().all(Result::is_ok) && admission.by_network.borrow().is_empty());
        assert_eq!(admission.admit(peer("192.0.2.1:1")).err(), Some(Refusal::Full));
        drop(held);
        assert_eq!(admission.open(), 0);
    }
}
