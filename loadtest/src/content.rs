//! The content of a message: the source generates it, and the sink checks that it is intact.
//!
//! The first two fields are the id and the digest; the digest covers every line after them, header
//! and body, without dot-stuffing (RFC 5321 4.5.2). A relay may add trace fields at the top and
//! change nothing else, so lines before the id are ignored.

use std::io::Write as _;

use crate::id::{Id, digits};

const ID_FIELD: &[u8] = b"X-Ringpost-Load: ";
const DIGEST_FIELD: &[u8] = b"X-Ringpost-Digest: ";
const SENT_FIELD: &[u8] = b"X-Ringpost-Sent: ";

/// Number of different bodies: enough that successive messages differ, few enough for the cache.
const BODIES: usize = 8;

/// A 64-bit digest over lines. Any changed, lost, added or moved byte or line end changes it, with
/// a probability of about one in 2^64 to miss it. It does not protect against deliberate forgery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    const SEED: u64 = 0xcbf2_9ce4_8422_2325;
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    fn new() -> Self {
        Self(Self::SEED)
    }

    fn mix(&mut self, word: u64) {
        // The fold keeps high bits, which a plain multiplication would drop.
        let wide = u128::from(self.0 ^ word) * u128::from(Self::FACTOR);
        self.0 = (wide as u64).rotate_left(23) ^ ((wide >> 64) as u64) ^ word.rotate_left(41);
    }

    /// Adds one line without its CRLF.
    fn line(&mut self, line: &[u8]) {
        let (words, rest) = line.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut tail = [0; 8];
        for (to, from) in tail.iter_mut().zip(rest) {
            *to = *from;
        }
        self.mix(u64::from_le_bytes(tail));
        self.mix(line.len() as u64 + 1);
    }

    /// The digest of a message from those of its header and its body: the source computes that of
    /// the body once for many messages.
    fn with_body(mut self, body: Self) -> u64 {
        self.mix(body.0);
        self.0
    }
}

/// Generates messages of one size.
#[derive(Debug)]
pub struct Maker {
    bodies: Vec<Body>,
}

#[derive(Debug)]
struct Body {
    /// In wire form: dots stuffed, each line with CRLF.
    wire: Vec<u8>,
    digest: Digest,
}

impl Maker {
    /// A generator of messages of about `size` bytes; `seed` chooses the text.
    pub fn new(size: usize, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut header = Vec::new();
        let example = Id { run: u32::MAX, number: 1_000_000 };
        write_header(&mut header, example, 1_000_000_000_000_000, Digest::new(), b"u0@sink.test");
        let room = size.saturating_sub(header.len());
        Self { bodies: (0..BODIES).map(|_| Body::new(room, &mut rng)).collect() }
    }

    /// Appends the whole message with the final dot; `sent` is in microseconds since 1970.
    pub fn write(&self, out: &mut Vec<u8>, id: Id, sent: u64, to: &[u8]) {
        let Some(body) = self.bodies.get((id.number % BODIES as u64) as usize) else { return };
        write_header(out, id, sent, body.digest, to);
        out.extend_from_slice(&body.wire);
        out.extend_from_slice(b".\r\n");
    }
}

fn write_header(out: &mut Vec<u8>, id: Id, sent: u64, body: Digest, to: &[u8]) {
    let mut rest: Vec<u8> = Vec::with_capacity(512);
    // Writing to a vector does not fail.
    let _ = write!(rest, "X-Ringpost-Sent: {sent}\r\nMessage-ID: <{id}@load.ringpost.test>\r\n");
    rest.extend_from_slice(b"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n");
    rest.extend_from_slice(b"From: The Source <a@sender.test>\r\nTo: <");
    rest.extend_from_slice(to);
    let _ = write!(rest, ">\r\nSubject: News of the week, number {}\r\n", id.number);
    rest.extend_from_slice(b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n");
    let mut digest = Digest::new();
    for line in rest.split_inclusive(|b| *b == b'\n') {
        digest.line(line.strip_suffix(b"\r\n").unwrap_or(line));
    }
    let _ = write!(out, "X-Ringpost-Load: {id}\r\n");
    let _ = write!(out, "X-Ringpost-Digest: {:016x}\r\n", digest.with_body(body));
    out.extend_from_slice(&rest);
    out.extend_from_slice(b"\r\n");
}

impl Body {
    fn new(room: usize, rng: &mut fastrand::Rng) -> Self {
        const WORDS: [&str; 24] = [
            "mail", "harbour", "letter", "morning", "copper", "winter", "the", "of", "and", "a",
            "offer", "garden", "street", "number", "again", "before", "window", "quiet", "under",
            "signal", "to", "from", "paper", "every",
        ];
        let mut body = Self { wire: Vec::with_capacity(room + 256), digest: Digest::new() };
        let mut left = room;
        let mut number = 0_usize;
        while left > 2 {
            let mut line = match number % 13 {
                // Lines that show wrong handling of dots.
                3 => String::from("."),
                5 => String::from(".. two dots, then "),
                8 => String::from(".begins with a dot and goes on "),
                11 => String::new(),
                _ => String::from(WORDS[rng.usize(..WORDS.len())]),
            };
            if !matches!(number % 13, 3 | 11) {
                let width = rng.usize(40..76);
                while line.len() < width {
                    line.push(' ');
                    line.push_str(WORDS[rng.usize(..WORDS.len())]);
                }
            }
            line.truncate(left - 2);
            left -= line.len() + 2;
            body.push(line.as_bytes());
            number += 1;
        }
        body
    }

    fn push(&mut self, line: &[u8]) {
        if line.first() == Some(&b'.') {
            self.wire.push(b'.');
        }
        self.wire.extend_from_slice(line);
        self.wire.extend_from_slice(b"\r\n");
        self.digest.line(line);
    }
}

/// The result of checking a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// `None` for mail that is not from the source, such as a bounce.
    pub id: Option<Id>,
    /// The digest was there and correct.
    pub intact: bool,
    /// When the source began to send it, in microseconds since 1970.
    pub sent: Option<u64>,
}

