//! The certificates that the relay shows, by the name that a client asks for.

use super::visitor::AnyVisitor;
use super::{TlsError, client, names, provider, versions};
use crate::config::{self, Certificate, Roots};
use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, RwLock};

/// What all listeners of all shards share.
#[derive(Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    /// The same, and clients are asked for a certificate of theirs.
    asking: Arc<ServerConfig>,
    shown: Arc<Shown>,
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
        let shown = Arc::new(Shown { certificates: RwLock::new(Arc::new(read(tls)?)) });
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Shown>::clone(&shown);
        let builder = || {
            ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(versions(tls.only_1_3))
        };
        let visitor = Arc::new(AnyVisitor::new());
        let mut config = builder()?.with_no_client_auth().with_cert_resolver(Arc::clone(&resolver));
        let mut asking = builder()?.with_client_cert_verifier(visitor).with_cert_resolver(resolver);
        // Tickets of one key, which changes every few hours: any shard takes up what another began.
        for config in [&mut config, &mut asking] {
            config.ticketer = Ticketer::new()?;
            config.send_tls13_tickets = 1;
        }
        let (config, asking) = (Arc::new(config), Arc::new(asking));
        Ok(Some(Server { config, asking, shown }))
    }

    /// Reads the certificates again. With an error the old ones stay.
    ///
    /// # Errors
    /// As [`Server::new`].
    pub fn reload(&self, tls: &config::Tls) -> Result<(), TlsError> {
        let certificates = Arc::new(read(tls)?);
        match self.shown.certificates.write() {
            Ok(mut shown) => *shown = certificates,
            Err(poisoned) => *poisoned.into_inner() = certificates,
        }
        Ok(())
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
                tracing::debug!(%error, "nobody vouches for the certificate of a client");
                Vec::new()
            }
        }
    }

    pub(super) fn config(&self, asks_for_certificate: bool) -> Arc<ServerConfig> {
        Arc::clone(if asks_for_certificate { &self.asking } else { &self.config })
    }
}

/// The certificates of this moment.
#[derive(Debug)]
struct Shown {
    certificates: RwLock<Arc<Certificates>>,
}

#[derive(Debug)]
struct Certificates {
    /// For clients that name nobody, or somebody else: that is not worth a failed handshake, since
    /// most of them look at no name (RFC 6066 3 leaves it to us).
    first: Arc<CertifiedKey>,
    /// Lower-case names of all certificates; `*.` in front stands for one label.
    by_name: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// Whoever vouches for clients.
    vouching: Option<Arc<dyn ClientCertVerifier>>,
}

impl Shown {
    fn now(&self) -> Option<Arc<Certificates>> {
        Some(Arc::clone(&*self.certificates.read().ok()?))
    }
}

impl Certificates {
    fn of_name(&self, name: &str) -> Arc<CertifiedKey> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let found = self.by_name.get(name.as_str()).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(format!("*.{parent}").as_str())
        });
        Arc::clone(found.unwrap_or(&self.first))
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.now()?;
        Some(match hello.server_name() {
            Some(name) => certificates.of_name(name),
            None => Arc::clone(&certificates.first),
        })
    }
}

fn read(tls: &config::Tls) -> Result<Certificates, TlsError> {
    let mut first = None;
    let mut by_name = HashMap::new();
    for certificate in &tls.certificates {
        let (key, names) = read_one(certificate)?;
        let key = Arc::new(key);
        for name in names {
            by_name.entry(name).or_insert_with(|| Arc::clone(&key));
        }
        first.get_or_insert(key);
    }
    let first = first.ok_or_else(|| TlsError::Other("no certificate".to_owned()))?;
    let vouching = tls.client_roots.as_ref().map(|path| {
        let roots = Arc::new(client::roots(&Roots::File(path.clone()))?);
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
