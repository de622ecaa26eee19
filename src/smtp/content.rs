//! Scans content after DATA (RFC 5321 4.1.1.4) or in chunks (RFC 3030): finds its end and its
//! defects. *Pure.*
//!
//! Bytes are scanned in place. The stored form is the same for both, the wire form of DATA: after
//! DATA the bytes are passed on unchanged, dot-stuffed; in chunks, each dot at the start of a line
//! is reported, to be stored twice. The scanner keeps a few numbers and no bytes: only when the
//! input of DATA ends in what may be the dot line, those bytes are left for the next call. So the
//! result does not depend on how the input was split.
//!
//! *Smuggling* (CVE-2023-51764, CVE-2023-51765, CVE-2023-51766). Some servers take `LF . LF`,
//! `LF . CRLF`, `CR . CRLF` and the like for the end of content. If a server before them passes
//! these on as plain text, a sender can put commands into a message: a second message that was
//! never checked. RFC 5321 2.3.8 and 4.1.1.4 allow only CRLF.CRLF, so only that ends content here.
//! Content with a CR or LF that is not half of a CRLF is refused as a whole: passed on, it could be
//! such an end for a less strict next hop; corrected, it would no longer match its signature.

use crate::message::ContentFlags;
use memchr::{memchr, memchr2};

/// Limits on content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentLimits {
    /// Bytes in total, with CRLFs and without stuffed dots (RFC 1870 3).
    pub bytes_max: u64,
    /// Bytes in a line, with its CRLF and without a stuffed dot (RFC 5321 4.5.3.1.6).
    pub line_max: usize,
    /// `Received` fields in the header (RFC 5321 6.3).
    pub received_max: u32,
}

/// Why content is refused, in order of precedence: of several defects, the first is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Defect {
    /// More bytes than allowed.
    TooLarge,
    /// An LF without CR.
    BareLf,
    /// A CR without LF.
    BareCr,
    /// A NUL byte. It is not allowed in a 7bit or 8bit body (RFC 2045 2.7, 2.8) or in a header (RFC
    /// 5322 2.2), only in a BINARYMIME body; RFC 5321 4.1.1.4 warns of such bytes. Other software
    /// would truncate the text there, and see another message than was checked.
    Nul,
    /// More `Received` fields than allowed.
    TooManyHops,
    /// A line longer than allowed.
    LineTooLong,
}

/// What was found at the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// This many bytes, one or more, belong to the content. Call again with what follows them.
    Content(usize),
    /// In a chunk, the input begins with a dot at the start of a line: store an additional dot, and
    /// call again with the same input.
    Stuffing,
    /// The dot line that ends the content; it has [`END_LENGTH`] bytes and is not part of it.
    End,
    /// More input is needed.
    Short,
}

/// Bytes of `.CRLF`.
pub const END_LENGTH: usize = 3;

const RECEIVED: &[u8; 8] = b"received";

/// How content is transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After DATA: dot-stuffed, up to a dot line.
    Dots,
    /// In chunks of known length, without dot-stuffing.
    Chunks,
    /// In chunks, and declared BINARYMIME: after its header it has bytes, not lines (RFC 3030 3).
    BinaryChunks,
}

/// Scans the content of one message.
#[derive(Clone, Debug)]
pub struct ContentScanner {
    limits: ContentLimits,
    framing: Framing,
    /// Bytes of content so far, in wire form.
    bytes: u64,
    /// Stuffed dots among them.
    stuffing: u64,
    /// Bytes of the current line before this input; zero at its start.
    line_bytes: usize,
    /// Whether the current line begins with a stuffed dot.
    line_stuffed: bool,
    /// Whether the last byte of the current line was a CR: an LF must follow.
    after_cr: bool,
    /// Letters of `Received` at the start of the current line; `None` when it is another line.
    name: Option<usize>,
    in_header: bool,
    received: u32,
    eight_bit: bool,
    eight_bit_header: bool,
    defect: Option<Defect>,
}

impl ContentScanner {
    /// A scanner at the first byte after the line of DATA, or of the first chunk.
    pub fn new(limits: ContentLimits, framing: Framing) -> ContentScanner {
        ContentScanner {
            limits,
            framing,
            bytes: 0,
            stuffing: 0,
            line_bytes: 0,
            line_stuffed: false,
            after_cr: false,
            name: None,
            in_header: true,
            received: 0,
            eight_bit: false,
            eight_bit_header: false,
            defect: None,
        }
    }

    /// Scans the input up to the end of the content, or as far as can be decided.
    pub fn scan(&mut self, input: &[u8]) -> Scanned {
        let mut rest = input;
        let mut stopped = Scanned::Short;
        // Bytes of the input that belong to the header.
        let mut header = 0;
        while !rest.is_empty() {
            if self.line_bytes == 0
                && rest.starts_with(b".")
                && let Some(stop) = self.dot_at_line_start(rest, rest.len() == input.len())
            {
                stopped = stop;
                break;
            }
            let in_header = self.in_header;
            let taken = self.take_from_line(rest);
            rest = rest.split_at_checked(taken).map_or(&[][..], |(_, after)| after);
            if in_header {
                header = input.len() - rest.len();
            }
        }
        let length = input.len() - rest.len();
        match input.split_at_checked(length) {
            Some((content, _)) if length > 0 => {
                self.look_at_bytes(content, header);
                Scanned::Content(length)
            }
            _ => stopped,
        }
    }

