//! `[tls]`: certificates and certificate authorities, with parts that other tables use.

use super::declare::table;
use super::kinds::{Parsed, Words, choice, needed, optional, parsed, path, tables};
use super::table::Table;
use std::path::PathBuf;

/// Largest number of certificates; each is read at every reload.
const CERTIFICATES_MAX: usize = 1000;

table! {
    /// Certificates and certificate authorities. The files are read again at SIGHUP, and within a
    /// minute after a change; if they are not valid then, the old ones stay in use. Files with
    /// secrets (private keys, users, passwords) are refused when others may read them, or when
    /// anyone but the owner may write to them: use mode 600, or 640 for a group.
    pub(super) struct TlsKeys {
        /// The oldest version of TLS, in both directions. Versions 1.0 and 1.1 are not supported
        /// (RFC 8996).
        min_version: MinVersion = choice(MinVersion::Tls12);
        /// The certificate authorities for the certificates of servers, for routes with
        /// "must-verify" and messages with REQUIRETLS: "system" for those of this machine, or a PEM
        /// file with certificates. A server's own self-signed certificate does not help here: it is
        /// no authority's.
        roots: Roots = roots();
        /// The relay's certificate (also --tls-cert FILE), a PEM file: its own certificate first,
        /// then the intermediate ones.
        cert: Option<PathBuf> = optional(path("/etc/ringpost/relay.example.net.pem")), Reload;
        /// The private key of that certificate (also --tls-key FILE), a PEM file.
        key: Option<PathBuf> = optional(path("/etc/ringpost/relay.example.net.key")), Reload;
        /// The certificate authorities for the certificates of clients, a PEM file: see
        /// listener.client_certificates. Revocation lists are not read: to revoke a name, remove it
        /// from the users file.
        client_roots: Option<PathBuf> = optional(path("/etc/ringpost/clients.pem")), Reload;
        /// More certificates.
        certificate: Vec<CertificateKeys> = tables(CERTIFICATES_MAX), Reload;
    }
    check = check_pair
}

table! {
    /// Another certificate, chosen by the name that the client asks for (SNI).
    pub(super) struct CertificateKeys {
        /// The certificate, a PEM file.
        cert: PathBuf = needed(path("/etc/ringpost/smtp.example.org.pem")), Reload;
        /// Its private key, a PEM file.
        key: PathBuf = needed(path("/etc/ringpost/smtp.example.org.key")), Reload;
    }
}

/// Certificates and certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificates for listeners. Clients that ask for no name, or for one that no certificate
    /// has, get the first.
    pub certificates: Vec<Certificate>,
    /// Whether TLS 1.2 is refused.
    pub only_1_3: bool,
    /// The authorities for the certificates of servers.
    pub roots: Roots,
    /// The file with the authorities for the certificates of clients; without it, none is accepted
    /// by name.
    pub client_roots: Option<PathBuf>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// PEM file: the relay's own certificate, then the intermediate ones.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// Certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those of this machine.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

/// The oldest version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MinVersion {
    Tls12,
    Tls13,
}

impl Words for MinVersion {
    const WORDS: &'static [(&'static str, MinVersion)] =
        &[("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];
}

/// Certificate authorities: those of the system, or a file's.
pub(super) fn roots() -> Parsed<Roots> {
    let read = |text: &str| match text {
        "system" => Ok(Roots::System),
        "" => Err("\"\" is not a path; write \"system\" or \"FILE.pem\"".to_owned()),
        path => Ok(Roots::File(path.into())),
    };
    let show = |roots: &Roots| match roots {
        Roots::System => "system".to_owned(),
        Roots::File(path) => path.to_string_lossy().into_owned(),
    };
    parsed("\"system\" or path", Roots::System, read, show)
}

impl From<&TlsKeys> for Tls {
    fn from(keys: &TlsKeys) -> Tls {
        let more = keys.certificate.iter();
        let more = more.map(|one| Certificate { cert: one.cert.clone(), key: one.key.clone() });
        Tls {
            certificates: pair(&keys.cert, &keys.key).into_iter().chain(more).collect(),
            only_1_3: keys.min_version == MinVersion::Tls13,
            roots: keys.roots.clone(),
            client_roots: keys.client_roots.clone(),
        }
    }
}

/// A certificate and its key, where both are given.
pub(super) fn pair(cert: &Option<PathBuf>, key: &Option<PathBuf>) -> Option<Certificate> {
    let (cert, key) = cert.as_ref().zip(key.as_ref())?;
    Some(Certificate { cert: cert.clone(), key: key.clone() })
}

fn check_pair(_: &[TlsKeys], tables: &[Table<'_>]) {
    for table in tables {
        let together = "a certificate (cert, --tls-cert) and its key (key, --tls-key) go together";
        check_together(table, ["cert", "key"], together);
    }
}

/// Checks that a certificate and its private key are both given, or neither.
pub(super) fn check_together(table: &Table<'_>, [cert, key]: [&str; 2], together: &str) {
    match (table.has(cert), table.has(key)) {
        (true, false) => {
            table.fault(&table.place_of(cert), cert, format!("without a key; {together}"));
        }
        (false, true) => {
            table.fault(&table.place_of(key), key, format!("without a certificate; {together}"));
        }
        _ => {}
    }
}
