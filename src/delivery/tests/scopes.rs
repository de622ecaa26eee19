//! The tables of `scope`, cell by cell: as a function, and by conversations that fail there.

use super::*;
use crate::limits::{ATTEMPT_HOSTS_SHOWN_MAX, ATTEMPT_SESSIONS_MAX};
use crate::message::{Body, Reason};

const EVENTS: [Event; 6] =
    [Event::Later, Event::Closing, Event::Refused, Event::Malformed, Event::Lost, Event::TimedOut];

/// The rows of the first table in the documentation of `scope`: (stage, the six cells).
fn documented() -> Vec<(&'static str, Vec<Option<Scope>>)> {
    let lines = include_str!("../scope.rs").lines();
    let table = lines.skip_while(|line| !line.contains("| stage | 4xx |")).skip(2);
    let rows = table.take_while(|line| line.starts_with("//! |"));
    let rows = rows.map(|line| {
        let mut cells = line.trim_start_matches("//! |").trim_end_matches('|').split('|');
        let stage = cells.next().unwrap().trim();
        let scope = |cell: &str| match cell.trim() {
            "" => None,
            "recipient" => Some(Scope::Recipient),
            "transaction" => Some(Scope::Transaction),
            "connection" => Some(Scope::Connection),
            "host" => Some(Scope::Host),
            "message" => Some(Scope::Message),
            other => panic!("no scope: {other}"),
        };
        (stage, cells.map(scope).collect())
    });
    rows.collect()
}

fn cell(stage: &str, event: Event) -> Scope {
    let rows = documented();
    let (_, cells) = rows.iter().find(|(name, _)| *name == stage).expect(stage);
    let place = EVENTS.iter().position(|one| *one == event).unwrap();
    cells[place].expect("a cell that can happen")
}

#[test]
fn the_function_is_the_documented_table() {
    let stages = [
        ("connect", Point::Connect, Usage::Fresh),
        ("greeting", Point::Greeting, Usage::Fresh),
        ("EHLO, AUTH", Point::Hello, Usage::Fresh),
        ("STARTTLS, TLS", Point::Tls, Usage::Fresh),
        ("RSET before MAIL", Point::Reset, Usage::Reused),
        ("MAIL", Point::Mail, Usage::Fresh),
        ("MAIL, reused", Point::Mail, Usage::Reused),
        ("RCPT", Point::Recipient, Usage::Fresh),
        ("DATA", Point::Data, Usage::Fresh),
        ("content", Point::Content, Usage::Fresh),
        ("end of data", Point::EndOfData, Usage::Fresh),
        ("end of data, LMTP", Point::EndOfDataEach, Usage::Fresh),
    ];
    assert_eq!(documented().len(), stages.len() + 1, "and the pipelined row");
    for (stage, point, usage) in stages {
        for (event, documented) in EVENTS.iter().zip(&row(stage)) {
            if let Some(expected) = documented {
                assert_eq!(scope_of(point, *event, usage), *expected, "{stage} {event:?}");
            }
            // Only MAIL knows a difference.
            if point != Point::Mail {
                let other = scope_of(point, *event, Usage::Reused);
                assert_eq!(scope_of(point, *event, Usage::Fresh), other);
            }
        }
    }
}

fn row(stage: &str) -> Vec<Option<Scope>> {
    documented().into_iter().find(|(name, _)| *name == stage).expect(stage).1
}

/// How a conversation is held.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Variant {
    pipelined: bool,
    lmtp: bool,
    reused: bool,
    chunk: bool,
}

/// The order of what is awaited in a transaction of two recipients.
const ORDER: [Point; 6] = [
    Point::Mail,
    Point::Recipient,
    Point::Recipient,
    Point::Data,
    Point::Content,
    Point::EndOfData,
];

