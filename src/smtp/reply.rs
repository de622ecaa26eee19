//! Our replies as values (RFC 5321 4.2, RFC 2034, RFC 3463), each with a name. *Pure.*
//!
//! The constants stand in the order of code, enhanced status, text. Texts are for the human who
//! reads the other side's log: short, what was wrong, what would be right. Nothing the client sent
//! is repeated in them.

use crate::message::Status;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A reply of ours as a value: code, enhanced status, text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// Left out only in the greeting, the reply to EHLO and HELO, and 354 (RFC 2034 4).
    pub status: Option<Status>,
    /// One line, or several parted by `\n`. Printable ASCII.
    pub text: Cow<'static, str>,
}

const fn with(code: u16, status: Status, text: &'static str) -> Reply {
    Reply { code, status: Some(status), text: Cow::Borrowed(text) }
}

const fn bare(code: u16, text: &'static str) -> Reply {
    Reply { code, status: None, text: Cow::Borrowed(text) }
}

impl Reply {
    /// HELP.
    pub const HELP: Reply = with(
        214,
        Status(2, 0, 0),
        "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY ETRN STARTTLS HELP QUIT\n\
         HELP command says more of each\n\
         A message: EHLO your.name, MAIL FROM:<sender@domain>, RCPT TO:<recipient@domain>, DATA\n\
         Lines end with CR LF; a line with a single dot ends the message (RFC 5321)",
    );
    /// STARTTLS.
    pub const READY_FOR_TLS: Reply = with(220, Status(2, 0, 0), "Ready to start TLS");
    /// STARTTLS a second time.
    pub const TLS_ALREADY: Reply = with(503, Status(5, 5, 1), "TLS is on already");
    /// REQUIRETLS without TLS (RFC 8689 4.2).
    pub const PARAMETER_NEEDS_TLS: Reply =
        with(530, Status(5, 7, 10), "REQUIRETLS goes with TLS only; say STARTTLS first");
    /// Mail before STARTTLS, where it is demanded (RFC 3207 4).
    pub const TLS_FIRST: Reply = with(530, Status(5, 7, 0), "Say STARTTLS first");
    /// AUTH: it is he (RFC 4954 6, as all that follow).
    pub const AUTHENTICATED: Reply = with(235, Status(2, 7, 0), "Authentication succeeded");
    /// AUTH: not now.
    pub const AUTH_TROUBLE: Reply =
        with(454, Status(4, 7, 0), "Cannot check that now; try again later");
    /// AUTH: a message that is too long, not base64, or `*`.
    pub const AUTH_NOT_BASE64: Reply = with(501, Status(5, 5, 2), "That is not base64 (RFC 4648)");
    /// AUTH: `*`.
    pub const AUTH_CANCELLED: Reply = with(501, Status(5, 7, 0), "Authentication cancelled");
    /// AUTH: base64 of something else.
    pub const AUTH_MALFORMED: Reply =
        with(501, Status(5, 5, 2), "That is not a message of this mechanism");
    /// AUTH without a mechanism, or with too much.
    pub const AUTH_SYNTAX: Reply =
        with(501, Status(5, 5, 4), "Write AUTH MECHANISM, or AUTH MECHANISM initial-response");
    /// AUTH after HELO.
    pub const EHLO_FIRST: Reply = with(503, Status(5, 5, 1), "Send EHLO first");
    /// AUTH a second time.
    pub const AUTH_ALREADY: Reply = with(503, Status(5, 5, 1), "You are authenticated already");
    /// AUTH after MAIL.
    pub const AUTH_IN_TRANSACTION: Reply =
        with(503, Status(5, 5, 1), "A transaction is open; AUTH comes before MAIL");
    /// AUTH with another mechanism.
    pub const AUTH_UNKNOWN_MECHANISM: Reply =
        with(504, Status(5, 5, 4), "No such mechanism here; EHLO lists what is");
    /// MAIL before AUTH, where it is demanded.
    pub const AUTH_FIRST: Reply =
        with(530, Status(5, 7, 0), "Authentication required; say AUTH first");
    /// AUTH: wrong.
    pub const AUTH_WRONG: Reply =
        with(535, Status(5, 7, 8), "Name or password is wrong, or neither is known here");
    /// AUTH: one user for another.
    pub const AUTH_OTHER_IDENTITY: Reply =
        with(535, Status(5, 7, 8), "One user cannot act for another here");
    /// AUTH EXTERNAL by a certificate of several users.
    pub const AUTH_WHICH_USER: Reply =
        with(535, Status(5, 7, 8), "This certificate is of several users; name the one you are");
    /// AUTH in the clear.
    pub const AUTH_NEEDS_TLS: Reply =
        with(538, Status(5, 7, 11), "Encryption required; say STARTTLS first");
    /// QUIT.
    pub const BYE: Reply = with(221, Status(2, 0, 0), "Bye");
    /// RSET, NOOP.
    pub const OK: Reply = with(250, Status(2, 0, 0), "OK");
    /// ETRN.
    pub const HASTENED: Reply = with(250, Status(2, 0, 0), "What waits there is tried now");
    /// ETRN for a domain for which nothing waits.
    pub const NOTHING_WAITS: Reply =
        with(251, Status(2, 0, 0), "Nothing waits there that may be tried");
    /// MAIL.
    pub const SENDER_OK: Reply = with(250, Status(2, 1, 0), "Sender OK");
    /// RCPT.
    pub const RECIPIENT_OK: Reply = with(250, Status(2, 1, 5), "Recipient OK");
    /// VRFY: a relay knows no mailboxes (RFC 5321 3.5.3).
    pub const CANNOT_VERIFY: Reply =
        with(252, Status(2, 5, 2), "Cannot VRFY; send RCPT and the message will be tried");
    /// DATA.
    pub const SEND_CONTENT: Reply = bare(354, "Send the message; end with CRLF.CRLF");
    /// Before the greeting: no room for another connection.
    pub const TOO_MANY_CONNECTIONS: Reply = bare(421, "Too many connections; try again later");
    /// Before the greeting: this client has as many connections as it may have.
    pub const TOO_MANY_CONNECTIONS_FROM_CLIENT: Reply =
        bare(421, "Too many connections from your address; close some first");
    /// Before the greeting: the relay stops.
    pub const STOPPING_AT_GREETING: Reply = bare(421, "Shutting down; try again later");
    /// The relay stops.
    pub const STOPPING: Reply = with(421, Status(4, 3, 2), "Shutting down; try again later");
    /// Nothing came for too long.
    pub const TIMED_OUT: Reply = with(421, Status(4, 4, 2), "Waited too long for input");
    /// More refused commands than a session may have.
    pub const TOO_MANY_ERRORS: Reply =
        with(421, Status(4, 7, 0), "Too many refused commands; closing the connection");
    /// More transactions than a session may have (RFC 9422 5).
    pub const TOO_MANY_MESSAGES: Reply =
        with(421, Status(4, 7, 0), "No more messages in this session; connect again");
    /// The event log cannot keep up; what is not logged is not taken.
    pub const EVENT_LOG_BEHIND: Reply = with(451, Status(4, 3, 0), "Busy; try again later");
    /// Something of ours failed.
    pub const LOCAL_TROUBLE: Reply = with(451, Status(4, 3, 0), "Local trouble; try again later");
    /// The disk of the spool is full.
    pub const STORAGE_FULL: Reply =
        with(452, Status(4, 3, 1), "Message store full; try again later");
    /// More recipients than a transaction may have (RFC 5321 4.5.3.1.10).
    pub const TOO_MANY_RECIPIENTS: Reply =
        with(452, Status(4, 5, 3), "Too many recipients; send the rest in another transaction");
    /// ETRN while another is being done.
    pub const HASTENING: Reply = with(458, Status(4, 3, 2), "Busy with another ETRN; try later");
    /// ETRN from somebody who may not.
    pub const ETRN_DENIED: Reply = with(459, Status(4, 7, 1), "ETRN is not for you");
    /// BY with a time before that of HOLDFOR or HOLDUNTIL.
    pub const HELD_TOO_LONG_FOR_BY: Reply =
        with(501, Status(5, 5, 4), "BY must be later than the time that the message is held until");
    /// A verb that SMTP does not have.
    pub const UNKNOWN_COMMAND: Reply =
        with(500, Status(5, 5, 2), "Unknown command; HELP lists the known ones");
    /// Bytes above 127 where they cannot be an address.
    pub const ASCII_ONLY: Reply = with(500, Status(5, 5, 2), "Commands must be ASCII");
    /// A CR without LF in a command line.
    pub const BARE_CR: Reply =
        with(500, Status(5, 5, 2), "CR without LF; lines must end with CR LF");
    /// An LF without CR in a command line.
    pub const BARE_LF: Reply =
        with(500, Status(5, 5, 2), "LF without CR; lines must end with CR LF");
    /// A command line beyond the limit.
    pub const LINE_TOO_LONG: Reply = with(500, Status(5, 5, 6), "Command line too long");
    /// EHLO or HELO without a usable name.
    pub const HELLO_NAME: Reply =
        bare(501, "Say EHLO or HELO with your host name or [address], at most 255 characters");
    /// NUL and the like in a command (RFC 5321 4.1.2).
    pub const CONTROL_CHARACTER: Reply =
        with(501, Status(5, 5, 2), "Control characters are not allowed in commands");
    /// An argument where none belongs.
    pub const NO_ARGUMENT_ALLOWED: Reply =
        with(501, Status(5, 5, 4), "This command takes no argument");
    /// BDAT without a size, or with more than LAST behind it: where its chunk ends is not known.
    pub const CHUNK_SYNTAX: Reply =
        with(501, Status(5, 5, 4), "Write BDAT size or BDAT size LAST; closing");
    /// VRFY without an argument.
    pub const ARGUMENT_MISSING: Reply = with(501, Status(5, 5, 4), "An argument is missing");
    /// A parameter that is not KEYWORD or KEYWORD=value.
    pub const BAD_PARAMETER: Reply =
        with(501, Status(5, 5, 4), "Malformed parameter; write KEYWORD=value after a space");
    /// A parameter given twice.
    pub const DUPLICATE_PARAMETER: Reply =
        with(501, Status(5, 5, 4), "The same parameter is given twice");
    /// MAIL without FROM:.
    pub const MAIL_SYNTAX: Reply = with(501, Status(5, 5, 4), "Write MAIL FROM:<sender@domain>");
    /// RCPT without TO:.
    pub const RCPT_SYNTAX: Reply = with(501, Status(5, 5, 4), "Write RCPT TO:<recipient@domain>");
    /// A verb that SMTP has and this relay does not.
    pub const NOT_IMPLEMENTED: Reply =
        with(502, Status(5, 5, 1), "Command not implemented here; EHLO lists what is");
    /// MAIL before EHLO.
    pub const HELLO_FIRST: Reply = with(503, Status(5, 5, 1), "Send EHLO or HELO first");
    /// RCPT or DATA before MAIL.
    pub const MAIL_FIRST: Reply = with(503, Status(5, 5, 1), "Send MAIL first");
    /// DATA or RCPT after BDAT (RFC 3030 2).
    pub const CHUNKS_BEGUN: Reply =
        with(503, Status(5, 5, 1), "BDAT has begun; finish with BDAT size LAST or send RSET");
    /// DATA for what only BDAT can carry (RFC 3030 3).
    pub const BINARY_NEEDS_CHUNKS: Reply =
        with(503, Status(5, 5, 1), "BODY=BINARYMIME goes with BDAT, not with DATA");
    /// MAIL inside a transaction.
    pub const NESTED_MAIL: Reply =
        with(503, Status(5, 5, 1), "A transaction is open; finish it or send RSET");
    /// MAIL from an address with bytes above 127 without SMTPUTF8, or that are no UTF-8 (RFC 6531
    /// 3.5, as that of RCPT).
    pub const SENDER_ASCII_ONLY: Reply =
        with(550, Status(5, 6, 7), "Addresses must be ASCII, or UTF-8 after MAIL with SMTPUTF8");
    /// XCLIENT from somebody who may not (as Postfix's XCLIENT_README has it, like the next).
    pub const XCLIENT_DENIED: Reply =
        with(550, Status(5, 7, 0), "Insufficient authorization: XCLIENT is not for you");
    /// XCLIENT with LOGIN: the relay believes in no login that it has not seen.
    pub const XCLIENT_LOGIN: Reply =
        with(550, Status(5, 7, 0), "Insufficient authorization: LOGIN is not taken from a proxy");
    /// MAIL from an address that the user may not send from (RFC 6409 6.1).
    pub const SENDER_NOT_ALLOWED: Reply =
        with(550, Status(5, 7, 1), "This user may not send from that address");
    /// A message of such a user with a header that others could read in another way.
    pub const HEADER_BROKEN: Reply =
        with(550, Status(5, 6, 0), "The header has a line that is no field (RFC 5322 2.2)");
    /// A message of such a user that says not whose it is.
    pub const NO_FROM: Reply = with(550, Status(5, 6, 0), "The message has no From (RFC 5322 3.6)");
    /// MAIL from a user who has been removed.
    pub const USER_GONE: Reply = with(550, Status(5, 7, 1), "This user is known no more");
    /// RCPT or VRFY with such an address.
    pub const ADDRESS_ASCII_ONLY: Reply =
        with(553, Status(5, 6, 7), "Addresses must be ASCII, or UTF-8 after MAIL with SMTPUTF8");
    /// Something came before our greeting.
    pub const EARLY_TALKER: Reply =
        bare(554, "You spoke before the greeting; an SMTP client waits for it");
    /// An HTTP request before our greeting.
    pub const HTTP_AT_GREETING: Reply = bare(554, "This is an SMTP server, not a web server");
    /// A TLS ClientHello before our greeting.
    pub const TLS_AT_GREETING: Reply = bare(554, "This port speaks plain SMTP, not TLS");
    /// The Received fields say that the message goes in circles (RFC 5321 6.3).
    pub const TOO_MANY_HOPS: Reply =
        with(554, Status(5, 4, 6), "Too many Received fields; the message seems to loop");
    /// An HTTP request instead of a command.
    pub const HTTP: Reply =
        with(554, Status(5, 5, 1), "This is an SMTP server, not a web server; closing");
    /// DATA when every RCPT was refused or none came (RFC 5321 3.3).
    pub const NO_RECIPIENTS: Reply =
        with(554, Status(5, 5, 1), "No valid recipients; send RCPT first");
    /// A PROXY header from somebody who is no proxy.
    pub const NO_PROXY: Reply =
        with(554, Status(5, 7, 1), "A PROXY header is not taken from your address");
    /// A TLS ClientHello instead of a command.
    pub const TLS: Reply =
        with(554, Status(5, 5, 1), "This port speaks plain SMTP, not TLS; closing");
    /// A CR without LF in content.
    pub const CONTENT_BARE_CR: Reply =
        with(554, Status(5, 6, 0), "Message has a CR without LF; lines must end with CR LF");
    /// An LF without CR in content.
    pub const CONTENT_BARE_LF: Reply =
        with(554, Status(5, 6, 0), "Message has an LF without CR; lines must end with CR LF");
    /// A line of content beyond the limit.
    pub const CONTENT_LINE_TOO_LONG: Reply =
        with(554, Status(5, 6, 0), "Message has a line that is too long; encode or fold it");
    /// A NUL in content.
    pub const CONTENT_NUL: Reply =
        with(554, Status(5, 6, 0), "Message has a NUL byte; encode binary content");
    /// A MAIL or RCPT parameter that EHLO did not announce.
    pub const UNKNOWN_PARAMETER: Reply =
        with(555, Status(5, 5, 4), "Parameter not recognized; EHLO lists what is");

