//! Files with secrets: passwords, password hashes, keys. Other users must not read or write them;
//! the group may read them, because keys are often shared that way.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Mode bits that are refused: group write, other read, other write.
const FORBIDDEN: u32 = 0o026;

/// The file's metadata, if its mode is private.
///
/// # Errors
/// The file does not exist or cannot be examined; others may read or change it.
pub fn look_at_private(path: &Path) -> io::Result<fs::Metadata> {
    let found = fs::metadata(path)?;
    let mode = found.mode() & 0o777;
    if mode & FORBIDDEN == 0 {
        return Ok(found);
    }
    let text = format!(
        "its mode is {mode:03o}, so others could read or change a secret; use chmod 600, or 640 \
         for a group that may read it"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Writes a file with a private mode.
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
    fn a_file_that_others_may_read_or_change_is_refused() {
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
            let result = look_at_private(&path).map(drop).map_err(|error| error.to_string());
            assert_eq!(result.is_ok(), private, "{mode:o}");
        }
        let error = look_at_private(&path).unwrap_err().to_string();
        assert!(error.starts_with("its mode is 666, ") && error.contains("chmod 600"), "{error}");
    }
}
