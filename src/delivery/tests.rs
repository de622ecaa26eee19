//! What single transcripts cannot show: the table of losses, the time-outs, and random
//! servers. The dialogues themselves are in `tests/fixtures/delivery`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::transaction::PIPELINE_COMMANDS_MAX;
use super::*;
use crate::message::{Address, Content, ContentFlags, Envelope, QueueId, Recipient, Stage, Status};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

const GREETING: &str = "220 mx ESMTP\r\n";
const EHLO: &str = "250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n";

fn policy() -> Rc<Policy> {
    let seconds = Duration::from_secs;
    let limits = config::Delivery {
        connect_timeout: seconds(1),
        tls_timeout: seconds(1),
        greeting_timeout: seconds(2),
        hello_timeout: seconds(3),
        mail_timeout: seconds(4),
        recipient_timeout: seconds(5),
        data_timeout: seconds(6),
        content_timeout: seconds(7),
        end_of_data_timeout: seconds(8),
        recipients_max: 100,
    };
    Rc::new(Policy { host_name: "relay.example".into(), limits })
}

fn mail(recipients: u32) -> Mail {
    let to = |n| Recipient::plain(Address::new(format!("r{n}@b.example")));
    let message = Message {
        id: QueueId(1),
        received_at: Timestamp(0),
        envelope: Envelope {
            reverse_path: Some(Address::new("from@a.example")),
            recipients: (0..recipients).map(to).collect(),
        },
        options: Options::default(),
        flags: ContentFlags::default(),
        prepended_headers: Vec::new(),
        content: Content::Whole(vec![b'x'; 100]),
    };
    Mail::new(Arc::new(message), (0..recipients).collect(), Timestamp(0))
}

/// Feeds `input` whole; the last step and all that was to be sent.
fn feed(conversation: &mut Conversation, input: &str) -> (Step, String) {
    let mut out = Vec::new();
    let progress = conversation.receive(input.as_bytes(), &mut out);
    (progress.step, String::from_utf8(out).unwrap())
}

fn manner(starttls: StartTls) -> Manner {
    Manner {
        protocol: Protocol::Smtp,
        starttls,
        verified: false,
        eight_bit: config::EightBit::Bounce,
        pipelining: true,
    }
}

fn conversation() -> Conversation {
    Conversation::new(policy(), "mx.example [192.0.2.1]:25".into(), manner(StartTls::IfOffered))
}

fn ready() -> Conversation {
    let mut conversation = conversation();
    assert_eq!(feed(&mut conversation, GREETING).0, Step::More);
    assert_eq!(feed(&mut conversation, EHLO).0, Step::Ready);
    conversation
}

/// A transaction of two recipients that has seen `replies`; the content is sent when 354 comes.
fn open(replies: &str) -> Conversation {
    let mut conversation = ready();
    conversation.begin(mail(2), &mut Vec::new());
    if feed(&mut conversation, replies).0 == Step::SendContent {
        conversation.content_sent(&mut Vec::new());
    }
    conversation
}

fn stages(outcomes: &[RecipientOutcome]) -> Vec<(u32, Stage, Status)> {
    let stage = |one: &RecipientOutcome| {
        let reason = one.outcome.reason();
        (one.index, reason.stage, reason.status)
    };
    outcomes.iter().map(stage).collect()
}

