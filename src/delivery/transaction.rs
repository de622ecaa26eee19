//! One message on one connection: which command goes out next, which reply is awaited, and what
//! the replies make of each recipient. It knows nothing of greetings and of what closes a line.

use super::capabilities::Capabilities;
use super::scope::{Event, Point, Scope, Usage, scope_of};
use super::{Converted, Mail, Protocol, RecipientOutcome, parameters};
use crate::message::{Body, Outcome, Reason, Stage, Status};
use crate::smtp::Response;
use std::io::Write;

/// Commands sent ahead of their replies, at most. Enough for an ordinary transaction in one write;
/// and so few that the replies (512 bytes each) fit the buffers between two hosts while we still
/// write and do not read (RFC 2920 3.1 on deadlock).
pub(super) const PIPELINE_COMMANDS_MAX: usize = 128;

/// What a reply answers, in the order in which the commands go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// RSET, to clear what an earlier transaction left behind, before MAIL.
    Reset,
    /// RSET in the place of a transaction that was refused here.
    ResetOnly,
    /// MAIL.
    Mail,
    /// RCPT for the recipient at this place in [`Mail::recipients`].
    Recipient(usize),
    /// DATA.
    Data,
    /// Nothing: 354 came, and content is on its way.
    Content,
    /// The final dot, or the last chunk.
    EndOfData,
    /// The final dot, for the recipient at this place (RFC 2033 4.2).
    EndOfDataFor(usize),
    /// The final dot of an empty message without recipients: 354 came though none was accepted.
    EmptyEnd,
}

impl Command {
    pub(super) fn stage(self) -> Stage {
        match self {
            Command::Reset | Command::ResetOnly | Command::Mail => Stage::Mail,
            Command::Recipient(_) => Stage::Recipient,
            Command::Data => Stage::Data,
            Command::Content => Stage::Content,
            Command::EndOfData | Command::EndOfDataFor(_) | Command::EmptyEnd => Stage::EndOfData,
        }
    }

    fn point(self) -> Point {
        match self {
            Command::Reset | Command::ResetOnly => Point::Reset,
            Command::Mail => Point::Mail,
            Command::Recipient(_) => Point::Recipient,
            Command::Data => Point::Data,
            Command::Content => Point::Content,
            Command::EndOfData | Command::EmptyEnd => Point::EndOfData,
            Command::EndOfDataFor(_) => Point::EndOfDataEach,
        }
    }
}

/// What is known of one recipient.
#[derive(Debug)]
enum RecipientState {
    /// No reply that concerns it has come.
    Waiting,
    /// 2xx to its RCPT.
    Accepted,
    /// Too many recipients for one transaction: the next one may take it.
    Again(Reason),
    /// Beyond the server's RCPTMAX: not offered.
    Beyond,
    Ended(Outcome, Scope),
}

