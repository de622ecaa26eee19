//! Paths that violate the grammar of RFC 5321 4.1.2, as the relay's own clients write them. *Pure.*
//!
//! The table shows what Postfix 3.7 accepts from `mynetworks`, and what is accepted here with
//! `session.lenient`. Accepted paths are relayed in a form that the grammar allows; only with
//! `session.keep_odd_dots` a local-part with odd dots is relayed unchanged, for receivers that know
//! no other form. For other clients the grammar applies. The forms are the same after `MAIL FROM:`
//! and `RCPT TO:`.
//!
//! | form | Postfix | lenient | strict | relayed as |
//! |---|---|---|---|---|
//! | space or tab before `<a@b.test>` | 250 | 250 | 250 | `<a@b.test>` |
//! | spaces at the end, `from:` (RFC 5321 4.1.1, 2.4) | 250 | 250 | 250 | `<a@b.test>` |
//! | `<@r.test:a@b.test>` (RFC 5321 C) | 250 | 250 | 250 | `<a@b.test>` |
//! | `a@b.test`, also with parameters | 250 | 250 | 501 | `<a@b.test>` |
//! | `a@b.test>`, `<<a@b.test>>`, `< a@b.test >` | 250 | 250 | 501 | `<a@b.test>` |
//! | `<a@b.test.>` | 250 | 250 | 501 | `<a@b.test>` |
//! | `<a..b@c.test>`, `<a.@c.test>`, `<.a@c.test>` | 250 | 250 | 501 | `<"a..b"@c.test>` |
//! | `QUIT x` | 221 | 221 | 501 | |
//! | `AUTH=<>` where AUTH is not offered | 250 | 250 | 555 | |
//! | local-part of more than 64 bytes (1) | 250 | 501 | 501 | |
//! | `<a>`, `MAIL FROM:<postmaster>` (2) | 250 | 501 | 501 | |
//! | `<a:b@c.test>`, `<a@b@c.test>`, `<a(b)@c.test>` (3) | 250 | 501 | 501 | |
//! | `<a\b@c.test>`, `<@c.test>` (3) | 250 | 501 | 501 | |
//! | `SIZE=1 SIZE=2` (3) | 250 | 501 | 501 | |
//! | EHLO with bytes above 127 (4) | 250 | 501 | 501 | |
//! | MAIL without EHLO or HELO (5) | 250 | 503 | 503 | |
//! | `<a@b.test`, `<a b@c.test>`, `<a;b@c.test>`, `<a@b..test>` | 501 | 501 | 501 | |
//! | `A <a@b.test>`, `<a@b.test> (x)` | 555 | 501 | 501 | |
//! | `FROM <a@b.test>`, HELO without a name | 501 | 501 | 501 | |
//! | `<a@192.0.2.1>`: the grammar allows it | 501 | 250 | 250 | `<a@192.0.2.1>` |
//!
//! 1. Not allowed on the wire. 2. The relay has no domain to append. 3. Ambiguous: another program
//!    may read another address, or another size. 4. It is written into the Received field.
//!    5. RFC 5321 4.1.4.

use super::path::{Path, PathFault, is_atext, is_disruptive, read_path, read_tail, strip_route};
use crate::limits::{LOCAL_PART_BYTES_MAX, PATH_BYTES_MAX};

/// Which syntax of a path is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Syntax {
    /// The grammar.
    #[default]
    Strict,
    /// The forms in the table above.
    Lenient(OddDots),
}

/// What is done with a local-part that begins or ends with a dot, or has two in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OddDots {
    /// It becomes a quoted string, which is the same address (RFC 5321 4.1.2).
    Quoted,
    /// It is relayed unchanged, against the grammar.
    Kept,
}

/// Reads the path at the start of `text`; also returns what follows it.
pub(super) fn read_path_as(text: &str, syntax: Syntax) -> Result<(Path<'_>, &str), PathFault> {
    let strict = read_path(text);
    let Syntax::Lenient(odd_dots) = syntax else { return strict };
    match strict {
        Ok((_, rest)) if rest.is_empty() || rest.starts_with([' ', '\t']) => strict,
        _ => read_lenient_path(text, odd_dots).map_or(strict, Ok),
    }
}