#[test]
fn a_lost_connection_means_what_the_table_says() {
    let before_content = || {
        let mut conversation = ready();
        conversation.begin(mail(2), &mut Vec::new());
        feed(&mut conversation, "250 a\r\n250 b\r\n550 5.1.1 no\r\n354 go\r\n");
        conversation
    };
    let greeted = || {
        let mut conversation = conversation();
        feed(&mut conversation, GREETING);
        conversation
    };
    let after_reset = || {
        let mut conversation = open("250 a\r\n450 b\r\n450 c\r\n554 d\r\n");
        feed(&mut conversation, "");
        conversation.begin(mail(2), &mut Vec::new());
        conversation
    };
    let refused = (1, Stage::Recipient, Status(5, 1, 1));
    let lost = Status(4, 4, 2);
    let all = |stage| vec![(0, stage, lost), (1, stage, lost)];
    let one = |stage| vec![(0, stage, lost), refused];
    type Row<'a> = (&'a str, Conversation, Stage, Vec<(u32, Stage, Status)>);
    let rows: Vec<Row> = vec![
        ("before the greeting", conversation(), Stage::Greeting, vec![]),
        ("before the reply to EHLO", greeted(), Stage::Hello, vec![]),
        ("between messages", ready(), Stage::Hello, vec![]),
        ("before the reply to RSET", after_reset(), Stage::Mail, all(Stage::Mail)),
        ("before the reply to MAIL", open(""), Stage::Mail, all(Stage::Mail)),
        ("before the reply to RCPT", open("250 a\r\n"), Stage::Recipient, all(Stage::Recipient)),
        (
            "before the reply to DATA",
            open("250 a\r\n250 b\r\n550 5.1.1 no\r\n"),
            Stage::Data,
            one(Stage::Data),
        ),
        ("while the message was sent", before_content(), Stage::Content, one(Stage::Content)),
        (
            "after the end of the message; it may have been delivered",
            open("250 a\r\n250 b\r\n550 5.1.1 no\r\n354 go\r\n"),
            Stage::EndOfData,
            one(Stage::EndOfData),
        ),
        (
            "after all recipients were refused",
            open("250 a\r\n550 5.1.1 no\r\n550 5.1.1 no\r\n354 go\r\n"),
            Stage::EndOfData,
            vec![(0, Stage::Recipient, Status(5, 1, 1)), refused],
        ),
    ];
    for (words, mut conversation, stage, expected) in rows {
        let (outcomes, reason) = conversation.lost(Loss::TimedOut);
        assert_eq!(&*reason.text, format!("timed out {words}"));
        assert_eq!((reason.stage, reason.status, reason.code), (stage, lost, 0), "{words}");
        assert_eq!(&*reason.remote, "mx.example [192.0.2.1]:25");
        assert_eq!(stages(&outcomes), expected, "{words}");
        let (after, _) = conversation.lost(Loss::TimedOut);
        assert!(after.is_empty(), "{words}: none ends twice");
    }
    let (outcomes, reason) = before_content().lost(Loss::Content("segment 7: torn".into()));
    assert_eq!(stages(&outcomes), vec![(0, Stage::Local, Status(4, 3, 0)), refused]);
    assert_eq!(&*reason.text, "the message could not be read here: segment 7: torn");
    let (_, reason) = open("").lost(Loss::Closed("reset\r\nby peer".into()));
    assert_eq!(&*reason.text, "the connection was lost before the reply to MAIL: reset  by peer");
}

#[test]
fn too_many_recipients_are_deferred_by_their_own_reply_when_the_connection_is_lost() {
    let mut conversation = open("250 a\r\n250 b\r\n452 too many\r\n354 go\r\n");
    let (outcomes, _) = conversation.lost(Loss::TimedOut);
    assert_eq!(outcomes[1].outcome.reason().code, 452);
    assert!(matches!(outcomes[1].outcome, Outcome::Deferred(_)));
}

#[test]
fn each_state_has_its_time_out() {
    let seconds = |conversation: &Conversation| conversation.timeout().as_secs();
    let mut one = conversation();
    assert_eq!(seconds(&one), 2);
    feed(&mut one, GREETING);
    assert_eq!(seconds(&one), 3);
    feed(&mut one, EHLO);
    one.begin(mail(1), &mut Vec::new());
    assert_eq!(seconds(&one), 4);
    for (reply, wait) in [("250 a\r\n", 5), ("250 b\r\n", 6), ("354 c\r\n", 7)] {
        feed(&mut one, reply);
        assert_eq!(seconds(&one), wait, "after {reply:?}");
    }
    one.content_sent(&mut Vec::new());
    assert_eq!(seconds(&one), 8);
}