/// Ready for a transaction.
fn begun(variant: Variant, reset: bool) -> Conversation {
    let protocol = if variant.lmtp { Protocol::Lmtp } else { Protocol::Smtp };
    let manner = Manner { protocol, ..manner(StartTls::Never) };
    let mut conversation = Conversation::new(policy(), "mx.example".into(), manner);
    feed(&mut conversation, GREETING);
    let ehlo = match (variant.pipelined, variant.chunk) {
        (true, false) => "250-mx\r\n250 PIPELINING\r\n",
        (true, true) => "250-mx\r\n250-PIPELINING\r\n250-BINARYMIME\r\n250 CHUNKING\r\n",
        (false, true) => "250-mx\r\n250-BINARYMIME\r\n250 CHUNKING\r\n",
        (false, false) => "250 mx\r\n",
    };
    assert_eq!(feed(&mut conversation, ehlo).0, Step::Ready);
    if variant.reused || reset {
        conversation.begin(of(variant), &mut Vec::new());
        let replies: &[&str] = match reset {
            // An envelope is left behind.
            true => &["250 a\r\n", "550 b\r\n", "550 c\r\n", "503 d\r\n"],
            false => &["250 a\r\n", "250 b\r\n", "250 c\r\n"],
        };
        for reply in replies {
            if matches!(feed(&mut conversation, reply).0, Step::Finished { .. }) {
                break;
            }
        }
        if !reset {
            finish_content(&mut conversation, variant);
        }
        assert_eq!(feed(&mut conversation, "").0, Step::Ready, "{variant:?}");
    }
    conversation.begin(of(variant), &mut Vec::new());
    conversation
}

fn of(variant: Variant) -> Mail {
    let mut mail = mail(2);
    if variant.chunk {
        let mut message = Message::clone(&mail.message);
        message.options.body = Body::BinaryMime;
        mail.message = Arc::new(message);
    }
    mail
}

/// From the recipients' replies to the end of a message that is taken.
fn finish_content(conversation: &mut Conversation, variant: Variant) {
    if !variant.chunk {
        assert_eq!(feed(conversation, "354 go\r\n").0, Step::SendContent);
    }
    send(conversation, variant);
    let all = if variant.lmtp { 2 } else { 1 };
    for _ in 0..all {
        feed(conversation, "250 taken\r\n");
    }
}

fn send(conversation: &mut Conversation, variant: Variant) {
    if variant.chunk {
        conversation.chunk(100, &mut Vec::new());
    }
    conversation.content_sent(&mut Vec::new());
}

/// Brings a conversation to where the reply to `point` is awaited, has `event` happen there, and
/// all that follows go well: what became of the recipients.
fn fail_at(point: Point, event: Event, variant: Variant) -> Vec<RecipientOutcome> {
    let mut conversation = begun(variant, point == Point::Reset);
    let order: Vec<Point> =
        ORDER.into_iter().filter(|one| !(variant.chunk && *one == Point::Data)).collect();
    let place = order.iter().position(|one| *one == point).unwrap_or(0);
    for before in order.iter().take(place) {
        match before {
            Point::Data => assert_eq!(feed(&mut conversation, "354 go\r\n").0, Step::SendContent),
            Point::Content => send(&mut conversation, variant),
            _ => drop(feed(&mut conversation, "250 ok\r\n")),
        }
    }
    let reply = match event {
        Event::Later => "451 4.3.0 later\r\n",
        Event::Closing => "421 4.3.2 closing\r\n",
        Event::Refused => "550 5.7.1 no\r\n",
        Event::Malformed if point == Point::EndOfData => "354 again\r\n",
        Event::Malformed if point == Point::Content => "250 early\r\n",
        Event::Malformed => "nonsense\r\n",
        Event::Lost => return conversation.lost(Loss::Closed("reset".into())).0,
        Event::TimedOut => return conversation.lost(Loss::TimedOut).0,
    };
    let mut step = feed(&mut conversation, reply).0;
    for following in order.iter().skip(place + 1).chain([&Point::EndOfData; 2]) {
        match step {
            Step::Finished { outcomes, .. } => return outcomes,
            Step::SendContent => {
                send(&mut conversation, variant);
                step = Step::More;
            }
            _ => {
                let usual = match following {
                    _ if point == Point::Mail => "503 no\r\n",
                    Point::Data => "354 go\r\n",
                    Point::Content => continue,
                    _ => "250 ok\r\n",
                };
                step = feed(&mut conversation, usual).0;
            }
        }
    }
    match step {
        Step::Finished { outcomes, .. } => outcomes,
        other => panic!("{point:?} {event:?} {variant:?}: {other:?}"),
    }
}

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for number in 0..16 {
        let bit = |place: u32| number & (1 << place) != 0;
        all.push(Variant { pipelined: bit(0), lmtp: bit(1), reused: bit(2), chunk: bit(3) });
    }
    // Chunks are not tried over LMTP here.
    all.retain(|variant| !(variant.lmtp && variant.chunk));
    all
}

