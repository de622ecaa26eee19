//! Messages and recipients an hour, by user and by network, over all shards together.
//!
//! What counts is mail that was accepted. What a transaction may still become is reserved until
//! that is known, so that many transactions at once do not get beyond a limit together.
//!
//! ```text
//! Quotas (process)                ShardQuotas (shard)             Reservation (transaction)
//! an account for each user  --->  leases some of what an   --->   takes from the lease; dropped,
//! and network: the last hour      account has left                it gives back
//! ```
//!
//! | what | rule |
//! |---|---|
//! | a limit | never more than N in any hour: the 60 minutes before this one count as a whole |
//! | a lease | counts as used when it is leased, and ends with its minute |
//! | its size | an eighth of a shard's share of what is left, so the last ones go one by one |
//! | what is not used of it | comes back with the minute, with the user's last session, and within a second by [`ShardQuotas::give_back_idle`] |
//! | locks | an account is locked to lease, and to refuse; not for each message |
//!
//! It must not know who the users are, nor what is counted for.

use crate::ring;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_secs(60);
/// An hour of them, and the one at hand.
const STEPS: usize = 61;
/// Most that is leased at once.
const LEASE_MAX: u32 = 1024;
/// Accounts that are kept; beyond it those go of which nothing counts and that no session has.
/// Users that are known by tokens are as many as another system has.
const ACCOUNTS_MAX: usize = 32 * 1024;

/// Whose mail is counted. There are as many as users and configured networks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// A user's.
    User(Box<str>),
    /// That of a network, by its place in the configuration.
    Network(usize),
}

/// What is counted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Messages.
    Messages,
    /// Their recipients.
    Recipients,
}

/// All accounts of the process.
pub struct Quotas {
    began: Instant,
    shards: u32,
    accounts: Mutex<HashMap<Counted, Arc<Account>>>,
}

/// What a user, or a network, has sent.
#[derive(Default)]
struct Account {
    messages: Mutex<Hour>,
    recipients: Mutex<Hour>,
    /// How often it was locked.
    #[cfg(test)]
    locked: std::sync::atomic::AtomicU64,
}

/// The last hour: the steps by their number modulo [`STEPS`].
struct Hour {
    newest: u64,
    steps: [u32; STEPS],
}

impl Quotas {
    /// Nothing was sent yet; for so many shards.
    pub fn new(shards: usize) -> Quotas {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX).max(1);
        Quotas { began: ring::now(), shards, accounts: Mutex::default() }
    }

    fn account(&self, whose: &Counted) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.get(whose) {
            return Arc::clone(account);
        }
        if accounts.len() >= ACCOUNTS_MAX {
            let step = step_of(ring::now().saturating_duration_since(self.began));
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || account.counts(step));
        }
        Arc::clone(accounts.entry(whose.clone()).or_default())
    }
}

impl Account {
    fn hour(&self, unit: Unit) -> MutexGuard<'_, Hour> {
        #[cfg(test)]
        self.locked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        lock(match unit {
            Unit::Messages => &self.messages,
            Unit::Recipients => &self.recipients,
        })
    }

    /// Whether anything counts at `step`.
    fn counts(&self, step: u64) -> bool {
        [Unit::Messages, Unit::Recipients].into_iter().any(|unit| {
            let mut hour = self.hour(unit);
            hour.turn(step);
            hour.sum() > 0
        })
    }
}

impl Default for Hour {
    fn default() -> Hour {
        Hour { newest: 0, steps: [0; STEPS] }
    }
}

impl Hour {
    /// Forgets what is older than an hour at step `now`.
    fn turn(&mut self, now: u64) {
        if now.saturating_sub(self.newest) >= STEPS as u64 {
            self.steps = [0; STEPS];
            self.newest = now;
        }
        while self.newest < now {
            self.newest += 1;
            *self.at(self.newest) = 0;
        }
    }

    fn at(&mut self, step: u64) -> &mut u32 {
        &mut self.steps[(step % STEPS as u64) as usize]
    }

    fn sum(&self) -> u32 {
        self.steps.iter().fold(0, |sum, step| sum.saturating_add(*step))
    }

    /// Steps until something is forgotten.
    fn left(&mut self) -> u64 {
        let newest = self.newest + STEPS as u64;
        let oldest = (0..STEPS as u64).rev().find(|back| *self.at(newest - back) > 0);
        oldest.map_or(0, |back| STEPS as u64 - back)
    }

