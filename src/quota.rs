//! Messages and recipients an hour, by user and by network, over all shards together.
//!
//! What counts is mail that was accepted. What an open transaction may still become is reserved, so
//! that many transactions at once do not get beyond a limit together.
//!
//! ```text
//! Quotas (process)                ShardQuotas (shard)             Reservation (transaction)
//! an account for each user  --->  leases some of what an   --->   takes from the lease; dropped,
//! and network: the last hour      account has left                it gives back
//!            ^                          |
//!            +---- taken back, unused --+   when another shard would have to refuse
//! ```
//!
//! | what | rule |
//! |---|---|
//! | a limit | never more than N in any hour: the 60 minutes before this one count as a whole |
//! | a refusal | only when all of the limit is used or reserved: unused leases of all shards are taken back first |
//! | a lease | counts as used while a shard has it, and ends with its minute |
//! | its size | an eighth of a shard's share of what is left, so the last ones go one by one |
//! | what is not used of it | goes back with the minute, with the last session of the user on that shard, or when another shard needs it |
//! | locks | an account is locked to lease, and to refuse; not for each message, which takes one atomic operation on a cache line of its own shard |
//!
//! It must not know users or clients, nor how a message came in.

use crate::ring;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_secs(60);
/// An hour of them, and the one at hand.
const STEPS: usize = 61;
/// Most that is leased at once.
const LEASE_MAX: u32 = 1024;
/// Accounts that are kept. Beyond it those are removed that count nothing and that no session
/// has: users that are known by tokens are as many as another system has.
const ACCOUNTS_MAX: usize = 32 * 1024;

/// The user or network of which mail is counted.
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

impl Unit {
    const ALL: [Unit; 2] = [Unit::Messages, Unit::Recipients];
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
    /// What is leased, by all shards with a session of this account.
    leases: Vec<Arc<Lease>>,
}

/// A lease: what one shard may take without a lock, and any shard may take back. The step that it
/// counts in and how many are left are one word, so that both change together.
#[derive(Default)]
#[repr(align(64))]
struct Lease(AtomicU64);

impl Lease {
    // The order of other memory does not matter: the word is all that shards share without a lock.
    #[cfg(test)]
    fn get(&self) -> Leased {
        Leased::of(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, leased: Leased) {
        self.0.store(leased.word(), Ordering::Relaxed);
    }

    /// Changes it to what `change` says; `None`, and no change, when that does.
    fn update(&self, change: impl Fn(Leased) -> Option<Leased>) -> Option<Leased> {
        let change = |word| change(Leased::of(word)).map(Leased::word);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).ok().map(Leased::of)
    }

    /// Ends it; what was left.
    fn take(&self) -> Leased {
        Leased::of(self.0.swap(0, Ordering::Relaxed))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leased {
    /// Of a process that runs for 8,000 years at most.
    step: u32,
    left: u32,
}

impl Leased {
    fn of(word: u64) -> Leased {
        Leased { step: (word >> 32) as u32, left: word as u32 }
    }

    fn word(self) -> u64 {
        u64::from(self.step) << 32 | u64::from(self.left)
    }
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
        Unit::ALL.into_iter().any(|unit| {
            let mut hour = self.hour(unit);
            hour.turn(step);
            hour.sum() > 0
        })
    }
}

impl Default for Hour {
    fn default() -> Hour {
        Hour { newest: 0, steps: [0; STEPS], leases: Vec::new() }
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

    /// Counts up to an eighth of a shard's share of what is left, and one at least. When nothing is
    /// left, what other shards have leased and not used is taken back first.
    fn lease(&mut self, limit: u32, shards: u32, at: Duration) -> Result<Leased, Duration> {
        self.turn(step_of(at));
        let mut left = limit.saturating_sub(self.sum());
        if left == 0 {
            self.take_back();
            left = limit.saturating_sub(self.sum());
        }
        if left == 0 {
            let then = (step_of(at) + self.left()) * STEP.as_secs();
            return Err(Duration::from_secs(then).saturating_sub(at));
        }
        let count = (left / shards.saturating_mul(8)).clamp(1, LEASE_MAX);
        // Another shard's clock may have turned it further.
        let step = self.newest;
        *self.at(step) += count;
        Ok(Leased { step: step as u32, left: count })
    }

    /// Ends all leases.
    fn take_back(&mut self) {
        for place in 0..self.leases.len() {
            let Some(Leased { step, left }) = self.leases.get(place).map(|lease| lease.take())
            else {
                return;
            };
            self.give_back(u64::from(step), left);
        }
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
    messages: ShardLease,
    recipients: ShardLease,
}

#[derive(Default)]
struct ShardLease {
    lease: Arc<Lease>,
    /// The limit that it was leased under.
    limit: Cell<u32>,
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
            messages: ShardLease::default(),
            recipients: ShardLease::default(),
        });
        for unit in Unit::ALL {
            let lease = Arc::clone(&leases.of(unit).lease);
            leases.account.hour(unit).leases.push(lease);
        }
        self.open.borrow_mut().insert(whose.clone(), Rc::downgrade(&leases));
        leases
    }
}

impl Leases {
    fn of(&self, unit: Unit) -> &ShardLease {
        match unit {
            Unit::Messages => &self.messages,
            Unit::Recipients => &self.recipients,
        }
    }

