//! What the certificate of the other side must prove, in each case. *Pure* except for the clock,
//! which rustls passes in.
//!
//! | connection | certificate | name | signature of the handshake |
//! | --- | --- | --- | --- |
//! | to a server, nothing required ([`AcceptAnyServerCert`]) | any, of any version and key | any, even one that DNS does not allow | not checked |
//! | to a server, verified ([`VerifiedServerCert`]) | by a trusted root, X.509 v3, within its validity period | the one asked for | checked |
//! | from a client ([`AcceptAnyClientCert`]) | any, of any version | any | checked |
//!
//! Where nothing is required, the signature would prove nothing: an active attacker would present a
//! certificate of its own (RFC 7435 3). Checking it would only refuse certificates that this
//! cryptography provider cannot read (X.509 v1, RSA below 2048 bits, P-521, Ed448), and the mail
//! would be sent in the clear instead.

use super::provider;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerMisbehaved,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// Signature schemes of old or unusual servers that the provider cannot check.
const UNCHECKED_SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED448,
    SignatureScheme::RSA_PKCS1_SHA1,
];

/// Accepts any certificate of a server.
#[derive(Debug)]
pub(super) struct AcceptAnyServerCert {
    provider: Arc<CryptoProvider>,
}

impl AcceptAnyServerCert {
    pub(super) fn new() -> AcceptAnyServerCert {
        AcceptAnyServerCert { provider: provider() }
    }
}

impl ServerCertVerifier for AcceptAnyServerCert {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.provider.signature_verification_algorithms.supported_schemes();
        schemes.extend(UNCHECKED_SCHEMES);
        schemes
    }
}

/// Accepts a certificate of a server that is valid by a trusted root and for the name asked for.
#[derive(Debug)]
pub(super) struct VerifiedServerCert {
    inner: Arc<WebPkiServerVerifier>,
}

impl VerifiedServerCert {
    pub(super) fn new(roots: Arc<RootCertStore>) -> Result<VerifiedServerCert, rustls::Error> {
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
        let inner = inner.map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(VerifiedServerCert { inner })
    }
}

impl ServerCertVerifier for VerifiedServerCert {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(version) = old_version(own) {
            return Err(CertificateError::Other(OtherError(Arc::new(version))).into());
        }
        self.inner.verify_server_cert(own, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A certificate from before X.509 v3.
#[derive(Debug, thiserror::Error)]
#[error("it is X.509 version {0}, which cannot carry the name to verify; version 3 is needed")]
struct OldVersion(u32);

fn old_version(certificate: &[u8]) -> Option<OldVersion> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let version = certificate.version();
    (version != X509Version::V3).then(|| OldVersion(version.0 + 1))
}

/// Accepts any certificate of a client that proves to have its key, and clients without one. For a
/// user with a fingerprint in the users file, any issuer will do; for a user with a certificate
/// name, the chain is verified after the handshake.
#[derive(Debug)]
pub(super) struct AcceptAnyClientCert {
    provider: Arc<CryptoProvider>,
}

impl AcceptAnyClientCert {
    pub(super) fn new() -> AcceptAnyClientCert {
        AcceptAnyClientCert { provider: provider() }
    }
}

impl ClientCertVerifier for AcceptAnyClientCert {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        let algorithms = known.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let Some((_, algorithms)) = algorithms else {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        };
        let bad_encoding = || rustls::Error::from(CertificateError::BadEncoding);
        let key = public_key(certificate).ok_or_else(bad_encoding)?;
        let key = webpki::RawPublicKeyEntity::try_from(&key).map_err(|_| bad_encoding())?;
        // In TLS 1.2 one scheme covers keys of several curves; try all of its algorithms.
        let fits = |algorithm: &&dyn rustls_pki_types::SignatureVerificationAlgorithm| {
            key.verify_signature(*algorithm, message, signed.signature()).is_ok()
        };
        match algorithms.iter().any(fits) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        let key = public_key(certificate)
            .ok_or_else(|| rustls::Error::from(CertificateError::BadEncoding))?;
        verify_tls13_signature_with_raw_key(message, &key, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The public key of a certificate of any version.
fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'a>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(SubjectPublicKeyInfoDer::from(certificate.tbs_certificate.subject_pki.raw))
}
