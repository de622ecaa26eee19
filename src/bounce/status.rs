//! The part of a report for programs (RFC 3464, RFC 6533).

use super::encoding::date;
use super::{Kind, Report, ReportedRecipient, VALUE_BYTES_MAX, field, host_of};
use crate::message::Status;
use crate::smtp::{ascii, from_xtext, one_line, to_unitext, to_utf8_xtext};

/// The fields about the message (RFC 3464 2.2).
pub(super) fn of_message(report: &Report<'_>) -> String {
    let mut out = String::new();
    if let Some(envelope_id) = &report.message.options.dsn_envelope_id {
        field(&mut out, "Original-Envelope-Id", &value(&from_xtext(envelope_id)));
    }
    field(&mut out, "Reporting-MTA", &format!("dns; {}", value(report.host_name)));
    field(&mut out, "X-Ringpost-Queue-ID", &report.message.id.to_string());
    field(&mut out, "Arrival-Date", &date(report.message.received_at));
    // RFC 2852 5.
    if let Some(at) = report.deliver_by() {
        field(&mut out, "Deliver-By-Date", &date(at));
    }
    out
}

/// Whether the part is message/global-delivery-status (RFC 6533 4): an address is not ASCII, and
/// the sender has shown that its side takes SMTPUTF8.
pub(super) fn is_global(report: &Report<'_>) -> bool {
    report.message.options.smtp_utf8
        && report.recipients.iter().any(|reported| !reported.recipient.address.as_str().is_ascii())
}

/// The fields about one recipient (RFC 3464 2.3), with the empty line before them.
pub(super) fn of_recipient(
    report: &Report<'_>,
    reported: &ReportedRecipient<'_>,
    global: bool,
    out: &mut String,
) {
    out.push_str("\r\n");
    if let Some(original) = &reported.recipient.original
        && let Some((kind, address)) = original.split_once(';')
    {
        // RFC 6533 3: what stands behind `utf-8;` is encoded in a way of its own and stays so.
        let address =
            if kind.eq_ignore_ascii_case("utf-8") { ascii(address) } else { from_xtext(address) };
        field(out, "Original-Recipient", &value(&format!("{kind};{address}")));
    }
    let address = reported.recipient.address.as_str();
    let typed = match (address.is_ascii(), global) {
        (true, _) => value(&format!("rfc822; {address}")),
        (false, false) => value(&format!("utf-8; {}", to_utf8_xtext(address))),
        (false, true) => {
            one_line(format!("utf-8; {}", to_unitext(address)).as_bytes(), VALUE_BYTES_MAX)
        }
    };
    field(out, "Final-Recipient", &typed);
    let action = match report.kind {
        Kind::Failed => "failed",
        Kind::Delayed { .. } => "delayed",
        Kind::Relayed => "relayed",
        Kind::Delivered => "delivered",
    };
    field(out, "Action", action);
    field(out, "Status", &status(report.kind, reported).to_string());
    let reason = reported.reason;
    let remote = host_of(&reason.remote);
    if !remote.is_empty() {
        field(out, "Remote-MTA", &format!("dns; {}", value(&remote)));
    }
    diagnostic(report, reported, global, out);
    if let Some(at) = reported.last_attempt.filter(|_| !remote.is_empty()) {
        field(out, "Last-Attempt-Date", &date(at));
    }
    if let Kind::Delayed { until } = report.kind {
        field(out, "Will-Retry-Until", &date(until));
    }
}

fn diagnostic(
    report: &Report<'_>,
    reported: &ReportedRecipient<'_>,
    global: bool,
    out: &mut String,
) {
    let reason = reported.reason;
    let words = &reason.text;
    let text = if let (true, Some(at)) = (reported.late, report.deliver_by()) {
        let code = if reason.code == 0 { String::new() } else { format!("{} ", reason.code) };
        let by = date(at);
        format!(
            "X-Ringpost; not delivered by {by} (BY), and so far: {code}{} {words}",
            reason.status
        )
    } else if reason.code != 0 {
        format!("smtp; {} {} {words}", reason.code, reason.status)
    } else {
        // RFC 3464 2.3.6: a type of our own for words that are no SMTP reply.
        format!("X-Ringpost; {words}")
    };
    let text = match global {
        true => one_line(text.as_bytes(), VALUE_BYTES_MAX),
        false => value(&text),
    };
    field(out, "Diagnostic-Code", text.trim_end());
}

/// The class says what became of the recipient, whatever class the reply had.
fn status(kind: Kind, reported: &ReportedRecipient<'_>) -> Status {
    let class = match kind {
        Kind::Failed if reported.late => return Status(5, 4, 7),
        Kind::Failed if reported.expired => return Status(4, 4, 7),
        Kind::Delayed { .. } if reported.late => return Status(4, 4, 7),
        Kind::Failed => 5,
        Kind::Delayed { .. } => 4,
        Kind::Relayed | Kind::Delivered => 2,
    };
    if reported.reason.status.0 == class { reported.reason.status } else { Status(class, 0, 0) }
}

/// A value from outside for a field of the status part: ASCII, one line, not too long.
fn value(text: &str) -> String {
    let mut value = ascii(text);
    value.truncate(VALUE_BYTES_MAX);
    value
}
