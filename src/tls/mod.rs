//! TLS over `ring` streams, by rustls. Through it pass the bytes of every connection, in the clear
//! on this side: a [`MaybeTlsStream`] is a stream that may have a layer of TLS.
//!
//! [`Server`] holds the certificates of listeners, chosen by the name that the client asks for
//! (SNI). [`Client`] is the side that delivers: the trusted roots, and the certificates that the
//! relay presents. Both read their files again when asked to. It must not know SMTP: when to secure
//! a connection, and what it means when that fails, is the business of `listener` and `pool`.
//!
//! One shard's handshakes run on its core; a handshake costs some hundred microseconds. Sessions
//! are resumed by tickets that all shards can read, so it does not matter which one a client meets.

mod client;
mod layer;
mod names;
mod roots;
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
pub use server::Server;
pub use transport::{MaybeTlsStream, Security};
pub use validity::{Validity, validity};

use rustls::crypto::CryptoProvider;
use std::path::PathBuf;
use std::sync::Arc;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what would be right.
        cause: String,
    },
    /// Something that is not about one file.
    #[error("TLS: {0}")]
    Other(String),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> TlsError {
        TlsError::Other(error.to_string())
    }
}

/// The one implementation of cryptography for all TLS.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The versions that are spoken: TLS 1.2 and 1.3, or 1.3 alone.
fn versions(only_1_3: bool) -> &'static [&'static rustls::SupportedProtocolVersion] {
    static ONLY_1_3: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    if only_1_3 { &ONLY_1_3 } else { rustls::ALL_VERSIONS }
}