fn read_lenient_path(text: &str, odd_dots: OddDots) -> Option<(Path<'_>, &str)> {
    let (inside, rest) = match text.strip_prefix('<') {
        Some(inside) => {
            let inside = inside.strip_prefix('<').unwrap_or(inside);
            let (inside, rest) = inside.split_at_checked(closing_bracket(inside)?)?;
            let rest = rest.strip_prefix('>')?;
            let is_doubled = text.starts_with("<<");
            (inside, if is_doubled { rest.strip_prefix('>')? } else { rest })
        }
        None => {
            let end = text.find([' ', '\t']).unwrap_or(text.len());
            let (word, rest) = text.split_at_checked(end)?;
            (word.strip_suffix('>').unwrap_or(word), rest)
        }
    };
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return None;
    }
    let mailbox = strip_route(inside.trim_matches([' ', '\t'])).ok()?;
    let dotted = mailbox.bytes().position(|byte| !is_atext(byte) && byte != b'.')?;
    let has_odd_dots = match mailbox.split_at_checked(dotted)? {
        (local, tail) if tail.starts_with('@') && !local.is_empty() => {
            if !local.bytes().any(is_atext) || local.chars().any(is_disruptive) {
                return None;
            }
            local.split('.').any(str::is_empty)
        }
        _ => false,
    };
    let local_bytes = match has_odd_dots {
        true => dotted,
        // By the grammar; the domain is checked below.
        false => mailbox.rfind('@')?,
    };
    let (local, domain) = mailbox.split_at_checked(local_bytes)?;
    let domain = domain.strip_prefix('@')?;
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    // With the quotation marks that may be added.
    let extra = if has_odd_dots && odd_dots == OddDots::Quoted { 2 } else { 0 };
    let length = local.len() + 1 + domain.len();
    if local.len() + extra > LOCAL_PART_BYTES_MAX || length + extra + 2 > PATH_BYTES_MAX {
        return None;
    }
    let address = mailbox.get(..length)?;
    if has_odd_dots {
        read_tail(domain).ok()?;
        Some(match odd_dots {
            OddDots::Quoted => (Path::OddDots { local, domain }, rest),
            OddDots::Kept => (Path::Mailbox(address), rest),
        })
    } else {
        super::path::is_mailbox(address).then_some((Path::Mailbox(address), rest))
    }
}

