//! Converts content between a file and the wire form: dot-stuffing (RFC 5321 4.5.2) and line ends.
//! *Pure*; content comes in pieces.

use memchr::memchr;

/// What is done with a dot at the start of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dot {
    /// It is doubled.
    Doubled,
    /// It is removed.
    Removed,
}

/// Doubles or removes the dots at the start of lines.
#[derive(Debug)]
pub struct Dots {
    what: Dot,
    at_line_start: bool,
    after_cr: bool,
}

impl Dots {
    /// A converter before the first line.
    pub fn new(what: Dot) -> Dots {
        Dots { what, at_line_start: true, after_cr: false }
    }

    /// Converts the next piece and appends it to `out`.
    pub fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while let Some(&first) = rest.first() {
            if self.at_line_start {
                self.at_line_start = false;
                self.after_cr = false;
                if first == b'.' {
                    match self.what {
                        Dot::Doubled => out.push(b'.'),
                        Dot::Removed => {
                            rest = rest.get(1..).unwrap_or_default();
                            continue;
                        }
                    }
                }
            }
            let Some(end) = memchr(b'\n', rest) else {
                out.extend_from_slice(rest);
                self.after_cr = rest.last() == Some(&b'\r');
                return;
            };
            let before = end.checked_sub(1).and_then(|at| rest.get(at));
            self.at_line_start = before.map_or(self.after_cr, |&byte| byte == b'\r');
            self.after_cr = false;
            let (line, after) = rest.split_at(end + 1);
            out.extend_from_slice(line);
            rest = after;
        }
    }
}

/// Makes CRLF of every LF that has no CR before it.
#[derive(Debug, Default)]
pub struct LineEnds {
    after_cr: bool,
}

impl LineEnds {
    /// Converts the next piece and appends it to `out`.
    pub fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for &byte in piece {
            if byte == b'\n' && !self.after_cr {
                out.push(b'\r');
            }
            out.push(byte);
            self.after_cr = byte == b'\r';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(what: Dot, text: &[u8], cut: usize) -> Vec<u8> {
        let mut dots = Dots::new(what);
        let mut out = Vec::new();
        for piece in text.chunks(cut) {
            dots.piece(piece, &mut out);
        }
        out
    }

    #[test]
    fn dots_are_doubled_and_removed_however_the_text_is_split() {
        for (plain, stuffed) in [
            (&b""[..], &b""[..]),
            (b".\r\n", b"..\r\n"),
            (b"a\r\n.b\r\n..\r\nc.\r\n", b"a\r\n..b\r\n...\r\nc.\r\n"),
            (b"\r\n\r\n.", b"\r\n\r\n.."),
            (b"a\n.b\r.c\r\n", b"a\n.b\r.c\r\n"),
            (b".\n.\r\n.", b"..\n.\r\n.."),
        ] {
            for cut in 1..=stuffed.len().max(1) {
                assert_eq!(through(Dot::Doubled, plain, cut), stuffed, "{plain:?} by {cut}");
                assert_eq!(through(Dot::Removed, stuffed, cut), plain, "{stuffed:?} by {cut}");
            }
        }
    }

    #[test]
    fn bare_line_feeds_become_line_ends() {
        let text = b"a\nb\r\n\nc\r\r\n\n";
        for cut in 1..=text.len() {
            let mut ends = LineEnds::default();
            let mut out = Vec::new();
            for piece in text.chunks(cut) {
                ends.piece(piece, &mut out);
            }
            assert_eq!(out, b"a\r\nb\r\n\r\nc\r\r\n\r\n");
        }
    }
}
