//! The sending side of SMTP (RFC 5321) as a state machine. *Pure.*
//!
//! Bytes from a server go in; bytes for it and a [`Step`] come out. The result of a transaction is
//! an [`Outcome`] per recipient, not an error. It never sees content: the caller sends that between
//! [`Step::SendContent`] and [`Conversation::content_sent`]. It must not know sockets, clocks, how
//! many hosts a site has, or when to try again.
//!
//! # When the connection is lost
//!
//! [`Conversation::lost`] is this table. A recipient that RCPT refused keeps that outcome in every
//! row; "all" are the others. One that was answered "too many recipients" keeps that reply,
//! deferred.
//!
//! | lost | stage | status | meaning |
//! | --- | --- | --- | --- |
//! | before the greeting | greeting | 4.4.2 | for the host; no recipients |
//! | before the reply to EHLO, HELO | hello | 4.4.2 | for the host; no recipients |
//! | between messages, in QUIT | hello | 4.4.2 | for the host; no recipients |
//! | content ahead, before any reply | as below | 4.4.2 | all deferred, and the text says that it may have been delivered |
//! | before the reply to RSET, MAIL | mail | 4.4.2 | all deferred |
//! | before the reply to RCPT | rcpt | 4.4.2 | all deferred, the accepted too |
//! | before the reply to DATA | data | 4.4.2 | all deferred |
//! | while content is sent | content | 4.4.2 | all deferred: without the final dot the server must drop it (RFC 5321 4.1.1.10) |
//! | content unreadable here | local | 4.3.0 | all deferred; the same holds |
//! | after the final dot | end-of-data | 4.4.2 | all deferred, and the text says that it may have been delivered: only another attempt is sure to lose nothing (RFC 1047, RFC 5321 6.1) |
//! | after the dot of an empty message | end-of-data | 4.4.2 | all have outcomes already |
//!
//! Where commands are pipelined the step is that of the first missing reply. "Deferred" is the
//! outcome at this host: [`Scope`] says whether another one is tried in the same attempt.
//!
//! # Decisions
//!
//! *A host that greets with 5xx, or refuses both EHLO and HELO*, is `Unusable(Deferred)`, never
//! `Refused`. RFC 5321 3.1 lets a client treat 554 as final, but a greeting speaks of this host and
//! our address, not of the recipient: another host of the site may take the mail, a block list
//! entry is lifted within the days that mail waits here, and whether the other hosts were merely
//! down cannot be known here. Postfix does the same (`smtp_skip_5xx_greeting`). The reason keeps
//! the server's own code.
//!
//! *What is tried next* after a failure stands in [`scope`](Scope): which host, over which
//! connection, for which recipients.
//!
//! *421 at any point* ends the transaction and the connection (RFC 5321 3.8), except to RCPT: some
//! servers say it of one recipient and go on, so the others are sent as far as the server lets
//! them. If it closes the connection, they are tried at once over a new one.
//!
//! *Too many recipients.* 452 to RCPT, 552 in its place (RFC 5321 4.5.3.1.10) and any 4xx with
//! status x.5.3 put the recipient in `again` when others were accepted before it, and defer it
//! otherwise. A server that gives another status has said what it means: 452 4.2.2 is a full
//! mailbox and deferred, 552 5.2.2 is refused. After a transaction that was deferred or closed as a
//! whole no recipient is sent again at once. Each further transaction is smaller, so this ends.
//!
//! *RSET* goes in front of the next MAIL, in the same write when the server pipelines, when a
//! transaction ended before 354. A connection that is not used again is spared it.
//!
//! *8-bit content and a host without 8BITMIME* is refused with 5.6.3 (RFC 6152 3), or made
//! 7-bit, or sent as it is, as the operator says. Converting breaks signatures over the whole
//! message (DKIM), so it is not the default. Sending works often: hosts that lack the keyword pass
//! eight bits in practice, and Exim sends this way. `BODY=` is then left out. What was only
//! declared to be 8-bit, and is not, goes anywhere. Mail with the null reverse-path (a report) is
//! converted even where other mail comes back: it has no sender to tell.
//!
//! *BINARYMIME* may hold bare CR and LF: it goes out by BDAT (RFC 3030) to a host with BINARYMIME
//! and CHUNKING, as one chunk, and is refused with 5.6.3 elsewhere.
//!
//! *Content ahead.* Where PIPELINING and CHUNKING are offered and the caller has all content at
//! hand ([`Mail::pipelined_content`]), it goes by BDAT in the same write as the envelope: one round
//! trip for a message in place of two. If all recipients are refused the content was sent for
//! nothing, so the caller does that with small messages only. 500 to 504 to BDAT says nothing about
//! the message: the host lacks what it offers, and DATA is tried at once on the same connection
//! ([`Conversation::retry_without_extension`]). After anything but 2xx to BDAT comes RSET.
//!
//! *SMTPUTF8 mail and a host without it* is refused with 5.6.7 (RFC 6531 3.2), and *mail above a
//! host's SIZE* with 5.3.4 (RFC 1870 6.1), without being offered. The caller waits for a reply
//! after [`Conversation::begin`], so RSET is sent in such a transaction's place.
//!
//! *DSN* (RFC 3461 5.2): RET, ENVID, NOTIFY and ORCPT are passed on where they are offered. Who
//! reports otherwise is the caller's business.
//!
//! *MT-PRIORITY* (RFC 6710 4.2) goes on where it is offered, as it was granted here.
//!
//! *DELIVERBY* (RFC 2852 4.1.4): BY goes on where it is offered, with the time that is left. With
//! mode R a host that does not offer it, or not for so short a time, gets nothing of the message:
//! 5.4.7. Over LMTP it is delivered there and then, and needs no promise. With mode N a host
//! without it that has DSN is asked for DELAY instead.
//!
//! *REQUIRETLS* (RFC 8689 4.2.1): a host that does not offer it, or whose name is not verified,
//! gets nothing of such a message: 5.7.30. The caller looks for a host that will do. Reports (`<>`)
//! go all the same (RFC 8689 5).
//!
//! *LIMITS* (RFC 9422): recipients beyond RCPTMAX are not offered and stand in `again`. MAILMAX is
//! for the caller to keep.
//!
//! *LMTP* (RFC 2033): LHLO, and a reply to the final dot for each accepted recipient. Those
//! answered for are settled when the connection is lost between two; the others are deferred.
//!
//! *STARTTLS* (RFC 3207) is said after the first EHLO, as [`StartTls`] has it. Everything that was
//! learned before the handshake is forgotten and asked again. Bytes behind the 220 are dropped
//! (RFC 3207 4.2; CVE-2021-38371). What it means that a handshake fails is the caller's business.
//!
//! *AUTH* (RFC 4954) is used at hosts for which there are credentials, after EHLO under TLS:
//! SCRAM-SHA-256, else PLAIN, else LOGIN. A host that offers none, or does not accept the password,
//! or would have it in the clear, gets no mail: it is deferred, because an operator can mend that.
//! With SCRAM a host must prove that it knows the password, too. An exchange that cannot go on is
//! cancelled with `*` before QUIT. MAIL has AUTH=<> then (RFC 4954 5); where a host answers that
//! with 500, 501, 504 or 555, the mail is tried at once without, on the same connection.
//!
//! *Something that is no reply*, a reply of a class that the command cannot have, or one reply too
//! many: nothing that follows can be matched to a command, so the mail is deferred and the
//! connection closed. A line end of bare LF is tolerated. After the content was sent the server may
//! have the message, and being strict would make copies: there any last line of class 2 means
//! taken, whatever stands before it
//! ([`read_after_content`](crate::smtp::ResponseReader::read_after_content)).
//!
//! *Time*: [`Conversation::timeout`] is the limit for a reply as a whole, from the moment when it
//! is awaited to its last byte, so that a host that drips its reply is given up after it. The
//! defaults are the least times of RFC 5321 4.5.3.2 or longer.

