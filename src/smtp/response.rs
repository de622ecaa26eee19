//! Replies of other servers (RFC 5321 4.2), read from bytes that arrive in any portions.
//!
//! Liberal where that is harmless: a line may end with a bare LF, a code may have no text, and a
//! reply may be longer than what is kept of it. Strict where guessing would be dangerous: a line
//! that is not a reply, and a code that changes within one reply, are errors, after which the rest
//! of the stream cannot be interpreted.
//!
//! After the content was sent, strictness would do harm: the server may have the message, and each
//! further attempt makes a copy. [`ResponseReader::read_after_content`] accepts everything that can
//! be interpreted. Only a refusal for good, which ends the message, must be one in all of its lines
//! (RFC 5321 4.2.1): a host that contradicts itself bounces no mail.
//!
//! | received | [`read`](ResponseReader::read) | [`read_after_content`](ResponseReader::read_after_content) |
//! | --- | --- | --- |
//! | `250-a`, `250 b` | 250 | 250 |
//! | `250-a`, `251 b` | error | 251: the last line decides |
//! | `550-a`, `554 b` | error | 554: the last line decides |
//! | `550-a`, `250 b` | error | 250: the last line decides |
//! | `250-a`, `450 b` | error | 450: the last line decides |
//! | `250-a`, `550 b`; `450-a`, `550 b` | error | error: a refusal must be plain |
//! | `250ok` | error | 250 |
//! | blank or other lines before or between | error | skipped |
//! | a line of more than [`RESPONSE_LINE_BYTES_MAX`] | error | truncated |
//! | more text than [`RESPONSE_BYTES_MAX`] | not kept | not kept |
//! | more than [`RESPONSE_READ_BYTES_MAX`] | error | error |

use crate::message::{Reason, Stage, Status};
use std::fmt;

/// Longest line of a reply without its line end, in bytes. RFC 5321 4.5.3.1.5 allows 512 with the
/// line end; real servers send longer explanations.
pub const RESPONSE_LINE_BYTES_MAX: usize = 4096;
/// Most text that is kept of one reply, in bytes: bounds the memory that a hostile server can use.
/// Further lines are read and dropped.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// Largest reply in bytes; beyond it the connection is closed.
pub const RESPONSE_READ_BYTES_MAX: usize = 1024 * 1024;

/// Memory that is kept from one reply to the next; more, after a long reply, is freed.
const KEPT_BYTES: usize = 1024;
/// How much of a line that is not a reply is shown to the operator, in bytes.
const SHOWN_BYTES: usize = 80;

const _: () = assert!(RESPONSE_LINE_BYTES_MAX < RESPONSE_BYTES_MAX);
const _: () = assert!(RESPONSE_BYTES_MAX < RESPONSE_READ_BYTES_MAX);

/// Why bytes are not a reply. The connection cannot be used after that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A line longer than [`RESPONSE_LINE_BYTES_MAX`].
    LineTooLong,
    /// More bytes than [`RESPONSE_READ_BYTES_MAX`].
    TooLong,
    /// A line that does not start with a code of 200 to 599; its printable start.
    NotAReply(String),
    /// A later line has a different code than the first.
    CodeChanged(u16, u16),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::LineTooLong => {
                write!(f, "a reply line longer than {RESPONSE_LINE_BYTES_MAX} bytes")
            }
            Malformed::TooLong => {
                write!(f, "a reply longer than {RESPONSE_READ_BYTES_MAX} bytes")
            }
            Malformed::NotAReply(start) => write!(f, "a line that is not a reply: \"{start}\""),
            Malformed::CodeChanged(first, then) => {
                write!(f, "a reply that begins with {first} and continues with {then}")
            }
        }
    }
}

/// How strictly a reply is read; see the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strictness {
    Ordinary,
    AfterContent,
}

/// Collects replies, one after another. Its memory is reused from reply to reply.
#[derive(Debug, Default)]
pub struct ResponseReader {
    /// The start of an incomplete line.
    partial: Vec<u8>,
    /// The text of the lines so far, separated by LF, which no line contains.
    text: Vec<u8>,
    code: u16,
    /// The code of a line of this reply that is no refusal for good; 0 when there was none.
    milder: u16,
    /// Number of lines of this reply, kept or not.
    lines: usize,
    /// Number of bytes of this reply.
    bytes: usize,
    complete: bool,
}

