//! What no transcript can show: time, the stop, the protocol, the bound on replies.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
use super::*;
use crate::sasl::Mechanism;
use std::cell::Cell;
use std::time::Duration;

fn session() -> Session {
    let limits = config::Session {
        message_bytes_max: 10_000,
        recipients_max: 10,
        command_line_max: 1000,
        text_line_max: 1000,
        errors_max: 5,
        junk_commands_max: 1_000_000,
        lenient: false,
        keep_odd_dots: false,
        idle_timeout: Duration::from_secs(1800),
        data_rate_min: 100,
        message_timeout: Duration::from_secs(14_400),
        received_max: 5,
        command_timeout: Duration::from_secs(300),
        data_timeout: Duration::from_secs(180),
        tls_timeout: Duration::from_secs(180),
        messages_max: 0,
        vrfy: true,
        hold_max: Duration::from_secs(86400),
        connections_per_client: 1,
        connections_per_relay_client: 1,
    };
    let policy = Policy { host_name: "relay.example".into(), limits };
    let address = "192.0.2.9:4321".parse().unwrap();
    Session::new(
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
    )
}

/// Answers what is asked before content: everything is allowed.
fn allow<G: Default>(session: &mut Session<G>, step: Step<G>, out: &mut Vec<u8>) -> Step<G> {
    match step {
        Step::Mail(mail) => session.accept_mail(mail, G::default(), out),
        Step::Recipient(request) => session.accept_recipient(request, out),
        step => return step,
    }
    Step::More
}

/// A session that has taken `input`, and the step that it came to.
fn after(input: &str) -> (Session, Step) {
    let mut session = session();
    assert_eq!(session.greet(b"", &mut Vec::new()), Step::More);
    let (progress, _) = said(&mut session, input);
    assert_eq!(progress.consumed, input.len());
    (session, progress.step)
}

const UP_TO_DATA: &str = "EHLO bar.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_silent_client_is_told_and_left() {
    let (mut session, _) = after("EHLO bar.example\r\n");
    assert_eq!(session.phase(), Phase::Command);
    let said = written(|out| session.timed_out(&Reply::TIMED_OUT, out));
    assert_eq!(said, "421 4.4.2 Timeout exceeded; closing connection\r\n");
    let progress = session.receive(b"NOOP\r\n", &mut Vec::new());
    assert_eq!(progress, Progress { consumed: 6, step: Step::Close });

    let (mut session, step) = after(UP_TO_DATA);
    assert_eq!(step, Step::ContentWanted);
    session.begin_content(&mut Vec::new());
    assert_eq!(session.phase(), Phase::Content);
}

#[test]
fn a_stop_ends_idle_sessions_and_open_transactions_at_once() {
    let early = written(|out| assert!(session().stopping(out)));
    assert_eq!(early, "421 Service shutting down; try again later\r\n");
    for input in ["", "EHLO bar.example\r\n", "EHLO bar.example\r\nMAIL FROM:<a@b>\r\n"] {
        let (mut session, _) = after(input);
        let said = written(|out| {
            assert!(session.stopping(out));
            assert!(session.stopping(out), "one reply, however often it is called");
        });
        assert_eq!(said, "421 4.3.2 Service shutting down; try again later\r\n");
    }
}

#[test]
fn a_stop_waits_for_content_that_is_under_way() {
    let (mut session, _) = after(UP_TO_DATA);
    let mut out = Vec::new();
    assert!(!session.stopping(&mut out));
    session.begin_content(&mut out);
    assert_eq!(session.receive(b"x\r\n.\r\n", &mut out).step, Step::Content(0..3));
    assert!(!session.stopping(&mut out));
    assert!(matches!(session.receive(b".\r\n", &mut out).step, Step::Complete(_)));
    assert!(!session.stopping(&mut out));
    session.stored(QueueId(1), &mut out);
    let progress = session.receive(b"", &mut out);
    assert_eq!(progress, Progress { consumed: 0, step: Step::Close });
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "354 Start mail input; end with <CRLF>.<CRLF>\r\n\
         250 2.0.0 queued as 0000000000001\r\n\
         421 4.3.2 Service shutting down; try again later\r\n"
    );
}