    /// A reply with an enhanced status and a fixed text.
    pub const fn new(code: u16, status: Status, text: &'static str) -> Reply {
        with(code, status, text)
    }

    /// RCPT from a client outside the relay networks.
    pub fn relay_denied(client: IpAddr) -> Reply {
        let text = format!("Relaying denied: {} may not send through here", client.to_canonical());
        Reply { code: 550, status: Some(Status(5, 7, 1)), text: text.into() }
    }

    /// HOLDFOR or HOLDUNTIL beyond `hold_max` (RFC 4865 5).
    pub fn hold_too_long(hold_max: Duration) -> Reply {
        let text = format!("Messages are held for at most {} seconds", hold_max.as_secs());
        Reply { code: 501, status: Some(Status(5, 5, 4)), text: text.into() }
    }

    /// AUTH from an address, or for a user, with too many failures: again after `wait`.
    pub fn auth_too_often(wait: Duration) -> Reply {
        let text = format!("Too many failed attempts; {}", again_in(wait));
        Reply { code: 454, status: Some(Status(4, 7, 0)), text: text.into() }
    }

    /// AUTH: the two ends see different TLS connections, or the client was kept from binding.
    /// `there` is what it may bind to.
    pub fn auth_binding(there: &str) -> Reply {
        let text = format!("Channel binding does not fit (here: {there}); is somebody in between?");
        Reply { code: 535, status: Some(Status(5, 7, 8)), text: text.into() }
    }

