//! The id of a message, and the recipient addresses that contain it.

use std::fmt;

/// One message of one run; written `RUN-NUMBER`, the run as eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// The run, chosen at random for each start of the source.
    pub run: u32,
    /// From 0, in the order in which messages were started.
    pub number: u64,
}

impl Id {
    /// Reads `RUN-NUMBER`; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (run, number) = text.split_once('-')?;
        if run.len() != 8 || !run.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        Some(Self { run: u32::from_str_radix(run, 16).ok()?, number: digits(number)? })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.run, self.number)
    }
}

/// One recipient of one message; its address is `uINDEX.RUN-NUMBER@domain`, so that a refused RCPT
/// can be attributed to its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// The message.
    pub id: Id,
    /// The recipient's index in the message, from 0; [`Pair::ALL`] stands for all of them.
    pub recipient: u32,
}

impl Pair {
    /// All recipients of a message whose sender was refused.
    pub const ALL: u32 = u32::MAX;

    /// Reads a recipient address; `None` when it is not from the source.
    pub fn parse_address(address: &[u8]) -> Option<Self> {
        let at = memchr::memrchr(b'@', address)?;
        let local = address.get(..at)?.strip_prefix(b"u")?;
        let dot = memchr::memchr(b'.', local)?;
        let recipient = digits(std::str::from_utf8(local.get(..dot)?).ok()?)?;
        let recipient = u32::try_from(recipient).ok()?;
        let id = Id::parse(local.get(dot + 1..)?)?;
        (recipient != Self::ALL).then_some(Self { id, recipient })
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.recipient {
            Self::ALL => write!(f, "{} *", self.id),
            recipient => write!(f, "{} {recipient}", self.id),
        }
    }
}

/// The id in a sender made with `--verp`: `local+RUN-NUMBER@domain`.
pub fn id_of_sender(address: &[u8]) -> Option<Id> {
    let local = address.get(..memchr::memrchr(b'@', address)?)?;
    Id::parse(local.get(memchr::memrchr(b'+', local)? + 1..)?)
}

/// Decimal digits only: `u64::parse` would also accept a sign.
pub fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back() {
        let id = Id { run: 0xbeef, number: 12 };
        assert_eq!(id.to_string(), "0000beef-12");
        assert_eq!(Id::parse(b"0000beef-12"), Some(id));
        for bad in ["", "beef-12", "0000beef-", "0000beef-+1", "+000beef-1", "0000beef12"] {
            assert_eq!(Id::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_recipient_address_names_its_message() {
        let id = Id { run: 1, number: 2 };
        let address = Pair::parse_address(b"u7.00000001-2@sink.test");
        assert_eq!(address, Some(Pair { id, recipient: 7 }));
        assert_eq!(Pair::parse_address(b"postmaster@sink.test"), None);
        assert_eq!(id_of_sender(b"a+00000001-2@sender.test"), Some(id));
        assert_eq!(id_of_sender(b"a@sender.test"), None);
    }
}