#[test]
fn nothing_is_consumed_while_the_caller_is_to_act() {
    let (mut session, _) = after(UP_TO_DATA);
    let waiting = Progress { consumed: 0, step: Step::More };
    assert_eq!(session.receive(b"x\r\n.\r\n", &mut Vec::new()), waiting);
    session.begin_content(&mut Vec::new());
    let step = session.receive(b".\r\nQUIT\r\n", &mut Vec::new()).step;
    assert!(matches!(step, Step::Complete(_)));
    assert_eq!(session.receive(b"QUIT\r\n", &mut Vec::new()), waiting);
}

#[test]
fn replies_are_held_back_before_they_become_many() {
    let (mut session, _) = after("");
    let input = "RSET\r\n".repeat(10_000);
    let mut rest = input.as_bytes();
    let mut replies = 0;
    while !rest.is_empty() {
        let mut out = Vec::new();
        let progress = session.receive(rest, &mut out);
        assert_eq!(progress.step, Step::More);
        assert!(progress.consumed > 0 && out.len() < OUT_BYTES_MAX + 1000);
        replies += String::from_utf8(out).unwrap().matches("250 2.0.0 OK\r\n").count();
        rest = &rest[progress.consumed..];
    }
    assert_eq!(replies, 10_000);
}

#[test]
fn rfc3848_the_protocol_names_extensions_tls_and_user() {
    let protocol = |hello: &str, parameters: &str, tls: bool, user: Option<&str>| {
        let mut session = session();
        session.client.protection = tls.then(protection);
        let _ = session.greet(b"", &mut Vec::new());
        let (progress, _) = said(&mut session, &format!("{hello} bar.example\r\n"));
        assert_eq!(progress.step, Step::More);
        session.user = user.map(Box::from);
        let rest = format!("MAIL FROM:<a@b>{parameters}\r\nRCPT TO:<c@d>\r\nDATA\r\n");
        let (progress, _) = said(&mut session, &rest);
        assert_eq!(progress.step, Step::ContentWanted);
        session.begin_content(&mut Vec::new());
        let open = session.protocol();
        let step = session.receive(b".\r\n", &mut Vec::new()).step;
        // Asked for and not needed, it is not in the message's options.
        let Step::Complete(transaction) = step else { panic!("{step:?}") };
        assert!(!transaction.options.smtp_utf8);
        assert_eq!(transaction.protocol, open);
        open
    };
    let user = Some("joe");
    for (hello, parameters, tls, user, expected) in [
        ("HELO", "", true, user, "SMTP"),
        ("EHLO", "", false, None, "ESMTP"),
        ("EHLO", "", true, None, "ESMTPS"),
        ("EHLO", "", false, user, "ESMTPA"),
        ("EHLO", "", true, user, "ESMTPSA"),
        ("EHLO", " SMTPUTF8", false, None, "UTF8SMTP"),
        ("EHLO", " SMTPUTF8", true, None, "UTF8SMTPS"),
        ("EHLO", " SMTPUTF8", false, user, "UTF8SMTPA"),
        ("EHLO", " SMTPUTF8", true, user, "UTF8SMTPSA"),
    ] {
        assert_eq!(protocol(hello, parameters, tls, user), expected);
    }
}

fn with_tls(demanded: bool) -> Session {
    let mut session = session();
    session.client.starttls = true;
    session.client.tls_demanded = demanded;
    assert_eq!(session.greet(b"", &mut Vec::new()), Step::More);
    session
}

fn protection() -> Protection {
    Protection {
        version: "TLSv1.3",
        cipher: "TLS_AES_256_GCM_SHA384".into(),
        channels: Channels::default(),
        client_fingerprint: None,
        client_names: Vec::new(),
    }
}

/// Gives all of `input`, like a caller that allows everything, and sends replies wherever the
/// session stops for that.
fn said<G: Default>(session: &mut Session<G>, input: &str) -> (Progress<G>, String) {
    let mut out = Vec::new();
    let mut consumed = 0;
    loop {
        let Progress { consumed: used, step } =
            session.receive(&input.as_bytes()[consumed..], &mut out);
        consumed += used;
        let step = allow(session, step, &mut out);
        if !matches!(step, Step::More) || used == 0 || consumed == input.len() {
            return (Progress { consumed, step }, String::from_utf8(out).unwrap());
        }
    }
}

