//! Files that hold secrets: passwords, hashes of them, keys. Others must not read them, nor write
//! to them; a group may read, since keys are often shared so.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Writing by the group and by others, and reading by others.
const FORBIDDEN: u32 = 0o026;

/// The file, if it is one to keep a secret in.
///
/// # Errors
/// It cannot be looked at; others may read or change it.
pub fn look_at_private(path: &Path) -> io::Result<fs::Metadata> {
    let found = fs::metadata(path)?;
    let mode = found.mode() & 0o777;
    if mode & FORBIDDEN == 0 {
        return Ok(found);
    }
    let words = format!(
        "its mode is {mode:03o}, so others could read or change what is secret; chmod 600, or 640 \
         for a group that may read it"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, words))
}

/// Writes such a file.
#[cfg(test)]
pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let done = fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)));
    assert!(done.is_ok(), "{done:?}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_others_could_read_or_change_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert_eq!(look_at_private(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        write_private(&path, "secret");
        for (mode, private) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o440, true),
            (0o644, false),
            (0o604, false),
            (0o660, false),
            (0o602, false),
            (0o666, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let told = look_at_private(&path).map(drop).map_err(|error| error.to_string());
            assert_eq!(told.is_ok(), private, "{mode:o}");
        }
        let told = look_at_private(&path).unwrap_err().to_string();
        assert!(told.starts_with("its mode is 666, ") && told.contains("chmod 600"), "{told}");
    }
}
