//! Finds the user of a token: asks the authorization server (RFC 7662 2.2) and checks its answer
//! against the configuration. Valid tokens are cached for a while, because clients log in for each
//! message. The cache has a keyed hash of the token, never the token.

use super::hash_pool::HashPool;
use super::introspection::Introspection;
use super::user::prepared_name;
use super::{User, UsersError};
use crate::config;
use crate::ring;
use crate::sasl::{Digest, Hints, Secret, TokenFault, keyed};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Threads that wait for answers. They are apart from those that hash: a server that does not
/// answer must not block users with a password.
const THREADS: usize = 4;
/// Requests that may wait for a thread. Beyond it, the client gets 454.
const WAITING_MAX: usize = 128;
/// Tokens in the cache. When it is full, expired ones are dropped, then all.
const KNOWN_MAX: usize = 16 * 1024;
/// Shortest time between two warnings that tokens cannot be checked.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRejection {
    /// The token is not valid here.
    Fault(TokenFault),
    /// The token cannot be checked now.
    NotNow,
}

/// What the server says about a valid token.
#[derive(Debug)]
struct Good {
    /// The user, in the form in which names are compared.
    user: Box<str>,
    /// Seconds since 1970.
    expires: Option<f64>,
}

/// Checks tokens, for all shards.
pub(super) struct Tokens {
    inquiry: Arc<Inquiry>,
    workers: HashPool,
}

/// What the threads share.
struct Inquiry {
    config: config::Tokens,
    server: RwLock<Arc<Introspection>>,
    known: Mutex<HashMap<Digest, (Box<str>, Instant)>>,
    /// Key of the hashes that never leave this process.
    secret: [u8; 32],
    warned: Mutex<Option<Instant>>,
}

impl Tokens {
    /// Reads the files and starts the threads.
    ///
    /// # Errors
    /// A file cannot be used, or no thread could be started.
    pub(super) fn open(config: &config::Tokens, secret: [u8; 32]) -> Result<Tokens, UsersError> {
        let no_thread = |error: io::Error| UsersError::Unfit(format!("no thread: {error}"));
        let inquiry = Inquiry {
            config: config.clone(),
            server: RwLock::new(Arc::new(Introspection::open(config)?)),
            known: Mutex::default(),
            secret,
            warned: Mutex::default(),
        };
        let workers = HashPool::start(THREADS, WAITING_MAX).map_err(no_thread)?;
        Ok(Tokens { inquiry: Arc::new(inquiry), workers })
    }

    /// Reads the files again and clears the cache. On an error everything stays as it was.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(super) fn reload(&self) -> Result<(), UsersError> {
        let server = Arc::new(Introspection::open(&self.inquiry.config)?);
        *self.inquiry.server.write().unwrap_or_else(PoisonError::into_inner) = server;
        self.forget();
        Ok(())
    }

    /// Clears the cache.
    pub(super) fn forget(&self) {
        lock(&self.inquiry.known).clear();
    }

    /// The hints for clients whose token is refused (RFC 7628 3.2.2).
    pub(super) fn hints(&self) -> Hints<'_> {
        Hints {
            scope: self.inquiry.config.scope.as_deref(),
            openid_configuration: self.inquiry.config.openid_configuration.as_deref(),
        }
    }

    /// The user of the token.
    ///
    /// # Errors
    /// The token belongs to no user that may log in with it, or it cannot be checked now.
    pub(super) async fn user_of(&self, token: Secret) -> Result<Box<str>, TokenRejection> {
        let seal = keyed(&self.inquiry.secret, token.reveal().as_bytes());
        if let Some(user) = self.inquiry.find(&seal) {
            return Ok(user);
        }
        let (inquiry, asked) = (Arc::clone(&self.inquiry), ring::now());
        let found = self.workers.run(move || inquiry.find_out(seal, &token, asked)).await;
        found.unwrap_or_else(|| {
            self.inquiry.warn("too many requests are waiting");
            Err(TokenRejection::NotNow)
        })
    }
}

impl Inquiry {
    /// The user of a cached token.
    fn find(&self, seal: &Digest) -> Option<Box<str>> {
        let known = lock(&self.known);
        known.get(seal).filter(|(_, until)| ring::now() < *until).map(|(user, _)| user.clone())
    }

    fn find_out(
        &self,
        seal: Digest,
        token: &Secret,
        asked: Instant,
    ) -> Result<Box<str>, TokenRejection> {
        // Another thread may have asked meanwhile.
        if let Some(user) = self.find(&seal) {
            return Ok(user);
        }
        if ring::now().saturating_duration_since(asked) > self.config.timeout {
            self.warn("requests wait too long");
            return Err(TokenRejection::NotNow);
        }
        let server = Arc::clone(&self.server.read().unwrap_or_else(PoisonError::into_inner));
        let judged = server.ask(token).and_then(|answer| judge(&answer, &self.config, seconds()));
        match judged {
            Ok(Ok(good)) => {
                self.remember(seal, &good);
                Ok(good.user)
            }
            Ok(Err(fault)) => Err(TokenRejection::Fault(fault)),
            Err(trouble) => {
                self.warn(&trouble);
                Err(TokenRejection::NotNow)
            }
        }
    }