    /// Counts up to an eighth of a shard's share of what is left, and one at least; how many, and
    /// in which step.
    fn lease(&mut self, limit: u32, shards: u32, at: Duration) -> Result<(u32, u64), Duration> {
        self.turn(step_of(at));
        let left = limit.saturating_sub(self.sum());
        if left == 0 {
            let then = (step_of(at) + self.left()) * STEP.as_secs();
            return Err(Duration::from_secs(then).saturating_sub(at));
        }
        let count = (left / shards.saturating_mul(8)).clamp(1, LEASE_MAX);
        // Another shard's clock may have turned it further.
        let step = self.newest;
        *self.at(step) += count;
        Ok((count, step))
    }

    /// What is older than the hour is forgotten already.
    fn give_back(&mut self, step: u64, count: u32) {
        if self.newest.saturating_sub(step) < STEPS as u64 {
            let place = self.at(step);
            *place = place.saturating_sub(count);
        }
    }
}

/// The quotas as one shard has them.
#[derive(Clone)]
pub struct ShardQuotas {
    quotas: Arc<Quotas>,
    open: Rc<RefCell<HashMap<Counted, Weak<Leases>>>>,
}

/// What one shard has leased of an account. Lives as long as a session or transaction has it; then
/// what was not used goes back.
pub struct Leases {
    whose: Counted,
    shard: ShardQuotas,
    account: Arc<Account>,
    messages: Cell<Lease>,
    recipients: Cell<Lease>,
}

#[derive(Clone, Copy, Default)]
struct Lease {
    step: u64,
    left: u32,
    /// The limit that it was leased under.
    limit: u32,
    /// Used since it was last looked at.
    used: bool,
}

impl ShardQuotas {
    /// A shard's view of all accounts.
    pub fn new(quotas: Arc<Quotas>) -> ShardQuotas {
        ShardQuotas { quotas, open: Rc::default() }
    }

    /// The account of `whose`, for a session: at AUTH, or when the client has connected.
    pub fn open(&self, whose: &Counted) -> Rc<Leases> {
        if let Some(leases) = self.open.borrow().get(whose).and_then(Weak::upgrade) {
            return leases;
        }
        let leases = Rc::new(Leases {
            whose: whose.clone(),
            shard: self.clone(),
            account: self.quotas.account(whose),
            messages: Cell::default(),
            recipients: Cell::default(),
        });
        self.open.borrow_mut().insert(whose.clone(), Rc::downgrade(&leases));
        leases
    }

    /// Gives back leases that were not used since the last call. To be called each second.
    pub fn give_back_idle(&self) {
        for leases in self.open.borrow().values().filter_map(Weak::upgrade) {
            for unit in [Unit::Messages, Unit::Recipients] {
                let cell = leases.cell(unit);
                let lease = cell.get();
                if lease.left > 0 && !lease.used {
                    leases.give_back_lease(unit);
                } else if lease.used {
                    cell.set(Lease { used: false, ..lease });
                }
            }
        }
    }
}

impl Leases {
    fn cell(&self, unit: Unit) -> &Cell<Lease> {
        match unit {
            Unit::Messages => &self.messages,
            Unit::Recipients => &self.recipients,
        }
    }

    /// Takes one; the step that it counts in.
    fn take_at(&self, unit: Unit, limit: u32, at: Duration) -> Result<u64, Duration> {
        let cell = self.cell(unit);
        let lease = cell.get();
        if lease.left > 0 && lease.step >= step_of(at) && lease.limit == limit {
            cell.set(Lease { left: lease.left - 1, used: true, ..lease });
            return Ok(lease.step);
        }
        self.give_back_lease(unit);
        let shards = self.shard.quotas.shards;
        let (count, step) = self.account.hour(unit).lease(limit, shards, at)?;
        cell.set(Lease { step, left: count - 1, limit, used: true });
        Ok(step)
    }

    /// Of a transaction that was given up.
    fn give_back(&self, unit: Unit, step: u64, count: u32) {
        let cell = self.cell(unit);
        let lease = cell.get();
        if lease.left > 0 && lease.step == step {
            cell.set(Lease { left: lease.left + count, ..lease });
        } else {
            self.account.hour(unit).give_back(step, count);
        }
    }

    fn give_back_lease(&self, unit: Unit) {
        let lease = self.cell(unit).take();
        if lease.left > 0 {
            self.account.hour(unit).give_back(lease.step, lease.left);
        }
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.give_back_lease(Unit::Messages);
        self.give_back_lease(Unit::Recipients);
        let mut open = self.shard.open.borrow_mut();
        if open.get(&self.whose).is_some_and(|leases| leases.strong_count() == 0) {
            open.remove(&self.whose);
        }
    }
}

