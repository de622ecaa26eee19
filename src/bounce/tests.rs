//! Reports as senders get them, and what hostile words may not do to them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::*;
use crate::message::{
    ByMode, Content, ContentFlags, DeliverBy, Envelope, HostAttempt, Options, Stage, Status,
};

const TRACE: &[u8] = b"Received: from client by relay.example\r\n\tid X; date\r\n";
const CONTENT: &[u8] = b"Subject: hello\r\nX-Dots: a\r\n ..b\r\n\r\nsecret body\r\n";

fn recipient(address: &str) -> Recipient {
    Recipient::plain(Address::new(address))
}

fn reason(code: u16, status: Status, text: &str) -> Reason {
    let remote = "mx1.b.example [192.0.2.1]:25".into();
    Reason { stage: Stage::Recipient, code, status, text: text.into(), remote, hosts: None }
}

/// One that was refused at once.
fn reported<'a>(recipient: &'a Recipient, reason: &'a Reason) -> ReportedRecipient<'a> {
    let last_attempt = Some(Timestamp(1_700_000_090_000));
    ReportedRecipient { recipient, reason, attempts: 1, expired: false, late: false, last_attempt }
}

/// A message with these options.
fn message(options: Options) -> Message {
    Message {
        id: QueueId(7),
        received_at: Timestamp(1_700_000_000_000),
        envelope: Envelope { reverse_path: None, recipients: Vec::new() },
        options,
        flags: ContentFlags { dot_stuffed: true, eight_bit: false },
        prepended_headers: TRACE.to_vec(),
        content: Content::Whole(Vec::new()),
    }
}

fn plain() -> Message {
    message(Options::default())
}

fn with_envelope_id(envelope_id: Option<&str>) -> Message {
    let dsn_envelope_id = envelope_id.map(Box::from);
    message(Options { dsn_envelope_id, ..Options::default() })
}

fn sender() -> Address {
    Address::new("sender@a.example")
}

fn about<'a>(
    to: &'a Address,
    message: &'a Message,
    reported: &'a [ReportedRecipient<'a>],
    content: &'a [u8],
) -> Report<'a> {
    Report {
        host_name: "relay.example",
        to,
        message,
        kind: Kind::Failed,
        recipients: reported,
        whole: false,
        content,
        report_id: QueueId(9),
        now: Timestamp(1_700_000_100_000),
    }
}

