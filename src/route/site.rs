//! A site: hosts, and the transport to them. *Pure.*
//!
//! Domains whose mail goes to the same hosts over the same transport are one site, and share its
//! connections and limits. If a domain's policy or a message requires another transport, that is
//! another site.

use crate::config;
use sha2::{Digest, Sha256};
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

/// A destination: hosts that are operated together, and the transport to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name: equal for equal sites, on every shard.
    pub key: SiteKey,
    /// The source of its hosts.
    pub kind: SiteKind,
    /// Its hosts in order of preference; never empty.
    pub hosts: Box<[SiteHost]>,
    /// The transport to them.
    pub transport: Transport,
}

/// The source of the hosts of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SiteKind {
    /// MX records, or the recipient's domain itself if there are none (RFC 5321 5.1).
    Mx,
    /// The configuration. A mistake there bounces no mail: it waits until it is corrected.
    NextHop,
    /// An address literal in the recipient's address (RFC 5321 4.1.3).
    Literal,
}

impl SiteKind {
    /// The name in listings.
    pub fn name(self) -> &'static str {
        match self {
            SiteKind::Mx => "mx",
            SiteKind::NextHop => "next-hop",
            SiteKind::Literal => "literal",
        }
    }
}

/// The name of a site, for tables and for listings.
///
/// The label can be used in metrics: it is the same after a reload and a restart, has at most
/// [`crate::limits::ROUTE_KEY_BYTES_MAX`] bytes, and no two sites of one kind have the same. It
/// reads `mx:mx1.example.net,mx2.example.net:25` (with `;` before hosts of the next preference),
/// `host:relay.example.net:25` or `[192.0.2.1]:25`, followed by what differs from the default
/// transport: `+tls-must`, `+lmtp`. A label that would be too long ends in a hash of the whole.
#[derive(Clone, Debug)]
pub struct SiteKey {
    kind: SiteKind,
    label: Arc<str>,
    /// Hash of kind and label, computed once and not at every lookup.
    digest: u64,
}

impl SiteKey {
    /// The key of a site of this kind with this label, which has all of its hosts and transport.
    pub fn new(kind: SiteKind, label: &str) -> SiteKey {
        let mut hasher = Sha256::new();
        hasher.update([kind as u8]);
        hasher.update(label.as_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        let digest = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        SiteKey { kind, label: label.into(), digest }
    }

    /// The label.
    pub fn as_str(&self) -> &str {
        &self.label
    }

    /// The same number on every shard and in every run, spread evenly.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

impl PartialEq for SiteKey {
    fn eq(&self, other: &SiteKey) -> bool {
        Arc::ptr_eq(&self.label, &other.label)
            || (self.digest == other.digest && self.kind == other.kind && self.label == other.label)
    }
}

impl Eq for SiteKey {}

/// Hash tables hash the digest again, with a secret key: a sender that chooses domain names cannot
/// provoke collisions.
impl Hash for SiteKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}

impl std::fmt::Display for SiteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.label)
    }
}

/// One host of a site.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SiteHost {
    /// Rank: 0 for the best hosts, 1 for the next. Only the order of MX preferences matters, so
    /// that `1 a, 5 b` and `10 a, 20 b` are the same site.
    pub preference: u16,
    /// The host; a name is never an IP address as text.
    pub host: config::HostName,
    /// TCP port.
    pub port: u16,
}

/// The transport to a site: everything that must not be mixed on one connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transport {
    /// Whether TLS is required, and how the host is verified.
    pub tls: TlsPolicy,
    /// The protocol, and whether it begins with TLS.
    pub protocol: config::Scheme,
    /// The source address of connections.
    pub source: SourceId,
    /// The user name and password for hosts that require AUTH.
    pub credentials: Option<CredentialsId>,
    /// The certificate for hosts that ask for one: an index in
    /// [`config::Route::certificates`].
    pub certificate: Option<usize>,
    /// 8-bit content where the host does not offer 8BITMIME.
    pub eight_bit: config::EightBit,
    /// Small messages are sent by BDAT (RFC 3030), with the envelope, to hosts that offer it.
    pub chunking: bool,
}

/// TLS with the hosts of a site. Policies of the recipient's domain (MTA-STS, DANE) will be further
/// variants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TlsPolicy {
    /// Never.
    Off,
    /// If the host offers it, whatever its certificate; in the clear if it fails.
    Opportunistic,
    /// Never in the clear.
    Mandatory(Verify),
    /// The host must have a valid certificate for its name, and offer REQUIRETLS (RFC 8689 4.2.1).
    RequireTls,
}

