//! The relay's replies as values (RFC 5321 4.2, RFC 2034, RFC 3463), each with a name. *Pure.*
//!
//! The constants have the order code, enhanced status, text. Texts are those of RFC 5321 and its
//! extensions, or of Postfix, so that people and programs that know them need not learn new ones.
//! They never repeat what the client sent.

use crate::message::Status;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A reply of the relay: code, enhanced status, text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// Left out only in the greeting, the reply to EHLO and HELO, and 354 (RFC 2034 4).
    pub status: Option<Status>,
    /// One line, or several separated by `\n`. Printable ASCII.
    pub text: Cow<'static, str>,
}

const fn with(code: u16, status: Status, text: &'static str) -> Reply {
    Reply { code, status: Some(status), text: Cow::Borrowed(text) }
}

const fn bare(code: u16, text: &'static str) -> Reply {
    Reply { code, status: None, text: Cow::Borrowed(text) }
}

impl Reply {
    /// STARTTLS.
    pub const READY_FOR_TLS: Reply = with(220, Status(2, 0, 0), "Ready to start TLS");
    /// STARTTLS a second time.
    pub const TLS_ALREADY: Reply = with(503, Status(5, 5, 1), "TLS already active");
    /// REQUIRETLS without TLS (RFC 8689 4.2).
    pub const PARAMETER_NEEDS_TLS: Reply =
        with(530, Status(5, 7, 10), "REQUIRETLS requires TLS; send STARTTLS first");
    /// MAIL before STARTTLS, where the listener requires TLS (RFC 3207 4).
    pub const TLS_FIRST: Reply = with(530, Status(5, 7, 0), "Must issue a STARTTLS command first");
    /// AUTH: the credentials are valid (RFC 4954 6, as all that follow).
    pub const AUTHENTICATED: Reply = with(235, Status(2, 7, 0), "Authentication successful");
    /// AUTH: the credentials cannot be checked now.
    pub const AUTH_TEMPORARY_FAILURE: Reply =
        with(454, Status(4, 7, 0), "Temporary authentication failure; try again later");
    /// AUTH: a message that is not base64.
    pub const AUTH_NOT_BASE64: Reply = with(501, Status(5, 5, 2), "Invalid base64 data (RFC 4648)");
    /// AUTH: the client sent `*`.
    pub const AUTH_CANCELLED: Reply = with(501, Status(5, 7, 0), "Authentication aborted");
    /// AUTH: valid base64, but not a valid message of the mechanism.
    pub const AUTH_MALFORMED: Reply =
        with(501, Status(5, 5, 2), "Malformed authentication message for this mechanism");
    /// AUTH without a mechanism, or with too many arguments.
    pub const AUTH_SYNTAX: Reply =
        with(501, Status(5, 5, 4), "Syntax: AUTH mechanism [initial-response]");
    /// AUTH after HELO.
    pub const EHLO_FIRST: Reply = with(503, Status(5, 5, 1), "Send EHLO first");
    /// AUTH a second time.
    pub const AUTH_ALREADY: Reply = with(503, Status(5, 5, 1), "Already authenticated");
    /// AUTH after MAIL.
    pub const AUTH_IN_TRANSACTION: Reply =
        with(503, Status(5, 5, 1), "AUTH not permitted during a mail transaction");
    /// AUTH with a mechanism that is not offered.
    pub const AUTH_UNKNOWN_MECHANISM: Reply = with(
        504,
        Status(5, 5, 4),
        "Unrecognized authentication mechanism; EHLO lists those offered",
    );
    /// MAIL before AUTH, where the listener requires authentication.
    pub const AUTH_FIRST: Reply = with(530, Status(5, 7, 0), "Authentication required");
    /// AUTH: wrong credentials, or an unknown user.
    pub const AUTH_INVALID: Reply =
        with(535, Status(5, 7, 8), "Authentication credentials invalid");
    /// AUTH: an authorization identity that is not the user's own.
    pub const AUTH_IDENTITY_DENIED: Reply =
        with(535, Status(5, 7, 8), "Authorization identity not permitted for this user");
    /// AUTH EXTERNAL with a certificate of several users.
    pub const AUTH_IDENTITY_NEEDED: Reply = with(
        535,
        Status(5, 7, 8),
        "Certificate matches several users; specify an authorization identity",
    );
    /// AUTH without TLS, where that is not allowed.
    pub const AUTH_NEEDS_TLS: Reply =
        with(538, Status(5, 7, 11), "Encryption required for requested authentication mechanism");
    /// QUIT.
    pub const BYE: Reply = with(221, Status(2, 0, 0), "Bye");
    /// RSET, NOOP.
    pub const OK: Reply = with(250, Status(2, 0, 0), "OK");
    /// ETRN.
    pub const ETRN_STARTED: Reply = with(250, Status(2, 0, 0), "Queuing for that node started");
    /// ETRN for a domain without queued messages.
    pub const ETRN_NOTHING_QUEUED: Reply =
        with(251, Status(2, 0, 0), "No messages queued for that node");
    /// MAIL.
    pub const SENDER_OK: Reply = with(250, Status(2, 1, 0), "Sender OK");
    /// RCPT.
    pub const RECIPIENT_OK: Reply = with(250, Status(2, 1, 5), "Recipient OK");
    /// VRFY: a relay has no mailboxes (RFC 5321 3.5.3).
    pub const CANNOT_VERIFY: Reply =
        with(252, Status(2, 5, 2), "Cannot VRFY user; send RCPT to attempt delivery");
    /// DATA.
    pub const SEND_CONTENT: Reply = bare(354, "Start mail input; end with <CRLF>.<CRLF>");
    /// At the greeting: the shard has its maximum number of connections.
    pub const TOO_MANY_CONNECTIONS: Reply = bare(421, "Too many connections; try again later");
    /// At the greeting: this client has its maximum number of connections.
    pub const TOO_MANY_CONNECTIONS_FROM_CLIENT: Reply =
        bare(421, "Too many connections from your address; try again later");
    /// At the greeting: the relay is shutting down.
    pub const STOPPING_AT_GREETING: Reply = bare(421, "Service shutting down; try again later");
    /// The relay is shutting down.
    pub const STOPPING: Reply =
        with(421, Status(4, 3, 2), "Service shutting down; try again later");
    /// The client sent nothing for too long.
    pub const TIMED_OUT: Reply = with(421, Status(4, 4, 2), "Timeout exceeded; closing connection");
    /// More refused commands than a session may have.
    pub const TOO_MANY_ERRORS: Reply =
        with(421, Status(4, 7, 0), "Too many errors; closing connection");
    /// More commands without mail than a session may have (`session.junk_commands_max`).
    pub const TOO_MUCH_JUNK: Reply =
        with(421, Status(4, 7, 0), "Too many commands without mail; closing connection");
    /// Content arrives more slowly than `session.data_rate_min`.
    pub const TOO_SLOW: Reply =
        with(421, Status(4, 4, 2), "Data transfer too slow; closing connection");
    /// No message for longer than `session.idle_timeout`, whatever else the client sent.
    pub const IDLE: Reply = with(421, Status(4, 4, 2), "No mail for too long; closing connection");
    /// The content of a message took longer than `session.message_timeout`.
    pub const MESSAGE_TIMED_OUT: Reply =
        with(421, Status(4, 4, 2), "Message took too long to arrive; closing connection");
    /// More transactions than a session may have (RFC 9422 5).
    pub const TOO_MANY_MESSAGES: Reply =
        with(421, Status(4, 7, 0), "Too many messages in this session; reconnect to send more");
    /// The event log cannot keep up: no mail is accepted that cannot be logged.
    pub const BUSY: Reply = with(451, Status(4, 3, 0), "Server busy; try again later");
    /// A local failure.
    pub const LOCAL_ERROR: Reply =
        with(451, Status(4, 3, 0), "Local error in processing; try again later");
    /// The disk of the spool is full.
    pub const STORAGE_FULL: Reply =
        with(452, Status(4, 3, 1), "Insufficient system storage; try again later");
    /// More recipients than a transaction may have (RFC 5321 4.5.3.1.10).
    pub const TOO_MANY_RECIPIENTS: Reply =
        with(452, Status(4, 5, 3), "Too many recipients; send the rest in another transaction");
    /// ETRN while another one is in progress.
    pub const ETRN_BUSY: Reply = with(
        458,
        Status(4, 3, 2),
        "Unable to queue messages for that node; another ETRN is in progress",
    );
    /// ETRN from a client without permission.
    pub const ETRN_DENIED: Reply = with(459, Status(4, 7, 1), "ETRN not permitted for this client");
    /// BY with a time before the end of HOLDFOR or HOLDUNTIL.
    pub const HELD_TOO_LONG_FOR_BY: Reply =
        with(501, Status(5, 5, 4), "BY deadline must be later than the HOLDFOR or HOLDUNTIL time");
    /// An unknown verb.
    pub const UNKNOWN_COMMAND: Reply =
        with(500, Status(5, 5, 2), "Command not recognized; try HELP");
    /// Bytes above 127 outside of an address.
    pub const ASCII_ONLY: Reply = with(500, Status(5, 5, 2), "Commands must be ASCII");
    /// A CR without LF in a command line.
    pub const BARE_CR: Reply =
        with(500, Status(5, 5, 2), "Bare <CR> received; lines must end with <CRLF>");
    /// An LF without CR in a command line.
    pub const BARE_LF: Reply =
        with(500, Status(5, 5, 2), "Bare <LF> received; lines must end with <CRLF>");
    /// A command line beyond the limit.
    pub const LINE_TOO_LONG: Reply = with(500, Status(5, 5, 6), "Command line too long");
    /// EHLO or HELO without a usable name.
    pub const HELLO_NAME: Reply =
        bare(501, "Syntax: EHLO hostname, or EHLO [address]; at most 255 characters");
    /// Control characters in a command (RFC 5321 4.1.2).
    pub const CONTROL_CHARACTER: Reply =
        with(501, Status(5, 5, 2), "Control characters not allowed in commands");
    /// An argument to a command that takes none.
    pub const NO_ARGUMENT_ALLOWED: Reply =
        with(501, Status(5, 5, 4), "Command does not take an argument");
    /// BDAT without a valid size: the end of its chunk is not known.
    pub const CHUNK_SYNTAX: Reply =
        with(501, Status(5, 5, 4), "Syntax: BDAT size [LAST]; closing connection");
    /// VRFY without an argument.
    pub const ARGUMENT_MISSING: Reply = with(501, Status(5, 5, 4), "Argument required");
    /// A parameter that is not KEYWORD or KEYWORD=value.
    pub const BAD_PARAMETER: Reply =
        with(501, Status(5, 5, 4), "Malformed parameter; expected KEYWORD or KEYWORD=value");
    /// A parameter given twice.
    pub const DUPLICATE_PARAMETER: Reply = with(501, Status(5, 5, 4), "Duplicate parameter");
    /// MAIL without FROM:.
    pub const MAIL_SYNTAX: Reply = with(501, Status(5, 5, 4), "Syntax: MAIL FROM:<sender@domain>");
    /// RCPT without TO:.
    pub const RCPT_SYNTAX: Reply = with(501, Status(5, 5, 4), "Syntax: RCPT TO:<recipient@domain>");
    /// A verb of SMTP that this relay does not implement, or does not offer to this client.
    pub const NOT_IMPLEMENTED: Reply = with(502, Status(5, 5, 1), "Command not implemented");
    /// MAIL before EHLO.
    pub const HELLO_FIRST: Reply = with(503, Status(5, 5, 1), "Send EHLO or HELO first");
    /// RCPT or DATA before MAIL.
    pub const MAIL_FIRST: Reply = with(503, Status(5, 5, 1), "Send MAIL first");
    /// DATA or RCPT after BDAT (RFC 3030 2).
    pub const CHUNKS_BEGUN: Reply = with(
        503,
        Status(5, 5, 1),
        "BDAT transfer in progress; finish with BDAT size LAST or send RSET",
    );
    /// DATA for a message that only BDAT can carry (RFC 3030 3).
    pub const BINARY_NEEDS_CHUNKS: Reply =
        with(503, Status(5, 5, 1), "BODY=BINARYMIME requires BDAT");
    /// MAIL inside a transaction.
    pub const NESTED_MAIL: Reply =
        with(503, Status(5, 5, 1), "Mail transaction in progress; finish it or send RSET");
    /// MAIL with bytes above 127 in the address, without SMTPUTF8 or not UTF-8 (RFC 6531
    /// 3.5, as for RCPT).
    pub const SENDER_ASCII_ONLY: Reply =
        with(550, Status(5, 6, 7), "Non-ASCII address requires SMTPUTF8 and valid UTF-8");
    /// XCLIENT from a client outside of `access.xclient_networks` (Postfix's XCLIENT_README, as the
    /// next).
    pub const XCLIENT_DENIED: Reply =
        with(550, Status(5, 7, 0), "Insufficient authorization for XCLIENT");
    /// XCLIENT with LOGIN: users log in with AUTH only.
    pub const XCLIENT_LOGIN: Reply =
        with(550, Status(5, 7, 0), "Insufficient authorization for XCLIENT LOGIN");
    /// MAIL with an address that is not among the user's senders (RFC 6409 6.1).
    pub const SENDER_NOT_ALLOWED: Reply =
        with(550, Status(5, 7, 1), "Sender address rejected: not permitted for this user");
    /// A submitted message with a line in its header that is not a header field.
    pub const HEADER_MALFORMED: Reply =
        with(550, Status(5, 6, 0), "Malformed header field (RFC 5322 2.2)");
    /// A submitted message without From.
    pub const NO_FROM: Reply =
        with(550, Status(5, 6, 0), "Missing From header field (RFC 5322 3.6)");
    /// MAIL or RCPT from a user whose account was removed meanwhile.
    pub const USER_GONE: Reply = with(550, Status(5, 7, 1), "User account no longer exists");
    /// RCPT or VRFY with bytes above 127 in the address.
    pub const ADDRESS_ASCII_ONLY: Reply =
        with(553, Status(5, 6, 7), "Non-ASCII address requires SMTPUTF8 and valid UTF-8");
    /// Input before the greeting.
    pub const EARLY_TALKER: Reply =
        bare(554, "SMTP synchronization error: input received before the greeting");
    /// An HTTP request before the greeting.
    pub const HTTP_AT_GREETING: Reply = bare(554, "HTTP request received on an SMTP port");
    /// A TLS ClientHello before the greeting.
    pub const TLS_AT_GREETING: Reply =
        bare(554, "TLS handshake received where plain SMTP was expected");
    /// More Received fields than `session.received_max` (RFC 5321 6.3).
    pub const TOO_MANY_HOPS: Reply =
        with(554, Status(5, 4, 6), "Too many hops: the message may be looping");
    /// An HTTP request instead of a command.
    pub const HTTP: Reply =
        with(554, Status(5, 5, 1), "HTTP request received on an SMTP port; closing connection");
    /// DATA when every RCPT was refused or none came (RFC 5321 3.3).
    pub const NO_RECIPIENTS: Reply = with(554, Status(5, 5, 1), "No valid recipients");
    /// A PROXY header from an address outside of `access.proxy_networks`.
    pub const PROXY_DENIED: Reply =
        with(554, Status(5, 7, 1), "PROXY header not permitted from your address");
    /// A TLS ClientHello instead of a command.
    pub const TLS: Reply = with(
        554,
        Status(5, 5, 1),
        "TLS handshake received where plain SMTP was expected; closing connection",
    );
    /// A CR without LF in content.
    pub const CONTENT_BARE_CR: Reply =
        with(554, Status(5, 6, 0), "Message contains a bare <CR>; lines must end with <CRLF>");
    /// An LF without CR in content.
    pub const CONTENT_BARE_LF: Reply =
        with(554, Status(5, 6, 0), "Message contains a bare <LF>; lines must end with <CRLF>");
    /// A line of content beyond the limit.
    pub const CONTENT_LINE_TOO_LONG: Reply = with(554, Status(5, 6, 0), "Message line too long");
    /// A NUL in content.
    pub const CONTENT_NUL: Reply = with(554, Status(5, 6, 0), "Message contains a NUL byte");
    /// A MAIL or RCPT parameter that EHLO did not announce.
    pub const UNKNOWN_PARAMETER: Reply =
        with(555, Status(5, 5, 4), "Parameter not recognized or not offered");