#[test]
fn starttls_forgets_all_that_was_said_before_it() {
    let mut session = with_tls(false);
    let (_, replies) = said(&mut session, "STARTTLS\r\nEHLO bar.example\r\n");
    assert!(replies.starts_with("503 5.5.1 "), "EHLO first: {replies}");
    assert!(replies.contains("\r\n250-STARTTLS\r\n"), "{replies}");
    let input = "MAIL FROM:<a@b>\r\nSTARTTLS\r\nRCPT TO:<c@d>\r\n";
    let (progress, replies) = said(&mut session, input);
    assert_eq!(progress.step, Step::StartTls);
    assert_eq!(&input[progress.consumed..], "RCPT TO:<c@d>\r\n", "for the caller to throw away");
    assert!(replies.ends_with("220 2.0.0 Ready to start TLS\r\n"), "{replies}");
    let (progress, replies) = said(&mut session, "QUIT\r\n");
    assert_eq!((progress.consumed, progress.step, replies.as_str()), (0, Step::More, ""));

    session.secured(protection());
    let (_, replies) = said(&mut session, "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
    assert_eq!(replies.matches("503 5.5.1 Send EHLO or HELO first").count(), 2, "{replies}");
    let (_, replies) = said(&mut session, "EHLO bar.example\r\nSTARTTLS\r\n");
    assert!(!replies.contains("250-STARTTLS"), "not offered twice: {replies}");
    assert!(replies.ends_with("503 5.5.1 TLS already active\r\n"), "{replies}");
    assert_eq!(session.protocol(), "ESMTPS");
}

#[test]
fn no_mail_before_starttls_where_it_is_demanded() {
    let mut session = with_tls(true);
    let (progress, replies) = said(&mut session, "EHLO bar.example\r\nMAIL FROM:<a@b>\r\n");
    assert!(replies.ends_with("530 5.7.0 Must issue a STARTTLS command first\r\n"), "{replies}");
    assert!(matches!(progress.step, Step::Rejected(_)), "an event says so");
    let (_, replies) = said(&mut session, "NOOP\r\n");
    assert_eq!(replies, "250 2.0.0 OK\r\n");
    session.secured(protection());
    let (_, replies) = said(&mut session, "EHLO bar.example\r\nMAIL FROM:<a@b>\r\n");
    assert!(replies.ends_with("250 2.1.0 Sender OK\r\n"), "{replies}");
}

#[test]
fn starttls_that_is_not_offered_is_not_there() {
    let (mut session, _) = after("EHLO bar.example\r\n");
    let (_, replies) = said(&mut session, "STARTTLS\r\nSTARTTLS x\r\n");
    assert!(replies.starts_with("502 5.5.1 ") && replies.contains("\r\n501 5.5.4 "), "{replies}");
}

#[test]
fn rfc2920_3_2_only_some_replies_wait_for_others() {
    let (mut session, _) = after("EHLO bar.example\r\n");
    let mut out = Vec::new();
    let input = "RSET\r\nRSET\r\nNOOP\r\nVRFY x\r\nNONSENSE\r\nRSET\r\n";
    let mut rest = input.as_bytes();
    for (used, replies) in [(18, 3), (8, 1), (10, 1), (6, 1)] {
        out.clear();
        let progress = session.receive(rest, &mut out);
        assert_eq!(progress, Progress { consumed: used, step: Step::More });
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), replies);
        rest = &rest[used..];
    }
    assert_eq!(rest, b"");
}

/// A session that offers all that can be offered.
fn with_everything() -> Session {
    let mut session = with_tls(false);
    session.client.scheduling = true;
    session.client.authentication =
        Authentication { mechanisms: Mechanism::ALL.to_vec(), ..Authentication::default() };
    session
}

/// The keywords of the reply to EHLO.
fn offered(session: &mut Session) -> Vec<String> {
    let (_, reply) = said(session, "EHLO bar.example\r\n");
    let keyword = |line: &str| line[4..].split(' ').next().unwrap().to_owned();
    reply.lines().skip(1).map(keyword).collect()
}

