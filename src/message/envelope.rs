//! The envelope (RFC 5321 2.3.1).

use super::options::DsnNotify;
use super::tagged::{OptionSpec, option};
use std::borrow::Cow;
use std::fmt;

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

/// Where reports go: an address, or `<>`, to which no report may be sent (RFC 5321 4.5.5).
pub type ReversePath = Option<Address>;

/// The sender and the recipients of a message.
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
    /// All that RCPT can ask for, in the order in which it is written: see `OPTIONS`.
    pub const OPTIONS: &[OptionSpec<Recipient>] =
        &[option!(1, "notify", notify), option!(2, "orcpt", original)];

    /// A recipient of which only the address was given.
    pub fn plain(address: Address) -> Recipient {
        Recipient { address, notify: None, original: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
