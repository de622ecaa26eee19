//! Reloads the configuration and the files that it names, while the relay runs.
//!
//! At SIGHUP the configuration is read again, and each changed key is reported: it takes effect now
//! or needs a restart. If the configuration is not valid, the running one stays. Files that it
//! names (certificates, users) are read again at SIGHUP, and when they have changed; if they are
//! not valid, the old content stays in use.

use crate::config::{Apply, Config, Origin, Tls};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A changed file is noticed within this time.
pub(super) const LOOK: Duration = Duration::from_secs(60);

/// Reads files again. Returns the number of items in them, or why they cannot be used.
type Reload = Box<dyn Fn() -> Result<usize, String> + Send>;

/// Which files to read.
type Files = Box<dyn Fn() -> Vec<PathBuf> + Send>;

/// The current `[tls]`: a reload may change the certificates.
#[derive(Clone, Debug)]
pub(super) struct LiveTls(Arc<Mutex<Tls>>);

impl LiveTls {
    pub(super) fn new(tls: Tls) -> LiveTls {
        LiveTls(Arc::new(Mutex::new(tls)))
    }

    pub(super) fn get(&self) -> Tls {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The files of certificates, and of the authorities for client certificates.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let tls = self.get();
        let pairs = tls.certificates.into_iter().flat_map(|one| [one.cert, one.key]);
        pairs.chain(tls.client_roots).collect()
    }

    /// Applies what may change while the relay runs.
    fn apply(&self, tls: &Tls) {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        live.certificates.clone_from(&tls.certificates);
        live.client_roots.clone_from(&tls.client_roots);
    }
}

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// The configuration, and all files that it names.
    Again,
    /// Files that have changed.
    Changed,
}

/// The thread that reads. A file system that hangs blocks only this thread, not a stop or the queue
/// commands.
pub(super) struct ReadThread {
    requests: SyncSender<Read>,
    waiting: Arc<Waiting>,
}

/// What is requested and has not begun. One of each may wait while another is in progress, so that
/// a look at the files does not stand in the way of SIGHUP.
#[derive(Default)]
struct Waiting {
    again: AtomicBool,
    changed: AtomicBool,
}

impl Waiting {
    fn of(&self, what: Read) -> &AtomicBool {
        match what {
            Read::Again => &self.again,
            Read::Changed => &self.changed,
        }
    }
}

impl ReadThread {
    /// Requests a reload; has no effect if one of its kind is waiting already.
    pub(super) fn request(&self, what: Read) {
        let waits = self.waiting.of(what).swap(true, Ordering::Relaxed);
        let refused = waits || self.requests.try_send(what).is_err();
        if refused && what == Read::Again {
            tracing::error!("configuration not read again: an earlier reading has not ended");
        }
    }
}

/// # Errors
/// The thread cannot be started.
pub(super) fn spawn(
    mut config: ConfigReload,
    mut reloaders: Vec<Reloader>,
    origin: Origin,
) -> std::io::Result<ReadThread> {
    let (sender, requests) = mpsc::sync_channel(2);
    let waiting = Arc::<Waiting>::default();
    let begun = Arc::clone(&waiting);
    std::thread::Builder::new().name("reload".into()).spawn(move || {
        for what in requests {
            begun.of(what).store(false, Ordering::Relaxed);
            match what {
                Read::Again => {
                    config.read_again(&origin);
                    reloaders.iter_mut().for_each(Reloader::reload);
                }
                Read::Changed => reloaders.iter_mut().for_each(Reloader::look),
            }
        }
    })?;
    Ok(ReadThread { requests: sender, waiting })
}

/// The configuration that the relay runs with, to compare with the file.
pub(super) struct ConfigReload {
    started: Config,
    /// The last one that was read: its reloadable keys are in use.
    last: Config,
    live_tls: LiveTls,
}

impl ConfigReload {
    pub(super) fn new(config: &Config, live_tls: LiveTls) -> ConfigReload {
        ConfigReload { started: config.clone(), last: config.clone(), live_tls }
    }

    /// Reads the configuration again, applies what can be applied and reports every key whose value
    /// differs from the one in use.
    pub(super) fn read_again(&mut self, origin: &Origin) {
        let config = match origin.load() {
            Ok(config) => config,
            Err(error) => {
                for fault in error.to_string().lines() {
                    tracing::error!(fault, "configuration not read again: nothing is changed");
                }
                return;
            }
        };
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        // Without certificates at the start, the listeners cannot offer TLS until a restart.
        let had_tls = !self.started.tls.certificates.is_empty();
        let can_apply = had_tls && !config.tls.certificates.is_empty();
        let applies = |change: &crate::config::Change| can_apply && change.apply == Apply::Reload;
        let mut changed = 0;
        for change in self.last.changes(&config).iter().filter(|change| applies(change)) {
            let (key, before, after) = (&change.key, &change.before, &change.after);
            tracing::info!(%key, %before, %after, "changed: takes effect now");
            changed += 1;
        }
        for change in self.started.changes(&config).iter().filter(|change| !applies(change)) {
            let (key, before, after) = (&change.key, &change.before, &change.after);
            tracing::warn!(%key, %before, %after, "changed: needs a restart to take effect");
            changed += 1;
        }
        if can_apply {
            self.live_tls.apply(&config.tls);
        }
        self.last = config;
        tracing::info!(file = origin.describe(), changed, "configuration read again");
    }
}

/// Files that are read together, and their state when they were last read.
pub(super) struct Reloader {
    what: &'static str,
    files: Files,
    reload: Reload,
    seen: Vec<Option<(SystemTime, u64)>>,
}

impl Reloader {
    /// A reloader for `files` that were just read; `what` is their content, in the plural, for the
    /// log.
    pub(super) fn new(what: &'static str, files: Vec<PathBuf>, reload: Reload) -> Reloader {
        Reloader::of_files(what, Box::new(move || files.clone()), reload)
    }

    /// The same for files whose paths may change at a reload.
    pub(super) fn of_files(what: &'static str, files: Files, reload: Reload) -> Reloader {
        let seen = states(&files());
        Reloader { what, files, reload, seen }
    }

    /// Reads the files again if one has changed since.
    pub(super) fn look(&mut self) {
        if states(&(self.files)()) != self.seen {
            self.reload();
        }
    }

    /// Reads the files again.
    pub(super) fn reload(&mut self) {
        // Before the files are read: a change meanwhile is noticed the next time.
        self.seen = states(&(self.files)());
        match (self.reload)() {
            Ok(count) => {
                // A changed path may need a restart: the name says which file it was.
                let files = (self.files)();
                let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
                let files = files.join(", ");
                tracing::info!(count, files, "{} read again", self.what);
            }
            Err(error) => {
                tracing::error!(error, "{} not read again: the old ones stay in use", self.what);
            }
        }
    }
}

/// Modification time and inode of each file; `None` for a missing one.
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
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_look_that_waits_does_not_keep_sighup_from_reading_and_each_waits_once() {
        let (requests, received) = mpsc::sync_channel(2);
        let thread = ReadThread { requests, waiting: Arc::default() };
        for what in [Read::Changed, Read::Again, Read::Changed, Read::Again] {
            thread.request(what);
        }
        assert_eq!(received.try_iter().collect::<Vec<_>>(), [Read::Changed, Read::Again]);
    }

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
        assert_eq!((reads(&mut watched), reads(&mut watched)), (2, 2), "reported once");
        watched.reload();
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }
}
