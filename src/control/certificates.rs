//! Certificates that change while the relay runs: read again at SIGHUP, and when the files have
//! changed. What cannot be used is reported, and the old ones stay.

use crate::config::Tls;
use crate::tls::Server;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Changed files are noticed within this.
pub(super) const LOOK: Duration = Duration::from_secs(60);

/// The certificates of a running relay, and the state of their files when they were last read.
pub(super) struct Certificates {
    server: Arc<Server>,
    tls: Tls,
    seen: Vec<Option<SystemTime>>,
}

impl Certificates {
    /// `server` was made from `tls` just now.
    pub(super) fn new(server: Arc<Server>, tls: &Tls) -> Certificates {
        Certificates { server, tls: tls.clone(), seen: changed(tls) }
    }

    /// Reads them again if a file has changed since.
    pub(super) fn look(&mut self) {
        if changed(&self.tls) != self.seen {
            self.reload();
        }
    }

    /// Reads them again.
    pub(super) fn reload(&mut self) {
        // Before the files are read: a change meanwhile is seen the next time.
        self.seen = changed(&self.tls);
        match self.server.reload(&self.tls) {
            Ok(()) => {
                tracing::info!(count = self.tls.certificates.len(), "certificates read again")
            }
            Err(error) => {
                tracing::error!(%error, "certificates not read again: the old ones stay in use");
            }
        }
    }
}

/// When each file was changed; `None` for one that is not there.
fn changed(tls: &Tls) -> Vec<Option<SystemTime>> {
    let files = tls.certificates.iter().flat_map(|one| [&one.cert, &one.key]);
    files.map(|file| std::fs::metadata(file).and_then(|file| file.modified()).ok()).collect()
}
