//! Whom the relay believes when it delivers.

use super::server::read_one;
use super::{TlsError, provider, versions};
use crate::config::{self, Certificate, Roots};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WantsClientCert};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::cell::OnceCell;
use std::sync::{Arc, PoisonError, RwLock};

/// Servers whose sessions are remembered, so that the next handshake is short.
const SESSIONS_MAX: usize = 4096;

/// How much a server has to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: against listeners, not against somebody in the middle (RFC 7435).
    Anyone,
    /// That somebody whom we believe vouches for its name.
    Verified,
}

/// The certificates of ours that hosts may be shown, for all shards: read again while the relay
/// runs.
#[derive(Debug)]
pub struct ClientCertificates {
    files: Vec<Certificate>,
    shown: RwLock<Vec<Arc<CertifiedKey>>>,
}

impl ClientCertificates {
    /// Reads them.
    ///
    /// # Errors
    /// A file cannot be read, holds no certificate or key, or the two do not belong together.
    pub fn new(files: &[Certificate]) -> Result<ClientCertificates, TlsError> {
        let shown = RwLock::new(read_all(files)?);
        Ok(ClientCertificates { files: files.to_vec(), shown })
    }

    /// Reads them again; how many there are. With an error the old ones stay. A session that is
    /// taken up again goes by the one with which it began.
    ///
    /// # Errors
    /// As [`Ours::new`].
    pub fn reload(&self) -> Result<usize, TlsError> {
        let shown = read_all(&self.files)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(self.files.len())
    }
}

fn read_all(files: &[Certificate]) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    files.iter().map(|one| read_one(one).map(|(key, _)| Arc::new(key))).collect()
}

/// One of them, by its place.
#[derive(Debug)]
struct OneOfOurs {
    client_certificates: Arc<ClientCertificates>,
    place: usize,
}

impl ResolvesClientCert for OneOfOurs {
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
    /// For one that shows no certificate, then for each that is shown.
    ways: Vec<TlsProfile>,
    tls: config::Tls,
}

/// With one certificate of ours, or none. Sessions are remembered by itself: they belong to who
/// began them.
struct TlsProfile {
    shown: Option<Arc<OneOfOurs>>,
    anyone: Arc<ClientConfig>,
    /// Made when first needed: reading the roots takes milliseconds.
    verified: OnceCell<Result<Arc<ClientConfig>, String>>,
}

impl Client {
    /// Prepares for deliveries; hosts that ask for a certificate may be shown one of `ours`.
    ///
    /// # Errors
    /// The file of the roots cannot be used, or rustls cannot be set up.
    pub fn new(
        tls: &config::Tls,
        client_certificates: &Arc<ClientCertificates>,
    ) -> Result<Client, TlsError> {
        // A file that is no good is to be told of now, not with the first mail.
        if let Roots::File(_) = &tls.roots {
            roots(&tls.roots)?;
        }
        let mut ways = vec![TlsProfile::new(tls, None)?];
        for place in 0..client_certificates.files.len() {
            let shown = OneOfOurs { client_certificates: Arc::clone(client_certificates), place };
            ways.push(TlsProfile::new(tls, Some(Arc::new(shown)))?);
        }
        Ok(Client { ways, tls: tls.clone() })
    }

    pub(super) fn connection(
        &self,
        trust: Trust,
        client_certificate: Option<usize>,
        name: &str,
    ) -> Result<ClientConnection, TlsError> {
        let way = self
            .ways
            .get(client_certificate.map_or(0, |place| place + 1))
            .ok_or_else(|| TlsError::Other("there is no such certificate of ours".to_owned()))?;
        let config = match trust {
            Trust::Anyone => &way.anyone,
            Trust::Verified => way
                .verified
                .get_or_init(|| way.verifying(&self.tls).map_err(|error| error.to_string()))
                .as_ref()
                .map_err(|words| TlsError::Other(words.clone()))?,
        };
        let bare = name.trim_start_matches('[').trim_end_matches([']', '.']);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| TlsError::Other(format!("{name} is no name that TLS can ask for")))?;
        Ok(ClientConnection::new(Arc::clone(config), name)?)
    }
}

impl TlsProfile {
    fn new(tls: &config::Tls, shown: Option<Arc<OneOfOurs>>) -> Result<TlsProfile, TlsError> {
        let verifier = Arc::new(Unverified { provider: provider() });
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(tls.only_1_3))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut anyone = showing(config, shown.as_ref());
        anyone.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(TlsProfile { shown, anyone: Arc::new(anyone), verified: OnceCell::new() })
    }

    fn verifying(&self, tls: &config::Tls) -> Result<Arc<ClientConfig>, TlsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(tls.only_1_3))?
            .with_root_certificates(roots(&tls.roots)?);
        let mut config = showing(config, self.shown.as_ref());
        // Not shared with the connections above: a session of theirs proves nothing.
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Arc::new(config))
    }
}

fn showing(
    config: ConfigBuilder<ClientConfig, WantsClientCert>,
    shown: Option<&Arc<OneOfOurs>>,
) -> ClientConfig {
    match shown {
        None => config.with_no_client_auth(),
        Some(shown) => config.with_client_cert_resolver(Arc::<OneOfOurs>::clone(shown)),
    }
}

/// The certificates of those whom we believe.
///
/// # Errors
/// None can be had.
pub(super) fn roots(from: &Roots) -> Result<RootCertStore, TlsError> {
    believed(from).map(|(store, _)| store)
}

/// The same, as they stand in the file: for what sets up TLS by itself.
///
/// # Errors
/// None can be had.
pub fn root_certificates(from: &Roots) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    believed(from).map(|(_, certificates)| certificates)
}

type Believed = (RootCertStore, Vec<CertificateDer<'static>>);

fn believed(from: &Roots) -> Result<Believed, TlsError> {
    let mut store = RootCertStore::empty();
    let certificates = match from {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs.iter().cloned());
            if store.is_empty() {
                let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
                let words = format!(
                    "this machine has no root certificates to verify others with; install the \
                     package ca-certificates, or name a file in tls.roots. {why}"
                );
                return Err(TlsError::Other(words));
            }
            found.certs
        }
        Roots::File(path) => {
            let fault = |cause: String| TlsError::File { path: path.clone(), cause };
            let read: Result<Vec<CertificateDer<'static>>, _> =
                CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            let read = read.map_err(|error| fault(format!("{error}; it is named as tls.roots")))?;
            store.add_parsable_certificates(read.iter().cloned());
            if store.is_empty() {
                let cause = "no certificate in it; roots are in PEM form, one after the other";
                return Err(fault(cause.to_owned()));
            }
            read
        }
    };
    Ok((store, certificates))
}

/// Takes any certificate, but only from whoever has its key.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