fn built(failed: &[ReportedRecipient<'_>], content: &[u8], envelope_id: Option<&str>) -> String {
    let bytes = report(&about(&sender(), &with_envelope_id(envelope_id), failed, content));
    assert!(bytes.len() <= CONTENT_BYTES_MAX);
    let text = String::from_utf8(bytes).expect("7-bit");
    assert!(text.is_ascii() && text.ends_with("\r\n"));
    let bare = text.replace("\r\n", "");
    assert!(!bare.contains(['\r', '\n', '\0']), "no bare line ends");
    for line in text.split("\r\n") {
        assert!(line.len() <= 998, "{line}");
        assert!(!line.starts_with('.') || line.starts_with(".."), "dot-stuffed: {line}");
    }
    text
}

#[test]
fn a_report_reads_as_a_whole() {
    let mut one = recipient("x@b.example");
    one.original = Some("rfc822;X+2Bnews@b.example".into());
    let two = recipient("y@b.example");
    let unknown = reason(550, Status(5, 1, 1), "No such user here");
    let busy = reason(450, Status(4, 2, 1), "Mailbox busy");
    let failed = [
        reported(&one, &unknown),
        ReportedRecipient {
            attempts: 31,
            expired: true,
            last_attempt: None,
            ..reported(&two, &busy)
        },
    ];
    let text = built(&failed, CONTENT, Some("QQ+2B314"));
    let expected = include_str!("../../tests/fixtures/bounce/report.eml").replace('\n', "\r\n");
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn what_no_server_said_is_not_given_as_its_words() {
    let one = recipient("x@b.example");
    let ours = Reason::ours(Stage::Route, Status(5, 1, 10), "the domain takes no mail");
    let failed = [reported(&one, &ours)];
    let text = built(&failed, CONTENT, None);
    assert!(text.contains("Diagnostic-Code: X-Ringpost; the domain takes no mail\r\n"));
    assert!(text.contains("Status: 5.1.10\r\n"));
    for absent in ["Remote-MTA", "Last-Attempt-Date", "smtp;", "Original-Envelope-Id"] {
        assert!(!text.contains(absent), "{absent}");
    }
}

/// The lines for people about `x@b.example`.
fn detail(kind: Kind, reason: &Reason, attempts: u16, expired: bool) -> Vec<String> {
    let one = recipient("x@b.example");
    let reported = ReportedRecipient { attempts, expired, ..reported(&one, reason) };
    let mut text = String::new();
    text::detail(kind, &reported, &mut text);
    let text = text.strip_prefix("<x@b.example>\r\n").unwrap().replace("\r\n    ", "\n");
    text.trim().lines().map(str::to_owned).collect()
}

#[test]
fn each_host_that_was_tried_is_named_in_plain_words_the_most_telling_first() {
    let mut busy = reason(450, Status(4, 2, 1), "Mailbox busy");
    let refused = HostAttempt {
        remote: "mx2.b.example [192.0.2.2]:25".into(),
        stage: Stage::Connect,
        code: 0,
        status: Status(4, 4, 1),
        text: "the host refused the connection".into(),
    };
    let twin = HostAttempt { remote: "mx2.b.example [2001:db8::2]:25".into(), ..refused.clone() };
    busy.hosts = Some([HostAttempt::of(&busy), refused, twin].into());
    let hosts = [
        "The server mx1.b.example said: 450 4.2.1 Mailbox busy",
        "Delivery to the server mx2.b.example [192.0.2.2] failed: the host",
        "refused the connection",
        "Delivery to the server mx2.b.example [2001:db8::2] failed: the host",
        "refused the connection",
    ];
    let until = Timestamp(1_700_400_000_000);
    for (kind, attempts, expired, summary) in [
        (
            Kind::Failed,
            31,
            true,
            "It waited too long; it was tried 31 times. What happened the last time:",
        ),
        (Kind::Failed, 1, true, "It waited too long; it was tried once. What happened then:"),
        (Kind::Failed, 0, true, "It waited too long; it was not tried. What it waited for:"),
        (
            Kind::Delayed { until },
            1,
            false,
            "It still waits; it was tried once. What happened then:",
        ),
    ] {
        let lines = detail(kind, &busy, attempts, expired);
        assert_eq!(lines[0], summary);
        assert_eq!(lines[1..], hosts);
    }
    let lines = detail(Kind::Failed, &busy, 1, false);
    assert_eq!(lines[0], "The server mx1.b.example refused it: 450 4.2.1 Mailbox busy");
    assert_eq!(lines[1..], hosts[1..]);
}

#[test]
fn what_happened_without_a_host_is_said_without_codes() {
    let silent = Reason::ours(Stage::Route, Status(4, 4, 3), "no DNS server answered in time");
    let lines = detail(Kind::Failed, &silent, 3, true);
    assert_eq!(lines[1..], ["It could not be sent: no DNS server answered in time"]);
    let lines = detail(Kind::Failed, &silent, 1, false);
    assert_eq!(lines, ["It could not be sent: no DNS server answered in time"]);
}

#[test]
fn a_failure_never_carries_the_status_of_success_or_delay() {
    let one = recipient("x@b.example");
    let odd = reason(554, Status(4, 7, 1), "odd");
    let failed = [reported(&one, &odd)];
    assert!(built(&failed, CONTENT, None).contains("\r\nStatus: 5.0.0\r\n"));
}

#[test]
fn nothing_from_outside_adds_a_line() {
    let evil = "x\r\nBcc: all@b.example\r\n\r\n.\r\nMAIL FROM:<>\n\r\0\u{2028}";
    let mut one = recipient(&format!("{evil}@b.example"));
    one.original = Some(format!("rfc822;{evil}+0D+0ABcc:").into());
    let mut said = reason(550, Status(5, 1, 1), evil);
    said.remote = evil.into();
    let failed = [reported(&one, &said)];
    let content = b"Subject: a\nBcc: b\r\nX\r: c\r\n\r\n";
    let text = built(&failed, content, Some(evil));
    assert!(!text.contains("\r\nBcc") && !text.contains("\nMAIL") && !text.contains("\r\n.\r\n"));
    assert!(text.contains("Subject: a=0ABcc: b\r\n"));
    // A hostile reverse-path or host name is no better.
    let to = Address::new(evil);
    let bytes = report(&Report { host_name: evil, ..about(&to, &plain(), &failed, b"") });
    assert!(!String::from_utf8(bytes).unwrap().contains("\r\nBcc"));
}

#[test]
fn eight_bits_are_quoted() {
    let one = recipient("gr\u{fc}n@b.example");
    let said = reason(550, Status(5, 1, 1), "unbekannt: gr\u{fc}n");
    let failed = [reported(&one, &said)];
    let text = built(&failed, b"Subject: \xff\xfe\r\n\r\n", None);
    assert!(text.contains("Final-Recipient: utf-8; gr\\x{FC}n@b.example\r\n"));
    assert!(text.contains("Diagnostic-Code: smtp; 550 5.1.1 unbekannt: gr?n\r\n"));
    assert!(text.contains("<gr=C3=BCn@b.example>\r\n"));
    assert!(text.contains("Subject: =FF=FE\r\n"));
    assert_eq!(text.matches("Content-Transfer-Encoding: quoted-printable\r\n").count(), 2);
}

#[test]
fn only_the_header_is_returned_without_its_stuffing_and_within_its_bound() {
    let one = recipient("x@b.example");
    let said = reason(550, Status(5, 1, 1), "no");
    let failed = [reported(&one, &said)];
    let returned = |content: &[u8]| {
        let text = built(&failed, content, None);
        let (_, part) = text.split_once("text/rfc822-headers\r\n").unwrap();
        let (_, part) = part.split_once("\r\n\r\n").unwrap();
        let prepended_headers = std::str::from_utf8(TRACE).unwrap();
        let rest = part.strip_prefix(prepended_headers).expect("the trace is on top");
        rest.split_once("\r\n--=_").unwrap().0.to_owned()
    };
    assert_eq!(returned(b""), "");
    assert_eq!(returned(b"\r\nbody\r\n"), "");
    assert_eq!(returned(b"no header at all\r\nA: b\r\n"), "");
    assert_eq!(returned(b"A: b\r\nthe body: of a careless sender\r\n"), "A: b\r\n");
    assert_eq!(returned(b"..x: y\r\n\r\n"), "..x: y\r\n", "un-stuffed, then stuffed again");
    assert_eq!(returned(b"A: cut in the mid"), "A: cut in the mid\r\n");
    let long = b"X-Long: 0123456789\r\n".repeat(10_000);
    let kept = returned(&long);
    assert!(kept.len() + TRACE.len() <= HEADER_BYTES_MAX && kept.len() > HEADER_BYTES_MAX - 200);
    assert!(kept.ends_with("0123456789\r\n"), "cut between lines");
}

#[test]
fn many_recipients_and_the_longest_words_stay_within_the_bounds() {
    let ordinary: Vec<_> = (0..1500).map(|n| recipient(&format!("u{n}@b.example"))).collect();
    let said = reason(550, Status(5, 1, 1), "No such user here");
    let failed: Vec<_> = ordinary.iter().map(|one| reported(one, &said)).collect();
    let text = built(&failed, CONTENT, None);
    assert_eq!(text.matches("\r\nFinal-Recipient: ").count(), RECIPIENTS_MAX);
    assert!(text.contains("... and 500 more"));

    let mut long = recipient(&format!("{}@b.example", "\u{fc}".repeat(2000)));
    long.original = Some(format!("rfc822;{}", "x".repeat(5000)).into());
    let mut words = reason(550, Status(5, 999, 999), &"\u{fc} ".repeat(2000));
    words.remote = "m".repeat(5000).into();
    let failed: Vec<_> = (0..3000).map(|_| reported(&long, &words)).collect();
    let text = built(&failed, &b"X: \xff\xff\xff\xff\xff\xff\xff\xff\r\n".repeat(9000), None);
    let reported = text.matches("\r\nFinal-Recipient: ").count();
    assert!((50..RECIPIENTS_MAX).contains(&reported), "{reported}");
    assert!(text.len() > CONTENT_BYTES_MAX / 2);
}

/// The report of this kind about `x@b.example`.
fn of_kind(kind: Kind, said: &Reason) -> String {
    let (to, one) = (sender(), recipient("x@b.example"));
    let all = [reported(&one, said)];
    String::from_utf8(report(&Report { kind, ..about(&to, &plain(), &all, CONTENT) })).unwrap()
}

/// Of a message that was to be delivered by 14 November 2023, 22:15:00.
fn of_late(kind: Kind, reported: ReportedRecipient<'_>) -> String {
    let at = Timestamp(1_700_000_100_000);
    let deliver_by = Some(DeliverBy { at, mode: ByMode::Return, trace: false });
    let message = message(Options { deliver_by, ..Options::default() });
    let report = report(&Report { kind, ..about(&sender(), &message, &[reported], CONTENT) });
    String::from_utf8(report).unwrap().replace("\r\n", "\n")
}

#[test]
fn rfc2852_5_a_sender_that_set_a_time_hears_of_it() {
    let busy = reason(450, Status(4, 2, 1), "Mailbox busy");
    let recipient = Recipient::plain(Address::new("x@b.example"));
    let late = || ReportedRecipient {
        expired: true,
        late: true,
        attempts: 3,
        ..reported(&recipient, &busy)
    };
    let by = "Tue, 14 Nov 2023 22:15:00 +0000";
    let failed = of_late(Kind::Failed, late());
    for line in [
        format!("\nDeliver-By-Date: {by}\n"),
        "\nAction: failed\nStatus: 5.4.7\n".to_owned(),
        format!("\nDiagnostic-Code: X-Ringpost; not delivered by {by} (BY), and so far: 450 4.2.1"),
        "The time that you set is over; it was tried 3 times.".to_owned(),
    ] {
        assert!(failed.contains(&line), "{line}: {failed}");
    }
    let until = Timestamp(1_700_400_000_000);
    let delayed = of_late(Kind::Delayed { until }, ReportedRecipient { expired: false, ..late() });
    assert!(delayed.contains("\nAction: delayed\nStatus: 4.4.7\n"), "{delayed}");
    assert!(delayed.contains("(BY), and so far: 450 4.2.1"), "{delayed}");
    // Refused before its time: that is the reason, and not the time.
    let refused = of_late(Kind::Failed, reported(&recipient, &busy));
    assert!(refused.contains("\nStatus: 5.0.0\n"), "{refused}");
    assert!(refused.contains("\nDiagnostic-Code: smtp; 450 4.2.1"), "{refused}");
    let taken = reason(250, Status(2, 1, 5), "ok");
    let relayed = of_late(Kind::Relayed, reported(&recipient, &taken));
    assert!(relayed.contains("\nAction: relayed\nStatus: 2.1.5\n"), "{relayed}");
    assert!(relayed.replace('\n', " ").contains("You set a time for it"), "{relayed}");
}

#[test]
fn rfc3464_2_3_3_each_kind_has_its_action_and_a_status_of_its_class() {
    let busy = reason(450, Status(4, 2, 1), "Mailbox busy");
    let taken = reason(250, Status(2, 1, 5), "ok");
    let until = Timestamp(1_700_400_000_000);
    let delayed = of_kind(Kind::Delayed { until }, &busy);
    assert!(delayed.contains("\r\nAction: delayed\r\nStatus: 4.2.1\r\n"), "{delayed}");
    assert!(delayed.contains("\r\nWill-Retry-Until: Sun, 19 Nov 2023 13:20:00 +0000\r\n"));
    assert!(delayed.contains("\r\nSubject: Mail is delayed\r\n"), "{delayed}");
    assert!(delayed.replace("\r\n", " ").contains("need not send it again"), "{delayed}");
    let relayed = of_kind(Kind::Relayed, &taken);
    assert!(relayed.contains("\r\nAction: relayed\r\nStatus: 2.1.5\r\n"), "{relayed}");
    assert!(relayed.contains("\r\nLast-Attempt-Date: Tue, 14 Nov 2023 22:14:50 +0000\r\n"));
    let delivered = of_kind(Kind::Delivered, &taken);
    assert!(delivered.contains("\r\nAction: delivered\r\nStatus: 2.1.5\r\n"), "{delivered}");
    for other in [relayed, delivered] {
        assert!(!other.contains("Will-Retry-Until"), "RFC 3464 2.3.9: only of delays");
        assert!(!other.contains("What you can do"), "{other}");
    }
}

#[test]
fn rfc3461_6_2_the_whole_message_comes_back_only_where_it_can_stand_unencoded() {
    let (to, one) = (Address::new("sender@a.example"), recipient("x@b.example"));
    let said = reason(550, Status(5, 1, 1), "no");
    let all = [reported(&one, &said)];
    let returned = |content: &[u8]| {
        let report = report(&Report { whole: true, ..about(&to, &plain(), &all, content) });
        String::from_utf8_lossy(&report).into_owned()
    };
    let plain = returned(CONTENT);
    assert!(plain.contains("Content-Type: message/rfc822\r\n"), "{plain}");
    assert!(plain.contains("\r\n ..b\r\n\r\nsecret body\r\n\r\n--=_"), "{plain}");
    assert!(plain.contains("then your message."), "{plain}");
    let eight = returned("A: b\r\n\r\ngr\u{fc}n\r\n".as_bytes());
    assert!(eight.contains("Content-Transfer-Encoding: 8bit\r\n\r\nReceived"), "{eight}");
    let words = eight.replace("\r\n", " ");
    assert!(words.contains("then your message, or its header alone if"), "{eight}");
    let top = eight.split_once("\r\n\r\n").unwrap().0;
    assert!(top.contains("Content-Transfer-Encoding: 8bit"), "RFC 2045 6.4: {top}");
    let long = [b"A: b\r\n\r\n".as_slice(), &[b'x'; 2000], b"\r\n"].concat();
    let large = b"A: b\r\n".repeat(FULL_BYTES_MAX / 4);
    let boundary = b"A: b\r\n\r\n--=_0000000000000009\r\n".to_vec();
    let boundary =
        String::from_utf8(boundary).unwrap().replace("0000000000000009", &QueueId(9).to_string());
    for odd in [
        &b"A: b\r\n\r\nb\rc\r\n"[..],
        &b"A: b\r\n\r\n\0\r\n"[..],
        &long,
        &large,
        boundary.as_bytes(),
    ] {
        assert!(returned(odd).contains("text/rfc822-headers\r\n"));
    }
}

#[test]
fn rfc6533_reports_have_international_addresses_and_headers_where_smtputf8_was_used() {
    let (to, mut one) = (Address::new("sender@a.example"), recipient("gr\u{fc}n+x@b.example"));
    one.original = Some("utf-8;gr\\x{FC}n\\x{2B}x@b.example".into());
    let said = reason(550, Status(5, 1, 1), "unbekannt: gr\u{fc}n");
    let all = [reported(&one, &said)];
    let content = "Subject: gr\u{fc}n\r\n\r\n";
    let with = |smtp_utf8| {
        let message = message(Options { smtp_utf8, ..Options::default() });
        let report = report(&about(&to, &message, &all, content.as_bytes()));
        String::from_utf8(report).unwrap()
    };
    let text = with(true);
    assert!(text.contains("Content-Type: message/global-delivery-status\r\n"), "{text}");
    assert!(text.contains("Final-Recipient: utf-8; gr\u{fc}n\\x{2B}x@b.example\r\n"), "{text}");
    assert!(text.contains("Original-Recipient: utf-8;gr\\x{FC}n\\x{2B}x@b.example\r\n"));
    assert!(text.contains("Diagnostic-Code: smtp; 550 5.1.1 unbekannt: gr\u{fc}n\r\n"), "{text}");
    assert!(text.contains("Content-Type: message/global-headers\r\n"), "{text}");
    let text = with(false);
    assert!(text.is_ascii() && text.contains("message/delivery-status\r\n"), "{text}");
    assert!(text.contains("Final-Recipient: utf-8; gr\\x{FC}n\\x{2B}x@b.example\r\n"), "{text}");
}

/// The fields of a group of the status part: name and value.
fn fields(group: &str) -> Vec<(&str, &str)> {
    let parted = group.split_terminator("\r\n").map(|line| line.split_once(": ").expect(line));
    parted.collect()
}

#[test]
fn rfc3464_2_2_and_2_3_each_group_has_what_it_must_have_once() {
    let (to, mut one) = (Address::new("sender@a.example"), recipient("x@b.example"));
    one.original = Some("rfc822;X+2Bnews@b.example".into());
    let two = recipient("y@b.example");
    let said = reason(450, Status(4, 2, 1), "Mailbox busy");
    let until = Timestamp(1_700_400_000_000);
    for (kind, action) in [
        (Kind::Failed, "failed"),
        (Kind::Delayed { until }, "delayed"),
        (Kind::Relayed, "relayed"),
        (Kind::Delivered, "delivered"),
    ] {
        for envelope_id in [None, Some("QQ+2B314")] {
            let reported = [reported(&one, &said), reported(&two, &said)];
            let message = with_envelope_id(envelope_id);
            let report = report(&Report { kind, ..about(&to, &message, &reported, CONTENT) });
            let text = String::from_utf8(report).unwrap();
            let (_, status) = text.split_once("message/delivery-status\r\n").unwrap();
            let (head, status) = status.split_once("\r\n\r\n").unwrap();
            assert_eq!(head, "Content-Transfer-Encoding: 7bit", "RFC 6522 3");
            let (status, _) = status.split_once("\r\n--=_").unwrap();
            let groups: Vec<_> = status.split("\r\n\r\n").map(fields).collect();
            let [message, first, second] = groups.as_slice() else { panic!("{status}") };
            for group in &groups {
                let mut names: Vec<_> = group.iter().map(|(name, _)| name).collect();
                names.sort();
                names.dedup();
                assert_eq!(names.len(), group.len(), "each once: {group:?}");
            }
            let value = |group: &[(&str, &str)], name: &str| {
                let found = group.iter().find(|(one, _)| *one == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(value(message, "Reporting-MTA").unwrap(), "dns; relay.example");
            let id = value(message, "Original-Envelope-Id");
            assert_eq!(id.as_deref(), envelope_id.map(|_| "QQ+314"), "RFC 3461 6.3");
            for (group, address, original) in [
                (first, "rfc822; x@b.example", Some("rfc822;X+news@b.example")),
                (second, "rfc822; y@b.example", None),
            ] {
                assert_eq!(value(group, "Final-Recipient").as_deref(), Some(address));
                assert_eq!(value(group, "Original-Recipient").as_deref(), original, "RFC 3461 6.3");
                assert_eq!(value(group, "Action").as_deref(), Some(action));
                let status = value(group, "Status").unwrap();
                let digits = status.split('.').all(|part| part.parse::<u16>().is_ok());
                assert!(digits && status.split('.').count() == 3, "RFC 3463 2: {status}");
                let until = value(group, "Will-Retry-Until");
                assert_eq!(until.is_some(), matches!(kind, Kind::Delayed { .. }), "2.3.9");
            }
        }
    }
}

#[test]
fn rfc6522_3_a_report_is_multipart_report_of_its_type() {
    let one = recipient("x@b.example");
    let said = reason(550, Status(5, 1, 1), "no");
    let text = built(&[reported(&one, &said)], CONTENT, None);
    let (top, parts) = text.split_once("\r\n\r\n").unwrap();
    let top = top.replace("\r\n\t", " ");
    let top: Vec<_> = fields(&top).into_iter().map(|(name, value)| (name, value.trim())).collect();
    let value = |name: &str| {
        let mut found = top.iter().filter(|(one, _)| *one == name).map(|(_, value)| *value);
        (found.next().unwrap_or_default(), found.next())
    };
    assert_eq!(value("To"), ("sender@a.example", None), "RFC 3464 2: to the return path alone");
    assert_eq!(value("MIME-Version"), ("1.0", None));
    for name in ["From", "Date", "Message-ID", "Subject"] {
        let (value, again) = value(name);
        assert!(!value.is_empty() && again.is_none(), "{name}");
    }
    assert!(value("Content-Type").0.starts_with("multipart/report; report-type=delivery-status;"));
    let kinds: Vec<_> = parts
        .lines()
        .filter_map(|line| line.strip_prefix("Content-Type: "))
        .map(|kind| kind.split(';').next().unwrap_or_default())
        .collect();
    assert_eq!(kinds, ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
}
