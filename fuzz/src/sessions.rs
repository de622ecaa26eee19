//! Whole sessions, also with BDAT: replies and content are the same however the input is split, and
//! the content of a chunk is never taken for a command.

use crate::inputs::cuts;
use ringpost::config;
use ringpost::message::{Body, QueueId, Timestamp};
use ringpost::sasl::{Channels, Exchange, Hints, Mechanism, TokenFault, Turn};
use ringpost::session::{AuthInput, Authentication, Client, Etrn, Policy, Session, Step};
use ringpost::smtp::Reply;
use std::rc::Rc;
use std::time::Duration;

/// The result of a session: replies, then the content of each accepted message.
type Seen = (Vec<u8>, Vec<Vec<u8>>);

/// Plays the input whole and split.
pub fn sessions(input: &[u8], seed: u64) {
    let whole = play(input, &[input.len()]);
    assert_eq!(play(input, &cuts(input.len(), seed)), whole);
    let (replies, messages) = whole;
    assert!(replies.is_empty() || replies.ends_with(b"\r\n"));
    for line in replies.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let sound = line.ends_with(b"\r") && line.iter().take(3).all(u8::is_ascii_digit);
        assert!(sound && line.is_ascii() && line.len() < 512, "{}", line.escape_ascii());
    }
    assert!(messages.iter().all(|content| content.len() <= 3 * input.len() + 2));
}

fn play(input: &[u8], cuts: &[usize]) -> Seen {
    let policy = Policy { host_name: "relay.example".into(), limits: limits() };
    let client = Client {
        address: "192.0.2.9:4321".parse().expect("an address"),
        may_relay: true,
        starttls: false,
        tls_demanded: false,
        scheduling: true,
        xclient: true,
        protection: None,
        authentication: Authentication {
            mechanisms: Mechanism::ALL.to_vec(),
            without_tls: true,
            demanded: false,
        },
    };
    let mut session: Session = Session::new(Rc::new(policy), client);
    session.set_now(Timestamp(1_795_459_019_123));
    let mut replies = Vec::new();
    let mut messages = Vec::new();
    let mut content: Option<Vec<u8>> = None;
    let mut exchange: Option<Exchange> = None;
    session.greet(b"", &mut replies);
    let mut from = 0;
    for &to in cuts {
        loop {
            let rest = &input[from..to.max(from)];
            let progress = session.receive(rest, &mut replies);
            assert!(progress.consumed <= rest.len());
            let needs_more = progress.step == Step::More
                && (progress.consumed == 0 || progress.consumed == rest.len());
            match progress.step {
                Step::Close => return (replies, messages),
                Step::ContentWanted => {
                    session.begin_content(&mut replies);
                    content = Some(Vec::new());
                }
                Step::Content(range) => {
                    content.as_mut().expect("no content once it is void").extend(&rest[range]);
                }
                Step::ContentLineEnd => content.as_mut().expect("content").extend(b"\r\n"),
                Step::ContentVoid => assert!(content.take().is_some(), "void once"),
                Step::Mail(mail) => session.accept_mail(mail, (), &mut replies),
                Step::Recipient(one) => session.accept_recipient(one, &mut replies),
                Step::Complete(transaction) => {
                    let whole = content.take().expect("content that is not void");
                    assert_eq!(transaction.content_bytes, whole.len() as u64);
                    assert!(!transaction.envelope.recipients.is_empty());
                    let is_text = transaction.options.body != Body::BinaryMime;
                    assert!(!is_text || whole.is_empty() || whole.ends_with(b"\r\n"));
                    session.stored(QueueId(messages.len() as u64), &mut replies);
                    messages.push(whole);
                }
                Step::Etrn { .. } => session.answer_etrn(Etrn::Started, &mut replies),
                Step::ClientOverride { .. } => {
                    let address = session.client_address();
                    session.override_client(address, true, &mut replies);
                }
                Step::Auth(input) => {
                    let turn = match input {
                        AuthInput::Begin(mechanism, initial) => exchange
                            .insert(Exchange::new(mechanism, Channels::default()))
                            .begin(initial.as_deref()),
                        AuthInput::Answer(message) => {
                            exchange.as_mut().expect("begun").receive(&message)
                        }
                    };
                    match turn {
                        Ok(Turn::Challenge(message)) => session.challenge(&message, &mut replies),
                        Ok(Turn::Check { user, .. }) => session.authenticated(&user, &mut replies),
                        Ok(Turn::Token { .. }) => {
                            let one = exchange.as_mut().expect("begun");
                            let next = one.refuse_token(TokenFault::NotActive, Hints::default());
                            let Ok(Turn::Challenge(message)) = next else { panic!("{next:?}") };
                            session.challenge(&message, &mut replies);
                        }
                        _ => {
                            let step = session.not_authenticated(Reply::AUTH_INVALID, &mut replies);
                            if step == Step::Close {
                                return (replies, messages);
                            }
                        }
                    }
                }
                Step::StartTls => panic!("not offered"),
                Step::More | Step::Rejected(_) => {}
            }
            from += progress.consumed;
            if needs_more {
                break;
            }
        }
    }
    (replies, messages)
}

fn limits() -> config::Session {
    let wait = Duration::from_secs(300);
    config::Session {
        message_bytes_max: 1500,
        recipients_max: 5,
        command_line_max: 600,
        text_line_max: 1000,
        errors_max: 30,
        junk_commands_max: 40,
        lenient: true,
        keep_odd_dots: false,
        idle_timeout: Duration::from_secs(1800),
        data_rate_min: 100,
        message_timeout: Duration::from_secs(14_400),
        received_max: 3,
        messages_max: 10,
        vrfy: true,
        hold_max: Duration::from_secs(86_400),
        command_timeout: wait,
        data_timeout: wait,
        tls_timeout: wait,
        connections_per_client: 1,
        connections_per_relay_client: 1,
    }
}
