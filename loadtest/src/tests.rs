//! Source and sink together in one process, directly or with something in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::cli::{Behaviour, Cli, Command, Load};
use crate::{count, ledger, sink, source};

const ANY: &str = "127.0.0.1:0";

fn load(options: &str) -> Load {
    let line = format!("x source --quiet --to 127.0.0.1:1 {options}");
    match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
        Command::Source(source) => source.load,
        _ => unreachable!(),
    }
}

fn behaviour(options: &str) -> Behaviour {
    let line = format!("x sink --listen {ANY} {options}");
    match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
        Command::Sink(sink) => sink.behaviour,
        _ => unreachable!(),
    }
}

fn sink(options: &str) -> sink::Sink {
    sink::start(ANY.parse().unwrap(), &behaviour(options), None).unwrap()
}

/// Waits until the source ends by itself.
fn finished(mut source: source::Source) -> source::Report {
    crate::progress::runtime().unwrap().block_on(source.ended());
    source.finish().unwrap()
}

/// A folder of the test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("ringpost-load-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn all_that_is_accepted_arrives_intact() {
    for flags in ["", "--no-pipeline", "--threads 2 --messages-per-session 3"] {
        let sink = sink("--sink-threads 2");
        let options = format!("--messages 200 --sessions 8 --recipients 3 {flags}");
        let source = finished(source::start(sink.address, &load(&options)).unwrap());
        let totals = count::judge(&source.ids, &sink.arrivals.pair_counts(), 5);
        let sink = sink.stop().unwrap();
        assert_eq!((source.accepted, source.failed, source.unknown), (200, 0, 0), "{flags}");
        assert_eq!((sink.arrived, sink.doubled, sink.corrupted), (600, 0, 0), "{flags}");
        assert!(totals.good() && totals.accepted == 600 && totals.unknown == 0, "{flags}");
    }
}

#[test]
fn ledgers_say_the_same_as_the_count_in_memory() {
    let folder = Folder::new("ledgers");
    let (accepted, arrived) = (folder.0.join("accepted"), folder.0.join("arrived"));
    let rules = behaviour("--refuse rcpt=20 --refuse end=10");
    let sink = sink::start(ANY.parse().unwrap(), &rules, Some(&arrived)).unwrap();
    let mut options = load("--messages 300 --recipients 2 --domain a.test --domain b.test");
    options.ledger = Some(accepted.clone());
    let source = finished(source::start(sink.address, &options).unwrap());
    let in_memory = count::judge(&source.ids, &sink.arrivals.pair_counts(), 5);
    sink.stop().unwrap();
    let read = ledger::read_accepted(&accepted).unwrap();
    let on_disk = count::judge(&read, &ledger::read_arrived(&arrived).unwrap(), 5);
    assert_eq!(in_memory, on_disk);
    assert!(on_disk.good() && on_disk.messages > 200);
    // Swapped ledgers are errors.
    assert!(ledger::read_accepted(&arrived).unwrap_err().contains("line 1"));
}

#[test]
fn a_torn_last_line_of_a_ledger_does_not_count() {
    let folder = Folder::new("torn");
    let path = folder.0.join("accepted");
    std::fs::write(&path, "00000001-1 1\n00000001-2 1").unwrap();
    assert_eq!(ledger::read_accepted(&path).unwrap().len(), 1);
}

#[test]
fn misbehaviour_is_counted_on_both_sides() {
    let sink = sink("--defer mail=10 --refuse rcpt=10:551 --defer data=10 --hangup end=10");
    let options = load("--messages 500 --sessions 10 --retry-connect");
    let source = finished(source::start(sink.address, &options).unwrap());
    let sink = sink.stop().unwrap();
    for (step, name) in [
        ("mail 451", "defer mail"),
        ("rcpt 551", "refuse rcpt"),
        ("data 451", "defer data"),
        ("end: connection lost (unknown)", "hang up end"),
    ] {
        assert_eq!(source.failures.get(step), sink.misbehaved.get(name), "{step}");
        assert!(sink.misbehaved[name] > 10, "{name}");
    }
    assert_eq!(source.attempted, 500);
    assert_eq!(source.accepted + source.failed + source.unknown, 500);
    assert_eq!(source.unknown, sink.misbehaved["hang up end"]);
    assert_eq!(source.accepted, sink.arrived);
}

#[test]
fn trouble_at_every_step_leaves_the_account_exact() {
    let mut rules = String::from("--delay rcpt=1");
    for step in ["connect", "greeting", "ehlo", "mail", "rcpt", "data", "content", "end"] {
        rules.push_str(&format!(" --refuse {step}=3 --defer {step}=3 --hangup {step}=3"));
    }
    for flags in ["", "--no-pipeline"] {
        let sink = sink(&rules);
        let options =
            load(&format!("--messages 400 --sessions 16 --recipients 2 --retry-connect {flags}"));
        let source = finished(source::start(sink.address, &options).unwrap());
        let totals = count::judge(&source.ids, &sink.arrivals.pair_counts(), 5);
        sink.stop().unwrap();
        assert_eq!(source.accepted + source.failed + source.unknown, 400);
        assert!(totals.good() && totals.unknown == 0, "{totals:?}");
    }
}

#[test]
fn everything_is_deferred_while_the_file_is_there() {
    let folder = Folder::new("defer");
    let mut rules = behaviour("");
    let file = folder.0.join("defer");
    std::fs::write(&file, "").unwrap();
    rules.defer_until_file = Some(file.clone());
    let sink = sink::start(ANY.parse().unwrap(), &rules, None).unwrap();
    let deferred = finished(source::start(sink.address, &load("--messages 5")).unwrap());
    assert_eq!(deferred.failures.get("rcpt 450"), Some(&5));
    std::fs::remove_file(&file).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let taken = finished(source::start(sink.address, &load("--messages 5")).unwrap());
    assert_eq!(taken.accepted, 5);
}

