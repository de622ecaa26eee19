//! Drives rustls over a stream: TLS records on one side, plain bytes on the other. It opens no
//! socket.

use super::security::Security;
use super::server::Server;
use crate::ring::{self, RecvBuf, Stream};
use rustls::{CertificateError, Connection, HandshakeKind, ProtocolVersion};
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::time::Duration;

/// Buffer for received bytes before decryption: holds the largest record with its header.
const CIPHER_BYTES: usize = 18 * 1024;
/// Plain bytes that are encrypted and sent at once.
const SEND_BYTES: usize = 64 * 1024;

/// The state of one connection's TLS.
pub(super) struct Layer {
    tls: Connection,
    cipher: RecvBuf,
    outgoing: Vec<u8>,
    ended: bool,
    client_names: Vec<Box<str>>,
    end_point: Option<Vec<u8>>,
}

impl Layer {
    pub(super) fn new(mut tls: Connection) -> Layer {
        // No limit in rustls: `send_all` sends each part before it encrypts the next.
        tls.set_buffer_limit(None);
        let cipher = RecvBuf::with_capacity(CIPHER_BYTES);
        Layer {
            tls,
            cipher,
            outgoing: Vec::new(),
            ended: false,
            client_names: Vec::new(),
            end_point: None,
        }
    }

