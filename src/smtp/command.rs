//! Commands (RFC 5321 4.1): the verb of a line, and its arguments. *Pure.*
//!
//! A line without its CRLF goes in; parts that borrow from it come out, or a fault with its reply.
//! The order of commands is not checked here.

use super::fault::{CommandFault, Side};
use super::lenient::{Syntax, read_path_as};
use super::parameters::{
    MailParameters, Offered, names_smtp_utf8, read_mail_parameters, read_rcpt_parameters,
};
use super::path::{Path, PathFault, is_domain, read_literal};
use crate::limits::DOMAIN_BYTES_MAX;
use crate::message::{Recipient, ReversePath};

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
    /// BDAT (RFC 3030).
    Bdat,
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
    /// ETRN (RFC 1985).
    Etrn,
    /// XCLIENT.
    Xclient,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
}

impl Verb {
    /// The name in events.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Ehlo => "ehlo",
            Verb::Helo => "helo",
            Verb::Mail => "mail",
            Verb::Rcpt => "rcpt",
            Verb::Data => "data",
            Verb::Bdat => "bdat",
            Verb::Rset => "rset",
            Verb::Noop => "noop",
            Verb::Quit => "quit",
            Verb::Vrfy => "vrfy",
            Verb::Expn => "expn",
            Verb::Help => "help",
            Verb::Etrn => "etrn",
            Verb::Xclient => "xclient",
            Verb::StartTls => "starttls",
            Verb::Auth => "auth",
        }
    }

    /// The verb at the start of `line`, whatever follows it.
    pub fn of(line: &[u8]) -> Option<Verb> {
        let word = line.split(|&byte| is_space(byte)).next()?;
        if word.eq_ignore_ascii_case(b"STARTTLS") {
            return Some(Verb::StartTls);
        }
        if word.eq_ignore_ascii_case(b"XCLIENT") {
            return Some(Verb::Xclient);
        }
        let word: [u8; 4] = word.try_into().ok()?;
        Some(match &word.map(|byte| byte.to_ascii_uppercase()) {
            b"EHLO" => Verb::Ehlo,
            b"HELO" => Verb::Helo,
            b"MAIL" => Verb::Mail,
            b"RCPT" => Verb::Rcpt,
            b"DATA" => Verb::Data,
            b"BDAT" => Verb::Bdat,
            b"RSET" => Verb::Rset,
            b"NOOP" => Verb::Noop,
            b"QUIT" => Verb::Quit,
            b"VRFY" => Verb::Vrfy,
            b"EXPN" => Verb::Expn,
            b"HELP" => Verb::Help,
            b"AUTH" => Verb::Auth,
            b"ETRN" => Verb::Etrn,
            _ => return None,
        })
    }
}

/// Verbs that SMTP has and this relay does not: 502 instead of 500 (RFC 5321 4.2.4).
const NOT_IMPLEMENTED: [&str; 5] = ["ATRN", "TURN", "SEND", "SOML", "SAML"];