    /// AUTH with a token that is not good, and why.
    pub fn auth_token(why: &str) -> Reply {
        let text = format!("Token not accepted: {why}");
        Reply { code: 535, status: Some(Status(5, 7, 8)), text: text.into() }
    }

    /// MAIL beyond so many messages an hour.
    pub fn too_many_messages(limit: u32, wait: Duration) -> Reply {
        let text = format!("More than {limit} messages in an hour; {}", again_in(wait));
        Reply { code: 450, status: Some(Status(4, 7, 1)), text: text.into() }
    }

    /// RCPT beyond so many recipients an hour.
    pub fn too_many_recipients(limit: u32, wait: Duration) -> Reply {
        let text = format!("More than {limit} recipients in an hour; {}", again_in(wait));
        Reply { code: 452, status: Some(Status(4, 5, 3)), text: text.into() }
    }

    /// A message whose `field`, From or Sender, names others than the user may be.
    pub fn header_not_allowed(field: &str) -> Reply {
        let text = format!("{field} has an address that this user may not send from");
        Reply { code: 550, status: Some(Status(5, 7, 1)), text: text.into() }
    }

    /// A message whose `field`, From or Sender, cannot be read for certain.
    pub fn header_unreadable(field: &str) -> Reply {
        let text = format!("{field} is no list of addresses (RFC 5322 3.6.2)");
        Reply { code: 550, status: Some(Status(5, 7, 1)), text: text.into() }
    }

