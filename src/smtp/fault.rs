//! What is wrong with a command, and the reply that says so. *Pure.*

use super::path::PathFault;
use super::reply::Reply;
use crate::message::Status;

/// Whose address a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The reverse-path.
    Sender,
    /// A forward-path.
    Recipient,
}

/// What is wrong with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandFault {
    /// No such verb.
    Unknown,
    /// A verb of SMTP that is not implemented here.
    NotImplemented,
    /// NUL, other control characters, DEL.
    ControlCharacter,
    /// Bytes above 127 outside of addresses.
    NotAscii,
    /// Bytes above 127 in an address.
    AddressNotAscii(Side),
    /// EHLO or HELO without a usable name.
    HelloName,
    /// An argument where none belongs.
    ArgumentNotAllowed,
    /// No argument where one belongs.
    ArgumentMissing,
    /// `MAIL` or `RCPT` not followed by `FROM:` or `TO:`.
    Keyword(Side),
    /// The path is not one.
    Path(Side, PathFault),
    /// A parameter is malformed.
    Parameter,
    /// A parameter that is not offered.
    ParameterUnknown,
    /// A parameter given twice.
    ParameterTwice,
    /// A parameter that goes with TLS only.
    NeedsTls,
    /// A parameter's value is not one; the text says what would be.
    Value(&'static str),
}

impl CommandFault {
    /// The reply to the client.
    pub fn reply(self) -> Reply {
        match self {
            CommandFault::Unknown => Reply::UNKNOWN_COMMAND,
            CommandFault::NotImplemented => Reply::NOT_IMPLEMENTED,
            CommandFault::ControlCharacter => Reply::CONTROL_CHARACTER,
            CommandFault::NotAscii => Reply::ASCII_ONLY,
            CommandFault::AddressNotAscii(Side::Sender) => Reply::SENDER_ASCII_ONLY,
            CommandFault::AddressNotAscii(Side::Recipient) => Reply::ADDRESS_ASCII_ONLY,
            CommandFault::HelloName => Reply::HELLO_NAME,
            CommandFault::ArgumentNotAllowed => Reply::NO_ARGUMENT_ALLOWED,
            CommandFault::ArgumentMissing => Reply::ARGUMENT_MISSING,
            CommandFault::Keyword(Side::Sender) => Reply::MAIL_SYNTAX,
            CommandFault::Keyword(Side::Recipient) => Reply::RCPT_SYNTAX,
            CommandFault::Path(side, fault) => path_reply(side, fault),
            CommandFault::Parameter => Reply::BAD_PARAMETER,
            CommandFault::ParameterUnknown => Reply::UNKNOWN_PARAMETER,
            CommandFault::ParameterTwice => Reply::DUPLICATE_PARAMETER,
            CommandFault::NeedsTls => Reply::PARAMETER_NEEDS_TLS,
            CommandFault::Value(text) => Reply::new(501, Status(5, 5, 4), text),
        }
    }
}

/// RFC 3463 3.2: X.1.7 is the sender's address syntax, X.1.3 the recipient's.
fn path_reply(side: Side, fault: PathFault) -> Reply {
    let status = match side {
        Side::Sender => Status(5, 1, 7),
        Side::Recipient => Status(5, 1, 3),
    };
    let text = match fault {
        PathFault::NoBracket => "Address must be enclosed in angle brackets: <local-part@domain>",
        PathFault::NotClosed => "Missing closing angle bracket",
        PathFault::TooLong => "Address longer than 256 characters including brackets",
        PathFault::Route => "Malformed source route; use <local-part@domain>",
        PathFault::LocalPart => "Malformed local-part; unusual characters require a quoted string",
        PathFault::LocalPartTooLong => "Local-part longer than 64 characters",
        PathFault::NoDomain => "Domain missing in address",
        PathFault::Domain => "Malformed domain name",
        PathFault::DomainTooLong => "Domain longer than 255 or a label longer than 63 characters",
        PathFault::Literal => {
            "Malformed address literal; expected [192.0.2.1] or [IPv6:2001:db8::1]"
        }
        PathFault::Null => "Null recipient address not allowed",
    };
    Reply::new(501, status, text)
}
