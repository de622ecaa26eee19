//! `[auth.tokens]`: tokens, and the server that is asked whether they are valid (RFC 7662).

use super::declare::table;
use super::kinds::{duration, ms, needed, optional, parsed, path, seconds, text};
use super::table::Table;
use super::tls::{self, Roots};
use super::unit::Fault;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::Uri;

table! {
    /// Tokens (OAuth 2.0): OAUTHBEARER (RFC 7628) and XOAUTH2, offered wherever passwords are. The
    /// authorization server is asked whether a token is valid (RFC 7662), by POST with token=...
    /// and HTTP Basic authentication, without redirects or a proxy. Its answer must be active, not
    /// expired, and of the scope or audience that is required here; tokens bound to a key (cnf) are
    /// refused. The user that a token names need not be in the users file, and may then send from
    /// any address, with the limits of [auth]. If there is no answer, the reply is 454 4.7.0, and
    /// the attempt does not count as failed.
    pub struct Tokens {
        /// The introspection endpoint: https, or http to a loopback address.
        introspection_endpoint: Box<str> =
            needed(endpoint("https://login.example.com/oauth2/introspect"));
        /// The client id that the relay has there.
        client_id: Box<str> = needed(text("ringpost"));
        /// The file with the client secret, on one line; readable by its owner alone. It is read
        /// again at SIGHUP and within a minute after it has changed.
        client_secret_file: PathBuf = needed(path("/etc/ringpost/introspection.secret"));
        /// The certificate authorities for the server's certificate: as tls.roots.
        roots: Roots = tls::roots();
        /// Wait for an answer. An attempt waits as long again for its turn to ask.
        timeout: Duration = duration(seconds(5), ms(100)..=seconds(60));
        /// The member of the answer that names the user. A client that gives a user name must give
        /// this one.
        user_field: Box<str> = text("username");
        /// Words that must all be in the scope of the answer.
        scope: Option<Box<str>> = optional(text("mail.send"));
        /// The audience (aud) that the answer must have.
        audience: Option<Box<str>> = optional(text("smtp.example.com"));
        /// An address for clients without a valid token, which the refusal names beside the scope
        /// (RFC 7628 3.2.2).
        openid_configuration: Option<Box<str>> =
            optional(endpoint("https://login.example.com/.well-known/openid-configuration"));
        /// How long a token is taken as valid without asking again, but never beyond its end. A
        /// token that is revoked stays valid here until then.
        ttl_max: Duration = duration(seconds(60), Duration::ZERO..=seconds(3600));
    }
    check = check
}

fn check(items: &[Tokens], tables: &[Table<'_>]) {
    for (tokens, table) in items.iter().zip(tables) {
        if tokens.scope.is_none() && tokens.audience.is_none() {
            let place = table.place_of("scope").max(table.place.clone());
            let what = "without scope and audience any token of that server would be accepted, \
                        even one for another service; write scope = \"...\" or audience = \"...\"";
            table.fault(&place, "scope", what);
        }
    }
}

/// Where tokens are sent: never in the clear over a network.
fn endpoint(example: &str) -> super::kinds::Parsed<Box<str>> {
    parsed("URL", example.into(), read_endpoint, |text| text.to_string())
}

fn read_endpoint(text: &str) -> Result<Box<str>, Fault> {
    let fault = |why: &str| Err(format!("{text:?} {why}; write \"https://HOST/PATH\""));
    let Ok(uri) = text.parse::<Uri>() else { return fault("is not a URL") };
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
        return fault("is not a URL with a host");
    };
    if uri.authority().is_some_and(|all| all.as_str().contains('@')) || text.contains('#') {
        return fault("has a name or a fragment in it, which goes nowhere");
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = bare.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(text.into()),
        Some("http") if is_here => Ok(text.into()),
        Some("http") => fault("would show tokens to who listens; http is for 127.0.0.1 and [::1]"),
        _ => fault("is not a URL that can be asked"),
    }
}

impl Tokens {
    /// The files that are read, and read again when they have changed.
    pub fn files(&self) -> Vec<PathBuf> {
        let roots = match &self.roots {
            Roots::File(path) => Some(path.clone()),
            Roots::System => None,
        };
        [self.client_secret_file.clone()].into_iter().chain(roots).collect()
    }
}
