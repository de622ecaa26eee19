//! Encodings of the DSN extension: xtext (RFC 3461 4) and addresses outside ASCII (RFC 6533 3).
//! *Pure.*

use std::fmt::Write;

/// Decodes xtext (RFC 3461 4) if the result is printable ASCII; otherwise, and if it is not xtext,
/// returns it unchanged: a report must have one line of ASCII per field.
pub fn from_xtext(text: &str) -> String {
    decoded(text).unwrap_or_else(|| ascii(text))
}

fn decoded(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'+' {
            let (high, low) = (hex_digit(bytes.next()?)?, hex_digit(bytes.next()?)?);
            high << 4 | low
        } else {
            byte
        };
        if !matches!(byte, b' '..=b'~') {
            return None;
        }
        plain.push(char::from(byte));
    }
    Some(plain)
}

/// Upper-case only (RFC 3461 4).
fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// `utf-8-addr-xtext` (RFC 6533 3): an address outside ASCII for a field that must be ASCII.
pub fn to_utf8_xtext(address: &str) -> String {
    let mut text = String::with_capacity(address.len());
    for character in address.chars() {
        match character {
            '\\' | '+' | '=' => {}
            '!'..='~' => {
                text.push(character);
                continue;
            }
            _ => {}
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{{{:02X}}}", u32::from(character));
    }
    text
}

/// The same for the text after `utf-8;` in ORCPT, where everything in ASCII is encoded already
/// (`utf-8-addr-unitext`).
pub fn unitext_to_xtext(address: &str) -> String {
    let mut text = String::with_capacity(address.len());
    for character in address.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{{{:02X}}}", u32::from(character));
        }
    }
    text
}

/// `utf-8-addr-unitext` of an address: UTF-8, except for the three characters with a special
/// meaning.
pub fn to_unitext(address: &str) -> String {
    let mut text = String::with_capacity(address.len());
    for character in address.chars() {
        match character {
            '\\' | '+' | '=' => {
                let _ = write!(text, "\\x{{{:02X}}}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
    text
}

/// Replaces everything except printable ASCII by `?`.
pub fn ascii(text: &str) -> String {
    let printable = |character: char| matches!(character, ' '..='~');
    text.chars().map(|character| if printable(character) { character } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_decoded_only_into_printable_ascii() {
        assert_eq!(from_xtext("rfc822;a+2Bb@c.example"), "rfc822;a+b@c.example");
        for kept in ["a+0D+0Ab", "a+2", "a+2x", "a+", "a+C3+BC", "a+2b"] {
            assert_eq!(from_xtext(kept), kept);
        }
        assert_eq!(from_xtext("a\r\nb\u{fc}"), "a??b?");
    }

    #[test]
    fn international_addresses_have_an_ascii_form_and_a_utf8_form() {
        assert_eq!(to_utf8_xtext("g\u{fc}n+x@b"), "g\\x{FC}n\\x{2B}x@b");
        assert_eq!(to_unitext("g\u{fc}n+x@b"), "g\u{fc}n\\x{2B}x@b");
        assert_eq!(unitext_to_xtext("g\u{fc}n\\x{2B}x@b"), "g\\x{FC}n\\x{2B}x@b");
    }
}
