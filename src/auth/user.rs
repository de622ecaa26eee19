//! One user, and what is stored in place of the password: an argon2id hash for mechanisms that send
//! it, and keys of SCRAM-SHA-256. The password cannot be recovered from either.

use super::UsersError;
use crate::ring;
use crate::sasl::{self, Keys, Secret};
use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use std::collections::HashMap;
use std::sync::Arc;

/// SCRAM's iteration count for new passwords; RFC 7677 4 asks for at least 4096. With a stolen
/// file, each guess costs that many; a client pays once per login (some 30 ms).
const SCRAM_ROUNDS: u32 = 100_000;
/// Bytes of a SCRAM salt.
const SALT_BYTES: usize = 16;
/// Longest name and password, in bytes: no user has longer ones.
const NAME_BYTES_MAX: usize = 255;
const PASSWORD_BYTES_MAX: usize = 1024;
/// Largest memory that a hash in the file may require, in KiB.
const HASH_KIB_MAX: u32 = 256 * 1024;

/// One user of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// In the form in which names are compared.
    pub name: Box<str>,
    /// argon2 hash as a PHC string, `$argon2id$v=19$...`.
    pub password: Option<Box<str>>,
    /// Keys of SCRAM-SHA-256.
    pub scram: Option<Keys>,
    /// The addresses that the user may send from; `None` allows all.
    pub senders: Option<Vec<Sender>>,
    /// SHA-256 of the user's certificates.
    pub certificates: Vec<Fingerprint>,
    /// Names in certificates that are the user's if a trusted CA issued them, in the form of
    /// [`crate::tls::certificate_name`].
    pub certificate_names: Vec<Box<str>>,
    /// Messages that the user may send in an hour, 0 for any number; `None` is the common limit.
    pub messages_per_hour: Option<u32>,
    /// Recipients in an hour, likewise.
    pub recipients_per_hour: Option<u32>,
}

impl User {
    /// Whether the user may send from this address.
    pub fn may_send_from(&self, address: &str) -> bool {
        self.senders.as_ref().is_none_or(|some| some.iter().any(|one| one.covers(address)))
    }
}

/// SHA-256 of a certificate.
pub type Fingerprint = [u8; 32];

/// Reads hexadecimal digits, with or without colons, as `openssl x509 -fingerprint -sha256` prints
/// them.
pub(super) fn read_fingerprint(text: &str) -> Option<Fingerprint> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut fingerprint = Fingerprint::default();
    for (byte, at) in fingerprint.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    Some(fingerprint)
}

/// An address that a user may send from, or all of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// One address; the domain in lower case.
    Address(Box<str>),
    /// `@example.com`: all addresses of the domain, in lower case, without the `@`.
    Domain(Box<str>),
}

impl Sender {
    /// Reads `a@example.com` or `@example.com`.
    pub fn read(text: &str) -> Result<Sender, UsersError> {
        let fault = || {
            let what = "is not a sender; write \"name@example.com\", or \"@example.com\" for all \
                        of a domain";
            UsersError::Unfit(format!("{text:?} {what}"))
        };
        let (local, domain) = text.rsplit_once('@').ok_or_else(fault)?;
        if domain.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(fault());
        }
        let domain = domain.to_lowercase();
        Ok(match local {
            "" => Sender::Domain(domain.into()),
            local => Sender::Address(format!("{local}@{domain}").into()),
        })
    }

    /// Local-parts are compared as they are, domains in any case (RFC 5321 2.4).
    fn covers(&self, address: &str) -> bool {
        let Some((local, domain)) = split_address(address) else { return false };
        let domain = domain.to_lowercase();
        match self {
            Sender::Domain(own) => **own == domain,
            Sender::Address(own) => {
                own.rsplit_once('@').is_some_and(|(ours, at)| ours == local && at == domain)
            }
        }
    }
}

/// Local-part and domain of a single address. One with a second `@`, or with a character that
/// separates addresses in a list, is refused: another program could read another domain in it.
fn split_address(address: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let mut at_quote = |character| {
        let quote = !escaped && character == '"';
        escaped = !escaped && character == '\\';
        quote
    };
    let length = match address.strip_prefix('"') {
        Some(quoted) => quoted.find(&mut at_quote)? + 2,
        None => address.find('@')?,
    };
    let (local, rest) = address.split_at_checked(length)?;
    let domain = rest.strip_prefix('@')?;
    let parts = |c: char| c.is_whitespace() || c.is_control() || "@\"\\,;()<>".contains(c);
    let is_whole = !local.is_empty()
        && !domain.is_empty()
        && !domain.contains(parts)
        && (local.starts_with('"') || !local.contains(parts) && !local.contains(':'));
    is_whole.then_some((local, domain))
}

