//! Plays the transcripts in `tests/fixtures/session` against a session.
//!
//! Each is played line by line, comparing at each turn; then whole, byte by byte, cut in two at
//! every place and in random pieces, when the same must come out. In a transcript:
//!
//! ```text
//! # a comment                          @limit recipients_max 2
//! @client 192.0.2.9:25                 @stranger (may not relay)
//! @xclient (may say who the client is)
//! @scheduling (may say when to send; it is 2026-11-23T18:36:59.123Z)
//! @auth (offered; tim has tanstaaftanstaaf, user has pencil)    @auth-by-tls    @auth-demanded
//! @early GET / HTTP/1.1\r\n            @decline-data 452 4.3.1 Full   @decline-end ...
//! C: a line from the client, with CRLF behind it
//! c: bytes from the client, with nothing behind them
//! S: a line from the session           E: an event: a refusal, a transaction, the close
//! K: a line of the content that was kept
//! ```
//!
//! Everywhere: `\r`, `\n`, `\0`, `\xNN`, `\\`, and `\{70 x}` for seventy `x`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ringpost::config;
use ringpost::message::{Body, QueueId, Status, Timestamp};
use ringpost::sasl::{Channels, Exchange, Fault, Hints, Keys, Mechanism, TokenFault, Turn, decode};
use ringpost::session::{
    AuthInput, Authentication, Client, Etrn, Policy, Session, Step, Transaction,
};
use ringpost::smtp::Reply;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

#[test]
fn every_transcript_holds_however_its_input_is_cut() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/session");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 20, "the transcripts are missing");
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let script = Script::read(&text);
        let name = path.file_name().unwrap().to_string_lossy();
        script.play_line_by_line(&name);
        let input = script.input();
        let expected = script.expected();
        let check = |cuts: &[usize]| {
            let seen = script.play(&input, cuts);
            assert_eq!(seen.join("\n"), expected.join("\n"), "{name}, cut at {cuts:?}");
        };
        check(&[]);
        let all: Vec<usize> = (1..input.len()).collect();
        check(&all);
        // Long ones are about one long thing; a place in a thousand does.
        let stride = 1 + input.len() / 2000;
        all.iter().step_by(stride).for_each(|&cut| check(&[cut]));
        let mut random = fastrand::Rng::with_seed(2821);
        for _ in 0..200 {
            let mut cuts: Vec<usize> = (0..8).map(|_| random.usize(..=input.len())).collect();
            cuts.sort_unstable();
            check(&cuts);
        }
    }
}

/// What each command may be answered with: RFC 5321 4.3.2, and what its extension adds.
const CODES: [(&str, &str); 15] = [
    ("EHLO HELO", "250 501 502 504 550"),
    ("MAIL", "250 450 451 452 455 501 503 530 550 552 553 555"),
    ("RCPT", "250 251 450 451 452 455 501 503 550 551 552 553 555"),
    ("DATA", "354 450 451 452 501 503 550 552 554"),
    (".", "250 450 451 452 550 552 554"),
    ("BDAT", "250 450 451 452 501 502 503 550 552 554"),
    ("RSET", "250 501"),
    ("VRFY", "250 251 252 501 502 504 550 551 553"),
    ("EXPN", "250 252 500 502 504 550"),
    ("HELP", "211 214 502 504"),
    ("NOOP", "250 501"),
    ("QUIT", "221 501"),
    ("STARTTLS", "220 454 501 502 503"),
    ("AUTH", "235 334 432 454 501 502 503 504 530 534 535 538"),
    ("ETRN", "250 251 252 253 458 459 501 502 503"),
];

/// And any command.
const CODES_OF_ALL: &str = "421 500";

