//! The mechanisms of SASL (RFC 4422) of AUTH: PLAIN (RFC 4616), LOGIN
//! (draft-murchison-sasl-login) and SCRAM-SHA-256 (RFC 5802, RFC 7677), both ends; EXTERNAL,
//! OAUTHBEARER (RFC 7628) and XOAUTH2, the server's and the client's messages. *Pure.*
//!
//! Messages of a mechanism go in and come out as bytes; base64 is for callers that put them on
//! lines. Nonces and salts are given by the caller. It must not know users or SMTP.

mod scram;
mod server;
mod token;

pub use scram::{Channels, Client, Digest, Expected, Keys, keyed};
pub use server::{Exchange, Turn};
pub use token::{Hints, TokenFault, is_token, write_token};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use zeroize::Zeroizing;

/// A way to authenticate, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// Proved outside of the exchange: by the certificate of the client (RFC 4422 A).
    External,
    /// The same, tied to its TLS connection, so that it cannot be relayed by an attacker in the
    /// middle.
    ScramSha256Plus,
    /// Proves to know the password without sending it, and has the server prove the same.
    ScramSha256,
    /// Sends a token that an authorization server issued.
    OAuthBearer,
    /// The same in Google's older form.
    XOAuth2,
    /// Sends the password.
    Plain,
    /// Sends the password, in two steps.
    Login,
}

impl Mechanism {
    /// All, in the order in which they are offered and preferred.
    pub const ALL: [Mechanism; 7] = [
        Mechanism::External,
        Mechanism::ScramSha256Plus,
        Mechanism::ScramSha256,
        Mechanism::OAuthBearer,
        Mechanism::XOAuth2,
        Mechanism::Plain,
        Mechanism::Login,
    ];

    /// As the IANA registers it.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::External => "EXTERNAL",
            Mechanism::OAuthBearer => "OAUTHBEARER",
            Mechanism::XOAuth2 => "XOAUTH2",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }

    /// The mechanism of this name, in any case.
    pub fn of(name: &str) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|one| one.name().eq_ignore_ascii_case(name))
    }
}

/// A password. Never shown, and overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A user name and its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password, or the token.
    pub password: Secret,
    /// It is a token.
    pub is_token: bool,
}

/// Why an exchange has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message that the mechanism does not have.
    #[error("not a message of this mechanism")]
    Malformed,
    /// The client wants to act as another user.
    #[error("one user cannot act for another here")]
    OtherIdentity,
    /// The client demands a binding to the TLS channel that is not offered, or does not see the one
    /// that is.
    #[error("the two ends do not agree on channel binding")]
    ChannelBinding,
    /// The other end does not know the password.
    #[error("the proof is wrong")]
    Proof,
    /// The token is not good here.
    #[error("token not accepted: {0}")]
    Token(TokenFault),
}

/// Bytes as they stand on a line.
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Bytes that stood on a line; `None` when that is not base64 (RFC 4648 4, with its padding).
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A name or password in the form in which they are compared (SASLprep, RFC 4013); `None` for one
/// with characters that none may have.
pub fn prepare(text: &str) -> Option<String> {
    stringprep::saslprep(text).ok().map(Into::into).filter(|text: &String| !text.is_empty())
}

/// The one message of PLAIN: identity, user name and password, separated by NUL.
///
/// # Errors
/// Another form, or one that acts for another.
pub fn read_plain(message: &[u8]) -> Result<(String, Secret), Fault> {
    let text = std::str::from_utf8(message).map_err(|_| Fault::Malformed)?;
    let mut parts = text.split('\0');
    let (Some(other), Some(user), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::Malformed);
    };
    let secret = Secret::new(password);
    if user.is_empty() || password.is_empty() {
        return Err(Fault::Malformed);
    }
    if !other.is_empty() && other != user {
        return Err(Fault::OtherIdentity);
    }
    Ok((user.to_owned(), secret))
}

/// The one message of PLAIN, written.
pub fn write_plain(user: &str, password: &Secret) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(format!("\0{user}\0{}", password.reveal()).into_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plain_has_three_parts() {
        let (user, password) = read_plain(b"\0tim\0tanstaaftanstaaf").unwrap();
        assert_eq!((user.as_str(), password.reveal()), ("tim", "tanstaaftanstaaf"));
        assert_eq!(*write_plain("tim", &password), b"\0tim\0tanstaaftanstaaf");
        assert!(read_plain(b"tim\0tim\0x").is_ok(), "for oneself");
        assert_eq!(read_plain(b"Ursel\0Kurt\0xipj3plmq").unwrap_err(), Fault::OtherIdentity);
        for wrong in [&b""[..], b"tim", b"\0tim", b"\0tim\0", b"\0\0x", b"\0a\0b\0c", b"\0\xff\0x"]
        {
            assert_eq!(read_plain(wrong).unwrap_err(), Fault::Malformed, "{wrong:?}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("pencil")), "Secret");
    }

    #[test]
    fn names_and_passwords_are_compared_in_one_form() {
        // RFC 4013 3: a soft hyphen goes, compatibility characters become plain ones.
        assert_eq!(prepare("I\u{ad}X").as_deref(), Some("IX"));
        assert_eq!(prepare("\u{2168}").as_deref(), Some("IX"));
        assert_eq!(prepare("a\u{7}"), None);
        assert_eq!(prepare(""), None);
    }
}
