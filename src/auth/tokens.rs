//! Whose a token is: what the server that gives tokens says (RFC 7662 2.2), and what is demanded of
//! it here. That a token is good is believed for a while without asking again, because clients log
//! in for each message; what is kept is a keyed hash, never the token.

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

/// Threads that wait for answers. They are not those that hash: a server that does not answer must
/// not keep those out who have a password.
const THREADS: usize = 4;
/// Questions that may wait for a thread; beyond it 454.
const WAITING_MAX: usize = 128;
/// Tokens that are known to be good. At the bound those whose time is over go, then all.
const KNOWN_MAX: usize = 16 * 1024;
/// That there is no answer is told so often.
const TELL: Duration = Duration::from_secs(60);

/// Why nobody is let in by a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRejection {
    /// It is not good.
    Fault(TokenFault),
    /// That cannot be found out now.
    NotNow,
}

/// What is said of a token that is good.
#[derive(Debug)]
struct Good {
    /// As names are compared.
    user: Box<str>,
    /// Seconds since 1970.
    expires: Option<f64>,
}

/// Where tokens are checked, for all shards.
pub(super) struct Tokens {
    inquiry: Arc<Inquiry>,
    workers: HashPool,
}

/// What the threads share.
struct Inquiry {
    config: config::Tokens,
    server: RwLock<Arc<Introspection>>,
    known: Mutex<HashMap<Digest, (Box<str>, Instant)>>,
    /// Keys for what only this process makes and reads.
    secret: [u8; 32],
    told: Mutex<Option<Instant>>,
}

impl Tokens {
    /// Reads the files that it takes, and starts the threads.
    ///
    /// # Errors
    /// A file, or no thread.
    pub(super) fn open(config: &config::Tokens, secret: [u8; 32]) -> Result<Tokens, UsersError> {
        let no_thread = |error: io::Error| UsersError::Unfit(format!("no thread: {error}"));
        let inquiry = Inquiry {
            config: config.clone(),
            server: RwLock::new(Arc::new(Introspection::open(config)?)),
            known: Mutex::default(),
            secret,
            told: Mutex::default(),
        };
        let workers = HashPool::start(THREADS, WAITING_MAX).map_err(no_thread)?;
        Ok(Tokens { inquiry: Arc::new(inquiry), workers })
    }

    /// Reads the files again, and forgets what was believed. With an error the old ones stay.
    ///
    /// # Errors
    /// A file.
    pub(super) fn reload(&self) -> Result<(), UsersError> {
        let server = Arc::new(Introspection::open(&self.inquiry.config)?);
        *self.inquiry.server.write().unwrap_or_else(PoisonError::into_inner) = server;
        self.forget();
        Ok(())
    }

    /// Asks anew about every token.
    pub(super) fn forget(&self) {
        lock(&self.inquiry.known).clear();
    }

    /// What clients without a good token are told.
    pub(super) fn hints(&self) -> Hints<'_> {
        Hints {
            scope: self.inquiry.config.scope.as_deref(),
            openid_configuration: self.inquiry.config.openid_configuration.as_deref(),
        }
    }

    /// Whose the token is.
    ///
    /// # Errors
    /// Nobody's who may come in by it, or nobody knows.
    pub(super) async fn user_of(&self, token: Secret) -> Result<Box<str>, TokenRejection> {
        let seal = keyed(&self.inquiry.secret, token.reveal().as_bytes());
        if let Some(user) = self.inquiry.find(&seal) {
            return Ok(user);
        }
        let (inquiry, asked) = (Arc::clone(&self.inquiry), ring::now());
        let found = self.workers.run(move || inquiry.find_out(seal, &token, asked)).await;
        found.unwrap_or_else(|| {
            self.inquiry.tell("too many questions wait already");
            Err(TokenRejection::NotNow)
        })
    }
}

