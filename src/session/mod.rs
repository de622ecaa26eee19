//! The receiving side of SMTP (RFC 5321) as a state machine. *Pure.*
//!
//! Bytes of one client go in as they come, in pieces of any size; replies come out into a buffer
//! and [`Step`]s say what the caller must do. A piece cut elsewhere gives the same replies and the
//! same content. No sockets, no policy tables, no disk: whether a client may relay is told at the
//! start, where content goes is the caller's business, and time is given where it is needed.
//!
//! ```text
//! greet -> receive ... ContentWanted -> begin_content -> receive ... Content, Content, Complete
//!             ^              |                                                         |
//!             |              +-> decline          take_transaction -> stored or decline
//!             +------------------------------------------------------------------------+
//! ```

mod authentication;
mod chunks;
mod commands;
mod offer;
mod received;
mod step;
mod submission;

pub use authentication::{AuthInput, Authentication};
pub use step::{Etrn, Progress, Rejection, Step, Transaction};
pub use submission::HeaderWatch;

use crate::config;
use crate::message::{Address, ContentFlags, Envelope, Options, QueueId, Recipient, Timestamp};
use crate::sasl::Channels;
use crate::smtp::{
    self, Bare, ContentLimits, ContentScanner, Defect, END_LENGTH, Framing, Line, Reply, Scanned,
    Skipped, Verb,
};
use chunks::{Chunk, Refused};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Replies that may wait in `out`, in bytes, before `receive` stops and lets the caller send them.
/// A pipelining client is owed an answer to each command; without a stop a buffer of short commands
/// would make a buffer of long replies out of itself.
const OUT_BYTES_MAX: usize = 16 * 1024;

/// An overlong command line is thrown away up to here, in bytes; one that has not ended by then is
/// no slip of a client, and the session ends.
const SKIPPED_BYTES_MAX: usize = 64 * 1024;

/// What holds for all sessions of a listener.
pub struct Policy {
    /// The name that the relay gives itself.
    pub host_name: Arc<str>,
    /// The configured limits.
    pub limits: config::Session,
}

/// Who is at the other end.
pub struct Client {
    /// Address and port of the peer.
    pub address: SocketAddr,
    /// Lies in a relay network: may send to any domain.
    pub may_relay: bool,
    /// STARTTLS is there to be said.
    pub starttls: bool,
    /// No mail without TLS.
    pub tls_demanded: bool,
    /// May say when its mail is to be sent: MT-PRIORITY, FUTURERELEASE.
    pub scheduling: bool,
    /// May say with XCLIENT who the client is.
    pub xclient: bool,
    /// TLS, when it is there from the first byte.
    pub protection: Option<Protection>,
    /// How it may say who it is.
    pub authentication: Authentication,
    /// Asked before MAIL and RCPT are answered, if there is something to ask.
    pub gate: Option<Box<dyn Gate>>,
}

/// Who may send, and how much.
pub trait Gate {
    /// Before MAIL is answered: may `sender` be the reverse-path of one more message, of this user,
    /// if the client is one?
    ///
    /// # Errors
    /// The refusal.
    fn pass(&self, user: Option<&str>, sender: Option<&Address>) -> Result<Box<dyn Claim>, Reply>;
}

/// What a transaction has been allowed. Dropped, it counts for nothing.
pub trait Claim {
    /// Before RCPT is answered: may there be one more recipient?
    ///
    /// # Errors
    /// The refusal.
    fn one_more(&mut self) -> Result<(), Reply>;

    /// The message was taken.
    fn keep(self: Box<Self>);
}

/// What TLS is like on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// As IANA names it: `TLS_AES_256_GCM_SHA384`.
    pub cipher: Box<str>,
    /// What an exchange of AUTH can be tied to.
    pub channels: Channels,
    /// SHA-256 of the certificate that the client has shown.
    pub client_fingerprint: Option<[u8; 32]>,
    /// The names in it, where somebody vouches for them.
    pub client_names: Vec<Box<str>>,
}

