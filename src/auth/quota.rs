//! Messages and recipients an hour, by user and by network: counted for all shards together, in
//! steps of five minutes. What counts is mail that was taken; what may become such is set aside
//! until that is known, so that many transactions at once do not get beyond the limit together.

use crate::ring;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_secs(300);
/// An hour of them.
const STEPS: usize = 12;

/// Counts that are kept; beyond it those of an hour in which nothing was sent go. Users that tokens
/// name are as many as somebody else has.
const KEPT_MAX: usize = 64 * 1024;

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

/// All counts.
pub struct Quotas {
    began: Instant,
    counts: Mutex<HashMap<(Counted, Unit), Hour>>,
}

/// What one transaction has taken. Dropped, it is given back.
pub struct Claim {
    quotas: Arc<Quotas>,
    whose: Counted,
    /// By unit and step.
    taken: Vec<(Unit, u64, u32)>,
}

impl Claim {
    /// Nothing yet.
    pub fn new(quotas: Arc<Quotas>, whose: Counted) -> Claim {
        Claim { quotas, whose, taken: Vec::new() }
    }

    /// Takes one, if the last hour has had fewer than `limit`.
    ///
    /// # Errors
    /// How long until one more may come, at least.
    pub fn take(&mut self, unit: Unit, limit: u32) -> Result<(), Duration> {
        self.take_at(unit, limit, ring::now().saturating_duration_since(self.quotas.began))
    }

    fn take_at(&mut self, unit: Unit, limit: u32, at: Duration) -> Result<(), Duration> {
        let step = self.quotas.take_at(&self.whose, unit, limit, at)?;
        match self.taken.last_mut() {
            Some((same, last, count)) if (*same, *last) == (unit, step) => *count += 1,
            _ => self.taken.push((unit, step, 1)),
        }
        Ok(())
    }

    /// The message was taken: all of it counts.
    pub fn keep(mut self) {
        self.taken.clear();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.taken.is_empty() {
            self.quotas.give_back(&self.whose, &self.taken);
        }
    }
}

/// The last hour: the steps by their number modulo [`STEPS`].
#[derive(Default)]
struct Hour {
    newest: u64,
    steps: [u32; STEPS],
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
            self.steps[(self.newest % STEPS as u64) as usize] = 0;
        }
    }

    fn sum(&self) -> u32 {
        self.steps.iter().fold(0, |sum, step| sum.saturating_add(*step))
    }

    /// Steps until something is forgotten.
    fn left(&self) -> u64 {
        let filled = |back: &u64| {
            let step = self.newest + STEPS as u64 - back;
            self.steps[(step % STEPS as u64) as usize] > 0
        };
        let oldest = (0..STEPS as u64).rev().find(filled);
        oldest.map_or(0, |back| STEPS as u64 - back)
    }
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas { began: ring::now(), counts: Mutex::default() }
    }
}

impl Quotas {
    /// Counts one; the step that it is counted in.
    fn take_at(
        &self,
        whose: &Counted,
        unit: Unit,
        limit: u32,
        at: Duration,
    ) -> Result<u64, Duration> {
        let step = at.as_secs() / STEP.as_secs();
        let mut counts = self.lock();
        if counts.len() >= KEPT_MAX && !counts.contains_key(&(whose.clone(), unit)) {
            counts.retain(|_, hour| {
                hour.turn(step);
                hour.sum() > 0
            });
        }
        let hour = counts.entry((whose.clone(), unit)).or_default();
        hour.turn(step);
        if hour.sum() >= limit {
            let then = (step + hour.left()) * STEP.as_secs();
            return Err(Duration::from_secs(then).saturating_sub(at));
        }
        // A clock that went on elsewhere meanwhile may have turned it further.
        let step = hour.newest;
        hour.steps[(step % STEPS as u64) as usize] += 1;
        Ok(step)
    }

