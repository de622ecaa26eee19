//! The name of a message.

use std::fmt;

use super::Timestamp;

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
    /// The number of the spool (shard directory) in which the message was created: 0 to 1023.
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
}
