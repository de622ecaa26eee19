//! The receiving side of SMTP (RFC 5321) as a state machine. *Pure.*
//!
//! Bytes of one client go in as they come, in pieces of any size; replies come out into a buffer,
//! and [`Step`]s say what the caller must do or decide. A piece cut elsewhere gives the same
//! replies and the same content. No sockets, no policy tables, no disk, no clock: whether a sender
//! or a recipient is allowed is a step that the caller answers, at once or later; content is the
//! caller's business, and the time is given where it is needed.
//!
//! ```text
//! greet -> receive ... Mail -> accept_mail | decline_mail
//!             ^        Recipient -> accept_recipient | decline_recipient
//!             |        Auth -> challenge | authenticated | not_authenticated
//!             |        ContentWanted -> begin_content | decline
//!             |        Content, Content, Complete -> stored | decline
//!             +------------------------------------------------+
//! ```
//!
//! `G` is what the caller grants to a transaction at MAIL: a reservation, for example. It belongs
//! to the transaction: dropped when that is abandoned, handed over with it in [`Step::Complete`].

mod authentication;
mod chunks;
mod commands;
mod offer;
mod recipients;
mod step;

pub use authentication::{AuthInput, Authentication};
pub use step::{
    Etrn, MailRequest, Progress, RecipientRequest, Rejection, Stage, Step, Transaction,
};

use crate::config;
use crate::message::{Envelope, QueueId, Recipient, Timestamp};
use crate::sasl::Channels;
use crate::smtp::{
    self, Bare, ContentLimits, ContentScanner, Defect, END_LENGTH, Framing, Line, Reply, Scanned,
    Skipped, Verb,
};
use chunks::{Chunk, DiscardedChunk};
use recipients::Duplicates;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Replies that may wait in `out`, in bytes, before `receive` stops and lets the caller send them.
/// A pipelining client gets a reply to each command: without a stop a buffer of short commands
/// would become a far larger buffer of replies.
const OUT_BYTES_MAX: usize = 16 * 1024;

/// An overlong command line is discarded up to this many bytes. At a longer one, which is no mere
/// mistake of a client, the session ends.
const SKIPPED_BYTES_MAX: usize = 64 * 1024;

/// What holds for all sessions of a listener.
pub struct Policy {
    /// The name that the relay gives itself.
    pub host_name: Arc<str>,
    /// The configured limits.
    pub limits: config::Session,
}

/// The client, as the caller knows it.
pub struct Client {
    /// Address and port of the peer.
    pub address: SocketAddr,
    /// Is in a relay network: may send to any domain.
    pub may_relay: bool,
    /// STARTTLS can be offered.
    pub starttls: bool,
    /// No mail without TLS.
    pub tls_demanded: bool,
    /// May use MT-PRIORITY, FUTURERELEASE and DELIVERBY.
    pub scheduling: bool,
    /// May use XCLIENT.
    pub xclient: bool,
    /// TLS, if it is there from the first byte.
    pub protection: Option<Protection>,
    /// How it may authenticate.
    pub authentication: Authentication,
}

/// The TLS of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// As IANA names it: `TLS_AES_256_GCM_SHA384`.
    pub cipher: Box<str>,
    /// The channel bindings that AUTH may use.
    pub channels: Channels,
    /// SHA-256 of the client's certificate.
    pub client_fingerprint: Option<[u8; 32]>,
    /// The names in it, if a trusted CA signed it.
    pub client_names: Vec<Box<str>>,
}

/// One client's session, from the greeting to the close.
pub struct Session<G = ()> {
    policy: Rc<Policy>,
    client: Client,
    hello: Option<Hello>,
    state: State<G>,
    /// The authenticated user.
    user: Option<Box<str>>,
    /// The open transaction, except while its content arrives: then `state` has it.
    transaction: Option<Open<G>>,
    /// Refused commands since the session began or last had a message accepted.
    refused: u32,
    /// Commands that move no mail, since then.
    junk: u32,
    /// Complete command lines so far.
    commands: u64,
    /// Transactions begun.
    mails: u32,
    /// The time, as last given.
    now: Timestamp,
    /// The relay is shutting down: close when the content at hand is done.
    stop: bool,
}

/// How the client introduced itself.
struct Hello {
    name: Box<str>,
    /// With EHLO.
    extended: bool,
}

/// A transaction that MAIL has opened.
struct Open<G> {
    /// Envelope and options.
    mail: Box<MailRequest>,
    /// What the caller granted at MAIL.
    grant: G,
    /// The recipients so far, to find duplicates.
    recipients: Duplicates,
    /// Between BDAT commands: of the content so far.
    chunks: Option<ContentScanner>,
}

