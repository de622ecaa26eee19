//! The language of SMTP (RFC 5321): lines, commands, paths, replies, content. *Pure.*
//!
//! Bytes in, borrowed parts out. It has no state: `session` (receiving) and `delivery` (sending)
//! know the order of commands and replies.

mod command;
mod content;
mod dots;
mod fault;
mod help;
mod lenient;
mod mailbox;
mod parameters;
mod path;
mod quoted;
mod reply;
mod response;
mod scanner;
mod transcript;
mod xclient;
mod xtext;

pub use command::{
    Mail, RcptSyntax, Verb, is_hello_name, is_http, is_tls, may_be_grouped, read_chunk,
    read_command, read_etrn, read_hello, read_mail, read_nothing, read_question, read_rcpt,
};
pub use content::{ContentLimits, ContentScanner, Defect, END_LENGTH, Framing, Scanned};
pub use dots::{Dot, Dots, LineEnds};
pub use fault::{CommandFault, Side};
pub use help::help;
pub use lenient::{OddDots, Syntax};
pub use mailbox::read_addresses;
pub use parameters::{By, Hold, MailParameters, Offered};
pub use path::{Path, PathFault, is_domain, literal, read_literal, read_path};
pub use quoted::quote_line;
pub use reply::Reply;
pub use response::{Malformed, Response, ResponseReader, one_line};
pub use scanner::{Bare, Line, Skipped, scan, skip};
pub use transcript::{commands_shown, replies_shown};
pub use xclient::{Xclient, read_xclient};
pub use xtext::{ascii, from_xtext, to_unitext, to_utf8_xtext, unitext_to_xtext};
