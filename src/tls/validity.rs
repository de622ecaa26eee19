//! The validity period of a certificate.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::path::Path;
use std::time::Duration;
use webpki::{EndEntityCert, Error, KeyUsage};

/// The validity period of a certificate, as times since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// notBefore.
    pub from: Duration,
    /// notAfter.
    pub until: Duration,
}

/// The validity period of the first certificate in a PEM file; `None` if it cannot be read.
pub fn validity(path: &Path) -> Option<Validity> {
    let own = CertificateDer::pem_file_iter(path).ok()?.next()?.ok()?;
    let own = EndEntityCert::try_from(&own).ok()?;
    // The verifier checks the time first, and its error has the bound that was violated.
    let fault = |seconds| {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let usage = KeyUsage::server_auth();
        own.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[], &[], at, usage, None, None).err()
    };
    let Some(Error::CertNotValidYet { not_before, .. }) = fault(0) else { return None };
    let Some(Error::CertExpired { not_after, .. }) = fault(u64::from(u32::MAX) * 16) else {
        return None;
    };
    Some(Validity {
        from: Duration::from_secs(not_before.as_secs()),
        until: Duration::from_secs(not_after.as_secs()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_validity_period_is_read_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cert.pem");
        let mut parameters = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&path, parameters.self_signed(&key).unwrap().pem()).unwrap();
        let expected = Validity {
            from: Duration::from_secs(1_577_836_800),
            until: Duration::from_secs(1_609_459_200),
        };
        assert_eq!(validity(&path), Some(expected));
        std::fs::write(&path, "no certificate").unwrap();
        assert_eq!(validity(&path), None);
    }
}
