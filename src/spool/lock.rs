//! The lock on the spool's root: one relay at a time.

use super::{SpoolError, folder};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Held as long as it lives; the kernel lets go of it with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Locks `root` (made when missing, but not what is above it) by its file `lock`, which holds the
/// process id. An error names the process that has it.
pub fn acquire(root: &Path) -> Result<Lock, SpoolError> {
    let path = root.join("lock");
    let open = |cause: String| SpoolError::Open { path: path.clone(), cause };
    folder::make(root).map_err(|error| folder::failed(root, &error))?;
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
    Ok(Lock { _file: file })
}

/// The process that holds `root`, if one does. Nothing is locked to find out, so no start is
/// disturbed; a process that this one may not see is not found.
pub fn holder(root: &Path) -> Option<u32> {
    let inode = std::fs::metadata(root.join("lock")).ok()?.ino().to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 1234 08:02:131 0 EOF`: the process, then device and inode.
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let of_flock = words.next()? == "FLOCK";
        let process = words.nth(2)?.parse().ok()?;
        let of_file = words.next()?.rsplit(':').next()? == inode;
        (of_flock && of_file).then_some(process)
    })
}

/// Keeps relays away from `root` while it is read, and changes nothing. `None` when there is no
/// lock file: a copy, which no relay ever used. An error names the relay that runs.
pub fn acquire_for_reading(root: &Path) -> Result<Option<Lock>, SpoolError> {
    let path = root.join("lock");
    let open = |cause: String| SpoolError::Open { path: path.clone(), cause };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(open(error.to_string())),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Err(open(format!(
            "a relay runs on this spool, process {}, and what it writes cannot be read \
             consistently: stop it, or name a copy",
            named_holder(&file)
        ))),
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