#[test]
fn an_ordinary_transaction_is_one_write() {
    let mut conversation = ready();
    let mut out = Vec::new();
    conversation.begin(mail(100), &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("MAIL FROM:<from@a.example> SIZE=100\r\nRCPT TO:<r0@b.example>\r\n"));
    assert!(text.ends_with("RCPT TO:<r99@b.example>\r\nDATA\r\n"));
    assert_eq!(text.matches("\r\n").count(), 102);
}

#[test]
fn no_more_commands_are_ahead_of_their_replies_than_the_bound() {
    let mut conversation = ready();
    let mut out = Vec::new();
    conversation.begin(mail(500), &mut out);
    let count = |out: &[u8]| out.iter().filter(|&&byte| byte == b'\n').count();
    let (mut sent, mut answered) = (count(&out), 0);
    while answered < 501 {
        assert!(sent - answered <= PIPELINE_COMMANDS_MAX && sent > answered);
        sent += count(feed(&mut conversation, "250 ok\r\n").1.as_bytes());
        answered += 1;
    }
    assert_eq!(sent, 502);
    assert_eq!(feed(&mut conversation, "354 go\r\n").0, Step::SendContent);
}

#[test]
fn replies_beyond_the_bounds_break_the_conversation() {
    let flood = "250-x\r\n".repeat(150_000);
    let long = "2".repeat(5000);
    for nonsense in [flood.as_str(), long.as_str(), "hello\r\n", "250-a\r\n550 b\r\n", "\r\n"] {
        let mut fresh = conversation();
        let (step, out) = feed(&mut fresh, nonsense);
        let Step::Unusable(Outcome::Deferred(reason)) = step else { panic!("{step:?}") };
        assert_eq!((reason.stage, reason.status), (Stage::Greeting, Status(4, 5, 0)));
        assert!(reason.text.starts_with("the server broke the protocol: "), "{reason}");
        assert_eq!(out, "");
        let mut open = open("250 a\r\n");
        let (step, _) = feed(&mut open, nonsense);
        let Step::Finished { outcomes, again } = step else { panic!("{step:?}") };
        assert!(again.is_empty());
        assert_eq!(stages(&outcomes)[1], (1, Stage::Recipient, Status(4, 5, 0)));
        assert_eq!(feed(&mut open, "").0, Step::Close);
    }
}

#[test]
fn a_reply_too_many_closes_and_is_never_taken_for_the_next_ones() {
    let mut early = conversation();
    let (step, out) = feed(&mut early, "220 mx\r\n250 mx\r\n");
    assert!(matches!(step, Step::Unusable(Outcome::Deferred(_))), "{step:?}");
    assert_eq!(out, "", "EHLO was not sent to it");
    let mut idle = ready();
    assert_eq!(feed(&mut idle, "421 idle too long\r\n").0, Step::Close);
    // The reply to the transaction still counts; what follows it does not.
    let mut done = open("250 a\r\n250 b\r\n250 c\r\n354 d\r\n");
    let input = "250 kept\r\n250 and more\r\n";
    let progress = done.receive(input.as_bytes(), &mut Vec::new());
    assert_eq!(progress.consumed, "250 kept\r\n".len());
    let Step::Finished { outcomes, .. } = progress.step else { panic!() };
    assert!(outcomes.iter().all(|one| matches!(one.outcome, Outcome::Delivered(_))));
    assert_eq!(feed(&mut done, &input[progress.consumed..]).0, Step::Close);
    // After 354 a second reply means that content must not follow.
    let mut twice = ready();
    twice.begin(mail(1), &mut Vec::new());
    let (step, _) = feed(&mut twice, "250 a\r\n250 b\r\n354 c\r\n250 d\r\n");
    let Step::Finished { outcomes, .. } = step else { panic!("{step:?}") };
    assert!(matches!(outcomes[0].outcome, Outcome::Deferred(_)));
}

