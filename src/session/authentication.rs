//! AUTH (RFC 4954): the command, its lines and its replies. What the messages mean, and whether the
//! credentials are valid, the caller finds out. *Pure.*

use super::{Session, Stage, State, Step};
use crate::sasl::{self, Mechanism};
use crate::smtp::{Reply, Verb};

/// Longest line of an exchange with its CRLF, in bytes (RFC 4954 4).
pub(super) const AUTH_LINE_MAX: usize = 12_288;

/// How clients of a listener may authenticate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// What is offered, the best first; nothing when there are no users.
    pub mechanisms: Vec<Mechanism>,
    /// Also without TLS.
    pub without_tls: bool,
    /// No mail without AUTH.
    pub demanded: bool,
}

/// A message of the client.
#[derive(Clone, PartialEq, Eq)]
pub enum AuthInput {
    /// AUTH, with the initial response if there was one.
    Begin(Mechanism, Option<Vec<u8>>),
    /// An answer to a challenge.
    Answer(Vec<u8>),
}

/// Passwords are in it.
impl std::fmt::Debug for AuthInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AuthInput::Begin(mechanism, _) => write!(f, "Begin({})", mechanism.name()),
            AuthInput::Answer(_) => f.write_str("Answer"),
        }
    }
}

impl<G> Session<G> {
    /// The mechanisms that are offered now.
    fn mechanisms(&self) -> impl Iterator<Item = Mechanism> {
        let protection = self.client.protection.as_ref();
        let authentication = &self.client.authentication;
        let open = protection.is_some() || authentication.without_tls;
        let binds = protection.is_some_and(|protection| protection.channels.is_some());
        let shown = protection.is_some_and(|there| there.client_fingerprint.is_some());
        let mechanisms = authentication.mechanisms.iter().copied();
        mechanisms.filter(move |one| match one {
            Mechanism::ScramSha256Plus => binds,
            Mechanism::External => shown,
            _ => open,
        })
    }

    /// What the AUTH line of the reply to EHLO lists, with a space before each; nothing once the
    /// client is authenticated.
    pub(super) fn offered_mechanisms(&self) -> Option<String> {
        let names: String = self.mechanisms().flat_map(|one| [" ", one.name()]).collect();
        (self.user.is_none() && !names.is_empty()).then_some(names)
    }

    /// The refusal of MAIL before AUTH, where AUTH is demanded.
    pub(super) fn auth_demand(&self) -> Option<Reply> {
        let authentication = &self.client.authentication;
        if !authentication.demanded || self.user.is_some() {
            return None;
        }
        let in_the_clear = self.client.protection.is_none() && !authentication.without_tls;
        Some(if in_the_clear { Reply::TLS_FIRST } else { Reply::AUTH_FIRST })
    }

    pub(super) fn auth(&mut self, argument: &str, out: &mut Vec<u8>) -> Step<G> {
        let mut words = argument.split([' ', '\t']).filter(|word| !word.is_empty());
        let (name, initial, rest) = (words.next(), words.next(), words.next());
        let mechanism = name.and_then(Mechanism::of);
        let offered = mechanism.filter(|wanted| self.mechanisms().any(|one| one == *wanted));
        let refusal = if self.client.authentication.mechanisms.is_empty() {
            Reply::NOT_IMPLEMENTED
        } else if !self.is_extended() {
            Reply::EHLO_FIRST
        } else if self.user.is_some() {
            Reply::AUTH_ALREADY
        } else if self.transaction.is_some() {
            Reply::AUTH_IN_TRANSACTION
        } else if name.is_none() || rest.is_some() {
            Reply::AUTH_SYNTAX
        } else if mechanism.is_some() && self.mechanisms().next().is_none() {
            Reply::AUTH_NEEDS_TLS
        } else if let Some(mechanism) = offered {
            // RFC 4954 4: a single "=" is an initial response that is there, and empty.
            let initial = match initial {
                None => Some(None),
                Some("=") => Some(Some(Vec::new())),
                Some(text) => sasl::decode(text.as_bytes()).map(Some),
            };
            match initial {
                Some(initial) => {
                    self.state = State::Authenticating;
                    return Step::Auth(AuthInput::Begin(mechanism, initial));
                }
                None => Reply::AUTH_NOT_BASE64,
            }
        } else {
            Reply::AUTH_UNKNOWN_MECHANISM
        };
        self.refuse(Stage::Command(Verb::Auth), refusal, out)
    }

    /// A line that answers a challenge.
    pub(super) fn auth_answer(&mut self, line: &[u8], out: &mut Vec<u8>) -> Step<G> {
        self.state = State::Commands;
        if line == b"*" {
            return self.refuse(Stage::Command(Verb::Auth), Reply::AUTH_CANCELLED, out);
        }
        match sasl::decode(line) {
            Some(answer) => {
                self.state = State::Authenticating;
                Step::Auth(AuthInput::Answer(answer))
            }
            None => self.refuse(Stage::Command(Verb::Auth), Reply::AUTH_NOT_BASE64, out),
        }
    }

    /// Answers [`Step::Auth`] with a challenge.
    pub fn challenge(&mut self, message: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"334 ");
        out.extend_from_slice(sasl::encode(message).as_bytes());
        out.extend_from_slice(b"\r\n");
        self.state = State::Challenged;
    }

    /// Answers [`Step::Auth`]: the credentials are valid.
    pub fn authenticated(&mut self, user: &str, out: &mut Vec<u8>) {
        self.user = Some(user.into());
        self.state = State::Commands;
        Reply::AUTHENTICATED.write(out);
    }

    /// Answers [`Step::Auth`] with a refusal, which counts as a refused command: the step to take.
    pub fn not_authenticated(&mut self, reply: Reply, out: &mut Vec<u8>) -> Step<G> {
        self.state = State::Commands;
        self.refuse(Stage::Command(Verb::Auth), reply, out)
    }

    /// The authenticated user.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Reads a line that may be longer than others: AUTH, and answers to challenges.
    pub(super) fn line_max(&self, rest: &[u8]) -> usize {
        let max = self.policy.limits.command_line_max;
        let is_auth = rest.get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"AUTH"));
        match self.state {
            State::Challenged => max.max(AUTH_LINE_MAX),
            _ if is_auth && !self.client.authentication.mechanisms.is_empty() => {
                max.max(AUTH_LINE_MAX)
            }
            _ => max,
        }
    }
}