/// Content that is arriving, and its transaction.
struct Incoming<G> {
    open: Open<G>,
    scanner: ContentScanner,
    content: Content,
}

/// What the caller does with content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Keeps it.
    Kept,
    /// Has discarded it (`Step::ContentVoid`): it is only scanned to its end.
    Void,
}

enum State<G> {
    /// `greet` was not called yet.
    Greeting,
    /// Waiting for a command.
    Commands,
    /// Discarding a command line that is too long; so many bytes of it are gone.
    Skipping(usize),
    /// STARTTLS was accepted; the caller does the handshake.
    Handshake,
    /// Waiting for the answer to a challenge of AUTH.
    Challenged,
    /// The caller decides about a message of AUTH.
    Authenticating,
    /// The caller decides about MAIL, RCPT, ETRN or XCLIENT.
    Asked,
    /// DATA is in order, or the first BDAT; the caller decides.
    ContentWanted(Open<G>, Option<Chunk>),
    /// Between 354 and the end of data.
    Content(Incoming<G>),
    /// In a chunk.
    Chunk(Chunk, Incoming<G>),
    /// In a chunk that is discarded.
    Discarding(DiscardedChunk),
    /// The caller has the transaction and makes it durable.
    Storing,
    /// All input is discarded.
    Closing,
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A command, or an answer to a challenge of AUTH.
    Command,
    /// Content.
    Content,
}

impl<G> Session<G> {
    /// A session with a client that has just connected. Call `greet` next.
    pub fn new(policy: Rc<Policy>, client: Client) -> Session<G> {
        Session {
            policy,
            client,
            hello: None,
            state: State::Greeting,
            user: None,
            transaction: None,
            refused: 0,
            junk: 0,
            commands: 0,
            mails: 0,
            now: Timestamp::default(),
            stop: false,
        }
    }