#[test]
fn every_cell_of_a_transaction_holds_in_every_variant() {
    let mut cells = 0;
    for variant in variants() {
        for (stage, point) in [
            ("RSET before MAIL", Point::Reset),
            ("MAIL", Point::Mail),
            ("RCPT", Point::Recipient),
            ("DATA", Point::Data),
            ("content", Point::Content),
            ("end of data", Point::EndOfData),
        ] {
            if point == Point::Data && variant.chunk {
                continue;
            }
            let stage = match point {
                Point::Mail if variant.reused => "MAIL, reused",
                Point::Recipient if variant.pipelined && !(variant.chunk && variant.lmtp) => {
                    "RCPT, pipelined, others answered"
                }
                Point::EndOfData if variant.lmtp => "end of data, LMTP",
                _ => stage,
            };
            for event in EVENTS {
                check(stage, point, event, variant);
                cells += 1;
            }
        }
    }
    assert!(cells > 400, "{cells}");
}

fn check(stage: &str, point: Point, event: Event, variant: Variant) {
    let what = format!("{stage} {event:?} {variant:?}");
    let expected = cell(stage, event);
    let outcomes = fail_at(point, event, variant);
    assert_eq!(outcomes.len(), 2, "{what}: {outcomes:?}");
    let is_refusal = event == Event::Refused && point != Point::Reset;
    let (first, second) = (&outcomes[0], &outcomes[1]);
    assert_eq!(first.scope, expected, "{what}: {outcomes:?}");
    match is_refusal {
        true => assert!(matches!(first.outcome, Outcome::Refused(_)), "{what}: {first:?}"),
        false => assert!(matches!(first.outcome, Outcome::Deferred(_)), "{what}: {first:?}"),
    }
    if expected == Scope::Recipient {
        assert!(matches!(second.outcome, Outcome::Delivered(_)), "{what}: {second:?}");
    } else {
        assert_eq!(second.scope, expected, "{what}: {outcomes:?}");
        assert_eq!(first.outcome, second.outcome, "{what}");
    }
    // The second table: what is done next.
    let mut attempt = Attempt::new(&[0, 1]);
    attempt.transacted(outcomes, Vec::new());
    let next = match expected {
        _ if is_refusal => Next::End,
        Scope::Connection => Next::SameHost,
        Scope::Message => Next::End,
        Scope::Recipient | Scope::Transaction | Scope::Host => Next::NextHost,
    };
    assert_eq!(attempt.next(), next, "{what}");
    let ended = attempt.finish().0.len();
    match expected {
        // Nothing is charged: without a further try they are simply not tried.
        Scope::Connection => assert_eq!(ended, 0, "{what}"),
        _ => assert_eq!(ended, 2, "{what}"),
    }
}

