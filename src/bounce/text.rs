//! The part of a report for people.

use super::encoding::date;
use super::{Kind, Report, ReportedRecipient, VALUE_BYTES_MAX, WRAP, host_of, remote_without_port};
use crate::message::{HostAttempt, Reason};
use crate::smtp::one_line;
use std::fmt::Write;

pub(super) fn opening(report: &Report<'_>) -> String {
    let mut text = String::new();
    let host = one_line(report.host_name.as_bytes(), VALUE_BYTES_MAX);
    wrapped(&mut text, "", &format!("This is the mail relay {host}."));
    text.push_str("\r\n");
    let them = if report.recipients.len() == 1 { "this recipient" } else { "these recipients" };
    let arrived = format!(
        "The message that you sent, and that arrived here on {}",
        date(report.message.received_at)
    );
    let late = report.recipients.iter().any(|reported| reported.late);
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
    let refused = "What you can do: where a server gave a reason, its words are quoted above. If \
                   it does not know the address, check the spelling. If it refused the message \
                   for another reason, only the people who run that server can change that.";
    wrapped(text, "", refused);
    if report.recipients.iter().any(|reported| reported.late) {
        let late = "Where it was not delivered by the time that you set for it, it comes back only \
                    for that: you can send it again, with another time or none.";
        wrapped(text, "", late);
    } else if report.recipients.iter().any(|reported| reported.expired) {
        let expired = "Where the message waited too long, the server could not be reached or did \
                       not accept it yet: you can send the message again later.";
        wrapped(text, "", expired);
    }
}

/// One recipient: what became of it, and what happened at each host that was tried, the most
/// telling first.
pub(super) fn detail(kind: Kind, reported: &ReportedRecipient<'_>, text: &mut String) {
    let address = one_line(reported.recipient.address.as_str().as_bytes(), VALUE_BYTES_MAX);
    let _ = write!(text, "<{address}>\r\n");
    if let Some(summary) = summary(kind, reported) {
        wrapped(text, "    ", &summary);
    }
    let reason = reported.reason;
    let is_refusal = matches!(kind, Kind::Failed) && !reported.late && !reported.expired;
    let verb = match kind {
        Kind::Relayed | Kind::Delivered => "took it",
        Kind::Failed if is_refusal => "refused it",
        Kind::Failed | Kind::Delayed { .. } => "said",
    };
    let first = HostAttempt::of(reason);
    let others = reason.other_hosts();
    let words = |host: &HostAttempt, verb: &str| {
        let is_twin = |other: &&HostAttempt| host_of(&other.remote) == host_of(&host.remote);
        let twins = std::iter::once(&first).chain(others).filter(is_twin).count();
        host_words(host, verb, if twins > 1 { Naming::WithAddress } else { Naming::Short })
    };
    wrapped(text, "    ", &words(&first, verb));
    for other in others {
        wrapped(text, "    ", &words(other, "said"));
    }
    text.push_str("\r\n");
}

/// What became of a recipient, where what the hosts said does not say it all.
fn summary(kind: Kind, reported: &ReportedRecipient<'_>) -> Option<String> {
    let last = match reported.attempts {
        0 => "it was not tried. What it waited for".to_owned(),
        1 => "it was tried once. What happened then".to_owned(),
        attempts => format!("it was tried {attempts} times. What happened the last time"),
    };
    match kind {
        Kind::Failed if reported.late => Some(format!("The time that you set is over; {last}:")),
        Kind::Failed if reported.expired => Some(format!("It waited too long; {last}:")),
        Kind::Delayed { .. } => Some(format!("It still waits; {last}:")),
        Kind::Failed | Kind::Relayed | Kind::Delivered => None,
    }
}

/// How a host is named.
#[derive(Clone, Copy)]
enum Naming {
    /// By its name alone.
    Short,
    /// Several addresses of the name were tried.
    WithAddress,
}

/// What happened at one host. `verb` is for a reply of its own.
fn host_words(host: &HostAttempt, verb: &str, naming: Naming) -> String {
    let words = one_line(host.text.as_bytes(), Reason::TEXT_LENGTH_MAX);
    let name = match naming {
        Naming::Short => host_of(&host.remote),
        Naming::WithAddress => remote_without_port(&host.remote),
    };
    match (name.is_empty(), host.code) {
        // The status of our own words is in the part for programs.
        (true, 0) => format!("It could not be sent: {words}"),
        (true, code) => format!("{code} {} {words}", host.status),
        (false, 0) => format!("Delivery to the server {name} failed: {words}"),
        (false, code) => format!("The server {name} {verb}: {code} {} {words}", host.status),
    }
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
