//! Builds delivery status notifications (RFC 3464 in a multipart/report, RFC 6522). *Pure.*
//!
//! Facts go in: who could not be reached and why, in the remote server's words. A whole message in
//! wire form comes out, for people first and for programs second. It must not know when reports are
//! sent, to whom none may be sent (`<>`, NOTIFY=NEVER), or how they are queued.
//!
//! Decisions:
//!
//! - *Status of a recipient given up for its age* is 4.4.7, not 5.4.7. `Action: failed` already
//!   says that it is over; the class tells senders that every attempt met a temporary trouble, so
//!   that they do not strike the address from their lists as they do after 5.x.x. What the last
//!   attempt met stands in Diagnostic-Code.
//! - *Last-Attempt-Date* (RFC 3464 2.3.7) is given only where a host was tried and the recipient
//!   refused: then it is the report's own time. The last attempt of an expired one lies further
//!   back, and is not known here.
//! - *The report is 7-bit*, so that it needs no extension on its way: parts that hold anything else
//!   are quoted-printable (RFC 6522 allows it for text/rfc822-headers). The one exception is a `To`
//!   that is not ASCII itself, which only an SMTPUTF8 host can take anyway.
//! - *Only the header is returned*, whatever RET asked for: RFC 3461 4.3 leaves that to the
//!   relay, and a returned body helps spammers more than senders.
//! - *Nothing from outside can add a line.* Each value passes through [`one_line`] or a stricter
//!   gate, and header lines that hold bare CR, LF or NUL are quoted.

mod encoding;
#[cfg(test)]
mod tests;

use crate::message::{Address, QueueId, Reason, Recipient, Stage, Status, Timestamp};
use crate::smtp::one_line;
use encoding::{ascii, date, from_xtext, is_seven_bit, lines, quote, stuff, to_utf8_xtext};
use std::fmt::Write;

/// A report in wire form is never longer, in bytes.
pub const CONTENT_BYTES_MAX: usize = 1024 * 1024;
/// One report details so many recipients at most and counts the rest. A caller with more failures
/// makes several reports.
pub const RECIPIENTS_MAX: usize = 1000;
/// So much of the original header is returned, in bytes; the rest is cut between lines.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;

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

/// What a report is about.
pub struct Report<'a> {
    /// The relay's name: Reporting-MTA.
    pub host_name: &'a str,
    /// To whom: the reverse-path of the message, never null.
    pub to: &'a Address,
    /// The message that failed.
    pub id: QueueId,
    /// When it was received here: Arrival-Date.
    pub received_at: Timestamp,
    /// ENVID as given.
    pub envelope_id: Option<&'a str>,
    /// Who was not reached; at least one.
    pub failed: &'a [Failed<'a>],
    /// The trace that goes on top of the content. Its header and that of `content` are returned.
    pub trace: &'a [u8],
    /// The start of the original content in wire form.
    pub content: &'a [u8],
    /// `content` is dot-stuffed; otherwise no line of it begins with a dot.
    pub dot_stuffed: bool,
    /// Makes the boundary and Message-ID unique.
    pub report_id: QueueId,
    /// The time: Date.
    pub now: Timestamp,
}

/// One recipient that was not reached.
pub struct Failed<'a> {
    /// As in the envelope.
    pub recipient: &'a Recipient,
    /// What the last attempt ended with.
    pub reason: &'a Reason,
    /// Attempts made.
    pub attempts: u16,
    /// Given up for its age, not refused.
    pub expired: bool,
}

/// The report's content in wire form (CRLF, dot-stuffed), at most [`CONTENT_BYTES_MAX`].
pub fn report(report: &Report<'_>) -> Vec<u8> {
    let (details, status) = details_and_status(report);
    let mut text = opening(report);
    text.push_str(&details);
    text.push_str(&closing(report));
    let mut header = original_header(report);
    if header.is_empty() {
        header.extend_from_slice(b"\r\n"); // a message without a header: an empty one
    }

    let host = ascii(&one_line(report.host_name.as_bytes(), VALUE_BYTES_MAX));
    // `=_` cannot occur in quoted-printable (RFC 2045 6.7), and no other line begins with `--`.
    let boundary = format!("=_{}", report.report_id);
    let mut out = top(report, &host, &boundary).into_bytes();
    part(&boundary, "text/plain", "; charset=utf-8", text.as_bytes(), &mut out);
    part(&boundary, "message/delivery-status", "", status.as_bytes(), &mut out);
    part(&boundary, "text/rfc822-headers", "", &header, &mut out);
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    stuff(out)
}

