//! The fields on top of an exported message, written and read. *Pure*; `eml` shows how they look.
//! Reading takes any bytes, and accepts only paths that a session would accept.

use crate::message::{
    Address, OptionSpec, Options, QueueId, Reason, Recipient, RecipientStatus, ReversePath, Shown,
    Stage, Status, Timestamp,
};
use crate::smtp;
use std::collections::BTreeMap;

/// How every exported message begins.
pub(super) const FIRST: &str = "X-Ringpost-Id:";
/// How the last field begins.
pub(super) const LAST: &str = "X-Ringpost-Content:";
const FROM: &str = "X-Ringpost-From:";
const RECEIVED_AT: &str = "X-Ringpost-Received-At:";
const OPTIONS: &str = "X-Ringpost-Options:";
const TO: &str = "X-Ringpost-To:";

/// Longest line, unless one word is longer (RFC 5322 2.1.1).
const COLUMNS: usize = 78;

/// All that the fields say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Head {
    pub(super) id: QueueId,
    pub(super) received_at: Timestamp,
    pub(super) reverse_path: ReversePath,
    pub(super) options: Options,
    pub(super) recipients: Vec<Waiting>,
    /// Bytes that follow and are the header fields that the relay put on top.
    pub(super) prepended_headers: u64,
    /// Bytes that follow these.
    pub(super) content: u64,
}

/// A recipient that waits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Waiting {
    pub(super) recipient: Recipient,
    /// `None`: never tried.
    pub(super) status: Option<RecipientStatus>,
    /// A delivery had begun, and how it ended is not known.
    pub(super) in_doubt: bool,
}

impl Head {
    /// The fields with their line ends.
    pub(super) fn write(&self) -> String {
        let mut out = String::new();
        let from = self.reverse_path.as_ref().map_or("", Address::as_str);
        field(&mut out, FIRST, &[self.id.to_string()]);
        field(&mut out, FROM, &[format!("<{from}>")]);
        field(&mut out, RECEIVED_AT, &[self.received_at.exact_text()]);
        let options = option_words(&self.options, Options::OPTIONS);
        if !options.is_empty() {
            field(&mut out, OPTIONS, &options);
        }
        for waiting in &self.recipients {
            field(&mut out, TO, &waiting.words());
        }
        // Not folded, whatever follows: a line of the content may begin with a space.
        out.push_str(&format!(
            "{LAST} trace={} content={}\r\n",
            self.prepended_headers, self.content
        ));
        out
    }