/// What one transaction has taken. Dropped, it is given back.
pub struct Reservation {
    leases: Rc<Leases>,
    /// By unit and step.
    taken: Vec<(Unit, u64, u32)>,
}

impl Reservation {
    /// Nothing yet.
    pub fn new(leases: Rc<Leases>) -> Reservation {
        Reservation { leases, taken: Vec::new() }
    }

    /// Takes one, if the last hour has had fewer than `limit`.
    ///
    /// # Errors
    /// How long until one more may come, at least.
    pub fn take(&mut self, unit: Unit, limit: u32) -> Result<(), Duration> {
        let at = ring::now().saturating_duration_since(self.leases.shard.quotas.began);
        self.take_at(unit, limit, at)
    }

    fn take_at(&mut self, unit: Unit, limit: u32, at: Duration) -> Result<(), Duration> {
        let step = self.leases.take_at(unit, limit, at)?;
        match self.taken.last_mut() {
            Some((same, last, count)) if (*same, *last) == (unit, step) => *count += 1,
            _ => self.taken.push((unit, step, 1)),
        }
        Ok(())
    }

    /// The message was accepted: all of it counts.
    pub fn commit(mut self) {
        self.taken.clear();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for &(unit, step, count) in &self.taken {
            self.leases.give_back(unit, step, count);
        }
    }
}