/// What a reply means for the transaction.
#[derive(Debug)]
pub(super) enum Progression {
    /// More replies are awaited.
    Continue,
    /// The server waits for content for at least one recipient.
    SendContent,
    /// Every recipient has its outcome.
    Finished {
        /// The connection cannot be used any more.
        close: bool,
    },
    /// A reply that cannot be one to the command.
    Violation(&'static str),
}

#[derive(Debug)]
pub(super) struct Transaction {
    mail: Mail,
    statuses: Vec<RecipientState>,
    /// The next command to send; `None` when DATA is out or further commands are pointless.
    next: Option<Command>,
    /// What the next reply answers.
    awaited: Command,
    /// Replies that have not come to commands that are out.
    outstanding: usize,
    window: usize,
    /// So many of the recipients are offered in this transaction.
    offered: usize,
    protocol: Protocol,
    /// Content goes by BDAT.
    chunked: bool,
    /// And goes out with the envelope, before any reply.
    pipelined_content: bool,
    /// The server did not understand that.
    chunk_refused: bool,
    /// The server did not understand AUTH= of MAIL.
    submitter_refused: bool,
    mail_accepted: bool,
    mail_refused: bool,
    accepted: usize,
    /// The server forgets the envelope: 354 came, after which it does so at the end of data
    /// whatever it says then, or a last chunk was taken.
    data_begun: bool,
    /// The accepted recipients were deferred together: no sense in sending on at once.
    deferred: bool,
    usage: Usage,
    /// Replies that have come.
    answered: usize,
    /// 421 to a recipient: the server closes the connection, now or when it has answered what it
    /// can.
    closing: Option<Reason>,
}

impl Transaction {
    /// A transaction of which nothing has been sent. `reset` sends RSET first.
    pub(super) fn new(
        mail: Mail,
        protocol: Protocol,
        reset: bool,
        capabilities: &Capabilities,
        usage: Usage,
    ) -> Transaction {
        let first = if reset { Command::Reset } else { Command::Mail };
        let all = mail.recipients.len();
        let offered = capabilities.recipients_max.map_or(all, |max| all.min(max as usize));
        let state =
            |place| if place < offered { RecipientState::Waiting } else { RecipientState::Beyond };
        let statuses = (0..all).map(state).collect();
        let window = if capabilities.pipelining { PIPELINE_COMMANDS_MAX } else { 1 };
        // RSET, MAIL and BDAT beside the recipients.
        let pipelined_content = mail.pipelined_content
            && mail.conversion == Converted::No
            && protocol == Protocol::Smtp
            && capabilities.chunking
            && offered + 3 <= window;
        Transaction {
            offered,
            protocol,
            chunked: pipelined_content || mail.options().body == Body::BinaryMime,
            pipelined_content,
            chunk_refused: false,
            submitter_refused: false,
            mail,
            statuses,
            next: Some(first),
            awaited: first,
            outstanding: 0,
            window,
            mail_accepted: false,
            mail_refused: false,
            accepted: 0,
            data_begun: false,
            deferred: false,
            usage,
            answered: 0,
            closing: None,
        }
    }

    /// A transaction that ends here, with `outcome` for all. RSET is sent all the same: its reply
    /// is what the caller, which waits for one, gets to receive.
    pub(super) fn refused(
        mail: Mail,
        outcome: Outcome,
        scope: Scope,
        out: &mut Vec<u8>,
    ) -> Transaction {
        let nothing = Capabilities::default();
        let mut transaction = Transaction::new(mail, Protocol::Smtp, true, &nothing, Usage::Reused);
        transaction.settle(outcome, scope);
        transaction.next = None;
        transaction.awaited = Command::ResetOnly;
        transaction.outstanding = 1;
        out.extend_from_slice(b"RSET\r\n");
        transaction
    }

