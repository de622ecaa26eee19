//! Dialogues with servers, from `tests/fixtures/delivery/*.smtp`, replayed through the sending
//! state machine whole, byte by byte, and cut at every place: the result must never differ.
//!
//! A fixture holds what the server says (`S: `), what the caller does (`> `), and what must come of
//! it: bytes sent (`C: `) and steps (`= `). Lines of `S: ` that stand together come together.
//!
//! ```text
//! > mail to=a@b,c@d [from=x@y] [size=n] [8bit] [body=8bitmime|binarymime] [utf8] [requiretls]
//!        [priority=n] [by=seconds;letters] [ret=hdrs|full] [envid=x]
//!        [notify=success,failure,delay] [orcpt=x]  (these two for all)
//! > quit
//! > closed WORDS  |  > timeout
//! ! whole          the fixture depends on what arrives together: no cuts
//! ! lmtp           LMTP is spoken
//! ! verified       the host's certificate was good for its name
//! ! send           8-bit content is sent to hosts without 8BITMIME
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use ringpost::config;
use ringpost::delivery::{
    Conversation, Loss, Mail, Manner, Policy, Protocol, RecipientOutcome, StartTls, Step,
};
use ringpost::message::{
    Address, Body, Content, ContentFlags, DeliverBy, DsnNotify, DsnReturn, Envelope, Message,
    Options, Outcome, QueueId, Recipient, Timestamp,
};
use std::fmt::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Where input is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Nowhere,
    Everywhere,
    At(usize),
}

struct Replay {
    conversation: Conversation,
    log: String,
    cut: Cut,
    closed: bool,
}

impl Replay {
    fn new(fixture: &str, cut: Cut) -> Replay {
        let wait = Duration::from_secs(60);
        let limits = config::Delivery {
            connect_timeout: wait,
            tls_timeout: wait,
            greeting_timeout: wait,
            hello_timeout: wait,
            mail_timeout: wait,
            recipient_timeout: wait,
            data_timeout: wait,
            content_timeout: wait,
            end_of_data_timeout: wait,
            recipients_max: 100,
        };
        let policy = Rc::new(Policy { host_name: "relay.example".into(), limits });
        let protocol = if fixture.contains("! lmtp") { Protocol::Lmtp } else { Protocol::Smtp };
        let verified = fixture.contains("! verified");
        let eight_bit = match fixture.contains("! send") {
            true => config::EightBit::Send,
            false => config::EightBit::Bounce,
        };
        let starttls = StartTls::Never;
        let manner = Manner { protocol, starttls, verified, eight_bit, pipelining: true };
        let conversation = Conversation::new(policy, "mx.example".into(), manner);
        Replay { conversation, log: String::new(), cut, closed: false }
    }

    fn note(&mut self, line: &str) {
        writeln!(self.log, "{line}").unwrap();
    }

    fn sent(&mut self, out: &mut Vec<u8>) {
        for line in std::str::from_utf8(out).unwrap().split_terminator("\r\n") {
            self.note(&format!("C: {line}"));
        }
        out.clear();
    }

    fn server_says(&mut self, bytes: &[u8]) {
        let mut portions: Vec<&[u8]> = match self.cut {
            Cut::Nowhere => vec![bytes],
            Cut::Everywhere => bytes.chunks(1).collect(),
            Cut::At(place) => {
                let (head, tail) = bytes.split_at(place.min(bytes.len()));
                vec![head, tail]
            }
        };
        portions.retain(|portion| !portion.is_empty());
        let mut buffer = Vec::new();
        for portion in portions {
            buffer.extend_from_slice(portion);
            if !self.closed {
                self.receive(&mut buffer);
            }
        }
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) {
        let mut out = Vec::new();
        loop {
            let progress = self.conversation.receive(buffer, &mut out);
            buffer.drain(..progress.consumed);
            self.sent(&mut out);
            match progress.step {
                Step::More => return,
                Step::Ready => return self.note("= ready"),
                Step::Close => {
                    self.closed = true;
                    return self.note("= close");
                }
                Step::Unusable(outcome) => {
                    self.closed = true;
                    return self.note(&format!("= unusable {}", described(&outcome)));
                }
                Step::Prove(_) => panic!("no transcript logs in"),
                Step::StartTls => panic!("not wanted"),
                Step::SendContent => {
                    self.note("= content");
                    if self.conversation.is_chunked() {
                        self.conversation.chunk(1000, &mut out);
                    }
                    self.conversation.content_sent(&mut out);
                    self.sent(&mut out);
                    return;
                }
                Step::Finished { outcomes, again } => self.finished(&outcomes, &again),
            }
        }
    }

    fn finished(&mut self, outcomes: &[RecipientOutcome], again: &[u32]) {
        for RecipientOutcome { index, outcome, .. } in outcomes {
            self.note(&format!("= {index} {}", described(outcome)));
        }
        for index in again {
            self.note(&format!("= {index} again"));
        }
        if self.conversation.retry_without_extension() {
            self.note("= refused ahead");
        }
    }

