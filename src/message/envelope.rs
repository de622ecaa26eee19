//! The envelope (RFC 5321 2.3.1) and what the sender asked for beside it.

use super::Timestamp;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A mailbox as it came on the wire, without the angle brackets: `local-part@domain`, or the
/// domainless `postmaster` (RFC 5321 4.1.1.3). Case and quoting are kept as received.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(Box<str>);

impl Address {
    /// Wraps text that `smtp` has found to be a valid path.
    pub fn new(text: impl Into<Box<str>>) -> Address {
        Address(text.into())
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Right of the last `@`: a domain or an address literal in brackets; empty when there is none.
    pub fn domain(&self) -> &str {
        domain_of(&self.0)
    }

    /// The same as names are compared and looked up: see [`domain_key`].
    pub fn domain_key(&self) -> Cow<'_, str> {
        domain_key(self.domain())
    }
}

/// The same of an address that is not kept.
pub fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// A domain as names are compared and looked up: in lower case, and in A-labels (RFC 5890 2.3.2.1)
/// where it is not ASCII.
pub fn domain_key(domain: &str) -> Cow<'_, str> {
    if domain.is_ascii() && !domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Borrowed(domain);
    }
    let labels = idna::domain_to_ascii_cow(domain.as_bytes(), idna::AsciiDenyList::EMPTY);
    match labels {
        Ok(labels) if !domain.is_ascii() => Cow::Owned(labels.into_owned()),
        _ => Cow::Owned(domain.to_ascii_lowercase()),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where reports go: an address, or nobody (`<>`), which nothing may answer (RFC 5321 4.5.5).
pub type ReversePath = Option<Address>;

/// Who the message is from and for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The reverse-path given with MAIL.
    pub reverse_path: ReversePath,
    /// The forward-paths, in the order of their RCPT commands. A recipient is named by its index
    /// here for as long as the message lives.
    pub recipients: Vec<Recipient>,
}

/// One forward-path and what was asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The forward-path.
    pub address: Address,
    /// DSN NOTIFY (RFC 3461 4.1); `None` when not given.
    pub notify: Option<DsnNotify>,
    /// DSN ORCPT (RFC 3461 4.2, RFC 6533 3) as given, still encoded; `None` when not given.
    pub original: Option<Box<str>>,
}

impl Recipient {
    /// A recipient for whom nothing but the address was given.
    pub fn plain(address: Address) -> Recipient {
        Recipient { address, notify: None, original: None }
    }
}

/// When to report on a recipient; all false is NEVER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DsnNotify {
    /// NOTIFY=SUCCESS.
    pub success: bool,
    /// NOTIFY=FAILURE.
    pub failure: bool,
    /// NOTIFY=DELAY.
    pub delay: bool,
}

impl DsnNotify {
    /// NOTIFY=NEVER.
    pub fn is_never(self) -> bool {
        self == DsnNotify::default()
    }
}

/// How much of the message a report carries (RFC 3461 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnReturn {
    /// RET=FULL.
    Full,
    /// RET=HDRS.
    Headers,
}

/// What the content is declared to be: BODY= (RFC 6152, RFC 3030).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Nothing declared, or BODY=7BIT.
    #[default]
    SevenBit,
    /// BODY=8BITMIME.
    EightBitMime,
    /// BODY=BINARYMIME.
    BinaryMime,
}

/// What a message carries beside envelope and content. Stored with it, whole, from the first
/// version of the spool format on; later work fills what is still unused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whose mail it is; empty for nobody's in particular.
    pub tenant: Box<str>,
    /// Which mailing it belongs to; empty for none.
    pub campaign: Box<str>,
    /// MT-PRIORITY (RFC 6710): -9 to 9, higher is more urgent; 0 is ordinary.
    pub priority: i8,
    /// What the content is declared to be.
    pub body: Body,
    /// SMTPUTF8 (RFC 6531) was given, and an address or a header field needs it.
    pub smtp_utf8: bool,
    /// REQUIRETLS (RFC 8689) was given.
    pub require_tls: bool,
    /// DSN RET.
    pub dsn_return: Option<DsnReturn>,
    /// DSN ENVID, still xtext-encoded.
    pub dsn_envelope_id: Option<Box<str>>,
    /// Not to be tried before this time.
    pub not_before: Option<Timestamp>,
    /// To be given up at this time; the relay's own limit holds when `None`.
    pub expires: Option<Timestamp>,
    /// BY (RFC 2852).
    pub deliver_by: Option<DeliverBy>,
}