/// As in the file.
impl std::fmt::Display for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sender::Address(address) => f.write_str(address),
            Sender::Domain(domain) => write!(f, "@{domain}"),
        }
    }
}

/// All users, as read from the file at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    by_name: HashMap<Box<str>, Arc<User>>,
    by_certificate: HashMap<Fingerprint, Arc<User>>,
    by_certificate_name: HashMap<Box<str>, Arc<User>>,
    /// Decoy keys are derived from it, so that they are the same after a restart, and at each relay
    /// that has this file.
    pub(super) decoy_key: Option<[u8; 32]>,
    /// Iteration count and salt length of each user that has SCRAM keys, sorted.
    scram_shapes: Vec<(u32, usize)>,
}

impl Users {
    /// The user of this name, in any spelling.
    pub fn find(&self, name: &str) -> Option<&Arc<User>> {
        self.by_name.get(&prepared_name(name)?)
    }

    /// The users whose certificate has this fingerprint, or one of these names: each of them once.
    pub fn find_by_certificate(
        &self,
        fingerprint: Option<&Fingerprint>,
        names: &[Box<str>],
    ) -> Vec<&Arc<User>> {
        let by_print = fingerprint.and_then(|print| self.by_certificate.get(print));
        let by_name = names.iter().filter_map(|name| self.by_certificate_name.get(name));
        let mut found: Vec<&Arc<User>> = Vec::new();
        for user in by_print.into_iter().chain(by_name) {
            if !found.contains(&user) {
                found.push(user);
            }
        }
        found
    }

    /// Warnings for the operator about settings that are allowed but rarely intended.
    pub fn warnings(&self, has_client_roots: bool) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if !self.by_certificate_name.is_empty() && !has_client_roots {
            warnings.push(
                "users have certificate_names, but no CA for client certificates is configured; \
                 set tls.client_roots",
            );
        }
        if self.knows_scram() && self.decoy_key.is_none() {
            warnings.push(
                "there is no decoy_key: by comparing SCRAM salts before and after a restart, a \
                 client can find out which users exist; `ringpost user add` writes one",
            );
        }
        warnings
    }

    /// SCRAM keys that no password fits, the same each time for a name. They are derived from the
    /// file's `decoy_key`, or from `secret` if it has none. Iteration count and salt length are
    /// those of some user, so that they do not reveal that this name has no keys.
    pub(super) fn decoy_keys(&self, secret: &[u8; 32], name: &str) -> Keys {
        let secret = self.decoy_key.as_ref().unwrap_or(secret);
        let of = |what: &str| sasl::keyed(secret, format!("{what} {name}").as_bytes());
        let any = of("shape").iter().take(8).fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        let at = (u128::from(any) * self.scram_shapes.len() as u128) >> 64;
        let shape = usize::try_from(at).ok().and_then(|at| self.scram_shapes.get(at));
        let (iterations, salt_bytes) = *shape.unwrap_or(&(SCRAM_ROUNDS, SALT_BYTES));
        let blocks = (0..salt_bytes.div_ceil(32)).flat_map(|block| of(&format!("salt {block}")));
        Keys {
            iterations,
            salt: blocks.take(salt_bytes).collect(),
            stored_key: of("stored key"),
            server_key: of("server key"),
        }
    }

    /// To be called when all users have been inserted.
    pub(super) fn settle(&mut self) {
        let shapes = self.by_name.values().filter_map(|user| user.scram.as_ref());
        self.scram_shapes = shapes.map(|keys| (keys.iterations, keys.salt.len())).collect();
        self.scram_shapes.sort_unstable();
    }

    /// The number of users.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// All users, sorted by name.
    pub fn sorted(&self) -> Vec<Arc<User>> {
        let mut users: Vec<Arc<User>> = self.by_name.values().map(Arc::clone).collect();
        users.sort_by(|a, b| a.name.cmp(&b.name));
        users
    }

    /// Whether any user has SCRAM keys.
    pub fn knows_scram(&self) -> bool {
        self.by_name.values().any(|user| user.scram.is_some())
    }

    /// False when the name or a certificate was inserted before.
    pub(super) fn insert(&mut self, user: User) -> bool {
        let user = Arc::new(user);
        let mut is_new = true;
        for &fingerprint in &user.certificates {
            is_new &= self.by_certificate.insert(fingerprint, Arc::clone(&user)).is_none();
        }
        for name in &user.certificate_names {
            is_new &= self.by_certificate_name.insert(name.clone(), Arc::clone(&user)).is_none();
        }
        is_new && self.by_name.insert(user.name.clone(), user).is_none()
    }
}

/// The form in which a name is compared and counted; `None` for a name that is not allowed.
pub(super) fn prepared_name(name: &str) -> Option<Box<str>> {
    sasl::prepare(name).filter(|name| name.len() <= NAME_BYTES_MAX).map(Into::into)
}

