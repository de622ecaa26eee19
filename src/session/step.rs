//! What a session asks of its caller, and what it hands over. *Pure.*

use super::AuthInput;
use crate::message::{ContentFlags, Envelope, Options};
use crate::smtp::Reply;
use std::net::IpAddr;
use std::ops::Range;

/// What came of ETRN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Etrn {
    /// Something waits there, and is tried now.
    Begun,
    /// No messages queued for that node.
    Nothing,
    /// Another one is being done.
    Busy,
}

/// What the caller must do next. `receive` is called again after it, with the rest of the input.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Send what is in `out`, then go on. With [`Progress::consumed`] above zero and input left:
    /// call `receive` again with that rest; `receive` may have stopped only so that `out` does not
    /// grow beyond measure, or because a reply may not wait for others (RFC 2920 3.2), so it must
    /// really be sent before. With zero, or no input left: receive
    /// more first. What is left is the start of something and must come again with more behind
    /// it; it is shorter than the configured `command_line_max`, or than 12 KiB in AUTH.
    More,
    /// STARTTLS was said (RFC 3207): send what is in `out`, throw away all input, shake hands, then
    /// call `secured`. If that fails, close.
    StartTls,
    /// A message of AUTH (RFC 4954): call `challenge`, `authenticated` or `not_authenticated`.
    Auth(AuthInput),
    /// ETRN (RFC 1985): what waits for `domain` is to be tried now; then call `hastened`.
    Flush {
        /// As `message::domain_key` writes it.
        domain: String,
        /// And what waits for domains below it.
        with_below: bool,
    },
    /// XCLIENT: a proxy that may say so says who the client is. Call `turn_to`, or close.
    ClientOverride {
        /// Its address; `None` leaves it as it is.
        address: Option<IpAddr>,
        /// Its port.
        port: Option<u16>,
    },
    /// DATA or a first BDAT was given and is in order: call `begin_content` or `decline`.
    ContentWanted,
    /// These bytes of the input are content in wire form (dot-stuffed): keep them. Counted in
    /// `consumed`, unless it is a dot that came without its stuffing: it is named once more.
    Content(Range<usize>),
    /// The last line of the content came without its CRLF: keep one.
    ContentLineEnd,
    /// The content that was kept so far is void: forget it. More may be swallowed; the reply comes
    /// at the end of data, or of the chunk. After RSET and EHLO between chunks, too.
    ContentVoid,
    /// The final CRLF.CRLF or the last chunk came: `take_transaction`, make it durable, then
    /// `stored` or `decline`.
    Complete,
    /// Something was refused: for the event log. The reply is in `out` already. Call `receive`
    /// again, even if the rest of the input is empty: the session may have ended with this one, and
    /// then says [`Step::Close`].
    Rejected(Rejection),
    /// Send what is in `out`, then close.
    Close,
}

/// What became of the input.
#[derive(Debug, PartialEq)]
pub struct Progress {
    /// Bytes of the input that were used and must not come again.
    pub consumed: usize,
    /// What to do now.
    pub step: Step,
}

/// A refusal worth an event.
#[derive(Debug, PartialEq)]
pub struct Rejection {
    /// `connect`, `mail`, `rcpt`, `data`, or another command, or `command` for what was none.
    pub at: &'static str,
    /// The reverse-path of the transaction, when there is one; empty for `<>`. For a malformed one,
    /// what was given: printable ASCII, at most 256 bytes.
    pub from: Option<String>,
    /// The forward-path in question, when there is one, in the same form.
    pub to: Option<String>,
    /// What the client was told.
    pub reply: Reply,
}

/// A complete transaction, ready for the spool.
#[derive(Debug, PartialEq)]
pub struct Transaction {
    /// Reverse-path and forward-paths; one forward-path or more.
    pub envelope: Envelope,
    /// What MAIL asked for.
    pub options: Options,
    /// Bytes of content received, in wire form, without the final dot line.
    pub content_bytes: u64,
    /// What was found out about it.
    pub flags: ContentFlags,
}
