//! What a submission server checks in the header of a message, and what it adds (RFC 6409 6 and
//! 8). *Pure.*
//!
//! A user with a list of senders may write only a header that all readers understand alike: one
//! From, at most one Sender, and nothing but header fields (RFC 5322 3.6). The addresses in From,
//! Sender, Resent-From and Resent-Sender must be among the user's senders.

use super::{Ended, Observer};
use crate::smtp::{Reply, read_addresses};

/// Bytes of one line that are kept; RFC 5322 2.1.1 has 998.
const LINE_BYTES_MAX: usize = 4096;
/// Bytes of From and of Sender that are kept, with all their lines.
const FIELD_BYTES_MAX: usize = 64 * 1024;
/// Resent-From and Resent-Sender fields of a message that are read; a message with more is refused.
const RESENT_MAX: usize = 100;

/// Reads the header of a message as it arrives.
#[derive(Debug, Default)]
pub struct HeaderCheck {
    line: Vec<u8>,
    current: Kept,
    /// The line at hand is not the first: it may continue a field.
    begun: bool,
    over: bool,
    /// Some line is not a header field.
    broken: bool,
    has_date: bool,
    has_message_id: bool,
    from: Field,
    sender: Field,
    /// Each Resent-From and Resent-Sender: every time that a message is resent adds them (RFC 5322
    /// 3.6.6).
    resent: Vec<(&'static str, Field)>,
}

/// Which field is being read.
#[derive(Clone, Copy, Debug, Default)]
enum Kept {
    From,
    Sender,
    /// The last of `resent`.
    Resent,
    #[default]
    Other,
}

#[derive(Debug, Default)]
struct Field {
    times: usize,
    value: Vec<u8>,
    /// More than is kept: it cannot be checked.
    cut: bool,
}

impl Field {
    fn extend(&mut self, part: &[u8], cut: bool, bytes_max: usize) {
        let space = bytes_max.saturating_sub(self.value.len());
        self.cut |= cut || part.len() > space;
        self.value.extend_from_slice(part.get(..space).unwrap_or(part));
    }

    fn check(&self, name: &str, may: impl Fn(&str) -> bool) -> Result<(), Reply> {
        let addresses = read_addresses(&self.value).filter(|_| !self.cut);
        let addresses = addresses.ok_or_else(|| Reply::header_unreadable(name))?;
        if addresses.iter().all(|address| may(address)) {
            Ok(())
        } else {
            Err(Reply::header_not_allowed(name))
        }
    }
}

impl Observer for HeaderCheck {
    fn observe(&mut self, piece: &[u8]) {
        self.see(piece);
    }