    /// Performs the handshake, within `timeout` as a whole. `InvalidData` when it fails; an alert
    /// has been sent then.
    pub(super) async fn shake_hands(
        &mut self,
        stream: &mut Stream,
        timeout: Duration,
    ) -> io::Result<()> {
        let until = ring::now() + timeout;
        let left = || {
            let left = until.saturating_duration_since(ring::now());
            if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
        };
        while self.tls.is_handshaking() {
            self.flush(stream, left()?).await?;
            if !self.tls.is_handshaking() {
                break;
            }
            if self.cipher.filled().is_empty() && !self.fill(stream, left()?).await? {
                let text = "the other side closed the connection during the TLS handshake";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            if let Err(error) = self.decrypt() {
                // Send the alert with the reason.
                let _ = self.flush(stream, left()?).await;
                return Err(error);
            }
        }
        self.flush(stream, left()?).await
    }

    /// After a server's handshake: notes the channel binding of the certificate that was presented,
    /// and the names in the client's certificate, if there is one.
    pub(super) fn note_certificates(&mut self, server: &Server) {
        let Connection::Server(tls) = &self.tls else { return };
        self.client_names = server.names_of_client(tls.peer_certificates().unwrap_or_default());
        self.end_point = server.end_point(tls.server_name());
    }

    pub(super) async fn recv(
        &mut self,
        stream: &mut Stream,
        buffer: &mut RecvBuf,
        timeout: Duration,
    ) -> io::Result<usize> {
        loop {
            if let Some(count) = self.take(buffer)? {
                return Ok(count);
            }
            if !self.cipher.filled().is_empty() {
                self.decrypt()?;
                continue;
            }
            self.flush(stream, timeout).await?;
            self.fill(stream, timeout).await?;
        }
    }

    pub(super) fn try_recv(
        &mut self,
        stream: &mut Stream,
        buffer: &mut RecvBuf,
    ) -> io::Result<Option<usize>> {
        loop {
            if let Some(count) = self.take(buffer)? {
                return Ok(Some(count));
            }
            if self.cipher.filled().is_empty() {
                match stream.try_recv(&mut self.cipher)? {
                    None => return Ok(None),
                    Some(0) => self.end()?,
                    Some(_) => {}
                }
            }
            if !self.cipher.filled().is_empty() {
                self.decrypt()?;
            }
        }
    }

    pub(super) async fn send_all(
        &mut self,
        stream: &mut Stream,
        bytes: &[u8],
        timeout: Duration,
    ) -> io::Result<()> {
        for part in bytes.chunks(SEND_BYTES) {
            self.tls.writer().write_all(part)?;
            self.flush(stream, timeout).await?;
        }
        Ok(())
    }

    /// Sends close_notify.
    pub(super) async fn finish(&mut self, stream: &mut Stream, timeout: Duration) {
        self.tls.send_close_notify();
        let _ = self.flush(stream, timeout).await;
    }

    /// Releases memory while the connection is idle.
    pub(super) fn release(&mut self) {
        self.cipher.release();
    }

    pub(super) fn security(&self) -> Security {
        let version = match self.tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        let suite = self.tls.negotiated_cipher_suite().map(|suite| suite.suite());
        let cipher = suite.and_then(|suite| suite.as_str()).unwrap_or("unknown");
        // rustls writes TLS13_ for TLS 1.3 suites; RFC 8446 writes TLS_.
        let cipher = match cipher.strip_prefix("TLS13_") {
            Some(rest) => format!("TLS_{rest}"),
            None => cipher.to_owned(),
        };
        let resumed = self.tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let exporter = (version == "TLSv1.3")
            .then(|| {
                let (label, nothing) = (b"EXPORTER-Channel-Binding", Some(&[][..]));
                self.tls.export_keying_material([0; 32], label, nothing).ok()
            })
            .flatten();
        let client_fingerprint = match &self.tls {
            Connection::Server(tls) => tls
                .peer_certificates()
                .and_then(<[_]>::first)
                .map(|certificate| Sha256::digest(certificate).into()),
            Connection::Client(_) => None,
        };
        Security {
            version,
            cipher: cipher.into(),
            resumed,
            exporter,
            end_point: self.end_point.clone(),
            client_fingerprint,
            client_names: self.client_names.clone(),
        }
    }

    /// Takes plain bytes that are already decrypted. `Some(0)` at the end, with or without
    /// close_notify: SMTP marks the end of messages itself.
    fn take(&mut self, buffer: &mut RecvBuf) -> io::Result<Option<usize>> {
        match buffer.fill_from(&mut self.tls.reader()) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }

    /// Receives records; false at the end of the stream.
    async fn fill(&mut self, stream: &mut Stream, timeout: Duration) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        match stream.recv(&mut self.cipher, timeout).await? {
            0 => {
                self.end()?;
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Tells rustls that the stream has ended.
    fn end(&mut self) -> io::Result<()> {
        self.ended = true;
        let mut nothing: &[u8] = &[];
        self.tls.read_tls(&mut nothing).map(drop)
    }

    /// Passes received records to rustls.
    fn decrypt(&mut self) -> io::Result<()> {
        let mut rest = self.cipher.filled();
        let before = rest.len();
        self.tls.read_tls(&mut rest)?;
        let used = before - rest.len();
        self.cipher.consume(used);
        self.tls.process_new_packets().map_err(invalid_data)?;
        if used == 0 {
            // Not expected; prevents an endless loop if rustls neither takes nor refuses a record.
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "rustls did not accept a TLS record",
            ));
        }
        Ok(())
    }

    /// Sends what rustls has to send.
    async fn flush(&mut self, stream: &mut Stream, timeout: Duration) -> io::Result<()> {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        while self.tls.wants_write() {
            self.tls.write_tls(&mut outgoing)?;
        }
        if !outgoing.is_empty() {
            stream.send_all(&outgoing, timeout).await?;
            outgoing.clear();
            if outgoing.capacity() <= 2 * SEND_BYTES {
                self.outgoing = outgoing;
            }
        }
        Ok(())
    }
}

/// Says what is wrong with a certificate in words; rustls shows names of its own.
fn invalid_data(error: rustls::Error) -> io::Error {
    match error {
        rustls::Error::InvalidCertificate(fault) => {
            let text = format!("the certificate cannot be verified: {}", words(&fault));
            io::Error::new(io::ErrorKind::InvalidData, text)
        }
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

fn words(fault: &CertificateError) -> String {
    let text = match fault {
        CertificateError::Other(reason) => return words_of_verifier(&reason.to_string()),
        CertificateError::UnknownIssuer => "no trusted root has issued it (tls.roots)",
        CertificateError::Expired => "it has expired",
        CertificateError::NotValidYet => "it is not valid yet",
        CertificateError::NotValidForName => "it is for another name",
        CertificateError::Revoked => "it was revoked",
        CertificateError::BadSignature => "its signature is wrong",
        CertificateError::BadEncoding => "it is malformed",
        CertificateError::InvalidPurpose => "it is not for this purpose",
        // These say what was expected, and what was found.
        other => return other.to_string(),
    };
    text.to_owned()
}

/// webpki's names for what operators meet.
fn words_of_verifier(reason: &str) -> String {
    match reason {
        "CaUsedAsEndEntity" => {
            "it is the certificate of an authority (self-signed?), which cannot be a server's"
                .into()
        }
        other => other.to_owned(),
    }
}
