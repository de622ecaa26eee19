//! Checks credentials: holds the current users, the failed logins and the threads that hash.
//! All shards share one; its locks are held for lookups only.

use super::attempts::{Attempts, Limits, NotNow};
use super::hash_pool::HashPool;
use super::tokens::{self, TokenRejection, Tokens};
use super::{User, Users, UsersError, file, user};
use crate::config;
use crate::ring;
use crate::sasl::{Digest, Hints, Keys, Secret, TokenFault, keyed};
use futures_lite::future::or;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// Checks that may wait for a thread. Each takes some 20 ms, so the longest wait is a second or
/// two. Beyond it, the client gets 454.
const WAITING_MAX: usize = 128;

/// How long a login waits for others to end; then the client gets 454.
const CROWDED_MAX: Duration = Duration::from_secs(5);

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginResult {
    /// The credentials are valid.
    Right(Arc<User>),
    /// The credentials are not valid, or there is no user of that name.
    Wrong,
    /// Too many checks are waiting.
    Busy,
}

/// A login that is being checked. When it is dropped, it counts as failed.
pub struct Attempt<'a> {
    authenticator: &'a Authenticator,
    address: IpAddr,
    user: Option<Box<str>>,
    wrong: bool,
}

impl Attempt<'_> {
    /// Does not count it as failed: it succeeded, or it could not be checked.
    pub fn not_wrong(mut self) {
        self.wrong = false;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut attempts = lock(&self.authenticator.attempts);
        attempts.end(self.address, self.user.as_deref(), self.wrong, ring::now());
        drop(attempts);
        for waiting in std::mem::take(&mut *lock(&self.authenticator.crowd)) {
            let _ = waiting.try_send(());
        }
    }
}

/// Checks credentials, for all shards.
pub struct Authenticator {
    /// The users file, if there is one.
    path: Option<PathBuf>,
    users: RwLock<Arc<Users>>,
    /// How often the users were read. A session that holds a user notices a reload by it without
    /// a lock.
    generation: AtomicU64,
    attempts: Mutex<Attempts>,
    /// Sessions that wait until a check ends.
    crowd: Mutex<Vec<ring::Sender<()>>>,
    /// Passwords that were right, as keyed hashes, until the users are reloaded. A client that
    /// logs in for each message does not cost an argon2 hash each time.
    right: Mutex<HashMap<Box<str>, Digest>>,
    /// Key of the hashes that never leave this process.
    secret: [u8; 32],
    workers: Arc<HashPool>,
    /// Checks tokens, if they are accepted.
    tokens: Option<Tokens>,
}

impl Authenticator {
    /// Reads the users; `None` when neither a users file nor tokens are configured.
    ///
    /// # Errors
    /// A file cannot be used, or the system has no random bytes.
    pub fn open(
        auth: &config::Auth,
        workers: &Arc<HashPool>,
    ) -> Result<Option<Authenticator>, UsersError> {
        if auth.users.is_none() && auth.tokens.is_none() {
            return Ok(None);
        }
        let users = auth.users.as_deref().map_or(Ok(Users::default()), file::read)?;
        let mut secret = [0; 32];
        ring::random_bytes(&mut secret)
            .map_err(|error| UsersError::Unfit(format!("no randomness: {error}")))?;
        let limits = Limits {
            per_address: auth.failures_per_address,
            per_user: auth.failures_per_user,
            window: auth.failure_window,
        };
        let tokens = auth.tokens.as_ref().map(|tokens| Tokens::open(tokens, secret));
        Ok(Some(Authenticator {
            path: auth.users.clone(),
            users: RwLock::new(Arc::new(users)),
            generation: AtomicU64::new(1),
            attempts: Mutex::new(Attempts::new(limits)),
            crowd: Mutex::default(),
            right: Mutex::default(),
            secret,
            workers: Arc::clone(workers),
            tokens: tokens.transpose()?,
        }))
    }

