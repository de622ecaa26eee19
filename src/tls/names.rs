//! Reads a certificate: the names in its subjectAltName (RFC 5280 4.2.1.6), and its hash for
//! channel bindings (RFC 5929 4.1). *Pure.* The names mean something only if the certificate was
//! verified by a trusted root.

use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::der_parser::{Oid, oid};
use x509_parser::oid_registry::{
    OID_PKCS1_MD5WITHRSAENC, OID_PKCS1_SHA1WITHRSA, OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// RFC 3279 2.2.3.
const OID_SIG_ECDSA_WITH_SHA1: Oid<'static> = oid!(1.2.840.10045.4.1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Email,
    Dns,
    Uri,
}

/// The prefixes of certificate names in the users file.
const KINDS: [(&str, Kind); 3] =
    [("email:", Kind::Email), ("dns:", Kind::Dns), ("uri:", Kind::Uri)];

/// Normalizes a name such as `email:joe@example.com`, `dns:host.example.com` or
/// `uri:spiffe://example.com/joe` for comparison: only domains are compared in any letter case.
/// `None` for names that cannot identify a user: patterns, and other kinds.
pub fn certificate_name(text: &str) -> Option<Box<str>> {
    let (kind, of) = KINDS.into_iter().find(|(kind, _)| {
        text.get(..kind.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(kind))
    })?;
    let name = text.get(kind.len()..)?;
    let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain || name.contains('*') && of != Kind::Uri {
        return None;
    }
    let name = match of {
        Kind::Email => {
            let (local, domain) = name.rsplit_once('@')?;
            if local.is_empty() || domain.is_empty() {
                return None;
            }
            format!("{local}@{}", domain.to_ascii_lowercase())
        }
        Kind::Dns => name.trim_end_matches('.').to_ascii_lowercase(),
        Kind::Uri => name.to_owned(),
    };
    let name = Some(name).filter(|name| !name.is_empty())?;
    Some(format!("{kind}{name}").into())
}

/// The names in a certificate that can identify a user, in the form of [`certificate_name`].
pub(super) fn names_of(certificate: &[u8]) -> Vec<Box<str>> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    // A repeated extension is an error here (RFC 5280 4.2).
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::RFC822Name(text) => certificate_name(&format!("email:{text}")),
        GeneralName::DNSName(text) => certificate_name(&format!("dns:{text}")),
        GeneralName::URI(text) => certificate_name(&format!("uri:{text}")),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

/// The certificate's hash for tls-server-end-point: by the hash of its signature algorithm, or
/// SHA-256 in place of MD5 and SHA-1. `None` where RFC 5929 4.1 defines none, or the algorithm has
/// parameters.
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let algorithm = &parsed.signature_algorithm.algorithm;
    // RSA with PKCS #1 (RFC 8017 A.2.4), and ECDSA (RFC 5758 3.2, RFC 3279 2.2.3).
    let is_one_of = |known: &[&_]| known.contains(&algorithm);
    if is_one_of(&[
        &OID_PKCS1_MD5WITHRSAENC,
        &OID_PKCS1_SHA1WITHRSA,
        &OID_PKCS1_SHA256WITHRSA,
        &OID_SIG_ECDSA_WITH_SHA1,
        &OID_SIG_ECDSA_WITH_SHA256,
    ]) {
        Some(Sha256::digest(certificate).to_vec())
    } else if is_one_of(&[&OID_PKCS1_SHA384WITHRSA, &OID_SIG_ECDSA_WITH_SHA384]) {
        Some(Sha384::digest(certificate).to_vec())
    } else if is_one_of(&[&OID_PKCS1_SHA512WITHRSA, &OID_SIG_ECDSA_WITH_SHA512]) {
        Some(Sha512::digest(certificate).to_vec())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let key = KeyPair::generate_for(algorithm).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn rfc5280_4_2_1_6_names_of_a_certificate_are_read_by_their_kind() {
        let made = certificate(
            &rcgen::PKCS_ECDSA_P256_SHA256,
            vec![
                SanType::Rfc822Name("Joe@Example.COM".try_into().unwrap()),
                SanType::DnsName("Host.Example.com".try_into().unwrap()),
                SanType::DnsName("*.example.com".try_into().unwrap()),
                SanType::IpAddress([192, 0, 2, 1].into()),
                SanType::URI("spiffe://example.com/Joe".try_into().unwrap()),
            ],
        );
        assert_eq!(
            names_of(&made).iter().map(|name| &**name).collect::<Vec<_>>(),
            ["email:Joe@example.com", "dns:host.example.com", "uri:spiffe://example.com/Joe"]
        );
        assert!(names_of(&certificate(&rcgen::PKCS_ECDSA_P256_SHA256, Vec::new())).is_empty());
        for cut in 0..made.len() {
            // A truncated certificate: no panic, and no invented name.
            assert!(names_of(&made[..cut]).len() <= 3 && end_point(&made[..cut]).is_none());
        }
    }

    #[test]
    fn names_are_written_with_their_kind_and_domains_in_any_case() {
        for (text, read) in [
            ("email:Joe@Example.com", Some("email:Joe@example.com")),
            ("EMAIL:joe@a.test", Some("email:joe@a.test")),
            ("DNS:Host.Example.com.", Some("dns:host.example.com")),
            ("uri:spiffe://a.test/x", Some("uri:spiffe://a.test/x")),
            ("joe@a.test", None),
            ("email:joe", None),
            ("email:@a.test", None),
            ("dns:", None),
            ("dns:.", None),
            ("dns:*.a.test", None),
            ("dns:a b", None),
            ("ip:192.0.2.1", None),
            ("cn:joe", None),
        ] {
            assert_eq!(certificate_name(text).as_deref(), read, "{text}");
        }
    }

    #[test]
    fn rfc5929_4_1_the_hash_is_that_of_the_signature() {
        let p256 = certificate(&rcgen::PKCS_ECDSA_P256_SHA256, Vec::new());
        assert_eq!(end_point(&p256).unwrap(), Sha256::digest(&p256).to_vec());
        let p384 = certificate(&rcgen::PKCS_ECDSA_P384_SHA384, Vec::new());
        assert_eq!(end_point(&p384).unwrap(), Sha384::digest(&p384).to_vec());
        assert_eq!(end_point(&certificate(&rcgen::PKCS_ED25519, Vec::new())), None);
    }
}
