//! The client side of SMTP, as far as the source needs it: commands out, reply codes in.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest reply, in bytes; a longer one is an error.
const REPLY_BYTES_MAX: usize = 65_536;

/// A connection after EHLO.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Bytes received; those before `read` are consumed.
    input: Vec<u8>,
    read: usize,
    /// The relay offers PIPELINING.
    pub pipelining: bool,
}

/// Why a session could not be opened.
#[derive(Debug)]
pub enum NotOpened {
    /// The connection could not be opened, or broke.
    Broken(String),
    /// The relay answered with this code at this step.
    Refused(&'static str, u16),
}

impl Connection {
    /// Connects, reads the greeting and sends EHLO.
    ///
    /// # Errors
    /// See [`NotOpened`].
    pub async fn open(to: SocketAddr) -> Result<Self, NotOpened> {
        let broken = |e: std::io::Error| NotOpened::Broken(format!("connect: {}", e.kind()));
        let stream = TcpStream::connect(to).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let input = Vec::with_capacity(4096);
        let mut connection = Self { stream, input, read: 0, pipelining: false };
        let lost = |step: &str| NotOpened::Broken(format!("{step}: connection lost"));
        match connection.reply().await {
            Some((220, _)) => {}
            Some((code, _)) => return Err(NotOpened::Refused("greeting", code)),
            None => return Err(lost("greeting")),
        }
        connection.send(b"EHLO source.sender.test\r\n").await.ok_or_else(|| lost("ehlo"))?;
        match connection.reply().await {
            Some((250, pipelining)) => connection.pipelining = pipelining,
            Some((code, _)) => return Err(NotOpened::Refused("ehlo", code)),
            None => return Err(lost("ehlo")),
        }
        Ok(connection)
    }

    /// Sends all of `bytes`; `None` when the connection is lost.
    pub async fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }

    /// The code of the next reply; `None` when the connection is lost or it is not SMTP.
    pub async fn code(&mut self) -> Option<u16> {
        self.reply().await.map(|(code, _)| code)
    }

    /// Reads the next reply with all its lines: its code, and whether one of them is PIPELINING.
    async fn reply(&mut self) -> Option<(u16, bool)> {
        let mut pipelining = false;
        let mut bytes = 0;
        loop {
            let line = self.line().await?;
            // RFC 5321 4.2.1: three digits, then '-' on all lines but the last.
            let code: u16 = std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()?;
            let text = line.get(4..).unwrap_or_default().trim_ascii_end();
            pipelining |= text.eq_ignore_ascii_case(b"PIPELINING");
            if line.get(3) != Some(&b'-') {
                return Some((code, pipelining));
            }
            bytes += line.len();
            if bytes > REPLY_BYTES_MAX {
                return None;
            }
        }
    }

    async fn line(&mut self) -> Option<&[u8]> {
        let mut searched = self.read;
        let end = loop {
            if let Some(at) = memchr::memchr(b'\n', self.input.get(searched..)?) {
                break searched + at;
            }
            searched = self.input.len();
            if self.read == self.input.len() {
                self.input.clear();
                (self.read, searched) = (0, 0);
            } else if self.input.len() - self.read > REPLY_BYTES_MAX {
                return None;
            }
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        };
        let begin = std::mem::replace(&mut self.read, end + 1);
        self.input.get(begin..end)
    }
}
