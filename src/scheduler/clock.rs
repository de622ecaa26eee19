//! The wall clock set back while mail waits: no recipient waits longer for that than `retry.max`.
//!
//! Due times are those of the wall clock, because they are kept over restarts. One that was
//! reckoned before the step would be late by as much as the clock was set back. Times that a sender
//! asked for (FUTURERELEASE, RFC 4865) and expiries are times of day, and stay.

use super::entry::{State, kept};
use super::{Scheduler, Timestamp};
use std::time::Duration;

/// Smaller steps, as of a clock that is being adjusted, are waited for.
const STEP_BACK_MIN: Duration = Duration::from_secs(1);

impl Scheduler {
    /// To be called when `now` may be before the time that was set before.
    pub(super) fn note_step_back(&mut self, before: Timestamp, now: Timestamp) {
        let back = before.since(now);
        if back < STEP_BACK_MIN {
            return;
        }
        let (retry_at, watch_at) = (self.latest_retry(now), now.plus(Scheduler::OVERDUE / 2));
        for number in 0..self.recipients.places() {
            let Some(entry) = self.recipients.get(number) else { continue };
            let latest = match entry.state() {
                State::Waiting if entry.attempts() > 0 => retry_at,
                State::Out | State::OutLate => watch_at,
                _ => continue,
            };
            let due = entry.due();
            if due <= latest {
                continue;
            }
            // As long as it would have waited: those that were spread out stay so.
            let shifted = Timestamp(due.0.saturating_sub(back.as_millis() as u64));
            self.due.remove(&mut self.recipients, number);
            self.recipients[number].set_due(shifted.clamp(now, latest));
            self.due.insert(&mut self.recipients, number);
        }
    }

    /// The latest time at which a recipient that was tried may be due.
    pub(super) fn latest_retry(&self, now: Timestamp) -> Timestamp {
        kept(now.plus(self.curve.longest()))
    }
}