    /// Reads the fields, from the first to the last. An error says what is wrong with which.
    pub(super) fn read(text: &[u8]) -> Result<Head, String> {
        let text = std::str::from_utf8(text).map_err(|_| "a field is not UTF-8".to_owned())?;
        let text = text
            .strip_suffix("\r\n")
            .ok_or_else(|| "a field does not end with CRLF: line ends were changed".to_owned())?;
        let unfolded = text.replace("\r\n ", " ");
        let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
        let mut recipients = Vec::new();
        for line in unfolded.split("\r\n") {
            let known = [FIRST, FROM, RECEIVED_AT, OPTIONS, TO, LAST];
            let Some(name) = known.into_iter().find(|name| line.starts_with(name)) else {
                return Err(format!(
                    "not a field of an exported message: {}",
                    line.escape_default()
                ));
            };
            let value = line.get(name.len()..).unwrap_or_default().trim();
            if name == TO {
                let waiting = Waiting::read(value);
                recipients.push(waiting.map_err(|fault| format!("{TO} {fault}"))?);
            } else if fields.insert(name, value).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        let required = |name| fields.get(name).copied().ok_or_else(|| format!("{name} is missing"));
        fn read<T>(name: &str, value: &str, how: fn(&str) -> Option<T>) -> Result<T, String> {
            how(value).ok_or_else(|| wrong(name, value))
        }
        let id = read(FIRST, required(FIRST)?, QueueId::parse)?;
        let reverse_path = read(FROM, required(FROM)?, read_reverse_path)?;
        let received_at = read(RECEIVED_AT, required(RECEIVED_AT)?, Timestamp::parse)?;
        let options = fields.get(OPTIONS).map(|value| read_options(value));
        let options = options.transpose().map_err(|fault| format!("{OPTIONS} {fault}"))?;
        let options = options.unwrap_or_default();
        let (prepended_headers, content) = read(LAST, required(LAST)?, read_lengths)?;
        if recipients.is_empty() {
            return Err(format!("{TO} is missing"));
        }
        Ok(Head { id, received_at, reverse_path, options, recipients, prepended_headers, content })
    }
}

impl Waiting {
    fn words(&self) -> Vec<String> {
        let mut words = vec![format!("<{}>", self.recipient.address)];
        words.extend(option_words(&self.recipient, Recipient::OPTIONS));
        if self.in_doubt {
            words.push("in-doubt".to_owned());
        }
        if let Some(RecipientStatus::Waiting { attempts, due, reason }) = &self.status {
            words.push(format!("attempts={attempts}"));
            words.push(format!("due={}", due.exact_text()));
            words.push(format!("stage={}", reason.stage.name()));
            words.push(format!("code={}", reason.code));
            words.push(format!("status={}", reason.status));
            words.push(format!("text={}", xtext(&reason.text)));
            words.push(format!("remote={}", xtext(&reason.remote)));
        }
        words
    }

    fn read(value: &str) -> Result<Waiting, String> {
        let unreadable = || cannot_be_read(value);
        let (path, rest) = smtp::read_path(value).map_err(|_| unreadable())?;
        let mut words = Words::read(rest).ok_or_else(unreadable)?;
        let mut recipient = Recipient::plain(path.to_address().ok_or_else(unreadable)?);
        take_options(&mut words, &mut recipient, Recipient::OPTIONS)?;
        let in_doubt = words.take("in-doubt").is_some();
        let status = match words.take("attempts") {
            Some(attempts) => {
                Some(read_status_so_far(&attempts, &mut words).ok_or_else(unreadable)?)
            }
            None => None,
        };
        if words.all_known() {
            Ok(Waiting { recipient, status, in_doubt })
        } else {
            Err(unreadable())
        }
    }
}

fn read_status_so_far(attempts: &str, words: &mut Words) -> Option<RecipientStatus> {
    Some(RecipientStatus::Waiting {
        attempts: attempts.parse().ok()?,
        due: Timestamp::parse(&words.take("due")?)?,
        reason: Reason {
            stage: read_stage(&words.take("stage")?)?,
            code: words.take("code")?.parse().ok()?,
            status: read_status(&words.take("status")?)?,
            text: one_line(words.take("text")?)?,
            remote: one_line(words.take("remote")?)?,
            hosts: None,
        },
    })
}

/// Reads a path as it is given with MAIL: `<a@b>`, or `<>`.
pub fn read_reverse_path(value: &str) -> Option<ReversePath> {
    match smtp::read_path(value) {
        Ok((path, "")) => Some(path.to_address()),
        _ => None,
    }
}

fn wrong(name: &str, value: &str) -> String {
    format!("{name} {}", cannot_be_read(value))
}

fn cannot_be_read(value: &str) -> String {
    format!("cannot be understood: {}", value.escape_default())
}

/// A field of words; a word that does not fit begins a new line.
fn field(out: &mut String, name: &str, words: &[String]) {
    out.push_str(name);
    let mut column = name.len();
    for (position, word) in words.iter().enumerate() {
        if position > 0 && column + 1 + word.len() > COLUMNS {
            out.push_str("\r\n");
            column = 0;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.len();
    }
    out.push_str("\r\n");
}

/// What is given of `of`, in words.
fn option_words<T>(of: &T, table: &[OptionSpec<T>]) -> Vec<String> {
    let word = |row: &OptionSpec<T>| {
        Some(match row.shown(of)? {
            Shown::Flag => row.name.to_owned(),
            Shown::Number(number) => format!("{}={number}", row.name),
            Shown::Text(text) => format!("{}={}", row.name, xtext(&text)),
        })
    };
    table.iter().filter_map(word).collect()
}

/// Takes the words that are in the table; an error says what a value should be.
fn take_options<T>(words: &mut Words, of: &mut T, table: &[OptionSpec<T>]) -> Result<(), String> {
    for row in table {
        if let Some(text) = words.take(row.name) {
            let wrong =
                || format!("{}={} is not {}", row.name, text.escape_default(), row.expected);
            row.set(of, &text).ok_or_else(wrong)?;
        }
    }
    Ok(())
}

fn read_options(value: &str) -> Result<Options, String> {
    let mut words = Words::read(value).ok_or_else(|| cannot_be_read(value))?;
    let mut options = Options::default();
    take_options(&mut words, &mut options, Options::OPTIONS)?;
    if words.all_known() { Ok(options) } else { Err(cannot_be_read(value)) }
}

fn read_lengths(value: &str) -> Option<(u64, u64)> {
    let mut words = Words::read(value)?;
    let lengths = (words.take("trace")?.parse().ok()?, words.take("content")?.parse().ok()?);
    words.all_known().then_some(lengths)
}

/// Words `name=value` or `name`, each once, values decoded.
struct Words(BTreeMap<String, String>);

impl Words {
    fn read(text: &str) -> Option<Words> {
        let mut words = BTreeMap::new();
        for word in text.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            if words.insert(name.to_owned(), from_xtext(value)?).is_some() {
                return None;
            }
        }
        Some(Words(words))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Whether no word is left. One that is not known may matter, so it is an error.
    fn all_known(&self) -> bool {
        self.0.is_empty()
    }
}

/// RFC 3461 4.
fn xtext(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' => out.push_str(&format!("+{byte:02X}")),
            b'!'..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("+{byte:02X}")),
        }
    }
    out
}

