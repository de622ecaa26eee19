//! The certificate authorities that the relay trusts (`tls.roots`), shared by all shards. They can
//! be reloaded.

use super::TlsError;
use crate::config::Roots;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Trusted roots. Connections and sessions verified by them are marked with their generation, which
/// changes when the roots change.
#[derive(Debug)]
pub(super) struct TrustedRoots {
    from: Roots,
    generation: AtomicU64,
    /// Read at first use: the roots of the system take milliseconds.
    read: Mutex<Option<Read>>,
}

#[derive(Debug)]
struct Read {
    store: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
}

impl TrustedRoots {
    /// The roots of the system, or of a file. A file is read now, so that a bad one is reported at
    /// start and not with the first message.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(super) fn new(from: &Roots) -> Result<TrustedRoots, TlsError> {
        let read = match from {
            Roots::System => None,
            Roots::File(_) => Some(read(from)?),
        };
        Ok(TrustedRoots {
            from: from.clone(),
            generation: AtomicU64::new(0),
            read: Mutex::new(read),
        })
    }

    /// Reads the roots again and returns their number. On an error the old ones stay.
    ///
    /// # Errors
    /// There are none, or the file cannot be used.
    pub(super) fn reload(&self) -> Result<usize, TlsError> {
        let new = read(&self.from)?;
        let count = new.certificates.len();
        let mut current = self.lock();
        match &*current {
            Some(old) if old.certificates == new.certificates => {}
            // Roots that were never read have verified nothing.
            None => *current = Some(new),
            Some(_) => {
                *current = Some(new);
                self.generation.fetch_add(1, Ordering::Release);
            }
        }
        Ok(count)
    }

    /// Counts the changes.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The current roots, with their generation.
    pub(super) fn now(&self) -> Result<(u64, Arc<RootCertStore>), TlsError> {
        let mut current = self.lock();
        let found = match &*current {
            Some(found) => found,
            None => current.insert(read(&self.from)?),
        };
        Ok((self.generation(), Arc::clone(&found.store)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Read>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The certificates of `from`, for libraries with their own TLS configuration.
///
/// # Errors
/// There are none, or the file cannot be used.
pub fn root_certificates(from: &Roots) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    read(from).map(|read| read.certificates)
}

/// The certificates of `from` as a store for rustls.
pub(super) fn store(from: &Roots) -> Result<Arc<RootCertStore>, TlsError> {
    read(from).map(|read| read.store)
}

fn read(from: &Roots) -> Result<Read, TlsError> {
    let mut store = RootCertStore::empty();
    let certificates = match from {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs.iter().cloned());
            if store.is_empty() {
                let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
                let text = format!(
                    "this machine has no root certificates; install the package ca-certificates, \
                     or name a file in tls.roots. {why}"
                );
                return Err(TlsError::Other(text));
            }
            found.certs
        }
        Roots::File(path) => {
            let fault = |cause: String| TlsError::File { path: path.clone(), cause };
            let read: Result<Vec<CertificateDer<'static>>, _> =
                CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            let read = read.map_err(|error| fault(format!("{error}; the file of tls.roots")))?;
            store.add_parsable_certificates(read.iter().cloned());
            if store.is_empty() {
                let cause = "no certificate in it; expected PEM, one certificate after another";
                return Err(fault(cause.to_owned()));
            }
            read
        }
    };
    Ok(Read { store: Arc::new(store), certificates })
}
