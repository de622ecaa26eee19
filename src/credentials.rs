//! Credentials for next hops that require AUTH: one file for each, read again like the users file.
//! It must not know the users of this relay, nor SMTP.

use crate::auth::{HashPool, UsersError};
use crate::config::{self, look_at_private};
use crate::sasl::{Credentials, Secret, is_token};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Largest file, in bytes: it holds a name and a password.
const FILE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    user: String,
    password: Option<String>,
    token_file: Option<PathBuf>,
}

/// What one file came to.
struct Read {
    credentials: Arc<Credentials>,
    /// Where the token is, if it is one.
    token_file: Option<PathBuf>,
}

/// All of them at this moment.
pub struct OutboundCredentials {
    written: Vec<config::Login>,
    read: RwLock<Vec<Read>>,
    workers: Arc<HashPool>,
}

impl OutboundCredentials {
    /// Reads them all.
    ///
    /// # Errors
    /// A file cannot be read, or is something else.
    pub fn open(
        logins: &[config::Login],
        workers: &Arc<HashPool>,
    ) -> Result<OutboundCredentials, UsersError> {
        let read = RwLock::new(read_all(logins)?);
        Ok(OutboundCredentials { written: logins.to_vec(), read, workers: Arc::clone(workers) })
    }

    /// Reads them again; how many there are. With an error the old ones stay.
    ///
    /// # Errors
    /// As [`OutboundCredentials::open`].
    pub fn reload(&self) -> Result<usize, UsersError> {
        let read = read_all(&self.written)?;
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(self.written.len())
    }

    /// The files to look at for changes: also those with tokens, as they are named now.
    pub fn files(&self) -> Vec<PathBuf> {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let tokens = read.iter().filter_map(|one| one.token_file.clone());
        self.written.iter().map(|login| login.file.clone()).chain(tokens).collect()
    }

    /// Name and password by their place in the configuration, and whether they may go in the clear.
    pub fn get(&self, place: u16) -> Option<(Arc<Credentials>, bool)> {
        let place = usize::from(place);
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let credentials = Arc::clone(&read.get(place)?.credentials);
        Some((credentials, self.written.get(place)?.without_tls))
    }

    /// Does work that would hold up a shard; `None` when too much waits already.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.workers.run(work).await
    }
}

/// Whether all the files can be used.
///
/// # Errors
/// As [`OutboundCredentials::open`].
pub fn check_logins(logins: &[config::Login]) -> Result<(), UsersError> {
    read_all(logins).map(drop)
}

fn read_all(logins: &[config::Login]) -> Result<Vec<Read>, UsersError> {
    logins.iter().map(|login| read_one(&login.file)).collect()
}

