//! Tokens (OAuth 2.0, RFC 6750): OAUTHBEARER (RFC 7628) and Google's XOAUTH2. The client sends a
//! token that an authorization server issued; whether it is valid, and for which user, the caller
//! finds out.

use super::scram::{read_name, write_name};
use super::{Fault, Mechanism, Secret};
use zeroize::Zeroizing;

/// Separates the pairs of a message (RFC 7628 3.1).
const SEPARATOR: char = '\x01';

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// The client has sent none: it asks what it would need (RFC 7628 4.3).
    #[error("there is none")]
    None,
    /// The authorization server does not know it, or no longer.
    #[error("it is not active")]
    NotActive,
    /// It has expired.
    #[error("it has expired")]
    Expired,
    /// It is not valid yet.
    #[error("it is not good yet")]
    TooEarly,
    /// It is for another service.
    #[error("it is for another audience")]
    Audience,
    /// Its scope does not suffice.
    #[error("it lacks the scope")]
    Scope,
    /// Only the holder of a key may use it (RFC 8705, RFC 9449), and AUTH has no way to show that.
    #[error("it is bound to a key, and AUTH cannot show keys")]
    Bound,
    /// It names no user, or a name that no user can have.
    #[error("it names no user")]
    NoUser,
    /// It is of another user than the client claims to be.
    #[error("it is another user's")]
    OtherUser,
}

/// What helps a client whose token was refused to get a better one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints<'a> {
    /// The scope that is demanded.
    pub scope: Option<&'a str>,
    /// Where the authorization server describes itself (RFC 8414).
    pub openid_configuration: Option<&'a str>,
}

impl TokenFault {
    /// The challenge for it (RFC 7628 3.2.2; for XOAUTH2 as Google writes it).
    pub(super) fn challenge(self, mechanism: Mechanism, hints: Hints<'_>) -> Vec<u8> {
        let mut fields = serde_json::Map::new();
        let mut set = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                fields.insert(key.to_owned(), value.into());
            }
        };
        if mechanism == Mechanism::XOAuth2 {
            set("status", Some("401"));
            set("schemes", Some("bearer"));
        } else {
            let lacks = self == TokenFault::Scope;
            set("status", Some(if lacks { "insufficient_scope" } else { "invalid_token" }));
            set("openid-configuration", hints.openid_configuration);
        }
        set("scope", hints.scope);
        serde_json::Value::Object(fields).to_string().into_bytes()
    }
}

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// The user that the client claims to be.
    pub(super) user: Option<String>,
    /// `None` when it only asks.
    pub(super) token: Option<Secret>,
}

/// The one message of OAUTHBEARER (RFC 7628 3.1): a header as of GS2 (RFC 5801 4), then pairs, of
/// which `auth` counts.
pub(super) fn read_oauthbearer(message: &[u8]) -> Result<Shown, Fault> {
    let text = std::str::from_utf8(message).map_err(|_| Fault::Malformed)?;
    let (header, pairs) = text.split_once(SEPARATOR).ok_or(Fault::Malformed)?;
    let mut parts = header.split(',');
    let (Some("n" | "y"), Some(identity), Some(""), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::Malformed);
    };
    let user = match identity.strip_prefix("a=") {
        Some(name) => Some(read_name(name).ok_or(Fault::Malformed)?),
        None if identity.is_empty() => None,
        None => return Err(Fault::Malformed),
    };
    let token = only(&read_pairs(pairs)?, "auth").ok_or(Fault::Malformed).and_then(read_bearer)?;
    Ok(Shown { user, token })
}

/// The one message of XOAUTH2: pairs alone, `user` among them.
pub(super) fn read_xoauth2(message: &[u8]) -> Result<Shown, Fault> {
    let text = std::str::from_utf8(message).map_err(|_| Fault::Malformed)?;
    let pairs = read_pairs(text)?;
    let user = only(&pairs, "user").filter(|user| !user.is_empty() && !user.contains('\0'));
    let user = Some(user.ok_or(Fault::Malformed)?.to_owned());
    let token = only(&pairs, "auth").ok_or(Fault::Malformed).and_then(read_bearer)?;
    Ok(Shown { user, token })
}

/// The client's one message.
pub fn write_token(mechanism: Mechanism, user: &str, token: &Secret) -> Zeroizing<Vec<u8>> {
    let token = token.reveal();
    Zeroizing::new(match mechanism {
        Mechanism::XOAuth2 => format!("user={user}\x01auth=Bearer {token}\x01\x01").into_bytes(),
        _ => {
            let name = write_name(user);
            format!("n,a={name},\x01auth=Bearer {token}\x01\x01").into_bytes()
        }
    })
}

/// Whether this could be a token (RFC 6750 2.1).
pub fn is_token(text: &str) -> bool {
    let bare = text.trim_end_matches('=');
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !bare.is_empty() && bare.bytes().all(is_known)
}

/// Keys are ASCII letters; each pair ends with the separator, and so do all.
fn read_pairs(text: &str) -> Result<Vec<(&str, &str)>, Fault> {
    let pairs = text.strip_suffix(SEPARATOR).ok_or(Fault::Malformed)?;
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let pairs = pairs.strip_suffix(SEPARATOR).ok_or(Fault::Malformed)?;
    let read = |pair: &'_ str| -> Option<usize> {
        let length = pair.find('=')?;
        let is_key = pair.bytes().take(length).all(|byte| byte.is_ascii_alphabetic());
        (length > 0 && is_key).then_some(length)
    };
    let pair = |text| {
        let length = read(text).ok_or(Fault::Malformed)?;
        let (key, value) = text.split_at(length);
        Ok((key, value.get(1..).unwrap_or_default()))
    };
    pairs.split(SEPARATOR).map(pair).collect()
}