impl ResponseReader {
    /// Takes bytes up to the end of the reply: `Some(used)` when it is complete, `None` when all
    /// of `input` was taken and more is needed. The read after a complete reply begins the next.
    ///
    /// # Errors
    /// The bytes are not a reply.
    pub fn read(&mut self, input: &[u8]) -> Result<Option<usize>, Malformed> {
        self.read_as(input, Strictness::Ordinary)
    }

    /// The same for the reply to the end of data: everything that can be interpreted is accepted.
    ///
    /// # Errors
    /// The reply is too long.
    pub fn read_after_content(&mut self, input: &[u8]) -> Result<Option<usize>, Malformed> {
        self.read_as(input, Strictness::AfterContent)
    }

    fn read_as(
        &mut self,
        input: &[u8],
        strictness: Strictness,
    ) -> Result<Option<usize>, Malformed> {
        if self.complete {
            self.clear();
        }
        let mut rest = input;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = (rest.get(..end), rest.get(end + 1..));
            rest = after.unwrap_or_default();
            let line = line.unwrap_or_default();
            self.count(line.len() + 1)?;
            if self.partial.is_empty() {
                self.line(line, strictness)?;
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(kept_part(&whole, line, strictness));
                let taken = self.line(&whole, strictness);
                whole.clear();
                self.partial = whole;
                taken?;
            }
            if self.complete {
                return Ok(Some(input.len() - rest.len()));
            }
        }
        self.count(rest.len())?;
        let kept = kept_part(&self.partial, rest, strictness);
        // A CR may still belong to the line end, hence one byte more than a line may have.
        if self.partial.len() + kept.len() > RESPONSE_LINE_BYTES_MAX + 1 {
            return Err(Malformed::LineTooLong);
        }
        self.partial.extend_from_slice(kept);
        Ok(None)
    }

    /// The reply that the last read completed.
    pub fn response(&self) -> Response<'_> {
        Response { code: self.code, text: &self.text }
    }

    fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES);
        self.partial.clear();
        self.partial.shrink_to(KEPT_BYTES);
        self.milder = 0;
        self.lines = 0;
        self.bytes = 0;
        self.complete = false;
    }

    fn count(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.bytes += bytes;
        if self.bytes > RESPONSE_READ_BYTES_MAX { Err(Malformed::TooLong) } else { Ok(()) }
    }

    fn line(&mut self, line: &[u8], strictness: Strictness) -> Result<(), Malformed> {
        let mut line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > RESPONSE_LINE_BYTES_MAX {
            match strictness {
                Strictness::Ordinary => return Err(Malformed::LineTooLong),
                Strictness::AfterContent => {
                    line = line.get(..RESPONSE_LINE_BYTES_MAX).unwrap_or(line);
                }
            }
        }
        let Some((code, is_last, text)) = parts(line, strictness) else {
            return match strictness {
                Strictness::Ordinary => Err(Malformed::NotAReply(one_line(line, SHOWN_BYTES))),
                Strictness::AfterContent => Ok(()),
            };
        };
        if self.lines > 0 && self.code != code && strictness == Strictness::Ordinary {
            return Err(Malformed::CodeChanged(self.code, code));
        }
        if is_last && code >= 500 && self.milder > 0 {
            return Err(Malformed::CodeChanged(self.milder, code));
        }
        if code < 500 {
            self.milder = code;
        }
        self.code = code;
        let separator = usize::from(self.lines > 0);
        self.lines += 1;
        if self.text.len() + separator + text.len() <= RESPONSE_BYTES_MAX {
            if separator > 0 {
                self.text.push(b'\n');
            }
            self.text.extend_from_slice(text);
        }
        self.complete = is_last;
        Ok(())
    }
}

/// The part of `more` that is kept after `partial`: all of it where a line that is too long is an
/// error.
fn kept_part<'a>(partial: &[u8], more: &'a [u8], strictness: Strictness) -> &'a [u8] {
    let space = match strictness {
        Strictness::Ordinary => more.len(),
        Strictness::AfterContent => (RESPONSE_LINE_BYTES_MAX + 1).saturating_sub(partial.len()),
    };
    more.get(..space).unwrap_or(more)
}

