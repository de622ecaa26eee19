//! What each command does to a session (RFC 5321 4.1.1 and 4.1.4). *Pure.*
//!
//! Whole command lines come in; replies go out, and refusals worth an event become steps.
//!
//! Refused commands count towards `session.errors_max`, but not those that say something about one
//! recipient or one message of the relay's own clients: a mailing list with bad addresses is no
//! attack, and ending its session would defer all its good recipients.
//!
//! | refused | any other client | own client: relay networks, users |
//! |---|---|---|
//! | RCPT, for whatever reason | counts | does not count |
//! | DATA, BDAT without a transaction or valid recipients | counts | does not count |
//! | MAIL, BDAT, end of data with 4xx (limits, space) | counts | does not count |
//! | RCPT beyond a limit on recipients (452) | does not count | does not count |
//! | anything else: MAIL with 5xx, unknown commands, AUTH, content | counts | counts |

use super::step::{RejectedPaths, text_of};
use super::{
    Duplicates, Hello, MailRequest, Open, RecipientRequest, Rejection, Session, Stage, State, Step,
};
use crate::limits::PATH_BYTES_MAX;
use crate::message::{Body, DeliverBy, Envelope, Options, Timestamp, domain_key};
use crate::smtp::{self, CommandFault, Hold, MailParameters, RcptSyntax, Reply, Syntax, Verb};
use std::time::Duration;

