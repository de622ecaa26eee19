//! Bytes per second of the content scanner, the line scanner, and a whole session: the cost of SMTP
//! alone, without sockets and disk.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::config;
use ringpost::message::QueueId;
use ringpost::session::{Authentication, Client, Policy, Session, Step};
use ringpost::smtp::{ContentLimits, ContentScanner, Framing, Line, Scanned, scan};
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

/// A message of about `bytes` bytes with typical lines, ending in the dot line.
fn message(bytes: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(bytes + 100);
    for (name, value) in [("From", "news@bar.example"), ("To", "b@foo.example"), ("Subject", "x")] {
        message.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    message.extend_from_slice(b"\r\n");
    let line = [b'A'; 76];
    while message.len() < bytes {
        message.extend_from_slice(&line);
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(b".\r\n");
    message
}

fn content(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("content");
    let limits = ContentLimits { bytes_max: 1 << 30, line_max: 1000, received_max: 50 };
    for bytes in [4 << 10, 64 << 10, 1 << 20] {
        let message = message(bytes);
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(bytes), &message, |bencher, message| {
            bencher.iter(|| {
                let mut scanner = ContentScanner::new(limits, Framing::Dots);
                let mut rest = message.as_slice();
                while let Scanned::Content(length) = scanner.scan(black_box(rest)) {
                    rest = rest.get(length..).unwrap();
                }
                assert!(scanner.defect().is_none());
                scanner.bytes()
            });
        });
    }
    group.finish();
}

fn lines(criterion: &mut Criterion) {
    let input = b"RCPT TO:<mailbox.name@mail.example.com>\r\n".repeat(1000);
    let mut group = criterion.benchmark_group("lines");
    group.throughput(Throughput::Bytes(input.len() as u64));
    group.bench_function("rcpt", |bencher| {
        bencher.iter(|| {
            let mut rest = input.as_slice();
            let mut lines = 0;
            while let Line::Complete(line) = scan(black_box(rest), 1000) {
                rest = rest.get(line.len() + 2..).unwrap();
                lines += 1;
            }
            lines
        });
    });
    group.finish();
}

fn whole_session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    for bytes in [4 << 10, 64 << 10] {
        let mut input = b"EHLO bar.example\r\n".to_vec();
        for _ in 0..10 {
            input.extend_from_slice(b"MAIL FROM:<news@bar.example> BODY=8BITMIME\r\n");
            input.extend_from_slice(b"RCPT TO:<user@foo.example>\r\nDATA\r\n");
            input.extend_from_slice(&message(bytes));
        }
        input.extend_from_slice(b"QUIT\r\n");
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_with_input(
            BenchmarkId::new("ten_messages", bytes),
            &input,
            |bencher, input| bencher.iter(|| play(black_box(input))),
        );
    }
    group.finish();
}

/// Plays a pipelined session; returns the number of bytes of its replies.
fn play(input: &[u8]) -> usize {
    let policy = Policy { host_name: "relay.example".into(), limits: limits() };
    let address = "127.0.0.1:4321".parse().unwrap();
    let mut session: Session = Session::new(
        Rc::new(policy),
        Client {
            address,
            may_relay: true,
            starttls: false,
            tls_demanded: false,
            scheduling: false,
            xclient: false,
            protection: None,
            authentication: Authentication::default(),
        },
    );
    let mut out = Vec::with_capacity(4096);
    session.greet(b"", &mut out);
    let mut rest = input;
    loop {
        // The size of a receive buffer.
        let window = rest.get(..64 << 10).unwrap_or(rest);
        let progress = session.receive(window, &mut out);
        rest = rest.get(progress.consumed..).unwrap();
        match progress.step {
            Step::ContentWanted => session.begin_content(&mut out),
            Step::Mail(mail) => session.accept_mail(mail, (), &mut out),
            Step::Recipient(request) => session.accept_recipient(request, &mut out),
            Step::Complete(transaction) => {
                black_box(transaction);
                session.stored(QueueId(1), &mut out);
            }
            Step::Close => return out.len(),
            Step::More => assert!(progress.consumed > 0, "the input ends with QUIT"),
            Step::Content(_) => {}
            _ => {
                unreachable!("nothing is refused, and nothing else is asked for")
            }
        }
    }
}

fn limits() -> config::Session {
    config::Session {
        message_bytes_max: 1 << 30,
        recipients_max: 100,
        command_line_max: 1000,
        text_line_max: 1000,
        errors_max: 10,
        junk_commands_max: 100,
        lenient: true,
        keep_odd_dots: false,
        idle_timeout: Duration::from_secs(1800),
        data_rate_min: 100,
        message_timeout: Duration::from_secs(14_400),
        received_max: 50,
        command_timeout: Duration::from_secs(300),
        data_timeout: Duration::from_secs(180),
        tls_timeout: Duration::from_secs(180),
        messages_max: 0,
        vrfy: true,
        hold_max: Duration::from_secs(86400),
        connections_per_client: 10,
        connections_per_relay_client: 10,
    }
}

criterion_group!(benches, content, lines, whole_session);
criterion_main!(benches);