/// The start of an HTTP request. A web page can make a browser send one to any port, with commands
/// of an attacker in its body: such a session is ended at once.
const HTTP_METHODS: [&str; 10] =
    ["GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "DELETE", "PATCH", "TRACE", "PRI"];

/// Splits a line into verb and argument. The argument has no space at either end (RFC 5321 4.1.1:
/// trailing white space is tolerated) and is printable ASCII and tabs. In commands with addresses
/// it may have other UTF-8 too (RFC 6531), which the functions that read the argument may refuse.
pub fn read_command(line: &[u8]) -> Result<(Verb, &str), CommandFault> {
    let verb = Verb::of(line);
    if line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
        let fault = CommandFault::ControlCharacter;
        return Err(if verb.is_some() { fault } else { CommandFault::Unknown });
    }
    let takes_address = matches!(verb, Some(Verb::Mail | Verb::Rcpt | Verb::Vrfy | Verb::Expn));
    let text = match std::str::from_utf8(line) {
        Ok(text) if takes_address || text.is_ascii() => text,
        _ if verb == Some(Verb::Mail) => return Err(CommandFault::AddressNotAscii(Side::Sender)),
        _ if takes_address => return Err(CommandFault::AddressNotAscii(Side::Recipient)),
        _ => {
            return Err(match verb {
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

/// Whether the reply to the command at the start of `input` may be sent together with those to the
/// commands after it. By RFC 2920 3.2, not for EHLO, DATA, NOOP, QUIT and unknown commands.
pub fn may_be_grouped(input: &[u8]) -> bool {
    const VERBS: [&[u8]; 4] = [b"MAIL", b"RCPT", b"RSET", b"BDAT"];
    let word = input.get(..4).unwrap_or_default();
    VERBS.iter().any(|verb| word.eq_ignore_ascii_case(verb))
        && input.get(4).is_none_or(|&byte| is_space(byte) || byte == b'\r')
}

/// Whether bytes are the start of an HTTP request. Only the method is checked, so that a request
/// line of any length is recognized at once.
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
/// Liberal, because clients send any kind of name. It must be there, printable and no longer than a
/// domain; only the Received field depends on whether it is a domain ([`is_hello_name`]).
pub fn read_hello(argument: &str) -> Result<&str, CommandFault> {
    let printable = argument.bytes().all(|byte| (32..=126).contains(&byte));
    if argument.is_empty() || argument.len() > DOMAIN_BYTES_MAX || !printable {
        return Err(CommandFault::HelloName);
    }
    Ok(argument)
}

/// Whether the name is valid for EHLO: a domain or an address literal (RFC 5321 4.1.1.1).
pub fn is_hello_name(name: &str) -> bool {
    is_domain(name) || read_literal(name).is_some()
}

/// For commands that take no argument.
pub fn read_nothing(argument: &str) -> Result<(), CommandFault> {
    if argument.is_empty() { Ok(()) } else { Err(CommandFault::ArgumentNotAllowed) }
}

/// Checks the argument of VRFY and EXPN: any text, but not empty. With bytes above 127 it must end
/// in SMTPUTF8 (RFC 6531 3.7.4.2).
pub fn read_question(argument: &str) -> Result<(), CommandFault> {
    if argument.is_empty() {
        Err(CommandFault::ArgumentMissing)
    } else {
        check_ascii(argument, true, Side::Recipient)
    }
}

/// The argument of BDAT: the size of the chunk in bytes, and whether it is the last (RFC 3030 2).
pub fn read_chunk(argument: &str) -> Option<(u64, bool)> {
    let (digits, last) = match argument.split_once([' ', '\t']) {
        Some((digits, word)) if word.trim_ascii().eq_ignore_ascii_case("LAST") => (digits, true),
        Some(_) => return None,
        None => (argument, false),
    };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(|size| (size, last))
}

/// The argument of ETRN (RFC 1985 5): a domain; with `@` before it, also its subdomains.
pub fn read_etrn(argument: &str) -> Result<(&str, bool), CommandFault> {
    const FAULT: CommandFault = CommandFault::Value("Syntax: ETRN domain, or ETRN @domain");
    let (domain, with_below) = match argument.strip_prefix('@') {
        Some(domain) => (domain, true),
        None => (argument, false),
    };
    if is_domain(domain) { Ok((domain, with_below)) } else { Err(FAULT) }
}

/// What MAIL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The reverse-path.
    pub reverse_path: ReversePath,
    /// What follows it.
    pub parameters: MailParameters,
}

/// Reads the argument of MAIL.
pub fn read_mail(argument: &str, offered: Offered) -> Result<Mail, CommandFault> {
    let side = Side::Sender;
    check_ascii(argument, offered.extended, side)?;
    let (path, rest) = read_address(argument, "FROM:", side, offered.syntax)?;
    if let Path::Postmaster(_) = path {
        return Err(CommandFault::Path(side, PathFault::NoDomain));
    }
    let parameters = read_mail_parameters(rest, offered)?;
    if !argument.is_ascii() && !parameters.options.smtp_utf8 {
        return Err(CommandFault::AddressNotAscii(side));
    }
    Ok(Mail { reverse_path: path.to_address(), parameters })
}

/// Without SMTPUTF8, bytes above 127 are not allowed (RFC 6531 3.1).
fn check_ascii(argument: &str, extended: bool, side: Side) -> Result<(), CommandFault> {
    if argument.is_ascii() || extended && names_smtp_utf8(argument) {
        Ok(())
    } else {
        Err(CommandFault::AddressNotAscii(side))
    }
}

/// What RCPT may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RcptSyntax {
    /// Parameters: the session began with EHLO.
    pub extended: bool,
    /// Addresses in UTF-8: MAIL asked for SMTPUTF8.
    pub smtp_utf8: bool,
    /// Syntax of the address.
    pub syntax: Syntax,
}

/// Reads the argument of RCPT: a mailbox or the postmaster, and what is asked for it.
pub fn read_rcpt(argument: &str, offered: RcptSyntax) -> Result<Recipient, CommandFault> {
    let side = Side::Recipient;
    if !argument.is_ascii() && !offered.smtp_utf8 {
        return Err(CommandFault::AddressNotAscii(side));
    }
    let (path, rest) = read_address(argument, "TO:", side, offered.syntax)?;
    let address = path.to_address().ok_or(CommandFault::Path(side, PathFault::Null))?;
    let mut recipient = Recipient::plain(address);
    read_rcpt_parameters(rest, offered.extended, &mut recipient)?;
    Ok(recipient)
}

/// `FROM:` or `TO:` and the path. Spaces after the colon violate RFC 5321 3.3, but are so common
/// that they are accepted.
fn read_address<'a>(
    argument: &'a str,
    keyword: &str,
    side: Side,
    syntax: Syntax,
) -> Result<(Path<'a>, &'a str), CommandFault> {
    let after = match argument.split_at_checked(keyword.len()) {
        Some((word, after)) if word.eq_ignore_ascii_case(keyword) => after,
        _ => return Err(CommandFault::Keyword(side)),
    };
    let (path, rest) = read_path_as(after.trim_start_matches([' ', '\t']), syntax)
        .map_err(|fault| CommandFault::Path(side, fault))?;
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return Err(CommandFault::Parameter);
    }
    Ok((path, rest))
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Address, Body, DsnNotify, Options};

    const EXTENDED: Offered = Offered {
        extended: true,
        scheduling: false,
        require_tls: false,
        auth: false,
        syntax: Syntax::Strict,
    };

    fn rcpt(text: &str, smtp_utf8: bool) -> Result<Recipient, CommandFault> {
        read_rcpt(text, RcptSyntax { extended: true, smtp_utf8, syntax: Syntax::Strict })
    }

    #[test]
    fn verbs_are_read_in_any_case_and_split_from_their_argument() {
        assert_eq!(read_command(b"NOOP"), Ok((Verb::Noop, "")));
        assert_eq!(read_command(b"qUiT  \t "), Ok((Verb::Quit, "")));
        assert_eq!(read_command(b"EHLO  a.example "), Ok((Verb::Ehlo, "a.example")));
        assert_eq!(read_command(b"mail\tFROM:<>"), Ok((Verb::Mail, "FROM:<>")));
    }

    #[test]
    fn lines_that_are_not_commands() {
        for (line, fault) in [
            (&b""[..], CommandFault::Unknown),
            (b" NOOP", CommandFault::Unknown),
            (b"NOOPS", CommandFault::Unknown),
            (b"GET", CommandFault::Unknown),
            (b"turn", CommandFault::NotImplemented),
            (b"ATRN", CommandFault::NotImplemented),
            (b"NOOP \0", CommandFault::ControlCharacter),
            (b"NOOP \x7f", CommandFault::ControlCharacter),
            (b"\x1b[A", CommandFault::Unknown),
            (b"MAIL FROM:<\xff@b>", CommandFault::AddressNotAscii(Side::Sender)),
            (b"RCPT TO:<\xff@b>", CommandFault::AddressNotAscii(Side::Recipient)),
            (b"EHLO b\xc3\xbccher", CommandFault::HelloName),
            (b"NOOP \xff", CommandFault::NotAscii),
            (b"\xc3\xbc", CommandFault::NotAscii),
        ] {
            assert_eq!(read_command(line), Err(fault), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn rfc2920_3_2_only_replies_to_these_commands_may_be_grouped() {
        for line in ["MAIL FROM:<>\r\n", "rcpt\tTO:<a@b>\r\n", "RSET\r\nNOOP\r\n", "BDAT 5"] {
            assert!(may_be_grouped(line.as_bytes()), "{line}");
        }
        for line in ["EHLO a\r\n", "DATA\r\n", "NOOP\r\n", "QUIT\r\n", "RSETS\r\n", "\r\n", ""] {
            assert!(!may_be_grouped(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn rfc3030_2_a_chunk_has_a_size_and_may_be_the_last() {
        assert_eq!(read_chunk("86"), Some((86, false)));
        assert_eq!(read_chunk("0  last"), Some((0, true)));
        assert_eq!(read_chunk("18446744073709551615 LAST"), Some((u64::MAX, true)));
        for argument in ["", "LAST", "+5", "-1", "5 5", "5 LAST x", "18446744073709551616", "0x5"] {
            assert_eq!(read_chunk(argument), None, "{argument}");
        }
    }

    #[test]
    fn rfc1985_5_etrn_names_a_domain_with_or_without_its_subdomains() {
        assert_eq!(read_etrn("example.com"), Ok(("example.com", false)));
        assert_eq!(read_etrn("@Example.com"), Ok(("Example.com", true)));
        for argument in ["", "@", "#queue", "a b", "a..b", "<a@b>"] {
            assert!(matches!(read_etrn(argument), Err(CommandFault::Value(_))), "{argument}");
        }
    }

    #[test]
    fn mail_takes_a_path_and_its_parameters() {
        let mail = |text| read_mail(text, EXTENDED);
        let parameters = MailParameters::default();
        let plain = Mail { reverse_path: Some(Address::new("a@b")), parameters };
        assert_eq!(mail("FROM:<a@b>").as_ref(), Ok(&plain));
        assert_eq!(mail("from: \t<a@b>"), Ok(plain));
        let options = Options { body: Body::EightBitMime, ..Options::default() };
        let parameters = MailParameters { size: Some(500), options, ..MailParameters::default() };
        assert_eq!(
            mail("FROM:<> size=500  BODY=8bitmime"),
            Ok(Mail { reverse_path: None, parameters })
        );
        let body = mail("FROM:<a@b> BODY=7BIT").map(|mail| mail.parameters.options.body);
        assert_eq!(body, Ok(Body::SevenBit));
        let size = mail("FROM:<a@b> SIZE=99999999999999999999").map(|mail| mail.parameters.size);
        assert_eq!(size, Ok(Some(u64::MAX)));
    }

    #[test]
    fn faults_of_mail_are_distinguished() {
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
            ("FROM:<a@b> SIZE=1 size=1", ParameterTwice),
            ("FROM:<a@b> BODY=7BIT BODY=8BITMIME", ParameterTwice),
            ("FROM:<a@b> X=FULL", ParameterUnknown),
        ] {
            assert_eq!(read_mail(text, EXTENDED).map(|_| ()), Err(fault), "{text}");
        }
        for text in ["SIZE", "SIZE=-1", "SIZE=100000000000000000000", "BODY", "BODY=9BIT"] {
            let text = format!("FROM:<a@b> {text}");
            assert!(matches!(read_mail(&text, EXTENDED), Err(Value(_))), "{text}");
        }
        assert_eq!(
            read_mail("FROM:<a@b> SIZE=1", Offered::default()),
            Err(ParameterUnknown),
            "after HELO"
        );
    }

    #[test]
    fn rfc6531_3_1_addresses_beyond_ascii_need_smtputf8() {
        let mail = |text| read_mail(text, EXTENDED).map(|mail| mail.reverse_path);
        let path = Address::new("\u{fc}@b\u{fc}cher.example");
        assert_eq!(mail("FROM:<\u{fc}@b\u{fc}cher.example> SMTPUTF8"), Ok(Some(path)));
        for text in
            ["FROM:<\u{fc}@b>", "FROM:<\u{fc}@b> BODY=8BITMIME", "FROM:<\" SMTPUTF8 \u{fc}\"@b>"]
        {
            assert_eq!(mail(text), Err(CommandFault::AddressNotAscii(Side::Sender)), "{text}");
        }
        let after_helo = read_mail("FROM:<\u{fc}@b> SMTPUTF8", Offered::default());
        assert_eq!(after_helo, Err(CommandFault::AddressNotAscii(Side::Sender)));
        let rcpt = |text, utf8| rcpt(text, utf8).map(|rcpt| rcpt.address);
        assert_eq!(rcpt("TO:<\u{fc}@b>", true), Ok(Address::new("\u{fc}@b")));
        let refused = CommandFault::AddressNotAscii(Side::Recipient);
        assert_eq!(rcpt("TO:<\u{fc}@b>", false), Err(refused));
        assert_eq!(read_question("\u{fc} SMTPUTF8"), Ok(()));
        assert_eq!(read_question("\u{fc}"), Err(refused));
        assert_eq!(CommandFault::AddressNotAscii(Side::Sender).reply().code, 550, "RFC 6531 3.5");
        assert_eq!(refused.reply().code, 553);
    }

    #[test]
    fn rcpt_takes_a_mailbox_or_the_postmaster() {
        use CommandFault::{Keyword, Parameter, ParameterUnknown};
        let read = |text| rcpt(text, false);
        assert_eq!(read("TO:<a@b>"), Ok(Recipient::plain(Address::new("a@b"))));
        assert_eq!(read("to: <POSTMASTER>"), Ok(Recipient::plain(Address::new("POSTMASTER"))));
        let notify = read("TO:<a@b> NOTIFY=NEVER").map(|rcpt| rcpt.notify);
        assert_eq!(notify, Ok(Some(DsnNotify::default())));
        for (text, fault) in [
            ("FROM:<a@b>", Keyword(Side::Recipient)),
            ("TO:<>", CommandFault::Path(Side::Recipient, PathFault::Null)),
            ("TO:<a>", CommandFault::Path(Side::Recipient, PathFault::NoDomain)),
            ("TO:<a@b> RET=FULL", ParameterUnknown),
            ("TO:<a@b> NOTIFY=", Parameter),
            ("TO:<a@b> <c@d>", Parameter),
        ] {
            assert_eq!(read(text).map(|_| ()), Err(fault), "{text}");
        }
    }

    #[test]
    fn hello_names_may_be_odd_but_not_missing_or_too_long() {
        assert_eq!(read_hello("my pc (home)"), Ok("my pc (home)"));
        assert_eq!(read_hello(""), Err(CommandFault::HelloName));
        assert_eq!(read_hello("a\tb"), Err(CommandFault::HelloName));
        assert!(read_hello(&"x".repeat(255)).is_ok());
        assert_eq!(read_hello(&"x".repeat(256)), Err(CommandFault::HelloName));
        assert!(is_hello_name("a.example") && is_hello_name("[192.0.2.1]"));
        assert!(!is_hello_name("my pc") && !is_hello_name("[a.example]"));
    }

    #[test]
    fn other_protocols_are_recognized_by_their_first_bytes() {
        assert!(is_tls(b"\x16\x03\x01\x02\x00"));
        assert!(!is_tls(b"\x16"));
        assert!(is_http(b"GET / HTTP/1.0\r\n"));
        assert!(!is_http(b"GETTY"));
    }
}