#[test]
fn before_a_transaction_whatever_fails_is_the_hosts() {
    for (stage, replies) in [
        ("greeting", &[][..]),
        ("EHLO, AUTH", &[GREETING]),
        ("STARTTLS, TLS", &[GREETING, EHLO_TLS]),
    ] {
        for event in EVENTS {
            assert_eq!(cell(stage, event), Scope::Host);
            let mut conversation =
                Conversation::new(policy(), "mx".into(), manner(StartTls::Always));
            for reply in replies {
                feed(&mut conversation, reply);
            }
            let reply = match event {
                Event::Later => "451 later\r\n",
                Event::Closing => "421 closing\r\n",
                Event::Refused => "554 no\r\n",
                Event::Malformed => "nonsense\r\n",
                Event::Lost | Event::TimedOut => {
                    let (outcomes, _) = conversation.lost(Loss::TimedOut);
                    assert!(outcomes.is_empty(), "{stage}");
                    continue;
                }
            };
            let mut step = feed(&mut conversation, reply).0;
            if step == Step::More {
                step = feed(&mut conversation, "554 nor to HELO\r\n").0;
            }
            assert!(matches!(step, Step::Unusable(Outcome::Deferred(_))), "{stage} {step:?}");
        }
    }
}

#[test]
fn a_421_to_one_recipient_and_a_lost_connection_leave_the_others_to_a_new_one() {
    for pipelined in [true, false] {
        let variant = Variant { pipelined, lmtp: false, reused: false, chunk: false };
        let mut conversation = begun(variant, false);
        feed(&mut conversation, "250 ok\r\n");
        assert_eq!(feed(&mut conversation, "421 4.7.0 not this one\r\n").0, Step::More);
        let (outcomes, _) = conversation.lost(Loss::Closed("closed".into()));
        let scopes: Vec<Scope> = outcomes.iter().map(|one| one.scope).collect();
        assert_eq!(scopes, [Scope::Recipient, Scope::Connection]);
        assert!(outcomes.iter().all(|one| one.outcome.reason().code == 421), "{outcomes:?}");
        let mut attempt = Attempt::new(&[0, 1]);
        attempt.transacted(outcomes, Vec::new());
        assert_eq!((attempt.next(), attempt.recipients()), (Next::SameHost, vec![1]));
        attempt.transacted(vec![taken(1)], Vec::new());
        assert_eq!((attempt.next(), attempt.recipients()), (Next::NextHost, vec![0]));
    }
}

fn reason(code: u16, remote: &str) -> Reason {
    let status = Status(4, 0, 0);
    Reason { code, remote: remote.into(), ..Reason::ours(Stage::Recipient, status, "words") }
}

fn taken(index: u32) -> RecipientOutcome {
    let outcome = Outcome::Delivered(reason(250, "good"));
    RecipientOutcome { index, outcome, scope: Scope::Transaction }
}

fn later(index: u32, remote: &str, scope: Scope) -> RecipientOutcome {
    RecipientOutcome { index, outcome: Outcome::Deferred(reason(450, remote)), scope }
}

fn failure(telling: Telling, remote: &str) -> HostFailure {
    let reason = Reason { stage: Stage::Connect, ..reason(0, remote) };
    HostFailure { reason, telling, finality: Finality::Later }
}

fn remotes(outcome: &Outcome) -> Vec<&str> {
    let hosts = outcome.reason().hosts.as_deref().unwrap_or_default();
    hosts.iter().map(|host| &*host.remote).collect()
}

#[test]
fn the_most_telling_host_is_the_reason_and_all_are_named() {
    let mut attempt = Attempt::new(&[7]);
    attempt.host_failed(failure(Telling::Unreachable, "far"));
    attempt.host_failed(failure(Telling::NoAnswer, "silent"));
    attempt.host_failed(failure(Telling::Reply, "greets with 421"));
    attempt.host_failed(failure(Telling::Refused, "closed"));
    attempt.host_failed(failure(Telling::Tls, "tls"));
    let (outcomes, again) = attempt.finish();
    assert!(again.is_empty());
    let (7, outcome) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(&*outcome.reason().remote, "greets with 421");
    assert_eq!(remotes(outcome), ["greets with 421", "tls", "closed", "silent"]);
}

