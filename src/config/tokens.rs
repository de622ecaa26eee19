//! What the keys of `[auth.tokens]` mean: who is asked whose a token is (RFC 7662), and what it
//! must be good for.

use super::error::Place;
use super::table::Table;
use super::tls;
use super::unit::Fault;
use super::written::read_path;
use super::{Roots, Tokens};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::Uri;

const SECOND: Duration = Duration::from_secs(1);

/// `[auth.tokens]`; `None` where it was not written.
pub(super) fn tokens(mut table: Table) -> Option<Tokens> {
    let (endpoint, id, secret) = (
        needed(&mut table, "introspection_endpoint", "https://...", read_endpoint),
        needed(&mut table, "client_id", "ringpost", read_words),
        needed(&mut table, "client_secret_file", "FILE", read_path),
    );
    let some = |text: &str| read_words(text).map(Some);
    let (scope_place, here) = (table.place_of("scope"), table.place.clone());
    let tokens = Tokens {
        introspection_endpoint: endpoint.unwrap_or_default(),
        client_id: id.unwrap_or_default(),
        client_secret_file: secret.unwrap_or_default(),
        roots: table.parsed("roots", Roots::System, tls::read_roots),
        timeout: table.duration("timeout", 5 * SECOND, Duration::from_millis(100)..=60 * SECOND),
        user_field: table.parsed("user_field", "username".into(), read_words),
        scope: table.parsed("scope", None, some),
        audience: table.parsed("audience", None, some),
        openid_configuration: table
            .parsed("openid_configuration", None, |text| read_endpoint(text).map(Some)),
        ttl_max: table.duration("ttl_max", 60 * SECOND, Duration::ZERO..=3600 * SECOND),
    };
    let is_written = here != Place::Default;
    if is_written && tokens.scope.is_none() && tokens.audience.is_none() {
        let place = if scope_place == Place::Default { &here } else { &scope_place };
        let what = "without scope and audience any token of that server would do, also one for \
                    another service; write scope = \"...\" or audience = \"...\"";
        table.fault(place, "scope", what);
    }
    table.end();
    is_written.then_some(tokens)
}

/// A key that must be there when the table is.
fn needed<T>(
    table: &mut Table,
    key: &'static str,
    example: &str,
    read: impl Fn(&str) -> Result<T, Fault>,
) -> Option<T> {
    let (place, here) = (table.place_of(key), table.place.clone());
    let found = table.parsed(key, None, |text| read(text).map(Some));
    if place == Place::Default && here != Place::Default {
        table.fault(&here, key, format!("missing; write {key} = \"{example}\""));
    }
    found
}

/// Where tokens are shown: never in the clear over a network.
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

/// Text that says something.
fn read_words(text: &str) -> Result<Box<str>, Fault> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(format!("{text:?} is not a text; write printable characters"));
    }
    Ok(text.into())
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