    fn remember(&self, seal: Digest, good: &Good) {
        let left = good.expires.map_or(f64::MAX, |expires| expires - seconds()).max(0.0);
        let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
        let (now, long) = (ring::now(), left.min(self.config.ttl_max));
        let Some(until) = now.checked_add(long).filter(|until| *until > now) else { return };
        let mut known = lock(&self.known);
        if known.len() >= KNOWN_MAX {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(seal, (good.user.clone(), until));
    }

    /// Logs that tokens cannot be checked, once in [`WARN_INTERVAL`].
    fn warn(&self, error: &str) {
        let mut warned = lock(&self.warned);
        if warned.is_none_or(|at| ring::now().saturating_duration_since(at) >= WARN_INTERVAL) {
            *warned = Some(ring::now());
            let endpoint = &*self.config.introspection_endpoint;
            tracing::warn!(endpoint, error, "tokens cannot be checked: clients get 454");
        }
    }
}

/// Checks that all files can be used.
///
/// # Errors
/// A file cannot be read, or its content is not valid.
pub fn check_tokens(tokens: &config::Tokens) -> Result<(), UsersError> {
    Introspection::open(tokens).map(drop)
}

/// A user that has no entry in the users file.
pub(super) fn guest(name: Box<str>) -> User {
    User {
        name,
        password: None,
        scram: None,
        senders: None,
        certificates: Vec::new(),
        certificate_names: Vec::new(),
        messages_per_hour: None,
        recipients_per_hour: None,
    }
}

/// Decides by the server's answer whether the token is valid at `now`.
///
/// # Errors
/// The answer does not follow RFC 7662.
fn judge(
    answer: &Map<String, Value>,
    demanded: &config::Tokens,
    now: f64,
) -> Result<Result<Good, TokenFault>, String> {
    let malformed = |name: &str| format!("the answer does not follow RFC 7662: {name}");
    let member = |name: &str| answer.get(name).filter(|value| !value.is_null());
    let number = |name: &str| match member(name) {
        Some(value) => value.as_f64().map(Some).ok_or_else(|| malformed(name)),
        None => Ok(None),
    };
    let text = |name: &str| match member(name) {
        Some(value) => value.as_str().map(Some).ok_or_else(|| malformed(name)),
        None => Ok(None),
    };
    match member("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Ok(Err(TokenFault::NotActive)),
        _ => return Err(malformed("active")),
    }
    let (expires, begins) = (number("exp")?, number("nbf")?);
    let (scope, kind) = (text("scope")?.unwrap_or_default(), text("token_type")?);
    if expires.is_some_and(|expires| expires <= now) {
        return Ok(Err(TokenFault::Expired));
    }
    if begins.is_some_and(|begins| begins > now) {
        return Ok(Err(TokenFault::TooEarly));
    }
    // A refresh token is active too, and a DPoP token is not valid without its key.
    if member("cnf").is_some() || kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Ok(Err(TokenFault::Bound));
    }
    let has = |name: &str| scope.split(' ').any(|one| one == name);
    let required = demanded.scope.as_deref().unwrap_or_default();
    if !required.split(' ').filter(|name| !name.is_empty()).all(has) {
        return Ok(Err(TokenFault::Scope));
    }
    if let Some(audience) = demanded.audience.as_deref() {
        let is_ours = |value: &Value| value.as_str() == Some(audience);
        let named = match member("aud") {
            Some(Value::Array(all)) => all.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        };
        if !named {
            return Ok(Err(TokenFault::Audience));
        }
    }
    let user = text(&demanded.user_field)?.and_then(prepared_name);
    Ok(user.map(|user| Good { user, expires }).ok_or(TokenFault::NoUser))
}

