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

use super::{Hello, Open, Rejection, Session, State, Step};
use crate::limits::PATH_BYTES_MAX;
use crate::message::{
    Address, Body, DeliverBy, Envelope, Options, Recipient, Timestamp, domain_key,
};
use crate::smtp::{self, CommandFault, Hold, MailParameters, Reply, Verb};
use std::time::Duration;

impl Session {
    pub(super) fn command(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step {
        let (verb, argument) = match smtp::read_command(line) {
            Ok(command) => command,
            Err(fault) => return self.refuse_line(line, fault, out),
        };
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
                Ok(()) => return self.close_with(&Reply::BYE, out),
                Err(fault) => Err(fault),
            },
        };
        match done {
            Ok(step) => step,
            Err(fault) => self.refuse(verb.name(), fault.reply(), out),
        }
    }

    /// The open transaction is forgotten.
    fn forget(&mut self) -> Step {
        match self.transaction.take() {
            Some(open) if open.chunks.is_some() => Step::ContentVoid,
            _ => Step::More,
        }
    }

    /// A line with bytes that no command may have. In MAIL and RCPT it is a bad address; of BDAT,
    /// the chunk would be taken for commands.
    fn refuse_line(&mut self, line: &[u8], fault: CommandFault, out: &mut Vec<u8>) -> Step {
        let argument = line.get(5..).unwrap_or_default();
        match Verb::of(line) {
            Some(Verb::Mail) => {
                self.reject("mail", Some(printable(argument)), None, fault.reply(), out)
            }
            Some(Verb::Rcpt) => self.reject_recipient(printable(argument), fault.reply(), out),
            Some(Verb::Bdat) => self.close_with(&fault.reply(), out),
            verb => self.refuse(verb.map_or("command", Verb::name), fault.reply(), out),
        }
    }

    /// EHLO and HELO also do what RSET does (RFC 5321 4.1.4).
    fn hello(
        &mut self,
        argument: &str,
        extended: bool,
        out: &mut Vec<u8>,
    ) -> Result<Step, CommandFault> {
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

    /// RFC 3207 4. What a pipelining client, or somebody in the middle, sent behind it is thrown
    /// away by the caller.
    fn starttls(&mut self, argument: &str, out: &mut Vec<u8>) -> Step {
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
        self.refuse("starttls", refusal, out)
    }

    /// RFC 1985 5. The caller has it done.
    fn etrn(&mut self, argument: &str, out: &mut Vec<u8>) -> Step {
        let refusal = if !self.offers_etrn() {
            Reply::ETRN_DENIED
        } else if !self.is_extended() {
            Reply::HELLO_FIRST
        } else if self.transaction.is_some() {
            Reply::NESTED_MAIL
        } else {
            match smtp::read_etrn(argument) {
                Ok((domain, with_below)) => {
                    let domain = domain_key(domain).into_owned();
                    return Step::Flush { domain, with_below };
                }
                Err(fault) => fault.reply(),
            }
        };
        self.refuse("etrn", refusal, out)
    }

    /// Postfix's XCLIENT_README: only for those who are configured to.
    fn xclient(&mut self, argument: &str, out: &mut Vec<u8>) -> Step {
        let refusal = if !self.client.xclient {
            return self.reject("xclient", None, None, Reply::XCLIENT_DENIED, out);
        } else if self.transaction.is_some() {
            Reply::NESTED_MAIL
        } else {
            match smtp::read_xclient(argument) {
                Ok(told) if told.login => Reply::XCLIENT_LOGIN,
                Ok(told) => return Step::ClientOverride { address: told.address, port: told.port },
                Err(fault) => fault.reply(),
            }
        };
        self.refuse("xclient", refusal, out)
    }

    fn mail(&mut self, argument: &str, out: &mut Vec<u8>) -> Step {
        if self.hello.is_none() {
            return self.refuse("mail", Reply::HELLO_FIRST, out);
        }
        if self.client.tls_demanded && self.client.protection.is_none() {
            return self.refuse("mail", Reply::TLS_FIRST, out);
        }
        if let Some(demand) = self.auth_demand() {
            return self.refuse("mail", demand, out);
        }
        if self.transaction.is_some() {
            return self.refuse("mail", Reply::NESTED_MAIL, out);
        }
        let messages_max = self.policy.limits.messages_max;
        if messages_max != 0 && self.mails >= messages_max {
            return self.close_with(&Reply::TOO_MANY_MESSAGES, out);
        }
        let mail = match smtp::read_mail(argument, self.offered()) {
            Ok(mail) => mail,
            Err(fault) => {
                let given = printable(argument.as_bytes());
                return self.reject("mail", Some(given), None, fault.reply(), out);
            }
        };
        let reverse_path = mail.path.to_address();
        let told = mail.parameters;
        let bytes_max = self.policy.limits.message_bytes_max;
        if told.size.is_some_and(|declared| declared > bytes_max) {
            let from = text_of(reverse_path.as_ref());
            return self.reject("mail", Some(from), None, Reply::too_large(bytes_max), out);
        }
        let (not_before, deliver_by) = match self.times(&told) {
            Ok(times) => times,
            Err(reply) => {
                let from = text_of(reverse_path.as_ref());
                return self.reject("mail", Some(from), None, reply, out);
            }
        };
        let gate = self.client.gate.as_ref();
        let passed = gate.map(|gate| gate.pass(self.user(), reverse_path.as_ref())).transpose();
        let claim = match passed {
            Ok(claim) => claim,
            Err(reply) => {
                let from = text_of(reverse_path.as_ref());
                return self.reject("mail", Some(from), None, reply, out);
            }
        };
        self.mails += 1;
        self.transaction = Some(Open {
            envelope: Envelope { reverse_path, recipients: Vec::new() },
            options: Options {
                body: told.body.unwrap_or_default(),
                smtp_utf8: told.smtp_utf8,
                dsn_return: told.dsn_return,
                dsn_envelope_id: told.envelope_id.map(Box::from),
                require_tls: told.require_tls,
                priority: told.priority.unwrap_or_default(),
                not_before,
                deliver_by,
                ..Options::default()
            },
            claim,
            chunks: None,
        });
        Reply::SENDER_OK.write(out);
        Step::More
    }

    /// Until when a message is held, and by when it is to be delivered.
    fn times(
        &self,
        told: &MailParameters<'_>,
    ) -> Result<(Option<Timestamp>, Option<DeliverBy>), Reply> {
        let not_before = told.hold.map(|hold| match hold {
            Hold::For(seconds) => self.now.plus(Duration::from_secs(seconds.into())),
            Hold::Until(time) => time,
        });
        let hold_max = self.policy.limits.hold_max;
        if not_before.is_some_and(|time| time.since(self.now) > hold_max) {
            return Err(Reply::hold_too_long(hold_max));
        }
        let deliver_by = told.by.map(|by| DeliverBy {
            at: Timestamp(self.now.0.saturating_add_signed(i64::from(by.seconds) * 1000)),
            mode: by.mode,
            trace: by.trace,
        });
        // A time that passes while it is held nobody could meet. RFC 4865 and RFC 2852 say nothing
        // of each other.
        match (not_before, deliver_by) {
            (Some(held), Some(by)) if by.at <= held => Err(Reply::HELD_TOO_LONG_FOR_BY),
            times => Ok(times),
        }
    }

    fn rcpt(&mut self, argument: &str, out: &mut Vec<u8>) -> Step {
        let is_own_client = self.is_own_client();
        let Some(open) = &mut self.transaction else {
            let reply = if self.hello.is_some() { Reply::MAIL_FIRST } else { Reply::HELLO_FIRST };
            return self.refuse("rcpt", reply, out);
        };
        if open.chunks.is_some() {
            return self.refuse("rcpt", Reply::CHUNKS_BEGUN, out);
        }
        let extended = self.hello.as_ref().is_some_and(|hello| hello.extended);
        let rcpt = match smtp::read_rcpt(argument, extended, open.options.smtp_utf8) {
            Ok(rcpt) => rcpt,
            Err(fault) => {
                return self.reject_recipient(printable(argument.as_bytes()), fault.reply(), out);
            }
        };
        // No domain is ours, so every recipient is elsewhere, the domainless postmaster too.
        if !is_own_client {
            let to = text_of(rcpt.path.to_address().as_ref());
            return self.reject_recipient(to, Reply::relay_denied(self.client.address.ip()), out);
        }
        // Not a refused command: a client with more recipients than fit is told to do just this
        // (RFC 5321 4.5.3.1.10), and must come to its DATA.
        if open.envelope.recipients.len() >= self.policy.limits.recipients_max {
            Reply::TOO_MANY_RECIPIENTS.write(out);
            return Step::More;
        }
        if let Some(Err(reply)) = open.claim.as_mut().map(|claim| claim.one_more()) {
            // Not a refused command, either: see above.
            reply.write(out);
            let from = self.open_sender();
            let to = Some(text_of(rcpt.path.to_address().as_ref()));
            return Step::Rejected(Rejection { at: "rcpt", from, to, reply });
        }
        let Some(open) = &mut self.transaction else { return Step::More };
        if let Some(address) = rcpt.path.to_address() {
            let smtp::RcptParameters { notify, original } = rcpt.parameters;
            let original = original.map(Box::from);
            open.envelope.recipients.push(Recipient { address, notify, original });
            Reply::RECIPIENT_OK.write(out);
        }
        Step::More
    }

    fn data(&mut self, argument: &str, out: &mut Vec<u8>) -> Step {
        let refusal = match &self.transaction {
            _ if !argument.is_empty() => CommandFault::ArgumentNotAllowed.reply(),
            None if self.hello.is_none() => Reply::HELLO_FIRST,
            None => Reply::MAIL_FIRST,
            Some(open) if open.envelope.recipients.is_empty() => Reply::NO_RECIPIENTS,
            Some(open) if open.chunks.is_some() => Reply::CHUNKS_BEGUN,
            Some(open) if open.options.body == Body::BinaryMime => Reply::BINARY_NEEDS_CHUNKS,
            Some(_) => {
                self.state = State::ContentWanted(None);
                return Step::ContentWanted;
            }
        };
        self.refuse("data", refusal, out)
    }

    /// Refuses a command. Worth an event only when it was one too many.
    pub(super) fn refuse(&mut self, at: &'static str, reply: Reply, out: &mut Vec<u8>) -> Step {
        match self.one_too_many(at, &reply, out) {
            Some(step) => step,
            None => {
                reply.write(out);
                Step::More
            }
        }
    }

    fn reject_recipient(&mut self, to: String, reply: Reply, out: &mut Vec<u8>) -> Step {
        let from = self.open_sender();
        self.reject("rcpt", from, Some(to), reply, out)
    }

    /// Refuses a command, with an event.
    pub(super) fn reject(
        &mut self,
        at: &'static str,
        from: Option<String>,
        to: Option<String>,
        reply: Reply,
        out: &mut Vec<u8>,
    ) -> Step {
        match self.one_too_many(at, &reply, out) {
            Some(step) => step,
            None => {
                reply.write(out);
                Step::Rejected(Rejection { at, from, to, reply })
            }
        }
    }

    /// Counts a refusal. Beyond the limit 421 takes the place of its reply, and the session ends.
    fn one_too_many(
        &mut self,
        at: &'static str,
        refusal: &Reply,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        if self.is_own_client() && !counts_for_own_client(at, refusal) {
            return None;
        }
        self.refused = self.refused.saturating_add(1);
        if self.refused <= self.policy.limits.errors_max {
            return None;
        }
        let from = self.open_sender();
        let reply = Reply::TOO_MANY_ERRORS;
        self.close_with(&reply, out);
        Some(Step::Rejected(Rejection { at, from, to: None, reply }))
    }

    /// The reverse-path of the open transaction, for an event.
    pub(super) fn open_sender(&self) -> Option<String> {
        self.transaction.as_ref().map(|open| text_of(open.envelope.reverse_path.as_ref()))
    }
}

/// Whether a refusal says something about the client, and not only about a recipient or a message:
/// the table in the module documentation.
fn counts_for_own_client(at: &str, refusal: &Reply) -> bool {
    match at {
        "rcpt" => false,
        "mail" => refusal.code >= 500,
        "data" | "bdat" => {
            refusal.code >= 500 && ![Reply::MAIL_FIRST, Reply::NO_RECIPIENTS].contains(refusal)
        }
        _ => true,
    }
}

fn text_of(address: Option<&Address>) -> String {
    address.map_or_else(String::new, |address| address.as_str().to_owned())
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
