//! Parameters of MAIL and RCPT (RFC 5321 4.1.2), each with the RFC that it comes from. *Pure.*
//!
//! The text after a path goes in; values come out, or a fault whose text says what would be right.
//! The caller says which parameters are offered; their effect is not known here.

use super::fault::CommandFault;
use super::lenient::Syntax;
use crate::message::{
    Body, ByMode, DeliverBy, DsnNotify, DsnReturn, Options, Recipient, Timestamp,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Longest value of ENVID, in bytes (RFC 3461 4.4).
const ENVELOPE_ID_BYTES_MAX: usize = 100;
/// Longest value of ORCPT, in bytes (RFC 3461 4.2).
const ORIGINAL_BYTES_MAX: usize = 500;

/// The parameters that are offered to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// Any parameters: the session began with EHLO (RFC 5321 2.2.1).
    pub extended: bool,
    /// Scheduling: MT-PRIORITY, HOLDFOR, HOLDUNTIL, BY.
    pub scheduling: bool,
    /// REQUIRETLS: the session has TLS.
    pub require_tls: bool,
    /// AUTH (RFC 4954).
    pub auth: bool,
    /// Syntax of the address.
    pub syntax: Syntax,
}

/// Until when a message is held (RFC 4865).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// HOLDFOR= in seconds.
    For(u32),
    /// HOLDUNTIL=.
    Until(Timestamp),
}

/// In how many seconds the message must be delivered, and what happens otherwise (RFC 2852 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// The seconds; greater than 0 with [`ByMode::Return`].
    pub seconds: i32,
    /// What happens after that time.
    pub mode: ByMode,
    /// `T`.
    pub trace: bool,
}

/// What MAIL says behind the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// What is kept with the message as it was given.
    pub options: Options,
    /// SIZE= in bytes (RFC 1870); a number too large to hold counts as the largest.
    pub size: Option<u64>,
    /// HOLDFOR= or HOLDUNTIL=. Becomes an option with the time of the command, as BY does.
    pub hold: Option<Hold>,
    /// BY=.
    pub by: Option<By>,
}

/// Reads the parameters of MAIL.
pub(super) fn read_mail_parameters(
    words: &str,
    offered: Offered,
) -> Result<MailParameters, CommandFault> {
    let mut known = MailParameters::default();
    let options = &mut known.options;
    // Their defaults can be given, too.
    let (mut body, mut priority) = (None, None);
    for (keyword, value) in parameters(words) {
        let (keyword, value) = check(keyword, value)?;
        match () {
            () if !offered.extended => return Err(CommandFault::ParameterUnknown),
            () if keyword.eq_ignore_ascii_case("SIZE") => {
                set_once(&mut known.size, read_size(value)?)?;
            }
            () if keyword.eq_ignore_ascii_case("BODY") => {
                set_once(&mut body, read_body(value)?)?;
            }
            () if keyword.eq_ignore_ascii_case("RET") => {
                set_once(&mut options.dsn_return, read_return(value)?)?;
            }
            () if keyword.eq_ignore_ascii_case("ENVID") => {
                set_once(&mut options.dsn_envelope_id, read_envelope_id(value)?.into())?;
            }
            () if keyword.eq_ignore_ascii_case("SMTPUTF8") => {
                set_flag(&mut options.smtp_utf8, value, "SMTPUTF8 takes no value")?;
            }
            // The original submitter (RFC 4954 5). No client is trusted to say that, which the RFC
            // allows.
            () if keyword.eq_ignore_ascii_case("AUTH")
                && (offered.auth || offered.syntax != Syntax::Strict) =>
            {
                value.filter(|value| is_printable_xtext(value)).ok_or(CommandFault::Parameter)?;
            }
            () if keyword.eq_ignore_ascii_case("REQUIRETLS") && offered.require_tls => {
                set_flag(&mut options.require_tls, value, "REQUIRETLS takes no value")?;
            }
            () if keyword.eq_ignore_ascii_case("REQUIRETLS") => {
                return Err(CommandFault::NeedsTls);
            }
            () if !offered.scheduling => return Err(CommandFault::ParameterUnknown),
            () if keyword.eq_ignore_ascii_case("MT-PRIORITY") => {
                set_once(&mut priority, read_priority(value)?)?;
            }
            () if keyword.eq_ignore_ascii_case("BY") => {
                set_once(&mut known.by, read_by(value)?)?;
            }
            // Only one of them, and once (RFC 4865 5).
            () if keyword.eq_ignore_ascii_case("HOLDFOR") => {
                set_once(&mut known.hold, read_hold_for(value)?)?;
            }
            () if keyword.eq_ignore_ascii_case("HOLDUNTIL") => {
                set_once(&mut known.hold, read_hold_until(value)?)?;
            }
            () => return Err(CommandFault::ParameterUnknown),
        }
    }
    options.body = body.unwrap_or_default();
    options.priority = priority.unwrap_or_default();
    Ok(known)
}

