//! TLS over `ring` streams, by rustls. The bytes of every connection pass through a
//! [`MaybeTlsStream`], a stream that may have a layer of TLS.
//!
//! [`Server`] holds the certificates of listeners, chosen by the name that the client asks for
//! (SNI). [`Client`] is for deliveries: the trusted roots, and the certificates that the relay
//! presents. Both can reload their files. It must not know SMTP: `listener` and `pool` decide when
//! to secure a connection, and what a failure means.
//!
//! A shard's handshakes run on its core; each costs some hundred microseconds. Sessions are resumed
//! by tickets that all shards can read, so a client may resume on any shard.

mod client;
mod layer;
mod names;
mod roots;
mod security;
mod server;
mod sessions;
#[cfg(test)]
mod tests;
mod transport;
mod validity;
mod verify;

pub use client::{Client, ClientFiles, Trust};
pub use names::certificate_name;
pub use roots::root_certificates;
pub use security::Security;
pub use server::Server;
pub use transport::MaybeTlsStream;
pub use validity::{Validity, validity};

use rustls::crypto::CryptoProvider;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or its content is not valid.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        cause: String,
    },
    /// Any other error.
    #[error("TLS: {0}")]
    Other(String),
}

impl TlsError {
    /// The file that cannot be used.
    pub fn file(&self) -> Option<&Path> {
        match self {
            TlsError::File { path, .. } => Some(path),
            TlsError::Other(_) => None,
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> TlsError {
        TlsError::Other(error.to_string())
    }
}

/// The cryptography provider for all TLS connections.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The supported versions: TLS 1.2 and 1.3, or only 1.3.
fn versions(only_1_3: bool) -> &'static [&'static rustls::SupportedProtocolVersion] {
    static ONLY_1_3: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    if only_1_3 { &ONLY_1_3 } else { rustls::ALL_VERSIONS }
}
