//! `[auth.tokens]`: tokens, and the server that checks them (RFC 7662).

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
    /// expired, and have the scope or audience that is required here; tokens bound to a key (cnf)
    /// are refused. The user of a token need not be in the users file, and may then send from any
    /// address, with the limits of [auth]. If the server does not answer, the client gets 454
    /// 4.7.0, and the attempt does not count as failed.
    pub struct Tokens {
        /// The introspection endpoint: https, or http to a loopback address.
        introspection_endpoint: Box<str> =
            needed(endpoint("https://login.example.com/oauth2/introspect"));
        /// The relay's client id at that server.
        client_id: Box<str> = needed(text("ringpost"));
        /// The file with the client secret, on one line; readable only by its owner. It is read
        /// again at SIGHUP and within a minute after a change.
        client_secret_file: PathBuf = needed(path("/etc/ringpost/introspection.secret"));
        /// The certificate authorities for the server's certificate: as tls.roots.
        roots: Roots = tls::roots();
        /// Wait for an answer. A request may also wait this long before it is sent.
        timeout: Duration = duration(seconds(5), ms(100)..=seconds(60));
        /// The member of the answer that names the user. A client that gives a user name must give
        /// this one.
        user_field: Box<str> = text("username");
        /// Scopes, separated by spaces, that the answer must all have.
        scope: Option<Box<str>> = optional(text("mail.send"));
        /// The audience (aud) that the answer must have.
        audience: Option<Box<str>> = optional(text("smtp.example.com"));
        /// The URL of the OpenID configuration, sent to clients without a valid token, with the
        /// scope (RFC 7628 3.2.2).
        openid_configuration: Option<Box<str>> =
            optional(endpoint("https://login.example.com/.well-known/openid-configuration"));
        /// How long a valid token is cached, but never beyond its expiry. A revoked token stays
        /// valid here until then.
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

/// A URL to which tokens are sent: never in the clear over a network.
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
        return fault("must not contain a user name or a fragment");
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = bare.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(text.into()),
        Some("http") if is_here => Ok(text.into()),
        Some("http") => fault(
            "would send tokens in the clear; http is only for 127.0.0.1 and \
                               [::1]",
        ),
        _ => fault("must begin with https://"),
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
