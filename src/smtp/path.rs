//! Paths (RFC 5321 4.1.2): `<local-part@domain>`. *Pure.*
//!
//! Text in, borrowed text out. A path that is accepted here can be written into a command to the
//! next hop, into a trace field or a log line without further quoting: it is printable ASCII,
//! or with SMTPUTF8 other UTF-8 without controls, and has a `>` only inside a quoted local-part.

use crate::limits::{DOMAIN_BYTES_MAX, LOCAL_PART_BYTES_MAX, PATH_BYTES_MAX};
use crate::message::{Address, domain_key};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest label of a domain, in bytes (RFC 1035 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// A valid path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// `<>`: the null reverse-path (RFC 5321 4.5.5).
    Null,
    /// `<postmaster>` without a domain, in any case (RFC 5321 4.1.1.3).
    Postmaster(&'a str),
    /// `local-part@domain` without brackets and source route.
    Mailbox(&'a str),
    /// A mailbox whose local-part has dots where the grammar does not allow them (`lenient`).
    OddDots {
        /// As given, without quotation marks.
        local: &'a str,
        /// The domain or address literal.
        domain: &'a str,
    },
}

impl Path<'_> {
    /// The address in the form of the envelope: `None` for [`Path::Null`].
    pub fn to_address(self) -> Option<Address> {
        match self {
            Path::Null => None,
            Path::Postmaster(text) | Path::Mailbox(text) => Some(Address::new(text)),
            Path::OddDots { local, domain } => Some(Address::new(format!("\"{local}\"@{domain}"))),
        }
    }
}

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// Does not begin with `<`.
    NoBracket,
    /// The closing `>` is missing.
    NotClosed,
    /// Longer than 256 bytes with its brackets.
    TooLong,
    /// The source route before the mailbox is malformed.
    Route,
    /// The local-part is neither a dot-string nor a quoted string.
    LocalPart,
    /// The local-part is longer than 64 bytes.
    LocalPartTooLong,
    /// No `@` and domain after the local-part.
    NoDomain,
    /// Not a domain name.
    Domain,
    /// The domain is longer than 255 bytes or a label of it longer than 63.
    DomainTooLong,
    /// An address literal that is not `[1.2.3.4]` or `[IPv6:...]`.
    Literal,
    /// `<>` where a mailbox is needed.
    Null,
}

/// Reads the path at the start of `text`; also returns what follows the closing bracket.
///
/// A source route is read and dropped (RFC 5321 4.1.1.3 and appendix C: "SHOULD be ignored").
pub fn read_path(text: &str) -> Result<(Path<'_>, &str), PathFault> {
    let inside = text.strip_prefix('<').ok_or(PathFault::NoBracket)?;
    if let Some(rest) = inside.strip_prefix('>') {
        return Ok((Path::Null, rest));
    }
    let mailbox = strip_route(inside)?;
    let (local_length, after_local) = read_local_part(mailbox)?;
    if local_length > LOCAL_PART_BYTES_MAX {
        return Err(PathFault::LocalPartTooLong);
    }
    let Some(domain) = after_local.strip_prefix('@') else {
        return without_domain(mailbox, local_length, after_local);
    };
    let (domain_length, after_domain) = read_domain_or_literal(domain)?;
    let rest = after_domain.strip_prefix('>').ok_or(closing_fault(after_domain))?;
    if text.len() - rest.len() > PATH_BYTES_MAX {
        return Err(PathFault::TooLong);
    }
    let length = local_length + 1 + domain_length;
    Ok((Path::Mailbox(mailbox.get(..length).unwrap_or(mailbox)), rest))
}

/// An address without a domain: only `postmaster` is allowed.
fn without_domain<'a>(
    mailbox: &'a str,
    local_length: usize,
    after_local: &'a str,
) -> Result<(Path<'a>, &'a str), PathFault> {
    let local_part = mailbox.get(..local_length).unwrap_or_default();
    let Some(rest) = after_local.strip_prefix('>') else {
        return Err(if after_local.is_empty() {
            PathFault::NotClosed
        } else {
            PathFault::LocalPart
        });
    };
    if local_part.eq_ignore_ascii_case("postmaster") {
        Ok((Path::Postmaster(local_part), rest))
    } else {
        Err(PathFault::NoDomain)
    }
}