    /// Handles a dot at the start of a line, at the start of `rest`; returns why to stop before it,
    /// if so. `first`: there is nothing before it in the input.
    fn dot_at_line_start(&mut self, rest: &[u8], first: bool) -> Option<Scanned> {
        match (self.framing, rest) {
            (Framing::Dots, [b'.'] | [b'.', b'\r']) => return Some(Scanned::Short),
            (Framing::Dots, [b'.', b'\r', b'\n', ..]) => return Some(Scanned::End),
            (Framing::Dots, _) => {}
            // The input before it is passed on first.
            _ if !first => return Some(Scanned::Stuffing),
            _ => {
                self.bytes += 1;
                self.line_bytes = 1;
            }
        }
        self.line_stuffed = true;
        self.stuffing += 1;
        // The next hop removes the dot of DATA and reads a field name after it. In a chunk, the dot
        // is part of the name.
        self.name = (self.framing == Framing::Dots && self.in_header).then_some(0);
        (self.framing != Framing::Dots).then_some(Scanned::Stuffing)
    }

    /// Takes the rest of the current line, or what there is of it; returns the number of bytes,
    /// which is zero only without input.
    fn take_from_line(&mut self, rest: &[u8]) -> usize {
        if self.line_bytes == 0 && !rest.starts_with(b".") {
            self.line_stuffed = false;
            self.name = self.in_header.then_some(0);
        }
        if std::mem::take(&mut self.after_cr) {
            if rest.starts_with(b"\n") {
                self.end_line(1);
                return 1;
            }
            self.note_in_line(Defect::BareCr);
        }
        if let Some(letters) = self.name {
            let at_start = self.line_bytes == 0 && self.line_stuffed;
            self.follow_name(letters, rest.get(usize::from(at_start)..).unwrap_or_default());
        }
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
                [b'\r'] => self.after_cr = true,
                [b'\r', ..] => self.note_in_line(Defect::BareCr),
                _ => self.note_in_line(Defect::BareLf),
            }
            at = end + 1;
        }
        self.extend_line(rest.len());
        rest.len()
    }

    /// Compares a line of the header with `Received`; `letters` of it have matched so far. White
    /// space before the colon is obsolete, but valid syntax (RFC 5322 4.5).
    fn follow_name(&mut self, letters: usize, rest: &[u8]) {
        let wanted = RECEIVED.get(letters..).unwrap_or_default();
        let ahead = rest.get(..wanted.len()).unwrap_or(rest);
        let fits = wanted.get(..ahead.len()).is_some_and(|part| ahead.eq_ignore_ascii_case(part));
        self.name = match rest.get(wanted.len()) {
            None if fits => Some(letters + ahead.len()),
            Some(b':' | b' ' | b'\t') if fits => {
                self.received = self.received.saturating_add(1);
                if self.received > self.limits.received_max {
                    self.note(Defect::TooManyHops);
                }
                None
            }
            _ => None,
        };
    }

    fn extend_line(&mut self, length: usize) {
        self.line_bytes = self.line_bytes.saturating_add(length);
        if self.line_bytes - usize::from(self.line_stuffed) > self.limits.line_max {
            self.note_in_line(Defect::LineTooLong);
        }
    }

    fn end_line(&mut self, length: usize) {
        self.extend_line(length);
        // The line is empty.
        if self.line_bytes == 2 {
            self.in_header = false;
        }
        self.line_bytes = 0;
    }

    /// After the last chunk: whether the last line has no CRLF. The caller must then store one, and
    /// call this again. (A binary body needs none.)
    pub fn lacks_line_end(&mut self) -> bool {
        if std::mem::take(&mut self.after_cr) {
            self.note_in_line(Defect::BareCr);
        }
        let is_binary = self.framing == Framing::BinaryChunks && !self.in_header;
        if self.line_bytes == 0 || is_binary || self.defect.is_some() {
            return false;
        }
        self.end_line(2);
        self.bytes += 2;
        true
    }

    /// Scans in bulk for everything that does not depend on lines.
    fn look_at_bytes(&mut self, content: &[u8], header: usize) {
        self.bytes += content.len() as u64;
        if self.bytes - self.stuffing > self.limits.bytes_max {
            self.note(Defect::TooLarge);
        }
        let lines = match self.framing {
            Framing::BinaryChunks => content.get(..header).unwrap_or_default(),
            Framing::Dots | Framing::Chunks => content,
        };
        if memchr(0, lines).is_some() {
            self.note(Defect::Nul);
        }
        if !content.is_ascii() {
            self.eight_bit = true;
            self.eight_bit_header |= !content.get(..header).is_none_or(<[u8]>::is_ascii);
        }
    }

    /// Notes a defect of lines; a binary body has no lines.
    fn note_in_line(&mut self, defect: Defect) {
        if self.in_header || self.framing != Framing::BinaryChunks {
            self.note(defect);
        }
    }

    fn note(&mut self, defect: Defect) {
        self.defect = Some(self.defect.map_or(defect, |known| known.min(defect)));
    }

    /// Why the content seen so far is refused, if it is.
    pub fn defect(&self) -> Option<Defect> {
        self.defect
    }

    /// Bytes of content so far, in wire form.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The properties found so far.
    pub fn flags(&self) -> ContentFlags {
        ContentFlags { dot_stuffed: self.stuffing > 0, eight_bit: self.eight_bit }
    }

    /// Whether the header has a byte above 127 (RFC 6532 3.2).
    pub fn eight_bit_header(&self) -> bool {
        self.eight_bit_header
    }
}

#[cfg(test)]
mod tests;
