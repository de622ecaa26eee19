//! The users: their file, and the check of passwords, SCRAM proofs, certificates and tokens.
//!
//! - `file`: the users file. Read as a whole; one writer at a time, and a change is atomic.
//! - `user`: one user, and what is stored in place of the password.
//! - `authenticator`: checks credentials against the current users.
//! - `tokens`: asks the authorization server for the user of a token, and caches the answer.
//! - `introspection`: the HTTP request to that server.
//! - `attempts`: counts failed logins by address and by user.
//! - `hash_pool`: threads for work that would block a shard.
//!
//! It must not know SMTP, nor how the credentials were received.

mod attempts;
mod authenticator;
mod file;
mod hash_pool;
mod introspection;
mod tokens;
mod user;

pub use attempts::NotNow;
pub use authenticator::{Attempt, Authenticator, LoginResult};
pub use file::{add, read, remove};
pub use hash_pool::HashPool;
pub use tokens::{TokenRejection, check_tokens};
pub use user::{Fingerprint, Sender, User, Users, hash_password, keys_are_of, password_is};

use crate::tls::TlsError;
use std::path::{Path, PathBuf};

/// What is wrong with a users file or with credentials.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// A file cannot be used.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do about it.
        cause: String,
    },
    /// The trusted roots for the token introspection server.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A name or a password is not allowed, or the system refused a thread or random bytes.
    #[error("{0}")]
    Unfit(String),
}

impl UsersError {
    /// The file that cannot be used.
    pub fn file(&self) -> Option<&Path> {
        match self {
            UsersError::File { path, .. } => Some(path),
            UsersError::Tls(error) => error.file(),
            UsersError::Unfit(_) => None,
        }
    }
}
