//! The users: their file, and the check of passwords, SCRAM proofs, certificates and tokens.
//!
//! - `file`: the users file: read as a whole; changed by one at a time, whole or not at all.
//! - `user`: one user, and what is kept of a password.
//! - `authenticator`: checks credentials against the users of this moment.
//! - `tokens`: the user of a token, as the authorization server says; kept for a while.
//! - `introspection`: the question to that server, over HTTP.
//! - `attempts`: failures, by address and user.
//! - `hash_pool`: threads for work that would hold up a shard.
//!
//! It must not know SMTP, nor how a name and a proof came in.

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
use std::path::PathBuf;

/// What is wrong with a file of users or passwords.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The file, and what to do about it.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The roots for a server that is asked about tokens.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A name or password that no user can have.
    #[error("{0}")]
    Unfit(String),
}