    /// The greeting. `early` is what the client had sent before it, if anything (TLS hello, HTTP).
    ///
    /// After a 554 greeting a server waits for QUIT (RFC 5321 3.1). That is for clients that
    /// speak SMTP; one that does not wait for the greeting would not read it either, and gets
    /// [`Step::Close`].
    pub fn greet(&mut self, early: &[u8], out: &mut Vec<u8>) -> Step<G> {
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

    /// Answers [`Step::ClientOverride`]: from now on the client is another one, and begins from the
    /// greeting.
    pub fn override_client(&mut self, address: SocketAddr, may_relay: bool, out: &mut Vec<u8>) {
        self.user = None;
        self.client.address = address;
        self.client.may_relay = may_relay;
        self.hello = None;
        self.transaction = None;
        self.resume();
        self.write_greeting(out);
    }

    /// The caller has answered: on with the next command, unless the session is over.
    fn resume(&mut self) {
        if !matches!(self.state, State::Closing) {
            self.state = State::Commands;
        }
    }

    /// Address and port of the client.
    pub fn client_address(&self) -> SocketAddr {
        self.client.address
    }

    /// Sets the time: to be called before input is given.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// Takes input that came from the client, from the first byte that was not consumed yet.
    ///
    /// While the session waits for an answer of the caller nothing is consumed: leave the client's
    /// bytes where they are.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress<G> {
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
                State::Discarding(_) => self.receive_discarded(rest),
                State::ContentWanted(..) | State::Storing | State::Asked => (0, Step::More),
                State::Handshake | State::Authenticating => (0, Step::More),
                State::Closing => (rest.len(), Step::Close),
            };
            let step = match step {
                Step::Content(range) => Step::Content(range.start + consumed..range.end + consumed),
                step => step,
            };
            consumed += used;
            if used == 0 || alone || !matches!(step, Step::More) || out.len() > out_full {
                return Progress { consumed, step };
            }
        }
    }

    fn receive_command(&mut self, rest: &[u8], out: &mut Vec<u8>) -> (usize, Step<G>) {
        // Of TLS and HTTP: both are known before their first line has ended, if it ever does.
        if smtp::is_tls(rest) {
            return (rest.len(), self.close_with(&Reply::TLS, out));
        }
        if smtp::is_http(rest) {
            return (rest.len(), self.close_with(&Reply::HTTP, out));
        }
        match smtp::scan(rest, self.line_max(rest)) {
            Line::Complete(line) => {
                self.commands += 1;
                let step = match self.state {
                    State::Challenged => self.auth_answer(line, out),
                    _ => self.command(line, out),
                };
                (line.len() + 2, step)
            }
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
    ) -> (usize, Step<G>) {
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
                self.commands += 1;
                (length, self.refuse(Stage::UnknownCommand, Reply::LINE_TOO_LONG, out))
            }
            Skipped::Bare(bare) => (rest.len(), self.out_of_step(bare, out)),
        }
    }

    /// A lone CR or LF: where the client thinks that its next command begins cannot be known, and
    /// guessing is what command injection lives on.
    fn out_of_step(&mut self, bare: Bare, out: &mut Vec<u8>) -> Step<G> {
        let reply = match bare {
            Bare::Cr => Reply::BARE_CR,
            Bare::Lf => Reply::BARE_LF,
        };
        self.close_with(&reply, out)
    }

    fn receive_content(&mut self, rest: &[u8], out: &mut Vec<u8>) -> (usize, Step<G>) {
        let State::Content(Incoming { scanner, content, .. }) = &mut self.state else {
            return (0, Step::More);
        };
        match scanner.scan(rest) {
            Scanned::Short | Scanned::Stuffing => (0, Step::More),
            Scanned::Content(length) if *content == Content::Void => (length, Step::More),
            Scanned::Content(length) if scanner.defect().is_some() => {
                *content = Content::Void;
                (length, Step::ContentVoid)
            }
            Scanned::Content(length) => (length, Step::Content(0..length)),
            Scanned::End => (END_LENGTH, self.end_of_content(out)),
        }
    }

    fn end_of_content(&mut self, out: &mut Vec<u8>) -> Step<G> {
        match std::mem::replace(&mut self.state, State::Commands) {
            State::Content(incoming) => match incoming.scanner.defect() {
                Some(defect) => self.refuse_content(incoming.open, defect, out),
                None => self.complete(incoming),
            },
            state => {
                self.state = state;
                Step::More
            }
        }
    }

    /// The content is whole: the transaction leaves the session.
    fn complete(&mut self, incoming: Incoming<G>) -> Step<G> {
        let Incoming { open, scanner, .. } = incoming;
        let protocol = self.protocol_of(Some(&open));
        let MailRequest { envelope, mut options } = *open.mail;
        // A client that always asks for it must not have plain mail refused by hops without it.
        options.smtp_utf8 &= scanner.eight_bit_header() || !is_ascii(&envelope);
        self.state = State::Storing;
        Step::Complete(Box::new(Transaction {
            envelope,
            options,
            content_bytes: scanner.bytes(),
            flags: scanner.flags(),
            protocol,
            grant: open.grant,
        }))
    }

    fn refuse_content(&mut self, open: Open<G>, defect: Defect, out: &mut Vec<u8>) -> Step<G> {
        let reply = match defect {
            Defect::TooLarge => Reply::too_large(self.policy.limits.message_bytes_max),
            Defect::BareLf => Reply::CONTENT_BARE_LF,
            Defect::BareCr => Reply::CONTENT_BARE_CR,
            Defect::Nul => Reply::CONTENT_NUL,
            Defect::TooManyHops => Reply::TOO_MANY_HOPS,
            Defect::LineTooLong => Reply::CONTENT_LINE_TOO_LONG,
        };
        self.reject(Stage::Command(Verb::Data), open.mail.rejected(), reply, out)
    }

    /// Answers [`Step::ContentWanted`]: with 354, or by going on, because the chunk is there.
    pub fn begin_content(&mut self, out: &mut Vec<u8>) {
        match std::mem::replace(&mut self.state, State::Commands) {
            State::ContentWanted(open, Some(chunk)) => self.begin_chunks(open, chunk),
            State::ContentWanted(open, None) => {
                let scanner = ContentScanner::new(self.content_limits(), Framing::Dots);
                self.state = State::Content(Incoming { open, scanner, content: Content::Kept });
                Reply::SEND_CONTENT.write(out);
            }
            state => self.state = state,
        }
    }

    /// The transaction that is open, wherever it is.
    fn open(&self) -> Option<&Open<G>> {
        match &self.state {
            State::ContentWanted(open, _) => Some(open),
            State::Content(incoming) | State::Chunk(_, incoming) => Some(&incoming.open),
            _ => self.transaction.as_ref(),
        }
    }

    /// What the caller granted to the transaction that is open.
    pub fn grant(&mut self) -> Option<&mut G> {
        self.transaction.as_mut().map(|open| &mut open.grant)
    }

    fn content_limits(&self) -> ContentLimits {
        let limits = &self.policy.limits;
        ContentLimits {
            bytes_max: limits.message_bytes_max,
            line_max: limits.text_line_max,
            received_max: limits.received_max,
        }
    }

    /// Answers [`Step::Etrn`] (RFC 1985 5.3).
    pub fn answer_etrn(&mut self, found: Etrn, out: &mut Vec<u8>) {
        let reply = match found {
            Etrn::Started => Reply::ETRN_STARTED,
            Etrn::NothingQueued => Reply::ETRN_NOTHING_QUEUED,
            Etrn::Busy => Reply::ETRN_BUSY,
        };
        self.resume();
        reply.write(out);
    }

    /// What the client called itself; empty before EHLO or HELO.
    pub fn client_name(&self) -> &str {
        self.hello.as_ref().map_or("", |hello| &hello.name)
    }

    /// The protocol of the open transaction: `SMTP`, `ESMTP`, `UTF8SMTPSA` and the like (RFC 3848,
    /// RFC 6531 4.3).
    pub fn protocol(&self) -> &'static str {
        self.protocol_of(self.open())
    }

    fn protocol_of(&self, open: Option<&Open<G>>) -> &'static str {
        let smtp_utf8 = open.is_some_and(|open| open.mail.options.smtp_utf8);
        let has_tls = self.client.protection.is_some();
        let has_user = self.user.is_some();
        match (smtp_utf8, has_tls, has_user) {
            _ if !self.is_extended() => "SMTP",
            (false, false, false) => "ESMTP",
            (false, true, false) => "ESMTPS",
            (false, false, true) => "ESMTPA",
            (false, true, true) => "ESMTPSA",
            (true, false, false) => "UTF8SMTP",
            (true, true, false) => "UTF8SMTPS",
            (true, false, true) => "UTF8SMTPA",
            (true, true, true) => "UTF8SMTPSA",
        }
    }

    /// The TLS of the connection.
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

    /// Answers [`Step::Complete`]: the message is durable, 250 with its id.
    pub fn stored(&mut self, id: QueueId, out: &mut Vec<u8>) {
        self.resume();
        // The limits are there for clients that try and try; one whose mail is accepted may have a
        // bad address in every mailing, for as long as it stays connected.
        self.refused = 0;
        self.junk = 0;
        let text = format!("queued as {id}");
        Reply { text: text.into(), ..Reply::OK }.write(out);
    }

    /// Answers [`Step::ContentWanted`] or [`Step::Complete`] with a refusal (452 4.3.1, 451 4.3.0
    /// ...). With 421 the session ends. Refused at DATA, the transaction stays open and DATA may
    /// come again; refused at the end of data, or at a chunk, it is over (RFC 5321 4.1.1.4).
    pub fn decline(&mut self, reply: Reply, out: &mut Vec<u8>) {
        let ends = reply.code == 421;
        match std::mem::replace(&mut self.state, State::Commands) {
            State::ContentWanted(_, Some(chunk)) if !ends => {
                return self.decline_chunk(chunk, reply);
            }
            State::ContentWanted(open, _) => self.transaction = Some(open),
            State::Closing => self.state = State::Closing,
            _ => {}
        }
        reply.write(out);
        if ends {
            self.state = State::Closing;
        }
    }

    /// What the session waits for now.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Content(..) | State::Chunk(..) | State::Discarding(_) => Phase::Content,
            _ => Phase::Command,
        }
    }

    /// Complete command lines so far: a client that sends one byte at a time does not get on.
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// The client was too slow, as `reply` (421) says; close after it.
    pub fn timed_out(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.close_with(reply, out);
    }

    /// The relay is shutting down: 421 4.3.2 if no content is arriving; whether the
    /// connection may be closed now. If not, the session ends by itself, with 421, after the reply
    /// to the end of data.
    pub fn stopping(&mut self, out: &mut Vec<u8>) -> bool {
        self.stop = true;
        match self.state {
            State::ContentWanted(..) | State::Content(..) | State::Chunk(..) => return false,
            State::Storing => return false,
            State::Closing | State::Handshake | State::Authenticating | State::Asked => {}
            State::Greeting => _ = self.close_with(&Reply::STOPPING_AT_GREETING, out),
            State::Commands | State::Challenged | State::Skipping(_) | State::Discarding(_) => {
                _ = self.close_with(&Reply::STOPPING, out)
            }
        }
        true
    }

    fn close_with(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Step<G> {
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

#[cfg(test)]
mod tests;