/// The value of a key that is there once: of two it is not known which one holds.
fn only<'a>(pairs: &[(&str, &'a str)], key: &str) -> Option<&'a str> {
    let mut found = pairs.iter().filter(|(one, _)| *one == key);
    let value = found.next().map(|(_, value)| *value);
    value.filter(|_| found.next().is_none())
}

/// `Bearer TOKEN` (RFC 6750 2.1); nothing where the client only asks.
fn read_bearer(value: &str) -> Result<Option<Secret>, Fault> {
    if value.is_empty() {
        return Ok(None);
    }
    let (scheme, token) = value.split_once(' ').ok_or(Fault::Malformed)?;
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || !is_token(token) {
        return Err(Fault::Malformed);
    }
    Ok(Some(Secret::new(token)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(user: Option<&str>, token: Option<&str>) -> Result<Shown, Fault> {
        Ok(Shown { user: user.map(str::to_owned), token: token.map(Secret::new) })
    }

    #[test]
    fn rfc7628_4_1_the_example_is_read() {
        let message = b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01\
                        auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01";
        let token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==";
        assert_eq!(read_oauthbearer(message), shown(Some("user@example.com"), Some(token)));
        let no_user = b"n,,\x01auth=bearer  abc\x01\x01";
        assert_eq!(read_oauthbearer(no_user), shown(None, Some("abc")), "the token names the user");
        let escaped = b"y,a=a=2Cb=3Dc,\x01auth=Bearer x\x01\x01";
        assert_eq!(read_oauthbearer(escaped), shown(Some("a,b=c"), Some("x")));
    }

    #[test]
    fn what_is_written_is_read() {
        let token = Secret::new("abc.def==");
        let written = write_token(Mechanism::OAuthBearer, "a,b=c", &token);
        assert_eq!(read_oauthbearer(&written), shown(Some("a,b=c"), Some("abc.def==")));
        let written = write_token(Mechanism::XOAuth2, "joe@a.test", &token);
        assert_eq!(read_xoauth2(&written), shown(Some("joe@a.test"), Some("abc.def==")));
    }

    #[test]
    fn rfc7628_4_3_who_shows_no_token_only_asks() {
        let message =
            b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=\x01\x01";
        assert_eq!(read_oauthbearer(message), shown(Some("user@example.com"), None));
    }

    #[test]
    fn rfc7628_3_1_messages_are_read_to_the_letter() {
        for wrong in [
            "",
            "\x01",
            "n,,\x01\x01",
            "n,,auth=Bearer x\x01\x01",
            "n,\x01auth=Bearer x\x01\x01",
            "n,,,\x01auth=Bearer x\x01\x01",
            "n,b=joe,\x01auth=Bearer x\x01\x01",
            "n,a=,\x01auth=Bearer x\x01\x01",
            "n,a=j=oe,\x01auth=Bearer x\x01\x01",
            "p=tls-exporter,,\x01auth=Bearer x\x01\x01",
            "n,,\x01auth=Bearer x\x01",
            "n,,\x01auth=Bearer x",
            "n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01",
            "n,,\x01auth=Basic x\x01\x01",
            "n,,\x01auth=Bearer\x01\x01",
            "n,,\x01auth=Bearer a b\x01\x01",
            "n,,\x01auth=Bearer =\x01\x01",
            "n,,\x01auth=Bearer a\"\x01\x01",
            "n,,\x01=x\x01auth=Bearer x\x01\x01",
            "n,,\x01h st=x\x01auth=Bearer x\x01\x01",
            "n,,\x01host=a\x01\x01",
        ] {
            assert_eq!(read_oauthbearer(wrong.as_bytes()), Err(Fault::Malformed), "{wrong:?}");
        }
        assert_eq!(read_oauthbearer(b"n,,\x01auth=Bearer \xff\x01\x01"), Err(Fault::Malformed));
    }

    #[test]
    fn xoauth2_is_read_as_google_writes_it() {
        let message = b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3Rl\x01\x01";
        let token = "ya29.vF9dft4qmTc2Nvb3Rl";
        assert_eq!(read_xoauth2(message), shown(Some("someuser@example.com"), Some(token)));
        for wrong in [
            "",
            "\x01",
            "auth=Bearer x\x01\x01",
            "user=\x01auth=Bearer x\x01\x01",
            "user=a\x01user=b\x01auth=Bearer x\x01\x01",
            "user=a\x01auth=Bearer x\x01",
            "user=a\x01\x01",
        ] {
            assert_eq!(read_xoauth2(wrong.as_bytes()), Err(Fault::Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn rfc7628_3_2_2_a_refusal_says_what_would_be_right() {
        let hints = Hints {
            scope: Some("mail.send"),
            openid_configuration: Some("https://a.test/.well-known/openid-configuration"),
        };
        let challenge = |fault: TokenFault, mechanism, hints| {
            String::from_utf8(fault.challenge(mechanism, hints)).unwrap()
        };
        let bearer = Mechanism::OAuthBearer;
        assert_eq!(
            challenge(TokenFault::Expired, bearer, hints),
            "{\"openid-configuration\":\"https://a.test/.well-known/openid-configuration\",\
             \"scope\":\"mail.send\",\"status\":\"invalid_token\"}"
        );
        assert_eq!(
            challenge(TokenFault::Scope, bearer, Hints::default()),
            "{\"status\":\"insufficient_scope\"}"
        );
        assert_eq!(
            challenge(TokenFault::Expired, Mechanism::XOAuth2, hints),
            "{\"schemes\":\"bearer\",\"scope\":\"mail.send\",\"status\":\"401\"}"
        );
    }
}
