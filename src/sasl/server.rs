//! The server's side of an exchange, whatever the mechanism: messages in, next steps out.

use super::scram::{Binding, Challenge, Channels, ClientFirst};
use super::token::{Shown, read_oauthbearer, read_xoauth2};
use super::{Fault, Hints, Keys, Mechanism, Secret, TokenFault, read_plain};

/// LOGIN's questions.
const USERNAME: &[u8] = b"Username:";
const PASSWORD: &[u8] = b"Password:";

/// What the server does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Send this, then give the answer to `receive`.
    Challenge(Vec<u8>),
    /// Find out whether this is the user's password; that ends the exchange.
    Check {
        /// The user that the client claims to be.
        user: String,
        /// What the client sent.
        password: Secret,
    },
    /// Look up the keys of this user and give them to `keys`.
    Keys {
        /// The user that the client claims to be.
        user: String,
    },
    /// Find the user of the certificate that the client presented; it must be `user`, if one is
    /// named.
    Certificate {
        /// The user that the client claims to be.
        user: Option<String>,
    },
    /// Find the user of this token; that ends the exchange, or `refuse_token` goes on with it.
    Token {
        /// The user that the client claims to be.
        user: Option<String>,
        /// What the client sent; nothing when it only asks what it would need.
        token: Option<Secret>,
    },
    /// This user has proved to know the password.
    Proven {
        /// The user.
        user: String,
    },
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    state: State,
    /// What the exchange can be bound to, where that is offered.
    channels: Channels,
}

#[derive(Debug)]
enum State {
    External,
    Plain,
    LoginUser,
    LoginPassword(String),
    /// `true`: with channel binding.
    ScramFirst(bool),
    ScramKeys(ClientFirst),
    ScramProof(Box<Challenge>),
    /// The client has the proof that the server knows the password, too; its answer is empty.
    ScramEnd(String),
    /// OAUTHBEARER or XOAUTH2.
    Token(Mechanism),
    /// The caller finds out about the token of this user.
    TokenShown(Mechanism, Option<String>),
    /// The client has got the reason; its answer is ignored.
    TokenRefused(TokenFault, Option<String>),
    Over,
}

impl Exchange {
    /// Begins. There are `channels` where SCRAM-SHA-256-PLUS was offered beside the others.
    pub fn new(mechanism: Mechanism, channels: Channels) -> Exchange {
        let state = match mechanism {
            Mechanism::ScramSha256Plus => State::ScramFirst(true),
            Mechanism::ScramSha256 => State::ScramFirst(false),
            Mechanism::External => State::External,
            Mechanism::OAuthBearer | Mechanism::XOAuth2 => State::Token(mechanism),
            Mechanism::Plain => State::Plain,
            Mechanism::Login => State::LoginUser,
        };
        Exchange { state, channels }
    }

    /// The first turn: with the client's initial response, if it gave one.
    ///
    /// # Errors
    /// What the mechanism does not have; the exchange is over.
    pub fn begin(&mut self, initial: Option<&[u8]>) -> Result<Turn, Fault> {
        match (initial, &self.state) {
            (Some(message), _) => self.receive(message),
            (None, State::LoginUser) => Ok(Turn::Challenge(USERNAME.to_vec())),
            // RFC 4954 4: an empty challenge asks for the message that the client begins with.
            (None, _) => Ok(Turn::Challenge(Vec::new())),
        }
    }

