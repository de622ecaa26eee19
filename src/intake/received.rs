//! The Received field (RFC 5321 4.4) that the relay puts on top of what a client sent. *Pure.*
//!
//! Everything in it that the client chose is one word of printable ASCII, or is made into one here:
//! no client can end the field, or a comment in it, by its name.

use crate::message::{Address, Envelope, QueueId, Timestamp};
use crate::smtp;
use std::net::IpAddr;

/// Longest line without its CRLF that a header should have (RFC 5322 2.1.1).
const COLUMNS: usize = 78;

/// The client that a message came from.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// As given with EHLO or HELO.
    pub hello: &'a str,
    /// What was spoken: `ESMTPS` and the like (RFC 3848, RFC 6531 4.3).
    pub protocol: &'a str,
    /// Its address.
    pub address: IpAddr,
    /// What protected the connection.
    pub tls: Option<Tls<'a>>,
}

/// What protected a connection.
#[derive(Clone, Copy)]
pub struct Tls<'a> {
    /// `TLSv1.3`.
    pub version: &'a str,
    /// As IANA names it: `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'a str,
}

/// The host, the id and the time of its reception.
pub(super) struct Stamp<'a> {
    pub(super) host_name: &'a str,
    pub(super) id: QueueId,
    pub(super) at: Timestamp,
}

/// The field with its CRLF: three lines when nothing in it is long.
pub(super) fn field(
    client: &Client<'_>,
    stamp: &Stamp<'_>,
    envelope: &Envelope,
    priority: i8,
) -> Vec<u8> {
    let mut field = Folded { bytes: Vec::with_capacity(256), column: 0 };
    field.start_line(&format!("Received: from {}", hello_word(client.hello)));
    field.word(&format!("({})", smtp::literal(client.address)));
    field.start_line("\t");
    field.word(&format!("by {}", stamp.host_name));
    field.word(&format!("with {}", client.protocol));
    if let Some(tls) = client.tls {
        field.word(&format!("({})", tls.version));
    }
    field.word(&format!("id {}", stamp.id));
    field.start_line("\t");
    let tls = client.tls.map(|tls| format!("tls {}", tls.cipher));
    let recipient = sole_recipient(envelope).map(|recipient| format!("for <{recipient}>"));
    // RFC 8314 7.4, RFC 6710 5.
    let priority = (priority != 0).then(|| format!("priority {priority}"));
    let clauses: Vec<String> = [recipient, tls, priority].into_iter().flatten().collect();
    match clauses.split_last() {
        Some((last, others)) => {
            others.iter().for_each(|clause| field.word(clause));
            field.word(&format!("{last};"));
        }
        // The semicolon belongs to the word before it.
        None => field.join_semicolon(),
    }
    field.word(&stamp.at.rfc5322());
    field.bytes.extend_from_slice(b"\r\n");
    field.bytes
}

/// The field names a recipient only when there is one alone: recipients may not see each other (RFC
/// 5321 7.2).
fn sole_recipient(envelope: &Envelope) -> Option<&Address> {
    match envelope.recipients.as_slice() {
        [only] => Some(&only.address),
        _ => None,
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
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    hello.bytes().map(|byte| if is_safe(byte) { char::from(byte) } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Recipient;

    struct Trace {
        client: Client<'static>,
        host_name: String,
        recipients: Vec<String>,
        priority: i8,
    }

    fn written(change: impl FnOnce(&mut Trace)) -> String {
        let client = Client {
            hello: "client.example",
            protocol: "ESMTP",
            address: IpAddr::from([192, 0, 2, 1]),
            tls: None,
        };
        let (host_name, recipients) = ("relay.example".into(), vec!["user@example.org".into()]);
        let mut trace = Trace { client, host_name, recipients, priority: 0 };
        change(&mut trace);
        let at = Timestamp(1_795_459_019_123);
        let stamp = Stamp { host_name: &trace.host_name, id: QueueId(0), at };
        let to = trace.recipients.iter().map(|to| Recipient::plain(Address::new(to.as_str())));
        let envelope = Envelope { reverse_path: None, recipients: to.collect() };
        let field = field(&trace.client, &stamp, &envelope, trace.priority);
        String::from_utf8_lossy(&field).into_owned()
    }

    #[test]
    fn a_field_names_client_relay_protocol_recipient_and_time() {
        assert_eq!(
            written(|_| ()),
            "Received: from client.example ([192.0.2.1])\r\n\
             \tby relay.example with ESMTP id 0000000000000\r\n\
             \tfor <user@example.org>; Mon, 23 Nov 2026 18:36:59 +0000\r\n"
        );
    }

    #[test]
    fn rfc5321_7_2_a_recipient_is_named_only_when_there_is_no_other() {
        for recipients in [vec![], vec!["a@b".to_owned(), "c@d".to_owned()]] {
            assert_eq!(
                written(|trace| {
                    trace.recipients = recipients;
                    trace.client.protocol = "SMTP";
                    trace.client.hello = "[IPv6:2001:db8::1]";
                    trace.client.address = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
                }),
                "Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n\
                 \tby relay.example with SMTP id 0000000000000;\r\n\
                 \tMon, 23 Nov 2026 18:36:59 +0000\r\n"
            );
        }
    }

    #[test]
    fn a_protected_connection_is_named_with_version_and_cipher() {
        assert_eq!(
            written(|trace| {
                trace.client.tls = Some(Tls { version: "TLSv1.2", cipher: "TLS_ECDHE_X" });
                trace.client.protocol = "ESMTPS";
            }),
            "Received: from client.example ([192.0.2.1])\r\n\
             \tby relay.example with ESMTPS (TLSv1.2) id 0000000000000\r\n\
             \tfor <user@example.org> tls TLS_ECDHE_X; Mon, 23 Nov 2026 18:36:59 +0000\r\n"
        );
    }

    #[test]
    fn rfc6710_5_a_priority_is_named() {
        let text = written(|trace| trace.priority = -3);
        assert!(text.contains("\tfor <user@example.org> priority -3; Mon, 23 Nov"), "{text}");
    }

    #[test]
    fn a_mapped_address_is_shown_as_ipv4() {
        let text = written(|trace| {
            trace.client.address = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201]);
        });
        assert!(text.contains("([192.0.2.1])"), "{text}");
    }

    #[test]
    fn a_name_given_with_ehlo_cannot_end_the_field() {
        let text = written(|trace| trace.client.hello = "my (pc); by \\ evil\"<x>");
        assert!(
            text.starts_with("Received: from my??pc???by???evil??x? ([192.0.2.1])\r\n"),
            "{text}"
        );
    }

    #[test]
    fn long_words_get_lines_of_their_own() {
        const HELLO: &str =
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.example";
        let host = format!("{}.example", "y".repeat(63));
        let to = format!("{}@{}.example", "u".repeat(64), "z".repeat(63));
        let text = written(|trace| {
            trace.client.hello = HELLO;
            trace.host_name.clone_from(&host);
            trace.recipients = vec![to.clone()];
        });
        assert_eq!(
            text,
            format!(
                "Received: from {HELLO}\r\n\t([192.0.2.1])\r\n\
                 \tby {host}\r\n\twith ESMTP id 0000000000000\r\n\
                 \tfor <{to}>;\r\n\tMon, 23 Nov 2026 18:36:59 +0000\r\n"
            )
        );
    }
}
