//! Counts failed logins by client address and by user, and makes clients that guess passwords wait.
//! A login that is still being checked may fail too, so no more run at once than may still fail.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Largest number of addresses, of users, and of pairs of both that are remembered. Beyond it,
/// expired entries are dropped first, then any: counting does not stop an attacker who has that
/// many addresses.
const REMEMBERED_MAX: usize = 16 * 1024;

/// How many failures are too many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) per_address: u32,
    pub(super) per_user: u32,
    pub(super) window: Duration,
}

/// Failed logins, and from which addresses users have logged in.
pub(super) struct Attempts {
    limits: Limits,
    addresses: HashMap<IpAddr, Failures>,
    users: HashMap<Box<str>, Failures>,
    /// The addresses from which a user has logged in: guesses from elsewhere do not lock the user
    /// out there.
    right: HashMap<(Box<str>, IpAddr), Instant>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    since: Instant,
    /// Logins that are being checked.
    open: u32,
}

/// Why a login must not be checked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// The limit would be reached if all logins that are being checked failed. Try again when one
    /// of them has ended.
    Crowded,
    /// Too many have failed. Try again after this time.
    For(Duration),
}

impl Attempts {
    pub(super) fn new(limits: Limits) -> Attempts {
        Attempts { limits, addresses: HashMap::new(), users: HashMap::new(), right: HashMap::new() }
    }

    /// How long a client at `address` has to wait before it may try again; with `user`, once the
    /// name is known, also how long that user's logins have to wait.
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

    /// Starts the check of a login: it counts as open until `end`.
    pub(super) fn begin(
        &mut self,
        address: IpAddr,
        user: Option<&str>,
        now: Instant,
    ) -> Result<(), NotNow> {
        if let Some(wait) = self.wait(address, user, now) {
            return Err(NotNow::For(wait));
        }
        let (address, window) = (block(address), self.limits.window);
        let limited = user.filter(|user| !self.was_right(user, address, now));
        let by_user = limited.and_then(|user| self.users.get(user));
        if could_be(self.addresses.get(&address), window, now) >= self.limits.per_address
            || could_be(by_user, window, now) >= self.limits.per_user
        {
            return Err(NotNow::Crowded);
        }
        let by_address = entry(&mut self.addresses, address, window, now);
        by_address.open = by_address.open.saturating_add(1);
        if let Some(user) = user {
            let by_user = entry(&mut self.users, user.into(), window, now);
            by_user.open = by_user.open.saturating_add(1);
        }
        Ok(())
    }

    /// Ends the check of a login, done or abandoned.
    pub(super) fn end(&mut self, address: IpAddr, user: Option<&str>, wrong: bool, now: Instant) {
        close(&mut self.addresses, &block(address));
        if let Some(user) = user {
            close(&mut self.users, user);
        }
        if wrong {
            self.failed(address, user, now);
        }
    }

    /// Counts a failed login.
    pub(super) fn failed(&mut self, address: IpAddr, user: Option<&str>, now: Instant) {
        let window = self.limits.window;
        count(&mut self.addresses, block(address), window, now);
        if let Some(user) = user {
            count(&mut self.users, user.into(), window, now);
        }
    }

    /// Remembers a successful login. It clears no failures: a client that knows one password must
    /// not get more guesses at others for it.
    pub(super) fn succeeded(&mut self, address: IpAddr, user: &str, now: Instant) {
        let window = self.limits.window;
        evict(&mut self.right, |at| now.saturating_duration_since(*at) < window);
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
    let failures = entry(map, key, window, now);
    failures.count = failures.count.saturating_add(1);
}

/// The entry of `key`, new or reset if there is none or it is too old.
fn entry<K: Hash + Eq + Clone>(
    map: &mut HashMap<K, Failures>,
    key: K,
    window: Duration,
    now: Instant,
) -> &mut Failures {
    if !map.contains_key(&key) {
        evict(map, |one| one.is_young(window, now) || one.open > 0);
    }
    let failures = map.entry(key).or_insert(Failures { count: 0, since: now, open: 0 });
    if !failures.is_young(window, now) {
        *failures = Failures { count: 0, since: now, ..*failures };
    }
    failures
}

/// The number of failures if all logins that are being checked fail.
fn could_be(failures: Option<&Failures>, window: Duration, now: Instant) -> u32 {
    failures.map_or(0, |one| {
        let failed = if one.is_young(window, now) { one.count } else { 0 };
        failed.saturating_add(one.open)
    })
}

fn close<K, Q>(map: &mut HashMap<K, Failures>, key: &Q)
where
    K: Hash + Eq + std::borrow::Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    if let Some(failures) = map.get_mut(key) {
        failures.open = failures.open.saturating_sub(1);
        if failures.open == 0 && failures.count == 0 {
            map.remove(key);
        }
    }
}

