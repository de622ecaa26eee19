//! Content as it comes after DATA (RFC 5321 4.1.1.4): where it ends, and what is wrong with it.
//! *Pure.*
//!
//! Bytes are looked at where they lie and handed on as they are, dot-stuffed. The scanner keeps a
//! few numbers and no bytes: when the input ends where nothing can be decided yet (a CR, a dot at
//! the start of a line, the first letters of `Received:`), those bytes are left for the next call.
//! Thus what it finds does not depend on how the input was cut.
//!
//! *Smuggling* (CVE-2023-51764, CVE-2023-51765, CVE-2023-51766). Servers that take `LF . LF`,
//! `LF . CRLF`, `CR . CRLF` and the like for the end of content, behind others that pass them on as
//! plain text, let a sender put commands of his own into a letter: a second letter that nobody
//! checked. RFC 5321 2.3.8 and 4.1.1.4 allow CRLF.CRLF alone, so only that ends content here. And
//! content with a CR or LF that is not half of a CRLF is refused as a whole: passed on, it could be
//! such an end to a next hop that is less strict; repaired, it would no longer be what was signed.

use memchr::{memchr, memchr2};

/// What content may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentLimits {
    /// Bytes in all, CRLFs counted and stuffed dots not (RFC 1870 3).
    pub bytes_max: u64,
    /// Bytes in a line with its CRLF, a stuffed dot not counted (RFC 5321 4.5.3.1.6).
    pub line_max: usize,
    /// `Received` fields in the header (RFC 5321 6.3).
    pub received_max: u32,
}

/// Why content is refused. In order of precedence: of several, the first is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Defect {
    /// More bytes than allowed.
    TooLarge,
    /// An LF without CR.
    BareLf,
    /// A CR without LF.
    BareCr,
    /// A NUL byte. Neither a 7bit nor an 8bit body has one (RFC 2045 2.7, 2.8), nor has a header
    /// (RFC 5322 2.2); RFC 5321 4.1.1.4 warns of such bytes and BINARYMIME is not offered. Software
    /// behind us would cut the text there, and see another message than the one that was checked.
    Nul,
    /// More `Received` fields than allowed.
    TooManyHops,
    /// A line longer than allowed.
    LineTooLong,
}

/// What stands at the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// So many bytes, one or more, belong to the content. Call again with what follows them.
    Content(usize),
    /// The dot line that ends the content; it takes [`END_LENGTH`] bytes and is no part of it.
    End,
    /// Nothing can be decided before more comes.
    Short,
}

/// Bytes of `.CRLF`.
pub const END_LENGTH: usize = 3;

const RECEIVED: &[u8; 8] = b"received";

/// Goes through the content of one message.
#[derive(Clone, Debug)]
pub struct ContentScanner {
    limits: ContentLimits,
    /// Content seen, in wire form.
    bytes: u64,
    /// Of these, dots that are stuffing.
    stuffing: u64,
    /// Bytes of the line at hand that were seen before this input; zero at its start.
    line_bytes: usize,
    /// The line at hand begins with a stuffed dot.
    line_stuffed: bool,
    in_header: bool,
    received: u32,
    eight_bit: bool,
    eight_bit_header: bool,
    defect: Option<Defect>,
}

impl ContentScanner {
    /// A scanner at the first byte after the line of DATA.
    pub fn new(limits: ContentLimits) -> ContentScanner {
        ContentScanner {
            limits,
            bytes: 0,
            stuffing: 0,
            line_bytes: 0,
            line_stuffed: false,
            in_header: true,
            received: 0,
            eight_bit: false,
            eight_bit_header: false,
            defect: None,
        }
    }

    /// Looks at the input up to the end of the content, or as far as can be decided.
    pub fn scan(&mut self, input: &[u8]) -> Scanned {
        let mut rest = input;
        let mut ended = false;
        // Bytes of the input that belong to the header.
        let mut header = 0;
        loop {
            if self.line_bytes == 0 {
                match self.line_start(rest) {
                    LineStart::Known => {}
                    LineStart::Unknown => break,
                    LineStart::End => {
                        ended = true;
                        break;
                    }
                }
            }
            let taken = self.take_from_line(rest);
            if taken == 0 {
                break;
            }
            rest = rest.split_at_checked(taken).map_or(&[][..], |(_, after)| after);
            if self.in_header {
                header = input.len() - rest.len();
            }
        }
        let length = input.len() - rest.len();
        match input.split_at_checked(length) {
            Some((content, _)) if length > 0 => {
                self.look_at_bytes(content, header);
                Scanned::Content(length)
            }
            _ if ended => Scanned::End,
            _ => Scanned::Short,
        }
    }

