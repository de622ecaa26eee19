//! 8-bit MIME content made 7-bit, for hosts without 8BITMIME (RFC 6152 3). *Pure.*
//!
//! Stored content goes in, in pieces and in wire form, twice: first it is surveyed, then it is
//! written. Parts with bytes above 127 come out encoded, text as quoted-printable and the rest as
//! base64, and their headers say so; everything else comes out as it was. It must not know when
//! content is to be converted.
//!
//! What cannot be converted is refused as a whole, before the first byte is sent: 8-bit bytes in a
//! header (only SMTPUTF8 allows them), outside of any part, in a part that is signed or encrypted
//! (RFC 1847 2.1: its bytes must not change), in a message/* that must not be encoded
//! (RFC 2046 5.2), or in one that is declared to be encoded already.
//!
//! A report is never refused for that: of a message given back in it that cannot be encoded, only
//! the header goes out, quoted (RFC 6522 4; `message/global-headers` of RFC 6533 6 for one of
//! SMTPUTF8). [`Conversion::survey_report`] has this form.
//!
//! Text of no declared kind becomes `text/plain; charset=unknown-8bit` (RFC 1428 3).

mod fields;
#[cfg(test)]
mod tests;

use crate::smtp::quote_line;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fields::{MimeHead, without_encoding};

/// Lines longer than this are refused, in bytes.
const LINE_MAX: usize = 1024 * 1024;
/// So are longer headers of one part, in bytes,
const HEADER_MAX: usize = 1024 * 1024;
/// more parts,
const PARTS_MAX: usize = 10_000;
/// and more of them inside one another.
const DEPTH_MAX: usize = 64;
/// Bytes that make a line of 76 in base64 (RFC 2045 6.8).
const BASE64_GROUP: usize = 57;

/// Why content cannot be made 7-bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unconvertible(pub &'static str);

/// Goes through content once.
#[derive(Clone, Debug)]
pub struct Conversion {
    dot_stuffed: bool,
    returned: Returned,
    /// Of each part in order: it has bytes above 127. Found by the survey.
    eight_bit: Vec<bool>,
    /// The survey is over: content is written.
    writing: bool,
    /// Headers seen so far: the next part's place in `eight_bit`.
    parts: usize,
    /// The boundaries of the multiparts around this place, the innermost last.
    boundaries: Vec<Vec<u8>>,
    place: Place,
    /// The header at hand, with its line ends.
    header: Vec<u8>,
    /// The header at hand is that of a message, not of a part.
    of_message: bool,
    /// The line at hand, as far as it has come.
    line: Vec<u8>,
}

/// What becomes of a message that a report gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Returned {
    Whole,
    HeaderAlone,
}

/// Where in the content we are.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    Header,
    /// In the header of a message given back, which is quoted.
    ReturnedHeader,
    /// In its body, which is left out.
    ReturnedBody,
    /// In the body of a part, which is this.
    Body(Leaf),
    /// Around the parts of a multipart.
    Between,
}

#[derive(Clone, Debug, PartialEq)]
enum Leaf {
    /// It must stay as it is, for this reason.
    Fixed(&'static str),
    /// It may be encoded, and need not be as far as is known.
    Plain,
    Quoted,
    /// What has not made a line yet, and whether a line end is due before the next line.
    Base64(Vec<u8>, bool),
}

impl Conversion {
    /// Before the survey. `dot_stuffed` as the content is stored.
    pub fn survey(dot_stuffed: bool) -> Conversion {
        Conversion {
            dot_stuffed,
            returned: Returned::Whole,
            eight_bit: Vec::new(),
            writing: false,
            parts: 0,
            boundaries: Vec::new(),
            place: Place::Header,
            header: Vec::new(),
            of_message: true,
            line: Vec::new(),
        }
    }

    /// The same of a report, of which a message given back may be cut to its header.
    pub fn survey_report(dot_stuffed: bool) -> Conversion {
        Conversion { returned: Returned::HeaderAlone, ..Conversion::survey(dot_stuffed) }
    }

    /// After the survey: before the content comes a second time, to be written.
    pub fn written(&self) -> Conversion {
        let fresh = Conversion::survey(self.dot_stuffed);
        let (eight_bit, returned) = (self.eight_bit.clone(), self.returned);
        Conversion { eight_bit, returned, writing: true, ..fresh }
    }