/// Seconds since 1970.
fn seconds() -> f64 {
    ring::wall_clock().0 as f64 / 1000.0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::config::Roots;

    fn demanded(scope: Option<&str>, audience: Option<&str>) -> config::Tokens {
        config::Tokens {
            introspection_endpoint: "http://127.0.0.1:1/".into(),
            client_id: "ringpost".into(),
            client_secret_file: "/nowhere".into(),
            roots: Roots::System,
            timeout: Duration::from_secs(1),
            user_field: "username".into(),
            scope: scope.map(Into::into),
            audience: audience.map(Into::into),
            openid_configuration: None,
            ttl_max: Duration::from_secs(60),
        }
    }

    fn judged(json: &str, scope: Option<&str>, audience: Option<&str>) -> Result<String, String> {
        let Ok(Value::Object(answer)) = serde_json::from_str(json) else { panic!("{json}") };
        judge(&answer, &demanded(scope, audience), 1000.0).map(|found| match found {
            Ok(good) => good.user.to_string(),
            Err(fault) => format!("{fault:?}"),
        })
    }

    #[test]
    fn rfc7662_2_2_a_token_is_valid_when_the_answer_meets_every_demand() {
        for (json, expected) in [
            (r#"{"active":true,"username":"joe"}"#, "joe"),
            (r#"{"active":true,"username":"j\u00adoe","exp":1001,"nbf":1000}"#, "joe"),
            (r#"{"active":true,"username":"joe","exp":1000.5,"token_type":"bearer"}"#, "joe"),
            (r#"{"active":true,"username":"joe","exp":null,"scope":null,"cnf":null}"#, "joe"),
            (r#"{"active":false,"username":"joe"}"#, "NotActive"),
            (r#"{"active":true,"username":"joe","exp":1000}"#, "Expired"),
            (r#"{"active":true,"username":"joe","nbf":1001}"#, "TooEarly"),
            (r#"{"active":true,"username":"joe","token_type":"DPoP"}"#, "Bound"),
            (r#"{"active":true,"username":"joe","cnf":{"jkt":"x"}}"#, "Bound"),
            (r#"{"active":true,"sub":"joe"}"#, "NoUser"),
            (r#"{"active":true,"username":"a\u0007"}"#, "NoUser"),
        ] {
            assert_eq!(judged(json, None, None).as_deref(), Ok(expected), "{json}");
        }
        for json in [
            "{}",
            r#"{"active":"true","username":"joe"}"#,
            r#"{"active":1,"username":"joe"}"#,
            r#"{"active":true,"username":["joe"]}"#,
            r#"{"active":true,"username":"joe","exp":"1001"}"#,
            r#"{"active":true,"username":"joe","scope":["mail"]}"#,
            r#"{"error":"invalid_client"}"#,
        ] {
            assert!(judged(json, None, None).is_err(), "{json}");
        }
    }

    #[test]
    fn scope_and_audience_are_compared_as_whole_names() {
        let scoped = |scope: &str, demanded: &str| {
            let json = format!(r#"{{"active":true,"username":"joe","scope":"{scope}"}}"#);
            judged(&json, Some(demanded), None).unwrap() == "joe"
        };
        assert!(scoped("openid mail.send", "mail.send") && scoped("a b c", "c a"));
        assert!(!scoped("", "mail") && !scoped("mail.send", "mail") && !scoped("a", "a b"));
        let audience = |aud: &str| {
            let json = format!(r#"{{"active":true,"username":"joe","aud":{aud}}}"#);
            judged(&json, None, Some("smtp")).unwrap() == "joe"
        };
        assert!(audience("\"smtp\"") && audience("[\"web\",\"smtp\"]"));
        assert!(!audience("\"smtp2\"") && !audience("[]") && !audience("null"));
        assert!(!audience("{\"smtp\":1}"));
    }

    #[test]
    fn a_valid_token_is_cached_until_it_expires_and_no_longer_than_configured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        config::write_private(&path, "secret");
        let tokens = |ttl_max| {
            let demanded = demanded(Some("a"), None);
            let config = config::Tokens { ttl_max, client_secret_file: path.clone(), ..demanded };
            Tokens::open(&config, [7; 32]).unwrap()
        };
        let good = |expires| Good { user: "joe".into(), expires };
        let long = Duration::from_secs(60);
        let all = tokens(long);
        all.inquiry.remember([1; 32], &good(None));
        all.inquiry.remember([2; 32], &good(Some(seconds() - 1.0)));
        all.inquiry.remember([3; 32], &good(Some(seconds() + 0.05)));
        assert_eq!(all.inquiry.find(&[1; 32]).as_deref(), Some("joe"));
        assert_eq!(all.inquiry.find(&[2; 32]), None);
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(all.inquiry.find(&[3; 32]), None);
        all.forget();
        assert_eq!(all.inquiry.find(&[1; 32]), None);
        let none = tokens(Duration::ZERO);
        none.inquiry.remember([1; 32], &good(None));
        assert_eq!(none.inquiry.find(&[1; 32]), None);
        for number in 0..=u32::try_from(KNOWN_MAX).unwrap() {
            let mut seal = [0; 32];
            seal[..4].copy_from_slice(&number.to_be_bytes());
            all.inquiry.remember(seal, &good(None));
        }
        assert!(lock(&all.inquiry.known).len() <= KNOWN_MAX);
    }
}
