//! The reply to EHLO (RFC 5321 4.1.1.1): what a client may use, here and now. *Pure.*

use super::Session;
use crate::smtp::{OddDots, Offered, Syntax, Verb};
use std::io::Write;

/// The shortest time that is taken with mode R (RFC 2852 3): none is too short to be kept here.
const DELIVER_BY_SECONDS_MIN: u32 = 1;

impl<G> Session<G> {
    /// The extensions that change what MAIL and RCPT may say.
    pub(super) fn offered(&self) -> Offered {
        Offered {
            extended: self.is_extended(),
            scheduling: self.client.scheduling,
            require_tls: self.client.protection.is_some(),
            auth: !self.client.authentication.mechanisms.is_empty(),
            syntax: self.syntax(),
        }
    }

    /// Whether the client may send to any domain: it is in a relay network, or is a user.
    pub(super) fn is_own_client(&self) -> bool {
        self.client.may_relay || self.user.is_some()
    }

    /// How strictly addresses are read.
    pub(super) fn syntax(&self) -> Syntax {
        let limits = &self.policy.limits;
        match (limits.lenient && self.is_own_client(), limits.keep_odd_dots) {
            (false, _) => Syntax::Strict,
            (true, false) => Syntax::Lenient(OddDots::Quoted),
            (true, true) => Syntax::Lenient(OddDots::Kept),
        }
    }

    /// ETRN is for clients that may send to any domain (RFC 1985 6), but not where mail is
    /// submitted (RFC 6409 7).
    pub(super) fn offers_etrn(&self) -> bool {
        self.is_own_client() && !self.client.authentication.demanded
    }

    /// Whether HELP lists this command.
    pub(super) fn is_offered(&self, verb: Verb) -> bool {
        match verb {
            Verb::StartTls => self.offers_starttls(),
            Verb::Auth => self.offered_mechanisms().is_some(),
            Verb::Etrn => self.offers_etrn(),
            Verb::Xclient => self.client.xclient,
            Verb::Vrfy => self.policy.limits.vrfy,
            _ => true,
        }
    }

    pub(super) fn write_offer(&self, out: &mut Vec<u8>) {
        let limits = &self.policy.limits;
        let mut line = |text: std::fmt::Arguments<'_>| {
            // Memory takes all that is written to it.
            let _ = write!(out, "250-{text}\r\n");
        };
        line(format_args!("{}", self.policy.host_name));
        line(format_args!("PIPELINING"));
        // RFC 5321 4.1.1.1: each command that not all servers have.
        line(format_args!("HELP"));
        line(format_args!("SIZE {}", limits.message_bytes_max));
        if self.offers_starttls() {
            line(format_args!("STARTTLS"));
        }
        if let Some(mechanisms) = self.offered_mechanisms() {
            line(format_args!("AUTH{mechanisms}"));
        }
        for keyword in ["8BITMIME", "DSN", "SMTPUTF8", "CHUNKING", "BINARYMIME"] {
            line(format_args!("{keyword}"));
        }
        // RFC 9422 4.
        match limits.messages_max {
            0 => line(format_args!("LIMITS RCPTMAX={}", limits.recipients_max)),
            messages_max => {
                let recipients_max = limits.recipients_max;
                line(format_args!("LIMITS MAILMAX={messages_max} RCPTMAX={recipients_max}"));
            }
        }
        if self.offers_etrn() {
            line(format_args!("ETRN"));
        }
        // RFC 8689 4: only under TLS.
        if self.client.protection.is_some() {
            line(format_args!("REQUIRETLS"));
        }
        if self.client.scheduling {
            line(format_args!("MT-PRIORITY"));
            let longest = limits.hold_max;
            let until = self.now.plus(longest);
            // RFC 4865 4: in seconds, and as a date.
            line(format_args!("FUTURERELEASE {} {until}", longest.as_secs()));
            line(format_args!("DELIVERBY {DELIVER_BY_SECONDS_MIN}"));
        }
        if self.client.xclient {
            line(format_args!("XCLIENT NAME ADDR PORT PROTO HELO"));
        }
        out.extend_from_slice(b"250 ENHANCEDSTATUSCODES\r\n");
    }
}
