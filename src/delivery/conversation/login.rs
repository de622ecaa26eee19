//! Who we are at a host that knows us (RFC 4954): AUTH from EHLO to the first transaction.

use super::{Conversation, State};
use crate::delivery::Step;
use crate::delivery::authentication::{Answer, Exchange, Proved};
use crate::message::{Outcome, Reason, Stage, Status};
use crate::smtp::{Response, one_line};

const AUTH_FAILED: &str = "AUTH failed at the host: ";

impl Conversation {
    /// Says who we are, where that is wanted.
    pub(super) fn log_in(&mut self, out: &mut Vec<u8>) -> Step {
        let Some(login) = &self.login else {
            self.state = State::Idle;
            return Step::Ready;
        };
        if !self.secured && !login.without_tls {
            let text = "there is no TLS, and our password must not go in the clear";
            return self.not_logged_in(Status(4, 7, 4), text, out);
        }
        match Exchange::begin(&self.capabilities.auth, login, out) {
            Some(exchange) => {
                self.state = State::Auth(exchange);
                Step::More
            }
            None => {
                let text = "we are to log in, and the host offers no AUTH that we know";
                self.not_logged_in(Status(4, 7, 4), text, out)
            }
        }
    }

    /// A reply to AUTH, or to what followed it.
    pub(super) fn auth(&mut self, response: Response<'_>, out: &mut Vec<u8>) -> Step {
        let (State::Auth(exchange), Some(login)) = (&mut self.state, &self.login) else {
            return self.broken("a reply to AUTH that was not said");
        };
        if let Exchange::Cancelled(why) = exchange {
            let why = std::mem::take(why);
            return self.not_logged_in(Status(4, 7, 0), &why, out);
        }
        match response.class() {
            2 if exchange.is_said() => {
                self.capabilities.logged_in = true;
                self.state = State::Idle;
                Step::Ready
            }
            2 => {
                let text = "the host said yes without knowing our password";
                self.not_logged_in(Status(4, 7, 0), text, out)
            }
            3 => {
                let text = response.lines().next().unwrap_or_default();
                match exchange.answer(text, login, out) {
                    Answer::Written => Step::More,
                    Answer::Work(proof) => Step::Prove(proof),
                    Answer::Fault(what) => self.cancel(&format!("{AUTH_FAILED}{what}"), out),
                }
            }
            _ => {
                let mut reason = response.reason(Stage::Auth, &self.remote);
                let text = format!("the host did not take our login: {}", reason.text);
                reason.text = one_line(text.as_bytes(), Reason::TEXT_LENGTH_MAX).into();
                if response.code() != 421 {
                    out.extend_from_slice(b"QUIT\r\n");
                }
                self.state = State::Closed;
                Step::Unusable(Outcome::Deferred(reason))
            }
        }
    }

    /// After [`Step::Prove`]: what came of it; `None` when it could not be done now.
    pub fn proved(&mut self, proved: Option<Proved>, out: &mut Vec<u8>) {
        let State::Auth(exchange) = &mut self.state else { return };
        let text = match proved.map(|proved| exchange.proved(proved, out)) {
            Some(Ok(())) => return,
            Some(Err(fault)) => format!("{AUTH_FAILED}{fault}"),
            None => "too much waits to be hashed; AUTH is said later".to_owned(),
        };
        self.cancel(&text, out);
    }

    /// Ends an exchange that the server waits for (RFC 4954 4).
    fn cancel(&mut self, why: &str, out: &mut Vec<u8>) -> Step {
        out.extend_from_slice(b"*\r\n");
        self.state = State::Auth(Exchange::Cancelled(why.into()));
        Step::More
    }

    fn not_logged_in(&mut self, status: Status, text: &str, out: &mut Vec<u8>) -> Step {
        let reason = self.ours(Stage::Auth, status, text);
        out.extend_from_slice(b"QUIT\r\n");
        self.state = State::Closed;
        Step::Unusable(Outcome::Deferred(reason))
    }
}
