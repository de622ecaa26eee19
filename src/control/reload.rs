//! Files that change while the relay runs (certificates, users): read again at SIGHUP, and when
//! they have changed. What cannot be used is reported, and what was read before stays.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Changed files are noticed within this.
pub(super) const LOOK: Duration = Duration::from_secs(60);

/// Reads files again; how much was found in them, or why they cannot be used.
type Reload = Box<dyn Fn() -> Result<usize, String> + Send>;

/// Files that belong together, and their state when they were last read.
pub(super) struct Reloader {
    what: &'static str,
    files: Vec<PathBuf>,
    reload: Reload,
    seen: Vec<Option<(SystemTime, u64)>>,
}

impl Reloader {
    /// `what` is in the `files`, in the plural, for the log; it was read just now.
    pub(super) fn new(what: &'static str, files: Vec<PathBuf>, reload: Reload) -> Reloader {
        let seen = states(&files);
        Reloader { what, files, reload, seen }
    }

    /// Reads them again if a file has changed since.
    pub(super) fn look(&mut self) {
        if states(&self.files) != self.seen {
            self.reload();
        }
    }

    /// Reads them again.
    pub(super) fn reload(&mut self) {
        // Before the files are read: a change meanwhile is seen the next time.
        self.seen = states(&self.files);
        match (self.reload)() {
            Ok(count) => tracing::info!(count, "{} read again", self.what),
            Err(error) => {
                tracing::error!(error, "{} not read again: the old ones stay in use", self.what);
            }
        }
    }
}

/// When each file was changed, and which file it is; `None` for one that is not there.
fn states(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    use std::os::unix::fs::MetadataExt;
    let state = |file: &PathBuf| {
        let found = std::fs::metadata(file).ok()?;
        Some((found.modified().ok()?, found.ino()))
    };
    files.iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_file_is_read_again_when_it_has_changed_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        std::fs::write(&path, "1").unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let reads = Arc::clone(&count);
        let read = move || match reads.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(1),
            _ => Err("broken".to_owned()),
        };
        let mut watched = Reloader::new("users", vec![path.clone()], Box::new(read));
        let reads = |watched: &mut Reloader| {
            watched.look();
            count.load(Ordering::Relaxed)
        };
        assert_eq!(reads(&mut watched), 0);
        let other = folder.path().join("new");
        std::fs::write(&other, "2").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!((reads(&mut watched), reads(&mut watched)), (1, 1));
        std::fs::remove_file(&path).unwrap();
        assert_eq!((reads(&mut watched), reads(&mut watched)), (2, 2), "told once");
        watched.reload();
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }
}