    /// A message with more than one `field`, From or Sender.
    pub fn header_repeated(field: &str) -> Reply {
        let text = format!("{field} is there more than once");
        Reply { code: 550, status: Some(Status(5, 6, 0)), text: text.into() }
    }

    /// Larger than `bytes_max`, declared (RFC 1870 6.1) or found out.
    pub fn too_large(bytes_max: u64) -> Reply {
        let text = format!("Message too large; at most {bytes_max} bytes are taken");
        Reply { code: 552, status: Some(Status(5, 3, 4)), text: text.into() }
    }

    /// Appends the reply as it goes on the wire: each line with the code and the status.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            push_number(self.code, out);
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            if let Some(Status(class, subject, detail)) = self.status {
                push_number(u16::from(class), out);
                out.push(b'.');
                push_number(subject, out);
                out.push(b'.');
                push_number(detail, out);
                out.push(b' ');
            }
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Whoever comes back then must not be told the same again, so a part counts as a whole.
fn again_in(wait: Duration) -> String {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    match seconds {
        ..=120 => format!("try again in {seconds} s"),
        _ => format!("try again in {} min", seconds.div_ceil(60)),
    }
}

/// In decimal. Replies are written once a command; the formatting machinery would cost more than
/// the command.
fn push_number(number: u16, out: &mut Vec<u8>) {
    let mut divisor = 10_000;
    let mut leading = true;
    while divisor > 0 {
        let digit = number / divisor % 10;
        leading &= digit == 0 && divisor > 1;
        if !leading {
            out.push(b'0' + (digit & 15) as u8);
        }
        divisor /= 10;
    }
}

/// `550 5.7.1 Relaying denied...`, on one line: for events.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some(status) = self.status {
            write!(f, "{status} ")?;
        }
        for (number, line) in self.text.split('\n').enumerate() {
            f.write_str(if number == 0 { "" } else { " / " })?;
            f.write_str(line)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn code_and_status_stand_on_every_line() {
        assert_eq!(written(&Reply::OK), "250 2.0.0 OK\r\n");
        assert_eq!(
            written(&Reply::new(550, Status(5, 7, 26), "one\ntwo")),
            "550-5.7.26 one\r\n550 5.7.26 two\r\n"
        );
        assert_eq!(
            written(&Reply::SEND_CONTENT),
            "354 Send the message; end with CRLF.CRLF\r\n",
            "RFC 2034: no status in 3xx"
        );
    }

    #[test]
    fn an_event_has_it_on_one_line() {
        assert_eq!(Reply::new(550, Status(5, 1, 1), "one\ntwo").to_string(), "550 5.1.1 one / two");
    }

    #[test]
    fn numbers_are_plain_decimal() {
        for number in [0, 7, 10, 99, 100, 250, 1000, 65_535] {
            let mut out = Vec::new();
            push_number(number, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), number.to_string());
        }
    }

    #[test]
    fn the_time_to_wait_is_never_told_too_short() {
        for (ms, expected) in [
            (0, "1 s"),
            (400, "1 s"),
            (2001, "3 s"),
            (60_000, "60 s"),
            (120_000, "120 s"),
            (120_001, "3 min"),
            (900_000, "15 min"),
        ] {
            let told = Reply::auth_too_often(Duration::from_millis(ms)).text;
            let expected = format!("Too many failed attempts; try again in {expected}");
            assert_eq!(told, expected, "{ms} ms");
        }
    }

    #[test]
    fn the_class_of_the_status_is_that_of_the_code() {
        for reply in [
            Reply::HELP,
            Reply::CANNOT_VERIFY,
            Reply::STOPPING,
            Reply::STORAGE_FULL,
            Reply::UNKNOWN_PARAMETER,
            Reply::AUTHENTICATED,
            Reply::AUTH_TROUBLE,
            Reply::AUTH_WRONG,
            Reply::auth_binding("tls-exporter"),
            Reply::auth_token("it has expired"),
            Reply::auth_too_often(Duration::from_secs(61)),
            Reply::relay_denied(IpAddr::from([192, 0, 2, 1])),
            Reply::too_large(1),
        ] {
            let class = reply.status.map(|status| u16::from(status.0));
            assert_eq!(class, Some(reply.code / 100), "{reply}");
        }
    }
}