/// One client's session, from the greeting to the close.
pub struct Session {
    policy: Rc<Policy>,
    client: Client,
    hello: Option<Hello>,
    state: State,
    /// Who the client has proved to be.
    user: Option<Box<str>>,
    transaction: Option<Open>,
    /// For the trace field: who the message is for, when that is one recipient and the transaction
    /// has been taken.
    taken_for: Option<Address>,
    /// And that it asked for SMTPUTF8.
    taken_as_utf8: bool,
    /// And its priority.
    taken_priority: i8,
    /// And what it was allowed.
    taken_claim: Option<Box<dyn Claim>>,
    /// Refused commands since the session began or last had a message accepted.
    refused: u32,
    /// Transactions begun.
    mails: u32,
    /// The time, as last told.
    now: Timestamp,
    /// The relay stops: close when the content at hand is done.
    stop: bool,
}

/// How the client introduced itself.
struct Hello {
    name: Box<str>,
    /// With EHLO.
    extended: bool,
}

/// A transaction that MAIL has opened.
struct Open {
    envelope: Envelope,
    /// What MAIL asked for.
    options: Options,
    /// What the gate says it may be.
    claim: Option<Box<dyn Claim>>,
    /// Between BDAT commands: of the content so far.
    chunks: Option<ContentScanner>,
}

enum State {
    /// `greet` was not called yet.
    Greeting,
    /// Waiting for a command.
    Commands,
    /// Throwing away a command line that is too long; so many bytes of it are gone.
    Skipping(usize),
    /// STARTTLS was said; the caller shakes hands.
    Handshake,
    /// Waiting for the answer to a challenge of AUTH.
    Challenged,
    /// The caller finds out what AUTH has led to.
    Authenticating,
    /// DATA is in order, or the first BDAT; the caller decides.
    ContentWanted(Option<Chunk>),
    /// Between 354 and the end of data. `true`: void, the caller knows.
    Content(ContentScanner, bool),
    /// In a chunk. `true`: void, the caller knows.
    Chunk(Chunk, ContentScanner, bool),
    /// In a chunk that is thrown away.
    Refused(Refused),
    /// The content is there; the caller makes it durable.
    Complete(ContentScanner),
    /// All that comes is thrown away.
    Closing,
}

impl Session {
    /// A session with a client that has just connected. Call `greet` next.
    pub fn new(policy: Rc<Policy>, client: Client) -> Session {
        Session {
            policy,
            client,
            hello: None,
            state: State::Greeting,
            user: None,
            transaction: None,
            taken_for: None,
            taken_as_utf8: false,
            taken_priority: 0,
            taken_claim: None,
            refused: 0,
            mails: 0,
            now: Timestamp::default(),
            stop: false,
        }
    }

    /// The greeting. `early` is what the client had sent before it, if anything (TLS hello, HTTP).
    ///
    /// After a 554 greeting a server waits for QUIT (RFC 5321 3.1). That is owed to clients that
    /// speak SMTP; one that does not wait for the greeting does not wait for its meaning either,
    /// and gets [`Step::Close`].
    pub fn greet(&mut self, early: &[u8], out: &mut Vec<u8>) -> Step {
        let refusal = if early.is_empty() {
            self.write_greeting(out);
            self.state = State::Commands;
            return Step::More;
        } else if smtp::is_tls(early) {
            Reply::TLS_AT_GREETING
        } else if smtp::is_http(early) {
            Reply::HTTP_AT_GREETING
        } else {
            Reply::EARLY_TALKER
        };
        self.close_with(&refusal, out)
    }