    pub(super) fn awaited(&self) -> Command {
        self.awaited
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether content goes by BDAT.
    pub(super) fn is_chunked(&self) -> bool {
        self.chunked
    }

    /// Whether content goes out at once, with the envelope.
    pub(super) fn is_ahead(&self) -> bool {
        self.pipelined_content
    }

    /// The server did not understand the chunk that it was sent with the envelope.
    pub(super) fn is_chunk_refused(&self) -> bool {
        self.chunk_refused
    }

    /// The server did not understand AUTH= of MAIL.
    pub(super) fn is_submitter_refused(&self) -> bool {
        self.submitter_refused
    }

    /// Whether the server still holds an envelope that RSET must clear.
    pub(super) fn leaves_envelope(&self) -> bool {
        self.mail_accepted && !self.data_begun
    }

    /// Writes as many commands as may go out before their replies.
    pub(super) fn send(&mut self, capabilities: &Capabilities, out: &mut Vec<u8>) {
        // Refilling a half-empty window keeps both directions busy without a write per reply.
        if self.outstanding > self.window / 2 {
            return;
        }
        while self.outstanding < self.window {
            let Some(command) = self.next else { return };
            self.write(command, capabilities, out);
            self.outstanding += 1;
            let is_content = |next| matches!(next, Command::Content | Command::EndOfData);
            self.next = self.after(command).filter(|&next| !is_content(next));
        }
    }

    fn after(&self, command: Command) -> Option<Command> {
        let recipient = |place| match (place < self.offered, self.chunked) {
            (true, _) => Command::Recipient(place),
            (false, false) => Command::Data,
            (false, true) if self.pipelined_content => Command::EndOfData,
            (false, true) => Command::Content,
        };
        match command {
            Command::Reset => Some(Command::Mail),
            Command::Mail => Some(recipient(0)),
            Command::Recipient(place) => Some(recipient(place + 1)),
            Command::Data => Some(Command::Content),
            _ => None,
        }
    }

    fn write(&self, command: Command, capabilities: &Capabilities, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = match command {
            Command::Reset | Command::ResetOnly => out.write_all(b"RSET"),
            Command::Mail => parameters::mail(&self.mail, capabilities, out),
            Command::Recipient(place) => {
                let index = self.mail.recipients.get(place);
                match index.and_then(|&index| self.mail.message.recipient(index)) {
                    Some(one) => parameters::rcpt(one, &self.mail, capabilities, out),
                    None => Ok(()),
                }
            }
            Command::Data => out.write_all(b"DATA"),
            Command::Content
            | Command::EndOfData
            | Command::EndOfDataFor(_)
            | Command::EmptyEnd => out.write_all(b"."),
        };
        out.extend_from_slice(b"\r\n");
    }

    /// Takes the reply to the awaited command.
    pub(super) fn answer(
        &mut self,
        response: Response<'_>,
        remote: &str,
        capabilities: &Capabilities,
        out: &mut Vec<u8>,
    ) -> Progression {
        let answered = self.awaited;
        self.outstanding = self.outstanding.saturating_sub(1);
        self.answered += 1;
        let reason = || response.reason(answered.stage(), remote);
        let scope = scope_of(answered.point(), Event::of_code(response.code()), self.usage);
        if response.code() == 421 && !matches!(answered, Command::Recipient(_)) {
            // RFC 5321 3.8: the host is closing, whatever the command was. To RCPT some say it of
            // one recipient, and go on.
            self.settle(Outcome::Deferred(reason()), scope);
            return Progression::Finished { close: true };
        }
        match (answered, response.class()) {
            (Command::ResetOnly, class) => return Progression::Finished { close: class != 2 },
            (Command::EmptyEnd, class) => return Progression::Finished { close: class == 3 },
            (Command::Reset, 2) => {}
            (Command::Reset, _) => {
                self.settle(Outcome::Deferred(reason()), scope);
                return Progression::Finished { close: true };
            }
            (Command::Mail, 2) => self.mail_accepted = true,
            // Some servers have AUTH and do not know AUTH= all the same.
            (Command::Mail, 5)
                if capabilities.logged_in && matches!(response.code(), 500 | 501 | 504 | 555) =>
            {
                self.mail_refused = true;
                self.submitter_refused = true;
                self.settle(Outcome::Deferred(reason()), scope);
            }
            (Command::Mail, 4 | 5) => {
                self.mail_refused = true;
                self.settle(judged(reason()), scope);
            }
            (Command::Recipient(place), 2) => self.recipient_accepted(place),
            (Command::Recipient(place), 4 | 5) => {
                self.recipient_refused(place, response, reason());
            }
            (Command::Data, 3) => return self.data(out),
            (Command::Data, 4 | 5) => return self.end(judged(reason()), scope, false),
            (Command::Content, 4 | 5) => return self.end(judged(reason()), scope, true),
            (Command::EndOfDataFor(place), 2) => {
                return self.end_one(place, Outcome::Delivered(reason()));
            }
            (Command::EndOfDataFor(place), 4 | 5) => return self.end_one(place, judged(reason())),
            // Whatever the server makes of a message without recipients.
            (Command::EndOfData, class) if self.accepted == 0 => {
                return Progression::Finished { close: class == 3 };
            }
            (Command::EndOfData, 2) => {
                self.data_begun = true;
                return self.end(Outcome::Delivered(reason()), scope, false);
            }
            // RFC 5321 4.2.2: not about the message. It may be tried by DATA.
            (Command::EndOfData, 5) if self.pipelined_content && response.code() <= 504 => {
                self.chunk_refused = true;
                return self.end(Outcome::Deferred(reason()), scope, false);
            }
            (Command::EndOfData, 4 | 5) => return self.end(judged(reason()), scope, false),
            (Command::Content, _) => return Progression::Violation("a reply before the final dot"),
            (_, 3) => return Progression::Violation("a 3xx reply to a command that asks for none"),
            (_, _) => return Progression::Violation("a 2xx reply to DATA"),
        }
        self.awaited = self.after(answered).unwrap_or(Command::Content);
        self.go_on(capabilities, out)
    }

    /// Sends what may now be sent, or ends a transaction in which nothing is left to say.
    fn go_on(&mut self, capabilities: &Capabilities, out: &mut Vec<u8>) -> Progression {
        let offered = matches!(self.awaited, Command::Data | Command::Content);
        if self.mail_refused || (offered && self.accepted == 0) {
            self.next = None;
        } else if self.awaited == Command::Content && self.outstanding == 0 {
            return Progression::SendContent;
        }
        self.send(capabilities, out);
        if self.outstanding == 0 {
            Progression::Finished { close: false }
        } else {
            Progression::Continue
        }
    }

    fn recipient_accepted(&mut self, place: usize) {
        if let Some(state @ RecipientState::Waiting) = self.statuses.get_mut(place) {
            *state = RecipientState::Accepted;
            self.accepted += 1;
        }
    }

    fn recipient_refused(&mut self, place: usize, response: Response<'_>, mut reason: Reason) {
        let Some(state @ RecipientState::Waiting) = self.statuses.get_mut(place) else {
            return; // MAIL was refused: what the server says now is about its order of commands.
        };
        let code = response.code();
        if code == 421 {
            self.closing.get_or_insert_with(|| reason.clone());
        }
        let too_many = match response.status() {
            _ if code == 421 => false,
            None => matches!(code, 452 | 552),
            Some(status) => (status.1, status.2) == (5, 3) && (code < 500 || code == 552),
        };
        if too_many && code == 552 {
            // The code is the server's, the status is what it means (RFC 5321 4.5.3.1.10).
            reason.status = Status(4, 5, 3);
        }
        *state = match too_many {
            true if self.accepted > 0 => RecipientState::Again(reason),
            true => RecipientState::Ended(Outcome::Deferred(reason), Scope::Recipient),
            false => RecipientState::Ended(judged(reason), Scope::Recipient),
        };
    }

    fn data(&mut self, out: &mut Vec<u8>) -> Progression {
        self.data_begun = true;
        if self.accepted > 0 {
            self.awaited = Command::Content;
            return Progression::SendContent;
        }
        if self.protocol == Protocol::Lmtp {
            // RFC 2033 4.2 demands 503 here; there would be no reply to a dot.
            return Progression::Violation("354 though no recipient was accepted");
        }
        // RFC 2920 3.1: the server wants a message although no recipient is left. It gets an empty
        // one, and what it says to that concerns no recipient.
        out.extend_from_slice(b".\r\n");
        self.awaited = Command::EmptyEnd;
        self.outstanding = 1;
        Progression::Continue
    }

    /// Content goes out as one chunk of `length` bytes (RFC 3030 2).
    pub(super) fn chunk(&mut self, length: u64, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "BDAT {length} LAST\r\n");
        self.outstanding += 1;
    }