    /// A reply with an enhanced status and a fixed text.
    pub const fn new(code: u16, status: Status, text: &'static str) -> Reply {
        with(code, status, text)
    }

    /// RCPT from a client outside the relay networks.
    pub fn relay_denied(client: IpAddr) -> Reply {
        let text = format!("Relaying denied for {}", client.to_canonical());
        Reply { code: 550, status: Some(Status(5, 7, 1)), text: text.into() }
    }

    /// HOLDFOR or HOLDUNTIL beyond `hold_max` (RFC 4865 5).
    pub fn hold_too_long(hold_max: Duration) -> Reply {
        let text = format!("Hold time exceeds the maximum of {} seconds", hold_max.as_secs());
        Reply { code: 501, status: Some(Status(5, 5, 4)), text: text.into() }
    }

    /// AUTH from an address, or for a user, with too many failures: again after `wait`.
    pub fn auth_too_often(wait: Duration) -> Reply {
        let text = format!("Too many failed authentication attempts; {}", again_in(wait));
        Reply { code: 454, status: Some(Status(4, 7, 0)), text: text.into() }
    }

    /// AUTH: client and server see different TLS connections, or the client did not get the list of
    /// channel bindings. `there` names those of this connection.
    pub fn auth_binding(there: &str) -> Reply {
        let text =
            format!("Channel binding mismatch (possible interception); server supports: {there}");
        Reply { code: 535, status: Some(Status(5, 7, 8)), text: text.into() }
    }

