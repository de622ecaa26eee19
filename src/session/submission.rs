//! What a submission server adds to a message, and what it looks at (RFC 6409 6 and 8). *Pure.*
//!
//! Who may be only himself may also write only a header that all read alike: one From, at most one
//! Sender, and nothing but fields (RFC 5322 3.6). Where readers differ, some would show another.

use super::received::date;
use crate::message::{QueueId, Timestamp};
use crate::smtp::{Reply, read_addresses};

/// What is kept of one line, in bytes; RFC 5322 2.1.1 has 998.
const LINE_BYTES_MAX: usize = 4096;
/// What is kept of From and of Sender, in bytes, with all their lines.
const FIELD_BYTES_MAX: usize = 64 * 1024;

/// Looks at the header of a message on its way in.
#[derive(Debug, Default)]
pub struct HeaderWatch {
    line: Vec<u8>,
    current: Kept,
    /// The line at hand is not the first: it may continue a field.
    begun: bool,
    over: bool,
    /// Some line is no field.
    broken: bool,
    has_date: bool,
    has_message_id: bool,
    from: Field,
    sender: Field,
}

/// Which field is being read.
#[derive(Clone, Copy, Debug, Default)]
enum Kept {
    From,
    Sender,
    #[default]
    Other,
}

#[derive(Debug, Default)]
struct Field {
    times: usize,
    value: Vec<u8>,
    /// More than is kept, so nobody knows all of it.
    cut: bool,
}

impl Field {
    fn extend(&mut self, part: &[u8], cut: bool) {
        let room = FIELD_BYTES_MAX.saturating_sub(self.value.len());
        self.cut |= cut || part.len() > room;
        self.value.extend_from_slice(part.get(..room).unwrap_or(part));
    }
}

impl HeaderWatch {
    /// Takes the next piece of content, in wire form.
    pub fn see(&mut self, mut piece: &[u8]) {
        while !self.over && !piece.is_empty() {
            let end = piece.iter().position(|&byte| byte == b'\n');
            let (part, rest) = piece.split_at(end.map_or(piece.len(), |end| end + 1));
            // One byte beyond the bound says that the line is longer.
            let room = (LINE_BYTES_MAX + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(part.get(..room).unwrap_or(part));
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
            // For some the header is over here, and for others it is not.
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
            _ => {}
        }
        self.keep(value, cut);
    }

    fn keep(&mut self, part: &[u8], cut: bool) {
        match self.current {
            Kept::From => self.from.extend(part, cut),
            Kept::Sender => self.sender.extend(part, cut),
            Kept::Other => {}
        }
    }

    /// The fields that the message lacks, to be put on top of it.
    pub fn missing(&self, id: QueueId, host_name: &str, now: Timestamp) -> Vec<u8> {
        let mut fields = String::new();
        if !self.has_date {
            fields.push_str(&format!("Date: {}\r\n", date(now)));
        }
        if !self.has_message_id {
            fields.push_str(&format!("Message-ID: <{id}@{host_name}>\r\n"));
        }
        fields.into_bytes()
    }

    /// Whether the header is well, and From and Sender name nobody but those who `may` be.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, may: impl Fn(&str) -> bool) -> Result<(), Reply> {
        if self.broken {
            return Err(Reply::HEADER_BROKEN);
        }
        if self.from.times == 0 {
            return Err(Reply::NO_FROM);
        }
        for (name, field) in [("From", &self.from), ("Sender", &self.sender)] {
            match field.times {
                0 => continue,
                1 => {}
                _ => return Err(Reply::header_repeated(name)),
            }
            let addresses = read_addresses(&field.value).filter(|_| !field.cut);
            let addresses = addresses.ok_or_else(|| Reply::header_unreadable(name))?;
            if !addresses.iter().all(|address| may(address)) {
                return Err(Reply::header_not_allowed(name));
            }
        }
        Ok(())
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

    fn watch(content: &str, piece: usize) -> HeaderWatch {
        let mut watch = HeaderWatch::default();
        content.as_bytes().chunks(piece).for_each(|piece| watch.see(piece));
        watch
    }

    fn missing(content: &str) -> String {
        let now = Timestamp(1_795_459_019_123);
        let fields = |piece| watch(content, piece).missing(QueueId(0), "relay.example", now);
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
        for (content, told) in [
            (".From: ann@a.test\r\n\r\n", FROM),
            ("From: joe@a.test\r\n.From: ann@a.test\r\n\r\n", "From is there more than once"),
            ("From: joe@a.test,\r\n. ann@a.test\r\n\r\n", FROM),
            ("From: joe@a.test\r\n.Sender: ann@a.test\r\n\r\n", SENDER),
            (".From: joe@a.test\r\n\r\n", ""),
            ("..From: joe@a.test\r\n\r\n", "The message has no From (RFC 5322 3.6)"),
        ] {
            check(content, told);
        }
    }

    const FROM: &str = "From has an address that this user may not send from";
    const SENDER: &str = "Sender has an address that this user may not send from";
    const BROKEN: &str = "The header has a line that is no field (RFC 5322 2.2)";

    /// What joe@a.test is told of his message; nothing when it is taken.
    fn check(content: &str, told: &str) {
        for piece in [1, 5, 1000] {
            let checked = watch(content, piece).check(|who| who == "joe@a.test");
            let text = checked.map_or_else(|reply| reply.text.into_owned(), |()| String::new());
            assert_eq!(text, told, "{content}");
        }
    }

    #[test]
    fn from_and_sender_are_those_of_who_may() {
        for (content, told) in [
            ("From: Joe <joe@a.test>\r\n\r\n", ""),
            ("From: \"Joe\r\n\t(x)\"\r\n <joe@a.test>\r\n\r\n", ""),
            ("From: Joe\r\n <ann@a.test>\r\n\r\n", FROM),
            ("From: joe@a.test,\r\n\tann@a.test\r\n\r\n", FROM),
            ("from: joe@a.test\r\nsender: ann@a.test\r\n\r\n", SENDER),
            ("From: joe@a.test\r\nSender: joe@a.test\r\n\r\n", ""),
            ("From \t : joe@a.test\r\n\r\nFrom: ann@a.test\r\n", ""),
        ] {
            check(content, told);
        }
    }

    #[test]
    fn rfc5322_3_6_one_from_is_demanded_and_readable() {
        let none = "The message has no From (RFC 5322 3.6)";
        let unreadable = "From is no list of addresses (RFC 5322 3.6.2)";
        for (content, told) in [
            ("", none),
            ("Subject: x\r\n\r\nFrom: joe@a.test\r\n", none),
            ("From: joe@a.test\r\nFrom: joe@a.test\r\n\r\n", "From is there more than once"),
            ("From: (\r\nFrom: ann@a.test) joe@a.test\r\n\r\n", "From is there more than once"),
            ("From:\r\n\r\n", unreadable),
            ("From: \"open\r\n\r\n", unreadable),
            ("From: ann@a.test <joe@a.test>\r\n\r\n", unreadable),
            (
                "From: joe@a.test\r\nSender:\r\n\r\n",
                "Sender is no list of addresses (RFC 5322 3.6.2)",
            ),
        ] {
            check(content, told);
        }
        let long = format!("From: {}\r\n <joe@a.test>\r\n\r\n", "x".repeat(LINE_BYTES_MAX));
        check(&long, unreadable);
        let longer = format!("From: joe@a.test\r\n{}\r\n", " (x)\r\n".repeat(20_000));
        check(&longer, unreadable);
        assert!(watch(&longer, 1000).from.value.len() <= FIELD_BYTES_MAX);
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