#[test]
fn rfc5321_4_3_2_each_command_has_replies_of_its_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/session");
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut said = "";
        let (mut in_content, mut challenged) = (false, false);
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("C", line)) if in_content && line != "." => {}
                Some(("C", line)) => {
                    let verb = line.split(' ').next().unwrap();
                    said = if std::mem::take(&mut challenged) { "AUTH" } else { verb };
                }
                // What stands in pieces has its own checks.
                Some(("c", _)) => said = "",
                Some(("S", reply)) if !said.is_empty() => {
                    let (code, _) = reply.split_at(3);
                    in_content = code == "354";
                    challenged = code == "334";
                    let is_own =
                        |verbs: &str| verbs.split(' ').any(|verb| verb.eq_ignore_ascii_case(said));
                    let own = CODES.iter().find(|(verbs, _)| is_own(verbs));
                    // Of others that it is none, or none here.
                    let codes = own.map_or("502", |(_, codes)| codes);
                    let is_one = codes.contains(code) || CODES_OF_ALL.contains(code);
                    let is_local = said.starts_with(['X', 'x']);
                    assert!(is_one || is_local, "{}: {said}: {reply}", path.display());
                    checked += 1;
                }
                _ => {}
            }
        }
    }
    assert!(checked > 500, "{checked} replies");
}

enum Line {
    /// From the client.
    Input(Vec<u8>),
    /// `S: `, `E: ` and `K: ` lines as the player writes them.
    Output(String),
}

struct Script {
    limits: config::Session,
    client: String,
    may_relay: bool,
    scheduling: bool,
    xclient: bool,
    authentication: Authentication,
    early: Vec<u8>,
    decline_data: Option<Reply>,
    decline_end: Option<Reply>,
    lines: Vec<Line>,
}

impl Script {
    fn read(text: &str) -> Script {
        let mut script = Script {
            limits: limits(),
            client: "192.0.2.9:4321".to_owned(),
            may_relay: true,
            scheduling: false,
            xclient: false,
            authentication: Authentication::default(),
            early: Vec::new(),
            decline_data: None,
            decline_end: None,
            lines: Vec::new(),
        };
        for line in text.lines() {
            let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "" | "#" => {}
                "@client" => script.client = rest.to_owned(),
                "@stranger" => script.may_relay = false,
                "@xclient" => script.xclient = true,
                "@scheduling" => script.scheduling = true,
                "@auth" | "@auth-by-tls" | "@auth-demanded" => {
                    script.authentication = Authentication {
                        mechanisms: Mechanism::ALL.to_vec(),
                        without_tls: key != "@auth-by-tls",
                        demanded: key == "@auth-demanded",
                    };
                }
                "@early" => script.early = unescape(rest),
                "@decline-data" => script.decline_data = Some(reply(rest)),
                "@decline-end" => script.decline_end = Some(reply(rest)),
                "@limit" => script.set_limit(rest),
                "C:" => script.lines.push(Line::Input([unescape(rest), b"\r\n".to_vec()].concat())),
                "c:" => script.lines.push(Line::Input(unescape(rest))),
                "K:" => {
                    let text = unescape(rest).escape_ascii().to_string();
                    script.lines.push(Line::Output(format!("K: {text}")));
                }
                "S:" | "E:" => {
                    let text = String::from_utf8(unescape(line)).unwrap();
                    script.lines.push(Line::Output(text));
                }
                other => panic!("not understood: {other}"),
            }
        }
        script
    }

    fn set_limit(&mut self, rest: &str) {
        let (name, value) = rest.split_once(' ').unwrap();
        match name {
            "message_bytes_max" => self.limits.message_bytes_max = value.parse().unwrap(),
            "recipients_max" => self.limits.recipients_max = value.parse().unwrap(),
            "command_line_max" => self.limits.command_line_max = value.parse().unwrap(),
            "text_line_max" => self.limits.text_line_max = value.parse().unwrap(),
            "errors_max" => self.limits.errors_max = value.parse().unwrap(),
            "messages_max" => self.limits.messages_max = value.parse().unwrap(),
            "junk_commands_max" => self.limits.junk_commands_max = value.parse().unwrap(),
            "lenient" => self.limits.lenient = value.parse().unwrap(),
            "vrfy" => self.limits.vrfy = value.parse().unwrap(),
            "received_max" => self.limits.received_max = value.parse().unwrap(),
            other => panic!("no such limit: {other}"),
        }
    }

    fn input(&self) -> Vec<u8> {
        let mut input = Vec::new();
        for line in &self.lines {
            if let Line::Input(bytes) = line {
                input.extend_from_slice(bytes);
            }
        }
        input
    }

    fn expected(&self) -> Vec<String> {
        let mut expected = Vec::new();
        for line in &self.lines {
            if let Line::Output(text) = line {
                expected.push(text.clone());
            }
        }
        expected
    }

    fn play_line_by_line(&self, name: &str) {
        let mut player = Player::new(self);
        let mut compared = 0;
        for line in &self.lines {
            match line {
                Line::Input(bytes) => {
                    assert_eq!(player.seen.get(compared), None, "{name}: more than expected");
                    player.feed(bytes);
                }
                Line::Output(expected) => {
                    let seen = player.seen.get(compared);
                    assert_eq!(seen, Some(expected), "{name}: line by line");
                    compared += 1;
                }
            }
        }
        assert_eq!(player.seen.get(compared), None, "{name}: more than expected");
    }

    fn play(&self, input: &[u8], cuts: &[usize]) -> Vec<String> {
        let mut player = Player::new(self);
        let mut from = 0;
        for &to in cuts.iter().chain([&input.len()]) {
            player.feed(input.get(from..to).unwrap());
            from = to;
        }
        player.seen
    }
}