    /// Takes the next piece of content. Appends to `out` what becomes of it, dot-stuffed as the
    /// content is; nothing in a survey.
    ///
    /// # Errors
    /// It cannot be made 7-bit.
    pub fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Unconvertible> {
        let mut rest = piece;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (part, after) = rest.split_at(end + 1);
            rest = after;
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(part);
            bounded(&line)?;
            self.whole_line(&line, out)?;
            line.clear();
            self.line = line;
        }
        self.line.extend_from_slice(rest);
        bounded(&self.line)
    }

    /// The content is over.
    ///
    /// # Errors
    /// As [`Conversion::piece`].
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Unconvertible> {
        if !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            self.whole_line(&line, out)?;
        }
        if self.place == Place::Header {
            self.end_of_header(out)?;
        }
        self.end_of_part(true, out);
        Ok(())
    }

    /// A line with its end, if it has one.
    fn whole_line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Unconvertible> {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        let bare = bare.strip_suffix(b"\r").unwrap_or(bare);
        if let Some((depth, closing)) = self.boundary(bare) {
            if self.place == Place::Header {
                self.end_of_header(out)?;
            }
            self.end_of_part(false, out);
            self.boundaries.truncate(if closing { depth } else { depth + 1 });
            self.place = if closing { Place::Between } else { Place::Header };
            self.of_message = false;
            self.copy(line, out);
            return Ok(());
        }
        match &mut self.place {
            Place::Header if bare.is_empty() => {
                self.end_of_header(out)?;
                self.copy(line, out);
                Ok(())
            }
            Place::Header => {
                if !bare.is_ascii() {
                    return Err(Unconvertible("a header field has 8-bit bytes"));
                }
                self.header.extend_from_slice(line);
                if self.header.len() > HEADER_MAX {
                    return Err(Unconvertible("a header is too long"));
                }
                Ok(())
            }
            Place::ReturnedHeader if bare.is_empty() => {
                self.place = Place::ReturnedBody;
                Ok(())
            }
            Place::ReturnedHeader => {
                if self.writing {
                    quote_line(unstuffed(bare, self.dot_stuffed), out);
                }
                Ok(())
            }
            Place::ReturnedBody => Ok(()),
            Place::Between if !bare.is_ascii() => {
                Err(Unconvertible("there are 8-bit bytes outside of its parts"))
            }
            Place::Between => {
                self.copy(line, out);
                Ok(())
            }
            Place::Body(leaf) => {
                if !self.writing && !bare.is_ascii() {
                    if let Leaf::Fixed(why) = leaf {
                        return Err(Unconvertible(why));
                    }
                    if let Some(seen) = self.eight_bit.last_mut() {
                        *seen = true;
                    }
                }
                self.body_line(line, bare, out);
                Ok(())
            }
        }
    }

    fn body_line(&mut self, line: &[u8], bare: &[u8], out: &mut Vec<u8>) {
        let plain = unstuffed(bare, self.dot_stuffed);
        match &mut self.place {
            Place::Body(Leaf::Quoted) => quote_line(plain, out),
            Place::Body(Leaf::Base64(pending, line_end)) => {
                if std::mem::replace(line_end, true) {
                    pending.extend_from_slice(b"\r\n");
                }
                pending.extend_from_slice(plain);
                let whole = pending.len() / BASE64_GROUP * BASE64_GROUP;
                for group in pending.drain(..whole).as_slice().chunks(BASE64_GROUP) {
                    base64_line(group, out);
                }
            }
            _ => self.copy(line, out),
        }
    }

    /// The depth of the multipart that `line` is a boundary of, and whether it closes that.
    fn boundary(&self, line: &[u8]) -> Option<(usize, bool)> {
        let text = line.strip_prefix(b"--")?.trim_ascii_end();
        let mut around = self.boundaries.iter().enumerate().rev();
        around.find_map(|(depth, boundary)| match text.strip_prefix(boundary.as_slice())? {
            b"" => Some((depth, false)),
            b"--" => Some((depth, true)),
            _ => None,
        })
    }

    /// The header at hand is complete: finds out what its part is, and writes it.
    fn end_of_header(&mut self, out: &mut Vec<u8>) -> Result<(), Unconvertible> {
        let header = std::mem::take(&mut self.header);
        let head = MimeHead::of(&header);
        let number = self.parts;
        self.parts += 1;
        if self.parts > PARTS_MAX || self.boundaries.len() >= DEPTH_MAX {
            return Err(Unconvertible("it has too many parts"));
        }
        if !self.writing {
            self.eight_bit.push(false);
        }
        let of_message = std::mem::replace(&mut self.of_message, false);
        self.place = place_under(&head);
        let is_returned = matches!(head.kind.as_str(), "message/rfc822" | "message/global");
        if is_returned && self.returned == Returned::HeaderAlone && self.boundaries.len() == 1 {
            self.place = Place::ReturnedHeader;
            if self.writing {
                let kind = match head.kind.as_str() {
                    "message/global" => "message/global-headers",
                    _ => "text/rfc822-headers",
                };
                let encoding = "Content-Transfer-Encoding: quoted-printable\r\n";
                out.extend_from_slice(format!("Content-Type: {kind}\r\n{encoding}").as_bytes());
            }
            return Ok(());
        }
        if head.kind == "message/rfc822" || head.kind == "message/news" {
            (self.place, self.of_message) = (Place::Header, true);
        } else if self.place == Place::Between {
            self.boundaries.extend(head.boundary.clone());
        }
        if !self.writing {
            return Ok(());
        }
        let is_eight_bit = self.eight_bit.get(number).copied().unwrap_or(false);
        let mut encoding = None;
        if is_eight_bit && matches!(self.place, Place::Body(_)) {
            let is_text = head.kind.is_empty() || head.kind.starts_with("text/");
            (self.place, encoding) = match is_text {
                true => (Place::Body(Leaf::Quoted), Some("quoted-printable")),
                false => (Place::Body(Leaf::Base64(Vec::new(), false)), Some("base64")),
            };
        } else if matches!(head.encoding.as_str(), "8bit" | "binary") {
            encoding = Some("7bit");
        }
        let Some(encoding) = encoding else {
            out.extend_from_slice(&header);
            return Ok(());
        };
        out.extend_from_slice(&without_encoding(&header));
        if of_message && !head.versioned {
            out.extend_from_slice(b"MIME-Version: 1.0\r\n");
            if head.kind.is_empty() {
                out.extend_from_slice(b"Content-Type: text/plain; charset=unknown-8bit\r\n");
            }
        }
        out.extend_from_slice(b"Content-Transfer-Encoding: ");
        out.extend_from_slice(encoding.as_bytes());
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// The part at hand is over; `last`: and so is the content, with the line end before.
    fn end_of_part(&mut self, last: bool, out: &mut Vec<u8>) {
        if let Place::Body(Leaf::Base64(pending, line_end)) = &mut self.place {
            if last && *line_end {
                pending.extend_from_slice(b"\r\n");
            }
            for group in pending.chunks(BASE64_GROUP) {
                base64_line(group, out);
            }
            pending.clear();
        }
    }

    fn copy(&self, line: &[u8], out: &mut Vec<u8>) {
        if self.writing {
            out.extend_from_slice(line);
        }
    }
}

