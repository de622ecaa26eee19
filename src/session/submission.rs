//! What a submission server adds to a message, and what it looks at (RFC 6409 6 and 8). *Pure.*

use super::trace::date;
use crate::message::{QueueId, Timestamp};
use crate::smtp::read_addresses;

/// What is kept of one line, in bytes; RFC 5322 2.1.1 has 998.
const LINE_BYTES_MAX: usize = 4096;
/// What is kept of From and of Sender, in bytes, with all their lines.
const FIELD_BYTES_MAX: usize = 64 * 1024;

/// Looks at the header of a message on its way in.
#[derive(Debug, Default)]
pub struct HeaderWatch {
    line: Vec<u8>,
    current: Kept,
    over: bool,
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
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            self.keep(line, cut);
            return;
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            // The empty line, or a line that is no field: the header is over.
            self.over = true;
            return;
        };
        let (name, value) = line.split_at(colon);
        let name = name.trim_ascii_end().to_ascii_lowercase();
        self.current = Kept::Other;
        match name.as_slice() {
            b"date" => self.has_date = true,
            b"message-id" => self.has_message_id = true,
            b"from" => self.current = Kept::From,
            b"sender" => self.current = Kept::Sender,
            _ => {}
        }
        // A second From is one more that must be right.
        self.keep(b",", false);
        self.keep(value.get(1..).unwrap_or_default(), cut);
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

    /// The name of the field, From or Sender, that is somebody's who `may` not be, or cannot be
    /// read; `None` when all is well.
    pub fn stranger(&self, may: impl Fn(&str) -> bool) -> Option<&'static str> {
        let is_well = |field: &Field| {
            !field.cut
                && read_addresses(&field.value).is_some_and(|all| all.iter().all(|one| may(one)))
        };
        if !is_well(&self.from) {
            return Some("From");
        }
        (!is_well(&self.sender)).then_some("Sender")
    }
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
        for (content, stranger) in [
            (".From: ann@a.test\r\n\r\n", Some("From")),
            ("From: joe@a.test\r\n.From: ann@a.test\r\n\r\n", Some("From")),
            ("From: joe@a.test,\r\n. ann@a.test\r\n\r\n", Some("From")),
            ("From: joe@a.test\r\n.Sender: ann@a.test\r\n\r\n", Some("Sender")),
            (".From: joe@a.test\r\n\r\n", None),
        ] {
            for piece in [1, 5, 1000] {
                let watch = watch(content, piece);
                assert_eq!(watch.stranger(|who| who == "joe@a.test"), stranger, "{content}");
            }
        }
    }

    #[test]
    fn from_and_sender_are_those_of_who_may() {
        let may = |address: &str| address == "joe@a.test";
        for (content, stranger) in [
            ("From: Joe <joe@a.test>\r\n\r\n", None),
            ("Subject: x\r\n\r\nFrom: ann@a.test\r\n", None),
            ("From: Joe\r\n <ann@a.test>\r\n\r\n", Some("From")),
            ("From: joe@a.test\r\nFrom: ann@a.test\r\n\r\n", Some("From")),
            ("From: joe@a.test,\r\n\tann@a.test\r\n\r\n", Some("From")),
            ("from: joe@a.test\r\nsender: ann@a.test\r\n\r\n", Some("Sender")),
            ("From: joe@a.test\r\nSender: joe@a.test\r\n\r\n", None),
            ("From: \"open\r\n\r\n", Some("From")),
        ] {
            for piece in [1, 5, 1000] {
                assert_eq!(watch(content, piece).stranger(may), stranger, "{content}");
            }
        }
        let long = format!("From: {}\r\n <ann@a.test>\r\n\r\n", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(watch(&long, 1000).stranger(may), Some("From"), "too long to know");
        let longer = format!("From: joe@a.test,\r\n{}\r\n", " (x)\r\n".repeat(20_000));
        let watch = watch(&longer, 1000);
        assert!(watch.from.value.len() <= FIELD_BYTES_MAX);
        assert_eq!(watch.stranger(may), Some("From"));
    }
}