#[test]
fn a_refusal_in_the_midst_of_content_counts() {
    let mut conversation = ready();
    conversation.begin(mail(1), &mut Vec::new());
    assert_eq!(feed(&mut conversation, "250 a\r\n250 b\r\n354 c\r\n").0, Step::SendContent);
    assert_eq!(feed(&mut conversation, "").0, Step::More);
    let (step, _) = feed(&mut conversation, "552 5.3.4 too big\r\n");
    let Step::Finished { outcomes, .. } = step else { panic!("{step:?}") };
    let expected = (0, Stage::Content, Status(5, 3, 4));
    assert_eq!(stages(&outcomes), vec![expected]);
    assert!(matches!(outcomes[0].outcome, Outcome::Refused(_)));
    assert_eq!(feed(&mut conversation, "").0, Step::Close);
}

const REPLIES: &[&str] = &[
    "250 2.0.0 ok",
    "250 ok",
    "250-a\r\n250 b",
    "354 go",
    "421 4.3.2 bye",
    "450 busy",
    "452 4.5.3 too many",
    "452 full",
    "550 5.1.1 unknown",
    "552 too many",
    "554 no",
    "503 order",
    "220 hi",
    "250-PIPELINING\r\n250 SIZE 0",
    "500 what",
    "nonsense",
    "250-a\r\n251 b",
    "99 x",
    "",
];

/// What came of a random conversation.
#[derive(Default, Debug)]
struct Tally {
    ended: usize,
    again: usize,
    lost: usize,
    unusable: usize,
}

/// A random server: mostly it answers each command once, in portions of random size.
struct RandomServer {
    random: fastrand::Rng,
    odd_percent: u8,
    commands: Vec<u8>,
    incoming: Vec<u8>,
}

impl RandomServer {
    fn reply(&mut self, usual: &'static str) {
        let reply = match self.random.u8(..100) {
            chance if chance >= self.odd_percent => usual,
            _ => REPLIES[self.random.usize(..REPLIES.len())],
        };
        self.incoming.extend_from_slice(reply.as_bytes());
        self.incoming.extend_from_slice(b"\r\n");
    }

    /// Some bytes for the client, after reading what it sent in `out`.
    fn receive(&mut self, out: &mut Vec<u8>, input: &mut Vec<u8>) {
        self.commands.append(out);
        let commands = std::mem::take(&mut self.commands);
        for command in commands.split_inclusive(|&byte| byte == b'\n') {
            match command.first() {
                Some(b'E') => {
                    let kind = self.random.usize(..2);
                    self.reply(REPLIES_TO_EHLO[kind])
                }
                Some(b'D') => self.reply("354 go"),
                Some(b'R') if self.random.u8(..100) == 0 => self.reply("452 4.5.3 too many"),
                _ => self.reply("250 ok"),
            }
        }
        if self.random.u16(..500) == 0 {
            self.reply("250 one too many");
        }
        let portion = self.random.usize(..=self.incoming.len());
        input.extend(self.incoming.drain(..portion));
    }
}

const REPLIES_TO_EHLO: [&str; 2] = ["250-hi\r\n250-PIPELINING\r\n250 SIZE 0", "250 hi"];

