//! The connection as a state machine: greeting, EHLO, transactions one after the other, QUIT.

mod login;

use super::authentication::{Exchange, Login};
use super::capabilities::Capabilities;
use super::parameters;
use super::scope::{Event, Scope, Usage};
use super::transaction::{Command, Progression, Transaction};
use super::{
    Converted, Loss, Mail, Manner, Policy, Progress, Protocol, RecipientOutcome, StartTls, Step,
    Unconvertible, needs_smtp_utf8,
};
use crate::config::EightBit;
use crate::message::{Body, Demands, Outcome, Reason, Stage, Status};
use crate::smtp::{Response, ResponseReader, one_line};
use std::rc::Rc;
use std::time::Duration;

/// A server that has said 421 to a recipient and does not close has this long for further replies.
const CLOSING_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    /// STARTTLS was said.
    StartTls,
    /// The caller shakes hands.
    Handshake,
    /// AUTH was said.
    Auth(Exchange),
    /// `begin` or `quit` may come.
    Idle,
    Open(Transaction),
    /// `Finished` was given; the next `receive` says what the connection is still good for.
    Ended {
        close: bool,
    },
    Quit,
    Closed,
}

/// One connection to one host: greeting, EHLO, then any number of transactions.
pub struct Conversation {
    policy: Rc<Policy>,
    remote: Box<str>,
    reader: ResponseReader,
    state: State,
    capabilities: Capabilities,
    manner: Manner,
    login: Option<Login>,
    /// TLS stands.
    secured: bool,
    /// The last transaction left an envelope with the server: RSET goes before the next MAIL.
    reset_needed: bool,
    /// The server did not understand a chunk that went ahead: none does so again.
    chunk_refused: bool,
    /// That, or that it did not understand AUTH=, was in the last transaction.
    misunderstood: bool,
    replies: u64,
    /// How the next transaction finds the connection.
    usage: Usage,
    /// See [`Conversation::pipelining_failed`].
    pipelining_failed: bool,
}

impl Conversation {
    /// `remote` names the host for reasons: `mx1.example.net [192.0.2.1]:25`. The connection
    /// stands, and nothing has been read from it.
    pub fn new(policy: Rc<Policy>, remote: Box<str>, manner: Manner) -> Conversation {
        Conversation {
            policy,
            remote,
            reader: ResponseReader::default(),
            state: State::Greeting,
            capabilities: Capabilities::default(),
            manner,
            login: None,
            secured: false,
            reset_needed: false,
            chunk_refused: false,
            misunderstood: false,
            replies: 0,
            usage: Usage::Fresh,
            pipelining_failed: false,
        }
    }

    /// Has it log in before it is ready. To be called before anything is received.
    pub fn log_in_as(&mut self, login: Login) {
        self.login = Some(login);
    }

    /// TLS is established from the first byte. To be called before anything is received.
    pub fn secured_from_the_start(&mut self) {
        self.secured = true;
    }

    /// The status of a host that does not offer the STARTTLS that must be: security features are
    /// not supported (RFC 3463 3.8).
    pub const NOT_PROTECTED: Status = Status(4, 7, 4);

    /// Whether mail that demands REQUIRETLS may go to this server (RFC 8689 4.2.1).
    pub fn meets_require_tls(&self) -> bool {
        self.capabilities.require_tls
    }

    /// The host, as reasons name it.
    pub fn remote(&self) -> &str {
        &self.remote
    }