/// Checks a message line by line; it stores no content.
#[derive(Debug)]
pub struct Checker {
    part: Part,
    id: Option<Id>,
    claimed: Option<u64>,
    sent: Option<u64>,
    header: Digest,
    body: Digest,
    bare: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Before the id: trace fields of the relay.
    Trace,
    /// The next line must be the digest.
    Digest,
    Header,
    Body,
}

impl Checker {
    /// At the first line of a message.
    pub fn new() -> Self {
        Self {
            part: Part::Trace,
            id: None,
            claimed: None,
            sent: None,
            header: Digest::new(),
            body: Digest::new(),
            bare: false,
        }
    }

    /// Adds one line as received, with its line end, without dot-stuffing.
    pub fn line(&mut self, line: &[u8]) {
        let text = match line.strip_suffix(b"\r\n") {
            Some(text) => text,
            // RFC 5321 2.3.8: no CR or LF alone. The source sends no bare LF, so it comes from the
            // relay.
            None => {
                self.bare = true;
                line.strip_suffix(b"\n").unwrap_or(line)
            }
        };
        match self.part {
            Part::Body => self.body.line(text),
            Part::Header if text.is_empty() => self.part = Part::Body,
            Part::Header => {
                if let Some(sent) = text.strip_prefix(SENT_FIELD) {
                    self.sent = std::str::from_utf8(sent).ok().and_then(digits);
                }
                self.header.line(text);
            }
            Part::Digest => {
                self.claimed = text
                    .strip_prefix(DIGEST_FIELD)
                    .and_then(|hex| std::str::from_utf8(hex).ok())
                    .and_then(|hex| u64::from_str_radix(hex, 16).ok());
                self.part = Part::Header;
            }
            Part::Trace => {
                if let Some(id) = text.strip_prefix(ID_FIELD) {
                    self.id = Id::parse(id);
                    self.part = Part::Digest;
                } else if text.is_empty() {
                    self.part = Part::Body;
                }
            }
        }
    }

    /// After the last line.
    pub fn result(&self) -> Checked {
        let whole = self.part == Part::Body && !self.bare;
        let digest = self.header.with_body(self.body);
        Checked {
            id: self.id,
            intact: whole && self.id.is_some() && self.claimed == Some(digest),
            sent: self.sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id { run: 7, number: 3 };

    fn made(size: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        Maker::new(size, 1).write(&mut wire, ID, 1234, b"u0.00000007-3@sink.test");
        wire
    }

    fn judged(wire: &[u8]) -> Checked {
        let mut checker = Checker::new();
        for line in wire.split_inclusive(|b| *b == b'\n') {
            if line == b".\r\n" {
                break;
            }
            checker.line(line.strip_prefix(b".").unwrap_or(line));
        }
        checker.result()
    }

    #[test]
    fn generated_messages_are_intact_and_of_the_requested_size() {
        for size in [600, 2048, 100_000] {
            let wire = made(size);
            assert_eq!(judged(&wire), Checked { id: Some(ID), intact: true, sent: Some(1234) });
            let dots = wire.windows(4).filter(|w| w == b"\r\n..").count();
            let plain = wire.len() - dots - 3;
            assert!(plain.abs_diff(size) < 40, "{plain} for {size}");
        }
        let stuffed = made(2048).windows(5).filter(|w| w == b"\r\n..\r").count();
        assert!(stuffed > 0, "a line of one dot is among them");
    }

    #[test]
    fn trace_fields_on_top_do_no_harm() {
        let wire = [b"Received: by relay;\r\n\ttoday\r\n".as_slice(), &made(2048)].concat();
        assert!(judged(&wire).intact);
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let wire = made(900);
        let covered = memchr::memmem::find(&wire, SENT_FIELD).unwrap_or(0);
        for at in covered..wire.len() - 3 {
            let mut other = wire.clone();
            other[at] ^= 1;
            assert!(!judged(&other).intact, "byte {at}");
        }
    }

    #[test]
    fn lost_added_and_swapped_lines_are_seen() {
        let wire = made(2048);
        let lines: Vec<&[u8]> = wire.split_inclusive(|b| *b == b'\n').collect();
        for at in 2..lines.len() - 1 {
            let mut lost = lines.clone();
            lost.remove(at);
            assert!(!judged(&lost.concat()).intact, "without line {at}");
            let mut added = lines.clone();
            added.insert(at, b"X: y\r\n");
            assert!(!judged(&added.concat()).intact, "with a line before {at}");
        }
        let mut swapped = lines.clone();
        swapped.swap(3, 4);
        assert!(!judged(&swapped.concat()).intact);
    }

    #[test]
    fn double_stuffing_and_bare_line_feeds_are_seen() {
        let wire = made(2048);
        let at = memchr::memmem::find(&wire, b"\r\n..").unwrap_or(0) + 2;
        let mut stuffed = wire.clone();
        stuffed.insert(at, b'.');
        assert!(!judged(&stuffed).intact);
        let mut bare = wire.clone();
        bare.remove(at - 2);
        assert!(!judged(&bare).intact);
    }

    #[test]
    fn other_mail_has_no_id_even_when_it_quotes_ours() {
        let bounce = [b"Subject: undelivered\r\n\r\n".as_slice(), &made(900)].concat();
        assert_eq!(judged(&bounce).id, None);
    }
}