    /// The final dot goes out, unless all was in the chunk.
    pub(super) fn content_sent(&mut self, out: &mut Vec<u8>) {
        if self.pipelined_content {
            return;
        }
        if !self.chunked {
            out.extend_from_slice(b".\r\n");
        }
        (self.awaited, self.outstanding) = match (self.protocol, self.next_accepted(0)) {
            (Protocol::Lmtp, Some(first)) => (Command::EndOfDataFor(first), self.accepted),
            _ => (Command::EndOfData, 1),
        };
    }

    /// The place of the first accepted recipient from `place` on.
    fn next_accepted(&self, place: usize) -> Option<usize> {
        let rest = self.statuses.get(place..)?;
        let next = rest.iter().position(|state| matches!(state, RecipientState::Accepted))?;
        Some(place + next)
    }

    /// One of the replies to the final dot (RFC 2033 4.2).
    fn end_one(&mut self, place: usize, outcome: Outcome) -> Progression {
        if let Some(state) = self.statuses.get_mut(place) {
            *state = RecipientState::Ended(outcome, Scope::Recipient);
        }
        match self.next_accepted(place + 1) {
            Some(next) => {
                self.awaited = Command::EndOfDataFor(next);
                Progression::Continue
            }
            None => Progression::Finished { close: false },
        }
    }

