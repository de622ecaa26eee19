//! A connection, with or without TLS: the same calls for both.

use super::client::Client;
use super::layer::Layer;
use super::server::Server;
use super::{TlsError, Trust};
use crate::ring::{Interrupter, RecvBuf, Stream};
use rustls::{Connection, ServerConnection};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// The end of TLS may take so long to send.
const FINISH_WAIT: Duration = Duration::from_secs(1);

/// A TCP connection that may have a layer of TLS.
pub struct MaybeTlsStream {
    stream: Stream,
    layer: Option<Box<Layer>>,
    session_offered: bool,
}

/// What protects a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// As the IANA registry names it: `TLS_AES_256_GCM_SHA384`.
    pub cipher: Box<str>,
    /// An earlier session was taken up again.
    pub resumed: bool,
    /// The exporter that SASL ties an exchange to (RFC 9266); of TLS 1.3 only, because of 1.2 it
    /// cannot be seen here whether it is safe.
    pub exporter: Option<[u8; 32]>,
    /// At the server's end, the hash of the certificate that it has shown (RFC 5929 4), where there
    /// is one.
    pub end_point: Option<Vec<u8>>,
    /// Of the client's certificate, when it was asked for one and has its key: SHA-256.
    pub client_fingerprint: Option<[u8; 32]>,
    /// Its names, as [`super::certificate_name`] has them, if one of `tls.client_roots` vouches.
    pub client_names: Vec<Box<str>>,
}

impl MaybeTlsStream {
    /// A connection in the clear.
    pub fn new(stream: Stream) -> MaybeTlsStream {
        MaybeTlsStream { stream, layer: None, session_offered: false }
    }

    /// Answers the handshake, within `timeout` as a whole; with `asks_for_certificate` it asks the
    /// client for one.
    /// What the client sent in the clear before must have been dropped (RFC 3207 4.2).
    ///
    /// # Errors
    /// `InvalidData` with rustls's reason when the two do not agree; `TimedOut`; what the network
    /// says. The connection is of no use then.
    pub async fn accept(
        &mut self,
        server: &Server,
        asks_for_certificate: bool,
        timeout: Duration,
    ) -> io::Result<()> {
        let tls =
            ServerConnection::new(server.config(asks_for_certificate)).map_err(io::Error::other)?;
        self.secure(Connection::Server(tls), timeout).await?;
        if let Some(layer) = &mut self.layer {
            layer.look_back(server);
        }
        Ok(())
    }

    /// Begins the handshake with a server that is called `name` (a domain name, or an address),
    /// within `timeout` as a whole. `client_certificates` is the place of the certificate that
    /// it is shown if it asks for one.
    ///
    /// # Errors
    /// As [`MaybeTlsStream::accept`]; `InvalidInput` when `name` is neither.
    pub async fn connect(
        &mut self,
        client: &Client,
        trust: Trust,
        client_certificates: Option<usize>,
        name: &str,
        timeout: Duration,
    ) -> io::Result<()> {
        let (tls, session_offered) =
            client.connection(trust, client_certificates, name).map_err(|error| match error {
                TlsError::Other(words) => io::Error::new(io::ErrorKind::InvalidInput, words),
                error => io::Error::other(error),
            })?;
        self.session_offered = session_offered;
        self.secure(Connection::Client(tls), timeout).await
    }

    /// Whether the handshake offered to take up an earlier session: where it failed, or what
    /// followed it, that may be the reason.
    pub fn offered_session(&self) -> bool {
        self.session_offered
    }

    async fn secure(&mut self, tls: Connection, timeout: Duration) -> io::Result<()> {
        let mut layer = Box::new(Layer::new(tls));
        layer.shake_hands(&mut self.stream, timeout).await?;
        self.layer = Some(layer);
        Ok(())
    }

    /// What protects it; `None` in the clear.
    pub fn security(&self) -> Option<Security> {
        self.layer.as_ref().map(|layer| layer.security())
    }

    /// As [`Stream::recv`]; `InvalidData` also for bytes that are no TLS.
    pub async fn recv(&mut self, buffer: &mut RecvBuf, timeout: Duration) -> io::Result<usize> {
        match &mut self.layer {
            None => self.stream.recv(buffer, timeout).await,
            Some(layer) => layer.recv(&mut self.stream, buffer, timeout).await,
        }
    }

    /// As [`Stream::try_recv`].
    pub fn try_recv(&mut self, buffer: &mut RecvBuf) -> io::Result<Option<usize>> {
        match &mut self.layer {
            None => self.stream.try_recv(buffer),
            Some(layer) => layer.try_recv(&mut self.stream, buffer),
        }
    }

    /// As [`Stream::send_all`].
    pub async fn send_all(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        match &mut self.layer {
            None => self.stream.send_all(bytes, timeout).await,
            Some(layer) => layer.send_all(&mut self.stream, bytes, timeout).await,
        }
    }

    /// Gives memory back while nothing is under way.
    pub fn release(&mut self) {
        if let Some(layer) = &mut self.layer {
            layer.release();
        }
    }

    /// The other end.
    pub fn peer_address(&self) -> SocketAddr {
        self.stream.peer_address()
    }

    /// This end.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_address()
    }

    /// As [`Stream::interrupter`].
    pub fn interrupter(&self) -> Interrupter {
        self.stream.interrupter()
    }

    /// As [`Stream::close`], with the end of TLS before it.
    pub async fn close(mut self) {
        if let Some(layer) = &mut self.layer {
            layer.finish(&mut self.stream, FINISH_WAIT).await;
        }
        self.stream.close().await;
    }
}
