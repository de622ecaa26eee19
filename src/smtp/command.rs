//! Commands (RFC 5321 4.1): which verb a line has, and what its arguments say. *Pure.*
//!
//! A line without its CRLF goes in; words that borrow from it come out, or a fault with the reply
//! that names it. What may follow what is not known here.

use super::path::{Path, PathFault, is_domain, read_literal, read_path};
use super::reply::Reply;
use crate::limits::DOMAIN_BYTES_MAX;
use crate::message::{Body, Status};

/// The commands that this relay knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// EHLO.
    Ehlo,
    /// HELO.
    Helo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// VRFY.
    Vrfy,
    /// EXPN.
    Expn,
    /// HELP.
    Help,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
}

impl Verb {
    /// The word for events.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Ehlo => "ehlo",
            Verb::Helo => "helo",
            Verb::Mail => "mail",
            Verb::Rcpt => "rcpt",
            Verb::Data => "data",
            Verb::Rset => "rset",
            Verb::Noop => "noop",
            Verb::Quit => "quit",
            Verb::Vrfy => "vrfy",
            Verb::Expn => "expn",
            Verb::Help => "help",
            Verb::StartTls => "starttls",
            Verb::Auth => "auth",
        }
    }

    /// The verb that `line` begins with, whatever follows it.
    pub fn of(line: &[u8]) -> Option<Verb> {
        let word = line.split(|&byte| is_space(byte)).next()?;
        if word.eq_ignore_ascii_case(b"STARTTLS") {
            return Some(Verb::StartTls);
        }
        let word: [u8; 4] = word.try_into().ok()?;
        Some(match &word.map(|byte| byte.to_ascii_uppercase()) {
            b"EHLO" => Verb::Ehlo,
            b"HELO" => Verb::Helo,
            b"MAIL" => Verb::Mail,
            b"RCPT" => Verb::Rcpt,
            b"DATA" => Verb::Data,
            b"RSET" => Verb::Rset,
            b"NOOP" => Verb::Noop,
            b"QUIT" => Verb::Quit,
            b"VRFY" => Verb::Vrfy,
            b"EXPN" => Verb::Expn,
            b"HELP" => Verb::Help,
            b"AUTH" => Verb::Auth,
            _ => return None,
        })
    }
}

/// Verbs that SMTP has and this relay does not: 502 instead of 500 (RFC 5321 4.2.4).
const NOT_IMPLEMENTED: [&str; 8] =
    ["BDAT", "ETRN", "ATRN", "TURN", "SEND", "SOML", "SAML", "XCLIENT"];

/// How an HTTP request begins. A web page can be made to send one to any port, with commands of the
/// attacker's choice in its body: such a session ends at once.
const HTTP_METHODS: [&str; 10] =
    ["GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "DELETE", "PATCH", "TRACE", "PRI"];

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
    AddressNotAscii,
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
    /// SIZE= without a number.
    Size,
    /// BODY= without 7BIT or 8BITMIME.
    Body,
}

/// Parts a line into verb and argument; the argument has no space at either end (RFC 5321 4.1.1:
/// trailing white space is tolerated) and is printable ASCII and tabs.
pub fn read_command(line: &[u8]) -> Result<(Verb, &str), CommandFault> {
    if line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(CommandFault::ControlCharacter);
    }
    let verb = Verb::of(line);
    let text = match std::str::from_utf8(line) {
        Ok(text) if text.is_ascii() => text,
        _ => {
            return Err(match verb {
                Some(Verb::Mail | Verb::Rcpt | Verb::Vrfy | Verb::Expn) => {
                    CommandFault::AddressNotAscii
                }
                Some(Verb::Ehlo | Verb::Helo) => CommandFault::HelloName,
                _ => CommandFault::NotAscii,
            });
        }
    };
    let (word, argument) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let argument = argument.trim_matches([' ', '\t']);
    match verb {
        Some(verb) => Ok((verb, argument)),
        None if NOT_IMPLEMENTED.iter().any(|known| known.eq_ignore_ascii_case(word)) => {
            Err(CommandFault::NotImplemented)
        }
        None => Err(CommandFault::Unknown),
    }
}

/// Whether bytes are the start of an HTTP request. Only the method is looked at, so that a request
/// line of any length is known at once.
pub fn is_http(input: &[u8]) -> bool {
    HTTP_METHODS.iter().any(|method| {
        input.strip_prefix(method.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' '))
    })
}

/// Whether bytes are the start of a TLS handshake: record type 22, version 3.x (RFC 8446 5.1).
pub fn is_tls(input: &[u8]) -> bool {
    input.starts_with(&[0x16, 0x03])
}