/// The position of the `>` that closes a path, outside of a quoted local-part.
fn closing_bracket(inside: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    inside.bytes().position(|byte| {
        let closes = byte == b'>' && !quoted;
        if byte == b'"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::{Offered, RcptSyntax, read_mail, read_rcpt};

    const LENIENT: Syntax = Syntax::Lenient(OddDots::Quoted);
    const KEPT: Syntax = Syntax::Lenient(OddDots::Kept);

    /// The relayed form, for MAIL and for RCPT; `None` where they are refused.
    fn taken(text: &str, syntax: Syntax) -> Option<String> {
        let offered = Offered { extended: true, syntax, ..Offered::default() };
        let line = format!("FROM:{text}");
        let mail = read_mail(line.trim_end(), offered).ok();
        let mail = mail.map(|mail| {
            mail.reverse_path.map_or_else(String::new, |address| address.as_str().to_owned())
        });
        let offered = RcptSyntax { extended: true, smtp_utf8: true, syntax };
        if !text.contains('=') {
            let line = format!("TO:{text}");
            let rcpt = read_rcpt(line.trim_end(), offered).ok();
            let rcpt = rcpt.map(|rcpt| rcpt.address.as_str().to_owned());
            assert_eq!(rcpt, mail, "{text}");
        }
        mail
    }

    #[test]
    fn every_row_of_the_table_holds() {
        let long = format!("<{}@b.test>", "x".repeat(65));
        let longest = format!("<{}..@b.test>", "x".repeat(60));
        let too_long = format!("<{}..@b.test>", "x".repeat(61));
        let (wide, quoted) = ("x".repeat(62), format!("\"{}..\"@b.test", "x".repeat(60)));
        for (text, lenient, strict) in [
            (" <a@b.test>", Some("a@b.test"), true),
            ("\t<a@b.test>", Some("a@b.test"), true),
            ("<a@b.test>  ", Some("a@b.test"), true),
            ("<@r.test:a@b.test>", Some("a@b.test"), true),
            ("<a@192.0.2.1>", Some("a@192.0.2.1"), true),
            ("<\"a b\"@c.test>", Some("\"a b\"@c.test"), true),
            ("<\"a>b\"@c.test>", Some("\"a>b\"@c.test"), true),
            ("a@b.test", Some("a@b.test"), false),
            (" a@b.test", Some("a@b.test"), false),
            ("a@b.test SIZE=100", Some("a@b.test"), false),
            (" a@b.test BODY=8BITMIME", Some("a@b.test"), false),
            ("a@b.test>", Some("a@b.test"), false),
            ("<<a@b.test>>", Some("a@b.test"), false),
            ("< a@b.test >", Some("a@b.test"), false),
            ("< \"a >b\"@c.test >", Some("\"a >b\"@c.test"), false),
            ("<a@b.test.>", Some("a@b.test"), false),
            ("a@b.test.", Some("a@b.test"), false),
            ("a@[192.0.2.1]", Some("a@[192.0.2.1]"), false),
            ("@r.test:a@b.test", Some("a@b.test"), false),
            ("<a..b@c.test>", Some("\"a..b\"@c.test"), false),
            ("<a.@c.test>", Some("\"a.\"@c.test"), false),
            ("<.a@c.test>", Some("\".a\"@c.test"), false),
            ("a...b.@c.test.", Some("\"a...b.\"@c.test"), false),
            ("<a..b@[192.0.2.1]>", Some("\"a..b\"@[192.0.2.1]"), false),
            (&longest, Some(&quoted), false),
            (&long, None, false),
            (&too_long, None, false),
            ("<a>", None, false),
            ("a", None, false),
            ("<a:b@c.test>", None, false),
            ("<a@b@c.test>", None, false),
            ("a@b@c.test", None, false),
            ("<a..b@c@d.test>", None, false),
            ("<a(b)@c.test>", None, false),
            ("<a\\b@c.test>", None, false),
            ("<@c.test>", None, false),
            ("<..@c.test>", None, false),
            ("<a@b.test> SIZE=1 SIZE=2", None, false),
            ("<a@b.test", None, false),
            ("<<a@b.test>", None, false),
            ("A <a@b.test>", None, false),
            ("\"A B\" <a@b.test>", None, false),
            ("<a@b.test> (x)", None, false),
            ("<a b@c.test>", None, false),
            ("a b@c.test", None, false),
            ("<a;b@c.test>", None, false),
            ("<a,b@c.test>", None, false),
            ("<a..b@c..test>", None, false),
            ("<a@b..test>", None, false),
            ("<a@b.test..>", None, false),
            ("<a@-b.test>", None, false),
            ("<a@>", None, false),
            ("<a@.>", None, false),
            ("<a@b!c>", None, false),
            ("<\"a\"b@c.test>", None, false),
            ("<a@b.test>,<c@d.test>", None, false),
            ("<a@b.test>SIZE=100", None, false),
            ("", None, false),
            (" ", None, false),
            ("<", None, false),
            (">", None, false),
            ("<<>>", None, false),
            ("@", None, false),
        ] {
            assert_eq!(taken(text, LENIENT).as_deref(), lenient, "{text}");
            let expected = lenient.filter(|_| strict);
            assert_eq!(taken(text, Syntax::Strict).as_deref(), expected, "strict: {text}");
        }
        assert!(taken(&format!("<{wide}@b.test>"), Syntax::Strict).is_some());
    }

    #[test]
    fn odd_dots_are_kept_where_that_is_configured() {
        for (text, kept) in [
            ("<a..b@c.test>", "a..b@c.test"),
            ("a.@c.test.", "a.@c.test"),
            ("<.a@c.test>", ".a@c.test"),
            ("<\"a..b\"@c.test>", "\"a..b\"@c.test"),
        ] {
            assert_eq!(taken(text, KEPT).as_deref(), Some(kept), "{text}");
        }
        assert_eq!(taken("<..@c.test>", KEPT), None);
    }

    #[test]
    fn an_auth_parameter_is_accepted_where_auth_is_not_offered() {
        assert_eq!(taken("<a@b.test> AUTH=<>", LENIENT).as_deref(), Some("a@b.test"));
        assert_eq!(taken("<a@b.test> AUTH=<>", Syntax::Strict), None);
    }
}
