//! What is wrong with what the operator wrote, in words that say where and what would be right.
//!
//! These texts are an interface: they are what an operator sees. Tests hold them word for word.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable {
        /// The file that was named.
        path: PathBuf,
        /// What the system said.
        error: String,
    },
    /// All that is wrong, one line each, file first.
    #[error("{}", Lines(.0))]
    Wrong(Vec<Problem>),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// The key with its tables, `retry.first`; empty when the problem is with no one key.
    pub key: String,
    /// What is wrong and what would be right.
    pub what: String,
}

/// Where a value was written. The order is that in which problems are listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nowhere: a default, or what the machine says of itself.
    Default,
    /// In the file.
    File {
        /// Its name as given.
        name: Arc<str>,
        /// Counted from 1.
        line: usize,
    },
    /// On the command line, by a flag of its own: `--spool`.
    Flag(&'static str),
    /// On the command line, by `--set` with this key.
    Set(String),
}

/// `ringpost.toml:12: retry.first: ...`, `--spool: ...` or `--set retry.first: ...`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Default => {}
            Place::File { name, line } => write!(f, "{name}:{line}: ")?,
            Place::Flag(flag) => return write!(f, "{flag}: {}", self.what),
            Place::Set(key) => return write!(f, "--set {key}: {}", self.what),
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