/// Runs until the connection ends. Every recipient of every transaction must have ended once, or
/// stand in `again`, before the next one begins.
fn random_conversation(seed: u64, tally: &mut Tally) {
    let mut random = fastrand::Rng::with_seed(seed);
    let odd_percent = random.u8(..20);
    let incoming = b"220 hi\r\n".to_vec();
    let mut server = RandomServer { random, odd_percent, commands: vec![], incoming };
    let mut conversation = conversation();
    let (mut input, mut out): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
    let mut open: BTreeSet<u32> = BTreeSet::new();
    let mut transactions = 0;
    for _ in 0..20_000 {
        let progress = conversation.receive(&input, &mut out);
        assert!(progress.consumed <= input.len());
        input.drain(..progress.consumed);
        match progress.step {
            Step::More if server.random.u16(..2000) == 0 => break,
            Step::More => server.receive(&mut out, &mut input),
            Step::Prove(_) => panic!("no login is configured"),
            Step::StartTls => {
                input.clear();
                conversation.secured(&mut out);
            }
            Step::Ready if transactions == 10 => conversation.quit(&mut out),
            Step::Ready => {
                transactions += 1;
                let mail = mail(server.random.u32(1..6) * server.random.u32(1..60));
                open = mail.recipients.iter().copied().collect();
                conversation.begin(mail, &mut out);
            }
            Step::SendContent => {
                conversation.content_sent(&mut out);
            }
            Step::Finished { outcomes, again } => {
                tally.ended += outcomes.len();
                tally.again += again.len();
                for index in outcomes.iter().map(|one| one.index).chain(again) {
                    assert!(open.remove(&index), "seed {seed}: {index} ended twice");
                }
                assert!(open.is_empty(), "seed {seed}: {open:?} did not end");
            }
            Step::Unusable(outcome) => {
                assert!(open.is_empty() && matches!(outcome, Outcome::Deferred(_)));
                tally.unusable += 1;
                return;
            }
            Step::Close => {
                assert!(open.is_empty(), "seed {seed}: closed with {open:?} open");
                return;
            }
        }
    }
    let (outcomes, _) = conversation.lost(Loss::Closed("end".into()));
    tally.lost += outcomes.len();
    for RecipientOutcome { index, .. } in outcomes {
        assert!(open.remove(&index), "seed {seed}: {index} ended twice");
    }
    assert!(open.is_empty(), "seed {seed}: {open:?} did not end");
}

#[test]
fn whatever_a_server_says_every_recipient_ends_once_or_is_sent_again() {
    let mut tally = Tally::default();
    for seed in 0..2000 {
        random_conversation(seed, &mut tally);
    }
    // The test would show nothing if these did not happen.
    assert!(tally.ended > 10_000 && tally.again > 500, "{tally:?}");
    assert!(tally.lost > 100 && tally.unusable > 50, "{tally:?}");
}

const EHLO_TLS: &str = "250-mx\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 SIZE 10\r\n";

fn with_starttls(starttls: StartTls) -> Conversation {
    let mut conversation = Conversation::new(policy(), "mx.example".into(), manner(starttls));
    feed(&mut conversation, GREETING);
    conversation
}

