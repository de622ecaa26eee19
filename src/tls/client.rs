//! TLS towards next hops: which servers are accepted, and which certificates the relay presents.

use super::roots::TrustedRoots;
use super::server::read_one;
use super::sessions::Sessions;
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

/// Servers whose sessions are cached for shorter handshakes.
const SESSIONS_MAX: usize = 4096;

/// What a server's certificate must prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: protects against passive attackers, not against active ones (RFC 7435).
    Anyone,
    /// The server's name, by a chain to a trusted root.
    Verified,
}

/// The relay's own certificates for servers that ask for one, shared by all shards. They can be
/// reloaded.
#[derive(Debug)]
struct ClientCertificates {
    files: Vec<Certificate>,
    shown: RwLock<Vec<Arc<CertifiedKey>>>,
}

impl ClientCertificates {
    /// Reads the certificates.
    ///
    /// # Errors
    /// A file cannot be read, has no certificate or key, or the key does not match the certificate.
    fn new(files: &[Certificate]) -> Result<ClientCertificates, TlsError> {
        let shown = RwLock::new(read_all(files)?);
        Ok(ClientCertificates { files: files.to_vec(), shown })
    }

    /// Reads the certificates again and returns their number. On an error the old ones stay. A
    /// resumed session keeps the certificate with which it began.
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

/// The files that the clients of all shards share: own certificates and trusted roots.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    certificates: Arc<ClientCertificates>,
    roots: Arc<TrustedRoots>,
}

impl ClientFiles {
    /// Reads the files.
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

    /// Reads the trusted roots again and returns their number. On an error the old ones stay. After
    /// a change, sessions and connections verified by the old roots are no longer used.
    ///
    /// # Errors
    /// As [`ClientFiles::new`].
    pub fn reload_roots(&self) -> Result<usize, TlsError> {
        self.roots.reload()
    }
}

/// Presents one of the relay's own certificates, by its index.
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

/// The TLS client of one shard, for all its connections to servers.
pub struct Client {
    /// The profile without an own certificate, then one for each own certificate.
    profiles: Vec<TlsProfile>,
    roots: Arc<TrustedRoots>,
    only_1_3: bool,
}

/// The rustls configurations for one own certificate, or none. Each has its own session cache: a
/// session belongs to the certificate with which it began.
struct TlsProfile {
    shown: Option<Arc<ClientCertResolver>>,
    anyone: ResumingConfig,
    /// For hosts whose name cannot be sent in the handshake (RFC 6066 3).
    without_name: ResumingConfig,
    verified: RefCell<Option<Verified>>,
}

/// A configuration with its own session cache: a session that began without verification must not
/// be resumed where verification is required.
#[derive(Clone)]
struct ResumingConfig {
    config: Arc<ClientConfig>,
    sessions: Arc<Sessions>,
}

impl ResumingConfig {
    fn new(mut config: ClientConfig) -> ResumingConfig {
        let sessions = Arc::new(Sessions::new(SESSIONS_MAX));
        config.resumption = Resumption::store(Arc::<Sessions>::clone(&sessions));
        ResumingConfig { config: Arc::new(config), sessions }
    }
}

/// The configuration that verifies servers. It is built at first use, and again when the trusted
/// roots change, so that no session outlives the root by which it was verified.
struct Verified {
    generation: u64,
    config: ResumingConfig,
}

impl Client {
    /// Builds the configurations, one for each certificate of `files` and one without.
    ///
    /// # Errors
    /// rustls refuses a configuration.
    pub fn new(tls: &config::Tls, files: &ClientFiles) -> Result<Client, TlsError> {
        let mut profiles = vec![TlsProfile::new(tls.only_1_3, None)?];
        for place in 0..files.certificates.files.len() {
            let client_certificates = Arc::clone(&files.certificates);
            let shown = Arc::new(ClientCertResolver { client_certificates, place });
            profiles.push(TlsProfile::new(tls.only_1_3, Some(shown))?);
        }
        Ok(Client { profiles, roots: Arc::clone(&files.roots), only_1_3: tls.only_1_3 })
    }

    /// Changes with the trusted roots: a connection that was verified under another generation may
    /// be to a server that is no longer trusted.
    pub fn generation(&self) -> u64 {
        self.roots.generation()
    }

    /// A connection before its handshake, and whether it offers to resume a session.
    pub(super) fn connection(
        &self,
        trust: Trust,
        client_certificate: Option<usize>,
        name: &str,
    ) -> Result<(ClientConnection, bool), TlsError> {
        let (ResumingConfig { config, sessions }, name) =
            self.profile(trust, client_certificate, name)?;
        sessions.watch();
        let connection = ClientConnection::new(config, name)?;
        Ok((connection, sessions.was_taken()))
    }

    /// Forgets the session with a server that refused to resume it: the next handshake is full.
    pub fn forget_session(&self, trust: Trust, client_certificate: Option<usize>, name: &str) {
        if let Ok((profile, name)) = self.profile(trust, client_certificate, name) {
            profile.sessions.forget(&name);
        }
    }

    /// The configuration for a server, and the name for which it is asked.
    fn profile(
        &self,
        trust: Trust,
        client_certificate: Option<usize>,
        name: &str,
    ) -> Result<(ResumingConfig, ServerName<'static>), TlsError> {
        let profile = self
            .profiles
            .get(client_certificate.map_or(0, |place| place + 1))
            .ok_or_else(|| TlsError::Other("there is no such client certificate".to_owned()))?;
        let bare = name.trim_start_matches('[').trim_end_matches([']', '.']);
        match (trust, ServerName::try_from(bare.to_owned())) {
            (Trust::Anyone, Ok(name)) => Ok((profile.anyone.clone(), name)),
            (Trust::Anyone, Err(_)) => Ok((profile.without_name.clone(), stand_in(bare)?)),
            (Trust::Verified, Ok(name)) => Ok((self.verified(profile)?, name)),
            (Trust::Verified, Err(_)) => {
                let text = format!(
                    "\"{bare}\" is not a host name that a certificate can be verified for: it \
                     needs labels of letters, digits and inner hyphens, the last one not all digits"
                );
                Err(TlsError::Other(text))
            }
        }
    }

    fn verified(&self, profile: &TlsProfile) -> Result<ResumingConfig, TlsError> {
        let (generation, roots) = self.roots.now()?;
        let mut kept = profile.verified.borrow_mut();
        if let Some(verified) = &*kept
            && verified.generation == generation
        {
            return Ok(verified.config.clone());
        }
        let config = profile.verifying(self.only_1_3, roots)?;
        *kept = Some(Verified { generation, config: config.clone() });
        Ok(config)
    }
}

/// A key for the session cache in place of a host name that rustls does not accept. It is never
/// sent.
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
        let anyone = ResumingConfig::new(anyone);
        let without_name = ResumingConfig::new(without_name);
        Ok(TlsProfile { shown, anyone, without_name, verified: RefCell::default() })
    }

    fn verifying(
        &self,
        only_1_3: bool,
        roots: Arc<RootCertStore>,
    ) -> Result<ResumingConfig, TlsError> {
        let verifier = Arc::new(VerifiedServerCert::new(roots)?);
        config(only_1_3, self.shown.as_ref(), verifier).map(ResumingConfig::new)
    }
}

/// A configuration with `verifier` for the server's certificate.
fn config(
    only_1_3: bool,
    shown: Option<&Arc<ClientCertResolver>>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(only_1_3))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder.with_client_cert_resolver(Arc::<ClientCertResolver>::clone(shown)),
    })
}
