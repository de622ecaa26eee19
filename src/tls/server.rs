//! The certificates that the relay shows, by the name that a client asks for.

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

/// With SHA-256 before SHA-384, and so AES-128 before AES-256: a handshake is hashing for a good
/// part, and costs less by a sixth and more (`loadtest/tls-beside-postfix.py`). All clients have
/// AES-128 (RFC 8446 9.1 demands it); one that offers AES-256 alone gets that.
fn preferring_short_hashes() -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(&provider());
    provider.cipher_suites.sort_by_key(|suite| match suite {
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider.output_len(),
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider.output_len(),
    });
    Arc::new(provider)
}

/// What all listeners of all shards share.
#[derive(Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    /// The same, and clients are asked for a certificate of theirs.
    asking: Arc<ServerConfig>,
    shown: Arc<ServerCertResolver>,
    tickets: [Arc<Tickets>; 2],
}

/// Tickets of one key, which changes every few hours: any shard takes up what another began. With
/// new certificates they are made anew: what a client says of the certificate with which a session
/// began (RFC 5929 4.1) must be true of the one that is shown now.
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
    /// A file cannot be read, holds no certificate or key, or the two do not belong together.
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
            // Of TLS 1.2 without tickets: remembered here, they would outlive a certificate.
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        let (config, asking) = (Arc::new(config), Arc::new(asking));
        Ok(Some(Server { config, asking, shown, tickets }))
    }

    /// Reads the certificates again. With an error the old ones stay.
    ///
    /// # Errors
    /// As [`Server::new`].
    pub fn reload(&self, tls: &config::Tls) -> Result<(), TlsError> {
        let certificates = Arc::new(read(tls)?);
        let shown = &self.shown.certificates;
        *shown.write().unwrap_or_else(PoisonError::into_inner) = certificates;
        self.tickets.iter().try_for_each(|one| one.renew())
    }

    /// The names of a client by the certificate that it has shown, where one of `tls.client_roots`
    /// vouches for it, now, and for clients. Also of a session taken up again: what was true when
    /// that began need not be.
    pub(super) fn names_of_client(&self, shown: &[CertificateDer<'_>]) -> Vec<Box<str>> {
        let Some((own, others)) = shown.split_first() else { return Vec::new() };
        let Some(vouching) = self.shown.now().and_then(|now| now.vouching.clone()) else {
            return Vec::new();
        };
        match vouching.verify_client_cert(own, others, UnixTime::now()) {
            Ok(_) => names::names_of(own),
            Err(error) => {
                tracing::debug!(%error, "a client's certificate is not signed by tls.client_roots");
                Vec::new()
            }
        }
    }

    /// What stands for the certificate that a client is shown who asks for this name (RFC 5929 4).
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
    /// What stands for it in tls-server-end-point.
    end_point: Option<Vec<u8>>,
}

/// The certificates of this moment.
#[derive(Debug)]
struct ServerCertResolver {
    certificates: RwLock<Arc<Certificates>>,
}

#[derive(Debug)]
struct Certificates {
    /// For clients that name no host, or an unknown one: that is not worth a failed handshake,
    /// since most clients do not check the name (RFC 6066 3 leaves it to the server).
    first: Arc<Own>,
    /// Lower-case names of all certificates; `*.` in front stands for one label.
    by_name: HashMap<Box<str>, Arc<Own>>,
    /// Checks certificates of clients by `tls.client_roots`.
    vouching: Option<Arc<dyn ClientCertVerifier>>,
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
    let vouching = tls.client_roots.as_ref().map(|path| {
        let roots = roots::store(&Roots::File(path.clone()))?;
        WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| TlsError::File { path: path.clone(), cause: error.to_string() })
    });
    Ok(Certificates { first, by_name, vouching: vouching.transpose()? })
}

/// A certificate with its key, and the names it is for.
pub(super) fn read_one(files: &Certificate) -> Result<(CertifiedKey, Vec<Box<str>>), TlsError> {
    let fault = |path: &Path, cause: String| TlsError::File { path: path.to_owned(), cause };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|error| {
            let cause = said(&error);
            fault(&files.cert, format!("{cause}; it is named as cert (or tls_cert), a PEM file"))
        })?;
    let Some(own) = chain.first() else {
        let cause = "no certificate in it; the file begins with the relay's own, in PEM form \
                     (-----BEGIN CERTIFICATE-----), then those between it and the root";
        return Err(fault(&files.cert, cause.to_owned()));
    };
    let names = webpki::EndEntityCert::try_from(own)
        .map_err(|error| fault(&files.cert, format!("its first certificate is unusable: {error}")))?
        .valid_dns_names()
        .map(|name| name.to_ascii_lowercase().into())
        .collect();
    look_at_private(&files.key).map_err(|error| fault(&files.key, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| fault(&files.key, said(&error)))?;
    let key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| fault(&files.key, format!("not a key that can be used: {error}")))?;
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

fn said(error: &rustls_pki_types::pem::Error) -> String {
    use rustls_pki_types::pem::Error;
    match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => {
            "nothing of the kind in it; it must be in PEM form (-----BEGIN ...-----)".to_owned()
        }
        error => format!("not in PEM form: {error:?}"),
    }
}