/// Reads the parameters of RCPT.
pub(super) fn read_rcpt_parameters(
    words: &str,
    extended: bool,
    recipient: &mut Recipient,
) -> Result<(), CommandFault> {
    for (keyword, value) in parameters(words) {
        let (keyword, value) = check(keyword, value)?;
        match () {
            () if !extended => return Err(CommandFault::ParameterUnknown),
            () if keyword.eq_ignore_ascii_case("NOTIFY") => {
                set_once(&mut recipient.notify, read_notify(value)?)?;
            }
            () if keyword.eq_ignore_ascii_case("ORCPT") => {
                set_once(&mut recipient.original, read_original(value)?.into())?;
            }
            () => return Err(CommandFault::ParameterUnknown),
        }
    }
    Ok(())
}

/// Whether a command has the parameter SMTPUTF8, so that bytes above 127 are allowed.
pub(super) fn names_smtp_utf8(argument: &str) -> bool {
    argument.split([' ', '\t']).any(|word| word.eq_ignore_ascii_case("SMTPUTF8"))
}

fn parameters(words: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let words = words.split([' ', '\t']).filter(|word| !word.is_empty());
    words.map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

/// `KEYWORD` or `KEYWORD=value` (RFC 5321 4.1.2 esmtp-param, RFC 6531 3.3 for bytes above 127).
fn check<'a>(
    keyword: &'a str,
    value: Option<&'a str>,
) -> Result<(&'a str, Option<&'a str>), CommandFault> {
    let good_keyword = keyword.starts_with(|first: char| first.is_ascii_alphanumeric())
        && keyword.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let good_value = value.is_none_or(|value| {
        !value.is_empty() && value.bytes().all(|byte| matches!(byte, 33..=60 | 62..=126 | 128..))
    });
    if good_keyword && good_value { Ok((keyword, value)) } else { Err(CommandFault::Parameter) }
}

fn set_once<T>(place: &mut Option<T>, value: T) -> Result<(), CommandFault> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(CommandFault::ParameterTwice),
    }
}

/// A parameter without a value.
fn set_flag(
    place: &mut bool,
    value: Option<&str>,
    takes_none: &'static str,
) -> Result<(), CommandFault> {
    if value.is_some() {
        return Err(CommandFault::Value(takes_none));
    }
    if std::mem::replace(place, true) { Err(CommandFault::ParameterTwice) } else { Ok(()) }
}

/// 1 to 20 digits (RFC 1870 4).
fn read_size(value: Option<&str>) -> Result<u64, CommandFault> {
    const FAULT: CommandFault =
        CommandFault::Value("SIZE must be a number of bytes of at most 20 digits");
    let digits = value.ok_or(FAULT)?;
    if digits.len() > 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(FAULT);
    }
    Ok(digits.parse().unwrap_or(u64::MAX))
}

fn read_body(value: Option<&str>) -> Result<Body, CommandFault> {
    const FAULT: CommandFault = CommandFault::Value("BODY must be 7BIT, 8BITMIME or BINARYMIME");
    value.and_then(Body::parse).ok_or(FAULT)
}

/// -9 to 9, in one digit (RFC 6710 4).
fn read_priority(value: Option<&str>) -> Result<i8, CommandFault> {
    const FAULT: CommandFault = CommandFault::Value("MT-PRIORITY must be a number from -9 to 9");
    let text = value.ok_or(FAULT)?;
    match text.strip_prefix('-').unwrap_or(text).as_bytes() {
        [b'0'..=b'9'] => text.parse().map_err(|_| FAULT),
        _ => Err(FAULT),
    }
}

