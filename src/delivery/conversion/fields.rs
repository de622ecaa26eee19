//! The three fields of a MIME header that a conversion looks at (RFC 2045).

/// What a header says of the content under it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct MimeHead {
    /// Type and subtype in lower case; empty when there is no Content-Type.
    pub(super) kind: String,
    /// The boundary of a multipart.
    pub(super) boundary: Option<Vec<u8>>,
    /// Content-Transfer-Encoding in lower case; empty when there is none.
    pub(super) encoding: String,
    /// There is a MIME-Version.
    pub(super) versioned: bool,
}

impl MimeHead {
    /// Of a header's lines, each with its CRLF.
    pub(super) fn of(header: &[u8]) -> MimeHead {
        let mut head = MimeHead::default();
        for field in fields(header) {
            let Some(colon) = memchr::memchr(b':', field) else { continue };
            let (name, value) = field.split_at(colon);
            let value = unfolded(value.get(1..).unwrap_or_default());
            let name = name.trim_ascii();
            if name.eq_ignore_ascii_case(b"content-type") && head.kind.is_empty() {
                (head.kind, head.boundary) = content_type(&value);
            } else if is_encoding(name) && head.encoding.is_empty() {
                head.encoding = without_comments(&value).trim().to_ascii_lowercase();
            } else if name.eq_ignore_ascii_case(b"mime-version") {
                head.versioned = true;
            }
        }
        head
    }
}

/// Content-Transfer-Encoding.
fn is_encoding(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"content-transfer-encoding")
}

/// The header without its Content-Transfer-Encoding.
pub(super) fn without_encoding(header: &[u8]) -> Vec<u8> {
    let other = |field: &&[u8]| {
        let colon = memchr::memchr(b':', field).unwrap_or(0);
        !is_encoding(field.get(..colon).unwrap_or_default().trim_ascii())
    };
    fields(header).filter(other).flatten().copied().collect()
}

/// The fields of a header, each with the lines that continue it.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let mut end = 0;
        loop {
            let line = memchr::memchr(b'\n', rest.get(end..)?).map(|at| at + 1);
            end += line.unwrap_or(rest.len() - end);
            match rest.get(end) {
                Some(b' ' | b'\t') => {}
                _ => break,
            }
        }
        let (field, after) = rest.split_at_checked(end)?;
        rest = after;
        (!field.is_empty()).then_some(field)
    })
}

fn unfolded(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.chars().filter(|character| !matches!(character, '\r' | '\n')).collect()
}

/// RFC 5322 3.2.2: what stands in parentheses, outside of quotes.
fn without_comments(value: &str) -> String {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut plain = String::with_capacity(value.len());
    for character in value.chars() {
        let was_escaped = std::mem::replace(&mut escaped, false);
        match character {
            _ if was_escaped => {}
            '\\' => escaped = true,
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth > 0 => {
                depth -= 1;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            plain.push(character);
        }
    }
    plain
}

/// `multipart/mixed; boundary="x"` (RFC 2045 5.1).
fn content_type(value: &str) -> (String, Option<Vec<u8>>) {
    let plain = without_comments(value);
    let mut words = parameters(&plain).into_iter();
    let kind = words.next().unwrap_or_default().trim().to_ascii_lowercase();
    let boundary = words.find_map(|word| {
        let (name, value) = word.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| unquoted(value.trim()))
    });
    (kind, boundary.filter(|boundary| !boundary.is_empty()))
}

/// What stands between semicolons that are not quoted.
fn parameters(value: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .split(|character: char| {
            let was_escaped = std::mem::replace(&mut escaped, false);
            match character {
                '\\' if quoted && !was_escaped => escaped = true,
                '"' if !was_escaped => quoted = !quoted,
                _ => {}
            }
            character == ';' && !quoted
        })
        .collect()
}

fn unquoted(value: &str) -> Vec<u8> {
    let Some(inside) = value.strip_prefix('"') else { return value.as_bytes().to_vec() };
    let mut escaped = false;
    let mut plain = Vec::with_capacity(inside.len());
    for byte in inside.bytes() {
        match byte {
            _ if std::mem::replace(&mut escaped, false) => plain.push(byte),
            b'\\' => escaped = true,
            b'"' => break,
            _ => plain.push(byte),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boundary(value: &str) -> Option<String> {
        let head = MimeHead::of(format!("Content-Type: {value}\r\n").as_bytes());
        head.boundary.map(|boundary| String::from_utf8(boundary).unwrap_or_default())
    }

    #[test]
    fn rfc2045_5_1_boundaries_are_words_or_quoted() {
        for (value, expected) in [
            ("multipart/mixed; boundary=abc", Some("abc")),
            ("Multipart/Mixed;\r\n\tcharset=x; BOUNDARY = \"a;b (c)\\\"d\"", Some("a;b (c)\"d")),
            ("multipart/mixed (a; boundary=no) ; boundary=yes (no)", Some("yes")),
            ("multipart/mixed; x=\"; boundary=no\"; boundary=\"yes\"", Some("yes")),
            ("multipart/mixed; boundary=\"\"", None),
            ("multipart/mixed", None),
        ] {
            assert_eq!(boundary(value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn a_head_is_read_and_its_encoding_can_be_left_out() {
        let header = b"Subject: x\r\n y\r\ncontent-transfer-encoding :\r\n 8BIT (yes)\r\n\
                       Content-Type: text/plain\r\nMIME-Version: 1.0\r\n";
        let head = MimeHead::of(header);
        assert_eq!((head.kind.as_str(), head.encoding.as_str()), ("text/plain", "8bit"));
        assert!(head.versioned && head.boundary.is_none());
        let rest = without_encoding(header);
        let expected = "Subject: x\r\n y\r\nContent-Type: text/plain\r\nMIME-Version: 1.0\r\n";
        assert_eq!(String::from_utf8_lossy(&rest), expected);
        assert_eq!(MimeHead::of(b""), MimeHead::default());
    }
}