    /// Starts the threads that hash.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn workers() -> std::io::Result<HashPool> {
        // A hash needs 19 MiB. Half of the cores, so that password guessing does not stop mail.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        HashPool::start((cores / 2).clamp(1, 8), WAITING_MAX)
    }

    /// Reads the users again and returns their number. On an error the old ones stay.
    ///
    /// # Errors
    /// As [`Authenticator::open`].
    pub fn reload(&self) -> Result<usize, UsersError> {
        let users = Arc::new(self.path.as_deref().map_or(Ok(Users::default()), file::read)?);
        let count = users.count();
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users;
        self.generation.fetch_add(1, Ordering::Release);
        lock(&self.right).clear();
        Ok(count)
    }

    /// Reads the files for token checks again, and forgets all cached tokens. On an error
    /// everything stays as it was.
    ///
    /// # Errors
    /// As [`Authenticator::open`].
    pub fn reload_tokens(&self) -> Result<usize, UsersError> {
        self.tokens.as_ref().map_or(Ok(()), Tokens::reload)?;
        Ok(1)
    }

    /// Whether there is a users file.
    pub fn has_users(&self) -> bool {
        self.path.is_some()
    }

    /// Whether tokens are accepted.
    pub fn takes_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// The hints for clients whose token is refused (RFC 7628 3.2.2).
    pub fn hints(&self) -> Hints<'_> {
        self.tokens.as_ref().map(Tokens::hints).unwrap_or_default()
    }

    /// The current user of this name; with `by_token` an entry in the users file is not needed.
    pub fn user(&self, name: &str, by_token: bool) -> Option<Arc<User>> {
        let found = self.users().find(name).cloned();
        found.or_else(|| {
            let name = user::prepared_name(name).filter(|_| by_token)?;
            Some(Arc::new(tokens::guest(name)))
        })
    }

    /// Changes whenever the users are read again; never 0.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The current users.
    pub fn users(&self) -> Arc<Users> {
        Arc::clone(&self.users.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How to log a name that a client gave without proof: the name of an existing user as it is.
    /// Any other may be a password typed into the wrong field, so it becomes a short hash, keyed
    /// with a secret of this process.
    pub fn loggable_name(&self, name: &str) -> String {
        match self.users().find(name) {
            Some(user) => user.name.to_string(),
            None => {
                let [a, b, c, d, ..] = keyed(&self.secret, format!("log {name}").as_bytes());
                format!("(unknown {a:02x}{b:02x}{c:02x}{d:02x})")
            }
        }
    }

    /// How long a client at `address` has to wait before it may log in.
    pub fn wait(&self, address: IpAddr, user: Option<&str>) -> Option<Duration> {
        let user = user.and_then(user::prepared_name);
        lock(&self.attempts).wait(address, user.as_deref(), ring::now())
    }

    /// Must be called before a password or a proof is checked. The login counts as failed unless
    /// [`Attempt::not_wrong`] is called. All spellings of a name are counted as one.
    ///
    /// # Errors
    /// The login must not be checked now.
    pub fn attempt(&self, address: IpAddr, user: Option<&str>) -> Result<Attempt<'_>, NotNow> {
        let user = user.and_then(user::prepared_name);
        lock(&self.attempts).begin(address, user.as_deref(), ring::now())?;
        Ok(Attempt { authenticator: self, address, user, wrong: true })
    }

    /// As [`Authenticator::attempt`], but on [`NotNow::Crowded`] waits for other checks to end, for
    /// [`CROWDED_MAX`] at most.
    ///
    /// # Errors
    /// The login must not be checked now.
    pub async fn attempt_soon(
        &self,
        address: IpAddr,
        user: Option<&str>,
    ) -> Result<Attempt<'_>, NotNow> {
        let turn = async {
            loop {
                match self.attempt(address, user) {
                    Err(NotNow::Crowded) => {}
                    answer => return answer,
                }
                let (sender, mut ended) = ring::mailbox(1);
                lock(&self.crowd).push(sender);
                // Try once more: the last of the others may have ended before we were listed.
                match self.attempt(address, user) {
                    Err(NotNow::Crowded) => ended.recv().await,
                    answer => return answer,
                }
            }
        };
        let late = async {
            ring::sleep(CROWDED_MAX).await;
            Err(NotNow::Crowded)
        };
        or(turn, late).await
    }

    /// Counts a failure.
    pub fn failed(&self, address: IpAddr, user: Option<&str>) {
        let user = user.and_then(user::prepared_name);
        lock(&self.attempts).failed(address, user.as_deref(), ring::now());
    }

    /// Remembers a success.
    pub fn succeeded(&self, address: IpAddr, user: &str) {
        lock(&self.attempts).succeeded(address, user, ring::now());
    }

    /// The SCRAM keys of `name`. A user that has none or does not exist gets decoy keys that no
    /// password fits: the same each time and for each spelling of the name, so that a client cannot
    /// find out which users exist. `None` for a name that is not allowed.
    pub fn keys_of(&self, name: &str) -> Option<Keys> {
        let name = user::prepared_name(name)?;
        let users = self.users();
        let known = users.find(&name).and_then(|user| user.scram.clone());
        Some(known.unwrap_or_else(|| users.decoy_keys(&self.secret, &name)))
    }

    /// Whether `password` is that of `name`.
    pub async fn check(&self, name: &str, password: Secret) -> LoginResult {
        let found = self.users().find(name).cloned();
        let seal = found.as_ref().map(|user| self.seal(user, &password));
        if let (Some(user), Some(seal)) = (&found, &seal)
            && lock(&self.right).get(&user.name) == Some(seal)
        {
            return LoginResult::Right(Arc::clone(user));
        }
        let asked = found.clone();
        let check = move || user::password_is(asked.as_deref(), &password);
        match (self.workers.run(check).await, found, seal) {
            (Some(true), Some(user), Some(seal)) => {
                lock(&self.right).insert(user.name.clone(), seal);
                LoginResult::Right(user)
            }
            (None, ..) => LoginResult::Busy,
            _ => LoginResult::Wrong,
        }
    }

    /// The user of `token`. If the client also gave a name, it must be that user's.
    ///
    /// # Errors
    /// The token is refused, or it cannot be checked now.
    pub async fn check_token(
        &self,
        named: Option<&str>,
        token: Secret,
    ) -> Result<Arc<User>, TokenRejection> {
        let tokens = self.tokens.as_ref().ok_or(TokenRejection::NotNow)?;
        let name = tokens.user_of(token).await?;
        if named.is_some_and(|named| user::prepared_name(named).as_ref() != Some(&name)) {
            return Err(TokenRejection::Fault(TokenFault::OtherUser));
        }
        self.user(&name, true).ok_or(TokenRejection::Fault(TokenFault::NoUser))
    }

    /// A keyed hash of the password that changes with the user's stored hash.
    fn seal(&self, user: &User, password: &Secret) -> Digest {
        let hash = user.password.as_deref().unwrap_or_default();
        let of = format!("{}\0{hash}\0{}", user.name, password.reveal());
        keyed(&self.secret, Secret::new(of).reveal().as_bytes())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// An authenticator with the user `joe` and the password `pencil`.
    fn authenticator(per_address: u32, per_user: u32) -> Authenticator {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        file::add(&path, "joe", &Secret::new("pencil"), &[], false).unwrap();
        let users = file::read(&path).unwrap();
        let window = Duration::from_secs(60);
        Authenticator {
            path: Some(path),
            tokens: None,
            users: RwLock::new(Arc::new(users)),
            generation: AtomicU64::new(1),
            attempts: Mutex::new(Attempts::new(Limits { per_address, per_user, window })),
            crowd: Mutex::default(),
            right: Mutex::default(),
            secret: [7; 32],
            workers: Arc::new(HashPool::start(1, 1).unwrap()),
        }
    }

    #[test]
    fn the_salt_is_the_same_for_each_spelling_of_a_name() {
        let authenticator = authenticator(10, 10);
        for name in ["joe", "ann"] {
            let keys = authenticator.keys_of(name);
            assert!(keys.is_some());
            let (first, rest) = name.split_at(1);
            assert_eq!(authenticator.keys_of(&format!("{first}\u{ad}{rest}")), keys, "{name}");
        }
        assert_eq!(authenticator.keys_of("a\u{7}"), None);
        assert_eq!(authenticator.keys_of(""), None);
        assert_eq!(authenticator.keys_of(&"a".repeat(256)), None);
        assert!(authenticator.keys_of(&"a".repeat(255)).is_some());
    }

    #[test]
    fn only_names_of_existing_users_are_logged_in_clear() {
        let authenticator = authenticator(10, 10);
        assert_eq!(authenticator.loggable_name("j\u{ad}oe"), "joe");
        for name in ["pencil", "Joe", "joe ", "", "a\u{7}", &"x".repeat(10_000)] {
            let logged = authenticator.loggable_name(name);
            let hash = logged.strip_prefix("(unknown ").and_then(|rest| rest.strip_suffix(')'));
            assert_eq!(hash.map(str::len), Some(8), "{logged}");
            assert_eq!(authenticator.loggable_name(name), logged, "the same each time");
        }
        assert_ne!(authenticator.loggable_name("pencil"), authenticator.loggable_name("eraser"));
    }

    #[test]
    fn failures_of_all_spellings_of_a_name_are_counted_together() {
        let authenticator = authenticator(100, 3);
        let written = ["joe", "j\u{ad}oe", "jo\u{ad}\u{ad}e"];
        for (number, name) in (0..).zip(written) {
            drop(authenticator.attempt(IpAddr::from([192, 0, 2, number]), Some(name)).unwrap());
        }
        let elsewhere = IpAddr::from([192, 0, 2, 99]);
        for name in written.into_iter().chain(["\u{ff4a}oe"]) {
            assert!(authenticator.wait(elsewhere, Some(name)).is_some(), "{name:?}");
            assert!(
                matches!(authenticator.attempt(elsewhere, Some(name)), Err(NotNow::For(_))),
                "{name:?}"
            );
        }
        assert_eq!(authenticator.wait(elsewhere, Some("ann")), None);
    }

    #[test]
    fn an_attempt_counts_as_failed_unless_it_says_otherwise() {
        let (authenticator, address) = (authenticator(2, 10), IpAddr::from([192, 0, 2, 1]));
        for _ in 0..5 {
            authenticator.attempt(address, Some("joe")).unwrap().not_wrong();
        }
        let (first, second) =
            (authenticator.attempt(address, Some("a")), authenticator.attempt(address, Some("b")));
        assert_eq!(authenticator.attempt(address, Some("c")).err(), Some(NotNow::Crowded));
        drop((first, second));
        assert!(matches!(authenticator.attempt(address, Some("c")), Err(NotNow::For(_))));
    }
}
