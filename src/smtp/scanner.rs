//! Finds command lines in a receive buffer, in place. *Pure.*
//!
//! No bytes are copied or kept: an incomplete line is scanned again from its start when more has
//! arrived. `command` reads the content of a line.

use memchr::memchr2;

/// What was found at the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line without its CRLF; it has `text.len() + 2` bytes of the input.
    Complete(&'a [u8]),
    /// No line end yet, and still within the limit.
    Incomplete,
    /// Longer than the limit. This many bytes can be dropped; [`skip`] finds the end of the line.
    TooLong(usize),
    /// A CR or LF that is not part of a CRLF.
    Bare(Bare),
}

/// One half of a CRLF without the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bare {
    /// CR followed by something other than LF.
    Cr,
    /// LF not preceded by CR.
    Lf,
}

/// Scans the line at the start of `input`. It may have `line_max` bytes with its CRLF.
///
/// Only CRLF ends a line (RFC 5321 2.3.8). The result depends only on the bytes, not on how they
/// were split: it stays the same when more input follows, unless it is [`Line::Incomplete`].
pub fn scan(input: &[u8], line_max: usize) -> Line<'_> {
    let window = input.get(..line_max).unwrap_or(input);
    let Some(at) = memchr2(b'\r', b'\n', window) else {
        return if window.len() < line_max {
            Line::Incomplete
        } else {
            Line::TooLong(window.len())
        };
    };
    let (text, end) = window.split_at(at);
    match end {
        [b'\r', b'\n', ..] => Line::Complete(text),
        [b'\r', _, ..] => Line::Bare(Bare::Cr),
        // The CR is the last byte: its LF may follow, unless the limit is reached.
        [b'\r'] if window.len() < line_max => Line::Incomplete,
        [b'\r'] => Line::TooLong(at),
        _ => Line::Bare(Bare::Lf),
    }
}

/// The part of the input that belongs to a line that is being dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// This many bytes, without the end of the line. Zero when the input is only a CR.
    Part(usize),
    /// This many bytes, including its CRLF.
    End(usize),
    /// A CR or LF that is not part of a CRLF.
    Bare(Bare),
}

/// Finds the end of an overlong line.
pub fn skip(input: &[u8]) -> Skipped {
    let Some(at) = memchr2(b'\r', b'\n', input) else {
        return Skipped::Part(input.len());
    };
    match input.split_at(at).1 {
        [b'\r', b'\n', ..] => Skipped::End(at + 2),
        [b'\r', _, ..] => Skipped::Bare(Bare::Cr),
        [b'\r'] => Skipped::Part(at),
        _ => Skipped::Bare(Bare::Lf),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_with_crlf_and_with_nothing_else() {
        assert_eq!(scan(b"NOOP\r\nQUIT\r\n", 100), Line::Complete(b"NOOP"));
        assert_eq!(scan(b"\r\n", 100), Line::Complete(b""));
        assert_eq!(scan(b"NOOP\nQUIT\r\n", 100), Line::Bare(Bare::Lf));
        assert_eq!(scan(b"NOOP\rQUIT\r\n", 100), Line::Bare(Bare::Cr));
        assert_eq!(scan(b"NOOP\r\r\n", 100), Line::Bare(Bare::Cr));
    }

    #[test]
    fn an_unfinished_line_waits() {
        for input in [&b""[..], b"N", b"NOOP", b"NOOP\r"] {
            assert_eq!(scan(input, 100), Line::Incomplete);
        }
    }

    #[test]
    fn the_limit_counts_the_crlf() {
        assert_eq!(scan(b"NOOP\r\n", 6), Line::Complete(b"NOOP"));
        assert_eq!(scan(b"NOOP \r\n", 6), Line::TooLong(5), "the CR stays to be looked at");
        assert_eq!(scan(b"NOOP  \r\n", 6), Line::TooLong(6));
        assert_eq!(scan(b"NOOP\r", 6), Line::Incomplete);
        assert_eq!(scan(b"NOOP ", 6), Line::Incomplete);
    }

    #[test]
    fn an_overlong_line_is_skipped_to_its_crlf() {
        assert_eq!(skip(b"xxx"), Skipped::Part(3));
        assert_eq!(skip(b"xxx\r"), Skipped::Part(3));
        assert_eq!(skip(b"\r"), Skipped::Part(0));
        assert_eq!(skip(b"xxx\r\nNOOP"), Skipped::End(5));
        assert_eq!(skip(b"xxx\nNOOP"), Skipped::Bare(Bare::Lf));
        assert_eq!(skip(b"xxx\rNOOP"), Skipped::Bare(Bare::Cr));
    }
}