    /// The fields that the message must have and has not.
    fn fields(&self, message: &Ended<'_>, out: &mut Vec<u8>) {
        if !self.has_date {
            out.extend_from_slice(b"Date: ");
            out.extend_from_slice(message.received_at.rfc5322().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if !self.has_message_id {
            let Ended { id, host_name, .. } = message;
            out.extend_from_slice(format!("Message-ID: <{id}@{host_name}>\r\n").as_bytes());
        }
    }
}

impl HeaderCheck {
    fn see(&mut self, mut piece: &[u8]) {
        while !self.over && !piece.is_empty() {
            let end = piece.iter().position(|&byte| byte == b'\n');
            let (part, rest) = piece.split_at(end.map_or(piece.len(), |end| end + 1));
            // One byte beyond the bound says that the line is longer.
            let space = (LINE_BYTES_MAX + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(part.get(..space).unwrap_or(part));
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                self.end_of_line(&line);
                self.line = line;
                self.line.clear();
            }
            piece = rest;
        }
    }

    fn end_of_line(&mut self, line: &[u8]) {
        let cut = line.len() > LINE_BYTES_MAX;
        // As the next hop sees it, without the dot of transparency (RFC 5321 4.5.2).
        let line = line.strip_prefix(b".").unwrap_or(line);
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_first = !std::mem::replace(&mut self.begun, true);
        if !is_first && (line.starts_with(b" ") || line.starts_with(b"\t")) {
            self.keep(line, cut);
            return;
        }
        let Some((name, value)) = split_field(line) else {
            // Readers do not agree on whether the header ends here.
            self.broken |= !line.is_empty();
            self.over = true;
            return;
        };
        self.current = Kept::Other;
        match name.to_ascii_lowercase().as_slice() {
            b"date" => self.has_date = true,
            b"message-id" => self.has_message_id = true,
            b"from" => {
                self.current = Kept::From;
                self.from.times += 1;
            }
            b"sender" => {
                self.current = Kept::Sender;
                self.sender.times += 1;
            }
            b"resent-from" => self.begin_resent("Resent-From"),
            b"resent-sender" => self.begin_resent("Resent-Sender"),
            _ => {}
        }
        self.keep(value, cut);
    }

    fn begin_resent(&mut self, name: &'static str) {
        self.current = Kept::Resent;
        if self.resent.len() <= RESENT_MAX {
            self.resent.push((name, Field::default()));
        }
    }

    fn keep(&mut self, part: &[u8], cut: bool) {
        match self.current {
            Kept::From => self.from.extend(part, cut, FIELD_BYTES_MAX),
            Kept::Sender => self.sender.extend(part, cut, FIELD_BYTES_MAX),
            Kept::Resent => {
                // The bound is for all of them together.
                let total: usize = self.resent.iter().map(|(_, field)| field.value.len()).sum();
                if let Some((_, field)) = self.resent.last_mut() {
                    let bytes_max = FIELD_BYTES_MAX.saturating_sub(total - field.value.len());
                    field.extend(part, cut, bytes_max);
                }
            }
            Kept::Other => {}
        }
    }

    /// Whether the header is well-formed, and From, Sender, Resent-From and Resent-Sender have no
    /// address but those that the user `may` send from.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, may: impl Fn(&str) -> bool) -> Result<(), Reply> {
        if self.broken {
            return Err(Reply::HEADER_MALFORMED);
        }
        if self.from.times == 0 {
            return Err(Reply::NO_FROM);
        }
        for (name, field) in [("From", &self.from), ("Sender", &self.sender)] {
            match field.times {
                0 => continue,
                1 => field.check(name, &may)?,
                _ => return Err(Reply::header_repeated(name)),
            }
        }
        if let Some((name, _)) = self.resent.get(RESENT_MAX) {
            return Err(Reply::header_repeated(name));
        }
        self.resent.iter().try_for_each(|(name, field)| field.check(name, &may))
    }
}

/// Name and value of a field (RFC 5322 2.2; white space before the colon is of 4.5); `None` when
/// the line is none.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (mut name, value) = line.split_at(colon);
    while let [before @ .., b' ' | b'\t'] = name {
        name = before;
    }
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_name.then_some((name, value.get(1..)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::{Envelope, Options, QueueId, Timestamp};

    fn read(content: &str, piece: usize) -> HeaderCheck {
        let mut header = HeaderCheck::default();
        content.as_bytes().chunks(piece).for_each(|piece| header.observe(piece));
        header
    }

    fn missing(content: &str) -> String {
        let ended = Ended {
            id: QueueId(0),
            received_at: Timestamp(1_795_459_019_123),
            host_name: "relay.example",
            envelope: &Envelope { reverse_path: None, recipients: Vec::new() },
            options: &Options::default(),
        };
        let fields = |piece| {
            let mut out = Vec::new();
            read(content, piece).fields(&ended, &mut out);
            out
        };
        assert_eq!(fields(1), fields(1000), "however it is cut");
        String::from_utf8(fields(7)).unwrap()
    }

    const DATE: &str = "Date: Mon, 23 Nov 2026 18:36:59 +0000\r\n";
    const MESSAGE_ID: &str = "Message-ID: <0000000000000@relay.example>\r\n";

    #[test]
    fn rfc6409_8_2_and_8_3_date_and_message_id_are_added_where_they_lack() {
        let both = format!("{DATE}{MESSAGE_ID}");
        assert_eq!(missing("Subject: x\r\n\r\nDate: in the body\r\n"), both);
        assert_eq!(missing("Subject: x\r\n Date: folded\r\n\r\n"), both);
        assert_eq!(missing("DATE : x\r\n\r\n"), MESSAGE_ID);
        assert_eq!(missing("message-id: <a@b>\r\n\r\n"), DATE);
        assert_eq!(missing("Message-Id: <a@b>\r\nDate: x\r\n\r\nbody\r\n"), "");
        assert_eq!(missing(""), both);
        assert_eq!(missing("no header\r\nDate: x\r\n"), both);
    }

    #[test]
    fn rfc5321_4_5_2_fields_are_seen_as_the_next_hop_sees_them() {
        assert_eq!(missing(".Date: x\r\n.Message-ID: <a@b>\r\n\r\n"), "");
        assert_eq!(missing("..Date: x\r\nMessage-ID: <a@b>\r\n\r\n"), DATE);
        for (content, says) in [
            (".From: ann@a.test\r\n\r\n", FROM),
            ("From: joe@a.test\r\n.From: ann@a.test\r\n\r\n", "Duplicate From header field"),
            ("From: joe@a.test,\r\n. ann@a.test\r\n\r\n", FROM),
            ("From: joe@a.test\r\n.Sender: ann@a.test\r\n\r\n", SENDER),
            (".From: joe@a.test\r\n\r\n", ""),
            ("..From: joe@a.test\r\n\r\n", "Missing From header field (RFC 5322 3.6)"),
        ] {
            check(content, says);
        }
    }

    const FROM: &str = "From header address not permitted for this user";
    const SENDER: &str = "Sender header address not permitted for this user";
    const BROKEN: &str = "Malformed header field (RFC 5322 2.2)";

    /// What the reply to user joe@a.test says; empty when the message is accepted.
    fn check(content: &str, says: &str) {
        for piece in [1, 5, 1000] {
            let checked = read(content, piece).check(|address| address == "joe@a.test");
            let text = checked.map_or_else(|reply| reply.text.into_owned(), |()| String::new());
            assert_eq!(text, says, "{content}");
        }
    }

    #[test]
    fn from_and_sender_must_be_addresses_of_the_user() {
        for (content, says) in [
            ("From: Joe <joe@a.test>\r\n\r\n", ""),
            ("From: \"Joe\r\n\t(x)\"\r\n <joe@a.test>\r\n\r\n", ""),
            ("From: Joe\r\n <ann@a.test>\r\n\r\n", FROM),
            ("From: joe@a.test,\r\n\tann@a.test\r\n\r\n", FROM),
            ("from: joe@a.test\r\nsender: ann@a.test\r\n\r\n", SENDER),
            ("From: joe@a.test\r\nSender: joe@a.test\r\n\r\n", ""),
            ("From \t : joe@a.test\r\n\r\nFrom: ann@a.test\r\n", ""),
        ] {
            check(content, says);
        }
    }

    #[test]
    fn rfc5322_3_6_6_resent_fields_are_checked_like_from_and_sender() {
        let resent = |name: &str| format!("{name} header address not permitted for this user");
        let unreadable =
            |name: &str| format!("Malformed {name} header address list (RFC 5322 3.6.2)");
        let (from, sender) = ("Resent-From", "Resent-Sender");
        for (fields, says) in [
            ("Resent-From: joe@a.test\r\n", String::new()),
            ("Resent-From: joe@a.test\r\nResent-Sender: joe@a.test\r\n", String::new()),
            // Resent twice.
            ("Resent-From: joe@a.test\r\nResent-From: joe@a.test\r\n", String::new()),
            ("Resent-From: ann@a.test\r\n", resent(from)),
            ("RESENT-FROM : joe@a.test,\r\n ann@a.test\r\n", resent(from)),
            ("Resent-From: joe@a.test\r\nResent-Sender: ann@a.test\r\n", resent(sender)),
            ("Resent-Sender: ann@a.test\r\n", resent(sender)),
            ("Resent-From: joe@a.test\r\nResent-From: ann@a.test\r\n", resent(from)),
            // Two fields must not become one address list.
            ("Resent-From: (\r\nResent-From: ann@a.test) joe@a.test\r\n", unreadable(from)),
            ("Resent-From:\r\n", unreadable(from)),
            ("Resent-Sender: \"open\r\n", unreadable(sender)),
            (".Resent-From: ann@a.test\r\n", resent(from)),
            ("Resent-To: ann@a.test\r\n", String::new()),
        ] {
            check(&format!("From: joe@a.test\r\n{fields}\r\n"), &says);
            check(&format!("{fields}From: joe@a.test\r\n\r\n"), &says);
        }
        let many = "Resent-From: joe@a.test\r\n".repeat(RESENT_MAX);
        check(&format!("From: joe@a.test\r\n{many}\r\n"), "");
        check(
            &format!("From: joe@a.test\r\n{many}{many}\r\n"),
            "Duplicate Resent-From header field",
        );
        let long = format!("Resent-From: joe@a.test\r\n{}", " (x)\r\n".repeat(10_000));
        let content = format!("From: joe@a.test\r\n{long}{long}\r\n");
        check(&content, &unreadable(from));
        let kept: usize = read(&content, 1000).resent.iter().map(|(_, f)| f.value.len()).sum();
        assert!(kept <= FIELD_BYTES_MAX, "{kept}");
    }

    #[test]
    fn rfc5322_3_6_one_from_is_demanded_and_readable() {
        let none = "Missing From header field (RFC 5322 3.6)";
        let unreadable = "Malformed From header address list (RFC 5322 3.6.2)";
        for (content, says) in [
            ("", none),
            ("Subject: x\r\n\r\nFrom: joe@a.test\r\n", none),
            ("From: joe@a.test\r\nFrom: joe@a.test\r\n\r\n", "Duplicate From header field"),
            ("From: (\r\nFrom: ann@a.test) joe@a.test\r\n\r\n", "Duplicate From header field"),
            ("From:\r\n\r\n", unreadable),
            ("From: \"open\r\n\r\n", unreadable),
            ("From: ann@a.test <joe@a.test>\r\n\r\n", unreadable),
            (
                "From: joe@a.test\r\nSender:\r\n\r\n",
                "Malformed Sender header address list (RFC 5322 3.6.2)",
            ),
        ] {
            check(content, says);
        }
        let long = format!("From: {}\r\n <joe@a.test>\r\n\r\n", "x".repeat(LINE_BYTES_MAX));
        check(&long, unreadable);
        let longer = format!("From: joe@a.test\r\n{}\r\n", " (x)\r\n".repeat(20_000));
        check(&longer, unreadable);
        assert!(read(&longer, 1000).from.value.len() <= FIELD_BYTES_MAX);
    }

    #[test]
    fn rfc5322_2_2_a_header_is_of_fields_alone() {
        let blanks = " ".repeat(LINE_BYTES_MAX);
        let name = "x".repeat(LINE_BYTES_MAX + 100);
        for line in [
            "junk",
            "\u{feff}Subject: x",
            "From ann@a.test Mon Nov 23 18:36:59 2026",
            ": x",
            " : x",
            "Sub\u{fc}ject: x",
            "..",
            &format!("From{blanks}: ann@a.test"),
            &format!("{name}: x"),
        ] {
            check(&format!("{line}\r\nFrom: joe@a.test\r\n\r\n"), BROKEN);
        }
        check("From: joe@a.test\r\njunk\r\nFrom: ann@a.test\r\n\r\n", BROKEN);
        check("\u{feff}From: joe@a.test\r\n\r\n", BROKEN);
        check(" \r\nFrom: joe@a.test\r\n\r\n", BROKEN);
        check(&format!("X: {name}\r\n {name}\r\nFrom: joe@a.test\r\n\r\n"), "");
    }
}
