//! TLS towards clients: the relay's certificates, chosen by the name that the client asks for.

use super::verify::AcceptAnyClientCert;
use super::{TlsError, names, provider, roots, versions};
use crate::config::{self, Certificate, Roots, look_at_private};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedCipherSuite};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// Prefers SHA-256 to SHA-384, and so AES-128 to AES-256: hashing is a large part of a handshake,
/// which gets cheaper by a sixth or more (`loadtest/tls-beside-postfix.py`). All clients support
/// AES-128 (RFC 8446 9.1); one that offers only AES-256 gets that.
fn preferring_short_hashes() -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(&provider());
    provider.cipher_suites.sort_by_key(|suite| match suite {
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider.output_len(),
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider.output_len(),
    });
    Arc::new(provider)
}

/// The TLS configuration that all listeners of all shards share.
#[derive(Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    /// The same, but clients are asked for a certificate.
    asking: Arc<ServerConfig>,
    shown: Arc<ServerCertResolver>,
    tickets: [Arc<Tickets>; 2],
}

/// Session tickets with one key for all shards, which rotates every few hours, so that any shard
/// can resume a session. New certificates get a new key: the channel binding that a client computed
/// when the session began (RFC 5929 4.1) must match the certificate in use now.
#[derive(Debug)]
struct Tickets(RwLock<Arc<dyn ProducesTickets>>);

impl Tickets {
    fn new() -> Result<Arc<Tickets>, TlsError> {
        Ok(Arc::new(Tickets(RwLock::new(Ticketer::new()?))))
    }

    fn renew(&self) -> Result<(), TlsError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Ticketer::new()?;
        Ok(())
    }

    fn now(&self) -> Arc<dyn ProducesTickets> {
        Arc::clone(&*self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.now().enabled()
    }

    fn lifetime(&self) -> u32 {
        self.now().lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.now().encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.now().decrypt(cipher)
    }
}

impl Server {
    /// Reads the certificates; `None` when none is configured.
    ///
    /// # Errors
    /// A file cannot be read, has no certificate or key, or the key does not match the certificate.
    pub fn new(tls: &config::Tls) -> Result<Option<Server>, TlsError> {
        if tls.certificates.is_empty() {
            return Ok(None);
        }
        let shown =
            Arc::new(ServerCertResolver { certificates: RwLock::new(Arc::new(read(tls)?)) });
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<ServerCertResolver>::clone(&shown);
        let provider = preferring_short_hashes();
        let builder = || {
            ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions(tls.only_1_3))
        };
        let any = Arc::new(AcceptAnyClientCert::new());
        let mut config = builder()?.with_no_client_auth().with_cert_resolver(Arc::clone(&resolver));
        let mut asking = builder()?.with_client_cert_verifier(any).with_cert_resolver(resolver);
        let tickets = [Tickets::new()?, Tickets::new()?];
        for (config, tickets) in [&mut config, &mut asking].into_iter().zip(&tickets) {
            config.ticketer = Arc::<Tickets>::clone(tickets);
            config.send_tls13_tickets = 1;
            config.ignore_client_order = true;
            // No session cache for TLS 1.2 without tickets: sessions would outlive a certificate.
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        let (config, asking) = (Arc::new(config), Arc::new(asking));
        Ok(Some(Server { config, asking, shown, tickets }))
    }

    /// Reads the certificates again. On an error the old ones stay.
    ///
    /// # Errors
    /// As [`Server::new`].
    pub fn reload(&self, tls: &config::Tls) -> Result<(), TlsError> {
        let certificates = Arc::new(read(tls)?);
        let shown = &self.shown.certificates;
        *shown.write().unwrap_or_else(PoisonError::into_inner) = certificates;
        self.tickets.iter().try_for_each(|one| one.renew())
    }

