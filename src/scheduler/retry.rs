//! The retry curve: how long to wait after an attempt.
//!
//! The wait belongs to a message at a site, not to a recipient: recipients of one message that are
//! deferred at one site within a few seconds are due together, so that they go out again in one
//! transaction.

use crate::config;
use crate::limits::{RETRY_SHARED_MAX, RETRY_SHARED_SECONDS};
use crate::message::{QueueId, Timestamp};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// No wait is shorter, whatever is configured: a loop without a pause would be a busy one.
const WAIT_MIN_MS: f64 = 10.0;

/// `first * factor^(attempts-1)`, at most `max`, give or take `jitter`.
pub(super) struct Curve {
    first_ms: f64,
    factor: f64,
    max_ms: f64,
    jitter: f64,
    random: fastrand::Rng,
    /// Due times drawn lately, and since when, by attempt.
    shared: HashMap<Attempt, (Timestamp, Timestamp)>,
    /// The same attempts, oldest first.
    order: VecDeque<Attempt>,
}

/// What a wait belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    /// The message.
    pub id: QueueId,
    /// The number of the site.
    pub site: u32,
    /// Attempts so far.
    pub attempts: u16,
}

impl Curve {
    pub fn new(retry: &config::Retry, seed: u64) -> Curve {
        Curve {
            first_ms: retry.first.as_secs_f64() * 1000.0,
            factor: retry.factor.max(1.0),
            max_ms: retry.max.as_secs_f64() * 1000.0,
            jitter: retry.jitter.clamp(0.0, 0.5),
            random: fastrand::Rng::with_seed(seed),
            shared: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// No wait is longer.
    pub fn longest(&self) -> Duration {
        Duration::from_millis((self.max_ms * (1.0 + self.jitter)).max(WAIT_MIN_MS) as u64)
    }

    /// When to try again what was deferred `now`.
    pub fn due(&mut self, attempt: Attempt, now: Timestamp) -> Timestamp {
        let window = Duration::from_secs(RETRY_SHARED_SECONDS);
        while let Some(oldest) = self.order.front() {
            let drawn = self.shared.get(oldest).map(|(drawn, _)| *drawn);
            let holds = drawn.is_some_and(|drawn| drawn <= now && now.since(drawn) < window);
            if holds && self.order.len() <= RETRY_SHARED_MAX {
                break;
            }
            self.shared.remove(oldest);
            self.order.pop_front();
        }
        if let Some((_, due)) = self.shared.get(&attempt).filter(|(_, due)| *due > now) {
            return *due;
        }
        let due = now.plus(self.wait(attempt.attempts));
        if self.shared.insert(attempt, (now, due)).is_none() {
            self.order.push_back(attempt);
        }
        due
    }

    /// The wait after attempt number `attempts` (the first is 1).
    pub fn wait(&mut self, attempts: u16) -> Duration {
        let growth = self.factor.powi(i32::from(attempts.max(1)) - 1);
        let plain = (self.first_ms * growth).min(self.max_ms);
        let varied = plain * (1.0 + self.jitter * (2.0 * self.random.f64() - 1.0));
        // A float too large or not a number saturates in this conversion.
        Duration::from_millis(varied.max(WAIT_MIN_MS) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(jitter: f64) -> config::Retry {
        config::Retry {
            first: Duration::from_secs(60),
            factor: 2.0,
            max: Duration::from_secs(3600),
            expire: Duration::from_secs(86400),
            jitter,
            delay_report: None,
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut curve = Curve::new(&retry(0.0), 1);
        let waits: Vec<u64> = (1..=8).map(|attempt| curve.wait(attempt).as_secs()).collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!(curve.wait(u16::MAX).as_secs(), 3600);
        assert_eq!(curve.wait(0).as_secs(), 60);
    }

    #[test]
    fn jitter_spreads_the_waits_within_its_fraction_and_follows_the_seed() {
        let mut curve = Curve::new(&retry(0.2), 1);
        let waits: Vec<u64> = (0..1000).map(|_| curve.wait(1).as_millis() as u64).collect();
        assert!(waits.iter().all(|wait| (48_000..=72_000).contains(wait)));
        assert!(waits.iter().any(|&wait| wait < 50_000));
        assert!(waits.iter().any(|&wait| wait > 70_000));
        let mut same = Curve::new(&retry(0.2), 1);
        assert!(waits.iter().all(|&wait| same.wait(1).as_millis() as u64 == wait));
    }

    #[test]
    fn senseless_settings_still_pause() {
        let odd = config::Retry { first: Duration::ZERO, factor: f64::NAN, ..retry(f64::NAN) };
        assert!(Curve::new(&odd, 1).wait(3) >= Duration::from_millis(10));
    }
}
