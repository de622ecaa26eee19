//! Messages and recipients an hour, by user and by network: counted for all shards together, in
//! steps of five minutes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
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
    /// MAIL.
    Messages,
    /// RCPT.
    Recipients,
}

/// All counts.
pub struct Quotas {
    began: Instant,
    counts: Mutex<HashMap<(Counted, Unit), Hour>>,
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
        Quotas { began: Instant::now(), counts: Mutex::default() }
    }
}

impl Quotas {
    /// Counts one, if the last hour has had fewer than `limit`.
    ///
    /// # Errors
    /// How long until one more may come, at least.
    pub fn take(&self, whose: Counted, unit: Unit, limit: u32) -> Result<(), Duration> {
        self.take_at(whose, unit, limit, self.began.elapsed())
    }

    fn take_at(
        &self,
        whose: Counted,
        unit: Unit,
        limit: u32,
        at: Duration,
    ) -> Result<(), Duration> {
        let step = at.as_secs() / STEP.as_secs();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= KEPT_MAX && !counts.contains_key(&(whose.clone(), unit)) {
            counts.retain(|_, hour| {
                hour.turn(step);
                hour.sum() > 0
            });
        }
        let hour = counts.entry((whose, unit)).or_default();
        hour.turn(step);
        if hour.sum() >= limit {
            let then = (step + hour.left()) * STEP.as_secs();
            return Err(Duration::from_secs(then).saturating_sub(at));
        }
        hour.steps[(step % STEPS as u64) as usize] += 1;
        Ok(())
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
            quotas.take_at(Counted::User("joe".into()), Unit::Messages, 3, at)
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
        let take = |whose, unit| quotas.take(whose, unit, 1).is_ok();
        assert!(take(Counted::User("a".into()), Unit::Messages));
        assert!(!take(Counted::User("a".into()), Unit::Messages));
        assert!(take(Counted::User("a".into()), Unit::Recipients));
        assert!(take(Counted::User("b".into()), Unit::Messages));
        assert!(take(Counted::Network(0), Unit::Messages));
        assert!(take(Counted::Network(1), Unit::Messages));
        assert!(quotas.take(Counted::Network(2), Unit::Messages, 0).is_err());
    }
}