fn read_one(path: &Path) -> Result<Read, UsersError> {
    let fault = |cause: String| UsersError::File { path: path.to_owned(), cause };
    let missing = |error: std::io::Error| {
        fault(format!(
            "{error}; a route's auth names this file, which holds user = \"NAME\" and password = \
             \"PASSWORD\", a line each"
        ))
    };
    let size = look_at_private(path).map_err(missing)?.len();
    if size > FILE_BYTES_MAX {
        return Err(fault("larger than 64 KiB; it has a user and a password".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    // The library's words may repeat the line, and with it the password.
    let shape = "not what it should be; write user = \"NAME\" and password = \"PASSWORD\" (or \
                 token_file = \"FILE\"), a line each";
    let Written { user, password, token_file } =
        toml::from_str(&text).map_err(|_| fault(shape.to_owned()))?;
    let is_token = token_file.is_some();
    let password = match (password, &token_file) {
        (Some(password), None) => Secret::new(password),
        (None, Some(token_file)) => read_token(token_file, path)?,
        _ => return Err(fault(shape.to_owned())),
    };
    let is_odd = |text: &str| text.is_empty() || text.contains('\0');
    if is_odd(&user) || is_odd(password.reveal()) {
        return Err(fault("user and password must not be empty".to_owned()));
    }
    let credentials = Arc::new(Credentials { user, password, is_token });
    Ok(Read { credentials, token_file })
}

/// One line; the program that gets tokens writes it anew before the old one expires.
/// `named_in` is the file that names it.
fn read_token(path: &Path, named_in: &Path) -> Result<Secret, UsersError> {
    let fault = |cause: String| UsersError::File { path: path.to_owned(), cause };
    let said = |error: std::io::Error| {
        fault(format!("{error}; token_file in {} names it", named_in.display()))
    };
    if look_at_private(path).map_err(said)?.len() > FILE_BYTES_MAX {
        return Err(fault("larger than 64 KiB; it is one line with a token".to_owned()));
    }
    let text = Secret::new(std::fs::read_to_string(path).map_err(said)?);
    let line = text.reveal().trim_end_matches(['\r', '\n']);
    if !is_token(line) {
        return Err(fault(
            "not what it should be: one line with a token (RFC 6750 2.1)".to_owned(),
        ));
    }
    Ok(Secret::new(line))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_has_a_name_and_a_password_and_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("smarthost.toml");
        let written = [config::Login { file: file.clone(), without_tls: true }];
        let workers = Arc::new(HashPool::start(1, 1).unwrap());
        let fault = |text: &str| {
            config::write_private(&file, text);
            OutboundCredentials::open(&written, &workers).err().map(|error| error.to_string())
        };
        for wrong in ["", "joe:pencil", "user = \"joe\"", "user = \"joe\"\npassword = \"\""] {
            let text = fault(wrong).unwrap();
            assert!(text.contains("smarthost.toml: ") && !text.contains("pencil"), "{text}");
        }
        assert_eq!(fault("user = \"joe\"\npassword = \"pencil\""), None);
        let logins = OutboundCredentials::open(&written, &workers).unwrap();
        let (credentials, without_tls) = logins.get(0).unwrap();
        assert_eq!((credentials.user.as_str(), without_tls), ("joe", true));
        config::write_private(&file, "user = \"ann\"\npassword = \"eraser\"");
        assert_eq!(logins.reload().unwrap(), 1);
        assert_eq!(logins.get(0).unwrap().0.user, "ann");
        config::write_private(&file, "nonsense");
        assert!(logins.reload().is_err());
        assert_eq!(logins.get(0).unwrap().0.user, "ann");
        assert!(logins.get(1).is_none());
    }

    #[test]
    fn a_token_is_in_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (file, token) = (folder.path().join("smarthost.toml"), folder.path().join("token"));
        let text = format!("user = \"joe\"\ntoken_file = {:?}\n", token.to_str().unwrap());
        config::write_private(&file, &text);
        let written = [config::Login { file: file.clone(), without_tls: false }];
        let workers = Arc::new(HashPool::start(1, 1).unwrap());
        let open =
            || OutboundCredentials::open(&written, &workers).map_err(|error| error.to_string());
        let missing = open().err().unwrap();
        assert!(missing.contains("token: No such file"), "{missing}");
        assert!(missing.ends_with("/smarthost.toml names it"), "{missing}");
        for wrong in ["", "a b", "a\nb", "\"a\""] {
            config::write_private(&token, wrong);
            assert!(open().err().unwrap().contains("one line with a token"), "{wrong}");
        }
        config::write_private(&token, "abc.def==\n");
        let logins = open().unwrap();
        assert_eq!(logins.files(), [file.clone(), token.clone()]);
        let shown = |logins: &OutboundCredentials| logins.get(0).unwrap().0;
        assert!(shown(&logins).is_token);
        assert_eq!(shown(&logins).password.reveal(), "abc.def==");
        config::write_private(&token, "xyz");
        assert_eq!(logins.reload().unwrap(), 1);
        assert_eq!(shown(&logins).password.reveal(), "xyz");
        config::write_private(&file, &format!("{text}password = \"pencil\"\n"));
        assert!(logins.reload().unwrap_err().to_string().contains("token_file"));
    }
}
