//! The relay's side of TLS when it delivers: which servers it accepts, and what it presents.

use super::roots::TrustedRoots;
use super::server::read_one;
use super::verify::{AcceptAnyServerCert, VerifiedServerCert};
use super::{TlsError, provider, versions};
use crate::config::{self, Certificate};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SignatureScheme};
use rustls_pki_types::ServerName;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::sync::{Arc, PoisonError, RwLock};

/// Servers whose sessions are remembered, so that the next handshake is short.
const SESSIONS_MAX: usize = 4096;

/// How much a server has to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: protects against those who listen, not against those in the middle (RFC 7435).
    Anyone,
    /// That a trusted root vouches for its name.
    Verified,
}

/// The relay's own certificates for servers that ask for one, for all shards; read again while the
/// relay runs.
#[derive(Debug)]
struct ClientCertificates {
    files: Vec<Certificate>,
    shown: RwLock<Vec<Arc<CertifiedKey>>>,
}

impl ClientCertificates {
    /// Reads them.
    ///
    /// # Errors
    /// A file cannot be read, holds no certificate or key, or the two do not belong together.
    fn new(files: &[Certificate]) -> Result<ClientCertificates, TlsError> {
        let shown = RwLock::new(read_all(files)?);
        Ok(ClientCertificates { files: files.to_vec(), shown })
    }

    /// Reads them again; how many there are. With an error the old ones stay. A session that is
    /// resumed goes by the one with which it began.
    ///
    /// # Errors
    /// As [`ClientCertificates::new`].
    fn reload(&self) -> Result<usize, TlsError> {
        let shown = read_all(&self.files)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(self.files.len())
    }
}

fn read_all(files: &[Certificate]) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    files.iter().map(|one| read_one(one).map(|(key, _)| Arc::new(key))).collect()
}

/// What the clients of all shards share: the certificates that they present, and the roots that
/// they trust.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    certificates: Arc<ClientCertificates>,
    roots: Arc<TrustedRoots>,
}

impl ClientFiles {
    /// Reads them.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn new(tls: &config::Tls, certificates: &[Certificate]) -> Result<ClientFiles, TlsError> {
        let certificates = Arc::new(ClientCertificates::new(certificates)?);
        Ok(ClientFiles { certificates, roots: Arc::new(TrustedRoots::new(&tls.roots)?) })
    }

    /// As [`ClientCertificates::reload`].
    ///
    /// # Errors
    /// As [`ClientFiles::new`].
    pub fn reload_certificates(&self) -> Result<usize, TlsError> {
        self.certificates.reload()
    }

    /// Reads the trusted roots again; how many there are. With an error the old ones stay. Sessions
    /// and connections that others vouched for are not used any more.
    ///
    /// # Errors
    /// As [`ClientFiles::new`].
    pub fn reload_roots(&self) -> Result<usize, TlsError> {
        self.roots.reload()
    }
}

/// One of them, by its place.
#[derive(Debug)]
struct ClientCertResolver {
    client_certificates: Arc<ClientCertificates>,
    place: usize,
}

impl ResolvesClientCert for ClientCertResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let shown = self.client_certificates.shown.read().unwrap_or_else(PoisonError::into_inner);
        shown.get(self.place).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// One shard's side of all its TLS connections to servers.
pub struct Client {
    /// For servers that are shown no certificate, then for each certificate that is shown.
    profiles: Vec<TlsProfile>,
    roots: Arc<TrustedRoots>,
    only_1_3: bool,
}

/// With one certificate of the relay, or none. Sessions are remembered apart: they belong to the
/// certificate that began them.
struct TlsProfile {
    shown: Option<Arc<ClientCertResolver>>,
    anyone: Arc<ClientConfig>,
    /// For hosts whose name cannot stand in the handshake (RFC 6066 3).
    without_name: Arc<ClientConfig>,
    verified: RefCell<Option<Verified>>,
}

/// What goes by the trusted roots: made when first needed, and anew when they have changed, so that
/// no session outlives the root that vouched for it.
struct Verified {
    generation: u64,
    config: Arc<ClientConfig>,
}

