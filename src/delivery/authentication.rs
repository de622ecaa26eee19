//! AUTH (RFC 4954) at a next hop that knows us: the strongest mechanism that both have. *Pure.*

use crate::sasl::{
    self, Client, Credentials, Expected, Fault, Mechanism, write_plain, write_token,
};
use std::sync::Arc;

/// The credentials with which a conversation logs in.
#[derive(Clone, Debug)]
pub struct Login {
    /// Name and password.
    pub credentials: Arc<Credentials>,
    /// Random printable characters without a comma, new for each conversation.
    pub nonce: Box<str>,
    /// Also in the clear.
    pub without_tls: bool,
}

/// Work that takes too long here: hashing as often as the server asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    client: Client,
    challenge: Vec<u8>,
    credentials: Arc<Credentials>,
}

/// What came of it: what the server must say, and what is said to it.
pub type Proved = Result<(Expected, String), Fault>;

impl Proof {
    /// Does it: up to half a second.
    pub fn work(self) -> Proved {
        self.client.prove(&self.challenge, &self.credentials.password)
    }
}

/// Longest line of AUTH with its CRLF, in bytes (RFC 4954 4, RFC 5321 4.5.3.1.4). A first message
/// that does not fit waits until it is asked for.
const AUTH_LINE_MAX: usize = 512;

/// An exchange under way.
#[derive(Debug)]
pub(super) enum Exchange {
    /// PLAIN: its message is asked for.
    Plain,
    /// SCRAM: the first message is asked for.
    First(Client, String),
    /// The token is asked for.
    FirstToken(Mechanism),
    /// LOGIN: the name is asked for.
    Name,
    /// LOGIN: the password is.
    Password,
    /// SCRAM: the challenge comes.
    Challenge(Client),
    /// SCRAM: the caller works.
    Work,
    /// SCRAM: the server proves itself.
    Proof(Expected),
    /// All is said.
    Said,
    /// All is said, unless the host does not take our token: it tells why before it refuses.
    Token,
    /// `*` was said; why.
    Cancelled(Box<str>),
}

/// What a challenge leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// It has been written.
    Written,
    /// The caller has to work first.
    Work(Proof),
    /// The server asks what the mechanism does not have, or does not know our password.
    Fault(&'static str),
}

impl Exchange {
    /// Says AUTH with the best of what is `offered`; `None` when none of it is known.
    pub(super) fn begin(
        offered: &[Mechanism],
        login: &Login,
        out: &mut Vec<u8>,
    ) -> Option<Exchange> {
        let Credentials { user, password, is_token } = &*login.credentials;
        let known: &[Mechanism] = if *is_token {
            &[Mechanism::OAuthBearer, Mechanism::XOAuth2]
        } else {
            &[Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login]
        };
        let best = *known.iter().find(|one| offered.contains(one))?;
        out.extend_from_slice(b"AUTH ");
        out.extend_from_slice(best.name().as_bytes());
        let mut fits = |message: &[u8]| {
            let message = sasl::encode(message);
            let fits = "AUTH  \r\n".len() + best.name().len() + message.len() <= AUTH_LINE_MAX;
            if fits {
                out.push(b' ');
                out.extend_from_slice(message.as_bytes());
            }
            fits
        };
        let exchange = match best {
            Mechanism::Plain if fits(&write_plain(user, password)) => Exchange::Said,
            Mechanism::Plain => Exchange::Plain,
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => {
                let (client, first) = Client::begin(user, &login.nonce, None);
                match fits(first.as_bytes()) {
                    true => Exchange::Challenge(client),
                    false => Exchange::First(client, first),
                }
            }
            Mechanism::OAuthBearer | Mechanism::XOAuth2 => {
                match fits(&write_token(best, user, password)) {
                    true => Exchange::Token,
                    false => Exchange::FirstToken(best),
                }
            }
            // EXTERNAL is never chosen: it is not among those known.
            Mechanism::External | Mechanism::Login => Exchange::Name,
        };
        out.extend_from_slice(b"\r\n");
        Some(exchange)
    }

    /// Answers a challenge, as it stands behind `334 `.
    pub(super) fn answer(&mut self, text: &[u8], login: &Login, out: &mut Vec<u8>) -> Answer {
        let mut write = |bytes: &[u8]| {
            out.extend_from_slice(sasl::encode(bytes).as_bytes());
            out.extend_from_slice(b"\r\n");
        };
        let Credentials { user, password, .. } = &*login.credentials;
        match std::mem::replace(self, Exchange::Said) {
            Exchange::Plain => {
                write(&write_plain(user, password));
                Answer::Written
            }
            Exchange::FirstToken(mechanism) => {
                write(&write_token(mechanism, user, password));
                *self = Exchange::Token;
                Answer::Written
            }
            Exchange::First(client, first) => {
                write(first.as_bytes());
                *self = Exchange::Challenge(client);
                Answer::Written
            }
            // What LOGIN asks is the same everywhere, and its words are not.
            Exchange::Name => {
                write(user.as_bytes());
                *self = Exchange::Password;
                Answer::Written
            }
            Exchange::Password => {
                write(password.reveal().as_bytes());
                Answer::Written
            }
            Exchange::Challenge(client) => match sasl::decode(text.trim_ascii()) {
                Some(challenge) => {
                    *self = Exchange::Work;
                    let credentials = Arc::clone(&login.credentials);
                    Answer::Work(Proof { client, challenge, credentials })
                }
                None => Answer::Fault("its challenge is not base64"),
            },
            Exchange::Proof(expected) => {
                match sasl::decode(text.trim_ascii()).map(|said| expected.check(&said)) {
                    Some(Ok(())) => {
                        out.extend_from_slice(b"\r\n");
                        Answer::Written
                    }
                    _ => Answer::Fault("it does not know the password either"),
                }
            }
            // RFC 7628 3.2.3; servers with XOAUTH2 accept it as well.
            Exchange::Token => {
                write(b"\x01");
                Answer::Written
            }
            Exchange::Work | Exchange::Said | Exchange::Cancelled(_) => {
                Answer::Fault("a challenge too many")
            }
        }
    }

    /// The caller's work is done.
    pub(super) fn proved(&mut self, proved: Proved, out: &mut Vec<u8>) -> Result<(), Fault> {
        let (expected, message) = proved?;
        out.extend_from_slice(sasl::encode(message.as_bytes()).as_bytes());
        out.extend_from_slice(b"\r\n");
        *self = Exchange::Proof(expected);
        Ok(())
    }

    /// Whether all has been said and heard, so that the server may say yes: with SCRAM also what
    /// only a server that knows the password can say.
    pub(super) fn is_said(&self) -> bool {
        matches!(self, Exchange::Said | Exchange::Token)
    }
}