#[test]
fn an_address_without_a_route_is_named_only_when_there_is_nothing_else() {
    let mut attempt = Attempt::new(&[0]);
    attempt.host_failed(failure(Telling::Unreachable, "far"));
    let (outcomes, _) = attempt.finish();
    assert_eq!(&*outcomes[0].1.reason().remote, "far");
    assert!(outcomes[0].1.reason().hosts.is_none());
}

#[test]
fn of_equal_hosts_the_first_is_the_reason_and_a_delivery_names_those_before() {
    let mut attempt = Attempt::new(&[0, 1]);
    let outcomes = vec![later(0, "one", Scope::Recipient), later(1, "one", Scope::Recipient)];
    attempt.transacted(outcomes, Vec::new());
    attempt.transacted(vec![taken(0), later(1, "two", Scope::Recipient)], Vec::new());
    assert_eq!((attempt.next(), attempt.recipients()), (Next::NextHost, vec![1]));
    let (outcomes, _) = attempt.finish();
    assert_eq!(remotes(&outcomes[0].1), ["good", "one"]);
    assert_eq!(&*outcomes[1].1.reason().remote, "one");
    assert_eq!(remotes(&outcomes[1].1), ["one", "two"]);
}

#[test]
fn the_number_of_hosts_and_of_those_shown_is_bounded() {
    let mut attempt = Attempt::new(&[0]);
    for session in 0..ATTEMPT_SESSIONS_MAX {
        assert_eq!(attempt.next(), Next::NextHost, "{session}");
        attempt.transacted(vec![later(0, &format!("h{session}"), Scope::Transaction)], vec![]);
    }
    assert_eq!(attempt.next(), Next::End);
    let mut attempt = Attempt::new(&[0]);
    for host in 0..3 * ATTEMPT_HOSTS_SHOWN_MAX {
        attempt.host_failed(failure(Telling::Refused, &format!("h{host}")));
        assert_eq!(attempt.next(), Next::NextHost, "hosts that fail before are not counted");
    }
    assert_eq!(remotes(&attempt.finish().0[0].1).len(), ATTEMPT_HOSTS_SHOWN_MAX);
}

#[test]
fn a_connection_is_made_anew_once() {
    let mut attempt = Attempt::new(&[0]);
    attempt.transacted(vec![later(0, "one", Scope::Connection)], vec![]);
    assert_eq!(attempt.next(), Next::SameHost);
    assert!(!attempt.had_session(), "nothing is known of the host");
    attempt.transacted(vec![later(0, "one", Scope::Connection)], vec![]);
    assert_eq!(attempt.next(), Next::NextHost);
    let (outcomes, again) = attempt.finish();
    assert!(again.is_empty() && outcomes.len() == 1);
}

#[test]
fn recipients_to_be_sent_again_are_and_untried_ones_too() {
    let mut attempt = Attempt::new(&[0, 1, 2]);
    attempt.transacted(vec![taken(0), later(2, "one", Scope::Connection)], vec![1]);
    let (outcomes, mut again) = attempt.finish();
    again.sort_unstable();
    assert_eq!((outcomes.len(), again), (1, vec![1, 2]));
}

#[test]
fn what_no_host_can_ever_take_is_refused_unless_one_could_not_be_asked() {
    let never = || {
        let failed = failure(Telling::Tls, "without REQUIRETLS");
        HostFailure { finality: Finality::Never, ..failed }
    };
    let mut attempt = Attempt::new(&[0]);
    attempt.host_failed(never());
    assert!(matches!(attempt.finish().0[0].1, Outcome::Refused(_)));
    let mut attempt = Attempt::new(&[0]);
    attempt.host_failed(never());
    attempt.host_failed(failure(Telling::NoAnswer, "silent"));
    let (outcomes, _) = attempt.finish();
    assert!(matches!(outcomes[0].1, Outcome::Deferred(_)));
    assert_eq!(remotes(&outcomes[0].1), ["silent", "without REQUIRETLS"]);
}