    /// AUTH with a token that was rejected, and why.
    pub fn auth_token(why: &str) -> Reply {
        let text = format!("Token rejected: {why}");
        Reply { code: 535, status: Some(Status(5, 7, 8)), text: text.into() }
    }

    /// MAIL beyond this many messages an hour.
    pub fn too_many_messages(limit: u32, wait: Duration) -> Reply {
        let text = format!("Message limit of {limit} per hour exceeded; {}", again_in(wait));
        Reply { code: 450, status: Some(Status(4, 7, 1)), text: text.into() }
    }

    /// RCPT beyond this many recipients an hour.
    pub fn too_many_recipients(limit: u32, wait: Duration) -> Reply {
        let text = format!("Recipient limit of {limit} per hour exceeded; {}", again_in(wait));
        Reply { code: 452, status: Some(Status(4, 5, 3)), text: text.into() }
    }

    /// A submitted message whose `field` (From, Sender, Resent-From ...) has an address that is not
    /// among the user's senders.
    pub fn header_not_allowed(field: &str) -> Reply {
        let text = format!("{field} header address not permitted for this user");
        Reply { code: 550, status: Some(Status(5, 7, 1)), text: text.into() }
    }

    /// A submitted message whose `field` is not an address list.
    pub fn header_unreadable(field: &str) -> Reply {
        let text = format!("Malformed {field} header address list (RFC 5322 3.6.2)");
        Reply { code: 550, status: Some(Status(5, 7, 1)), text: text.into() }
    }

