//! A connection with or without TLS, with the same methods for both.

use super::client::Client;
use super::layer::Layer;
use super::security::Security;
use super::server::Server;
use super::{TlsError, Trust};
use crate::ring::{Interrupter, RecvBuf, Stream};
use rustls::{Connection, ServerConnection};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest time to send close_notify.
const FINISH_WAIT: Duration = Duration::from_secs(1);

/// A TCP connection that may have a layer of TLS.
pub struct MaybeTlsStream {
    stream: Stream,
    layer: Option<Box<Layer>>,
    session_offered: bool,
}

impl MaybeTlsStream {
    /// A connection in the clear.
    pub fn new(stream: Stream) -> MaybeTlsStream {
        MaybeTlsStream { stream, layer: None, session_offered: false }
    }

    /// Performs the server's handshake, within `timeout` as a whole; with `asks_for_certificate`,
    /// the client is asked for one. The caller must have dropped all that the client sent in the
    /// clear (RFC 3207 4.2).
    ///
    /// # Errors
    /// `InvalidData` with rustls's reason when the handshake fails; `TimedOut`; errors of the
    /// network. The connection cannot be used after that.
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
            layer.note_certificates(server);
        }
        Ok(())
    }

    /// Performs the client's handshake with the server `name` (a domain name or an address), within
    /// `timeout` as a whole. `client_certificates` is the index of the certificate for a server
    /// that asks for one.
    ///
    /// # Errors
    /// As [`MaybeTlsStream::accept`]; `InvalidInput` when `name` is not valid.
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
                TlsError::Other(text) => io::Error::new(io::ErrorKind::InvalidInput, text),
                error => io::Error::other(error),
            })?;
        self.session_offered = session_offered;
        self.secure(Connection::Client(tls), timeout).await
    }

    /// Whether the handshake offered to resume a session: if it failed, or the connection failed
    /// right after it, that may be the reason.
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

    /// As [`Stream::recv`]; also `InvalidData` for bytes that are not valid TLS.
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

    /// Releases memory while the connection is idle.
    pub fn release(&mut self) {
        if let Some(layer) = &mut self.layer {
            layer.release();
        }
    }

    /// The address of the other side.
    pub fn peer_address(&self) -> SocketAddr {
        self.stream.peer_address()
    }

    /// The address of this side.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_address()
    }

    /// As [`Stream::interrupter`].
    pub fn interrupter(&self) -> Interrupter {
        self.stream.interrupter()
    }

    /// As [`Stream::close`], after close_notify.
    pub async fn close(mut self) {
        if let Some(layer) = &mut self.layer {
            layer.finish(&mut self.stream, FINISH_WAIT).await;
        }
        self.stream.close().await;
    }
}
