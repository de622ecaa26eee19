//! The language of SMTP (RFC 5321): lines, commands, paths, replies, content. *Pure.*
//!
//! Bytes in, borrowed words out. It knows no state: what may follow what is the business of
//! `session` (receiving) and `delivery` (sending).

use crate::message::Status;

/// A reply of ours as a value: code, enhanced status, text (RFC 5321 4.2, RFC 2034).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// Left out only in the greeting, the reply to EHLO and HELO, and 354.
    pub status: Option<Status>,
    /// One line, or several parted by `\n`.
    pub text: std::borrow::Cow<'static, str>,
}

mod response;
pub use response::{Malformed, Response, ResponseReader, one_line};
