//! The name of a message and the time, as every room writes them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(test)]
thread_local! {
    /// What [`Timestamp::now`] says on this thread, for tests that run by a clock of their own.
    pub(crate) static SET_CLOCK: std::cell::Cell<Option<Timestamp>> =
        const { std::cell::Cell::new(None) };
}

/// Milliseconds since the Unix epoch, by the wall clock: what is stored, shown and compared across
/// restarts. Waits on a socket use a `Duration` instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Later than every time that a relay will see.
    pub const NEVER: Timestamp = Timestamp(u64::MAX);

    /// The wall clock. Only rooms that do I/O may call it; pure rooms are told the time.
    pub fn now() -> Timestamp {
        #[cfg(test)]
        if let Some(set) = SET_CLOCK.get() {
            return set;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// This time and `wait` more; stays at [`Timestamp::NEVER`] instead of overflowing.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Timestamp {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(wait_ms))
    }

    /// How long from `earlier` until this time; zero when `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<Timestamp> for time::OffsetDateTime {
    /// UTC; a time outside what a calendar holds becomes the epoch.
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

/// Names one message for as long as the spool lives, across moves and restarts.
///
/// Ten bits of spool number, then 54 bits of microseconds since the epoch at birth, so ids of one
/// spool rise with time and two spools never give the same one. Written as 13 characters of
/// Crockford's base 32 (no I, L, O, U), which sort as the numbers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

const BIRTH_BITS: u32 = 54;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const TEXT_LENGTH: usize = 13;

impl QueueId {
    /// The number of the spool (shard directory) in which the message was born: 0 to 1023.
    pub fn spool_number(self) -> u16 {
        u16::try_from(self.0 >> BIRTH_BITS).unwrap_or(u16::MAX)
    }

    /// When the message was received.
    pub fn born(self) -> Timestamp {
        Timestamp((self.0 & ((1 << BIRTH_BITS) - 1)) / 1000)
    }

    /// Reads the 13-character form, in either case; `None` when it is not one.
    pub fn parse(text: &str) -> Option<QueueId> {
        if text.len() != TEXT_LENGTH {
            return None;
        }
        let mut value: u64 = 0;
        for (position, byte) in text.bytes().enumerate() {
            let upper = byte.to_ascii_uppercase();
            let digit = ALPHABET.iter().position(|&letter| letter == upper)?;
            // 13 digits carry 65 bits: the first may only be 0 to 15.
            if position == 0 && digit > 15 {
                return None;
            }
            value = value << 5 | digit as u64;
        }
        Some(QueueId(value))
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; TEXT_LENGTH];
        for (position, letter) in text.iter_mut().enumerate() {
            let shift = 5 * (TEXT_LENGTH - 1 - position);
            *letter = ALPHABET[(self.0 >> shift & 31) as usize];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Gives out the ids of one spool, each larger than the one before, whatever the clock does.
#[derive(Debug)]
pub struct QueueIdSource {
    spool_number: u16,
    last_us: u64,
}

impl QueueIdSource {
    /// A source for `spool_number` (0 to 1023) whose first id is larger than `floor`, the largest
    /// id that recovery saw there, if any.
    pub fn new(spool_number: u16, floor: Option<QueueId>) -> QueueIdSource {
        debug_assert!(spool_number < 1024);
        let last_us = floor.map_or(0, |id| id.0 & ((1 << BIRTH_BITS) - 1));
        QueueIdSource { spool_number, last_us }
    }

    /// The next id for a message received `now`.
    pub fn next(&mut self, now: Timestamp) -> QueueId {
        let now_us = now.0.saturating_mul(1000) & ((1 << BIRTH_BITS) - 1);
        self.last_us = now_us.max(self.last_us + 1);
        QueueId(u64::from(self.spool_number) << BIRTH_BITS | self.last_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_even_when_the_clock_does_not() {
        let mut source = QueueIdSource::new(3, None);
        let first = source.next(Timestamp(1_700_000_000_000));
        let second = source.next(Timestamp(1_600_000_000_000));
        assert!(second > first);
        assert_eq!(second.spool_number(), 3);
        assert_eq!(first.born(), Timestamp(1_700_000_000_000));
        let mut after_restart = QueueIdSource::new(3, Some(second));
        assert!(after_restart.next(Timestamp(0)) > second);
    }

    #[test]
    fn the_text_form_reads_back_and_refuses_other_text() {
        for value in [0, 1, 31, 32, u64::MAX, 0x0123_4567_89AB_CDEF] {
            let text = QueueId(value).to_string();
            assert_eq!(text.len(), 13);
            assert_eq!(QueueId::parse(&text), Some(QueueId(value)));
            assert_eq!(QueueId::parse(&text.to_lowercase()), Some(QueueId(value)));
        }
        assert_eq!(QueueId::parse("G000000000000"), None, "65 bits do not fit");
        assert_eq!(QueueId::parse("000000000000U"), None, "U is not in the alphabet");
        assert_eq!(QueueId::parse("00"), None);
    }

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        assert_eq!(Timestamp(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
    }
}