    fn caller_does(&mut self, action: &str) {
        let (verb, rest) = action.split_once(' ').unwrap_or((action, ""));
        let mut out = Vec::new();
        match verb {
            "mail" => {
                self.conversation.begin(mail(rest), &mut out);
                if self.conversation.takes_content_ahead() {
                    self.conversation.chunk(1000, &mut out);
                    self.conversation.content_sent(&mut out);
                }
            }
            "quit" => self.conversation.quit(&mut out),
            "closed" | "timeout" => {
                let loss =
                    if verb == "timeout" { Loss::TimedOut } else { Loss::Closed(rest.into()) };
                let (outcomes, reason) = self.conversation.lost(loss);
                self.finished(&outcomes, &[]);
                self.note(&format!("= lost {} {reason}", reason.stage.name()));
            }
            _ => panic!("unknown action {action}"),
        }
        self.sent(&mut out);
    }
}

fn described(outcome: &Outcome) -> String {
    let word = match outcome {
        Outcome::Delivered(_) => "delivered",
        Outcome::Deferred(_) => "deferred",
        Outcome::Refused(_) => "refused",
    };
    let reason = outcome.reason();
    assert_eq!(&*reason.remote, "mx.example");
    let text = reason.to_string();
    format!("{word} {} {}", reason.stage.name(), text.trim_end_matches(" (mx.example)"))
}

const NOW: Timestamp = Timestamp(1_795_459_019_123);

fn mail(words: &str) -> Mail {
    let mut message = Message {
        id: QueueId(1),
        received_at: NOW,
        envelope: Envelope {
            reverse_path: Some(Address::new("from@a.example")),
            recipients: Vec::new(),
        },
        options: Options::default(),
        flags: ContentFlags::default(),
        prepended_headers: Vec::new(),
        content: Content::Whole(Vec::new()),
    };
    let (mut size, mut pipelined_content) = (1000, false);
    let Message { envelope, options, flags, .. } = &mut message;
    for word in words.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("to", list) => {
                let one = |text| Recipient::plain(Address::new(text));
                envelope.recipients = list.split(',').map(one).collect();
            }
            ("from", "") => envelope.reverse_path = None,
            ("from", text) => envelope.reverse_path = Some(Address::new(text)),
            ("size", text) => size = text.parse().unwrap(),
            ("body", "8bitmime") => options.body = Body::EightBitMime,
            ("body", "binarymime") => options.body = Body::BinaryMime,
            ("ahead", _) => pipelined_content = true,
            ("8bit", _) => flags.eight_bit = true,
            ("priority", text) => options.priority = text.parse().unwrap(),
            ("by", text) => options.deliver_by = Some(deliver_by(text)),
            ("requiretls", _) => options.require_tls = true,
            ("ret", "hdrs") => options.dsn_return = Some(DsnReturn::Headers),
            ("ret", "full") => options.dsn_return = Some(DsnReturn::Full),
            ("envid", text) => options.dsn_envelope_id = Some(text.into()),
            ("notify", list) => {
                let has = |word| list.split(',').any(|other| other == word);
                let notify = DsnNotify {
                    success: has("success"),
                    failure: has("failure"),
                    delay: has("delay"),
                };
                envelope.recipients.iter_mut().for_each(|one| one.notify = Some(notify));
            }
            ("orcpt", text) => {
                envelope.recipients.iter_mut().for_each(|one| one.original = Some(text.into()));
            }
            ("utf8", _) => options.smtp_utf8 = true,
            _ => panic!("unknown word {word}"),
        }
    }
    let recipients = (0..).take(message.envelope.recipients.len()).collect();
    let mail = Mail::new(Arc::new(message), recipients, NOW);
    Mail { size, pipelined_content, ..mail }
}

/// So many seconds from now, or before it.
fn deliver_by(text: &str) -> DeliverBy {
    let (seconds, letters) = text.split_once(';').unwrap();
    let (mode, trace) = DeliverBy::read_letters(letters).unwrap();
    let at = NOW.0.checked_add_signed(seconds.parse::<i64>().unwrap() * 1000).unwrap();
    DeliverBy { at: Timestamp(at), mode, trace }
}

fn replay(fixture: &str, cut: Cut) -> String {
    let mut replay = Replay::new(fixture, cut);
    let mut server = Vec::new();
    let mut lines = fixture.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("S: ") {
            replay.note(line);
            server.extend_from_slice(text.as_bytes());
            server.extend_from_slice(b"\r\n");
            if !lines.peek().is_some_and(|next| next.starts_with("S: ")) {
                replay.server_says(&std::mem::take(&mut server));
            }
        } else if let Some(action) = line.strip_prefix("> ") {
            replay.note(line);
            replay.caller_does(action);
        }
    }
    replay.log
}

#[test]
fn every_transcript_holds_however_the_input_is_cut() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/delivery");
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 20, "the fixtures are there");
    for name in names {
        let fixture = std::fs::read_to_string(&name).unwrap();
        let title = name.file_name().unwrap().display();
        let meaningful = |line: &&str| !(line.is_empty() || line.starts_with(['#', '!']));
        let expected: String =
            fixture.lines().filter(meaningful).map(|line| format!("{line}\n")).collect();
        let mut cuts = vec![Cut::Nowhere];
        if !fixture.contains("! whole") {
            cuts.push(Cut::Everywhere);
            cuts.extend((1..fixture.len().min(400)).map(Cut::At));
        }
        for cut in cuts {
            let happened = replay(&fixture, cut);
            if happened != expected {
                panic!("{title}, cut {cut:?}: expected\n{expected}\nbut it went\n{happened}");
            }
        }
    }
}