/// The fault when no `>` follows the domain: the line ends, or the domain has a wrong character.
fn closing_fault(after_domain: &str) -> PathFault {
    if after_domain.is_empty() { PathFault::NotClosed } else { PathFault::Domain }
}

/// `@one.example,@two.example:` before the mailbox.
pub(super) fn strip_route(inside: &str) -> Result<&str, PathFault> {
    let mut rest = inside;
    if !rest.starts_with('@') {
        return Ok(inside);
    }
    loop {
        let domain = rest.strip_prefix('@').ok_or(PathFault::Route)?;
        let (_, after) = read_domain_or_literal(domain).map_err(|_| PathFault::Route)?;
        if let Some(mailbox) = after.strip_prefix(':') {
            return Ok(mailbox);
        }
        rest = after.strip_prefix(',').ok_or(PathFault::Route)?;
    }
}

/// A whole domain or address literal.
pub(super) fn read_tail(text: &str) -> Result<(), PathFault> {
    match read_domain_or_literal(text)? {
        (_, "") => Ok(()),
        _ => Err(PathFault::Domain),
    }
}

/// The length of the local-part at the start of `text`, and what follows it.
fn read_local_part(text: &str) -> Result<(usize, &str), PathFault> {
    let length = match text.strip_prefix('"') {
        Some(quoted) => quoted_string_length(quoted)? + 1,
        None => dot_string_length(text)?,
    };
    let (local_part, rest) = text.split_at_checked(length).ok_or(PathFault::LocalPart)?;
    if local_part.chars().any(is_disruptive) {
        Err(PathFault::LocalPart)
    } else {
        Ok((length, rest))
    }
}

/// `atom.atom`: no dot at either end and no two in a row. Addresses that have them exist; they must
/// be written as a quoted string, and the reply says so.
fn dot_string_length(text: &str) -> Result<usize, PathFault> {
    let length = text.bytes().position(|byte| !is_atext(byte) && byte != b'.');
    let length = length.unwrap_or(text.len());
    let local_part = text.get(..length).unwrap_or_default();
    if local_part.split('.').any(str::is_empty) {
        return Err(PathFault::LocalPart);
    }
    Ok(length)
}

/// The length including the closing quote; `text` begins after the opening one.
fn quoted_string_length(text: &str) -> Result<usize, PathFault> {
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Ok(at + 1),
            b'\\' => match bytes.next() {
                Some((_, 32..=126 | 128..)) => {}
                _ => return Err(PathFault::LocalPart),
            },
            32..=126 | 128.. => {}
            _ => return Err(PathFault::LocalPart),
        }
    }
    Err(PathFault::LocalPart)
}

/// RFC 5322 3.2.3, and all bytes above 127 (RFC 6531 3.3).
pub(super) fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte) || byte >= 128
}