#[test]
fn rfc5321_4_2_4_what_is_offered_is_there_and_what_is_there_is_offered() {
    for protected in [false, true] {
        let mut session = with_everything();
        if protected {
            session.secured(protection());
        }
        let keywords = offered(&mut session);
        for (keyword, line) in [
            ("HELP", "HELP"),
            ("STARTTLS", "STARTTLS"),
            ("AUTH", "AUTH PLAIN AHgAeA=="),
            ("ETRN", "ETRN example.com"),
            ("CHUNKING", "BDAT 0"),
            ("EXPN", "EXPN list"),
            ("XCLIENT", "XCLIENT ADDR=127.0.0.1"),
            ("TURN", "TURN"),
        ] {
            let mut session = with_everything();
            if protected {
                session.secured(protection());
            }
            said(&mut session, "EHLO bar.example\r\n");
            let (_, reply) = said(&mut session, &format!("{line}\r\n"));
            // 503: TLS already active; 538: AUTH waits for it.
            let is_there = match keyword {
                "STARTTLS" | "AUTH" => !reply.starts_with("503") && !reply.starts_with("538"),
                // It is for proxies alone.
                "XCLIENT" => !reply.starts_with("550"),
                _ => !reply.starts_with("50") || reply.starts_with("503"),
            };
            assert_eq!(keywords.iter().any(|one| one == keyword), is_there, "{line}: {reply}");
        }
        for (keyword, parameter) in [
            ("SIZE", "SIZE=1"),
            ("8BITMIME", "BODY=8BITMIME"),
            ("BINARYMIME", "BODY=BINARYMIME"),
            ("DSN", "RET=HDRS ENVID=x"),
            ("SMTPUTF8", "SMTPUTF8"),
            ("REQUIRETLS", "REQUIRETLS"),
            ("MT-PRIORITY", "MT-PRIORITY=1"),
            ("FUTURERELEASE", "HOLDFOR=1"),
        ] {
            let line = format!("RSET\r\nMAIL FROM:<a@b> {parameter}\r\n");
            let (_, replies) = said(&mut session, &line);
            let is_there = replies.ends_with("250 2.1.0 Sender OK\r\n");
            assert_eq!(keywords.iter().any(|one| one == keyword), is_there, "{line}: {replies}");
        }
        assert!(keywords.iter().any(|one| one == "8BITMIME"), "RFC 6531 3.1: beside SMTPUTF8");
    }
}