/// by-time, semicolon, by-mode and optionally `T` (RFC 2852 4): `120;R`, `-5;NT`.
fn read_by(value: Option<&str>) -> Result<By, CommandFault> {
    const FAULT: CommandFault = CommandFault::Value(
        "BY must be seconds (at most 9 digits), a semicolon, R or N, and optionally T: 120;R",
    );
    let (time, letters) = value.and_then(|value| value.split_once(';')).ok_or(FAULT)?;
    let (mode, trace) = DeliverBy::read_letters(letters).ok_or(FAULT)?;
    let digits = time.strip_prefix(['+', '-']).unwrap_or(time);
    let is_number = (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let seconds: i32 = time.parse().ok().filter(|_| is_number).ok_or(FAULT)?;
    if mode == ByMode::Return && seconds <= 0 {
        return Err(CommandFault::Value("BY with mode R requires a time greater than 0"));
    }
    Ok(By { seconds, mode, trace })
}

fn read_hold_for(value: Option<&str>) -> Result<Hold, CommandFault> {
    const FAULT: CommandFault =
        CommandFault::Value("HOLDFOR must be a number of seconds of at most 9 digits");
    let digits = value.filter(|text| (1..=9).contains(&text.len())).ok_or(FAULT)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(Hold::For).ok_or(FAULT)
}

fn read_hold_until(value: Option<&str>) -> Result<Hold, CommandFault> {
    const FAULT: CommandFault =
        CommandFault::Value("HOLDUNTIL must be a date such as 2026-11-24T06:00:00Z");
    let date = OffsetDateTime::parse(value.ok_or(FAULT)?, &Rfc3339).map_err(|_| FAULT)?;
    let milliseconds = date.unix_timestamp_nanos() / 1_000_000;
    u64::try_from(milliseconds).map(|at| Hold::Until(Timestamp(at))).map_err(|_| FAULT)
}

fn read_return(value: Option<&str>) -> Result<DsnReturn, CommandFault> {
    const FAULT: CommandFault = CommandFault::Value("RET must be FULL or HDRS");
    value.and_then(DsnReturn::parse).ok_or(FAULT)
}

fn read_envelope_id(value: Option<&str>) -> Result<&str, CommandFault> {
    match value {
        Some(value) if value.len() <= ENVELOPE_ID_BYTES_MAX && is_printable_xtext(value) => {
            Ok(value)
        }
        _ => Err(CommandFault::Value("ENVID must be xtext of printable ASCII, at most 100 bytes")),
    }
}

/// NEVER, or a list of the others (RFC 3461 4.1).
fn read_notify(value: Option<&str>) -> Result<DsnNotify, CommandFault> {
    const FAULT: CommandFault =
        CommandFault::Value("NOTIFY must be NEVER, or SUCCESS, FAILURE, DELAY separated by commas");
    value.and_then(DsnNotify::parse).ok_or(FAULT)
}

/// `type;address`: the type is an atom; the address is xtext, except for the type utf-8.
fn read_original(value: Option<&str>) -> Result<&str, CommandFault> {
    const FAULT: CommandFault =
        CommandFault::Value("ORCPT must be rfc822; or utf-8; and the encoded address");
    let value = value.filter(|value| value.len() <= ORIGINAL_BYTES_MAX).ok_or(FAULT)?;
    let (kind, address) = value.split_once(';').ok_or(FAULT)?;
    let is_atom = !kind.is_empty()
        && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let is_address = if kind.eq_ignore_ascii_case("utf-8") {
        is_utf8_address(address)
    } else {
        is_printable_xtext(address)
    };
    if is_atom && !address.is_empty() && is_address { Ok(value) } else { Err(FAULT) }
}

/// xtext (RFC 3461 4): printable ASCII except `+` and `=`, or `+` and two upper-case hex digits.
/// The decoded text is written into reports, so it must be printable too (RFC 3461 4.4).
fn is_printable_xtext(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let meant = match byte {
            b'+' => match (bytes.next().and_then(hex_digit), bytes.next().and_then(hex_digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return false,
            },
            33..=60 | 62..=126 => byte,
            _ => return false,
        };
        if !(32..=126).contains(&meant) {
            return false;
        }
    }
    true
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// utf-8-addr-xtext and utf-8-addr-unitext (RFC 6533 3): UTF-8, in which `\x{HEX}` stands for
/// characters that are not allowed there.
fn is_utf8_address(text: &str) -> bool {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\\' => match embedded_length(rest) {
                Some(length) => length,
                None => return false,
            },
            '+' | '=' => return false,
            '!'..='~' => 1,
            first if first.is_ascii() || first.is_control() => return false,
            first => first.len_utf8(),
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    true
}

/// The length of `\x{HEX}` at the start of `text`, if that is a character other than a control.
fn embedded_length(text: &str) -> Option<usize> {
    let (digits, _) = text.strip_prefix("\\x{")?.split_once('}')?;
    let in_form = (2..=6).contains(&digits.len()) && digits.bytes().all(|b| hex_digit(b).is_some());
    let number = u32::from_str_radix(digits, 16).ok().filter(|_| in_form)?;
    char::from_u32(number).filter(|meant| !meant.is_control())?;
    Some("\\x{}".len() + digits.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Address;

    fn mail(words: &str) -> Result<MailParameters, CommandFault> {
        read_mail_parameters(words, Offered { extended: true, ..Offered::default() })
    }

    fn original(value: &str) -> bool {
        read_original(Some(value)).is_ok()
    }

    #[test]
    fn rfc3461_4_1_notify_is_either_never_or_a_list() {
        let notify = |success, failure, delay| Ok(DsnNotify { success, failure, delay });
        assert_eq!(read_notify(Some("never")), notify(false, false, false));
        assert_eq!(read_notify(Some("SUCCESS")), notify(true, false, false));
        assert_eq!(read_notify(Some("delay,Failure")), notify(false, true, true));
        for value in ["NEVER,SUCCESS", "SUCCESS,NEVER", "", ",", "SUCCESS,", "ALWAYS"] {
            assert!(read_notify(Some(value)).is_err(), "{value}");
        }
        assert!(read_notify(None).is_err());
    }

    #[test]
    fn rfc3461_4_2_original_recipient_is_a_type_and_xtext() {
        for value in ["rfc822;a@b", "RFC822;a+2Bb@c", "x400;/C=US/".replace('=', "+3D").as_str()] {
            assert!(original(value), "{value}");
        }
        for value in [
            "a@b",
            "rfc822;",
            ";a@b",
            "rfc 822;a@b",
            "rfc822;a+2bb@c",
            "rfc822;a+2",
            "rfc822;a+0Ab@c",
            "rfc822;a+FFb@c",
            "rfc822;\u{fc}@b",
        ] {
            assert!(!original(value), "{value}");
        }
        let long = |length: usize| format!("rfc822;{}", "x".repeat(length - 7));
        assert!(original(&long(500)) && !original(&long(501)));
    }

    #[test]
    fn rfc6533_3_original_recipient_may_be_utf8() {
        for value in [
            "utf-8;a@b",
            "UTF-8;\\x{FC}@b",
            "utf-8;\u{fc}@b\u{fc}cher.example",
            "utf-8;a\\x{2B}b@c",
        ] {
            assert!(original(value), "{value}");
        }
        for value in [
            "utf-8;a+2Bb@c",
            "utf-8;a\\b@c",
            "utf-8;\\x{fc}@b",
            "utf-8;\\x{A}@b",
            "utf-8;\\x{0A}@b",
            "utf-8;\\x{D800}@b",
            "utf-8;\\x{1234567}@b",
            "utf-8;\\x{FC",
            "utf-8;\u{85}@b",
        ] {
            assert!(!original(value), "{value}");
        }
    }

    #[test]
    fn rfc3461_4_3_and_4_4_return_and_envelope_id() {
        let options = |words| mail(words).map(|read| read.options);
        let both = options(" RET=HDRS ENVID=QQ314159").unwrap_or_default();
        assert_eq!(both.dsn_return, Some(DsnReturn::Headers));
        assert_eq!(both.dsn_envelope_id.as_deref(), Some("QQ314159"));
        let full = options("ret=full").unwrap_or_default();
        assert_eq!(full.dsn_return, Some(DsnReturn::Full));
        let long = format!("ENVID={}", "x".repeat(101));
        for words in ["RET", "RET=ALL", "ENVID", "ENVID=a+0D+0Ab", "ENVID=a+b", long.as_str()] {
            assert!(matches!(mail(words), Err(CommandFault::Value(_))), "{words}");
        }
        for words in ["RET=FULL RET=FULL", "ENVID=a ENVID=a", "SMTPUTF8 SMTPUTF8"] {
            assert_eq!(mail(words), Err(CommandFault::ParameterTwice), "{words}");
        }
    }

    #[test]
    fn rfc6531_3_4_smtputf8_takes_no_value() {
        assert_eq!(mail("smtputf8").map(|read| read.options.smtp_utf8), Ok(true));
        assert!(matches!(mail("SMTPUTF8=YES"), Err(CommandFault::Value(_))));
        assert!(names_smtp_utf8("FROM:<a@b> BODY=8BITMIME SMTPUTF8"));
        assert!(!names_smtp_utf8("FROM:<SMTPUTF8@b>"));
    }

    #[test]
    fn scheduling_parameters_are_accepted_only_where_they_are_offered() {
        let offered = Offered { extended: true, scheduling: true, ..Offered::default() };
        let read = |words| read_mail_parameters(words, offered);
        for (words, priority) in
            [("MT-PRIORITY=9", 9), ("mt-priority=-9", -9), ("MT-PRIORITY=0", 0)]
        {
            assert_eq!(read(words).map(|read| read.options.priority), Ok(priority), "{words}");
            assert_eq!(mail(words), Err(CommandFault::ParameterUnknown));
        }
        let hold = |words| read(words).map(|read| read.hold);
        assert_eq!(hold("HOLDFOR=86400"), Ok(Some(Hold::For(86_400))));
        let until = Hold::Until(Timestamp(1_795_459_019_000));
        assert_eq!(hold("HOLDUNTIL=2026-11-23T18:36:59Z"), Ok(Some(until)));
        assert_eq!(hold("HOLDUNTIL=2026-11-23T20:36:59+02:00"), Ok(Some(until)));
        for words in [
            "MT-PRIORITY",
            "MT-PRIORITY=10",
            "MT-PRIORITY=+1",
            "MT-PRIORITY=-",
            "MT-PRIORITY=--1",
            "HOLDFOR",
            "HOLDFOR=-1",
            "HOLDFOR=1234567890",
            "HOLDUNTIL=tomorrow",
            "HOLDUNTIL=1969-01-01T00:00:00Z",
            "HOLDUNTIL",
        ] {
            assert!(matches!(read(words), Err(CommandFault::Value(_))), "{words}");
        }
        for twice in ["HOLDFOR=1 HOLDUNTIL=2026-11-23T18:36:59Z", "MT-PRIORITY=0 MT-PRIORITY=0"] {
            assert_eq!(read(twice), Err(CommandFault::ParameterTwice), "RFC 4865 5: {twice}");
        }
    }

    #[test]
    fn rfc8689_4_2_requiretls_needs_tls() {
        let offered = Offered { extended: true, require_tls: true, ..Offered::default() };
        let read = |words| read_mail_parameters(words, offered);
        assert_eq!(read("requiretls").map(|read| read.options.require_tls), Ok(true));
        assert!(matches!(read("REQUIRETLS=YES"), Err(CommandFault::Value(_))));
        assert_eq!(mail("REQUIRETLS"), Err(CommandFault::NeedsTls));
    }

    #[test]
    fn after_helo_there_are_no_parameters() {
        assert_eq!(
            read_mail_parameters("SIZE=1", Offered::default()),
            Err(CommandFault::ParameterUnknown)
        );
        assert_eq!(
            read_rcpt_parameters("NOTIFY=NEVER", false, &mut Recipient::plain(Address::new("a@b"))),
            Err(CommandFault::ParameterUnknown)
        );
    }
}