/// The form in which a name is stored and compared.
pub(super) fn checked_name(name: &str) -> Result<Box<str>, UsersError> {
    let unfit = |why: &str| UsersError::Unfit(format!("{name:?} cannot be a user's name: {why}"));
    let prepared = sasl::prepare(name).ok_or_else(|| unfit("it needs printable characters"))?;
    if prepared.len() > NAME_BYTES_MAX {
        return Err(unfit("it is longer than 255 bytes"));
    }
    Ok(prepared.into())
}

/// Computes what is stored for a password: the argon2id hash and the SCRAM keys. Takes longer than
/// a login.
///
/// # Errors
/// The password is not allowed, or the system has no random bytes.
pub fn hash_password(password: &Secret) -> Result<(String, Keys), UsersError> {
    let unfit = |why: &str| UsersError::Unfit(format!("this password cannot be used: {why}"));
    let prepared = sasl::prepare(password.reveal()).map(Secret::new);
    let prepared = prepared.ok_or_else(|| unfit("it needs printable characters"))?;
    if prepared.reveal().len() > PASSWORD_BYTES_MAX {
        return Err(unfit("it is longer than 1024 bytes"));
    }
    let hash = Argon2::default()
        .hash_password(prepared.reveal().as_bytes())
        .map_err(|error| UsersError::Unfit(format!("no hash of the password: {error}")))?;
    let mut salt = [0; SALT_BYTES];
    ring::random_bytes(&mut salt)
        .map_err(|error| UsersError::Unfit(format!("no randomness: {error}")))?;
    let keys = Keys::derive(prepared.reveal(), &salt, SCRAM_ROUNDS);
    Ok((hash.to_string(), keys))
}

/// Whether `password` is that of `user`. Without a user it takes as long and is false, so that a
/// client cannot find out which users exist. Takes some 20 ms of one core and 19 MiB: never on a
/// shard.
pub fn password_is(user: Option<&User>, password: &Secret) -> bool {
    let bounded = password.reveal().len() <= PASSWORD_BYTES_MAX;
    let Some(prepared) = sasl::prepare(password.reveal()).map(Secret::new).filter(|_| bounded)
    else {
        return false;
    };
    let bytes = prepared.reveal().as_bytes();
    match user.and_then(|user| user.password.as_deref()) {
        Some(hash) => Argon2::default().verify_password(bytes, hash).is_ok(),
        None => {
            let _ = PasswordHasher::<PasswordHash>::hash_password(&Argon2::default(), bytes);
            false
        }
    }
}

/// Whether the user's SCRAM keys are those of `password`; `None` when there are none. Takes some
/// 30 ms: never on a shard.
pub fn keys_are_of(user: &User, password: &Secret) -> Option<bool> {
    let keys = user.scram.as_ref()?;
    let prepared = sasl::prepare(password.reveal()).map(Secret::new);
    Some(prepared.is_some_and(|password| {
        Keys::derive(password.reveal(), &keys.salt, keys.iterations) == *keys
    }))
}