    /// Takes the client's answer.
    ///
    /// # Errors
    /// As [`Exchange::begin`].
    pub fn receive(&mut self, message: &[u8]) -> Result<Turn, Fault> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::External if message.is_empty() => Ok(Turn::Certificate { user: None }),
            State::External => Ok(Turn::Certificate { user: Some(text(message)?) }),
            State::Plain => {
                let (user, password) = read_plain(message)?;
                Ok(Turn::Check { user, password })
            }
            State::LoginUser => {
                self.state = State::LoginPassword(text(message)?);
                Ok(Turn::Challenge(PASSWORD.to_vec()))
            }
            State::LoginPassword(user) => {
                Ok(Turn::Check { user, password: Secret::new(text(message)?) })
            }
            State::ScramFirst(plus) => {
                let first = ClientFirst::read(message)?;
                match (first.binding(), plus) {
                    (Binding::Exporter | Binding::EndPoint, true) | (Binding::None, false) => {}
                    // RFC 5802 6: the client was kept from seeing that it is offered.
                    (Binding::NotOffered, false) if self.channels.is_some() => {
                        return Err(Fault::ChannelBinding);
                    }
                    (Binding::NotOffered, false) => {}
                    _ => return Err(Fault::ChannelBinding),
                }
                let user = first.user.clone();
                self.state = State::ScramKeys(first);
                Ok(Turn::Keys { user })
            }
            State::ScramProof(challenge) => {
                let message = challenge.verify(message)?;
                self.state = State::ScramEnd(challenge.user);
                Ok(Turn::Challenge(message.into_bytes()))
            }
            State::ScramEnd(user) if message.is_empty() => Ok(Turn::Proven { user }),
            State::Token(mechanism) => {
                let Shown { user, token } = match mechanism {
                    Mechanism::XOAuth2 => read_xoauth2(message)?,
                    _ => read_oauthbearer(message)?,
                };
                self.state = State::TokenShown(mechanism, user.clone());
                Ok(Turn::Token { user, token })
            }
            State::TokenRefused(fault, _) => Err(Fault::Token(fault)),
            State::ScramEnd(_) | State::ScramKeys(_) | State::TokenShown(..) | State::Over => {
                Err(Fault::Malformed)
            }
        }
    }

    /// After [`Turn::Token`]: the token is not good. The client gets the reason, and answers; then
    /// that is the end (RFC 7628 3.2.3).
    ///
    /// # Errors
    /// No token was given.
    pub fn refuse_token(&mut self, fault: TokenFault, hints: Hints<'_>) -> Result<Turn, Fault> {
        let State::TokenShown(mechanism, user) = std::mem::replace(&mut self.state, State::Over)
        else {
            return Err(Fault::Malformed);
        };
        self.state = State::TokenRefused(fault, user);
        Ok(Turn::Challenge(fault.challenge(mechanism, hints)))
    }

    /// After [`Turn::Keys`]: the keys, and random printable characters without a comma.
    ///
    /// # Errors
    /// No keys were asked for, or the client wants a binding that is not there.
    pub fn keys(&mut self, keys: Keys, nonce: &str) -> Result<Turn, Fault> {
        let State::ScramKeys(first) = std::mem::replace(&mut self.state, State::Over) else {
            return Err(Fault::Malformed);
        };
        let data = self.channels.data(first.binding()).ok_or(Fault::ChannelBinding)?;
        let (challenge, message) = first.challenge(keys, nonce, data);
        self.state = State::ScramProof(Box::new(challenge));
        Ok(Turn::Challenge(message.into_bytes()))
    }

    /// What the client may bind to.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// The user that the next message has to prove: it is checked as soon as it is received.
    pub fn prover(&self) -> Option<&str> {
        match &self.state {
            State::ScramProof(challenge) => Some(&challenge.user),
            _ => None,
        }
    }

    /// The user that the client claims to be, as far as it has said.
    pub fn user(&self) -> Option<&str> {
        match &self.state {
            State::LoginPassword(user) | State::ScramEnd(user) => Some(user),
            State::ScramKeys(first) => Some(&first.user),
            State::ScramProof(challenge) => Some(&challenge.user),
            State::TokenShown(_, user) | State::TokenRefused(_, user) => user.as_deref(),
            State::External
            | State::Plain
            | State::LoginUser
            | State::ScramFirst(_)
            | State::Token(_)
            | State::Over => None,
        }
    }
}