    /// What the server offered; all unset before the reply to EHLO and after HELO.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Takes what was received: at most one step, after which the rest of `input` comes again. A
    /// step of `More` or `Close` has consumed everything. Adds to `out` what is to be sent.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        match self.state {
            // The server speaks unasked: 421 before it closes, or a reply that belongs to nothing.
            // Either way no command may follow.
            State::Idle | State::Ended { close: false } if !input.is_empty() => {
                self.state = State::Closed;
            }
            State::Idle | State::Ended { close: false } => {
                self.state = State::Idle;
                return Progress { consumed: 0, step: Step::Ready };
            }
            State::Ended { close: true } => self.state = State::Closed,
            _ => {}
        }
        if matches!(self.state, State::Closed) {
            return Progress { consumed: input.len(), step: Step::Close };
        }
        // Taken out for the time of the call, so that a reply can be borrowed beside the state.
        let mut reader = std::mem::take(&mut self.reader);
        let progress = self.read(&mut reader, input, out);
        self.reader = reader;
        progress
    }

    fn read(&mut self, reader: &mut ResponseReader, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let mut consumed = 0;
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let read = match self.content_is_out() {
                true => reader.read_after_content(rest),
                false => reader.read(rest),
            };
            let used = match read {
                Ok(Some(used)) => used,
                Ok(None) => return Progress { consumed: input.len(), step: Step::More },
                Err(malformed) => {
                    let step = self.broken(&malformed.to_string());
                    return Progress { consumed: input.len(), step };
                }
            };
            consumed += used;
            self.replies += 1;
            let last = self.awaits_one();
            let written = out.len();
            let step = self.answer(reader.response(), out);
            let ended = matches!(step, Step::Finished { .. } | Step::Unusable(_) | Step::Close);
            // RFC 3207 4.2: nothing that came in the clear counts after the handshake. The server
            // sent it too early, or an attacker put it there (CVE-2021-38371).
            if step == Step::StartTls {
                return Progress { consumed: input.len(), step };
            }
            // What follows the last awaited reply was sent before our next command: it would be
            // taken for the answer to that.
            if last && !ended && consumed < input.len() {
                out.truncate(written);
                let step = self.broken("a reply without a command");
                return Progress { consumed: input.len(), step };
            }
            if step == Step::Close {
                consumed = input.len();
            }
            if step != Step::More {
                return Progress { consumed, step };
            }
        }
    }

    /// Whether the next reply is the only one that may come before we send more.
    fn awaits_one(&self) -> bool {
        match &self.state {
            State::Open(transaction) => transaction.outstanding() <= 1,
            _ => true,
        }
    }

    /// Whether the next reply is one to the end of data: whatever it is, a message that is sent
    /// again for want of understanding it may be a copy.
    fn content_is_out(&self) -> bool {
        matches!(&self.state, State::Open(transaction) if matches!(
            transaction.awaited(),
            Command::EndOfData | Command::EndOfDataFor(_) | Command::EmptyEnd
        ))
    }

    /// The connection broke when some of the commands that were sent together had been answered and
    /// others had not: the host may not be able to do what PIPELINING promises.
    pub fn pipelining_failed(&self) -> bool {
        self.pipelining_failed
    }

    /// After [`Step::Finished`]: the connection cannot be used any more.
    pub fn will_close(&self) -> bool {
        matches!(self.state, State::Ended { close: true } | State::Closed)
    }

    /// Replies that have come as a whole: the time limit of [`Conversation::timeout`] holds for
    /// each of them from its first awaited moment to its last byte.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    fn answer(&mut self, response: Response<'_>, out: &mut Vec<u8>) -> Step {
        match &mut self.state {
            State::Greeting => self.greeting(response, out),
            State::Ehlo | State::Helo => self.hello(response, out),
            State::StartTls => self.starttls(response, out),
            State::Auth(_) => self.auth(response, out),
            State::Open(transaction) => {
                let result = transaction.answer(response, &self.remote, &self.capabilities, out);
                match result {
                    Progression::Continue => Step::More,
                    Progression::SendContent => Step::SendContent,
                    Progression::Finished { close } => self.finish(close),
                    Progression::Violation(what) => self.broken(what),
                }
            }
            State::Handshake | State::Idle | State::Ended { .. } | State::Quit | State::Closed => {
                self.state = State::Closed;
                Step::Close
            }
        }
    }

    fn greeting(&mut self, response: Response<'_>, out: &mut Vec<u8>) -> Step {
        match response.class() {
            2 => {
                self.state = State::Ehlo;
                self.say_hello(out);
                Step::More
            }
            3 => self.broken("a 3xx greeting"),
            _ => self.unusable(response, out),
        }
    }

    fn hello(&mut self, response: Response<'_>, out: &mut Vec<u8>) -> Step {
        let extended = matches!(self.state, State::Ehlo);
        match response.class() {
            2 => {
                if extended {
                    self.capabilities = Capabilities::of(response);
                    // Its word counts only where it has proved its name (RFC 8689 4.2.1).
                    self.capabilities.require_tls &= self.manner.verified;
                    self.capabilities.pipelining &= self.manner.pipelining;
                }
                match self.manner.starttls {
                    StartTls::IfOffered | StartTls::Always if self.capabilities.starttls => {
                        self.state = State::StartTls;
                        out.extend_from_slice(b"STARTTLS\r\n");
                        Step::More
                    }
                    StartTls::Always => self.not_protected(out),
                    StartTls::Never | StartTls::IfOffered => self.log_in(out),
                }
            }
            3 => self.broken("a 3xx reply to EHLO or HELO"),
            // RFC 5321 4.1.1.1 names 500 to 504 and 550; no 5xx to EHLO is a word against HELO.
            5 if extended && self.manner.protocol == Protocol::Smtp => {
                self.state = State::Helo;
                self.say_hello(out);
                Step::More
            }
            _ => self.unusable(response, out),
        }
    }

    fn starttls(&mut self, response: Response<'_>, out: &mut Vec<u8>) -> Step {
        match response.class() {
            2 => {
                self.state = State::Handshake;
                Step::StartTls
            }
            3 => self.broken("a 3xx reply to STARTTLS"),
            _ if self.manner.starttls == StartTls::Always || response.code() == 421 => {
                self.unusable(response, out)
            }
            // RFC 3207 4: the client decides, and what may be in the clear may be so here.
            _ => self.log_in(out),
        }
    }

    /// After [`Step::StartTls`]: the handshake is done.
    pub fn secured(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.state, State::Handshake) {
            return;
        }
        self.manner.starttls = StartTls::Never;
        self.secured = true;
        self.capabilities = Capabilities::default();
        self.reader = ResponseReader::default();
        self.state = State::Ehlo;
        self.say_hello(out);
    }

    /// RFC 3463 3.8: X.7.4, security features not supported.
    fn not_protected(&mut self, out: &mut Vec<u8>) -> Step {
        let text = "the host does not offer STARTTLS, and mail to it must not go in the clear";
        let reason = self.ours(Stage::Hello, Conversation::NOT_PROTECTED, text);
        out.extend_from_slice(b"QUIT\r\n");
        self.state = State::Closed;
        Step::Unusable(Outcome::Deferred(reason))
    }

    fn say_hello(&self, out: &mut Vec<u8>) {
        let verb: &[u8] = match (&self.state, self.manner.protocol) {
            (State::Helo, _) => b"HELO ",
            (_, Protocol::Smtp) => b"EHLO ",
            (_, Protocol::Lmtp) => b"LHLO ",
        };
        out.extend_from_slice(verb);
        out.extend_from_slice(self.policy.host_name.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    fn unusable(&mut self, response: Response<'_>, out: &mut Vec<u8>) -> Step {
        let reason = response.reason(self.stage(), &self.remote);
        if response.code() != 421 {
            out.extend_from_slice(b"QUIT\r\n");
        }
        self.state = State::Closed;
        Step::Unusable(Outcome::Deferred(reason))
    }

    /// Ends the open transaction.
    fn finish(&mut self, close: bool) -> Step {
        let State::Open(transaction) = std::mem::replace(&mut self.state, State::Closed) else {
            return Step::Close;
        };
        let close = close || transaction.is_closing();
        self.state = State::Ended { close };
        self.reset_needed = transaction.leaves_envelope();
        self.chunk_refused |= transaction.is_chunk_refused();
        self.capabilities.logged_in &= !transaction.is_submitter_refused();
        self.misunderstood = transaction.is_chunk_refused() || transaction.is_submitter_refused();
        let (outcomes, again) = transaction.into_outcomes(close);
        Step::Finished { outcomes, again }
    }

    /// What the server sent is no SMTP, or no reply to what was sent: nothing that follows can be
    /// matched to a command.
    fn broken(&mut self, what: &str) -> Step {
        let stage = self.stage();
        let mut text = format!("the server broke the protocol: {what}");
        if stage == Stage::EndOfData || self.takes_content_ahead() {
            text.push_str("; the message may have been delivered");
        }
        let reason = self.ours(stage, Status(4, 5, 0), &text);
        match &mut self.state {
            State::Open(transaction) => {
                self.pipelining_failed |= transaction.pipelining_failed();
                transaction.broken(reason, Event::Malformed);
                self.finish(true)
            }
            State::Greeting
            | State::Ehlo
            | State::Helo
            | State::StartTls
            | State::Handshake
            | State::Auth(_)
            | State::Idle => {
                self.state = State::Closed;
                Step::Unusable(Outcome::Deferred(reason))
            }
            State::Ended { .. } | State::Quit | State::Closed => {
                self.state = State::Closed;
                Step::Close
            }
        }
    }

    /// Starts a transaction. Only after `Ready`; at any other time the mail is deferred by the
    /// next `receive`.
    pub fn begin(&mut self, mut mail: Mail, out: &mut Vec<u8>) {
        mail.pipelined_content &= !self.chunk_refused;
        debug_assert!(matches!(self.state, State::Idle), "begin is for a ready connection");
        let mut transaction = if !matches!(self.state, State::Idle) {
            let reason = self.ours(Stage::Local, Status(4, 3, 0), "the connection was not ready");
            Transaction::refused(mail, Outcome::Deferred(reason), Scope::Connection, out)
        } else if let Some(reason) = self.impossible(&mail) {
            Transaction::refused(mail, Outcome::Refused(reason), Scope::Transaction, out)
        } else {
            let Manner { protocol, .. } = self.manner;
            Transaction::new(mail, protocol, self.reset_needed, &self.capabilities, self.usage)
        };
        self.usage = Usage::Reused;
        transaction.send(&self.capabilities, out);
        self.state = State::Open(transaction);
    }

    /// Before `begin`: whether the caller is to find out if the content of `mail` can be made
    /// 7-bit, and to say so in it.
    pub fn wants_conversion(&self, mail: &Mail) -> bool {
        // A report that is refused is dropped, because it has no sender to tell: it is converted
        // whatever the operator says of other mail.
        let is_allowed = match self.manner.eight_bit {
            EightBit::Convert => true,
            EightBit::Bounce => mail.is_report(),
            EightBit::Send => false,
        };
        mail.is_eight_bit()
            && mail.options().body != Body::BinaryMime
            && !self.capabilities.eight_bit_mime
            && is_allowed
    }

    /// Why this host can never take `mail`, by what it offered.
    fn impossible(&self, mail: &Mail) -> Option<Reason> {
        let demands = Demands::new(mail.options().require_tls, mail.is_report());
        let (status, text) = match self.capabilities.size {
            Some(limit) if limit > 0 && mail.size > limit => {
                let size = mail.size;
                let text =
                    format!("the message has {size} bytes, the server takes at most {limit}");
                (Status(5, 3, 4), text)
            }
            // RFC 3030 3: BINARYMIME goes by BDAT alone.
            _ if mail.options().body == Body::BinaryMime
                && !(self.capabilities.binary_mime && self.capabilities.chunking) =>
            {
                let text = "the message is BINARYMIME, which the server does not offer";
                (Status(5, 6, 3), text.to_owned())
            }
            // RFC 6152 3.
            _ if mail.is_eight_bit()
                && !self.capabilities.eight_bit_mime
                && self.manner.eight_bit != EightBit::Send
                && mail.conversion != Converted::Done =>
            {
                let text = "the message has 8-bit content, and the server does not offer 8BITMIME";
                let but = match mail.conversion {
                    Converted::Impossible(Unconvertible(why)) => {
                        format!("; it cannot be converted: {why}")
                    }
                    Converted::No | Converted::Done => String::new(),
                };
                (Status(5, 6, 3), format!("{text}{but}"))
            }
            // RFC 8689 4.2.1. Its site has only such hosts: this is the last line of defence.
            _ if demands.require_tls && !self.meets_require_tls() => {
                let text = "the message demands REQUIRETLS, and the server does not offer it or is \
                            not verified";
                (Status(5, 7, 30), text.to_owned())
            }
            _ if needs_smtp_utf8(mail) && !self.capabilities.smtp_utf8 => {
                let text = "the message needs SMTPUTF8, which the server does not offer";
                (Status(5, 6, 7), text.to_owned())
            }
            _ => {
                let late = parameters::too_late(mail, &self.capabilities, self.manner.protocol);
                (Status(5, 4, 7), late?)
            }
        };
        Some(self.ours(Stage::Mail, status, &text))
    }

    /// After `begin`: whether all content is to go out at once. Then call `chunk`, add trace and
    /// content without added dots, and call `content_sent`; there is no [`Step::SendContent`].
    pub fn takes_content_ahead(&self) -> bool {
        matches!(&self.state, State::Open(transaction) if transaction.is_ahead())
    }

    /// After [`Step::Finished`]: the server could not take what it was sent in the way that it was
    /// sent, so the outcome says nothing about the message. When the connection is ready again it
    /// may be begun anew, and will go by DATA, or without AUTH=.
    pub fn retry_without_extension(&self) -> bool {
        self.misunderstood
    }

    /// Whether content is to go as a chunk (RFC 3030): see [`Step::SendContent`].
    pub fn is_chunked(&self) -> bool {
        matches!(&self.state, State::Open(transaction) if transaction.is_chunked())
    }

    /// After `SendContent`, if content goes as a chunk: all of it follows, `length` bytes of trace
    /// and content.
    pub fn chunk(&mut self, length: u64, out: &mut Vec<u8>) {
        if let State::Open(transaction) = &mut self.state
            && (transaction.is_ahead() || transaction.awaited() == Command::Content)
        {
            transaction.chunk(length, out);
        }
    }

    /// After `SendContent`, when trace and content were sent: adds the final dot line to `out`, if
    /// there is to be one.
    pub fn content_sent(&mut self, out: &mut Vec<u8>) {
        if let State::Open(transaction) = &mut self.state
            && transaction.awaited() == Command::Content
        {
            transaction.content_sent(out);
        }
    }

    /// Only after `Ready`: says QUIT. The reply, whatever it is, gives `Close`.
    pub fn quit(&mut self, out: &mut Vec<u8>) {
        if matches!(self.state, State::Idle) {
            out.extend_from_slice(b"QUIT\r\n");
            self.state = State::Quit;
        }
    }

    /// How long to wait for the next reply as a whole, or for progress in sending content: RFC 5321
    /// 4.5.3.2 has the least times.
    pub fn timeout(&self) -> Duration {
        let limits = &self.policy.limits;
        match &self.state {
            State::Greeting => limits.greeting_timeout,
            State::StartTls => limits.tls_timeout,
            State::Open(transaction) => match transaction.awaited() {
                Command::Reset | Command::Mail | Command::Recipient(_) | Command::Data
                    if transaction.is_closing() =>
                {
                    CLOSING_WAIT.min(limits.recipient_timeout)
                }
                Command::Reset | Command::ResetOnly => limits.hello_timeout,
                Command::Mail => limits.mail_timeout,
                Command::Recipient(_) => limits.recipient_timeout,
                Command::Data => limits.data_timeout,
                Command::Content => limits.content_timeout,
                // The end of a message without recipients is not worth a long wait.
                Command::EmptyEnd => limits.hello_timeout,
                Command::EndOfData | Command::EndOfDataFor(_) => limits.end_of_data_timeout,
            },
            _ => limits.hello_timeout,
        }
    }

    /// The connection is gone: what that means, by the table in the module's documentation. With no
    /// transaction open the list is empty and the reason is for the host.
    pub fn lost(&mut self, loss: Loss) -> (Vec<RecipientOutcome>, Reason) {
        let reason = self.meaning(&loss);
        let State::Open(mut transaction) = std::mem::replace(&mut self.state, State::Closed) else {
            return (Vec::new(), reason);
        };
        self.pipelining_failed |= transaction.pipelining_failed();
        match loss {
            Loss::Closed(_) => transaction.broken(reason.clone(), Event::Lost),
            Loss::TimedOut => transaction.broken(reason.clone(), Event::TimedOut),
            Loss::Content(_) => {
                transaction.settle(Outcome::Deferred(reason.clone()), Scope::Message);
            }
        }
        let (outcomes, _) = transaction.into_outcomes(true);
        (outcomes, reason)
    }

    fn meaning(&self, loss: &Loss) -> Reason {
        let stage = self.stage();
        let (step, ambiguous) = match &self.state {
            State::Greeting => ("before the greeting", false),
            State::Ehlo | State::Helo => ("before the reply to EHLO", false),
            State::StartTls => ("before the reply to STARTTLS", false),
            State::Handshake => ("in the TLS handshake", false),
            State::Auth(_) => ("before the reply to AUTH", false),
            State::Open(transaction) => match transaction.awaited() {
                Command::Reset | Command::ResetOnly => ("before the reply to RSET", false),
                Command::Mail => ("before the reply to MAIL", false),
                Command::Recipient(_) => ("before the reply to RCPT", false),
                Command::Data => ("before the reply to DATA", false),
                Command::Content => ("while the message was sent", false),
                Command::EndOfData | Command::EndOfDataFor(_) => {
                    ("after the end of the message", true)
                }
                Command::EmptyEnd => ("after all recipients were refused", false),
            },
            State::Idle | State::Ended { .. } => ("between messages", false),
            State::Quit | State::Closed => ("at the end", false),
        };
        let is_ahead = matches!(&self.state, State::Open(open) if open.is_ahead());
        let ambiguous = ambiguous || is_ahead;
        let (stage, status, mut text) = match loss {
            Loss::Closed(words) if words.is_empty() => {
                (stage, Status(4, 4, 2), format!("the connection was lost {step}"))
            }
            Loss::Closed(words) => {
                (stage, Status(4, 4, 2), format!("the connection was lost {step}: {words}"))
            }
            Loss::TimedOut => (stage, Status(4, 4, 2), format!("timed out {step}")),
            Loss::Content(words) => {
                let text = format!("the message could not be read here: {words}");
                (Stage::Local, Status(4, 3, 0), text)
            }
        };
        if ambiguous {
            text.push_str("; it may have been delivered");
        }
        self.ours(stage, status, &text)
    }

    fn stage(&self) -> Stage {
        match &self.state {
            State::Greeting => Stage::Greeting,
            State::StartTls | State::Handshake => Stage::Tls,
            State::Auth(_) => Stage::Auth,
            State::Open(transaction) => transaction.awaited().stage(),
            _ => Stage::Hello,
        }
    }

    /// A reason in our own words about this host.
    fn ours(&self, stage: Stage, status: Status, text: &str) -> Reason {
        let text = one_line(text.as_bytes(), Reason::TEXT_LENGTH_MAX);
        Reason { remote: self.remote.clone(), ..Reason::ours(stage, status, text) }
    }
}
