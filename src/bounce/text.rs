//! The part of a report for people.

use super::encoding::date;
use super::{Kind, Report, ReportedRecipient, VALUE_BYTES_MAX, WRAP, host_of};
use crate::message::Reason;
use crate::smtp::one_line;
use std::fmt::Write;

pub(super) fn opening(report: &Report<'_>) -> String {
    let mut text = String::new();
    let host = one_line(report.host_name.as_bytes(), VALUE_BYTES_MAX);
    wrapped(&mut text, "", &format!("This is the mail relay {host}."));
    text.push_str("\r\n");
    let them = if report.told.len() == 1 { "this recipient" } else { "these recipients" };
    let arrived = format!(
        "The message that you sent, and that arrived here on {}",
        date(report.message.received_at)
    );
    let late = report.told.iter().any(|told| told.late);
    let by = report.deliver_by().filter(|_| late);
    let by = by.map_or_else(String::new, |at| format!(" by the time that you set, {}", date(at)));
    let words = match report.kind {
        Kind::Failed => format!(
            "{arrived}, could not be delivered to {them}. No further attempts will be made."
        ),
        Kind::Delayed { until } => format!(
            "{arrived}, has not been delivered yet to {them}{by}. It will be tried again until {}. \
             You need not send it again.",
            date(until)
        ),
        Kind::Relayed if report.deliver_by().is_some() => format!(
            "{arrived}, was handed on to the next mail server for {them}. You set a time for it \
             ({}): from here on that is with the servers that follow, as far as they know of such \
             times.",
            report.deliver_by().map(date).unwrap_or_default()
        ),
        Kind::Relayed => format!(
            "{arrived}, was handed on to the next mail server for {them}. That server does not \
             report deliveries: you will hear of it again only if there is trouble."
        ),
        Kind::Delivered => format!("{arrived}, was delivered to {them}."),
    };
    wrapped(&mut text, "", &words);
    text.push_str("\r\n");
    text
}

pub(super) fn closing(report: &Report<'_>, returned: &str) -> String {
    let mut text = String::new();
    if matches!(report.kind, Kind::Failed) {
        advice(report, &mut text);
        text.push_str("\r\n");
    }
    wrapped(&mut text, "", &format!("A report for programs follows, then {returned}."));
    wrapped(
        &mut text,
        "",
        &format!("When you ask for help, name the message: {}", report.message.id),
    );
    text
}

fn advice(report: &Report<'_>, text: &mut String) {
    let refused = "What you can do: the words above are those of the recipient's mail server where \
                   it gave a reason. If it does not know the address, check its spelling. If it \
                   refuses the message for another reason, only those who run that server can \
                   change it.";
    wrapped(text, "", refused);
    if report.told.iter().any(|told| told.late) {
        let late = "Where it was not delivered by the time that you set for it, it comes back only \
                    for that: you can send it again, with another time or none.";
        wrapped(text, "", late);
    } else if report.told.iter().any(|told| told.expired) {
        let expired = "If the message waited too long, the server was out of reach or busy; you \
                       can send the message again later.";
        wrapped(text, "", expired);
    }
}

pub(super) fn detail(kind: Kind, told: &ReportedRecipient<'_>, text: &mut String) {
    let address = one_line(told.recipient.address.as_str().as_bytes(), VALUE_BYTES_MAX);
    let _ = write!(text, "<{address}>\r\n");
    let reason = told.reason;
    let remote = host_of(reason);
    let words = one_line(reason.text.as_bytes(), Reason::TEXT_LENGTH_MAX);
    let mut said = String::new();
    if reason.code != 0 {
        let _ = write!(said, "{} ", reason.code);
    }
    let _ = write!(said, "{} {words}", reason.status);
    let at = if remote.is_empty() { String::new() } else { format!(" ({remote})") };
    let attempts = told.attempts;
    let times = if attempts == 1 { "attempt" } else { "attempts" };
    let sentence = match (kind, remote.is_empty(), reason.code != 0) {
        (Kind::Failed, _, _) if told.late => {
            format!("Not delivered in time: {attempts} {times}, the last of which{at} gave: {said}")
        }
        (Kind::Failed, _, _) if told.expired => {
            format!("Waited too long: {attempts} {times}, the last of which{at} gave: {said}")
        }
        (Kind::Failed, false, true) => format!("The server {remote} refused it: {said}"),
        (Kind::Failed, false, false) => {
            format!("It cannot be sent to the server {remote}: {said}")
        }
        (Kind::Failed, true, _) => format!("It cannot be delivered: {said}"),
        (Kind::Delayed { .. }, _, _) if attempts == 0 => format!("Not tried yet: {said}"),
        (Kind::Delayed { .. }, _, _) => {
            format!("{attempts} {times}, the last of which{at} gave: {said}")
        }
        (Kind::Relayed | Kind::Delivered, true, _) => format!("It was taken: {said}"),
        (Kind::Relayed | Kind::Delivered, false, _) => {
            format!("The server {remote} took it: {said}")
        }
    };
    wrapped(text, "    ", &sentence);
    for other in reason.other_hosts() {
        let words = one_line(other.to_string().as_bytes(), Reason::TEXT_LENGTH_MAX);
        wrapped(text, "    ", &format!("Also tried: {words}"));
    }
    text.push_str("\r\n");
}

/// Appends `words`, wrapped between them and indented; one word longer than a line is not broken.
pub(super) fn wrapped(text: &mut String, indent: &str, words: &str) {
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