/// A relay that changes messages: it delivers each one as modified by `change`.
fn crooked_relay(to: SocketAddr, change: fn(Vec<u8>) -> Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(10) {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            stream.write_all(b"220 hello\r\n").unwrap();
            let (mut envelope, mut line) = (Vec::new(), String::new());
            while lines.read_line(&mut line).is_ok_and(|n| n > 0) {
                let verb = line.get(..4).unwrap_or_default().to_owned();
                let reply = match verb.as_str() {
                    "DATA" => "354 go\r\n",
                    "QUIT" => "221 bye\r\n",
                    _ => "250 ok\r\n",
                };
                if matches!(verb.as_str(), "MAIL" | "RCPT") {
                    envelope.extend_from_slice(line.as_bytes());
                }
                line.clear();
                stream.write_all(reply.as_bytes()).unwrap();
                if verb == "DATA" {
                    let mut content = Vec::new();
                    while !content.ends_with(b"\r\n.\r\n") {
                        lines.read_until(b'\n', &mut content).unwrap();
                    }
                    for copy in change(content) {
                        deliver(to, &envelope, &copy);
                    }
                    envelope.clear();
                    stream.write_all(b"250 ok\r\n").unwrap();
                }
            }
        }
    });
    address
}

fn deliver(to: SocketAddr, envelope: &[u8], content: &[u8]) {
    let mut stream = TcpStream::connect(to).unwrap();
    let all = [b"EHLO x\r\n", envelope, b"DATA\r\n", content, b"QUIT\r\n"].concat();
    stream.write_all(&all).unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();
    assert!(replies.contains("taken"), "{replies}");
}

fn account(change: fn(Vec<u8>) -> Vec<Vec<u8>>) -> crate::run::Report {
    // A port chosen by the kernel, freed at once for the sink of the run.
    let sink = TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    let relay = crooked_relay(sink, change);
    let line = format!(
        "x run --relay {relay} --sink {sink} --messages 10 --sessions 1 --quiet --drain 0.5 \
         --time 20"
    );
    match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
        Command::Run(options) => crate::run::account(*options).unwrap(),
        _ => unreachable!(),
    }
}

#[test]
fn a_true_relay_is_found_true() {
    let report = account(|content| vec![content]);
    assert!(report.count.good() && report.count.doubled == 0);
    assert_eq!((report.count.accepted, report.count.arrived), (10, 10));
    assert!(report.sink.latency.p50_ms > 0.0 && report.delivered_per_second > 0.0);
}

#[test]
fn a_relay_that_loses_doubles_or_changes_is_found_out() {
    let lost = account(|_| Vec::new());
    assert_eq!((lost.count.lost, lost.count.lost_ids.len()), (10, 10));
    assert!(!lost.count.good());
    let doubled = account(|content| vec![content.clone(), content]);
    assert_eq!((doubled.count.doubled, doubled.count.lost), (10, 0));
    let changed = account(|mut content| {
        let middle = content.len() / 2;
        content[middle] ^= 1;
        vec![content]
    });
    assert_eq!((changed.count.corrupted, changed.count.lost), (10, 0));
    assert!(!changed.count.good());
}

/// As in the README: a message written by hand ends `sink --messages 1`.
#[test]
fn a_message_that_no_source_sent_counts_as_arrived() {
    let sink = sink("");
    let mut stream = TcpStream::connect(sink.address).unwrap();
    let message = "EHLO me\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<b@sink.test>\r\nDATA\r\n\
                  Subject: hello\r\n\r\nfirst message\r\n.\r\nQUIT\r\n";
    stream.write_all(message.as_bytes()).unwrap();
    let runtime = crate::progress::runtime().unwrap();
    let reached = runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), sink.reached(1)).await });
    assert!(reached.is_ok());
    let report = sink.stop().unwrap();
    assert_eq!((report.foreign, report.arrived), (1, 0));
    let text = report.text();
    assert!(text.starts_with("messages  1 in 1 connection\narrived   0\n"), "{text}");
    assert!(text.contains("\nother     1 (mail of others than"), "{text}");
    assert!(text.ends_with("end-to-end nothing was measured\n"), "{text}");
}

#[test]
fn two_sinks_do_not_share_a_port() {
    let first = sink("");
    let second = sink::start(first.address, &Behaviour::default(), None);
    assert!(second.unwrap_err().contains("in use"));
}

#[test]
fn the_rate_holds_and_the_time_ends_the_load() {
    let sink = sink("");
    let start = Instant::now();
    let options = load("--messages 100000 --rate 100 --time 0.5");
    let source = finished(source::start(sink.address, &options).unwrap());
    assert!(start.elapsed() < Duration::from_secs(3));
    assert!((30..=51).contains(&source.accepted), "{}", source.accepted);
}

#[test]
fn without_a_relay_the_source_ends_and_with_retry_it_waits_for_one() {
    let closed = TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    let source = finished(source::start(closed, &load("--messages 5 --sessions 2")).unwrap());
    assert_eq!((source.attempted, source.failures.values().sum::<u64>()), (0, 2));
    let patient = source::start(closed, &load("--messages 5 --retry-connect")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let _late = sink::start(closed, &Behaviour::default(), None).unwrap();
    assert_eq!(finished(patient).accepted, 5);
}