fn step_of(at: Duration) -> u64 {
    at.as_secs() / STEP.as_secs()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    const MINUTE: u64 = 60;

    fn minute(count: u64) -> Duration {
        Duration::from_secs(count * MINUTE)
    }

    fn joe() -> Counted {
        Counted::User("joe".into())
    }

    fn shards(count: usize) -> Vec<ShardQuotas> {
        let quotas = Arc::new(Quotas::new(count));
        (0..count).map(|_| ShardQuotas::new(Arc::clone(&quotas))).collect()
    }

    /// One message that is accepted.
    fn send(leases: &Rc<Leases>, limit: u32, at: Duration) -> Result<(), Duration> {
        let mut one = Reservation::new(Rc::clone(leases));
        one.take_at(Unit::Messages, limit, at)?;
        one.commit();
        Ok(())
    }

    #[test]
    fn a_limit_holds_for_any_hour() {
        let shard = &shards(1)[0];
        let leases = shard.open(&joe());
        let send = |at| send(&leases, 3, minute(at));
        let wait = |count| Err(minute(count));
        assert_eq!((send(0), send(1), send(31)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(send(32), wait(29), "the one of minute 0 goes at 61");
        assert_eq!(send(60), wait(1));
        assert_eq!((send(61), send(62)), (Ok(()), Ok(())));
        assert_eq!(send(63), wait(29), "the one of 31 goes at 92");
        assert_eq!(send(1000), Ok(()));
    }

    #[test]
    fn each_user_network_and_unit_has_a_count_of_its_own() {
        let shard = &shards(1)[0];
        let take = |whose, unit| {
            let mut one = Reservation::new(shard.open(&whose));
            let taken = one.take_at(unit, 1, Duration::ZERO).is_ok();
            one.commit();
            taken
        };
        assert!(take(Counted::User("a".into()), Unit::Messages));
        assert!(!take(Counted::User("a".into()), Unit::Messages));
        assert!(take(Counted::User("a".into()), Unit::Recipients));
        assert!(take(Counted::User("b".into()), Unit::Messages));
        assert!(take(Counted::Network(0), Unit::Messages));
        assert!(take(Counted::Network(1), Unit::Messages));
        assert!(!take(Counted::Network(1), Unit::Messages), "also when no session has it");
    }

    #[test]
    fn what_was_not_sent_is_given_back_and_what_is_open_counts() {
        let shards = shards(2);
        let claim = |shard: usize| Reservation::new(shards[shard].open(&joe()));
        let (mut one, mut other, mut third) = (claim(0), claim(1), claim(0));
        assert!(one.take_at(Unit::Messages, 2, minute(0)).is_ok());
        assert!(other.take_at(Unit::Messages, 2, minute(0)).is_ok());
        assert!(third.take_at(Unit::Messages, 2, minute(0)).is_err(), "two are open");
        for at in [4, 6] {
            assert!(one.take_at(Unit::Recipients, 2, minute(at)).is_ok());
        }
        assert!(one.take_at(Unit::Recipients, 2, minute(6)).is_err());
        drop(one);
        assert!(third.take_at(Unit::Messages, 2, minute(7)).is_ok());
        for _ in 0..2 {
            assert!(third.take_at(Unit::Recipients, 2, minute(7)).is_ok());
        }
        third.commit();
        other.commit();
        assert!(claim(1).take_at(Unit::Messages, 2, minute(8)).is_err(), "two were sent");
        assert!(claim(1).take_at(Unit::Recipients, 2, minute(8)).is_err());
    }

    #[test]
    fn what_is_given_back_after_the_hour_belongs_to_no_other_step() {
        let shard = &shards(1)[0];
        let claim = || Reservation::new(shard.open(&Counted::Network(0)));
        let (mut old, mut new) = (claim(), claim());
        assert!(old.take_at(Unit::Messages, 1, minute(0)).is_ok());
        // As many steps later the place in the ring is the same.
        assert!(new.take_at(Unit::Messages, 1, minute(61)).is_ok());
        drop(old);
        assert!(claim().take_at(Unit::Messages, 1, minute(62)).is_err());
    }

    #[test]
    fn several_shards_together_send_exactly_the_limit_and_all_of_it() {
        let mut random = fastrand::Rng::with_seed(9);
        for limit in [1, 2, 7, 100, 5000] {
            for count in [1, 2, 5] {
                let shards = shards(count);
                let leases: Vec<_> = shards.iter().map(|shard| shard.open(&joe())).collect();
                let mut sent = 0;
                for tick in 0..400 {
                    let at = Duration::from_secs(tick);
                    for _ in 0..100 {
                        sent += u32::from(send(&leases[random.usize(..count)], limit, at).is_ok());
                        assert!(sent <= limit, "{sent} of {limit} by {count} shards");
                    }
                    shards.iter().for_each(ShardQuotas::give_back_idle);
                }
                assert_eq!(sent, limit, "{count} shards");
            }
        }
    }

    #[test]
    fn leases_that_are_not_used_come_back() {
        let shards = shards(2);
        let (idle, busy) = (shards[0].open(&joe()), shards[1].open(&joe()));
        assert_eq!(send(&idle, 1000, Duration::ZERO), Ok(()));
        assert!(idle.messages.get().left > 0, "more was leased than was sent");
        let all = |limit| (0..2000).filter(|_| send(&busy, limit, Duration::ZERO).is_ok()).count();
        let first = all(1000);
        assert!(first < 999);
        shards[0].give_back_idle();
        shards[0].give_back_idle();
        assert_eq!(first + all(1000), 999, "after a second");
        // With the user's last session, at once.
        assert_eq!(send(&idle, 2000, Duration::ZERO), Ok(()));
        let second = all(2000);
        assert!(second < 999);
        drop(idle);
        assert_eq!(second + all(2000), 999);
        assert!(shards[0].open.borrow().is_empty());
    }

    #[test]
    fn a_lease_does_not_outlive_its_minute_nor_a_lower_limit() {
        let shard = &shards(1)[0];
        let leases = shard.open(&joe());
        assert_eq!(send(&leases, 800, minute(0)), Ok(()));
        assert_eq!(leases.messages.get().left, 99);
        assert_eq!(send(&leases, 800, minute(1)), Ok(()));
        assert_eq!(leases.account.hour(Unit::Messages).sum(), 1 + 99, "1, and a lease of 99");
        assert!(send(&leases, 2, minute(1)).is_err(), "two were sent");
        assert_eq!(leases.account.hour(Unit::Messages).sum(), 2);
    }

    #[test]
    fn an_account_is_locked_to_lease_and_not_for_each_message() {
        let shards = shards(4);
        let leases: Vec<_> = shards.iter().map(|shard| shard.open(&joe())).collect();
        for number in 0..100_000 {
            assert_eq!(send(&leases[number % 4], 1_000_000, Duration::from_secs(1)), Ok(()));
        }
        let locked = leases[0].account.locked.load(std::sync::atomic::Ordering::Relaxed);
        assert!(locked <= 110, "{locked} locks for 100,000 messages");
    }

    #[test]
    fn accounts_that_count_nothing_are_forgotten_at_the_bound() {
        let quotas = Quotas::new(1);
        let kept = quotas.account(&joe());
        for number in 0..ACCOUNTS_MAX + 10 {
            quotas.account(&Counted::Network(number));
        }
        assert!(lock(&quotas.accounts).len() <= ACCOUNTS_MAX);
        assert!(Arc::ptr_eq(&kept, &quotas.account(&joe())), "a session has it");
    }
}
