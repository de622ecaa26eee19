//! What a report gives back of the message that it is about: its header, or all of it.

use super::encoding::{is_eight_bit, is_seven_bit, lines};
use super::{FULL_BYTES_MAX, HEADER_BYTES_MAX, Report};

/// The part of a report that gives something back.
pub(super) struct Original {
    /// Its media type.
    pub(super) kind: &'static str,
    pub(super) bytes: Vec<u8>,
    /// It may not be encoded for transport, and need not be (RFC 2046 5.2.1, RFC 6533 6).
    pub(super) as_it_is: bool,
}

/// All of the message if it was asked for and can be had so, else its header.
pub(super) fn original(report: &Report<'_>, boundary: &str) -> Original {
    if let Some(bytes) = whole(report, boundary) {
        let kind = if is_seven_bit(&bytes) || !report.message.options.smtp_utf8 {
            "message/rfc822"
        } else {
            "message/global"
        };
        return Original { kind, bytes, as_it_is: true };
    }
    let mut bytes = header(report);
    if bytes.is_empty() {
        bytes.extend_from_slice(b"\r\n"); // a message without a header: an empty one
    }
    // RFC 6533 6: only for what is UTF-8; anything else is quoted as before.
    let is_global = report.message.options.smtp_utf8
        && !bytes.is_ascii()
        && is_eight_bit(&bytes)
        && std::str::from_utf8(&bytes).is_ok();
    let kind = if is_global { "message/global-headers" } else { "text/rfc822-headers" };
    Original { kind, bytes, as_it_is: is_global }
}

/// Trace and content without stuffing; `None` when all of it is not wanted, or could not stand in a
/// part unencoded, which a message/rfc822 must (RFC 2046 5.2.1).
fn whole(report: &Report<'_>, boundary: &str) -> Option<Vec<u8>> {
    if !report.whole
        || report.message.prepended_headers.len() + report.content.len() > FULL_BYTES_MAX
    {
        return None;
    }
    let mut all = Vec::with_capacity(report.message.prepended_headers.len() + report.content.len());
    for line in all_lines(report) {
        all.extend_from_slice(line);
        all.extend_from_slice(b"\r\n");
    }
    // Senders can guess ids, and a part that holds the boundary would end early.
    let fits = is_eight_bit(&all) && memchr::memmem::find(&all, boundary.as_bytes()).is_none();
    (fits && !all.is_empty()).then_some(all)
}

/// The lines of trace and content without their CRLF and without stuffing.
fn all_lines<'a>(report: &Report<'a>) -> impl Iterator<Item = &'a [u8]> {
    let dot_stuffed = report.message.flags.dot_stuffed;
    let content = lines(report.content).map(move |line| match line.strip_prefix(b".") {
        Some(rest) if dot_stuffed => rest,
        _ => line,
    });
    lines(&report.message.prepended_headers).chain(content)
}

/// The header of trace and content, each line with CRLF and without stuffing, at most
/// [`HEADER_BYTES_MAX`]. It ends where fields end: what follows is body, which is not returned.
fn header(report: &Report<'_>) -> Vec<u8> {
    let mut header = Vec::new();
    for line in all_lines(report) {
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