/// The caller of a session, as simple as it can be.
struct Player<'a> {
    script: &'a Script,
    session: Session,
    buffer: Vec<u8>,
    out: Vec<u8>,
    content: Option<Vec<u8>>,
    seen: Vec<String>,
    closed: bool,
    exchange: Option<Exchange>,
}

impl<'a> Player<'a> {
    fn new(script: &'a Script) -> Player<'a> {
        let policy = Policy { host_name: "relay.example".into(), limits: script.limits.clone() };
        let address = script.client.parse().unwrap();
        let client = Client {
            address,
            may_relay: script.may_relay,
            starttls: false,
            tls_demanded: false,
            scheduling: script.scheduling,
            xclient: script.xclient,
            protection: None,
            authentication: script.authentication.clone(),
        };
        let session = Session::new(Rc::new(policy), client);
        let mut player = Player {
            script,
            session,
            buffer: Vec::new(),
            out: Vec::new(),
            content: None,
            seen: Vec::new(),
            closed: false,
            exchange: None,
        };
        player.session.set_now(Timestamp(1_795_459_019_123));
        let step = player.session.greet(&script.early, &mut player.out);
        player.take(step, &[]);
        player
    }

    fn feed(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
        while !self.closed {
            let input = std::mem::take(&mut self.buffer);
            let progress = self.session.receive(&input, &mut self.out);
            let rest = input.get(progress.consumed..).expect("no more used than was there");
            self.buffer = rest.to_vec();
            let more = progress.step == Step::More;
            self.take(progress.step, &input);
            if more && (progress.consumed == 0 || self.buffer.is_empty()) {
                let limit = self.script.limits.command_line_max;
                let has_auth = !self.script.authentication.mechanisms.is_empty();
                let limit = if has_auth { limit.max(12_288) } else { limit };
                assert!(self.buffer.len() < limit, "held back");
                return;
            }
        }
    }

    fn take(&mut self, step: Step, input: &[u8]) {
        self.take_replies();
        match step {
            Step::More => {}
            Step::ContentWanted => {
                match &self.script.decline_data {
                    Some(reply) => self.session.decline(reply.clone(), &mut self.out),
                    None => {
                        self.session.begin_content(&mut self.out);
                        self.content = Some(Vec::new());
                    }
                }
                self.take_replies();
            }
            Step::Content(range) => {
                let content = self.content.as_mut().expect("no content once it is void");
                content.extend_from_slice(input.get(range).unwrap());
            }
            Step::ContentLineEnd => {
                self.content.as_mut().expect("content that is not void").extend(b"\r\n");
            }
            Step::Mail(mail) => {
                self.session.accept_mail(mail, (), &mut self.out);
                self.take_replies();
            }
            Step::Recipient(request) => {
                self.session.accept_recipient(request, &mut self.out);
                self.take_replies();
            }
            Step::Etrn { domain, with_subdomains } => {
                let below = if with_subdomains { " and below" } else { "" };
                self.seen.push(format!("E: flush {domain}{below}"));
                let found = match domain.as_str() {
                    "empty.test" => Etrn::NothingQueued,
                    _ => Etrn::Started,
                };
                self.session.answer_etrn(found, &mut self.out);
                self.take_replies();
            }
            Step::ClientOverride { address, port } => {
                let mut client = self.session.client_address();
                client.set_ip(address.unwrap_or(client.ip()));
                client.set_port(port.unwrap_or(client.port()));
                self.seen.push(format!("E: client {client}"));
                self.session.override_client(client, client.ip().is_loopback(), &mut self.out);
                self.take_replies();
            }
            Step::StartTls => panic!("not offered"),
            Step::Auth(input) => {
                let step = self.authenticate(input);
                self.take(step, &[]);
            }
            Step::ContentVoid => assert!(self.content.take().is_some(), "void once"),
            Step::Complete(transaction) => self.complete(*transaction),
            Step::Rejected(rejection) => {
                let name =
                    |path: Option<String>| path.map_or("-".into(), |path| format!("<{path}>"));
                let (from, to) = (name(rejection.from), name(rejection.to));
                let Reply { code, status, .. } = rejection.reply;
                let status = status.map(|status| status.to_string()).unwrap_or_default();
                self.seen.push(format!("E: {} {from} {to} {code} {status}", rejection.at.name()));
            }
            Step::Close => {
                self.seen.push("E: close".to_owned());
                self.closed = true;
            }
        }
    }

    /// The examples of RFC 4954 4, RFC 7677 3, and RFC 7628 4.1.
    fn authenticate(&mut self, input: AuthInput) -> Step {
        let turn = match input {
            AuthInput::Begin(mechanism, initial) => {
                let exchange = self.exchange.insert(Exchange::new(mechanism, Channels::default()));
                exchange.begin(initial.as_deref())
            }
            AuthInput::Answer(message) => self.exchange.as_mut().unwrap().receive(&message),
        };
        let turn = match turn {
            Ok(Turn::Keys { user }) => {
                assert_eq!(user, "user");
                let keys =
                    Keys::derive("pencil", &decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096);
                self.exchange.as_mut().unwrap().keys(keys, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
            }
            Ok(Turn::Token { user: Some(user), token: Some(token) })
                if token.reveal() == "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==" =>
            {
                Ok(Turn::Proven { user })
            }
            Ok(Turn::Token { token, .. }) => {
                let fault = token.map_or(TokenFault::None, |_| TokenFault::NotActive);
                let hints = Hints { scope: Some("mail"), openid_configuration: None };
                self.exchange.as_mut().unwrap().refuse_token(fault, hints)
            }
            turn => turn,
        };
        match turn {
            Ok(Turn::Challenge(message)) => {
                self.session.challenge(&message, &mut self.out);
                Step::More
            }
            Ok(Turn::Check { user, password })
                if (user.as_str(), password.reveal()) == ("tim", "tanstaaftanstaaf") =>
            {
                self.session.authenticated(&user, &mut self.out);
                Step::More
            }
            Ok(Turn::Proven { user }) => {
                self.session.authenticated(&user, &mut self.out);
                Step::More
            }
            Err(Fault::Malformed) => {
                self.session.not_authenticated(Reply::AUTH_MALFORMED, &mut self.out)
            }
            Err(Fault::Token(why)) => {
                let reply = Reply::auth_token(&why.to_string());
                self.session.not_authenticated(reply, &mut self.out)
            }
            _ => self.session.not_authenticated(Reply::AUTH_INVALID, &mut self.out),
        }
    }

    fn complete(&mut self, transaction: Transaction) {
        let content = self.content.take().expect("content that is not void");
        assert_eq!(transaction.content_bytes, content.len() as u64);
        let from = transaction.envelope.reverse_path.map(|path| path.to_string());
        let mut event = format!("E: complete <{}>", from.unwrap_or_default());
        for recipient in &transaction.envelope.recipients {
            write!(event, " <{}>", recipient.address).unwrap();
            if let Some(notify) = &recipient.notify {
                let words = [(notify.success, "s"), (notify.failure, "f"), (notify.delay, "d")];
                let set = words.iter().filter(|(set, _)| *set).map(|(_, word)| *word);
                write!(event, " notify:{}", set.collect::<String>()).unwrap();
            }
            if let Some(original) = &recipient.original {
                write!(event, " original:{original}").unwrap();
            }
        }
        let options = &transaction.options;
        write!(event, " {:?}", options.body).unwrap();
        if let Some(part) = options.dsn_return {
            write!(event, " return:{part:?}").unwrap();
        }
        if let Some(id) = &options.dsn_envelope_id {
            write!(event, " envid:{id}").unwrap();
        }
        if options.priority != 0 {
            write!(event, " priority:{}", options.priority).unwrap();
        }
        if let Some(time) = options.not_before {
            write!(event, " not_before:{time}").unwrap();
        }
        if let Some(by) = options.deliver_by {
            write!(event, " by:{};{}", by.at, by.letters()).unwrap();
        }
        event.push_str(if options.smtp_utf8 { " smtp_utf8" } else { "" });
        event.push_str(if transaction.flags.dot_stuffed { " dot_stuffed" } else { "" });
        event.push_str(if transaction.flags.eight_bit { " eight_bit" } else { "" });
        self.seen.push(event);
        for line in content.split_inclusive(|&byte| byte == b'\n') {
            let is_whole = line.ends_with(b"\r\n") || options.body == Body::BinaryMime;
            assert!(is_whole, "text ends in CRLF");
            let line = line.strip_suffix(b"\r\n").unwrap_or(line);
            self.seen.push(format!("K: {}", line.escape_ascii()));
        }
        match &self.script.decline_end {
            Some(reply) => self.session.decline(reply.clone(), &mut self.out),
            None => self.session.stored(QueueId(1), &mut self.out),
        }
        self.take_replies();
    }

    fn take_replies(&mut self) {
        let replies = String::from_utf8(std::mem::take(&mut self.out)).unwrap();
        assert!(replies.is_empty() || replies.ends_with("\r\n"));
        for line in replies.split_terminator("\r\n") {
            assert!(line.len() <= 510, "RFC 5321 4.5.3.1.5");
            assert!(line.is_ascii(), "RFC 6531 3.7.4.2");
            self.seen.push(format!("S: {line}"));
        }
    }
}

/// `452 4.3.1 Text`.
fn reply(text: &str) -> Reply {
    let mut words = text.splitn(3, ' ');
    let code = words.next().unwrap().parse().unwrap();
    let mut digits = words.next().unwrap().split('.').map(|digit| digit.parse().unwrap());
    let mut digit = || -> u16 { digits.next().unwrap() };
    let status = Status(u8::try_from(digit()).unwrap(), digit(), digit());
    let text = words.next().unwrap().to_owned();
    Reply { code, status: Some(status), text: text.into() }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let kind = after.chars().next().unwrap();
        rest = &after[1..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            '{' => {
                let (inside, after) = rest.split_once('}').unwrap();
                let (count, what) = inside.split_once(' ').unwrap();
                bytes.extend(what.repeat(count.parse().unwrap()).into_bytes());
                rest = after;
            }
            other => panic!("no such escape: {other}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn limits() -> config::Session {
    config::Session {
        message_bytes_max: 10_000,
        recipients_max: 100,
        command_line_max: 1000,
        text_line_max: 1000,
        errors_max: 100,
        junk_commands_max: 1000,
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
        connections_per_client: 10,
        connections_per_relay_client: 10,
    }
}
