//! The addresses of a header field like From (RFC 5322 3.4). *Pure.*

/// Addresses of one field that are read, at most: nobody is that many.
const ADDRESSES_MAX: usize = 1000;

/// The addresses of a mailbox-list or address-list, groups too, without display names, comments and
/// white space; `None` when it is not one, and nobody can say whose it is.
pub fn read_addresses(field: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(field).ok()?;
    let mut reader = Reader::default();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '(' => skip_comment(&mut characters)?,
            '"' => {
                let quoted = read_quoted(&mut characters)?;
                reader.word().push_str(&quoted);
            }
            '<' if reader.angled.is_none() => reader.angled = Some(String::new()),
            '>' if reader.in_angle() => reader.closed = true,
            '<' | '>' => return None,
            // A group's name; inside angle brackets, a source route.
            ':' if reader.in_angle() => reader.angled = Some(String::new()),
            ':' => reader = Reader { found: reader.found, in_group: true, ..Reader::default() },
            ',' if reader.in_angle() => {}
            ',' => reader.end()?,
            ';' if reader.in_group => {
                reader.end()?;
                reader.in_group = false;
            }
            space if space.is_ascii_whitespace() => {}
            other if other.is_control() => return None,
            other => reader.word().push(other),
        }
    }
    if reader.in_angle() {
        return None;
    }
    reader.end()?;
    Some(reader.found)
}

#[derive(Default)]
struct Reader {
    found: Vec<String>,
    /// A display name, or an address without brackets.
    plain: String,
    /// What stands in angle brackets.
    angled: Option<String>,
    closed: bool,
    in_group: bool,
}

impl Reader {
    fn in_angle(&self) -> bool {
        self.angled.is_some() && !self.closed
    }

    fn word(&mut self) -> &mut String {
        match &mut self.angled {
            Some(angled) if !self.closed => angled,
            _ => &mut self.plain,
        }
    }

    /// One address has ended, or nothing stood there (RFC 5322 4.4 allows that).
    fn end(&mut self) -> Option<()> {
        let plain = std::mem::take(&mut self.plain);
        let address = self.angled.take().unwrap_or(plain);
        self.closed = false;
        if address.is_empty() {
            return Some(());
        }
        let (local, domain) = address.rsplit_once('@')?;
        if local.is_empty() || domain.is_empty() || self.found.len() >= ADDRESSES_MAX {
            return None;
        }
        self.found.push(address);
        Some(())
    }
}

fn skip_comment(characters: &mut std::str::Chars<'_>) -> Option<()> {
    let mut depth = 1;
    while depth > 0 {
        match characters.next()? {
            '\\' => _ = characters.next()?,
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
    }
    Some(())
}

/// With its quotation marks.
fn read_quoted(characters: &mut std::str::Chars<'_>) -> Option<String> {
    let mut quoted = String::from('"');
    loop {
        let character = characters.next()?;
        quoted.push(character);
        match character {
            '\\' => quoted.push(characters.next()?),
            '"' => return Some(quoted),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_among_names_comments_and_groups() {
        for (field, found) in [
            (" a@b.test", &["a@b.test"][..]),
            ("Joe Q. <a@b.test>", &["a@b.test"]),
            ("\"Doe, Joe <x@y>\" <a@b.test>, c@d.test", &["a@b.test", "c@d.test"]),
            ("a (b@c, <d@e>) @ f.test", &["a@f.test"]),
            ("\"odd local\"@b.test", &["\"odd local\"@b.test"]),
            ("Group: a@b.test, Joe <c@d.test>; , e@f.test", &["a@b.test", "c@d.test", "e@f.test"]),
            ("nobody:;", &[]),
            ("<@r1.test,@r2.test:a@b.test>", &["a@b.test"]),
            ("J\u{f6}e <a@b.test>", &["a@b.test"]),
            ("a@b.test\r\n\t(folded),\r\n c@d.test", &["a@b.test", "c@d.test"]),
            ("", &[]),
        ] {
            assert_eq!(read_addresses(field.as_bytes()).as_deref(), Some(&found_of(found)[..]));
        }
    }

    fn found_of(found: &[&str]) -> Vec<String> {
        found.iter().map(|one| one.to_string()).collect()
    }

    #[test]
    fn what_is_no_list_of_addresses_is_nobodys() {
        for field in [
            &b"Joe"[..],
            b"a@b.test <c@d.test",
            b"<a@b.test> <c@d.test>",
            b"a@b.test>",
            b"(open a@b.test",
            b"\"open <a@b.test>",
            b"@b.test",
            b"a@",
            b"a@b\0.test",
            b"\xff@b.test",
        ] {
            assert_eq!(read_addresses(field), None, "{}", field.escape_ascii());
        }
    }
}
