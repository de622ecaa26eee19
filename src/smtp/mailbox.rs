//! The addresses of a header field like From (RFC 5322 3.4). *Pure.*
//!
//! Mail programs are lenient, each in its own way, so this parser is strict. A form that the
//! current grammar does not allow could be read as another address elsewhere, and is refused, as
//! are groups, source routes and empty list entries (RFC 5322 4.4).

use super::path::{is_atext, is_disruptive, is_mailbox};

/// Largest number of addresses in one field: no message has more authors.
const ADDRESSES_MAX: usize = 1000;

/// The addresses of a mailbox-list, one or more, without display names, comments and white space;
/// `None` when it is not a valid list. `field` is unfolded.
pub fn read_addresses(field: &[u8]) -> Option<Vec<String>> {
    let mut rest = std::str::from_utf8(field).ok()?;
    if rest.chars().any(|character| character != '\t' && is_disruptive(character)) {
        return None;
    }
    let mut found = Vec::new();
    while found.len() < ADDRESSES_MAX {
        let (address, after) = read_mailbox(rest)?;
        found.push(address);
        if after.is_empty() {
            return Some(found);
        }
        rest = after.strip_prefix(',')?;
    }
    None
}

/// `name <address>` or `address`, and what follows it.
fn read_mailbox(text: &str) -> Option<(String, &str)> {
    let mut rest = skip_space(text)?;
    let mut word = "";
    for words in 0.. {
        if let Some(inside) = rest.strip_prefix('<') {
            let inside = skip_space(inside)?;
            let (local, after) = read_word(inside)?;
            let (address, after) = read_domain(local, skip_space(after)?.strip_prefix('@')?)?;
            return Some((address, skip_space(after.strip_prefix('>')?)?));
        }
        match rest.strip_prefix('@') {
            Some(domain) if words == 1 => return read_domain(word, domain),
            _ => (word, rest) = read_word(rest)?,
        }
        rest = skip_space(rest)?;
    }
    None
}

/// The address with this local-part and the domain at the start of `text`.
fn read_domain<'a>(local: &str, text: &'a str) -> Option<(String, &'a str)> {
    let text = skip_space(text)?;
    let length = match text.strip_prefix('[') {
        Some(literal) => literal.find(']')? + 2,
        None => dotted_length(text),
    };
    let (domain, rest) = text.split_at_checked(length)?;
    let address = format!("{local}@{domain}");
    is_mailbox(&address).then_some((address, skip_space(rest)?))
}

/// A quoted string with its quotation marks, or atoms and dots: display names have dots (`Joe Q.
/// Public`), in practice and by RFC 5322 4.1.
fn read_word(text: &str) -> Option<(&str, &str)> {
    let length = match text.strip_prefix('"') {
        Some(quoted) => {
            let mut bytes = quoted.bytes().enumerate();
            loop {
                match bytes.next()? {
                    (at, b'"') => break at + 2,
                    (_, b'\\') => _ = bytes.next()?,
                    _ => {}
                }
            }
        }
        None => dotted_length(text),
    };
    if length == 0 { None } else { text.split_at_checked(length) }
}

/// Length of atoms and dots at the start of `text`.
fn dotted_length(text: &str) -> usize {
    let end = text.bytes().position(|byte| !is_atext(byte) && byte != b'.');
    end.unwrap_or(text.len())
}