fn unusable(step: &Step) -> (Stage, Status) {
    match step {
        Step::Unusable(Outcome::Deferred(reason)) => (reason.stage, reason.status),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_said_before_the_handshake_is_asked_again() {
    let mut conversation = with_starttls(StartTls::IfOffered);
    assert_eq!(feed(&mut conversation, EHLO_TLS), (Step::More, "STARTTLS\r\n".to_owned()));
    assert_eq!(feed(&mut conversation, "220 go\r\n").0, Step::StartTls);
    let mut out = Vec::new();
    conversation.secured(&mut out);
    assert_eq!(out, b"EHLO relay.example\r\n");
    assert_eq!(*conversation.capabilities(), Capabilities::default());
    assert_eq!(feed(&mut conversation, EHLO_TLS).0, Step::Ready, "not said twice");
    assert_eq!(conversation.capabilities().size, Some(10));
}

#[test]
fn bytes_behind_the_reply_to_starttls_are_dropped() {
    for behind in ["250-mx\r\n250 AUTH PLAIN\r\n", "250-m", "\r\n", "nonsense"] {
        let mut conversation = with_starttls(StartTls::Always);
        feed(&mut conversation, EHLO_TLS);
        let input = format!("220 go\r\n{behind}");
        let progress = conversation.receive(input.as_bytes(), &mut Vec::new());
        assert_eq!(progress, Progress { consumed: input.len(), step: Step::StartTls });
        conversation.secured(&mut Vec::new());
        assert_eq!(feed(&mut conversation, "250-mx\r\n250 SIZE 7\r\n").0, Step::Ready);
        let expected = Capabilities { size: Some(7), ..Capabilities::default() };
        assert_eq!(*conversation.capabilities(), expected, "{behind:?}");
    }
}

#[test]
fn after_the_dot_any_last_line_of_class_2_means_taken() {
    let long = format!("250 {}\r\n", "x".repeat(5000));
    for reply in [
        "250-2.0.0 a\r\n251 b\r\n",
        "250-a\r\n250ok\r\n",
        &long,
        "\r\n250 ok\r\n",
        "spam filter says hello\r\n250 ok\r\n",
    ] {
        let by_data = open("250 a\r\n250 b\r\n550 5.1.1 no\r\n354 go\r\n");
        let mut by_chunk = Conversation::new(policy(), "mx".into(), manner(StartTls::Never));
        feed(&mut by_chunk, GREETING);
        feed(&mut by_chunk, "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
        by_chunk.begin(Mail { pipelined_content: true, ..mail(2) }, &mut Vec::new());
        assert!(by_chunk.takes_content_ahead());
        by_chunk.chunk(100, &mut Vec::new());
        by_chunk.content_sent(&mut Vec::new());
        feed(&mut by_chunk, "250 a\r\n250 b\r\n550 5.1.1 no\r\n");
        let lmtp = Manner { protocol: Protocol::Lmtp, ..manner(StartTls::Never) };
        let mut by_lmtp = Conversation::new(policy(), "mx".into(), lmtp);
        feed(&mut by_lmtp, GREETING);
        feed(&mut by_lmtp, EHLO);
        by_lmtp.begin(mail(2), &mut Vec::new());
        let step = feed(&mut by_lmtp, "250 a\r\n250 b\r\n550 5.1.1 no\r\n354 go\r\n").0;
        assert_eq!(step, Step::SendContent);
        by_lmtp.content_sent(&mut Vec::new());
        for mut conversation in [by_data, by_chunk, by_lmtp] {
            let (step, _) = feed(&mut conversation, reply);
            let Step::Finished { outcomes, .. } = step else { panic!("{reply:?}: {step:?}") };
            assert!(
                matches!(outcomes[0].outcome, Outcome::Delivered(_)),
                "{reply:?}: {outcomes:?}"
            );
            assert!(matches!(outcomes[1].outcome, Outcome::Refused(_)), "{outcomes:?}");
            assert_eq!(feed(&mut conversation, "").0, Step::Ready);
        }
    }
}

#[test]
fn mail_that_must_not_go_in_the_clear_does_not() {
    for (starttls, replies, expected) in [
        (StartTls::Always, &[EHLO][..], Some((Stage::Hello, Status(4, 7, 4)))),
        (StartTls::Always, &["502 no\r\n", "250 mx\r\n"], Some((Stage::Hello, Status(4, 7, 4)))),
        (StartTls::Always, &[EHLO_TLS, "454 4.7.0 later\r\n"], Some((Stage::Tls, Status(4, 7, 0)))),
        (StartTls::Always, &[EHLO_TLS, "501 5.5.1 what\r\n"], Some((Stage::Tls, Status(5, 5, 1)))),
        (StartTls::IfOffered, &[EHLO_TLS, "454 4.7.0 later\r\n"], None),
        (StartTls::IfOffered, &[EHLO], None),
        (StartTls::Never, &[EHLO_TLS], None),
    ] {
        let mut conversation = with_starttls(starttls);
        let mut last = Step::More;
        for reply in replies {
            last = feed(&mut conversation, reply).0;
        }
        match expected {
            Some(expected) => assert_eq!(unusable(&last), expected, "{replies:?}"),
            None => assert_eq!(last, Step::Ready, "{starttls:?} {replies:?}"),
        }
    }
}

mod login;
mod scopes;
