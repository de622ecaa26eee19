//! How many connections stand to each remote address, over all sites and all shards.
//!
//! Sites are known by the names of their hosts, and thousands of names may lead to one machine. So
//! connections are counted by address too. The table is one of the two things that pools of several
//! shards share (`super::outages` is the other): a connection takes a lock for an instant when it
//! begins and when it ends, messages take none. It has no entry for an address without a
//! connection, so `pool.connections_max` bounds it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shards that open connections at the same moment mostly find different locks.
const PARTS: usize = 16;

/// The connections of all shards by remote address. Clones share it.
#[derive(Clone)]
pub struct AddressCounts {
    parts: Arc<[Mutex<HashMap<IpAddr, usize>>; PARTS]>,
    limit: usize,
}

/// One connection to an address; counted until it is dropped.
pub(super) struct AddressPlace {
    counts: AddressCounts,
    address: IpAddr,
}

impl AddressCounts {
    /// At most `limit` connections to each address.
    pub fn new(limit: usize) -> AddressCounts {
        AddressCounts { parts: Arc::default(), limit: limit.max(1) }
    }

    /// A place for one more connection to `address`; `None` when it has as many as it may.
    pub(super) fn try_place(&self, address: IpAddr) -> Option<AddressPlace> {
        let address = address.to_canonical();
        let mut part = self.part(address);
        let count = part.entry(address).or_insert(0);
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        drop(part);
        Some(AddressPlace { counts: self.clone(), address })
    }

    /// A task that panics while it holds the lock leaves a count behind that is right.
    fn part(&self, address: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        let bits = match address {
            IpAddr::V4(four) => u64::from(four.to_bits()),
            IpAddr::V6(six) => (six.to_bits() >> 64) as u64 ^ six.to_bits() as u64,
        };
        let at = (bits ^ bits >> 32 ^ bits >> 8) as usize % PARTS;
        let [first, ..] = &*self.parts;
        self.parts.get(at).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressPlace {
    /// The address.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut part = self.counts.part(self.address);
        if let Some(count) = part.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                part.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_number_of_places_whatever_the_shard() {
        let counts = AddressCounts::new(2);
        let other_shard = counts.clone();
        let one = counts.try_place(address("192.0.2.1"));
        let two = other_shard.try_place(address("::ffff:192.0.2.1"));
        assert!(one.is_some() && two.is_some());
        assert!(counts.try_place(address("192.0.2.1")).is_none());
        assert!(counts.try_place(address("192.0.2.2")).is_some());
        drop(two);
        assert!(counts.try_place(address("192.0.2.1")).is_some());
    }

    #[test]
    fn nothing_is_kept_of_an_address_without_connections() {
        let counts = AddressCounts::new(2);
        let places: Vec<_> = (0..=255_u8)
            .map(|last| counts.try_place(address(&format!("2001:db8::{last:x}"))))
            .collect();
        drop(places);
        assert!(counts.parts.iter().all(|part| part.lock().unwrap().is_empty()));
    }
}
