//! Quoted-printable (RFC 2045 6.7), line by line. *Pure.*

/// Longest line, without its line end.
const LINE_MAX: usize = 76;
const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Appends a line, given without its line end, and a line end. A dot at the start of a line is
/// quoted as well, so that the result needs no dot-stuffing. So is a `-` that begins a line only
/// because the line was broken there: it could look like a boundary.
pub fn quote_line(line: &[u8], out: &mut Vec<u8>) {
    let mut column = 0;
    for (place, &byte) in line.iter().enumerate() {
        let is_literal = |column: usize| match byte {
            b'=' => false,
            b'.' => column > 0,
            b'-' => column > 0 || place == 0,
            b' ' | b'\t' => place + 1 < line.len(),
            _ => byte.is_ascii_graphic(),
        };
        let width = if is_literal(column) { 1 } else { 3 };
        // One column is reserved for the `=` of the soft line break.
        if column + width > LINE_MAX - 1 {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if is_literal(column) {
            out.push(byte);
            column += 1;
        } else {
            let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'=', digit(byte >> 4), digit(byte & 15)]);
            column += 3;
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(line: &[u8]) -> String {
        let mut out = Vec::new();
        quote_line(line, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn rfc2045_6_7_lines_are_short_and_nothing_is_unprintable() {
        assert_eq!(quoted(b"a=b "), "a=3Db=20\r\n");
        assert_eq!(quoted(b"\xfc\tx"), "=FC\tx\r\n");
        assert_eq!(quoted(b"-- "), "--=20\r\n");
        assert_eq!(quoted(b"bare\nlf\r"), "bare=0Alf=0D\r\n");
        for (byte, quote) in [(".", "=2E"), ("-", "=2D")] {
            let long = quoted(&byte.as_bytes().repeat(1000));
            assert!(long.split("\r\n").all(|line| line.len() <= 76));
            assert!(long.split("=\r\n").skip(1).all(|line| line.starts_with(quote)), "{long}");
            let plain = long.replace("=\r\n", "").replace(quote, byte);
            assert_eq!(plain, byte.repeat(1000) + "\r\n");
        }
    }
}