    /// Takes one; the step that it counts in.
    fn take_at(&self, unit: Unit, limit: u32, at: Duration) -> Result<u64, Duration> {
        let ShardLease { lease, limit: leased_under } = self.of(unit);
        if leased_under.get() == limit {
            let taken = lease.update(|Leased { step, left }| {
                let left = left.checked_sub(1).filter(|_| u64::from(step) >= step_of(at))?;
                Some(Leased { step, left })
            });
            if let Some(leased) = taken {
                return Ok(leased.step.into());
            }
        }
        let mut hour = self.account.hour(unit);
        let Leased { step, left } = lease.take();
        hour.give_back(step.into(), left);
        let leased = hour.lease(limit, self.shard.quotas.shards, at)?;
        lease.set(Leased { left: leased.left - 1, ..leased });
        leased_under.set(limit);
        Ok(leased.step.into())
    }

    /// Of a transaction that was given up.
    fn give_back(&self, unit: Unit, step: u64, count: u32) {
        let given = self.of(unit).lease.update(|leased| {
            let is_open = leased.left > 0 && u64::from(leased.step) == step;
            is_open.then_some(Leased { left: leased.left + count, ..leased })
        });
        if given.is_none() {
            self.account.hour(unit).give_back(step, count);
        }
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        for unit in Unit::ALL {
            let lease = &self.of(unit).lease;
            let mut hour = self.account.hour(unit);
            hour.leases.retain(|other| !Arc::ptr_eq(other, lease));
            let Leased { step, left } = lease.take();
            hour.give_back(step.into(), left);
        }
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
    #![allow(clippy::indexing_slicing, clippy::unwrap_used)]
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
    fn a_shard_is_refused_only_when_no_other_has_an_unused_lease() {
        for count in [2, 5] {
            for limit in [1, 2, 3, 17, 1000] {
                let shards = shards(count);
                let leases: Vec<_> = shards.iter().map(|shard| shard.open(&joe())).collect();
                let (first, others) = leases.split_first().unwrap();
                let at = Duration::ZERO;
                // Each of the others has a lease and does nothing more.
                let open = others.iter().filter(|other| send(other, limit, at).is_ok()).count();
                let sent = (0..limit).filter(|_| send(first, limit, at).is_ok()).count();
                assert_eq!(open + sent, limit as usize, "{count} shards");
                assert!(others.iter().all(|other| send(other, limit, at).is_err()));
            }
        }
    }

    #[test]
    fn what_a_transaction_gives_back_is_there_for_all_shards_at_once() {
        let shards = shards(2);
        let claim = |shard: usize| Reservation::new(shards[shard].open(&joe()));
        let [one, other] = [0, 1].map(|shard| shards[shard].open(&joe()));
        for round in 0..5 {
            let mut open = claim(0);
            for _ in 0..3 {
                assert!(open.take_at(Unit::Recipients, 3, minute(0)).is_ok(), "{round}");
            }
            assert!(claim(1).take_at(Unit::Recipients, 3, minute(0)).is_err(), "all are reserved");
            drop(open);
            let mut next = claim(1);
            for _ in 0..3 {
                assert!(next.take_at(Unit::Recipients, 3, minute(0)).is_ok(), "{round}");
            }
        }
        drop((one, other));
    }

    #[test]
    fn threads_together_send_exactly_the_limit() {
        const LIMIT: u32 = 20_000;
        let quotas = Arc::new(Quotas::new(4));
        let sent: u32 = std::thread::scope(|scope| {
            let shard = || {
                let leases = ShardQuotas::new(Arc::clone(&quotas)).open(&joe());
                let mut sent = 0;
                for number in 0..LIMIT {
                    let mut one = Reservation::new(Rc::clone(&leases));
                    let taken = one.take_at(Unit::Messages, LIMIT, Duration::ZERO).is_ok();
                    // Every third is given up.
                    if taken && number % 3 != 0 {
                        one.commit();
                        sent += 1;
                    }
                }
                sent
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(shard)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let last = ShardQuotas::new(quotas).open(&joe());
        let rest = (0..LIMIT).filter(|_| send(&last, LIMIT, Duration::ZERO).is_ok()).count();
        assert_eq!(sent + rest as u32, LIMIT);
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
                }
                assert_eq!(sent, limit, "{count} shards");
            }
        }
    }

    #[test]
    fn a_lease_ends_with_the_last_session_of_its_shard() {
        let shards = shards(2);
        let (one, other) = (shards[0].open(&joe()), shards[1].open(&joe()));
        assert_eq!(send(&one, 1000, Duration::ZERO), Ok(()));
        assert!(one.messages.lease.get().left > 0, "more was leased than was sent");
        assert_eq!(other.account.hour(Unit::Messages).leases.len(), 2);
        drop(one);
        assert_eq!(other.account.hour(Unit::Messages).sum(), 1);
        assert_eq!(other.account.hour(Unit::Messages).leases.len(), 1);
        assert!(shards[0].open.borrow().is_empty());
    }

    #[test]
    fn a_lease_does_not_outlive_its_minute_nor_a_lower_limit() {
        let shard = &shards(1)[0];
        let leases = shard.open(&joe());
        assert_eq!(send(&leases, 800, minute(0)), Ok(()));
        assert_eq!(leases.messages.lease.get().left, 99);
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