impl Client {
    /// Prepares for deliveries; servers that ask for a certificate may be shown one of `files`.
    ///
    /// # Errors
    /// rustls cannot be set up.
    pub fn new(tls: &config::Tls, files: &ClientFiles) -> Result<Client, TlsError> {
        let mut profiles = vec![TlsProfile::new(tls.only_1_3, None)?];
        for place in 0..files.certificates.files.len() {
            let client_certificates = Arc::clone(&files.certificates);
            let shown = Arc::new(ClientCertResolver { client_certificates, place });
            profiles.push(TlsProfile::new(tls.only_1_3, Some(shown))?);
        }
        Ok(Client { profiles, roots: Arc::clone(&files.roots), only_1_3: tls.only_1_3 })
    }

    /// Changes with the trusted roots: a connection that was verified under another one may be to a
    /// server that is not trusted any more.
    pub fn generation(&self) -> u64 {
        self.roots.generation()
    }

    pub(super) fn connection(
        &self,
        trust: Trust,
        client_certificate: Option<usize>,
        name: &str,
    ) -> Result<ClientConnection, TlsError> {
        let profile = self
            .profiles
            .get(client_certificate.map_or(0, |place| place + 1))
            .ok_or_else(|| TlsError::Other("there is no such client certificate".to_owned()))?;
        let bare = name.trim_start_matches('[').trim_end_matches([']', '.']);
        let (config, name) = match (trust, ServerName::try_from(bare.to_owned())) {
            (Trust::Anyone, Ok(name)) => (Arc::clone(&profile.anyone), name),
            (Trust::Anyone, Err(_)) => (Arc::clone(&profile.without_name), stand_in(bare)?),
            (Trust::Verified, Ok(name)) => (self.verified(profile)?, name),
            (Trust::Verified, Err(_)) => {
                let words = format!(
                    "\"{bare}\" is not a host name that a certificate can be verified for: labels \
                     of letters, digits and inner hyphens, the last one not all digits"
                );
                return Err(TlsError::Other(words));
            }
        };
        Ok(ClientConnection::new(config, name)?)
    }

    fn verified(&self, profile: &TlsProfile) -> Result<Arc<ClientConfig>, TlsError> {
        let (generation, roots) = self.roots.now()?;
        let mut kept = profile.verified.borrow_mut();
        if let Some(verified) = &*kept
            && verified.generation == generation
        {
            return Ok(Arc::clone(&verified.config));
        }
        let config = profile.verifying(self.only_1_3, roots)?;
        *kept = Some(Verified { generation, config: Arc::clone(&config) });
        Ok(config)
    }
}

/// A name for the memory of sessions that stands for a host whose own name rustls does not take. It
/// is sent to none.
fn stand_in(name: &str) -> Result<ServerName<'static>, TlsError> {
    let hash: String = Sha256::digest(name).iter().take(16).map(|b| format!("{b:02x}")).collect();
    ServerName::try_from(format!("h{hash}.invalid"))
        .map_err(|_| TlsError::Other(format!("\"{name}\" is not a host name")))
}

impl TlsProfile {
    fn new(only_1_3: bool, shown: Option<Arc<ClientCertResolver>>) -> Result<TlsProfile, TlsError> {
        let anyone = config(only_1_3, shown.as_ref(), Arc::new(AcceptAnyServerCert::new()))?;
        let mut without_name =
            config(only_1_3, shown.as_ref(), Arc::new(AcceptAnyServerCert::new()))?;
        without_name.enable_sni = false;
        let (anyone, without_name) = (Arc::new(anyone), Arc::new(without_name));
        Ok(TlsProfile { shown, anyone, without_name, verified: RefCell::default() })
    }

    fn verifying(
        &self,
        only_1_3: bool,
        roots: Arc<RootCertStore>,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = Arc::new(VerifiedServerCert::new(roots)?);
        config(only_1_3, self.shown.as_ref(), verifier).map(Arc::new)
    }
}

/// With a memory of sessions of its own: one that was taken up without verification proves nothing.
fn config(
    only_1_3: bool,
    shown: Option<&Arc<ClientCertResolver>>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(only_1_3))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder.with_client_cert_resolver(Arc::<ClientCertResolver>::clone(shown)),
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(config)
}
