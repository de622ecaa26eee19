//! What the keys about TLS mean: `[tls]`, and `tls` of listeners and routes.

use super::error::Place;
use super::table::{Report, Table};
use super::unit::Fault;
use super::written::read_path;
use super::{Certificate, DeliveryTls, Listener, ListenerTls, Roots, Tls};
use std::path::PathBuf;

/// The most certificates; each is read at every reload.
const CERTIFICATES_MAX: usize = 1000;

/// `[tls]` and `[[tls.certificate]]`.
pub(super) fn tls(mut table: Table) -> Tls {
    let only_1_3 = table.parsed("min_version", false, |text| match text {
        "1.2" => Ok(false),
        "1.3" => Ok(true),
        _ => Err(format!("{text:?} is not a version; write \"1.2\" or \"1.3\"")),
    });
    let roots = table.parsed("roots", Roots::System, read_roots);
    let client_roots = table.parsed("client_roots", None, |text| read_path(text).map(Some));
    let mut certificates: Vec<Certificate> =
        certificate(&mut table, ["cert", "key"], false).into_iter().collect();
    table.none_of("certificate").know(&["cert", "key"]);
    let place = table.place_of("certificate");
    let tables = table.tables("certificate").unwrap_or_default();
    if tables.len() > CERTIFICATES_MAX {
        table.fault(&place, "certificate", format!("at most {CERTIFICATES_MAX} certificates"));
    }
    for mut one in tables {
        certificates.extend(certificate(&mut one, ["cert", "key"], true));
        one.end();
    }
    table.end();
    Tls { certificates, only_1_3, roots, client_roots }
}

/// `roots`: whom to believe.
pub(super) fn read_roots(text: &str) -> Result<Roots, Fault> {
    match text {
        "system" => Ok(Roots::System),
        path => read_path(path).map(Roots::File),
    }
}

/// The keys `cert` and `key`, or what they are called here: they go together.
pub(super) fn certificate(
    table: &mut Table,
    [cert_key, key_key]: [&'static str; 2],
    needed: bool,
) -> Option<Certificate> {
    let (cert_place, key_place) = (table.place_of(cert_key), table.place_of(key_key));
    let read = |text: &str| read_path(text).map(Some);
    let cert: Option<PathBuf> = table.parsed(cert_key, None, read);
    let key: Option<PathBuf> = table.parsed(key_key, None, read);
    let flags = if cert_key == "cert" { [", --tls-cert", ", --tls-key"] } else { [""; 2] };
    let together = format!(
        "a certificate ({cert_key}{}) and its key ({key_key}{}) go together",
        flags[0], flags[1]
    );
    match (cert, key) {
        (Some(cert), Some(key)) => return Some(Certificate { cert, key }),
        (Some(_), None) if key_place == Place::Default => {
            table.fault(&cert_place, cert_key, format!("without a key; {together}"));
        }
        (None, Some(_)) if cert_place == Place::Default => {
            table.fault(&key_place, key_key, format!("without a certificate; {together}"));
        }
        (None, None) if needed && cert_place == Place::Default && key_place == Place::Default => {
            let what = "missing; write cert = \"FILE.pem\" and key = \"FILE.key\"";
            table.fault(&table.place, cert_key, what);
        }
        // Not there, or said already.
        _ => {}
    }
    None
}

/// `tls` of a listener.
pub(super) fn read_listener_tls(text: &str) -> Result<ListenerTls, Fault> {
    match text {
        "off" => Ok(ListenerTls::Off),
        "offer" => Ok(ListenerTls::Offer),
        "require" => Ok(ListenerTls::Require),
        "implicit" => Ok(ListenerTls::Implicit),
        _ => Err(format!(
            "{text:?} is not a way; write \"off\", \"offer\", \"require\" or \"implicit\""
        )),
    }
}

/// `tls` of a route.
pub(super) fn read_delivery_tls(text: &str) -> Result<DeliveryTls, Fault> {
    match text {
        "off" => Ok(DeliveryTls::Off),
        "may" => Ok(DeliveryTls::May),
        "must" => Ok(DeliveryTls::Must),
        "must-verify" => Ok(DeliveryTls::Verify),
        _ => Err(format!(
            "{text:?} is not a way; write \"off\", \"may\", \"must\" or \"must-verify\""
        )),
    }
}

/// A listener that needs a certificate when there is none.
pub(super) fn check(tls: &Tls, listeners: &[Listener], report: &Report) {
    let needs =
        |listener: &&Listener| matches!(listener.tls, ListenerTls::Require | ListenerTls::Implicit);
    if tls.certificates.is_empty()
        && let Some(listener) = listeners.iter().find(needs)
    {
        let what = format!(
            "the listener on {} needs a certificate, and there is none; set tls.cert and tls.key \
             (or --tls-cert and --tls-key), or its tls = \"offer\"",
            listener.address
        );
        report.relation(["listener.tls", "tls.cert"], what);
    }
}

/// As the file writes it.
pub(super) fn show_listener_tls(tls: ListenerTls) -> &'static str {
    match tls {
        ListenerTls::Off => "off",
        ListenerTls::Offer => "offer",
        ListenerTls::Require => "require",
        ListenerTls::Implicit => "implicit",
    }
}

impl DeliveryTls {
    /// As the file writes it.
    pub fn name(self) -> &'static str {
        match self {
            DeliveryTls::Off => "off",
            DeliveryTls::May => "may",
            DeliveryTls::Must => "must",
            DeliveryTls::Verify => "must-verify",
        }
    }
}
