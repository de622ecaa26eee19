//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): a proxy that is trusted
//! sends first of all which client it is.
//!
//! What follows the header is the client's, and may be TLS: so no byte behind it is read here.

use super::log_throttle::Warning;
use crate::ring::{self, RecvBuf, Stream};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The whole header must come within this time, however many pieces it comes in.
const HEADER_WAIT: Duration = Duration::from_secs(5);
/// The shortest header of version 1; one of version 2 is longer.
const SHORTEST: usize = "PROXY UNKNOWN\r\n".len();
/// Longest header of version 1, as its specification has it.
const TEXT_BYTES_MAX: usize = 107;
/// Longest header of version 2 that is read; addresses take 36 bytes, the rest is extras.
const BINARY_BYTES_MAX: usize = 2048;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8; 6] = b"PROXY ";

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// So many bytes more belong to it for certain.
    Short(usize),
    /// It is complete: the client; `None` when that is the proxy itself, or not known.
    Whole(Option<SocketAddr>),
    /// It is none.
    Malformed,
}

/// Why there is no header.
#[derive(Debug)]
pub(super) enum Fault {
    /// Something else came, or not all of it in time, or the end.
    Wrong(Warning),
    /// Closed without data: a load-balancer health check.
    Silent,
    /// The connection broke.
    Lost(io::Error),
}

/// Reads the header of a connection that has just come.
pub(super) async fn receive(stream: &mut Stream) -> Result<Option<SocketAddr>, Fault> {
    receive_until(stream, ring::now() + HEADER_WAIT).await
}

async fn receive_until(stream: &mut Stream, until: Instant) -> Result<Option<SocketAddr>, Fault> {
    let mut bytes = Vec::new();
    loop {
        let missing = match read(&bytes) {
            Header::Whole(client) => return Ok(client),
            Header::Short(missing) => missing,
            Header::Malformed => return Err(Fault::Wrong(Warning::Malformed)),
        };
        let mut buffer = RecvBuf::with_capacity(missing);
        let left = until.saturating_duration_since(ring::now());
        let late = Fault::Wrong(Warning::Late(HEADER_WAIT));
        if left.is_zero() {
            return Err(late);
        }
        match stream.recv(&mut buffer, left).await {
            Ok(0) if bytes.is_empty() => return Err(Fault::Silent),
            Ok(0) => return Err(Fault::Wrong(Warning::CutShort)),
            Ok(_) => bytes.extend_from_slice(buffer.filled()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(late),
            Err(error) => return Err(Fault::Lost(error)),
        }
    }
}

/// Whether `bytes`, the first of a connection, begin a header.
pub(super) fn is_header(bytes: &[u8]) -> bool {
    let words: [&[u8]; 3] = [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];
    bytes.starts_with(SIGNATURE) || words.iter().any(|word| bytes.starts_with(word))
}

/// Reads the bytes that have arrived so far.
pub fn read(bytes: &[u8]) -> Header {
    let begins_as = |start: &[u8]| {
        let length = start.len().min(bytes.len());
        start.get(..length) == bytes.get(..length)
    };
    if !begins_as(WORD) && !begins_as(SIGNATURE) {
        return Header::Malformed;
    }
    if bytes.len() < SHORTEST {
        return Header::Short(SHORTEST - bytes.len());
    }
    if begins_as(WORD) { read_text(bytes) } else { read_binary(bytes) }
}

fn read_text(bytes: &[u8]) -> Header {
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        return match bytes {
            _ if bytes.contains(&b'\n') || bytes.len() >= TEXT_BYTES_MAX => Header::Malformed,
            [.., b'\r'] => Header::Short(1),
            _ => Header::Short(2),
        };
    };
    let words: Vec<&str> = match std::str::from_utf8(line) {
        Ok(line) => line.split(' ').collect(),
        Err(_) => return Header::Malformed,
    };
    let client = match words.as_slice() {
        [_, "UNKNOWN", ..] => return Header::Whole(None),
        [_, "TCP4", source, _, port, _] => {
            source.parse::<Ipv4Addr>().ok().map(IpAddr::V4).zip(port.parse().ok())
        }
        [_, "TCP6", source, _, port, _] => {
            source.parse::<Ipv6Addr>().ok().map(IpAddr::V6).zip(port.parse().ok())
        }
        _ => None,
    };
    match client {
        Some((address, port)) => Header::Whole(Some(SocketAddr::new(address, port))),
        None => Header::Malformed,
    }
}