impl<G> Session<G> {
    pub(super) fn command(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step<G> {
        let (verb, argument) = match smtp::read_command(line) {
            Ok(command) => command,
            Err(fault) => return self.refuse_line(line, fault, out),
        };
        if self.is_one_junk_command_too_many(verb) {
            return self.close_with(&Reply::TOO_MUCH_JUNK, out);
        }
        let done = match verb {
            Verb::Ehlo | Verb::Helo => self.hello(argument, verb == Verb::Ehlo, out),
            Verb::Mail => return self.mail(argument, out),
            Verb::Rcpt => return self.rcpt(argument, out),
            Verb::Data => return self.data(argument, out),
            Verb::Bdat => return self.bdat(argument, out),
            Verb::StartTls => return self.starttls(argument, out),
            Verb::Auth => return self.auth(argument, out),
            Verb::Xclient => return self.xclient(argument, out),
            Verb::Etrn => return self.etrn(argument, out),
            Verb::Rset => smtp::read_nothing(argument).map(|()| {
                Reply::OK.write(out);
                self.forget()
            }),
            // RFC 5321 4.1.1.9: a string may follow and means nothing.
            Verb::Noop => {
                Reply::OK.write(out);
                Ok(Step::More)
            }
            Verb::Vrfy if !self.policy.limits.vrfy => Err(CommandFault::NotImplemented),
            Verb::Vrfy => smtp::read_question(argument).map(|()| {
                Reply::CANNOT_VERIFY.write(out);
                Step::More
            }),
            Verb::Expn => Err(CommandFault::NotImplemented),
            Verb::Help => {
                smtp::help(argument, |verb| self.is_offered(verb)).write(out);
                Ok(Step::More)
            }
            Verb::Quit => match smtp::read_nothing(argument) {
                Err(_) if self.syntax() != Syntax::Strict => {
                    return self.close_with(&Reply::BYE, out);
                }
                Ok(()) => return self.close_with(&Reply::BYE, out),
                Err(fault) => Err(fault),
            },
        };
        match done {
            Ok(step) => step,
            Err(fault) => self.refuse(Stage::Command(verb), fault.reply(), out),
        }
    }

    /// Counts a command that moves no mail, as Postfix's `smtpd_junk_command_limit` does.
    fn is_one_junk_command_too_many(&mut self, verb: Verb) -> bool {
        let is_junk = matches!(
            verb,
            Verb::Noop
                | Verb::Rset
                | Verb::Ehlo
                | Verb::Helo
                | Verb::Vrfy
                | Verb::Expn
                | Verb::Help
                | Verb::Etrn
        );
        self.junk = self.junk.saturating_add(u32::from(is_junk));
        is_junk && self.junk > self.policy.limits.junk_commands_max
    }

    /// The open transaction is forgotten.
    fn forget(&mut self) -> Step<G> {
        match self.transaction.take() {
            Some(open) if open.chunks.is_some() => Step::ContentVoid,
            _ => Step::More,
        }
    }

    /// A line with bytes that no command may have. In MAIL and RCPT it is a bad address; of BDAT,
    /// the chunk would be taken for commands.
    fn refuse_line(&mut self, line: &[u8], fault: CommandFault, out: &mut Vec<u8>) -> Step<G> {
        let argument = line.get(5..).unwrap_or_default();
        match Verb::of(line) {
            Some(Verb::Mail) => self.reject_sender(printable(argument), fault.reply(), out),
            Some(Verb::Rcpt) => self.reject_recipient(printable(argument), fault.reply(), out),
            Some(Verb::Bdat) => self.close_with(&fault.reply(), out),
            Some(verb) => self.refuse(Stage::Command(verb), fault.reply(), out),
            None => self.refuse(Stage::UnknownCommand, fault.reply(), out),
        }
    }

    /// EHLO and HELO also do what RSET does (RFC 5321 4.1.4).
    fn hello(
        &mut self,
        argument: &str,
        extended: bool,
        out: &mut Vec<u8>,
    ) -> Result<Step<G>, CommandFault> {
        let name = smtp::read_hello(argument)?;
        self.hello = Some(Hello { name: name.into(), extended });
        if extended {
            self.write_offer(out);
        } else {
            out.extend_from_slice(b"250 ");
            out.extend_from_slice(self.policy.host_name.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Ok(self.forget())
    }

    pub(super) fn offers_starttls(&self) -> bool {
        self.client.starttls && self.client.protection.is_none()
    }

    /// RFC 3207 4. What was sent behind it, by a pipelining client or by an attacker, the caller
    /// discards.
    fn starttls(&mut self, argument: &str, out: &mut Vec<u8>) -> Step<G> {
        let refusal = if !argument.is_empty() {
            CommandFault::ArgumentNotAllowed.reply()
        } else if self.client.protection.is_some() {
            Reply::TLS_ALREADY
        } else if !self.client.starttls {
            Reply::NOT_IMPLEMENTED
        } else if self.hello.is_none() {
            Reply::HELLO_FIRST
        } else {
            Reply::READY_FOR_TLS.write(out);
            self.state = State::Handshake;
            return Step::StartTls;
        };
        self.refuse(Stage::Command(Verb::StartTls), refusal, out)
    }

    /// RFC 1985 5. The caller does it.
    fn etrn(&mut self, argument: &str, out: &mut Vec<u8>) -> Step<G> {
        let refusal = if !self.offers_etrn() {
            Reply::ETRN_DENIED
        } else if !self.is_extended() {
            Reply::HELLO_FIRST
        } else if self.transaction.is_some() {
            Reply::NESTED_MAIL
        } else {
            match smtp::read_etrn(argument) {
                Ok((domain, with_subdomains)) => {
                    let domain = domain_key(domain).into_owned();
                    self.state = State::Asked;
                    return Step::Etrn { domain, with_subdomains };
                }
                Err(fault) => fault.reply(),
            }
        };
        self.refuse(Stage::Command(Verb::Etrn), refusal, out)
    }

    /// Postfix's XCLIENT_README: only for clients in `access.xclient_networks`.
    fn xclient(&mut self, argument: &str, out: &mut Vec<u8>) -> Step<G> {
        let refusal = if !self.client.xclient {
            let paths = RejectedPaths::default();
            return self.reject(Stage::Command(Verb::Xclient), paths, Reply::XCLIENT_DENIED, out);
        } else if self.transaction.is_some() {
            Reply::NESTED_MAIL
        } else {
            match smtp::read_xclient(argument) {
                Ok(given) if given.login => Reply::XCLIENT_LOGIN,
                Ok(given) => {
                    self.state = State::Asked;
                    return Step::ClientOverride { address: given.address, port: given.port };
                }
                Err(fault) => fault.reply(),
            }
        };
        self.refuse(Stage::Command(Verb::Xclient), refusal, out)
    }

    fn mail(&mut self, argument: &str, out: &mut Vec<u8>) -> Step<G> {
        let refusal = if self.hello.is_none() {
            Some(Reply::HELLO_FIRST)
        } else if self.client.tls_demanded && self.client.protection.is_none() {
            Some(Reply::TLS_FIRST)
        } else if let Some(demand) = self.auth_demand() {
            Some(demand)
        } else {
            self.transaction.is_some().then_some(Reply::NESTED_MAIL)
        };
        match refusal {
            // A user's client that is not set up right, or a stranger: worth an event.
            Some(refusal) if refusal.code == Reply::AUTH_FIRST.code => {
                return self.reject_sender(printable(argument.as_bytes()), refusal, out);
            }
            Some(refusal) => return self.refuse(Stage::Command(Verb::Mail), refusal, out),
            None => {}
        }
        let messages_max = self.policy.limits.messages_max;
        if messages_max != 0 && self.mails >= messages_max {
            return self.close_with(&Reply::TOO_MANY_MESSAGES, out);
        }
        let mail = match smtp::read_mail(argument, self.offered()) {
            Ok(mail) => mail,
            Err(fault) => {
                let given = printable(argument.as_bytes());
                return self.reject_sender(given, fault.reply(), out);
            }
        };
        let smtp::Mail { reverse_path, parameters } = mail;
        let bytes_max = self.policy.limits.message_bytes_max;
        if parameters.size.is_some_and(|declared| declared > bytes_max) {
            let from = text_of(reverse_path.as_ref());
            return self.reject_sender(from, Reply::too_large(bytes_max), out);
        }
        let (not_before, deliver_by) = match self.times(&parameters) {
            Ok(times) => times,
            Err(reply) => return self.reject_sender(text_of(reverse_path.as_ref()), reply, out),
        };
        self.state = State::Asked;
        Step::Mail(Box::new(MailRequest {
            envelope: Envelope { reverse_path, recipients: Vec::new() },
            options: Options { not_before, deliver_by, ..parameters.options },
        }))
    }

    /// Answers [`Step::Mail`]: a transaction begins, to which `grant` belongs.
    pub fn accept_mail(&mut self, mail: Box<MailRequest>, grant: G, out: &mut Vec<u8>) {
        self.resume();
        self.mails = self.mails.saturating_add(1);
        let recipients = Duplicates::default();
        self.transaction = Some(Open { mail, grant, recipients, chunks: None });
        Reply::SENDER_OK.write(out);
    }

    /// Answers [`Step::Mail`] with a refusal: the step to take. With 421 the session ends.
    pub fn decline_mail(&mut self, mail: &MailRequest, reply: Reply, out: &mut Vec<u8>) -> Step<G> {
        self.resume();
        self.reject(Stage::Command(Verb::Mail), mail.rejected(), reply, out)
    }

    /// Until when a message is held, and by when it is to be delivered.
    fn times(
        &self,
        parameters: &MailParameters,
    ) -> Result<(Option<Timestamp>, Option<DeliverBy>), Reply> {
        let not_before = parameters.hold.map(|hold| match hold {
            Hold::For(seconds) => self.now.plus(Duration::from_secs(seconds.into())),
            Hold::Until(time) => time,
        });
        let hold_max = self.policy.limits.hold_max;
        if not_before.is_some_and(|time| time.since(self.now) > hold_max) {
            return Err(Reply::hold_too_long(hold_max));
        }
        let deliver_by = parameters.by.map(|by| DeliverBy {
            at: Timestamp(self.now.0.saturating_add_signed(i64::from(by.seconds) * 1000)),
            mode: by.mode,
            trace: by.trace,
        });
        // A by-time that passes while the message is held cannot be met. RFC 4865 and RFC 2852 say
        // nothing of each other.
        match (not_before, deliver_by) {
            (Some(held), Some(by)) if by.at <= held => Err(Reply::HELD_TOO_LONG_FOR_BY),
            times => Ok(times),
        }
    }

    fn rcpt(&mut self, argument: &str, out: &mut Vec<u8>) -> Step<G> {
        let (is_own_client, syntax) = (self.is_own_client(), self.syntax());
        let extended = self.is_extended();
        let Some(open) = &mut self.transaction else {
            let reply = if self.hello.is_some() { Reply::MAIL_FIRST } else { Reply::HELLO_FIRST };
            return self.refuse(Stage::Command(Verb::Rcpt), reply, out);
        };
        if open.chunks.is_some() {
            return self.refuse(Stage::Command(Verb::Rcpt), Reply::CHUNKS_BEGUN, out);
        }
        let offered = RcptSyntax { extended, smtp_utf8: open.mail.options.smtp_utf8, syntax };
        let recipient = match smtp::read_rcpt(argument, offered) {
            Ok(recipient) => recipient,
            Err(fault) => {
                return self.reject_recipient(printable(argument.as_bytes()), fault.reply(), out);
            }
        };
        // The relay has no domain of its own, so every recipient is elsewhere, the postmaster
        // without a domain too.
        if !is_own_client {
            let reply = Reply::relay_denied(self.client.address.ip());
            return self.reject_recipient(recipient.address.as_str().to_owned(), reply, out);
        }
        let recipients = &open.mail.envelope.recipients;
        if open.recipients.contains(recipients, &recipient.address) {
            Reply::RECIPIENT_OK.write(out);
            return Step::More;
        }
        // Not a refused command: a client with more recipients than fit has to do just this
        // (RFC 5321 4.5.3.1.10), and must come to its DATA.
        if recipients.len() >= self.policy.limits.recipients_max {
            Reply::TOO_MANY_RECIPIENTS.write(out);
            return Step::More;
        }
        self.state = State::Asked;
        Step::Recipient(RecipientRequest { recipient })
    }

    /// Answers [`Step::Recipient`]: one more recipient.
    pub fn accept_recipient(&mut self, request: RecipientRequest, out: &mut Vec<u8>) {
        self.resume();
        if let Some(open) = &mut self.transaction {
            open.mail.envelope.recipients.push(request.recipient);
            Reply::RECIPIENT_OK.write(out);
        } else {
            // A recipient is asked about inside a transaction only.
            debug_assert!(false, "a recipient without a transaction");
            Reply::LOCAL_ERROR.write(out);
        }
    }

    /// Answers [`Step::Recipient`] with a refusal: the step to take. With 421 the session ends.
    pub fn decline_recipient(
        &mut self,
        request: &RecipientRequest,
        reply: Reply,
        out: &mut Vec<u8>,
    ) -> Step<G> {
        self.resume();
        self.reject_recipient(request.recipient.address.as_str().to_owned(), reply, out)
    }

    fn data(&mut self, argument: &str, out: &mut Vec<u8>) -> Step<G> {
        let refusal = match self.transaction.take() {
            transaction if !argument.is_empty() => {
                self.transaction = transaction;
                CommandFault::ArgumentNotAllowed.reply()
            }
            None if self.hello.is_none() => Reply::HELLO_FIRST,
            None => Reply::MAIL_FIRST,
            Some(open) => match refusal_of_data(&open) {
                Some(refusal) => {
                    self.transaction = Some(open);
                    refusal
                }
                None => {
                    self.state = State::ContentWanted(open, None);
                    return Step::ContentWanted;
                }
            },
        };
        self.refuse(Stage::Command(Verb::Data), refusal, out)
    }

    /// Refuses a command. Worth an event only when it was one too many.
    pub(super) fn refuse(&mut self, at: Stage, reply: Reply, out: &mut Vec<u8>) -> Step<G> {
        match self.one_too_many(at, &reply, out) {
            Some(step) => step,
            None => {
                reply.write(out);
                Step::More
            }
        }
    }

    fn reject_sender(&mut self, from: String, reply: Reply, out: &mut Vec<u8>) -> Step<G> {
        let paths = RejectedPaths { from: Some(from), to: None };
        self.reject(Stage::Command(Verb::Mail), paths, reply, out)
    }

    fn reject_recipient(&mut self, to: String, reply: Reply, out: &mut Vec<u8>) -> Step<G> {
        let paths = RejectedPaths { to: Some(to), ..self.open_paths() };
        self.reject(Stage::Command(Verb::Rcpt), paths, reply, out)
    }

    /// Refuses a command, with an event. With 421 the session ends.
    pub(super) fn reject(
        &mut self,
        at: Stage,
        paths: RejectedPaths,
        reply: Reply,
        out: &mut Vec<u8>,
    ) -> Step<G> {
        match self.one_too_many(at, &reply, out) {
            Some(step) => step,
            None => {
                reply.write(out);
                if reply.code == 421 {
                    self.state = State::Closing;
                }
                Step::Rejected(Rejection { at, from: paths.from, to: paths.to, reply })
            }
        }
    }

    /// Counts a refusal. Beyond the limit 421 takes the place of its reply, and the session ends.
    fn one_too_many(&mut self, at: Stage, refusal: &Reply, out: &mut Vec<u8>) -> Option<Step<G>> {
        if self.is_own_client() && !counts_for_own_client(at, refusal) {
            return None;
        }
        self.refused = self.refused.saturating_add(1);
        if self.refused <= self.policy.limits.errors_max {
            return None;
        }
        let from = self.open_paths().from;
        let reply = Reply::TOO_MANY_ERRORS;
        self.close_with(&reply, out);
        Some(Step::Rejected(Rejection { at, from, to: None, reply }))
    }

    /// The reverse-path of the open transaction, for an event.
    pub(super) fn open_paths(&self) -> RejectedPaths {
        self.open().map(|open| open.mail.rejected()).unwrap_or_default()
    }
}

fn refusal_of_data<G>(open: &Open<G>) -> Option<Reply> {
    if open.mail.envelope.recipients.is_empty() {
        Some(Reply::NO_RECIPIENTS)
    } else if open.chunks.is_some() {
        Some(Reply::CHUNKS_BEGUN)
    } else {
        let is_binary = open.mail.options.body == Body::BinaryMime;
        is_binary.then_some(Reply::BINARY_NEEDS_CHUNKS)
    }
}

/// Whether a refusal says something about the client, and not only about a recipient or a message:
/// the table in the module documentation.
fn counts_for_own_client(at: Stage, refusal: &Reply) -> bool {
    match at {
        Stage::Command(Verb::Rcpt) => false,
        Stage::Command(Verb::Mail) => refusal.code >= 500,
        Stage::Command(Verb::Data | Verb::Bdat) => {
            refusal.code >= 500 && ![Reply::MAIL_FIRST, Reply::NO_RECIPIENTS].contains(refusal)
        }
        _ => true,
    }
}

/// What a client gave for an address, behind `FROM:` or `TO:`, fit for a log line.
fn printable(argument: &[u8]) -> String {
    let behind_colon = argument.splitn(2, |&byte| byte == b':').nth(1);
    behind_colon
        .unwrap_or(argument)
        .trim_ascii()
        .iter()
        .take(PATH_BYTES_MAX)
        .map(|&byte| if (32..=126).contains(&byte) { char::from(byte) } else { '?' })
        .collect()
}
