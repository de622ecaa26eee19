//! The trace field (RFC 5321 4.4) that the relay puts on top of each message. *Pure.*
//!
//! Everything in it that the client chose has been checked to be one word of printable ASCII, or is
//! made into one here: nobody can end the field, or a comment in it, by introducing himself.

use super::Protection;
use crate::message::{QueueId, Timestamp};
use crate::smtp;
use std::net::IpAddr;
use time::OffsetDateTime;

/// Longest line without its CRLF that a header should have (RFC 5322 2.1.1).
const COLUMNS: usize = 78;

/// What a trace field tells.
pub(super) struct ReceivedField<'a> {
    /// As given with EHLO or HELO.
    pub(super) hello: &'a str,
    /// What was spoken: see [`protocol`].
    pub(super) protocol: &'static str,
    pub(super) client: IpAddr,
    pub(super) protection: Option<&'a Protection>,
    pub(super) host_name: &'a str,
    pub(super) id: QueueId,
    /// Whom it is for, when there is nobody else.
    pub(super) recipient: Option<&'a str>,
    /// RFC 6710; 0 is not told.
    pub(super) priority: i8,
    pub(super) now: Timestamp,
}

/// The field with its CRLF: three lines when nothing in it is long.
pub(super) fn field(trace: &ReceivedField) -> Vec<u8> {
    let mut field = Folded { bytes: Vec::with_capacity(256), column: 0 };
    field.start_line(&format!("Received: from {}", hello_word(trace.hello)));
    field.word(&format!("({})", smtp::literal(trace.client)));
    field.start_line("\t");
    field.word(&format!("by {}", trace.host_name));
    field.word(&format!("with {}", trace.protocol));
    if let Some(protection) = trace.protection {
        field.word(&format!("({})", protection.version));
    }
    field.word(&format!("id {}", trace.id));
    field.start_line("\t");
    let tls = trace.protection.map(|protection| format!("tls {}", protection.cipher));
    let recipient = trace.recipient.map(|recipient| format!("for <{recipient}>"));
    // RFC 8314 7.4, RFC 6710 5.
    let priority = (trace.priority != 0).then(|| format!("priority {}", trace.priority));
    let clauses: Vec<String> = [recipient, tls, priority].into_iter().flatten().collect();
    match clauses.split_last() {
        Some((last, others)) => {
            others.iter().for_each(|clause| field.word(clause));
            field.word(&format!("{last};"));
        }
        // The semicolon belongs to the word before it.
        None => field.join_semicolon(),
    }
    field.word(&date(trace.now));
    field.bytes.extend_from_slice(b"\r\n");
    field.bytes
}

/// Which of the two hellos (RFC 5321 4.4), whether MAIL asked for SMTPUTF8 (RFC 6531 4.3), whether
/// TLS is there, and a user (RFC 3848).
pub(super) fn protocol(
    extended: bool,
    smtp_utf8: bool,
    has_tls: bool,
    has_user: bool,
) -> &'static str {
    match (extended, smtp_utf8, has_tls, has_user) {
        (false, ..) => "SMTP",
        (true, false, false, false) => "ESMTP",
        (true, false, true, false) => "ESMTPS",
        (true, false, false, true) => "ESMTPA",
        (true, false, true, true) => "ESMTPSA",
        (true, true, false, false) => "UTF8SMTP",
        (true, true, true, false) => "UTF8SMTPS",
        (true, true, false, true) => "UTF8SMTPA",
        (true, true, true, true) => "UTF8SMTPSA",
    }
}

/// Words put into lines. A word that does not fit begins a new line; one that is too long for any
/// line has one for itself.
struct Folded {
    bytes: Vec<u8>,
    column: usize,
}

