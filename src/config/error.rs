//! Errors in the configuration: each says where the mistake is and what would be right.
//!
//! The texts are an interface for operators; tests compare them word for word.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable {
        /// The file that was named.
        path: PathBuf,
        /// The error of the system.
        error: String,
    },
    /// All mistakes, one line each, those in the file first.
    #[error("{}", Lines(.0))]
    Wrong(Vec<Problem>),
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// The key with its tables, `retry.first`; empty when the problem is not with a single key.
    pub key: String,
    /// What is wrong and what would be right.
    pub what: String,
}

/// Where a value was written. Problems are listed in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Not written: a default, or a value taken from the machine.
    Default,
    /// In the file.
    File {
        /// Its name as given.
        name: Arc<str>,
        /// The line, counted from 1.
        line: usize,
    },
    /// On the command line, by a dedicated flag: `--spool`.
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