/// What the certificate of a host must prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verify {
    /// Nothing.
    Nothing,
    /// The host's name.
    HostName,
}

impl TlsPolicy {
    /// Whether the host's certificate must be valid for its name.
    pub fn is_verified(&self) -> bool {
        matches!(self, TlsPolicy::Mandatory(Verify::HostName) | TlsPolicy::RequireTls)
    }
}

impl From<config::DeliveryTls> for TlsPolicy {
    fn from(configured: config::DeliveryTls) -> TlsPolicy {
        match configured {
            config::DeliveryTls::Off => TlsPolicy::Off,
            config::DeliveryTls::May => TlsPolicy::Opportunistic,
            config::DeliveryTls::Must => TlsPolicy::Mandatory(Verify::Nothing),
            config::DeliveryTls::Verify => TlsPolicy::Mandatory(Verify::HostName),
        }
    }
}

/// The source address of connections. So far the kernel always chooses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceId(pub u16);

/// Credentials for hosts: an index in [`config::Route::logins`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CredentialsId(pub u16);

impl Transport {
    /// SMTP under this policy.
    pub fn smtp(tls: TlsPolicy, policy: config::TransportPolicy) -> Transport {
        Transport {
            tls,
            protocol: config::Scheme::Smtp,
            source: SourceId::default(),
            credentials: None,
            certificate: policy.certificate,
            eight_bit: policy.eight_bit,
            chunking: policy.chunking,
        }
    }
}

/// The part of labels for configured files: their names, not their indices, which change when
/// another file is configured.
pub(super) struct FileMarks {
    credentials: Vec<String>,
    certificates: Vec<String>,
}

impl FileMarks {
    pub(super) fn new(route: &config::Route) -> FileMarks {
        let login = |login: &config::Login| {
            let clear = if login.without_tls { "clear" } else { "" };
            file_mark(&login.file, clear)
        };
        let certificates = route.certificates.iter();
        FileMarks {
            credentials: route.logins.iter().map(login).collect(),
            certificates: certificates.map(|one| file_mark(&one.cert, "")).collect(),
        }
    }
}