impl Options {
    /// When the sender wants it given up, for either reason.
    pub fn wished_end(&self) -> Option<Timestamp> {
        wished_end(self.expires, self.deliver_by)
    }
}

/// By when a message is to be delivered (RFC 2852 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverBy {
    /// The by-time, as a time of the day.
    pub at: Timestamp,
    /// What happens then to recipients that still wait.
    pub mode: ByMode,
    /// Its sender is told of every host that it is handed to.
    pub trace: bool,
}

/// The by-mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByMode {
    /// `N`: the sender is told, and it is tried on.
    Notify,
    /// `R`: it comes back.
    Return,
}

impl DeliverBy {
    /// Behind the by-time: `R`, `N`, `RT` or `NT`.
    pub fn letters(self) -> &'static str {
        match (self.mode, self.trace) {
            (ByMode::Notify, false) => "N",
            (ByMode::Notify, true) => "NT",
            (ByMode::Return, false) => "R",
            (ByMode::Return, true) => "RT",
        }
    }

    /// What [`DeliverBy::letters`] or a client wrote.
    pub fn read_letters(text: &str) -> Option<(ByMode, bool)> {
        match text.to_ascii_uppercase().as_str() {
            "N" => Some((ByMode::Notify, false)),
            "NT" => Some((ByMode::Notify, true)),
            "R" => Some((ByMode::Return, false)),
            "RT" => Some((ByMode::Return, true)),
            _ => None,
        }
    }

    /// What is left of its time, in whole seconds as BY can say them; below 0 when it is over.
    pub fn seconds_left(self, now: Timestamp) -> i64 {
        const MOST: i64 = 999_999_999;
        let whole = |left: Duration| i64::try_from(left.as_secs()).unwrap_or(MOST).min(MOST);
        if self.at >= now { whole(self.at.since(now)) } else { -whole(now.since(self.at)) }
    }

    /// When the message comes back for it, if it does.
    pub fn returns_at(self) -> Option<Timestamp> {
        (self.mode == ByMode::Return).then_some(self.at)
    }

    /// When its sender is told that it still waits, if he is.
    pub fn notifies_at(self) -> Option<Timestamp> {
        (self.mode == ByMode::Notify).then_some(self.at)
    }
}

/// When a sender wants a message given up: at the time that it names, or when it comes back.
pub fn wished_end(expires: Option<Timestamp>, by: Option<DeliverBy>) -> Option<Timestamp> {
    let times = [expires, by.and_then(DeliverBy::returns_at)];
    times.into_iter().flatten().min()
}

/// When a message is given up that came in at `received_at`: `ours` after it, or after the time
/// that it was held until, and no later than the sender wished.
pub fn expiry(
    received_at: Timestamp,
    not_before: Option<Timestamp>,
    wished: Option<Timestamp>,
    ours: Duration,
) -> Timestamp {
    let begin = not_before.map_or(received_at, |time| time.max(received_at));
    let ours = begin.plus(ours);
    wished.map_or(ours, |wished| wished.min(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_has_its_time_after_that() {
        let day = Duration::from_secs(86_400);
        let at = |days: u64| Timestamp(days * 86_400_000);
        assert_eq!(expiry(at(1), None, None, day), at(2));
        assert_eq!(expiry(at(1), Some(at(5)), None, day), at(6));
        assert_eq!(expiry(at(1), Some(at(0)), None, day), at(2));
        assert_eq!(expiry(at(1), Some(at(5)), Some(at(3)), day), at(3));
    }

    #[test]
    fn domains_have_one_spelling() {
        for (address, key) in [
            ("a@b.example", "b.example"),
            ("a@B.Example", "b.example"),
            ("a@b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("a@B\u{dc}CHER.example", "xn--bcher-kva.example"),
            ("\u{fc}@XN--bcher-KVA.example", "xn--bcher-kva.example"),
            ("a@[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
            ("postmaster", ""),
        ] {
            assert_eq!(Address::new(address).domain_key(), key, "{address}");
        }
    }
}