/// The name given with EHLO or HELO.
///
/// Liberal: clients send what they think they are called. It must be there, printable and no longer
/// than a domain; only the trace field cares whether it is a domain ([`is_hello_name`]).
pub fn read_hello(argument: &str) -> Result<&str, CommandFault> {
    let printable = argument.bytes().all(|byte| (32..=126).contains(&byte));
    if argument.is_empty() || argument.len() > DOMAIN_BYTES_MAX || !printable {
        return Err(CommandFault::HelloName);
    }
    Ok(argument)
}

/// Whether the name is what EHLO asks for: a domain or an address literal (RFC 5321 4.1.1.1).
pub fn is_hello_name(name: &str) -> bool {
    is_domain(name) || read_literal(name).is_some()
}

/// For commands that take no argument.
pub fn read_nothing(argument: &str) -> Result<(), CommandFault> {
    if argument.is_empty() { Ok(()) } else { Err(CommandFault::ArgumentNotAllowed) }
}

/// For commands that take any argument, but need one.
pub fn read_something(argument: &str) -> Result<(), CommandFault> {
    if argument.is_empty() { Err(CommandFault::ArgumentMissing) } else { Ok(()) }
}

/// What MAIL says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mail<'a> {
    /// [`Path::Null`] or a mailbox.
    pub path: Path<'a>,
    /// SIZE= in bytes (RFC 1870); a number too large to hold counts as the largest.
    pub size: Option<u64>,
    /// BODY= (RFC 6152).
    pub body: Option<Body>,
    /// AUTH= was given (RFC 4954 5): who first submitted it, for those who believe it. Here nobody
    /// is believed, which the RFC allows.
    pub auth: bool,
}

/// Reads the argument of MAIL. Sessions that began with HELO have no parameters
/// (RFC 5321 2.2.1): `extended` is false for them.
pub fn read_mail(argument: &str, extended: bool) -> Result<Mail<'_>, CommandFault> {
    let side = Side::Sender;
    let (path, rest) = read_address(argument, "FROM:", side)?;
    if let Path::Postmaster(_) = path {
        return Err(CommandFault::Path(side, PathFault::NoDomain));
    }
    let mut mail = Mail { path, size: None, body: None, auth: false };
    for word in rest.split([' ', '\t']).filter(|word| !word.is_empty()) {
        let (keyword, value) = read_parameter(word)?;
        if extended && keyword.eq_ignore_ascii_case("SIZE") {
            set_once(&mut mail.size, read_size(value)?)?;
        } else if extended && keyword.eq_ignore_ascii_case("BODY") {
            set_once(&mut mail.body, read_body(value)?)?;
        } else if extended && keyword.eq_ignore_ascii_case("AUTH") {
            value.filter(|value| is_xtext(value)).ok_or(CommandFault::Parameter)?;
            mail.auth = true;
        } else {
            return Err(CommandFault::ParameterUnknown);
        }
    }
    Ok(mail)
}

/// Reads the argument of RCPT: a mailbox or the postmaster.
pub fn read_rcpt(argument: &str) -> Result<Path<'_>, CommandFault> {
    let side = Side::Recipient;
    let (path, rest) = read_address(argument, "TO:", side)?;
    if path == Path::Null {
        return Err(CommandFault::Path(side, PathFault::Null));
    }
    if let Some(word) = rest.split([' ', '\t']).find(|word| !word.is_empty()) {
        read_parameter(word)?;
        return Err(CommandFault::ParameterUnknown);
    }
    Ok(path)
}

/// `FROM:` or `TO:` and the path. Spaces after the colon are against RFC 5321 3.3, and so common
/// that they are taken.
fn read_address<'a>(
    argument: &'a str,
    keyword: &str,
    side: Side,
) -> Result<(Path<'a>, &'a str), CommandFault> {
    let after = match argument.split_at_checked(keyword.len()) {
        Some((word, after)) if word.eq_ignore_ascii_case(keyword) => after,
        _ => return Err(CommandFault::Keyword(side)),
    };
    let (path, rest) = read_path(after.trim_start_matches([' ', '\t']))
        .map_err(|fault| CommandFault::Path(side, fault))?;
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return Err(CommandFault::Parameter);
    }
    Ok((path, rest))
}

/// `KEYWORD` or `KEYWORD=value` (RFC 5321 4.1.2 esmtp-param).
fn read_parameter(word: &str) -> Result<(&str, Option<&str>), CommandFault> {
    let (keyword, value) = match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    };
    let good_keyword = keyword.starts_with(|first: char| first.is_ascii_alphanumeric())
        && keyword.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let good_value = value.is_none_or(|value| {
        !value.is_empty() && value.bytes().all(|byte| matches!(byte, 33..=60 | 62..=126))
    });
    if good_keyword && good_value { Ok((keyword, value)) } else { Err(CommandFault::Parameter) }
}

fn set_once<T>(place: &mut Option<T>, value: T) -> Result<(), CommandFault> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(CommandFault::ParameterTwice),
    }
}