#[test]
fn rfc8689_2_requiretls_is_offered_under_tls_alone() {
    let mut session = with_everything();
    assert!(!offered(&mut session).contains(&"REQUIRETLS".to_owned()));
    session.secured(protection());
    assert!(offered(&mut session).contains(&"REQUIRETLS".to_owned()));
    said(&mut session, "MAIL FROM:<a@b> REQUIRETLS\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    session.begin_content(&mut Vec::new());
    said(&mut session, "TLS-Required: No\r\n\r\n");
    let Step::Complete(transaction) = said(&mut session, ".\r\n").0.step else { panic!() };
    assert!(transaction.options.require_tls, "the field does not count then");
}

#[test]
fn rfc6409_7_etrn_is_not_for_submission() {
    let mut session = with_everything();
    session.client.authentication.demanded = true;
    assert!(!offered(&mut session).contains(&"ETRN".to_owned()));
    assert!(said(&mut session, "ETRN example.com\r\n").1.starts_with("459 4.7.1 "));
}

thread_local! {
    /// Grants that there are.
    static GRANTS: Cell<u32> = const { Cell::new(0) };
}

/// What the caller grants.
#[derive(Debug, PartialEq)]
struct Counted;

impl Default for Counted {
    fn default() -> Counted {
        GRANTS.set(GRANTS.get() + 1);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        GRANTS.set(GRANTS.get() - 1);
    }
}

#[test]
fn a_grant_lives_as_long_as_its_transaction_and_leaves_the_session_with_it() {
    let plain = session();
    let mut session: Session<Counted> = Session::new(plain.policy, plain.client);
    session.greet(b"", &mut Vec::new());
    for ending in ["RSET\r\n", "EHLO bar.example\r\n"] {
        said(&mut session, "EHLO bar.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
        assert_eq!(GRANTS.get(), 1);
        said(&mut session, ending);
        assert_eq!(GRANTS.get(), 0, "{ending}");
    }
    for refusal in [Some(Reply::STORAGE_FULL), None] {
        said(&mut session, UP_TO_DATA);
        session.begin_content(&mut Vec::new());
        assert!(matches!(said(&mut session, "x\r\n").0.step, Step::Content(_)));
        let Step::Complete(transaction) = said(&mut session, ".\r\n").0.step else { panic!() };
        assert_eq!(GRANTS.get(), 1, "the caller has it");
        match refusal {
            Some(reply) => session.decline(reply, &mut Vec::new()),
            None => session.stored(QueueId(1), &mut Vec::new()),
        }
        drop(transaction);
        assert_eq!(GRANTS.get(), 0);
    }
    // Content with a defect.
    said(&mut session, UP_TO_DATA);
    session.begin_content(&mut Vec::new());
    said(&mut session, "a\0b\r\n");
    said(&mut session, ".\r\n");
    assert_eq!(GRANTS.get(), 0);
    said(&mut session, "MAIL FROM:<a@b>\r\n");
    drop(session);
    assert_eq!(GRANTS.get(), 0, "a lost connection leaves nothing");
}

#[test]
fn policy_may_wait_and_may_refuse() {
    let (mut session, _) = after("EHLO bar.example\r\n");
    let mut out = Vec::new();
    let input = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\n";
    let Progress { consumed, step: Step::Mail(mail) } = session.receive(input, &mut out) else {
        panic!()
    };
    assert_eq!(consumed, 17);
    let rest = &input[consumed..];
    let waiting = Progress { consumed: 0, step: Step::More };
    assert_eq!(session.receive(rest, &mut out), waiting, "until it is answered");
    assert_eq!(out, b"");
    let refusal = Reply::too_many_messages(5, Duration::from_secs(60));
    let step = session.decline_mail(&mail, refusal, &mut out);
    assert!(matches!(step, Step::Rejected(Rejection { at: Stage::Command(Verb::Mail), .. })));
    assert!(out.starts_with(b"450 4.7.1 "));
    said(&mut session, "MAIL FROM:<a@b>\r\n");
    let step = session.receive(rest, &mut out).step;
    let Step::Recipient(request) = step else { panic!() };
    let step = session.decline_recipient(&request, Reply::TOO_MANY_RECIPIENTS, &mut out);
    let Step::Rejected(rejection) = step else { panic!() };
    assert_eq!((rejection.from.as_deref(), rejection.to.as_deref()), (Some("a@b"), Some("c@d")));
    let Step::Recipient(request) = session.receive(b"RCPT TO:<e@f>\r\n", &mut out).step else {
        panic!()
    };
    session.accept_recipient(request, &mut out);
    assert_eq!(said(&mut session, "DATA\r\n").0.step, Step::ContentWanted);
    // With 421 the session ends.
    let (mut session, _) = after("EHLO bar.example\r\n");
    let Step::Mail(mail) = session.receive(b"MAIL FROM:<a@b>\r\n", &mut out).step else { panic!() };
    let step = session.decline_mail(&mail, Reply::STOPPING, &mut out);
    assert!(matches!(step, Step::Rejected(_)));
    assert_eq!(session.receive(b"", &mut out).step, Step::Close);
}

#[test]
fn commands_that_move_no_mail_are_bounded() {
    let plain = session();
    let mut limits = plain.policy.limits.clone();
    limits.junk_commands_max = 4;
    let policy = Policy { host_name: "relay.example".into(), limits };
    let mut session: Session = Session::new(Rc::new(policy), plain.client);
    session.greet(b"", &mut Vec::new());
    for _ in 0..3 {
        said(&mut session, UP_TO_DATA);
        session.begin_content(&mut Vec::new());
        assert!(matches!(said(&mut session, ".\r\n").0.step, Step::Complete(_)));
        session.stored(QueueId(1), &mut Vec::new());
        let (_, replies) = said(&mut session, "NOOP\r\nRSET\r\nVRFY x\r\n");
        assert!(!replies.contains("421"), "{replies}");
    }
    let (progress, replies) = said(&mut session, "HELP\r\nNOOP\r\nMAIL FROM:<a@b>\r\n");
    assert!(replies.ends_with("421 4.7.0 Too many commands without mail; closing connection\r\n"));
    assert_eq!(progress.step, Step::Close);
}