/// Checks that passwords can be compared with a hash from the file.
pub(super) fn check_hash(hash: &str) -> Result<(), String> {
    let fault = "password: not an argon2 hash ($argon2id$v=19$...); `ringpost user add` writes one";
    let read = PasswordHash::new(hash).map_err(|error| format!("{fault}: {error}"))?;
    let params = argon2::Params::try_from(&read).map_err(|error| format!("{fault}: {error}"))?;
    if !read.algorithm.as_str().starts_with("argon2") || read.hash.is_none() {
        return Err(fault.to_owned());
    }
    if params.m_cost() > HASH_KIB_MAX {
        return Err(format!("password: the hash needs more than {HASH_KIB_MAX} KiB of memory"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn user(senders: &[&str]) -> User {
        let senders = senders.iter().map(|text| Sender::read(text).unwrap()).collect();
        User {
            name: "a".into(),
            password: None,
            scram: None,
            senders: Some(senders),
            certificates: Vec::new(),
            certificate_names: Vec::new(),
            messages_per_hour: None,
            recipients_per_hour: None,
        }
    }

    #[test]
    fn a_hash_matches_its_password_and_no_other() {
        let (hash, keys) = hash_password(&Secret::new("pencil")).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(check_hash(&hash), Ok(()));
        assert_eq!((keys.iterations, keys.salt.len()), (SCRAM_ROUNDS, SALT_BYTES));
        let kept = User { password: Some(hash.into()), ..user(&[]) };
        assert!(password_is(Some(&kept), &Secret::new("pencil")));
        assert!(password_is(Some(&kept), &Secret::new("pen\u{ad}cil")), "RFC 4013: nothing");
        assert!(!password_is(Some(&kept), &Secret::new("Pencil")));
        let proven = User { scram: Some(keys), ..user(&[]) };
        assert_eq!(keys_are_of(&proven, &Secret::new("pencil")), Some(true));
        assert_eq!(keys_are_of(&proven, &Secret::new("Pencil")), Some(false));
        assert_eq!(keys_are_of(&kept, &Secret::new("pencil")), None);
        assert!(!password_is(Some(&user(&[])), &Secret::new("pencil")), "no hash");
        assert!(!password_is(None, &Secret::new("pencil")), "no user");
        assert!(hash_password(&Secret::new("")).is_err());
        assert!(hash_password(&Secret::new("x".repeat(1025))).is_err());
    }

    #[test]
    fn decoys_look_like_the_keys_of_users_and_stay_when_users_are_added() {
        let mut users = Users { decoy_key: Some([1; 32]), ..Users::default() };
        let add = |users: &mut Users, name: &str, rounds, salt: &[u8]| {
            let keys = Keys::derive("x", salt, rounds);
            users.insert(User { name: name.into(), scram: Some(keys), ..user(&[]) });
            users.settle();
        };
        add(&mut users, "a", 4096, &[0; 40]);
        let first = users.decoy_keys(&[7; 32], "unknown");
        assert_eq!((first.iterations, first.salt.len()), (4096, 40));
        assert_eq!(users.decoy_keys(&[8; 32], "unknown"), first, "after a restart");
        assert_ne!(users.decoy_keys(&[7; 32], "unknown2").salt, first.salt);
        add(&mut users, "b", 4096, &[1; 40]);
        assert_eq!(users.decoy_keys(&[7; 32], "unknown"), first, "one more user");
        add(&mut users, "c", 5000, &[1; 16]);
        let shapes: Vec<_> = (0..300)
            .map(|number| users.decoy_keys(&[7; 32], &format!("n{number}")))
            .map(|keys| (keys.iterations, keys.salt.len()))
            .collect();
        let of_a_third = shapes.iter().filter(|shape| **shape == (5000, 16)).count();
        assert!((50..150).contains(&of_a_third), "{of_a_third}");
        let empty = Users::default().decoy_keys(&[7; 32], "unknown");
        assert_eq!((empty.iterations, empty.salt.len()), (SCRAM_ROUNDS, SALT_BYTES));
    }

    #[test]
    fn hashes_that_cannot_be_checked_are_refused() {
        for wrong in [
            "pencil",
            "$2b$10$abcdefghijklmnopqrstuv",
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ",
            "$argon2id$v=19$m=9999999,t=2,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA",
        ] {
            assert!(check_hash(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn fingerprints_are_read_with_and_without_colons() {
        let plain = "0aff".repeat(16);
        let read = read_fingerprint(&plain).unwrap();
        assert_eq!(read[..4], [0x0a, 0xff, 0x0a, 0xff]);
        let colons = vec!["0A:FF"; 16].join(":");
        assert_eq!(read_fingerprint(&colons), Some(read));
        for wrong in ["", "0aff", &plain[1..], &format!("{plain}00"), &plain.replace('f', "g")] {
            assert_eq!(read_fingerprint(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_sender_is_an_address_or_a_domain() {
        let bound = user(&["Joe@Example.com", "@sub.example.org"]);
        for (address, may) in [
            ("Joe@example.COM", true),
            ("joe@example.com", false),
            ("any@SUB.example.org", true),
            ("any@example.org", false),
            ("any@deep.sub.example.org", false),
            ("postmaster", false),
        ] {
            assert_eq!(bound.may_send_from(address), may, "{address}");
        }
        for address in [
            "ceo@bank.test@sub.example.org",
            "ceo@bank.test,any@sub.example.org",
            "ceo@bank.test any@sub.example.org",
            "ceo@bank.test:any@sub.example.org",
            "ceo,any@sub.example.org",
            "ceo any@sub.example.org",
            "\"ceo\\\"@sub.example.org",
            "\"ceo\"any@sub.example.org",
            "<any@sub.example.org",
            "@sub.example.org",
            "",
        ] {
            assert!(!bound.may_send_from(address), "{address}");
        }
        for address in ["\"a@b\"@sub.example.org", "\"a\\\"@b \"@sub.example.org"] {
            assert!(bound.may_send_from(address), "{address}");
        }
        assert!(!user(&[]).may_send_from("a@b"), "an empty list allows none");
        assert!(User { senders: None, ..user(&[]) }.may_send_from("a@b"));
        for wrong in ["", "joe", "joe@", "@", "a b@c"] {
            assert!(Sender::read(wrong).is_err(), "{wrong}");
        }
    }
}