    /// A submitted message with more than one `field`.
    pub fn header_repeated(field: &str) -> Reply {
        let text = format!("Duplicate {field} header field");
        Reply { code: 550, status: Some(Status(5, 6, 0)), text: text.into() }
    }

    /// Larger than `bytes_max`, as declared (RFC 1870 6.1) or as received.
    pub fn too_large(bytes_max: u64) -> Reply {
        let text = format!("Message size exceeds the limit of {bytes_max} bytes");
        Reply { code: 552, status: Some(Status(5, 3, 4)), text: text.into() }
    }

    /// Appends the reply in its wire form: each line with the code and the status.
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

/// Rounded up: a client that comes back after this time must not be refused again.
fn again_in(wait: Duration) -> String {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    match seconds {
        ..=120 => format!("try again in {seconds} s"),
        _ => format!("try again in {} min", seconds.div_ceil(60)),
    }
}

/// Writes a number in decimal. Each command has a reply; `format!` would cost more than the
/// command.
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
            "354 Start mail input; end with <CRLF>.<CRLF>\r\n",
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
    fn the_time_to_wait_is_rounded_up() {
        for (ms, expected) in [
            (0, "1 s"),
            (400, "1 s"),
            (2001, "3 s"),
            (60_000, "60 s"),
            (120_000, "120 s"),
            (120_001, "3 min"),
            (900_000, "15 min"),
        ] {
            let text = Reply::auth_too_often(Duration::from_millis(ms)).text;
            let expected =
                format!("Too many failed authentication attempts; try again in {expected}");
            assert_eq!(text, expected, "{ms} ms");
        }
    }

    #[test]
    fn the_class_of_the_status_is_that_of_the_code() {
        for reply in [
            Reply::CANNOT_VERIFY,
            Reply::STOPPING,
            Reply::STORAGE_FULL,
            Reply::UNKNOWN_PARAMETER,
            Reply::AUTHENTICATED,
            Reply::AUTH_TEMPORARY_FAILURE,
            Reply::AUTH_INVALID,
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
