//! What a certificate says of itself, as far as the libraries under TLS do not tell: the names in
//! its subjectAltName (RFC 5280 4.2.1.6), and the hash that stands for it in channel bindings (RFC
//! 5929 4.1). Whoever reads names believes them only of a certificate that somebody has vouched
//! for.

use sha2::{Digest, Sha256, Sha384, Sha512};

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[0]`: the version of a certificate.
const VERSION: u8 = 0xa0;
/// `[3]`: its extensions.
const EXTENSIONS: u8 = 0xa3;
const BOOLEAN: u8 = 0x01;
/// `[1]`, `[2]` and `[6]` of GeneralName.
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;

/// 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What a name of a certificate begins with, where one is written.
const KINDS: [(&str, u8); 3] = [("email:", EMAIL), ("dns:", DNS), ("uri:", URI)];

/// A name as `email:joe@example.com`, `dns:host.example.com` or `uri:spiffe://example.com/joe`, in
/// the form in which they are compared: domains in any case, and nothing else. `None` for what no
/// certificate should be known by: patterns, and other kinds.
pub fn certificate_name(text: &str) -> Option<Box<str>> {
    let (kind, tag) = KINDS.into_iter().find(|(kind, _)| {
        text.get(..kind.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(kind))
    })?;
    let name = text.get(kind.len()..)?;
    let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain || name.contains('*') && tag != URI {
        return None;
    }
    let name = match tag {
        EMAIL => {
            let (local, domain) = name.rsplit_once('@')?;
            if local.is_empty() || domain.is_empty() {
                return None;
            }
            format!("{local}@{}", domain.to_ascii_lowercase())
        }
        DNS => name.trim_end_matches('.').to_ascii_lowercase(),
        _ => name.to_owned(),
    };
    let name = Some(name).filter(|name| !name.is_empty())?;
    Some(format!("{kind}{name}").into())
}

/// The names of a certificate by which somebody may be known, as [`certificate_name`] has them.
pub(super) fn names_of(certificate: &[u8]) -> Vec<Box<str>> {
    let mut names = Vec::new();
    let Some(mut rest) = alternative_names(certificate) else { return names };
    while let Some((tag, value, after)) = element(rest) {
        rest = after;
        let kind = KINDS.into_iter().find(|(_, known)| *known == tag);
        let text = std::str::from_utf8(value).ok();
        if let (Some((kind, _)), Some(text)) = (kind, text) {
            names.extend(certificate_name(&format!("{kind}{text}")));
        }
    }
    names
}

/// What stands for the certificate in tls-server-end-point: its hash by the algorithm that it was
/// signed with, but SHA-256 for the broken ones. `None` where that is not defined (RFC 5929 4.1),
/// or has parameters of its own.
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (whole, _) = expect(certificate, SEQUENCE)?;
    let (_, rest) = expect(whole, SEQUENCE)?;
    let (algorithm, _) = expect(rest, SEQUENCE)?;
    let (algorithm, _) = expect(algorithm, OBJECT)?;
    // RSA with PKCS #1 (RFC 8017 A.2.4), and ECDSA (RFC 5758 3.2, RFC 3279 2.2.3).
    let (rsa, ecdsa) = (
        algorithm.strip_prefix(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01]),
        algorithm.strip_prefix(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04]),
    );
    match (rsa, ecdsa) {
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => {
            Some(Sha256::digest(certificate).to_vec())
        }
        (Some([12]), _) | (_, Some([3, 3])) => Some(Sha384::digest(certificate).to_vec()),
        (Some([13]), _) | (_, Some([3, 4])) => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// What stands in the subjectAltName of a certificate.
fn alternative_names(certificate: &[u8]) -> Option<&[u8]> {
    let (whole, _) = expect(certificate, SEQUENCE)?;
    let (mut fields, _) = expect(whole, SEQUENCE)?;
    if let Some((_, rest)) = expect(fields, VERSION) {
        fields = rest;
    }
    let (_, rest) = expect(fields, INTEGER)?;
    fields = rest;
    while let Some((tag, value, rest)) = element(fields) {
        fields = rest;
        if tag != EXTENSIONS {
            continue;
        }
        let (mut extensions, _) = expect(value, SEQUENCE)?;
        while let Some((extension, rest)) = expect(extensions, SEQUENCE) {
            extensions = rest;
            let (name, rest) = expect(extension, OBJECT)?;
            let rest = expect(rest, BOOLEAN).map_or(rest, |(_, rest)| rest);
            if name == SUBJECT_ALT_NAME {
                let (value, _) = expect(rest, OCTETS)?;
                return expect(value, SEQUENCE).map(|(names, _)| names);
            }
        }
    }
    None
}

/// The value of the element that is here and must have this tag, and what follows it.
fn expect(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, value, rest) = element(bytes)?;
    (tag == wanted).then_some((value, rest))
}

/// One element of DER (X.690 8.1): its tag, its value, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // A certificate of 4 GiB is none.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    // Tags of more than one byte are in no place where we look.
    let (value, rest) = rest.split_at_checked(length).filter(|_| tag & 0x1f != 0x1f)?;
    Some((tag, value, rest))
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
            // Whatever is left: no panic, and no name that is not there.
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
