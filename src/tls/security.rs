//! What protects a connection: for the log, for events, and for checks of who the other side is.

/// What protects a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's name in the IANA registry: `TLS_AES_256_GCM_SHA384`.
    pub cipher: Box<str>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The exporter for SASL channel bindings (RFC 9266); only of TLS 1.3, because for 1.2 it
    /// cannot be determined here whether it is safe.
    pub exporter: Option<[u8; 32]>,
    /// On the server side, the hash of the server's certificate for channel bindings (RFC 5929 4),
    /// if it is defined.
    pub end_point: Option<Vec<u8>>,
    /// SHA-256 of the client's certificate, if the client was asked for one and has proven its key.
    pub client_fingerprint: Option<[u8; 32]>,
    /// The names in it, in the form of [`super::certificate_name`], if one of `tls.client_roots`
    /// has issued it.
    pub client_names: Vec<Box<str>>,
}
