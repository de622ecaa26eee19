//! The lock on the spool's root: one relay at a time.
//!
//! Two things are locked, both with flock(2): the folder itself, and the file `lock` in it, which
//! names the process. The folder cannot be removed while there is mail in it, so a `lock` that is
//! deleted or replaced under a running relay lets no second one start. The file is what older
//! versions lock.
//!
//! | `lock` under the running relay | this version starts | an older version starts |
//! | --- | --- | --- |
//! | is as it was | refused by the folder | refused by the file |
//! | was deleted or replaced | refused by the folder | not noticed |
//! | the older version runs | refused by the file | refused by the file |
//!
//! On file systems that cannot lock a folder (NFS opens it for reading alone, and wants writing for
//! an exclusive lock) the file is all there is.

use super::{SpoolError, folder};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Held as long as it lives; the kernel lets go of it with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    _folder: Option<File>,
    _file: Option<File>,
}

/// Locks `root` (made when missing, but not what is above it) and its file `lock`, which holds the
/// process id. An error names the process that has it.
pub fn acquire(root: &Path) -> Result<Lock, SpoolError> {
    let path = root.join("lock");
    let open = |cause: String| SpoolError::Open { path: path.clone(), cause };
    folder::make(root).map_err(|error| folder::failed(root, &error))?;
    let locked_folder = match lock_folder(root, File::try_lock) {
        Ok(locked) => locked,
        Err(TryLockError::WouldBlock) => {
            let process = holder(root).map_or("unknown".to_owned(), |process| process.to_string());
            return Err(open(format!("in use by another relay, process {process}")));
        }
        Err(TryLockError::Error(error)) => return Err(folder::failed(root, &error)),
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .map_err(|error| open(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(open(format!("in use by another relay, process {}", named_holder(&file))));
        }
        Err(TryLockError::Error(error)) => return Err(open(error.to_string())),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| open(error.to_string()))?;
    Ok(Lock { _folder: locked_folder, _file: Some(file) })
}

/// Locks the folder itself; `None` where the file system cannot.
fn lock_folder(
    root: &Path,
    lock: impl FnOnce(&File) -> Result<(), TryLockError>,
) -> Result<Option<File>, TryLockError> {
    let folder = File::open(root).map_err(TryLockError::Error)?;
    match lock(&folder) {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
        // What a file system says that does not lock folders. Any other error says that locking
        // failed now, and to start without would be a guess.
        Err(TryLockError::Error(error)) => match error.raw_os_error() {
            Some(libc::EBADF | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::EISDIR) => {
                Ok(None)
            }
            _ => Err(TryLockError::Error(error)),
        },
    }
}

/// The process that holds `root`, if one does. Nothing is locked to find out, so no start is
/// disturbed; a process that this one may not see is not found.
pub fn holder(root: &Path) -> Option<u32> {
    let ours = [root.join("lock"), root.to_owned()].map(|path| std::fs::metadata(path).ok());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 1234 08:02:131 0 EOF`: the process, then device and inode.
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let of_flock = words.next()? == "FLOCK";
        let process = words.nth(2)?.parse().ok()?;
        let inode: u64 = words.next()?.rsplit(':').next()?.parse().ok()?;
        let named = ours.iter().flatten().find(|file| file.ino() == inode);
        (of_flock && named.is_some_and(|file| has_open(process, file))).then_some(process)
    })
}

/// Whether `process` has `file` open, as far as this one may see: another disk may have a file of
/// the same number.
fn has_open(process: u32, file: &std::fs::Metadata) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return true };
    let is_it = |one: std::fs::Metadata| (one.dev(), one.ino()) == (file.dev(), file.ino());
    open.flatten().any(|one| std::fs::metadata(one.path()).is_ok_and(is_it))
}

/// Keeps relays away from `root` while it is read, and changes nothing. `None` when there is no
/// lock file and no relay: a copy, which no relay ever used. An error names the relay that runs.
pub fn acquire_for_reading(root: &Path) -> Result<Option<Lock>, SpoolError> {
    let path = root.join("lock");
    let open = |cause: String| SpoolError::Open { path: path.clone(), cause };
    let runs = |process: String| {
        open(format!(
            "a relay runs on this spool, process {process}, and what it writes cannot be read \
             consistently: stop it, or name a copy"
        ))
    };
    let locked_folder = match lock_folder(root, File::try_lock_shared) {
        Ok(locked) => locked,
        Err(TryLockError::WouldBlock) => {
            return Err(runs(
                holder(root).map_or("unknown".to_owned(), |process| process.to_string()),
            ));
        }
        // A folder that is not there is for the reader to say.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(TryLockError::Error(error)) => return Err(folder::failed(root, &error)),
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(open(error.to_string())),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(Lock { _folder: locked_folder, _file: Some(file) })),
        Err(TryLockError::WouldBlock) => Err(runs(named_holder(&file))),
        Err(TryLockError::Error(error)) => Err(open(error.to_string())),
    }
}

/// The process that the lock file names.
fn named_holder(file: &File) -> String {
    let mut holder = String::new();
    // At most what a pid takes: others may have written the file.
    let _ = file.take(20).read_to_string(&mut holder);
    let holder = holder.trim();
    if holder.is_empty() { "unknown".to_owned() } else { holder.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_root_is_made_but_nothing_above_it() {
        let root = tempfile::tempdir().unwrap();
        let slip = root.path().join("splool/one");
        let refused = acquire(&slip).unwrap_err().to_string();
        let above = root.path().join("splool");
        let expected = format!("{}: the folder above it, {}, ", slip.display(), above.display());
        assert!(refused.starts_with(&expected), "{refused}");
        assert!(!above.exists());
        acquire(&above).unwrap();
    }

    #[test]
    fn a_second_relay_is_told_which_process_has_the_spool() {
        let root = tempfile::tempdir().unwrap();
        let held = acquire(root.path()).unwrap();
        let refused = acquire(root.path()).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        assert_eq!(holder(root.path()), Some(std::process::id()));
        drop(held);
        assert_eq!(holder(root.path()), None);
        acquire(root.path()).unwrap();
    }

    #[test]
    fn a_lock_file_that_is_deleted_or_replaced_lets_no_second_relay_in() {
        let root = tempfile::tempdir().unwrap();
        let held = acquire(root.path()).unwrap();
        let path = root.path().join("lock");
        let replacements: [fn(&Path); 2] = [|_| {}, |path| std::fs::write(path, "1").unwrap()];
        for replace in replacements {
            std::fs::remove_file(&path).unwrap();
            replace(&path);
            let refused = acquire(root.path()).unwrap_err().to_string();
            let expected = format!("another relay, process {}", std::process::id());
            assert!(refused.contains(&expected), "{refused}");
            let refused = acquire_for_reading(root.path()).unwrap_err().to_string();
            assert!(refused.contains("a relay runs on this spool"), "{refused}");
            assert_eq!(holder(root.path()), Some(std::process::id()));
            std::fs::write(&path, "").unwrap();
        }
        drop(held);
        acquire(root.path()).unwrap();
    }

    /// The versions before this one lock the file alone.
    #[test]
    fn an_older_relay_keeps_this_one_away_and_the_other_way_round() {
        let root = tempfile::tempdir().unwrap();
        let older = File::create(root.path().join("lock")).unwrap();
        older.try_lock().unwrap();
        acquire(root.path()).unwrap_err();
        drop(older);
        let _held = acquire(root.path()).unwrap();
        File::open(root.path().join("lock")).unwrap().try_lock().unwrap_err();
    }

    #[test]
    fn readers_stand_beside_each_other_and_never_beside_a_relay() {
        let root = tempfile::tempdir().unwrap();
        assert!(acquire_for_reading(root.path()).unwrap().is_none(), "a copy without a lock");
        let relay = acquire(root.path()).unwrap();
        let refused = acquire_for_reading(root.path()).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(relay);
        let one = acquire_for_reading(root.path()).unwrap().unwrap();
        let other = acquire_for_reading(root.path()).unwrap().unwrap();
        acquire(root.path()).unwrap_err();
        drop((one, other));
        acquire(root.path()).unwrap();
    }
}