    /// The names in a client's certificate, if it is valid now, for clients, and by one of
    /// `tls.client_roots`. Resumed sessions are verified again: the roots may have changed.
    pub(super) fn names_of_client(&self, shown: &[CertificateDer<'_>]) -> Vec<Box<str>> {
        let Some((own, others)) = shown.split_first() else { return Vec::new() };
        let Some(verifier) = self.shown.now().and_then(|now| now.verifier.clone()) else {
            return Vec::new();
        };
        match verifier.verify_client_cert(own, others, UnixTime::now()) {
            Ok(_) => names::names_of(own),
            Err(error) => {
                tracing::debug!(%error, "a client's certificate is not signed by tls.client_roots");
                Vec::new()
            }
        }
    }

    /// The channel binding (RFC 5929 4) of the certificate for a client that asks for this name.
    pub(super) fn end_point(&self, name: Option<&str>) -> Option<Vec<u8>> {
        self.shown.now()?.of_name(name).end_point.clone()
    }

    pub(super) fn config(&self, asks_for_certificate: bool) -> Arc<ServerConfig> {
        Arc::clone(if asks_for_certificate { &self.asking } else { &self.config })
    }
}

/// A certificate of this relay.
#[derive(Debug)]
struct Own {
    key: Arc<CertifiedKey>,
    /// Its hash for tls-server-end-point.
    end_point: Option<Vec<u8>>,
}

/// The current certificates.
#[derive(Debug)]
struct ServerCertResolver {
    certificates: RwLock<Arc<Certificates>>,
}

#[derive(Debug)]
struct Certificates {
    /// For clients that name no host, or an unknown one: the handshake should not fail then, since
    /// most clients do not check the name (RFC 6066 3 leaves it to the server).
    first: Arc<Own>,
    /// Lower-case names of all certificates; `*.` in front stands for one label.
    by_name: HashMap<Box<str>, Arc<Own>>,
    /// Verifies client certificates by `tls.client_roots`.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl ServerCertResolver {
    fn now(&self) -> Option<Arc<Certificates>> {
        Some(Arc::clone(&*self.certificates.read().ok()?))
    }
}

impl Certificates {
    fn of_name(&self, name: Option<&str>) -> &Own {
        let Some(name) = name else { return &self.first };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let found = self.by_name.get(name.as_str()).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(format!("*.{parent}").as_str())
        });
        found.unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for ServerCertResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.now()?.of_name(hello.server_name()).key))
    }
}

fn read(tls: &config::Tls) -> Result<Certificates, TlsError> {
    let mut first = None;
    let mut by_name = HashMap::new();
    for certificate in &tls.certificates {
        let (key, names) = read_one(certificate)?;
        let end_point = key.cert.first().and_then(|own| names::end_point(own));
        let own = Arc::new(Own { key: Arc::new(key), end_point });
        for name in names {
            by_name.entry(name).or_insert_with(|| Arc::clone(&own));
        }
        first.get_or_insert(own);
    }
    let first = first.ok_or_else(|| TlsError::Other("no certificate".to_owned()))?;
    let verifier = tls.client_roots.as_ref().map(|path| {
        let roots = roots::store(&Roots::File(path.clone()))?;
        WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| TlsError::File { path: path.clone(), cause: error.to_string() })
    });
    Ok(Certificates { first, by_name, verifier: verifier.transpose()? })
}

/// Reads a certificate with its key, and the names for which it is valid.
pub(super) fn read_one(files: &Certificate) -> Result<(CertifiedKey, Vec<Box<str>>), TlsError> {
    let fault = |path: &Path, cause: String| TlsError::File { path: path.to_owned(), cause };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|error| {
            let cause = pem_error(&error);
            fault(&files.cert, format!("{cause}; cert (or tls_cert) must name a PEM file"))
        })?;
    let Some(own) = chain.first() else {
        let cause = "no certificate in it; the file must begin with the relay's own certificate in \
                     PEM form (-----BEGIN CERTIFICATE-----), then the intermediate ones";
        return Err(fault(&files.cert, cause.to_owned()));
    };
    let names = webpki::EndEntityCert::try_from(own)
        .map_err(|error| fault(&files.cert, format!("its first certificate is unusable: {error}")))?
        .valid_dns_names()
        .map(|name| name.to_ascii_lowercase().into())
        .collect();
    look_at_private(&files.key).map_err(|error| fault(&files.key, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| fault(&files.key, pem_error(&error)))?;
    let key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| fault(&files.key, format!("this key cannot be used: {error}")))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => {
            let cause = format!("not the key of the certificate in {}", files.cert.display());
            return Err(fault(&files.key, cause));
        }
    }
    Ok((certified, names))
}

fn pem_error(error: &rustls_pki_types::pem::Error) -> String {
    use rustls_pki_types::pem::Error;
    match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => {
            "no such item in it; it must be in PEM form (-----BEGIN ...-----)".to_owned()
        }
        error => format!("not in PEM form: {error:?}"),
    }
}
