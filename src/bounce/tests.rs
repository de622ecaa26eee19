//! Reports as senders get them, and what hostile words may not do to them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::*;

const TRACE: &[u8] = b"Received: from client by relay.example\r\n\tid X; date\r\n";
const CONTENT: &[u8] = b"Subject: hello\r\nX-Dots: a\r\n ..b\r\n\r\nsecret body\r\n";

fn recipient(address: &str) -> Recipient {
    Recipient::plain(Address::new(address))
}

fn reason(code: u16, status: Status, text: &str) -> Reason {
    let remote = "mx1.b.example [192.0.2.1]:25".into();
    Reason { stage: Stage::Recipient, code, status, text: text.into(), remote }
}

fn built(failed: &[Failed<'_>], content: &[u8], envelope_id: Option<&str>) -> String {
    let to = Address::new("sender@a.example");
    let bytes = report(&Report {
        host_name: "relay.example",
        to: &to,
        id: QueueId(7),
        received_at: Timestamp(1_700_000_000_000),
        envelope_id,
        failed,
        trace: TRACE,
        content,
        dot_stuffed: true,
        report_id: QueueId(9),
        now: Timestamp(1_700_000_100_000),
    });
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
        Failed { recipient: &one, reason: &unknown, attempts: 1, expired: false },
        Failed { recipient: &two, reason: &busy, attempts: 31, expired: true },
    ];
    let text = built(&failed, CONTENT, Some("QQ+2B314"));
    let expected = include_str!("../../tests/fixtures/bounce/report.eml").replace('\n', "\r\n");
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn what_no_server_said_is_not_given_as_its_words() {
    let one = recipient("x@b.example");
    let ours = Reason::ours(Stage::Route, Status(5, 1, 10), "the domain takes no mail");
    let failed = [Failed { recipient: &one, reason: &ours, attempts: 1, expired: false }];
    let text = built(&failed, CONTENT, None);
    assert!(text.contains("Diagnostic-Code: X-Ringpost; the domain takes no mail\r\n"));
    assert!(text.contains("Status: 5.1.10\r\n"));
    for absent in ["Remote-MTA", "Last-Attempt-Date", "smtp;", "Original-Envelope-Id"] {
        assert!(!text.contains(absent), "{absent}");
    }
}

#[test]
fn a_failure_never_carries_the_status_of_success_or_delay() {
    let one = recipient("x@b.example");
    let odd = reason(554, Status(4, 7, 1), "odd");
    let failed = [Failed { recipient: &one, reason: &odd, attempts: 1, expired: false }];
    assert!(built(&failed, CONTENT, None).contains("\r\nStatus: 5.0.0\r\n"));
}

#[test]
fn nothing_from_outside_adds_a_line() {
    let evil = "x\r\nBcc: all@b.example\r\n\r\n.\r\nMAIL FROM:<>\n\r\0\u{2028}";
    let mut one = recipient(&format!("{evil}@b.example"));
    one.original = Some(format!("rfc822;{evil}+0D+0ABcc:").into());
    let mut said = reason(550, Status(5, 1, 1), evil);
    said.remote = evil.into();
    let failed = [Failed { recipient: &one, reason: &said, attempts: 1, expired: false }];
    let content = b"Subject: a\nBcc: b\r\nX\r: c\r\n\r\n";
    let text = built(&failed, content, Some(evil));
    assert!(!text.contains("\r\nBcc") && !text.contains("\nMAIL") && !text.contains("\r\n.\r\n"));
    assert!(text.contains("Subject: a=0ABcc: b\r\n"));
    // A hostile reverse-path or host name is no better.
    let to = Address::new(evil);
    let bytes = report(&Report {
        host_name: evil,
        to: &to,
        id: QueueId(7),
        received_at: Timestamp(0),
        envelope_id: None,
        failed: &failed,
        trace: b"",
        content: b"",
        dot_stuffed: false,
        report_id: QueueId(9),
        now: Timestamp(0),
    });
    assert!(!String::from_utf8(bytes).unwrap().contains("\r\nBcc"));
}

#[test]
fn eight_bits_are_quoted() {
    let one = recipient("gr\u{fc}n@b.example");
    let said = reason(550, Status(5, 1, 1), "unbekannt: gr\u{fc}n");
    let failed = [Failed { recipient: &one, reason: &said, attempts: 1, expired: false }];
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
    let failed = [Failed { recipient: &one, reason: &said, attempts: 1, expired: false }];
    let returned = |content: &[u8]| {
        let text = built(&failed, content, None);
        let (_, part) = text.split_once("text/rfc822-headers\r\n").unwrap();
        let (_, part) = part.split_once("\r\n\r\n").unwrap();
        let trace = std::str::from_utf8(TRACE).unwrap();
        let rest = part.strip_prefix(trace).expect("the trace is on top");
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
    let fail = |recipient, reason| Failed { recipient, reason, attempts: 1, expired: false };
    let failed: Vec<_> = ordinary.iter().map(|one| fail(one, &said)).collect();
    let text = built(&failed, CONTENT, None);
    assert_eq!(text.matches("\r\nFinal-Recipient: ").count(), RECIPIENTS_MAX);
    assert!(text.contains("... and 500 more"));

    let mut long = recipient(&format!("{}@b.example", "\u{fc}".repeat(2000)));
    long.original = Some(format!("rfc822;{}", "x".repeat(5000)).into());
    let mut words = reason(550, Status(5, 999, 999), &"\u{fc} ".repeat(2000));
    words.remote = "m".repeat(5000).into();
    let failed: Vec<_> = (0..3000).map(|_| fail(&long, &words)).collect();
    let text = built(&failed, &b"X: \xff\xff\xff\xff\xff\xff\xff\xff\r\n".repeat(9000), None);
    let told = text.matches("\r\nFinal-Recipient: ").count();
    assert!((50..RECIPIENTS_MAX).contains(&told), "{told}");
    assert!(text.len() > CONTENT_BYTES_MAX / 2);
}
