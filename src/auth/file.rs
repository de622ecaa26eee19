//! The users file: TOML, one `[[user]]` each. Read as a whole. A change is atomic: the new file is
//! written beside the old one, synced, and renamed over it. A lock file lets one process change it
//! at a time. Entries and comments that were written by hand stay.

use super::user::{Sender, User, Users, check_hash, checked_name, hash_password, read_fingerprint};
use super::{UsersError, user};
use crate::config::look_at_private;
use crate::ring;
use crate::sasl::{Keys, Secret, decode, encode};
use crate::tls;
use serde::Deserialize;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

/// Largest file that is read, in bytes: some hundred thousand users.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Mode of the file: it has password hashes, so only its owner may read it.
const MODE: u32 = 0o600;
const HEAD: &str = "\
# Users of Ringpost: `ringpost user` adds, lists, removes and verifies them.
# You may set senders, certificates, certificate_names, messages_per_hour and
# recipients_per_hour by hand. The answers for unknown names are derived from decoy_key.
";

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    decoy_key: Option<String>,
    #[serde(default)]
    user: Vec<WrittenUser>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenUser {
    name: String,
    password: Option<String>,
    scram: Option<String>,
    senders: Option<Vec<String>>,
    #[serde(default)]
    certificates: Vec<String>,
    #[serde(default)]
    certificate_names: Vec<String>,
    messages_per_hour: Option<u32>,
    recipients_per_hour: Option<u32>,
}

impl WrittenUser {
    fn parsed(self) -> Result<User, String> {
        let name = checked_name(&self.name).map_err(|error| error.to_string())?;
        let of = |what: String| format!("user {:?}: {what}", self.name);
        if let Some(hash) = &self.password {
            check_hash(hash).map_err(of)?;
        }
        let scram = match &self.scram {
            Some(text) => Some(Keys::parse(text).ok_or_else(|| {
                of("scram: not SCRAM-SHA-256$ROUNDS:SALT$STORED_KEY:SERVER_KEY".to_owned())
            })?),
            None => None,
        };
        let senders = match &self.senders {
            Some(senders) => Some(
                senders
                    .iter()
                    .map(|text| Sender::read(text))
                    .collect::<Result<_, _>>()
                    .map_err(|error| of(format!("senders: {error}")))?,
            ),
            None => None,
        };
        let fingerprint = |text: &String| {
            read_fingerprint(text).ok_or_else(|| {
                of(format!(
                    "certificates: {text:?} is not a SHA-256 fingerprint; \
                     `openssl x509 -fingerprint -sha256 -noout` prints it"
                ))
            })
        };
        let certificates =
            self.certificates.iter().map(fingerprint).collect::<Result<Vec<_>, _>>()?;
        let certificate_name = |text: &String| {
            tls::certificate_name(text).ok_or_else(|| {
                of(format!(
                    "certificate_names: {text:?} is not a certificate name; write \
                     \"email:joe@example.com\", \"dns:host.example.com\" or \
                     \"uri:spiffe://example.com/joe\", without *"
                ))
            })
        };
        let certificate_names =
            self.certificate_names.iter().map(certificate_name).collect::<Result<Vec<_>, _>>()?;
        Ok(User {
            certificates,
            certificate_names,
            name,
            password: self.password.map(Into::into),
            scram,
            senders,
            messages_per_hour: self.messages_per_hour,
            recipients_per_hour: self.recipients_per_hour,
        })
    }
}

/// Reads the file.
///
/// # Errors
/// The file cannot be read, or some entry is wrong: then none is used.
pub fn read(path: &Path) -> Result<Users, UsersError> {
    let text = text_of(path)?;
    look_at_private(path)
        .map_err(|error| UsersError::File { path: path.to_owned(), cause: error.to_string() })?;
    parsed(&text).map_err(|cause| UsersError::File { path: path.to_owned(), cause })
}

fn parsed(text: &str) -> Result<Users, String> {
    // The library's own message quotes the line, which may contain a secret.
    let in_line = |error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", before.matches('\n').count() + 1, error.message())
    };
    let written: Written = toml::from_str(text).map_err(in_line)?;
    let mut users = Users::default();
    if let Some(text) = written.decoy_key {
        let key = decode(text.as_bytes()).and_then(|key| key.try_into().ok());
        let fault =
            || "decoy_key: not 32 bytes in base64; without it `ringpost user add` makes one";
        users.decoy_key = Some(key.ok_or_else(fault)?);
    }
    for one in written.user {
        let user = one.parsed()?;
        let name = user.name.clone();
        if !users.insert(user) {
            let what = "or one of the user's certificates, is listed twice";
            return Err(format!("user {name:?}, {what}"));
        }
    }
    users.settle();
    Ok(users)
}