fn from_xtext(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'+' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()?);
        rest = rest.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

/// What is shown in listings and written into reports must stay one line.
fn one_line(text: String) -> Option<Box<str>> {
    (!text.chars().any(char::is_control)).then(|| text.into())
}

fn read_stage(name: &str) -> Option<Stage> {
    (0..).map_while(Stage::from_number).find(|stage| stage.name() == name)
}

fn read_status(text: &str) -> Option<Status> {
    let mut parts = text.split('.');
    let class = parts.next()?.parse().ok()?;
    let status = Status(class, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(status)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::{Body, DsnNotify};

    fn plain(address: &str) -> Waiting {
        let recipient = Recipient::plain(Address::new(address));
        Waiting { recipient, status: None, in_doubt: false }
    }

    fn head() -> Head {
        Head {
            id: QueueId(u64::MAX),
            received_at: Timestamp(1_700_000_000_123),
            reverse_path: None,
            options: Options::default(),
            recipients: vec![plain("b@sink.test")],
            prepended_headers: 0,
            content: 0,
        }
    }

    /// With everything, at its extreme.
    fn full() -> Head {
        let reason = Reason {
            stage: Stage::EndOfData,
            code: 451,
            status: Status(4, 999, 999),
            text: "mailbox + \u{fc}ber = full\\, later ".repeat(20).into(),
            remote: "mx.example.org [192.0.2.1]:25".into(),
            hosts: None,
        };
        let mut recipients = vec![plain("Postmaster"), plain("\"odd> name\"@x.test")];
        for notify in
            [DsnNotify::default(), DsnNotify { success: true, failure: true, delay: true }]
        {
            let mut waiting = plain("a+tag=x@sink.test");
            waiting.recipient.notify = Some(notify);
            waiting.recipient.original = Some("rfc822;a+2Bb@c.test".into());
            let (attempts, due) = (u16::MAX, Timestamp::NEVER);
            waiting.status =
                Some(RecipientStatus::Waiting { attempts, due, reason: reason.clone() });
            waiting.in_doubt = notify.success;
            recipients.push(waiting);
        }
        Head {
            reverse_path: Some(Address::new("bounce=b+c@sender.test")),
            options: Options::every(),
            recipients,
            prepended_headers: 181,
            content: u64::MAX,
            ..head()
        }
    }

    #[test]
    fn a_head_reads_back_as_it_was_written() {
        for head in [head(), full()] {
            let text = head.write();
            assert!(text.starts_with(FIRST) && text.is_ascii(), "{text}");
            assert_eq!(Head::read(text.as_bytes()), Ok(head));
        }
    }

    #[test]
    fn a_head_looks_as_the_documentation_says() {
        let mut head = head();
        head.reverse_path = Some(Address::new("a@sender.test"));
        head.options.body = Body::EightBitMime;
        head.prepended_headers = 9;
        assert_eq!(
            head.write(),
            "X-Ringpost-Id: FZZZZZZZZZZZZ\r\nX-Ringpost-From: <a@sender.test>\r\n\
             X-Ringpost-Received-At: 2023-11-14T22:13:20.123Z\r\n\
             X-Ringpost-Options: body=8BITMIME\r\nX-Ringpost-To: <b@sink.test>\r\n\
             X-Ringpost-Content: trace=9 content=0\r\n"
        );
    }

    #[test]
    fn an_error_names_what_is_wrong() {
        let good = full().write();
        for (from, to, says) in [
            ("X-Ringpost-From: <", "X-Ringpost-From: ", "X-Ringpost-From: cannot be understood"),
            ("<Postmaster>", "<>", "X-Ringpost-To: cannot be understood"),
            ("<Postmaster>", "<no domain>", "X-Ringpost-To: cannot"),
            ("<Postmaster>", "<Postmaster> shiny=1", "X-Ringpost-To: cannot"),
            ("<Postmaster>", "<Postmaster> in-doubt in-doubt", "X-Ringpost-To: cannot"),
            ("attempts=65535", "attempts=65536", "X-Ringpost-To: cannot"),
            ("stage=end-of-data", "stage=later", "X-Ringpost-To: cannot"),
            ("status=4.999.999", "status=4.999", "X-Ringpost-To: cannot"),
            ("text=mailbox", "text=+0D+0Amailbox", "X-Ringpost-To: cannot"),
            ("text=mailbox", "text=+4mailbox", "X-Ringpost-To: cannot"),
            (
                "priority=-9",
                "priority=x",
                "X-Ringpost-Options: priority=x is not a number from -9 to 9",
            ),
            ("priority=-9", "priority=-10", "priority=-10 is not a number from -9 to 9"),
            ("priority=-9", "priority=10", "priority=10 is not a number from -9 to 9"),
            ("002Z;NT", "002Z;X", "is not a date, a semicolon, and R, N, RT or NT"),
            ("002Z;NT", "002Z", "is not a date, a semicolon, and R, N, RT or NT"),
            ("requiretls", "requiretls=x", "requiretls=x is not given without a value"),
            ("requiretls", "require-tls", "X-Ringpost-Options: cannot be understood"),
            ("trace=181 ", "", "X-Ringpost-Content: cannot"),
            ("X-Ringpost-Received-At: ", "X-Ringpost-When: ", "not a field of an exported message"),
            ("X-Ringpost-Received-At: 2023", "X-Ringpost-Id: ", "is there twice"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            let fault = Head::read(bad.as_bytes()).unwrap_err();
            assert!(fault.contains(says), "{from} -> {to}: {fault}");
        }
        for length in 0..good.len() {
            assert!(Head::read(&good.as_bytes()[..length]).is_err(), "{length}");
        }
        assert!(Head::read(b"X-Ringpost-Id: \xff\r\n").is_err());
    }
}