/// The file's name without its extension, and eight digits that distinguish it from files of that
/// name in other directories.
fn file_mark(path: &Path, more: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(path.as_os_str().as_encoded_bytes());
    hasher.update(more.as_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let stem: String = stem.chars().filter(plain).take(FILE_STEM_CHARS_MAX).collect();
    let [a, b, c, d, ..] = digest;
    format!("{stem}-{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// Bytes of a file's name in a label: enough to recognize it.
const FILE_STEM_CHARS_MAX: usize = 24;

/// The part of a label for the transport; empty for the default.
pub(super) fn transport_mark(transport: &Transport, files: &FileMarks) -> String {
    let Transport { tls, protocol, source, credentials, certificate, eight_bit, chunking } =
        transport;
    let usual = config::TransportPolicy::ORDINARY;
    let mut mark = String::new();
    mark.push_str(match protocol {
        config::Scheme::Smtp => "",
        config::Scheme::Smtps => "+smtps",
        config::Scheme::Lmtp => "+lmtp",
    });
    mark.push_str(match tls {
        TlsPolicy::Opportunistic => "",
        TlsPolicy::Off => "+tls-off",
        TlsPolicy::Mandatory(Verify::Nothing) => "+tls-must",
        TlsPolicy::Mandatory(Verify::HostName) => "+tls-must-verify",
        TlsPolicy::RequireTls => "+requiretls",
    });
    if *eight_bit != usual.eight_bit {
        mark.push_str("+8bit-");
        mark.push_str(eight_bit.name());
    }
    if *chunking != usual.chunking {
        mark.push_str("+data");
    }
    if *source != SourceId::default() {
        mark.push_str(&format!("+source-{}", source.0));
    }
    // An index that the configuration does not have still gets a mark of its own.
    let unknown = String::from("unknown");
    if let Some(place) = certificate {
        mark.push_str("+cert-");
        mark.push_str(files.certificates.get(*place).unwrap_or(&unknown));
    }
    if let Some(CredentialsId(place)) = credentials {
        mark.push_str("+auth-");
        mark.push_str(files.credentials.get(usize::from(*place)).unwrap_or(&unknown));
    }
    mark
}

/// `text` with the port and the transport. A long one is cut and ends in a hash of the whole.
///
/// It is a cryptographic hash of 128 bits: an attacker who could make two sets of hosts with the
/// same label would get the mail for the other one. It has no secret key, so that labels are the
/// same after a restart.
pub(super) fn label(text: &str, port: u16, mark: &str) -> String {
    let tail = format!(":{port}{mark}");
    let whole = format!("{text}{tail}");
    if whole.len() <= crate::limits::ROUTE_KEY_BYTES_MAX {
        return whole;
    }
    let digest: [u8; 32] = Sha256::digest(whole.as_bytes()).into();
    let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let tail = format!("~{digest}{tail}");
    let mut end = crate::limits::ROUTE_KEY_BYTES_MAX.saturating_sub(tail.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let front = text.get(..end).unwrap_or_default();
    format!("{front}{tail}")
}

#[cfg(test)]
impl Site {
    /// An MX site without hosts, for tests that only need its name.
    pub fn for_test(label: &str) -> Arc<Site> {
        let usual = config::TransportPolicy::ORDINARY;
        Arc::new(Site {
            key: SiteKey::new(SiteKind::Mx, label),
            kind: SiteKind::Mx,
            hosts: Box::default(),
            transport: Transport::smtp(TlsPolicy::Opportunistic, usual),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::config::{Certificate, Login, Route, Scheme, TransportPolicy};

    fn route(certificates: &[&str], logins: &[&str]) -> Route {
        let certificate = |path: &&str| Certificate { cert: path.into(), key: "x.key".into() };
        let login = |path: &&str| Login { file: path.into(), without_tls: false };
        Route {
            smart_host: None,
            rules: Vec::new(),
            port: 25,
            policy: TransportPolicy::ORDINARY,
            logins: logins.iter().map(login).collect(),
            certificates: certificates.iter().map(certificate).collect(),
        }
    }

    fn with(certificate: Option<usize>, credentials: Option<u16>) -> Transport {
        let credentials = credentials.map(CredentialsId);
        let usual = Transport::smtp(TlsPolicy::Opportunistic, TransportPolicy::ORDINARY);
        Transport { certificate, credentials, ..usual }
    }

    #[test]
    fn a_label_names_what_differs_from_the_default_transport() {
        let files = FileMarks::new(&route(&[], &[]));
        let usual = with(None, None);
        for (transport, mark) in [
            (usual.clone(), ""),
            (Transport { tls: TlsPolicy::Off, ..usual.clone() }, "+tls-off"),
            (Transport { protocol: Scheme::Lmtp, ..usual.clone() }, "+lmtp"),
            (
                Transport { tls: TlsPolicy::Mandatory(Verify::HostName), ..usual.clone() },
                "+tls-must-verify",
            ),
            (Transport { tls: TlsPolicy::RequireTls, ..usual.clone() }, "+requiretls"),
            (Transport { chunking: false, ..usual.clone() }, "+data"),
            (Transport { source: SourceId(3), ..usual }, "+source-3"),
        ] {
            assert_eq!(transport_mark(&transport, &files), mark);
        }
    }

    #[test]
    fn a_label_does_not_change_when_another_file_is_configured_first() {
        let before = FileMarks::new(&route(&["/a/client.pem"], &["/a/relay.auth"]));
        let after = FileMarks::new(&route(
            &["/b/new.pem", "/a/client.pem"],
            &["/b/new.auth", "/a/relay.auth"],
        ));
        let mark = transport_mark(&with(Some(0), Some(0)), &before);
        assert_eq!(mark, transport_mark(&with(Some(1), Some(1)), &after));
        assert!(mark.starts_with("+cert-client-") && mark.contains("+auth-relay-"), "{mark}");
        let same_name = FileMarks::new(&route(&["/b/client.pem"], &[]));
        let other = transport_mark(&with(Some(0), None), &same_name);
        assert!(!mark.starts_with(&other), "{other}: the same name in another directory");
    }

    #[test]
    fn a_label_is_the_same_in_every_run() {
        assert_eq!(SiteKey::new(SiteKind::Mx, "mx:a.test:25").digest(), 0x97a5_4e78_40b5_dfe1);
        let long = "mx:".to_owned() + &"host-name.example.test,".repeat(20);
        let label = label(&long, 25, "");
        assert!(label.len() <= crate::limits::ROUTE_KEY_BYTES_MAX);
        assert!(label.ends_with("~38d7bdaf3eeda6c3bec26ba8189c6d7e:25"), "{label}");
    }

    #[test]
    fn a_next_hop_and_a_literal_with_one_label_are_two_sites() {
        let [hop, literal] = [SiteKind::NextHop, SiteKind::Literal];
        assert_ne!(SiteKey::new(hop, "[192.0.2.1]:25"), SiteKey::new(literal, "[192.0.2.1]:25"));
        assert_eq!(SiteKey::new(hop, "[192.0.2.1]:25"), SiteKey::new(hop, "[192.0.2.1]:25"));
    }
}