impl Folded {
    fn start_line(&mut self, start: &str) {
        if !self.bytes.is_empty() {
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.bytes.extend_from_slice(start.as_bytes());
        self.column = start.len();
    }

    fn word(&mut self, word: &str) {
        if self.column > 1 && self.column + 1 + word.len() > COLUMNS {
            self.start_line("\t");
        }
        if self.column > 1 {
            self.bytes.push(b' ');
            self.column += 1;
        }
        self.bytes.extend_from_slice(word.as_bytes());
        self.column += word.len();
    }

    /// Puts a semicolon behind the last word of the line before this one, which is still empty.
    fn join_semicolon(&mut self) {
        let line_break = b"\r\n\t".len();
        self.bytes.truncate(self.bytes.len().saturating_sub(line_break));
        self.bytes.push(b';');
        self.start_line("\t");
    }
}

/// The client's name for itself: as given when it is a domain or an address literal, else with `?`
/// for each character that no domain has.
fn hello_word(hello: &str) -> String {
    if smtp::is_hello_name(hello) {
        return hello.to_owned();
    }
    let tame = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    hello.bytes().map(|byte| if tame(byte) { char::from(byte) } else { '?' }).collect()
}

/// `Mon, 23 Nov 2026 18:36:59 +0000` (RFC 5322 3.3).
pub(super) fn date(now: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let at = OffsetDateTime::from(now);
    let day = DAYS.get(usize::from(at.weekday().number_days_from_sunday())).unwrap_or(&"Sun");
    let month = MONTHS.get(usize::from(u8::from(at.month())) - 1).unwrap_or(&"Jan");
    format!(
        "{day}, {:02} {month} {:04} {:02}:{:02}:{:02} +0000",
        at.day(),
        at.year(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::Channels;

    fn written<'a>(change: impl FnOnce(&mut ReceivedField<'a>)) -> String {
        let mut trace = ReceivedField {
            hello: "client.example",
            protocol: "ESMTP",
            client: IpAddr::from([192, 0, 2, 1]),
            protection: None,
            host_name: "relay.example",
            id: QueueId(0),
            recipient: Some("user@example.org"),
            priority: 0,
            now: Timestamp(1_795_459_019_123),
        };
        change(&mut trace);
        String::from_utf8_lossy(&field(&trace)).into_owned()
    }

    #[test]
    fn a_field_says_from_whom_by_whom_how_and_when() {
        assert_eq!(
            written(|_| ()),
            "Received: from client.example ([192.0.2.1])\r\n\
             \tby relay.example with ESMTP id 0000000000000\r\n\
             \tfor <user@example.org>; Mon, 23 Nov 2026 18:36:59 +0000\r\n"
        );
    }

    #[test]
    fn without_a_recipient_the_semicolon_moves_up() {
        assert_eq!(
            written(|trace| {
                trace.recipient = None;
                trace.protocol = protocol(false, true, true, true);
                trace.hello = "[IPv6:2001:db8::1]";
                trace.client = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
            }),
            "Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n\
             \tby relay.example with SMTP id 0000000000000;\r\n\
             \tMon, 23 Nov 2026 18:36:59 +0000\r\n"
        );
    }

    #[test]
    fn a_protected_connection_is_told_with_version_and_cipher() {
        let there = Protection {
            version: "TLSv1.2",
            cipher: "TLS_ECDHE_X".into(),
            channels: Channels::default(),
            client_fingerprint: None,
            client_names: Vec::new(),
        };
        assert_eq!(
            written(|trace| {
                trace.protection = Some(&there);
                trace.protocol = protocol(true, false, true, false);
            }),
            "Received: from client.example ([192.0.2.1])\r\n\
             \tby relay.example with ESMTPS (TLSv1.2) id 0000000000000\r\n\
             \tfor <user@example.org> tls TLS_ECDHE_X; Mon, 23 Nov 2026 18:36:59 +0000\r\n"
        );
    }

    #[test]
    fn rfc6710_5_a_priority_is_told() {
        let text = written(|trace| trace.priority = -3);
        assert!(text.contains("\tfor <user@example.org> priority -3; Mon, 23 Nov"), "{text}");
    }

    #[test]
    fn rfc6531_4_3_the_protocol_says_that_smtputf8_was_asked_for() {
        let text = written(|trace| {
            trace.recipient = Some("\u{fc}@b\u{fc}cher.example");
            trace.protocol = protocol(true, true, false, false);
        });
        assert!(text.contains(" with UTF8SMTP id "), "{text}");
        assert!(text.contains("\tfor <\u{fc}@b\u{fc}cher.example>;"), "{text}");
        assert_eq!(protocol(true, true, true, false), "UTF8SMTPS");
        assert_eq!(protocol(true, true, true, true), "UTF8SMTPSA");
        assert_eq!(protocol(true, false, true, true), "ESMTPSA");
    }

    #[test]
    fn a_mapped_address_is_shown_as_ipv4() {
        let text = written(|trace| {
            trace.client = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201]);
        });
        assert!(text.contains("([192.0.2.1])"), "{text}");
    }

    #[test]
    fn an_odd_name_cannot_break_out() {
        let text = written(|trace| trace.hello = "my (pc); by \\ evil\"<x>");
        assert!(
            text.starts_with("Received: from my??pc???by???evil??x? ([192.0.2.1])\r\n"),
            "{text}"
        );
    }

    #[test]
    fn long_words_get_lines_of_their_own() {
        let hello = format!("{}.example", "x".repeat(63));
        let host = format!("{}.example", "y".repeat(63));
        let to = format!("{}@{}.example", "u".repeat(64), "z".repeat(63));
        let text = written(|trace| {
            trace.hello = &hello;
            trace.host_name = &host;
            trace.recipient = Some(&to);
        });
        assert_eq!(
            text,
            format!(
                "Received: from {hello}\r\n\t([192.0.2.1])\r\n\
                 \tby {host}\r\n\twith ESMTP id 0000000000000\r\n\
                 \tfor <{to}>;\r\n\tMon, 23 Nov 2026 18:36:59 +0000\r\n"
            )
        );
    }
}
