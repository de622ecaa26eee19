//! `[retry]`: when mail is tried again, and for how long.

use super::declare::table;
use super::kinds::{days, duration, duration_or_off, hours, minutes, real, seconds};
use std::time::Duration;

table! {
    /// When mail is tried again. Attempt n+1 comes first * factor^(n-1) after attempt n, but at
    /// most max.
    pub struct Retry {
        /// Wait after the first attempt; not longer than max. Greylisting usually lets the second
        /// attempt through after 5 minutes.
        first: Duration = duration(minutes(5), seconds(1)..=days(1));
        /// Factor from one wait to the next; 1 is no growth.
        factor: f64 = real(2.0, 1.0..=10.0);
        /// Longest wait.
        max: Duration = duration(hours(1), seconds(1)..=days(7));
        /// A recipient that still waits this long after its message was received fails, and the
        /// sender gets a report. RFC 5321 4.5.4.1 asks for at least 4 to 5 days.
        expire: Duration = duration(days(5), seconds(1)..=days(30));
        /// Part of each wait by which it varies at random, so that messages that failed together
        /// are not tried again together.
        jitter: f64 = real(0.1, 0.0..=0.5);
        /// A message that still waits this long after it was received is reported to its sender,
        /// once, if the sender asked for that (NOTIFY=DELAY, RFC 3461); "off" is never. The report
        /// is sent within two minutes of that time.
        delay_report: Option<Duration> = duration_or_off(hours(4), seconds(1)..=days(30));
    }
}