/// The report's own header.
fn top(report: &Report<'_>, host: &str, boundary: &str) -> String {
    let to = one_line(report.to.as_str().as_bytes(), VALUE_BYTES_MAX);
    let mut out = String::with_capacity(1024);
    field(&mut out, "From", &format!("Mail Delivery System <MAILER-DAEMON@{host}>"));
    field(&mut out, "To", &to);
    field(&mut out, "Subject", "Mail could not be delivered");
    field(&mut out, "Date", &date(report.now));
    field(&mut out, "Message-ID", &format!("<{}@{host}>", report.report_id));
    field(&mut out, "Auto-Submitted", "auto-replied");
    field(&mut out, "MIME-Version", "1.0");
    let kind = "multipart/report; report-type=delivery-status;";
    field(&mut out, "Content-Type", &format!("{kind}\r\n\tboundary=\"{boundary}\""));
    out.push_str("\r\nThis is a report in several parts, in MIME format.\r\n");
    out
}

/// One part of the report. The CRLF before a boundary belongs to the boundary (RFC 2046 5.1.1).
fn part(boundary: &str, kind: &str, parameters: &str, content: &[u8], out: &mut Vec<u8>) {
    let seven_bit = is_seven_bit(content);
    let encoding = if seven_bit { "7bit" } else { "quoted-printable" };
    let mut head = format!("\r\n--{boundary}\r\n");
    field(&mut head, "Content-Type", &format!("{kind}{parameters}"));
    field(&mut head, "Content-Transfer-Encoding", encoding);
    head.push_str("\r\n");
    out.extend_from_slice(head.as_bytes());
    if seven_bit {
        out.extend_from_slice(content);
    } else {
        quote(content, out);
    }
}

fn field(out: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{name}: {value}\r\n");
}

fn opening(report: &Report<'_>) -> String {
    let mut text = String::new();
    let host = one_line(report.host_name.as_bytes(), VALUE_BYTES_MAX);
    wrapped(&mut text, "", &format!("This is the mail relay {host}."));
    text.push_str("\r\n");
    let whom = if report.failed.len() == 1 { "this recipient" } else { "these recipients" };
    let words = format!(
        "The message that you sent, and that arrived here on {}, could not be delivered to {whom}. \
         No further attempts will be made.",
        date(report.received_at)
    );
    wrapped(&mut text, "", &words);
    text.push_str("\r\n");
    text
}

fn closing(report: &Report<'_>) -> String {
    let mut text = String::new();
    let refused = "What you can do: the words above are those of the recipient's mail server where \
                   it gave a reason. If it does not know the address, check its spelling. If it \
                   refuses the message for another reason, only those who run that server can \
                   change it.";
    wrapped(&mut text, "", refused);
    if report.failed.iter().any(|failed| failed.expired) {
        let expired = "If the message waited too long, the server was out of reach or busy; you \
                       can send the message again later.";
        wrapped(&mut text, "", expired);
    }
    text.push_str("\r\n");
    wrapped(&mut text, "", "A report for programs follows, then the header of your message.");
    wrapped(&mut text, "", &format!("When you ask for help, name the message: {}", report.id));
    text
}

/// The recipients for people and for programs, the same ones in both.
fn details_and_status(report: &Report<'_>) -> (String, String) {
    let (mut details, mut status) = (String::new(), status_of_message(report));
    let mut told = 0;
    for failed in report.failed.iter().take(RECIPIENTS_MAX) {
        if details.len() > DETAILS_BYTES_MAX || status.len() > STATUS_BYTES_MAX {
            break;
        }
        detail(failed, &mut details);
        status_of_recipient(report, failed, &mut status);
        told += 1;
    }
    let rest = report.failed.len().saturating_sub(told);
    if rest > 0 {
        let words = format!("... and {rest} more, which this report has no room for.");
        wrapped(&mut details, "", &words);
        details.push_str("\r\n");
    }
    (details, status)
}

fn detail(failed: &Failed<'_>, text: &mut String) {
    let address = one_line(failed.recipient.address.as_str().as_bytes(), VALUE_BYTES_MAX);
    let _ = write!(text, "<{address}>\r\n");
    let reason = failed.reason;
    let remote = host_of(reason);
    let words = one_line(reason.text.as_bytes(), Reason::TEXT_LENGTH_MAX);
    let mut said = String::new();
    if reason.code != 0 {
        let _ = write!(said, "{} ", reason.code);
    }
    let _ = write!(said, "{} {words}", reason.status);
    let sentence = match (failed.expired, remote.is_empty(), reason.code != 0) {
        (true, _, _) => {
            let attempts = failed.attempts;
            let times = if attempts == 1 { "attempt" } else { "attempts" };
            let from = if remote.is_empty() { String::new() } else { format!(" ({remote})") };
            format!("Waited too long: {attempts} {times}, the last of which{from} gave: {said}")
        }
        (false, false, true) => format!("The server {remote} refused it: {said}"),
        (false, false, false) => format!("It cannot be sent to the server {remote}: {said}"),
        (false, true, _) => format!("It cannot be delivered: {said}"),
    };
    wrapped(text, "    ", &sentence);
    text.push_str("\r\n");
}