/// A line without the dot that transparency added.
fn unstuffed(line: &[u8], dot_stuffed: bool) -> &[u8] {
    match line.strip_prefix(b".") {
        Some(rest) if dot_stuffed => rest,
        _ => line,
    }
}

fn bounded(line: &[u8]) -> Result<(), Unconvertible> {
    if line.len() > LINE_MAX { Err(Unconvertible("a line is too long")) } else { Ok(()) }
}

/// What comes behind a header that says this.
fn place_under(head: &MimeHead) -> Place {
    let fixed = |why| Place::Body(Leaf::Fixed(why));
    match head.kind.as_str() {
        "multipart/signed" => fixed("a signed part has 8-bit bytes"),
        "multipart/encrypted" => fixed("an encrypted part has 8-bit bytes"),
        kind if kind.starts_with("multipart/") => match head.boundary {
            Some(_) => Place::Between,
            None => fixed("a multipart without a boundary has 8-bit bytes"),
        },
        // RFC 6532 3.7: this one may be encoded.
        "message/global" | "message/global-headers" | "message/global-delivery-status" => {
            Place::Body(Leaf::Plain)
        }
        kind if kind.starts_with("message/") => {
            fixed("a part that must not be encoded has 8-bit bytes")
        }
        _ => match head.encoding.as_str() {
            "" | "7bit" | "8bit" | "binary" => Place::Body(Leaf::Plain),
            _ => fixed("a part that is encoded already has 8-bit bytes"),
        },
    }
}

fn base64_line(group: &[u8], out: &mut Vec<u8>) {
    let mut line = [0; BASE64_GROUP / 3 * 4 + 4];
    let length = STANDARD.encode_slice(group, &mut line).unwrap_or(0);
    out.extend_from_slice(line.get(..length).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}