impl Inquiry {
    /// The user of a token that is known to be good.
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
        // Somebody may have asked meanwhile.
        if let Some(user) = self.find(&seal) {
            return Ok(user);
        }
        if ring::now().saturating_duration_since(asked) > self.config.timeout {
            self.tell("many questions wait, and each takes long");
            return Err(TokenRejection::NotNow);
        }
        let server = Arc::clone(&self.server.read().unwrap_or_else(PoisonError::into_inner));
        let judged = server.ask(token).and_then(|said| judge(&said, &self.config, seconds()));
        match judged {
            Ok(Ok(good)) => {
                self.believe(seal, &good);
                Ok(good.user)
            }
            Ok(Err(fault)) => Err(TokenRejection::Fault(fault)),
            Err(trouble) => {
                self.tell(&trouble);
                Err(TokenRejection::NotNow)
            }
        }
    }

    fn believe(&self, seal: Digest, good: &Good) {
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

    /// Tells the operator that tokens cannot be checked, now and then.
    fn tell(&self, error: &str) {
        let mut told = lock(&self.told);
        if told.is_none_or(|at| ring::now().saturating_duration_since(at) >= TELL) {
            *told = Some(ring::now());
            let endpoint = &*self.config.introspection_endpoint;
            tracing::warn!(endpoint, error, "tokens cannot be checked: clients are told 454");
        }
    }
}

/// Whether all files can be used.
///
/// # Errors
/// One cannot be read, or is something else.
pub fn check_tokens(tokens: &config::Tokens) -> Result<(), UsersError> {
    Introspection::open(tokens).map(drop)
}

/// Somebody who has no entry in the users file.
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

/// What the answer comes to at `now`.
///
/// # Errors
/// It is none of RFC 7662.
fn judge(
    said: &Map<String, Value>,
    demanded: &config::Tokens,
    now: f64,
) -> Result<Result<Good, TokenFault>, String> {
    let of_another_kind = |name: &str| format!("its answer is none of RFC 7662: {name}");
    let member = |name: &str| said.get(name).filter(|value| !value.is_null());
    let number = |name: &str| match member(name) {
        Some(value) => value.as_f64().map(Some).ok_or_else(|| of_another_kind(name)),
        None => Ok(None),
    };
    let text = |name: &str| match member(name) {
        Some(value) => value.as_str().map(Some).ok_or_else(|| of_another_kind(name)),
        None => Ok(None),
    };
    match member("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Ok(Err(TokenFault::NotActive)),
        _ => return Err(of_another_kind("active")),
    }
    let (expires, begins) = (number("exp")?, number("nbf")?);
    let (scope, kind) = (text("scope")?.unwrap_or_default(), text("token_type")?);
    if expires.is_some_and(|expires| expires <= now) {
        return Ok(Err(TokenFault::Expired));
    }
    if begins.is_some_and(|begins| begins > now) {
        return Ok(Err(TokenFault::TooEarly));
    }
    // A refresh token is active, too, and one for DPoP is worth nothing without its key.
    if member("cnf").is_some() || kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Ok(Err(TokenFault::Bound));
    }
    let has = |word: &str| scope.split(' ').any(|one| one == word);
    let words = demanded.scope.as_deref().unwrap_or_default();
    if !words.split(' ').filter(|word| !word.is_empty()).all(has) {
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

/// Since 1970.
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
        let Ok(Value::Object(said)) = serde_json::from_str(json) else { panic!("{json}") };
        judge(&said, &demanded(scope, audience), 1000.0).map(|found| match found {
            Ok(good) => good.user.to_string(),
            Err(fault) => format!("{fault:?}"),
        })
    }

    #[test]
    fn rfc7662_2_2_a_token_is_good_when_all_that_is_demanded_is_said_of_it() {
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
    fn scope_and_audience_are_demanded_word_by_word() {
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
    fn what_is_good_is_believed_until_its_end_and_no_longer_than_configured() {
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
        all.inquiry.believe([1; 32], &good(None));
        all.inquiry.believe([2; 32], &good(Some(seconds() - 1.0)));
        all.inquiry.believe([3; 32], &good(Some(seconds() + 0.05)));
        assert_eq!(all.inquiry.find(&[1; 32]).as_deref(), Some("joe"));
        assert_eq!(all.inquiry.find(&[2; 32]), None);
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(all.inquiry.find(&[3; 32]), None);
        all.forget();
        assert_eq!(all.inquiry.find(&[1; 32]), None);
        let none = tokens(Duration::ZERO);
        none.inquiry.believe([1; 32], &good(None));
        assert_eq!(none.inquiry.find(&[1; 32]), None);
        for number in 0..=u32::try_from(KNOWN_MAX).unwrap() {
            let mut seal = [0; 32];
            seal[..4].copy_from_slice(&number.to_be_bytes());
            all.inquiry.believe(seal, &good(None));
        }
        assert!(lock(&all.inquiry.known).len() <= KNOWN_MAX);
    }
}
