//! What a session asks of its caller, and what it hands over. *Pure.*

use super::AuthInput;
use crate::message::{Address, ContentFlags, Envelope, Options, Recipient};
use crate::smtp::{Reply, Verb};
use std::net::IpAddr;
use std::ops::Range;

/// The result of ETRN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Etrn {
    /// Messages are queued for that node, and are tried now.
    Started,
    /// No messages that may be tried now are queued for it.
    NothingQueued,
    /// Another ETRN is in progress.
    Busy,
}

/// What the caller must do next. Until it has done so `receive` consumes nothing; then it is called
/// again with the rest of the input. A caller that knows the answer gives it at once: pipelined
/// commands are answered in one loop, with one send.
#[derive(Debug, PartialEq)]
pub enum Step<G = ()> {
    /// Send what is in `out`, then go on. With [`Progress::consumed`] above zero and input left:
    /// call `receive` again with that rest; `receive` may have stopped only so that `out` does not
    /// grow beyond measure, or because a reply may not wait for others (RFC 2920 3.2), so it must
    /// really be sent before. With zero, or no input left: receive
    /// more first. What is left is the start of something and must come again with more behind
    /// it; it is shorter than the configured `command_line_max`, or than 12 KiB in AUTH.
    More,
    /// STARTTLS was accepted (RFC 3207): send what is in `out`, discard all input, do the
    /// handshake, then call `secured`. If that fails, close.
    StartTls,
    /// A message of AUTH (RFC 4954): call `challenge`, `authenticated` or `not_authenticated`.
    Auth(AuthInput),
    /// MAIL is in order: call `accept_mail` or `decline_mail`.
    Mail(Box<MailRequest>),
    /// RCPT is in order: call `accept_recipient` or `decline_recipient`.
    Recipient(RecipientRequest),
    /// ETRN (RFC 1985): messages for `domain` are to be tried now; then call `answer_etrn`.
    Etrn {
        /// As `message::domain_key` writes it.
        domain: String,
        /// And messages for its subdomains.
        with_subdomains: bool,
    },
    /// XCLIENT: a proxy names the client. Call `override_client`, or close.
    ClientOverride {
        /// Its address; `None` leaves it as it is.
        address: Option<IpAddr>,
        /// Its port.
        port: Option<u16>,
    },
    /// DATA or a first BDAT is in order: call `begin_content` or `decline`.
    ContentWanted,
    /// These bytes of the input are content in wire form (dot-stuffed): keep them. Counted in
    /// `consumed`, unless it is a dot that came without its stuffing: it is named once more.
    Content(Range<usize>),
    /// The last line of the content came without its CRLF: keep one.
    ContentLineEnd,
    /// The content that was kept so far is void: discard it. More may be discarded; the reply comes
    /// at the end of data, or of the chunk. After RSET and EHLO between chunks, too.
    ContentVoid,
    /// The final CRLF.CRLF or the last chunk came: make the transaction durable, then call `stored`
    /// or `decline`.
    Complete(Box<Transaction<G>>),
    /// A command was refused: for the event log. The reply is in `out` already. Call `receive`
    /// again, even if the rest of the input is empty: the session may have ended with this one, and
    /// then says [`Step::Close`].
    Rejected(Rejection),
    /// Send what is in `out`, then close.
    Close,
}

/// What became of the input.
#[derive(Debug, PartialEq)]
pub struct Progress<G = ()> {
    /// Bytes of the input that were used and must not come again.
    pub consumed: usize,
    /// What to do now.
    pub step: Step<G>,
}

/// A transaction that MAIL asks to open.
#[derive(Debug, PartialEq)]
pub struct MailRequest {
    /// The reverse-path; no recipients yet.
    pub envelope: Envelope,
    /// The parameters of MAIL.
    pub options: Options,
}

impl MailRequest {
    pub(super) fn rejected(&self) -> RejectedPaths {
        RejectedPaths { from: Some(text_of(self.envelope.reverse_path.as_ref())), to: None }
    }
}

/// A recipient that RCPT asks to add.
#[derive(Debug, PartialEq)]
pub struct RecipientRequest {
    /// The forward-path and the parameters of RCPT.
    pub recipient: Recipient,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A command; [`Verb::Data`] also for content, however it came.
    Command(Verb),
    /// A line that is no command.
    UnknownCommand,
}

impl Stage {
    /// As events have it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Command(verb) => verb.name(),
            Stage::UnknownCommand => "command",
        }
    }
}

/// A refusal worth an event.
#[derive(Debug, PartialEq)]
pub struct Rejection {
    /// What was refused.
    pub at: Stage,
    /// The reverse-path of the transaction, when there is one; empty for `<>`. For a malformed one,
    /// what was given: printable ASCII, at most 256 bytes.
    pub from: Option<String>,
    /// The forward-path in question, when there is one, in the same form.
    pub to: Option<String>,
    /// The reply to the client.
    pub reply: Reply,
}

/// The paths of a [`Rejection`].
#[derive(Default)]
pub(super) struct RejectedPaths {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

pub(super) fn text_of(address: Option<&Address>) -> String {
    address.map_or_else(String::new, |address| address.as_str().to_owned())
}

/// A complete transaction, ready for the spool.
#[derive(Debug, PartialEq)]
pub struct Transaction<G = ()> {
    /// Reverse-path and forward-paths; one forward-path or more.
    pub envelope: Envelope,
    /// The parameters of MAIL.
    pub options: Options,
    /// Bytes of content received, in wire form, without the final dot line.
    pub content_bytes: u64,
    /// What was found out about it.
    pub flags: ContentFlags,
    /// As in the Received field: `ESMTPS` and the like.
    pub protocol: &'static str,
    /// What the caller granted at MAIL.
    pub grant: G,
}