/// 1 to 20 digits (RFC 1870 4).
fn read_size(value: Option<&str>) -> Result<u64, CommandFault> {
    let digits = value.ok_or(CommandFault::Size)?;
    if digits.len() > 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CommandFault::Size);
    }
    Ok(digits.parse().unwrap_or(u64::MAX))
}

/// RFC 3461 4; `<>` is of that form, too.
fn is_xtext(value: &str) -> bool {
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let hex =
            |byte: Option<u8>| byte.is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
        if byte == b'+' && !(hex(bytes.next()) && hex(bytes.next())) {
            return false;
        }
    }
    true
}

fn read_body(value: Option<&str>) -> Result<Body, CommandFault> {
    match value {
        Some(value) if value.eq_ignore_ascii_case("7BIT") => Ok(Body::SevenBit),
        Some(value) if value.eq_ignore_ascii_case("8BITMIME") => Ok(Body::EightBitMime),
        _ => Err(CommandFault::Body),
    }
}

impl CommandFault {
    /// What the client is told.
    pub fn reply(self) -> Reply {
        match self {
            CommandFault::Unknown => Reply::UNKNOWN_COMMAND,
            CommandFault::NotImplemented => Reply::NOT_IMPLEMENTED,
            CommandFault::ControlCharacter => Reply::CONTROL_CHARACTER,
            CommandFault::NotAscii => Reply::ASCII_ONLY,
            CommandFault::AddressNotAscii => Reply::ADDRESS_ASCII_ONLY,
            CommandFault::HelloName => Reply::HELLO_NAME,
            CommandFault::ArgumentNotAllowed => Reply::NO_ARGUMENT_ALLOWED,
            CommandFault::ArgumentMissing => Reply::ARGUMENT_MISSING,
            CommandFault::Keyword(Side::Sender) => Reply::MAIL_SYNTAX,
            CommandFault::Keyword(Side::Recipient) => Reply::RCPT_SYNTAX,
            CommandFault::Path(side, fault) => path_reply(side, fault),
            CommandFault::Parameter => Reply::BAD_PARAMETER,
            CommandFault::ParameterUnknown => Reply::UNKNOWN_PARAMETER,
            CommandFault::ParameterTwice => Reply::DUPLICATE_PARAMETER,
            CommandFault::Size => Reply::BAD_SIZE,
            CommandFault::Body => Reply::BAD_BODY,
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
        PathFault::NoBracket => "Address must stand in angle brackets: <local-part@domain>",
        PathFault::NotClosed => "Address lacks its closing angle bracket",
        PathFault::TooLong => "Address longer than 256 characters with its brackets",
        PathFault::Route => "Malformed source route; write <local-part@domain>",
        PathFault::LocalPart => "Malformed local-part; put unusual ones in double quotes",
        PathFault::LocalPartTooLong => "Local-part longer than 64 characters",
        PathFault::NoDomain => "Address lacks @ and a domain",
        PathFault::Domain => "Malformed domain; letters, digits and hyphens between dots",
        PathFault::DomainTooLong => "Domain longer than 255 or a label longer than 63 characters",
        PathFault::Literal => "Malformed address literal; write [192.0.2.1] or [IPv6:2001:db8::1]",
        PathFault::Null => "A recipient must be named; <> is for MAIL only",
    };
    Reply::new(501, status, text)
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_read_in_any_case_and_parted_from_their_argument() {
        assert_eq!(read_command(b"NOOP"), Ok((Verb::Noop, "")));
        assert_eq!(read_command(b"qUiT  \t "), Ok((Verb::Quit, "")));
        assert_eq!(read_command(b"EHLO  a.example "), Ok((Verb::Ehlo, "a.example")));
        assert_eq!(read_command(b"mail\tFROM:<>"), Ok((Verb::Mail, "FROM:<>")));
    }

    #[test]
    fn lines_that_are_no_command() {
        for (line, fault) in [
            (&b""[..], CommandFault::Unknown),
            (b" NOOP", CommandFault::Unknown),
            (b"NOOPS", CommandFault::Unknown),
            (b"GET", CommandFault::Unknown),
            (b"etrn", CommandFault::NotImplemented),
            (b"BDAT 86 LAST", CommandFault::NotImplemented),
            (b"NOOP \0", CommandFault::ControlCharacter),
            (b"NOOP \x7f", CommandFault::ControlCharacter),
            (b"MAIL FROM:<\xc3\xbc@b>", CommandFault::AddressNotAscii),
            (b"RCPT TO:<\xff@b>", CommandFault::AddressNotAscii),
            (b"EHLO b\xc3\xbccher", CommandFault::HelloName),
            (b"NOOP \xff", CommandFault::NotAscii),
            (b"\xc3\xbc", CommandFault::NotAscii),
        ] {
            assert_eq!(read_command(line), Err(fault), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn mail_takes_a_path_and_its_parameters() {
        let mail = |text| read_mail(text, true);
        let plain = Mail { path: Path::Mailbox("a@b"), size: None, body: None, auth: false };
        assert_eq!(mail("FROM:<a@b>"), Ok(plain));
        assert_eq!(mail("from: \t<a@b>"), Ok(plain));
        assert_eq!(
            mail("FROM:<> size=500  BODY=8bitmime"),
            Ok(Mail {
                path: Path::Null,
                size: Some(500),
                body: Some(Body::EightBitMime),
                auth: false
            })
        );
        assert_eq!(mail("FROM:<a@b> BODY=7BIT").map(|mail| mail.body), Ok(Some(Body::SevenBit)));
        assert_eq!(
            mail("FROM:<a@b> SIZE=99999999999999999999").map(|mail| mail.size),
            Ok(Some(u64::MAX))
        );
    }

    #[test]
    fn mail_names_what_is_wrong() {
        use CommandFault::*;
        for (text, fault) in [
            ("", Keyword(Side::Sender)),
            ("<a@b>", Keyword(Side::Sender)),
            ("TO:<a@b>", Keyword(Side::Sender)),
            ("FROM <a@b>", Keyword(Side::Sender)),
            ("FROM:", Path(Side::Sender, PathFault::NoBracket)),
            ("FROM:a@b", Path(Side::Sender, PathFault::NoBracket)),
            ("FROM:<postmaster>", Path(Side::Sender, PathFault::NoDomain)),
            ("FROM:<a@b>SIZE=1", Parameter),
            ("FROM:<a@b> =1", Parameter),
            ("FROM:<a@b> SIZE=", Parameter),
            ("FROM:<a@b> SIZE=1=2", Parameter),
            ("FROM:<a@b> X_Y=2", Parameter),
            ("FROM:<a@b> SIZE", Size),
            ("FROM:<a@b> SIZE=-1", Size),
            ("FROM:<a@b> SIZE=100000000000000000000", Size),
            ("FROM:<a@b> SIZE=1 size=1", ParameterTwice),
            ("FROM:<a@b> BODY=7BIT BODY=8BITMIME", ParameterTwice),
            ("FROM:<a@b> BODY", Body),
            ("FROM:<a@b> BODY=BINARYMIME", Body),
            ("FROM:<a@b> RET=FULL", ParameterUnknown),
            ("FROM:<a@b> SMTPUTF8", ParameterUnknown),
        ] {
            assert_eq!(read_mail(text, true).map(|_| ()), Err(fault), "{text}");
        }
        assert_eq!(read_mail("FROM:<a@b> SIZE=1", false), Err(ParameterUnknown), "after HELO");
    }

    #[test]
    fn rcpt_takes_a_mailbox_or_the_postmaster() {
        use CommandFault::{Keyword, Parameter, ParameterUnknown};
        assert_eq!(read_rcpt("TO:<a@b>").map(|path| path.to_address()), {
            Ok(Some(crate::message::Address::new("a@b")))
        });
        assert_eq!(read_rcpt("to: <POSTMASTER>"), Ok(Path::Postmaster("POSTMASTER")));
        for (text, fault) in [
            ("FROM:<a@b>", Keyword(Side::Recipient)),
            ("TO:<>", CommandFault::Path(Side::Recipient, PathFault::Null)),
            ("TO:<a>", CommandFault::Path(Side::Recipient, PathFault::NoDomain)),
            ("TO:<a@b> NOTIFY=NEVER", ParameterUnknown),
            ("TO:<a@b> NOTIFY=", Parameter),
            ("TO:<a@b> <c@d>", Parameter),
        ] {
            assert_eq!(read_rcpt(text).map(|_| ()), Err(fault), "{text}");
        }
    }

    #[test]
    fn hello_names_may_be_odd_but_not_absent_or_endless() {
        assert_eq!(read_hello("my pc (home)"), Ok("my pc (home)"));
        assert_eq!(read_hello(""), Err(CommandFault::HelloName));
        assert_eq!(read_hello("a\tb"), Err(CommandFault::HelloName));
        assert!(read_hello(&"x".repeat(255)).is_ok());
        assert_eq!(read_hello(&"x".repeat(256)), Err(CommandFault::HelloName));
        assert!(is_hello_name("a.example") && is_hello_name("[192.0.2.1]"));
        assert!(!is_hello_name("my pc") && !is_hello_name("[a.example]"));
    }

    #[test]
    fn other_protocols_are_known_by_their_first_bytes() {
        assert!(is_tls(b"\x16\x03\x01\x02\x00"));
        assert!(!is_tls(b"\x16"));
        assert!(is_http(b"GET / HTTP/1.0\r\n"));
        assert!(!is_http(b"GETTY"));
    }
}
