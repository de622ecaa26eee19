//! Builds delivery status notifications (RFC 3464 in a multipart/report, RFC 6522). *Pure.*
//!
//! Facts go in: which recipients were reached or not, and why, in the remote server's words. A
//! whole message in wire form comes out, with a part for people and one for programs. It must not
//! know when reports are sent, when none may be sent (`<>`, NOTIFY=NEVER), or how they are queued.
//!
//! Decisions:
//!
//! - *Status of a recipient given up for its age* is 4.4.7, not 5.4.7. `Action: failed` already
//!   says that it is over; the class tells senders that every attempt met a temporary trouble, so
//!   that they do not strike the address from their lists as they do after 5.x.x. What the last
//!   attempt met stands in Diagnostic-Code. But what comes back because its sender set a time (BY)
//!   has 5.4.7, as RFC 2852 has it: no address is at fault, and Diagnostic-Code says so.
//! - *Last-Attempt-Date* (RFC 3464 2.3.7) is given only where a host was tried and the time is
//!   known. When a waiting recipient's time is over, that of its last attempt is not.
//! - *The report is 7-bit*, so that it needs no extension on its way: parts that hold anything else
//!   are quoted-printable (RFC 6522 allows it for text/rfc822-headers). Three things are not: a
//!   `To` that is not ASCII itself, which only an SMTPUTF8 host can take anyway; the status part
//!   about an address that is not ASCII (RFC 6533 4); and a message given back, which must not be
//!   encoded (RFC 2046 5.2.1).
//! - *RET* (RFC 3461 4.3): the header is given back, and all of the message only where RET=FULL
//!   asks for it and it failed; never of one with REQUIRETLS (RFC 8689 5), whose way back may be in
//!   the clear. What cannot stand in a message unencoded (bare CR or LF, NUL, overlong lines) or is
//!   too large comes back as its header too.
//! - *Nothing from outside can add a line.* Each value passes through [`one_line`] or a stricter
//!   gate, and header lines that hold bare CR, LF or NUL are quoted.

mod encoding;
mod original;
mod status;
#[cfg(test)]
mod tests;
mod text;

use crate::message::{Address, Message, QueueId, Reason, Recipient, Timestamp};
use crate::smtp::{ascii, one_line};
use encoding::{date, is_seven_bit, quote, stuff};
use original::{Original, original};
use std::fmt::Write;

/// A report in wire form is never longer, in bytes.
pub const CONTENT_BYTES_MAX: usize = 1024 * 1024;
/// One report details so many recipients at most and counts the rest. A caller with more failures
/// makes several reports.
pub const RECIPIENTS_MAX: usize = 1000;
/// So much of the original header is returned, in bytes; the rest is cut between lines.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// A message up to this size, in bytes, is given back whole where RET=FULL asks for it; of a larger
/// one the header, as RFC 3461 4.3 leaves to the relay.
pub const FULL_BYTES_MAX: usize = 256 * 1024;

/// Bytes of the part for people and of the part for programs: enough for [`RECIPIENTS_MAX`]
/// ordinary recipients; with longer ones, fewer are detailed.
const DETAILS_BYTES_MAX: usize = 144 * 1024;
const STATUS_BYTES_MAX: usize = 320 * 1024;
/// Header of the report, part headers, opening and closing words, and one recipient beyond a limit.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Longest value of a field taken from outside, in bytes: with its name below the 998 of RFC 5322.
const VALUE_BYTES_MAX: usize = 900;
/// Where text for people is wrapped, in bytes.
const WRAP: usize = 76;

// Quoted-printable makes three bytes of one, and adds three to each 73 for its line ends.
const _: () = assert!(
    (DETAILS_BYTES_MAX + HEADER_BYTES_MAX) * 32 / 10 + STATUS_BYTES_MAX + FRAME_BYTES_MAX
        <= CONTENT_BYTES_MAX
);
// Every short line of a message may begin with a dot, which is doubled.
const _: () = assert!(
    DETAILS_BYTES_MAX * 32 / 10 + FULL_BYTES_MAX * 4 / 3 + STATUS_BYTES_MAX + FRAME_BYTES_MAX
        <= CONTENT_BYTES_MAX * 5 / 4
);

/// What became of the recipients that a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They were refused or given up.
    Failed,
    /// They still wait, and are tried until then.
    Delayed {
        /// When they are given up.
        until: Timestamp,
    },
    /// They were handed to a host that does not report.
    Relayed,
    /// They were handed to their mailboxes.
    Delivered,
}

/// What a report is about.
pub struct Report<'a> {
    /// The relay's name: Reporting-MTA.
    pub host_name: &'a str,
    /// Where it goes: the reverse-path of the message, never null.
    pub to: &'a Address,
    /// The message. Its header is returned, with the fields that were put on top of it.
    pub message: &'a Message,
    /// What became of the recipients.
    pub kind: Kind,
    /// The recipients that it is about; at least one.
    pub recipients: &'a [ReportedRecipient<'a>],
    /// The message's content in wire form, or its start.
    pub content: &'a [u8],
    /// `content` is all of it, and is to be given back (RET=FULL).
    pub whole: bool,
    /// Makes the boundary and Message-ID unique.
    pub report_id: QueueId,
    /// The time: Date.
    pub now: Timestamp,
}

impl Report<'_> {
    /// BY as a time of the day (RFC 2852): Deliver-By-Date.
    fn deliver_by(&self) -> Option<Timestamp> {
        self.message.options.deliver_by.map(|by| by.at)
    }
}

/// One recipient that is reported on.
pub struct ReportedRecipient<'a> {
    /// As in the envelope.
    pub recipient: &'a Recipient,
    /// What the last attempt ended with.
    pub reason: &'a Reason,
    /// Attempts made.
    pub attempts: u16,
    /// Given up for its age, not refused.
    pub expired: bool,
    /// It is reported because the time of BY is over.
    pub late: bool,
    /// When a host was tried last, if that is known.
    pub last_attempt: Option<Timestamp>,
}