/// The fields about the message (RFC 3464 2.2).
fn status_of_message(report: &Report<'_>) -> String {
    let mut out = String::new();
    if let Some(envelope_id) = report.envelope_id {
        field(&mut out, "Original-Envelope-Id", &value(&from_xtext(envelope_id)));
    }
    field(&mut out, "Reporting-MTA", &format!("dns; {}", value(report.host_name)));
    field(&mut out, "X-Ringpost-Queue-ID", &report.id.to_string());
    field(&mut out, "Arrival-Date", &date(report.received_at));
    out
}

/// The fields about one recipient (RFC 3464 2.3), with the empty line before them.
fn status_of_recipient(report: &Report<'_>, failed: &Failed<'_>, out: &mut String) {
    out.push_str("\r\n");
    if let Some(original) = &failed.recipient.original
        && let Some((kind, address)) = original.split_once(';')
    {
        // RFC 6533 3: what stands behind `utf-8;` is encoded in a way of its own and stays so.
        let address =
            if kind.eq_ignore_ascii_case("utf-8") { ascii(address) } else { from_xtext(address) };
        field(out, "Original-Recipient", &value(&format!("{kind};{address}")));
    }
    let address = failed.recipient.address.as_str();
    let typed = if address.is_ascii() {
        format!("rfc822; {address}")
    } else {
        format!("utf-8; {}", to_utf8_xtext(address))
    };
    field(out, "Final-Recipient", &value(&typed));
    field(out, "Action", "failed");
    let status = match (failed.expired, failed.reason.status) {
        (true, _) => Status(4, 4, 7),
        (false, status @ Status(5, _, _)) => status,
        (false, _) => Status(5, 0, 0),
    };
    field(out, "Status", &status.to_string());
    let reason = failed.reason;
    let remote = host_of(reason);
    if !remote.is_empty() {
        field(out, "Remote-MTA", &format!("dns; {}", value(&remote)));
    }
    let words = &reason.text;
    let diagnostic = if reason.code != 0 {
        format!("smtp; {} {} {words}", reason.code, reason.status)
    } else {
        // RFC 3464 2.3.6: a type of our own for words that are no SMTP reply.
        format!("X-Ringpost; {words}")
    };
    field(out, "Diagnostic-Code", value(&diagnostic).trim_end());
    if !failed.expired && !remote.is_empty() && reason.stage != Stage::Local {
        field(out, "Last-Attempt-Date", &date(report.now));
    }
}

/// A value from outside for a field of the status part: ASCII, one line, not too long.
fn value(text: &str) -> String {
    let mut value = ascii(text);
    value.truncate(VALUE_BYTES_MAX);
    value
}

/// `mx1.example.net` of `mx1.example.net [192.0.2.1]:25`; of an address alone, `[192.0.2.1]`.
fn host_of(reason: &Reason) -> String {
    let remote = one_line(reason.remote.as_bytes(), Reason::TEXT_LENGTH_MAX);
    let host = remote.split_whitespace().next().unwrap_or_default();
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => format!("[{address}]"),
        None => host.to_owned(),
    }
}

/// Appends `words`, wrapped between them and indented; one word longer than a line is not broken.
fn wrapped(text: &mut String, indent: &str, words: &str) {
    let mut column = 0;
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        if column > 0 && column + 1 + word.len() > WRAP {
            text.push_str("\r\n");
            column = 0;
        }
        let before = if column == 0 { indent } else { " " };
        text.push_str(before);
        text.push_str(word);
        column += before.len() + word.len();
    }
    text.push_str("\r\n");
}

/// The header of trace and content, each line with CRLF and without stuffing, at most
/// [`HEADER_BYTES_MAX`]. It ends where fields end: what follows is body, and nobody's business.
fn original_header(report: &Report<'_>) -> Vec<u8> {
    let mut header = Vec::new();
    let trace = lines(report.trace);
    let content = lines(report.content).map(|line| match line.strip_prefix(b".") {
        Some(rest) if report.dot_stuffed => rest,
        _ => line,
    });
    for line in trace.chain(content) {
        if !continues_header(line, header.is_empty())
            || header.len() + line.len() + 2 > HEADER_BYTES_MAX
        {
            break;
        }
        header.extend_from_slice(line);
        header.extend_from_slice(b"\r\n");
    }
    header
}

/// A field (RFC 5322 2.2) or, unless it would be the first line, the continuation of one.
fn continues_header(line: &[u8], first: bool) -> bool {
    match line.first() {
        Some(b' ' | b'\t') => !first,
        Some(_) => memchr::memchr(b':', line).is_some_and(|end| {
            // RFC 5322 4.5 has space before the colon in old messages.
            let name = line.get(..end).unwrap_or_default().trim_ascii_end();
            // No field could pass for a boundary.
            !name.is_empty() && !name.starts_with(b"--") && name.iter().all(u8::is_ascii_graphic)
        }),
        None => false,
    }
}
