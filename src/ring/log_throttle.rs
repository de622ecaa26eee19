//! A bound on log lines of one kind: so many a minute of all shards together, and the number of
//! those that were left out with the next one.

use crate::timestamp::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};

const INTERVAL_MS: u64 = 60_000;

/// When lines of one kind may be logged again, and how many were left out meanwhile.
#[derive(Debug)]
pub struct LogThrottle {
    lines_a_minute: u64,
    /// When the next interval begins.
    next: AtomicU64,
    /// Lines that the current one still allows.
    left: AtomicU64,
    left_out: AtomicU64,
}

impl LogThrottle {
    /// At most `lines` a minute, at least one.
    pub const fn new(lines: u64) -> LogThrottle {
        LogThrottle {
            lines_a_minute: lines,
            next: AtomicU64::new(0),
            left: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// If a line is to be logged now: how many were left out since the last one.
    pub fn take(&self, now: Timestamp) -> Option<u64> {
        let order = Ordering::Relaxed;
        let next = self.next.load(order);
        // A clock that was set back must not bring silence for long.
        let is_due = now.0 >= next || next - now.0 > INTERVAL_MS;
        let later = now.0.saturating_add(INTERVAL_MS);
        let begins = is_due && self.next.compare_exchange(next, later, order, order).is_ok();
        if begins {
            self.left.store(self.lines_a_minute.saturating_sub(1), order);
        } else if self.left.fetch_update(order, order, |left| left.checked_sub(1)).is_err() {
            self.left_out.fetch_add(1, order);
            return None;
        }
        Some(self.left_out())
    }

    /// One line was left out for another reason.
    pub fn leave_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// How many lines were left out since this was asked last.
    pub fn left_out(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp(1_795_459_000_000 + ms)
    }

    #[test]
    fn a_warning_is_logged_once_a_minute_with_the_number_of_those_left_out() {
        let throttle = LogThrottle::new(1);
        assert_eq!(throttle.take(at(0)), Some(0));
        for ms in [0, 1000, 59_999] {
            assert_eq!(throttle.take(at(ms)), None);
        }
        assert_eq!(throttle.take(at(60_000)), Some(3));
        assert_eq!(throttle.take(at(60_001)), None);
        assert_eq!(throttle.take(Timestamp(7)), Some(1), "the clock was set back");
    }

    #[test]
    fn several_lines_a_minute_are_counted_from_the_first_one() {
        let throttle = LogThrottle::new(3);
        let taken: Vec<_> = (0..5).map(|ms| throttle.take(at(ms * 10_000))).collect();
        assert_eq!(taken, [Some(0), Some(0), Some(0), None, None]);
        assert_eq!(throttle.left_out(), 2);
        assert_eq!(throttle.take(at(60_000)), Some(0), "these were told");
    }
}