/// Characters outside ASCII that are controls, or end a line in some programs (RFC 5198 2).
pub(super) fn is_disruptive(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// The length of the domain or address literal at the start of `text`, and what follows it.
fn read_domain_or_literal(text: &str) -> Result<(usize, &str), PathFault> {
    let length = if text.starts_with('[') {
        let close = text.find(']').ok_or(PathFault::Literal)?;
        let literal = text.get(..=close).unwrap_or_default();
        read_literal(literal).ok_or(PathFault::Literal)?;
        literal.len()
    } else {
        let in_domain = |byte: u8| is_in_label(byte) || byte == b'.';
        let length = text.bytes().position(|byte| !in_domain(byte)).unwrap_or(text.len());
        check_domain(text.get(..length).unwrap_or_default())?;
        length
    };
    text.split_at_checked(length).map(|(_, rest)| (length, rest)).ok_or(PathFault::Domain)
}

/// Letters, digits and inner hyphens, in labels separated by single dots (RFC 5321 4.1.2 Domain).
///
/// Underscores are accepted, against the RFC: such names are in use, DNS allows them, and they have
/// no special meaning where domains are written.
fn check_domain(domain: &str) -> Result<(), PathFault> {
    if domain.len() > DOMAIN_BYTES_MAX {
        return Err(PathFault::DomainTooLong);
    }
    for label in domain.split('.') {
        if label.is_empty() || label.starts_with('-') || label.ends_with('-') {
            return Err(PathFault::Domain);
        }
        // Other labels are measured in the form of the DNS.
        if label.is_ascii() && label.len() > LABEL_BYTES_MAX {
            return Err(PathFault::DomainTooLong);
        }
        if !label.bytes().all(is_in_label) || !label.is_ascii() && !is_u_label(label) {
            return Err(PathFault::Domain);
        }
    }
    // ASCII labels beside them may look like A-labels but not be valid: such a name cannot be
    // looked up.
    if !domain.is_ascii() && !domain_key(domain).is_ascii() {
        return Err(PathFault::Domain);
    }
    Ok(())
}

fn is_in_label(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || byte >= 128
}

/// Whether a label has a valid form for the DNS (RFC 5890 2.3.2.1, RFC 6531 3.3). It is mapped as
/// clients do, except that only an ASCII dot separates labels.
fn is_u_label(label: &str) -> bool {
    let one = |name: &str| !name.contains('.');
    idna::uts46::Uts46::new()
        .to_ascii(
            label.as_bytes(),
            idna::AsciiDenyList::EMPTY,
            idna::uts46::Hyphens::CheckFirstLast,
            idna::uts46::DnsLength::Verify,
        )
        .is_ok_and(|name| one(&name))
}

/// Whether `text` is `local-part@domain` and nothing else.
pub(super) fn is_mailbox(text: &str) -> bool {
    read_path(&format!("<{text}>")) == Ok((Path::Mailbox(text), ""))
}

/// Whether `text` is a domain name in the syntax of RFC 5321 4.1.2 (underscores are accepted).
pub fn is_domain(text: &str) -> bool {
    text.is_ascii() && check_domain(text).is_ok()
}

/// Reads `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3). No other tag is registered.
pub fn read_literal(text: &str) -> Option<IpAddr> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    match inside.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => {
            address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => inside.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Writes an address as a literal; an IPv4 address mapped into IPv6 as IPv4.
pub fn literal(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mailbox(text: &str) -> Result<&str, PathFault> {
        match read_path(text)? {
            (Path::Mailbox(mailbox), "") => Ok(mailbox),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn ordinary_mailboxes() {
        for text in [
            "a@b",
            "first.last@sub.example.com",
            "o'hara+tag=x@example.com",
            "!#$%&'*+-/=?^_`{|}~@example.com",
            "user@xn--bcher-kva.example",
            "user@under_score.example",
            "user@3com.example",
            "Mixed.Case@Example.COM",
            "user@[192.0.2.1]",
            "user@[IPv6:2001:db8::1]",
            "user@[ipv6:::1]",
        ] {
            assert_eq!(mailbox(&format!("<{text}>")), Ok(text));
        }
    }

    #[test]
    fn quoted_local_parts_keep_their_quoting() {
        for text in [
            r#""a b"@example.com"#,
            r#""a@b"@example.com"#,
            r#""a>b"@example.com"#,
            r#""a\"b\\c"@example.com"#,
            r#""a..b"@example.com"#,
            r#"""@example.com"#,
        ] {
            assert_eq!(mailbox(&format!("<{text}>")), Ok(text));
        }
    }

    #[test]
    fn rfc6531_3_3_local_parts_and_labels_may_be_utf8() {
        for text in [
            "\u{fc}@b\u{fc}cher.example",
            "\"\u{fc} \\\u{fc}\"@example.com",
            "\u{1f4e7}@example.com",
            "u@\u{4f8b}\u{5b50}.\u{6d4b}\u{8bd5}",
            "cafe\u{301}@example.com",
        ] {
            assert_eq!(mailbox(&format!("<{text}>")), Ok(text));
        }
        for text in ["<\u{85}@b>", "<a\u{2028}@b>", "<\"\u{80}\"@b>"] {
            assert_eq!(mailbox(text), Err(PathFault::LocalPart), "{text}");
        }
        assert!(mailbox("<u@xn--bcher-va.b\u{fc}cher>").is_err(), "an A-label that is none");
        // Not allowed in a name, a character that looks like a dot, and a label that is too long in
        // the DNS.
        let long = format!("<u@{}.example>", "\u{fc}".repeat(31) + &"x".repeat(31));
        for text in ["<u@\u{2603}\u{200d}.example>", "<u@b\u{fc}\u{3002}example>", &long] {
            assert!(mailbox(text).is_err(), "{text}");
        }
        assert_eq!(
            mailbox(&format!("<{}@b>", "\u{fc}".repeat(33))),
            Err(PathFault::LocalPartTooLong)
        );
    }

    #[test]
    fn a_source_route_is_dropped() {
        assert_eq!(mailbox("<@a.example:u@c.example>"), Ok("u@c.example"));
        assert_eq!(mailbox("<@a.example,@[192.0.2.1]:u@c.example>"), Ok("u@c.example"));
        for text in ["<@a.example>", "<@a.example,b.example:u@c>", "<@:u@c>", "<@a.example;u@c>"] {
            assert_eq!(mailbox(text), Err(PathFault::Route), "{text}");
        }
    }

    #[test]
    fn the_null_path_and_the_postmaster() {
        assert_eq!(read_path("<> SIZE=1"), Ok((Path::Null, " SIZE=1")));
        assert_eq!(read_path("<Postmaster>"), Ok((Path::Postmaster("Postmaster"), "")));
        assert_eq!(mailbox("<user>"), Err(PathFault::NoDomain));
    }

    #[test]
    fn the_text_after_the_path_is_returned() {
        assert_eq!(read_path("<a@b>x"), Ok((Path::Mailbox("a@b"), "x")));
    }

    #[test]
    fn faults_are_distinguished() {
        for (text, fault) in [
            ("a@b", PathFault::NoBracket),
            ("", PathFault::NoBracket),
            ("<a@b", PathFault::NotClosed),
            ("<postmaster", PathFault::NotClosed),
            ("<", PathFault::LocalPart),
            ("<@", PathFault::Route),
            ("<a@>", PathFault::Domain),
            ("<@b>", PathFault::Route),
            ("<a@b c>", PathFault::Domain),
            ("<a b@c>", PathFault::LocalPart),
            ("<.a@b>", PathFault::LocalPart),
            ("<a.@b>", PathFault::LocalPart),
            ("<a..b@c>", PathFault::LocalPart),
            ("<a@b@c>", PathFault::Domain),
            ("<\"a@b>", PathFault::LocalPart),
            ("<\"a\"b@c>", PathFault::LocalPart),
            ("<\"a\tb\"@c>", PathFault::LocalPart),
            ("<\"a\\", PathFault::LocalPart),
            ("<a@-b.c>", PathFault::Domain),
            ("<a@b-.c>", PathFault::Domain),
            ("<a@.b>", PathFault::Domain),
            ("<a@b.>", PathFault::Domain),
            ("<a@b..c>", PathFault::Domain),
            ("<a@b!c>", PathFault::Domain),
            ("<a@[192.0.2]>", PathFault::Literal),
            ("<a@[192.0.2.256]>", PathFault::Literal),
            ("<a@[192.0.2.1>", PathFault::Literal),
            ("<a@[2001:db8::1]>", PathFault::Literal),
            ("<a@[IPv6:2001:db8::1%eth0]>", PathFault::Literal),
            ("<a@[IPv6:192.0.2.1]>", PathFault::Literal),
            ("<a@[x400:abc]>", PathFault::Literal),
        ] {
            assert_eq!(read_path(text).map(|_| ()), Err(fault), "{text}");
        }
    }

    #[test]
    fn lengths_are_those_of_rfc_5321() {
        let local = |length| format!("<{}@example.com>", "x".repeat(length));
        assert!(mailbox(&local(64)).is_ok());
        assert_eq!(mailbox(&local(65)), Err(PathFault::LocalPartTooLong));

        let label = |length| format!("<u@{}.example>", "x".repeat(length));
        assert!(mailbox(&label(63)).is_ok());
        assert_eq!(mailbox(&label(64)), Err(PathFault::DomainTooLong));

        let domain = |length: usize| format!("<u@{}{}>", "x.".repeat(length / 2), "y");
        assert_eq!(domain(250).len(), 256 - 1);
        assert!(mailbox(&domain(250)).is_ok());
        assert_eq!(mailbox(&domain(252)), Err(PathFault::TooLong));
        assert_eq!(mailbox(&domain(256)), Err(PathFault::DomainTooLong));
    }

    #[test]
    fn literals_are_written_and_read_back() {
        for (address, text) in [
            ("192.0.2.1", "[192.0.2.1]"),
            ("2001:db8::1", "[IPv6:2001:db8::1]"),
            ("::ffff:192.0.2.1", "[192.0.2.1]"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(literal(address), text);
            assert_eq!(read_literal(text), Some(address.to_canonical()));
        }
    }
}
