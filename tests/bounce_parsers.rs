//! Reports as parsers read them that this project did not write: Python's email package and, where
//! it is installed, flufl.bounce, which is what Mailman knows of bounces by.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ringpost::bounce::{Kind, Report, ReportedRecipient, report};
use ringpost::message::{
    Address, Content, ContentFlags, Envelope, Message, Options, QueueId, Reason, Recipient, Stage,
    Status, Timestamp,
};
use std::io::Write;
use std::process::{Command, Stdio};

/// What the script prints for `content`, un-stuffed as a receiver would; `None` without Python.
fn parsed(content: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content).unwrap().replace("\r\n..", "\r\n.");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/bounce_parsers.py");
    let started =
        Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = started else {
        println!("skipped: there is no python3 here");
        return None;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the script failed");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// One that was refused at once.
fn failed<'a>(recipient: &'a Recipient, reason: &'a Reason) -> ReportedRecipient<'a> {
    let last_attempt = Some(Timestamp(1_700_000_090_000));
    ReportedRecipient { recipient, reason, attempts: 1, expired: false, late: false, last_attempt }
}

fn built(failed: &[ReportedRecipient<'_>], header: &[u8]) -> Vec<u8> {
    let to = Address::new("sender@a.example");
    let message = Message {
        id: QueueId(7),
        received_at: Timestamp(1_700_000_000_000),
        envelope: Envelope { reverse_path: Some(to.clone()), recipients: Vec::new() },
        options: Options { dsn_envelope_id: Some("QQ314".into()), ..Options::default() },
        flags: ContentFlags { dot_stuffed: true, eight_bit: false },
        prepended_headers: b"Received: by relay.example; now\r\n".to_vec(),
        content: Content::Whole(Vec::new()),
    };
    report(&Report {
        host_name: "relay.example",
        to: &to,
        message: &message,
        kind: Kind::Failed,
        recipients: failed,
        whole: false,
        content: header,
        report_id: QueueId(9),
        now: Timestamp(1_700_000_100_000),
    })
}

fn reason(code: u16, status: Status, text: &str) -> Reason {
    let remote = "mx1.b.example [192.0.2.1]:25".into();
    Reason { stage: Stage::Recipient, code, status, text: text.into(), remote, hosts: None }
}

fn agrees(content: &[u8], expected: &[&str], flufl: &str) {
    let Some(found) = parsed(content) else { return };
    let (flufl_lines, lines): (Vec<&str>, Vec<&str>) =
        found.lines().partition(|line| line.starts_with("flufl"));
    assert_eq!(lines, expected);
    match flufl_lines.as_slice() {
        [] => println!("skipped: flufl.bounce is not installed"),
        lines => assert_eq!(lines, [flufl]),
    }
}

#[test]
fn an_ordinary_report_is_read_whole() {
    let plain = |text: &str| Recipient::plain(Address::new(text));
    let (one, two) = (plain("x@b.example"), plain("y@b.example"));
    let unknown = reason(550, Status(5, 1, 1), "No such user here");
    let busy = reason(450, Status(4, 2, 1), "Mailbox busy");
    let failed = [
        failed(&one, &unknown),
        ReportedRecipient { attempts: 31, expired: true, ..failed(&two, &busy) },
    ];
    let expected = [
        "type multipart/report delivery-status",
        "date 2023-11-14T22:15:00+00:00",
        "to sender@a.example",
        "auto auto-replied",
        "defects",
        "parts text/plain message/delivery-status text/rfc822-headers",
        "told '<x@b.example>'",
        "told '<y@b.example>'",
        "status rfc822; x@b.example failed 5.1.1",
        "status rfc822; y@b.example failed 4.4.7",
        "returned b'Subject: hi'",
    ];
    let content = built(&failed, b"Subject: hi\r\n\r\nbody\r\n");
    agrees(&content, &expected, "flufl 0 x@b.example y@b.example");
}

#[test]
fn eight_bits_and_stray_line_ends_come_back_as_they_were() {
    let one = Recipient::plain(Address::new("gr\u{fc}n@b.example"));
    let said = reason(550, Status(5, 1, 1), "unbekannt: gr\u{fc}n\r\nX: y");
    let failed = [failed(&one, &said)];
    let expected = [
        "type multipart/report delivery-status",
        "date 2023-11-14T22:15:00+00:00",
        "to sender@a.example",
        "auto auto-replied",
        "defects",
        "parts text/plain message/delivery-status text/rfc822-headers",
        "told '<gr\\xfcn@b.example>'",
        "status utf-8; gr\\x{FC}n@b.example failed 5.1.1",
        "returned b'.x: \\xff\\x00'",
    ];
    let content = built(&failed, b"Subject: hi\r\n..x: \xff\0\r\n\r\n");
    let Some(found) = parsed(&content) else { return };
    let lines: Vec<&str> = found.lines().filter(|line| !line.starts_with("flufl")).collect();
    assert_eq!(lines, expected);
}
