//! Command lines in a receive buffer, found in place. *Pure.*
//!
//! Borrowed bytes go through and none are copied or kept: a line that is not complete yet is looked
//! at again, from its start, when more has come. What a line means is the business of `command`.

use memchr::memchr2;

/// What stands at the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line without its CRLF; it takes `text.len() + 2` bytes of the input.
    Complete(&'a [u8]),
    /// No end yet, and still short enough.
    Incomplete,
    /// Longer than the limit. So many bytes can go; [`skip`] finds where the line ends.
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

/// Looks at the line at the start of `input`. With its CRLF it may take `line_max` bytes.
///
/// Only CRLF ends a line (RFC 5321 2.3.8). The answer depends on the bytes alone and not on how
/// they were cut: what is given for some input stays the same when more follows, unless it is
/// [`Line::Incomplete`].
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
        // The CR is the last byte: its LF may follow, but not within the limit if that is reached.
        [b'\r'] if window.len() < line_max => Line::Incomplete,
        [b'\r'] => Line::TooLong(at),
        _ => Line::Bare(Bare::Lf),
    }
}

/// What of the input belongs to a line that is being thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// So many bytes of it, and its end is not among them. Zero when all there is is a CR.
    Part(usize),
    /// So many bytes, with its CRLF.
    End(usize),
    /// A CR or LF that is not part of a CRLF.
    Bare(Bare),
}

/// Looks for the end of an overlong line.
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