    /// `outcome` for all that were accepted. Recipients refused by RCPT keep their replies: the
    /// "no valid recipients" that then answers DATA says less.
    fn end(&mut self, outcome: Outcome, scope: Scope, close: bool) -> Progression {
        self.deferred = matches!(outcome, Outcome::Deferred(_));
        // Those that were not offered yet have the next transaction, unless there is to be none.
        let concerned = if self.deferred { self.statuses.len() } else { self.offered };
        self.settle_first(concerned, &outcome, scope);
        Progression::Finished { close }
    }

    /// The server has said 421 to a recipient.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Some of the commands that were sent together were answered, and others were not.
    pub(super) fn pipelining_failed(&self) -> bool {
        self.window > 1
            && self.answered > 0
            && self.outstanding > 1
            && self.closing.is_none()
            && matches!(self.awaited, Command::Recipient(_) | Command::Data)
    }

    /// Nothing more can be learned on this connection, for this reason of ours: settles what is
    /// open.
    pub(super) fn broken(&mut self, reason: Reason, event: Event) {
        let scope = scope_of(self.awaited.point(), event, self.usage);
        match self.closing.clone() {
            // It said that it would close. The other recipients may do better without the one
            // that it said so to.
            Some(said) if scope != Scope::Message => {
                self.settle(Outcome::Deferred(said), Scope::Connection);
            }
            _ if self.pipelining_failed() => {
                self.settle(Outcome::Deferred(reason), Scope::Connection);
            }
            _ => self.settle(Outcome::Deferred(reason), scope),
        }
    }

    /// Gives `outcome` to all recipients that have none.
    pub(super) fn settle(&mut self, outcome: Outcome, scope: Scope) {
        self.settle_first(self.statuses.len(), &outcome, scope);
    }

    fn settle_first(&mut self, count: usize, outcome: &Outcome, scope: Scope) {
        for state in self.statuses.iter_mut().take(count) {
            if matches!(
                state,
                RecipientState::Waiting | RecipientState::Accepted | RecipientState::Beyond
            ) {
                *state = RecipientState::Ended(outcome.clone(), scope);
            }
        }
    }

    /// Hands over the outcomes: every recipient in exactly one of the two lists. After `close`, or
    /// when the others were deferred, none is to be sent again at once: those that would have been
    /// are deferred by their own reply.
    pub(super) fn into_outcomes(self, close: bool) -> (Vec<RecipientOutcome>, Vec<u32>) {
        let at_once = !close && !self.deferred;
        let mut outcomes = Vec::with_capacity(self.statuses.len());
        let mut again = Vec::new();
        for (index, state) in self.mail.recipients.into_iter().zip(self.statuses) {
            let (outcome, scope) = match state {
                RecipientState::Ended(outcome, scope) => (outcome, scope),
                RecipientState::Again(_) | RecipientState::Beyond if at_once => {
                    again.push(index);
                    continue;
                }
                RecipientState::Again(reason) => (Outcome::Deferred(reason), Scope::Recipient),
                // Only those not offered come here, when the connection ends after the others; and
                // if there were another path, the recipient must not be lost.
                RecipientState::Waiting | RecipientState::Accepted | RecipientState::Beyond => {
                    let text = "the transaction ended without a reply for this recipient";
                    let reason = Reason::ours(Stage::Local, Status(4, 3, 0), text);
                    (Outcome::Deferred(reason), Scope::Connection)
                }
            };
            outcomes.push(RecipientOutcome { index, outcome, scope });
        }
        (outcomes, again)
    }
}

/// A 4xx defers, a 5xx refuses.
fn judged(reason: Reason) -> Outcome {
    if reason.code >= 500 { Outcome::Refused(reason) } else { Outcome::Deferred(reason) }
}