mod attempt;
mod authentication;
mod capabilities;
mod conversation;
mod conversion;
mod parameters;
mod scope;
mod transaction;

#[cfg(test)]
mod tests;

pub use attempt::{Attempt, Finality, HostFailure, Next, Telling};
pub use authentication::{Login, Proof, Proved};
pub use capabilities::Capabilities;
pub use conversation::Conversation;
pub use conversion::{Conversion, Unconvertible};
pub use scope::{Event, Point, Scope, Usage, scope_of};

use crate::config;
use crate::message::{Address, ByMode, Message, Options, Outcome, Timestamp};
use std::sync::Arc;

/// What the operator decided for all conversations.
pub struct Policy {
    /// The relay's name, for EHLO.
    pub host_name: Arc<str>,
    /// Time-outs and bounds.
    pub limits: config::Delivery,
}

/// What a conversation does about STARTTLS (RFC 3207).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTls {
    /// It is not said: TLS is not wanted, or is there already.
    Never,
    /// It is said where it is offered; without it mail goes in the clear.
    IfOffered,
    /// A host that does not offer it, or refuses it, is not used.
    Always,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    #[default]
    Smtp,
    /// LMTP (RFC 2033).
    Lmtp,
}

/// How a conversation is to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// What is spoken.
    pub protocol: Protocol,
    /// What is done about STARTTLS.
    pub starttls: StartTls,
    /// TLS stands, or will before mail is sent, with a certificate that is good for the host's
    /// name.
    pub verified: bool,
    /// What becomes of 8-bit content where 8BITMIME is not offered.
    pub eight_bit: config::EightBit,
    /// PIPELINING is used where it is offered: the host is not known to break at it.
    pub pipelining: bool,
}