/// Skips white space and comments; `None` when a comment does not end.
fn skip_space(text: &str) -> Option<&str> {
    let mut depth = 0_usize;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'(' => depth += 1,
            _ if depth == 0 && byte != b' ' && byte != b'\t' => return text.get(at..),
            b')' => depth -= 1,
            b'\\' => _ = bytes.next()?,
            _ => {}
        }
    }
    (depth == 0).then_some("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_among_names_and_comments() {
        for (field, found) in [
            (" a@b.test", &["a@b.test"][..]),
            ("Joe Q. <a@b.test>", &["a@b.test"]),
            ("<a@b.test>", &["a@b.test"]),
            ("\"Doe, Joe <x@y>\" <a@b.test>, c@d.test", &["a@b.test", "c@d.test"]),
            ("a (b@c, <d@e>) @ f.test", &["a@f.test"]),
            ("\"x\" Joe (a \\) (b)) < (c) a@b.test (d) > (e)", &["a@b.test"]),
            ("\"odd local\"@b.test", &["\"odd local\"@b.test"]),
            ("\"a@x.test\"@b.test", &["\"a@x.test\"@b.test"]),
            ("\"a\\\" <x@y>\"@b.test", &["\"a\\\" <x@y>\"@b.test"]),
            ("a@[192.0.2.1]", &["a@[192.0.2.1]"]),
            ("J\u{f6}e <a@b.test>", &["a@b.test"]),
            ("=?utf-8?q?J=C3=B6e?= <a@b.test>", &["a@b.test"]),
            ("a@b.test\t(folded), c@d.test ", &["a@b.test", "c@d.test"]),
        ] {
            let found = found.iter().map(|one| one.to_string()).collect();
            assert_eq!(read_addresses(field.as_bytes()), Some(found), "{field}");
        }
    }

    #[test]
    fn a_field_that_is_not_a_list_of_addresses_is_refused() {
        for field in [
            &b""[..],
            b" (none) ",
            b"Joe",
            b"<>",
            b"Joe <>",
            b"a@b.test <c@d.test",
            b"<a@b.test> <c@d.test>",
            b"a@b.test>",
            b"(open a@b.test",
            b"a@b.test (open \\)",
            b"a@b.test )",
            b"\"open <a@b.test>",
            b"\"a\"b@c.test",
            b"a\"b\"@c.test",
            b"@b.test",
            b"a@",
            b"a@b\0.test",
            b"\xff@b.test",
            b"a@b.test\r\n, c@d.test",
            b"a@b..test",
            b".a@b.test",
            b"a@[192.0.2.1",
            b"a\\@x.test@b.test",
        ] {
            assert_eq!(read_addresses(field), None, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn no_second_address_is_hidden_after_the_first() {
        for field in [
            "<ceo@bank.test,ann@a.test>",
            "<ceo@bank.test ann@a.test>",
            "ceo@bank.test ann@a.test",
            "ceo@bank.test @a.test",
            "ceo@bank.test@a.test",
            "<ceo@bank.test@a.test>",
            "ceo@bank.test, @a.test",
            "ceo @bank.test @a.test",
            "ceo@bank.test <ann@a.test>",
            "<ann@a.test> ceo@bank.test",
            "<ann@a.test>, ceo@bank.test <>",
            "ceo@bank.test <>",
        ] {
            assert_eq!(read_addresses(field.as_bytes()), None, "{field}");
        }
    }

    #[test]
    fn rfc5322_4_4_groups_routes_and_empty_entries_are_refused() {
        for field in [
            "ceo@bank.test: joe@a.test;",
            "ceo@bank.test: joe@a.test",
            "<ceo@bank.test:joe@a.test>",
            "Group: a@b.test, Joe <c@d.test>; , e@f.test",
            "none:;",
            "<@r1.test,@r2.test:a@b.test>",
            "a@b.test,,c@d.test",
            "a@b.test,",
            ",a@b.test",
            "a@b.test;",
            "a . b@c.test",
            "a@b . test",
        ] {
            assert_eq!(read_addresses(field.as_bytes()), None, "{field}");
        }
    }

    #[test]
    fn a_field_of_any_length_is_read_to_a_bound() {
        let list = |count: usize| vec!["a@b.test"; count].join(",");
        assert_eq!(read_addresses(list(1000).as_bytes()).map(|all| all.len()), Some(1000));
        assert_eq!(read_addresses(list(1001).as_bytes()), None);
        assert_eq!(read_addresses("(".repeat(60_000).as_bytes()), None);
    }
}