fn text_of(path: &Path) -> Result<String, UsersError> {
    let fault = |cause: String| UsersError::File { path: path.to_owned(), cause };
    let hint = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => "; `ringpost user add --users FILE NAME` creates it",
        _ => "",
    };
    let size = fs::metadata(path).map_err(|error| fault(format!("{error}{}", hint(&error))))?.len();
    if size > FILE_BYTES_MAX {
        return Err(fault(format!("larger than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    fs::read_to_string(path).map_err(|error| fault(error.to_string()))
}

/// Adds a user. With `replace`, an existing user gets a new password, and new `senders` if any are
/// given.
///
/// # Errors
/// The user exists already; the name or the password is not allowed; the file cannot be read or
/// written.
pub fn add(
    path: &Path,
    name: &str,
    password: &Secret,
    senders: &[String],
    replace: bool,
) -> Result<(), UsersError> {
    let name = checked_name(name)?;
    senders.iter().try_for_each(|text| Sender::read(text).map(drop))?;
    let (hash, keys) = hash_password(password)?;
    change(path, |users| {
        let existing = users.iter().position(|one| is_of(one, &name));
        if existing.is_some() && !replace {
            let what = format!("user {name:?} exists already; --replace sets a new password");
            return Err(UsersError::Unfit(what));
        }
        let at = existing.unwrap_or_else(|| {
            users.push(Table::new());
            users.len() - 1
        });
        let Some(entry) = users.get_mut(at) else { return Ok(()) };
        entry.insert("name", toml_edit::value(&*name));
        entry.insert("password", toml_edit::value(hash));
        entry.insert("scram", toml_edit::value(keys.to_string()));
        if !senders.is_empty() {
            let list: toml_edit::Array = senders.iter().map(String::as_str).collect();
            entry.insert("senders", toml_edit::value(list));
        }
        Ok(())
    })
}

/// Removes a user.
///
/// # Errors
/// There is no such user; the file cannot be read or written.
pub fn remove(path: &Path, name: &str) -> Result<(), UsersError> {
    let name = checked_name(name)?;
    // A missing file is an error here; `change` would create it.
    text_of(path)?;
    change(path, |users| {
        let existing = users.iter().position(|one| is_of(one, &name));
        let missing = || UsersError::Unfit(format!("there is no user {name:?}"));
        users.remove(existing.ok_or_else(missing)?);
        Ok(())
    })
}

fn is_of(entry: &Table, name: &str) -> bool {
    let written = entry.get("name").and_then(Item::as_str);
    written.and_then(|written| user::checked_name(written).ok()).as_deref() == Some(name)
}

/// Changes the file under its lock.
fn change(
    path: &Path,
    edit: impl FnOnce(&mut ArrayOfTables) -> Result<(), UsersError>,
) -> Result<(), UsersError> {
    let fault = |cause: String| UsersError::File { path: path.to_owned(), cause };
    let io_fault = |error: io::Error| fault(error.to_string());
    // A symbolic link stays one: change what it points to.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .open(beside(&target, "lock"))
        .map_err(io_fault)?;
    lock.lock().map_err(io_fault)?;
    let is_new = !target.exists();
    let text = if is_new { String::new() } else { text_of(&target)? };
    // A file with mistakes is not written over.
    parsed(&text).map_err(fault)?;
    let mut document: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| fault(error.message().to_owned()))?;
    let users = document.entry("user").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let users = users.as_array_of_tables_mut().ok_or_else(|| {
        fault("the users are not an array of tables: write [[user]] for each".to_owned())
    })?;
    edit(users)?;
    if !document.contains_key("decoy_key") {
        let mut key = [0; 32];
        ring::random_bytes(&mut key).map_err(|error| fault(format!("no randomness: {error}")))?;
        document.insert("decoy_key", toml_edit::value(encode(&key)));
    }
    let text = if is_new { format!("{HEAD}{document}") } else { document.to_string() };
    parsed(&text).map_err(fault)?;
    replace_file(&target, &text).map_err(io_fault)
}

/// Replaces the file, and keeps its owner and group.
fn replace_file(target: &Path, text: &str) -> io::Result<()> {
    let new = beside(target, "new");
    // A leftover of a process that was killed: the lock is ours, so no other process writes it.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new)?;
    let written = (|| {
        file.set_permissions(Permissions::from_mode(MODE))?;
        if let Ok(old) = fs::metadata(target) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, target)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
        return written;
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// `.users.toml.lock` beside `users.toml`.
fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::password_is;
    use super::*;
    use crate::config::write_private;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        (folder, path)
    }

    fn add_one(path: &Path, name: &str, password: &str) -> Result<(), UsersError> {
        add(path, name, &Secret::new(password), &[], false)
    }

    #[test]
    fn a_syntax_error_names_its_line_and_does_not_quote_it() {
        let (_folder, path) = folder();
        for (text, expected) in [
            ("[[user]]\nname = \"joe\"\npasswrd = \"pencil\"\n", "line 3: unknown field `passwrd`"),
            ("[[user]]\nname = \"joe\"\npassword = pencil\n", "line 3: "),
            ("joe:pencil\n", "line 1: "),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}: {expected}", path.display())), "{error}");
            assert!(!error.contains("pencil") && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn a_user_is_added_found_and_removed() {
        let (_folder, path) = folder();
        add_one(&path, "joe", "one").unwrap();
        add(&path, "ann", &Secret::new("two"), &["@example.com".into()], false).unwrap();
        let users = read(&path).unwrap();
        let names: Vec<_> = users.sorted().iter().map(|user| user.name.to_string()).collect();
        assert_eq!(names, ["ann", "joe"]);
        assert!(password_is(users.find("joe").map(AsRef::as_ref), &Secret::new("one")));
        assert!(users.knows_scram() && users.find("Joe").is_none());
        assert!(!users.find("ann").unwrap().may_send_from("a@example.org"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# Users of Ringpost") && !text.contains("two"), "{text}");

        remove(&path, "joe").unwrap();
        assert!(read(&path).unwrap().find("joe").is_none());
        let again = remove(&path, "joe").unwrap_err().to_string();
        assert_eq!(again, "there is no user \"joe\"");
    }

    #[test]
    fn the_file_is_private_and_one_that_is_not_is_refused() {
        let (_folder, path) = folder();
        add_one(&path, "joe", "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("users.toml: its mode is 644, so others could read"), "{error}");
        add_one(&path, "ann", "two").unwrap();
        assert_eq!(read(&path).unwrap().count(), 2, "a rewritten file is private");
    }

    #[test]
    fn a_user_is_not_replaced_by_accident() {
        let (_folder, path) = folder();
        add_one(&path, "joe", "one").unwrap();
        let twice = add_one(&path, "jo\u{ad}e", "two").unwrap_err().to_string();
        assert_eq!(twice, "user \"joe\" exists already; --replace sets a new password");
        add(&path, "joe", &Secret::new("two"), &[], true).unwrap();
        let users = read(&path).unwrap();
        assert_eq!(users.count(), 1);
        assert!(password_is(users.find("joe").map(AsRef::as_ref), &Secret::new("two")));
    }

    #[test]
    fn entries_and_comments_written_by_hand_stay() {
        let (_folder, path) = folder();
        write_private(
            &path,
            "# ours\n[[user]]\nname = \"old\" # from the old relay\nsenders = []\n",
        );
        add_one(&path, "joe", "one").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("# ours\n") && text.contains("# from the old relay"), "{text}");
        assert_eq!(read(&path).unwrap().count(), 2);
    }

    #[test]
    fn a_file_gets_a_decoy_key_and_keeps_it() {
        let (_folder, path) = folder();
        write_private(&path, "# ours\n[[user]]\nname = \"old\"\n");
        assert_eq!(read(&path).unwrap().decoy_key, None);
        add_one(&path, "joe", "one").unwrap();
        let users = read(&path).unwrap();
        let key = users.decoy_key.unwrap();
        assert!(users.warnings(true).is_empty());
        remove(&path, "joe").unwrap();
        assert_eq!(read(&path).unwrap().decoy_key, Some(key));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("decoy_key = \"") && text.contains("# ours\n[[user]]"), "{text}");
        write_private(&path, "decoy_key = \"abc\"");
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("decoy_key: not 32 bytes in base64"), "{error}");
    }

    #[test]
    fn concurrent_additions_all_succeed() {
        let (_folder, path) = folder();
        let adding: Vec<_> = (0..8)
            .map(|number| {
                let path = path.clone();
                std::thread::spawn(move || add_one(&path, &format!("user{number}"), "x"))
            })
            .collect();
        adding.into_iter().for_each(|one| one.join().unwrap().unwrap());
        assert_eq!(read(&path).unwrap().count(), 8);
    }

    #[test]
    fn a_file_with_mistakes_is_reported_and_not_written_over() {
        let (_folder, path) = folder();
        let missing = read(&path).unwrap_err().to_string();
        assert!(missing.contains("No such file") && missing.contains("user add"), "{missing}");
        for (text, words) in [
            (
                "[[user]]\nname = \"a\"\npassword = \"x\"",
                "user \"a\": password: not an argon2 hash",
            ),
            ("[[user]]\nname = \"a\"\nscram = \"x\"", "user \"a\": scram: not SCRAM-SHA-256$"),
            ("[[user]]\nname = \"a\"\nsenders = [\"x\"]", "user \"a\": senders: \"x\" is not a"),
            (
                "[[user]]\nname = \"a\"\n[[user]]\nname = \"a\"",
                "user \"a\", or one of the user's certificates, is listed twice",
            ),
            (
                "[[user]]\nname = \"a\"\ncertificates = [\"ab\"]",
                "user \"a\": certificates: \"ab\" is not",
            ),
            (
                "[[user]]\nname = \"a\"\ncertificate_names = [\"dns:*.b.test\"]",
                "user \"a\": certificate_names: \"dns:*.b.test\" is not a certificate name",
            ),
            (
                "[[user]]\nname = \"a\"\ncertificate_names = [\"dns:B.test\", \"DNS:b.test\"]",
                "user \"a\", or one of the user's certificates, is listed twice",
            ),
            ("[[user]]\nname = \"a\\u0007\"", "cannot be a user's name"),
            ("[[user]]\nname = \"a\"\npasswort = \"x\"", "unknown field `passwort`"),
            ("[[user]]\n", "missing field `name`"),
        ] {
            write_private(&path, text);
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(add_one(&path, "joe", "one").is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
