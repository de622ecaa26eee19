//! Failed attempts to log in, counted by address and by user: who guesses is made to wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Addresses, users and pairs of them that are remembered, each. Beyond it those whose time is over
/// go, then any: a guesser with so many addresses is not stopped by counting them.
const REMEMBERED_MAX: usize = 16 * 1024;

/// How many failures are too many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) per_address: u32,
    pub(super) per_user: u32,
    pub(super) window: Duration,
}

/// What has failed, and who has been right.
pub(super) struct Attempts {
    limits: Limits,
    addresses: HashMap<IpAddr, Failures>,
    users: HashMap<Box<str>, Failures>,
    /// Users where they have been right: others' guesses do not lock them out there.
    right: HashMap<(Box<str>, IpAddr), Instant>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    since: Instant,
}

impl Attempts {
    pub(super) fn new(limits: Limits) -> Attempts {
        Attempts { limits, addresses: HashMap::new(), users: HashMap::new(), right: HashMap::new() }
    }

    /// How long somebody at `address` has to wait before he may try again; for a `user`, once it is
    /// known who he wants to be.
    pub(super) fn wait(
        &self,
        address: IpAddr,
        user: Option<&str>,
        now: Instant,
    ) -> Option<Duration> {
        let address = block(address);
        let by_address = self.left(self.addresses.get(&address), self.limits.per_address, now);
        let by_user = user
            .filter(|user| !self.was_right(user, address, now))
            .and_then(|user| self.left(self.users.get(user), self.limits.per_user, now));
        by_address.max(by_user)
    }

    /// An attempt was wrong.
    pub(super) fn failed(&mut self, address: IpAddr, user: Option<&str>, now: Instant) {
        let window = self.limits.window;
        count(&mut self.addresses, block(address), window, now);
        if let Some(user) = user {
            count(&mut self.users, user.into(), window, now);
        }
    }

    /// An attempt was right. That clears nothing: who has one password must not get more guesses at
    /// others for it.
    pub(super) fn succeeded(&mut self, address: IpAddr, user: &str, now: Instant) {
        let window = self.limits.window;
        make_room(&mut self.right, |at| now.saturating_duration_since(*at) < window);
        self.right.insert((user.into(), block(address)), now);
    }

    fn was_right(&self, user: &str, address: IpAddr, now: Instant) -> bool {
        let at = self.right.get(&(user.into(), address));
        at.is_some_and(|at| now.saturating_duration_since(*at) < self.limits.window)
    }

    fn left(&self, failures: Option<&Failures>, max: u32, now: Instant) -> Option<Duration> {
        let failures = failures.filter(|failures| failures.count >= max)?;
        let passed = now.saturating_duration_since(failures.since);
        self.limits.window.checked_sub(passed).filter(|left| !left.is_zero())
    }
}

fn count<K: Hash + Eq + Clone>(
    map: &mut HashMap<K, Failures>,
    key: K,
    window: Duration,
    now: Instant,
) {
    let is_young = |one: &Failures| now.saturating_duration_since(one.since) < window;
    if !map.contains_key(&key) {
        make_room(map, is_young);
    }
    let failures = map.entry(key).or_insert(Failures { count: 0, since: now });
    if !is_young(failures) {
        *failures = Failures { count: 0, since: now };
    }
    failures.count = failures.count.saturating_add(1);
}

fn make_room<K: Hash + Eq + Clone, V>(map: &mut HashMap<K, V>, stays: impl Fn(&V) -> bool) {
    if map.len() < REMEMBERED_MAX {
        return;
    }
    map.retain(|_, value| stays(value));
    // Many at once, so that this is not done for each.
    let mut spare = map.len().saturating_sub(REMEMBERED_MAX / 2);
    if map.len() >= REMEMBERED_MAX {
        map.retain(|_, _| {
            let goes = spare > 0;
            spare = spare.saturating_sub(1);
            !goes
        });
    }
}

/// Of IPv6 the first half: the rest one host chooses as it likes.
fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn attempts() -> Attempts {
        Attempts::new(Limits { per_address: 3, per_user: 5, window: WINDOW })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_fails_often_waits_until_its_time_is_over() {
        let (mut attempts, begin) = (attempts(), Instant::now());
        let (guesser, other) = (ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        for _ in 0..3 {
            assert_eq!(attempts.wait(guesser, None, begin), None);
            attempts.failed(guesser, Some("joe"), begin);
        }
        assert_eq!(attempts.wait(guesser, None, begin), Some(WINDOW));
        assert!(attempts.wait(ip("2001:db8::2"), None, begin).is_some(), "the same block");
        assert_eq!(attempts.wait(other, Some("joe"), begin), None);
        let later = begin + Duration::from_secs(45);
        assert_eq!(attempts.wait(guesser, None, later), Some(Duration::from_secs(15)));
        assert_eq!(attempts.wait(guesser, None, begin + WINDOW), None);
        attempts.failed(guesser, None, begin + WINDOW);
        assert_eq!(attempts.wait(guesser, None, begin + WINDOW), None, "counted anew");
    }

    #[test]
    fn a_user_guessed_at_from_everywhere_is_shut_but_where_he_was_right() {
        let (mut attempts, begin) = (attempts(), Instant::now());
        let home = ip("192.0.2.1");
        attempts.succeeded(home, "joe", begin);
        for number in 0..5 {
            attempts.failed(IpAddr::from([198, 51, 100, number]), Some("joe"), begin);
        }
        assert!(attempts.wait(ip("203.0.113.1"), Some("joe"), begin).is_some());
        assert_eq!(attempts.wait(ip("203.0.113.1"), Some("ann"), begin), None);
        assert_eq!(attempts.wait(home, Some("joe"), begin), None);
    }

    #[test]
    fn a_guesser_with_a_million_addresses_fills_no_memory() {
        let (mut attempts, begin) = (attempts(), Instant::now());
        for number in 0..100_000_u32 {
            let address = IpAddr::from(number.to_be_bytes());
            attempts.failed(address, Some(&format!("user{number}")), begin);
            attempts.succeeded(address, &format!("user{number}"), begin);
        }
        assert!(attempts.addresses.len() <= REMEMBERED_MAX);
        assert!(attempts.users.len() <= REMEMBERED_MAX && attempts.right.len() <= REMEMBERED_MAX);
    }
}