impl Failures {
    fn is_young(&self, window: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < window
    }
}

fn evict<K: Hash + Eq + Clone, V>(map: &mut HashMap<K, V>, stays: impl Fn(&V) -> bool) {
    if map.len() < REMEMBERED_MAX {
        return;
    }
    map.retain(|_, value| stays(value));
    // Half of them at once, so that not every insertion has to evict.
    let mut spare = map.len().saturating_sub(REMEMBERED_MAX / 2);
    if map.len() >= REMEMBERED_MAX {
        map.retain(|_, _| {
            let goes = spare > 0;
            spare = spare.saturating_sub(1);
            !goes
        });
    }
}

/// The /64 of an IPv6 address: one host can choose the lower half freely.
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
    use crate::ring;

    const WINDOW: Duration = Duration::from_secs(60);

    fn attempts() -> Attempts {
        Attempts::new(Limits { per_address: 3, per_user: 5, window: WINDOW })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_fails_often_waits_until_its_time_is_over() {
        let (mut attempts, begin) = (attempts(), ring::now());
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
    fn guesses_from_many_addresses_lock_a_user_except_where_they_logged_in() {
        let (mut attempts, begin) = (attempts(), ring::now());
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
    fn no_more_logins_are_checked_at_once_than_may_fail() {
        let (mut attempts, begin) = (attempts(), ring::now());
        let guesser = ip("192.0.2.7");
        for _ in 0..3 {
            assert_eq!(attempts.begin(guesser, Some("joe"), begin), Ok(()));
        }
        assert_eq!(attempts.begin(guesser, Some("ann"), begin), Err(NotNow::Crowded));
        assert_eq!(attempts.wait(guesser, Some("joe"), begin), None, "nothing has failed yet");
        attempts.end(guesser, Some("joe"), false, begin);
        assert_eq!(attempts.begin(guesser, Some("ann"), begin), Ok(()), "one was right");
        for user in ["joe", "joe", "ann"] {
            attempts.end(guesser, Some(user), true, begin);
        }
        let refused = attempts.begin(guesser, Some("joe"), begin);
        assert_eq!(refused, Err(NotNow::For(WINDOW)));
        assert_eq!(attempts.begin(guesser, Some("joe"), begin + WINDOW), Ok(()));
        attempts.end(guesser, Some("joe"), false, begin + WINDOW);
        assert!(attempts.addresses.is_empty(), "nothing is left to remember");
    }

    #[test]
    fn guesses_at_one_user_from_many_addresses_at_once_are_bounded() {
        let (mut attempts, begin) = (attempts(), ring::now());
        let home = ip("192.0.2.1");
        attempts.succeeded(home, "joe", begin);
        for number in 0..5 {
            let address = IpAddr::from([198, 51, 100, number]);
            assert_eq!(attempts.begin(address, Some("joe"), begin), Ok(()));
        }
        let other = ip("203.0.113.1");
        assert_eq!(attempts.begin(other, Some("joe"), begin), Err(NotNow::Crowded));
        assert_eq!(attempts.begin(home, Some("joe"), begin), Ok(()), "where the user logged in");
    }

    #[test]
    fn a_guesser_with_a_million_addresses_fills_no_memory() {
        let (mut attempts, begin) = (attempts(), ring::now());
        for number in 0..100_000_u32 {
            let address = IpAddr::from(number.to_be_bytes());
            attempts.failed(address, Some(&format!("user{number}")), begin);
            attempts.succeeded(address, &format!("user{number}"), begin);
        }
        assert!(attempts.addresses.len() <= REMEMBERED_MAX);
        assert!(attempts.users.len() <= REMEMBERED_MAX && attempts.right.len() <= REMEMBERED_MAX);
    }
}