/// One message for one site.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The message.
    pub message: Arc<Message>,
    /// The recipients that it goes to: indices in the envelope, 1 to `recipients_max` of them.
    pub recipients: Vec<u32>,
    /// Bytes of prepended headers and content as they will be sent, for SIZE=.
    pub size: u64,
    /// The time at which it is sent.
    pub now: Timestamp,
    /// What was found out where [`Conversation::wants_conversion`] was true.
    pub conversion: Converted,
    /// Its content may go out with the envelope, where the server can take it so.
    pub pipelined_content: bool,
}

impl Mail {
    /// The message as it is stored, to these of its recipients.
    ///
    /// # Panics
    /// When one of the indices is of no recipient: it would be lost without a word.
    pub fn new(message: Arc<Message>, recipients: Vec<u32>, now: Timestamp) -> Mail {
        assert!(
            recipients.iter().all(|&index| message.recipient(index).is_some()),
            "message {} has no recipient of one of the numbers {recipients:?}",
            message.id
        );
        let size = message.size();
        let (conversion, pipelined_content) = (Converted::No, false);
        Mail { message, recipients, size, now, conversion, pipelined_content }
    }

    fn options(&self) -> &Options {
        &self.message.options
    }

    /// It is a report, or other mail that nothing may answer (RFC 5321 4.5.5).
    fn is_report(&self) -> bool {
        self.message.envelope.reverse_path.is_none()
    }

    fn is_eight_bit(&self) -> bool {
        self.message.flags.eight_bit
    }
}

/// Whether 8-bit content is sent as 7-bit MIME.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Converted {
    /// No.
    #[default]
    No,
    /// Yes, and `size` is that of what is sent.
    Done,
    /// It was to be, and cannot.
    Impossible(Unconvertible),
}

/// What the caller does next.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Send `out`, then receive more.
    More,
    /// The host waits for the TLS handshake: shake hands, then call `secured`. Nothing that it sent
    /// before counts.
    StartTls,
    /// Work that would hold up the caller, too: do it elsewhere, then call `proved`.
    Prove(Proof),
    /// Greeting and EHLO are done, or a transaction has ended: `begin` or `quit`.
    Ready,
    /// The server is ready for content: send `out` (empty), then trace and content in wire form,
    /// then call `content_sent`. If [`Conversation::is_chunked`], call `chunk` first, and send them
    /// without added dots. What the server says before that may be given to `receive`: a refusal
    /// ends the transaction.
    SendContent,
    /// The transaction ended. Next `receive` call (with whatever input is left, maybe none) gives
    /// Ready or Close.
    Finished {
        /// What became of the recipients, and what that is about.
        outcomes: Vec<RecipientOutcome>,
        /// 452 after others were accepted, or more than the server takes in one transaction: to
        /// be sent in another at once.
        again: Vec<u32>,
    },
    /// The host cannot be used (greeting 4xx/5xx, EHLO and HELO refused, nonsense instead of a
    /// reply) and no transaction had begun: send `out` (QUIT or nothing), close, try the next host.
    Unusable(Outcome),
    /// Send `out`, then close. No transaction is open.
    Close,
}

/// What a transaction did to one recipient.
#[derive(Clone, Debug, PartialEq)]
pub struct RecipientOutcome {
    /// Index in the envelope.
    pub index: u32,
    /// What became of it here.
    pub outcome: Outcome,
    /// What that is about; of a delivery it says nothing.
    pub scope: Scope,
}

/// How far [`Conversation::receive`] came.
#[derive(Debug, PartialEq)]
pub struct Progress {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// What they led to.
    pub step: Step,
}

/// How a connection was lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// The other side closed or reset it; the operating system's words.
    Closed(String),
    /// No reply, or no progress in sending, for the time-out of the state.
    TimedOut,
    /// The content could not be read on our side.
    Content(String),
}

/// The host is to tell of delays because it cannot tell of the by-time (RFC 2852 4.1.4.2).
fn asks_for_delay(mail: &Mail, offered: &Capabilities) -> bool {
    let by = mail.options().deliver_by;
    offered.deliver_by.is_none() && by.is_some_and(|by| by.mode == ByMode::Notify)
}

/// SMTPUTF8 was asked for, or an address cannot be written without it.
fn needs_smtp_utf8(mail: &Mail) -> bool {
    let is_plain = |address: &Address| address.as_str().is_ascii();
    let mut recipients = mail.recipients.iter().filter_map(|&index| mail.message.recipient(index));
    mail.options().smtp_utf8
        || !mail.message.envelope.reverse_path.as_ref().is_none_or(is_plain)
        || !recipients.all(|one| is_plain(&one.address))
}