    /// What is older than the hour is forgotten already.
    fn give_back(&self, whose: &Counted, taken: &[(Unit, u64, u32)]) {
        let mut counts = self.lock();
        for &(unit, step, count) in taken {
            let Some(hour) = counts.get_mut(&(whose.clone(), unit)) else { continue };
            if hour.newest.saturating_sub(step) < STEPS as u64 {
                let place = &mut hour.steps[(step % STEPS as u64) as usize];
                *place = place.saturating_sub(count);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Counted, Unit), Hour>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;

    #[test]
    fn an_hours_limit_holds_for_any_hour() {
        let quotas = Quotas::default();
        let take = |minute: u64| {
            let at = Duration::from_secs(minute * MINUTE);
            quotas.take_at(&Counted::User("joe".into()), Unit::Messages, 3, at).map(drop)
        };
        let minutes = |count: u64| Err(Duration::from_secs(count * MINUTE));
        assert_eq!((take(0), take(1), take(31)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(take(32), minutes(28), "the first two go at 60");
        assert_eq!(take(59), minutes(1));
        assert_eq!((take(60), take(61)), (Ok(()), Ok(())));
        assert_eq!(take(62), minutes(28), "the one of 31 goes at 90");
        assert_eq!(take(1000), Ok(()));
    }

    #[test]
    fn each_has_a_count_of_its_own() {
        let quotas = Quotas::default();
        let take = |whose, unit| quotas.take_at(&whose, unit, 1, Duration::ZERO).is_ok();
        assert!(take(Counted::User("a".into()), Unit::Messages));
        assert!(!take(Counted::User("a".into()), Unit::Messages));
        assert!(take(Counted::User("a".into()), Unit::Recipients));
        assert!(take(Counted::User("b".into()), Unit::Messages));
        assert!(take(Counted::Network(0), Unit::Messages));
        assert!(take(Counted::Network(1), Unit::Messages));
        let none = quotas.take_at(&Counted::Network(2), Unit::Messages, 0, Duration::ZERO);
        assert!(none.is_err());
    }

    #[test]
    fn what_was_not_sent_is_given_back_and_what_is_open_counts() {
        let quotas = Arc::new(Quotas::default());
        let claim = || Claim::new(Arc::clone(&quotas), Counted::User("joe".into()));
        let minute = |count: u64| Duration::from_secs(count * MINUTE);
        let (mut one, mut other, mut third) = (claim(), claim(), claim());
        assert!(one.take_at(Unit::Messages, 2, minute(0)).is_ok());
        assert!(other.take_at(Unit::Messages, 2, minute(0)).is_ok());
        assert!(third.take_at(Unit::Messages, 2, minute(0)).is_err(), "two are open");
        // Over a step, too.
        assert!(one.take_at(Unit::Recipients, 2, minute(4)).is_ok());
        assert!(one.take_at(Unit::Recipients, 2, minute(6)).is_ok());
        assert!(one.take_at(Unit::Recipients, 2, minute(6)).is_err());
        drop(one);
        assert!(third.take_at(Unit::Messages, 2, minute(7)).is_ok());
        for _ in 0..2 {
            assert!(third.take_at(Unit::Recipients, 2, minute(7)).is_ok());
        }
        third.keep();
        other.keep();
        assert!(claim().take_at(Unit::Messages, 2, minute(8)).is_err(), "two were sent");
        assert!(claim().take_at(Unit::Recipients, 2, minute(8)).is_err());
    }

    #[test]
    fn what_is_given_back_after_the_hour_is_nobody_elses() {
        let quotas = Arc::new(Quotas::default());
        let claim = || Claim::new(Arc::clone(&quotas), Counted::Network(0));
        let minute = |count: u64| Duration::from_secs(count * MINUTE);
        let (mut old, mut new) = (claim(), claim());
        assert!(old.take_at(Unit::Messages, 1, minute(0)).is_ok());
        // Twelve steps later the place in the ring is the same.
        assert!(new.take_at(Unit::Messages, 1, minute(61)).is_ok());
        drop(old);
        assert!(claim().take_at(Unit::Messages, 1, minute(62)).is_err());
    }
}