/// The report's content in wire form (CRLF, dot-stuffed), at most [`CONTENT_BYTES_MAX`]. It has
/// bytes above 127 only where an address or the message given back has them.
pub fn report(report: &Report<'_>) -> Vec<u8> {
    // `=_` cannot occur in quoted-printable (RFC 2045 6.7), and no other line begins with `--`.
    let boundary = format!("=_{}", report.report_id);
    let original = original(report, &boundary);
    let (details, status) = details_and_status(report);
    let mut text = text::opening(report);
    text.push_str(&details);
    let returned = match original.kind {
        // A host that takes only 7 bits gets the header in its place (`delivery`).
        "message/rfc822" | "message/global" if !is_seven_bit(&original.bytes) => {
            "your message, or its header alone if a server on the way back cannot take the rest"
        }
        "message/rfc822" | "message/global" => "your message",
        _ => "the header of your message",
    };
    text.push_str(&text::closing(report, returned));

    let host = ascii(&one_line(report.host_name.as_bytes(), VALUE_BYTES_MAX));
    let global = status::is_global(report);
    let kind = if global { "message/global-delivery-status" } else { "message/delivery-status" };
    let mut parts = Vec::new();
    part(&boundary, "text/plain", "; charset=utf-8", text.as_bytes(), false, &mut parts);
    part(&boundary, kind, "", status.as_bytes(), global, &mut parts);
    let Original { kind, bytes, as_it_is } = original;
    part(&boundary, kind, "", &bytes, as_it_is, &mut parts);
    let mut out = top(report, &host, &boundary, parts.is_ascii()).into_bytes();
    out.extend_from_slice(&parts);
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    stuff(out)
}

/// The report's own header.
fn top(report: &Report<'_>, host: &str, boundary: &str, seven_bit: bool) -> String {
    let to = one_line(report.to.as_str().as_bytes(), VALUE_BYTES_MAX);
    let subject = match report.kind {
        Kind::Failed => "Mail could not be delivered",
        Kind::Delayed { .. } => "Mail is delayed",
        Kind::Relayed => "Mail was handed on",
        Kind::Delivered => "Mail was delivered",
    };
    let mut out = String::with_capacity(1024);
    field(&mut out, "From", &format!("Mail Delivery System <MAILER-DAEMON@{host}>"));
    field(&mut out, "To", &to);
    field(&mut out, "Subject", subject);
    field(&mut out, "Date", &date(report.now));
    field(&mut out, "Message-ID", &format!("<{}@{host}>", report.report_id));
    field(&mut out, "Auto-Submitted", "auto-replied");
    field(&mut out, "MIME-Version", "1.0");
    let kind = "multipart/report; report-type=delivery-status;";
    field(&mut out, "Content-Type", &format!("{kind}\r\n\tboundary=\"{boundary}\""));
    if !seven_bit {
        field(&mut out, "Content-Transfer-Encoding", "8bit");
    }
    out.push_str("\r\nThis is a report in several parts, in MIME format.\r\n");
    out
}

/// One part of the report. The CRLF before a boundary belongs to the boundary (RFC 2046 5.1.1).
/// `as_it_is`: it is not to be quoted.
fn part(
    boundary: &str,
    kind: &str,
    parameters: &str,
    content: &[u8],
    as_it_is: bool,
    out: &mut Vec<u8>,
) {
    let seven_bit = is_seven_bit(content);
    let encoding = match (seven_bit, as_it_is) {
        (true, _) => "7bit",
        (false, true) => "8bit",
        (false, false) => "quoted-printable",
    };
    let mut head = format!("\r\n--{boundary}\r\n");
    field(&mut head, "Content-Type", &format!("{kind}{parameters}"));
    field(&mut head, "Content-Transfer-Encoding", encoding);
    head.push_str("\r\n");
    out.extend_from_slice(head.as_bytes());
    if seven_bit || as_it_is {
        out.extend_from_slice(content);
    } else {
        quote(content, out);
    }
}

fn field(out: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{name}: {value}\r\n");
}

/// The recipients for people and for programs, the same ones in both.
fn details_and_status(report: &Report<'_>) -> (String, String) {
    let (mut details, mut status) = (String::new(), status::of_message(report));
    let global = status::is_global(report);
    let mut detailed = 0;
    for reported in report.recipients.iter().take(RECIPIENTS_MAX) {
        if details.len() > DETAILS_BYTES_MAX || status.len() > STATUS_BYTES_MAX {
            break;
        }
        text::detail(report.kind, reported, &mut details);
        status::of_recipient(report, reported, global, &mut status);
        detailed += 1;
    }
    let rest = report.recipients.len().saturating_sub(detailed);
    if rest > 0 {
        let words = format!("... and {rest} more, which this report has no room for.");
        text::wrapped(&mut details, "", &words);
        details.push_str("\r\n");
    }
    (details, status)
}

/// `mx1.example.net` of `mx1.example.net [192.0.2.1]:25`; of an address alone, `[192.0.2.1]`.
fn host_of(remote: &str) -> String {
    let shown = remote_without_port(remote);
    shown.split_whitespace().next().unwrap_or_default().to_owned()
}

/// `mx1.example.net [192.0.2.1]` of `mx1.example.net [192.0.2.1]:25`.
fn remote_without_port(remote: &str) -> String {
    let remote = one_line(remote.as_bytes(), Reason::TEXT_LENGTH_MAX);
    match remote.rsplit_once(']') {
        Some((before, _)) => format!("{before}]"),
        None => remote,
    }
}