fn text(message: &[u8]) -> Result<String, Fault> {
    let text = std::str::from_utf8(message).map_err(|_| Fault::Malformed)?;
    if text.is_empty() || text.contains('\0') {
        return Err(Fault::Malformed);
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::super::{Client, decode, encode};
    use super::*;

    fn keys() -> Keys {
        Keys::derive("pencil", &decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096)
    }

    fn check(user: &str, password: &str) -> Turn {
        Turn::Check { user: user.into(), password: Secret::new(password) }
    }

    #[test]
    fn plain_and_login_show_the_password() {
        let mut plain = Exchange::new(Mechanism::Plain, Channels::default());
        assert_eq!(plain.begin(None), Ok(Turn::Challenge(Vec::new())));
        assert_eq!(plain.receive(b"\0tim\0secret"), Ok(check("tim", "secret")));
        assert_eq!(plain.receive(b"\0tim\0secret"), Err(Fault::Malformed), "it is over");
        let mut login = Exchange::new(Mechanism::Login, Channels::default());
        assert_eq!(login.begin(None), Ok(Turn::Challenge(b"Username:".into())));
        assert_eq!(login.receive(b"tim"), Ok(Turn::Challenge(b"Password:".into())));
        assert_eq!(login.user(), Some("tim"));
        assert_eq!(login.receive(b"secret"), Ok(check("tim", "secret")));
        let mut at_once = Exchange::new(Mechanism::Login, Channels::default());
        assert_eq!(at_once.begin(Some(b"tim")), Ok(Turn::Challenge(b"Password:".into())));
        for wrong in [&b""[..], b"\xff", b"a\0b"] {
            let mut login = Exchange::new(Mechanism::Login, Channels::default());
            assert_eq!(login.begin(Some(wrong)), Err(Fault::Malformed));
        }
    }

    #[test]
    fn external_names_somebody_or_nobody() {
        let external = |message: &[u8]| {
            Exchange::new(Mechanism::External, Channels::default()).begin(Some(message))
        };
        assert_eq!(external(b""), Ok(Turn::Certificate { user: None }));
        assert_eq!(external(b"joe"), Ok(Turn::Certificate { user: Some("joe".into()) }));
        assert_eq!(external(b"\xff"), Err(Fault::Malformed));
        let mut asked = Exchange::new(Mechanism::External, Channels::default());
        assert_eq!(asked.begin(None), Ok(Turn::Challenge(Vec::new())));
        assert_eq!(asked.receive(b""), Ok(Turn::Certificate { user: None }));
    }

    #[test]
    fn rfc7628_3_2_3_a_token_that_is_not_good_is_answered_and_then_refused() {
        for (mechanism, message) in [
            (Mechanism::OAuthBearer, "n,a=joe,\x01auth=Bearer abc\x01\x01"),
            (Mechanism::XOAuth2, "user=joe\x01auth=Bearer abc\x01\x01"),
        ] {
            let shown = Turn::Token { user: Some("joe".into()), token: Some(Secret::new("abc")) };
            let mut exchange = Exchange::new(mechanism, Channels::default());
            assert_eq!(exchange.begin(None), Ok(Turn::Challenge(Vec::new())));
            assert_eq!(exchange.receive(message.as_bytes()), Ok(shown));
            assert_eq!(exchange.user(), Some("joe"));
            for answer in ["\x01", "", "anything"] {
                let mut exchange = Exchange::new(mechanism, Channels::default());
                assert!(exchange.begin(Some(message.as_bytes())).is_ok());
                let turn = exchange.refuse_token(TokenFault::Expired, Hints::default());
                assert!(matches!(turn, Ok(Turn::Challenge(json)) if json.starts_with(b"{\"s")));
                assert_eq!(exchange.user(), Some("joe"));
                let end = exchange.receive(answer.as_bytes());
                assert_eq!(end, Err(Fault::Token(TokenFault::Expired)));
                assert_eq!(exchange.receive(b""), Err(Fault::Malformed), "it is over");
            }
            assert_eq!(exchange.receive(b"\x01"), Err(Fault::Malformed), "not asked for");
        }
    }

    /// Plays SCRAM with this client and server; what the server came to.
    fn scram(mechanism: Mechanism, client: Option<[u8; 32]>, server: Option<[u8; 32]>) -> bool {
        let channels = Channels { exporter: server, end_point: None };
        let mut exchange = Exchange::new(mechanism, channels);
        let (client, first) = Client::begin("user", "abc", client);
        let turn = exchange.begin(Some(first.as_bytes()));
        let Ok(Turn::Keys { user }) = turn else { return false };
        assert_eq!((user.as_str(), exchange.user()), ("user", Some("user")));
        let Turn::Challenge(message) = exchange.keys(keys(), "def").unwrap() else {
            panic!("no challenge")
        };
        let (expected, last) = client.prove(&message, &Secret::new("pencil")).unwrap();
        assert_eq!(exchange.prover(), Some("user"));
        let Ok(Turn::Challenge(message)) = exchange.receive(last.as_bytes()) else { return false };
        assert_eq!(exchange.prover(), None);
        assert_eq!(expected.check(&message), Ok(()));
        exchange.receive(b"") == Ok(Turn::Proven { user })
    }

    #[test]
    fn scram_proves_it_and_binds_it_to_the_connection() {
        let (here, there) = (Some([1; 32]), Some([2; 32]));
        assert!(scram(Mechanism::ScramSha256, None, None));
        assert!(scram(Mechanism::ScramSha256, None, here), "a client that cannot bind");
        assert!(scram(Mechanism::ScramSha256Plus, here, here));
        assert!(!scram(Mechanism::ScramSha256Plus, here, there), "another channel on the way");
        assert!(!scram(Mechanism::ScramSha256Plus, None, here), "PLUS without binding");
        assert!(!scram(Mechanism::ScramSha256, here, here), "binding without PLUS");
    }

    #[test]
    fn rfc5929_4_binding_to_the_certificate_is_another_than_to_the_connection() {
        let channels = Channels { exporter: Some([1; 32]), end_point: Some(vec![2; 48]) };
        assert_eq!(channels.names(), "tls-exporter and tls-server-end-point");
        for (kind, data, expected) in [
            ("tls-server-end-point", vec![2; 48], Ok(())),
            ("tls-exporter", vec![1; 32], Ok(())),
            ("tls-server-end-point", vec![1; 32], Err(Fault::ChannelBinding)),
            ("tls-exporter", vec![2; 48], Err(Fault::ChannelBinding)),
        ] {
            let mut exchange = Exchange::new(Mechanism::ScramSha256Plus, channels.clone());
            let first = format!("p={kind},,n=user,r=abc");
            assert!(matches!(exchange.begin(Some(first.as_bytes())), Ok(Turn::Keys { .. })));
            let Turn::Challenge(message) = exchange.keys(keys(), "def").unwrap() else { panic!() };
            let header = [format!("p={kind},,").as_bytes(), &data].concat();
            let (_, last) = Client::bound("user", "abc", &header)
                .prove(&message, &Secret::new("pencil"))
                .unwrap();
            assert_eq!(exchange.receive(last.as_bytes()).map(drop), expected, "{kind}");
        }
        let mut exchange = Exchange::new(Mechanism::ScramSha256Plus, Channels::default());
        assert!(exchange.begin(Some(b"p=tls-server-end-point,,n=user,r=abc")).is_ok());
        assert_eq!(exchange.keys(keys(), "def"), Err(Fault::ChannelBinding), "there is none");
    }

    #[test]
    fn a_client_that_was_kept_from_binding_is_refused() {
        for (channel, expected) in [(None, true), (Some(vec![1; 32]), false)] {
            let channels = Channels { exporter: None, end_point: channel };
            let mut exchange = Exchange::new(Mechanism::ScramSha256, channels);
            assert_eq!(exchange.begin(Some(b"y,,n=user,r=abc")).is_ok(), expected);
        }
    }

    #[test]
    fn turns_out_of_order_end_it() {
        let mut exchange = Exchange::new(Mechanism::ScramSha256, Channels::default());
        assert_eq!(exchange.keys(keys(), "x"), Err(Fault::Malformed));
        assert_eq!(exchange.begin(None), Err(Fault::Malformed).or(Ok(Turn::Challenge(vec![]))));
        assert_eq!(exchange.receive(b"n,,n=user,r=abc"), Err(Fault::Malformed), "over");
        assert_eq!(encode(b"n,,"), "biws");
    }
}