    /// Takes the rest of the line at hand, or what there is of it; gives the number of bytes.
    fn take_from_line(&mut self, rest: &[u8]) -> usize {
        let mut at = 0;
        while let Some(found) =
            rest.split_at_checked(at).and_then(|(_, ahead)| memchr2(b'\r', b'\n', ahead))
        {
            let end = at + found;
            match rest.split_at(end).1 {
                [b'\r', b'\n', ..] => {
                    self.end_line(end + 2);
                    return end + 2;
                }
                [b'\r'] => {
                    self.extend_line(end);
                    return end;
                }
                [b'\r', ..] => self.note(Defect::BareCr),
                _ => self.note(Defect::BareLf),
            }
            at = end + 1;
        }
        self.extend_line(rest.len());
        rest.len()
    }

    /// Decides what the line at the start of `rest` is, as far as its first bytes tell.
    fn line_start(&mut self, rest: &[u8]) -> LineStart {
        match rest {
            [] | [b'.'] | [b'.', b'\r'] => return LineStart::Unknown,
            [b'.', b'\r', b'\n', ..] => return LineStart::End,
            [b'.', ..] => {
                self.line_stuffed = true;
                self.stuffing += 1;
                return LineStart::Known;
            }
            _ => self.line_stuffed = false,
        }
        if !self.in_header {
            return LineStart::Known;
        }
        match rest {
            [b'\r', b'\n', ..] => self.in_header = false,
            [b'r' | b'R', ..] => return self.perhaps_received(rest),
            _ => {}
        }
        LineStart::Known
    }

    /// A header line that begins with an R. White space before the colon is obsolete syntax, but
    /// syntax (RFC 5322 4.5).
    fn perhaps_received(&mut self, rest: &[u8]) -> LineStart {
        let name = rest.get(..RECEIVED.len()).unwrap_or(rest);
        let same = RECEIVED.get(..name.len()).is_some_and(|part| name.eq_ignore_ascii_case(part));
        match rest.get(RECEIVED.len()) {
            None if same => return LineStart::Unknown,
            Some(b':' | b' ' | b'\t') if same => {
                self.received = self.received.saturating_add(1);
                if self.received > self.limits.received_max {
                    self.note(Defect::TooManyHops);
                }
            }
            _ => {}
        }
        LineStart::Known
    }

    fn extend_line(&mut self, length: usize) {
        self.line_bytes += length;
        if self.line_bytes - usize::from(self.line_stuffed) > self.limits.line_max {
            self.note(Defect::LineTooLong);
        }
    }

    fn end_line(&mut self, length: usize) {
        self.extend_line(length);
        self.line_bytes = 0;
    }

    /// What does not depend on lines is looked for in bulk.
    fn look_at_bytes(&mut self, content: &[u8], header: usize) {
        self.bytes += content.len() as u64;
        if self.bytes - self.stuffing > self.limits.bytes_max {
            self.note(Defect::TooLarge);
        }
        if memchr(0, content).is_some() {
            self.note(Defect::Nul);
        }
        if !content.is_ascii() {
            self.eight_bit = true;
            self.eight_bit_header |= !content.get(..header).is_none_or(<[u8]>::is_ascii);
        }
    }

    fn note(&mut self, defect: Defect) {
        self.defect = Some(self.defect.map_or(defect, |known| known.min(defect)));
    }

    /// Why the content seen so far is refused, if it is.
    pub fn defect(&self) -> Option<Defect> {
        self.defect
    }

    /// Bytes of content seen, in wire form.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Some line begins with a dot.
    pub fn dot_stuffed(&self) -> bool {
        self.stuffing > 0
    }

    /// Some byte is above 127.
    pub fn eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// Some byte of the header is above 127 (RFC 6532 3.2).
    pub fn eight_bit_header(&self) -> bool {
        self.eight_bit_header
    }
}

/// What the first bytes of a line tell.
enum LineStart {
    Known,
    /// More bytes are needed to tell.
    Unknown,
    /// The dot line.
    End,
}

#[cfg(test)]
mod tests;
