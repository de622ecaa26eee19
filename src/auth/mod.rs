//! The users: who may send with a name and a password, or with a token that another has given.
//! Through it passes what the users file says, and the question whether somebody is who he says he
//! is.
//!
//! - `file`: the users file: read as a whole; changed by one at a time, whole or not at all.
//! - `user`: one user, and what is kept of a password.
//! - `desk`: where somebody who wants in is checked.
//! - `tokens`: whose a token is, as who gives tokens says; what he said is kept for a while.
//! - `introspection`: the question to him, over HTTP.
//! - `attempts`: failures, by address and user.
//! - `login`: who we are at next hops that want to know.
//! - `quota`: messages and recipients an hour.
//! - `work`: threads for what would hold up a shard.
//!
//! It must not know SMTP, nor how a name and a proof came in.

mod attempts;
mod authenticator;
mod credentials;
mod file;
mod hash_pool;
mod introspection;
mod quota;
mod tokens;
mod user;

pub use attempts::NotNow;
pub use authenticator::{Attempt, Authenticator, LoginResult};
pub use credentials::{OutboundCredentials, check_logins};
pub use file::{add, read, remove};
pub use hash_pool::HashPool;
pub use quota::{Claim, Counted, Quotas, Unit};
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