fn read_binary(bytes: &[u8]) -> Header {
    let Some((_, rest)) = bytes.split_at_checked(SIGNATURE.len()) else {
        return Header::Malformed;
    };
    let (command, family, length, body) = match rest {
        [command, family, high, low, body @ ..] => {
            (*command, *family, usize::from(u16::from_be_bytes([*high, *low])), body)
        }
        _ => return Header::Short(SIGNATURE.len() + 4 - bytes.len()),
    };
    if length > BINARY_BYTES_MAX {
        return Header::Malformed;
    }
    if body.len() < length {
        return Header::Short(length - body.len());
    }
    match (command, family) {
        // The proxy's own connection: a health check.
        (0x20, _) => Header::Whole(None),
        (0x21, 0x11) => match body {
            [a, b, c, d, _, _, _, _, high, low, ..] => {
                let address = Ipv4Addr::new(*a, *b, *c, *d);
                let port = u16::from_be_bytes([*high, *low]);
                Header::Whole(Some(SocketAddr::from((address, port))))
            }
            _ => Header::Malformed,
        },
        (0x21, 0x21) => {
            let address = body.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes));
            let port = body.get(32..).and_then(|rest| rest.first_chunk::<2>());
            match address.zip(port) {
                Some((address, port)) => {
                    let port = u16::from_be_bytes(*port);
                    Header::Whole(Some(SocketAddr::from((address, port))))
                }
                None => Header::Malformed,
            }
        }
        // Something else than TCP.
        (0x21, _) => Header::Whole(None),
        _ => Header::Malformed,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::ring::Listener;

    #[test]
    fn a_header_that_comes_byte_by_byte_has_no_more_time_than_another() {
        const LONG: Duration = Duration::from_secs(10);
        let settings = ring::Settings { depth: 64, preempt: Duration::from_millis(1) };
        let body = || async {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let mut proxy = Stream::connect(listener.address(), None, LONG).await.unwrap();
            let mut here = listener.accept().await.unwrap();
            ring::spawn("proxy", async move {
                for byte in b"PROXY UNKNOWN and so on, for ever and ever" {
                    if proxy.send_all(&[*byte], LONG).await.is_err() {
                        return;
                    }
                    ring::sleep(Duration::from_millis(100)).await;
                }
            });
            let begun = ring::now();
            let met = receive_until(&mut here, begun + Duration::from_millis(500)).await;
            assert!(matches!(met, Err(Fault::Wrong(Warning::Late(_)))), "{met:?}");
            assert!(
                ring::now().saturating_duration_since(begun) < Duration::from_secs(3),
                "{:?}",
                ring::now().saturating_duration_since(begun)
            );
        };
        ring::start(&[None], &settings, move |_| body()).unwrap().join().unwrap();
    }

    /// Byte by byte, as much as is asked for each time: what is never asked for is not read.
    fn whole(bytes: &[u8]) -> Header {
        let mut read_so_far = 0;
        loop {
            match read(&bytes[..read_so_far]) {
                Header::Short(missing) => {
                    assert!(missing > 0);
                    read_so_far += missing;
                    assert!(read_so_far <= bytes.len(), "read beyond {}", bytes.escape_ascii());
                }
                header => return header,
            }
        }
    }

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, body].concat()
    }

    #[test]
    fn a_line_says_who_the_client_is() {
        for (line, client) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.7 4321 25\r\n", Some("192.0.2.1:4321")),
            ("PROXY TCP6 2001:db8::1 ::1 4321 25\r\n", Some("[2001:db8::1]:4321")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        ] {
            let client = client.map(|text| text.parse().unwrap());
            let more = format!("{line}EHLO x\r\n");
            assert!(is_header(more.as_bytes()), "{line}");
            assert_eq!(whole(more.as_bytes()), Header::Whole(client), "{line}");
        }
    }

    #[test]
    fn a_block_says_who_the_client_is() {
        let four = [192, 0, 2, 1, 198, 51, 100, 7, 0x10, 0xe1, 0, 25];
        let mut six = [0; 36];
        six[..2].copy_from_slice(&[0x20, 1]);
        six[32..34].copy_from_slice(&[0x10, 0xe1]);
        for (bytes, client) in [
            (binary(0x21, 0x11, &four), Some("192.0.2.1:4321")),
            (binary(0x21, 0x11, &[&four[..], &[4, 0, 1, 0]].concat()), Some("192.0.2.1:4321")),
            (binary(0x21, 0x21, &six), Some("[2001::]:4321")),
            (binary(0x20, 0, b""), None),
            (binary(0x21, 0x31, &[0; 216]), None),
        ] {
            let client = client.map(|text| text.parse().unwrap());
            assert_eq!(whole(&[&bytes[..], b"EHLO"].concat()), Header::Whole(client));
            assert!(is_header(&bytes));
        }
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "EHLO bar.example\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 4321\r\n",
            "PROXY TCP4 2001:db8::1 ::1 4321 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 99999 25\r\n",
            "PROXY UNKNOWN\nEHLO x\r\n",
            "PROXY TCP5 a b c d\r\n",
        ] {
            assert_eq!(whole(text.as_bytes()), Header::Malformed, "{text}");
        }
        let endless = format!("PROXY UNKNOWN{}", " ".repeat(200));
        assert_eq!(whole(endless.as_bytes()), Header::Malformed);
        for bytes in [
            binary(0x31, 0x11, &[0; 12]),
            binary(0x22, 0x11, &[0; 12]),
            binary(0x21, 0x11, &[0; 8]),
            binary(0x21, 0x21, &[0; 12]),
            [SIGNATURE, &[0x21, 0x11, 0xff, 0xff][..]].concat(),
        ] {
            assert_eq!(whole(&bytes), Header::Malformed, "{}", bytes.escape_ascii());
        }
    }
}
