//! A point in time that is stored, shown and compared. *Pure.* It has no clock: the current time
//! comes from `ring::wall_clock`.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::format_description::well_known::{Rfc2822, Rfc3339};

/// Milliseconds since the Unix epoch, by the wall clock: what is stored, shown and compared across
/// restarts. Waits on a socket use a `Duration` instead. `ring::wall_clock` gives the current time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Later than every time that a relay will see.
    pub const NEVER: Timestamp = Timestamp(u64::MAX);

    /// This time and `wait` more; stays at [`Timestamp::NEVER`] instead of overflowing.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Timestamp {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(wait_ms))
    }

    /// RFC 3339, or milliseconds since the epoch if the time is outside the calendar.
    /// [`Timestamp::parse`] reads both.
    pub fn exact_text(self) -> String {
        let text = self.to_string();
        if Timestamp::on_calendar(&text) == Some(self) { text } else { self.0.to_string() }
    }

    /// Reads RFC 3339, or milliseconds since the epoch.
    pub fn parse(text: &str) -> Option<Timestamp> {
        Timestamp::on_calendar(text).or_else(|| text.parse().ok().map(Timestamp))
    }

    fn on_calendar(text: &str) -> Option<Timestamp> {
        let at = time::OffsetDateTime::parse(text, &Rfc3339).ok()?;
        u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok().map(Timestamp)
    }

    /// `Mon, 23 Nov 2026 18:36:59 +0000` (RFC 5322 3.3).
    pub fn rfc5322(self) -> String {
        let at = time::OffsetDateTime::from(self);
        at.format(&Rfc2822).unwrap_or_else(|_| "Thu, 01 Jan 1970 00:00:00 +0000".to_owned())
    }

    /// The time from `earlier` until this time; zero when `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<Timestamp> for time::OffsetDateTime {
    /// UTC; a time outside the calendar becomes the epoch.
    fn from(at: Timestamp) -> Self {
        let seconds = i64::try_from(at.0 / 1000).unwrap_or(0);
        let whole = time::OffsetDateTime::from_unix_timestamp(seconds)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        whole + Duration::from_millis(at.0 % 1000)
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-23T18:36:59.123Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = time::OffsetDateTime::from(*self);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        )
    }
}

impl From<SystemTime> for Timestamp {
    /// A time before the epoch becomes the epoch.
    fn from(at: SystemTime) -> Self {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        assert_eq!(Timestamp(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn the_time_of_the_system_is_truncated_to_milliseconds() {
        let at = UNIX_EPOCH + Duration::from_micros(1_999);
        assert_eq!(Timestamp::from(at), Timestamp(1));
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(1)), Timestamp(0));
    }
}