/// The code of a line, whether it is the last one of its reply, and its text; `None` when it is not
/// a line of a reply.
fn parts(line: &[u8], strictness: Strictness) -> Option<(u16, bool, &[u8])> {
    let (code, rest) = leading_code(line)?;
    match rest.split_first() {
        // A code alone is a last line: RFC 5321 4.2 asks clients to accept it.
        None => Some((code, true, rest)),
        Some((b' ', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some((b'0'..=b'9', _)) => None,
        Some(_) if strictness == Strictness::AfterContent => Some((code, true, rest)),
        Some(_) => None,
    }
}

/// The three digits at the start of a line, 200 to 599, and what follows them.
fn leading_code(line: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = number(digits)?;
    (200..600).contains(&code).then_some((code, rest))
}

/// One to three digits.
fn number(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0')))
}

/// A complete reply.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    code: u16,
    text: &'a [u8],
}

impl<'a> Response<'a> {
    /// The reply code: 200 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The first digit of the code: 2 to 5.
    pub fn class(&self) -> u16 {
        self.code / 100
    }

    /// The text of each line as received, without code and line end.
    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.text.split(|&byte| byte == b'\n')
    }

    /// The enhanced status code (RFC 2034) at the start of the text; `None` when there is none or
    /// its class is not that of the reply code, in which case only the code is used.
    pub fn status(&self) -> Option<Status> {
        let (status, _) = self.lines().next().and_then(leading_status)?;
        (u16::from(status.0) == self.class()).then_some(status)
    }

    /// All lines on one, printable, without the enhanced status code that
    /// [`Response::status`] gives; at most [`Reason::TEXT_LENGTH_MAX`] bytes.
    pub fn text(&self) -> String {
        let status = self.status();
        let mut text = String::new();
        for line in self.lines() {
            // Servers repeat the code on every line (RFC 2034 4), or only on the first.
            let line = match leading_status(line) {
                Some((repeated, rest)) if Some(repeated) == status => rest,
                _ => line,
            };
            if !text.is_empty() && !line.is_empty() {
                text.push(' ');
            }
            append_printable(line, Reason::TEXT_LENGTH_MAX, &mut text);
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// The reply as the reason for a recipient's result at `stage`. Without an enhanced status code
    /// it gets the undefined one of the reply's class: more would be a guess.
    pub fn reason(&self, stage: Stage, remote: &str) -> Reason {
        let class = u8::try_from(self.class()).unwrap_or(4);
        Reason {
            stage,
            code: self.code,
            status: self.status().unwrap_or(Status(class, 0, 0)),
            text: self.text().into(),
            remote: remote.into(),
            hosts: None,
        }
    }
}

/// `5.1.1 text` gives the status and `text`. A `#` before it, as one well-known appliance writes
/// it, is skipped.
fn leading_status(line: &[u8]) -> Option<(Status, &[u8])> {
    let line = line.strip_prefix(b"#").unwrap_or(line);
    let end = line.iter().position(|&byte| byte == b' ' || byte == b'\t').unwrap_or(line.len());
    let (word, rest) = line.split_at_checked(end)?;
    let mut numbers = word.split(|&byte| byte == b'.').map(number);
    let (class, subject, detail) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if numbers.next().is_some() || !matches!(class, 2 | 4 | 5) {
        return None;
    }
    let status = Status(u8::try_from(class).ok()?, subject, detail);
    Some((status, rest.trim_ascii_start()))
}

/// Bytes from outside as one printable line of at most `length_max` bytes, for reasons and logs:
/// controls become spaces, what is not UTF-8 becomes `?`.
pub fn one_line(bytes: &[u8], length_max: usize) -> String {
    let mut text = String::new();
    append_printable(bytes, length_max, &mut text);
    text
}

fn append_printable(bytes: &[u8], length_max: usize, text: &mut String) {
    for chunk in bytes.utf8_chunks() {
        let invalid = (!chunk.invalid().is_empty()).then_some('?');
        for character in chunk.valid().chars().chain(invalid) {
            let shown = if is_printable(character) { character } else { ' ' };
            if text.len() + shown.len_utf8() > length_max {
                return;
            }
            text.push(shown);
        }
    }
    text.truncate(length_max);
}

/// Whether a character is neither a control nor one that hides or reorders others on a terminal.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        && !matches!(character, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(input: &[u8]) -> Result<(u16, Option<Status>, String), Malformed> {
        let mut reader = ResponseReader::default();
        let used = reader.read(input)?;
        assert_eq!(used, Some(input.len()), "all is used");
        let response = reader.response();
        Ok((response.code(), response.status(), response.text()))
    }

    #[test]
    fn a_reply_is_code_status_and_text() {
        let reply = |code, status, text: &str| Ok((code, status, text.to_owned()));
        assert_eq!(read(b"250 OK\r\n"), reply(250, None, "OK"));
        assert_eq!(read(b"250\r\n"), reply(250, None, ""));
        assert_eq!(read(b"250 \r\n"), reply(250, None, ""));
        assert_eq!(read(b"250 bare line feed\n"), reply(250, None, "bare line feed"));
        let gone = Some(Status(5, 1, 1));
        assert_eq!(read(b"550 5.1.1 No such user\r\n"), reply(550, gone, "No such user"));
        assert_eq!(read(b"550 #5.1.1 No\r\n"), reply(550, gone, "No"));
        assert_eq!(read(b"550 5.1.1\r\n"), reply(550, gone, ""));
    }

    #[test]
    fn a_reply_of_several_lines_is_joined_and_its_repeated_status_left_out() {
        let (code, status, text) =
            read(b"550-5.7.26 This mail\r\n550-5.7.26\r\n550 5.7.26 is not wanted\r\n").unwrap();
        assert_eq!((code, status), (550, Some(Status(5, 7, 26))));
        assert_eq!(text, "This mail is not wanted");
        assert_eq!(read(b"220-\r\n220-a\r\n220\r\n").unwrap().2, "a");
    }

    #[test]
    fn a_status_must_be_valid_and_of_the_class_of_the_code() {
        for text in ["4.1.1 busy", "5.1 x", "5.1.1.1 x", "5.1.1234 x", "5.1.1: x", "5..1 x"] {
            let (_, status, kept) = read(format!("550 {text}\r\n").as_bytes()).unwrap();
            assert_eq!((status, kept.as_str()), (None, text));
        }
        let mut reader = ResponseReader::default();
        reader.read(b"450 5.1.1 confused\r\n").unwrap();
        let reason = reader.response().reason(Stage::Recipient, "mx");
        assert_eq!(reason.status, Status(4, 0, 0));
        assert_eq!(&*reason.text, "5.1.1 confused");
    }

    #[test]
    fn a_line_that_is_not_a_reply_is_refused() {
        for line in ["", "25", "abc", "2x0 a", "250_a", "2500 a", "199 a", "600 a", " 250 a"] {
            let input = format!("{line}\r\n");
            let refused = read(input.as_bytes());
            assert!(matches!(refused, Err(Malformed::NotAReply(_))), "{line:?}: {refused:?}");
        }
        let html = read(b"HTTP/1.1 400 Bad\x1b[0m Request\r\n").unwrap_err().to_string();
        assert_eq!(html, "a line that is not a reply: \"HTTP/1.1 400 Bad [0m Request\"");
        assert_eq!(read(b"250-a\r\n251 b\r\n"), Err(Malformed::CodeChanged(250, 251)));
    }

    #[test]
    fn every_bound_is_exact() {
        let line = |length: usize| [b"250 ", &vec![b'x'; length - 4][..], b"\r\n"].concat();
        assert!(read(&line(RESPONSE_LINE_BYTES_MAX)).is_ok());
        assert_eq!(read(&line(RESPONSE_LINE_BYTES_MAX + 1)), Err(Malformed::LineTooLong));
        let mut reader = ResponseReader::default();
        let endless = vec![b'2'; RESPONSE_LINE_BYTES_MAX + 2];
        assert_eq!(reader.read(&endless), Err(Malformed::LineTooLong));
        let long = [b"250-".to_vec(), vec![b'x'; 4000], b"\r\n".to_vec()].concat();
        let mut reader = ResponseReader::default();
        assert_eq!(reader.read(&long.repeat(20)), Ok(None), "beyond what is kept");
        assert_eq!(reader.read(b"250 end\r\n"), Ok(Some(9)));
        assert!(reader.response().lines().count() == 17, "{}", reader.response().lines().count());
        assert_eq!(ResponseReader::default().read(&long.repeat(262)), Err(Malformed::TooLong));
    }

    #[test]
    fn a_reply_may_have_any_number_of_lines() {
        let input = [b"250-x\r\n".repeat(3000), b"250 x\r\n".to_vec()].concat();
        let mut reader = ResponseReader::default();
        assert_eq!(reader.read(&input), Ok(Some(input.len())));
        assert_eq!(reader.response().lines().count(), 3001);
    }

    #[test]
    fn after_the_content_everything_that_can_be_interpreted_is_accepted() {
        let long = format!("250 {}\r\n", "x".repeat(5000));
        for (input, code) in [
            ("250 ok\r\n", 250),
            ("250-a\r\n251 b\r\n", 251),
            ("550-a\r\n554 b\r\n", 554),
            ("550-a\r\n250 b\r\n", 250),
            ("250-a\r\n550-b\r\n250 c\r\n", 250),
            ("250-a\r\n450 b\r\n", 450),
            ("550-a\r\n450 b\r\n", 450),
            ("250-a\r\n250ok\r\n", 250),
            ("250ok\r\n", 250),
            ("250\r\n", 250),
            (&*long, 250),
            ("\r\n250 ok\r\n", 250),
            ("\r\n\n  \r\nOK\r\n250 ok\r\n", 250),
            ("250-a\r\nwarning: slow disk\r\n250 ok\r\n", 250),
            ("2500 a\r\n450 b\r\n", 450),
            ("150 a\r\n999 b\r\n 250 c\r\n250\tok\r\n", 250),
        ] {
            for cut in 0..input.len() {
                let (head, tail) = input.as_bytes().split_at(cut);
                let mut reader = ResponseReader::default();
                assert_eq!(reader.read_after_content(head), Ok(None), "{input:?} at {cut}");
                assert_eq!(reader.read_after_content(tail), Ok(Some(tail.len())), "{input:?}");
                assert_eq!(reader.response().code(), code, "{input:?}");
            }
        }
        let foreign = b"foreign\r\n".repeat(RESPONSE_READ_BYTES_MAX / 9 + 1);
        let endless = vec![b'2'; RESPONSE_READ_BYTES_MAX + 1];
        for input in [foreign, endless] {
            let mut reader = ResponseReader::default();
            assert_eq!(reader.read_after_content(&input), Err(Malformed::TooLong));
            assert!(reader.partial.capacity() <= 2 * RESPONSE_LINE_BYTES_MAX, "bounded memory");
        }
    }

    #[test]
    fn a_refusal_after_the_content_must_be_one_in_all_of_its_lines() {
        for (input, first, last) in [
            ("250-no\r\n554 yes\r\n", 250, 554),
            ("450-a\r\n550 b\r\n", 450, 550),
            ("354-a\r\n550 b\r\n", 354, 550),
            ("550-a\r\n250-b\r\n550 c\r\n", 250, 550),
            ("250-a\r\nforeign\r\n550ok\r\n", 250, 550),
        ] {
            let refused = ResponseReader::default().read_after_content(input.as_bytes());
            assert_eq!(refused, Err(Malformed::CodeChanged(first, last)), "{input:?}");
        }
        // Of the reply before nothing is left.
        let mut reader = ResponseReader::default();
        assert_eq!(reader.read_after_content(b"250 a\r\n"), Ok(Some(7)));
        assert_eq!(reader.read_after_content(b"550 a\r\n"), Ok(Some(7)));
    }

    #[test]
    fn text_is_printable_and_truncated_between_characters() {
        assert_eq!(read(b"250 a\x00b\x1b[31mc\rd\xff\xfee\r\n").unwrap().2, "a b [31mc d??e");
        assert_eq!(read("250 gr\u{fc}n \u{202e}x\r\n".as_bytes()).unwrap().2, "gr\u{fc}n  x");
        let long = format!("550 x{}\r\n", "\u{fc}".repeat(400));
        let text = read(long.as_bytes()).unwrap().2;
        assert_eq!(text.len(), Reason::TEXT_LENGTH_MAX - 1, "half of the last character fits");
    }

    #[test]
    fn portions_make_no_difference_and_the_next_reply_is_left() {
        let input = b"250-5.1.1 a\r\n250-b\n250 c\r\n421 bye\r\n";
        let end = input.len() - b"421 bye\r\n".len();
        for first in 0..end {
            let mut reader = ResponseReader::default();
            let (head, tail) = input.split_at(first);
            assert_eq!(reader.read(head), Ok(None));
            assert_eq!(reader.read(tail), Ok(Some(end - first)));
            assert_eq!(reader.response().text(), "5.1.1 a b c");
            assert_eq!(reader.read(&input[end..]), Ok(Some(9)));
            assert_eq!(reader.response().code(), 421);
        }
    }
}