    fn write_greeting(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"220 ");
        out.extend_from_slice(self.policy.host_name.as_bytes());
        out.extend_from_slice(b" ESMTP Ringpost\r\n");
    }

    /// Answers Turn: from now on the client is another, and begins from the greeting.
    pub fn override_client(
        &mut self,
        address: SocketAddr,
        may_relay: bool,
        gate: Option<Box<dyn Gate>>,
        out: &mut Vec<u8>,
    ) {
        self.client.gate = gate;
        self.user = None;
        self.client.address = address;
        self.client.may_relay = may_relay;
        self.hello = None;
        self.transaction = None;
        self.write_greeting(out);
    }

    /// Who the client is, as far as it is known.
    pub fn client_address(&self) -> SocketAddr {
        self.client.address
    }

    /// What time it is: to be told before input is given.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// Takes input that came from the client, from the first byte that was not consumed yet.
    ///
    /// While the session waits for the caller (after [`Step::ContentWanted`] and
    /// [`Step::Complete`]) nothing is consumed: leave the client's bytes where they are.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let out_full = out.len() + OUT_BYTES_MAX;
        let mut consumed = 0;
        loop {
            // A chunk ends without a byte of its own.
            match self.chunk_ended(out) {
                None => {}
                Some(Step::More) => continue,
                Some(step) => return Progress { consumed, step },
            }
            let rest = input.get(consumed..).unwrap_or_default();
            // RFC 2920 3.2: its reply may not wait for those to the commands behind it.
            let alone = matches!(self.state, State::Commands) && !smtp::may_be_grouped(rest);
            let (used, step) = match self.state {
                State::Greeting | State::Commands | State::Challenged if self.stop => {
                    (0, self.close_with(&Reply::STOPPING, out))
                }
                State::Greeting | State::Commands | State::Challenged => {
                    self.receive_command(rest, out)
                }
                State::Skipping(skipped) => self.receive_overlong(rest, skipped, out),
                State::Content(..) => self.receive_content(rest, out),
                State::Chunk(..) => self.receive_chunk(rest),
                State::Refused(_) => self.receive_refused(rest),
                State::ContentWanted(_) | State::Complete(_) => (0, Step::More),
                State::Handshake | State::Authenticating => (0, Step::More),
                State::Closing => (rest.len(), Step::Close),
            };
            let step = match step {
                Step::Content(range) => Step::Content(range.start + consumed..range.end + consumed),
                step => step,
            };
            consumed += used;
            if used == 0 || alone || step != Step::More || out.len() > out_full {
                return Progress { consumed, step };
            }
        }
    }

    fn receive_command(&mut self, rest: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        // Of TLS and HTTP: both are known before their first line has ended, if it ever does.
        if smtp::is_tls(rest) {
            return (rest.len(), self.close_with(&Reply::TLS, out));
        }
        if smtp::is_http(rest) {
            return (rest.len(), self.close_with(&Reply::HTTP, out));
        }
        match smtp::scan(rest, self.line_max(rest)) {
            Line::Complete(line) if matches!(self.state, State::Challenged) => {
                (line.len() + 2, self.auth_answer(line, out))
            }
            Line::Complete(line) => (line.len() + 2, self.command(line, out)),
            Line::Incomplete => (0, Step::More),
            // Its chunk would be taken for commands.
            Line::TooLong(_) if Verb::of(rest) == Some(Verb::Bdat) => {
                (rest.len(), self.close_with(&Reply::LINE_TOO_LONG, out))
            }
            Line::TooLong(length) => {
                self.state = State::Skipping(length);
                (length, Step::More)
            }
            Line::Bare(bare) => (rest.len(), self.out_of_step(bare, out)),
        }
    }

    fn receive_overlong(
        &mut self,
        rest: &[u8],
        skipped: usize,
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        let window = rest.get(..SKIPPED_BYTES_MAX.saturating_sub(skipped)).unwrap_or(rest);
        match smtp::skip(window) {
            // One less than the window may take: its last byte may be a CR that has to wait.
            Skipped::Part(length) if skipped + length >= SKIPPED_BYTES_MAX - 1 => {
                (rest.len(), self.close_with(&Reply::LINE_TOO_LONG, out))
            }
            Skipped::Part(length) => {
                self.state = State::Skipping(skipped + length);
                (length, Step::More)
            }
            Skipped::End(length) => {
                self.state = State::Commands;
                (length, self.refuse("command", Reply::LINE_TOO_LONG, out))
            }
            Skipped::Bare(bare) => (rest.len(), self.out_of_step(bare, out)),
        }
    }

    /// A lone CR or LF: where the client thinks that its next command begins cannot be known, and
    /// guessing is what command injection lives on.
    fn out_of_step(&mut self, bare: Bare, out: &mut Vec<u8>) -> Step {
        let reply = match bare {
            Bare::Cr => Reply::BARE_CR,
            Bare::Lf => Reply::BARE_LF,
        };
        self.close_with(&reply, out)
    }

    fn receive_content(&mut self, rest: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let State::Content(scanner, void) = &mut self.state else {
            return (0, Step::More);
        };
        match scanner.scan(rest) {
            Scanned::Short | Scanned::Stuffing => (0, Step::More),
            Scanned::Content(length) if *void => (length, Step::More),
            Scanned::Content(length) if scanner.defect().is_some() => {
                *void = true;
                (length, Step::ContentVoid)
            }
            Scanned::Content(length) => (length, Step::Content(0..length)),
            Scanned::End => (END_LENGTH, self.end_of_content(out)),
        }
    }

    fn end_of_content(&mut self, out: &mut Vec<u8>) -> Step {
        let State::Content(scanner, _) = std::mem::replace(&mut self.state, State::Commands) else {
            return Step::More;
        };
        match scanner.defect() {
            Some(defect) => self.refuse_content(defect, out),
            None => {
                self.state = State::Complete(scanner);
                Step::Complete
            }
        }
    }

    fn refuse_content(&mut self, defect: Defect, out: &mut Vec<u8>) -> Step {
        let reply = match defect {
            Defect::TooLarge => Reply::too_large(self.policy.limits.message_bytes_max),
            Defect::BareLf => Reply::CONTENT_BARE_LF,
            Defect::BareCr => Reply::CONTENT_BARE_CR,
            Defect::Nul => Reply::CONTENT_NUL,
            Defect::TooManyHops => Reply::TOO_MANY_HOPS,
            Defect::LineTooLong => Reply::CONTENT_LINE_TOO_LONG,
        };
        let from = self.open_sender();
        self.transaction = None;
        self.reject("data", from, None, reply, out)
    }

    /// Answers ContentWanted: with 354, or by going on, as the chunk is there already.
    pub fn begin_content(&mut self, out: &mut Vec<u8>) {
        if let State::ContentWanted(Some(chunk)) = self.state {
            return self.begin_chunks(chunk);
        }
        let scanner = ContentScanner::new(self.content_limits(), Framing::Dots);
        self.state = State::Content(scanner, false);
        Reply::SEND_CONTENT.write(out);
    }

    fn content_limits(&self) -> ContentLimits {
        let limits = &self.policy.limits;
        ContentLimits {
            bytes_max: limits.message_bytes_max,
            line_max: limits.text_line_max,
            received_max: limits.received_max,
        }
    }

    /// The Received field (RFC 5321 4.4) for the transaction, ending in CRLF; callable from
    /// ContentWanted on, until `stored` or `decline`.
    pub fn received_field(&self, id: QueueId, now: Timestamp) -> Vec<u8> {
        let taken_for = self.taken_for.as_ref();
        let (recipient, priority) = match &self.transaction {
            Some(open) => (sole_recipient(&open.envelope), open.options.priority),
            None => (taken_for, self.taken_priority),
        };
        received::field(&received::ReceivedField {
            hello: self.hello.as_ref().map_or("", |hello| &hello.name),
            protocol: self.protocol(),
            client: self.client.address.ip(),
            protection: self.client.protection.as_ref(),
            host_name: &self.policy.host_name,
            id,
            recipient: recipient.map(Address::as_str),
            priority,
            now,
        })
    }

    /// Answers Hasten (RFC 1985 5.3).
    pub fn hastened(&self, found: Etrn, out: &mut Vec<u8>) {
        let reply = match found {
            Etrn::Begun => Reply::ETRN_STARTED,
            Etrn::Nothing => Reply::ETRN_NOTHING_QUEUED,
            Etrn::Busy => Reply::ETRN_BUSY,
        };
        reply.write(out);
    }

    /// What the client called itself; empty before EHLO or HELO.
    pub fn client_name(&self) -> &str {
        self.hello.as_ref().map_or("", |hello| &hello.name)
    }

    /// What is spoken in this transaction: `SMTP`, `ESMTP`, `UTF8SMTPSA` and the like (RFC 3848,
    /// RFC 6531 4.3).
    pub fn protocol(&self) -> &'static str {
        let smtp_utf8 = match &self.transaction {
            Some(open) => open.options.smtp_utf8,
            None => self.taken_as_utf8,
        };
        let has_tls = self.client.protection.is_some();
        let has_user = self.user.is_some();
        received::protocol(self.is_extended(), smtp_utf8, has_tls, has_user)
    }

    /// What protects the connection.
    pub fn protection(&self) -> Option<&Protection> {
        self.client.protection.as_ref()
    }

    /// After [`Step::StartTls`]: the handshake is done. All that the client said before is
    /// forgotten (RFC 3207 4.2).
    pub fn secured(&mut self, protection: Protection) {
        self.client.protection = Some(protection);
        self.hello = None;
        self.user = None;
        self.transaction = None;
        if let State::Handshake = self.state {
            self.state = State::Commands;
        }
    }

    /// After Complete, once.
    pub fn take_transaction(&mut self) -> Transaction {
        debug_assert!(matches!(self.state, State::Complete(_)) && self.transaction.is_some());
        let (envelope, mut options) = match self.transaction.take() {
            Some(open) => {
                self.taken_claim = open.claim;
                (open.envelope, open.options)
            }
            None => (Envelope { reverse_path: None, recipients: Vec::new() }, Options::default()),
        };
        self.taken_for = sole_recipient(&envelope).cloned();
        self.taken_as_utf8 = options.smtp_utf8;
        self.taken_priority = options.priority;
        let (content_bytes, flags, eight_bit_header) = match &self.state {
            State::Complete(scanner) => {
                (scanner.bytes(), scanner.flags(), scanner.eight_bit_header())
            }
            _ => (0, ContentFlags::default(), false),
        };
        // Who asks for it always must not have plain mail refused by next hops without it.
        options.smtp_utf8 &= eight_bit_header || !is_ascii(&envelope);
        Transaction { envelope, options, content_bytes, flags }
    }

    /// The message is durable: 250 with its id.
    pub fn stored(&mut self, id: QueueId, out: &mut Vec<u8>) {
        if let Some(claim) = self.taken_claim.take() {
            claim.keep();
        }
        self.finish_transaction();
        // The limit is there for clients that try and try; one whose mail is taken may have a bad
        // address in every mailing, for as long as it stays connected.
        self.refused = 0;
        let text = format!("queued as {id}");
        Reply { text: text.into(), ..Reply::OK }.write(out);
    }

    /// Answers ContentWanted or Complete with a refusal (452 4.3.1, 451 4.3.0 ...) instead. With
    /// 421 the session ends. Refused at DATA, the transaction stays open and DATA may come again;
    /// refused at the end of data, or at a chunk, it is over (RFC 5321 4.1.1.4).
    pub fn decline(&mut self, reply: Reply, out: &mut Vec<u8>) {
        if let (State::ContentWanted(Some(chunk)), true) = (&self.state, reply.code != 421) {
            let chunk = *chunk;
            return self.decline_chunk(chunk, reply);
        }
        reply.write(out);
        if let State::ContentWanted(_) = self.state {
            self.state = State::Commands;
        } else {
            self.finish_transaction();
        }
        if reply.code == 421 {
            self.state = State::Closing;
        }
    }

    fn finish_transaction(&mut self) {
        self.transaction = None;
        self.taken_for = None;
        self.taken_as_utf8 = false;
        self.taken_priority = 0;
        self.taken_claim = None;
        self.state = State::Commands;
    }

    /// How long to wait for more input now.
    pub fn timeout(&self) -> Duration {
        match self.state {
            State::Content(..) | State::Chunk(..) | State::Refused(_) => {
                self.policy.limits.data_timeout
            }
            _ => self.policy.limits.command_timeout,
        }
    }

    /// The wait was too long: 421 4.4.2; close after it.
    pub fn timed_out(&mut self, out: &mut Vec<u8>) {
        self.close_with(&Reply::TIMED_OUT, out);
    }

    /// The relay stops: 421 4.3.2 if no transaction is in the middle of its content; whether the
    /// connection may be closed now. If not, the session ends by itself, with 421, after the reply
    /// to the end of data.
    pub fn stopping(&mut self, out: &mut Vec<u8>) -> bool {
        self.stop = true;
        match self.state {
            State::ContentWanted(_) | State::Content(..) | State::Chunk(..) => return false,
            State::Complete(_) => return false,
            State::Closing | State::Handshake | State::Authenticating => {}
            State::Greeting => _ = self.close_with(&Reply::STOPPING_AT_GREETING, out),
            State::Commands | State::Challenged | State::Skipping(_) | State::Refused(_) => {
                _ = self.close_with(&Reply::STOPPING, out)
            }
        }
        true
    }

    fn close_with(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Step {
        reply.write(out);
        self.state = State::Closing;
        Step::Close
    }

    fn is_extended(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.extended)
    }
}

fn is_ascii(envelope: &Envelope) -> bool {
    let is_plain = |recipient: &Recipient| {
        recipient.address.as_str().is_ascii()
            && recipient.original.as_ref().is_none_or(|original| original.is_ascii())
    };
    envelope.reverse_path.as_ref().is_none_or(|path| path.as_str().is_ascii())
        && envelope.recipients.iter().all(is_plain)
}

/// The trace field names a recipient only when there is no other: each must not learn of the
/// others (RFC 5321 7.2).
fn sole_recipient(envelope: &Envelope) -> Option<&Address> {
    match envelope.recipients.as_slice() {
        [only] => Some(&only.address),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
